//! What sites have handed over without effect, as operators read it.

use pureboot_protocol::NodeEventKind;
use serde_json::{Value, json};

use super::changes::{event, hand_over, node_id, seen};
use super::{Centre, heartbeat};

/// The rows of a list, read one at a time, so that each has to follow from the one before.
pub(super) async fn rows(centre: &Centre, path: &str) -> Vec<Value> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let joint = if path.contains('?') { '&' } else { '?' };
        let page = centre.get(&format!("{path}{joint}limit=1{cursor}")).await;
        rows.extend(page.data().as_array().expect("a list").iter().cloned());
        match page.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => {
                assert_eq!(page.body["total"], rows.len(), "{path}");
                return rows;
            }
        }
    }
}

#[tokio::test]
async fn parked_changes_are_shown_as_they_came_with_the_reason() {
    let centre = Centre::start().await;
    let (berlin, oslo) = (centre.join("berlin").await, centre.join("oslo").await);
    let strange = json!({"seq": 2, "kind": "teleport", "to": "\u{1b}[31m"});
    let large = json!({"seq": 3, "padding": "x".repeat(20_000)});
    let lost = event(4, 9, NodeEventKind::BootStarted);
    let items = [seen(1, 1, 1), strange.clone(), large, lost.clone()];
    hand_over(&centre, &berlin, 1, &items).await;
    let path = format!("/api/v1/sites/{}/parked", berlin.site);
    let mut parked = rows(&centre, &path).await;
    parked.sort_by_key(|row| row["seq"].as_u64());
    assert_eq!(parked.len(), 3);
    assert_eq!(parked[0]["change"], strange);
    assert_eq!((&parked[1]["seq"], &parked[1]["change"]), (&json!(3), &Value::Null));
    assert!(parked[1]["size_bytes"].as_u64() > Some(20_000));
    assert_eq!((&parked[2]["change"], &parked[2]["id"]), (&lost, &lost["id"]));
    assert_eq!(parked[2]["reason"], format!("there is no node {}", node_id(9)));
    assert_eq!(parked[2]["epoch"], "01".repeat(16));
    assert!(rows(&centre, &format!("/api/v1/sites/{}/parked", oslo.site)).await.is_empty());
}

#[tokio::test]
async fn the_heartbeats_of_a_site_are_read_back_the_latest_first() {
    let centre = Centre::start().await;
    let (berlin, oslo) = (centre.join("berlin").await, centre.join("oslo").await);
    for version in 1..=5 {
        centre.pass_seconds(60);
        let body = Some(heartbeat(berlin.site, version));
        centre.call(&berlin.credential, "POST", "/api/v1/agents/heartbeat", body).await;
    }
    let kept = rows(&centre, &format!("/api/v1/agents/{}/heartbeats", berlin.site)).await;
    assert_eq!(kept.len(), 5);
    assert_eq!(kept[0]["heartbeat"], heartbeat(berlin.site, 5));
    assert_eq!(
        (&kept[4]["number"], &kept[4]["received_at"]),
        (&json!(1), &json!("2026-11-21T00:01:00.000Z"))
    );
    assert!(rows(&centre, &format!("/api/v1/agents/{}/heartbeats", oslo.site)).await.is_empty());
}

#[tokio::test]
async fn what_is_no_site_has_no_custody() {
    let centre = Centre::start().await;
    let group = centre.post("/api/v1/groups", json!({"name": "web"})).await.data()["id"].clone();
    let group = group.as_str().expect("an id");
    for id in [group, "00000000-0000-4000-8000-000000000000", "x"] {
        for path in [
            format!("/sites/{id}/conflicts"),
            format!("/sites/{id}/parked"),
            format!("/agents/{id}/heartbeats"),
        ] {
            let answer = centre.get(&format!("/api/v1{path}")).await;
            assert_eq!(answer.problem(), (404, "not_found".to_owned()), "{path}");
        }
    }
}
