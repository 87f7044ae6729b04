//! What operators ask for is taken by the word: a parameter or field that the API does not have is refused and not passed
//! over, because whoever misspells `workflow_id` believes the node has its workflow. What there is, the API's own document says.
//!
//! Agents are not held to this: one that is newer than its controller says more than the controller knows (FAULTS U7).

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use serde_json::Value;

use crate::auth::Role;
use crate::error::ApiError;
use crate::extract::{KnownFields, short};
use crate::openapi;

/// What one operation takes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    /// Names in the query.
    parameters: BTreeSet<String>,
    /// Names in the body; none where any name may come, or there is no object.
    fields: Option<Vec<String>>,
}

static KNOWN: LazyLock<HashMap<(Method, String), Known>> =
    LazyLock::new(|| read(openapi::document_once()));

/// Whether requests to the route are held to what the API has.
pub(crate) fn is_strict(role: Role, path: &str) -> bool {
    role != Role::Agent && path.starts_with("/api/v1/") && path != "/api/v1/agents/register"
}

/// Refuses parameters that the route `path` does not have, and lets its body be held to its fields.
///
/// # Errors
/// 400 that names the parameter.
pub(crate) async fn strict(
    State(path): State<&'static str>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let method = match *request.method() {
        Method::HEAD => Method::GET,
        ref method => method.clone(),
    };
    if let Some(known) = KNOWN.get(&(method, path.replace("{*", "{"))) {
        check(known, request.uri().query().unwrap_or_default())?;
        if let Some(fields) = &known.fields {
            request.extensions_mut().insert(KnownFields(fields));
        }
    }
    Ok(next.run(request).await)
}

fn check(known: &Known, query: &str) -> Result<(), ApiError> {
    let names = query.split('&').filter(|pair| !pair.is_empty());
    let mut names = names.map(|pair| pair.split('=').next().unwrap_or_default());
    let Some(unknown) = names.find(|name| !known.parameters.contains(*name)) else {
        return Ok(());
    };
    let there_are = match known.parameters.len() {
        0 => "this takes none".to_owned(),
        _ => {
            let names: Vec<_> = known.parameters.iter().map(String::as_str).collect();
            format!("there are {}", names.join(", "))
        }
    };
    let detail = format!("there is no parameter '{}'; {there_are}", short(unknown));
    Err(ApiError::bad_request("unknown_parameter", detail))
}

/// Reads from the document what each operation takes.
fn read(document: &'static Value) -> HashMap<(Method, String), Known> {
    let mut known = HashMap::new();
    for (path, operations) in
        document.pointer("/paths").and_then(Value::as_object).into_iter().flatten()
    {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            let Ok(method) = method.to_uppercase().parse() else { continue };
            let parameters = operation.get("parameters").and_then(Value::as_array);
            let parameters = parameters
                .into_iter()
                .flatten()
                .filter(|it| it.get("in").and_then(Value::as_str) == Some("query"));
            let name = |it: &Value| it.get("name").and_then(Value::as_str).map(str::to_owned);
            let body = operation.pointer("/requestBody/content/application~1json/schema");
            let fields = body.and_then(|schema| fields(document, schema));
            let parameters = parameters.filter_map(name).collect();
            known.insert((method, path.clone()), Known { parameters, fields });
        }
    }
    known
}

/// The names that an object of `schema` may have; none if it may have any, or is no object.
fn fields(document: &Value, schema: &Value) -> Option<Vec<String>> {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        return fields(document, document.pointer(reference.strip_prefix('#')?)?);
    }
    let takes_more =
        schema.get("additionalProperties").is_some_and(|more| *more != Value::Bool(false));
    let properties = schema.get("properties").and_then(Value::as_object);
    if takes_more || ["allOf", "anyOf", "oneOf"].iter().any(|word| schema.get(word).is_some()) {
        return None;
    }
    Some(properties?.keys().cloned().collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_has_the_fields_of_its_schema_and_a_map_has_any() {
        let schema = json!({"type": "object", "properties": {"a": {}, "b": {}}});
        let document = json!({"components": {"schemas": {"Ab": schema}}});
        let ab = Some(vec!["a".to_owned(), "b".to_owned()]);
        for (schema, expected) in [
            (json!({"$ref": "#/components/schemas/Ab"}), ab),
            (
                json!({"type": "object", "properties": {"a": {}}, "additionalProperties": true}),
                None,
            ),
            (json!({"type": "object", "additionalProperties": {"type": "string"}}), None),
            (json!({"type": "array", "items": {}}), None),
        ] {
            assert_eq!(fields(&document, &schema), expected, "{schema}");
        }
    }

    #[test]
    fn a_parameter_that_is_not_there_is_named_with_those_that_are() {
        let known =
            Known { parameters: ["limit".to_owned(), "mac".to_owned()].into(), fields: None };
        for query in ["", "limit=1", "mac=x&limit=2", "limit", "&&"] {
            assert!(check(&known, query).is_ok(), "{query}");
        }
        for (query, name) in
            [("macs=x", "macs"), ("limit=1&Mac=2", "Mac"), ("=1", ""), ("m%61c=1", "m%61c")]
        {
            let error = check(&known, query).expect_err("refused").to_string();
            assert_eq!(error, format!("there is no parameter '{name}'; there are limit, mac"));
        }
    }
}
