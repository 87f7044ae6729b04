//! The person at a site ends the site's own conflicts through its agent.

use pureboot_protocol::Lifecycle;
use serde_json::{Value, json};

use super::super::changes::{hand_over, node, seen, wish};
use super::super::custody::rows;
use super::super::{Answer, Centre, Joined};
use super::{brief, dispute, only, set_strategy, site_with};

const CONFLICTS: &str = "/api/v1/agents/conflicts";

async fn as_agent(centre: &Centre, agent: &Joined, verb: &str, path: &str, body: Value) -> Answer {
    let body = (verb == "POST").then_some(body);
    centre.call(&agent.credential, verb, path, body).await
}

async fn resolve(centre: &Centre, agent: &Joined, conflict: &Value, body: Value) -> Answer {
    let path = format!("{CONFLICTS}/{}/resolve", conflict["id"].as_str().expect("an id"));
    as_agent(centre, agent, "POST", &path, body).await
}

#[tokio::test]
async fn k16_the_person_at_the_site_ends_a_conflict_once_and_the_same_decision_has_the_same_answer()
{
    for (decision, state) in [
        (json!({"resolution": "keep_local"}), "retired 4"),
        (json!({"resolution": "keep_central"}), "installing 4"),
        (json!({"resolution": "merge", "state": "installed", "comment": "seen it"}), "installed 4"),
    ] {
        let centre = Centre::start().await;
        let agent = site_with(&centre, "manual").await;
        dispute(&centre, &agent).await;
        let listed = as_agent(&centre, &agent, "GET", CONFLICTS, Value::Null).await;
        let conflict = listed.data()[0].clone();
        assert_eq!(conflict, only(&centre, &agent).await);
        let ended = resolve(&centre, &agent, &conflict, decision.clone()).await;
        let outcome = &ended.data()["outcome"];
        assert_eq!((&outcome["by"], &outcome["name"]), (&json!("site"), &json!("berlin")));
        assert_eq!(brief(&node(&centre, 1).await), state);
        let again = resolve(&centre, &agent, &conflict, decision).await;
        assert_eq!(again.data(), ended.data());
        let other =
            resolve(&centre, &agent, &conflict, json!({"resolution": "merge", "state": "active"}));
        assert_eq!(other.await.problem(), (409, "conflict_resolved".to_owned()));
        assert_eq!(brief(&node(&centre, 1).await), state);
        // Both sides are told: the agent is ordered to ask, and its record has no conflict any more.
        let orders = rows(&centre, &format!("/api/v1/sites/{}/commands", agent.site)).await;
        assert!(json!(orders).to_string().contains("resolve_conflict"), "{orders:?}");
        let path = format!("{CONFLICTS}/{}", conflict["id"].as_str().expect("an id"));
        let read = as_agent(&centre, &agent, "GET", &path, Value::Null).await;
        assert_eq!(read.data(), ended.data());
    }
}

#[tokio::test]
async fn a_merge_at_the_site_says_a_state_and_nothing_else_does() {
    let centre = Centre::start().await;
    let agent = site_with(&centre, "manual").await;
    dispute(&centre, &agent).await;
    let conflict = only(&centre, &agent).await;
    for body in
        [json!({"resolution": "merge"}), json!({"resolution": "keep_local", "state": "active"})]
    {
        let refused = resolve(&centre, &agent, &conflict, body).await;
        assert_eq!(refused.problem(), (422, "validation_failed".to_owned()));
    }
}

#[tokio::test]
async fn i8_a_site_ends_no_conflict_of_another_and_takes_no_node_from_another() {
    let centre = Centre::start().await;
    let berlin = site_with(&centre, "manual").await;
    dispute(&centre, &berlin).await;
    let of_berlin = only(&centre, &berlin).await;
    let oslo = centre.join("oslo").await;
    set_strategy(&centre, &oslo, "site_wins").await;
    let keep_local = json!({"resolution": "keep_local"});
    let refused = resolve(&centre, &oslo, &of_berlin, keep_local.clone()).await;
    assert_eq!(refused.problem(), (404, "not_found".to_owned()));
    let path = format!("{CONFLICTS}/{}", of_berlin["id"].as_str().expect("an id"));
    let unseen = as_agent(&centre, &oslo, "GET", &path, Value::Null).await;
    assert_eq!(unseen.problem(), (404, "not_found".to_owned()));

    let before = node(&centre, 1).await;
    hand_over(&centre, &oslo, 1, &[seen(1, 2, 1), wish(2, 2, Lifecycle::Retired, 1)]).await;
    let listed = as_agent(&centre, &oslo, "GET", CONFLICTS, Value::Null).await;
    let listed: Vec<Value> = serde_json::from_value(listed.data().clone()).expect("a list");
    let mismatch = listed.iter().find(|conflict| conflict["type"] == "site_mismatch");
    let mismatch = mismatch.expect("one about a node of another site");
    for body in [keep_local, json!({"resolution": "merge", "state": "retired"})] {
        let refused = resolve(&centre, &oslo, mismatch, body).await;
        assert_eq!(refused.problem(), (403, "not_the_sites_to_decide".to_owned()));
    }
    assert_eq!(node(&centre, 1).await, before);
    resolve(&centre, &oslo, mismatch, json!({"resolution": "keep_central"})).await.data();
    assert_eq!(node(&centre, 1).await, before);
}
