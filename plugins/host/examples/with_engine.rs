//! What a program is like that runs policies: for `cargo xtask bench policies`.
#![expect(clippy::print_stdout, reason = "it keeps what it links")]

use std::time::Instant;

use pureboot_plugin_host::answer::Ground;
use pureboot_plugin_host::engine::Engine;
use pureboot_plugin_host::facts::{BootFacts, CacheContext, Purpose};
use pureboot_plugin_host::package::Unchecked;
use pureboot_plugin_host::plugin::Plugin;
use pureboot_plugin_host::policies::{Assignment, Policies};
use pureboot_protocol::ContentKey;

struct Nothing;

impl Ground for Nothing {
    fn may_install(&self, workflow: &str) -> Result<(), String> {
        Err(workflow.to_owned())
    }

    fn holds(&self, _: &ContentKey) -> bool {
        false
    }

    fn check_script(&self, script: &str) -> Result<(), String> {
        Err(script.to_owned())
    }
}

fn main() {
    let bytes: Vec<u8> = std::env::args().flat_map(String::into_bytes).collect();
    println!("{}", Unchecked::parse(&bytes).is_ok());
    let policies = Policies::new(Box::new(|_, _, _| {}));
    let run = async {
        let (engine, package) = (Engine::new().ok()?, Unchecked::parse(&bytes).ok()?);
        let signed = package.check(&[]).ok()?;
        policies.replace(Plugin::load(&engine, &signed, None).await.ok()?, Assignment::default());
        let facts = BootFacts::new("52:54:00:12:34:56".parse().ok()?);
        let now = Instant::now();
        let verdict = policies.decide(&facts, &Nothing, now).await;
        let patch = policies.patch(&facts, Purpose::Other, String::new(), &Nothing, now).await;
        let judgement = policies.judge(&CacheContext::default(), &[], now).await;
        Some(verdict.notes.len() + patch.notes.len() + judgement.notes.len())
    };
    println!("{:?}", smol::block_on(run));
}
