//! How an agent joins, lives and falls silent.

use std::net::SocketAddr;

use pureboot_protocol::{RegistrationAnswer, Secret};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Centre, Joined, heartbeat, registration, request};
use crate::extract::Peer;
use crate::jobs::agent_status;
use crate::store::Beat;

const UNUSED: &str =
    "000000000000.0000000000000000000000000000000000000000000000000000000000000000";

#[tokio::test]
async fn a_token_is_shown_once_and_redeemed_for_the_sites_settings() {
    let centre = Centre::start().await;
    let site = centre.make_site("berlin").await;
    let issued = centre.post(&format!("/api/v1/sites/{site}/agent-token"), json!({})).await;
    assert_eq!(issued.data()["expires_in_hours"], 24);
    let token = issued.data()["token"].as_str().expect("a token");
    let credential = Secret::from_random([1; 32]);
    let answer = centre.register(registration(site, token, Some(&credential))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer: RegistrationAnswer = serde_json::from_value(answer.body).expect("an answer");
    assert!(answer.success && answer.credential.is_none());
    assert_eq!((answer.config.site_id, answer.config_version), (site, 1));
    let list = centre.call(&credential, "GET", "/api/v1/agents/nodes", None).await;
    assert_eq!(list.status, 200);
    // A14: a text for people, and nothing in this crate can open a connection to it.
    let seen = centre.get(&format!("/api/v1/sites/{site}")).await;
    assert_eq!(seen.data()["agent_url"], "http://169.254.169.254/latest/meta-data");
    assert_eq!(seen.data()["agent_status"], "online");
}

#[tokio::test]
async fn an_agent_that_brings_no_secret_is_given_one_once() {
    let centre = Centre::start().await;
    let site = centre.make_site("berlin").await;
    let token = centre.make_token(site).await;
    let answer = centre.register(registration(site, &token, None)).await;
    let credential: Secret =
        serde_json::from_value(answer.body["credential"].clone()).expect("one");
    assert_eq!(centre.call(&credential, "GET", "/api/v1/agents/nodes", None).await.status, 200);
    let again = centre.register(registration(site, &token, None)).await;
    assert_eq!(again.problem(), (401, "token_refused".to_owned()));
}

#[tokio::test]
async fn a1_a4_a_used_token_is_good_for_its_user_and_for_nobody_else() {
    let centre = Centre::start().await;
    let site = centre.make_site("berlin").await;
    let token = centre.make_token(site).await;
    let (own, other) = (Secret::from_random([1; 32]), Secret::from_random([2; 32]));
    let first = centre.register(registration(site, &token, Some(&own))).await;
    let thief = centre.register(registration(site, &token, Some(&other))).await;
    assert_eq!(thief.problem(), (401, "token_refused".to_owned()));
    let again = centre.register(registration(site, &token, Some(&own))).await;
    assert_eq!((again.status.as_u16(), &again.body), (200, &first.body));
    let other = centre.call(&other, "GET", "/api/v1/agents/nodes", None).await;
    assert_eq!(other.problem(), (401, "unauthenticated".to_owned()));
    centre.pass_seconds(24 * 3_600);
    let late = centre.register(registration(site, &token, Some(&own))).await;
    assert_eq!(late.problem(), (401, "token_refused".to_owned()));
}

#[tokio::test]
async fn a2_of_64_agents_that_redeem_one_token_at_once_one_wins() {
    let centre = Centre::start().await;
    let site = centre.make_site("berlin").await;
    let token = centre.make_token(site).await;
    let mut agents = JoinSet::new();
    for number in 0..64 {
        let credential = Secret::from_random([number; 32]);
        let body = registration(site, &token, Some(&credential));
        let mut request = request(None, "POST", "/api/v1/agents/register", Some(body));
        request.extensions_mut().insert(Peer(SocketAddr::from(([192, 0, 2, number], 1))));
        let router = centre.router.clone();
        agents.spawn(async move {
            let response = tower::ServiceExt::oneshot(router, request).await.expect("an answer");
            (credential, response.status().as_u16())
        });
    }
    let mut winners = Vec::new();
    for (credential, status) in agents.join_all().await {
        match status {
            200 => winners.push(credential),
            status => assert_eq!(status, 401),
        }
    }
    assert_eq!(winners.len(), 1);
    let list = centre.call(&winners[0], "GET", "/api/v1/agents/nodes", None).await;
    assert_eq!(list.status, 200);
    assert_eq!(centre.get("/api/v1/agents").await.body["total"], 1);
}

#[tokio::test]
async fn a3_every_token_that_is_not_valid_gets_the_same_answer() {
    let centre = Centre::start().await;
    let (site, other) = (centre.make_site("berlin").await, centre.make_site("oslo").await);
    let ended = centre.make_token(site).await;
    let current = centre.make_token(site).await;
    let foreign = centre.make_token(other).await;
    let (id, secret) = current.split_once('.').expect("id.secret");
    let credential = Secret::from_random([1; 32]);
    let mut bodies = Vec::new();
    for token in [
        UNUSED,
        &ended,
        &foreign,
        &current.to_uppercase(),
        &current[1..],
        "",
        &format!("{id}.{}", &foreign[13..]),
        &format!("{}.{secret}", &foreign[..12]),
    ] {
        let answer = centre.register(registration(site, token, Some(&credential))).await;
        assert_eq!(answer.problem(), (401, "token_refused".to_owned()), "{token}");
        let mut body = answer.body;
        body["correlation_id"] = Value::Null;
        bodies.push(body);
    }
    assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]));
    centre.pass_seconds(24 * 3_600 - 1);
    let answer = centre.register(registration(site, &current, Some(&credential))).await;
    assert_eq!(answer.status, 200, "the valid one is, for 24 hours: {answer:?}");
}

#[tokio::test]
async fn a_registration_that_cannot_be_meant_is_told_why() {
    let centre = Centre::start().await;
    let site = centre.make_site("berlin").await;
    let nowhere = "00000000-0000-4000-8000-000000000000".parse().expect("an id");
    let answer = centre.register(registration(nowhere, UNUSED, None)).await;
    assert_eq!(answer.problem(), (404, "not_found".to_owned()));
    let answer = centre.register(registration(site, UNUSED, None)).await;
    assert_eq!(answer.problem(), (400, "no_registration_token".to_owned()));
    assert_eq!(answer.detail(), "No registration token configured for this site");
    let missing = centre.post(&format!("/api/v1/sites/{nowhere}/agent-token"), json!({})).await;
    assert_eq!(missing.problem(), (404, "not_found".to_owned()));
    let mut body = registration(site, UNUSED, None);
    body["credential_hash"] = json!("abc");
    let answer = centre.register(body).await;
    assert_eq!(answer.body["errors"][0]["field"], "credential_hash");
    let answer = centre.register(json!({"site_id": site})).await;
    assert_eq!(answer.body["errors"][0]["field"], "token");
}

#[tokio::test]
async fn a9_ten_wrong_tokens_of_an_address_close_the_door_to_it() {
    let centre = Centre::start().await;
    let site = centre.make_site("berlin").await;
    let token = centre.make_token(site).await;
    let credential = Secret::from_random([1; 32]);
    for _ in 0..10 {
        let answer = centre.register(registration(site, UNUSED, Some(&credential))).await;
        assert_eq!(answer.status, 401);
    }
    let answer = centre.register(registration(site, &token, Some(&credential))).await;
    assert_eq!(answer.problem(), (429, "too_many_requests".to_owned()));
    let wait: u64 = answer.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..=61).contains(&wait));
    let body = Some(registration(site, &token, Some(&credential)));
    let mut other = request(None, "POST", "/api/v1/agents/register", body);
    other.extensions_mut().insert(Peer(SocketAddr::from(([198, 51, 100, 1], 1))));
    assert_eq!(centre.send(other).await.status, 200);
}

#[tokio::test]
async fn a15_a_fresh_token_lets_another_agent_take_the_place_and_the_old_credential_ends() {
    let centre = Centre::start().await;
    let Joined { site, credential: old } = centre.join("berlin").await;
    let before = centre.get(&format!("/api/v1/agents/{site}/status")).await;
    let token = centre.make_token(site).await;
    assert_eq!(centre.call(&old, "GET", "/api/v1/agents/nodes", None).await.status, 200);
    let new = Secret::from_random([2; 32]);
    centre.register(registration(site, &token, Some(&new))).await;
    assert_eq!(centre.call(&old, "GET", "/api/v1/agents/nodes", None).await.status, 401);
    assert_eq!(centre.call(&new, "GET", "/api/v1/agents/nodes", None).await.status, 200);
    let after = centre.get(&format!("/api/v1/agents/{site}/status")).await;
    assert_ne!(before.data()["agent_id"], after.data()["agent_id"]);
}

#[tokio::test]
async fn n13_one_credential_is_not_accepted_for_a_second_site() {
    let centre = Centre::start().await;
    let berlin = centre.join("berlin").await;
    let oslo = centre.make_site("oslo").await;
    let token = centre.make_token(oslo).await;
    let answer = centre.register(registration(oslo, &token, Some(&berlin.credential))).await;
    assert_eq!(answer.problem(), (409, "credential_in_use".to_owned()));
    let fresh = Secret::from_random([7; 32]);
    let answer = centre.register(registration(oslo, &token, Some(&fresh))).await;
    assert_eq!(answer.status, 200, "the token is not spent by the refusal");
}

#[tokio::test]
async fn a_heartbeat_is_kept_and_answered_with_newer_settings() {
    let centre = Centre::start().await;
    let Joined { site, credential } = centre.join("berlin").await;
    let beat = async |version| {
        let body = Some(heartbeat(site, version));
        centre.call(&credential, "POST", "/api/v1/agents/heartbeat", body).await
    };
    centre.pass_seconds(30);
    let answer = beat(1).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        (&answer.body["acknowledged"], &answer.body["config"]),
        (&json!(true), &Value::Null)
    );
    assert_eq!(answer.body["server_time"], "2026-11-21T00:00:30.000Z");
    centre.patch(&format!("/api/v1/sites/{site}"), json!({"heartbeat_interval": 5})).await.data();
    let answer = beat(1).await;
    assert_eq!(answer.body["config"]["heartbeat_interval"], 5);
    assert_eq!(answer.body["config_version"], 2);
    assert_eq!(beat(2).await.body["config"], Value::Null);

    let status = centre.get(&format!("/api/v1/agents/{site}/status")).await;
    assert_eq!(status.data()["status"], "online");
    assert_eq!(status.data()["last_seen"], "2026-11-21T00:00:30.000Z");
    assert_eq!(status.data()["agent_version"], "0.1.1");
    assert_eq!(status.data()["heartbeat"], heartbeat(site, 2));
    let list = centre.get("/api/v1/agents").await;
    assert_eq!((&list.data()[0], &list.body["total"]), (status.data(), &json!(1)));
    let lonely = centre.make_site("oslo").await;
    let none = centre.get(&format!("/api/v1/agents/{lonely}/status")).await;
    assert_eq!(none.problem(), (404, "not_found".to_owned()));
}

#[tokio::test]
async fn a_heartbeat_that_cannot_be_measured_so_is_refused() {
    let centre = Centre::start().await;
    let Joined { site, credential } = centre.join("berlin").await;
    for (field, value) in [
        ("cache_hit_rate", json!(1.5)),
        ("disk_usage_percent", json!(-1)),
        ("disk_usage_percent", json!(101)),
        ("uptime_seconds", json!(-1)),
        ("timestamp", json!("yesterday")),
    ] {
        let mut body = heartbeat(site, 1);
        body[field] = value;
        let answer = centre.call(&credential, "POST", "/api/v1/agents/heartbeat", Some(body)).await;
        assert_eq!(answer.problem(), (422, "validation_failed".to_owned()), "{field}");
        assert_eq!(answer.body["errors"][0]["field"], field);
    }
    let mut body = heartbeat(site, 1);
    body["last_sync_result"] = json!("x".repeat(70_000));
    let answer = centre.call(&credential, "POST", "/api/v1/agents/heartbeat", Some(body)).await;
    assert_eq!(answer.problem(), (413, "too_large".to_owned()));
}

#[tokio::test]
async fn i7_the_history_of_heartbeats_is_bounded() {
    let centre = Centre::start().await;
    let Joined { site, credential } = centre.join("berlin").await;
    let agent = crate::auth::hash(&credential);
    let Ok(Some(crate::auth::Caller::Agent(agent))) =
        centre.app.callers.find(agent, centre.app.now()).await
    else {
        panic!("the agent has joined");
    };
    let beat = serde_json::from_value(heartbeat(site, 1)).expect("a heartbeat");
    let beats: Vec<_> = (0..1_450).map(|_| Beat::new(agent, &beat, centre.app.now())).collect();
    centre.app.store.keep_beats(&beats).await.expect("kept");
    let kept = centre.get(&format!("/api/v1/agents/{site}/heartbeats")).await;
    assert_eq!(kept.body["total"], 1_440);
}

#[tokio::test]
async fn an_agent_that_falls_silent_is_degraded_then_offline_and_one_heartbeat_brings_it_back() {
    let centre = Centre::start().await;
    let Joined { site, credential } = centre.join("berlin").await;
    let started = centre.app.now();
    let path = format!("/api/v1/sites/{site}");
    for (seconds, status) in [(119, "online"), (1, "degraded"), (180, "degraded"), (1, "offline")] {
        centre.pass_seconds(seconds);
        agent_status::look(&centre.app, started).await.expect("looked");
        assert_eq!(centre.get(&path).await.data()["agent_status"], status);
    }
    let body = Some(heartbeat(site, 1));
    centre.call(&credential, "POST", "/api/v1/agents/heartbeat", body).await;
    agent_status::look(&centre.app, started).await.expect("looked");
    assert_eq!(centre.get(&path).await.data()["agent_status"], "online");
    assert_eq!(centre.get(&path).await.data()["version"], 1, "a status is no setting");
}
