//! What the variables of a command line stand for on one machine.

use std::collections::BTreeMap;

use pureboot_protocol::{Arch, BootMode, BootRecord, BootRequest, HardwareFact, Variable};

/// Values by variable. What is not known of a machine has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values(BTreeMap<Variable, String>);

impl Values {
    /// What a machine says of itself, and what its record says of it.
    pub fn of(request: &BootRequest, record: Option<&BootRecord>) -> Self {
        let fact = |fact: &Option<HardwareFact>| fact.as_ref().map(ToString::to_string);
        let mut values = Self::default();
        values.learn(Variable::NodeMacAddress, Some(request.mac.to_string()));
        values.learn(Variable::NodeSerialNumber, fact(&request.serial));
        values.learn(Variable::NodeSystemUuid, fact(&request.uuid));
        values.learn(Variable::NodeVendor, fact(&request.vendor));
        values.learn(Variable::NodeModel, fact(&request.product));
        values.learn(Variable::NodeArch, request.arch.map(Arch::as_str));
        let mode = request.platform.map(|platform| BootMode::from(platform).as_str());
        values.learn(Variable::NodeBootMode, mode);
        values.learn(Variable::NodeId, record.map(|record| record.node_id.to_string()));
        values.learn(Variable::NodeHostname, record.and_then(|record| record.hostname.clone()));
        values
    }

    /// Takes over a value, if there is one.
    pub fn learn(&mut self, variable: Variable, value: Option<impl Into<String>>) {
        if let Some(value) = value {
            self.0.insert(variable, value.into());
        }
    }

    /// Takes over what a policy of the site sets. It may say how a machine is called and what it is, and not who it is or where it
    /// finds the agent; the names of which nothing came are returned.
    pub fn set(&mut self, vars: &BTreeMap<String, String>) -> Vec<String> {
        const SETTABLE: [Variable; 4] = [
            Variable::NodeHostname,
            Variable::NodeSerialNumber,
            Variable::NodeVendor,
            Variable::NodeModel,
        ];
        let mut unused = Vec::new();
        for (name, value) in vars {
            match name.parse().ok().filter(|variable| SETTABLE.contains(variable)) {
                Some(variable) => self.learn(variable, Some(value.clone())),
                None => unused.push(name.clone()),
            }
        }
        unused
    }

    /// The value of `variable`.
    pub fn get(&self, variable: Variable) -> Option<String> {
        self.0.get(&variable).cloned()
    }
}
