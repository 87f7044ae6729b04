//! Tables for people: columns as wide as their widest cell, in plain text.

/// The lines of a table with `head` over `rows`.
pub(crate) fn lines<R: AsRef<[String]>>(head: &[&str], rows: &[R]) -> Vec<String> {
    let head: Vec<String> = head.iter().map(|&word| word.to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head.as_slice())
        .chain(rows.iter().map(R::as_ref))
        .map(|row: &[String]| row.iter().map(|cell| printable(cell)).collect())
        .collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row: &Vec<String>| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// `text` on one line and without what a terminal would obey: some of it was said by machines.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["żółć".to_owned(), "admin".to_owned()], ["a".to_owned(), "-".to_owned()]];
        assert_eq!(lines(&["name", "role"], &rows), ["name  role", "żółć  admin", "a     -"]);
    }

    #[test]
    fn what_a_terminal_would_obey_is_not_printed() {
        let rows = [["a\u{1b}[2Jb\nc".to_owned()]];
        assert_eq!(lines(&["name"], &rows), ["name", "a\u{fffd}[2Jb\u{fffd}c"]);
    }
}
