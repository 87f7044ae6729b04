//! What of the policies' fate survives a restart: which are set aside, and which have gone back to an earlier version.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use pureboot_protocol::{PluginId, PluginVersion, Timestamp};
use serde::{Deserialize, Serialize};

use crate::data_dir::{self, DataDir};

/// The longest file, in bytes: a few hundred bytes for each policy.
const FILE_LEN_MAX: u64 = 64 << 10;

/// The fate of the site's policies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Those that went back. It holds for as long as the version that failed is the assigned one.
    #[serde(default)]
    pub rolled_back: BTreeMap<PluginId, RolledBack>,
    /// Those that are set aside.
    #[serde(default)]
    pub aside: BTreeMap<PluginId, Aside>,
}

/// A policy that has gone back to an earlier version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    /// The version that failed.
    pub from: PluginVersion,
    /// The version that is asked instead.
    pub to: PluginVersion,
}

/// A policy that is not asked for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aside {
    /// The version that failed.
    pub version: PluginVersion,
    /// When it is tried again.
    pub until: Timestamp,
    /// For how long it was set aside, in seconds; the next time it is twice as long.
    pub pause_s: u64,
}

impl Aside {
    /// What is left at `now`: none where the clock says that it is over. One that was set back adds nothing.
    pub fn rest(&self, now: Timestamp) -> Duration {
        let rest = u64::try_from(self.until.seconds_since(now)).unwrap_or(0);
        Duration::from_secs(rest.min(self.pause_s))
    }
}

impl Kept {
    /// The version that a site runs whose manifest says `assigned`.
    pub fn version(&self, id: &PluginId, assigned: PluginVersion) -> PluginVersion {
        match self.rolled_back.get(id) {
            Some(went) if went.from == assigned => went.to,
            _ => assigned,
        }
    }

    /// Forgets what is about other versions than those that are assigned now.
    pub fn retain(&mut self, assigned: impl Fn(&PluginId) -> Option<PluginVersion>) {
        self.rolled_back.retain(|id, went| assigned(id) == Some(went.from));
        let versions: BTreeMap<_, _> = self
            .aside
            .keys()
            .filter_map(|id| Some((id.clone(), self.version(id, assigned(id)?))))
            .collect();
        self.aside.retain(|id, aside| versions.get(id) == Some(&aside.version));
    }

    /// What an earlier run has kept. A file that is damaged is nothing, and is told.
    pub fn load(data_dir: &DataDir) -> Self {
        let load = || -> anyhow::Result<Option<Self>> {
            let path = data_dir.policies_file();
            let Some(text) = data_dir::read_private_up_to(&path, FILE_LEN_MAX)? else {
                return Ok(None);
            };
            serde_json::from_slice(text.as_bytes())
                .with_context(|| format!("{} is damaged", path.display()))
        };
        load()
            .unwrap_or_else(|error| {
                log::warn!("the fate of the site's policies is not known: {error:#}");
                None
            })
            .unwrap_or_default()
    }

    /// Writes it down.
    ///
    /// # Errors
    /// The disk's.
    pub fn save(&self, data_dir: &DataDir) -> anyhow::Result<()> {
        let text =
            serde_json::to_string(self).context("cannot write the policies' fate as JSON")?;
        data_dir::write_private(&data_dir.policies_file(), &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> PluginVersion {
        text.parse().expect("a version")
    }

    #[test]
    fn a_version_that_went_back_stays_away_until_another_is_assigned() {
        let id: PluginId = "a".parse().expect("a name");
        let went = RolledBack { from: version("2.0.0"), to: version("1.0.0") };
        let aside = Aside {
            version: version("1.0.0"),
            until: Timestamp::from_unix_ms(60_000),
            pause_s: 60,
        };
        let mut kept =
            Kept { rolled_back: [(id.clone(), went)].into(), aside: [(id.clone(), aside)].into() };
        assert_eq!(kept.version(&id, version("2.0.0")), version("1.0.0"));
        assert_eq!(kept.version(&id, version("2.0.1")), version("2.0.1"));
        let before = kept.clone();
        kept.retain(|_| Some(version("2.0.0")));
        assert_eq!(kept, before);
        kept.retain(|_| Some(version("2.0.1")));
        assert_eq!(kept, Kept::default());
    }

    #[test]
    fn a_clock_that_goes_back_sets_nobody_aside_for_longer() {
        let until = Timestamp::from_unix_ms(100_000);
        let aside = Aside { version: version("1.0.0"), until, pause_s: 60 };
        assert_eq!(aside.rest(Timestamp::from_unix_ms(90_000)), Duration::from_secs(10));
        assert_eq!(aside.rest(Timestamp::from_unix_ms(200_000)), Duration::ZERO);
        assert_eq!(aside.rest(Timestamp::from_unix_ms(-9_000_000)), Duration::from_secs(60));
    }
}
