//! A DHCP server that stayed behind with a boot file of its own.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use pureboot_tests::capture::{Sent, http_lines, tftp_names};
use pureboot_tests::dhcp::{Ask, Client, DISCOVER, SERVERS, mac_bytes};
use pureboot_tests::dnsmasq::Says;
use pureboot_tests::namespace::BOX_ADDRESS;
use pureboot_tests::qemu::Firmware;
use pureboot_tests::{random_mac, wait};

use super::scene::*;
use crate::need::Need;
use crate::{Case, case};

/// What it tells everybody to load, from itself.
const ROGUE_FILE: &str = "left-behind.0";
/// Another machine on the LAN, which asks and boots nothing.
const ASKING: Ipv4Addr = Ipv4Addr::new(10, 73, 0, 3);

pub(super) fn cases() -> Vec<Case> {
    vec![case!(
        a_server_with_a_file_of_its_own_misleads_ipxe_and_is_named_by_the_doctor,
        Need::Long,
        PC
    )]
}

/// A LAN on which the site's own DHCP server names a file of its own beside the agent's offers.
pub(super) fn with_rogue(run: impl FnOnce(&mut Lan<'_>) -> Result<()> + Send) -> Result<()> {
    Lan::with(&[], |lan| {
        let _rogue = lan.start_dhcp(Says::Rogue(ROGUE_FILE, OTHER_SERVER))?;
        run(lan)
    })
}

fn a_server_with_a_file_of_its_own_misleads_ipxe_and_is_named_by_the_doctor() -> Result<()> {
    with_rogue(|lan| {
        let mac = random_mac();
        let nonce = order_installation(&lan.site, Kernel::Bios, &mac)?;
        let mut machine = power_on(&lan.site, Firmware::SeaBios, &mac)?;
        // BOOT §9: iPXE obeys the site's server, whatever the agent offers.
        machine.says(&format!("tftp://{OTHER_SERVER}/{ROGUE_FILE}"), SEABIOS_LIMIT)?;
        wait::until("the machine asks for the wrong file", SEABIOS_LIMIT, || {
            Ok(tftp_names(&machine.sent(&mac)).contains(&ROGUE_FILE).then_some(()))
        })?;
        // The agent made its offer, and nothing came of it.
        lan.ensure_logged(&[&mac, "/boot.ipxe: iPXE (option 175)"])?;
        let sent: Vec<Sent> = machine.sent(&mac);
        ensure!(http_lines(&sent).is_empty(), "it came by HTTP: {:?}", http_lines(&sent));
        ensure!(!machine.console().contains(&nonce), "it booted nevertheless");
        ensure_both_offers_are_heard(lan)?;
        ensure_doctor_names_the_other(lan)
    })
}

/// Whoever asks on this LAN as a machine does hears two servers, and can tell which of them misleads.
fn ensure_both_offers_are_heard(lan: &Lan<'_>) -> Result<()> {
    let asking = lan.namespace.add_host(ASKING)?;
    asking.enter(|| {
        let client = Client::bind("eth0", 68)?;
        for (server, file) in [(BOX_ADDRESS, BIOS_NAME), (OTHER_SERVER, ROGUE_FILE)] {
            let mac = mac_bytes(&random_mac())?;
            let ask = Ask::firmware(DISCOVER, mac, "PXEClient:Arch:00000:UNDI:002001", 0);
            let offer = client.ask_until(&ask, SERVERS, server, SEABIOS_LIMIT)?;
            ensure!(offer.file() == file, "{server} offers '{}', not '{file}'", offer.file());
            ensure!(
                offer.next_server() == Some(server),
                "{server} names {:?}",
                offer.next_server()
            );
        }
        Ok(())
    })
}

/// The operator reads on one line which server misleads, and with which file.
fn ensure_doctor_names_the_other(lan: &Lan<'_>) -> Result<()> {
    let output = lan.site.agent.run(&["doctor"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    let (server, file) = (OTHER_SERVER.to_string(), format!("'{ROGUE_FILE}'"));
    let is_named =
        |line: &str| line.starts_with("FAIL") && line.contains(&server) && line.contains(&file);
    ensure!(said.lines().any(is_named), "no failure names {file} of {server}:\n{said}");
    ensure!(output.status.code() == Some(1), "{}:\n{said}", output.status);
    Ok(())
}
