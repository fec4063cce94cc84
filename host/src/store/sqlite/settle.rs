//! Endings and repetitions of deliveries. The counters of their batches move in memory until [`Settling::write`].

use std::borrow::Cow;

use rusqlite::{Row, params};

use super::book::Book;
use super::words::{Word, word};
use super::writer::Tx;
use crate::fault::{self, Point};
use crate::model::{BatchId, Change, CredentialId, DeliveryId, DeliveryKind, DeliveryStatus, RemoteRef, Timestamp, told_code};
use crate::store::{Changed, NewAttempt, StoreError};

/// A job as read before its delivery ends or goes on.
pub(super) struct Job {
    pub(super) delivery: DeliveryId,
    pub(super) batch: BatchId,
    pub(super) fence: i64,
    pub(super) attempts: u32,
    pub(super) calls: u32,
    pub(super) maybe_sent: bool,
    pub(super) memo: Option<String>,
    /// Leased and not answered.
    pub(super) sending: bool,
    pub(super) kind: DeliveryKind,
    /// It gets no further attempt.
    pub(super) stop: bool,
    /// Its credential.
    pub(super) credential: CredentialId,
}

/// The columns that [`Job::read`] expects, after `select`.
macro_rules! job_columns {
    () => {
        "id, batch_id, fence, attempts, calls, maybe_sent, memo, sending, kind, stop, lane_id"
    };
}
pub(super) use job_columns;

impl Job {
    pub(super) fn read(row: &Row<'_>) -> Result<Self, StoreError> {
        Ok(Self {
            delivery: DeliveryId::from_uuid(row.get(0)?),
            batch: BatchId::from_uuid(row.get(1)?),
            fence: row.get(2)?,
            attempts: row.get(3)?,
            calls: row.get(4)?,
            maybe_sent: row.get(5)?,
            memo: row.get(6)?,
            sending: row.get(7)?,
            kind: word(row, 8)?,
            stop: row.get(9)?,
            credential: CredentialId::from_uuid(row.get(10)?).of_lane(),
        })
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

/// What a transaction settles.
#[derive(Default)]
pub(super) struct Settling {
    pub(super) book: Book,
}

impl Settling {
    /// Adds an attempt under the next number.
    pub(super) fn attempt(&self, tx: &Tx, delivery: DeliveryId, no: u32, attempt: &NewAttempt) -> Result<(), StoreError> {
        let NewAttempt { id, started_at, duration_ms, outcome, counted, code, message, exchanges, plugin, correlation, node } = attempt;
        let exchanges = (!exchanges.is_empty()).then(|| super::to_json(exchanges)).transpose()?;
        let (delivery, id, started_at, outcome) = (delivery.uuid(), id.uuid(), started_at.as_millis(), outcome.word());
        tx.db.run(
            INSERT_ATTEMPT,
            params![delivery, no, id, started_at, duration_ms, outcome, counted, code, message, exchanges, plugin, correlation, node],
        )?;
        fault::pass(Point::SettleAttempt);
        Ok(())
    }

    /// Ends the delivery of a job, which goes.
    pub(super) fn end(&mut self, tx: &mut Tx, job: &Job, ending: Ending<'_>) -> Result<Changed, StoreError> {
        let Ending { status, refs, url, last, attempts, now } = ending;
        // What a retry by hand must know; who reached the remote side for certain is not retried.
        let (memo, maybe_sent) = match status {
            DeliveryStatus::Delivered | DeliveryStatus::Skipped => (None, false),
            DeliveryStatus::Cancelled => (job.memo.as_deref(), job.maybe_sent || job.sending),
            _ => (job.memo.as_deref(), job.maybe_sent || status == DeliveryStatus::InDoubt),
        };
        let refs = (!refs.is_empty()).then(|| super::to_json(&refs)).transpose()?;
        let (code, text) = last.map_or((None, None), |(code, text)| (Some(code.as_str()), Some(text)));
        let (id, word, finished_at) = (job.delivery.uuid(), status.word(), now.as_millis());
        let params = params![id, word, attempts, finished_at, code, text, refs, url, job.fence, maybe_sent, memo];
        let channel: Option<String> = tx.db.first(END, params, |row| Ok(row.get(0)?))?;
        fault::pass(Point::SettleDelivery);
        tx.db.run(DELETE_JOB, params![id])?;
        fault::pass(Point::SettleJob);
        tx.jobs_removed(1);
        let happened = Happened { status, due_at: None, code, at: now };
        self.tell(tx, job, channel, happened)?;
        self.book.moved(tx, job.batch, job.kind, (DeliveryStatus::Queued, status), now)
    }

    pub(super) fn repeat(&mut self, tx: &mut Tx, job: &Job, repeat: Repeat<'_>) -> Result<Changed, StoreError> {
        let Repeat { due_at, attempts, maybe_sent, calls, now, last } = repeat;
        let id = job.delivery.uuid();
        tx.db.run(REPEAT, params![id, due_at.as_millis(), attempts, maybe_sent, calls])?;
        let (code, text) = last.map_or((None, None), |(code, text)| (Some(code.as_str()), Some(text)));
        let channel: Option<String> = tx.db.first(LAST, params![id, code, text], |row| Ok(row.get(0)?))?;
        let happened = Happened { status: DeliveryStatus::Queued, due_at: Some(due_at), code, at: now };
        self.tell(tx, job, channel, happened)?;
        self.book.unchanged(tx, job.batch)
    }

    /// Notes what happened to a job's delivery, for those who follow live.
    fn tell(&mut self, tx: &mut Tx, job: &Job, channel: Option<String>, happened: Happened<'_>) -> Result<(), StoreError> {
        let (lead, project) = self.book.belongs(tx, job.batch)?;
        let Happened { status, due_at, code, at } = happened;
        let change = Change::Delivery {
            delivery: job.delivery,
            batch: job.batch,
            lead,
            credential: job.credential,
            channel: Cow::Owned(channel.unwrap_or_default()),
            kind: job.kind,
            status,
            due_at,
            retry: due_at.is_some(),
            code: code.and_then(told_code).map(Cow::Borrowed),
        };
        tx.tell(at, project, &change);
        Ok(())
    }

    /// Ends what waits in a batch as cancelled, and lets what is being sent have no further attempt. How many ended, and
    /// what changed.
    pub(super) fn cancel_waiting(
        &mut self,
        tx: &mut Tx,
        batch: BatchId,
        fallbacks: Fallbacks,
        now: Timestamp,
    ) -> Result<(u32, Option<Changed>), StoreError> {
        let too = fallbacks == Fallbacks::Too;
        let waiting = tx.db.all(WAITING, params![batch.uuid(), now.as_millis(), too], Job::read)?;
        let mut changed: Option<Changed> = None;
        for job in &waiting {
            let one = self.end(tx, job, Ending::cancelled(job.attempts, now))?;
            changed.get_or_insert_with(|| Changed::only(one.batch, one.lead)).merge(one);
        }
        // Should the node be lost meanwhile, a timer at the end of the lease cancels it.
        if tx.db.run(STOP_TIMERS, params![batch.uuid(), now.as_millis(), too])? > 0 {
            tx.db.run(STOP, params![batch.uuid(), now.as_millis(), too])?;
            let unchanged = self.book.unchanged(tx, batch)?;
            changed.get_or_insert(unchanged).timer = true;
        }
        Ok((waiting.len() as u32, changed))
    }

    /// Writes the counters, and what follows the ends of batches.
    pub(super) fn write(self, tx: &mut Tx) -> Result<(), StoreError> {
        self.book.write(tx)
    }
}

/// No lease, or one that has ended: then nobody is sending any more.
const WAITING: &str = "
select j.id, j.batch_id, j.fence, j.attempts, j.calls, j.maybe_sent, j.memo, j.sending, j.kind, j.stop, j.lane_id
  from deliveries d cross join jobs j on j.id = d.id
 where d.batch_id = ?1 and (j.kind = 'lead' or (?3 and j.kind = 'fallback')) and (j.sending = 0 or j.due_at <= ?2)
 order by d.position";

const STOP_TIMERS: &str = "
insert or ignore into timers (due_at, subject, kind, rule)
select j.due_at, j.id, 'deadline', 'stop' from deliveries d cross join jobs j on j.id = d.id
 where d.batch_id = ?1 and (j.kind = 'lead' or (?3 and j.kind = 'fallback')) and j.sending = 1 and j.due_at > ?2";

const STOP: &str = "
update jobs set stop = 1
 where id in (select id from deliveries where batch_id = ?1 and (kind = 'lead' or (?3 and kind = 'fallback'))) and sending = 1 and due_at > ?2";

const INSERT_ATTEMPT: &str = "
insert into attempts (delivery_id, no, id, started_at, duration_ms, outcome, counted, code, message, exchanges, plugin, correlation, node)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";

/// The words of an earlier refusal stay when there are no newer ones.
const END: &str = "
update deliveries
   set status = ?2, attempts = ?3, finished_at = ?4, last_code = coalesce(?5, last_code), last_error = coalesce(?6, last_error),
       refs = ?7, url = ?8, fence = ?9, maybe_sent = ?10, memo = ?11
 where id = ?1
returning channel";

const DELETE_JOB: &str = "delete from jobs where id = ?1";

const REPEAT: &str = "
update jobs set sending = 0, lost = 0, due_at = ?2, attempts = ?3, maybe_sent = ?4, calls = ?5 where id = ?1";

const LAST: &str = "
update deliveries set last_code = coalesce(?2, last_code), last_error = coalesce(?3, last_error) where id = ?1 returning channel";

/// The statements on the hot path, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[WAITING, STOP_TIMERS, STOP, INSERT_ATTEMPT, END, DELETE_JOB, REPEAT, LAST];
