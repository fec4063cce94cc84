//! How many rows travel in one statement: ids packed side by side in one blob, the rest as one JSON array.
//!
//! `json_each` numbers the rows, `substr` cuts the ids out, so the statement's text is constant and needs one trip.

use serde::Serialize;
use uuid::Uuid;

use crate::store::StoreError;

/// Rows on their way into a statement.
pub(super) struct Rows {
    json: Vec<u8>,
    ids: Vec<u8>,
    heap: Vec<u8>,
}

impl Default for Rows {
    fn default() -> Self {
        Self { json: vec![b'['], ids: Vec::new(), heap: Vec::new() }
    }
}

impl Rows {
    pub(super) fn is_empty(&self) -> bool {
        self.json.len() == 1
    }

    /// Adds a row: its ids, always as many, and its other columns.
    pub(super) fn push(&mut self, ids: &[Uuid], columns: &impl Serialize) -> Result<(), StoreError> {
        for id in ids {
            self.ids.extend_from_slice(id.as_bytes());
        }
        self.push_bytes(&[], columns)
    }

    /// Adds a row whose key is bytes of a fixed length.
    pub(super) fn push_bytes(&mut self, key: &[u8], columns: &impl Serialize) -> Result<(), StoreError> {
        self.ids.extend_from_slice(key);
        if !self.is_empty() {
            self.json.push(b',');
        }
        serde_json::to_writer(&mut self.json, columns).map_err(|error| StoreError::Defect(format!("a row cannot be written: {error}")))
    }

    /// Puts a long text aside, unescaped; the row carries where it starts and how long it is.
    pub(super) fn aside(&mut self, text: &[u8]) -> (usize, usize) {
        let start = self.heap.len();
        self.heap.extend_from_slice(text);
        (start, text.len())
    }

    /// The three parameters: the JSON array, the ids, the texts put aside.
    pub(super) fn take(&mut self) -> (String, Vec<u8>, Vec<u8>) {
        let Self { mut json, ids, heap } = std::mem::take(self);
        json.push(b']');
        // serde_json writes UTF-8 only; were it not so, SQLite would refuse the text.
        (String::from_utf8(json).unwrap_or_default(), ids, heap)
    }
}

/// Ids of one kind as parameters of `json_each($1)` (a number for each) and `substr($2, 16 * key + 1, 16)`.
pub(super) fn ids(ids: impl Iterator<Item = Uuid>) -> (String, Vec<u8>) {
    let mut packed = Vec::new();
    let mut numbers = String::from("[");
    for id in ids {
        numbers.push_str(if packed.is_empty() { "0" } else { ",0" });
        packed.extend_from_slice(id.as_bytes());
    }
    numbers.push(']');
    (numbers, packed)
}
