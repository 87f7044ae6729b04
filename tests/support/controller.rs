//! The program in the middle, as an operator starts and asks it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::http::{self, Answer};
use crate::process::{self, Program};
use crate::site::{ARRIVAL_LIMIT, START_LIMIT, text};
use crate::wait;

/// A controller with a data directory; it may be stopped and started again at the same address.
#[derive(Debug)]
pub struct Controller {
    dir: PathBuf,
    address: SocketAddr,
    token: String,
    program: Option<Program>,
    options: Options,
}

/// What a controller is started with beside its address and its data directory.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Arguments.
    pub arguments: Vec<String>,
    /// The environment.
    pub environment: Vec<(&'static str, String)>,
}

impl Controller {
    /// Starts one on a free port of the loopback interface, with its data under `dir`.
    ///
    /// # Errors
    /// It does not come to listen.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_with(dir, Options::default())
    }

    /// Starts one as [`Controller::start`] does, with its database at the URL `database`.
    ///
    /// # Errors
    /// It does not come to listen.
    pub fn start_on(dir: &Path, database: Option<String>) -> Result<Self> {
        let environment = database.map(|url| ("PUREBOOT_DATABASE", url)).into_iter().collect();
        Self::start_with(dir, Options { environment, ..Options::default() })
    }

    /// As [`Controller::start`], with `options`.
    ///
    /// # Errors
    /// It does not come to listen.
    pub fn start_with(dir: &Path, options: Options) -> Result<Self> {
        let mut controller = Self::new(dir, options);
        controller.resume()?;
        let file = controller.data_dir().join("operator-token");
        let token = fs::read_to_string(&file);
        token
            .with_context(|| format!("cannot read {}", file.display()))?
            .trim()
            .clone_into(&mut controller.token);
        Ok(controller)
    }

    /// Starts another one on the same database and content, with the same keys and its own data under `dir`.
    ///
    /// # Errors
    /// It does not come to listen.
    pub fn start_beside(&self, dir: &Path) -> Result<Self> {
        let mut options = self.options.clone();
        for (option, name) in [
            ("--content", "content"),
            ("--signing-key-file", "signing-key"),
            ("--secrets-key-file", "secrets.key"),
        ] {
            let place = self.data_dir().join(name).display().to_string();
            options.arguments.extend([option.to_owned(), place]);
        }
        let mut controller = Self::new(dir, options);
        controller.token.clone_from(&self.token);
        controller.resume()?;
        Ok(controller)
    }

    fn new(dir: &Path, options: Options) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self { dir: dir.to_owned(), address, token: String::new(), program: None, options }
    }

    /// Where it keeps its data.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("controller")
    }

    /// Changes its database behind its back, for what no request can bring about; with the program `sqlite3`.
    ///
    /// # Errors
    /// The program is not installed or refuses the statement.
    pub fn tamper(&self, statement: &str) -> Result<()> {
        let mut command = process::system("sqlite3")?;
        command.args(["-bail", "-cmd", ".timeout 5000"]);
        command.arg(self.data_dir().join("controller.db")).arg(statement);
        process::succeed(command).map(|_| ())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as `--central-url` takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The operator's token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The process.
    ///
    /// # Errors
    /// It is stopped.
    pub fn program(&mut self) -> Result<&mut Program> {
        self.program.as_mut().context("the controller is stopped")
    }

    /// Kills it; [`Controller::resume`] brings it back.
    pub fn stop(&mut self) {
        self.program = None;
    }

    /// Starts it where it was.
    ///
    /// # Errors
    /// It does not come to listen.
    pub fn resume(&mut self) -> Result<()> {
        let mut command = Command::new(process::own("pureboot-controller")?);
        command.args(["serve", "--listen", &self.address.to_string(), "--data-dir"]);
        command.arg(self.data_dir()).args(&self.options.arguments);
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        let program = Program::spawn("controller", command, &self.dir)?;
        let url = program.line("listening on http://", START_LIMIT)?;
        self.address = url.trim().parse().with_context(|| format!("not an address: {url}"))?;
        self.program = Some(program);
        Ok(())
    }

    /// Sends a request as the operator to a path below `/api/v1`.
    ///
    /// # Errors
    /// No complete answer came.
    pub fn call(&self, method: minreq::Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let url = format!("{}/api/v1{path}", self.url());
        let what = format!("{method:?} {url}");
        let mut request = minreq::Request::new(method, url)
            .with_header("authorization", format!("Bearer {}", self.token));
        if let Some(body) = body {
            request =
                request.with_header("content-type", "application/json").with_body(body.to_string());
        }
        http::send(request).context(what)
    }

    fn data(&self, method: minreq::Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer = self.call(method, path, body)?;
        ensure!(
            matches!(answer.status, 200 | 201),
            "{path} answered {}: {}",
            answer.status,
            answer.text()
        );
        let mut frame = answer.json()?;
        let data = frame.get_mut("data").map(Value::take);
        data.with_context(|| format!("{path} answered without data: {frame}"))
    }

    /// Reads; returns the `data` of the answer.
    ///
    /// # Errors
    /// The answer is no success.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.data(minreq::Method::Get, path, None)
    }

    /// Makes something; returns the `data` of the answer.
    ///
    /// # Errors
    /// The answer is no success.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.data(minreq::Method::Post, path, Some(body))
    }

    /// Puts something in the place of what was there; returns the `data` of the answer.
    ///
    /// # Errors
    /// The answer is no success.
    pub fn put(&self, path: &str, body: &Value) -> Result<Value> {
        self.data(minreq::Method::Put, path, Some(body))
    }

    /// Changes something; returns the `data` of the answer.
    ///
    /// # Errors
    /// The answer is no success.
    pub fn patch(&self, path: &str, body: &Value) -> Result<Value> {
        self.data(minreq::Method::Patch, path, Some(body))
    }

    /// Uploads content; returns the `data` of the answer.
    ///
    /// # Errors
    /// The answer is no success.
    pub fn upload(&self, name: &str, bytes: &[u8]) -> Result<Value> {
        let url = format!("{}/api/v1/content/{name}", self.url());
        let request = minreq::put(url)
            .with_header("authorization", format!("Bearer {}", self.token))
            .with_body(bytes);
        let answer = http::send_long(request, bytes.len());
        let answer = answer.with_context(|| format!("upload of {name}"))?;
        ensure!(matches!(answer.status, 200 | 201), "{name}: {}", answer.text());
        answer.json()?.get_mut("data").map(Value::take).context("an answer without data")
    }

    /// The node with this address, if the controller knows it.
    ///
    /// # Errors
    /// The answer is no success.
    pub fn node(&self, mac: &str) -> Result<Option<Value>> {
        let nodes = self.get(&format!("/nodes?mac={mac}"))?;
        Ok(nodes.get(0).cloned())
    }

    /// Waits until the node is in `state`.
    ///
    /// # Errors
    /// It does not get there in time.
    pub fn wait_for_state(&self, mac: &str, state: &str) -> Result<Value> {
        wait::until(&format!("{mac} is {state}"), ARRIVAL_LIMIT, || {
            let node = self.node(mac)?.context("the controller does not know it")?;
            ensure!(text(&node, "state")? == state, "it is {}", text(&node, "state")?);
            Ok(Some(node))
        })
    }

    /// Makes a workflow whose kernel and initial RAM disk are `images/<name>/kernel` and `images/<name>/initrd`. The controller
    /// need not have them: in most tests they are at the site only.
    ///
    /// # Errors
    /// The answer is no success.
    pub fn make_workflow(&self, name: &str, command_line: &str) -> Result<String> {
        let body = json!({
            "name": name,
            "description": "made by a test",
            "method": "kernel",
            "kernel": format!("images/{name}/kernel"),
            "initrd": [format!("images/{name}/initrd")],
            "command_line": command_line,
        });
        text(&self.post("/workflows?allow_missing=true", &body)?, "id")
    }

    /// Assigns a workflow and orders the installation, as an operator does.
    ///
    /// # Errors
    /// The answer is no success.
    pub fn order_install(&self, node_id: &str, workflow_id: &str) -> Result<()> {
        self.patch(&format!("/nodes/{node_id}"), &json!({ "workflow_id": workflow_id }))?;
        self.patch(&format!("/nodes/{node_id}/state"), &json!({ "state": "pending" }))?;
        Ok(())
    }
}
