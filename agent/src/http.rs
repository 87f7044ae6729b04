//! hyper on the executor, with a limit on everything.
//!
//! [`serve()`] runs a listener: the boot listener over TCP, the management listener over a Unix socket. Whatever answers
//! requests is a [`Service`]; routes are its business, and nothing here knows one. What holds for every answer is seen to
//! here: an exact `Content-Length`, a body with every error, the same head for HEAD as for GET, a correlation id.

mod answer;
mod body;
mod head;
mod limits;
mod loan;
mod object;
mod pacing;
mod patience;
mod range;
mod serve;
mod target;
#[cfg(test)]
pub(crate) mod testing;
mod wire;

pub use answer::{CorrelationId, Response, invalid, json, problem, script, success, text};
pub use body::{Body, BodyError, chunks, read_body};
pub use limits::{CONTENT_STREAMS_MAX, DESCRIPTORS_WANTED, Limits};
pub use loan::{Chunk, Sink};
pub use object::{
    Content, Sent, content_type, not_now, object_response, on_its_way, unread_status,
};
pub use range::{Representation, Selection, select};
pub use serve::{Connection, Listener, Service, serve};
pub use target::{Target, TargetError};
