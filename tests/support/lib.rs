//! The real programs as guarded processes, and the clients that talk to them: what the tests, the demonstration and the
//! benches share.
//!
//! Everything here is written without the agent's own code, so that a fault cannot hide on both sides. Every wait has an end.

pub mod capture;
pub mod controller;
pub mod dhcp;
pub mod disguise;
pub mod disk;
pub mod dnsmasq;
pub mod far;
pub mod http;
pub mod line;
pub mod machines;
pub mod namespace;
pub mod policy;
pub mod postgres;
pub mod process;
pub mod qemu;
pub mod site;
pub mod tftp;
pub mod wait;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The environment variable that asks for the long form of tests that have one.
pub const LONG: &str = "PUREBOOT_TESTS_LONG";

/// Whether the long form was asked for.
pub fn is_long() -> bool {
    std::env::var_os(LONG).is_some()
}

/// Where programs are kept that the workspace needs and nobody else.
///
/// # Errors
/// There is no home directory.
pub fn cache_dir() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let dir = cache.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(dir.join("pureboot"))
}

/// The S3 server that `cargo xtask test` installs, in the cache.
///
/// # Errors
/// There is no home directory.
pub fn s3_server() -> Result<PathBuf> {
    Ok(cache_dir()?.join("tools/moto/bin/moto_server"))
}

/// A Python that has the parser of metrics, which `cargo xtask test` installs, in the cache.
///
/// # Errors
/// There is no home directory.
pub fn prometheus_python() -> Result<PathBuf> {
    Ok(cache_dir()?.join("tools/prometheus/bin/python3"))
}

/// The tester of OpenAPI documents that `cargo xtask test` installs, in the cache.
///
/// # Errors
/// There is no home directory.
pub fn schemathesis() -> Result<PathBuf> {
    Ok(cache_dir()?.join("tools/schemathesis/bin/schemathesis"))
}

/// A number that nobody could have written down before: the seed of the standard library's hash maps.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A MAC address in the range of QEMU that no other test uses.
pub fn random_mac() -> String {
    let [a, b, c, ..] = random().to_be_bytes();
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}

/// `len` bytes without a pattern that a block-wise mistake could hide in (xorshift64, Marsaglia 2003).
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = random() | 1;
    let words = std::iter::from_fn(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some(state.to_le_bytes())
    });
    words.flatten().take(len).collect()
}

/// SHA-256 in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
