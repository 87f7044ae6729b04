//! `/api/v1/agent/cache/nodes` on the management listener (API.md §5).

use hyper::StatusCode;
use pureboot_protocol::{Mac, Page};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::http::{CorrelationId, Response, Target, json, problem, success};
use crate::nodes::follow::Follower;
use crate::nodes::view::{Filter, NodeView};
use crate::store::{CachedNode, Store, StoreError};

/// The longest page of a list, and the usual one (API.md: `limit` ≤ 500).
const PAGE_LEN_MAX: usize = 500;

/// About how many machines the controller is asked anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invalidated {
    /// What is remembered of them stays until the answer is there.
    pub nodes: usize,
}

/// `GET …/cache/nodes?state=&group=&workflow=`
pub fn get_nodes(
    store: &Store,
    follower: &Follower,
    target: &Target,
    id: &CorrelationId,
) -> Response {
    let filter = match Filter::parse(|name| target.query(name)) {
        Ok(filter) => filter,
        Err(error) => {
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            return problem(status, "invalid_state", error.to_string(), id);
        }
    };
    let limit = target.query("limit").and_then(|text| text.parse().ok()).unwrap_or(PAGE_LEN_MAX);
    let limit = limit.clamp(1, PAGE_LEN_MAX);
    let cursor = target.query("cursor").and_then(|text| text.parse::<Mac>().ok());
    let mut nodes = store.nodes();
    nodes.retain(|node| filter.fits(node));
    let total = nodes.len() as u64;
    nodes.sort_unstable_by_key(CachedNode::mac);
    nodes.retain(|node| cursor.is_none_or(|cursor| node.mac() > cursor));
    let is_last = nodes.len() <= limit;
    nodes.truncate(limit);
    let last = nodes.last().map(|node| node.mac().to_string());
    let (confirmed_at, now) = (follower.confirmed_at(), clock::now());
    let page = Page {
        success: true,
        data: nodes.iter().map(|node| NodeView::of(node, confirmed_at, now)).collect::<Vec<_>>(),
        total,
        next_cursor: last.filter(|_| !is_last),
    };
    json(StatusCode::OK, &page)
}

/// `DELETE …/cache/nodes`, or `DELETE …/cache/nodes/{mac}`: has the controller asked anew (FAULTS C15).
pub async fn delete_nodes(
    store: &Store,
    follower: &Follower,
    mac: Option<&str>,
    id: &CorrelationId,
) -> Response {
    let mac = match mac.map(str::parse::<Mac>).transpose() {
        Ok(mac) => mac,
        Err(error) => {
            return problem(StatusCode::BAD_REQUEST, "invalid_mac", error.to_string(), id);
        }
    };
    let nodes = match mac {
        Some(mac) => match store.mark_due(mac).await {
            Ok(true) => Ok(1),
            Ok(false) => {
                let detail = format!("the site remembers nothing of {mac}");
                return problem(StatusCode::NOT_FOUND, "node_not_found", detail, id);
            }
            Err(error) => Err(error),
        },
        None => store.mark_all_due().await,
    };
    match nodes {
        Ok(nodes) => {
            follower.wish();
            success(Invalidated { nodes })
        }
        Err(error) => refuse(&error, id),
    }
}

fn refuse(error: &StoreError, id: &CorrelationId) -> Response {
    let status = match error {
        StoreError::Full | StoreError::Io(_) => StatusCode::INSUFFICIENT_STORAGE,
        StoreError::Busy | StoreError::Damaged(_) | StoreError::Stopped => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        StoreError::Other(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    problem(status, "storage_failed", error.to_string(), id)
}
