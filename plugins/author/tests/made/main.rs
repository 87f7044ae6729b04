//! Bundles made here and by a child process; the example policies, as `cargo xtask guests` builds them; and what authors do.
#![expect(
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "all of this is tests, which end where something is not as it should be and say what calls cost"
)]

mod languages;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use pureboot_plugin_author::bundle::Bundle;
use pureboot_plugin_author::description::Description;
use pureboot_plugin_author::made::{self, Fault, Made};
use pureboot_plugin_host::engine::COMPILED_FOR;
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const EXAMPLES: [&str; 4] = ["cache-tonight", "diskless-lab", "rack-window", "reboot-loop"];

/// A path below `plugins`.
fn plugins(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

/// A policy without opinion, with a fixture that says so.
fn quiet() -> Bundle {
    let mut module = wat::parse_str(
        r#"(module
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8192))
            (func (export "pureboot:policy/boot@0.1.0#decide") (param i32) (result i32) (i32.const 1024)))"#,
    )
    .unwrap();
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(plugins("wit/since-0.1")).unwrap();
    let world = resolve.select_world(&[package], Some("pureboot:policy/boot-policy")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    let mut bundle = Bundle::of_wasm("quiet".parse().unwrap(), "1.0.0".parse().unwrap(), module);
    let fixture = br#"{"hook":"boot","request":{"mac":"52:54:00:12:34:56"},"expect":{}}"#;
    bundle.fixtures.insert("one".to_owned(), fixture.to_vec());
    bundle
}

fn in_child(bundle: &Bundle, engines: &[&str]) -> Result<Made, Fault> {
    let mut maker = Command::new(env!("CARGO_BIN_EXE_pureboot-plugin-maker"));
    maker.args(engines);
    made::in_child(maker, &bundle.emit().unwrap())
}

#[test]
fn what_a_child_makes_is_what_would_be_made_here() {
    let mut made = in_child(&quiet(), &COMPILED_FOR).unwrap();
    let mut here = made::make(&quiet(), &COMPILED_FOR.map(str::to_owned)).unwrap();
    // Time is the one thing that differs.
    for report in made.fixtures.iter_mut().chain(&mut here.fixtures) {
        report.asked.took_us = 0;
    }
    assert_eq!(made, here);
    assert_eq!(made.codes.len(), 2);
}

#[test]
fn p8_what_is_wrong_is_told_by_the_child_and_an_engine_of_another_release_is_refused() {
    let mut bundle = quiet();
    let fixture = br#"{"hook":"boot","request":{"mac":"52:54:00:12:34:56"},"expect":{"action":"local-disk"}}"#;
    bundle.fixtures.insert("two".to_owned(), fixture.to_vec());
    let fault = in_child(&bundle, &[]).unwrap_err().to_string();
    assert!(fault.starts_with("the fixture two: expected {\"action\":\"local-disk\""), "{fault}");
    let fault = in_child(&quiet(), &["wt1.0.0-pulley64-pb1"]).unwrap_err().to_string();
    assert!(fault.contains("wt1.0.0") && fault.contains(COMPILED_FOR[0]), "{fault}");
}

/// An example with the module that `cargo xtask guests` built of it.
fn example(name: &str) -> Bundle {
    let module = format!("{}.wasm", name.replace('-', "_"));
    let module = plugins("../target/guests/wasm32-unknown-unknown/release").join(module);
    let project = plugins("examples").join(name);
    let description = Description::parse(&fs::read(project.join("policy.json")).unwrap()).unwrap();
    let mut fixtures = BTreeMap::new();
    for entry in fs::read_dir(project.join("fixtures")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        fixtures.insert(name, fs::read(&path).unwrap());
    }
    Bundle { description, wasm: fs::read(module).unwrap(), fixtures }
}

#[test]
#[ignore = "needs the example policies: cargo xtask guests"]
fn every_example_answers_as_its_fixtures_say_and_burns_the_same_fuel_twice() {
    for name in EXAMPLES {
        let bundle = example(name);
        assert!(!bundle.fixtures.is_empty(), "{name} has no fixture");
        let engines = COMPILED_FOR.map(str::to_owned);
        let Made { wasm_len, codes, fixtures, .. } = made::make(&bundle, &engines).unwrap();
        println!("{name}: component of {wasm_len} bytes, code of {} bytes", codes[0].len());
        let again = made::make(&bundle, &[]).unwrap();
        for (report, again) in fixtures.iter().zip(&again.fixtures) {
            println!("{name}, {}: {} fuel", report.name, report.asked.fuel);
            assert_eq!(report.asked.fuel, again.asked.fuel, "{name}, {}", report.name);
        }
    }
}

/// Runs a command of the author's with these arguments.
fn done<T: argh::FromArgs>(arguments: &[&str], run: fn(T) -> anyhow::Result<ExitCode>) {
    let command =
        T::from_args(&["plugin"], arguments).unwrap_or_else(|exit| panic!("{}", exit.output));
    let ended = run(command).unwrap_or_else(|error| panic!("{arguments:?}: {error:#}"));
    assert_eq!(ended, ExitCode::SUCCESS, "{arguments:?}");
}
