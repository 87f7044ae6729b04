//! What a policy says is checked before anybody acts on it. A bad answer is a failure of the policy, as a trap is.

use pureboot_protocol::ContentKey;

use crate::facts::{Action, CacheItem, CacheVerdict, Decision, Vars};

/// The most variables that a decision sets.
pub const VARS_MAX: usize = 64;

/// The longest name of a variable, in bytes.
pub const VAR_NAME_LEN_MAX: usize = 64;

/// The longest value of a variable, in bytes.
pub const VAR_VALUE_LEN_MAX: usize = 1 << 10;

/// The longest script, in bytes.
pub const SCRIPT_LEN_MAX: usize = 64 << 10;

/// The shortest and the longest wait, in seconds. A shorter or longer one is moved here: waiting is always safe.
pub const HOLD_S: std::ops::RangeInclusive<u32> = 5..=3_600;

/// The longest text that a refusal or a reason has, in characters.
pub const LINE_LEN_MAX: usize = 200;

/// The shortest life of content, in seconds. A shorter one would be fetched again before it was used.
pub const TTL_MIN_S: u32 = 60;

/// The first line of every script.
const SCRIPT_MARK: &str = "#!ipxe";

/// What is wrong with an answer. The policy's author reads this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// The name is no template's.
    #[error(
        "the variable's name {0:?} is not 1 to 64 of A-Z, a-z, 0-9, '_', '.', '-', beginning with a letter or '_'"
    )]
    VarName(String),
    /// A second value for a name.
    #[error("the variable {0} is set twice")]
    VarTwice(String),
    /// A line break in it could become a line of a script.
    #[error(
        "the value of {0} is longer than 1024 bytes, or holds a line break or another control character"
    )]
    VarValue(String),
    /// Too many variables.
    #[error("it sets {0} variables, at most {VARS_MAX}")]
    Vars(usize),
    /// Not one line of text.
    #[error("its {0} is not one line of at most {LINE_LEN_MAX} printable characters")]
    Line(&'static str),
    /// The machine cannot be given this workflow now.
    #[error("the workflow {name:?}: {why}")]
    Workflow {
        /// Which.
        name: String,
        /// Why not.
        why: String,
    },
    /// The site does not hold it, or it is no name of content.
    #[error("to chain {0:?}: the site holds no content of this name (category/path)")]
    Chain(String),
    /// Not a script that may be sent.
    #[error("its script {0}")]
    Script(String),
    /// The answers cannot be told apart.
    #[error("it judges {answers} of {items} items")]
    Verdicts {
        /// How many there are.
        answers: usize,
        /// How many were asked.
        items: usize,
    },
    /// It gives up what the site needs.
    #[error("it gives up {0}, which the site is required to hold")]
    Required(ContentKey),
}

/// What the agent knows and an answer has to agree with.
pub trait Ground {
    /// Whether this machine can be given the installer of this workflow now: its record asks for an installation, the workflow
    /// exists, and what it needs is here while the controller is not.
    ///
    /// # Errors
    /// Why not, for the policy's author.
    fn may_install(&self, workflow: &str) -> Result<(), String>;

    /// Whether the site holds this.
    fn holds(&self, key: &ContentKey) -> bool;

    /// Whether a script loads only from the agent.
    ///
    /// # Errors
    /// What it does else, for the policy's author.
    fn check_script(&self, script: &str) -> Result<(), String>;
}

/// What a policy wants a machine to boot, as it said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RawAction {
    Pass,
    LocalDisk,
    Discovery,
    LastKnown,
    Workflow(String),
    Chain(String),
    Script(String),
    Hold(u32),
    Refuse(String),
}

/// A decision as a policy said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawDecision {
    pub(crate) action: RawAction,
    pub(crate) set: Vec<(String, String)>,
    pub(crate) reason: Option<String>,
}

pub(crate) fn check_decision(raw: RawDecision, ground: &dyn Ground) -> Result<Decision, BadAnswer> {
    Ok(Decision {
        action: check_action(raw.action, ground)?,
        set: check_vars(raw.set)?,
        reason: raw.reason.map(|reason| line("reason", reason)).transpose()?,
    })
}

fn check_action(raw: RawAction, ground: &dyn Ground) -> Result<Option<Action>, BadAnswer> {
    Ok(Some(match raw {
        RawAction::Pass => return Ok(None),
        RawAction::LocalDisk => Action::LocalDisk,
        RawAction::Discovery => Action::Discovery,
        RawAction::LastKnown => Action::LastKnown,
        RawAction::Workflow(name) => match ground.may_install(&name) {
            Ok(()) => Action::Workflow(name),
            Err(why) => return Err(BadAnswer::Workflow { name: shortened(&name), why }),
        },
        RawAction::Chain(name) => {
            let held = name.parse().ok().filter(|key| ground.holds(key));
            Action::Chain(held.ok_or_else(|| BadAnswer::Chain(shortened(&name)))?)
        }
        RawAction::Script(script) => Action::Script(check_script(script, ground)?),
        RawAction::Hold(seconds) => Action::Hold(seconds.clamp(*HOLD_S.start(), *HOLD_S.end())),
        RawAction::Refuse(reason) => Action::Refuse(line("refusal", reason)?),
    }))
}

pub(crate) fn check_script(script: String, ground: &dyn Ground) -> Result<String, BadAnswer> {
    let bad = |why: String| Err(BadAnswer::Script(why));
    if script.len() > SCRIPT_LEN_MAX {
        return bad(format!("has {} bytes, at most {SCRIPT_LEN_MAX}", script.len()));
    }
    if script.lines().next() != Some(SCRIPT_MARK) {
        return bad(format!("does not begin with the line {SCRIPT_MARK}"));
    }
    let is_text = |letter: char| matches!(letter, ' '..='~' | '\n' | '\t');
    if let Some(letter) = script.chars().find(|letter| !is_text(*letter)) {
        return bad(format!("holds {letter:?}, which is not printable ASCII"));
    }
    ground.check_script(&script).map(|()| script).map_err(BadAnswer::Script)
}

fn check_vars(raw: Vec<(String, String)>) -> Result<Vars, BadAnswer> {
    if raw.len() > VARS_MAX {
        return Err(BadAnswer::Vars(raw.len()));
    }
    let mut vars = Vars::new();
    for (name, value) in raw {
        if !is_var_name(&name) {
            return Err(BadAnswer::VarName(shortened(&name)));
        }
        if value.len() > VAR_VALUE_LEN_MAX || value.chars().any(char::is_control) {
            return Err(BadAnswer::VarValue(name));
        }
        if vars.contains_key(&name) {
            return Err(BadAnswer::VarTwice(name));
        }
        vars.insert(name, value);
    }
    Ok(vars)
}

fn is_var_name(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    name.len() <= VAR_NAME_LEN_MAX
        && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(is_inner)
}

pub(crate) fn check_verdicts(
    raw: Vec<Option<CacheVerdict>>,
    items: &[CacheItem],
) -> Result<Vec<Option<CacheVerdict>>, BadAnswer> {
    if raw.len() != items.len() {
        return Err(BadAnswer::Verdicts { answers: raw.len(), items: items.len() });
    }
    let check = |(verdict, item): (Option<CacheVerdict>, &CacheItem)| match verdict {
        Some(verdict) if item.required && (!verdict.store || verdict.ttl.is_some()) => {
            Err(BadAnswer::Required(item.key.clone()))
        }
        verdict => Ok(verdict.map(|verdict| CacheVerdict {
            ttl: verdict.ttl.map(|seconds| seconds.max(TTL_MIN_S)),
            ..verdict
        })),
    };
    raw.into_iter().zip(items).map(check).collect()
}

fn line(what: &'static str, text: String) -> Result<String, BadAnswer> {
    let is_line = text.chars().count() <= LINE_LEN_MAX && !text.chars().any(char::is_control);
    if is_line { Ok(text) } else { Err(BadAnswer::Line(what)) }
}

/// Enough of a text to know it by.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests;
