//! The sentences about ProxyDHCP over real sockets, with a client that says exactly what it is told to: no firmware is needed.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pureboot_tests::dhcp::{Ask, Client, DISCOVER, Heard, INFORM, REQUEST, SERVERS, mac_bytes};
use pureboot_tests::dnsmasq::{self, Says};
use pureboot_tests::namespace::{BOX_ADDRESS, Namespace};
use pureboot_tests::site::Site;
use pureboot_tests::{http, process, random_mac, wait};

use super::scene::*;
use crate::need::Need;
use crate::{Case, case};

/// Where a machine has an address already.
const LEASED: Ipv4Addr = Ipv4Addr::new(10, 73, 0, 3);
const BOX: SocketAddrV4 = SocketAddrV4::new(BOX_ADDRESS, 67);
const BOX_4011: SocketAddrV4 = SocketAddrV4::new(BOX_ADDRESS, 4011);

const BIOS: &str = "PXEClient:Arch:00000:UNDI:002001";
const X64: &str = "PXEClient:Arch:00007:UNDI:003016";

/// What an answer may take to come on a busy machine where its own time is not the point.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long nothing must come for it to count as silence.
const SILENCE: Duration = Duration::from_millis(1_500);

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(offers_are_broadcast_where_there_is_no_default_route, Need::Root, Need::Namespaces),
        case!(
            an_offer_comes_within_100_ms_while_the_controller_is_away,
            Need::Root,
            Need::Namespaces
        ),
        case!(a_relay_gets_the_answer_with_its_own_information_last, Need::Root, Need::Namespaces),
        case!(who_has_an_address_is_answered_there_on_both_ports, Need::Root, Need::Namespaces),
        case!(each_kind_of_machine_is_told_its_own_file, Need::Root, Need::Namespaces),
        case!(an_unknown_architecture_gets_silence_and_a_report, Need::Root, Need::Namespaces),
        case!(a_loader_that_comes_back_a_third_time_gets_the_script, Need::Root, Need::Namespaces),
        case!(a_file_is_chosen_by_what_a_machine_said_over_http, Need::Root, Need::Namespaces),
        case!(
            dnsmasq_with_the_companion_snippet_names_the_same_files,
            Need::Root,
            Need::Namespaces,
            DNSMASQ,
        ),
    ]
}

fn random_machine() -> Result<[u8; 6]> {
    mac_bytes(&random_mac())
}

/// Asks the agent as a machine without an address.
fn ask(lan: &Lan<'_>, ask: &Ask) -> Result<Heard> {
    lan.other.enter(|| Client::bind("eth0", 68)?.ask_until(ask, SERVERS, BOX_ADDRESS, ANSWER_LIMIT))
}

fn offers_are_broadcast_where_there_is_no_default_route() -> Result<()> {
    Lan::with(&[], |lan| {
        // The scene is what it claims to be: nothing but a socket that is bound to the link can broadcast here.
        let error = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
            .and_then(|socket| {
                socket.set_broadcast(true)?;
                socket.send_to(b"?", (Ipv4Addr::BROADCAST, 9))
            })
            .err()
            .context("there is a route to 255.255.255.255")?;
        ensure!(error.kind() == ErrorKind::NetworkUnreachable, "the broadcast failed: {error}");
        let offer = ask(lan, &Ask::firmware(DISCOVER, random_machine()?, X64, 7))?;
        ensure!(offer.file() == X64_NAME, "the offer names {}", offer.file());
        ensure!(offer.next_server() == Some(BOX_ADDRESS), "it names {:?}", offer.next_server());
        Ok(())
    })
}

fn an_offer_comes_within_100_ms_while_the_controller_is_away() -> Result<()> {
    Lan::with(&[], |lan| {
        lan.site.controller.stop();
        let mut times = Vec::new();
        for _ in 0..9 {
            times.push(ask(lan, &Ask::firmware(DISCOVER, random_machine()?, BIOS, 0))?.after);
        }
        // On a busy machine one or another has to wait for a processor.
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        ensure!(median < Duration::from_millis(100), "the offers took {times:?}");
        Ok(())
    })
}

fn a_relay_gets_the_answer_with_its_own_information_last() -> Result<()> {
    Lan::with(&[], |lan| {
        let info = [&[1, 4][..], b"ge-0", &[2, 6, 0, 1, 2, 3, 4, 5]].concat();
        let asked = Ask::firmware(DISCOVER, random_machine()?, X64, 7)
            .relayed(OTHER_SERVER)
            .with(82, &info)
            .with(97, &[0; 17]);
        let heard = lan.other.enter(|| {
            Client::bind("eth0", 67)?.ask_until(&asked, BOX, BOX_ADDRESS, ANSWER_LIMIT)
        })?;
        ensure!(heard.file() == X64_NAME, "it names {}", heard.file());
        let options = heard.option_list();
        ensure!(
            options.last() == Some(&(82, info.as_slice())),
            "it ends with {:?}",
            options.last()
        );
        Ok(())
    })
}

fn who_has_an_address_is_answered_there_on_both_ports() -> Result<()> {
    Lan::with(&[], |lan| {
        let machine = lan.namespace.add_host(LEASED)?;
        for (kind, port, to) in
            [(INFORM, 68, BOX), (INFORM, 4011, BOX_4011), (REQUEST, 4011, BOX_4011)]
        {
            let asked = Ask::firmware(kind, random_machine()?, X64, 7).leased(LEASED);
            let heard = machine.enter(|| {
                Client::bind("eth0", port)?.ask_until(&asked, to, BOX_ADDRESS, ANSWER_LIMIT)
            });
            let heard =
                heard.with_context(|| format!("message {kind} from port {port} to {to}"))?;
            ensure!(heard.from.port() == to.port(), "{to} answers from {}", heard.from);
            ensure!(heard.options().get(&53) == Some(&vec![5]), "{to} does not acknowledge");
            ensure!(heard.file() == X64_NAME, "{to} names {}", heard.file());
        }
        Ok(())
    })
}

/// Firmware in the words that it was seen to use (BOOT §2, §3 and §7), and what it is to load.
fn kinds(script: &str) -> Result<Vec<(Ask, String)>> {
    let pxe = |class: &str, arch| {
        Ok::<_, anyhow::Error>(Ask::firmware(DISCOVER, random_machine()?, class, arch))
    };
    let pi = mac_bytes(&random_mac().replacen("52:54:00", "dc:a6:32", 1))?;
    let url = |name: &str| format!("http://{BOX_ADDRESS}:{}/files/bootloaders/{name}", PORTS.boot);
    Ok(vec![
        (pxe(BIOS, 0)?, BIOS_NAME.to_owned()),
        (pxe(X64, 7)?, X64_NAME.to_owned()),
        (pxe("PXEClient:Arch:00009:UNDI:003016", 9)?, X64_NAME.to_owned()),
        (pxe("PXEClient:Arch:00011:UNDI:003016", 11)?, ARM64_NAME.to_owned()),
        (pxe("HTTPClient:Arch:00016:UNDI:003001", 16)?, url(X64_NAME)),
        (pxe("HTTPClient:Arch:00019:UNDI:003001", 19)?, url(ARM64_NAME)),
        (pxe("U-Boot.armv8", 0x16)?, "boot.scr".to_owned()),
        (Ask::firmware(DISCOVER, pi, BIOS, 0), "bootcode.bin".to_owned()),
        // iPXE by its options alone, under the bare class that a second stage was seen to use.
        (pxe("PXEClient", 0)?.with(175, &[0xb1, 1, 1]), script.to_owned()),
        (pxe(X64, 7)?.with(77, b"iPXE"), script.to_owned()),
    ])
}

/// U-Boot on a PC swaps 6 and 7 and says UNDI 0.0, which no table of a DHCP server can tell from a PC that means it.
fn swapped() -> Result<Vec<(Ask, String)>> {
    let uboot = |class: &str, arch| {
        Ok::<_, anyhow::Error>(
            Ask::firmware(DISCOVER, random_machine()?, class, arch).with(94, &[1, 0, 0]),
        )
    };
    Ok(vec![
        (uboot("PXEClient:Arch:00006:UNDI:000000", 6)?, X64_NAME.to_owned()),
        (uboot("PXEClient:Arch:00007:UNDI:000000", 7)?, "ipxe-i386.efi".to_owned()),
    ])
}

fn each_kind_of_machine_is_told_its_own_file() -> Result<()> {
    Lan::with(&[], |lan| {
        let known = kinds(&lan.site.agent.url("/boot.ipxe"))?;
        for (asked, file) in known.into_iter().chain(swapped()?) {
            let offer = ask(lan, &asked).with_context(|| format!("where {file} was expected"))?;
            ensure!(offer.file() == file, "expected {file}, got {}", offer.file());
            let is_http = file.contains("/files/");
            let class = if is_http { "HTTPClient" } else { "PXEClient" };
            ensure!(offer.text(60) == class, "{file} is offered as {}", offer.text(60));
            ensure!(is_http || offer.text(66) == BOX_ADDRESS.to_string(), "{file} without 66");
            if file == "bootcode.bin" {
                let menu = offer.text(43);
                ensure!(menu.contains("Raspberry Pi Boot"), "option 43 is {menu:?}");
            }
        }
        Ok(())
    })
}

fn an_unknown_architecture_gets_silence_and_a_report() -> Result<()> {
    Lan::with(&[], |lan| {
        for (arch, report) in [
            (0x02, "there is no loader for Itanium (architecture 0x0002)"),
            (0x25, "there is no loader for LoongArch 32-bit UEFI (architecture 0x0025)"),
            (0x7fff, "the architecture 0x7fff is not registered"),
        ] {
            let asked = Ask::firmware(DISCOVER, random_machine()?, "PXEClient:Arch:?????", arch);
            let heard =
                lan.other.enter(|| Client::bind("eth0", 68)?.ask(&asked, SERVERS, SILENCE))?;
            ensure!(
                heard.is_empty(),
                "architecture {arch:#06x} is offered {:?}",
                heard.iter().map(Heard::file).collect::<Vec<_>>()
            );
            lan.ensure_logged(&[report])?;
        }
        Ok(())
    })
}

fn a_loader_that_comes_back_a_third_time_gets_the_script() -> Result<()> {
    Lan::with(&[], |lan| {
        let (mac, script) = (random_machine()?, lan.site.agent.url("/boot.ipxe"));
        // The firmware's start and three of the loader, which says what the firmware said; then the firmware's again.
        for file in [X64_NAME, X64_NAME, X64_NAME, &script, X64_NAME] {
            let offer = ask(lan, &Ask::firmware(DISCOVER, mac, X64, 7))?;
            ensure!(offer.file() == file, "expected {file}, got {}", offer.file());
            // It takes the lease, so its next question is a new one.
            let request = Ask::firmware(REQUEST, mac, X64, 7);
            lan.other.enter(|| {
                Client::bind("eth0", 68)?.ask(&request, SERVERS, Duration::from_millis(50))
            })?;
        }
        lan.ensure_logged(&["/boot.ipxe: loop guard: the same loader three times in two minutes"])
    })
}

fn a_file_is_chosen_by_what_a_machine_said_over_http() -> Result<()> {
    Lan::with(&[], |lan| {
        lan.add_settings(
            "[[dhcp.quirk]]\nuser_agent = \"UefiHttpBoot/9\"\nfile = \"sb/shimx64.efi\"",
        )?;
        let mac = random_mac();
        let discover = || Ok::<_, anyhow::Error>(Ask::firmware(DISCOVER, mac_bytes(&mac)?, X64, 7));
        let before = ask(lan, &discover()?)?;
        ensure!(before.file() == X64_NAME, "it is told {} before it said anything", before.file());
        let url = lan.site.agent.url(&format!("/boot/{mac}"));
        let said = minreq::get(url).with_header("User-Agent", "UefiHttpBoot/9.1");
        http::send(said)?.expect(200)?;
        ensure!(ask(lan, &discover()?)?.file() == "sb/shimx64.efi", "what it said is forgotten");
        // The journal of boot sessions keeps it.
        lan.site.agent.program()?.terminate()?;
        lan.site.agent.stop();
        lan.site.agent.start()?;
        wait::until("what it said is known again", ANSWER_LIMIT, || {
            Ok((ask(lan, &discover()?)?.file() == "sb/shimx64.efi").then_some(()))
        })
    })
}

fn dnsmasq_with_the_companion_snippet_names_the_same_files() -> Result<()> {
    let namespace = Namespace::new()?;
    let machine = namespace.add_host(LEASED)?;
    namespace.enter(|| {
        // ProxyDHCP is off here: the other server has the port, which is what the snippet is for.
        let site = Site::start_at(PORTS)?;
        let address = BOX_ADDRESS.to_string();
        let command =
            site.agent.command(&["dhcp-snippet", "--for", "dnsmasq", "--address", &address])?;
        let snippet = site.dir().join("snippet.conf");
        fs::write(&snippet, process::succeed(command)?)?;
        let _dhcp = dnsmasq::start("lan", Says::Snippet(&snippet), site.dir())?;
        for (asked, file) in kinds(&site.agent.url("/boot.ipxe"))? {
            let asked = asked.with(55, &[1, 3, 43, 60, 66, 67, 97, 175]);
            let heard = machine.enter(|| {
                Client::bind("eth0", 68)?.ask_until(&asked, SERVERS, BOX_ADDRESS, ANSWER_LIMIT)
            });
            let heard = heard.with_context(|| format!("where {file} was expected"))?;
            ensure!(heard.file() == file, "expected {file}, got {}", heard.file());
            ensure!(
                heard.next_server() == Some(BOX_ADDRESS),
                "{:?} with {file}",
                heard.next_server()
            );
            if file.contains("/files/") {
                ensure!(heard.text(60) == "HTTPClient", "{file} is offered as {}", heard.text(60));
            }
        }
        Ok(())
    })
}
