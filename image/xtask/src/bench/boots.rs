//! `cargo xtask bench boots`: what the agent holds while a whole site is switched on, and what a script costs.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use argh::FromArgs;
use pureboot_tests::site::{Site, boot_of};
use pureboot_tests::{http, noise, random_mac};

use super::budget::Budgets;
use super::http::client::{self, End};
use super::load::{self, Load, Path};
use super::place;
use super::proc::{self, CpuMeter};

/// Memory with many machines booting at once, and processor time of a boot script.
#[derive(FromArgs)]
#[argh(subcommand, name = "boots")]
pub(super) struct Boots {
    /// the agent to measure, such as target/dist/pureboot-agent-x86_64 (default: the release build)
    #[argh(option)]
    agent: Option<PathBuf>,
    /// machines that boot at once (default 200)
    #[argh(option, default = "200")]
    machines: usize,
}

/// What each machine loads: by TFTP, then by HTTP, in bytes.
const LOADER_LEN: usize = 1 << 20;
const KERNEL_LEN: usize = 12 << 20;
const INITRD_LEN: usize = 40 << 20;
/// How long they go on.
const TURN: Duration = Duration::from_secs(10);
/// Machines that ask for nothing but scripts, and for how long.
const ASKERS: usize = 64;
const SCRIPTS_TURN: Duration = Duration::from_secs(4);

/// What an agent may hold meanwhile, in MB.
const RESIDENT_MAX: f64 = 32.0;
/// At 40,000 scripts a second on one processor, in µs.
const SCRIPT_MAX: f64 = 25.0;

impl Boots {
    pub(super) fn run(self) -> Result<()> {
        // Made before the site, so that the agent has ended when its meter goes.
        let cpu;
        let mut site = Site::start_by(self.agent.clone().into_iter().collect())?;
        let loader = noise(LOADER_LEN);
        site.agent.cache_add("bootloaders/undionly.kpxe", &loader)?;
        site.agent.cache_add("images/linux", &noise(KERNEL_LEN))?;
        site.agent.cache_add("images/initrd", &noise(INITRD_LEN))?;
        let scripts = (0..self.machines).map(|_| script(&site)).collect::<Result<Vec<_>>>()?;
        let agent = site.agent.program()?.pid();
        cpu = CpuMeter::new(agent);
        let mut budgets = Budgets::default();

        println!(
            "{} machines at once: a loader of 1 MiB by TFTP; script, kernel (12 MiB), initrd (40 MiB) by HTTP",
            self.machines
        );
        proc::forget_peak(agent)?;
        let files =
            ["linux", "initrd"].map(|name| client::request(&format!("/files/images/{name}"), ""));
        let requests =
            scripts.iter().flat_map(|script| [script.clone()].into_iter().chain(files.clone()));
        let http_load = client::Load {
            requests: requests.collect(),
            connections: self.machines,
            end: End::After(TURN),
        };
        let tftp_load = Load {
            name: "undionly.kpxe",
            content: &loader,
            block_len: 1_432,
            window: 4,
            clients: self.machines,
            path: Path::LOOPBACK,
        };
        let (tftp, boot) = (site.agent.tftp(), site.agent.boot());
        let (loaded, answered) = thread::scope(|scope| {
            let loaders = scope.spawn(|| load::run(&tftp_load, tftp));
            let answered = client::run(&http_load, boot);
            let loaded =
                loaders.join().unwrap_or_else(|_| Err(anyhow!("the TFTP clients panicked")));
            Ok::<_, anyhow::Error>((loaded?, answered?))
        })?;
        ensure!(loaded.failures.is_empty(), "TFTP: {:?}", loaded.failures);
        ensure!(answered.failures == 0, "HTTP: {} requests failed", answered.failures);
        println!(
            "  {} loaders in {:.1} s, {} answers of {:.0} MB in all in {:.1} s",
            loaded.complete.len(),
            loaded.elapsed.as_secs_f64(),
            answered.latency.len(),
            answered.bytes as f64 / 1e6,
            answered.elapsed.as_secs_f64(),
        );
        budgets.hold("resident at most", proc::megabytes(agent, "VmHWM")?, "MB", RESIDENT_MAX);

        println!("{ASKERS} machines ask for scripts again and again, the controller away");
        site.controller.stop();
        site.wait_until_offline()?;
        if place::server(&cpu).is_err() {
            println!("  (agent and client could not be placed on processors)");
        }
        place::client(false, true);
        place::schedule(&cpu, true);
        let scripts =
            client::Load { requests: scripts, connections: ASKERS, end: End::After(SCRIPTS_TURN) };
        let before = cpu.seconds()?;
        let outcome = client::run(&scripts, boot).context("scripts")?;
        let us = (cpu.seconds()? - before) / outcome.latency.len() as f64 * 1e6;
        place::rest();
        ensure!(outcome.failures == 0, "{} scripts failed", outcome.failures);
        let rate = outcome.latency.len() as f64 / outcome.elapsed.as_secs_f64();
        println!("  {rate:.0} scripts a second");
        budgets.hold("processor time of a script", us, "us", SCRIPT_MAX);
        budgets.end();
        Ok(())
    }
}

/// A machine in a boot session, and its request for a script.
fn script(site: &Site) -> Result<Vec<u8>> {
    let mac = random_mac();
    let boot = boot_of(&site.agent.script(&mac)?)?;
    site.controller.wait_for_state(&mac, "discovered")?;
    let path = format!("/boot/{mac}?arch=x86_64&platform=pcbios&boot={boot}");
    // Once more, so that the site has the controller's own word on it.
    http::get(&site.agent.url(&path))?.expect(200)?;
    Ok(client::request(&path, ""))
}
