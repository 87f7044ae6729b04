//! `pureboot-agent doctor` against real trouble, and what ProxyDHCP learns over a restart.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pureboot_tests::disk::SmallDisk;
use pureboot_tests::dnsmasq::{self, Says};
use pureboot_tests::namespace::{BOX_ADDRESS, Namespace};
use pureboot_tests::process::{self, Program};
use pureboot_tests::site::{Agent, Ports, Site};
use pureboot_tests::tftp::{Client, Packet, read_request};
use pureboot_tests::{noise, random, wait};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::need::Need;
use crate::netboot::enable_proxydhcp;
use crate::{Case, case};

/// What the doctor promises.
const DOCTOR_LIMIT: Duration = Duration::from_secs(10);
const OTHER_SERVER: Ipv4Addr = Ipv4Addr::new(10, 73, 0, 2);
const MACHINE: Ipv4Addr = Ipv4Addr::new(10, 73, 0, 60);
const PORTS: Ports = Ports { address: BOX_ADDRESS, boot: 8080, tftp: 69 };
const DNSMASQ: Need = Need::Program("dnsmasq", "dnsmasq-base");

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(a_healthy_site_has_no_failure_with_the_agent_and_without_it),
        case!(a_loader_that_is_not_there_is_named_with_the_command_that_brings_it),
        case!(a_machine_that_loads_the_same_loader_again_and_again_is_explained),
        case!(a_port_that_another_program_holds_is_named_with_its_process),
        case!(a_controller_that_is_away_is_told_from_one_that_is_not_trusted),
        case!(a_rogue_dhcp_server_is_named_with_its_file, Need::Root, Need::Namespaces, DNSMASQ),
        case!(what_a_machine_teaches_survives_kill_9_and_shows, Need::Root, Need::Namespaces),
        case!(
            d3_lessons_hold_while_the_disk_is_full_and_are_kept_when_there_is_room,
            Need::Root,
            Need::Namespaces
        ),
    ]
}

/// What the doctor said: its lines by the name of the check.
struct Said {
    code: Option<i32>,
    findings: BTreeMap<String, Vec<Value>>,
    text: String,
}

impl Said {
    /// Whether a finding on `name` has this severity and all of these words.
    fn expect(&self, name: &str, severity: &str, words: &[&str]) -> Result<()> {
        let findings = self.findings.get(name).map(Vec::as_slice).unwrap_or_default();
        let found = findings.iter().any(|finding| {
            let text = finding.to_string();
            finding.get("severity").and_then(Value::as_str) == Some(severity)
                && words.iter().all(|word| text.contains(word))
        });
        ensure!(found, "no {severity} on '{name}' with {words:?} in:\n{}", self.text);
        Ok(())
    }
}

fn doctor(agent: &Agent) -> Result<Said> {
    let started = Instant::now();
    let output = agent.run(&["doctor", "--json"])?;
    ensure!(started.elapsed() < DOCTOR_LIMIT, "it took {:?}", started.elapsed());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said: Value = serde_json::from_str(&text)
        .with_context(|| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))?;
    let mut findings = BTreeMap::<String, Vec<Value>>::new();
    for finding in said.get("findings").and_then(Value::as_array).context("no findings")? {
        let name = finding.get("name").and_then(Value::as_str).context("a finding has a name")?;
        findings.entry(name.to_owned()).or_default().push(finding.clone());
    }
    let is_healthy = said.get("is_healthy").and_then(Value::as_bool);
    ensure!(is_healthy == Some(output.status.code() == Some(0)), "{:?}: {text}", output.status);
    Ok(Said { code: output.status.code(), findings, text })
}

fn a_healthy_site_has_no_failure_with_the_agent_and_without_it() -> Result<()> {
    let mut site = Site::start()?;
    let said = doctor(&site.agent)?;
    ensure!(said.code == Some(0), "{}", said.text);
    for (name, words) in [
        ("settings", "agent.toml"),
        ("agent", env!("CARGO_PKG_VERSION")),
        ("service tftp", "listens on"),
        ("controller", "is ready"),
        ("clock", "from the controller's"),
        ("dns", "127.0.0.1"),
    ] {
        said.expect(name, "ok", &[words])?;
    }
    let output = site.agent.run(&["doctor"])?;
    let lines = String::from_utf8_lossy(&output.stdout);
    let is_line = |line: &str| {
        ["ok    ", "warn  ", "skip  ", "FAIL  "].iter().any(|word| line.starts_with(word))
            && line.contains("  — ")
    };
    ensure!(lines.lines().count() > 8 && lines.lines().all(is_line), "{lines}");

    // Nothing that it looked at is in the way of the next start.
    site.agent.stop();
    let said = doctor(&site.agent)?;
    ensure!(said.code == Some(0), "{}", said.text);
    said.expect("agent", "warn", &["not running", "pureboot-agent start"])?;
    said.expect("port 0/udp", "ok", &["free on 127.0.0.1"])?;
    site.agent.start()
}

fn a_loader_that_is_not_there_is_named_with_the_command_that_brings_it() -> Result<()> {
    let site = Site::start()?;
    site.agent.cache_add("bootloaders/undionly.kpxe", b"a loader")?;
    // ProxyDHCP is off: nobody knows yet which loaders the site's own server sends machines for.
    doctor(&site.agent)?.expect("loaders", "ok", &["1 are there"])?;
    let status = site.agent.run(&["status"])?;
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    ensure!(!status.contains("missing"), "{status}");
    let request = read_request("snponly-x64.efi", &[]);
    let (answer, _) = Client::new(site.agent.tftp(), Ipv4Addr::LOCALHOST)?.ask(&request)?;
    ensure!(matches!(answer, Packet::Error(1, _)), "it is there: {answer:?}");
    let said = doctor(&site.agent)?;
    let words = ["bootloaders/snponly-x64.efi", "pureboot-agent cache add"];
    said.expect("loaders", "warn", &words)?;
    for other in ["undionly.kpxe", "snponly-arm64.efi"] {
        ensure!(!said.text.contains(other), "nobody misses {other}:\n{}", said.text);
    }
    let status = site.agent.run(&["status"])?;
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    ensure!(words.iter().all(|word| status.contains(word)), "{status}");
    Ok(())
}

fn a_machine_that_loads_the_same_loader_again_and_again_is_explained() -> Result<()> {
    let site = Site::start()?;
    let loader = "snponly-x64.efi";
    site.agent.cache_add(&format!("bootloaders/{loader}"), &noise(70_000))?;
    for _ in 0..2 {
        Client::new(site.agent.tftp(), Ipv4Addr::LOCALHOST)?.read(loader, &[])?;
    }
    let said = doctor(&site.agent)?;
    ensure!(!said.text.contains("a loop"), "two are none:\n{}", said.text);
    Client::new(site.agent.tftp(), Ipv4Addr::LOCALHOST)?.read(loader, &[])?;
    let words = [loader, "three times: a loop", "option 175", "Secure Boot", "signed shim"];
    wait::until("the loop is told", Duration::from_secs(10), || {
        let said = doctor(&site.agent)?;
        Ok(said.expect("boot 127.0.0.1", "warn", &words).is_ok().then_some(()))
    })
}

fn a_port_that_another_program_holds_is_named_with_its_process() -> Result<()> {
    let site = Site::prepare("agent")?;
    let holder = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = holder.local_addr()?.port();
    let ports = Ports { tftp: port, ..Ports::LOOPBACK };
    site.agent.init(&site.id, &site.controller.url(), &site.make_token()?, ports)?;
    let said = doctor(&site.agent)?;
    ensure!(said.code == Some(1), "exit {:?}: {}", said.code, said.text);
    let (name, us) = (format!("port {port}/udp"), format!("(process {})", std::process::id()));
    said.expect(&name, "fail", &["is taken by", &us])?;
    drop(holder);
    doctor(&site.agent)?.expect(&name, "ok", &["free"])
}

/// An authority with a certificate for 127.0.0.1 that holds now, or has expired.
pub(crate) struct Authority {
    pub(crate) ca: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(is_expired: bool) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        if is_expired {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
            params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?.pem();
        Ok(Self { ca: issuer.pem(), certificate, key: key.serialize_pem() })
    }
}

/// A second controller, with TLS; answers its address.
fn start_tls(site: &Site, authority: &Authority) -> Result<(Program, String)> {
    let dir = site.dir().join(format!("tls-{:08x}", random() >> 32));
    fs::create_dir(&dir)?;
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| dir.join(name));
    fs::write(&certificate, &authority.certificate)?;
    fs::write(&key, &authority.key)?;
    let mut command = Command::new(process::own("pureboot-controller")?);
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir.join("data"));
    command.arg("--tls-cert-file").arg(certificate).arg("--tls-key-file").arg(key);
    let program = Program::spawn("controller", command, &dir)?;
    let url = program.line("listening on ", Duration::from_secs(20))?;
    Ok((program, url.trim().to_owned()))
}

fn a_controller_that_is_away_is_told_from_one_that_is_not_trusted() -> Result<()> {
    let mut site = Site::prepare("agent")?;
    site.agent.init(&site.id, &site.controller.url(), &site.make_token()?, Ports::LOOPBACK)?;
    let settings = site.agent.data_dir().join("agent.toml");
    let original = fs::read_to_string(&settings)?;
    let plain = site.controller.url();
    let [good, other, expired] = [false, false, true].map(Authority::new);
    let (good, other, expired) = (good?, other?, expired?);
    let (_trusted, url) = start_tls(&site, &good)?;
    let (_expired, expired_url) = start_tls(&site, &expired)?;
    let port = url.rsplit(':').next().context("a port")?;
    let localhost = format!("https://localhost:{port}");
    let plain_port = plain.replace("http://", "https://");
    for (url, ca, severity, words) in [
        (&url, &good.ca, "ok", "is ready"),
        (&url, &other.ca, "fail", "set ca_file"),
        (&localhost, &good.ca, "fail", "not for 'localhost'"),
        (&expired_url, &expired.ca, "fail", "has expired"),
        (&plain_port, &good.ca, "fail", "does not speak TLS"),
    ] {
        let file = site.dir().join("ca.pem");
        fs::write(&file, ca)?;
        let lines = format!("central_url = \"{url}\"\nca_file = \"{}\"", file.display());
        let old = format!("central_url = \"{plain}\"");
        ensure!(original.contains(&old), "no '{old}' in {original}");
        fs::write(&settings, original.replace(&old, &lines))?;
        doctor(&site.agent)?.expect("controller", severity, &[words])?;
    }
    fs::write(&settings, original)?;
    site.controller.stop();
    let said = doctor(&site.agent)?;
    ensure!(said.code == Some(1), "exit {:?}: {}", said.code, said.text);
    said.expect("controller", "fail", &["the connection is refused", "start the controller"])
}

fn a_rogue_dhcp_server_is_named_with_its_file() -> Result<()> {
    let namespace = Namespace::new()?;
    let other = namespace.add_host(OTHER_SERVER)?;
    namespace.enter(|| {
        let mut site = Site::start_at(PORTS)?;
        enable_proxydhcp(&mut site, &[])?;
        let said = doctor(&site.agent)?;
        said.expect("dhcp lan", "ok", &["this agent answers"])?;
        said.expect("dhcp lan", "warn", &["nobody offered an address"])?;
        let dir = site.dir();
        let says = Says::Rogue("rogue.0", Ipv4Addr::new(10, 73, 0, 9));
        let rogue = other.enter(|| dnsmasq::start("eth0", says, dir))?;
        let words = ["10.73.0.2 leases addresses", "'rogue.0'", "10.73.0.9"];
        let said = wait::until("the rogue is heard", Duration::from_secs(30), || {
            let said = doctor(&site.agent)?;
            said.expect("dhcp lan", "fail", &words)?;
            Ok(Some(said))
        })?;
        ensure!(said.code == Some(1), "exit {:?}", said.code);
        drop(rogue);
        Ok(())
    })
}

/// A DISCOVER of UEFI with this architecture, `secs` seconds after its first.
fn discover(mac: [u8; 6], xid: u32, secs: u8, architecture: u8) -> Vec<u8> {
    let mut packet = vec![0; 240];
    packet.splice(..4, [1, 1, 6, 0]);
    packet.splice(4..8, xid.to_be_bytes());
    packet.splice(8..12, [0, secs, 0x80, 0]);
    packet.splice(28..34, mac);
    packet.splice(236.., [99, 130, 83, 99]);
    packet.extend([53, 1, 1, 93, 2, 0, architecture, 60, 9]);
    packet.extend(b"PXEClient");
    packet.push(255);
    packet
}

/// Whether an offer to `xid` comes, and whether it has option 43.
fn offer(socket: &Socket, xid: u32) -> Result<bool> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut buffer = [0; 2_048];
    while Instant::now() < deadline {
        let len = std::io::Read::read(&mut &*socket, &mut buffer).context("no offer came")?;
        let packet = buffer.get(..len).unwrap_or_default();
        if packet.get(4..8) == Some(&xid.to_be_bytes()) && packet.first() == Some(&2) {
            return Ok(packet.windows(6).any(|window| window == [43, 4, 6, 1, 8, 255]));
        }
    }
    anyhow::bail!("no offer came")
}

fn lessons(agent: &Agent) -> Result<Vec<Value>> {
    let (_, status) = agent.status()?;
    let lessons = status.pointer("/dhcp/lessons").and_then(Value::as_array);
    Ok(lessons.with_context(|| format!("no lessons in {status}"))?.clone())
}

/// Firmware on a machine of its own which takes no notice of offers.
struct Stubborn {
    _machine: Namespace,
    socket: Socket,
    mac: [u8; 6],
    /// The same as text.
    name: String,
}

impl Stubborn {
    fn new(namespace: &Namespace) -> Result<Self> {
        let machine = namespace.add_host(MACHINE)?;
        let socket = machine.enter(|| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            socket.set_broadcast(true)?;
            socket.bind_device(Some(b"eth0"))?;
            socket.bind(&std::net::SocketAddr::from(([0, 0, 0, 0], 68)).into())?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            Ok(socket)
        })?;
        let [a, b, c, ..] = random().to_be_bytes();
        let name = format!("52:54:00:{a:02x}:{b:02x}:{c:02x}");
        Ok(Self { _machine: machine, socket, mac: [0x52, 0x54, 0, a, b, c], name })
    }

    fn ask(&self, xid: u32, secs: u8, architecture: u8) -> Result<()> {
        let everybody = std::net::SocketAddr::from(([255; 4], 67)).into();
        self.socket.send_to(&discover(self.mac, xid, secs, architecture), &everybody)?;
        Ok(())
    }

    /// Ignores two offers, and so gets the third in the other form; returns what the agent has learned.
    fn teach(&self, agent: &Agent) -> Result<Vec<Value>> {
        let mut forms = Vec::new();
        for (xid, secs) in [(1, 0), (2, 2), (3, 4)] {
            self.ask(xid, secs, 7)?;
            forms.push(offer(&self.socket, xid)?);
            thread::sleep(Duration::from_millis(2_300));
        }
        ensure!(forms == [true, true, false], "option 43 in the offers: {forms:?}");
        let taught = lessons(agent)?;
        let is_about =
            |lesson: &Value| lesson.get("mac").and_then(Value::as_str) == Some(&self.name);
        ensure!(taught.len() == 1 && taught.iter().all(is_about), "{taught:?}");
        Ok(taught)
    }
}

fn d3_lessons_hold_while_the_disk_is_full_and_are_kept_when_there_is_room() -> Result<()> {
    /// More than the pause after an attempt to write.
    const SAVE_LIMIT: Duration = Duration::from_secs(15);
    let namespace = Namespace::new()?;
    let stubborn = Stubborn::new(&namespace)?;
    namespace.enter(|| {
        let mut site = Site::prepare("agent")?;
        let disk = SmallDisk::mount(site.agent.data_dir(), 32)?;
        let token = site.make_token()?;
        site.agent.init(&site.id, &site.controller.url(), &token, PORTS)?;
        site.agent.start()?;
        site.wait_until_online()?;
        enable_proxydhcp(&mut site, &[])?;
        disk.fill()?;
        stubborn.teach(&site.agent)?;
        let file = site.agent.data_dir().join("state").join("lessons.json");
        ensure!(!file.exists(), "it was written to a full disk");
        thread::sleep(SAVE_LIMIT);
        let log = site.agent.program()?.log();
        let told = log.lines().filter(|line| line.contains("lessons.json")).count();
        ensure!(told == 1, "the log tells {told} times of a full disk:\n{log}");
        disk.free()?;
        wait::until("the lesson is on disk", SAVE_LIMIT, || {
            let held = fs::read_to_string(&file);
            Ok(held.is_ok_and(|held| held.contains(&stubborn.name)).then_some(()))
        })
    })
}

fn what_a_machine_teaches_survives_kill_9_and_shows() -> Result<()> {
    let namespace = Namespace::new()?;
    let stubborn = Stubborn::new(&namespace)?;
    let text = &stubborn.name;
    namespace.enter(|| {
        let mut site = Site::start_at(PORTS)?;
        enable_proxydhcp(&mut site, &[])?;
        let taught = stubborn.teach(&site.agent)?;
        let file = site.agent.data_dir().join("state").join("lessons.json");
        wait::until("the lesson is on disk", Duration::from_secs(5), || {
            Ok(fs::read_to_string(&file).is_ok_and(|held| held.contains(text)).then_some(()))
        })?;

        site.agent.stop();
        site.agent.start()?;
        ensure!(lessons(&site.agent)? == taught, "it is not the same after the restart");
        stubborn.ask(9, 0, 7)?;
        ensure!(!offer(&stubborn.socket, 9)?, "option 43 was sent to a machine that ignores it");
        let status = site.agent.run(&["status"])?;
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        ensure!(status.contains(&format!("{text} ignored two offers")), "{status}");

        // A machine that nothing can start is told of, too.
        stubborn.ask(10, 0, 2)?;
        wait::until("the refusal is told", Duration::from_secs(5), || {
            let status = site.agent.run(&["status"])?;
            let status = String::from_utf8_lossy(&status.stdout).into_owned();
            ensure!(status.contains("no loader for Itanium"), "{status}");
            Ok(Some(()))
        })?;
        doctor(&site.agent)?.expect(&format!("boot {text}"), "warn", &["Itanium"])
    })
}
