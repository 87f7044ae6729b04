//! A ground for the tests of checks.

use pureboot_protocol::ContentKey;

use crate::answer::Ground;

/// Takes every workflow but the one that is called so, every content but what is missing, and every script that stays here.
pub(crate) struct OpenGround;

impl Ground for OpenGround {
    fn may_install(&self, workflow: &str) -> Result<(), String> {
        if workflow == "not wanted" {
            Err("the machine is not to be installed".to_owned())
        } else {
            Ok(())
        }
    }

    fn holds(&self, key: &ContentKey) -> bool {
        key.path() != "missing"
    }

    fn check_script(&self, script: &str) -> Result<(), String> {
        if script.contains("elsewhere") { Err("loads from elsewhere".to_owned()) } else { Ok(()) }
    }
}
