//! Machines that report one thing after the other, each report with its number, and what the controller has of them.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::controller::Controller;
use crate::http::Answer;
use crate::site::{Agent, boot_of, text};
use crate::{http, random_mac};

/// Rows of a page of the controller's API.
const PAGE: usize = 500;

/// A machine in a boot session.
#[derive(Debug, Clone)]
pub struct Machine {
    mac: String,
    boot: String,
}

impl Machine {
    /// A new machine boots at the agent.
    ///
    /// # Errors
    /// It gets no script.
    pub fn boot(agent: &Agent) -> Result<Self> {
        Self::boot_at(agent.boot())
    }

    /// A new machine boots at the agent that listens at `agent`.
    ///
    /// # Errors
    /// It gets no script, or one without a session.
    pub fn boot_at(agent: SocketAddr) -> Result<Self> {
        let mac = random_mac();
        let script = http::get(&format!("http://{agent}/boot/{mac}?arch=x86_64&platform=pcbios"))?;
        let boot = boot_of(&script.expect(200)?.text())?;
        Ok(Self { mac, boot })
    }

    /// Its address.
    pub fn mac(&self) -> &str {
        &self.mac
    }

    /// Reports `number` to the agent that listens at `agent`; true if that was taken. A report that was not may be made again: it is the
    /// same one.
    pub fn report(&self, agent: SocketAddr, number: usize) -> bool {
        self.try_report(agent, number).is_ok_and(|answer| matches!(answer.status, 200..=299))
    }

    /// As [`Machine::report`]; returns the answer, whatever it is.
    ///
    /// # Errors
    /// None came.
    pub fn try_report(&self, agent: SocketAddr, number: usize) -> Result<Answer> {
        let body = json!({
            "mac_address": self.mac, "boot": self.boot,
            "event_type": "install_progress", "message": format!("report {number}"),
        });
        http::post(&format!("http://{agent}/api/v1/report"), &body)
    }

    /// The numbers that the controller has, from the oldest.
    ///
    /// # Errors
    /// The controller does not know the machine, or has a report of another kind.
    pub fn arrived(&self, controller: &Controller) -> Result<Vec<usize>> {
        let node = controller.node(&self.mac)?.context("the controller does not know it")?;
        let path = format!("/nodes/{}/events?limit={PAGE}", text(&node, "id")?);
        let (mut numbers, mut cursor) = (Vec::new(), String::new());
        loop {
            let answer = controller.call(minreq::Method::Get, &format!("{path}{cursor}"), None)?;
            let page = answer.expect(200)?.json()?;
            let events = page.get("data").and_then(Value::as_array).context("no events")?;
            let is_report = |event: &&Value| {
                event.get("event_type").is_some_and(|kind| kind == "install_progress")
            };
            for event in events.iter().filter(is_report) {
                let message = text(event, "message")?;
                let number = message.strip_prefix("report ").context("another report")?;
                numbers.push(number.parse()?);
            }
            let Some(next) = page.get("next_cursor").and_then(Value::as_str) else { break };
            cursor = format!("&cursor={next}");
        }
        numbers.reverse();
        Ok(numbers)
    }

    /// Refuses anything but the reports 1 to `through`, each once and in order, and after them as many more as are in order up to
    /// `tried`, whose answers were lost.
    ///
    /// # Errors
    /// A report is missing, doubled, or in another place.
    pub fn check(&self, controller: &Controller, through: usize, tried: usize) -> Result<()> {
        let arrived = self.arrived(controller)?;
        let is_in_order = arrived.iter().copied().eq(1..=arrived.len());
        let are_all = (through..=tried).contains(&arrived.len());
        ensure!(
            is_in_order && are_all,
            "{}: {through} reports were taken and {tried} tried, the controller has {arrived:?}",
            self.mac
        );
        Ok(())
    }
}
