//! Each language of authors: from nothing to a bundle that a controller takes, and the same policy with the same answers as in Rust.
//! `cargo xtask test` leaves out a language, by the name of its module, whose compiler is not here, and all but C without `--long`, and says so.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use pureboot_plugin_author::bundle::Bundle;
use pureboot_plugin_author::cli::{Build, Check, Inspect, New, Pack, Run, Test};
use pureboot_plugin_author::made::{self, Made};
use pureboot_plugin_host::engine::ENGINE_ID;
use serde_json::Value;

use crate::{done, in_child, plugins};

const EXAMPLE: &str = "reboot-loop";

/// Goes the way of `plugins/README.md` with a new project; the language's tools are on the path, and not installed into it.
fn from_nothing_to_a_bundle(lang: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (project, bundle) = (path("my-policy"), path("my-policy.tar"));
    let question = format!("{project}/fixtures/a-virtual-machine.json");
    done(&["my-policy", "--lang", lang, "--dir", &project], New::run);
    done(&[&project], Build::run);
    done(&[&project], Test::run);
    done(&[&project, "--out", &bundle], Pack::run);
    done(&[&bundle], Inspect::run);
    if has_interpreter(lang) {
        return;
    }
    done(&[&project], Check::run);
    done(&[&project, "--request", &question], Run::run);
    in_child(&Bundle::parse(&fs::read(bundle).unwrap(), usize::MAX).unwrap(), &[ENGINE_ID])
        .unwrap();
}

/// Whether components have an interpreter in them: a debug build takes minutes to compile one, more than the controller's child has.
fn has_interpreter(lang: &str) -> bool {
    matches!(lang, "js" | "ts" | "python")
}

/// Copies what a directory holds; a link is what it leads to.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        // What an author has built beside the source is none of it.
        if path.ends_with("build") || path.ends_with("node_modules") {
            continue;
        }
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// Builds the example in `language` and asks it what its fixtures say, as a controller does.
fn the_example_answers(language: &str) {
    let dir = tempfile::tempdir().unwrap();
    let name = format!("{EXAMPLE}-{language}");
    let project = dir.path().join(&name);
    copy(&plugins("examples").join(&name), &project);
    let (project, bundle) = (project.to_str().unwrap(), dir.path().join("bundle.tar"));
    done(&[project], Build::run);
    done(&[project, "--out", bundle.to_str().unwrap()], Pack::run);
    let bundle = Bundle::parse(&fs::read(bundle).unwrap(), usize::MAX).unwrap();
    let Made { wasm_len, codes, fixtures, .. } = match has_interpreter(language) {
        true => made::make(&bundle, &[ENGINE_ID.to_owned()]),
        false => in_child(&bundle, &[ENGINE_ID]),
    }
    .unwrap();
    println!("{name}: component of {wasm_len} bytes, code of {} bytes", codes[0].len());
    for report in &fixtures {
        let asked = &report.asked;
        println!(
            "{name}, {}: {} fuel, {} bytes of memory, {} us",
            report.name, asked.fuel, asked.memory_bytes, asked.took_us
        );
    }
}

/// The fixtures of an example, without the fuel, which is the language's own affair.
fn questions(name: &str) -> BTreeMap<String, Value> {
    let entries = fs::read_dir(plugins("examples").join(name).join("fixtures")).unwrap();
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let text = fs::read(entry.path()).unwrap();
        let mut fixture: BTreeMap<String, Value> = serde_json::from_slice(&text).unwrap();
        assert!(fixture.remove("max-fuel").is_some(), "{name} may burn what it likes");
        let file = entry.file_name().to_str().unwrap().to_owned();
        (file, serde_json::to_value(fixture).unwrap())
    };
    entries.map(read).collect()
}

#[test]
fn the_example_is_asked_the_same_in_every_language() {
    for language in ["c", "js", "python"] {
        assert_eq!(questions(EXAMPLE), questions(&format!("{EXAMPLE}-{language}")), "{language}");
    }
}

mod lang_rust {
    #[test]
    #[ignore = "needs a compiler for WebAssembly, as cargo xtask guests does, and a registry"]
    fn an_author_goes_from_nothing_to_a_bundle() {
        super::from_nothing_to_a_bundle("rust");
    }
}

mod lang_c {
    #[test]
    #[ignore = "needs clang and wasm-ld"]
    fn an_author_goes_from_nothing_to_a_bundle() {
        super::from_nothing_to_a_bundle("c");
    }

    #[test]
    #[ignore = "needs clang and wasm-ld"]
    fn the_example_answers_as_in_rust() {
        super::the_example_answers("c");
    }
}

mod lang_js {
    #[test]
    #[ignore = "needs esbuild and componentize-qjs from npm"]
    fn an_author_goes_from_nothing_to_a_bundle() {
        super::from_nothing_to_a_bundle("js");
        super::from_nothing_to_a_bundle("ts");
    }

    #[test]
    #[ignore = "needs esbuild and componentize-qjs from npm"]
    fn the_example_answers_as_in_rust() {
        super::the_example_answers("js");
    }
}

mod lang_python {
    #[test]
    #[ignore = "needs componentize-py from PyPI"]
    fn an_author_goes_from_nothing_to_a_bundle() {
        super::from_nothing_to_a_bundle("python");
    }

    #[test]
    #[ignore = "needs componentize-py from PyPI"]
    fn the_example_answers_as_in_rust() {
        super::the_example_answers("python");
    }
}
