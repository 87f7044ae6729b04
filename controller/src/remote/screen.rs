//! How answers are shown: tables and lines for people, the API's data for programs.

use std::fmt::Write as _;

use anyhow::Context;
use serde_json::Value;

use crate::config::UsageError;
use crate::{print_line, table};

/// A column of a table.
#[derive(Debug)]
pub(crate) struct Column {
    head: &'static str,
    /// The field that it shows; dots lead into objects.
    field: &'static str,
    form: Form,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Plain,
    Bytes,
}

impl Column {
    /// Shows a field as it is.
    pub(crate) const fn plain(head: &'static str, field: &'static str) -> Self {
        Self { head, field, form: Form::Plain }
    }

    /// Shows a number of bytes.
    pub(crate) const fn bytes(head: &'static str, field: &'static str) -> Self {
        Self { head, field, form: Form::Bytes }
    }

    fn cell(&self, row: &Value) -> String {
        let value = at(row, self.field);
        match (self.form, value.and_then(Value::as_u64)) {
            (Form::Bytes, Some(bytes)) => size(bytes),
            _ => shown(value.unwrap_or(&Value::Null)),
        }
    }
}

/// Where answers go: stdout.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    /// Whether a program reads them.
    pub(crate) is_json: bool,
}

impl Screen {
    /// Shows a list.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn rows(self, rows: &[Value], columns: &[Column]) -> anyhow::Result<()> {
        if self.is_json {
            return self.json(&rows);
        }
        lines(rows, columns).iter().try_for_each(|line| print_line(line))
    }

    /// Shows one thing with all its fields, those in `first` before the others; or `field` alone, if one is wanted.
    ///
    /// # Errors
    /// It has no such field, or cannot be written.
    pub(crate) fn thing(
        self,
        thing: &Value,
        first: &[&str],
        field: Option<&str>,
    ) -> anyhow::Result<()> {
        match field {
            Some(field) => {
                let value = at(thing, field).ok_or_else(|| {
                    let known: Vec<_> =
                        details(thing, first).into_iter().map(|[name, _]| name).collect();
                    UsageError::new(format!(
                        "there is no field '{field}'; there are {}",
                        known.join(", ")
                    ))
                })?;
                if self.is_json { self.json(value) } else { print_line(&shown(value)) }
            }
            None if self.is_json => self.json(thing),
            None => {
                let lines = table::lines(&[], &details(thing, first));
                lines.iter().filter(|line| !line.is_empty()).try_for_each(|line| print_line(line))
            }
        }
    }

    /// Says what has become of `thing`.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn done(self, thing: &Value, sentence: &str) -> anyhow::Result<()> {
        if self.is_json { self.json(thing) } else { print_line(sentence) }
    }

    /// Shows `data` to a program.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn json(self, data: &impl serde::Serialize) -> anyhow::Result<()> {
        print_line(&serde_json::to_string(data).context("cannot write JSON")?)
    }
}

/// The value at `path`, a field with dots that lead into objects.
fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, name| value.get(name))
}

fn lines(rows: &[Value], columns: &[Column]) -> Vec<String> {
    let head: Vec<_> = columns.iter().map(|column| column.head).collect();
    let cells = |row: &Value| columns.iter().map(|column| column.cell(row)).collect::<Vec<_>>();
    table::lines(&head, &rows.iter().map(cells).collect::<Vec<_>>())
}

/// Every field of `thing` with its value, objects taken apart.
fn details(thing: &Value, first: &[&str]) -> Vec<[String; 2]> {
    fn collect(value: &Value, path: &str, found: &mut Vec<[String; 2]>) {
        match value {
            Value::Object(members) if !members.is_empty() => {
                for (name, member) in members {
                    let path =
                        if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    collect(member, &path, found);
                }
            }
            _ => found.push([path.to_owned(), shown(value)]),
        }
    }
    let mut found = Vec::new();
    collect(thing, "", &mut found);
    let place = |name: &str| first.iter().position(|&known| known == name).unwrap_or(first.len());
    found.sort_by_key(|[name, _]| place(name));
    found
}

/// A value for people; nothing is a dash.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(flag) => if *flag { "yes" } else { "no" }.to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Array(values) if values.is_empty() => "-".to_owned(),
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(","),
        Value::Object(members) if members.is_empty() => "-".to_owned(),
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| format!("{name}={}", shown(value));
            members.iter().map(member).collect::<Vec<_>>().join(" ")
        }
    }
}

/// A number of bytes for people, in units of 1,000.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    // Tenths of a unit; whatever is rounded up to 1,000 belongs to the next unit.
    let mut tenths = (u128::from(bytes) + 50) / 100;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while tenths >= 10_000 {
        tenths = (tenths + 500) / 1_000;
        unit = units.next();
    }
    let mut text = String::new();
    // Writing to a text does not fail.
    _ = write!(text, "{}.{} {}", tenths / 10, tenths % 10, unit.unwrap_or(&"EB"));
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_shows_what_is_and_a_dash_for_what_is_not() {
        let rows = [
            json!({"path": "/emea", "agent": {"version": "0.1.0"}, "tags": ["a", "b"], "size": 1_999}),
            json!({"path": "/us", "agent": null, "tags": [], "size": null}),
        ];
        let columns = [
            Column::plain("PATH", "path"),
            Column::plain("VERSION", "agent.version"),
            Column::plain("TAGS", "tags"),
            Column::bytes("SIZE", "size"),
        ];
        expect![[r#"
            PATH   VERSION  TAGS  SIZE
            /emea  0.1.0    a,b   2.0 kB
            /us    -        -     -"#]]
        .assert_eq(&lines(&rows, &columns).join("\n"));
    }

    #[test]
    fn all_fields_of_a_thing_are_told_and_the_important_ones_first() {
        let thing =
            json!({"b": 1, "a": true, "path": "/x", "c": {"e": [], "d": "y"}, "f": {}, "id": "7"});
        let told: Vec<_> =
            details(&thing, &["path", "id"]).iter().map(|pair| pair.join("=")).collect();
        assert_eq!(told, ["path=/x", "id=7", "a=yes", "b=1", "c.d=y", "c.e=-", "f=-"]);
    }

    #[test]
    fn sizes_have_four_digits_at_most() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_049, "1.0 kB"),
            (1_050, "1.1 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (45_600_000, "45.6 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
