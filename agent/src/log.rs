//! Log lines on standard error: a time, a level, a sentence, and fields to search for.
//!
//! Whatever reaches a line may have come from the network, so control characters are escaped and a line is cut at
//! 2,048 bytes.

use std::fmt::Write as _;
use std::io::Write as _;
use std::str::FromStr;

use anyhow::Context as _;
use log::kv::{Error, Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};

use crate::clock;

/// The environment variable that sets the level: `error`, `warn`, `info`, `debug` or `trace`.
pub const LEVEL_VARIABLE: &str = "PUREBOOT_LOG";

/// The longest line, in bytes.
const LINE_LEN_MAX: usize = 2_048;

struct StandardError;

/// Sends log lines of the chosen level to standard error from now on.
///
/// # Errors
/// The variable holds no level, or another logger is installed already.
pub fn install() -> anyhow::Result<()> {
    let level = match std::env::var(LEVEL_VARIABLE) {
        Ok(word) => LevelFilter::from_str(&word).with_context(|| {
            format!("{LEVEL_VARIABLE}='{word}' is none of error, warn, info, debug, trace")
        })?,
        Err(_) => LevelFilter::Info,
    };
    log::set_logger(&StandardError).context("a second logger cannot be installed")?;
    log::set_max_level(level);
    Ok(())
}

impl Log for StandardError {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("pureboot") || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut line = format!("{} {:<5} ", clock::now(), record.level());
        escape_into(&mut line, &record.args().to_string());
        // A field that cannot be written is left out; the sentence stands.
        let _ = record.key_values().visit(&mut Fields(&mut line));
        line.push('\n');
        // There is nobody to tell that the log is gone.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

struct Fields<'line>(&'line mut String);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let text = value.to_string();
        _ = write!(self.0, " {key}=");
        if text.is_empty() || text.contains([' ', '"', '=']) {
            self.0.push('"');
            escape_into(self.0, &text.replace('"', "\\\""));
            self.0.push('"');
        } else {
            escape_into(self.0, &text);
        }
        Ok(())
    }
}

/// Appends `text` with control characters escaped, as far as the line has room.
fn escape_into(line: &mut String, text: &str) {
    for c in text.chars() {
        if line.len() >= LINE_LEN_MAX {
            line.push('…');
            return;
        }
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h21_a_line_stays_one_line() {
        let mut line = String::new();
        escape_into(&mut line, "a\r\nb\x1b[31mc");
        assert_eq!(line, "a\\r\\nb\\u{1b}[31mc");
    }

    #[test]
    fn h21_a_line_has_an_end() {
        let mut line = String::new();
        escape_into(&mut line, &"x".repeat(1 << 20));
        assert!(line.len() <= LINE_LEN_MAX + '…'.len_utf8());
    }
}
