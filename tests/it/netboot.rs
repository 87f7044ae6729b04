//! The firmware matrix: real firmware boots from the agent, each row on a network of its own.
//!
//! A machine loads a kernel that we assemble here: its only act is to say its command line on the serial port. The random
//! word in that command line was given to the controller by an operator; it reaches the serial port only if the loader, the
//! script and the kernel were really fetched and started. There is no iPXE for 64-bit ARM in Debian, so there the loader
//! itself is ours and says the word.
//!
//! `cargo xtask test --long` runs every row; those that are marked [`Need::Long`] are named as skipped otherwise.

mod http_boot;
mod mixed;
mod offline;
mod pxe;
mod rogue;
mod scene;
mod shim;
mod site_dhcp;
mod wire;

pub(crate) use scene::enable_proxydhcp;

use crate::Case;

pub(crate) fn cases() -> Vec<Case> {
    [
        site_dhcp::cases(),
        wire::cases(),
        pxe::cases(),
        http_boot::cases(),
        shim::cases(),
        rogue::cases(),
        mixed::cases(),
        offline::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
