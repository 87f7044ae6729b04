//! Two machines under one identity, and two histories under one epoch (FAULTS N13, A5, A17, D10, N12, Q10).

use pureboot_protocol::{
    ChainHash, ChangeReceipt, ContentHash, InstanceId, NodeEventKind, Outcome, Secret,
};
use serde_json::{Value, json};

use super::changes::{batch, event, outcomes, post, seen};
use super::{Answer, Centre, Joined, heartbeat, registration};

fn life(number: u8) -> InstanceId {
    InstanceId::from_bytes([number; 16])
}

fn named(mut body: Value, id: u8, succeeds: Option<u8>) -> Value {
    body["instance"] = json!({"id": life(id)});
    if let Some(succeeds) = succeeds {
        body["instance"]["succeeds"] = json!(life(succeeds));
    }
    body
}

async fn beat(centre: &Centre, agent: &Joined, id: u8, succeeds: Option<u8>) -> Answer {
    let body = named(heartbeat(agent.site, 1), id, succeeds);
    centre.call(&agent.credential, "POST", "/api/v1/agents/heartbeat", Some(body)).await
}

async fn alerts(centre: &Centre, agent: &Joined) -> String {
    let health = centre.get(&format!("/api/v1/sites/{}/health", agent.site)).await;
    health.data()["alerts"].to_string()
}

#[tokio::test]
async fn n13_a5_the_second_machine_is_refused_and_both_are_named() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    assert_eq!(beat(&centre, &agent, 1, None).await.status, 200);
    let refused = beat(&centre, &agent, 9, None).await;
    assert_eq!(refused.problem(), (409, "identity_in_use".to_owned()));
    for word in [life(1).to_string(), life(9).to_string(), "180 s".to_owned()] {
        assert!(refused.detail().contains(&word), "{word}: {}", refused.detail());
    }
    // Neither are its changes taken, nor those of who names no life, and the queue of the first goes on.
    let changes = batch(1, 1, &[seen(1, 1, 1)]);
    let refused = post(&centre, &agent, named(changes.clone(), 9, None)).await;
    assert_eq!(refused.problem(), (409, "identity_in_use".to_owned()));
    let refused = post(&centre, &agent, changes.clone()).await;
    assert_eq!(refused.problem(), (409, "identity_in_use".to_owned()));
    let taken = post(&centre, &agent, named(changes, 1, None)).await;
    let receipt: ChangeReceipt = serde_json::from_value(taken.body).expect("a receipt");
    assert_eq!(outcomes(&receipt), "applied through 1");
    let alerts = alerts(&centre, &agent).await;
    assert!(
        alerts.contains("identity_in_use") && alerts.contains(&life(9).to_string()),
        "{alerts}"
    );
    let audit = centre.get("/api/v1/audit?action=agent.identity_in_use").await;
    let details: Vec<_> = audit.data().as_array().expect("a list").iter().collect();
    assert!(details.iter().any(|row| row["detail"]["rival"] == json!(life(9))), "{details:?}");
    assert!(details.iter().all(|row| row["detail"]["holder"] == json!(life(1))), "{details:?}");
    assert!(details.iter().all(|row| row["address"] == "192.0.2.1"), "{details:?}");
}

#[tokio::test]
async fn k21_a_restart_goes_on_at_once_and_its_late_packet_takes_nothing_back() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    assert_eq!(beat(&centre, &agent, 1, None).await.status, 200);
    assert_eq!(beat(&centre, &agent, 2, Some(1)).await.status, 200);
    assert_eq!(beat(&centre, &agent, 1, None).await.status, 409);
    assert_eq!(beat(&centre, &agent, 2, Some(1)).await.status, 200);
    assert_eq!(alerts(&centre, &agent).await, "[]");
    // It was no restart: the first machine lives, and the copy has to go.
    centre.pass_seconds(60);
    assert_eq!(beat(&centre, &agent, 1, None).await.status, 200);
    assert_eq!(beat(&centre, &agent, 2, Some(1)).await.status, 409);
    assert!(alerts(&centre, &agent).await.contains(&life(2).to_string()));
}

#[tokio::test]
async fn a17_a_moved_disk_takes_over_after_three_silent_beats_or_with_a_new_token() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    assert_eq!(beat(&centre, &agent, 1, None).await.status, 200);
    centre.pass_seconds(179);
    assert_eq!(beat(&centre, &agent, 9, None).await.status, 409);
    centre.pass_seconds(1);
    assert_eq!(beat(&centre, &agent, 9, None).await.status, 200);
    assert_eq!(beat(&centre, &agent, 1, None).await.status, 409);
    let token = centre.make_token(agent.site).await;
    let credential = Secret::from_random([0x77; 32]);
    let joined = centre.register(registration(agent.site, &token, Some(&credential))).await;
    assert_eq!(joined.status, 200, "{joined:?}");
    let agent = Joined { site: agent.site, credential };
    assert_eq!(beat(&centre, &agent, 1, None).await.status, 200);
}

async fn receive(centre: &Centre, agent: &Joined, body: Value) -> ChangeReceipt {
    let answer = post(centre, agent, body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_value(answer.body).expect("a receipt")
}

fn after(mut body: Value, hash: ChainHash) -> Value {
    body["prev_hash"] = json!(hash);
    body
}

#[tokio::test]
async fn q5_q8_a_batch_continues_the_chain_or_is_a_fork() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let first = after(batch(1, 1, &[seen(1, 1, 1)]), ChainHash::GENESIS);
    let receipt = receive(&centre, &agent, first.clone()).await;
    assert_ne!(receipt.hash, ChainHash::GENESIS);
    assert_eq!(receive(&centre, &agent, first).await.hash, receipt.hash, "n4: repeated");
    let next = [event(2, 1, NodeEventKind::BootStarted)];
    let forked = post(&centre, &agent, after(batch(1, 2, &next), ChainHash::GENESIS)).await;
    assert_eq!(forked.problem(), (409, "outbox_forked".to_owned()));
    let taken = receive(&centre, &agent, after(batch(1, 2, &next), receipt.hash)).await;
    assert_eq!(outcomes(&taken), "applied through 2");
    // d10: another change under a number that is taken, with an id that is known from another place.
    let mut moved = event(2, 1, NodeEventKind::FirstBoot);
    moved["id"] = seen(1, 1, 1)["id"].clone();
    let forked = post(&centre, &agent, batch(1, 2, &[moved])).await;
    assert_eq!(forked.problem(), (409, "outbox_forked".to_owned()));
    // In a new epoch the same ids have one effect.
    let again = [seen(1, 1, 1), event(2, 1, NodeEventKind::BootStarted)];
    let renewed = receive(&centre, &agent, after(batch(2, 1, &again), ChainHash::GENESIS)).await;
    assert_eq!(outcomes(&renewed), "duplicate duplicate through 2");
}

#[tokio::test]
async fn q10_a_dead_letter_is_parked_with_its_reason_in_the_place_of_the_change() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let mut letter = event(2, 1, NodeEventKind::BootStarted);
    letter["kind"] = json!("dead_letter");
    letter["payload"] = json!({
        "kind": "event", "size_bytes": 29, "sha256": ContentHash::from_digest([7; 32]), "reason": "too large",
        "payload": "{\"event_type\":\"boot_started\"}",
    });
    let items = [seen(1, 1, 1), letter, event(3, 1, NodeEventKind::BootStarted)];
    let receipt = receive(&centre, &agent, batch(1, 1, &items)).await;
    assert_eq!(outcomes(&receipt), "applied parked applied through 3");
    assert_eq!(receipt.results[1].outcome, Outcome::Parked);
    let parked = centre.get(&format!("/api/v1/sites/{}/parked", agent.site)).await;
    assert!(parked.data().to_string().contains("too large"), "{parked:?}");
}
