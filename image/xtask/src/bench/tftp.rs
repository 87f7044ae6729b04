//! `cargo xtask bench tftp`: the agent beside tftpd-hpa, atftpd and dnsmasq, in turns within one run.

mod cases;
mod table;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use argh::FromArgs;
use pureboot_tests::noise;
use pureboot_tests::site::Site;

use self::cases::{Case, Files};
use self::table::{Figures, Row};
use super::load::{self, Load};
use super::peers::{self, Server};
use super::place;
use super::proc::{self, CpuMeter};
use crate::packages;

/// TFTP speed, first bytes, processor time and memory, beside established servers.
#[derive(FromArgs)]
#[argh(subcommand, name = "tftp")]
pub(super) struct Tftp {
    /// how often each server has its turn (default 5)
    #[argh(option, default = "5")]
    rounds: usize,
    /// only rows whose title contains this
    #[argh(option, default = "String::new()")]
    only: String,
}

/// The machines whose transfers' memory is looked at.
const MEMORY_CASE: &str = "1,000 x 64 KB";
/// What the agent may hold with as many transfers, in MiB.
const MEMORY_MAX_MIB: f64 = 32.0;
/// Between turns: the last children of a server end, and its allowance of requests fills up.
const REST: Duration = Duration::from_millis(600);

impl Tftp {
    pub(super) fn run(self) -> Result<()> {
        packages::install(false);
        // Made before the site, so that the agent has ended when its meter goes.
        let mut servers = Vec::new();
        let mut site = Site::start()?;
        let root = site.dir().join("peers-root");
        fs::create_dir(&root)?;
        let files = Files::new(noise);
        for (name, content) in files.all() {
            // The peers know no cache: the same names lie in a directory that they serve.
            site.agent.cache_add(&format!("bootloaders/{name}"), content)?;
            fs::write(root.join(name), content)?;
        }
        for open in [site.dir(), &root] {
            // The peers give up root before they read.
            fs::set_permissions(open, fs::Permissions::from_mode(0o755))?;
        }
        let agent = site.agent.program()?.pid();
        servers.push(Server {
            name: "pureboot",
            address: site.agent.tftp(),
            _program: None,
            cpu: CpuMeter::new(agent),
        });
        servers.extend(peers::start_all(&root, site.dir()));
        let is_placed = servers.iter().all(|server| place::server(&server.cpu).is_ok());

        let windows = cases::probe(&files);
        let know_windows: Vec<bool> = servers
            .iter()
            .map(|server| Ok(load::run(&windows, server.address)?.window > 1))
            .collect::<Result<_>>()?;
        let mut missed = Vec::new();
        for case in cases::all(&files).iter().filter(|case| case.title.contains(&self.only)) {
            let row = self.measure(case, &servers, &know_windows)?;
            row.print();
            missed.extend(row.missed());
            if case.title.starts_with(MEMORY_CASE) {
                let mib = peak_mib(agent, &case.load, &servers)?;
                let verdict = if mib <= MEMORY_MAX_MIB { "met" } else { "NOT met" };
                println!(
                    "  pureboot resident at most: {mib:.1} MiB (wanted <= {MEMORY_MAX_MIB}: {verdict})"
                );
                missed.extend(
                    (mib > MEMORY_MAX_MIB).then(|| format!("{}: {mib:.1} MiB", case.title)),
                );
            }
        }
        table::print_notes(
            self.rounds,
            is_placed,
            servers.iter().all(|server| server.cpu.is_exact()),
        );
        match missed.as_slice() {
            [] => println!("\nall wanted figures are met"),
            missed => println!("\nNOT met:\n  {}", missed.join("\n  ")),
        }
        Ok(())
    }

    fn measure<'a>(
        &self,
        case: &'a Case<'_>,
        servers: &'a [Server],
        know_windows: &[bool],
    ) -> Result<Row<'a>> {
        let mut figures: Vec<Vec<Figures>> = vec![Vec::new(); servers.len()];
        for round in 0..self.rounds {
            let mut load = case.load;
            load.path.seed = u64::try_from(round)? + 1;
            // On a long or bad path lock-step takes minutes where a window is the point.
            let needs_window = load.window > 1 && !load.path.is_plain();
            for ((server, figures), knows_windows) in
                servers.iter().zip(&mut figures).zip(know_windows)
            {
                if needs_window && !knows_windows {
                    continue;
                }
                // One machine in lock-step shares the server's processor, so that what it takes to wake another one does not
                // hide the server.
                let is_alone = load.clients == 1 && load.window == 1;
                place::client(is_alone, load.path.is_plain());
                place::schedule(&server.cpu, load.path.is_plain());
                figures.push(turn(&load, server)?);
                place::rest();
                thread::sleep(REST);
            }
        }
        Ok(Row::new(case, servers, figures))
    }
}

fn turn(load: &Load<'_>, server: &Server) -> Result<Figures> {
    let before = server.cpu.seconds()?;
    let outcome = load::run(load, server.address).with_context(|| server.name.to_owned())?;
    // Its last children end.
    thread::sleep(Duration::from_millis(50));
    let cpu_seconds = server.cpu.seconds()? - before;
    Ok(Figures::new(load, &outcome, cpu_seconds))
}

/// The most memory that the agent held during a run of its own, which is not clocked.
fn peak_mib(agent: u32, load: &Load<'_>, servers: &[Server]) -> Result<f64> {
    let server = servers.first().context("the agent")?;
    proc::forget_peak(agent)?;
    load::run(load, server.address)?;
    let peak = proc::status(agent, "VmHWM")?;
    let kib = peak.split_whitespace().next().context("a number")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}
