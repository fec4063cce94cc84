//! What is done to many deliveries at once: retry and cancel.

use std::borrow::Cow;
use std::collections::HashMap;

use sqlx::Row;
use uuid::Uuid;

use super::book::Book;
use super::error::Fail;
use super::pool::Conn;
use super::settle::{Ending, Settling};
use crate::model::{BatchId, Change, CredentialId, DeliveryId, DeliveryKind, DeliveryStatus, Timestamp};
use crate::store::sqlite::words::Word;
use crate::store::{Changed, Sliced};

/// Who queues again.
#[derive(Debug, Clone, Copy)]
pub(super) enum Again {
    /// One person one delivery: it goes at once.
    ByHand,
    /// A task that began then, in the bulk lanes: what ended later was tried again meanwhile, by this task or another.
    Task {
        /// When it was made.
        began: Timestamp,
    },
}

/// What was queued again.
pub(super) struct Requeued {
    pub(super) count: u32,
    /// The last change of each batch.
    pub(super) changes: HashMap<BatchId, Changed>,
    lanes: Vec<CredentialId>,
}

/// Queues those of these deliveries that ended without success again; `may` hears how many before anything is written.
pub(super) async fn requeue(
    tx: &mut Conn,
    ids: Vec<Uuid>,
    again: Again,
    now: Timestamp,
    may: impl FnOnce(u64) -> Result<(), Fail>,
) -> Result<Requeued, Fail> {
    let mut settling = Settling::of(Book::lock_of_deliveries(tx, ids.clone()).await?);
    // Their batches are locked, so they stay as they are.
    let by = if let Again::Task { began } = again { began.as_millis() } else { i64::MAX };
    let rows = tx.all(sqlx::query(RETRYABLE).bind(ids).bind(by)).await?;
    let mut requeued = Requeued { count: 0, changes: HashMap::new(), lanes: Vec::new() };
    let mut found: Vec<Uuid> = Vec::with_capacity(rows.len());
    may(rows.len() as u64)?;
    for row in &rows {
        let (batch, kind) = (BatchId::from_uuid(row.try_get(1)?), DeliveryKind::read(row.try_get(4)?)?);
        let from = DeliveryStatus::read(row.try_get(3)?)?;
        found.push(row.try_get(0)?);
        requeued.changes.insert(batch, settling.book.moved(batch, kind, (from, DeliveryStatus::Queued), now)?);
        let credential = CredentialId::from_uuid(row.try_get(2)?);
        requeued.lanes.push(if matches!(again, Again::ByHand) { credential } else { credential.bulk_lane() });
        let (lead, project) = settling.book.belongs(batch)?;
        let change = Change::Delivery {
            delivery: DeliveryId::from_uuid(row.try_get(0)?),
            batch,
            lead,
            credential,
            channel: Cow::Owned(row.try_get(5)?),
            kind,
            status: DeliveryStatus::Queued,
            due_at: Some(now),
            retry: false,
            code: None,
        };
        tx.tell(now, project, &change);
        requeued.count += 1;
    }
    if !found.is_empty() {
        let lanes: Vec<Uuid> = requeued.lanes.iter().map(|lane| lane.uuid()).collect();
        tx.run(sqlx::query(RETRY).bind(found.clone()).bind(now.as_millis()).bind(lanes)).await?;
        tx.run(sqlx::query(REQUEUE).bind(found.clone())).await?;
        tx.run(sqlx::query(LOOK_AGAIN).bind(found)).await?;
        tx.jobs += i64::from(requeued.count);
    }
    settling.write(tx).await?;
    Ok(requeued)
}

const RETRYABLE: &str = "
select id, batch_id, credential_id, status, kind, channel from deliveries
 where id = any($1) and status in ('failed', 'in_doubt', 'cancelled') and finished_at <= $2 order by id";

/// A retry by hand has no deadline. The new job goes on where the old one ended: its numbers grow, so that no late answer of its first
/// life fits.
const RETRY: &str = "
insert into jobs (id, lane_id, due_at, was_due, fence, calls, maybe_sent, memo, batch_id, lead_id, correlation, settings, channel, kind, event)
select d.id, u.lane_id, $2, $2, d.fence, greatest(coalesce((select max(no) from attempts where delivery_id = d.id), 0), d.attempts_pruned),
       d.maybe_sent, d.memo, d.batch_id, d.lead_id, b.correlation, d.settings, d.channel, d.kind, d.event
  from unnest($1::uuid[], $3::uuid[]) as u (id, lane_id) join deliveries d on d.id = u.id join batches b on b.id = d.batch_id
 where d.id = any($1)";

const REQUEUE: &str = "update deliveries set status = 'queued', attempts = 0, finished_at = null, deadline_at = null where id = any($1)";

/// Clean-ups of attempts that have passed the delivery begin anew: it gets new ones.
const LOOK_AGAIN: &str = "
update cleanups c set place = null from deliveries d where d.id = any($1) and c.scope = d.project_id and c.place >= d.id";

/// Queues those that ended without success again. `may` refuses what the queue has no room for.
pub(super) async fn retry(
    tx: &mut Conn,
    ids: &[DeliveryId],
    began: Timestamp,
    now: Timestamp,
    may: impl FnOnce(u64) -> Result<(), Fail>,
) -> Result<Sliced, Fail> {
    let Requeued { count, changes, mut lanes } =
        requeue(tx, ids.iter().map(|id| id.uuid()).collect(), Again::Task { began }, now, may).await?;
    lanes.sort_unstable();
    lanes.dedup();
    Ok(Sliced { changed: count, batches: changes.into_values().collect(), due: lanes })
}

/// Ends those that are queued and not being sent as cancelled.
pub(super) async fn cancel(tx: &mut Conn, ids: &[DeliveryId], now: Timestamp) -> Result<Sliced, Fail> {
    let mut settling = Settling::lock(tx, ids.iter().map(|id| id.uuid()).collect()).await?;
    let mut changed = HashMap::new();
    let mut count = 0;
    for id in ids {
        // A job goes with its delivery: an id that comes twice is found once.
        let Some(job) = settling.job(*id).filter(|job| job.waits(now)) else { continue };
        count += 1;
        let one = settling.end(tx, &job, Ending::cancelled(job.attempts, now))?;
        changed.entry(job.batch).or_insert_with(|| Changed::only(one.batch, one.lead)).merge(one);
    }
    settling.write(tx).await?;
    Ok(Sliced { changed: count, batches: changed.into_values().collect(), due: Vec::new() })
}
