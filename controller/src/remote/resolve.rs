//! Which thing an operator means: by its id, a name, or the beginning of its id.

use serde_json::Value;

/// The shortest beginning of an id that is taken for one.
const PREFIX_LEN_MIN: usize = 4;
/// The most candidates that an ambiguity lists.
const LISTED_MAX: usize = 10;

/// A kind of thing that operators name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Noun {
    /// What it is called in sentences and on the command line.
    pub(crate) what: &'static str,
    /// The API's word for all of them.
    pub(crate) path: &'static str,
    /// The fields that name one of them; the first is what people are shown.
    pub(crate) names: &'static [&'static str],
    /// The command that lists all of them.
    pub(crate) ls: &'static str,
}

pub(crate) const SITE: Noun =
    Noun { what: "site", path: "sites", names: &["path", "name"], ls: "site ls" };
/// Sites are groups too.
pub(crate) const GROUP: Noun =
    Noun { what: "group", path: "groups", names: &["path", "name"], ls: "group ls" };
pub(crate) const NODE: Noun =
    Noun { what: "node", path: "nodes", names: &["mac_address", "hostname"], ls: "node ls" };
pub(crate) const WORKFLOW: Noun =
    Noun { what: "workflow", path: "workflows", names: &["name"], ls: "workflow ls" };
pub(crate) const TEMPLATE: Noun =
    Noun { what: "template", path: "templates", names: &["name"], ls: "template ls" };
/// Claims are known by their node.
pub(crate) const CLAIM: Noun = Noun {
    what: "claim",
    path: "migrations",
    names: &["mac_address", "hostname", "node_id"],
    ls: "node claims",
};
/// Conflicts have no names; people know them by their cause.
pub(crate) const CONFLICT: Noun =
    Noun { what: "conflict", path: "conflicts", names: &["cause"], ls: "conflict ls --all" };
/// Commands of one site; people know them by what is ordered.
pub(crate) const COMMAND: Noun =
    Noun { what: "command", path: "commands", names: &["command"], ls: "site commands" };

/// Why a word names nothing. The operator reads this text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResolveError {
    /// Nothing has this name.
    #[error("there is no {what} '{word}'; `{ls}` shows them all")]
    Nothing { what: &'static str, ls: &'static str, word: String },
    /// More than one thing has.
    #[error("'{word}' may be any of {count} {path}, say more of the one that you mean:\n{listed}")]
    Ambiguous { path: &'static str, word: String, count: usize, listed: String },
}

/// How well a word fits; what fits better is meant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Id,
    Name,
    NameInOtherCase,
    IdBegins,
}

/// The one of `rows` that `word` names. It is that which it fits best; where it fits several equally well, none.
///
/// # Errors
/// There is none, or more than one.
pub(crate) fn choose(noun: &Noun, word: &str, rows: Vec<Value>) -> Result<Value, ResolveError> {
    let fits: Vec<_> = rows.iter().filter_map(|row| Some((fit(noun, word, row)?, row))).collect();
    let best = fits.iter().map(|(fit, _)| *fit).min();
    let mut meant: Vec<&Value> =
        fits.into_iter().filter(|(fit, _)| Some(*fit) == best).map(|(_, row)| row).collect();
    match (meant.pop(), meant.as_slice()) {
        (Some(row), []) => Ok(row.clone()),
        (None, _) => {
            Err(ResolveError::Nothing { what: noun.what, ls: noun.ls, word: word.to_owned() })
        }
        (Some(last), _) => {
            meant.push(last);
            let line = |row: &&Value| format!("  {}  {}", text(row, "id"), label(noun, row));
            let mut listed: Vec<_> = meant.iter().take(LISTED_MAX).map(line).collect();
            if meant.len() > LISTED_MAX {
                listed.push("  …".to_owned());
            }
            let (count, listed) = (meant.len(), listed.join("\n"));
            Err(ResolveError::Ambiguous { path: noun.path, word: word.to_owned(), count, listed })
        }
    }
}

fn fit(noun: &Noun, word: &str, row: &Value) -> Option<Fit> {
    let id = text(row, "id");
    let names = || noun.names.iter().filter_map(|field| row.get(field)?.as_str());
    let is_named = |same: fn(&str, &str) -> bool| names().any(|name| same(name, word));
    if id == word {
        Some(Fit::Id)
    } else if is_named(|name, word| name == word) {
        Some(Fit::Name)
    } else if is_named(|name, word| name.eq_ignore_ascii_case(word)) {
        Some(Fit::NameInOtherCase)
    } else {
        let begins = word.len() >= PREFIX_LEN_MIN && id.starts_with(&word.to_ascii_lowercase());
        begins.then_some(Fit::IdBegins)
    }
}

/// What people are shown of `row`: its first name, and the others that it has.
pub(crate) fn label(noun: &Noun, row: &Value) -> String {
    let names = noun.names.iter().map(|field| text(row, field)).filter(|name| !name.is_empty());
    let mut names: Vec<_> = names.collect();
    // The path of a site ends with its name.
    if noun.names.first() == Some(&"path") {
        names.truncate(1);
    }
    names.join(" ")
}

/// The text in a field of `row`; empty where there is none.
pub(crate) fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row.get(field).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn sites() -> Vec<Value> {
        vec![
            json!({"id": "aaaa0000-0000-4000-8000-000000000001", "path": "/emea/berlin", "name": "berlin"}),
            json!({"id": "aaaa0000-0000-4000-8000-000000000002", "path": "/us/berlin", "name": "berlin"}),
            json!({"id": "bbbb0000-0000-4000-8000-000000000003", "path": "/emea/Oslo", "name": "Oslo"}),
            json!({"id": "cccc0000-0000-4000-8000-000000000004", "path": "/aaaa", "name": "aaaa"}),
        ]
    }

    fn path(word: &str) -> Result<String, String> {
        let row = choose(&SITE, word, sites()).map_err(|error| error.to_string())?;
        Ok(text(&row, "path").to_owned())
    }

    #[test]
    fn a_path_a_name_and_an_id_or_its_beginning_name_the_same_site() {
        for word in
            ["/emea/Oslo", "Oslo", "oslo", "bbbb0000-0000-4000-8000-000000000003", "bbbb", "BBBB0"]
        {
            assert_eq!(path(word).as_deref(), Ok("/emea/Oslo"), "{word}");
        }
    }

    #[test]
    fn what_is_a_name_is_not_taken_for_the_beginning_of_an_id() {
        assert_eq!(path("aaaa").as_deref(), Ok("/aaaa"));
        assert_eq!(path("aaaa0000-0000-4000-8000-000000000001").as_deref(), Ok("/emea/berlin"));
    }

    #[test]
    fn a_word_that_means_two_things_lists_both() {
        let error = path("berlin").expect_err("ambiguous");
        expect![[r#"
            'berlin' may be any of 2 sites, say more of the one that you mean:
              aaaa0000-0000-4000-8000-000000000001  /emea/berlin
              aaaa0000-0000-4000-8000-000000000002  /us/berlin"#]]
        .assert_eq(&error);
        assert!(path("aaaa0").is_err());
    }

    #[test]
    fn a_word_that_means_nothing_is_refused_with_the_cure() {
        for word in ["paris", "bbb", ""] {
            let error = path(word).expect_err("nothing");
            assert!(error.contains("`site ls`"), "{word}: {error}");
        }
    }

    #[test]
    fn a_name_that_is_absent_is_no_empty_name() {
        let nodes = vec![
            json!({"id": "dddd0000-0000-4000-8000-000000000001", "mac_address": "52:54:00:00:00:01", "hostname": null}),
        ];
        assert!(choose(&NODE, "", nodes.clone()).is_err());
        assert_eq!(label(&NODE, &nodes[0]), "52:54:00:00:00:01");
    }
}
