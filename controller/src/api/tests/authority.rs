//! Who may call what, for every route of the table and every verb.

use axum::http::StatusCode;
use pureboot_protocol::{NodeId, Secret};
use serde_json::json;

use super::{Centre, heartbeat, id, request};
use crate::auth::Role;
use crate::router::table;

const VERBS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];
const NOTHING: &str = "00000000-0000-4000-8000-000000000000";

#[tokio::test]
async fn a7_a16_every_route_takes_its_own_role_and_no_other() {
    let centre = Centre::start().await;
    let (agent, other) = (centre.join("berlin").await, centre.join("oslo").await);
    let before = centre.get(&format!("/api/v1/sites/{}", other.site)).await;
    let unknown = Secret::from_random([9; 32]);
    for route in table() {
        let path = |id: &str| route.path.replace("{id}", id).replace("{site_id}", id);
        // Who must not come in tries what exists; who may is not to change it.
        let (existing, nothing) = (path(&other.site.to_string()), path(NOTHING));
        let mut verbs = 0;
        for verb in VERBS {
            let status = async |bearer: Option<&Secret>, path: &str| {
                centre.send(request(bearer, verb, path, Some(json!(0)))).await.status
            };
            let nobody = status(None, &existing).await;
            let stranger = status(Some(&unknown), &existing).await;
            let agent = status(Some(&agent.credential), &existing).await;
            let operator = status(Some(&centre.operator), &nothing).await;
            if nobody == StatusCode::METHOD_NOT_ALLOWED {
                continue;
            }
            verbs += 1;
            let is_in = |status: StatusCode| status != 401 && status != 403;
            let case = format!("{verb} {existing}: {nobody} {stranger} {operator} {agent}");
            match route.role {
                Role::Anyone => {
                    assert!([nobody, stranger, operator, agent].into_iter().all(is_in), "{case}");
                }
                Role::Operator => assert!(is_in(operator) && agent == 403, "{case}"),
                Role::Agent => assert!(is_in(agent) && operator == 403, "{case}"),
            }
            if route.role != Role::Anyone {
                assert!(nobody == 401 && stranger == 401, "{case}");
            }
        }
        assert!(verbs > 0, "{existing} takes no verb");
    }
    let after = centre.get(&format!("/api/v1/sites/{}", other.site)).await;
    assert_eq!(before.data(), after.data());
}

#[tokio::test]
async fn a_credential_is_read_as_rfc_6750_says_and_nothing_else_is_one() {
    let centre = Centre::start().await;
    let token = centre.operator.reveal();
    for (value, status) in [
        (format!("Bearer {token}"), 200),
        (format!("bearer {token}"), 200),
        (format!("Basic {token}"), 401),
        (token.to_owned(), 401),
        ("Bearer ".to_owned(), 401),
        (format!("Bearer {}", token.to_uppercase()), 401),
        (format!("Bearer {}", &token[1..]), 401),
    ] {
        let mut request = request(None, "GET", "/api/v1/sites", None);
        request.headers_mut().insert("authorization", value.parse().expect("a value"));
        let answer = centre.send(request).await;
        assert_eq!(answer.status, status, "{answer:?}");
        if status == 401 {
            answer.problem();
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
    }
}

#[tokio::test]
async fn a8_an_agent_that_speaks_for_another_site_is_refused_without_effect() {
    let centre = Centre::start().await;
    let (berlin, oslo) = (centre.join("berlin").await, centre.join("oslo").await);
    let before = centre.get(&format!("/api/v1/agents/{}/status", oslo.site)).await;
    centre.pass_seconds(10);
    let body = Some(heartbeat(oslo.site, 1));
    let answer = centre.call(&berlin.credential, "POST", "/api/v1/agents/heartbeat", body).await;
    assert_eq!(answer.problem(), (403, "foreign_site".to_owned()));
    let after = centre.get(&format!("/api/v1/agents/{}/status", oslo.site)).await;
    assert_eq!(before.data(), after.data());
}

#[tokio::test]
async fn i8_an_agent_sees_the_nodes_of_its_own_site_and_those_without_home_only() {
    let centre = Centre::start().await;
    let (berlin, oslo) = (centre.join("berlin").await, centre.join("oslo").await);
    let own = centre.make_node("02:00:00:00:00:01", Some(berlin.site)).await;
    centre.make_node("02:00:00:00:00:02", Some(oslo.site)).await;
    let homeless = centre.make_node("02:00:00:00:00:03", None).await;
    let list = centre.call(&berlin.credential, "GET", "/api/v1/agents/nodes", None).await;
    let seen: Vec<&str> = list
        .data()
        .as_array()
        .expect("a list")
        .iter()
        .map(|record| record["node_id"].as_str().expect("an id"))
        .collect();
    let mut expected = [id::<NodeId>(&own).to_string(), id::<NodeId>(&homeless).to_string()];
    expected.sort();
    let mut seen = seen;
    seen.sort_unstable();
    assert_eq!(seen, expected);
    assert_eq!(list.body["total"], 2);
    let foreign = "/api/v1/agents/nodes?mac=02-00-00-00-00-02";
    let foreign = centre.call(&berlin.credential, "GET", foreign, None).await;
    assert_eq!((foreign.data(), &foreign.body["total"]), (&json!([]), &json!(0)));
}
