//! A machine is installed with the workflow of its rack, and only in the site's maintenance window; at other times it boots its disk.

use pureboot_policy::boot::{self, Action, BootRequest, Decision, Guest, PolicyError};
use pureboot_policy::{error, log_panics};

struct Policy;

impl Guest for Policy {
    fn decide(request: BootRequest) -> Result<Decision, PolicyError> {
        log_panics();
        let Some(node) = request.node.as_ref().filter(|node| node.is_to_be_installed()) else {
            return Ok(Decision::pass());
        };
        let (from, to) = (request.site.setting("from")?, request.site.setting("to")?);
        if !is_within(request.site.minute_of_day(request.now), minute(from)?, minute(to)?) {
            return Ok(Decision::of(
                Action::LocalDisk,
                format!("installations are from {from} to {to}"),
            ));
        }
        let rack = node.attribute("rack").unwrap_or_default();
        Ok(match workflow(request.site.setting("workflows")?, rack) {
            Some(workflow) => {
                Decision::of(Action::Workflow(workflow.to_owned()), format!("of rack {rack}"))
            }
            None => Decision::pass(),
        })
    }
}

boot::export!(Policy);

/// The minute of the day of `22:30`.
fn minute(time: &str) -> Result<u32, PolicyError> {
    let parse = || {
        let (hour, minute) = time.split_once(':')?;
        let (hour, minute): (u32, u32) = (hour.parse().ok()?, minute.parse().ok()?);
        (hour < 24 && minute < 60).then_some(hour * 60 + minute)
    };
    parse().ok_or_else(|| error(format!("{time:?} is not a time such as 22:30")))
}

/// Whether a minute lies in a window, which may go over midnight.
fn is_within(minute: u32, from: u32, to: u32) -> bool {
    if from <= to { (from..to).contains(&minute) } else { minute >= from || minute < to }
}

/// The workflow of a rack in `a-=debian-12,b-=rocky-9`: the first whose prefix fits.
fn workflow<'a>(workflows: &'a str, rack: &str) -> Option<&'a str> {
    let pairs = workflows.split(',').filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(prefix, _)| rack.starts_with(prefix)).map(|(_, workflow)| workflow).next()
}
