//! Statements about many rows at once.

/// Rows of one statement, at most.
pub(super) const ROWS_MAX: usize = 256;
/// So many rows or fewer are one statement: each is a way to the database and back, and most batches are short.
const ONE_PIECE_MAX: usize = 16;

/// `items` in pieces of at most [`ROWS_MAX`]. The lengths of long ones are powers of two, so that there are few different statements
/// and the database knows them all.
pub(super) fn pieces<T>(mut items: &[T]) -> Vec<&[T]> {
    let mut pieces = Vec::new();
    while !items.is_empty() {
        let len = match items.len() {
            few @ ..=ONE_PIECE_MAX => few,
            many => 1 << many.min(ROWS_MAX).ilog2(),
        };
        let (piece, rest) = items.split_at(len);
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
    fn long_pieces_are_powers_of_two_and_the_rest_is_one() {
        let lens = |len| pieces(&vec![(); len]).iter().map(|piece| piece.len()).collect::<Vec<_>>();
        assert_eq!(lens(0), [0; 0]);
        assert_eq!(lens(10), [10]);
        assert_eq!(lens(23), [16, 7]);
        assert_eq!(lens(1_000), [256, 256, 256, 128, 64, 32, 8]);
    }
}
