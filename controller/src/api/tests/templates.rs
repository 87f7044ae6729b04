//! Templates with their versions, what they are filled in with, and secrets that nobody is shown.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{Centre, request};

const TEMPLATES: &str = "/api/v1/templates";

async fn make(centre: &Centre, name: &str, body: &str) -> String {
    let body = json!({"name": name, "kind": "script", "body": body});
    let answer = centre.post(TEMPLATES, body).await;
    answer.data()["id"].as_str().expect("an id").to_owned()
}

fn message(answer: &super::Answer) -> &str {
    answer.body["errors"][0]["message"].as_str().expect("a message")
}

#[tokio::test]
async fn every_change_is_a_version_that_can_be_read_and_restored() {
    let centre = Centre::start().await;
    let id = make(&centre, "a", "one").await;
    let path = format!("{TEMPLATES}/{id}");
    let second = centre.patch(&path, json!({"body": "two", "name": "b"})).await;
    assert_eq!((&second.data()["version"], &second.data()["size_bytes"]), (&json!(2), &json!(3)));
    assert_eq!(second.headers["etag"], "\"2\"");
    let versions = centre.get(&format!("{path}/versions")).await;
    assert_eq!(versions.body["total"], 2);
    assert_eq!(versions.data()[0]["version"], 2);
    assert_eq!(versions.data()[0].get("body"), None);
    assert_eq!(centre.get(&format!("{path}/versions/1")).await.data()["body"], "one");
    let restored = centre.post(&format!("{path}/versions/1/restore"), json!({})).await;
    assert_eq!(restored.data()["version"], 3);
    assert_eq!((&restored.data()["body"], &restored.data()["name"]), (&json!("one"), &json!("b")));
    for missing in ["4", "0", "x"] {
        let answer = centre.get(&format!("{path}/versions/{missing}")).await;
        assert_eq!(answer.problem(), (404, "not_found".to_owned()), "{missing}");
    }
    let mut stale = request(Some(&centre.operator), "PATCH", &path, Some(json!({"body": "x"})));
    stale.headers_mut().insert("if-match", "\"2\"".parse().expect("a header"));
    assert_eq!(centre.send(stale).await.problem(), (412, "stale_version".to_owned()));
    assert_eq!(centre.get(TEMPLATES).await.data()[0].get("body"), None);
    assert_eq!(centre.get(&format!("{TEMPLATES}?kind=preseed")).await.body["total"], 0);
    assert_eq!(centre.delete(&path).await.data()["body"], "one");
    assert_eq!(centre.get(&path).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn u8_what_does_not_compile_is_refused_and_the_old_one_stays() {
    let centre = Centre::start().await;
    let id = make(&centre, "a", "one").await;
    let path = format!("{TEMPLATES}/{id}");
    for (body, place) in [
        ("x\n {{ a b }}", "'a' line 2, column 7: "),
        ("{% include 'nothing' %}", "'a' line 1, column 12: there is no template 'nothing'"),
        ("{% include 'a' %}", "'a' line 1, column 12: 'a' includes 'a'"),
        (
            "\n{{ node.x | lowr }}",
            "'a' line 2, column 13: there is no filter 'lowr'; the nearest: lower",
        ),
        ("{% if x is ready %}{% endif %}", "'a' line 1, column 12: there is no test 'ready'"),
        ("{{ now() }}", "'a' line 1, column 4: there is no function 'now'"),
    ] {
        let answer = centre.patch(&path, json!({"body": body})).await;
        assert_eq!(answer.problem(), (422, "validation_failed".to_owned()), "{body}");
        assert_eq!(answer.body["errors"][0]["field"], "body");
        assert!(message(&answer).starts_with(place), "{answer:?}");
        let new = json!({"name": "b", "kind": "script", "body": body.replace("'a'", "'b'")});
        assert_eq!(centre.post(TEMPLATES, new).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    }
    let kept = centre.get(&path).await;
    assert_eq!((&kept.data()["body"], &kept.data()["version"]), (&json!("one"), &json!(1)));
    let long = "a".repeat((256 << 10) + 1);
    let answer = centre.patch(&path, json!({"body": long})).await;
    assert!(message(&answer).contains("262144"), "{answer:?}");
    for fields in
        [json!({"name": "a\"b"}), json!({"kind": "magic"}), json!({"description": "\u{1}"})]
    {
        let answer = centre.patch(&path, fields.clone()).await;
        assert_eq!(answer.problem().0, 422, "{fields}");
    }
    assert_eq!(
        centre.post(TEMPLATES, json!({"name": "a", "kind": "script", "body": ""})).await.status,
        StatusCode::CONFLICT
    );
}

#[tokio::test]
async fn a_template_that_others_are_made_of_stays_and_stays_sound() {
    let centre = Centre::start().await;
    let base = make(&centre, "base", "b").await;
    let middle = make(&centre, "middle", "{% include 'base' %}").await;
    let top = make(&centre, "top", "{% include 'middle' %}").await;
    let path = format!("{TEMPLATES}/{base}");
    let in_use = (409, "template_in_use".to_owned());
    assert_eq!(centre.delete(&path).await.problem(), in_use);
    assert_eq!(centre.patch(&path, json!({"name": "other"})).await.problem(), in_use);
    let circle = centre.patch(&path, json!({"body": "{% include 'top' %}"})).await;
    assert!(message(&circle).contains("that has no end"), "{circle:?}");
    // Seven below 'base' are within the depth of 'base' itself, and not of 'top'.
    for at in (0..7).rev() {
        let body = if at == 6 { String::new() } else { format!("{{% include 'd{}' %}}", at + 1) };
        make(&centre, &format!("d{at}"), &body).await;
    }
    let deep = centre.patch(&path, json!({"body": "{% include 'd0' %}"})).await;
    assert!(message(&deep).contains("8 deep at most"), "{deep:?}");
    let workflow = json!({"name": "w", "method": "chain", "target": "bootloaders/a.efi", "templates": {"user-data": middle}});
    let workflow = centre.post("/api/v1/workflows?allow_missing=true", workflow).await;
    assert_eq!(workflow.data()["templates"]["user-data"], middle.as_str());
    assert_eq!(centre.delete(&format!("{TEMPLATES}/{top}")).await.status, StatusCode::OK);
    let answer = centre.delete(&format!("{TEMPLATES}/{middle}")).await;
    assert_eq!(answer.problem(), in_use);
    assert!(answer.detail().contains("1 workflows use it and 0 templates"), "{answer:?}");
}

#[tokio::test]
async fn a_workflow_names_templates_that_are_there() {
    let centre = Centre::start().await;
    let id = make(&centre, "a", "one").await;
    let workflow = |templates: Value| json!({"name": "w", "method": "chain", "target": "bootloaders/a.efi", "templates": templates});
    for templates in [
        json!({"user-data": "0b8f5c1e-6f0e-4d52-9a55-0c8f3f1c2a77"}),
        json!({"../user-data": id}),
        json!({"user-data": "a"}),
    ] {
        let answer =
            centre.post("/api/v1/workflows?allow_missing=true", workflow(templates.clone())).await;
        assert_eq!(answer.problem().0, 422, "{templates}");
    }
    let made = centre
        .post("/api/v1/workflows?allow_missing=true", workflow(json!({"user-data": id})))
        .await;
    let path = format!("/api/v1/workflows/{}", made.data()["id"].as_str().expect("an id"));
    let kept = centre.patch(&path, json!({"name": "x"})).await;
    assert_eq!(kept.data()["templates"]["user-data"], id.as_str());
    let cleared = centre.patch(&path, json!({"templates": {}})).await;
    assert_eq!(cleared.data()["templates"], json!({}));
}

#[tokio::test]
async fn a_workflow_says_how_it_starts_or_what_is_wrong_with_that() {
    let centre = Centre::start().await;
    for boot in [
        json!({"method": "sanboot", "source": "images/rescue.iso", "drive": 129}),
        json!({"method": "sanboot", "source": "iscsi:192.0.2.1::::iqn.2001-04.com.example:a"}),
        json!({"method": "chain", "target": "bootloaders/grubx64.efi"}),
        json!({"method": "image", "kernel": "images/k", "image": "images/i", "disk": "/dev/sda"}),
        json!({"method": "kernel", "kernel": "images/k", "command_line": "h={{ node.hostname }}"}),
    ] {
        let mut body = boot.clone();
        let name: String = boot.to_string().replace('/', "_").chars().take(90).collect();
        body["name"] = json!(name);
        let made = centre.post("/api/v1/workflows?allow_missing=true", body).await;
        for (name, value) in boot.as_object().expect("an object") {
            assert_eq!(&made.data()[name], value, "{made:?}");
        }
    }
    for (boot, told) in [
        (
            json!({"method": "sanboot", "source": "http://evil.example/a.iso"}),
            "no disk to boot from",
        ),
        (json!({"method": "sanboot", "source": "images/a", "drive": 1}), "no drive number"),
        (
            json!({"method": "image", "kernel": "images/k", "image": "images/i", "disk": "sda"}),
            "is no disk",
        ),
        (
            json!({"method": "kernel", "kernel": "images/k", "command_line": "{{ node.name }}"}),
            "known are node.id",
        ),
        (json!({"method": "floppy"}), "expected one of"),
    ] {
        let mut body = boot.clone();
        body["name"] = json!("w");
        let answer = centre.post("/api/v1/workflows?allow_missing=true", body).await;
        assert_eq!(answer.problem().0, 422, "{boot}");
        assert!(message(&answer).contains(told), "{answer:?}");
    }
}

#[tokio::test]
async fn a_draft_is_checked_and_not_kept() {
    let centre = Centre::start().await;
    let check = |body: &str| {
        let draft = json!({"kind": "cloud-init", "body": body});
        centre.post("/api/v1/templates/check", draft)
    };
    let good = check("#cloud-config\nhostname: {{ node.hostname }}\n").await;
    assert_eq!(good.data(), &json!({"compiles": true, "errors": [], "warnings": []}));
    let bad = check("a\n{% if %}").await;
    assert_eq!(bad.data()["compiles"], false);
    assert_eq!(
        (&bad.data()["errors"][0]["line"], &bad.data()["errors"][0]["column"]),
        (&json!(2), &json!(7))
    );
    assert_eq!(bad.data()["warnings"].as_array().map(Vec::len), Some(1));
    assert_eq!(centre.get(TEMPLATES).await.body["total"], 0);
}

#[tokio::test]
async fn h23_a_preview_shows_a_node_s_file_and_no_secret() {
    let centre = Centre::start().await;
    let site = centre.make_site("berlin").await;
    let node = centre.make_node("52:54:00:12:34:56", Some(site)).await;
    let node = node["id"].as_str().expect("an id").to_owned();
    centre.patch(&format!("/api/v1/nodes/{node}"), json!({"hostname": "web-1"})).await;
    centre
        .patch(&format!("/api/v1/sites/{site}/meta"), json!({"ntp": "ntp.example", "rack": "none"}))
        .await;
    centre.patch(&format!("/api/v1/nodes/{node}/meta"), json!({"rack": "a7"})).await;
    let secret = |value: &str, group: Value| json!({"value": value, "group_id": group});
    centre
        .call(
            &centre.operator,
            "PUT",
            "/api/v1/secrets/root",
            Some(secret("correct horse", Value::Null)),
        )
        .await;
    centre
        .call(
            &centre.operator,
            "PUT",
            "/api/v1/secrets/wifi",
            Some(secret("battery staple", json!(site))),
        )
        .await;
    let body = "#!/bin/sh\n# {{ node.hostname }} {{ node.mac_address }} {{ site.path }} {{ meta.ntp }} {{ meta.rack }}\n\
        # {{ secret.root }} {{ secret.wifi | quote }} {{ server.url }}\n";
    let template = make(&centre, "a", body).await;
    let path = format!("{TEMPLATES}/{template}/preview");
    let preview = centre.post(&path, json!({"node_id": node})).await;
    assert_eq!(
        preview.data()["text"],
        "#!/bin/sh\n# web-1 52:54:00:12:34:56 /berlin ntp.example a7\n# •••• '••••' http://192.0.2.1:8080\n"
    );
    assert_eq!(preview.data()["warnings"], json!([]));
    let made_up = json!({"facts": {"node": {"hostname": "x", "mac_address": "y"}, "site": {"path": "/"}, "meta": {"ntp": 1, "rack": 2},
        "secret": {"root": "shown?", "wifi": "shown?"}, "server": {"url": "u"}}});
    let preview = centre.post(&path, made_up).await;
    assert!(!preview.body.to_string().contains("shown?"), "{preview:?}");
    let stranger = centre.make_node("52:54:00:12:34:57", None).await;
    let answer = centre.post(&path, json!({"node_id": stranger["id"]})).await;
    assert_eq!(answer.problem().0, 422);
    assert!(message(&answer).contains("'node.hostname' has no value here"), "{answer:?}");
    for order in [json!({}), json!({"node_id": node, "facts": {}}), json!({"node_id": template})] {
        assert_eq!(centre.post(&path, order.clone()).await.problem().0, 422, "{order}");
    }
}

#[tokio::test]
async fn h23_a_secret_comes_in_and_is_never_told() {
    let centre = Centre::start().await;
    let group = centre.post("/api/v1/groups", json!({"name": "db"})).await.data()["id"].clone();
    let put =
        |path: &'static str, body: Value| centre.call(&centre.operator, "PUT", path, Some(body));
    let made = put("/api/v1/secrets/root", json!({"value": "correct horse"})).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let again = put("/api/v1/secrets/root", json!({"value": "correct horse 2"})).await;
    assert_eq!(again.status, StatusCode::OK);
    let scoped =
        put("/api/v1/secrets/root", json!({"value": "correct horse 3", "group_id": group})).await;
    assert_eq!(scoped.status, StatusCode::CREATED);
    let all = centre.get("/api/v1/secrets").await;
    assert_eq!(all.body["total"], 2);
    let first = centre.get("/api/v1/secrets?limit=1").await;
    let next = first.body["next_cursor"].as_str().expect("a cursor");
    let rest = centre.get(&format!("/api/v1/secrets?cursor={next}")).await;
    assert_eq!(rest.data().as_array().map(Vec::len), Some(1));
    for answer in [&made, &again, &scoped, &all] {
        assert!(!answer.body.to_string().contains("horse"), "{answer:?}");
    }
    let files = std::fs::read_dir(centre.dir.path()).expect("a directory");
    for file in files.map(|file| file.expect("an entry").path()) {
        let bytes = std::fs::read(&file).expect("a file");
        assert!(!bytes.windows(7).any(|part| part == b"correct"), "{}", file.display());
    }
    for (path, body) in [
        ("/api/v1/secrets/Root", json!({"value": "x"})),
        ("/api/v1/secrets/1a", json!({"value": "x"})),
        ("/api/v1/secrets/a", json!({"value": ""})),
        ("/api/v1/secrets/a", json!({})),
        (
            "/api/v1/secrets/a",
            json!({"value": "x", "group_id": "0b8f5c1e-6f0e-4d52-9a55-0c8f3f1c2a77"}),
        ),
    ] {
        assert_eq!(put(path, body.clone()).await.problem().0, 422, "{path} {body}");
    }
    let group = group.as_str().expect("an id");
    assert_eq!(
        centre.delete(&format!("/api/v1/secrets/root?group_id={group}")).await.status,
        StatusCode::OK
    );
    assert_eq!(centre.delete("/api/v1/secrets/root").await.status, StatusCode::OK);
    assert_eq!(centre.delete("/api/v1/secrets/root").await.problem().0, 404);
}

#[tokio::test]
async fn meta_is_inherited_and_the_nearest_wins() {
    let centre = Centre::start().await;
    let site = centre.make_site("berlin").await;
    let body = json!({"name": "db"});
    let group = centre.post("/api/v1/groups", body).await.data()["id"].clone();
    let node = centre.make_node("52:54:00:12:34:56", Some(site)).await;
    let [node, group] = [&node["id"], &group].map(|id| id.as_str().expect("an id").to_owned());
    centre.patch(&format!("/api/v1/nodes/{node}"), json!({"group_id": group})).await;
    centre
        .patch(
            &format!("/api/v1/sites/{site}/meta"),
            json!({"a": "site", "b": "site", "c": "site"}),
        )
        .await;
    centre
        .patch(&format!("/api/v1/groups/{group}/meta"), json!({"a": "group", "b": "group"}))
        .await;
    let path = format!("/api/v1/nodes/{node}/meta");
    let before = centre.get(&path).await;
    let after = centre.patch(&path, json!({"a": "node", "d": "node"})).await;
    assert_eq!(after.data()["own"], json!({"a": "node", "d": "node"}));
    assert_eq!(
        after.data()["effective"],
        json!({"a": "node", "b": "group", "c": "site", "d": "node"})
    );
    assert_ne!(before.headers["etag"], after.headers["etag"]);
    let taken = centre.patch(&path, json!({"a": null})).await;
    assert_eq!(taken.data()["effective"]["a"], "group");
    // Other changes of the node leave it alone.
    centre.patch(&format!("/api/v1/nodes/{node}"), json!({"hostname": "x"})).await;
    assert_eq!(centre.get(&path).await.data()["own"], json!({"d": "node"}));
    for patch in
        [json!({"A": "x"}), json!({"a-b": "x"}), json!({"a": "x".repeat(1_025)}), json!({"a": 1})]
    {
        assert_eq!(centre.patch(&path, patch.clone()).await.problem().0, 422, "{patch}");
    }
    let many: serde_json::Map<_, _> = (0..64).map(|at| (format!("k{at}"), json!("x"))).collect();
    assert_eq!(centre.patch(&path, Value::Object(many)).await.problem().0, 422);
    let missing = format!("/api/v1/sites/{group}/meta");
    assert_eq!(centre.get(&missing).await.problem().0, 404);
}
