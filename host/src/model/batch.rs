//! A batch: the deliveries made by one send call.

use serde::{Deserialize, Serialize};

use super::{BatchId, Callbacks, CredentialId, DeliveryStatus, LeadId, NoticeKind, ProjectId, Timestamp};

/// How many deliveries of a batch are in which state. `total` is the sum of the others in every committed state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BatchCounts {
    #[allow(missing_docs)]
    pub total: u32,
    /// Queued or sending.
    pub pending: u32,
    #[allow(missing_docs)]
    pub delivered: u32,
    #[allow(missing_docs)]
    pub skipped: u32,
    #[allow(missing_docs)]
    pub failed: u32,
    #[allow(missing_docs)]
    pub in_doubt: u32,
    #[allow(missing_docs)]
    pub cancelled: u32,
}

impl BatchCounts {
    /// The counter that a delivery in `status` belongs to.
    pub fn of(&mut self, status: DeliveryStatus) -> &mut u32 {
        match status {
            DeliveryStatus::Queued | DeliveryStatus::Sending => &mut self.pending,
            DeliveryStatus::Delivered => &mut self.delivered,
            DeliveryStatus::Skipped => &mut self.skipped,
            DeliveryStatus::Failed => &mut self.failed,
            DeliveryStatus::InDoubt => &mut self.in_doubt,
            DeliveryStatus::Cancelled => &mut self.cancelled,
        }
    }
}

/// What the send call asked for, kept with the batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchOptions {
    /// `false`: the first failure cancels what has not been sent.
    pub allow_failures: bool,
    /// Who is told of its end.
    #[serde(skip_serializing_if = "Callbacks::is_empty")]
    pub callbacks: Callbacks,
    /// Credentials that were given for this batch alone; erased when it ends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inline: Vec<CredentialId>,
    /// Endings that the project wanted to be told of when the batch was made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<NoticeKind>,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self { allow_failures: true, callbacks: Callbacks::default(), inline: Vec::new(), notify: Vec::new() }
    }
}

/// The state of a batch. All but `Pending` are terminal; only a retry or resend by hand leaves them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchStatus {
    /// Deliveries are still under way.
    Pending,
    /// All delivered or skipped.
    Completed,
    /// Some delivered or skipped, some not.
    Partial,
    /// None delivered or skipped.
    Failed,
    /// Every delivery was cancelled.
    Cancelled,
}

/// A batch as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    #[allow(missing_docs)]
    pub id: BatchId,
    #[allow(missing_docs)]
    pub lead_id: LeadId,
    #[allow(missing_docs)]
    pub project: ProjectId,
    #[allow(missing_docs)]
    pub counts: BatchCounts,
    #[allow(missing_docs)]
    pub status: BatchStatus,
    #[allow(missing_docs)]
    pub options: BatchOptions,
    #[allow(missing_docs)]
    pub created_at: Timestamp,
    /// When the last delivery ended.
    pub finished_at: Option<Timestamp>,
}
