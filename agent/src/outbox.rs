//! Changes that the controller has not acknowledged yet: written down first, handed over exactly once and in order.
//!
//! | module | what it is |
//! |---|---|
//! | `change` | what makes two reports the same change |
//! | `record` | the table: a change and its effect in one transaction, the quota, the prefix that is deleted |

mod change;
mod record;

pub use self::change::NewChange;
pub use self::record::{Counts, Queued, Recorded};
pub(crate) use self::record::{Entry, append};
