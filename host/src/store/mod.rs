//! The store: everything durable, behind one trait whose methods name intentions.
//!
//! Nothing outside this module knows SQL. No method keeps a transaction open while it waits for anything but the
//! database. Every method is held to `tests/it/store_contract.rs`, which runs against each implementation.
//!
//! The queue lives here too (`jobs`): a lease is a due time in the future, and `fence`, which grows with every lease,
//! keeps a late answer from overwriting a newer one.

mod audit;
mod event_log;
mod keep;
mod list;
pub mod postgres;
pub mod sqlite;
mod task;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

pub use self::audit::{Act, Acted, AuditQuery};
pub use self::event_log::{EventLog, EventPack, EventPage, Missed, Unpack};
pub use self::keep::{EraseStep, Erased, Prune, PrunedAttempts, PrunedLeads};
pub use self::list::{Cursor, Found, ListQuery};
pub use self::task::{KEPT_ERRORS, Slice, SliceWork, Sliced};
pub use crate::policy::breaker::Pause;
pub use crate::policy::retry::Next;

use crate::model::{
    ApiKey, Attempt, AttemptId, AttemptOutcome, AuditLine, Batch, BatchId, BatchOptions, BatchStatus, CallbackSecrets, Cleanup, Credential,
    CredentialId, CredentialState, Delivery, DeliveryId, DeliveryKind, Erasure, ErasureId, Event, EventPosition, Exchange, FallbackRule,
    KeyId, Lead, LeadId, LeadRecord, LeadStatus, Notice, Pin, Project, ProjectId, Repeats, StateReason, Task, TaskId, Timestamp,
};

/// Why the store could not do what was asked. "Not found" is `Ok(None)`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database did not answer or broke off; the same call may work later.
    #[error("database unavailable: {0}")]
    Unavailable(String),
    /// A unique name is taken.
    #[error("{what} `{value}` exists already")]
    Taken {
        /// Which kind of name, such as `external_id`.
        what: &'static str,
        #[allow(missing_docs)]
        value: String,
    },
    /// Someone else wrote it since it was read.
    #[error("changed since it was read")]
    Stale,
    /// More jobs wait than the host is set to hold.
    #[error("the backlog of {backlog} jobs is at its limit")]
    Overloaded {
        #[allow(missing_docs)]
        backlog: u64,
    },
    /// A row that cannot be read, or a statement that cannot work: a defect.
    #[error("store defect: {0}")]
    Defect(String),
}

/// The answer of an earlier request with the same `Idempotency-Key`. `body` is sealed by the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAnswer {
    /// HTTP status.
    pub status: u16,
    #[allow(missing_docs)]
    pub body: Vec<u8>,
}

/// An `Idempotency-Key` with the answer to keep, written in the same transaction as the effect.
#[derive(Debug, Clone)]
pub struct Idempotency {
    /// SHA-256 over API key id, path and key.
    pub scope: [u8; 32],
    /// SHA-256 over the request's body.
    pub body_hash: [u8; 32],
    #[allow(missing_docs)]
    pub expires_at: Timestamp,
}

/// What became of a write that may carry an `Idempotency-Key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written<T> {
    /// Done now.
    New(T),
    /// The same request was done before: its answer, and nothing was written.
    Replayed(StoredAnswer),
    /// The key was used with another body; nothing was written.
    KeyReused,
}

/// A lead with everything that one 202 promises.
pub struct Intake {
    #[allow(missing_docs)]
    pub lead: Lead,
    /// `Accepted`, or `Unrouted` when `deliveries` is empty.
    pub status: LeadStatus,
    /// Where duplicates are looked for; `None` accepts any lead. The key is unique within the project until `expires_at`.
    pub dedup: Option<DedupKey>,
    #[allow(missing_docs)]
    pub batch: BatchId,
    #[allow(missing_docs)]
    pub options: BatchOptions,
    #[allow(missing_docs)]
    pub deliveries: Vec<NewDelivery>,
    /// Correlation id, kept with the batch and given to every attempt.
    pub correlation: String,
    /// The key, and how to make the answer that is kept for it.
    pub idempotency: Option<(Idempotency, AnswerOf)>,
    /// What few leads have.
    pub extras: IntakeExtras,
}

/// What a send may ask for beside its deliveries.
#[derive(Debug, Default)]
pub struct IntakeExtras {
    /// Credentials for this batch alone, written with it; `BatchOptions::inline` names them.
    pub credentials: Vec<Credential>,
    /// When what was not sent ends as failed.
    pub deadline_at: Option<Timestamp>,
    /// What is done about deliveries that are not delivered in time.
    pub watches: Vec<Watch>,
    /// The lead is in the store already and is sent again. Should it be gone, nothing is written: it must not come back.
    pub again: bool,
    /// Who is told, should the lead be there already.
    pub note: Option<DuplicateNote>,
}

/// Who is told of a lead that came again, and what.
#[derive(Debug, Clone, PartialEq)]
pub struct DuplicateNote {
    /// Credentials and their channels.
    pub to: Vec<(CredentialId, String)>,
    /// What is told: [`crate::policy::dedup::note`]. The first lead's ids and how often it came are added.
    pub data: serde_json::Map<String, serde_json::Value>,
}

/// A fallback rule over one delivery.
#[derive(Debug, Clone, PartialEq)]
pub struct Watch {
    #[allow(missing_docs)]
    pub delivery: DeliveryId,
    #[allow(missing_docs)]
    pub due_at: Timestamp,
    #[allow(missing_docs)]
    pub rule: FallbackRule,
}

impl Watch {
    /// One for each rule and delivery that it is about.
    pub fn all(rules: &[FallbackRule], deliveries: &[NewDelivery]) -> Vec<Self> {
        let mut watches = Vec::new();
        for rule in rules {
            let meant = |delivery: &&NewDelivery| match (&rule.credential, &rule.channel) {
                (Some(credential), _) => *credential == delivery.credential_id,
                (None, Some(channel)) => *channel == delivery.channel,
                (None, None) => false,
            };
            watches.extend(deliveries.iter().filter(meant).map(|delivery| Self {
                delivery: delivery.id,
                due_at: delivery.due_at.plus(Duration::from_secs(u64::from(rule.within_sec))),
                rule: rule.clone(),
            }));
        }
        watches
    }
}

/// Makes the answer to keep for an accepted (or duplicate) lead; called once inside the transaction.
pub type AnswerOf = Arc<dyn Fn(&Accepted) -> StoredAnswer + Send + Sync>;

/// What makes two leads the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DedupKey {
    /// SHA-256 over the normalised content or the external id.
    pub hash: [u8; 32],
    #[allow(missing_docs)]
    pub expires_at: Timestamp,
}

/// A delivery to be queued.
#[derive(Debug, Clone, PartialEq)]
pub struct NewDelivery {
    #[allow(missing_docs)]
    pub id: DeliveryId,
    #[allow(missing_docs)]
    pub credential_id: CredentialId,
    #[allow(missing_docs)]
    pub channel: String,
    #[allow(missing_docs)]
    pub due_at: Timestamp,
    /// Settings of this send over the credential's config; a JSON object.
    pub settings: Option<serde_json::Value>,
}

/// What became of an intake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// Stored and queued.
    New,
    /// The same lead is there already; that it came again was noted, and whoever the intake says is told: with events that are
    /// callbacks of the first lead's newest batch, the first [`crate::policy::dedup::MAX_NOTES`] times.
    Duplicate {
        /// The first one.
        of: LeadId,
    },
    /// It was to be sent again, and was removed meanwhile; nothing was written.
    Gone,
}

/// How much of one lane may be leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneQuota {
    #[allow(missing_docs)]
    pub lane: CredentialId,
    /// At most so many jobs.
    pub limit: u32,
}

/// The right to work on a job until its lease ends; every write about it names this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JobRef {
    #[allow(missing_docs)]
    pub delivery: DeliveryId,
    /// Grows with every lease.
    pub fence: i64,
}

/// A leased job with all that a plugin call needs.
#[derive(Debug, Clone)]
pub struct Leased {
    #[allow(missing_docs)]
    pub job: JobRef,
    #[allow(missing_docs)]
    pub lane: CredentialId,
    #[allow(missing_docs)]
    pub batch: BatchId,
    /// Counted attempts that have ended, lost ones included.
    pub attempts: u32,
    /// How many leases before this one were never answered (the node died or was too late) and have no attempt written yet.
    pub lost: u32,
    /// An earlier attempt may have reached the remote side.
    pub maybe_sent: bool,
    /// The plugin's last checkpoint.
    pub memo: Option<String>,
    /// When it was due.
    pub due_at: Timestamp,
    #[allow(missing_docs)]
    pub lead: Arc<Lead>,
    #[allow(missing_docs)]
    pub kind: DeliveryKind,
    /// What is told instead of the lead.
    pub event: Option<Event>,
    #[allow(missing_docs)]
    pub settings: Option<serde_json::Value>,
    #[allow(missing_docs)]
    pub correlation: String,
}

/// An attempt to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct NewAttempt {
    #[allow(missing_docs)]
    pub id: AttemptId,
    #[allow(missing_docs)]
    pub started_at: Timestamp,
    #[allow(missing_docs)]
    pub duration_ms: u32,
    #[allow(missing_docs)]
    pub outcome: AttemptOutcome,
    #[allow(missing_docs)]
    pub counted: bool,
    #[allow(missing_docs)]
    pub code: Option<String>,
    #[allow(missing_docs)]
    pub message: Option<String>,
    #[allow(missing_docs)]
    pub exchanges: Vec<Exchange>,
    /// `channel@version`.
    pub plugin: String,
    #[allow(missing_docs)]
    pub correlation: String,
    #[allow(missing_docs)]
    pub node: String,
}

/// One finished lease.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    #[allow(missing_docs)]
    pub job: JobRef,
    /// Attempts to write (a lost one found at the lease, then the call's own), in order.
    pub attempts: Vec<NewAttempt>,
    /// Kept on the delivery: code and message of the last refusal.
    pub last: Option<(String, String)>,
    #[allow(missing_docs)]
    pub next: Next,
    #[allow(missing_docs)]
    pub now: Timestamp,
}

/// What a finish, cancel or retry changed beyond its own delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The batch, with its new status.
    pub batch: BatchId,
    #[allow(missing_docs)]
    pub lead: LeadId,
    /// Set when this very write ended the batch: exactly once for each time it ends.
    pub ended: Option<BatchStatus>,
    /// Lanes that this very write gave work that is due now: callbacks of the batch, fallbacks of its deliveries.
    pub queued: Vec<CredentialId>,
    /// Credentials that this very write erased.
    pub erased: Vec<CredentialId>,
    /// A timer was set that may be due now.
    pub timer: bool,
}

impl Changed {
    /// A change that ended nothing and queued nothing.
    pub fn only(batch: BatchId, lead: LeadId) -> Self {
        Self { batch, lead, ended: None, queued: Vec::new(), erased: Vec::new(), timer: false }
    }

    /// Adds what a later part of the same write changed about the same batch.
    pub fn merge(&mut self, later: Self) {
        self.ended = self.ended.or(later.ended);
        self.queued.extend(later.queued);
        self.erased.extend(later.erased);
        self.timer |= later.timer;
    }
}

/// A lane with jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneDue {
    #[allow(missing_docs)]
    pub lane: CredentialId,
    /// The earliest due time in it.
    pub due_at: Timestamp,
}

/// How fast leads of a project arrived.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Speed {
    /// One for each lead's delivery that was made.
    pub delivered: Vec<Arrival>,
    /// Older deliveries of the time were not looked at.
    pub has_more: bool,
    /// The oldest delivery of a lead that waits or is being sent.
    pub oldest: Option<DeliveryId>,
}

/// One delivery that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    #[allow(missing_docs)]
    pub credential: CredentialId,
    /// From accepted to delivered, in milliseconds.
    pub ms: u64,
    /// A fallback had stood in for it.
    pub late: bool,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    #[allow(missing_docs)]
    pub items: Vec<T>,
    /// More rows follow the last item.
    pub has_more: bool,
}

/// A value of a plugin's small state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvEntry {
    #[allow(missing_docs)]
    pub value: Vec<u8>,
    /// Grows by one with every write of the key.
    pub version: i64,
}

/// Whether a kv write was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvWritten {
    /// Done.
    Stored,
    /// `expected` did not match.
    Mismatch,
    /// The credential's quota of bytes is used up.
    Quota,
}

/// A write of a plugin's small state.
#[derive(Debug, Clone)]
pub struct KvWrite {
    #[allow(missing_docs)]
    pub credential: CredentialId,
    #[allow(missing_docs)]
    pub key: String,
    #[allow(missing_docs)]
    pub value: Vec<u8>,
    #[allow(missing_docs)]
    pub expires_at: Option<Timestamp>,
    /// `None`: write whatever is there. `Some(None)`: only when there is nothing. `Some(Some(v))`: only over version `v`.
    pub expected: Option<Option<i64>>,
    /// Bytes of keys and values that the credential may hold.
    pub quota_bytes: u64,
    #[allow(missing_docs)]
    pub now: Timestamp,
}

/// How much waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Queues {
    /// One for each channel with jobs.
    pub channels: Vec<ChannelQueue>,
    /// When the oldest lead that waits or is being sent was accepted, among the thousand oldest jobs.
    pub oldest_lead: Option<Timestamp>,
}

/// What waits for one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelQueue {
    /// Empty: of credentials that are gone.
    pub channel: String,
    /// Jobs, those being sent included.
    pub waiting: u64,
    /// The earliest due time.
    pub due_at: Timestamp,
}

/// How many expired rows a prune removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    #[allow(missing_docs)]
    pub dedup: u64,
    #[allow(missing_docs)]
    pub idempotency: u64,
    #[allow(missing_docs)]
    pub kv: u64,
}

/// Everything durable. All writes are durable when their future resolves: they survive a power cut.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The database answers, its schema is the one this binary knows, and it takes writes: the last one did not fail for
    /// want of room or the like ([`StoreError::Unavailable`] says why it did).
    async fn ping(&self) -> Result<(), StoreError>;

    /// Jobs that are not finished. Kept in memory, so it may be asked at every request.
    fn backlog(&self) -> u64;

    // ---- intake and the queue

    /// Writes the idempotency record, dedup record, lead, batch, deliveries and jobs in one transaction, shared with its
    /// neighbours. [`StoreError::Overloaded`] past the backlog limit given at opening.
    async fn accept(&self, intake: Intake) -> Result<Written<Accepted>, StoreError>;

    /// Leases due jobs of the named lanes until `until`: earliest due first within a lane, at most each lane's limit.
    /// A credential has two: what a slice of a task retries or sends is queued in its [bulk lane](CredentialId::bulk_lane),
    /// all else in the one of its own id. What is tried again stays in its lane.
    async fn lease(&self, lanes: &[LaneQuota], now: Timestamp, until: Timestamp) -> Result<Vec<Leased>, StoreError>;

    /// Writes attempts and next states; several calls share a transaction. For each entry, in order: what changed, or
    /// `None` when the lease was lost to another (nothing was written for it). When a delivery ends as failed in a batch
    /// with `allow_failures = false`, its siblings that are queued and have no lease end as cancelled in the same transaction,
    /// and those under a lease get no further attempt ([`Store::cancel_batch`]). What would be queued again after its deadline
    /// ends as failed with the code `deadline`.
    /// Whatever write ends a batch (this one, a cancel, a timer, an intake without deliveries) also queues its callbacks, the
    /// first time it ends and never again, and erases the credentials that were given for it.
    async fn finish(&self, finished: Vec<Finish>) -> Result<Vec<Option<Changed>>, StoreError>;

    /// Gives leases back as if they had never been taken: due now, attempts and flags as before. Lost leases are ignored.
    async fn release(&self, jobs: &[JobRef], due_at: Timestamp) -> Result<(), StoreError>;

    /// Stores the plugin's note for the next attempt. `false`: the lease was lost.
    async fn checkpoint(&self, job: JobRef, memo: &str) -> Result<bool, StoreError>;

    /// Moves the end of the leases that still stand.
    async fn extend_lease(&self, jobs: &[JobRef], until: Timestamp) -> Result<(), StoreError>;

    /// Every lane that has jobs, bulk lanes too, with its earliest due time.
    async fn lanes(&self) -> Result<Vec<LaneDue>, StoreError>;

    /// How much waits, by channel. Costs as much as the backlog is long.
    async fn queues(&self) -> Result<Queues, StoreError>;

    /// Queues a failed, in-doubt or cancelled delivery again: due at `now`, attempts from 0, no deadline, its batch pending
    /// again. It is leased as `maybe_sent` unless the remote side is known not to have it: when it was refused, or never tried.
    /// `None`: no such delivery, or not in such a state.
    async fn retry_delivery(&self, id: DeliveryId, now: Timestamp) -> Result<Option<Changed>, StoreError>;

    /// Ends a queued delivery as cancelled. `None`: no such delivery, or it is being sent or has ended.
    async fn cancel_delivery(&self, id: DeliveryId, now: Timestamp) -> Result<Option<Changed>, StoreError>;

    /// Cancels what is to bring the lead somewhere (its deliveries and their fallbacks), is queued and not being sent. What is
    /// being sent gets no further attempt: it ends as it ends, or as cancelled where it would be queued again or, by a timer,
    /// where its lease is lost. The count of those cancelled at once.
    async fn cancel_batch(&self, id: BatchId, now: Timestamp) -> Result<Option<(u32, Changed)>, StoreError>;

    // ---- what happens by time alone

    /// When [`Store::fire_timers`] next has something to do.
    async fn next_timer(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Does what is due: deliveries that were not sent by their deadline end as failed with the code `deadline`, and those
    /// not delivered in time get their fallbacks (each rule once, and never to the credential and settings of the delivery
    /// itself), and notification rules tell what they have heard of. At most `limit` timers; whether there may be more.
    async fn fire_timers(&self, now: Timestamp, limit: u32) -> Result<(Vec<Changed>, bool), StoreError>;

    /// Notes something for the project's notification rules that want to hear of it; a timer tells it. A batch's end notes
    /// itself. `false`: no rule wants it, or its batch is gone.
    async fn note(&self, notice: &Notice) -> Result<bool, StoreError>;

    // ---- reading what became of leads

    #[allow(missing_docs)]
    async fn lead(&self, id: LeadId) -> Result<Option<LeadRecord>, StoreError>;
    /// The newest lead of the project with this id of the client's.
    async fn lead_by_external_id(&self, project: ProjectId, external_id: &str) -> Result<Option<LeadRecord>, StoreError>;
    #[allow(missing_docs)]
    async fn leads(&self, query: &ListQuery) -> Result<Found<LeadRecord>, StoreError>;
    /// The same leads in the same order, up to 1,000.
    async fn lead_ids(&self, query: &ListQuery) -> Result<Found<LeadId>, StoreError>;
    #[allow(missing_docs)]
    async fn batch(&self, id: BatchId) -> Result<Option<Batch>, StoreError>;
    /// Newest first.
    async fn batches_of_lead(&self, lead: LeadId) -> Result<Vec<Batch>, StoreError>;
    #[allow(missing_docs)]
    async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError>;
    /// In the order in which they were asked for.
    async fn deliveries_of_batch(&self, batch: BatchId) -> Result<Vec<Delivery>, StoreError>;
    #[allow(missing_docs)]
    async fn batches(&self, query: &ListQuery) -> Result<Found<Batch>, StoreError>;
    #[allow(missing_docs)]
    async fn deliveries(&self, query: &ListQuery) -> Result<Found<Delivery>, StoreError>;
    /// The same deliveries in the same order, up to 1,000.
    async fn delivery_ids(&self, query: &ListQuery) -> Result<Found<DeliveryId>, StoreError>;
    /// How fast the newest `limit` deliveries of a project, made from `after` on and before `before`, were made; and the oldest
    /// that is not, among the `limit` oldest that wait.
    async fn speed(&self, project: ProjectId, after: Timestamp, before: Timestamp, limit: u32) -> Result<Speed, StoreError>;
    /// By number.
    async fn attempts(&self, delivery: DeliveryId) -> Result<Vec<Attempt>, StoreError>;

    /// How often these leads came again; those that did not are absent. At most 200.
    async fn repeats(&self, leads: &[LeadId]) -> Result<BTreeMap<LeadId, Repeats>, StoreError>;

    // ---- how long things are kept

    /// Removes leads of a project that were last sent before a time and of which nothing is queued or being sent, each whole:
    /// its batches, deliveries and attempts, and whatever it is found by. Slice by slice, oldest first.
    async fn prune_leads(&self, prune: Prune<LeadId>) -> Result<PrunedLeads, StoreError>;
    /// Removes attempts that began before a time, of deliveries that have ended; these keep all else, and say up to which
    /// number attempts were removed. Slice by slice, oldest delivery first.
    async fn prune_attempts(&self, prune: Prune<DeliveryId>) -> Result<PrunedAttempts, StoreError>;
    /// Removes tasks of a project (`None`: those of no single one) that were made before a time and have ended. How many: fewer than `limit` at the end.
    async fn prune_tasks(&self, project: Option<ProjectId>, before: Timestamp, limit: u32) -> Result<u64, StoreError>;
    /// The last clean-up that was noted.
    async fn cleanup(&self, project: Option<ProjectId>) -> Result<Option<Cleanup>, StoreError>;
    /// Notes a clean-up in place of the one before. A delivery at or before its `place` that is queued again takes that back.
    async fn note_cleanup(&self, cleanup: &Cleanup) -> Result<(), StoreError>;

    // ---- persons to be erased

    #[allow(missing_docs)]
    async fn create_erasure(&self, erasure: &Erasure) -> Result<(), StoreError>;
    #[allow(missing_docs)]
    async fn erasure(&self, id: ErasureId) -> Result<Option<Erasure>, StoreError>;
    /// Newest first, `before` excluded; of one project, or all.
    async fn erasures(&self, project: Option<ProjectId>, before: Option<ErasureId>, limit: u32) -> Result<Page<Erasure>, StoreError>;
    /// Up to `limit` of those that are not done, oldest first.
    async fn running_erasures(&self, limit: u32) -> Result<Vec<Erasure>, StoreError>;
    /// Takes the next step of an erasure. `None`: there is none, or it is done. The leads of the person go as
    /// [`Store::prune_leads`] removes them, but whatever is queued or being sent of them; then what else names the person in
    /// the project goes; then whatever the database keeps of removed rows, as far as it can tell. May be taken again after a
    /// crash, and by two at once.
    async fn erase(&self, step: &EraseStep) -> Result<Option<Erased>, StoreError>;

    // ---- work on many rows

    #[allow(missing_docs)]
    async fn create_task(&self, task: &Task, keep: Option<(Idempotency, StoredAnswer)>) -> Result<Written<()>, StoreError>;
    #[allow(missing_docs)]
    async fn task(&self, id: TaskId) -> Result<Option<Task>, StoreError>;
    /// Newest first, `before` excluded; of one project, or all.
    async fn tasks(&self, project: Option<ProjectId>, before: Option<TaskId>, limit: u32) -> Result<Page<Task>, StoreError>;
    /// Up to `limit` of those that run, oldest first.
    async fn running_tasks(&self, limit: u32) -> Result<Vec<Task>, StoreError>;
    /// `false`: no such task, or it has ended.
    async fn cancel_task(&self, id: TaskId, now: Timestamp) -> Result<bool, StoreError>;
    /// Does a slice and moves the task's cursor and counters with it, in one transaction. `None`: the task does not stand
    /// where the slice begins, or has ended; nothing was written.
    async fn do_slice(&self, slice: Slice) -> Result<Option<Sliced>, StoreError>;
    /// Makes up to `limit` leads, oldest first, searchable by their words: intake does not, since it costs too much there.
    /// Leads that were erased meanwhile do not come back. `false`: all are that were there when it was asked.
    async fn index_leads(&self, limit: u32) -> Result<bool, StoreError>;

    // ---- projects, keys, credentials

    /// [`StoreError::Taken`] when the external id is used.
    async fn create_project(&self, project: &Project, keep: Option<(Idempotency, StoredAnswer)>) -> Result<Written<()>, StoreError>;
    /// Replaces all but id, external id, callback secrets and creation time. `false`: no such project.
    async fn update_project(&self, project: &Project) -> Result<bool, StoreError>;
    #[allow(missing_docs)]
    async fn project(&self, id: ProjectId) -> Result<Option<Project>, StoreError>;
    #[allow(missing_docs)]
    async fn project_by_external_id(&self, external_id: &str) -> Result<Option<Project>, StoreError>;
    /// By id, oldest first, `after` excluded.
    async fn projects(&self, after: Option<ProjectId>, limit: u32) -> Result<Page<Project>, StoreError>;

    #[allow(missing_docs)]
    async fn create_key(&self, key: &ApiKey, keep: Option<(Idempotency, StoredAnswer)>) -> Result<Written<()>, StoreError>;
    /// Also revoked and expired ones.
    async fn key_by_hash(&self, hash: &[u8; 32]) -> Result<Option<ApiKey>, StoreError>;
    #[allow(missing_docs)]
    async fn key(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError>;
    /// By id, oldest first, `after` excluded; of one project, or of all.
    async fn keys(&self, project: Option<ProjectId>, after: Option<KeyId>, limit: u32) -> Result<Page<ApiKey>, StoreError>;
    /// `false`: no such key, or revoked before.
    async fn revoke_key(&self, id: KeyId, now: Timestamp) -> Result<bool, StoreError>;
    /// Does an administrative act and writes its line of the audit log, and the answer to keep, in one transaction; the
    /// effect is that of the method that the act is named after. `None`: there was nothing to do, or nothing to do it to, and
    /// nothing was written. The delete of a credential with a long queue may take several transactions: the line comes with
    /// the last one.
    async fn act(
        &self,
        act: Act,
        line: &AuditLine,
        keep: Option<(Idempotency, StoredAnswer)>,
    ) -> Result<Option<Written<Acted>>, StoreError>;
    /// Newest first; a page may be short, as with [`Found`].
    async fn audit_lines(&self, query: &AuditQuery) -> Result<Found<AuditLine>, StoreError>;
    /// Removes up to `limit` lines from before `before`, oldest first; how many.
    async fn prune_audit(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError>;
    /// Notes the last use of several keys; the latest stands.
    async fn touch_keys(&self, used: &BTreeMap<KeyId, Timestamp>) -> Result<(), StoreError>;

    #[allow(missing_docs)]
    async fn create_credential(
        &self,
        credential: &Credential,
        keep: Option<(Idempotency, StoredAnswer)>,
    ) -> Result<Written<()>, StoreError>;
    /// Writes over `credential.version`; the stored one becomes that plus one. [`StoreError::Stale`] when another write came first.
    async fn update_credential(&self, credential: &Credential) -> Result<(), StoreError>;
    /// The ids of the master keys that stored secrets are sealed with.
    async fn sealing_keys(&self) -> Result<Vec<String>, StoreError>;
    /// Deletes it with its kv state; what is queued for it ends as cancelled. `None`: no such credential.
    async fn delete_credential(&self, id: CredentialId, now: Timestamp) -> Result<Option<Vec<Changed>>, StoreError>;
    /// Keeps until when the credential's lane waits, and why; `None` forgets it. Goes with the credential.
    async fn set_pause(&self, id: CredentialId, pause: Option<(Timestamp, Pause)>) -> Result<(), StoreError>;
    /// The pause that was kept, even when it is over.
    async fn pause(&self, id: CredentialId) -> Result<Option<(Timestamp, Pause)>, StoreError>;
    #[allow(missing_docs)]
    async fn credential(&self, id: CredentialId) -> Result<Option<Credential>, StoreError>;
    /// All of a project that an admin made, by id.
    async fn credentials(&self, project: ProjectId) -> Result<Vec<Credential>, StoreError>;
    /// Writes the host's word on it. `false`: no such credential. Does not change `version`.
    async fn set_credential_state(
        &self,
        id: CredentialId,
        state: CredentialState,
        reason: Option<StateReason>,
        since: Timestamp,
    ) -> Result<bool, StoreError>;

    // ---- what callbacks to URLs go through

    /// The host's own credential for callback URLs of this origin.
    async fn callback_credential(&self, project: ProjectId, origin: &str) -> Result<Option<CredentialId>, StoreError>;
    /// Writes a credential for an origin unless there is one; the id of the one there is. `None`: the project has `most`.
    async fn ensure_callback_credential(&self, credential: &Credential, most: u32) -> Result<Option<CredentialId>, StoreError>;
    /// Of all origins.
    async fn callback_credentials(&self, project: ProjectId) -> Result<Vec<CredentialId>, StoreError>;
    /// Writes the secrets over those that were read. `false`: someone else wrote first, or there is no such project.
    async fn set_callback_secrets(&self, project: ProjectId, read: &CallbackSecrets, new: &CallbackSecrets) -> Result<bool, StoreError>;

    // ---- plugins' small state, plugin versions, chores

    /// Expired entries are absent.
    async fn kv_get(&self, credential: CredentialId, key: &str, now: Timestamp) -> Result<Option<KvEntry>, StoreError>;
    #[allow(missing_docs)]
    async fn kv_write(&self, write: KvWrite) -> Result<KvWritten, StoreError>;
    #[allow(missing_docs)]
    async fn kv_delete(&self, credential: CredentialId, key: &str) -> Result<(), StoreError>;

    #[allow(missing_docs)]
    async fn pins(&self) -> Result<Vec<Pin>, StoreError>;
    /// Writes the pin of `(channel, version)`; an `Active` one replaces the channel's other active pin.
    async fn set_pin(&self, pin: &Pin) -> Result<(), StoreError>;
    /// Forgets it.
    async fn clear_pin(&self, channel: &str, version: &str) -> Result<(), StoreError>;

    /// The answer kept for a key, if the same request was done before.
    async fn idempotent(&self, key: &Idempotency, now: Timestamp) -> Result<Option<Written<()>>, StoreError>;
    /// Keeps an answer for a request without an effect in the store.
    async fn keep_answer(&self, key: &Idempotency, answer: &StoredAnswer, now: Timestamp) -> Result<(), StoreError>;

    /// Removes expired dedup, idempotency and kv rows, at most `limit` of each.
    async fn prune(&self, now: Timestamp, limit: u32) -> Result<Pruned, StoreError>;

    // ---- what changed, for those who follow live

    /// Events behind `after`, about `limit` of them, in order. Every write that changes a lead, batch, delivery or (an
    /// admin's) credential logs its events in its own transaction: what was committed is here, what was not never is.
    ///
    /// The order is that in which events become visible: once a position was returned, no later call finds an event before
    /// it. A database whose transactions commit in another order than they began must hold back what is behind one that
    /// still runs. Whether `after` can be followed at all, [`EventLog::missed`] says.
    async fn events_after(&self, after: EventPosition, limit: u32) -> Result<EventPage, StoreError>;

    /// How far the log of events goes.
    async fn event_log(&self) -> Result<EventLog, StoreError>;

    /// Changes whenever events may have been added; the number means nothing. It may change for nothing, and another node's
    /// events may come without it.
    fn events_written(&self) -> watch::Receiver<u64>;

    /// Removes the log of up to `limit` of the oldest transactions, as far as all is older than `before`. The newest one
    /// always stays, so that positions go on growing. How many were removed.
    async fn prune_events(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError>;
}
