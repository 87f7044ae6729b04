//! What a call carries.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

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

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder
        .write_all(plain)
        .and_then(|()| encoder.finish())
        .expect("a vector takes what is written into it")
}
