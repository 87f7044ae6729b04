//! The real controller in this process: its router, its store, its SQLite file. Every call is awaited to its end before the next
//! one begins, so that the machine's pace cannot leak into a run.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use hyper::body::Bytes;
use hyper::{Request, Response};
use pureboot_controller::inside::{self, Controller};
use pureboot_protocol::{NodeId, Secret, Timestamp};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::dice::Dice;
use crate::files;

/// The files of the database, without what SQLite makes anew.
const DATABASE: [&str; 2] = ["controller.db", "controller.db-wal"];

/// A controller that can be stopped, started and brought back from a backup.
pub struct Centre {
    runtime: Runtime,
    dir: PathBuf,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    running: Option<Controller>,
    operator: Secret,
}

impl Centre {
    /// Starts a controller in `dir` for the first time.
    pub fn start(
        dir: &Path,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
        seed: u64,
    ) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let mut dice = Dice::new(seed, "controller");
        inside::draw_from(move |bytes| dice.fill(bytes));
        let dir = dir.join("controller");
        let mut running = runtime.block_on(Controller::open(&dir, Arc::clone(&clock)))?;
        let operator = running.operator.take().context("a first start makes a token")?;
        Ok(Self { runtime, dir, clock, running: Some(running), operator })
    }

    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// The answer to `request`; none while it does not run.
    pub fn answer(&self, request: Request<Bytes>) -> Result<Option<Response<Bytes>>> {
        let Some(running) = &self.running else { return Ok(None) };
        self.runtime.block_on(running.answer(request)).map(Some)
    }

    /// What the operator is answered: status and body.
    pub fn call(&self, method: &str, path: &str, body: Option<Value>) -> Result<(u16, Value)> {
        let bearer = format!("Bearer {}", self.operator.reveal());
        let request = Request::builder().method(method).uri(path).header("authorization", bearer);
        let request = match body {
            Some(body) => request
                .header("content-type", "application/json")
                .body(Bytes::from(body.to_string())),
            None => request.body(Bytes::new()),
        };
        let answer = self.answer(request?)?.context("the operator waits until it runs")?;
        let body = serde_json::from_slice(answer.body()).unwrap_or(Value::Null);
        Ok((answer.status().as_u16(), body))
    }

    /// The `data` of an answer that has to be a success.
    pub fn data(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
        let (status, mut answer) = self.call(method, path, body)?;
        if !(200..300).contains(&status) {
            bail!("{method} {path} is answered {status}: {answer}");
        }
        Ok(answer["data"].take())
    }

    /// All of a list, whatever the pages.
    pub fn list(&self, path: &str) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let joint = if path.contains('?') { '&' } else { '?' };
            let page = format!("{path}{joint}limit=500{cursor}");
            let (status, mut answer) = self.call("GET", &page, None)?;
            let Value::Array(part) = answer["data"].take() else {
                bail!("GET {page} is answered {status}: {answer}");
            };
            items.extend(part);
            match answer["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(items),
            }
        }
    }

    /// Does what a controller does without being asked.
    pub fn work(&self) -> Result<()> {
        match &self.running {
            Some(running) => self.runtime.block_on(running.work()),
            None => Ok(()),
        }
    }

    /// Ends it as kill -9 would: what it leaves behind is what was on its disk at this moment.
    pub fn kill(&mut self) -> Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let image = files::read(&self.dir, &DATABASE)?;
        self.runtime.block_on(running.close());
        files::write(&self.dir, &DATABASE, &image)
    }

    /// Starts it again.
    pub fn restart(&mut self) -> Result<()> {
        if self.running.is_none() {
            let open = Controller::open(&self.dir, Arc::clone(&self.clock));
            self.running = Some(self.runtime.block_on(open)?);
        }
        Ok(())
    }

    /// What a backup of this moment has of the database.
    pub fn back_up(&self) -> Result<files::Image> {
        files::read(&self.dir, &DATABASE)
    }

    /// Puts a backup in the place of the database, and starts from there.
    pub fn bring_back(&mut self, backup: &files::Image) -> Result<()> {
        self.kill()?;
        files::write(&self.dir, &DATABASE, backup)?;
        self.restart()?;
        match &self.running {
            Some(running) => self.runtime.block_on(running.bring_back()),
            None => Ok(()),
        }
    }

    /// Puts the last two events of `node` in each other's place: a bug on purpose.
    pub fn swap_last_events(&self, node: NodeId) -> Result<()> {
        let db = self.database()?;
        let mut last = db.prepare(
            "SELECT id, event FROM node_events WHERE node_id = $1 ORDER BY id DESC LIMIT 2",
        )?;
        let rows = last.query_map([node.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let rows = rows.collect::<rusqlite::Result<Vec<(i64, String)>>>()?;
        if let [(late, last), (early, first)] = &rows[..] {
            for (id, event) in [(late, first), (early, last)] {
                let put = "UPDATE node_events SET event = $1 WHERE id = $2";
                db.execute(put, rusqlite::params![event, id])?;
            }
        }
        Ok(())
    }

    /// When the centre has made each of these nodes pending last, in milliseconds: a wish is known by its time, because after a backup
    /// another one has the same place in the history. It is asked for with every record that goes to a site, and so read from where
    /// the history is read from.
    pub fn wishes(&self, nodes: impl Iterator<Item = NodeId>) -> Result<HashMap<NodeId, u64>> {
        let mut nodes = nodes.peekable();
        if nodes.peek().is_none() {
            return Ok(HashMap::new());
        }
        let db = self.database()?;
        let mut last = db.prepare(
            "SELECT coalesce(max(created_at), 0) FROM state_log WHERE node_id = $1 AND to_state = 'pending' AND triggered_by <> 'site'",
        )?;
        nodes
            .map(|node| Ok((node, last.query_row([node.to_string()], |row| row.get(0))?)))
            .collect()
    }

    /// The database, for who breaks something on purpose or reads much.
    pub fn database(&self) -> Result<rusqlite::Connection> {
        Ok(rusqlite::Connection::open(self.dir.join("controller.db"))?)
    }
}

impl Drop for Centre {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.runtime.block_on(running.close());
        }
        _ = fs::remove_dir_all(&self.dir);
    }
}
