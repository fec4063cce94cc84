//! A task: work on many rows that a request started and that goes on by itself.

use serde::{Deserialize, Serialize};

use super::{ProjectId, TaskId, Timestamp};

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// Queues deliveries that ended without success again.
    DeliveriesRetry,
    /// Sends leads again, as new batches.
    LeadsResend,
    /// Cancels what is queued for a credential.
    CredentialCancel,
}

/// The state of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    /// Under way; also over a restart of the host.
    Running,
    /// Every row was looked at.
    Completed,
    /// Stopped by a person; what was done stays done.
    Cancelled,
}

/// A row that a task could not work on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TaskError {
    /// The lead or delivery.
    pub id: String,
    /// Machine-readable.
    pub code: String,
    /// In words.
    pub detail: String,
}

/// How far a task has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskProgress {
    /// Rows that matched when it began.
    pub total: u64,
    /// Rows looked at.
    pub done: u64,
    /// Rows something was done for.
    pub changed: u64,
    /// Rows that could not be worked on.
    pub errors: u64,
    /// The first few of them.
    pub first_errors: Vec<TaskError>,
}

/// A task as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    #[allow(missing_docs)]
    pub id: TaskId,
    /// `None`: of every project.
    pub project: Option<ProjectId>,
    #[allow(missing_docs)]
    pub kind: TaskKind,
    #[allow(missing_docs)]
    pub status: TaskStatus,
    /// The rows it is about, and what to do with them; its runner knows how to read it.
    pub asked: serde_json::Value,
    /// Rows a second at most.
    pub rate: u32,
    #[allow(missing_docs)]
    pub progress: TaskProgress,
    /// Where its next slice begins; `None` at first.
    pub cursor: Option<Vec<u8>>,
    /// `X-Request-Id` of the request that made it.
    pub correlation: String,
    #[allow(missing_docs)]
    pub created_at: Timestamp,
    #[allow(missing_docs)]
    pub finished_at: Option<Timestamp>,
}
