//! `cargo xtask bench tftp`: the agent beside tftpd-hpa and atftpd, in turns within one run.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use argh::FromArgs;
use pureboot_tests::noise;
use pureboot_tests::site::Site;

use super::load::{self, Load};
use super::median;
use super::peers::{self, Server};
use super::proc::CpuMeter;

/// TFTP throughput and processor time, beside established servers.
#[derive(FromArgs)]
#[argh(subcommand, name = "tftp")]
pub(super) struct Tftp {
    /// how often each server has its turn (default 5)
    #[argh(option, default = "5")]
    rounds: usize,
}

const LARGE_LEN: usize = 64 << 20;
const SMALL_LEN: usize = 1 << 20;

/// What one turn measured.
#[derive(Debug, Clone, Copy)]
struct Turn {
    mb_per_second: f64,
    cpu_seconds_per_gb: f64,
}

fn turn(load: Load<'_>, server: &Server) -> Result<Turn> {
    let before = server.cpu.seconds()?;
    let elapsed = load::run(load, server.address).with_context(|| server.name.to_owned())?;
    let cpu_seconds = server.cpu.seconds()? - before;
    let bytes = load.content.len() as f64 * f64::from(load.clients);
    Ok(Turn {
        mb_per_second: bytes / 1e6 / elapsed.as_secs_f64(),
        cpu_seconds_per_gb: cpu_seconds / (bytes / 1e9),
    })
}

fn medians(turns: &[Turn]) -> (f64, f64) {
    (
        median(turns.iter().map(|turn| turn.mb_per_second).collect()),
        median(turns.iter().map(|turn| turn.cpu_seconds_per_gb).collect()),
    )
}

impl Tftp {
    pub(super) fn run(self) -> Result<()> {
        // Made before the site, so that the agent has ended when its meter goes.
        let mut servers = Vec::new();
        let mut site = Site::start()?;
        let root = site.dir().join("peers-root");
        fs::create_dir(&root)?;
        let files = [("large", noise(LARGE_LEN)), ("small", noise(SMALL_LEN))];
        for (name, content) in &files {
            // The peers know no cache: the same names lie in a directory that they serve.
            site.agent.cache_add(&format!("bootloaders/{name}"), content)?;
            fs::write(root.join(name), content)?;
        }
        for open in [site.dir(), &root] {
            // The peers give up root before they read.
            fs::set_permissions(open, fs::Permissions::from_mode(0o755))?;
        }
        servers.push(Server {
            name: "pureboot",
            address: site.agent.tftp(),
            _program: None,
            cpu: CpuMeter::new(site.agent.program()?.pid()),
        });
        servers.extend(peers::start_all(&root, site.dir()));

        let [(large, large_content), (small, small_content)] = &files;
        let of_large =
            Load { name: large, content: large_content, block_len: 1_428, window: 1, clients: 1 };
        let of_small = Load { name: small, content: small_content, block_len: 1_468, ..of_large };
        let cases = [
            ("64 MiB, blksize 1428, windowsize 1", of_large),
            (
                "64 MiB, blksize 1468, windowsize 16",
                Load { block_len: 1_468, window: 16, ..of_large },
            ),
            ("20 at once x 1 MiB, blksize 1468", Load { clients: 20, ..of_small }),
        ];
        for (title, load) in cases {
            self.compare(title, load, &servers)?;
        }
        println!(
            "\nMedians of {} rounds; all servers take turns. Ratios are medians of each round's ratio: speed above 1 and \
             CPU below 1 are better than the peer. Server and client share this machine. A server that does not know \
             windowsize answers with windowsize 1.",
            self.rounds
        );
        if !servers.iter().all(|server| server.cpu.is_exact()) {
            println!(
                "No control groups here: the CPU of servers that start processes is not counted in full."
            );
        }
        Ok(())
    }

    fn compare(&self, title: &str, load: Load<'_>, servers: &[Server]) -> Result<()> {
        let mut turns: Vec<Vec<Turn>> = vec![Vec::new(); servers.len()];
        for _ in 0..self.rounds {
            for (server, turns) in servers.iter().zip(&mut turns) {
                turns.push(turn(load, server)?);
            }
        }
        println!("\n{title}");
        println!(
            "{:<12} {:>10} {:>12} {:>16} {:>16}",
            "server", "MB/s", "CPU s/GB", "pureboot speed", "pureboot CPU"
        );
        let ours = turns.first().context("the agent has its turn")?;
        for (server, theirs) in servers.iter().zip(&turns) {
            let (speed, cpu) = medians(theirs);
            let pairs = || ours.iter().zip(theirs);
            let speeds = pairs().map(|(our, their)| our.mb_per_second / their.mb_per_second);
            let cpus =
                pairs().map(|(our, their)| our.cpu_seconds_per_gb / their.cpu_seconds_per_gb);
            println!(
                "{:<12} {speed:>10.1} {cpu:>12.2} {:>15.2}x {:>15.2}x",
                server.name,
                median(speeds.collect()),
                median(cpus.collect())
            );
        }
        Ok(())
    }
}
