//! The PostgreSQL store: many connections, each piece of work one short transaction.
//!
//! Intakes and answers of calls are gathered into groups ([`writer`]), everything else is done by itself. Start at
//! [`PostgresStore::open`].
//!
//! # The order of locks
//!
//! Transactions that write the same rows wait for each other and never in a circle, because every one of them takes its
//! locks in this order, and rows of one table in the order of their keys:
//!
//! 1. the task (a slice), or the claims of an intake: `dedup`;
//! 2. batches, all that the transaction will touch at once ([`book`]);
//! 3. jobs ([`settle`]); leases take jobs alone, and pass over those that are locked, as does who cancels what waits in a batch;
//! 4. leads (their state), answers kept (`idempotency`), credentials;
//! 5. the project, by whoever gathers or tells notifications, one project after the other; then timers;
//! 6. the log of events ([`events`]), as the last thing before the commit.
//!
//! Advisory locks (migrations, weeks, a credential's small state, a project's callback credentials) are taken first of all. What
//! is held up in a circle nevertheless is undone by the server and done again, a few times at most ([`pool::Tries`]).

mod accept;
mod admin;
mod answers;
mod audit;
mod backlog;
mod book;
mod bulk;
mod credentials;
mod ended;
mod erasures;
mod error;
mod events;
mod extras;
mod finish;
mod gone;
mod kv;
mod lease;
mod lists;
mod notices;
mod open;
mod page;
mod partitions;
mod pool;
mod prune;
mod queues;
mod read;
mod search;
mod sending;
mod settle;
mod speed;
mod tasks;
mod timers;
mod walk;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::Serialize;
use sqlx::Row;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::accept::Accepting;
use self::backlog::Backlog;
use self::error::{Fail, is_refusal};
use self::pool::{Conn, Pool, Tries};
use self::writer::Groups;
use super::sqlite::failing::Failing;
use super::sqlite::lead_cache::LeadCache;
use super::{
    Accepted, Act, Acted, AuditQuery, Changed, EraseStep, Erased, EventLog, EventPage, Finish, Found, Idempotency, Intake, JobRef, KvEntry,
    KvWrite, KvWritten, LaneDue, LaneQuota, Leased, ListQuery, Page, Pause, Prune, Pruned, PrunedAttempts, PrunedLeads, Queues, Slice,
    Sliced, Speed, Store, StoreError, StoredAnswer, Written,
};
use crate::metrics::StoreMetrics;
use crate::model::{
    ApiKey, Attempt, AuditLine, Batch, BatchId, CallbackSecrets, Cleanup, Credential, CredentialId, CredentialState, Delivery, DeliveryId,
    Erasure, ErasureId, EventPosition, KeyId, LeadId, LeadRecord, Notice, Pin, Project, ProjectId, Repeats, StateReason, Task, TaskId,
    Timestamp,
};

/// Settings of a store.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// Jobs past which intake answers [`StoreError::Overloaded`].
    pub max_backlog: u64,
    /// Connections for what leads need to arrive.
    pub hot: u32,
    /// Connections for everything else: lists may take their time.
    pub others: u32,
    /// What it counts into.
    pub metrics: StoreMetrics,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self { max_backlog: 1_000_000, hot: 8, others: 6, metrics: StoreMetrics::default() }
    }
}

/// What the parts share.
struct Inner {
    hot: Arc<Pool>,
    others: Arc<Pool>,
    backlog: Backlog,
    leads: LeadCache,
    failing: Failing,
    metrics: StoreMetrics,
    /// Changes when events were committed.
    events: watch::Sender<u64>,
}

/// Everything durable in a PostgreSQL database.
pub struct PostgresStore {
    inner: Arc<Inner>,
    intakes: Groups<Box<Accepting>>,
    finished: Groups<Vec<Finish>>,
    /// Ends what is done from time to time.
    tending: CancellationToken,
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.tending.cancel();
    }
}

/// Does `$work` on a connection, again when that one turns out to have died.
macro_rules! read {
    ($self:ident, $conn:ident, $begin:ident, $work:expr) => {{
        let mut tries = Tries::default();
        loop {
            let done = async {
                let mut conn = $self.inner.others.get().await?;
                conn.$begin().await?;
                let $conn = &mut conn;
                let found = $work.await;
                match &found {
                    Ok(_) => conn.end().await?,
                    Err(_) => conn.roll_back().await,
                }
                found
            };
            let done: Result<_, Fail> = done.await;
            if !tries.again(&done) {
                break done.map_err(StoreError::from);
            }
        }
    }};
    ($self:ident, $conn:ident, $work:expr) => {
        read!($self, $conn, begin_single, $work)
    };
}

/// Does `$work` in a transaction, again when others got into its way.
macro_rules! write {
    ($self:ident, $tx:ident, $work:expr) => {
        write!($self, others, $tx, $work)
    };
    ($self:ident, $pool:ident, $tx:ident, $work:expr) => {{
        let (mut tries, began) = (Tries::default(), Instant::now());
        loop {
            let done = async {
                let mut tx = $self.inner.$pool.get().await?;
                tx.begin().await?;
                let $tx = &mut tx;
                let done = $work.await;
                match &done {
                    Ok(_) => $self.inner.backlog.add(tx.commit().await?),
                    Err(_) => tx.roll_back().await,
                }
                done
            };
            let done: Result<_, Fail> = done.await;
            if tries.again(&done) {
                continue;
            }
            let done = done.map_err(StoreError::from);
            $self.inner.note(began, 1, done.as_ref().err());
            break done;
        }
    }};
}

impl PostgresStore {
    /// Connects, and brings the schema up to date where needed.
    pub async fn open(url: &str, options: PostgresOptions) -> Result<Self, StoreError> {
        let way = open::way(url).await?;
        let events = watch::Sender::new(0);
        let (hot, others) = (Pool::new(way.clone(), options.hot, events.clone()), Pool::new(way, options.others, events.clone()));
        open::check_server(&others).await?;
        open::migrate(&others).await?;
        let mut conn = others.get().await?;
        partitions::make(&mut conn).await?;
        let jobs = count_jobs(&mut conn).await?;
        drop(conn);
        let backlog = Backlog::new(jobs, options.max_backlog);
        let (leads, failing, metrics) = (LeadCache::default(), Failing::default(), options.metrics);
        let inner = Arc::new(Inner { hot, others, backlog, leads, failing, metrics, events });
        let tending = CancellationToken::new();
        tokio::spawn(tend(inner.clone(), tending.clone()));
        let (intakes, finished) = (Groups::start(inner.clone()), Groups::start(inner.clone()));
        Ok(Self { inner, intakes, finished, tending })
    }

    /// Makes the tables of the running week and of those to come, where they are missing; how many it made. Done when the
    /// store is opened and every hour.
    pub async fn make_partitions(&self) -> Result<u32, StoreError> {
        let mut conn = self.inner.others.get().await?;
        Ok(partitions::make(&mut conn).await?)
    }

    /// By which steps the database answers the three lists with these conditions: the list's name, the plan of one statement.
    pub async fn plans(&self, query: &ListQuery) -> Result<Vec<(&'static str, Vec<String>)>, StoreError> {
        read!(self, conn, lists::plans(conn, query))
    }

    /// Ends what waits, then every connection. Later calls find the store closed.
    pub async fn close(&self) {
        self.tending.cancel();
        self.intakes.stop().await;
        self.finished.stop().await;
        self.inner.hot.close().await;
        self.inner.others.close().await;
    }
}

/// JSON for a column.
fn to_json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Defect(format!("a column cannot be written: {error}")))
}

/// One at a time for what this id stands for, until the transaction ends.
async fn lock_on(tx: &mut Conn, id: Uuid) -> Result<(), Fail> {
    let (high, low) = id.as_u64_pair();
    tx.run(sqlx::query("select pg_advisory_xact_lock($1)").bind((high ^ low).cast_signed())).await.map(drop)
}

async fn count_jobs(conn: &mut Conn) -> Result<i64, Fail> {
    conn.begin_single().await?;
    let jobs = conn.one(sqlx::query("select count(*) from jobs")).await?.try_get(0)?;
    conn.end().await?;
    Ok(jobs)
}

const MINUTE: Duration = Duration::from_secs(60);

/// What is done from time to time: idle connections are closed, jobs are counted (other nodes add some too), and weeks are
/// made ahead.
async fn tend(inner: Arc<Inner>, stop: CancellationToken) {
    let mut minutes: u32 = 0;
    while stop.run_until_cancelled(tokio::time::sleep(MINUTE)).await.is_some() {
        inner.hot.reap();
        inner.others.reap();
        minutes = minutes.wrapping_add(1);
        if let Err(fail) = tend_once(&inner, minutes).await {
            let why = StoreError::from(fail);
            tracing::warn!(%why, "the database could not be tended; it is tried again in a minute");
            minutes = minutes.saturating_sub(1);
        }
    }
}

async fn tend_once(inner: &Inner, minutes: u32) -> Result<(), Fail> {
    let mut conn = inner.others.get().await?;
    let before = inner.backlog.now();
    let jobs = count_jobs(&mut conn).await?;
    inner.backlog.add(jobs.saturating_sub_unsigned(before));
    if minutes.is_multiple_of(60) {
        partitions::make(&mut conn).await?;
    }
    if minutes.is_multiple_of(24 * 60) {
        partitions::analyze(&mut conn).await?;
    }
    Ok(())
}

impl Inner {
    /// Whether the database takes writes is known by how the last one ended.
    fn note(&self, began: Instant, requests: usize, error: Option<&StoreError>) {
        self.metrics.durations.observe(began.elapsed().as_secs_f64());
        self.metrics.requests.observe(requests as f64);
        if error.is_some_and(|error| !is_refusal(error)) {
            self.metrics.failures.inc();
        }
        match error {
            Some(error) if is_refusal(error) => {}
            Some(error) => self.failing.note(&Err(error.clone())),
            None => self.failing.note(&Ok(())),
        }
    }

    /// See [`lease::lease`].
    async fn lease(self: Arc<Self>, lanes: Vec<LaneQuota>, now: Timestamp, until: Timestamp) -> Result<Vec<Leased>, StoreError> {
        let (mut tries, began) = (Tries::default(), Instant::now());
        loop {
            let done = self.lease_once(&lanes, now, until).await;
            if tries.again(&done) {
                continue;
            }
            let done = done.map_err(StoreError::from);
            self.note(began, 1, done.as_ref().err());
            return done;
        }
    }

    async fn lease_once(&self, lanes: &[LaneQuota], now: Timestamp, until: Timestamp) -> Result<Vec<Leased>, Fail> {
        let mut tx = self.hot.get().await?;
        tx.begin().await?;
        let leased = lease::lease(&mut tx, &self.leads, lanes, now, until).await;
        match &leased {
            Ok(_) => drop(tx.commit().await?),
            Err(_) => tx.roll_back().await,
        }
        leased
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn ping(&self) -> Result<(), StoreError> {
        const FOUND: &str = "select max(version) from _sqlx_migrations where success";
        let row = read!(self, conn, async { conn.one(sqlx::query(FOUND)).await })?;
        let found: Option<i64> = row.try_get(0).map_err(Fail::from)?;
        // A newer node may have brought the schema further; what is there is never taken away under an older one.
        if found.is_none_or(|found| found < open::known()) {
            return Err(StoreError::Defect(format!("the schema is {found:?}, this binary knows {}", open::known())));
        }
        if self.inner.failing.is_due() {
            // How it ends is noted like any other write.
            let _: Result<u64, StoreError> = write!(self, hot, tx, tx.run(sqlx::query(PROBE)));
        }
        self.inner.failing.why().map_or(Ok(()), |why| Err(StoreError::Unavailable(why)))
    }

    fn backlog(&self) -> u64 {
        self.inner.backlog.now()
    }

    async fn accept(&self, intake: Intake) -> Result<Written<Accepted>, StoreError> {
        self.intakes.ask(Box::new(Accepting::new(intake)?)).await
    }

    /// A lease that nobody takes would later look like a call that was lost: it is given back when the caller is gone.
    async fn lease(&self, lanes: &[LaneQuota], now: Timestamp, until: Timestamp) -> Result<Vec<Leased>, StoreError> {
        if lanes.is_empty() {
            return Ok(Vec::new());
        }
        let (reply, answer) = tokio::sync::oneshot::channel();
        let (inner, lanes) = (self.inner.clone(), lanes.to_vec());
        tokio::spawn(async move {
            let leased = inner.clone().lease(lanes, now, until).await;
            if let Err(Ok(leased)) = reply.send(leased) {
                give_back(&inner, &leased, now).await;
            }
        });
        answer.await.unwrap_or_else(|_| Err(StoreError::Unavailable("a lease was broken off".to_owned())))
    }

    async fn finish(&self, finished: Vec<Finish>) -> Result<Vec<Option<Changed>>, StoreError> {
        if finished.is_empty() {
            return Ok(Vec::new());
        }
        self.finished.ask(finished).await
    }

    async fn release(&self, jobs: &[JobRef], due_at: Timestamp) -> Result<(), StoreError> {
        write!(self, hot, tx, lease::release(tx, jobs, due_at))
    }

    async fn checkpoint(&self, job: JobRef, memo: &str) -> Result<bool, StoreError> {
        write!(self, hot, tx, lease::checkpoint(tx, job, memo))
    }

    async fn extend_lease(&self, jobs: &[JobRef], until: Timestamp) -> Result<(), StoreError> {
        write!(self, hot, tx, lease::extend(tx, jobs, until))
    }

    async fn lanes(&self) -> Result<Vec<LaneDue>, StoreError> {
        read!(self, conn, lease::lanes(conn))
    }

    async fn queues(&self) -> Result<Queues, StoreError> {
        read!(self, conn, begin_snapshot, queues::queues(conn))
    }

    async fn retry_delivery(&self, id: DeliveryId, now: Timestamp) -> Result<Option<Changed>, StoreError> {
        write!(self, tx, finish::retry_delivery(tx, id, now))
    }

    async fn cancel_delivery(&self, id: DeliveryId, now: Timestamp) -> Result<Option<Changed>, StoreError> {
        write!(self, tx, finish::cancel_delivery(tx, id, now))
    }

    async fn cancel_batch(&self, id: BatchId, now: Timestamp) -> Result<Option<(u32, Changed)>, StoreError> {
        write!(self, tx, finish::cancel_batch(tx, id, now))
    }

    async fn next_timer(&self) -> Result<Option<Timestamp>, StoreError> {
        read!(self, conn, timers::next(conn))
    }

    /// Each timer is a transaction of its own. What was done before one failed is told; the others are still due.
    async fn fire_timers(&self, now: Timestamp, limit: u32) -> Result<(Vec<Changed>, bool), StoreError> {
        let due = read!(self, conn, timers::due(conn, now, limit))?;
        let mut changes: BTreeMap<BatchId, Changed> = BTreeMap::new();
        for (done, timer) in due.iter().enumerate() {
            match write!(self, hot, tx, timers::fire(tx, timer, now)) {
                Ok(Some(changed)) => {
                    changes.entry(changed.batch).or_insert_with(|| Changed::only(changed.batch, changed.lead)).merge(changed);
                }
                Ok(None) => {}
                Err(error) if done == 0 => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "a timer could not be fired; it is tried again");
                    return Ok((changes.into_values().collect(), true));
                }
            }
        }
        Ok((changes.into_values().collect(), due.len() >= limit as usize))
    }

    async fn note(&self, notice: &Notice) -> Result<bool, StoreError> {
        write!(self, tx, notices::heard(tx, notice))
    }

    async fn lead(&self, id: LeadId) -> Result<Option<LeadRecord>, StoreError> {
        read!(self, conn, read::lead(conn, id))
    }

    async fn lead_by_external_id(&self, project: ProjectId, external_id: &str) -> Result<Option<LeadRecord>, StoreError> {
        read!(self, conn, read::lead_by_external_id(conn, project, external_id))
    }

    async fn leads(&self, query: &ListQuery) -> Result<Found<LeadRecord>, StoreError> {
        read!(self, conn, begin_snapshot, lists::leads(conn, query))
    }

    async fn lead_ids(&self, query: &ListQuery) -> Result<Found<LeadId>, StoreError> {
        read!(self, conn, begin_snapshot, lists::lead_ids(conn, query))
    }

    async fn batch(&self, id: BatchId) -> Result<Option<Batch>, StoreError> {
        read!(self, conn, read::batch(conn, id))
    }

    async fn batches_of_lead(&self, lead: LeadId) -> Result<Vec<Batch>, StoreError> {
        read!(self, conn, read::batches_of_lead(conn, lead))
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        read!(self, conn, read::delivery(conn, id))
    }

    async fn deliveries_of_batch(&self, batch: BatchId) -> Result<Vec<Delivery>, StoreError> {
        read!(self, conn, read::deliveries_of_batch(conn, batch))
    }

    async fn batches(&self, query: &ListQuery) -> Result<Found<Batch>, StoreError> {
        read!(self, conn, begin_snapshot, lists::batches(conn, query))
    }

    async fn deliveries(&self, query: &ListQuery) -> Result<Found<Delivery>, StoreError> {
        read!(self, conn, begin_snapshot, lists::deliveries(conn, query))
    }

    async fn delivery_ids(&self, query: &ListQuery) -> Result<Found<DeliveryId>, StoreError> {
        read!(self, conn, begin_snapshot, lists::delivery_ids(conn, query))
    }

    async fn speed(&self, project: ProjectId, after: Timestamp, before: Timestamp, limit: u32) -> Result<Speed, StoreError> {
        read!(self, conn, begin_snapshot, speed::speed(conn, project, after, before, limit))
    }

    async fn attempts(&self, delivery: DeliveryId) -> Result<Vec<Attempt>, StoreError> {
        read!(self, conn, read::attempts(conn, delivery))
    }

    async fn repeats(&self, leads: &[LeadId]) -> Result<BTreeMap<LeadId, Repeats>, StoreError> {
        read!(self, conn, prune::repeats(conn, leads))
    }

    async fn prune_leads(&self, prune: Prune<LeadId>) -> Result<PrunedLeads, StoreError> {
        let (pruned, gone) = write!(self, tx, prune::leads(tx, &prune))?;
        gone.into_iter().for_each(|lead| self.inner.leads.remove(lead));
        Ok(pruned)
    }

    async fn prune_attempts(&self, prune: Prune<DeliveryId>) -> Result<PrunedAttempts, StoreError> {
        write!(self, tx, prune::attempts(tx, &prune))
    }

    async fn prune_tasks(&self, project: Option<ProjectId>, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        write!(self, tx, prune::tasks(tx, project, before, limit))
    }

    async fn cleanup(&self, project: Option<ProjectId>) -> Result<Option<Cleanup>, StoreError> {
        read!(self, conn, prune::cleanup(conn, project))
    }

    async fn note_cleanup(&self, cleanup: &Cleanup) -> Result<(), StoreError> {
        write!(self, tx, prune::note_cleanup(tx, cleanup))
    }

    async fn create_erasure(&self, erasure: &Erasure) -> Result<(), StoreError> {
        write!(self, tx, erasures::create(tx, erasure))
    }

    async fn erasure(&self, id: ErasureId) -> Result<Option<Erasure>, StoreError> {
        read!(self, conn, erasures::erasure(conn, id))
    }

    async fn erasures(&self, project: Option<ProjectId>, before: Option<ErasureId>, limit: u32) -> Result<Page<Erasure>, StoreError> {
        read!(self, conn, erasures::erasures(conn, project, before, limit))
    }

    async fn running_erasures(&self, limit: u32) -> Result<Vec<Erasure>, StoreError> {
        read!(self, conn, erasures::running(conn, limit))
    }

    /// The last step is about what the tables keep, which no transaction can be.
    async fn erase(&self, step: &EraseStep) -> Result<Option<Erased>, StoreError> {
        let taken = write!(self, tx, erasures::step(tx, step))?;
        let Some(erasures::Taken { erased, leads, tidies }) = taken else { return Ok(None) };
        leads.into_iter().for_each(|lead| self.inner.leads.remove(lead));
        if !tidies {
            return Ok(Some(erased));
        }
        let tidied = async { self.inner.others.get().await?.alone(erasures::TIDY).await };
        if let Err(fail) = tidied.await {
            let why = StoreError::from(fail);
            tracing::warn!(%why, "the tables could not be vacuumed after an erasure; tried again");
            return Ok(Some(Erased { later: true, ..erased }));
        }
        write!(self, tx, erasures::complete(tx, step.erasure, step.now))?;
        Ok(Some(Erased { done: true, ..erased }))
    }

    async fn create_task(&self, task: &Task, keep: Option<(Idempotency, StoredAnswer)>) -> Result<Written<()>, StoreError> {
        write!(self, tx, tasks::create(tx, task, &keep))
    }

    async fn task(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        read!(self, conn, tasks::task(conn, id))
    }

    async fn tasks(&self, project: Option<ProjectId>, before: Option<TaskId>, limit: u32) -> Result<Page<Task>, StoreError> {
        read!(self, conn, tasks::tasks(conn, project, before, limit))
    }

    async fn running_tasks(&self, limit: u32) -> Result<Vec<Task>, StoreError> {
        read!(self, conn, tasks::running(conn, limit))
    }

    async fn cancel_task(&self, id: TaskId, now: Timestamp) -> Result<bool, StoreError> {
        write!(self, tx, tasks::cancel(tx, id, now))
    }

    async fn do_slice(&self, slice: Slice) -> Result<Option<Sliced>, StoreError> {
        let ready = tasks::Ready::new(slice)?;
        write!(self, tx, tasks::slice(tx, &self.inner.backlog, &ready))
    }

    async fn index_leads(&self, limit: u32) -> Result<bool, StoreError> {
        write!(self, tx, search::index(tx, limit))
    }

    async fn create_project(&self, project: &Project, keep: Option<(Idempotency, StoredAnswer)>) -> Result<Written<()>, StoreError> {
        write!(self, tx, admin::create_project(tx, project, &keep))
    }

    async fn update_project(&self, project: &Project) -> Result<bool, StoreError> {
        write!(self, tx, admin::update_project(tx, project))
    }

    async fn project(&self, id: ProjectId) -> Result<Option<Project>, StoreError> {
        read!(self, conn, admin::project(conn, id))
    }

    async fn project_by_external_id(&self, external_id: &str) -> Result<Option<Project>, StoreError> {
        read!(self, conn, admin::project_by_external_id(conn, external_id))
    }

    async fn projects(&self, after: Option<ProjectId>, limit: u32) -> Result<Page<Project>, StoreError> {
        read!(self, conn, admin::projects(conn, after, limit))
    }

    async fn create_key(&self, key: &ApiKey, keep: Option<(Idempotency, StoredAnswer)>) -> Result<Written<()>, StoreError> {
        write!(self, tx, admin::create_key(tx, key, &keep))
    }

    async fn key_by_hash(&self, hash: &[u8; 32]) -> Result<Option<ApiKey>, StoreError> {
        read!(self, conn, admin::key_by_hash(conn, hash))
    }

    async fn key(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
        read!(self, conn, admin::key(conn, id))
    }

    async fn keys(&self, project: Option<ProjectId>, after: Option<KeyId>, limit: u32) -> Result<Page<ApiKey>, StoreError> {
        read!(self, conn, admin::keys(conn, project, after, limit))
    }

    async fn revoke_key(&self, id: KeyId, now: Timestamp) -> Result<bool, StoreError> {
        write!(self, tx, admin::revoke_key(tx, id, now))
    }

    async fn act(
        &self,
        act: Act,
        line: &AuditLine,
        keep: Option<(Idempotency, StoredAnswer)>,
    ) -> Result<Option<Written<Acted>>, StoreError> {
        if !matches!(act, Act::DeleteCredential { .. }) {
            return write!(self, tx, audit::act(tx, &act, line, &keep));
        }
        let mut deleting = Deleting::default();
        loop {
            let Some(slice) = write!(self, tx, audit::delete_slice(tx, &act, line))? else { return Ok(None) };
            if deleting.is_done_with(slice) {
                return Ok(Some(Written::New(Acted { changed: deleting.all(), cancelled: 0 })));
            }
        }
    }

    async fn audit_lines(&self, query: &AuditQuery) -> Result<Found<AuditLine>, StoreError> {
        read!(self, conn, begin_snapshot, audit::list(conn, query))
    }

    async fn prune_audit(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        write!(self, tx, audit::prune(tx, before, limit))
    }

    async fn touch_keys(&self, used: &BTreeMap<KeyId, Timestamp>) -> Result<(), StoreError> {
        write!(self, tx, admin::touch_keys(tx, used))
    }

    async fn create_credential(
        &self,
        credential: &Credential,
        keep: Option<(Idempotency, StoredAnswer)>,
    ) -> Result<Written<()>, StoreError> {
        write!(self, tx, credentials::create(tx, credential, &keep))
    }

    async fn update_credential(&self, credential: &Credential) -> Result<(), StoreError> {
        write!(self, tx, credentials::update(tx, credential))
    }

    async fn sealing_keys(&self) -> Result<Vec<String>, StoreError> {
        read!(self, conn, credentials::sealing_keys(conn))
    }

    async fn delete_credential(&self, id: CredentialId, now: Timestamp) -> Result<Option<Vec<Changed>>, StoreError> {
        let mut deleting = Deleting::default();
        loop {
            let Some(slice) = write!(self, tx, credentials::delete_slice(tx, id, now))? else { return Ok(None) };
            if deleting.is_done_with(slice) {
                return Ok(Some(deleting.all()));
            }
        }
    }

    async fn set_pause(&self, id: CredentialId, pause: Option<(Timestamp, Pause)>) -> Result<(), StoreError> {
        write!(self, tx, credentials::set_pause(tx, id, pause))
    }

    async fn pause(&self, id: CredentialId) -> Result<Option<(Timestamp, Pause)>, StoreError> {
        read!(self, conn, credentials::pause(conn, id))
    }

    async fn credential(&self, id: CredentialId) -> Result<Option<Credential>, StoreError> {
        read!(self, conn, credentials::credential(conn, id))
    }

    async fn credentials(&self, project: ProjectId) -> Result<Vec<Credential>, StoreError> {
        read!(self, conn, credentials::credentials(conn, project))
    }

    async fn set_credential_state(
        &self,
        id: CredentialId,
        state: CredentialState,
        reason: Option<StateReason>,
        since: Timestamp,
    ) -> Result<bool, StoreError> {
        write!(self, tx, credentials::set_state(tx, id, state, reason.as_ref(), since))
    }

    async fn callback_credential(&self, project: ProjectId, origin: &str) -> Result<Option<CredentialId>, StoreError> {
        read!(self, conn, sending::callback_credential(conn, project, origin))
    }

    async fn ensure_callback_credential(&self, credential: &Credential, most: u32) -> Result<Option<CredentialId>, StoreError> {
        write!(self, tx, sending::ensure_callback_credential(tx, credential, most))
    }

    async fn callback_credentials(&self, project: ProjectId) -> Result<Vec<CredentialId>, StoreError> {
        read!(self, conn, sending::callback_credentials(conn, project))
    }

    async fn set_callback_secrets(&self, project: ProjectId, read: &CallbackSecrets, new: &CallbackSecrets) -> Result<bool, StoreError> {
        write!(self, tx, sending::set_callback_secrets(tx, project, read, new))
    }

    async fn kv_get(&self, credential: CredentialId, key: &str, now: Timestamp) -> Result<Option<KvEntry>, StoreError> {
        read!(self, conn, kv::get(conn, credential, key, now))
    }

    async fn kv_write(&self, write: KvWrite) -> Result<KvWritten, StoreError> {
        write!(self, tx, kv::write(tx, &write))
    }

    async fn kv_delete(&self, credential: CredentialId, key: &str) -> Result<(), StoreError> {
        write!(self, tx, kv::delete(tx, credential, key))
    }

    async fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        read!(self, conn, kv::pins(conn))
    }

    async fn set_pin(&self, pin: &Pin) -> Result<(), StoreError> {
        write!(self, tx, kv::set_pin(tx, pin))
    }

    async fn clear_pin(&self, channel: &str, version: &str) -> Result<(), StoreError> {
        write!(self, tx, kv::clear_pin(tx, channel, version))
    }

    async fn idempotent(&self, key: &Idempotency, now: Timestamp) -> Result<Option<Written<()>>, StoreError> {
        read!(self, conn, answers::find(conn, key, now))
    }

    async fn keep_answer(&self, key: &Idempotency, answer: &StoredAnswer, now: Timestamp) -> Result<(), StoreError> {
        write!(self, tx, answers::keep_answer(tx, key, answer, now))
    }

    async fn prune(&self, now: Timestamp, limit: u32) -> Result<Pruned, StoreError> {
        write!(self, tx, kv::prune(tx, now, limit))
    }

    async fn events_after(&self, after: EventPosition, limit: u32) -> Result<EventPage, StoreError> {
        read!(self, conn, events::after(conn, after, limit))
    }

    async fn event_log(&self) -> Result<EventLog, StoreError> {
        read!(self, conn, events::log(conn))
    }

    fn events_written(&self) -> watch::Receiver<u64> {
        self.inner.events.subscribe()
    }

    async fn prune_events(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        write!(self, tx, events::prune(tx, before, limit))
    }
}

/// A delete that goes on. A long queue is cancelled in several transactions, the credential goes in the last: after a crash midway
/// it is still there, to be deleted again.
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

async fn give_back(inner: &Inner, leased: &[Leased], now: Timestamp) {
    let jobs: Vec<JobRef> = leased.iter().map(|one| one.job).collect();
    let done = async {
        let mut tx = inner.hot.get().await?;
        tx.begin().await?;
        lease::release(&mut tx, &jobs, now).await?;
        tx.commit().await
    };
    let done: Result<i64, Fail> = done.await;
    if let Err(fail) = done {
        let why = StoreError::from(fail);
        tracing::warn!(%why, "leases that nobody took could not be given back; they end by themselves");
    }
}

/// An answer that was never given, under a key that no request can have, and expired before it is written.
const PROBE: &str = "
insert into idempotency (scope, body_hash, status, body, expires_at) values ('', '', 0, '', 0)
on conflict (scope) do update set expires_at = 0";
