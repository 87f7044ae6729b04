//! Sites, groups, and what sites have handed over without effect.

use axum::http::Method;

use super::operation::Operation;
use crate::api::{boots, commands, conflicts, groups, sites};
use crate::site_health::SiteHealth;
use crate::store::{Command, Group, GroupFields, KeptBoot, Parked, ResolvedAll, Site, SiteFields};
use pureboot_protocol::{Conflict, Node};

pub(super) fn operations() -> Vec<Operation> {
    let get = |path, summary| Operation::new(Method::GET, path, summary);
    let post = |path, summary| Operation::new(Method::POST, path, summary);
    let patch = |path, summary| Operation::new(Method::PATCH, path, summary);
    let delete = |path, summary| Operation::new(Method::DELETE, path, summary);
    vec![
        get("/api/v1/sites", "List sites").query::<sites::Filter>().page::<Site>(),
        post("/api/v1/sites", "Make a site").body::<SiteFields>().created::<Site>().refuses(409),
        get("/api/v1/sites/{id}", "Read a site").one::<Site>(),
        patch("/api/v1/sites/{id}", "Change a site's settings; what is absent stays")
            .body::<SiteFields>()
            .one::<Site>()
            .versioned()
            .refuses(409),
        delete("/api/v1/sites/{id}", "Delete a site that has nothing in it")
            .one::<Site>()
            .versioned(),
        post(
            "/api/v1/sites/{id}/agent-token",
            "Make the one-time token that the site's agent joins with; it ends the one before",
        )
        .one::<sites::Issued>(),
        get("/api/v1/sites/{id}/nodes", "List the nodes at home at a site")
            .query::<sites::Below>()
            .page::<Node>(),
        get("/api/v1/sites/{id}/health", "How a site is").one::<SiteHealth>(),
        get(
            "/api/v1/sites/{id}/boots",
            "List the boot sessions that a site's agent has seen, the latest first",
        )
        .query::<boots::Filter>()
        .page::<KeptBoot>(),
        post("/api/v1/sites/{id}/sync", "Order the site's agent to bring content up to date")
            .body::<commands::SyncWish>()
            .one::<commands::SyncOrdered>()
            .refuses(409),
        get("/api/v1/sites/{id}/commands", "List a site's commands, the latest first")
            .page::<Command>(),
        post(
            "/api/v1/sites/{id}/commands",
            "Order something of the site's agent; 200 where the same waits already",
        )
        .body::<commands::NewCommand>()
        .created::<Command>()
        .or(200)
        .refuses(409),
        get("/api/v1/sites/{id}/commands/{command_id}", "How far a command is").one::<Command>(),
        delete(
            "/api/v1/sites/{id}/commands/{command_id}",
            "Take a command back that the agent has not been given",
        )
        .one::<Command>()
        .refuses(409),
        get("/api/v1/sites/{id}/conflicts", "List where a site and the controller disagree")
            .query::<conflicts::Filter>()
            .page::<Conflict>(),
        post(
            "/api/v1/sites/{id}/conflicts/{conflict}/resolve",
            "End a conflict of a site; doing so again has the same answer, If-Match is the node's version",
        )
        .body::<conflicts::Resolve>()
        .one::<Conflict>()
        .versioned()
        .refuses(409),
        post(
            "/api/v1/sites/{id}/conflicts/resolve-all",
            "End the open conflicts of a site, up to 500 at once",
        )
        .body::<conflicts::ResolveAll>()
        .one::<ResolvedAll>(),
        get("/api/v1/sites/{id}/parked", "List a site's changes that could not be applied")
            .page::<Parked>(),
        get("/api/v1/sync/conflicts", "List where sites and the controller disagree")
            .query::<conflicts::Filter>()
            .page::<Conflict>(),
        get("/api/v1/sync/conflicts/{id}", "Read a conflict").one::<Conflict>(),
        post(
            "/api/v1/sync/conflicts/{id}/resolve",
            "End a conflict; doing so again has the same answer, If-Match is the node's version",
        )
        .body::<conflicts::Resolve>()
        .one::<Conflict>()
        .versioned()
        .refuses(409),
        get("/api/v1/groups", "List groups, sites among them")
            .query::<groups::Filter>()
            .page::<Group>(),
        post("/api/v1/groups", "Make a group")
            .body::<GroupFields>()
            .created::<Group>()
            .refuses(409),
        get("/api/v1/groups/{id}", "Read a group").one::<Group>(),
        patch("/api/v1/groups/{id}", "Change a group; what is absent stays")
            .body::<GroupFields>()
            .one::<Group>()
            .versioned()
            .refuses(409),
        delete("/api/v1/groups/{id}", "Delete a group that has nothing in it")
            .one::<Group>()
            .versioned(),
        get("/api/v1/groups/{id}/ancestors", "List the groups above, from the top down")
            .page::<Group>(),
        get("/api/v1/groups/{id}/descendants", "List the groups below").page::<Group>(),
        get("/api/v1/groups/{id}/nodes", "List the nodes of a group")
            .query::<groups::Below>()
            .page::<Node>(),
    ]
}
