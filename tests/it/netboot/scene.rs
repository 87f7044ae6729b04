//! What every row of the matrix has in common: a LAN with an agent on it, an order for one machine, a word to wait for.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pureboot_tests::capture::Sent;
use pureboot_tests::dnsmasq::{self, Says};
use pureboot_tests::namespace::{BOX_ADDRESS, Namespace};
use pureboot_tests::process::{self, Program};
use pureboot_tests::qemu::{AAVMF_CODE, AAVMF_VARS, Firmware, Machine, OVMF_CODE, OVMF_VARS, Plan};
use pureboot_tests::random;
use pureboot_tests::site::{Ports, Site, text};
use serde_json::json;

use crate::need::Need;

pub(super) const QEMU: Need = Need::Program("qemu-system-x86_64", "qemu-system-x86");
pub(super) const QEMU_ARM: Need = Need::Program("qemu-system-aarch64", "qemu-system-arm");
pub(super) const DNSMASQ: Need = Need::Program("dnsmasq", "dnsmasq-base");
pub(super) const AS: Need = Need::Program("as", "binutils");
pub(super) const OBJCOPY: Need = Need::Program("objcopy", "binutils");
pub(super) const AS_ARM: Need = Need::Program("aarch64-linux-gnu-as", "binutils-aarch64-linux-gnu");
pub(super) const ROM: Need = Need::File("/usr/lib/ipxe/qemu/pxe-virtio.rom", "ipxe-qemu");
pub(super) const OVMF: Need = Need::File(OVMF_CODE, "ovmf");
pub(super) const OVMF_DELIVERED: Need = Need::File(OVMF_VARS, "ovmf");
pub(super) const AAVMF: Need = Need::File(AAVMF_CODE, "qemu-efi-aarch64");
pub(super) const AAVMF_DELIVERED: Need = Need::File(AAVMF_VARS, "qemu-efi-aarch64");
pub(super) const BIOS_LOADER: Need = Need::File(UNDIONLY, "ipxe");
pub(super) const UEFI_LOADER: Need = Need::File(IPXE_EFI, "ipxe");

/// A PC with a network of its own, whose firmware is in QEMU and its card.
pub(super) const PC: Need =
    Need::All(&[Need::Root, Need::Namespaces, QEMU, DNSMASQ, AS, OBJCOPY, ROM]);
/// The same by UEFI.
pub(super) const UEFI_PC: Need = Need::All(&[
    Need::Root,
    Need::Namespaces,
    QEMU,
    DNSMASQ,
    AS,
    OBJCOPY,
    UEFI_LOADER,
    OVMF,
    OVMF_DELIVERED,
]);
/// A machine with 64-bit ARM and UEFI.
pub(super) const ARM64: Need =
    Need::All(&[Need::Root, Need::Namespaces, QEMU_ARM, DNSMASQ, AS_ARM, AAVMF, AAVMF_DELIVERED]);

/// Debian's boot loaders.
pub(super) const UNDIONLY: &str = "/usr/lib/ipxe/undionly.kpxe";
pub(super) const IPXE_EFI: &str = "/boot/ipxe.efi";

/// What a boot may take without KVM on a busy machine; 20 s, 30 s and 12 s were seen on an idle one.
pub(super) const SEABIOS_LIMIT: Duration = Duration::from_secs(240);
pub(super) const OVMF_LIMIT: Duration = Duration::from_secs(300);
pub(super) const AAVMF_LIMIT: Duration = Duration::from_secs(300);

pub(super) const TAP: &str = "tap0";
/// A DHCP server on a machine of its own.
pub(super) const OTHER_SERVER: Ipv4Addr = Ipv4Addr::new(10, 73, 0, 2);
pub(super) const PORTS: Ports = Ports { address: BOX_ADDRESS, boot: 8080, tftp: 69 };

/// What the agent's files are called when nobody has configured them.
pub(super) const BIOS_NAME: &str = "undionly.kpxe";
pub(super) const X64_NAME: &str = "snponly-x64.efi";
pub(super) const ARM64_NAME: &str = "snponly-arm64.efi";

/// A site's network: the agent on the box, its ProxyDHCP on, and another host for the site's own DHCP server.
pub(super) struct Lan<'a> {
    pub(super) site: Site,
    /// The other host.
    pub(super) other: &'a Namespace,
    pub(super) namespace: &'a Namespace,
}

impl Lan<'_> {
    /// Makes one for `run`; `loaders` are the kinds that have another file than usual.
    pub(super) fn with(
        loaders: &[(&str, &str)],
        run: impl FnOnce(&mut Lan<'_>) -> Result<()> + Send,
    ) -> Result<()> {
        let namespace = Namespace::new()?;
        namespace.add_tap(TAP)?;
        let other = namespace.add_host(OTHER_SERVER)?;
        namespace.enter(|| {
            let mut site = Site::start_at(PORTS)?;
            enable_proxydhcp(&mut site, loaders)?;
            run(&mut Lan { site, other: &other, namespace: &namespace })
        })
    }

    /// The site's own DHCP server comes up on the other host.
    pub(super) fn start_dhcp(&self, says: Says<'_>) -> Result<Program> {
        let dir = self.site.dir();
        self.other.enter(|| dnsmasq::start("eth0", says, dir))
    }

    /// Adds lines to the agent's settings, and starts it anew.
    pub(super) fn add_settings(&mut self, lines: &str) -> Result<()> {
        self.site.agent.stop();
        let path = self.site.agent.data_dir().join("agent.toml");
        let settings = fs::read_to_string(&path)?;
        fs::write(&path, format!("{settings}\n{lines}\n"))?;
        self.site.agent.start()
    }

    /// Everything that the agent has written to its log since its start.
    pub(super) fn log(&mut self) -> Result<String> {
        Ok(self.site.agent.program()?.log())
    }

    /// Refuses a log of the agent without a line that has all of these.
    pub(super) fn ensure_logged(&mut self, parts: &[&str]) -> Result<()> {
        let log = self.log()?;
        let is_there = log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        ensure!(is_there, "no line of the agent's log has all of {parts:?}:\n{log}");
        Ok(())
    }
}

/// Switches ProxyDHCP on, as an operator does who edits the settings; `loaders` are the kinds that have another file than
/// usual.
pub(crate) fn enable_proxydhcp(site: &mut Site, loaders: &[(&str, &str)]) -> Result<()> {
    site.agent.stop();
    let path = site.agent.data_dir().join("agent.toml");
    let settings = fs::read_to_string(&path)?;
    let mut edited = settings
        .replace("enabled = false", "enabled = true")
        .replace("interfaces = []", "interfaces = [\"lan\"]");
    ensure!(edited != settings, "no [dhcp] to switch on in {settings}");
    for (kind, file) in loaders {
        let is_kind = |line: &str| line.split(" = ").next() == Some(kind);
        let lines = edited.lines();
        let lines = lines
            .map(|line| if is_kind(line) { format!("{kind} = {file:?}") } else { line.to_owned() });
        let changed = lines.collect::<Vec<_>>().join("\n") + "\n";
        ensure!(changed != edited, "no loader '{kind}' to change in {settings}");
        edited = changed;
    }
    fs::write(&path, edited)?;
    site.agent.start()
}

/// The programs that make bytes of a source.
pub(super) enum Assembler {
    /// Of this machine, with this word size.
    Native(&'static str),
    /// For 64-bit ARM.
    Arm64,
}

/// Assembles a source to the bytes of its section `.text`.
pub(super) fn assemble(source: &str, assembler: Assembler, dir: &Path) -> Result<Vec<u8>> {
    let run = format!("{:08x}", random() >> 32);
    let [text, object, image] = ["S", "o", "bin"].map(|kind| dir.join(format!("{run}.{kind}")));
    fs::write(&text, source)?;
    let (prefix, bits) = match assembler {
        Assembler::Native(bits) => ("", Some(bits)),
        Assembler::Arm64 => ("aarch64-linux-gnu-", None),
    };
    let mut command = process::system(&format!("{prefix}as"))?;
    command.args(bits).arg("-o").args([&object, &text]);
    process::succeed(command)?;
    let mut command = process::system(&format!("{prefix}objcopy"))?;
    command.args(["--output-target", "binary", "--only-section", ".text"]).args([&object, &image]);
    process::succeed(command)?;
    Ok(fs::read(image)?)
}

/// A disk on which nothing has been installed yet.
pub(super) fn blank_disk(dir: &Path) -> Result<PathBuf> {
    let disk = dir.join(format!("disk.{:08x}", random() >> 32));
    File::create(&disk)?.set_len(1 << 20)?;
    Ok(disk)
}

/// A word that stands nowhere else.
pub(super) fn nonce() -> String {
    format!("{:016x}", random())
}

/// What kind of kernel a machine starts.
#[derive(Clone, Copy)]
pub(super) enum Kernel {
    Bios,
    Uefi,
}

/// Puts a file of this machine among the site's loaders.
pub(super) fn add_loader(site: &Site, name: &str, file: &str) -> Result<()> {
    let content = fs::read(file).with_context(|| format!("cannot read {file}"))?;
    site.agent.cache_add(&format!("bootloaders/{name}"), &content)
}

/// Puts a program for 64-bit ARM among the site's loaders, and returns the word that it says.
pub(super) fn add_arm64_loader(site: &Site, name: &str) -> Result<String> {
    let nonce = nonce();
    let source = include_str!("arm64.S").replace("@NONCE@", &nonce);
    let program = assemble(&source, Assembler::Arm64, site.dir())?;
    site.agent.cache_add(&format!("bootloaders/{name}"), &program)?;
    Ok(nonce)
}

/// Enters a machine with an order to install, as an operator does who knows it beforehand. Returns the word that its kernel
/// will say: it stands in the command line of the workflow, and nowhere else.
pub(super) fn order_installation(site: &Site, kernel: Kernel, mac: &str) -> Result<String> {
    let (name, nonce) = (format!("machine-{:08x}", random() >> 32), nonce());
    let kernel = match kernel {
        Kernel::Bios => assemble(include_str!("bios.S"), Assembler::Native("--32"), site.dir())?,
        Kernel::Uefi => assemble(include_str!("uefi.S"), Assembler::Native("--64"), site.dir())?,
    };
    site.agent.cache_add(&format!("images/{name}/kernel"), &kernel)?;
    site.agent.cache_add(&format!("images/{name}/initrd"), b"not read")?;
    let workflow = site.controller.make_workflow(&name, &format!("nonce={nonce}"))?;
    let body = json!({ "mac_address": mac, "hostname": name, "home_site_id": site.id });
    let node_id = text(&site.controller.post("/nodes", &body)?, "id")?;
    site.controller.order_install(&node_id, &workflow)?;
    Ok(nonce)
}

/// A new machine without anything on its disk; it is on.
pub(super) fn power_on(site: &Site, firmware: Firmware, mac: &str) -> Result<Machine> {
    let disk = blank_disk(site.dir())?;
    Plan { firmware, mac, tap: TAP, disk: &disk, disguise: None }.power_on(site.dir())
}

/// Waits until the kernel has said its word, and checks what else it was told.
pub(super) fn ensure_installs(
    site: &Site,
    machine: &mut Machine,
    mac: &str,
    nonce: &str,
    limit: Duration,
) -> Result<()> {
    machine.says("payload:", limit)?;
    machine.says(&format!("nonce={nonce}"), limit)?;
    check_payload(machine, nonce, mac)?;
    site.controller.wait_for_state(mac, "installing").map(|_| ())
}

/// The line of the kernel: what it was told on its command line.
pub(super) fn payload(machine: &Machine) -> Result<String> {
    let console = machine.console();
    let line = console.rsplit("payload: ").next().and_then(|rest| rest.lines().next());
    line.map(ToOwned::to_owned).with_context(|| format!("no payload:\n{console}"))
}

pub(super) fn check_payload(machine: &Machine, nonce: &str, mac: &str) -> Result<()> {
    let line = payload(machine)?;
    for wanted in [&format!("nonce={nonce}"), "pureboot.url=http://10.73.0.1:8080", mac] {
        ensure!(line.contains(wanted), "no '{wanted}' in the kernel's command line: {line}");
    }
    Ok(())
}

/// How often the machine asked for its file on port 4011.
pub(super) fn boot_server_requests(sent: &[Sent]) -> usize {
    sent.iter().filter(|sent| matches!(sent, Sent::Dhcp { port: 4011, kind: 3, .. })).count()
}
