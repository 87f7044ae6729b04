//! Who may call what, for every route of the table and every verb.

use std::net::SocketAddr;

use axum::http::{Method, StatusCode};
use axum::routing::{MethodFilter, MethodRouter};
use pureboot_protocol::{NodeId, Secret};
use serde_json::json;
use tower::ServiceExt;

use super::{Centre, from, heartbeat, id, page_request, request};
use crate::auth::Role;
use crate::auth::rank::Rank;
use crate::auth::scope::Scope;
use crate::extract::Peer;
use crate::router::{App, Length, Route, assemble, table};

const NOTHING: &str = "00000000-0000-4000-8000-000000000000";
const VERBS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// The verbs that a line of the table takes.
async fn verbs(app: &App, role: Role, path: &'static str) -> Vec<Method> {
    let mut verbs = Vec::new();
    for verb in VERBS {
        let line = table().into_iter().filter(|route| route.role == role && route.path == path);
        let mut request = request(None, verb, &fill(path, NOTHING), None);
        request.extensions_mut().insert(Peer(SocketAddr::from(([192, 0, 2, 1], 1))));
        let router = assemble(app.clone(), line.collect());
        let response = router.oneshot(request).await.expect("the router cannot fail");
        if response.status() != StatusCode::METHOD_NOT_ALLOWED {
            verbs.push(verb.parse().expect("a verb"));
        }
    }
    assert!(!verbs.is_empty(), "{path} takes no verb");
    verbs
}

/// Every line of the table with its verbs.
pub(crate) async fn lines(app: &App) -> Vec<(Role, &'static str, Vec<Method>)> {
    let mut lines = Vec::new();
    for Route { role, path, .. } in table() {
        lines.push((role, path, verbs(app, role, path).await));
    }
    lines
}

/// The table with handlers that do nothing but succeed.
pub(super) async fn stubs(app: &App) -> Vec<Route> {
    let mut routes = Vec::new();
    for (role, path, verbs) in lines(app).await {
        let stub = |handlers: MethodRouter<App>, verb: Method| {
            let filter = MethodFilter::try_from(verb).expect("a usual verb");
            handlers.on(filter, async || StatusCode::NO_CONTENT)
        };
        let handlers = verbs.into_iter().fold(MethodRouter::new(), stub);
        routes.push(Route { role, path, handlers, body: Length::Bounded });
    }
    routes
}

/// `path` with `id` in the place of every parameter.
pub(super) fn fill(path: &str, id: &str) -> String {
    let segment = |segment: &str| {
        if segment.starts_with('{') { id.to_owned() } else { segment.to_owned() }
    };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

/// Somebody who calls.
struct Kind {
    name: &'static str,
    shown: Shown,
    is: Is,
}

enum Shown {
    Nothing,
    Bearer(Secret),
    Cookie(String),
}

/// What somebody who calls may do.
#[derive(Clone, Copy)]
enum Is {
    Nobody,
    Agent,
    Person(Rank),
    /// An admin's token that is limited to this.
    Limited(Scope),
}

impl Is {
    /// What a call is answered with where the handler does nothing but succeed.
    fn expected(self, role: Role, verb: &Method, path: &str) -> u16 {
        let reads = *verb == Method::GET;
        match (role, self) {
            (Role::Anyone, _) | (Role::Agent, Is::Agent) => 204,
            (_, Is::Nobody) => 401,
            (Role::Agent, _) | (_, Is::Agent) => 403,
            (Role::Viewer, _) => 204,
            (Role::Operator, Is::Person(_) | Is::Limited(_)) if reads => 204,
            (Role::Operator, Is::Person(rank)) if rank >= Rank::Operator => 204,
            (Role::Admin, Is::Person(Rank::Admin) | Is::Limited(Scope::Admin)) => 204,
            (Role::Operator, Is::Limited(Scope::NodesWrite))
                if ["/v1/nodes", "/conflicts", "/v1/migrations"]
                    .iter()
                    .any(|it| path.contains(it)) =>
            {
                204
            }
            (_, Is::Person(_) | Is::Limited(_)) => 403,
        }
    }
}

async fn kinds(centre: &Centre) -> Vec<Kind> {
    let mut kinds = Vec::new();
    let mut add = |name, shown, is| kinds.push(Kind { name, shown, is });
    add("nobody", Shown::Nothing, Is::Nobody);
    add("a stranger", Shown::Bearer(Secret::from_random([9; 32])), Is::Nobody);
    add("a planted cookie", Shown::Cookie("pureboot_session=abc".to_owned()), Is::Nobody);
    add("the first token", Shown::Bearer(centre.operator.clone()), Is::Person(Rank::Admin));
    for rank in [Rank::Viewer, Rank::Operator, Rank::Admin] {
        centre.make_user(rank.as_str(), rank.as_str()).await;
        let cookie = centre.sign_in(rank.as_str()).await;
        add(rank.as_str(), Shown::Cookie(cookie), Is::Person(rank));
        let wish = json!({"name": "t", "role": rank});
        let token = centre.make_api_token(&centre.operator, wish).await;
        add("a token of that role", Shown::Bearer(token), Is::Person(rank));
    }
    for scope in [Scope::Read, Scope::NodesWrite, Scope::Admin] {
        let wish = json!({"name": "t", "scopes": [scope]});
        let token = centre.make_api_token(&centre.operator, wish).await;
        add("a token with a scope", Shown::Bearer(token), Is::Limited(scope));
    }
    let wish = json!({"name": "t", "expires_in_days": 1});
    let ended = centre.make_api_token(&centre.operator, wish).await;
    add("a token that has ended", Shown::Bearer(ended), Is::Nobody);
    let revoked = centre.post("/api/v1/tokens", json!({"name": "t"})).await;
    let secret = serde_json::from_value(revoked.data()["secret"].clone()).expect("a secret");
    let path = format!("/api/v1/tokens/{}", revoked.data()["id"].as_str().expect("an id"));
    assert_eq!(centre.delete(&path).await.status, 200);
    add("a token that is revoked", Shown::Bearer(secret), Is::Nobody);
    let disabled = centre.make_user("gone", "admin").await;
    let cookie = centre.sign_in("gone").await;
    let path = format!("/api/v1/users/{disabled}");
    centre.patch(&path, json!({"disabled": true})).await.data();
    add("a person who is disabled", Shown::Cookie(cookie), Is::Nobody);
    add("the site's agent", Shown::Bearer(centre.join("berlin").await.credential), Is::Agent);
    let away = centre.join("oslo").await;
    centre.post(&format!("/api/v1/agents/{}/revoke", away.site), json!({})).await.data();
    add("an agent that is revoked", Shown::Bearer(away.credential), Is::Nobody);
    kinds
}

#[tokio::test]
async fn a7_a16_every_route_and_verb_opens_to_whom_the_table_says_and_to_nobody_else() {
    let centre = Centre::start().await;
    let kinds = kinds(&centre).await;
    centre.pass_seconds(24 * 3_600);
    // A day is over, in which nobody may have been idle.
    let mut refreshed = Vec::new();
    for Kind { name, shown, is } in kinds {
        let shown = match (shown, is) {
            (Shown::Cookie(_), Is::Person(_)) => Shown::Cookie(centre.sign_in(name).await),
            (shown, _) => shown,
        };
        refreshed.push(Kind { name, shown, is });
    }
    let lines = lines(&centre.app).await;
    let stubbed = assemble(centre.app.clone(), stubs(&centre.app).await);
    let centre = Centre { router: stubbed, ..centre };
    let mut calls = 0_u32;
    for (role, path, verbs) in lines {
        for verb in verbs {
            for Kind { name, shown, is } in &refreshed {
                let (filled, verb_text) = (fill(path, NOTHING), verb.as_str());
                let request = match shown {
                    Shown::Nothing => request(None, verb_text, &filled, Some(json!({}))),
                    Shown::Bearer(token) => {
                        request(Some(token), verb_text, &filled, Some(json!({})))
                    }
                    Shown::Cookie(cookie) => {
                        page_request(cookie, verb_text, &filled, Some(json!({})))
                    }
                };
                // Each from another address, so that those who are refused do not have to wait.
                calls += 1;
                let answer = centre.send(from(request, calls.to_be_bytes())).await;
                let expected = is.expected(role, &verb, path);
                assert_eq!(answer.status, expected, "{verb} {path} by {name}: {answer:?}");
                if expected != 204 {
                    answer.problem();
                }
            }
        }
    }
    assert!(calls > 500, "{calls} calls are not the whole matrix");
}

#[test]
fn a7_who_decides_over_people_admission_and_programs_is_an_admin_and_only_few_doors_are_open() {
    let of = |role| -> Vec<&str> {
        let routes = table().into_iter().filter(|route| route.role == role);
        routes.map(|route| route.path.trim_start_matches("/api/v1")).collect()
    };
    assert_eq!(
        of(Role::Admin),
        [
            "/users",
            "/users/{id}",
            "/users/{id}/password",
            "/audit",
            "/sites/{id}/agent-token",
            "/agents/releases",
            "/agents/releases/{version}/{target}",
        ]
    );
    let doors = of(Role::Anyone);
    for door in ["/healthz", "/readyz", "/session", "/agents/register"] {
        assert!(doors.contains(&door), "{door}");
    }
}

#[test]
fn every_route_that_operators_change_things_by_belongs_to_a_scope() {
    for route in table().iter().filter(|route| route.role == Role::Operator) {
        assert!(Scope::of(Rank::Operator, route.path).is_some(), "{} has none", route.path);
    }
}

#[tokio::test]
async fn a7_an_agent_has_no_effect_on_another_site_whatever_it_calls() {
    let centre = Centre::start().await;
    let (agent, other) = (centre.join("berlin").await, centre.join("oslo").await);
    let before = centre.get(&format!("/api/v1/sites/{}", other.site)).await;
    for (role, path, verbs) in lines(&centre.app).await {
        for verb in verbs.iter().filter(|_| role != Role::Anyone) {
            let path = fill(path, &other.site.to_string());
            let body = Some(json!(0));
            let answer = centre.call(&agent.credential, verb.as_str(), &path, body).await;
            match role {
                Role::Agent => assert!(!matches!(answer.status.as_u16(), 401 | 403), "{answer:?}"),
                _ => assert_eq!(answer.status, 403, "{verb} {path}"),
            }
        }
    }
    let after = centre.get(&format!("/api/v1/sites/{}", other.site)).await;
    assert_eq!(before.data(), after.data());
}

#[tokio::test]
async fn a_refusal_names_the_role_or_scope_that_is_needed() {
    let centre = Centre::start().await;
    centre.make_user("ada", "viewer").await;
    let cookie = centre.sign_in("ada").await;
    let answer = centre.page(&cookie, "POST", "/api/v1/sites", Some(json!({"name": "a"}))).await;
    assert_eq!(answer.problem(), (403, "role_needed".to_owned()));
    assert_eq!(answer.detail(), "this needs the role operator, and yours is viewer");
    let answer = centre.page(&cookie, "GET", "/api/v1/users", None).await;
    assert_eq!(answer.detail(), "this needs the role admin, and yours is viewer");
    let wish = json!({"name": "t", "scopes": ["content:write"]});
    let token = centre.make_api_token(&centre.operator, wish).await;
    let answer = centre.call(&token, "POST", "/api/v1/nodes", Some(json!({}))).await;
    assert_eq!(answer.problem(), (403, "scope_needed".to_owned()));
    assert_eq!(answer.detail(), "this needs the scope nodes:write, which your token was not given");
}

#[tokio::test]
async fn a_credential_is_read_as_rfc_6750_says_and_nothing_else_is_one() {
    let centre = Centre::start().await;
    let token = centre.operator.reveal();
    for (value, status) in [
        (format!("Bearer {token}"), 200),
        (format!("bearer {token}"), 200),
        (format!("Basic {token}"), 401),
        (token.to_owned(), 401),
        ("Bearer ".to_owned(), 401),
        (format!("Bearer {}", token.to_uppercase()), 401),
        (format!("Bearer {}", &token[1..]), 401),
    ] {
        let mut request = request(None, "GET", "/api/v1/sites", None);
        request.headers_mut().insert("authorization", value.parse().expect("a value"));
        let answer = centre.send(request).await;
        assert_eq!(answer.status, status, "{answer:?}");
        if status == 401 {
            answer.problem();
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
    }
}

#[tokio::test]
async fn a8_an_agent_that_speaks_for_another_site_is_refused_without_effect() {
    let centre = Centre::start().await;
    let (berlin, oslo) = (centre.join("berlin").await, centre.join("oslo").await);
    let before = centre.get(&format!("/api/v1/agents/{}/status", oslo.site)).await;
    centre.pass_seconds(10);
    let body = Some(heartbeat(oslo.site, 1));
    let answer = centre.call(&berlin.credential, "POST", "/api/v1/agents/heartbeat", body).await;
    assert_eq!(answer.problem(), (403, "foreign_site".to_owned()));
    let after = centre.get(&format!("/api/v1/agents/{}/status", oslo.site)).await;
    assert_eq!(before.data(), after.data());
}

#[tokio::test]
async fn i8_an_agent_sees_the_nodes_of_its_own_site_and_those_without_home_only() {
    let centre = Centre::start().await;
    let (berlin, oslo) = (centre.join("berlin").await, centre.join("oslo").await);
    let own = centre.make_node("02:00:00:00:00:01", Some(berlin.site)).await;
    centre.make_node("02:00:00:00:00:02", Some(oslo.site)).await;
    let homeless = centre.make_node("02:00:00:00:00:03", None).await;
    let list = centre.records(&berlin.credential).await;
    let seen: Vec<&str> =
        list.iter().map(|record| record["node_id"].as_str().expect("an id")).collect();
    let mut expected = [id::<NodeId>(&own).to_string(), id::<NodeId>(&homeless).to_string()];
    expected.sort();
    let mut seen = seen;
    seen.sort_unstable();
    assert_eq!(seen, expected);
    assert_eq!(centre.record_of(&berlin.credential, "02-00-00-00-00-02").await, None);
}
