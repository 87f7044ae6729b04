//! The number of the wish to install a node: a new one where it is asked for anew, and the old one whatever else changes.

use pureboot_protocol::{Lifecycle, NodeEventKind};
use serde_json::{Value, json};

use super::changes::{event, hand_over, node, node_id, order, seen, wish};
use super::{Centre, Joined, id};

/// A node that its site has seen, and what the site has handed over.
struct Seen {
    centre: Centre,
    agent: Joined,
    seq: u64,
}

impl Seen {
    async fn start() -> Self {
        let centre = Centre::start().await;
        let agent = centre.join("berlin").await;
        hand_over(&centre, &agent, 1, &[seen(1, 1, 1)]).await;
        Self { centre, agent, seq: 1 }
    }

    async fn patch(&self, body: Value) {
        self.centre.patch(&format!("/api/v1/nodes/{}", node_id(1)), body).await.data();
    }

    async fn report(&mut self, kind: NodeEventKind) {
        self.seq += 1;
        hand_over(&self.centre, &self.agent, self.seq, &[event(self.seq, 1, kind)]).await;
    }

    async fn workflow(&self, name: &str) -> String {
        let body = json!({"name": name, "method": "kernel", "kernel": "images/debian/linux"});
        let path = "/api/v1/workflows?allow_missing=true";
        id(self.centre.post(path, body).await.data())
    }

    /// The node's version and the number of its wish, which the site is told as well.
    async fn wish(&self) -> (u64, u64) {
        let node = node(&self.centre, 1).await;
        let mac = node["mac_address"].as_str().expect("an address");
        let told = self.centre.record_of(&self.agent.credential, mac).await.expect("a record");
        assert_eq!(told["wish_version"], node["wish_version"]);
        let number = |name: &str| node[name].as_u64().expect("a number");
        (number("version"), number("wish_version"))
    }
}

#[tokio::test]
async fn i7_what_changes_nothing_about_a_wish_leaves_it_its_number() {
    let mut seen = Seen::start().await;
    let debian = seen.workflow("debian").await;
    seen.patch(json!({"workflow_id": debian})).await;
    order(&seen.centre, 1, Lifecycle::Pending).await;
    assert_eq!(seen.wish().await, (3, 3));
    seen.patch(json!({"hostname": "web"})).await;
    seen.patch(json!({"tags": ["x"], "workflow_id": debian})).await;
    assert_eq!(seen.wish().await, (5, 3));
    let group = seen.centre.post("/api/v1/groups", json!({"name": "front"})).await;
    let group: String = id(group.data());
    seen.patch(json!({"group_id": group})).await;
    assert_eq!(seen.wish().await, (6, 3), "it is assigned what it was");
    let kinds = [NodeEventKind::BootStarted, NodeEventKind::InstallStarted];
    for kind in kinds.into_iter().chain([NodeEventKind::InstallFailed; 3]) {
        seen.report(kind).await;
    }
    assert_eq!(seen.wish().await, (11, 3));
}

#[tokio::test]
async fn i7_whoever_asks_for_an_installation_anew_numbers_another_wish() {
    let mut seen = Seen::start().await;
    let (debian, fedora) = (seen.workflow("debian").await, seen.workflow("fedora").await);
    let group = seen.centre.post("/api/v1/groups", json!({"name": "front"})).await;
    let group: String = id(group.data());
    let default = json!({"default_workflow_id": fedora});
    seen.centre.patch(&format!("/api/v1/groups/{group}"), default).await.data();
    seen.patch(json!({"workflow_id": debian})).await;
    order(&seen.centre, 1, Lifecycle::Pending).await;
    seen.patch(json!({"workflow_id": fedora})).await;
    assert_eq!(seen.wish().await, (4, 4), "another workflow");
    seen.patch(json!({"workflow_id": null, "group_id": group})).await;
    assert_eq!(seen.wish().await, (5, 4), "the same, by another way");
    seen.patch(json!({"group_id": null})).await;
    assert_eq!(seen.wish().await, (6, 6), "a place that hands down another");
    for kind in [NodeEventKind::InstallStarted].into_iter().chain([NodeEventKind::InstallFailed; 3])
    {
        seen.report(kind).await;
    }
    let path = format!("/api/v1/nodes/{}/state", node_id(1));
    seen.centre.patch(&path, json!({"state": "pending", "force": true})).await.data();
    assert_eq!(seen.wish().await, (11, 11), "once more after it has failed");
    // Within one batch, so that nothing of it is written in between.
    let items = [
        event(6, 1, NodeEventKind::InstallStarted),
        event(7, 1, NodeEventKind::InstallComplete),
        wish(8, 1, Lifecycle::Reprovision, 11),
        wish(9, 1, Lifecycle::Pending, 11),
        event(10, 1, NodeEventKind::BootStarted),
    ];
    hand_over(&seen.centre, &seen.agent, 6, &items).await;
    assert_eq!(seen.wish().await, (16, 15), "by its site");
}
