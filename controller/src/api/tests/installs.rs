//! Installations that take too long, found by the job.

use pureboot_protocol::{Lifecycle, NodeEventKind, Outcome};
use serde_json::{Value, json};

use super::changes::{event, hand_over, node, node_id, order, outcomes, seen, wish};
use super::nodes::{path, workflow};
use super::{Centre, Joined, heartbeat};
use crate::jobs::install_timeout;

/// A node that is being installed since now.
async fn installing(centre: &Centre, body: Value) -> Value {
    let node = centre.post("/api/v1/nodes", body).await.data().clone();
    for state in ["pending", "installing"] {
        centre.patch(&format!("{}/state", path(&node)), json!({"state": state})).await.data();
    }
    node
}

async fn look(centre: &Centre) {
    install_timeout::look(&centre.app).await.expect("looked");
}

/// The state of a node, and how many attempts have failed.
async fn standing(centre: &Centre, node: &Value) -> String {
    let node = centre.get(&path(node)).await;
    let state = node.data()["state"].as_str().expect("a state").to_owned();
    format!("{state} {}", node.data()["install_attempts"])
}

async fn beat(centre: &Centre, agent: &Joined) {
    let body = Some(heartbeat(agent.site, 1));
    let answer = centre.call(&agent.credential, "POST", "/api/v1/agents/heartbeat", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn an_hour_without_end_is_one_failed_attempt_and_three_are_the_end() {
    let centre = Centre::start().await;
    let node = installing(&centre, json!({"mac_address": "02:00:00:00:00:01"})).await;
    for (seconds, expected) in [
        (3_600, "installing 0"),
        (1, "installing 1"),
        (0, "installing 1"),
        (3_600, "installing 1"),
        (1, "installing 2"),
        (3_600, "installing 2"),
        (1, "install_failed 3"),
        (9_999, "install_failed 3"),
    ] {
        centre.pass_seconds(seconds);
        look(&centre).await;
        assert_eq!(standing(&centre, &node).await, expected, "after {seconds} s more");
    }
    let failed = centre.get(&path(&node)).await;
    assert_eq!(failed.data()["last_install_error"], "not installed within 60 minutes");
    let history = centre.get(&format!("{}/history", path(&node))).await;
    let last = &history.data()[0];
    assert_eq!(
        (&history.body["total"], &last["to_state"], &last["triggered_by"]),
        (&json!(3), &json!("install_failed"), &json!("install_timeout"))
    );
    let state = format!("{}/state", path(&node));
    let unforced = centre.patch(&state, json!({"state": "pending"})).await;
    assert_eq!(unforced.problem(), (400, "invalid_transition".to_owned()));
    centre.patch(&state, json!({"state": "pending", "force": true})).await.data();
    centre.pass_seconds(9_999);
    look(&centre).await;
    assert_eq!(standing(&centre, &node).await, "pending 0", "only what installs can take too long");
}

#[tokio::test]
async fn the_time_is_that_of_the_nodes_own_workflow_or_of_its_groups() {
    let centre = Centre::start().await;
    let flow = async |name: &str, minutes: Value| {
        let mut body = workflow(name);
        body["timeout_minutes"] = minutes;
        centre.post("/api/v1/workflows", body).await
    };
    for minutes in [json!(0), json!(10_081), json!("5"), json!(-1)] {
        let answer = flow("never", minutes).await;
        assert_eq!(answer.problem(), (422, "validation_failed".to_owned()));
        assert_eq!(answer.body["errors"][0]["field"], "timeout_minutes");
    }
    let default = centre.post("/api/v1/workflows", workflow("default")).await;
    assert_eq!(default.data()["timeout_minutes"], 60);
    let own = flow("own", json!(90)).await.data()["id"].clone();
    let of_group = flow("of-group", json!(7)).await.data()["id"].clone();
    let path = format!("/api/v1/workflows/{}", own.as_str().expect("an id"));
    let changed = centre.patch(&path, json!({"timeout_minutes": 5})).await;
    assert_eq!(
        (&changed.data()["timeout_minutes"], &changed.data()["name"]),
        (&json!(5), &json!("own"))
    );
    assert_eq!(centre.get(&path).await.data(), changed.data());

    let group = json!({"name": "web", "default_workflow_id": of_group});
    let group = centre.post("/api/v1/groups", group).await.data()["id"].clone();
    let mut nodes = Vec::new();
    for body in [
        json!({"mac_address": "02:00:00:00:00:01", "workflow_id": own, "group_id": group}),
        json!({"mac_address": "02:00:00:00:00:02", "group_id": group}),
        json!({"mac_address": "02:00:00:00:00:03"}),
    ] {
        nodes.push(installing(&centre, body).await);
    }
    assert_eq!(centre.get("/api/v1/nodes/stalled").await.body["total"], 0);
    for (seconds, expected) in [(301, [1, 0, 0]), (120, [1, 1, 0])] {
        centre.pass_seconds(seconds);
        look(&centre).await;
        for (node, attempts) in nodes.iter().zip(expected) {
            assert_eq!(standing(&centre, node).await, format!("installing {attempts}"));
        }
    }
    // What the job has counted is still under way, and an operator sees it.
    let stalled = centre.get("/api/v1/nodes/stalled?limit=1").await;
    assert_eq!(stalled.body["total"], 2);
    let cursor = stalled.body["next_cursor"].as_str().expect("a second page");
    let rest = centre.get(&format!("/api/v1/nodes/stalled?limit=1&cursor={cursor}")).await;
    assert_eq!(rest.body["next_cursor"], Value::Null);
    let mut seen = [&stalled.data()[0], &rest.data()[0]]
        .map(|node| format!("{} {}", node["mac_address"], node["timeout_minutes"]));
    seen.sort();
    assert_eq!(seen, ["\"02:00:00:00:00:01\" 5", "\"02:00:00:00:00:02\" 7"]);
}

#[tokio::test]
async fn what_a_site_could_not_report_is_not_held_against_its_machines() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let body = json!({"mac_address": "02:00:00:00:00:01", "home_site_id": agent.site});
    let node = installing(&centre, body).await;
    centre.pass_seconds(48 * 3_600);
    look(&centre).await;
    assert_eq!(standing(&centre, &node).await, "installing 0");
    assert_eq!(centre.get("/api/v1/nodes/stalled").await.body["total"], 1);
    beat(&centre, &agent).await;
    look(&centre).await;
    assert_eq!(standing(&centre, &node).await, "installing 1");
}

#[tokio::test]
async fn a_counted_attempt_is_no_disagreement_with_the_site_and_giving_up_is() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    hand_over(&centre, &agent, 1, &[seen(1, 1, 1), seen(2, 2, 2)]).await;
    order(&centre, 1, Lifecycle::Pending).await;
    order(&centre, 2, Lifecycle::Pending).await;
    let items =
        [3, 4].map(|seq| event(seq, if seq == 3 { 1 } else { 2 }, NodeEventKind::InstallStarted));
    hand_over(&centre, &agent, 3, &items).await;
    let later = async || {
        centre.pass_seconds(3_601);
        beat(&centre, &agent).await;
        look(&centre).await;
    };
    later().await;
    let first = node(&centre, 1).await;
    assert_eq!((&first["install_attempts"], &first["version"]), (&json!(1), &json!(4)));
    let receipt = hand_over(&centre, &agent, 5, &[wish(5, 1, Lifecycle::Installed, 3)]).await;
    assert_eq!(outcomes(&receipt), "applied through 5");
    later().await;
    later().await;
    assert_eq!(node(&centre, 2).await["state"], "install_failed");
    let receipt = hand_over(&centre, &agent, 6, &[wish(6, 2, Lifecycle::Installed, 3)]).await;
    assert_eq!(receipt.results[0].outcome, Outcome::Conflict);
    let history = centre.get(&format!("/api/v1/nodes/{}/history", node_id(1))).await;
    assert_eq!(history.body["total"], 3, "a count is no move");
}
