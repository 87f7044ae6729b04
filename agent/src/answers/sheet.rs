//! What of the controller's answer is believed. Values in, values out.
//!
//! A sheet that is refused changes nothing: the one that is held stands (FAULTS U8).

use std::collections::BTreeMap;

use pureboot_protocol::{
    AnswerFile, AnswerSheet, ContentHash, FileName, Mac, NodeId, Nonce, PublicKey, SheetAnswer,
    SiteId, TemplateId,
};
use pureboot_templates::answer::{AnswerError, BODY_LEN_MAX, Library};
use ring::signature::{ED25519, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};

/// Texts of templates by their SHA-256.
pub type Texts = BTreeMap<ContentHash, String>;

/// Why an answer is not believed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unbelieved {
    /// Somebody else has signed it, or it is the answer to another question.
    #[error("it is not signed for this question by key {pinned}, which this agent has pinned")]
    Signature {
        /// The key that was pinned when the agent joined.
        pinned: String,
    },
    /// The sheet is not the one that was signed.
    #[error("its sheet is not the one that was signed")]
    Digest,
    /// The controller says that nothing has changed, and means another sheet than the one that is held.
    #[error("it holds no sheet, and the one that is held is another one")]
    Absent,
    /// The controller has signed what this agent cannot read; what it is may be secret.
    #[error("its sheet does not fit the API (column {0})")]
    Text(usize),
    /// It is for others.
    #[error("it is the sheet of node {0}")]
    Other(NodeId),
    /// A file names a template that none of its texts is.
    #[error("{0} has no text of its own template")]
    NoTemplate(String),
    /// A text did not come.
    #[error("the text {0} of a template did not come")]
    Missing(ContentHash),
    /// The texts never come to an end.
    #[error("the texts of its templates do not come to an end")]
    Unfinished,
    /// No controller keeps templates that are longer.
    #[error("a template has {0} bytes, and {BODY_LEN_MAX} are taken")]
    Long(usize),
    /// A template does not compile here.
    #[error("{file}: {error}")]
    Broken {
        /// The answer file.
        file: String,
        /// Where and why.
        error: AnswerError,
    },
}

/// Whom a sheet has to be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// The agent's site.
    pub site: SiteId,
    /// The node.
    pub node: NodeId,
    /// Its boot interface.
    pub mac: Mac,
}

/// What an answer says about the sheet.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// The sheet that is held is the controller's last word.
    Unchanged,
    /// This is.
    Sheet(Box<AnswerSheet>),
}

/// Believes `answer` to the question with `nonce` if `key` has signed it and it is about `subject`; `held` is the digest of the sheet that the
/// site holds.
///
/// # Errors
/// What speaks against it.
pub fn believe(
    answer: &SheetAnswer,
    nonce: &Nonce,
    key: &PublicKey,
    subject: Subject,
    held: Option<ContentHash>,
) -> Result<Said, Unbelieved> {
    let bytes = SheetAnswer::signed_bytes(nonce, &answer.digest);
    UnparsedPublicKey::new(&ED25519, key.as_bytes())
        .verify(&bytes, answer.signature.as_bytes())
        .map_err(|_| Unbelieved::Signature { pinned: key.id() })?;
    let Some(payload) = &answer.payload else {
        return if held == Some(answer.digest) {
            Ok(Said::Unchanged)
        } else {
            Err(Unbelieved::Absent)
        };
    };
    if hash(payload) != answer.digest {
        return Err(Unbelieved::Digest);
    }
    // What serde says of a value may repeat it.
    let sheet: AnswerSheet = serde_json::from_slice(payload.as_bytes())
        .map_err(|error| Unbelieved::Text(error.column()))?;
    let about = Subject { site: sheet.site_id, node: sheet.node_id, mac: sheet.mac_address };
    if about != subject {
        return Err(Unbelieved::Other(sheet.node_id));
    }
    Ok(Said::Sheet(Box::new(sheet)))
}

/// The texts of an answer by what they hash to.
///
/// # Errors
/// One is longer than any template.
pub fn name_texts(texts: Vec<String>) -> Result<Texts, Unbelieved> {
    let mut named = Texts::new();
    for text in texts {
        if text.len() > BODY_LEN_MAX {
            return Err(Unbelieved::Long(text.len()));
        }
        named.insert(hash(&text), text);
    }
    Ok(named)
}

/// Checks that every file of `sheet` can be made of `texts`, before a machine waits for it.
///
/// # Errors
/// A text is missing, or a template does not compile.
pub fn check(sheet: &AnswerSheet, texts: &Texts) -> Result<(), Unbelieved> {
    for (name, file) in &sheet.files {
        let library = library(file, texts)?;
        let broken = |error| Unbelieved::Broken { file: name.as_str().to_owned(), error };
        library.check(&file.template).map_err(broken)?;
    }
    Ok(())
}

/// The templates that `file` is made of.
///
/// # Errors
/// A text is missing.
pub fn library(file: &AnswerFile, texts: &Texts) -> Result<Library, Unbelieved> {
    let mut library = Library::default();
    for (name, hash) in &file.texts {
        let text = texts.get(hash).ok_or(Unbelieved::Missing(*hash))?;
        library.insert(name.clone(), text.clone());
    }
    match library.contains(&file.template) {
        true => Ok(library),
        false => Err(Unbelieved::NoTemplate(file.template.chars().take(64).collect())),
    }
}

/// Everything that the files of `sheet` are made of.
pub fn texts_of(sheet: &AnswerSheet) -> impl Iterator<Item = ContentHash> {
    sheet.files.values().flat_map(|file| file.texts.values().copied())
}

/// The first of a workflow's answer files that `sheet` does not have, or has of another template.
pub fn lacks<'a>(
    sheet: &AnswerSheet,
    workflow: &'a BTreeMap<FileName, TemplateId>,
) -> Option<&'a FileName> {
    let is_lacking = |(name, id): &(&FileName, &TemplateId)| {
        sheet.files.get(*name).is_none_or(|file| file.template_id != **id)
    };
    workflow.iter().find(is_lacking).map(|(name, _)| name)
}

fn hash(text: &str) -> ContentHash {
    ContentHash::from_digest(Sha256::digest(text).into())
}

#[cfg(test)]
pub(super) mod tests;
