//! `node claims`, `node approve` and `node reject`: nodes of one site that boot at another.

use reqwest::Method;
use serde_json::{Value, json};

use crate::remote::arguments::asks;
use crate::remote::client::Query;
use crate::remote::resolve::{CLAIM, NODE, SITE, choose, text};
use crate::remote::screen::Column;
use crate::remote::session::Session;

const COLUMNS: &[Column] = &[
    Column::plain("MAC ADDRESS", "mac_address"),
    Column::plain("HOSTNAME", "hostname"),
    Column::plain("FROM", "from"),
    Column::plain("TO", "to"),
    Column::plain("SEEN THERE", "seen_at"),
    Column::plain("TIMES", "times"),
    Column::plain("EXPIRES", "expires_at"),
    Column::plain("DECISION", "outcome.decision"),
    Column::plain("BY", "outcome.by"),
    Column::plain("ID", "id"),
];

asks! {
    /// List the nodes of one site that boot at another and wait for somebody to say where they belong.
    #[argh(subcommand, name = "claims", example = "{command_name} --site berlin", example = "{command_name} web1 --all")]
    struct Claims {
        /// only those on this node: its MAC address, hostname or id
        #[argh(positional)]
        node: Option<String>,

        /// only those from or to this site
        #[argh(option)]
        site: Option<String>,

        /// those that are decided too
        #[argh(switch)]
        all: bool,
    }
}

impl Claims {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let status = if self.all { "all" } else { "open" };
        let mut query: Query<'_> = vec![("status", status.to_owned())];
        if let Some(node) = &self.node {
            query.push(("node_id", session.id(&NODE, node).await?));
        }
        if let Some(site) = &self.site {
            query.push(("site_id", session.id(&SITE, site).await?));
        }
        let mut rows = session.client.list(&[CLAIM.path], query, None).await?;
        session.name(&mut rows, &SITE, &[("from_site_id", "from"), ("to_site_id", "to")]).await?;
        session.screen.rows(&rows, COLUMNS)
    }
}

asks! {
    /// Move a node to the site where it boots.
    #[argh(subcommand, name = "approve", example = "{command_name} 52:54:00:12:34:56 --comment 'moved with its rack'")]
    struct Approve {
        /// the node's MAC address or hostname, or the id of the claim
        #[argh(positional)]
        claim: String,

        /// why, for whoever looks back
        #[argh(option)]
        comment: Option<String>,
    }
}

impl Approve {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let claim = decide(&session, &self.claim, "approve", self.comment.as_deref()).await?;
        let mac = text(&claim, "mac_address");
        session.screen.done(&claim, &format!("node {mac} has moved to the site where it boots"))
    }
}

asks! {
    /// Leave a node with its own site; the other one is not asked about it again for a week.
    #[argh(subcommand, name = "reject", example = "{command_name} 52:54:00:12:34:56 --comment 'in repair there'")]
    struct Reject {
        /// the node's MAC address or hostname, or the id of the claim
        #[argh(positional)]
        claim: String,

        /// why, for whoever looks back
        #[argh(option)]
        comment: Option<String>,
    }
}

impl Reject {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let claim = decide(&session, &self.claim, "reject", self.comment.as_deref()).await?;
        let mac = text(&claim, "mac_address");
        session.screen.done(&claim, &format!("node {mac} stays with its site"))
    }
}

async fn decide(
    session: &Session,
    word: &str,
    verb: &str,
    comment: Option<&str>,
) -> anyhow::Result<Value> {
    let mac = word.parse::<pureboot_protocol::Mac>().map(|mac| mac.to_string());
    let word = mac.as_deref().unwrap_or(word);
    let open = session.client.list(&[CLAIM.path], Query::new(), None).await?;
    let claim = choose(&CLAIM, word, open)?;
    let path = [CLAIM.path, text(&claim, "id"), verb];
    let body = json!({ "comment": comment });
    Ok(session.client.send(Method::POST, &path, Query::new(), Some(&body)).await?)
}
