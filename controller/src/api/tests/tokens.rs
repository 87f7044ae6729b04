//! API tokens: made, shown once, limited, ended.

use pureboot_protocol::Secret;
use serde_json::{Value, json};

use super::{Centre, from, request};
use crate::limit::LimitConfig;
use crate::router::router;

#[tokio::test]
async fn a_token_is_shown_once_opens_what_it_may_and_ends_when_it_is_revoked() {
    let centre = Centre::start().await;
    let wish = json!({"name": "backup", "role": "viewer", "expires_in_days": 30});
    let made = centre.post("/api/v1/tokens", wish).await;
    assert_eq!(made.status, 201);
    assert_eq!(made.data()["expires_at"], "2026-12-21T00:00:00.000Z");
    let secret: Secret = serde_json::from_value(made.data()["secret"].clone()).expect("a secret");
    assert!(secret.reveal().starts_with("pbt_") && secret.reveal().len() == 68);
    let list = centre.get("/api/v1/tokens").await;
    assert_eq!(list.body["total"], 2);
    assert!(!list.body.to_string().contains(secret.reveal()));
    let used = async || {
        let list = centre.get("/api/v1/tokens").await;
        let mut rows = list.data().as_array().expect("a list").iter();
        let row = rows.find(|row| row["name"] == "backup").expect("the token");
        row["last_used_at"].clone()
    };
    assert_eq!(used().await, Value::Null);
    assert_eq!(centre.call(&secret, "GET", "/api/v1/nodes", None).await.status, 200);
    assert_eq!(used().await, "2026-11-21T00:00:00.000Z");
    centre.pass_seconds(59);
    centre.call(&secret, "GET", "/api/v1/nodes", None).await;
    assert_eq!(used().await, "2026-11-21T00:00:00.000Z", "written down once a minute at most");
    centre.pass_seconds(1);
    centre.call(&secret, "GET", "/api/v1/nodes", None).await;
    assert_eq!(used().await, "2026-11-21T00:01:00.000Z");
    let path = format!("/api/v1/tokens/{}", made.data()["id"].as_str().expect("an id"));
    let revoked = centre.delete(&path).await;
    assert_eq!(revoked.data()["revoked_at"], "2026-11-21T00:01:00.000Z");
    centre.pass_seconds(5);
    assert_eq!(centre.delete(&path).await.data(), revoked.data(), "twice is once");
    assert_eq!(centre.call(&secret, "GET", "/api/v1/nodes", None).await.status, 401);
}

#[tokio::test]
async fn a_token_never_has_more_than_its_owner_and_lasts_no_longer_than_what_it_is_made_with() {
    let centre = Centre::start().await;
    centre.make_user("ada", "admin").await;
    let grace = centre.make_user("grace", "operator").await;
    let cookie = centre.sign_in("grace").await;
    let make = async |wish: Value| centre.page(&cookie, "POST", "/api/v1/tokens", Some(wish)).await;
    let more = make(json!({"name": "t", "role": "admin"})).await;
    assert_eq!(more.problem(), (403, "role_needed".to_owned()));
    let more = make(json!({"name": "t", "scopes": ["admin"]})).await;
    assert_eq!(more.body["errors"][0]["field"], "scopes");
    let made = make(json!({"name": "t", "expires_in_days": 10})).await;
    let token: Secret = serde_json::from_value(made.data()["secret"].clone()).expect("a secret");
    let body = Some(json!({"name": "child", "expires_in_days": 3_650}));
    let child = centre.call(&token, "POST", "/api/v1/tokens", body).await;
    assert_eq!(child.data()["expires_at"], made.data()["expires_at"]);
    assert_eq!(child.data()["user_name"], "grace");
    let write = async || {
        let body = Some(json!({"mac_address": "x"}));
        centre.call(&token, "POST", "/api/v1/nodes", body).await.status.as_u16()
    };
    assert_eq!(write().await, 400);
    let path = format!("/api/v1/users/{grace}");
    centre.patch(&path, json!({"role": "viewer"})).await.data();
    assert_eq!(write().await, 403, "it shrinks with its owner");
    assert_eq!(centre.delete(&path).await.status, 200);
    assert_eq!(write().await, 401, "and ends with its owner");
}

#[tokio::test]
async fn a_token_with_scopes_makes_ends_and_lists_no_more_than_they_say() {
    let centre = Centre::start().await;
    let wish = json!({"name": "t", "scopes": ["admin", "nodes:write"]});
    let limited = centre.make_api_token(&centre.operator, wish).await;
    let body = Some(json!({"name": "free"}));
    let answer = centre.call(&limited, "POST", "/api/v1/tokens", body).await;
    assert_eq!(answer.problem(), (403, "scope_needed".to_owned()));
    let users = centre.call(&limited, "GET", "/api/v1/users", None).await;
    assert_eq!(users.status, 200);
    let sites = centre.call(&limited, "POST", "/api/v1/sites", Some(json!({"name": "a"}))).await;
    assert_eq!(sites.problem(), (403, "scope_needed".to_owned()));
    let no_scopes = centre.post("/api/v1/tokens", json!({"name": "t", "scopes": []})).await;
    assert_eq!(no_scopes.body["errors"][0]["field"], "scopes");
    let unknown = centre.post("/api/v1/tokens", json!({"name": "t", "scopes": ["all"]})).await;
    assert_eq!(unknown.problem(), (422, "validation_failed".to_owned()));
    for days in [0, 3_651] {
        let wish = json!({"name": "t", "expires_in_days": days});
        let answer = centre.post("/api/v1/tokens", wish).await;
        assert_eq!(answer.body["errors"][0]["field"], "expires_in_days");
    }
}

#[tokio::test]
async fn whoever_is_no_admin_sees_and_ends_only_their_own_tokens() {
    let centre = Centre::start().await;
    centre.make_user("ada", "viewer").await;
    centre.make_user("grace", "operator").await;
    let (ada, grace) = (centre.sign_in("ada").await, centre.sign_in("grace").await);
    let body = Some(json!({"name": "mine"}));
    let made = centre.page(&ada, "POST", "/api/v1/tokens", body).await;
    let path = format!("/api/v1/tokens/{}", made.data()["id"].as_str().expect("an id"));
    assert_eq!(centre.page(&ada, "GET", "/api/v1/tokens", None).await.body["total"], 1);
    assert_eq!(centre.page(&grace, "GET", "/api/v1/tokens", None).await.body["total"], 0);
    let foreign = centre.page(&grace, "DELETE", &path, None).await;
    assert_eq!(foreign.problem(), (404, "not_found".to_owned()));
    let list = centre.page(&ada, "GET", "/api/v1/tokens", None).await;
    assert_eq!(list.data()[0]["revoked_at"], Value::Null, "the refusal has had no effect");
    assert_eq!(centre.page(&ada, "DELETE", &path, None).await.status, 200);
    let ownerless =
        centre.make_api_token(&centre.operator, json!({"name": "t", "role": "viewer"})).await;
    let answer = centre.call(&ownerless, "GET", "/api/v1/tokens", None).await;
    assert_eq!(answer.problem(), (403, "role_needed".to_owned()));
}

#[tokio::test]
async fn i7_an_owner_has_a_bounded_number_of_tokens() {
    let centre = Centre::start().await;
    centre.make_user("ada", "viewer").await;
    let cookie = centre.sign_in("ada").await;
    let make =
        async || centre.page(&cookie, "POST", "/api/v1/tokens", Some(json!({"name": "t"}))).await;
    for _ in 0..100 {
        assert_eq!(make().await.status, 201);
    }
    assert_eq!(make().await.problem(), (409, "too_many_tokens".to_owned()));
    centre.pass_seconds(90 * 24 * 3_600);
    let cookie = centre.sign_in("ada").await;
    let body = Some(json!({"name": "t"}));
    let answer = centre.page(&cookie, "POST", "/api/v1/tokens", body).await;
    assert_eq!(answer.status, 201, "what has ended does not count");
}

#[tokio::test]
async fn a9_guessing_credentials_closes_the_door_to_guesses_and_not_to_who_has_one() {
    let centre = Centre::start().await;
    let guess = Secret::from_random([9; 32]);
    for _ in 0..10 {
        assert_eq!(centre.call(&guess, "GET", "/api/v1/nodes", None).await.status, 401);
    }
    let answer = centre.call(&guess, "GET", "/api/v1/nodes", None).await;
    assert_eq!(answer.problem(), (429, "too_many_requests".to_owned()));
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(centre.get("/api/v1/nodes").await.status, 200, "from the same address");
    let elsewhere = from(request(Some(&guess), "GET", "/api/v1/nodes", None), [198, 51, 100, 1]);
    assert_eq!(centre.send(elsewhere).await.status, 401);
}

#[tokio::test]
async fn a_credential_that_asks_too_much_has_to_wait_and_others_behind_its_address_do_not() {
    let centre = Centre::start().await;
    let limits = LimitConfig { per_credential: 1, per_address: 1, failures: 10 };
    let other = centre.make_api_token(&centre.operator, json!({"name": "t"})).await;
    let centre = Centre { router: router(centre.app.clone().limited(limits)), ..centre };
    for _ in 0..10 {
        assert_eq!(centre.get("/api/v1/nodes").await.status, 200);
    }
    let answer = centre.get("/api/v1/nodes").await;
    assert_eq!(answer.problem(), (429, "too_many_requests".to_owned()));
    let wait: u64 = answer.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..=2).contains(&wait));
    assert_eq!(centre.call(&other, "GET", "/api/v1/nodes", None).await.status, 200);
    let health = || request(None, "GET", "/healthz", None);
    for _ in 0..10 {
        assert_eq!(centre.send(health()).await.status, 200);
    }
    assert_eq!(centre.send(health()).await.status, 429);
    assert_eq!(centre.send(from(health(), [198, 51, 100, 1])).await.status, 200);
}
