//! What policies are asked and what they answer, in this crate's own words.
//!
//! The contract has versions and each has types of its own; these here are what all of them are turned into and from. They are
//! values that can be written down and read again, so that a call can be repeated later.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use pureboot_protocol::{ContentKey, Mac};
use serde::{Deserialize, Serialize};

/// Names and values.
pub type Vars = BTreeMap<String, String>;

/// What the machine's firmware runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arch {
    /// PC with BIOS.
    X86Bios,
    /// 32-bit PC with UEFI.
    X86Uefi,
    /// 64-bit PC with UEFI.
    X64Uefi,
    /// 32-bit ARM with UEFI.
    Arm32Uefi,
    /// 64-bit ARM with UEFI.
    Arm64Uefi,
    /// 64-bit RISC-V with UEFI.
    Riscv64Uefi,
    /// Anything else, and what the machine did not say.
    Other,
}

/// The site, as every policy may see it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Site {
    /// Its id.
    pub id: String,
    /// Seconds since the controller was last reached; none while it is.
    pub offline_for: Option<u32>,
    /// What its wall clock is ahead of UTC, in minutes.
    pub utc_offset_minutes: i16,
}

/// What the site knows of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Node {
    /// Its id.
    pub id: String,
    /// Its boot interface.
    pub mac: Mac,
    /// Its name, for people.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Where it is in its life, in the controller's word.
    pub state: String,
    /// The name of the workflow that is assigned.
    #[serde(default)]
    pub workflow: Option<String>,
    /// Its group.
    #[serde(default)]
    pub group: Option<String>,
    /// Its tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Its attributes.
    #[serde(default)]
    pub attributes: Vars,
    /// Seconds since the controller last confirmed this.
    #[serde(default)]
    pub age: u32,
    /// Past its time to live.
    #[serde(default)]
    pub stale: bool,
}

/// Everything that a policy decides by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BootFacts {
    /// The machine's boot interface.
    pub mac: Mac,
    /// What its firmware runs on.
    #[serde(default = "arch_default")]
    pub arch: Arch,
    /// DHCP option 93 as it came.
    #[serde(default)]
    pub arch_code: Option<u16>,
    /// Its address.
    #[serde(default)]
    pub client_ip: Option<IpAddr>,
    /// What the firmware says of the machine.
    #[serde(default)]
    pub hardware: Vars,
    /// What the site knows of it, if anything.
    #[serde(default)]
    pub node: Option<Node>,
    /// The site.
    #[serde(default)]
    pub site: Site,
    /// Unix seconds.
    #[serde(default)]
    pub now: u32,
    /// Boot requests of this machine within ten minutes, this one included.
    #[serde(default = "attempt_default")]
    pub attempt: u32,
}

fn arch_default() -> Arch {
    Arch::Other
}

fn attempt_default() -> u32 {
    1
}

impl BootFacts {
    /// A first question of a machine of which nothing is known.
    pub fn new(mac: Mac) -> Self {
        Self {
            mac,
            arch: arch_default(),
            arch_code: None,
            client_ip: None,
            hardware: Vars::new(),
            node: None,
            site: Site::default(),
            now: 0,
            attempt: attempt_default(),
        }
    }
}

/// What a machine is to boot, by a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Its disk.
    LocalDisk,
    /// The discovery image.
    Discovery,
    /// What it booted the last time that the controller was asked.
    LastKnown,
    /// The workflow of this name; the machine is to be installed.
    Workflow(String),
    /// A file that the site holds.
    Chain(ContentKey),
    /// This script, which has been checked.
    Script(String),
    /// Nothing for so many seconds, and then it asks again.
    Hold(u32),
    /// Nothing, and its console says why.
    Refuse(String),
}

impl fmt::Display for Action {
    /// For the log: without a script's text, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LocalDisk => f.write_str("local-disk"),
            Self::Discovery => f.write_str("discovery"),
            Self::LastKnown => f.write_str("last-known"),
            Self::Workflow(name) => write!(f, "workflow {name}"),
            Self::Chain(key) => write!(f, "chain {key}"),
            Self::Script(text) => write!(f, "script of {} bytes", text.len()),
            Self::Hold(seconds) => write!(f, "hold for {seconds} s"),
            Self::Refuse(reason) => write!(f, "refuse: {reason}"),
        }
    }
}

/// What one policy decided.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Decision {
    /// None: it has no opinion.
    pub action: Option<Action>,
    /// Template variables to add or replace.
    pub set: Vars,
    /// Why, in one line.
    pub reason: Option<String>,
}

/// What a script is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// The machine's disk.
    LocalDisk,
    /// The discovery image.
    Discovery,
    /// An installation.
    Workflow,
    /// A file that the site holds.
    Chain,
    /// A policy's own script.
    PolicyScript,
    /// To wait.
    Hold,
    /// To say why the machine is not served.
    Refuse,
    /// Anything else.
    Other,
}

/// A piece of content that the site holds or may hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CacheItem {
    /// Its name.
    pub key: ContentKey,
    /// Its size in KiB, if it is known.
    #[serde(default)]
    pub size_kib: Option<u32>,
    /// The site has to keep it: the manifest requires it, or machines cannot boot without it.
    #[serde(default)]
    pub required: bool,
    /// A node or a workflow of the site needs it.
    #[serde(default)]
    pub assigned: bool,
    /// How often it was asked for.
    #[serde(default)]
    pub hits: u32,
    /// Seconds since it was last used; none if never.
    #[serde(default)]
    pub idle: Option<u32>,
}

/// How full the site's cache is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CacheContext {
    /// The site.
    pub site: Site,
    /// Unix seconds.
    pub now: u32,
    /// What it holds, in MiB.
    pub used_mib: u32,
    /// What it may hold, in MiB.
    pub limit_mib: u32,
}

/// What a policy wants done with a piece of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheVerdict {
    /// Whether the site keeps it at all.
    pub store: bool,
    /// For how many seconds; none: without end.
    #[serde(default)]
    pub ttl: Option<u32>,
    /// Whether it stays when room is made, within the site's budget for that.
    #[serde(default)]
    pub pin: bool,
    /// 0 goes first, 255 last.
    pub priority: u8,
}

/// The site's record of its nodes, as a policy with the capability `nodes` may read it. It never asks the controller.
pub trait NodeCache: Send + Sync {
    /// The node with this boot interface.
    fn get(&self, mac: Mac) -> Option<Node>;

    /// The nodes of a group, in the order of their hardware addresses; more than [`NODES_MAX`] are cut.
    fn in_group(&self, group: &str) -> Vec<Node>;
}

/// What a policy asked the record of nodes for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodesAsked {
    /// The node with this boot interface.
    Mac(Mac),
    /// The nodes of this group.
    Group(String),
}

/// What a policy was told of nodes: with it the call can be repeated when they are others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodesSaid {
    /// The question.
    pub asked: NodesAsked,
    /// The answer.
    pub nodes: Vec<Node>,
}

/// The most nodes of a group that a policy is told.
pub const NODES_MAX: usize = 256;
