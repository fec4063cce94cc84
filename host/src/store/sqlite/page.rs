//! Pages of rows that may be large: bounded in rows and in bytes, while they are read and not after.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::store::StoreError;

/// Most bytes of a page's large columns; a page has one row at least.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Rows that a connection reads ahead of whoever takes them.
pub(super) const READ_AHEAD: usize = 4;

/// What a page shows of each row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    pub(super) sql: &'static str,
    /// Those that may be long texts, by number.
    pub(super) large: &'static [usize],
}

/// Room for rows on a page.
pub(super) struct Room {
    rows: u32,
    bytes: usize,
    large: &'static [usize],
    empty: bool,
}

impl Room {
    pub(super) fn new(rows: u32, columns: Columns) -> Self {
        Self { rows, bytes: PAGE_BYTES, large: columns.large, empty: true }
    }

    /// Whether there is room for one more row, however large.
    pub(super) fn is_full(&self) -> bool {
        self.rows == 0
    }

    /// Whether this row still goes on the page; then it takes its room.
    pub(super) fn takes(&mut self, row: &SqliteRow) -> Result<bool, StoreError> {
        let mut bytes = 0;
        for column in self.large {
            bytes += row.try_get::<Option<&str>, _>(*column)?.map_or(0, str::len);
        }
        if self.is_full() || (bytes > self.bytes && !self.empty) {
            return Ok(false);
        }
        (self.rows, self.bytes, self.empty) = (self.rows - 1, self.bytes.saturating_sub(bytes), false);
        Ok(true)
    }
}
