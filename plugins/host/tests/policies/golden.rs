//! Components of every version of the contract that was published, and what an agent makes of them.

use std::fs;
use std::sync::Arc;

use pureboot_plugin_host::compile;
use pureboot_plugin_host::facts::{
    Action, BootFacts, CacheContext, CacheItem, Decision, Node, Purpose, Vars,
};
use pureboot_plugin_host::package::{Capability, Header, Hook};
use pureboot_plugin_host::plugin::{Plugin, Said};
use pureboot_plugin_host::state::{LogLine, Severity};

use crate::guest::{
    Anything, ENGINE, OneNode, component, decide, facts, header, load_code, plugins,
};

fn known() -> Node {
    Node {
        id: "n1".to_owned(),
        mac: facts().mac,
        hostname: None,
        state: "active".to_owned(),
        workflow: None,
        group: Some("rack-7".to_owned()),
        tags: vec!["spare".to_owned()],
        attributes: Vars::new(),
        age: 1,
        stale: false,
    }
}

/// The bytes of a component as they were when its version was published, whose SHA-256 was `hash`.
fn published(name: &str, hash: &str) -> Vec<u8> {
    let bytes = fs::read(plugins("cases/golden").join(name)).unwrap();
    assert_eq!(header(&bytes, &[]).wasm.to_string(), hash, "what was published does not change");
    bytes
}

/// A policy with all hooks of 0.1, from [`published`] bytes.
fn golden() -> Plugin {
    let hash = "d8c56434fea0fa247dc8a4643a01e145a0b0086bb4c8d22c058cc0cb0d6dbe5d";
    loaded(&published("since-0.1.wasm", hash))
}

fn loaded(component: &[u8]) -> Plugin {
    let header = Header {
        capabilities: [Capability::Nodes].into(),
        ..header(component, &[Hook::Boot, Hook::Script, Hook::Cache])
    };
    let code = compile::compile(&ENGINE, component).unwrap();
    load_code(&header, &code, Some(Arc::new(OneNode(known())))).unwrap()
}

#[test]
fn a_policy_of_0_1_sees_its_request_the_log_and_the_nodes() {
    let plugin = golden();
    let mut facts = facts();
    facts.site.id = "berlin".to_owned();
    let asked =
        |facts: &BootFacts| smol::block_on(plugin.decide(facts, &Vars::new(), &Anything)).unwrap();
    let called = asked(&facts);
    let action = Some(Action::Refuse("52:54:00:12:34:56".to_owned()));
    let decision = Decision { action, set: Vars::new(), reason: Some("berlin".to_owned()) };
    assert_eq!(called.said, Ok(Said::Answer(decision)));
    let line = LogLine { severity: Severity::Warn, text: "52:54:00:12:34:56".to_owned() };
    assert_eq!(called.log.lines, [line]);
    facts.mac = "52:54:00:ff:ff:ff".parse().unwrap();
    assert_eq!(
        asked(&facts).said,
        Ok(Said::Answer(Decision::default())),
        "nodes has no such machine"
    );
}

#[test]
fn a_policy_of_0_1_gets_a_script_and_gives_one() {
    let script = "#!ipxe\necho hello\n";
    let patched = async {
        golden().patch(&facts(), &Vars::new(), Purpose::Workflow, script, &Anything).await
    };
    let said = smol::block_on(patched).unwrap().said;
    assert_eq!(said, Ok(Said::Answer(Some(script.to_owned()))));
}

#[test]
fn a_policy_of_0_1_judges_item_by_item() {
    let key = "images/debian.iso".parse().unwrap();
    let item =
        CacheItem { key, size_kib: Some(1), required: true, assigned: true, hits: 1, idle: None };
    let items = vec![item; 256];
    let judged = async { golden().judge(&CacheContext::default(), &Vars::new(), &items).await };
    let said = smol::block_on(judged).unwrap().said;
    assert_eq!(said, Ok(Said::Answer(vec![None; 256])));
}

/// Fuel is the same on every machine, so these numbers are too: they change with the release of the engine, and with nothing else.
#[test]
fn a_policy_of_0_1_burns_the_fuel_that_was_recorded() {
    assert_eq!(decide(&golden()).cost.fuel, 2_231);
}

#[test]
fn the_text_of_a_policy_of_0_1_still_makes_the_policy_that_was_published() {
    let today = loaded(&component("site-policy", "golden/since-0.1"));
    let (today, then) = (decide(&today), decide(&golden()));
    assert_eq!((today.said, today.cost.fuel), (then.said, then.cost.fuel));
}

/// `examples/reboot-loop-c` as clang 14 and `plugin build` made it.
#[test]
fn a_policy_that_an_author_s_compiler_made_for_0_1_answers_as_it_did_then() {
    let hash = "58b6897ff6e97954eca26346f6654275786654a42ed8d597f6e7764be1d8b7e2";
    let component = published("since-0.1-c.wasm", hash);
    let settings = [
        ("slow-after", "3"),
        ("stop-after", "8"),
        ("wait-seconds", "60"),
        ("released-by-tag", "spare"),
    ];
    let settings: Vars = settings.map(|(name, value)| (name.into(), value.into())).into();
    let code = compile::compile(&ENGINE, &component).unwrap();
    let plugin = load_code(&header(&component, &[Hook::Boot]), &code, None).unwrap();
    let asked = |attempt, node| {
        let facts = BootFacts { attempt, node, ..facts() };
        let called = smol::block_on(plugin.decide(&facts, &settings, &Anything)).unwrap();
        let Ok(Said::Answer(decision)) = called.said else { panic!("{:?}", called.said) };
        (decision.action, called.cost.fuel)
    };
    let text = "boot 9 within ten minutes: tag it spare to let it go on".to_owned();
    assert_eq!(
        [asked(3, None), asked(4, None), asked(9, None), asked(9, Some(known()))],
        [
            (None, 3_878),
            (Some(Action::Hold(60)), 5_713),
            (Some(Action::Refuse(text)), 13_011),
            (None, 4_317),
        ]
    );
}
