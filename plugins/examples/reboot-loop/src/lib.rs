//! A machine that asks for its boot again and again is stopped: first it has to wait, and at last it is not served, until somebody has
//! looked and given it the tag that lets it go on.

use pureboot_policy::boot::{self, Action, BootRequest, Decision, Guest, PolicyError};
use pureboot_policy::types::Site;
use pureboot_policy::{error, log_panics, warn};

struct Policy;

impl Guest for Policy {
    fn decide(request: BootRequest) -> Result<Decision, PolicyError> {
        log_panics();
        let (slow, stop) =
            (number(&request.site, "slow-after")?, number(&request.site, "stop-after")?);
        let tag = request.site.setting("released-by-tag")?;
        let is_released = request.node.as_ref().is_some_and(|node| node.has_tag(tag));
        let attempt = request.attempt;
        Ok(if is_released || attempt <= slow {
            Decision::pass()
        } else if attempt <= stop {
            let wait = number(&request.site, "wait-seconds")?;
            Decision::of(Action::Hold(wait), format!("boot {attempt} within ten minutes"))
        } else {
            warn(format!("{} boots in a loop: {attempt} times within ten minutes", request.mac));
            let text = format!("boot {attempt} within ten minutes: tag it {tag} to let it go on");
            Decision::of(Action::Refuse(text.clone()), text)
        })
    }
}

boot::export!(Policy);

fn number(site: &Site, name: &str) -> Result<u32, PolicyError> {
    let text = site.setting(name)?;
    text.parse().map_err(|_| error(format!("{name} is {text:?}, not a number")))
}
