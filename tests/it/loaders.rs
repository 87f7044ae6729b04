//! Loaders come at once, whatever the disk does and however much else is sent: firmware gives up where iPXE asks again.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pureboot_tests::http;
use pureboot_tests::site::{Agent, Site};
use pureboot_tests::tftp::{Client, Packet, read_request};
use pureboot_tests::{noise, random_mac, wait};
use socket2::{Domain, Socket, Type};

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(a_loader_is_sent_beside_as_many_large_files_as_may_be),
        case!(a_loader_is_sent_when_the_disk_is_gone),
    ]
}

const LOADER: &str = "bootloaders/sb/ipxe-shimx64.efi";
const IMAGE: &str = "images/large.img";
/// What a loader may take on a busy machine.
const LOADER_LIMIT: Duration = Duration::from_secs(2);
/// Bodies of content that the agent sends at a time, and connections that one address may have.
const STREAMS: u16 = 256;
const PER_ADDRESS: u16 = 16;

/// Reads the loader by HTTP, with HEAD first as UEFI does, and by TFTP.
fn load(agent: &Agent, loader: &[u8]) -> Result<()> {
    let started = Instant::now();
    let url = agent.url(&format!("/files/{LOADER}"));
    http::send(minreq::head(&url))?.expect(200)?;
    let answer = http::get(&url)?.expect(200)?;
    ensure!(answer.body == loader, "another loader came by HTTP");
    let client = Client::new(agent.tftp(), Ipv4Addr::LOCALHOST)?;
    let download = client.read("sb/ipxe-shimx64.efi", &[("blksize", "1432")])?;
    ensure!(download.bytes == loader, "another loader came by TFTP");
    ensure!(started.elapsed() < LOADER_LIMIT, "the loader took {:?}", started.elapsed());
    Ok(())
}

/// Begins to read the image from `source` and takes no more than its first byte.
fn read_slowly(agent: &Agent, source: Ipv4Addr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_recv_buffer_size(4_096)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&agent.boot().into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET /files/{IMAGE} HTTP/1.1\r\nHost: agent\r\n\r\n")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).context("a slow reader gets no answer")?;
    ensure!(status.ends_with(b" 200"), "a slow reader gets {}", String::from_utf8_lossy(&status));
    Ok(stream)
}

fn a_loader_is_sent_beside_as_many_large_files_as_may_be() -> Result<()> {
    let site = Site::start()?;
    let loader = noise(900_000);
    site.agent.cache_add(LOADER, &loader)?;
    site.agent.cache_add(IMAGE, &noise(8 << 20))?;
    let mut readers = Vec::new();
    for number in 0..STREAMS {
        let [_, host] = (1 + number / PER_ADDRESS).to_be_bytes();
        readers.push(read_slowly(&site.agent, Ipv4Addr::new(127, 0, 3, host))?);
    }
    let image = site.agent.url(&format!("/files/{IMAGE}"));
    let refused = http::get(&image)?.expect(503)?;
    ensure!(refused.field("retry-after").is_some(), "iPXE is not told to wait: {refused:?}");
    ensure!(!refused.body.is_empty(), "shim would wait for ever");
    load(&site.agent, &loader)?;
    site.agent.script(&random_mac())?;

    drop(readers);
    wait::until("images are sent again", Duration::from_secs(20), || {
        Ok((http::get(&image)?.status == 200).then_some(()))
    })
}

fn a_loader_is_sent_when_the_disk_is_gone() -> Result<()> {
    let site = Site::start()?;
    let loader = noise(900_000);
    site.agent.cache_add(LOADER, &loader)?;
    site.agent.cache_add(IMAGE, b"an image")?;
    fs::remove_dir_all(site.agent.data_dir().join("cache/objects"))?;
    load(&site.agent, &loader)?;
    http::get(&site.agent.url(&format!("/files/{IMAGE}")))?.expect(404)?;
    // What shim asks for first is refused at once, too.
    for name in ["revocations_sku.efi", "revocations_sbat.efi", "shim_certificate_0.efi"] {
        let started = Instant::now();
        let client = Client::new(site.agent.tftp(), Ipv4Addr::LOCALHOST)?;
        let (answer, _) = client.ask(&read_request(&format!("sb/{name}"), &[]))?;
        ensure!(matches!(answer, Packet::Error(1, _)), "{name} was answered {answer:?}");
        let url = site.agent.url(&format!("/files/bootloaders/sb/{name}"));
        http::get(&url)?.expect(404)?;
        ensure!(started.elapsed() < LOADER_LIMIT, "{name} took {:?}", started.elapsed());
    }
    Ok(())
}
