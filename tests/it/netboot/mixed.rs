//! Machines of three architectures on one LAN at the same time, each with its own loader, script and kernel.

use anyhow::{Result, ensure};
use pureboot_tests::disguise::{Disguise, Hidden};
use pureboot_tests::dnsmasq::Says;
use pureboot_tests::qemu::{Firmware, Machine, Plan, Way};
use pureboot_tests::random_mac;

use super::scene::*;
use crate::need::Need;
use crate::{Case, case};

pub(super) fn cases() -> Vec<Case> {
    vec![case!(
        a_pc_a_uefi_pc_and_an_arm_machine_boot_at_once,
        Need::Long,
        UEFI_PC,
        QEMU_ARM,
        AS_ARM,
        ROM,
        BIOS_LOADER,
        AAVMF,
        AAVMF_DELIVERED
    )]
}

fn a_pc_a_uefi_pc_and_an_arm_machine_boot_at_once() -> Result<()> {
    Lan::with(&[], |lan| {
        let _leases = lan.start_dhcp(Says::Nothing)?;
        let site = &lan.site;
        let [bios, uefi, arm] = [random_mac(), random_mac(), random_mac()];
        let bios_nonce = order_installation(site, Kernel::Bios, &bios)?;
        let uefi_nonce = order_installation(site, Kernel::Uefi, &uefi)?;
        let arm_nonce = add_arm64_loader(site, ARM64_NAME)?;
        add_loader(site, BIOS_NAME, UNDIONLY)?;
        add_loader(site, X64_NAME, IPXE_EFI)?;

        let cable = Disguise::new(Hidden::Rom, site.dir())?;
        let power_on =
            |firmware, mac: &str, tap: &str, cable: Option<&Disguise>| -> Result<Machine> {
                if tap != TAP {
                    lan.namespace.add_tap(tap)?;
                }
                let disk = blank_disk(site.dir())?;
                Plan { firmware, mac, tap, disk: &disk, disguise: cable }.power_on(site.dir())
            };
        let mut arm_machine = power_on(Firmware::Aavmf(Way::Http), &arm, TAP, None)?;
        let mut uefi_machine = power_on(Firmware::Ovmf(Way::Pxe), &uefi, "tap1", None)?;
        let mut bios_machine = power_on(Firmware::SeaBios, &bios, "tap2", Some(&cable))?;

        // Three share the processors that one has in the other rows.
        ensure_installs(site, &mut bios_machine, &bios, &bios_nonce, 3 * SEABIOS_LIMIT)?;
        ensure_installs(site, &mut uefi_machine, &uefi, &uefi_nonce, 3 * OVMF_LIMIT)?;
        arm_machine.says(&format!("payload: nonce={arm_nonce}"), 2 * AAVMF_LIMIT)?;
        for (machine, own) in
            [(&bios_machine, &bios_nonce), (&uefi_machine, &uefi_nonce), (&arm_machine, &arm_nonce)]
        {
            let console = machine.console();
            for nonce in [&bios_nonce, &uefi_nonce, &arm_nonce] {
                ensure!(
                    console.contains(nonce) == (nonce == own),
                    "'{nonce}' and '{own}' are mixed up:\n{console}"
                );
            }
        }
        lan.ensure_logged(&[&bios, "bios over TFTP"])?;
        lan.ensure_logged(&[&uefi, "x64 over TFTP"])?;
        lan.ensure_logged(&[&arm, "arm64 over HTTP"])
    })
}
