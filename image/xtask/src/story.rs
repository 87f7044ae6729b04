//! The story that the demonstration tells: each chapter does something, checks it, and prints what really came back.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use pureboot_tests::http;
use pureboot_tests::site::{Ports, Site, boot_of, text};
use pureboot_tests::tftp::Client;
use pureboot_tests::{noise, sha256};
use serde_json::Value;

use crate::interrupt::Interrupt;

const MAC: &str = "52:54:00:12:34:56";
const LOADER: &str = "/usr/lib/ipxe/undionly.kpxe";
const WORKFLOW: &str = "debian-12";

/// Prints chapters and stops between them when the reader wants to leave.
struct Teller<'a> {
    chapter: u32,
    interrupt: &'a Interrupt,
}

impl Teller<'_> {
    fn chapter(&mut self, title: &str) -> Result<()> {
        self.interrupt.check()?;
        self.chapter += 1;
        println!("\n{:2}. {title}", self.chapter);
        Ok(())
    }
}

fn quote(text: &str) {
    for line in text.trim_end().lines() {
        println!("      {line}");
    }
}

/// Tells the whole story and returns the site as it is then.
pub(crate) fn tell(interrupt: &Interrupt) -> Result<Site> {
    let started = Instant::now();
    let teller = &mut Teller { chapter: 0, interrupt };
    let mut site = join(teller)?;
    fill(teller, &site)?;
    let node_id = discover(teller, &site)?;
    install(teller, &site, &node_id)?;
    look_back(teller, &site, &node_id)?;
    println!("\nAll of this took {:.1} s.", started.elapsed().as_secs_f64());
    show_status(&mut site)?;
    Ok(site)
}

fn join(teller: &mut Teller<'_>) -> Result<Site> {
    teller.chapter("The centre: a controller starts and an operator makes a site.")?;
    let mut site = Site::prepare("agent")?;
    quote(&format!(
        "pureboot-controller serve --listen 127.0.0.1:0 --data-dir {}",
        site.controller.data_dir().display()
    ));
    quote(&format!("listening on {}", site.controller.url()));
    quote(&format!("POST /api/v1/sites -> {}", site.id));

    teller.chapter("The site: two commands on the appliance.")?;
    let token = site.make_token()?;
    site.agent.init(&site.id, &site.controller.url(), &token, Ports::LOOPBACK)?;
    quote(&format!(
        "pureboot-agent init --site-id {} --central-url {} --token-file … --data-dir {}",
        site.id,
        site.controller.url(),
        site.agent.data_dir().display()
    ));
    site.agent.start()?;
    quote("pureboot-agent start");
    quote(&format!("listening on tftp://{} http://{}", site.agent.tftp(), site.agent.boot()));
    site.wait_until_online()?;
    quote("the controller has had a heartbeat: online");
    Ok(site)
}

fn fill(teller: &mut Teller<'_>, site: &Site) -> Result<()> {
    teller.chapter(
        "Content: a boot loader, a kernel and an initial RAM disk go to the controller.",
    )?;
    let loader = fs::read(LOADER).ok();
    let origin = if loader.is_some() {
        LOADER
    } else {
        "random bytes: Debian's package ipxe is not installed"
    };
    let loader = loader.unwrap_or_else(|| noise(74_213));
    let contents = [
        ("bootloaders/undionly.kpxe".to_owned(), loader, origin),
        (
            format!("images/{WORKFLOW}/kernel"),
            noise(5_000_000),
            "random bytes in place of a kernel",
        ),
        (format!("images/{WORKFLOW}/initrd"), noise(1_000_000), "random bytes"),
    ];
    for (name, bytes, origin) in &contents {
        site.controller.upload(name, bytes)?;
        quote(&format!("PUT /api/v1/content/{name}   {} bytes ({origin})", bytes.len()));
    }
    let output = site.agent.run(&["sync"])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    quote("pureboot-agent sync   (the agent does it by itself within a minute)");
    quote(&String::from_utf8_lossy(&output.stdout));
    Ok(())
}

fn discover(teller: &mut Teller<'_>, site: &Site) -> Result<String> {
    teller.chapter(&format!(
        "A machine nobody knows, {MAC}, boots: its firmware loads iPXE by TFTP."
    ))?;
    let client = Client::new(site.agent.tftp(), Ipv4Addr::LOCALHOST)?;
    let options = [("tsize", "0"), ("blksize", "1432"), ("windowsize", "4")];
    let loader = client.read("undionly.kpxe", &options)?;
    let told = fs::read(LOADER).map_or(74_213, |loader| loader.len());
    ensure!(loader.bytes.len() == told, "{} bytes of {told} came", loader.bytes.len());
    let agreed: Vec<_> =
        loader.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
    quote(&format!(
        "undionly.kpxe: {} bytes in {} blocks, {}, SHA-256 {}…",
        loader.bytes.len(),
        loader.blocks,
        agreed.join(" "),
        sha256(&loader.bytes).get(..16).unwrap_or_default()
    ));
    let first = Client::new(site.agent.tftp(), Ipv4Addr::LOCALHOST)?.read("autoexec.ipxe", &[])?;
    ensure!(first.bytes.starts_with(b"#!ipxe"), "autoexec.ipxe is not a script");
    quote(&format!("autoexec.ipxe: {} bytes, made by the agent", first.bytes.len()));

    teller.chapter("iPXE asks the agent what to do. Nobody has decided yet.")?;
    quote(&site.agent.script(MAC)?);
    let node = site.controller.wait_for_state(MAC, "discovered")?;
    let node_id = text(&node, "id")?;
    println!("    At the controller it is node {node_id}, discovered.");
    Ok(node_id)
}

fn install(teller: &mut Teller<'_>, site: &Site, node_id: &str) -> Result<()> {
    teller
        .chapter(&format!("The operator decides: install {WORKFLOW}. The machine asks again."))?;
    let command_line = "console=ttyS0 auto=true priority=critical";
    let workflow = site.controller.make_workflow(WORKFLOW, command_line)?;
    site.controller.order_install(node_id, &workflow)?;
    let script = site.script_with(MAC, command_line)?;
    quote(&script);

    teller.chapter("It loads the kernel from the agent, which fetches it now; that alone makes it \"installing\".")?;
    let url = site.agent.url(&format!("/files/images/{WORKFLOW}/kernel"));
    let line = script.lines().find(|line| line.contains(&url));
    let words = line.with_context(|| format!("the script does not name {url}"))?;
    let url = words.split_whitespace().find(|word| word.contains(&url)).unwrap_or(&url);
    let kernel = http::get(url)?.expect(200)?;
    ensure!(kernel.body.len() == 5_000_000, "{} bytes of the kernel came", kernel.body.len());
    quote(&format!("GET {url} -> 200, {} bytes", kernel.body.len()));
    site.controller.wait_for_state(MAC, "installing")?;

    teller.chapter("The installer reports, and at last the installed system.")?;
    let boot = boot_of(&script)?;
    for (event, progress) in [
        ("install_started", None),
        ("install_progress", Some(50)),
        ("install_complete", None),
        ("first_boot", None),
    ] {
        site.agent.report(MAC, &boot, event, progress)?;
        quote(&format!("POST /api/v1/report {event}"));
    }
    site.controller.wait_for_state(MAC, "active")?;

    teller.chapter("From now on it boots its own disk.")?;
    let script = site.agent.script(MAC)?;
    ensure!(!script.contains(command_line), "it would be installed again:\n{script}");
    quote(&script);
    Ok(())
}

fn look_back(teller: &mut Teller<'_>, site: &Site, node_id: &str) -> Result<()> {
    teller.chapter("What the controller has written down.")?;
    let history = site.controller.get(&format!("/nodes/{node_id}/history"))?;
    let mut moves = history.as_array().context("a list of moves")?.clone();
    // The controller tells the latest first.
    moves.sort_by_key(|entry| entry.get("version").and_then(Value::as_u64));
    for entry in &moves {
        let (from, to) = (text(entry, "from_state")?, text(entry, "to_state")?);
        quote(&format!("{}  {from} -> {to}", text(entry, "created_at")?));
    }
    let last = moves.last().context("a move at least")?;
    ensure!(text(last, "to_state")? == "active", "the history ends otherwise: {last}");
    Ok(())
}

fn show_status(site: &mut Site) -> Result<()> {
    let output = site.agent.run(&["status"])?;
    let code = output.status.code().context("status was killed")?;
    println!("\nThe agent about itself (pureboot-agent status, exit code {code}):");
    quote(&String::from_utf8_lossy(&output.stdout));
    Ok(())
}

/// What a person can try while the programs stay up.
pub(crate) fn invite(site: &Site) -> Result<()> {
    println!("\nTo try in another terminal:");
    quote(&format!("curl {}", site.agent.url("/boot/52:54:00:00:00:01")));
    quote(&format!("curl {}", site.agent.url("/health")));
    quote(&format!("curl -O {}", site.agent.url("/files/bootloaders/undionly.kpxe")));
    quote(&format!(
        "{} node ls --url {} --data-dir {}",
        pureboot_tests::process::own("pureboot-controller")?.display(),
        site.controller.url(),
        site.controller.data_dir().display()
    ));
    quote(&format!(
        "{} status --data-dir {}",
        pureboot_tests::process::own("pureboot-agent")?.display(),
        site.agent.data_dir().display()
    ));
    Ok(())
}
