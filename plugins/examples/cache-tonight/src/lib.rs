//! What machines and workflows of the site are assigned is pinned, so that tonight's installations find it; what nobody has asked for
//! in a long time goes.

use pureboot_policy::cache::{self, Context, Guest, Item, PolicyError, Verdict};
use pureboot_policy::{error, log_panics};

struct Policy;

/// What the built-in policy gives everything.
const USUAL: u8 = 128;

impl Guest for Policy {
    fn judge(context: Context, items: Vec<Item>) -> Result<Vec<Option<Verdict>>, PolicyError> {
        log_panics();
        let days = context.site.setting("idle-days")?;
        let days: u32 =
            days.parse().map_err(|_| error(format!("idle-days is {days:?}, not a number")))?;
        let idle_max = days.saturating_mul(86_400);
        Ok(items.iter().map(|item| judge(item, idle_max)).collect())
    }
}

cache::export!(Policy);

fn judge(item: &Item, idle_max: u32) -> Option<Verdict> {
    let is_idle = item.idle.is_none_or(|idle| idle > idle_max);
    match (item.assigned, item.required) {
        (true, _) => Some(Verdict { store: true, ttl: None, pin: true, priority: u8::MAX }),
        (false, false) if is_idle => {
            Some(Verdict { store: false, ttl: None, pin: false, priority: 0 })
        }
        (false, false) if item.hits > 10 => {
            Some(Verdict { store: true, ttl: None, pin: false, priority: USUAL + 64 })
        }
        (false, _) => None,
    }
}
