//! How agents join, say that they live, and hand over what has happened; how operators see them.

use axum::http::Method;
use pureboot_protocol::session::{BootReceipt, BootReport};
use pureboot_protocol::{
    ChangeBatch, ChangeReceipt, Conflict, CredentialAnnouncement, Heartbeat, HeartbeatAnswer,
    RegistrationAnswer, RegistrationRequest, SheetAnswer, SheetQuestion, SignedRecords,
    SiteResolution,
};

use super::operation::Operation;
use crate::api::{agents, conflicts, releases};
use crate::store::{AgentStanding, Command, KeptHeartbeat};

pub(super) fn operations() -> Vec<Operation> {
    let get = |path, summary| Operation::new(Method::GET, path, summary);
    let post = |path, summary| Operation::new(Method::POST, path, summary);
    vec![
        get("/api/v1/agents", "List agents").page::<AgentStanding>(),
        get("/api/v1/agents/releases", "List the versions of the agent that are here, the newest first")
            .one::<Vec<releases::Release>>(),
        post("/api/v1/agents/releases", "Upload a version of the agent; the program says itself which it is")
            .takes_bytes()
            .one::<releases::Release>()
            .or(201)
            .refuses(409)
            .refuses(411)
            .refuses(412)
            .refuses(422)
            .refuses(507),
        Operation::new(
            Method::DELETE,
            "/api/v1/agents/releases/{version}/{target}",
            "Delete a version of the agent; sites that run it run on",
        )
        .one::<releases::Release>(),
        post(
            "/api/v1/sites/{id}/agent-update",
            "Have the agent of a site run another version; the command's outcome is the update's",
        )
        .body::<releases::Wish>()
        .created::<Command>()
        .refuses(409),
        get("/api/v1/agents/{site_id}/status", "How a site's agent stands").one::<AgentStanding>(),
        get("/api/v1/agents/{site_id}/heartbeats", "List an agent's heartbeats, the latest first")
            .page::<KeptHeartbeat>(),
        post("/api/v1/agents/{site_id}/revoke", "End the credential of a site's agent at once")
            .one::<AgentStanding>(),
        post("/api/v1/agents/credential", "Announce the agent's next credential")
            .body::<CredentialAnnouncement>()
            .one::<agents::Announced>()
            .refuses(409),
        post("/api/v1/agents/register", "Redeem a site's one-time token")
            .body::<RegistrationRequest>()
            .bare::<RegistrationAnswer>()
            .refuses(401)
            .refuses(404)
            .refuses(409),
        post("/api/v1/agents/heartbeat", "Say that the agent lives")
            .body::<Heartbeat>()
            .bare::<HeartbeatAnswer>()
            .refuses(409),
        get(
            "/api/v1/agents/nodes",
            "What decides the boots at the agent's site, or of one of its nodes, signed; the payload is NodeRecords",
        )
        .query::<agents::Filter>()
        .one::<SignedRecords>()
        .paged(),
        post("/api/v1/agents/boots", "Hand over what was seen of boots; it explains and decides nothing")
            .body::<BootReport>()
            .bare::<BootReceipt>(),
        post(
            "/api/v1/agents/answers",
            "What the answer files of a node are rendered by, with the secrets that its templates name",
        )
        .body::<SheetQuestion>()
        .one::<SheetAnswer>()
        .refuses(404),
        get("/api/v1/agents/conflicts", "List where the agent's site and the controller disagree")
            .query::<conflicts::Filter>()
            .page::<Conflict>(),
        get("/api/v1/agents/conflicts/{id}", "Read a conflict of the agent's site").one::<Conflict>(),
        post(
            "/api/v1/agents/conflicts/{id}/resolve",
            "End a conflict of the agent's site as the person there decides; doing so again has the same answer",
        )
        .body::<SiteResolution>()
        .one::<Conflict>()
        .refuses(403)
        .refuses(409),
        post("/api/v1/agents/changes", "Hand over what has happened at the site, in order")
            .body::<ChangeBatch>()
            .bare::<ChangeReceipt>()
            .refuses(409),
    ]
}
