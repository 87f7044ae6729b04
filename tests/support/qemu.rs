//! A machine with real firmware that boots from the network, emulated without KVM.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{self, Program};
use crate::wait;

/// OVMF's code, from Debian's package `ovmf`.
pub const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";

/// OVMF's variables as delivered.
pub const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// What the machine runs when its power comes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS with the iPXE ROM of its network card.
    SeaBios,
    /// OVMF without a ROM: its own PXE client.
    Ovmf,
}

/// A machine that is on; dropping it pulls the plug.
#[derive(Debug)]
pub struct Machine {
    program: Program,
    serial: PathBuf,
}

impl Machine {
    /// Switches a machine on whose card is plugged into `tap`, with a raw image as its disk.
    ///
    /// # Errors
    /// QEMU does not start.
    pub fn power_on(
        firmware: Firmware,
        mac: &str,
        tap: &str,
        disk: &Path,
        dir: &Path,
    ) -> Result<Self> {
        let run = format!("{:08x}", crate::random() >> 32);
        let serial = dir.join(format!("serial.{run}"));
        let mut card = format!("virtio-net-pci,netdev=lan,mac={mac},bootindex=1");
        let mut command = process::system("qemu-system-x86_64")?;
        command.args(["-accel", "tcg", "-nodefaults", "-monitor", "none", "-no-user-config"]);
        match firmware {
            // `-nographic` also makes SeaBIOS copy its text screen, and so iPXE's, to the serial port.
            Firmware::SeaBios => command.args(["-m", "128", "-nographic"]),
            Firmware::Ovmf => {
                let vars = dir.join(format!("ovmf-vars.{run}"));
                fs::copy(OVMF_VARS, &vars).with_context(|| format!("cannot copy {OVMF_VARS}"))?;
                card.push_str(",romfile=");
                command.args(["-m", "256", "-machine", "q35", "-display", "none"]);
                command.args([
                    "-drive",
                    &format!("if=pflash,format=raw,unit=0,readonly=on,file={OVMF_CODE}"),
                    "-drive",
                    &format!("if=pflash,format=raw,unit=1,file={}", vars.display()),
                ])
            }
        };
        command.args(["-device", &card]);
        command.args(["-netdev", &format!("tap,id=lan,ifname={tap},script=no,downscript=no")]);
        command.arg("-drive").arg(format!("if=none,id=disk,format=raw,file={}", disk.display()));
        command.args(["-device", "virtio-blk-pci,drive=disk,bootindex=2"]);
        command.args(["-serial", &format!("file:{}", serial.display())]);
        Ok(Self { program: Program::spawn("qemu", command, dir)?, serial })
    }

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
