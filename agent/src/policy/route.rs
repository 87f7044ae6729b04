//! `/api/v1/agent/policies` and `/api/v1/agent/explain` on the management listener.

use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Incoming;
use pureboot_plugin_host::package::{CODE_LEN_MAX, HEADER_LEN_MAX};
use pureboot_protocol::{BootId, Mac, PluginId};
use pureboot_templates::BaseUrl;

use super::site::SitePolicies;
use crate::boot::booter::Booter;
use crate::clock;
use crate::http::{CorrelationId, Response, Target, problem, read_body, success};

/// The longest package that is taken, in bytes.
const PACKAGE_LEN_MAX: usize = HEADER_LEN_MAX + CODE_LEN_MAX + 1_024;

/// How long a package may take to come in.
const UPLOAD_TIME: Duration = Duration::from_secs(60);

/// `GET /explain?mac=`, or `?session=` for a boot of the past.
pub async fn get_explanation(
    booter: &Booter,
    base: &BaseUrl,
    target: &Target,
    id: &CorrelationId,
) -> Response {
    let bad = |detail: String| problem(StatusCode::BAD_REQUEST, "invalid_query", detail, id);
    if let Some(text) = target.query("session") {
        let Ok(session) = text.parse::<BootId>() else {
            return bad(format!("session is '{text}': give a boot session's id"));
        };
        return match Box::pin(booter.explain_past(session)).await {
            Some(explanation) => success(explanation),
            None => {
                let detail = format!(
                    "no policy had a part in session {session}, or it is no longer written down; `pureboot-agent boots` tells what was seen of it"
                );
                problem(StatusCode::NOT_FOUND, "not_found", detail, id)
            }
        };
    }
    match target.query("mac").as_deref().map(|text| (text.parse::<Mac>(), text.to_owned())) {
        Some((Ok(mac), _)) => success(Box::pin(booter.explain(mac, base.clone())).await),
        Some((Err(_), text)) => bad(format!("mac is '{text}': give a MAC address")),
        None => bad("say which machine: mac=52:54:00:12:34:56, or session=ID".to_owned()),
    }
}

/// `POST /policies/replay`: everything that is written down, with the policy of the body in place of the one of its name.
pub async fn replay_against(
    booter: &Booter,
    policies: &SitePolicies,
    body: Incoming,
    id: &CorrelationId,
) -> Response {
    let deadline = clock::monotonic() + UPLOAD_TIME;
    let bytes = match read_body(body, PACKAGE_LEN_MAX, deadline).await {
        Ok(bytes) => bytes,
        Err(error) => return error.answer(id),
    };
    match policies.candidate(&bytes).await {
        Ok(candidate) => success(Box::pin(booter.replay_all(Some(&candidate))).await),
        Err(why) => problem(StatusCode::UNPROCESSABLE_ENTITY, "policy_refused", why, id),
    }
}

/// `POST /policies/{id}/reset`
pub async fn reset(policies: &SitePolicies, name: &str, id: &CorrelationId) -> Response {
    let is_known = match name.parse::<PluginId>() {
        Ok(plugin) => policies.reset(&plugin).await,
        Err(_) => false,
    };
    if is_known {
        return success(policies.report());
    }
    let detail = format!("this site has no policy '{name}': `pureboot-agent plugin ls` lists them");
    problem(StatusCode::NOT_FOUND, "not_found", detail, id)
}
