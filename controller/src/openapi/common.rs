//! What is asked of the program itself.

use axum::http::Method;
use serde_json::Value;

use super::operation::Operation;
use crate::api::health::Health;
use crate::metrics::MEDIA_TYPE;

pub(super) fn operations() -> Vec<Operation> {
    let get = |path, summary| Operation::new(Method::GET, path, summary);
    vec![
        get("/healthz", "Whether the program lives").one::<Health>(),
        get("/readyz", "Whether the program can work: its database answers").one::<Health>(),
        get("/metrics", "What a monitoring system reads, in OpenMetrics").bytes(MEDIA_TYPE),
        get("/api/v1/openapi.json", "This document").bare::<Value>(),
        get("/api/v1/docs", "This document as a page").bytes("text/html; charset=utf-8"),
    ]
}
