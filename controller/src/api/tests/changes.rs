//! Changes that sites hand over: exactly once, in order, nothing lost and nothing taken from another site.

use proptest::prelude::*;
use pureboot_protocol::{
    Autonomy, BootRequest, Change, ChangeId, ChangePayload, ChangeReceipt, ClockQuality, Epoch,
    HardwareFact, Lifecycle, Mac, NodeEvent, NodeEventKind, NodeId, Outcome, RegisterNode,
    Timestamp,
};
use serde_json::{Value, json};

use super::{Answer, Centre, Joined, START_MS};

const PATH: &str = "/api/v1/agents/changes";

pub(super) fn node_id(number: u8) -> NodeId {
    NodeId::from_random([number; 16])
}

fn mac(number: u8) -> Mac {
    Mac::from_bytes([2, 0, 0, 0, 0, number]).expect("a unicast address")
}

fn change(seq: u64, node: u8, base_version: Option<u64>, payload: ChangePayload) -> Value {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&seq.to_be_bytes());
    let change = Change {
        seq,
        id: ChangeId::from_bytes(id),
        node: node_id(node),
        base_version,
        prev_seq_same_node: None,
        at: Timestamp::from_unix_ms(START_MS - 60_000),
        clock: ClockQuality::Synced,
        session: None,
        payload,
    };
    serde_json::to_value(change).expect("a change can be written")
}

pub(super) fn seen(seq: u64, node: u8, mac_number: u8) -> Value {
    let mut request = BootRequest::new(mac(mac_number));
    request.vendor = HardwareFact::new("QEMU");
    let seen = RegisterNode { request, ip_address: Some("192.0.2.7".to_owned()) };
    change(seq, node, None, ChangePayload::Registration(seen))
}

pub(super) fn event(seq: u64, node: u8, kind: NodeEventKind) -> Value {
    change(seq, node, None, ChangePayload::Event(NodeEvent::new(kind)))
}

pub(super) fn wish(seq: u64, node: u8, state: Lifecycle, base_version: u64) -> Value {
    let payload = ChangePayload::StateChange { state, autonomy: Autonomy::Full };
    change(seq, node, Some(base_version), payload)
}

pub(super) fn batch(epoch: u8, first_seq: u64, items: &[Value]) -> Value {
    json!({
        "nonce": ChangeId::from_bytes([0xee; 16]), "epoch": Epoch::from_bytes([epoch; 16]),
        "first_seq": first_seq, "items": items,
    })
}

pub(super) async fn post(centre: &Centre, agent: &Joined, body: Value) -> Answer {
    centre.call(&agent.credential, "POST", PATH, Some(body)).await
}

/// Hands over `items` in epoch 1.
pub(super) async fn hand_over(
    centre: &Centre,
    agent: &Joined,
    first_seq: u64,
    items: &[Value],
) -> ChangeReceipt {
    let answer = post(centre, agent, batch(1, first_seq, items)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let receipt: ChangeReceipt = serde_json::from_value(answer.body).expect("a receipt");
    assert_eq!(receipt.nonce, ChangeId::from_bytes([0xee; 16]));
    receipt
}

pub(super) fn outcomes(receipt: &ChangeReceipt) -> String {
    let outcomes: Vec<_> = receipt.results.iter().map(|result| result.outcome.as_str()).collect();
    format!("{} through {}", outcomes.join(" "), receipt.acked_through)
}

pub(super) async fn node(centre: &Centre, number: u8) -> Value {
    centre.get(&format!("/api/v1/nodes/{}", node_id(number))).await.data().clone()
}

pub(super) async fn order(centre: &Centre, number: u8, state: Lifecycle) {
    let path = format!("/api/v1/nodes/{}/state", node_id(number));
    centre.patch(&path, json!({"state": state})).await.data();
}

#[tokio::test]
async fn a_machine_that_a_site_has_seen_appears_with_the_sites_id_for_it() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let items = [seen(1, 1, 1), event(2, 1, NodeEventKind::BootStarted)];
    assert_eq!(outcomes(&hand_over(&centre, &agent, 1, &items).await), "applied applied through 2");
    let node = node(&centre, 1).await;
    for (field, value) in [
        ("mac_address", json!(mac(1))),
        ("state", json!("discovered")),
        ("home_site_id", json!(agent.site)),
        ("vendor", json!("QEMU")),
        ("ip_address", json!("192.0.2.7")),
        ("boot_count", json!(1)),
        ("last_boot_at", json!("2026-11-20T23:59:00.000Z")),
        ("version", json!(2)),
    ] {
        assert_eq!(node[field], value, "{field}");
    }
    let events = centre.get(&format!("/api/v1/nodes/{}/events", node_id(1))).await;
    assert_eq!(events.data()[0]["event_type"], "boot_started");
    assert_eq!(events.data()[0]["at"], "2026-11-20T23:59:00.000Z");
}

#[tokio::test]
async fn an_installation_is_followed_by_its_events_and_each_change_counts_one_version() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    hand_over(&centre, &agent, 1, &[seen(1, 1, 1)]).await;
    order(&centre, 1, Lifecycle::Pending).await;
    use NodeEventKind::*;
    let kinds =
        [BootStarted, InstallStarted, InstallProgress, InstallFailed, InstallComplete, FirstBoot];
    for ((kind, seq), expected) in kinds.into_iter().zip(2..).zip([
        "pending 0",
        "installing 0",
        "installing 0",
        "installing 1",
        "installed 1",
        "active 1",
    ]) {
        let receipt = hand_over(&centre, &agent, seq, &[event(seq, 1, kind)]).await;
        assert_eq!(receipt.results[0].node_version, Some(seq + 1));
        let node = node(&centre, 1).await;
        let state = node["state"].as_str().expect("a state");
        assert_eq!(format!("{state} {}", node["install_attempts"]), expected, "{kind}");
    }
    let history = centre.get(&format!("/api/v1/nodes/{}/history", node_id(1))).await;
    assert_eq!(
        (&history.body["total"], &history.data()[0]["triggered_by"]),
        (&json!(4), &json!("site"))
    );
}

#[tokio::test]
async fn an_event_that_does_not_fit_is_kept_and_moves_nothing() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let items = [seen(1, 1, 1), event(2, 1, NodeEventKind::InstallComplete)];
    assert_eq!(outcomes(&hand_over(&centre, &agent, 1, &items).await), "applied applied through 2");
    assert_eq!(node(&centre, 1).await["state"], "discovered");
    let events = centre.get(&format!("/api/v1/nodes/{}/events", node_id(1))).await;
    assert_eq!(events.body["total"], 1);
}

#[tokio::test]
async fn the_third_failure_ends_the_attempts() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    hand_over(&centre, &agent, 1, &[seen(1, 1, 1)]).await;
    order(&centre, 1, Lifecycle::Pending).await;
    order(&centre, 1, Lifecycle::Installing).await;
    let items: Vec<_> = (2..=4).map(|seq| event(seq, 1, NodeEventKind::InstallFailed)).collect();
    hand_over(&centre, &agent, 2, &items).await;
    let node = node(&centre, 1).await;
    assert_eq!((&node["state"], &node["install_attempts"]), (&json!("install_failed"), &json!(3)));
    let again = hand_over(&centre, &agent, 5, &[wish(5, 1, Lifecycle::Pending, 6)]).await;
    assert_eq!(again.results[0].outcome, Outcome::Conflict, "only an operator may insist");
}

#[tokio::test]
async fn k4_n4_a_batch_that_comes_again_has_no_second_effect() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let items = [seen(1, 1, 1), event(2, 1, NodeEventKind::BootStarted), json!({"seq": 3})];
    let first = hand_over(&centre, &agent, 1, &items).await;
    assert_eq!(outcomes(&first), "applied applied parked through 3");
    let traces = centre.app.store.traces().await;
    let again = hand_over(&centre, &agent, 1, &items).await;
    assert_eq!(outcomes(&again), "duplicate duplicate parked through 3");
    assert_eq!(again.results[1].node_version, Some(2));
    assert_eq!(again.results[2], first.results[2]);
    assert_eq!(centre.app.store.traces().await, traces);
}

#[tokio::test]
async fn d9_a_change_that_comes_again_in_a_new_epoch_is_the_same_change() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let items = [seen(1, 1, 1), event(2, 1, NodeEventKind::BootStarted)];
    hand_over(&centre, &agent, 1, &items).await;
    let mut again = items[1].clone();
    again["seq"] = json!(1);
    let mut new = event(3, 1, NodeEventKind::Heartbeat);
    new["seq"] = json!(2);
    let answer = post(&centre, &agent, batch(2, 1, &[again, new])).await;
    let receipt: ChangeReceipt = serde_json::from_value(answer.body).expect("a receipt");
    assert_eq!(outcomes(&receipt), "duplicate applied through 2");
    assert_eq!(node(&centre, 1).await["boot_count"], 1);
}

#[tokio::test]
async fn i3_nothing_behind_a_gap_is_taken() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let items = [
        seen(1, 1, 1),
        event(2, 1, NodeEventKind::BootStarted),
        event(4, 1, NodeEventKind::Heartbeat),
    ];
    let early = hand_over(&centre, &agent, 2, &items[1..]).await;
    assert_eq!(outcomes(&early), " through 0");
    assert_eq!(centre.get("/api/v1/nodes").await.body["total"], 0);
    let inner = hand_over(&centre, &agent, 1, &items).await;
    assert_eq!(outcomes(&inner), "applied applied through 2");
    let far = hand_over(&centre, &agent, u64::MAX, &items).await;
    assert_eq!(outcomes(&far), " through 2");
    assert_eq!(outcomes(&hand_over(&centre, &agent, 3, &[]).await), " through 2");
}

#[tokio::test]
async fn d10_another_change_in_a_place_that_is_taken_is_a_fork_and_has_no_effect() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    hand_over(&centre, &agent, 1, &[seen(1, 1, 1)]).await;
    let traces = centre.app.store.traces().await;
    let mut other = event(1, 1, NodeEventKind::BootStarted);
    other["id"] = json!("ab".repeat(16));
    let answer =
        post(&centre, &agent, batch(1, 1, &[other, event(2, 1, NodeEventKind::BootStarted)])).await;
    assert_eq!(answer.problem(), (409, "outbox_forked".to_owned()));
    assert_eq!(centre.app.store.traces().await, traces);
}

/// Hands over `items` in a new epoch, from its first place on.
async fn hand_over_anew(centre: &Centre, agent: &Joined, items: &[&Value]) -> ChangeReceipt {
    let mut placed: Vec<Value> = items.iter().copied().cloned().collect();
    placed.iter_mut().zip(1..).for_each(|(item, seq)| item["seq"] = json!(seq));
    let answer = post(centre, agent, batch(2, 1, &placed)).await;
    serde_json::from_value(answer.body).expect("a receipt")
}

#[tokio::test]
async fn d10_a_wish_in_a_new_epoch_meets_only_what_its_site_has_forgotten() {
    let first = [seen(1, 1, 1), event(2, 1, NodeEventKind::BootStarted)];
    let wish = wish(3, 1, Lifecycle::Pending, 1);
    for (kept, expected) in [
        // The site made the wish before it heard that its own change had taken effect.
        (vec![&first[1], &wish], "duplicate applied through 2"),
        (vec![&first[0], &first[1], &wish], "duplicate duplicate applied through 3"),
        // Its disk has come back from before the change.
        (vec![&first[0], &wish], "duplicate conflict through 2"),
        (vec![&wish], "conflict through 1"),
    ] {
        let centre = Centre::start().await;
        let agent = centre.join("berlin").await;
        hand_over(&centre, &agent, 1, &first).await;
        let receipt = hand_over_anew(&centre, &agent, &kept).await;
        assert_eq!(outcomes(&receipt), expected);
    }
}

#[tokio::test]
async fn c10_u7_a_poison_item_is_parked_with_its_reason_and_others_go_on() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let mut unknown = event(3, 1, NodeEventKind::BootStarted);
    unknown["kind"] = json!("teleport");
    let mut broken = seen(4, 2, 2);
    broken["payload"]["request"]["mac"] = json!("ff:ff:ff:ff:ff:ff");
    let items = [
        seen(1, 1, 1),
        json!("nonsense"),
        unknown,
        broken,
        event(5, 9, NodeEventKind::BootStarted),
        event(6, 1, NodeEventKind::BootStarted),
    ];
    let receipt = hand_over(&centre, &agent, 1, &items).await;
    assert_eq!(outcomes(&receipt), "applied parked parked parked parked applied through 6");
    for (at, words) in
        [(1, "not understood"), (2, "teleport"), (3, "multicast"), (4, "there is no node")]
    {
        let reason = receipt.results[at].reason.as_deref().expect("a reason");
        assert!(reason.contains(words), "{reason}");
    }
    let traces = centre.app.store.traces().await.join("\n");
    assert!(
        traces.contains("nonsense") && traces.contains("teleport"),
        "the items are kept: {traces}"
    );
    assert_eq!(node(&centre, 1).await["boot_count"], 1);
}

#[tokio::test]
async fn i8_a_site_cannot_touch_the_nodes_of_another() {
    let centre = Centre::start().await;
    let (berlin, oslo) = (centre.join("berlin").await, centre.join("oslo").await);
    hand_over(&centre, &berlin, 1, &[seen(1, 1, 1)]).await;
    let before = node(&centre, 1).await;
    let items = [
        seen(1, 2, 1),
        seen(2, 1, 2),
        seen(3, 1, 1),
        event(4, 1, NodeEventKind::BootStarted),
        wish(5, 1, Lifecycle::Retired, 1),
        event(6, 2, NodeEventKind::BootStarted),
    ];
    let receipt = hand_over(&centre, &oslo, 1, &items).await;
    assert_eq!(outcomes(&receipt), "conflict parked conflict conflict conflict parked through 6");
    assert_eq!(node(&centre, 1).await, before);
    assert_eq!(centre.get("/api/v1/nodes").await.body["total"], 1);
}

#[tokio::test]
async fn an_id_that_a_site_made_reaches_the_node_that_the_controller_knew_already() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let known = centre.make_node("02:00:00:00:00:01", Some(agent.site)).await;
    let items = [seen(1, 1, 1), event(2, 1, NodeEventKind::BootStarted)];
    let receipt = hand_over(&centre, &agent, 1, &items).await;
    assert_eq!(outcomes(&receipt), "applied applied through 2");
    let path = format!("/api/v1/nodes/{}", known["id"].as_str().expect("an id"));
    let node = centre.get(&path).await.data().clone();
    assert_eq!(
        (&node["boot_count"], &node["vendor"], &node["version"]),
        (&json!(1), &json!("QEMU"), &json!(3))
    );
    assert_eq!(centre.get("/api/v1/nodes").await.body["total"], 1);
    // Neither may the alias be used to rename another machine.
    let receipt = hand_over(&centre, &agent, 3, &[seen(3, 1, 3)]).await;
    assert_eq!(receipt.results[0].outcome, Outcome::Parked);
}

#[tokio::test]
async fn i5_a_wish_applies_on_its_base_and_is_a_conflict_with_both_sides_otherwise() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    hand_over(&centre, &agent, 1, &[seen(1, 1, 1)]).await;
    let agreed = hand_over(&centre, &agent, 2, &[wish(2, 1, Lifecycle::Pending, 1)]).await;
    assert_eq!(
        (agreed.results[0].outcome, agreed.results[0].node_version),
        (Outcome::Applied, Some(2))
    );
    order(&centre, 1, Lifecycle::Installing).await;
    let items = [wish(3, 1, Lifecycle::Retired, 2), wish(4, 1, Lifecycle::Active, 3)];
    let receipt = hand_over(&centre, &agent, 3, &items).await;
    assert_eq!(outcomes(&receipt), "conflict conflict through 4");
    assert_eq!(
        receipt.results[0].reason.as_deref(),
        Some("the site knew version 2, the controller has version 3")
    );
    let reason = receipt.results[1].reason.as_deref().expect("a reason");
    assert!(reason.starts_with("Invalid state transition from 'installing' to 'active'"));
    let node = node(&centre, 1).await;
    assert_eq!((&node["state"], &node["version"]), (&json!("installing"), &json!(3)));
    let traces = centre.app.store.traces().await;
    let conflicts: Vec<_> = traces.iter().filter(|trace| trace.starts_with("conflict")).collect();
    assert_eq!(conflicts.len(), 2);
    assert!(conflicts[1].contains("\"retired\",2,1,\"installing\",3"), "{conflicts:?}");
}

#[tokio::test]
async fn a_sites_own_changes_in_between_are_no_conflict_and_an_operators_are() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    hand_over(&centre, &agent, 1, &[seen(1, 1, 1)]).await;
    order(&centre, 1, Lifecycle::Pending).await;
    let offline = [
        event(2, 1, NodeEventKind::BootStarted),
        wish(3, 1, Lifecycle::Installing, 2),
        event(4, 1, NodeEventKind::InstallProgress),
        wish(5, 1, Lifecycle::Installed, 2),
    ];
    let receipt = hand_over(&centre, &agent, 2, &offline).await;
    assert_eq!(outcomes(&receipt), "applied applied applied applied through 5");
    centre.patch(&format!("/api/v1/nodes/{}", node_id(1)), json!({"tags": ["x"]})).await.data();
    let offline = [event(6, 1, NodeEventKind::BootStarted), wish(7, 1, Lifecycle::Active, 6)];
    let receipt = hand_over(&centre, &agent, 6, &offline).await;
    assert_eq!(outcomes(&receipt), "applied conflict through 7");
}

#[tokio::test]
async fn k19_a_batch_that_fails_in_its_last_item_has_left_nothing() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let before = centre.app.store.traces().await;
    centre.app.store.sabotage("INSERT", "node_events", None).await;
    let items = [seen(1, 1, 1), event(2, 1, NodeEventKind::BootStarted)];
    let answer = post(&centre, &agent, batch(1, 1, &items)).await;
    assert_eq!(answer.problem(), (500, "internal_error".to_owned()));
    assert!(!answer.detail().contains("disk"), "the cause is for the log");
    assert_eq!(centre.app.store.traces().await, before);
    centre.app.store.mend("node_events").await;
    assert_eq!(outcomes(&hand_over(&centre, &agent, 1, &items).await), "applied applied through 2");
}

#[tokio::test]
async fn a_batch_has_its_limits() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let many: Vec<_> = (1..=1_001).map(|seq| event(seq, 1, NodeEventKind::Heartbeat)).collect();
    let answer = post(&centre, &agent, batch(1, 1, &many)).await;
    assert_eq!(answer.problem(), (422, "validation_failed".to_owned()));
    let answer = post(&centre, &agent, batch(1, 0, &[])).await;
    assert_eq!(answer.body["errors"][0]["field"], "first_seq");
    let large = [json!({"seq": 1, "payload": "x".repeat(1_100_000)})];
    let answer = post(&centre, &agent, batch(1, 1, &large)).await;
    assert_eq!(answer.problem(), (413, "too_large".to_owned()));
    let receipt = hand_over(&centre, &agent, 1, &many[..1_000]).await;
    assert_eq!((receipt.results.len(), receipt.acked_through), (1_000, 1_000));
    let takes = receipt.takes.expect("it says what it takes");
    assert_eq!((takes.items_max, takes.bytes_max), (1_000, 1 << 20));
}

/// One change of one of three machines, one of which the site calls by an id of its own making.
fn any_item() -> impl Strategy<Value = (u8, u8, u64)> {
    (1..=3_u8, 0..12_u8, 1..6_u64)
}

fn item(seq: u64, (node, kind, base): (u8, u8, u64)) -> Value {
    use NodeEventKind::*;
    match kind {
        0 => seen(seq, node, node),
        1 => event(seq, node, BootStarted),
        2 => event(seq, node, InstallStarted),
        3 => event(seq, node, InstallFailed),
        4 => event(seq, node, InstallComplete),
        5 => event(seq, node, FirstBoot),
        6 => wish(seq, node, Lifecycle::Pending, base),
        7 => wish(seq, node, Lifecycle::Installing, base),
        8 => wish(seq, node, Lifecycle::Reprovision, base),
        9 => json!({"seq": seq, "kind": "teleport"}),
        10 => seen(seq, node, 4),
        _ => wish(seq, node, Lifecycle::Installed, base),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn i2_i3_however_batches_are_split_and_repeated_the_result_is_that_of_one_pass(
        changes in prop::collection::vec(any_item(), 1..30),
        sends in prop::collection::vec((0..30_usize, 1..12_usize), 0..12),
    ) {
        let items: Vec<_> = (1..).zip(changes).map(|(seq, change)| item(seq, change)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let (once, pieces) = runtime.expect("a runtime").block_on(async {
            let mut results = Vec::new();
            for sends in [&[][..], &sends] {
                let centre = Centre::start().await;
                let agent = centre.join("berlin").await;
                for (start, len) in sends {
                    let start = start % items.len();
                    let end = (start + len).min(items.len());
                    hand_over(&centre, &agent, start as u64 + 1, &items[start..end]).await;
                }
                let last = hand_over(&centre, &agent, 1, &items).await;
                assert_eq!(last.acked_through, items.len() as u64);
                assert_eq!(last.results.len(), items.len());
                let site = agent.site.to_string();
                let traces = centre.app.store.traces().await;
                results.push(traces.into_iter().map(|trace| trace.replace(&site, "berlin")).collect::<Vec<_>>());
            }
            (results.remove(0), results.remove(0))
        });
        prop_assert_eq!(once, pieces);
    }
}

#[tokio::test]
async fn n12_after_a_restore_an_outbox_goes_on_behind_what_is_lost_once_and_the_audit_says_so() {
    let centre = Centre::start().await;
    let agent = centre.join("berlin").await;
    let give = async |epoch: u8, seq: u64| {
        let items = [event(seq, 1, NodeEventKind::BootStarted)];
        let answer = post(&centre, &agent, batch(epoch, seq, &items)).await;
        answer.body["acked_through"].as_u64().expect("a number")
    };
    hand_over(&centre, &agent, 1, &[seen(1, 1, 1)]).await;
    assert_eq!(give(1, 5).await, 1, "a gap is not taken");
    centre.app.store.bring_back(centre.app.now()).await.expect("marked");
    assert_eq!(give(1, 5).await, 5);
    assert_eq!(give(1, 9).await, 5, "but for the one that the restore has made");
    assert_eq!(give(2, 40).await, 40, "an outbox that was begun since the backup");
    assert_eq!(give(2, 50).await, 40);
    let lost = centre.get("/api/v1/audit?action=changes.lost").await;
    let details: Vec<_> = (0..2).map(|at| lost.data()[at]["detail"].clone()).collect();
    assert_eq!(details, [json!({"from": 1, "through": 39}), json!({"from": 2, "through": 4})]);
    assert_eq!(lost.body["total"], 2);
}
