//! What agents tell of boots, and who reads it.

use pureboot_protocol::BootId;
use serde_json::{Value, json};

use super::{Answer, Centre, Joined};

const PATH: &str = "/api/v1/agents/boots";
const MAC: &str = "52:54:00:00:00:01";

/// A machine that asked for a file which is not here, `number` minutes after the start.
fn session(number: u8, mac: Option<&str>) -> Value {
    json!({
        "id": BootId::from_random([number; 16]), "mac": mac, "address": "10.0.0.7",
        "started_at": format!("2026-11-21T00:{:02}:00.000Z", number % 60), "reached": "asking", "steps_folded": 0,
        "steps": [{"number": 0, "at_ms": 0, "took_ms": null, "times": 2, "step": "missing", "by": "tftp", "name": "x.efi"}],
    })
}

impl Centre {
    async fn tell(&self, joined: &Joined, sessions: Vec<Value>) -> Answer {
        let body = json!({ "sessions": sessions });
        self.call(&joined.credential, "POST", PATH, Some(body)).await
    }

    /// The sessions at `path`, by the minute in which they began.
    async fn minutes(&self, path: &str) -> Vec<String> {
        let boots = self.get(path).await;
        let minute = |boot: &Value| boot["started_at"].as_str().expect("a time")[14..16].to_owned();
        boots.data().as_array().expect("a list").iter().map(minute).collect()
    }
}

#[tokio::test]
async fn what_an_agent_has_seen_of_a_machine_is_read_at_the_centre() {
    let centre = Centre::start().await;
    let berlin = centre.join("berlin").await;
    let node = centre.make_node(MAC, Some(berlin.site)).await;
    let of_node = format!("/api/v1/nodes/{}/boots", node["id"].as_str().expect("an id"));
    let stranger = "52:54:00:00:00:09";
    let told = vec![session(1, Some(MAC)), session(2, Some(stranger)), session(3, None)];
    let answer = centre.tell(&berlin, told).await;
    assert_eq!(answer.body, json!({"kept": 3, "skipped": 0}));
    let boots = centre.get(&of_node).await;
    assert_eq!(boots.body["total"], 1);
    let boot = &boots.data()[0];
    assert_eq!(boot["site_id"], json!(berlin.site));
    assert_eq!(boot["node_id"], node["id"]);
    assert_eq!(boot["steps"][0]["name"], "x.efi");
    assert_eq!(
        centre.minutes(&format!("/api/v1/sites/{}/boots", berlin.site)).await,
        ["03", "02", "01"]
    );
    let of_stranger = format!("/api/v1/sites/{}/boots?mac={stranger}", berlin.site);
    assert_eq!(centre.minutes(&of_stranger).await, ["02"]);
}

#[tokio::test]
async fn a_session_that_is_told_again_takes_its_own_place() {
    let centre = Centre::start().await;
    let berlin = centre.join("berlin").await;
    let path = format!("/api/v1/sites/{}/boots", berlin.site);
    centre.tell(&berlin, vec![session(1, None), session(2, None)]).await.body.take();
    let mut later = session(1, Some(MAC));
    later["steps"][0]["times"] = 9.into();
    centre.pass_seconds(60);
    // The same session twice in one report is one session, too.
    assert_eq!(centre.tell(&berlin, vec![session(1, None), later]).await.body["kept"], 2);
    let boots = centre.get(&path).await;
    assert_eq!(boots.body["total"], 2);
    assert_eq!(boots.data()[1]["steps"][0]["times"], 9);
    assert_eq!(boots.data()[1]["mac"], MAC);
    // Another site's session with the same id is another session.
    let oslo = centre.join("oslo").await;
    centre.tell(&oslo, vec![session(1, None)]).await;
    assert_eq!(centre.get(&path).await.body["total"], 2);
}

#[tokio::test]
async fn a_boot_is_judged_as_of_when_its_site_was_last_heard() {
    let centre = Centre::start().await;
    let berlin = centre.join("berlin").await;
    let path = format!("/api/v1/sites/{}/boots", berlin.site);
    let beat = || super::heartbeat(berlin.site, 1);
    let state = async || centre.get(&path).await.data()[0]["outcome"]["state"].clone();
    centre.tell(&berlin, vec![session(0, Some(MAC))]).await;
    centre.pass_seconds(30);
    centre.call(&berlin.credential, "POST", "/api/v1/agents/heartbeat", Some(beat())).await;
    centre.pass_seconds(3_600);
    assert_eq!(state().await, "under_way", "the site is silent; nobody knows how it went on");
    centre.call(&berlin.credential, "POST", "/api/v1/agents/heartbeat", Some(beat())).await;
    assert_eq!(state().await, "stuck");
}

#[tokio::test]
async fn u7_a_session_of_a_later_agent_does_not_hide_the_others() {
    let centre = Centre::start().await;
    let berlin = centre.join("berlin").await;
    let mut later = session(1, None);
    later["steps"][0]["step"] = "teleported".into();
    let mut more = session(2, None);
    more["mood"] = "good".into();
    let mut long = session(3, None);
    long["steps"] = vec![long["steps"][0].clone(); 1_000].into();
    let answer = centre.tell(&berlin, vec![later, more, long, session(4, None)]).await;
    assert_eq!(answer.body, json!({"kept": 2, "skipped": 2}));
    let many = (0..51).map(|number| session(number, None)).collect();
    assert_eq!(centre.tell(&berlin, many).await.problem(), (422, "validation_failed".to_owned()));
}

#[tokio::test]
async fn i7_of_a_machine_the_latest_boots_are_kept_and_others_lose_none() {
    let centre = Centre::start().await;
    let berlin = centre.join("berlin").await;
    let path = format!("/api/v1/sites/{}/boots", berlin.site);
    centre.tell(&berlin, vec![session(250, Some("52:54:00:00:00:02"))]).await;
    for half in [0..30, 30..60] {
        let told = half.map(|number| session(number, Some(MAC))).collect();
        assert!(centre.tell(&berlin, told).await.status.is_success());
    }
    assert_eq!(centre.get(&path).await.body["total"], 51);
    let kept = centre.minutes(&format!("{path}?mac={MAC}")).await;
    assert_eq!((kept.len(), kept[0].as_str(), kept[49].as_str()), (50, "59", "10"));
    centre.pass_seconds(91 * 24 * 3_600);
    centre.tell(&berlin, vec![session(100, None)]).await;
    crate::jobs::retention::look(&centre.app).await.expect("forgotten");
    assert_eq!(centre.get(&path).await.body["total"], 1);
}
