//! What the operator says about machines.

use super::*;

fn quirky(quirks: &str) -> Answerer {
    let config: DhcpConfig = toml::from_str(quirks).unwrap();
    answerer().with_quirks(config.quirks)
}

/// What the first packet of a machine is answered.
fn asked(answerer: &mut Answerer, ask: &Ask) -> Result<Reply, Reason> {
    let reply = answerer.handle_packet(&arrival(&ask.bytes(), Port::Dhcp), monotonic());
    reply.map_err(|silence| silence.reason)
}

#[test]
fn what_the_operator_says_counts_before_table_and_lesson() {
    let mac = Mac::from_bytes(MACHINE).unwrap();
    let lesson = Lesson { mac, mode: OfferMode::BootServer, proof: Proof::Worked };
    let told = |lines: &str, ask: &Ask| {
        let config: DhcpConfig = toml::from_str(&format!("[[quirk]]\n{lines}")).expect("a quirk");
        Answerer::new(Loaders::default(), 8080, [lesson])
            .with_quirks(config.quirks)
            .handle_packet(&arrival(&ask.bytes(), Port::Dhcp), monotonic())
    };
    let x64 = Ask::new(DISCOVER, PXE_X64, Some(7));
    let reply = told("oui = [\"52:54:00\"]\nmode = \"direct\"\nfile = \"sb/shimx64.efi\"", &x64);
    let reply = reply.expect("an offer");
    assert_eq!(reply.file, "sb/shimx64.efi");
    assert_eq!(option(&reply.packet, 43), Some(vec![6, 1, 8, 255]));
    let other = told("arch = [9]\nmode = \"direct\"", &x64).expect("an offer");
    assert_eq!(option(&other.packet, 43), None, "an entry about others changes nothing");
    let refused = "vendor_class = \"PXEClient:Arch:00007\"\nrefuse = true";
    for ask in [x64.clone(), x64.with(175, &[1])] {
        let silence = told(refused, &ask).expect_err("silence, for its iPXE too");
        assert_eq!(silence.reason, Reason::RefusedByOperator);
    }
}

#[test]
fn a_file_of_the_operator_is_served_to_machines_that_have_no_loader_of_their_own() {
    let quirks = "[[quirk]]\narch = [0x0e, 0x7fff]\nfile = \"opal/petitboot.cfg\"\nmode = \"boot_server\"\n\
                  [[quirk]]\nvendor_class = \"HTTPClient:LoongArch32\"\nfile = \"la32.efi\"";
    for code in [0x0e, 0x7fff] {
        let reply = asked(&mut quirky(quirks), &Ask::new(DISCOVER, PXE_BIOS, Some(code))).unwrap();
        assert_eq!(reply.file, "opal/petitboot.cfg");
        let mode = Some(OfferMode::BootServer);
        assert_eq!(reply.boot, Boot::Named { code: Some(code), mode });
        assert_eq!(reply.boot.to_string(), "by [[dhcp.quirk]] over TFTP, by port 4011");
        assert_eq!(option(&reply.packet, 43), None);
    }
    let without_code = Ask::new(DISCOVER, b"HTTPClient:LoongArch32:x", None);
    let reply = asked(&mut quirky(quirks), &without_code).unwrap();
    assert_eq!(reply.file, "http://10.9.0.2:8080/files/bootloaders/la32.efi");
    assert_eq!(reply.boot, Boot::Named { code: None, mode: None });
    assert_eq!(option(&reply.packet, 60).as_deref(), Some(&b"HTTPClient"[..]));
    let itanium = asked(&mut quirky(quirks), &Ask::new(DISCOVER, PXE_BIOS, Some(2)));
    assert!(matches!(itanium, Err(Reason::Unserved(_))), "{itanium:?}");
}

#[test]
fn what_a_machine_called_itself_over_http_counts_for_its_next_question() {
    let quirks =
        "[[quirk]]\nuser_agent = \"UefiHttpBoot/1.0\"\nmode = \"boot_server\"\nfile = \"a.efi\"";
    let ask = Ask::new(DISCOVER, PXE_X64, Some(7)).bytes();
    for (agents, file) in [
        (&[][..], "snponly-x64.efi"),
        (&["iPXE/1.21.1".into()], "snponly-x64.efi"),
        (&["iPXE/1.21.1".into(), "UefiHttpBoot/1.0".into()], "a.efi"),
    ] {
        let arrival = Arrival { user_agents: agents, ..arrival(&ask, Port::Dhcp) };
        let reply = quirky(quirks).handle_packet(&arrival, monotonic()).unwrap();
        assert_eq!(reply.file, file, "{agents:?}");
        assert_eq!(option(&reply.packet, 43).is_none(), file == "a.efi");
    }
}

#[test]
fn a_user_class_of_the_operator_is_obeyed() {
    let quirks = "[[quirk]]\nuser_class = \"acme\"\nrefuse = true";
    let ask = Ask::new(DISCOVER, PXE_X64, Some(7));
    assert!(asked(&mut quirky(quirks), &ask).is_ok());
    let refused = asked(&mut quirky(quirks), &ask.with(77, b"\x09acme-rack"));
    assert_eq!(refused.unwrap_err(), Reason::RefusedByOperator);
}

#[test]
fn a_mode_alone_serves_nobody_who_has_no_loader() {
    let quirks = "[[quirk]]\narch = [2]\nmode = \"direct\"";
    let reply = asked(&mut quirky(quirks), &Ask::new(DISCOVER, PXE_BIOS, Some(2)));
    assert!(matches!(reply, Err(Reason::Unserved(_))), "{reply:?}");
}

#[test]
fn an_entry_about_files_over_http_hides_none_about_offers() {
    let quirks = "[[quirk]]\noui = [\"52:54:00\"]\npace_kib_s = 1200\n\
                  [[quirk]]\noui = [\"52:54:00\"]\nfile = \"a.efi\"";
    let reply = asked(&mut quirky(quirks), &Ask::new(DISCOVER, PXE_X64, Some(7))).unwrap();
    assert_eq!(reply.file, "a.efi");
}
