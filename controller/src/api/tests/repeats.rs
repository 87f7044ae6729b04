//! `Idempotency-Key`: what was asked for twice is done once.

use serde_json::{Value, json};

use super::custody::rows;
use super::{Answer, Centre, request};

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

#[tokio::test]
async fn k19_what_was_cut_short_is_neither_done_twice_nor_said_to_be_done() {
    use crate::store::{Asked, Before};
    let centre = Centre::start().await;
    let asked = Asked { caller: "user x".to_owned(), key: "k".to_owned(), digest: "0".to_owned() };
    let begin = || centre.app.store.begin_once(&asked, centre.app.now());
    assert_eq!(begin().await.expect("begun"), Before::Nothing);
    let began = centre.app.now();
    centre.pass_seconds(3_600);
    assert_eq!(begin().await.expect("begun"), Before::Begun(began));
    centre.pass_seconds(24 * 3_600);
    assert_eq!(begin().await.expect("begun"), Before::Nothing);
}

#[tokio::test]
async fn i7_a_caller_has_a_thousand_keys() {
    use crate::store::{Asked, Before};
    let centre = Centre::start().await;
    for n in 0..1_010 {
        let asked =
            Asked { caller: "x".to_owned(), key: format!("{n:04}"), digest: "0".to_owned() };
        centre.pass_seconds(1);
        centre.app.store.begin_once(&asked, centre.app.now()).await.expect("begun");
    }
    let known = |key: &str| {
        let asked = Asked { caller: "x".to_owned(), key: key.to_owned(), digest: "1".to_owned() };
        let centre = &centre;
        async move { centre.app.store.begin_once(&asked, centre.app.now()).await.expect("begun") }
    };
    assert_eq!(known("1009").await, Before::Other);
    assert_eq!(known("0000").await, Before::Nothing);
}
