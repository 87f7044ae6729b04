//! ProxyDHCP beside a server that leases addresses and knows nothing of booting: PXE in both forms of the offer.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use pureboot_tests::capture::tftp_names;
use pureboot_tests::dhcp::{Ask, Client, DISCOVER, SERVERS, mac_bytes};
use pureboot_tests::disguise::{Disguise, Hidden};
use pureboot_tests::dnsmasq::Says;
use pureboot_tests::namespace::BOX_ADDRESS;
use pureboot_tests::qemu::{Firmware, Plan, Way};
use pureboot_tests::site::{Site, text};
use pureboot_tests::{random_mac, wait};

use super::scene::*;
use crate::need::Need;
use crate::{Case, boots, case};

/// The loader runs four times, and again until four starts of it lie within the guard's two minutes.
const LOOP_LIMIT: Duration = Duration::from_secs(600);

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(seabios_boots_by_an_offer_with_option_43, PC, BIOS_LOADER),
        case!(
            seabios_boots_by_an_offer_without_option_43_once_two_with_it_were_ignored,
            Need::Long,
            PC,
            BIOS_LOADER
        ),
        case!(
            an_ipxe_in_the_rom_that_the_operator_names_loads_the_sites_own_first,
            Need::Long,
            PC,
            BIOS_LOADER
        ),
        case!(ovmf_boots_by_an_offer_with_option_43, UEFI_PC),
        case!(ovmf_boots_by_port_4011_where_the_offer_has_no_option_43, Need::Long, UEFI_PC),
        case!(aavmf_boots_by_uefi_pxe, Need::Long, ARM64),
        case!(a_loader_without_a_name_is_known_by_its_bare_class, Need::Long, PC, BIOS_LOADER),
        case!(a_loader_that_passes_for_a_rom_is_freed_from_its_loop, Need::Long, PC, BIOS_LOADER),
    ]
}

/// Boots a PC whose ROM does not say that it is iPXE, and which loads iPXE by TFTP.
fn boot_bios(lan: &mut Lan<'_>, mac: &str, hidden: Hidden, limit: Duration) -> Result<Vec<String>> {
    let site = &lan.site;
    let nonce = order_installation(site, Kernel::Bios, mac)?;
    add_loader(site, BIOS_NAME, UNDIONLY)?;
    let disguise = Disguise::new(hidden, site.dir())?;
    let disk = blank_disk(site.dir())?;
    let firmware = Firmware::SeaBios;
    let plan = Plan { firmware, mac, tap: TAP, disk: &disk, disguise: Some(&disguise) };
    let mut machine = plan.power_on(site.dir())?;
    ensure_installs(site, &mut machine, mac, &nonce, limit)?;
    Ok(tftp_names(&machine.sent(mac)).into_iter().map(ToOwned::to_owned).collect())
}

fn seabios_boots_by_an_offer_with_option_43() -> Result<()> {
    Lan::with(&[], |lan| {
        let _leases = lan.start_dhcp(Says::Nothing)?;
        let mac = random_mac();
        let files = boot_bios(lan, &mac, Hidden::Rom, SEABIOS_LIMIT)?;
        ensure!(files == [BIOS_NAME], "it asked by TFTP for {files:?}");
        lan.ensure_logged(&[&mac, "to load undionly.kpxe: bios over TFTP "])?;
        lan.ensure_logged(&[&mac, "/boot.ipxe: iPXE (option 175)"])
    })
}

fn an_ipxe_in_the_rom_that_the_operator_names_loads_the_sites_own_first() -> Result<()> {
    Lan::with(&[], |lan| {
        // The site's own is of the same release, so that it is named too: it must not be sent round in a circle.
        let file = BIOS_NAME;
        lan.add_settings(&format!("[[dhcp.quirk]]\nuser_agent = \"iPXE/1.\"\nfile = \"{file}\""))?;
        let _leases = lan.start_dhcp(Says::Nothing)?;
        let mac = random_mac();
        let nonce = order_installation(&lan.site, Kernel::Bios, &mac)?;
        add_loader(&lan.site, file, UNDIONLY)?;
        let mut machine = power_on(&lan.site, Firmware::SeaBios, &mac)?;
        ensure_installs(&lan.site, &mut machine, &mac, &nonce, SEABIOS_LIMIT)?;
        lan.ensure_logged(&["'iPXE/1.", &format!("is told to load bootloaders/{file} first")])?;
        let seen = boots::sessions(&lan.site.agent, &mac)?;
        let steps: Vec<_> = seen.iter().flat_map(boots::steps).collect();
        let loads = steps.iter().filter(|step| *step == "transfer http loader whole").count();
        ensure!(seen.len() == 1 && loads == 1, "{} sessions: {steps:#?}", seen.len());
        Ok(())
    })
}

/// Asks as firmware does that ignores what it is offered, until the agent has learned from it.
fn ignore_offers(lan: &Lan<'_>, mac: &str, class: &str, arch: u16) -> Result<()> {
    let ask = Ask::firmware(DISCOVER, mac_bytes(mac)?, class, arch);
    lan.other.enter(|| {
        let client = Client::bind("eth0", 68)?;
        let is_direct = || -> Result<bool> {
            let offer = client.ask_until(&ask, SERVERS, BOX_ADDRESS, Duration::from_secs(10))?;
            Ok(offer.options().contains_key(&43))
        };
        ensure!(is_direct()?, "the first offer has no option 43");
        let asked = Instant::now();
        wait::until("the offer has no option 43", Duration::from_secs(30), || {
            std::thread::sleep(Duration::from_millis(2_100));
            Ok((!is_direct()?).then_some(()))
        })?;
        // BOOT §7: two ignored offers, so not the next one.
        ensure!(asked.elapsed() > Duration::from_secs(4), "one ignored offer was enough");
        Ok(())
    })
}

fn seabios_boots_by_an_offer_without_option_43_once_two_with_it_were_ignored() -> Result<()> {
    Lan::with(&[], |lan| {
        let mac = random_mac();
        ignore_offers(lan, &mac, "PXEClient:Arch:00000:UNDI:002001", 0)?;
        let _leases = lan.start_dhcp(Says::Nothing)?;
        let files = boot_bios(lan, &mac, Hidden::Rom, SEABIOS_LIMIT)?;
        ensure!(files == [BIOS_NAME], "it asked by TFTP for {files:?}");
        lan.ensure_logged(&[&mac, "to load undionly.kpxe: bios over TFTP, by port 4011"])
    })
}

/// Boots a UEFI machine on x86-64 by PXE to its installer; returns how often it asked on port 4011.
fn boot_ovmf(lan: &Lan<'_>, mac: &str) -> Result<usize> {
    let site = &lan.site;
    let nonce = order_installation(site, Kernel::Uefi, mac)?;
    add_loader(site, X64_NAME, IPXE_EFI)?;
    let mut machine = power_on(site, Firmware::Ovmf(Way::Pxe), mac)?;
    machine.says("iPXE initialising devices", OVMF_LIMIT)?;
    ensure_installs(site, &mut machine, mac, &nonce, OVMF_LIMIT)?;
    Ok(boot_server_requests(&machine.sent(mac)))
}

fn ovmf_boots_by_an_offer_with_option_43() -> Result<()> {
    Lan::with(&[], |lan| {
        let _leases = lan.start_dhcp(Says::Nothing)?;
        let mac = random_mac();
        let asked = boot_ovmf(lan, &mac)?;
        ensure!(asked == 0, "it asked {asked} times on port 4011, although the offer was enough");
        check_session(&lan.site, &mac)
    })
}

/// The whole boot is one session, from the first packet to the installer's report.
fn check_session(site: &Site, mac: &str) -> Result<()> {
    let found = boots::sessions(&site.agent, mac)?;
    let [session] = found.as_slice() else { bail!("not one session: {found:#?}") };
    site.agent.report(mac, &text(session, "id")?, "install_progress", Some(1))?;
    let found = boots::sessions(&site.agent, mac)?;
    let [session] = found.as_slice() else { bail!("not one session: {found:#?}") };
    let steps = boots::steps(session);
    let mut rest = steps.iter();
    for wanted in [
        "offered loader",
        "leased",
        "transfer tftp loader probe",
        "transfer tftp loader whole",
        "offered script",
        "transfer http first_script whole",
        "script",
        "transfer http content whole",
        "reported install_progress",
    ] {
        ensure!(rest.any(|step| step == wanted), "no '{wanted}' where it belongs in {steps:#?}");
    }
    Ok(())
}

fn ovmf_boots_by_port_4011_where_the_offer_has_no_option_43() -> Result<()> {
    Lan::with(&[], |lan| {
        let _leases = lan.start_dhcp(Says::Nothing)?;
        // BOOT §7: the UEFI of this maker gets no option 43.
        let mac = random_mac().replacen("52:54:00", "94:18:82", 1);
        let asked = boot_ovmf(lan, &mac)?;
        ensure!(asked == 1, "it asked {asked} times on port 4011, not once");
        lan.ensure_logged(&[&mac, "to load snponly-x64.efi: x64 over TFTP, by port 4011", ":4011"])
    })
}

fn aavmf_boots_by_uefi_pxe() -> Result<()> {
    Lan::with(&[], |lan| {
        let _leases = lan.start_dhcp(Says::Nothing)?;
        let mac = random_mac();
        let nonce = add_arm64_loader(&lan.site, ARM64_NAME)?;
        let mut machine = power_on(&lan.site, Firmware::Aavmf(Way::Pxe), &mac)?;
        machine.says(&format!("payload: nonce={nonce}"), AAVMF_LIMIT)?;
        // The size probe, and the file.
        let sent = machine.sent(&mac);
        ensure!(tftp_names(&sent) == [ARM64_NAME; 2], "it asked for {:?}", tftp_names(&sent));
        lan.ensure_logged(&[&mac, "to load snponly-arm64.efi: arm64 over TFTP"])
    })
}

fn a_loader_without_a_name_is_known_by_its_bare_class() -> Result<()> {
    Lan::with(&[], |lan| {
        let _leases = lan.start_dhcp(Says::Nothing)?;
        let mac = random_mac();
        let files = boot_bios(lan, &mac, Hidden::All, SEABIOS_LIMIT)?;
        ensure!(files == [BIOS_NAME], "it asked by TFTP for {files:?}");
        lan.ensure_logged(&[&mac, "/boot.ipxe: iPXE (bare class after a loader)"])
    })
}

fn a_loader_that_passes_for_a_rom_is_freed_from_its_loop() -> Result<()> {
    Lan::with(&[], |lan| {
        let _leases = lan.start_dhcp(Says::Nothing)?;
        let mac = random_mac();
        let files = boot_bios(lan, &mac, Hidden::AllWithTheClassOfARom, LOOP_LIMIT)?;
        ensure!(files.iter().all(|file| file == BIOS_NAME), "it asked by TFTP for {files:?}");
        ensure!(files.len() >= 3, "it was freed after it had loaded {} times", files.len());
        lan.ensure_logged(&[
            &mac,
            "/boot.ipxe: loop guard: the same loader three times in two minutes",
        ])
    })
}
