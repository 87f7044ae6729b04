//! What a request's head must be like beyond what hyper checks.

use hyper::header::{self, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};

/// What the server answers requests with, in the form of the `Allow` field.
const ALLOWED_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";

/// Why a request is refused before any service sees it. The peer gets the status and the text, and the connection is closed,
/// because where such a request ends is open to dispute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the request is not HTTP/1.1 that this server understands")]
    Malformed,
    #[error("a line of the request's head ends in LF without CR")]
    BareLineFeed,
    #[error("the request's head is longer than 8192 bytes or has too many fields")]
    HeadTooLong,
    #[error("the request's head did not come in time")]
    HeadTooLate,
    #[error("a request must say its length in Content-Length, not by Transfer-Encoding")]
    TransferEncoding,
    #[error("a request must name one host")]
    ManyHosts,
    #[error("the request target must be a path")]
    NotAPath,
    #[error("this server knows the methods {ALLOWED_METHODS}")]
    Method,
}

impl Refusal {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::HeadTooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::HeadTooLate => StatusCode::REQUEST_TIMEOUT,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    pub(super) fn code(self) -> &'static str {
        match self {
            Self::HeadTooLong => "head_too_long",
            Self::HeadTooLate => "head_too_late",
            Self::Method => "method_not_allowed",
            _ => "malformed_request",
        }
    }

    /// The fields that the answer carries besides its text.
    pub(super) fn fields(self) -> HeaderMap {
        let mut fields = HeaderMap::new();
        if self == Self::Method {
            fields.insert(header::ALLOW, header::HeaderValue::from_static(ALLOWED_METHODS));
        }
        fields
    }
}

/// Whether a service may see a request that hyper has parsed.
pub(super) fn vet(request: &Parts) -> Result<(), Refusal> {
    let is_known = matches!(
        request.method,
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::PATCH | Method::DELETE
    );
    if !is_known {
        return Err(Refusal::Method);
    }
    // RFC 9112 §6.1 lets a server refuse what it does not need; no firmware sends one, and smuggling needs one.
    if request.headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Refusal::TransferEncoding);
    }
    if request.headers.get_all(header::HOST).iter().count() > 1 {
        return Err(Refusal::ManyHosts);
    }
    if request.uri.authority().is_some() || !request.uri.path().starts_with('/') {
        return Err(Refusal::NotAPath);
    }
    Ok(())
}

/// Looks for line feeds without carriage return in heads, which hyper takes for line ends (RFC 9112 §2.2 allows both).
///
/// What follows a head in the same read is not looked at, so a pipelined head may pass; hyper frames it all the same.
#[derive(Debug, Default)]
pub(super) struct HeadScan {
    last: u8,
    line_len: usize,
    is_done: bool,
}

impl HeadScan {
    /// The next head begins.
    pub(super) fn restart(&mut self) {
        self.line_len = 0;
        self.is_done = false;
    }

    /// Reads on in the head.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        for byte in bytes {
            if self.is_done {
                break;
            }
            match byte {
                b'\n' if self.last != b'\r' => return Err(Refusal::BareLineFeed),
                b'\n' => {
                    self.is_done = self.line_len == 0;
                    self.line_len = 0;
                }
                b'\r' => {}
                _ => self.line_len += 1,
            }
            self.last = *byte;
        }
        self.last = bytes.last().copied().unwrap_or(self.last);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(method: &str, target: &str, fields: &[(&'static str, &str)]) -> Parts {
        let mut request = hyper::Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn h5_a_request_with_a_transfer_encoding_is_refused() {
        for value in ["chunked", "identity", "xchunked", ""] {
            let request = parts("POST", "/", &[("transfer-encoding", value)]);
            assert_eq!(vet(&request), Err(Refusal::TransferEncoding), "{value:?}");
        }
    }

    #[test]
    fn h11_methods_and_targets_of_proxies_are_refused() {
        for (method, target, expected) in [
            ("GET", "/a", Ok(())),
            ("DELETE", "//a?b", Ok(())),
            ("CONNECT", "host:1", Err(Refusal::Method)),
            ("TRACE", "/", Err(Refusal::Method)),
            ("OPTIONS", "*", Err(Refusal::Method)),
            ("BREW", "/", Err(Refusal::Method)),
            ("GET", "http://169.254.169.254/", Err(Refusal::NotAPath)),
            ("GET", "*", Err(Refusal::NotAPath)),
        ] {
            assert_eq!(
                vet(&parts(method, target, &[("host", "a")])),
                expected,
                "{method} {target}"
            );
        }
    }

    #[test]
    fn two_hosts_are_refused() {
        let request = parts("GET", "/", &[("host", "a"), ("host", "b")]);
        assert_eq!(vet(&request), Err(Refusal::ManyHosts));
    }

    #[test]
    fn h5_a_bare_line_feed_is_found_in_a_head_and_not_in_a_body() {
        for (input, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\nbody\n", Ok(())),
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", Err(Refusal::BareLineFeed)),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", Err(Refusal::BareLineFeed)),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", Err(Refusal::BareLineFeed)),
            ("\n", Err(Refusal::BareLineFeed)),
        ] {
            assert_eq!(HeadScan::default().feed(input.as_bytes()), expected, "{input:?}");
        }
    }

    proptest! {
        #[test]
        fn h5_a_head_in_pieces_is_judged_as_a_whole(
            lines in proptest::collection::vec(("[a-z]{1,5}", prop::bool::weighted(0.1)), 0..6),
            cuts in proptest::collection::vec(0usize..40, 0..5),
        ) {
            let mut head = String::new();
            for (line, is_bare) in &lines {
                head += line;
                head += if *is_bare { "\n" } else { "\r\n" };
            }
            head += "\r\nbody\nbody";
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(head.len())).collect();
            cuts.sort_unstable();
            let mut scan = HeadScan::default();
            let mut begin = 0;
            let mut result = Ok(());
            for end in cuts.into_iter().chain([head.len()]) {
                result = result.and_then(|()| scan.feed(&head.as_bytes()[begin..end]));
                begin = end;
            }
            let is_clean = lines.iter().all(|(_, is_bare)| !is_bare);
            prop_assert_eq!(result.is_ok(), is_clean);
        }
    }
}
