//! The OpenAPI document (3.1), made of the route table, of the operations described here, and of the types that handlers use.
//!
//! `GET /api/v1/openapi.json` serves it and `GET /api/v1/docs` shows it to people. A test holds that each operation of the
//! table is described and nothing else; every answer in the API's tests is compared with its description.

#![expect(clippy::indexing_slicing, reason = "indexing a JSON object by a name makes the member")]

mod agents;
mod common;
mod content;
mod nodes;
mod operation;
mod people;
mod plugins;
mod sites;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use axum::http::{Method, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use pureboot_protocol::Problem;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::auth::Role;
use crate::extract;
use crate::router::table;

use operation::{Content, Operation};

/// Where the document keeps the schemas that others refer to.
const SCHEMAS: &str = "/components/schemas";
/// What the page is made of; it reads the document.
const PAGE: &str = include_str!("../page/api.html");

/// The document, made once.
static DOCUMENT: LazyLock<Value> = LazyLock::new(document);

/// The document.
pub(crate) fn document_once() -> &'static Value {
    &DOCUMENT
}

/// `GET /openapi.json`.
pub(crate) async fn read() -> Response {
    extract::json(StatusCode::OK, &*DOCUMENT)
}

/// `GET /docs`: the document as a page.
pub(crate) async fn page() -> Response {
    Html(PAGE).into_response()
}

/// Everything that the API does.
fn operations() -> Vec<Operation> {
    [
        common::operations(),
        people::operations(),
        sites::operations(),
        nodes::operations(),
        content::operations(),
        plugins::operations(),
        agents::operations(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn document() -> Value {
    let settings =
        || SchemaSettings::draft2020_12().with(|it| it.definitions_path = SCHEMAS.into());
    // What clients send and what they are sent differs: a field with a default may be left out in one direction only.
    let mut taken = settings().for_deserialize().into_generator();
    let mut given = settings().for_serialize().into_generator();
    let mut paths = Map::new();
    for operation in operations() {
        let path = paths.entry(operation.path.replace("{*", "{")).or_insert_with(|| json!({}));
        path[operation.method.as_str().to_lowercase()] =
            describe(&operation, &mut taken, &mut given);
    }
    link(&mut paths);
    let problem = Value::from(given.subschema_for::<Problem>());
    let (schemas, paths) = join(taken, given, Value::Object(paths));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "PureBoot controller",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Every 4xx and 5xx answer is a problem document (RFC 9457). `X-Correlation-ID` is taken or made, \
                answered, and kept with what the request caused. Bodies in JSON may come in gzip (`Content-Encoding`).",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {"problem": {
                "description": "The request is refused; `code` says why to programs, `detail` to people.",
                "content": {"application/problem+json": {"schema": problem}},
            }},
            "securitySchemes": {
                "operator": {"type": "http", "scheme": "bearer", "description": "An operator's API token"},
                "session": {"type": "apiKey", "in": "cookie", "name": "pureboot_session", "description": "A person's session"},
                "agent": {"type": "http", "scheme": "bearer", "description": "The credential of a site's agent"},
            },
        },
    })
}

fn describe(
    operation: &Operation,
    taken: &mut SchemaGenerator,
    given: &mut SchemaGenerator,
) -> Value {
    let role = role(operation);
    let mut described = json!({
        "summary": operation.summary,
        "tags": [tag(operation.path)],
        "operationId": operation_id(operation),
        "parameters": parameters(operation, role, taken),
        "responses": {},
    });
    match role {
        Role::Anyone => {}
        Role::Viewer | Role::Operator | Role::Admin => {
            described["security"] = json!([{"operator": []}, {"session": []}]);
        }
        Role::Agent => described["security"] = json!([{"agent": []}]),
    }
    if let Some(content) = operation.body.describe(taken) {
        described["requestBody"] = json!({"required": true, "content": content});
    }
    let answers = [(operation.status, operation.answer)];
    for (status, content) in answers.into_iter().chain(operation.also.iter().copied()) {
        let mut response = json!({"description": status.canonical_reason().unwrap_or_default()});
        if let Some(content) = content.describe(given) {
            response["content"] = content;
        }
        described["responses"][status.as_str()] = response;
    }
    for status in refusals(operation, role) {
        described["responses"][status.as_str()] = json!({"$ref": "#/components/responses/problem"});
    }
    described
}

/// Says of what is made that its id is the parameter of the paths below, so that clients and testers find their way.
fn link(paths: &mut Map<String, Value>) {
    let made: Vec<String> = paths
        .iter()
        .filter(|(_, path)| !path["post"]["responses"]["201"].is_null())
        .map(|(path, _)| path.clone())
        .collect();
    for resource in made {
        let below = format!("{resource}/{{id}}");
        let links: Map<String, Value> = paths
            .iter()
            .filter(|(path, _)| path.starts_with(&below))
            .flat_map(|(_, path)| path.as_object().into_iter().flatten())
            .filter_map(|(_, operation)| operation["operationId"].as_str())
            .map(|id| {
                let parameters = json!({"id": "$response.body#/data/id"});
                (id.to_owned(), json!({"operationId": id, "parameters": parameters}))
            })
            .collect();
        if let Some(path) = paths.get_mut(&resource) {
            path["post"]["responses"]["201"]["links"] = Value::Object(links);
        }
    }
}

fn role(operation: &Operation) -> Role {
    if operation.is_for_anyone {
        return Role::Anyone;
    }
    let route = table().into_iter().rfind(|route| route.path == operation.path);
    route.map_or(Role::Anyone, |route| route.role)
}

/// The first word of the path that names a resource.
fn tag(path: &str) -> &str {
    path.trim_start_matches("/api/v1").split('/').find(|word| !word.is_empty()).unwrap_or("system")
}

/// Unique, and good enough for a name in a generated client.
fn operation_id(operation: &Operation) -> String {
    let words = operation.path.trim_start_matches("/api/v1").split(['/', '-', '.']);
    let words =
        words.map(|word| word.trim_matches(['{', '}', '*'])).filter(|word| !word.is_empty());
    words.fold(operation.method.as_str().to_lowercase(), |id, word| id + "_" + word)
}

fn parameters(operation: &Operation, role: Role, taken: &mut SchemaGenerator) -> Vec<Value> {
    let mut parameters: Vec<Value> = operation
        .path_parameters()
        .map(|name| {
            let is_id = name == "id" || name.ends_with("_id");
            let schema = if is_id {
                json!({"type": "string", "format": "uuid"})
            } else {
                json!({"type": "string"})
            };
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        })
        .collect();
    let query = operation.query.map(|describe| Value::from(describe(taken))).unwrap_or_default();
    let required = query["required"].as_array().cloned().unwrap_or_default();
    for (name, schema) in query["properties"].as_object().into_iter().flatten() {
        let is_required = required.contains(&json!(name));
        parameters
            .push(json!({"name": name, "in": "query", "required": is_required, "schema": schema}));
    }
    if operation.is_paged {
        let limit = json!({"type": "integer", "minimum": 1, "maximum": 500, "default": 100});
        parameters.push(json!({"name": "limit", "in": "query", "schema": limit}));
        let description = "`next_cursor` of the answer before";
        parameters.push(json!({"name": "cursor", "in": "query", "description": description,
            "schema": {"type": "string"}}));
    }
    if operation.is_conditional {
        for name in ["Range", "If-Range", "If-Match", "If-None-Match"] {
            let schema = json!({"type": "string"});
            parameters.push(json!({"name": name, "in": "header", "schema": schema}));
        }
    }
    if operation.is_versioned {
        let description =
            "The version that the client knows, in quotes; another one is answered 412";
        parameters.push(json!({"name": "If-Match", "in": "header", "description": description,
            "schema": {"type": "string", "pattern": "^(\"[0-9]{1,18}\"|\\*)$"}}));
    }
    if takes_key(operation, role) {
        let description = "Made up by the client: what was done with the same key within a day is answered again and not done again; \
            another request with it is answered 422";
        parameters.push(json!({"name": "Idempotency-Key", "in": "header", "description": description,
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}}));
    }
    parameters
}

/// Whether the operation is done once for each `Idempotency-Key`.
fn takes_key(operation: &Operation, role: Role) -> bool {
    operation.method == Method::POST && matches!(role, Role::Viewer | Role::Operator | Role::Admin)
}

/// What a request can be refused with.
fn refusals(operation: &Operation, role: Role) -> BTreeSet<StatusCode> {
    let mut refusals = BTreeSet::from([
        StatusCode::BAD_REQUEST,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::SERVICE_UNAVAILABLE,
    ]);
    let has_body = !matches!(operation.body, Content::Nothing);
    let mut add = |applies: bool, statuses: &[StatusCode]| {
        refusals.extend(statuses.iter().filter(|_| applies).copied());
    };
    add(role != Role::Anyone, &[StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]);
    add(operation.path.contains('{'), &[StatusCode::NOT_FOUND]);
    add(
        operation.is_conditional,
        &[StatusCode::PRECONDITION_FAILED, StatusCode::RANGE_NOT_SATISFIABLE],
    );
    add(operation.is_versioned, &[StatusCode::PRECONDITION_FAILED]);
    add(operation.method != Method::GET, &[StatusCode::PAYLOAD_TOO_LARGE]);
    add(takes_key(operation, role), &[StatusCode::CONFLICT, StatusCode::UNPROCESSABLE_ENTITY]);
    add(has_body, &[StatusCode::UNSUPPORTED_MEDIA_TYPE]);
    let has_fields = has_body || operation.query.is_some() || operation.is_paged;
    add(has_fields, &[StatusCode::UNPROCESSABLE_ENTITY]);
    refusals.extend(operation.refusals.iter().copied());
    refusals
}

/// The schemas of both directions as one map. One that differs between them, or refers to one that does, is named
/// `…Request` where it is taken.
fn join(
    mut taken: SchemaGenerator,
    mut given: SchemaGenerator,
    mut paths: Value,
) -> (Map<String, Value>, Value) {
    let taken = taken.take_definitions(true);
    let mut schemas = given.take_definitions(true);
    let mut differing: BTreeSet<String> = BTreeSet::new();
    loop {
        let is_new = |(name, schema): &(&String, &Value)| {
            !differing.contains(*name)
                && schemas
                    .get(*name)
                    .is_some_and(|other| other != *schema || refers(schema, &differing))
        };
        let Some((name, _)) = taken.iter().find(is_new) else { break };
        differing.insert(name.clone());
    }
    for operation in paths.as_object_mut().into_iter().flatten().flat_map(|(_, path)| {
        path.as_object_mut().into_iter().flatten().map(|(_, operation)| operation)
    }) {
        rename(&mut operation["requestBody"], &differing);
        rename(&mut operation["parameters"], &differing);
        if operation["requestBody"].is_null()
            && let Some(operation) = operation.as_object_mut()
        {
            operation.remove("requestBody");
        }
    }
    for (name, mut schema) in taken {
        rename(&mut schema, &differing);
        let name = if differing.contains(&name) { format!("{name}Request") } else { name };
        schemas.insert(name, schema);
    }
    (schemas, paths)
}

fn refers(schema: &Value, names: &BTreeSet<String>) -> bool {
    match schema {
        Value::Object(map) => map.iter().any(|(key, value)| match (key.as_str(), value) {
            ("$ref", Value::String(to)) => {
                to.rsplit('/').next().is_some_and(|to| names.contains(to))
            }
            _ => refers(value, names),
        }),
        Value::Array(values) => values.iter().any(|value| refers(value, names)),
        _ => false,
    }
}

fn rename(schema: &mut Value, names: &BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(to) if key == "$ref" => {
                        if to.rsplit('/').next().is_some_and(|to| names.contains(to)) {
                            to.push_str("Request");
                        }
                    }
                    _ => rename(value, names),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| rename(value, names)),
        _ => {}
    }
}

#[cfg(test)]
pub(crate) mod tests;
