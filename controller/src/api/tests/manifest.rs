//! What a site is to hold, and the manifest that says so.

use pureboot_protocol::{Chunks, ContentHash, Manifest, PublicKey, Secret, SignedManifest, SiteId};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::{Value, json};

use super::nodes::workflow;
use super::{Centre, Joined, heartbeat, registration, request, with_fields};

impl Centre {
    async fn manifest(&self, site: SiteId) -> Manifest {
        let answer = self.get(&format!("/api/v1/content/manifest?site_id={site}")).await;
        serde_json::from_value(answer.data().clone()).expect("a manifest")
    }

    async fn signed_manifest(&self, agent: &Joined) -> SignedManifest {
        let answer = self.call(&agent.credential, "GET", "/api/v1/agents/manifest", None).await;
        serde_json::from_value(answer.data().clone()).expect("an envelope")
    }

    async fn names(&self, site: SiteId) -> Vec<String> {
        self.manifest(site).await.entries.iter().map(|entry| entry.key.to_string()).collect()
    }

    async fn set(&self, site: SiteId, fields: Value) {
        self.patch(&format!("/api/v1/sites/{site}"), fields).await.data();
    }
}

#[tokio::test]
async fn a_manifest_is_signed_by_the_key_that_the_agent_was_given_when_it_joined() {
    let centre = Centre::start().await;
    centre.put_content("bootloaders/ipxe.efi", "loader").await.data();
    centre.put_content("bootloaders/large", vec![7; (1 << 20) + 1]).await.data();
    let agent = centre.join("berlin").await;
    let token = centre.make_token(agent.site).await;
    let secret = Secret::from_random([9; 32]);
    let joined = centre.register(registration(agent.site, &token, Some(&secret))).await;
    let key: PublicKey = serde_json::from_value(joined.body["signing_key"].clone()).expect("a key");
    let agent = Joined { site: agent.site, credential: secret };
    let signed = centre.signed_manifest(&agent).await;
    let verify = |payload: &str| {
        UnparsedPublicKey::new(&ED25519, key.as_bytes())
            .verify(&SignedManifest::signed_bytes(payload), signed.signature.as_bytes())
    };
    assert!(verify(&signed.payload).is_ok());
    assert!(verify(&signed.payload.replace("true", "false")).is_err());
    assert_eq!(signed.key_id, key.id());
    let manifest: Manifest = serde_json::from_str(&signed.payload).expect("a manifest");
    assert_eq!(manifest, centre.manifest(agent.site).await);
    assert_eq!(manifest.site_id, agent.site);
    let [loader, large] = &manifest.entries[..] else { panic!("{manifest:?}") };
    assert_eq!((loader.size_bytes, loader.pinned, loader.chunks), (6, true, None));
    let path = format!("/api/v1/agents/objects/{}/chunks", large.sha256);
    let (_, _, list) = centre.exchange(request(Some(&agent.credential), "GET", &path, None)).await;
    let hash = <[u8; 32]>::from(<sha2::Sha256 as sha2::Digest>::digest(&list));
    let count = u32::try_from(list.len() / Chunks::ROW_LEN).expect("few");
    let sha256 = ContentHash::from_digest(hash);
    assert_eq!(large.chunks, Some(Chunks { format: Chunks::FORMAT, count, sha256 }));
}

#[tokio::test]
async fn c12_the_version_rises_if_and_only_if_the_entries_change() {
    let centre = Centre::start().await;
    let site = centre.make_site("berlin").await;
    let other = centre.make_site("oslo").await;
    let first = centre.manifest(site).await;
    assert_eq!(first.entries, []);
    centre.pass_seconds(60);
    assert_eq!(centre.manifest(site).await, first);
    centre.put_content("images/not-for-berlin", "x").await.data();
    assert_eq!(centre.manifest(site).await, first, "nothing that it holds has changed");
    let mut version = first.version;
    for bytes in ["a", "b", "a"] {
        centre.put_content("bootloaders/ipxe.efi", bytes).await.data();
        let next = centre.manifest(site).await;
        assert!(next.version > version, "{next:?}");
        assert_eq!(centre.manifest(site).await, next);
        version = next.version;
    }
    let foreign = centre.manifest(other).await;
    assert_eq!((foreign.site_id, foreign.entries.len()), (other, 1));
    // A clock that goes back takes no version with it.
    let before = centre.manifest(site).await;
    centre.pass_seconds(-1_000);
    centre.put_content("bootloaders/ipxe.efi", "c").await.data();
    assert_eq!(centre.manifest(site).await.version, before.version + 1);
}

#[tokio::test]
async fn a_manifest_that_stays_is_issued_again_each_day_and_is_not_sent_twice() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let get = async |known: &str| {
        let request = request(Some(&agent.credential), "GET", "/api/v1/agents/manifest", None);
        centre.send(with_fields(request, &[("if-none-match", known)])).await
    };
    let first = get("\"none\"").await;
    let tag = first.headers["etag"].to_str().expect("a tag").to_owned();
    centre.pass_seconds(86_399);
    assert_eq!(get(&tag).await.status, 304);
    let before = centre.manifest(agent.site).await;
    centre.pass_seconds(1);
    assert_eq!(get(&tag).await.status, 200);
    let after = centre.manifest(agent.site).await;
    assert_eq!(after.version, before.version);
    assert!(after.issued_at > before.issued_at && after.expires_at > before.expires_at);
}

#[tokio::test]
async fn a_site_holds_what_its_policy_says_and_what_its_machines_are_installed_with() {
    let centre = Centre::start().await;
    let site = centre.make_site("berlin").await;
    for name in ["bootloaders/ipxe.efi", "images/win.wim", "scripts/a/b.sh"] {
        centre.put_content(name, "x").await.data();
    }
    let base = ["bootloaders/ipxe.efi"];
    assert_eq!(centre.names(site).await, base);

    let debian = ["bootloaders/ipxe.efi", "images/debian/initrd.gz", "images/debian/linux"];
    let flow = centre.post("/api/v1/workflows", workflow("debian")).await.data()["id"].clone();
    centre.set(site, json!({"default_workflow_id": flow})).await;
    assert_eq!(centre.names(site).await, debian);
    centre.set(site, json!({"default_workflow_id": null})).await;
    assert_eq!(centre.names(site).await, base);
    let group = json!({"name": "web", "default_workflow_id": flow});
    let group = centre.post("/api/v1/groups", group).await.data()["id"].clone();
    let node = json!({"mac_address": "02:00:00:00:00:01", "home_site_id": site, "group_id": group});
    let node = centre.post("/api/v1/nodes", node).await.data()["id"].clone();
    let node = format!("/api/v1/nodes/{}", node.as_str().expect("an id"));
    assert_eq!(centre.names(site).await, debian);
    let other = centre.make_site("oslo").await;
    assert_eq!(centre.names(other).await, base);
    centre
        .patch(&node, json!({"group_id": null, "home_site_id": null, "workflow_id": flow}))
        .await
        .data();
    assert_eq!(centre.names(other).await, debian, "it may turn up anywhere");
    centre.delete(&node).await.data();
    assert_eq!(centre.names(site).await, base);

    let path = format!("/api/v1/sites/{site}/assigned-content");
    let assign = async |list: Value| centre.call(&centre.operator, "PUT", &path, Some(list)).await;
    let wim = json!({"category": "images", "path": "win.wim"});
    assert_eq!(assign(json!([wim, wim])).await.data(), &json!([wim]));
    assert_eq!(centre.get(&path).await.data(), &json!([wim]));
    assert_eq!(centre.names(site).await, base);
    centre.set(site, json!({"cache_policy": "assigned"})).await;
    assert_eq!(centre.names(site).await, ["bootloaders/ipxe.efi", "images/win.wim"]);
    centre.delete("/api/v1/content/images/win.wim").await.data();
    assert_eq!(centre.names(site).await, base);
    assert_eq!(assign(json!([wim])).await.data(), &json!([wim]), "a name keeps its place");
    centre.put_content("images/win.wim", "x").await.data();
    assert_eq!(centre.names(site).await, ["bootloaders/ipxe.efi", "images/win.wim"]);
    for (list, field) in [
        (json!([wim, {"category": "images", "path": "none"}]), "content[1]"),
        (json!([{"category": "images", "path": "../x"}]), "content[0].path"),
        (json!([{"category": "music", "path": "x"}]), "[0].category"),
    ] {
        let refused = assign(list).await;
        assert_eq!(refused.problem(), (422, "validation_failed".to_owned()));
        assert_eq!(refused.body["errors"][0]["field"], field);
    }
    let group = format!("/api/v1/sites/{}/assigned-content", group.as_str().expect("an id"));
    assert_eq!(centre.get(&group).await.problem(), (404, "not_found".to_owned()));

    centre.set(site, json!({"cache_policy": "pattern", "cache_patterns": ["scripts/**"]})).await;
    assert_eq!(centre.names(site).await, ["bootloaders/ipxe.efi", "scripts/a/b.sh"]);
    let broken = json!({"cache_patterns": ["images/*", "scripts/["]});
    let refused = centre.patch(&format!("/api/v1/sites/{site}"), broken).await;
    assert_eq!(refused.body["errors"][0]["field"], "cache_patterns[1]");
    centre.set(site, json!({"cache_policy": "mirror"})).await;
    assert_eq!(centre.names(site).await.len(), 5);
}

#[tokio::test]
async fn a_heartbeat_is_told_of_a_new_manifest_whatever_has_made_it_new() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let site = agent.site;
    let mut last = 0;
    let mut check = async |is_newer: bool, step: &str| {
        centre.pass_seconds(1);
        let beat = Some(heartbeat(site, 1));
        let answer = centre.call(&agent.credential, "POST", "/api/v1/agents/heartbeat", beat).await;
        let told = answer.body["manifest_version"].as_u64().expect("a version");
        // Which works out anew what the site is to hold.
        assert_eq!(told, centre.manifest(site).await.version, "{step}");
        assert_eq!(told > last, is_newer, "{step}: {told} after {last}");
        last = told;
    };
    check(true, "at first").await;
    check(false, "nothing has happened").await;
    for name in ["images/foreign", "images/debian/linux", "images/debian/initrd.gz"] {
        centre.put_content(name, "x").await.data();
    }
    check(false, "content that it is not to hold").await;
    centre.put_content("bootloaders/ipxe.efi", "a").await.data();
    check(true, "new content").await;
    centre.put_content("bootloaders/ipxe.efi", "b").await.data();
    check(true, "other content").await;
    centre.delete("/api/v1/content/bootloaders/ipxe.efi").await.data();
    check(true, "content is deleted").await;

    centre.set(site, json!({"cache_policy": "assigned"})).await;
    check(false, "a policy that changes nothing yet").await;
    let list = json!([{"category": "images", "path": "foreign"}]);
    let path = format!("/api/v1/sites/{site}/assigned-content");
    centre.call(&centre.operator, "PUT", &path, Some(list)).await.data();
    check(true, "content is assigned").await;
    centre.set(site, json!({"cache_policy": "minimal"})).await;
    check(true, "another policy").await;

    let flow = centre.post("/api/v1/workflows", workflow("debian")).await.data()["id"].clone();
    check(false, "a workflow that nobody has").await;
    centre.set(site, json!({"default_workflow_id": flow})).await;
    check(true, "the workflow of new machines").await;
    let flow_path = format!("/api/v1/workflows/{}", flow.as_str().expect("an id"));
    let other = json!({"method": "kernel", "kernel": "images/foreign", "initrd": []});
    centre.patch(&flow_path, other).await.data();
    check(true, "the workflow loads other content").await;
    centre.set(site, json!({"default_workflow_id": null})).await;
    check(true, "it is the workflow of nobody").await;
    let node = centre.make_node("02:00:00:00:00:01", Some(site)).await;
    check(false, "a machine without workflow").await;
    let node = format!("/api/v1/nodes/{}", node["id"].as_str().expect("an id"));
    centre.patch(&node, json!({"workflow_id": flow})).await.data();
    check(true, "a machine's own workflow").await;
    let oslo = centre.make_site("oslo").await;
    centre.patch(&node, json!({"home_site_id": oslo})).await.data();
    check(true, "the machine is another site's").await;
    let group = json!({"name": "web", "default_workflow_id": flow});
    let group = centre.post("/api/v1/groups", group).await.data()["id"].clone();
    let group_path = format!("/api/v1/groups/{}", group.as_str().expect("an id"));
    let member = json!({"home_site_id": site, "workflow_id": null, "group_id": group});
    centre.patch(&node, member).await.data();
    check(true, "a machine of a group with a workflow").await;
    centre.patch(&group_path, json!({"default_workflow_id": null})).await.data();
    check(true, "the group has none any more").await;
}
