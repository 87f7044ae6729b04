//! Faults that happen at a moment: processes that end, disks that fail, clocks that jump, a controller that comes from a backup.

use std::time::Duration;

use crate::faults::{Fault, Planted};
use crate::oracle::Stop;
use crate::scenario::{Event, HOUR, Scenario};

impl Scenario {
    /// Whether `fault` happens to something that it happens to so often of a hundred times, by the chance `name`.
    pub fn befalls(&mut self, fault: Fault, name: &'static str, percent: u64) -> bool {
        let does = self.is_chaos && self.has(fault) && self.draw(name).percent(percent);
        self.tally.faults += u64::from(does);
        does
    }

    /// A fault happens.
    pub fn strike(&mut self, fault: Fault, site: usize) -> Result<(), Stop> {
        self.schedule(fault, site);
        self.tally.faults += 1;
        self.note(&format!("{fault} at site {site}"));
        match fault {
            Fault::Crash => {
                let dice = self.draw("faults");
                let (jobs, ends_after) =
                    (u32::try_from(dice.below(12)).unwrap_or(0), dice.percent(50));
                if let Some(life) = &self.sites[site].life {
                    life.bench.with(|disk| {
                        (disk.ends_in, disk.ends_after) = (Some(jobs), ends_after);
                    });
                }
            }
            Fault::DiskFull => {
                if let Some(life) = &self.sites[site].life {
                    life.bench.with(|disk| disk.is_full = !disk.is_full);
                }
            }
            Fault::DiskFails => {
                let times = u32::try_from(self.draw("faults").below(5)).unwrap_or(0) + 1;
                if let Some(life) = &self.sites[site].life {
                    life.bench.with(|disk| disk.fails = times);
                }
            }
            Fault::DiskDamaged => {
                self.excuse_site(site);
                if self.sites[site].life.is_some() {
                    self.end_agent(site)?;
                }
                self.sites[site].damage()?;
            }
            Fault::ClockJumps => {
                let years = i64::try_from(self.draw("faults").below(21)).unwrap_or(10) - 10;
                self.sites[site].skew_ms = years * 365 * 86_400_000;
            }
            Fault::CentreCrash | Fault::CentreRestore => {
                if self.draw("faults").percent(30) {
                    return self.strike_centre(fault);
                }
                self.doom = Some(fault);
            }
            _ => {}
        }
        Ok(())
    }

    /// The controller ends, or is brought back from a backup.
    pub fn strike_centre(&mut self, fault: Fault) -> Result<(), Stop> {
        match fault {
            Fault::CentreRestore => self.restore_centre(),
            _ => self.kill_centre(),
        }
    }

    fn kill_centre(&mut self) -> Result<(), Stop> {
        if !self.centre.is_up() {
            return Ok(());
        }
        self.centre.kill()?;
        let lost = match self.options.planted {
            Some(Planted::ConflictLost) => Some(
                "PRAGMA foreign_keys = OFF; DELETE FROM conflicts",
            ),
            Some(Planted::DedupeLost) => Some(
                "UPDATE outboxes SET acked_through = acked_through - 1 WHERE id = (SELECT outbox_id FROM changes ORDER BY received_at DESC, seq DESC LIMIT 1);
                 DELETE FROM changes WHERE seq > (SELECT acked_through FROM outboxes WHERE outboxes.id = outbox_id)",
            ),
            _ => None,
        };
        if let Some(lost) = lost {
            self.centre.database()?.execute_batch(lost)?;
        }
        let pause = self.draw("faults").span(Duration::from_secs(1), 2 * HOUR);
        self.after(pause, Event::StartCentre);
        Ok(())
    }

    /// Brings the controller back from its last backup. What it took into custody since, and says that it has lost, is excused;
    /// what the agents still have is not.
    fn restore_centre(&mut self) -> Result<(), Stop> {
        let Some(backup) = self.backup.take() else { return Ok(()) };
        self.centre.bring_back(&backup.image)?;
        self.oracle.restore(&backup.oracle);
        for machine in &mut self.machines {
            machine.installed_for = None;
        }
        self.backup = Some(backup);
        Ok(())
    }

    /// What a damaged disk had, and the controller has not, may be lost.
    fn excuse_site(&mut self, site: usize) {
        let machines = &self.machines;
        let is_here =
            |number: usize| machines.get(number).is_some_and(|machine| machine.site == site);
        self.oracle.damage(is_here, site);
        for machine in self.machines.iter_mut().filter(|machine| machine.site == site) {
            machine.installed_for = None;
        }
    }
}
