//! The handlers, one file a resource: take the request apart, check what only the request knows, ask the store, answer.

pub(crate) mod agents;
pub(crate) mod bulk;
pub(crate) mod changes;
pub(crate) mod custody;
pub(crate) mod groups;
pub(crate) mod health;
pub(crate) mod nodes;
pub(crate) mod sites;
pub(crate) mod workflows;

mod check;

#[cfg(test)]
mod tests;
