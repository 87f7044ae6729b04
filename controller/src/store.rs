//! The database, behind one door: what the API and the jobs may ask of it, with the SQL of each resource in its own file.
//!
//! Nobody outside of this module sees SQL, a row or a connection. Whatever belongs together is one method and one transaction.

mod agents;
mod answers;
mod audit;
mod beats;
mod boots;
mod changes;
mod claims;
mod commands;
mod conflicts;
mod content;
mod credentials;
mod custody;
mod dump;
mod edits;
mod figures;
mod groups;
mod installation;
mod installs;
mod leases;
mod load;
mod logs;
mod manifests;
mod many;
mod meta;
mod nodes;
mod open;
mod orders;
mod page;
mod plugins;
mod postgres;
mod records;
mod repeats;
mod row;
mod schema;
mod secrets;
mod sessions;
mod sites;
mod sqlite;
mod templates;
mod tenures;
mod tokens;
mod tree;
mod users;
mod workflows;

use std::time::Instant;

use prometheus_client::metrics::histogram::Histogram;
use pureboot_plugin_author::description::SettingError;
use pureboot_protocol::{
    ClaimId, CommandId, ConflictId, ContentHash, ContentKey, GroupId, Mac, NodeId, PluginId,
    PluginVersion, Resolution, SiteId,
};
use pureboot_templates::answer::AnswerError;
use sqlx::migrate::MigrateError;
use sqlx::{Any, AnyPool, Transaction};

use crate::node::{CommandError, OrderError, TagError};
use crate::store::open::Kind;

pub(crate) use agents::{AgentStanding, KeptHeartbeat, Silence};
pub(crate) use answers::{AnswerFacts, AnswerKit};
pub(crate) use audit::{AuditFilter, AuditRow};
pub(crate) use beats::{Beat, Heard};
pub(crate) use boots::KeptBoot;
pub(crate) use changes::BATCH_ITEMS_MAX;
pub(crate) use claims::{Claim, ClaimFilter, Word as ClaimWord};
pub(crate) use commands::{Command, CommandStatus, Enqueued};
pub(crate) use conflicts::{ConflictStatus, Decision, ResolvedAll};
pub(crate) use content::{ContentEntry, ContentFilter, KeptObject, Named};
pub(crate) use credentials::{Bearer, TOKEN_HOURS};
pub(crate) use custody::Parked;
pub(crate) use dump::Snapshot;
pub(crate) use edits::Edit;
pub(crate) use figures::{Figures, Pools};
pub(crate) use groups::{Group, GroupFields, GroupFilter};
pub(crate) use installs::Install;
pub(crate) use load::Loading;
pub(crate) use logs::{LoggedEvent, LoggedMove};
pub(crate) use manifests::IssuedManifest;
pub(crate) use meta::{MetaOwner, MetaView};
pub(crate) use nodes::{NewNode, NodeFilter, NodePatch, Origin};
pub(crate) use page::{Cursor, Paging};
pub(crate) use plugins::{
    AssignmentFields, KeptVersion, NewVersion, Place, Plugin, PluginAssignment, SitePolicy,
    Uncompiled, bundle_key,
};
#[cfg(test)]
pub(crate) use repeats::UNDER_WAY_SECONDS;
pub(crate) use repeats::{Asked, Before};
pub(crate) use secrets::{SealedSecret, SecretView, scope as secret_scope};
pub(crate) use sessions::{NewSession, SESSION_SECONDS};
pub(crate) use sites::{Site, SiteFields};
pub(crate) use templates::{Template, TemplateHead};
pub(crate) use tenures::Fenced;
pub(crate) use tokens::{NewToken, Token};
pub(crate) use users::{NewUser, User, UserPatch};
pub(crate) use workflows::KeptWorkflow;

/// What cannot be done, and why. The text is for people; [`crate::error::ApiError`] gives each its status and code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// There is no such thing.
    #[error("there is no {what} with the id {id}")]
    Missing {
        /// What kind of thing.
        what: &'static str,
        /// Which.
        id: String,
    },
    /// A name that has to be unique is in use.
    #[error("the name '{name}' is taken by another {what}")]
    NameTaken {
        /// By what kind of thing.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Another node has the address.
    #[error("the node {holder} has the MAC address {mac} already")]
    MacTaken {
        /// The address.
        mac: Mac,
        /// The node's id.
        holder: String,
    },
    /// A field names something that does not exist.
    #[error("there is no {what} with the id {id}")]
    Unknown {
        /// The field of the request.
        field: &'static str,
        /// What kind of thing it should name.
        what: &'static str,
        /// What it names.
        id: String,
    },
    /// A site's parent is none.
    #[error("Sites can only be nested under other sites, and {0} is none")]
    ParentNotASite(GroupId),
    /// A site or group cannot be moved into itself.
    #[error("'{name}' cannot be moved under itself or under what is below it")]
    ParentBelow {
        /// The site or group.
        name: String,
    },
    /// A site or group has something in it.
    #[error(
        "Cannot delete {} '{name}': it has {children} sites or groups and {nodes} nodes; move or retire them first",
        if *.is_site { "site" } else { "group" }
    )]
    PlaceInUse {
        /// Whether it is a site.
        is_site: bool,
        /// The site or group.
        name: String,
        /// Sites and groups directly below.
        children: u64,
        /// Nodes that are not retired.
        nodes: u64,
    },
    /// A workflow is what nodes are to be installed with.
    #[error(
        "cannot delete workflow '{name}': {nodes} nodes use it and {groups} sites or groups name it as default; assign them \
         another one first"
    )]
    WorkflowInUse {
        /// The workflow.
        name: String,
        /// Nodes that are not retired.
        nodes: u64,
        /// Sites and groups.
        groups: u64,
    },
    /// A template is what answer files are made of.
    #[error(
        "cannot delete or rename template '{name}': {workflows} workflows use it and {templates} templates include it; change \
         them first"
    )]
    TemplateInUse {
        /// The template.
        name: String,
        /// Workflows with an answer file that is made of it; a new name does not matter to them.
        workflows: u64,
        /// Templates that include it by its name.
        templates: u64,
    },
    /// A template does not compile, or would keep one from it that includes it.
    #[error("{0}")]
    Template(AnswerError),
    /// A node or group has more facts of operators' making than fit.
    #[error("a node or group has at most {0} entries of meta")]
    MetaFull(usize),
    /// The client has seen another version than the one that it wants to change.
    #[error("you know version {given}, the current version is {current}; read it again")]
    Stale {
        /// What the client knows.
        given: u64,
        /// What is.
        current: u64,
    },
    /// A name means other content than the client's `If-Match` or `If-None-Match` allows.
    #[error(
        "{key} {} now, which If-Match or If-None-Match does not allow",
        .current.map_or("means nothing".to_owned(), |sha256| format!("has the ETag \"{sha256}\""))
    )]
    Condition {
        /// The name.
        key: ContentKey,
        /// What it means.
        current: Option<ContentHash>,
    },
    /// Workflows load the content.
    #[error(
        "cannot delete {key}: workflow '{}' loads it; let the workflow load something else first",
        .workflows.join("', '")
    )]
    ContentInUse {
        /// The name.
        key: ContentKey,
        /// Some of them.
        workflows: Vec<String>,
    },
    /// Fields name content that the controller does not have.
    #[error("there is no content {}", .0.iter().map(|(_, key)| key.to_string()).collect::<Vec<_>>().join(", "))]
    ContentMissing(
        /// Each field with what it names.
        Vec<(String, ContentKey)>,
    ),
    /// A node does not move as ordered.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// A node's tags do not change as asked.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// Nobody has made a registration token for the site.
    #[error("No registration token configured for this site")]
    NoToken,
    /// A registration token is wrong, used by another, or expired: which of them is not said.
    #[error("this registration token is not valid for this site; an operator can make a new one")]
    TokenRefused,
    /// An operator has ended the credential.
    #[error(
        "this agent's credential has been revoked by an operator; make a new token for the site and run `pureboot-agent init \
         --rejoin` with it"
    )]
    CredentialRevoked,
    /// Without it nobody could decide over people any more.
    #[error("this is the last admin; make another one first")]
    LastAdmin,
    /// So many that nobody knows what they are for.
    #[error(
        "there are {} valid tokens of this owner already; revoke some first",
        tokens::TOKENS_MAX
    )]
    TooManyTokens,
    /// Another site's agent has the same credential.
    #[error("this credential belongs to the agent of another site; let the agent make a new one")]
    CredentialInUse,
    /// So many commands wait for a site's agent that one more would not be looked at for long.
    #[error(
        "site {site} has {} commands whose results are not known; wait until its agent has answered, or take queued ones back \
         with DELETE /api/v1/sites/{site}/commands/ID",
        commands::OPEN_MAX
    )]
    TooManyCommands {
        /// The site.
        site: SiteId,
    },
    /// What an agent was given cannot be taken back.
    #[error("command {id} is {status}; only what is queued can be taken back")]
    CommandGiven {
        /// The command.
        id: CommandId,
        /// How far it is.
        status: &'static str,
    },
    /// A machine is not ordered what was asked for.
    #[error(transparent)]
    NodeCommand(#[from] CommandError),
    /// An outbox has two different changes with one number.
    #[error("up to change {seq} this epoch came with other changes before; begin a new epoch")]
    Forked {
        /// The sequence number.
        seq: u64,
    },
    /// Another life of the agent is the one that is listened to.
    #[error(transparent)]
    IdentityInUse(#[from] Fenced),
    /// A conflict has ended in another way.
    #[error(
        "the conflict {conflict} has ended with {resolution}; what is decided is not decided anew, change the node itself instead"
    )]
    Decided {
        /// Which.
        conflict: ConflictId,
        /// How.
        resolution: Resolution,
    },
    /// A claim has ended in another way.
    #[error("the claim {claim} is {decision} already; set the node's site itself to change that")]
    ClaimDecided {
        /// Which.
        claim: ClaimId,
        /// How.
        decision: &'static str,
    },
    /// The node of a conflict is not as it was when the conflict was written down.
    #[error(
        "the node has changed since the conflict {conflict} was written down and has version {current} now; read it again and \
         name that version in If-Match or node_version"
    )]
    Moved {
        /// Which conflict.
        conflict: ConflictId,
        /// The node's version.
        current: u64,
    },
    /// A conflict is about a node that the controller does not have.
    #[error(
        "the controller has no node {node}; let the machine boot so that its site registers it, or decide for keep_central"
    )]
    NotThere {
        /// As the site calls it.
        node: NodeId,
    },
    /// A site would take a node from another one.
    #[error(
        "the conflict {conflict} is about a node of another site: an operator decides about it at the controller, see GET /migrations"
    )]
    NotTheSites {
        /// Which.
        conflict: ConflictId,
    },
    /// A version of a policy is another component.
    #[error(
        "plugin {plugin} has a version {version} already, which is another component: give this one a higher version"
    )]
    PluginVersionTaken {
        /// The policy.
        plugin: PluginId,
        /// The version.
        version: PluginVersion,
    },
    /// So many versions of a policy that nobody needs them all.
    #[error("plugin {plugin} has {max} versions; delete some that no site is given")]
    PluginVersions {
        /// The policy.
        plugin: PluginId,
        /// How many there may be.
        max: u64,
    },
    /// There is nothing to go back to.
    #[error("plugin {plugin} has had no other version before this one; name the version to go to")]
    PluginFirst {
        /// The policy.
        plugin: PluginId,
    },
    /// A policy or a version of it is what sites are given.
    #[error("cannot delete {what}; {cure}")]
    PluginInUse {
        /// What.
        what: String,
        /// What helps.
        cure: &'static str,
    },
    /// A policy is to have settings that it cannot have.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    PluginSettings(Vec<SettingError>),
    /// A group has no agent that could run policies.
    #[error(
        "'{name}' is a group, which has no agent to run policies: assign it to a site, for it and the sites below, or to every site"
    )]
    PluginPlace {
        /// The group.
        name: String,
    },
    /// More policies than a site runs.
    #[error("a site runs {0} policies at most; unassign one first")]
    PluginsFull(usize),
    /// Others keep the database busy for longer than a request waits, or it is away.
    #[error("the database is busy or away, try again")]
    Busy,
    /// A text that PostgreSQL does not take.
    #[error("a text holds the character U+0000; leave it out")]
    NulInText,
    /// The database does not do its part.
    #[error("database: {0}")]
    Database(sqlx::Error),
    /// The database is not there, or is not one that can be used. The text says what helps.
    #[error("{0}")]
    Unusable(String),
    /// The schema cannot be brought to this version.
    #[error("database schema: {0}")]
    Migration(#[from] MigrateError),
    /// A row holds what this version does not understand.
    #[error("column {column} holds something unknown: {message}")]
    Value {
        /// Where.
        column: &'static str,
        /// What is wrong with it.
        message: String,
    },
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code());
        match (&error, code.as_deref()) {
            (sqlx::Error::PoolTimedOut, _) => Self::Busy,
            (sqlx::Error::Io(away), _) => {
                tracing::warn!(error = %away, "the database has gone away: {away}");
                Self::Busy
            }
            (_, Some(code)) if sqlite::is_busy(code) || postgres::is_busy(code) => Self::Busy,
            (_, Some(postgres::NUL_IN_TEXT)) => Self::NulInText,
            _ => Self::Database(error),
        }
    }
}

/// The database. Clones share it.
///
/// Writers wait for each other, in order, whichever database it is and however many controllers share it, so that what a
/// method reads is still so when it writes: no method has to think of another one that runs beside it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    kind: Kind,
    /// One connection, so that the writers of this controller wait for each other here.
    writer: AnyPool,
    reader: AnyPool,
    /// Seconds that transactions waited until they could write.
    write_waits: Histogram,
}

impl Store {
    /// Asks the database for an answer.
    ///
    /// # Errors
    /// It gives none.
    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT count(*) FROM api_tokens").fetch_one(&self.reader).await?;
        Ok(())
    }

    /// Closes the database once what is under way has ended.
    pub(crate) async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    /// Begins to write, with the row of the audit that it belongs to and the mark on its `Idempotency-Key`. What is not committed is
    /// rolled back when the transaction is dropped.
    async fn write(&self) -> Result<Transaction<'static, Any>, StoreError> {
        let start = Instant::now();
        let begun = self.begin_to_write().await;
        self.write_waits.observe(start.elapsed().as_secs_f64());
        let mut tx = begun?;
        audit::begin(&mut tx).await?;
        repeats::mark(&mut tx).await?;
        Ok(tx)
    }

    async fn begin_to_write(&self) -> Result<Transaction<'static, Any>, StoreError> {
        let mut tx = self.writer.begin_with(self.kind.begin_to_write()).await?;
        if self.kind == Kind::Postgres {
            sqlx::query(postgres::LOCK_ALL).execute(&mut *tx).await?;
        }
        Ok(tx)
    }
}

/// Refuses a change of `current` by a client that knows another version.
fn check_version(given: Option<u64>, current: u64) -> Result<(), StoreError> {
    match given {
        Some(given) if given != current => Err(StoreError::Stale { given, current }),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod tests;
