//! What is removed for its age, slice by slice; and how often leads came again.

use std::collections::{BTreeMap, HashMap};

use sqlx::Row;
use uuid::Uuid;

use super::error::Fail;
use super::gone::{self, Gone, Which};
use super::pool::Conn;
use super::read::{json, number, time};
use super::to_json;
use super::walk::id_at;
use crate::model::{Cleanup, DeliveryId, LeadId, ProjectId, Removed, Repeats, Timestamp};
use crate::store::{Prune, PrunedAttempts, PrunedLeads};

/// With the leads that went.
pub(super) async fn leads(tx: &mut Conn, prune: &Prune<LeadId>) -> Result<(PrunedLeads, Vec<LeadId>), Fail> {
    let (after, before) = (prune.after.map_or(Uuid::nil(), LeadId::uuid), id_at(prune.before.as_millis()));
    let query = sqlx::query(OLD_LEADS).bind(prune.project.uuid()).bind(after).bind(before).bind(i64::from(prune.limit));
    let (mut old, mut last, mut looked_at) = (Vec::new(), None, 0);
    for row in tx.all(query).await? {
        let lead = LeadId::from_uuid(row.try_get(0)?);
        if row.try_get::<Uuid, _>(1)? < before {
            old.push(lead);
        }
        (last, looked_at) = (Some(lead), looked_at + 1);
    }
    let mut gone = Gone::default();
    gone::remove(tx, &old, Which::Idle(before), &mut gone).await?;
    let counts = gone.counts;
    let removed = Removed {
        leads: counts.leads,
        batches: counts.batches,
        deliveries: counts.deliveries,
        attempts: counts.attempts,
        ..Removed::default()
    };
    let next = last.filter(|_| looked_at >= prune.limit);
    Ok((PrunedLeads { removed, next }, gone.leads.iter().map(|lead| lead.id).collect()))
}

/// With the newest batch of each.
const OLD_LEADS: &str = "select id, batch_id from leads where project_id = $1 and id > $2 and id < $3 order by id limit $4";

pub(super) async fn attempts(tx: &mut Conn, prune: &Prune<DeliveryId>) -> Result<PrunedAttempts, Fail> {
    let (after, before) = (prune.after.map_or(Uuid::nil(), DeliveryId::uuid), prune.before.as_millis());
    let query = sqlx::query(OLD_DELIVERIES).bind(prune.project.uuid()).bind(after).bind(id_at(before)).bind(i64::from(prune.limit));
    let mut deliveries = Vec::new();
    for row in tx.all(query).await? {
        deliveries.push((DeliveryId::from_uuid(row.try_get(0)?), row.try_get::<bool, _>(1)?));
    }
    let ended: Vec<Uuid> = deliveries.iter().filter(|(_, queued)| !queued).map(|(id, _)| id.uuid()).collect();
    let (mut newer, mut old) = (HashMap::new(), Vec::new());
    for row in tx.all(sqlx::query(OLD_ATTEMPTS).bind(ended).bind(before)).await? {
        let id: Uuid = row.try_get(0)?;
        newer.insert(id, row.try_get::<bool, _>(2)?);
        if let Some(last) = row.try_get::<Option<i64>, _>(1)? {
            old.push((id, last));
        }
    }
    let mut pruned = PrunedAttempts { last: deliveries.last().map(|(id, _)| *id), ..PrunedAttempts::default() };
    if !old.is_empty() {
        let (ids, last): (Vec<Uuid>, Vec<i64>) = old.into_iter().unzip();
        pruned.attempts = tx.run(sqlx::query(DELETE_ATTEMPTS).bind(ids.clone()).bind(before)).await?;
        tx.run(sqlx::query(SAY_PRUNED).bind(ids).bind(last)).await?;
    }
    let left = |(id, queued): &&(DeliveryId, bool)| *queued || newer.get(&id.uuid()).copied().unwrap_or(false);
    pruned.left = deliveries.iter().find(left).map(|(id, _)| *id);
    pruned.next = pruned.last.filter(|_| deliveries.len() >= prune.limit as usize);
    Ok(pruned)
}

const OLD_DELIVERIES: &str = "
select d.id, exists (select 1 from jobs where id = d.id)
  from deliveries d where d.project_id = $1 and d.id > $2 and d.id < $3 order by d.id limit $4";

/// The number of the last old one of each, and whether there are newer ones.
const OLD_ATTEMPTS: &str = "
select delivery_id, max(no) filter (where started_at < $2), bool_or(started_at >= $2) from attempts where delivery_id = any($1)
 group by delivery_id order by delivery_id";

const DELETE_ATTEMPTS: &str = "delete from attempts where delivery_id = any($1) and started_at < $2";

const SAY_PRUNED: &str = "
update deliveries d set attempts_pruned = greatest(d.attempts_pruned, u.last)
  from unnest($1::uuid[], $2::bigint[]) as u (id, last) where d.id = u.id and d.id = any($1)";

pub(super) async fn tasks(tx: &mut Conn, project: Option<ProjectId>, before: Timestamp, limit: u32) -> Result<u64, Fail> {
    let before = id_at(before.as_millis());
    let query = match project {
        Some(project) => sqlx::query(DELETE_TASKS).bind(before).bind(i64::from(limit)).bind(project.uuid()),
        None => sqlx::query(DELETE_TASKS_OF_ALL).bind(before).bind(i64::from(limit)),
    };
    tx.run(query).await
}

const DELETE_TASKS: &str = "
delete from tasks where id = any(array(
    select id from tasks where project_id = $3 and id < $1 and status <> 'running' order by id limit $2 for update skip locked))";
const DELETE_TASKS_OF_ALL: &str = "
delete from tasks where id = any(array(
    select id from tasks where project_id is null and id < $1 and status <> 'running' order by id limit $2 for update skip locked))";

fn scope(project: Option<ProjectId>) -> Uuid {
    project.map_or(Uuid::nil(), ProjectId::uuid)
}

pub(super) async fn cleanup(conn: &mut Conn, project: Option<ProjectId>) -> Result<Option<Cleanup>, Fail> {
    let Some(row) = conn.first(sqlx::query(CLEANUP).bind(scope(project))).await? else { return Ok(None) };
    Ok(Some(Cleanup {
        project,
        due_at: time(row.try_get(0)?),
        ended_at: time(row.try_get(1)?),
        removed: json(row.try_get(2)?)?,
        place: row.try_get::<Option<_>, _>(3)?.map(DeliveryId::from_uuid),
    }))
}

const CLEANUP: &str = "select due_at, ended_at, removed, place from cleanups where scope = $1";

pub(super) async fn note_cleanup(tx: &mut Conn, cleanup: &Cleanup) -> Result<(), Fail> {
    let query = sqlx::query(NOTE_CLEANUP)
        .bind(scope(cleanup.project))
        .bind(cleanup.due_at.as_millis())
        .bind(cleanup.ended_at.as_millis())
        .bind(to_json(&cleanup.removed)?)
        .bind(cleanup.place.map(DeliveryId::uuid));
    tx.run(query).await.map(drop)
}

const NOTE_CLEANUP: &str = "
insert into cleanups (scope, due_at, ended_at, removed, place) values ($1, $2, $3, $4, $5)
on conflict (scope) do update
   set due_at = excluded.due_at, ended_at = excluded.ended_at, removed = excluded.removed, place = excluded.place";

/// Most leads of one question.
const MAX_ASKED: usize = 200;

pub(super) async fn repeats(conn: &mut Conn, leads: &[LeadId]) -> Result<BTreeMap<LeadId, Repeats>, Fail> {
    let ids: Vec<Uuid> = leads.iter().take(MAX_ASKED).map(|id| id.uuid()).collect();
    let mut found = BTreeMap::new();
    for row in conn.all(sqlx::query(REPEATS).bind(ids)).await? {
        found.insert(LeadId::from_uuid(row.try_get(0)?), Repeats { count: number(&row, 1)?, last_at: time(row.try_get(2)?) });
    }
    Ok(found)
}

const REPEATS: &str = "select lead_id, count, last_at from lead_repeats where lead_id = any($1)";

/// Notes that a lead came again, in the transaction that found it out; how often it did.
pub(super) async fn note_repeat(tx: &mut Conn, lead: LeadId, now: Timestamp) -> Result<u32, Fail> {
    number(&tx.one(sqlx::query(REPEAT).bind(lead.uuid()).bind(now.as_millis())).await?, 0)
}

const REPEAT: &str = "
insert into lead_repeats as r (lead_id, count, last_at) values ($1, 1, $2)
    on conflict (lead_id) do update set count = least(r.count + 1, 1000000000), last_at = greatest(r.last_at, excluded.last_at)
returning count";
