//! Plays a boot through the rules and the policies beside everything that counts: no failure is held against a policy, nothing is
//! remembered, and no machine gets anything.

use std::rc::Rc;

use pureboot_plugin_host::answer::Ground;
use pureboot_plugin_host::chain::{Call, Judgement, Note, Patch, Silence, Speaker, Verdict, Word};
use pureboot_plugin_host::facts::{
    BootFacts, Node, NodeCache, NodesAsked, NodesSaid, Purpose, Vars,
};
use pureboot_plugin_host::plugin::{Called, Plugin};
use pureboot_protocol::{Mac, Workflow};

use super::explain::{Likeness, Replay, compare_calls};
use super::facts::purpose;
use super::fold::{conclude, instead};
use super::record::{CallRecorded, JudgementRecorded, Unheard};
use crate::boot::decide::Decision;
use crate::boot::inputs::Inputs;
use crate::boot::render::{Renderer, Scene};
use crate::sync::verdicts::wish;

/// A policy that is asked.
pub struct Part {
    /// Whose word it is.
    pub speaker: Speaker,
    /// The version that is asked.
    pub plugin: Rc<Plugin>,
    /// Its settings.
    pub settings: Vars,
    /// Why it is not heard to the end, if it is not.
    pub unheard: Option<Unheard>,
}

/// A boot, as far as it is played.
pub struct Play<'a> {
    /// What the built-in decision rests on.
    pub inputs: &'a Inputs,
    /// What policies are asked.
    pub facts: &'a BootFacts,
    /// What their answers have to agree with.
    pub ground: &'a dyn Ground,
    /// The policies that decide, in order.
    pub deciding: &'a [Part],
    /// The policies that change the script, in order.
    pub patching: &'a [Part],
    /// What the script names.
    pub scene: Scene,
}

/// What a played boot comes to.
pub struct Played {
    /// What the machine would boot.
    pub decision: Decision,
    /// What the policies said of it.
    pub decided: Vec<Note>,
    /// What they said of the script.
    pub patched: Vec<Note>,
    /// The script that it would get.
    pub script: String,
}

impl Play<'_> {
    /// Plays it; `workflow` finds the one that the verdict names.
    pub async fn run(
        mut self,
        renderer: &Renderer,
        workflow: impl FnOnce(&Verdict) -> Option<Workflow>,
    ) -> Played {
        let mut verdict = Verdict::default();
        for part in self.deciding {
            if part.is_passed_over(verdict.is_decided()) {
                continue;
            }
            let call = part.plugin.decide(self.facts, &part.settings, self.ground);
            if let Some((answer, call)) = part.hear(call).await {
                verdict.offer(&part.speaker, answer);
                note_call(&mut verdict.notes, call);
            }
        }
        let workflow = workflow(&verdict);
        let mut decision = conclude(&self.inputs.facts(), &verdict, workflow.as_ref());
        self.scene.values.set(&verdict.set);
        let mut script = self.render(renderer, &decision);
        let patch = self.patch(purpose(&decision.boot), script).await;
        if let Some((by, action)) = &patch.instead {
            decision = instead(decision.mac, action, by, &decision);
            script = self.render(renderer, &decision);
        } else {
            script = patch.script;
        }
        Played { decision, decided: verdict.notes, patched: patch.notes, script }
    }

    fn render(&self, renderer: &Renderer, decision: &Decision) -> String {
        renderer.decision(&self.scene, decision).unwrap_or_else(|error| error.script)
    }

    async fn patch(&self, purpose: Purpose, script: String) -> Patch {
        let mut patch = Patch::new(script);
        for part in self.patching {
            let text = patch.script.clone();
            let call = part.plugin.patch(self.facts, &part.settings, purpose, &text, self.ground);
            if let Some((answer, call)) = part.hear(call).await {
                patch.offer(&part.speaker, answer);
                note_call(&mut patch.notes, call);
            }
        }
        patch
    }
}

impl Part {
    fn is_passed_over(&self, is_decided: bool) -> bool {
        is_decided && self.speaker.mode == pureboot_plugin_host::chain::Mode::On
    }

    async fn hear<T>(
        &self,
        call: impl Future<Output = Option<Called<T>>>,
    ) -> Option<(pureboot_plugin_host::chain::Answer<T>, Option<Call>)> {
        if let Some(unheard) = self.unheard {
            return Some((Err(unheard.silence()), None));
        }
        let Called { said, cost, nodes, .. } = call.await?;
        let version = self.plugin.header().version;
        let settings = self.settings.clone();
        let call = Call { version, settings, fuel: cost.fuel, took: cost.took, nodes };
        Some((said.map_err(Silence::Failed), Some(call)))
    }
}

fn note_call(notes: &mut [Note], call: Option<Call>) {
    if let Some(note) = notes.last_mut() {
        note.call = call;
    }
}

/// Has policies judge content again as they did.
pub async fn judge(record: &JudgementRecorded, parts: &[Part]) -> Judgement {
    let mut judgement = Judgement::new(record.items.len());
    for part in parts {
        let call = part.plugin.judge(&record.context, &part.settings, &record.items);
        if let Some((answer, call)) = part.hear(call).await {
            judgement.offer(&part.speaker, answer);
            note_call(&mut judgement.notes, call);
        }
    }
    judgement
}

/// What differs between a judgement and the same one now.
pub fn differences(
    then: &JudgementRecorded,
    now: &Judgement,
    called: &[CallRecorded],
    likeness: Likeness,
) -> Replay {
    let mut differences = Vec::new();
    compare_calls(&then.called, called, likeness, &mut differences);
    let words = then.words.iter().zip(&then.shadows).zip(now.words.iter().zip(&now.shadows));
    for (item, (then, now)) in then.items.iter().zip(words).filter(|(_, (then, now))| then != now) {
        let told = |(word, shadow): (&Option<Word>, &Option<Word>)| {
            let word = word.as_ref().or(shadow.as_ref());
            word.map_or("no word on it".to_owned(), |word| wish(&word.verdict))
        };
        differences.push(format!("{}: {}; now: {}", item.key, told(then), told(now)));
    }
    Replay { is_same: differences.is_empty(), differences }
}

/// What a policy was told of nodes in a boot of the past.
pub struct PastNodes(pub Vec<NodesSaid>);

impl PastNodes {
    fn said(&self, asked: &NodesAsked) -> Vec<Node> {
        let said = self.0.iter().find(|said| said.asked == *asked);
        said.map(|said| said.nodes.clone()).unwrap_or_default()
    }
}

impl NodeCache for PastNodes {
    fn get(&self, mac: Mac) -> Option<Node> {
        self.said(&NodesAsked::Mac(mac)).into_iter().next()
    }

    fn in_group(&self, group: &str) -> Vec<Node> {
        self.said(&NodesAsked::Group(group.to_owned()))
    }
}
