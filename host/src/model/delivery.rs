//! A delivery (one lead on its way to one credential) and its attempts.

use serde::{Deserialize, Serialize};

use super::{AttemptId, BatchId, CredentialId, DeliveryId, Event, LeadId, ProjectId, Timestamp};

/// The state of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    /// Waiting for its time, for the lane's turn, or parked with its lane.
    Queued,
    /// Leased: a plugin call is running.
    Sending,
    /// The remote side has it.
    Delivered,
    /// A rule in the settings says not to send it; counts as success.
    Skipped,
    /// Given up: kept, listed, retried by hand.
    Failed,
    /// It may have been sent, and the settings say to wait for a person.
    InDoubt,
    /// Withdrawn before it was sent.
    Cancelled,
}

impl DeliveryStatus {
    /// As the API spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Delivered => "delivered",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::InDoubt => "in_doubt",
            Self::Cancelled => "cancelled",
        }
    }
}

impl DeliveryStatus {
    /// No more attempts follow by themselves.
    pub const fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Sending)
    }
}

/// What a delivery is: a lead on its way, or something the host tells about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryKind {
    /// A lead, as asked for; the only kind that a batch counts.
    #[default]
    Lead,
    /// Tells a receiver that the batch has ended, or that the same lead came again.
    Callback,
    /// Tells people of the project what happened.
    Notification,
    /// The lead again, elsewhere, because it was not delivered in time.
    Fallback,
}

impl DeliveryKind {
    /// It is among the batch's counts.
    pub const fn counts(self) -> bool {
        matches!(self, Self::Lead)
    }
}

/// An id the remote side gave, such as `lead` → `8123`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RemoteRef {
    /// What kind of remote object.
    pub name: String,
    /// Its id there.
    pub value: String,
}

/// A delivery as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    #[allow(missing_docs)]
    pub id: DeliveryId,
    #[allow(missing_docs)]
    pub batch_id: BatchId,
    #[allow(missing_docs)]
    pub lead_id: LeadId,
    #[allow(missing_docs)]
    pub project: ProjectId,
    #[allow(missing_docs)]
    pub credential_id: CredentialId,
    #[allow(missing_docs)]
    pub channel: String,
    #[allow(missing_docs)]
    pub kind: DeliveryKind,
    #[allow(missing_docs)]
    pub status: DeliveryStatus,
    /// Counted attempts so far.
    pub attempts: u32,
    /// When the next attempt is due, for a queued one; while `Sending`, when its lease ends.
    pub due_at: Option<Timestamp>,
    /// The last refusal's code, such as `http_500`.
    pub last_code: Option<String>,
    /// The last refusal in words for an admin.
    pub last_error: Option<String>,
    /// Ids the remote side gave.
    pub refs: Vec<RemoteRef>,
    /// Where to look at it on the remote side.
    pub url: Option<String>,
    /// Settings of this send that stand over the credential's config; a JSON object.
    pub settings: Option<serde_json::Value>,
    /// What is told instead of the lead.
    pub event: Option<Event>,
    /// Why the host made it, for a fallback.
    pub reason: Option<String>,
    /// When it fails if it was not sent before.
    pub deadline_at: Option<Timestamp>,
    /// When a fallback stood in for it.
    pub overdue_at: Option<Timestamp>,
    /// The number of the last attempt that was removed for its age; 0: none was.
    pub attempts_pruned: u32,
    #[allow(missing_docs)]
    pub created_at: Timestamp,
    #[allow(missing_docs)]
    pub finished_at: Option<Timestamp>,
}

/// What one attempt ended as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// The remote side took it.
    Delivered,
    /// The remote side had it already.
    Duplicate,
    /// A rule in the settings says not to send it.
    Skipped,
    /// Try again later.
    Retry,
    /// Never try again.
    Rejected,
    /// The call stopped for a reason that is about the credential or the remote side; not counted.
    Released,
    /// The node died or lost its lease before it could write what happened.
    Lost,
}

impl AttemptOutcome {
    /// As the API spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Duplicate => "duplicate",
            Self::Skipped => "skipped",
            Self::Retry => "retry",
            Self::Rejected => "rejected",
            Self::Released => "released",
            Self::Lost => "lost",
        }
    }
}

/// One request of a plugin and its answer, masked and capped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Exchange {
    /// `http` or `mail`.
    pub kind: String,
    /// Method and address before secrets were put in, such as `POST https://api.telegram.org/sendMessage`.
    pub request: String,
    /// The first bytes of the request's body, masked.
    pub request_body: Option<String>,
    /// HTTP status or SMTP code.
    pub status: Option<u16>,
    /// The first bytes of the answer, masked; or why there was none.
    pub response: Option<String>,
    #[allow(missing_docs)]
    pub duration_ms: u32,
}

/// One call of the plugin for one delivery; written once, never changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    #[allow(missing_docs)]
    pub id: AttemptId,
    #[allow(missing_docs)]
    pub delivery_id: DeliveryId,
    /// Running number of the delivery's calls, from 1, uncounted ones included.
    pub no: u32,
    #[allow(missing_docs)]
    pub started_at: Timestamp,
    #[allow(missing_docs)]
    pub duration_ms: u32,
    #[allow(missing_docs)]
    pub outcome: AttemptOutcome,
    /// Whether it counts towards the retry policy's limit.
    pub counted: bool,
    /// Machine-readable, such as `http_500`, `cpu_budget`, `rate_limited`.
    pub code: Option<String>,
    /// For an admin.
    pub message: Option<String>,
    #[allow(missing_docs)]
    pub exchanges: Vec<Exchange>,
    /// `channel@version`.
    pub plugin: String,
    /// Correlation id of the request that made the batch.
    pub correlation: String,
    /// The node that made the call.
    pub node: String,
    /// What the plugin was asked to do: `deliver`.
    pub operation: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_api() {
        use AttemptOutcome as A;
        use DeliveryStatus as D;
        for status in [D::Queued, D::Sending, D::Delivered, D::Skipped, D::Failed, D::InDoubt, D::Cancelled] {
            assert_eq!(serde_json::json!(status), status.name());
        }
        for outcome in [A::Delivered, A::Duplicate, A::Skipped, A::Retry, A::Rejected, A::Released, A::Lost] {
            assert_eq!(serde_json::json!(outcome), outcome.name());
        }
    }
}
