//! `site …`.

pub(in crate::remote) mod orders;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use reqwest::Method;
use serde_json::{Value, json};

use crate::config::UsageError;
use crate::print_note;
use crate::remote::arguments::{asks, noun};
use crate::remote::boots::SiteBoots;
use crate::remote::client::Query;
use crate::remote::fields::Field;
use crate::remote::group::list_below;
use crate::remote::meta::SiteMeta;
use crate::remote::resolve::{SITE, WORKFLOW, label, text};
use crate::remote::screen::Column;
use crate::remote::{agent, conflict};

use orders::{Cancel, Commands, Order, Sync};

noun! {
    /// Look after sites: places with machines and one agent.
    #[argh(subcommand, name = "site", example = "{command_name} add berlin autonomy_level=limited")]
    SiteArguments, SiteCommand {
        Add(Add),
        Ls(Ls),
        Show(Show),
        Set(Set),
        Rm(Rm),
        Token(Token),
        Health(Health),
        Assign(Assign),
        Manifest(Manifest),
        Conflicts(Conflicts),
        Parked(Parked),
        Boots(SiteBoots),
        Meta(SiteMeta),
        Agents(Agents),
        Sync(Sync),
        Order(Order),
        Commands(Commands),
        Cancel(Cancel),
    }
}

const FIELDS: &[Field] = &[
    Field::word("name"),
    Field::text("description"),
    Field::named("parent", "parent_id", &SITE),
    Field::word("agent_url").or_none(),
    Field::word("autonomy_level"),
    Field::word("conflict_resolution"),
    Field::word("cache_policy"),
    Field::list("cache_patterns"),
    Field::number("cache_max_size_gb").or_none(),
    Field::number("cache_retention_days"),
    Field::word("discovery_method"),
    Field::word("migration_policy"),
    Field::word("foreign_nodes"),
    Field::number("heartbeat_interval"),
    Field::named("workflow", "default_workflow_id", &WORKFLOW),
    Field::flag("auto_provision").or_none(),
    Field::list("tags"),
];

const COLUMNS: &[Column] = &[
    Column::plain("PATH", "path"),
    Column::plain("AGENT", "agent_status"),
    Column::plain("LAST SEEN", "agent_last_seen"),
    Column::plain("AUTONOMY", "autonomy_level"),
    Column::plain("CACHE", "cache_policy"),
    Column::plain("WORKFLOW", "workflow"),
    Column::plain("ID", "id"),
];

asks! {
    /// Make a site.
    #[argh(
        subcommand,
        name = "add",
        example = "{command_name} berlin parent=/emea autonomy_level=limited cache_policy=assigned",
        note = "The fields are those of `site set`."
    )]
    struct Add {
        /// its name
        #[argh(positional)]
        name: String,

        /// what else to set: FIELD=VALUE, can be repeated
        #[argh(positional)]
        fields: Vec<String>,
    }
}

impl Add {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        session.make_named(&SITE, Query::new(), &self.name, FIELDS, &self.fields).await
    }
}

asks! {
    /// List the sites.
    #[argh(subcommand, name = "ls", example = "{command_name} --parent /emea")]
    struct Ls {
        /// only those right below this site
        #[argh(option)]
        parent: Option<String>,
    }
}

impl Ls {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        list_below(&session, &SITE, self.parent.as_deref(), COLUMNS).await
    }
}

asks! {
    /// Show a site with all its settings.
    #[argh(subcommand, name = "show", example = "{command_name} berlin --field id")]
    struct Show {
        /// its path, name or id
        #[argh(positional)]
        site: String,

        /// print this field alone
        #[argh(option)]
        field: Option<String>,
    }
}

impl Show {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let site = session.find(&SITE, &self.site).await?;
        session.screen.thing(&site, &["path", "id", "agent_status"], self.field.as_deref())
    }
}

asks! {
    /// Change the settings of a site.
    #[argh(
        subcommand,
        name = "set",
        example = "{command_name} berlin cache_policy=pattern cache_patterns='images/debian/*' parent=/emea",
        note = "Fields: name, description, parent, agent_url, autonomy_level (readonly, limited, full), conflict_resolution \
                (central_wins, last_write, site_wins, manual), cache_policy (minimal, assigned, mirror, pattern), cache_patterns, \
                cache_max_size_gb, cache_retention_days, discovery_method (dhcp, dns, anycast, fallback), migration_policy (manual, \
                auto_accept, auto_release, bidirectional), foreign_nodes (pending, normal, refuse), heartbeat_interval, workflow, auto_provision, tags.",
        note = "FIELD= takes the value away; lists have commas between their parts."
    )]
    struct Set {
        /// its path, name or id
        #[argh(positional)]
        site: String,

        /// what to set: FIELD=VALUE, can be repeated
        #[argh(positional)]
        fields: Vec<String>,
    }
}

impl Set {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let body = session.body(FIELDS, &self.fields, []).await?;
        session.change(&SITE, &self.site, Query::new(), &body).await
    }
}

asks! {
    /// Delete a site that has neither nodes nor sites below it.
    #[argh(subcommand, name = "rm", example = "{command_name} /emea/berlin --yes")]
    struct Rm {
        /// its path, name or id
        #[argh(positional)]
        site: String,

        /// do not ask
        #[argh(switch)]
        yes: bool,
    }
}

impl Rm {
    async fn run(self) -> anyhow::Result<()> {
        self.session()?.delete(&SITE, &self.site, self.yes).await
    }
}

asks! {
    /// Make the token with which the agent of a site joins, once and within 24 hours. It ends the one before.
    #[argh(subcommand, name = "token", example = "{command_name} berlin --file token.txt")]
    struct Token {
        /// the site's path, name or id
        #[argh(positional)]
        site: String,

        /// write the token to this new file, which nobody else can read, and not to stdout
        #[argh(option)]
        file: Option<PathBuf>,
    }
}

impl Token {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let site = session.find(&SITE, &self.site).await?;
        let id = text(&site, "id");
        // Before the token before it ends: a file that cannot be made must not cost the site its token.
        let file = self.file.as_deref().map(PrivateFile::make).transpose()?;
        let path = [SITE.path, id, "agent-token"];
        let issued = session.client.send(Method::POST, &path, Query::new(), None).await?;
        let token = text(&issued, "token");
        let token_file = match file {
            None => {
                session.screen.done(&issued, token)?;
                "FILE".to_owned()
            }
            Some(file) => file.keep(token)?.display().to_string(),
        };
        if !session.screen.is_json {
            let (path, url) = (label(&SITE, &site), session.client.url());
            print_note(&format!(
                "the agent of {path} joins with: pureboot-agent init --site-id {id} --central-url {url} --token-file {token_file}"
            ));
        }
        Ok(())
    }
}

/// A new file that nobody else can read; it goes away unless it is given what it is for.
struct PrivateFile {
    path: PathBuf,
    file: File,
    is_kept: bool,
}

impl PrivateFile {
    fn make(path: &Path) -> anyhow::Result<Self> {
        // A file that is there may belong to somebody, or be a link to what does.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.with_context(|| format!("cannot make the file {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file, is_kept: false })
    }

    fn keep(mut self, text: &str) -> anyhow::Result<PathBuf> {
        let written = writeln!(self.file, "{text}");
        written.with_context(|| format!("cannot write {}", self.path.display()))?;
        self.is_kept = true;
        Ok(self.path.clone())
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        if !self.is_kept {
            // An empty file is all that is left behind otherwise.
            _ = std::fs::remove_file(&self.path);
        }
    }
}

asks! {
    /// Show how a site is: its agent, its services, what waits, and what is wrong.
    #[argh(subcommand, name = "health", example = "{command_name} berlin")]
    struct Health {
        /// its path, name or id
        #[argh(positional)]
        site: String,
    }
}

impl Health {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let id = session.id(&SITE, &self.site).await?;
        let health = session.client.get(&[SITE.path, &id, "health"], Query::new()).await?;
        session.screen.thing(&health, &["agent_status", "agent_last_seen", "alerts"], None)
    }
}

asks! {
    /// Show what content a site is assigned, or assign more.
    #[argh(
        subcommand,
        name = "assign",
        example = "{command_name} berlin images/debian/linux images/debian/initrd.gz"
    )]
    struct Assign {
        /// the site's path, name or id
        #[argh(positional)]
        site: String,

        /// what to assign: CATEGORY/PATH, can be repeated
        #[argh(positional)]
        content: Vec<String>,

        /// take these away
        #[argh(switch)]
        remove: bool,

        /// assign these and nothing else
        #[argh(switch)]
        replace: bool,
    }
}

const ASSIGNED: &[Column] = &[Column::plain("CATEGORY", "category"), Column::plain("PATH", "path")];

impl Assign {
    async fn run(self) -> anyhow::Result<()> {
        if self.remove && self.replace {
            return Err(UsageError::new("--remove and --replace do not go together").into());
        }
        let mut wanted = Vec::new();
        for content in &self.content {
            let key = content.parse::<pureboot_protocol::ContentKey>().map_err(UsageError::new)?;
            wanted.push(json!({"category": key.category(), "path": key.path()}));
        }
        let session = self.session()?;
        let id = session.id(&SITE, &self.site).await?;
        let path = [SITE.path, &id, "assigned-content"];
        let is_question = wanted.is_empty() && !self.replace;
        let mut assigned = match session.client.get(&path, Query::new()).await? {
            Value::Array(assigned) => assigned,
            _ => Vec::new(),
        };
        if !is_question {
            if self.remove {
                assigned.retain(|known| !wanted.contains(known));
            } else {
                assigned.retain(|known| !self.replace && !wanted.contains(known));
                assigned.append(&mut wanted);
            }
            let body = Value::Array(assigned);
            let now = session.client.send(Method::PUT, &path, Query::new(), Some(&body)).await?;
            assigned = now.as_array().cloned().unwrap_or_default();
        }
        session.screen.rows(&assigned, ASSIGNED)
    }
}

asks! {
    /// Show the signed manifest of a site: what its agent is to hold.
    #[argh(subcommand, name = "manifest", example = "{command_name} berlin")]
    struct Manifest {
        /// its path, name or id
        #[argh(positional)]
        site: String,
    }
}

const ENTRIES: &[Column] = &[
    Column::plain("CATEGORY", "category"),
    Column::plain("PATH", "path"),
    Column::bytes("SIZE", "size_bytes"),
    Column::plain("PINNED", "pinned"),
    Column::plain("SHA-256", "sha256"),
];

impl Manifest {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let id = session.id(&SITE, &self.site).await?;
        let manifest = session.client.get(&["content", "manifest"], vec![("site_id", id)]).await?;
        if session.screen.is_json {
            return session.screen.json(&manifest);
        }
        let entries = manifest.get("entries").and_then(Value::as_array);
        session.screen.rows(entries.map(Vec::as_slice).unwrap_or_default(), ENTRIES)?;
        let version = manifest.get("version").unwrap_or(&Value::Null);
        let (at, key_id) = (text(&manifest, "issued_at"), text(&manifest, "key_id"));
        print_note(&format!("version {version} of {at}, signed with the key {key_id}"));
        Ok(())
    }
}

asks! {
    /// List the conflicts that wait for a person, as `conflict ls` does.
    #[argh(subcommand, name = "conflicts", example = "{command_name} berlin")]
    struct Conflicts {
        /// only those of this site
        #[argh(positional)]
        site: Option<String>,
    }
}

impl Conflicts {
    async fn run(self) -> anyhow::Result<()> {
        conflict::list(&self.session()?, self.site.as_deref(), conflict::Which::Open).await
    }
}

asks! {
    /// List the changes of a site that could not be applied and are kept.
    #[argh(subcommand, name = "parked", example = "{command_name} berlin --json")]
    struct Parked {
        /// its path, name or id
        #[argh(positional)]
        site: String,
    }
}

const PARKED: &[Column] = &[
    Column::plain("RECEIVED", "received_at"),
    Column::plain("SEQ", "seq"),
    Column::plain("KIND", "change.kind"),
    Column::bytes("SIZE", "size_bytes"),
    Column::plain("REASON", "reason"),
    Column::plain("ID", "id"),
];

impl Parked {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let id = session.id(&SITE, &self.site).await?;
        session.show_list(&[SITE.path, &id, "parked"], Query::new(), None, PARKED).await
    }
}

asks! {
    /// List the agents of all sites, as `agent ls` does.
    #[argh(subcommand, name = "agents", example = "{command_name}")]
    struct Agents {}
}

impl Agents {
    async fn run(self) -> anyhow::Result<()> {
        agent::list(&self.session()?).await
    }
}
