//! What authors do with a site policy before it is one, and what the controller does with it when it comes: describe it, put it
//! into one file with its fixtures, compile it, and ask it what its fixtures say.
//!
//! | module | what it is | what it does not know |
//! |---|---|---|
//! | [`description`] | `policy.json`: name, version, hooks, settings with the values that they may have | files |
//! | [`bundle`] | one file of a description, a component and its fixtures. Pure | files, the compiler |
//! | [`fixture`] | a question, the answer that is expected, and whether it came | where the policy is from |
//! | `made` | a bundle compiled and asked, here or in a process with limits; with the feature `compile` | the controller |
//! | [`cli`] | the author's commands | the agent, the controller |

pub mod bundle;
pub mod cli;
pub mod description;
pub mod fixture;
#[cfg(feature = "compile")]
pub mod made;
