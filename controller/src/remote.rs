//! The operator's command line: nouns and verbs that ask a running controller by its REST API, from any machine.
//!
//! A noun is a file: what its verbs take (`asks!`), what is done with it, and what people are shown of it. What nouns have in
//! common is in `session`, which brings the `client`, the `screen`, names of things (`resolve`) and `FIELD=VALUE` (`fields`)
//! together. The answers are JSON as the API gave it. Nothing here knows the store.

mod agent;
mod arguments;
mod audit;
mod boots;
mod claim;
mod client;
mod conflict;
mod content;
mod fields;
mod group;
mod meta;
mod node;
mod place;
mod plugin;
mod progress;
mod resolve;
mod screen;
mod secret;
mod session;
mod site;
mod template;
mod transfer;
mod workflow;

use std::fmt::Debug;
use std::pin::Pin;

pub(crate) use agent::AgentArguments;
pub(crate) use audit::AuditArguments;
pub(crate) use conflict::ConflictArguments;
pub(crate) use content::ContentArguments;
pub(crate) use group::GroupArguments;
pub(crate) use node::NodeArguments;
pub(crate) use plugin::PluginArguments;
pub(crate) use secret::SecretArguments;
pub(crate) use site::SiteArguments;
pub(crate) use template::TemplateArguments;
pub(crate) use workflow::WorkflowArguments;

/// What comes of asking.
pub(crate) type Answer = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

/// What an operator asks of a running controller.
pub trait Ask: Debug {
    /// Asks, and shows the answer. The future fails where the controller cannot be reached or says no.
    fn run(self: Box<Self>) -> Answer;
}

#[cfg(test)]
mod tests;
