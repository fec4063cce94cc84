//! What is done about the database's files after persons were erased: removed rows are overwritten as they go
//! (`secure_delete`), but copies stand in the write-ahead log, and in the unused parts of pages from which rows had moved.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::direct::Direct;

/// The largest database that is rewritten for it. Leads wait while that is done: this much takes a fraction of a second,
/// and as much memory.
const REWRITTEN_BYTES: i64 = 64 << 20;

/// Whether the files are to be tidied when the running transaction is committed, and how often that was done.
#[derive(Default)]
pub(super) struct Tidy {
    asked: AtomicBool,
    done: AtomicU64,
}

impl Tidy {
    /// After this transaction.
    pub(super) fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    /// To be called by the writer between two transactions.
    pub(super) fn run(&self, db: &Direct) {
        if !self.asked.swap(false, Ordering::Relaxed) {
            return;
        }
        match db.tidy(REWRITTEN_BYTES) {
            Ok(true) => drop(self.done.fetch_add(1, Ordering::Release)),
            Ok(false) => tracing::debug!("the write-ahead log is being read; it is emptied a moment later"),
            Err(error) => tracing::warn!(%error, "the database's files could not be tidied after an erasure; tried again"),
        }
    }
}
