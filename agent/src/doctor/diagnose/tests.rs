use super::*;
use crate::doctor::finding::Severity;
use crate::session::ring::tests::bench::Bench;

/// Long after everything that a case tells of: five hours, so that the longest patience is over.
const LATE_MS: u64 = 5 * 3_600_000;

/// What machines did, a line each, as the ring is told it.
fn bench(script: &str) -> Bench {
    let mut bench = Bench::new();
    script.lines().map(str::trim).filter(|line| !line.is_empty()).for_each(|line| bench.obey(line));
    bench
}

/// The findings about it after `now_ms`.
fn judge(script: &str, now_ms: u64) -> Vec<Finding> {
    let mut bench = bench(script);
    bench.obey(&format!("{now_ms} now"));
    diagnose(&bench.sessions(), bench.moment().at)
}

/// Checks that there is one finding with these words in what, cause and cure; no words mean no finding.
fn check(row: &str, script: &str, expected: Option<(Severity, &str, &str, &str)>) {
    let findings = judge(script, LATE_MS);
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
    use Severity::{Fail, Warn};
    check("iPXE ROM", "0 dhcp A 1 script\n100 lease A 1 5\n200 ask A 5\n210 told disk", None);
    check(
        "OVMF, mode A",
        "0 dhcp A 1 loader\n100 lease A 1 5\n200 tftp 5 x64.efi probe 1\n210 tftp 5 x64.efi whole 9
         500 ask A 5\n510 told disk",
        None,
    );
    check(
        "OVMF, mode B",
        "0 dhcp A 1 loader4011\n100 lease A 1 5\n150 dhcp A 2 ack4011\n210 tftp 5 x64.efi whole 9
         500 ask A 5\n510 told disk",
        None,
    );
    check(
        "4011 without answer",
        "0 dhcp A 1 loader4011\n100 lease A 1 5\n150 refuse A 2 4011\n2150 refuse A 2 4011",
        Some((Fail, "PXE-E16", "PC98", "4011/udp")),
    );
    check(
        "4011 does not reach us",
        "0 dhcp A 1 loader4011\n100 lease A 1 5",
        Some((Fail, "not heard on port 4011", "4011/udp does not reach", "mode = \"direct\"")),
    );
    check(
        "no default route",
        "0 unsent A 1",
        Some((Fail, "Network is unreachable", "link", "ip link")),
    );
    check(
        "HTTP boot truncated",
        "0 dhcp A 1 loader\n100 lease A 1 5\n200 http 5 bootloaders/x64.efi cut 9 700",
        Some((Fail, "HTTP broke off after 700 bytes", "not resume", "start the machine again")),
    );
    check(
        "truncated, then whole",
        "0 http 5 x64.efi cut 9\n50 http 5 x64.efi whole 9\n500 ask A 5\n510 told installer
         600 http #1 images/k whole 9\n900 report #1 A install_complete",
        None,
    );
    check(
        "shim, option 67 alone",
        "0 dhcp A 1 loader sb/shimx64.efi\n100 lease A 1 5\n200 tftp 5 sb/shimx64.efi whole 9
         300 missing 5 revocations_sku.efi\n310 missing 5 grubx64.efi",
        Some((Fail, "without the directory", "option 67 and not in the header", "dhcp-boot")),
    );
    check(
        "shim's three probes",
        "0 tftp 5 sb/ipxe-shimx64.efi whole 9\n100 missing 5 sb/revocations_sku.efi
         110 missing 5 sb/shim_certificate_0.efi\n120 tftp 5 sb/ipxe.efi whole 9
         500 ask A 5\n510 told disk",
        None,
    );
    check(
        "shim, empty 404",
        "0 http 5 bootloaders/sb/shimx64.efi whole 9
         100 missing 5 bootloaders/sb/revocations_sku.efi http",
        Some((Fail, "answered 404", "waits for the body", "proxy")),
    );
    check(
        "shim, second stage",
        "0 tftp 5 sb/ipxe-shimx64.efi whole 9\n100 missing 5 sb/ipxe.efi",
        Some((Fail, "'ipxe.efi' is missing", "second stage", "cache add bootloaders/sb/ipxe.efi")),
    );
    check(
        "GRUB behind ProxyDHCP",
        "0 dhcp A 1 loader\n100 lease A 1 5\n200 tftp 5 sb/shimx64.efi whole 9
         300 tftp 5 sb/grubx64.efi whole 9",
        Some((Fail, "loaded GRUB", "leased its address", "chain iPXE")),
    );
    check(
        "Secure Boot",
        "0 dhcp A 1 loader\n100 lease A 1 5\n200 tftp 5 x64.efi probe 1\n210 tftp 5 x64.efi whole 9
         1200 tftp 5 x64.efi probe 1\n1210 tftp 5 x64.efi whole 9",
        Some((Fail, "2 times whole, then fell silent", "Secure Boot", "signed shim")),
    );
    check(
        "Secure Boot, firmware asks anew between",
        "0 dhcp A 1 loader\n100 lease A 1 5\n210 tftp 5 x64.efi whole 9
         9000 dhcp A 2 loader\n9100 lease A 2 5\n9210 tftp 5 x64.efi whole 9",
        Some((Fail, "2 times whole, then fell silent", "Secure Boot", "signed shim")),
    );
    check(
        "Secure Boot, once",
        "0 dhcp A 1 loader\n100 lease A 1 5\n210 tftp 5 x64.efi whole 9",
        Some((Warn, "whole, then fell silent", "Access Denied", "signed shim")),
    );
    check(
        "loop",
        "0 dhcp A 1 loader\n100 lease A 1 5\n210 tftp 5 x64.efi whole 9
         9000 dhcp A 2 loader\n9100 lease A 2 5\n9210 tftp 5 x64.efi whole 9
         19000 dhcp A 3 loader\n19100 lease A 3 5\n19210 tftp 5 x64.efi whole 9
         29000 dhcp A 4 loader",
        Some((Warn, "three times: a loop", "option 175", "iPXE build")),
    );
    check(
        "three boots of three days",
        "0 tftp 5 x64.efi whole 9\n2000000 tftp 5 x64.efi whole 9\n4000000 tftp 5 x64.efi whole 9",
        Some((Warn, "'x64.efi' whole, then fell silent", "Access Denied", "shim")),
    );
    check(
        "loop guard",
        "0 dhcp A 1 loader\n5000 dhcp A 2 loader\n10000 dhcp A 3 loop",
        Some((Warn, "a loop", "firmware", "option 175")),
    );
    check("a loop that was broken", "0 dhcp A 1 loop\n10 ask A 5\n20 told disk", None);
    check(
        "window 1",
        "0 tftp 5 x64.efi whole 14600 850000\n15000 ask A 5\n15010 told disk",
        Some((Warn, "14600 ms", "RFC 7440", "HTTP")),
    );
    check("window 4", "0 tftp 5 x64.efi whole 4900 850000\n15000 ask A 5\n15010 told disk", None);
}

/// What the issue asks for beyond that table.
#[test]
fn each_case_of_the_field_has_its_finding() {
    use Severity::{Fail, Warn};
    let told = "0 ask A 5\n10 told installer\n";
    let after = |steps: &str| format!("{told}{steps}");
    check(
        "MTU",
        "0 dhcp A 1 loader\n100 lease A 1 5\n200 tftp 5 x64.efi probe 1
         210 tftp 5 x64.efi silent 9000 0",
        Some((Fail, "stalled at its first block", "the MTU of the path is smaller", "MTU 1500")),
    );
    check(
        "MTU or firewall",
        "0 tftp 5 x64.efi silent 9000 0",
        Some((Fail, "stalled at its first block", "firewall", "high ports")),
    );
    check(
        "not the MTU",
        "0 tftp 5 x64.efi silent 9000 512",
        Some((Fail, "TFTP broke off after 512 bytes", "left", "cable")),
    );
    check(
        "offer without request",
        "0 dhcp A 1 loader\n4000 dhcp A 1 loader\n12000 dhcp A 1 loader4011",
        Some((Fail, "3 times and never asked for a lease", "nobody leases", "DHCP server")),
    );
    check("one offer is no pattern", "0 dhcp A 1 loader", None);
    check("refused", "0 refuse A 1", Some((Warn, "PC98", "", "boot its disk")));
    check(
        "refused, then served",
        "0 refuse A 1\n1000 dhcp A 1 loader\n1100 lease A 1 5\n1200 ask A 5\n1210 told disk",
        None,
    );
    check(
        "loader not there",
        "0 dhcp A 1 loader\n100 lease A 1 5\n200 missing 5 x64.efi",
        Some((Fail, "the cache does not hold", "", "cache add bootloaders/x64.efi")),
    );
    check(
        "file that cannot be read",
        "0 tftp 5 x64.efi unread 1 0",
        Some((Fail, "could not read", "disk", "cache add")),
    );
    check(
        "script not fetched",
        "0 dhcp A 1 loader\n100 lease A 1 5\n200 tftp 5 x64.efi whole 9
         900 dhcp A 2 script\n910 lease A 2 5",
        Some((Fail, "never asked for it", "HTTP port", "8080/tcp")),
    );
    check(
        "first script alone",
        "0 tftp 5 autoexec.ipxe whole 9",
        Some((Fail, "never asked for it", "HTTP port", "8080/tcp")),
    );
    check(
        "first script by HTTP alone",
        "0 dhcp A 1 script\n100 lease A 1 5\n200 http 5 autoexec.ipxe whole 9",
        Some((Fail, "did not ask what to boot", "lost its network", "read its screen")),
    );
    check(
        "no answer",
        "0 ask A 5\n10 told error",
        Some((Fail, "could not be told what to boot", "so", "workflow")),
    );
    check("asked to wait", "0 ask A 5\n10 told wait", Some((Warn, "ask again", "", "start it")));
    check("kernel not fetched", told, Some((Fail, "the kernel", "iPXE stopped", "its screen")));
    check(
        "kernel not there",
        &after("20 missing #1 images/debian/linux http"),
        Some((Fail, "'images/debian/linux'", "put the file", "cache add images/debian/linux FILE")),
    );
    check(
        "no call-back",
        &after("20 http #1 images/k whole 9"),
        Some((Fail, "nothing called back", "network card", "console")),
    );
    check(
        "installer silent",
        &after("20 http #1 images/k whole 9\n900 report #1 A install_started"),
        Some((Fail, "silent after it reports install_started", "crashed", "console")),
    );
    check(
        "installation failed",
        &after("900 report #1 A install_failed"),
        Some((Fail, "its installation failed", "a word", "log")),
    );
    check("nothing", "", None);
}

#[test]
fn a_boot_under_way_is_not_judged_by_what_it_has_not_done_yet() {
    for script in [
        "0 dhcp A 1 loader4011\n1 lease A 1 5",
        "0 dhcp A 1 loader\n1 dhcp A 2 loader",
        "0 tftp 5 x64.efi whole 0\n0 tftp 5 x64.efi whole 0",
        "0 dhcp A 1 loader\n0 lease A 1 5\n0 tftp 5 x64.efi whole 0\n1 dhcp A 2 script",
    ] {
        assert_eq!(judge(script, 29_000), [], "{script}");
        assert_eq!(judge(script, 40_000).len(), 1, "{script}");
    }
    let reads = "0 tftp 5 x64.efi whole 0\n0 tftp 5 x64.efi whole 0\n1 tftp 5 x64.efi begins 0";
    assert_eq!(judge(reads, 600_000), [], "it reads on");
}

#[test]
fn what_was_put_right_or_is_long_ago_is_not_told() {
    let refused = "0 refuse A 1";
    assert_eq!(judge(refused, 23 * 3_600_000).len(), 1);
    assert_eq!(judge(refused, 25 * 3_600_000), []);
    let repaired = "0 refuse A 1\n700000 ask A 5\n700010 told disk";
    assert_eq!(judge(repaired, 701_000), []);
}

#[test]
fn an_earlier_boot_is_explained_by_its_own_steps() {
    let bench = bench("0 refuse A 1\n700000 ask A 5\n700010 told disk");
    let sessions = bench.sessions();
    let told = |session: &&&Session| explain(session, &sessions, bench.moment().at).is_some();
    let explained: Vec<_> = sessions.iter().filter(told).map(|it| it.reached).collect();
    assert_eq!(explained, [Phase::Asking]);
}

#[test]
fn a_site_full_of_trouble_is_told_in_bounds() {
    let lines: Vec<_> = (1..=100).map(|n| format!("0 tftp {n} x64.efi unread 0 0")).collect();
    let findings = judge(&lines.join("\n"), 1_000);
    assert_eq!(findings.len(), FINDINGS_MAX + 1);
    assert!(findings.last().is_some_and(|last| last.what.contains("68 more")));
}
