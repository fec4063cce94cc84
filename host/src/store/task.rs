//! One slice of a task: what it does to rows, and the step of its cursor, in one transaction.

use super::{Changed, Intake};
use crate::model::{CredentialId, DeliveryId, TaskError, TaskId, Timestamp};

/// What one slice does to the rows it passes.
pub enum SliceWork {
    /// Queues these again in the bulk lanes, else as [`super::Store::retry_delivery`] does. Those that are not failed, in doubt or cancelled stay, and
    /// those that ended after the task was made: they were tried again meanwhile.
    Retry(Vec<DeliveryId>),
    /// Cancels those of these that are queued and not being sent.
    Cancel(Vec<DeliveryId>),
    /// Sends these again, by the bulk lanes. Leads that have got a batch since the task was made stay, and those that are gone stay gone.
    Send(Vec<Intake>),
}

/// One slice.
pub struct Slice {
    #[allow(missing_docs)]
    pub task: TaskId,
    /// Where the task must stand; it stands elsewhere when the slice was done before.
    pub from: Option<Vec<u8>>,
    /// Where it stands afterwards; `None`: at its end, so it is completed.
    pub to: Option<Vec<u8>>,
    #[allow(missing_docs)]
    pub work: SliceWork,
    /// Rows looked at, those with errors included.
    pub looked_at: u32,
    /// Rows that could not be worked on.
    pub errors: Vec<TaskError>,
    #[allow(missing_docs)]
    pub now: Timestamp,
}

/// What a slice did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sliced {
    /// Rows something was done for.
    pub changed: u32,
    /// One entry for each batch that changed.
    pub batches: Vec<Changed>,
    /// Lanes that have something due now: bulk lanes.
    pub due: Vec<CredentialId>,
}

/// The most errors that a task keeps.
pub const KEPT_ERRORS: usize = 20;
