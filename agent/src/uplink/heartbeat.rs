//! The agent's pulse: says how it is, takes the site's settings and orders.

use std::time::Duration;

use pureboot_protocol::{
    CommandResult, CommandStatus, Heartbeat, HeartbeatAnswer, SiteCommand, SiteConfig,
};
use smol::Timer;

use crate::clock;
use crate::outbox::Outbox;
use crate::rng::Rng;
use crate::store::Identity;
use crate::store::Store;
use crate::uplink::connectivity::Line;
use crate::uplink::controller::Controller;
use crate::uplink::standing::Standing;

/// Orders taken from one answer; more are left for the controller to repeat.
const COMMANDS_MAX: usize = 16;

/// Between calls while they fail.
const RETRY: Duration = Duration::from_secs(30);

/// Between two beats at the least, whatever fails in between: a controller that takes heartbeats and refuses all else must not
/// be asked without end.
const UNBROKEN_REST: Duration = Duration::from_secs(5);

/// Measures what a heartbeat says.
pub trait Measure {
    /// The agent as it is now; `command_results` is filled in by the caller.
    fn measure(&self) -> impl Future<Output = Heartbeat>;
}

/// Whom a heartbeat concerns.
pub struct Pulse<'a, V> {
    /// Who is told.
    pub controller: &'a Controller,
    /// What is told.
    pub vitals: &'a V,
    /// Keeps the site's settings.
    pub store: &'a Store,
    /// Obeys them.
    pub standing: &'a Standing,
    /// Is told when the line is back.
    pub outbox: &'a Outbox,
}

impl<V: Measure> Pulse<'_, V> {
    /// Beats for as long as the agent runs; a beat that fails is tried again sooner.
    pub async fn run(&self, rng: &mut Rng) {
        let mut command_results = Vec::new();
        loop {
            let pause = self.beat(&mut command_results).await;
            // Up to a tenth earlier, so that the agents of forty sites do not beat in one instant.
            let pause = pause - rng.duration_between(Duration::ZERO, pause / 10);
            let unbroken = pause.min(UNBROKEN_REST);
            Timer::after(unbroken).await;
            let rest = async { _ = Timer::after(pause - unbroken).await };
            // A machine's question that failed is reason to look sooner how the line is.
            smol::future::or(rest, self.standing.trouble()).await;
        }
    }

    /// One heartbeat; returns the pause until the next.
    async fn beat(&self, command_results: &mut Vec<CommandResult>) -> Duration {
        let heartbeat =
            Heartbeat { command_results: command_results.clone(), ..self.vitals.measure().await };
        // A line that only falters is left to the outbox's own pauses.
        let was_away = matches!(self.standing.line(), Line::Untried | Line::Offline { .. });
        let outcome = self.controller.heartbeat(&heartbeat).await;
        let now = clock::now();
        self.standing.learn(&outcome, now);
        let interval = Duration::from_secs(self.standing.heartbeat_interval_s().into());
        match outcome {
            Ok(answer) => {
                if was_away {
                    self.outbox.line_is_back();
                }
                self.standing.handle_heartbeat(answer.server_time, now);
                *command_results = obey(&answer.commands);
                adopt(answer, self.store, self.standing).await;
                interval
            }
            Err(error) => {
                log::debug!(error:%; "a heartbeat was not answered");
                interval.min(RETRY)
            }
        }
    }
}

/// Keeps the site's settings if they are new and hold.
async fn adopt(answer: HeartbeatAnswer, store: &Store, standing: &Standing) {
    let (Some(config), Some(identity)) = (answer.config, standing.identity()) else { return };
    if let Err(reason) = check(&config, &identity, answer.config_version) {
        log::warn!("the controller's settings for the site are not taken: {reason}");
        return;
    }
    let version = answer.config_version;
    let identity = Identity { config, config_version: version, ..identity };
    match store.save_identity(identity.clone()).await {
        Ok(()) => {
            log::info!(version; "took the site's settings");
            standing.join(identity);
        }
        Err(error) => log::warn!(error:%; "cannot keep the site's settings; the old ones stand"),
    }
}

/// Why settings cannot be taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Unfit {
    #[error("they are another site's")]
    OtherSite,
    #[error("version {offered} is not newer than version {held}")]
    Old { held: u64, offered: u64 },
    #[error("a heartbeat every {0} s is outside of {min} to {max} s", min = SiteConfig::HEARTBEAT_INTERVAL_S.start(), max = SiteConfig::HEARTBEAT_INTERVAL_S.end())]
    Interval(u32),
}

fn check(config: &SiteConfig, held: &Identity, offered: u64) -> Result<(), Unfit> {
    if config.site_id != held.config.site_id {
        return Err(Unfit::OtherSite);
    }
    if offered <= held.config_version {
        return Err(Unfit::Old { held: held.config_version, offered });
    }
    if !SiteConfig::HEARTBEAT_INTERVAL_S.contains(&config.heartbeat_interval) {
        return Err(Unfit::Interval(config.heartbeat_interval));
    }
    Ok(())
}

/// Orders that this version knows are none; each is reported back, so that the controller's operator learns of it.
fn obey(commands: &[SiteCommand]) -> Vec<CommandResult> {
    let unsupported = |command: &SiteCommand| CommandResult {
        id: command.id.clone(),
        status: CommandStatus::Unsupported,
        message: format!("agent {} does not know '{}'", env!("CARGO_PKG_VERSION"), command.command),
    };
    commands.iter().take(COMMANDS_MAX).map(unsupported).collect()
}

#[cfg(test)]
mod tests {
    use pureboot_protocol::{AgentId, Autonomy, CachePolicy, SiteId, Timestamp};

    use super::*;

    fn held() -> Identity {
        Identity {
            agent_id: AgentId::from_random([1; 16]),
            config: SiteConfig {
                site_id: SiteId::from_random([2; 16]),
                site_name: "berlin".to_owned(),
                autonomy_level: Autonomy::Readonly,
                cache_policy: CachePolicy::Minimal,
                cache_patterns: Vec::new(),
                cache_max_size_gb: None,
                cache_retention_days: 30,
                heartbeat_interval: 60,
            },
            config_version: 3,
            registered_at: Timestamp::from_unix_ms(0),
        }
    }

    #[test]
    fn c13_settings_that_do_not_hold_are_refused() {
        let held = held();
        let same = held.config.clone();
        assert_eq!(check(&same, &held, 4), Ok(()));
        assert_eq!(check(&same, &held, 3), Err(Unfit::Old { held: 3, offered: 3 }));
        for interval in [0, 4, 3_601, u32::MAX] {
            let config = SiteConfig { heartbeat_interval: interval, ..same.clone() };
            assert_eq!(check(&config, &held, 4), Err(Unfit::Interval(interval)));
        }
        let config = SiteConfig { site_id: SiteId::from_random([9; 16]), ..same };
        assert_eq!(check(&config, &held, 4), Err(Unfit::OtherSite));
    }

    #[test]
    fn c14_unknown_orders_are_reported_back_and_a_flood_is_cut() {
        let command = |n: usize| SiteCommand { id: n.to_string(), command: "dance".to_owned() };
        let results = obey(&(0..10_000).map(command).collect::<Vec<_>>());
        assert_eq!(results.len(), COMMANDS_MAX);
        assert!(results.iter().all(|result| result.status == CommandStatus::Unsupported));
        assert!(results.first().is_some_and(|result| result.message.contains("'dance'")));
    }
}
