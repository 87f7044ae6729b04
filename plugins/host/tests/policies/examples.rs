//! The example policies, as `cargo xtask guests` builds them, and the answers that their fixtures expect.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

use pureboot_plugin_host::compile;
use pureboot_plugin_host::facts::{
    BootFacts, CacheContext, CacheItem, CacheVerdict, Decision, Vars,
};
use pureboot_plugin_host::package::{Header, Hook, Setting};
use pureboot_plugin_host::plugin::{Called, Plugin, Said};
use serde::Deserialize;

use crate::guest::{Anything, ENGINE, header, load_code, plugins};

const EXAMPLES: [&str; 3] = ["cache-tonight", "diskless-lab", "rack-window"];

/// What an author says of a policy, in `policy.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    hooks: BTreeSet<Hook>,
    settings: BTreeMap<String, Setting>,
}

/// One question and its answer.
#[derive(Deserialize)]
#[serde(tag = "hook", deny_unknown_fields, rename_all = "kebab-case")]
enum Fixture {
    #[serde(rename_all = "kebab-case")]
    Boot {
        request: Box<BootFacts>,
        #[serde(default)]
        settings: Vars,
        #[serde(default)]
        expect: Option<Decision>,
        #[serde(default)]
        expect_error: Option<String>,
        max_fuel: u64,
    },
    #[serde(rename_all = "kebab-case")]
    Cache {
        #[serde(default)]
        context: CacheContext,
        items: Vec<CacheItem>,
        #[serde(default)]
        settings: Vars,
        expect: Vec<Option<CacheVerdict>>,
        max_fuel: u64,
    },
}

/// Where the modules are that `cargo xtask guests` built.
fn module(example: &str) -> PathBuf {
    let file = format!("{}.wasm", example.replace('-', "_"));
    plugins("../target/guests/wasm32-unknown-unknown/release").join(file)
}

fn load(example: &str) -> Plugin {
    let description = fs::read(plugins("examples").join(example).join("policy.json")).unwrap();
    let description: Description = serde_json::from_slice(&description).unwrap();
    let component = compile::componentize(&fs::read(module(example)).unwrap()).unwrap();
    let code = compile::compile(&ENGINE, &component).unwrap();
    println!("{example}: component of {} bytes, code of {} bytes", component.len(), code.len());
    let header = Header {
        hooks: description.hooks,
        settings: description.settings,
        ..header(&component, &[])
    };
    load_code(&header, &code, None).map_err(|error| error.to_string()).unwrap()
}

fn check<T: Debug + PartialEq>(path: &Path, called: Called<T>, expected: Said<T>, max_fuel: u64) {
    println!("{}: {:?}", path.display(), called.cost);
    assert_eq!(called.said, Ok(expected), "{}: {:?}", path.display(), called.log);
    assert!(called.cost.fuel <= max_fuel, "{}: {} fuel", path.display(), called.cost.fuel);
}

fn run(plugin: &Plugin, path: &Path) {
    let fixture = serde_json::from_slice(&fs::read(path).unwrap());
    match fixture.unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
        Fixture::Boot { request, settings, expect, expect_error, max_fuel } => {
            let settings = plugin.settings(&settings);
            let called = smol::block_on(plugin.decide(&request, &settings, &Anything)).unwrap();
            let expected = match (expect, expect_error) {
                (Some(decision), None) => Said::Answer(decision),
                (None, Some(message)) => Said::Error(message),
                _ => panic!("{}: either expect or expect-error", path.display()),
            };
            check(path, called, expected, max_fuel);
        }
        Fixture::Cache { context, items, settings, expect, max_fuel } => {
            let settings = plugin.settings(&settings);
            let called = smol::block_on(plugin.judge(&context, &settings, &items)).unwrap();
            check(path, called, Said::Answer(expect), max_fuel);
        }
    }
}

#[test]
#[ignore = "needs the example policies: cargo xtask guests"]
fn every_example_answers_as_its_fixtures_say() {
    for example in EXAMPLES {
        let plugin = load(example);
        let fixtures = fs::read_dir(plugins("examples").join(example).join("fixtures")).unwrap();
        let paths: Vec<_> = fixtures.map(|entry| entry.unwrap().path()).collect();
        assert!(!paths.is_empty(), "{example} has no fixture");
        paths.iter().for_each(|path| run(&plugin, path));
    }
}

#[test]
#[ignore = "needs the example policies: cargo xtask guests"]
fn an_example_burns_the_same_fuel_twice() {
    let plugin = load("rack-window");
    let facts = crate::guest::facts();
    let fuel = || smol::block_on(plugin.decide(&facts, &Vars::new(), &Anything)).unwrap().cost.fuel;
    assert_eq!(fuel(), fuel());
}
