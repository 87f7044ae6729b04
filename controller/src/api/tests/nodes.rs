//! Nodes and the workflows that they are installed with.

use pureboot_protocol::{Lifecycle, Workflow};
use serde_json::{Value, json};

use super::{Centre, request};

pub(super) fn path(node: &Value) -> String {
    format!("/api/v1/nodes/{}", node["id"].as_str().expect("an id"))
}

pub(super) fn workflow(name: &str) -> Value {
    json!({
        "name": name, "method": "kernel", "kernel": "images/debian/linux",
        "initrd": ["images/debian/initrd.gz"], "command_line": "quiet",
    })
}

#[tokio::test]
async fn h15_a_node_has_one_address_in_whatever_form_it_is_said() {
    let centre = Centre::start().await;
    let made = centre.post("/api/v1/nodes", json!({"mac_address": "52-54-00-AB-CD-EF"})).await;
    assert_eq!(made.status, 201);
    assert_eq!(made.data()["mac_address"], "52:54:00:ab:cd:ef");
    assert_eq!((&made.data()["state"], &made.data()["version"]), (&json!("discovered"), &json!(1)));
    for form in ["525400ABCDEF", "52:54:00:ab:cd:ef"] {
        let again = centre.post("/api/v1/nodes", json!({"mac_address": form})).await;
        assert_eq!(again.problem(), (409, "mac_taken".to_owned()));
        let found = centre.get(&format!("/api/v1/nodes?mac={form}")).await;
        assert_eq!(found.data()[0]["id"], made.data()["id"]);
    }
    for bad in ["", "52:54:00:ab:cd", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "5254.00ab.cdef"] {
        let answer = centre.post("/api/v1/nodes", json!({"mac_address": bad})).await;
        assert_eq!(answer.problem(), (400, "invalid_mac".to_owned()), "{bad}");
    }
    assert_eq!(centre.get("/api/v1/nodes").await.body["total"], 1);
}

#[tokio::test]
async fn an_operator_sets_what_is_hers_to_set() {
    let centre = Centre::start().await;
    let site = centre.make_site("berlin").await;
    let flow = centre.post("/api/v1/workflows", workflow("debian")).await.data().clone();
    let node = centre.make_node("02:00:00:00:00:01", None).await;
    let patch = json!({
        "hostname": "web-1.example", "workflow_id": flow["id"], "home_site_id": site, "tags": ["b", "A"],
    });
    let changed = centre.patch(&path(&node), patch.clone()).await;
    assert_eq!(changed.data()["hostname"], "web-1.example");
    assert_eq!(changed.data()["tags"], json!(["a", "b"]));
    assert_eq!(changed.data()["workflow_id"], flow["id"]);
    assert_eq!(
        (&changed.data()["version"], &changed.headers["etag"]),
        (&json!(2), &"\"2\"".parse().expect("a tag"))
    );
    for (filter, total) in [
        (format!("site_id={site}"), 1),
        ("tag=A".to_owned(), 1),
        ("tag=c".to_owned(), 0),
        ("state=discovered".to_owned(), 1),
        ("state=pending".to_owned(), 0),
        (format!("site_id={site}&tag=b&state=discovered"), 1),
    ] {
        let list = centre.get(&format!("/api/v1/nodes?{filter}")).await;
        assert_eq!(list.body["total"], total, "{filter}");
        assert_eq!(list.data().as_array().map(Vec::len), Some(total), "{filter}");
    }
    let cleared = centre.patch(&path(&node), json!({"hostname": null})).await;
    assert_eq!(cleared.data()["hostname"], Value::Null);
    assert_eq!(cleared.data()["workflow_id"], flow["id"]);
    let nowhere = "00000000-0000-4000-8000-000000000000";
    for (patch, field) in [
        (json!({"hostname": "a\nchain http://evil"}), "hostname"),
        (json!({"hostname": "-a"}), "hostname"),
        (json!({"workflow_id": nowhere}), "workflow_id"),
        (json!({"home_site_id": nowhere}), "home_site_id"),
        (json!({"tags": [""]}), "tags[0]"),
    ] {
        let answer = centre.patch(&path(&node), patch).await;
        assert_eq!(answer.problem(), (422, "validation_failed".to_owned()));
        assert_eq!(answer.body["errors"][0]["field"], field);
    }
    let mut stale = request(Some(&centre.operator), "PATCH", &path(&node), Some(patch));
    stale.headers_mut().insert("if-match", "\"1\"".parse().expect("a tag"));
    assert_eq!(centre.send(stale).await.problem(), (412, "stale_version".to_owned()));
}

#[tokio::test]
async fn a_node_moves_along_the_lifecycle_and_its_history_says_how() {
    let centre = Centre::start().await;
    let node = centre.make_node("02:00:00:00:00:01", None).await;
    let state = format!("{}/state", path(&node));
    let refused = centre.patch(&state, json!({"state": "active"})).await;
    assert_eq!(refused.problem(), (400, "invalid_transition".to_owned()));
    assert_eq!(
        refused.detail(),
        "Invalid state transition from 'discovered' to 'active'. Valid transitions: [pending, cloning_target, retired]"
    );
    let unknown = centre.patch(&state, json!({"state": "asleep"})).await;
    assert_eq!(unknown.problem(), (422, "validation_failed".to_owned()));
    let order = json!({"state": "pending", "comment": "first install"});
    let mut request = request(Some(&centre.operator), "PATCH", &state, Some(order));
    request.headers_mut().insert("x-correlation-id", "ticket-7".parse().expect("an id"));
    assert_eq!(centre.send(request).await.data()["state"], "pending");
    centre.patch(&state, json!({"state": "installing"})).await.data();

    let history = centre.get(&format!("{}/history", path(&node))).await;
    assert_eq!(history.body["total"], 2);
    let [latest, first] = [&history.data()[0], &history.data()[1]];
    assert_eq!(
        (&latest["from_state"], &latest["to_state"]),
        (&json!("pending"), &json!("installing"))
    );
    assert_eq!(
        (&first["comment"], &first["correlation_id"], &first["triggered_by"], &first["version"]),
        (&json!("first install"), &json!("ticket-7"), &json!("operator"), &json!(2))
    );
    let page = centre.get(&format!("{}/history?limit=1", path(&node))).await;
    let cursor = page.body["next_cursor"].as_str().expect("a second page");
    let rest = centre.get(&format!("{}/history?limit=1&cursor={cursor}", path(&node))).await;
    assert_eq!((&rest.data()[0], &rest.body["next_cursor"]), (first, &Value::Null));
}

#[tokio::test]
async fn a_failed_installation_is_tried_again_by_force_only() {
    let centre = Centre::start().await;
    let node = centre.make_node("02:00:00:00:00:01", None).await;
    let state = format!("{}/state", path(&node));
    for to in ["pending", "installing", "install_failed"] {
        centre.patch(&state, json!({"state": to})).await.data();
    }
    let refused = centre.patch(&state, json!({"state": "pending"})).await;
    assert_eq!(refused.problem(), (400, "invalid_transition".to_owned()));
    assert!(refused.detail().contains("force: true"));
    let forced = centre.patch(&state, json!({"state": "pending", "force": true})).await;
    assert_eq!(forced.data()["state"], "pending");
    let bent = centre.patch(&state, json!({"state": "active", "force": true})).await;
    assert_eq!(bent.problem(), (400, "invalid_transition".to_owned()));
}

#[tokio::test]
async fn deleting_a_node_retires_it_for_good() {
    let centre = Centre::start().await;
    let node = centre.make_node("02:00:00:00:00:01", None).await;
    for _ in 0..2 {
        let retired = centre.delete(&path(&node)).await;
        assert_eq!(
            (&retired.data()["state"], &retired.data()["version"]),
            (&json!("retired"), &json!(2))
        );
    }
    for to in Lifecycle::ALL {
        let answer = centre.patch(&format!("{}/state", path(&node)), json!({"state": to})).await;
        assert_eq!(answer.problem(), (400, "invalid_transition".to_owned()), "{to}");
    }
    assert_eq!(centre.get(&format!("{}/history", path(&node))).await.body["total"], 1);
    assert_eq!(centre.get(&format!("{}/events", path(&node))).await.body["total"], 0);
    for missing in ["", "/history", "/events"] {
        let path = format!("/api/v1/nodes/00000000-0000-4000-8000-000000000000{missing}");
        assert_eq!(centre.get(&path).await.problem(), (404, "not_found".to_owned()));
    }
}

#[tokio::test]
async fn a_workflow_is_made_changed_listed_and_deleted_unless_nodes_use_it() {
    let centre = Centre::start().await;
    let made = centre.post("/api/v1/workflows", workflow("debian")).await;
    assert_eq!(made.status, 201);
    let flow: Workflow = serde_json::from_value(made.data().clone()).expect("a workflow");
    let path = format!("/api/v1/workflows/{}", flow.id);
    assert_eq!(centre.get(&path).await.data(), made.data());
    let taken = centre.post("/api/v1/workflows", workflow("debian")).await;
    assert_eq!(taken.problem(), (409, "name_taken".to_owned()));

    let changed =
        centre.patch(&path, json!({"command_line": "quiet splash", "initrd": null})).await;
    assert_eq!(changed.data()["command_line"], "quiet splash");
    assert_eq!(changed.data()["initrd"], json!([]));
    assert_eq!(changed.data()["kernel"], "images/debian/linux");
    assert_eq!(changed.data()["version"], 2);
    for body in [
        json!({"name": "x"}),
        json!({"name": "x", "method": "magic"}),
        json!({"name": "x", "method": "kernel", "kernel": "../etc/passwd"}),
        json!({"name": "x", "method": "kernel", "kernel": "images/a", "command_line": "a ${b}"}),
        json!({"method": "kernel", "kernel": "images/a"}),
    ] {
        let answer = centre.post("/api/v1/workflows", body.clone()).await;
        assert_eq!(answer.problem(), (422, "validation_failed".to_owned()), "{body}");
    }
    let broken = centre.patch(&path, json!({"kernel": null})).await;
    assert_eq!(broken.problem(), (422, "validation_failed".to_owned()));
    assert_eq!(centre.get("/api/v1/workflows").await.body["total"], 1);

    let node = json!({"mac_address": "02:00:00:00:00:01", "workflow_id": flow.id});
    let node = centre.post("/api/v1/nodes", node).await.data().clone();
    assert_eq!(centre.delete(&path).await.problem(), (409, "workflow_in_use".to_owned()));
    centre.patch(&self::path(&node), json!({"workflow_id": null})).await.data();
    centre.delete(&path).await.data();
    assert_eq!(centre.get(&path).await.problem(), (404, "not_found".to_owned()));
}
