//! Endings and repetitions of deliveries, gathered by one transaction and written together.

use std::collections::HashSet;

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::book::Book;
use super::pack::Rows;
use super::words::Word;
use super::writer::Tx;
use crate::model::{BatchId, DeliveryId, DeliveryKind, DeliveryStatus, RemoteRef, Timestamp};
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
}

/// The columns that [`Job::read`] expects, after `select`.
macro_rules! job_columns {
    () => {
        "j.id, j.batch_id, j.fence, j.attempts, j.calls, j.maybe_sent, j.memo, j.sending, j.kind"
    };
}
pub(super) use job_columns;

impl Job {
    pub(super) fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        Ok(Self {
            delivery: DeliveryId::from_uuid(row.try_get(0)?),
            batch: BatchId::from_uuid(row.try_get(1)?),
            fence: row.try_get(2)?,
            attempts: row.try_get(3)?,
            calls: row.try_get(4)?,
            maybe_sent: row.try_get(5)?,
            memo: row.try_get(6)?,
            sending: row.try_get(7)?,
            kind: DeliveryKind::read(row.try_get(8)?)?,
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

/// When a delivery is tried again.
pub(super) struct Repeat<'a> {
    pub(super) due_at: Timestamp,
    pub(super) attempts: u32,
    pub(super) maybe_sent: bool,
    /// The number of the last attempt written.
    pub(super) calls: u32,
    pub(super) last: Option<&'a (String, String)>,
}

/// What a transaction settles; nothing is in the database before [`Settling::flush`].
#[derive(Default)]
pub(super) struct Settling {
    pub(super) book: Book,
    /// Deliveries without a job or without a lease by now: later entries about them find nothing.
    gone: HashSet<DeliveryId>,
    attempts: Rows,
    ends: Rows,
    repeats: Rows,
    lasts: Rows,
}

impl Settling {
    pub(super) fn is_gone(&self, delivery: DeliveryId) -> bool {
        self.gone.contains(&delivery)
    }

    /// Adds an attempt under the next number.
    pub(super) fn attempt(&mut self, delivery: DeliveryId, no: u32, attempt: &NewAttempt) -> Result<(), StoreError> {
        let (mut start, mut len) = (0, 0);
        if !attempt.exchanges.is_empty() {
            let exchanges = serde_json::to_vec(&attempt.exchanges)
                .map_err(|error| StoreError::Defect(format!("exchanges cannot be written: {error}")))?;
            (start, len) = self.attempts.aside(&exchanges);
        }
        let NewAttempt { id, started_at, duration_ms, outcome, counted, code, message, plugin, correlation, node, .. } = attempt;
        self.attempts.push(
            &[delivery.uuid(), id.uuid()],
            &(
                (no, started_at.as_millis(), duration_ms, outcome.word(), u8::from(*counted)),
                (code, message, start, len, plugin, correlation, node),
            ),
        )
    }

    pub(super) fn end(&mut self, tx: &mut Tx, job: &Job, ending: Ending<'_>) -> Result<Changed, StoreError> {
        self.gone.insert(job.delivery);
        tx.jobs_removed(1);
        let Ending { status, refs, url, last, attempts, now } = ending;
        // What a retry by hand must know; who reached the remote side for certain is not retried.
        let (memo, maybe_sent) = match status {
            DeliveryStatus::Delivered | DeliveryStatus::Skipped => (None, false),
            DeliveryStatus::Cancelled => (job.memo.as_deref(), job.maybe_sent || job.sending),
            _ => (job.memo.as_deref(), job.maybe_sent || status == DeliveryStatus::InDoubt),
        };
        let refs = (!refs.is_empty()).then_some(refs);
        self.ends.push(
            &[job.delivery.uuid()],
            &(
                (status.word(), attempts, now.as_millis(), last.map(|(code, _)| code), last.map(|(_, text)| text)),
                (refs, url, job.fence, u8::from(maybe_sent), memo),
            ),
        )?;
        if job.kind.counts() { self.book.shift(job.batch, DeliveryStatus::Queued, status, now) } else { self.book.unchanged(job.batch) }
    }

    pub(super) fn repeat(&mut self, job: &Job, repeat: Repeat<'_>) -> Result<Changed, StoreError> {
        self.gone.insert(job.delivery);
        let Repeat { due_at, attempts, maybe_sent, calls, last } = repeat;
        self.repeats.push(&[job.delivery.uuid()], &(due_at.as_millis(), attempts, u8::from(maybe_sent), calls))?;
        if let Some((code, text)) = last {
            self.lasts.push(&[job.delivery.uuid()], &(code, text))?;
        }
        self.book.unchanged(job.batch)
    }

    /// Ends what waits in a batch as cancelled. How many, and the last change.
    pub(super) async fn cancel_waiting(
        &mut self,
        tx: &mut Tx,
        batch: BatchId,
        now: Timestamp,
    ) -> Result<(u32, Option<Changed>), StoreError> {
        // What was gathered so far decides what still waits.
        self.flush(tx).await?;
        let waiting = sqlx::query(WAITING).bind(batch.uuid()).bind(now.as_millis()).fetch_all(&mut tx.conn).await?;
        let mut changed = None;
        for row in &waiting {
            let job = Job::read(row)?;
            changed = Some(self.end(tx, &job, Ending::cancelled(job.attempts, now))?);
        }
        Ok((waiting.len() as u32, changed))
    }

    /// Writes everything but the book.
    pub(super) async fn flush(&mut self, tx: &mut Tx) -> Result<(), StoreError> {
        if !self.attempts.is_empty() {
            let (json, ids, exchanges) = self.attempts.take();
            sqlx::query(INSERT_ATTEMPTS).bind(json).bind(ids).bind(exchanges).execute(&mut tx.conn).await?;
        }
        if !self.ends.is_empty() {
            let (json, ids, _) = self.ends.take();
            sqlx::query(END).bind(json).bind(ids).execute(&mut tx.conn).await?;
        }
        if !self.repeats.is_empty() {
            let (json, ids, _) = self.repeats.take();
            sqlx::query(REPEAT).bind(json).bind(ids).execute(&mut tx.conn).await?;
        }
        if !self.lasts.is_empty() {
            let (json, ids, _) = self.lasts.take();
            sqlx::query(LASTS).bind(json).bind(ids).execute(&mut tx.conn).await?;
        }
        Ok(())
    }

    /// Writes everything.
    pub(super) async fn write(mut self, tx: &mut Tx) -> Result<(), StoreError> {
        self.flush(tx).await?;
        self.book.write(tx).await
    }
}

/// No lease, or one that has ended: then nobody is sending any more.
const WAITING: &str = concat!(
    "select ",
    job_columns!(),
    " from deliveries d cross join jobs j on j.id = d.id
     where d.batch_id = $1 and j.kind = 'lead' and (j.sending = 0 or j.due_at <= $2)
     order by d.position"
);

const INSERT_ATTEMPTS: &str = "
insert into attempts (delivery_id, id, no, started_at, duration_ms, outcome, counted, code, message, exchanges, plugin, correlation, node)
select substr($2, 32 * r.key + 1, 16), substr($2, 32 * r.key + 17, 16),
       r.value ->> '$[0][0]', r.value ->> '$[0][1]', r.value ->> '$[0][2]', r.value ->> '$[0][3]', r.value ->> '$[0][4]',
       r.value ->> '$[1][0]', r.value ->> '$[1][1]',
       nullif(cast(substr($3, 1 + (r.value ->> '$[1][2]'), r.value ->> '$[1][3]') as text), ''),
       r.value ->> '$[1][4]', r.value ->> '$[1][5]', r.value ->> '$[1][6]'
  from json_each($1) r";

/// The words of an earlier refusal stay when there are no newer ones.
const END: &str = "
update deliveries
   set status = r.value ->> '$[0][0]', attempts = r.value ->> '$[0][1]', finished_at = r.value ->> '$[0][2]',
       last_code = coalesce(r.value ->> '$[0][3]', last_code), last_error = coalesce(r.value ->> '$[0][4]', last_error),
       refs = r.value ->> '$[1][0]', url = r.value ->> '$[1][1]', fence = r.value ->> '$[1][2]',
       maybe_sent = r.value ->> '$[1][3]', memo = r.value ->> '$[1][4]'
  from json_each($1) r
 where deliveries.id = substr($2, 16 * r.key + 1, 16);
delete from jobs where id in (select substr($2, 16 * r.key + 1, 16) from json_each($1) r)";

const REPEAT: &str = "
update jobs
   set sending = 0, lost = 0, due_at = r.value ->> 0, attempts = r.value ->> 1, maybe_sent = r.value ->> 2, calls = r.value ->> 3
  from json_each($1) r
 where jobs.id = substr($2, 16 * r.key + 1, 16)";

const LASTS: &str = "
update deliveries set last_code = r.value ->> 0, last_error = r.value ->> 1
  from json_each($1) r
 where deliveries.id = substr($2, 16 * r.key + 1, 16)";

/// The statements on the hot path, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[WAITING, INSERT_ATTEMPTS, END, REPEAT, LASTS];
