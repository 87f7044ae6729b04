//! Statements about many rows at once.

/// Rows of one statement, at most.
pub(super) const ROWS_MAX: usize = 64;

/// `items` in pieces of at most [`ROWS_MAX`]. Their lengths are powers of two, so that there are few different statements and the
/// database knows them all.
pub(super) fn pieces<T>(mut items: &[T]) -> Vec<&[T]> {
    let mut pieces = Vec::new();
    while !items.is_empty() {
        let (piece, rest) = items.split_at(1 << items.len().min(ROWS_MAX).ilog2());
        pieces.push(piece);
        items = rest;
    }
    pieces
}

/// `VALUES` with parameters, row by row.
pub(super) fn values(rows: usize, columns: usize) -> String {
    let mut sql = String::with_capacity(8 + rows * columns * 5);
    for row in 0..rows {
        sql.push_str(if row == 0 { "VALUES (" } else { ", (" });
        for column in 0..columns {
            let separator = if column == 0 { "$" } else { ", $" };
            sql.push_str(separator);
            sql.push_str(&(row * columns + column + 1).to_string());
        }
        sql.push(')');
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_numbered_row_by_row() {
        assert_eq!(values(1, 2), "VALUES ($1, $2)");
        assert_eq!(values(2, 3), "VALUES ($1, $2, $3), ($4, $5, $6)");
    }

    #[test]
    fn pieces_are_powers_of_two() {
        let lens = |len| pieces(&vec![(); len]).iter().map(|piece| piece.len()).collect::<Vec<_>>();
        assert_eq!(lens(0), [0; 0]);
        assert_eq!(lens(23), [16, 4, 2, 1]);
        assert_eq!(lens(200), [64, 64, 64, 8]);
    }
}
