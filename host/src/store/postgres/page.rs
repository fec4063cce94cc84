//! Pages of rows that may be large: bounded in rows and in bytes, before the rows are read.

/// Most bytes of a page's large columns; a page has one row at least.
const PAGE_BYTES: i64 = 4 * 1024 * 1024;

/// Room for rows on a page.
pub(super) struct Room {
    rows: u32,
    bytes: i64,
    empty: bool,
}

impl Room {
    pub(super) fn new(rows: u32) -> Self {
        Self { rows, bytes: PAGE_BYTES, empty: true }
    }

    /// Whether a row with so many bytes still goes on the page; then it takes its room.
    pub(super) fn takes(&mut self, bytes: i64) -> bool {
        if self.rows == 0 || (bytes > self.bytes && !self.empty) {
            return false;
        }
        (self.rows, self.bytes, self.empty) = (self.rows - 1, self.bytes.saturating_sub(bytes).max(0), false);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_one_row_however_large_and_no_more_than_fit() {
        let mut room = Room::new(3);
        assert!(room.takes(PAGE_BYTES * 2) && !room.takes(1) && room.takes(0) && room.takes(0) && !room.takes(0));
        let mut room = Room::new(3);
        assert!(room.takes(PAGE_BYTES / 2) && room.takes(PAGE_BYTES / 2) && !room.takes(1));
    }
}
