//! The filters, tests and functions that templates have: those of Jinja that work on values alone, and ours for the places
//! that values land in.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minijinja::{Environment, Error, ErrorKind, Value, filters, functions, tests};

/// Adds all of them.
pub(super) fn add(environment: &mut Environment<'_>) {
    environment.add_filter("abs", filters::abs);
    environment.add_filter("capitalize", filters::capitalize);
    environment.add_filter("default", filters::default);
    environment.add_filter("first", filters::first);
    environment.add_filter("indent", filters::indent);
    environment.add_filter("int", filters::int);
    environment.add_filter("items", filters::items);
    environment.add_filter("join", filters::join);
    environment.add_filter("last", filters::last);
    environment.add_filter("length", filters::length);
    environment.add_filter("lines", filters::lines);
    environment.add_filter("lower", filters::lower);
    environment.add_filter("replace", filters::replace);
    environment.add_filter("reverse", filters::reverse);
    environment.add_filter("round", filters::round);
    environment.add_filter("sort", filters::sort);
    environment.add_filter("split", filters::split);
    environment.add_filter("string", filters::string);
    environment.add_filter("trim", filters::trim);
    environment.add_filter("unique", filters::unique);
    environment.add_filter("upper", filters::upper);
    environment.add_filter("b64encode", b64encode);
    environment.add_filter("quote", quote);
    environment.add_filter("tojson", tojson);
    environment.add_filter("yaml", yaml);

    environment.add_test("defined", tests::is_defined);
    environment.add_test("divisibleby", tests::is_divisibleby);
    environment.add_test("endingwith", tests::is_endingwith);
    environment.add_test("even", tests::is_even);
    environment.add_test("in", tests::is_in);
    environment.add_test("mapping", tests::is_mapping);
    environment.add_test("number", tests::is_number);
    environment.add_test("odd", tests::is_odd);
    environment.add_test("sequence", tests::is_sequence);
    environment.add_test("startingwith", tests::is_startingwith);
    environment.add_test("string", tests::is_string);
    environment.add_test("undefined", tests::is_undefined);

    environment.add_function("range", functions::range);
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
