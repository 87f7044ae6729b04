//! `secret …`.

use std::path::PathBuf;

use reqwest::Method;
use serde_json::{Value, json};

use crate::remote::arguments::{asks, noun};
use crate::remote::client::Query;
use crate::remote::resolve::GROUP;
use crate::remote::screen::Column;
use crate::remote::session::Session;
use crate::terminal;

noun! {
    /// Look after the secrets that templates may use as secret.NAME. Their values are shown to nobody.
    #[argh(subcommand, name = "secret", example = "{command_name} set root_password")]
    SecretArguments, SecretCommand {
        Set(Set),
        Ls(Ls),
        Rm(Rm),
    }
}

const COLUMNS: &[Column] = &[
    Column::plain("NAME", "name"),
    Column::plain("GROUP", "group"),
    Column::plain("CREATED", "created_at"),
    Column::plain("UPDATED", "updated_at"),
];

async fn group_id(session: &Session, group: Option<&str>) -> anyhow::Result<Option<String>> {
    match group {
        Some(group) => Ok(Some(session.id(&GROUP, group).await?)),
        None => Ok(None),
    }
}

fn of_group(id: Option<String>) -> Query<'static> {
    id.into_iter().map(|id| ("group_id", id)).collect()
}

asks! {
    /// Set a secret. The value is asked for, or read from a file or a pipe.
    #[argh(subcommand, name = "set", example = "{command_name} root_password --group /emea/berlin --value-file hash.txt")]
    struct Set {
        /// its name
        #[argh(positional)]
        name: String,

        /// for the nodes of this site or group only
        #[argh(option)]
        group: Option<String>,

        /// file with the value; without it the terminal is asked, or a pipe on stdin is read
        #[argh(option)]
        value_file: Option<PathBuf>,
    }
}

impl Set {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let group = group_id(&session, self.group.as_deref()).await?;
        let value = terminal::secret(&self.name, self.value_file.as_deref())?;
        let body: Value = json!({"value": value, "group_id": group});
        let path = ["secrets", self.name.as_str()];
        let kept = session.client.send(Method::PUT, &path, Query::new(), Some(&body)).await?;
        session.screen.done(&kept, &format!("secret {} is set", self.name))
    }
}

asks! {
    /// List the names of the secrets.
    #[argh(subcommand, name = "ls", example = "{command_name} --group /emea/berlin")]
    struct Ls {
        /// only those of this site or group
        #[argh(option)]
        group: Option<String>,
    }
}

impl Ls {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let query = of_group(group_id(&session, self.group.as_deref()).await?);
        let mut rows = session.client.list(&["secrets"], query, None).await?;
        session.name(&mut rows, &GROUP, &[("group_id", "group")]).await?;
        session.screen.rows(&rows, COLUMNS)
    }
}

asks! {
    /// Delete a secret.
    #[argh(subcommand, name = "rm", example = "{command_name} root_password --group /emea/berlin --yes")]
    struct Rm {
        /// its name
        #[argh(positional)]
        name: String,

        /// that of this site or group
        #[argh(option)]
        group: Option<String>,

        /// do not ask
        #[argh(switch)]
        yes: bool,
    }
}

impl Rm {
    async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let group = group_id(&session, self.group.as_deref()).await?;
        session.confirm(self.yes, &format!("Delete the secret {}?", self.name))?;
        let path = ["secrets", self.name.as_str()];
        let gone = session.client.send(Method::DELETE, &path, of_group(group), None).await?;
        session.screen.done(&gone, &format!("secret {} is deleted", self.name))
    }
}
