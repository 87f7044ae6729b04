//! A node of one site that boots at another: who decides where it belongs.

use pureboot_protocol::NodeEventKind;
use serde_json::{Value, json};

use super::changes::{event, hand_over, node, outcomes, seen};
use super::custody::rows;
use super::{Centre, Joined};

const MAC: &str = "02:00:00:00:00:01";

/// Node 1 is at home in Berlin; it was seen there at the start.
async fn two_sites(centre: &Centre) -> (Joined, Joined) {
    let (berlin, oslo) = (centre.join("berlin").await, centre.join("oslo").await);
    hand_over(centre, &berlin, 1, &[seen(1, 1, 1)]).await;
    (berlin, oslo)
}

/// `item` as of so many seconds after the start.
fn after(seconds: u32, mut item: Value) -> Value {
    item["at"] = format!("2026-11-21T00:{:02}:{:02}Z", seconds / 60, seconds % 60).into();
    item["clock"] = "synced".into();
    item
}

async fn set_policy(centre: &Centre, agent: &Joined, policy: &str) {
    let path = format!("/api/v1/sites/{}", agent.site);
    centre.patch(&path, json!({"migration_policy": policy})).await.data();
}

async fn claims(centre: &Centre, status: &str) -> Vec<Value> {
    rows(centre, &format!("/api/v1/migrations?status={status}")).await
}

async fn only(centre: &Centre) -> Value {
    let mut all = claims(centre, "all").await;
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

async fn decide(centre: &Centre, claim: &Value, verb: &str) -> super::Answer {
    let id = claim["id"].as_str().expect("an id");
    centre.post(&format!("/api/v1/migrations/{id}/{verb}"), json!({"comment": "rack 7"})).await
}

/// What the agent is told of machine 1.
async fn told(centre: &Centre, agent: &Joined) -> Value {
    json!(centre.told(&agent.credential, &format!("mac={MAC}")).await.told)
}

#[tokio::test]
async fn i8_a_node_that_boots_elsewhere_stays_until_a_person_moves_it() {
    let centre = Centre::start().await;
    let (berlin, oslo) = two_sites(&centre).await;
    let before = node(&centre, 1).await;
    assert_eq!(
        told(&centre, &oslo).await["foreign"],
        json!({"boots": "pending", "claim_id": null})
    );
    centre.pass_seconds(60);
    let receipt = hand_over(&centre, &oslo, 1, &[after(60, seen(1, 2, 1))]).await;
    assert_eq!(outcomes(&receipt), "conflict through 1");
    assert_eq!(node(&centre, 1).await, before);
    let claim = only(&centre).await;
    assert_eq!(
        (&claim["mac_address"], &claim["from_site_id"], &claim["to_site_id"], &claim["outcome"]),
        (&json!(MAC), &json!(berlin.site), &json!(oslo.site), &Value::Null)
    );
    // C16: nothing of the record, but what to do and why.
    let answer = told(&centre, &oslo).await;
    assert_eq!(answer["record"], Value::Null);
    assert_eq!(answer["foreign"], json!({"boots": "pending", "claim_id": claim["id"]}));
    assert_eq!(told(&centre, &berlin).await.get("foreign"), None);

    let approved = decide(&centre, &claim, "approve").await;
    let outcome = &approved.data()["outcome"];
    assert_eq!(
        (
            &outcome["decision"],
            &outcome["by"],
            &outcome["name"],
            &outcome["comment"],
            &outcome["node_version"]
        ),
        (
            &json!("approved"),
            &json!("operator"),
            &json!("operator-token"),
            &json!("rack 7"),
            &json!(2)
        )
    );
    assert_eq!(
        *decide(&centre, &claim, "approve").await.data(),
        *approved.data(),
        "once and for all"
    );
    let refused = decide(&centre, &claim, "reject").await;
    assert_eq!(refused.problem(), (409, "claim_decided".to_owned()));
    let moved = node(&centre, 1).await;
    assert_eq!((&moved["home_site_id"], &moved["state"]), (&json!(oslo.site), &before["state"]));
    assert_eq!(told(&centre, &oslo).await["record"]["mac_address"], MAC);
    assert_eq!(told(&centre, &berlin).await["record"], Value::Null);
    let left = centre.changes(&berlin.credential, "since_version=0").await.data;
    assert_eq!(json!(left)[0]["change"], "left");
    let conflicts = rows(&centre, "/api/v1/sync/conflicts?status=all").await;
    assert_eq!(conflicts[0]["outcome"]["resolution"], "keep_central");
    let audited = rows(&centre, "/api/v1/audit?action=POST%20/migrations/%7Bid%7D/approve").await;
    assert_eq!(audited.len(), 2);
}

#[tokio::test]
async fn i8_a_node_moves_by_itself_where_its_site_gives_and_the_other_takes() {
    for (gives, takes, moves) in [
        ("manual", "bidirectional", false),
        ("bidirectional", "manual", false),
        ("auto_accept", "auto_accept", false),
        ("auto_release", "auto_release", false),
        ("auto_release", "auto_accept", true),
    ] {
        let centre = Centre::start().await;
        let (berlin, oslo) = two_sites(&centre).await;
        set_policy(&centre, &berlin, gives).await;
        set_policy(&centre, &oslo, takes).await;
        centre.pass_seconds(60);
        hand_over(&centre, &oslo, 1, &[after(60, seen(1, 2, 1))]).await;
        let home = if moves { oslo.site } else { berlin.site };
        assert_eq!(node(&centre, 1).await["home_site_id"], json!(home), "{gives} {takes}");
        let claim = only(&centre).await;
        let decided = if moves { json!("policy") } else { Value::Null };
        assert_eq!(claim["outcome"]["by"], decided, "{gives} {takes}");
        let open = rows(&centre, "/api/v1/sync/conflicts").await;
        assert_eq!(open.is_empty(), moves, "{gives} {takes}");
        let audited = rows(&centre, "/api/v1/audit?action=node.moved").await;
        assert_eq!(audited.len(), usize::from(moves), "{gives} {takes}");
    }
}

#[tokio::test]
async fn i8_what_a_site_tells_late_moves_no_node_from_where_it_is() {
    let centre = Centre::start().await;
    let (berlin, oslo) = two_sites(&centre).await;
    set_policy(&centre, &berlin, "bidirectional").await;
    set_policy(&centre, &oslo, "bidirectional").await;
    centre.pass_seconds(120);
    let home = [after(100, event(2, 1, NodeEventKind::BootStarted))];
    hand_over(&centre, &berlin, 2, &home).await;
    hand_over(&centre, &oslo, 1, &[after(60, seen(1, 2, 1))]).await;
    assert_eq!(node(&centre, 1).await["home_site_id"], json!(berlin.site));
    assert_eq!(only(&centre).await["outcome"], Value::Null);
    centre.pass_seconds(60);
    let later = [after(130, event(2, 1, NodeEventKind::BootStarted))];
    hand_over(&centre, &oslo, 2, &later).await;
    assert_eq!(node(&centre, 1).await["home_site_id"], json!(oslo.site));
}

#[tokio::test]
async fn nobody_is_asked_again_at_each_boot_about_what_was_rejected() {
    let centre = Centre::start().await;
    let (_, oslo) = two_sites(&centre).await;
    for seq in 1..=2 {
        hand_over(&centre, &oslo, seq, &[seen(seq, 2, 1)]).await;
    }
    let claim = only(&centre).await;
    assert_eq!(claim["times"], 2);
    decide(&centre, &claim, "reject").await.data();
    assert_eq!(rows(&centre, "/api/v1/sync/conflicts").await, [] as [Value; 0]);
    hand_over(&centre, &oslo, 3, &[seen(3, 2, 1)]).await;
    assert_eq!(only(&centre).await["times"], 3);
    centre.pass_seconds(8 * 24 * 3_600);
    hand_over(&centre, &oslo, 4, &[seen(4, 2, 1)]).await;
    assert_eq!(claims(&centre, "open").await.len(), 1);
}

#[tokio::test]
async fn a_claim_that_nobody_decides_expires_and_is_forgotten_in_the_end() {
    let centre = Centre::start().await;
    let (berlin, oslo) = two_sites(&centre).await;
    hand_over(&centre, &oslo, 1, &[seen(1, 2, 1)]).await;
    let look = async || crate::jobs::retention::look(&centre.app).await.expect("looked");
    centre.pass_seconds(7 * 24 * 3_600 - 60);
    look().await;
    assert_eq!(claims(&centre, "open").await.len(), 1);
    centre.pass_seconds(120);
    look().await;
    let ending = only(&centre).await["outcome"].clone();
    assert_eq!((&ending["decision"], &ending["by"]), (&json!("expired"), &json!("expiry")));
    let conflicts = rows(&centre, "/api/v1/sync/conflicts?status=resolved").await;
    assert_eq!(conflicts[0]["outcome"]["by"], "claim");
    assert_eq!(node(&centre, 1).await["home_site_id"], json!(berlin.site));
    centre.pass_seconds(401 * 24 * 3_600);
    look().await;
    assert!(claims(&centre, "all").await.is_empty());
    assert!(rows(&centre, "/api/v1/sync/conflicts?status=all").await.is_empty());
}

#[tokio::test]
async fn a_claim_ends_with_the_conflict_and_with_any_other_way_to_a_new_home() {
    for (way, decision) in [
        ("keep_local", "approved"),
        ("keep_central", "rejected"),
        ("patch", "approved"),
        ("elsewhere", "superseded"),
    ] {
        let centre = Centre::start().await;
        let (_, oslo) = two_sites(&centre).await;
        hand_over(&centre, &oslo, 1, &[seen(1, 2, 1)]).await;
        let id = node(&centre, 1).await["id"].as_str().expect("an id").to_owned();
        let path = format!("/api/v1/nodes/{id}");
        match way {
            "patch" => centre.patch(&path, json!({"home_site_id": oslo.site})).await,
            "elsewhere" => {
                let rome = centre.make_site("rome").await;
                centre.patch(&path, json!({"home_site_id": rome})).await
            }
            resolution => {
                let conflict = rows(&centre, "/api/v1/sync/conflicts").await.remove(0);
                let path = format!(
                    "/api/v1/sync/conflicts/{}/resolve",
                    conflict["id"].as_str().expect("an id")
                );
                centre.post(&path, json!({"resolution": resolution})).await
            }
        }
        .data();
        let claim = only(&centre).await;
        let name = &claim["outcome"]["name"];
        assert_eq!(
            (&claim["outcome"]["decision"], name),
            (&json!(decision), &json!("operator-token")),
            "{way}"
        );
    }
}

#[tokio::test]
async fn what_a_foreign_node_boots_meanwhile_is_the_sites_own_choice() {
    let centre = Centre::start().await;
    let (berlin, oslo) = two_sites(&centre).await;
    let path = format!("/api/v1/sites/{}", oslo.site);
    for word in ["normal", "refuse", "pending"] {
        centre.patch(&path, json!({"foreign_nodes": word})).await.data();
        assert_eq!(told(&centre, &oslo).await["foreign"]["boots"], word);
    }
    let answer = centre.patch(&path, json!({"foreign_nodes": "install"})).await;
    assert_eq!(answer.problem(), (422, "validation_failed".to_owned()));
    // A machine that nobody has a record of, or that is nobody's any more, is foreign to nobody.
    let nobody = centre.told(&oslo.credential, "mac=02:00:00:00:00:77").await.told;
    assert_eq!(json!(nobody).get("foreign"), None);
    let id = node(&centre, 1).await["id"].as_str().expect("an id").to_owned();
    centre.delete(&format!("/api/v1/nodes/{id}")).await.data();
    assert_eq!(told(&centre, &oslo).await.get("foreign"), None);
    hand_over(&centre, &oslo, 1, &[seen(1, 2, 1)]).await;
    assert!(claims(&centre, "all").await.is_empty());
    assert_ne!(berlin.site, oslo.site);
}
