//! The contract 0.1 as it is spoken with a component, and its types turned into this crate's and back.
//!
//! A version of the contract is frozen, so a later one gets a module beside this one, and `facts.rs` grows what it needs.

mod generated {
    wasmtime::component::bindgen!({
        path: "../wit/since-0.1",
        world: "site-policy",
        exports: { default: async },
    });
}

pub(crate) use generated::exports::pureboot::policy::{boot, cache, script};
pub(crate) use generated::pureboot::policy::log::Level;
pub(crate) use generated::pureboot::policy::types;

use crate::answer::{RawAction, RawDecision};
use crate::facts::{
    Arch, BootFacts, CacheContext, CacheItem, CacheVerdict, Node, Purpose, Site, Vars,
};

/// The package of interfaces.
pub(crate) const PACKAGE: &str = "pureboot:policy";

/// Its version.
pub(crate) const VERSION: &str = "0.1.0";

/// Whether an interface such as `pureboot:policy/log@0.1.3` is of a version that this module speaks: another patch of 0.1 has the same types.
pub(crate) fn is_spoken(interface: &str) -> bool {
    interface.split_once('@').is_some_and(|(_, version)| version.starts_with("0.1."))
}

fn vars(vars: &Vars) -> types::Vars {
    vars.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn site(site: &Site, settings: &Vars) -> types::Site {
    types::Site {
        id: site.id.clone(),
        settings: vars(settings),
        offline_for: site.offline_for,
        utc_offset_minutes: site.utc_offset_minutes,
    }
}

pub(crate) fn node(node: &Node) -> types::Node {
    types::Node {
        id: node.id.clone(),
        mac: node.mac.to_string(),
        hostname: node.hostname.clone(),
        state: node.state.clone(),
        workflow: node.workflow.clone(),
        group: node.group.clone(),
        tags: node.tags.clone(),
        attributes: vars(&node.attributes),
        age: node.age,
        stale: node.stale,
    }
}

pub(crate) fn request(facts: &BootFacts, settings: &Vars) -> types::BootRequest {
    types::BootRequest {
        mac: facts.mac.to_string(),
        arch: match facts.arch {
            Arch::X86Bios => types::Arch::X86Bios,
            Arch::X86Uefi => types::Arch::X86Uefi,
            Arch::X64Uefi => types::Arch::X64Uefi,
            Arch::Arm32Uefi => types::Arch::Arm32Uefi,
            Arch::Arm64Uefi => types::Arch::Arm64Uefi,
            Arch::Riscv64Uefi => types::Arch::Riscv64Uefi,
            Arch::Other => types::Arch::Other,
        },
        arch_code: facts.arch_code,
        client_ip: facts.client_ip.map(|address| address.to_string()),
        hardware: vars(&facts.hardware),
        node: facts.node.as_ref().map(node),
        site: site(&facts.site, settings),
        now: facts.now,
        attempt: facts.attempt,
    }
}

pub(crate) fn purpose(purpose: Purpose) -> script::Purpose {
    match purpose {
        Purpose::LocalDisk => script::Purpose::LocalDisk,
        Purpose::Discovery => script::Purpose::Discovery,
        Purpose::Workflow => script::Purpose::Workflow,
        Purpose::Chain => script::Purpose::Chain,
        Purpose::PolicyScript => script::Purpose::PolicyScript,
        Purpose::Hold => script::Purpose::Hold,
        Purpose::Refuse => script::Purpose::Refuse,
        Purpose::Other => script::Purpose::Other,
    }
}

pub(crate) fn context(context: &CacheContext, settings: &Vars) -> cache::Context {
    cache::Context {
        site: site(&context.site, settings),
        now: context.now,
        used_mib: context.used_mib,
        limit_mib: context.limit_mib,
    }
}

pub(crate) fn item(item: &CacheItem) -> cache::Item {
    cache::Item {
        category: item.key.category().to_string(),
        path: item.key.path().to_owned(),
        size_kib: item.size_kib,
        required: item.required,
        assigned: item.assigned,
        hits: item.hits,
        idle: item.idle,
    }
}

impl From<boot::Decision> for RawDecision {
    fn from(decision: boot::Decision) -> Self {
        let action = match decision.action {
            boot::Action::Pass => RawAction::Pass,
            boot::Action::LocalDisk => RawAction::LocalDisk,
            boot::Action::Discovery => RawAction::Discovery,
            boot::Action::LastKnown => RawAction::LastKnown,
            boot::Action::Workflow(name) => RawAction::Workflow(name),
            boot::Action::Chain(name) => RawAction::Chain(name),
            boot::Action::Script(text) => RawAction::Script(text),
            boot::Action::Hold(seconds) => RawAction::Hold(seconds),
            boot::Action::Refuse(reason) => RawAction::Refuse(reason),
        };
        Self { action, set: decision.set, reason: decision.reason }
    }
}

impl From<cache::Verdict> for CacheVerdict {
    fn from(verdict: cache::Verdict) -> Self {
        Self {
            store: verdict.store,
            ttl: verdict.ttl,
            pin: verdict.pin,
            priority: verdict.priority,
        }
    }
}

#[cfg(test)]
mod tests {
    use pureboot_protocol::ContentHash;
    use ring::digest::{SHA256, digest};

    /// A component that was built for 0.1.0 is refused by an agent whose 0.1.0 has another shape, and whoever has built it cannot know.
    #[test]
    fn the_contract_0_1_is_frozen() {
        let text = include_bytes!("../../wit/since-0.1/policy.wit");
        let hash = ContentHash::from_digest(
            digest(&SHA256, text).as_ref().try_into().expect("SHA-256 has 32 bytes"),
        );
        assert_eq!(
            hash.to_string(),
            "03f5f90bd9dde468413e2dfac579e0dffc58313a66df13c8c56c7de774844334",
            "plugins/wit/since-0.1 is published and does not change: what has to change goes into a new directory beside it"
        );
    }
}
