//! What monitoring reads, in the hands of Prometheus' own parser.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use pureboot_tests::controller::{Controller, Options};
use pureboot_tests::site::ARRIVAL_LIMIT;
use pureboot_tests::{http, prometheus_python, random_mac};
use serde_json::json;

use crate::need::Need;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(metrics_are_what_the_parser_of_prometheus_takes, Need::PrometheusClient)]
}

/// Reads OpenMetrics strictly and prints each sample on a line: name, labels in order, value.
const PARSE: &str = r#"
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.documentation, family
    for sample in family.samples:
        labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
        print(f"{sample.name} {{{labels}}} {sample.value:g}")
"#;

fn parse(text: &str) -> Result<String> {
    let mut python = Command::new(prometheus_python()?);
    python.args(["-c", PARSE]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = python.spawn()?;
    child.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the parser refuses it:\n{text}");
    Ok(String::from_utf8(output.stdout)?)
}

fn metrics_are_what_the_parser_of_prometheus_takes() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("pureboot-").tempdir()?;
    let arguments = ["--metrics-listen", "127.0.0.1:0"].map(str::to_owned).to_vec();
    let options = Options { arguments, ..Options::default() };
    let mut controller = Controller::start_with(dir.path(), options)?;
    controller.post("/nodes", &json!({ "mac_address": random_mac() }))?;
    let url = controller.program()?.line("metrics on ", ARRIVAL_LIMIT)?;
    let answer = http::get(url.trim())?.expect(200)?;
    let media_type = answer.field("content-type").unwrap_or_default();
    ensure!(media_type.starts_with("application/openmetrics-text; version=1.0.0"), "{media_type}");
    let samples = parse(&answer.text())?;
    for expected in [
        "pureboot_nodes {state=discovered} 1",
        "pureboot_http_requests_total {method=POST,route=/api/v1/nodes,status=201} 1",
        "pureboot_http_request_duration_seconds_count {method=POST,route=/api/v1/nodes} 1",
        "pureboot_database_up {} 1",
        "pureboot_job_failures_total {job=agent_status} 0",
    ] {
        ensure!(samples.lines().any(|line| line == expected), "no '{expected}' in:\n{samples}");
    }
    let anybody = http::get(&format!("{}/metrics", controller.url()))?;
    ensure!(anybody.status == 401, "the listener of the API wants a credential: {anybody:?}");
    Ok(())
}
