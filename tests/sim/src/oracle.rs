//! What must hold, judged by what was said to machines and operators and by nothing else: no look into the agent tells the oracle
//! what is right.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use pureboot_protocol::{
    Change, ChangeBatch, ChangePayload, ChangeReceipt, ChangeResult, Epoch, Outcome,
};
use serde_json::Value;

/// What a run has broken; the names are the catalogue's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// I1: what a machine was told has been taken is at the controller.
    NoLoss,
    /// I2: and is there once.
    NoDuplicate,
    /// I3: in the order in which the machine was told.
    Order,
    /// I4: a machine gets a correct script in time.
    Boot,
    /// I5: nobody's decision is overwritten without a record of both.
    NoSilentOverwrite,
    /// I7: what is kept is bounded, and goes when it has been handed over.
    Bounded,
    /// I8: nobody has an effect without the right credential.
    Authority,
    /// DESIGN §12, 7: no disk is wiped twice for one wish.
    OneWish,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NoLoss => "I1 no loss",
            Self::NoDuplicate => "I2 no duplicate",
            Self::Order => "I3 order",
            Self::Boot => "I4 boot",
            Self::NoSilentOverwrite => "I5 no silent overwrite",
            Self::Bounded => "I7 bounded",
            Self::Authority => "I8 authority",
            Self::OneWish => "one installation for one wish",
        })
    }
}

/// That something does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What.
    pub invariant: Invariant,
    /// How that was seen.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.text)
    }
}

/// Why a run ends early.
#[derive(Debug)]
pub enum Stop {
    /// Something does not hold.
    Violated(Violation),
    /// The simulation itself has failed.
    Broken(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Broken(error.into())
    }
}

/// That `invariant` does not hold, because of `text`.
pub fn violated(invariant: Invariant, text: String) -> Stop {
    Stop::Violated(Violation { invariant, text })
}

/// One report of a machine. Its number is written into it, and is all by which it is found again.
#[derive(Debug, Clone)]
pub struct Report {
    /// Whose.
    pub machine: usize,
    /// Whether the machine was told that it has been taken.
    pub is_told: bool,
    /// What the controller has done with it, each time it was not a repetition.
    pub outcomes: Vec<Outcome>,
    /// Lost with what a restored backup did not have, by the controller's own account.
    pub is_excused: bool,
    /// Whether nobody but the controller has it any more: the disk that it came from has been damaged since.
    pub is_central_only: bool,
}

/// A wish of a site's operator, by the id of its change.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The machine.
    pub machine: usize,
    /// The site.
    pub site: usize,
    /// The version of the node that the site's operator saw.
    pub base: u64,
    /// Whether the site's operator was told that it has been taken.
    pub is_told: bool,
    /// The conflict that the controller made of it.
    pub conflict: Option<String>,
    /// Whether the controller has taken it.
    pub is_taken: bool,
    /// As for a report.
    pub is_excused: bool,
    /// As for a report.
    pub is_central_only: bool,
}

impl Wish {
    /// A wish that the site's operator was told has been taken.
    pub fn new(machine: usize, site: usize, base: u64) -> Self {
        Self {
            machine,
            site,
            base,
            is_told: true,
            conflict: None,
            is_taken: false,
            is_excused: false,
            is_central_only: false,
        }
    }
}

/// The memory of what was said.
#[derive(Debug, Clone, Default)]
pub struct Oracle {
    /// Reports by number.
    pub reports: BTreeMap<u64, Report>,
    /// The numbers of the reports of each machine, in the order in which they were told.
    pub told: BTreeMap<usize, Vec<u64>>,
    /// Wishes by the id of their change.
    pub wishes: BTreeMap<String, Wish>,
    /// Versions of each machine's node that operators made, with the state.
    pub decided: BTreeMap<usize, Vec<(u64, String)>>,
    /// How far the controller has ever taken each outbox.
    pub custody: BTreeMap<String, u64>,
    /// Which reports and wishes stand in which places of each outbox.
    pub places: BTreeMap<(String, u64), Place>,
    /// Whose outbox it is.
    pub outboxes: BTreeMap<String, usize>,
}

/// What stands in a place of an outbox.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A report's number.
    Report(u64),
    /// A wish's id.
    Wish(String),
}

impl Oracle {
    /// A machine reports; answers the report's number.
    pub fn begin(&mut self, machine: usize) -> u64 {
        let number = u64::try_from(self.reports.len()).unwrap_or(u64::MAX) + 1;
        let report = Report {
            machine,
            is_told: false,
            outcomes: Vec::new(),
            is_excused: false,
            is_central_only: false,
        };
        self.reports.insert(number, report);
        number
    }

    /// The machine was told that its report has been taken.
    pub fn tell(&mut self, number: u64) {
        let Some(report) = self.reports.get_mut(&number) else { return };
        report.is_told = true;
        self.told.entry(report.machine).or_default().push(number);
    }

    /// An operator has changed a node, which has this version and state now.
    pub fn decide(&mut self, machine: usize, version: u64, state: &str) {
        self.decided.entry(machine).or_default().push((version, state.to_owned()));
    }

    /// The controller has made a receipt for a batch, whether or not the agent gets to see it.
    ///
    /// `moves` are the versions in which the states of the machines' nodes have changed, of those that [`Self::silently_moved`] names.
    pub fn take(
        &mut self,
        site: usize,
        batch: &ChangeBatch,
        receipt: &ChangeReceipt,
        moves: &BTreeMap<usize, BTreeSet<u64>>,
    ) -> Result<(), Stop> {
        let epoch = receipt.epoch.to_string();
        self.outboxes.insert(epoch.clone(), site);
        for (item, result) in batch.items.iter().zip(&receipt.results) {
            if result.outcome == Outcome::Duplicate {
                continue;
            }
            match &item.payload {
                ChangePayload::Event(_) | ChangePayload::DeadLetter(_) => {
                    let Some(number) = report_of(&item.payload) else { continue };
                    self.places.insert((epoch.clone(), item.seq), Place::Report(number));
                    if let Some(report) = self.reports.get_mut(&number) {
                        report.outcomes.push(result.outcome);
                    }
                }
                ChangePayload::StateChange { state, .. } => {
                    let id = item.id.to_string();
                    self.places.insert((epoch.clone(), item.seq), Place::Wish(id.clone()));
                    self.judge_wish(item, state.as_str(), result, moves)?;
                }
                _ => {}
            }
        }
        let through = self.custody.entry(epoch).or_default();
        *through = (*through).max(receipt.acked_through);
        Ok(())
    }

    /// The machines of which a batch may have changed the state with no word of a conflict.
    pub fn silently_moved(&self, batch: &ChangeBatch, receipt: &ChangeReceipt) -> BTreeSet<usize> {
        let pairs = batch.items.iter().zip(&receipt.results);
        let silent = pairs.filter(|(item, result)| {
            matches!(item.payload, ChangePayload::StateChange { .. })
                && result.outcome == Outcome::Applied
                && result.conflict_id.is_none()
        });
        let wishes = silent.filter_map(|(item, _)| self.wishes.get(&item.id.to_string()));
        wishes.map(|wish| wish.machine).collect()
    }

    /// A wish that is applied with no word of a conflict must not have met anybody else's decision. One that finds what it wishes
    /// for moves nothing, and overwrites nobody.
    fn judge_wish(
        &mut self,
        change: &Change,
        state: &str,
        result: &ChangeResult,
        moves: &BTreeMap<usize, BTreeSet<u64>>,
    ) -> Result<(), Stop> {
        let Some(wish) = self.wishes.get_mut(&change.id.to_string()) else { return Ok(()) };
        wish.is_taken = true;
        wish.conflict = result.conflict_id.map(|conflict| conflict.to_string());
        let (Some(version), None) = (result.node_version, result.conflict_id) else {
            return Ok(());
        };
        if !moves.get(&wish.machine).is_some_and(|moves| moves.contains(&version)) {
            return Ok(());
        }
        let base = wish.base;
        let decided = self.decided.get(&wish.machine).map_or(&[][..], Vec::as_slice);
        let met = decided.iter().rfind(|(at, _)| *at > base && *at < version);
        match met {
            Some((at, theirs)) if theirs != state => Err(violated(
                Invariant::NoSilentOverwrite,
                format!(
                    "the wish for {state} on version {base} of machine {} was applied as version {version}, and an operator had made \
                     it {theirs} in version {at}",
                    wish.machine
                ),
            )),
            _ => Ok(()),
        }
    }

    /// What stands in these places of the outboxes of a site.
    pub fn places_of(&self, site: usize, from: u64, through: u64) -> BTreeSet<Place> {
        let is_there = |(epoch, seq): &(String, u64)| {
            (from..=through).contains(seq) && self.outboxes.get(epoch) == Some(&site)
        };
        let places = self.places.iter().filter(|(place, _)| is_there(place));
        places.map(|(_, place)| place.clone()).collect()
    }

    /// The disk of a site is damaged: these changes, which the controller has not, may be lost, and of those others nobody but the
    /// controller can be sure to have anything.
    pub fn damage(&mut self, is_here: impl Fn(usize) -> bool, site: usize) {
        for report in self.reports.values_mut().filter(|report| is_here(report.machine)) {
            let is_taken = !report.outcomes.is_empty();
            report.is_central_only |= is_taken;
            report.is_excused |= !is_taken;
        }
        for wish in self.wishes.values_mut().filter(|wish| wish.site == site) {
            wish.is_central_only |= wish.is_taken;
            wish.is_excused |= !wish.is_taken;
        }
    }

    /// The controller has been brought back from a backup, which was made when the oracle knew `then`: what it has taken since is
    /// not there, until it is sent again. What nobody can send again is lost with the second of two disks.
    pub fn restore(&mut self, then: &Self) {
        self.decided.clone_from(&then.decided);
        for (number, report) in &mut self.reports {
            let before = then.reports.get(number);
            report.outcomes = before.map_or_else(Vec::new, |before| before.outcomes.clone());
            report.is_excused |= report.is_central_only && report.outcomes.is_empty();
        }
        for (id, wish) in &mut self.wishes {
            let before = then.wishes.get(id);
            wish.is_taken = before.is_some_and(|before| before.is_taken);
            wish.conflict = before.and_then(|before| before.conflict.clone());
            wish.is_excused |= wish.is_central_only && !wish.is_taken;
        }
    }

    /// The controller says that it has lost these changes of an outbox with the backup that was restored.
    pub fn excuse(&mut self, lost: &BTreeSet<Place>) {
        for place in lost {
            match place {
                Place::Report(number) => {
                    if let Some(report) = self.reports.get_mut(number) {
                        report.is_excused = true;
                        report.outcomes.clear();
                    }
                }
                Place::Wish(id) => {
                    if let Some(wish) = self.wishes.get_mut(id) {
                        wish.is_excused = true;
                        wish.is_taken = false;
                    }
                }
            }
        }
    }

    /// An agent of outbox `epoch` no longer has the changes up to `through`.
    pub fn forget(&self, epoch: Epoch, through: u64) -> Result<(), Stop> {
        let taken = self.custody.get(&epoch.to_string()).copied().unwrap_or(0);
        if through <= taken {
            return Ok(());
        }
        Err(violated(
            Invariant::NoLoss,
            format!(
                "the agent has deleted change {through} of its outbox, and the controller has taken them up to {taken}"
            ),
        ))
    }
}

/// The number of the report in a change, also of one in an envelope.
pub fn report_of(payload: &ChangePayload) -> Option<u64> {
    match payload {
        ChangePayload::Event(event) => number_of(event.message.as_ref().map(|it| it.as_str())),
        ChangePayload::DeadLetter(letter) => {
            let event = serde_json::from_str::<Value>(letter.payload.as_ref()?).ok()?;
            number_of(event["message"].as_str())
        }
        _ => None,
    }
}

/// The number that is written into a report's message.
pub fn number_of(message: Option<&str>) -> Option<u64> {
    message?.strip_prefix("report ")?.parse().ok()
}

/// What a report's message says.
pub fn message(number: u64) -> String {
    format!("report {number}")
}
