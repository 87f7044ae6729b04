//! shim from a directory of its own: it looks for its second stage where it came from, and probes three files first.
//! Secure Boot is off, so the second stage is iPXE under the name that shim asks for. And what happens without shim where
//! Secure Boot is on.

use anyhow::{Result, ensure};
use pureboot_tests::capture::{Sent, http_lines, tftp_names};
use pureboot_tests::dnsmasq::Says;
use pureboot_tests::namespace::BOX_ADDRESS;
use pureboot_tests::qemu::{Firmware, OVMF_SECURE_CODE, OVMF_SECURE_VARS, Way};
use pureboot_tests::{random_mac, wait};

use super::scene::*;
use crate::need::Need;
use crate::{Case, case};

const SHIM: &str = "/usr/lib/shim/shimx64.efi.signed";
/// Debian's GRUB with its network modules inside.
const GRUB: &str = "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed";
const SECOND_STAGE: &str = "sb/grubx64.efi";
/// What shim 16 looks for before its second stage (BOOT §4).
const PROBES: [&str; 3] =
    ["sb/revocations_sku.efi", "sb/revocations_sbat.efi", "sb/shim_certificate_0.efi"];

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            shim_keeps_its_directory_over_tftp,
            Need::Long,
            UEFI_PC,
            Need::File(SHIM, "shim-signed")
        ),
        case!(
            shim_keeps_its_directory_over_http,
            Need::Long,
            UEFI_PC,
            Need::File(SHIM, "shim-signed")
        ),
        case!(
            grub_behind_proxydhcp_asks_the_server_that_leased_the_address,
            Need::Long,
            Need::Root,
            Need::Namespaces,
            QEMU,
            DNSMASQ,
            OVMF,
            OVMF_DELIVERED,
            Need::File(GRUB, "grub-efi-amd64-signed"),
        ),
        case!(
            secure_boot_loads_what_nobody_signed_and_does_not_start_it,
            Need::Long,
            Need::Root,
            Need::Namespaces,
            QEMU,
            DNSMASQ,
            UEFI_LOADER,
            Need::File(OVMF_SECURE_CODE, "ovmf"),
            Need::File(OVMF_SECURE_VARS, "ovmf"),
        ),
    ]
}

/// Boots over shim to the installer; returns the names that the machine asked for, as paths below the loaders.
fn boot_over_shim(way: Way) -> Result<()> {
    Lan::with(&[("x64", "sb/shimx64.efi")], |lan| {
        let _leases = lan.start_dhcp(Says::Nothing)?;
        let (site, mac) = (&lan.site, random_mac());
        let nonce = order_installation(site, Kernel::Uefi, &mac)?;
        add_loader(site, "sb/shimx64.efi", SHIM)?;
        add_loader(site, SECOND_STAGE, IPXE_EFI)?;
        let mut machine = power_on(site, Firmware::Ovmf(way), &mac)?;
        machine.says("iPXE initialising devices", OVMF_LIMIT)?;
        ensure_installs(site, &mut machine, &mac, &nonce, OVMF_LIMIT)?;
        let sent = machine.sent(&mac);
        let names: Vec<String> = match way {
            Way::Pxe => tftp_names(&sent).iter().map(|name| squeeze(name)).collect(),
            Way::Http => http_lines(&sent)
                .iter()
                .filter_map(|(_, line)| Some(squeeze(line.split_once("/files/bootloaders/")?.1)))
                .collect(),
        };
        for wanted in PROBES.iter().chain(&[SECOND_STAGE]) {
            ensure!(names.iter().any(|name| name == wanted), "no '{wanted}' among {names:?}");
        }
        let is_stray = |name: &&String| !name.starts_with("sb/") && !name.ends_with(".ipxe");
        let stray: Vec<_> = names.iter().filter(is_stray).collect();
        ensure!(stray.is_empty(), "shim left its directory: {stray:?}");
        Ok(())
    })
}

/// A name as the agent understands it.
fn squeeze(name: &str) -> String {
    name.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

fn shim_keeps_its_directory_over_tftp() -> Result<()> {
    boot_over_shim(Way::Pxe)
}

fn shim_keeps_its_directory_over_http() -> Result<()> {
    boot_over_shim(Way::Http)
}

/// BOOT §9, and the reason why no GRUB is to be chained there.
fn grub_behind_proxydhcp_asks_the_server_that_leased_the_address() -> Result<()> {
    Lan::with(&[], |lan| {
        let _leases = lan.start_dhcp(Says::Nothing)?;
        let mac = random_mac();
        add_loader(&lan.site, X64_NAME, GRUB)?;
        let machine = power_on(&lan.site, Firmware::Ovmf(Way::Pxe), &mac)?;
        let stray = wait::until("GRUB asks by TFTP", OVMF_LIMIT, || {
            let is_stray =
                |sent: &Sent| matches!(sent, Sent::Tftp { to, .. } if *to != BOX_ADDRESS);
            Ok(machine.sent(&mac).into_iter().find(is_stray))
        })?;
        ensure!(
            matches!(stray, Sent::Tftp { to: OTHER_SERVER, .. }),
            "GRUB asked neither the agent nor the other server: {stray:?}"
        );
        lan.ensure_logged(&["sent", X64_NAME])
    })
}

fn secure_boot_loads_what_nobody_signed_and_does_not_start_it() -> Result<()> {
    Lan::with(&[], |lan| {
        let _leases = lan.start_dhcp(Says::Nothing)?;
        let mac = random_mac();
        add_loader(&lan.site, X64_NAME, IPXE_EFI)?;
        let mut machine = power_on(&lan.site, Firmware::OvmfSecure, &mac)?;
        machine.says("Access Denied", OVMF_LIMIT)?;
        let console = machine.console();
        ensure!(!console.contains("iPXE initialising devices"), "it was started:\n{console}");
        // What is left of it at the site: a whole download, and no word from what was downloaded.
        lan.ensure_logged(&["sent", X64_NAME])?;
        let log = lan.log()?;
        ensure!(!log.contains("iPXE (option 175)"), "iPXE asked for its script:\n{log}");
        Ok(())
    })
}
