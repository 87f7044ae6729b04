//! The operator's command line, as the program that operators start.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use pureboot_tests::controller::{Controller, Options};
use pureboot_tests::process::{self, Program};
use pureboot_tests::site::{ARRIVAL_LIMIT, Ports, Site, text};
use pureboot_tests::{noise, sha256, wait};
use serde_json::{Value, json};

use crate::controllers::{Courier, hand_over};
use crate::doctor::Authority;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(what_is_printed_for_programs_is_what_the_api_says),
        case!(names_stand_for_ids_and_a_name_that_two_have_is_refused),
        case!(a_long_list_is_shown_to_its_end),
        case!(exit_codes_tell_done_refused_and_misused_apart),
        case!(what_cannot_be_undone_wants_a_yes),
        case!(content_goes_up_and_comes_back_as_it_was),
        case!(a_secret_is_read_from_a_file_and_shown_nowhere),
        case!(a_private_authority_is_believed_and_no_other),
        case!(a_token_follows_no_redirect),
        case!(what_comes_as_something_else_is_not_kept),
        case!(an_agent_is_given_orders_which_are_followed_or_taken_back),
        case!(a_machine_is_given_an_order_which_is_taken_back),
        case!(conflicts_are_shown_with_both_sides_and_ended),
    ]
}

/// What a command may take, on a busy machine.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// An operator at the command line.
pub(crate) struct Operator<'a> {
    pub(crate) controller: &'a Controller,
}

impl Operator<'_> {
    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(process::own("pureboot-controller")?);
        command.args(arguments).env("PUREBOOT_URL", self.controller.url());
        command.env("PUREBOOT_TOKEN", self.controller.token());
        Ok(command)
    }

    /// The exit code, and what was said on stdout and stderr.
    fn run(&self, arguments: &[&str]) -> Result<(Option<i32>, String)> {
        let Output { status, stdout, stderr } =
            process::output(self.command(arguments)?, COMMAND_LIMIT)?;
        Ok((status.code(), String::from_utf8([stdout, stderr].concat())?))
    }

    /// What is printed by a command that must succeed.
    pub(crate) fn done(&self, arguments: &[&str]) -> Result<String> {
        process::succeed(self.command(arguments)?)
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let said = self.done(&[arguments, &["--json"]].concat())?;
        serde_json::from_str(&said).with_context(|| format!("{arguments:?} printed {said}"))
    }

    /// What is said by a command that must be refused with `code`.
    fn refused(&self, code: i32, arguments: &[&str]) -> Result<String> {
        let (status, said) = self.run(arguments)?;
        ensure!(status == Some(code), "{arguments:?} ended with {status:?}: {said}");
        Ok(said)
    }
}

fn what_is_printed_for_programs_is_what_the_api_says() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let controller = Controller::start(dir.path())?;
    let operator = Operator { controller: &controller };
    let site = operator.json(&["site", "add", "berlin", "autonomy_level=limited", "tags=a,b"])?;
    ensure!(site.get("tags") == Some(&json!(["a", "b"])), "{site}");
    operator.done(&["group", "add", "web", "parent=/berlin", "auto_provision=no"])?;
    let workflow = operator.json(&[
        "workflow",
        "add",
        "debian",
        "method=kernel",
        "kernel=images/k",
        "--allow-missing",
    ])?;
    operator.done(&["node", "add", "525400000001", "hostname=web1", "site=berlin", "group=web"])?;
    operator.done(&["node", "workflow", "web1", "debian"])?;
    operator.done(&["node", "tag", "web1", "rack1", "ssd"])?;
    let file = dir.path().join("preseed.cfg");
    fs::write(&file, "d-i host string {{ node.hostname }}\n")?;
    let file = file.to_str().context("a path of ASCII")?;
    operator.done(&["template", "add", "preseed", "--kind", "preseed", file])?;
    let group = operator.json(&["group", "show", "web"])?;
    let id =
        |value: &Value| value.get("id").and_then(Value::as_str).map(str::to_owned).context("no id");
    let (site_id, group_id, workflow_id) = (id(&site)?, id(&group)?, id(&workflow)?);
    for (arguments, path) in [
        (&["site", "ls"][..], "/sites"),
        (&["group", "ls"], "/groups"),
        (&["node", "ls"], "/nodes"),
        (&["node", "stats"], "/nodes/stats"),
        (&["node", "stalled"], "/nodes/stalled"),
        (&["workflow", "ls"], "/workflows"),
        (&["template", "ls"], "/templates"),
        (&["content", "ls"], "/content"),
        (&["secret", "ls"], "/secrets"),
        (&["agent", "ls"], "/agents"),
        (&["conflict", "ls", "--all"], "/sync/conflicts?status=all"),
        (&["site", "conflicts"], "/sync/conflicts"),
        (&["site", "show", "berlin"], &format!("/sites/{site_id}")),
        (&["site", "health", "berlin"], &format!("/sites/{site_id}/health")),
        (&["site", "parked", "berlin"], &format!("/sites/{site_id}/parked")),
        (&["group", "show", "web"], &format!("/groups/{group_id}")),
        (&["workflow", "show", "debian"], &format!("/workflows/{workflow_id}")),
        (
            &["node", "ls", "--group", "web", "--tag", "ssd"],
            &format!("/nodes?group_id={group_id}&tag=ssd"),
        ),
        (&["node", "ls", "--site", "berlin", "--below"], &format!("/sites/{site_id}/nodes")),
    ] {
        let (printed, said) = (operator.json(arguments)?, controller.get(path)?);
        ensure!(printed == said, "{arguments:?} printed {printed}, and {path} says {said}");
    }
    let table = operator.done(&["node", "ls"])?;
    let [head, row] = table.lines().collect::<Vec<_>>()[..] else {
        bail!("expected a head and a row: {table}")
    };
    ensure!(head.starts_with("MAC ADDRESS        HOSTNAME  STATE"), "{head}");
    ensure!(
        row.starts_with("52:54:00:00:00:01  web1      discovered  /berlin  /berlin/web  debian"),
        "{row}"
    );
    let text = operator.done(&["template", "preview", "preseed", "--node", "web1"])?;
    ensure!(text == "d-i host string web1\n", "{text}");
    Ok(())
}

fn names_stand_for_ids_and_a_name_that_two_have_is_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let controller = Controller::start(dir.path())?;
    let operator = Operator { controller: &controller };
    for mac in ["52:54:00:00:00:01", "52:54:00:00:00:02"] {
        operator.done(&["node", "add", mac, "hostname=twin"])?;
    }
    let node = operator.json(&["node", "show", "52-54-00-00-00-02"])?;
    let id = node.get("id").and_then(Value::as_str).context("no id")?;
    for word in [id, id.get(..13).context("a UUID")?, "525400000002", "52:54:00:00:00:02"] {
        let mac = operator.done(&["node", "show", word, "--field", "mac_address"])?;
        ensure!(mac.trim() == "52:54:00:00:00:02", "{word} is {mac}");
    }
    let said = operator.refused(1, &["node", "set", "twin", "tags=a"])?;
    ensure!(said.contains("52:54:00:00:00:01") && said.contains("52:54:00:00:00:02"), "{said}");
    let said = operator.refused(1, &["node", "show", "nobody"])?;
    ensure!(said.contains("`node ls`"), "{said}");
    Ok(())
}

fn a_long_list_is_shown_to_its_end() -> Result<()> {
    /// More than one answer of the API holds.
    const NODES: usize = 510;
    let dir = tempfile::tempdir()?;
    let arguments = vec!["--rate-per-credential".to_owned(), "0".to_owned()];
    let controller =
        Controller::start_with(dir.path(), Options { arguments, ..Options::default() })?;
    for number in 0..NODES {
        let mac = format!("52:54:00:00:{:02x}:{:02x}", number >> 8, number & 0xff);
        controller.post("/nodes", &json!({ "mac_address": mac }))?;
    }
    let operator = Operator { controller: &controller };
    let lines = operator.done(&["node", "ls"])?.lines().count();
    ensure!(lines == NODES + 1, "{lines} lines");
    let audit = operator.done(&["audit", "--limit", "505"])?.lines().count();
    ensure!(audit == 506, "{audit} lines");
    Ok(())
}

fn exit_codes_tell_done_refused_and_misused_apart() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut controller = Controller::start(dir.path())?;
    let operator = Operator { controller: &controller };
    ensure!(operator.run(&["site", "ls"])?.0 == Some(0), "a list is no failure");
    ensure!(operator.run(&["site", "ls", "--help"])?.0 == Some(0), "help is no failure");
    for (arguments, expected) in [
        (&["site", "bogus"][..], "bogus"),
        (&["site", "show"], "site"),
        (&["site", "add", "x", "colour=red"], "the fields are name"),
        (&["site", "set", "x"], "at least one FIELD=VALUE"),
        (&["node", "state", "x", "asleep"], "none of discovered"),
        (&["site", "ls", "--url", "boot.example.org"], "http://"),
        (&["content", "put", "/", "images/x"], "-r uploads"),
        (&["site", "order", "x", "dance"], "none of rotate_credential"),
        (&["site", "order", "x", "invalidate"], "either --mac or --content"),
        (&["node", "command", "x"], "--cancel"),
        (&["conflict", "ls", "--all", "--resolved"], "do not go together"),
        (&["conflict", "resolve", "x", "merge"], "what the node is to be"),
        (&["conflict", "resolve", "x", "keep_local", "state=active"], "take no fields"),
        (&["conflict", "resolve-all", "x", "merge"], "one by one"),
    ] {
        let said = operator.refused(2, arguments)?;
        ensure!(said.contains(expected), "{arguments:?}: {said}");
    }
    operator.done(&["site", "add", "berlin"])?;
    let said = operator.refused(1, &["site", "add", "berlin"])?;
    ensure!(said.contains("name_taken, correlation id"), "{said}");
    let said = operator.refused(1, &["site", "set", "berlin", "heartbeat_interval=1"])?;
    ensure!(said.contains("\n  heartbeat_interval: 1 is not within"), "{said}");
    let mut command = operator.command(&["site", "ls"])?;
    command.env("PUREBOOT_TOKEN", "0123456789abcdef");
    let output = process::output(command, COMMAND_LIMIT)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && said.contains("unauthenticated"), "{said}");
    ensure!(!said.contains("0123456789abcdef"), "the token is told: {said}");
    controller.stop();
    let said = Operator { controller: &controller }.refused(1, &["site", "ls"])?;
    ensure!(said.contains("cannot reach the controller at http://"), "{said}");
    Ok(())
}

fn what_cannot_be_undone_wants_a_yes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let controller = Controller::start(dir.path())?;
    let operator = Operator { controller: &controller };
    operator.done(&["site", "add", "berlin"])?;
    operator.done(&["node", "add", "52:54:00:00:00:01"])?;
    for arguments in [
        &["site", "rm", "berlin"][..],
        &["node", "retire", "525400000001"],
        &["node", "state", "525400000001", "retired"],
    ] {
        let said = operator.refused(1, arguments)?;
        ensure!(said.contains("--yes"), "{arguments:?}: {said}");
    }
    operator.done(&["site", "show", "berlin"])?;
    operator.done(&["site", "rm", "berlin", "--yes"])?;
    operator.refused(1, &["site", "show", "berlin"])?;
    operator.done(&["node", "retire", "525400000001", "--yes"])?;
    let state = operator.done(&["node", "show", "525400000001", "--field", "state"])?;
    ensure!(state.trim() == "retired", "{state}");
    Ok(())
}

fn content_goes_up_and_comes_back_as_it_was() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let controller = Controller::start(dir.path())?;
    let operator = Operator { controller: &controller };
    let tree = dir.path().join("netboot");
    fs::create_dir_all(tree.join("sub"))?;
    let (linux, initrd) = (noise(3_000_001), noise(10));
    fs::write(tree.join("linux"), &linux)?;
    fs::write(tree.join("sub/initrd.gz"), &initrd)?;
    fs::write(tree.join("sub/empty"), [])?;
    let tree = tree.to_str().context("a path of ASCII")?;
    let said = operator.done(&["content", "put", "-r", tree, "images/debian"])?;
    ensure!(said.contains(&sha256(&linux)) && said.lines().count() == 3, "{said}");
    let listed = operator.json(&["content", "ls", "images/debian/"])?;
    let hashes: Vec<_> =
        listed.as_array().into_iter().flatten().filter_map(|e| e.get("sha256")).collect();
    ensure!(hashes == [&sha256(&linux), &sha256(&[]), &sha256(&initrd)], "{listed}");
    let again = operator.done(&["content", "put", "-r", tree, "images/debian"])?;
    ensure!(again.lines().all(|line| line.ends_with("is there already")), "{again}");
    let copy = dir.path().join("copy");
    operator.done(&["content", "get", "images/debian/linux", &copy.display().to_string()])?;
    ensure!(fs::read(&copy)? == linux, "another file came back");
    let names: Vec<_> =
        fs::read_dir(dir.path())?.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    ensure!(!names.iter().any(|name| name.display().to_string().ends_with(".part")), "{names:?}");
    let output = process::output(
        operator.command(&["content", "get", "images/debian/sub/initrd.gz", "--stdout"])?,
        COMMAND_LIMIT,
    )?;
    ensure!(output.stdout == initrd, "stdout carries something else");
    operator.done(&["content", "rm", "images/debian/linux", "--yes"])?;
    operator.refused(1, &["content", "get", "images/debian/linux", &copy.display().to_string()])?;
    ensure!(fs::read(&copy)? == linux, "a fetch that fails leaves what was there");
    operator.refused(2, &["content", "put", &format!("{tree}/linux"), "linux"])?;
    Ok(())
}

fn a_secret_is_read_from_a_file_and_shown_nowhere() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let controller = Controller::start(dir.path())?;
    let operator = Operator { controller: &controller };
    let file = dir.path().join("value");
    fs::write(&file, "hunter2-hunter2\n")?;
    let file = file.display().to_string();
    operator.done(&["site", "add", "berlin"])?;
    let mut said = operator.done(&["secret", "set", "root", "--value-file", &file])?;
    said += &operator.done(&[
        "secret",
        "set",
        "root",
        "--value-file",
        &file,
        "--group",
        "berlin",
        "--json",
    ])?;
    said += &operator.done(&["secret", "ls", "--json"])?;
    said += &operator.done(&["audit", "--json"])?;
    ensure!(said.contains("root") && !said.contains("hunter2"), "{said}");
    operator.done(&["secret", "rm", "root", "--group", "berlin", "--yes"])?;
    ensure!(operator.json(&["secret", "ls"])?.as_array().map(Vec::len) == Some(1), "both are gone");
    Ok(())
}

fn a_private_authority_is_believed_and_no_other() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (ours, theirs) = (Authority::new(false)?, Authority::new(false)?);
    let file = |name: &str, text: &str| -> Result<PathBuf> {
        let path = dir.path().join(name);
        fs::write(&path, text)?;
        Ok(path)
    };
    let (certificate, key) = (file("cert.pem", &ours.certificate)?, file("key.pem", &ours.key)?);
    let (ours, theirs) = (file("ours.pem", &ours.ca)?, file("theirs.pem", &theirs.ca)?);
    let data_dir = dir.path().join("data");
    let mut command = Command::new(process::own("pureboot-controller")?);
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data_dir);
    command.arg("--tls-cert-file").arg(certificate).arg("--tls-key-file").arg(key);
    let program = Program::spawn("controller", command, dir.path())?;
    let url = program.line("listening on ", Duration::from_secs(20))?;
    let ask = |authority: Option<&Path>| -> Result<Output> {
        let mut command = Command::new(process::own("pureboot-controller")?);
        command.args(["site", "ls", "--url", &url, "--data-dir"]).arg(&data_dir);
        if let Some(authority) = authority {
            command.arg("--ca-file").arg(authority);
        }
        process::output(command, COMMAND_LIMIT)
    };
    let output = ask(Some(&ours))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for authority in [Some(theirs.as_path()), None] {
        let output = ask(authority)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1) && said.contains("certificate"), "{said}");
    }
    let token = data_dir.join("operator-token");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644))?;
    let said = String::from_utf8_lossy(&ask(Some(&ours))?.stderr).into_owned();
    ensure!(said.contains("chmod 600"), "{said}");
    Ok(())
}

/// Starts a server that is no controller and answers one request with `response` and a field more; returns its URL.
fn answer_once<R: std::io::Read + Send + 'static>(
    response: tiny_http::Response<R>,
    field: &str,
    value: &str,
) -> Result<(String, JoinHandle<Result<()>>)> {
    let server =
        tiny_http::Server::http("127.0.0.1:0").map_err(|error| anyhow!("no server: {error}"))?;
    let url = format!("http://{}", server.server_addr());
    let field = tiny_http::Header::from_bytes(field, value).map_err(|()| anyhow!("no field"))?;
    let answering = std::thread::spawn(move || -> Result<()> {
        let request = server.recv_timeout(COMMAND_LIMIT)?.context("nobody asks")?;
        Ok(request.respond(response.with_header(field))?)
    });
    Ok((url, answering))
}

fn what_comes_as_something_else_is_not_kept() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("linux");
    // SHA-256 of something else.
    let digest = format!("sha-256=:{}=:", "A".repeat(43));
    let response = tiny_http::Response::from_string("damaged on the way");
    let (url, server) = answer_once(response, "Repr-Digest", &digest)?;
    let mut command = Command::new(process::own("pureboot-controller")?);
    command.args(["content", "get", "images/linux", "--url", &url]).arg(&file);
    command.env("PUREBOOT_TOKEN", "0123456789abcdef");
    let output = process::output(command, COMMAND_LIMIT)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.contains("fetch it again"), "{said}");
    server.join().map_err(|_| anyhow!("the server panicked"))??;
    ensure!(fs::read_dir(dir.path())?.next().is_none(), "what is damaged is kept");
    Ok(())
}

fn a_token_follows_no_redirect() -> Result<()> {
    let elsewhere = TcpListener::bind("127.0.0.1:0")?;
    elsewhere.set_nonblocking(true)?;
    let there = format!("http://{}/api/v1/sites", elsewhere.local_addr()?);
    let (url, server) = answer_once(tiny_http::Response::empty(307), "Location", &there)?;
    let mut command = Command::new(process::own("pureboot-controller")?);
    command.args(["site", "ls", "--url", &url]).env("PUREBOOT_TOKEN", "0123456789abcdef");
    let output = process::output(command, COMMAND_LIMIT)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.contains(&there), "{said}");
    server.join().map_err(|_| anyhow!("the server panicked"))??;
    ensure!(elsewhere.accept().is_err(), "somebody came after the redirect");
    Ok(())
}

fn an_agent_is_given_orders_which_are_followed_or_taken_back() -> Result<()> {
    let mut site = Site::prepare("agent")?;
    let operator = Operator { controller: &site.controller };
    let site_id = site.id.as_str();
    let commands = format!("/sites/{site_id}/commands");
    let queued = operator.json(&["site", "order", site_id, "rotate_credential"])?;
    ensure!(text(&queued, "status")? == "queued", "{queued}");
    let mac = ["--mac", "52-54-00-12-34-56"];
    operator.done(&[&["site", "order", site_id, "invalidate"][..], &mac].concat())?;
    let listed = operator.json(&["site", "commands", site_id])?;
    ensure!(listed == site.controller.get(&commands)?, "{listed}");
    let table = operator.done(&["site", "commands", site_id])?;
    let row: Vec<_> = table.lines().nth(1).context("no row")?.split_whitespace().collect();
    let expected = ["invalidate", "mac=52:54:00:12:34:56", "queued", "0"];
    ensure!(row.get(1..5) == Some(&expected[..]), "{table}");

    let id = text(&queued, "id")?;
    let said = operator.done(&["site", "cancel", site_id, id.get(..8).context("a UUID")?])?;
    ensure!(said.contains("rotate_credential") && said.contains("is cancelled"), "{said}");

    // What is taken back while somebody waits for it has ended otherwise than it should.
    let order = operator.command(&["site", "order", site_id, "update_config", "--wait"])?;
    let waiting = thread::spawn(move || process::output(order, COMMAND_LIMIT));
    let id = wait::until("the order is there", ARRIVAL_LIMIT, || {
        let listed = operator.json(&["site", "commands", site_id, "--limit", "1"])?;
        let last = listed.get(0).context("no command")?;
        ensure!(text(last, "command")? == "update_config", "{last}");
        Ok(Some(text(last, "id")?))
    })?;
    operator.done(&["site", "cancel", site_id, &id])?;
    let Output { status, stderr, .. } =
        waiting.join().map_err(|_| anyhow!("the waiting thread panicked"))??;
    let said = String::from_utf8(stderr)?;
    ensure!(status.code() == Some(1) && said.contains("is cancelled"), "{status}: {said}");

    let token = site.make_token()?;
    site.agent.init(site_id, &site.controller.url(), &token, Ports::LOOPBACK)?;
    site.agent.start()?;
    let done = operator.json(&["site", "order", site_id, "update_config", "--wait"])?;
    ensure!(text(&done, "status")? == "completed", "{done}");
    let said = operator.refused(1, &["site", "cancel", site_id, &text(&done, "id")?])?;
    ensure!(said.contains("correlation id"), "{said}");
    let said = operator.refused(1, &["site", "cancel", site_id, "nothing"])?;
    ensure!(said.contains("`site commands`"), "{said}");
    // Whether this agent brings content up to date or not: the exit code says so.
    let (code, said) = operator.run(&["site", "sync", site_id, "--full", "--wait", "--json"])?;
    let expected = if said.contains(r#""status":"completed""#) { 0 } else { 1 };
    ensure!(code == Some(expected) && said.contains(r#""force":true"#), "{code:?}: {said}");
    Ok(())
}

fn a_machine_is_given_an_order_which_is_taken_back() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let controller = Controller::start(dir.path())?;
    let operator = Operator { controller: &controller };
    operator.done(&["node", "add", "525400000001", "hostname=web1"])?;
    let waits = || operator.done(&["node", "show", "web1", "--field", "pending_command"]);
    let said = operator.done(&["node", "command", "web1", "reboot"])?;
    ensure!(said.contains("web1 is told to reboot"), "{said}");
    ensure!(waits()?.contains("command=reboot"), "{}", waits()?);
    operator.refused(2, &["node", "command", "web1", "reboot", "--cancel"])?;
    operator.done(&["node", "command", "web1", "--cancel"])?;
    ensure!(waits()?.trim() == "-", "{}", waits()?);
    let said = operator.refused(2, &["node", "command", "web1", "dance"])?;
    ensure!(said.contains("none of poweroff, reboot, rescan"), "{said}");
    Ok(())
}

fn conflicts_are_shown_with_both_sides_and_ended() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let controller = Controller::start(dir.path())?;
    let operator = Operator { controller: &controller };
    let mut courier = Courier::join(&controller)?;
    let mut disagree = || -> Result<String> {
        let batch = courier.batch();
        hand_over(&controller.url(), &courier.credential, &batch)?.expect(200)?;
        let open = operator.json(&["conflict", "ls", "--site", "berlin"])?;
        ensure!(open == operator.json(&["site", "conflicts", "berlin"])?, "{open}");
        text(open.get(0).context("no conflict")?, "id")
    };

    let id = disagree()?;
    let node = operator.json(&["conflict", "show", &id, "--field", "node_id"])?;
    let node = node.as_str().context("no node")?;
    operator.done(&["node", "set", node, "hostname=web1"])?;
    let table = operator.done(&["conflict", "ls"])?;
    let row = table.lines().nth(1).context("no row")?;
    ensure!(row.contains("/berlin") && row.contains(" web1 "), "{table}");
    let said = operator.refused(1, &["conflict", "show", "nothing"])?;
    ensure!(said.contains("`conflict ls --all`"), "{said}");
    let shown = operator.done(&["conflict", "show", id.get(..8).context("a UUID")?])?;
    let state: Vec<_> =
        shown.lines().filter(|line| line.starts_with("state ")).map(str::to_owned).collect();
    let words: Vec<_> = state.iter().flat_map(|line| line.split_whitespace()).collect();
    ensure!(words == ["state", "-", "active", "discovered", "discovered"], "{shown}");
    ensure!(shown.contains("cause") && shown.contains("THE NODE NOW"), "{shown}");

    let merge = ["conflict", "resolve", &id, "merge", "hostname=web2", "--comment", "seen"];
    let said = operator.refused(1, &merge)?;
    ensure!(said.contains("node_moved"), "the node has changed since: {said}");
    let version = operator.done(&["node", "show", node, "--field", "version"])?;
    let merge = [&merge[..], &["--node-version", version.trim()]].concat();
    let said = operator.done(&merge)?;
    ensure!(said.contains("ended with merge"), "{said}");
    ensure!(operator.done(&merge)? == said, "the same decision again has the same answer");
    let said = operator.refused(1, &["conflict", "resolve", &id, "keep_central"])?;
    ensure!(said.contains("has ended with merge"), "{said}");
    let name = operator.done(&["node", "show", node, "--field", "hostname"])?;
    ensure!(name.trim() == "web2", "{name}");
    let ended = operator.done(&["conflict", "show", &id])?;
    ensure!(ended.contains("outcome.fields.hostname") && ended.contains("web2"), "{ended}");

    let second = disagree()?;
    ensure!(second != id, "what has ended is listed among what waits");
    let said = operator.refused(1, &["conflict", "resolve-all", "berlin", "keep_local"])?;
    ensure!(said.contains("ended 0 conflicts of /berlin") && said.contains(&second), "{said}");
    let all = operator.json(&["conflict", "resolve-all", "berlin", "keep_central"])?;
    ensure!(all.get("resolved") == Some(&json!(1)), "{all}");
    let count = |arguments: &[&str]| -> Result<usize> {
        Ok(operator.json(arguments)?.as_array().context("no list")?.len())
    };
    ensure!(count(&["conflict", "ls"])? == 0, "something is open");
    ensure!(count(&["conflict", "ls", "--resolved"])? == 2, "both have ended");
    Ok(())
}
