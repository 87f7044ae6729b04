//! The tags of a template, read from its text as the compiler reads them.

use std::ops::Range;

/// What stands between two braces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `{{ … }}`
    Expression,
    /// `{% … %}`
    Statement,
    Comment,
}

/// A tag that is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) kind: Kind,
    /// Where its inside is, in bytes of the text.
    pub(super) inside: Range<usize>,
}

/// The expressions and statements of `body`, outside of raw stretches. What is not closed is the compiler's to refuse, and the last.
pub(super) fn tags(body: &str) -> Vec<Tag> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((opening, kind)) = next_opening(body, at) {
        let inside = opening + 2;
        let end = match kind {
            Kind::Comment => {
                body.get(inside..).and_then(|rest| rest.find("#}")).map(|len| inside + len)
            }
            Kind::Expression => close(body, inside, "}}"),
            Kind::Statement => close(body, inside, "%}"),
        };
        let Some(end) = end else { break };
        at = end + 2;
        if kind == Kind::Statement && first_word(body.get(inside..end).unwrap_or_default()) == "raw"
        {
            at = body.get(at..).and_then(end_of_raw).map_or(body.len(), |len| at + len);
        }
        if kind != Kind::Comment {
            found.push(Tag { kind, inside: inside..end });
        }
    }
    found
}

/// The inside of a statement without what trims around it.
pub(super) fn words(statement: &str) -> &str {
    statement.trim_start_matches(['-', '+']).trim_start()
}

/// The word that says what a statement does.
pub(super) fn first_word(statement: &str) -> &str {
    let words = words(statement);
    let len = words.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(words.len());
    words.get(..len).unwrap_or_default()
}

/// The next opening of a tag at or behind `from`.
fn next_opening(body: &str, from: usize) -> Option<(usize, Kind)> {
    let rest = body.get(from..)?;
    [("{#", Kind::Comment), ("{{", Kind::Expression), ("{%", Kind::Statement)]
        .into_iter()
        .filter_map(|(opening, kind)| Some((from + rest.find(opening)?, kind)))
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
