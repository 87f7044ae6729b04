//! What to install and how.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{CommandLineTemplate, ContentKey, FileName, TemplateId, Timestamp, WorkflowId};

/// How a workflow is started on the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum BootMethod {
    /// A Linux kernel with its initial RAM disks.
    Kernel {
        /// The kernel.
        kernel: ContentKey,
        /// Initial RAM disks, loaded in this order.
        #[serde(default)]
        initrd: Vec<ContentKey>,
        /// What the kernel is told; the agent adds `pureboot.url`, `pureboot.mac` and `pureboot.boot`.
        #[serde(default)]
        command_line: CommandLineTemplate,
    },
    /// A disk that is reached over the network and started as if it were in the machine.
    Sanboot {
        /// The disk.
        source: SanSource,
        /// The number of the drive that a BIOS sees.
        #[serde(default)]
        drive: DriveNumber,
    },
    /// Another loader or EFI program.
    Chain {
        /// The program.
        target: ContentKey,
    },
    /// A disk image, written by a deploy environment: a Linux system that finds on its command line, besides what
    /// [`BootMethod::Kernel`] has, `pureboot.image` with the URL of the image and `pureboot.disk` with the disk to write.
    Image {
        /// The deploy environment's kernel.
        kernel: ContentKey,
        /// The deploy environment's initial RAM disks, loaded in this order.
        #[serde(default)]
        initrd: Vec<ContentKey>,
        /// What else the deploy environment is told.
        #[serde(default)]
        command_line: CommandLineTemplate,
        /// The image.
        image: ContentKey,
        /// The disk that is overwritten.
        disk: DiskName,
    },
}

impl BootMethod {
    /// The piece of content whose delivery means that the installer has been started. None where a script tells the agent itself:
    /// nobody knows which parts of a disk a machine reads.
    pub fn starts_with(&self) -> Option<&ContentKey> {
        match self {
            Self::Kernel { kernel, .. } | Self::Image { kernel, .. } => Some(kernel),
            Self::Chain { target } => Some(target),
            Self::Sanboot { .. } => None,
        }
    }

    /// All the content that the machine loads, each with the field that names it.
    pub fn content(&self) -> Vec<(String, &ContentKey)> {
        match self {
            Self::Kernel { kernel, initrd, .. } => linux(kernel, initrd).collect(),
            Self::Sanboot { source: SanSource::Content(key), .. } => {
                vec![("source".to_owned(), key)]
            }
            Self::Sanboot { source: SanSource::Network(_), .. } => Vec::new(),
            Self::Chain { target } => vec![("target".to_owned(), target)],
            Self::Image { kernel, initrd, image, .. } => {
                linux(kernel, initrd).chain([("image".to_owned(), image)]).collect()
            }
        }
    }
}

/// A kernel and its initial RAM disks with the fields that name them.
fn linux<'a>(
    kernel: &'a ContentKey,
    initrd: &'a [ContentKey],
) -> impl Iterator<Item = (String, &'a ContentKey)> {
    let initrd = initrd.iter().enumerate().map(|(at, key)| (format!("initrd[{at}]"), key));
    std::iter::once(("kernel".to_owned(), kernel)).chain(initrd)
}

/// Where the disk of [`BootMethod::Sanboot`] is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub enum SanSource {
    /// An image that the agent serves by HTTP.
    Content(ContentKey),
    /// A target of a storage network.
    Network(SanUri),
}

/// The address of a disk in a storage network, as iPXE reads it: `iscsi:` with host and target (RFC 4173), or `aoe:` with shelf and slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SanUri(String);

impl SanUri {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Schemes of [`SanUri`].
const SAN_SCHEMES: [&str; 2] = ["iscsi:", "aoe:"];
/// What a [`SanUri`] holds besides letters and digits. No `@`: a script is no place for the password of a target.
const SAN_ALPHABET: &str = "._:-[]";
/// The longest [`SanUri`] in bytes: a target's name has at most 223 (RFC 7143 §4.2.7.2), a host at most 253.
const SAN_URI_LEN_MAX: usize = 512;

/// Why a text is no source of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SanSourceError(String);

impl fmt::Display for SanSourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no disk to boot from: expected content such as images/rescue.iso, \
             iscsi:<host>:<protocol>:<port>:<lun>:<target> or aoe:e<shelf>.<slot>, of letters, digits and {SAN_ALPHABET}",
            self.0
        )
    }
}

impl std::error::Error for SanSourceError {}

impl TryFrom<String> for SanSource {
    type Error = SanSourceError;

    fn try_from(text: String) -> Result<Self, SanSourceError> {
        if let Ok(key) = text.parse() {
            return Ok(Self::Content(key));
        }
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || SAN_ALPHABET.contains(c);
        let is_uri = SAN_SCHEMES.iter().any(|scheme| {
            text.strip_prefix(scheme)
                .is_some_and(|rest| !rest.is_empty() && rest.chars().all(is_allowed))
        });
        if is_uri && text.len() <= SAN_URI_LEN_MAX {
            Ok(Self::Network(SanUri(text)))
        } else {
            Err(SanSourceError(text.chars().take(64).collect()))
        }
    }
}

impl From<SanSource> for String {
    fn from(source: SanSource) -> String {
        match source {
            SanSource::Content(key) => key.into(),
            SanSource::Network(uri) => uri.0,
        }
    }
}

/// The number under which a BIOS offers a disk, 128 to 255. UEFI has no use for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "u8", into = "u8")]
pub struct DriveNumber(u8);

impl Default for DriveNumber {
    /// The first disk.
    fn default() -> Self {
        Self(0x80)
    }
}

impl TryFrom<u8> for DriveNumber {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        // Below are floppy disks, which iPXE does not offer.
        if number >= 0x80 {
            Ok(Self(number))
        } else {
            Err(format!("{number} is no drive number: the first disk is 128, the last 255"))
        }
    }
}

impl From<DriveNumber> for u8 {
    fn from(number: DriveNumber) -> u8 {
        number.0
    }
}

impl fmt::Display for DriveNumber {
    /// As iPXE and people write it: `0x80`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#04x}", self.0)
    }
}

/// A disk as Linux names it: a path below `/dev`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct DiskName(String);

/// The longest [`DiskName`], in bytes.
const DISK_LEN_MAX: usize = 128;

impl DiskName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DiskName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"._:+-".contains(&b);
        let is_segment = |segment: &str| {
            !segment.trim_matches('.').is_empty() && segment.bytes().all(is_allowed)
        };
        let path = text.strip_prefix("/dev/");
        if path.is_some_and(|path| path.split('/').all(is_segment)) && text.len() <= DISK_LEN_MAX {
            return Ok(Self(text.to_owned()));
        }
        let short: String = text.chars().take(64).collect();
        Err(format!(
            "{short:?} is no disk: expected /dev/sda or /dev/disk/by-id/… of letters, digits and ._:+-"
        ))
    }
}

impl TryFrom<String> for DiskName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DiskName> for String {
    fn from(name: DiskName) -> String {
        name.0
    }
}

/// What to install and how; assigned to nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Workflow {
    /// The id that nodes name in `workflow_id`.
    pub id: WorkflowId,
    /// Its name, for people; unique.
    pub name: String,
    /// What a reader should know.
    pub description: String,
    /// The answer files that its installer may ask for, and the templates that they are made of.
    #[serde(default)]
    pub templates: BTreeMap<FileName, TemplateId>,
    /// How it is started.
    #[serde(flatten)]
    pub boot: BootMethod,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Rises by one with every change.
    pub version: u64,
}

/// What a record says of a node's installation.
///
/// A controller may be newer than the agent that reads its records, and then know methods that the agent does not (FAULTS
/// U7). The other records of the same answer must not suffer for that, nor must the machine be left without a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Assignment {
    /// A workflow that this program can start.
    Known(Workflow),
    /// One that it cannot.
    Foreign {
        /// The workflow's name.
        name: String,
        /// How it would be started.
        method: String,
    },
}

impl Assignment {
    /// The workflow, if this program can start it.
    pub fn workflow(&self) -> Option<&Workflow> {
        match self {
            Self::Known(workflow) => Some(workflow),
            Self::Foreign { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, StringDeserializer};

    use super::*;

    fn source(text: &str) -> Result<SanSource, SanSourceError> {
        SanSource::try_from(text.to_owned())
    }

    #[test]
    fn a_disk_is_content_or_in_a_storage_network() {
        assert!(matches!(source("images/rescue.iso"), Ok(SanSource::Content(_))));
        for text in [
            "iscsi:192.0.2.1::::iqn.2001-04.com.example:storage.disk-1",
            "iscsi:[2001:db8::1]:6:3260:1:iqn.2001-04.com.example:a",
            "aoe:e0.1",
        ] {
            let read = source(text).expect(text);
            assert!(matches!(read, SanSource::Network(_)), "{text}");
            assert_eq!(String::from(read), text);
        }
    }

    #[test]
    fn h20_a_disk_that_would_say_more_to_ipxe_is_refused() {
        for text in [
            "http://evil.example/x.iso",
            "iscsi:",
            "iscsi:a b",
            "iscsi:${net0/mac}",
            "iscsi:a||shell",
            "iscsi:a\nchain",
            "iscsi:user:password@192.0.2.1::::iqn.a",
            "nbd:192.0.2.1",
            "",
        ] {
            assert!(source(text).is_err(), "{text}");
        }
        assert!(source(&format!("aoe:{}", "e".repeat(SAN_URI_LEN_MAX))).is_err());
    }

    #[test]
    fn h20_a_disk_to_write_is_below_dev_and_one_word() {
        for text in ["/dev/sda", "/dev/disk/by-id/nvme-eui.0025388b01", "/dev/mapper/a"] {
            assert_eq!(text.parse::<DiskName>().map(String::from), Ok(text.to_owned()));
        }
        for text in
            ["/dev/", "/dev/..", "/dev/a/../b", "sda", "/etc/passwd", "/dev/sda init=/bin/sh", ""]
        {
            assert!(text.parse::<DiskName>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_drive_is_a_disk_of_a_bios() {
        assert_eq!(DriveNumber::default().to_string(), "0x80");
        assert_eq!(DriveNumber::try_from(0x81).map(u8::from), Ok(0x81));
        assert!(DriveNumber::try_from(0x7f).is_err());
    }

    #[test]
    fn what_a_method_names_is_listed_whole() {
        let key = |text: &str| text.parse::<ContentKey>().expect("a key");
        let image = BootMethod::Image {
            kernel: key("images/deploy/linux"),
            initrd: vec![key("images/deploy/initrd")],
            command_line: CommandLineTemplate::default(),
            image: key("images/golden.img"),
            disk: "/dev/sda".parse().expect("a disk"),
        };
        let content = image.content();
        let names: Vec<_> =
            content.iter().map(|(field, key)| (field.as_str(), key.to_string())).collect();
        let names: Vec<_> = names.iter().map(|(field, key)| (*field, key.as_str())).collect();
        let expected = [
            ("kernel", "images/deploy/linux"),
            ("initrd[0]", "images/deploy/initrd"),
            ("image", "images/golden.img"),
        ];
        assert_eq!(names, expected);
        assert_eq!(image.starts_with(), Some(&key("images/deploy/linux")));
        let text: StringDeserializer<Error> = "aoe:e0.1".to_owned().into_deserializer();
        let source = SanSource::deserialize(text).expect("a source");
        let sanboot = BootMethod::Sanboot { source, drive: DriveNumber::default() };
        assert_eq!((sanboot.content().len(), sanboot.starts_with()), (0, None));
    }
}
