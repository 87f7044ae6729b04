use super::Step as S;
use super::*;
use crate::doctor::finding::Severity;

const LOADER: &str = "snponly-x64.efi";

fn offered(mode: OfferMode) -> S {
    S::Offered { file: LOADER.to_owned(), mode: Some(mode) }
}

fn probed(file: &str) -> S {
    S::Probed { file: file.to_owned() }
}

fn fetched(file: &str) -> S {
    let file = file.to_owned();
    S::Fetched { file, way: Way::Tftp, size_bytes: 850_000, duration_ms: 900, window: Some(4) }
}

fn missing(file: &str, way: Way, body_len: u64) -> S {
    S::Missing { file: file.to_owned(), way, body_len }
}

fn cut(way: Way, sent_bytes: u64, block_len: Option<u16>) -> S {
    S::Cut { file: LOADER.to_owned(), way, sent_bytes, block_len }
}

fn at(second: usize) -> Timestamp {
    Timestamp::from_unix_ms(i64::try_from(second).expect("small") * 1_000)
}

/// The findings about one boot with a step each second, judged when it has been quiet for a minute.
fn judge(steps: Vec<S>) -> Vec<Finding> {
    let mac = "52:54:00:12:34:56".parse().expect("an address");
    let len = steps.len();
    let steps = steps.into_iter().enumerate().map(|(second, step)| (at(second), step)).collect();
    diagnose(&[Trace { mac, steps }], at(len + 60))
}

/// Checks that there is one finding with these words in what, cause and cure; no words mean no finding.
fn check(row: &str, steps: Vec<S>, expected: Option<(Severity, &str, &str, &str)>) {
    let findings = judge(steps);
    let Some((severity, what, cause, cure)) = expected else {
        assert_eq!(findings, [], "{row}");
        return;
    };
    let [finding] = findings.as_slice() else { panic!("{row}: {findings:#?}") };
    assert_eq!(finding.severity, severity, "{row}: {finding}");
    assert!(finding.what.contains(what), "{row}: {finding}");
    assert!(finding.cause.as_deref().unwrap_or_default().contains(cause), "{row}: {finding}");
    assert!(finding.cure.as_deref().unwrap_or_default().contains(cure), "{row}: {finding}");
}

/// The rows of BOOT §9 in their order; what firmware does as it should is no finding.
#[test]
fn each_case_that_was_seen_has_its_finding() {
    use OfferMode::{BootServer as B, Direct as A};
    use Severity::{Fail, Warn};
    let server = "10.9.0.1".parse().expect("an address");
    let rogue = S::OtherServer { server, file: "pxelinux.0".to_owned() };
    let answered = S::BootServerAsked { is_answered: true };
    let unanswered = S::BootServerAsked { is_answered: false };
    let slow = S::Fetched {
        file: LOADER.to_owned(),
        way: Way::Tftp,
        size_bytes: 850_000,
        duration_ms: 14_600,
        window: Some(1),
    };
    let later = || S::Postponed { file: "/files/images/debian/linux".to_owned() };
    check("iPXE ROM", vec![S::ScriptOffered, S::LeaseAsked, S::Scripted], None);
    check(
        "OVMF, mode A",
        vec![offered(A), S::LeaseAsked, probed(LOADER), fetched(LOADER), S::Scripted],
        None,
    );
    check(
        "OVMF, mode B",
        vec![offered(B), S::LeaseAsked, answered, fetched(LOADER), S::Scripted],
        None,
    );
    check(
        "4011 without answer",
        vec![offered(B), S::LeaseAsked, unanswered.clone(), unanswered],
        Some((Fail, "PXE-E16", "no answer", "4011/udp")),
    );
    check(
        "4011 does not reach us",
        vec![offered(B), S::LeaseAsked],
        Some((Fail, "not heard on port 4011", "4011/udp does not reach", "mode = \"direct\"")),
    );
    check(
        "no default route",
        vec![S::Unsent { error: "Network is unreachable".to_owned() }],
        Some((Fail, "Network is unreachable", "link", "ip link")),
    );
    check(
        "HTTP boot truncated",
        vec![offered(A), cut(Way::Http, 70_000, None)],
        Some((Fail, "HTTP broke off after 70000 bytes", "not resume", "start the machine again")),
    );
    check(
        "truncated, then whole",
        vec![cut(Way::Http, 70_000, None), fetched(LOADER), S::Scripted],
        None,
    );
    check(
        "503 obeyed",
        vec![S::Scripted, later(), later(), fetched("/files/images/debian/linux"), S::Scripted],
        None,
    );
    check(
        "503 without end",
        vec![S::Scripted, later(), later(), later()],
        Some((Warn, "3 times to come back", "still fetching", "cache add")),
    );
    check(
        "a site server with its own file",
        vec![offered(A), rogue, S::LeaseAsked],
        Some((
            Fail,
            "10.9.0.1 names the boot file 'pxelinux.0'",
            "iPXE obeys",
            "options 66 and 67",
        )),
    );
    check(
        "shim, option 67 alone",
        vec![
            offered(A),
            S::LeaseAsked,
            fetched("sb/shimx64.efi"),
            missing("revocations_sku.efi", Way::Tftp, 0),
            missing("grubx64.efi", Way::Tftp, 0),
        ],
        Some((Fail, "without the directory", "option 67 and not in the header", "dhcp-boot")),
    );
    check(
        "shim's three probes",
        vec![
            fetched("sb/ipxe-shimx64.efi"),
            missing("sb/revocations_sku.efi", Way::Tftp, 0),
            missing("sb/shim_certificate_0.efi", Way::Tftp, 0),
            fetched("sb/ipxe.efi"),
            S::Scripted,
        ],
        None,
    );
    check(
        "shim, empty 404",
        vec![
            fetched("/files/bootloaders/sb/shimx64.efi"),
            missing("/files/bootloaders/sb/revocations_sku.efi", Way::Http, 0),
        ],
        Some((Fail, "404 without a body", "waits for a body for ever", "proxy")),
    );
    check(
        "shim, second stage",
        vec![fetched("sb/ipxe-shimx64.efi"), missing("sb/ipxe.efi", Way::Tftp, 0)],
        Some((Fail, "'ipxe.efi' is missing", "second stage", "cache add bootloaders/sb/ipxe.efi")),
    );
    check(
        "GRUB behind ProxyDHCP",
        vec![offered(A), S::LeaseAsked, fetched("sb/shimx64.efi"), fetched("sb/grubx64.efi")],
        Some((Fail, "loaded GRUB", "leased its address", "chain iPXE")),
    );
    check(
        "GRUB by the site's server",
        vec![fetched("sb/shimx64.efi"), fetched("sb/grubx64.efi")],
        None,
    );
    check(
        "Secure Boot",
        vec![
            offered(A),
            S::LeaseAsked,
            probed(LOADER),
            fetched(LOADER),
            probed(LOADER),
            fetched(LOADER),
        ],
        Some((Fail, "2 times whole, then fell silent", "Secure Boot", "signed shim")),
    );
    check(
        "Secure Boot, once",
        vec![offered(A), S::LeaseAsked, fetched(LOADER)],
        Some((Warn, "whole, then fell silent", "Access Denied", "signed shim")),
    );
    check(
        "loop",
        vec![
            fetched(LOADER),
            S::LeaseAsked,
            fetched(LOADER),
            S::LeaseAsked,
            fetched(LOADER),
            S::LeaseAsked,
        ],
        Some((Warn, "three times: a loop", "option 175", "iPXE build")),
    );
    check(
        "loop guard",
        vec![offered(A), offered(A), offered(A), S::LoopBroken],
        Some((Warn, "a loop", "firmware", "option 175")),
    );
    check("a loop that was broken", vec![S::LoopBroken, S::Scripted], None);
    check(
        "window 1",
        vec![offered(A), S::LeaseAsked, slow, S::Scripted],
        Some((Warn, "14600 ms", "RFC 7440", "HTTP")),
    );
}

/// What the issue asks for beyond that table.
#[test]
fn each_case_of_the_field_has_its_finding() {
    use OfferMode::{BootServer as B, Direct as A};
    use Severity::{Fail, Warn};
    let reason = "there is no loader for Itanium (architecture 0x0002)".to_owned();
    check(
        "MTU",
        vec![offered(A), S::LeaseAsked, cut(Way::Tftp, 0, Some(1_468))],
        Some((Fail, "first block of 1468 bytes", "MTU", "1500")),
    );
    check(
        "not the MTU",
        vec![offered(A), cut(Way::Tftp, 0, Some(512))],
        Some((Fail, "TFTP broke off after 0 bytes", "left", "cable")),
    );
    check(
        "offer without request",
        vec![offered(A), offered(A), offered(B)],
        Some((Fail, "3 times and never asked for a lease", "nobody leases", "DHCP server")),
    );
    check("one offer is no pattern", vec![offered(A)], None);
    check(
        "refused",
        vec![S::Refused { reason: reason.clone() }],
        Some((Warn, &reason, "", "[dhcp.loaders]")),
    );
    check(
        "refused, then served",
        vec![S::Refused { reason }, offered(A), S::LeaseAsked, S::Scripted],
        None,
    );
    check(
        "loader not there",
        vec![offered(A), S::LeaseAsked, missing(LOADER, Way::Tftp, 0)],
        Some((Fail, "the cache does not hold", "", "cache add bootloaders/snponly-x64.efi")),
    );
    check(
        "script not fetched",
        vec![fetched(LOADER), S::ScriptOffered, S::LeaseAsked],
        Some((Fail, "never asked for it", "HTTP port", "8080/tcp")),
    );
    check("nothing", vec![], None);
}

#[test]
fn a_boot_under_way_is_not_judged_by_what_it_has_not_done_yet() {
    let mac = "52:54:00:12:34:56".parse().expect("an address");
    for steps in [
        vec![offered(OfferMode::BootServer), S::LeaseAsked],
        vec![offered(OfferMode::Direct), offered(OfferMode::Direct)],
        vec![fetched(LOADER), fetched(LOADER)],
        vec![fetched(LOADER), S::ScriptOffered],
    ] {
        let steps: Vec<_> = steps.into_iter().map(|step| (at(0), step)).collect();
        assert_eq!(diagnose(&[Trace { mac, steps }], at(29)), []);
    }
}

#[test]
fn the_doctors_own_question_is_no_boot() {
    let mac = crate::doctor::servers::probe_address([1, 2, 3]);
    let steps = vec![(at(0), offered(OfferMode::Direct)), (at(1), offered(OfferMode::Direct))];
    assert_eq!(diagnose(&[Trace { mac, steps }], at(100)), []);
}

#[test]
fn a_site_full_of_trouble_is_told_in_bounds() {
    let trace = Trace {
        mac: "52:54:00:12:34:56".parse().expect("an address"),
        steps: vec![(at(0), S::LoopBroken)],
    };
    let findings = diagnose(&vec![trace; 100], at(0));
    assert_eq!(findings.len(), FINDINGS_MAX + 1);
    assert!(findings.last().is_some_and(|last| last.what.contains("68 more")));
}
