//! Whether a request that a browser sends was made by our own page. A browser adds the session's cookie to requests that any
//! other page makes it send, so what a cookie opens must not be changed on that evidence alone.

use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, Method};

use crate::error::ApiError;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What the browser says of where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Evidence {
    /// Our own page.
    Own,
    /// Another page.
    Foreign,
    /// Nothing: an old browser, or none.
    None,
}

/// Lets a request that a cookie vouches for pass if it only reads, or if our own page has made it.
///
/// # Errors
/// 403 for another page's, 415 for a body that a form of another page could have sent as well.
pub(crate) fn check_cookie(method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
    if method.is_safe() {
        return Ok(());
    }
    if evidence(headers) != Evidence::Own {
        return Err(ApiError::ForeignOrigin);
    }
    // A stream of bytes goes by PUT, which no form can send.
    if method != Method::PUT && !is_json(headers) {
        return Err(ApiError::JsonWanted);
    }
    Ok(())
}

/// Lets a request without credential pass unless a browser says that another page has made it.
///
/// # Errors
/// 403 for another page's, 415 for a body that is not JSON.
pub(crate) fn check_login(headers: &HeaderMap) -> Result<(), ApiError> {
    if evidence(headers) == Evidence::Foreign {
        return Err(ApiError::ForeignOrigin);
    }
    if !is_json(headers) {
        return Err(ApiError::JsonWanted);
    }
    Ok(())
}

/// Fetch Metadata where the browser sends it, which it does over TLS only, else RFC 6454 §7 against the name that was called.
fn evidence(headers: &HeaderMap) -> Evidence {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    match (text(&SEC_FETCH_SITE), text(&ORIGIN)) {
        (Some("same-origin"), _) => Evidence::Own,
        (Some(_), _) => Evidence::Foreign,
        (None, None) => Evidence::None,
        (None, Some(origin)) => {
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            match (authority, text(&HOST)) {
                (Some(from), Some(host)) if from.eq_ignore_ascii_case(host) => Evidence::Own,
                _ => Evidence::Foreign,
            }
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case("application/json")
}
