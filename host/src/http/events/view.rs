//! Events as clients see them.

use serde::Serialize;

use super::follow::Reason;
use crate::model::{
    BatchCounts, BatchId, Change, CredentialId, CredentialState, DeliveryId, DeliveryKind, EventPosition, LeadId, LiveEvent, ProjectId,
    Timestamp,
};
use crate::store::Missed;

/// One change. Only ids, states and times: what belongs to a person is read from the lead.
///
/// Streams also carry messages of their own, with a `type` without a dot: `heartbeat` (nothing for 15 seconds), `reset`
/// (events were missed; `reason` says why) and `dropped` (the last one; `reason` says why).
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct EventView<'a> {
    /// For `Last-Event-ID`; opaque.
    pub id: String,
    /// What happened.
    #[schema(value_type = String, examples("delivery.failed"), pattern = "^[a-z_]+(\\.[a-z_]+)?$")]
    pub r#type: &'static str,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
    #[allow(missing_docs)]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub project_id: Option<ProjectId>,
    /// Of a lead, batch or delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub lead_id: Option<LeadId>,
    /// Of a lead (its newest batch), batch or delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub batch_id: Option<BatchId>,
    /// Of a delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub delivery_id: Option<DeliveryId>,
    /// Of a delivery or credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub credential_id: Option<CredentialId>,
    /// Of a delivery or credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<&'a str>,
    /// Of a delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<DeliveryKind>,
    /// Of a lead, batch or delivery: as it stands now, in the words of its own answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<&'static str>,
    /// Of a delivery that waits: when it is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub due_at: Option<Timestamp>,
    /// Of a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<BatchCounts>,
    /// Of a credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Of a credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<CredentialState>,
    /// Why, such as `http_500`; left out when the plugin's word could be data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'a str>,
    /// Of `reset`: `pruned` or `unknown`. Of `dropped`: `too_slow`, `silent`, `key_revoked`, `key_expired`, `stopping`, `unavailable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'static str>,
}

impl EventView<'static> {
    /// A message of the stream's own.
    fn of_stream(at: EventPosition, name: &'static str) -> Self {
        Self {
            id: at.to_string(),
            r#type: name,
            at: None,
            project_id: None,
            lead_id: None,
            batch_id: None,
            delivery_id: None,
            credential_id: None,
            channel: None,
            kind: None,
            status: None,
            due_at: None,
            counts: None,
            enabled: None,
            state: None,
            code: None,
            reason: None,
            detail: None,
        }
    }

    pub(super) fn heartbeat(at: EventPosition) -> Self {
        Self::of_stream(at, "heartbeat")
    }

    pub(super) fn reset(at: EventPosition, why: Missed) -> Self {
        let (reason, detail) = match why {
            Missed::Pruned => (
                "pruned",
                "what followed this Last-Event-ID is not kept any more: read what you show again; the stream goes on with the oldest event that is kept",
            ),
            Missed::Unknown => (
                "unknown",
                "this Last-Event-ID is of another database: read what you show again; the stream goes on with what happens from now on",
            ),
        };
        Self { reason: Some(reason), detail: Some(detail), ..Self::of_stream(at, "reset") }
    }

    pub(super) fn dropped(at: EventPosition, reason: Reason) -> Self {
        Self { reason: Some(reason.name()), detail: Some(reason.detail()), ..Self::of_stream(at, "dropped") }
    }
}

impl<'a> From<&'a LiveEvent> for EventView<'a> {
    fn from(event: &'a LiveEvent) -> Self {
        let name = event.change.name();
        let view = Self { at: Some(event.at), project_id: Some(event.project), ..EventView::of_stream(event.position, name) };
        // The second word of the type, but for a delivery that waits for its next attempt.
        let status = |name: &'static str| name.split_once('.').map(|(_, status)| status);
        match &event.change {
            Change::Lead { lead, batch, .. } => Self { lead_id: Some(*lead), batch_id: Some(*batch), status: status(name), ..view },
            Change::Batch { batch, lead, counts, .. } => {
                Self { lead_id: Some(*lead), batch_id: Some(*batch), status: status(name), counts: Some(*counts), ..view }
            }
            Change::Delivery { delivery, batch, lead, credential, channel, kind, status, due_at, code, .. } => Self {
                lead_id: Some(*lead),
                batch_id: Some(*batch),
                delivery_id: Some(*delivery),
                credential_id: Some(*credential),
                channel: Some(channel),
                kind: Some(*kind),
                status: Some(status.name()),
                due_at: *due_at,
                code: code.as_deref(),
                ..view
            },
            Change::Credential { credential, channel, enabled, state, code, .. } => Self {
                credential_id: Some(*credential),
                channel: Some(channel),
                enabled: Some(*enabled),
                state: Some(*state),
                code: code.as_deref(),
                ..view
            },
        }
    }
}

/// The message as JSON, in one line.
pub(super) fn json(view: &EventView<'_>) -> String {
    // Strings, numbers and maps with text keys only: there is nothing in it that JSON could not hold.
    serde_json::to_string(view).unwrap_or_default()
}
