//! What answers look like.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::model::{
    Attempt, AttemptOutcome, Batch, BatchStatus, Delivery, DeliveryKind, DeliveryStatus, Exchange, LeadRecord, LeadStatus, Origin, Phone,
    RemoteRef, Repeats, Timestamp,
};
use crate::policy::intake::Amount;

/// A page of a list.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct List<T> {
    /// Newest first, unless the list says otherwise.
    pub data: Vec<T>,
    /// Give it as `cursor` for the next page.
    pub next_cursor: Option<String>,
    #[allow(missing_docs)]
    pub has_more: bool,
}

/// A lead.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct LeadView {
    /// `lead_…`
    pub id: String,
    /// `prj_…`
    pub project: String,
    /// Your own id of the project's unit.
    pub entity: Option<String>,
    /// Your own id of the lead.
    pub external_id: Option<String>,
    #[allow(missing_docs)]
    pub status: LeadStatus,
    #[allow(missing_docs)]
    pub title: Option<String>,
    #[allow(missing_docs)]
    pub name: Option<String>,
    #[allow(missing_docs)]
    pub company: Option<String>,
    #[allow(missing_docs)]
    pub phones: Vec<Phone>,
    #[allow(missing_docs)]
    pub emails: Vec<String>,
    #[allow(missing_docs)]
    pub comment: Option<String>,
    #[allow(missing_docs)]
    pub value: Option<Amount>,
    #[allow(missing_docs)]
    pub origin: Origin,
    #[schema(value_type = Object)]
    #[allow(missing_docs)]
    pub fields: Map<String, Value>,
    #[schema(value_type = String, format = DateTime)]
    #[allow(missing_docs)]
    pub created_at: Timestamp,
}

impl From<LeadRecord> for LeadView {
    fn from(LeadRecord { lead, status }: LeadRecord) -> Self {
        Self {
            id: lead.id.to_string(),
            project: lead.project.to_string(),
            entity: lead.entity,
            external_id: lead.external_id,
            status,
            title: lead.title,
            name: lead.name,
            company: lead.company,
            phones: lead.phones,
            emails: lead.emails,
            comment: lead.comment,
            value: lead.value.as_ref().map(Amount::of),
            origin: lead.origin,
            fields: lead.fields,
            created_at: lead.created_at,
        }
    }
}

/// A lead in a list.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct LeadRow {
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub lead: LeadView,
    /// How often the same lead came again; null: never.
    pub repeats: Option<Repeats>,
}

/// A lead with its batches, newest first.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct LeadDetail {
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub lead: LeadView,
    /// How often the same lead came again; null: never.
    pub repeats: Option<Repeats>,
    #[allow(missing_docs)]
    pub batches: Vec<BatchDetail>,
}

/// How many deliveries of a batch are in which state.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(missing_docs)]
pub struct Counts {
    /// Queued or sending.
    pub pending: u32,
    pub delivered: u32,
    pub skipped: u32,
    pub failed: u32,
    pub in_doubt: u32,
    pub cancelled: u32,
}

/// The deliveries made by one send call.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct BatchView {
    /// `bat_…`
    pub id: String,
    #[allow(missing_docs)]
    pub lead_id: String,
    #[allow(missing_docs)]
    pub status: BatchStatus,
    /// The sum of `counts`, always.
    pub total: u32,
    #[allow(missing_docs)]
    pub counts: Counts,
    /// `false`: the first failure cancels what has not been sent.
    pub allow_failures: bool,
    #[schema(value_type = String, format = DateTime)]
    #[allow(missing_docs)]
    pub created_at: Timestamp,
    /// When the last delivery ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
}

impl From<Batch> for BatchView {
    fn from(batch: Batch) -> Self {
        let counts = batch.counts;
        Self {
            id: batch.id.to_string(),
            lead_id: batch.lead_id.to_string(),
            status: batch.status,
            total: counts.total,
            counts: Counts {
                pending: counts.pending,
                delivered: counts.delivered,
                skipped: counts.skipped,
                failed: counts.failed,
                in_doubt: counts.in_doubt,
                cancelled: counts.cancelled,
            },
            allow_failures: batch.options.allow_failures,
            created_at: batch.created_at,
            finished_at: batch.finished_at,
        }
    }
}

/// A batch with its deliveries, in the order in which they were asked for.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct BatchDetail {
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub batch: BatchView,
    #[allow(missing_docs)]
    pub deliveries: Vec<DeliveryView>,
    /// Who is told of its end: queued when it ends. Also who is told that the same lead came again.
    pub callbacks: Vec<DeliveryView>,
    /// Where the lead went because a delivery was not made in time; each has its `reason`.
    pub fallbacks: Vec<DeliveryView>,
    /// What people of the project were told of it.
    pub notifications: Vec<DeliveryView>,
}

impl BatchDetail {
    /// A batch with all deliveries that belong to it.
    pub fn new(batch: Batch, all: Vec<Delivery>) -> Self {
        let (mut deliveries, mut callbacks, mut fallbacks, mut notifications) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for delivery in all {
            match delivery.kind {
                DeliveryKind::Lead => deliveries.push(delivery.into()),
                DeliveryKind::Callback => callbacks.push(delivery.into()),
                DeliveryKind::Notification => notifications.push(delivery.into()),
                DeliveryKind::Fallback => fallbacks.push(delivery.into()),
            }
        }
        Self { batch: batch.into(), deliveries, callbacks, fallbacks, notifications }
    }
}

/// A batch that was cancelled as far as it could be.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct BatchCancelled {
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub batch: BatchView,
    /// Deliveries that this call cancelled.
    pub cancelled_count: u32,
}

/// One lead on its way to one credential.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct DeliveryView {
    /// `dlv_…`; also the idempotency key that the remote side gets.
    pub id: String,
    #[allow(missing_docs)]
    pub batch_id: String,
    #[allow(missing_docs)]
    pub lead_id: String,
    #[allow(missing_docs)]
    pub project: String,
    #[allow(missing_docs)]
    pub credential_id: String,
    #[allow(missing_docs)]
    pub channel: String,
    #[allow(missing_docs)]
    pub kind: DeliveryKind,
    #[allow(missing_docs)]
    pub status: DeliveryStatus,
    /// Attempts that count towards the retry limit.
    pub attempt_count: u32,
    /// When the next attempt is due.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub due_at: Option<Timestamp>,
    /// The last refusal, machine-readable.
    pub last_code: Option<String>,
    /// The last refusal in words.
    pub last_error: Option<String>,
    /// Ids the remote side gave.
    pub refs: Vec<RemoteRef>,
    /// Where to look at it on the remote side.
    pub url: Option<String>,
    /// Settings of this send over the credential's.
    #[schema(value_type = Option<Object>)]
    pub settings: Option<Value>,
    /// What is told, for a callback.
    #[schema(value_type = Option<Object>)]
    pub event: Option<Value>,
    /// Why the host made it, for a fallback.
    pub reason: Option<String>,
    /// When it fails if it was not sent before.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deadline_at: Option<Timestamp>,
    /// When a fallback stood in for it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub overdue_at: Option<Timestamp>,
    /// Attempts up to this number were removed for their age; 0: none was.
    pub attempts_pruned: u32,
    /// It was delivered after a fallback had stood in for it.
    pub late: bool,
    #[schema(value_type = String, format = DateTime)]
    #[allow(missing_docs)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    #[allow(missing_docs)]
    pub finished_at: Option<Timestamp>,
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> Self {
        Self {
            id: delivery.id.to_string(),
            batch_id: delivery.batch_id.to_string(),
            lead_id: delivery.lead_id.to_string(),
            project: delivery.project.to_string(),
            credential_id: delivery.credential_id.to_string(),
            channel: delivery.channel,
            kind: delivery.kind,
            status: delivery.status,
            attempt_count: delivery.attempts,
            // While a delivery is sent this is the end of its lease, which says nothing to a client.
            due_at: delivery.due_at.filter(|_| delivery.status == DeliveryStatus::Queued),
            last_code: delivery.last_code,
            last_error: delivery.last_error,
            refs: delivery.refs,
            url: delivery.url,
            settings: delivery.settings,
            event: delivery.event.map(|event| json!({"kind": event.kind, "at": event.at, "data": event.data})),
            reason: delivery.reason,
            deadline_at: delivery.deadline_at,
            overdue_at: delivery.overdue_at,
            attempts_pruned: delivery.attempts_pruned,
            late: delivery.overdue_at.is_some() && delivery.status == DeliveryStatus::Delivered,
            created_at: delivery.created_at,
            finished_at: delivery.finished_at,
        }
    }
}

/// A delivery with its attempts.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct DeliveryDetail {
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub delivery: DeliveryView,
    /// By number.
    pub attempts: Vec<AttemptView>,
}

/// One call of the plugin for one delivery.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct AttemptView {
    /// `att_…`
    pub id: String,
    /// From 1.
    pub no: u32,
    #[schema(value_type = String, format = DateTime)]
    #[allow(missing_docs)]
    pub started_at: Timestamp,
    #[allow(missing_docs)]
    pub duration_ms: u32,
    #[allow(missing_docs)]
    pub outcome: AttemptOutcome,
    /// Whether it counts towards the retry limit.
    pub counted: bool,
    /// Machine-readable.
    pub code: Option<String>,
    /// For an admin.
    pub message: Option<String>,
    /// Requests and answers, secrets and personal data masked.
    pub exchanges: Vec<Exchange>,
    /// `channel@version`.
    pub plugin: String,
    /// `X-Request-Id` of the request that made the batch.
    pub correlation: String,
    #[allow(missing_docs)]
    pub node: String,
    /// What the plugin was asked to do: `deliver`.
    pub operation: String,
}

impl From<Attempt> for AttemptView {
    fn from(attempt: Attempt) -> Self {
        Self {
            id: attempt.id.to_string(),
            no: attempt.no,
            started_at: attempt.started_at,
            duration_ms: attempt.duration_ms,
            outcome: attempt.outcome,
            counted: attempt.counted,
            code: attempt.code,
            message: attempt.message,
            exchanges: attempt.exchanges,
            plugin: attempt.plugin,
            correlation: attempt.correlation,
            node: attempt.node,
            operation: attempt.operation,
        }
    }
}
