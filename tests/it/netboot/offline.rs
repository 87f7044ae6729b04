//! The line to the centre is cut and the agent's power failed: real firmware boots all the same, and installs once.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pureboot_tests::capture::Sent;
use pureboot_tests::dnsmasq::Says;
use pureboot_tests::process;
use pureboot_tests::qemu::{Firmware, Machine, Plan, Way};
use pureboot_tests::site::ARRIVAL_LIMIT;
use pureboot_tests::{random_mac, wait};

use super::scene::*;
use crate::need::Need;
use crate::offline::remembered;
use crate::{Case, case};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            n1_seabios_installs_once_while_the_centre_is_away_and_the_agents_power_failed,
            PC,
            BIOS_LOADER
        ),
        case!(
            n1_ovmf_boots_its_record_while_the_centre_is_away_and_the_agents_power_failed,
            Need::Long,
            UEFI_PC
        ),
    ]
}

/// What may lie between a machine's last DISCOVER and its question for the script under emulation on a busy machine; DESIGN says 3 s.
const SCRIPT_LIMIT: Duration = Duration::from_secs(60);

/// The agent's power fails and comes back: nothing of its files is in memory, and it is alone.
fn power_cycle(lan: &mut Lan<'_>) -> Result<()> {
    lan.site.controller.stop();
    lan.site.agent.stop();
    let mut forget = process::system("find")?;
    forget.arg(lan.site.agent.data_dir()).args(["-type", "f", "-exec"]);
    forget.args(["dd", "if={}", "iflag=nocache", "count=0", "status=none", ";"]);
    process::succeed(forget)?;
    lan.site.agent.start()
}

/// Waits until the site has the controller's word on the machine, without the machine having been there.
fn wait_until_known(lan: &Lan<'_>, mac: &str) -> Result<()> {
    wait::until("the record comes by itself", ARRIVAL_LIMIT, || {
        lan.site.agent.run(&["cache", "nodes", "invalidate", "--all"])?;
        let known = remembered(&lan.site, mac)?;
        Ok(known.filter(|node| node.get("state").is_some_and(|it| it == "pending")).map(|_| ()))
    })
}

/// How long before its question for the script the machine sent its first DISCOVER, and the last one.
fn from_discover_to_script(machine: &Machine, mac: &str) -> Result<(Duration, Duration)> {
    let sent = machine.sent_at(mac);
    let is_question =
        |it: &Sent| matches!(it, Sent::Http { line, .. } if line.starts_with("GET /api/v1/boot?"));
    let asked = sent
        .iter()
        .find(|(_, it)| is_question(it))
        .with_context(|| format!("no question: {sent:?}"))?
        .0;
    let discovers = sent
        .iter()
        .filter(|(at, it)| *at <= asked && matches!(it, Sent::Dhcp { port: 67, kind: 1, .. }));
    let discovers: Vec<_> = discovers.map(|(at, _)| asked.saturating_sub(*at)).collect();
    let (first, last) = (discovers.first().context("no DISCOVER")?, discovers.last());
    Ok((*first, *last.context("no DISCOVER")?))
}

fn tell_times(machine: &Machine, mac: &str, firmware: &str) -> Result<()> {
    let (first, last) = from_discover_to_script(machine, mac)?;
    _ = writeln!(
        std::io::stdout(),
        "{firmware}: the script {:.1} s after the loader's DISCOVER, {:.1} s after the firmware's",
        last.as_secs_f64(),
        first.as_secs_f64()
    );
    ensure!(last < SCRIPT_LIMIT, "the script came {last:?} after the DISCOVER");
    Ok(())
}

fn n1_seabios_installs_once_while_the_centre_is_away_and_the_agents_power_failed() -> Result<()> {
    Lan::with(&[], |lan| {
        let _leases = lan.start_dhcp(Says::NothingWithIpv6)?;
        let mac = random_mac();
        let nonce = order_installation(&lan.site, Kernel::Bios, &mac)?;
        add_loader(&lan.site, BIOS_NAME, UNDIONLY)?;
        wait_until_known(lan, &mac)?;
        power_cycle(lan)?;
        let dir = lan.site.dir().to_owned();
        let disk = blank_disk(&dir)?;
        let plan =
            Plan { firmware: Firmware::SeaBios, mac: &mac, tap: TAP, disk: &disk, disguise: None };
        let mut machine = plan.power_on(&dir)?;
        machine.says(&format!("nonce={nonce}"), SEABIOS_LIMIT)?;
        machine.says("this is record version", ARRIVAL_LIMIT)?;
        check_payload(&machine, &nonce, &mac)?;
        tell_times(&machine, &mac, "SeaBIOS")?;
        drop(machine);

        // Whatever the installer did to the disk: it is not given again.
        let sector = assemble(include_str!("disk.S"), Assembler::Native("--32"), &dir)?;
        OpenOptions::new().write(true).open(&disk)?.write_all(&sector)?;
        power_cycle(lan)?;
        let mut machine = plan.power_on(&dir)?;
        machine.says("disk: started", SEABIOS_LIMIT)?;
        let console = machine.console();
        ensure!(!console.contains("payload:"), "the installer was given twice:\n{console}");
        drop(machine);

        lan.site.controller.resume()?;
        lan.site.controller.wait_for_state(&mac, "installing").map(|_| ())
    })
}

fn n1_ovmf_boots_its_record_while_the_centre_is_away_and_the_agents_power_failed() -> Result<()> {
    Lan::with(&[], |lan| {
        let _leases = lan.start_dhcp(Says::NothingWithIpv6)?;
        let mac = random_mac();
        let nonce = order_installation(&lan.site, Kernel::Uefi, &mac)?;
        add_loader(&lan.site, X64_NAME, IPXE_EFI)?;
        wait_until_known(lan, &mac)?;
        power_cycle(lan)?;
        let mut machine = power_on(&lan.site, Firmware::Ovmf(Way::Pxe), &mac)?;
        machine.says(&format!("nonce={nonce}"), OVMF_LIMIT)?;
        check_payload(&machine, &nonce, &mac)?;
        tell_times(&machine, &mac, "OVMF")
    })
}
