//! `cargo xtask bench http`: the agent beside nginx, in turns within one run.

pub(super) mod client;
mod held;
mod rows;
mod servers;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use pureboot_tests::site::{Site, boot_of};
use pureboot_tests::{http, noise, process, random_mac};
use sha2::{Digest, Sha256};

use self::rows::{Held, Kind, Row};
use super::peers::Server;
use super::place;
use super::proc::{self, CpuMeter};
use crate::packages;

/// Files, ranges and boot scripts over HTTP, and fresh requests beside held connections, with nginx in turns.
#[derive(FromArgs)]
#[argh(subcommand, name = "http")]
pub(super) struct Http {
    /// how often each server has its turn (default 5)
    #[argh(option, default = "5")]
    rounds: usize,
    /// only rows whose title contains this
    #[argh(option, default = "String::new()")]
    only: String,
    /// size of the large object in MiB (default 1024)
    #[argh(option, default = "1024")]
    size_mib: usize,
}

/// Between turns: what the last one left behind is over.
const REST: Duration = Duration::from_millis(300);
/// The machines whose scripts are asked for.
const MACHINES: usize = 64;
/// The large object is this many bytes again and again, so that no process has to hold it.
const PIECE_LEN: usize = 16 << 20;
/// What `images/` of the agent is to nginx.
const IMAGES: &str = "files/images";

impl Http {
    pub(super) fn run(self) -> Result<()> {
        packages::install(false);
        // Made before the site, so that the agent has ended when its meter goes.
        let mut servers = Vec::new();
        let mut site = Site::start()?;
        let root = site.dir().join("peers-root");
        let content = Content::make(&site, &root, self.size_mib)?;
        let machines = machines(&site)?;
        // What is measured is what a site does alone: nothing beside it, and scripts from its own records.
        site.controller.stop();
        site.wait_until_offline()?;
        servers.push(Server {
            name: "pureboot",
            address: site.agent.boot(),
            _program: None,
            cpu: CpuMeter::new(site.agent.program()?.pid()),
        });
        servers.push(servers::nginx(&root, site.dir())?);
        let is_placed = servers.iter().all(|server| place::server(&server.cpu).is_ok());
        for server in &servers {
            content.check(server)?;
        }
        let mut missed = Vec::new();
        let rows = rows::all(&machines, content.large_len);
        for mut row in rows.into_iter().filter(|row| row.title.contains(&self.only)) {
            for _ in 0..self.rounds {
                for (number, server) in servers.iter().enumerate() {
                    turn(&mut row, number, server)?;
                }
            }
            row.print(&servers);
            missed.extend(row.missed());
        }
        rows::print_notes(self.rounds, is_placed);
        let peak = proc::status(site.agent.program()?.pid(), "VmHWM")?;
        println!("pureboot resident at most, over all rows: {peak}");
        match missed.as_slice() {
            [] => println!("\nall wanted figures are met"),
            missed => println!("\nNOT met:\n  {}", missed.join("\n  ")),
        }
        Ok(())
    }
}

/// One server's turn at a row.
fn turn(row: &mut Row, number: usize, server: &Server) -> Result<()> {
    place::client(false, true);
    place::schedule(&server.cpu, true);
    let before = server.cpu.seconds()?;
    let outcome = match &row.kind {
        Kind::Load(load) => client::run(load, server.address),
        Kind::Fresh(held) => held::run(*held, server.address),
    };
    let outcome = outcome.with_context(|| format!("{}: {}", server.name, row.title))?;
    row.take(number, &outcome, server.cpu.seconds()? - before);
    place::rest();
    // Whoever is cut off by a turn's end is noticed before the next one begins.
    thread::sleep(if matches!(row.kind, Kind::Fresh(Held::Slow | Held::All)) {
        held::SLOW_END
    } else {
        REST
    });
    Ok(())
}

/// What is read, the same for both servers.
struct Content {
    large_len: u64,
    large_sha256: String,
}

impl Content {
    fn make(site: &Site, root: &Path, size_mib: usize) -> Result<Self> {
        let images = root.join(IMAGES);
        fs::create_dir_all(&images)?;
        let piece = noise(PIECE_LEN);
        let pieces = ((size_mib << 20) / PIECE_LEN).max(1);
        let large = images.join(rows::LARGE);
        let (mut file, mut hash) = (File::create(&large)?, Sha256::new());
        for _ in 0..pieces {
            file.write_all(&piece)?;
            hash.update(&piece);
        }
        file.sync_all()?;
        let path = large.to_str().context("a path of ASCII")?;
        let name = format!("images/{}", rows::LARGE);
        process::succeed(site.agent.command(&["cache", "add", &name, path])?)?;
        let small = noise(rows::SMALL_LEN);
        fs::write(images.join(rows::SMALL), &small)?;
        site.agent.cache_add(&format!("images/{}", rows::SMALL), &small)?;
        let large_sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { large_len: u64::try_from(pieces * PIECE_LEN)?, large_sha256 })
    }

    /// Whether a server gives what was made; it is then in the system's memory too, for all rows.
    fn check(&self, server: &Server) -> Result<()> {
        let mut hash = Sha256::new();
        let len = client::read(server.address, rows::LARGE, |bytes| hash.update(bytes))?;
        let sha256: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        ensure!(
            (len, &sha256) == (self.large_len, &self.large_sha256),
            "{} gave {len} bytes with the hash {sha256}, and not those that were made",
            server.name
        );
        Ok(())
    }
}

/// Machines that the site knows, each in a boot session: what they ask for their script.
fn machines(site: &Site) -> Result<Vec<String>> {
    let ask = |_| {
        let mac = random_mac();
        let boot = boot_of(&site.agent.script(&mac)?)?;
        let node = site.controller.wait_for_state(&mac, "discovered")?;
        ensure!(!node.is_null(), "{mac} is not known");
        let path = format!("/boot/{mac}?arch=x86_64&platform=pcbios&boot={boot}");
        // Once more, so that the site has the controller's own word on it.
        http::get(&site.agent.url(&path))?.expect(200)?;
        Ok(path)
    };
    (0..MACHINES).map(ask).collect()
}
