//! Changes that the controller has not acknowledged yet: written down first, handed over exactly once and in order.
//!
//! | module | what it is |
//! |---|---|
//! | `change` | what makes two reports the same change |
//! | `chain` | the hash that says which changes came before |
//! | `record` | the table: a change and its effect in one transaction, the quota, the prefix that is acknowledged |
//! | `ring` | what is kept of acknowledged changes, for a controller or a disk that comes back from the past |
//! | `flush` | when which batch is sent, and which receipt counts (no I/O) |
//! | `view` | what waits and what was set aside, for the person who asks |
//! | `run` | the task around it, and who waits for an outcome |

mod chain;
mod change;
mod flush;
#[cfg(test)]
mod joined;
mod outcomes;
mod record;
mod ring;
mod run;
pub mod view;

pub use self::change::NewChange;
pub use self::flush::{DeliveryError, Flush, LIMITS, Output, ReceiptError, Report};
pub use self::outcomes::Trouble;
pub use self::record::{Counts, Queued, Recorded};
pub(crate) use self::record::{Entry, append};
pub(crate) use self::ring::{begin_epoch, is_unchained, kept_since};
pub use self::run::{Courier, Flusher, Outbox, run};
