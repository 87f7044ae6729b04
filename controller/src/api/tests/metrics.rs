//! What monitoring reads, and that nobody can make it grow.

use std::net::SocketAddr;

use axum::http::StatusCode;
use serde_json::json;
use tower::ServiceExt;

use super::{Centre, heartbeat, request};
use crate::extract::Peer;
use crate::metrics::{MEDIA_TYPE, render};
use crate::router::watch;

/// The value of the series that begins with `name`, labels included.
fn value(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.parse().ok()
}

#[tokio::test]
async fn what_was_done_and_what_there_is_can_be_read() {
    let centre = Centre::start().await;
    let joined = centre.join("berlin").await;
    let before = render(&centre.app).await;
    assert_eq!(value(&before, "pureboot_agents{status=\"online\"}"), Some(1.0));
    let beat = Some(heartbeat(joined.site, 1));
    let answer = centre.call(&joined.credential, "POST", "/api/v1/agents/heartbeat", beat).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    centre.make_node("02:00:00:00:00:01", None).await;
    for name in ["a", "b"] {
        centre.get(&format!("/api/v1/content/images/{name}-that-is-not-there")).await;
    }
    let text = render(&centre.app).await;
    for (series, expected) in [
        (
            "pureboot_http_requests_total{route=\"/api/v1/nodes\",method=\"POST\",status=\"201\"}",
            1.0,
        ),
        (
            "pureboot_http_requests_total{route=\"/api/v1/content/{category}/{*path}\",method=\"GET\",status=\"404\"}",
            2.0,
        ),
        ("pureboot_heartbeats_kept_total", 1.0),
        ("pureboot_heartbeat_batch_size_count", 1.0),
        ("pureboot_changes_total{outcome=\"parked\"}", 0.0),
        ("pureboot_database_up", 1.0),
        ("pureboot_content_files", 2.0),
        ("pureboot_conflicts_open", 0.0),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series}:\n{text}");
    }
    for positive in
        ["process_resident_memory_bytes", "process_open_fds", "pureboot_content_size_bytes"]
    {
        assert!(value(&text, positive).is_some_and(|value| value > 0.0), "{positive}:\n{text}");
    }
    // What was counted in the database a moment ago is told again.
    assert_eq!(value(&text, "pureboot_agents{status=\"online\"}"), Some(1.0));
    assert_eq!(value(&text, "pureboot_nodes{state=\"discovered\"}"), Some(0.0));
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn i7_no_client_can_make_a_series_of_its_own() {
    let centre = Centre::start().await;
    for _ in 0..2 {
        centre.exchange(request(None, "GET", "/healthz", None)).await;
    }
    let series = async || render(&centre.app).await.lines().count();
    let request_of = async |verb: &str, path: &str| {
        centre.exchange(request(Some(&centre.operator), verb, path, None)).await;
    };
    request_of("BREW", "/healthz").await;
    request_of("GET", "/nowhere").await;
    request_of("GET", "/api/v1/nodes/00000000-0000-4000-8000-000000000000").await;
    let before = series().await;
    for n in 0..20 {
        request_of(&format!("BREW{n}"), "/healthz").await;
        request_of("GET", &format!("/nowhere/{n}")).await;
        request_of("GET", &format!("/api/v1/nodes/00000000-0000-4000-8000-0000000000{n:02}")).await;
    }
    assert_eq!(series().await, before);
}

#[tokio::test]
async fn metrics_want_a_viewer_and_the_listener_for_monitoring_nobody() {
    let centre = Centre::start().await;
    let path = "/metrics";
    let (status, ..) = centre.exchange(request(None, "GET", path, None)).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let wish = json!({"name": "prometheus", "scopes": ["read"]});
    let token = centre.make_api_token(&centre.operator, wish).await;
    let (status, headers, body) = centre.exchange(request(Some(&token), "GET", path, None)).await;
    assert_eq!(
        (status, headers["content-type"].as_bytes()),
        (StatusCode::OK, MEDIA_TYPE.as_bytes())
    );
    assert!(body.ends_with(b"# EOF\n"));
    let watch = watch(centre.app.clone());
    for (path, expected) in
        [(path, 200), ("/healthz", 200), ("/readyz", 200), ("/api/v1/nodes", 404)]
    {
        let mut request = request(None, "GET", path, None);
        request.extensions_mut().insert(Peer(SocketAddr::from(([192, 0, 2, 1], 1))));
        let response = watch.clone().oneshot(request).await.expect("the router cannot fail");
        assert_eq!(response.status(), expected, "{path}");
    }
}

#[tokio::test]
async fn without_a_database_the_rest_is_told() {
    let centre = Centre::start().await;
    centre.app.store.close().await;
    let text = render(&centre.app).await;
    assert_eq!(value(&text, "pureboot_database_up"), Some(0.0));
    assert_eq!(value(&text, "pureboot_nodes{state=\"active\"}"), None);
    assert!(value(&text, "process_open_fds").is_some());
}
