//! Leases: taking due jobs, giving them back, and what is written while one stands.
//!
//! A lease stands while the job is `sending` with the same `fence`: answering, giving back and leasing again all end it.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::error::Fail;
use super::pool::Conn;
use super::read::{json_column, memo, number, time};
use crate::model::{BatchId, CredentialId, DeliveryId, DeliveryKind, Lead, LeadId, Timestamp};
use crate::store::sqlite::lead_cache::LeadCache;
use crate::store::sqlite::words::Word;
use crate::store::{JobRef, LaneDue, LaneQuota, Leased};

/// In the order of `lanes`; within one, in that of the due times. The leads of the jobs are read in the same transaction, so
/// that no lease is taken that nobody could use.
pub(super) async fn lease(
    tx: &mut Conn,
    cache: &LeadCache,
    lanes: &[LaneQuota],
    now: Timestamp,
    until: Timestamp,
) -> Result<Vec<Leased>, Fail> {
    let ids: Vec<Uuid> = lanes.iter().map(|quota| quota.lane.uuid()).collect();
    let most: Vec<i64> = lanes.iter().map(|quota| i64::from(quota.limit)).collect();
    let rows = tx.all(sqlx::query(LEASE).bind(ids).bind(most).bind(now.as_millis()).bind(until.as_millis())).await?;
    let leads = leads(tx, cache, &rows).await?;
    let mut all = rows.iter().map(|row| leased(row, &leads)).collect::<Result<Vec<_>, _>>()?;
    let places: HashMap<CredentialId, usize> = lanes.iter().enumerate().map(|(place, quota)| (quota.lane, place)).collect();
    all.sort_by_key(|one| (places.get(&one.lane).copied(), one.due_at, one.job.delivery));
    Ok(all)
}

/// The right-hand sides see the row as it was, so a job that is still `sending` was leased before and never answered: that
/// attempt counts, as lost. Each is kept count of until an answer comes that writes them all: a node may die more than
/// once over the same job.
///
/// The rows are chosen in a CTE, which is done once: a subquery may be done again, and would lock more.
const LEASE: &str = "
with due as materialized (
    select j.id
      from unnest($1::uuid[], $2::bigint[]) as quota (lane, most)
     cross join lateral (
           select id from jobs where lane_id = quota.lane and due_at <= $3 and not stop order by due_at limit quota.most for update skip locked) j)
update jobs j
   set was_due = j.due_at, due_at = $4, fence = j.fence + 1, lost = j.lost + j.sending::int, sending = true,
       maybe_sent = j.maybe_sent or j.sending, attempts = j.attempts + j.sending::int
  from due
 where j.id = due.id
returning j.id, j.fence, j.attempts, j.lost, j.maybe_sent, j.memo, j.was_due, j.batch_id, j.lead_id, j.settings, j.correlation, j.kind, j.event,
          j.lane_id";

fn leased(row: &PgRow, leads: &HashMap<LeadId, Arc<Lead>>) -> Result<Leased, Fail> {
    let delivery = DeliveryId::from_uuid(row.try_get(0)?);
    let lead = LeadId::from_uuid(row.try_get(8)?);
    Ok(Leased {
        job: JobRef { delivery, fence: row.try_get(1)? },
        lane: CredentialId::from_uuid(row.try_get(13)?),
        batch: BatchId::from_uuid(row.try_get(7)?),
        attempts: number(row, 2)?,
        lost: number(row, 3)?,
        maybe_sent: row.try_get(4)?,
        memo: memo(row, 5)?,
        due_at: time(row.try_get(6)?),
        lead: leads.get(&lead).cloned().ok_or_else(|| Fail::defect(format!("{delivery} has no {lead}")))?,
        kind: DeliveryKind::read(row.try_get(11)?)?,
        event: json_column(row.try_get(12)?)?,
        settings: json_column(row.try_get(9)?)?,
        correlation: row.try_get(10)?,
    })
}

/// From memory, or read.
async fn leads(tx: &mut Conn, cache: &LeadCache, rows: &[PgRow]) -> Result<HashMap<LeadId, Arc<Lead>>, Fail> {
    let mut known = HashMap::with_capacity(rows.len());
    let mut missing = Vec::new();
    for row in rows {
        let id = LeadId::from_uuid(row.try_get(8)?);
        if known.contains_key(&id) || missing.contains(&id.uuid()) {
            continue;
        }
        match cache.get(id) {
            Some(lead) => drop(known.insert(id, lead)),
            None => missing.push(id.uuid()),
        }
    }
    if !missing.is_empty() {
        for row in tx.all(sqlx::query(READ_LEADS).bind(missing)).await? {
            let payload: &str = row.try_get(1)?;
            let lead: Lead = serde_json::from_str(payload).map_err(|error| Fail::defect(format!("a lead cannot be read: {error}")))?;
            let lead = Arc::new(lead);
            cache.put(lead.clone(), payload.len());
            known.insert(LeadId::from_uuid(row.try_get(0)?), lead);
        }
    }
    Ok(known)
}

const READ_LEADS: &str = "select id, payload from leads where id = any($1)";

/// Lost leases that were found stay counted: the calls were made, whoever gives this lease back.
pub(super) async fn release(tx: &mut Conn, jobs: &[JobRef], due_at: Timestamp) -> Result<(), Fail> {
    on_standing(tx, RELEASE, jobs, due_at).await
}

pub(super) async fn extend(tx: &mut Conn, jobs: &[JobRef], until: Timestamp) -> Result<(), Fail> {
    on_standing(tx, EXTEND, jobs, until).await
}

async fn on_standing(tx: &mut Conn, sql: &'static str, jobs: &[JobRef], at: Timestamp) -> Result<(), Fail> {
    let (ids, fences) = split(jobs);
    tx.run(sqlx::query(sql).bind(ids).bind(fences).bind(at.as_millis())).await.map(drop)
}

fn split(jobs: &[JobRef]) -> (Vec<Uuid>, Vec<i64>) {
    jobs.iter().map(|job| (job.delivery.uuid(), job.fence)).unzip()
}

/// Jobs are locked in the order of their ids, here as everywhere.
macro_rules! standing {
    ($set:literal) => {
        concat!(
            "
with standing as materialized (
    select j.id from jobs j join unnest($1::uuid[], $2::bigint[]) as u (id, fence) on j.id = u.id and j.fence = u.fence
     where j.sending order by j.id for update of j)
update jobs j set ",
            $set,
            " from standing where j.id = standing.id"
        )
    };
}

const RELEASE: &str = standing!("sending = false, due_at = $3");
const EXTEND: &str = standing!("due_at = $3");

pub(super) async fn checkpoint(tx: &mut Conn, job: JobRef, note: &str) -> Result<bool, Fail> {
    let query = sqlx::query(CHECKPOINT).bind(job.delivery.uuid()).bind(job.fence).bind(note.as_bytes().to_vec());
    Ok(tx.run(query).await? > 0)
}

const CHECKPOINT: &str = "update jobs set memo = $3 where id = $1 and fence = $2 and sending";

pub(super) async fn lanes(conn: &mut Conn) -> Result<Vec<LaneDue>, Fail> {
    let lane = |row: &PgRow| Ok(LaneDue { lane: CredentialId::from_uuid(row.try_get(0)?), due_at: time(row.try_get(1)?) });
    conn.all(sqlx::query(LANES)).await?.iter().map(lane).collect()
}

/// Steps from lane to lane in the index, whatever the lanes hold.
const LANES: &str = "
with recursive steps (lane, due_at) as (
    (select lane_id, due_at from jobs order by lane_id, due_at limit 1)
    union all
    select next.lane_id, next.due_at
      from steps
     cross join lateral (select lane_id, due_at from jobs where lane_id > steps.lane order by lane_id, due_at limit 1) next)
select lane, due_at from steps";
