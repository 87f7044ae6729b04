//! `FIELD=VALUE`: what operators set, read by a list of the fields that a thing has. Values are judged by the controller alone.

use serde_json::{Map, Value};

use crate::config::UsageError;
use crate::remote::resolve::Noun;

/// A field that an operator may set.
#[derive(Debug)]
pub(crate) struct Field {
    /// What it is called on the command line.
    name: &'static str,
    /// What it is called in the API.
    key: &'static str,
    kind: Kind,
    /// Whether `FIELD=` takes the value away.
    is_optional: bool,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A text, which may be empty.
    Text,
    /// One word out of several, or another text that is never empty.
    Word,
    Number,
    Flag,
    /// Texts with commas between; several assignments add up.
    List,
    /// Something that is named.
    Named(&'static Noun),
    /// `KEY:NAME` with commas between; several assignments add up.
    NamedByKey(&'static Noun),
}

impl Field {
    const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, key: name, kind, is_optional: false }
    }

    pub(crate) const fn text(name: &'static str) -> Self {
        Self::new(name, Kind::Text)
    }

    pub(crate) const fn word(name: &'static str) -> Self {
        Self::new(name, Kind::Word)
    }

    pub(crate) const fn number(name: &'static str) -> Self {
        Self::new(name, Kind::Number)
    }

    pub(crate) const fn flag(name: &'static str) -> Self {
        Self::new(name, Kind::Flag)
    }

    pub(crate) const fn list(name: &'static str) -> Self {
        Self::new(name, Kind::List)
    }

    /// A reference, which is `key` in the API.
    pub(crate) const fn named(name: &'static str, key: &'static str, noun: &'static Noun) -> Self {
        Self { name, key, kind: Kind::Named(noun), is_optional: true }
    }

    /// References by keys of their own.
    pub(crate) const fn named_by_key(name: &'static str, noun: &'static Noun) -> Self {
        Self::new(name, Kind::NamedByKey(noun))
    }

    /// The same field, which may be without value.
    pub(crate) const fn or_none(self) -> Self {
        Self { is_optional: true, ..self }
    }
}

/// A value on its way to the API.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Entry {
    /// As it is.
    Ready(Value),
    /// The id of what is named so.
    IdOf(&'static Noun, String),
    /// The ids of what is named so, by key.
    IdsOf(&'static Noun, Vec<(String, String)>),
}

/// What `assignments` say, by the API's names.
///
/// # Errors
/// One of them is no assignment, names no field, or has a value that the field cannot have.
pub(crate) fn parse(
    known: &'static [Field],
    assignments: &[String],
) -> Result<Vec<(&'static str, Entry)>, UsageError> {
    let mut entries: Vec<(&'static str, Entry)> = Vec::new();
    for assignment in assignments {
        let all = || known.iter().map(|field| field.name).collect::<Vec<_>>().join(", ");
        let Some((name, value)) = assignment.split_once('=') else {
            return Err(UsageError::new(format!(
                "'{assignment}' is no FIELD=VALUE; the fields are {}",
                all()
            )));
        };
        let Some(field) = known.iter().find(|field| field.name == name) else {
            return Err(UsageError::new(format!(
                "there is no field '{name}' to set; the fields are {}",
                all()
            )));
        };
        let new = entry(field, value)?;
        match entries.iter_mut().find(|(key, _)| *key == field.key) {
            None => entries.push((field.key, new)),
            Some((_, old)) => add(old, new, name)?,
        }
    }
    Ok(entries)
}

fn entry(field: &Field, value: &str) -> Result<Entry, UsageError> {
    let refused =
        |expected: &str| UsageError::new(format!("{}={value}: expected {expected}", field.name));
    if value.is_empty() && field.is_optional {
        return Ok(Entry::Ready(Value::Null));
    }
    Ok(match field.kind {
        Kind::Text => Entry::Ready(value.into()),
        Kind::Word if value.is_empty() => return Err(refused("a value")),
        Kind::Word => Entry::Ready(value.into()),
        Kind::Number => Entry::Ready(value.parse::<u64>().map_err(|_| refused("a number"))?.into()),
        Kind::Flag => match value {
            "true" | "yes" | "on" => Entry::Ready(true.into()),
            "false" | "no" | "off" => Entry::Ready(false.into()),
            _ => return Err(refused("true or false")),
        },
        Kind::List => Entry::Ready(parts(value).into()),
        Kind::Named(noun) => Entry::IdOf(noun, value.to_owned()),
        Kind::NamedByKey(noun) => {
            let pair = |part: &String| {
                let (key, name) = part.split_once(':')?;
                Some((key.to_owned(), name.to_owned()))
            };
            let pairs: Option<Vec<_>> = parts(value).iter().map(pair).collect();
            let expected =
                || refused(&format!("KEY:{}, with commas between", noun.what.to_uppercase()));
            Entry::IdsOf(noun, pairs.ok_or_else(expected)?)
        }
    })
}

fn add(old: &mut Entry, new: Entry, name: &str) -> Result<(), UsageError> {
    match (old, new) {
        (Entry::Ready(Value::Array(old)), Entry::Ready(Value::Array(new))) => old.extend(new),
        (Entry::IdsOf(_, old), Entry::IdsOf(_, new)) => old.extend(new),
        _ => return Err(UsageError::new(format!("'{name}' is set twice; leave one out"))),
    }
    Ok(())
}

/// The parts of a list. Commas within braces belong to a pattern.
fn parts(text: &str) -> Vec<String> {
    let (mut parts, mut part, mut depth) = (Vec::new(), String::new(), 0_u32);
    for c in text.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if c == ',' && depth == 0 {
            parts.push(std::mem::take(&mut part));
        } else {
            part.push(c);
        }
    }
    parts.push(part);
    parts.retain(|part| !part.is_empty());
    parts
}

/// A body of these members.
pub(crate) fn body(members: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    Value::Object(
        members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::remote::resolve::{TEMPLATE, WORKFLOW};

    const KNOWN: &[Field] = &[
        Field::text("description"),
        Field::word("autonomy_level"),
        Field::word("agent_url").or_none(),
        Field::number("cache_max_size_gb").or_none(),
        Field::flag("auto_provision").or_none(),
        Field::list("cache_patterns"),
        Field::named("workflow", "workflow_id", &WORKFLOW),
        Field::named_by_key("templates", &TEMPLATE),
    ];

    fn parsed(assignments: &[&str]) -> Result<Vec<(&'static str, Entry)>, String> {
        let assignments: Vec<_> = assignments.iter().map(|&text| text.to_owned()).collect();
        parse(KNOWN, &assignments).map_err(|error| error.to_string())
    }

    #[test]
    fn an_assignment_becomes_what_the_api_takes() {
        let ready = |value: Value| Entry::Ready(value);
        for (assignment, key, entry) in [
            ("description=a=b, c", "description", ready(json!("a=b, c"))),
            ("description=", "description", ready(json!(""))),
            ("autonomy_level=full", "autonomy_level", ready(json!("full"))),
            ("agent_url=", "agent_url", ready(Value::Null)),
            ("cache_max_size_gb=20", "cache_max_size_gb", ready(json!(20))),
            ("cache_max_size_gb=", "cache_max_size_gb", ready(Value::Null)),
            ("auto_provision=yes", "auto_provision", ready(json!(true))),
            ("auto_provision=", "auto_provision", ready(Value::Null)),
            ("cache_patterns=", "cache_patterns", ready(json!([]))),
            ("cache_patterns=a/{b,c}/*,d", "cache_patterns", ready(json!(["a/{b,c}/*", "d"]))),
            ("workflow=debian", "workflow_id", Entry::IdOf(&WORKFLOW, "debian".to_owned())),
            ("workflow=", "workflow_id", ready(Value::Null)),
            (
                "templates=a.cfg:base,b:other",
                "templates",
                Entry::IdsOf(
                    &TEMPLATE,
                    vec![
                        ("a.cfg".to_owned(), "base".to_owned()),
                        ("b".to_owned(), "other".to_owned()),
                    ],
                ),
            ),
        ] {
            assert_eq!(parsed(&[assignment]), Ok(vec![(key, entry)]), "{assignment}");
        }
    }

    #[test]
    fn lists_add_up_and_everything_else_is_set_once() {
        let both = vec![("cache_patterns", Entry::Ready(json!(["a", "b"])))];
        assert_eq!(parsed(&["cache_patterns=a", "cache_patterns=b"]), Ok(both));
        let error = parsed(&["description=a", "description=b"]).expect_err("twice");
        assert!(error.contains("set twice"), "{error}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_cure() {
        for (assignment, expected) in [
            ("description", "FIELD=VALUE"),
            ("colour=red", "the fields are description, autonomy_level"),
            ("autonomy_level=", "expected a value"),
            ("cache_max_size_gb=-1", "expected a number"),
            ("auto_provision=maybe", "true or false"),
            ("templates=base", "KEY:TEMPLATE"),
        ] {
            let error = parsed(&[assignment]).expect_err("refused");
            assert!(error.contains(expected), "{assignment}: {error}");
        }
    }
}
