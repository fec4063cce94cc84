//! How enums are spelt in the tables: as in the API.

use crate::model::{
    AttemptOutcome, BatchStatus, CredentialState, DeliveryKind, DeliveryStatus, ErasureKind, LeadStatus, PinState, TaskKind, TaskStatus,
};
use crate::store::{Pause, StoreError};

/// The word in a column of the writer's row.
pub(super) fn word<T: Word>(row: &rusqlite::Row<'_>, column: usize) -> Result<T, StoreError> {
    let text = row.get_ref(column)?.as_str().map_err(|error| StoreError::Defect(format!("a word in a row is no text: {error}")))?;
    T::read(text)
}

/// A word of a table's column.
pub(in crate::store) trait Word: Copy + Sized + 'static {
    /// Every value with its word.
    const ALL: &'static [(Self, &'static str)];

    fn word(self) -> &'static str;

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, word)| *word == text).map(|(value, _)| *value)
    }

    fn read(text: &str) -> Result<Self, StoreError> {
        Self::parse(text).ok_or_else(|| StoreError::Defect(format!("unknown word `{text}` in a row")))
    }
}

macro_rules! words {
    ($type:ty { $($value:ident => $word:literal),+ $(,)? }) => {
        impl Word for $type {
            const ALL: &'static [(Self, &'static str)] = &[$((Self::$value, $word)),+];
            fn word(self) -> &'static str {
                match self { $(Self::$value => $word),+ }
            }
        }
    };
}

words!(DeliveryStatus {
    Queued => "queued", Sending => "sending", Delivered => "delivered", Skipped => "skipped",
    Failed => "failed", InDoubt => "in_doubt", Cancelled => "cancelled",
});
words!(DeliveryKind { Lead => "lead", Callback => "callback", Notification => "notification", Fallback => "fallback" });
words!(BatchStatus {
    Pending => "pending", Completed => "completed", Partial => "partial", Failed => "failed", Cancelled => "cancelled",
});
words!(LeadStatus {
    Accepted => "accepted", Processing => "processing", Completed => "completed",
    Partial => "partial", Failed => "failed", Unrouted => "unrouted",
});
words!(AttemptOutcome {
    Delivered => "delivered", Duplicate => "duplicate", Skipped => "skipped", Retry => "retry",
    Rejected => "rejected", Released => "released", Lost => "lost",
});
words!(CredentialState {
    Active => "active", Paused => "paused", Invalid => "invalid", BreakerOpen => "breaker_open",
    Throttled => "throttled", PluginMissing => "plugin_missing",
});
words!(Pause { Throttled => "throttled", BreakerOpen => "breaker_open" });
words!(TaskKind {
    DeliveriesRetry => "deliveries_retry", LeadsResend => "leads_resend", CredentialCancel => "credential_cancel",
});
words!(TaskStatus { Running => "running", Completed => "completed", Cancelled => "cancelled" });
words!(ErasureKind { Phone => "phone", Email => "email", LeadId => "lead_id" });
words!(PinState { Active => "active", Removed => "removed" });

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of the tables are the words of the API.
    fn as_in_json<T: Word + serde::Serialize>() {
        for (value, word) in T::ALL {
            assert_eq!(serde_json::to_value(value).unwrap(), serde_json::json!(word));
            assert_eq!(value.word(), *word);
        }
    }

    #[test]
    fn words_are_those_of_the_api() {
        as_in_json::<DeliveryStatus>();
        as_in_json::<DeliveryKind>();
        as_in_json::<BatchStatus>();
        as_in_json::<LeadStatus>();
        as_in_json::<AttemptOutcome>();
        as_in_json::<CredentialState>();
        as_in_json::<TaskKind>();
        as_in_json::<TaskStatus>();
        as_in_json::<ErasureKind>();
    }
}
