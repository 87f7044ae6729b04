//! What policies are asked, made of what the site knows. Pure: times come in.

use std::net::IpAddr;
use std::time::Duration;

use pureboot_plugin_host::facts::{Arch, BootFacts, Node, Purpose, Site, Vars};
use pureboot_protocol::{
    Arch as BuildArch, Assignment, BootRecord, BootRequest, Platform, Timestamp,
};

use crate::boot::decide::{Boot, Freshness};
use crate::boot::inputs::{Found, Inputs};

/// What a question says beside what the decision rests on.
#[derive(Debug, Clone)]
pub struct Circumstances {
    /// The machine's address.
    pub address: Option<IpAddr>,
    /// The site.
    pub site: Site,
    /// The wall clock.
    pub now: Timestamp,
    /// Questions of the machine within ten minutes, this one included.
    pub attempt: u32,
}

/// The question that policies are asked about one machine.
pub fn boot_facts(inputs: &Inputs, circumstances: &Circumstances) -> BootFacts {
    let Circumstances { address, site, now, attempt } = circumstances;
    BootFacts {
        mac: inputs.request.mac,
        arch: arch(&inputs.request),
        arch_code: None,
        client_ip: address.map(|address| address.to_canonical()),
        hardware: hardware(&inputs.request),
        node: match &inputs.found {
            Found::Known { record, freshness } => Some(node(record, age(*freshness))),
            Found::Elsewhere { .. } | Found::Unknown | Found::Unreachable => None,
        },
        site: site.clone(),
        now: u32::try_from(now.unix_ms() / 1_000).unwrap_or_default(),
        attempt: *attempt,
    }
}

fn age(freshness: Freshness) -> Duration {
    match freshness {
        Freshness::Asked | Freshness::Cached => Duration::ZERO,
        Freshness::Past { age } => age,
    }
}

/// A node as policies see it, of which the controller has last told so long ago.
pub fn node(record: &BootRecord, age: Duration) -> Node {
    let workflow = record.workflow.as_ref().map(|assigned| match assigned {
        Assignment::Known(workflow) => workflow.name.clone(),
        Assignment::Foreign { name, .. } => name.clone(),
    });
    Node {
        id: record.node_id.to_string(),
        mac: record.mac_address,
        hostname: record.hostname.clone(),
        state: record.state.to_string(),
        workflow,
        group: record.group.as_ref().map(|group| group.path.clone()),
        tags: record.tags.clone(),
        attributes: Vars::new(),
        age: u32::try_from(age.as_secs()).unwrap_or(u32::MAX),
        stale: age.as_secs() >= record.valid_for_seconds,
    }
}

/// A BIOS build of iPXE is 32-bit on every PC.
fn arch(request: &BootRequest) -> Arch {
    match (request.arch, request.platform) {
        (Some(BuildArch::I386 | BuildArch::X86_64), Some(Platform::Pcbios)) => Arch::X86Bios,
        (Some(BuildArch::I386), Some(Platform::Efi)) => Arch::X86Uefi,
        (Some(BuildArch::X86_64), Some(Platform::Efi)) => Arch::X64Uefi,
        (Some(BuildArch::Arm32), _) => Arch::Arm32Uefi,
        (Some(BuildArch::Arm64), _) => Arch::Arm64Uefi,
        (Some(BuildArch::Riscv64), _) => Arch::Riscv64Uefi,
        _ => Arch::Other,
    }
}

fn hardware(request: &BootRequest) -> Vars {
    let said = [
        ("serial", &request.serial),
        ("uuid", &request.uuid),
        ("manufacturer", &request.vendor),
        ("product", &request.product),
    ];
    let said = said.into_iter().filter_map(|(name, fact)| Some((name, fact.as_ref()?)));
    said.map(|(name, fact)| (name.to_owned(), fact.to_string())).collect()
}

/// What the script of a decision is for.
pub fn purpose(boot: &Boot) -> Purpose {
    match boot {
        Boot::Install(_) => Purpose::Workflow,
        Boot::Discovered => Purpose::Discovery,
        Boot::LocalDisk
        | Boot::PendingWithoutWorkflow
        | Boot::Foreign { .. }
        | Boot::Installing
        | Boot::InstallFailed
        | Boot::Disputed
        | Boot::Retired
        | Boot::Guest
        | Boot::TurnedAway => Purpose::LocalDisk,
        Boot::Chain { .. } => Purpose::Chain,
        Boot::PolicyScript { .. } => Purpose::PolicyScript,
        Boot::ComeBackLater | Boot::Elsewhere | Boot::Hold { .. } => Purpose::Hold,
        Boot::Refused { .. } => Purpose::Refuse,
    }
}

#[cfg(test)]
mod tests {
    use pureboot_protocol::{Autonomy, Lifecycle, NodeId};

    use super::*;
    use crate::boot::decide::{Mode, OfflineAction};

    #[test]
    fn a_policy_sees_what_the_machine_says_and_what_the_site_knows() {
        let mut request = BootRequest::new("52:54:00:12:34:56".parse().expect("an address"));
        for (name, value) in [("arch", "i386"), ("platform", "pcbios"), ("vendor", "Example")] {
            request.learn(name, value);
        }
        let record = BootRecord {
            tags: vec!["lab".to_owned()],
            ..BootRecord::new(NodeId::from_random([2; 16]), request.mac, Lifecycle::Pending, 7)
        };
        let inputs = Inputs {
            request,
            found: Found::Known {
                record: Box::new(record),
                freshness: Freshness::Past { age: Duration::from_secs(301) },
            },
            mode: Mode::Degraded,
            autonomy: Autonomy::Limited,
            install_given: false,
            offline_action: OfflineAction::LastKnown,
        };
        let circumstances = Circumstances {
            address: Some("::ffff:192.0.2.9".parse().expect("an address")),
            site: Site::default(),
            now: Timestamp::from_unix_ms(1_795_000_000_999),
            attempt: 3,
        };
        let facts = boot_facts(&inputs, &circumstances);
        assert_eq!((facts.arch, facts.now, facts.attempt), (Arch::X86Bios, 1_795_000_000, 3));
        assert_eq!(facts.client_ip, Some("192.0.2.9".parse().expect("an address")));
        assert_eq!(facts.hardware, Vars::from([("manufacturer".to_owned(), "Example".to_owned())]));
        let node = facts.node.expect("it is known");
        assert_eq!((node.state.as_str(), node.age, node.stale), ("pending", 301, true));
        assert_eq!(node.tags, ["lab"]);
    }
}
