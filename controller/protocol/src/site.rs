//! A site's settings, as operators choose them and agents obey them.

use serde::{Deserialize, Serialize};

use crate::SiteId;

/// A closed set of words: an enum whose variants are written in snake_case in JSON, in the database and on the command line.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant),+
        }

        impl $name {
            /// Every member, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word for it in JSON and in the database.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::site::UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::site::UnknownWord {
                        word: text.chars().take(64).collect(),
                        expected: &[$($word),+],
                    }),
                }
            }
        }
    };
}
pub(crate) use words;

/// A word that is not in the set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownWord {
    pub(crate) word: String,
    pub(crate) expected: &'static [&'static str],
}

impl std::fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "'{}' is none of {}", self.word, self.expected.join(", "))
    }
}

impl std::error::Error for UnknownWord {}

words! {
    /// What a site may decide while the controller is away.
    Autonomy {
        /// No discovery and no state changes: both are kept for the controller.
        Readonly = "readonly",
        /// Discovery, and forward moves that report what a machine already did.
        Limited = "limited",
        /// Everything.
        Full = "full",
    }
}

words! {
    /// Who is right when site and controller changed the same node.
    ConflictResolution {
        /// The controller's side stands.
        CentralWins = "central_wins",
        /// The later change stands, by corrected clocks.
        LastWrite = "last_write",
        /// The site's side stands.
        SiteWins = "site_wins",
        /// A person decides.
        Manual = "manual",
    }
}

words! {
    /// What a site's cache fetches before anybody asks for it.
    CachePolicy {
        /// Boot loaders and what active workflows need.
        Minimal = "minimal",
        /// Also what the site is assigned.
        Assigned = "assigned",
        /// Everything.
        Mirror = "mirror",
        /// What matches the site's patterns.
        Pattern = "pattern",
    }
}

words! {
    /// How machines at the site find their agent.
    DiscoveryMethod {
        /// The site's DHCP server names it.
        Dhcp = "dhcp",
        /// A well-known name.
        Dns = "dns",
        /// A shared address.
        Anycast = "anycast",
        /// A list of addresses.
        Fallback = "fallback",
    }
}

words! {
    /// What happens when a node of another site boots here.
    MigrationPolicy {
        /// A person decides.
        Manual = "manual",
        /// This site takes it.
        AutoAccept = "auto_accept",
        /// The other site lets it go.
        AutoRelease = "auto_release",
        /// Both.
        Bidirectional = "bidirectional",
    }
}

words! {
    /// What the controller makes of an agent's heartbeats.
    AgentStatus {
        /// The last one is younger than 2 intervals.
        Online = "online",
        /// 2 to 5 intervals.
        Degraded = "degraded",
        /// Older than 5 intervals.
        Offline = "offline",
    }
}

impl AgentStatus {
    /// The status of an agent whose last heartbeat was received `silence_seconds` ago.
    pub fn from_silence(silence_seconds: i64, interval_seconds: u32) -> Self {
        let interval_seconds = i64::from(interval_seconds.max(1));
        if silence_seconds < 2 * interval_seconds {
            Self::Online
        } else if silence_seconds <= 5 * interval_seconds {
            Self::Degraded
        } else {
            Self::Offline
        }
    }
}

/// What the controller tells an agent about its own site; kept by the agent for starts without controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SiteConfig {
    /// The site.
    pub site_id: SiteId,
    /// Its name, for people.
    pub site_name: String,
    /// What the agent may decide alone.
    pub autonomy_level: Autonomy,
    /// What the cache fetches ahead.
    pub cache_policy: CachePolicy,
    /// Globs over `category/path` for [`CachePolicy::Pattern`].
    pub cache_patterns: Vec<String>,
    /// The cache's limit in units of 10^9 bytes; none: the agent's own limit.
    pub cache_max_size_gb: Option<u32>,
    /// Days without use after which content may go.
    pub cache_retention_days: u32,
    /// Seconds between heartbeats.
    pub heartbeat_interval: u32,
}

impl SiteConfig {
    /// The seconds between heartbeats that a site may have.
    pub const HEARTBEAT_INTERVAL_S: std::ops::RangeInclusive<u32> = 5..=3_600;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_back() {
        for autonomy in Autonomy::ALL {
            assert_eq!(autonomy.as_str().parse(), Ok(*autonomy));
        }
        let error = "Full".parse::<Autonomy>().expect_err("words are lower-case");
        assert_eq!(error.to_string(), "'Full' is none of readonly, limited, full");
    }

    #[test]
    fn an_agent_is_judged_by_missed_intervals() {
        for (silence_seconds, status) in [
            (-5, AgentStatus::Online),
            (119, AgentStatus::Online),
            (120, AgentStatus::Degraded),
            (300, AgentStatus::Degraded),
            (301, AgentStatus::Offline),
        ] {
            assert_eq!(AgentStatus::from_silence(silence_seconds, 60), status, "{silence_seconds}");
        }
    }
}
