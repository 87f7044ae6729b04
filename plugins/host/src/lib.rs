//! Runs site policies: WASM components that decide what a machine boots, change its script, and judge what a site keeps.
//!
//! A policy is values in and values out. It has no clock, no network, no file and no memory of earlier calls; each call has an
//! instance of its own, so much fuel, so much memory, and what it answers is checked. Whatever goes wrong, the built-in decision
//! stands, and no failure leads towards an installation.
//!
//! | module | what it is | what it does not know |
//! |---|---|---|
//! | [`package`] | the signed file of a compiled policy, and the only way to its code | the engine |
//! | [`seal`] | what this host compiled itself, kept between starts | who asks for it |
//! | [`facts`] | what policies are asked and answer, in words that no version of the contract changes | the engine, the agent |
//! | [`answer`] | the checks of what they answer | the engine |
//! | [`outline`] | what a component has and asks for | what it is to be used for |
//! | [`engine`], [`plugin`], [`state`] | one policy within its limits, on any executor | the other policies |
//! | [`breaker`], [`chain`] | when a policy is set aside; whose word counts. Pure | clocks, the engine |
//! | [`policies`] | the site's policies: order, versions, turns, counts | what an answer leads to |
//! | `compile` | components made and compiled, with the feature of that name | |
//!
//! # How an agent uses it
//!
//! At start, and whenever the controller names another set: read a package once into memory, [`package::Unchecked::parse`] and
//! [`check`](package::Unchecked::check) those bytes with the keys that were pinned when the agent joined, load it with
//! [`plugin::Plugin::load`] and put it into use with [`policies::Policies::activate`]; then [`policies::Policies::arrange`] says the order.
//! Nothing that is refused displaces what runs.
//!
//! For a boot: make [`facts::BootFacts`] of what the decision rests on, implement [`answer::Ground`] on the same, and await
//! [`policies::Policies::decide`]. The [`chain::Verdict`] maps onto the agent's decision so: no `action` is the agent's own decision; for
//! [`facts::Action::Workflow`] the agent puts the named workflow in place of the assigned one and decides again, so that all that keeps a
//! machine from being installed twice still holds; every other action replaces what the machine boots; `set` goes to the
//! templates, and `notes` become reasons of the decision and lines of its record. The script that is rendered goes through
//! [`policies::Policies::patch`] and the linter once more. [`policies::Policies::status`] is for heartbeats and metrics, and
//! [`policies::Policies::take_events`] for the outbox.
//!
//! A call never blocks its executor: it gives way each few tens of microseconds. It may be dropped at any time, and its instance
//! with it.

pub mod answer;
pub mod breaker;
pub mod chain;
#[cfg(feature = "compile")]
pub mod compile;
mod contract;
pub mod engine;
pub mod facts;
mod imports;
pub mod outline;
pub mod package;
pub mod plugin;
pub mod policies;
pub mod seal;
pub mod state;
#[cfg(test)]
mod testing;
