//! What a template sees of a machine: the sheet's values, what the machine said of itself, and where it reached the agent.

use std::collections::BTreeMap;

use pureboot_protocol::{AnswerFile, AnswerSheet, Arch, BootId, BootMode, Secret};
use pureboot_templates::BaseUrl;
use serde_json::{Map, Value, json};

use crate::store::CachedNode;

/// What stands for a secret that is hidden.
pub const MASK: &str = "********";

/// How secrets appear.
#[derive(Debug, Clone, Copy)]
pub enum Shown<'a> {
    /// As they are.
    Whole(&'a BTreeMap<String, Secret>),
    /// Each as [`MASK`].
    Hidden,
}

/// The values for `file` of the machine `node`, in the boot session `boot`, which reached the agent at `base`. What is not known is absent, so
/// that a template that needs it says so.
///
/// What a machine says of itself has been cleaned when it came in (FAULTS H20), and counts more than what the controller heard of it earlier.
pub fn values(
    sheet: &AnswerSheet,
    file: &AnswerFile,
    node: &CachedNode,
    boot: BootId,
    base: &BaseUrl,
    shown: Shown<'_>,
) -> Value {
    let mut values = json!(sheet.values);
    let scopes = values.as_object_mut().expect("a map is an object in JSON");
    let facts = &node.facts;
    let record = node.known.as_ref().map(|known| &known.record);
    let here = [
        ("mac_address", Some(facts.mac.to_string())),
        ("vendor", facts.vendor.as_ref().map(ToString::to_string)),
        ("model", facts.product.as_ref().map(ToString::to_string)),
        ("serial_number", facts.serial.as_ref().map(ToString::to_string)),
        ("system_uuid", facts.uuid.as_ref().map(ToString::to_string)),
        ("arch", facts.arch.map(Arch::as_str).map(str::to_owned)),
        ("boot_mode", facts.platform.map(|it| BootMode::from(it).as_str().to_owned())),
        ("hostname", record.and_then(|record| record.hostname.clone())),
        ("state", record.map(|record| record.state.as_str().to_owned())),
    ];
    let known = scopes.entry("node").or_insert_with(|| Value::Object(Map::new()));
    for (name, value) in here {
        if let (Some(known), Some(value)) = (known.as_object_mut(), value) {
            known.insert(name.to_owned(), value.into());
        }
    }
    scopes.insert("server".to_owned(), json!({"url": base.as_str()}));
    scopes.insert("boot".to_owned(), json!({"id": boot}));
    let secret = |name: &String| {
        let text = match shown {
            Shown::Whole(secrets) => secrets.get(name)?.reveal(),
            Shown::Hidden => MASK,
        };
        Some((name.clone(), Value::from(text)))
    };
    let secrets: Map<_, _> = file.secrets.iter().filter_map(secret).collect();
    scopes.insert("secret".to_owned(), Value::Object(secrets));
    values
}

#[cfg(test)]
mod tests {
    use pureboot_protocol::{HardwareFact, NodeId, TemplateKind};

    use super::super::sheet::tests::sheet;
    use super::*;

    #[test]
    fn what_the_machine_says_now_and_where_it_is_come_from_the_site() {
        let sheet = sheet(TemplateKind::Preseed, &[("t", "")], &["root"]);
        let file = sheet.files.values().next().expect("a file");
        let mut node = CachedNode::new(sheet.mac_address, NodeId::from_random([1; 16]));
        node.facts.serial = HardwareFact::new("S-1\n${evil}");
        let base: BaseUrl = "http://192.0.2.1:8080".parse().expect("a URL");
        let boot = BootId::from_random([2; 16]);
        let hidden = values(&sheet, file, &node, boot, &base, Shown::Hidden);
        assert_eq!(hidden["node"]["serial_number"], "S-1___evil_");
        assert_eq!(
            hidden["node"]["hostname"], "web-1",
            "the sheet's, where the site knows no other"
        );
        assert_eq!(hidden["server"]["url"], "http://192.0.2.1:8080");
        assert_eq!(hidden["boot"]["id"], boot.to_string());
        assert_eq!(hidden["secret"], json!({"root": MASK}));
        let whole = values(&sheet, file, &node, boot, &base, Shown::Whole(&sheet.secrets));
        assert_eq!(whole["secret"], json!({"root": "the root secret"}));
    }
}
