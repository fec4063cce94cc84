//! Plain data: the words of the product as types. No I/O, no clock, no randomness in here.
//!
//! Every id is a newtype over a UUIDv7 and is written as a TypeID (`lead_01h…`), so that one kind of id
//! never fits where another is meant. Times are [`Timestamp`]s: milliseconds since 1970 inside, RFC 3339 outside.

mod audit;
mod batch;
mod callback;
mod channel;
mod credential;
mod delivery;
mod erasure;
mod ids;
mod lead;
mod live;
mod project;
mod retention;
mod sending;
mod task;
mod timestamp;

pub use audit::{AuditAction, AuditChange, AuditLine};
pub use batch::{Batch, BatchCounts, BatchOptions, BatchStatus};
pub use callback::{Callback, Callbacks, Event};
pub use channel::{Pin, PinState};
pub use credential::{Credential, CredentialState, Purpose, RetryOverride, SealedSecret, StateReason};
pub use delivery::{Attempt, AttemptOutcome, Delivery, DeliveryKind, DeliveryStatus, Exchange, RemoteRef};
pub use erasure::{Erasure, ErasureCounts, ErasureKind, Person, Received, note_received};
pub use ids::{AttemptId, AuditId, BatchId, CredentialId, DeliveryId, ErasureId, IdError, KeyId, LeadId, ProjectId, RequestId, TaskId};
pub use lead::{Lead, LeadRecord, LeadStatus, Money, Origin, Phone};
pub use live::{Change, CredentialChange, EVENT_TYPES, EventPosition, LiveEvent, NoPosition, told_code};
pub use project::{ApiKey, DedupSettings, OnDuplicate, Project, RateLimit, Scope};
pub use retention::{Cleanup, Removed, Repeats, RetentionSettings};
pub use sending::{
    CallbackSecrets, EntityCredentials, FallbackRule, FallbackTarget, Notice, NoticeKind, NotificationRule, SendingSettings,
};
pub use task::{Task, TaskError, TaskKind, TaskProgress, TaskStatus};
pub use timestamp::Timestamp;
