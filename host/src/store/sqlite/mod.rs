//! The SQLite store: one file, one process, one connection that writes.
//!
//! All writes go to the writer's thread ([`writer`]), which does what waits in one transaction, the hot ones by itself
//! ([`direct`]) and the others through sqlx; reads run beside it on connections that cannot write. Start at
//! [`SqliteStore::open`].

mod accept;
mod admin;
mod answers;
mod audit;
mod book;
mod bulk;
mod credentials;
mod direct;
mod ended;
mod erasures;
mod error;
mod events;
mod extras;
pub(super) mod failing;
mod finish;
#[cfg(test)]
mod full;
mod gone;
mod kv;
pub(super) mod lead_cache;
mod lease;
mod lists;
mod notices;
mod open;
mod page;
#[cfg(test)]
mod plans;
mod prune;
mod queues;
mod read;
mod search;
mod sending;
mod settle;
mod speed;
mod tasks;
mod tidy;
mod timers;
mod walk;
pub(super) mod words;
mod writer;

use std::collections::BTreeMap;
use std::future::ready;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use serde::Serialize;
use sqlx::{Row, SqlitePool};
use tokio::sync::watch;

use self::accept::Accepting;
use super::{
    Accepted, Act, Acted, AuditQuery, Changed, EraseStep, Erased, EventLog, EventPage, Finish, Found, Idempotency, Intake, JobRef, KvEntry,
    KvWrite, KvWritten, LaneDue, LaneQuota, Leased, ListQuery, Page, Pause, Prune, Pruned, PrunedAttempts, PrunedLeads, Queues, Slice,
    Sliced, Speed, Store, StoreError, StoredAnswer, Written,
};
use crate::metrics::StoreMetrics;
use crate::model::{
    ApiKey, Attempt, AuditLine, Batch, BatchId, CallbackSecrets, Cleanup, Credential, CredentialChange, CredentialId, CredentialState,
    Delivery, DeliveryId, Erasure, ErasureId, EventPosition, KeyId, LeadId, LeadRecord, Notice, Pin, Project, ProjectId, Repeats,
    StateReason, Task, TaskId, Timestamp,
};

/// Settings of a store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Jobs past which intake answers [`StoreError::Overloaded`].
    pub max_backlog: u64,
    /// Connections for reads.
    pub readers: u32,
    /// What it counts into.
    pub metrics: StoreMetrics,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { max_backlog: 1_000_000, readers: 4, metrics: StoreMetrics::default() }
    }
}

/// Everything durable in one SQLite file.
pub struct SqliteStore {
    writer: writer::Handle,
    /// Told when the writer has ended.
    ended: tokio::sync::Mutex<Option<tokio::sync::oneshot::Receiver<()>>>,
    readers: SqlitePool,
    backlog: Arc<AtomicU64>,
    failing: Arc<failing::Failing>,
    tidy: Arc<tidy::Tidy>,
    events: watch::Sender<u64>,
}

impl SqliteStore {
    /// Opens the file, making it and bringing its schema up to date where needed. Refused while another process has it.
    pub async fn open(path: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        open::open(path, options).await
    }

    /// By which steps the database answers the three lists with these conditions: the list's name, the plan of one statement.
    pub async fn plans(&self, query: &ListQuery) -> Result<Vec<(&'static str, Vec<String>)>, StoreError> {
        lists::plans(&self.readers, query).await
    }

    /// Ends the writer once everything it was asked is done, and lets the file go. Later calls find the store closed.
    pub async fn close(&self) {
        self.writer.stop();
        // Readers first: the last to leave brings the write-ahead log home, and only the writer can.
        self.readers.close().await;
        if let Some(ended) = self.ended.lock().await.take() {
            // A panic was reported when it happened.
            let _ = ended.await;
        }
    }
}

/// JSON for a column.
fn to_json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Defect(format!("a column cannot be written: {error}")))
}

/// Does `$work` in the writer's next turn. The arguments are shared with it, since it may be done twice: in a turn that
/// fails, and then alone.
macro_rules! write {
    ($self:ident, $tx:ident, [$($arg:ident),*], $work:expr) => {{
        let shared = Arc::new(($($arg,)*));
        $self
            .writer
            .write(move |$tx| {
                let shared = Arc::clone(&shared);
                Box::pin(async move {
                    let ($($arg,)*) = &*shared;
                    $work.await
                })
            })
            .await
    }};
}

/// Deliveries of a deleted credential that are cancelled in one turn, so that others need not wait long.
const CANCEL_SLICE: u32 = 500;

#[async_trait]
impl Store for SqliteStore {
    async fn ping(&self) -> Result<(), StoreError> {
        if self.writer.is_closed() {
            return Err(StoreError::Unavailable("the store is closed".to_owned()));
        }
        let row = sqlx::query("select max(version) from _sqlx_migrations where success").fetch_one(&self.readers).await?;
        let (found, known) = (row.try_get::<i64, _>(0)?, open::MIGRATIONS.iter().map(|migration| migration.version).max());
        if Some(found) == known {
            failing::check(&self.failing, &self.writer).await
        } else {
            Err(StoreError::Defect(format!("the schema is {found}, this binary knows {known:?}")))
        }
    }

    fn backlog(&self) -> u64 {
        self.backlog.load(Ordering::Relaxed)
    }

    async fn accept(&self, intake: Intake) -> Result<Written<Accepted>, StoreError> {
        self.writer.accept(Accepting::new(intake)?).await
    }

    async fn lease(&self, lanes: &[LaneQuota], now: Timestamp, until: Timestamp) -> Result<Vec<Leased>, StoreError> {
        if lanes.is_empty() {
            return Ok(Vec::new());
        }
        let lanes = lanes.to_vec();
        write!(self, tx, [lanes, now, until], ready(lease::lease(tx, lanes, *now, *until)))
    }

    async fn finish(&self, finished: Vec<Finish>) -> Result<Vec<Option<Changed>>, StoreError> {
        if finished.is_empty() {
            return Ok(Vec::new());
        }
        self.writer.finish(finished).await
    }

    async fn release(&self, jobs: &[JobRef], due_at: Timestamp) -> Result<(), StoreError> {
        let jobs = jobs.to_vec();
        write!(self, tx, [jobs, due_at], ready(lease::release(tx, jobs, *due_at)))
    }

    async fn checkpoint(&self, job: JobRef, memo: &str) -> Result<bool, StoreError> {
        let memo = memo.to_owned();
        write!(self, tx, [job, memo], ready(lease::checkpoint(tx, *job, memo)))
    }

    async fn extend_lease(&self, jobs: &[JobRef], until: Timestamp) -> Result<(), StoreError> {
        let jobs = jobs.to_vec();
        write!(self, tx, [jobs, until], ready(lease::extend(tx, jobs, *until)))
    }

    async fn lanes(&self) -> Result<Vec<LaneDue>, StoreError> {
        lease::lanes(&self.readers).await
    }

    async fn queues(&self) -> Result<Queues, StoreError> {
        queues::queues(&self.readers).await
    }

    async fn retry_delivery(&self, id: DeliveryId, now: Timestamp) -> Result<Option<Changed>, StoreError> {
        write!(self, tx, [id, now], ready(finish::retry_delivery(tx, *id, *now)))
    }

    async fn cancel_delivery(&self, id: DeliveryId, now: Timestamp) -> Result<Option<Changed>, StoreError> {
        write!(self, tx, [id, now], ready(finish::cancel_delivery(tx, *id, *now)))
    }

    async fn cancel_batch(&self, id: BatchId, now: Timestamp) -> Result<Option<(u32, Changed)>, StoreError> {
        write!(self, tx, [id, now], ready(finish::cancel_batch(tx, *id, *now)))
    }

    async fn next_timer(&self) -> Result<Option<Timestamp>, StoreError> {
        timers::next(&self.readers).await
    }

    async fn fire_timers(&self, now: Timestamp, limit: u32) -> Result<(Vec<Changed>, bool), StoreError> {
        write!(self, tx, [now, limit], ready(timers::fire(tx, *now, *limit)))
    }

    async fn note(&self, notice: &Notice) -> Result<bool, StoreError> {
        let notice = notice.clone();
        write!(self, tx, [notice], ready(notices::heard(tx, notice)))
    }

    async fn lead(&self, id: LeadId) -> Result<Option<LeadRecord>, StoreError> {
        read::lead(&self.readers, id).await
    }

    async fn lead_by_external_id(&self, project: ProjectId, external_id: &str) -> Result<Option<LeadRecord>, StoreError> {
        read::lead_by_external_id(&self.readers, project, external_id).await
    }

    async fn leads(&self, query: &ListQuery) -> Result<Found<LeadRecord>, StoreError> {
        lists::leads(&self.readers, query).await
    }

    async fn lead_ids(&self, query: &ListQuery) -> Result<Found<LeadId>, StoreError> {
        lists::lead_ids(&self.readers, query).await
    }

    async fn batch(&self, id: BatchId) -> Result<Option<Batch>, StoreError> {
        read::batch(&self.readers, id).await
    }

    async fn batches_of_lead(&self, lead: LeadId) -> Result<Vec<Batch>, StoreError> {
        read::batches_of_lead(&self.readers, lead).await
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        read::delivery(&self.readers, id).await
    }

    async fn deliveries_of_batch(&self, batch: BatchId) -> Result<Vec<Delivery>, StoreError> {
        read::deliveries_of_batch(&self.readers, batch).await
    }

    async fn batches(&self, query: &ListQuery) -> Result<Found<Batch>, StoreError> {
        lists::batches(&self.readers, query).await
    }

    async fn deliveries(&self, query: &ListQuery) -> Result<Found<Delivery>, StoreError> {
        lists::deliveries(&self.readers, query).await
    }

    async fn delivery_ids(&self, query: &ListQuery) -> Result<Found<DeliveryId>, StoreError> {
        lists::delivery_ids(&self.readers, query).await
    }

    async fn speed(&self, project: ProjectId, after: Timestamp, before: Timestamp, limit: u32) -> Result<Speed, StoreError> {
        speed::speed(&self.readers, project, after, before, limit).await
    }

    async fn attempts(&self, delivery: DeliveryId) -> Result<Vec<Attempt>, StoreError> {
        read::attempts(&self.readers, delivery).await
    }

    async fn repeats(&self, leads: &[LeadId]) -> Result<BTreeMap<LeadId, Repeats>, StoreError> {
        prune::repeats(&self.readers, leads).await
    }

    async fn prune_leads(&self, prune: Prune<LeadId>) -> Result<PrunedLeads, StoreError> {
        write!(self, tx, [prune], ready(prune::leads(tx, prune)))
    }

    async fn prune_attempts(&self, prune: Prune<DeliveryId>) -> Result<PrunedAttempts, StoreError> {
        write!(self, tx, [prune], ready(prune::attempts(tx, prune)))
    }

    async fn prune_tasks(&self, project: Option<ProjectId>, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        write!(self, tx, [project, before, limit], ready(prune::tasks(tx, *project, *before, *limit)))
    }

    async fn cleanup(&self, project: Option<ProjectId>) -> Result<Option<Cleanup>, StoreError> {
        prune::cleanup(&self.readers, project).await
    }

    async fn note_cleanup(&self, cleanup: &Cleanup) -> Result<(), StoreError> {
        let cleanup = cleanup.clone();
        write!(self, tx, [cleanup], ready(prune::note_cleanup(tx, cleanup)))
    }

    async fn create_erasure(&self, erasure: &Erasure) -> Result<(), StoreError> {
        let erasure = erasure.clone();
        write!(self, tx, [erasure], ready(erasures::create(tx, erasure)))
    }

    async fn erasure(&self, id: ErasureId) -> Result<Option<Erasure>, StoreError> {
        erasures::erasure(&self.readers, id).await
    }

    async fn erasures(&self, project: Option<ProjectId>, before: Option<ErasureId>, limit: u32) -> Result<Page<Erasure>, StoreError> {
        erasures::erasures(&self.readers, project, before, limit).await
    }

    async fn running_erasures(&self, limit: u32) -> Result<Vec<Erasure>, StoreError> {
        erasures::running(&self.readers, limit).await
    }

    /// The last step is about the files, which no transaction can be.
    async fn erase(&self, step: &EraseStep) -> Result<Option<Erased>, StoreError> {
        let (shared, tidied) = (step.clone(), self.tidy.done());
        let taken = write!(self, tx, [shared], ready(erasures::step(tx, shared)))?;
        let Some(erasures::Taken { erased, tidies }) = taken else { return Ok(None) };
        if !tidies {
            return Ok(Some(erased));
        }
        if self.tidy.done() == tidied {
            return Ok(Some(Erased { later: true, ..erased }));
        }
        let (id, now) = (step.erasure, step.now);
        write!(self, tx, [id, now], ready(erasures::complete(tx, *id, *now)))?;
        Ok(Some(Erased { done: true, ..erased }))
    }

    async fn create_task(&self, task: &Task, keep: Option<(Idempotency, StoredAnswer)>) -> Result<Written<()>, StoreError> {
        let task = task.clone();
        write!(self, tx, [task, keep], tasks::create(tx, task, keep))
    }

    async fn task(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        tasks::task(&self.readers, id).await
    }

    async fn tasks(&self, project: Option<ProjectId>, before: Option<TaskId>, limit: u32) -> Result<Page<Task>, StoreError> {
        tasks::tasks(&self.readers, project, before, limit).await
    }

    async fn running_tasks(&self, limit: u32) -> Result<Vec<Task>, StoreError> {
        tasks::running(&self.readers, limit).await
    }

    async fn cancel_task(&self, id: TaskId, now: Timestamp) -> Result<bool, StoreError> {
        write!(self, tx, [id, now], tasks::cancel(tx, *id, *now))
    }

    async fn do_slice(&self, slice: Slice) -> Result<Option<Sliced>, StoreError> {
        let ready = tasks::Ready::new(slice)?;
        write!(self, tx, [ready], tasks::slice(tx, ready))
    }

    async fn index_leads(&self, limit: u32) -> Result<bool, StoreError> {
        let Some(slice) = search::unindexed(&self.readers, limit).await? else { return Ok(false) };
        let more = slice.is_full;
        write!(self, tx, [slice], ready(search::index(tx, slice)))?;
        Ok(more)
    }

    async fn create_project(&self, project: &Project, keep: Option<(Idempotency, StoredAnswer)>) -> Result<Written<()>, StoreError> {
        let project = project.clone();
        write!(self, tx, [project, keep], admin::create_project(tx, project, keep))
    }

    async fn update_project(&self, project: &Project) -> Result<bool, StoreError> {
        let project = project.clone();
        write!(self, tx, [project], admin::update_project(tx, project))
    }

    async fn project(&self, id: ProjectId) -> Result<Option<Project>, StoreError> {
        admin::project(&self.readers, id).await
    }

    async fn project_by_external_id(&self, external_id: &str) -> Result<Option<Project>, StoreError> {
        admin::project_by_external_id(&self.readers, external_id).await
    }

    async fn projects(&self, after: Option<ProjectId>, limit: u32) -> Result<Page<Project>, StoreError> {
        admin::projects(&self.readers, after, limit).await
    }

    async fn create_key(&self, key: &ApiKey, keep: Option<(Idempotency, StoredAnswer)>) -> Result<Written<()>, StoreError> {
        let key = key.clone();
        write!(self, tx, [key, keep], admin::create_key(tx, key, keep))
    }

    async fn key_by_hash(&self, hash: &[u8; 32]) -> Result<Option<ApiKey>, StoreError> {
        admin::key_by_hash(&self.readers, hash).await
    }

    async fn key(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
        admin::key(&self.readers, id).await
    }

    async fn keys(&self, project: Option<ProjectId>, after: Option<KeyId>, limit: u32) -> Result<Page<ApiKey>, StoreError> {
        admin::keys(&self.readers, project, after, limit).await
    }

    async fn revoke_key(&self, id: KeyId, now: Timestamp) -> Result<bool, StoreError> {
        write!(self, tx, [id, now], admin::revoke_key(tx, *id, *now))
    }

    async fn act(
        &self,
        act: Act,
        line: &AuditLine,
        keep: Option<(Idempotency, StoredAnswer)>,
    ) -> Result<Option<Written<Acted>>, StoreError> {
        let line = line.clone();
        if !matches!(act, Act::DeleteCredential { .. }) {
            return write!(self, tx, [act, line, keep], audit::act(tx, act, line, keep));
        }
        let mut deleting = Deleting::default();
        let parts = Arc::new((act, line));
        loop {
            let (act, line) = (parts.0.clone(), parts.1.clone());
            let Some(slice) = write!(self, tx, [act, line], audit::delete_slice(tx, act, line))? else { return Ok(None) };
            if deleting.is_done_with(slice) {
                return Ok(Some(Written::New(Acted { changed: deleting.all(), cancelled: 0 })));
            }
        }
    }

    async fn audit_lines(&self, query: &AuditQuery) -> Result<Found<AuditLine>, StoreError> {
        audit::list(&self.readers, query).await
    }

    async fn prune_audit(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        write!(self, tx, [before, limit], ready(audit::prune(tx, *before, *limit)))
    }

    async fn touch_keys(&self, used: &BTreeMap<KeyId, Timestamp>) -> Result<(), StoreError> {
        let used = used.clone();
        write!(self, tx, [used], admin::touch_keys(tx, used))
    }

    async fn create_credential(
        &self,
        credential: &Credential,
        keep: Option<(Idempotency, StoredAnswer)>,
    ) -> Result<Written<()>, StoreError> {
        let credential = credential.clone();
        write!(self, tx, [credential, keep], credentials::create(tx, credential, keep))
    }

    async fn update_credential(&self, credential: &Credential) -> Result<(), StoreError> {
        let credential = credential.clone();
        write!(self, tx, [credential], ready(credentials::update(tx, credential)))
    }

    async fn set_pause(&self, id: CredentialId, pause: Option<(Timestamp, Pause)>) -> Result<(), StoreError> {
        write!(self, tx, [id, pause], credentials::set_pause(tx, *id, *pause))
    }

    async fn pause(&self, id: CredentialId) -> Result<Option<(Timestamp, Pause)>, StoreError> {
        credentials::pause(&self.readers, id).await
    }

    async fn sealing_keys(&self) -> Result<Vec<String>, StoreError> {
        credentials::sealing_keys(&self.readers).await
    }

    async fn delete_credential(&self, id: CredentialId, now: Timestamp) -> Result<Option<Vec<Changed>>, StoreError> {
        let mut deleting = Deleting::default();
        loop {
            let slice = write!(self, tx, [id, now], delete_credential_slice(tx, *id, *now))?;
            let Some(slice) = slice else { return Ok(None) };
            if deleting.is_done_with(slice) {
                return Ok(Some(deleting.all()));
            }
        }
    }

    async fn credential(&self, id: CredentialId) -> Result<Option<Credential>, StoreError> {
        credentials::credential(&self.readers, id).await
    }

    async fn credentials(&self, project: ProjectId) -> Result<Vec<Credential>, StoreError> {
        credentials::credentials(&self.readers, project).await
    }

    async fn set_credential_state(
        &self,
        id: CredentialId,
        state: CredentialState,
        reason: Option<StateReason>,
        since: Timestamp,
    ) -> Result<bool, StoreError> {
        write!(self, tx, [id, state, reason, since], credentials::set_state(tx, *id, *state, reason.as_ref(), *since))
    }

    async fn callback_credential(&self, project: ProjectId, origin: &str) -> Result<Option<CredentialId>, StoreError> {
        sending::callback_credential(&self.readers, project, origin).await
    }

    async fn ensure_callback_credential(&self, credential: &Credential, most: u32) -> Result<Option<CredentialId>, StoreError> {
        let credential = credential.clone();
        write!(self, tx, [credential, most], sending::ensure_callback_credential(tx, credential, *most))
    }

    async fn callback_credentials(&self, project: ProjectId) -> Result<Vec<CredentialId>, StoreError> {
        sending::callback_credentials(&self.readers, project).await
    }

    async fn set_callback_secrets(&self, project: ProjectId, read: &CallbackSecrets, new: &CallbackSecrets) -> Result<bool, StoreError> {
        let (read, new) = (read.clone(), new.clone());
        write!(self, tx, [project, read, new], sending::set_callback_secrets(tx, *project, read, new))
    }

    async fn kv_get(&self, credential: CredentialId, key: &str, now: Timestamp) -> Result<Option<KvEntry>, StoreError> {
        kv::get(&self.readers, credential, key, now).await
    }

    async fn kv_write(&self, write: KvWrite) -> Result<KvWritten, StoreError> {
        write!(self, tx, [write], kv::write(tx, write))
    }

    async fn kv_delete(&self, credential: CredentialId, key: &str) -> Result<(), StoreError> {
        let key = key.to_owned();
        write!(self, tx, [credential, key], kv::delete(tx, *credential, key))
    }

    async fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        kv::pins(&self.readers).await
    }

    async fn set_pin(&self, pin: &Pin) -> Result<(), StoreError> {
        let pin = pin.clone();
        write!(self, tx, [pin], kv::set_pin(tx, pin))
    }

    async fn clear_pin(&self, channel: &str, version: &str) -> Result<(), StoreError> {
        let (channel, version) = (channel.to_owned(), version.to_owned());
        write!(self, tx, [channel, version], kv::clear_pin(tx, channel, version))
    }

    async fn idempotent(&self, key: &Idempotency, now: Timestamp) -> Result<Option<Written<()>>, StoreError> {
        answers::lookup(&self.readers, key, now).await
    }

    /// A living answer stays: the first one given is the one to repeat.
    async fn keep_answer(&self, key: &Idempotency, answer: &StoredAnswer, now: Timestamp) -> Result<(), StoreError> {
        let kept = Some((key.clone(), answer.clone()));
        write!(self, tx, [kept, now], keep_answer(tx, kept, *now))
    }

    async fn prune(&self, now: Timestamp, limit: u32) -> Result<Pruned, StoreError> {
        write!(self, tx, [now, limit], kv::prune(tx, *now, *limit))
    }

    async fn events_after(&self, after: EventPosition, limit: u32) -> Result<EventPage, StoreError> {
        events::after(&self.readers, after, limit).await
    }

    async fn event_log(&self) -> Result<EventLog, StoreError> {
        events::log(&self.readers).await
    }

    fn events_written(&self) -> watch::Receiver<u64> {
        self.events.subscribe()
    }

    async fn prune_events(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        write!(self, tx, [before, limit], ready(events::prune(tx, *before, *limit)))
    }
}

async fn keep_answer(tx: &mut writer::Tx, kept: &admin::Keep, now: Timestamp) -> Result<(), StoreError> {
    match answers::before::<()>(tx, kept.as_ref(), now).await? {
        Some(_) => Ok(()),
        None => answers::after(tx, kept.as_ref()).await,
    }
}

/// A delete that goes on. A long queue is cancelled in several turns, the credential goes in the last: after a crash midway it
/// is still there, to be deleted again.
#[derive(Default)]
struct Deleting(BTreeMap<BatchId, Changed>);

impl Deleting {
    fn is_done_with(&mut self, (gone, changed): (bool, Vec<Changed>)) -> bool {
        for change in changed {
            // A batch ends at most once here, in whichever slice.
            self.0.entry(change.batch).or_insert_with(|| Changed::only(change.batch, change.lead)).merge(change);
        }
        gone
    }

    fn all(self) -> Vec<Changed> {
        self.0.into_values().collect()
    }
}

/// `None`: no such credential. Else whether it is gone, and what changed.
async fn delete_credential_slice(
    tx: &mut writer::Tx,
    id: CredentialId,
    now: Timestamp,
) -> Result<Option<(bool, Vec<Changed>)>, StoreError> {
    if !credentials::exists(tx, id).await? {
        return Ok(None);
    }
    let (live, mut changed) = finish::cancel_lane(tx, id, now, CANCEL_SLICE)?;
    let (bulk, also) = finish::cancel_lane(tx, id.bulk_lane(), now, CANCEL_SLICE - live)?;
    changed.extend(also);
    let gone = live + bulk < CANCEL_SLICE;
    if gone {
        credentials::tell(tx, id, CredentialChange::Deleted, now)?;
        credentials::delete(tx, id)?;
    }
    Ok(Some((gone, changed)))
}
