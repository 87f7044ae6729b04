//! How many machines that nobody knows a site may bring.

use pureboot_protocol::{NodeEventKind, NodeId};
use serde_json::{Value, json};

use super::changes::{event, hand_over, outcomes, seen};
use super::nodes::path;
use super::{Centre, Joined};

/// The registration of a machine with an address and an id that are made of `number`.
fn random(seq: u64, number: u64) -> Value {
    let mut id = [0xff; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    let mut item = seen(seq, 1, 1);
    item["node"] = json!(NodeId::from_random(id));
    item["payload"]["request"]["mac"] =
        json!(format!("06:00:00:00:{:02x}:{:02x}", number >> 8 & 0xff, number & 0xff));
    item
}

/// Registers the machines of `numbers` as changes from `seq` on; answers how many were applied.
async fn flood(centre: &Centre, agent: &Joined, seq: u64, numbers: std::ops::Range<u64>) -> usize {
    let items: Vec<_> = (seq..).zip(numbers).map(|(seq, number)| random(seq, number)).collect();
    let mut applied = 0;
    for (batch, first_seq) in items.chunks(100).zip((seq..).step_by(100)) {
        let receipt = hand_over(centre, agent, first_seq, batch).await;
        applied += outcomes(&receipt).matches("applied").count();
    }
    applied
}

#[tokio::test]
async fn h18_beyond_a_thousand_unknown_machines_of_a_site_registrations_are_parked() {
    let centre = Centre::start().await;
    let (berlin, oslo) = (centre.join("berlin").await, centre.join("oslo").await);
    // What operators have made counts for nothing, seen or not.
    let made = centre.make_node("02:00:00:00:00:01", Some(berlin.site)).await;
    assert_eq!(
        outcomes(&hand_over(&centre, &berlin, 1, &[seen(1, 1, 1)]).await),
        "applied through 1"
    );
    assert_eq!(flood(&centre, &berlin, 2, 0..600).await, 600);
    // Neither does auto_provision open the door: those machines are as unknown.
    let site = format!("/api/v1/sites/{}", berlin.site);
    centre.patch(&site, json!({"auto_provision": true})).await.data();
    assert_eq!(flood(&centre, &berlin, 602, 600..1_100).await, 400);
    assert_eq!(centre.get("/api/v1/nodes").await.body["total"], 1_001);
    let parked = centre.get(&format!("{site}/parked")).await;
    assert_eq!(parked.body["total"], 100);
    let reason = parked.data()[0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("has 1000 machines already that nobody has looked at"), "{reason}");

    let mut known = random(1_102, 5);
    known["session"] = json!("00000000-0000-4000-8000-000000000001");
    let items = [known, event(1_103, 1, NodeEventKind::BootStarted)];
    let receipt = hand_over(&centre, &berlin, 1_102, &items).await;
    assert_eq!(outcomes(&receipt), "applied applied through 1103", "known machines go on");
    assert_eq!(centre.get(&path(&made)).await.data()["boot_count"], 1);
    assert_eq!(flood(&centre, &oslo, 1, 2_000..2_001).await, 1, "and so do other sites");

    let unknown = |mac: &str| format!("/api/v1/nodes?mac={mac}");
    let first = centre.get(&unknown("06:00:00:00:00:00")).await.data()[0].clone();
    let second = centre.get(&unknown("06:00:00:00:00:01")).await.data()[0].clone();
    centre.delete(&path(&first)).await.data();
    centre.patch(&path(&second), json!({"tags": ["ours"]})).await.data();
    assert_eq!(
        flood(&centre, &berlin, 1_104, 1_100..1_103).await,
        2,
        "whoever is looked at makes room"
    );
}
