//! Which templates a template includes, read from its text: what has to be at hand before it can be rendered.

use super::AnswerError;

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
    let mut at = 0;
    while let Some((opening, tag)) = next_tag(body, at) {
        let inside = opening + 2;
        let end = match tag {
            Tag::Comment => {
                body.get(inside..).and_then(|rest| rest.find("#}")).map(|len| inside + len)
            }
            Tag::Expression => close(body, inside, "}}"),
            Tag::Statement => close(body, inside, "%}"),
        };
        // What is not closed is the compiler's to refuse.
        let Some(end) = end else { break };
        at = end + 2;
        if tag != Tag::Statement {
            continue;
        }
        let statement = body.get(inside..end).unwrap_or_default();
        let words = statement.trim_start_matches(['-', '+']).trim_start();
        let word: String = words.chars().take_while(char::is_ascii_alphabetic).collect();
        if word == "raw" {
            at = body.get(at..).and_then(end_of_raw).map_or(body.len(), |len| at + len);
        }
        if STATEMENTS.contains(&word.as_str()) {
            let argument = words.get(word.len()..).unwrap_or_default().trim_start();
            let offset = end - argument.len();
            let Some(named) = literal(argument) else {
                let message = format!(
                    "{word} must name a template in quotes, such as {{% {word} 'disks' %}}"
                );
                return Err(AnswerError::at(name, body, offset, message));
            };
            found.push(Include { name: named.to_owned(), offset });
        }
    }
    Ok(found)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    Comment,
    Expression,
    Statement,
}

/// The next opening of a tag at or behind `from`.
fn next_tag(body: &str, from: usize) -> Option<(usize, Tag)> {
    let rest = body.get(from..)?;
    [("{#", Tag::Comment), ("{{", Tag::Expression), ("{%", Tag::Statement)]
        .into_iter()
        .filter_map(|(opening, tag)| Some((from + rest.find(opening)?, tag)))
        .min_by_key(|(at, _)| *at)
}

/// Where `closing` stands behind `from`, outside of quotes.
fn close(body: &str, from: usize, closing: &str) -> Option<usize> {
    let mut quote = None;
    let mut is_escaped = false;
    for (at, c) in body.get(from..)?.char_indices() {
        match quote {
            Some(_) if is_escaped => is_escaped = false,
            Some(_) if c == '\\' => is_escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '\'' || c == '"' => quote = Some(c),
            None if body.get(from + at..)?.starts_with(closing) => return Some(from + at),
            None => {}
        }
    }
    None
}

/// How far it is behind the statement that ends a raw stretch.
fn end_of_raw(text: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        let opening = at + text.get(at..)?.find("{%")?;
        let end = opening + text.get(opening..)?.find("%}")?;
        let words = text.get(opening + 2..end)?.trim_matches(['-', '+']).trim();
        at = opening + 2;
        if words == "endraw" {
            return Some(end + 2);
        }
    }
}

/// The text in quotes that `argument` begins with, if nothing in it needs unescaping.
fn literal(argument: &str) -> Option<&str> {
    let quote = argument.chars().next().filter(|c| ['\'', '"'].contains(c))?;
    let (named, behind) = argument.get(1..)?.split_once(quote)?;
    let goes_on = |c: char| c.is_whitespace() || "-+".contains(c);
    (!named.contains('\\') && behind.chars().next().is_none_or(goes_on)).then_some(named)
}
