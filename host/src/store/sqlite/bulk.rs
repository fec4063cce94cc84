//! What tasks do to many deliveries at once: retry and cancel.

use std::collections::{BTreeMap, HashMap};

use rusqlite::params;

use super::finish::{self, CANCELLABLE};
use super::settle::{Ending, Job, Settling};
use super::writer::Tx;
use crate::model::{DeliveryId, Timestamp};
use crate::store::{Changed, Sliced, StoreError};

/// Queues those again, in the bulk lanes, that ended without success before `began`: what ended later was tried again meanwhile,
/// by this task or another.
pub(super) fn retry(tx: &mut Tx, ids: &[DeliveryId], began: Timestamp, now: Timestamp) -> Result<Sliced, StoreError> {
    let mut found = BTreeMap::new();
    for id in ids {
        if let Some(ended) = finish::retryable(tx, *id, began)? {
            found.insert(*id, ended);
        }
    }
    // Retried work waits like any other: past the limit, the task waits as well.
    if !found.is_empty() && tx.backlog + found.len() as u64 > tx.max_backlog {
        return Err(StoreError::Overloaded { backlog: tx.backlog });
    }
    let mut settling = Settling::default();
    let mut changed = HashMap::new();
    let mut due = Vec::with_capacity(found.len());
    for (id, ended) in &found {
        let lane = ended.credential.bulk_lane();
        changed.insert(ended.batch, finish::requeue(tx, &mut settling, *id, ended, lane, now)?);
        due.push(lane);
    }
    settling.write(tx)?;
    due.sort_unstable();
    due.dedup();
    Ok(Sliced { changed: found.len() as u32, batches: changed.into_values().collect(), due })
}

/// Ends those that are queued and not being sent as cancelled.
pub(super) fn cancel(tx: &mut Tx, ids: &[DeliveryId], now: Timestamp) -> Result<Sliced, StoreError> {
    let mut settling = Settling::default();
    let mut changed = HashMap::new();
    let mut count = 0;
    for id in ids {
        // A job goes with its delivery: an id that comes twice is found once.
        let Some(job) = tx.db.first(CANCELLABLE, params![id.uuid(), now.as_millis()], Job::read)? else { continue };
        count += 1;
        let one = settling.end(tx, &job, Ending::cancelled(job.attempts, now))?;
        changed.entry(job.batch).or_insert_with(|| Changed::only(one.batch, one.lead)).merge(one);
    }
    settling.write(tx)?;
    Ok(Sliced { changed: count, batches: changed.into_values().collect(), due: Vec::new() })
}
