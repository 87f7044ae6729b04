//! Sites: the tree, its rules, and lists in parts.

use pureboot_protocol::{Lifecycle, NodeEventKind};
use serde_json::{Value, json};

use super::changes::{event, hand_over, outcomes, seen, wish};
use super::{Centre, Joined, heartbeat};

#[tokio::test]
async fn a_site_is_made_with_the_documented_defaults_read_changed_and_deleted() {
    let centre = Centre::start().await;
    let made = centre.post("/api/v1/sites", json!({"name": "berlin", "tags": ["EU", "eu"]})).await;
    assert_eq!(
        (made.status.as_u16(), &made.headers["etag"]),
        (201, &"\"1\"".parse().expect("tag"))
    );
    let site = made.data();
    let mut expected = json!({
        "name": "berlin", "description": "", "parent_id": null, "path": "/berlin", "depth": 0, "is_site": true,
        "default_workflow_id": null, "auto_provision": null,
        "agent_url": null, "agent_status": null, "agent_last_seen": null, "autonomy_level": "readonly",
        "conflict_resolution": "central_wins", "cache_policy": "minimal", "cache_patterns": [],
        "cache_max_size_gb": null, "cache_retention_days": 30, "discovery_method": "dhcp",
        "migration_policy": "manual", "foreign_nodes": "pending", "heartbeat_interval": 60, "tags": ["eu"],
        "created_at": "2026-11-21T00:00:00.000Z", "updated_at": "2026-11-21T00:00:00.000Z", "version": 1,
    });
    expected["id"] = site["id"].clone();
    assert_eq!(site, &expected);
    let path = format!("/api/v1/sites/{}", site["id"].as_str().expect("an id"));
    assert_eq!(centre.get(&path).await.data(), &expected);

    centre.pass_seconds(1);
    let patch = json!({"autonomy_level": "full", "cache_max_size_gb": 20, "heartbeat_interval": 5});
    let changed = centre.patch(&path, patch).await;
    assert_eq!(changed.data()["autonomy_level"], "full");
    assert_eq!(changed.data()["version"], 2);
    assert_eq!(changed.data()["updated_at"], "2026-11-21T00:00:01.000Z");
    let cleared = centre.patch(&path, json!({"cache_max_size_gb": null})).await;
    assert_eq!(cleared.data()["cache_max_size_gb"], Value::Null);
    assert_eq!(cleared.data()["autonomy_level"], "full");

    assert_eq!(centre.delete(&path).await.data()["name"], "berlin");
    assert_eq!(centre.get(&path).await.problem(), (404, "not_found".to_owned()));
}

#[tokio::test]
async fn fields_that_do_not_validate_are_named() {
    let centre = Centre::start().await;
    for (body, field) in [
        (json!({}), "name"),
        (json!({"name": 5}), "name"),
        (json!({"name": ""}), "name"),
        (json!({"name": "a/b"}), "name"),
        (json!({"name": "a\nb"}), "name"),
        (json!({"name": "a", "autonomy_level": "Full"}), "autonomy_level"),
        (json!({"name": "a", "cache_policy": "all"}), "cache_policy"),
        (json!({"name": "a", "heartbeat_interval": 4}), "heartbeat_interval"),
        (json!({"name": "a", "heartbeat_interval": 3601}), "heartbeat_interval"),
        (json!({"name": "a", "heartbeat_interval": -1}), "heartbeat_interval"),
        (json!({"name": "a", "cache_max_size_gb": 0}), "cache_max_size_gb"),
        (json!({"name": "a", "agent_url": "javascript:alert(1)"}), "agent_url"),
        (json!({"name": "a", "tags": ["a b"]}), "tags[0]"),
        (json!({"name": "a", "parent_id": "x"}), "parent_id"),
        (json!([]), "body"),
    ] {
        let answer = centre.post("/api/v1/sites", body.clone()).await;
        if body == json!([]) {
            assert_eq!(answer.status, 422);
            continue;
        }
        assert_eq!(answer.problem(), (422, "validation_failed".to_owned()), "{body}");
        assert_eq!(answer.body["errors"][0]["field"], field, "{body}");
    }
    assert_eq!(centre.get("/api/v1/sites").await.body["total"], 0);
}

#[tokio::test]
async fn moving_or_renaming_a_site_rewrites_the_paths_below_it() {
    let centre = Centre::start().await;
    let mut ids = Vec::new();
    // The percent sign and the underscore mean something to SQL's LIKE, and must not here.
    for (name, parent) in [("em%a", None), ("de_", Some(0)), ("berlin", Some(1)), ("em%ab", None)] {
        let parent: Option<&String> = parent.and_then(|at: usize| ids.get(at));
        let body = json!({"name": name, "parent_id": parent});
        let site = centre.post("/api/v1/sites", body).await;
        ids.push(site.data()["id"].as_str().expect("an id").to_owned());
    }
    let [emea, de, berlin, other] = ids.try_into().expect("four sites");
    let place = async |id: &str| {
        let site = centre.get(&format!("/api/v1/sites/{id}")).await;
        format!("{} {}", site.data()["path"].as_str().expect("a path"), site.data()["depth"])
    };
    assert_eq!(place(&berlin).await, "/em%a/de_/berlin 2");
    centre.patch(&format!("/api/v1/sites/{emea}"), json!({"name": "world"})).await.data();
    assert_eq!(place(&berlin).await, "/world/de_/berlin 2");
    assert_eq!(place(&other).await, "/em%ab 0");
    centre.patch(&format!("/api/v1/sites/{de}"), json!({"parent_id": null})).await.data();
    assert_eq!(place(&berlin).await, "/de_/berlin 1");
    centre.patch(&format!("/api/v1/sites/{de}"), json!({"parent_id": other})).await.data();
    assert_eq!(place(&berlin).await, "/em%ab/de_/berlin 2");

    for (site, parent) in [(&de, &de), (&de, &berlin), (&other, &berlin)] {
        let answer =
            centre.patch(&format!("/api/v1/sites/{site}"), json!({"parent_id": parent})).await;
        assert_eq!(answer.problem(), (400, "parent_below".to_owned()));
    }
    assert_eq!(place(&berlin).await, "/em%ab/de_/berlin 2");
    let children = centre.get(&format!("/api/v1/sites?parent_id={other}")).await;
    assert_eq!((&children.body["total"], &children.data()[0]["name"]), (&json!(1), &json!("de_")));
}

#[tokio::test]
async fn what_would_break_the_tree_is_refused() {
    let centre = Centre::start().await;
    let berlin = centre.make_site("berlin").await;
    let path = format!("/api/v1/sites/{berlin}");
    let taken = centre.post("/api/v1/sites", json!({"name": "berlin"})).await;
    assert_eq!(taken.problem(), (409, "name_taken".to_owned()));
    let orphan = json!({"name": "lab", "parent_id": "00000000-0000-4000-8000-000000000000"});
    let orphan = centre.post("/api/v1/sites", orphan).await;
    assert_eq!(orphan.problem(), (400, "parent_not_a_site".to_owned()));
    assert!(orphan.detail().starts_with("Sites can only be nested under other sites"));

    let lab = centre.post("/api/v1/sites", json!({"name": "lab", "parent_id": berlin})).await;
    let lab = format!("/api/v1/sites/{}", lab.data()["id"].as_str().expect("an id"));
    let rename = centre.patch(&lab, json!({"name": "berlin"})).await;
    assert_eq!(rename.problem(), (409, "name_taken".to_owned()));
    let with_child = centre.delete(&path).await;
    assert_eq!(with_child.problem(), (400, "site_in_use".to_owned()));
    assert!(
        with_child
            .detail()
            .starts_with("Cannot delete site 'berlin': it has 1 sites or groups and 0 nodes")
    );
    centre.delete(&lab).await.data();

    let node = centre.make_node("02:00:00:00:00:01", Some(berlin)).await;
    assert_eq!(centre.delete(&path).await.problem(), (400, "site_in_use".to_owned()));
    let node = format!("/api/v1/nodes/{}", node["id"].as_str().expect("an id"));
    centre.delete(&node).await.data();
    centre.delete(&path).await.data();
    assert_eq!(centre.get(&node).await.data()["home_site_id"], Value::Null);
}

#[tokio::test]
async fn deleting_a_site_ends_its_agents_credential() {
    let centre = Centre::start().await;
    let Joined { site, credential } = centre.join("berlin").await;
    centre.delete(&format!("/api/v1/sites/{site}")).await.data();
    let answer = centre.call(&credential, "GET", "/api/v1/agents/nodes", None).await;
    assert_eq!(answer.problem(), (401, "unauthenticated".to_owned()));
}

#[tokio::test]
async fn a_list_in_parts_has_every_row_once() {
    let centre = Centre::start().await;
    for number in 0..7 {
        centre.make_site(&format!("site-{number}")).await;
    }
    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = centre.get(&format!("/api/v1/sites?limit=3{cursor}")).await;
        assert_eq!(page.body["total"], 7);
        for site in page.data().as_array().expect("a list") {
            names.push(site["name"].as_str().expect("a name").to_owned());
        }
        match page.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    names.sort();
    assert_eq!(names, (0..7).map(|number| format!("site-{number}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_change_of_a_version_that_is_gone_is_refused() {
    let centre = Centre::start().await;
    let path = format!("/api/v1/sites/{}", centre.make_site("berlin").await);
    for (tag, status) in [("\"1\"", 200), ("\"1\"", 412), ("2", 200), ("*", 200), ("x", 400)] {
        let mut request = super::request(Some(&centre.operator), "PATCH", &path, Some(json!({})));
        request.headers_mut().insert("if-match", tag.parse().expect("a tag"));
        let answer = centre.send(request).await;
        assert_eq!(answer.status, status, "{tag}: {answer:?}");
        if status != 200 {
            answer.problem();
        }
    }
}

#[tokio::test]
async fn the_health_of_a_site_says_what_an_operator_should_look_at() {
    let centre = Centre::start().await;
    let codes = |health: &Value| {
        let alerts = health["alerts"].as_array().expect("a list");
        alerts.iter().map(|alert| alert["code"].clone()).collect::<Vec<_>>()
    };
    let lonely = centre.make_site("oslo").await;
    let health = centre.get(&format!("/api/v1/sites/{lonely}/health")).await;
    assert_eq!(codes(health.data()), ["no_agent"]);
    assert_eq!(health.data()["pending_sync_items"], Value::Null);

    let agent = centre.join("berlin").await;
    let path = format!("/api/v1/sites/{}/health", agent.site);
    assert_eq!(codes(centre.get(&path).await.data()), [""; 0]);
    let settings = json!({"cache_max_size_gb": 8, "conflict_resolution": "manual"});
    centre.patch(&format!("/api/v1/sites/{}", agent.site), settings).await;
    let mut body = heartbeat(agent.site, 1);
    body["disk_usage_percent"] = json!(90);
    body["cache_size_bytes"] = json!(1_500_000_000_u64);
    body["pending_sync_items"] = json!(4);
    body["services"] = json!({
        "http": {"running": true, "address": "192.0.2.1:8080"},
        "tftp": {"running": false, "address": "192.0.2.1:69"},
    });
    let beat = Some(body.clone());
    centre.call(&agent.credential, "POST", "/api/v1/agents/heartbeat", beat).await;
    let wish = wish(3, 1, Lifecycle::Active, 1);
    let items = [seen(1, 1, 1), event(2, 9, NodeEventKind::BootStarted), wish];
    assert_eq!(
        outcomes(&hand_over(&centre, &agent, 1, &items).await),
        "applied parked conflict through 3"
    );
    centre.pass_seconds(130);
    crate::jobs::agent_status::look(&centre.app, centre.app.now().plus_seconds(-130))
        .await
        .expect("looked");
    let health = centre.get(&path).await;
    assert_eq!(
        codes(health.data()),
        ["agent_degraded", "service_down", "disk_full", "conflicts_pending", "changes_parked"]
    );
    for (field, value) in [
        ("site_id", json!(agent.site)),
        ("agent_status", json!("degraded")),
        ("agent_last_seen", json!("2026-11-21T00:00:00.000Z")),
        ("pending_sync_items", json!(4)),
        ("conflicts_pending", json!(1)),
        ("nodes_count", json!(1)),
        ("cache_used_gb", json!(1.5)),
        ("cache_max_gb", json!(8)),
        ("services", body["services"].clone()),
    ] {
        assert_eq!(health.data()[field], value, "{field}");
    }
    let nowhere = "/api/v1/sites/00000000-0000-4000-8000-000000000000/health";
    assert_eq!(centre.get(nowhere).await.problem(), (404, "not_found".to_owned()));
}
