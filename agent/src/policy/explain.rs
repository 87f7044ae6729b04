//! Why a machine boots what it boots: facts, rules, each policy's answer, the decision, and the script's hash. Pure: what was found out
//! comes in.

use std::fmt::Write as _;

use pureboot_plugin_host::chain::Mode as PolicyMode;
use pureboot_plugin_host::facts::BootFacts;
use pureboot_protocol::{BootId, ContentHash, Mac, PluginId, PluginVersion, Timestamp};
use serde::{Deserialize, Serialize};

use super::record::{BootRecorded, CallRecorded};
use crate::boot::decide::decide;
use crate::boot::inputs::{Found, Inputs};

/// Why a machine boots what it boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The machine.
    pub mac: Mac,
    /// Of when this is.
    pub at: Timestamp,
    /// The boot session of the past; none for what it would boot now.
    pub session: Option<BootId>,
    /// What is known, by name.
    pub facts: Vec<Fact>,
    /// What the built-in rules come to, in one word.
    pub built_in: String,
    /// Why, in the order in which it was found.
    pub rules: Vec<String>,
    /// What the policies said, in order.
    pub policies: Vec<PolicyWord>,
    /// What the machine boots, in one word.
    pub decision: String,
    /// Why, rules and policies together.
    pub reasons: Vec<String>,
    /// The SHA-256 of its script.
    pub script_sha256: ContentHash,
    /// What came of playing the past boot again; none for what it would boot now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
}

/// Something that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What it is.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// What one policy said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyWord {
    /// The policy.
    pub plugin: PluginId,
    /// Its version; none where it was not asked.
    pub version: Option<PluginVersion>,
    /// What is done with its word.
    pub mode: PolicyMode,
    /// Whether it was asked for another script, and not what the machine boots.
    pub is_about_script: bool,
    /// What it said.
    pub said: String,
    /// The fuel that it burnt.
    pub fuel: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

/// What came of playing a past boot again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// Whether every answer, the fuel of each and the script are the same.
    pub is_same: bool,
    /// What differs, or why it could not be played; in words.
    pub differences: Vec<String>,
}

/// Everything that is written down, played again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllReplayed {
    /// Boots.
    pub boots: Vec<Replayed>,
    /// Calls about content.
    pub judgements: Vec<JudgementReplayed>,
}

/// A call about content that was repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgementReplayed {
    /// When it was.
    pub at: Timestamp,
    /// What came of it.
    pub replay: Replay,
}

/// What has to be the same for a past boot to be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    /// Everything, fuel too.
    Exact,
    /// What machines get; another version of a policy may burn what it likes.
    InEffect,
}

/// A boot that was played again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// Its session.
    pub session: BootId,
    /// The machine.
    pub mac: Mac,
    /// When it was.
    pub at: Timestamp,
    /// What came of it.
    pub replay: Replay,
}

/// What a boot of now or of the past came to.
pub struct Outcome<'a> {
    /// What was decided by.
    pub inputs: &'a Inputs,
    /// What policies were asked.
    pub facts: &'a BootFacts,
    /// The policies that were asked what the machine boots.
    pub decided: &'a [CallRecorded],
    /// The policies that were asked for another script.
    pub patched: &'a [CallRecorded],
    /// The decision in one word.
    pub boot: String,
    /// Its reasons.
    pub reasons: Vec<String>,
    /// The script's hash.
    pub script_sha256: ContentHash,
}

impl<'a> Outcome<'a> {
    /// What was written down.
    pub fn past(record: &'a BootRecorded) -> Self {
        Self {
            inputs: &record.inputs,
            facts: &record.facts,
            decided: &record.decided,
            patched: &record.patched,
            boot: record.boot.clone(),
            reasons: record.reasons.clone(),
            script_sha256: record.script_sha256,
        }
    }

    /// Puts it into an explanation.
    pub fn explain(self, at: Timestamp, session: Option<BootId>) -> Explanation {
        let built_in = decide(&self.inputs.facts());
        let words = |calls: &[CallRecorded], is_about_script| -> Vec<PolicyWord> {
            calls.iter().map(|call| word(call, is_about_script)).collect()
        };
        let mut policies = words(self.decided, false);
        policies.extend(words(self.patched, true));
        Explanation {
            mac: self.inputs.request.mac,
            at,
            session,
            facts: facts(self.inputs, self.facts),
            built_in: built_in.boot.to_string(),
            rules: built_in.reasons.iter().map(ToString::to_string).collect(),
            policies,
            decision: self.boot,
            reasons: self.reasons,
            script_sha256: self.script_sha256,
            replay: None,
        }
    }

    /// What differs between this, which was recorded, and what it comes to now.
    pub fn differences(&self, now: &Self, likeness: Likeness) -> Replay {
        let mut differences = Vec::new();
        let pairs = [(self.decided, now.decided), (self.patched, now.patched)];
        for (then, now) in pairs {
            compare_calls(then, now, likeness, &mut differences);
        }
        if self.boot != now.boot {
            differences.push(format!("the machine booted {}; now {}", self.boot, now.boot));
        }
        if self.script_sha256 != now.script_sha256 {
            differences
                .push(format!("the script was {}; now {}", self.script_sha256, now.script_sha256));
        }
        Replay { is_same: differences.is_empty(), differences }
    }
}

/// What differs between the same questions then and now.
pub(super) fn compare_calls(
    then: &[CallRecorded],
    now: &[CallRecorded],
    likeness: Likeness,
    differences: &mut Vec<String>,
) {
    if then.len() != now.len() {
        let (then, now) = (then.len(), now.len());
        differences.push(format!("{then} policies were asked, and now {now}"));
    }
    for (then, now) in then.iter().zip(now) {
        let plugin = &then.plugin;
        if then.said != now.said {
            let (then, now) = (&then.said, &now.said);
            differences.push(format!("{plugin} said: {then}; now: {now}"));
        } else if then.fuel != now.fuel && then.unheard.is_none() && likeness == Likeness::Exact {
            let (then, now) = (then.fuel, now.fuel);
            differences.push(format!("{plugin} burnt {then} fuel; now {now}"));
        }
    }
}

fn word(call: &CallRecorded, is_about_script: bool) -> PolicyWord {
    PolicyWord {
        plugin: call.plugin.clone(),
        version: call.version,
        mode: call.mode,
        is_about_script,
        said: call.said.clone(),
        fuel: call.fuel,
        took_us: call.took_us,
    }
}

/// What is known; without a workflow's command line, which may hold secrets.
fn facts(inputs: &Inputs, facts: &BootFacts) -> Vec<Fact> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(Fact { name: name.to_owned(), value });
    row("mode", inputs.mode.to_string());
    row("autonomy", inputs.autonomy.to_string());
    for (name, value) in &facts.hardware {
        row(name, value.clone());
    }
    match &inputs.found {
        Found::Unknown => row("record", "the controller has none".to_owned()),
        Found::Unreachable => row("record", "nobody has one".to_owned()),
        Found::Elsewhere { .. } => row("record", "another site has it".to_owned()),
        Found::Known { record, .. } => {
            row("record", format!("version {}, {}", record.version, record.state));
            row("installer given", if inputs.install_given { "yes" } else { "no" }.to_owned());
        }
    }
    if let Some(node) = &facts.node {
        for (name, value) in
            [("hostname", &node.hostname), ("workflow", &node.workflow), ("group", &node.group)]
        {
            if let Some(value) = value {
                row(name, value.clone());
            }
        }
        if !node.tags.is_empty() {
            row("tags", node.tags.join(", "));
        }
    }
    row("attempt", facts.attempt.to_string());
    rows
}

impl Explanation {
    /// As a person reads it.
    pub fn render(&self) -> String {
        let mut text = match self.session {
            Some(session) => format!("{} booted at {} in session {session}\n", self.mac, self.at),
            None => format!("{} would boot now, at {}\n", self.mac, self.at),
        };
        let mut part = |name: &str, lines: Vec<String>| {
            for (at, line) in lines.into_iter().enumerate() {
                let name = if at == 0 { name } else { "" };
                _ = writeln!(text, "{name:<11} {line}");
            }
        };
        let facts = self.facts.iter().map(|fact| format!("{}: {}", fact.name, fact.value));
        part("facts", facts.collect());
        part("rules", self.rules.clone());
        part("", vec![format!("=> {}", self.built_in)]);
        let words = self.policies.iter().map(PolicyWord::render);
        part(
            "policies",
            if self.policies.is_empty() {
                vec!["none were asked".to_owned()]
            } else {
                words.collect()
            },
        );
        part("decision", vec![self.decision.clone()]);
        let said = self.reasons.iter().filter(|reason| !self.rules.contains(reason));
        part("", said.map(|reason| format!("because {reason}")).collect());
        part("script", vec![format!("sha256 {}", self.script_sha256)]);
        match &self.replay {
            Some(Replay { is_same: true, .. }) => {
                part("replay", vec!["the same answers, the same fuel, the same script".to_owned()]);
            }
            Some(Replay { differences, .. }) => part("replay", differences.clone()),
            None => {}
        }
        text
    }
}

impl PolicyWord {
    fn render(&self) -> String {
        let version = self.version.map_or(String::new(), |version| format!(" {version}"));
        let about = if self.is_about_script { "script" } else { "boot" };
        format!(
            "{}{version} ({}, {about}): {} [{} fuel, {} us]",
            self.plugin, self.mode, self.said, self.fuel, self.took_us
        )
    }
}

#[cfg(test)]
mod tests {
    use pureboot_protocol::{Autonomy, BootRequest};

    use super::*;
    use crate::boot::decide::{Mode, OfflineAction};

    fn call(said: &str, fuel: u64) -> CallRecorded {
        CallRecorded {
            plugin: "rack-window".parse().expect("a name"),
            version: Some("1.2.3".parse().expect("a version")),
            mode: PolicyMode::Shadow,
            on_failure: Default::default(),
            settings: Default::default(),
            said: said.to_owned(),
            unheard: None,
            fuel,
            took_us: 90,
            nodes: Vec::new(),
        }
    }

    fn outcome<'a>(
        inputs: &'a Inputs,
        facts: &'a BootFacts,
        decided: &'a [CallRecorded],
    ) -> Outcome<'a> {
        Outcome {
            inputs,
            facts,
            decided,
            patched: &[],
            boot: "discovered".to_owned(),
            reasons: vec!["the controller does not know this machine".to_owned()],
            script_sha256: ContentHash::from_digest([1; 32]),
        }
    }

    #[test]
    fn an_explanation_shows_the_way_from_facts_to_the_script() {
        let request = BootRequest::new("52:54:00:12:34:56".parse().expect("an address"));
        let facts = BootFacts::new(request.mac);
        let inputs = Inputs {
            request,
            found: Found::Unknown,
            mode: Mode::Online,
            autonomy: Autonomy::Limited,
            install_given: false,
            offline_action: OfflineAction::LastKnown,
        };
        let then = [call("would have said hold for 90 s (shadow)", 17_000)];
        let past = outcome(&inputs, &facts, &then);
        let mut explained = past.explain(Timestamp::from_unix_ms(0), None);
        let now = [call("would have said hold for 90 s (shadow)", 17_001)];
        let other = outcome(&inputs, &facts, &now);
        explained.replay =
            Some(outcome(&inputs, &facts, &then).differences(&other, Likeness::Exact));
        expect_test::expect![[r#"
            52:54:00:12:34:56 would boot now, at 1970-01-01T00:00:00.000Z
            facts       mode: online
                        autonomy: limited
                        record: the controller has none
                        attempt: 1
            rules       the controller does not know this machine
                        new machines are listed as discovered
                        => discovered
            policies    rack-window 1.2.3 (shadow, boot): would have said hold for 90 s (shadow) [17000 fuel, 90 us]
            decision    discovered
            script      sha256 0101010101010101010101010101010101010101010101010101010101010101
            replay      rack-window burnt 17000 fuel; now 17001
        "#]]
        .assert_eq(&explained.render());
        let same = outcome(&inputs, &facts, &then);
        let again = outcome(&inputs, &facts, &then);
        let none = Replay { is_same: true, differences: Vec::new() };
        assert_eq!(same.differences(&again, Likeness::Exact), none);
        assert_eq!(same.differences(&other, Likeness::InEffect), none, "only the fuel is another");
    }
}
