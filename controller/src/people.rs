//! People and tokens at the command line of the controller's own machine. Whoever can open the database decides over it, so
//! nobody is asked who they are; what they do is in the audit with the name that the system knows them by.

mod tokens;
mod users;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use nix::unistd::{Uid, User as SystemUser};
use pureboot_protocol::{Page, Timestamp};
use serde::Serialize;

use crate::audit::{self, Actor, Entry};
use crate::config::{self, Database};
use crate::data_dir::DataDir;
use crate::store::{Paging, Store, StoreError};
use crate::{now, open, print_line};

pub(crate) use tokens::run as run_token;
pub(crate) use users::run as run_user;

/// What changes at the command line are found under, beside those of requests.
pub(crate) const CORRELATION_ID: &str = "command-line";

/// A database that is worked on.
struct Desk {
    store: Store,
    is_json: bool,
}

impl Desk {
    /// The database that `named` or the environment names, or else the one in `data_dir`.
    async fn open(data_dir: &Path, named: Option<&str>, is_json: bool) -> anyhow::Result<Self> {
        let database = config::database(named)?;
        let data_dir = match &database {
            Some(Database::Server(_)) => DataDir::make(data_dir)?,
            Some(Database::File(_)) | None => DataDir::existing(data_dir, database.as_ref())?,
        };
        Ok(Self { store: open(&data_dir, database.as_ref()).await?, is_json })
    }

    /// Does `work`, which is called `action`, to what `target` names.
    async fn act<T>(
        &self,
        action: &str,
        work: impl Future<Output = Result<T, StoreError>>,
        target: impl Fn(&T) -> String,
    ) -> anyhow::Result<T> {
        let actor = Actor::command_line(system_user());
        let mut entry = Entry::new(now(), actor, action, CORRELATION_ID);
        let done = audit::within(Arc::new(entry.clone()), work).await?;
        entry.target = Some(target(&done));
        self.store.record(&entry).await.context("it is done, but the audit cannot be written")?;
        Ok(done)
    }

    /// Says what has become of `thing`, as `sentence` or as JSON.
    fn say(&self, thing: &impl Serialize, sentence: &str) -> anyhow::Result<()> {
        match self.is_json {
            true => print_line(&serde_json::to_string(thing).context("cannot write JSON")?),
            false => print_line(sentence),
        }
    }
}

/// Every row of a list.
async fn all<T, F: Future<Output = Result<Page<T>, StoreError>>>(
    list: impl Fn(Paging) -> F,
) -> anyhow::Result<Vec<T>> {
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let mut page = list(Paging { limit: Paging::LIMIT_MAX, after }).await?;
        rows.append(&mut page.data);
        match page.next_cursor.map(|cursor| cursor.parse()) {
            Some(Ok(cursor)) => after = Some(cursor),
            Some(Err(())) | None => return Ok(rows),
        }
    }
}

/// The user of the system that called this program.
pub(crate) fn system_user() -> String {
    let uid = Uid::current();
    let known = SystemUser::from_uid(uid).ok().flatten();
    known.map_or_else(|| format!("uid {uid}"), |user| user.name)
}

/// A time in a table.
fn moment(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| at.to_string())
}
