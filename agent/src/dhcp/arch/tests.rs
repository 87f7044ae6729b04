use super::*;

const PC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const PXE: &[u8] = b"PXEClient:Arch:00000:UNDI:003016";
const EDK2_UNDI: Option<[u8; 3]> = Some([1, 3, 16]);

fn claims<'a>(class: &'a [u8], codes: &'a [u16]) -> Claims<'a> {
    Claims { mac: Mac::from_bytes(PC).expect("unicast"), class, codes, undi: EDK2_UNDI }
}

/// The loader and the family that a machine with these codes gets.
fn served(class: &[u8], codes: &[u16]) -> Option<(LoaderKind, Family)> {
    identify(&claims(class, codes)).ok().map(|identity| (identity.loader, identity.family))
}

#[test]
fn every_registered_code_is_served_as_the_table_says() {
    use Family::{Http, Pxe};
    use LoaderKind::*;
    let expected: &[(u16, Option<(LoaderKind, Family)>)] = &[
        (0x00, Some((Bios, Pxe))),
        (0x01, None),
        (0x02, None),
        (0x03, None),
        (0x04, None),
        (0x05, None),
        (0x06, Some((Ia32, Pxe))),
        (0x07, Some((X64, Pxe))),
        (0x08, None),
        (0x09, Some((X64, Pxe))),
        (0x0a, Some((Arm32, Pxe))),
        (0x0b, Some((Arm64, Pxe))),
        (0x0c, None),
        (0x0d, None),
        (0x0e, None),
        (0x0f, Some((Ia32, Http))),
        (0x10, Some((X64, Http))),
        (0x11, Some((X64, Http))),
        (0x12, Some((Arm32, Http))),
        (0x13, Some((Arm64, Http))),
        (0x14, Some((Bios, Http))),
        (0x15, Some((UbootArm32, Pxe))),
        (0x16, Some((UbootArm64, Pxe))),
        (0x17, Some((UbootArm32, Http))),
        (0x18, Some((UbootArm64, Http))),
        (0x19, Some((Riscv32, Pxe))),
        (0x1a, Some((Riscv32, Http))),
        (0x1b, Some((Riscv64, Pxe))),
        (0x1c, Some((Riscv64, Http))),
        (0x1d, None),
        (0x1e, None),
        (0x1f, None),
        (0x20, None),
        (0x21, None),
        (0x22, None),
        (0x23, None),
        (0x24, None),
        (0x25, None),
        (0x26, None),
        (0x27, Some((Loong64, Pxe))),
        (0x28, Some((Loong64, Http))),
        (0x29, Some((RaspberryPi, Pxe))),
    ];
    assert_eq!(expected.len(), REGISTRY.len());
    for (code, loader) in expected {
        let class: &[u8] = match loader {
            Some((UbootArm32 | UbootArm64, _)) => b"U-Boot.armv8",
            Some((_, Http)) => b"HTTPClient:Arch:00016:UNDI:003001",
            _ => PXE,
        };
        assert_eq!(served(class, &[*code]), *loader, "{code:#06x}");
        assert_eq!(lookup(*code).map(|row| row.code), Some(*code));
    }
}

#[test]
fn a_refused_architecture_is_named_in_the_report() {
    let error = identify(&claims(PXE, &[0x02])).expect_err("refused");
    assert_eq!(error.to_string(), "there is no loader for Itanium (architecture 0x0002)");
}

#[test]
fn risc_v_and_loongarch_are_not_mistaken_for_each_other() {
    assert_eq!(served(PXE, &[25]), Some((LoaderKind::Riscv32, Family::Pxe)));
    assert_eq!(served(PXE, &[27]), Some((LoaderKind::Riscv64, Family::Pxe)));
    assert_eq!(served(PXE, &[0x25]), None);
    assert_eq!(served(PXE, &[0x27]), Some((LoaderKind::Loong64, Family::Pxe)));
}

#[test]
fn u_boot_says_6_for_x86_64_and_7_for_x86() {
    for (code, loader) in [(6, LoaderKind::X64), (7, LoaderKind::Ia32)] {
        let codes = [code];
        let by_undi = Claims { undi: Some([1, 0, 0]), ..claims(PXE, &codes) };
        let by_class = claims(b"U-Boot.x86", &codes);
        for claims in [by_undi, by_class] {
            let identity = identify(&claims).expect("served");
            assert_eq!(
                (identity.loader, identity.correction),
                (loader, Some(Correction::UbootSwap))
            );
        }
    }
    assert_eq!(served(PXE, &[6]), Some((LoaderKind::Ia32, Family::Pxe)));
    assert_eq!(served(PXE, &[7]), Some((LoaderKind::X64, Family::Pxe)));
}

#[test]
fn the_architecture_in_the_class_is_not_read() {
    // Read as decimal, the first is 13 HTTP of ARM and the second ends at the letter.
    for (class, code, loader) in [
        (&b"PXEClient:Arch:00019:UNDI:003000"[..], 0x19, LoaderKind::Riscv32),
        (b"PXEClient:Arch:0000b:UNDI:003000", 0x0b, LoaderKind::Arm64),
        (b"PXEClient:Arch:00000:UNDI:003000", 0x07, LoaderKind::X64),
    ] {
        assert_eq!(served(class, &[code]), Some((loader, Family::Pxe)));
    }
}

#[test]
fn the_erratum_of_rfc_4578_is_applied() {
    assert_eq!(lookup(7).map(|row| row.name), Some("x64 UEFI"));
    assert_eq!(lookup(9).map(|row| row.name), Some("EFI byte code"));
    assert_eq!(served(PXE, &[9]), served(PXE, &[7]));
}

#[test]
fn a_raspberry_pi_is_known_by_its_address() {
    for oui in RASPBERRY_PI_OUIS {
        let [a, b, c] = oui;
        let mac = Mac::from_bytes([a, b, c, 1, 2, 3]).expect("unicast");
        for (codes, loader) in [
            (&[0][..], LoaderKind::RaspberryPi),
            (&[], LoaderKind::RaspberryPi),
            // With UEFI or U-Boot installed it says what it is.
            (&[0x0b], LoaderKind::Arm64),
            (&[0x16], LoaderKind::UbootArm64),
        ] {
            let identity = identify(&Claims { mac, ..claims(PXE, codes) }).expect("served");
            assert_eq!(identity.loader, loader, "{oui:x?} {codes:?}");
        }
    }
    assert_eq!(served(PXE, &[0]), Some((LoaderKind::Bios, Family::Pxe)));
}

#[test]
fn an_unknown_architecture_does_not_get_the_bios_file() {
    for code in [0x2a, 0x100, 0xffff] {
        assert_eq!(identify(&claims(PXE, &[code])), Err(Unserved::Unknown(code)));
    }
    for code in [0x03, 0x04, 0x05] {
        assert!(matches!(identify(&claims(PXE, &[code])), Err(Unserved::Refused { .. })));
    }
}

#[test]
fn the_first_known_code_of_a_list_counts() {
    assert_eq!(served(PXE, &[0x0b, 0x07]), Some((LoaderKind::Arm64, Family::Pxe)));
    assert_eq!(served(PXE, &[0xfff0, 0x07]), Some((LoaderKind::X64, Family::Pxe)));
    assert_eq!(identify(&claims(PXE, &[0xfff0, 0xfff1])), Err(Unserved::Unknown(0xfff0)));
}

#[test]
fn without_option_93_only_pxe_is_taken_for_a_pc() {
    let identity = identify(&claims(b"PXEClient", &[])).expect("served");
    assert_eq!(
        identity,
        Identity {
            code: None,
            loader: LoaderKind::Bios,
            family: Family::Pxe,
            correction: Some(Correction::Absent)
        }
    );
    for class in [&b"HTTPClient"[..], b"U-Boot", b"U-Boot.riscv", b"MSFT 5.0", b""] {
        assert_eq!(identify(&claims(class, &[])), Err(Unserved::Unnamed));
    }
    assert_eq!(served(b"U-Boot.armv8", &[]), Some((LoaderKind::UbootArm64, Family::Pxe)));
    assert_eq!(served(b"U-Boot.armv7", &[]), Some((LoaderKind::UbootArm32, Family::Pxe)));
}

#[test]
fn the_class_decides_how_the_loader_is_fetched() {
    assert_eq!(served(b"HTTPClient", &[7]), Some((LoaderKind::X64, Family::Http)));
    assert_eq!(served(PXE, &[0x10]), Some((LoaderKind::X64, Family::Pxe)));
    assert_eq!(Family::Pxe.class(), "PXEClient");
    assert_eq!(Family::Http.class(), "HTTPClient");
}
