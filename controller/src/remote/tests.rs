//! What the API can do, the command line can do.

use std::collections::BTreeMap;

use crate::api::tests::Centre;
use crate::api::tests::authority::lines;
use crate::auth::Role;
use crate::config::verbs;

/// Routes by the command that asks them. What needs no command says why.
const COMMANDS: &[(&str, &str)] = &[
    ("/metrics GET", "not: monitoring reads it"),
    ("/session GET DELETE", "not: the page's; programs have tokens"),
    ("/session/password POST", "not: the page's; `user passwd` on the controller's machine"),
    ("/tokens GET POST", "token list, token new"),
    ("/tokens/{id} DELETE", "token revoke"),
    ("/users GET POST", "user list, user add"),
    (
        "/users/{id} GET PATCH DELETE",
        "user list, user role, user disable, user enable, user remove",
    ),
    ("/users/{id}/password POST", "user passwd"),
    ("/audit GET", "audit"),
    ("/sites GET POST", "site ls, site add"),
    ("/sites/{id} GET PATCH DELETE", "site show, site set, site rm"),
    ("/sites/{id}/agent-token POST", "site token"),
    ("/sites/{id}/nodes GET", "node ls"),
    ("/sites/{id}/health GET", "site health"),
    ("/sites/{id}/boots GET", "site boots"),
    ("/sites/{id}/sync POST", "site sync"),
    ("/sites/{id}/commands GET POST", "site commands, site order"),
    ("/sites/{id}/commands/{command_id} GET DELETE", "site commands, site cancel"),
    ("/sites/{id}/conflicts GET", "site conflicts"),
    ("/sites/{id}/conflicts/{conflict}/resolve POST", "conflict resolve"),
    ("/sites/{id}/conflicts/resolve-all POST", "conflict resolve-all"),
    ("/sites/{id}/parked GET", "site parked"),
    ("/sites/{id}/assigned-content GET PUT", "site assign"),
    ("/sync/conflicts GET", "conflict ls"),
    ("/sync/conflicts/{id} GET", "conflict show"),
    ("/sync/conflicts/{id}/resolve POST", "conflict resolve"),
    ("/migrations GET", "node claims"),
    ("/migrations/{id} GET", "node claims"),
    ("/migrations/{id}/approve POST", "node approve"),
    ("/migrations/{id}/reject POST", "node reject"),
    ("/groups GET POST", "group ls, group add"),
    ("/groups/{id} GET PATCH DELETE", "group show, group set, group rm"),
    ("/groups/{id}/ancestors GET", "not: `group show` has the path"),
    ("/groups/{id}/descendants GET", "not: `group ls` has the tree"),
    ("/groups/{id}/nodes GET", "node ls"),
    ("/nodes GET POST", "node ls, node add"),
    ("/nodes/stats GET", "node stats"),
    ("/nodes/stalled GET", "node stalled"),
    ("/nodes/bulk/assign-group POST", "node bulk"),
    ("/nodes/bulk/assign-workflow POST", "node bulk"),
    ("/nodes/bulk/add-tag POST", "node bulk"),
    ("/nodes/bulk/remove-tag POST", "node bulk"),
    ("/nodes/bulk/change-state POST", "node bulk"),
    ("/nodes/{id} GET PATCH DELETE", "node show, node set, node retire"),
    ("/nodes/{id}/state PATCH", "node state"),
    ("/nodes/{id}/command POST DELETE", "node command"),
    ("/nodes/{id}/tags POST", "node tag"),
    ("/nodes/{id}/tags/{tag} DELETE", "node untag"),
    ("/nodes/{id}/history GET", "node history"),
    ("/nodes/{id}/events GET", "node events"),
    ("/nodes/{id}/boots GET", "node boots"),
    ("/workflows GET POST", "workflow ls, workflow add"),
    ("/workflows/{id} GET PATCH DELETE", "workflow show, workflow set, workflow rm"),
    ("/workflows/{id}/versions GET", "workflow versions"),
    ("/workflows/{id}/versions/{version} GET", "workflow show"),
    ("/workflows/{id}/versions/{version}/restore POST", "workflow restore"),
    ("/content GET", "content ls"),
    ("/content/manifest GET", "site manifest"),
    ("/content/{category}/{*path} GET PUT DELETE", "content get, content put, content rm"),
    ("/templates GET POST", "template ls, template add"),
    ("/templates/check POST", "template check"),
    ("/templates/{id} GET PATCH DELETE", "template show, template update, template rm"),
    ("/templates/{id}/preview POST", "template preview"),
    ("/templates/{id}/versions GET", "template versions"),
    ("/templates/{id}/versions/{version} GET", "template show"),
    ("/templates/{id}/versions/{version}/restore POST", "template restore"),
    ("/plugins GET POST", "plugin ls, plugin add"),
    ("/plugins/{name} GET DELETE", "plugin show, plugin rm"),
    ("/plugins/{name}/versions GET", "plugin versions"),
    ("/plugins/{name}/versions/{version} GET DELETE", "plugin show, plugin rm"),
    ("/plugins/{name}/rollback POST", "plugin rollback"),
    ("/plugins/{name}/assignments GET", "plugin sites"),
    (
        "/plugins/{name}/assignments/{place} PUT DELETE",
        "plugin assign, plugin unassign, plugin mode",
    ),
    ("/plugins/{name}/sites GET", "plugin sites"),
    ("/sites/{id}/plugins GET", "plugin sites"),
    ("/nodes/{id}/meta GET PATCH", "node meta"),
    ("/groups/{id}/meta GET PATCH", "group meta"),
    ("/sites/{id}/meta GET PATCH", "site meta"),
    ("/secrets GET", "secret ls"),
    ("/secrets/{name} PUT DELETE", "secret set, secret rm"),
    ("/agents GET", "agent ls"),
    ("/agents/releases GET", "agent releases"),
    ("/agents/releases POST", "agent upload"),
    ("/agents/releases/{version}/{target} DELETE", "agent forget"),
    ("/sites/{id}/agent-update POST", "agent update"),
    ("/agents/{site_id}/status GET", "agent status"),
    ("/agents/{site_id}/heartbeats GET", "agent heartbeats"),
    ("/agents/{site_id}/revoke POST", "agent revoke"),
];

#[tokio::test]
async fn everything_that_operators_may_ask_has_a_command_or_a_reason_to_have_none() {
    let centre = Centre::start().await;
    let listed: BTreeMap<_, _> = COMMANDS.iter().copied().collect();
    let mut routes = Vec::new();
    for (role, path, verbs) in lines(&centre.app).await {
        if !matches!(role, Role::Agent | Role::Anyone) {
            let path = path.strip_prefix("/api/v1").unwrap_or(path);
            let verbs: Vec<_> = verbs.iter().map(|verb| verb.as_str()).collect();
            routes.push(format!("{path} {}", verbs.join(" ")));
        }
    }
    let missing: Vec<_> =
        routes.iter().filter(|route| !listed.contains_key(route.as_str())).collect();
    assert!(missing.is_empty(), "no command is named for {missing:#?}");
    let gone: Vec<_> =
        listed.keys().filter(|route| !routes.iter().any(|it| it == *route)).collect();
    assert!(gone.is_empty(), "there is no route {gone:#?}");
    let verbs = verbs();
    for (route, commands) in COMMANDS {
        let commands = commands.split(", ").filter(|command| !command.starts_with("not: "));
        for command in commands {
            assert!(verbs.iter().any(|verb| verb == command), "{route}: there is no `{command}`");
        }
    }
}
