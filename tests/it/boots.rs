//! Boot sessions: what the agent has seen of a machine, from its first packet to its call-back, in one timeline.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pureboot_tests::disk::{ReadOnlyFile, SmallDisk};
use pureboot_tests::process::Program;
use pureboot_tests::site::{Agent, HEARTBEAT_INTERVAL_SECONDS, Ports, Site, boot_of, text};
use pureboot_tests::tftp::{Client, read_request, refuse_options};
use pureboot_tests::{http, noise, process, random_mac, sha256, wait};
use serde_json::{Value, json};

use crate::cli::Operator;
use crate::need::Need;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(
            a_machine_is_followed_from_its_loader_to_its_call_back,
            Need::Program("curl", "curl")
        ),
        case!(steps_are_shown_while_they_are_seen),
        case!(the_centre_tells_the_boots_of_a_machine_in_the_rhythm_of_heartbeats),
        case!(a_file_that_cannot_be_read_is_seen_and_explained),
        case!(d8_a_restart_keeps_what_was_seen_whatever_became_of_the_file),
        case!(d3_a_full_disk_costs_no_boot_and_leaves_no_half_a_line, Need::Root),
        case!(d4_a_journal_that_turns_read_only_costs_no_boot, Need::Root),
    ]
}

const LOADER: &str = "undionly.kpxe";
const LOADER_LEN: usize = 70_000;
const KERNEL_LEN: usize = 300_000;

/// What `--follow` may take to show a step.
const FOLLOW_LIMIT: Duration = Duration::from_secs(20);

/// What a boot may take to be known at the centre, on a busy machine: a heartbeat or two when it is quiet.
const TOLD_LIMIT: Duration = Duration::from_secs(24 * HEARTBEAT_INTERVAL_SECONDS);

/// The boot sessions of a machine as a program reads them, oldest first.
pub(crate) fn sessions(agent: &Agent, mac: &str) -> Result<Vec<Value>> {
    let output = agent.run(&["boots", "--json", "--mac", mac])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_slice(&output.stdout).with_context(|| said)
}

/// The steps of a session, in their order and in a few words.
pub(crate) fn steps(session: &Value) -> Vec<String> {
    let steps = session.get("steps").and_then(Value::as_array).into_iter().flatten();
    let in_words = |step: &Value| {
        let fields = ["step", "by", "role", "boots", "event", "ending"];
        let words = fields.iter().filter_map(|field| step.get(field).and_then(Value::as_str));
        words.collect::<Vec<_>>().join(" ")
    };
    steps.map(in_words).collect()
}

fn client(site: &Site) -> Result<Client> {
    Client::new(site.agent.tftp(), Ipv4Addr::LOCALHOST)
}

/// A machine's way to its first script: firmware asks for the size of the loader, reads it, and the loader reads the script.
/// Returns the boot session that the script names.
fn load(site: &Site) -> Result<String> {
    let probe = client(site)?;
    let (_, transfer) = probe.ask(&read_request(LOADER, &[("tsize", "0")]))?;
    probe.send_to(&refuse_options(), transfer)?;
    client(site)?.read(LOADER, &[])?;
    let script = client(site)?.read("autoexec.ipxe", &[])?;
    let script = String::from_utf8_lossy(&script.bytes).into_owned();
    let at = script.find("&boot=").with_context(|| format!("no session in {script}"))?;
    boot_of(script.get(at..).unwrap_or_default())
}

/// A site that holds a loader.
fn site() -> Result<Site> {
    let site = Site::start()?;
    site.agent.cache_add(&format!("bootloaders/{LOADER}"), &noise(LOADER_LEN))?;
    Ok(site)
}

/// Asks what to boot as the first script does.
fn ask(site: &Site, mac: &str, boot: &str) -> Result<String> {
    let path = format!("/api/v1/boot?mac={mac}&arch=i386&platform=pcbios&boot={boot}");
    Ok(http::get(&site.agent.url(&path))?.expect(200)?.text())
}

fn a_machine_is_followed_from_its_loader_to_its_call_back() -> Result<()> {
    let site = site()?;
    let mac = random_mac();
    // An operator knows the machine beforehand, and has it installed.
    site.agent.cache_add("images/traced/kernel", &noise(KERNEL_LEN))?;
    let workflow = site.controller.make_workflow("traced", "quiet")?;
    let body = json!({ "mac_address": mac, "hostname": "traced-1", "home_site_id": site.id });
    let node = site.controller.post("/nodes", &body)?;
    site.controller.order_install(&text(&node, "id")?, &workflow)?;

    let boot = load(&site)?;
    let script = ask(&site, &mac, &boot)?;
    ensure!(script.contains("images/traced/kernel"), "no installer:\n{script}");
    ensure!(boot_of(&script)? == boot, "the script names another session than {boot}:\n{script}");
    let mut curl = process::system("curl")?;
    curl.args(["--silent", "--fail", "--output"]).arg(site.dir().join("kernel"));
    curl.arg(site.agent.url(&format!("/files/images/traced/kernel?boot={boot}")));
    process::succeed(curl)?;
    site.agent.report(&mac, &boot, "install_progress", Some(40))?;
    site.agent.report(&mac, &boot, "install_complete", None)?;

    // The agent hears of the end of a transfer after the machine does.
    let sessions = wait::until("every transfer is over", FOLLOW_LIMIT, || {
        let sessions = sessions(&site.agent, &mac)?;
        let is_open = |step: &String| step.ends_with("loader") || step.ends_with("content");
        let is_over = !sessions.iter().flat_map(steps).any(|step| is_open(&step));
        Ok(is_over.then_some(sessions))
    })?;
    let [session] = sessions.as_slice() else { bail!("not one session: {sessions:?}") };
    ensure!(session.get("id") == Some(&json!(boot)), "another id than {boot}: {session}");
    let expected = [
        "transfer tftp loader probe",
        "transfer tftp loader whole",
        "transfer tftp first_script whole",
        "script",
        "transfer http content whole",
        "reported install_progress",
        "reported install_complete",
    ];
    ensure!(steps(session) == expected, "steps {:#?} in {session:#}", steps(session));
    for (at, bytes) in [(1, LOADER_LEN), (4, KERNEL_LEN)] {
        let sent = session.pointer(&format!("/steps/{at}/sent_bytes"));
        ensure!(sent == Some(&json!(bytes)), "step {at} is not of {bytes} bytes: {session:#}");
    }
    ensure!(session.pointer("/outcome/state") == Some(&json!("called_back")), "{session:#}");

    let output = site.agent.run(&["boots"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    for wanted in [
        &format!("{mac}  traced-1"),
        "called back: install_complete",
        &boot,
        "TFTP: loader undionly.kpxe, only its size",
        "70.0 kB",
        "asks what to boot: its installer (online",
        "HTTP: images/traced/kernel",
        "300.0 kB",
        "reports install_progress 40 %",
    ] {
        ensure!(said.contains(wanted), "no '{wanted}' in:\n{said}");
    }
    ensure!(!said.contains('\x1b'), "colours where there is no terminal:\n{said}");
    Ok(())
}

fn the_centre_tells_the_boots_of_a_machine_in_the_rhythm_of_heartbeats() -> Result<()> {
    let site = site()?;
    let mac = random_mac();
    let boot = load(&site)?;
    ask(&site, &mac, &boot)?;
    site.agent.report(&mac, &boot, "first_boot", None)?;
    let node = site.controller.wait_for_state(&mac, "discovered")?;
    let path = format!("/nodes/{}/boots", text(&node, "id")?);
    let expected = [
        "transfer tftp loader probe",
        "transfer tftp loader whole",
        "transfer tftp first_script whole",
        "script",
        "reported first_boot",
    ];
    let told = wait::until("the centre tells the whole boot", TOLD_LIMIT, || {
        let boots = site.controller.get(&path)?;
        let [told] = boots.as_array().context("a list")?.as_slice() else {
            bail!("not one boot: {boots}")
        };
        ensure!(steps(told) == expected, "steps {:#?}", steps(told));
        Ok(Some(told.clone()))
    })?;
    for (field, wanted) in
        [("id", &json!(boot)), ("site_id", &json!(site.id)), ("mac", &json!(mac))]
    {
        ensure!(told.get(field) == Some(wanted), "{field} is not {wanted} in {told:#}");
    }
    ensure!(told.get("node_id") == node.get("id"), "of another node: {told:#}");
    ensure!(told.pointer("/outcome/state") == Some(&json!("called_back")), "{told:#}");

    let operator = Operator { controller: &site.controller };
    let said = operator.done(&["node", "boots", &mac])?;
    for wanted in [&mac, "called back: first_boot", &boot, "seen by the agent of /site-"] {
        ensure!(said.contains(wanted), "no '{wanted}' in:\n{said}");
    }
    let for_programs = operator.json(&["node", "boots", &mac])?;
    ensure!(for_programs.pointer("/0/id") == Some(&json!(boot)), "{for_programs}");
    let of_site = operator.json(&["site", "boots", &site.id])?;
    ensure!(of_site.pointer("/0/id") == Some(&json!(boot)), "{of_site}");
    Ok(())
}

fn steps_are_shown_while_they_are_seen() -> Result<()> {
    let site = site()?;
    let command = site.agent.command(&["boots", "--follow"])?;
    let follow = Program::spawn("boots", command, site.dir())?;
    let boot = load(&site)?;
    let probe = "TFTP: loader undionly.kpxe, only its size";
    while !follow.line("  +   0.000 s  ", FOLLOW_LIMIT)?.starts_with(probe) {}
    ask(&site, &random_mac(), &boot)?;
    loop {
        let line = follow.line("  +", FOLLOW_LIMIT)?;
        ensure!(!line.contains(probe), "shown twice: {line}");
        if line.contains("asks what to boot: its disk") {
            return Ok(());
        }
    }
}

fn a_file_that_cannot_be_read_is_seen_and_explained() -> Result<()> {
    const LARGE_LEN: usize = 24 << 20;
    let site = site()?;
    let mac = random_mac();
    let image = noise(LARGE_LEN);
    site.agent.cache_add("images/broken.img", &image)?;
    let boot = load(&site)?;
    ask(&site, &mac, &boot)?;
    // Somebody reads it slowly, so that the agent has it open; then the disk loses what was in it.
    let path = format!("/files/images/broken.img?boot={boot}");
    let mut reader = TcpStream::connect(site.agent.boot())?;
    write!(reader, "GET /files/images/broken.img HTTP/1.1\r\nHost: agent\r\n\r\n")?;
    reader.read_exact(&mut [0; 1])?;
    // The agent has filled the kernel's buffers and waits for the reader.
    thread::sleep(Duration::from_millis(500));
    let hash = sha256(&image);
    let shard = hash.get(..2).context("a hash")?;
    let object = site.agent.data_dir().join("cache/objects").join(shard).join(&hash);
    let file = fs::OpenOptions::new().write(true).open(&object)?;
    file.set_len(0)?;
    file.set_len(u64::try_from(LARGE_LEN)?)?;
    http::get(&site.agent.url(&path))?.expect(503)?;
    site.agent.report(&mac, &boot, "install_failed", None)?;

    let seen = sessions(&site.agent, &mac)?;
    let session = seen.last().with_context(|| format!("no session of {mac}"))?;
    let unread = "transfer http content unread".to_owned();
    ensure!(steps(session).contains(&unread), "steps {:#?}", steps(session));
    let output = site.agent.run(&["boots", "--mac", &mac])?;
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().find_map(|line| line.strip_prefix("  doctor: "));
    let line = line.with_context(|| format!("no line of the doctor in:\n{said}"))?;
    for words in ["'images/broken.img', which the agent could not read", "; look at"] {
        ensure!(line.contains(words), "no '{words}' in: {line}");
    }
    Ok(())
}

fn d8_a_restart_keeps_what_was_seen_whatever_became_of_the_file() -> Result<()> {
    let mut site = site()?;
    let mac = random_mac();
    let boot = load(&site)?;
    ask(&site, &mac, &boot)?;
    site.agent.program()?.terminate()?;
    site.agent.stop();
    let file = site.agent.data_dir().join("boots.jsonl");
    let mut content = b"\0\xffgarbage\n{\"id\":".to_vec();
    content.extend(b"\n");
    content.extend(fs::read(&file).with_context(|| format!("{}", file.display()))?);
    content.extend(b"{\"torn");
    fs::write(&file, content)?;
    site.agent.start()?;

    let kept =
        wait::until(
            "the session is back",
            FOLLOW_LIMIT,
            || Ok(sessions(&site.agent, &mac)?.pop()),
        )?;
    ensure!(kept.get("id") == Some(&json!(boot)), "another session than {boot}: {kept}");
    // The machine goes on where it was.
    site.agent.report(&mac, &boot, "first_boot", None)?;
    let sessions = sessions(&site.agent, &mac)?;
    let [session] = sessions.as_slice() else { bail!("not one session: {sessions:?}") };
    ensure!(steps(session).last().is_some_and(|step| step == "reported first_boot"), "{session}");
    Ok(())
}

/// A site whose agent has a small disk of its own; it has just started for the first time, and no machine has booted.
fn site_on_a_small_disk() -> Result<(Site, SmallDisk)> {
    let mut site = Site::prepare("agent")?;
    let disk = SmallDisk::mount(site.agent.data_dir(), 32)?;
    let token = site.make_token()?;
    site.agent.init(&site.id, &site.controller.url(), &token, Ports::LOOPBACK)?;
    site.agent.start()?;
    site.wait_until_online()?;
    Ok((site, disk))
}

/// A machine boots, and the agent is told to end; returns its log.
fn boot_and_end(site: &mut Site, mac: &str) -> Result<String> {
    site.agent.script(mac)?;
    let seen = sessions(&site.agent, mac)?;
    ensure!(seen.len() == 1, "{} sessions of {mac}", seen.len());
    let program = site.agent.program()?;
    let (status, _) = program.terminate()?;
    let log = program.log();
    ensure!(status.success(), "the agent ended with {status}:\n{log}");
    site.agent.stop();
    Ok(log)
}

fn ensure_told_once(log: &str, file: &str) -> Result<()> {
    let about = |line: &&str| line.contains("cannot be written down") && line.contains(file);
    let told = log.lines().filter(about).count();
    ensure!(told == 1, "the log tells {told} times of {file}:\n{log}");
    Ok(())
}

fn d3_a_full_disk_costs_no_boot_and_leaves_no_half_a_line() -> Result<()> {
    let (mut site, disk) = site_on_a_small_disk()?;
    disk.fill()?;
    let log = boot_and_end(&mut site, &random_mac())?;
    ensure_told_once(&log, "boots.jsonl")?;
    let journal = site.agent.data_dir().join("boots.jsonl");
    let left = fs::metadata(&journal).map_or(0, |metadata| metadata.len());
    ensure!(left == 0, "{left} bytes of a line are left");
    // The next run starts on the full disk, and serves.
    site.agent.start()?;
    boot_and_end(&mut site, &random_mac())?;
    // With room again, the next run keeps what it sees.
    disk.free()?;
    site.agent.start()?;
    let mac = random_mac();
    boot_and_end(&mut site, &mac)?;
    site.agent.start()?;
    wait::until("the session is back", FOLLOW_LIMIT, || Ok(sessions(&site.agent, &mac)?.pop()))?;
    let log = site.agent.program()?.log();
    ensure!(!log.contains("no boot sessions"), "a line is none:\n{log}");
    Ok(())
}

fn d4_a_journal_that_turns_read_only_costs_no_boot() -> Result<()> {
    let mut site = Site::start()?;
    let journal = ReadOnlyFile::mount(&site.agent.data_dir().join("boots.jsonl"))?;
    let log = boot_and_end(&mut site, &random_mac())?;
    ensure_told_once(&log, "boots.jsonl")?;
    ensure!(log.contains("Read-only file system"), "the reason is another one:\n{log}");
    // The next run starts all the same.
    site.agent.start()?;
    site.agent.script(&random_mac())?;
    drop(journal);
    Ok(())
}
