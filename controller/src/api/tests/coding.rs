//! Bodies and answers in gzip, through the whole router.

use std::io::Read;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Centre, request, with_fields};
use crate::coding::tests::gzip;

impl Centre {
    /// A request with `body` under `coding`.
    fn coded(&self, path: &str, coding: &str, body: Vec<u8>) -> Request<Body> {
        let call = request(Some(&self.operator), "POST", path, Some(Value::Null));
        let length = body.len().to_string();
        let mut call =
            with_fields(call, &[("content-encoding", coding), ("content-length", &length)]);
        *call.body_mut() = Body::from(body);
        call
    }
}

#[tokio::test]
async fn a_body_in_gzip_is_taken_and_any_other_coding_refused_with_the_cure() {
    let centre = Centre::start().await;
    for (coding, name) in [("gzip", "berlin"), ("GZip", "oslo"), ("x-gzip", "rome")] {
        let body = gzip(json!({"name": name}).to_string().as_bytes());
        let answer = centre.send(centre.coded("/api/v1/sites", coding, body)).await;
        assert_eq!(answer.data()["name"], name);
    }
    for coding in ["br", "deflate", "gzip, gzip"] {
        let answer = centre.send(centre.coded("/api/v1/sites", coding, b"{}".to_vec())).await;
        assert_eq!(answer.headers["accept-encoding"], "gzip");
        assert_eq!(answer.problem(), (415, "unsupported_media_type".to_owned()));
    }
    let answer = centre.send(centre.coded("/api/v1/sites", "gzip", b"{}".to_vec())).await;
    assert_eq!(answer.problem(), (400, "malformed_encoding".to_owned()));
}

#[tokio::test]
async fn c18_the_limit_of_a_route_holds_for_what_comes_out() {
    let centre = Centre::start().await;
    let joined = centre.join("berlin").await;
    let heartbeat = |padding: usize| {
        // Noise, which becomes half as long and not a thousandth.
        let noise = (0..padding / 64).map(|n| format!("{:x}", Sha256::digest(n.to_string())));
        let text: String = noise.collect();
        gzip(json!({"agent_version": text}).to_string().as_bytes())
    };
    for (padding, status) in [(60 << 10, 422), (70 << 10, 413)] {
        let mut call = centre.coded("/api/v1/agents/heartbeat", "gzip", heartbeat(padding));
        let bearer = format!("Bearer {}", joined.credential.reveal());
        call.headers_mut().insert("authorization", bearer.parse().expect("a value"));
        let answer = centre.send(call).await;
        assert_eq!(answer.problem().0, status, "{padding}: {}", answer.detail());
    }
    let bomb = gzip(&vec![b' '; 64 << 20]);
    let answer = centre.send(centre.coded("/api/v1/sites", "gzip", bomb.clone())).await;
    assert_eq!(answer.problem(), (413, "too_large".to_owned()));
    let mut nobodys = centre.coded("/api/v1/sites", "gzip", bomb);
    nobodys.headers_mut().remove("authorization");
    assert_eq!(
        centre.send(nobodys).await.status,
        StatusCode::UNAUTHORIZED,
        "before it is inflated"
    );
}

#[tokio::test]
async fn a_long_text_is_compressed_for_whoever_takes_it_and_content_and_secrets_never() {
    let centre = Centre::start().await;
    centre.put_content("images/blanks", vec![b' '; 4_096]).await.data();
    let site = centre.make_site("berlin").await;
    let call = async |method: &str, path: &str, accepts: &str| {
        let body = (method == "POST").then(|| json!({"name": "x".repeat(100)}));
        let call = request(Some(&centre.operator), method, path, body);
        let call = with_fields(call, &[("accept-encoding", accepts)]);
        let (status, headers, bytes) = centre.exchange(call).await;
        assert!(status.is_success(), "{method} {path}: {status}");
        (headers, bytes)
    };
    let (headers, packed) = call("GET", "/api/v1/openapi.json", "br, gzip;q=0.5").await;
    assert_eq!(
        (&headers["content-encoding"], &headers["vary"]),
        (&"gzip".parse().expect("a value"), &"accept-encoding".parse().expect("a value"))
    );
    let mut plain = Vec::new();
    GzDecoder::new(&packed[..]).read_to_end(&mut plain).expect("gzip");
    let (headers, as_it_is) = call("GET", "/api/v1/openapi.json", "identity").await;
    assert!(!headers.contains_key("content-encoding"));
    assert_eq!(plain, as_it_is);
    let token = format!("/api/v1/sites/{site}/agent-token");
    for (method, path, accepts) in [
        ("GET", "/api/v1/openapi.json", "gzip;q=0"),
        ("GET", "/healthz", "gzip"),
        ("GET", "/api/v1/content/images/blanks", "gzip"),
        ("POST", &token, "gzip"),
        ("POST", "/api/v1/tokens", "gzip"),
    ] {
        let (headers, _) = call(method, path, accepts).await;
        assert!(!headers.contains_key("content-encoding"), "{method} {path}");
    }
}
