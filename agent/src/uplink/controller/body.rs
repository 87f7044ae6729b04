//! What a call carries, there and back.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::Bytes;
use hyper::header::{HeaderMap, RETRY_AFTER};
use hyper::{Response, StatusCode};
use pureboot_protocol::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{CallError, Refusal};
use crate::world;

/// The body of a call: JSON, as it is or in gzip.
#[derive(Clone)]
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) is_gzip: bool,
}

impl Body {
    /// `bytes` as they are.
    pub(super) fn plain(bytes: Vec<u8>) -> Self {
        Self { bytes, is_gzip: false }
    }

    /// `plain` in gzip, and `plain` back. On a small router a full batch takes so long that a machine would notice.
    pub(super) async fn packed(plain: Vec<u8>) -> (Self, Vec<u8>) {
        world::unblock(move || (Self { bytes: gzip(&plain), is_gzip: true }, plain)).await
    }
}

/// A question as JSON.
pub(super) fn json(question: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(question).expect("every type of the protocol can be written as JSON")
}

/// What the controller answered to a question that it took.
///
/// # Errors
/// It is nothing of the API.
pub(super) fn understood<A: DeserializeOwned>(answer: &Response<Bytes>) -> Result<A, CallError> {
    serde_json::from_slice(answer.body()).map_err(|error| {
        let status = answer.status();
        CallError::Foreign(format!("{status} with a body that does not fit the API: {error}"))
    })
}

pub(super) fn retry_after(fields: &HeaderMap) -> Option<Duration> {
    let seconds = fields.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

pub(super) fn refusal(status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> CallError {
    match serde_json::from_slice::<Problem>(body) {
        Ok(Problem { code, detail, .. }) => {
            CallError::Refused(Refusal { status, code, detail, retry_after })
        }
        // Whoever stands in between and limits bodies has no words of ours; what it means is clear.
        Err(_) if status == StatusCode::PAYLOAD_TOO_LARGE => CallError::Refused(Refusal {
            status,
            code: "too_large".to_owned(),
            detail: "something on the way to the controller takes no body of this size".to_owned(),
            retry_after,
        }),
        Err(_) => CallError::Foreign(format!("{status} without a problem document")),
    }
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder
        .write_all(plain)
        .and_then(|()| encoder.finish())
        .expect("a vector takes what is written into it")
}
