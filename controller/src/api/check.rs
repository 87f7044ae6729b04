//! Rules for fields that more than one resource has.

use pureboot_protocol::FieldError;

use crate::error::ApiError;

/// What is wrong with a request, field by field, collected so that the client reads all of it at once.
#[derive(Debug, Default)]
pub(crate) struct Check {
    errors: Vec<FieldError>,
}

/// The longest name, in characters.
const NAME_LEN_MAX: usize = 100;
/// The longest name of a person, in characters.
const USER_NAME_LEN_MAX: usize = 64;
/// The longest free text, in characters.
const TEXT_LEN_MAX: usize = 2_000;
/// The longest address of an agent, in characters.
const URL_LEN_MAX: usize = 500;
/// The most entries of a list.
const LIST_LEN_MAX: usize = 100;
/// The longest name that templates write, in characters.
const VARIABLE_LEN_MAX: usize = 50;
/// The longest tag, in characters.
const TAG_LEN_MAX: usize = 50;

impl Check {
    /// Notes `message` for `field` unless `is_valid`.
    pub(crate) fn require(&mut self, field: &str, is_valid: bool, message: impl ToString) {
        if !is_valid {
            self.errors.push(FieldError { field: field.to_owned(), message: message.to_string() });
        }
    }

    /// A name that can be a segment of a path.
    pub(crate) fn name(&mut self, name: &str) {
        let is_valid = (1..=NAME_LEN_MAX).contains(&name.chars().count())
            && name.trim() == name
            && !name.contains(|c: char| c == '/' || c.is_control());
        let message =
            format!("expected 1 to {NAME_LEN_MAX} characters, no '/', no space at its ends");
        self.require("name", is_valid, message);
    }

    /// A person's name. It is in logs and lists where it must look like no other and like nothing else: no '/', nothing
    /// invisible, nothing that turns the direction of text, no marks that another letter has in it already.
    pub(crate) fn user_name(&mut self, field: &str, name: &str) {
        let is_misleading = |c: char| {
            c == '/'
                || c.is_control()
                || matches!(c, '\u{300}'..='\u{36f}' | '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}')
                || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        };
        let is_valid = (1..=USER_NAME_LEN_MAX).contains(&name.chars().count())
            && name.trim() == name
            && !name.contains(is_misleading);
        let message = format!(
            "expected 1 to {USER_NAME_LEN_MAX} visible characters, no '/', no space at its ends, no combining marks"
        );
        self.require(field, is_valid, message);
    }

    /// A name that a template can write behind a dot.
    pub(crate) fn variable(&mut self, field: &str, name: &str) {
        let is_valid = (1..=VARIABLE_LEN_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && !name.starts_with(|c: char| c.is_ascii_digit());
        let message = format!(
            "expected 1 to {VARIABLE_LEN_MAX} of a-z, 0-9 and '_', the first no digit, so that templates can name it"
        );
        self.require(field, is_valid, message);
    }

    /// A text for people.
    pub(crate) fn text(&mut self, field: &str, text: &str) {
        let is_valid = text.chars().count() <= TEXT_LEN_MAX
            && !text.contains(|c: char| c.is_control() && c != '\n' && c != '\t');
        self.require(
            field,
            is_valid,
            format!("expected at most {TEXT_LEN_MAX} printable characters"),
        );
    }

    /// The address of an agent, which is kept as a text and never called. A page may show it as a link, so it is none that a
    /// browser would run.
    pub(crate) fn agent_url(&mut self, url: &str) {
        let is_valid = url.chars().count() <= URL_LEN_MAX
            && !url.contains(char::is_control)
            && (url.is_empty() || url.starts_with("http://") || url.starts_with("https://"));
        let message =
            format!("expected http:// or https:// and at most {URL_LEN_MAX} printable characters");
        self.require("agent_url", is_valid, message);
    }

    /// Tags, which are made lower-case, sorted and unique.
    pub(crate) fn tags(&mut self, tags: &mut Vec<String>) {
        self.list("tags", tags);
        for (at, tag) in tags.iter_mut().enumerate() {
            self.tag(&format!("tags[{at}]"), tag);
        }
        tags.sort();
        tags.dedup();
    }

    /// A tag, which is made lower-case.
    pub(crate) fn tag(&mut self, field: &str, tag: &mut str) {
        let is_valid = (1..=TAG_LEN_MAX).contains(&tag.len())
            && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        let message = format!("expected 1 to {TAG_LEN_MAX} of A-Z, a-z, 0-9, '_' and '-'");
        self.require(field, is_valid, message);
        tag.make_ascii_lowercase();
    }

    /// A list of a sensible length with entries of a sensible length.
    pub(crate) fn list(&mut self, field: &str, list: &[String]) {
        let is_valid = list.len() <= LIST_LEN_MAX
            && list.iter().all(|entry| entry.chars().count() <= TEXT_LEN_MAX);
        self.require(field, is_valid, format!("expected at most {LIST_LEN_MAX} entries"));
    }

    /// Ends the check.
    ///
    /// # Errors
    /// 422 with all that was noted.
    pub(crate) fn done(self) -> Result<(), ApiError> {
        if self.errors.is_empty() { Ok(()) } else { Err(ApiError::Invalid(self.errors)) }
    }
}
