//! The site's own DHCP server names the files of the agent, and ProxyDHCP stays off.

use std::fs::{self, OpenOptions};
use std::io::Write;

use anyhow::{Result, ensure};
use pureboot_tests::dnsmasq::{self, Says};
use pureboot_tests::namespace::{BOX_ADDRESS, Namespace};
use pureboot_tests::process::{self, Program};
use pureboot_tests::qemu::{Firmware, Machine, Plan, Way};
use pureboot_tests::site::{Site, boot_of, text};
use pureboot_tests::{random, random_mac};

use super::scene::*;
use crate::need::Need;
use crate::{Case, case};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(seabios_is_discovered_then_installs_then_boots_its_disk, PC, BIOS_LOADER),
        case!(ovmf_boots_by_uefi_pxe_to_its_installer, UEFI_PC),
        case!(seabios_boots_by_the_companion_snippet_for_dnsmasq, Need::Long, PC),
    ]
}

/// dnsmasq on the box itself, with the few lines of the README.
fn start_dhcp(for_ipxe: &str, site: &Site) -> Result<Program> {
    dnsmasq::start("lan", Says::TheAgent(BOX_ADDRESS, for_ipxe), site.dir())
}

fn boot_url(site: &Site) -> String {
    site.agent.url("/boot.ipxe")
}

/// Lets the ROM load undionly.kpxe and the iPXE in that file load the first script, both by TFTP.
///
/// The two ask for their address in the same words, so the DHCP server is exchanged in between: when the ROM names the
/// file, it has its address and asks for no other.
fn chain_to_script(machine: &mut Machine, site: &Site) -> Result<Program> {
    let for_rom = start_dhcp(BIOS_NAME, site)?;
    machine.says("tftp://10.73.0.1/undionly.kpxe", SEABIOS_LIMIT)?;
    drop(for_rom);
    start_dhcp("autoexec.ipxe", site)
}

fn seabios_is_discovered_then_installs_then_boots_its_disk() -> Result<()> {
    let namespace = Namespace::new()?;
    namespace.add_tap(TAP)?;
    namespace.enter(|| {
        let site = Site::start_at(PORTS)?;
        let (dir, mac) = (site.dir(), random_mac());
        let (name, nonce) = (format!("bios-{:08x}", random() >> 32), nonce());
        let kernel = assemble(include_str!("bios.S"), Assembler::Native("--32"), dir)?;
        site.agent.cache_add(&format!("images/{name}/kernel"), &kernel)?;
        site.agent.cache_add(&format!("images/{name}/initrd"), b"not read")?;
        add_loader(&site, BIOS_NAME, UNDIONLY)?;

        let disk = blank_disk(dir)?;
        let firmware = Firmware::SeaBios;
        let plan = Plan { firmware, mac: &mac, tap: TAP, disk: &disk, disguise: None };

        // The first boot: loader and first script by TFTP, then HTTP.
        {
            let mut machine = plan.power_on(dir)?;
            let _dhcp = chain_to_script(&mut machine, &site)?;
            machine.says("autoexec.ipxe... ok", SEABIOS_LIMIT)?;
            machine.says(&mac, SEABIOS_LIMIT)?;
            site.controller.wait_for_state(&mac, "discovered")?;
        }

        // The operator decides; the second boot goes by HTTP from the start.
        let node = site.controller.wait_for_state(&mac, "discovered")?;
        let workflow = site.controller.make_workflow(&name, &format!("nonce={nonce}"))?;
        site.controller.order_install(&text(&node, "id")?, &workflow)?;
        let _dhcp = start_dhcp(&boot_url(&site), &site)?;
        let mut machine = plan.power_on(dir)?;
        ensure_installs(&site, &mut machine, &mac, &nonce, SEABIOS_LIMIT)?;

        // The installer writes the disk and calls back; the third boot is left to the disk.
        let boot = boot_of(&payload(&machine)?)?;
        drop(machine);
        let sector = assemble(include_str!("disk.S"), Assembler::Native("--32"), dir)?;
        OpenOptions::new().write(true).open(&disk)?.write_all(&sector)?;
        site.agent.report(&mac, &boot, "install_complete", None)?;
        site.controller.wait_for_state(&mac, "installed")?;
        let mut machine = plan.power_on(dir)?;
        machine.says("boot.ipxe... ok", SEABIOS_LIMIT)?;
        machine.says("disk: started", SEABIOS_LIMIT)?;
        let console = machine.console();
        ensure!(!console.contains("payload:"), "it was installed again:\n{console}");
        Ok(())
    })
}

fn ovmf_boots_by_uefi_pxe_to_its_installer() -> Result<()> {
    let namespace = Namespace::new()?;
    namespace.add_tap(TAP)?;
    namespace.enter(|| {
        let site = Site::start_at(PORTS)?;
        let mac = random_mac();
        let nonce = order_installation(&site, Kernel::Uefi, &mac)?;
        add_loader(&site, "ipxe.efi", IPXE_EFI)?;
        let _dhcp = start_dhcp(&boot_url(&site), &site)?;
        let mut machine = power_on(&site, Firmware::Ovmf(Way::Pxe), &mac)?;
        machine.says("iPXE initialising devices", OVMF_LIMIT)?;
        ensure_installs(&site, &mut machine, &mac, &nonce, OVMF_LIMIT)
    })
}

fn seabios_boots_by_the_companion_snippet_for_dnsmasq() -> Result<()> {
    let namespace = Namespace::new()?;
    namespace.add_tap(TAP)?;
    namespace.enter(|| {
        let site = Site::start_at(PORTS)?;
        let mac = random_mac();
        let nonce = order_installation(&site, Kernel::Bios, &mac)?;
        let snippet = site.dir().join("snippet.conf");
        let address = BOX_ADDRESS.to_string();
        let command = site.agent.command(&["dhcp-snippet", "--address", &address])?;
        fs::write(&snippet, process::succeed(command)?)?;
        let _dhcp = dnsmasq::start("lan", Says::Snippet(&snippet), site.dir())?;
        let mut machine = power_on(&site, Firmware::SeaBios, &mac)?;
        ensure_installs(&site, &mut machine, &mac, &nonce, SEABIOS_LIMIT)
    })
}
