//! The audit: complete by construction, and without secrets.

use std::sync::Arc;

use axum::http::Method;
use pureboot_protocol::SiteId;
use serde_json::{Value, json};

use super::authority::{fill, lines, stubs};
use super::{Centre, PASSWORD, from, heartbeat, id, log, registration, request, with_fields};
use crate::audit::{self, Actor, Entry};
use crate::auth::Role;
use crate::auth::rank::Rank;
use crate::forwarded::Proxies;
use crate::guard::action;
use crate::jobs::retention;
use crate::router::{App, assemble, router};
use crate::store::NewUser;

/// The rows, the latest first.
async fn rows(centre: &Centre, query: &str) -> Vec<Value> {
    let answer = centre.get(&format!("/api/v1/audit?limit=500&{query}")).await;
    answer.data().as_array().expect("a list").clone()
}

#[tokio::test]
async fn every_route_that_changes_something_leaves_one_row_and_no_other_does() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await.credential;
    let stubbed = assemble(centre.app.clone(), stubs(&centre.app).await);
    let stubbed = Centre { router: stubbed, ..centre };
    let reader = Centre { router: router(stubbed.app.clone()), ..Centre::start().await };
    let thing = "00000000-0000-4000-8000-00000000000a";
    let mut changing = 0;
    for (role, path, verbs) in lines(&stubbed.app).await {
        for verb in verbs {
            let correlation_id = format!("audit.{changing}.{}", verb.as_str());
            let bearer = if role == Role::Agent { &agent } else { &stubbed.operator };
            let mut call =
                request(Some(bearer), verb.as_str(), &fill(path, thing), Some(json!({})));
            let value = correlation_id.parse().expect("a value");
            call.headers_mut().insert("x-correlation-id", value);
            assert_eq!(stubbed.send(from(call, [203, 0, 113, 7])).await.status, 204);
            let all = reader.call(&stubbed.operator, "GET", "/api/v1/audit?limit=500", None).await;
            let found: Vec<_> = all
                .data()
                .as_array()
                .expect("a list")
                .iter()
                .filter(|row| row["correlation_id"] == correlation_id.as_str())
                .collect();
            if verb == Method::GET || role == Role::Agent {
                assert!(found.is_empty(), "{verb} {path}: {found:?}");
                continue;
            }
            changing += 1;
            let [row] = found[..] else { panic!("{verb} {path} left {found:?}") };
            assert_eq!(row["action"], action(&verb, path));
            assert_eq!(row["address"], "203.0.113.7");
            assert_eq!(
                (&row["status"], &row["at"]),
                (&json!(204), &json!("2026-11-21T00:00:00.000Z"))
            );
            let is_known = role != Role::Anyone;
            assert_eq!(row["actor"]["name"], if is_known { "operator-token" } else { "" });
            assert_eq!(row["actor"]["kind"], if is_known { "token" } else { "nobody" });
            let target = row["target"].as_str().unwrap_or_default();
            assert_eq!(target.starts_with(thing), path.contains('{'), "{verb} {path}: {target}");
        }
    }
    assert!(changing > 20, "{changing}");
}

#[tokio::test]
async fn a_row_says_who_did_what_to_what_and_what_is_refused_leaves_none() {
    let centre = Centre::start().await;
    let ada = centre.make_user("ada", "operator").await;
    let cookie = centre.sign_in("ada").await;
    let body = Some(json!({"name": "berlin"}));
    let site = centre.page(&cookie, "POST", "/api/v1/sites", body.clone()).await;
    let site_id = site.data()["id"].clone();
    assert_eq!(centre.page(&cookie, "POST", "/api/v1/sites", body).await.status, 409);
    assert_eq!(centre.page(&cookie, "POST", "/api/v1/users", Some(json!({}))).await.status, 403);
    let path = format!("/api/v1/sites/{}", site_id.as_str().expect("an id"));
    centre.page(&cookie, "PATCH", &path, Some(json!({"description": "x"}))).await.data();
    let found = rows(&centre, "actor=ada").await;
    let actions: Vec<_> = found.iter().map(|row| row["action"].as_str().expect("text")).collect();
    assert_eq!(actions, ["PATCH /sites/{id}", "POST /sites", "login"]);
    for row in &found[..2] {
        assert_eq!(row["target"], site_id);
        assert_eq!(row["actor"], json!({"kind": "user", "id": ada, "name": "ada"}));
        assert_eq!(row["address"], "192.0.2.1");
    }
    assert_eq!(found[1]["status"], 201);
    assert_eq!(
        found[1]["correlation_id"],
        site.headers["x-correlation-id"].to_str().expect("text")
    );
}

#[tokio::test]
async fn a_change_for_many_nodes_names_them() {
    let centre = Centre::start().await;
    let node = centre.make_node("02:00:00:00:00:01", None).await;
    let nowhere = "00000000-0000-4000-8000-000000000000";
    let body = json!({"node_ids": [node["id"], nowhere], "tag": "rack-1"});
    centre.post("/api/v1/nodes/bulk/add-tag", body).await.data();
    let found = rows(&centre, "action=POST%20/nodes/bulk").await;
    let detail = json!({"node_ids": [node["id"], nowhere], "refused": [nowhere]});
    assert_eq!((found.len(), &found[0]["detail"]), (1, &detail));
}

#[tokio::test]
async fn a_row_is_written_in_the_transaction_of_its_effect() {
    let centre = Centre::start().await;
    let ada = || NewUser { name: "ada".to_owned(), password: String::new(), role: Rank::Viewer };
    let act = async || {
        let actor = Actor::command_line("root".to_owned());
        let entry = Arc::new(Entry::new(centre.app.now(), actor, "test", "c"));
        let work = centre.app.store.create_user(ada(), centre.app.now());
        audit::within(entry, work).await.is_ok()
    };
    // The process could end here: nobody completes the row.
    assert!(act().await);
    assert!(!act().await, "the name is taken");
    let found = rows(&centre, "action=test").await;
    assert_eq!(found.len(), 1, "what is rolled back takes its row along: {found:?}");
    assert_eq!((&found[0]["status"], &found[0]["actor"]["name"]), (&Value::Null, &json!("root")));
}

#[tokio::test]
async fn security_events_are_kept_and_heartbeats_are_not() {
    let centre = Centre::start().await;
    centre.make_user("ada", "viewer").await;
    let joined = centre.join("berlin").await;
    for (name, password) in [("ada", "wrong password"), ("my secret password", PASSWORD)] {
        let body = json!({"username": name, "password": password});
        centre.send(request(None, "POST", "/api/v1/session", Some(body))).await;
    }
    centre.register(registration(joined.site, "wrong", None)).await;
    let stranger = pureboot_protocol::Secret::from_random([9; 32]);
    for _ in 0..5 {
        centre.call(&stranger, "POST", "/api/v1/agents/heartbeat", Some(json!({}))).await;
    }
    let before = rows(&centre, "").await.len();
    let beat = Some(heartbeat(joined.site, 1));
    let answer = centre.call(&joined.credential, "POST", "/api/v1/agents/heartbeat", beat).await;
    assert_eq!(answer.status, 200);
    assert_eq!(rows(&centre, "").await.len(), before);
    let failed = rows(&centre, "action=login.failed").await;
    let (unknown, known) = (&failed[0]["target"], &failed[1]["target"]);
    assert!(known.is_string() && unknown.is_null(), "a name that nobody has may be a password");
    let refused = rows(&centre, "action=credential.refused").await;
    assert_eq!((refused.len(), &refused[0]["status"]), (1, &json!(401)), "one row for many");
    let registered = rows(&centre, "action=agent.registered").await;
    assert_eq!(registered[0]["target"], json!(joined.site));
    assert_eq!(registered[0]["actor"]["kind"], "agent");
    let refused = rows(&centre, "action=agent.registration_refused").await;
    assert_eq!(refused[0]["target"], json!(joined.site));
}

#[tokio::test]
async fn rows_are_found_by_what_is_asked_and_forgotten_when_they_are_old() {
    let centre = Centre::start().await;
    let first: SiteId = centre.make_site("first").await;
    centre.pass_seconds(3_600);
    centre.make_site("second").await;
    let count = async |query: &str| rows(&centre, query).await.len();
    // Two are of the content that every controller of these tests has.
    assert_eq!(count("").await, 4);
    assert_eq!(count("actor=operator-token").await, 4);
    assert_eq!(count("actor=ada").await, 0);
    assert_eq!(count("action=POST%20/si").await, 2);
    assert_eq!(count("action=DELETE").await, 0);
    assert_eq!(count(&format!("target={first}")).await, 1);
    assert_eq!(count("since=2026-11-21T00:30:00Z").await, 1);
    assert_eq!(count("until=2026-11-21T00:30:00Z").await, 3);
    let made = centre.get(&format!("/api/v1/audit?target={first}")).await;
    let request = made.data()[0]["correlation_id"].as_str().expect("an id").to_owned();
    assert_eq!(count(&format!("correlation_id={request}")).await, 1);
    assert_eq!(count("correlation_id=another").await, 0);
    assert_eq!(count(&format!("correlation_id={request}&action=DELETE")).await, 0);
    let page = centre.get("/api/v1/audit?limit=1").await;
    assert_eq!(page.body["total"], 4);
    let cursor = page.body["next_cursor"].as_str().expect("another page");
    let next = centre.get(&format!("/api/v1/audit?limit=1&cursor={cursor}")).await;
    assert_eq!(next.data()[0]["target"], json!(first));
    let wrong = centre.get("/api/v1/audit?since=yesterday").await;
    assert_eq!(wrong.problem(), (422, "validation_failed".to_owned()));
    assert_eq!(wrong.body["errors"][0]["field"], "since", "{wrong:?}");
    let missing = centre.get("/api/v1/content/manifest").await;
    assert_eq!(missing.body["errors"][0]["field"], "site_id", "{missing:?}");
    centre.pass_seconds(400 * 24 * 3_600 - 1_800);
    assert_eq!(count("").await, 4);
    retention::look(&centre.app).await.expect("forgotten");
    assert_eq!(count("").await, 1);
}

#[tokio::test]
async fn a9_limits_and_audit_go_by_the_client_of_a_proxy_that_is_believed_and_of_no_other() {
    let centre = Centre::start().await;
    let proxies = Proxies::new(vec!["10.0.0.0/8".parse().expect("a prefix")]);
    let app = App { proxies, ..centre.app.clone() };
    let centre = Centre { router: router(app.clone()), app, ..centre };
    let wrong = |client: &str| {
        let body = json!({"username": "ada", "password": "wrong"});
        let call = request(None, "POST", "/api/v1/session", Some(body));
        with_fields(call, &[("x-forwarded-for", client)])
    };
    for n in 0..10 {
        let answer =
            centre.send(from(wrong(&format!("203.0.113.{n}, 192.0.2.7")), [10, 0, 0, 1])).await;
        assert_eq!(answer.status, 401);
    }
    let status = async |call| centre.send(call).await.status.as_u16();
    assert_eq!(status(from(wrong("192.0.2.7"), [10, 0, 0, 2])).await, 429, "by another proxy");
    assert_eq!(status(from(wrong("192.0.2.8"), [10, 0, 0, 1])).await, 401, "another client");
    assert_eq!(status(from(wrong("192.0.2.7"), [198, 51, 100, 1])).await, 401, "only claimed");
    let failed = rows(&centre, "action=login.failed").await;
    let addresses: Vec<_> = failed.iter().take(3).map(|row| row["address"].clone()).collect();
    assert_eq!(addresses, ["198.51.100.1", "192.0.2.8", "192.0.2.7"]);
}

#[tokio::test]
async fn a10_no_secret_is_in_a_log_an_error_the_audit_or_the_database() {
    let centre = Centre::start().await;
    log::keep();
    centre.make_user("ada", "admin").await;
    let cookie = centre.sign_in("ada").await;
    let token = centre.make_api_token(&centre.operator, json!({"name": "t"})).await;
    let joined = centre.join("city-of-this-log").await;
    let guess = "guess-that-nobody-should-read";
    let mut errors = String::new();
    for answer in [
        centre
            .send(request(
                None,
                "POST",
                "/api/v1/session",
                Some(json!({"username": guess, "password": guess})),
            ))
            .await,
        centre
            .send(request(
                None,
                "POST",
                "/api/v1/session",
                Some(json!({"username": 1, "password": guess})),
            ))
            .await,
        centre
            .call(&pureboot_protocol::Secret::new(guess.to_owned()), "GET", "/api/v1/nodes", None)
            .await,
        centre.call(&token, "POST", "/api/v1/sites", Some(json!({"name": ""}))).await,
        centre
            .page(
                &cookie,
                "POST",
                "/api/v1/users",
                Some(json!({"name": "b", "password": "short-guess"})),
            )
            .await,
        centre.register(registration(joined.site, guess, None)).await,
    ] {
        answer.problem();
        errors += &answer.body.to_string();
    }
    let (_, session) = cookie.split_once('=').expect("name=value");
    let logged = log::take();
    assert!(logged.contains("city-of-this-log"), "the log is there to be searched");
    let audit = Value::from(rows(&centre, "").await).to_string();
    let bytes = centre.app.store.bytes(centre.dir.path()).await;
    let stored = String::from_utf8_lossy(&bytes).into_owned();
    let credential = joined.credential.reveal();
    for secret in [PASSWORD, session, token.reveal(), credential, guess, "short-guess"] {
        for (place, text) in
            [("log", &logged), ("errors", &errors), ("audit", &audit), ("database", &stored)]
        {
            assert!(!text.contains(secret), "{secret} is in the {place}");
        }
    }
    let made: pureboot_protocol::UserId = id(&centre.get("/api/v1/users").await.data()[0]);
    assert!(stored.contains(&made.to_string()), "the database is there to be searched");
}
