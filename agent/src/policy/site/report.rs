//! How the site's policies fare, for heartbeats, people and monitoring.

use pureboot_plugin_host::policies::Status;
use pureboot_protocol::{
    FAILURE_LEN_MAX, PoliciesReport, PolicyAssignment, PolicyReport, PolicyState,
};

use super::SitePolicies;
use super::load::{Trouble, engine_id};

impl SitePolicies {
    /// Every assigned policy, in order.
    pub fn report(&self) -> PoliciesReport {
        let (status, troubles) = (self.running().status(), self.troubles.borrow());
        let assigned = self.assigned();
        let policies = assigned.iter().map(|policy| {
            let status = status.iter().find(|status| status.id == policy.plugin);
            describe(policy, status, troubles.get(&policy.plugin))
        });
        PoliciesReport { engine: engine_id(), policies: policies.collect() }
    }
}

fn describe(
    policy: &PolicyAssignment,
    status: Option<&Status>,
    trouble: Option<&Trouble>,
) -> PolicyReport {
    let running = status.map(|status| status.version);
    let state = match (trouble, status) {
        (Some(Trouble::Refused { .. }), _) => PolicyState::Refused,
        (Some(Trouble::Awaited(_)), _) | (None, None) => PolicyState::Awaited,
        (None, Some(status)) if status.aside_for.is_some() => PolicyState::SetAside,
        (None, Some(status)) if status.version < policy.version => PolicyState::RolledBack,
        (None, Some(_)) => PolicyState::Running,
    };
    let counts = status.map(|status| status.counts).unwrap_or_default();
    let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let failure = match trouble {
        Some(trouble) => Some(trouble.why()),
        None => status.and_then(|status| status.last_failure.as_deref()),
    };
    PolicyReport {
        plugin: policy.plugin.clone(),
        assigned: policy.version,
        running,
        state,
        mode: policy.mode,
        answers: counts.answers,
        errors: counts.errors,
        failures: counts.failures,
        skipped: counts.skipped,
        fuel_p99: status.map_or(0, |status| status.fuel_p99),
        fuel_total: status.map_or(0, |status| status.fuel_total),
        took_max_us: status.map_or(0, |status| micros(status.took_max)),
        took_total_us: status.map_or(0, |status| micros(status.took_total)),
        set_aside_seconds: status.and_then(|status| Some(status.aside_for?.as_secs())),
        failure: failure.map(one_line),
    }
}

fn one_line(text: &str) -> String {
    let is_shown = |letter: &char| !letter.is_control();
    text.chars().filter(is_shown).take(FAILURE_LEN_MAX).collect()
}
