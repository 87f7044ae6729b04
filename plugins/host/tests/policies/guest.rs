//! From a guest's text to a policy that can be called.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use pureboot_plugin_host::answer::Ground;
use pureboot_plugin_host::compile;
use pureboot_plugin_host::engine::{ENGINE_ID, Engine};
use pureboot_plugin_host::facts::{BootFacts, Decision, Node, NodeCache, Vars};
use pureboot_plugin_host::package::{self, Header, Hook, Unchecked};
use pureboot_plugin_host::plugin::{Called, LoadError, Plugin};
use pureboot_protocol::{ContentHash, ContentKey, Mac, PublicKey, Signature};
use ring::digest::{SHA256, digest};
use ring::signature::{Ed25519KeyPair, KeyPair};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

pub(crate) static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new().unwrap());

/// A path below `plugins`.
pub(crate) fn plugins(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

/// A core module whose functions are those of a world of the contract.
pub(crate) fn embedded(world: &str, module: Vec<u8>) -> Vec<u8> {
    embedded_in(&[], &format!("pureboot:policy/{world}"), module)
}

/// A core module whose functions are those of a world of other packages, which may use the contract.
pub(crate) fn embedded_in(packages: &[&str], world: &str, mut module: Vec<u8>) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(plugins("wit/since-0.1")).unwrap();
    for text in packages {
        resolve.push_str("case.wit", text).unwrap();
    }
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    module
}

/// The component of a text below `plugins/cases`.
pub(crate) fn component(world: &str, case: &str) -> Vec<u8> {
    let path = plugins("cases").join(format!("{case}.wat"));
    let module = wat::parse_file(path).unwrap();
    compile::componentize(&embedded(world, module)).unwrap()
}

pub(crate) fn header(component: &[u8], hooks: &[Hook]) -> Header {
    let hash = digest(&SHA256, component);
    Header {
        id: "case".parse().unwrap(),
        version: "1.0.0".parse().unwrap(),
        engine: ENGINE_ID.to_owned(),
        wasm: ContentHash::from_digest(hash.as_ref().try_into().unwrap()),
        hooks: hooks.iter().copied().collect(),
        capabilities: [].into(),
        memory_mib: 16,
        settings: BTreeMap::new(),
    }
}

fn pair() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap()
}

pub(crate) fn key() -> PublicKey {
    PublicKey::from_bytes(pair().public_key().as_ref().try_into().unwrap())
}

pub(crate) fn packed(header: &Header, code: &[u8]) -> Vec<u8> {
    let sign =
        |bytes: &[u8]| Signature::from_bytes(pair().sign(bytes).as_ref().try_into().unwrap());
    package::emit(header, code, sign).unwrap()
}

/// Loads code as an agent does: out of a signed package.
pub(crate) fn load_code(
    header: &Header,
    code: &[u8],
    nodes: Option<Arc<dyn NodeCache>>,
) -> Result<Plugin, LoadError> {
    let package = packed(header, code);
    let signed = Unchecked::parse(&package).unwrap().check(&[key()]).unwrap();
    smol::block_on(Plugin::load(&ENGINE, &signed, nodes))
}

pub(crate) fn load(component: &[u8], hooks: &[Hook]) -> Result<Plugin, LoadError> {
    let code = compile::compile(&ENGINE, component).unwrap();
    load_code(&header(component, hooks), &code, None)
}

/// A machine of which the site knows nothing.
pub(crate) fn facts() -> BootFacts {
    BootFacts { now: 1_795_000_000, ..BootFacts::new("52:54:00:12:34:56".parse().unwrap()) }
}

pub(crate) fn decide(plugin: &Plugin) -> Called<Decision> {
    smol::block_on(plugin.decide(&facts(), &Vars::new(), &Anything)).unwrap()
}

/// A ground on which everything is right.
pub(crate) struct Anything;

impl Ground for Anything {
    fn may_install(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn holds(&self, _: &ContentKey) -> bool {
        true
    }

    fn check_script(&self, _: &str) -> Result<(), String> {
        Ok(())
    }
}

/// A site of one node.
pub(crate) struct OneNode(pub(crate) Node);

impl NodeCache for OneNode {
    fn get(&self, mac: Mac) -> Option<Node> {
        (self.0.mac == mac).then(|| self.0.clone())
    }

    fn in_group(&self, group: &str) -> Vec<Node> {
        (self.0.group.as_deref() == Some(group)).then(|| self.0.clone()).into_iter().collect()
    }
}
