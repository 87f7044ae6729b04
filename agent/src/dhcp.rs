//! ProxyDHCP: the answers that name a boot loader, given beside the DHCP server that leases the addresses (RFC 2131, RFC 4578,
//! PXE 2.1, UEFI 2.10 §24.7). IPv4 only.
//!
//! A machine that asks for an address also asks who boots it. [`serve`] hears that on the ports 67 and 4011, [`answer`] decides
//! without I/O what to say or why to be silent, and everything that it needs for that is a table: [`arch`] from the codes of
//! firmware to the kind of loader, [`loaders`] from the kind to a file, [`quirks`] from the model to the form of the answer.
//! What machines teach ([`lessons`]) and who is not served ([`notices`]) is written down by [`scribe`].
//! [`snippet`] writes the same tables down for a DHCP server that names the loader itself.

pub mod answer;
pub mod arch;
mod config;
pub mod interfaces;
pub mod lessons;
pub mod loaders;
pub mod notices;
pub mod packet;
pub mod quirks;
mod recent;
pub mod scribe;
pub mod serve;
pub mod snippet;

pub use config::DhcpConfig;
