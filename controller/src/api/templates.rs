//! `/templates`: what answer files are made of.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use pureboot_protocol::{NodeId, Success, TemplateId, TemplateKind};
use pureboot_templates::answer::{self, AnswerError, BODY_LEN_MAX, Library};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::answer::{made_up, values};
use crate::api::check::Check;
use crate::error::ApiError;
use crate::extract::{Id, IdAndWord, IfMatch, Json, Query, json, number, resource};
use crate::random;
use crate::router::App;
use crate::store::{Paging, StoreError, Template, TemplateHead};

/// The name of a text that is checked before it has one.
const UNNAMED: &str = "body";

/// The fields of a template that a request sets.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct TemplateFields {
    name: Option<String>,
    kind: Option<TemplateKind>,
    description: Option<String>,
    body: Option<String>,
}

/// `POST /templates`.
pub(crate) async fn create(
    State(app): State<App>,
    Json(request): Json<TemplateFields>,
) -> Result<Response, ApiError> {
    check_fields(&request)?;
    let required = |field| move || ApiError::invalid(field, "this field is required");
    let now = app.now();
    let body = request.body.ok_or_else(required("body"))?;
    let head = TemplateHead {
        id: TemplateId::from_random(random::bytes()),
        name: request.name.ok_or_else(required("name"))?,
        kind: request.kind.ok_or_else(required("kind"))?,
        description: request.description.unwrap_or_default(),
        size_bytes: u64::try_from(body.len()).unwrap_or(u64::MAX),
        created_at: now,
        updated_at: now,
        version: 1,
    };
    let template = Template { head, body };
    app.store.create_template(&template).await?;
    tracing::info!(template = %template.head.id, "made template {:?}", template.head.name);
    Ok(resource(StatusCode::CREATED, 1, template))
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Filter {
    kind: Option<TemplateKind>,
}

/// `GET /templates`, without their texts.
pub(crate) async fn list(
    State(app): State<App>,
    paging: Paging,
    Query(filter): Query<Filter>,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.templates(filter.kind, &paging).await?))
}

/// `GET /templates/{id}`.
pub(crate) async fn read(
    State(app): State<App>,
    Id(id): Id<TemplateId>,
) -> Result<Response, ApiError> {
    let template = app.store.template(id, None).await?;
    Ok(resource(StatusCode::OK, template.head.version, template))
}

/// `PATCH /templates/{id}`: what is absent stays as it is.
pub(crate) async fn update(
    State(app): State<App>,
    Id(id): Id<TemplateId>,
    IfMatch(version): IfMatch,
    Json(request): Json<TemplateFields>,
) -> Result<Response, ApiError> {
    check_fields(&request)?;
    let change = |old: Template| Template {
        head: TemplateHead {
            name: request.name.unwrap_or(old.head.name),
            kind: request.kind.unwrap_or(old.head.kind),
            description: request.description.unwrap_or(old.head.description),
            ..old.head
        },
        body: request.body.unwrap_or(old.body),
    };
    let template = app.store.update_template(id, version, app.now(), change).await?;
    let TemplateHead { name, version, .. } = &template.head;
    tracing::info!(template = %id, version, "changed template {name:?}");
    Ok(resource(StatusCode::OK, *version, &template))
}

/// `DELETE /templates/{id}`.
pub(crate) async fn delete(
    State(app): State<App>,
    Id(id): Id<TemplateId>,
    IfMatch(version): IfMatch,
) -> Result<Response, ApiError> {
    let template = app.store.delete_template(id, version).await?;
    tracing::info!(template = %id, "deleted template {:?}", template.head.name);
    Ok(resource(StatusCode::OK, template.head.version, template))
}

/// `GET /templates/{id}/versions`, the newest first, without their texts.
pub(crate) async fn versions(
    State(app): State<App>,
    Id(id): Id<TemplateId>,
    paging: Paging,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &app.store.template_versions(id, &paging).await?))
}

/// `GET /templates/{id}/versions/{version}`.
pub(crate) async fn version(
    State(app): State<App>,
    IdAndWord(id, version): IdAndWord<TemplateId>,
) -> Result<Response, ApiError> {
    let template = app.store.template(id, Some(number(&version)?)).await?;
    Ok(resource(StatusCode::OK, template.head.version, template))
}

/// `POST /templates/{id}/versions/{version}/restore`: makes an older text the next version.
pub(crate) async fn restore(
    State(app): State<App>,
    IdAndWord(id, version): IdAndWord<TemplateId>,
    IfMatch(current): IfMatch,
) -> Result<Response, ApiError> {
    let older = number(&version)?;
    let template = app.store.restore_template(id, older, current, app.now()).await?;
    let TemplateHead { name, version, .. } = &template.head;
    tracing::info!(template = %id, version, "restored version {older} of template {name:?}");
    Ok(resource(StatusCode::OK, *version, &template))
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Draft {
    kind: TemplateKind,
    body: String,
}

/// What is wrong with a template, and where.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Fault {
    template: String,
    line: usize,
    column: usize,
    message: String,
}

impl From<AnswerError> for Fault {
    fn from(error: AnswerError) -> Self {
        let AnswerError { template, line, column, message } = error;
        Self { template, line, column, message }
    }
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Checked {
    compiles: bool,
    errors: Vec<Fault>,
    warnings: Vec<String>,
}

/// `POST /templates/check`: compiles a text and keeps nothing. The answer is 200 for a text with mistakes too.
pub(crate) async fn check(
    State(app): State<App>,
    Json(draft): Json<Draft>,
) -> Result<Response, ApiError> {
    check_body(&draft.body)?;
    let outcome = match app.store.library(UNNAMED, &draft.body).await {
        Ok(library) => library.check(UNNAMED),
        Err(StoreError::Template(error)) => Err(error),
        Err(error) => return Err(error.into()),
    };
    let checked = Checked {
        compiles: outcome.is_ok(),
        errors: outcome.err().map(Fault::from).into_iter().collect(),
        warnings: answer::warnings(draft.kind, &draft.body),
    };
    Ok(json(StatusCode::OK, &Success::new(checked)))
}

/// Whose values a preview is made with: a node's, or made-up ones.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct PreviewOrder {
    node_id: Option<NodeId>,
    facts: Option<Map<String, Value>>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Preview {
    text: String,
    warnings: Vec<String>,
    template_version: u64,
}

/// `POST /templates/{id}/preview`: the file as a node would get it, with every secret masked.
pub(crate) async fn preview(
    State(app): State<App>,
    Id(id): Id<TemplateId>,
    Json(order): Json<PreviewOrder>,
) -> Result<Response, ApiError> {
    let Template { head, body } = app.store.template(id, None).await?;
    let values = match (order.node_id, order.facts) {
        (Some(node), None) => match app.store.answer_facts(node).await {
            Ok(facts) => values(&facts),
            Err(StoreError::Missing { what, id }) => {
                let message = format!("there is no {what} with the id {id}");
                return Err(ApiError::invalid("node_id", message));
            }
            Err(error) => return Err(error.into()),
        },
        (None, Some(facts)) => made_up(facts),
        (None, None) | (Some(_), Some(_)) => {
            return Err(ApiError::invalid("node_id", "expected either node_id or facts"));
        }
    };
    let library = app.store.library(&head.name, &body).await?;
    let name = head.name;
    // Rendering takes a template's whole fuel at worst, which other requests must not wait for.
    let render = move |library: Library| library.render(&name, &values);
    let text = tokio::task::spawn_blocking(move || render(library)).await;
    let text = text.map_err(|error| ApiError::Internal(error.into()))?;
    let text = text.map_err(|error| ApiError::from(StoreError::Template(error)))?;
    let warnings = answer::warnings(head.kind, &text);
    let preview = Preview { text, warnings, template_version: head.version };
    Ok(json(StatusCode::OK, &Success::new(preview)))
}

fn check_body(body: &str) -> Result<(), ApiError> {
    let mut check = Check::default();
    check.require("body", body.len() <= BODY_LEN_MAX, too_long(body));
    check.done()
}

fn too_long(body: &str) -> String {
    format!("the text has {} bytes, and {BODY_LEN_MAX} are kept at most", body.len())
}

fn check_fields(fields: &TemplateFields) -> Result<(), ApiError> {
    let mut check = Check::default();
    if let Some(name) = &fields.name {
        check.name(name);
        let is_quotable = !name.contains(['\'', '"', '\\']);
        check.require(
            "name",
            is_quotable,
            "a name that others include has no quotes or backslashes",
        );
    }
    if let Some(description) = &fields.description {
        check.text("description", description);
    }
    if let Some(body) = &fields.body {
        check.require("body", body.len() <= BODY_LEN_MAX, too_long(body));
    }
    check.done()
}
