//! What to install and how.

use serde::{Deserialize, Serialize};

use crate::{CommandLine, ContentKey, Timestamp, WorkflowId};

/// How a workflow is started on the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum BootMethod {
    /// A Linux kernel with its initial RAM disks.
    Kernel {
        /// The kernel.
        kernel: ContentKey,
        /// Initial RAM disks, loaded in this order.
        #[serde(default)]
        initrd: Vec<ContentKey>,
        /// What the kernel is told; the agent adds `pureboot.url`, `pureboot.mac` and `pureboot.boot`.
        #[serde(default)]
        command_line: CommandLine,
    },
}

impl BootMethod {
    /// The piece of content whose delivery means that the installer has been started.
    pub fn starts_with(&self) -> &ContentKey {
        match self {
            Self::Kernel { kernel, .. } => kernel,
        }
    }

    /// All the content that the machine loads, each with the field that names it.
    pub fn content(&self) -> Vec<(String, &ContentKey)> {
        match self {
            Self::Kernel { kernel, initrd, command_line: _ } => {
                let initrd = initrd.iter().enumerate();
                let initrd = initrd.map(|(at, key)| (format!("initrd[{at}]"), key));
                std::iter::once(("kernel".to_owned(), kernel)).chain(initrd).collect()
            }
        }
    }
}

/// What to install and how; assigned to nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workflow {
    /// The id that nodes name in `workflow_id`.
    pub id: WorkflowId,
    /// Its name, for people; unique.
    pub name: String,
    /// What a reader should know.
    pub description: String,
    /// How it is started.
    #[serde(flatten)]
    pub boot: BootMethod,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Rises by one with every change.
    pub version: u64,
}
