//! Whether the document says what is true.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use jsonschema::Validator;

use super::*;
use crate::api::tests::Centre;
use crate::api::tests::authority::lines;

fn is_match(template: &str, path: &str) -> bool {
    let (mut words, mut parts) = (template.split('/'), path.split('/'));
    loop {
        match (words.next(), parts.next()) {
            (None, None) => return true,
            (Some("{path}"), Some(_)) => return true,
            (Some(word), Some(part)) if word == part || word.starts_with('{') => {}
            _ => return false,
        }
    }
}

/// The path of the document that `path` is one of; words win over parameters, as in the router.
fn template(path: &str) -> Option<&'static String> {
    let paths = DOCUMENT["paths"].as_object().expect("paths");
    let mut matches: Vec<_> = paths.keys().filter(|template| is_match(template, path)).collect();
    matches.sort_by_key(|template| template.matches('{').count());
    matches.first().copied()
}

/// What the document says of a response, with references to `components` followed once.
fn described(method: &Method, template: &str, status: StatusCode) -> Option<&'static Value> {
    let response =
        &DOCUMENT["paths"][template][method.as_str().to_lowercase()]["responses"][status.as_str()];
    match response["$ref"].as_str() {
        Some(reference) => DOCUMENT.pointer(reference.trim_start_matches('#')),
        None => Some(response).filter(|response| !response.is_null()),
    }
}

fn validator(schema: &Value) -> Arc<Validator> {
    static VALIDATORS: Mutex<BTreeMap<String, Arc<Validator>>> = Mutex::new(BTreeMap::new());
    let mut validators = VALIDATORS.lock().unwrap_or_else(PoisonError::into_inner);
    let make = || {
        let mut whole = schema.clone();
        whole["components"] = DOCUMENT["components"].clone();
        Arc::new(jsonschema::validator_for(&whole).expect("a schema"))
    };
    Arc::clone(validators.entry(schema.to_string()).or_insert_with(make))
}

/// Holds an answer against the document.
pub(crate) fn check_answer(method: &Method, path: &str, status: StatusCode, body: &Value) {
    let Some(template) = template(path) else { return };
    // The latter is what the stubs answer that stand for handlers in the tests of the guard.
    if [StatusCode::METHOD_NOT_ALLOWED, StatusCode::NO_CONTENT].contains(&status) {
        return;
    }
    let case = format!("{method} {path}: {status}");
    let response = described(method, template, status);
    let response = response.unwrap_or_else(|| panic!("{case} is not in the document: {body}"));
    let contents = response["content"].as_object().into_iter().flatten();
    for (_, content) in contents.filter(|(media_type, content)| {
        media_type.ends_with("json") && content["schema"].is_object()
    }) {
        let errors: Vec<_> = validator(&content["schema"])
            .iter_errors(body)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{case} is not as the document says: {errors:#?}\n{body:#}");
    }
}

#[tokio::test]
async fn the_document_describes_every_operation_of_the_table_and_no_other() {
    let centre = Centre::start().await;
    let described: BTreeSet<_> = operations()
        .iter()
        .map(|operation| (operation.path.to_owned(), operation.method.to_string()))
        .collect();
    assert_eq!(described.len(), operations().len(), "an operation is described twice");
    let lines = lines(&centre.app).await.into_iter();
    let answered = lines
        .flat_map(|(_, path, verbs)| {
            verbs.into_iter().map(move |verb| (path.to_owned(), verb.to_string()))
        })
        .collect();
    assert_eq!(described, answered);
}

#[test]
fn the_published_document_is_the_one_that_the_code_makes() {
    let made = serde_json::to_string_pretty(&*DOCUMENT).expect("a document") + "\n";
    expect_test::expect_file!["../../openapi.json"].assert_eq(&made);
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    fn walk(value: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    let found = DOCUMENT.pointer(reference.trim_start_matches('#'));
                    assert!(found.is_some(), "{reference}");
                }
                map.values().for_each(walk);
            }
            Value::Array(values) => values.iter().for_each(walk),
            _ => {}
        }
    }
    walk(&DOCUMENT);
}

#[test]
fn what_clients_may_leave_out_is_not_required_of_them_and_what_they_get_is_whole() {
    let required = |name: &str| {
        let required = &DOCUMENT["components"]["schemas"][name]["required"];
        required.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>()
    };
    assert_eq!(required("NewNode"), ["mac_address"]);
    assert!(required("Site").contains(&"agent_last_seen"), "{:?}", required("Site"));
    assert_eq!(required("SiteFields"), [""; 0]);
}
