//! Modules that nobody wrote: wasm-smith makes them of random bytes, with the exports of a policy.

use arbitrary::Unstructured;
use pureboot_plugin_host::compile;
use pureboot_plugin_host::package::Hook;
use wasm_smith::{Config, Module};

use crate::guest::{ENGINE, decide, embedded, header, load_code};

/// How many are tried, and how many with `PUREBOOT_TESTS_LONG`.
const MODULES: (u64, u64) = (60, 3_000);

/// What a policy with the hook `boot` exports.
const SHAPE: &str = r#"(module
    (memory (export "memory") 1)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
    (func (export "pureboot:policy/boot@0.1.0#decide") (param i32) (result i32) unreachable))"#;

/// Steele, Lea and Flood's SplitMix64, so that a failing module can be made again from its number.
fn random_bytes(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut number = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    (0..512).flat_map(|_| number().to_le_bytes()).collect()
}

fn module(seed: u64) -> Option<Vec<u8>> {
    let bytes = random_bytes(seed);
    let config = Config {
        exports: Some(wat::parse_str(SHAPE).unwrap()),
        max_imports: 0,
        // What the engine is not built with.
        custom_page_sizes_enabled: false,
        exceptions_enabled: false,
        gc_enabled: false,
        memory64_enabled: false,
        reference_types_enabled: false,
        relaxed_simd_enabled: false,
        threads_enabled: false,
        wide_arithmetic_enabled: false,
        max_memories: 2,
        max_memory32_bytes: 1 << 22,
        max_table_elements: 1_000,
        // Half of them would trap before long, which is worth less than a call that goes on.
        disallow_traps: seed.is_multiple_of(2),
        ..Config::default()
    };
    Module::new(config, &mut Unstructured::new(&bytes)).ok().map(|module| module.to_bytes())
}

#[test]
fn modules_of_random_bytes_fail_by_themselves_and_never_with_the_host() {
    let (short, long) = MODULES;
    let count = if std::env::var_os("PUREBOOT_TESTS_LONG").is_some() { long } else { short };
    let (mut refused, mut failed, mut answered) = (0, 0, 0);
    for seed in 0..count {
        let Some(module) = module(seed) else { continue };
        // It is fuzzing of the host and not of the compiler: what that refuses is refused.
        let component = compile::componentize(&embedded("boot-policy", module));
        let Some((component, code)) = component.ok().and_then(|component| {
            let code = compile::compile(&ENGINE, &component).ok()?;
            Some((component, code))
        }) else {
            refused += 1;
            continue;
        };
        let Ok(plugin) = load_code(&header(&component, &[Hook::Boot]), &code, None) else {
            refused += 1;
            continue;
        };
        let first = decide(&plugin);
        let second = decide(&plugin);
        assert_eq!(
            (&first.said, first.cost.fuel),
            (&second.said, second.cost.fuel),
            "module {seed}"
        );
        if first.said.is_ok() { answered += 1 } else { failed += 1 }
    }
    println!("{refused} refused, {failed} failed, {answered} answered");
    assert!(
        failed + answered > count / 10,
        "hardly any module ran: {refused} of {count} were refused"
    );
}
