//! What monitoring reads of the agent, as Prometheus writes it (text format 0.0.4). Values in, text out.

use std::fmt::{Display, Write as _};

use pureboot_protocol::{PolicyReport, PolicyState};

use crate::cache::Stats;
use crate::status::Report;
use crate::sync::report::Status;
use crate::sync::verdicts::VerdictCounts;

/// How Prometheus calls the text.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything that is measured. No label is anything that a machine or a name of content could choose.
pub(super) fn render(report: &Report, stats: &Stats, verdicts: Option<VerdictCounts>) -> String {
    let mut page = Page::default();
    page.gauge("up_seconds", "Time since the agent's start.", report.uptime_seconds);
    let is_connected = u8::from(report.line.offline_since().is_none());
    page.gauge("online", "Whether the controller is in reach.", is_connected);
    page.gauge("active_boots", "Transfers to machines that are under way.", report.active_boots);
    page.gauge("nodes_known", "Machines that are remembered.", report.nodes_known);
    page.gauge("queue_pending", "Changes that wait for the controller.", report.queue_pending);
    page.gauge("queue_parked", "Changes that it has parked.", report.queue_parked);
    page.gauge("disk_usage_percent", "Of the data directory's disk.", report.disk_usage_percent);
    page.gauge("cache_size_bytes", "Bytes of all objects, each once.", stats.size_bytes);
    page.head("cache_entries", "gauge", "Names of content.");
    for (category, held) in &stats.categories {
        page.labelled("cache_entries", category.as_str(), held.entries);
    }
    page.head("cache_category_bytes", "gauge", "Bytes of what the names stand for.");
    for (category, held) in &stats.categories {
        page.labelled("cache_category_bytes", category.as_str(), held.size_bytes);
    }
    page.counter("cache_hits_total", "Lookups that found an object.", stats.hits);
    page.counter("cache_misses_total", "Lookups that did not.", stats.misses);
    page.counter("cache_damaged_total", "Objects set aside as damaged.", stats.damaged);
    let content = &report.content;
    page.gauge("sync_names_wanted", "Names in the manifest.", content.names_wanted);
    page.gauge("sync_names_missing", "Those that are not here.", content.names_missing);
    page.counter("sync_received_bytes_total", "Content over the line.", content.received_bytes);
    page.counter(
        "sync_reused_bytes_total",
        "Content that did not have to come, because other objects had it.",
        content.reused_bytes,
    );
    if let Some(version) = content.manifest_version {
        page.gauge("sync_manifest_version", "The manifest's version.", version);
    }
    if let Some((last, at)) = content.last.as_ref().zip(content.last_sync_at) {
        let seconds = at.unix_ms() / 1_000;
        page.gauge("sync_last_timestamp_seconds", "When the last sync ended.", seconds);
        let is_good = u8::from(last.status == Status::Completed);
        page.gauge("sync_last_success", "Whether all was here then.", is_good);
    }
    policies(&mut page, &report.policies);
    if let Some(verdicts) = verdicts {
        content_policies(&mut page, &verdicts);
    }
    page.text
}

/// What the site's policies want of content.
fn content_policies(page: &mut Page, verdicts: &VerdictCounts) {
    let VerdictCounts { pinned_count, pinned_bytes, given_up_count, .. } = verdicts;
    page.gauge("policy_pinned_names", "Names that policies pin.", pinned_count);
    page.gauge("policy_pinned_bytes", "Bytes of what they stand for.", pinned_bytes);
    page.gauge("policy_given_up_names", "Names that policies give up.", given_up_count);
    let seconds = verdicts.given_at.unix_ms() / 1_000;
    page.gauge("policy_judged_timestamp_seconds", "When they were last asked.", seconds);
}

/// The site's policies: as many rows as there are policies, which are few.
fn policies(page: &mut Page, policies: &[PolicyReport]) {
    type Figure = (&'static str, &'static str, &'static str, fn(&PolicyReport) -> u64);
    const FIGURES: [Figure; 7] = [
        ("policy_answers_total", "counter", "Questions answered.", |policy| policy.answers),
        ("policy_errors_total", "counter", "Questions it cannot decide.", |policy| policy.errors),
        ("policy_failures_total", "counter", "Calls that failed.", |policy| policy.failures),
        ("policy_skipped_total", "counter", "Questions not asked.", |policy| policy.skipped),
        ("policy_fuel_total", "counter", "Fuel burnt.", |policy| policy.fuel_total),
        ("policy_microseconds_total", "counter", "Time of all calls.", |policy| {
            policy.took_total_us
        }),
        ("policy_runs", "gauge", "Whether it is asked, in the assigned version.", |policy| {
            u64::from(policy.state == PolicyState::Running)
        }),
    ];
    for (name, kind, help, figure) in FIGURES.iter().filter(|_| !policies.is_empty()) {
        page.head(name, kind, help);
        for policy in policies {
            let (plugin, value) = (&policy.plugin, figure(policy));
            _ = writeln!(page.text, "pureboot_agent_{name}{{policy=\"{plugin}\"}} {value}");
        }
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        _ = write!(
            self.text,
            "# HELP pureboot_agent_{name} {help}\n# TYPE pureboot_agent_{name} {kind}\n"
        );
    }

    fn value(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        _ = writeln!(self.text, "pureboot_agent_{name} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.value(name, "gauge", help, value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.value(name, "counter", help, value);
    }

    fn labelled(&mut self, name: &str, category: &str, value: impl Display) {
        _ = writeln!(self.text, "pureboot_agent_{name}{{category=\"{category}\"}} {value}");
    }
}
