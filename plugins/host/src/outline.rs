//! What a component has and what it asks for, read from its types without running it.

use std::collections::BTreeSet;

use crate::contract;
use crate::engine::Engine;
use crate::imports;
use crate::package::{Capability, Hook, Trusted};
use crate::plugin::{LoadError, deserialize};

/// A component from the outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// The hooks of this program's contract that it has.
    pub hooks: BTreeSet<Hook>,
    /// What it uses of what a site may grant.
    pub capabilities: BTreeSet<Capability>,
    /// What it exports, with versions.
    pub exports: Vec<String>,
    /// What it imports, with versions.
    pub imports: Vec<String>,
    /// Of that, what no policy gets.
    pub foreign: Vec<String>,
}

impl Outline {
    /// Reads the types of compiled code.
    ///
    /// # Errors
    /// The engine does not take the code.
    pub fn read(engine: &Engine, code: Trusted<'_>) -> Result<Self, LoadError> {
        let component = deserialize(engine, code)?;
        let wanted = imports::wanted(engine.wasmtime(), &component);
        let of_type = component.component_type();
        let owned = |(name, _): (&str, _)| name.to_owned();
        let exports: Vec<_> = of_type.exports(engine.wasmtime()).map(owned).collect();
        let imports: Vec<_> = of_type.imports(engine.wasmtime()).map(owned).collect();
        Ok(Self {
            hooks: exports.iter().filter_map(|name| hook(name)).collect(),
            capabilities: wanted.nodes.then_some(Capability::Nodes).into_iter().collect(),
            exports,
            imports,
            foreign: wanted.foreign,
        })
    }
}

/// The hook that an export of the spoken contract is.
fn hook(export: &str) -> Option<Hook> {
    let interface = export.strip_prefix(contract::PACKAGE)?.strip_prefix('/')?;
    let hook = match interface.split('@').next()? {
        "boot" => Hook::Boot,
        "script" => Hook::Script,
        "cache" => Hook::Cache,
        _ => return None,
    };
    contract::is_spoken(export).then_some(hook)
}
