//! `/agents/releases`: versions of the agent that sites can be ordered to run, and the order to run one.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use pureboot_protocol::{
    AgentUpdate, Category, ContentHash, ContentKey, PROGRAM_LEN_MAX, ProgramVersion, ReleaseMark,
    SiteId, SiteOrder, Success, Target, Timestamp, program_key, program_of,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json as value;
use sha2::{Digest, Sha256};

use crate::api::commands;
use crate::api::plugins::{Allowed, collect};
use crate::audit::Note;
use crate::auth::Operator;
use crate::content::{Condition, Tags, Upload, receive};
use crate::error::ApiError;
use crate::extract::{Id, Json, json};
use crate::router::App;
use crate::serve::Progress;
use crate::store::{ContentEntry, ContentFilter, Enqueued, Paging};

/// A program that is here. The field names are those of the HTTP surface.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Release {
    version: ProgramVersion,
    target: Target,
    size_bytes: u64,
    sha256: ContentHash,
    uploaded_at: Timestamp,
}

impl Release {
    /// The release whose program `entry` is; none if it is another kind of content.
    fn of(entry: &ContentEntry) -> Option<Self> {
        let (version, target) = program_of(&ContentKey::new(entry.category, &entry.path).ok()?)?;
        let ContentEntry { size_bytes, sha256, updated_at, .. } = *entry;
        Some(Self { version, target, size_bytes, sha256, uploaded_at: updated_at })
    }
}

/// `GET /agents/releases`: all of them, the newest version first.
pub(crate) async fn list(State(app): State<App>) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &Success::new(releases(&app).await?)))
}

async fn releases(app: &App) -> Result<Vec<Release>, ApiError> {
    let filter = ContentFilter { category: Some(Category::Agents), prefix: None };
    let mut releases = Vec::new();
    let mut paging = Paging { limit: Paging::LIMIT_MAX, after: None };
    loop {
        let page = app.store.content_list(&filter, &paging).await?;
        releases.extend(page.data.iter().filter_map(Release::of));
        paging.after = page.next_cursor.and_then(|cursor| cursor.parse().ok());
        if paging.after.is_none() {
            break;
        }
    }
    releases.sort_by(|a, b| b.version.cmp(&a.version).then(a.target.cmp(&b.target)));
    Ok(releases)
}

/// `POST /agents/releases`: a program, which says itself which it is. 201 for a new one, 200 for one that came before.
pub(crate) async fn upload(
    State(app): State<App>,
    progress: Progress,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let max = usize::try_from(PROGRAM_LEN_MAX).unwrap_or(usize::MAX);
    let allowed = Allowed { max, what: "an agent: strip the program, or build it for release" };
    let program = collect(&progress, &headers, body, allowed).await?;
    let mark = ReleaseMark::find(&program).map_err(|error| ApiError::invalid("program", error))?;
    let ReleaseMark { version, target } = mark;
    let key = program_key(version, target);
    let before = release(&app, &key).await?;
    let size_bytes = u64::try_from(program.len()).unwrap_or(u64::MAX);
    let condition = Condition {
        matching: None,
        // What a version means never changes: sites that run it are known by its number.
        none_matching: before.is_none().then(|| Tags::new("*")),
    };
    let upload = Upload { key: key.clone(), size_bytes, sha256: None, condition };
    if let Some(before) = &before {
        let came = ContentHash::from_digest(Sha256::digest(&program).into());
        if came != before.sha256 {
            let detail = format!(
                "version {version} for {target} is here already, as another program: give this one a version of its own"
            );
            let (status, code) = (StatusCode::CONFLICT, "release_exists");
            return Err(ApiError::Refused { status, code, detail });
        }
        return Ok(json(StatusCode::OK, &Success::new(before)));
    }
    let received = {
        let app = app.clone();
        // On a task of its own: whoever hangs up does not stop it between two of its steps.
        tokio::spawn(async move {
            receive(&app, &upload, Body::from(program), &Progress::default()).await
        })
    };
    let (entry, _) = received.await.map_err(|error| ApiError::Internal(error.into()))??;
    let release = Release::of(&entry).ok_or_else(|| ApiError::missing("release", &key))?;
    tracing::info!(%version, %target, "version {version} of the agent for {target} is here");
    let note = Note::detail(value!({"release": release}));
    Ok(note.on(json(StatusCode::CREATED, &Success::new(release))))
}

async fn release(app: &App, key: &ContentKey) -> Result<Option<Release>, ApiError> {
    Ok(app.store.content(key).await?.and_then(|(entry, _)| Release::of(&entry)))
}

/// `DELETE /agents/releases/{version}/{target}`. Sites that run it run on.
pub(crate) async fn delete(
    State(app): State<App>,
    Path((version, target)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let missing = || ApiError::missing("release", format!("{version}/{target}"));
    let key = match (version.parse(), target.parse()) {
        (Ok(version), Ok(target)) => program_key(version, target),
        _ => return Err(missing()),
    };
    let entry = app.store.delete_content(&key, &Condition::default(), app.now()).await?;
    let release = Release::of(&entry).ok_or_else(missing)?;
    tracing::info!("version {version} of the agent for {target} was deleted");
    let note = Note::detail(value!({"release": release}));
    Ok(note.on(json(StatusCode::OK, &Success::new(release))))
}

/// Which version the agent of a site is to run.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Wish {
    /// The version; the newest for its processor if nothing is said.
    #[serde(default)]
    version: Option<ProgramVersion>,
    /// Whether it may be older than what runs.
    #[serde(default)]
    allow_downgrade: bool,
}

/// `POST /sites/{id}/agent-update`: the agent's command, whose outcome is how the update ended.
pub(crate) async fn order(
    State(app): State<App>,
    operator: Operator,
    Id(site): Id<SiteId>,
    Json(wish): Json<Wish>,
) -> Result<Response, ApiError> {
    let refused = |code, detail| ApiError::Refused { status: StatusCode::CONFLICT, code, detail };
    let heartbeat = app.store.site_knowledge(site).await?.heartbeat;
    let Some((running, report)) = heartbeat.and_then(|it| Some((it.agent_version, it.update?)))
    else {
        let detail = "the agent of this site has not said which programs it can run: it was not heard yet, or is of a version that \
                      cannot be updated from here";
        return Err(refused("not_updatable", detail.to_owned()));
    };
    let target = report.target;
    let of_target = releases(&app).await?.into_iter().filter(|release| release.target == target);
    let found =
        of_target.into_iter().find(|it| wish.version.is_none_or(|wanted| it.version == wanted));
    let release = found.ok_or_else(|| {
        let wanted = wish.version.map_or_else(|| "any".to_owned(), |version| version.to_string());
        ApiError::missing(&format!("release for {target} of version"), wanted)
    })?;
    let is_older = running.parse::<ProgramVersion>().is_ok_and(|running| release.version < running);
    if is_older && !wish.allow_downgrade {
        let detail = format!(
            "version {} is older than {running}, which the agent of this site runs; allow_downgrade orders it all the same",
            release.version
        );
        return Err(refused("downgrade", detail));
    }
    let update = AgentUpdate {
        site_id: site,
        issued_at: app.now(),
        version: release.version,
        target,
        size_bytes: release.size_bytes,
        sha256: release.sha256,
        allow_downgrade: wish.allow_downgrade,
    };
    let payload =
        serde_json::to_string(&update).map_err(|error| ApiError::Internal(error.into()))?;
    let order = SiteOrder::Update { update: app.content.signer.sign(payload) };
    let command = commands::order(&app, site, order, &operator).await?;
    tracing::info!(%site, sha256 = %release.sha256, "version {} of the agent is ordered for site {site}", release.version);
    let note =
        Note::detail(value!({"version": release.version, "allow_downgrade": wish.allow_downgrade}));
    Ok(note.on(json(StatusCode::CREATED, &Success::new(Enqueued::command(command)))))
}
