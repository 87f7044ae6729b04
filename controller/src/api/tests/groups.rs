//! Groups: the tree that they share with sites, and what nodes inherit down it.

use pureboot_protocol::Lifecycle;
use serde_json::{Value, json};

use super::changes::{hand_over, node, node_id, outcomes, seen, wish};
use super::nodes::workflow;
use super::{Centre, Joined};

fn id(resource: &Value) -> String {
    resource["id"].as_str().expect("an id").to_owned()
}

async fn make(centre: &Centre, body: Value) -> String {
    id(centre.post("/api/v1/groups", body).await.data())
}

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("a list");
    list.iter().map(|group| group["name"].as_str().expect("a name")).collect()
}

/// What the agent is told to install on the node with `mac`.
async fn installed(centre: &Centre, agent: &Joined, mac: &str) -> Value {
    let record = centre.record_of(&agent.credential, mac).await.expect("a record");
    record["workflow"]["name"].clone()
}

#[tokio::test]
async fn a_group_is_made_read_changed_and_deleted() {
    let centre = Centre::start().await;
    let made = centre.post("/api/v1/groups", json!({"name": "web", "tags": ["A"]})).await;
    assert_eq!(made.status, 201);
    let mut expected = json!({
        "name": "web", "description": "", "parent_id": null, "path": "/web", "depth": 0, "is_site": false,
        "default_workflow_id": null, "auto_provision": null, "tags": ["a"],
        "created_at": "2026-11-21T00:00:00.000Z", "updated_at": "2026-11-21T00:00:00.000Z", "version": 1,
    });
    expected["id"] = made.data()["id"].clone();
    assert_eq!(made.data(), &expected);
    let path = format!("/api/v1/groups/{}", id(made.data()));
    assert_eq!(centre.get(&path).await.data(), &expected);
    let changed = centre.patch(&path, json!({"auto_provision": false})).await;
    assert_eq!(
        (&changed.data()["auto_provision"], &changed.data()["version"]),
        (&json!(false), &json!(2))
    );
    let cleared = centre.patch(&path, json!({"auto_provision": null})).await;
    assert_eq!(cleared.data()["auto_provision"], Value::Null);
    let nowhere = "00000000-0000-4000-8000-000000000000";
    for (patch, field) in [
        (json!({"name": "a/b"}), "name"),
        (json!({"default_workflow_id": nowhere}), "default_workflow_id"),
        (json!({"parent_id": nowhere}), "parent_id"),
        (json!({"auto_provision": "yes"}), "auto_provision"),
    ] {
        let answer = centre.patch(&path, patch).await;
        assert_eq!(answer.problem(), (422, "validation_failed".to_owned()));
        assert_eq!(answer.body["errors"][0]["field"], field);
    }
    assert_eq!(centre.delete(&path).await.data()["name"], "web");
    for suffix in ["", "/ancestors", "/descendants", "/nodes"] {
        let answer = centre.get(&format!("{path}{suffix}")).await;
        assert_eq!(answer.problem(), (404, "not_found".to_owned()), "{suffix}");
    }
}

#[tokio::test]
async fn a_site_is_a_group_and_a_group_is_no_site() {
    let centre = Centre::start().await;
    let site = centre.make_site("berlin").await;
    let group = make(&centre, json!({"name": "web", "parent_id": site})).await;
    for suffix in ["", "/agent-token", "/nodes"] {
        let method = if suffix == "/agent-token" { "POST" } else { "GET" };
        let path = format!("/api/v1/sites/{group}{suffix}");
        let answer = centre.call(&centre.operator, method, &path, None).await;
        assert_eq!(answer.problem(), (404, "not_found".to_owned()), "{suffix}");
    }
    let as_site = format!("/api/v1/sites/{group}");
    assert_eq!(centre.patch(&as_site, json!({})).await.problem().0, 404);
    assert_eq!(centre.delete(&as_site).await.problem().0, 404);
    assert_eq!(names(centre.get("/api/v1/sites").await.data()), ["berlin"]);
    assert_eq!(centre.get("/api/v1/sites").await.body["total"], 1);
    let as_group = centre.get(&format!("/api/v1/groups/{site}")).await;
    assert_eq!(as_group.data()["is_site"], true);

    for (path, name) in [("/api/v1/sites", "web"), ("/api/v1/groups", "berlin")] {
        let answer = centre.post(path, json!({"name": name})).await;
        assert_eq!(answer.problem(), (409, "name_taken".to_owned()), "one namespace");
    }
    let nested = centre.post("/api/v1/sites", json!({"name": "lab", "parent_id": group})).await;
    assert_eq!(nested.problem(), (400, "parent_not_a_site".to_owned()));
    let moved = centre.patch(&format!("/api/v1/groups/{site}"), json!({"parent_id": group})).await;
    assert_eq!(moved.problem(), (400, "parent_below".to_owned()));
    let home = json!({"mac_address": "02:00:00:00:00:01", "home_site_id": group});
    let home = centre.post("/api/v1/nodes", home).await;
    assert_eq!(home.body["errors"][0]["field"], "home_site_id");
    let in_use = centre.delete(&format!("/api/v1/sites/{site}")).await;
    assert_eq!(in_use.problem(), (400, "site_in_use".to_owned()));
}

#[tokio::test]
async fn the_tree_is_walked_up_and_down_and_moves_whole() {
    let centre = Centre::start().await;
    let site = centre.make_site("berlin").await;
    let web = make(&centre, json!({"name": "web", "parent_id": site})).await;
    let front = make(&centre, json!({"name": "front", "parent_id": web})).await;
    let edge = make(&centre, json!({"name": "edge", "parent_id": front})).await;
    make(&centre, json!({"name": "web2"})).await;
    let list = async |path: String| centre.get(&path).await;
    let up = list(format!("/api/v1/groups/{edge}/ancestors")).await;
    assert_eq!(names(up.data()), ["berlin", "web", "front"]);
    assert_eq!(up.body["total"], 3);
    let up = list(format!("/api/v1/groups/{edge}/ancestors?limit=2")).await;
    let cursor = up.body["next_cursor"].as_str().expect("a second page");
    let rest = list(format!("/api/v1/groups/{edge}/ancestors?limit=2&cursor={cursor}")).await;
    assert_eq!(names(rest.data()), ["front"]);
    let mut down = list(format!("/api/v1/groups/{web}/descendants")).await;
    assert_eq!(down.body["total"], 2);
    let down = down.body["data"].take();
    let mut down = names(&down);
    down.sort_unstable();
    assert_eq!(down, ["edge", "front"]);
    let mut roots = list("/api/v1/groups?root_only=true".to_owned()).await;
    let roots = roots.body["data"].take();
    let mut roots = names(&roots);
    roots.sort_unstable();
    assert_eq!(roots, ["berlin", "web2"]);
    assert_eq!(list("/api/v1/groups".to_owned()).await.body["total"], 5);
    let children = list(format!("/api/v1/groups?parent_id={web}")).await;
    assert_eq!(names(children.data()), ["front"]);

    let path = format!("/api/v1/groups/{web}");
    let below = centre.patch(&path, json!({"parent_id": edge})).await;
    assert_eq!(below.problem(), (400, "parent_below".to_owned()));
    centre.patch(&path, json!({"parent_id": null, "name": "www"})).await.data();
    let edge = list(format!("/api/v1/groups/{edge}")).await;
    assert_eq!(
        (&edge.data()["path"], &edge.data()["depth"]),
        (&json!("/www/front/edge"), &json!(2))
    );
    let in_use = centre.delete(&path).await;
    assert_eq!(in_use.problem(), (400, "group_in_use".to_owned()));
    assert!(in_use.detail().starts_with("Cannot delete group 'www'"));
}

#[tokio::test]
async fn the_nodes_of_a_group_or_site_are_listed_with_or_without_those_below() {
    let centre = Centre::start().await;
    let emea = centre.make_site("emea").await;
    let berlin = centre.post("/api/v1/sites", json!({"name": "berlin", "parent_id": emea})).await;
    let berlin = id(berlin.data());
    let web = make(&centre, json!({"name": "web", "parent_id": berlin})).await;
    for (number, group, home) in [
        (1, json!(web), json!(berlin)),
        (2, Value::Null, json!(berlin)),
        (3, json!(web), Value::Null),
        (4, Value::Null, json!(emea)),
        (5, Value::Null, Value::Null),
    ] {
        let mac = format!("02:00:00:00:00:0{number}");
        let body = json!({"mac_address": mac, "group_id": group, "home_site_id": home});
        assert_eq!(centre.post("/api/v1/nodes", body).await.data()["group_id"], group);
    }
    for (path, expected) in [
        (format!("/groups/{web}/nodes"), "13"),
        (format!("/groups/{berlin}/nodes"), "12"),
        (format!("/groups/{berlin}/nodes?include_descendants=true"), "123"),
        (format!("/groups/{emea}/nodes?include_descendants=true"), "1234"),
        (format!("/sites/{emea}/nodes"), "4"),
        (format!("/sites/{emea}/nodes?include_descendant_sites=true"), "124"),
        (format!("/sites/{berlin}/nodes?include_descendant_sites=true"), "12"),
        (format!("/nodes?group_id={web}"), "13"),
        (format!("/nodes?group_id={web}&site_id={berlin}"), "1"),
    ] {
        let list = centre.get(&format!("/api/v1{path}")).await;
        let nodes = list.data().as_array().expect("a list");
        let last = |node: &Value| node["mac_address"].as_str().and_then(|mac| mac.chars().last());
        let mut seen: Vec<char> = nodes.iter().filter_map(last).collect();
        seen.sort_unstable();
        assert_eq!(seen.into_iter().collect::<String>(), expected, "{path}");
        assert_eq!(list.body["total"], expected.len(), "{path}");
    }
    let node = centre.get("/api/v1/nodes?mac=020000000003").await.data()[0].clone();
    let path = format!("/api/v1/nodes/{}", id(&node));
    let moved = centre.patch(&path, json!({"group_id": null})).await;
    assert_eq!(moved.data()["group_id"], Value::Null);
    let nowhere = "00000000-0000-4000-8000-000000000000";
    let lost = centre.patch(&path, json!({"group_id": nowhere})).await;
    assert_eq!(lost.body["errors"][0]["field"], "group_id");
}

#[tokio::test]
async fn a_node_without_a_workflow_of_its_own_boots_the_nearest_groups() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let mut flows = Vec::new();
    for name in ["of-site", "of-web", "of-front", "own"] {
        flows.push(centre.post("/api/v1/workflows", workflow(name)).await.data()["id"].clone());
    }
    let web = make(&centre, json!({"name": "web"})).await;
    let front = make(&centre, json!({"name": "front", "parent_id": web})).await;
    let mac = "02:00:00:00:00:01";
    let body = json!({"mac_address": mac, "group_id": front, "home_site_id": agent.site});
    let node = format!("/api/v1/nodes/{}", id(centre.post("/api/v1/nodes", body).await.data()));
    assert_eq!(installed(&centre, &agent, mac).await, Value::Null);
    for (place, flow, expected) in [
        (format!("/api/v1/sites/{}", agent.site), &flows[0], "of-site"),
        (format!("/api/v1/groups/{web}"), &flows[1], "of-web"),
        (format!("/api/v1/groups/{front}"), &flows[2], "of-front"),
    ] {
        centre.patch(&place, json!({"default_workflow_id": flow})).await.data();
        assert_eq!(installed(&centre, &agent, mac).await, expected);
    }
    let in_use =
        centre.delete(&format!("/api/v1/workflows/{}", flows[1].as_str().expect("id"))).await;
    assert_eq!(in_use.problem(), (409, "workflow_in_use".to_owned()));
    centre.patch(&node, json!({"workflow_id": flows[3]})).await.data();
    assert_eq!(installed(&centre, &agent, mac).await, "own");
    centre.patch(&node, json!({"workflow_id": null, "group_id": null})).await.data();
    assert_eq!(installed(&centre, &agent, mac).await, "of-site");
}

#[tokio::test]
async fn auto_provision_moves_a_machine_once_when_it_is_first_seen_and_the_nearest_word_counts() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let site = format!("/api/v1/groups/{}", agent.site);
    hand_over(&centre, &agent, 1, &[seen(1, 1, 1)]).await;
    centre.patch(&site, json!({"auto_provision": true})).await.data();
    let no = make(&centre, json!({"name": "careful", "auto_provision": false})).await;
    let body = json!({"mac_address": "02:00:00:00:00:03", "group_id": no});
    let careful = centre.post("/api/v1/nodes", body).await.data().clone();
    let silent = make(&centre, json!({"name": "silent"})).await;
    let body = json!({
        "mac_address": "02:00:00:00:00:04", "group_id": silent, "home_site_id": agent.site,
    });
    let awaited = centre.post("/api/v1/nodes", body).await.data().clone();

    let items = [seen(2, 1, 1), seen(3, 2, 2), seen(4, 3, 3), seen(5, 4, 4)];
    let receipt = hand_over(&centre, &agent, 2, &items).await;
    assert_eq!(outcomes(&receipt), "applied applied applied applied through 5");
    assert_eq!(node(&centre, 1).await["state"], "discovered", "it was known before");
    let new = node(&centre, 2).await;
    assert_eq!((&new["state"], &new["version"]), (&json!("pending"), &json!(1)));
    let history = centre.get(&format!("/api/v1/nodes/{}/history", node_id(2))).await;
    assert_eq!(history.body["total"], 1);
    let entry = &history.data()[0];
    assert_eq!(
        (&entry["from_state"], &entry["to_state"], &entry["triggered_by"], &entry["version"]),
        (&json!("discovered"), &json!("pending"), &json!("auto_provision"), &json!(1))
    );
    let state = async |known: &Value| {
        let known = centre.get(&format!("/api/v1/nodes/{}", id(known))).await;
        known.data()["state"].clone()
    };
    assert_eq!(state(&careful).await, "discovered");
    assert_eq!(state(&awaited).await, "pending");
    // What the site wishes for a machine that it has registered itself is no disagreement with the controller.
    let receipt = hand_over(&centre, &agent, 6, &[wish(6, 2, Lifecycle::Installing, 1)]).await;
    assert_eq!(outcomes(&receipt), "applied through 6");
}
