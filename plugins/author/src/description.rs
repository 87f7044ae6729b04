//! What an author says of a policy, in `policy.json`.

use std::collections::{BTreeMap, BTreeSet};

use pureboot_plugin_host::answer::VAR_VALUE_LEN_MAX;
use pureboot_plugin_host::package::{
    Capability, Header, Hook, MEMORY_MIB, PluginId, Setting, Version,
};
use pureboot_protocol::ContentHash;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest description, in bytes.
pub const DESCRIPTION_LEN_MAX: usize = 64 << 10;

/// The most settings that a policy declares.
pub const SETTINGS_MAX: usize = 64;

/// What a policy is, as its author says it. What is not known here is refused: it would not be obeyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Description {
    /// The policy's name.
    pub name: PluginId,
    /// Its version; another component needs another one.
    pub version: Version,
    /// What it is for, in a line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The hooks that it has; those of the component, where nothing is said.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub hooks: BTreeSet<Hook>,
    /// What it asks sites for.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub capabilities: BTreeSet<Capability>,
    /// The memory that one call may use, in MiB.
    #[serde(default = "memory_mib_default")]
    pub memory_mib: u16,
    /// What a site may set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, SettingRule>,
}

fn memory_mib_default() -> u16 {
    16
}

/// A setting, with the values that it may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingRule {
    /// What it is where the site says nothing.
    pub default: String,
    /// What it is for.
    pub help: String,
    /// What kind of value it has.
    #[serde(rename = "type", default)]
    pub kind: SettingKind,
    /// The least number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<i64>,
    /// The greatest number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<i64>,
    /// The words of a choice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
}

/// What kind of value a setting has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SettingKind {
    /// One line.
    #[default]
    Text,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Flag,
    /// One of some words.
    Choice,
    /// A time of day, such as `22:30`.
    Time,
}

/// Why a description is none. Its author reads this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescriptionError {
    /// It is no JSON, or has other fields.
    #[error("policy.json: {0}")]
    Json(String),
    /// A number is beyond its bounds.
    #[error("policy.json: memory-mib is {0}, and may be {least} to {most}", least = MEMORY_MIB.start(), most = MEMORY_MIB.end())]
    Memory(u16),
    /// Too many.
    #[error("policy.json: it has {0} settings, at most {SETTINGS_MAX}")]
    Settings(usize),
    /// The default is not what the setting may be.
    #[error("policy.json: the default of {0}")]
    Default(SettingError),
}

/// Why a setting cannot have a value. An operator reads this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("setting {name}: {why}")]
pub struct SettingError {
    /// Which.
    pub name: String,
    /// What it would have to be.
    pub why: String,
}

impl Description {
    /// Reads a description.
    ///
    /// # Errors
    /// It is none; the text says where.
    pub fn parse(text: &[u8]) -> Result<Self, DescriptionError> {
        let read: Self = serde_json::from_slice(text)
            .map_err(|error| DescriptionError::Json(error.to_string()))?;
        if !MEMORY_MIB.contains(&read.memory_mib) {
            return Err(DescriptionError::Memory(read.memory_mib));
        }
        if read.settings.len() > SETTINGS_MAX {
            return Err(DescriptionError::Settings(read.settings.len()));
        }
        for (name, rule) in &read.settings {
            let default = Value::from(rule.default.as_str());
            rule.text(name, &default).map_err(DescriptionError::Default)?;
        }
        Ok(read)
    }

    /// The text of `policy.json`.
    pub fn emit(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a description has names for keys")
    }

    /// The header of the package that has the code of this policy for `engine`.
    pub fn header(&self, engine: &str, wasm: ContentHash) -> Header {
        let setting =
            |rule: &SettingRule| Setting { default: rule.default.clone(), help: rule.help.clone() };
        Header {
            id: self.name.clone(),
            version: self.version,
            engine: engine.to_owned(),
            wasm,
            hooks: self.hooks.clone(),
            capabilities: self.capabilities.clone(),
            memory_mib: self.memory_mib,
            settings: self
                .settings
                .iter()
                .map(|(name, rule)| (name.clone(), setting(rule)))
                .collect(),
        }
    }

    /// The texts that a policy is told of what a site sets, in JSON.
    ///
    /// # Errors
    /// One for each setting that there is not, and for each value that is none.
    pub fn settings(
        &self,
        set: &BTreeMap<String, Value>,
    ) -> Result<BTreeMap<String, String>, Vec<SettingError>> {
        let (mut texts, mut errors) = (BTreeMap::new(), Vec::new());
        for (name, value) in set {
            let text = match self.settings.get(name) {
                Some(rule) => rule.text(name, value),
                None => Err(self.unknown(name)),
            };
            match text {
                Ok(text) => drop(texts.insert(name.clone(), text)),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(texts) } else { Err(errors) }
    }

    fn unknown(&self, name: &str) -> SettingError {
        let known: Vec<_> = self.settings.keys().map(String::as_str).collect();
        let why = match known.as_slice() {
            [] => format!("{} {} has no settings", self.name, self.version),
            known => format!("there is none; {} has {}", self.name, known.join(", ")),
        };
        SettingError { name: name.chars().take(64).collect(), why }
    }
}

impl SettingRule {
    /// The text of `value`, if the setting may have it.
    fn text(&self, name: &str, value: &Value) -> Result<String, SettingError> {
        let refused = |why: String| Err(SettingError { name: name.to_owned(), why });
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            _ => return refused("expected a text, a number, or true or false".to_owned()),
        };
        if text.len() > VAR_VALUE_LEN_MAX || text.contains(char::is_control) {
            return refused(format!("expected one line of at most {VAR_VALUE_LEN_MAX} bytes"));
        }
        match self.kind {
            SettingKind::Number => {
                let (least, most) = (self.min.unwrap_or(i64::MIN), self.max.unwrap_or(i64::MAX));
                if !text.parse::<i64>().is_ok_and(|number| (least..=most).contains(&number)) {
                    let bounds = match (self.min, self.max) {
                        (None, None) => String::new(),
                        (Some(min), None) => format!(" of at least {min}"),
                        (None, Some(max)) => format!(" of at most {max}"),
                        (Some(min), Some(max)) => format!(" from {min} to {max}"),
                    };
                    return refused(format!("{text:?} is no whole number{bounds}"));
                }
            }
            SettingKind::Flag if !matches!(text.as_str(), "true" | "false") => {
                return refused(format!("{text:?} is neither true nor false"));
            }
            SettingKind::Choice if !self.choices.contains(&text) => {
                return refused(format!("{text:?} is none of {}", self.choices.join(", ")));
            }
            SettingKind::Time if !is_time(&text) => {
                return refused(format!("{text:?} is no time of day such as 22:30"));
            }
            SettingKind::Text | SettingKind::Flag | SettingKind::Choice | SettingKind::Time => {}
        }
        Ok(text)
    }
}

fn is_time(text: &str) -> bool {
    let part = |part: &str, most: u8| {
        part.len() == 2 && part.parse::<u8>().is_ok_and(|number| number <= most)
    };
    text.split_once(':').is_some_and(|(hour, minute)| part(hour, 23) && part(minute, 59))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn description() -> Description {
        let text = json!({
            "name": "rack-window", "version": "1.0.0",
            "settings": {
                "from": {"default": "22:00", "help": "when", "type": "time"},
                "days": {"default": "30", "help": "how long", "type": "number", "min": 1, "max": 90},
                "mode": {"default": "a", "help": "which", "type": "choice", "choices": ["a", "b"]},
                "loud": {"default": "false", "help": "whether", "type": "flag"},
                "note": {"default": "", "help": "what"},
            },
        });
        Description::parse(text.to_string().as_bytes()).expect("a description")
    }

    fn set(value: Value) -> Result<BTreeMap<String, String>, Vec<String>> {
        let set = serde_json::from_value(value).expect("an object");
        let texts = description().settings(&set);
        texts.map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_a_site_sets_becomes_the_texts_that_a_policy_is_told() {
        let texts =
            set(json!({"from": "04:30", "days": 7, "mode": "b", "loud": true, "note": "x"}));
        let texts: Vec<_> = texts.expect("settings").into_iter().collect();
        let expected =
            [("days", "7"), ("from", "04:30"), ("loud", "true"), ("mode", "b"), ("note", "x")];
        assert_eq!(texts, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
    }

    #[test]
    fn every_setting_that_cannot_be_is_named_with_what_it_may_be() {
        let errors = set(json!({
            "from": "24:00", "days": 91, "mode": "c", "loud": "yes", "note": "a\nb", "nothing": 1,
        }));
        let errors = errors.expect_err("all are wrong");
        assert_eq!(
            errors,
            [
                "setting days: \"91\" is no whole number from 1 to 90",
                "setting from: \"24:00\" is no time of day such as 22:30",
                "setting loud: \"yes\" is neither true nor false",
                "setting mode: \"c\" is none of a, b",
                "setting note: expected one line of at most 1024 bytes",
                "setting nothing: there is none; rack-window has days, from, loud, mode, note",
            ]
        );
        for value in [json!(null), json!([1]), json!({"a": 1})] {
            assert!(set(json!({"note": value})).is_err(), "{value}");
        }
    }

    #[test]
    fn a_description_that_would_not_be_obeyed_is_refused() {
        for (text, expected) in [
            (r#"{"name":"a"}"#, "version"),
            (r#"{"name":"A","version":"1.0.0"}"#, "plugin's name"),
            (r#"{"name":"a","version":"1.0"}"#, "not a version"),
            (r#"{"name":"a","version":"1.0.0","memory":1}"#, "unknown field `memory`"),
            (r#"{"name":"a","version":"1.0.0","memory-mib":65}"#, "1 to 64"),
            (
                r#"{"name":"a","version":"1.0.0","settings":{"n":{"default":"x","help":"","type":"number"}}}"#,
                "default of setting n",
            ),
        ] {
            let error = Description::parse(text.as_bytes()).expect_err("refused").to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let kept = description();
        assert_eq!(Description::parse(&kept.emit()), Ok(kept));
    }
}
