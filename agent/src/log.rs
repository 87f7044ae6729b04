//! Log lines on standard error: a time, a level, a sentence, and fields to search for.
//!
//! Whatever reaches a line may have come from the network, so control characters are escaped and a line is cut at
//! 2,048 bytes.

use std::fmt::Write as _;
use std::io::Write as _;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use log::kv::{Error, Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};

use crate::clock;

/// The environment variable that sets the level: `error`, `warn`, `info`, `debug` or `trace`.
pub const LEVEL_VARIABLE: &str = "PUREBOOT_LOG";

/// The longest line, in bytes.
const LINE_LEN_MAX: usize = 2_048;

/// Lines in one second; what a flood of requests adds to them is counted and not written.
const LINES_PER_SECOND_MAX: u32 = 200;

/// Writes lines, and no more of them than a disk can hold.
struct StandardError {
    pace: Mutex<Pace>,
}

static LOGGER: StandardError = StandardError { pace: Mutex::new(Pace::new()) };

/// How many lines the present second has.
#[derive(Debug, PartialEq, Eq)]
struct Pace {
    second: i64,
    lines: u32,
    dropped: u64,
}

impl Pace {
    const fn new() -> Self {
        Self { second: 0, lines: 0, dropped: 0 }
    }

    /// Whether a line may be written in this second, and how many were dropped before it.
    fn take(&mut self, second: i64) -> Option<u64> {
        if self.second != second {
            self.second = second;
            self.lines = 0;
        }
        if self.lines >= LINES_PER_SECOND_MAX {
            self.dropped += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.dropped))
    }
}

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
    log::set_logger(&LOGGER).context("a second logger cannot be installed")?;
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
        let now = clock::now();
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(dropped) = pace.take(now.unix_ms() / 1_000) else { return };
        drop(pace);
        let mut line = String::new();
        if dropped > 0 {
            _ = writeln!(
                line,
                "{now} WARN  {dropped} log lines were dropped, more than {LINES_PER_SECOND_MAX} came in a second"
            );
        }
        _ = write!(line, "{now} {:<5} ", record.level());
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
    fn i7_a_flood_of_lines_is_cut_and_counted() {
        let mut pace = Pace::new();
        let written = (0..1_000).filter(|_| pace.take(7).is_some()).count();
        assert_eq!(written, 200);
        assert_eq!(pace.take(8), Some(800));
        assert_eq!(pace.take(8), Some(0));
    }

    #[test]
    fn h21_a_line_has_an_end() {
        let mut line = String::new();
        escape_into(&mut line, &"x".repeat(1 << 20));
        assert!(line.len() <= LINE_LEN_MAX + '…'.len_utf8());
    }
}
