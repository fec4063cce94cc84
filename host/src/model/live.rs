//! What changed, as it is told to those who follow live: ids, states and times, and nothing of a person.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use super::{
    BatchCounts, BatchId, BatchStatus, CredentialId, CredentialState, DeliveryId, DeliveryKind, DeliveryStatus, LeadId, LeadStatus,
    ProjectId, Timestamp,
};

/// A place in the order of all events. Clients get it as text and give it back; it means nothing to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventPosition {
    /// The transaction.
    pub turn: u64,
    /// The event in it, from 1; 0 is before the first.
    pub index: u32,
}

impl EventPosition {
    /// Before everything.
    pub const START: Self = Self { turn: 0, index: 0 };

    /// Behind all events of a transaction.
    pub const fn end_of(turn: u64) -> Self {
        Self { turn, index: u32::MAX }
    }
}

impl fmt::Display for EventPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.turn, self.index)
    }
}

/// The text is not a place among events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPosition;

impl FromStr for EventPosition {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let (turn, index) = text.split_once('.').ok_or(NoPosition)?;
        // `+1` is a number to Rust.
        if !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return Err(NoPosition);
        }
        Ok(Self { turn: turn.parse().map_err(|_| NoPosition)?, index: index.parse().map_err(|_| NoPosition)? })
    }
}

/// One change of a lead, batch, delivery or credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveEvent {
    #[allow(missing_docs)]
    pub position: EventPosition,
    #[allow(missing_docs)]
    pub at: Timestamp,
    #[allow(missing_docs)]
    pub project: ProjectId,
    #[allow(missing_docs)]
    pub change: Change<'static>,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'a> {
    /// A lead has a new status, or was accepted (again).
    Lead {
        #[allow(missing_docs)]
        lead: LeadId,
        /// The batch that speaks for it.
        batch: BatchId,
        #[allow(missing_docs)]
        status: LeadStatus,
    },
    /// A batch was made, has ended, or is pending again.
    Batch {
        #[allow(missing_docs)]
        batch: BatchId,
        #[allow(missing_docs)]
        lead: LeadId,
        #[allow(missing_docs)]
        status: BatchStatus,
        #[allow(missing_docs)]
        counts: BatchCounts,
    },
    /// A delivery was queued, ended, or is tried again later.
    Delivery {
        #[allow(missing_docs)]
        delivery: DeliveryId,
        #[allow(missing_docs)]
        batch: BatchId,
        #[allow(missing_docs)]
        lead: LeadId,
        #[allow(missing_docs)]
        credential: CredentialId,
        #[allow(missing_docs)]
        channel: Cow<'a, str>,
        #[allow(missing_docs)]
        kind: DeliveryKind,
        #[allow(missing_docs)]
        status: DeliveryStatus,
        /// For a queued one: when it is due.
        due_at: Option<Timestamp>,
        /// It is queued again by the retry policy, after an attempt.
        retry: bool,
        /// Why, for one that was not delivered: a machine-readable word.
        code: Option<Cow<'a, str>>,
    },
    /// A credential was written, or the host's word on it changed.
    Credential {
        #[allow(missing_docs)]
        credential: CredentialId,
        #[allow(missing_docs)]
        channel: Cow<'a, str>,
        #[allow(missing_docs)]
        what: CredentialChange,
        #[allow(missing_docs)]
        enabled: bool,
        /// As it stands after the change.
        state: CredentialState,
        /// Why: a machine-readable word.
        code: Option<Cow<'a, str>>,
    },
}

/// What happened to a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialChange {
    #[allow(missing_docs)]
    Created,
    /// Its settings were written.
    Updated,
    #[allow(missing_docs)]
    Deleted,
    /// Its state is another one now.
    State,
    /// Its lane stopped for a while after too many failures in a row.
    BreakerOpen,
    /// The plugin failed.
    PluginFault,
}

impl Change<'_> {
    /// The event's type, such as `delivery.failed`: what it is about, and what happened.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Lead { status, .. } => match status {
                LeadStatus::Accepted => "lead.accepted",
                LeadStatus::Processing => "lead.processing",
                LeadStatus::Completed => "lead.completed",
                LeadStatus::Partial => "lead.partial",
                LeadStatus::Failed => "lead.failed",
                LeadStatus::Unrouted => "lead.unrouted",
            },
            Self::Batch { status, .. } => match status {
                BatchStatus::Pending => "batch.pending",
                BatchStatus::Completed => "batch.completed",
                BatchStatus::Partial => "batch.partial",
                BatchStatus::Failed => "batch.failed",
                BatchStatus::Cancelled => "batch.cancelled",
            },
            Self::Delivery { retry: true, .. } => "delivery.retry_scheduled",
            Self::Delivery { status, .. } => match status {
                // What is being sent at a moment is no event.
                DeliveryStatus::Queued | DeliveryStatus::Sending => "delivery.queued",
                DeliveryStatus::Delivered => "delivery.delivered",
                DeliveryStatus::Skipped => "delivery.skipped",
                DeliveryStatus::Failed => "delivery.failed",
                DeliveryStatus::InDoubt => "delivery.in_doubt",
                DeliveryStatus::Cancelled => "delivery.cancelled",
            },
            Self::Credential { what, state, .. } => match what {
                CredentialChange::Created => "credential.created",
                CredentialChange::Updated => "credential.updated",
                CredentialChange::Deleted => "credential.deleted",
                CredentialChange::BreakerOpen => "credential.breaker_open",
                CredentialChange::PluginFault => "credential.plugin_fault",
                CredentialChange::State => match state {
                    CredentialState::Active => "credential.active",
                    CredentialState::Paused => "credential.paused",
                    CredentialState::Invalid => "credential.invalid",
                    CredentialState::BreakerOpen => "credential.breaker_open",
                    CredentialState::Throttled => "credential.throttled",
                    CredentialState::PluginMissing => "credential.plugin_missing",
                },
            },
        }
    }

    /// The lead it is about.
    pub fn lead(&self) -> Option<LeadId> {
        match self {
            Self::Lead { lead, .. } | Self::Batch { lead, .. } | Self::Delivery { lead, .. } => Some(*lead),
            Self::Credential { .. } => None,
        }
    }

    /// The batch it is about.
    pub fn batch(&self) -> Option<BatchId> {
        match self {
            Self::Lead { batch, .. } | Self::Batch { batch, .. } | Self::Delivery { batch, .. } => Some(*batch),
            Self::Credential { .. } => None,
        }
    }
}

/// Every type of event.
pub const EVENT_TYPES: &[&str] = &[
    "lead.accepted",
    "lead.processing",
    "lead.completed",
    "lead.partial",
    "lead.failed",
    "lead.unrouted",
    "batch.pending",
    "batch.completed",
    "batch.partial",
    "batch.failed",
    "batch.cancelled",
    "delivery.queued",
    "delivery.retry_scheduled",
    "delivery.delivered",
    "delivery.skipped",
    "delivery.failed",
    "delivery.in_doubt",
    "delivery.cancelled",
    "credential.created",
    "credential.updated",
    "credential.deleted",
    "credential.active",
    "credential.paused",
    "credential.invalid",
    "credential.breaker_open",
    "credential.plugin_fault",
];

/// A word that may be told: what plugins call a failure is shown only when it looks like a name and not like data.
pub fn told_code(code: &str) -> Option<&str> {
    let fits = (1..=64).contains(&code.len())
        && code.starts_with(|first: char| first.is_ascii_lowercase())
        && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    fits.then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_they_are_written() {
        let position = EventPosition { turn: 17, index: 3 };
        assert_eq!(position.to_string().parse(), Ok(position));
        assert_eq!(EventPosition::end_of(u64::MAX).to_string().parse(), Ok(EventPosition::end_of(u64::MAX)));
        for text in ["", ".", "1", "1.", ".1", "+1.2", "1.-2", "1.2.3", "a.b", "1.99999999999", " 1.2", "18446744073709551616.1"] {
            assert_eq!(text.parse::<EventPosition>(), Err(NoPosition), "{text}");
        }
        assert!(
            EventPosition { turn: 1, index: 9 } < EventPosition::end_of(1)
                && EventPosition::end_of(1) < EventPosition { turn: 2, index: 0 }
        );
    }

    #[test]
    fn codes_that_could_be_data_are_not_told() {
        assert_eq!(told_code("http_500"), Some("http_500"));
        for code in ["", "79161234567", "ann@example.com", "Ann Lee", "HTTP"] {
            assert_eq!(told_code(code), None, "{code}");
        }
    }
}
