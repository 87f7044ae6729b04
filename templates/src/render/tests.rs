use std::fs;
use std::path::PathBuf;

use expect_test::expect_file;
use proptest::prelude::*;
use proptest::sample::select;
use pureboot_protocol::{DriveNumber, SanSource};

use super::*;
use crate::{DiskImage, NetworkDisk};

const MODES: [&str; 3] = ["online", "degraded", "OFFLINE since 2026-11-21T03:04:05.678Z"];
const PLATFORMS: [(&str, Option<Platform>); 3] =
    [("bios", Some(Platform::Pcbios)), ("uefi", Some(Platform::Efi)), ("unknown", None)];

fn context(platform: Option<Platform>, mode: &str) -> Context {
    Context {
        base: "http://192.0.2.1:8080".parse().expect("a base URL"),
        session: BootId::from_random([0x42; 16]),
        platform,
        mode: mode.to_owned(),
        reasons: vec!["the first reason".to_owned(), "the second reason".to_owned()],
    }
}

fn install(initrds: &[&str], command_line: &str) -> Script {
    let key = |text: &str| text.parse().expect("a key");
    Script::Install {
        mac: "52:54:00:12:34:56".parse().expect("an address"),
        workflow: "debian-12 on db hosts".to_owned(),
        kernel: key("images/debian-12/linux"),
        initrds: initrds.iter().copied().map(key).collect(),
        command_line: command_line.to_owned().try_into().expect("a command line"),
        image: None,
    }
}

const ISCSI: &str = "iscsi:192.0.2.7::::iqn.2001-04.com.example:web-1";

fn iscsi() -> NetworkDisk {
    SanSource::try_from(ISCSI.to_owned()).expect("a source").into()
}

fn sanboot(source: &str) -> Script {
    let source = SanSource::try_from(source.to_owned()).expect("a source");
    Script::Sanboot {
        mac: "52:54:00:12:34:56".parse().expect("an address"),
        workflow: "rescue".to_owned(),
        source: source.into(),
        drive: DriveNumber::default().to_string(),
    }
}

fn write_image() -> Script {
    let Script::Install { mac, kernel, initrds, command_line, .. } =
        install(&["images/deploy/initrd.img"], "console=ttyS0,115200n8")
    else {
        unreachable!("install makes an installer");
    };
    let content = "images/golden/web-1.img.zst".parse().expect("a key");
    let image = Some(DiskImage { content, disk: "/dev/disk/by-id/nvme-eui.1".to_owned() });
    let workflow = "golden image".to_owned();
    Script::Install { mac, workflow, kernel, initrds, command_line, image }
}

fn every_script() -> Vec<Script> {
    let mac = "52:54:00:12:34:56".parse().expect("an address");
    vec![
        Script::Autoexec { loader: None },
        Script::Autoexec { loader: Some("bootloaders/undionly.kpxe".parse().expect("a key")) },
        Script::Unknown { mac },
        Script::Discovered { mac },
        install(
            &["images/debian-12/initrd.gz", "images/firmware+ucode.cpio"],
            "auto=true ds=nocloud;s=http://192.0.2.1:8080/seed/ console=ttyS0,115200n8 --- quiet",
        ),
        write_image(),
        Script::Chain {
            mac,
            workflow: "grub".to_owned(),
            target: "bootloaders/grubx64.efi".parse().expect("a key"),
        },
        sanboot("images/rescue.iso"),
        sanboot(ISCSI),
        Script::Foreign { mac, workflow: "by floppy".to_owned(), method: "floppy".to_owned() },
        Script::Pending { mac },
        Script::Installing { mac },
        Script::InstallFailed { mac },
        Script::Local { mac },
        Script::Disputed { mac },
        Script::Retired { mac },
        Script::Elsewhere { mac },
        Script::Guest { mac },
        Script::TurnedAway { mac },
        Script::Hold { mac, seconds: "90".to_owned() },
        Script::Refused { mac, lines: vec!["rack b-17 is being moved".to_owned()] },
        Script::Error { lines: vec!["the first line".to_owned(), "the second line".to_owned()] },
    ]
}

/// What a script's expected text is named after.
fn case(script: &Script) -> String {
    let template = script.template();
    match script {
        Script::Autoexec { loader: Some(_) } => format!("{template}_loader"),
        Script::Install { image: Some(_), .. } => format!("{template}_image"),
        Script::Sanboot { source, .. } if *source == iscsi() => format!("{template}_iscsi"),
        _ => template.to_owned(),
    }
}

fn render(context: &Context, script: &Script) -> Result<String, RenderError> {
    Scripts::new().expect("the templates compile").render(context, script)
}

#[test]
fn every_script_is_byte_for_byte_what_was_agreed() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("expected/ipxe");
    let mut expected_names = Vec::new();
    for script in every_script() {
        for ((platform_name, platform), mode) in PLATFORMS.iter().zip(MODES) {
            let mode_name = mode.split(' ').next().expect("a word").to_lowercase();
            let name = format!("{}.{platform_name}.{mode_name}.ipxe", case(&script));
            let text = render(&context(*platform, mode), &script).expect("a script");
            expect_file![folder.join(&name)].assert_eq(&text);
            expected_names.push(name);
        }
    }
    let mut names: Vec<_> = fs::read_dir(&folder)
        .expect("the folder exists")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name in ASCII"))
        .collect();
    names.sort();
    expected_names.sort();
    assert_eq!(names, expected_names);
}

#[test]
fn every_jump_has_its_label_and_every_script_its_end() {
    for script in every_script() {
        for (_, platform) in PLATFORMS {
            let text = render(&context(platform, "online"), &script).expect("a script");
            let words: Vec<_> = text.split_whitespace().collect();
            for jump in words.windows(2).filter(|pair| pair[0] == "goto") {
                let label = format!(":{}", jump[1]);
                assert_eq!(
                    text.lines().filter(|line| *line == label).count(),
                    1,
                    "{label} in\n{text}"
                );
            }
            assert!(text.ends_with("\nexit\n"), "{text}");
        }
    }
}

#[test]
fn an_installer_is_told_about_every_initrd_it_gets() {
    for (initrds, expected) in
        [(vec![], 0), (vec!["images/a"], 1), (vec!["images/a", "images/b/a"], 2)]
    {
        let text = render(&context(None, "online"), &install(&initrds, "quiet")).expect("a script");
        let kernel = text.lines().find(|line| line.starts_with("kernel ")).expect("a kernel");
        let told: Vec<_> =
            kernel.split(' ').filter_map(|word| word.strip_prefix("initrd=")).collect();
        let loaded: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("initrd --name "))
            .filter_map(|line| line.split(' ').next())
            .collect();
        assert_eq!(told, loaded);
        assert_eq!(told.len(), expected);
    }
}

#[test]
fn a_command_line_may_name_a_mirror_and_is_handed_on_as_it_is() {
    let command_line = "inst.repo=https://mirror.example/9 ks=\"a b\" -- (x)";
    let text = render(&context(None, "online"), &install(&[], command_line)).expect("a script");
    assert!(text.contains(&format!(" {command_line} || goto again\n")), "{text}");
}

#[test]
fn h20_the_longest_script_is_an_error_and_not_cut() {
    let initrds = vec!["images/0123456789"; 200];
    let error = render(&context(None, "online"), &install(&initrds, "")).expect_err("too long");
    assert!(matches!(error, RenderError::Lint(LintError::Long(_))), "{error}");
}

#[test]
fn h20_each_formatter_refuses_what_its_place_cannot_carry() {
    type Formatter = fn(&Value, &mut String) -> Result<(), TemplateError>;
    let check = |formatter: Formatter, text: &str| {
        let mut output = String::new();
        formatter(&Value::from(text), &mut output).map(|()| output).ok()
    };
    let [text, url, line]: [Formatter; 3] = [emit_text, emit_url, emit_command_line];
    for (formatter, good) in [
        (text, "Dell Inc. R640: a/b_c-d"),
        (url, "http://[2001:db8::1]:80/a+b@c~d=e"),
        (line, "ds=nocloud;s=http://a/ \"b\" (c) 50%"),
    ] {
        assert_eq!(check(formatter, good).as_deref(), Some(good));
        for c in ['\n', '\r', '\0', '\t', '$', '{', '}', '|', '&', '#', '\\', 'é', '\u{2028}'] {
            assert_eq!(check(formatter, &format!("a{c}b")), None, "{c:?}");
        }
    }
    assert_eq!(check(url, "http://a/b c"), None);
    assert_eq!(check(text, "a;b"), None);
    assert_eq!(check(line, "a ; chain x"), None);
    for value in [Value::Null, Value::from(1), Value::from(vec!["a"])] {
        assert!(emit_text(&value, &mut String::new()).is_err());
    }
}

proptest! {
    #[test]
    fn h20_no_value_adds_a_line_or_a_setting(
        mode in value(),
        reason in value(),
        own in value(),
        mut script in select(every_script()),
    ) {
        let plain = render(&context(None, "online"), &script).expect("a script");
        let mut context = context(None, &mode);
        context.reasons[1] = reason;
        match &mut script {
            Script::Install { workflow, .. }
            | Script::Chain { workflow, .. }
            | Script::Sanboot { workflow, .. } => *workflow = own,
            Script::Foreign { method, .. } => *method = own,
            Script::Error { lines } => lines[1] = own,
            _ => {}
        }
        if let Ok(text) = render(&context, &script) {
            prop_assert_eq!(text.lines().count(), plain.lines().count());
            for meaningful in ["${", "||", "&&", " ; ", "{", "}", "$", "#"] {
                prop_assert_eq!(text.matches(meaningful).count(), plain.matches(meaningful).count());
            }
        }
    }
}

/// Mostly texts that pass, so that the property is about scripts and not about refusals alone.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[A-Za-z0-9 ._:/-]{0,40}",
        1 => "[ -~]{0,40}",
        1 => "\\PC{0,10}|[\\x00-\\x7f]{0,10}",
    ]
}
