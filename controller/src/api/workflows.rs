//! `/workflows`: what to install and how.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use pureboot_protocol::{BootMethod, FileName, TemplateId, Workflow, WorkflowId};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::api::check::Check;
use crate::error::ApiError;
use crate::extract::{
    Id, IdAndWord, IfMatch, Json, Query, fields, json, number, resource, unknown_fields,
};
use crate::node::INSTALL_TIMEOUT_MINUTES;
use crate::random;
use crate::router::App;
use crate::store::{KeptWorkflow, Paging};

/// Minutes that a workflow may give an attempt to install: up to a week.
const TIMEOUT_MINUTES: std::ops::RangeInclusive<u32> = 1..=10_080;

/// The most answer files of a workflow.
const TEMPLATES_MAX: usize = 16;

/// What a request may set whatever the method is.
const FIELDS: [&str; 4] = ["name", "description", "timeout_minutes", "templates"];

/// The fields of a workflow that a request sets. Those of the method are kept as they came, because which there are is the
/// method's business.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct WorkflowFields {
    name: Option<String>,
    description: Option<String>,
    timeout_minutes: Option<u32>,
    templates: Option<BTreeMap<FileName, TemplateId>>,
    #[serde(flatten)]
    boot: Map<String, Value>,
}

/// `?allow_missing=true` takes a workflow whose content is at the sites only, or comes later.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Leniency {
    #[serde(default)]
    allow_missing: bool,
}

/// `POST /workflows`.
pub(crate) async fn create(
    State(app): State<App>,
    Query(leniency): Query<Leniency>,
    Json(request): Json<WorkflowFields>,
) -> Result<Response, ApiError> {
    check(&request)?;
    let now = app.now();
    let workflow = Workflow {
        id: WorkflowId::from_random(random::bytes()),
        name: request.name.ok_or_else(|| ApiError::invalid("name", "this field is required"))?,
        description: request.description.unwrap_or_default(),
        templates: request.templates.unwrap_or_default(),
        boot: method(request.boot.clone(), &request.boot)?,
        created_at: now,
        updated_at: now,
        version: 1,
    };
    let timeout_minutes = request.timeout_minutes.unwrap_or(INSTALL_TIMEOUT_MINUTES);
    let kept = KeptWorkflow { workflow, timeout_minutes };
    app.store.create_workflow(&kept, leniency.allow_missing).await?;
    tracing::info!(workflow = %kept.workflow.id, "made workflow {:?}", kept.workflow.name);
    Ok(resource(StatusCode::CREATED, kept.workflow.version, kept))
}

/// `GET /workflows`.
pub(crate) async fn list(State(app): State<App>, paging: Paging) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.workflows(&paging).await?))
}

/// `GET /workflows/{id}`.
pub(crate) async fn read(
    State(app): State<App>,
    Id(id): Id<WorkflowId>,
) -> Result<Response, ApiError> {
    let kept = app.store.workflow(id).await?;
    Ok(resource(StatusCode::OK, kept.workflow.version, kept))
}

/// `PATCH /workflows/{id}`.
pub(crate) async fn update(
    State(app): State<App>,
    Id(id): Id<WorkflowId>,
    IfMatch(version): IfMatch,
    Query(leniency): Query<Leniency>,
    Json(request): Json<WorkflowFields>,
) -> Result<Response, ApiError> {
    check(&request)?;
    let change = |old: KeptWorkflow| -> Result<KeptWorkflow, ApiError> {
        let KeptWorkflow { workflow: old, timeout_minutes } = old;
        let workflow = Workflow {
            name: request.name.unwrap_or(old.name),
            description: request.description.unwrap_or(old.description),
            templates: request.templates.unwrap_or(old.templates),
            boot: merged(&old.boot, request.boot)?,
            ..old
        };
        let timeout_minutes = request.timeout_minutes.unwrap_or(timeout_minutes);
        Ok(KeptWorkflow { workflow, timeout_minutes })
    };
    let allows_missing = leniency.allow_missing;
    let kept = app.store.update_workflow(id, version, allows_missing, app.now(), change).await?;
    let Workflow { name, version, .. } = &kept.workflow;
    tracing::info!(workflow = %id, version, "changed workflow {name:?}");
    Ok(resource(StatusCode::OK, *version, &kept))
}

/// `DELETE /workflows/{id}`.
pub(crate) async fn delete(
    State(app): State<App>,
    Id(id): Id<WorkflowId>,
    IfMatch(version): IfMatch,
) -> Result<Response, ApiError> {
    let kept = app.store.delete_workflow(id, version).await?;
    tracing::info!(workflow = %id, "deleted workflow {:?}", kept.workflow.name);
    Ok(resource(StatusCode::OK, kept.workflow.version, kept))
}

/// `GET /workflows/{id}/versions`, the newest first.
pub(crate) async fn versions(
    State(app): State<App>,
    Id(id): Id<WorkflowId>,
    paging: Paging,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.workflow_versions(id, &paging).await?))
}

/// `GET /workflows/{id}/versions/{version}`.
pub(crate) async fn version(
    State(app): State<App>,
    IdAndWord(id, version): IdAndWord<WorkflowId>,
) -> Result<Response, ApiError> {
    let kept = app.store.workflow_version(id, number(&version)?).await?;
    Ok(resource(StatusCode::OK, kept.workflow.version, kept))
}

/// `POST /workflows/{id}/versions/{version}/restore`: makes an older version the next one.
pub(crate) async fn restore(
    State(app): State<App>,
    IdAndWord(id, version): IdAndWord<WorkflowId>,
    IfMatch(current): IfMatch,
    Query(leniency): Query<Leniency>,
) -> Result<Response, ApiError> {
    let (older, lenient) = (number(&version)?, leniency.allow_missing);
    let kept = app.store.restore_workflow(id, older, current, lenient, app.now()).await?;
    let Workflow { name, version, .. } = &kept.workflow;
    tracing::info!(workflow = %id, version, "restored version {older} of workflow {name:?}");
    Ok(resource(StatusCode::OK, *version, &kept))
}

/// `boot` with the members of `patch` in place of its own; null takes a member away (RFC 7396).
fn merged(boot: &BootMethod, patch: Map<String, Value>) -> Result<BootMethod, ApiError> {
    let boot = serde_json::to_value(boot).expect("a method has names for keys");
    let mut members = fields::<Map<String, Value>>(boot)?;
    for (name, value) in patch.clone() {
        if value.is_null() {
            members.remove(&name);
        } else {
            members.insert(name, value);
        }
    }
    method(members, &patch)
}

/// The method that `members` make. Those in `asked` that it does not have are refused.
fn method(members: Map<String, Value>, asked: &Map<String, Value>) -> Result<BootMethod, ApiError> {
    let method: BootMethod = fields(Value::Object(members))?;
    let written = serde_json::to_value(&method).ok();
    let has = written.as_ref().and_then(Value::as_object);
    let known = || has.into_iter().flat_map(Map::keys).map(String::as_str);
    let known: Vec<_> = FIELDS.into_iter().chain(known()).collect();
    let unknown = asked.keys().filter(|name| !known.contains(&name.as_str()));
    unknown_fields(unknown, &known)?;
    Ok(method)
}

fn check(fields: &WorkflowFields) -> Result<(), ApiError> {
    let mut check = Check::default();
    if let Some(name) = &fields.name {
        check.name(name);
    }
    if let Some(description) = &fields.description {
        check.text("description", description);
    }
    if let Some(minutes) = fields.timeout_minutes {
        let is_valid = TIMEOUT_MINUTES.contains(&minutes);
        check.require("timeout_minutes", is_valid, format!("{minutes} is not within 1 to 10080"));
    }
    if let Some(templates) = &fields.templates {
        let is_valid = templates.len() <= TEMPLATES_MAX;
        let message = format!("expected at most {TEMPLATES_MAX} answer files");
        check.require("templates", is_valid, message);
    }
    check.done()
}
