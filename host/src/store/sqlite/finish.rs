//! What follows a lease, and what people do to deliveries: finish, cancel, retry.

use std::borrow::Cow;
use std::collections::HashMap;

use rusqlite::params;

use super::settle::{Ending, Fallbacks, Job, Repeat, Settling, job_columns};
use super::words::{Word, word};
use super::writer::Tx;
use crate::model::{AttemptOutcome, BatchId, Change, CredentialId, DeliveryId, DeliveryKind, DeliveryStatus, Timestamp};
use crate::store::{Changed, Finish, Next, StoreError};

/// Finishes them all, in order.
pub(super) fn run<'a>(tx: &mut Tx, group: impl Iterator<Item = &'a Finish>) -> Result<Vec<Option<Changed>>, StoreError> {
    let mut settling = Settling::default();
    let mut changed = Vec::new();
    for finish in group {
        // The lease stands, or nothing is written for it.
        let job = tx.db.first(STANDING, params![finish.job.delivery.uuid(), finish.job.fence], Job::read)?;
        changed.push(job.map(|job| one(tx, &mut settling, job, finish)).transpose()?);
    }
    settling.write(tx)?;
    Ok(changed)
}

const STANDING: &str = concat!("select ", job_columns!(), " from jobs where id = ?1 and fence = ?2 and sending = 1");

fn one(tx: &mut Tx, settling: &mut Settling, mut job: Job, finish: &Finish) -> Result<Changed, StoreError> {
    let mut calls = job.calls;
    for attempt in &finish.attempts {
        calls += 1;
        settling.attempt(tx, job.delivery, calls, attempt)?;
    }
    let last = finish.last.as_ref();
    match &finish.next {
        Next::Again { due_at, attempts, maybe_sent } => match barred(tx, &job, finish)? {
            None => {
                let now = finish.now;
                settling.repeat(tx, &job, Repeat { due_at: *due_at, attempts: *attempts, maybe_sent: *maybe_sent, calls, now, last })
            }
            Some((status, last)) => {
                (job.maybe_sent, job.sending) = (*maybe_sent, false);
                let ending = Ending { status, refs: &[], url: None, last: last.as_ref(), attempts: *attempts, now: finish.now };
                end(tx, settling, &job, ending)
            }
        },
        Next::End { status, .. } if !status.is_terminal() => Err(StoreError::Defect(format!("a delivery cannot end as {}", status.word()))),
        Next::End { status, refs, url } => {
            // A lost attempt was counted when the lease found it.
            let own = finish.attempts.iter().filter(|attempt| attempt.counted && attempt.outcome != AttemptOutcome::Lost).count();
            let attempts = job.attempts + own as u32;
            // What would have been tried again may have been sent: only a refusal is sure. A retry by hand must know.
            job.maybe_sent |= finish.attempts.iter().any(|attempt| attempt.outcome == AttemptOutcome::Retry);
            end(tx, settling, &job, Ending { status: *status, refs, url: url.as_deref(), last, attempts, now: finish.now })
        }
    }
}

/// A status to end in, and the words that are kept.
type Barred = (DeliveryStatus, Option<(String, String)>);

/// How a delivery ends that its outcome would try again: its batch was cancelled meanwhile, or its deadline has passed.
fn barred(tx: &Tx, job: &Job, finish: &Finish) -> Result<Option<Barred>, StoreError> {
    if job.stop {
        return Ok(Some((DeliveryStatus::Cancelled, finish.last.clone())));
    }
    let overdue = tx.db.first(OVERDUE, params![job.delivery.uuid(), finish.now.as_millis()], |_| Ok(()))?.is_some();
    Ok(overdue.then(|| {
        let before = finish.last.as_ref().map_or_else(String::new, |(code, text)| format!("; last: {code}: {text}"));
        (DeliveryStatus::Failed, Some(("deadline".to_owned(), format!("it was not sent by its deadline{before}"))))
    }))
}

const OVERDUE: &str = "select 1 from deliveries where id = ?1 and deadline_at <= ?2";

/// Ends a delivery; a failure cancels what waits beside it, where the batch says so.
pub(super) fn end(tx: &mut Tx, settling: &mut Settling, job: &Job, ending: Ending<'_>) -> Result<Changed, StoreError> {
    let (status, now) = (ending.status, ending.now);
    let mut changed = settling.end(tx, job, ending)?;
    if status != DeliveryStatus::Failed || !job.kind.counts() || settling.book.allows_failures(tx, job.batch)? {
        return Ok(changed);
    }
    let (_, by_siblings) = settling.cancel_waiting(tx, job.batch, Fallbacks::Stay, now)?;
    by_siblings.into_iter().for_each(|later| changed.merge(later));
    Ok(changed)
}

pub(super) fn cancel_delivery(tx: &mut Tx, id: DeliveryId, now: Timestamp) -> Result<Option<Changed>, StoreError> {
    let Some(job) = tx.db.first(CANCELLABLE, params![id.uuid(), now.as_millis()], Job::read)? else { return Ok(None) };
    let mut settling = Settling::default();
    let changed = settling.end(tx, &job, Ending::cancelled(job.attempts, now))?;
    settling.write(tx)?;
    Ok(Some(changed))
}

pub(super) const CANCELLABLE: &str = concat!("select ", job_columns!(), " from jobs where id = ?1 and (sending = 0 or due_at <= ?2)");

pub(super) fn cancel_batch(tx: &mut Tx, id: BatchId, now: Timestamp) -> Result<Option<(u32, Changed)>, StoreError> {
    let mut settling = Settling::default();
    if !settling.book.knows(tx, id)? {
        return Ok(None);
    }
    let unchanged = settling.book.unchanged(tx, id)?;
    let (count, changed) = settling.cancel_waiting(tx, id, Fallbacks::Too, now)?;
    settling.write(tx)?;
    Ok(Some((count, changed.unwrap_or(unchanged))))
}

/// Cancels up to `limit` waiting deliveries of a lane. How many, and one change for each batch.
pub(super) fn cancel_lane(tx: &mut Tx, lane: CredentialId, now: Timestamp, limit: u32) -> Result<(u32, Vec<Changed>), StoreError> {
    let jobs = tx.db.all(WAITING_IN_LANE, params![lane.uuid(), now.as_millis(), limit], Job::read)?;
    let mut settling = Settling::default();
    let mut by_batch = HashMap::new();
    for job in &jobs {
        let changed = settling.end(tx, job, Ending::cancelled(job.attempts, now))?;
        by_batch.entry(job.batch).or_insert_with(|| Changed::only(changed.batch, changed.lead)).merge(changed);
    }
    settling.write(tx)?;
    Ok((jobs.len() as u32, by_batch.into_values().collect()))
}

const WAITING_IN_LANE: &str =
    concat!("select ", job_columns!(), " from jobs where lane_id = ?1 and (sending = 0 or due_at <= ?2) limit ?3");

pub(super) fn retry_delivery(tx: &mut Tx, id: DeliveryId, now: Timestamp) -> Result<Option<Changed>, StoreError> {
    let Some(ended) = retryable(tx, id, Timestamp::from_millis(i64::MAX))? else { return Ok(None) };
    let mut settling = Settling::default();
    let changed = requeue(tx, &mut settling, id, &ended, ended.credential, now)?;
    settling.write(tx)?;
    Ok(Some(changed))
}

/// A delivery that ended without success.
pub(super) struct Ended {
    status: DeliveryStatus,
    kind: DeliveryKind,
    pub(super) batch: BatchId,
    pub(super) credential: CredentialId,
    channel: String,
}

/// The delivery, if it may be queued again and had ended by then.
pub(super) fn retryable(tx: &Tx, id: DeliveryId, by: Timestamp) -> Result<Option<Ended>, StoreError> {
    tx.db.first(RETRYABLE, params![id.uuid(), by.as_millis()], |row| {
        let (batch, credential) = (BatchId::from_uuid(row.get(1)?), CredentialId::from_uuid(row.get(2)?));
        Ok(Ended { status: word(row, 0)?, kind: word(row, 3)?, batch, credential, channel: row.get(4)? })
    })
}

const RETRYABLE: &str = "
select status, batch_id, credential_id, kind, channel from deliveries
 where id = ?1 and status in ('failed', 'in_doubt', 'cancelled') and finished_at <= ?2";

/// Queues it again in this lane.
pub(super) fn requeue(
    tx: &mut Tx,
    settling: &mut Settling,
    id: DeliveryId,
    ended: &Ended,
    lane: CredentialId,
    now: Timestamp,
) -> Result<Changed, StoreError> {
    let changed = settling.book.moved(tx, ended.batch, ended.kind, (ended.status, DeliveryStatus::Queued), now)?;
    tx.db.run(RETRY, params![id.uuid(), now.as_millis(), lane.uuid()])?;
    tx.db.run(REQUEUE, params![id.uuid()])?;
    tx.db.run(LOOK_AGAIN, params![id.uuid()])?;
    tx.jobs_added(1);
    let (lead, project) = settling.book.belongs(tx, ended.batch)?;
    let again = Change::Delivery {
        delivery: id,
        batch: ended.batch,
        lead,
        credential: ended.credential,
        channel: Cow::Borrowed(&ended.channel),
        kind: ended.kind,
        status: DeliveryStatus::Queued,
        due_at: Some(now),
        retry: false,
        code: None,
    };
    tx.tell(now, project, &again);
    Ok(changed)
}

/// A retry by hand has no deadline. The new job goes on where the old one ended: its numbers grow, so that no late answer of its first life fits.
const RETRY: &str = "
insert into jobs (id, lane_id, due_at, was_due, fence, calls, maybe_sent, memo, batch_id, lead_id, correlation, settings,
                  kind, event)
select d.id, ?3, ?2, ?2, d.fence, max(coalesce((select max(no) from attempts where delivery_id = d.id), 0), d.attempts_pruned),
       d.maybe_sent, d.memo, d.batch_id, d.lead_id, b.correlation, d.settings, d.kind, d.event
  from deliveries d cross join batches b on b.id = d.batch_id
 where d.id = ?1";

const REQUEUE: &str = "update deliveries set status = 'queued', attempts = 0, finished_at = null, deadline_at = null where id = ?1";

/// Clean-ups of attempts that have passed the delivery begin anew: it gets new ones.
const LOOK_AGAIN: &str = "
update cleanups set place = null where scope = (select project_id from deliveries where id = ?1) and place >= ?1";

/// The statements on the hot path, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[STANDING, OVERDUE, CANCELLABLE, WAITING_IN_LANE, RETRYABLE, RETRY, REQUEUE, LOOK_AGAIN];
