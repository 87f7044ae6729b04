//! What is not installed, and what whoever tried is told.

use std::sync::Arc;

use pureboot_plugin_host::compile;
use pureboot_plugin_host::package::{Capability, Header, Hook};
use pureboot_plugin_host::plugin::{LoadError, Plugin};
use pureboot_plugin_host::seal::{KEY_LEN, SealKey};
use wasmtime::Config;

use crate::guest::{ENGINE, OneNode, component, decide, header, load, load_code};

fn quiet() -> Vec<u8> {
    component("boot-policy", "hostile/p9-log-many")
}

fn refusal(loaded: Result<Plugin, LoadError>) -> String {
    match loaded {
        Ok(_) => panic!("it was loaded"),
        Err(error) => error.to_string(),
    }
}

/// A component as its text says, with the boot hook in its header.
fn text(text: &str) -> Result<Plugin, LoadError> {
    load(&wat::parse_str(text).unwrap(), &[Hook::Boot])
}

#[test]
fn p7_what_is_no_component_is_not_compiled() {
    for (bytes, what) in [
        (&b""[..], "nothing"),
        (b"#!ipxe", "a script"),
        (b"\0asm\x01\0\0\0", "an empty module without a world"),
        (b"\0asm\x0d\0\x01\0\xff", "a broken component"),
        (&quiet()[..quiet().len() / 2], "half a component"),
    ] {
        let component = compile::componentize(bytes);
        let code = component.and_then(|component| compile::compile(&ENGINE, &component));
        let loaded = code.map(|code| load_code(&header(bytes, &[Hook::Boot]), &code, None).is_ok());
        assert!(!matches!(loaded, Ok(true)), "{what}");
    }
}

#[test]
fn p7_an_import_that_no_policy_gets_is_refused_by_name() {
    let refused =
        refusal(text(r#"(component (import "acme:net/http" (instance (export "get" (func)))))"#));
    assert!(refused.contains("acme:net/http"), "{refused}");
    let refused = refusal(text(
        r#"(component (import "pureboot:policy/log@0.1.7" (instance (export "metric" (func)))))"#,
    ));
    assert!(refused.contains("pureboot:policy/log@0.1.7#metric"), "{refused}");
    let refused = refusal(text(r#"(component (import "pureboot:policy/log@0.2.0" (instance)))"#));
    assert!(refused.contains("pureboot:policy/log@0.2.0"), "{refused}");
}

#[test]
fn p7_a_policy_of_another_contract_is_told_which_one_is_spoken() {
    let refused = refusal(text(
        r#"(component (instance $boot) (export "pureboot:policy/boot@0.2.0" (instance $boot)))"#,
    ));
    assert!(
        refused.contains("boot@0.2.0") && refused.contains("speaks pureboot:policy 0.1"),
        "{refused}"
    );
}

#[test]
fn p7_a_hook_with_other_types_is_told_where_they_differ() {
    let refused = refusal(text(
        r#"(component
            (core module $m (func (export "f") (result i32) (i32.const 0)))
            (core instance $i (instantiate $m))
            (func $f (result u32) (canon lift (core func $i "f")))
            (instance $boot (export "decide" (func $f)))
            (export "pureboot:policy/boot@0.1.0" (instance $boot)))"#,
    ));
    assert!(refused.contains("boot.decide has other types"), "{refused}");
}

#[test]
fn p6_a_hook_that_the_header_promises_has_to_be_there() {
    let refused = refusal(load(&quiet(), &[Hook::Boot, Hook::Cache]));
    assert!(refused.contains("cache.judge"), "{refused}");
}

#[test]
fn a_capability_is_both_declared_and_granted_or_there_is_none() {
    let component = component("site-policy", "golden/since-0.1");
    let code = compile::compile(&ENGINE, &component).unwrap();
    let header = header(&component, &[Hook::Boot]);
    let node = || -> Arc<OneNode> {
        let text = r#"{"id": "n", "mac": "52:54:00:12:34:56", "state": "active"}"#;
        Arc::new(OneNode(serde_json::from_str(text).unwrap()))
    };
    assert!(matches!(load_code(&header, &code, Some(node())), Err(LoadError::Undeclared(_))));
    let declared = Header { capabilities: [Capability::Nodes].into(), ..header };
    assert!(matches!(load_code(&declared, &code, None), Err(LoadError::NotGranted(_))));
    assert!(load_code(&declared, &code, Some(node())).is_ok());
}

#[test]
fn p10_code_of_another_engine_is_refused_before_it_is_touched() {
    let component = quiet();
    let code = compile::compile(&ENGINE, &component).unwrap();
    let foreign =
        Header { engine: "wt48.0.7-pulley64-pb1".to_owned(), ..header(&component, &[Hook::Boot]) };
    let refused = refusal(load_code(&foreign, &code, None));
    assert!(
        refused.contains("wt48.0.7-pulley64-pb1") && refused.contains("this agent runs wt48.0.8"),
        "{refused}"
    );
}

#[test]
fn p10_signed_code_with_other_settings_or_cut_short_is_refused_by_the_engine() {
    let component = quiet();
    let header = header(&component, &[Hook::Boot]);
    let mut config = Config::new();
    config.target("pulley64").unwrap();
    let code = wasmtime::Engine::new(&config).unwrap().precompile_component(&component).unwrap();
    assert!(matches!(load_code(&header, &code, None), Err(LoadError::Code(_))));
    let code = compile::compile(&ENGINE, &component).unwrap();
    for cut in [&code[..code.len() / 2], &code[..1], &[], b"\x7fELF", &component[..]] {
        assert!(
            matches!(load_code(&header, cut, None), Err(LoadError::Code(_))),
            "{} bytes",
            cut.len()
        );
    }
}

#[test]
fn p10_what_this_host_compiled_itself_is_loaded_by_its_seal() {
    let component = quiet();
    let header = header(&component, &[Hook::Boot]);
    let key = SealKey::new(&[3; KEY_LEN]);
    let file = key.seal(header.wasm, &compile::compile(&ENGINE, &component).unwrap());
    let code = key.open(header.wasm, &file).unwrap();
    let plugin = smol::block_on(Plugin::load_code(&ENGINE, header, code, None)).unwrap();
    assert!(decide(&plugin).said.is_ok());
}

#[test]
fn code_is_the_same_whenever_it_is_compiled() {
    let compiled = || compile::compile(&ENGINE, &quiet()).unwrap();
    assert!(compiled() == compiled());
}

#[test]
fn a_setting_is_the_site_s_or_the_default_and_no_other_is_passed_on() {
    use pureboot_plugin_host::package::Setting;
    let component = quiet();
    let setting = |default: &str| Setting { default: default.to_owned(), help: String::new() };
    let settings = [("from".to_owned(), setting("22:00")), ("to".to_owned(), setting("04:00"))];
    let header = Header { settings: settings.into(), ..header(&component, &[Hook::Boot]) };
    let plugin = load_code(&header, &compile::compile(&ENGINE, &component).unwrap(), None).unwrap();
    let pairs = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let of_site = pairs(&[("to", "05:00"), ("other", "x")]);
    assert_eq!(plugin.settings(&of_site), pairs(&[("from", "22:00"), ("to", "05:00")]));
}
