//! What commands print for scripts. Every type is written, and read, one way in all of the agent: each other way would be compiled for
//! each type again, and a router's flash is small.

use anyhow::Context as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// `value` as JSON, a member a line, with a line feed at its end.
///
/// # Errors
/// It cannot be written as JSON.
pub(super) fn pretty<T: Serialize>(value: &T) -> anyhow::Result<String> {
    Ok(broken_into_lines(&serde_json::to_string(value)?))
}

/// What another value was written from: an answer that is shown to people after it was read for scripts.
///
/// # Errors
/// The agent that answered is of another version.
pub(super) fn typed<T: DeserializeOwned>(value: &Value) -> anyhow::Result<T> {
    serde_json::from_slice(&serde_json::to_vec(value)?).context("another version's answer")
}

/// Compact JSON, indented as `serde_json` does it.
fn broken_into_lines(json: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let (mut depth, mut is_in_string, mut is_escaped) = (0_usize, false, false);
    let mut next = json.chars().peekable();
    let begin_line = |text: &mut String, depth: usize| {
        text.push('\n');
        text.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(char) = next.next() {
        if is_in_string {
            text.push(char);
            is_in_string = is_escaped || char != '"';
            is_escaped = !is_escaped && char == '\\';
            continue;
        }
        match char {
            '{' | '[' => {
                text.push(char);
                match next.next_if(|char| matches!(char, '}' | ']')) {
                    Some(end) => text.push(end),
                    None => {
                        depth += 1;
                        begin_line(&mut text, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                begin_line(&mut text, depth);
                text.push(char);
            }
            ',' => {
                text.push(char);
                begin_line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            _ => {
                is_in_string = char == '"';
                text.push(char);
            }
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_for_scripts_looks_as_serde_json_writes_it() {
        for value in [
            json!({}),
            json!([]),
            json!("a"),
            json!([1, -2.5, null, true, {"a": [], "b": {}, "c": [[], [1]]}]),
            json!({"a:b,{": "quoted \" and \\", "end\\": ["}", "[\"]", ", : \u{e9}\n"]}),
        ] {
            let wanted = serde_json::to_string_pretty(&value).unwrap() + "\n";
            assert_eq!(pretty(&value).unwrap(), wanted);
        }
    }
}
