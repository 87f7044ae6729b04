//! What has changed of a site's nodes: nothing is skipped, and what has left is said.

use std::collections::BTreeMap;

use proptest::prelude::*;
use pureboot_protocol::{
    BootRecord, Lifecycle, NodeChange, NodeChanges, NodeId, NodeRecords, PublicKey, Secret,
    SignedRecords, SiteId, Told,
};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::{Value, json};

use super::changes::{hand_over, seen, wish};
use super::{Centre, Joined, heartbeat, id, registration};

impl Centre {
    /// What an agent is told that asks with `query`, once its envelope is opened.
    pub(super) async fn told(&self, credential: &Secret, query: &str) -> NodeRecords {
        let path = format!("/api/v1/agents/nodes?{query}");
        let answer = self.call(credential, "GET", &path, None).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let signed: SignedRecords =
            serde_json::from_value(answer.data().clone()).expect("an envelope");
        serde_json::from_str(&signed.payload).expect("records")
    }

    /// What has changed, as an agent is told it that asks with `query`.
    pub(super) async fn changes(&self, credential: &Secret, query: &str) -> NodeChanges {
        match self.told(credential, query).await.told {
            Told::Changes(changes) => changes,
            told @ Told::Node { .. } => panic!("{told:?}"),
        }
    }

    /// Every record of an agent's site, in JSON.
    pub(super) async fn records(&self, credential: &Secret) -> Vec<Value> {
        let changes = self.changes(credential, "limit=500").await.data.into_iter();
        let record = |change| match change {
            NodeChange::Present(record) => Some(json!(record)),
            NodeChange::Left { .. } => None,
        };
        changes.filter_map(record).collect()
    }

    /// The record of the node with `mac` as an agent is told it, in JSON.
    pub(super) async fn record_of(&self, credential: &Secret, mac: &str) -> Option<Value> {
        match self.told(credential, &format!("mac={mac}")).await.told {
            Told::Node { record, .. } => record.map(|record| json!(record)),
            told @ Told::Changes(_) => panic!("{told:?}"),
        }
    }
}

async fn ask(centre: &Centre, agent: &Joined, since: u64, limit: u16) -> NodeChanges {
    centre.changes(&agent.credential, &format!("since_version={since}&limit={limit}")).await
}

/// What a site knows that follows the changes.
#[derive(Default)]
struct Follower {
    version: u64,
    records: BTreeMap<NodeId, BootRecord>,
}

impl Follower {
    /// Asks until there is no more; answers how many changes were told.
    async fn follow(&mut self, centre: &Centre, agent: &Joined, limit: u16) -> usize {
        let mut told = 0;
        loop {
            let answer = ask(centre, agent, self.version, limit).await;
            assert!(answer.data.len() <= limit.into() && answer.version >= answer.since_version);
            assert!(answer.total >= answer.data.len() as u64);
            if answer.since_version < self.version {
                self.records.clear();
            }
            told += answer.data.len();
            for change in answer.data {
                match change {
                    NodeChange::Present(node) => {
                        self.records.insert(node.node_id, *node);
                    }
                    NodeChange::Left { node_id } => _ = self.records.remove(&node_id),
                }
            }
            self.version = answer.version;
            if !answer.has_more {
                return told;
            }
        }
    }

    /// Whether that is what a site would be told that asks for everything.
    async fn check(&self, centre: &Centre, agent: &Joined) {
        let all = centre.records(&agent.credential).await;
        let all: Vec<BootRecord> = serde_json::from_value(json!(all)).expect("records");
        let all: BTreeMap<_, _> = all.into_iter().map(|record| (record.node_id, record)).collect();
        assert_eq!(self.records, all);
    }
}

fn path(node: &Value) -> String {
    format!("/api/v1/nodes/{}", node["id"].as_str().expect("an id"))
}

#[tokio::test]
async fn a_site_is_told_each_change_once_and_in_parts() {
    let centre = Centre::start().await;
    let (berlin, oslo) = (centre.join("berlin").await, centre.join("oslo").await);
    let mut nodes = Vec::new();
    for number in 1..=5 {
        nodes.push(
            centre.make_node(&format!("02:00:00:00:00:{number:02x}"), Some(berlin.site)).await,
        );
    }
    let foreign = centre.make_node("02:00:00:00:01:01", Some(oslo.site)).await;
    let first = ask(&centre, &berlin, 0, 2).await;
    assert_eq!((first.data.len(), first.total, first.has_more), (2, 5, true));
    let mut follower = Follower::default();
    assert_eq!(follower.follow(&centre, &berlin, 2).await, 5);
    follower.check(&centre, &berlin).await;
    assert_eq!(follower.follow(&centre, &berlin, 2).await, 0);
    // What happens elsewhere is not told, and is no reason to ask.
    let before = follower.version;
    centre.patch(&path(&foreign), json!({"tags": ["x"]})).await.data();
    assert_eq!(follower.follow(&centre, &berlin, 2).await, 0);
    assert_eq!(follower.version, before);
    centre.patch(&path(&nodes[1]), json!({"hostname": "web"})).await.data();
    centre.delete(&path(&nodes[2])).await.data();
    assert_eq!(follower.follow(&centre, &berlin, 2).await, 2, "retired ones are told too");
    follower.check(&centre, &berlin).await;
}

#[tokio::test]
async fn c16_a_node_that_leaves_is_told_to_the_site_that_it_leaves_and_to_no_other() {
    let centre = Centre::start().await;
    let (berlin, oslo, rome) =
        (centre.join("berlin").await, centre.join("oslo").await, centre.join("rome").await);
    let node = centre.make_node("02:00:00:00:00:01", Some(berlin.site)).await;
    let homeless = centre.make_node("02:00:00:00:00:02", None).await;
    let mut followers = [Follower::default(), Follower::default(), Follower::default()];
    let sites = [&berlin, &oslo, &rome];
    let mut told = Vec::new();
    for (home, moved) in [
        (None, &node),
        (Some(oslo.site), &node),
        (Some(rome.site), &homeless),
        (Some(berlin.site), &node),
    ] {
        let mut counts = Vec::new();
        for (follower, site) in followers.iter_mut().zip(sites) {
            counts.push(follower.follow(&centre, site, 10).await);
            follower.check(&centre, site).await;
        }
        told.push(counts);
        centre.patch(&path(moved), json!({"home_site_id": home})).await.data();
    }
    for (follower, site) in followers.iter_mut().zip(sites) {
        follower.follow(&centre, site, 10).await;
        follower.check(&centre, site).await;
    }
    assert_eq!(told, [[2, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]]);
    let left = ask(&centre, &oslo, 0, 10).await;
    let left = left.data.iter().filter(|change| matches!(change, NodeChange::Left { .. })).count();
    assert_eq!(left, 2);
}

#[tokio::test]
async fn what_a_record_is_made_of_is_told_as_the_record_is() {
    let centre = Centre::start().await;
    let berlin = centre.join("berlin").await;
    let mac = |number: u8| format!("02:00:00:00:00:{number:02x}");
    centre.make_node(&mac(1), Some(berlin.site)).await;
    let assigned = centre.make_node(&mac(2), Some(berlin.site)).await;
    let body = json!({"name": "ks", "kind": "kickstart", "body": "text {{ node.hostname }}"});
    let template: String = id(centre.post("/api/v1/templates", body).await.data());
    let body = json!({
        "name": "debian", "method": "kernel", "kernel": "images/debian/linux", "templates": {"ks.cfg": template},
    });
    let workflow: String = id(centre.post("/api/v1/workflows", body).await.data());
    let site = format!("/api/v1/sites/{}", berlin.site);
    let mut follower = Follower::default();
    follower.follow(&centre, &berlin, 10).await;
    centre.patch(&site, json!({"default_workflow_id": workflow})).await.data();
    assert!(follower.follow(&centre, &berlin, 10).await >= 1, "the site hands it down");
    follower.check(&centre, &berlin).await;
    centre.patch(&path(&assigned), json!({"workflow_id": workflow})).await.data();
    centre.patch(&format!("{}/state", path(&assigned)), json!({"state": "pending"})).await.data();
    follower.follow(&centre, &berlin, 10).await;
    centre
        .patch(&format!("/api/v1/workflows/{workflow}"), json!({"description": "new"}))
        .await
        .data();
    assert_eq!(follower.follow(&centre, &berlin, 1).await, 2);
    follower.check(&centre, &berlin).await;
    let before = follower.version;
    centre.patch(&format!("/api/v1/templates/{template}"), json!({"body": "cmdline"})).await.data();
    let changes = ask(&centre, &berlin, before, 10).await;
    let mut told: Vec<_> = changes
        .data
        .iter()
        .filter_map(|change| match change {
            NodeChange::Present(node) => Some((
                node.mac_address.to_string(),
                node.template_versions.values().copied().collect::<Vec<_>>(),
                node.once,
            )),
            NodeChange::Left { .. } => None,
        })
        .collect();
    told.sort();
    assert_eq!(told, [(mac(1), vec![2], false), (mac(2), vec![2], true)]);
}

#[tokio::test]
async fn c17_a_number_that_the_controller_has_not_reached_begins_anew() {
    let centre = Centre::start().await;
    let berlin = centre.join("berlin").await;
    centre.make_node("02:00:00:00:00:01", Some(berlin.site)).await;
    let answer = ask(&centre, &berlin, 1_000_000, 10).await;
    assert_eq!((answer.since_version, answer.data.len()), (0, 1));
    for query in [
        "since_version=-1",
        "since_version=x",
        "since_version=1&mac=02:00:00:00:00:01",
        "since_version=1&cursor=1.a",
    ] {
        let path = format!("/api/v1/agents/nodes?{query}");
        let answer = centre.call(&berlin.credential, "GET", &path, None).await;
        assert_eq!(answer.problem(), (422, "validation_failed".to_owned()), "{query}");
    }
}

#[tokio::test]
async fn a_conflict_that_begins_or_ends_is_told_with_the_record() {
    let centre = Centre::start().await;
    let berlin = centre.join("berlin").await;
    let settings = json!({"conflict_resolution": "manual"});
    centre.patch(&format!("/api/v1/sites/{}", berlin.site), settings).await.data();
    hand_over(&centre, &berlin, 1, &[seen(1, 1, 1)]).await;
    let mut follower = Follower::default();
    follower.follow(&centre, &berlin, 10).await;
    hand_over(&centre, &berlin, 2, &[wish(2, 1, Lifecycle::Active, 1)]).await;
    assert_eq!(follower.follow(&centre, &berlin, 10).await, 1);
    assert!(follower.records.values().all(|record| record.conflict_id.is_some()));
    let path = format!("/api/v1/sites/{}/conflicts/resolve-all", berlin.site);
    centre.post(&path, json!({"resolution": "keep_central"})).await.data();
    assert_eq!(follower.follow(&centre, &berlin, 10).await, 1);
    assert!(follower.records.values().all(|record| record.conflict_id.is_none()));
    follower.check(&centre, &berlin).await;
}

#[tokio::test]
async fn a_site_that_asks_while_both_controllers_write_misses_nothing() {
    let one = Centre::start().await;
    let other = one.beside().await;
    let berlin = one.join("berlin").await;
    let write = async |centre: &Centre, first: u8| {
        for number in first..first + 20 {
            let mac = format!("02:00:00:00:00:{number:02x}");
            let node = centre.make_node(&mac, Some(berlin.site)).await;
            centre.patch(&path(&node), json!({"hostname": format!("n{number}")})).await.data();
        }
    };
    let mut follower = Follower::default();
    let ask = async {
        for _ in 0..30 {
            follower.follow(&one, &berlin, 3).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(write(&one, 0), write(&other, 100), ask);
    follower.follow(&one, &berlin, 3).await;
    follower.check(&one, &berlin).await;
    assert_eq!(follower.records.len(), 40);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn whoever_follows_the_changes_knows_what_one_knows_who_asks_for_everything(
        steps in prop::collection::vec((0..4_usize, 0..7_u8, 1..4_u16), 1..25),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let centre = Centre::start().await;
            let sites = [centre.join("berlin").await, centre.join("oslo").await];
            let mut nodes = Vec::new();
            for number in 0..4 {
                nodes.push(centre.make_node(&format!("02:00:00:00:00:{number:02x}"), Some(sites[0].site)).await);
            }
            let mut followers = [Follower::default(), Follower::default()];
            for (node, what, limit) in steps {
                let home = |home: Option<SiteId>| json!({"home_site_id": home});
                match what {
                    0 => _ = centre.patch(&path(&nodes[node]), home(Some(sites[0].site))).await,
                    1 => _ = centre.patch(&path(&nodes[node]), home(Some(sites[1].site))).await,
                    2 => _ = centre.patch(&path(&nodes[node]), home(None)).await,
                    3 => _ = centre.patch(&path(&nodes[node]), json!({"tags": ["x"]})).await,
                    4 => _ = centre.delete(&path(&nodes[node])).await,
                    which => {
                        let at = usize::from(which - 5);
                        followers[at].follow(&centre, &sites[at], limit).await;
                    }
                }
            }
            for (follower, site) in followers.iter_mut().zip(&sites) {
                follower.follow(&centre, site, 2).await;
                follower.check(&centre, site).await;
            }
        });
    }
}

#[tokio::test]
async fn what_is_told_is_signed_for_the_site_that_asks() {
    let centre = Centre::start().await;
    let site = centre.make_site("berlin").await;
    let token = centre.make_token(site).await;
    let credential = Secret::from_random([9; 32]);
    let joined = centre.register(registration(site, &token, Some(&credential))).await;
    let key: PublicKey = serde_json::from_value(joined.body["signing_key"].clone()).expect("a key");
    centre.make_node("02:00:00:00:00:01", Some(site)).await;
    for query in ["mac=02:00:00:00:00:01", "mac=02:00:00:00:00:09", "since_version=0"] {
        let path = format!("/api/v1/agents/nodes?{query}");
        let answer = centre.call(&credential, "GET", &path, None).await;
        let signed: SignedRecords =
            serde_json::from_value(answer.data().clone()).expect("an envelope");
        let verify = |payload: &str| {
            UnparsedPublicKey::new(&ED25519, key.as_bytes())
                .verify(&SignedRecords::signed_bytes(payload), signed.signature.as_bytes())
        };
        assert!(verify(&signed.payload).is_ok(), "{query}");
        assert!(
            verify(&signed.payload.replace("02:", "03:")).is_err() || query == "since_version=0"
        );
        assert_eq!(centre.told(&credential, query).await.site_id, site);
    }
}

#[tokio::test]
async fn a_heartbeat_is_told_whether_there_is_anything_to_ask_for() {
    let centre = Centre::start().await;
    let (berlin, oslo) = (centre.join("berlin").await, centre.join("oslo").await);
    let newest = async |agent: &Joined| {
        let beat = Some(heartbeat(agent.site, 1));
        let answer = centre.call(&agent.credential, "POST", "/api/v1/agents/heartbeat", beat).await;
        answer.body["nodes_version"].as_u64().expect("a number")
    };
    let mut follower = Follower::default();
    assert_eq!(newest(&berlin).await, 0);
    let node = centre.make_node("02:00:00:00:00:01", Some(berlin.site)).await;
    assert!(newest(&berlin).await > 0);
    assert_eq!(newest(&oslo).await, 0);
    for home in [json!(oslo.site), Value::Null, json!(berlin.site)] {
        follower.follow(&centre, &berlin, 10).await;
        assert_eq!(newest(&berlin).await, follower.version);
        centre.patch(&path(&node), json!({"home_site_id": home})).await.data();
        assert!(newest(&berlin).await > follower.version, "{home}");
    }
}
