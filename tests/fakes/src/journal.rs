//! What a fake has received, with a way to wait for more of it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// Older entries are dropped past this many, so that a fake left running stays small.
const KEPT: usize = 200_000;
/// How long [`Journal::wait_for`] waits in real time before it calls the test failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A list that can be waited on.
#[derive(Debug)]
pub(crate) struct Journal<T> {
    entries: Mutex<Vec<T>>,
    total: watch::Sender<usize>,
}

impl<T: Clone> Journal<T> {
    pub(crate) fn new() -> Self {
        Self { entries: Mutex::new(Vec::new()), total: watch::Sender::new(0) }
    }

    pub(crate) fn push(&self, entry: T) {
        let mut entries = lock(&self.entries);
        if entries.len() == KEPT {
            entries.drain(..KEPT / 2);
        }
        entries.push(entry);
        drop(entries);
        self.total.send_modify(|total| *total += 1);
    }

    pub(crate) fn all(&self) -> Vec<T> {
        lock(&self.entries).clone()
    }

    pub(crate) fn clear(&self) {
        let mut entries = lock(&self.entries);
        entries.clear();
        drop(entries);
        self.total.send_replace(0);
    }

    /// Returns everything once at least `count` entries have come.
    ///
    /// # Panics
    /// When they have not come after a minute of real time.
    #[expect(clippy::panic, reason = "a test that waits in vain has failed")]
    pub(crate) async fn wait_for(&self, count: usize) -> Vec<T> {
        let mut total = self.total.subscribe();
        // What the wait gives holds a lock, which must not be held while the entries are locked.
        let in_time = tokio::time::timeout(PATIENCE, total.wait_for(|total| *total >= count)).await.is_ok();
        if !in_time {
            panic!("waited {} s for {count} entries, got {}", PATIENCE.as_secs(), self.all().len());
        }
        self.all()
    }
}

/// Locks, whatever became of an earlier holder: a failed test must not hide behind a poisoned lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
