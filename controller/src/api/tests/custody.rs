//! What sites have handed over without effect, as operators read it.

use pureboot_protocol::{Lifecycle, NodeEventKind};
use serde_json::{Value, json};

use super::changes::{event, hand_over, node_id, seen, wish};
use super::{Centre, heartbeat};

/// The rows of a list, read one at a time, so that each has to follow from the one before.
async fn rows(centre: &Centre, path: &str) -> Vec<Value> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = centre.get(&format!("{path}?limit=1{cursor}")).await;
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
async fn conflicts_show_both_sides_and_the_cause_for_one_site_and_for_all() {
    let centre = Centre::start().await;
    let (berlin, oslo) = (centre.join("berlin").await, centre.join("oslo").await);
    let active = |seq, node| wish(seq, node, Lifecycle::Active, 1);
    hand_over(&centre, &berlin, 1, &[seen(1, 1, 1), active(2, 1), active(3, 1)]).await;
    // Both sites count from 1, so that in this test their changes have the same ids.
    hand_over(&centre, &oslo, 1, &[seen(1, 2, 2), wish(2, 2, Lifecycle::Active, 7)]).await;
    let of_berlin = rows(&centre, &format!("/api/v1/sites/{}/conflicts", berlin.site)).await;
    let all = rows(&centre, "/api/v1/sync/conflicts").await;
    assert_eq!((of_berlin.len(), all.len()), (2, 3));
    let cause = of_berlin[0]["cause"].as_str().expect("a cause");
    assert!(cause.starts_with("Invalid state transition from 'discovered' to 'active'"), "{cause}");
    let expected = json!({
        "id": format!("{:032x}", 2), "site_id": berlin.site, "node_id": node_id(1), "type": "state_mismatch",
        "cause": cause, "created_at": "2026-11-21T00:00:00.000Z",
        "site": {"state": "active", "base_version": 1, "at": "2026-11-20T23:59:00.000Z", "clock": "synced"},
        "central": {"state": "discovered", "version": 1, "changed_at": "2026-11-21T00:00:00.000Z"},
    });
    assert_eq!(of_berlin[0], expected);
    let foreign: Vec<_> = all.iter().filter(|row| row["site_id"] == json!(oslo.site)).collect();
    assert_eq!(foreign.len(), 1);
    assert_eq!(foreign[0]["cause"], "the site knew version 7, the controller has version 1");
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
