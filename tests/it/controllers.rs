//! Two controllers on one PostgreSQL database: either answers, one does the jobs, and killing one loses and doubles nothing.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use pureboot_tests::controller::Controller;
use pureboot_tests::http::{self, Answer};
use pureboot_tests::postgres::{INITDB, Postgres};
use pureboot_tests::process;
use pureboot_tests::site::{ARRIVAL_LIMIT, Agent, Ports, text};
use pureboot_tests::{is_long, policy, random, random_mac, sha256, wait};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::need::Need;
use crate::policies::{REFUSE, operate_at};
use crate::{Case, case};

/// A server that can be started: its program is not on the PATH, `process::find` knows where Debian has it.
const SERVER: Need = Need::Program(INITDB, "postgresql");

/// Changes of one batch: as many as there may be.
const BATCH: u64 = 100;
/// What the policies of two authors say who call them the same: each as long as [`REFUSE`] has it.
const WORDS: (&str, &str) = ("rack b-17 is run by anna", "rack b-17 is run by bert");
/// The lease of the job that is looked at most often, the pause until the next look, and a busy machine.
const TAKE_OVER_LIMIT: Duration = Duration::from_secs(40);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(what_is_ordered_at_one_controller_reaches_an_agent_at_the_other, SERVER),
        case!(one_version_of_a_policy_is_one_component_at_both_controllers, SERVER),
        case!(k4_a_controller_that_is_killed_in_a_batch_loses_and_doubles_nothing, SERVER),
        case!(a_job_goes_on_at_the_other_controller_when_one_is_killed, SERVER),
        case!(controllers_that_start_at_once_make_one_schema, SERVER),
        case!(a_database_that_cannot_be_used_is_refused_with_the_cure, SERVER),
        case!(a_controller_without_its_database_lives_and_is_not_ready, SERVER),
    ]
}

/// Two controllers and what they share.
struct Pair {
    one: Controller,
    other: Controller,
    server: Postgres,
    dir: TempDir,
}

impl Pair {
    fn start() -> Result<Self> {
        let server = Postgres::start()?;
        let dir = tempfile::Builder::new().prefix("pureboot-").tempdir()?;
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir(&a)?;
        fs::create_dir(&b)?;
        let one = Controller::start_on(&a, Some(server.url()))?;
        let other = one.start_beside(&b)?;
        Ok(Self { one, other, server, dir })
    }
}

fn what_is_ordered_at_one_controller_reaches_an_agent_at_the_other() -> Result<()> {
    let Pair { one, other, server: _server, dir } = Pair::start()?;
    let body = json!({ "name": "berlin", "autonomy_level": "limited", "heartbeat_interval": 5 });
    let site = text(&one.post("/sites", &body)?, "id")?;
    let token = text(&other.post(&format!("/sites/{site}/agent-token"), &json!({}))?, "token")?;
    let mut agent = Agent::new(dir.path(), "agent");
    agent.init(&site, &one.url(), &token, Ports::LOOPBACK)?;
    agent.start()?;
    let status = format!("/agents/{site}/status");
    wait::until("the other controller knows the agent", ARRIVAL_LIMIT, || {
        let status = other.get(&status)?;
        Ok((status.get("heartbeat").is_some_and(Value::is_object)).then_some(()))
    })?;
    let mac = random_mac();
    agent.script(&mac)?;
    let node = other.wait_for_state(&mac, "discovered")?;
    agent.cache_add("images/two/kernel", b"kernel")?;
    agent.cache_add("images/two/initrd", b"initrd")?;
    let workflow = other.make_workflow("two", "nonce=two")?;
    other.order_install(&text(&node, "id")?, &workflow)?;
    wait::until("the agent gives the installer", ARRIVAL_LIMIT, || {
        Ok(agent.script(&mac)?.contains("nonce=two").then_some(()))
    })?;
    let version = other.patch(&format!("/sites/{site}"), &json!({ "description": "moved" }))?;
    let version = version.get("version").context("no version")?.clone();
    wait::until("the agent has the new settings", ARRIVAL_LIMIT, || {
        let status = other.get(&status)?;
        Ok((status.pointer("/heartbeat/config_version") == Some(&version)).then_some(()))
    })?;
    let commands = format!("/sites/{site}/commands");
    let command = other.post(&commands, &json!({ "command": "rotate_credential" }))?;
    let command = format!("{commands}/{}", text(&command, "id")?);
    wait::until("the agent has done what the other controller was told", ARRIVAL_LIMIT, || {
        Ok((text(&other.get(&command)?, "status")? == "completed").then_some(()))
    })
}

fn one_version_of_a_policy_is_one_component_at_both_controllers() -> Result<()> {
    let Pair { one, other, server: _server, dir } = Pair::start()?;
    let body = json!({ "name": "berlin", "autonomy_level": "limited", "heartbeat_interval": 5 });
    let site = text(&one.post("/sites", &body)?, "id")?;
    let joining = text(&one.post(&format!("/sites/{site}/agent-token"), &json!({}))?, "token")?;
    let mut agent = Agent::new(dir.path(), "agent");
    agent.init(&site, &other.url(), &joining, Ports::LOOPBACK)?;
    agent.start()?;
    wait::until("the agent has said what it runs policies by", ARRIVAL_LIMIT, || {
        let status = one.get(&format!("/agents/{site}/status"))?;
        Ok(status.pointer("/heartbeat/plugins").is_some_and(Value::is_object).then_some(()))
    })?;
    let (urls, token) = ([one.url(), other.url()], one.token());
    let add = |url: &str, word: &str| {
        let file = dir.path().join(format!("{}.wasm", sha256(word.as_bytes())));
        fs::write(&file, policy::boot_policy(word, REFUSE)?)?;
        let file = file.to_str().context("a path of the test's own")?;
        let add = ["plugin", "add", file, "--name", "guard", "--version", "1.0.0"];
        operate_at(url, token, &add)
    };
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| add(&urls[0], WORDS.0));
        let second = add(&urls[1], WORDS.1);
        (first.join(), second)
    });
    let first = first.map_err(|_| anyhow!("whoever adds the first has panicked"))?;
    let (word, refused) = match (first, second) {
        (Ok(_), Err(refused)) => (WORDS.0, refused),
        (Err(refused), Ok(_)) => (WORDS.1, refused),
        both => bail!("one of two components is version 1.0.0: {both:?}"),
    };
    ensure!(format!("{refused:#}").contains("which is another component"), "{refused:#}");
    let known = one.get("/plugins/guard")?;
    ensure!(known == other.get("/plugins/guard")?, "they differ from {known}");
    operate_at(&urls[0], token, &["plugin", "assign", "guard", "--everywhere", "--mode", "on"])?;
    let mac = random_mac();
    wait::until("the agent at the other controller says what was taken", ARRIVAL_LIMIT, || {
        Ok(agent.script(&mac)?.contains(word).then_some(()))
    })
}

/// An agent's side of handing over, without the agent's code.
pub(crate) struct Courier {
    pub(crate) credential: String,
    node: String,
    mac: String,
    next_seq: u64,
}

impl Courier {
    pub(crate) fn join(controller: &Controller) -> Result<Self> {
        let body = json!({ "name": "berlin", "conflict_resolution": "manual" });
        let site = text(&controller.post("/sites", &body)?, "id")?;
        let token = controller.post(&format!("/sites/{site}/agent-token"), &json!({}))?;
        let credential = format!("{:016x}", random()).repeat(4);
        let body = json!({
            "site_id": site, "token": text(&token, "token")?, "agent_url": "http://192.0.2.1:8080",
            "agent_version": "0.1.0", "capabilities": [], "credential_hash": sha256(credential.as_bytes()),
        });
        http::post(&format!("{}/api/v1/agents/register", controller.url()), &body)?.expect(200)?;
        let node = format!("{:08x}-0000-4000-8000-000000000001", random() >> 32);
        Ok(Self { credential, node, mac: random_mac(), next_seq: 1 })
    }

    /// The next batch: the machine's registration first, and then a start of it with every change but the last, which wishes for
    /// what cannot be and becomes a part of the one conflict about the node.
    pub(crate) fn batch(&mut self) -> Value {
        let first_seq = self.next_seq;
        self.next_seq += BATCH;
        let item = |seq| {
            let (kind, payload) = match seq {
                1 => ("registration", json!({ "request": { "mac": self.mac } })),
                _ if seq % BATCH == 0 => {
                    ("state_change", json!({ "state": "active", "autonomy": "full" }))
                }
                _ => ("event", json!({ "event_type": "boot_started" })),
            };
            json!({
                "seq": seq, "id": format!("{seq:032x}"), "node": self.node, "at": "2026-11-20T23:59:00.000Z",
                "clock": "synced", "kind": kind, "payload": payload,
            })
        };
        let items: Vec<_> = (first_seq..self.next_seq).map(item).collect();
        json!({
            "nonce": format!("{:032x}", random()), "epoch": "0".repeat(31) + "1",
            "first_seq": first_seq, "items": items,
        })
    }
}

pub(crate) fn hand_over(url: &str, credential: &str, batch: &Value) -> Result<Answer> {
    let request = minreq::post(format!("{url}/api/v1/agents/changes"))
        .with_header("authorization", format!("Bearer {credential}"))
        .with_header("content-type", "application/json")
        .with_body(batch.to_string());
    http::send(request)
}

fn k4_a_controller_that_is_killed_in_a_batch_loses_and_doubles_nothing() -> Result<()> {
    let Pair { mut one, other, server, dir: _dir } = Pair::start()?;
    let mut courier = Courier::join(&one)?;
    let started = Instant::now();
    let first = courier.batch();
    let first = hand_over(&one.url(), &courier.credential, &first)?.expect(200)?.json()?;
    let took = started.elapsed();
    ensure!(first.get("acked_through") == Some(&json!(BATCH)), "{first}");
    let parked = server.sql("SELECT count(*) FROM changes WHERE outcome = 'parked'")?;
    ensure!(parked == "0", "what the test sends is right: {first}");
    let (mut was_done, mut was_undone) = (0, 0);
    for _ in 0..if is_long() { 100 } else { 12 } {
        let batch = courier.batch();
        let (url, credential, sent) = (one.url(), courier.credential.clone(), batch.clone());
        let sending = thread::spawn(move || hand_over(&url, &credential, &sent));
        // From before the batch is there to after its answer is under way.
        thread::sleep(took.mul_f64(random() as f64 / u64::MAX as f64 * 1.3));
        one.stop();
        _ = sending.join();
        let receipt = hand_over(&other.url(), &courier.credential, &batch)?.expect(200)?.json()?;
        ensure!(receipt.get("acked_through") == Some(&json!(courier.next_seq - 1)), "{receipt}");
        match receipt.pointer("/results/0/outcome").and_then(Value::as_str) {
            Some("duplicate") => was_done += 1,
            Some("applied") => was_undone += 1,
            _ => anyhow::bail!("not taken: {receipt}"),
        }
        one.resume()?;
    }
    let sent = courier.next_seq - 1;
    let (wishes, applied) = (sent / BATCH, sent - sent / BATCH);
    let node = one.node(&courier.mac)?.context("the node is gone")?;
    ensure!(node.get("boot_count") == Some(&json!(applied - 1)), "{sent} changes sent: {node}");
    ensure!(node.get("version") == Some(&json!(applied)), "{sent} changes sent: {node}");
    for (query, expected) in [
        ("SELECT count(*) FROM node_events", applied - 1),
        ("SELECT count(*) FROM changes WHERE outcome = 'applied'", applied),
        ("SELECT count(*) FROM conflicts", 1),
        ("SELECT site_changes FROM conflicts WHERE resolution IS NULL", wishes),
        ("SELECT count(*) FROM changes WHERE outcome = 'conflict'", wishes),
        ("SELECT count(DISTINCT seq) FROM changes", sent),
        ("SELECT acked_through FROM outboxes", sent),
    ] {
        let found = server.sql(query)?;
        ensure!(found == expected.to_string(), "{query}: {found}, not {expected}");
    }
    let both = was_done > 0 && was_undone > 0;
    ensure!(both || !is_long(), "killed after {was_done} batches, before the end of {was_undone}");
    Ok(())
}

fn a_job_goes_on_at_the_other_controller_when_one_is_killed() -> Result<()> {
    let Pair { mut one, mut other, server, dir: _dir } = Pair::start()?;
    let holder = || server.sql("SELECT holder FROM jobs WHERE name = 'agent_status'");
    let first = wait::until("somebody has the job", ARRIVAL_LIMIT, || {
        Ok(Some(holder()?).filter(|holder| !holder.is_empty()))
    })?;
    thread::sleep(Duration::from_secs(6));
    ensure!(holder()? == first, "the job stays where it is");
    let mark = "the job agent_status is this controller's";
    let is_one = one.program()?.log().contains(mark);
    let (killed, left) = if is_one { (&mut one, &mut other) } else { (&mut other, &mut one) };
    ensure!(!left.program()?.log().contains(mark), "both do the job");
    killed.stop();
    wait::until("the other one does the job", TAKE_OVER_LIMIT, || {
        Ok(left.program()?.log().contains(mark).then_some(()))
    })?;
    ensure!(holder()? != first, "the lease has another holder");
    left.program()?.terminate()?;
    ensure!(holder()?.is_empty(), "one that ends in order gives its jobs back");
    Ok(())
}

fn controllers_that_start_at_once_make_one_schema() -> Result<()> {
    for _ in 0..3 {
        let server = Postgres::start()?;
        let dir = tempfile::Builder::new().prefix("pureboot-").tempdir()?;
        let starting = ["a", "b", "c"].map(|name| {
            let (dir, url) = (dir.path().join(name), server.url());
            thread::spawn(move || -> Result<Controller> {
                fs::create_dir(&dir)?;
                Controller::start_on(&dir, Some(url))
            })
        });
        for controller in starting {
            let started = controller.join().map_err(|_| anyhow::anyhow!("the thread panicked"))?;
            // Whoever comes second finds that the token or the signing key is another's, and does not make one.
            if let Err(error) = started {
                let error = format!("{error:#}");
                let is_second = ["operator-token", "signing-key", "secrets.key"]
                    .iter()
                    .any(|it| error.contains(it));
                ensure!(is_second, "{error}");
            }
        }
        let steps = server.sql("SELECT count(*), count(DISTINCT version) FROM _sqlx_migrations")?;
        let (all, distinct) = steps.split_once('|').context("two counts")?;
        ensure!(all == distinct && all != "0", "{steps}");
    }
    Ok(())
}

fn a_database_that_cannot_be_used_is_refused_with_the_cure() -> Result<()> {
    let server = Postgres::start()?;
    server.sql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER 'libc' TEMPLATE template0")?;
    let dir = tempfile::Builder::new().prefix("pureboot-").tempdir()?;
    let refused = |url: &str| -> Result<String> {
        let mut command = std::process::Command::new(process::own("pureboot-controller")?);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]);
        command.arg(dir.path().join("data")).env("PUREBOOT_DATABASE", url);
        let output = process::output(command, Duration::from_secs(20))?;
        ensure!(output.status.code() == Some(1), "it ended with {}", output.status);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!said.contains("s3cret"), "the password is told: {said}");
        Ok(said)
    };
    let with_password = server.url().replace("pureboot@", "pureboot:s3cret@");
    for (url, expected) in [
        (with_password.replace("/pureboot?", "/latin?"), "ENCODING 'UTF8'"),
        (with_password.replace("/pureboot?", "/nothing?"), "createdb"),
        (with_password.replace("pureboot:", "nobody:"), "nobody"),
        ("mysql://root:s3cret@localhost/x".to_owned(), "postgres://USER@HOST/NAME"),
    ] {
        let said = refused(&url)?;
        ensure!(said.contains(expected), "expected '{expected}': {said}");
    }
    Controller::start_on(dir.path(), Some(with_password.clone()))?;
    server.sql("INSERT INTO _sqlx_migrations SELECT 9999, 'later', now(), true, '', 0")?;
    let said = refused(&with_password)?;
    ensure!(said.contains("a later version has used it"), "{said}");
    Ok(())
}

fn a_controller_without_its_database_lives_and_is_not_ready() -> Result<()> {
    let server = Postgres::start()?;
    let dir = tempfile::Builder::new().prefix("pureboot-").tempdir()?;
    let controller = Controller::start_on(dir.path(), Some(server.url()))?;
    let ask = |path: &str| http::get(&format!("{}{path}", controller.url()));
    ask("/readyz")?.expect(200)?;
    drop(server);
    // One that is asked while the server goes may still hear from it.
    let refusal = wait::until("the controller is not ready", ARRIVAL_LIMIT, || {
        Ok(Some(ask("/readyz")?).filter(|answer| answer.status != 200))
    })?;
    let code = refusal.json()?.get("code").cloned();
    ensure!(refusal.status == 503, "{}", refusal.text());
    ensure!(code == Some(json!("database_unavailable")), "{}", refusal.text());
    ask("/healthz")?.expect(200)?;
    Ok(())
}
