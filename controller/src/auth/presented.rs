//! The credential that a request brings along: a bearer, or the cookie of a session.

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, COOKIE};
use pureboot_protocol::Secret;

/// What a request shows of who it is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Presented {
    /// `Authorization: Bearer …`, which no browser adds by itself.
    Bearer(Secret),
    /// The cookie of a session, which a browser adds whoever makes it send the request.
    Cookie(Secret),
}

/// The credential of `headers`, a bearer before a cookie: whoever writes the header means it.
pub(crate) fn presented(headers: &HeaderMap, cookie_name: &str) -> Option<Presented> {
    if headers.contains_key(AUTHORIZATION) {
        return bearer(headers).map(Presented::Bearer);
    }
    cookie(headers, cookie_name).map(Presented::Cookie)
}

/// The credential of `Authorization: Bearer …` (RFC 6750 §2.1).
fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let (scheme, secret) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Secret::new(secret.trim().to_owned()))
}

/// The cookie with `name` (RFC 6265 §4.2.1). Two of that name are none: one of them was planted.
pub(crate) fn cookie(headers: &HeaderMap, name: &str) -> Option<Secret> {
    let texts = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs =
        texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut named = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value);
    let value = named.next()?;
    named.next().is_none().then(|| Secret::new(value.to_owned()))
}
