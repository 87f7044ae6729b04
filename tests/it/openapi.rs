//! The controller's OpenAPI document in the hands of a tester that knows nothing else of it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use pureboot_tests::controller::{Controller, Options};
use pureboot_tests::site::Site;
use pureboot_tests::{is_long, process, schemathesis};

use crate::need::Need;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(
            requests_made_of_the_document_find_no_answer_that_it_does_not_say,
            Need::Schemathesis
        ),
        case!(an_agent_finds_no_answer_that_the_document_does_not_say, Need::Schemathesis),
    ]
}

/// What every answer is held to.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_schema_conformance,use_after_free";

/// Lets schemathesis call the API with `bearer` for `seconds`. That it reads the document counts, and may take all of them on a
/// busy machine; then it is given more.
fn explore(controller: &Controller, bearer: &str, phases: &str, seconds: u64) -> Result<()> {
    let seconds = if is_long() { seconds * 10 } else { seconds };
    let mut said = String::new();
    for seconds in [seconds, seconds * 4, seconds * 16] {
        said = explore_for(seconds, controller, bearer, phases)?;
        if said.contains("passed") {
            return Ok(());
        }
    }
    bail!("schemathesis has tried nothing:\n{said}")
}

/// What schemathesis prints that finds nothing wrong.
fn explore_for(
    seconds: u64,
    controller: &Controller,
    bearer: &str,
    phases: &str,
) -> Result<String> {
    let mut command = Command::new(schemathesis()?);
    command.arg("run").arg(format!("{}/api/v1/openapi.json", controller.url()));
    command.args(["--checks", CHECKS, "--phases", phases, "--warnings", "off", "--no-color"]);
    command.args(["--header", &format!("Authorization: Bearer {bearer}")]);
    command.args(["--max-time", &seconds.to_string()]);
    // It keeps examples of earlier runs beside the caller otherwise.
    command.current_dir(controller.data_dir());
    let output = process::output(command, Duration::from_secs(seconds * 3 + 120))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "schemathesis ended with {}:\n{said}", output.status);
    Ok(said)
}

fn requests_made_of_the_document_find_no_answer_that_it_does_not_say() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let unlimited = ["--rate-per-credential", "0", "--rate-per-address", "0"];
    let arguments = unlimited.map(str::to_owned).to_vec();
    let options = Options { arguments, ..Options::default() };
    let controller = Controller::start_with(dir.path(), options)?;
    explore(&controller, controller.token(), "coverage,fuzzing,stateful", 40)
}

fn an_agent_finds_no_answer_that_the_document_does_not_say() -> Result<()> {
    let mut site = Site::start()?;
    let credential = std::fs::read_to_string(site.agent.data_dir().join("credential"))?;
    // Its own agent would end what the tester begins.
    site.agent.stop();
    explore(&site.controller, credential.trim(), "coverage,fuzzing", 15)
}
