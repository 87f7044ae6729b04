//! A question, the answer that is expected, and the fuel that it may burn. What a question leaves out has its default.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pureboot_plugin_host::answer::Ground;
use pureboot_plugin_host::facts::{
    BootFacts, CacheContext, CacheItem, CacheVerdict, Decision, Node, NodeCache, Purpose, Vars,
};
use pureboot_plugin_host::package::Hook;
use pureboot_plugin_host::plugin::{Called, FUEL, JUDGE_FUEL, Plugin, Said};
use pureboot_plugin_host::state::{LogBook, Severity};
use pureboot_protocol::{ContentKey, Mac};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// One question, and what is expected.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "hook", deny_unknown_fields, rename_all = "kebab-case")]
pub enum Fixture {
    /// What a machine boots.
    #[serde(rename_all = "kebab-case")]
    Boot {
        /// What the policy decides by.
        request: Box<BootFacts>,
        /// The site's values of its settings.
        #[serde(default)]
        settings: Vars,
        /// What the site knows of its nodes.
        #[serde(default)]
        nodes: Vec<Node>,
        /// The decision.
        #[serde(default)]
        expect: Option<Decision>,
        /// That it cannot decide, in its words.
        #[serde(default)]
        expect_error: Option<String>,
        /// The most fuel.
        #[serde(default)]
        max_fuel: Option<u64>,
    },
    /// The script that a machine gets.
    #[serde(rename_all = "kebab-case")]
    Script {
        /// What the policy decides by.
        request: Box<BootFacts>,
        /// What the script is for.
        #[serde(default = "purpose_default")]
        purpose: Purpose,
        /// The script.
        script: String,
        /// The site's values of its settings.
        #[serde(default)]
        settings: Vars,
        /// What the site knows of its nodes.
        #[serde(default)]
        nodes: Vec<Node>,
        /// The other script; null: the script stays.
        #[serde(default, deserialize_with = "given")]
        expect: Option<Option<String>>,
        /// That it cannot decide, in its words.
        #[serde(default)]
        expect_error: Option<String>,
        /// The most fuel.
        #[serde(default)]
        max_fuel: Option<u64>,
    },
    /// What the site keeps.
    #[serde(rename_all = "kebab-case")]
    Cache {
        /// How full the cache is.
        #[serde(default)]
        context: CacheContext,
        /// What it holds.
        items: Vec<CacheItem>,
        /// The site's values of its settings.
        #[serde(default)]
        settings: Vars,
        /// What the site knows of its nodes.
        #[serde(default)]
        nodes: Vec<Node>,
        /// A verdict, or none, for each item.
        #[serde(default)]
        expect: Option<Vec<Option<CacheVerdict>>>,
        /// That it cannot decide, in its words.
        #[serde(default)]
        expect_error: Option<String>,
        /// The most fuel.
        #[serde(default)]
        max_fuel: Option<u64>,
    },
}

fn purpose_default() -> Purpose {
    Purpose::Workflow
}

/// Tells null from nothing.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// What the policy said, or that it cannot decide, or how the call failed.
    pub outcome: Outcome,
    /// The fuel that was burnt.
    pub fuel: u64,
    /// The fuel that there was.
    pub fuel_max: u64,
    /// The memory that it had at the end, in bytes.
    pub memory_bytes: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// What it logged.
    pub log: Vec<String>,
}

/// What a policy came to, for people and files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// An answer, which was checked.
    Answer(Value),
    /// That it cannot decide.
    Error(String),
    /// The call failed, or the policy has no such hook.
    Failure(String),
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Answer(value) => write!(f, "{value}"),
            Self::Error(message) => write!(f, "the error {message:?}"),
            Self::Failure(why) => write!(f, "a failure: {why}"),
        }
    }
}

/// What came of a fixture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// What was not as expected; none if all was.
    pub fault: Option<String>,
    /// What came of the question.
    pub asked: Asked,
}

impl Fixture {
    /// Reads a fixture.
    ///
    /// # Errors
    /// It is none; the text says where.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(text).map_err(|error| error.to_string())
    }

    /// The hook that is asked.
    pub fn hook(&self) -> Hook {
        match self {
            Self::Boot { .. } => Hook::Boot,
            Self::Script { .. } => Hook::Script,
            Self::Cache { .. } => Hook::Cache,
        }
    }

    fn nodes(&self) -> &[Node] {
        match self {
            Self::Boot { nodes, .. } | Self::Script { nodes, .. } | Self::Cache { nodes, .. } => {
                nodes
            }
        }
    }

    fn max_fuel(&self) -> Option<u64> {
        match self {
            Self::Boot { max_fuel, .. }
            | Self::Script { max_fuel, .. }
            | Self::Cache { max_fuel, .. } => *max_fuel,
        }
    }

    /// What is expected; none if nothing is, or two things are.
    fn expected(&self) -> Option<Outcome> {
        let (answer, error) = match self {
            Self::Boot { expect, expect_error, .. } => (expect.as_ref().map(value), expect_error),
            Self::Script { expect, expect_error, .. } => (expect.as_ref().map(value), expect_error),
            Self::Cache { expect, expect_error, .. } => (expect.as_ref().map(value), expect_error),
        };
        match (answer, error) {
            (Some(answer), None) => Some(Outcome::Answer(answer)),
            (None, Some(message)) => Some(Outcome::Error(message.clone())),
            _ => None,
        }
    }
}

fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

/// The nodes of the fixture that is being asked.
#[derive(Debug, Default)]
pub struct Nodes(Mutex<Vec<Node>>);

impl Nodes {
    fn list(&self) -> std::sync::MutexGuard<'_, Vec<Node>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeCache for Nodes {
    fn get(&self, mac: Mac) -> Option<Node> {
        self.list().iter().find(|node| node.mac == mac).cloned()
    }

    fn in_group(&self, group: &str) -> Vec<Node> {
        self.list().iter().filter(|node| node.group.as_deref() == Some(group)).cloned().collect()
    }
}

/// A site that has everything, and where a machine is installed that asks for it.
struct Bench<'a>(Option<&'a Node>);

impl Ground for Bench<'_> {
    fn may_install(&self, _: &str) -> Result<(), String> {
        match self.0.map(|node| node.state.as_str()) {
            Some("pending" | "installing") => Ok(()),
            Some(state) => {
                Err(format!("the node is {state}, and only one that is pending is installed"))
            }
            None => Err("the site does not know the machine".to_owned()),
        }
    }

    fn holds(&self, _: &ContentKey) -> bool {
        true
    }

    fn check_script(&self, _: &str) -> Result<(), String> {
        Ok(())
    }
}

/// A policy that is asked fixtures.
pub struct Asker {
    plugin: Plugin,
    nodes: Arc<Nodes>,
}

impl Asker {
    /// Asks `plugin`, which was loaded with `nodes`.
    pub fn new(plugin: Plugin, nodes: Arc<Nodes>) -> Self {
        Self { plugin, nodes }
    }

    /// Asks the question of a fixture.
    pub async fn ask(&self, fixture: &Fixture) -> Asked {
        self.nodes.list().clone_from(&fixture.nodes().to_vec());
        match fixture {
            Fixture::Boot { request, settings, .. } => {
                let settings = self.plugin.settings(settings);
                let ground = Bench(request.node.as_ref());
                asked(self.plugin.decide(request, &settings, &ground).await, FUEL, fixture)
            }
            Fixture::Script { request, purpose, script, settings, .. } => {
                let settings = self.plugin.settings(settings);
                let ground = Bench(request.node.as_ref());
                let called = self.plugin.patch(request, &settings, *purpose, script, &ground);
                asked(called.await, FUEL, fixture)
            }
            Fixture::Cache { context, items, settings, .. } => {
                let settings = self.plugin.settings(settings);
                let (fuel, per_item) = JUDGE_FUEL;
                let fuel = fuel + per_item * u64::try_from(items.len()).unwrap_or_default();
                asked(self.plugin.judge(context, &settings, items).await, fuel, fixture)
            }
        }
    }

    /// Asks a fixture and compares.
    pub async fn test(&self, name: &str, fixture: &Fixture) -> Report {
        let asked = self.ask(fixture).await;
        let fault = match (fixture.expected(), fixture.max_fuel()) {
            (None, _) => {
                Some("it expects nothing: give it either expect or expect-error".to_owned())
            }
            (Some(expected), _) if expected != asked.outcome => {
                Some(format!("expected {expected}, got {}", asked.outcome))
            }
            (_, Some(max)) if asked.fuel > max => {
                Some(format!("expected at most {max} fuel, it burnt {}", asked.fuel))
            }
            _ => None,
        };
        Report { name: name.to_owned(), fault, asked }
    }
}

fn asked<T: Serialize>(called: Option<Called<T>>, fuel_max: u64, fixture: &Fixture) -> Asked {
    let Some(Called { said, cost, log, .. }) = called else {
        let why = format!("the policy has no hook {}", fixture.hook());
        let outcome = Outcome::Failure(why);
        return Asked { outcome, fuel: 0, fuel_max, memory_bytes: 0, took_us: 0, log: Vec::new() };
    };
    let outcome = match said {
        Ok(Said::Answer(answer)) => Outcome::Answer(value(&answer)),
        Ok(Said::Error(message)) => Outcome::Error(message),
        Err(failure) => Outcome::Failure(failure.to_string()),
    };
    Asked {
        outcome,
        fuel: cost.fuel,
        fuel_max,
        memory_bytes: u64::try_from(cost.memory).unwrap_or(u64::MAX),
        took_us: micros(cost.took),
        log: lines(&log),
    }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

fn lines(log: &LogBook) -> Vec<String> {
    let word = |severity| match severity {
        Severity::Debug => "debug",
        Severity::Info => "info",
        Severity::Warn => "warn",
    };
    let mut lines: Vec<_> =
        log.lines.iter().map(|line| format!("{}: {}", word(line.severity), line.text)).collect();
    if log.dropped > 0 {
        lines.push(format!("({} more lines were dropped)", log.dropped));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(text: &str) -> Option<Outcome> {
        Fixture::parse(text.as_bytes()).expect("a fixture").expected()
    }

    #[test]
    fn a_fixture_tells_a_script_that_stays_from_nothing_expected() {
        let with = |rest: &str| {
            format!(
                r##"{{"hook":"script","request":{{"mac":"52:54:00:12:34:56"}},"script":"#!ipxe"{rest}}}"##
            )
        };
        assert_eq!(expected(&with("")), None);
        assert_eq!(expected(&with(r#","expect":null"#)), Some(Outcome::Answer(Value::Null)));
        let both = with(r#","expect":"a","expect-error":"b""#);
        assert_eq!(expected(&both), None);
    }

    #[test]
    fn a_fixture_with_a_misspelt_field_is_refused_by_name() {
        let text = br#"{"hook":"boot","request":{"mac":"52:54:00:12:34:56"},"expects":{}}"#;
        assert!(Fixture::parse(text).expect_err("refused").contains("expects"));
    }
}
