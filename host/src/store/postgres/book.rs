//! The counters of the batches that a transaction touches: locked and read once, in the order of their ids, moved in memory,
//! written once.

use std::collections::{BTreeMap, HashSet};

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::ended::{self, Ended};
use super::error::Fail;
use super::pool::Conn;
use super::read::{counts, json};
use crate::model::{
    BatchCounts, BatchId, BatchOptions, BatchStatus, Change, DeliveryKind, DeliveryStatus, LeadId, LeadStatus, ProjectId, Timestamp,
};
use crate::policy::batch_status::{batch_status, lead_status};
use crate::store::Changed;
use crate::store::sqlite::words::Word;

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
    entries: BTreeMap<BatchId, Entry>,
}

impl Book {
    /// Locks these batches until the transaction ends. To be done once in a transaction, before it locks any job.
    pub(super) async fn lock(tx: &mut Conn, batches: Vec<Uuid>) -> Result<Self, Fail> {
        Self::read(tx.all(sqlx::query(LOCK).bind(batches)).await?)
    }

    /// The same for the batches of these deliveries that have jobs.
    pub(super) async fn lock_of_jobs(tx: &mut Conn, deliveries: Vec<Uuid>) -> Result<Self, Fail> {
        Self::read(tx.all(sqlx::query(LOCK_OF_JOBS).bind(deliveries)).await?)
    }

    /// The same for the batches of these deliveries.
    pub(super) async fn lock_of_deliveries(tx: &mut Conn, deliveries: Vec<Uuid>) -> Result<Self, Fail> {
        Self::read(tx.all(sqlx::query(LOCK_OF_DELIVERIES).bind(deliveries)).await?)
    }

    fn read(rows: Vec<PgRow>) -> Result<Self, Fail> {
        Ok(Self { entries: rows.iter().map(entry).collect::<Result<_, _>>()? })
    }

    fn entry(&mut self, batch: BatchId) -> Result<&mut Entry, Fail> {
        self.entries.get_mut(&batch).ok_or_else(|| Fail::defect(format!("{batch} is not there or was not locked")))
    }

    pub(super) fn knows(&self, batch: BatchId) -> bool {
        self.entries.contains_key(&batch)
    }

    pub(super) fn allows_failures(&mut self, batch: BatchId) -> Result<bool, Fail> {
        Ok(self.entry(batch)?.options.allow_failures)
    }

    /// The lead and the project that the batch belongs to.
    pub(super) fn belongs(&mut self, batch: BatchId) -> Result<(LeadId, ProjectId), Fail> {
        let entry = self.entry(batch)?;
        Ok((entry.lead, entry.project))
    }

    /// Notes that nothing but the delivery itself changed.
    pub(super) fn unchanged(&mut self, batch: BatchId) -> Result<Changed, Fail> {
        Ok(Changed::only(batch, self.entry(batch)?.lead))
    }

    /// Moves one delivery from state to state, if it is of a kind that counts. `ended` is set when the last pending one ends.
    pub(super) fn moved(
        &mut self,
        batch: BatchId,
        kind: DeliveryKind,
        (from, to): (DeliveryStatus, DeliveryStatus),
        now: Timestamp,
    ) -> Result<Changed, Fail> {
        if !kind.counts() {
            return self.unchanged(batch);
        }
        let entry = self.entry(batch)?;
        let was_pending = entry.counts.pending > 0;
        let left = entry.counts.of(from);
        *left = left.checked_sub(1).ok_or_else(|| Fail::defect(format!("{batch} counts no {} delivery", from.word())))?;
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
    pub(super) async fn write(self, tx: &mut Conn) -> Result<(), Fail> {
        let dirty: Vec<(BatchId, Entry)> = self.entries.into_iter().filter(|(_, entry)| entry.dirty).collect();
        if dirty.is_empty() {
            return Ok(());
        }
        let moved = write_counts(tx, &dirty).await?;
        dirty.iter().for_each(|(batch, entry)| tell(tx, *batch, entry, &moved));
        let mut ended = Vec::new();
        for (batch, entry) in dirty {
            let Entry { project, options, counts, finished_at, told, ended: ends, .. } = entry;
            if let (true, Some(at)) = (ends && ended::matters(&options), finished_at) {
                ended.push((project, Ended { batch, options, counts, told, at }));
            }
        }
        // A project's notices are locked as they are written: in the order of the projects.
        ended.sort_by_key(|(project, ended)| (*project, ended.batch));
        for (_, ended) in ended {
            ended::write(tx, &ended).await?;
        }
        Ok(())
    }
}

fn tell(tx: &mut Conn, batch: BatchId, entry: &Entry, moved: &HashSet<(Uuid, Uuid)>) {
    let Entry { lead, project, counts, moved_at, .. } = entry;
    let status = batch_status(counts);
    if status != entry.was {
        tx.tell(*moved_at, *project, &Change::Batch { batch, lead: *lead, status, counts: *counts });
    }
    if moved.contains(&(lead.uuid(), batch.uuid())) {
        tx.tell(*moved_at, *project, &Change::Lead { lead: *lead, batch, status: lead_status(counts) });
    }
}

/// The leads whose states moved with their newest batches.
async fn write_counts(tx: &mut Conn, dirty: &[(BatchId, Entry)]) -> Result<HashSet<(Uuid, Uuid)>, Fail> {
    let of = |count: fn(&BatchCounts) -> u32| -> Vec<i32> { dirty.iter().map(|(_, entry)| narrow(count(&entry.counts))).collect() };
    let mut leads: Vec<_> = dirty
        .iter()
        .filter(|(_, entry)| lead_status(&entry.counts) != entry.lead_was)
        .map(|(batch, entry)| (entry.lead.uuid(), batch.uuid(), lead_status(&entry.counts).word().to_owned()))
        .collect();
    leads.sort_unstable();
    let query = sqlx::query(WRITE)
        .bind(dirty.iter().map(|(batch, _)| batch.uuid()).collect::<Vec<_>>())
        .bind(of(|counts| counts.pending))
        .bind(of(|counts| counts.delivered))
        .bind(of(|counts| counts.skipped))
        .bind(of(|counts| counts.failed))
        .bind(of(|counts| counts.in_doubt))
        .bind(of(|counts| counts.cancelled))
        .bind(dirty.iter().map(|(_, entry)| batch_status(&entry.counts).word().to_owned()).collect::<Vec<_>>())
        .bind(dirty.iter().map(|(_, entry)| entry.finished_at.map(Timestamp::as_millis)).collect::<Vec<_>>())
        .bind(leads.iter().map(|(lead, ..)| *lead).collect::<Vec<_>>())
        .bind(leads.iter().map(|(_, batch, _)| *batch).collect::<Vec<_>>())
        .bind(leads.iter().map(|(.., status)| status.clone()).collect::<Vec<_>>())
        // Both are in order.
        .bind(dirty.first().map(|(batch, _)| batch.uuid()).unwrap_or_default())
        .bind(dirty.last().map(|(batch, _)| batch.uuid()).unwrap_or_default())
        .bind(leads.first().map(|(lead, ..)| *lead).unwrap_or_default())
        .bind(leads.last().map(|(lead, ..)| *lead).unwrap_or_default());
    tx.all(query).await?.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Counts of one batch are small; a column of four bytes holds them.
fn narrow(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn entry(row: &PgRow) -> Result<(BatchId, Entry), Fail> {
    let counts = counts(row, 3)?;
    let lead_was = lead_status(&counts);
    let entry = Entry {
        lead: LeadId::from_uuid(row.try_get(1)?),
        project: ProjectId::from_uuid(row.try_get(11)?),
        options: json(row.try_get(2)?)?,
        counts,
        finished_at: None,
        was: batch_status(&counts),
        lead_was,
        moved_at: Timestamp::default(),
        told: row.try_get(10)?,
        dirty: false,
        ended: false,
    };
    Ok((BatchId::from_uuid(row.try_get(0)?), entry))
}

macro_rules! lock {
    ($with:expr, $where:literal) => {
        concat!(
            $with,
            "
select b.id, b.lead_id, b.options, b.total, b.pending, b.delivered, b.skipped, b.failed, b.in_doubt, b.cancelled, b.told, b.project_id
  from batches b where ",
            $where,
            " order by b.id for no key update of b"
        )
    };
}

/// A row's batch never changes. The bounds keep the other weeks out.
macro_rules! lock_of {
    ($select:literal) => {
        lock!(
            concat!("with their as materialized (", $select, ")"),
            "b.id = any(array(select batch_id from their)) and b.id >= (select batch_id from their order by 1 limit 1)
   and b.id <= (select batch_id from their order by 1 desc limit 1)"
        )
    };
}

const LOCK: &str = lock!("", "b.id = any($1)");
const LOCK_OF_JOBS: &str = lock_of!("select distinct j.batch_id from jobs j where j.id = any($1)");
const LOCK_OF_DELIVERIES: &str = lock_of!("select distinct d.batch_id from deliveries d where d.id = any($1)");

/// The batches are locked; their leads, which those who send them again lock too, are locked in the order of their ids. Only
/// the newest batch speaks for its lead. The bounds keep the other weeks out, also of a plan that is made for any ids.
const WRITE: &str = "
with b as (
    update batches b
       set pending = u.pending, delivered = u.delivered, skipped = u.skipped, failed = u.failed, in_doubt = u.in_doubt,
           cancelled = u.cancelled, status = u.status, finished_at = u.finished_at
      from unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::int[], $6::int[], $7::int[], $8::text[], $9::bigint[])
           as u (id, pending, delivered, skipped, failed, in_doubt, cancelled, status, finished_at)
     where b.id = u.id and b.id = any($1) and b.id between $13 and $14),
k as materialized (
    select l.id, u.status
      from leads l join unnest($10::uuid[], $11::uuid[], $12::text[]) as u (id, batch_id, status) on l.id = u.id and l.batch_id = u.batch_id
     where l.id = any($10) and l.id between $15 and $16 order by l.id for no key update of l)
update leads l set status = k.status from k where l.id = k.id and l.id between $15 and $16 returning l.id, l.batch_id";
