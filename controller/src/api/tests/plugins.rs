//! Policies from their upload to what sites are told, and back to what their agents tell.

use axum::body::Body;
use axum::http::StatusCode;
use pureboot_plugin_author::bundle::Bundle;
use pureboot_plugin_author::description::Description;
use pureboot_plugin_host::engine::{COMPILED_FOR, ENGINE_ID};
use pureboot_plugin_host::package::Unchecked;
use pureboot_protocol::{Manifest, PluginMode, PoliciesReport, SiteId};
use serde_json::{Value, json};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::{Answer, Centre, Joined, heartbeat, request};
use crate::plugins::compile_missing;

const PLUGINS: &str = "/api/v1/plugins";

/// A policy without opinion; `text` makes it another one, `does` is what it does before.
fn module(text: &str, does: &str) -> Vec<u8> {
    let source = format!(
        r#"(module
            (memory (export "memory") 1)
            (data (i32.const 4096) "{text}")
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8192))
            (func (export "pureboot:policy/boot@0.1.0#decide") (param i32) (result i32) {does} (i32.const 1024)))"#
    );
    let mut module = wat::parse_str(source).expect("WebAssembly");
    let mut resolve = Resolve::default();
    let wit = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/wit/since-0.1");
    let (package, _) = resolve.push_path(wit).expect("the contract");
    let world = resolve.select_world(&[package], Some("pureboot:policy/boot-policy"));
    let world = world.expect("the world");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("embedded");
    module
}

fn description(version: &str) -> Value {
    json!({
        "name": "quiet", "version": version, "description": "has no opinion", "capabilities": ["nodes"],
        "settings": {"days": {"default": "30", "help": "how long", "type": "number", "min": 1}},
    })
}

fn bundle(version: &str, does: &str, expect: Value) -> Vec<u8> {
    let text = description(version).to_string();
    let fixture =
        json!({"hook": "boot", "request": {"mac": "52:54:00:12:34:56"}, "expect": expect});
    let fixtures = [("one".to_owned(), fixture.to_string().into_bytes())].into();
    let description = Description::parse(text.as_bytes()).expect("a description");
    let bundle = Bundle { description, wasm: module(version, does), fixtures };
    bundle.emit().expect("bytes")
}

/// Version `version` of a policy that passes.
fn quiet(version: &str) -> Vec<u8> {
    bundle(version, "", json!({}))
}

impl Centre {
    async fn upload_plugin(&self, query: &str, bytes: Vec<u8>) -> Answer {
        let mut request = request(Some(&self.operator), "POST", &format!("{PLUGINS}{query}"), None);
        request.headers_mut().insert("content-length", bytes.len().into());
        *request.body_mut() = Body::from(bytes);
        self.send(request).await
    }

    async fn assign_plugin(&self, place: &str, fields: Value) -> Answer {
        let path = format!("{PLUGINS}/quiet/assignments/{place}");
        self.call(&self.operator, "PUT", &path, Some(fields)).await
    }

    async fn manifest_of(&self, site: SiteId) -> Manifest {
        let answer = self.get(&format!("/api/v1/content/manifest?site_id={site}")).await;
        serde_json::from_value(answer.data().clone()).expect("a manifest")
    }

    async fn reports(&self, agent: &Joined, plugins: Value) {
        let mut body = heartbeat(agent.site, 1);
        body["plugins"] = plugins;
        let answer =
            self.call(&agent.credential, "POST", "/api/v1/agents/heartbeat", Some(body)).await;
        assert!(answer.status.is_success(), "{answer:?}");
    }
}

impl Answer {
    /// What is wrong with what was sent.
    fn fault(&self) -> &str {
        assert_eq!(self.status, StatusCode::UNPROCESSABLE_ENTITY, "{self:?}");
        self.body["errors"][0]["message"].as_str().expect("a message")
    }
}

fn runs(engine: &str) -> Value {
    json!({"engine": engine, "policies": []})
}

#[tokio::test]
async fn a_version_is_kept_once_and_means_one_component() {
    let centre = Centre::start().await;
    let first = centre.upload_plugin("", quiet("1.0.0")).await;
    assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
    let kept = first.data();
    assert_eq!((&kept["hooks"], &kept["engines"]), (&json!(["boot"]), &json!([])));
    assert_eq!(kept["fixtures"][0]["name"], "one");
    assert_eq!(kept["settings"]["days"]["type"], "number");
    assert_eq!(centre.upload_plugin("", quiet("1.0.0")).await.status, StatusCode::OK);
    let other = centre.upload_plugin("", bundle("1.0.0", "nop", json!({}))).await;
    assert_eq!(other.problem(), (409, "plugin_version_taken".to_owned()));
    let alone = centre.upload_plugin("?name=quiet&version=1.1.0&activate=false", module("a", ""));
    assert_eq!(alone.await.status, StatusCode::CREATED);
    assert_eq!(centre.get(PLUGINS).await.data()[0]["current_version"], "1.0.0");
    assert_eq!(centre.get(&format!("{PLUGINS}/quiet/versions")).await.body["total"], 2);
    let back = centre.post(&format!("{PLUGINS}/quiet/rollback"), json!({})).await;
    assert_eq!(back.problem(), (409, "no_previous_version".to_owned()));
    let on = json!({"version": "1.1.0"});
    let on = centre.post(&format!("{PLUGINS}/quiet/rollback"), on).await;
    assert_eq!(
        (&on.data()["current_version"], &on.data()["previous_version"]),
        (&json!("1.1.0"), &json!("1.0.0"))
    );
    let gone = centre.delete(&format!("{PLUGINS}/quiet/versions/1.1.0")).await;
    assert_eq!(gone.problem(), (409, "plugin_in_use".to_owned()));
    assert_eq!(centre.delete(&format!("{PLUGINS}/quiet/versions/1.0.0")).await.status, 200);
    assert_eq!(centre.delete(&format!("{PLUGINS}/quiet")).await.status, 200);
    assert_eq!(centre.get("/api/v1/content?category=plugins").await.body["total"], 0);
    assert_eq!(centre.get(&format!("{PLUGINS}/quiet")).await.problem().0, 404);
}

#[tokio::test]
async fn p7_whatever_is_wrong_with_an_upload_is_told_in_the_author_s_words() {
    let centre = Centre::start().await;
    let fault = async |bytes: Vec<u8>| {
        let answer = centre.upload_plugin("", bytes).await;
        answer.fault().to_owned()
    };
    assert!(fault(b"#!ipxe".to_vec()).await.contains("neither a bundle nor WebAssembly"));
    assert!(fault(module("a", "")).await.contains("give both"));
    let other = fault(bundle("1.0.0", "", json!({"action": "local-disk"}))).await;
    assert!(other.contains("the fixture one: expected") && other.contains("local-disk"), "{other}");
    assert!(other.contains(r#"got {"action":null"#), "{other}");
    let endless = fault(bundle("1.0.0", "(loop $l (br $l))", json!({}))).await;
    assert!(endless.contains("used up its fuel of 20000000"), "{endless}");
    let mut described = description("1.0.0");
    described["hooks"] = json!(["boot", "cache"]);
    let with = |described: &Value, wasm: Vec<u8>| {
        let description = Description::parse(described.to_string().as_bytes());
        let description = description.expect("a description");
        Bundle { description, wasm, fixtures: [].into() }.emit().expect("bytes")
    };
    let missing = fault(with(&described, module("a", ""))).await;
    assert!(missing.contains("names the hook cache.judge, which it does not have"), "{missing}");
    described["hooks"] = json!([]);
    let hookless = fault(with(&described, wat::parse_str("(component)").expect("one"))).await;
    assert!(hookless.contains("exports nothing"), "{hookless}");
    let broken = fault(with(&described, b"\0asm\x0d\0\x01\0junk".to_vec())).await;
    assert!(broken.contains("cannot be compiled"), "{broken}");
    assert_eq!(centre.get(PLUGINS).await.body["total"], 0);
    assert_eq!(centre.get("/api/v1/content?category=plugins").await.body["total"], 0);
    let half = centre.upload_plugin("?name=a", module("a", "")).await;
    assert_eq!(half.body["errors"][0]["field"], "version");
}

#[tokio::test]
async fn p8_what_is_too_large_is_refused_before_it_is_read_or_compiled() {
    let mut centre = Centre::start().await;
    centre.app.workshop.component_len_max = 64;
    centre.router = crate::router::router(centre.app.clone());
    let large = centre.upload_plugin("?name=a&version=1.0.0", module("a", "")).await;
    assert!(large.fault().contains("64 are taken"), "{large:?}");
    let path = format!("{PLUGINS}?name=a&version=1.0.0");
    let mut promised = request(Some(&centre.operator), "POST", &path, None);
    promised.headers_mut().insert("content-length", (100 << 20).into());
    assert_eq!(centre.send(promised).await.problem(), (413, "too_large".to_owned()));
}

#[tokio::test]
async fn an_assigned_policy_is_in_the_manifest_with_a_package_that_the_agent_believes() {
    let centre = Centre::start().await;
    let (agent, other) = (centre.join("berlin").await, centre.join("oslo").await);
    centre.reports(&agent, runs(ENGINE_ID)).await;
    let kept = centre.upload_plugin("", quiet("1.0.0")).await;
    assert_eq!(kept.data()["engines"], json!([ENGINE_ID]));
    let before = centre.manifest_of(agent.site).await;
    assert!(before.policies.is_empty() && before.entries.is_empty(), "{before:?}");
    let place = agent.site.to_string();
    let wish = json!({"settings": {"days": 7}, "grants": ["nodes"], "on_failure": "hold"});
    let assigned = centre.assign_plugin(&place, wish).await;
    assert_eq!(assigned.status, StatusCode::CREATED);
    let told = centre.manifest_of(agent.site).await;
    let [policy] = &told.policies[..] else { panic!("{told:?}") };
    assert!(told.version > before.version);
    assert_eq!((policy.mode, policy.settings["days"].as_str()), (PluginMode::Shadow, "7"));
    assert_eq!(policy.wasm.to_string(), kept.data()["wasm"]);
    let entry = told.package(policy, &ENGINE_ID.parse().expect("an engine")).expect("a package");
    assert!(entry.pinned && told.entries.len() == 1, "{told:?}");
    let path = format!("/api/v1/agents/objects/{}", entry.sha256);
    let (_, _, bytes) = centre.exchange(request(Some(&agent.credential), "GET", &path, None)).await;
    let package = Unchecked::parse(&bytes).expect("a package");
    let signed = package.check(&[centre.app.content.signer.public()]).expect("signed");
    assert_eq!((signed.header().wasm, signed.header().version), (policy.wasm, policy.version));
    let commands = centre.get(&format!("/api/v1/sites/{}/commands", agent.site)).await;
    assert_eq!(commands.data()[0]["params"], json!({"force": false, "categories": ["plugins"]}));
    assert!(centre.manifest_of(other.site).await.policies.is_empty());
    let on = centre.assign_plugin(&place, json!({"mode": "on"})).await;
    assert_eq!((on.status, &on.data()["settings"]["days"]), (StatusCode::OK, &json!("7")));
    let later = centre.manifest_of(agent.site).await;
    assert!(later.version > told.version && later.policies[0].mode == PluginMode::On);
    centre.upload_plugin("", quiet("1.1.0")).await.data();
    let newer = centre.manifest_of(agent.site).await;
    assert_eq!(newer.policies[0].version.to_string(), "1.1.0");
    assert_eq!(newer.entries.len(), 2, "what it would go back to is there as well");
    centre.post(&format!("{PLUGINS}/quiet/rollback"), json!({})).await.data();
    assert_eq!(centre.manifest_of(agent.site).await.policies[0].version.to_string(), "1.0.0");
    assert_eq!(centre.delete(&format!("{PLUGINS}/quiet")).await.problem().1, "plugin_in_use");
    let path = format!("{PLUGINS}/quiet/assignments/{place}");
    assert_eq!(centre.delete(&path).await.status, 200);
    assert_eq!(centre.delete(&path).await.problem().0, 404);
    assert!(centre.manifest_of(agent.site).await.policies.is_empty());
}

#[tokio::test]
async fn the_nearest_assignment_counts_and_what_cannot_be_is_refused() {
    let centre = Centre::start().await;
    let above = centre.make_site("emea").await;
    let below = centre.post("/api/v1/sites", json!({"name": "berlin", "parent_id": above})).await;
    let below: SiteId = serde_json::from_value(below.data()["id"].clone()).expect("an id");
    centre.upload_plugin("", quiet("1.0.0")).await.data();
    centre.upload_plugin("", quiet("1.1.0")).await.data();
    let mode =
        async |site| centre.manifest_of(site).await.policies.first().map(|policy| policy.mode);
    assert_eq!(mode(below).await, None);
    centre.assign_plugin("everywhere", json!({"mode": "on"})).await.data();
    assert_eq!(
        (mode(above).await, mode(below).await),
        (Some(PluginMode::On), Some(PluginMode::On))
    );
    let held = json!({"mode": "off", "version": "1.0.0"});
    centre.assign_plugin(&above.to_string(), held).await.data();
    assert_eq!(
        (mode(above).await, mode(below).await),
        (Some(PluginMode::Off), Some(PluginMode::Off))
    );
    assert_eq!(centre.manifest_of(below).await.policies[0].version.to_string(), "1.0.0");
    centre.assign_plugin(&below.to_string(), json!({"mode": "shadow"})).await.data();
    assert_eq!(
        (mode(above).await, mode(below).await),
        (Some(PluginMode::Off), Some(PluginMode::Shadow))
    );
    let states = centre.get(&format!("{PLUGINS}/quiet/sites")).await;
    let mut paths = [0, 1].map(|place| states.data()[place]["site_path"].to_string());
    paths.sort();
    assert_eq!(states.body["total"], 2);
    assert_eq!(paths, [r#""/emea""#, r#""/emea/berlin""#]);
    let group = centre.post("/api/v1/groups", json!({"name": "lab"})).await;
    let group = group.data()["id"].as_str().expect("an id").to_owned();
    assert_eq!(
        centre.assign_plugin(&group, json!({})).await.problem(),
        (400, "not_a_site".to_owned())
    );
    let wrong =
        centre.assign_plugin("everywhere", json!({"settings": {"days": 0, "nothing": 1}})).await;
    assert_eq!(wrong.body["errors"][0]["field"], "settings.days");
    assert_eq!(wrong.body["errors"][1]["field"], "settings.nothing");
    assert_eq!(centre.assign_plugin("everywhere", json!({"mode": "loud"})).await.problem().0, 422);
    assert_eq!(
        centre.assign_plugin("everywhere", json!({"version": "9.0.0"})).await.problem().0,
        404
    );
    assert_eq!(centre.assign_plugin("nowhere", json!({})).await.problem().0, 404);
}

#[tokio::test]
async fn u7_what_agents_come_to_run_is_compiled_for_them_and_what_nobody_compiles_harms_nothing() {
    let centre = Centre::start().await;
    let (old, new) = (centre.join("berlin").await, centre.join("oslo").await);
    centre.upload_plugin("", quiet("1.0.0")).await.data();
    centre.assign_plugin("everywhere", json!({})).await.data();
    let [wide, narrow] = COMPILED_FOR;
    centre.reports(&old, runs("wt1.0.0-pulley64-pb1")).await;
    centre.reports(&new, runs(narrow)).await;
    let state = async |agent: &Joined| {
        let answer = centre.get(&format!("/api/v1/sites/{}/plugins", agent.site)).await;
        answer.data()[0]["is_compiled"].clone()
    };
    assert_eq!(state(&new).await, false);
    compile_missing(&centre.app).await.expect("compiled");
    assert_eq!((state(&new).await, state(&old).await), (json!(true), json!(false)));
    let versions = centre.get(&format!("{PLUGINS}/quiet/versions/1.0.0")).await;
    assert_eq!(versions.data()["engines"], json!([narrow]));
    centre.reports(&old, runs(wide)).await;
    compile_missing(&centre.app).await.expect("compiled");
    assert_eq!(state(&old).await, true);
}

#[tokio::test]
async fn how_a_policy_fares_is_what_the_site_s_agent_said_last() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    centre.upload_plugin("", quiet("1.0.0")).await.data();
    centre.assign_plugin(&agent.site.to_string(), json!({})).await.data();
    let path = format!("/api/v1/sites/{}/plugins", agent.site);
    assert_eq!(centre.get(&path).await.data()[0]["report"], Value::Null);
    let report: PoliciesReport = serde_json::from_value(json!({
        "engine": ENGINE_ID,
        "policies": [{
            "plugin": "quiet", "assigned": "1.0.0", "state": "refused", "mode": "shadow", "answers": 1, "errors": 2,
            "failures": 3, "skipped": 4, "fuel_p99": 5, "fuel_total": 6, "took_max_us": 7, "took_total_us": 8,
            "failure": "it is not for this site",
        }],
    }))
    .expect("a report");
    centre.reports(&agent, serde_json::to_value(report).expect("JSON")).await;
    let told = centre.get(&path).await;
    assert_eq!(told.data()[0]["report"]["failure"], "it is not for this site");
    assert_eq!(told.data()[0]["engine"], ENGINE_ID);
    let sites = centre.get(&format!("{PLUGINS}/quiet/sites")).await;
    assert_eq!(sites.data(), told.data());
}

#[tokio::test]
async fn packages_come_about_by_the_compiler_and_in_no_other_way() {
    let centre = Centre::start().await;
    let name = "plugins/quiet/1.0.0/wt.pbp";
    assert_eq!(
        centre.put_content(name, "code").await.problem(),
        (400, "plugin_content".to_owned())
    );
    let gone = centre.delete(&format!("/api/v1/content/{name}")).await;
    assert_eq!(gone.problem(), (400, "plugin_content".to_owned()));
}
