//! Many heartbeats at once.

use pureboot_protocol::{AgentId, Heartbeat, SiteId};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Centre, Joined, heartbeat, registration};
use crate::auth::{self, Agent, Caller};
use crate::store::{Beat, Heard, StoreError};

const PATH: &str = "/api/v1/agents/heartbeat";

type Outcome = Result<Heard, StoreError>;

impl Centre {
    async fn agent_of(&self, joined: &Joined) -> Agent {
        let caller = self.app.callers.find(auth::hash(&joined.credential), self.app.now()).await;
        let Ok(Some(Caller::Agent(agent))) = caller else { panic!("the agent has joined") };
        agent
    }

    fn beat(&self, agent: Agent, uptime_seconds: u64) -> Beat {
        let said = serde_json::from_value(heartbeat(agent.site_id, 1)).expect("a heartbeat");
        Beat::new(agent, &Heartbeat { uptime_seconds, ..said }, self.app.now())
    }

    /// Hands over `beats`, the next before the one before it is answered.
    fn hand_over(&self, beats: Vec<Beat>) -> JoinSet<(usize, Outcome)> {
        let mut under_way = JoinSet::new();
        for (number, beat) in beats.into_iter().enumerate() {
            let way = self.app.beats.clone();
            under_way.spawn(async move { (number, way.ask(beat).await) });
        }
        under_way
    }

    async fn keep_all(&self, beats: Vec<Beat>) -> Vec<Outcome> {
        let mut outcomes = self.hand_over(beats).join_all().await;
        outcomes.sort_by_key(|(number, _)| *number);
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    /// The latest first.
    async fn uptimes(&self, site: SiteId) -> Vec<u64> {
        let kept = self.get(&format!("/api/v1/agents/{site}/heartbeats?limit=500")).await;
        let uptime = |kept: &Value| kept["heartbeat"]["uptime_seconds"].as_u64().expect("seconds");
        kept.data().as_array().expect("a list").iter().map(uptime).collect()
    }
}

#[tokio::test]
async fn an_agent_that_is_none_any_more_is_alone_in_it() {
    let centre = Centre::start().await;
    let [berlin, oslo, rome] =
        [centre.join("a").await, centre.join("b").await, centre.join("c").await];
    let [one, other, sent_away] = [
        centre.agent_of(&berlin).await,
        centre.agent_of(&oslo).await,
        centre.agent_of(&rome).await,
    ];
    let replaced = Agent { id: AgentId::from_random([7; 16]), ..other };
    centre.app.store.revoke_agent(rome.site, centre.app.now()).await.expect("revoked");
    let beats = [one, replaced, sent_away, other].map(|agent| centre.beat(agent, 1)).into();
    let outcomes = centre.keep_all(beats).await;
    assert!(
        matches!(
            outcomes.as_slice(),
            [
                Ok(_),
                Err(StoreError::Missing { what: "agent", .. }),
                Err(StoreError::CredentialRevoked),
                Ok(_)
            ]
        ),
        "{outcomes:?}"
    );
    for (joined, expected) in [(&berlin, &[1][..]), (&oslo, &[1]), (&rome, &[])] {
        assert_eq!(centre.uptimes(joined.site).await, expected);
    }
    let site = centre.get(&format!("/api/v1/sites/{}", rome.site)).await;
    assert_eq!(site.data()["agent_status"], "offline");
}

#[tokio::test]
async fn a_heartbeat_that_the_database_refuses_is_alone_in_it() {
    let centre = Centre::start().await;
    let [berlin, oslo] = [centre.join("a").await, centre.join("b").await];
    let [one, other] = [centre.agent_of(&berlin).await, centre.agent_of(&oslo).await];
    let broken = berlin.site.to_string().parse().expect("an id");
    centre.app.store.sabotage("UPDATE", "sites", Some(broken)).await;
    let beats = vec![centre.beat(other, 1), centre.beat(one, 1), centre.beat(other, 2)];
    let outcomes = centre.keep_all(beats).await;
    assert!(
        matches!(outcomes.as_slice(), [Ok(_), Err(StoreError::Database(_)), Ok(_)]),
        "{outcomes:?}"
    );
    assert_eq!(centre.uptimes(oslo.site).await, [2, 1]);
    assert_eq!(centre.uptimes(berlin.site).await, [0; 0]);
}

#[tokio::test]
async fn heartbeats_are_kept_in_the_order_in_which_they_came() {
    let centre = Centre::start().await;
    let joined = [centre.join("a").await, centre.join("b").await, centre.join("c").await];
    let mut agents = Vec::new();
    for joined in &joined {
        agents.push(centre.agent_of(joined).await);
    }
    let beats = (0..100).flat_map(|n| agents.iter().map(move |agent| (*agent, n)));
    let beats = beats.map(|(agent, n)| centre.beat(agent, n)).collect();
    for outcome in centre.keep_all(beats).await {
        outcome.expect("kept");
    }
    let latest_first: Vec<_> = (0..100).rev().collect();
    for joined in &joined {
        assert_eq!(centre.uptimes(joined.site).await, latest_first);
    }
}

#[tokio::test]
async fn of_more_than_may_wait_the_last_is_told_to_come_again() {
    let centre = Centre::start().await;
    let agent = centre.agent_of(&centre.join("a").await).await;
    let beats = (0..1_025).map(|n| centre.beat(agent, n)).collect();
    let outcomes = centre.keep_all(beats).await;
    let (last, others) = outcomes.split_last().expect("some");
    assert!(matches!(last, Err(StoreError::Busy)), "{last:?}");
    assert!(others.iter().all(Result::is_ok));
}

#[tokio::test]
async fn what_waits_at_the_end_is_kept_and_nothing_is_taken_after_it() {
    let centre = Centre::start().await;
    let joined = centre.join("a").await;
    let agent = centre.agent_of(&joined).await;
    let under_way = centre.hand_over((0..300).map(|n| centre.beat(agent, n)).collect());
    tokio::task::yield_now().await;
    centre.app.beats.end().await;
    assert_eq!(centre.uptimes(joined.site).await.len(), 300);
    for (_, outcome) in under_way.join_all().await {
        outcome.expect("kept");
    }
    let body = Some(heartbeat(joined.site, 1));
    let late = centre.call(&joined.credential, "POST", PATH, body).await;
    assert_eq!(late.headers["retry-after"], "1");
    assert_eq!(late.problem(), (503, "busy".to_owned()));
}

#[tokio::test]
async fn an_agent_that_takes_the_place_of_another_has_said_nothing_yet() {
    let centre = Centre::start().await;
    let Joined { site, credential } = centre.join("a").await;
    let beat = async |bearer| {
        let answer = centre.call(bearer, "POST", PATH, Some(heartbeat(site, 1))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    beat(&credential).await;
    let token = centre.make_token(site).await;
    let next = pureboot_protocol::Secret::from_random([7; 32]);
    let joined = centre.register(registration(site, &token, Some(&next))).await;
    assert_eq!(joined.status, 200, "{joined:?}");
    let status = format!("/api/v1/agents/{site}/status");
    assert_eq!(centre.get(&status).await.data()["heartbeat"], Value::Null);
    assert_eq!(centre.uptimes(site).await, [60], "the history is the site's");
    beat(&next).await;
    assert_eq!(centre.get(&status).await.data()["heartbeat"], heartbeat(site, 1));
    assert_eq!(centre.get(&status).await.data()["agent_version"], json!("0.1.1"));
}
