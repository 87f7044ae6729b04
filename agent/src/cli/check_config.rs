//! `pureboot-agent check-config`

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;

use chrono::{Local, TimeZone};
use pureboot_protocol::{ContentKey, Timestamp};

use crate::cli::arguments::placed;
use crate::clock;
use crate::config::{Config, TftpConfig};
use crate::data_dir::DataDir;
use crate::dhcp::{DhcpConfig, interfaces};
use crate::status::size;
use crate::sync::config::SyncConfig;
use crate::sync::pace::{RateWindow, bytes_per_second};
use crate::sync::pinned::Pinned;
use crate::sync::schedule::Schedule;
use crate::uplink::tls;

/// How many of a schedule's next times are told.
const TIMES: usize = 3;

placed! {
    /// check the settings without starting anything
    #[argh(subcommand, name = "check-config")]
    pub(super) struct CheckConfig {}
}

impl CheckConfig {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let data_dir = DataDir::open(&self.data_dir)?;
        let config = Config::load(&data_dir)?;
        tls::connector(config.ca_file.as_deref())?;
        let missing =
            config.dhcp.enabled.then(|| interfaces::missing(&config.dhcp.interfaces)).flatten();
        for complaint in missing.into_iter().chain(config.dhcp.complaint()) {
            super::complain(&format!("warning: {complaint}"));
        }
        let schedule = config.sync.schedule(config.site_id)?;
        super::print(&format!(
            "{} holds: site {}, controller {}, {}, HTTP boot on {}, {}\n{}{}{}",
            data_dir.config_file().display(),
            config.site_id,
            config.central_url,
            tftp(&config.tftp),
            config.boot.listen,
            proxy(&config.dhcp),
            content(&config.sync, &schedule, clock::now(), &Local),
            rates(&config.sync),
            pins(&Pinned::load(&data_dir)?.names()),
        ))
    }
}

/// When content comes.
fn content<Z: TimeZone<Offset: std::fmt::Display>>(
    sync: &SyncConfig,
    schedule: &Schedule,
    now: Timestamp,
    zone: &Z,
) -> String {
    if schedule.is_empty() {
        return "content: all of it as soon as the controller has it\n".to_owned();
    }
    let times = std::iter::successors(schedule.next(now, zone), |last| schedule.next(*last, zone));
    let shown =
        times.take(TIMES).filter_map(|at| zone.timestamp_millis_opt(at.unix_ms()).earliest());
    let shown: Vec<String> = shown.map(|at| at.format("%a %F %T %:z").to_string()).collect();
    format!(
        "content: images by the schedule \"{}\", next at {}; all else, and what a machine asks for, at once\n",
        sync.schedule.join("\", \""),
        shown.join(", ")
    )
}

/// How fast content comes.
fn rates(sync: &SyncConfig) -> String {
    let rate = |limit: Option<u64>| match limit {
        Some(limit) => format!("at most {}/s", size(limit)),
        None => "as fast as the line".to_owned(),
    };
    let mut text = format!("rate: {}", rate(sync.bytes_per_second()));
    for RateWindow { from, to, days, max_kib_s } in &sync.rate {
        let (from, to) = (String::from(*from), String::from(*to));
        let days: Vec<_> = days.iter().map(|day| day.as_str()).collect();
        let days = if days.is_empty() { String::new() } else { format!(" on {}", days.join(", ")) };
        _ = write!(text, "; {from} to {to}{days}: {}", rate(bytes_per_second(*max_kib_s)));
    }
    text + "\n"
}

/// What a person has pinned.
fn pins(names: &BTreeSet<ContentKey>) -> String {
    let names: Vec<_> = names.iter().map(ContentKey::to_string).collect();
    match names.as_slice() {
        [] => "pinned: nothing; `pureboot-agent cache pin` keeps content that would leave\n"
            .to_owned(),
        names => format!("pinned: {}\n", names.join(", ")),
    }
}

/// Where TFTP answers, and whom.
fn tftp(tftp: &TftpConfig) -> String {
    let allowed = tftp.allow_from.iter().map(|network| format!(" and {network}"));
    let allowed: String = allowed.collect();
    let case = if tftp.ignore_case { ", names in any case" } else { "" };
    format!(
        "TFTP on {} for this host's own networks{allowed} (to an address {} transfers at a time, {} requests/s{case})",
        tftp.listen, tftp.transfers_per_address_max, tftp.requests_per_address_per_s,
    )
}

/// Where ProxyDHCP answers.
fn proxy(dhcp: &DhcpConfig) -> String {
    if dhcp.enabled {
        format!("ProxyDHCP on {}", dhcp.interfaces.join(", "))
    } else {
        "ProxyDHCP off".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use pureboot_protocol::SiteId;

    use super::*;

    #[test]
    fn the_check_tells_whom_tftp_answers() {
        let network = "10.9.0.0/16".parse().expect("a network");
        let config = TftpConfig { allow_from: vec![network], ..TftpConfig::default() };
        assert_eq!(
            tftp(&config),
            "TFTP on 0.0.0.0:69 for this host's own networks and 10.9.0.0/16 (to an address 8 transfers at a time, 20 requests/s)"
        );
    }

    #[test]
    fn the_check_tells_when_and_how_fast_content_comes_and_what_stays() {
        let sync: SyncConfig = toml::from_str(
            "schedule = \"0 2 * * *\"\nschedule_jitter_s = 0\nrate_max_kib_s = 2000\n[[rate]]\nfrom = \"08:00\"\n\
             to = \"18:00\"\ndays = [\"mon\", \"fri\"]\nmax_kib_s = 500\n[[rate]]\nfrom = \"22:00\"\nto = \"02:00\"\n\
             max_kib_s = 0",
        )
        .expect("settings");
        let zone = chrono::FixedOffset::east_opt(3_600).expect("a zone");
        let schedule = sync.schedule(SiteId::from_random([1; 16])).expect("a schedule");
        let now = Timestamp::from_unix_ms(1_000_000_000_000);
        expect![[r#"
            content: images by the schedule "0 2 * * *", next at Mon 2001-09-10 02:00:00 +01:00, Tue 2001-09-11 02:00:00 +01:00, Wed 2001-09-12 02:00:00 +01:00; all else, and what a machine asks for, at once
        "#]]
        .assert_eq(&content(&sync, &schedule, now, &zone));
        expect![[r#"
            rate: at most 2.0 MB/s; 08:00 to 18:00 on mon, fri: at most 512.0 kB/s; 22:00 to 02:00: as fast as the line
        "#]]
        .assert_eq(&rates(&sync));
        let names = ["images/b", "images/a"].map(|name| name.parse().expect("a name"));
        assert_eq!(pins(&BTreeSet::from(names)), "pinned: images/a, images/b\n");
        let usual = SyncConfig::default();
        let schedule = usual.schedule(SiteId::from_random([1; 16])).expect("none");
        assert!(content(&usual, &schedule, now, &zone).contains("as soon as"));
        assert_eq!(rates(&usual), "rate: as fast as the line\n");
    }

    #[test]
    fn the_check_tells_whether_and_where_dhcp_requests_are_answered() {
        let interfaces = vec!["br0".to_owned(), "br1".to_owned()];
        let mut dhcp = DhcpConfig { interfaces, ..DhcpConfig::default() };
        assert_eq!(proxy(&dhcp), "ProxyDHCP off");
        dhcp.enabled = true;
        assert_eq!(proxy(&dhcp), "ProxyDHCP on br0, br1");
    }
}
