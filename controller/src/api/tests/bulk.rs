//! Edits of tags and of many nodes at once.

use serde_json::{Value, json};

use super::nodes::{path, workflow};
use super::{Centre, request};

const NOWHERE: &str = "00000000-0000-4000-8000-000000000000";

async fn bulk(centre: &Centre, edit: &str, body: Value) -> Value {
    centre.post(&format!("/api/v1/nodes/bulk/{edit}"), body).await.data().clone()
}

/// The ids of three nodes.
async fn three(centre: &Centre) -> [Value; 3] {
    let mut ids = [Value::Null, Value::Null, Value::Null];
    for (id, number) in ids.iter_mut().zip(1..) {
        let node = centre.make_node(&format!("02:00:00:00:00:0{number}"), None).await;
        *id = node["id"].clone();
    }
    ids
}

async fn read(centre: &Centre, id: &Value) -> Value {
    centre.get(&path(&json!({"id": id}))).await.data().clone()
}

#[tokio::test]
async fn a_tag_is_added_once_in_lower_case_and_removed_once() {
    let centre = Centre::start().await;
    let node = centre.make_node("02:00:00:00:00:01", None).await;
    let tags = format!("{}/tags", path(&node));
    for (tag, expected) in [("Web", json!(["web"])), ("a_1-B", json!(["a_1-b", "web"]))] {
        let tagged = centre.post(&tags, json!({"tag": tag})).await;
        assert_eq!(tagged.data()["tags"], expected);
        assert_eq!(tagged.headers["etag"], format!("\"{}\"", tagged.data()["version"]).as_str());
    }
    let twice = centre.post(&tags, json!({"tag": "WEB"})).await;
    assert_eq!(twice.problem(), (409, "tag_taken".to_owned()));
    for tag in ["", "a b", "ä", &"a".repeat(51)] {
        let answer = centre.post(&tags, json!({"tag": tag})).await;
        assert_eq!(answer.problem(), (422, "validation_failed".to_owned()), "{tag}");
        assert_eq!(answer.body["errors"][0]["field"], "tag");
    }
    let mut stale = request(Some(&centre.operator), "DELETE", &format!("{tags}/web"), None);
    stale.headers_mut().insert("if-match", "\"1\"".parse().expect("a tag"));
    assert_eq!(centre.send(stale).await.problem(), (412, "stale_version".to_owned()));
    let removed = centre.delete(&format!("{tags}/WEB")).await;
    assert_eq!(
        (&removed.data()["tags"], &removed.data()["version"]),
        (&json!(["a_1-b"]), &json!(4))
    );
    for gone in [format!("{tags}/web"), format!("/api/v1/nodes/{NOWHERE}/tags/web")] {
        assert_eq!(centre.delete(&gone).await.problem(), (404, "not_found".to_owned()));
    }
    assert_eq!(centre.delete("/api/v1/nodes/x/tags/web").await.problem().0, 404);
    let many: Vec<_> = (0..100).map(|number| format!("t{number}")).collect();
    centre.patch(&path(&node), json!({"tags": many})).await.data();
    assert_eq!(centre.post(&tags, json!({"tag": "more"})).await.problem().0, 422);
}

#[tokio::test]
async fn each_node_of_a_bulk_edit_takes_it_or_says_why_not() {
    let centre = Centre::start().await;
    let [a, b, c] = three(&centre).await;
    let tagged = bulk(&centre, "add-tag", json!({"node_ids": [b], "tag": "X"})).await;
    assert_eq!(tagged, json!({"updated": 1, "failed": 0, "errors": []}));
    let mixed = json!({"node_ids": [a, b, NOWHERE, c], "tag": "x"});
    let mixed = bulk(&centre, "add-tag", mixed).await;
    assert_eq!((&mixed["updated"], &mixed["failed"]), (&json!(2), &json!(2)));
    let refusals = mixed["errors"].as_array().expect("a list");
    assert_eq!((&refusals[0]["node_id"], &refusals[1]["node_id"]), (&b, &json!(NOWHERE)));
    assert_eq!(refusals[0]["error"], "the node has the tag 'x' already");
    for id in [&a, &b, &c] {
        let node = read(&centre, id).await;
        assert_eq!((&node["tags"], &node["version"]), (&json!(["x"]), &json!(2)));
    }
    let removed = bulk(&centre, "remove-tag", json!({"node_ids": [a, a], "tag": "x"})).await;
    assert_eq!((&removed["updated"], &removed["failed"]), (&json!(1), &json!(1)));

    let order = json!({"node_ids": [a, b], "state": "pending", "comment": "rollout"});
    assert_eq!(bulk(&centre, "change-state", order).await["updated"], 2);
    let order = json!({"node_ids": [a, c], "state": "installing"});
    let moved = bulk(&centre, "change-state", order).await;
    assert_eq!((&moved["updated"], &moved["errors"][0]["node_id"]), (&json!(1), &c));
    assert!(moved["errors"][0]["error"].as_str().expect("text").starts_with("Invalid state"));
    let history = centre.get(&format!("{}/history", path(&json!({"id": a})))).await;
    assert_eq!(
        (&history.body["total"], &history.data()[1]["comment"]),
        (&json!(2), &json!("rollout"))
    );
    let stats = centre.get("/api/v1/nodes/stats").await;
    let by_state = &stats.data()["by_state"];
    assert_eq!(stats.data()["total"], 3);
    for (state, nodes) in [("installing", 1), ("pending", 1), ("discovered", 1), ("retired", 0)] {
        assert_eq!(by_state[state], nodes, "{state}");
    }
}

#[tokio::test]
async fn groups_and_workflows_are_assigned_and_taken_away_in_bulk() {
    let centre = Centre::start().await;
    let [a, b, _] = three(&centre).await;
    let flow = centre.post("/api/v1/workflows", workflow("debian")).await.data()["id"].clone();
    let group = centre.post("/api/v1/groups", json!({"name": "web"})).await.data()["id"].clone();
    for (edit, field, value) in
        [("assign-group", "group_id", group), ("assign-workflow", "workflow_id", flow)]
    {
        for (value, status) in
            [(value, 200), (Value::Null, 200), (json!(NOWHERE), 422), (json!("x"), 422)]
        {
            let mut body = json!({"node_ids": [a, b]});
            body[field] = value.clone();
            let answer = centre.post(&format!("/api/v1/nodes/bulk/{edit}"), body).await;
            assert_eq!(answer.status, status, "{answer:?}");
            if status == 200 {
                assert_eq!(answer.data()["updated"], 2);
                assert_eq!(read(&centre, &b).await[field], value);
            }
        }
        let body = json!({"node_ids": [a]});
        let answer = centre.post(&format!("/api/v1/nodes/bulk/{edit}"), body).await;
        assert_eq!(answer.body["errors"][0]["field"], field, "absence is not null");
    }
}

#[tokio::test]
async fn a_bulk_edit_has_its_limits_and_fails_whole_when_the_database_does() {
    let centre = Centre::start().await;
    let [a, b, _] = three(&centre).await;
    for ids in [json!([]), json!(vec![a.clone(); 501]), json!(["x"]), json!("x")] {
        let body = json!({"node_ids": ids, "tag": "x"});
        let answer = centre.post("/api/v1/nodes/bulk/add-tag", body).await;
        assert_eq!(answer.problem(), (422, "validation_failed".to_owned()));
    }
    let broken = serde_json::from_value(b.clone()).expect("an id");
    centre.app.store.sabotage("UPDATE", "nodes", Some(broken)).await;
    let body = json!({"node_ids": [a, b], "tag": "x"});
    let answer = centre.post("/api/v1/nodes/bulk/add-tag", body).await;
    assert_eq!(answer.problem(), (500, "internal_error".to_owned()));
    assert_eq!(read(&centre, &a).await["version"], 1);
}
