//! A site: its controller and its agent, started as a person would start them.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::controller::Controller;
use crate::http;
use crate::process::{self, Program};
use crate::wait;

/// What a program may take until it listens, on a busy machine.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(20);

/// What a fact may take from one program to the other, on a busy machine.
pub const ARRIVAL_LIMIT: Duration = Duration::from_secs(20);

/// What three failed heartbeats may take, on a busy machine.
const OFFLINE_LIMIT: Duration = Duration::from_secs(60);

/// Seconds between heartbeats: the shortest interval that the controller allows.
pub const HEARTBEAT_INTERVAL_SECONDS: u64 = 5;

/// A field of an object that must be text.
///
/// # Errors
/// It is not there, or not text.
pub fn text(object: &Value, field: &str) -> Result<String> {
    let value = object.get(field).and_then(Value::as_str);
    value.map(ToOwned::to_owned).with_context(|| format!("no text '{field}' in {object}"))
}

/// An agent with a data directory; it may be stopped and started again.
#[derive(Debug)]
pub struct Agent {
    dir: PathBuf,
    data_dir: PathBuf,
    /// The words that start `pureboot-agent`, where it is not the one of this workspace.
    words: Vec<PathBuf>,
    program: Option<Program>,
    tftp: SocketAddr,
    boot: SocketAddr,
}

impl Agent {
    /// An agent that has not been given a site yet; its data goes to `dir/<name>`.
    pub fn new(dir: &Path, name: &str) -> Self {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let data_dir = dir.join(name);
        Self {
            dir: dir.to_owned(),
            data_dir,
            words: Vec::new(),
            program: None,
            tftp: nowhere,
            boot: nowhere,
        }
    }

    /// The same, started by `words`.
    pub fn started_by(&mut self, words: Vec<PathBuf>) {
        self.words = words;
    }

    /// Where it keeps its data.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Where it listens for TFTP.
    pub fn tftp(&self) -> SocketAddr {
        self.tftp
    }

    /// Where it listens for HTTP.
    pub fn boot(&self) -> SocketAddr {
        self.boot
    }

    /// A URL on its boot listener.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.boot)
    }

    /// The process.
    ///
    /// # Errors
    /// It is stopped.
    pub fn program(&mut self) -> Result<&mut Program> {
        self.program.as_mut().context("the agent is stopped")
    }

    /// `pureboot-agent` with these arguments and its data directory.
    ///
    /// # Errors
    /// It has not been built.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = match self.words.as_slice() {
            [] => Command::new(process::own("pureboot-agent")?),
            [first, others @ ..] => {
                let mut command = Command::new(first);
                command.args(others);
                command
            }
        };
        command.args(arguments).arg("--data-dir").arg(&self.data_dir);
        Ok(command)
    }

    /// Runs `pureboot-agent` with these arguments to its end.
    ///
    /// # Errors
    /// It does not end within 30 s.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        process::output(self.command(arguments)?, Duration::from_secs(30))
    }

    /// The exit code of `pureboot-agent status`, and what it says to a program.
    ///
    /// # Errors
    /// The agent does not run or says nothing that is JSON.
    pub fn status(&self) -> Result<(Option<i32>, Value)> {
        let output = self.run(&["status", "--json"])?;
        let said = serde_json::from_slice(&output.stdout);
        let said = said.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok((output.status.code(), said))
    }

    /// How many changes wait for the controller.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn pending(&self) -> Result<usize> {
        let queue = http::ask_socket(&self.socket(), "GET", "/api/v1/agent/queue?limit=0")?;
        let pending = queue.expect(200)?.json()?.pointer("/data/pending").and_then(Value::as_u64);
        pending.and_then(|pending| pending.try_into().ok()).context("no number that waits")
    }

    /// Where it listens for those who manage it.
    pub fn socket(&self) -> PathBuf {
        self.data_dir.join("agent.sock")
    }

    /// The first of the two commands.
    ///
    /// # Errors
    /// The program fails.
    pub fn init(&self, site_id: &str, central_url: &str, token: &str, ports: Ports) -> Result<()> {
        let token_file = self.dir.join(format!("token.{:08x}", crate::random() >> 32));
        fs::write(&token_file, token)?;
        let boot = SocketAddr::from((ports.address, ports.boot)).to_string();
        let tftp = SocketAddr::from((ports.address, ports.tftp)).to_string();
        let mut command = self.command(&["init", "--site-id", site_id])?;
        command.args(["--central-url", central_url, "--boot-listen", &boot]);
        command.args(["--tftp-listen", &tftp, "--token-file"]).arg(token_file);
        process::succeed(command).map(|_| ())
    }

    /// The second of the two commands.
    ///
    /// # Errors
    /// It does not come to listen.
    pub fn start(&mut self) -> Result<()> {
        let command = self.command(&["start"])?;
        self.listen(command)
    }

    /// As [`Agent::start`], on a host whose clocks show the time of `zone`, in the notation of POSIX's `TZ`.
    ///
    /// # Errors
    /// It does not come to listen.
    pub fn start_in_zone(&mut self, zone: &str) -> Result<()> {
        let mut command = self.command(&["start"])?;
        command.env("TZ", zone);
        self.listen(command)
    }

    fn listen(&mut self, command: Command) -> Result<()> {
        let program = Program::spawn("agent", command, &self.dir)?;
        let line = program.line("listening on tftp://", START_LIMIT)?;
        let not_told = || format!("expected two addresses, got: {line}");
        let (tftp, boot) = line.trim().split_once(" http://").with_context(not_told)?;
        self.tftp = tftp.parse().with_context(not_told)?;
        self.boot = boot.parse().with_context(not_told)?;
        self.program = Some(program);
        Ok(())
    }

    /// Kills it as a power cut would.
    pub fn stop(&mut self) {
        self.program = None;
    }

    /// Puts content into its cache.
    ///
    /// # Errors
    /// The program fails.
    pub fn cache_add(&self, name: &str, content: &[u8]) -> Result<()> {
        let file = self.dir.join(format!("content.{:08x}", crate::random() >> 32));
        fs::write(&file, content)?;
        let path = file.to_str().context("a path of ASCII")?;
        process::succeed(self.command(&["cache", "add", name, path])?)?;
        fs::remove_file(file)?;
        Ok(())
    }

    /// The script that a machine is given.
    ///
    /// # Errors
    /// The answer is not 200 with an iPXE script.
    pub fn script(&self, mac: &str) -> Result<String> {
        let script = http::get(&self.url(&format!("/boot/{mac}?arch=x86_64&platform=pcbios")))?;
        let script = script.expect(200)?.text();
        ensure!(script.starts_with("#!ipxe\n"), "not an iPXE script: {script}");
        Ok(script)
    }

    /// Reports an event as a machine does.
    ///
    /// # Errors
    /// The answer is not a success.
    pub fn report(&self, mac: &str, boot: &str, event: &str, progress: Option<u8>) -> Result<()> {
        let mut body = json!({ "mac_address": mac, "boot": boot, "event_type": event });
        if let (Some(progress), Some(fields)) = (progress, body.as_object_mut()) {
            fields.insert("progress".to_owned(), progress.into());
        }
        let answer = http::post(&self.url("/api/v1/report"), &body)?;
        ensure!(
            (200..300).contains(&answer.status),
            "the report of {event} was answered {}: {}",
            answer.status,
            answer.text()
        );
        Ok(())
    }
}

/// Where an agent is to listen; port 0 means any free one.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// The address of both listeners.
    pub address: Ipv4Addr,
    /// HTTP for machines.
    pub boot: u16,
    /// TFTP.
    pub tftp: u16,
}

impl Ports {
    /// Free ports on the loopback interface.
    pub const LOOPBACK: Self = Self { address: Ipv4Addr::LOCALHOST, boot: 0, tftp: 0 };
}

/// What a site may decide while its controller is away, as far as trials differ in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Autonomy {
    /// What a site has when nobody says otherwise: it takes up no machine alone.
    Default,
    /// It takes machines up alone.
    Limited,
}

/// A site that works: a controller, and an agent that has joined it.
#[derive(Debug)]
pub struct Site {
    /// The agent; declared first, so that it ends before its controller.
    pub agent: Agent,
    /// The controller.
    pub controller: Controller,
    /// The site's id.
    pub id: String,
    dir: TempDir,
}

impl Site {
    /// Starts both on loopback and waits until the agent has joined.
    ///
    /// # Errors
    /// One of the steps fails.
    pub fn start() -> Result<Self> {
        Self::start_at(Ports::LOOPBACK)
    }

    /// Starts both, the agent at `ports`, and waits until the agent has joined.
    ///
    /// # Errors
    /// One of the steps fails.
    pub fn start_at(ports: Ports) -> Result<Self> {
        Self::prepare("agent")?.join(ports)
    }

    /// Starts both on loopback, the site with `autonomy`, and waits until the agent has joined.
    ///
    /// # Errors
    /// One of the steps fails.
    pub fn start_with(autonomy: Autonomy) -> Result<Self> {
        Self::prepare_with("agent", autonomy)?.join(Ports::LOOPBACK)
    }

    /// Starts both on loopback, the agent by `words`, and waits until it has joined.
    ///
    /// # Errors
    /// One of the steps fails.
    pub fn start_by(words: Vec<PathBuf>) -> Result<Self> {
        let mut site = Self::prepare("agent")?;
        site.agent.words = words;
        site.join(Ports::LOOPBACK)
    }

    fn join(mut self, ports: Ports) -> Result<Self> {
        let token = self.make_token()?;
        self.agent.init(&self.id, &self.controller.url(), &token, ports)?;
        self.agent.start()?;
        self.wait_until_online()?;
        Ok(self)
    }

    /// Starts a controller with a site whose agent has not been given anything yet.
    ///
    /// # Errors
    /// One of the steps fails.
    pub fn prepare(agent_name: &str) -> Result<Self> {
        Self::prepare_with(agent_name, Autonomy::Limited)
    }

    /// As [`Site::prepare`], the site with `autonomy`.
    ///
    /// # Errors
    /// One of the steps fails.
    pub fn prepare_with(agent_name: &str, autonomy: Autonomy) -> Result<Self> {
        Self::prepare_on(None, agent_name, autonomy)
    }

    /// As [`Site::prepare_with`], with the controller's database at the URL `database`.
    ///
    /// # Errors
    /// One of the steps fails.
    pub fn prepare_on(
        database: Option<String>,
        agent_name: &str,
        autonomy: Autonomy,
    ) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("pureboot-").tempdir()?;
        let controller = Controller::start_on(dir.path(), database)?;
        let name = format!("site-{:08x}", crate::random() >> 32);
        let body = match autonomy {
            Autonomy::Default => json!({ "name": name }),
            Autonomy::Limited => json!({ "name": name, "autonomy_level": "limited" }),
        };
        let id = text(&controller.post("/sites", &body)?, "id")?;
        let interval = json!({ "heartbeat_interval": HEARTBEAT_INTERVAL_SECONDS });
        controller.patch(&format!("/sites/{id}"), &interval)?;
        Ok(Self { agent: Agent::new(dir.path(), agent_name), controller, id, dir })
    }

    /// The directory that holds everything and goes away with the site.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A new token for the site.
    ///
    /// # Errors
    /// The answer is no success.
    pub fn make_token(&self) -> Result<String> {
        let path = format!("/sites/{}/agent-token", self.id);
        text(&self.controller.post(&path, &json!({}))?, "token")
    }

    /// What the controller says of the agent.
    ///
    /// # Errors
    /// The answer is no success.
    pub fn agent_status(&self) -> Result<Value> {
        self.controller.get(&format!("/agents/{}/status", self.id))
    }

    /// Waits until the controller has had a heartbeat.
    ///
    /// # Errors
    /// None comes in time.
    pub fn wait_until_online(&self) -> Result<()> {
        wait::until("the agent is online", ARRIVAL_LIMIT, || {
            let status = self.agent_status()?;
            let has_beaten = status.get("heartbeat").is_some_and(|heartbeat| !heartbeat.is_null());
            Ok(has_beaten.then_some(()))
        })
    }

    /// Waits until the agent itself counts its controller, which is stopped, as away.
    ///
    /// # Errors
    /// It still does not after many heartbeats.
    pub fn wait_until_offline(&self) -> Result<()> {
        wait::until("the agent is offline", OFFLINE_LIMIT, || {
            let (_, status) = self.agent.status()?;
            Ok((status.pointer("/line/state") == Some(&json!("offline"))).then_some(()))
        })
    }

    /// Lets a machine boot for the first time and orders its installation with a workflow of its own; returns the node's id.
    ///
    /// # Errors
    /// One of the steps fails.
    pub fn discover_and_order(&self, mac: &str, workflow: &str) -> Result<String> {
        self.agent.script(mac)?;
        let node = self.controller.wait_for_state(mac, "discovered")?;
        let workflow_id = self.controller.make_workflow(workflow, &format!("nonce={workflow}"))?;
        let node_id = text(&node, "id")?;
        self.controller.order_install(&node_id, &workflow_id)?;
        Ok(node_id)
    }

    /// The script of a machine once it says `wanted`: the agent may answer from what it knew until it has asked again.
    ///
    /// # Errors
    /// It does not say so in time.
    pub fn script_with(&self, mac: &str, wanted: &str) -> Result<String> {
        wait::until(&format!("the script of {mac} says '{wanted}'"), ARRIVAL_LIMIT, || {
            let script = self.agent.script(mac)?;
            ensure!(script.contains(wanted), "it says:\n{script}");
            Ok(Some(script))
        })
    }
}

/// The boot session that a script tells people of, or that a command line names.
///
/// # Errors
/// The script names none.
pub fn boot_of(script: &str) -> Result<String> {
    const UUID_LEN: usize = 36;
    let found = ["Boot session ", "boot="].into_iter().find_map(|mark| {
        let at = script.find(mark)? + mark.len();
        let id = script.get(at..at + UUID_LEN)?;
        id.chars().all(|c| c.is_ascii_hexdigit() || c == '-').then(|| id.to_owned())
    });
    found.with_context(|| format!("no boot session in the script:\n{script}"))
}
