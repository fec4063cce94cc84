//! Leases: taking due jobs, giving them back, and what is written while one stands.
//!
//! A lease stands while the job is `sending` with the same `fence`: answering, giving back and leasing again all end it.

use std::sync::Arc;

use rusqlite::params;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqlitePool};
use uuid::Uuid;

use super::read::{json_column, time};
use super::words::word;
use super::writer::Tx;
use crate::model::{BatchId, CredentialId, DeliveryId, Lead, LeadId, Timestamp};
use crate::store::{JobRef, LaneDue, LaneQuota, Leased, StoreError};

/// In the order of `lanes`; within one, in that of the due times.
pub(super) fn lease(tx: &Tx, lanes: &[LaneQuota], now: Timestamp, until: Timestamp) -> Result<Vec<Leased>, StoreError> {
    let mut all = Vec::new();
    for quota in lanes {
        let due = tx.db.all(DUE, params![quota.lane.uuid(), now.as_millis(), quota.limit], |row| Ok(row.get::<_, Uuid>(0)?))?;
        for id in due {
            all.extend(tx.db.first(LEASE, params![id, until.as_millis()], |row| leased(tx, quota.lane, row))?);
        }
    }
    Ok(all)
}

const DUE: &str = "select id from jobs where lane_id = ?1 and due_at <= ?2 and stop = 0 order by due_at, id limit ?3";

/// The right-hand sides see the row as it was, so a job that is still `sending` was leased before and never answered: that
/// attempt counts, as lost. Each is kept count of until an answer comes that writes them all: a node may die more than
/// once over the same job.
const LEASE: &str = "
update jobs
   set was_due = due_at, due_at = ?2, fence = fence + 1, lost = lost + sending, sending = 1,
       maybe_sent = max(maybe_sent, sending), attempts = attempts + sending
 where id = ?1
returning id, fence, attempts, lost, maybe_sent, memo, was_due, batch_id, lead_id, settings, correlation, kind, event";

fn leased(tx: &Tx, lane: CredentialId, row: &rusqlite::Row<'_>) -> Result<Leased, StoreError> {
    let delivery = DeliveryId::from_uuid(row.get(0)?);
    let lead = LeadId::from_uuid(row.get(8)?);
    let settings: Option<String> = row.get(9)?;
    let event: Option<String> = row.get(12)?;
    Ok(Leased {
        job: JobRef { delivery, fence: row.get(1)? },
        lane,
        batch: BatchId::from_uuid(row.get(7)?),
        attempts: row.get(2)?,
        lost: row.get(3)?,
        maybe_sent: row.get(4)?,
        memo: row.get(5)?,
        due_at: time(row.get(6)?),
        lead: lead_of(tx, lead)?.ok_or_else(|| StoreError::Defect(format!("{delivery} has no {lead}")))?,
        kind: word(row, 11)?,
        event: json_column(event.as_deref())?,
        settings: json_column(settings.as_deref())?,
        correlation: row.get(10)?,
    })
}

/// From memory, or read.
fn lead_of(tx: &Tx, id: LeadId) -> Result<Option<Arc<Lead>>, StoreError> {
    if let Some(lead) = tx.leads.get(id) {
        return Ok(Some(lead));
    }
    tx.db.first(READ_LEAD, params![id.uuid()], |row| {
        let payload = row.get_ref(0)?.as_str().map_err(|error| StoreError::Defect(format!("a lead is no text: {error}")))?;
        let lead: Lead = serde_json::from_str(payload).map_err(|error| StoreError::Defect(format!("a lead cannot be read: {error}")))?;
        let lead = Arc::new(lead);
        tx.leads.put(lead.clone(), payload.len());
        Ok(lead)
    })
}

const READ_LEAD: &str = "select payload from leads where id = ?1";

/// Lost leases that were found stay counted: the calls were made, whoever gives this lease back.
pub(super) fn release(tx: &Tx, jobs: &[JobRef], due_at: Timestamp) -> Result<(), StoreError> {
    on_standing(tx, RELEASE, jobs, due_at)
}

const RELEASE: &str = "update jobs set sending = 0, due_at = ?3 where id = ?1 and fence = ?2 and sending = 1";

pub(super) fn extend(tx: &Tx, jobs: &[JobRef], until: Timestamp) -> Result<(), StoreError> {
    on_standing(tx, EXTEND, jobs, until)
}

const EXTEND: &str = "update jobs set due_at = ?3 where id = ?1 and fence = ?2 and sending = 1";

fn on_standing(tx: &Tx, sql: &'static str, jobs: &[JobRef], at: Timestamp) -> Result<(), StoreError> {
    for job in jobs {
        tx.db.run(sql, params![job.delivery.uuid(), job.fence, at.as_millis()])?;
    }
    Ok(())
}

pub(super) fn checkpoint(tx: &Tx, job: JobRef, memo: &str) -> Result<bool, StoreError> {
    Ok(tx.db.run(CHECKPOINT, params![job.delivery.uuid(), job.fence, memo])? > 0)
}

const CHECKPOINT: &str = "update jobs set memo = ?3 where id = ?1 and fence = ?2 and sending = 1";

pub(super) async fn lanes(pool: &SqlitePool) -> Result<Vec<LaneDue>, StoreError> {
    let rows = sqlx::query(LANES).fetch_all(pool).await?;
    let lane = |row: SqliteRow| {
        let lane: Uuid = row.try_get(0)?;
        Ok(LaneDue { lane: CredentialId::from_uuid(lane), due_at: time(row.try_get(1)?) })
    };
    rows.into_iter().map(lane).collect()
}

/// Steps from lane to lane in the index, whatever the lanes hold.
pub(super) const LANES: &str = "
with recursive steps (lane) as (
    select min(lane_id) from jobs
    union all
    select (select min(j.lane_id) from jobs j where j.lane_id > steps.lane) from steps where steps.lane is not null)
select lane, (select min(due_at) from jobs where lane_id = lane) from steps where lane is not null";

/// The statements on the hot path, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[DUE, LEASE, READ_LEAD, RELEASE, EXTEND, CHECKPOINT];
