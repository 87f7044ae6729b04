//! Credentials and origins as requests bring them along.

use axum::http::header::{AUTHORIZATION, COOKIE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use pureboot_protocol::Secret;

use crate::auth::presented::{Presented, presented};

fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(name, HeaderValue::from_static(value));
    }
    headers
}

#[test]
fn a_credential_is_a_bearer_or_the_one_cookie_of_its_name() {
    let secret = |text: &str| Secret::new(text.to_owned());
    for (pairs, expected) in [
        (&[][..], None),
        (&[(AUTHORIZATION, "Bearer a")], Some(Presented::Bearer(secret("a")))),
        (&[(COOKIE, "s=a")], Some(Presented::Cookie(secret("a")))),
        (&[(COOKIE, "x=1; s=a;y=2")], Some(Presented::Cookie(secret("a")))),
        (&[(COOKIE, "x=1"), (COOKIE, "s=a")], Some(Presented::Cookie(secret("a")))),
        (&[(COOKIE, "s=a; s=b")], None),
        (&[(COOKIE, "s=a"), (COOKIE, "s=b")], None),
        (&[(COOKIE, "ss=a; S=b; s")], None),
        (&[(AUTHORIZATION, "Bearer a"), (COOKIE, "s=b")], Some(Presented::Bearer(secret("a")))),
        (&[(AUTHORIZATION, "Basic a"), (COOKIE, "s=b")], None),
    ] {
        assert_eq!(presented(&headers(pairs), "s"), expected, "{pairs:?}");
    }
}
