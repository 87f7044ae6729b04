//! `GET /api/v1/agent/answers` and `/api/v1/agent/answers/{mac}/{file}` on the management listener: what machines would get, without secrets.

use hyper::StatusCode;
use pureboot_protocol::{AnswerFile, BootId, FileName, Mac, Page, TemplateKind, Timestamp};
use pureboot_templates::BaseUrl;
use pureboot_templates::answer::warnings;
use serde::{Deserialize, Serialize};

use super::keeper::Answers;
use super::render::{Job, Place, content_type};
use crate::http::{CorrelationId, Response, json, problem, success};
use crate::store::StoreError;

/// A machine's answer files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SheetView {
    /// The machine.
    pub mac: Mac,
    /// Its name, if it has one.
    pub hostname: Option<String>,
    /// When the controller was asked for what they are made of.
    pub asked_at: Timestamp,
    /// Whether the secrets in them are kept here.
    pub has_secrets: bool,
    /// The boot session that may have the secrets; none before an installer was given.
    pub granted_to: Option<BootId>,
    /// The files.
    pub files: Vec<FileView>,
}

/// One answer file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileView {
    /// Its name.
    pub name: FileName,
    /// Who reads it.
    pub kind: TemplateKind,
    /// The template that it is made from.
    pub template: String,
    /// The template's version.
    pub version: u64,
    /// The names of the secrets in it.
    pub secrets: Vec<String>,
}

/// A file as a machine would get it, with its secrets hidden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// What it is on the wire.
    pub content_type: String,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

impl Answers {
    /// Lists what is kept.
    pub async fn get_sheets(&self, id: &CorrelationId) -> Response {
        match self.views().await {
            Ok(data) => {
                let total = data.len().try_into().unwrap_or(u64::MAX);
                json(StatusCode::OK, &Page { success: true, data, total, next_cursor: None })
            }
            Err(error) => unread(&error, id),
        }
    }

    async fn views(&self) -> Result<Vec<SheetView>, StoreError> {
        let mut views = Vec::new();
        for held in self.shelf.all().await? {
            let mac = held.sheet.mac_address;
            let granted_to = self.shelf.granted(mac).await?.map(|grant| grant.session);
            let record = self.store.node(mac).and_then(|node| node.known);
            let hostname = record.and_then(|known| known.record.hostname);
            let file = |(name, file): (&FileName, &AnswerFile)| FileView {
                name: name.clone(),
                kind: file.kind,
                template: file.template.clone(),
                version: file.version,
                secrets: file.secrets.iter().cloned().collect(),
            };
            let (asked_at, has_secrets) = (held.asked_at, held.is_whole());
            let files = held.sheet.files.iter().map(file).collect();
            views.push(SheetView { mac, hostname, asked_at, has_secrets, granted_to, files });
        }
        Ok(views)
    }

    /// Renders a file of a machine, at `base`, where machines reach this agent.
    pub async fn get_file(
        &self,
        mac: &str,
        file: &str,
        base: &BaseUrl,
        id: &CorrelationId,
    ) -> Response {
        let Ok(mac) = mac.parse::<Mac>() else {
            let detail = format!("'{mac}' is no MAC address");
            return problem(StatusCode::BAD_REQUEST, "invalid_mac", detail, id);
        };
        let held = match self.shelf.held(mac).await {
            Ok(held) => held,
            Err(error) => return unread(&error, id),
        };
        let missing = |detail| problem(StatusCode::NOT_FOUND, "answer_not_found", detail, id);
        let (Some(held), Some(node)) = (held, self.store.node(mac)) else {
            return missing(format!("no answer files of {mac} are kept here"));
        };
        let name = file.parse::<FileName>().ok();
        let Some((name, made)) = name.and_then(|name| held.sheet.files.get_key_value(&name)) else {
            let files: Vec<_> = held.sheet.files.keys().map(FileName::as_str).collect();
            let detail = format!("{mac} has no answer file '{file}'; it has {}", files.join(", "));
            return missing(detail);
        };
        let texts = match self.shelf.texts(&held.sheet).await {
            Ok(texts) => texts,
            Err(error) => return unread(&error, id),
        };
        let boot = match self.shelf.granted(mac).await {
            Ok(grant) => grant.map_or_else(|| BootId::from_random([0; 16]), |it| it.session),
            Err(error) => return unread(&error, id),
        };
        let place = Place { node: &node, boot, base };
        let text = match Job::new(&held, (name, made), &texts, place, None) {
            Ok(job) => self.render(job).await,
            Err(error) => Err(error),
        };
        match text {
            Ok(text) => success(Rendered {
                warnings: warnings(made.kind, &text),
                content_type: content_type(made.kind).to_owned(),
                text,
            }),
            Err(error) => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                problem(status, "answer_broken", error.to_string(), id)
            }
        }
    }
}

fn unread(error: &StoreError, id: &CorrelationId) -> Response {
    let detail = format!("the answer files cannot be looked up: {error}");
    problem(StatusCode::SERVICE_UNAVAILABLE, "storage_busy", detail, id)
}
