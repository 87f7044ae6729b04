//! What a machine says when it asks for its script, and what the controller knows that decides the answer.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::apart::understood;
use crate::site::words;
use crate::{
    Assignment, ConflictId, FileName, GroupId, HardwareFact, Lifecycle, Mac, NodeId,
    PendingCommand, SiteId,
};

words! {
    /// The processor that the boot loader was built for, as iPXE's `${buildarch}` names it.
    Arch {
        /// 32-bit x86; a BIOS build of iPXE says this on 64-bit machines too.
        I386 = "i386",
        /// 64-bit x86.
        X86_64 = "x86_64",
        /// 32-bit ARM.
        Arm32 = "arm32",
        /// 64-bit ARM.
        Arm64 = "arm64",
        /// 32-bit RISC-V.
        Riscv32 = "riscv32",
        /// 64-bit RISC-V.
        Riscv64 = "riscv64",
        /// 64-bit LoongArch.
        Loong64 = "loong64",
    }
}

words! {
    /// The firmware interface that the boot loader runs on, as iPXE's `${platform}` names it.
    Platform {
        /// PC BIOS.
        Pcbios = "pcbios",
        /// UEFI.
        Efi = "efi",
    }
}

words! {
    /// The firmware interface, as operators name it.
    BootMode {
        /// PC BIOS.
        Bios = "bios",
        /// UEFI.
        Uefi = "uefi",
    }
}

impl From<Platform> for BootMode {
    fn from(platform: Platform) -> Self {
        match platform {
            Platform::Pcbios => Self::Bios,
            Platform::Efi => Self::Uefi,
        }
    }
}

/// What a machine says about itself when it asks for its script. Nothing but the address can be relied on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BootRequest {
    /// The boot interface.
    pub mac: Mac,
    /// The processor, where it is one that we know.
    pub arch: Option<Arch>,
    /// The firmware interface, where it is one that we know.
    pub platform: Option<Platform>,
    /// The SMBIOS system UUID.
    pub uuid: Option<HardwareFact>,
    /// The SMBIOS serial number.
    pub serial: Option<HardwareFact>,
    /// The SMBIOS manufacturer.
    pub vendor: Option<HardwareFact>,
    /// The SMBIOS product name.
    pub product: Option<HardwareFact>,
}

impl BootRequest {
    /// A request that says nothing but the address.
    pub fn new(mac: Mac) -> Self {
        Self {
            mac,
            arch: None,
            platform: None,
            uuid: None,
            serial: None,
            vendor: None,
            product: None,
        }
    }

    /// Takes over one `name=value` of a query; an unknown name or an empty or unknown value says nothing.
    pub fn learn(&mut self, name: &str, value: &str) {
        match name {
            "arch" => self.arch = Arch::from_str(value).ok(),
            "platform" => self.platform = Platform::from_str(value).ok(),
            "uuid" => self.uuid = HardwareFact::new(value),
            "serial" => self.serial = HardwareFact::new(value),
            "vendor" => self.vendor = HardwareFact::new(value),
            "product" => self.product = HardwareFact::new(value),
            _ => {}
        }
    }
}

/// How long a site may rely on a record without another word from the controller, where the record does not say: as long as five
/// heartbeats.
pub const VALID_FOR_SECONDS: u64 = 300;

/// A logical group of nodes, as a record names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RecordGroup {
    /// Which.
    pub id: GroupId,
    /// Its name below those of the groups that it is in, as in `/web/front`.
    pub path: String,
}

/// All that decides what a node boots, as the controller knows it: what `GET /agents/nodes` answers and the site keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BootRecord {
    /// The node.
    pub node_id: NodeId,
    /// Its boot interface.
    pub mac_address: Mac,
    /// Its name, for people.
    pub hostname: Option<String>,
    /// Where it is in its life.
    pub state: Lifecycle,
    /// What it is to be installed with.
    pub workflow: Option<Assignment>,
    /// What its system is to be told to do; none too where this program does not know the order.
    #[serde(default, deserialize_with = "understood", skip_serializing_if = "Option::is_none")]
    pub pending_command: Option<PendingCommand>,
    /// The node's version at the controller.
    pub version: u64,
    /// The version at which it was last wished that the node is installed as it is to be; none of a controller that does not
    /// number wishes. See [`BootRecord::wish`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wish_version: Option<u64>,
    /// What site and controller disagree about, while nobody has decided. Until then the node must not be installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict_id: Option<ConflictId>,
    /// Whose it is; none while it is any site's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home_site_id: Option<SiteId>,
    /// The group that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<RecordGroup>,
    /// Words that operators sort their machines by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The versions of the templates that the workflow's answer files are made of, by file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub template_versions: BTreeMap<FileName, u64>,
    /// For how many seconds the record holds after the controller's last word on it. Later it is stale, and still all there is.
    #[serde(default = "valid_for_seconds")]
    pub valid_for_seconds: u64,
    /// Whether what the record leads to writes a disk, so that without the controller it is done at most once for one wish.
    #[serde(default = "once")]
    pub once: bool,
}

impl BootRecord {
    /// A record that says nothing of a node but what it is, at `version`.
    pub fn new(node_id: NodeId, mac_address: Mac, state: Lifecycle, version: u64) -> Self {
        Self {
            node_id,
            mac_address,
            hostname: None,
            state,
            workflow: None,
            pending_command: None,
            version,
            wish_version: None,
            conflict_id: None,
            home_site_id: None,
            group: None,
            tags: Vec::new(),
            template_versions: BTreeMap::new(),
            valid_for_seconds: VALID_FOR_SECONDS,
            once: true,
        }
    }

    /// The number of the wish to install the node: what changes nothing about the wish, as another name, leaves it as it is. Where
    /// the controller does not number wishes each version counts as one.
    pub fn wish(&self) -> u64 {
        self.wish_version.unwrap_or(self.version)
    }
}

fn valid_for_seconds() -> u64 {
    VALID_FOR_SECONDS
}

/// A record that an earlier program has kept does not say it, and no disk may be written twice for that.
fn once() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeOrder;

    #[test]
    fn u7_a_method_of_a_newer_controller_costs_nobody_else_his_record() {
        let record = |workflow: &str| {
            let text = format!(
                r#"{{"node_id": "0b8f5c1e-6f0e-4d52-9a55-0c8f3f1c2a77", "mac_address": "52:54:00:12:34:56", "hostname": null,
                    "state": "pending", "version": 3, "workflow": {workflow}}}"#
            );
            serde_json::from_str::<BootRecord>(&text).expect("a record").workflow
        };
        let workflow = |boot: &str| {
            format!(
                r#"{{"id": "0b8f5c1e-6f0e-4d52-9a55-0c8f3f1c2a77", "name": "w", "description": "", {boot}, "version": 1,
                    "created_at": "2026-11-21T00:00:00Z", "updated_at": "2026-11-21T00:00:00Z"}}"#
            )
        };
        let known = record(&workflow(r#""method": "chain", "target": "bootloaders/a.efi""#));
        assert!(known.as_ref().is_some_and(|known| known.workflow().is_some()), "{known:?}");
        for boot in [
            r#""method": "floppy", "side": "b""#,
            r#""method": "sanboot", "source": "nvme:192.0.2.1""#,
        ] {
            let foreign = record(&workflow(boot)).expect("an assignment");
            assert_eq!(foreign.workflow(), None);
            let kept = serde_json::to_string(&foreign).expect("JSON");
            assert_eq!(serde_json::from_str::<Assignment>(&kept).expect("read back"), foreign);
        }
        assert_eq!(record("null"), None);
    }

    #[test]
    fn u7_an_order_of_a_newer_controller_costs_no_machine_its_record() {
        let id = "0b8f5c1e-6f0e-4d52-9a55-0c8f3f1c2a77".parse().expect("an id");
        let reboot = PendingCommand { id, command: NodeOrder::Reboot };
        for (said, expected) in [
            (
                r#""pending_command": {"id": "0b8f5c1e-6f0e-4d52-9a55-0c8f3f1c2a77", "command": "reboot"},"#,
                Some(reboot),
            ),
            (
                r#""pending_command": {"id": "0b8f5c1e-6f0e-4d52-9a55-0c8f3f1c2a77", "command": "sleep"},"#,
                None,
            ),
            (r#""pending_command": null,"#, None),
            ("", None),
        ] {
            let text = format!(
                r#"{{"node_id": "0b8f5c1e-6f0e-4d52-9a55-0c8f3f1c2a77", "mac_address": "52:54:00:12:34:56", "hostname": null,
                    "state": "active", "version": 3, {said} "workflow": null}}"#
            );
            let record: BootRecord = serde_json::from_str(&text).expect("a record");
            assert_eq!(record.pending_command, expected, "{said}");
        }
    }

    #[test]
    fn a_record_that_numbers_no_wish_counts_each_version_as_one() {
        let mac = "52:54:00:12:34:56".parse().expect("an address");
        let mut record = BootRecord::new(NodeId::from_random([1; 16]), mac, Lifecycle::Pending, 7);
        let told = |record: &BootRecord| {
            let text = serde_json::to_string(record).expect("JSON");
            serde_json::from_str::<BootRecord>(&text).expect("read back").wish()
        };
        assert_eq!(told(&record), 7);
        record.wish_version = Some(3);
        assert_eq!(told(&record), 3);
    }

    #[test]
    fn h20_a_request_learns_only_what_it_understands() {
        let mut request = BootRequest::new("52:54:00:12:34:56".parse().expect("an address"));
        let silent = request.clone();
        request.learn("arch", "pdp11");
        request.learn("serial", "  ");
        request.learn("next-server", "10.0.0.1");
        assert_eq!(request, silent);
        request.learn("platform", "efi");
        request.learn("product", "KVM\nchain http://evil/${x}");
        assert_eq!(request.platform, Some(Platform::Efi));
        assert_eq!(
            request.product.as_ref().map(HardwareFact::as_str),
            Some("KVM_chain http://evil/__x_")
        );
    }
}
