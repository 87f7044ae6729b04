//! What a sync is asked for and what it tells, as the management API writes it (API.md §5).

use pureboot_protocol::{Category, ContentKey, PluginId, Timestamp};
use serde::{Deserialize, Serialize};

use super::housekeeper::Gone;

/// Errors that one outcome tells; what is more is counted only.
pub const ERRORS_MAX: usize = 20;

/// What a sync is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Order {
    /// Has the controller send the manifest even if it is the same, and reads again what is held.
    pub force: bool,
    /// Only content of these categories; without any, all.
    pub categories: Vec<Category>,
}

/// How a sync ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The cache holds what the manifest names.
    Completed,
    /// Too many others wait for their turn.
    Skipped,
    /// Something is missing; the errors say why.
    Failed,
}

/// What came of a sync.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// Objects that it brought.
    pub files_synced: u64,
    /// Bytes of content that came over the line.
    pub bytes_transferred: u64,
    /// Bytes that did not have to, because the site had the same pieces in other objects.
    #[serde(default)]
    pub bytes_reused: u64,
    /// What went wrong, at most [`ERRORS_MAX`].
    pub errors: Vec<String>,
    /// From its beginning to its end.
    pub duration_seconds: f64,
}

impl Outcome {
    /// The outcome in one line.
    pub fn summary(&self) -> String {
        let first = self.errors.first().map(String::as_str).unwrap_or_default();
        match (self.status, self.errors.len()) {
            (Status::Completed, _) => "completed".to_owned(),
            (Status::Skipped, _) => "skipped".to_owned(),
            (Status::Failed, 0 | 1) => format!("failed: {first}"),
            (Status::Failed, errors) => format!("failed: {first}, and {} more", errors - 1),
        }
    }
}

/// What a person wants gone from the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Eviction {
    /// What the manifest does not name and nobody has asked for within the site's retention.
    Expired,
    /// What is over the limits, what was used longest ago first.
    Lru,
    /// Everything but boot loaders, what is pinned, what was put there by hand and what is being read.
    All,
}

/// An order to let content go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvictionOrder {
    /// What is to go.
    pub policy: Eviction,
    /// Only of this category.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<Category>,
    /// At most so many objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_evict: Option<usize>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evicted {
    /// Objects that went.
    pub evicted_count: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Objects that stay because the manifest names them and the controller, from which they would come back, is away.
    #[serde(default)]
    pub required_count: u64,
}

/// What a pin, or its end, means for a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinState {
    /// The name.
    pub name: ContentKey,
    /// Whether it is pinned now.
    pub pinned: bool,
    /// Whether it stands for something at this site.
    pub held: bool,
    /// Whether the manifest names it, so that it comes if it is not here.
    pub in_manifest: bool,
}

/// How far a sync is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// When it began.
    pub started_at: Timestamp,
    /// Objects to be fetched.
    pub files_total: u64,
    /// Objects that have been.
    pub files_done: u64,
    /// Bytes to be fetched.
    pub bytes_total: u64,
    /// Bytes that have been, or had been before.
    pub bytes_done: u64,
    /// Bytes that have come over the line since it began, of whatever content.
    #[serde(default)]
    pub bytes_received: u64,
    /// What is being fetched.
    pub current: Option<String>,
}

/// The most names that [`GivenUp::left_out`] lists.
pub const LEFT_OUT_MAX: usize = 500;

/// What has left the cache, or is not fetched ahead, because a policy of the site gives it up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    /// Names that the manifest has and that are not here, with whose word that is; the first of them.
    pub left_out: Vec<LeftOut>,
    /// Names that have left since the start, the latest last.
    pub gone: Vec<Gone>,
}

/// A name that is not fetched ahead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The name.
    pub name: ContentKey,
    /// Whose word it is.
    pub by: PluginId,
}

/// How the site's content is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The manifest's version; none before the controller has given one.
    pub manifest_version: Option<u64>,
    /// A newer one that the controller has told of and that is not here yet.
    #[serde(default)]
    pub manifest_coming: Option<u64>,
    /// When the controller last said that this is the manifest; none since the start.
    pub manifest_confirmed_at: Option<Timestamp>,
    /// Whether the manifest is older than it should be. Content is served all the same.
    pub manifest_expired: bool,
    /// Names in the manifest.
    pub names_wanted: u64,
    /// Names of it that do not stand for what they should.
    pub names_missing: u64,
    /// Names of it that are not here because a policy of the site gives them up; they come when a machine asks.
    #[serde(default)]
    pub names_left_out: u64,
    /// Bytes of content that have come over the line since the start.
    #[serde(default)]
    pub received_bytes: u64,
    /// Bytes of content that did not have to, because the site had the same pieces in other objects.
    #[serde(default)]
    pub reused_bytes: u64,
    /// The sync that is under way.
    pub progress: Option<Progress>,
    /// When the last one ended.
    pub last_sync_at: Option<Timestamp>,
    /// How.
    pub last: Option<Outcome>,
    /// When the schedule has the next one; none without a schedule.
    #[serde(default)]
    pub next_sync_at: Option<Timestamp>,
}

impl State {
    /// The state in one line; `ago` says how long ago something was.
    pub fn describe(&self, ago: impl Fn(Timestamp) -> String) -> String {
        let Some(version) = self.manifest_version else {
            return "the controller has given no manifest yet".to_owned();
        };
        let expired = if self.manifest_expired { " (EXPIRED)" } else { "" };
        let wanted = self.names_wanted;
        let manifest = format!("{wanted} names of manifest {version}{expired}");
        let here = match (self.names_missing, self.names_left_out) {
            (0, 0) => format!("all {manifest} are here"),
            (0, left_out) => {
                format!("all {manifest} are here but {left_out}, which policies give up")
            }
            (missing, _) => format!("{missing} of {manifest} are missing"),
        };
        let asked = match self.manifest_confirmed_at {
            Some(at) => format!("asked {} ago", ago(at)),
            None => "not asked since the start".to_owned(),
        };
        let progress = match &self.progress {
            Some(Progress { current: Some(_), files_done, files_total, .. }) => {
                format!(", fetching {} of {files_total}", files_done + 1)
            }
            // Once the last file is here, a sync still looks for newer content and makes room.
            _ => String::new(),
        };
        format!("{here}, {asked}{progress}")
    }

    /// The last sync and the next in one line; none where neither is known.
    pub fn describe_syncs(&self, ago: impl Fn(Timestamp) -> String) -> Option<String> {
        let last = self
            .last
            .as_ref()
            .zip(self.last_sync_at)
            .map(|(last, at)| format!("last {} ago: {}", ago(at), last.summary()));
        let next = self.next_sync_at.map(|at| format!("next by the schedule at {at}"));
        let words: Vec<String> = last.into_iter().chain(next).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }

    /// What a person should know of.
    pub fn complaint(&self) -> Option<String> {
        let last = self.last.as_ref().filter(|last| last.status == Status::Failed)?;
        (self.names_missing > 0)
            .then(|| format!("content is missing: the last sync {}", last.summary()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(files_done: u64, current: Option<&str>) -> State {
        State {
            manifest_version: Some(7),
            manifest_coming: None,
            manifest_confirmed_at: None,
            manifest_expired: false,
            names_wanted: 2,
            names_missing: 2 - files_done,
            names_left_out: 0,
            received_bytes: 0,
            reused_bytes: 0,
            progress: Some(Progress {
                started_at: Timestamp::from_unix_ms(0),
                files_total: 2,
                files_done,
                bytes_total: 2,
                bytes_done: files_done,
                bytes_received: files_done,
                current: current.map(ToOwned::to_owned),
            }),
            last_sync_at: None,
            last: None,
            next_sync_at: None,
        }
    }

    #[test]
    fn files_are_counted_while_they_come_and_never_beyond_the_last() {
        let told = |state: State| state.describe(|_| String::new());
        assert!(told(state(0, Some("images/a"))).ends_with(", fetching 1 of 2"));
        assert!(told(state(1, Some("images/b"))).ends_with(", fetching 2 of 2"));
        let last = told(state(2, None));
        assert!(!last.contains("fetching"), "the sync is still under way: {last}");
    }
}
