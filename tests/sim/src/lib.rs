//! Agents, controller, network, clock and crashes in one process, by a seed (FAULTS §12.1).
//!
//! What runs is the product: the agents' store on SQLite, outbox, flusher, decisions, reports, connectivity, heartbeats and orders,
//! and the controller's router with its store. What is simulated is what lies around it: time, chance, the network, the disk's and
//! the processes' ends, machines, and people. A run is chaos with a random subset of the faults, then everything is mended, what
//! waits must be handed over, and the oracle judges. The same options give the same trace, byte for byte.
//!
//! A *node-year* is one machine for 365 days of virtual time. It is made of what happens and not of a multiplication: in it the
//! machine gets some twenty scripts, its installer and its system make some forty reports, and its site's agent
//! puts some three hundred requests to the controller ([`tally`] counts them, and each run prints its counts). What is stretched is idleness: during
//! chaos an agent that wants to sleep for more than 20 s sleeps 120 times as long, so that a site's heartbeats are days apart and
//! not minutes; in the two hours in which everything must be handed over it sleeps as long as it wants to.
//!
//! # What is not there, and what is excused
//!
//! - Content, answer files, the hand-over of boot sessions, the rotation of credentials, TFTP and DHCP do not run; nor does
//!   `uplink/join.rs`, whose order of steps [`site`] repeats. Sites are in one version of the program, and no machine moves from one
//!   site to another.
//! - A crash is one between two jobs of the store, before or after the commit of one: what SQLite does within a commit is not
//!   taken apart here. Power cuts are another test's.
//! - A wish of a site's own operator goes to the controller and moves nothing at the site, as the agent has no path for it.
//! - What a damaged disk held and the controller did not have yet may be lost, and so may what the controller itself says that it
//!   has lost with a restore. What the controller had taken from a disk that was damaged later goes with a backup that is older
//!   than it: both disks that had it are gone.
//!
//! | module | what it is |
//! |---|---|
//! | [`scenario`] | a run: its phases and the queue of what happens when |
//! | [`kernel`], [`dice`] | virtual time, chance by the seed |
//! | [`centre`], [`site`] | the real controller and the real agent, each with the seams that a run needs |
//! | [`network`], [`machine`], [`operator`] | what carries requests, what boots, who decides |
//! | [`faults`] | what can go wrong, and the bugs that are planted to see whether a run notices |
//! | [`oracle`], [`verdict`] | what must hold, by what machines and operators were told |
//! | [`swarm`], [`tally`], [`shrink`] | many runs, what has happened in them, and the least that still fails |

#![expect(
    clippy::indexing_slicing,
    reason = "sites and machines are numbered by the run, which had better end where a number is wrong"
)]

pub mod centre;
mod courier;
pub mod dice;
pub mod faults;
mod files;
pub mod kernel;
pub mod machine;
pub mod network;
pub mod operator;
pub mod oracle;
pub mod scenario;
pub mod shrink;
pub mod site;
mod strikes;
pub mod swarm;
pub mod tally;
pub mod verdict;
