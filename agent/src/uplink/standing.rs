//! How the agent stands with its controller: joined or not, in reach or not, under which settings.

use std::cell::{Cell, RefCell};

use pureboot_protocol::{AgentId, Autonomy, ClockQuality, IDENTITY_IN_USE, SiteConfig, Timestamp};
use smol::channel::{Receiver, Sender, bounded};

use crate::status::{LineReport, Membership};
use crate::store::Identity;
use crate::uplink::connectivity::{Connectivity, Line, Remembered, Weight};
use crate::uplink::controller::CallError;

/// Clocks that differ by more than this are not synced, in seconds.
const CLOCK_OFFSET_MAX_S: i64 = 60;

/// The seconds between heartbeats before the controller has said anything.
const HEARTBEAT_INTERVAL_S: u32 = 60;

/// Shared by all that speaks to the controller or decides by it; lives on the executor's thread.
#[derive(Debug)]
pub struct Standing {
    identity: RefCell<Option<Identity>>,
    membership: RefCell<Membership>,
    connectivity: RefCell<Connectivity>,
    last_heartbeat_at: Cell<Option<Timestamp>>,
    clock: Cell<ClockQuality>,
    trouble: (Sender<()>, Receiver<()>),
    listeners: RefCell<Vec<Sender<Line>>>,
}

/// Changes of the line that a listener may be behind; of more it misses the oldest.
const UNHEARD_MAX: usize = 16;

impl Standing {
    /// The standing at start: what a former life of the agent has kept.
    pub fn new(identity: Option<Identity>) -> Self {
        let membership = if identity.is_some() { Membership::Joined } else { Membership::Joining };
        Self {
            identity: RefCell::new(identity),
            membership: RefCell::new(membership),
            connectivity: RefCell::default(),
            last_heartbeat_at: Cell::new(None),
            clock: Cell::new(ClockQuality::Unsynced),
            // One signal that waits is as good as many.
            trouble: bounded(1),
            listeners: RefCell::default(),
        }
    }

    /// With the line as a former life of the agent has left it.
    pub fn resuming(self, remembered: Remembered) -> Self {
        Self { connectivity: RefCell::new(Connectivity::resume(remembered)), ..self }
    }

    /// Hears of every change of the line from now on. It is advice: nobody waits for a listener.
    pub fn listen(&self) -> Receiver<Line> {
        let (sender, receiver) = bounded(UNHEARD_MAX);
        self.listeners.borrow_mut().push(sender);
        receiver
    }

    fn tell(&self, line: Line) {
        let mut listeners = self.listeners.borrow_mut();
        listeners.retain(|listener| listener.force_send(line).is_ok());
    }

    /// The agent has joined, or has been given other settings.
    pub fn join(&self, identity: Identity) {
        *self.identity.borrow_mut() = Some(identity);
        *self.membership.borrow_mut() = Membership::Joined;
    }

    /// The controller has been called with all the time that an answer may take: what came of it says how the line is and
    /// whether the agent is welcome.
    pub fn learn<T>(&self, outcome: &Result<T, CallError>, now: Timestamp) {
        self.weigh(outcome, Weight::Check, now);
    }

    /// As [`Standing::learn`], of a call that was cut short because a machine waited.
    pub fn learn_in_a_hurry<T>(&self, outcome: &Result<T, CallError>, now: Timestamp) {
        self.weigh(outcome, Weight::Hint, now);
    }

    /// A heartbeat soon, please: a person waits for the controller's latest word.
    pub fn hasten(&self) {
        _ = self.trouble.0.try_send(());
    }

    /// Returns when a call has failed that did not before, or when a heartbeat is [wished for](Self::hasten).
    pub async fn trouble(&self) {
        // The sender lives as long as this does.
        _ = self.trouble.1.recv().await;
    }

    fn weigh<T>(&self, outcome: &Result<T, CallError>, weight: Weight, now: Timestamp) {
        let mut connectivity = self.connectivity.borrow_mut();
        let news = match outcome {
            // The controller itself says that it cannot: it is in reach, and something is wrong there (N11).
            Err(CallError::Refused(refusal)) if refusal.status.is_server_error() => {
                connectivity.handle_failure(Weight::Hint, now)
            }
            Err(error) if error.is_line_trouble() => connectivity.handle_failure(weight, now),
            _ => connectivity.handle_answer(now),
        };
        match (news, outcome) {
            (None, _) => {}
            (Some(Line::Untried), Ok(_)) => log::info!("the controller answers"),
            (Some(Line::Offline { since }), Ok(_)) => {
                log::info!("the controller answers again, it was away since {since}")
            }
            (Some(Line::Offline { since }), Err(error)) => {
                log::warn!(error:%; "the controller is away since {since}; the site goes on alone");
            }
            (Some(_), Err(error)) => {
                log::warn!(error:%; "a call to the controller failed");
                _ = self.trouble.0.try_send(());
            }
            (Some(_), Ok(_)) => log::info!("the controller answers again"),
        }
        let line = connectivity.line();
        drop(connectivity);
        if news.is_some() {
            self.tell(line);
        }
        let Err(CallError::Refused(refusal)) = outcome else { return };
        match refusal.status.as_u16() {
            401 | 403 => self.refuse(refusal.to_string(), now),
            409 if refusal.code == IDENTITY_IN_USE => self.fence(refusal.detail.clone(), now),
            _ => {}
        }
    }

    /// Another machine lives under the agent's identity.
    fn fence(&self, reason: String, now: Timestamp) {
        let mut membership = self.membership.borrow_mut();
        match &mut *membership {
            Membership::Fenced { reason: former, .. } => *former = reason,
            other => {
                log::error!("another machine uses this agent's identity: {reason}; boots go on");
                *other = Membership::Fenced { reason, since: now };
            }
        }
    }

    /// The controller does not accept the agent.
    pub fn refuse(&self, reason: String, now: Timestamp) {
        let mut membership = self.membership.borrow_mut();
        match &mut *membership {
            Membership::Refused { reason: former, .. } => *former = reason,
            other => {
                log::error!(
                    "the controller refuses this agent: {reason}; boots go on; make a new token for the site and run \
                     `pureboot-agent init --rejoin`"
                );
                *other = Membership::Refused { reason, since: now };
            }
        }
    }

    /// A heartbeat was answered by a controller whose clock shows `server_time`.
    pub fn handle_heartbeat(&self, server_time: Timestamp, now: Timestamp) {
        self.last_heartbeat_at.set(Some(now));
        let is_synced = now.seconds_since(server_time).abs() <= CLOCK_OFFSET_MAX_S;
        self.clock.set(if is_synced { ClockQuality::Synced } else { ClockQuality::Unsynced });
        if self.identity.borrow().is_some() {
            *self.membership.borrow_mut() = Membership::Joined;
        }
    }

    /// Who the agent is to the controller, once it has joined.
    pub fn agent_id(&self) -> Option<AgentId> {
        self.identity.borrow().as_ref().map(|identity| identity.agent_id)
    }

    /// The site's settings, once the controller has told them.
    pub fn site_config(&self) -> Option<SiteConfig> {
        self.identity.borrow().as_ref().map(|identity| identity.config.clone())
    }

    /// Everything that was kept about the agent's identity.
    pub fn identity(&self) -> Option<Identity> {
        self.identity.borrow().clone()
    }

    /// The version of the site's settings; 0 before any.
    pub fn config_version(&self) -> u64 {
        self.identity.borrow().as_ref().map_or(0, |identity| identity.config_version)
    }

    /// What the site may decide alone. Before the controller has said anything: as little as possible.
    pub fn autonomy(&self) -> Autonomy {
        self.identity
            .borrow()
            .as_ref()
            .map_or(Autonomy::Readonly, |identity| identity.config.autonomy_level)
    }

    /// The seconds between heartbeats.
    pub fn heartbeat_interval_s(&self) -> u32 {
        let told =
            self.identity.borrow().as_ref().map(|identity| identity.config.heartbeat_interval);
        let (shortest, longest) = SiteConfig::HEARTBEAT_INTERVAL_S.into_inner();
        told.unwrap_or(HEARTBEAT_INTERVAL_S).clamp(shortest, longest)
    }

    /// The line as the last calls found it.
    pub fn line(&self) -> Line {
        self.connectivity.borrow().line()
    }

    /// Whether a question to the controller is worth a machine's time.
    pub fn is_worth_asking(&self) -> bool {
        self.agent_id().is_some() && !matches!(self.line(), Line::Offline { .. })
    }

    /// Whether the last checks of the line failed, and not only calls that were cut short.
    pub fn is_failing(&self) -> bool {
        matches!(self.line(), Line::Degraded { failures: 1.., .. })
    }

    /// When the controller last answered.
    pub fn last_online_at(&self) -> Option<Timestamp> {
        self.connectivity.borrow().last_online_at()
    }

    /// When a heartbeat was last answered.
    pub fn last_heartbeat_at(&self) -> Option<Timestamp> {
        self.last_heartbeat_at.get()
    }

    /// How far this machine's clock can be trusted.
    pub fn clock(&self) -> ClockQuality {
        self.clock.get()
    }

    /// Whether the agent has joined.
    pub fn membership(&self) -> Membership {
        self.membership.borrow().clone()
    }

    /// The line in the words of the status report.
    pub fn line_report(&self) -> LineReport {
        match self.line() {
            Line::Untried => LineReport::Untried,
            Line::Connected { since } => LineReport::Connected { since },
            Line::Degraded { since, .. } => LineReport::Degraded { since },
            Line::Offline { since } => LineReport::Offline { since },
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;
    use crate::uplink::controller::Refusal;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_ms(seconds * 1_000)
    }

    fn failed() -> Result<(), CallError> {
        Err(CallError::Foreign("a portal".to_owned()))
    }

    #[test]
    fn listeners_hear_each_change_of_the_line_and_hold_nobody_up() {
        let standing = Standing::new(None);
        let (heard, gone) = (standing.listen(), standing.listen());
        drop(gone);
        standing.learn(&Ok(()), at(1));
        standing.learn(&Ok(()), at(2));
        (3..=6).for_each(|second| standing.learn(&failed(), at(second)));
        let lines: Vec<_> = std::iter::from_fn(|| heard.try_recv().ok()).collect();
        let expected = [
            Line::Connected { since: at(1) },
            Line::Degraded { failures: 1, since: at(3) },
            Line::Offline { since: at(3) },
        ];
        assert_eq!(lines, expected);
        for round in 0..100 {
            standing.learn(&Ok(()), at(100 + 2 * round));
            standing.learn(&failed(), at(101 + 2 * round));
        }
        let last = std::iter::from_fn(|| heard.try_recv().ok()).last();
        assert_eq!(last, Some(Line::Degraded { failures: 1, since: at(299) }), "the newest stays");
    }

    #[test]
    fn a_person_who_waits_has_one_heartbeat_sent() {
        let standing = Standing::new(None);
        let is_told = || standing.trouble.1.try_recv().is_ok();
        assert!(!is_told());
        standing.hasten();
        standing.hasten();
        assert!(is_told());
        assert!(!is_told(), "for both of them");
    }

    #[test]
    fn n11_a_controller_that_answers_and_fails_is_degraded_and_never_away() {
        let standing = Standing::new(None);
        standing.learn(&Ok(()), at(1));
        let broken = || -> Result<(), CallError> {
            Err(CallError::Refused(Refusal {
                status: StatusCode::SERVICE_UNAVAILABLE,
                code: "busy".to_owned(),
                detail: "the database is away".to_owned(),
                retry_after: None,
            }))
        };
        (2..100).for_each(|second| standing.learn(&broken(), at(second)));
        assert_eq!(standing.line(), Line::Degraded { failures: 0, since: at(2) });
        standing.learn(&Ok(()), at(100));
        assert_eq!(standing.line(), Line::Connected { since: at(100) });
    }

    #[test]
    fn t1_a_clock_that_was_never_set_is_not_called_synced() {
        let standing = Standing::new(None);
        let server_time = at(1_795_000_000);
        assert_eq!(standing.clock(), ClockQuality::Unsynced, "nobody has compared it");
        standing.handle_heartbeat(server_time, at(30));
        assert_eq!(standing.clock(), ClockQuality::Unsynced, "it is 1970 here");
        standing.handle_heartbeat(server_time, server_time.plus_seconds(60));
        assert_eq!(standing.clock(), ClockQuality::Synced);
        // T5: a controller whose clock is a day off makes ours no better.
        for skew in [-86_400, 86_400] {
            standing.handle_heartbeat(server_time.plus_seconds(skew), server_time);
            assert_eq!(standing.clock(), ClockQuality::Unsynced);
        }
    }
}
