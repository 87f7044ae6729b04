//! Lists in parts: how many rows, and where the next part begins.

use std::fmt;
use std::str::FromStr;

use pureboot_protocol::Page;

use crate::store::row::int;

/// The part of a list that is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Paging {
    /// Rows, at most [`Paging::LIMIT_MAX`].
    pub(crate) limit: u16,
    /// The row after which it begins; none for the first part.
    pub(crate) after: Option<Cursor>,
}

impl Paging {
    /// The most rows that one answer has.
    pub(crate) const LIMIT_MAX: u16 = 500;
    /// The rows of an answer where nothing is said.
    pub(crate) const LIMIT_DEFAULT: u16 = 100;

    /// The parameters of a keyset query in rising order: position, id, and the rows to fetch.
    pub(super) fn rising(&self) -> (i64, &str, i64) {
        let (position, id) = self.after.as_ref().map_or((-1, ""), |c| (c.position, c.id.as_str()));
        (position, id, i64::from(self.limit) + 1)
    }

    /// The parameters of a keyset query in falling order of a number: the number to stay below, and the rows to fetch.
    pub(super) fn falling(&self) -> (i64, i64) {
        (self.after.as_ref().map_or(i64::MAX, |c| c.position), i64::from(self.limit) + 1)
    }

    /// Makes a page of rows that were fetched with one more than the limit, to know whether there is a next.
    pub(super) fn page<T>(
        &self,
        mut rows: Vec<T>,
        total: u64,
        cursor: impl Fn(&T) -> Cursor,
    ) -> Page<T> {
        let limit = usize::from(self.limit);
        let has_next = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = rows.last().filter(|_| has_next).map(|row| cursor(row).to_string());
        Page { success: true, data: rows, total, next_cursor }
    }
}

/// A place in a list: the column that it is sorted by, and the id among equals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    position: i64,
    id: String,
}

impl Cursor {
    /// The place of the row with `position` and `id`.
    pub(super) fn new(position: i64, id: impl ToString) -> Self {
        Self { position, id: id.to_string() }
    }

    /// The place of the row with a number of its own.
    pub(super) fn numbered(number: u64) -> Self {
        Self::new(int(number), "")
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.position, self.id)
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (position, id) = text.split_once('.').ok_or(())?;
        Ok(Self { position: position.parse().map_err(drop)?, id: id.to_owned() })
    }
}
