//! `node meta`, `group meta` and `site meta`: facts of operators' own making, for templates.

use reqwest::Method;
use serde_json::{Map, Value};

use crate::config::UsageError;
use crate::remote::arguments::asks;
use crate::remote::client::Query;
use crate::remote::resolve::{GROUP, NODE, Noun, SITE, label, text};
use crate::remote::session::Session;

macro_rules! meta {
    ($name:ident, $noun:ident) => {
        asks! {
            /// Show the facts that operators have made up for templates (`meta.NAME`), or set some.
            #[argh(
                subcommand,
                name = "meta",
                example = "{command_name} web1 rack=7 owner=",
                note = "NAME=VALUE sets a fact, NAME= takes it away. What groups and sites have, those below them have too."
            )]
            struct $name {
                /// whose facts: its name, path or id, or a node's MAC address
                #[argh(positional)]
                owner: String,

                /// what to set: NAME=VALUE, can be repeated
                #[argh(positional)]
                facts: Vec<String>,
            }
        }

        impl $name {
            pub(super) async fn run(self) -> anyhow::Result<()> {
                run(&self.session()?, &$noun, &self.owner, &self.facts).await
            }
        }
    };
}

meta!(NodeMeta, NODE);
meta!(GroupMeta, GROUP);
meta!(SiteMeta, SITE);

async fn run(
    session: &Session,
    noun: &'static Noun,
    owner: &str,
    facts: &[String],
) -> anyhow::Result<()> {
    let patch = patch(facts)?;
    let owner = session.find(noun, owner).await?;
    let path = [noun.path, text(&owner, "id"), "meta"];
    if patch.is_empty() {
        let meta = session.client.get(&path, Query::new()).await?;
        return session.screen.thing(&meta, &[], None);
    }
    let body = Value::Object(patch);
    let meta = session.client.send(Method::PATCH, &path, Query::new(), Some(&body)).await?;
    let own = meta.get("own").and_then(Value::as_object).map_or(0, Map::len);
    let label = label(noun, &owner);
    session.screen.done(&meta, &format!("{} {label} has {own} facts of its own", noun.what))
}

/// What `facts` set and take away.
fn patch(facts: &[String]) -> Result<Map<String, Value>, UsageError> {
    let pair = |fact: &String| match fact.split_once('=') {
        Some((name, "")) => Ok((name.to_owned(), Value::Null)),
        Some((name, value)) => Ok((name.to_owned(), value.into())),
        None => Err(UsageError::new(format!("'{fact}' is no NAME=VALUE; NAME= takes a fact away"))),
    };
    facts.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fact_is_set_or_taken_away() {
        let facts = ["rack=7", "note=a=b", "owner="].map(str::to_owned);
        let patched = patch(&facts).map(Value::Object).map_err(|error| error.to_string());
        assert_eq!(patched, Ok(json!({"rack": "7", "note": "a=b", "owner": null})));
        let error = patch(&["rack".to_owned()]).expect_err("refused").to_string();
        assert!(error.contains("'rack' is no NAME=VALUE"), "{error}");
    }
}
