//! People at the centre, who decide over machines, conflicts and sites; and somebody who may not.

use anyhow::{Context as _, Result};
use hyper::Request;
use hyper::body::Bytes;
use pureboot_protocol::Secret;
use serde_json::{Value, json};

use crate::faults::{Fault, Planted};
use crate::oracle::{Invariant, Stop, violated};
use crate::scenario::{DAY, Event, HOUR, Scenario};

impl Scenario {
    /// The controller's node with the address of a machine; none if it has none.
    pub fn node(&self, machine: usize) -> Result<Option<Value>> {
        let path = format!("/api/v1/nodes?mac={}", self.machines[machine].mac);
        Ok(self.centre.list(&path)?.into_iter().next())
    }

    /// An operator looks at a machine, and has it do something.
    pub fn look_at(&mut self, machine: usize) -> Result<(), Stop> {
        if !self.is_chaos {
            return Ok(());
        }
        if !self.centre.is_up() {
            self.after(HOUR, Event::Operator(machine));
            return Ok(());
        }
        let Some(node) = self.node(machine)? else { return Ok(()) };
        let id = node["id"].as_str().context("a node has an id")?.to_owned();
        let dice = self.draw("operators");
        let (is_in_the_mood, is_ruthless) = (dice.percent(50), dice.percent(2));
        match node["state"].as_str().unwrap_or_default() {
            "discovered" => {
                self.edit(machine, "PATCH", &id, json!({"workflow_id": self.workflow}))?;
                self.order(machine, &id, "pending", false)?;
            }
            "active" if is_ruthless => self.order(machine, &id, "deprovisioning", false)?,
            "active" if is_in_the_mood => {
                self.order(machine, &id, "reprovision", false)?;
                self.order(machine, &id, "pending", false)?;
            }
            "reprovision" => self.order(machine, &id, "pending", false)?,
            "install_failed" => self.order(machine, &id, "pending", true)?,
            "installed" => self.order(machine, &id, "active", false)?,
            "migrating" | "serving_source" => self.order(machine, &id, "active", false)?,
            "cloning_target" => self.order(machine, &id, "installed", false)?,
            _ if self.has(Fault::Operators) => {
                let name = format!("machine-{machine}-{}", self.draw("operators").below(100));
                self.edit(machine, "PATCH", &id, json!({"hostname": name}))?;
                if self.options.planted == Some(Planted::RenameRepeats) {
                    let repeat = "UPDATE nodes SET wish_version = version WHERE id = $1";
                    self.centre.database()?.execute(repeat, [&id])?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn order(&mut self, machine: usize, id: &str, state: &str, force: bool) -> Result<(), Stop> {
        self.note(&format!("an operator orders machine {machine} to be {state}"));
        self.edit(machine, "PATCH", &format!("{id}/state"), json!({"state": state, "force": force}))
    }

    fn edit(&mut self, machine: usize, method: &str, path: &str, body: Value) -> Result<(), Stop> {
        let (status, answer) =
            self.centre.call(method, &format!("/api/v1/nodes/{path}"), Some(body))?;
        let node = &answer["data"];
        if let (200, Some(version), Some(state)) =
            (status, node["version"].as_u64(), node["state"].as_str())
        {
            self.oracle.decide(machine, version, state);
        }
        Ok(())
    }

    /// Operators look at conflicts, and at what sites are told.
    pub fn look_around(&mut self) -> Result<(), Stop> {
        if !self.is_chaos {
            return Ok(());
        }
        let pause = self.draw("operators").span(2 * DAY, 20 * DAY);
        self.after(pause, Event::Operators);
        if !self.centre.is_up() {
            return Ok(());
        }
        for conflict in self.centre.list("/api/v1/sync/conflicts")? {
            let how = ["keep_local", "keep_central"][self.draw("operators").index(2)];
            // Nobody gives a machine away to the site that it does not stand at.
            let how = if conflict["type"] == "site_mismatch" { "keep_central" } else { how };
            self.resolve(&conflict, how)?;
        }
        if self.has(Fault::Operators) {
            self.edit_settings()?;
        }
        Ok(())
    }

    fn resolve(&mut self, conflict: &Value, how: &str) -> Result<(), Stop> {
        let id = conflict["id"].as_str().context("a conflict has an id")?;
        let path = format!("/api/v1/sync/conflicts/{id}/resolve");
        let (status, _) = self.centre.call("POST", &path, Some(json!({"resolution": how})))?;
        self.note(&format!("an operator ends conflict {id} with {how}: {status}"));
        // What is refused decides nothing, and who stays out of another site's machine leaves it as it is.
        if status != 200 || conflict["type"] == "site_mismatch" {
            return Ok(());
        }
        let node = conflict["node_id"].as_str().unwrap_or_default();
        let (_, node) = self.centre.call("GET", &format!("/api/v1/nodes/{node}"), None)?;
        let node = &node["data"];
        let mac = node["mac_address"].as_str().unwrap_or_default();
        let machine = self.machines.iter().position(|machine| machine.mac.to_string() == mac);
        if let (Some(machine), Some(version), Some(state)) =
            (machine, node["version"].as_u64(), node["state"].as_str())
        {
            self.oracle.decide(machine, version, state);
        }
        Ok(())
    }

    fn edit_settings(&mut self) -> Result<(), Stop> {
        let sites = self.sites.len();
        let dice = self.draw("operators");
        let (number, what) = (dice.below(1_000), dice.below(3));
        let strategy = ["central_wins", "site_wins", "last_write", "manual"][dice.index(4)];
        let autonomy = ["readonly", "limited", "full"][dice.index(3)];
        let site = dice.index(sites);
        let (path, body) = match what {
            0 => (
                format!("workflows/{}?allow_missing=true", self.workflow),
                json!({"description": format!("edition {number}")}),
            ),
            1 => {
                (format!("sites/{}", self.sites[site].id), json!({"conflict_resolution": strategy}))
            }
            _ => (format!("sites/{}", self.sites[site].id), json!({"autonomy_level": autonomy})),
        };
        self.centre.data("PATCH", &format!("/api/v1/{path}"), Some(body))?;
        Ok(())
    }

    /// Somebody speaks to the controller about the nodes of `site` with a credential that is not that site's: another site's
    /// agent, or nobody.
    pub fn pretend(&mut self, site: usize) -> Result<(), Stop> {
        if !self.is_chaos || !self.centre.is_up() {
            return Ok(());
        }
        let pause = self.draw("impostor").span(5 * DAY, 40 * DAY);
        self.after(pause, Event::Impostor(site));
        let Some(machine) = self.machines.iter().position(|machine| machine.site == site) else {
            return Ok(());
        };
        let Some(before) = self.node(machine)? else { return Ok(()) };
        let dice = self.draw("impostor");
        let (mut secret, mut id, is_stranger) = ([0; 32], [0; 16], dice.percent(50));
        dice.fill(&mut secret);
        dice.fill(&mut id);
        let other = &self.sites[(site + 1) % self.sites.len()];
        let bearer = match (self.options.planted, is_stranger || self.sites.len() == 1) {
            (Some(Planted::CredentialIgnored), _) => self.sites[site].credential.clone(),
            (_, true) => Secret::from_random(secret),
            (_, false) => other.credential.clone(),
        };
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let batch = json!({
            "nonce": id, "epoch": id, "first_seq": 1,
            "items": [{
                "seq": 1, "id": id, "node": before["id"], "base_version": before["version"],
                "at": "2026-11-21T00:00:00.000Z", "clock": "synced", "kind": "event",
                "payload": {"event_type": "first_boot", "message": "by somebody else"},
            }],
        });
        let request = Request::post("/api/v1/agents/changes")
            .header("authorization", format!("Bearer {}", bearer.reveal()))
            .header("content-type", "application/json")
            .body(Bytes::from(batch.to_string()))?;
        let Some(answer) = self.centre.answer(request)? else { return Ok(()) };
        self.note(&format!(
            "somebody speaks about site {site} and is answered {}",
            answer.status().as_u16()
        ));
        let after = self.node(machine)?.unwrap_or_default();
        if before == after {
            return Ok(());
        }
        Err(violated(
            Invariant::Authority,
            format!("who is not site {site} has changed its node from {before} to {after}"),
        ))
    }
}
