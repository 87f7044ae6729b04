//! The boot listener as strict firmware and curl see it.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use minreq::Method;
use pureboot_tests::http::{self, Answer};
use pureboot_tests::process;
use pureboot_tests::site::{Agent, Site};
use pureboot_tests::{noise, random_mac, sha256};
use socket2::{Domain, Socket, Type};

use crate::need::Need;
use crate::{Case, case};

/// How long a machine waits for a script before a test gives up on it.
const MACHINE_LIMIT: Duration = Duration::from_secs(10);

const CURL: Need = Need::Program("curl", "curl");

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(curl_reads_files_ranges_and_heads_on_one_connection, CURL),
        case!(every_size_has_its_exact_length),
        case!(head_says_what_get_says),
        case!(content_types_are_those_that_firmware_accepts),
        case!(a_range_resumes_a_download),
        case!(validators_guard_a_download_against_other_content),
        case!(every_refusal_has_a_body),
        case!(double_slashes_are_collapsed_without_redirect),
        case!(no_spelling_of_a_path_is_redirected),
        case!(every_entrance_leads_to_the_machines_script),
        case!(an_ipxe_that_the_operator_names_loads_the_sites_own_first_and_once),
        case!(fifty_machines_at_once_get_their_scripts),
    ]
}

fn an_ipxe_that_the_operator_names_loads_the_sites_own_first_and_once() -> Result<()> {
    let mut site = Site::start()?;
    let loader = noise(70_000);
    site.agent.cache_add("bootloaders/undionly.kpxe", &loader)?;
    site.agent.stop();
    let settings = site.agent.data_dir().join("agent.toml");
    let text = std::fs::read_to_string(&settings)?
        + "\n[[dhcp.quirk]]\nuser_agent = \"iPXE/1.0.0\"\nfile = \"undionly.kpxe\"\n";
    std::fs::write(&settings, text)?;
    site.agent.start()?;
    let ask = |agent: &str| {
        let url = site.agent.url("/boot.ipxe");
        let answer = http::send(minreq::get(url).with_header("User-Agent", agent))?;
        Ok::<_, anyhow::Error>(answer.expect(200)?.text())
    };
    let (old, new) = ("iPXE/1.0.0+ (09c5)", "iPXE/1.21.1+ (g4e456)");
    ensure!(!ask(new)?.contains("undionly"), "an iPXE that nobody named loads another first");
    let script = ask(old)?;
    let line = script.lines().find(|line| line.starts_with("chain http"));
    let line = line.with_context(|| format!("it loads nothing first:\n{script}"))?;
    let url = line.split(' ').nth(1).context("a URL")?;
    ensure!(http::get(url)?.expect(200)?.body == loader, "{url} is not the loader");
    // It was the same iPXE after all: the machine is not sent round in a circle.
    let script = ask(old)?;
    ensure!(!script.contains("undionly"), "it loads it again:\n{script}");
    let boots = site.agent.run(&["boots"])?.stdout;
    let boots = String::from_utf8_lossy(&boots);
    ensure!(boots.contains("over HTTP it calls itself") && boots.contains(old), "{boots}");
    Ok(())
}

fn url_of(agent: &Agent, name: &str) -> String {
    agent.url(&format!("/files/{name}"))
}

fn site_with(name: &str, len: usize) -> Result<(Site, Vec<u8>)> {
    let site = Site::start()?;
    let content = noise(len);
    site.agent.cache_add(name, &content)?;
    Ok((site, content))
}

fn curl_reads_files_ranges_and_heads_on_one_connection() -> Result<()> {
    let (site, content) = site_with("images/vmlinuz", 3_000_000)?;
    let url = url_of(&site.agent, "images/vmlinuz");
    let local = |name: &str| site.dir().join(name).display().to_string();
    let mut command = process::system("curl")?;
    command.args(["--silent", "--show-error", "--fail", "--max-time", "20"]);
    let said = "%{http_code} %{num_connects} %{size_download}\n";
    for (arguments, file) in [
        (&["--head"][..], "head"),
        (&[], "whole"),
        (&["--range", "1000000-1999999"], "middle"),
        (&["--range", "-100"], "tail"),
    ] {
        if file != "head" {
            command.arg("--next").args(["--silent", "--show-error", "--fail", "--max-time", "20"]);
        }
        command.args(["--write-out", said, "--output", &local(file)]).args(arguments).arg(&url);
    }
    let said = process::succeed(command)?;
    let expected = "200 1 0\n200 0 3000000\n206 0 1000000\n206 0 100\n";
    ensure!(said == expected, "status, connections made and bytes were:\n{said}");
    let read = |name: &str| std::fs::read(local(name)).map(|bytes| sha256(&bytes));
    ensure!(read("whole")? == sha256(&content), "the whole file is another");
    let middle = content.get(1_000_000..2_000_000).context("3 MB")?;
    ensure!(read("middle")? == sha256(middle), "the range is another");
    let tail = content.get(2_999_900..).context("3 MB")?;
    ensure!(read("tail")? == sha256(tail), "the tail is another");
    Ok(())
}

fn every_size_has_its_exact_length() -> Result<()> {
    let site = Site::start()?;
    for len in [0, 1, 8_191, 8_192, 65_537, 1_000_000] {
        let (name, content) = (format!("images/size-{len}"), noise(len));
        site.agent.cache_add(&name, &content)?;
        let answer = http::get(&url_of(&site.agent, &name))?.expect(200)?;
        ensure!(answer.body == content, "{name}: another content");
        let length = len.to_string();
        ensure!(answer.field("content-length") == Some(&length), "{name}: {:?}", answer.fields);
        ensure!(answer.field("transfer-encoding").is_none(), "{name} is chunked");
        ensure!(answer.field("accept-ranges") == Some("bytes"), "{name}: {:?}", answer.fields);
    }
    Ok(())
}

/// The fields that GET and HEAD must have in common.
fn lasting_fields(answer: &Answer) -> Vec<(String, String)> {
    let mut fields = answer.fields.clone();
    fields.retain(|(name, _)| !matches!(name.as_str(), "date" | "connection" | "x-correlation-id"));
    fields.sort();
    fields
}

fn head_says_what_get_says() -> Result<()> {
    let (site, _) = site_with("bootloaders/ipxe.efi", 12_345)?;
    for path in ["/files/bootloaders/ipxe.efi", "/boot.ipxe", "/autoexec.ipxe", "/files/images/no"]
    {
        let url = site.agent.url(path);
        let get = http::get(&url)?;
        let head = http::send(minreq::head(&url))?;
        ensure!(head.status == get.status, "{path}: {} and {}", head.status, get.status);
        ensure!(head.body.is_empty(), "{path}: HEAD has a body");
        let (head, get) = (lasting_fields(&head), lasting_fields(&get));
        ensure!(head == get, "{path}: HEAD says {head:?}, GET {get:?}");
    }
    Ok(())
}

fn content_types_are_those_that_firmware_accepts() -> Result<()> {
    let site = Site::start()?;
    for (name, expected) in [
        ("bootloaders/snponly.efi", "application/efi"),
        ("images/disk.iso", "application/vnd.efi-iso"),
        ("images/disk.img", "application/vnd.efi-img"),
        ("images/vmlinuz", "application/octet-stream"),
    ] {
        site.agent.cache_add(name, b"x")?;
        let answer = http::get(&url_of(&site.agent, name))?.expect(200)?;
        let kind = answer.field("content-type");
        ensure!(kind == Some(expected), "{name}: {kind:?}");
    }
    Ok(())
}

fn with(url: &str, fields: &[(&str, &str)]) -> Result<Answer> {
    http::send(minreq::Request::new(Method::Get, url).with_headers(fields.iter().copied()))
}

fn a_range_resumes_a_download() -> Result<()> {
    let (site, content) = site_with("images/kernel", 10_000)?;
    let url = url_of(&site.agent, "images/kernel");
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=5000-", 5_000, 10_000),
        ("bytes=9999-", 9_999, 10_000),
        ("bytes=-500", 9_500, 10_000),
        ("bytes=9000-99999", 9_000, 10_000),
    ] {
        let answer = with(&url, &[("range", range)])?.expect(206)?;
        let expected = content.get(from..to).context("within the content")?;
        ensure!(answer.body == expected, "{range}: {} other bytes", answer.body.len());
        let told = format!("bytes {from}-{}/10000", to - 1);
        ensure!(answer.field("content-range") == Some(&told), "{range}: {:?}", answer.fields);
    }
    let answer = with(&url, &[("range", "bytes=10000-")])?.expect(416)?;
    ensure!(answer.field("content-range") == Some("bytes */10000"), "{:?}", answer.fields);
    Ok(())
}

fn validators_guard_a_download_against_other_content() -> Result<()> {
    let (site, content) = site_with("images/kernel", 10_000)?;
    let url = url_of(&site.agent, "images/kernel");
    let tag = http::get(&url)?.expect(200)?.field("etag").context("an ETag")?.to_owned();
    let is_strong = tag.starts_with('"') && tag.ends_with('"');
    ensure!(is_strong && tag.contains(&sha256(&content)), "not the content's hash: {tag}");
    let range = ("range", "bytes=100-199");
    with(&url, &[range, ("if-range", &tag)])?.expect(206)?;
    let whole = with(&url, &[range, ("if-range", "\"other\"")])?.expect(200)?;
    ensure!(whole.body == content, "other content must come from its beginning");
    with(&url, &[range, ("if-match", &tag)])?.expect(206)?;
    with(&url, &[range, ("if-match", "\"other\"")])?.expect(412)?;
    with(&url, &[("if-none-match", &tag)])?.expect(304)?;
    Ok(())
}

fn every_refusal_has_a_body() -> Result<()> {
    let site = Site::start()?;
    for (method, path, status) in [
        (Method::Get, "/files/images/none", 404),
        (Method::Get, "/files/bootloaders/sb/revocations.efi", 404),
        (Method::Get, "/none", 404),
        (Method::Get, "/", 404),
        (Method::Delete, "/boot.ipxe", 405),
        (Method::Post, "/files/images/none", 405),
    ] {
        let answer = http::send(minreq::Request::new(method, site.agent.url(path)))?;
        let answer = answer.expect(status).context(path)?;
        // shim 16.1 waits for ever for the body of an empty 404 (BOOT §9).
        ensure!(!answer.body.is_empty(), "{path}: {status} without a body");
        ensure!(answer.field("content-length").is_some(), "{path}: {:?}", answer.fields);
    }
    Ok(())
}

fn double_slashes_are_collapsed_without_redirect() -> Result<()> {
    let (site, content) = site_with("bootloaders/sb/grubx64.efi", 2_000)?;
    for path in ["/files/bootloaders//sb//grubx64.efi", "//files/bootloaders/sb/grubx64.efi"] {
        let answer = http::get(&site.agent.url(path))?.expect(200).context(path)?;
        ensure!(answer.body == content, "{path}: another content");
    }
    Ok(())
}

/// BOOT §5.2: firmware follows no redirect, so where others would answer 301 the thing itself is answered, or a refusal.
fn no_spelling_of_a_path_is_redirected() -> Result<()> {
    let (site, _) = site_with("bootloaders/sb/grubx64.efi", 1_000)?;
    for (path, status) in [
        ("/files/bootloaders/sb/grubx64.efi/", 200),
        ("/files//bootloaders/sb/grubx64.efi", 200),
        ("//boot.ipxe", 200),
        ("/boot.ipxe/", 200),
        ("/boot/52:54:00:12:34:56/", 200),
        ("/files/bootloaders/sb", 404),
        ("/files/bootloaders/sb/", 404),
        ("/files", 404),
        ("/", 404),
        ("/FILES/bootloaders/sb/grubx64.efi", 404),
        ("/files/bootloaders/sb/../sb/grubx64.efi", 404),
    ] {
        // One that is followed would go unseen.
        let request = minreq::get(site.agent.url(path)).with_max_redirects(0);
        let answer = http::send(request).context(path)?;
        ensure!(answer.status == status, "{path} is answered {}", answer.status);
        ensure!(answer.field("location").is_none(), "{path} leads elsewhere");
        ensure!(!answer.body.is_empty(), "{path} is answered with nothing");
    }
    Ok(())
}

fn every_entrance_leads_to_the_machines_script() -> Result<()> {
    let site = Site::start()?;
    let mac = random_mac();
    let agent = site.agent.url("/");
    for path in ["/boot.ipxe", "/autoexec.ipxe"] {
        let script = http::get(&site.agent.url(path))?.expect(200)?.text();
        ensure!(script.starts_with("#!ipxe\n"), "{path}: not a script:\n{script}");
        ensure!(script.contains(&agent), "{path} does not lead to {agent}:\n{script}");
    }
    let dashed = mac.replace(':', "-");
    let bare = mac.replace(':', "").to_uppercase();
    for path in [
        format!("/boot/{mac}"),
        format!("/boot/{dashed}?arch=x86_64&platform=efi&uuid=&serial=&vendor=QEMU&product=x"),
        format!("/api/v1/boot?mac={bare}&arch=i386&platform=pcbios&serial=S%2F1&product=A%20B"),
    ] {
        let script = http::get(&site.agent.url(&path))?.expect(200)?;
        ensure!(script.text().starts_with("#!ipxe\n"), "{path}: {}", script.text());
    }
    site.controller.wait_for_state(&mac, "discovered")?;
    let nodes = site.controller.get("/nodes")?;
    ensure!(nodes.as_array().is_some_and(|nodes| nodes.len() == 1), "not one node: {nodes}");
    Ok(())
}

/// One machine's question from an address of its own: the agent counts connections by address.
fn ask_from(machine: Ipv4Addr, agent: SocketAddr, mac: &str) -> Result<Vec<u16>> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((machine, 0)).into())?;
    socket.connect(&agent.into())?;
    let mut stream = TcpStream::from(socket);
    write!(stream, "GET /boot/{mac} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
    Ok(http::statuses(&http::drain(&mut stream, MACHINE_LIMIT).0))
}

fn fifty_machines_at_once_get_their_scripts() -> Result<()> {
    let site = Site::start()?;
    let agent: SocketAddr = site.agent.boot();
    let macs: Vec<_> = (0..50).map(|_| random_mac()).collect();
    thread::scope(|scope| {
        let machines: Vec<_> = macs
            .iter()
            .zip(1..)
            .map(|(mac, host)| {
                scope.spawn(move || ask_from(Ipv4Addr::new(127, 7, 0, host), agent, mac))
            })
            .collect();
        for machine in machines {
            let statuses = machine.join().map_err(|_| anyhow!("a machine panicked"))??;
            ensure!(statuses == [200], "{statuses:?}");
        }
        Ok::<(), anyhow::Error>(())
    })?;
    for mac in &macs {
        site.agent.script(mac)?;
    }
    for mac in &macs {
        site.controller.wait_for_state(mac, "discovered")?;
    }
    Ok(())
}
