//! Two controllers on one database, asked for the same thing at once: one of them does it, and both say which.

use std::net::SocketAddr;

use axum::http::StatusCode;
use pureboot_protocol::{ChangeReceipt, Lifecycle, NodeEventKind, Secret};
use serde_json::{Value, json};

use super::changes::{batch, event, hand_over, node_id, outcomes, post, seen, wish};
use super::conflicts::set_strategy;
use super::{Answer, Centre, heartbeat, id, registration, request};
use crate::extract::Peer;

/// Times that each race is run; a window that is open is found in a few.
const ROUNDS: u8 = 12;

async fn two() -> [Centre; 2] {
    let one = Centre::start().await;
    let other = one.beside().await;
    [one, other]
}

/// The statuses of both answers, the lower one first.
fn statuses(answers: (Answer, Answer)) -> [u16; 2] {
    let mut statuses = [answers.0.status.as_u16(), answers.1.status.as_u16()];
    statuses.sort_unstable();
    statuses
}

#[tokio::test]
async fn k4_a_batch_that_reaches_both_controllers_at_once_has_one_effect() {
    let [one, other] = two().await;
    let agent = one.join("berlin").await;
    for epoch in 1..=ROUNDS {
        let items = [seen(1, epoch, epoch), event(2, epoch, NodeEventKind::BootStarted)];
        let mut items = items.to_vec();
        for (seq, item) in (1_u64..).zip(&mut items) {
            item["id"] = json!(format!("{:032x}", u64::from(epoch) * 100 + seq));
        }
        let send = |centre| post(centre, &agent, batch(epoch, 1, &items));
        let (a, b) = tokio::join!(send(&one), send(&other));
        let receipts = [a, b].map(|answer| -> ChangeReceipt {
            serde_json::from_value(answer.body).expect("a receipt")
        });
        let mut results = receipts.each_ref().map(outcomes);
        results.sort();
        assert_eq!(results, ["applied applied through 2", "duplicate duplicate through 2"]);
        let node = other.get(&format!("/api/v1/nodes/{}", node_id(epoch))).await;
        assert_eq!((&node.data()["boot_count"], &node.data()["version"]), (&json!(1), &json!(2)));
    }
}

#[tokio::test]
async fn i5_of_two_operators_with_the_same_version_one_is_told_that_it_is_stale() {
    let [one, other] = two().await;
    let node = one.make_node("02:00:00:00:00:01", None).await;
    let path = format!("/api/v1/nodes/{}", node["id"].as_str().expect("an id"));
    for version in 1..=ROUNDS {
        let change = |centre: &Centre, name: &str| {
            let body = json!({"hostname": name});
            let mut request = request(Some(&centre.operator), "PATCH", &path, Some(body));
            let tag = format!("\"{version}\"").parse().expect("a tag");
            request.headers_mut().insert("if-match", tag);
            request
        };
        let (a, b) = (change(&one, "a"), change(&other, "b"));
        let (a, b) = tokio::join!(one.send(a), other.send(b));
        let name = if a.status.is_success() { "a" } else { "b" };
        assert_eq!(statuses((a, b)), [200, 412]);
        let node = one.get(&path).await;
        assert_eq!(node.data()["hostname"], name);
        assert_eq!(node.data()["version"], version + 1);
    }
}

#[tokio::test]
async fn of_two_operators_who_decide_one_conflict_differently_one_is_told_that_it_is_decided() {
    let [one, other] = two().await;
    let agent = one.join("berlin").await;
    set_strategy(&one, &agent, "manual").await;
    for round in 1..=ROUNDS {
        let seq = u64::from(round) * 2 - 1;
        let items = [seen(seq, round, round), wish(seq + 1, round, Lifecycle::Active, 1)];
        let receipt = hand_over(&one, &agent, seq, &items).await;
        let id = receipt.results[1].conflict_id.expect("a conflict");
        let path = format!("/api/v1/sync/conflicts/{id}/resolve");
        let merge = json!({"resolution": "merge", "fields": {"hostname": "a"}});
        let keep = json!({"resolution": "keep_central"});
        let answers = tokio::join!(one.post(&path, merge), other.post(&path, keep));
        assert_eq!(statuses(answers), [200, 409]);
        let node = one.get(&format!("/api/v1/nodes/{}", node_id(round))).await;
        assert_eq!(node.data()["version"], 2, "one of them has had an effect");
    }
}

#[tokio::test]
async fn a_name_and_an_address_are_given_once() {
    let [one, other] = two().await;
    for round in 1..=ROUNDS {
        let site = json!({"name": format!("site-{round}")});
        let make = async |centre: &Centre| centre.post("/api/v1/sites", site.clone()).await;
        assert_eq!(statuses(tokio::join!(make(&one), make(&other))), [201, 409]);
        let node = json!({"mac_address": format!("02:00:00:00:00:{round:02x}")});
        let make = async |centre: &Centre| centre.post("/api/v1/nodes", node.clone()).await;
        assert_eq!(statuses(tokio::join!(make(&one), make(&other))), [201, 409]);
    }
    assert_eq!(one.get("/api/v1/sites").await.body["total"], ROUNDS);
}

#[tokio::test]
async fn a2_of_two_agents_with_one_token_one_is_let_in() {
    let [one, other] = two().await;
    for round in 1..=ROUNDS {
        let site = one.make_site(&format!("site-{round}")).await;
        let token = one.make_token(site).await;
        let secrets = [round, 100 + round].map(|seed| Secret::from_random([seed; 32]));
        let [a, b] = secrets.each_ref().map(|secret| {
            let body = Some(registration(site, &token, Some(secret)));
            let mut request = request(None, "POST", "/api/v1/agents/register", body);
            // The limit of failures from one address is for others to test.
            request.extensions_mut().insert(Peer(SocketAddr::from(([192, 0, 2, round], 40_000))));
            request
        });
        let answers = tokio::join!(one.send(a), other.send(b));
        assert_eq!(statuses(answers), [200, 401]);
        let mut are_known = Vec::new();
        for secret in &secrets {
            let beat = Some(heartbeat(site, 1));
            let answer = other.call(secret, "POST", "/api/v1/agents/heartbeat", beat).await;
            are_known.push(answer.status == StatusCode::OK);
        }
        are_known.sort_unstable();
        assert_eq!(are_known, [false, true]);
    }
}

#[tokio::test]
async fn a_tree_never_becomes_a_circle() {
    let [one, other] = two().await;
    for round in 1..=ROUNDS {
        let mut ids = Vec::new();
        for name in ["a", "b"] {
            let body = json!({"name": format!("{name}-{round}")});
            let group: Value = one.post("/api/v1/groups", body).await.data().clone();
            ids.push(id::<String>(&group));
        }
        let under = async |centre: &Centre, child: usize, parent: usize| {
            let path = format!("/api/v1/groups/{}", ids[child]);
            centre.patch(&path, json!({"parent_id": ids[parent]})).await
        };
        let answers = tokio::join!(under(&one, 0, 1), under(&other, 1, 0));
        assert_eq!(statuses(answers), [200, 400], "round {round}");
    }
}

#[tokio::test]
async fn what_is_about_to_be_used_is_not_deleted() {
    let [one, other] = two().await;
    let node = one.make_node("02:00:00:00:00:01", None).await;
    let path = format!("/api/v1/nodes/{}", node["id"].as_str().expect("an id"));
    for round in 1..=ROUNDS {
        let body = json!({"name": format!("w-{round}"), "method": "kernel", "kernel": "images/debian/linux"});
        let workflow: String = id(one.post("/api/v1/workflows", body).await.data());
        let assign = one.patch(&path, json!({"workflow_id": workflow}));
        let file = format!("/api/v1/workflows/{workflow}");
        let (assigned, deleted) = tokio::join!(assign, other.delete(&file));
        let outcome = (assigned.status.is_success(), deleted.status.is_success());
        assert!(outcome.0 != outcome.1, "round {round}: {assigned:?} {deleted:?}");
        one.patch(&path, json!({"workflow_id": null})).await.data();
    }
}

#[tokio::test]
async fn what_is_said_at_one_controller_is_known_at_the_other_at_once() {
    let [one, other] = two().await;
    let agent = one.join("berlin").await;
    let site = format!("/api/v1/sites/{}", agent.site);
    for interval in 10..10 + ROUNDS {
        let changed = one.patch(&site, json!({"heartbeat_interval": interval})).await;
        let beat = Some(heartbeat(agent.site, 1));
        let answer = other.call(&agent.credential, "POST", "/api/v1/agents/heartbeat", beat).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let version = &changed.data()["version"];
        assert_eq!(&answer.body["config_version"], version, "{answer:?}");
        assert_eq!(answer.body["config"]["heartbeat_interval"], interval, "{answer:?}");
    }
    other.make_node("02:00:00:00:00:01", Some(agent.site)).await;
    let records = one.records(&agent.credential).await;
    assert_eq!(records[0]["state"], Lifecycle::Discovered.as_str());
}

#[tokio::test]
async fn nobody_is_refused_because_others_write_too() {
    let [one, other] = two().await;
    let agent = one.join("berlin").await;
    let node = one.make_node("02:00:00:00:00:01", Some(agent.site)).await;
    let path = format!("/api/v1/nodes/{}", node["id"].as_str().expect("an id"));
    for round in 1..=ROUNDS {
        let body = json!({"hostname": format!("n{round}")});
        let beat = || Some(heartbeat(agent.site, 1));
        let beats = "/api/v1/agents/heartbeat";
        let (a, b, c, d, e, f) = tokio::join!(
            one.patch(&path, body.clone()),
            other.patch(&path, body.clone()),
            one.call(&agent.credential, "POST", beats, beat()),
            other.call(&agent.credential, "POST", beats, beat()),
            one.post("/api/v1/groups", json!({"name": format!("g{round}")})),
            other.post("/api/v1/groups", json!({"name": format!("h{round}")})),
        );
        for answer in [a, b, c, d, e, f] {
            assert!(answer.status.is_success(), "round {round}: {answer:?}");
        }
    }
    let node = one.get(&path).await;
    assert_eq!(node.data()["version"], 1 + 2 * ROUNDS, "no change is lost");
    let beats = format!("/api/v1/agents/{}/heartbeats", agent.site);
    assert_eq!(one.get(&beats).await.body["total"], 2 * ROUNDS);
}

#[tokio::test]
async fn a_command_is_given_to_one_of_two_heartbeats_at_once_wherever_it_was_ordered() {
    let [one, other] = two().await;
    let agent = one.join("berlin").await;
    for round in 1..=ROUNDS {
        let order = json!({"command": "invalidate", "params": {"mac": format!("02:00:00:00:00:{round:02x}")}});
        let commands = format!("/api/v1/sites/{}/commands", agent.site);
        let (a, b) =
            tokio::join!(one.post(&commands, order.clone()), other.post(&commands, order.clone()));
        assert_eq!(a.data()["id"], b.data()["id"]);
        assert_eq!(statuses((a, b)), [200, 201]);
        let beat = || Some(heartbeat(agent.site, 1));
        let beats = "/api/v1/agents/heartbeat";
        let (a, b) = tokio::join!(
            one.call(&agent.credential, "POST", beats, beat()),
            other.call(&agent.credential, "POST", beats, beat()),
        );
        let given = |answer: &Answer| answer.body["commands"].as_array().map_or(0, Vec::len);
        assert_eq!(given(&a) + given(&b), 1, "round {round}: {a:?} {b:?}");
    }
}

#[tokio::test]
async fn a_node_that_two_operators_retire_at_once_is_retired_for_both() {
    let [one, other] = two().await;
    for round in 1..=ROUNDS {
        let node = one.make_node(&format!("02:00:00:00:01:{round:02x}"), None).await;
        let path = format!("/api/v1/nodes/{}", node["id"].as_str().expect("an id"));
        let (a, b) = tokio::join!(one.delete(&path), other.delete(&path));
        assert_eq!(
            (&a.data()["state"], &b.data()["state"]),
            (&json!("retired"), &json!("retired"))
        );
        assert_eq!(one.get(&path).await.data()["version"], 2);
    }
}
