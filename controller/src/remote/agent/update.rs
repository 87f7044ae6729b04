//! `agent update` and the versions that sites can be given.

use std::path::PathBuf;

use anyhow::{Context, bail};
use pureboot_protocol::{PROGRAM_LEN_MAX, ProgramVersion, Target};
use reqwest::Method;
use reqwest::header::CONTENT_LENGTH;
use serde_json::{Value, json};

use crate::config::UsageError;
use crate::print_note;
use crate::remote::arguments::asks;
use crate::remote::client::Query;
use crate::remote::resolve::{SITE, label, text};
use crate::remote::screen::Column;
use crate::remote::session::Session;
use crate::remote::site::orders::{follow, progress};

asks! {
    /// Have the agents of sites run another version.
    #[argh(
        subcommand,
        name = "update",
        example = "{command_name} berlin --wait",
        example = "{command_name} berlin munich --version 1.4.0 --wait",
        example = "{command_name} --all --wait",
        note = "An agent fetches the program, tests it, and is started again with it when no machine is being served; it goes back by \
                itself if the program does not prove itself. With --wait the sites come one after another, in the order given, and \
                the first whose update fails is the last that is ordered."
    )]
    struct Update {
        /// the sites' paths, names or ids
        #[argh(positional)]
        sites: Vec<String>,

        /// every site that has an agent, by their paths
        #[argh(switch)]
        all: bool,

        /// the version (default: the newest that is here for each agent's processor)
        #[argh(option)]
        version: Option<ProgramVersion>,

        /// order it also where it is older than what runs
        #[argh(switch)]
        allow_downgrade: bool,

        /// wait for each until it has ended, for an hour at most; exit with 1 if one fails
        #[argh(switch)]
        wait: bool,
    }
}

impl Update {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        if self.all != self.sites.is_empty() {
            return Err(UsageError::new("say which: either the names of sites, or --all").into());
        }
        let session = self.session()?;
        let sites = match self.all {
            true => with_agents(&session).await?,
            false => {
                let mut sites = Vec::new();
                for name in &self.sites {
                    sites.push(session.find(&SITE, name).await?);
                }
                sites
            }
        };
        let mut commands = Vec::new();
        for site in &sites {
            let name = label(&SITE, site);
            let command = self.order(&session, text(site, "id")).await;
            let command = command.with_context(|| format!("site {name}"))?;
            if !session.screen.is_json {
                print_note(&format!("{name}: {}", progress(&command)));
            }
            let ended = text(&command, "status") == "completed";
            let is_failed = self.wait && !ended;
            let id = text(&command, "id").to_owned();
            let sentence = format!("{name}: {}", progress(&command));
            commands.push(command);
            if is_failed {
                if session.screen.is_json {
                    session.screen.json(&Value::from(commands))?;
                }
                bail!("{sentence}; no further site was ordered to run it (command {id})");
            }
        }
        let word = if self.wait { "have run" } else { "are ordered to run" };
        let sentence = format!("{} agents {word} their update", commands.len());
        session.screen.done(&Value::from(commands), &sentence)
    }

    /// The command for one site: as it was given, or as it has ended.
    async fn order(&self, session: &Session, site_id: &str) -> anyhow::Result<Value> {
        let path = [SITE.path, site_id, "agent-update"];
        let mut body = json!({ "allow_downgrade": self.allow_downgrade });
        if let (Some(version), Some(fields)) = (self.version, body.as_object_mut()) {
            fields.insert("version".to_owned(), version.to_string().into());
        }
        let command = session.client.send(Method::POST, &path, Query::new(), Some(&body)).await?;
        match self.wait {
            true => follow(session, site_id, command).await,
            false => Ok(command),
        }
    }
}

/// The sites that have an agent, by their paths.
async fn with_agents(session: &Session) -> anyhow::Result<Vec<Value>> {
    let agents = session.client.list(&["agents"], Query::new(), None).await?;
    let has_agent =
        |site: &Value| agents.iter().any(|agent| text(agent, "site_id") == text(site, "id"));
    let mut sites = session.client.list(&[SITE.path], Query::new(), None).await?;
    sites.retain(has_agent);
    sites.sort_by_key(|site| label(&SITE, site));
    Ok(sites)
}

const RELEASES: &[Column] = &[
    Column::plain("VERSION", "version"),
    Column::plain("FOR", "target"),
    Column::bytes("SIZE", "size_bytes"),
    Column::plain("UPLOADED", "uploaded_at"),
    Column::plain("SHA-256", "sha256"),
];

asks! {
    /// List the versions of the agent that sites can be given, the newest first.
    #[argh(subcommand, name = "releases", example = "{command_name}")]
    struct Releases {}
}

impl Releases {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let releases = session.client.get(&["agents", "releases"], Query::new()).await?;
        session.screen.rows(releases.as_array().map_or(&[], Vec::as_slice), RELEASES)
    }
}

asks! {
    /// Upload a version of the agent, such as target/dist/pureboot-agent-x86_64. Only an admin may: sites run what lies here.
    #[argh(subcommand, name = "upload", example = "{command_name} target/dist/pureboot-agent-x86_64")]
    struct Upload {
        /// the program, which says itself which version it is, and for which processor
        #[argh(positional)]
        file: PathBuf,
    }
}

impl Upload {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let what = || format!("cannot read {}", self.file.display());
        let len = std::fs::metadata(&self.file).with_context(what)?.len();
        if len > PROGRAM_LEN_MAX {
            bail!(
                "{} has {len} bytes, and no agent has more than {PROGRAM_LEN_MAX}: strip it",
                self.file.display()
            );
        }
        let bytes = std::fs::read(&self.file).with_context(what)?;
        let client = &session.client;
        let request = client.request(Method::POST, &["agents", "releases"], &Query::new());
        let request = request.header(CONTENT_LENGTH, bytes.len()).body(bytes).send();
        let response = request.await.map_err(|error| client.unreachable(&error))?;
        let mut answer = client.answer(response).await?;
        let release = answer.get_mut("data").map(Value::take).unwrap_or_default();
        let (version, target) = (text(&release, "version"), text(&release, "target"));
        session
            .screen
            .done(&release, &format!("version {version} of the agent for {target} is here"))
    }
}

asks! {
    /// Delete a version of the agent; sites that run it run on.
    #[argh(subcommand, name = "forget", example = "{command_name} 1.3.0 x86_64 --yes")]
    struct Forget {
        /// the version
        #[argh(positional)]
        version: ProgramVersion,

        /// the processor that it is for
        #[argh(positional)]
        target: Target,

        /// do not ask
        #[argh(switch)]
        yes: bool,
    }
}

impl Forget {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let what = format!("version {} of the agent for {}", self.version, self.target);
        session.confirm(self.yes, &format!("Delete {what}?"))?;
        let (version, target) = (self.version.to_string(), self.target.to_string());
        let path = ["agents", "releases", &version, &target];
        let gone = session.client.send(Method::DELETE, &path, Query::new(), None).await?;
        session.screen.done(&gone, &format!("{what} is deleted"))
    }
}
