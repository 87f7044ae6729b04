//! Answer files: what an installer reads instead of asking a person comes from the agent, with the controller or without it, and its
//! secrets only to the machine that is being installed.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pureboot_tests::http::{self, Answer};
use pureboot_tests::site::{ARRIVAL_LIMIT, Site, boot_of, text};
use pureboot_tests::{process, random, random_mac, wait};
use serde_json::{Value, json};

use crate::need::Need;
use crate::sync::site_with;
use crate::{Case, case};

const CURL: Need = Need::Program("curl", "curl");
const SQLITE: Need = Need::Program("sqlite3", "sqlite3");
const DEBCONF: Need = Need::Program("debconf-set-selections", "debconf");
const CLOUD_INIT: Need =
    Need::File("/usr/lib/python3/dist-packages/cloudinit/util.py", "cloud-init");

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(h23_a_file_with_secrets_goes_to_the_machine_that_is_installed_and_to_it_alone, CURL),
        case!(h23_a_file_is_given_so_often_and_a_sudden_end_does_not_begin_that_anew),
        case!(a_machine_that_is_ordered_before_the_line_breaks_has_its_answers_without_controller),
        case!(a_machine_that_never_booted_here_has_its_answers_without_controller),
        case!(a_thousand_machines_that_are_ordered_at_once_have_their_answers_soon, Need::Long),
        case!(more_machines_than_a_round_holds_have_their_answers_before_the_next),
        case!(an_installer_that_would_find_no_answers_is_not_given, SQLITE),
        case!(a_changed_template_counts_at_the_next_boot_and_a_broken_one_never, DEBCONF),
        case!(cloud_init_reads_its_seed, CLOUD_INIT),
    ]
}

/// What a small program may take, on a busy machine.
const PROGRAM_LIMIT: Duration = Duration::from_secs(60);

const PRESEED: &str = "# for {{ node.hostname | default(node.mac_address) }}\n\
    d-i passwd/root-password-crypted password {{ secret.root }}\n{% include 'disks' %}\n\
    d-i preseed/late_command string wget {{ server.url }}/boot {{ boot.id }}\n";

/// A workflow with a secret in its preseed file.
struct Plan {
    name: String,
    secret: String,
    template: String,
    workflow: String,
}

impl Plan {
    fn at(site: &Site) -> Result<Self> {
        let (name, secret) = (word("answers"), word("secret"));
        let controller = &site.controller;
        controller.put("/secrets/root", &json!({ "value": secret }))?;
        let disks = "d-i partman-auto/disk string /dev/sda\n";
        make_template(site, "disks", "preseed", disks)?;
        let template = make_template(site, "debian", "preseed", PRESEED)?;
        let workflow = json!({
            "name": name,
            "description": "",
            "method": "kernel",
            "kernel": format!("images/{name}/kernel"),
            "command_line": format!("nonce={name} auto=true priority=critical url={{{{ server.url }}}}/seed/{{{{ boot.id }}}}/preseed.cfg"),
            "templates": { "preseed.cfg": template },
        });
        let workflow = controller.post("/workflows?allow_missing=true", &workflow)?;
        Ok(Self { name, secret, template, workflow: text(&workflow, "id")? })
    }

    /// Orders the installation of a machine that the site has seen.
    fn order(&self, site: &Site, mac: &str) -> Result<String> {
        site.agent.script(mac)?;
        let node = text(&site.controller.wait_for_state(mac, "discovered")?, "id")?;
        site.controller.order_install(&node, &self.workflow)?;
        Ok(node)
    }

    /// The script that starts the installer.
    fn script(&self, site: &Site, mac: &str) -> Result<String> {
        site.script_with(mac, &format!("nonce={}", self.name))
    }
}

fn word(prefix: &str) -> String {
    format!("{prefix}-{:08x}", random() >> 32)
}

fn make_template(site: &Site, name: &str, kind: &str, body: &str) -> Result<String> {
    let template = json!({ "name": name, "kind": kind, "body": body });
    text(&site.controller.post("/templates", &template)?, "id")
}

/// The URL of the answer file that a script tells the kernel.
fn answer_url(script: &str) -> Result<String> {
    let url = script.split_whitespace().find_map(|word| word.strip_prefix("url="));
    url.map(ToOwned::to_owned).with_context(|| format!("no url= in:\n{script}"))
}

fn fetch(url: &str) -> Result<Answer> {
    http::get(url)?.expect(200)
}

/// Refuses a file in which a secret is, or none is hidden.
fn is_hidden(file: &str, secret: &str) -> Result<()> {
    ensure!(!file.contains(secret), "the secret is told:\n{file}");
    ensure!(file.contains("password ********\n"), "nothing is hidden:\n{file}");
    Ok(())
}

fn h23_a_file_with_secrets_goes_to_the_machine_that_is_installed_and_to_it_alone() -> Result<()> {
    let mut site = Site::start()?;
    let plan = Plan::at(&site)?;
    let (mac, other) = (random_mac(), random_mac());
    plan.order(&site, &mac)?;
    let by_mac = site.agent.url(&format!("/templates/preseed.cfg?mac={mac}"));
    http::get(&by_mac)?.expect(404).context("before the site knows of its installation")?;
    let script = plan.script(&site, &mac)?;
    let (boot, url) = (boot_of(&script)?, answer_url(&script)?);
    ensure!(
        url == site.agent.url(&format!("/seed/{boot}/preseed.cfg")),
        "{url} is not the agent's"
    );

    let file = fetch(&url)?;
    let expected = format!("password {}\nd-i partman-auto/disk", plan.secret);
    ensure!(file.text().contains(&expected), "not whole:\n{}", file.text());
    ensure!(
        file.text().contains(&format!("wget {} {boot}", site.agent.url("/boot"))),
        "its own URLs"
    );
    ensure!(file.field("content-type") == Some("text/plain"), "{:?}", file.fields);
    ensure!(
        file.field("content-length") == Some(&file.body.len().to_string()),
        "{:?}",
        file.fields
    );
    ensure!(file.field("transfer-encoding").is_none(), "{:?}", file.fields);
    ensure!(file.field("cache-control") == Some("no-store"), "{:?}", file.fields);
    ensure!(fetch(&by_mac)?.body == file.body, "the machine's address names its session");

    let mut curl = process::system("curl")?;
    curl.args(["--silent", "--fail", "--interface", "127.0.0.2", &url]);
    is_hidden(&process::succeed(curl)?, &plan.secret).context("from another address")?;
    let stranger = boot_of(&site.agent.script(&other)?)?;
    let path = format!("/templates/preseed.cfg?mac={mac}&boot={stranger}");
    is_hidden(&fetch(&site.agent.url(&path))?.text(), &plan.secret).context("another session")?;
    let none = http::get(&site.agent.url(&format!("/seed/{stranger}/preseed.cfg")))?.expect(404)?;
    ensure!(none.text().contains("its workflow has none"), "{}", none.text());
    let unknown = http::get(&site.agent.url(&format!("/seed/{boot}/ks.cfg")))?.expect(404)?;
    ensure!(unknown.text().contains("preseed.cfg"), "it names what there is: {}", unknown.text());

    site.agent.report(&mac, &boot, "install_started", None)?;
    ensure!(fetch(&url)?.body == file.body, "while it is being installed");
    site.agent.report(&mac, &boot, "install_complete", None)?;
    is_hidden(&fetch(&url)?.text(), &plan.secret).context("after its installation")?;

    let boots = site.agent.run(&["boots", "--mac", &mac])?;
    let boots = String::from_utf8(boots.stdout)?;
    for step in ["answer file preseed.cfg  ", "answer file preseed.cfg, its secrets hidden"] {
        ensure!(boots.contains(step), "no '{step}' in:\n{boots}");
    }
    for arguments in [&["answers", "show", &mac, "preseed.cfg"][..], &["answers", "ls", "--json"]] {
        let output = site.agent.run(arguments)?;
        let shown = String::from_utf8(output.stdout)?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        ensure!(
            shown.contains(if arguments.len() == 4 { "********" } else { "\"root\"" }),
            "{shown}"
        );
        ensure!(!shown.contains(&plan.secret), "the command line tells it:\n{shown}");
    }
    let log = site.agent.program()?.log();
    ensure!(!log.contains(&plan.secret), "the log tells it");
    ensure!(log.contains("with its secrets hidden: it is asked for from an address"), "{log}");
    Ok(())
}

fn h23_a_file_is_given_so_often_and_a_sudden_end_does_not_begin_that_anew() -> Result<()> {
    const TIMES: usize = 8;
    let mut site = Site::start()?;
    let plan = Plan::at(&site)?;
    let mac = random_mac();
    plan.order(&site, &mac)?;
    let path = format!("/seed/{}/preseed.cfg", boot_of(&plan.script(&site, &mac)?)?);
    for time in 0..TIMES {
        if time == TIMES / 2 {
            site.agent.stop();
            site.agent.start()?;
        }
        let head = minreq::head(site.agent.url(&path));
        ensure!(http::send(head)?.status == 200, "a head takes nothing");
        let file = fetch(&site.agent.url(&path))?.text();
        ensure!(file.contains(&plan.secret), "time {time}: not whole:\n{file}");
    }
    is_hidden(&fetch(&site.agent.url(&path))?.text(), &plan.secret)?;
    // Another attempt of the machine is another matter.
    let next = answer_url(&plan.script(&site, &mac)?)?;
    ensure!(fetch(&next)?.text().contains(&plan.secret), "the next boot");
    is_hidden(&fetch(&site.agent.url(&path))?.text(), &plan.secret)
}

/// The machines whose answer files are at the site.
fn sheets(site: &Site) -> Result<Vec<Value>> {
    let output = site.agent.run(&["answers", "ls", "--json"])?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn a_machine_that_is_ordered_before_the_line_breaks_has_its_answers_without_controller()
-> Result<()> {
    let mut site = Site::start()?;
    let plan = Plan::at(&site)?;
    let mac = random_mac();
    plan.order(&site, &mac)?;
    // The centre has the site ask about the machine, which does not boot.
    let order = json!({ "command": "invalidate", "params": { "mac": mac } });
    let path = format!("/sites/{}/commands", site.id);
    let command = text(&site.controller.post(&path, &order)?, "id")?;
    wait::until("the site has asked about the machine", ARRIVAL_LIMIT, || {
        let command = site.controller.get(&format!("{path}/{command}"))?;
        Ok((text(&command, "status")? == "completed").then_some(()))
    })?;
    site.agent.stop();
    site.agent.start()?;
    wait::until("its answer files are at the site", ARRIVAL_LIMIT, || {
        Ok(sheets(&site)?.iter().any(|sheet| sheet.get("mac") == Some(&json!(mac))).then_some(()))
    })?;
    site.controller.stop();
    let script = plan.script(&site, &mac)?;
    let file = fetch(&answer_url(&script)?)?.text();
    ensure!(file.contains(&plan.secret), "without its controller:\n{file}");
    Ok(())
}

fn a_machine_that_never_booted_here_has_its_answers_without_controller() -> Result<()> {
    let mut site = Site::start()?;
    let plan = Plan::at(&site)?;
    let mac = random_mac();
    let node = json!({ "mac_address": mac, "home_site_id": site.id });
    let node = text(&site.controller.post("/nodes", &node)?, "id")?;
    site.controller.order_install(&node, &plan.workflow)?;
    wait::until("its answer files come by themselves", ARRIVAL_LIMIT, || {
        Ok(sheets(&site)?.iter().any(|sheet| sheet.get("mac") == Some(&json!(mac))).then_some(()))
    })?;
    site.controller.stop();
    site.agent.stop();
    site.agent.start()?;
    let script = site.agent.script(&mac)?;
    ensure!(script.contains(&format!("nonce={}", plan.name)), "no installer:\n{script}");
    let file = fetch(&answer_url(&script)?)?.text();
    ensure!(file.contains(&plan.secret), "without its controller:\n{file}");
    Ok(())
}

/// Orders so many machines at once, and waits for the answer files of all of them; returns how long they took from the order on.
fn order_many(count: usize, limit: Duration) -> Result<Duration> {
    // Only the order itself brings them: the next round is tomorrow's.
    let site = site_with("interval_s = 60", "interval_s = 86400")?;
    let plan = Plan::at(&site)?;
    let group = site.controller.post("/groups", &json!({ "name": word("many") }))?;
    let group = text(&group, "id")?;
    for _ in 0..count {
        let node =
            json!({ "mac_address": random_mac(), "home_site_id": site.id, "group_id": group });
        let node = text(&site.controller.post("/nodes", &node)?, "id")?;
        site.controller.patch(&format!("/nodes/{node}/state"), &json!({ "state": "pending" }))?;
    }
    wait::until("the site knows the machines", limit, || {
        let output = site.agent.run(&["cache", "nodes", "--state", "pending", "--json"])?;
        let nodes: Vec<Value> = serde_json::from_slice(&output.stdout)?;
        Ok((nodes.len() == count).then_some(()))
    })?;
    let begun = Instant::now();
    let order = json!({ "default_workflow_id": plan.workflow });
    site.controller.patch(&format!("/groups/{group}"), &order)?;
    wait::until("the answer files of all of them are here", limit, || {
        Ok((sheets(&site)?.len() == count).then_some(()))
    })?;
    Ok(begun.elapsed())
}

fn a_thousand_machines_that_are_ordered_at_once_have_their_answers_soon() -> Result<()> {
    let took = order_many(1_000, Duration::from_secs(300))?;
    ensure!(took < Duration::from_secs(60), "they took {} s", took.as_secs());
    Ok(())
}

fn more_machines_than_a_round_holds_have_their_answers_before_the_next() -> Result<()> {
    order_many(100, Duration::from_secs(120)).map(|_| ())
}

fn an_installer_that_would_find_no_answers_is_not_given() -> Result<()> {
    let mut site = Site::start()?;
    let plan = Plan::at(&site)?;
    let mac = random_mac();
    plan.order(&site, &mac)?;
    // The template asks for what nobody has said.
    let path = format!("/templates/{}", plan.template);
    site.controller.patch(&path, &json!({ "body": "{{ meta.nowhere }}" }))?;
    let script = site.script_with(&mac, "meta.nowhere")?;
    ensure!(!script.contains("\nkernel"), "an installer all the same:\n{script}");
    site.controller.patch(&path, &json!({ "body": PRESEED }))?;
    plan.script(&site, &mac)?;
    // What was here is lost, and the controller is away.
    site.controller.stop();
    site.agent.stop();
    let mut sqlite = process::system("sqlite3")?;
    let database = site.agent.data_dir().join("state/site.db");
    sqlite
        .arg(&database)
        .arg("DELETE FROM answer_sheets; UPDATE nodes SET install_given_version = NULL");
    process::succeed(sqlite)?;
    ensure!(fs::metadata(&database)?.len() > 0, "the database is there");
    site.agent.start()?;
    // Lines of a script are short; the name of the file stays whole.
    let script = site.script_with(&mac, "preseed.cfg")?;
    ensure!(script.contains("is not"), "it is not here:\n{script}");
    ensure!(!script.contains("\nkernel"), "an installer all the same:\n{script}");
    Ok(())
}

fn a_changed_template_counts_at_the_next_boot_and_a_broken_one_never() -> Result<()> {
    let site = Site::start()?;
    let plan = Plan::at(&site)?;
    let mac = random_mac();
    plan.order(&site, &mac)?;
    let first = fetch(&answer_url(&plan.script(&site, &mac)?)?)?.text();
    let path = format!("/templates/{}", plan.template);
    let broken = json!({ "body": "{% if secret.root %}" });
    let refused = site.controller.call(minreq::Method::Patch, &path, Some(&broken))?;
    ensure!(refused.status == 422, "{}", refused.text());
    let again = fetch(&answer_url(&plan.script(&site, &mac)?)?)?.text();
    let without_boot = |file: &str| file.lines().take(3).map(str::to_owned).collect::<Vec<_>>();
    ensure!(without_boot(&again) == without_boot(&first), "{again}");
    let (mark, changed) = (word("new"), "d-i mirror/country string manual\n");
    site.controller.patch(&path, &json!({ "body": format!("{PRESEED}{changed}# {mark}\n") }))?;
    let file = fetch(&answer_url(&plan.script(&site, &mac)?)?)?.text();
    ensure!(file.contains(&mark) && file.contains(&plan.secret), "{file}");
    // Debian's own reader of such files has nothing to say against it.
    let place = site.dir().join("preseed.cfg");
    fs::write(&place, &file)?;
    let mut debconf = process::system("debconf-set-selections")?;
    debconf.arg("--checkonly").arg(&place);
    process::succeed(debconf).map(|_| ())
}

/// What cloud-init makes of a seed.
const READ_SEED: &str = "import json, sys\n\
    from cloudinit.util import read_seeded, load_yaml\n\
    meta, user, vendor = read_seeded(sys.argv[1], timeout=5, retries=0)[:3]\n\
    print(json.dumps([meta, load_yaml(user), (vendor or b'').decode()]))\n";

fn cloud_init_reads_its_seed() -> Result<()> {
    let site = Site::start()?;
    let mac = random_mac();
    let (name, secret) = (word("cloud"), word("secret"));
    site.controller.put("/secrets/hash", &json!({ "value": secret }))?;
    let body = "#cloud-config\nusers:\n  - name: {{ node.mac_address | yaml }}\n    passwd: {{ secret.hash | yaml }}\n";
    let template = make_template(&site, "user-data", "cloud-init", body)?;
    let workflow = json!({
        "name": name, "description": "", "method": "kernel", "kernel": format!("images/{name}/kernel"),
        "command_line": format!("nonce={name} ds=nocloud;s={{{{ server.url }}}}/seed/{{{{ boot.id }}}}/"),
        "templates": { "user-data": template },
    });
    let workflow = site.controller.post("/workflows?allow_missing=true", &workflow)?;
    site.agent.script(&mac)?;
    let node = text(&site.controller.wait_for_state(&mac, "discovered")?, "id")?;
    site.controller.order_install(&node, &text(&workflow, "id")?)?;
    let script = site.script_with(&mac, &format!("nonce={name}"))?;
    let seed = script.split_whitespace().find_map(|word| word.strip_prefix("ds=nocloud;s="));
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", READ_SEED, seed.context("the kernel is told of the seed")?]);
    let output = process::output(python, PROGRAM_LIMIT)?;
    let read = serde_json::from_slice::<Value>(&output.stdout);
    let read = read.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let user = json!({ "users": [{ "name": mac, "passwd": secret }] });
    ensure!(read == json!([{ "instance-id": node }, user, ""]), "{read}");
    Ok(())
}
