use expect_test::{expect, expect_file};
use proptest::prelude::*;

use pureboot_protocol::{
    BootRequest, CommandLineTemplate, ContentKey, DriveNumber, Mac, SanSource, Timestamp, Workflow,
    WorkflowId,
};
use pureboot_templates::check_script;

use super::*;

fn scene() -> Scene {
    Scene {
        base: "http://192.0.2.1:8080".parse().expect("a base URL"),
        session: BootId::from_random([0x42; 16]),
        platform: Some(Platform::Pcbios),
        mode: Mode::Offline { since: Timestamp::from_unix_ms(1_795_230_245_678) },
        values: Values::of(&BootRequest::new(mac()), None),
    }
}

fn fact(text: &str) -> HardwareFact {
    HardwareFact::from(text.to_owned())
}

fn mac() -> Mac {
    "52:54:00:12:34:56".parse().expect("an address")
}

fn renderer() -> Renderer {
    Renderer::new().expect("the templates compile")
}

fn install(name: &str, initrds: usize, command_line: &str) -> Decision {
    let key = |text: &str| text.parse::<ContentKey>().expect("a key");
    let boot = BootMethod::Kernel {
        kernel: key("images/debian-12/linux"),
        initrd: vec![key("images/debian-12/initrd.gz"); initrds],
        command_line: template(command_line),
    };
    by_method(name, boot)
}

fn template(text: &str) -> CommandLineTemplate {
    text.to_owned().try_into().expect("a command line")
}

fn by_method(name: &str, boot: BootMethod) -> Decision {
    let workflow = Workflow {
        id: WorkflowId::from_random([1; 16]),
        name: name.to_owned(),
        description: String::new(),
        templates: Default::default(),
        boot,
        created_at: Timestamp::from_unix_ms(0),
        updated_at: Timestamp::from_unix_ms(0),
        version: 1,
    };
    Decision {
        mac: mac(),
        boot: Boot::Install(Box::new(workflow)),
        reasons: vec![Reason::FirstTimeAlone],
        effects: Vec::new(),
    }
}

#[test]
fn an_installer_is_named_with_all_that_it_needs() {
    let text = renderer().decision(&scene(), &install("debian-12", 1, "quiet")).expect("a script");
    let told: Vec<_> = text
        .lines()
        .filter(|line| {
            ["echo", "kernel", "initrd"].contains(&line.split(' ').next().unwrap_or_default())
        })
        .take(8)
        .collect();
    expect![[r#"
        echo
        echo PureBoot at http://192.0.2.1:8080 - OFFLINE since 2026-11-21T03:04:05.678Z
        echo Boot session 42424242-4242-4242-8242-424242424242
        echo Why: without the controller an installer is given once - this is that time
        echo Machine 52:54:00:12:34:56 starts workflow debian-12.
        echo Fetching images/debian-12/linux
        kernel --name kernel http://192.0.2.1:8080/files/images/debian-12/linux?boot=42424242-4242-4242-8242-424242424242 initrd=initrd0 pureboot.url=http://192.0.2.1:8080 pureboot.mac=52:54:00:12:34:56 pureboot.boot=42424242-4242-4242-8242-424242424242 quiet || goto again
        echo Fetching images/debian-12/initrd.gz"#]].assert_eq(&told.join("\n"));
}

#[test]
fn a_command_line_is_filled_in_with_what_is_known_of_the_machine() {
    let line =
        "ip={{ node.mac_address }} s={{ server.url }}/seed/{{ boot.id }}/ w={{ workflow.name }}";
    let text = renderer().decision(&scene(), &install("debian 12", 0, line)).expect("a script");
    let session = scene().session;
    let expected = format!(
        " ip=52:54:00:12:34:56 s=http://192.0.2.1:8080/seed/{session}/ w=debian_12 || goto again"
    );
    assert!(text.contains(&expected), "{text}");
    let nameless = install("debian-12", 0, "hostname={{ node.hostname }}");
    let error = renderer().decision(&scene(), &nameless).expect_err("there is no name");
    assert!(error.to_string().contains("node.hostname"), "{error}");
    assert!(error.script.contains("node.hostname"), "{}", error.script);
    assert!(!error.script.contains("/files/"), "{}", error.script);
}

#[test]
fn each_method_sends_the_machine_to_what_it_names() {
    let key = |text: &str| text.parse::<ContentKey>().expect("a key");
    let source = |text: &str| SanSource::try_from(text.to_owned()).expect("a disk");
    let drive = DriveNumber::try_from(0x81).expect("a drive");
    let methods = [
        BootMethod::Chain { target: key("bootloaders/grubx64.efi") },
        BootMethod::Sanboot { source: source("images/rescue.iso"), drive },
        BootMethod::Sanboot { source: source("aoe:e0.1"), drive: DriveNumber::default() },
        BootMethod::Image {
            kernel: key("images/deploy/linux"),
            initrd: Vec::new(),
            command_line: template("quiet"),
            image: key("images/golden.img"),
            disk: "/dev/sda".parse().expect("a disk"),
        },
    ];
    let mut told = String::new();
    for boot in methods {
        let text = renderer().decision(&scene(), &by_method("w", boot)).expect("a script");
        let url = format!("{}/", scene().base);
        let session = format!("?boot={}", scene().session);
        let is_own = |line: &&str| {
            ["kernel", "sanboot"].contains(&line.split(' ').next().unwrap_or_default())
        };
        for line in text.lines().filter(is_own).filter(|line| !line.ends_with("0x80 ||")) {
            told.push_str(&line.replace(&url, "/").replace(&session, ""));
            told.push('\n');
        }
    }
    expect![[r#"
        kernel /files/bootloaders/grubx64.efi || goto again
        sanboot --no-describe --drive 0x81 /files/images/rescue.iso ||
        sanboot --drive 0x80 aoe:e0.1 ||
        kernel --name kernel /files/images/deploy/linux pureboot.url=http://192.0.2.1:8080 pureboot.mac=52:54:00:12:34:56 pureboot.boot=42424242-4242-4242-8242-424242424242 pureboot.image=/files/images/golden.img pureboot.disk=/dev/sda quiet || goto again
    "#]].assert_eq(&told);
}

#[test]
fn every_decision_has_its_script() {
    for (boot, sentence) in [
        (Boot::ComeBackLater, "is not known here and cannot be taken up now"),
        (Boot::Discovered, "is listed as discovered"),
        (Boot::PendingWithoutWorkflow, "no workflow is assigned"),
        (
            Boot::Foreign { workflow: fact("by floppy"), method: fact("floppy") },
            "is to be installed with workflow by floppy",
        ),
        (Boot::Installing, "has already started its installer"),
        (Boot::InstallFailed, "could not be installed and is not tried again"),
        (Boot::LocalDisk, "boots what is on its disk"),
        (Boot::Retired, "is retired"),
        (Boot::Elsewhere, "is a node of another site and waits here to be moved"),
        (Boot::Guest, "boots as a machine that nobody has plans for"),
        (Boot::TurnedAway, "serves none of those"),
    ] {
        let decision = Decision { boot, ..install("debian-12", 0, "") };
        let text = renderer().decision(&scene(), &decision).expect("a script");
        let told = text.lines().find(|line| line.starts_with("echo Machine ")).unwrap_or_default();
        assert!(told.contains(sentence), "{text}");
        assert!(!text.contains("/files/"), "{text}");
    }
}

#[test]
fn the_first_script_asks_the_agent() {
    let text = renderer().autoexec(&scene(), None);
    let ask = format!("{}/api/v1/boot?mac=${{netX/mac}}&", scene().base);
    assert!(text.contains(&ask), "{text}");
}

#[test]
fn h15_a_wrong_address_is_named_on_the_console() {
    let error = "zz:zz:zz\u{1b}[2J${net0/mac}".parse::<Mac>().expect_err("no address").to_string();
    let text = renderer().error(&scene(), &error);
    let told: Vec<_> = text.lines().filter(|line| line.starts_with("echo Error")).collect();
    expect![[r#"
        echo Error: zz:zz:zz__2J__net0/mac_ is not a MAC address - aa:bb:cc:dd:ee:ff
        echo Error: aa-bb-cc-dd-ee-ff or aabbccddeeff"#]]
    .assert_eq(&told.join("\n"));
}

#[test]
fn what_cannot_be_put_into_words_becomes_an_error_script_and_no_installer() {
    let error =
        renderer().decision(&scene(), &install("debian-12", 200, "")).expect_err("too long");
    assert!(error.to_string().contains("16384 are sent at most"), "{error}");
    assert!(error.script.contains("16384 are sent at most"), "{}", error.script);
    assert!(!error.script.contains("kernel"), "{}", error.script);
    assert_eq!(check_script(&error.script, &scene().base), Ok(()));
}

#[test]
fn the_last_resort_is_a_script() {
    assert_eq!(check_script(LAST_RESORT, &scene().base), Ok(()));
}

proptest! {
    #[test]
    fn h20_any_message_and_any_name_make_a_script(text in "\\PC{0,300}|[\\x00-\\x7f]{0,300}|(https?://[a-z ]{0,9}){0,9}") {
        let error = renderer().error(&scene(), &text);
        prop_assert!(error != LAST_RESORT);
        prop_assert_eq!(check_script(&error, &scene().base), Ok(()));
        prop_assert_eq!(error.matches("${").count(), 0);
        prop_assert!(error.lines().all(|line| line.len() <= 160));
        let script = renderer().decision(&scene(), &install(&text, 1, "quiet")).expect("a script");
        let plain = renderer().decision(&scene(), &install("plain", 1, "quiet")).expect("a script");
        prop_assert_eq!(script.lines().count(), plain.lines().count());
        prop_assert_eq!(script.matches("${").count(), plain.matches("${").count());
    }
}

#[test]
fn each_state_says_offline_since_when_by_which_record_and_what_happens_now() {
    use crate::boot::decide::{Facts, Freshness, Knowledge, OfflineAction, decide};
    use pureboot_protocol::{Assignment, Autonomy, BootRecord, ConflictId, Lifecycle, NodeId};

    let decision = install("debian-12", 1, "quiet");
    let Boot::Install(workflow) = decision.boot else { panic!("{decision:?}") };
    let record = |state| BootRecord {
        hostname: Some("web-1".to_owned()),
        workflow: Some(Assignment::Known((*workflow).clone())),
        ..BootRecord::new(NodeId::from_random([2; 16]), mac(), state, 7)
    };
    let mut cases: Vec<_> = Lifecycle::ALL.iter().map(|state| (record(*state), false)).collect();
    cases.push((record(Lifecycle::Pending), true));
    let conflict_id = Some(ConflictId::from_random([4; 16]));
    cases.push((BootRecord { conflict_id, ..record(Lifecycle::Pending) }, false));
    let request = BootRequest::new(mac());
    let age = std::time::Duration::from_secs(11_520);
    let mut told = String::new();
    for (record, install_given) in &cases {
        let decision = decide(&Facts {
            request: &request,
            knowledge: Knowledge::Known { record, freshness: Freshness::Past { age } },
            mode: scene().mode,
            autonomy: Autonomy::Readonly,
            install_given: *install_given,
            offline_action: OfflineAction::LastKnown,
        });
        let script = renderer().decision(&scene(), &decision).expect("a script");
        check_script(&script, &scene().base).expect("iPXE understands it");
        let lines = script.lines().filter(|line| {
            let word = line.split(' ').next().unwrap_or_default();
            ["echo", "kernel", "initrd", "sanboot"].contains(&word)
        });
        told.extend(lines.flat_map(|line| [line, "\n"]));
        told.push('\n');
    }
    expect_file!["offline.expected"].assert_eq(&told);
}
