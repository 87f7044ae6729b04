//! What a machine is, from what its firmware says: the complete registry of processor architecture types with what is done
//! about each, and the known cases in which firmware says something else than it means.
//!
//! The registry is IANA's "Processor Architecture Types" of the DHCPv6 parameters, with the erratum of RFC 4578 (7 is x64 and
//! 9 is EBC) applied. Where nothing can be started, the answer is silence and a report: silence lets the machine boot its
//! disk, a wrong binary hangs it.

use pureboot_protocol::Mac;

use super::loaders::LoaderKind;

/// The first three bytes of the addresses of Raspberry Pis.
pub const RASPBERRY_PI_OUIS: [[u8; 3]; 6] = [
    [0xb8, 0x27, 0xeb],
    [0xdc, 0xa6, 0x32],
    [0xe4, 0x5f, 0x01],
    [0xd8, 0x3a, 0xdd],
    [0x2c, 0xcf, 0x67],
    [0x28, 0xcd, 0xc1],
];

/// Option 94 of U-Boot: UNDI of the version 0.0, which no PXE firmware has.
const UBOOT_UNDI: [u8; 3] = [1, 0, 0];

/// What is done for machines of an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A loader by TFTP.
    Tftp(LoaderKind),
    /// A loader by HTTP.
    Http(LoaderKind),
    /// Nothing that we could name would start.
    Refuse,
}

/// One row of the registry.
#[derive(Debug, PartialEq, Eq)]
pub struct Architecture {
    /// The code in DHCPv4 option 93 and DHCPv6 option 61.
    pub code: u16,
    /// What it stands for.
    pub name: &'static str,
    /// What is done about it.
    pub action: Action,
}

const fn row(code: u16, name: &'static str, action: Action) -> Architecture {
    Architecture { code, name, action }
}

/// Every code that is registered.
pub const REGISTRY: [Architecture; 42] = {
    use Action::{Http, Refuse, Tftp};
    use LoaderKind::*;
    [
        row(0x00, "x86 BIOS", Tftp(Bios)),
        row(0x01, "NEC PC98", Refuse),
        row(0x02, "Itanium", Refuse),
        row(0x03, "DEC Alpha", Refuse),
        row(0x04, "ARC x86", Refuse),
        row(0x05, "Intel Lean Client", Refuse),
        row(0x06, "x86 UEFI", Tftp(Ia32)),
        row(0x07, "x64 UEFI", Tftp(X64)),
        row(0x08, "XScale UEFI", Refuse),
        row(0x09, "EFI byte code", Tftp(X64)),
        row(0x0a, "ARM 32-bit UEFI", Tftp(Arm32)),
        row(0x0b, "ARM 64-bit UEFI", Tftp(Arm64)),
        row(0x0c, "PowerPC Open Firmware", Refuse),
        row(0x0d, "PowerPC ePAPR", Refuse),
        row(0x0e, "POWER OPAL", Refuse),
        row(0x0f, "x86 UEFI HTTP", Http(Ia32)),
        row(0x10, "x64 UEFI HTTP", Http(X64)),
        row(0x11, "EFI byte code HTTP", Http(X64)),
        row(0x12, "ARM 32-bit UEFI HTTP", Http(Arm32)),
        row(0x13, "ARM 64-bit UEFI HTTP", Http(Arm64)),
        row(0x14, "x86 BIOS HTTP", Http(Bios)),
        row(0x15, "ARM 32-bit U-Boot", Tftp(UbootArm32)),
        row(0x16, "ARM 64-bit U-Boot", Tftp(UbootArm64)),
        row(0x17, "ARM 32-bit U-Boot HTTP", Http(UbootArm32)),
        row(0x18, "ARM 64-bit U-Boot HTTP", Http(UbootArm64)),
        row(0x19, "RISC-V 32-bit UEFI", Tftp(Riscv32)),
        row(0x1a, "RISC-V 32-bit UEFI HTTP", Http(Riscv32)),
        row(0x1b, "RISC-V 64-bit UEFI", Tftp(Riscv64)),
        row(0x1c, "RISC-V 64-bit UEFI HTTP", Http(Riscv64)),
        row(0x1d, "RISC-V 128-bit UEFI", Refuse),
        row(0x1e, "RISC-V 128-bit UEFI HTTP", Refuse),
        row(0x1f, "s390 basic", Refuse),
        row(0x20, "s390 extended", Refuse),
        row(0x21, "MIPS 32-bit UEFI", Refuse),
        row(0x22, "MIPS 64-bit UEFI", Refuse),
        row(0x23, "Sunway 32-bit UEFI", Refuse),
        row(0x24, "Sunway 64-bit UEFI", Refuse),
        row(0x25, "LoongArch 32-bit UEFI", Refuse),
        row(0x26, "LoongArch 32-bit UEFI HTTP", Refuse),
        row(0x27, "LoongArch 64-bit UEFI", Tftp(Loong64)),
        row(0x28, "LoongArch 64-bit UEFI HTTP", Http(Loong64)),
        row(0x29, "ARM rpiboot", Tftp(RaspberryPi)),
    ]
};

/// The row of a code.
pub fn lookup(code: u16) -> Option<&'static Architecture> {
    REGISTRY.iter().find(|row| row.code == code)
}

/// The vendor class that a machine says and wants to hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `PXEClient`: loads by TFTP.
    Pxe,
    /// `HTTPClient`: loads from a URL.
    Http,
}

impl Family {
    /// What an answer's option 60 holds, neither more nor less.
    pub fn class(self) -> &'static str {
        match self {
            Self::Pxe => "PXEClient",
            Self::Http => "HTTPClient",
        }
    }
}

/// What a request says about the machine.
#[derive(Debug, Clone, Copy)]
pub struct Claims<'a> {
    /// The boot interface.
    pub mac: Mac,
    /// Option 60. The architecture in its text is not read: most firmware writes it in decimal, U-Boot in hexadecimal.
    pub class: &'a [u8],
    /// Option 93: one code or a list.
    pub codes: &'a [u16],
    /// Option 94.
    pub undi: Option<[u8; 3]>,
}

/// Why a machine was taken for something else than its code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Correction {
    /// U-Boot says 6 on x86-64 and 7 on x86 (`efi_get_pxe_arch`).
    UbootSwap,
    /// A Raspberry Pi says 0, as if it were a PC.
    RaspberryPi,
    /// The vendor class of U-Boot names the processor, and option 93 is absent.
    UbootClass,
    /// Option 93 is absent; old ROMs of PCs leave it out.
    Absent,
}

/// What a machine is and what it loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The code that decided; none if option 93 is absent.
    pub code: Option<u16>,
    /// What it can start.
    pub loader: LoaderKind,
    /// How it loads that.
    pub family: Family,
    /// Where the code was not taken at its word.
    pub correction: Option<Correction>,
}

/// Why a machine gets no loader.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unserved {
    /// Registered, but there is nothing to start.
    #[error("there is no loader for {name} (architecture {code:#06x})")]
    Refused {
        /// The code.
        code: u16,
        /// What it stands for.
        name: &'static str,
    },
    /// None of the codes is registered.
    #[error("the architecture {0:#06x} is not registered")]
    Unknown(u16),
    /// There is no code, and the class does not tell.
    #[error("the request names no architecture (option 93)")]
    Unnamed,
}

/// Whether a vendor class is that of U-Boot's own commands, such as `U-Boot.armv8`.
pub fn is_uboot_class(class: &[u8]) -> bool {
    class.starts_with(b"U-Boot")
}

/// What machine it is that says this of itself.
///
/// # Errors
/// The machine gets silence; the text is for the report.
pub fn identify(claims: &Claims<'_>) -> Result<Identity, Unserved> {
    let row = match claims.codes.iter().find_map(|code| lookup(*code)) {
        Some(row) => row,
        None => return identify_without_code(claims),
    };
    let is_pi = RASPBERRY_PI_OUIS.iter().any(|oui| claims.mac.as_bytes().starts_with(oui));
    let is_uboot = is_uboot_class(claims.class) || claims.undi == Some(UBOOT_UNDI);
    let (action, correction) = match row.code {
        0x00 if is_pi => (Action::Tftp(LoaderKind::RaspberryPi), Some(Correction::RaspberryPi)),
        0x06 if is_uboot => (Action::Tftp(LoaderKind::X64), Some(Correction::UbootSwap)),
        0x07 if is_uboot => (Action::Tftp(LoaderKind::Ia32), Some(Correction::UbootSwap)),
        _ => (row.action, None),
    };
    let (loader, usual) = match action {
        Action::Tftp(loader) => (loader, Family::Pxe),
        Action::Http(loader) => (loader, Family::Http),
        Action::Refuse => return Err(Unserved::Refused { code: row.code, name: row.name }),
    };
    let family = family_of(claims.class).unwrap_or(usual);
    Ok(Identity { code: Some(row.code), loader, family, correction })
}

/// The family that a vendor class names.
pub fn family_of(class: &[u8]) -> Option<Family> {
    [Family::Pxe, Family::Http]
        .into_iter()
        .find(|family| class.starts_with(family.class().as_bytes()))
}

fn identify_without_code(claims: &Claims<'_>) -> Result<Identity, Unserved> {
    if let Some(code) = claims.codes.first() {
        return Err(Unserved::Unknown(*code));
    }
    let (loader, correction) = if claims.class.starts_with(b"U-Boot.armv8") {
        (LoaderKind::UbootArm64, Correction::UbootClass)
    } else if claims.class.starts_with(b"U-Boot.arm") {
        (LoaderKind::UbootArm32, Correction::UbootClass)
    } else if family_of(claims.class) != Some(Family::Pxe) {
        return Err(Unserved::Unnamed);
    } else if RASPBERRY_PI_OUIS.iter().any(|oui| claims.mac.as_bytes().starts_with(oui)) {
        (LoaderKind::RaspberryPi, Correction::RaspberryPi)
    } else {
        (LoaderKind::Bios, Correction::Absent)
    };
    Ok(Identity { code: None, loader, family: Family::Pxe, correction: Some(correction) })
}

#[cfg(test)]
mod tests;
