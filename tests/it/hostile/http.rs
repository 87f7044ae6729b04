//! Hostile connections and requests: FAULTS H1-H6, H10, H11, H14 and H15, at the agent and, where it has the same door, at the
//! controller.

use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pureboot_tests::http::{self, drain, exchange, statuses};
use pureboot_tests::site::{Site, boot_of};
use pureboot_tests::{noise, random_mac};
use serde_json::json;
use socket2::{Domain, Socket, Type};

use super::still_boots;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(h1_half_sent_headers_do_not_keep_honest_machines_out),
        case!(h2_an_endless_header_is_cut),
        case!(h3_absurd_lengths_are_refused),
        case!(h4_a_body_that_never_comes_is_given_up),
        case!(h5_one_request_in_one_response_out),
        case!(h6_a_reset_after_the_request_harms_nobody),
        case!(h10_absurd_ranges_are_refused_or_ignored),
        case!(h11_other_protocols_are_turned_away),
        case!(h14_paths_that_climb_lead_nowhere),
        case!(h15_a_mac_has_one_form_or_is_refused),
    ]
}

/// What a refusal may take: header and body deadlines are 5 s and 10 s (FAULTS H1, H4), and a busy machine adds its own.
const REFUSAL_LIMIT: Duration = Duration::from_secs(20);

/// What a body may take (FAULTS H4).
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// What an honest request may take beside hostile ones, on a busy machine.
const HONEST_LIMIT: Duration = Duration::from_secs(2);

/// What a busy machine adds to a deadline.
const SLACK: Duration = Duration::from_secs(4);

/// A listener, and a path below which it takes JSON by POST.
#[derive(Clone, Copy)]
struct Door {
    name: &'static str,
    address: SocketAddr,
    post: &'static str,
    get: &'static str,
    /// Connections that one address may have.
    places_per_address: usize,
    /// What the head of a request may take.
    head_limit: Duration,
}

fn doors(site: &Site) -> [Door; 2] {
    [
        Door {
            name: "agent",
            address: site.agent.boot(),
            post: "/api/v1/report",
            get: "/healthz",
            places_per_address: 16,
            head_limit: Duration::from_secs(5),
        },
        Door {
            name: "controller",
            address: site.controller.address(),
            post: "/api/v1/agents/register",
            get: "/healthz",
            places_per_address: 128,
            head_limit: Duration::from_secs(10),
        },
    ]
}

impl Door {
    /// Says `bytes` and returns the statuses that came back until the connection was closed.
    fn say(&self, bytes: &[u8]) -> Result<Vec<u16>> {
        let (received, is_closed) = exchange(self.address, bytes, REFUSAL_LIMIT)?;
        let statuses = statuses(&received);
        ensure!(is_closed, "the {} kept the connection after {statuses:?}", self.name);
        Ok(statuses)
    }

    fn is_open(&self) -> Result<()> {
        let url = format!("http://{}{}", self.address, self.get);
        http::get(&url)?.expect(200).with_context(|| format!("the {} afterwards", self.name))?;
        Ok(())
    }
}

/// Tries every request at both doors; each must be refused with one of `allowed`, or by closing without a word.
fn refused(requests: impl Fn(&Door) -> Vec<Vec<u8>>, allowed: &[u16]) -> Result<()> {
    let mut site = Site::start()?;
    for door in doors(&site) {
        for request in requests(&door) {
            let statuses = door.say(&request)?;
            let start = request.get(..request.len().min(200)).unwrap_or_default();
            let start = String::from_utf8_lossy(start).into_owned();
            ensure!(
                statuses.len() <= 1 && statuses.iter().all(|status| allowed.contains(status)),
                "the {} answered {statuses:?} to {start:?}",
                door.name
            );
        }
        door.is_open()?;
    }
    ensure!(site.controller.program()?.is_running()?, "the controller has died");
    still_boots(&mut site)
}

fn connect_from(source: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&to.into(), REFUSAL_LIMIT)?;
    Ok(socket.into())
}

/// Whether the other side has neither said nor ended anything.
fn is_held(stream: &TcpStream) -> Result<bool> {
    stream.set_nonblocking(true)?;
    let outcome = stream.peek(&mut [0]);
    stream.set_nonblocking(false)?;
    Ok(outcome.is_err_and(|error| error.kind() == ErrorKind::WouldBlock))
}

fn h1_half_sent_headers_do_not_keep_honest_machines_out() -> Result<()> {
    // All that they may hold together leaves room for others; all that they ask for does not.
    const ATTACKERS: u8 = 7;
    let mut site = Site::start()?;
    for door in doors(&site) {
        let mut slow = Vec::new();
        for attacker in 1..=ATTACKERS {
            for _ in 0..door.places_per_address + door.places_per_address / 4 {
                let connection = connect_from(Ipv4Addr::new(127, 0, 2, attacker), door.address);
                // A refused connection is a defence that works.
                if let Ok(mut stream) = connection {
                    _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ");
                    slow.push(stream);
                }
            }
        }
        let begun = Instant::now();
        let request = format!("GET {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", door.get);
        let mut honest = connect_from(Ipv4Addr::new(127, 0, 3, 1), door.address)?;
        honest.write_all(request.as_bytes())?;
        let (received, _) = drain(&mut honest, HONEST_LIMIT);
        let held = slow.iter().map(is_held).collect::<Result<Vec<_>>>()?;
        let held = held.into_iter().filter(|is_held| *is_held).count();
        let (name, answer) = (door.name, statuses(&received));
        ensure!(answer == [200], "the {name} with {held} half requests answered {answer:?}");
        let places = usize::from(ATTACKERS) * door.places_per_address;
        ensure!(
            held > places / 2 && held <= places,
            "{ATTACKERS} addresses with {} places each at the {name} hold {held}",
            door.places_per_address
        );
        let limit = door.head_limit + SLACK;
        for mut stream in slow {
            let (_, is_closed) = drain(&mut stream, limit.saturating_sub(begun.elapsed()));
            ensure!(is_closed, "the {name} holds half a request after {limit:?}");
        }
    }
    still_boots(&mut site)
}

fn h2_an_endless_header_is_cut() -> Result<()> {
    let flood = |door: &Door| {
        let line = format!("GET {} HTTP/1.1\r\nHost: x\r\nX-Long: ", door.get).into_bytes();
        let many: String = (0..5_000).map(|number| format!("X-{number}: y\r\n")).collect();
        vec![
            [line, vec![b'a'; 1 << 20]].concat(),
            format!("GET {} HTTP/1.1\r\nHost: x\r\n{many}\r\n", door.get).into_bytes(),
            [b"GET /".to_vec(), vec![b'a'; 1 << 20]].concat(),
        ]
    };
    refused(flood, &[400, 408, 413, 414, 431])
}

fn h3_absurd_lengths_are_refused() -> Result<()> {
    let lengths = |door: &Door| {
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n",
            door.post
        );
        let request = |fields: &str| format!("{head}{fields}\r\n{{}}").into_bytes();
        vec![
            request("Content-Length: 9223372036854775807\r\n"),
            request("Content-Length: 18446744073709551615\r\n"),
            request("Content-Length: 42949672960\r\n"),
            request("Content-Length: +5\r\n"),
            request("Content-Length: xyz\r\n"),
            request("Content-Length: -1\r\n"),
            request("Content-Length: 2\r\nContent-Length: 3\r\n"),
            request("Content-Length: 2, 3\r\n"),
        ]
    };
    // hyper counts a length beyond its own limit among heads that are too large: 431.
    refused(lengths, &[400, 408, 413, 431])
}

fn h4_a_body_that_never_comes_is_given_up() -> Result<()> {
    let mut site = Site::start()?;
    for door in doors(&site) {
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{",
            door.post
        );
        let mut waiting = TcpStream::connect(door.address)?;
        waiting.write_all(request.as_bytes())?;
        door.is_open()?;
        let (received, is_closed) = drain(&mut waiting, BODY_LIMIT + SLACK);
        let statuses = statuses(&received);
        ensure!(statuses == [408], "the {} answered {statuses:?}", door.name);
        ensure!(is_closed, "the {} waits for the body of a request that it refused", door.name);
    }
    still_boots(&mut site)
}

fn h5_one_request_in_one_response_out() -> Result<()> {
    // The path is one that answers 200: a refusal is the framing's and nothing else's. Without `Connection: close` a second
    // answer would show.
    let smuggled = |door: &Door| {
        let head = format!("GET {} HTTP/1.1\r\nHost: x\r\n", door.get);
        let request = |fields: &str, body: &str| format!("{head}{fields}\r\n{body}").into_bytes();
        let chunked = format!("0\r\n\r\n{head}\r\n");
        vec![
            request("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", &chunked),
            request("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", &chunked),
            request("Transfer-Encoding: identity\r\nContent-Length: 2\r\n", "{}"),
            request("Transfer-Encoding: xchunked\r\n", &chunked),
            request("Transfer-Encoding : chunked\r\n", &chunked),
            request("Content-Length : 2\r\n", "{}"),
            request("X-Folded: a\r\n b\r\n", ""),
        ]
    };
    refused(smuggled, &[400, 501])?;
    // RFC 9112 §2.2 lets a server take a bare LF for the end of a line; one answer it is in any case.
    let bare = |door: &Door| {
        vec![format!("GET {} HTTP/1.1\nHost: x\nConnection: close\n\n", door.get).into_bytes()]
    };
    refused(bare, &[200, 400])
}

fn h6_a_reset_after_the_request_harms_nobody() -> Result<()> {
    let mut site = Site::start()?;
    for door in doors(&site) {
        for _ in 0..50 {
            let mut stream = TcpStream::connect(door.address)?;
            stream.write_all(format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", door.get).as_bytes())?;
            let socket = Socket::from(stream);
            socket.set_linger(Some(Duration::ZERO))?;
        }
        door.is_open()?;
    }
    let logs = [site.agent.program()?.log(), site.controller.program()?.log()];
    ensure!(!logs.concat().contains("panicked"), "a panic in the log");
    still_boots(&mut site)
}

fn h10_absurd_ranges_are_refused_or_ignored() -> Result<()> {
    let mut site = Site::start()?;
    let content = noise(10_000);
    site.agent.cache_add("images/kernel", &content)?;
    let hundred = (0..100).map(|at| format!("{at}-{at}")).collect::<Vec<_>>().join(",");
    for range in [
        format!("bytes={hundred}"),
        "bytes=0-0,5-5".to_owned(),
        "bytes=18446744073709551615-".to_owned(),
        "bytes=18446744073709551616-18446744073709551617".to_owned(),
        "bytes=0-18446744073709551616".to_owned(),
        "bytes=500-100".to_owned(),
        "bytes=-0".to_owned(),
        "bytes=-".to_owned(),
        "bytes=a-b".to_owned(),
        "lines=1-2".to_owned(),
        "bytes".to_owned(),
    ] {
        let url = site.agent.url("/files/images/kernel");
        let answer = http::send(minreq::get(url).with_header("range", &range))?;
        let is_sane = match answer.status {
            200 => answer.body == content,
            // 0-2^64 reads as "from the beginning to the end", which is the content.
            206 => answer.body == content && range.starts_with("bytes=0-1"),
            status => status == 416 || status == 400,
        };
        ensure!(is_sane, "{range}: {} with {} bytes", answer.status, answer.body.len());
    }
    still_boots(&mut site)
}

fn h11_other_protocols_are_turned_away() -> Result<()> {
    let mut site = Site::start()?;
    let agent = doors(&site)[0];
    let other: [(&[u8], &[u16]); 9] = [
        (b"GET /healthz\r\n\r\n", &[400, 505]),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[400, 505]),
        (b"GET /healthz HTTP/3.0\r\nHost: x\r\n\r\n", &[400, 505]),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\0\0\0\0\0\0\0\0", &[400]),
        (
            b"CONNECT 192.0.2.1:80 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            &[400, 404, 405, 501],
        ),
        (b"TRACE /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", &[400, 404, 405, 501]),
        (b"FROB /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", &[400, 404, 405, 501]),
        (
            b"GET http://192.0.2.1/none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            &[400, 404, 421],
        ),
        (b"\0\0\0\0\r\n\r\n", &[400]),
    ];
    for (bytes, allowed) in other {
        let statuses = agent.say(bytes)?;
        ensure!(
            statuses.len() <= 1 && statuses.iter().all(|status| allowed.contains(status)),
            "{:?} was answered {statuses:?}",
            String::from_utf8_lossy(bytes)
        );
    }
    // Pipelining is HTTP/1.1: both are answered in order, or the connection ends after the first.
    let two = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let statuses = agent.say(two.as_bytes())?;
    ensure!(matches!(statuses.as_slice(), [200, 404] | [200]), "two requests, {statuses:?}");
    still_boots(&mut site)
}

fn h14_paths_that_climb_lead_nowhere() -> Result<()> {
    let mut site = Site::start()?;
    site.agent.cache_add("images/kernel", b"x")?;
    let agent = doors(&site)[0];
    for path in [
        "/files/../agent.toml",
        "/files/bootloaders/../../agent.toml",
        "/files/%2e%2e/agent.toml",
        "/files/bootloaders/%2e%2e%2fagent.toml",
        "/files/bootloaders/%252e%252e/agent.toml",
        "/files/bootloaders/..%5cagent.toml",
        "/files/bootloaders/..;/agent.toml",
        "/files/images/kernel;x",
        "/files/images/kernel%00",
        "/files/images/%6bernel%00.efi",
        "/files/images/\u{e9}",
        "/files/images",
        "/files/",
        "/files//etc/passwd",
        "/boot/../../etc/passwd/none",
        "/api/v1/nodes/..%2f..%2fadmin/event",
        "/api/v1/agent/status",
        "/api/v1/agent/cache",
        "/metrics",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let statuses = agent.say(request.as_bytes())?;
        let is_refused = matches!(statuses.as_slice(), [400 | 404 | 405] | []);
        ensure!(is_refused, "{path} was answered {statuses:?}");
    }
    still_boots(&mut site)
}

fn h15_a_mac_has_one_form_or_is_refused() -> Result<()> {
    let mut site = Site::start()?;
    let mac = random_mac();
    let bare = mac.replace(':', "");
    let good =
        [mac.clone(), mac.to_uppercase(), mac.replace(':', "-"), bare.clone(), bare.to_uppercase()];
    for form in &good {
        site.agent.script(form).with_context(|| form.clone())?;
    }
    // A session of an honest machine, so that nothing but the address can be what is wrong.
    let boot = boot_of(&site.agent.script(&mac)?)?;
    for form in &good {
        site.agent.report(form, &boot, "boot_started", None).with_context(|| form.clone())?;
    }
    site.controller.wait_for_state(&mac, "discovered")?;
    let bad = [
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
        "52:54:00:12:34:5",
        "52:54:00:12:34:567",
        "52:54:00:12:34:56:78",
        "525400123456a",
        "52:54:00:12:34:5g",
        "52 54 00 12 34 56",
        "%D9%A5%D9%A2:54:00:12:34:56",
        "52:54:00:12:34:56%0a",
        "nonsense",
    ];
    for form in bad {
        // A machine gets a script that says what is wrong, whatever it calls itself (API §4).
        let script = http::get(&site.agent.url(&format!("/boot/{}", form.replace(' ', "%20"))))?;
        let script = script.expect(200).with_context(|| form.to_owned())?.text();
        ensure!(script.starts_with("#!ipxe\n"), "{form}: {script}");
        let body = json!({ "mac_address": form, "boot": boot, "event_type": "boot_started" });
        let report = http::post(&site.agent.url("/api/v1/report"), &body)?;
        ensure!(matches!(report.status, 400 | 422), "{form}: report answered {}", report.status);
        let body = json!({ "mac_address": form, "home_site_id": site.id });
        let made = site.controller.call(minreq::Method::Post, "/nodes", Some(&body))?;
        ensure!(made.status == 400, "{form}: the controller answered {}", made.status);
    }
    let nodes = site.controller.get("/nodes")?;
    ensure!(nodes.as_array().is_some_and(|nodes| nodes.len() == 1), "not one node: {nodes}");
    still_boots(&mut site)
}
