//! Site policies: what a site is assigned, how the packages are named, and how policies fare.
//!
//! The assignment of a site is part of its signed [`Manifest`], so that it is signed, is kept for the time without
//! controller, and never goes back. A package is content: [`package_key`] of the policy, its version and the engine that it was
//! compiled for is an entry of the same manifest, which says its length and hash.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::site::words;
use crate::{Category, ContentHash, ContentKey, Manifest, ManifestEntry};

/// The most policies of a site.
pub const POLICIES_MAX: usize = 16;

/// The longest text of a failure in a report, in characters.
pub const FAILURE_LEN_MAX: usize = 300;

/// What the file of a package ends with.
const PACKAGE_SUFFIX: &str = "pbp";

/// Why a text is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginWordError {
    text: String,
    what: &'static str,
    expected: &'static str,
}

impl PluginWordError {
    fn new(text: &str, what: &'static str, expected: &'static str) -> Self {
        Self { text: text.chars().take(80).collect(), what, expected }
    }
}

impl fmt::Display for PluginWordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not {}: {}", self.text, self.what, self.expected)
    }
}

impl std::error::Error for PluginWordError {}

/// A newtype over a text that is checked when it is read.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $pattern:literal, $what:literal, $expected:literal, $is_right:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String", extend("pattern" = $pattern)))]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = PluginWordError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let is_right: fn(&str) -> bool = $is_right;
                if is_right(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(PluginWordError::new(text, $what, $expected))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = PluginWordError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

/// The longest name of a policy or of an engine, in bytes.
const NAME_LEN_MAX: usize = 63;

checked_text!(
    /// The name of a policy.
    PluginId,
    "^[a-z][a-z0-9-]{0,62}$",
    "a plugin's name",
    "at most 63 of a-z, 0-9 and '-', the first a letter",
    |text| {
        let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.len() <= NAME_LEN_MAX
            && text.bytes().all(is_allowed)
    }
);

checked_text!(
    /// What a policy's code was compiled for: release, interpreter and settings of the engine, as agents report it.
    EngineId,
    "^[a-z][a-z0-9.-]{0,62}$",
    "an engine",
    "at most 63 of a-z, 0-9, '.' and '-', the first a letter",
    |text| {
        let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
        text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.len() <= NAME_LEN_MAX
            && text.bytes().all(is_allowed)
    }
);

/// The version of a policy, `1.2.3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String", extend("pattern" = r"^[0-9]+\.[0-9]+\.[0-9]+$")))]
#[serde(try_from = "String", into = "String")]
pub struct PluginVersion {
    /// Rises when sites have to change their settings.
    pub major: u32,
    /// Rises with what it can do.
    pub minor: u32,
    /// Rises with every other change.
    pub patch: u32,
}

impl FromStr for PluginVersion {
    type Err = PluginWordError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |part: &str| {
            // One spelling each: a second one would be a second version.
            let number = part.parse::<u32>().ok()?;
            (number.to_string() == part).then_some(number)
        };
        let mut parts = text.split('.').map(number);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Some(major)), Some(Some(minor)), Some(Some(patch)), None) => {
                Ok(Self { major, minor, patch })
            }
            _ => Err(PluginWordError::new(text, "a version", "three numbers such as 1.2.3")),
        }
    }
}

impl TryFrom<String> for PluginVersion {
    type Error = PluginWordError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PluginVersion> for String {
    fn from(version: PluginVersion) -> Self {
        version.to_string()
    }
}

impl fmt::Display for PluginVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}.{}", self.major, self.minor, self.patch))
    }
}

words! {
    /// What a policy may use beyond its arguments.
    Capability {
        /// The site's record of its nodes.
        Nodes = "nodes",
    }
}

words! {
    /// What a site does with a policy's answers. A policy that nobody has put into use yet is watched first.
    #[derive(Default)]
    PluginMode {
        /// The policy is not asked.
        Off = "off",
        /// It is asked, what it would have changed is noted, and nothing is changed.
        #[default]
        Shadow = "shadow",
        /// Its answers count.
        On = "on",
    }
}

words! {
    /// What happens to a machine whose policy failed.
    #[derive(Default)]
    OnFailure {
        /// It is as if the policy had no opinion.
        #[default]
        Builtin = "builtin",
        /// It waits and asks again.
        Hold = "hold",
        /// It is not served.
        Refuse = "refuse",
    }
}

/// One policy of a site. The site's are an ordered list: whose word counts first stands first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PolicyAssignment {
    /// The policy; once in a list.
    pub plugin: PluginId,
    /// The version that the site is to run, also one that is lower than what it runs now.
    pub version: PluginVersion,
    /// The SHA-256 of the component: what the policy is, for whatever engine it was compiled. A package of the same name and
    /// version whose header says another one is refused.
    pub wasm: ContentHash,
    /// What is done with its answers.
    #[serde(default)]
    pub mode: PluginMode,
    /// What is done if there is none.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// What the site lets it use.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub grants: BTreeSet<Capability>,
    /// The site's values of its settings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

impl PolicyAssignment {
    /// The name of its package for an engine.
    pub fn package_key(&self, engine: &EngineId) -> ContentKey {
        package_key(&self.plugin, self.version, engine)
    }
}

/// The name of a package: `plugins/rack-window/1.2.3/wt48.0.8-pulley64-pb1.pbp`.
pub fn package_key(plugin: &PluginId, version: PluginVersion, engine: &EngineId) -> ContentKey {
    let path = format!("{plugin}/{version}/{engine}.{PACKAGE_SUFFIX}");
    ContentKey::new(Category::Plugins, &path).expect("its parts are segments of names of content")
}

impl Manifest {
    /// The entry of an assigned policy's package for an engine; none where the controller has not compiled it yet.
    pub fn package(&self, policy: &PolicyAssignment, engine: &EngineId) -> Option<&ManifestEntry> {
        let key = policy.package_key(engine);
        self.entries.iter().find(|entry| entry.key == key)
    }
}

words! {
    /// How an assigned policy stands at its site.
    PolicyState {
        /// It runs, in the version that is assigned.
        Running = "running",
        /// It failed so often that it is not asked for a while.
        SetAside = "set_aside",
        /// A version before the assigned one runs, because that one failed soon after it came.
        RolledBack = "rolled_back",
        /// Its package is not here yet, or not compiled for this agent's engine yet. An earlier version may run.
        Awaited = "awaited",
        /// Its package is here and cannot be run. An earlier version may run.
        Refused = "refused",
    }
}

/// How one policy fares, since its version came or the agent started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PolicyReport {
    /// The policy.
    pub plugin: PluginId,
    /// The version that the site is to run.
    pub assigned: PluginVersion,
    /// The version that is asked; none if none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<PluginVersion>,
    /// How it stands.
    pub state: PolicyState,
    /// What is done with its answers.
    pub mode: PluginMode,
    /// Questions that it answered.
    pub answers: u64,
    /// Questions that it said it cannot decide.
    pub errors: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Questions that it was not asked, because it was set aside or too many waited.
    pub skipped: u64,
    /// The fuel that 99 of 100 of its last calls stayed within.
    pub fuel_p99: u64,
    /// All fuel that it burnt.
    pub fuel_total: u64,
    /// The longest call, in microseconds.
    pub took_max_us: u64,
    /// All of its calls, in microseconds.
    pub took_total_us: u64,
    /// For how many seconds more it is set aside; none if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_aside_seconds: Option<u64>,
    /// Its last failure, or why it is refused or awaited; at most [`FAILURE_LEN_MAX`] characters of one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// The policies of a site, as its agent's heartbeat tells of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PoliciesReport {
    /// The engine that packages have to be compiled for.
    pub engine: EngineId,
    /// One for each that is assigned, in their order, at most [`POLICIES_MAX`].
    #[serde(default)]
    pub policies: Vec<PolicyReport>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> PolicyAssignment {
        PolicyAssignment {
            plugin: "rack-window".parse().expect("a name"),
            version: PluginVersion { major: 1, minor: 2, patch: 3 },
            wasm: ContentHash::from_digest([7; 32]),
            mode: PluginMode::On,
            on_failure: OnFailure::Hold,
            grants: [Capability::Nodes].into(),
            settings: [("from".to_owned(), "22:00".to_owned())].into(),
        }
    }

    #[test]
    fn an_assignment_is_read_back_and_what_it_leaves_out_is_harmless() {
        let text = serde_json::to_string(&policy()).expect("JSON");
        assert_eq!(serde_json::from_str::<PolicyAssignment>(&text).expect("read"), policy());
        let wasm = ContentHash::from_digest([7; 32]);
        let least = format!(r#"{{"plugin":"a","version":"1.0.0","wasm":"{wasm}"}}"#);
        let least: PolicyAssignment = serde_json::from_str(&least).expect("read");
        let chosen = (least.mode, least.on_failure, least.grants.len());
        assert_eq!(chosen, (PluginMode::Shadow, OnFailure::Builtin, 0));
    }

    #[test]
    fn a_package_is_content_under_its_policy_version_and_engine() {
        let engine = "wt48.0.8-pulley64-pb1".parse().expect("an engine");
        let key = policy().package_key(&engine);
        assert_eq!(key.to_string(), "plugins/rack-window/1.2.3/wt48.0.8-pulley64-pb1.pbp");
    }

    #[test]
    fn a_name_of_a_policy_can_stand_in_a_path_and_a_log() {
        for text in ["a", "rack-window", "x9"] {
            assert_eq!(text.parse::<PluginId>().expect("a name").to_string(), text);
        }
        for text in ["", "9a", "-a", "A", "a/b", "a.b", "a\n", &"a".repeat(64)] {
            assert!(text.parse::<PluginId>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_version_has_one_spelling(text in "[0-9.]{1,8}") {
            if let Ok(version) = text.parse::<PluginVersion>() {
                prop_assert_eq!(version.to_string(), text);
            }
        }

        #[test]
        fn every_engine_s_name_makes_a_name_of_content(text in "[a-z][a-z0-9.-]{0,62}") {
            let engine: EngineId = text.parse().expect("an engine");
            package_key(&policy().plugin, policy().version, &engine);
        }
    }
}
