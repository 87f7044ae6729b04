//! `Idempotency-Key`: what was asked for twice is done once.

use std::sync::Arc;

use pureboot_protocol::{Mac, NodeId};
use serde_json::{Value, json};

use super::custody::rows;
use super::{Answer, Centre, request};
use crate::node;
use crate::once::{self, Attempt};
use crate::store::{Asked, Before, StoreError, UNDER_WAY_SECONDS};

async fn post(centre: &Centre, key: &str, path: &str, body: Value) -> Answer {
    let mut request = request(Some(&centre.operator), "POST", path, Some(body));
    request.headers_mut().insert("idempotency-key", key.parse().expect("a header"));
    centre.send(request).await
}

fn machine(n: u8) -> Value {
    json!({"mac_address": format!("02:00:00:00:00:{n:02x}")})
}

const NODES: &str = "/api/v1/nodes";

#[tokio::test]
async fn a_post_with_the_same_key_is_done_once_and_answered_as_before() {
    let centre = Centre::start().await;
    let made = post(&centre, "k-1", NODES, machine(1)).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.headers.get("idempotency-replayed"), None);
    let again = post(&centre, "k-1", NODES, machine(1)).await;
    assert_eq!((again.status, again.data()), (made.status, made.data()));
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(rows(&centre, NODES).await.len(), 1);
    // Another key is another request, and says what it would say without one.
    let other = post(&centre, "k-2", NODES, machine(1)).await;
    assert_eq!(other.problem(), (409, "mac_taken".to_owned()));
    let audited = rows(&centre, "/api/v1/audit?action=POST%20/nodes").await;
    let replayed = audited.iter().filter(|row| row["detail"]["replayed"] == true).count();
    assert_eq!((audited.len(), replayed), (3, 1));
}

#[tokio::test]
async fn a_key_that_came_with_another_request_is_refused() {
    let centre = Centre::start().await;
    post(&centre, "k", NODES, machine(1)).await.data();
    for (path, body) in [(NODES, machine(2)), ("/api/v1/sites", machine(1))] {
        let refused = post(&centre, "k", path, body).await;
        assert_eq!(refused.problem(), (422, "idempotency_key_reused".to_owned()));
    }
    assert_eq!(rows(&centre, NODES).await.len(), 1);
    for key in ["", "two words", &"k".repeat(256)] {
        let refused = post(&centre, key, NODES, machine(3)).await;
        assert_eq!(refused.problem(), (400, "invalid_idempotency_key".to_owned()));
    }
}

#[tokio::test]
async fn what_was_refused_is_tried_anew_under_the_same_key() {
    let centre = Centre::start().await;
    post(&centre, "a", NODES, machine(1)).await.data();
    let taken = post(&centre, "b", NODES, machine(1)).await;
    assert_eq!(taken.problem().0, 409);
    // With the same key another body may follow, because nothing has been done.
    assert_eq!(post(&centre, "b", NODES, machine(2)).await.status, 201);
}

#[tokio::test]
async fn a_key_is_the_callers_own_and_lasts_a_day() {
    let centre = Centre::start().await;
    let body = json!({"name": "deploy", "role": "operator"});
    let other = centre.make_api_token(&centre.operator, body).await;
    post(&centre, "k", NODES, machine(1)).await.data();
    let mut theirs = request(Some(&other), "POST", NODES, Some(machine(2)));
    theirs.headers_mut().insert("idempotency-key", "k".parse().expect("a header"));
    assert_eq!(centre.send(theirs).await.status, 201);
    centre.pass_seconds(24 * 3_600 + 1);
    crate::jobs::retention::look(&centre.app).await.expect("looked");
    let anew = post(&centre, "k", NODES, machine(1)).await;
    assert_eq!(anew.problem(), (409, "mac_taken".to_owned()));
}

#[tokio::test]
async fn a10_no_answer_with_a_secret_is_kept() {
    let centre = Centre::start().await;
    let site = centre.make_site("berlin").await;
    let path = format!("/api/v1/sites/{site}/agent-token");
    let made = post(&centre, "k", &path, json!({})).await;
    let secret = made.data()["token"].as_str().expect("a token").to_owned();
    let again = post(&centre, "k", &path, json!({})).await;
    assert_eq!(again.problem(), (409, "answer_not_kept".to_owned()));
    assert!(!again.detail().contains(&secret));
    let token = json!({"name": "deploy", "role": "viewer"});
    post(&centre, "t", "/api/v1/tokens", token.clone()).await.data();
    let again = post(&centre, "t", "/api/v1/tokens", token).await;
    assert_eq!(again.problem(), (409, "answer_not_kept".to_owned()));
}

#[tokio::test]
async fn i2_of_two_at_once_one_is_done() {
    let centre = Centre::start().await;
    let (one, two) =
        tokio::join!(post(&centre, "k", NODES, machine(1)), post(&centre, "k", NODES, machine(1)));
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert!(statuses == [201, 201] || statuses == [201, 409], "{statuses:?}");
    assert_eq!(rows(&centre, NODES).await.len(), 1);
}

/// An attempt of a caller `x`; another digest is another request.
fn attempt(key: &str, digest: &str) -> Arc<Attempt> {
    let (caller, key, digest) = ("x".to_owned(), key.to_owned(), digest.to_owned());
    Arc::new(Attempt::at(Asked { caller, key, digest }))
}

async fn begin(centre: &Centre, attempt: &Attempt) -> Before {
    centre.app.store.begin_once(attempt, centre.app.now()).await.expect("begun")
}

/// What a handler does in `attempt`, up to its commit; the controller ends before the answer is kept.
async fn make_node(centre: &Centre, attempt: &Arc<Attempt>, n: u8) -> Result<(), StoreError> {
    let mac = Mac::from_bytes([2, 0, 0, 0, 0, n]).expect("an address");
    let node = node::new(NodeId::from_random([n; 16]), mac, centre.app.now());
    once::within(Arc::clone(attempt), centre.app.store.create_node(&node)).await
}

#[tokio::test]
async fn k19_what_was_cut_short_before_its_effect_is_done_anew_and_after_it_never() {
    let centre = Centre::start().await;
    let (undone, done) = (attempt("undone", "0"), attempt("done", "0"));
    for attempt in [&undone, &done] {
        assert_eq!(begin(&centre, attempt).await, Before::Nothing);
        assert_eq!(begin(&centre, attempt).await, Before::UnderWay);
    }
    make_node(&centre, &done, 1).await.expect("made");
    centre.pass_seconds(UNDER_WAY_SECONDS + 1);
    assert_eq!(begin(&centre, &attempt("done", "0")).await, Before::CutShort);
    let again = attempt("undone", "0");
    assert_eq!(begin(&centre, &again).await, Before::Nothing);
    make_node(&centre, &again, 2).await.expect("made");
    centre.app.store.end_once(&again, 201, Some("{}")).await.expect("kept");
    let answered = Before::Done(201, Some("{}".to_owned()));
    assert_eq!(begin(&centre, &attempt("undone", "0")).await, answered);
    assert_eq!(rows(&centre, NODES).await.len(), 2);
    centre.pass_seconds(24 * 3_600);
    assert_eq!(begin(&centre, &attempt("done", "0")).await, Before::Nothing);
}

#[tokio::test]
async fn k19_a_refusal_takes_its_mark_along() {
    let centre = Centre::start().await;
    post(&centre, "first", NODES, machine(1)).await.data();
    let refused = attempt("k", "0");
    begin(&centre, &refused).await;
    make_node(&centre, &refused, 1).await.expect_err("the address is taken");
    centre.pass_seconds(UNDER_WAY_SECONDS + 1);
    assert_eq!(begin(&centre, &attempt("k", "0")).await, Before::Nothing);
}

#[tokio::test]
async fn k19_an_attempt_that_was_taken_over_has_no_effect_any_more() {
    let centre = Centre::start().await;
    let (stopped, next) = (attempt("k", "0"), attempt("k", "0"));
    begin(&centre, &stopped).await;
    centre.pass_seconds(UNDER_WAY_SECONDS + 1);
    assert_eq!(begin(&centre, &next).await, Before::Nothing);
    // The controller that stood still goes on.
    make_node(&centre, &stopped, 1).await.expect_err("another attempt has the key");
    centre.app.store.end_once(&stopped, 201, Some("{}")).await.expect("no error");
    centre.app.store.forget_once(&stopped).await.expect("no error");
    assert_eq!(begin(&centre, &attempt("k", "0")).await, Before::UnderWay);
    make_node(&centre, &next, 1).await.expect("made");
    assert_eq!(rows(&centre, NODES).await.len(), 1);
}

#[tokio::test]
async fn i7_a_caller_has_a_thousand_keys() {
    let centre = Centre::start().await;
    for n in 0..1_010 {
        centre.pass_seconds(1);
        begin(&centre, &attempt(&format!("{n:04}"), "0")).await;
    }
    assert_eq!(begin(&centre, &attempt("1009", "1")).await, Before::Other);
    assert_eq!(begin(&centre, &attempt("0000", "1")).await, Before::Nothing);
}
