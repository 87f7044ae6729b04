//! How an agent's credential ends, and how it becomes another.

use pureboot_protocol::Secret;
use serde_json::{Value, json};

use super::{Centre, Joined, heartbeat, registration};
use crate::auth;

async fn announce(centre: &Centre, bearer: &Secret, next: &Secret) -> u16 {
    let body = Some(json!({"credential_hash": auth::hash(next)}));
    centre.call(bearer, "POST", "/api/v1/agents/credential", body).await.status.as_u16()
}

async fn status(centre: &Centre, bearer: &Secret) -> u16 {
    centre.call(bearer, "GET", "/api/v1/agents/nodes", None).await.status.as_u16()
}

#[tokio::test]
async fn a6_a_revoked_agent_is_refused_at_once_and_told_why_until_it_joins_anew() {
    let centre = Centre::start().await;
    let Joined { site, credential } = centre.join("berlin").await;
    let token = centre.make_token(site).await;
    let path = format!("/api/v1/agents/{site}/revoke");
    let revoked = centre.post(&path, json!({})).await;
    assert_eq!(revoked.data()["revoked_at"], "2026-11-21T00:00:00.000Z");
    assert_eq!(revoked.data()["status"], "offline");
    centre.pass_seconds(5);
    assert_eq!(centre.post(&path, json!({})).await.data(), revoked.data(), "twice is once");
    let body = Some(heartbeat(site, 1));
    let beat = centre.call(&credential, "POST", "/api/v1/agents/heartbeat", body).await;
    assert_eq!(beat.problem(), (401, "credential_revoked".to_owned()));
    assert!(beat.detail().contains("init --rejoin"), "{beat:?}");
    // Not even with the token that was out, and never again with the same secret.
    let again = centre.register(registration(site, &token, Some(&credential))).await;
    assert_eq!(again.problem(), (400, "no_registration_token".to_owned()));
    let token = centre.make_token(site).await;
    let again = centre.register(registration(site, &token, Some(&credential))).await;
    assert_eq!(again.problem(), (401, "credential_revoked".to_owned()));
    let fresh = Secret::from_random([7; 32]);
    let joined = centre.register(registration(site, &token, Some(&fresh))).await;
    assert_eq!((joined.status.as_u16(), status(&centre, &fresh).await), (200, 200));
    assert_eq!(status(&centre, &credential).await, 401);
    let standing = centre.get(&format!("/api/v1/agents/{site}/status")).await;
    assert_eq!(standing.data()["revoked_at"], Value::Null);
    let lonely = centre.make_site("oslo").await;
    let none = centre.post(&format!("/api/v1/agents/{lonely}/revoke"), json!({})).await;
    assert_eq!(none.problem(), (404, "not_found".to_owned()));
}

#[tokio::test]
async fn a18_the_old_credential_is_good_until_the_first_use_of_the_next_however_long_that_takes() {
    let centre = Centre::start().await;
    let Joined { site, credential: old } = centre.join("berlin").await;
    let (next, other) = (Secret::from_random([7; 32]), Secret::from_random([8; 32]));
    let before = centre.get(&format!("/api/v1/agents/{site}/status")).await;
    assert_eq!(announce(&centre, &old, &other).await, 200);
    assert_eq!(announce(&centre, &old, &next).await, 200, "the agent may think again");
    assert_eq!(announce(&centre, &old, &next).await, 200, "a lost answer does no harm");
    assert_eq!(status(&centre, &other).await, 401);
    centre.pass_seconds(365 * 24 * 3_600);
    assert_eq!(status(&centre, &old).await, 200);
    assert_eq!(status(&centre, &next).await, 200);
    assert_eq!((status(&centre, &old).await, status(&centre, &next).await), (401, 200));
    assert_eq!(announce(&centre, &next, &next).await, 200, "what it has already is no news");
    assert_eq!(status(&centre, &next).await, 200);
    let after = centre.get(&format!("/api/v1/agents/{site}/status")).await;
    assert_eq!(before.data()["agent_id"], after.data()["agent_id"]);
    let rows = centre.get(&format!("/api/v1/audit?target={site}&action=agent.credential")).await;
    let actions = rows.data().as_array().expect("a list").iter().map(|row| row["action"].clone());
    assert_eq!(
        actions.collect::<Vec<_>>(),
        [
            "agent.credential_rotated",
            "agent.credential_announced",
            "agent.credential_announced",
            "agent.credential_announced"
        ]
    );
}

#[tokio::test]
async fn a_next_credential_that_is_anothers_is_refused_and_a_new_registration_ends_it() {
    let centre = Centre::start().await;
    let (berlin, oslo) = (centre.join("berlin").await, centre.join("oslo").await);
    let next = Secret::from_random([7; 32]);
    assert_eq!(announce(&centre, &berlin.credential, &oslo.credential).await, 409);
    assert_eq!(announce(&centre, &oslo.credential, &next).await, 200);
    assert_eq!(announce(&centre, &berlin.credential, &next).await, 409);
    let token = centre.make_token(oslo.site).await;
    let fresh = Secret::from_random([8; 32]);
    centre.register(registration(oslo.site, &token, Some(&fresh))).await;
    assert_eq!(status(&centre, &next).await, 401);
    let path = format!("/api/v1/agents/{}/revoke", berlin.site);
    let next = Secret::from_random([9; 32]);
    assert_eq!(announce(&centre, &berlin.credential, &next).await, 200);
    centre.post(&path, json!({})).await.data();
    assert_eq!(status(&centre, &next).await, 401, "revoking ends the next one as well");
}
