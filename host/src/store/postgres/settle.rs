//! Endings and repetitions of deliveries. Jobs and the counters of their batches are locked and read, moved in memory, and
//! written by a few statements ([`Settling::write`]).

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::book::Book;
use super::error::Fail;
use super::pool::Conn;
use super::read::{memo, number, plain, plain_option, time, time_column};
use super::to_json;
use crate::model::{BatchId, Change, CredentialId, DeliveryId, DeliveryKind, DeliveryStatus, RemoteRef, Timestamp, told_code};
use crate::store::sqlite::words::Word;
use crate::store::{Changed, NewAttempt};

/// A job as read, or as moved since.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) delivery: DeliveryId,
    pub(super) batch: BatchId,
    pub(super) fence: i64,
    pub(super) attempts: u32,
    pub(super) calls: u32,
    pub(super) maybe_sent: bool,
    memo: Option<String>,
    /// Leased and not answered.
    pub(super) sending: bool,
    pub(super) kind: DeliveryKind,
    pub(super) due_at: Timestamp,
    /// It gets no further attempt.
    pub(super) stop: bool,
    /// Its credential.
    credential: CredentialId,
    channel: String,
    pub(super) deadline_at: Option<Timestamp>,
}

impl Job {
    fn read(row: &PgRow) -> Result<Self, Fail> {
        Ok(Self {
            delivery: DeliveryId::from_uuid(row.try_get(0)?),
            batch: BatchId::from_uuid(row.try_get(1)?),
            fence: row.try_get(2)?,
            attempts: number(row, 3)?,
            calls: number(row, 4)?,
            maybe_sent: row.try_get(5)?,
            memo: memo(row, 6)?,
            sending: row.try_get(7)?,
            kind: DeliveryKind::read(row.try_get(8)?)?,
            due_at: time(row.try_get(9)?),
            stop: row.try_get(10)?,
            credential: CredentialId::from_uuid(row.try_get(11)?).of_lane(),
            channel: row.try_get(12)?,
            deadline_at: time_column(row, 13)?,
        })
    }

    /// No lease, or one that has ended: then nobody is sending any more.
    pub(super) fn waits(&self, now: Timestamp) -> bool {
        !self.sending || self.due_at <= now
    }
}

/// How a delivery ends.
pub(super) struct Ending<'a> {
    pub(super) status: DeliveryStatus,
    pub(super) refs: &'a [RemoteRef],
    pub(super) url: Option<&'a str>,
    pub(super) last: Option<&'a (String, String)>,
    pub(super) attempts: u32,
    pub(super) now: Timestamp,
}

impl Ending<'_> {
    pub(super) fn cancelled(attempts: u32, now: Timestamp) -> Self {
        Self { status: DeliveryStatus::Cancelled, refs: &[], url: None, last: None, attempts, now }
    }
}

/// Whether the fallbacks of a batch are cancelled with what it counts: when a person withdraws it, and not when it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fallbacks {
    Stay,
    Too,
}

/// When a delivery is tried again.
pub(super) struct Repeat<'a> {
    pub(super) due_at: Timestamp,
    pub(super) attempts: u32,
    pub(super) maybe_sent: bool,
    /// The number of the last attempt written.
    pub(super) calls: u32,
    pub(super) now: Timestamp,
    pub(super) last: Option<&'a (String, String)>,
}

/// What happened to a delivery. One that is due at a time is tried again.
struct Happened<'a> {
    status: DeliveryStatus,
    due_at: Option<Timestamp>,
    code: Option<&'a str>,
    at: Timestamp,
}

/// What is written of a delivery that ended.
struct End {
    status: DeliveryStatus,
    attempts: i64,
    finished_at: i64,
    refs: Option<String>,
    url: Option<String>,
    fence: i64,
    maybe_sent: bool,
    memo: Option<Vec<u8>>,
}

/// What a transaction settles.
#[derive(Default)]
pub(super) struct Settling {
    pub(super) book: Book,
    /// Those that are locked, as they stand now. One that ended is gone.
    jobs: HashMap<DeliveryId, Job>,
    attempts: Vec<(Uuid, i64, NewAttempt)>,
    ends: BTreeMap<Uuid, End>,
    repeats: BTreeMap<Uuid, Job>,
    lasts: BTreeMap<Uuid, (String, String)>,
    /// Jobs that get no further attempt, and when their leases end.
    stops: BTreeMap<Uuid, i64>,
}

impl Settling {
    pub(super) fn of(book: Book) -> Self {
        Self { book, ..Self::default() }
    }

    /// Locks the jobs of these deliveries and their batches, batches first: the order of every transaction.
    pub(super) async fn lock(tx: &mut Conn, deliveries: Vec<Uuid>) -> Result<Self, Fail> {
        let mut settling = Self::of(Book::lock_of_jobs(tx, deliveries.clone()).await?);
        settling.lock_jobs(tx, deliveries).await?;
        Ok(settling)
    }

    /// Locks the jobs of these deliveries, whose batches are locked.
    pub(super) async fn lock_jobs(&mut self, tx: &mut Conn, deliveries: Vec<Uuid>) -> Result<(), Fail> {
        for row in tx.all(sqlx::query(LOCK).bind(deliveries)).await? {
            let job = Job::read(&row)?;
            // One that was queued since the batches were locked.
            if self.book.knows(job.batch) {
                self.jobs.insert(job.delivery, job);
            }
        }
        Ok(())
    }

    /// The job as it stands, unless it is gone.
    pub(super) fn job(&self, delivery: DeliveryId) -> Option<Job> {
        self.jobs.get(&delivery).cloned()
    }

    /// Adds an attempt under the next number.
    pub(super) fn attempt(&mut self, delivery: DeliveryId, no: u32, attempt: &NewAttempt) {
        self.attempts.push((delivery.uuid(), i64::from(no), attempt.clone()));
    }

    /// Ends the delivery of a job, which goes.
    pub(super) fn end(&mut self, tx: &mut Conn, job: &Job, ending: Ending<'_>) -> Result<Changed, Fail> {
        let Ending { status, refs, url, last, attempts, now } = ending;
        // What a retry by hand must know; who reached the remote side for certain is not retried.
        let (memo, maybe_sent) = match status {
            DeliveryStatus::Delivered | DeliveryStatus::Skipped => (None, false),
            DeliveryStatus::Cancelled => (job.memo.clone(), job.maybe_sent || job.sending),
            _ => (job.memo.clone(), job.maybe_sent || status == DeliveryStatus::InDoubt),
        };
        let id = job.delivery.uuid();
        self.last(id, last);
        let end = End {
            status,
            attempts: i64::from(attempts),
            finished_at: now.as_millis(),
            refs: (!refs.is_empty()).then(|| to_json(&refs)).transpose()?,
            url: plain_option(url),
            fence: job.fence,
            maybe_sent,
            memo: memo.map(String::into_bytes),
        };
        self.ends.insert(id, end);
        self.repeats.remove(&id);
        self.jobs.remove(&job.delivery);
        tx.jobs -= 1;
        let code = last.map(|(code, _)| code.as_str());
        self.tell(tx, job, &Happened { status, due_at: None, code, at: now })?;
        self.book.moved(job.batch, job.kind, (DeliveryStatus::Queued, status), now)
    }

    pub(super) fn repeat(&mut self, tx: &mut Conn, job: &Job, repeat: Repeat<'_>) -> Result<Changed, Fail> {
        let Repeat { due_at, attempts, maybe_sent, calls, now, last } = repeat;
        let id = job.delivery.uuid();
        self.last(id, last);
        let again = Job { due_at, attempts, maybe_sent, calls, sending: false, ..job.clone() };
        self.repeats.insert(id, again.clone());
        self.jobs.insert(job.delivery, again);
        let code = last.map(|(code, _)| code.as_str());
        self.tell(tx, job, &Happened { status: DeliveryStatus::Queued, due_at: Some(due_at), code, at: now })?;
        self.book.unchanged(job.batch)
    }

    /// The words of an earlier refusal stay when there are no newer ones.
    fn last(&mut self, id: Uuid, last: Option<&(String, String)>) {
        if let Some((code, text)) = last {
            self.lasts.insert(id, (plain(code), plain(text)));
        }
    }

    /// Notes what happened to a job's delivery, for those who follow live.
    fn tell(&mut self, tx: &mut Conn, job: &Job, happened: &Happened<'_>) -> Result<(), Fail> {
        let (lead, project) = self.book.belongs(job.batch)?;
        let change = Change::Delivery {
            delivery: job.delivery,
            batch: job.batch,
            lead,
            credential: job.credential,
            channel: Cow::Borrowed(&job.channel),
            kind: job.kind,
            status: happened.status,
            due_at: happened.due_at,
            retry: happened.due_at.is_some(),
            code: happened.code.and_then(told_code).map(Cow::Borrowed),
        };
        tx.tell(happened.at, project, &change);
        Ok(())
    }

    /// Ends what waits in a batch as cancelled, and lets what is being sent have no further attempt. How many ended, and what
    /// changed.
    pub(super) async fn cancel_waiting(
        &mut self,
        tx: &mut Conn,
        batch: BatchId,
        fallbacks: Fallbacks,
        now: Timestamp,
    ) -> Result<(u32, Option<Changed>), Fail> {
        let too = fallbacks == Fallbacks::Too;
        // What this transaction knows, it may have moved.
        let known: Vec<Uuid> = self.jobs.keys().map(|id| id.uuid()).chain(self.ends.keys().copied()).collect();
        let rows = tx.all(sqlx::query(BESIDE).bind(batch.uuid()).bind(too).bind(known)).await?;
        let mut beside = rows.iter().map(Job::read).collect::<Result<Vec<_>, _>>()?;
        let concerns = |job: &&Job| job.batch == batch && (job.kind == DeliveryKind::Lead || (too && job.kind == DeliveryKind::Fallback));
        beside.extend(self.jobs.values().filter(concerns).cloned());
        beside.sort_by_key(|job| job.delivery);
        let (mut count, mut changed) = (0, None::<Changed>);
        for job in beside {
            if job.waits(now) {
                count += 1;
                let one = self.end(tx, &job, Ending::cancelled(job.attempts, now))?;
                changed.get_or_insert_with(|| Changed::only(one.batch, one.lead)).merge(one);
            } else if !job.stop {
                // Should the node be lost meanwhile, a timer at the end of the lease cancels it.
                let unchanged = self.book.unchanged(batch)?;
                changed.get_or_insert(unchanged).timer = true;
                self.stops.insert(job.delivery.uuid(), job.due_at.as_millis());
                if let Some(known) = self.jobs.get_mut(&job.delivery) {
                    known.stop = true;
                }
            }
        }
        Ok((count, changed))
    }

    /// Writes everything, and what follows the ends of batches.
    pub(super) async fn write(self, tx: &mut Conn) -> Result<(), Fail> {
        if !self.attempts.is_empty() {
            insert_attempts(tx, &self.attempts).await?;
        }
        if !self.ends.is_empty() || !self.repeats.is_empty() {
            write_jobs(tx, &self.ends, &self.repeats, &self.lasts).await?;
        }
        if !self.stops.is_empty() {
            let (ids, ends): (Vec<Uuid>, Vec<i64>) = self.stops.into_iter().unzip();
            tx.run(sqlx::query(STOP).bind(ids).bind(ends)).await?;
        }
        self.book.write(tx).await
    }
}

async fn insert_attempts(tx: &mut Conn, attempts: &[(Uuid, i64, NewAttempt)]) -> Result<(), Fail> {
    let exchanges = |attempt: &NewAttempt| (!attempt.exchanges.is_empty()).then(|| to_json(&attempt.exchanges)).transpose();
    let each = || attempts.iter().map(|(.., attempt)| attempt);
    let query = sqlx::query(INSERT_ATTEMPTS)
        .bind(attempts.iter().map(|(delivery, ..)| *delivery).collect::<Vec<_>>())
        .bind(attempts.iter().map(|(_, no, _)| *no).collect::<Vec<_>>())
        .bind(each().map(|attempt| attempt.id.uuid()).collect::<Vec<_>>())
        .bind(each().map(|attempt| attempt.started_at.as_millis()).collect::<Vec<_>>())
        .bind(each().map(|attempt| i64::from(attempt.duration_ms)).collect::<Vec<_>>())
        .bind(each().map(|attempt| attempt.outcome.word()).collect::<Vec<_>>())
        .bind(each().map(|attempt| attempt.counted).collect::<Vec<_>>())
        .bind(each().map(|attempt| plain_option(attempt.code.as_deref())).collect::<Vec<_>>())
        .bind(each().map(|attempt| plain_option(attempt.message.as_deref())).collect::<Vec<_>>())
        .bind(each().map(exchanges).collect::<Result<Vec<_>, _>>()?)
        .bind(each().map(|attempt| plain(&attempt.plugin)).collect::<Vec<_>>())
        .bind(each().map(|attempt| plain(&attempt.correlation)).collect::<Vec<_>>())
        .bind(each().map(|attempt| plain(&attempt.node)).collect::<Vec<_>>());
    tx.run(query).await.map(drop)
}

async fn write_jobs(
    tx: &mut Conn,
    ends: &BTreeMap<Uuid, End>,
    repeats: &BTreeMap<Uuid, Job>,
    lasts: &BTreeMap<Uuid, (String, String)>,
) -> Result<(), Fail> {
    let each = || ends.values();
    let again = || repeats.values();
    let code = |id: &Uuid| lasts.get(id).map(|(code, _)| code.clone());
    let text = |id: &Uuid| lasts.get(id).map(|(_, text)| text.clone());
    let refused: Vec<Uuid> = lasts.keys().filter(|id| repeats.contains_key(*id)).copied().collect();
    let query = sqlx::query(WRITE)
        .bind(ends.keys().copied().collect::<Vec<_>>())
        .bind(each().map(|end| end.status.word()).collect::<Vec<_>>())
        .bind(each().map(|end| end.attempts).collect::<Vec<_>>())
        .bind(each().map(|end| end.finished_at).collect::<Vec<_>>())
        .bind(ends.keys().map(code).collect::<Vec<_>>())
        .bind(ends.keys().map(text).collect::<Vec<_>>())
        .bind(each().map(|end| end.refs.clone()).collect::<Vec<_>>())
        .bind(each().map(|end| end.url.clone()).collect::<Vec<_>>())
        .bind(each().map(|end| end.fence).collect::<Vec<_>>())
        .bind(each().map(|end| end.maybe_sent).collect::<Vec<_>>())
        .bind(each().map(|end| end.memo.clone()).collect::<Vec<_>>())
        .bind(repeats.keys().copied().collect::<Vec<_>>())
        .bind(again().map(|job| job.due_at.as_millis()).collect::<Vec<_>>())
        .bind(again().map(|job| i64::from(job.attempts)).collect::<Vec<_>>())
        .bind(again().map(|job| job.maybe_sent).collect::<Vec<_>>())
        .bind(again().map(|job| i64::from(job.calls)).collect::<Vec<_>>())
        .bind(refused.iter().map(code).collect::<Vec<_>>())
        .bind(refused.iter().map(text).collect::<Vec<_>>())
        .bind(refused.clone())
        // Both are in order.
        .bind(ends.keys().next().copied().unwrap_or_default())
        .bind(ends.keys().next_back().copied().unwrap_or_default())
        .bind(refused.first().copied().unwrap_or_default())
        .bind(refused.last().copied().unwrap_or_default());
    tx.run(query).await.map(drop)
}

macro_rules! jobs {
    ($rest:literal) => {
        concat!(
            "select j.id, j.batch_id, j.fence, j.attempts, j.calls, j.maybe_sent, j.memo, j.sending, j.kind, j.due_at, j.stop, j.lane_id,
                    j.channel, j.deadline_at from jobs j ",
            $rest
        )
    };
}

const LOCK: &str = jobs!("where j.id = any($1) order by j.id for update");

/// Whoever holds one of these leases it at this moment: that is waited for, and then it is being sent. Someone who holds one
/// and waits for another that this transaction holds moves the ends of leases: that circle is undone by the server.
const BESIDE: &str = jobs!(
    "where j.id = any(array(select d.id from deliveries d
                             where d.batch_id = $1 and (d.kind = 'lead' or ($2 and d.kind = 'fallback')) and d.status = 'queued'))
       and j.id <> all($3)
     order by j.id for update"
);

const STOP: &str = "
with t as (
    insert into timers (due_at, subject, kind, rule)
    select u.due_at, u.id, 'deadline', 'stop' from unnest($1::uuid[], $2::bigint[]) as u (id, due_at) order by 1, 2
    on conflict do nothing)
update jobs set stop = true where id = any($1)";

const INSERT_ATTEMPTS: &str = "
insert into attempts (delivery_id, no, id, started_at, duration_ms, outcome, counted, code, message, exchanges, plugin, correlation, node)
select * from unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::bigint[], $5::bigint[], $6::text[], $7::bool[], $8::text[], $9::text[],
                     $10::text[], $11::text[], $12::text[], $13::text[])";

/// What ended, what goes on, and what was said of those that go on: different rows. The bounds keep the other weeks out, also
/// of a plan that is made for any ids.
const WRITE: &str = "
with e as (
    update deliveries d
       set status = u.status, attempts = u.attempts, finished_at = u.finished_at, last_code = coalesce(u.code, d.last_code),
           last_error = coalesce(u.error, d.last_error), refs = u.refs, url = u.url, fence = u.fence, maybe_sent = u.maybe_sent, memo = u.memo
      from unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[],
                  $10::bool[], $11::bytea[])
           as u (id, status, attempts, finished_at, code, error, refs, url, fence, maybe_sent, memo)
     where d.id = u.id and d.id = any($1) and d.id between $20 and $21),
r as (
    update jobs j
       set sending = false, lost = 0, due_at = u.due_at, attempts = u.attempts, maybe_sent = u.maybe_sent, calls = u.calls
      from unnest($12::uuid[], $13::bigint[], $14::bigint[], $15::bool[], $16::bigint[]) as u (id, due_at, attempts, maybe_sent, calls)
     where j.id = u.id),
s as (
    update deliveries d set last_code = u.code, last_error = u.error
      from unnest($17::text[], $18::text[], $19::uuid[]) as u (code, error, id)
     where d.id = u.id and d.id = any($19) and d.id between $22 and $23)
delete from jobs where id = any($1)";
