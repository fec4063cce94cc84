//! The counters of the batches that a transaction touches: read once, moved in memory, written once.

use std::collections::HashMap;
use std::collections::hash_map;

use rusqlite::{Row, params};

use super::ended::{self, Ended};
use super::words::Word;
use super::writer::Tx;
use crate::fault::{self, Point};
use crate::model::{
    BatchCounts, BatchId, BatchOptions, BatchStatus, Change, DeliveryKind, DeliveryStatus, LeadId, LeadStatus, ProjectId, Timestamp,
};
use crate::policy::batch_status::{batch_status, lead_status};
use crate::store::{Changed, StoreError};

struct Entry {
    lead: LeadId,
    project: ProjectId,
    options: BatchOptions,
    counts: BatchCounts,
    finished_at: Option<Timestamp>,
    /// What its own status and the lead's were when the batch was read.
    was: BatchStatus,
    lead_was: LeadStatus,
    /// When it was last moved.
    moved_at: Timestamp,
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
    /// The batch, read when it is not in the book yet.
    fn entry(&mut self, tx: &Tx, batch: BatchId) -> Result<&mut Entry, StoreError> {
        match self.entries.entry(batch) {
            hash_map::Entry::Occupied(known) => Ok(known.into_mut()),
            hash_map::Entry::Vacant(place) => {
                let found = tx.db.first(READ, params![batch.uuid()], read)?;
                Ok(place.insert(found.ok_or_else(|| no_batch(batch))?))
            }
        }
    }

    /// Whether there is such a batch.
    pub(super) fn knows(&mut self, tx: &Tx, batch: BatchId) -> Result<bool, StoreError> {
        Ok(self.entries.contains_key(&batch) || tx.db.first(READ, params![batch.uuid()], read)?.is_some())
    }

    pub(super) fn allows_failures(&mut self, tx: &Tx, batch: BatchId) -> Result<bool, StoreError> {
        Ok(self.entry(tx, batch)?.options.allow_failures)
    }

    /// The lead and the project that the batch belongs to.
    pub(super) fn belongs(&mut self, tx: &Tx, batch: BatchId) -> Result<(LeadId, ProjectId), StoreError> {
        let entry = self.entry(tx, batch)?;
        Ok((entry.lead, entry.project))
    }

    /// Notes that nothing but the delivery itself changed.
    pub(super) fn unchanged(&mut self, tx: &Tx, batch: BatchId) -> Result<Changed, StoreError> {
        Ok(Changed::only(batch, self.entry(tx, batch)?.lead))
    }

    /// Moves one delivery from state to state, if it is of a kind that counts.
    pub(super) fn moved(
        &mut self,
        tx: &Tx,
        batch: BatchId,
        kind: DeliveryKind,
        (from, to): (DeliveryStatus, DeliveryStatus),
        now: Timestamp,
    ) -> Result<Changed, StoreError> {
        if kind.counts() { self.shift(tx, batch, from, to, now) } else { self.unchanged(tx, batch) }
    }

    /// Moves one that counts. `ended` is set when the last pending one ends.
    fn shift(&mut self, tx: &Tx, batch: BatchId, from: DeliveryStatus, to: DeliveryStatus, now: Timestamp) -> Result<Changed, StoreError> {
        let entry = self.entry(tx, batch)?;
        let was_pending = entry.counts.pending > 0;
        let left = entry.counts.of(from);
        *left = left.checked_sub(1).ok_or_else(|| StoreError::Defect(format!("{batch} counts no {} delivery", from.word())))?;
        *entry.counts.of(to) += 1;
        entry.dirty = true;
        entry.moved_at = now;
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

    /// Writes what moved, the leads' states that follow from it, and what follows the batches' ends.
    pub(super) fn write(self, tx: &mut Tx) -> Result<(), StoreError> {
        for (id, entry) in self.entries.into_iter().filter(|(_, entry)| entry.dirty) {
            let BatchCounts { pending, delivered, skipped, failed, in_doubt, cancelled, .. } = entry.counts;
            let (status, finished_at) = (batch_status(&entry.counts), entry.finished_at.map(Timestamp::as_millis));
            tx.db.run(WRITE, params![id.uuid(), pending, delivered, skipped, failed, in_doubt, cancelled, status.word(), finished_at])?;
            fault::pass(Point::BookBatch);
            let (lead, lead_is) = (entry.lead, lead_status(&entry.counts));
            if status != entry.was {
                tx.tell(entry.moved_at, entry.project, &Change::Batch { batch: id, lead, status, counts: entry.counts });
            }
            if lead_is != entry.lead_was && tx.db.run(WRITE_LEAD, params![lead.uuid(), id.uuid(), lead_is.word()])? > 0 {
                tx.tell(entry.moved_at, entry.project, &Change::Lead { lead, batch: id, status: lead_is });
            }
            fault::pass(Point::BookLead);
            if let (true, Some(at)) = (entry.ended && ended::matters(&entry.options), entry.finished_at) {
                ended::write(tx, &Ended { batch: id, options: entry.options, counts: entry.counts, told: entry.told, at })?;
            }
        }
        Ok(())
    }
}

fn read(row: &Row<'_>) -> Result<Entry, StoreError> {
    let options: String = row.get(1)?;
    let options = serde_json::from_str(&options).map_err(|error| StoreError::Defect(format!("options cannot be read: {error}")))?;
    let counts = BatchCounts {
        total: row.get(2)?,
        pending: row.get(3)?,
        delivered: row.get(4)?,
        skipped: row.get(5)?,
        failed: row.get(6)?,
        in_doubt: row.get(7)?,
        cancelled: row.get(8)?,
    };
    let lead = LeadId::from_uuid(row.get(0)?);
    Ok(Entry {
        lead,
        project: ProjectId::from_uuid(row.get(10)?),
        options,
        counts,
        finished_at: None,
        was: batch_status(&counts),
        lead_was: lead_status(&counts),
        moved_at: Timestamp::default(),
        told: row.get(9)?,
        dirty: false,
        ended: false,
    })
}

fn no_batch(batch: BatchId) -> StoreError {
    StoreError::Defect(format!("there is no {batch}"))
}

const READ: &str = "
select lead_id, options, total, pending, delivered, skipped, failed, in_doubt, cancelled, told, project_id from batches where id = ?1";

const WRITE: &str = "
update batches
   set pending = ?2, delivered = ?3, skipped = ?4, failed = ?5, in_doubt = ?6, cancelled = ?7, status = ?8, finished_at = ?9
 where id = ?1";

/// Only the newest batch speaks for its lead.
const WRITE_LEAD: &str = "update leads set status = ?3 where id = ?1 and batch_id = ?2";

/// The statements on the hot path, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[READ, WRITE, WRITE_LEAD];
