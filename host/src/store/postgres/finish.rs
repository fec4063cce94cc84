//! What follows a lease, and what people do to deliveries: finish, cancel, retry.

use std::collections::HashMap;

use sqlx::Row;
use uuid::Uuid;

use super::error::Fail;
use super::pool::Conn;
use super::settle::{Ending, Fallbacks, Job, Repeat, Settling};
use crate::model::{AttemptOutcome, BatchId, CredentialId, DeliveryId, DeliveryStatus, Timestamp};
use crate::store::{Changed, Finish, Next};

/// Finishes them all, in order.
pub(super) async fn run(tx: &mut Conn, group: &[&Finish]) -> Result<Vec<Option<Changed>>, Fail> {
    let mut settling = Settling::lock(tx, group.iter().map(|finish| finish.job.delivery.uuid()).collect()).await?;
    let mut changed = Vec::with_capacity(group.len());
    for finish in group {
        // The lease stands, or nothing is written for it.
        let standing = settling.job(finish.job.delivery).filter(|job| job.sending && job.fence == finish.job.fence);
        changed.push(match standing {
            Some(job) => Some(one(tx, &mut settling, job, finish).await?),
            None => None,
        });
    }
    settling.write(tx).await?;
    Ok(changed)
}

async fn one(tx: &mut Conn, settling: &mut Settling, mut job: Job, finish: &Finish) -> Result<Changed, Fail> {
    let mut calls = job.calls;
    for attempt in &finish.attempts {
        calls += 1;
        settling.attempt(job.delivery, calls, attempt);
    }
    let last = finish.last.as_ref();
    match &finish.next {
        Next::Again { due_at, attempts, maybe_sent } => match barred(&job, finish) {
            None => {
                let now = finish.now;
                settling.repeat(tx, &job, Repeat { due_at: *due_at, attempts: *attempts, maybe_sent: *maybe_sent, calls, now, last })
            }
            Some((status, last)) => {
                (job.maybe_sent, job.sending) = (*maybe_sent, false);
                let ending = Ending { status, refs: &[], url: None, last: last.as_ref(), attempts: *attempts, now: finish.now };
                end(tx, settling, &job, ending).await
            }
        },
        Next::End { status, .. } if !status.is_terminal() => Err(Fail::defect(format!("a delivery cannot end as {status:?}"))),
        Next::End { status, refs, url } => {
            // A lost attempt was counted when the lease found it.
            let own = finish.attempts.iter().filter(|attempt| attempt.counted && attempt.outcome != AttemptOutcome::Lost).count();
            let attempts = job.attempts + u32::try_from(own).unwrap_or(0);
            // What would have been tried again may have been sent: only a refusal is sure. A retry by hand must know.
            job.maybe_sent |= finish.attempts.iter().any(|attempt| attempt.outcome == AttemptOutcome::Retry);
            end(tx, settling, &job, Ending { status: *status, refs, url: url.as_deref(), last, attempts, now: finish.now }).await
        }
    }
}

/// A status to end in, and the words that are kept.
type Barred = (DeliveryStatus, Option<(String, String)>);

/// How a delivery ends that its outcome would try again: its batch was cancelled meanwhile, or its deadline has passed.
fn barred(job: &Job, finish: &Finish) -> Option<Barred> {
    if job.stop {
        return Some((DeliveryStatus::Cancelled, finish.last.clone()));
    }
    job.deadline_at.filter(|deadline| *deadline <= finish.now)?;
    let before = finish.last.as_ref().map_or_else(String::new, |(code, text)| format!("; last: {code}: {text}"));
    Some((DeliveryStatus::Failed, Some(("deadline".to_owned(), format!("it was not sent by its deadline{before}")))))
}

/// Ends a delivery; a failure cancels what waits beside it, where the batch says so.
pub(super) async fn end(tx: &mut Conn, settling: &mut Settling, job: &Job, ending: Ending<'_>) -> Result<Changed, Fail> {
    let (status, now) = (ending.status, ending.now);
    let mut changed = settling.end(tx, job, ending)?;
    if status != DeliveryStatus::Failed || !job.kind.counts() || settling.book.allows_failures(job.batch)? {
        return Ok(changed);
    }
    let (_, by_siblings) = settling.cancel_waiting(tx, job.batch, Fallbacks::Stay, now).await?;
    by_siblings.into_iter().for_each(|later| changed.merge(later));
    Ok(changed)
}

pub(super) async fn cancel_delivery(tx: &mut Conn, id: DeliveryId, now: Timestamp) -> Result<Option<Changed>, Fail> {
    let mut settling = Settling::lock(tx, vec![id.uuid()]).await?;
    let Some(job) = settling.job(id).filter(|job| job.waits(now)) else { return Ok(None) };
    let changed = settling.end(tx, &job, Ending::cancelled(job.attempts, now))?;
    settling.write(tx).await?;
    Ok(Some(changed))
}

pub(super) async fn cancel_batch(tx: &mut Conn, id: BatchId, now: Timestamp) -> Result<Option<(u32, Changed)>, Fail> {
    let mut settling = Settling::of(super::book::Book::lock(tx, vec![id.uuid()]).await?);
    if !settling.book.knows(id) {
        return Ok(None);
    }
    let unchanged = settling.book.unchanged(id)?;
    let (count, changed) = settling.cancel_waiting(tx, id, Fallbacks::Too, now).await?;
    settling.write(tx).await?;
    Ok(Some((count, changed.unwrap_or(unchanged))))
}

/// Cancels up to `limit` waiting deliveries of a credential's two lanes. How many were there, and one change for each batch.
pub(super) async fn cancel_lanes(tx: &mut Conn, credential: CredentialId, now: Timestamp, limit: u32) -> Result<(u32, Vec<Changed>), Fail> {
    let rows = tx
        .all(
            sqlx::query(WAITING_IN_LANE)
                .bind(vec![credential.uuid(), credential.bulk_lane().uuid()])
                .bind(now.as_millis())
                .bind(i64::from(limit)),
        )
        .await?;
    let ids = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<Uuid>, _>>()?;
    let mut settling = Settling::lock(tx, ids.clone()).await?;
    let mut by_batch = HashMap::new();
    for id in &ids {
        // Since it was looked for it may have been leased, or ended.
        let Some(job) = settling.job(DeliveryId::from_uuid(*id)).filter(|job| job.waits(now)) else { continue };
        let changed = settling.end(tx, &job, Ending::cancelled(job.attempts, now))?;
        by_batch.entry(job.batch).or_insert_with(|| Changed::only(changed.batch, changed.lead)).merge(changed);
    }
    settling.write(tx).await?;
    Ok((u32::try_from(ids.len()).unwrap_or(u32::MAX), by_batch.into_values().collect()))
}

const WAITING_IN_LANE: &str = "select id from jobs where lane_id = any($1) and (not sending or due_at <= $2) limit $3";

pub(super) async fn retry_delivery(tx: &mut Conn, id: DeliveryId, now: Timestamp) -> Result<Option<Changed>, Fail> {
    let requeued = super::bulk::requeue(tx, vec![id.uuid()], super::bulk::Again::ByHand, now, |_| Ok(())).await?;
    Ok(requeued.changes.into_values().next())
}
