//! What is remembered of versions of the agent, and every decision about them. Values in, values out.
//!
//! A version that is ordered is *staged*, *tested* and *tried*, and then proven or gone back from. [`Journal::step`] says what a start of
//! the installed program has to do, together with the journal that has to be on disk before it is done: so a start that is cut short
//! anywhere has been counted, and one that comes after it finds what is true.

use pureboot_protocol::{
    AgentUpdate, CommandId, ContentHash, ProgramVersion, SignedUpdate, SiteId, Target, Timestamp,
    UpdateEnded, UpdateFate, UpdateReport, UpdateState,
};
use serde::{Deserialize, Serialize};

/// How often a version is tested, and how often it is started, before it is given up.
pub const TRIES_MAX: u32 = 3;

/// Everything that is remembered: `update/journal.json` in the data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// What runs while nothing is on trial; none: the installed program.
    current: Option<Slot>,
    /// What ran before that and is kept; none: the installed program.
    previous: Option<Slot>,
    /// What is to run next.
    candidate: Option<Candidate>,
    /// The last update that has ended, and the order that it was.
    ended: Option<Ended>,
    /// When the newest order was issued that was obeyed.
    obeyed: Option<Timestamp>,
}

/// A program that lies in the data directory, under its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Its version.
    pub version: ProgramVersion,
    /// What it hashes to.
    pub sha256: ContentHash,
    /// The controller's word for it, which is checked at each start.
    pub signed: SignedUpdate,
    /// The version of the installed program when it came: where another one is installed later, that one is meant.
    pub installed: ProgramVersion,
}

/// A program that has to prove itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Candidate {
    slot: Slot,
    command: CommandId,
    phase: Phase,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    /// It is here, whole and verified.
    Staged,
    /// It was tested so often, and no test has ended.
    Tested { tries: u32 },
    /// It has passed its test, and was started so often.
    Tried { tries: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Ended {
    command: Option<CommandId>,
    #[serde(flatten)]
    update: UpdateEnded,
}

/// What a start does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// This very program serves.
    RunInstalled,
    /// The program in this slot, which has proven itself, takes over.
    Run(Slot),
    /// The program in this slot is asked whether it could serve here; then comes another step.
    Test(Slot),
    /// The program in this slot takes over, and has to prove itself.
    Try(Slot),
}

/// Why an order is not obeyed. The centre gets this text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is another site's.
    #[error("the update is for site {0}")]
    ForeignSite(SiteId),
    /// The machine could not run it.
    #[error("the update is for {offered}, and this agent runs on {here}")]
    ForeignTarget {
        /// What it is for.
        offered: Target,
        /// What is here.
        here: Target,
    },
    /// It was obeyed before, or something that was ordered later was.
    #[error("the update was ordered at {offered}, and one of {obeyed} has been obeyed")]
    Replayed {
        /// When it was ordered.
        offered: Timestamp,
        /// When the one was ordered that was obeyed.
        obeyed: Timestamp,
    },
    /// It is older than what runs.
    #[error(
        "version {offered} is older than {running}, which runs; --allow-downgrade orders it all the same"
    )]
    Downgrade {
        /// What is offered.
        offered: ProgramVersion,
        /// What runs.
        running: ProgramVersion,
    },
    /// It would not fit.
    #[error("the program has {0} bytes, and none that an agent runs has as many")]
    TooLarge(u64),
}

/// What to make of an order.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is to be fetched and staged.
    Stage,
    /// That version runs.
    Runs,
    /// It is staged or on trial by this very order.
    UnderWay,
    /// It has ended, by this very order.
    Ended(UpdateEnded),
}

/// Who is asked to obey.
#[derive(Debug, Clone, Copy)]
pub struct Here {
    /// The agent's site.
    pub site_id: SiteId,
    /// Its processor.
    pub target: Target,
    /// The version that runs.
    pub running: ProgramVersion,
}

impl Journal {
    /// What to make of the order `command`, whose signature was checked.
    ///
    /// # Errors
    /// It is not to be obeyed.
    pub fn weigh(
        &self,
        command: CommandId,
        offer: &AgentUpdate,
        here: Here,
    ) -> Result<Verdict, Refusal> {
        if self.candidate.as_ref().is_some_and(|candidate| candidate.command == command) {
            return Ok(Verdict::UnderWay);
        }
        if let Some(ended) = self.ended.as_ref().filter(|ended| ended.command == Some(command)) {
            return Ok(Verdict::Ended(ended.update.clone()));
        }
        if offer.site_id != here.site_id {
            return Err(Refusal::ForeignSite(offer.site_id));
        }
        if offer.target != here.target {
            return Err(Refusal::ForeignTarget { offered: offer.target, here: here.target });
        }
        if let Some(obeyed) = self.obeyed.filter(|obeyed| offer.issued_at <= *obeyed) {
            return Err(Refusal::Replayed { offered: offer.issued_at, obeyed });
        }
        if offer.size_bytes > pureboot_protocol::PROGRAM_LEN_MAX {
            return Err(Refusal::TooLarge(offer.size_bytes));
        }
        if offer.version == here.running {
            return Ok(Verdict::Runs);
        }
        if offer.version < here.running && !offer.allow_downgrade {
            return Err(Refusal::Downgrade { offered: offer.version, running: here.running });
        }
        Ok(Verdict::Stage)
    }

    /// The program in `slot` is here, whole and verified, because of `command`. It takes the place of one that waited.
    pub fn stage(&mut self, slot: Slot, issued_at: Timestamp, command: CommandId) {
        self.obeyed = Some(issued_at);
        self.candidate = Some(Candidate { slot, command, phase: Phase::Staged });
    }

    /// What a start of the installed program, which has version `installed`, has to do. This journal has to be on disk before.
    pub fn step(&mut self, installed: ProgramVersion, now: Timestamp) -> Step {
        // A package with another version came, which whoever installed it means to run, unless it is older than what was ordered.
        let is_overtaken = |slot: &Slot| installed != slot.installed && installed >= slot.version;
        if self.candidate.as_ref().is_some_and(|it| is_overtaken(&it.slot)) {
            self.end(
                UpdateFate::Refused,
                format!("version {installed} was installed meanwhile"),
                now,
            );
        }
        if self.current.as_ref().is_some_and(is_overtaken) {
            (self.current, self.previous) = (None, None);
        }
        if let Some(Candidate { slot, phase, .. }) = self.candidate.as_mut() {
            match *phase {
                Phase::Tested { tries: TRIES_MAX.. } => {
                    let why = format!("{TRIES_MAX} tests of it were cut short");
                    self.end(UpdateFate::Refused, why, now);
                }
                Phase::Tried { tries: TRIES_MAX.. } => {
                    let why = format!("it ended {TRIES_MAX} times before it had proven itself");
                    self.end(UpdateFate::GoneBack, why, now);
                }
                Phase::Staged => {
                    *phase = Phase::Tested { tries: 1 };
                    return Step::Test(slot.clone());
                }
                Phase::Tested { tries } => {
                    *phase = Phase::Tested { tries: tries + 1 };
                    return Step::Test(slot.clone());
                }
                Phase::Tried { tries } => {
                    *phase = Phase::Tried { tries: tries + 1 };
                    return Step::Try(slot.clone());
                }
            }
        }
        self.current.clone().map_or(Step::RunInstalled, Step::Run)
    }

    /// What was tested would serve.
    pub fn pass(&mut self) {
        if let Some(candidate) = &mut self.candidate {
            candidate.phase = Phase::Tried { tries: 0 };
        }
    }

    /// What was tested would not serve.
    pub fn fail(&mut self, why: String, now: Timestamp) {
        self.end(UpdateFate::Refused, why, now);
    }

    /// What is on trial is given up.
    pub fn go_back(&mut self, why: String, now: Timestamp) {
        self.end(UpdateFate::GoneBack, why, now);
    }

    /// What is on trial, if it is the program with this hash, has proven itself.
    pub fn prove(&mut self, sha256: ContentHash, now: Timestamp) -> bool {
        let is_meant = self.trial().is_some_and(|slot| slot.sha256 == sha256);
        let Some(Candidate { slot, .. }) = self.candidate.clone().filter(|_| is_meant) else {
            return false;
        };
        self.end(UpdateFate::Proven, String::new(), now);
        self.previous = self.current.replace(slot);
        true
    }

    /// The program in `slot`, which had proven itself, cannot run any more.
    pub fn lose(&mut self, slot: &Slot, why: String, now: Timestamp) {
        if self.candidate.as_ref().is_some_and(|candidate| candidate.slot == *slot) {
            self.end(UpdateFate::Refused, why, now);
        } else if self.current.as_ref() == Some(slot) {
            let update =
                UpdateEnded { version: slot.version, fate: UpdateFate::GoneBack, why, at: now };
            self.ended = Some(Ended { command: None, update });
            self.current = self.previous.take();
        }
    }

    /// A person wants the version before. Returns it, or none for the installed program.
    ///
    /// # Errors
    /// The installed program runs, and nothing waits.
    pub fn roll_back(&mut self, now: Timestamp) -> Result<Option<ProgramVersion>, NothingBefore> {
        let why = || "a person wanted the version before".to_owned();
        if self.candidate.is_some() {
            self.end(UpdateFate::GoneBack, why(), now);
        } else if let Some(Slot { version, .. }) = self.current.take() {
            let fate = UpdateFate::GoneBack;
            let update = UpdateEnded { version, fate, why: why(), at: now };
            self.ended = Some(Ended { command: None, update });
            self.current = self.previous.take();
        } else {
            return Err(NothingBefore);
        }
        Ok(self.current.as_ref().map(|slot| slot.version))
    }

    /// Another program is installed by a person, who means that one and nothing that lies here.
    pub fn clear(&mut self) {
        (self.current, self.previous, self.candidate) = (None, None, None);
    }

    fn end(&mut self, fate: UpdateFate, why: String, at: Timestamp) {
        if let Some(Candidate { slot, command, .. }) = self.candidate.take() {
            let update = UpdateEnded { version: slot.version, fate, why, at };
            self.ended = Some(Ended { command: Some(command), update });
        }
    }

    /// What has been started and not proven itself.
    pub fn trial(&self) -> Option<&Slot> {
        let Candidate { slot, phase, .. } = self.candidate.as_ref()?;
        matches!(phase, Phase::Tried { tries: 1.. }).then_some(slot)
    }

    /// What runs while nothing can be written down; none: the installed program.
    pub fn settled(&self) -> Option<&Slot> {
        self.current.as_ref()
    }

    /// Whether a program waits for a start.
    pub fn waits(&self) -> bool {
        self.candidate.is_some()
    }

    /// The programs that must stay.
    pub fn kept(&self) -> impl Iterator<Item = ContentHash> {
        let candidate = self.candidate.as_ref().map(|candidate| &candidate.slot);
        let slots = [self.current.as_ref(), self.previous.as_ref(), candidate];
        slots.into_iter().flatten().map(|slot| slot.sha256)
    }

    /// How things stand where the program with the hash `launched` runs; none: the installed one.
    pub fn report(&self, launched: Option<ContentHash>, target: Target) -> UpdateReport {
        let candidate = self.candidate.as_ref();
        let state = match (candidate, launched) {
            (Some(it), Some(launched)) if it.slot.sha256 == launched => UpdateState::OnTrial,
            (Some(_), _) => UpdateState::Staged,
            (None, Some(_)) => UpdateState::Updated,
            (None, None) => UpdateState::Installed,
        };
        let installed = self.current.as_ref().map(|slot| slot.installed);
        let before = self.previous.as_ref().map(|slot| slot.version).or(installed);
        let previous = match state {
            UpdateState::OnTrial => self
                .current
                .as_ref()
                .map(|slot| slot.version)
                .or(candidate.map(|candidate| candidate.slot.installed)),
            _ => before,
        };
        UpdateReport {
            target,
            state,
            candidate: candidate.map(|candidate| candidate.slot.version),
            previous,
            last: self.ended.as_ref().map(|ended| ended.update.clone()),
        }
    }
}

/// There is no version before.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the program that was installed runs, and no update waits: there is nothing to go back to")]
pub struct NothingBefore;

#[cfg(test)]
mod tests;
