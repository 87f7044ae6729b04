//! What machines and their installers ask and say of nodes at their site, instead of at a controller that they may not reach.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pureboot_tests::http::{self, Answer};
use pureboot_tests::site::{Autonomy, Site, boot_of, text};
use pureboot_tests::{random, random_mac};
use serde_json::{Value, json};

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(h19_a_machine_asks_and_says_what_is_its_own_with_its_controller_or_without),
        case!(a_new_machine_waits_for_the_controller_where_the_site_may_not_take_it_up),
        case!(h16_nothing_that_a_machine_sends_chooses_another_call),
        case!(n7_the_page_of_a_hotel_changes_nothing_that_is_known),
        case!(c16_the_node_of_another_site_is_not_told),
    ]
}

/// What one refused request may take, on a busy machine.
const REFUSAL_LIMIT: Duration = Duration::from_secs(10);

/// The node as a machine is told of it; none if it is not known.
fn look_up(site: &Site, mac: &str) -> Result<Option<Value>> {
    let answer = http::get(&site.agent.url(&format!("/api/v1/nodes?mac={mac}")))?.expect(200)?;
    let page = answer.json()?;
    let data = page.get("data").and_then(Value::as_array).context("a list")?;
    ensure!(page.get("total") == Some(&json!(data.len())), "{page}");
    Ok(data.first().cloned())
}

fn register(site: &Site, mac: &str, boot: Option<&str>) -> Result<Answer> {
    let body = json!({ "mac_address": mac, "boot": boot, "serial": "S-1" });
    http::post(&site.agent.url("/api/v1/nodes/register"), &body)
}

fn say_state(site: &Site, node: &str, boot: &str, state: &str) -> Result<Answer> {
    let url = site.agent.url(&format!("/api/v1/nodes/{node}/state"));
    let body = json!({ "state": state, "boot": boot }).to_string();
    http::send(minreq::patch(url).with_header("content-type", "application/json").with_body(body))
}

/// Whether the machine is told of `state`, and that the controller did or did not say so.
fn is_told(site: &Site, mac: &str, state: &str, is_offline: bool) -> Result<()> {
    let node = look_up(site, mac)?.context("it is known")?;
    let told = (text(&node, "state")?, node.get("offline").and_then(Value::as_bool));
    ensure!(told == (state.to_owned(), Some(is_offline)), "{node}");
    Ok(())
}

fn h19_a_machine_asks_and_says_what_is_its_own_with_its_controller_or_without() -> Result<()> {
    let mut site = Site::start()?;
    let (mac, name) = (random_mac(), format!("proxy-{:08x}", random() >> 32));
    ensure!(look_up(&site, &mac)?.is_none(), "nobody knows it yet");
    let registered = register(&site, &mac, None)?.expect(202)?.json()?;
    let registered = registered.get("data").context("data")?;
    let node = text(&site.controller.wait_for_state(&mac, "discovered")?, "id")?;
    ensure!(text(registered, "node_id")? == node, "{registered}");
    is_told(&site, &mac, "discovered", false)?;
    register(&site, &mac, None)?.expect(403).context("anybody could say it")?;
    register(&site, &mac, Some(&text(registered, "boot")?))?.expect(202)?;

    let workflow = site.controller.make_workflow(&name, &format!("nonce={name}"))?;
    site.controller.order_install(&node, &workflow)?;
    let boot = boot_of(&site.script_with(&mac, &format!("nonce={name}"))?)?;
    register(&site, &mac, Some(&boot))?.expect(202).context("it names its own session")?;
    let other = boot_of(&site.agent.script(&random_mac())?)?;
    say_state(&site, &node, &other, "installing")?.expect(403).context("another's session")?;
    say_state(&site, &node, &boot, "active")?.expect(400).context("no such move")?;
    say_state(&site, &node, &boot, "retired")?.expect(403).context("not the machine's")?;
    say_state(&site, &node, &boot, "installing")?.expect(200)?;
    site.controller.wait_for_state(&mac, "installing")?;
    is_told(&site, &mac, "installing", false)?;

    site.controller.stop();
    is_told(&site, &mac, "installing", true)?;
    let said = say_state(&site, &node, &boot, "installed")?.expect(202)?.json()?;
    ensure!(said.pointer("/data/status") == Some(&json!("queued")), "{said}");
    is_told(&site, &mac, "installed", true)?;
    let unseen = random_mac();
    register(&site, &unseen, None)?.expect(202).context("the site may take it up")?;
    site.controller.resume()?;
    site.controller.wait_for_state(&mac, "installed")?;
    site.controller.wait_for_state(&unseen, "discovered").map(|_| ())
}

fn a_new_machine_waits_for_the_controller_where_the_site_may_not_take_it_up() -> Result<()> {
    let mut site = Site::start_with(Autonomy::Default)?;
    let mac = random_mac();
    site.controller.stop();
    let answer = register(&site, &mac, None)?.expect(503)?;
    ensure!(answer.field("retry-after").is_some(), "{:?}", answer.fields);
    ensure!(look_up(&site, &mac)?.is_none(), "it was taken up all the same");
    site.controller.resume()?;
    site.wait_until_online()?;
    register(&site, &mac, None)?.expect(202)?;
    site.controller.wait_for_state(&mac, "discovered").map(|_| ())
}

/// Somebody who answers in the controller's place, always the same, and remembers what was asked.
struct Impostor {
    heads: Arc<Mutex<Vec<String>>>,
}

impl Impostor {
    fn at(address: SocketAddr, answer: String) -> Result<Self> {
        let listener = TcpListener::bind(address)?;
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let asked = Arc::clone(&heads);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut buffer = [0; 8_192];
                // A head comes in one piece on loopback.
                let Ok(len) = stream.read(&mut buffer) else { continue };
                let head = String::from_utf8_lossy(buffer.get(..len).unwrap_or_default());
                asked.lock().unwrap_or_else(PoisonError::into_inner).push(head.into_owned());
                _ = stream.write_all(answer.as_bytes());
            }
        });
        Ok(Self { heads })
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn hotel(site: &mut Site) -> Result<Impostor> {
    let address = site.controller.address();
    site.controller.stop();
    let page = "<html>Sign in to the hotel's network</html>";
    let len = page.len();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{page}"
    );
    Impostor::at(address, answer)
}

fn h16_nothing_that_a_machine_sends_chooses_another_call() -> Result<()> {
    let mut site = Site::start()?;
    let mac = random_mac();
    let boot = boot_of(&site.agent.script(&mac)?)?;
    site.controller.wait_for_state(&mac, "discovered")?;
    let impostor = hotel(&mut site)?;
    let body = json!({ "state": "installing", "boot": boot }).to_string();
    let get =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: evil\r\nConnection: close\r\n\r\n");
    let patch = |path: &str| {
        let len = body.len();
        format!(
            "PATCH {path} HTTP/1.1\r\nHost: evil\r\nX-Evil: evil\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{body}"
        )
    };
    for request in [
        get(&format!("/api/v1/nodes?mac={mac}%0d%0aX-Evil:%20evil")),
        get("/api/v1/nodes?mac=../../evil"),
        get(&format!("/api/v1/nodes?mac={mac}%26evil=1")),
        get("/api/v1/nodes"),
        get("/api/v1/nodes/evil"),
        get("/api/v1/nodes/../evil"),
        get("/api/v1/evil"),
        get("http://evil.example/api/v1/evil"),
        patch("/api/v1/nodes/..%2f..%2fevil/state"),
        patch("/api/v1/nodes/../evil/state"),
        patch("/api/v1/nodes/evil%0d%0aX-Evil:evil/state"),
        patch("/api/v1/nodes/evil"),
        patch("/api/v1/evil/state"),
    ] {
        let (received, _) = http::exchange(site.agent.boot(), request.as_bytes(), REFUSAL_LIMIT)?;
        let statuses = http::statuses(&received);
        ensure!(matches!(statuses.as_slice(), [400 | 404 | 405]), "{statuses:?}: {request}");
    }
    // What is in order is asked, and nothing of the request goes on but the address.
    is_told(&site, &mac, "discovered", true)?;
    let heads = impostor.heads();
    let question = format!("GET /api/v1/agents/nodes?mac={mac} HTTP/1.1\r\n");
    ensure!(heads.iter().any(|head| head.starts_with(&question)), "{heads:?}");
    let evil = heads.iter().find(|head| head.to_lowercase().contains("evil"));
    ensure!(evil.is_none(), "it went on: {evil:?}");
    Ok(())
}

fn n7_the_page_of_a_hotel_changes_nothing_that_is_known() -> Result<()> {
    let mut site = Site::start()?;
    let mac = random_mac();
    site.agent.script(&mac)?;
    let node = site.controller.wait_for_state(&mac, "discovered")?;
    is_told(&site, &mac, "discovered", false)?;
    let _impostor = hotel(&mut site)?;
    let told = look_up(&site, &mac)?.context("it stays known")?;
    ensure!(text(&told, "id")? == text(&node, "id")?, "{told}");
    is_told(&site, &mac, "discovered", true)?;
    ensure!(look_up(&site, &random_mac())?.is_none(), "a machine made of a page");
    let script = site.agent.script(&mac)?;
    ensure!(script.contains("is listed as discovered"), "{script}");
    // Nor does it live on with the next start.
    site.agent.stop();
    site.agent.start()?;
    is_told(&site, &mac, "discovered", true)
}

fn c16_the_node_of_another_site_is_not_told() -> Result<()> {
    let mut site = Site::start()?;
    let (mac, own) = (random_mac(), random_mac());
    let name = format!("other-{:08x}", random() >> 32);
    let other = text(&site.controller.post("/sites", &json!({ "name": name }))?, "id")?;
    site.controller.post("/nodes", &json!({ "mac_address": mac, "home_site_id": other }))?;
    site.controller.post("/nodes", &json!({ "mac_address": own, "home_site_id": site.id }))?;
    ensure!(look_up(&site, &own)?.is_some(), "its own are told");
    ensure!(look_up(&site, &mac)?.is_none(), "with the controller's word");
    let listed = site.agent.run(&["cache", "nodes", "--json"])?;
    let listed = String::from_utf8(listed.stdout)?;
    ensure!(listed.contains(&own) && !listed.contains(&mac), "{listed}");
    site.controller.stop();
    ensure!(look_up(&site, &mac)?.is_none(), "and without");
    Ok(())
}
