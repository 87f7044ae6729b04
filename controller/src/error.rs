//! What is answered when a request is refused: the one error type of the API, and its form on the wire.

use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use pureboot_plugin_author::description::SettingError;
use pureboot_protocol::{FieldError, IDENTITY_IN_USE, OUTBOX_FORKED, Problem};

use crate::auth::rank::Rank;
use crate::auth::scope::Scope;
use crate::node::{CommandError, TagError};
use crate::store::StoreError;

/// Why a request is refused. Its text is the `detail` of the problem that the client reads.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The request is understood and cannot be done.
    #[error("{detail}")]
    Refused {
        /// What it is answered with.
        status: StatusCode,
        /// For programs.
        code: &'static str,
        /// For people.
        detail: String,
    },
    /// The fields are readable and hold what they may not hold.
    #[error("{}", .0.iter().map(|e| format!("{}: {}", e.field, e.message)).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<FieldError>),
    /// No credential, or an unknown one.
    #[error("this needs a valid token in 'Authorization: Bearer …'")]
    Unauthenticated,
    /// A name or password that is wrong; which of them is not said.
    #[error("wrong name or password")]
    WrongPassword,
    /// An operator's token or session where an agent's credential belongs.
    #[error("this is for agents: an operator's token is not accepted here")]
    OnlyAgents,
    /// An agent's credential where an operator's token or session belongs.
    #[error("this is for operators: an agent's credential is not accepted here")]
    OnlyOperators,
    /// Who calls may not do this.
    #[error("this needs the role {needed}, and yours is {held}")]
    Rank {
        /// What it needs.
        needed: Rank,
        /// What the caller has.
        held: Rank,
    },
    /// The token was not made for this.
    #[error("{}", match .needed {
        Some(scope) => format!("this needs the scope {scope}, which your token was not given"),
        None => "this needs a token without scopes, and yours is limited to some".to_owned(),
    })]
    Scope {
        /// What it needs; none if no scope opens it.
        needed: Option<Scope>,
    },
    /// Another page has made a browser send this.
    #[error(
        "a session's cookie is good for requests of the controller's own page only; programs use a token"
    )]
    ForeignOrigin,
    /// A body that any page's form could have sent.
    #[error("send Content-Type: application/json")]
    JsonWanted,
    /// Too much in too short a time.
    #[error("{excess}, try again in {retry_after_seconds} s")]
    TooMany {
        /// Of what.
        excess: Excess,
        /// How long to wait.
        retry_after_seconds: u64,
    },
    /// Our fault. The client learns nothing of it but the correlation id.
    #[error("the controller could not do this; its log says why")]
    Internal(Box<dyn std::error::Error + Send + Sync>),
}

/// What there was too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Excess {
    /// Wrong tokens, credentials or passwords.
    #[error("too many failed attempts from this address")]
    Failures,
    /// Requests.
    #[error("too many requests")]
    Requests,
}

impl ApiError {
    /// 400 with `code`.
    pub(crate) fn bad_request(code: &'static str, detail: impl ToString) -> Self {
        Self::Refused { status: StatusCode::BAD_REQUEST, code, detail: detail.to_string() }
    }

    /// 422 for one field.
    pub(crate) fn invalid(field: &str, message: impl ToString) -> Self {
        Self::Invalid(vec![FieldError { field: field.to_owned(), message: message.to_string() }])
    }

    /// 404 for a resource.
    pub(crate) fn missing(what: &str, id: impl ToString) -> Self {
        let detail = format!("there is no {what} '{}'", id.to_string());
        Self::Refused { status: StatusCode::NOT_FOUND, code: "not_found", detail }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Refused { status, .. } => *status,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unauthenticated | Self::WrongPassword => StatusCode::UNAUTHORIZED,
            Self::OnlyAgents
            | Self::OnlyOperators
            | Self::Rank { .. }
            | Self::Scope { .. }
            | Self::ForeignOrigin => StatusCode::FORBIDDEN,
            Self::JsonWanted => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Refused { code, .. } => code,
            Self::Invalid(_) => "validation_failed",
            Self::Unauthenticated => "unauthenticated",
            Self::WrongPassword => "wrong_password",
            Self::OnlyAgents | Self::OnlyOperators => "forbidden",
            Self::Rank { .. } => "role_needed",
            Self::Scope { .. } => "scope_needed",
            Self::ForeignOrigin => "foreign_origin",
            Self::JsonWanted => "unsupported_media_type",
            Self::TooMany { .. } => "too_many_requests",
            Self::Internal(_) => "internal_error",
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let detail = error.to_string();
        let refused = |status, code| Self::Refused { status, code, detail };
        match error {
            StoreError::Missing { .. } => refused(StatusCode::NOT_FOUND, "not_found"),
            StoreError::NameTaken { .. } => refused(StatusCode::CONFLICT, "name_taken"),
            StoreError::MacTaken { .. } => refused(StatusCode::CONFLICT, "mac_taken"),
            StoreError::WorkflowInUse { .. } => refused(StatusCode::CONFLICT, "workflow_in_use"),
            StoreError::TemplateInUse { .. } => refused(StatusCode::CONFLICT, "template_in_use"),
            StoreError::Template(_) => Self::invalid("body", &error),
            StoreError::MetaFull(_) => Self::invalid("meta", &error),
            StoreError::ParentNotASite(_) => refused(StatusCode::BAD_REQUEST, "parent_not_a_site"),
            StoreError::ParentBelow { .. } => refused(StatusCode::BAD_REQUEST, "parent_below"),
            StoreError::PlaceInUse { is_site, .. } => refused(
                StatusCode::BAD_REQUEST,
                if is_site { "site_in_use" } else { "group_in_use" },
            ),
            StoreError::Order(_) => refused(StatusCode::BAD_REQUEST, "invalid_transition"),
            StoreError::Tag(TagError::Present { .. }) => refused(StatusCode::CONFLICT, "tag_taken"),
            StoreError::Tag(TagError::Absent { .. }) => refused(StatusCode::NOT_FOUND, "not_found"),
            StoreError::Tag(TagError::Full) => Self::invalid("tag", &error),
            StoreError::Stale { .. } => refused(StatusCode::PRECONDITION_FAILED, "stale_version"),
            StoreError::Condition { .. } => {
                refused(StatusCode::PRECONDITION_FAILED, "precondition_failed")
            }
            StoreError::ContentInUse { .. } => refused(StatusCode::CONFLICT, "content_in_use"),
            StoreError::ContentMissing(missing) => {
                let error = |(field, key)| FieldError {
                    field,
                    message: format!("there is no content '{key}'; upload it first"),
                };
                Self::Invalid(missing.into_iter().map(error).collect())
            }
            StoreError::Unknown { field, .. } => Self::invalid(field, &error),
            StoreError::NoToken => refused(StatusCode::BAD_REQUEST, "no_registration_token"),
            StoreError::TokenRefused => refused(StatusCode::UNAUTHORIZED, "token_refused"),
            StoreError::CredentialRevoked => {
                refused(StatusCode::UNAUTHORIZED, "credential_revoked")
            }
            StoreError::LastAdmin => refused(StatusCode::CONFLICT, "last_admin"),
            StoreError::TooManyTokens => refused(StatusCode::CONFLICT, "too_many_tokens"),
            StoreError::CredentialInUse => refused(StatusCode::CONFLICT, "credential_in_use"),
            StoreError::TooManyCommands { .. } => {
                refused(StatusCode::CONFLICT, "too_many_commands")
            }
            StoreError::CommandGiven { .. } => refused(StatusCode::CONFLICT, "command_given"),
            StoreError::NodeCommand(CommandError::Retired) => {
                refused(StatusCode::CONFLICT, "node_retired")
            }
            StoreError::Forked { .. } => refused(StatusCode::CONFLICT, OUTBOX_FORKED),
            StoreError::IdentityInUse(_) => refused(StatusCode::CONFLICT, IDENTITY_IN_USE),
            StoreError::Decided { .. } => refused(StatusCode::CONFLICT, "conflict_resolved"),
            StoreError::ClaimDecided { .. } => refused(StatusCode::CONFLICT, "claim_decided"),
            StoreError::Moved { .. } => refused(StatusCode::CONFLICT, "node_moved"),
            StoreError::NotThere { .. } => refused(StatusCode::CONFLICT, "node_missing"),
            StoreError::NotTheSites { .. } => {
                refused(StatusCode::FORBIDDEN, "not_the_sites_to_decide")
            }
            StoreError::PluginVersionTaken { .. } => {
                refused(StatusCode::CONFLICT, "plugin_version_taken")
            }
            StoreError::PluginVersions { .. } => {
                refused(StatusCode::CONFLICT, "too_many_plugin_versions")
            }
            StoreError::PluginFirst { .. } => refused(StatusCode::CONFLICT, "no_previous_version"),
            StoreError::PluginInUse { .. } => refused(StatusCode::CONFLICT, "plugin_in_use"),
            StoreError::PluginsFull(_) => refused(StatusCode::CONFLICT, "too_many_plugins"),
            StoreError::PluginPlace { .. } => refused(StatusCode::BAD_REQUEST, "not_a_site"),
            StoreError::PluginSettings(errors) => {
                let error = |SettingError { name, why }| FieldError {
                    field: format!("settings.{name}"),
                    message: why,
                };
                Self::Invalid(errors.into_iter().map(error).collect())
            }
            StoreError::Busy => refused(StatusCode::SERVICE_UNAVAILABLE, "busy"),
            StoreError::NulInText => refused(StatusCode::BAD_REQUEST, "malformed_text"),
            StoreError::Database(_)
            | StoreError::Unusable(_)
            | StoreError::Migration(_)
            | StoreError::Value { .. } => Self::Internal(Box::new(error)),
        }
    }
}

impl IntoResponse for ApiError {
    /// The status, and a problem that waits for its correlation id in the response's extensions; see [`finish`].
    fn into_response(self) -> Response {
        if let Self::Internal(error) = &self {
            tracing::error!(error = %error, "a request failed: {error}");
        }
        let mut response = self.status().into_response();
        let headers = response.headers_mut();
        if self.status() == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        match &self {
            Self::TooMany { retry_after_seconds, .. } => {
                headers.insert(RETRY_AFTER, HeaderValue::from(*retry_after_seconds));
            }
            Self::Refused { status: StatusCode::SERVICE_UNAVAILABLE, .. } => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        let detail = self.to_string();
        let mut problem = problem(self.status(), self.code(), detail);
        if let Self::Invalid(errors) = self {
            problem.errors = errors;
        }
        response.extensions_mut().insert(problem);
        response
    }
}

/// Gives `response` its last form: whatever is an error leaves as a problem document that names `correlation_id`.
pub(crate) fn finish(
    response: Response,
    method: &Method,
    path: &str,
    correlation_id: &str,
) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let (mut parts, _) = response.into_parts();
    let problem = parts.extensions.remove();
    let mut problem = problem.unwrap_or_else(|| unanswered(status, method, path));
    problem.correlation_id = correlation_id.to_owned();
    let body = serde_json::to_vec(&problem).expect("a problem is made of texts and one number");
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    Response::from_parts(parts, body.into())
}

/// The problem for an error that no handler of ours has answered.
fn unanswered(status: StatusCode, method: &Method, path: &str) -> Problem {
    let path: String = path.chars().take(200).collect();
    let (code, detail) = match status {
        StatusCode::NOT_FOUND => ("not_found", format!("there is nothing at '{path}'")),
        StatusCode::METHOD_NOT_ALLOWED => (
            "method_not_allowed",
            format!("'{path}' does not take {method}; the Allow header names what it takes"),
        ),
        StatusCode::REQUEST_TIMEOUT => {
            ("request_timeout", "the request did not arrive whole and in time".to_owned())
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            ("too_large", format!("the body is larger than '{path}' takes"))
        }
        _ => ("refused", format!("{method} '{path}' is refused")),
    };
    problem(status, code, detail)
}

fn problem(status: StatusCode, code: &str, detail: String) -> Problem {
    Problem {
        kind: "about:blank".to_owned(),
        title: status.canonical_reason().unwrap_or("Error").to_owned(),
        status: status.as_u16(),
        detail,
        code: code.to_owned(),
        correlation_id: String::new(),
        errors: Vec::new(),
    }
}
