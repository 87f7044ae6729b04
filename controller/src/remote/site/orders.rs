//! `site sync`, `site order` and what becomes of them: orders to the agent of a site.

use std::str::FromStr;
use std::time::Duration;

use anyhow::bail;
use pureboot_protocol::{CommandId, ContentKey, Invalid, Mac, SiteOrder};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::config::UsageError;
use crate::print_note;
use crate::remote::arguments::asks;
use crate::remote::client::Query;
use crate::remote::resolve::{COMMAND, SITE, choose, label, text};
use crate::remote::screen::Column;
use crate::remote::session::{Session, most};

/// What `--wait` waits at most: some heartbeats, and the content that an order may bring.
const WAIT_LIMIT: Duration = Duration::from_secs(60 * 60);
/// How often the controller is asked how far a command is.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

asks! {
    /// Have the agent of a site bring its content up to date now.
    #[argh(subcommand, name = "sync", example = "{command_name} berlin --wait")]
    struct Sync {
        /// the site's path, name or id
        #[argh(positional)]
        site: String,

        /// look at everything, even where nothing has changed
        #[argh(switch)]
        full: bool,

        /// wait until it has ended, for an hour at most; exit with 1 if it fails
        #[argh(switch)]
        wait: bool,
    }
}

impl Sync {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let order = SiteOrder::Sync { force: self.full, categories: Vec::new() };
        give(&self.session()?, &self.site, &order, self.wait).await
    }
}

/// What `site order` can order.
#[derive(Debug, Clone, Copy)]
enum OrderName {
    RotateCredential,
    UpdateConfig,
    Invalidate,
}

impl FromStr for OrderName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "rotate_credential" => Ok(Self::RotateCredential),
            "update_config" => Ok(Self::UpdateConfig),
            "invalidate" => Ok(Self::Invalidate),
            "sync" => Err("`site sync` orders that".to_owned()),
            _ => Err(format!("'{text}' is none of rotate_credential, update_config, invalidate")),
        }
    }
}

asks! {
    /// Order something of the agent of a site: it is told with its next heartbeat, and does it once.
    #[argh(
        subcommand,
        name = "order",
        example = "{command_name} berlin rotate_credential --wait",
        example = "{command_name} berlin invalidate --mac 52:54:00:12:34:56",
        note = "rotate_credential changes the agent's credential; update_config has it take the site's settings again; invalidate has \
                it ask anew about a machine or a piece of content, and use what it has until the answer is there."
    )]
    struct Order {
        /// the site's path, name or id
        #[argh(positional)]
        site: String,

        /// what to do: rotate_credential, update_config or invalidate
        #[argh(positional)]
        order: OrderName,

        /// with invalidate: the machine to ask about
        #[argh(option)]
        mac: Option<Mac>,

        /// with invalidate: the content to ask about, as CATEGORY/PATH
        #[argh(option)]
        content: Option<ContentKey>,

        /// wait until it has ended, for an hour at most; exit with 1 if it fails
        #[argh(switch)]
        wait: bool,
    }
}

impl Order {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let order = meant(self.order, self.mac, self.content.as_ref())?;
        give(&self.session()?, &self.site, &order, self.wait).await
    }
}

/// The order that the arguments make.
fn meant(
    name: OrderName,
    mac: Option<Mac>,
    content: Option<&ContentKey>,
) -> Result<SiteOrder, UsageError> {
    match (name, mac, content) {
        (OrderName::RotateCredential, None, None) => Ok(SiteOrder::RotateCredential {}),
        (OrderName::UpdateConfig, None, None) => Ok(SiteOrder::UpdateConfig {}),
        (OrderName::Invalidate, Some(mac), None) => {
            Ok(SiteOrder::Invalidate(Invalid::Node { mac }))
        }
        (OrderName::Invalidate, None, Some(key)) => Ok(SiteOrder::Invalidate(Invalid::Content {
            category: key.category(),
            path: key.path().to_owned(),
        })),
        (OrderName::Invalidate, _, _) => {
            Err(UsageError::new("invalidate wants either --mac or --content"))
        }
        _ => Err(UsageError::new("--mac and --content go with invalidate alone")),
    }
}

async fn give(
    session: &Session,
    site: &str,
    order: &SiteOrder,
    is_awaited: bool,
) -> anyhow::Result<()> {
    let site = session.find(&SITE, site).await?;
    let site_id = text(&site, "id");
    let path = [SITE.path, site_id, COMMAND.path];
    let body = json!(order);
    let command = session.client.send(Method::POST, &path, Query::new(), Some(&body)).await?;
    if !is_awaited {
        let label = label(&SITE, &site);
        let sentence = format!("ordered of the agent of {label}: {}", progress(&command));
        return session.screen.done(&command, &sentence);
    }
    let ended = follow(session, site_id, command).await?;
    let sentence = progress(&ended);
    if text(&ended, "status") == "completed" {
        return session.screen.done(&ended, &sentence);
    }
    if session.screen.is_json {
        session.screen.json(&ended)?;
    }
    bail!(sentence)
}

/// The command `command` of a site as it has ended; on the way people are told how far it is.
pub(in crate::remote) async fn follow(
    session: &Session,
    site_id: &str,
    mut command: Value,
) -> anyhow::Result<Value> {
    let deadline = Instant::now() + WAIT_LIMIT;
    let id = text(&command, "id").to_owned();
    let path = [SITE.path, site_id, COMMAND.path, &id];
    let mut told = String::new();
    while !has_ended(&command) {
        let now = progress(&command);
        if now != told {
            print_note(&now);
            told = now;
        }
        if Instant::now() >= deadline {
            bail!(
                "{told} after {} minutes; it goes on, and `site commands` tells how it ends",
                WAIT_LIMIT.as_secs() / 60
            );
        }
        sleep(POLL_INTERVAL).await;
        command = session.client.get(&path, Query::new()).await?;
    }
    Ok(command)
}

fn has_ended(command: &Value) -> bool {
    command.get("finished_at").is_some_and(|at| !at.is_null())
}

/// How far `command` is, for people.
pub(in crate::remote) fn progress(command: &Value) -> String {
    let [name, id, status] = ["command", "id", "status"].map(|field| text(command, field));
    match text(command, "detail") {
        "" => format!("{name} ({id}) is {status}"),
        detail => format!("{name} ({id}) is {status}: {detail}"),
    }
}

asks! {
    /// List what was ordered of the agent of a site and how far it is, the latest first.
    #[argh(subcommand, name = "commands", example = "{command_name} berlin --limit 10")]
    struct Commands {
        /// the site's path, name or id
        #[argh(positional)]
        site: String,

        /// rows to show, 0 for all (default: 50)
        #[argh(option, default = "50")]
        limit: usize,
    }
}

const COMMANDS: &[Column] = &[
    Column::plain("ID", "id"),
    Column::plain("COMMAND", "command"),
    Column::plain("WITH", "params"),
    Column::plain("STATUS", "status"),
    Column::plain("ATTEMPTS", "attempts"),
    Column::plain("CREATED", "created_at"),
    Column::plain("BY", "created_by"),
    Column::plain("DETAIL", "detail"),
];

impl Commands {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let id = session.id(&SITE, &self.site).await?;
        let path = [SITE.path, &id, COMMAND.path];
        session.show_list(&path, Query::new(), most(self.limit), COMMANDS).await
    }
}

asks! {
    /// Take an order back that the agent of a site has not been given.
    #[argh(subcommand, name = "cancel", example = "{command_name} berlin 0b8f5c1e-6f0e-4d52-9a55-0c8f3f1c2a77")]
    struct Cancel {
        /// the site's path, name or id
        #[argh(positional)]
        site: String,

        /// the command's id, which `site commands` shows, or the beginning of it
        #[argh(positional)]
        command_id: String,
    }
}

impl Cancel {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let id = session.id(&SITE, &self.site).await?;
        let path = [SITE.path, &id, COMMAND.path];
        let command_id = match self.command_id.parse::<CommandId>() {
            Ok(id) => id.to_string(),
            Err(_) => {
                let rows = session.client.list(&path, Query::new(), None).await?;
                text(&choose(&COMMAND, &self.command_id, rows)?, "id").to_owned()
            }
        };
        let path = [SITE.path, &id, COMMAND.path, &command_id];
        let command = session.client.send(Method::DELETE, &path, Query::new(), None).await?;
        session.screen.done(&command, &progress(&command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str, mac: Option<&str>, content: Option<&str>) -> Result<Value, String> {
        let content = content.map(|key| key.parse::<ContentKey>().expect("a key"));
        let mac = mac.map(|mac| mac.parse().expect("an address"));
        let order = meant(name.parse()?, mac, content.as_ref());
        order.map(|order| json!(order)).map_err(|error| error.to_string())
    }

    #[test]
    fn an_order_is_what_the_api_calls_it_and_has_what_belongs_to_it_alone() {
        let mac = Some("52-54-00-12-34-56");
        let key = Some("images/debian/linux");
        for (name, mac, content, params) in [
            ("rotate_credential", None, None, json!({})),
            ("update_config", None, None, json!({})),
            ("invalidate", mac, None, json!({"mac": "52:54:00:12:34:56"})),
            ("invalidate", None, key, json!({"category": "images", "path": "debian/linux"})),
        ] {
            assert_eq!(said(name, mac, content), Ok(json!({"command": name, "params": params})));
        }
        for (name, mac, content, cure) in [
            ("invalidate", None, None, "either --mac or --content"),
            ("invalidate", mac, key, "either --mac or --content"),
            ("update_config", mac, None, "with invalidate alone"),
            ("rotate_credential", None, key, "with invalidate alone"),
            ("sync", None, None, "`site sync`"),
            ("dance", None, None, "none of rotate_credential"),
        ] {
            let error = said(name, mac, content).expect_err(name);
            assert!(error.contains(cure), "{name}: {error}");
        }
    }

    #[test]
    fn a_command_has_ended_when_it_has_a_time_of_its_end_and_tells_why() {
        let mut command = json!({
            "id": "7", "command": "sync", "status": "started", "detail": null, "finished_at": null,
        });
        assert!(!has_ended(&command));
        assert_eq!(progress(&command), "sync (7) is started");
        command["status"] = json!("failed");
        command["detail"] = json!("the disk is full");
        command["finished_at"] = json!("2026-11-21T00:00:00.000Z");
        assert!(has_ended(&command));
        assert_eq!(progress(&command), "sync (7) is failed: the disk is full");
    }
}
