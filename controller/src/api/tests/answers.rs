//! What an agent gets to render answer files by: all of it, signed for this one question, and no secret that no template names.

use pureboot_protocol::{AnswerSheet, ContentHash, NodeId, Nonce, SheetAnswer, SheetQuestion};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Answer, Centre, Joined, id};

const TEMPLATES: &str = "/api/v1/templates";

fn question(node: &Value) -> SheetQuestion {
    let nonce = Nonce::from_random([7; 16]);
    SheetQuestion { node_id: id::<NodeId>(node), nonce, held: None, texts_held: Vec::new() }
}

async fn send(centre: &Centre, agent: &Joined, question: &SheetQuestion) -> Answer {
    let body = serde_json::to_value(question).expect("JSON");
    centre.call(&agent.credential, "POST", "/api/v1/agents/answers", Some(body)).await
}

async fn ask(centre: &Centre, agent: &Joined, question: &SheetQuestion) -> SheetAnswer {
    let answer = send(centre, agent, question).await;
    let answer: SheetAnswer = serde_json::from_value(answer.data().clone()).expect("an answer");
    let bytes = SheetAnswer::signed_bytes(&question.nonce, &answer.digest);
    UnparsedPublicKey::new(&ED25519, centre.app.content.signer.public().as_bytes())
        .verify(&bytes, answer.signature.as_bytes())
        .expect("it is signed for this question");
    if let Some(payload) = &answer.payload {
        assert_eq!(hash(payload), answer.digest);
    }
    answer
}

fn sheet(answer: &SheetAnswer) -> AnswerSheet {
    serde_json::from_str(answer.payload.as_deref().expect("a sheet")).expect("JSON")
}

fn hash(text: &str) -> ContentHash {
    ContentHash::from_digest(Sha256::digest(text).into())
}

async fn put_secret(centre: &Centre, name: &str, value: &str, group: Option<&Value>) {
    let body = json!({"value": value, "group_id": group});
    let path = format!("/api/v1/secrets/{name}");
    centre.call(&centre.operator, "PUT", &path, Some(body)).await.data();
}

async fn make_template(centre: &Centre, name: &str, body: &str) -> String {
    let body = json!({"name": name, "kind": "preseed", "body": body});
    id(centre.post(TEMPLATES, body).await.data())
}

/// A node of the agent's site whose workflow has the answer file `preseed.cfg` of these templates.
async fn make_node(centre: &Centre, agent: &Joined, template: &str) -> Value {
    let workflow = json!({"name": "debian", "method": "kernel", "kernel": "images/debian/linux", "templates": {"preseed.cfg": template}});
    let workflow = centre.post("/api/v1/workflows", workflow).await;
    let node = centre.make_node("52:54:00:12:34:56", Some(agent.site)).await;
    let path = format!("/api/v1/nodes/{}", id::<NodeId>(&node));
    let fields = json!({"hostname": "web-1", "workflow_id": workflow.data()["id"]});
    centre.patch(&path, fields).await.data().clone()
}

async fn deliveries(centre: &Centre) -> Vec<Value> {
    let answer = centre.get("/api/v1/audit?limit=500&action=secrets.delivered").await;
    answer.data().as_array().expect("rows").clone()
}

#[tokio::test]
async fn a_sheet_has_what_its_files_are_made_of_and_only_the_secrets_that_they_name() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let parent = centre.post("/api/v1/groups", json!({"name": "all"})).await.data()["id"].clone();
    let group = json!({"name": "db", "parent_id": parent});
    let group = centre.post("/api/v1/groups", group).await.data()["id"].clone();
    make_template(&centre, "disks", "{{ secret.disk }}").await;
    let body = "{{ secret.root }}{% include 'disks' %}";
    let template = make_template(&centre, "debian", body).await;
    let node = make_node(&centre, &agent, &template).await;
    let path = format!("/api/v1/nodes/{}", id::<NodeId>(&node));
    centre.patch(&path, json!({"group_id": group})).await.data();
    centre.patch(&format!("{path}/meta"), json!({"rack": "a7"})).await.data();
    for (name, value, group) in [
        ("root", "of all nodes", None),
        ("root", "of the site", Some(&json!(agent.site))),
        ("root", "of the group above", Some(&parent)),
        ("disk", "of all nodes", None),
        ("disk", "of the site", Some(&json!(agent.site))),
        ("unused", "not named", None),
    ] {
        put_secret(&centre, name, value, group).await;
    }
    let answer = ask(&centre, &agent, &question(&node)).await;
    let sheet = sheet(&answer);
    assert_eq!((sheet.site_id, sheet.node_id), (agent.site, id(&node)));
    let secrets: Vec<_> =
        sheet.secrets.iter().map(|(name, text)| (name.as_str(), text.reveal())).collect();
    assert_eq!(secrets, [("disk", "of the site"), ("root", "of the group above")]);
    let (name, file) = sheet.files.first_key_value().expect("a file");
    assert_eq!((name.as_str(), file.template.as_str(), file.version), ("preseed.cfg", "debian", 1));
    assert_eq!(file.texts.get("debian"), Some(&hash(body)));
    assert_eq!(file.texts.len(), answer.texts.len());
    assert!(answer.texts.iter().any(|text| text == body));
    let values = serde_json::to_value(&sheet.values).expect("JSON");
    assert_eq!(values["node"]["hostname"], "web-1");
    assert_eq!(values["meta"]["rack"], "a7");
    assert_eq!(values["group"]["path"], "/all/db");
    assert_eq!(values["workflow"]["version"], 1);
    for absent in ["server", "boot", "secret"] {
        assert_eq!(values.get(absent), None, "{absent} is the site's to say");
    }
}

#[tokio::test]
async fn what_the_site_holds_is_not_sent_again() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let template = make_template(&centre, "debian", "one").await;
    let node = make_node(&centre, &agent, &template).await;
    let first = ask(&centre, &agent, &question(&node)).await;
    let held = SheetQuestion {
        held: Some(first.digest),
        texts_held: vec![hash("one")],
        ..question(&node)
    };
    let again = ask(&centre, &agent, &held).await;
    assert_eq!((again.digest, again.payload, again.texts.len()), (first.digest, None, 0));
    centre.patch(&format!("{TEMPLATES}/{template}"), json!({"body": "two"})).await.data();
    let changed = ask(&centre, &agent, &held).await;
    assert_eq!(changed.texts, ["two"]);
    assert_eq!(sheet(&changed).files.values().next().map(|file| file.version), Some(2));
    let many = SheetQuestion { texts_held: vec![hash("x"); 257], ..question(&node) };
    assert_eq!(send(&centre, &agent, &many).await.problem().0, 422);
}

#[tokio::test]
async fn many_long_texts_come_in_parts() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let mut includes = String::new();
    for number in 0..12 {
        make_template(&centre, &format!("t{number}"), &format!("{number:02}").repeat(125_000))
            .await;
        includes.push_str(&format!("{{% include 't{number}' %}}"));
    }
    let template = make_template(&centre, "debian", &includes).await;
    let node = make_node(&centre, &agent, &template).await;
    let mut question = question(&node);
    let mut parts = 0;
    while question.texts_held.len() < 13 {
        let answer = ask(&centre, &agent, &question).await;
        assert!(!answer.texts.is_empty());
        let len = serde_json::to_string(&answer).expect("JSON").len();
        assert!(len < 1 << 20, "an agent reads no {len} bytes");
        question.texts_held.extend(answer.texts.iter().map(|text| hash(text)));
        parts += 1;
    }
    assert!(parts > 1);
}

#[tokio::test]
async fn a_site_gets_no_sheet_of_another_sites_node() {
    let centre = Centre::start().await;
    let (berlin, oslo) = (centre.join("berlin").await, centre.join("oslo").await);
    let template = make_template(&centre, "debian", "{{ secret.root }}").await;
    put_secret(&centre, "root", "correct horse", None).await;
    let node = make_node(&centre, &berlin, &template).await;
    let refused = send(&centre, &oslo, &question(&node)).await;
    assert_eq!(refused.problem().0, 404);
    assert!(!refused.body.to_string().contains("horse"));
    assert_eq!(deliveries(&centre).await.len(), 0);
}

#[tokio::test]
async fn h23_a_secret_that_leaves_for_a_site_is_in_the_audit_once_for_each_version() {
    let centre = Centre::start().await;
    let (berlin, oslo) = (centre.join("berlin").await, centre.join("oslo").await);
    let template = make_template(&centre, "debian", "{{ secret.root }} {{ secret.wifi }}").await;
    put_secret(&centre, "root", "correct horse", None).await;
    put_secret(&centre, "wifi", "battery staple", None).await;
    let node = make_node(&centre, &berlin, &template).await;
    for _ in 0..3 {
        ask(&centre, &berlin, &question(&node)).await;
    }
    let rows = deliveries(&centre).await;
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!(row["target"], json!(berlin.site));
    assert_eq!(row["detail"], json!({"secrets": ["root", "wifi"], "node_id": node["id"]}));
    assert_eq!(row["actor"]["kind"], "agent");
    // The same text, set anew at the same instant, is another version.
    put_secret(&centre, "root", "correct horse", None).await;
    for _ in 0..2 {
        ask(&centre, &berlin, &question(&node)).await;
    }
    let rows = deliveries(&centre).await;
    assert_eq!((rows.len(), &rows[0]["detail"]["secrets"]), (2, &json!(["root"])));
    let path = format!("/api/v1/nodes/{}", id::<NodeId>(&node));
    centre.patch(&path, json!({"home_site_id": oslo.site})).await.data();
    ask(&centre, &oslo, &question(&node)).await;
    assert_eq!(deliveries(&centre).await.len(), 3);
}

#[tokio::test]
async fn whatever_a_sheet_is_made_of_makes_sites_ask_again() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let template = make_template(&centre, "debian", "{{ secret.root }}").await;
    let node = make_node(&centre, &agent, &template).await;
    let mut version = 0;
    let mut changed = async || {
        let answer = centre.changes(&agent.credential, &format!("since_version={version}")).await;
        version = answer.version;
        answer.data.len()
    };
    assert_eq!((changed().await, changed().await), (1, 0));
    put_secret(&centre, "root", "correct horse", None).await;
    assert_eq!(changed().await, 1, "a secret");
    centre.delete("/api/v1/secrets/root").await.data();
    assert_eq!(changed().await, 1, "a secret that is gone");
    let site = format!("/api/v1/sites/{}", agent.site);
    centre.patch(&format!("{site}/meta"), json!({"ntp": "ntp.example"})).await.data();
    assert_eq!(changed().await, 1, "a fact");
    centre.patch(&site, json!({"description": "in the cellar"})).await.data();
    assert_eq!(changed().await, 1, "the site");
    centre.patch(&site, json!({"cache_retention_days": 3})).await.data();
    assert_eq!(changed().await, 0, "what no template sees");
    let path = format!("{TEMPLATES}/{template}");
    centre.patch(&path, json!({"body": "two"})).await.data();
    assert_eq!(changed().await, 1, "a template");
    drop(node);
}
