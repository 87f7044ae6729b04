//! Every machine of a lab boots the lab's diskless image, whatever state it is in, unless it has the tag of those that boot their disk.

use pureboot_policy::boot::{self, Action, BootRequest, Decision, Guest, PolicyError};
use pureboot_policy::log_panics;

struct Policy;

impl Guest for Policy {
    fn decide(request: BootRequest) -> Result<Decision, PolicyError> {
        log_panics();
        let tag = request.site.setting("disk-tag")?;
        if request.node.as_ref().is_some_and(|node| node.has_tag(tag)) {
            return Ok(Decision::pass());
        }
        let script = request.site.setting("script")?;
        Ok(Decision::of(Action::Chain(script.to_owned()), "the lab boots diskless"))
    }
}

boot::export!(Policy);
