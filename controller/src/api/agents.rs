//! `/agents`: how an agent joins, says that it lives, and learns what decides its boots; how operators see it.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use pureboot_protocol::{
    AgentId, AgentStatus, COMMAND_RESULTS_MAX, CredentialAnnouncement, Heartbeat, HeartbeatAnswer,
    NodeRecords, Order, RegistrationAnswer, RegistrationRequest, RegistrationToken, Secret,
    SignedRecords, SiteId, SiteOrder, Success, Told,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json as value};

use crate::api::check::Check;
use crate::audit::{Actor, Entry, Note};
use crate::auth::{self, Agent};
use crate::correlation::CorrelationId;
use crate::error::ApiError;
use crate::extract::{Id, Json, Peer, Query, fields, json, mac};
use crate::random;
use crate::router::App;
use crate::store::{Beat, Origin, Paging, StoreError};

/// `POST /agents/register`: redeems a site's token for a credential.
pub(crate) async fn register(
    State(app): State<App>,
    peer: Peer,
    correlation_id: CorrelationId,
    Json(body): Json<Value>,
) -> Result<Response, ApiError> {
    app.limits.may_register(peer.ip())?;
    let site = body.get("site_id").and_then(Value::as_str).map(|id| id.chars().take(64).collect());
    let joined = join(&app, body).await;
    if let Err(ApiError::Refused { status: StatusCode::UNAUTHORIZED, .. }) = &joined {
        app.limits.wrong_registration(peer.ip());
        tracing::warn!(peer = %peer.ip(), "{} tried to register with a token that is not valid", peer.ip());
        let (actor, action) = (Actor::nobody(), "agent.registration_refused");
        let mut entry = Entry::new(app.now(), actor, action, correlation_id.as_str());
        entry.target = site;
        entry.address = Some(peer.ip());
        entry.status = Some(StatusCode::UNAUTHORIZED.as_u16());
        app.store.record(&entry).await?;
    }
    let (answer, replaced) = joined?;
    let note = Note {
        actor: Some(Actor::agent(answer.agent_id)),
        action: Some("agent.registered"),
        target: Some(answer.config.site_id.to_string()),
        detail: replaced.map(|replaced| value!({"replaced_agent": replaced})),
    };
    Ok(note.on(json(StatusCode::OK, &answer)))
}

/// The answer, and the agent whose place was taken.
async fn join(app: &App, body: Value) -> Result<(RegistrationAnswer, Option<AgentId>), ApiError> {
    // What is not even a token is refused as a wrong one is, so that an answer tells nothing of how close a guess was.
    let is_malformed =
        |token: &Value| token.as_str().is_none_or(|t| t.parse::<RegistrationToken>().is_err());
    if body.get("token").is_some_and(is_malformed) {
        return Err(StoreError::TokenRefused.into());
    }
    let request: RegistrationRequest = fields(body)?;
    let mut check = Check::default();
    check.agent_url(&request.agent_url);
    check.text("agent_version", &request.agent_version);
    check.list("capabilities", &request.capabilities);
    check.done()?;
    let (hash, credential) = match request.credential_hash {
        Some(hash) => (hash, None),
        None => {
            let credential = Secret::from_random(random::bytes());
            (auth::hash(&credential), Some(credential))
        }
    };
    let joined = app.store.redeem(&request, hash, app.now()).await?;
    let (agent_id, site) = (joined.agent_id, joined.site);
    tracing::info!(site = %site.id, agent = %agent_id, "agent {agent_id} joined site {:?}", site.path);
    if let Some(replaced) = joined.replaced {
        tracing::warn!(site = %site.id, agent = %replaced, "the credential of agent {replaced} has ended: another took its place");
    }
    let answer = RegistrationAnswer {
        success: true,
        agent_id,
        config: site.config(),
        config_version: site.version,
        signing_key: app.content.signer.public(),
        credential,
    };
    Ok((answer, joined.replaced))
}

/// Whose next credential was announced.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Announced {
    agent_id: AgentId,
}

/// `POST /agents/credential`: an agent says what it will call with from its next use on.
pub(crate) async fn announce_credential(
    State(app): State<App>,
    agent: Agent,
    correlation_id: CorrelationId,
    Json(body): Json<CredentialAnnouncement>,
) -> Result<Response, ApiError> {
    let origin = Origin { correlation_id: correlation_id.as_str(), now: app.now() };
    app.store.announce_credential(agent, body.credential_hash, origin).await?;
    tracing::info!(site = %agent.site_id, agent = %agent.id, "agent {} has announced its next credential", agent.id);
    Ok(json(StatusCode::OK, &Success::new(Announced { agent_id: agent.id })))
}

/// `POST /agents/{site_id}/revoke`: the agent's credential ends at once.
pub(crate) async fn revoke(
    State(app): State<App>,
    Id(site_id): Id<SiteId>,
) -> Result<Response, ApiError> {
    let agent = app.store.revoke_agent(site_id, app.now()).await?;
    tracing::warn!(site = %site_id, %agent, "the credential of agent {agent} of site {site_id} is revoked");
    let standing = app.store.agent(site_id).await?;
    let note = Note::detail(value!({"agent_id": agent}));
    Ok(note.on(json(StatusCode::OK, &Success::new(standing))))
}

/// `POST /agents/heartbeat`.
pub(crate) async fn heartbeat(
    State(app): State<App>,
    agent: Agent,
    peer: Peer,
    correlation_id: CorrelationId,
    Json(heartbeat): Json<Heartbeat>,
) -> Result<Response, ApiError> {
    if heartbeat.site_id != agent.site_id {
        tracing::warn!(agent = %agent.id, "agent {} of site {} speaks for site {}", agent.id, agent.site_id, heartbeat.site_id);
        return Err(ApiError::Refused {
            status: StatusCode::FORBIDDEN,
            code: "foreign_site",
            detail: format!("this credential is not for site {}", heartbeat.site_id),
        });
    }
    check(&heartbeat)?;
    let now = app.now();
    let beat = Beat::new(agent, &heartbeat, now).of_request(correlation_id.as_str(), peer.ip());
    let heard = app.beats.ask(beat).await?;
    if heard.before != Some(AgentStatus::Online) {
        tracing::info!(site = %agent.site_id, "the agent of site {:?} is online", heard.path);
    }
    let is_ordered =
        heard.commands.iter().any(|it| it.order == Order::Known(SiteOrder::UpdateConfig {}));
    let (config, config_version) =
        if heartbeat.config_version == heard.config_version && !is_ordered {
            (None, heard.config_version)
        } else {
            let site = app.store.site(agent.site_id).await?;
            (Some(site.config()), site.version)
        };
    Ok(json(
        StatusCode::OK,
        &HeartbeatAnswer {
            acknowledged: true,
            server_time: now,
            commands: heard.commands,
            config,
            config_version,
            nodes_version: Some(heard.nodes_version),
            manifest_version: manifest_version(&app, agent.site_id, heard.manifest_version).await,
        },
    ))
}

/// The version of a site's manifest: the `known` one, or that of a look at what the site is to hold now. A heartbeat counts though
/// that fails; the agent asks for itself then.
async fn manifest_version(app: &App, site: SiteId, known: Option<u64>) -> Option<u64> {
    if known.is_some() {
        return known;
    }
    match app.store.manifest(site, app.now()).await {
        Ok(issued) => Some(issued.version),
        Err(error) => {
            tracing::warn!(%site, %error, "no heartbeat tells site {site} of its manifest now");
            None
        }
    }
}

fn check(heartbeat: &Heartbeat) -> Result<(), ApiError> {
    let mut check = Check::default();
    let is_rate = heartbeat.cache_hit_rate.is_none_or(|rate| (0.0..=1.0).contains(&rate));
    check.require("cache_hit_rate", is_rate, "expected a number from 0 to 1");
    let is_percent = (0.0..=100.0).contains(&heartbeat.disk_usage_percent);
    check.require("disk_usage_percent", is_percent, "expected a number from 0 to 100");
    check.text("agent_version", &heartbeat.agent_version);
    let results = heartbeat.command_results.len();
    let message = format!("{results} results, and {COMMAND_RESULTS_MAX} are taken at once");
    check.require("command_results", results <= COMMAND_RESULTS_MAX, message);
    check.done()
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Filter {
    /// Only the node with this address.
    mac: Option<String>,
    /// What has changed since, as `NodeChanges` says; 0, or nothing, for everything. It is the `version` of the answer before,
    /// and takes the place of a cursor.
    since_version: Option<u64>,
}

/// `GET /agents/nodes`: what decides the boots at the agent's site, or of one of its nodes. Signed, because a site acts on it when
/// nobody can be asked.
pub(crate) async fn nodes(
    State(app): State<App>,
    agent: Agent,
    paging: Paging,
    Query(filter): Query<Filter>,
) -> Result<Response, ApiError> {
    let mac = filter.mac.as_deref().map(mac).transpose()?;
    let mut check = Check::default();
    let is_one = mac.is_none() || filter.since_version.is_none();
    check.require("since_version", is_one, "ask for one node or for what has changed");
    check.require("cursor", paging.after.is_none(), "ask with the version of the last answer");
    check.done()?;
    let told = match mac {
        Some(mac_address) => {
            let (record, version) = app.store.boot_record(agent.site_id, mac_address).await?;
            let foreign = match record {
                Some(_) => None,
                None => app.store.foreign_node(agent.site_id, mac_address).await?,
            };
            Told::Node { mac_address, record: record.map(Box::new), foreign, version }
        }
        None => {
            let since = filter.since_version.unwrap_or(0);
            Told::Changes(app.store.node_changes(agent.site_id, since, paging.limit).await?)
        }
    };
    let records = NodeRecords { site_id: agent.site_id, issued_at: app.now(), told };
    let payload =
        serde_json::to_string(&records).map_err(|error| ApiError::Internal(Box::new(error)))?;
    let signed: SignedRecords = app.content.signer.sign(payload);
    Ok(json(StatusCode::OK, &Success::new(signed)))
}

/// `GET /agents`.
pub(crate) async fn list(State(app): State<App>, paging: Paging) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.agents(&paging).await?))
}

/// `GET /agents/{site_id}/status`.
pub(crate) async fn status(
    State(app): State<App>,
    Id(site_id): Id<SiteId>,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &Success::new(app.store.agent(site_id).await?)))
}

/// `GET /agents/{site_id}/heartbeats`.
pub(crate) async fn heartbeats(
    State(app): State<App>,
    Id(site_id): Id<SiteId>,
    paging: Paging,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.heartbeats(site_id, &paging).await?))
}
