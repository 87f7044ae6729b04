pub(crate) mod bench;
mod limits;

use expect_test::{Expect, expect};

use self::bench::Bench;
use super::*;

fn check(script: &str, expected: Expect) {
    let mut bench = Bench::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        bench.obey(line);
    }
    expected.assert_eq(&bench.tell());
}

#[test]
fn what_a_machine_calls_itself_is_remembered_by_its_last_session_in_which_it_said_so() {
    let mut bench = Bench::new();
    bench.obey("0 dhcp A 1 script");
    let mut say = |line: &str, agent: &str| {
        bench.obey(line);
        let who = Who { mac: "52:54:00:00:00:00".parse().ok(), ..Who::default() };
        let moment = bench.moment();
        bench.sessions.note_user_agent(&who, agent, moment);
        bench.sessions.user_agents_of(who.mac.unwrap()).join(", ")
    };
    assert_eq!(say("10 ask A 5", ""), "");
    assert_eq!(say("11 now", "iPXE/1.0.0+"), "iPXE/1.0.0+");
    assert_eq!(say("12 now", "iPXE/1.0.0+"), "iPXE/1.0.0+");
    assert_eq!(say("13 now", "curl/8"), "iPXE/1.0.0+, curl/8");
    // The next boot, which says nothing by HTTP yet.
    assert_eq!(say("900000 dhcp A 2 script", ""), "iPXE/1.0.0+, curl/8");
    assert_eq!(say("900010 ask A 5", "iPXE/1.21.1"), "iPXE/1.21.1");
    for n in 0..10 {
        say("900011 now", &format!("{n}{}", "é".repeat(100)));
    }
    let live = bench.sessions.ring.values().next_back().unwrap();
    assert_eq!(live.session.user_agents.len(), USER_AGENTS_MAX);
    assert!(live.session.user_agents.iter().all(|it| it.len() <= USER_AGENT_LEN_MAX));
    bench.obey("900012 restart");
    let mac = "52:54:00:00:00:00".parse().unwrap();
    assert_eq!(bench.sessions.user_agents_of(mac)[0], "iPXE/1.21.1".into());
}

#[test]
fn a_whole_boot_is_one_session_under_one_id() {
    check(
        "0 dhcp A 1 loader
         4000 dhcp A 1 loader
         4500 lease A 1 5
         5000 tftp 5 x64.efi probe 1
         5010 tftp 5 x64.efi whole 400
         6000 dhcp A 2 script
         6100 lease A 2 5
         6200 tftp 5 autoexec.ipxe whole 2
         6300 ask A 5 #1
         6400 told installer
         6500 http #1 images/linux whole 1500
         8100 http #1 images/initrd whole 2000
         60000 report #1 A install_started
         90000 report #1 A install_progress
         95000 report #1 A install_progress
         120000 report #1 A install_complete",
        expect![[r#"
            #1 52:54:00:00:00:00  3:20.000Z  2 min 00 s  called back: install_complete
              +   0.000 s  DHCP: offered x64.efi (test, architecture 0x0007), 2 times     4.000 s
              +   4.500 s  DHCP: asks its server for 10.0.0.5
              +   5.000 s  TFTP: loader x64.efi, only its size                          0.001 s     1.0 MB/s
              +   5.010 s  TFTP: loader x64.efi                                         1.0 kB     0.400 s     2.5 kB/s
              +   6.000 s  DHCP: iPXE is offered http://10.0.0.1:8080/boot.ipxe (test, architecture 0x0007)
              +   6.100 s  DHCP: asks its server for 10.0.0.5
              +   6.200 s  TFTP: first script autoexec.ipxe                             1.0 kB     0.002 s   500.0 kB/s
              +   6.300 s  asks what to boot: its installer (online; so)                0.100 s
              +   6.500 s  HTTP: images/linux                                           1.0 kB     1.500 s      666 B/s
              +   8.100 s  HTTP: images/initrd                                          1.0 kB     2.000 s      500 B/s
              +1 min 00 s  reports install_started: a word
              +1 min 30 s  reports install_progress: a word, 2 times                    5.000 s
              +2 min 00 s  reports install_complete: a word
        "#]],
    );
}

#[test]
fn firmware_that_asks_again_within_its_schedule_is_in_the_same_session() {
    check(
        "0 dhcp A 1 loader
         4000 dhcp A 2 loader
         12000 dhcp A 3 loader
         28000 dhcp A 4 loader
         90000 now",
        expect![[r#"
            #1 52:54:00:00:00:00  3:20.000Z  28.000 s  stuck at the offer: it fetched nothing
              +   0.000 s  DHCP: offered x64.efi (test, architecture 0x0007), 4 times    28.000 s
        "#]],
    );
}

#[test]
fn a_machine_that_asks_again_later_begins_anew() {
    check(
        "0 dhcp A 1 loader
         33000 dhcp A 1 loader",
        expect![[r#"
            #1 52:54:00:00:00:00  3:20.000Z  0.000 s  under way
              +   0.000 s  DHCP: offered x64.efi (test, architecture 0x0007)
            #2 52:54:00:00:00:00  3:53.000Z  0.000 s  under way
              +   0.000 s  DHCP: offered x64.efi (test, architecture 0x0007)
        "#]],
    );
}

#[test]
fn firmware_that_asks_after_its_loader_came_begins_anew_whatever_its_transaction() {
    check(
        "0 dhcp A 1 loader
         500 lease A 1 5
         1000 tftp 5 x64.efi whole 500
         9000 dhcp A 1 loader
         200000 now",
        expect![[r#"
            #1 52:54:00:00:00:00  3:20.000Z  1.500 s  stuck at the loader: it arrived, and did not go on
              +   0.000 s  DHCP: offered x64.efi (test, architecture 0x0007)
              +   0.500 s  DHCP: asks its server for 10.0.0.5
              +   1.000 s  TFTP: loader x64.efi                                         1.0 kB     0.500 s     2.0 kB/s
            #2 52:54:00:00:00:00  3:29.000Z  0.000 s  stuck at the offer: it fetched nothing
              +   0.000 s  DHCP: offered x64.efi (test, architecture 0x0007)
        "#]],
    );
}

#[test]
fn a_copy_of_a_packet_is_no_new_boot() {
    check(
        "0 dhcp A 1 loader
         100 lease A 1 5
         300 tftp 5 x64.efi whole 500
         1000 dhcp A 1 loader",
        expect![[r#"
            #1 52:54:00:00:00:00  3:20.000Z  1.000 s  under way
              +   0.000 s  DHCP: offered x64.efi (test, architecture 0x0007)
              +   0.100 s  DHCP: asks its server for 10.0.0.5
              +   0.300 s  TFTP: loader x64.efi                                         1.0 kB     0.500 s     2.0 kB/s
              +   1.000 s  DHCP: offered x64.efi (test, architecture 0x0007)
        "#]],
    );
}

#[test]
fn machines_that_boot_at_once_have_their_own_sessions() {
    check(
        "0 dhcp A 1 loader
         1 dhcp B 1 loader
         100 lease B 1 6
         101 lease A 1 5
         200 tftp 5 x64.efi begins 0
         201 tftp 6 x64.efi begins 0
         900 ends 6 x64.efi
         950 ends 5 x64.efi
         1000 tftp 6 autoexec.ipxe whole 1
         1001 tftp 5 autoexec.ipxe whole 1
         1100 ask A 5 #1
         1101 told disk
         1200 ask B 6 #2
         1201 told disk",
        expect![[r#"
            #1 52:54:00:00:00:00  3:20.000Z  1.101 s  left to its disk
              +   0.000 s  DHCP: offered x64.efi (test, architecture 0x0007)
              +   0.101 s  DHCP: asks its server for 10.0.0.5
              +   0.200 s  TFTP: loader x64.efi                                         1.0 kB     0.750 s     1.3 kB/s
              +   1.001 s  TFTP: first script autoexec.ipxe                             1.0 kB     0.001 s     1.0 MB/s
              +   1.100 s  asks what to boot: its disk (online; so)                     0.001 s
            #2 52:54:00:00:00:01  3:20.001Z  1.200 s  left to its disk
              +   0.000 s  DHCP: offered x64.efi (test, architecture 0x0007)
              +   0.099 s  DHCP: asks its server for 10.0.0.6
              +   0.200 s  TFTP: loader x64.efi                                         1.0 kB     0.699 s     1.4 kB/s
              +   0.999 s  TFTP: first script autoexec.ipxe                             1.0 kB     0.001 s     1.0 MB/s
              +   1.199 s  asks what to boot: its disk (online; so)                     0.001 s
        "#]],
    );
}

#[test]
fn an_address_that_changes_hands_does_not_mix_machines() {
    check(
        "0 dhcp A 1 loader
         100 lease A 1 5
         200 tftp 5 x64.efi whole 100
         400 tftp 5 autoexec.ipxe whole 1
         500 ask A 5 #1
         510 told disk
         9000 dhcp B 7 loader
         9100 lease B 7 5
         9200 tftp 5 x64.efi whole 100
         9400 tftp 5 autoexec.ipxe whole 1
         9500 ask B 5 #2
         9510 told disk",
        expect![[r#"
            #1 52:54:00:00:00:00  3:20.000Z  0.510 s  left to its disk
              +   0.000 s  DHCP: offered x64.efi (test, architecture 0x0007)
              +   0.100 s  DHCP: asks its server for 10.0.0.5
              +   0.200 s  TFTP: loader x64.efi                                         1.0 kB     0.100 s    10.0 kB/s
              +   0.400 s  TFTP: first script autoexec.ipxe                             1.0 kB     0.001 s     1.0 MB/s
              +   0.500 s  asks what to boot: its disk (online; so)                     0.010 s
            #2 52:54:00:00:00:01  3:29.000Z  0.510 s  left to its disk
              +   0.000 s  DHCP: offered x64.efi (test, architecture 0x0007)
              +   0.100 s  DHCP: asks its server for 10.0.0.5
              +   0.200 s  TFTP: loader x64.efi                                         1.0 kB     0.100 s    10.0 kB/s
              +   0.400 s  TFTP: first script autoexec.ipxe                             1.0 kB     0.001 s     1.0 MB/s
              +   0.500 s  asks what to boot: its disk (online; so)                     0.010 s
        "#]],
    );
}

#[test]
fn a_machine_whose_dhcp_is_not_seen_begins_with_its_loader() {
    check(
        "0 tftp 5 x64.efi whole 100
         300 tftp 5 autoexec.ipxe whole 1
         400 ask A 5 #1
         410 told disk
         60000 tftp 5 x64.efi whole 100",
        expect![[r#"
            #1 52:54:00:00:00:00  3:20.000Z  0.410 s  left to its disk
              +   0.000 s  TFTP: loader x64.efi                                         1.0 kB     0.100 s    10.0 kB/s
              +   0.300 s  TFTP: first script autoexec.ipxe                             1.0 kB     0.001 s     1.0 MB/s
              +   0.400 s  asks what to boot: its disk (online; so)                     0.010 s
            #2 10.0.0.5  4:20.000Z  0.100 s  under way
              +   0.000 s  TFTP: loader x64.efi                                         1.0 kB     0.100 s    10.0 kB/s
        "#]],
    );
}

#[test]
fn what_was_seen_by_dhcp_is_put_before_a_loader_from_an_unknown_address() {
    check(
        "0 dhcp A 1 loader
         900 tftp 5 x64.efi whole 100
         1300 tftp 5 autoexec.ipxe begins 0
         1400 ask A 5 #2
         1410 told disk
         1500 ends 5 autoexec.ipxe",
        expect![[r#"
            #2 52:54:00:00:00:00  3:20.000Z  1.500 s  left to its disk
              +   0.000 s  DHCP: offered x64.efi (test, architecture 0x0007)
              +   0.900 s  TFTP: loader x64.efi                                         1.0 kB     0.100 s    10.0 kB/s
              +   1.300 s  TFTP: first script autoexec.ipxe                             1.0 kB     0.200 s     5.0 kB/s
              +   1.400 s  asks what to boot: its disk (online; so)                     0.010 s
        "#]],
    );
}

#[test]
fn a_script_without_anything_before_it_begins_a_session_each_time() {
    check(
        "0 ask A 5
         10 told installer
         50 http #1 images/linux whole 100
         5000 ask A 5
         5010 told disk",
        expect![[r#"
            #1 52:54:00:00:00:00  3:20.000Z  0.150 s  under way
              +   0.000 s  asks what to boot: its installer (online; so)                0.010 s
              +   0.050 s  HTTP: images/linux                                           1.0 kB     0.100 s    10.0 kB/s
            #2 52:54:00:00:00:00  3:25.000Z  0.010 s  left to its disk
              +   0.000 s  asks what to boot: its disk (online; so)                     0.010 s
        "#]],
    );
}

#[test]
fn h19_a_session_of_another_machine_is_not_taken_over() {
    check(
        "0 ask A 5
         10 told installer
         100 ask B 6 #1
         110 told disk",
        expect![[r#"
            #1 52:54:00:00:00:00  3:20.000Z  0.010 s  under way
              +   0.000 s  asks what to boot: its installer (online; so)                0.010 s
            #2 52:54:00:00:00:01  3:20.100Z  0.010 s  left to its disk
              +   0.000 s  asks what to boot: its disk (online; so)                     0.010 s
        "#]],
    );
}

#[test]
fn a_report_in_a_session_that_was_forgotten_brings_it_back() {
    check(
        "0 report #77 A first_boot",
        expect![[r#"
        #77 52:54:00:00:00:00  3:20.000Z  0.000 s  called back: first_boot
          +   0.000 s  reports first_boot: a word
    "#]],
    );
}

#[test]
fn content_that_nobody_boots_is_no_session() {
    check(
        "0 http 5 images/linux whole 100
         10 http #9 images/linux whole 100
         20 lease A 1 5",
        expect![],
    );
}

#[test]
fn a_disk_that_is_read_piece_by_piece_is_one_step() {
    check(
        "0 ask A 5
         10 told installer
         100 http #1 images/disk part 10
         200 http #1 images/disk part 10
         300 http #1 images/disk whole 10",
        expect![[r#"
            #1 52:54:00:00:00:00  3:20.000Z  0.310 s  under way
              +   0.000 s  asks what to boot: its installer (online; so)                0.010 s
              +   0.100 s  HTTP: images/disk, 3 times                                   3.0 kB     0.210 s    14.3 kB/s
        "#]],
    );
}

#[test]
fn what_is_stuck_says_where() {
    for (script, expected) in [
        ("0 dhcp A 1 loader\n59999 now", "under way"),
        ("0 dhcp A 1 loader\n60000 now", "stuck at the offer: it fetched nothing"),
        (
            "0 dhcp A 1 loader4011\n100 lease A 1 5\n61000 now",
            "stuck at the offer: it did not ask on port 4011",
        ),
        (
            "0 dhcp A 1 loader4011\n1 dhcp A 2 ack4011\n61000 now",
            "stuck at the offer: it fetched nothing",
        ),
        ("0 dhcp A 1 script\n61000 now", "stuck at the offer: it fetched nothing"),
        ("0 refuse A 1\n1 now", "stuck at the first question: there is no answer for this machine"),
        ("0 tftp 5 x64.efi begins 0\n900000 now", "under way"),
        ("0 tftp 5 x64.efi begins 0\n3600000 now", "stuck at the loader: it did not arrive whole"),
        (
            "0 tftp 5 x64.efi probe 1\n60001 now",
            "stuck at the size of a file: it did not fetch the file",
        ),
        ("0 tftp 5 x64.efi cut 1\n60001 now", "stuck at the loader: it did not arrive whole"),
        (
            "0 tftp 5 x64.efi whole 1\n90001 now",
            "stuck at the loader: it arrived, and did not go on",
        ),
        ("0 missing 5 grub.cfg\n60001 now", "stuck at a file that is not here"),
        (
            "0 tftp 5 autoexec.ipxe whole 1\n90001 now",
            "stuck at the first script: it did not ask what to boot",
        ),
        ("0 ask A 5\n60000 now", "stuck at the script: it could not be told what to boot"),
        ("0 ask A 5\n1 told error", "stuck at the script: it could not be told what to boot"),
        (
            "0 ask A 5\n1 told wait\n90001 now",
            "stuck at the script: it was to ask again, and did not",
        ),
        (
            "0 ask A 5\n1 told installer\n60001 now",
            "stuck at the script: it did not fetch the kernel",
        ),
        ("0 ask A 5\n1 told disk\n60001 now", "left to its disk"),
        (
            "0 ask A 5\n1 told installer\n2 http #1 images/k cut 1\n60003 now",
            "stuck at a file of its script: it did not arrive whole",
        ),
        (
            "0 ask A 5\n1 told installer\n2 http #1 images/k whole 1\n900003 now",
            "stuck at the kernel: nothing called back",
        ),
        ("0 report #1 A install_started\n3600000 now", "stuck at the installer: it fell silent"),
        ("0 report #1 A install_failed", "the installation failed"),
        ("0 report #1 A first_boot", "called back: first_boot"),
    ] {
        let mut bench = Bench::new();
        script.lines().for_each(|line| bench.obey(line));
        let session = &bench.sessions.ring.values().next().unwrap().session;
        assert_eq!(session.outcome(bench.moment().at).to_string(), expected, "{script}");
    }
}

#[test]
fn a_restart_keeps_sessions_and_a_machine_goes_on_in_its_own() {
    check(
        "0 dhcp A 1 loader
         100 lease A 1 5
         200 tftp 5 x64.efi whole 100
         400 ask A 5
         410 told installer
         500 http #1 images/linux begins 0
         9000 restart
         10000 http #1 images/linux whole 100
         20000 report #1 A install_complete",
        expect![[r#"
            #1 52:54:00:00:00:00  3:20.000Z  20.000 s  called back: install_complete
              +   0.000 s  DHCP: offered x64.efi (test, architecture 0x0007)
              +   0.100 s  DHCP: asks its server for 10.0.0.5
              +   0.200 s  TFTP: loader x64.efi                                         1.0 kB     0.100 s    10.0 kB/s
              +   0.400 s  asks what to boot: its installer (online; so)                0.010 s
              +   0.500 s  HTTP: images/linux, the agent was stopped                       0 B
              +  10.000 s  HTTP: images/linux                                           1.0 kB     0.100 s    10.0 kB/s
              +  20.000 s  reports install_complete: a word
        "#]],
    );
}
