//! What a command works with: the client, the screen, and the way from what an operator names to what the API wants.

use std::collections::HashMap;

use anyhow::{Context, bail};
use pureboot_protocol::Mac;
use reqwest::Method;
use serde_json::Value;

use crate::config::UsageError;
use crate::remote::arguments::Connection;
use crate::remote::client::{Client, Query};
use crate::remote::fields::{self, Entry, Field};
use crate::remote::place::{Environment, Place};
use crate::remote::resolve::{NODE, Noun, choose, label, text};
use crate::remote::screen::{Column, Screen};
use crate::{print_note, terminal};

/// A controller that is asked, and the screen that is told.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) screen: Screen,
}

impl Session {
    /// A session with the controller that `connection` or the environment names.
    ///
    /// # Errors
    /// Neither names one, or its token or authority cannot be read.
    pub(crate) fn open(connection: Connection) -> anyhow::Result<Self> {
        let place = Place::choose(&connection, Environment::read())?;
        if place.url.is_clear() {
            print_note(&format!("the token crosses the network to {} in the clear", place.url));
        }
        Ok(Self { client: Client::new(place)?, screen: Screen { is_json: connection.is_json } })
    }

    /// Goes on if the operator has said `--yes`, or says yes now.
    ///
    /// # Errors
    /// The operator says no, or there is nobody to ask.
    pub(crate) fn confirm(&self, is_sure: bool, question: &str) -> anyhow::Result<()> {
        if is_sure {
            return Ok(());
        }
        match terminal::agrees(question)? {
            Some(true) => Ok(()),
            Some(false) => bail!("nothing has been changed"),
            None => bail!("{question} Nobody can be asked here; give --yes to go on"),
        }
    }

    /// The thing that `word` names.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub(crate) async fn find(&self, noun: &'static Noun, word: &str) -> anyhow::Result<Value> {
        // What is an id or an address as a whole need not be looked for.
        if word.parse::<pureboot_protocol::NodeId>().is_ok() {
            return Ok(self.client.get(&[noun.path, word], Query::new()).await?);
        }
        let filter = match word.parse::<Mac>() {
            Ok(mac) if *noun == NODE => vec![("mac", mac.to_string())],
            _ => Query::new(),
        };
        let word = filter.first().map_or(word, |(_, mac)| mac);
        let rows = self.client.list(&[noun.path], filter.clone(), None).await?;
        Ok(choose(noun, word, rows)?)
    }

    /// The id of the thing that `word` names.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub(crate) async fn id(&self, noun: &'static Noun, word: &str) -> anyhow::Result<String> {
        Ok(text(&self.find(noun, word).await?, "id").to_owned())
    }

    /// The body that `assignments` make, with ids in place of names; `more` members come with it.
    ///
    /// # Errors
    /// An assignment is none, or names nothing.
    pub(crate) async fn body(
        &self,
        known: &'static [Field],
        assignments: &[String],
        more: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> anyhow::Result<Value> {
        let mut members: Vec<_> = more.into_iter().collect();
        for (key, entry) in fields::parse(known, assignments)? {
            let value = match entry {
                Entry::Ready(value) => value,
                Entry::IdOf(noun, name) => self.id(noun, &name).await?.into(),
                Entry::IdsOf(noun, names) => {
                    let mut ids = serde_json::Map::new();
                    for (key, name) in names {
                        ids.insert(key, self.id(noun, &name).await?.into());
                    }
                    ids.into()
                }
            };
            members.push((key, value));
        }
        Ok(fields::body(members))
    }

    /// Makes a thing and says so.
    ///
    /// # Errors
    /// The controller refuses it.
    pub(crate) async fn make(
        &self,
        noun: &'static Noun,
        query: Query<'_>,
        body: &Value,
    ) -> anyhow::Result<()> {
        let made = self.client.send(Method::POST, &[noun.path], query, Some(body)).await?;
        let (what, label, id) = (noun.what, label(noun, &made), text(&made, "id").to_owned());
        self.screen.done(&made, &format!("made {what} {label} ({id})"))
    }

    /// Makes a thing called `name` from an operator's `assignments` and says so.
    ///
    /// # Errors
    /// An assignment is none or names nothing, or the controller refuses it.
    pub(crate) async fn make_named(
        &self,
        noun: &'static Noun,
        query: Query<'_>,
        name: &str,
        known: &'static [Field],
        assignments: &[String],
    ) -> anyhow::Result<()> {
        let body = self.body(known, assignments, [("name", name.into())]).await?;
        self.make(noun, query, &body).await
    }

    /// Changes the thing that `word` names and says so.
    ///
    /// # Errors
    /// There is none, or the controller refuses it.
    pub(crate) async fn change(
        &self,
        noun: &'static Noun,
        word: &str,
        query: Query<'_>,
        body: &Value,
    ) -> anyhow::Result<()> {
        if body.as_object().is_some_and(serde_json::Map::is_empty) {
            return Err(
                UsageError::new("nothing to change: expected at least one FIELD=VALUE").into()
            );
        }
        let id = self.id(noun, word).await?;
        let path = [noun.path, id.as_str()];
        let changed = self.client.send(Method::PATCH, &path, query, Some(body)).await?;
        self.screen.done(&changed, &format!("changed {} {}", noun.what, label(noun, &changed)))
    }

    /// Deletes the thing that `word` names, if the operator is sure, and says so.
    ///
    /// # Errors
    /// There is none, the operator says no, or the controller refuses it.
    pub(crate) async fn delete(
        &self,
        noun: &'static Noun,
        word: &str,
        is_sure: bool,
    ) -> anyhow::Result<()> {
        let found = self.find(noun, word).await?;
        let (what, label) = (noun.what, label(noun, &found));
        self.confirm(is_sure, &format!("Delete {what} {label}?"))?;
        let path = [noun.path, text(&found, "id")];
        let gone = self.client.send(Method::DELETE, &path, Query::new(), None).await?;
        self.screen.done(&gone, &format!("deleted {what} {label}"))
    }

    /// Shows a list of the API.
    ///
    /// # Errors
    /// The controller refuses it.
    pub(crate) async fn show_list(
        &self,
        path: &[&str],
        query: Query<'_>,
        most: Option<usize>,
        columns: &[Column],
    ) -> anyhow::Result<()> {
        let rows = self.client.list(path, query, most).await?;
        self.screen.rows(&rows, columns)
    }

    /// Puts the names of what `field` of each row refers to into the row's `name`, for people; programs get the rows as they are.
    ///
    /// # Errors
    /// The controller does not tell the names.
    pub(crate) async fn name(
        &self,
        rows: &mut [Value],
        noun: &'static Noun,
        names: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let refers = |row: &Value| names.iter().any(|(field, _)| !text(row, field).is_empty());
        if self.screen.is_json || !rows.iter().any(refers) {
            return Ok(());
        }
        let all = self.client.list(&[noun.path], Query::new(), None).await?;
        let labels: HashMap<_, _> =
            all.iter().map(|row| (text(row, "id"), label(noun, row))).collect();
        for row in rows {
            for (field, name) in names {
                let label = labels.get(text(row, field)).cloned().map(Value::from);
                let row = row.as_object_mut().context("a row of the list is no object")?;
                row.insert((*name).to_owned(), label.unwrap_or_default());
            }
        }
        Ok(())
    }
}

/// How many rows of a log are wanted: all of them for 0.
pub(crate) fn most(limit: usize) -> Option<usize> {
    (limit > 0).then_some(limit)
}
