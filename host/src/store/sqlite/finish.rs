//! What follows a lease, and what people do to deliveries: finish, cancel, retry.

use std::collections::HashMap;

use sqlx::Row;

use super::pack::Rows;
use super::settle::{Ending, Job, Repeat, Settling, job_columns};
use super::words::Word;
use super::writer::Tx;
use crate::model::{AttemptOutcome, BatchId, CredentialId, DeliveryId, DeliveryKind, DeliveryStatus, Timestamp};
use crate::store::{Changed, Finish, Next, StoreError};

/// Finishes them all, in order.
pub(super) async fn run(tx: &mut Tx, group: &[&Finish]) -> Result<Vec<Option<Changed>>, StoreError> {
    let mut settling = Settling::default();
    let mut jobs = standing(tx, group).await?;
    settling.book.load(tx, jobs.values().map(|job| job.batch)).await?;
    let mut changed = Vec::with_capacity(group.len());
    for (index, finish) in group.iter().enumerate() {
        changed.push(match jobs.remove(&index) {
            Some(job) if !settling.is_gone(job.delivery) => Some(one(tx, &mut settling, &job, finish).await?),
            _ => None,
        });
    }
    settling.write(tx).await?;
    Ok(changed)
}

/// The jobs whose leases stand, by their place in the group.
async fn standing(tx: &mut Tx, group: &[&Finish]) -> Result<HashMap<usize, Job>, StoreError> {
    let mut rows = Rows::default();
    for finish in group {
        rows.push(&[finish.job.delivery.uuid()], &finish.job.fence)?;
    }
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    let (json, ids, _) = rows.take();
    let rows = sqlx::query(STANDING).bind(json).bind(ids).fetch_all(&mut tx.conn).await?;
    rows.iter().map(|row| Ok((row.try_get::<i64, _>(9)? as usize, Job::read(row)?))).collect()
}

const STANDING: &str = concat!(
    "select ",
    job_columns!(),
    ", r.key
      from json_each($1) r cross join jobs j on j.id = substr($2, 16 * r.key + 1, 16)
     where j.fence = r.value and j.sending = 1"
);

async fn one(tx: &mut Tx, settling: &mut Settling, job: &Job, finish: &Finish) -> Result<Changed, StoreError> {
    let mut calls = job.calls;
    for attempt in &finish.attempts {
        calls += 1;
        settling.attempt(job.delivery, calls, attempt)?;
    }
    let last = finish.last.as_ref();
    match &finish.next {
        Next::Again { due_at, attempts, maybe_sent } => {
            settling.repeat(job, Repeat { due_at: *due_at, attempts: *attempts, maybe_sent: *maybe_sent, calls, last })
        }
        Next::End { status, .. } if !status.is_terminal() => Err(StoreError::Defect(format!("a delivery cannot end as {}", status.word()))),
        Next::End { status, refs, url } => {
            // A lost attempt was counted when the lease found it.
            let own = finish.attempts.iter().filter(|attempt| attempt.counted && attempt.outcome != AttemptOutcome::Lost).count();
            let attempts = job.attempts + own as u32;
            let ending = Ending { status: *status, refs, url: url.as_deref(), last, attempts, now: finish.now };
            let mut changed = settling.end(tx, job, ending)?;
            if *status == DeliveryStatus::Failed && job.kind.counts() && !settling.book.allows_failures(job.batch) {
                let (_, by_siblings) = settling.cancel_waiting(tx, job.batch, finish.now).await?;
                changed = by_siblings.unwrap_or(changed);
            }
            Ok(changed)
        }
    }
}

pub(super) async fn cancel_delivery(tx: &mut Tx, id: DeliveryId, now: Timestamp) -> Result<Option<Changed>, StoreError> {
    let row = sqlx::query(CANCELLABLE).bind(id.uuid()).bind(now.as_millis()).fetch_optional(&mut tx.conn).await?;
    let Some(row) = row else { return Ok(None) };
    let job = Job::read(&row)?;
    let mut settling = Settling::default();
    settling.book.load(tx, std::iter::once(job.batch)).await?;
    let changed = settling.end(tx, &job, Ending::cancelled(job.attempts, now))?;
    settling.write(tx).await?;
    Ok(Some(changed))
}

const CANCELLABLE: &str = concat!("select ", job_columns!(), " from jobs j where j.id = $1 and (j.sending = 0 or j.due_at <= $2)");

pub(super) async fn cancel_batch(tx: &mut Tx, id: BatchId, now: Timestamp) -> Result<Option<(u32, Changed)>, StoreError> {
    let mut settling = Settling::default();
    settling.book.load(tx, std::iter::once(id)).await?;
    let Ok(unchanged) = settling.book.unchanged(id) else { return Ok(None) };
    let (count, changed) = settling.cancel_waiting(tx, id, now).await?;
    settling.write(tx).await?;
    Ok(Some((count, changed.unwrap_or(unchanged))))
}

/// Cancels up to `limit` waiting deliveries of a lane. How many, and one change for each batch.
pub(super) async fn cancel_lane(tx: &mut Tx, lane: CredentialId, now: Timestamp, limit: u32) -> Result<(u32, Vec<Changed>), StoreError> {
    let rows = sqlx::query(WAITING_IN_LANE).bind(lane.uuid()).bind(now.as_millis()).bind(limit).fetch_all(&mut tx.conn).await?;
    let jobs = rows.iter().map(Job::read).collect::<Result<Vec<_>, _>>()?;
    let mut settling = Settling::default();
    settling.book.load(tx, jobs.iter().map(|job| job.batch)).await?;
    let mut by_batch = HashMap::new();
    for job in &jobs {
        let changed = settling.end(tx, job, Ending::cancelled(job.attempts, now))?;
        by_batch.entry(job.batch).or_insert_with(|| Changed::only(changed.batch, changed.lead)).merge(changed);
    }
    settling.write(tx).await?;
    Ok((jobs.len() as u32, by_batch.into_values().collect()))
}

const WAITING_IN_LANE: &str =
    concat!("select ", job_columns!(), " from jobs j where j.lane_id = $1 and (j.sending = 0 or j.due_at <= $2) limit $3");

pub(super) async fn retry_delivery(tx: &mut Tx, id: DeliveryId, now: Timestamp) -> Result<Option<Changed>, StoreError> {
    let row = sqlx::query(RETRYABLE).bind(id.uuid()).fetch_optional(&mut tx.conn).await?;
    let Some(row) = row else { return Ok(None) };
    let status = DeliveryStatus::read(row.try_get(0)?)?;
    let batch = BatchId::from_uuid(row.try_get(1)?);
    let kind = DeliveryKind::read(row.try_get(2)?)?;
    let mut settling = Settling::default();
    settling.book.load(tx, std::iter::once(batch)).await?;
    let changed =
        if kind.counts() { settling.book.shift(batch, status, DeliveryStatus::Queued, now)? } else { settling.book.unchanged(batch)? };
    sqlx::query(RETRY).bind(id.uuid()).bind(now.as_millis()).execute(&mut tx.conn).await?;
    tx.jobs_added(1);
    settling.write(tx).await?;
    Ok(Some(changed))
}

const RETRYABLE: &str = "
select status, batch_id, kind from deliveries where id = $1 and status in ('failed', 'in_doubt', 'cancelled')";

/// The new job goes on where the old one ended: its numbers grow, so that no late answer of its first life fits.
const RETRY: &str = "
insert into jobs (id, lane_id, due_at, was_due, fence, calls, maybe_sent, memo, batch_id, lead_id, correlation, settings,
                  kind, event)
select d.id, d.credential_id, $2, $2, d.fence, coalesce((select max(no) from attempts where delivery_id = d.id), 0),
       d.maybe_sent, d.memo, d.batch_id, d.lead_id, b.correlation, d.settings, d.kind, d.event
  from deliveries d cross join batches b on b.id = d.batch_id
 where d.id = $1;
update deliveries set status = 'queued', attempts = 0, finished_at = null where id = $1";

/// The statements on the hot path, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[STANDING, CANCELLABLE, WAITING_IN_LANE, RETRYABLE, RETRY];
