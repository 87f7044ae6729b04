//! The handlers, one file a resource: take the request apart, check what only the request knows, ask the store, answer.

pub(crate) mod agents;
pub(crate) mod answers;
pub(crate) mod audit;
pub(crate) mod boots;
pub(crate) mod bulk;
pub(crate) mod changes;
pub(crate) mod commands;
pub(crate) mod conflicts;
pub(crate) mod content;
pub(crate) mod custody;
pub(crate) mod groups;
pub(crate) mod health;
pub(crate) mod manifest;
pub(crate) mod meta;
pub(crate) mod migrations;
pub(crate) mod nodes;
pub(crate) mod plugins;
pub(crate) mod releases;
pub(crate) mod secrets;
pub(crate) mod session;
pub(crate) mod sites;
pub(crate) mod templates;
pub(crate) mod tokens;
pub(crate) mod users;
pub(crate) mod workflows;

pub(crate) mod check;

#[cfg(test)]
pub(crate) mod tests;
