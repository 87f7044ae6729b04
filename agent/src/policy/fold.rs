//! The built-in decision and what the site's policies say, made one decision. Pure.
//!
//! A workflow that a policy names takes the place of the assigned one, and everything is decided anew: so all that keeps a machine from
//! being installed twice, or without being asked for, still holds.

use pureboot_plugin_host::chain::{Note, Outcome, Verdict};
use pureboot_plugin_host::facts::Action;
use pureboot_protocol::{Assignment, Mac, PluginId, Workflow};

use crate::boot::decide::{
    Boot, Decision, Effect, Facts, Knowledge, OfflineAction, Reason, decide,
};
use crate::boot::render::plain;

/// What a machine boots by the rules and by the site's policies. `workflow` is the one that a policy has named.
pub fn conclude(facts: &Facts<'_>, verdict: &Verdict, workflow: Option<&Workflow>) -> Decision {
    let mut decision = decide(facts);
    let failures = verdict.notes.iter().filter_map(failure);
    let Some((action, by)) = verdict.action.as_ref().zip(verdict.by.as_ref()) else {
        decision.reasons.extend(failures);
        return decision;
    };
    if let Some(why) = withheld(&decision.boot)
        && !is_harmless(action)
    {
        let said = format!("site policy {by} says {action} - {why}");
        decision.reasons.push(Reason::Policy(plain(&said)));
        return decision;
    }
    let mut decision = match action {
        Action::Workflow(_) => with_workflow(facts, workflow).unwrap_or(decision),
        Action::LastKnown => decide(&Facts { offline_action: OfflineAction::LastKnown, ..*facts }),
        other => Decision {
            boot: boot(other, by).unwrap_or_else(|| decision.boot.clone()),
            effects: without_installer(&decision.effects),
            ..decision
        },
    };
    decision.reasons.push(said(by, action, verdict.reason.as_deref()));
    decision.reasons.extend(failures);
    decision
}

/// What a machine gets in place of its script, because a policy failed that must not be passed over.
pub fn instead(mac: Mac, action: &Action, by: &PluginId, before: &Decision) -> Decision {
    let mut reasons = before.reasons.clone();
    reasons.push(said(by, action, None));
    Decision {
        mac,
        boot: boot(action, by).unwrap_or(Boot::LocalDisk),
        reasons,
        effects: without_installer(&before.effects),
    }
}

fn said(by: &PluginId, action: &Action, reason: Option<&str>) -> Reason {
    let why = reason.map_or(String::new(), |reason| format!(" - {reason}"));
    Reason::Policy(plain(&format!("site policy {by} says {action}{why}")))
}

/// What its console tells of a policy that did not answer.
fn failure(note: &Note) -> Option<Reason> {
    match &note.outcome {
        Outcome::Silent(silence) => {
            let text = format!("site policy {} did not answer - {silence}", note.speaker.id);
            Some(Reason::Policy(plain(&text)))
        }
        _ => None,
    }
}

/// Why a policy has no more to say of a machine than that it boots its disk or nothing; none where it has.
fn withheld(boot: &Boot) -> Option<&'static str> {
    match boot {
        Boot::Disputed => Some("that waits for the conflict's end"),
        Boot::Elsewhere | Boot::Guest | Boot::TurnedAway => Some("it is a node of another site"),
        _ => None,
    }
}

/// Whether nothing can come of it that a disk would suffer from.
fn is_harmless(action: &Action) -> bool {
    match action {
        Action::LocalDisk | Action::Hold(_) | Action::Refuse(_) => true,
        Action::Discovery
        | Action::LastKnown
        | Action::Workflow(_)
        | Action::Chain(_)
        | Action::Script(_) => false,
    }
}

fn with_workflow(facts: &Facts<'_>, workflow: Option<&Workflow>) -> Option<Decision> {
    let (Knowledge::Known { record, freshness }, Some(workflow)) = (facts.knowledge, workflow)
    else {
        return None;
    };
    let mut record = record.clone();
    record.workflow = Some(Assignment::Known(workflow.clone()));
    Some(decide(&Facts { knowledge: Knowledge::Known { record: &record, freshness }, ..*facts }))
}

/// What an action is to the agent; none for those that are decided anew.
fn boot(action: &Action, by: &PluginId) -> Option<Boot> {
    let by = by.clone();
    Some(match action {
        Action::LocalDisk => Boot::LocalDisk,
        Action::Discovery => Boot::Discovered,
        Action::Chain(target) => Boot::Chain { by, target: target.clone() },
        Action::Script(text) => Boot::PolicyScript { by, text: text.clone() },
        Action::Hold(seconds) => Boot::Hold { by, seconds: *seconds },
        Action::Refuse(reason) => Boot::Refused { by, reason: reason.clone() },
        Action::Workflow(_) | Action::LastKnown => return None,
    })
}

/// No installer is given, so none is remembered as given.
fn without_installer(effects: &[Effect]) -> Vec<Effect> {
    effects
        .iter()
        .copied()
        .filter(|effect| !matches!(effect, Effect::RememberInstall { .. }))
        .collect()
}

#[cfg(test)]
mod tests;
