//! What is removed for its age, slice by slice.

use std::collections::BTreeMap;

use rusqlite::params;
use sqlx::{QueryBuilder, Row, SqlitePool};
use uuid::Uuid;

use super::gone::{self, Gone};
use super::read::{json, time};
use super::to_json;
use super::writer::Tx;
use crate::model::{Cleanup, DeliveryId, LeadId, ProjectId, Removed, Repeats, TaskId, Timestamp};
use crate::store::{Prune, PrunedAttempts, PrunedLeads, StoreError};

/// The smallest id that one made at `at` or later can have: ids sort by time.
fn first_id(at: Timestamp) -> Uuid {
    let millis = u128::try_from(at.as_millis().max(0)).unwrap_or(0);
    Uuid::from_u128(millis << 80)
}

pub(super) fn leads(tx: &mut Tx, prune: &Prune<LeadId>) -> Result<PrunedLeads, StoreError> {
    let after = prune.after.map_or(Uuid::nil(), LeadId::uuid);
    let before = first_id(prune.before);
    let rows = tx.db.all(OLD_LEADS, params![prune.project.uuid(), after, before, prune.limit], |row| {
        Ok((LeadId::from_uuid(row.get(0)?), row.get::<_, Uuid>(1)? < before, row.get::<_, bool>(2)?))
    })?;
    let mut gone = Gone::default();
    for (lead, _, _) in rows.iter().filter(|(_, old, queued)| *old && !queued) {
        gone::remove(tx, *lead, &mut gone)?;
    }
    let next = rows.last().filter(|_| rows.len() >= prune.limit as usize).map(|(lead, _, _)| *lead);
    let counts = gone.counts;
    let removed = Removed {
        leads: counts.leads,
        batches: counts.batches,
        deliveries: counts.deliveries,
        attempts: counts.attempts,
        ..Removed::default()
    };
    Ok(PrunedLeads { removed, next })
}

/// With the newest batch of each, and whether anything of it is still under way.
const OLD_LEADS: &str = "
select l.id, l.batch_id,
       exists (select 1 from batches b cross join deliveries d on d.batch_id = b.id cross join jobs j on j.id = d.id where b.lead_id = l.id)
  from leads l where l.project_id = ?1 and l.id > ?2 and l.id < ?3 order by l.id limit ?4";

pub(super) fn attempts(tx: &mut Tx, prune: &Prune<DeliveryId>) -> Result<PrunedAttempts, StoreError> {
    let after = prune.after.map_or(Uuid::nil(), DeliveryId::uuid);
    let params = params![prune.project.uuid(), after, first_id(prune.before), prune.limit];
    let rows = tx.db.all(OLD_DELIVERIES, params, |row| Ok((DeliveryId::from_uuid(row.get(0)?), row.get::<_, bool>(1)?)))?;
    let mut pruned = PrunedAttempts { last: rows.last().map(|(id, _)| *id), ..PrunedAttempts::default() };
    for (id, queued) in &rows {
        let (mut left, before) = (*queued, prune.before.as_millis());
        if !queued {
            let found = tx.db.first(OLD_ATTEMPTS, params![id.uuid(), before], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, bool>(1)?)))?;
            let (last, newer) = found.unwrap_or_default();
            left = newer;
            if last > 0 {
                pruned.attempts += tx.db.run(DELETE_ATTEMPTS, params![id.uuid(), before])? as u64;
                tx.db.run(SAY_PRUNED, params![id.uuid(), last])?;
            }
        }
        if left && pruned.left.is_none() {
            pruned.left = Some(*id);
        }
    }
    pruned.next = pruned.last.filter(|_| rows.len() >= prune.limit as usize);
    Ok(pruned)
}

const OLD_DELIVERIES: &str = "
select d.id, exists (select 1 from jobs where id = d.id)
  from deliveries d where d.project_id = ?1 and d.id > ?2 and d.id < ?3 order by d.id limit ?4";

/// The number of the last old one, and whether there are newer ones.
const OLD_ATTEMPTS: &str = "
select coalesce(max(iif(started_at < ?2, no, 0)), 0), coalesce(max(started_at >= ?2), 0) from attempts where delivery_id = ?1";

const DELETE_ATTEMPTS: &str = "delete from attempts where delivery_id = ?1 and started_at < ?2";

const SAY_PRUNED: &str = "update deliveries set attempts_pruned = max(attempts_pruned, ?2) where id = ?1";

pub(super) fn tasks(tx: &Tx, project: Option<ProjectId>, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
    let before = first_id(before);
    let ids = match project {
        Some(project) => tx.db.all(OLD_TASKS, params![project.uuid(), before, limit], |row| Ok(row.get::<_, Uuid>(0)?))?,
        None => tx.db.all(OLD_TASKS_OF_ALL, params![before, limit], |row| Ok(row.get::<_, Uuid>(0)?))?,
    };
    for id in &ids {
        tx.db.run(DELETE_TASK, params![TaskId::from_uuid(*id).uuid()])?;
    }
    Ok(ids.len() as u64)
}

const OLD_TASKS: &str = "select id from tasks where project_id = ?1 and id < ?2 and status <> 'running' order by id limit ?3";
const OLD_TASKS_OF_ALL: &str = "select id from tasks where project_id is null and id < ?1 and status <> 'running' order by id limit ?2";
const DELETE_TASK: &str = "delete from tasks where id = ?1 and status <> 'running'";

fn scope(project: Option<ProjectId>) -> Uuid {
    project.map_or(Uuid::nil(), ProjectId::uuid)
}

pub(super) async fn cleanup(pool: &SqlitePool, project: Option<ProjectId>) -> Result<Option<Cleanup>, StoreError> {
    let Some(row) = sqlx::query(CLEANUP).bind(scope(project)).fetch_optional(pool).await? else { return Ok(None) };
    Ok(Some(Cleanup {
        project,
        due_at: time(row.try_get(0)?),
        ended_at: time(row.try_get(1)?),
        removed: json(row.try_get(2)?)?,
        place: row.try_get::<Option<_>, _>(3)?.map(DeliveryId::from_uuid),
    }))
}

const CLEANUP: &str = "select due_at, ended_at, removed, place from cleanups where scope = $1";

pub(super) fn note_cleanup(tx: &Tx, cleanup: &Cleanup) -> Result<(), StoreError> {
    let Cleanup { project, due_at, ended_at, removed, place } = cleanup;
    let place = place.map(DeliveryId::uuid);
    tx.db.run(NOTE_CLEANUP, params![scope(*project), due_at.as_millis(), ended_at.as_millis(), to_json(removed)?, place]).map(drop)
}

const NOTE_CLEANUP: &str = "insert or replace into cleanups (scope, due_at, ended_at, removed, place) values (?1, ?2, ?3, ?4, ?5)";

/// Most leads of one question.
const MAX_ASKED: usize = 200;

pub(super) async fn repeats(pool: &SqlitePool, leads: &[LeadId]) -> Result<BTreeMap<LeadId, Repeats>, StoreError> {
    if leads.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut sql = QueryBuilder::new("select lead_id, count, last_at from lead_repeats where lead_id in (");
    let mut ids = sql.separated(", ");
    for lead in leads.iter().take(MAX_ASKED) {
        ids.push_bind(lead.uuid());
    }
    sql.push(")");
    let mut found = BTreeMap::new();
    for row in sql.build().fetch_all(pool).await? {
        found.insert(LeadId::from_uuid(row.try_get(0)?), Repeats { count: row.try_get(1)?, last_at: time(row.try_get(2)?) });
    }
    Ok(found)
}

/// Notes that a lead came again, in the transaction that found it out; how often it did.
pub(super) fn note_repeat(tx: &Tx, lead: LeadId, now: Timestamp) -> Result<u32, StoreError> {
    let count = tx.db.first(REPEAT, params![lead.uuid(), now.as_millis()], |row| Ok(row.get(0)?))?;
    count.ok_or_else(|| StoreError::Defect("a count was not written".to_owned()))
}

const REPEAT: &str = "
insert into lead_repeats (lead_id, count, last_at) values (?1, 1, ?2)
    on conflict (lead_id) do update set count = min(count + 1, 1000000000), last_at = max(last_at, excluded.last_at)
returning count";

/// The statements, for the check of their plans.
#[cfg(test)]
pub(super) const ALL: &[&str] = &[
    OLD_LEADS,
    OLD_DELIVERIES,
    OLD_ATTEMPTS,
    DELETE_ATTEMPTS,
    SAY_PRUNED,
    OLD_TASKS,
    OLD_TASKS_OF_ALL,
    DELETE_TASK,
    CLEANUP,
    NOTE_CLEANUP,
    REPEAT,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_around_a_time() {
        let at = Timestamp::from_millis(1_767_225_600_000);
        let earlier = Timestamp::from_millis(at.as_millis() - 1);
        assert!(LeadId::new(earlier).uuid() < first_id(at) && first_id(at) < LeadId::new(at).uuid());
    }
}
