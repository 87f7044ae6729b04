//! What the management listener says about the cache (API.md §5). Nothing of this is on the boot listener.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Request, StatusCode};
use pureboot_protocol::{CachePolicy, Category, ContentKey, Page, SiteConfig, Timestamp};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::http::{CorrelationId, Response, Target, chunks, json, problem, success};
use crate::sync::verdicts::{Opinion, VerdictCounts};

use super::{Cache, ContentHash, Entry, Expected, FillError};

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// How long nothing of an upload may come. It may be of any length and take as long as it likes.
const STALL_TIME: Duration = Duration::from_secs(30);

/// The longest page of a list, and the usual one (API.md: `limit` ≤ 500).
const PAGE_LEN_MAX: usize = 500;

/// A name and what it stands for, as the API writes it.
#[derive(Debug, Serialize, Deserialize)]
pub struct EntryView {
    /// What it is for.
    pub category: Category,
    /// The name within the category.
    pub path: String,
    /// Its length.
    pub size_bytes: u64,
    /// Its SHA-256, as hexadecimal digits.
    pub sha256: String,
    /// When this site got it.
    pub updated_at: Timestamp,
    /// When it was last asked for, or else came.
    pub used_at: Timestamp,
    /// Why it does not leave by itself.
    pub kept: Kept,
    /// What the site's policies say of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Opinion>,
    /// When it leaves, if nobody asks for it until then and its room is not needed before.
    pub leaves_at: Option<Timestamp>,
}

/// Why content stays, the strongest reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// A person has pinned it.
    Pinned,
    /// Machines begin with it.
    Loader,
    /// The manifest names it; it may leave for content that a machine waits for.
    Manifest,
    /// The manifest names it no more; it leaves when it has been unused for long, or when room is needed.
    Retention,
    /// A person has put it there.
    ByHand,
    /// A policy of the site pins it.
    Policy,
}

impl Kept {
    /// The reason in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Pinned => "pinned by you",
            Self::Loader => "loader",
            Self::Manifest => "manifest",
            Self::Retention => "until unused for long",
            Self::ByHand => "added by hand",
            Self::Policy => "pinned by policy",
        }
    }
}

/// What came of reading content again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Objects that are what they should be.
    pub sound_count: u64,
    /// Names whose objects were not, and are in quarantine.
    pub damaged: Vec<ContentKey>,
    /// Those of them that the manifest names: they are fetched again at once, or as soon as the controller is in reach.
    #[serde(default)]
    pub coming: Vec<ContentKey>,
}

/// A name that stands for nothing any more, and what that has brought.
#[derive(Debug, Serialize, Deserialize)]
pub struct Removed {
    /// What it stood for.
    #[serde(flatten)]
    pub entry: EntryView,
    /// Bytes that are free; none where another name stands for the same.
    pub freed_bytes: u64,
    /// Whether the manifest names it, so that it comes back.
    pub in_manifest: bool,
}

/// What the manifest says of a name that is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// It does not name it.
    None,
    /// It names it, and the controller can be asked for it again.
    Replaceable,
    /// It names it, and the controller is away.
    Irreplaceable,
}

impl EntryView {
    fn of(entry: Entry, kept: Kept) -> Self {
        Self {
            category: entry.key.category(),
            path: entry.key.path().to_owned(),
            size_bytes: entry.size_bytes,
            sha256: entry.sha256.to_string(),
            updated_at: entry.modified,
            used_at: entry.used_at,
            kept,
            policy: None,
            leaves_at: None,
        }
    }
}

#[derive(Debug, Serialize)]
struct CacheView<'a> {
    total_size_bytes: u64,
    max_size_bytes: Option<u64>,
    usage_percent: Option<f64>,
    policy: CachePolicy,
    patterns: &'a [String],
    #[serde(flatten)]
    word: Word,
    categories: BTreeMap<Category, CategoryView>,
    node_cache: NodeCache,
    policies: Option<VerdictCounts>,
}

/// What of [`get_cache`]'s answer a person is shown.
#[derive(Debug, Deserialize)]
pub struct StatsView {
    /// Bytes of all objects.
    pub total_size_bytes: u64,
    /// Bytes that they may have.
    pub max_size_bytes: Option<u64>,
    /// What of that they have.
    pub usage_percent: Option<f64>,
    /// What the site fetches ahead.
    pub policy: CachePolicy,
    /// Which names, with a policy that goes by them.
    pub patterns: Vec<String>,
    /// By which word of the controller.
    #[serde(flatten)]
    pub word: Word,
    /// By category.
    pub categories: BTreeMap<Category, CategoryView>,
    /// What is known of nodes.
    pub node_cache: NodeCache,
    /// What the site's policies want of content; none where none is asked.
    #[serde(default)]
    pub policies: Option<VerdictCounts>,
}

/// The word of the controller by which content is kept, and what is known to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// The version of the site's settings. Others come with the next heartbeat.
    #[serde(default)]
    pub settings_version: u64,
    /// When a heartbeat was last answered, so that these were the settings; none since the start.
    pub settings_heard_at: Option<Timestamp>,
    /// The manifest's version; none before the controller has given one.
    pub manifest_version: Option<u64>,
    /// A newer one that the controller has told of and that is not here yet.
    pub manifest_coming: Option<u64>,
}

/// What one category holds, as the API writes it.
#[derive(Debug, Serialize, Deserialize)]
pub struct CategoryView {
    /// Names.
    pub count: u64,
    /// Bytes of what they stand for.
    pub size_bytes: u64,
}

/// What the agent knows of nodes, which is kept elsewhere and told with the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCache {
    /// Nodes.
    pub count: u64,
    /// When the one was learnt that has not been renewed for longest.
    pub oldest_entry: Option<Timestamp>,
}

/// `GET /api/v1/agent/cache`.
pub fn get_cache(
    cache: &Cache,
    site: &SiteConfig,
    word: Word,
    node_cache: NodeCache,
    policies: Option<VerdictCounts>,
) -> Response {
    let stats = cache.stats();
    let max_size_bytes = site.cache_max_size_gb.map(|gb| u64::from(gb) * 1_000_000_000);
    let percent = |max: u64| 100.0 * stats.size_bytes as f64 / max as f64;
    let categories = stats.categories.iter().map(|(category, held)| {
        (*category, CategoryView { count: held.entries, size_bytes: held.size_bytes })
    });
    success(CacheView {
        total_size_bytes: stats.size_bytes,
        max_size_bytes,
        usage_percent: max_size_bytes.filter(|max| *max > 0).map(percent),
        policy: site.cache_policy,
        patterns: &site.cache_patterns,
        word,
        categories: categories.collect(),
        node_cache,
        policies,
    })
}

/// `GET /api/v1/agent/cache/entries?category=&limit=&cursor=`; the cursor is the last name of the page before.
pub fn get_entries(
    cache: &Cache,
    why: impl Fn(&ContentKey) -> (Kept, Option<Opinion>),
    departures: &HashMap<ContentHash, Timestamp>,
    target: &Target,
    id: &CorrelationId,
) -> Response {
    let category = match target.query("category").map(|word| word.parse::<Category>()).transpose() {
        Ok(category) => category,
        Err(error) => {
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            return problem(status, "invalid_category", error.to_string(), id);
        }
    };
    let limit = target.query("limit").and_then(|text| text.parse().ok()).unwrap_or(PAGE_LEN_MAX);
    let cursor = target.query("cursor").and_then(|text| text.parse::<ContentKey>().ok());
    let mut entries = cache.entries();
    entries.retain(|entry| category.is_none_or(|category| entry.key.category() == category));
    let total = entries.len() as u64;
    entries.retain(|entry| cursor.as_ref().is_none_or(|cursor| entry.key > *cursor));
    let is_last = entries.len() <= limit.clamp(1, PAGE_LEN_MAX);
    entries.truncate(limit.clamp(1, PAGE_LEN_MAX));
    let last = entries.last().map(|entry| entry.key.to_string());
    let page = Page {
        success: true,
        data: entries
            .into_iter()
            .map(|entry| {
                let (kept, policy) = why(&entry.key);
                let leaves_at = departures.get(&entry.sha256).copied();
                EntryView { policy, leaves_at, ..EntryView::of(entry, kept) }
            })
            .collect(),
        total,
        next_cursor: last.filter(|_| !is_last),
    };
    json(StatusCode::OK, &page)
}

/// `DELETE /api/v1/agent/cache/{category}/{path}`; `name` is what stands behind `cache/`. What is pinned stays, and what the
/// manifest names while it could not be fetched again.
pub async fn delete_entry(
    cache: &Cache,
    why: impl Fn(&ContentKey) -> Kept,
    requirement: impl Fn(&ContentKey) -> Requirement,
    name: &str,
    id: &CorrelationId,
) -> Response {
    let key = match parse_key(name, id) {
        Ok(key) => key,
        Err(response) => return *response,
    };
    let (kept, requirement) = (why(&key), requirement(&key));
    if kept == Kept::Pinned {
        let detail = format!("{key} is pinned: `pureboot-agent cache unpin {key}` first");
        return problem(StatusCode::CONFLICT, "content_pinned", detail, id);
    }
    if requirement == Requirement::Irreplaceable && cache.named(&key).is_some() {
        let detail = format!(
            "the site's manifest names {key}, and the controller is away, so that it could not be fetched again: wait until it is back"
        );
        return problem(StatusCode::CONFLICT, "content_required", detail, id);
    }
    match cache.remove(&key).await {
        Ok(Some(entry)) => {
            log::info!("removed {key} from the cache");
            let is_free = !cache.holds(&entry.sha256);
            success(Removed {
                freed_bytes: if is_free { entry.size_bytes } else { 0 },
                in_manifest: requirement != Requirement::None,
                entry: EntryView::of(entry, kept),
            })
        }
        Ok(None) => {
            let detail = format!("the cache holds no {key}");
            problem(StatusCode::NOT_FOUND, "content_not_found", detail, id)
        }
        Err(error) => {
            let error = FillError::from(error);
            log::error!(error:%, correlation_id:% = id; "cannot remove {key} from the cache");
            storage_problem(&error, id)
        }
    }
}

/// `PUT /api/v1/agent/cache/{category}/{path}`: takes in a body of any length as it comes; `name` is what stands behind
/// `cache/`. `Content-Length` is needed; `Content-Digest: sha-256=:…:` (RFC 9530) is checked if it is there.
pub async fn put_entry(
    cache: &Cache,
    why: impl Fn(&ContentKey) -> Kept,
    name: &str,
    request: Request<Incoming>,
    id: &CorrelationId,
) -> Response {
    let key = match parse_key(name, id) {
        Ok(key) => key,
        Err(response) => return *response,
    };
    let Some(size_bytes) = content_length(request.headers()) else {
        let detail = "an upload must say its length in Content-Length";
        return problem(StatusCode::LENGTH_REQUIRED, "length_required", detail, id);
    };
    let sha256 = match content_digest(request.headers()) {
        Ok(sha256) => sha256,
        Err(detail) => {
            return problem(StatusCode::BAD_REQUEST, "invalid_content_digest", detail, id);
        }
    };
    let expected = Expected { size_bytes: Some(size_bytes), sha256 };
    match cache.add(key.clone(), chunks(request.into_body(), STALL_TIME), expected).await {
        Ok(added) => {
            log::info!(bytes = added.size_bytes, sha256:% = added.sha256; "took {key} into the cache");
            let now = clock::now();
            success(EntryView {
                category: key.category(),
                path: key.path().to_owned(),
                size_bytes: added.size_bytes,
                sha256: added.sha256.to_string(),
                updated_at: now,
                used_at: now,
                kept: why(&key),
                policy: None,
                leaves_at: None,
            })
        }
        Err(error) => {
            log::warn!(error:%, correlation_id:% = id; "did not take {key} into the cache");
            storage_problem(&error, id)
        }
    }
}

/// `POST /api/v1/agent/cache/verify?name=`: reads content again, of one name or of all. What is damaged goes into quarantine, and
/// `replace` has it fetched again, and says whether it can be.
pub async fn verify_entries(
    cache: &Cache,
    replace: impl Fn(&ContentKey) -> bool,
    target: &Target,
    id: &CorrelationId,
) -> Response {
    let chosen = match target.query("name").map(|name| parse_key(&name, id)).transpose() {
        Ok(chosen) => chosen,
        Err(response) => return *response,
    };
    let mut entries = cache.entries();
    entries.retain(|entry| chosen.as_ref().is_none_or(|key| entry.key == *key));
    if let Some(key) = chosen.filter(|_| entries.is_empty()) {
        let detail = format!("the cache holds no {key}");
        return problem(StatusCode::NOT_FOUND, "content_not_found", detail, id);
    }
    let mut sound: HashMap<ContentHash, bool> = HashMap::new();
    let mut damaged = Vec::new();
    for Entry { key, sha256, .. } in entries {
        let is_sound = match sound.get(&sha256) {
            Some(is_sound) => *is_sound,
            None => match cache.verify(sha256).await {
                // What has left meanwhile is not damaged.
                Ok(verdict) => verdict != Some(false),
                Err(error) => return storage_problem(&FillError::from(error), id),
            },
        };
        sound.insert(sha256, is_sound);
        if !is_sound {
            damaged.push(key);
        }
    }
    let sound_count = sound.values().filter(|is_sound| **is_sound).count() as u64;
    let coming = damaged.iter().filter(|key| replace(key)).cloned().collect();
    success(Verified { sound_count, damaged, coming })
}

fn parse_key(name: &str, id: &CorrelationId) -> Result<ContentKey, Box<Response>> {
    name.parse().map_err(|error: pureboot_protocol::ContentKeyError| {
        Box::new(problem(StatusCode::BAD_REQUEST, "invalid_content_key", error.to_string(), id))
    })
}

/// That the disk does not do what it is for.
pub fn storage_problem(error: &FillError, id: &CorrelationId) -> Response {
    let (status, code) = match error {
        FillError::Source(_) => (StatusCode::BAD_REQUEST, "body_broken"),
        FillError::Size { .. } => (StatusCode::BAD_REQUEST, "size_mismatch"),
        FillError::Hash { .. } | FillError::Chunk { .. } => {
            (StatusCode::BAD_REQUEST, "digest_mismatch")
        }
        FillError::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
        FillError::Storage(_) => (StatusCode::INTERNAL_SERVER_ERROR, "storage_failed"),
    };
    problem(status, code, error.to_string(), id)
}

fn content_length(fields: &HeaderMap) -> Option<u64> {
    fields.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The SHA-256 that RFC 9530 §2 carries; none if the field is missing or names other algorithms only.
fn content_digest(fields: &HeaderMap) -> Result<Option<ContentHash>, String> {
    for value in fields.get_all(CONTENT_DIGEST) {
        let value = value.to_str().map_err(|_| "Content-Digest is not ASCII".to_owned())?;
        for member in value.split(',') {
            let Some((algorithm, bytes)) = member.trim().split_once('=') else { continue };
            if algorithm != "sha-256" {
                continue;
            }
            let digest = bytes
                .strip_prefix(':')
                .and_then(|bytes| bytes.strip_suffix(':'))
                .and_then(|bytes| BASE64_STANDARD.decode(bytes).ok())
                .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
                .ok_or_else(|| format!("'{member}' is not sha-256=:BASE64: of 32 bytes"))?;
            return Ok(Some(ContentHash::from_digest(digest)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
