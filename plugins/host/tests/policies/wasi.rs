//! The stand-in for WASI, as components that were built for it find it: the same at every call, and a trap for what it does not have.

use pureboot_plugin_host::compile;
use pureboot_plugin_host::facts::Action;
use pureboot_plugin_host::package::Hook;
use pureboot_plugin_host::plugin::{Called, Failure, Said};
use pureboot_plugin_host::state::LogBook;

use crate::guest::{decide, embedded_in, facts, load};

/// As much of WASI as is called here; the names and types are those of its version 0.2.
const WASI: [&str; 5] = [
    "package wasi:io@0.2.6; interface streams { variant stream-error { closed } resource output-stream {
        blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>; } }",
    "package wasi:cli@0.2.6; interface exit { exit: func(status: result); }
        interface stderr { use wasi:io/streams@0.2.6.{output-stream}; get-stderr: func() -> output-stream; }",
    "package wasi:random@0.2.6; interface random { get-random-u64: func() -> u64; get-random-bytes: func(len: u64) -> list<u8>; }",
    "package wasi:clocks@0.2.6; interface wall-clock {
        record datetime { seconds: u64, nanoseconds: u32 } now: func() -> datetime; }",
    "package case:wasi; world policy { include pureboot:policy/boot-policy@0.1.0; import wasi:cli/exit@0.2.6; import wasi:cli/stderr@0.2.6;
        import wasi:random/random@0.2.6; import wasi:clocks/wall-clock@0.2.6; }",
];

/// A policy that does this and then holds the machine for as many seconds as there are at 1032.
fn policy(body: &str) -> Called<pureboot_plugin_host::facts::Decision> {
    let text = format!(
        r#"(module
        (import "wasi:cli/exit@0.2.6" "exit" (func $exit (param i32)))
        (import "wasi:cli/stderr@0.2.6" "get-stderr" (func $stderr (result i32)))
        (import "wasi:io/streams@0.2.6" "[method]output-stream.blocking-write-and-flush"
            (func $write (param i32 i32 i32 i32)))
        (import "wasi:random/random@0.2.6" "get-random-u64" (func $random (result i64)))
        (import "wasi:random/random@0.2.6" "get-random-bytes" (func $bytes (param i64 i32)))
        (import "wasi:clocks/wall-clock@0.2.6" "now" (func $now (param i32)))
        (memory (export "memory") 4)
        (data (i32.const 2048) "panicked at line 7\n")
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536))
        (func (export "pureboot:policy/boot@0.1.0#decide") (param i32) (result i32)
            {body}
            (i32.store8 offset=4 (i32.const 1024) (i32.const 7))
            (i32.const 1024)))"#
    );
    let module = embedded_in(&WASI, "case:wasi/policy", wat::parse_str(text).unwrap());
    let component = compile::componentize(&module).unwrap();
    decide(&load(&component, &[Hook::Boot]).map_err(|error| error.to_string()).unwrap())
}

fn hold(called: &Called<pureboot_plugin_host::facts::Decision>) -> u32 {
    match &called.said {
        Ok(Said::Answer(decision)) => match decision.action {
            Some(Action::Hold(seconds)) => seconds,
            ref other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_printed_goes_into_the_log() {
    let called =
        policy("(call $write (call $stderr) (i32.const 2048) (i32.const 19) (i32.const 4096))");
    let texts = |log: &LogBook| log.lines.iter().map(|line| line.text.clone()).collect::<Vec<_>>();
    assert_eq!((hold(&called), texts(&called.log)), (5, vec!["panicked at line 7".to_owned()]));
}

#[test]
fn the_clock_is_the_request_s() {
    let seconds = "(call $now (i32.const 4096))
        (i32.store offset=8 (i32.const 1024)
            (i32.sub (i32.load (i32.const 4096)) (i32.const 1794999000)))";
    assert_eq!(hold(&policy(seconds)), facts().now - 1_794_999_000);
}

#[test]
fn chance_is_the_same_in_every_call() {
    let number = "(i32.store offset=8 (i32.const 1024)
        (i32.add (i32.const 10) (i32.and (i32.wrap_i64 (call $random)) (i32.const 2047))))";
    let held = hold(&policy(number));
    assert_eq!(held, hold(&policy(number)));
    assert_ne!(held, 10, "and is not nothing");
}

#[test]
fn p9_chance_is_not_given_by_the_gigabyte() {
    let called = policy("(call $bytes (i64.const 0x40000000) (i32.const 4096))");
    assert!(
        matches!(&called.said, Err(Failure::Trap(text)) if text.contains("random bytes")),
        "{:?}",
        called.said
    );
}

#[test]
fn a_policy_that_exits_has_failed() {
    let called = policy("(call $exit (i32.const 0))");
    assert!(
        matches!(&called.said, Err(Failure::Trap(text)) if text.contains("exit")),
        "{:?}",
        called.said
    );
}
