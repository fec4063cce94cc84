//! The counters of the batches that a transaction touches: read once, moved in memory, written once.

use std::collections::HashMap;

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::ended::{self, Ended};
use super::pack::{self, Rows};
use super::read::counts;
use super::words::Word;
use super::writer::Tx;
use crate::model::{BatchCounts, BatchId, BatchOptions, BatchStatus, DeliveryStatus, LeadId, LeadStatus, Timestamp};
use crate::policy::batch_status::{batch_status, lead_status};
use crate::store::{Changed, StoreError};

struct Entry {
    lead: LeadId,
    options: BatchOptions,
    counts: BatchCounts,
    finished_at: Option<Timestamp>,
    /// What the lead's status was when the batch was read.
    lead_was: LeadStatus,
    /// Its callbacks were queued by an earlier transaction.
    told: bool,
    dirty: bool,
    /// This transaction ended it.
    ended: bool,
}

/// Batches under change.
#[derive(Default)]
pub(super) struct Book {
    entries: HashMap<BatchId, Entry>,
}

impl Book {
    /// Reads those that are not in the book yet.
    pub(super) async fn load(&mut self, tx: &mut Tx, batches: impl Iterator<Item = BatchId>) -> Result<(), StoreError> {
        let mut missing: Vec<BatchId> = batches.filter(|id| !self.entries.contains_key(id)).collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        let (numbers, ids) = pack::ids(missing.iter().map(|id| id.uuid()));
        for row in sqlx::query(READ).bind(numbers).bind(ids).fetch_all(&mut tx.conn).await? {
            self.add(&row)?;
        }
        Ok(())
    }

    fn add(&mut self, row: &SqliteRow) -> Result<(), StoreError> {
        let counts = counts(row, 3)?;
        let options = row.try_get::<&str, _>(2)?;
        let options = serde_json::from_str(options).map_err(|error| StoreError::Defect(format!("options cannot be read: {error}")))?;
        let lead = LeadId::from_uuid(row.try_get(1)?);
        let entry = Entry {
            lead,
            options,
            counts,
            finished_at: None,
            lead_was: lead_status(&counts),
            told: row.try_get(10)?,
            dirty: false,
            ended: false,
        };
        self.entries.insert(BatchId::from_uuid(row.try_get(0)?), entry);
        Ok(())
    }

    pub(super) fn allows_failures(&self, batch: BatchId) -> bool {
        self.entries.get(&batch).is_none_or(|entry| entry.options.allow_failures)
    }

    /// Notes that nothing but the delivery itself changed.
    pub(super) fn unchanged(&self, batch: BatchId) -> Result<Changed, StoreError> {
        let entry = self.entries.get(&batch).ok_or_else(|| no_batch(batch))?;
        Ok(Changed::only(batch, entry.lead))
    }

    /// Moves one delivery from state to state. `ended` is set when the last pending one ends.
    pub(super) fn shift(
        &mut self,
        batch: BatchId,
        from: DeliveryStatus,
        to: DeliveryStatus,
        now: Timestamp,
    ) -> Result<Changed, StoreError> {
        let entry = self.entries.get_mut(&batch).ok_or_else(|| no_batch(batch))?;
        let was_pending = entry.counts.pending > 0;
        let left = entry.counts.of(from);
        *left = left.checked_sub(1).ok_or_else(|| StoreError::Defect(format!("{batch} counts no {} delivery", from.word())))?;
        *entry.counts.of(to) += 1;
        entry.dirty = true;
        let status = batch_status(&entry.counts);
        let pending = status == BatchStatus::Pending;
        entry.finished_at = (!pending).then_some(now);
        let mut changed = Changed::only(batch, entry.lead);
        if was_pending && !pending {
            entry.ended = true;
            changed.ended = Some(status);
            ended::say(&entry.options, &entry.counts, entry.told, &mut changed);
        }
        Ok(changed)
    }

    /// Writes what moved, and the leads' states that follow from it.
    pub(super) async fn write(self, tx: &mut Tx) -> Result<(), StoreError> {
        let mut batches = Rows::default();
        let mut leads = Rows::default();
        let mut endings = Vec::new();
        for (id, entry) in self.entries.into_iter().filter(|(_, entry)| entry.dirty) {
            let BatchCounts { pending, delivered, skipped, failed, in_doubt, cancelled, .. } = entry.counts;
            let counts = [pending, delivered, skipped, failed, in_doubt, cancelled];
            let finished_at = entry.finished_at.map(Timestamp::as_millis);
            batches.push(&[id.uuid()], &(counts, batch_status(&entry.counts).word(), finished_at))?;
            let lead_is = lead_status(&entry.counts);
            if lead_is != entry.lead_was {
                leads.push(&[entry.lead.uuid(), id.uuid()], &lead_is.word())?;
            }
            if let (true, Some(at)) = (entry.ended && ended::matters(&entry.options), entry.finished_at) {
                endings.push(Ended { batch: id, options: entry.options, counts: entry.counts, told: entry.told, at });
            }
        }
        if !batches.is_empty() {
            let (json, ids, _) = batches.take();
            sqlx::query(WRITE).bind(json).bind(ids).execute(&mut tx.conn).await?;
        }
        if !leads.is_empty() {
            let (json, ids, _) = leads.take();
            sqlx::query(WRITE_LEADS).bind(json).bind(ids).execute(&mut tx.conn).await?;
        }
        ended::write(tx, &endings).await
    }
}

fn no_batch(batch: BatchId) -> StoreError {
    StoreError::Defect(format!("there is no {batch}"))
}

const READ: &str = "
select b.id, b.lead_id, b.options, b.total, b.pending, b.delivered, b.skipped, b.failed, b.in_doubt, b.cancelled, b.told
  from json_each($1) r cross join batches b on b.id = substr($2, 16 * r.key + 1, 16)";

const WRITE: &str = "
update batches
   set pending = r.value ->> '$[0][0]', delivered = r.value ->> '$[0][1]', skipped = r.value ->> '$[0][2]',
       failed = r.value ->> '$[0][3]', in_doubt = r.value ->> '$[0][4]', cancelled = r.value ->> '$[0][5]',
       status = r.value ->> '$[1]', finished_at = r.value ->> '$[2]'
  from json_each($1) r
 where batches.id = substr($2, 16 * r.key + 1, 16)";

/// Only the newest batch speaks for its lead.
const WRITE_LEADS: &str = "
update leads set status = r.value
  from json_each($1) r
 where leads.id = substr($2, 32 * r.key + 1, 16) and leads.batch_id = substr($2, 32 * r.key + 17, 16)";

/// The statements on the hot path, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[READ, WRITE, WRITE_LEADS];
