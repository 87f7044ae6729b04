//! `node boots` and `site boots`: timelines of what machines did, in the words of `pureboot-agent boots`.

use pureboot_protocol::session::render::BootView;
use serde_json::Value;

use crate::print_line;
use crate::remote::arguments::asks;
use crate::remote::client::Query;
use crate::remote::resolve::{NODE, SITE, text};
use crate::remote::screen::Column;
use crate::remote::session::{Session, most};

asks! {
    /// Show what a machine did from its first packet to the call-back of its system, and where it is stuck; the newest last.
    #[argh(subcommand, name = "boots", example = "{command_name} 52:54:00:12:34:56")]
    struct NodeBoots {
        /// its MAC address, hostname or id
        #[argh(positional)]
        node: String,

        /// sessions to show, 0 for all (default: 10)
        #[argh(option, default = "10")]
        limit: usize,
    }
}

impl NodeBoots {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let id = session.id(&NODE, &self.node).await?;
        let path = [NODE.path, &id, "boots"];
        let boots = session.client.list(&path, Query::new(), most(self.limit)).await?;
        if session.screen.is_json {
            return session.screen.json(&boots);
        }
        if boots.is_empty() {
            let node = &self.node;
            return print_line(&format!(
                "no agent has told of a boot of {node} that is still kept"
            ));
        }
        let sites = named(&session, boots).await?;
        let blocks: Vec<_> = sites.iter().rev().map(block).collect();
        print_line(blocks.join("\n").trim_end())
    }
}

/// Puts the names of the sites into `boots`.
async fn named(session: &Session, mut boots: Vec<Value>) -> anyhow::Result<Vec<Value>> {
    session.name(&mut boots, &SITE, &[("site_id", "site")]).await?;
    Ok(boots)
}

/// The timeline of a boot, each line with its end.
fn block(boot: &Value) -> String {
    let heard = format!(
        "  seen by the agent of {}, told {}\n",
        text(boot, "site"),
        text(boot, "received_at")
    );
    match serde_json::from_value::<BootView>(boot.clone()) {
        Ok(view) => {
            let told = view.render();
            let (header, rest) = told.split_once('\n').unwrap_or((&told, ""));
            format!("{header}\n{heard}{rest}")
        }
        // A later controller may know steps that this program has no words for.
        Err(_) => {
            let (id, started_at) = (text(boot, "id"), text(boot, "started_at"));
            format!(
                "boot session {id}  {started_at}  a later version has told it; --json shows it\n{heard}"
            )
        }
    }
}

const COLUMNS: &[Column] = &[
    Column::plain("STARTED", "started_at"),
    Column::plain("MAC ADDRESS", "mac"),
    Column::plain("HOSTNAME", "hostname"),
    Column::plain("ADDRESS", "address"),
    Column::plain("HOW IT STANDS", "stands"),
];

asks! {
    /// List the boots that the agent of a site has seen, of machines that are no nodes too; the latest first.
    #[argh(
        subcommand,
        name = "boots",
        example = "{command_name} berlin --stuck",
        note = "`node boots NODE` shows the timeline of each; --json has it for machines that are no nodes."
    )]
    struct SiteBoots {
        /// the site's path, name or id
        #[argh(positional)]
        site: String,

        /// only those of the machine with this MAC address
        #[argh(option)]
        mac: Option<String>,

        /// only those that are stuck or have failed
        #[argh(switch)]
        stuck: bool,

        /// sessions to look at, 0 for all (default: 200)
        #[argh(option, default = "200")]
        limit: usize,
    }
}

impl SiteBoots {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let session = self.session()?;
        let id = session.id(&SITE, &self.site).await?;
        let query = self.mac.clone().map(|mac| ("mac", mac)).into_iter().collect();
        let path = [SITE.path, &id, "boots"];
        let mut boots = session.client.list(&path, query, most(self.limit)).await?;
        boots.retain(|boot| !self.stuck || is_stuck(boot));
        if !session.screen.is_json {
            boots.iter_mut().for_each(summarize);
        }
        session.screen.rows(&boots, COLUMNS)
    }
}

fn is_stuck(boot: &Value) -> bool {
    let state = boot.pointer("/outcome/state").and_then(Value::as_str);
    matches!(state, Some("stuck" | "failed"))
}

/// Puts how a boot stands into words.
fn summarize(boot: &mut Value) {
    let outcome =
        serde_json::from_value::<BootView>(boot.clone()).map(|view| view.outcome.to_string());
    if let (Ok(outcome), Some(boot)) = (outcome, boot.as_object_mut()) {
        boot.insert("stands".to_owned(), outcome.into());
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_boot_is_told_with_who_saw_it_and_one_of_a_later_version_is_not_hidden() {
        let boot = json!({
            "id": "00000000-0000-4000-8000-000000000001", "mac": "52:54:00:12:34:56", "address": null,
            "started_at": "2026-11-21T00:00:00.000Z", "reached": "asking", "steps_folded": 0,
            "steps": [{"number": 0, "at_ms": 0, "took_ms": null, "times": 1, "step": "missing", "by": "tftp", "name": "x.efi"}],
            "hostname": "web1", "duration_ms": 0, "outcome": {"state": "stuck", "at": "missing_file"},
            "site": "/berlin", "received_at": "2026-11-21T00:01:00.000Z",
        });
        let mut later = boot.clone();
        later["steps"][0]["step"] = "teleported".into();
        expect![[r#"
            52:54:00:12:34:56  web1  2026-11-21T00:00:00.000Z  0.000 s  stuck at a file that is not here
              seen by the agent of /berlin, told 2026-11-21T00:01:00.000Z
              boot session 00000000-0000-4000-8000-000000000001
              +   0.000 s  TFTP: x.efi is not here
            boot session 00000000-0000-4000-8000-000000000001  2026-11-21T00:00:00.000Z  a later version has told it; --json shows it
              seen by the agent of /berlin, told 2026-11-21T00:01:00.000Z
        "#]]
        .assert_eq(&(block(&boot) + &block(&later)));
        assert!(is_stuck(&boot));
        let mut row = boot;
        summarize(&mut row);
        assert_eq!(row["stands"], "stuck at a file that is not here");
    }
}
