//! UEFI HTTP Boot: the offer is a URL, and the firmware's own HTTP client fetches the loader.

use anyhow::{Context, Result, ensure};
use pureboot_tests::capture::{Sent, http_lines, tftp_names};
use pureboot_tests::dnsmasq::Says;
use pureboot_tests::qemu::{Firmware, Way};
use pureboot_tests::random_mac;

use super::scene::*;
use crate::need::Need;
use crate::{Case, case};

pub(super) fn cases() -> Vec<Case> {
    vec![case!(ovmf_boots_by_http, UEFI_PC), case!(aavmf_boots_by_http, Need::Long, ARM64)]
}

/// What BOOT §9 saw: the firmware asks for the head and then for the file on one connection, and nothing by TFTP.
fn ensure_fetched_by_http(sent: &[Sent], name: &str) -> Result<()> {
    let path = format!("/files/bootloaders/{name}");
    let lines = http_lines(sent);
    let (head, get) = (format!("HEAD {path}"), format!("GET {path}"));
    let at = lines.iter().position(|(_, line)| *line == head);
    let at = at.with_context(|| format!("no '{head}' among {lines:?}"))?;
    let next = lines.get(at + 1);
    let (port, _) = lines.get(at).context("the line that was just found")?;
    ensure!(
        next == Some(&(*port, get.as_str())),
        "'{head}' from port {port} is not followed by '{get}' on the same connection: {lines:?}"
    );
    ensure!(tftp_names(sent).is_empty(), "it also asked by TFTP: {:?}", tftp_names(sent));
    Ok(())
}

fn ovmf_boots_by_http() -> Result<()> {
    Lan::with(&[], |lan| {
        let _leases = lan.start_dhcp(Says::Nothing)?;
        let (site, mac) = (&lan.site, random_mac());
        let nonce = order_installation(site, Kernel::Uefi, &mac)?;
        add_loader(site, X64_NAME, IPXE_EFI)?;
        let mut machine = power_on(site, Firmware::Ovmf(Way::Http), &mac)?;
        machine.says("iPXE initialising devices", OVMF_LIMIT)?;
        ensure_fetched_by_http(&machine.sent(&mac), X64_NAME)?;
        ensure_installs(site, &mut machine, &mac, &nonce, OVMF_LIMIT)?;
        lan.ensure_logged(&[
            &mac,
            "http://10.73.0.1:8080/files/bootloaders/snponly-x64.efi: x64 over HTTP",
        ])
    })
}

fn aavmf_boots_by_http() -> Result<()> {
    Lan::with(&[], |lan| {
        let _leases = lan.start_dhcp(Says::Nothing)?;
        let mac = random_mac();
        let nonce = add_arm64_loader(&lan.site, ARM64_NAME)?;
        let mut machine = power_on(&lan.site, Firmware::Aavmf(Way::Http), &mac)?;
        machine.says(&format!("payload: nonce={nonce}"), AAVMF_LIMIT)?;
        ensure_fetched_by_http(&machine.sent(&mac), ARM64_NAME)?;
        lan.ensure_logged(&[
            &mac,
            "http://10.73.0.1:8080/files/bootloaders/snponly-arm64.efi: arm64 over HTTP",
        ])
    })
}
