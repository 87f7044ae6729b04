//! `workflow …`.

use reqwest::Method;
use serde_json::Value;

use crate::remote::arguments::{asks, noun};
use crate::remote::client::Query;
use crate::remote::fields::Field;
use crate::remote::resolve::{TEMPLATE, WORKFLOW, label, text};
use crate::remote::screen::Column;

noun! {
    /// Look after workflows: what to install and how.
    #[argh(
        subcommand,
        name = "workflow",
        example = "{command_name} add debian method=kernel kernel=images/debian/linux initrd=images/debian/initrd.gz"
    )]
    WorkflowArguments, WorkflowCommand {
        Add(Add),
        Ls(Ls),
        Show(Show),
        Set(Set),
        Rm(Rm),
        Versions(Versions),
        Restore(Restore),
    }
}

const FIELDS: &[Field] = &[
    Field::word("name"),
    Field::text("description"),
    Field::number("timeout_minutes"),
    Field::named_by_key("templates", &TEMPLATE),
    Field::word("method"),
    Field::word("kernel").or_none(),
    Field::list("initrd"),
    Field::text("command_line"),
    Field::word("source").or_none(),
    Field::number("drive").or_none(),
    Field::word("target").or_none(),
    Field::word("image").or_none(),
    Field::word("disk").or_none(),
];

const COLUMNS: &[Column] = &[
    Column::plain("NAME", "name"),
    Column::plain("METHOD", "method"),
    Column::plain("KERNEL", "kernel"),
    Column::plain("IMAGE", "image"),
    Column::plain("VERSION", "version"),
    Column::plain("UPDATED", "updated_at"),
    Column::plain("ID", "id"),
];

/// Whether a workflow may name content that the controller does not have.
fn leniency(allows_missing: bool) -> Query<'static> {
    match allows_missing {
        true => vec![("allow_missing", "true".to_owned())],
        false => Query::new(),
    }
}

asks! {
    /// Make a workflow.
    #[argh(
        subcommand,
        name = "add",
        example = "{command_name} debian method=kernel kernel=images/debian/linux initrd=images/debian/initrd.gz \\\n    'command_line=ip=dhcp auto=true' templates=preseed.cfg:debian-preseed",
        note = "The fields are those of `workflow set`."
    )]
    struct Add {
        /// its name
        #[argh(positional)]
        name: String,

        /// what else to set: FIELD=VALUE, can be repeated
        #[argh(positional)]
        fields: Vec<String>,

        /// take content that is at the sites only, or comes later
        #[argh(switch)]
        allow_missing: bool,
    }
}

impl Add {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        session
            .make_named(&WORKFLOW, leniency(self.allow_missing), &self.name, FIELDS, &self.fields)
            .await
    }
}

asks! {
    /// List the workflows.
    #[argh(subcommand, name = "ls", example = "{command_name}")]
    struct Ls {}
}

impl Ls {
    async fn run(self) -> anyhow::Result<()> {
        self.session()?.show_list(&[WORKFLOW.path], Query::new(), None, COLUMNS).await
    }
}

asks! {
    /// Show a workflow.
    #[argh(subcommand, name = "show", example = "{command_name} debian")]
    struct Show {
        /// its name or id
        #[argh(positional)]
        workflow: String,

        /// this version and not the latest
        #[argh(option)]
        version: Option<u64>,

        /// print this field alone
        #[argh(option)]
        field: Option<String>,
    }
}

impl Show {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let mut workflow = session.find(&WORKFLOW, &self.workflow).await?;
        if let Some(version) = self.version {
            let path = [WORKFLOW.path, text(&workflow, "id"), "versions", &version.to_string()];
            workflow = session.client.get(&path, Query::new()).await?;
        }
        session.screen.thing(&workflow, &["name", "id", "method"], self.field.as_deref())
    }
}

asks! {
    /// Change a workflow.
    #[argh(
        subcommand,
        name = "set",
        example = "{command_name} debian timeout_minutes=90 'command_line=ip=dhcp console=ttyS0'",
        note = "Fields: name, description, timeout_minutes, templates (FILE:TEMPLATE, with commas between), method (kernel, sanboot, chain, \
                image) and those of the method: kernel, initrd, command_line; source, drive; target; kernel, initrd, command_line, image, \
                disk. Content is named CATEGORY/PATH. FIELD= takes the value away."
    )]
    struct Set {
        /// its name or id
        #[argh(positional)]
        workflow: String,

        /// what to set: FIELD=VALUE, can be repeated
        #[argh(positional)]
        fields: Vec<String>,

        /// take content that is at the sites only, or comes later
        #[argh(switch)]
        allow_missing: bool,
    }
}

impl Set {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let body = session.body(FIELDS, &self.fields, []).await?;
        session.change(&WORKFLOW, &self.workflow, leniency(self.allow_missing), &body).await
    }
}

asks! {
    /// Delete a workflow that nobody has.
    #[argh(subcommand, name = "rm", example = "{command_name} debian --yes")]
    struct Rm {
        /// its name or id
        #[argh(positional)]
        workflow: String,

        /// do not ask
        #[argh(switch)]
        yes: bool,
    }
}

impl Rm {
    async fn run(self) -> anyhow::Result<()> {
        self.session()?.delete(&WORKFLOW, &self.workflow, self.yes).await
    }
}

const VERSIONS: &[Column] = &[
    Column::plain("VERSION", "version"),
    Column::plain("UPDATED", "updated_at"),
    Column::plain("NAME", "name"),
    Column::plain("METHOD", "method"),
    Column::plain("KERNEL", "kernel"),
    Column::plain("COMMAND LINE", "command_line"),
    Column::plain("MINUTES", "timeout_minutes"),
];

asks! {
    /// List the versions of a workflow that are kept, the newest first.
    #[argh(subcommand, name = "versions", example = "{command_name} debian")]
    struct Versions {
        /// its name or id
        #[argh(positional)]
        workflow: String,
    }
}

impl Versions {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let id = session.id(&WORKFLOW, &self.workflow).await?;
        session.show_list(&[WORKFLOW.path, &id, "versions"], Query::new(), None, VERSIONS).await
    }
}

asks! {
    /// Make an older version of a workflow the latest again. Its name stays.
    #[argh(subcommand, name = "restore", example = "{command_name} debian 3")]
    struct Restore {
        /// its name or id
        #[argh(positional)]
        workflow: String,

        /// the number of the version, as `workflow versions` shows it
        #[argh(positional)]
        version: u64,

        /// take content that is at the sites only, or comes later
        #[argh(switch)]
        allow_missing: bool,
    }
}

impl Restore {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let id = session.id(&WORKFLOW, &self.workflow).await?;
        let number = self.version.to_string();
        let path = [WORKFLOW.path, &id, "versions", &number, "restore"];
        let query = leniency(self.allow_missing);
        let restored = session.client.send(Method::POST, &path, query, None).await?;
        let now = restored.get("version").and_then(Value::as_u64).unwrap_or_default();
        let label = label(&WORKFLOW, &restored);
        session.screen.done(
            &restored,
            &format!("workflow {label} has version {now}, which is what version {number} was"),
        )
    }
}
