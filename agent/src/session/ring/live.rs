//! A session that may still go on, and what a step makes of it.

use std::time::{Duration, Instant};

use pureboot_protocol::{BootId, NodeEventKind};

use super::duty::Duty;
use super::room::Counted;
use super::{Moment, RETOLD, STEPS_MAX, TEXT_LEN_MAX, USER_AGENT_LEN_MAX, USER_AGENTS_MAX};
use crate::session::step::{
    Ending, Offer, Phase, Role, STEPS_FIRST, Session, Step, Transfer, What,
};

/// A session and what is needed to continue it.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) session: Session,
    pub(super) began: Instant,
    pub(super) last: Instant,
    /// The last transaction by DHCP and when it was seen.
    pub(super) asked: Option<(u32, Instant)>,
    pub(super) next_number: u32,
    /// The revision of the ring that the last change made.
    pub(super) changed: u64,
    /// To be written down.
    pub(super) saving: Duty,
    /// To be told to the controller.
    pub(super) telling: Duty,
    /// What it is counted as among all sessions; none before its first step.
    pub(super) counted: Option<Counted>,
}

impl Live {
    pub(super) fn new(id: BootId, moment: Moment) -> Self {
        let session = Session {
            id,
            mac: None,
            address: None,
            started_at: moment.at,
            reached: Phase::Asking,
            user_agents: Vec::new(),
            steps_folded: 0,
            steps: Vec::new(),
        };
        Self {
            session,
            began: moment.now,
            last: moment.now,
            asked: None,
            next_number: 0,
            changed: 0,
            saving: Duty::default(),
            telling: Duty::default(),
            counted: None,
        }
    }

    /// Continues a session of an earlier run: what was under way then is not any more.
    pub(super) fn restored(mut session: Session, moment: Moment) -> Self {
        session.steps.truncate(STEPS_MAX);
        for step in &mut session.steps {
            if let What::Transfer(Transfer { ending: ending @ None, .. }) = &mut step.what {
                *ending = Some(Ending::Stopped);
            }
        }
        let before_ms = moment.at.unix_ms() - session.started_at.unix_ms();
        let ago = |ms: u64| moment.now.checked_sub(Duration::from_millis(ms)).unwrap_or(moment.now);
        let before_ms = u64::try_from(before_ms).unwrap_or(0);
        let silent_ms = before_ms.saturating_sub(session.last_ms());
        let next_number = session.steps.iter().map(|step| step.number.saturating_add(1)).max();
        let mut telling = Duty::default();
        if Duration::from_millis(before_ms) < RETOLD {
            telling.owe(moment.now);
        }
        Self {
            began: ago(before_ms),
            last: ago(silent_ms),
            asked: None,
            next_number: next_number.unwrap_or(0),
            changed: 0,
            saving: Duty::default(),
            telling,
            counted: None,
            session,
        }
    }

    /// Adds a step, or counts it to the last one if that is the same again; returns the step's number.
    pub(super) fn add(&mut self, what: What, moment: Moment) -> u32 {
        if let What::Offered(Offer { xid, .. })
        | What::Unsent { xid, .. }
        | What::Refused { xid, .. }
        | What::Leased { xid, .. } = &what
        {
            self.asked = Some((*xid, moment.now));
        }
        let since_start = moment.now.saturating_duration_since(self.began);
        self.session.reached = self.session.reached.max(reached(&what, self.session.reached));
        if let Some(last) = self.session.steps.last_mut()
            && repeats(&last.what, &what)
        {
            last.times = last.times.saturating_add(1);
            last.took_ms = Some(millis(since_start).saturating_sub(last.at_ms));
            take_over(&mut last.what, what);
            return last.number;
        }
        let number = self.next_number;
        self.next_number = self.next_number.saturating_add(1);
        let at_ms = millis(since_start);
        let what = shorten(what);
        self.session.steps.push(Step { number, at_ms, took_ms: None, times: 1, what });
        self.fold();
        number
    }

    /// Whether the step was there to be ended.
    pub(super) fn end(
        &mut self,
        number: u32,
        now: Instant,
        change: impl FnOnce(&mut What),
    ) -> bool {
        let since_start = millis(now.saturating_duration_since(self.began));
        let steps = &mut self.session.steps;
        let Some(step) = steps.iter_mut().rev().find(|step| step.number == number) else {
            return false;
        };
        change(&mut step.what);
        step.took_ms = Some(since_start.saturating_sub(step.at_ms));
        self.session.reached = self.session.reached.max(reached(&step.what, self.session.reached));
        true
    }

    pub(super) fn fold(&mut self) {
        while self.session.steps.len() > STEPS_MAX {
            self.session.steps.remove(STEPS_FIRST);
            self.session.steps_folded = self.session.steps_folded.saturating_add(1);
        }
    }

    /// Notes that it has changed.
    pub(super) fn touch(&mut self, revision: u64, now: Instant) {
        self.last = now;
        self.changed = revision;
        self.saving.owe(now);
        self.telling.owe(now);
    }

    /// Learns what a program of the machine calls itself; answers whether that is news.
    pub(super) fn learn_user_agent(&mut self, agent: &str) -> bool {
        let known = &mut self.session.user_agents;
        let agent = agent.get(..agent.floor_char_boundary(USER_AGENT_LEN_MAX)).unwrap_or(agent);
        let is_news = !agent.is_empty()
            && known.len() < USER_AGENTS_MAX
            && !known.iter().any(|it| **it == *agent);
        if is_news {
            known.push(agent.into());
        }
        is_news
    }

    /// Whether it is one packet so far, which anybody can send in anybody's name.
    pub(super) fn is_glimpse(&self) -> bool {
        let Session { reached, steps_folded, steps, .. } = &self.session;
        let is_single = matches!(steps.as_slice(), [step] if step.times == 1);
        *reached == Phase::Asking && *steps_folded == 0 && is_single
    }
}

/// How far a machine that was at `before` has come by a step.
pub(super) fn reached(what: &What, before: Phase) -> Phase {
    match what {
        What::Transfer(Transfer { role: Role::Loader, ending: Some(Ending::Whole), .. }) => {
            Phase::Loader
        }
        What::Transfer(Transfer { role: Role::FirstScript, .. }) => Phase::FirstScript,
        What::Transfer(Transfer {
            role: Role::Content | Role::Answers,
            ending: Some(Ending::Whole),
            ..
        }) if before >= Phase::Script => Phase::Files,
        What::Script { .. } => Phase::Script,
        What::Reported { .. } => Phase::CalledBack,
        _ => Phase::Asking,
    }
}

/// Whether `next` is the same again as `last`.
fn repeats(last: &What, next: &What) -> bool {
    match (last, next) {
        (What::Offered(last), What::Offered(next)) => {
            (last.port, last.boots, &last.file) == (next.port, next.boots, &next.file)
        }
        (What::Unsent { error: last, .. }, What::Unsent { error: next, .. }) => last == next,
        (
            What::Refused { port: p, reason: last, .. },
            What::Refused { port: q, reason: next, .. },
        ) => p == q && last == next,
        (What::Leased { wanted: last, .. }, What::Leased { wanted: next, .. }) => last == next,
        (What::Missing { by: p, name: last }, What::Missing { by: q, name: next }) => {
            p == q && last == next
        }
        // A disk that is read over HTTP is read in many pieces.
        (What::Transfer(last), What::Transfer(next)) => {
            last.ending == Some(Ending::Part)
                && (last.by, last.role, &last.name) == (next.by, next.role, &next.name)
        }
        (What::Reported { event: last, .. }, What::Reported { event: next, .. }) => {
            last == next
                && matches!(next, NodeEventKind::InstallProgress | NodeEventKind::Heartbeat)
        }
        _ => false,
    }
}

/// Brings a step that is seen again up to date.
fn take_over(last: &mut What, next: What) {
    match (last, next) {
        (What::Transfer(last), What::Transfer(_)) => last.ending = None,
        (last, next) => *last = shorten(next),
    }
}

/// Cuts the texts that come from outside.
fn shorten(what: What) -> What {
    match what {
        What::Offered(offer) => {
            What::Offered(Offer { file: short(&offer.file), how: short(&offer.how), ..offer })
        }
        What::Unsent { xid, error } => What::Unsent { xid, error: short(&error) },
        What::Refused { xid, port, reason } => What::Refused { xid, port, reason: short(&reason) },
        What::Transfer(transfer) => {
            What::Transfer(Transfer { name: short(&transfer.name), ..transfer })
        }
        What::Missing { by, name } => What::Missing { by, name: short(&name) },
        What::Leased { .. } | What::Script { .. } | What::Reported { .. } => what,
    }
}

pub(super) fn short(text: &str) -> Box<str> {
    text.get(..text.floor_char_boundary(TEXT_LEN_MAX)).unwrap_or(text).into()
}

/// What a session takes in memory, in bytes, near enough: its own fields twice for the indexes, its steps, and their texts.
pub(super) fn cost(session: &Session) -> usize {
    let text = |what: &What| match what {
        What::Offered(offer) => offer.file.len() + offer.how.len(),
        What::Unsent { error: text, .. } | What::Refused { reason: text, .. } => text.len(),
        What::Transfer(transfer) => transfer.name.len(),
        What::Missing { name, .. } => name.len(),
        What::Script { answer } => answer.as_ref().map_or(0, |answer| answer.because.len()),
        What::Reported { message, .. } => {
            message.as_ref().map_or(0, |message| message.as_str().len())
        }
        What::Leased { .. } => 0,
    };
    let texts: usize = session.steps.iter().map(|step| text(&step.what)).sum();
    let agents: usize =
        session.user_agents.iter().map(|agent| size_of_val(agent) + agent.len()).sum();
    2 * size_of::<Live>() + session.steps.len() * size_of::<Step>() + texts + agents
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
