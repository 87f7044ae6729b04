//! Site policies from text: what an author's compiler leaves, without a compiler.

use std::path::Path;

use anyhow::Result;
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// What a policy's `decide` leaves alone means no opinion: 1,024 is where its answer lies.
const DECIDE: &str =
    r#"(func (export "pureboot:policy/boot@0.1.0#decide") (param i32) (result i32)"#;

/// A core module whose functions are those of a world of the contract.
///
/// # Errors
/// It is no module, or not of this world.
pub fn embedded(world: &str, mut module: Vec<u8>) -> Result<Vec<u8>> {
    let mut resolve = Resolve::default();
    let contract = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/wit/since-0.1");
    let (package, _) = resolve.push_path(contract)?;
    let world = resolve.select_world(&[package], Some(&format!("pureboot:policy/{world}")))?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    Ok(module)
}

/// A policy that does this when it is asked what a machine boots, and has the text at 4,096.
///
/// # Errors
/// It is no WebAssembly.
pub fn boot_policy(text: &str, does: &str) -> Result<Vec<u8>> {
    let source = format!(
        r#"(module
            (memory (export "memory") 1)
            (data (i32.const 4096) "{text}")
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8192))
            {DECIDE} {does} (i32.const 1024)))"#
    );
    embedded("boot-policy", wat::parse_str(source)?)
}

/// A policy of `plugins/cases`.
///
/// # Errors
/// There is none of this name, or it is of another world.
pub fn case(world: &str, name: &str) -> Result<Vec<u8>> {
    let cases = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/cases"));
    embedded(world, wat::parse_file(cases.join(format!("{name}.wat")))?)
}
