//! Versions of the agent from their upload to the signed order that one site is given.

use axum::body::Body;
use axum::http::StatusCode;
use pureboot_protocol::{AgentUpdate, SignedUpdate, SiteId, Timestamp};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::{Value, json};

use super::{Answer, Centre, Joined, heartbeat, request};

const RELEASES: &str = "/api/v1/agents/releases";

/// A program of 64 bits, with nothing in it but which agent it says that it is; `more` makes it another one.
fn program(machine: u8, text: &str, more: &str) -> Vec<u8> {
    let mut program = vec![0; 64];
    program[..6].copy_from_slice(b"\x7fELF\x02\x01");
    program[0x12] = machine;
    program.extend(format!("pureboot-agent release: {text}; {more}").bytes());
    program
}

impl Centre {
    async fn upload_agent(&self, program: Vec<u8>) -> Answer {
        let mut request = request(Some(&self.operator), "POST", RELEASES, None);
        request.headers_mut().insert("content-length", program.len().into());
        *request.body_mut() = Body::from(program);
        self.send(request).await
    }

    async fn order_update(&self, site: SiteId, wish: Value) -> Answer {
        self.post(&format!("/api/v1/sites/{site}/agent-update"), wish).await
    }

    /// A heartbeat of an agent of version `version` for `target`; returns what its answer orders.
    async fn beat_of(&self, agent: &Joined, version: &str, target: &str) -> Value {
        let mut body = heartbeat(agent.site, 1);
        body["agent_version"] = json!(version);
        body["update"] = json!({"target": target, "state": "installed"});
        let answer =
            self.call(&agent.credential, "POST", "/api/v1/agents/heartbeat", Some(body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["commands"].clone()
    }
}

#[tokio::test]
async fn u1_a_program_is_known_by_what_it_says_itself_and_a_version_never_means_another_one() {
    let centre = Centre::start().await;
    let first = program(62, "1.2.0 x86_64", "");
    let new = centre.upload_agent(first.clone()).await;
    assert_eq!(new.status, StatusCode::CREATED);
    assert_eq!(
        (&new.data()["version"], &new.data()["target"]),
        (&json!("1.2.0"), &json!("x86_64"))
    );
    assert_eq!(centre.upload_agent(first).await.status, StatusCode::OK);
    let other = centre.upload_agent(program(62, "1.2.0 x86_64", "other")).await;
    assert_eq!(
        (other.status, &other.body["code"]),
        (StatusCode::CONFLICT, &json!("release_exists"))
    );
    for (program, why) in [
        (b"#!/bin/sh".to_vec(), "no program for Linux"),
        (program(62, "1.2.0 z80", ""), "no pureboot-agent"),
        (program(183, "1.2.0 x86_64", ""), "for x86_64, and its header says machine 183"),
    ] {
        let refused = centre.upload_agent(program).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(refused.body["detail"].as_str().expect("a text").contains(why), "{refused:?}");
    }
    centre.upload_agent(program(183, "1.10.0 aarch64", "")).await;
    centre.upload_agent(program(62, "1.10.0 x86_64", "")).await;
    let listed = centre.get(RELEASES).await;
    let names: Vec<_> = listed
        .data()
        .as_array()
        .expect("a list")
        .iter()
        .map(|release| {
            format!(
                "{} {}",
                release["version"].as_str().unwrap_or(""),
                release["target"].as_str().unwrap_or("")
            )
        })
        .collect();
    assert_eq!(names, ["1.10.0 x86_64", "1.10.0 aarch64", "1.2.0 x86_64"]);
    let gone =
        centre.call(&centre.operator, "DELETE", &format!("{RELEASES}/1.2.0/x86_64"), None).await;
    assert_eq!(gone.status, 200);
    for path in ["1.2.0/x86_64", "1.2/x86_64", "1.10.0/z80"] {
        let gone =
            centre.call(&centre.operator, "DELETE", &format!("{RELEASES}/{path}"), None).await;
        assert_eq!(gone.status, 404, "{path}");
    }
    let key = "/api/v1/content/agents/1.10.0/pureboot-agent-x86_64";
    assert_eq!(centre.call(&centre.operator, "DELETE", key, None).await.status, 400);
}

#[tokio::test]
async fn u3_a_site_is_ordered_what_its_agent_can_run_signed_and_nothing_older_unawares() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let early = centre.order_update(agent.site, json!({})).await;
    assert_eq!(
        (early.status, &early.body["code"]),
        (StatusCode::CONFLICT, &json!("not_updatable"))
    );
    assert_eq!(centre.beat_of(&agent, "1.1.0", "aarch64").await, json!([]));
    assert_eq!(centre.order_update(agent.site, json!({})).await.status, StatusCode::NOT_FOUND);

    for text in ["1.0.0 aarch64", "1.2.0 aarch64"] {
        centre.upload_agent(program(183, text, "")).await;
    }
    centre.upload_agent(program(62, "1.3.0 x86_64", "")).await;
    let older = centre.order_update(agent.site, json!({"version": "1.0.0"})).await;
    assert_eq!((older.status, &older.body["code"]), (StatusCode::CONFLICT, &json!("downgrade")));

    let ordered = centre.order_update(agent.site, json!({})).await;
    assert_eq!(ordered.status, StatusCode::CREATED, "{ordered:?}");
    let given = centre.beat_of(&agent, "1.1.0", "aarch64").await;
    assert_eq!(given[0]["command"], "update");
    let signed = given[0]["params"]["update"].clone();
    let signed: SignedUpdate = serde_json::from_value(signed).expect("signed");
    let key = centre.app.content.signer.public();
    UnparsedPublicKey::new(&ED25519, key.as_bytes())
        .verify(&SignedUpdate::signed_bytes(&signed.payload), signed.signature.as_bytes())
        .expect("the controller has signed it");
    let update: AgentUpdate = serde_json::from_str(&signed.payload).expect("an update");
    assert_eq!((update.site_id, update.version.to_string()), (agent.site, "1.2.0".to_owned()));
    assert!(!update.allow_downgrade);
    let object = format!("/api/v1/agents/objects/{}", update.sha256);
    assert_eq!(centre.call(&agent.credential, "GET", &object, None).await.status, 200);

    let wish = json!({"version": "1.0.0", "allow_downgrade": true});
    assert_eq!(centre.order_update(agent.site, wish).await.status, StatusCode::CREATED);
    let by_hand = json!({"command": "update", "params": {"update": signed}});
    let refused = centre.post(&format!("/api/v1/sites/{}/commands", agent.site), by_hand).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn an_operator_sees_that_a_site_went_back_and_why() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let mut body = heartbeat(agent.site, 1);
    let at = Timestamp::from_unix_ms(0);
    body["update"] = json!({
        "target": "x86_64", "state": "installed", "previous": "0.1.0",
        "last": {"version": "0.2.0", "fate": "gone_back", "why": "it ended 3 times", "at": at},
    });
    centre.call(&agent.credential, "POST", "/api/v1/agents/heartbeat", Some(body)).await;
    let health = centre.get(&format!("/api/v1/sites/{}/health", agent.site)).await;
    let alerts = health.data()["alerts"].as_array().expect("alerts").clone();
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    assert_eq!(alerts[0]["code"], "update_failed");
    let message = alerts[0]["message"].as_str().expect("a text");
    assert!(message.contains("version 0.2.0") && message.contains("it ended 3 times"), "{message}");
}

#[tokio::test]
async fn u7_a_heartbeat_of_an_agent_two_versions_ahead_is_taken_as_far_as_it_is_understood() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let mut body = heartbeat(agent.site, 1);
    body["agent_version"] = json!("9.0.0");
    body["mood"] = json!({"today": ["good"]});
    body["services"]["coffee"] = json!({"running": false, "address": "[::1]:1", "cups": 3});
    body["plugins"] = json!("none that you know");
    body["update"] = json!({"target": "quantum", "state": "in two states"});
    let answer =
        centre.call(&agent.credential, "POST", "/api/v1/agents/heartbeat", Some(body)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let status = centre.get(&format!("/api/v1/agents/{}/status", agent.site)).await;
    let known = &status.data()["heartbeat"];
    assert_eq!(known["agent_version"], "9.0.0");
    assert_eq!(known["services"]["coffee"]["running"], false);
    assert_eq!((&known["plugins"], &known["update"]), (&Value::Null, &Value::Null));
    let order = centre.order_update(agent.site, json!({})).await;
    assert_eq!(order.body["code"], "not_updatable");
}
