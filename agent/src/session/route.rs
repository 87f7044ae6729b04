//! `GET /api/v1/agent/boots?mac=&limit=&cursor=&since=` on the management listener.

use std::num::NonZeroUsize;
use std::str::FromStr;

use hyper::StatusCode;
use pureboot_protocol::{BootId, FieldError, Mac, Timestamp};
use serde::{Deserialize, Serialize};

use super::recorder::Recorder;
use super::render::BootView;
use crate::http::{CorrelationId, Response, Target, invalid, json};

/// The most sessions on one page.
pub const PAGE_LEN_MAX: usize = 500;
/// How many there are when nobody says.
pub const PAGE_LEN: usize = 10;
/// How many bytes of JSON a page may have, but for its last session: the command line reads 1 MiB.
const PAGE_BYTES_MAX: usize = 512 << 10;

/// One page of sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootsPage {
    /// Always true.
    pub success: bool,
    /// The sessions, the newest first.
    pub data: Vec<BootView>,
    /// How many there are in all that were asked for.
    pub total: u64,
    /// What to ask for the next page with, which has older ones; none on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// What to ask with as `since` for what has changed later. It begins anew when the agent does.
    pub revision: u64,
}

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    mac: Option<Mac>,
    limit: Option<NonZeroUsize>,
    /// The oldest of the page before.
    cursor: Option<BootId>,
    /// Only what has changed after this revision.
    since: Option<u64>,
}

impl Query {
    fn parse(target: &Target) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let query = Self {
            mac: field(target, "mac", "a MAC address", &mut errors),
            limit: field(target, "limit", "a number from 1", &mut errors),
            cursor: field(target, "cursor", "the next_cursor of a page", &mut errors),
            since: field(target, "since", "the revision of a page", &mut errors),
        };
        if errors.is_empty() { Ok(query) } else { Err(errors) }
    }
}

fn field<T: FromStr>(
    target: &Target,
    name: &str,
    expected: &str,
    errors: &mut Vec<FieldError>,
) -> Option<T> {
    let text = target.query(name)?;
    let value = text.parse().ok();
    if value.is_none() {
        let message = format!("'{text}' is not {expected}");
        errors.push(FieldError { field: name.to_owned(), message });
    }
    value
}

/// Answers with a page; `name_of` knows the machines' names.
pub fn get_boots(
    recorder: &Recorder,
    name_of: impl Fn(Mac) -> Option<String>,
    target: &Target,
    now: Timestamp,
    id: &CorrelationId,
) -> Response {
    match Query::parse(target) {
        Ok(query) => json(StatusCode::OK, &page(recorder, name_of, &query, now)),
        Err(errors) => invalid(errors, id),
    }
}

fn page(
    recorder: &Recorder,
    name_of: impl Fn(Mac) -> Option<String>,
    query: &Query,
    now: Timestamp,
) -> BootsPage {
    recorder.with_sessions(|sessions| {
        let since = query.since.unwrap_or(0);
        // Revisions are counted anew by each run: one from the future is an earlier run's.
        let since = if since > sessions.revision() { 0 } else { since };
        let asked_for = sessions.newest_first().filter(|(session, changed)| {
            query.mac.is_none_or(|mac| session.mac == Some(mac))
                && (query.since.is_none() || since == 0 || *changed > since)
        });
        let asked_for: Vec<_> = asked_for.map(|(session, _)| session).collect();
        let total = asked_for.len();
        let skipped = query.cursor.map_or(0, |cursor| {
            asked_for.iter().position(|session| session.id == cursor).map_or(total, |at| at + 1)
        });
        let limit = query.limit.map_or(PAGE_LEN, NonZeroUsize::get).min(PAGE_LEN_MAX);
        let mut data = Vec::new();
        let mut bytes = 0;
        for session in asked_for.iter().skip(skipped).take(limit) {
            if bytes >= PAGE_BYTES_MAX {
                break;
            }
            let view = BootView::new((*session).clone(), session.mac.and_then(&name_of), now);
            bytes += serde_json::to_vec(&view).map_or(0, |json| json.len());
            data.push(view);
        }
        let is_last = skipped + data.len() >= total;
        let next_cursor = data.last().filter(|_| !is_last).map(|view| view.session.id.to_string());
        let revision = sessions.revision();
        BootsPage { success: true, data, total: total as u64, next_cursor, revision }
    })
}

#[cfg(test)]
mod tests;
