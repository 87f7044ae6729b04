//! What policies cost: `cargo bench --package pureboot-plugin-host --features compile`, after `cargo xtask guests`.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "what a bench prints is its purpose, and nobody depends on its end"
)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use pureboot_plugin_host::answer::Ground;
use pureboot_plugin_host::compile;
use pureboot_plugin_host::engine::{ENGINE_ID, Engine};
use pureboot_plugin_host::facts::{BootFacts, CacheContext, CacheItem, Vars};
use pureboot_plugin_host::package::{Header, Hook};
use pureboot_plugin_host::plugin::Plugin;
use pureboot_plugin_host::seal::{KEY_LEN, SealKey};
use pureboot_protocol::{ContentHash, ContentKey};

/// How often each thing is measured; the least counts, and the middle is told beside it.
const ROUNDS: usize = 2_000;

/// How many policies are loaded at once for the memory of one.
const LOADED: usize = 16;

struct Anything;

impl Ground for Anything {
    fn may_install(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn holds(&self, _: &ContentKey) -> bool {
        true
    }

    fn check_script(&self, _: &str) -> Result<(), String> {
        Ok(())
    }
}

fn measure(what: &str, rounds: usize, mut run: impl FnMut()) {
    let mut times: Vec<Duration> = (0..rounds)
        .map(|_| {
            let started_at = Instant::now();
            run();
            started_at.elapsed()
        })
        .collect();
    times.sort_unstable();
    let us = |time: Option<&Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e6);
    println!(
        "{what:<44} {:>10.1} us least, {:>10.1} us median",
        us(times.first()),
        us(times.get(rounds / 2))
    );
}

/// The anonymous memory of this process, in KiB: what the system cannot drop and read again.
fn anonymous_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap()
}

struct Sealed {
    header: Header,
    file: Vec<u8>,
    key: SealKey,
}

impl Sealed {
    /// An example, as this host would compile it for itself.
    fn example(engine: &Engine, name: &str, hook: Hook) -> Self {
        let module = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../target/guests/wasm32-unknown-unknown/release")
            .join(name);
        let module = fs::read(module).expect("the example policies are built: cargo xtask guests");
        let component = compile::componentize(&module).unwrap();
        let code = compile::compile(engine, &component).unwrap();
        println!("{name}: component {} bytes, code {} bytes", component.len(), code.len());
        let wasm = ContentHash::from_digest([0; 32]);
        let key = SealKey::new(&[0; KEY_LEN]);
        let header = Header {
            id: "bench".parse().unwrap(),
            version: "1.0.0".parse().unwrap(),
            engine: ENGINE_ID.to_owned(),
            wasm,
            hooks: [hook].into(),
            capabilities: [].into(),
            memory_mib: 16,
            settings: [].into(),
        };
        Self { file: key.seal(wasm, &code), header, key }
    }

    fn load(&self, engine: &Engine) -> Plugin {
        let code = self.key.open(self.header.wasm, &self.file).unwrap();
        smol::block_on(Plugin::load_code(engine, self.header.clone(), code, None)).ok().unwrap()
    }
}

/// Six hardware facts and a node with tags and attributes.
fn facts() -> BootFacts {
    let request = r#"{
        "mac": "52:54:00:12:34:56", "arch": "x64-uefi", "arch-code": 7, "client-ip": "192.0.2.50", "now": 1795000000,
        "hardware": { "serial": "QX7K1203", "uuid": "4c4c4544-0051-5810-8037-b7c04f313033", "manufacturer": "Example Inc.",
            "product": "Server 1200", "asset": "A-10233", "sku": "1200-8C" },
        "site": { "id": "berlin", "utc-offset-minutes": 660 },
        "node": { "id": "0b8f5c1e-6f0e-4d52-9a55-0c8f3f1c2a77", "mac": "52:54:00:12:34:56", "state": "pending",
            "workflow": "debian-12", "group": "rack-b", "tags": ["lab", "spare"],
            "attributes": { "rack": "b-17", "owner": "storage", "cost-centre": "4711" } } }"#;
    serde_json::from_str(request).unwrap()
}

fn main() {
    let engine = Engine::new().unwrap();
    let rack = Sealed::example(&engine, "rack_window.wasm", Hook::Boot);
    let tonight = Sealed::example(&engine, "cache_tonight.wasm", Hook::Cache);
    measure("load, with a first instance", 200, || drop(rack.load(&engine)));
    let before = anonymous_kib();
    let loaded: Vec<_> = (0..LOADED).map(|_| rack.load(&engine)).collect();
    let each = (anonymous_kib() - before) / LOADED as u64;
    println!("{:<44} {each:>10} KiB anonymous", "memory of a loaded policy");
    drop(loaded);

    let (facts, settings) =
        (facts(), Vars::from([("workflows".to_owned(), "b-=rocky-9".to_owned())]));
    let policy = rack.load(&engine);
    let settings = ["from", "to"]
        .iter()
        .zip(["22:00", "04:00"])
        .map(|(name, value)| ((*name).to_owned(), value.to_owned()))
        .chain(settings)
        .collect();
    let decide = || smol::block_on(policy.decide(&facts, &settings, &Anything)).unwrap();
    let called = decide();
    println!(
        "decide: {:?}, {} fuel, {} bytes of memory",
        called.said, called.cost.fuel, called.cost.memory
    );
    measure("decide, with an instance of its own", ROUNDS, || drop(decide()));

    let item = |number: usize| CacheItem {
        key: format!("images/{number}.iso").parse().unwrap(),
        size_kib: Some(700_000),
        required: false,
        assigned: number.is_multiple_of(7),
        hits: 3,
        idle: Some(86_400 * 40),
    };
    let items: Vec<_> = (0..1_000).map(item).collect();
    let policy = tonight.load(&engine);
    let settings = Vars::from([("idle-days".to_owned(), "30".to_owned())]);
    measure("judge 1,000 items in four calls", 200, || {
        for items in items.chunks(250) {
            let judged = smol::block_on(policy.judge(&CacheContext::default(), &settings, items));
            assert!(judged.unwrap().said.is_ok());
        }
    });
}
