//! What the tests need of Debian and of crates.io, and how it comes onto the machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;
use pureboot_tests::postgres::INITDB;
use pureboot_tests::{cache_dir, process, prometheus_python, s3_server, schemathesis};

use crate::cargo;

/// A program or a file, and the Debian package that brings it.
type Needed = (&'static str, &'static str);

const NEEDED: &[Needed] = &[
    ("as", "binutils"),
    ("objcopy", "binutils"),
    ("atftp", "atftp"),
    ("curl", "curl"),
    ("dnsmasq", "dnsmasq-base"),
    ("ip", "iproute2"),
    ("mkfs.ext4", "e2fsprogs"),
    (INITDB, "postgresql"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("nginx", "nginx-light"),
    ("sqlite3", "sqlite3"),
    ("tftp", "tftp-hpa"),
    ("/boot/ipxe.efi", "ipxe"),
    ("/usr/lib/ipxe/undionly.kpxe", "ipxe"),
    ("/usr/lib/ipxe/qemu/pxe-virtio.rom", "ipxe-qemu"),
    // Policies in C; the linker comes with the Rust toolchain.
    ("clang", "clang"),
    // Policies in Rust are built by Debian's compiler where rustup's has no library for WebAssembly.
    ("/usr/bin/rustc", "rustc-web"),
    ("/usr/bin/cargo", "cargo-web"),
    ("/usr/lib/rustlib/src/rust/library", "rust-web-src"),
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"),
    ("/usr/share/OVMF/OVMF_VARS_4M.fd", "ovmf"),
];

/// What only the whole firmware matrix needs, a few hundred megabytes.
const NEEDED_FOR_LONG: &[Needed] = &[
    ("aarch64-linux-gnu-as", "binutils-aarch64-linux-gnu"),
    ("aarch64-linux-gnu-objcopy", "binutils-aarch64-linux-gnu"),
    ("qemu-system-aarch64", "qemu-system-arm"),
    ("qemu-aarch64-static", "qemu-user-static"),
    ("/usr/lib/rustlib/src/rust/library", "rust-web-src"),
    ("/usr/bin/rustc", "rustc-web"),
    ("/usr/bin/cargo", "cargo-web"),
    ("/usr/lib/shim/shimx64.efi.signed", "shim-signed"),
    ("/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed", "grub-efi-amd64-signed"),
    ("/usr/share/AAVMF/AAVMF_CODE.fd", "qemu-efi-aarch64"),
    ("/usr/share/AAVMF/AAVMF_VARS.fd", "qemu-efi-aarch64"),
];

fn is_here(name: &str) -> bool {
    if name.starts_with('/') { Path::new(name).exists() } else { process::find(name).is_some() }
}

fn missing(is_long: bool) -> Vec<&'static str> {
    let needed = NEEDED.iter().chain(if is_long { NEEDED_FOR_LONG } else { &[] });
    let packages: BTreeSet<_> =
        needed.filter(|(name, _)| !is_here(name)).map(|(_, package)| *package).collect();
    packages.into_iter().collect()
}

fn apt_get(arguments: &[&str], packages: &[&str]) -> Result<()> {
    let mut command = process::system("apt-get")?;
    command.args(["--yes", "--quiet", "--no-install-recommends"]).args(arguments).args(packages);
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(std::process::Stdio::null());
    let status = command.status()?;
    ensure!(status.success(), "apt-get {} ended with {status}", arguments.join(" "));
    Ok(())
}

/// Installs Debian packages that are missing, where that is possible, and says what stays missing. `is_long` is for every row
/// of the firmware matrix.
pub(crate) fn install(is_long: bool) {
    let packages = missing(is_long);
    if packages.is_empty() {
        return;
    }
    println!("missing Debian packages: {}", packages.join(" "));
    if geteuid().is_root() && process::find("apt-get").is_some() {
        // The lists may be absent or old: then the first attempt fails.
        let outcome = apt_get(&["install"], &packages).or_else(|_| {
            apt_get(&["update"], &[])?;
            apt_get(&["install"], &packages)
        });
        if let Err(error) = outcome {
            println!("cannot install them: {error:#}");
        }
    }
    let packages = missing(is_long);
    if !packages.is_empty() {
        println!(
            "STILL MISSING, so tests will be skipped. As root: apt-get install {}",
            packages.join(" ")
        );
    }
}

/// The release of cargo-deny that the pinned toolchain builds; a newer one may want a newer compiler.
const CARGO_DENY: &str = "cargo-deny@0.20.2";

/// cargo-deny, built on first use.
///
/// # Errors
/// It cannot be built; cargo has said why.
pub(crate) fn cargo_deny() -> Result<Command> {
    let tools = cache_dir()?.join("tools");
    let program = tools.join("bin/cargo-deny");
    if !program.is_file() {
        // A debug build takes a third of the time, and the tree is small.
        let mut install = cargo::command(&["install", CARGO_DENY, "--locked", "--debug"])?;
        let status = install.arg("--root").arg(&tools).status()?;
        ensure!(status.success(), "cargo install cargo-deny ended with {status}");
    }
    let mut command = Command::new(program);
    command.current_dir(cargo::root()?);
    Ok(command)
}

/// Says where a program is kept.
type Place = fn() -> Result<PathBuf>;

/// Programs from PyPI, each in a virtual environment of its own: an S3 server that we did not write, the tester that tries
/// the API by its OpenAPI document, and Prometheus' parser of metrics.
const PYTHON_TOOLS: [(&str, Place); 3] = [
    ("moto[server]==5.2.5", s3_server),
    ("schemathesis==4.32.5", schemathesis),
    ("prometheus-client==0.26.0", prometheus_python),
];

/// Installs the programs from PyPI that are missing, and says which stay missing.
pub(crate) fn install_python_tools() {
    for (release, program) in PYTHON_TOOLS {
        if let Err(error) = program().and_then(|program| install_python_tool(release, &program)) {
            println!("STILL MISSING, so tests with {release} will be skipped: {error:#}");
        }
    }
}

fn install_python_tool(release: &str, program: &Path) -> Result<()> {
    install_python_packages(&[release], program)
}

/// Installs releases from PyPI into one environment, if `program` is not in it yet.
///
/// # Errors
/// They cannot be installed.
pub(crate) fn install_python_packages(releases: &[&str], program: &Path) -> Result<()> {
    if program.is_file() {
        return Ok(());
    }
    println!("installing {} from PyPI", releases.join(" and "));
    let venv = program.ancestors().nth(2).context("a program lies in its environment's bin")?;
    let mut make = process::system("python3")?;
    let made = make.args(["-m", "venv", "--clear"]).arg(venv).status()?;
    ensure!(made.success(), "python3 -m venv ended with {made}: apt-get install python3-venv");
    let mut pip = Command::new(venv.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(releases);
    let installed = pip.stdin(std::process::Stdio::null()).status()?;
    if !installed.success() {
        // An environment without what it is for would pass for whole the next time.
        std::fs::remove_dir_all(venv)?;
        bail!("pip install ended with {installed}");
    }
    Ok(())
}

/// The files of a Debian package that cannot be installed beside another one, unpacked into the cache.
///
/// # Errors
/// It cannot be downloaded or unpacked.
pub(crate) fn unpacked(package: &str) -> Result<PathBuf> {
    let dir = cache_dir()?.join("packages").join(package);
    if dir.is_dir() {
        return Ok(dir);
    }
    let download = tempfile::tempdir()?;
    let mut command = process::system("apt-get")?;
    command.args(["download", "--quiet", package]).current_dir(download.path());
    // apt's own user may not write into a directory of root's.
    command.args(["--option", "APT::Sandbox::User=root"]);
    process::succeed(command).with_context(|| format!("cannot download {package}"))?;
    let mut archives = std::fs::read_dir(download.path())?;
    let archive = archives.next().with_context(|| format!("no archive of {package} came"))??;
    let half = dir.with_extension("part");
    let mut command = process::system("dpkg")?;
    command.arg("--extract").arg(archive.path()).arg(&half);
    std::fs::create_dir_all(&half)?;
    process::succeed(command)?;
    std::fs::rename(&half, &dir)?;
    Ok(dir)
}
