//! Whose rights a process has: root becomes the owner of the data directory, and capabilities go once they are used.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Context as _;
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, set_capabilities, set_keep_capabilities,
};

use super::{Gap, Wall};

/// The port 67, a socket of one interface before Linux 5.7, and room for a thousand datagrams.
const FOR_BINDING: CapabilitySet =
    CapabilitySet::NET_BIND_SERVICE.union(CapabilitySet::NET_RAW).union(CapabilitySet::NET_ADMIN);

/// What a process keeps of root's rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// No right.
    Nothing,
    /// What it takes to bind the ports of DHCP again when an interface is made anew.
    ForPortsOfDhcp,
    /// What it takes to bind any port.
    ForBinding,
    /// All, to look at what belongs to others.
    Everything,
}

impl Kept {
    fn capabilities(self) -> CapabilitySet {
        match self {
            Self::Nothing => CapabilitySet::empty(),
            Self::ForPortsOfDhcp => CapabilitySet::NET_BIND_SERVICE | CapabilitySet::NET_RAW,
            Self::ForBinding => FOR_BINDING,
            Self::Everything => CapabilitySet::all(),
        }
    }
}

/// Where root runs this process and `data_dir` belongs to another user, it goes on as that user, so that no file is made that the
/// agent cannot read, and none is believed that the agent could not have written. What is no directory is left to whoever opens it.
///
/// # Errors
/// The system does not let it, as in a container without that right.
pub fn become_owner(data_dir: &Path, kept: Kept) -> anyhow::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let owner = match fs::symlink_metadata(data_dir) {
        Ok(metadata) if metadata.is_dir() && metadata.uid() != 0 => metadata,
        _ => return Ok(()),
    };
    let (user, group) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    let change = || -> io::Result<()> {
        let had = capabilities(None)?.permitted;
        set_keep_capabilities(true)?;
        setgroups(&[])?;
        setresgid(group, group, group)?;
        setresuid(user, user, user)?;
        set_keep_capabilities(false)?;
        Ok(limit_to(had & kept.capabilities())?)
    };
    change().with_context(|| {
        format!(
            "cannot go on as user {user}, to whom {} belongs: start as that user",
            data_dir.display()
        )
    })
}

/// Gives up all capabilities but those that are `kept`.
pub(super) fn drop_all_but(kept: Kept) -> Result<(), Gap> {
    let give_up = || {
        // Linux before 4.3 has no such set.
        _ = clear_ambient_capability_set();
        limit_to(capabilities(None)?.permitted & kept.capabilities())
    };
    give_up().map_err(|error| Gap {
        wall: Wall::Rights,
        reason: format!("the capabilities cannot be given up: {error}"),
    })
}

fn limit_to(kept: CapabilitySet) -> rustix::io::Result<()> {
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)
}

/// Has the capabilities that this process may use stay with the program that takes its place.
///
/// # Errors
/// The kernel knows no such capabilities (before Linux 4.3), or the system forbids it.
pub fn hand_on() -> anyhow::Result<()> {
    if geteuid().is_root() {
        return Ok(());
    }
    let hand_on = || -> rustix::io::Result<()> {
        let held = capabilities(None)?.permitted;
        let sets = CapabilitySets { effective: held, permitted: held, inheritable: held };
        set_capabilities(None, sets)?;
        held.iter().try_for_each(|one| configure_capability_in_ambient_set(one, true))
    };
    hand_on().context("the right to the ports cannot be handed on to another program")
}

/// Whose rights this process has.
pub(super) fn user() -> u32 {
    geteuid().as_raw()
}

/// The capabilities of this thread, as the system names them.
pub(super) fn names() -> Vec<String> {
    let Ok(sets) = capabilities(None) else { return Vec::new() };
    sets.permitted.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}
