//! The controller as seen from this host: each way in which it is not there has another cure. Pure: the outcome of a call comes
//! in.

use std::time::{SystemTime, UNIX_EPOCH};

use hyper::Response;
use hyper::body::Bytes;
use hyper::header::DATE;
use pureboot_protocol::Timestamp;
use rustls::{CertificateError, Error as TlsError};

use super::finding::Finding;
use crate::uplink::controller::CallError;
use crate::uplink::url::CentralUrl;

const NAME: &str = "controller";

/// What a question whether the controller is ready came to.
pub fn judge(url: &CentralUrl, outcome: &Result<Response<Bytes>, CallError>) -> Finding {
    let fail = |what: String| Finding::fail(NAME, format!("{url}: {what}"));
    match outcome {
        Ok(answer) => judge_answer(url, answer),
        Err(CallError::Connect { error, .. }) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            fail("the connection is refused".to_owned())
                .because("the host is there and nothing listens on that port")
                .cure("start the controller, or correct central_url; the site serves on without it")
        }
        Err(CallError::Connect { error, .. }) => fail(format!("cannot be reached: {error}"))
            .cure("look at the default route, the WAN line and the firewall; the site serves on without it"),
        Err(CallError::Tls { error, .. }) => judge_tls(url, error),
        Err(error) => fail(error.to_string())
            .because("something accepts the connection and does not answer as the controller does")
            .cure("look for a proxy or firewall in between, and whether central_url has the right port"),
    }
}

fn judge_answer(url: &CentralUrl, answer: &Response<Bytes>) -> Finding {
    let status = answer.status();
    let is_json = serde_json::from_slice::<serde_json::Value>(answer.body()).is_ok();
    if status.is_success() && is_json {
        return Finding::ok(NAME, format!("{url} is ready"));
    }
    if status.is_redirection() || !is_json {
        return Finding::fail(NAME, format!("{url}: answers {status} and is not the controller"))
            .because("a captive portal, a proxy or another web server answers in its place")
            .cure("log in to the network, or correct central_url");
    }
    Finding::fail(NAME, format!("{url}: is there and not ready ({status})"))
        .cure("look at the controller's own log; the site serves on without it")
}

/// Why TLS was not trusted, as rustls says it.
fn judge_tls(url: &CentralUrl, error: &std::io::Error) -> Finding {
    let fail = |what: &str| Finding::fail(NAME, format!("{url}: {what}"));
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    match inner {
        Some(TlsError::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => fail("its certificate has expired")
            .because("the certificate was not renewed, or this clock is wrong")
            .cure("renew the controller's certificate; see the line about the clock"),
        Some(TlsError::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => fail("its certificate does not hold yet")
            .because("this clock is behind")
            .cure("set the clock"),
        Some(TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => fail(&format!("its certificate is not for '{}'", url.host())).cure(
            "use the name that the certificate has in central_url, or issue one for this name",
        ),
        // An authority that was made anew under its old name signs differently.
        Some(TlsError::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => fail("its certificate is of an authority that is not trusted here")
            .because("ca_file holds another authority, or somebody reads along")
            .cure("set ca_file to the authority of the controller's certificate"),
        Some(TlsError::InvalidMessage(_)) => fail("does not speak TLS on that port")
            .cure("correct central_url, or give the controller a certificate (--tls-cert-file)"),
        _ => fail(&format!("no trusted TLS: {error}"))
            .cure("compare with `openssl s_client -connect`"),
    }
}

/// How far this clock is ahead of the one that answered, in seconds; none where the answer does not say.
pub fn clock_offset_s(answer: &Response<Bytes>, now: Timestamp) -> Option<i64> {
    let date = answer.headers().get(DATE)?.to_str().ok()?;
    let date: SystemTime = httpdate::parse_http_date(date).ok()?;
    let seconds = date.duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(now.unix_ms().div_euclid(1_000) - i64::try_from(seconds).ok()?)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::doctor::finding::Severity;
    use crate::exchange::ExchangeError;

    fn url() -> CentralUrl {
        "https://boot.example.org".parse().expect("an address")
    }

    fn answer(status: u16, body: &'static str) -> Result<Response<Bytes>, CallError> {
        let answer =
            Response::builder().status(status).header(DATE, "Thu, 01 Jan 1970 00:01:40 GMT");
        Ok(answer.body(Bytes::from_static(body.as_bytes())).expect("an answer"))
    }

    fn tls(error: TlsError) -> Result<Response<Bytes>, CallError> {
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        Err(CallError::Tls { authority: "boot.example.org:443".to_owned(), error })
    }

    #[test]
    fn each_way_of_not_being_there_is_told_apart() {
        let connect = |kind| {
            let authority = "boot.example.org:443".to_owned();
            Err(CallError::Connect { authority, error: io::Error::from(kind) })
        };
        let certificate = |error| tls(TlsError::InvalidCertificate(error));
        let late = Err(CallError::Exchange(ExchangeError::Late(std::time::Duration::from_secs(4))));
        for (outcome, severity, words) in [
            (answer(200, "{}"), Severity::Ok, "is ready"),
            (answer(200, "<html>log in"), Severity::Fail, "captive portal"),
            (answer(302, ""), Severity::Fail, "captive portal"),
            (answer(503, "{\"code\":\"x\"}"), Severity::Fail, "not ready (503"),
            (connect(io::ErrorKind::ConnectionRefused), Severity::Fail, "nothing listens"),
            (connect(io::ErrorKind::NetworkUnreachable), Severity::Fail, "default route"),
            (late, Severity::Fail, "within 4000 ms"),
            (certificate(CertificateError::Expired), Severity::Fail, "has expired"),
            (certificate(CertificateError::NotValidYet), Severity::Fail, "set the clock"),
            (
                certificate(CertificateError::NotValidForName),
                Severity::Fail,
                "not for 'boot.example.org'",
            ),
            (certificate(CertificateError::UnknownIssuer), Severity::Fail, "set ca_file"),
            (certificate(CertificateError::BadSignature), Severity::Fail, "set ca_file"),
            (certificate(CertificateError::Revoked), Severity::Fail, "no trusted TLS"),
            (
                tls(TlsError::InvalidMessage(rustls::InvalidMessage::InvalidContentType)),
                Severity::Fail,
                "does not speak TLS",
            ),
        ] {
            let finding = judge(&url(), &outcome);
            assert_eq!(finding.severity, severity, "{finding}");
            assert!(finding.to_string().contains(words), "no '{words}' in: {finding}");
        }
    }

    #[test]
    fn the_offset_of_the_clock_is_read_from_the_answer() {
        let answer = answer(200, "{}").expect("an answer");
        assert_eq!(clock_offset_s(&answer, Timestamp::from_unix_ms(130_500)), Some(30));
        assert_eq!(clock_offset_s(&answer, Timestamp::from_unix_ms(0)), Some(-100));
        assert_eq!(clock_offset_s(&Response::new(Bytes::new()), Timestamp::from_unix_ms(0)), None);
    }
}
