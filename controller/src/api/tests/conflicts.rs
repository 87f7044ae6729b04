//! What becomes of a wish that met another change: by the site's strategy, by an operator, once and for both sides.

mod site;

use pureboot_protocol::{ChangeReceipt, Lifecycle, NodeEventKind, Timestamp};
use serde_json::{Value, json};

use super::changes::{event, hand_over, node, node_id, order, outcomes, seen, wish};
use super::custody::rows;
use super::{Answer, Centre, Joined, START_MS, heartbeat, request, with_fields};

/// `item` as it is when the site's change `seq` of the same node was not acknowledged yet.
pub(super) fn after(seq: u64, mut item: Value) -> Value {
    item["prev_seq_same_node"] = json!(seq);
    item
}

fn at(mut item: Value, seconds: i64, clock: &str) -> Value {
    let time = Timestamp::from_unix_ms(START_MS).plus_seconds(seconds);
    (item["at"], item["clock"]) = (json!(time), json!(clock));
    item
}

/// A site whose strategy is `strategy`, and node 1 there: discovered in version 1.
async fn site_with(centre: &Centre, strategy: &str) -> Joined {
    let agent = centre.join("berlin").await;
    set_strategy(centre, &agent, strategy).await;
    hand_over(centre, &agent, 1, &[seen(1, 1, 1)]).await;
    agent
}

pub(super) async fn set_strategy(centre: &Centre, agent: &Joined, strategy: &str) {
    let path = format!("/api/v1/sites/{}", agent.site);
    centre.patch(&path, json!({"conflict_resolution": strategy})).await.data();
}

/// Node 1 is installing in version 3 and the site, which knew version 2, retires it: a conflict.
async fn dispute(centre: &Centre, agent: &Joined) -> ChangeReceipt {
    order(centre, 1, Lifecycle::Pending).await;
    order(centre, 1, Lifecycle::Installing).await;
    hand_over(centre, agent, 2, &[wish(2, 1, Lifecycle::Retired, 2)]).await
}

async fn conflicts(centre: &Centre, agent: &Joined, status: &str) -> Vec<Value> {
    rows(centre, &format!("/api/v1/sites/{}/conflicts?status={status}", agent.site)).await
}

async fn only(centre: &Centre, agent: &Joined) -> Value {
    let mut all = conflicts(centre, agent, "all").await;
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

async fn resolve(centre: &Centre, conflict: &Value, body: Value) -> Answer {
    let id = conflict["id"].as_str().expect("an id");
    centre.post(&format!("/api/v1/sync/conflicts/{id}/resolve"), body).await
}

fn brief(node: &Value) -> String {
    format!("{} {}", node["state"].as_str().expect("a state"), node["version"])
}

async fn record(centre: &Centre, agent: &Joined) -> Value {
    centre.records(&agent.credential).await.swap_remove(0)
}

#[tokio::test]
async fn i5_each_strategy_decides_and_leaves_a_record_of_both_sides() {
    for (strategy, outcome, state, resolution) in [
        ("central_wins", "conflict through 2", "installing 3", json!("keep_central")),
        ("site_wins", "applied through 2", "retired 4", json!("keep_local")),
        ("manual", "conflict through 2", "installing 3", Value::Null),
        ("last_write", "conflict through 2", "installing 3", json!("keep_central")),
    ] {
        let centre = Centre::start().await;
        let agent = site_with(&centre, strategy).await;
        let receipt = dispute(&centre, &agent).await;
        assert_eq!(outcomes(&receipt), outcome, "{strategy}");
        assert_eq!(brief(&node(&centre, 1).await), state, "{strategy}");
        let conflict = only(&centre, &agent).await;
        assert_eq!(json!(receipt.results[0].conflict_id), conflict["id"]);
        assert_eq!(conflict["outcome"]["resolution"], resolution, "{strategy}");
        let open = conflicts(&centre, &agent, "open").await.len();
        assert_eq!(open, usize::from(strategy == "manual"));
        assert_eq!(conflict["type"], "state_mismatch");
        assert_eq!(conflict["cause"], "the site knew version 2, the controller has version 3");
        let site = json!({
            "state": "retired", "base_version": 2, "at": "2026-11-20T23:59:00.000Z", "clock": "synced", "changes": 1,
        });
        assert_eq!(conflict["site"], site);
        assert_eq!(conflict["base"], json!({"state": "pending", "version": 2}));
        let central =
            json!({"state": "installing", "version": 3, "changed_at": "2026-11-21T00:00:00.000Z"});
        assert_eq!(conflict["central"], central);
        if strategy != "manual" {
            assert_eq!(conflict["outcome"]["by"], strategy);
        }
        // The lost answer: what comes again says the same.
        let again = hand_over(&centre, &agent, 2, &[wish(2, 1, Lifecycle::Retired, 2)]).await;
        assert_eq!(again.results[0].conflict_id, receipt.results[0].conflict_id);
        assert_eq!(again.results[0].node_version, receipt.results[0].node_version);
        assert_eq!(only(&centre, &agent).await, conflict);
    }
}

#[tokio::test]
async fn the_last_write_is_told_by_corrected_times_and_an_unsynced_clock_or_a_tie_loses() {
    // The controller's side changed last at second 0; the site's clock is so many seconds behind.
    for (behind, wished_at, clock, expected) in [
        (0, 1, "synced", "applied"),
        (0, 0, "synced", "conflict"),
        (0, 1, "unsynced", "conflict"),
        (30, -10, "synced", "applied"),
        (-30, 20, "synced", "conflict"),
        (3_600, 50, "synced", "conflict"),
    ] {
        let centre = Centre::start().await;
        let agent = site_with(&centre, "last_write").await;
        let mut beat = heartbeat(agent.site, 2);
        let site_now = Timestamp::from_unix_ms(START_MS).plus_seconds(-behind);
        beat["timestamp"] = json!(site_now);
        centre.call(&agent.credential, "POST", "/api/v1/agents/heartbeat", Some(beat)).await;
        order(&centre, 1, Lifecycle::Pending).await;
        order(&centre, 1, Lifecycle::Installing).await;
        centre.pass_seconds(100);
        // What the site saw in between is not the controller's side.
        let seen = event(2, 1, NodeEventKind::BootStarted);
        let wish = at(wish(3, 1, Lifecycle::Retired, 2), wished_at, clock);
        let receipt = hand_over(&centre, &agent, 2, &[seen, after(2, wish)]).await;
        let outcome = receipt.results[1].outcome.as_str();
        assert_eq!(outcome, expected, "{behind} {wished_at} {clock}");
    }
}

#[tokio::test]
async fn no_strategy_makes_a_move_that_the_lifecycle_does_not_have() {
    for strategy in ["site_wins", "last_write"] {
        let centre = Centre::start().await;
        let agent = site_with(&centre, strategy).await;
        order(&centre, 1, Lifecycle::Pending).await;
        centre.pass_seconds(100);
        let wish = at(wish(2, 1, Lifecycle::Active, 1), 90, "synced");
        let receipt = hand_over(&centre, &agent, 2, &[wish]).await;
        assert_eq!(outcomes(&receipt), "conflict through 2");
        let conflict = only(&centre, &agent).await;
        assert_eq!(conflict["outcome"], Value::Null, "a person decides");
        let cause = conflict["cause"].as_str().expect("a cause");
        assert!(cause.contains("version 1") && cause.contains("[installing, retired]"), "{cause}");
        let refused = resolve(&centre, &conflict, json!({"resolution": "keep_local"})).await;
        assert_eq!(refused.problem(), (400, "invalid_transition".to_owned()));
        assert!(refused.detail().contains("Valid transitions: [installing, retired]"));
        assert_eq!(brief(&node(&centre, 1).await), "pending 2");
    }
}

#[tokio::test]
async fn later_wishes_on_top_of_one_that_waits_join_it_and_observations_apply() {
    let centre = Centre::start().await;
    let agent = site_with(&centre, "manual").await;
    order(&centre, 1, Lifecycle::Pending).await;
    order(&centre, 1, Lifecycle::Installing).await;
    let items = [
        wish(2, 1, Lifecycle::Retired, 2),
        after(2, event(3, 1, NodeEventKind::InstallComplete)),
        // By its version alone it would fit: the event has just made version 4.
        after(3, wish(4, 1, Lifecycle::Active, 4)),
    ];
    let receipt = hand_over(&centre, &agent, 2, &items).await;
    assert_eq!(outcomes(&receipt), "conflict applied conflict through 4");
    assert!(receipt.results.iter().all(|result| result.conflict_id.is_some()));
    assert_eq!(brief(&node(&centre, 1).await), "installed 4");
    let later = hand_over(&centre, &agent, 5, &[after(4, wish(5, 1, Lifecycle::Retired, 4))]).await;
    assert_eq!(outcomes(&later), "conflict through 5", "the chain goes on in another batch");
    let conflict = only(&centre, &agent).await;
    assert_eq!(
        (&conflict["site"]["state"], &conflict["site"]["changes"]),
        (&json!("retired"), &json!(3))
    );
    assert_eq!(conflict["central"]["state"], "installing");
    // What the site decides once it knows the controller's side is no part of it.
    let fresh = hand_over(&centre, &agent, 6, &[wish(6, 1, Lifecycle::Active, 4)]).await;
    assert_eq!(outcomes(&fresh), "applied through 6");
}

#[tokio::test]
async fn wishes_on_top_of_one_that_won_go_on_and_on_top_of_one_that_lost_do_not() {
    for (strategy, expected, state) in [
        ("site_wins", "applied applied applied through 4", "installing 5"),
        ("central_wins", "conflict applied conflict through 4", "discovered 3"),
    ] {
        let centre = Centre::start().await;
        let agent = site_with(&centre, strategy).await;
        centre.patch(&format!("/api/v1/nodes/{}", node_id(1)), json!({"tags": ["x"]})).await.data();
        let items = [
            wish(2, 1, Lifecycle::Pending, 1),
            after(2, event(3, 1, NodeEventKind::BootStarted)),
            // By its version alone the last one would fit at the controller whose side stands.
            after(3, wish(4, 1, Lifecycle::Installing, 3)),
        ];
        let receipt = hand_over(&centre, &agent, 2, &items).await;
        assert_eq!(outcomes(&receipt), expected);
        assert_eq!(brief(&node(&centre, 1).await), state);
        assert_eq!(only(&centre, &agent).await["outcome"]["by"], strategy);
    }
}

#[tokio::test]
async fn equal_results_are_no_conflict() {
    let centre = Centre::start().await;
    let agent = site_with(&centre, "manual").await;
    order(&centre, 1, Lifecycle::Pending).await;
    let receipt = hand_over(&centre, &agent, 2, &[wish(2, 1, Lifecycle::Pending, 1)]).await;
    assert_eq!(outcomes(&receipt), "applied through 2");
    assert!(conflicts(&centre, &agent, "all").await.is_empty());
}

#[tokio::test]
async fn k16_a_decision_that_is_cut_short_has_left_nothing_and_is_made_once() {
    let centre = Centre::start().await;
    let agent = site_with(&centre, "manual").await;
    dispute(&centre, &agent).await;
    let conflict = only(&centre, &agent).await;
    let keep = json!({"resolution": "keep_local"});
    let before = centre.app.store.traces().await;
    for (verb, table) in [("UPDATE", "nodes"), ("INSERT", "state_log"), ("UPDATE", "conflicts")] {
        centre.app.store.sabotage(verb, table, None).await;
        let answer = resolve(&centre, &conflict, keep.clone()).await;
        assert_eq!(answer.problem(), (500, "internal_error".to_owned()), "{verb} {table}");
        assert_eq!(centre.app.store.traces().await, before, "{verb} {table}");
        centre.app.store.mend(table).await;
    }
    resolve(&centre, &conflict, keep.clone()).await.data();
    let after = centre.app.store.traces().await;
    assert_ne!(after, before);
    resolve(&centre, &conflict, keep).await.data();
    assert_eq!(centre.app.store.traces().await, after);
}

#[tokio::test]
async fn an_operator_keeps_the_sites_side_once_and_the_site_reads_it() {
    let centre = Centre::start().await;
    let agent = site_with(&centre, "manual").await;
    dispute(&centre, &agent).await;
    let conflict = only(&centre, &agent).await;
    assert_eq!(record(&centre, &agent).await["conflict_id"], conflict["id"]);
    let keep = json!({"resolution": "keep_local", "comment": "it is gone"});
    let first = resolve(&centre, &conflict, keep.clone()).await;
    let outcome = &first.data()["outcome"];
    assert_eq!(outcome["resolution"], "keep_local");
    assert_eq!((&outcome["by"], &outcome["name"]), (&json!("operator"), &json!("operator-token")));
    assert_eq!(outcome["node_version"], 4);
    assert_eq!(brief(&node(&centre, 1).await), "retired 4");
    let told = record(&centre, &agent).await;
    assert_eq!((&told["version"], &told["conflict_id"]), (&json!(4), &Value::Null));
    centre.pass_seconds(60);
    let again = resolve(&centre, &conflict, keep).await;
    assert_eq!(again.body, first.body, "the same decision has the same answer");
    assert_eq!(brief(&node(&centre, 1).await), "retired 4");
    let other = resolve(&centre, &conflict, json!({"resolution": "keep_central"})).await;
    assert_eq!(other.problem(), (409, "conflict_resolved".to_owned()));
    let history = centre.get(&format!("/api/v1/nodes/{}/history", node_id(1))).await;
    let entry = &history.data()[0];
    assert_eq!(
        (&entry["triggered_by"], &entry["comment"]),
        (&json!("conflict"), &json!("it is gone"))
    );
    let audit = centre.get("/api/v1/audit").await;
    let told = |row: &&Value| row["detail"]["conflict_id"] == conflict["id"];
    let row =
        audit.data().as_array().expect("rows").iter().rfind(told).expect("an audited decision");
    assert_eq!(row["detail"]["resolution"], "keep_local");
    let beat = heartbeat(agent.site, 1);
    let path = "/api/v1/agents/heartbeat";
    let answer = centre.call(&agent.credential, "POST", path, Some(beat)).await;
    let params = json!({"conflict_id": conflict["id"], "mac": "02:00:00:00:00:01", "resolution": "keep_local"});
    let commands = answer.body["commands"].as_array().expect("commands");
    assert_eq!(commands.len(), 1, "{commands:?}");
    assert_eq!(
        (&commands[0]["command"], &commands[0]["params"]),
        (&json!("resolve_conflict"), &params)
    );
    let body = json!({"command": "resolve_conflict", "params": params});
    let by_hand = centre.post(&format!("/api/v1/sites/{}/commands", agent.site), body).await;
    assert_eq!(by_hand.problem(), (422, "validation_failed".to_owned()));
    // What the site had done on top of its own side goes on from there.
    let next = after(2, event(3, 1, NodeEventKind::BootStarted));
    assert_eq!(outcomes(&hand_over(&centre, &agent, 3, &[next]).await), "applied through 3");
}

#[tokio::test]
async fn keeping_the_controllers_side_raises_the_version_so_that_the_site_asks() {
    let centre = Centre::start().await;
    let agent = site_with(&centre, "manual").await;
    dispute(&centre, &agent).await;
    let conflict = only(&centre, &agent).await;
    let path = format!(
        "/api/v1/sites/{}/conflicts/{}/resolve",
        agent.site,
        conflict["id"].as_str().expect("an id")
    );
    let answer = centre.post(&path, json!({"resolution": "keep_central"})).await;
    assert_eq!(answer.data()["outcome"]["node_version"], 4);
    assert_eq!(brief(&node(&centre, 1).await), "installing 4");
    // The site's later wishes were made on top of one that has not come true.
    let late = after(2, wish(3, 1, Lifecycle::Installed, 4));
    assert_eq!(outcomes(&hand_over(&centre, &agent, 3, &[late]).await), "conflict through 3");
    assert_eq!(only(&centre, &agent).await["outcome"]["resolution"], "keep_central");
    assert!(conflicts(&centre, &agent, "open").await.is_empty());
}

#[tokio::test]
async fn a_merge_takes_field_by_field_and_refuses_what_cannot_be() {
    let centre = Centre::start().await;
    let agent = site_with(&centre, "manual").await;
    dispute(&centre, &agent).await;
    let conflict = only(&centre, &agent).await;
    for (body, expected) in [
        (json!({"resolution": "merge"}), (422, "validation_failed")),
        (json!({"resolution": "merge", "fields": {}}), (422, "validation_failed")),
        (json!({"resolution": "merge", "fields": {"hostname": "a b"}}), (422, "validation_failed")),
        (
            json!({"resolution": "keep_local", "fields": {"state": "active"}}),
            (422, "validation_failed"),
        ),
        (json!({"resolution": "undo"}), (422, "validation_failed")),
        (
            json!({"resolution": "merge", "fields": {"state": "active"}}),
            (400, "invalid_transition"),
        ),
        (
            json!({"resolution": "merge", "fields": {"workflow_id": "00000000-0000-4000-8000-000000000000"}}),
            (422, "validation_failed"),
        ),
    ] {
        let (status, code) = resolve(&centre, &conflict, body.clone()).await.problem();
        assert_eq!((status, code.as_str()), expected, "{body}");
    }
    assert_eq!(brief(&node(&centre, 1).await), "installing 3");
    let merge =
        json!({"resolution": "merge", "fields": {"state": "installed", "hostname": "web-1"}});
    let merged = resolve(&centre, &conflict, merge.clone()).await;
    assert_eq!(merged.data()["outcome"]["fields"], merge["fields"]);
    assert_eq!(brief(&node(&centre, 1).await), "installed 4");
    assert_eq!(node(&centre, 1).await["hostname"], "web-1");
    assert_eq!(resolve(&centre, &conflict, merge).await.body, merged.body);
    let other = json!({"resolution": "merge", "fields": {"state": "installed"}});
    assert_eq!(resolve(&centre, &conflict, other).await.problem().0, 409);
}

#[tokio::test]
async fn i5_a_decision_over_a_node_that_has_changed_since_names_the_version_that_it_is_made_on() {
    let centre = Centre::start().await;
    let agent = site_with(&centre, "manual").await;
    dispute(&centre, &agent).await;
    let conflict = only(&centre, &agent).await;
    let keep = json!({"resolution": "keep_local"});
    centre.patch(&format!("/api/v1/nodes/{}", node_id(1)), json!({"tags": ["x"]})).await.data();
    let moved = resolve(&centre, &conflict, keep.clone()).await;
    assert_eq!(moved.problem(), (409, "node_moved".to_owned()));
    assert!(moved.detail().contains("version 4"), "{}", moved.detail());
    let stale = json!({"resolution": "keep_local", "node_version": 3});
    let stale = resolve(&centre, &conflict, stale).await;
    assert_eq!(stale.problem(), (412, "stale_version".to_owned()));
    assert_eq!(stale.detail(), "you know version 3, the current version is 4; read it again");
    let id = conflict["id"].as_str().expect("an id");
    let path = format!("/api/v1/sync/conflicts/{id}/resolve");
    let with = |tag| {
        with_fields(
            request(Some(&centre.operator), "POST", &path, Some(keep.clone())),
            &[("if-match", tag)],
        )
    };
    assert_eq!(centre.send(with("\"3\"")).await.problem().0, 412);
    centre.send(with("\"4\"")).await.data();
    assert_eq!(brief(&node(&centre, 1).await), "retired 5");
}

#[tokio::test]
async fn i8_a_node_of_another_site_is_never_taken_but_by_a_person() {
    let centre = Centre::start().await;
    let (berlin, oslo) = (centre.join("berlin").await, centre.join("oslo").await);
    hand_over(&centre, &berlin, 1, &[seen(1, 1, 1)]).await;
    set_strategy(&centre, &oslo, "site_wins").await;
    let before = node(&centre, 1).await;
    let items =
        [seen(1, 2, 1), event(2, 1, NodeEventKind::BootStarted), wish(3, 1, Lifecycle::Pending, 1)];
    let receipt = hand_over(&centre, &oslo, 1, &items).await;
    assert_eq!(outcomes(&receipt), "conflict conflict conflict through 3");
    assert_eq!(node(&centre, 1).await, before);
    let conflict = only(&centre, &oslo).await;
    assert_eq!(
        (&conflict["type"], &conflict["site"]["changes"]),
        (&json!("site_mismatch"), &json!(3))
    );
    assert_eq!(conflict["central"]["changed_at"], Value::Null, "only sites have changed it");
    assert!(conflicts(&centre, &berlin, "all").await.is_empty());
    let elsewhere = format!(
        "/api/v1/sites/{}/conflicts/{}/resolve",
        berlin.site,
        conflict["id"].as_str().expect("an id")
    );
    let answer = centre.post(&elsewhere, json!({"resolution": "keep_local"})).await;
    assert_eq!(answer.problem(), (404, "not_found".to_owned()));
    resolve(&centre, &conflict, json!({"resolution": "keep_local"})).await.data();
    let after = node(&centre, 1).await;
    assert_eq!(
        (&after["home_site_id"], brief(&after)),
        (&json!(oslo.site), "pending 2".to_owned())
    );
    // Keeping the controller's side of such a conflict does not touch the node.
    let receipt = hand_over(&centre, &berlin, 2, &[event(2, 1, NodeEventKind::BootStarted)]).await;
    assert_eq!(outcomes(&receipt), "conflict through 2");
    let conflict = only(&centre, &berlin).await;
    resolve(&centre, &conflict, json!({"resolution": "keep_central"})).await.data();
    assert_eq!(node(&centre, 1).await, after);
}

#[tokio::test]
async fn what_one_side_does_not_have_is_named() {
    let centre = Centre::start().await;
    let agent = site_with(&centre, "manual").await;
    let mut blind = wish(2, 1, Lifecycle::Pending, 0);
    order(&centre, 1, Lifecycle::Retired).await;
    let items = [blind.clone(), wish(3, 5, Lifecycle::Pending, 4)];
    let receipt = hand_over(&centre, &agent, 2, &items).await;
    assert_eq!(outcomes(&receipt), "conflict conflict through 3");
    let kinds = |all: &[Value]| {
        let mut kinds: Vec<_> =
            all.iter().map(|row| row["type"].as_str().expect("a type").to_owned()).collect();
        kinds.sort();
        kinds.join(" ")
    };
    let all = conflicts(&centre, &agent, "open").await;
    assert_eq!(kinds(&all), "missing_central missing_central");
    let unknown = all.iter().find(|row| row["node_id"] == json!(node_id(5))).expect("listed");
    assert_eq!(unknown["central"], Value::Null);
    let keep = json!({"resolution": "keep_local"});
    let missing = resolve(&centre, unknown, keep.clone()).await;
    assert_eq!(missing.problem(), (409, "node_missing".to_owned()));
    hand_over(&centre, &agent, 4, &[seen(4, 5, 5)]).await;
    resolve(&centre, unknown, keep).await.data();
    assert_eq!(brief(&node(&centre, 5).await), "pending 2");
    centre.make_node("02:00:00:00:00:06", Some(agent.site)).await;
    hand_over(&centre, &agent, 5, &[seen(5, 6, 6)]).await;
    (blind["seq"], blind["id"], blind["node"]) =
        (json!(6), json!("06".repeat(16)), json!(node_id(6)));
    hand_over(&centre, &agent, 6, &[blind]).await;
    let all = conflicts(&centre, &agent, "open").await;
    assert_eq!(kinds(&all), "missing_central missing_local");
}

#[tokio::test]
async fn all_conflicts_of_a_site_end_at_once_but_those_that_cannot() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    set_strategy(&centre, &agent, "manual").await;
    hand_over(&centre, &agent, 1, &[seen(1, 1, 1), seen(2, 2, 2), seen(3, 3, 3)]).await;
    for number in 1..=3 {
        order(&centre, number, Lifecycle::Pending).await;
    }
    let items = [
        wish(4, 1, Lifecycle::Retired, 1),
        wish(5, 2, Lifecycle::Active, 1),
        wish(6, 3, Lifecycle::Retired, 1),
    ];
    hand_over(&centre, &agent, 4, &items).await;
    centre.patch(&format!("/api/v1/nodes/{}", node_id(3)), json!({"tags": ["x"]})).await.data();
    let path = format!("/api/v1/sites/{}/conflicts/resolve-all", agent.site);
    let merge = centre.post(&path, json!({"resolution": "merge"})).await;
    assert_eq!(merge.problem(), (422, "validation_failed".to_owned()));
    let all = centre.post(&path, json!({"resolution": "keep_local"})).await;
    let counts = ["resolved", "failed", "remaining"].map(|field| all.data()[field].clone());
    assert_eq!(counts, [json!(1), json!(2), json!(2)]);
    let errors = all.data()["errors"].to_string();
    assert!(errors.contains("Valid transitions") && errors.contains("has version 3"), "{errors}");
    assert_eq!(node(&centre, 1).await["state"], "retired");
    assert_eq!(node(&centre, 2).await["state"], "pending");
    let all = centre.post(&path, json!({"resolution": "keep_central"})).await;
    assert_eq!((&all.data()["resolved"], &all.data()["remaining"]), (&json!(2), &json!(0)));
    assert_eq!(
        centre.post(&path, json!({"resolution": "keep_central"})).await.data()["resolved"],
        0
    );
}

#[tokio::test]
async fn conflicts_are_listed_for_one_site_and_for_all_and_read_one_by_one() {
    let centre = Centre::start().await;
    let (berlin, oslo) = (centre.join("berlin").await, centre.join("oslo").await);
    set_strategy(&centre, &berlin, "manual").await;
    let active = |seq, node| wish(seq, node, Lifecycle::Active, 1);
    let items = [seen(1, 1, 1), seen(2, 3, 3), active(3, 1), active(4, 3), active(5, 1)];
    hand_over(&centre, &berlin, 1, &items).await;
    // Both sites count from 1, so that in this test their changes have the same ids.
    hand_over(&centre, &oslo, 1, &[seen(1, 2, 2), seen(2, 4, 4), wish(3, 2, Lifecycle::Active, 7)])
        .await;
    assert_eq!(conflicts(&centre, &berlin, "open").await.len(), 2, "one of each node");
    assert_eq!(conflicts(&centre, &oslo, "open").await.len(), 0);
    assert_eq!(rows(&centre, "/api/v1/sync/conflicts").await.len(), 2);
    assert_eq!(rows(&centre, "/api/v1/sync/conflicts?status=resolved").await.len(), 1);
    let all = rows(&centre, "/api/v1/sync/conflicts?status=all").await;
    assert_eq!(all.len(), 3);
    for row in all {
        let path = format!("/api/v1/sync/conflicts/{}", row["id"].as_str().expect("an id"));
        assert_eq!(centre.get(&path).await.data(), &row);
    }
    for path in
        ["/api/v1/sync/conflicts/x", "/api/v1/sync/conflicts/00000000-0000-4000-8000-000000000000"]
    {
        assert_eq!(centre.get(path).await.problem(), (404, "not_found".to_owned()));
    }
    let answer = centre.get("/api/v1/sync/conflicts?status=lost").await;
    assert_eq!(answer.problem(), (422, "validation_failed".to_owned()));
}
