//! Why a machine boots what it boots: found out as for a boot, and without leaving a trace.

use std::rc::Rc;
use std::sync::Arc;

use pureboot_plugin_host::answer::Ground;
use pureboot_plugin_host::chain::Speaker;
use pureboot_plugin_host::package::Hook;
use pureboot_plugin_host::plugin::Plugin;
use pureboot_protocol::{BootId, BootRequest, ContentHash, Mac};
use pureboot_templates::BaseUrl;
use sha2::{Digest as _, Sha256};

use super::Booter;
use crate::boot::inputs::Inputs;
use crate::boot::render::Scene;
use crate::boot::values::Values;
use crate::clock;
use crate::policy::explain::{
    AllReplayed, Explanation, JudgementReplayed, Likeness, Outcome, Replay, Replayed,
};
use crate::policy::facts::boot_facts;
use crate::policy::ground::{Heard, PastGround, SiteGround};
use crate::policy::record::{BootRecorded, CallRecorded, JudgementRecorded, Unheard};
use crate::policy::replay::{self, Part, PastNodes, Play, Played};
use crate::policy::site::chosen;

/// A session that nobody has: scripts of an explanation name it.
const NO_SESSION: [u8; 16] = [0; 16];

impl Booter {
    /// Why `mac` would boot what it would boot now.
    pub async fn explain(&self, mac: Mac, base: BaseUrl) -> Explanation {
        let request = self.store.look_at(mac, |node| node.facts.clone());
        let request = request.unwrap_or_else(|| BootRequest::new(mac));
        let found = self.find(mac).await;
        let mode = self.standing.line().into();
        let inputs = self.inputs(request, found, mode);
        let scene = scene(&inputs, base.clone(), BootId::from_random(NO_SESSION));
        let facts = boot_facts(&inputs, &self.policies.circumstances_now(&inputs));
        let ground = SiteGround::new(&inputs, &*self.policies, &base);
        let (deciding, patching) = (self.parts(Hook::Boot), self.parts(Hook::Script));
        let play = Play {
            inputs: &inputs,
            facts: &facts,
            ground: &ground,
            deciding: &deciding,
            patching: &patching,
            scene,
        };
        // What the ground finds is found once more for the verdict's own workflow.
        let played = play.run(&self.renderer, |verdict| {
            let again = SiteGround::new(&inputs, &*self.policies, &base);
            if let Some(pureboot_plugin_host::facts::Action::Workflow(name)) = &verdict.action {
                _ = again.may_install(name);
            }
            chosen(verdict, &again.into_heard()).cloned()
        });
        let played = Box::pin(played).await;
        let (decided, patched) =
            (CallRecorded::all(&played.decided), CallRecorded::all(&played.patched));
        outcome(&inputs, &facts, &decided, &patched, &played).explain(clock::now(), None)
    }

    /// Why a machine booted what it booted, and what comes of playing that boot again; none if no policy had a part in it, or it is no
    /// longer written down.
    pub async fn explain_past(&self, session: BootId) -> Option<Explanation> {
        let records = self.policies.records().load().await;
        let record = records.into_iter().rev().find(|record| record.session == session)?;
        let mut explanation = Outcome::past(&record).explain(record.at, Some(session));
        explanation.replay = Some(Box::pin(self.replay(&record, None)).await);
        Some(explanation)
    }

    /// Plays everything again that is written down; with `candidate` in place of the policy of its name, if there is one.
    pub async fn replay_all(&self, candidate: Option<&Rc<Plugin>>) -> AllReplayed {
        let (mut boots, mut judgements) = (Vec::new(), Vec::new());
        for record in self.policies.records().load().await {
            let replay = Box::pin(self.replay(&record, candidate)).await;
            let BootRecorded { session, at, .. } = record;
            boots.push(Replayed { session, mac: record.inputs.request.mac, at, replay });
        }
        for record in self.policies.judgements().load().await {
            let replay = Box::pin(self.judge_again(&record, candidate)).await;
            judgements.push(JudgementReplayed { at: record.at, replay });
        }
        AllReplayed { boots, judgements }
    }

    async fn judge_again(
        &self,
        record: &JudgementRecorded,
        candidate: Option<&Rc<Plugin>>,
    ) -> Replay {
        let parts: Result<Vec<Part>, String> =
            record.called.iter().map(|call| self.past_part(call, Hook::Cache, candidate)).collect();
        match parts {
            Ok(parts) => {
                let judgement = replay::judge(record, &parts).await;
                let called = CallRecorded::all(&judgement.notes);
                replay::differences(record, &judgement, &called, likeness(candidate))
            }
            Err(why) => Replay { is_same: false, differences: vec![why] },
        }
    }

    async fn replay(&self, record: &BootRecorded, candidate: Option<&Rc<Plugin>>) -> Replay {
        let cannot = |why: String| Replay { is_same: false, differences: vec![why] };
        let Ok(base) = record.base.parse::<BaseUrl>() else {
            return cannot(format!("{} is not where an agent is reached", record.base));
        };
        let parts = |calls: &[CallRecorded], hook| -> Result<Vec<Part>, String> {
            calls.iter().map(|call| self.past_part(call, hook, candidate)).collect()
        };
        let (deciding, patching) =
            match (parts(&record.decided, Hook::Boot), parts(&record.patched, Hook::Script)) {
                (Ok(deciding), Ok(patching)) => (deciding, patching),
                (Err(why), _) | (_, Err(why)) => return cannot(why),
            };
        let ground = PastGround { heard: &record.ground, base: &base };
        let play = Play {
            inputs: &record.inputs,
            facts: &record.facts,
            ground: &ground,
            deciding: &deciding,
            patching: &patching,
            scene: scene(&record.inputs, base.clone(), record.session),
        };
        let heard: &Heard = &record.ground;
        let played = play.run(&self.renderer, |verdict| chosen(verdict, heard).cloned());
        let played = Box::pin(played).await;
        let (decided, patched) =
            (CallRecorded::all(&played.decided), CallRecorded::all(&played.patched));
        let now = outcome(&record.inputs, &record.facts, &decided, &patched, &played);
        Outcome::past(record).differences(&now, likeness(candidate))
    }

    /// The policies as they would be asked now.
    fn parts(&self, hook: Hook) -> Vec<Part> {
        let aside: Vec<_> = self
            .policies
            .running()
            .status()
            .into_iter()
            .filter(|status| status.aside_for.is_some())
            .map(|status| status.id)
            .collect();
        let members = self.policies.running().members(hook).into_iter();
        let part = members.map(|member| Part {
            unheard: aside.contains(&member.speaker.id).then_some(Unheard::SetAside),
            speaker: member.speaker,
            plugin: member.plugin,
            settings: member.settings,
        });
        part.collect()
    }

    /// The policy of a past call, with what it was told then; `candidate` in its place if it has the same name.
    fn past_part(
        &self,
        call: &CallRecorded,
        hook: Hook,
        candidate: Option<&Rc<Plugin>>,
    ) -> Result<Part, String> {
        let nodes = Arc::new(PastNodes(call.nodes.clone()));
        let speaker =
            Speaker { id: call.plugin.clone(), mode: call.mode, on_failure: call.on_failure };
        let candidate = candidate.filter(|candidate| candidate.header().id == call.plugin);
        if let Some(candidate) = candidate {
            return Ok(Part {
                speaker,
                plugin: Rc::new(candidate.with_nodes(nodes)),
                settings: candidate.settings(&call.settings),
                unheard: None,
            });
        }
        let members = self.policies.running().members(hook);
        let same = members.into_iter().find(|member| {
            let version = member.plugin.header().version;
            member.speaker.id == call.plugin && call.version.is_none_or(|past| past == version)
        });
        let member = same.ok_or_else(|| {
            let version = call.version.map_or(String::new(), |version| format!(" {version}"));
            format!("{}{version} does not run here any more", call.plugin)
        })?;
        Ok(Part {
            speaker,
            plugin: Rc::new(member.plugin.with_nodes(nodes)),
            settings: call.settings.clone(),
            unheard: call.unheard,
        })
    }
}

/// What another version burns is no difference.
fn likeness(candidate: Option<&Rc<Plugin>>) -> Likeness {
    if candidate.is_some() { Likeness::InEffect } else { Likeness::Exact }
}

fn scene(inputs: &Inputs, base: BaseUrl, session: BootId) -> Scene {
    let values = Values::of(&inputs.request, inputs.found.record());
    Scene { base, session, platform: inputs.request.platform, mode: inputs.mode, values }
}

fn outcome<'a>(
    inputs: &'a Inputs,
    facts: &'a pureboot_plugin_host::facts::BootFacts,
    decided: &'a [CallRecorded],
    patched: &'a [CallRecorded],
    played: &Played,
) -> Outcome<'a> {
    Outcome {
        inputs,
        facts,
        decided,
        patched,
        boot: played.decision.boot.to_string(),
        reasons: played.decision.reasons.iter().map(ToString::to_string).collect(),
        script_sha256: script_hash(&played.script),
    }
}

/// The SHA-256 of a script as it is sent.
pub(super) fn script_hash(script: &str) -> ContentHash {
    ContentHash::from_digest(Sha256::digest(script).into())
}
