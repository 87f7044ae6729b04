use std::collections::BTreeMap;

use expect_test::{ExpectFile, expect_file};

use super::*;

/// Few enough loaders to read the whole text.
fn few() -> Loaders {
    let served = [LoaderKind::Bios, LoaderKind::X64, LoaderKind::RaspberryPi];
    let others = LoaderKind::ALL.into_iter().filter(|(kind, ..)| !served.contains(kind));
    let off: BTreeMap<_, _> = others.map(|(kind, ..)| (kind, String::new())).collect();
    Loaders::try_from(off).expect("empty names are allowed")
}

fn check(server: &str, loaders: &Loaders, expected: ExpectFile) {
    let agent = Agent { address: Ipv4Addr::new(10, 9, 0, 2), http_port: 8080, loaders };
    expected.assert_eq(&render(server.parse().expect("a server"), &agent));
}

#[test]
fn dnsmasq_is_told_every_served_architecture() {
    check("dnsmasq", &Loaders::default(), expect_file!["expected/dnsmasq.conf"]);
}

#[test]
fn odhcpd_is_told_to_leave_it_to_dnsmasq() {
    check("odhcpd", &few(), expect_file!["expected/odhcpd.sh"]);
}

/// There is no odhcpd in Debian to try this on. What it hands to dnsmasq is the text that a real dnsmasq is tested with
/// (`tests/it/netboot/wire.rs`), and the rest is a script that a shell can read.
#[test]
fn the_text_for_odhcpd_is_a_shell_script_around_that_for_dnsmasq() {
    let loaders = Loaders::default();
    let agent = Agent { address: Ipv4Addr::new(10, 9, 0, 2), http_port: 8080, loaders: &loaders };
    let [odhcpd, dnsmasq] =
        [DhcpServer::Odhcpd, DhcpServer::Dnsmasq].map(|server| render(server, &agent));
    let (_, after) = odhcpd.split_once("<<'EOF'\n").expect("a here-document");
    let (inside, _) = after.split_once("\nEOF\n").expect("its end");
    assert_eq!(inside, dnsmasq.trim_end());
    let read =
        std::process::Command::new("sh").args(["-n", "-c", &odhcpd]).output().expect("a shell");
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
}

#[test]
fn isc_dhcpd_is_told_by_conditions() {
    check("isc", &few(), expect_file!["expected/dhcpd.conf"]);
}

#[test]
fn kea_is_told_by_client_classes() {
    check("kea", &few(), expect_file!["expected/kea.json"]);
}

#[test]
fn the_text_for_kea_is_json_with_comments() {
    let loaders = Loaders::default();
    let agent = Agent { address: Ipv4Addr::new(10, 9, 0, 2), http_port: 8080, loaders: &loaders };
    let text = render(DhcpServer::Kea, &agent);
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("//")).collect();
    let value: serde_json::Value =
        serde_json::from_str(&format!("{{{}}}", lines.join("\n"))).expect("JSON");
    let classes = value["client-classes"].as_array().expect("a list");
    assert_eq!(classes.len(), agent.groups().len() + 2);
}

#[test]
fn no_snippet_names_a_loader_that_the_site_does_not_serve() {
    let off = LoaderKind::ALL.into_iter().map(|(kind, ..)| (kind, String::new())).collect();
    let loaders = Loaders::try_from(BTreeMap::from_iter::<Vec<_>>(off)).expect("empty names");
    let agent = Agent { address: Ipv4Addr::new(10, 9, 0, 2), http_port: 8080, loaders: &loaders };
    for server in [DhcpServer::Dnsmasq, DhcpServer::Odhcpd, DhcpServer::Isc, DhcpServer::Kea] {
        let text = render(server, &agent);
        assert!(text.contains("boot.ipxe"), "{server:?}");
        for (_, _, file) in LoaderKind::ALL {
            assert!(!text.contains(file), "{server:?} {file}");
        }
    }
}

#[test]
fn a_server_that_we_do_not_know_is_refused() {
    let error = "windows".parse::<DhcpServer>().expect_err("unknown");
    assert_eq!(error.to_string(), "'windows' is none of dnsmasq, odhcpd, isc, kea");
}
