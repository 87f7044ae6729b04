//! A machine with real firmware that boots from the network, emulated without KVM.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::capture::{self, Sent};
use crate::disguise::Disguise;
use crate::process::{self, Program};
use crate::wait;

/// OVMF's code, from Debian's package `ovmf`.
pub const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";

/// OVMF's variables as delivered.
pub const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// OVMF's code that checks signatures, and variables with the keys that most machines are delivered with.
pub const OVMF_SECURE_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";

/// See [`OVMF_SECURE_CODE`].
pub const OVMF_SECURE_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd";

/// AAVMF's code, from Debian's package `qemu-efi-aarch64`.
pub const AAVMF_CODE: &str = "/usr/share/AAVMF/AAVMF_CODE.fd";

/// AAVMF's variables as delivered.
pub const AAVMF_VARS: &str = "/usr/share/AAVMF/AAVMF_VARS.fd";

/// What the machine runs when its power comes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS with the iPXE ROM of its network card.
    SeaBios,
    /// OVMF without a ROM: the network stack of EDK2 on x86-64.
    Ovmf(Way),
    /// The same by PXE with Secure Boot on.
    OvmfSecure,
    /// AAVMF without a ROM: the same on 64-bit ARM.
    Aavmf(Way),
}

/// How UEFI boots from the network. The other way is switched off, as in a machine's setup: each would be tried for a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// PXE over IPv4.
    Pxe,
    /// HTTP Boot over IPv4.
    Http,
}

/// A machine as it is bought and plugged in.
#[derive(Debug)]
pub struct Plan<'a> {
    /// What it runs.
    pub firmware: Firmware,
    /// The address of its card.
    pub mac: &'a str,
    /// Where its card is plugged in.
    pub tap: &'a str,
    /// Its disk, a raw image.
    pub disk: &'a Path,
    /// What stands in its cable, if anything.
    pub disguise: Option<&'a Disguise>,
}

/// A machine that is on; dropping it pulls the plug.
#[derive(Debug)]
pub struct Machine {
    program: Program,
    serial: PathBuf,
    capture: PathBuf,
}

impl Plan<'_> {
    /// Switches the machine on; what it says and sends is kept in `dir`.
    ///
    /// # Errors
    /// QEMU does not start.
    pub fn power_on(&self, dir: &Path) -> Result<Machine> {
        let run = format!("{:08x}", crate::random() >> 32);
        let [serial, capture, vars] =
            ["serial", "capture", "vars"].map(|name| dir.join(format!("{name}.{run}")));
        let mut command = process::system(match self.firmware {
            Firmware::SeaBios | Firmware::Ovmf(_) | Firmware::OvmfSecure => "qemu-system-x86_64",
            Firmware::Aavmf(_) => "qemu-system-aarch64",
        })?;
        command.args(["-accel", "tcg", "-nodefaults", "-monitor", "none", "-no-user-config"]);
        let mut card = format!("virtio-net-pci,netdev=lan,mac={},bootindex=1", self.mac);
        match self.firmware {
            // `-nographic` also makes SeaBIOS copy its text screen, and so iPXE's, to the serial port.
            Firmware::SeaBios => _ = command.args(["-m", "128", "-nographic"]),
            Firmware::Ovmf(way) => {
                command.args(["-m", "256", "-machine", "q35", "-display", "none"]);
                flash(&mut command, OVMF_CODE, OVMF_VARS, &vars)?;
                choose(&mut command, way);
                card.push_str(",romfile=");
            }
            Firmware::OvmfSecure => {
                // Its variables are kept from everything but the firmware itself, in system management mode.
                command.args(["-m", "256", "-machine", "q35,smm=on", "-display", "none"]);
                command.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
                flash(&mut command, OVMF_SECURE_CODE, OVMF_SECURE_VARS, &vars)?;
                choose(&mut command, Way::Pxe);
                card.push_str(",romfile=");
            }
            Firmware::Aavmf(way) => {
                command.args(["-m", "512", "-machine", "virt", "-cpu", "cortex-a57"]);
                command.args(["-display", "none"]);
                flash(&mut command, AAVMF_CODE, AAVMF_VARS, &vars)?;
                choose(&mut command, way);
                card.push_str(",romfile=");
            }
        }
        command.args(["-device", &card]);
        // Without the header of virtio the capture and the disguise see frames as they are on a cable.
        let tap = self.tap;
        let netdev = format!("tap,id=lan,ifname={tap},script=no,downscript=no,vnet_hdr=off");
        command.args(["-netdev", &netdev]);
        let dump = format!("filter-dump,id=capture,netdev=lan,file={}", capture.display());
        command.args(["-object", &dump]);
        if let Some(disguise) = self.disguise {
            disguise.put_into(&mut command);
        }
        let disk = format!("if=none,id=disk,format=raw,file={}", self.disk.display());
        command.args(["-drive", &disk, "-device", "virtio-blk-pci,drive=disk,bootindex=2"]);
        command.args(["-serial", &format!("file:{}", serial.display())]);
        Ok(Machine { program: Program::spawn("qemu", command, dir)?, serial, capture })
    }
}

/// Puts firmware into the machine, with variables of its own.
fn flash(command: &mut Command, code: &str, delivered: &str, vars: &Path) -> Result<()> {
    fs::copy(delivered, vars).with_context(|| format!("cannot copy {delivered}"))?;
    command.args(["-drive", &format!("if=pflash,format=raw,unit=0,readonly=on,file={code}")]);
    command.args(["-drive", &format!("if=pflash,format=raw,unit=1,file={}", vars.display())]);
    Ok(())
}

/// Leaves one way to boot from the network (OvmfPkg/RUNTIME_CONFIG of EDK2).
fn choose(command: &mut Command, way: Way) {
    let pxe = if way == Way::Pxe { "y" } else { "n" };
    for (name, value) in [("IPv4PXESupport", pxe), ("IPv6PXESupport", "n")] {
        let entry = format!("name=opt/org.tianocore/{name},string={value}");
        command.args(["-fw_cfg", &entry]);
    }
}

impl Machine {
    /// Everything that the machine has said on its serial port, without the terminal's control sequences.
    pub fn console(&self) -> String {
        let bytes = fs::read(&self.serial).unwrap_or_default();
        let mut text = String::new();
        let mut characters = bytes.into_iter().map(char::from);
        while let Some(character) = characters.next() {
            // ECMA-48 §5.4: ESC [ parameters, ended by a byte from 0x40 to 0x7e.
            if character == '\x1b' {
                _ = characters.by_ref().skip(1).find(|c| ('\x40'..='\x7e').contains(c));
            } else if character == '\n' || !character.is_control() {
                text.push(character);
            }
        }
        text
    }

    /// What the machine has sent so far, as far as it concerns its boot.
    pub fn sent(&self, mac: &str) -> Vec<Sent> {
        self.sent_at(mac).into_iter().map(|(_, sent)| sent).collect()
    }

    /// As [`Machine::sent`], with when it was on the cable, by the machine's own clock.
    pub fn sent_at(&self, mac: &str) -> Vec<(Duration, Sent)> {
        capture::read(&fs::read(&self.capture).unwrap_or_default(), mac)
    }

    /// Waits until `wanted` stands on the console, wherever the console broke its lines.
    ///
    /// # Errors
    /// `limit` passes or QEMU ends before that; the console's text is told.
    pub fn says(&mut self, wanted: &str, limit: Duration) -> Result<()> {
        let squeeze = |text: &str| text.split_whitespace().collect::<String>();
        let squeezed = squeeze(wanted);
        wait::until(&format!("the console says '{wanted}'"), limit, || {
            if squeeze(&self.console()).contains(&squeezed) {
                return Ok(Some(()));
            }
            anyhow::ensure!(self.program.is_running()?, "QEMU has ended");
            Ok(None)
        })
        .with_context(|| format!("the console:\n{}\n", self.console()))
    }
}
