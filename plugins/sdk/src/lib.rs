//! What a PureBoot site policy in Rust is written with.
//!
//! ```ignore
//! use pureboot_policy::boot::{self, Action, BootRequest, Decision, Guest, PolicyError};
//!
//! struct Policy;
//!
//! impl Guest for Policy {
//!     fn decide(request: BootRequest) -> Result<Decision, PolicyError> {
//!         pureboot_policy::log_panics();
//!         Ok(match request.hardware_fact("manufacturer") {
//!             Some("QEMU") => Decision::of(Action::LocalDisk, "virtual machines boot their disk"),
//!             _ => Decision::pass(),
//!         })
//!     }
//! }
//!
//! boot::export!(Policy);
//! ```
//!
//! Build it with `crate-type = ["cdylib"]` for `wasm32-unknown-unknown`. [`boot`], [`script`] and [`cache`] are the hooks, of which a
//! policy exports those that it has; [`nodes`] needs the capability of that name. The contract is `plugins/wit/since-0.1/policy.wit`.
#![allow(missing_docs, reason = "the contract has the documents, and most of this is made of it")]

mod imports {
    wit_bindgen::generate!({
        inline: "package pureboot:sdk; world imports {
            import pureboot:policy/types@0.1.0; import pureboot:policy/log@0.1.0; import pureboot:policy/nodes@0.1.0; }",
        path: "../wit/since-0.1",
        generate_all,
    });
}

mod boot_world {
    wit_bindgen::generate!({
        path: "../wit/since-0.1",
        world: "boot-policy",
        with: {
            "pureboot:policy/types@0.1.0": crate::imports::pureboot::policy::types,
            "pureboot:policy/log@0.1.0": crate::imports::pureboot::policy::log,
        },
        pub_export_macro: true,
        default_bindings_module: "pureboot_policy::boot",
    });
}

mod script_world {
    wit_bindgen::generate!({
        path: "../wit/since-0.1",
        world: "script-policy",
        with: {
            "pureboot:policy/types@0.1.0": crate::imports::pureboot::policy::types,
            "pureboot:policy/log@0.1.0": crate::imports::pureboot::policy::log,
        },
        pub_export_macro: true,
        default_bindings_module: "pureboot_policy::script",
    });
}

mod cache_world {
    wit_bindgen::generate!({
        path: "../wit/since-0.1",
        world: "cache-policy",
        with: {
            "pureboot:policy/types@0.1.0": crate::imports::pureboot::policy::types,
            "pureboot:policy/log@0.1.0": crate::imports::pureboot::policy::log,
        },
        pub_export_macro: true,
        default_bindings_module: "pureboot_policy::cache",
    });
}

/// Hook 1: what a machine boots.
pub mod boot {
    pub use crate::boot_world::exports::pureboot::policy::boot::{Action, Decision, Guest};
    pub use crate::boot_world::{export, exports};
    pub use crate::types::{BootRequest, PolicyError, Vars};
}

/// Hook 2: the script that is about to be sent.
pub mod script {
    pub use crate::script_world::exports::pureboot::policy::script::{Guest, Purpose};
    pub use crate::script_world::{export, exports};
    pub use crate::types::{BootRequest, PolicyError};
}

/// Hook 3: what the site keeps.
pub mod cache {
    pub use crate::cache_world::exports::pureboot::policy::cache::{Context, Guest, Item, Verdict};
    pub use crate::cache_world::{export, exports};
    pub use crate::types::{PolicyError, Site};
}

/// Capability `nodes`: the site's record of its nodes.
pub use imports::pureboot::policy::nodes;
/// The records that all hooks share.
pub use imports::pureboot::policy::types;

use imports::pureboot::policy::log;

/// A line for the policy's author.
pub fn debug(message: impl AsRef<str>) {
    log::log(log::Level::Debug, message.as_ref());
}

/// A line for the site's operator.
pub fn info(message: impl AsRef<str>) {
    log::log(log::Level::Info, message.as_ref());
}

/// A line that somebody should look at.
pub fn warn(message: impl AsRef<str>) {
    log::log(log::Level::Warn, message.as_ref());
}

/// Has a panic say in the log what it was and where, before it ends the call. To be called first in a hook.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| warn(panic.to_string())));
}

/// The value of a name.
pub fn value<'a>(vars: &'a types::Vars, name: &str) -> Option<&'a str> {
    vars.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// The policy's own failure, in words; the agent goes on as if there were no opinion.
pub fn error(message: impl Into<String>) -> types::PolicyError {
    types::PolicyError { message: message.into() }
}

impl types::BootRequest {
    /// What the firmware says of the machine: `serial`, `uuid`, `manufacturer`, `product`, `asset`.
    pub fn hardware_fact(&self, name: &str) -> Option<&str> {
        value(&self.hardware, name)
    }
}

impl types::Node {
    /// Whether it has a tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|known| known == tag)
    }

    /// One of its attributes.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        value(&self.attributes, name)
    }

    /// Whether its record asks for an installation.
    pub fn is_to_be_installed(&self) -> bool {
        self.state == "pending"
    }
}

impl types::Site {
    /// A setting of this policy. Every setting that the package declares has a value.
    ///
    /// # Errors
    /// The package does not declare it.
    pub fn setting(&self, name: &str) -> Result<&str, types::PolicyError> {
        value(&self.settings, name)
            .ok_or_else(|| error(format!("the package declares no setting {name}")))
    }

    /// The minute of the day on the site's wall clock, 0 to 1439.
    pub fn minute_of_day(&self, now: u32) -> u32 {
        let minute = i64::from(now / 60) + i64::from(self.utc_offset_minutes);
        u32::try_from(minute.rem_euclid(1_440)).unwrap_or_default()
    }
}

impl boot::Decision {
    /// No opinion.
    pub fn pass() -> Self {
        Self { action: boot::Action::Pass, set: Vec::new(), reason: None }
    }

    /// An action, and why.
    pub fn of(action: boot::Action, reason: impl Into<String>) -> Self {
        Self { action, set: Vec::new(), reason: Some(reason.into()) }
    }
}
