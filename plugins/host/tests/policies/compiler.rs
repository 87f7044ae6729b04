//! FAULTS P8: the compiler in a process of its own.

use std::process::Command;
use std::time::{Duration, Instant};

use pureboot_plugin_host::compile::{self, COMPONENT_LEN_MAX, CPU_S_MAX, CompileError};
use pureboot_plugin_host::package::Hook;

use crate::guest::{ENGINE, component, decide, header, load_code};

fn compiler() -> Command {
    Command::new(env!("CARGO_BIN_EXE_pureboot-plugin-compiler"))
}

#[test]
fn what_a_child_compiles_is_what_would_be_compiled_here() {
    let component = component("boot-policy", "hostile/p9-log-many");
    let code = compile::in_child(compiler(), &component, COMPONENT_LEN_MAX).unwrap();
    assert!(code == compile::compile(&ENGINE, &component).unwrap());
    let plugin = load_code(&header(&component, &[Hook::Boot]), &code, None).unwrap();
    assert!(decide(&plugin).said.is_ok());
}

#[test]
fn p8_a_component_that_is_too_large_is_not_even_given_to_the_compiler() {
    let refused = compile::in_child(Command::new("/nonexistent"), &[0; 11], 10);
    assert!(matches!(refused, Err(CompileError::Long { len: 11, max: 10 })));
}

#[test]
fn p8_what_is_no_component_is_refused_with_the_reason() {
    let refused = compile::in_child(compiler(), b"#!ipxe", COMPONENT_LEN_MAX).unwrap_err();
    assert!(matches!(refused, CompileError::Refused(_)), "{refused}");
}

/// One function of nothing but blocks and additions, as many as `instructions`.
fn bomb(instructions: usize) -> Vec<u8> {
    let body = "(local.set 0 (i32.add (i32.mul (local.get 0) (local.get 1)) (i32.xor (local.get 1) (local.get 0))))\
                (if (local.get 0) (then (local.set 1 (i32.sub (local.get 0) (local.get 1)))))";
    let text =
        format!("(component (core module (func (param i32 i32) {})))", body.repeat(instructions));
    wat::parse_str(text).unwrap()
}

#[test]
fn p8_a_compile_bomb_ends_with_its_limits_and_not_with_the_host() {
    let bomb = bomb(60_000);
    let started_at = Instant::now();
    let ended = compile::in_child(compiler(), &bomb, usize::MAX).unwrap_err();
    println!("{} bytes: {ended}", bomb.len());
    assert!(matches!(ended, CompileError::Ended { .. } | CompileError::Refused(_)), "{ended}");
    // Processor time is limited and not time: the machine may do a lot else.
    assert!(started_at.elapsed() < Duration::from_secs(CPU_S_MAX * 30));
}
