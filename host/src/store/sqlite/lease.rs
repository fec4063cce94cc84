//! Leases: taking due jobs, giving them back, and what is written while one stands.
//!
//! A lease stands while the job is `sending` with the same `fence`: answering, giving back and leasing again all end it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row, SqlitePool};
use uuid::Uuid;

use super::pack::{self, Rows};
use super::read::{json_column, time};
use super::words::Word;
use super::writer::Tx;
use crate::model::{BatchId, CredentialId, DeliveryId, DeliveryKind, Lead, LeadId, Timestamp};
use crate::store::{JobRef, LaneDue, LaneQuota, Leased, StoreError};

/// Lanes looked at by one statement; a smaller one for the usual short call.
const MANY: usize = 32;
const FEW: usize = 4;

static LEASE_MANY: LazyLock<Arc<str>> = LazyLock::new(|| lease_sql(MANY));
static LEASE_FEW: LazyLock<Arc<str>> = LazyLock::new(|| lease_sql(FEW));

/// One arm for each lane: SQLite takes a limit for each only in a statement of its own. The right-hand sides see the row
/// as it was, so a job that is still `sending` was leased before and never answered: that attempt counts, as lost. Each is
/// kept count of until an answer comes that writes them all: a node may die more than once over the same job.
fn lease_sql(lanes: usize) -> Arc<str> {
    let mut sql = String::from(
        "update jobs set was_due = due_at, due_at = $1, fence = fence + 1, lost = lost + sending, sending = 1,
                maybe_sent = max(maybe_sent, sending), attempts = attempts + sending
          where id in (",
    );
    for lane in 0..lanes {
        let union = if lane == 0 { "" } else { " union all " };
        // Writing to a String cannot fail.
        let _ = write!(
            sql,
            "{union}select id from (select id from jobs where lane_id = ${} and due_at <= $2 order by due_at limit ${})",
            lane * 2 + 3,
            lane * 2 + 4
        );
    }
    sql.push_str(
        ") returning id, lane_id, fence, attempts, lost, maybe_sent, memo, was_due, batch_id, lead_id, settings, correlation, kind, event",
    );
    sql.into()
}

/// The lease statements, for the check of their plans.
#[cfg(test)]
pub(super) fn statements() -> [Arc<str>; 2] {
    [LEASE_FEW.clone(), LEASE_MANY.clone()]
}

pub(super) async fn lease(tx: &mut Tx, lanes: &[LaneQuota], now: Timestamp, until: Timestamp) -> Result<Vec<Leased>, StoreError> {
    let mut rows = Vec::new();
    for lanes in lanes.chunks(MANY) {
        let (sql, arms) = if lanes.len() <= FEW { (&LEASE_FEW, FEW) } else { (&LEASE_MANY, MANY) };
        let mut query = sqlx::query(AssertSqlSafe(Arc::clone(sql))).bind(until.as_millis()).bind(now.as_millis());
        for i in 0..arms {
            let quota = lanes.get(i);
            query = query.bind(quota.map(|quota| quota.lane.uuid())).bind(quota.map_or(0, |quota| i64::from(quota.limit)));
        }
        rows.extend(query.fetch_all(&mut tx.conn).await?);
    }
    let leads = leads(tx, &rows).await?;
    let mut leased = rows.iter().map(|row| leased(row, &leads)).collect::<Result<Vec<_>, _>>()?;
    let turn: HashMap<CredentialId, usize> = lanes.iter().enumerate().map(|(i, quota)| (quota.lane, i)).collect();
    leased.sort_by_key(|one| (turn.get(&one.lane).copied(), one.due_at, one.job.delivery));
    Ok(leased)
}

fn leased(row: &SqliteRow, leads: &HashMap<LeadId, Arc<Lead>>) -> Result<Leased, StoreError> {
    let delivery = DeliveryId::from_uuid(row.try_get(0)?);
    let lead = LeadId::from_uuid(row.try_get(9)?);
    Ok(Leased {
        job: JobRef { delivery, fence: row.try_get(2)? },
        lane: CredentialId::from_uuid(row.try_get(1)?),
        batch: BatchId::from_uuid(row.try_get(8)?),
        attempts: row.try_get(3)?,
        lost: row.try_get(4)?,
        maybe_sent: row.try_get(5)?,
        memo: row.try_get(6)?,
        due_at: time(row.try_get(7)?),
        lead: leads.get(&lead).cloned().ok_or_else(|| StoreError::Defect(format!("{delivery} has no {lead}")))?,
        kind: DeliveryKind::read(row.try_get(12)?)?,
        event: json_column(row.try_get(13)?)?,
        settings: json_column(row.try_get(10)?)?,
        correlation: row.try_get(11)?,
    })
}

/// The leads of the leased jobs: from memory, the others in one read.
async fn leads(tx: &mut Tx, rows: &[SqliteRow]) -> Result<HashMap<LeadId, Arc<Lead>>, StoreError> {
    let mut leads = HashMap::new();
    let mut missing = Vec::new();
    for row in rows {
        let id = LeadId::from_uuid(row.try_get(9)?);
        if leads.contains_key(&id) || missing.contains(&id) {
            continue;
        }
        match tx.leads.get(id) {
            Some(lead) => drop(leads.insert(id, lead)),
            None => missing.push(id),
        }
    }
    if missing.is_empty() {
        return Ok(leads);
    }
    let (numbers, ids) = pack::ids(missing.iter().map(|id| id.uuid()));
    for row in sqlx::query(READ_LEADS).bind(numbers).bind(ids).fetch_all(&mut tx.conn).await? {
        let payload: &str = row.try_get(0)?;
        let lead: Lead = serde_json::from_str(payload).map_err(|error| StoreError::Defect(format!("a lead cannot be read: {error}")))?;
        let lead = Arc::new(lead);
        tx.leads.put(lead.clone(), payload.len());
        leads.insert(lead.id, lead);
    }
    Ok(leads)
}

const READ_LEADS: &str = "
select l.payload from json_each($1) r cross join leads l on l.id = substr($2, 16 * r.key + 1, 16)";

/// Lost leases that were found stay counted: the calls were made, whoever gives this lease back.
pub(super) async fn release(tx: &mut Tx, jobs: &[JobRef], due_at: Timestamp) -> Result<(), StoreError> {
    on_standing(tx, RELEASE, jobs, due_at).await
}

const RELEASE: &str = "
update jobs set sending = 0, due_at = $3
  from json_each($1) r
 where jobs.id = substr($2, 16 * r.key + 1, 16) and jobs.fence = r.value and jobs.sending = 1";

pub(super) async fn extend(tx: &mut Tx, jobs: &[JobRef], until: Timestamp) -> Result<(), StoreError> {
    on_standing(tx, EXTEND, jobs, until).await
}

const EXTEND: &str = "
update jobs set due_at = $3
  from json_each($1) r
 where jobs.id = substr($2, 16 * r.key + 1, 16) and jobs.fence = r.value and jobs.sending = 1";

async fn on_standing(tx: &mut Tx, sql: &'static str, jobs: &[JobRef], at: Timestamp) -> Result<(), StoreError> {
    let mut rows = Rows::default();
    for job in jobs {
        rows.push(&[job.delivery.uuid()], &job.fence)?;
    }
    if !rows.is_empty() {
        let (json, ids, _) = rows.take();
        sqlx::query(sql).bind(json).bind(ids).bind(at.as_millis()).execute(&mut tx.conn).await?;
    }
    Ok(())
}

pub(super) async fn checkpoint(tx: &mut Tx, job: JobRef, memo: &str) -> Result<bool, StoreError> {
    let done = sqlx::query(CHECKPOINT).bind(job.delivery.uuid()).bind(job.fence).bind(memo.to_owned()).execute(&mut tx.conn).await?;
    Ok(done.rows_affected() > 0)
}

const CHECKPOINT: &str = "update jobs set memo = $3 where id = $1 and fence = $2 and sending = 1";

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
pub(super) const HOT: &[&str] = &[READ_LEADS, RELEASE, EXTEND, CHECKPOINT];
