//! Content comes to the site by itself: from an operator's upload to a machine that boots, through kills and crowds.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pureboot_tests::site::{ARRIVAL_LIMIT, Ports, Site};
use pureboot_tests::tftp::Client;
use pureboot_tests::{http, is_long, noise, process, random, random_mac, sha256, wait};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(what_is_uploaded_at_the_controller_boots_a_machine_of_the_site),
        case!(a_machine_gets_what_came_to_the_controller_a_moment_ago),
        case!(sync_tells_a_person_and_a_program_how_it_went),
        case!(d7_a_person_finds_sets_aside_and_replaces_what_is_damaged),
        case!(k11_twenty_kills_during_a_fill_never_show_a_wrong_or_short_byte),
        case!(fifty_machines_on_a_cold_image_cost_one_fetch_and_no_memory),
    ]
}

/// What a fill may take on a busy machine.
const FILL_LIMIT: Duration = Duration::from_secs(120);

const LOADER: &str = "undionly.kpxe";

/// Assigns these names, and nothing else, to the site.
pub(crate) fn assign(site: &Site, names: &[&str]) -> Result<()> {
    site.controller
        .patch(&format!("/sites/{}", site.id), &json!({ "cache_policy": "assigned" }))?;
    let two_fields = |name: &&str| {
        let (category, path) = name.split_once('/').unwrap_or_default();
        json!({ "category": category, "path": path })
    };
    let list: Vec<_> = names.iter().map(two_fields).collect();
    site.controller
        .put(&format!("/sites/{}/assigned-content", site.id), &Value::from(list))
        .map(|_| ())
}

/// A site whose agent's settings say `after` from the first where they would say `before`.
pub(crate) fn site_with(before: &str, after: &str) -> Result<Site> {
    let mut site = Site::prepare("agent")?;
    let token = site.make_token()?;
    site.agent.init(&site.id, &site.controller.url(), &token, Ports::LOOPBACK)?;
    let path = site.agent.data_dir().join("agent.toml");
    let settings = fs::read_to_string(&path)?;
    ensure!(settings.contains(before), "no '{before}' in:\n{settings}");
    fs::write(path, settings.replace(before, after))?;
    site.agent.start()?;
    site.wait_until_online()?;
    Ok(site)
}

/// A site that fetches no image but by order, or when a machine asks: the schedule's time is never within a test.
pub(crate) fn site_without_haste() -> Result<Site> {
    site_with("[sync]\n", "[sync]\nschedule = \"0 0 29 2 *\"\n")
}

/// `pureboot-agent sync`, to its end.
pub(crate) fn sync(site: &Site) -> Result<Value> {
    let output = process::output(site.agent.command(&["sync", "--json"])?, FILL_LIMIT)?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

fn what_is_uploaded_at_the_controller_boots_a_machine_of_the_site() -> Result<()> {
    let site = Site::start()?;
    let (loader, kernel, initrd) = (noise(74_213), noise(5_000_000), noise(1_000_000));
    site.controller.upload(&format!("bootloaders/{LOADER}"), &loader)?;
    let (mac, name) = (random_mac(), format!("flow-{:08x}", random() >> 32));
    site.controller.upload(&format!("images/{name}/kernel"), &kernel)?;
    site.controller.upload(&format!("images/{name}/initrd"), &initrd)?;
    site.discover_and_order(&mac, &name)?;
    let outcome = sync(&site)?;
    ensure!(outcome.get("status") == Some(&json!("completed")), "{outcome}");

    let client = Client::new(site.agent.tftp(), Ipv4Addr::LOCALHOST)?;
    ensure!(client.read(LOADER, &[])?.bytes == loader, "another loader came");
    let script = site.script_with(&mac, &format!("images/{name}/kernel"))?;
    for (file, content) in [("kernel", &kernel), ("initrd", &initrd)] {
        let url = site.agent.url(&format!("/files/images/{name}/{file}"));
        ensure!(script.contains(&url), "the script does not name {url}:\n{script}");
        ensure!(http::get(&url)?.expect(200)?.body == *content, "another {file} came");
    }
    Ok(())
}

fn a_machine_gets_what_came_to_the_controller_a_moment_ago() -> Result<()> {
    let mut site = Site::start()?;
    sync(&site)?;
    let content = noise(3_000_000);
    site.controller.upload("images/fresh", &content)?;
    assign(&site, &["images/fresh"])?;
    // A name that the manifest lacks has the agent ask, but not again and again.
    let url = site.agent.url("/files/images/fresh");
    let answer = wait::until("the file is here", ARRIVAL_LIMIT, || {
        let answer = http::get(&url)?;
        Ok((answer.status == 200).then_some(answer))
    })?;
    ensure!(answer.body == content, "another file came");
    // It is the site's own from then on.
    sync(&site)?;
    site.controller.stop();
    site.agent.stop();
    site.agent.start()?;
    let url = site.agent.url("/files/images/fresh");
    ensure!(http::get(&url)?.expect(200)?.body == content, "another file came");
    Ok(())
}

fn sync_tells_a_person_and_a_program_how_it_went() -> Result<()> {
    let mut site = site_without_haste()?;
    site.controller.upload("images/one", &noise(100_000))?;
    site.controller.upload("images/two", &noise(200_000))?;
    assign(&site, &["images/one", "images/two"])?;
    let outcome = sync(&site)?;
    let is_told = outcome.get("files_synced") == Some(&json!(2))
        && outcome.get("bytes_transferred") == Some(&json!(300_000));
    ensure!(is_told, "{outcome}");
    let output = site.agent.run(&["sync", "--force"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said == "the content is up to date\n", "{said}");
    let (_, status) = site.agent.status()?;
    ensure!(status.pointer("/content/names_missing") == Some(&json!(0)), "{status}");
    wait::until("a heartbeat tells of the sync", ARRIVAL_LIMIT, || {
        let status = site.agent_status()?;
        let said = status.pointer("/heartbeat/last_sync_result").cloned();
        Ok((said == Some(json!("completed"))).then_some(()))
    })?;
    site.controller.stop();
    let output = site.agent.run(&["sync"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(1) && said.contains("error: "), "{said}");
    Ok(())
}

fn d7_a_person_finds_sets_aside_and_replaces_what_is_damaged() -> Result<()> {
    let site = Site::start()?;
    let content = noise(100_000);
    site.controller.upload("images/one", &content)?;
    assign(&site, &["images/one"])?;
    sync(&site)?;
    let said = |arguments: &[&str]| -> Result<(Option<i32>, String)> {
        let output = site.agent.run(arguments)?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let (code, stats) = said(&["cache", "stats"])?;
    ensure!(code == Some(0) && stats.contains("held: 100.0 kB"), "{stats}");
    let (code, verified) = said(&["cache", "verify"])?;
    ensure!(code == Some(0) && verified == "1 object is sound\n", "{verified}");

    let hash = sha256(&content);
    let object = format!("cache/objects/{}/{hash}", hash.get(..2).unwrap_or_default());
    let mut damaged = content.clone();
    if let Some(byte) = damaged.get_mut(50_000) {
        *byte ^= 1;
    }
    fs::write(site.agent.data_dir().join(object), damaged)?;
    let (code, verified) = said(&["cache", "verify", "images/one"])?;
    ensure!(code == Some(1) && verified.contains("images/one was damaged"), "{verified}");
    sync(&site)?;
    let url = site.agent.url("/files/images/one");
    ensure!(http::get(&url)?.expect(200)?.body == content, "another file came");

    let (code, evicted) = said(&["cache", "evict", "--policy", "all"])?;
    ensure!(code == Some(0) && evicted == "1 object went, 100.0 kB are free\n", "{evicted}");
    ensure!(http::get(&url)?.expect(200)?.body == content, "it does not come back on demand");
    Ok(())
}

/// What of a file comes until it ends or breaks off; each byte must be the file's.
fn read_what_comes(
    from: Ipv4Addr,
    agent: SocketAddr,
    path: &str,
    file: &[u8],
    leave_after: usize,
) -> Result<usize> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&agent.into(), Duration::from_secs(10))?;
    let mut stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(FILL_LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return Ok(0);
        }
        head.extend_from_slice(&byte);
    }
    let head = String::from_utf8(head)?;
    if head.starts_with("HTTP/1.1 503") {
        ensure!(head.to_lowercase().contains("\r\nretry-after: "), "no word of when: {head}");
        return Ok(0);
    }
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    let (mut buffer, mut len) = (vec![0; 256 << 10], 0);
    while len < leave_after {
        let read = stream.read(&mut buffer).unwrap_or(0);
        if read == 0 {
            break;
        }
        let (came, expected) = (buffer.get(..read), file.get(len..len + read));
        ensure!(came == expected, "wrong bytes between {len} and {}", len + read);
        len += read;
    }
    Ok(len)
}

/// How much has come of the one object that is on its way.
fn part_len(site: &Site) -> Result<u64> {
    let mut len = 0;
    for entry in fs::read_dir(site.agent.data_dir().join("cache/tmp"))? {
        len += entry?.metadata().map_or(0, |metadata| metadata.len());
    }
    Ok(len)
}

fn k11_twenty_kills_during_a_fill_never_show_a_wrong_or_short_byte() -> Result<()> {
    const KILLS: usize = 20;
    let mut site = Site::start()?;
    let file = Arc::new(noise(24 << 20));
    site.controller.upload("images/long", &file)?;
    site.agent.stop();
    assign(&site, &["images/long"])?;
    // Slow enough for twenty kills, on whatever machine.
    let settings = site.agent.data_dir().join("agent.toml");
    let text = fs::read_to_string(&settings)?;
    let text = text.replace("rate_max_kib_s = 0", "rate_max_kib_s = 1536");
    fs::write(&settings, &text)?;
    let mut last_len = 0;
    for kill in 0..KILLS {
        site.agent.start()?;
        let (agent, read) = (site.agent.boot(), Arc::clone(&file));
        let reader = thread::spawn(move || {
            read_what_comes(Ipv4Addr::LOCALHOST, agent, "/files/images/long", &read, usize::MAX)
        });
        // Every other life lasts until more has come, on whatever machine; the others may end before anything did.
        if kill % 2 == 0 {
            wait::until("more of it comes", FILL_LIMIT, || {
                Ok((part_len(&site)? > last_len).then_some(()))
            })?;
        }
        thread::sleep(Duration::from_millis(random() % 300));
        site.agent.stop();
        let came = reader.join().ok().context("the reader panicked")??;
        ensure!(came <= file.len(), "{came} bytes came");
        // What is behind the last whole chunk may be lost to the next start, and nothing before it.
        let len = part_len(&site)?;
        ensure!(len + (1 << 20) >= last_len, "kill {kill}: {last_len} bytes were there, and {len}");
        last_len = len;
    }
    fs::write(&settings, text.replace("rate_max_kib_s = 1536", "rate_max_kib_s = 0"))?;
    site.agent.start()?;
    let outcome = wait::until("the file is here", FILL_LIMIT, || Ok(Some(sync(&site)?)))?;
    let url = site.agent.url("/files/images/long");
    let answer = http::get(&url)?.expect(200)?;
    ensure!(sha256(&answer.body) == sha256(&file), "another file came after {outcome}");
    ensure!(part_len(&site)? == 0, "a part is left");
    ensure!(last_len > 1 << 20, "nothing was ever resumed");
    Ok(())
}

/// Stands between agent and controller and counts how often an object is asked for.
struct Counter {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Counter {
    fn start(controller: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (address, asked) = (listener.local_addr()?, Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&asked);
        thread::spawn(move || {
            for agent in listener.incoming().flatten() {
                let counted = Arc::clone(&counted);
                if let Ok(upstream) = TcpStream::connect(controller)
                    && let (Ok(from), Ok(to)) = (agent.try_clone(), upstream.try_clone())
                {
                    thread::spawn(move || forward(from, to, &counted));
                    thread::spawn(move || forward(upstream, agent, &AtomicUsize::new(0)));
                }
            }
        });
        Ok(Self { address, asked })
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, counted: &AtomicUsize) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let bytes = buffer.get(..read).unwrap_or_default();
        if let Some(line) = bytes.strip_prefix(b"GET /api/v1/agents/objects/".as_slice())
            && !line.get(64..).is_some_and(|rest| rest.starts_with(b"/chunks"))
        {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    _ = to.shutdown(std::net::Shutdown::Both);
}

/// The most memory that the agent has had, in KiB.
pub(crate) fn peak_kib(site: &mut Site) -> Result<u64> {
    let path = PathBuf::from(format!("/proc/{}/status", site.agent.program()?.pid()));
    let status = fs::read_to_string(path)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn fifty_machines_on_a_cold_image_cost_one_fetch_and_no_memory() -> Result<()> {
    const MACHINES: u8 = 50;
    /// Each machine that is being sent to costs a chunk and what is in hyper's buffer.
    const GROWTH_MAX_KIB: u64 = 48 << 10;
    let mut site = Site::prepare("agent")?;
    let controller = site.controller.url();
    let to =
        controller.trim_start_matches("http://").parse().context("the controller's address")?;
    let counter = Counter::start(to)?;
    let token = site.make_token()?;
    let url = format!("http://{}", counter.address);
    site.agent.init(&site.id, &url, &token, Ports::LOOPBACK)?;
    site.agent.start()?;
    site.wait_until_online()?;
    sync(&site)?;
    let before = peak_kib(&mut site)?;
    let file = Arc::new(noise(if is_long() { 1 << 30 } else { 64 << 20 }));
    site.controller.upload("images/cold", &file)?;
    assign(&site, &["images/cold"])?;
    let agent = site.agent.boot();
    let machines: Vec<_> = (1..=MACHINES)
        .map(|number| {
            let file = Arc::clone(&file);
            let leave_after = if number % 2 == 0 { file.len() / 2 } else { usize::MAX };
            let from = Ipv4Addr::new(127, 0, 7, number);
            thread::spawn(move || {
                let read =
                    || read_what_comes(from, agent, "/files/images/cold", &file, leave_after);
                let came = wait::until("the image comes", FILL_LIMIT, || {
                    Ok(Some(read()?).filter(|len| *len > 0))
                })?;
                ensure!(came == file.len() || leave_after < usize::MAX, "only {came} bytes came");
                Ok(())
            })
        })
        .collect();
    for machine in machines {
        machine.join().ok().context("a machine panicked")??;
    }
    let asked = counter.asked.load(Ordering::Relaxed);
    ensure!(asked == 1, "the controller was asked {asked} times");
    let growth = peak_kib(&mut site)?.saturating_sub(before);
    ensure!(growth <= GROWTH_MAX_KIB, "memory has grown by {growth} KiB");
    Ok(())
}
