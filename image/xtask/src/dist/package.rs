//! Packages of the agent, made without Debian's or OpenWrt's tools: both are archives of archives.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::{Context, Result};
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

use super::apk;
use super::target::{Program, Target};

/// The time of everything that is packed, in seconds since 1970: the same content makes the same package.
pub(crate) const EPOCH: u64 = 1_735_689_600;

/// Who the programs are in a container. The number is in image/Containerfile too.
const CONTAINER_USER: u64 = 10_064;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const DESCRIPTION: &str = "boots the machines of a site: ProxyDHCP, TFTP, HTTP, verified copies, a line to the controller";
const MAINTAINER: &str = "PureBoot <pureboot@example.org>";
const LICENSE: &str = "MIT OR Apache-2.0";
/// What of a router's files a person changes.
const CONFFILES: &[u8] = b"/etc/pureboot-agent.conf\n";
const UNIT: &str = include_str!("../../../systemd/pureboot-agent.service");
const SYSUSERS: &str = include_str!("../../../systemd/pureboot.sysusers");
const INIT: &str = include_str!("../../../openwrt/pureboot-agent.init");
const CONF: &str = include_str!("../../../openwrt/pureboot-agent.conf");
const PROFILE: &str = include_str!("../../../openwrt/profile.sh");
const KEEP: &str = include_str!("../../../openwrt/keep");

/// A file in an archive: its path without the leading slash, its rights, its content.
type Entry<'a> = (&'a str, u32, &'a [u8]);

/// The agent's packages: names and content.
///
/// # Errors
/// They cannot be packed.
pub(crate) fn of_agent(target: Target, program: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
    let debian = target.debian();
    Ok(vec![
        (format!("pureboot-agent_{VERSION}_{debian}.deb"), deb(target, program)?),
        (format!("pureboot-agent_{VERSION}_{}.ipk", target.word()), ipk(program)?),
        (format!("pureboot-agent-{VERSION}_{}.apk", target.word()), apk(program)?),
    ])
}

/// The whole file system of a container: the program, its user, and the directory that is its user's alone.
///
/// # Errors
/// It cannot be packed.
pub(crate) fn rootfs(program: Program, bytes: &[u8]) -> Result<Vec<u8>> {
    let data_dir = match program {
        Program::Agent | Program::AuthorsAgent => "var/lib/pureboot/",
        Program::Controller => "var/lib/pureboot-controller/",
    };
    let passwd = format!("pureboot:x:{CONTAINER_USER}:{CONTAINER_USER}::/{data_dir}:\n");
    let group = format!("pureboot:x:{CONTAINER_USER}:\n");
    let mut archive = Archive::new(Vec::new());
    archive.file(&format!("usr/bin/{}", program.package()), 0o755, bytes)?;
    archive.file("etc/passwd", 0o644, passwd.as_bytes())?;
    archive.file("etc/group", 0o644, group.as_bytes())?;
    archive.dirs_to(data_dir.trim_end_matches('/'))?;
    archive.append(data_dir, 0o700, CONTAINER_USER, EntryType::Directory, &[])?;
    archive.end()
}

/// deb(5): an archive of `ar` with the format, the control files and the data, in this order.
fn deb(target: Target, program: &[u8]) -> Result<Vec<u8>> {
    let data = tar_gz(&[
        ("./usr/bin/pureboot-agent", 0o755, program),
        ("./lib/systemd/system/pureboot-agent.service", 0o644, UNIT.as_bytes()),
        ("./usr/lib/sysusers.d/pureboot.conf", 0o644, SYSUSERS.as_bytes()),
    ])?;
    let control = format!(
        "Package: pureboot-agent\nVersion: {VERSION}\nArchitecture: {}\nMaintainer: {MAINTAINER}\nSection: admin\n\
         Priority: optional\nInstalled-Size: {}\nDepends: systemd\nDescription: {DESCRIPTION}\n",
        target.debian(),
        program.len().div_ceil(1_024),
    );
    let control = tar_gz(&[
        ("./control", 0o644, control.as_bytes()),
        ("./postinst", 0o755, DEBIAN_POSTINST.as_bytes()),
        ("./prerm", 0o755, DEBIAN_PRERM.as_bytes()),
    ])?;
    let mut archive = b"!<arch>\n".to_vec();
    for (name, content) in
        [("debian-binary", b"2.0\n".to_vec()), ("control.tar.gz", control), ("data.tar.gz", data)]
    {
        let head =
            format!("{name:<16}{EPOCH:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, "100644", content.len());
        archive.extend(head.into_bytes());
        archive.extend(&content);
        // Each member begins at an even place.
        if !content.len().is_multiple_of(2) {
            archive.push(b'\n');
        }
    }
    Ok(archive)
}

/// What lies where on a router.
fn of_router(program: &[u8]) -> [Entry<'_>; 5] {
    [
        ("usr/sbin/pureboot-agent", 0o755, program),
        ("etc/init.d/pureboot-agent", 0o755, INIT.as_bytes()),
        ("etc/pureboot-agent.conf", 0o644, CONF.as_bytes()),
        ("etc/profile.d/pureboot-agent.sh", 0o644, PROFILE.as_bytes()),
        ("lib/upgrade/keep.d/pureboot-agent", 0o644, KEEP.as_bytes()),
    ]
}

/// A package for apk, for every board of its processor as the one for opkg is.
fn apk(program: &[u8]) -> Result<Vec<u8>> {
    let about = apk::About {
        name: "pureboot-agent",
        version: &format!("{VERSION}-r1"),
        description: DESCRIPTION,
        license: LICENSE,
        maintainer: MAINTAINER,
        epoch: EPOCH,
        post_install: OPENWRT_POSTINST,
        pre_deinstall: OPENWRT_PRERM,
        post_upgrade: OPENWRT_POSTINST,
    };
    let mut files = of_router(program).to_vec();
    files.push(("lib/apk/packages/pureboot-agent.conffiles", 0o644, CONFFILES));
    apk::pack(&about, &files)
}

/// A package for opkg: the same three in an archive of `tar`. The program is static, so it is for every board of its processor,
/// whatever name OpenWrt gives that; the script that runs after it was unpacked finds out.
fn ipk(program: &[u8]) -> Result<Vec<u8>> {
    let files = of_router(program);
    let paths = files.map(|(path, ..)| format!("./{path}"));
    let files: Vec<_> = paths
        .iter()
        .zip(files)
        .map(|(path, (_, mode, text))| (path.as_str(), mode, text))
        .collect();
    let data = tar_gz(&files)?;
    let control = format!(
        "Package: pureboot-agent\nVersion: {VERSION}-1\nArchitecture: all\nMaintainer: {MAINTAINER}\nSection: net\n\
         Priority: optional\nLicense: {LICENSE}\nInstalled-Size: {}\nDescription: {DESCRIPTION}\n",
        program.len(),
    );
    let control = tar_gz(&[
        ("./control", 0o644, control.as_bytes()),
        ("./conffiles", 0o644, CONFFILES),
        ("./postinst", 0o755, OPENWRT_POSTINST.as_bytes()),
        ("./prerm", 0o755, OPENWRT_PRERM.as_bytes()),
    ])?;
    tar_gz(&[
        ("./debian-binary", 0o644, b"2.0\n"),
        ("./control.tar.gz", 0o644, &control),
        ("./data.tar.gz", 0o644, &data),
    ])
}

const DEBIAN_POSTINST: &str = "#!/bin/sh
set -e
[ \"$1\" = configure ] || exit 0
if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers pureboot.conf
else
	getent passwd pureboot >/dev/null || useradd --system --user-group --home-dir /var/lib/pureboot --shell /usr/sbin/nologin pureboot
fi
[ -d /var/lib/pureboot ] || install -d -m 0700 -o pureboot -g pureboot /var/lib/pureboot
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl enable pureboot-agent.service
	systemctl try-restart pureboot-agent.service
fi
";
const DEBIAN_PRERM: &str = "#!/bin/sh
set -e
if [ \"$1\" = remove ] && [ -d /run/systemd/system ]; then
	systemctl disable --now pureboot-agent.service
fi
";
// The user and the directory are made by the program itself, as `install` makes them.
const OPENWRT_POSTINST: &str = "#!/bin/sh
[ -n \"$IPKG_INSTROOT\" ] && exit 0
if ! /usr/sbin/pureboot-agent --version >/dev/null 2>&1; then
	echo 'this package is for another processor: remove it and install the one for this board' >&2
	exit 1
fi
/usr/sbin/pureboot-agent install --system procd --yes || exit 1
DATA_DIR=/srv/pureboot
. /etc/pureboot-agent.conf
[ ! -f \"$DATA_DIR/agent.toml\" ] || /etc/init.d/pureboot-agent restart
";
const OPENWRT_PRERM: &str = "#!/bin/sh
[ -n \"$IPKG_INSTROOT\" ] && exit 0
/etc/init.d/pureboot-agent stop
/etc/init.d/pureboot-agent disable
";

/// A compressed archive of files and of the directories that they lie in, all of root's.
fn tar_gz(entries: &[Entry<'_>]) -> Result<Vec<u8>> {
    // Without a name and with a time of nobody's.
    let encoder: GzEncoder<Vec<u8>> =
        GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    let mut archive = Archive::new(encoder);
    for (path, mode, content) in entries {
        archive.file(path, *mode, content)?;
    }
    Ok(archive.end()?.finish()?)
}

/// An archive of tar in which nothing depends on the machine that makes it.
struct Archive<W: Write> {
    builder: Builder<W>,
    dirs: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    fn new(to: W) -> Self {
        Self { builder: Builder::new(to), dirs: BTreeSet::new() }
    }

    /// A file of root's, after the directories that it lies in.
    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.dirs_to(path)?;
        self.append(path, mode, 0, EntryType::Regular, content)
    }

    fn dirs_to(&mut self, path: &str) -> Result<()> {
        for (slash, _) in path.match_indices('/') {
            let dir = path.get(..=slash).context("a slash has a place")?;
            if dir != "./" && self.dirs.insert(dir.to_owned()) {
                self.append(dir, 0o755, 0, EntryType::Directory, &[])?;
            }
        }
        Ok(())
    }

    fn append(
        &mut self,
        path: &str,
        mode: u32,
        owner: u64,
        kind: EntryType,
        content: &[u8],
    ) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        if owner == 0 {
            header.set_username("root")?;
            header.set_groupname("root")?;
        }
        header.set_mtime(EPOCH);
        header.set_size(u64::try_from(content.len())?);
        // `set_path` would take the leading `./` away, which opkg wants.
        let name = &mut header.as_ustar_mut().context("it is a header of ustar")?.name;
        let place = name
            .get_mut(..path.len())
            .with_context(|| format!("{path} is too long for an archive"))?;
        place.copy_from_slice(path.as_bytes());
        header.set_cksum();
        self.builder.append(&header, content).with_context(|| format!("cannot pack {path}"))
    }

    fn end(self) -> Result<W> {
        Ok(self.builder.into_inner()?)
    }
}

#[cfg(test)]
mod tests {
    use pureboot_tests::process;

    use super::*;

    #[test]
    fn debians_own_tools_read_the_package() {
        if process::find("dpkg-deb").is_none() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.deb");
        std::fs::write(&path, deb(Target::X86_64, b"odd").unwrap()).unwrap();
        let ask = |arguments: &[&str]| {
            let mut command = process::system("dpkg-deb").unwrap();
            command.args(arguments).arg(&path);
            process::succeed(command).unwrap()
        };
        let listed = ask(&["--contents"]);
        let line = |path: &str| {
            listed.lines().find(|line| line.ends_with(path)).unwrap_or_default().to_owned()
        };
        assert!(line("/usr/bin/pureboot-agent").starts_with("-rwxr-xr-x root/root"), "{listed}");
        assert!(line("/pureboot-agent.service").starts_with("-rw-r--r-- root/root"), "{listed}");
        assert!(ask(&["--field"]).contains("Architecture: amd64"));
        assert_eq!(deb(Target::X86_64, b"odd").unwrap(), std::fs::read(&path).unwrap());
    }

    #[test]
    fn dpkg_unpacks_the_package_into_a_tree_with_its_paths_and_modes() {
        use std::os::unix::fs::PermissionsExt as _;
        if process::find("dpkg").is_none() || !nix::unistd::geteuid().is_root() {
            return;
        }
        let (dir, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = dir.path().join("agent.deb");
        std::fs::write(&path, deb(Target::X86_64, b"program").unwrap()).unwrap();
        for part in ["updates", "info"] {
            std::fs::create_dir_all(root.path().join("var/lib/dpkg").join(part)).unwrap();
        }
        let dpkg = |arguments: &[&std::ffi::OsStr]| {
            let mut command = process::system("dpkg").unwrap();
            // A tree of Debian's that has no programs yet, on whatever processor this is.
            command.args(["--force-architecture", "--force-script-chrootless", "--root"]);
            command.arg(root.path()).args(arguments);
            process::succeed(command).unwrap()
        };
        dpkg(&["--unpack".as_ref(), path.as_os_str()]);
        for (path, mode) in [
            ("usr/bin/pureboot-agent", 0o755),
            ("lib/systemd/system/pureboot-agent.service", 0o644),
            ("usr/lib/sysusers.d/pureboot.conf", 0o644),
            ("var/lib/dpkg/info/pureboot-agent.postinst", 0o755),
            ("var/lib/dpkg/info/pureboot-agent.prerm", 0o755),
        ] {
            let metadata = std::fs::metadata(root.path().join(path)).expect(path);
            assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{path}");
        }
        let state = dpkg(&["--status".as_ref(), "pureboot-agent".as_ref()]);
        assert!(state.contains("Status: install ok unpacked"), "{state}");
        for script in ["postinst", "prerm"] {
            let script = format!("var/lib/dpkg/info/pureboot-agent.{script}");
            let mut check = process::system("sh").unwrap();
            check.arg("-n").arg(root.path().join(&script));
            process::succeed(check).expect(&script);
        }
    }

    #[test]
    fn an_ipk_unpacks_into_a_routers_tree_with_its_paths_and_modes() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let unpack = |bytes: &[u8], to: &std::path::Path| {
            tar::Archive::new(flate2::read::GzDecoder::new(bytes)).unpack(to).unwrap();
        };
        unpack(&ipk(b"program").unwrap(), dir.path());
        for inner in ["control", "data"] {
            let bytes = std::fs::read(dir.path().join(format!("{inner}.tar.gz"))).unwrap();
            unpack(&bytes, &dir.path().join(inner));
        }
        for (path, mode) in [
            ("data/usr/sbin/pureboot-agent", 0o755),
            ("data/etc/init.d/pureboot-agent", 0o755),
            ("data/etc/pureboot-agent.conf", 0o644),
            ("data/lib/upgrade/keep.d/pureboot-agent", 0o644),
            ("control/postinst", 0o755),
        ] {
            let metadata = std::fs::metadata(dir.path().join(path)).expect(path);
            assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{path}");
        }
        for script in ["data/etc/init.d/pureboot-agent", "control/postinst", "control/prerm"] {
            let mut check = process::system("sh").unwrap();
            check.arg("-n").arg(dir.path().join(script));
            process::succeed(check).expect(script);
        }
    }
}
