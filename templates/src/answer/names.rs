//! Filters, tests and functions that a template names, read from its text. The compiler takes any name; a run finds out at the first
//! that is not there, and that may be when a machine waits.

use std::collections::HashSet;

use super::filters::{FILTERS, FUNCTIONS, TESTS};
use super::tags::{Kind, first_word, tags, words};
use super::{AnswerError, nearest};

/// What Jinja itself lets a template call.
const BUILT_IN: [&str; 4] = ["caller", "loop", "self", "super"];

/// Words that a parenthesis may follow without a call.
const WORDS: [&str; 10] = ["and", "call", "elif", "else", "filter", "if", "in", "is", "not", "or"];

/// Refuses the first name of the template `name` that nothing stands behind. `undeclared` is what it neither defines nor imports.
///
/// # Errors
/// There is one.
pub(super) fn check(
    name: &str,
    body: &str,
    undeclared: &HashSet<String>,
) -> Result<(), AnswerError> {
    let named = named(body);
    // Where a condition decides whether something is imported, it counts as undeclared behind that.
    let is_brought = |root: &str| {
        let mut brought = named.iter().filter(|named| named.what == What::Brought);
        brought.any(|named| named.text == root)
    };
    let is_callable = |root: &str| {
        let is_there = BUILT_IN.contains(&root) || FUNCTIONS.contains(&root);
        is_there || !undeclared.contains(root) || is_brought(root)
    };
    for &Named { what, text, offset } in &named {
        let message = match what {
            What::Filter if !FILTERS.contains(&text) => unknown("filter", text, FILTERS),
            What::Test if !TESTS.contains(&text) => unknown("test", text, TESTS),
            What::Call { root } if !is_callable(root) && root == text => format!(
                "there is no function '{text}'; there is {}, and what is a macro here or imported, as in \
                 {{% from 'macros' import {text} %}}",
                FUNCTIONS.join(", ")
            ),
            What::Call { root } if !is_callable(root) => {
                format!(
                    "'{text}' cannot be called: values have no functions, only filters such as | lower"
                )
            }
            What::Filter | What::Test | What::Call { .. } | What::Brought => continue,
        };
        return Err(AnswerError::at(name, body, offset, message));
    }
    Ok(())
}

fn unknown(what: &str, text: &str, known: &[&str]) -> String {
    format!("there is no {what} '{text}'; the nearest: {}", nearest(text, known.iter().copied()))
}

/// What a name is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What<'a> {
    /// Behind `|`.
    Filter,
    /// Behind `is`.
    Test,
    /// Before a parenthesis; `root` is the first name of a path such as `node.tags.append`.
    Call { root: &'a str },
    /// In a statement that defines or imports it.
    Brought,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Named<'a> {
    what: What<'a>,
    text: &'a str,
    /// Where it stands, in bytes of the text.
    offset: usize,
}

fn named(body: &str) -> Vec<Named<'_>> {
    let mut found = Vec::new();
    for tag in tags(body) {
        let inside = body.get(tag.inside.clone()).unwrap_or_default();
        let mut reader = Reader { body, found: &mut found, before: Before::Start, path: None };
        if tag.kind == Kind::Statement {
            let word = first_word(inside);
            reader.before = match word {
                "filter" => Before::Pipe,
                "macro" => Before::Definition,
                "from" | "import" => Before::Import,
                _ => Before::Start,
            };
            let behind = words(inside).get(word.len()..).unwrap_or_default();
            reader.read(behind, tag.inside.end - behind.len());
        } else {
            reader.read(inside, tag.inside.start);
        }
    }
    found
}

/// What stands before the next token, as far as it decides what that one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Nothing of importance.
    Start,
    /// `|`
    Pipe,
    /// `is`, or `is not`
    Is,
    /// `.`
    Dot,
    /// `macro`
    Definition,
    /// `from` or `import`, to the end of the statement
    Import,
}

struct Reader<'a, 'f> {
    body: &'a str,
    found: &'f mut Vec<Named<'a>>,
    before: Before,
    /// The path that has been read last, in bytes of the text, and where its first name ends.
    path: Option<(usize, usize, usize)>,
}

impl<'a> Reader<'a, '_> {
    /// Reads `text`, which begins at `start` in the body.
    fn read(&mut self, text: &'a str, start: usize) {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let at = start + text.len() - rest.len();
            let len = match c {
                '\'' | '"' => literal_len(rest),
                c if is_name(c) => rest.find(|c| !is_name(c)).unwrap_or(rest.len()),
                c => c.len_utf8(),
            };
            let (token, behind) = rest.split_at_checked(len).unwrap_or((rest, ""));
            rest = behind;
            match c {
                c if c.is_whitespace() => {}
                c if is_name(c) => self.handle_name(token, at),
                c => self.handle_sign(c),
            }
        }
    }

    fn handle_name(&mut self, name: &'a str, at: usize) {
        let end = at + name.len();
        let before = std::mem::replace(&mut self.before, Before::Start);
        let path = self.path.take();
        match before {
            Before::Pipe => self.found.push(Named { what: What::Filter, text: name, offset: at }),
            Before::Is if name == "not" => self.before = Before::Is,
            Before::Is => self.found.push(Named { what: What::Test, text: name, offset: at }),
            Before::Dot => self.path = path.map(|(start, root_end, _)| (start, root_end, end)),
            Before::Definition | Before::Import => {
                self.found.push(Named { what: What::Brought, text: name, offset: at });
                if before == Before::Import {
                    self.before = before;
                }
            }
            Before::Start if name == "is" => self.before = Before::Is,
            Before::Start if WORDS.contains(&name) => {}
            Before::Start => self.path = Some((at, end, end)),
        }
    }

    fn handle_sign(&mut self, sign: char) {
        let path = self.path.take();
        self.before = match sign {
            _ if self.before == Before::Import => Before::Import,
            '|' => Before::Pipe,
            '.' => {
                self.path = path;
                Before::Dot
            }
            _ => Before::Start,
        };
        let Some((start, root_end, end)) = path.filter(|_| sign == '(') else { return };
        if let (Some(text), Some(root)) =
            (self.body.get(start..end), self.body.get(start..root_end))
        {
            self.found.push(Named { what: What::Call { root }, text, offset: start });
        }
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of the literal text that `text` begins with, quotes and all.
fn literal_len(text: &str) -> usize {
    let mut quote = None;
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            None => quote = Some(c),
            Some(_) if is_escaped => is_escaped = false,
            Some(_) if c == '\\' => is_escaped = true,
            Some(open) if c == open => return at + c.len_utf8(),
            Some(_) => {}
        }
    }
    text.len()
}
