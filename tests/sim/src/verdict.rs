//! The verdict at the end of a run: what machines were told, against what the controller has.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use pureboot_protocol::{Change, Outcome};

use crate::oracle::{Invariant, Stop, number_of, report_of, violated};
use crate::scenario::Scenario;

/// What the controller has at the end.
struct Held {
    /// The numbers of the reports of each node, in the order of its log.
    events: BTreeMap<usize, Vec<u64>>,
    /// Reports that are parked.
    parked: BTreeSet<u64>,
    /// The ids of all conflicts.
    conflicts: BTreeSet<String>,
}

impl Scenario {
    /// Judges the end of a run.
    pub fn judge(&mut self) -> Result<(), Stop> {
        self.note("the verdict");
        for site in 0..self.sites.len() {
            self.check_drained(site)?;
            self.check_size(site)?;
        }
        let held = self.held()?;
        self.excuse_restores()?;
        self.check_reports(&held)?;
        self.check_wishes(&held)?;
        self.check_agreement()
    }

    /// Everything has been handed over.
    fn check_drained(&self, number: usize) -> Result<(), Stop> {
        let site = &self.sites[number];
        let wrong = |text| Err(violated(Invariant::Bounded, text));
        let Some(life) = &site.life else {
            return wrong(format!("agent {number} does not run although nothing has ended it"));
        };
        let pending = smol::future::block_on(life.outbox.counts())?.pending;
        if pending == 0 {
            return Ok(());
        }
        let trouble = life.outbox.trouble().last_error.unwrap_or_default();
        wrong(format!(
            "{pending} changes of site {number} still wait at the end, hours after everything was mended: {trouble}"
        ))
    }

    fn held(&self) -> Result<Held> {
        let mut events = BTreeMap::new();
        for number in 0..self.machines.len() {
            let Some(node) = self.node(number)? else { continue };
            let id = node["id"].as_str().unwrap_or_default();
            let mut logged: Vec<_> = self
                .centre
                .list(&format!("/api/v1/nodes/{id}/events"))?
                .iter()
                .filter_map(|event| {
                    Some((event["id"].as_u64()?, number_of(event["message"].as_str())?))
                })
                .collect();
            logged.sort_unstable();
            events.insert(number, logged.into_iter().map(|(_, report)| report).collect());
        }
        let mut parked = BTreeSet::new();
        for site in &self.sites {
            for mut row in self.centre.list(&format!("/api/v1/sites/{}/parked", site.id))? {
                let change: Change = serde_json::from_value(row["change"].take())?;
                parked.extend(report_of(&change.payload));
            }
        }
        let mut conflicts = BTreeSet::new();
        for status in ["open", "resolved"] {
            let listed = self.centre.list(&format!("/api/v1/sync/conflicts?status={status}"))?;
            conflicts.extend(listed.iter().filter_map(|it| Some(it["id"].as_str()?.to_owned())));
        }
        Ok(Held { events, parked, conflicts })
    }

    /// What the controller itself says that it has lost with the backup that was restored.
    fn excuse_restores(&mut self) -> Result<(), Stop> {
        let mut lost = BTreeSet::new();
        for entry in self.centre.list("/api/v1/audit?action=changes.lost")? {
            let (Some(from), Some(through)) =
                (entry["detail"]["from"].as_u64(), entry["detail"]["through"].as_u64())
            else {
                continue;
            };
            let site = self.sites.iter().position(|site| entry["target"] == site.id.to_string());
            let Some(site) = site else { continue };
            lost.extend(self.oracle.places_of(site, from, through));
        }
        self.oracle.excuse(&lost);
        Ok(())
    }

    fn check_reports(&self, held: &Held) -> Result<(), Stop> {
        for (number, report) in &self.oracle.reports {
            let logged = held.events.get(&report.machine).map_or(&[][..], Vec::as_slice);
            let times = logged.iter().filter(|logged| *logged == number).count();
            let is_parked = held.parked.contains(number);
            let is_disputed = report.outcomes.contains(&Outcome::Conflict);
            let times = times + usize::from(is_parked) + usize::from(is_disputed);
            if times > 1 {
                let text =
                    format!("report {number} of machine {} is there {times} times", report.machine);
                return Err(violated(Invariant::NoDuplicate, text));
            }
            if times == 0 && report.is_told && !report.is_excused {
                let text = format!(
                    "machine {} was told that report {number} is taken, and the controller does not have it",
                    report.machine
                );
                return Err(violated(Invariant::NoLoss, text));
            }
        }
        self.check_order(held)
    }

    /// What a machine was told first comes first.
    fn check_order(&self, held: &Held) -> Result<(), Stop> {
        for (machine, told) in &self.oracle.told {
            let Some(logged) = held.events.get(machine) else { continue };
            let places: BTreeMap<_, _> = logged.iter().zip(0..).collect::<BTreeMap<_, usize>>();
            let mut last = None;
            for number in told {
                let Some(place) = places.get(number) else { continue };
                if last.is_some_and(|(_, before)| *place < before) {
                    let before = last.map_or(0, |(before, _)| before);
                    let text = format!(
                        "report {number} of machine {machine} comes before report {before}, which was taken earlier"
                    );
                    return Err(violated(Invariant::Order, text));
                }
                last = Some((*number, *place));
            }
        }
        Ok(())
    }

    fn check_wishes(&self, held: &Held) -> Result<(), Stop> {
        for (id, wish) in &self.oracle.wishes {
            if wish.is_excused {
                continue;
            }
            if wish.is_told && !wish.is_taken {
                let text = format!(
                    "the wish {id} over machine {} never came to the controller",
                    wish.machine
                );
                return Err(violated(Invariant::NoLoss, text));
            }
            if let Some(conflict) =
                wish.conflict.as_ref().filter(|it| !held.conflicts.contains(*it))
            {
                let text = format!(
                    "the wish {id} is a part of conflict {conflict}, which the controller does not have"
                );
                return Err(violated(Invariant::NoSilentOverwrite, text));
            }
        }
        Ok(())
    }

    /// Site and controller mean the same by a machine, now that each has heard the other.
    fn check_agreement(&self) -> Result<(), Stop> {
        for (number, machine) in self.machines.iter().enumerate() {
            let Some(node) = self.node(number)? else { continue };
            let life = self.sites[machine.site].life.as_ref();
            let Some(known) = life.and_then(|life| life.store.node(machine.mac)?.known) else {
                continue;
            };
            let is_open = known.record.conflict_id.is_some();
            let (here, there) =
                (known.record.state.as_str(), node["state"].as_str().unwrap_or_default());
            if here != there && !is_open {
                let text = format!(
                    "site {} takes machine {number} for {here}, the controller for {there}",
                    machine.site
                );
                return Err(violated(Invariant::NoSilentOverwrite, text));
            }
        }
        Ok(())
    }
}
