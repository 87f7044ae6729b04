//! Where the agent may go: its data directory, what the name service reads, and the controller's port. By Landlock, which Linux has
//! since 5.13, for connections since 6.7; many routers' kernels have none.

use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, LandlockStatus,
    NetPort, RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError,
    RulesetStatus, Scope, make_bitflags, path_beneath_rules,
};

use super::{Gap, Plan, Wall};

/// The newest of what is limited: everything that Linux 6.12 can. Later versions would also close the sockets of the name service.
const NEWEST: ABI = ABI::V6;

/// A name service that is asked by TCP when an answer is long.
const DNS_PORT: u16 = 53;

/// What the agent does in its data directory. It makes plain files and directories, and runs none of them.
const AT_HOME: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    ReadFile | ReadDir | WriteFile | Truncate | RemoveFile | RemoveDir | MakeReg | MakeDir | Refer
});

/// Where single files are read, and nothing is listed: settings of the name service, which others replace while the agent runs, the
/// libraries that a dynamic program loads for it, time zones, and what the kernel tells of neighbours.
const READ_BENEATH: [&str; 8] = [
    "/etc",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/zoneinfo",
    "/proc",
    "/dev/urandom",
];

/// The settings of the name service.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Puts the walls around files and connections up; returns those that do not stand.
pub(super) fn stay_on(plan: &Plan<'_>) -> Vec<Gap> {
    match restrict(plan) {
        Ok(status) => gaps(&status),
        Err(error) => both(&format!("Landlock refuses: {error}")),
    }
}

fn restrict(plan: &Plan<'_>) -> Result<RestrictionStatus, RulesetError> {
    let ports =
        [plan.controller_port, DNS_PORT].map(|port| NetPort::new(port, AccessNet::ConnectTcp));
    let settings = name_service_dir();
    let read_only =
        READ_BENEATH.iter().map(Path::new).chain(settings.as_deref()).chain(plan.ca_file);
    Ruleset::default()
        // Without this right no file could be moved from one directory to another, so then there is no wall at all.
        .set_compatibility(CompatLevel::SoftRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::ConnectTcp)?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules([plan.data_dir], AT_HOME))?
        .add_rules(path_beneath_rules(read_only, AccessFs::ReadFile))?
        .add_rules(ports.into_iter().map(Ok::<_, RulesetError>))?
        .restrict_self()
}

/// The directory in which the settings of the name service really lie, where that is not `/etc`: whoever writes them puts a new file
/// in the place of the old one, so that only the directory stays the same.
fn name_service_dir() -> Option<PathBuf> {
    let file = fs::canonicalize(RESOLV_CONF).ok()?;
    Some(file.parent()?.to_owned())
}

fn gaps(status: &RestrictionStatus) -> Vec<Gap> {
    let abi = match status.landlock {
        LandlockStatus::NotImplemented => {
            return both("this kernel has no Landlock (CONFIG_SECURITY_LANDLOCK)");
        }
        LandlockStatus::NotEnabled => {
            return both("this kernel was started without Landlock (lsm=landlock,...)");
        }
        LandlockStatus::Available { effective_abi, .. } => effective_abi,
    };
    if status.ruleset == RulesetStatus::NotEnforced {
        return both("this kernel is older than Linux 5.19");
    }
    let gap =
        |wall, since| Gap { wall, reason: format!("this kernel is older than Linux {since}") };
    let files = (abi < ABI::V3).then(|| gap(Wall::Files, "6.2, and lets files be cut short"));
    let connections = (abi < ABI::V4).then(|| gap(Wall::Connections, "6.7"));
    files.into_iter().chain(connections).collect()
}

fn both(reason: &str) -> Vec<Gap> {
    [Wall::Files, Wall::Connections].map(|wall| Gap { wall, reason: reason.to_owned() }).into()
}
