//! Operators are taken by the word, agents are not.

use axum::http::Method;
use serde_json::{Value, json};

use super::authority::{fill, lines};
use super::{Centre, heartbeat};
use crate::auth::Role;
use crate::strict::is_strict;

const NOTHING: &str = "00000000-0000-4000-8000-000000000000";

#[tokio::test]
async fn a_parameter_that_there_is_not_is_refused_on_every_route_of_operators() {
    let centre = Centre::start().await;
    for (role, path, verbs) in lines(&centre.app).await {
        if role == Role::Agent || role == Role::Anyone {
            continue;
        }
        for verb in verbs {
            let path = format!("{}?wrokflow=1", fill(path, NOTHING));
            let answer = centre.call(&centre.operator, verb.as_str(), &path, None).await;
            if !is_strict(role, &path) {
                assert_ne!(answer.body["code"], "unknown_parameter", "{verb} {path}");
                continue;
            }
            assert_eq!(answer.problem(), (400, "unknown_parameter".to_owned()), "{verb} {path}");
            assert!(answer.detail().contains("'wrokflow'"), "{}", answer.detail());
        }
    }
}

#[tokio::test]
async fn a_field_that_there_is_not_is_refused_with_those_that_there_are() {
    let centre = Centre::start().await;
    let site = centre.make_site("berlin").await;
    let node = centre.make_node("52:54:00:00:00:01", Some(site)).await;
    let (node, id) =
        (format!("/api/v1/nodes/{}", node["id"].as_str().expect("an id")), &node["id"]);
    let kernel = json!({"name": "a", "method": "kernel", "kernel": "images/debian/linux"});
    let workflow = centre.post("/api/v1/workflows", kernel.clone()).await.data().clone();
    let workflow = format!("/api/v1/workflows/{}", workflow["id"].as_str().expect("an id"));
    let mut misspelt = kernel;
    misspelt["name"] = "b".into();
    misspelt["inirtd"] = json!([]);
    for (verb, path, body, field, known) in [
        ("PATCH", node.as_str(), json!({"workflow": "x"}), "workflow", "workflow_id"),
        ("PATCH", &node, json!({"hostname": "a", "state": "active"}), "state", "hostname"),
        (
            "PATCH",
            &format!("{node}/state"),
            json!({"state": "pending", "forced": true}),
            "forced",
            "force",
        ),
        (
            "POST",
            "/api/v1/sites",
            json!({"name": "a", "autonomy": "full"}),
            "autonomy",
            "autonomy_level",
        ),
        ("POST", "/api/v1/workflows", misspelt, "inirtd", "initrd"),
        ("PATCH", &workflow, json!({"target": "images/debian/linux"}), "target", "kernel"),
        ("PATCH", &workflow, json!({"comand_line": null}), "comand_line", "command_line"),
        (
            "POST",
            "/api/v1/nodes/bulk/add-tag",
            json!({"node_ids": [id], "tag": "a", "tags": []}),
            "tags",
            "node_ids",
        ),
        (
            "POST",
            "/api/v1/tokens",
            json!({"name": "a", "expires": 1}),
            "expires",
            "expires_in_days",
        ),
    ] {
        let answer = centre.call(&centre.operator, verb, path, Some(body)).await;
        assert_eq!(answer.problem(), (422, "validation_failed".to_owned()), "{verb} {path}");
        assert_eq!(answer.body["errors"][0]["field"], field, "{answer:?}");
        let message = answer.body["errors"][0]["message"].as_str().expect("a message");
        assert!(message.contains(known), "{verb} {path}: {message}");
    }
    // Facts have the names that operators give them.
    let meta = centre.patch(&format!("{node}/meta"), json!({"anything": "goes"})).await;
    assert_eq!(meta.status, 200, "{meta:?}");
}

#[tokio::test]
async fn u7_an_agent_may_say_more_than_its_controller_knows() {
    let centre = Centre::start().await;
    let berlin = centre.join("berlin").await;
    let mut beat = heartbeat(berlin.site, 1);
    beat["mood"] = "good".into();
    for (verb, path, body) in [
        (Method::POST, "/api/v1/agents/heartbeat?mood=good", beat),
        (Method::GET, "/api/v1/agents/nodes?since_version=0&mood=good", Value::Null),
        (Method::POST, "/api/v1/agents/boots", json!({"sessions": [], "mood": "good"})),
    ] {
        let answer = centre.call(&berlin.credential, verb.as_str(), path, Some(body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}
