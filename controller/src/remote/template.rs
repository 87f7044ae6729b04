//! `template …`.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use pureboot_protocol::TemplateKind;
use reqwest::Method;
use serde_json::{Value, json};

use crate::config::UsageError;
use crate::remote::arguments::{asks, noun};
use crate::remote::client::Query;
use crate::remote::fields;
use crate::remote::resolve::{NODE, TEMPLATE, label, text};
use crate::remote::screen::Column;
use crate::remote::session::Session;
use crate::{print_line, print_note};

/// The longest text that is read, in bytes; longer than the controller takes, which says so.
const SOURCE_LEN_MAX: u64 = 4 << 20;

noun! {
    /// Look after templates: what answer files are made of.
    #[argh(subcommand, name = "template", example = "{command_name} add debian-preseed --kind preseed preseed.cfg")]
    TemplateArguments, TemplateCommand {
        Add(Add),
        Ls(Ls),
        Show(Show),
        Update(Update),
        Rm(Rm),
        Preview(Preview),
        Check(Check),
        Versions(Versions),
        Restore(Restore),
    }
}

/// The text of a file, or what comes through a pipe.
fn source(file: Option<&Path>) -> anyhow::Result<String> {
    let (from, what): (Box<dyn Read>, _) = match file {
        Some(path) => {
            let what = path.display().to_string();
            (Box::new(File::open(path).with_context(|| format!("cannot open {what}"))?), what)
        }
        None if io::stdin().is_terminal() => {
            return Err(UsageError::new("no text: name a file, or let a pipe bring it").into());
        }
        None => (Box::new(io::stdin()), "stdin".to_owned()),
    };
    let mut text = String::new();
    from.take(SOURCE_LEN_MAX)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {what} as UTF-8 text"))?;
    Ok(text)
}

asks! {
    /// Make a template. It is compiled first; mistakes are told by line and column.
    #[argh(subcommand, name = "add", example = "{command_name} debian-preseed --kind preseed preseed.cfg")]
    struct Add {
        /// its name
        #[argh(positional)]
        name: String,

        /// file with the text (default: stdin)
        #[argh(positional)]
        file: Option<PathBuf>,

        /// who reads it: kickstart, preseed, autoinstall, cloud-init or script
        #[argh(option)]
        kind: TemplateKind,

        /// a sentence for people
        #[argh(option)]
        description: Option<String>,
    }
}

impl Add {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let body = json!({
            "name": self.name,
            "kind": self.kind,
            "description": self.description,
            "body": source(self.file.as_deref())?,
        });
        session.make(&TEMPLATE, Query::new(), &body).await
    }
}

const COLUMNS: &[Column] = &[
    Column::plain("NAME", "name"),
    Column::plain("KIND", "kind"),
    Column::plain("VERSION", "version"),
    Column::bytes("SIZE", "size_bytes"),
    Column::plain("UPDATED", "updated_at"),
    Column::plain("ID", "id"),
];

asks! {
    /// List the templates.
    #[argh(subcommand, name = "ls", example = "{command_name} --kind preseed")]
    struct Ls {
        /// only those of this kind
        #[argh(option)]
        kind: Option<TemplateKind>,
    }
}

impl Ls {
    async fn run(self) -> anyhow::Result<()> {
        let query = self.kind.map(|kind| ("kind", kind.to_string())).into_iter().collect();
        self.session()?.show_list(&[TEMPLATE.path], query, None, COLUMNS).await
    }
}

asks! {
    /// Show a template, or its text alone.
    #[argh(subcommand, name = "show", example = "{command_name} debian-preseed --body > preseed.cfg")]
    struct Show {
        /// its name or id
        #[argh(positional)]
        template: String,

        /// this version and not the latest
        #[argh(option)]
        version: Option<u64>,

        /// print the text and nothing else
        #[argh(switch)]
        body: bool,

        /// print this field alone
        #[argh(option)]
        field: Option<String>,
    }
}

impl Show {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let id = session.id(&TEMPLATE, &self.template).await?;
        let version = self.version.map(|version| version.to_string());
        let path: Vec<_> = match &version {
            Some(version) => vec![TEMPLATE.path, &id, "versions", version],
            None => vec![TEMPLATE.path, &id],
        };
        let mut template = session.client.get(&path, Query::new()).await?;
        if self.body && !session.screen.is_json {
            return print_text(text(&template, "body"));
        }
        if session.screen.is_json || self.field.is_some() {
            return session.screen.thing(&template, &[], self.field.as_deref());
        }
        let body = template.get_mut("body").map(Value::take).unwrap_or_default();
        if let Some(members) = template.as_object_mut() {
            members.remove("body");
        }
        session.screen.thing(&template, &["name", "kind", "version", "id"], None)?;
        print_line("")?;
        print_text(body.as_str().unwrap_or_default())
    }
}

/// Prints a text of lines as it is.
fn print_text(text: &str) -> anyhow::Result<()> {
    print_line(text.strip_suffix('\n').unwrap_or(text))
}

asks! {
    /// Give a template another text, name, kind or description. The text is a new version; older ones are kept.
    #[argh(subcommand, name = "update", example = "{command_name} debian-preseed preseed.cfg")]
    struct Update {
        /// its name or id
        #[argh(positional)]
        template: String,

        /// file with the new text (default: stdin, unless something else is changed)
        #[argh(positional)]
        file: Option<PathBuf>,

        /// another name
        #[argh(option)]
        name: Option<String>,

        /// another kind
        #[argh(option)]
        kind: Option<TemplateKind>,

        /// another sentence for people
        #[argh(option)]
        description: Option<String>,
    }
}

impl Update {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let mut members: Vec<(&'static str, Value)> = Vec::new();
        members.extend(self.name.clone().map(|name| ("name", name.into())));
        members.extend(self.kind.map(|kind| ("kind", kind.as_str().into())));
        members.extend(self.description.clone().map(|text| ("description", text.into())));
        if members.is_empty() || self.file.is_some() {
            members.push(("body", source(self.file.as_deref())?.into()));
        }
        session.change(&TEMPLATE, &self.template, Query::new(), &fields::body(members)).await
    }
}

asks! {
    /// Delete a template that no workflow uses.
    #[argh(subcommand, name = "rm", example = "{command_name} debian-preseed --yes")]
    struct Rm {
        /// its name or id
        #[argh(positional)]
        template: String,

        /// do not ask
        #[argh(switch)]
        yes: bool,
    }
}

impl Rm {
    async fn run(self) -> anyhow::Result<()> {
        self.session()?.delete(&TEMPLATE, &self.template, self.yes).await
    }
}

asks! {
    /// Print the file as a node would get it, with every secret masked.
    #[argh(subcommand, name = "preview", example = "{command_name} debian-preseed --node 52:54:00:12:34:56")]
    struct Preview {
        /// its name or id
        #[argh(positional)]
        template: String,

        /// the node that it is made for
        #[argh(option)]
        node: Option<String>,

        /// made-up values in its place: a file with a JSON object such as {{"node": {{"hostname": "web1"}}}}
        #[argh(option)]
        facts_file: Option<PathBuf>,
    }
}

impl Preview {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let order = match (&self.node, &self.facts_file) {
            (Some(node), None) => json!({ "node_id": session.id(&NODE, node).await? }),
            (None, Some(file)) => {
                let facts: Value = serde_json::from_str(&source(Some(file))?)
                    .with_context(|| format!("{} is not JSON", file.display()))?;
                json!({ "facts": facts })
            }
            _ => return Err(UsageError::new("expected either --node or --facts-file").into()),
        };
        let id = session.id(&TEMPLATE, &self.template).await?;
        let path = [TEMPLATE.path, &id, "preview"];
        let preview = session.client.send(Method::POST, &path, Query::new(), Some(&order)).await?;
        if session.screen.is_json {
            return session.screen.json(&preview);
        }
        warn(&preview);
        print_text(text(&preview, "text"))
    }
}

/// Tells the warnings of an answer.
fn warn(answer: &Value) {
    let warnings = answer.get("warnings").and_then(Value::as_array).into_iter().flatten();
    for warning in warnings.filter_map(Value::as_str) {
        print_note(&format!("warning: {warning}"));
    }
}

asks! {
    /// Compile a text and keep nothing. The exit code is 1 where it has mistakes.
    #[argh(subcommand, name = "check", example = "{command_name} --kind preseed preseed.cfg")]
    struct Check {
        /// file with the text (default: stdin)
        #[argh(positional)]
        file: Option<PathBuf>,

        /// who reads it: kickstart, preseed, autoinstall, cloud-init or script
        #[argh(option)]
        kind: TemplateKind,
    }
}

impl Check {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let body = json!({"kind": self.kind, "body": source(self.file.as_deref())?});
        let path = [TEMPLATE.path, "check"];
        let checked = session.client.send(Method::POST, &path, Query::new(), Some(&body)).await?;
        warn(&checked);
        session.screen.done(&checked, &verdict(&checked))?;
        match checked.get("compiles").and_then(Value::as_bool) {
            Some(true) => Ok(()),
            _ => bail!("the template has mistakes"),
        }
    }
}

fn verdict(checked: &Value) -> String {
    let errors: Vec<_> =
        checked.get("errors").and_then(Value::as_array).into_iter().flatten().collect();
    if errors.is_empty() {
        return "it compiles".to_owned();
    }
    let line = |error: &&Value| {
        let number = |field| error.get(field).and_then(Value::as_u64).unwrap_or_default();
        let (template, message) = (text(error, "template"), text(error, "message"));
        format!("{template}:{}:{}: {message}", number("line"), number("column"))
    };
    errors.iter().map(line).collect::<Vec<_>>().join("\n")
}

asks! {
    /// List the versions of a template, the latest first.
    #[argh(subcommand, name = "versions", example = "{command_name} debian-preseed")]
    struct Versions {
        /// its name or id
        #[argh(positional)]
        template: String,
    }
}

impl Versions {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let id = session.id(&TEMPLATE, &self.template).await?;
        let path = [TEMPLATE.path, &id, "versions"];
        session.show_list(&path, Query::new(), None, COLUMNS).await
    }
}

asks! {
    /// Make the text of an older version the latest again.
    #[argh(subcommand, name = "restore", example = "{command_name} debian-preseed 3")]
    struct Restore {
        /// its name or id
        #[argh(positional)]
        template: String,

        /// the number of the version, as `template versions` shows it
        #[argh(positional)]
        version: u64,
    }
}

impl Restore {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        restore(&session, &self.template, self.version).await
    }
}

async fn restore(session: &Session, template: &str, version: u64) -> anyhow::Result<()> {
    let id = session.id(&TEMPLATE, template).await?;
    let number = version.to_string();
    let path = [TEMPLATE.path, &id, "versions", &number, "restore"];
    let restored = session.client.send(Method::POST, &path, Query::new(), None).await?;
    let now = restored.get("version").and_then(Value::as_u64).unwrap_or_default();
    let label = label(&TEMPLATE, &restored);
    session.screen.done(
        &restored,
        &format!("template {label} has version {now}, with the text of version {version}"),
    )
}
