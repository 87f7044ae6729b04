//! Requests that no honest machine sends (FAULTS §6 and §7), at the running programs; afterwards an honest one is served.

mod http;
mod tftp;

use anyhow::{Context, Result, ensure};
use pureboot_tests::random_mac;
use pureboot_tests::site::Site;

use crate::Case;

pub(crate) fn cases() -> Vec<Case> {
    [tftp::cases(), http::cases()].into_iter().flatten().collect()
}

/// Whether the agent is the process that it was and boots an honest machine.
fn still_boots(site: &mut Site) -> Result<()> {
    ensure!(site.agent.program()?.is_running()?, "the agent has died");
    let mac = random_mac();
    site.agent.script(&mac).context("an honest machine after the hostile one")?;
    site.controller.wait_for_state(&mac, "discovered")?;
    Ok(())
}
