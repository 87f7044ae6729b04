//! What templates see of a node: the values behind `node.`, `group.`, `site.`, `workflow.`, `server.`, `boot.`, `meta.` and `secret.`.
//!
//! A preview shows the shape of a file and never a secret. The sheet of a node is for its site's agent, which renders by it: it has the
//! texts of the secrets that the templates name. What only the site knows, `server.`, `boot.` and the state of the node, is not in it.

use std::collections::{BTreeMap, BTreeSet};

use pureboot_protocol::{AnswerFile, AnswerSheet, AnswerValue, ContentHash, Node, Secret, SiteId};
use pureboot_templates::answer::Secrets;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::store::{AnswerFacts, AnswerKit, SealedSecret, StoreError};

/// What stands for every secret in a preview.
pub(crate) const MASK: &str = "••••";

/// What stands for the agent where a node has none yet (RFC 5737 documentation address).
const EXAMPLE_URL: &str = "http://192.0.2.1:8080";
/// What stands for a boot session that there is none of.
const EXAMPLE_BOOT: &str = "00000000-0000-4000-8000-000000000000";

/// Names and what they stand for.
type Scope = BTreeMap<String, AnswerValue>;

/// The values of one node for a preview. What is not known is absent, so that a template that needs it says so.
pub(crate) fn values(facts: &AnswerFacts) -> Value {
    let mut scopes = scopes(facts);
    let text = |text: &str| AnswerValue::Text(text.to_owned());
    let url = facts.site.as_ref().and_then(|site| site.agent_url.as_deref());
    let url = url.unwrap_or(EXAMPLE_URL).trim_end_matches('/');
    scopes.insert("server".to_owned(), Scope::from([("url".to_owned(), text(url))]));
    scopes.insert("boot".to_owned(), Scope::from([("id".to_owned(), text(EXAMPLE_BOOT))]));
    let masked = facts.secrets.keys().map(|name| (name.clone(), text(MASK)));
    scopes.insert("secret".to_owned(), masked.collect());
    if let Some(node) = scopes.get_mut("node") {
        node.insert("state".to_owned(), text(facts.node.state.as_str()));
    }
    json!(scopes)
}

/// Values that a client made up, with every secret masked that it names.
pub(crate) fn made_up(mut values: Map<String, Value>) -> Value {
    if let Some(Value::Object(secrets)) = values.get_mut("secret") {
        secrets.values_mut().for_each(|text| *text = Value::from(MASK));
    }
    without_nulls(Value::Object(values))
}

/// The sheet of a node.
#[derive(Debug)]
pub(crate) struct Composed {
    pub(crate) sheet: AnswerSheet,
    /// The texts that it names.
    pub(crate) texts: BTreeMap<ContentHash, String>,
}

/// Composes the sheet for the agent of `site`; `open` unseals a secret.
///
/// # Errors
/// A template does not compile, or a secret cannot be unsealed.
pub(crate) fn compose<E: From<StoreError>>(
    site: SiteId,
    kit: &AnswerKit,
    open: impl Fn(&SealedSecret) -> Result<Secret, E>,
) -> Result<Composed, E> {
    let AnswerKit { facts, files } = kit;
    let mut texts = BTreeMap::new();
    let mut sheet = AnswerSheet {
        site_id: site,
        node_id: facts.node.id,
        mac_address: facts.node.mac_address,
        workflow_id: facts.workflow.as_ref().map(|workflow| workflow.id),
        files: BTreeMap::new(),
        values: scopes(facts),
        secrets: BTreeMap::new(),
    };
    for (file, (head, library)) in files {
        let named = library.secrets(&head.name).map_err(StoreError::Template)?;
        let is_named = |name: &String| match &named {
            Secrets::These(names) => names.contains(name),
            Secrets::Any => true,
        };
        // One that a template names and the node does not have is an error of the template, which the agent tells.
        let secrets: BTreeSet<_> =
            facts.secrets.keys().filter(|it| is_named(it)).cloned().collect();
        for name in &secrets {
            if let Some(sealed) = facts.secrets.get(name) {
                sheet.secrets.insert(name.clone(), open(sealed)?);
            }
        }
        let mut made_of = BTreeMap::new();
        for (name, body) in library.texts() {
            let hash = ContentHash::from_digest(Sha256::digest(body).into());
            made_of.insert(name.to_owned(), hash);
            texts.insert(hash, body.to_owned());
        }
        let (template_id, version, kind) = (head.id, head.version, head.kind);
        let template = head.name.clone();
        let made = AnswerFile { template_id, version, kind, template, texts: made_of, secrets };
        sheet.files.insert(file.clone(), made);
    }
    Ok(Composed { sheet, texts })
}

/// What the controller knows of a node and of what it belongs to, but for its state.
fn scopes(facts: &AnswerFacts) -> BTreeMap<String, Scope> {
    let mut scopes = BTreeMap::from([("node".to_owned(), node(&facts.node))]);
    let meta = facts.meta.iter().map(|(name, text)| (name.clone(), text.clone().into()));
    scopes.insert("meta".to_owned(), meta.collect());
    let place = |id: String, name: &str, path: &str, description: &str, tags: &[String]| {
        scope([
            ("id", Some(id)),
            ("name", Some(name.to_owned())),
            ("path", Some(path.to_owned())),
            ("description", Some(description.to_owned())),
        ])
        .into_iter()
        .chain([("tags".to_owned(), AnswerValue::List(tags.to_owned()))])
        .collect::<Scope>()
    };
    if let Some(it) = &facts.group {
        let group = place(it.id.to_string(), &it.name, &it.path, &it.description, &it.tags);
        scopes.insert("group".to_owned(), group);
    }
    if let Some(it) = &facts.site {
        let site = place(it.id.to_string(), &it.name, &it.path, &it.description, &it.tags);
        scopes.insert("site".to_owned(), site);
    }
    if let Some(it) = &facts.workflow {
        let mut workflow = scope([
            ("id", Some(it.id.to_string())),
            ("name", Some(it.name.clone())),
            ("description", Some(it.description.clone())),
        ]);
        workflow.insert("version".to_owned(), AnswerValue::Number(it.version));
        scopes.insert("workflow".to_owned(), workflow);
    }
    scopes
}

fn node(node: &Node) -> Scope {
    let mut values = scope([
        ("id", Some(node.id.to_string())),
        ("mac_address", Some(node.mac_address.to_string())),
        ("hostname", node.hostname.clone()),
        ("ip_address", node.ip_address.as_ref().map(ToString::to_string)),
        ("vendor", node.vendor.as_ref().map(ToString::to_string)),
        ("model", node.model.as_ref().map(ToString::to_string)),
        ("serial_number", node.serial_number.as_ref().map(ToString::to_string)),
        ("system_uuid", node.system_uuid.as_ref().map(ToString::to_string)),
        ("arch", node.arch.map(|arch| arch.as_str().to_owned())),
        ("boot_mode", node.boot_mode.map(|mode| mode.as_str().to_owned())),
    ]);
    values.insert("tags".to_owned(), AnswerValue::List(node.tags.clone()));
    values
}

/// The values that are known.
fn scope<const N: usize>(values: [(&str, Option<String>); N]) -> Scope {
    let known = |(name, text): (&str, Option<String>)| Some((name.to_owned(), text?.into()));
    values.into_iter().filter_map(known).collect()
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
