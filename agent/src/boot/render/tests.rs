use expect_test::expect;
use proptest::prelude::*;

use pureboot_protocol::{CommandLine, ContentKey, Mac, Timestamp, Workflow, WorkflowId};
use pureboot_templates::check_script;

use super::*;

fn scene() -> Scene {
    Scene {
        base: "http://192.0.2.1:8080".parse().expect("a base URL"),
        session: BootId::from_random([0x42; 16]),
        platform: Some(Platform::Pcbios),
        mode: Mode::Offline { since: Timestamp::from_unix_ms(1_795_230_245_678) },
    }
}

fn mac() -> Mac {
    "52:54:00:12:34:56".parse().expect("an address")
}

fn renderer() -> Renderer {
    Renderer::new().expect("the templates compile")
}

fn install(name: &str, initrds: usize, command_line: &str) -> Decision {
    let key = |text: &str| text.parse::<ContentKey>().expect("a key");
    let workflow = Workflow {
        id: WorkflowId::from_random([1; 16]),
        name: name.to_owned(),
        description: String::new(),
        boot: BootMethod::Kernel {
            kernel: key("images/debian-12/linux"),
            initrd: vec![key("images/debian-12/initrd.gz"); initrds],
            command_line: CommandLine::try_from(command_line.to_owned()).expect("a command line"),
        },
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
fn every_decision_has_its_script() {
    for (boot, sentence) in [
        (Boot::ComeBackLater, "is not known here and cannot be taken up now"),
        (Boot::Discovered, "is listed as discovered"),
        (Boot::PendingWithoutWorkflow, "no workflow is assigned"),
        (Boot::Installing, "has already started its installer"),
        (Boot::InstallFailed, "could not be installed and is not tried again"),
        (Boot::LocalDisk, "boots what is on its disk"),
        (Boot::Retired, "is retired"),
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
    let text = renderer().autoexec(&scene());
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
