//! From a sheet to the text of a file.

use std::collections::BTreeMap;

use pureboot_protocol::{AnswerFile, BootId, FileName, Secret, TemplateKind};
use pureboot_templates::BaseUrl;
use pureboot_templates::answer::{AnswerError, Library};

use super::sheet::{Texts, Unbelieved, library};
use super::shelf::Held;
use super::values::{Shown, values};
use crate::store::CachedNode;

/// Why a file cannot be made. None of the texts tells a value.
#[derive(Debug, thiserror::Error)]
pub enum Unmade {
    /// A text is not here.
    #[error(transparent)]
    Incomplete(#[from] Unbelieved),
    /// The template asks for what this machine does not have.
    #[error("{file}: {error}")]
    Broken {
        /// The file.
        file: String,
        /// Where and why.
        error: AnswerError,
    },
}

/// A file, ready to be rendered wherever there is time.
#[derive(Debug)]
pub struct Job {
    file: FileName,
    template: String,
    library: Library,
    values: serde_json::Value,
}

/// Where and for whom a file is rendered.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The machine.
    pub node: &'a CachedNode,
    /// The boot session.
    pub boot: BootId,
    /// Where the machine reaches the agent.
    pub base: &'a BaseUrl,
}

impl Job {
    /// Puts together what `name` is rendered from; `secrets` is none where they are hidden.
    ///
    /// # Errors
    /// A text is missing.
    pub fn new(
        held: &Held,
        (name, file): (&FileName, &AnswerFile),
        texts: &Texts,
        place: Place<'_>,
        secrets: Option<&BTreeMap<String, Secret>>,
    ) -> Result<Self, Unmade> {
        let shown = secrets.map_or(Shown::Hidden, Shown::Whole);
        let values = values(&held.sheet, file, place.node, place.boot, place.base, shown);
        let library = library(file, texts)?;
        Ok(Self { file: name.clone(), template: file.template.clone(), library, values })
    }

    /// The text. It may take some 100 ms of the processor.
    ///
    /// # Errors
    /// The template asks for what is not there.
    pub fn render(&self) -> Result<String, Unmade> {
        self.library
            .render(&self.template, &self.values)
            .map_err(|error| Unmade::Broken { file: self.file.as_str().to_owned(), error })
    }
}

/// What a file of `kind` is on the wire. Installers compare none of these; tools and people do.
pub fn content_type(kind: TemplateKind) -> &'static str {
    match kind {
        TemplateKind::Kickstart | TemplateKind::Preseed => "text/plain",
        TemplateKind::Autoinstall | TemplateKind::CloudInit => "text/cloud-config",
        TemplateKind::Script => "text/x-shellscript",
    }
}
