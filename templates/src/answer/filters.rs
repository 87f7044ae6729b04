//! The filters, tests and functions that templates have: those of Jinja that work on values alone, and ours for the places
//! that values land in.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minijinja::{Environment, Error, ErrorKind, Value, filters, functions, tests};

/// What templates may name, and what adds it; both from one list.
macro_rules! named {
    ($names:ident, $doc:literal, $all:ident, $add:ident: $($name:literal => $value:path,)*) => {
        #[doc = $doc]
        pub(super) const $names: &[&str] = &[$($name),*];

        fn $all(environment: &mut Environment<'_>) {
            $(environment.$add($name, $value);)*
        }
    };
}

/// Adds all of them.
pub(super) fn add(environment: &mut Environment<'_>) {
    add_filters(environment);
    add_tests(environment);
    add_functions(environment);
}

named! {
    FILTERS, "What may stand behind `|`.", add_filters, add_filter:
    "abs" => filters::abs,
    "capitalize" => filters::capitalize,
    "default" => filters::default,
    "first" => filters::first,
    "indent" => filters::indent,
    "int" => filters::int,
    "items" => filters::items,
    "join" => filters::join,
    "last" => filters::last,
    "length" => filters::length,
    "lines" => filters::lines,
    "lower" => filters::lower,
    "replace" => filters::replace,
    "reverse" => filters::reverse,
    "round" => filters::round,
    "sort" => filters::sort,
    "split" => filters::split,
    "string" => filters::string,
    "trim" => filters::trim,
    "unique" => filters::unique,
    "upper" => filters::upper,
    "b64encode" => b64encode,
    "quote" => quote,
    "tojson" => tojson,
    "yaml" => yaml,
}

named! {
    TESTS, "What may stand behind `is`.", add_tests, add_test:
    "defined" => tests::is_defined,
    "divisibleby" => tests::is_divisibleby,
    "endingwith" => tests::is_endingwith,
    "even" => tests::is_even,
    "in" => tests::is_in,
    "mapping" => tests::is_mapping,
    "number" => tests::is_number,
    "odd" => tests::is_odd,
    "sequence" => tests::is_sequence,
    "startingwith" => tests::is_startingwith,
    "string" => tests::is_string,
    "undefined" => tests::is_undefined,
}

named! {
    FUNCTIONS, "What may be called.", add_functions, add_function:
    "range" => functions::range,
}

/// Base64 with padding (RFC 4648 §4).
fn b64encode(value: &Value) -> Result<String, Error> {
    Ok(STANDARD.encode(known(value)?.to_string()))
}

/// One word of a POSIX shell, whatever is in it.
fn quote(value: &Value) -> Result<String, Error> {
    Ok(format!("'{}'", known(value)?.to_string().replace('\'', r"'\''")))
}

/// Refuses a value that nobody has given.
fn known(value: &Value) -> Result<&Value, Error> {
    if value.is_undefined() {
        let detail = "what stands before the filter has no value";
        return Err(Error::new(ErrorKind::InvalidOperation, detail));
    }
    Ok(value)
}

/// JSON on one line.
fn tojson(value: &Value) -> Result<String, Error> {
    serde_json::to_string(known(value)?)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// A scalar, list or map of YAML on one line: JSON, which YAML 1.2 contains, with the characters escaped that YAML does not print.
fn yaml(value: &Value) -> Result<String, Error> {
    let mut text = String::new();
    for c in tojson(value)?.chars() {
        let is_printed = matches!(c, ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
            && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
        if is_printed {
            text.push(c);
        } else {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        }
    }
    Ok(text)
}
