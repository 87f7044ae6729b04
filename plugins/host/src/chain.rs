//! Several policies, one after the other: whose word counts, and what is noted of the others.
//!
//! A failure never leads to an action of its own but to the one that the site chose for it: the next policy and at last the built-in
//! decision, to wait, or to refuse.

use std::fmt;
use std::time::Duration;

pub use pureboot_protocol::{OnFailure, PluginMode as Mode};
use serde::{Deserialize, Serialize};

use crate::facts::{Action, CacheVerdict, Decision, NodesSaid, Vars};
use crate::package::{PluginId, Version};
use crate::plugin::{Failure, Said};

/// How long a machine waits for a policy that failed, in seconds.
pub const FAILURE_HOLD_S: u32 = 30;

/// What a machine gets whose policy failed; none: as if the policy had no opinion.
fn failure_action(on_failure: OnFailure, id: &PluginId) -> Option<Action> {
    match on_failure {
        OnFailure::Builtin => None,
        OnFailure::Hold => Some(Action::Hold(FAILURE_HOLD_S)),
        OnFailure::Refuse => Some(Action::Refuse(format!("the site policy {id} failed"))),
    }
}

/// Whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speaker {
    /// The policy.
    pub id: PluginId,
    /// What is done with what it says.
    pub mode: Mode,
    /// What is done if it says nothing.
    pub on_failure: OnFailure,
}

/// Why a policy did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// It was asked, and failed.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// It has failed so often that it is not asked.
    #[error("it is set aside after repeated failures")]
    SetAside,
    /// Too many wait for it already, or waited for too long.
    #[error("too many questions wait for it")]
    Busy,
}

/// What came of asking one policy.
pub type Answer<T> = Result<Said<T>, Silence>;

/// What is to be told of a policy's part in a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The policy, and how the site used it then.
    pub speaker: Speaker,
    /// What it came to.
    pub outcome: Outcome,
    /// The call, if there was one.
    pub call: Option<Call>,
}

/// A call, as far as it has to be known to repeat it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The version that was asked.
    pub version: Version,
    /// The settings that it was given.
    pub settings: Vars,
    /// What it burnt; 0 where it was ended from outside.
    pub fuel: u64,
    /// How long it took, with the time that others had in between.
    pub took: Duration,
    /// What it was told of nodes.
    pub nodes: Vec<NodesSaid>,
}

/// What a policy came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It had no opinion.
    Passed,
    /// Its word counts.
    Decided(String),
    /// What it would have done if it counted; none if nothing.
    WouldHave(Option<String>),
    /// It said that it cannot decide.
    Error(String),
    /// It did not answer.
    Silent(Silence),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.speaker.id, self.outcome)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("no opinion"),
            Self::Decided(what) => f.write_str(what),
            Self::WouldHave(None) => f.write_str("no opinion (shadow)"),
            Self::WouldHave(Some(what)) => write!(f, "would have said {what} (shadow)"),
            Self::Error(message) => write!(f, "cannot decide: {message}"),
            Self::Silent(silence) => write!(f, "failed: {silence}"),
        }
    }
}

/// What all policies together want a machine to boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// None: the built-in decision stands.
    pub action: Option<Action>,
    /// Whose action it is.
    pub by: Option<PluginId>,
    /// Its reason.
    pub reason: Option<String>,
    /// Template variables to add or replace; the first policy that set one wins.
    pub set: Vars,
    /// What is to be told of each policy that was asked, in order.
    pub notes: Vec<Note>,
}

impl Verdict {
    /// Whether an action stands already, so that only shadows have to be asked.
    pub fn is_decided(&self) -> bool {
        self.action.is_some()
    }

    /// Takes the answer of the next policy.
    pub fn offer(&mut self, speaker: &Speaker, answer: Answer<Decision>) {
        let outcome = match (speaker.mode, answer) {
            (Mode::Off, _) => return,
            (Mode::Shadow, Ok(Said::Answer(decision))) => {
                Outcome::WouldHave(self.difference(&decision))
            }
            (Mode::On, Ok(Said::Answer(decision))) => self.take(&speaker.id, decision),
            (_, Ok(Said::Error(message))) => Outcome::Error(message),
            (mode, Err(silence)) => {
                if let (Mode::On, None) = (mode, &self.action) {
                    self.action = failure_action(speaker.on_failure, &speaker.id);
                    self.by = self.action.as_ref().map(|_| speaker.id.clone());
                }
                Outcome::Silent(silence)
            }
        };
        self.notes.push(Note { speaker: speaker.clone(), outcome, call: None });
    }

    fn take(&mut self, id: &PluginId, decision: Decision) -> Outcome {
        for (name, value) in decision.set {
            self.set.entry(name).or_insert(value);
        }
        match (&self.action, decision.action) {
            (None, Some(action)) => {
                let outcome = Outcome::Decided(action.to_string());
                (self.action, self.by, self.reason) =
                    (Some(action), Some(id.clone()), decision.reason);
                outcome
            }
            _ => Outcome::Passed,
        }
    }

    /// What this decision would have made of the chain so far, in words.
    fn difference(&self, decision: &Decision) -> Option<String> {
        let action =
            decision.action.as_ref().filter(|action| self.action.as_ref() != Some(*action));
        let is_new = |pair: &(&String, &String)| self.set.get(pair.0) != Some(pair.1);
        let variables: Vec<_> =
            decision.set.iter().filter(is_new).map(|(name, _)| name.as_str()).collect();
        let variables = (!variables.is_empty()).then(|| format!("set {}", variables.join(", ")));
        let parts: Vec<_> = action.map(Action::to_string).into_iter().chain(variables).collect();
        (!parts.is_empty()).then(|| parts.join(" and "))
    }
}

/// What all policies together make of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// The script so far.
    pub script: String,
    /// What the machine gets in place of it, if a policy failed whose failure is not to be passed over; with that policy.
    pub instead: Option<(PluginId, Action)>,
    /// What is to be told of each policy that was asked, in order.
    pub notes: Vec<Note>,
}

impl Patch {
    /// A script that nobody has touched.
    pub fn new(script: String) -> Self {
        Self { script, instead: None, notes: Vec::new() }
    }

    /// Takes the answer of the next policy, which was given [`Self::script`].
    pub fn offer(&mut self, speaker: &Speaker, answer: Answer<Option<String>>) {
        let outcome = match (speaker.mode, answer) {
            (Mode::Off, _) => return,
            (mode, Ok(Said::Answer(script))) => {
                let other = script.filter(|script| *script != self.script);
                let change = other.as_ref().map(|other| changed_lines(&self.script, other));
                match (mode, other, change) {
                    (Mode::On, Some(other), Some(change)) => {
                        self.script = other;
                        Outcome::Decided(change)
                    }
                    (Mode::On, ..) => Outcome::Passed,
                    (_, _, change) => Outcome::WouldHave(change),
                }
            }
            (_, Ok(Said::Error(message))) => Outcome::Error(message),
            (mode, Err(silence)) => {
                if let (Mode::On, None) = (mode, &self.instead) {
                    let action = failure_action(speaker.on_failure, &speaker.id);
                    self.instead = action.map(|action| (speaker.id.clone(), action));
                }
                Outcome::Silent(silence)
            }
        };
        self.notes.push(Note { speaker: speaker.clone(), outcome, call: None });
    }
}

/// How much two scripts differ, without saying a line of them: it may hold a secret.
fn changed_lines(old: &str, new: &str) -> String {
    let gone = old.lines().filter(|line| !new.lines().any(|other| other == *line)).count();
    let come = new.lines().filter(|line| !old.lines().any(|other| other == *line)).count();
    format!("a script with {gone} lines gone and {come} come")
}

/// What one policy wants done with an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// Whose word it is.
    pub by: PluginId,
    /// What it wants.
    pub verdict: CacheVerdict,
}

/// What all policies together want kept, item by item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The word that counts for each item; none: the built-in judgement stands.
    pub words: Vec<Option<Word>>,
    /// For each item, the first word of a shadow that would have counted.
    pub shadows: Vec<Option<Word>>,
    /// What is to be told of each policy that was asked, in order.
    pub notes: Vec<Note>,
}

impl Judgement {
    /// Nobody has an opinion on any of so many items.
    pub fn new(items: usize) -> Self {
        Self { words: vec![None; items], shadows: vec![None; items], notes: Vec::new() }
    }

    /// Takes the answer of the next policy. A failure leaves everything to the others, whatever the site chose for machines.
    pub fn offer(&mut self, speaker: &Speaker, answer: Answer<Vec<Option<CacheVerdict>>>) {
        let outcome = match (speaker.mode, answer) {
            (Mode::Off, _) => return,
            (mode, Ok(Said::Answer(verdicts))) => {
                let what = self.take(speaker, verdicts);
                match (mode, what) {
                    (Mode::On, Some(what)) => Outcome::Decided(what),
                    (Mode::On, None) => Outcome::Passed,
                    (_, what) => Outcome::WouldHave(what),
                }
            }
            (_, Ok(Said::Error(message))) => Outcome::Error(message),
            (_, Err(silence)) => Outcome::Silent(silence),
        };
        self.notes.push(Note { speaker: speaker.clone(), outcome, call: None });
    }

    /// Whether a policy did not answer.
    pub fn has_failed(&self) -> bool {
        self.notes.iter().any(|note| matches!(note.outcome, Outcome::Silent(_)))
    }

    /// Takes the verdicts on items that nobody has judged before; what they come to, in words.
    fn take(&mut self, speaker: &Speaker, verdicts: Vec<Option<CacheVerdict>>) -> Option<String> {
        let mut tally = Tally::default();
        let places = self.words.iter_mut().zip(&mut self.shadows);
        for ((word, shadow), verdict) in places.zip(verdicts) {
            let (None, Some(verdict)) = (&word, verdict) else { continue };
            tally.count(&verdict);
            let spoken = Word { by: speaker.id.clone(), verdict };
            match speaker.mode {
                Mode::On => *word = Some(spoken),
                Mode::Shadow => _ = shadow.get_or_insert(spoken),
                Mode::Off => {}
            }
        }
        tally.words()
    }
}

/// How many items a policy wants pinned, given up, or kept in another order or for another time.
#[derive(Default)]
struct Tally {
    pinned: usize,
    given_up: usize,
    kept: usize,
}

impl Tally {
    fn count(&mut self, verdict: &CacheVerdict) {
        match verdict {
            CacheVerdict { store: false, .. } => self.given_up += 1,
            CacheVerdict { pin: true, .. } => self.pinned += 1,
            _ => self.kept += 1,
        }
    }

    fn words(&self) -> Option<String> {
        let parts = [("pin", self.pinned), ("give up", self.given_up), ("keep", self.kept)];
        let parts: Vec<_> = parts
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(what, count)| format!("{what} {count}"))
            .collect();
        (!parts.is_empty()).then(|| format!("{} items", parts.join(", ")))
    }
}

#[cfg(test)]
mod tests;
