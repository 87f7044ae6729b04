//! The audit: who did what to what, when and from where.
//!
//! [`crate::guard`] opens an [`Entry`] for every request that may change something and runs its handler [`within`] it. The
//! store writes [`current`] down in the same transaction as the first effect, so that none comes without its row; the guard
//! completes the row with the answer. What a handler knows better than the route it says in a [`Note`] beside its answer.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::response::Response;
use pureboot_protocol::{AgentId, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::auth::{Caller, Means, Operator};
use crate::random;

/// The largest detail that is kept, in bytes of JSON.
const DETAIL_LEN_MAX: usize = 32 << 10;

tokio::task_local! {
    static CURRENT: Arc<Entry>;
}

/// What kind of actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ActorKind {
    /// A person with an account.
    User,
    /// A program with an API token that has no account behind it.
    Token,
    /// An agent.
    Agent,
    /// Somebody at the command line of the controller's own machine.
    CommandLine,
    /// Somebody who has not shown who it is.
    Nobody,
}

impl ActorKind {
    /// The word on the wire and in the database.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Token => "token",
            Self::Agent => "agent",
            Self::CommandLine => "command_line",
            Self::Nobody => "nobody",
        }
    }
}

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Actor {
    /// What kind of actor.
    pub(crate) kind: ActorKind,
    /// The id of the account, token or agent.
    pub(crate) id: Option<String>,
    /// What people know it by, as it was then.
    pub(crate) name: String,
}

impl Actor {
    /// Somebody who has not shown who it is.
    pub(crate) fn nobody() -> Self {
        Self { kind: ActorKind::Nobody, id: None, name: String::new() }
    }

    /// The agent of a site.
    pub(crate) fn agent(id: AgentId) -> Self {
        Self { kind: ActorKind::Agent, id: Some(id.to_string()), name: "agent".to_owned() }
    }

    /// The user of the system that called this program.
    pub(crate) fn command_line(name: String) -> Self {
        Self { kind: ActorKind::CommandLine, id: None, name }
    }
}

impl From<&Operator> for Actor {
    fn from(operator: &Operator) -> Self {
        let name = operator.name.clone();
        match (operator.user, &operator.means) {
            (Some(id), _) => Self { kind: ActorKind::User, id: Some(id.to_string()), name },
            (None, Means::Token { id, .. }) => {
                Self { kind: ActorKind::Token, id: Some(id.to_string()), name }
            }
            (None, Means::Session { .. }) => Self { kind: ActorKind::User, id: None, name },
        }
    }
}

impl From<&Caller> for Actor {
    fn from(caller: &Caller) -> Self {
        match caller {
            Caller::Operator(operator) => operator.into(),
            Caller::Agent(agent) => Self::agent(agent.id),
        }
    }
}

/// One row, as far as it is known.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Names the row.
    pub(crate) key: String,
    /// When it began.
    pub(crate) at: Timestamp,
    /// Who.
    pub(crate) actor: Actor,
    /// What: verb and route of a request, or a word for what has no request of its own.
    pub(crate) action: String,
    /// To what: mostly an id.
    pub(crate) target: Option<String>,
    /// What it was answered with; none while it is under way.
    pub(crate) status: Option<u16>,
    /// From where.
    pub(crate) address: Option<IpAddr>,
    /// The request.
    pub(crate) correlation_id: String,
    /// What else there is to know. Never a secret.
    pub(crate) detail: Option<Value>,
    /// Whether the store has written it beside an effect, which may have been rolled back with it.
    is_begun: Arc<AtomicBool>,
}

impl Entry {
    /// `actor` does `action`.
    pub(crate) fn new(
        at: Timestamp,
        actor: Actor,
        action: impl Into<String>,
        correlation_id: &str,
    ) -> Self {
        Self {
            key: format!("{:032x}", u128::from_be_bytes(random::bytes())),
            at,
            actor,
            action: action.into(),
            target: None,
            status: None,
            address: None,
            correlation_id: correlation_id.to_owned(),
            detail: None,
            is_begun: Arc::default(),
        }
    }

    /// The store writes it beside an effect.
    pub(crate) fn begin(&self) {
        self.is_begun.store(true, Ordering::Relaxed);
    }

    /// Whether the store has.
    pub(crate) fn is_begun(&self) -> bool {
        self.is_begun.load(Ordering::Relaxed)
    }

    /// Takes over what a handler knows better.
    pub(crate) fn complete(&mut self, note: Note) {
        self.actor = note.actor.unwrap_or_else(|| self.actor.clone());
        self.action = note.action.map_or_else(|| self.action.clone(), str::to_owned);
        self.target = note.target.or(self.target.take());
        self.detail = note.detail.or(self.detail.take());
    }

    /// The detail as it is kept.
    pub(crate) fn detail_text(&self) -> Option<String> {
        let text = self.detail.as_ref()?.to_string();
        let is_kept = text.len() <= DETAIL_LEN_MAX;
        Some(if is_kept { text } else { r#"{"omitted":"too large"}"#.to_owned() })
    }
}

/// What a handler knows better than its route: travels in the extensions of the answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Note {
    /// Who, where the request did not show it.
    pub(crate) actor: Option<Actor>,
    /// A word for what was done.
    pub(crate) action: Option<&'static str>,
    /// To what.
    pub(crate) target: Option<String>,
    /// What else there is to know. Never a secret.
    pub(crate) detail: Option<Value>,
}

impl Note {
    /// Puts the note beside `response`.
    pub(crate) fn on(self, mut response: Response) -> Response {
        response.extensions_mut().insert(self);
        response
    }

    /// A note that only says more.
    pub(crate) fn detail(detail: Value) -> Self {
        Self { detail: Some(detail), ..Self::default() }
    }
}

/// Runs `work`, whose effects belong to `entry`.
pub(crate) async fn within<F: Future>(entry: Arc<Entry>, work: F) -> F::Output {
    CURRENT.scope(entry, work).await
}

/// The entry that what is done here and now belongs to.
pub(crate) fn current() -> Option<Arc<Entry>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Refusals that come in masses, one row for many: how many there were, when it is time for a row.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    by_address: std::collections::HashMap<IpAddr, (Timestamp, u64)>,
}

/// Seconds between two rows about one address.
const REFUSALS_PERIOD_S: i64 = 300;
/// Addresses that are told apart.
const REFUSALS_ADDRESSES_MAX: usize = 1_024;

impl Refusals {
    /// Counts a refusal of `address`; answers how many there were since the last row, when a row is due.
    pub(crate) fn count(&mut self, address: IpAddr, now: Timestamp) -> Option<u64> {
        if let Some((since, count)) = self.by_address.get_mut(&address) {
            *count += 1;
            if now.seconds_since(*since) < REFUSALS_PERIOD_S {
                return None;
            }
            *since = now;
            return Some(std::mem::take(count));
        }
        if self.by_address.len() >= REFUSALS_ADDRESSES_MAX {
            let is_recent = |since: &Timestamp| now.seconds_since(*since) < REFUSALS_PERIOD_S;
            self.by_address.retain(|_, (since, _)| is_recent(since));
        }
        // Where even that leaves no place, the attack is in the audit a thousand times already.
        if self.by_address.len() >= REFUSALS_ADDRESSES_MAX {
            return None;
        }
        self.by_address.insert(address, (now, 0));
        Some(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_ms(seconds * 1_000)
    }

    #[test]
    fn the_first_refusal_of_an_address_is_told_at_once_and_the_rest_together() {
        let (mut refusals, address) = (Refusals::default(), IpAddr::from([192, 0, 2, 1]));
        assert_eq!(refusals.count(address, at(0)), Some(1));
        for second in 1..300 {
            assert_eq!(refusals.count(address, at(second)), None);
        }
        assert_eq!(refusals.count(IpAddr::from([192, 0, 2, 2]), at(5)), Some(1));
        assert_eq!(refusals.count(address, at(300)), Some(300));
        assert_eq!(refusals.count(address, at(301)), None);
        assert_eq!(refusals.count(address, at(900)), Some(2));
    }

    #[test]
    fn i7_no_more_addresses_are_told_apart_than_the_limit_and_old_ones_make_place() {
        let mut refusals = Refusals::default();
        let told = (0..5_000_u32)
            .filter(|n| refusals.count(IpAddr::from(n.to_be_bytes()), at(0)).is_some())
            .count();
        assert_eq!((told, refusals.by_address.len()), (1_024, 1_024));
        assert_eq!(refusals.count(IpAddr::from([1, 1, 1, 1]), at(300)), Some(1));
        assert_eq!(refusals.by_address.len(), 1);
    }

    #[test]
    fn a_detail_that_is_too_large_is_left_out() {
        let mut entry = Entry::new(at(0), Actor::nobody(), "login", "c");
        assert_eq!(entry.detail_text(), None);
        entry.complete(Note::detail(Value::from("a".repeat(40_000))));
        assert_eq!(entry.detail_text().as_deref(), Some(r#"{"omitted":"too large"}"#));
    }
}
