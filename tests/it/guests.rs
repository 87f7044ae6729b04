//! A node of one site boots at another: what it gets there meanwhile, and what it gets once somebody has decided.

use anyhow::{Result, ensure};
use pureboot_tests::site::{
    ARRIVAL_LIMIT, Agent, Autonomy, HEARTBEAT_INTERVAL_SECONDS, Ports, Site, text,
};
use pureboot_tests::{random_mac, wait};
use serde_json::{Value, json};

use crate::{Case, case};

/// What stands at `pointer`; null where nothing does.
fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(i8_a_node_of_another_site_boots_what_the_site_chose_until_somebody_decides)]
}

/// What a machine reads, by the site's choice.
const CHOICES: [(&str, &str); 3] = [
    ("pending", "is a node of another site and waits here to be moved"),
    ("normal", "Here it boots as a machine that nobody has plans for"),
    ("refuse", "This site serves none of those"),
];

/// Two sites under one controller.
struct Sites {
    berlin: Site,
    oslo: Agent,
    oslo_id: String,
}

impl Sites {
    fn start() -> Result<Self> {
        let berlin = Site::start_with(Autonomy::Limited)?;
        let controller = &berlin.controller;
        let oslo_id = json!({"name": "oslo", "autonomy_level": "limited"});
        let oslo_id = text(&controller.post("/sites", &oslo_id)?, "id")?;
        let interval = json!({"heartbeat_interval": HEARTBEAT_INTERVAL_SECONDS});
        controller.patch(&format!("/sites/{oslo_id}"), &interval)?;
        let token = controller.post(&format!("/sites/{oslo_id}/agent-token"), &json!({}))?;
        let mut oslo = Agent::new(berlin.dir(), "oslo");
        oslo.init(&oslo_id, &controller.url(), &text(&token, "token")?, Ports::LOOPBACK)?;
        oslo.start()?;
        wait::until("oslo is online", ARRIVAL_LIMIT, || {
            let status = berlin.controller.get(&format!("/agents/{oslo_id}/status"))?;
            Ok((!at(&status, "/heartbeat").is_null()).then_some(()))
        })?;
        Ok(Self { berlin, oslo, oslo_id })
    }

    /// Has oslo answer nodes of other sites so, with this autonomy.
    fn choose(&self, foreign_nodes: &str) -> Result<()> {
        let body = json!({"foreign_nodes": foreign_nodes});
        self.berlin.controller.patch(&format!("/sites/{}", self.oslo_id), &body).map(|_| ())
    }

    /// A machine that is at home in berlin.
    fn machine(&self) -> Result<String> {
        let mac = random_mac();
        self.berlin.agent.script(&mac)?;
        self.berlin.controller.wait_for_state(&mac, "discovered")?;
        Ok(mac)
    }

    /// What oslo gives a machine, once it says `wanted`.
    fn oslo_says(&self, mac: &str, wanted: &str) -> Result<String> {
        wait::until(&format!("oslo says '{wanted}'"), ARRIVAL_LIMIT, || {
            let script = self.oslo.script(mac)?;
            ensure!(script.contains(wanted), "it says:\n{script}");
            ensure!(!script.contains("\nkernel"), "an installer for a guest:\n{script}");
            Ok(Some(script))
        })
    }

    /// The claim on a machine that waits for a decision.
    fn claim(&self, mac: &str) -> Result<Value> {
        wait::until("oslo has claimed it", ARRIVAL_LIMIT, || {
            let claims = self.berlin.controller.get("/migrations")?;
            let claims: Vec<Value> = serde_json::from_value(claims)?;
            Ok(claims.into_iter().find(|claim| *at(claim, "/mac_address") == *mac))
        })
    }

    fn decide(&self, claim: &Value, verb: &str) -> Result<()> {
        let path = format!("/migrations/{}/{verb}", text(claim, "id")?);
        self.berlin.controller.post(&path, &json!({"comment": "rack 7"})).map(|_| ())
    }
}

fn i8_a_node_of_another_site_boots_what_the_site_chose_until_somebody_decides() -> Result<()> {
    let mut sites = Sites::start()?;
    let mut rejected = Vec::new();
    for (choice, says) in CHOICES {
        sites.choose(choice)?;
        let [moved, kept] = [sites.machine()?, sites.machine()?];
        for mac in [&moved, &kept] {
            sites.oslo_says(mac, says)?;
            let claim = sites.claim(mac)?;
            // The second boot names what waits, and asks nobody again.
            sites.oslo_says(mac, &format!("claim {} waits for a decision", text(&claim, "id")?))?;
        }
        sites.decide(&sites.claim(&moved)?, "approve")?;
        sites.oslo_says(&moved, "is listed as discovered")?;
        let home = sites.berlin.controller.node(&moved)?.unwrap_or_default();
        ensure!(*at(&home, "/home_site_id") == *sites.oslo_id, "{choice}: {home}");
        // Where it was at home it is the guest now, and waits as berlin has it.
        sites.berlin.script_with(&moved, "is a node of another site and waits here")?;

        sites.decide(&sites.claim(&kept)?, "reject")?;
        let script = sites.oslo_says(&kept, says)?;
        ensure!(!script.contains("waits for a decision"), "{choice}, rejected:\n{script}");
        sites.berlin.script_with(&kept, "is listed as discovered")?;
        rejected.push((kept, says));
    }
    let status = sites.oslo.run(&["status"])?;
    let said = String::from_utf8_lossy(&status.stdout);
    ensure!(said.contains("3 of other sites"), "{said}");
    // What was said holds while nobody can be asked, and after a power cut.
    sites.berlin.controller.stop();
    sites.oslo.stop();
    sites.oslo.start()?;
    for (mac, says) in &rejected {
        let script = sites.oslo_says(mac, says)?;
        ensure!(script.contains("the controller does not answer and said so"), "{script}");
    }
    Ok(())
}
