//! Points at which a test may have the process die, as by `kill -9`: between the steps of what must happen as one.
//!
//! `FAULT_POINT=settle.job:2` ends the process when it passes that point for the second time. In a release build there is
//! nothing of this.

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)+) => {
        /// A point between two steps.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point {
            $($(#[$doc])* $point,)+
        }

        impl Point {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$point,)+];

            /// As in `FAULT_POINT`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)+
                }
            }
        }
    };
}

points! {
    /// The row of a new lead is written, its batch is not.
    AcceptLead = "accept.lead",
    /// All of a lead is written, the answer that is kept for its key is not.
    AcceptJobs = "accept.jobs",
    /// All of a turn is done, and not committed.
    CommitBefore = "commit.before",
    /// It is committed, and nobody knows.
    CommitAfter = "commit.after",
    /// Jobs are leased, their call has not begun.
    LaneLeased = "lane.leased",
    /// The remote side has answered, nothing of it is written.
    LaneAnswered = "lane.answered",
    /// An outcome is written, and nobody in the process knows.
    LaneFinished = "lane.finished",
    /// Whoever waits for the batch knows, the lanes of its callbacks do not.
    LaneAnnounced = "lane.announced",
    /// An attempt is written, its delivery is not.
    SettleAttempt = "settle.attempt",
    /// A delivery has ended, its job is there.
    SettleDelivery = "settle.delivery",
    /// Its job is gone, its batch counts it as pending.
    SettleJob = "settle.job",
    /// A batch has ended, its lead has not.
    BookBatch = "book.batch",
    /// Both have ended, nothing that follows is written.
    BookLead = "book.lead",
    /// The credentials that were given for the batch are erased, its callbacks are not queued.
    EndedCredentials = "ended.credentials",
    /// A callback, fallback or notification is written, its job is not.
    EndedDelivery = "ended.delivery",
    /// Callbacks are queued, and the batch does not say so.
    EndedCallbacks = "ended.callbacks",
    /// It does, and the project's rules have not heard of its end.
    EndedTold = "ended.told",
    /// They have.
    EndedNotified = "ended.notified",
    /// A timer is forgotten, what it was for is not done.
    TimerForgotten = "timer.forgotten",
    /// Fallbacks are queued, the delivery does not say that it is late.
    TimerFallback = "timer.fallback",
    /// A notification is queued, what it tells is still to be told.
    NoticeMade = "notice.made",
    /// The rows of a task's slice are changed, its cursor stands where it stood.
    SliceRows = "slice.rows",
    /// The cursor has moved, in the same transaction.
    SliceCursor = "slice.cursor",
    /// A slice is committed, the lanes do not know.
    SliceDone = "slice.done",
}

/// Dies here, if a test wants it so.
pub fn pass(point: Point) {
    #[cfg(debug_assertions)]
    armed::pass(point);
    #[cfg(not(debug_assertions))]
    let _ = point;
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::Point;

    /// Where to die, and at which passage.
    static FAULT: LazyLock<Option<(String, u32)>> = LazyLock::new(|| {
        let text = std::env::var("FAULT_POINT").ok()?;
        let (name, passage) = text.split_once(':')?;
        Some((name.to_owned(), passage.parse().ok()?))
    });
    static PASSED: AtomicU32 = AtomicU32::new(0);

    pub(super) fn pass(point: Point) {
        if let Some((name, passage)) = &*FAULT
            && name == point.name()
            && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *passage
        {
            std::process::abort();
        }
    }
}
