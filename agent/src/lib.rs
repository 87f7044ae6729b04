//! The program on the appliance: one executor thread, pure cores, one thin shell each.
//!
//! | module | what it is |
//! |---|---|
//! | [`tftp`] | RFC 1350 and its options: a transfer without I/O, and the sockets around it |
//! | [`dhcp`] | which loader a machine is told to fetch, beside the DHCP server that leases the addresses |
//! | [`boot`] | from a machine's question to its script |
//! | [`policy`] | the part that the site's own sandboxed policies have in a boot |
//! | [`answers`] | what an installer reads instead of asking a person |
//! | [`session`] | what is seen of each boot, from the first packet to the call-back |
//! | [`cache`] | verified content, by hash on disk and by name in an index |
//! | [`sync`] | content comes by itself: the signed manifest, what is missing, and one fetch for all who ask |
//! | [`outbox`] | changes that the controller has not acknowledged yet |
//! | [`store`] | the thread that owns `state/site.db` |
//! | [`uplink`] | everything that is said to the controller |
//! | [`http`], [`exchange`] | hyper on the executor as a server and as a client, with a limit on everything |
//! | [`manage`], [`status`], [`vitals`] | how the agent is, for people and for the controller |
//! | [`notify`] | what systemd wants to hear |
//! | [`agent`] | binds, opens, puts the parts together |
//! | [`cage`] | what it cannot do once it serves, whoever has got hold of it |
//! | [`doctor`] | what is wrong with this host and its boots, and the cure |
//! | [`install`] | how it comes to live on a machine |
//! | [`update`], [`supervise`] | how it comes to another version and back, and who starts it again |
//! | [`cli`], [`config`], [`data_dir`], [`program`] | what people type and write, where it lies, and where the program itself does |
//! | [`clock`], [`rng`], [`world`], [`rate`], [`log`] | time, chance, a simulation's in their place, how often something may happen, and the log |

pub mod agent;
pub mod answers;
pub mod boot;
pub mod cache;
pub mod cage;
pub mod cli;
pub mod clock;
pub mod config;
pub mod conflicts;
pub mod data_dir;
pub mod descriptors;
pub mod dhcp;
pub mod doctor;
pub mod exchange;
pub mod http;
pub mod install;
pub mod log;
pub mod manage;
pub mod nodes;
pub mod notify;
pub mod outbox;
pub mod policy;
pub mod program;
pub mod rate;
pub mod rng;
pub mod seal;
pub mod session;
pub mod status;
pub mod store;
pub mod supervise;
pub mod sync;
pub mod tftp;
pub mod update;
pub mod uplink;
pub mod vitals;
pub mod world;
