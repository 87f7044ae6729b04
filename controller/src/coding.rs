//! Content codings (RFC 9110 §8.4): bodies that come compressed, and answers that leave so. The one that is spoken is gzip.
//!
//! Nothing is inflated before the guard knows who sends it, and no further than a bound that grows with what was sent (FAULTS
//! C18); the limits of the routes hold for what comes out. Content is neither: it is kept and given as it came.

use std::io::Read;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use flate2::bufread::GzDecoder;
use tower_http::compression::predicate::{And, Predicate, SizeAbove};
use tower_http::compression::{CompressionLayer, CompressionLevel};

use crate::error::ApiError;
use crate::router::BODY_LEN_MAX;

/// How many times as long a body may be as it came; JSON of agents becomes a tenth, zeros a thousandth.
const RATIO_MAX: usize = 100;
/// What a body may become however short it came, in bytes.
const RATIO_FREE_LEN: usize = 64 << 10;
/// The shortest answer that is worth it, in bytes.
const WORTH_LEN: u64 = 1 << 10;
/// What is text. Everything else, content above all, leaves as it is.
const TEXTS: [&str; 3] = ["application/json", "application/openmetrics-text", "text/html"];

/// Why a body cannot be inflated.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum InflateError {
    /// It would become longer than it may.
    #[error(
        "inflated, the body is larger than {max} bytes, which is the most for {len} bytes in gzip"
    )]
    TooLarge { len: usize, max: usize },
    /// It is cut short, damaged, or something else.
    #[error("the body is not gzip: {0}")]
    Malformed(String),
}

impl From<InflateError> for ApiError {
    fn from(error: InflateError) -> Self {
        let (status, code) = match error {
            InflateError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            InflateError::Malformed(_) => (StatusCode::BAD_REQUEST, "malformed_encoding"),
        };
        Self::Refused { status, code, detail: error.to_string() }
    }
}

/// The layer that inflates what comes in gzip, and refuses any other coding.
pub(crate) async fn inflate(request: Request, next: Next) -> Result<Response, ApiError> {
    let coding = request.headers().get(CONTENT_ENCODING);
    let coding = coding.map(|coding| coding.to_str().unwrap_or("?").to_ascii_lowercase());
    match coding.as_deref() {
        None | Some("identity") => return Ok(next.run(request).await),
        Some(_) if request.body().is_end_stream() => return Ok(next.run(request).await),
        Some("gzip" | "x-gzip") => {}
        Some(coding) => return Ok(unknown(coding)),
    }
    let (mut parts, body) = request.into_parts();
    let packed = axum::body::to_bytes(body, BODY_LEN_MAX)
        .await
        .map_err(|_| ApiError::bad_request("body_incomplete", "the body did not arrive whole"))?;
    let plain = gunzip(&packed)?;
    parts.headers.remove(CONTENT_ENCODING);
    parts.headers.insert(CONTENT_LENGTH, plain.len().into());
    Ok(next.run(Request::from_parts(parts, Body::from(plain))).await)
}

/// 415 that names what is understood (RFC 9110 §15.5.16).
fn unknown(coding: &str) -> Response {
    let coding: String = coding.chars().take(64).collect();
    let error = ApiError::Refused {
        status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
        code: "unsupported_media_type",
        detail: format!(
            "a body in Content-Encoding '{coding}' is not understood, send it in gzip or as it is"
        ),
    };
    let mut response = error.into_response();
    response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    response
}

/// What one member of gzip (RFC 1952) holds, and nothing behind it.
fn gunzip(packed: &[u8]) -> Result<Vec<u8>, InflateError> {
    let len = packed.len();
    let max = len.saturating_mul(RATIO_MAX).clamp(RATIO_FREE_LEN, BODY_LEN_MAX);
    let mut decoder = GzDecoder::new(packed);
    let mut plain = Vec::new();
    let beyond = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let read = decoder.by_ref().take(beyond).read_to_end(&mut plain);
    read.map_err(|error| InflateError::Malformed(error.to_string()))?;
    if plain.len() > max {
        return Err(InflateError::TooLarge { len, max });
    }
    match decoder.into_inner() {
        [] => Ok(plain),
        rest => Err(InflateError::Malformed(format!("{} bytes follow its end", rest.len()))),
    }
}

type IsText = fn(StatusCode, Version, &HeaderMap, &Extensions) -> bool;

/// The layer that compresses an answer whose client takes it, if it is a text that is worth it.
pub(crate) fn compression() -> CompressionLayer<And<SizeAbove, IsText>> {
    let is_text: IsText = |_, _, headers, _| {
        let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.unwrap_or_default().split(';').next().unwrap_or_default();
        TEXTS.contains(&media_type.trim())
    };
    CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(WORTH_LEN).and(is_text))
}

/// The layer before [`compression`] that leaves whatever makes something alone. Such answers hold the secrets that are told
/// once; compressed together with what others chose they could be guessed by their length (BREACH).
pub(crate) async fn only_reads(mut request: Request, next: Next) -> Response {
    if request.method() != Method::GET {
        request.headers_mut().remove(ACCEPT_ENCODING);
    }
    next.run(request).await
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).expect("memory");
        encoder.finish().expect("memory")
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_back(plain in prop::collection::vec(any::<u8>(), 0..2_000)) {
            prop_assert_eq!(gunzip(&gzip(&plain)), Ok(plain));
        }

        #[test]
        fn rubbish_is_refused(packed in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(gunzip(&packed).is_err());
        }
    }

    #[test]
    fn c18_a_bomb_is_given_up_at_the_bound_and_not_inflated() {
        let bomb = gzip(&vec![b' '; 64 << 20]);
        assert!(bomb.len() < 70_000, "{}", bomb.len());
        assert_eq!(
            gunzip(&bomb),
            Err(InflateError::TooLarge { len: bomb.len(), max: BODY_LEN_MAX })
        );
        let small = gzip(&vec![b' '; 200 << 10]);
        assert!(matches!(gunzip(&small), Err(InflateError::TooLarge { max: RATIO_FREE_LEN, .. })));
        assert_eq!(gunzip(&gzip(&[b' '; 60 << 10])).map(|plain| plain.len()), Ok(60 << 10));
    }

    #[test]
    fn a_body_that_is_cut_short_damaged_or_followed_by_more_is_refused() {
        let whole = gzip(b"{\"name\": \"berlin\"}");
        for len in 0..whole.len() {
            assert!(gunzip(&whole[..len]).is_err(), "{len} bytes");
        }
        let mut damaged = whole.clone();
        damaged[12] ^= 1;
        assert!(gunzip(&damaged).is_err());
        for rest in [&b"x"[..], &whole] {
            let error = gunzip(&[&whole, rest].concat()).expect_err("refused").to_string();
            assert!(error.contains("follow its end"), "{error}");
        }
    }
}
