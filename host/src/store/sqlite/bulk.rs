//! What tasks do to many deliveries at once: retry and cancel, a few statements for all of them.

use std::collections::HashMap;

use sqlx::Row;
use uuid::Uuid;

use super::pack;
use super::settle::{Ending, Job, Settling, job_columns};
use super::words::Word;
use super::writer::Tx;
use crate::model::{BatchId, CredentialId, DeliveryId, DeliveryStatus, Timestamp};
use crate::store::{Sliced, StoreError};

/// Queues those that ended without success again.
pub(super) async fn retry(tx: &mut Tx, ids: &[DeliveryId], now: Timestamp) -> Result<Sliced, StoreError> {
    if ids.is_empty() {
        return Ok(Sliced::default());
    }
    let (numbers, packed) = pack::ids(ids.iter().map(|id| id.uuid()));
    let mut found = Vec::new();
    for row in sqlx::query(RETRYABLE).bind(numbers).bind(packed).fetch_all(&mut tx.conn).await? {
        let credential = CredentialId::from_uuid(row.try_get(3)?);
        found.push((row.try_get::<Uuid, _>(0)?, DeliveryStatus::read(row.try_get(1)?)?, BatchId::from_uuid(row.try_get(2)?), credential));
    }
    found.sort_unstable_by_key(|(id, ..)| *id);
    found.dedup_by_key(|(id, ..)| *id);
    // Retried work waits like any other: past the limit, the task waits as well.
    if tx.backlog + found.len() as u64 > tx.max_backlog {
        return Err(StoreError::Overloaded { backlog: tx.backlog });
    }
    let mut settling = Settling::default();
    settling.book.load(tx, found.iter().map(|(_, _, batch, _)| *batch)).await?;
    let mut changed = HashMap::new();
    for (_, status, batch, _) in &found {
        changed.insert(*batch, settling.book.shift(*batch, *status, DeliveryStatus::Queued, now)?);
    }
    let (numbers, packed) = pack::ids(found.iter().map(|(id, ..)| *id));
    if !found.is_empty() {
        sqlx::query(RETRY).bind(numbers).bind(packed).bind(now.as_millis()).execute(&mut tx.conn).await?;
        tx.jobs_added(found.len() as u64);
        settling.write(tx).await?;
    }
    let mut due: Vec<CredentialId> = found.iter().map(|(.., credential)| *credential).collect();
    due.sort_unstable();
    due.dedup();
    Ok(Sliced { changed: found.len() as u32, batches: changed.into_values().collect(), due })
}

const RETRYABLE: &str = "
select d.id, d.status, d.batch_id, d.credential_id
  from json_each($1) r cross join deliveries d on d.id = substr($2, 16 * r.key + 1, 16)
 where d.status in ('failed', 'in_doubt', 'cancelled')";

/// The new jobs go on where the old ones ended: their numbers grow, so that no late answer of their first life fits.
const RETRY: &str = "
insert into jobs (id, lane_id, due_at, was_due, fence, calls, maybe_sent, memo, batch_id, lead_id, correlation, settings)
select d.id, d.credential_id, $3, $3, d.fence, coalesce((select max(no) from attempts where delivery_id = d.id), 0),
       d.maybe_sent, d.memo, d.batch_id, d.lead_id, b.correlation, d.settings
  from json_each($1) r cross join deliveries d on d.id = substr($2, 16 * r.key + 1, 16) cross join batches b on b.id = d.batch_id;
update deliveries set status = 'queued', attempts = 0, finished_at = null
 where id in (select substr($2, 16 * r.key + 1, 16) from json_each($1) r)";

/// Ends those that are queued and not being sent as cancelled.
pub(super) async fn cancel(tx: &mut Tx, ids: &[DeliveryId], now: Timestamp) -> Result<Sliced, StoreError> {
    if ids.is_empty() {
        return Ok(Sliced::default());
    }
    let (numbers, packed) = pack::ids(ids.iter().map(|id| id.uuid()));
    let rows = sqlx::query(CANCELLABLE).bind(numbers).bind(packed).bind(now.as_millis()).fetch_all(&mut tx.conn).await?;
    let jobs = rows.iter().map(Job::read).collect::<Result<Vec<_>, _>>()?;
    let mut settling = Settling::default();
    settling.book.load(tx, jobs.iter().map(|job| job.batch)).await?;
    let mut changed = HashMap::new();
    let mut count = 0;
    for job in &jobs {
        if settling.is_gone(job.delivery) {
            continue;
        }
        count += 1;
        // The last change of a batch is the one that may have ended it.
        changed.insert(job.batch, settling.end(tx, job, Ending::cancelled(job.attempts, now))?);
    }
    settling.write(tx).await?;
    Ok(Sliced { changed: count, batches: changed.into_values().collect(), due: Vec::new() })
}

const CANCELLABLE: &str = concat!(
    "select ",
    job_columns!(),
    " from json_each($1) r cross join jobs j on j.id = substr($2, 16 * r.key + 1, 16) where j.sending = 0 or j.due_at <= $3"
);

/// The statements, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[RETRYABLE, RETRY, CANCELLABLE];
