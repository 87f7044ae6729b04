//! The site's policies in the boots of its machines: small sandboxed programs of the site's owner, which run in `plugins/host`.
//!
//! | module | what it is | what it does not know |
//! |---|---|---|
//! | [`facts`] | what policies are asked, from what the site knows. Pure | clocks, the store |
//! | [`ground`] | what an answer has to agree with | what an answer leads to |
//! | [`fold`] | the built-in decision and the policies' verdict made one. Pure | the engine, I/O |
//! | [`attempts`] | how often a machine has asked lately. Pure | clocks |
//! | [`stock`] | what policies are asked about content. Pure | the cache, clocks |
//! | [`judge`] | the shell that asks them what the site keeps | what comes of it: `sync/verdicts` |
//! | [`kept`] | what of their fate survives a restart | how it is found out |
//! | [`record`] | what was asked, answered and burnt, in a file that does not grow | what it is read for |
//! | [`site`] | the shell: loads what the manifest assigns, asks, remembers, reports | |
//! | [`explain`], [`replay`] | why a machine boots what it boots, now and then | |
//!
//! A package is content of the category `plugins`, named and hashed by the signed manifest and signed itself; it is loaded from the very
//! bytes that were checked. Whatever goes wrong with a policy, the built-in decision stands, or what the site chose for that case.

pub mod attempts;
pub mod explain;
pub mod facts;
pub mod fold;
pub mod ground;
pub mod judge;
pub mod kept;
pub mod record;
pub mod replay;
pub mod route;
pub mod site;
pub mod stock;
