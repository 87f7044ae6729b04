//! What a site needs to render the answer files of one node, with the controller or without it.
//!
//! An [`AnswerSheet`] names texts of templates by their SHA-256, so that a text that the site holds is not sent again. It travels as a
//! text whose digest the controller signs together with a nonce that the agent drew for this one question:
//!
//! `signature = Ed25519(key, SheetAnswer::DOMAIN ++ nonce ++ LF ++ digest)` (RFC 8032 §5.1)
//!
//! so that no answer can be given twice, and "nothing has changed" is as much the controller's word as a new sheet is. Sheets hold secrets;
//! nothing here shows them to `Debug`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hex::hex_bytes;
use crate::{
    ContentHash, FileName, Mac, NodeId, Secret, Signature, SiteId, TemplateId, TemplateKind,
    WorkflowId,
};

hex_bytes! {
    /// 16 random bytes that make a question unlike any other, written as 32 lower-case hexadecimal digits.
    Nonce[16] = "a nonce"
}

impl Nonce {
    /// A nonce of bytes that the caller drew.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// `POST /agents/answers`: a question for the sheet of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SheetQuestion {
    /// The node.
    pub node_id: NodeId,
    /// What the answer has to be signed with.
    pub nonce: Nonce,
    /// The digest of the sheet that the site holds, which need not be sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<ContentHash>,
    /// Texts that the site holds; at most [`SheetQuestion::TEXTS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub texts_held: Vec<ContentHash>,
}

impl SheetQuestion {
    /// How many texts a question may name.
    pub const TEXTS_MAX: usize = 256;
}

/// The answer to a [`SheetQuestion`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SheetAnswer {
    /// The SHA-256 of the payload.
    pub digest: ContentHash,
    /// The signature of [`SheetAnswer::signed_bytes`].
    pub signature: Signature,
    /// [`crate::PublicKey::id`] of the key that signed, for people.
    pub key_id: String,
    /// An [`AnswerSheet`] in JSON; none where the site holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// Texts that the site does not hold. Where they are too many for one answer, these are the first of them, and the next question brings
    /// more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<String>,
}

impl SheetAnswer {
    /// What is signed before the nonce.
    pub const DOMAIN: &str = "pureboot answers 1\n";

    /// The bytes that the controller signs and the agent checks.
    pub fn signed_bytes(nonce: &Nonce, digest: &ContentHash) -> Vec<u8> {
        format!("{}{nonce}\n{digest}", Self::DOMAIN).into_bytes()
    }
}

impl fmt::Debug for SheetAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SheetAnswer")
            .field("digest", &self.digest)
            .field("texts", &self.texts.len())
            .finish_non_exhaustive()
    }
}

/// Everything that the answer files of one node are made of, but for the texts of templates and what only the site knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerSheet {
    /// The site that it is for, and no other.
    pub site_id: SiteId,
    /// The node.
    pub node_id: NodeId,
    /// Its boot interface.
    pub mac_address: Mac,
    /// What the node is installed with; none if with nothing.
    pub workflow_id: Option<WorkflowId>,
    /// The workflow's answer files.
    pub files: BTreeMap<FileName, AnswerFile>,
    /// What templates see of the node, as scope and name: `node`, `group`, `site`, `workflow`, `meta`.
    pub values: BTreeMap<String, BTreeMap<String, AnswerValue>>,
    /// The secrets that the templates name, and no others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Secret>,
}

/// One answer file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerFile {
    /// The template that it is rendered from.
    pub template_id: TemplateId,
    /// The template's version.
    pub version: u64,
    /// Who reads it.
    pub kind: TemplateKind,
    /// The template's name, which is one of those in `texts`.
    pub template: String,
    /// The template and those that it includes, by name.
    pub texts: BTreeMap<String, ContentHash>,
    /// The secrets that these name.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub secrets: BTreeSet<String>,
}

/// What a name stands for in a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AnswerValue {
    /// A text.
    Text(String),
    /// A number.
    Number(u64),
    /// Several texts.
    List(Vec<String>),
}

impl From<String> for AnswerValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h23_neither_a_sheet_nor_its_envelope_shows_a_secret() {
        let answer = SheetAnswer {
            digest: ContentHash::from_digest([1; 32]),
            signature: Signature::from_bytes([2; 64]),
            key_id: String::new(),
            payload: Some("correct horse".to_owned()),
            texts: vec!["correct horse".to_owned()],
        };
        assert!(!format!("{answer:?}").contains("horse"));
        let sheet = AnswerSheet {
            site_id: SiteId::from_random([1; 16]),
            node_id: NodeId::from_random([1; 16]),
            mac_address: "52:54:00:00:00:01".parse().expect("an address"),
            workflow_id: None,
            files: BTreeMap::new(),
            values: BTreeMap::new(),
            secrets: BTreeMap::from([("root".to_owned(), Secret::new("correct horse".to_owned()))]),
        };
        assert!(!format!("{sheet:?}").contains("horse"));
    }

    #[test]
    fn what_is_signed_names_question_and_answer() {
        let nonce = Nonce::from_random([0xab; 16]);
        let digest = ContentHash::from_digest([0xcd; 32]);
        let bytes = SheetAnswer::signed_bytes(&nonce, &digest);
        let expected = format!("pureboot answers 1\n{}\n{}", "ab".repeat(16), "cd".repeat(32));
        assert_eq!(String::from_utf8(bytes), Ok(expected));
    }
}
