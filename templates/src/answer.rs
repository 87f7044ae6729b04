//! Answer files: Jinja templates that operators write, filled in with the values of one machine.
//!
//! A template is code of an operator that runs in the controller and in the agent. It sees the values that it is given and the
//! templates of its [`Library`], and no file, clock or network; how long it runs, how deep it includes and how much it writes is
//! limited. An unknown variable is an error and never an empty text.

mod filters;
mod includes;
mod names;
mod sanity;
mod tags;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value};

pub use includes::includes;
pub use sanity::warnings;

/// The longest template, in bytes.
pub const BODY_LEN_MAX: usize = 256 << 10;
/// The longest rendered file, in bytes.
pub const OUTPUT_LEN_MAX: usize = 1 << 20;
/// How deep templates include each other: the first one counts.
pub const INCLUDE_DEPTH_MAX: usize = 8;
/// How many templates one file may be made of.
pub const INCLUDES_MAX: usize = 64;
/// Instructions of the template engine that one file may take: some 100 ms.
const FUEL: u64 = 1_000_000;
/// How deep macros may call each other; the stack of a thread bears it in a debug build.
const RECURSION_MAX: usize = 64;
/// What secrets are behind.
const SECRETS: &str = "secret";
/// Names that are suggested in place of an unknown one.
const SUGGESTIONS_MAX: usize = 3;

/// What is wrong with a template, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{template}' line {line}, column {column}: {message}")]
pub struct AnswerError {
    /// The template, which may be one that is included.
    pub template: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The character of the line, counted from 1.
    pub column: usize,
    /// What is wrong; never a value that was filled in.
    pub message: String,
}

impl AnswerError {
    /// An error at `offset` bytes of `body`.
    fn at(template: &str, body: &str, offset: usize, message: String) -> Self {
        let before = body.get(..offset).unwrap_or(body);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            template: template.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            message,
        }
    }
}

/// Templates by their names: one, and those that it includes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Library(BTreeMap<String, String>);

impl Library {
    /// Adds a template, or puts it in place of one with the same name.
    pub fn insert(&mut self, name: String, body: String) {
        self.0.insert(name, body);
    }

    /// The templates, by name.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, body)| (name.as_str(), body.as_str()))
    }

    /// Whether there is a template called `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Checks that `name` and all that it includes compile, are here, name no filter, test or function that is not there, and include
    /// each other neither in a circle nor too deep.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self, name: &str) -> Result<(), AnswerError> {
        let mut seen = BTreeSet::new();
        self.walk(name, &mut Vec::new(), &mut seen)?;
        let environment = self.environment(&seen)?;
        for name in seen {
            let explain = |error| self.explain(name, &error, None);
            let undeclared =
                environment.get_template(name).map_err(explain)?.undeclared_variables(false);
            let body = self.0.get(name).map(String::as_str).unwrap_or_default();
            names::check(name, body, &undeclared)?;
        }
        Ok(())
    }

    /// The text of `name` with `values`, a map of maps such as `{"node": {"hostname": "web-1"}}`.
    ///
    /// # Errors
    /// As [`Library::check`], and what only the values show: an unknown variable, too much output, too long a run.
    pub fn render(&self, name: &str, values: &serde_json::Value) -> Result<String, AnswerError> {
        let mut seen = BTreeSet::new();
        self.walk(name, &mut Vec::new(), &mut seen)?;
        let environment = self.environment(&seen)?;
        let mut output = Capped(Vec::new());
        let explain = |error| self.explain(name, &error, Some(values));
        let template = environment.get_template(name).map_err(explain)?;
        template.render_captured_to(Value::from(Serde(values)), &mut output).map_err(explain)?;
        Ok(String::from_utf8_lossy(&output.0).into_owned())
    }

    /// The secrets that `name` and all that it includes name as `secret.…`.
    ///
    /// # Errors
    /// As [`Library::check`].
    pub fn secrets(&self, name: &str) -> Result<Secrets, AnswerError> {
        let mut seen = BTreeSet::new();
        self.walk(name, &mut Vec::new(), &mut seen)?;
        let environment = self.environment(&seen)?;
        let mut named = BTreeSet::new();
        for name in &seen {
            let explain = |error| self.explain(name, &error, None);
            let template = environment.get_template(name).map_err(explain)?;
            for variable in template.undeclared_variables(true) {
                match variable.split_once('.') {
                    Some((SECRETS, rest)) => {
                        let secret = rest.split('.').next().unwrap_or_default();
                        named.insert(secret.to_owned());
                    }
                    None if variable == SECRETS => return Ok(Secrets::Any),
                    _ => {}
                }
            }
        }
        Ok(Secrets::These(named))
    }

    /// Collects what `name` is made of; `path` is how it was reached.
    fn walk<'a>(
        &'a self,
        name: &'a str,
        path: &mut Vec<&'a str>,
        seen: &mut BTreeSet<&'a str>,
    ) -> Result<(), AnswerError> {
        let Some((name, body)) = self.0.get_key_value(name) else {
            let message = format!("there is no template '{name}'");
            return Err(AnswerError::at(name, "", 0, message));
        };
        path.push(name);
        seen.insert(name);
        for include in includes(name, body)? {
            let refuse = |message| Err(AnswerError::at(name, body, include.offset, message));
            let Some((included, _)) = self.0.get_key_value(&include.name) else {
                return refuse(format!("there is no template '{}' to include", include.name));
            };
            if path.contains(&included.as_str()) {
                let circle = path.join("' includes '");
                return refuse(format!("'{circle}' includes '{included}': that has no end"));
            }
            if path.len() == INCLUDE_DEPTH_MAX {
                return refuse(format!(
                    "templates include each other {INCLUDE_DEPTH_MAX} deep at most"
                ));
            }
            // A template that is included twice is walked again, because it may stand deeper the second time.
            self.walk(included, path, seen)?;
            if seen.len() > INCLUDES_MAX {
                return refuse(format!("a file is made of {INCLUDES_MAX} templates at most"));
            }
        }
        path.pop();
        Ok(())
    }

    fn environment(&self, names: &BTreeSet<&str>) -> Result<Environment<'_>, AnswerError> {
        let mut environment = Environment::empty();
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // A line that holds nothing but a statement leaves no empty line behind.
        environment.set_syntax(
            SyntaxConfig::builder()
                .keep_trailing_newline(true)
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .expect("the delimiters are Jinja's own"),
        );
        environment.set_recursion_limit(RECURSION_MAX);
        environment.set_fuel(Some(FUEL));
        // A debugging error holds the values that were filled in, secrets among them.
        environment.set_debug(false);
        filters::add(&mut environment);
        for (name, body) in self.0.iter().filter(|(name, _)| names.contains(name.as_str())) {
            environment
                .add_template(name, body)
                .map_err(|error| self.explain(name, &error, None))?;
        }
        Ok(environment)
    }

    /// Says what `error` means to the author of a template.
    fn explain(
        &self,
        name: &str,
        error: &minijinja::Error,
        values: Option<&serde_json::Value>,
    ) -> AnswerError {
        // An error in an included template arrives wrapped once for each level.
        let mut error = error;
        while let Some(cause) = error.source().and_then(|cause| cause.downcast_ref()) {
            error = cause;
        }
        let name = error.name().unwrap_or(name);
        let body = self.0.get(name).map(String::as_str).unwrap_or_default();
        let range = error.range().unwrap_or_default();
        let place = body.get(range.clone()).unwrap_or_default();
        let message = match error.kind() {
            ErrorKind::UndefinedError => unknown(place, values),
            ErrorKind::OutOfFuel => "this takes too long: is there a loop in a loop?".to_owned(),
            ErrorKind::WriteFailure => {
                format!("the rendered file is larger than {OUTPUT_LEN_MAX} bytes")
            }
            kind => match error.detail() {
                Some(detail) => format!("{kind}: {detail}"),
                None => kind.to_string(),
            },
        };
        let mut told = AnswerError::at(name, body, range.start, message);
        if range.start == 0
            && let Some(line) = error.line()
        {
            told.line = line;
        }
        told
    }
}

/// Says that the variable at `place` has no value, and which names are like it.
fn unknown(place: &str, values: Option<&serde_json::Value>) -> String {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._".contains(c);
    let name: String = place.chars().take_while(|c| is_name(*c)).collect();
    let mut known = Vec::new();
    if let Some(values) = values {
        names(values, "", &mut known);
    }
    let near = nearest(&name, known.iter().map(String::as_str));
    let what = if name.is_empty() { "a variable here".to_owned() } else { format!("'{name}'") };
    match near.as_str() {
        "" => format!("{what} has no value here"),
        near => format!(
            "{what} has no value here; the nearest names that have one: {near} (or say what else: | default('…'))"
        ),
    }
}

/// Those of `known` that are most like `name`, the nearest first.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let mut known: Vec<_> = known.collect();
    known.sort_by_key(|other| distance(name, other));
    known.truncate(SUGGESTIONS_MAX);
    known.join(", ")
}

/// The dotted names of everything in `values` that is no map itself.
fn names(values: &serde_json::Value, prefix: &str, known: &mut Vec<String>) {
    for (name, value) in values.as_object().into_iter().flatten() {
        let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            serde_json::Value::Object(_) => names(value, &name, known),
            _ => known.push(name),
        }
    }
}

/// Levenshtein's distance of two short texts.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, a) in one.chars().enumerate() {
        let mut diagonal = at;
        let mut left = at + 1;
        for (b, cell) in other.iter().zip(row.iter_mut().skip(1)) {
            let changed = diagonal + usize::from(a != *b);
            diagonal = *cell;
            *cell = changed.min(*cell + 1).min(left + 1);
            left = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = at + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// Which secrets a file may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secrets {
    /// Those that it names.
    These(BTreeSet<String>),
    /// Any: it reads `secret` in another way than by a name after a full stop.
    Any,
}

/// What is written, up to the limit.
struct Capped(Vec<u8>);

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_LEN_MAX {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
