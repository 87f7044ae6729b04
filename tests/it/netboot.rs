//! Real firmware boots from the agent: SeaBIOS with the iPXE ROM, and OVMF by UEFI PXE.
//!
//! The machine loads a kernel that we assemble here: its only act is to say its command line on the serial port. The random
//! word in that command line was given to the controller by an operator; it reaches the serial port only if the loader, the
//! script and the kernel were really fetched and started.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pureboot_tests::namespace::{BOX_ADDRESS, Namespace};
use pureboot_tests::process::{self, Program};
use pureboot_tests::qemu::{Firmware, Machine, OVMF_CODE, OVMF_VARS};
use pureboot_tests::site::{Ports, Site, boot_of, text};
use pureboot_tests::{random, random_mac};
use serde_json::json;

use crate::need::Need;
use crate::{Case, boots, case};

const QEMU: Need = Need::Program("qemu-system-x86_64", "qemu-system-x86");
const DNSMASQ: Need = Need::Program("dnsmasq", "dnsmasq-base");
const AS: Need = Need::Program("as", "binutils");
const OBJCOPY: Need = Need::Program("objcopy", "binutils");

/// Debian's boot loaders.
const UNDIONLY: &str = "/usr/lib/ipxe/undionly.kpxe";
const IPXE_EFI: &str = "/boot/ipxe.efi";

/// What a boot may take without KVM on a busy machine; 20 s and 30 s were seen on an idle one.
const SEABIOS_LIMIT: Duration = Duration::from_secs(90);
const OVMF_LIMIT: Duration = Duration::from_secs(240);

const TAP: &str = "tap0";
/// A DHCP server on a machine of its own.
const OTHER_SERVER: Ipv4Addr = Ipv4Addr::new(10, 73, 0, 2);
const PORTS: Ports = Ports { address: BOX_ADDRESS, boot: 8080, tftp: 69 };

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(
            seabios_is_discovered_then_installs_then_boots_its_disk,
            Need::Root,
            Need::Namespaces,
            QEMU,
            DNSMASQ,
            AS,
            OBJCOPY,
            Need::File("/usr/lib/ipxe/qemu/pxe-virtio.rom", "ipxe-qemu"),
            Need::File(UNDIONLY, "ipxe"),
        ),
        case!(
            ovmf_boots_by_uefi_pxe_to_its_installer,
            Need::Root,
            Need::Namespaces,
            QEMU,
            DNSMASQ,
            AS,
            OBJCOPY,
            Need::File(IPXE_EFI, "ipxe"),
            Need::File(OVMF_CODE, "ovmf"),
            Need::File(OVMF_VARS, "ovmf"),
        ),
        case!(
            ovmf_boots_by_proxydhcp_beside_a_server_that_knows_nothing,
            Need::Root,
            Need::Namespaces,
            QEMU,
            DNSMASQ,
            AS,
            OBJCOPY,
            Need::File(IPXE_EFI, "ipxe"),
            Need::File(OVMF_CODE, "ovmf"),
            Need::File(OVMF_VARS, "ovmf"),
        ),
    ]
}

/// Assembles a kernel from its source.
fn assemble(source: &str, bits: &str, dir: &Path) -> Result<Vec<u8>> {
    let [text, object, image] = ["kernel.S", "kernel.o", "kernel"].map(|name| dir.join(name));
    fs::write(&text, source)?;
    let mut command = process::system("as")?;
    command.arg(bits).arg("-o").args([&object, &text]);
    process::succeed(command)?;
    let mut command = process::system("objcopy")?;
    command.args(["--output-target", "binary", "--only-section", ".text"]).args([&object, &image]);
    process::succeed(command)?;
    Ok(fs::read(image)?)
}

/// A disk on which nothing has been installed yet.
fn blank_disk(dir: &Path) -> Result<PathBuf> {
    let disk = dir.join("disk");
    File::create(&disk)?.set_len(1 << 20)?;
    Ok(disk)
}

/// A DHCP server on one interface that leases addresses and knows nothing of booting.
pub(crate) fn leases_only(interface: &str, dir: &Path) -> Result<Command> {
    let mut command = process::system("dnsmasq")?;
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root"]);
    command.arg(format!("--interface={interface}"));
    command.args(["--bind-interfaces", "--log-dhcp", "--log-facility=-", "--pid-file="]);
    command.args(["--no-ping", "--dhcp-authoritative", "--dhcp-range=10.73.0.50,10.73.0.99,1h"]);
    command.arg(format!("--dhcp-leasefile={}", dir.join("leases").display()));
    Ok(command)
}

/// The site's own DHCP server, as the README tells to set it up; `for_ipxe` is what iPXE is told to load.
fn start_dhcp(for_ipxe: &str, dir: &Path) -> Result<Program> {
    let mut command = leases_only("lan", dir)?;
    command.args(["--dhcp-match=set:ipxe,175", "--dhcp-match=set:efi,option:client-arch,7"]);
    command.arg(format!("--dhcp-boot=tag:ipxe,{for_ipxe},,{BOX_ADDRESS}"));
    command.arg(format!("--dhcp-boot=tag:!ipxe,tag:efi,ipxe.efi,,{BOX_ADDRESS}"));
    command.arg(format!("--dhcp-boot=tag:!ipxe,tag:!efi,undionly.kpxe,,{BOX_ADDRESS}"));
    Program::spawn("dnsmasq", command, dir)
}

fn boot_url(site: &Site) -> String {
    site.agent.url("/boot.ipxe")
}

/// Lets the ROM load undionly.kpxe and the iPXE in that file load the first script, both by TFTP.
///
/// The two ask for their address in the same words, so the DHCP server is exchanged in between: when the ROM names the
/// file, it has its address and asks for no other.
fn chain_to_script(machine: &mut Machine, dir: &Path) -> Result<Program> {
    let for_rom = start_dhcp("undionly.kpxe", dir)?;
    machine.says("tftp://10.73.0.1/undionly.kpxe", SEABIOS_LIMIT)?;
    drop(for_rom);
    start_dhcp("autoexec.ipxe", dir)
}

/// A word that stands nowhere but in one workflow's command line.
fn nonce() -> String {
    format!("{:016x}", random())
}

fn seabios_is_discovered_then_installs_then_boots_its_disk() -> Result<()> {
    let namespace = Namespace::new()?;
    namespace.add_tap(TAP)?;
    namespace.enter(|| {
        let site = Site::start_at(PORTS)?;
        let (dir, mac) = (site.dir(), random_mac());
        let (name, nonce) = (format!("bios-{:08x}", random() >> 32), nonce());
        let kernel = assemble(include_str!("netboot/bios.S"), "--32", dir)?;
        site.agent.cache_add(&format!("images/{name}/kernel"), &kernel)?;
        site.agent.cache_add(&format!("images/{name}/initrd"), b"not read")?;
        site.agent.cache_add("bootloaders/undionly.kpxe", &fs::read(UNDIONLY)?)?;

        let disk = blank_disk(dir)?;

        // The first boot: loader and first script by TFTP, then HTTP.
        {
            let mut machine = Machine::power_on(Firmware::SeaBios, &mac, TAP, &disk, dir)?;
            let _dhcp = chain_to_script(&mut machine, dir)?;
            machine.says("autoexec.ipxe... ok", SEABIOS_LIMIT)?;
            machine.says(&mac, SEABIOS_LIMIT)?;
            site.controller.wait_for_state(&mac, "discovered")?;
        }

        // The operator decides; the second boot goes by HTTP from the start.
        let node = site.controller.wait_for_state(&mac, "discovered")?;
        let workflow = site.controller.make_workflow(&name, &format!("nonce={nonce}"))?;
        site.controller.order_install(&text(&node, "id")?, &workflow)?;
        let _dhcp = start_dhcp(&boot_url(&site), dir)?;
        let mut machine = Machine::power_on(Firmware::SeaBios, &mac, TAP, &disk, dir)?;
        machine.says(&format!("nonce={nonce}"), SEABIOS_LIMIT)?;
        machine.says("payload:", SEABIOS_LIMIT)?;
        check_payload(&machine, &nonce, &mac)?;
        site.controller.wait_for_state(&mac, "installing")?;

        // The installer writes the disk and calls back; the third boot is left to the disk.
        let boot = boot_in_payload(&machine)?;
        drop(machine);
        let sector = assemble(include_str!("netboot/disk.S"), "--32", dir)?;
        OpenOptions::new().write(true).open(&disk)?.write_all(&sector)?;
        site.agent.report(&mac, &boot, "install_complete", None)?;
        site.controller.wait_for_state(&mac, "installed")?;
        let mut machine = Machine::power_on(Firmware::SeaBios, &mac, TAP, &disk, dir)?;
        machine.says("boot.ipxe... ok", SEABIOS_LIMIT)?;
        machine.says("disk: started", SEABIOS_LIMIT)?;
        let console = machine.console();
        ensure!(!console.contains("payload:"), "it was installed again:\n{console}");
        Ok(())
    })
}

/// The line of the kernel: what it was told on its command line.
fn payload(machine: &Machine) -> Result<String> {
    let console = machine.console();
    let line = console.rsplit("payload: ").next().and_then(|rest| rest.lines().next());
    line.map(ToOwned::to_owned).with_context(|| format!("no payload:\n{console}"))
}

fn check_payload(machine: &Machine, nonce: &str, mac: &str) -> Result<()> {
    let line = payload(machine)?;
    for wanted in [&format!("nonce={nonce}"), "pureboot.url=http://10.73.0.1:8080", mac] {
        ensure!(line.contains(wanted), "no '{wanted}' in the kernel's command line: {line}");
    }
    Ok(())
}

fn boot_in_payload(machine: &Machine) -> Result<String> {
    boot_of(&payload(machine)?)
}

/// Fills the cache for a UEFI machine, and enters it with an order to install: an operator knows it beforehand. Returns the
/// word that its kernel will say.
fn order_uefi_installation(site: &Site, loader: &str, mac: &str) -> Result<String> {
    let (name, nonce) = (format!("uefi-{:08x}", random() >> 32), nonce());
    let kernel = assemble(include_str!("netboot/uefi.S"), "--64", site.dir())?;
    site.agent.cache_add(&format!("images/{name}/kernel"), &kernel)?;
    site.agent.cache_add(&format!("images/{name}/initrd"), b"not read")?;
    site.agent.cache_add(&format!("bootloaders/{loader}"), &fs::read(IPXE_EFI)?)?;
    let workflow = site.controller.make_workflow(&name, &format!("nonce={nonce}"))?;
    let body = json!({ "mac_address": mac, "hostname": name, "home_site_id": site.id });
    let node_id = text(&site.controller.post("/nodes", &body)?, "id")?;
    site.controller.order_install(&node_id, &workflow)?;
    Ok(nonce)
}

/// Switches a UEFI machine on and waits until its installer says the word.
fn boot_uefi_to_installer(site: &Site, mac: &str, nonce: &str) -> Result<()> {
    let disk = blank_disk(site.dir())?;
    let mut machine = Machine::power_on(Firmware::Ovmf, mac, TAP, &disk, site.dir())?;
    machine.says("iPXE initialising devices", OVMF_LIMIT)?;
    machine.says("payload:", OVMF_LIMIT)?;
    machine.says(&format!("nonce={nonce}"), OVMF_LIMIT)?;
    check_payload(&machine, nonce, mac)?;
    site.controller.wait_for_state(mac, "installing").map(|_| ())
}

fn ovmf_boots_by_uefi_pxe_to_its_installer() -> Result<()> {
    let namespace = Namespace::new()?;
    namespace.add_tap(TAP)?;
    namespace.enter(|| {
        let site = Site::start_at(PORTS)?;
        let mac = random_mac();
        let nonce = order_uefi_installation(&site, "ipxe.efi", &mac)?;
        let _dhcp = start_dhcp(&boot_url(&site), site.dir())?;
        boot_uefi_to_installer(&site, &mac, &nonce)
    })
}

/// Switches ProxyDHCP on, as an operator does who edits the settings.
pub(crate) fn enable_proxydhcp(site: &mut Site) -> Result<()> {
    site.agent.stop();
    let path = site.agent.data_dir().join("agent.toml");
    let settings = fs::read_to_string(&path)?;
    let edited = settings
        .replace("enabled = false", "enabled = true")
        .replace("interfaces = []", "interfaces = [\"lan\"]");
    ensure!(edited != settings, "no [dhcp] to switch on in {settings}");
    fs::write(&path, edited)?;
    site.agent.start()
}

fn ovmf_boots_by_proxydhcp_beside_a_server_that_knows_nothing() -> Result<()> {
    let namespace = Namespace::new()?;
    namespace.add_tap(TAP)?;
    let other = namespace.add_host(OTHER_SERVER)?;
    namespace.enter(|| {
        let mut site = Site::start_at(PORTS)?;
        enable_proxydhcp(&mut site)?;
        let mac = random_mac();
        let nonce = order_uefi_installation(&site, "snponly-x64.efi", &mac)?;
        let dir = site.dir();
        let _leases = other.enter(|| Program::spawn("dnsmasq", leases_only("eth0", dir)?, dir))?;
        boot_uefi_to_installer(&site, &mac, &nonce)?;
        check_session(&site, &mac)
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
