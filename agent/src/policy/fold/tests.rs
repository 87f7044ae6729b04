use std::time::Duration;

use pureboot_plugin_host::chain::{self, OnFailure, Silence, Speaker};
use pureboot_plugin_host::plugin::Failure;
use pureboot_protocol::{
    Autonomy, BootMethod, BootRecord, BootRequest, ConflictId, ForeignBoot, ForeignNode, Lifecycle,
    NodeId, Timestamp, WorkflowId,
};

use super::*;
use crate::boot::decide::{Freshness, Mode};
use crate::boot::inputs::{Found, Inputs};

fn workflow(name: &str) -> Workflow {
    Workflow {
        id: WorkflowId::from_random([1; 16]),
        name: name.to_owned(),
        description: String::new(),
        templates: Default::default(),
        boot: BootMethod::Chain { target: "bootloaders/a.efi".parse().expect("a key") },
        created_at: Timestamp::from_unix_ms(0),
        updated_at: Timestamp::from_unix_ms(0),
        version: 1,
    }
}

fn inputs(state: Lifecycle) -> Inputs {
    let request = BootRequest::new("52:54:00:12:34:56".parse().expect("an address"));
    let record = BootRecord {
        workflow: Some(Assignment::Known(workflow("assigned"))),
        ..BootRecord::new(NodeId::from_random([2; 16]), request.mac, state, 7)
    };
    Inputs {
        request,
        found: Found::Known { record: Box::new(record), freshness: Freshness::Asked },
        mode: Mode::Online,
        autonomy: Autonomy::Limited,
        install_given: false,
        offline_action: OfflineAction::LastKnown,
    }
}

fn by() -> PluginId {
    "p".parse().expect("a name")
}

fn verdict(action: Action) -> Verdict {
    Verdict { action: Some(action), by: Some(by()), ..Verdict::default() }
}

fn every_action() -> Vec<Action> {
    vec![
        Action::LocalDisk,
        Action::Discovery,
        Action::LastKnown,
        Action::Workflow("other".to_owned()),
        Action::Chain("bootloaders/b.efi".parse().expect("a key")),
        Action::Script("#!ipxe\nexit\n".to_owned()),
        Action::Hold(90),
        Action::Refuse("no".to_owned()),
    ]
}

fn concluded(inputs: &Inputs, action: Action) -> Decision {
    conclude(&inputs.facts(), &verdict(action), Some(&workflow("other")))
}

fn failed() -> Verdict {
    let outcome = Outcome::Silent(Silence::Failed(Failure::Stack));
    let speaker = Speaker {
        id: "p".parse().expect("a name"),
        mode: chain::Mode::On,
        on_failure: OnFailure::Builtin,
    };
    let note = Note { speaker, outcome, call: None };
    Verdict { notes: vec![note], ..Verdict::default() }
}

#[test]
fn no_action_makes_a_machine_be_installed_whose_record_does_not_ask_for_it() {
    for state in Lifecycle::ALL.iter().filter(|state| **state != Lifecycle::Pending) {
        for action in every_action() {
            let decision = concluded(&inputs(*state), action.clone());
            assert!(!matches!(decision.boot, Boot::Install(_)), "{state}: {action}");
            let remembers = |effect: &Effect| matches!(effect, Effect::RememberInstall { .. });
            assert!(!decision.effects.iter().any(remembers), "{state}: {action}");
        }
    }
}

#[test]
fn an_installer_that_a_policy_chose_is_remembered_as_the_assigned_one_would_be() {
    let decision = concluded(&inputs(Lifecycle::Pending), Action::Workflow("other".to_owned()));
    let Boot::Install(chosen) = &decision.boot else { panic!("{:?}", decision.boot) };
    assert_eq!(chosen.name, "other");
    let expected = Effect::RememberInstall { wish: 7, is_limited: false };
    assert_eq!(decision.effects, [expected]);
    let alone = Inputs {
        install_given: true,
        mode: Mode::Offline { since: Timestamp::from_unix_ms(0) },
        ..inputs(Lifecycle::Pending)
    };
    let decision = concluded(&alone, Action::Workflow("other".to_owned()));
    assert_eq!(decision.boot, Boot::LocalDisk, "it was given before");
}

#[test]
fn an_action_in_place_of_an_installer_remembers_none() {
    for action in [Action::LocalDisk, Action::Hold(30), Action::Refuse("no".to_owned())] {
        let decision = concluded(&inputs(Lifecycle::Pending), action.clone());
        assert_eq!(decision.effects, [], "{action}");
        let last = decision.reasons.last().expect("a reason").to_string();
        assert!(last.starts_with("site policy p says"), "{last}");
    }
}

#[test]
fn while_site_and_controller_disagree_a_policy_can_only_hold_a_machine_back() {
    let mut disputed = inputs(Lifecycle::Pending);
    if let Found::Known { record, .. } = &mut disputed.found {
        record.conflict_id = Some(ConflictId::from_random([3; 16]));
    }
    for action in every_action() {
        let boot = concluded(&disputed, action.clone()).boot;
        if is_harmless(&action) {
            assert_ne!(boot, Boot::Disputed, "{action}");
        } else {
            assert_eq!(boot, Boot::Disputed, "{action}");
        }
    }
}

#[test]
fn c16_a_node_of_another_site_is_claimed_and_a_policy_can_only_hold_it_back() {
    for boots in [ForeignBoot::Pending, ForeignBoot::Normal, ForeignBoot::Refuse] {
        let foreign = ForeignNode { boots, claim_id: None };
        let found = Found::Elsewhere { foreign, freshness: Freshness::Asked };
        let inputs = Inputs { found, autonomy: Autonomy::Full, ..inputs(Lifecycle::Pending) };
        let built_in = decide(&inputs.facts());
        for action in every_action() {
            let decision = concluded(&inputs, action.clone());
            let expected = match &action {
                Action::LocalDisk => Boot::LocalDisk,
                Action::Hold(seconds) => Boot::Hold { by: by(), seconds: *seconds },
                Action::Refuse(reason) => Boot::Refused { by: by(), reason: reason.clone() },
                _ => built_in.boot.clone(),
            };
            assert_eq!(
                (decision.boot, &decision.effects),
                (expected, &built_in.effects),
                "{action}"
            );
            let last = decision.reasons.last().expect("a reason").to_string();
            assert!(last.starts_with("site policy p says"), "{last}");
        }
    }
}

#[test]
fn p5_a_failure_leaves_the_decision_and_is_told() {
    for state in Lifecycle::ALL {
        let inputs = inputs(*state);
        let (built_in, concluded) =
            (decide(&inputs.facts()), conclude(&inputs.facts(), &failed(), None));
        assert_eq!((&concluded.boot, &concluded.effects), (&built_in.boot, &built_in.effects));
        let last = concluded.reasons.last().expect("a reason").to_string();
        assert_eq!(last, "site policy p did not answer - it used up its stack");
    }
}

#[test]
fn what_a_machine_booted_last_holds_although_its_record_is_old() {
    let mut old = Inputs { offline_action: OfflineAction::Local, ..inputs(Lifecycle::Installing) };
    if let Found::Known { freshness, .. } = &mut old.found {
        *freshness = Freshness::Past { age: Duration::from_secs(100_000) };
    }
    assert_eq!(decide(&old.facts()).boot, Boot::LocalDisk);
    assert_eq!(concluded(&old, Action::LastKnown).boot, Boot::Installing);
}

#[test]
fn h20_what_a_policy_says_can_stand_in_every_script() {
    let spoken = Verdict {
        reason: Some("see ${net0/mac}; 'now' || shell".to_owned()),
        ..verdict(Action::Hold(30))
    };
    let decision = conclude(&inputs(Lifecycle::Active).facts(), &spoken, None);
    let last = decision.reasons.last().expect("a reason").to_string();
    assert_eq!(last, "site policy p says hold for 30 s - see __net0/mac_ now __ shell");
}
