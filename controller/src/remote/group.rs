//! `group …`.

use crate::remote::arguments::{asks, noun};
use crate::remote::client::Query;
use crate::remote::fields::Field;
use crate::remote::meta::GroupMeta;
use crate::remote::resolve::{GROUP, Noun, WORKFLOW};
use crate::remote::screen::Column;
use crate::remote::session::Session;

noun! {
    /// Look after groups: nodes kept together, and what they inherit. Sites are groups too.
    #[argh(subcommand, name = "group", example = "{command_name} add web workflow=debian auto_provision=yes")]
    GroupArguments, GroupCommand {
        Add(Add),
        Ls(Ls),
        Show(Show),
        Set(Set),
        Rm(Rm),
        Meta(GroupMeta),
    }
}

const FIELDS: &[Field] = &[
    Field::word("name"),
    Field::text("description"),
    Field::named("parent", "parent_id", &GROUP),
    Field::named("workflow", "default_workflow_id", &WORKFLOW),
    Field::flag("auto_provision").or_none(),
    Field::list("tags"),
];

const COLUMNS: &[Column] = &[
    Column::plain("PATH", "path"),
    Column::plain("SITE", "is_site"),
    Column::plain("WORKFLOW", "workflow"),
    Column::plain("AUTO PROVISION", "auto_provision"),
    Column::plain("TAGS", "tags"),
    Column::plain("ID", "id"),
];

asks! {
    /// Make a group.
    #[argh(
        subcommand,
        name = "add",
        example = "{command_name} web parent=/emea/berlin workflow=debian",
        note = "The fields are those of `group set`."
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
        session.make_named(&GROUP, Query::new(), &self.name, FIELDS, &self.fields).await
    }
}

asks! {
    /// List the groups, sites among them.
    #[argh(subcommand, name = "ls", example = "{command_name} --parent /emea/berlin")]
    struct Ls {
        /// only those right below this group
        #[argh(option)]
        parent: Option<String>,
    }
}

impl Ls {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        list_below(&session, &GROUP, self.parent.as_deref(), COLUMNS).await
    }
}

/// Lists groups or sites, with the names of their workflows; only those right below `parent` where one is named.
///
/// # Errors
/// There is no such parent, or the controller refuses it.
pub(super) async fn list_below(
    session: &Session,
    noun: &'static Noun,
    parent: Option<&str>,
    columns: &[Column],
) -> anyhow::Result<()> {
    let mut query = Query::new();
    if let Some(parent) = parent {
        query.push(("parent_id", session.id(noun, parent).await?));
    }
    let mut rows = session.client.list(&[noun.path], query, None).await?;
    session.name(&mut rows, &WORKFLOW, &[("default_workflow_id", "workflow")]).await?;
    session.screen.rows(&rows, columns)
}

asks! {
    /// Show a group with all its settings.
    #[argh(subcommand, name = "show", example = "{command_name} web")]
    struct Show {
        /// its path, name or id
        #[argh(positional)]
        group: String,

        /// print this field alone
        #[argh(option)]
        field: Option<String>,
    }
}

impl Show {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let group = session.find(&GROUP, &self.group).await?;
        session.screen.thing(&group, &["path", "id"], self.field.as_deref())
    }
}

asks! {
    /// Change the settings of a group.
    #[argh(
        subcommand,
        name = "set",
        example = "{command_name} web workflow=debian auto_provision=no",
        note = "Fields: name, description, parent, workflow, auto_provision, tags. FIELD= takes the value away, so that it is inherited."
    )]
    struct Set {
        /// its path, name or id
        #[argh(positional)]
        group: String,

        /// what to set: FIELD=VALUE, can be repeated
        #[argh(positional)]
        fields: Vec<String>,
    }
}

impl Set {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let body = session.body(FIELDS, &self.fields, []).await?;
        session.change(&GROUP, &self.group, Query::new(), &body).await
    }
}

asks! {
    /// Delete a group that has neither nodes nor groups below it.
    #[argh(subcommand, name = "rm", example = "{command_name} web --yes")]
    struct Rm {
        /// its path, name or id
        #[argh(positional)]
        group: String,

        /// do not ask
        #[argh(switch)]
        yes: bool,
    }
}

impl Rm {
    async fn run(self) -> anyhow::Result<()> {
        self.session()?.delete(&GROUP, &self.group, self.yes).await
    }
}
