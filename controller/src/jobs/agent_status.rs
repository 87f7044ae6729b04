//! Notices that agents fall silent. That they speak again is noticed at their heartbeat.

use std::time::Duration;

use pureboot_protocol::{AgentStatus, Timestamp};

use crate::router::App;
use crate::store::{Silence, StoreError};

/// How often the agents are looked at.
pub(super) const PERIOD: Duration = Duration::from_secs(5);

/// Looks at the agents once. `started` is since when they could be heard.
pub(crate) async fn look(app: &App, started: Timestamp) -> Result<(), StoreError> {
    let now = app.now();
    for silence in app.store.silences().await? {
        let Some(status) = worse(&silence, started, now) else { continue };
        if app.store.set_agent_status(silence, status).await? {
            let seconds = now.seconds_since(silence.last_seen);
            tracing::warn!(site = %silence.site_id, %status, "the agent of site {} is {status}: no word for {seconds} s", silence.site_id);
        }
    }
    Ok(())
}

/// The status that an agent has fallen to; none if it stays as it is.
fn worse(silence: &Silence, started: Timestamp, now: Timestamp) -> Option<AgentStatus> {
    // Nobody was silent while nobody listened.
    let silent_since = silence.last_seen.max(started);
    let status =
        AgentStatus::from_silence(now.seconds_since(silent_since), silence.interval_seconds);
    (status > silence.status).then_some(status)
}

#[cfg(test)]
mod tests {
    use pureboot_protocol::SiteId;

    use super::*;

    #[test]
    fn silence_only_ever_makes_a_status_worse_and_counts_from_the_controllers_start() {
        use AgentStatus::{Degraded, Offline, Online};
        for (status, last_seen, started, expected) in [
            (Online, 990, 0, None),
            (Online, 980, 0, Some(Degraded)),
            (Online, 900, 0, Some(Offline)),
            (Degraded, 980, 0, None),
            (Degraded, 900, 0, Some(Offline)),
            (Offline, 900, 0, None),
            (Online, 900, 995, None),
            (Offline, 900, 995, None),
        ] {
            let silence = Silence {
                site_id: SiteId::from_random([0; 16]),
                status,
                last_seen: Timestamp::from_unix_ms(last_seen * 1_000),
                interval_seconds: 10,
            };
            let (started, now) = (started * 1_000, 1_000_000);
            let (started, now) = (Timestamp::from_unix_ms(started), Timestamp::from_unix_ms(now));
            assert_eq!(worse(&silence, started, now), expected, "{silence:?} {started}");
        }
    }
}
