//! How many jobs there are: counted once when the store is opened, then by what each transaction adds and removes. Room for what an
//! intake will add is taken before it is written, so that intakes which run at the same time keep the limit together.

use std::sync::atomic::{AtomicI64, Ordering};

/// Jobs, and the most there may be for new leads to be taken.
pub(super) struct Backlog {
    jobs: AtomicI64,
    reserved: AtomicI64,
    most: i64,
}

impl Backlog {
    pub(super) fn new(jobs: i64, most: u64) -> Self {
        Self { jobs: AtomicI64::new(jobs), reserved: AtomicI64::new(0), most: i64::try_from(most).unwrap_or(i64::MAX) }
    }

    pub(super) fn now(&self) -> u64 {
        self.jobs.load(Ordering::Relaxed).max(0) as u64
    }

    /// A transaction was committed.
    pub(super) fn add(&self, jobs: i64) {
        self.jobs.fetch_add(jobs, Ordering::Relaxed);
    }

    /// Room for so many; none always fit.
    pub(super) fn reserve(&self, jobs: u64) -> Option<Reserved<'_>> {
        let jobs = i64::try_from(jobs).ok()?;
        let before = self.reserved.fetch_add(jobs, Ordering::Relaxed);
        let room = Reserved { backlog: self, jobs };
        let fits = jobs == 0 || self.jobs.load(Ordering::Relaxed).saturating_add(before).saturating_add(jobs) <= self.most;
        // Dropped, it is given back.
        fits.then_some(room)
    }
}

/// Room that was taken. To be dropped once what it was taken for is counted, or will never be.
pub(super) struct Reserved<'a> {
    backlog: &'a Backlog,
    jobs: i64,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.backlog.reserved.fetch_sub(self.jobs, Ordering::Relaxed);
    }
}
