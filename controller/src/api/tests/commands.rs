//! Orders to the agents of sites: given until their results are there, and no more than an agent can take.

use pureboot_protocol::{COMMANDS_MAX, NodeEventKind, SiteId};
use serde_json::{Value, json};

use super::changes::{event, hand_over, node, seen};
use super::{Answer, Centre, Joined, heartbeat};

const BEAT: &str = "/api/v1/agents/heartbeat";

impl Centre {
    async fn order(&self, site: SiteId, body: Value) -> Answer {
        self.post(&format!("/api/v1/sites/{site}/commands"), body).await
    }

    async fn ordered(&self, site: SiteId, body: Value) -> String {
        let answer = self.order(site, body).await;
        answer.data()["id"].as_str().expect("an id").to_owned()
    }

    async fn command(&self, site: SiteId, id: &str) -> Value {
        self.get(&format!("/api/v1/sites/{site}/commands/{id}")).await.data().clone()
    }

    /// A heartbeat that says `results`; returns what its answer orders.
    async fn beat_with(&self, agent: &Joined, results: &[Value]) -> Vec<Value> {
        let mut body = heartbeat(agent.site, 1);
        body["command_results"] = json!(results);
        let answer = self.call(&agent.credential, "POST", BEAT, Some(body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["commands"].as_array().expect("commands").clone()
    }

    async fn listen(&self, agent: &Joined) -> Vec<Value> {
        self.beat_with(agent, &[]).await
    }
}

fn result(id: &str, outcome: &str) -> Value {
    json!({"id": id, "outcome": outcome, "detail": format!("it is {outcome}")})
}

fn invalidate(n: usize) -> Value {
    json!({"command": "invalidate", "params": {"mac": format!("02:00:00:00:{:02x}:{:02x}", n / 256, n % 256)}})
}

#[tokio::test]
async fn a_command_goes_from_an_operator_to_an_agent_and_its_result_comes_back() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let body = json!({"command": "sync", "params": {"force": true, "categories": ["images"]}});
    let made = centre.order(agent.site, body).await;
    assert_eq!(made.status, 201);
    let id = made.data()["id"].as_str().expect("an id");
    let expected = json!({
        "id": id, "site_id": agent.site, "command": "sync",
        "params": {"force": true, "categories": ["images"]}, "status": "queued", "attempts": 0,
        "created_by": "operator-token", "created_at": "2026-11-21T00:00:00.000Z", "finished_at": null,
        "detail": null,
    });
    assert_eq!(made.data(), &expected);
    let given = centre.listen(&agent).await;
    let command =
        json!({"id": id, "command": "sync", "params": {"force": true, "categories": ["images"]}});
    assert_eq!(given, [command]);
    let sent = centre.command(agent.site, id).await;
    assert_eq!((&sent["status"], &sent["attempts"]), (&json!("sent"), &json!(1)));
    assert_eq!(centre.beat_with(&agent, &[result(id, "started")]).await.len(), 0);
    let started = centre.command(agent.site, id).await;
    assert_eq!((&started["status"], &started["finished_at"]), (&json!("started"), &Value::Null));
    centre.pass_seconds(5);
    centre.beat_with(&agent, &[result(id, "completed")]).await;
    // What comes late, again, or after the end changes nothing.
    for outcome in ["failed", "started", "completed"] {
        centre.beat_with(&agent, &[result(id, outcome)]).await;
    }
    let done = centre.command(agent.site, id).await;
    assert_eq!(done["status"], "completed");
    assert_eq!(done["detail"], "it is completed");
    assert_eq!(done["finished_at"], "2026-11-21T00:00:05.000Z");
    centre.pass_seconds(100_000);
    assert_eq!(centre.listen(&agent).await.len(), 0);
    let audit = centre.get("/api/v1/audit?action=POST%20/sites/%7Bid%7D/commands").await;
    assert_eq!(audit.data()[0]["detail"]["command_id"], id, "{audit:?}");
    assert_eq!(audit.data()[0]["target"], json!(agent.site));
}

#[tokio::test]
async fn a_command_whose_answer_was_lost_comes_again_under_its_id_when_its_lease_is_over() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let id = centre.ordered(agent.site, json!({"command": "rotate_credential"})).await;
    assert_eq!(centre.listen(&agent).await.len(), 1);
    centre.pass_seconds(119);
    assert_eq!(centre.listen(&agent).await.len(), 0, "the agent has it");
    centre.pass_seconds(1);
    assert_eq!(centre.listen(&agent).await[0]["id"], json!(id));
    // As long as the agent says that it is at it, it has it.
    for _ in 0..100 {
        centre.pass_seconds(119);
        assert_eq!(centre.beat_with(&agent, &[result(&id, "started")]).await.len(), 0);
    }
    assert_eq!(centre.command(agent.site, &id).await["attempts"], 2);
    for attempt in 3..=10 {
        centre.pass_seconds(120);
        assert_eq!(centre.listen(&agent).await[0]["id"], json!(id), "attempt {attempt}");
    }
    centre.pass_seconds(120);
    assert_eq!(centre.listen(&agent).await.len(), 0);
    let expired = centre.command(agent.site, &id).await;
    assert_eq!((&expired["status"], &expired["attempts"]), (&json!("expired"), &json!(10)));
    centre.beat_with(&agent, &[result(&id, "completed")]).await;
    assert_eq!(centre.command(agent.site, &id).await["status"], "completed", "late is not never");
}

#[tokio::test]
async fn c14_an_agent_is_given_no_more_than_sixteen_commands_at_once_the_oldest_first() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let mut ids = Vec::new();
    for n in 0..256 {
        ids.push(centre.ordered(agent.site, invalidate(n)).await);
    }
    let full = centre.order(agent.site, invalidate(256)).await;
    assert_eq!(full.problem(), (409, "too_many_commands".to_owned()));
    assert!(full.detail().contains("DELETE /api/v1/sites/"), "{}", full.detail());
    for ids in ids.chunks(COMMANDS_MAX) {
        let given = centre.listen(&agent).await;
        let given: Vec<_> = given.iter().map(|command| command["id"].as_str()).collect();
        assert_eq!(given, ids.iter().map(|id| Some(id.as_str())).collect::<Vec<_>>());
    }
    assert_eq!(centre.listen(&agent).await.len(), 0);
    let results: Vec<_> = ids.iter().map(|id| result(id, "completed")).collect();
    for results in results.chunks(64) {
        centre.beat_with(&agent, results).await;
    }
    // What is finished is forgotten in time.
    for n in 0..10_usize {
        centre.ordered(agent.site, invalidate(1_000 + n)).await;
    }
    let list = centre.get(&format!("/api/v1/sites/{}/commands?limit=500", agent.site)).await;
    assert_eq!(list.body["total"], 256 + 10);
    assert_eq!(list.data()[10]["id"], json!(ids.last()), "the latest first");
}

#[tokio::test]
async fn c14_ten_thousand_results_are_refused_and_those_of_unknown_commands_change_nothing() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let unknown = "0b8f5c1e-6f0e-4d52-9a55-0c8f3f1c2a77";
    assert_eq!(centre.beat_with(&agent, &[result(unknown, "failed")]).await.len(), 0);
    let mut body = heartbeat(agent.site, 1);
    body["command_results"] = json!(vec![result(unknown, "failed"); 65]);
    let answer = centre.call(&agent.credential, "POST", BEAT, Some(body.clone())).await;
    assert_eq!(answer.body["errors"][0]["field"], "command_results", "{answer:?}");
    body["command_results"] = json!(vec![result(unknown, "failed"); 10_000]);
    let answer = centre.call(&agent.credential, "POST", BEAT, Some(body)).await;
    assert_eq!(answer.problem(), (413, "too_large".to_owned()));
}

#[tokio::test]
async fn i8_what_an_agent_says_of_another_sites_command_changes_nothing() {
    let centre = Centre::start().await;
    let (berlin, oslo) = (centre.join("berlin").await, centre.join("oslo").await);
    let id = centre.ordered(oslo.site, json!({"command": "rotate_credential"})).await;
    assert_eq!(centre.listen(&berlin).await.len(), 0);
    centre.beat_with(&berlin, &[result(&id, "completed")]).await;
    assert_eq!(centre.command(oslo.site, &id).await["status"], "queued");
    assert_eq!(centre.listen(&oslo).await.len(), 1);
    let foreign = centre.get(&format!("/api/v1/sites/{}/commands/{id}", berlin.site)).await;
    assert_eq!(foreign.problem(), (404, "not_found".to_owned()));
    let foreign = centre.delete(&format!("/api/v1/sites/{}/commands/{id}", berlin.site)).await;
    assert_eq!(foreign.problem(), (404, "not_found".to_owned()));
}

#[tokio::test]
async fn what_is_ordered_twice_is_one_command_until_it_is_done() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let rotate = json!({"command": "rotate_credential", "params": {}});
    let first = centre.ordered(agent.site, rotate.clone()).await;
    let again = centre.order(agent.site, rotate.clone()).await;
    assert_eq!((again.status.as_u16(), &again.data()["id"]), (200, &json!(first)));
    centre.listen(&agent).await;
    assert_eq!(centre.ordered(agent.site, rotate.clone()).await, first);
    centre.beat_with(&agent, &[result(&first, "completed")]).await;
    assert_ne!(centre.ordered(agent.site, rotate).await, first);
    // What an agent was told to ask about may change again after it has asked.
    let about = centre.ordered(agent.site, invalidate(1)).await;
    assert_eq!(centre.ordered(agent.site, invalidate(1)).await, about);
    assert_ne!(centre.ordered(agent.site, invalidate(2)).await, about);
    centre.listen(&agent).await;
    assert_ne!(centre.ordered(agent.site, invalidate(1)).await, about);
}

#[tokio::test]
async fn what_is_queued_is_taken_back_and_what_was_given_is_not() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let id = centre.ordered(agent.site, json!({"command": "update_config"})).await;
    let path = format!("/api/v1/sites/{}/commands/{id}", agent.site);
    for _ in 0..2 {
        assert_eq!(centre.delete(&path).await.data()["status"], "cancelled");
    }
    assert_eq!(centre.listen(&agent).await.len(), 0);
    let id = centre.ordered(agent.site, json!({"command": "update_config"})).await;
    let mut body = heartbeat(agent.site, 1);
    let answer = centre.call(&agent.credential, "POST", BEAT, Some(body.clone())).await;
    assert_eq!(answer.body["config"]["site_id"], json!(agent.site), "the settings come with it");
    body["config_version"] = json!(1);
    let answer = centre.call(&agent.credential, "POST", BEAT, Some(body)).await;
    assert_eq!(answer.body.get("config"), None);
    let late = centre.delete(&format!("/api/v1/sites/{}/commands/{id}", agent.site)).await;
    assert_eq!(late.problem(), (409, "command_given".to_owned()));
}

#[tokio::test]
async fn a_synchronisation_is_queued_until_the_agent_says_that_it_is_at_it() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let path = format!("/api/v1/sites/{}/sync", agent.site);
    let wish = json!({"full_sync": true, "entity_types": ["images", "scripts", "images"]});
    let queued = centre.post(&path, wish.clone()).await;
    assert_eq!(queued.data()["status"], "queued");
    let id = queued.data()["sync_id"].as_str().expect("an id");
    let given = centre.listen(&agent).await;
    assert_eq!(given[0]["params"], json!({"force": true, "categories": ["scripts", "images"]}));
    assert_eq!(centre.post(&path, wish.clone()).await.data()["status"], "queued");
    centre.beat_with(&agent, &[result(id, "started")]).await;
    let started = centre.post(&path, wish).await;
    assert_eq!(
        (&started.data()["status"], &started.data()["sync_id"]),
        (&json!("started"), &json!(id))
    );
    assert_eq!(centre.post(&path, json!({})).await.data()["status"], "queued", "another one");
    let group = centre.post("/api/v1/groups", json!({"name": "web"})).await.data()["id"].clone();
    let path = format!("/api/v1/sites/{}/sync", group.as_str().expect("an id"));
    assert_eq!(centre.post(&path, json!({})).await.problem(), (404, "not_found".to_owned()));
}

#[tokio::test]
async fn an_order_that_is_none_is_refused_with_the_field() {
    let centre = Centre::start().await;
    let site = centre.make_site("berlin").await;
    for (body, field, text) in [
        (json!({}), "command", "required"),
        (json!({"command": "dance"}), "command", "rotate_credential"),
        (json!({"command": "invalidate"}), "params", "expected mac, or category and path"),
        (json!({"command": "sync", "params": {"categories": ["songs"]}}), "params", "songs"),
        (json!({"command": "sync", "params": 1}), "params", "expected a map"),
        (
            json!({"command": "invalidate", "params": {"category": "images", "path": "../x"}}),
            "params.path",
            "names no content",
        ),
    ] {
        let answer = centre.order(site, body.clone()).await;
        assert_eq!(answer.problem(), (422, "validation_failed".to_owned()), "{body}");
        let error = &answer.body["errors"][0];
        assert!(error["field"].as_str().is_some_and(|it| it.starts_with(field)), "{body}: {error}");
        assert!(error["message"].as_str().is_some_and(|it| it.contains(text)), "{body}: {error}");
    }
}

#[tokio::test]
async fn a_machine_is_told_by_its_agent_and_what_it_acknowledges_is_done() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    hand_over(&centre, &agent, 1, &[seen(1, 1, 1)]).await;
    let id = node(&centre, 1).await["id"].as_str().expect("an id").to_owned();
    let path = format!("/api/v1/nodes/{id}/command");
    let ordered = centre.post(&path, json!({"command": "reboot"})).await;
    let pending = ordered.data()["pending_command"].clone();
    assert_eq!(pending["command"], "reboot");
    let again = centre.post(&path, json!({"command": "reboot"})).await;
    assert_eq!((&again.data()["pending_command"], &again.data()["version"]), (&pending, &json!(2)));
    let given = centre.listen(&agent).await;
    assert_eq!(given.len(), 1);
    assert_eq!(given[0]["params"], json!({"mac": "02:00:00:00:00:01"}), "the agent asks anew");
    let records = centre.records(&agent.credential).await;
    assert_eq!(records[0]["pending_command"], pending);
    let acknowledge = |seq, id: &Value| {
        let mut event = event(seq, 1, NodeEventKind::Heartbeat);
        event["payload"]["acknowledged_command"] = id.clone();
        event
    };
    let other = json!("0b8f5c1e-6f0e-4d52-9a55-0c8f3f1c2a77");
    hand_over(&centre, &agent, 2, &[acknowledge(2, &other), event(3, 1, NodeEventKind::Heartbeat)])
        .await;
    assert_eq!(node(&centre, 1).await["pending_command"], pending);
    hand_over(&centre, &agent, 4, &[acknowledge(4, &pending["id"])]).await;
    assert_eq!(node(&centre, 1).await["pending_command"], Value::Null);
    let next = centre.post(&path, json!({"command": "reboot"})).await;
    assert_ne!(next.data()["pending_command"]["id"], pending["id"], "a new wish");
    assert_eq!(centre.delete(&path).await.data()["pending_command"], Value::Null);
    centre.post(&path, json!({"command": "poweroff"})).await.data();
    let retired = centre.delete(&format!("/api/v1/nodes/{id}")).await;
    assert_eq!(retired.data()["pending_command"], Value::Null);
    let late = centre.post(&path, json!({"command": "rescan"})).await;
    assert_eq!(late.problem(), (409, "node_retired".to_owned()));
    let unknown = centre.post(&path, json!({"command": "explode"})).await;
    assert_eq!(unknown.body["errors"][0]["field"], "command");
}
