//! A cable that takes out what tells iPXE from the ROM of another maker.
//!
//! All free firmware for a PC BIOS is iPXE, and iPXE says so in the options 175 and 77 of its DHCP requests. Without them its
//! ROM is what the ROM of any card is, and a loader is what a build would be that hides its name.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};

use crate::dhcp;

/// Who loses its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hidden {
    /// The ROM alone: what asks after the first file was asked for by TFTP is known for what it is.
    Rom,
    /// Whatever runs on the machine. Debian's loader still says the bare class `PXEClient`, which no ROM does.
    All,
    /// Whatever runs on the machine, and the class is always that of a ROM.
    AllWithTheClassOfARom,
}

/// The cable of one machine, for as long as its QEMU runs.
#[derive(Debug)]
pub struct Disguise {
    /// Where QEMU brings the machine's frames, and where it fetches them again.
    sockets: [PathBuf; 2],
}

/// User class, and iPXE's own options.
const HIDDEN: [u8; 2] = [77, 175];
const CLASS: u8 = 60;
const CLASS_OF_A_ROM: &[u8] = b"PXEClient:Arch:00000:UNDI:002001";

/// A jumbo frame; QEMU sends none that is longer.
const FRAME_LEN_MAX: usize = 65_536;
/// Ethernet, and IPv4 without options.
const UDP_AT: usize = 14 + 20;
const OPTIONS_AT: usize = UDP_AT + 8 + dhcp::HEADER_LEN;

impl Disguise {
    /// Makes the cable; its ends lie in `dir`.
    ///
    /// # Errors
    /// The sockets cannot be made.
    pub fn new(hidden: Hidden, dir: &Path) -> Result<Self> {
        let run = format!("{:08x}", crate::random() >> 32);
        let sockets = ["out", "in"].map(|end| dir.join(format!("cable.{run}.{end}")));
        let bind = |path: &PathBuf| {
            UnixListener::bind(path).with_context(|| format!("cannot bind {}", path.display()))
        };
        let [out, back] = &sockets;
        let (out, back) = (bind(out)?, bind(back)?);
        // It ends with the QEMU that it serves.
        thread::spawn(move || {
            let (Ok((out, _)), Ok((back, _))) = (out.accept(), back.accept()) else { return };
            _ = carry(out, back, hidden);
        });
        Ok(Self { sockets })
    }

    /// Plugs the cable into the machine that `command` starts.
    pub(crate) fn put_into(&self, command: &mut Command) {
        // What a machine sends passes the filters from the last to the first: out, in, and then the capture.
        for (end, path) in ["outdev", "indev"].iter().zip(&self.sockets).rev() {
            let chardev = format!("socket,id={end},path={}", path.display());
            let object = format!("filter-redirector,id=to-{end},netdev=lan,queue=rx,{end}={end}");
            command.args(["-chardev", &chardev, "-object", &object]);
        }
    }
}

/// Carries frames, each with its length before it as QEMU's filters write them, until one end closes.
fn carry(mut out: UnixStream, mut back: UnixStream, hidden: Hidden) -> io::Result<()> {
    let mut is_over = false;
    loop {
        let mut len = [0; 4];
        out.read_exact(&mut len)?;
        let frame_len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
        if frame_len > FRAME_LEN_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut frame = vec![0; frame_len];
        out.read_exact(&mut frame)?;
        match udp_port(&frame) {
            Some(67 | 4011) if !is_over => disguise(&mut frame, hidden),
            Some(69) if hidden == Hidden::Rom => is_over = true,
            _ => {}
        }
        back.write_all(&len)?;
        back.write_all(&frame)?;
    }
}

/// Where a frame goes if it is UDP in IPv4.
fn udp_port(frame: &[u8]) -> Option<u16> {
    let is_udp = frame.get(12..15)? == [8, 0, 0x45] && *frame.get(23)? == 17;
    is_udp.then_some(u16::from_be_bytes(*frame.get(UDP_AT + 2..)?.first_chunk()?))
}

fn disguise(frame: &mut [u8], hidden: Hidden) {
    let mut disguised = Vec::new();
    for (code, value) in dhcp::options(frame.get(OPTIONS_AT..).unwrap_or_default()) {
        let is_class = code == CLASS && hidden == Hidden::AllWithTheClassOfARom;
        let value = if is_class { CLASS_OF_A_ROM } else { value };
        if !HIDDEN.contains(&code) {
            disguised.extend([code, u8::try_from(value.len()).unwrap_or(u8::MAX)]);
            disguised.extend(value);
        }
    }
    disguised.push(0xff);
    let Some(options) = frame.get_mut(OPTIONS_AT..) else { return };
    // What was taken out is longer than what was put in, and padding may follow the end.
    for (byte, new) in options.iter_mut().zip(disguised.into_iter().chain(std::iter::repeat(0))) {
        *byte = new;
    }
    // RFC 768: a checksum of zero is none.
    if let Some(checksum) = frame.get_mut(UDP_AT + 6..UDP_AT + 8) {
        checksum.fill(0);
    }
}
