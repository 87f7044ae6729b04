//! The bill of materials of a program: CycloneDX 1.5, one component for each crate that is linked into it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use pureboot_tests::process;
use serde_json::{Value, json};

use super::sha256;
use super::target::{Program, Target};
use crate::cargo;

/// A crate by name and version.
type Crate = (String, String);

/// The list for `program`, whose bytes are `bytes`. The same program has the same list.
///
/// # Errors
/// cargo does not tell what is in it.
pub(crate) fn of(program: Program, target: Target, bytes: &[u8]) -> Result<String> {
    let linked = linked(program, target)?;
    let known = known()?;
    let root = linked.iter().find(|(name, _)| name == program.package());
    let (name, version) = root.context("cargo does not name the program itself")?;
    let components: Vec<_> =
        linked.iter().filter(|it| it.0 != *name).map(|it| component(it, known.get(it))).collect();
    let digest = sha256(bytes);
    let list = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": format!("urn:uuid:{}", uuid(&digest)),
        "version": 1,
        "metadata": { "component": {
            "type": "application",
            "bom-ref": name,
            "name": name,
            "version": version,
            "licenses": [{ "expression": "MIT OR Apache-2.0" }],
            "hashes": [{ "alg": "SHA-256", "content": digest }],
            "properties": [{ "name": "target", "value": target.triple() }],
        }},
        "components": components,
    });
    Ok(format!("{}\n", serde_json::to_string_pretty(&list)?))
}

fn component((name, version): &Crate, known: Option<&Known>) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": format!("{name}@{version}"),
        "name": name,
        "version": version,
    });
    let Some(fields) = component.as_object_mut() else { return component };
    if let Some(Known { license, is_published: true, .. }) = known {
        fields.insert("purl".to_owned(), format!("pkg:cargo/{name}@{version}").into());
        fields.insert("licenses".to_owned(), json!([{ "expression": license }]));
    }
    if let Some(Known { checksum: Some(checksum), .. }) = known {
        fields.insert("hashes".to_owned(), json!([{ "alg": "SHA-256", "content": checksum }]));
    }
    component
}

/// A number for the list that depends on the program alone (RFC 9562 §5.8).
fn uuid(digest: &str) -> String {
    let part = |from: usize, len: usize| digest.get(from..from + len).unwrap_or_default();
    format!("{}-{}-8{}-8{}-{}", part(0, 8), part(8, 4), part(12, 3), part(15, 3), part(18, 12))
}

/// The crates that are linked into a program. What only runs while it is built is not among them.
fn linked(program: Program, target: Target) -> Result<BTreeSet<Crate>> {
    let mut command =
        cargo::command(&["tree", "--locked", "--edges", "normal", "--prefix", "none"])?;
    command.args(["--format", "{p}", "--package", program.package(), "--target", target.triple()]);
    command.args(program.features());
    let tree = process::succeed(command)?;
    let found: BTreeSet<_> =
        tree.lines().filter(|line| !line.contains("(proc-macro)")).filter_map(crate_of).collect();
    ensure!(!found.is_empty(), "cargo tree names no crate");
    Ok(found)
}

/// Reads `name v1.2.3 (somewhere)`.
fn crate_of(line: &str) -> Option<Crate> {
    let mut words = line.split_whitespace();
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    Some((name.to_owned(), version.to_owned()))
}

/// What cargo knows of a crate.
struct Known {
    license: String,
    is_published: bool,
    checksum: Option<String>,
}

fn known() -> Result<BTreeMap<Crate, Known>> {
    let metadata =
        process::succeed(cargo::command(&["metadata", "--locked", "--format-version=1"])?)?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let lock = std::fs::read_to_string(cargo::root()?.join("Cargo.lock"))?;
    let checksums = checksums(&lock);
    let packages =
        metadata.get("packages").and_then(Value::as_array).context("cargo names no packages")?;
    let text = |package: &Value, field| {
        package.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let entry = |package: &Value| {
        let id = (text(package, "name"), text(package, "version"));
        let checksum = checksums.get(&id).cloned();
        let is_published = !text(package, "source").is_empty();
        // The old way to write a choice of licences is none that SPDX reads.
        let license = text(package, "license").replace('/', " OR ");
        (id, Known { license, is_published, checksum })
    };
    Ok(packages.iter().map(entry).collect())
}

/// The SHA-256 of each crate's archive, as `Cargo.lock` has it.
fn checksums(lock: &str) -> BTreeMap<Crate, String> {
    let field = |block: &str, name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""))?;
        Some(line.trim_end_matches('"').to_owned())
    };
    let entry = |block: &str| {
        Some(((field(block, "name")?, field(block, "version")?), field(block, "checksum")?))
    };
    lock.split("[[package]]").filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_read_as_cargo_writes_them() {
        let id = |name: &str, version: &str| (name.to_owned(), version.to_owned());
        assert_eq!(crate_of("smol v2.0.2"), Some(id("smol", "2.0.2")));
        assert_eq!(
            crate_of("pureboot-agent v0.1.0 (/somewhere)"),
            Some(id("pureboot-agent", "0.1.0"))
        );
        assert_eq!(crate_of(""), None);
        let lock = "version = 4\n\n[[package]]\nname = \"smol\"\nversion = \"2.0.2\"\nchecksum = \"ab\"\n\n[[package]]\nname = \"own\"\nversion = \"1\"\n";
        assert_eq!(checksums(lock), BTreeMap::from([(id("smol", "2.0.2"), "ab".to_owned())]));
    }

    #[test]
    fn a_list_names_what_is_linked_and_where_it_is_from() {
        let list = of(Program::Agent, Target::X86_64, b"program").expect("cargo tells");
        let list: Value = serde_json::from_str(&list).expect("JSON");
        let components = list["components"].as_array().expect("components");
        let smol = components.iter().find(|it| it["name"] == "smol").expect("it is on smol");
        assert!(smol["purl"].as_str().is_some_and(|purl| purl.starts_with("pkg:cargo/smol@2")));
        assert!(smol["hashes"][0]["content"].as_str().is_some_and(|hash| hash.len() == 64));
        assert!(components.iter().all(|it| it["name"] != "proptest"), "tests are not in it");
        let serial = list["serialNumber"].as_str().expect("a number");
        assert_eq!(serial.len(), "urn:uuid:".len() + 36, "{serial}");
    }
}
