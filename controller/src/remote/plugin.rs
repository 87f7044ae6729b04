//! `plugin …`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use pureboot_protocol::PluginId;
use reqwest::Method;
use reqwest::header::CONTENT_LENGTH;
use serde_json::{Map, Value, json};

use crate::config::UsageError;
use crate::print_note;
use crate::remote::arguments::{asks, noun};
use crate::remote::client::Query;
use crate::remote::resolve::{SITE, text};
use crate::remote::screen::Column;
use crate::remote::session::Session;

/// The largest file that is read; larger than any controller takes, which says so.
const FILE_LEN_MAX: u64 = 64 << 20;

/// The place of an assignment that is for every site.
const EVERYWHERE: &str = "everywhere";

noun! {
    /// Look after plugins: what sites let decide what machines boot, change its scripts, and judge what is kept.
    #[argh(subcommand, name = "plugin", example = "{command_name} add rack-window-1.0.0.tar")]
    PluginArguments, PluginCommand {
        Add(Add),
        Ls(Ls),
        Show(Show),
        Versions(Versions),
        Assign(Assign),
        Unassign(Unassign),
        Mode(Mode),
        Sites(Sites),
        Rollback(Rollback),
        Rm(Rm),
    }
}

/// The place that a command names: a site, or every site.
async fn place(
    session: &Session,
    site: Option<&str>,
    is_everywhere: bool,
) -> anyhow::Result<String> {
    match (site, is_everywhere) {
        (Some(site), false) => session.id(&SITE, site).await,
        (None, true) => Ok(EVERYWHERE.to_owned()),
        _ => Err(UsageError::new(
            "say where: either --site SITE, for it and the sites below, or --everywhere",
        )
        .into()),
    }
}

fn shown_place(site: Option<&str>) -> &str {
    site.unwrap_or(EVERYWHERE)
}

/// A name that can stand in a path of the API.
fn checked(name: &str) -> anyhow::Result<&str> {
    let parsed: Result<PluginId, _> = name.parse();
    parsed.map_err(UsageError::new)?;
    Ok(name)
}

asks! {
    /// Upload a plugin: what `pureboot-agent plugin pack` made, or WebAssembly alone. The controller compiles it and asks its fixtures.
    #[argh(subcommand, name = "add", example = "{command_name} rack-window-1.0.0.tar", example = "{command_name} policy.wasm --name rack-window --version 1.0.0 --keep")]
    struct Add {
        /// the file
        #[argh(positional)]
        file: PathBuf,

        /// the name of WebAssembly alone
        #[argh(option)]
        name: Option<String>,

        /// the version of WebAssembly alone, such as 1.0.0
        #[argh(option)]
        version: Option<String>,

        /// keep it and give it to no site yet; `plugin rollback --to` does that later
        #[argh(switch)]
        keep: bool,
    }
}

impl Add {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let what = || format!("cannot read {}", self.file.display());
        let len = std::fs::metadata(&self.file).with_context(what)?.len();
        if len > FILE_LEN_MAX {
            bail!(
                "{} has {len} bytes, and no controller takes more than {FILE_LEN_MAX}",
                self.file.display()
            );
        }
        let bytes = std::fs::read(&self.file).with_context(what)?;
        let mut query: Query<'_> = Query::new();
        query.extend(self.name.clone().map(|name| ("name", name)));
        query.extend(self.version.clone().map(|version| ("version", version)));
        if self.keep {
            query.push(("activate", "false".to_owned()));
        }
        let client = &session.client;
        let request = client.request(Method::POST, &["plugins"], &query);
        let request = request.header(CONTENT_LENGTH, bytes.len()).body(bytes).send();
        let response = request.await.map_err(|error| client.unreachable(&error))?;
        let mut answer = client.answer(response).await?;
        let kept = answer.get_mut("data").map(Value::take).unwrap_or_default();
        let engines = kept.get("engines").and_then(Value::as_array).map_or(0, Vec::len);
        if engines == 0 {
            print_note("no agent has said yet which engine it runs; it is compiled when one does");
        }
        let fixtures = kept.get("fixtures").and_then(Value::as_array).map_or(0, Vec::len);
        let sentence = format!(
            "plugin {} {} is here; {fixtures} fixtures answered as they should",
            text(&kept, "plugin"),
            text(&kept, "version")
        );
        session.screen.done(&kept, &sentence)
    }
}

asks! {
    /// List the plugins.
    #[argh(subcommand, name = "ls", example = "{command_name}")]
    struct Ls {}
}

impl Ls {
    async fn run(self) -> anyhow::Result<()> {
        const COLUMNS: &[Column] = &[
            Column::plain("NAME", "name"),
            Column::plain("VERSION", "current_version"),
            Column::plain("BEFORE", "previous_version"),
            Column::plain("HOOKS", "current.hooks"),
            Column::plain("PLACES", "assignments"),
            Column::plain("DESCRIPTION", "current.description"),
        ];
        self.session()?.show_list(&["plugins"], Query::new(), None, COLUMNS).await
    }
}

asks! {
    /// Show a plugin, or one of its versions.
    #[argh(subcommand, name = "show", example = "{command_name} rack-window", example = "{command_name} rack-window --version 1.0.0 --field settings")]
    struct Show {
        /// its name
        #[argh(positional)]
        name: String,

        /// this version in place of the current one
        #[argh(option)]
        version: Option<String>,

        /// only this field
        #[argh(option)]
        field: Option<String>,
    }
}

impl Show {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let name = checked(&self.name)?;
        let path = match &self.version {
            Some(version) => vec!["plugins", name, "versions", version.as_str()],
            None => vec!["plugins", name],
        };
        let found = session.client.get(&path, Query::new()).await?;
        session.screen.thing(&found, &["name", "plugin", "version"], self.field.as_deref())
    }
}

asks! {
    /// List the versions of a plugin, the latest upload first.
    #[argh(subcommand, name = "versions", example = "{command_name} rack-window")]
    struct Versions {
        /// its name
        #[argh(positional)]
        name: String,
    }
}

impl Versions {
    async fn run(self) -> anyhow::Result<()> {
        const COLUMNS: &[Column] = &[
            Column::plain("VERSION", "version"),
            Column::plain("UPLOADED", "uploaded_at"),
            Column::bytes("SIZE", "wasm_bytes"),
            Column::plain("ENGINES", "engines"),
            Column::plain("SHA-256", "wasm"),
        ];
        let path = ["plugins", checked(&self.name)?, "versions"];
        self.session()?.show_list(&path, Query::new(), None, COLUMNS).await
    }
}

asks! {
    /// Use a plugin at a site and those below, or everywhere; where it is used already, change how. A new one is watched first: --mode on lets it count.
    #[argh(subcommand, name = "assign", example = "{command_name} rack-window --site berlin --set from=01:00", example = "{command_name} rack-window --everywhere --mode on --position 10 --on-failure hold")]
    struct Assign {
        /// its name
        #[argh(positional)]
        name: String,

        /// the site, for it and those below
        #[argh(option)]
        site: Option<String>,

        /// every site
        #[argh(switch)]
        everywhere: bool,

        /// off, shadow (asked and noted, and nothing is changed) or on
        #[argh(option)]
        mode: Option<String>,

        /// what a machine gets if it fails: builtin, hold or refuse
        #[argh(option)]
        on_failure: Option<String>,

        /// its place among others, lower ones are asked first (default: 100)
        #[argh(option)]
        position: Option<u32>,

        /// hold the place to this version; "current" to let it follow again
        #[argh(option)]
        version: Option<String>,

        /// NAME=VALUE of one of its settings; may be given several times, what is not named has its default
        #[argh(option)]
        set: Vec<String>,

        /// let it use this: nodes; may be given several times
        #[argh(option)]
        grant: Vec<String>,
    }
}

impl Assign {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let place = place(&session, self.site.as_deref(), self.everywhere).await?;
        let mut body = Map::new();
        let mut add = |field: &str, value: Option<Value>| {
            body.extend(value.map(|value| (field.to_owned(), value)));
        };
        add("mode", self.mode.clone().map(Value::from));
        add("on_failure", self.on_failure.clone().map(Value::from));
        add("position", self.position.map(Value::from));
        add(
            "version",
            self.version.clone().map(|version| match version.as_str() {
                "current" => Value::Null,
                version => version.into(),
            }),
        );
        add("settings", settings(&self.set)?);
        add("grants", (!self.grant.is_empty()).then(|| json!(self.grant)));
        let path = ["plugins", checked(&self.name)?, "assignments", place.as_str()];
        let body = Value::Object(body);
        let done = session.client.send(Method::PUT, &path, Query::new(), Some(&body)).await?;
        let sentence = format!(
            "plugin {} is {} at {}",
            self.name,
            text(&done, "mode"),
            shown_place(self.site.as_deref())
        );
        session.screen.done(&done, &sentence)
    }
}

/// The settings that `assignments` make; none where there are none.
fn settings(assignments: &[String]) -> Result<Option<Value>, UsageError> {
    let mut settings = Map::new();
    for assignment in assignments {
        let (name, value) = assignment
            .split_once('=')
            .ok_or_else(|| UsageError::new(format!("--set {assignment}: expected NAME=VALUE")))?;
        settings.insert(name.to_owned(), value.into());
    }
    Ok((!settings.is_empty()).then_some(Value::Object(settings)))
}

asks! {
    /// Use a plugin at a place no more.
    #[argh(subcommand, name = "unassign", example = "{command_name} rack-window --site berlin")]
    struct Unassign {
        /// its name
        #[argh(positional)]
        name: String,

        /// the site that it was assigned to
        #[argh(option)]
        site: Option<String>,

        /// what is for every site
        #[argh(switch)]
        everywhere: bool,
    }
}

impl Unassign {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let place = place(&session, self.site.as_deref(), self.everywhere).await?;
        let path = ["plugins", checked(&self.name)?, "assignments", place.as_str()];
        let gone = session.client.send(Method::DELETE, &path, Query::new(), None).await?;
        let place = shown_place(self.site.as_deref());
        session.screen.done(&gone, &format!("plugin {} is assigned no more at {place}", self.name))
    }
}

asks! {
    /// Turn a plugin off, let it be watched, or let it count, where it is assigned.
    #[argh(subcommand, name = "mode", example = "{command_name} rack-window on --site berlin")]
    struct Mode {
        /// its name
        #[argh(positional)]
        name: String,

        /// off, shadow or on
        #[argh(positional)]
        mode: String,

        /// the site that it is assigned to
        #[argh(option)]
        site: Option<String>,

        /// what is for every site
        #[argh(switch)]
        everywhere: bool,
    }
}

impl Mode {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let place = place(&session, self.site.as_deref(), self.everywhere).await?;
        let name = checked(&self.name)?;
        // Nothing is assigned that was not.
        let all =
            session.client.list(&["plugins", name, "assignments"], Query::new(), None).await?;
        let key = |row: &Value| match text(row, "site_id") {
            "" => EVERYWHERE.to_owned(),
            id => id.to_owned(),
        };
        let shown = shown_place(self.site.as_deref());
        if !all.iter().any(|row| key(row) == place) {
            bail!(
                "plugin {name} is not assigned to {shown} itself; `plugin assign` does that, `plugin show {name}` tells more"
            );
        }
        let path = ["plugins", name, "assignments", place.as_str()];
        let body = json!({"mode": self.mode});
        let done = session.client.send(Method::PUT, &path, Query::new(), Some(&body)).await?;
        session.screen.done(&done, &format!("plugin {name} is {} at {shown}", text(&done, "mode")))
    }
}

asks! {
    /// Show how a plugin fares at its sites, or how the plugins of one site fare.
    #[argh(subcommand, name = "sites", example = "{command_name} rack-window", example = "{command_name} --site berlin")]
    struct Sites {
        /// its name
        #[argh(positional)]
        name: Option<String>,

        /// all plugins of this site, in the order in which they are asked
        #[argh(option)]
        site: Option<String>,

        /// where it is assigned, in place of how it fares
        #[argh(switch)]
        assigned: bool,
    }
}

impl Sites {
    async fn run(self) -> anyhow::Result<()> {
        const STATES: &[Column] = &[
            Column::plain("SITE", "site_path"),
            Column::plain("PLUGIN", "assignment.plugin"),
            Column::plain("ASSIGNED", "assignment.version"),
            Column::plain("RUNNING", "report.running"),
            Column::plain("MODE", "assignment.mode"),
            Column::plain("STATE", "report.state"),
            Column::plain("ANSWERS", "report.answers"),
            Column::plain("FAILURES", "report.failures"),
            Column::plain("FUEL P99", "report.fuel_p99"),
            Column::plain("REPORTED", "reported_at"),
        ];
        const PLACES: &[Column] = &[
            Column::plain("PLACE", "place"),
            Column::plain("POSITION", "position"),
            Column::plain("VERSION", "version"),
            Column::plain("MODE", "mode"),
            Column::plain("ON FAILURE", "on_failure"),
            Column::plain("SETTINGS", "settings"),
        ];
        let session = self.session()?;
        match (&self.name, &self.site) {
            (Some(name), None) if self.assigned => {
                let path = ["plugins", checked(name)?, "assignments"];
                let mut rows = session.client.list(&path, Query::new(), None).await?;
                session.name(&mut rows, &SITE, &[("site_id", "place")]).await?;
                session.screen.rows(&rows, PLACES)
            }
            (Some(name), None) => {
                let path = ["plugins", checked(name)?, "sites"];
                session.show_list(&path, Query::new(), None, STATES).await
            }
            (None, Some(site)) => {
                let id = session.id(&SITE, site).await?;
                let rows = session.client.get(&["sites", &id, "plugins"], Query::new()).await?;
                session.screen.rows(rows.as_array().map_or(&[], Vec::as_slice), STATES)
            }
            _ => Err(UsageError::new("say either a plugin's name or --site SITE").into()),
        }
    }
}

asks! {
    /// Give sites the version before, or another one that is here.
    #[argh(subcommand, name = "rollback", example = "{command_name} rack-window", example = "{command_name} rack-window --to 1.0.0")]
    struct Rollback {
        /// its name
        #[argh(positional)]
        name: String,

        /// this version, older or newer (default: the one before)
        #[argh(option)]
        to: Option<String>,
    }
}

impl Rollback {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let path = ["plugins", checked(&self.name)?, "rollback"];
        let body = json!({"version": self.to});
        let done = session.client.send(Method::POST, &path, Query::new(), Some(&body)).await?;
        let version = text(&done, "current_version");
        session
            .screen
            .done(&done, &format!("sites are given version {version} of plugin {}", self.name))
    }
}

asks! {
    /// Delete a plugin that is assigned nowhere, or a version that no site is given.
    #[argh(subcommand, name = "rm", example = "{command_name} rack-window --version 1.0.0 --yes")]
    struct Rm {
        /// its name
        #[argh(positional)]
        name: String,

        /// only this version
        #[argh(option)]
        version: Option<String>,

        /// do not ask
        #[argh(switch)]
        yes: bool,
    }
}

impl Rm {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let name = checked(&self.name)?;
        let (what, path) = match &self.version {
            Some(version) => (
                format!("version {version} of plugin {name}"),
                vec!["plugins", name, "versions", version],
            ),
            None => (format!("plugin {name}"), vec!["plugins", name]),
        };
        session.confirm(self.yes, &format!("Delete {what}?"))?;
        let gone = session.client.send(Method::DELETE, &path, Query::new(), None).await?;
        session.screen.done(&gone, &format!("{what} is deleted"))
    }
}
