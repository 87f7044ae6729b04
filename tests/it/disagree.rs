//! Site and controller have changed the same node while they could not speak: whoever is right, both sides end equal.

use anyhow::{Result, ensure};
use pureboot_tests::site::{ARRIVAL_LIMIT, Autonomy, Ports, Site, text};
use pureboot_tests::{random_mac, wait};
use serde_json::{Value, json};

use crate::{Case, case};

/// What stands at `pointer`; null where nothing does.
fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(i5_each_strategy_ends_with_both_sides_equal),
        case!(i5_the_person_at_the_site_ends_a_conflict_and_both_sides_are_equal),
        case!(no_conflict_is_raised_where_the_site_changed_nothing),
    ]
}

/// A site that may do everything alone.
fn site() -> Result<Site> {
    let mut site = Site::prepare_with("agent", Autonomy::Limited)?;
    site.controller.patch(&format!("/sites/{}", site.id), &json!({"autonomy_level": "full"}))?;
    let token = site.make_token()?;
    site.agent.init(&site.id, &site.controller.url(), &token, Ports::LOOPBACK)?;
    site.agent.start()?;
    site.wait_until_online()?;
    Ok(site)
}

/// Has the site end conflicts so, and makes a machine that both sides know as discovered.
fn machine(site: &Site, strategy: &str) -> Result<String> {
    let settings = json!({"conflict_resolution": strategy});
    site.controller.patch(&format!("/sites/{}", site.id), &settings)?;
    let mac = random_mac();
    site.agent.script(&mac)?;
    site.controller.wait_for_state(&mac, "discovered")?;
    wait::until("the site has nothing to tell", ARRIVAL_LIMIT, || {
        let (_, status) = site.agent.status()?;
        Ok((*at(&status, "/queue_pending") == 0).then_some(()))
    })?;
    wait_until_equal(site, &mac)?;
    Ok(mac)
}

/// The state and version of a node on either side.
fn sides(site: &Site, mac: &str) -> Result<[Value; 2]> {
    let brief = |node: &Value| json!([at(node, "/state"), at(node, "/version")]);
    let central = site.controller.node(mac)?.unwrap_or_default();
    let output = site.agent.run(&["cache", "nodes", "--json"])?;
    let nodes: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let local =
        nodes.into_iter().find(|node| *at(node, "/mac_address") == *mac).unwrap_or_default();
    let is_open = !at(&local, "/conflict_id").is_null();
    Ok([brief(&central), if is_open { json!("disputed") } else { brief(&local) }])
}

fn wait_until_equal(site: &Site, mac: &str) -> Result<Value> {
    wait::until("both sides are equal", ARRIVAL_LIMIT, || {
        let [central, local] = sides(site, mac)?;
        Ok((central == local).then_some(central))
    })
}

fn set_state(site: &Site, mac: &str, state: &str) -> Result<Value> {
    let output = site.agent.run(&["node", "set-state", mac, state, "--json"])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The line is cut, the site wishes the machine to be pending, and an operator changes it in the meantime.
fn disagree(site: &mut Site, mac: &str) -> Result<()> {
    site.controller.stop();
    let wished = set_state(site, mac, "pending")?;
    ensure!(*at(&wished, "/status") == "queued" && *at(&wished, "/in_effect") == true, "{wished}");
    site.agent.stop();
    site.controller.resume()?;
    let node = site.controller.wait_for_state(mac, "discovered")?;
    site.controller
        .patch(&format!("/nodes/{}", text(&node, "id")?), &json!({"tags": ["rack-7"]}))?;
    site.agent.start()
}

fn conflicts(site: &Site, status: &str) -> Result<Vec<Value>> {
    let path = format!("/sites/{}/conflicts?status={status}", site.id);
    Ok(serde_json::from_value(site.controller.get(&path)?)?)
}

fn wait_for_conflict(site: &Site, mac: &str) -> Result<Value> {
    let node = text(&site.controller.node(mac)?.unwrap_or_default(), "id")?;
    wait::until("the controller has a conflict", ARRIVAL_LIMIT, || {
        Ok(conflicts(site, "all")?.into_iter().find(|conflict| *at(conflict, "/node_id") == *node))
    })
}

fn i5_each_strategy_ends_with_both_sides_equal() -> Result<()> {
    let mut site = site()?;
    for (strategy, resolution, state) in [
        ("central_wins", json!("keep_central"), "discovered"),
        ("site_wins", json!("keep_local"), "pending"),
        ("last_write", json!("keep_central"), "discovered"),
        ("manual", Value::Null, "discovered"),
    ] {
        let mac = machine(&site, strategy)?;
        disagree(&mut site, &mac)?;
        let conflict = wait_for_conflict(&site, &mac)?;
        ensure!(*at(&conflict, "/outcome/resolution") == resolution, "{strategy}: {conflict}");
        if strategy == "manual" {
            site.script_with(&mac, "Site and controller disagree about machine")?;
            let path = format!("/sync/conflicts/{}/resolve", text(&conflict, "id")?);
            let decision = json!({"resolution": "keep_central"});
            site.controller.post(&path, &decision)?;
        }
        let both = wait_until_equal(&site, &mac)?;
        ensure!(*at(&both, "/0") == state, "{strategy}: {both}");
    }
    Ok(())
}

fn i5_the_person_at_the_site_ends_a_conflict_and_both_sides_are_equal() -> Result<()> {
    let mut site = site()?;
    let mac = machine(&site, "manual")?;
    disagree(&mut site, &mac)?;
    let id = text(&wait_for_conflict(&site, &mac)?, "id")?;
    let listed = wait::until("the site lists it", ARRIVAL_LIMIT, || {
        let output = site.agent.run(&["conflicts", "ls"])?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(said.contains(&id).then_some(said))
    })?;
    for word in ["pending, on version", "discovered, version", "waits for a person", &mac] {
        ensure!(listed.contains(word), "no '{word}' in:\n{listed}");
    }
    // Without the line nothing is decided, and what was told can be read.
    site.controller.stop();
    let refused = site.agent.run(&["conflicts", "resolve", &id, "--keep-local"])?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(1) && said.contains("nothing is decided"), "{said}");
    let shown = site.agent.run(&["conflicts", "show", &id])?;
    let said = String::from_utf8_lossy(&shown.stdout);
    ensure!(said.contains("the machine boots its disk"), "{said}");
    ensure!(said.contains("only this site has changed the state since"), "no base in:\n{said}");
    site.controller.resume()?;
    let decision = ["conflicts", "resolve", &id, "--keep-local", "--node-version"];
    let node = site.controller.node(&mac)?.unwrap_or_default();
    let version = at(&node, "/version").to_string();
    for _ in 0..2 {
        let ended = site.agent.run(&[&decision[..], &[&version]].concat())?;
        let said = String::from_utf8_lossy(&ended.stdout);
        let why = String::from_utf8_lossy(&ended.stderr);
        ensure!(said.contains("keep_local by site"), "{said}{why}");
        // Both sides have it when the command has ended.
        let [central, local] = sides(&site, &mac)?;
        ensure!(central == local && *at(&central, "/0") == "pending", "{central} {local}");
    }
    ensure!(conflicts(&site, "open")?.is_empty(), "a conflict is open still");
    Ok(())
}

fn no_conflict_is_raised_where_the_site_changed_nothing() -> Result<()> {
    let mut site = site()?;
    let mac = machine(&site, "manual")?;
    site.controller.stop();
    // What the site sees is no change of its own, however often the machine boots.
    site.agent.script(&mac)?;
    site.agent.script(&mac)?;
    site.agent.stop();
    site.controller.resume()?;
    let node = site.controller.wait_for_state(&mac, "discovered")?;
    let path = format!("/nodes/{}", text(&node, "id")?);
    site.controller.patch(&path, &json!({"tags": ["rack-7"]}))?;
    site.controller.patch(&format!("{path}/state"), &json!({"state": "pending"}))?;
    let before = site.controller.node(&mac)?.unwrap_or_default();
    site.agent.start()?;
    wait::until("what was seen has arrived", ARRIVAL_LIMIT, || {
        let node = site.controller.node(&mac)?.unwrap_or_default();
        Ok((at(&node, "/boot_count").as_u64() > at(&before, "/boot_count").as_u64()).then_some(()))
    })?;
    let both = wait_until_equal(&site, &mac)?;
    ensure!(*at(&both, "/0") == "pending", "{both}");
    let all = conflicts(&site, "all")?;
    ensure!(all.is_empty(), "{all:?}");
    Ok(())
}
