//! Which templates a template includes, read from its text: what has to be at hand before it can be rendered.

use super::AnswerError;
use super::tags::{Kind, Tag, first_word, tags, words};

/// A template that is named in another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Include {
    /// Its name.
    pub name: String,
    /// Where it is named, in bytes from the start of the text.
    pub(super) offset: usize,
}

/// Statements that name another template.
const STATEMENTS: [&str; 4] = ["include", "extends", "import", "from"];

/// What `body`, the text of the template `name`, includes, imports and extends.
///
/// # Errors
/// A template is named by anything but a literal text.
pub fn includes(name: &str, body: &str) -> Result<Vec<Include>, AnswerError> {
    let mut found = Vec::new();
    for Tag { kind, inside } in tags(body) {
        let statement = body.get(inside.clone()).unwrap_or_default();
        let word = first_word(statement);
        if kind != Kind::Statement || !STATEMENTS.contains(&word) {
            continue;
        }
        let argument = words(statement).get(word.len()..).unwrap_or_default().trim_start();
        let offset = inside.end - argument.len();
        let Some(named) = literal(argument) else {
            let message =
                format!("{word} must name a template in quotes, such as {{% {word} 'disks' %}}");
            return Err(AnswerError::at(name, body, offset, message));
        };
        found.push(Include { name: named.to_owned(), offset });
    }
    Ok(found)
}

/// The text in quotes that `argument` begins with, if nothing in it needs unescaping.
fn literal(argument: &str) -> Option<&str> {
    let quote = argument.chars().next().filter(|c| ['\'', '"'].contains(c))?;
    let (named, behind) = argument.get(1..)?.split_once(quote)?;
    let goes_on = |c: char| c.is_whitespace() || "-+".contains(c);
    (!named.contains('\\') && behind.chars().next().is_none_or(goes_on)).then_some(named)
}
