//! Changes that the controller has not acknowledged yet: written down first, handed over exactly once and in order.
//!
//! | module | what it is |
//! |---|---|
//! | `change` | what makes two reports the same change |
//! | `record` | the table: a change and its effect in one transaction, the quota, the prefix that is deleted |
//! | `flush` | when which batch is sent, and which receipt counts (no I/O) |
//! | `run` | the task around it, and who waits for an outcome |

mod change;
mod flush;
mod outcomes;
mod record;
mod run;

pub use self::change::NewChange;
pub use self::flush::{
    BATCH_BYTES_MAX, BATCH_ITEMS_MAX, DeliveryError, Flush, Output, ReceiptError, Report,
};
pub use self::outcomes::Trouble;
pub use self::record::{Counts, Queued, Recorded};
pub(crate) use self::record::{Entry, append};
pub use self::run::{Courier, Flusher, Outbox, run};
