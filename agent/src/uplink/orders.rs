//! The centre's orders on their way through the agent: which are to be carried out, and what is to be told of them. No I/O.
//!
//! Hand the commands of an answer to [`Orders::take`], carry out what it returns, and tell [`Orders::finish`] how each has ended;
//! send [`Orders::results`] with the next heartbeat, and tell [`Orders::handle_told`] when that was answered. A command that comes
//! again is not carried out again while what became of it is remembered.

use std::collections::VecDeque;
use std::fmt;

use pureboot_protocol::{
    COMMAND_RESULTS_MAX, COMMANDS_MAX, CommandId, CommandOutcome, CommandResult, Order,
    SiteCommand, SiteOrder,
};

use crate::update::release;

/// The longest detail that is told, in characters: as many results as there may be fit into one heartbeat.
const DETAIL_LEN_MAX: usize = 200;

/// How a command has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    outcome: CommandOutcome,
    detail: String,
}

impl Ending {
    /// It is done.
    pub fn completed(detail: impl Into<String>) -> Self {
        Self { outcome: CommandOutcome::Completed, detail: detail.into() }
    }

    /// It was tried in vain, and trying it again would be in vain too.
    pub fn failed(detail: impl Into<String>) -> Self {
        Self { outcome: CommandOutcome::Failed, detail: detail.into() }
    }

    /// This agent cannot do that.
    pub fn unsupported(detail: impl Into<String>) -> Self {
        Self { outcome: CommandOutcome::Unsupported, detail: detail.into() }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.outcome, self.detail)
    }
}

/// A command that is to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// What its end is told under.
    pub id: CommandId,
    /// What is to be done.
    pub order: SiteOrder,
}

#[derive(Debug)]
struct Entry {
    id: CommandId,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// It is carried out.
    Underway { progress: String },
    /// It has ended, and the controller may not know.
    Ended(Ending),
    /// It has ended, and the controller has said that it knows. Should it ask again, it has lost that.
    Told(Ending),
}

/// Everything that is remembered of commands: as many as one heartbeat can tell of.
#[derive(Debug, Default)]
pub struct Orders {
    entries: VecDeque<Entry>,
}

impl Orders {
    /// Takes the commands of an answer; returns those that are to be carried out. What is beyond the limits is left to come again.
    pub fn take(&mut self, commands: Vec<SiteCommand>) -> Vec<Taken> {
        let mut taken = Vec::new();
        for SiteCommand { id, order } in commands.into_iter().take(COMMANDS_MAX) {
            if let Some(entry) = self.entry(id) {
                if let State::Told(ending) = &entry.state {
                    entry.state = State::Ended(ending.clone());
                }
                continue;
            }
            if !self.make_room() {
                break;
            }
            let state = match order {
                Order::Known(order) => {
                    taken.push(Taken { id, order });
                    State::Underway { progress: String::new() }
                }
                Order::Foreign { command } => State::Ended(foreign(&command)),
            };
            self.entries.push_back(Entry { id, state });
        }
        taken
    }

    /// A command that is carried out has come so far.
    pub fn note_progress(&mut self, id: CommandId, text: String) {
        if let Some(Entry { state: State::Underway { progress }, .. }) = self.entry(id) {
            *progress = text;
        }
    }

    /// A command has ended.
    pub fn finish(&mut self, id: CommandId, ending: Ending) {
        if let Some(entry) = self.entry(id) {
            entry.state = State::Ended(ending);
        }
    }

    /// A command could not be carried out now, and may be when it comes again.
    pub fn put_off(&mut self, id: CommandId) {
        self.entries.retain(|entry| entry.id != id);
    }

    /// What the next heartbeat is to say.
    pub fn results(&self) -> Vec<CommandResult> {
        let result = |entry: &Entry| {
            let (outcome, detail) = match &entry.state {
                State::Underway { progress } => (CommandOutcome::Started, progress),
                State::Ended(ending) => (ending.outcome, &ending.detail),
                State::Told(_) => return None,
            };
            let detail = detail.chars().take(DETAIL_LEN_MAX).collect();
            Some(CommandResult { id: entry.id, outcome, detail })
        };
        self.entries.iter().filter_map(result).collect()
    }

    /// The controller has answered a heartbeat that said `results`.
    pub fn handle_told(&mut self, results: &[CommandResult]) {
        for result in results.iter().filter(|result| result.outcome != CommandOutcome::Started) {
            if let Some(entry) = self.entry(result.id)
                && let State::Ended(ending) = &entry.state
            {
                entry.state = State::Told(ending.clone());
            }
        }
    }

    fn entry(&mut self, id: CommandId) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.id == id)
    }

    /// Makes room for one more by forgetting what was told longest ago; false where nothing was.
    fn make_room(&mut self) -> bool {
        if self.entries.len() < COMMAND_RESULTS_MAX {
            return true;
        }
        let told = self.entries.iter().position(|entry| matches!(entry.state, State::Told(_)));
        told.and_then(|at| self.entries.remove(at)).is_some()
    }
}

fn foreign(command: &str) -> Ending {
    let name: String = command.chars().take(64).collect();
    Ending::unsupported(format!(
        "agent {} does not know '{name}', or not with these params",
        release::version()
    ))
}

#[cfg(test)]
mod tests;
