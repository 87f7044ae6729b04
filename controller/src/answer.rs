//! What templates see of a node: the values behind `node.`, `group.`, `site.`, `workflow.`, `server.`, `boot.`, `meta.` and `secret.`.
//!
//! A preview shows the shape of a file and never a secret: the texts of secrets do not come here.

use serde_json::{Map, Value, json};

use crate::store::AnswerFacts;

/// What stands for every secret in a preview.
pub(crate) const MASK: &str = "••••";

/// What stands for the agent where a node has none yet (RFC 5737 documentation address).
const EXAMPLE_URL: &str = "http://192.0.2.1:8080";
/// What stands for a boot session that there is none of.
const EXAMPLE_BOOT: &str = "00000000-0000-4000-8000-000000000000";

/// The values of one node. What is not known is absent, so that a template that needs it says so.
pub(crate) fn values(facts: &AnswerFacts) -> Value {
    let node = &facts.node;
    let mut values = json!({
        "node": {
            "id": node.id, "mac_address": node.mac_address, "hostname": node.hostname, "ip_address": node.ip_address,
            "state": node.state, "vendor": node.vendor, "model": node.model, "serial_number": node.serial_number,
            "system_uuid": node.system_uuid, "arch": node.arch, "boot_mode": node.boot_mode, "tags": node.tags,
        },
        "meta": facts.meta,
        "secret": facts.secrets.iter().map(|name| (name.clone(), Value::from(MASK))).collect::<Map<_, _>>(),
        "boot": {"id": EXAMPLE_BOOT},
    });
    let url = facts.site.as_ref().and_then(|site| site.agent_url.clone());
    let url = url.unwrap_or_else(|| EXAMPLE_URL.to_owned());
    let mut add = |name: &str, value: Value| {
        if let Some(values) = values.as_object_mut() {
            values.insert(name.to_owned(), value);
        }
    };
    add("server", json!({"url": url.trim_end_matches('/')}));
    if let Some(group) = &facts.group {
        add(
            "group",
            json!({"id": group.id, "name": group.name, "path": group.path, "description": group.description, "tags": group.tags}),
        );
    }
    if let Some(site) = &facts.site {
        add(
            "site",
            json!({"id": site.id, "name": site.name, "path": site.path, "description": site.description, "tags": site.tags}),
        );
    }
    if let Some(workflow) = &facts.workflow {
        add(
            "workflow",
            json!({"id": workflow.id, "name": workflow.name, "description": workflow.description, "version": workflow.version}),
        );
    }
    without_nulls(values)
}

/// Values that a client made up, with every secret masked that it names.
pub(crate) fn made_up(mut values: Map<String, Value>) -> Value {
    if let Some(Value::Object(secrets)) = values.get_mut("secret") {
        secrets.values_mut().for_each(|text| *text = Value::from(MASK));
    }
    without_nulls(Value::Object(values))
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let known = members.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(known.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        value => value,
    }
}
