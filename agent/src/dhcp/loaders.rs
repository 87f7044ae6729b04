//! Which file a machine loads first: a table from the kind of loader to a name among the boot loaders.

use std::collections::BTreeMap;
use std::fmt;
use std::iter;
use std::str::FromStr;

use pureboot_protocol::{Category, ContentKey};
use serde::{Deserialize, Serialize};

/// The longest name of a loader in bytes: the `file` field of a DHCP header has 128 and ends in a zero (RFC 2131 §2).
pub const LOADER_FILE_LEN_MAX: usize = 127;

/// What kind of program a machine's firmware can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoaderKind {
    /// A network boot program of a PC BIOS.
    Bios,
    /// UEFI on 32-bit x86.
    Ia32,
    /// UEFI on 64-bit x86.
    X64,
    /// UEFI on 32-bit ARM.
    Arm32,
    /// UEFI on 64-bit ARM.
    Arm64,
    /// UEFI on 32-bit RISC-V.
    Riscv32,
    /// UEFI on 64-bit RISC-V.
    Riscv64,
    /// UEFI on 64-bit LoongArch.
    Loong64,
    /// A script for U-Boot on 32-bit ARM; next to it U-Boot looks for `pxelinux.cfg/`.
    UbootArm32,
    /// A script for U-Boot on 64-bit ARM; next to it U-Boot looks for `pxelinux.cfg/`.
    UbootArm64,
    /// What the boot ROM of a Raspberry Pi starts with; the later models ask for their own names.
    RaspberryPi,
}

impl LoaderKind {
    /// Every kind with its name in `agent.toml` and the file that it stands for unless configured.
    pub const ALL: [(Self, &'static str, &'static str); 11] = [
        (Self::Bios, "bios", "undionly.kpxe"),
        (Self::Ia32, "ia32", "ipxe-i386.efi"),
        (Self::X64, "x64", "snponly-x64.efi"),
        (Self::Arm32, "arm32", "ipxe-arm32.efi"),
        (Self::Arm64, "arm64", "snponly-arm64.efi"),
        (Self::Riscv32, "riscv32", "ipxe-riscv32.efi"),
        (Self::Riscv64, "riscv64", "ipxe-riscv64.efi"),
        (Self::Loong64, "loong64", "ipxe-loong64.efi"),
        (Self::UbootArm32, "uboot_arm32", "boot.scr"),
        (Self::UbootArm64, "uboot_arm64", "boot.scr"),
        (Self::RaspberryPi, "raspberry_pi", "bootcode.bin"),
    ];

    /// The name in `agent.toml`.
    pub fn as_str(self) -> &'static str {
        Self::ALL.into_iter().find(|(kind, ..)| *kind == self).map_or("", |(_, name, _)| name)
    }
}

impl fmt::Display for LoaderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The name of a loader: a path among the content of the category `bootloaders` that fits into a DHCP header.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LoaderFile(ContentKey);

/// Why a text names no loader.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoaderFileError {
    /// Not the name of content.
    #[error(transparent)]
    Key(#[from] pureboot_protocol::ContentKeyError),
    /// Too long for the header.
    #[error("the loader's name {0:?} is longer than the 127 bytes of a DHCP header")]
    Long(String),
}

impl LoaderFile {
    /// The content that it names.
    pub fn key(&self) -> &ContentKey {
        &self.0
    }

    /// What a shim loads next, beside itself: signed shims have the name built in (shim 16.1 `DEFAULT_LOADER`), those of iPXE
    /// derive it from their own. After `ipxe.efi` comes `autoexec.ipxe`, which the agent makes.
    pub fn second_stage(&self) -> Option<ContentKey> {
        let (directory, name) = match self.as_str().rsplit_once('/') {
            Some((directory, name)) => (format!("{directory}/"), name),
            None => (String::new(), self.as_str()),
        };
        let stem = name.strip_suffix(".efi")?;
        let next = match (stem.strip_prefix("shim"), stem.split_once("-shim")) {
            (Some(processor), _) => format!("grub{processor}"),
            (None, Some((program, _))) => program.to_owned(),
            (None, None) => return None,
        };
        ContentKey::new(Category::Bootloaders, &format!("{directory}{next}.efi")).ok()
    }

    /// Whether it is GRUB, or a shim that loads it.
    pub fn leads_to_grub(&self) -> bool {
        let is_grub = |key: &ContentKey| {
            key.path().rsplit('/').next().is_some_and(|name| name.starts_with("grub"))
        };
        is_grub(self.key()) || self.second_stage().as_ref().is_some_and(is_grub)
    }

    /// The name as it is asked for by TFTP.
    pub fn as_str(&self) -> &str {
        self.0.path()
    }
}

impl FromStr for LoaderFile {
    type Err = LoaderFileError;

    fn from_str(text: &str) -> Result<Self, LoaderFileError> {
        if text.len() > LOADER_FILE_LEN_MAX {
            return Err(LoaderFileError::Long(text.chars().take(32).collect()));
        }
        Ok(Self(ContentKey::new(Category::Bootloaders, text)?))
    }
}

impl TryFrom<String> for LoaderFile {
    type Error = LoaderFileError;

    fn try_from(text: String) -> Result<Self, LoaderFileError> {
        text.parse()
    }
}

impl From<LoaderFile> for String {
    fn from(file: LoaderFile) -> String {
        file.as_str().to_owned()
    }
}

impl fmt::Display for LoaderFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for LoaderFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// The table `[dhcp.loaders]`. A kind that is not written there keeps its usual file; a kind with an empty name is not served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<LoaderKind, String>", into = "BTreeMap<LoaderKind, String>")]
pub struct Loaders(BTreeMap<LoaderKind, LoaderFile>);

impl Loaders {
    /// The file of a kind; none if the site does not serve it.
    pub fn get(&self, kind: LoaderKind) -> Option<&LoaderFile> {
        self.0.get(&kind)
    }

    /// The files of all kinds; one may stand for several.
    pub fn files(&self) -> impl Iterator<Item = &LoaderFile> {
        self.0.values()
    }

    /// What the site serves, in the order of [`LoaderKind::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (LoaderKind, &LoaderFile)> {
        self.0.iter().map(|(kind, file)| (*kind, file))
    }
}

/// Which loaders are there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stock {
    /// Those that the cache holds.
    pub held: Vec<ContentKey>,
    /// Those that it does not hold: their machines are sent for a file that is not there.
    pub missing: Vec<ContentKey>,
}

impl Stock {
    /// What the cache has to hold for these files, second stages of shims too, and what of it `holds` says that it does.
    pub fn of<'a>(
        files: impl IntoIterator<Item = &'a LoaderFile>,
        holds: impl Fn(&ContentKey) -> bool,
    ) -> Self {
        let mut keys = Vec::new();
        for file in files {
            for key in iter::once(file.key().clone()).chain(file.second_stage()) {
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
        }
        let (held, missing) = keys.into_iter().partition(holds);
        Self { held, missing }
    }

    /// What is missing, for a person; none if nothing is.
    pub fn complaint(&self) -> Option<String> {
        let names: Vec<_> = self.missing.iter().map(ToString::to_string).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

/// How a person puts missing loaders there, or says that they are not wanted.
pub const STOCK_CURE: &str = "upload bootloaders/NAME at the controller, or `pureboot-agent cache add bootloaders/NAME FILE`, \
                              or give a kind that the site does not have an empty name in [dhcp.loaders]";

impl Default for Loaders {
    fn default() -> Self {
        Self::try_from(BTreeMap::new()).expect("the usual names are names of loaders")
    }
}

impl TryFrom<BTreeMap<LoaderKind, String>> for Loaders {
    type Error = LoaderFileError;

    fn try_from(mut configured: BTreeMap<LoaderKind, String>) -> Result<Self, LoaderFileError> {
        let mut files = BTreeMap::new();
        for (kind, _, usual) in LoaderKind::ALL {
            let name = configured.remove(&kind).unwrap_or_else(|| usual.to_owned());
            if !name.is_empty() {
                files.insert(kind, name.parse()?);
            }
        }
        Ok(Self(files))
    }
}

impl From<Loaders> for BTreeMap<LoaderKind, String> {
    fn from(loaders: Loaders) -> Self {
        let file = |kind| loaders.get(kind).map_or_else(String::new, ToString::to_string);
        LoaderKind::ALL.into_iter().map(|(kind, ..)| (kind, file(kind))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_usual_file_and_reads_its_own_name() {
        let loaders = Loaders::default();
        for (kind, name, usual) in LoaderKind::ALL {
            assert_eq!(loaders.get(kind).map(LoaderFile::as_str), Some(usual));
            assert_eq!(kind.as_str(), name);
            let table: Loaders = toml::from_str(&format!("{name} = \"other.efi\"")).unwrap();
            assert_eq!(table.get(kind).map(LoaderFile::as_str), Some("other.efi"));
        }
    }

    #[test]
    fn a_kind_with_an_empty_name_is_not_served() {
        let loaders: Loaders = toml::from_str("arm32 = \"\"").unwrap();
        assert_eq!(loaders.get(LoaderKind::Arm32), None);
        assert_eq!(loaders.iter().count(), LoaderKind::ALL.len() - 1);
        let again: Loaders = toml::from_str(&toml::to_string(&loaders).unwrap()).unwrap();
        assert_eq!(again, loaders);
    }

    #[test]
    fn a_shim_needs_the_file_that_it_loads_next() {
        for (name, next) in [
            ("ipxe-shimx64.efi", Some("bootloaders/ipxe.efi")),
            ("sb/ipxe-shimaa64.efi", Some("bootloaders/sb/ipxe.efi")),
            ("snponly-shim.efi", Some("bootloaders/snponly.efi")),
            ("sb/shimx64.efi", Some("bootloaders/sb/grubx64.efi")),
            ("shimaa64.efi", Some("bootloaders/grubaa64.efi")),
            ("shims/ipxe.efi", None),
            ("snponly-x64.efi", None),
            ("undionly.kpxe", None),
        ] {
            let file: LoaderFile = name.parse().expect("a name");
            assert_eq!(file.second_stage().map(|key| key.to_string()).as_deref(), next, "{name}");
        }
    }

    #[test]
    fn what_is_missing_is_named_once() {
        let lines = LoaderKind::ALL.map(|(_, name, _)| format!("{name} = \"\"\n")).concat();
        let lines = lines.replace("x64 = \"\"", "x64 = \"sb/ipxe-shimx64.efi\"");
        let lines = lines.replace("uboot_arm32 = \"\"", "uboot_arm32 = \"boot.scr\"");
        let lines = lines.replace("uboot_arm64 = \"\"", "uboot_arm64 = \"boot.scr\"");
        let loaders: Loaders = toml::from_str(&lines).expect("a table");
        let stock = Stock::of(loaders.files(), |key| key.path() == "sb/ipxe-shimx64.efi");
        let names = |keys: &[ContentKey]| keys.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(&stock.held), ["bootloaders/sb/ipxe-shimx64.efi"]);
        assert_eq!(names(&stock.missing), ["bootloaders/sb/ipxe.efi", "bootloaders/boot.scr"]);
        assert_eq!(Stock::of(loaders.files(), |_| true).complaint(), None);
    }

    #[test]
    fn a_name_that_no_header_or_url_can_hold_is_refused() {
        let long = "a".repeat(LOADER_FILE_LEN_MAX + 1);
        for name in ["/a.efi", "a//b", "../a", "a b", "a\n", "\\a", "${x}", &long] {
            assert!(name.parse::<LoaderFile>().is_err(), "{name}");
        }
        assert!("a".repeat(LOADER_FILE_LEN_MAX).parse::<LoaderFile>().is_ok());
        assert!("sb/shimx64.efi".parse::<LoaderFile>().is_ok());
    }
}
