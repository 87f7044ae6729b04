//! Workflows that start no kernel, on real firmware: SeaBIOS with the iPXE ROM.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pureboot_tests::namespace::{BOX_ADDRESS, Namespace};
use pureboot_tests::process::{self, Program};
use pureboot_tests::qemu::{Firmware, Machine, Plan};
use pureboot_tests::site::{Ports, Site, text};
use pureboot_tests::{random, random_mac};
use serde_json::{Value, json};

use crate::need::Need;
use crate::{Case, case};

const QEMU: Need = Need::Program("qemu-system-x86_64", "qemu-system-x86");
const DNSMASQ: Need = Need::Program("dnsmasq", "dnsmasq-base");
const ROM: Need = Need::File("/usr/lib/ipxe/qemu/pxe-virtio.rom", "ipxe-qemu");

/// What a boot may take without KVM on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// iPXE gives a disk cylinders of 8 MiB, and reads nothing of one that has less than one.
const IMAGE_LEN: usize = 16 << 20;

const TAP: &str = "tap0";
const PORTS: Ports = Ports { address: BOX_ADDRESS, boot: 8080, tftp: 69 };

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(
            seabios_starts_from_a_disk_image_of_the_agent,
            Need::Root,
            Need::Namespaces,
            QEMU,
            DNSMASQ,
            ROM,
            Need::Program("as", "binutils"),
            Need::Program("objcopy", "binutils"),
        ),
        case!(seabios_chains_to_another_program, Need::Root, Need::Namespaces, QEMU, DNSMASQ, ROM,),
    ]
}

/// A boot sector that says that it runs.
fn boot_sector(dir: &Path) -> Result<Vec<u8>> {
    let [text, object, image] = ["disk.S", "disk.o", "disk.bin"].map(|name| dir.join(name));
    fs::write(&text, include_str!("netboot/disk.S"))?;
    let mut command = process::system("as")?;
    command.args(["--32", "-o"]).args([&object, &text]);
    process::succeed(command)?;
    let mut command = process::system("objcopy")?;
    command.args(["--output-target", "binary", "--only-section", ".text"]).args([&object, &image]);
    process::succeed(command)?;
    Ok(fs::read(image)?)
}

/// The machine's own disk, with nothing on it.
fn blank_disk(dir: &Path) -> Result<PathBuf> {
    let disk = dir.join("blank");
    fs::File::create(&disk)?.set_len(1 << 20)?;
    Ok(disk)
}

/// A DHCP server that sends iPXE to the agent.
fn start_dhcp(site: &Site) -> Result<Program> {
    let mut command = process::system("dnsmasq")?;
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root"]);
    command.args(["--interface=lan", "--bind-interfaces", "--log-facility=-", "--pid-file="]);
    command.args(["--no-ping", "--dhcp-authoritative", "--dhcp-range=10.73.0.50,10.73.0.99,1h"]);
    command.arg(format!("--dhcp-leasefile={}", site.dir().join("leases").display()));
    command.arg(format!("--dhcp-boot={},,{BOX_ADDRESS}", site.agent.url("/boot.ipxe")));
    Program::spawn("dnsmasq", command, site.dir())
}

/// Enters a machine with an order to start the workflow `boot`, and switches it on.
fn order(site: &Site, mac: &str, mut boot: Value) -> Result<Machine> {
    let name = format!("w-{:08x}", random() >> 32);
    boot.as_object_mut().context("a workflow is an object")?.insert("name".to_owned(), json!(name));
    let workflow = text(&site.controller.post("/workflows?allow_missing=true", &boot)?, "id")?;
    let node = json!({ "mac_address": mac, "home_site_id": site.id });
    let node = text(&site.controller.post("/nodes", &node)?, "id")?;
    site.controller.order_install(&node, &workflow)?;
    let disk = blank_disk(site.dir())?;
    let firmware = Firmware::SeaBios;
    Plan { firmware, mac, tap: TAP, disk: &disk, disguise: None }.power_on(site.dir())
}

fn seabios_starts_from_a_disk_image_of_the_agent() -> Result<()> {
    let namespace = Namespace::new()?;
    namespace.add_tap(TAP)?;
    namespace.enter(|| {
        let site = Site::start_at(PORTS)?;
        let mut image = boot_sector(site.dir())?;
        image.resize(IMAGE_LEN, 0);
        site.agent.cache_add("images/rescue.img", &image)?;
        let _dhcp = start_dhcp(&site)?;
        let mac = random_mac();
        let boot = json!({ "method": "sanboot", "source": "images/rescue.img" });
        let mut machine = order(&site, &mac, boot)?;
        machine.says("Starting from the disk image images/rescue.img", LIMIT)?;
        // The machine's own disk has no boot sector.
        machine.says("disk: started", LIMIT)?;
        site.controller.wait_for_state(&mac, "installing")?;
        Ok(())
    })
}

fn seabios_chains_to_another_program() -> Result<()> {
    let namespace = Namespace::new()?;
    namespace.add_tap(TAP)?;
    namespace.enter(|| {
        let site = Site::start_at(PORTS)?;
        let nonce = format!("{:016x}", random());
        let program = format!("#!ipxe\necho chained: {nonce}\nexit\n");
        site.agent.cache_add("scripts/next.ipxe", program.as_bytes())?;
        let _dhcp = start_dhcp(&site)?;
        let mac = random_mac();
        let mut machine =
            order(&site, &mac, json!({ "method": "chain", "target": "scripts/next.ipxe" }))?;
        machine.says(&format!("chained: {nonce}"), LIMIT)?;
        machine.says("The program has ended.", LIMIT)?;
        site.controller.wait_for_state(&mac, "installing")?;
        let console = machine.console();
        ensure!(!console.contains("did not start"), "it was told to have failed:\n{console}");
        Ok(())
    })
}
