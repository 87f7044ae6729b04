//! The agent's pulse: says how it is, takes the site's settings and orders.

use std::time::Duration;

use pureboot_protocol::{Heartbeat, HeartbeatAnswer, Order, SiteConfig, SiteOrder};

use crate::clock::{self, Timer};
use crate::exchange::ExchangeError;
use crate::nodes::follow::Follower;
use crate::outbox::Outbox;
use crate::rng::Rng;
use crate::status::Membership;
use crate::store::{Identity, Store, StoreError};
use crate::uplink::connectivity::Line;
use crate::uplink::controller::{CallError, Controller};
use crate::uplink::floor::Floor;
use crate::uplink::obey::{Content, Obeyer};
use crate::uplink::orders::Ending;
use crate::uplink::patience::Patience;
use crate::uplink::standing::Standing;
use crate::uplink::tenure::Tenure;

/// Between calls while they fail.
const RETRY: Duration = Duration::from_secs(30);

/// Between two beats at the least, whatever fails in between: a controller that takes heartbeats and refuses all else must not
/// be asked without end.
const UNBROKEN_REST: Duration = Duration::from_secs(5);

/// Measures what a heartbeat says.
pub trait Measure {
    /// The agent as it is now; `command_results` and `instance` are filled in by the caller.
    fn measure(&self) -> impl Future<Output = Heartbeat>;
}

/// Whom a heartbeat concerns.
pub struct Pulse<'a, V, C> {
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
    /// Which life of the agent beats.
    pub tenure: &'a Tenure,
    /// Hears what time it is.
    pub floor: &'a Floor,
    /// Carries out what the centre orders.
    pub obeyer: &'a Obeyer<'a, C>,
    /// Hears which manifest the site has.
    pub content: &'a C,
    /// Hears how far the centre's nodes have changed.
    pub follower: &'a Follower,
}

impl<V: Measure, C: Content> Pulse<'_, V, C> {
    /// Beats for as long as the agent runs; a beat that fails is tried again sooner.
    pub async fn run(&self, rng: &mut Rng) {
        let mut patience = Patience::default();
        loop {
            let pause = self.beat(&mut patience).await;
            // Up to a tenth earlier, so that the agents of forty sites do not beat in one instant.
            let pause = pause - rng.duration_between(Duration::ZERO, pause / 10);
            let unbroken = pause.min(UNBROKEN_REST);
            Timer::after(unbroken).await;
            let rest = async { _ = Timer::after(pause - unbroken).await };
            // A machine's question that failed is reason to look sooner how the line is; and whoever has ordered something waits.
            let reason = smol::future::or(self.standing.trouble(), self.obeyer.news());
            smol::future::or(rest, reason).await;
        }
    }

    /// One heartbeat; returns the pause until the next.
    async fn beat(&self, patience: &mut Patience) -> Duration {
        let vitals = self.vitals.measure().await;
        let heartbeat = Heartbeat {
            command_results: self.obeyer.results(),
            instance: Some(self.tenure.instance()),
            ..vitals
        };
        // A line that only falters is left to the outbox's own pauses.
        let was_away = matches!(self.standing.line(), Line::Untried | Line::Offline { .. });
        let was_heard = self.standing.membership() == Membership::Joined;
        let (asked_at, begun) = (clock::now(), clock::monotonic());
        let outcome = self.controller.heartbeat(&heartbeat, patience.budget()).await;
        let now = clock::now();
        self.standing.learn(&outcome, now);
        let interval = Duration::from_secs(self.standing.heartbeat_interval_s().into());
        match outcome {
            Ok(mut answer) => {
                patience.handle_answer(clock::monotonic().duration_since(begun));
                if was_away || !was_heard {
                    self.outbox.line_is_back();
                }
                self.tenure.hold().await;
                self.standing.handle_heartbeat(answer.server_time, now);
                let server_time = answer.server_time;
                self.follower.hear(answer.nodes_version, asked_at);
                self.content.hear(answer.manifest_version, now);
                let commands = std::mem::take(&mut answer.commands);
                if commands
                    .iter()
                    .any(|it| matches!(it.order, Order::Known(SiteOrder::Sync { .. })))
                {
                    self.follower.wish();
                }
                let is_ordered =
                    commands.iter().any(|it| it.order == Order::Known(SiteOrder::UpdateConfig {}));
                let settings = adopt(answer, is_ordered, self.store, self.standing).await;
                self.obeyer.handle_answer(&heartbeat.command_results, commands, settings);
                // Last, because it may wait for the disk.
                self.floor.hear(server_time, self.standing.clock(), now).await;
                interval
            }
            Err(error) => {
                if matches!(error, CallError::Exchange(ExchangeError::Late(_))) {
                    patience.handle_late();
                }
                log::debug!(error:%; "a heartbeat was not answered");
                interval.min(RETRY)
            }
        }
    }
}

/// Keeps the site's settings if there are new ones and they hold; says what became of them, for whoever has ordered it.
async fn adopt(
    answer: HeartbeatAnswer,
    is_ordered: bool,
    store: &Store,
    standing: &Standing,
) -> Ending {
    let (Some(config), Some(identity)) = (answer.config, standing.identity()) else {
        return Ending::failed("no settings came with the order");
    };
    let version = answer.config_version;
    match keep(config, version, is_ordered, identity, store, standing).await {
        Ok(()) => {
            log::info!(version; "took the site's settings");
            Ending::completed(format!("the settings are those of version {version}"))
        }
        Err(reason) => {
            log::warn!("the controller's settings for the site are not taken: {reason}");
            Ending::failed(reason.to_string())
        }
    }
}

async fn keep(
    config: SiteConfig,
    version: u64,
    is_ordered: bool,
    held: Identity,
    store: &Store,
    standing: &Standing,
) -> Result<(), Unfit> {
    check(&config, &held, version, is_ordered)?;
    let identity = Identity { config, config_version: version, ..held };
    store.save_identity(identity.clone()).await?;
    standing.join(identity);
    Ok(())
}

/// Why settings cannot be taken. Then the old ones stand.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("they are another site's")]
    OtherSite,
    #[error("version {offered} is not newer than version {held}")]
    Old { held: u64, offered: u64 },
    #[error("a heartbeat every {0} s is outside of {min} to {max} s", min = SiteConfig::HEARTBEAT_INTERVAL_S.start(), max = SiteConfig::HEARTBEAT_INTERVAL_S.end())]
    Interval(u32),
    #[error("they cannot be kept: {0}")]
    Unkept(#[from] StoreError),
}

/// Whether settings hold. An older version is good where somebody has ordered it: the controller's database is from a backup.
fn check(
    config: &SiteConfig,
    held: &Identity,
    offered: u64,
    is_ordered: bool,
) -> Result<(), Unfit> {
    if config.site_id != held.config.site_id {
        return Err(Unfit::OtherSite);
    }
    if offered <= held.config_version && !is_ordered {
        return Err(Unfit::Old { held: held.config_version, offered });
    }
    if !SiteConfig::HEARTBEAT_INTERVAL_S.contains(&config.heartbeat_interval) {
        return Err(Unfit::Interval(config.heartbeat_interval));
    }
    Ok(())
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
        let check = |config: &SiteConfig, offered, is_ordered| {
            check(config, &held, offered, is_ordered).map_err(|unfit| unfit.to_string())
        };
        assert_eq!(check(&same, 4, false), Ok(()));
        let old = Err("version 3 is not newer than version 3".to_owned());
        assert_eq!(check(&same, 3, false), old);
        for (interval, is_ordered) in [(0, false), (4, true), (3_601, false), (u32::MAX, true)] {
            let config = SiteConfig { heartbeat_interval: interval, ..same.clone() };
            let error = check(&config, 4, is_ordered).expect_err("outside");
            assert!(
                error.contains(&format!("every {interval} s is outside of 5 to 3600")),
                "{error}"
            );
        }
        let config = SiteConfig { site_id: SiteId::from_random([9; 16]), ..same };
        assert_eq!(check(&config, 4, true), Err("they are another site's".to_owned()));
    }

    #[test]
    fn c17_settings_that_are_ordered_are_taken_whatever_their_version() {
        let held = held();
        for offered in [1, 3, 4] {
            assert!(check(&held.config, &held, offered, true).is_ok(), "{offered}");
        }
    }
}
