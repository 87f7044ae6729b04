//! Rules of the repository itself.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use pureboot_tests::process;

use crate::{Case, case};

/// The catalogue's cases that the running programs must be shown to survive.
const FAULTS_SHOWN: [&str; 33] = [
    "F1", "F2", "F3", "F4", "F11", "F12", "F13", "H1", "H2", "H3", "H4", "H5", "H6", "H10", "H11",
    "H14", "H15", "A1", "A3", "A11", "K11", "D2", "D6", "D7", "D8", "D11", "D12", "D18", "N9",
    "N10", "H9", "H23", "C15",
];

/// The catalogue's cases that content and its synchronisation must be shown to survive, from and to: each has a row in
/// `tests/faults.md`.
const FAULTS_LISTED: [(&str, u8, u8); 12] = [
    ("N", 1, 13),
    ("K", 1, 16),
    ("K", 19, 19),
    ("K", 21, 21),
    ("D", 1, 12),
    ("D", 15, 15),
    ("D", 18, 18),
    ("T", 1, 6),
    ("C", 1, 12),
    ("C", 15, 19),
    ("H", 9, 10),
    ("H", 23, 23),
];

/// A file beyond this many lines has a second topic.
const LINES_MAX: usize = 600;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(nothing_is_left_to_do_later),
        case!(no_source_file_is_too_long),
        case!(every_fault_that_must_be_shown_has_a_test),
        case!(every_named_test_exists),
        case!(every_fault_of_content_and_synchronisation_is_listed),
        case!(the_policy_contract_parses),
        case!(links_in_documents_lead_somewhere),
        case!(the_protocol_depends_on_serde_alone),
        case!(p15_no_program_carries_what_wasmtime_s_escapes_went_through),
        case!(there_is_one_place_that_is_unsafe),
    ]
}

fn root() -> Result<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(tests.parent().context("the tests lie in the workspace")?.to_owned())
}

/// Every file of the repository whose name ends so, without what is built and what git keeps.
fn files(ending: &str) -> Result<Vec<PathBuf>> {
    fn walk(dir: &Path, ending: &str, found: &mut Vec<PathBuf>) -> Result<()> {
        for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !path.is_symlink() && name != "target" && name != ".git" {
                walk(&path, ending, found)?;
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    walk(&root()?, ending, &mut found)?;
    ensure!(!found.is_empty(), "no file ends with {ending}");
    found.sort();
    Ok(found)
}

fn report(faults: &[String]) -> Result<()> {
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

fn nothing_is_left_to_do_later() -> Result<()> {
    // Put together here, so that this file does not find itself.
    let marks = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["to", "do!("], ["unimplem", "ented!("]]
        .map(|halves| halves.concat());
    let mut faults = Vec::new();
    for ending in [".rs", ".toml", ".md", ".ipxe", ".sql", ".S", ".wit"] {
        // A kind of file that nobody has written yet has no fault either.
        for path in files(ending).unwrap_or_default() {
            let text = fs::read_to_string(&path)?;
            for (number, line) in (1..).zip(text.lines()) {
                if marks.iter().any(|mark| line.contains(mark)) {
                    faults.push(format!("{}:{number}: {}", path.display(), line.trim()));
                }
            }
        }
    }
    report(&faults)
}

fn no_source_file_is_too_long() -> Result<()> {
    let mut faults = Vec::new();
    for path in files(".rs")? {
        let lines = fs::read_to_string(&path)?.lines().count();
        if lines > LINES_MAX {
            faults.push(format!("{}: {lines} lines, at most {LINES_MAX}", path.display()));
        }
    }
    report(&faults)
}

fn every_fault_that_must_be_shown_has_a_test() -> Result<()> {
    let mut sources = String::new();
    for path in files(".rs")? {
        if path.components().any(|part| part.as_os_str() == "it") {
            sources.push_str(&fs::read_to_string(&path)?);
        }
    }
    let has_test = |case: &str| sources.contains(&format!("case!({}_", case.to_lowercase()));
    let missing: Vec<_> = FAULTS_SHOWN
        .iter()
        .filter(|case| !has_test(case))
        .map(|case| format!("no trial is named after {case}"))
        .collect();
    report(&missing)
}

/// `tests/faults.md` names the test that shows a fault.
fn every_named_test_exists() -> Result<()> {
    let table = fs::read_to_string(root()?.join("tests/faults.md"))?;
    let mut sources = String::new();
    for path in files(".rs")? {
        sources.push_str(&fs::read_to_string(&path)?);
    }
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    let names: Vec<_> = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect();
    let is_name = |name: &&str| name.contains('_');
    ensure!(names.iter().filter(|name| is_name(name)).count() > 50, "the table cannot be read");
    let missing: Vec<_> = names
        .into_iter()
        .filter(is_name)
        .filter(|name| !sources.contains(&format!("fn {name}(")))
        .map(|name| format!("tests/faults.md names {name}, which no source has"))
        .collect();
    report(&missing)
}

fn every_fault_of_content_and_synchronisation_is_listed() -> Result<()> {
    let table = fs::read_to_string(root()?.join("tests/faults.md"))?;
    let firsts = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let listed: Vec<_> = firsts.flat_map(|cases| cases.split(", ")).collect();
    let wanted = FAULTS_LISTED.iter().flat_map(|(letter, from, to)| {
        (*from..=*to).map(move |number| format!("{letter}{number}"))
    });
    let missing: Vec<_> = wanted
        .filter(|case| !listed.contains(&case.as_str()))
        .map(|case| format!("tests/faults.md has no row for {case}"))
        .collect();
    report(&missing)
}

fn the_policy_contract_parses() -> Result<()> {
    let path = root()?.join("plugins/wit/since-0.1/policy.wit");
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_file(&path)?;
    let package = resolve.packages.get(package).context("the package that was just read")?;
    ensure!(package.name.to_string().starts_with("pureboot:policy@"), "it is {}", package.name);
    for world in ["boot-policy", "script-policy", "cache-policy", "site-policy"] {
        ensure!(package.worlds.contains_key(world), "no world {world}");
    }
    Ok(())
}

fn links_in_documents_lead_somewhere() -> Result<()> {
    let mut faults = Vec::new();
    for path in files(".md").unwrap_or_default() {
        let text = fs::read_to_string(&path)?;
        let dir = path.parent().context("a file lies in a directory")?;
        // Code is no link, whatever it looks like.
        let prose = text.split("```").step_by(2).collect::<String>();
        for link in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split(['#', ' ']).next().unwrap_or_default();
            let is_elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !target.is_empty() && !is_elsewhere && !dir.join(target).exists() {
                faults.push(format!("{}: {target} does not exist", path.display()));
            }
        }
    }
    report(&faults)
}

fn the_protocol_depends_on_serde_alone() -> Result<()> {
    let mut command = process::system("cargo")?;
    command.current_dir(root()?);
    command.args(["tree", "--offline", "--locked", "--package", "pureboot-protocol"]);
    command.args(["--edges", "normal", "--depth", "1", "--prefix", "none", "--format", "{p}"]);
    let tree = process::succeed(command)?;
    let names: Vec<_> =
        tree.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    ensure!(names == ["serde"], "it depends on {names:?}");
    Ok(())
}

/// Code generators, WASI, the pooling allocator, threads and the asynchronous component model: where the sandbox was escaped from.
fn p15_no_program_carries_what_wasmtime_s_escapes_went_through() -> Result<()> {
    let mut faults = Vec::new();
    for package in ["pureboot-agent", "pureboot-plugin-host"] {
        let mut command = process::system("cargo")?;
        command.current_dir(root()?);
        command.args(["tree", "--offline", "--locked", "--package", package]);
        command.args(["--edges", "normal", "--prefix", "none", "--format", "{p} {f}"]);
        let tree = process::succeed(command)?;
        for line in tree.lines() {
            let name = line.split_whitespace().next().unwrap_or_default();
            let generates = name.starts_with("cranelift-codegen") || name.contains("winch");
            if generates || name.starts_with("wasmtime-wasi") {
                faults.push(format!("{package} has {line}"));
            }
            if name == "wasmtime" && line.split_whitespace().last() != Some(WASMTIME_FEATURES) {
                faults
                    .push(format!("{package} has {line}, and only {WASMTIME_FEATURES} are wanted"));
            }
        }
    }
    report(&faults)
}

/// What the host of policies needs of wasmtime, with the features that those bring.
const WASMTIME_FEATURES: &str =
    "async,component-model,once_cell,pulley,runtime,std,wasmtime-jit-icache-coherence";

/// `Component::deserialize` of the plugin host. Everywhere else the compiler forbids it, and there this does.
fn there_is_one_place_that_is_unsafe() -> Result<()> {
    let mark = ["unsafe", " {"].concat();
    let mut places = Vec::new();
    for path in files(".rs")? {
        let text = fs::read_to_string(&path)?;
        places.extend(text.lines().filter(|line| line.contains(&mark)).map(|_| path.clone()));
    }
    let is_known = |path: &PathBuf| path.ends_with("plugins/host/src/plugin.rs");
    ensure!(places.len() == 1 && places.iter().all(is_known), "unsafe blocks in {places:?}");
    Ok(())
}
