//! What is asked of the program itself.

use axum::http::Method;
use serde_json::Value;

use super::operation::Operation;
use crate::api::health::Health;

pub(super) fn operations() -> Vec<Operation> {
    let get = |path, summary| Operation::new(Method::GET, path, summary);
    vec![
        get("/healthz", "Whether the program lives").one::<Health>(),
        get("/readyz", "Whether the program can work: its database answers").one::<Health>(),
        get("/api/v1/openapi.json", "This document").bare::<Value>(),
        get("/api/v1/docs", "This document as a page").bytes("text/html; charset=utf-8"),
    ]
}
