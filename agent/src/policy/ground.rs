//! What a policy's answer has to agree with, and what was said to it, so that a past answer can be judged again.

use std::cell::RefCell;
use std::collections::BTreeMap;

use pureboot_plugin_host::answer::Ground;
use pureboot_protocol::{Assignment, ContentKey, Lifecycle, Workflow};
use pureboot_templates::{BaseUrl, check_script};
use serde::{Deserialize, Serialize};

use crate::boot::inputs::Inputs;

/// What a [`Ground`] has said about one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// By name, the workflow that may be given, or why it may not.
    pub workflows: BTreeMap<String, Result<Workflow, String>>,
    /// By name, whether the site has it.
    pub content: BTreeMap<ContentKey, bool>,
}

/// What the site has.
pub trait Holdings {
    /// A workflow of the site's nodes.
    fn workflow(&self, name: &str) -> Option<Workflow>;

    /// Whether content is here, or comes when it is asked for.
    fn has(&self, key: &ContentKey) -> bool;

    /// Whether content is here.
    fn holds(&self, key: &ContentKey) -> bool;
}

/// The ground of one machine's boot.
pub struct SiteGround<'a> {
    inputs: &'a Inputs,
    holdings: &'a dyn Holdings,
    base: &'a BaseUrl,
    heard: RefCell<Heard>,
}

impl<'a> SiteGround<'a> {
    /// Judges by `inputs` and by what the site has.
    pub fn new(inputs: &'a Inputs, holdings: &'a dyn Holdings, base: &'a BaseUrl) -> Self {
        Self { inputs, holdings, base, heard: RefCell::default() }
    }

    /// What it has said.
    pub fn into_heard(self) -> Heard {
        self.heard.into_inner()
    }

    fn workflow(&self, name: &str) -> Result<Workflow, String> {
        let Some(record) = self.inputs.found.record() else {
            return Err("this site does not know the machine".to_owned());
        };
        if record.conflict_id.is_some() {
            return Err("site and controller disagree about the machine".to_owned());
        }
        if record.state != Lifecycle::Pending {
            return Err(format!(
                "the node is {}, and only a pending one is installed",
                record.state
            ));
        }
        let assigned = record.workflow.as_ref().and_then(Assignment::workflow);
        let workflow = assigned
            .filter(|assigned| assigned.name == name)
            .cloned()
            .or_else(|| self.holdings.workflow(name));
        let Some(workflow) = workflow else {
            return Err("no node of this site has it: assign it to one".to_owned());
        };
        let is_assigned = assigned.is_some_and(|assigned| assigned.id == workflow.id);
        if !workflow.templates.is_empty() && !is_assigned {
            return Err("it has answer files, and those come only with an assigned one".to_owned());
        }
        let content = workflow.boot.content();
        let lacking = content.iter().find(|(_, key)| !self.holdings.holds(key));
        match lacking.filter(|_| self.inputs.is_alone()) {
            Some((_, key)) => Err(format!("{key} is not here, and the controller is away")),
            None => Ok(workflow),
        }
    }
}

impl Ground for SiteGround<'_> {
    fn may_install(&self, workflow: &str) -> Result<(), String> {
        let found = self.workflow(workflow);
        let said = found.as_ref().map(|_| ()).map_err(String::clone);
        self.heard.borrow_mut().workflows.insert(workflow.to_owned(), found);
        said
    }

    fn holds(&self, key: &ContentKey) -> bool {
        let is_here = key.category().is_for_machines() && self.holdings.has(key);
        self.heard.borrow_mut().content.insert(key.clone(), is_here);
        is_here
    }

    fn check_script(&self, script: &str) -> Result<(), String> {
        check_script(script, self.base).map_err(|error| error.to_string())
    }
}

/// The ground of a boot of the past.
pub struct PastGround<'a> {
    /// What was said then.
    pub heard: &'a Heard,
    /// Where the machine reached the agent.
    pub base: &'a BaseUrl,
}

impl Ground for PastGround<'_> {
    fn may_install(&self, workflow: &str) -> Result<(), String> {
        match self.heard.workflows.get(workflow) {
            Some(Ok(_)) => Ok(()),
            Some(Err(why)) => Err(why.clone()),
            None => Err("nobody asked for it then".to_owned()),
        }
    }

    fn holds(&self, key: &ContentKey) -> bool {
        self.heard.content.get(key).copied().unwrap_or_default()
    }

    fn check_script(&self, script: &str) -> Result<(), String> {
        check_script(script, self.base).map_err(|error| error.to_string())
    }
}
