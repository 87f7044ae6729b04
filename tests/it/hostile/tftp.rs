//! Hostile datagrams: FAULTS F1-F4 and F11-F13.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendmsg, socket,
};
use pureboot_tests::namespace::{BOX_ADDRESS, Namespace};
use pureboot_tests::site::{Ports, Site};
use pureboot_tests::tftp::{Client, Packet, read_request, request};
use pureboot_tests::{noise, wait};

use super::still_boots;
use crate::need::Need;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(f1_datagrams_that_are_not_tftp_get_no_answer),
        case!(f2_malformed_requests_are_dropped_or_refused_with_error_4),
        case!(f3_nonsense_in_options_is_clamped_or_refused_with_error_8),
        case!(f4_other_modes_than_octet_are_refused_with_a_text),
        case!(f11_sources_that_would_loop_get_no_answer, Need::Root, Need::Namespaces),
        case!(
            f11_who_asks_from_another_network_is_shown_to_the_operator,
            Need::Root,
            Need::Namespaces
        ),
        case!(f12_a_write_is_refused_and_changes_nothing),
        case!(f13_names_are_keys_and_never_paths),
    ]
}

const FILE: &str = "honest.efi";

fn site_with_file() -> Result<(Site, Vec<u8>)> {
    let site = Site::start()?;
    let content = noise(3_000);
    site.agent.cache_add(&format!("bootloaders/{FILE}"), &content)?;
    Ok((site, content))
}

fn client(site: &Site) -> Result<Client> {
    Client::new(site.agent.tftp(), Ipv4Addr::LOCALHOST)
}

/// Sends a hostile datagram and then asks, from the same socket, for what does not exist: the answers before the honest
/// "not found" are what the hostile one got.
fn answers_to(site: &Site, hostile: &[u8]) -> Result<Vec<Packet>> {
    let client = client(site)?;
    client.send(hostile)?;
    client.send(&read_request("images/honest-miss", &[]))?;
    let mut answers = Vec::new();
    loop {
        match client.receive()?.0 {
            Packet::Error(1, _) => return Ok(answers),
            answer => answers.push(answer),
        }
    }
}

fn serves_on(site: &mut Site, content: &[u8]) -> Result<()> {
    let download = client(site)?.read(FILE, &[("blksize", "1428")])?;
    ensure!(download.bytes == content, "the honest file has changed");
    still_boots(site)
}

fn f1_datagrams_that_are_not_tftp_get_no_answer() -> Result<()> {
    let (mut site, content) = site_with_file()?;
    let opcode = |opcode: u16, rest: &[u8]| [&opcode.to_be_bytes(), rest].concat();
    let hostile = [
        vec![],
        vec![0],
        vec![0, 1],
        vec![0, 1, 0],
        opcode(0, b"x\0octet\0"),
        opcode(7, b"x\0octet\0"),
        opcode(0x0100, b"x\0octet\0"),
        opcode(0xffff, &[0xff; 100]),
        opcode(3, b"\0\x01data"),
        opcode(4, b"\0\x01"),
        opcode(5, b"\0\x01no\0"),
        opcode(6, b"blksize\x00512\0"),
        vec![0xff; 65_507],
        opcode(1, &[b'a'; 65_000]),
    ];
    for datagram in hostile {
        let answers = answers_to(&site, &datagram)?;
        let start = datagram.get(..datagram.len().min(8)).unwrap_or_default();
        // A long read request is a request: it may be told so (F2).
        let harmless = answers.iter().all(|answer| matches!(answer, Packet::Error(4, _)));
        let is_request = datagram.starts_with(&[0, 1]) && datagram.len() > 3;
        ensure!(
            answers.is_empty() || is_request && harmless,
            "{} bytes {start:?}… were answered {answers:?}",
            datagram.len()
        );
    }
    serves_on(&mut site, &content)
}

fn f2_malformed_requests_are_dropped_or_refused_with_error_4() -> Result<()> {
    let (mut site, content) = site_with_file()?;
    let long = "n".repeat(300);
    let many: Vec<String> = (0..200).map(|number| format!("option{number}")).collect();
    let many =
        [&[FILE, "octet"], many.iter().map(String::as_str).collect::<Vec<_>>().as_slice()].concat();
    let hostile = [
        b"\0\x01honest.efi".to_vec(),
        b"\0\x01honest.efi\0".to_vec(),
        b"\0\x01honest.efi\0octet".to_vec(),
        b"\0\x01\0octet\0".to_vec(),
        b"\0\x01\0\0".to_vec(),
        b"\0\x01honest.efi\0\0".to_vec(),
        b"\0\x01honest.efi\0octet\0blksize".to_vec(),
        b"\0\x01honest.efi\0octet\0blksize\x001428".to_vec(),
        request(1, &[&long, "octet"]),
        request(1, &[FILE, &long]),
        request(1, &[FILE, "octet", "blksize", &"9".repeat(600)]),
        request(1, &many),
    ];
    for datagram in hostile {
        for answer in answers_to(&site, &datagram)? {
            ensure!(
                matches!(answer, Packet::Error(1 | 4 | 8, _)),
                "{:?} was answered {answer:?}",
                String::from_utf8_lossy(&datagram)
            );
        }
    }
    serves_on(&mut site, &content)
}

fn f3_nonsense_in_options_is_clamped_or_refused_with_error_8() -> Result<()> {
    let (mut site, content) = site_with_file()?;
    let values =
        ["0", "7", "256", "65465", "65535", "65536", "1e9", "-1", "", " 512", "0x200", "+8"];
    let bounds = [("blksize", 8, 65_464), ("windowsize", 1, 65_535), ("timeout", 1, 255)];
    for (option, min, max) in bounds {
        for value in values {
            let client = client(&site)?;
            let (answer, _) = client.ask(&read_request(FILE, &[(option, value)]))?;
            let agreed = answer.option(option).map(str::parse::<u64>).transpose();
            let agreed = agreed.with_context(|| format!("{option}={value}: {answer:?}"))?;
            let asked = value.parse::<u64>().ok();
            let is_sane = match (&answer, agreed) {
                (Packet::Error(8, _), _) => true,
                // The option is as if it had not been asked for.
                (Packet::Data(1, data), _) => data.len() == 512,
                // RFC 2349: the timeout is echoed equal; RFC 2348 and 7440: the server may choose less, never more.
                (Packet::Oack(_), Some(agreed)) => {
                    (min..=max).contains(&agreed)
                        && asked.is_some_and(|asked| agreed <= asked)
                        && (option != "timeout" || asked == Some(agreed))
                }
                _ => false,
            };
            ensure!(is_sane, "{option}={value} was answered {answer:?}");
        }
    }
    let twice = [("blksize", "1024"), ("blksize", "8")];
    let (answer, _) = client(&site)?.ask(&read_request(FILE, &twice))?;
    ensure!(
        matches!(answer, Packet::Error(8, _)) || answer.option("blksize") == Some("1024"),
        "the first of two counts, or none: {answer:?}"
    );
    serves_on(&mut site, &content)
}

fn f4_other_modes_than_octet_are_refused_with_a_text() -> Result<()> {
    let (mut site, content) = site_with_file()?;
    for mode in ["mail", "MAIL", "binary", "octets", "netasci"] {
        let (answer, _) = client(&site)?.ask(&request(1, &[FILE, mode]))?;
        let is_refused = matches!(&answer, Packet::Error(_, text) if !text.is_empty());
        ensure!(is_refused, "mode {mode} was answered {answer:?}");
    }
    for mode in ["netascii", "NetASCII"] {
        let (answer, _) = client(&site)?.ask(&request(1, &[FILE, mode]))?;
        // RFC 764: a converted block holds no bare LF, and CR only before LF or NUL.
        let is_right = match &answer {
            Packet::Error(_, text) => !text.is_empty(),
            Packet::Data(1, data) => {
                let pairs = data.windows(2);
                data.first() != Some(&b'\n')
                    && pairs.clone().all(|pair| pair != [b'\r', b'\r'])
                    && pairs
                        .into_iter()
                        .all(|pair| !matches!(pair, [before, b'\n'] if *before != b'\r'))
            }
            _ => false,
        };
        ensure!(is_right, "mode {mode} was answered {answer:?}");
    }
    let octet = client(&site)?.ask(&request(1, &[FILE, "OCTET"]))?.0;
    ensure!(matches!(octet, Packet::Data(1, _)), "mode names have no case: {octet:?}");
    serves_on(&mut site, &content)
}

/// Whether a machine at `source` is answered by the agent on the box, asked once.
fn is_answered(machine: &Namespace, source: Ipv4Addr) -> Result<bool> {
    machine.enter(|| {
        let socket = UdpSocket::bind((source, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.send_to(&read_request(FILE, &[]), (BOX_ADDRESS, 69))?;
        Ok(socket.recv_from(&mut [0; 600]).is_ok())
    })
}

fn f11_who_asks_from_another_network_is_shown_to_the_operator() -> Result<()> {
    const NEAR: Ipv4Addr = Ipv4Addr::new(10, 73, 0, 9);
    const FAR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 9);
    let namespace = Namespace::new()?;
    let machine = namespace.add_host(NEAR)?;
    machine.ip(&format!("addr add {FAR}/32 dev eth0"))?;
    namespace.ip("route add 10.99.0.0/24 dev lan")?;
    namespace.enter(|| {
        let mut site = Site::start_at(Ports { address: BOX_ADDRESS, boot: 8080, tftp: 69 })?;
        site.agent.cache_add(&format!("bootloaders/{FILE}"), &noise(3_000))?;
        ensure!(is_answered(&machine, NEAR)?, "a machine on the link is not answered");
        for _ in 0..3 {
            ensure!(!is_answered(&machine, FAR)?, "a machine of another network is answered");
        }
        // The operator learns of it in three places, and what to do in two.
        let told = site.agent.program()?.log();
        let lines = told.lines().filter(|line| line.contains("10.99.0.9"));
        ensure!(lines.filter(|line| line.contains("allow_from = [")).count() == 1, "{told}");
        let (_, status) = site.agent.status()?;
        let refused = status.pointer("/tftp_refused/0").with_context(|| status.to_string())?;
        ensure!(refused["reason"] == "elsewhere" && refused["count"] == 3, "{refused}");
        let status = site.agent.run(&["status"])?.stdout;
        let status = String::from_utf8_lossy(&status);
        ensure!(status.contains("refused     3 TFTP requests, last from 10.99.0.9"), "{status}");
        let doctor = site.agent.run(&["doctor"])?.stdout;
        let doctor = String::from_utf8_lossy(&doctor);
        let finding = doctor.lines().find(|line| line.contains("tftp requests"));
        let finding = finding.with_context(|| doctor.to_string())?;
        ensure!(finding.contains("10.99.0.9") && finding.contains("allow_from = ["), "{finding}");

        // N14: the host gets an address in that network, and loses it.
        namespace.ip("addr add 10.99.0.1/24 dev lan")?;
        wait::until("the new network is known", Duration::from_secs(5), || {
            Ok(is_answered(&machine, FAR)?.then_some(()))
        })?;
        namespace.ip("addr del 10.99.0.1/24 dev lan")?;
        namespace.ip("route replace 10.99.0.0/24 dev lan")?;
        wait::until("the old network is forgotten", Duration::from_secs(10), || {
            Ok((!is_answered(&machine, FAR)?).then_some(()))
        })?;

        site.agent.stop();
        let settings = site.agent.data_dir().join("agent.toml");
        let text = std::fs::read_to_string(&settings)?;
        let allowed = text.replace("allow_from = []", "allow_from = [\"10.99.0.0/24\"]");
        ensure!(allowed != text, "no allow_from in:\n{text}");
        std::fs::write(&settings, allowed)?;
        let checked = site.agent.run(&["check-config"])?.stdout;
        let checked = String::from_utf8_lossy(&checked);
        ensure!(checked.contains("own networks and 10.99.0.0/24"), "{checked}");
        site.agent.start()?;
        ensure!(is_answered(&machine, FAR)?, "the operator's network is not answered");
        Ok(())
    })
}

/// An IPv4 datagram with a forged source (RFC 791 §3.1, RFC 768); the kernel fills in checksum and length of the header.
fn forge(source: SocketAddrV4, target: SocketAddrV4, payload: &[u8]) -> Result<Vec<u8>> {
    let udp_len = u16::try_from(8 + payload.len())?;
    let mut datagram = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    datagram.extend(source.ip().octets());
    datagram.extend(target.ip().octets());
    datagram.extend(source.port().to_be_bytes());
    datagram.extend(target.port().to_be_bytes());
    datagram.extend(udp_len.to_be_bytes());
    // No checksum: RFC 768 allows it.
    datagram.extend([0, 0]);
    datagram.extend(payload);
    Ok(datagram)
}

fn f11_sources_that_would_loop_get_no_answer() -> Result<()> {
    let namespace = Namespace::new()?;
    namespace.enter(|| {
        let mut site = Site::start_at(Ports { address: BOX_ADDRESS, boot: 8080, tftp: 69 })?;
        let content = noise(3_000);
        site.agent.cache_add(&format!("bootloaders/{FILE}"), &content)?;
        let agent = SocketAddrV4::new(BOX_ADDRESS, 69);
        let ask = read_request(FILE, &[]);

        // Ports where somebody would answer the answer: echo and chargen, DNS.
        let low = [7, 19, 53].map(|port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)));
        for socket in &low {
            let socket = socket.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
            socket.send_to(&ask, agent)?;
        }
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw)?;
        let sources = [
            (Ipv4Addr::LOCALHOST, 0),
            (Ipv4Addr::LOCALHOST, 69),
            (BOX_ADDRESS, 69),
            (BOX_ADDRESS, 0),
            (Ipv4Addr::new(10, 73, 0, 255), 2_000),
            (Ipv4Addr::BROADCAST, 2_000),
            (Ipv4Addr::new(224, 0, 0, 1), 2_000),
            (Ipv4Addr::UNSPECIFIED, 2_000),
        ];
        for (address, port) in sources {
            let datagram = forge(SocketAddrV4::new(address, port), agent, &ask)?;
            let to = SockaddrIn::from(agent);
            // The kernel itself refuses some of these; that is as good.
            _ = sendmsg(
                raw.as_raw_fd(),
                &[IoSlice::new(&datagram)],
                &[],
                MsgFlags::empty(),
                Some(&to),
            );
        }
        // Asked after all of them and answered: the others have been handled by now.
        let honest = Client::new(agent.into(), Ipv4Addr::LOCALHOST)?;
        ensure!(honest.read(FILE, &[])?.bytes == content, "the honest file has changed");
        for socket in low.into_iter().flatten() {
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            let answer = socket.recv_from(&mut [0; 600]);
            ensure!(answer.is_err(), "{:?} was answered", socket.local_addr());
        }
        let log = site.agent.program()?.log();
        ensure!(!log.contains("panicked"), "a panic in the log");
        still_boots(&mut site)
    })
}

fn f12_a_write_is_refused_and_changes_nothing() -> Result<()> {
    let (mut site, content) = site_with_file()?;
    for name in [FILE, "bootloaders/new.efi", "/etc/passwd", "../agent.toml"] {
        let client = client(&site)?;
        let (answer, from) = client.ask(&request(2, &[name, "octet", "tsize", "4"]))?;
        ensure!(matches!(answer, Packet::Error(2, _)), "writing {name} was answered {answer:?}");
        client.send_to(b"\0\x03\0\x01evil", from)?;
    }
    let (answer, _) = client(&site)?.ask(&read_request("bootloaders/new.efi", &[]))?;
    ensure!(matches!(answer, Packet::Error(1, _)), "a written file is there: {answer:?}");
    serves_on(&mut site, &content)
}

fn f13_names_are_keys_and_never_paths() -> Result<()> {
    let (mut site, content) = site_with_file()?;
    let data_dir = site.agent.data_dir().display().to_string();
    let absolute = format!("{data_dir}/agent.toml");
    let long = "../".repeat(120) + "etc/passwd";
    let names: [&[u8]; 19] = [
        b"../../etc/passwd",
        b"..\\..\\agent.toml",
        b"/etc/passwd",
        b"//etc//passwd",
        b"C:\\boot.ini",
        b"%2e%2e/agent.toml",
        b"bootloaders/../../agent.toml",
        b"bootloaders/..",
        b"bootloaders/.",
        b"bootloaders/",
        b"bootloaders",
        b"....//....//agent.toml",
        b"bootloaders/\xc0\xae\xc0\xae/agent.toml",
        b"bootloaders/honest.efi/",
        b"bootloaders/./honest.efi",
        b"state/site.db",
        b"credential",
        absolute.as_bytes(),
        long.as_bytes(),
    ];
    for name in names {
        let datagram = [b"\0\x01", name, b"\0octet\0"].concat();
        let shown = String::from_utf8_lossy(name);
        let (answer, _) = client(&site)?.ask(&datagram).with_context(|| shown.to_string())?;
        ensure!(matches!(answer, Packet::Error(1 | 2 | 4, _)), "{shown} was answered {answer:?}");
    }
    serves_on(&mut site, &content)
}
