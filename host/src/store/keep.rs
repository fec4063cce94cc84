//! What is asked and answered when things are removed: for their age, or with a person.

use super::Changed;
use crate::model::{DeliveryId, ErasureId, LeadId, Person, ProjectId, Removed, Timestamp};

/// Which rows of a project are too old, and where to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prune<Place> {
    #[allow(missing_docs)]
    pub project: ProjectId,
    /// Older ones go.
    pub before: Timestamp,
    /// Where the slice before ended.
    pub after: Option<Place>,
    /// Rows looked at, at most.
    pub limit: u32,
}

/// Leads that were too old.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrunedLeads {
    #[allow(missing_docs)]
    pub removed: Removed,
    /// Where to go on; `None`: no more are old enough.
    pub next: Option<LeadId>,
}

/// Attempts that were too old.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrunedAttempts {
    /// How many were removed.
    pub attempts: u64,
    /// Where to go on; `None`: no more are old enough.
    pub next: Option<DeliveryId>,
    /// The first delivery looked at that has attempts left, or goes on: a later clean-up has to look at it again.
    pub left: Option<DeliveryId>,
    /// The last delivery looked at.
    pub last: Option<DeliveryId>,
}

/// The next step of an erasure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EraseStep {
    #[allow(missing_docs)]
    pub erasure: ErasureId,
    /// Who is erased.
    pub person: Person,
    /// Leads of one step at most.
    pub limit: u32,
    #[allow(missing_docs)]
    pub now: Timestamp,
}

/// What a step did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Erased {
    /// Nothing is left: the receipt is complete.
    pub done: bool,
    /// The step could not be made now; the same step may work a moment later.
    pub later: bool,
    /// One entry for each batch that was removed while something of it was under way: as if it had been cancelled.
    pub batches: Vec<Changed>,
}
