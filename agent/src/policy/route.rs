//! `/api/v1/agent/policies` and `/api/v1/agent/explain` on the management listener.

use hyper::StatusCode;
use pureboot_protocol::{BootId, Mac, PluginId};
use pureboot_templates::BaseUrl;

use super::site::SitePolicies;
use crate::boot::booter::Booter;
use crate::http::{CorrelationId, Response, Target, problem, success};

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
