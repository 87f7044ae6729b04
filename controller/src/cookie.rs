//! The cookie of a session, as it is set and taken back.

use axum::http::HeaderValue;
use pureboot_protocol::Secret;

/// How the cookie looks; it depends on whether the API speaks HTTPS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cookie {
    /// Over HTTPS: browsers take a name with this prefix only with `Secure`, for the whole host and from that host itself
    /// (RFC 6265bis §4.1.3.2), so that nobody beside us can plant one.
    Secure,
    /// Over HTTP, as on one machine.
    Plain,
}

impl Cookie {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Secure => "__Host-pureboot_session",
            Self::Plain => "pureboot_session",
        }
    }

    /// `Set-Cookie` for `secret`, which is forgotten after `seconds`.
    pub(crate) fn set(self, secret: &Secret, seconds: i64) -> HeaderValue {
        self.emit(secret.reveal(), seconds)
    }

    /// `Set-Cookie` that takes the cookie back.
    pub(crate) fn clear(self) -> HeaderValue {
        self.emit("", 0)
    }

    fn emit(self, value: &str, seconds: i64) -> HeaderValue {
        let name = self.name();
        let secure = if self == Self::Secure { "; Secure" } else { "" };
        let text =
            format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
        let mut value =
            HeaderValue::from_str(&text).expect("a secret that we made is hexadecimal digits");
        value.set_sensitive(true);
        value
    }
}
