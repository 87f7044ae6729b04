//! Content through disks that fill or fail, lines that stop and readers that do not read (FAULTS §3, §7 and §11).

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pureboot_tests::disk::SmallDisk;
use pureboot_tests::line::{Line, Slowness};
use pureboot_tests::machines::Machine;
use pureboot_tests::namespace::Namespace;
use pureboot_tests::process;
use pureboot_tests::site::{ARRIVAL_LIMIT, Ports, Site, boot_of, text};
use pureboot_tests::tftp::Client;
use pureboot_tests::{http, is_long, noise, random_mac, sha256, wait};
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::need::Need;
use crate::sync::{assign, peak_kib, sync};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(d2_a_full_disk_is_served_past_and_leaves_room_for_what_is_precious, Need::Root),
        case!(d11_a_disk_without_inodes_is_served_past_and_recovers, Need::Root),
        case!(
            d1_d3_a_full_disk_refuses_reports_even_after_a_start_and_recovers_by_itself,
            Need::Root
        ),
        case!(d18_a_lost_index_costs_no_content_and_loaders_come_first),
        case!(n10_the_first_byte_comes_before_the_last_and_reports_pass_a_line_full_of_content),
        case!(n10_heartbeats_and_reports_pass_a_line_of_a_kilobyte_a_second_and_five_seconds),
        case!(
            n10_what_crosses_a_line_of_five_seconds_that_loses_every_tenth_packet_arrives,
            Need::Root,
            Need::Namespaces,
            Need::Program("iptables", "iptables")
        ),
        case!(n9_a_path_that_swallows_long_requests_gets_shorter_ones),
        case!(h9_readers_that_stop_cost_nobody_else_a_script),
        case!(i7_memory_does_not_grow_with_the_size_of_an_image),
    ]
}

/// What a fill may take on a busy machine.
pub(crate) const FILL_LIMIT: Duration = Duration::from_secs(120);
/// What 10 GB may take there.
const LONG_LIMIT: Duration = Duration::from_secs(600);

/// A site whose agent has a disk of its own of so many MiB.
fn site_on_a_disk(mebibytes: u32) -> Result<(Site, SmallDisk)> {
    let mut site = Site::prepare("agent")?;
    let disk = SmallDisk::mount(site.agent.data_dir(), mebibytes)?;
    let token = site.make_token()?;
    site.agent.init(&site.id, &site.controller.url(), &token, Ports::LOOPBACK)?;
    site.agent.start()?;
    site.wait_until_online()?;
    Ok((site, disk))
}

/// A file from the agent, once it is neither on its way nor refused for the moment.
pub(crate) fn file(site: &Site, name: &str) -> Result<Vec<u8>> {
    let url = site.agent.url(&format!("/files/{name}"));
    wait::until(&format!("{name} is given"), FILL_LIMIT, || {
        let answer = http::get(&url)?;
        ensure!(matches!(answer.status, 200 | 404 | 503), "{}: {}", answer.status, answer.text());
        Ok((answer.status == 200).then_some(answer.body))
    })
}

/// A machine boots and reports, and the controller hears of it: at once, or when the database is open again.
pub(crate) fn boots_and_reports(site: &Site) -> Result<()> {
    let mac = random_mac();
    wait::until("a machine's boot is written down", FILL_LIMIT, || {
        site.agent.script(&mac)?;
        site.controller.node(&mac)
    })?;
    wait::until("a machine's report is taken", FILL_LIMIT, || {
        let boot = boot_of(&site.agent.script(&mac)?)?;
        Ok(site.agent.report(&mac, &boot, "first_boot", None).ok())
    })
}

fn d2_a_full_disk_is_served_past_and_leaves_room_for_what_is_precious() -> Result<()> {
    // The cache leaves 64 MiB of it alone.
    let (site, disk) = site_on_a_disk(96)?;
    let (small, large) = (noise(20 << 20), noise(24 << 20));
    site.controller.upload("images/small", &small)?;
    site.controller.upload("images/large", &large)?;
    assign(&site, &["images/small"])?;
    sync(&site)?;
    assign(&site, &["images/small", "images/large"])?;
    for _ in 0..2 {
        ensure!(file(&site, "images/large")? == large, "another file is given past the cache");
        ensure!(file(&site, "images/small")? == small, "what was there is another file");
    }
    let objects = site.agent.data_dir().join("cache/objects");
    let held = |bytes: &[u8]| {
        let hash = sha256(bytes);
        objects.join(hash.get(..2).unwrap_or_default()).join(hash).exists()
    };
    ensure!(held(&small) && !held(&large), "the disk holds what it has no room for");
    boots_and_reports(&site)?;
    // Somebody else takes the rest of it: what is there is served on, and machines get their scripts.
    disk.fill()?;
    ensure!(file(&site, "images/small")? == small, "another file on a full disk");
    ensure!(file(&site, "images/large")? == large, "another file past a full disk");
    site.agent.script(&random_mac())?;
    disk.free()?;
    boots_and_reports(&site)
}

fn d1_d3_a_full_disk_refuses_reports_even_after_a_start_and_recovers_by_itself() -> Result<()> {
    const REPORTS_MAX: usize = 5_000;
    let (mut site, disk) = site_on_a_disk(96)?;
    let machine = Machine::boot(&site.agent)?;
    site.controller.wait_for_state(machine.mac(), "discovered")?;
    disk.fill()?;
    // What the database has of the disk already is still written to.
    let mut taken = 0;
    let refused = loop {
        let answer = machine.try_report(site.agent.boot(), taken + 1)?;
        if !matches!(answer.status, 200..=299) {
            break answer;
        }
        taken += 1;
        ensure!(taken < REPORTS_MAX, "{taken} reports were taken by a full disk");
    };
    ensure!(refused.status == 507, "{}: {}", refused.status, refused.text());
    ensure!(refused.field("retry-after").is_some(), "nobody says when to come back");
    site.agent.stop();
    site.agent.start()?;
    let refused = machine.try_report(site.agent.boot(), taken + 1)?;
    ensure!(matches!(refused.status, 503 | 507), "{}: {}", refused.status, refused.text());
    let script = site.agent.script(machine.mac())?;
    ensure!(script.contains("discovered"), "another script:\n{script}");
    let said = site.agent.run(&["status"])?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(said.contains("100 % full"), "the status does not say why:\n{said}");
    disk.free()?;
    wait::until("a report is taken again", FILL_LIMIT, || {
        Ok(machine.report(site.agent.boot(), taken + 1).then_some(()))
    })?;
    wait::until("all is handed over", FILL_LIMIT, || {
        Ok((site.agent.pending()? == 0).then_some(()))
    })?;
    machine.check(&site.controller, taken + 1, taken + 1)
}

fn d11_a_disk_without_inodes_is_served_past_and_recovers() -> Result<()> {
    let (site, disk) = site_on_a_disk(128)?;
    let content = noise(3_000_000);
    site.controller.upload("images/one", &content)?;
    assign(&site, &["images/one"])?;
    sync(&site)?;
    let evicted = site.agent.run(&["cache", "evict", "--policy", "all"])?;
    ensure!(evicted.status.success(), "{}", String::from_utf8_lossy(&evicted.stderr));
    disk.fill_inodes()?;
    ensure!(file(&site, "images/one")? == content, "another file is given past the cache");
    // The database needs no new file.
    boots_and_reports(&site)?;
    disk.free_inodes()?;
    wait::until("the file comes into the cache", FILL_LIMIT, || {
        let outcome = sync(&site)?;
        let is_complete = outcome.get("status").is_some_and(|status| status == "completed");
        Ok(is_complete.then_some(()))
    })?;
    ensure!(file(&site, "images/one")? == content, "another file is held");
    Ok(())
}

fn d18_a_lost_index_costs_no_content_and_loaders_come_first() -> Result<()> {
    const LOADER: &str = "undionly.kpxe";
    let mut site = Site::start()?;
    let (loader, image) = (noise(70_000), noise(40 << 20));
    site.controller.upload(&format!("bootloaders/{LOADER}"), &loader)?;
    site.controller.upload("images/one", &image)?;
    assign(&site, &[&format!("bootloaders/{LOADER}"), "images/one"])?;
    sync(&site)?;
    // What is not on the disk cannot come from elsewhere.
    site.controller.stop();
    for damage in ["lost", "empty", "garbage"] {
        site.agent.stop();
        for file in ["index.db", "index.db-wal", "index.db-shm"] {
            _ = fs::remove_file(site.agent.data_dir().join("cache").join(file));
        }
        let index = site.agent.data_dir().join("cache/index.db");
        match damage {
            "empty" => fs::write(index, "")?,
            "garbage" => fs::write(index, noise(20_000))?,
            _ => {}
        }
        site.agent.start()?;
        let client = Client::new(site.agent.tftp(), Ipv4Addr::LOCALHOST)?;
        ensure!(client.read(LOADER, &[])?.bytes == loader, "{damage}: another loader, or none");
        ensure!(file(&site, "images/one")? == image, "{damage}: another image");
    }
    Ok(())
}

/// A connection from a machine with an address of its own, on which a file was asked for.
fn ask(number: u8, agent: SocketAddr, name: &str) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_recv_buffer_size(4_096)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 9, number), 0)).into())?;
    socket.connect_timeout(&agent.into(), Duration::from_secs(10))?;
    let mut stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(FILL_LIMIT))?;
    write!(stream, "GET /files/{name} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
    Ok(stream)
}

/// Reads to the end of a head; returns its first line.
fn read_head(stream: &mut TcpStream) -> Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.extend_from_slice(&byte);
    }
    let head = String::from_utf8(head)?;
    Ok(head.lines().next().unwrap_or_default().to_owned())
}

fn n10_the_first_byte_comes_before_the_last_and_reports_pass_a_line_full_of_content() -> Result<()>
{
    let (site, line) = site_on_a_line()?;
    sync(&site)?;
    let content = noise(16 << 20);
    line.turn(Some(6 << 20));
    site.controller.upload("images/cold", &content)?;
    assign(&site, &["images/cold"])?;
    // The agent may ask for a newer manifest first, and says so.
    let (mut stream, first) = wait::until("the image begins", FILL_LIMIT, || {
        let mut stream = ask(1, site.agent.boot(), "images/cold")?;
        if !read_head(&mut stream)?.contains(" 200 ") {
            return Ok(None);
        }
        let mut first = [0];
        stream.read_exact(&mut first)?;
        Ok(Some((stream, first)))
    })?;
    ensure!(line.content_passed() < content.len() as u64, "all of it has passed before");
    // The rest stands in the line; what a machine reports does not stand behind it.
    boots_and_reports(&site)?;
    let beat = || Ok::<_, anyhow::Error>(site.agent_status()?.get("heartbeat").cloned());
    let before = beat()?;
    wait::until("a heartbeat passes", ARRIVAL_LIMIT, || Ok((beat()? != before).then_some(())))?;
    ensure!(line.content_passed() < content.len() as u64, "the line was not full");
    line.turn(None);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    ensure!([first.as_slice(), &rest].concat() == content, "another image came");
    Ok(())
}

/// A site whose agent reaches its controller over a line that a test has in its hands.
fn site_on_a_line() -> Result<(Site, Line)> {
    let mut site = Site::prepare("agent")?;
    let line = Line::open(site.controller.address())?;
    let token = site.make_token()?;
    site.agent.init(&site.id, &line.url(), &token, Ports::LOOPBACK)?;
    site.agent.start()?;
    site.wait_until_online()?;
    Ok((site, line))
}

fn n10_heartbeats_and_reports_pass_a_line_of_a_kilobyte_a_second_and_five_seconds() -> Result<()> {
    let (site, line) = site_on_a_line()?;
    sync(&site)?;
    let mac = random_mac();
    let boot = boot_of(&site.agent.script(&mac)?)?;
    site.controller.wait_for_state(&mac, "discovered")?;
    site.controller.upload("images/cold", &noise(1 << 20))?;
    assign(&site, &["images/cold"])?;
    wait::until("content is on its way", FILL_LIMIT, || {
        line.turn(Some(64 << 10));
        let (_, status) = site.agent.status()?;
        Ok(status.pointer("/content/progress/current").filter(|it| !it.is_null()).map(|_| ()))
    })?;
    line.slow_down(Some(Slowness { bytes_per_s: 1_000, delay: Duration::from_millis(2_500) }));
    line.turn(None);
    let beat = || Ok::<_, anyhow::Error>(site.agent_status()?.get("heartbeat").cloned());
    let before = beat()?;
    site.agent.report(&mac, &boot, "first_boot", None)?;
    wait::until("the report passes", FILL_LIMIT, || {
        let node = site.controller.node(&mac)?.context("the machine is known")?;
        let events = site.controller.get(&format!("/nodes/{}/events", text(&node, "id")?))?;
        Ok(events.to_string().contains("first_boot").then_some(()))
    })?;
    wait::until("a heartbeat passes", FILL_LIMIT, || Ok((beat()? != before).then_some(())))?;
    let (_, status) = site.agent.status()?;
    let current = status.pointer("/content/progress/current");
    ensure!(current == Some(&json!("images/cold")), "the line was not full: {status}");
    Ok(())
}

/// Has every tenth packet to and from the line's end at the agent lost, within the namespace that is entered.
fn lose_packets(line: &Line) -> Result<()> {
    let url = line.url();
    let (_, port) = url.rsplit_once(':').context("a URL with a port")?;
    for side in ["--dport", "--sport"] {
        let mut command = process::system("iptables")?;
        command.args(["-A", "INPUT", "-p", "tcp", side, port, "-m", "statistic"]);
        command.args(["--mode", "nth", "--every", "10", "--packet", "0", "-j", "DROP"]);
        process::succeed(command)?;
    }
    Ok(())
}

/// How many packets have been lost so.
fn lost_packets() -> Result<u64> {
    let mut command = process::system("iptables")?;
    command.args(["-L", "INPUT", "-n", "-v", "-x"]);
    let rules = process::succeed(command)?;
    let drops = rules.lines().filter(|line| line.contains("DROP"));
    drops.map(|line| Ok(line.split_whitespace().next().unwrap_or_default().parse::<u64>()?)).sum()
}

fn n10_what_crosses_a_line_of_five_seconds_that_loses_every_tenth_packet_arrives() -> Result<()> {
    /// A boot's budget, and what a busy machine adds to it.
    const BOOT_LIMIT: Duration = Duration::from_secs(4);
    const REPORTS: usize = 10;
    let namespace = Namespace::new()?;
    namespace.enter(|| {
        let (site, line) = site_on_a_line()?;
        let machine = Machine::boot(&site.agent)?;
        site.controller.wait_for_state(machine.mac(), "discovered")?;
        lose_packets(&line)?;
        line.slow_down(Some(Slowness {
            bytes_per_s: 100_000,
            delay: Duration::from_millis(2_500),
        }));
        let content = noise(300_000);
        site.controller.upload("images/far", &content)?;
        assign(&site, &["images/far"])?;
        for number in 1..=REPORTS {
            ensure!(machine.report(site.agent.boot(), number), "report {number} was not taken");
        }
        for _ in 0..3 {
            let began = Instant::now();
            let script = site.agent.script(machine.mac())?;
            ensure!(began.elapsed() < BOOT_LIMIT, "a boot took {:?}", began.elapsed());
            ensure!(script.contains("is listed as discovered"), "not by the record:\n{script}");
        }
        wait::until("all is handed over", FILL_LIMIT, || {
            Ok((site.agent.pending()? == 0).then_some(()))
        })?;
        machine.check(&site.controller, REPORTS, REPORTS)?;
        wait::until("the file has come", FILL_LIMIT, || {
            let outcome = sync(&site)?;
            Ok((outcome.get("status") == Some(&json!("completed"))).then_some(()))
        })?;
        ensure!(file(&site, "images/far")? == content, "another file came");
        ensure!(lost_packets()? > 0, "no packet was lost");
        Ok(())
    })
}

fn n9_a_path_that_swallows_long_requests_gets_shorter_ones() -> Result<()> {
    // As many as one address may have under way at once.
    const EVENTS: usize = 14;
    let (site, line) = site_on_a_line()?;
    let mac = random_mac();
    let boot = boot_of(&site.agent.script(&mac)?)?;
    site.controller.wait_for_state(&mac, "discovered")?;
    let node = site.controller.node(&mac)?.context("the machine is known")?;
    let events = format!("/nodes/{}/events?limit=100", text(&node, "id")?);
    let before = site.controller.get(&events)?.as_array().map_or(0, Vec::len);
    // Nothing passes, so that all of them wait together.
    line.swallow_above(1);
    let reports: Vec<_> = (0..EVENTS)
        .map(|number| {
            // What cannot be packed much, and is as long as a message may be.
            let message = format!("{number} {}{}", sha256(&noise(32)), sha256(&noise(32)));
            let message: String = message.chars().take(120).collect();
            let body = json!({ "mac_address": mac, "boot": boot, "event_type": "install_progress", "message": message });
            let url = site.agent.url("/api/v1/report");
            thread::spawn(move || Ok::<_, anyhow::Error>(http::post(&url, &body)?.status))
        })
        .collect();
    for report in reports {
        let status = report.join().ok().context("a machine panicked")??;
        ensure!(status == 202, "a report is answered {status}");
    }
    line.swallow_above(1_200);
    let swallowed = line.swallowed();
    wait::until("all of them have passed", LONG_LIMIT, || {
        let now = site.controller.get(&events)?.as_array().map_or(0, Vec::len);
        Ok((now == before + EVENTS).then_some(()))
    })?;
    ensure!(line.swallowed() > swallowed, "nothing was too long");
    Ok(())
}

fn h9_readers_that_stop_cost_nobody_else_a_script() -> Result<()> {
    const READERS: u8 = 100;
    let mut site = Site::start()?;
    let (image, kernel) = (noise(24 << 20), noise(100_000));
    site.agent.cache_add("images/one", &image)?;
    site.agent.cache_add("images/kernel", &kernel)?;
    let before = peak_kib(&mut site)?;
    let stopped: Vec<_> = (1..=READERS)
        .map(|number| {
            let mut stream = ask(number, site.agent.boot(), "images/one")?;
            let status = read_head(&mut stream)?;
            ensure!(status.contains(" 200 "), "reader {number}: {status}");
            Ok(stream)
        })
        .collect::<Result<_>>()?;
    boots_and_reports(&site)?;
    ensure!(file(&site, "images/kernel")? == kernel, "another kernel");
    let growth = peak_kib(&mut site)?.saturating_sub(before);
    ensure!(growth < 16 << 10, "memory has grown by {growth} KiB");
    // Whoever reads on gets the rest.
    let mut stream = stopped.into_iter().next().context("a reader")?;
    let mut body = Vec::new();
    stream.read_to_end(&mut body)?;
    ensure!(body == image, "another image");
    Ok(())
}

/// A file of zeros with a beginning and an end of its own, which takes no room on the disk.
fn sparse_file(site: &Site, name: &str, len: u64) -> Result<String> {
    let path = site.dir().join(name);
    let mut file = File::create(&path)?;
    file.write_all(&noise(1 << 20))?;
    file.set_len(len)?;
    path.to_str().map(ToOwned::to_owned).context("a path of ASCII")
}

fn i7_memory_does_not_grow_with_the_size_of_an_image() -> Result<()> {
    /// What a stream, its hash and its fill take, whatever its length.
    const GROWTH_MAX_KIB: u64 = 12 << 10;
    let large_len = if is_long() { 10_000_000_000 } else { 200_000_000 };
    let mut site = Site::start()?;
    let mut peaks = Vec::new();
    for (name, len) in [("small", 10_000_000), ("large", large_len)] {
        let path = sparse_file(&site, name, len)?;
        let key = format!("images/{name}");
        let added =
            process::output(site.agent.command(&["cache", "add", &key, &path])?, LONG_LIMIT)?;
        ensure!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        let mut stream = ask(1, site.agent.boot(), &key)?;
        ensure!(read_head(&mut stream)?.contains(" 200 "), "{name} is not given");
        let (mut buffer, mut read_len, mut expected) = (vec![0; 1 << 20], 0, vec![0; 1 << 20]);
        let mut origin = File::open(&path)?;
        loop {
            let read = stream.read(&mut buffer)?;
            let (came, wanted) = (buffer.get(..read), expected.get_mut(..read));
            let (came, wanted) = (came.context("a part")?, wanted.context("a part")?);
            origin.read_exact(wanted)?;
            ensure!(came == wanted, "{name}: other bytes behind {read_len}");
            read_len += read as u64;
            if read == 0 {
                break;
            }
        }
        ensure!(read_len == len, "{name}: {read_len} bytes came of {len}");
        peaks.push(peak_kib(&mut site)?);
        fs::remove_file(path)?;
    }
    let (small, large) = (peaks.first().context("two peaks")?, peaks.last().context("two peaks")?);
    let growth = large.saturating_sub(*small);
    ensure!(growth <= GROWTH_MAX_KIB, "memory has grown by {growth} KiB");
    Ok(())
}
