//! Persons that are erased, step by step. The stage of each stands in its row and moves in the transaction of the step: `leads`,
//! `tables`, `done`. Whoever takes a step holds the row: one at a time.

use std::collections::{BTreeSet, HashSet};

use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::error::Fail;
use super::gone::{self, Gone, Which};
use super::notices;
use super::pool::Conn;
use super::read::{self, json, plain, time, time_column};
use super::to_json;
use crate::model::{Erasure, ErasureCounts, ErasureId, ErasureKind, Event, KeyId, LeadId, ProjectId, Received, Timestamp};
use crate::policy::erasure::{Named, redacted_notice, redacted_task};
use crate::policy::notices::Digest;
use crate::store::sqlite::words::Word;
use crate::store::{EraseStep, Erased, Page};

pub(super) async fn create(tx: &mut Conn, erasure: &Erasure) -> Result<(), Fail> {
    let query = sqlx::query(INSERT)
        .bind(erasure.id.uuid())
        .bind(erasure.project.uuid())
        .bind(erasure.key.uuid())
        .bind(erasure.kind.word())
        .bind(plain(&erasure.fingerprint))
        .bind(erasure.asked.clone())
        .bind(if erasure.finished_at.is_some() { "done" } else { "leads" })
        .bind(to_json(&erasure.counts)?)
        .bind(to_json(&erasure.received)?)
        .bind(plain(&erasure.correlation))
        .bind(erasure.created_at.as_millis())
        .bind(erasure.finished_at.map(Timestamp::as_millis));
    tx.run(query).await.map(drop)
}

const INSERT: &str = "
insert into erasures (id, project_id, key_id, kind, fingerprint, asked, stage, counts, received, correlation, created_at, finished_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";

macro_rules! erasures {
    ($rest:literal) => {
        concat!(
            "select id, project_id, key_id, kind, fingerprint, asked, counts, received, correlation, created_at, finished_at from erasures ",
            $rest
        )
    };
}

fn row(row: &PgRow) -> Result<Erasure, Fail> {
    Ok(Erasure {
        id: ErasureId::from_uuid(row.try_get(0)?),
        project: ProjectId::from_uuid(row.try_get(1)?),
        key: KeyId::from_uuid(row.try_get(2)?),
        kind: ErasureKind::read(row.try_get(3)?)?,
        fingerprint: row.try_get(4)?,
        asked: row.try_get(5)?,
        counts: json(row.try_get(6)?)?,
        received: json(row.try_get(7)?)?,
        correlation: row.try_get(8)?,
        created_at: time(row.try_get(9)?),
        finished_at: time_column(row, 10)?,
    })
}

const ONE: &str = erasures!("where id = $1");
const OF_PROJECT: &str = erasures!("where project_id = $1 and id < $2 order by id desc limit $3");
const OF_ALL: &str = erasures!("where id < $1 order by id desc limit $2");
const RUNNING: &str = erasures!("where stage <> 'done' order by id limit $1");

pub(super) async fn erasure(conn: &mut Conn, id: ErasureId) -> Result<Option<Erasure>, Fail> {
    conn.first(sqlx::query(ONE).bind(id.uuid())).await?.as_ref().map(row).transpose()
}

pub(super) async fn erasures(
    conn: &mut Conn,
    project: Option<ProjectId>,
    before: Option<ErasureId>,
    limit: u32,
) -> Result<Page<Erasure>, Fail> {
    let before = before.map_or(Uuid::max(), ErasureId::uuid);
    let limit = read::bounded(limit);
    let query = match project {
        Some(project) => sqlx::query(OF_PROJECT).bind(project.uuid()).bind(before).bind(i64::from(limit) + 1),
        None => sqlx::query(OF_ALL).bind(before).bind(i64::from(limit) + 1),
    };
    read::page(conn.all(query).await?, limit, row)
}

pub(super) async fn running(conn: &mut Conn, limit: u32) -> Result<Vec<Erasure>, Fail> {
    conn.all(sqlx::query(RUNNING).bind(i64::from(limit))).await?.iter().map(row).collect()
}

/// A step that was taken.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) erased: Erased,
    /// Leads that went.
    pub(super) leads: Vec<LeadId>,
    /// When the transaction is committed, the tables are tidied; then the erasure is done.
    pub(super) tidies: bool,
}

pub(super) async fn step(tx: &mut Conn, step: &EraseStep) -> Result<Option<Taken>, Fail> {
    let Some(found) = tx.first(sqlx::query(STANDING).bind(step.erasure.uuid())).await? else { return Ok(None) };
    if found.try_get::<&str, _>(1)? != "leads" {
        return Ok(Some(Taken { tidies: true, ..Taken::default() }));
    }
    let project = ProjectId::from_uuid(found.try_get(0)?);
    let (mut counts, received): (ErasureCounts, Vec<Received>) = (json(found.try_get(2)?)?, json(found.try_get(3)?)?);
    let next: Vec<LeadId> = next(tx, project, step).await?.into_iter().collect();
    let mut gone = Gone { received, ..Gone::default() };
    gone::remove(tx, &next, Which::All, &mut gone).await?;
    let mut named = vec![Named::by_contacts(&step.person.contacts)];
    named.extend(gone.leads.iter().map(Named::of));
    let removed: HashSet<String> = gone.leads.iter().map(|lead| lead.id.to_string()).collect();
    for one in &mut gone.received {
        one.refs.retain(|given| !tells(&given.value, &named));
    }
    counts.add(&gone.counts);
    counts.redacted += tasks(tx, project, &named, step.now).await? + gathered(tx, project, &removed).await?;
    counts.redacted += told(tx, project, &removed, step.now).await?;
    let stage = if next.len() < step.limit as usize { "tables" } else { "leads" };
    let query = sqlx::query(STEP).bind(step.erasure.uuid()).bind(stage).bind(to_json(&counts)?).bind(to_json(&gone.received)?);
    tx.run(query).await?;
    let leads = gone.leads.iter().map(|lead| lead.id).collect();
    Ok(Some(Taken { erased: Erased { batches: gone.batches, ..Erased::default() }, leads, tidies: false }))
}

/// The person's leads in the project, without order.
async fn next(tx: &mut Conn, project: ProjectId, step: &EraseStep) -> Result<BTreeSet<LeadId>, Fail> {
    let mut found = BTreeSet::new();
    if let Some(lead) = step.person.lead {
        for row in tx.all(sqlx::query(OWN).bind(lead.uuid()).bind(project.uuid())).await? {
            found.insert(LeadId::from_uuid(row.try_get(0)?));
        }
    }
    for key in &step.person.contacts {
        let room = (step.limit as usize).saturating_sub(found.len());
        if room > 0 {
            let query = sqlx::query(BY_CONTACT).bind(plain(key)).bind(project.uuid()).bind(i64::from(step.limit));
            for row in tx.all(query).await?.iter().take(room) {
                found.insert(LeadId::from_uuid(row.try_get(0)?));
            }
        }
    }
    Ok(found)
}

/// Whether an id that the remote side gave says who it is about, such as an address.
fn tells(value: &str, named: &[Named]) -> bool {
    let small = value.to_lowercase();
    let contacts = named.iter().flat_map(|one| &one.found.contacts);
    contacts.filter_map(|key| key.get(1..)).any(|contact| contact.len() >= 5 && small.contains(contact))
}

/// Tasks that were asked about the person are asked nothing any more; those that run are cancelled.
async fn tasks(tx: &mut Conn, project: ProjectId, named: &[Named], now: Timestamp) -> Result<u64, Fail> {
    let mut about = Vec::new();
    for row in tx.all(sqlx::query(TASKS).bind(project.uuid())).await? {
        let asked: Value = json(row.try_get(1)?)?;
        if named.iter().any(|one| one.in_task(&asked)) {
            about.push(row.try_get::<Uuid, _>(0)?);
        }
    }
    let redacted = about.len() as u64;
    if redacted > 0 {
        tx.run(sqlx::query(REDACT_TASKS).bind(about).bind(to_json(&redacted_task())?).bind(now.as_millis())).await?;
    }
    Ok(redacted)
}

/// What notifications are about to tell of these leads.
async fn gathered(tx: &mut Conn, project: ProjectId, leads: &HashSet<String>) -> Result<u64, Fail> {
    // Whoever gathers or tells holds the project.
    notices::lock(tx, project).await?;
    let mut redacted = 0;
    for row in tx.all(sqlx::query(GATHERED).bind(project.uuid())).await? {
        let (rule, mut digest): (String, Digest) = (row.try_get(0)?, json(row.try_get(1)?)?);
        if digest.forget(leads) {
            tx.run(sqlx::query(GATHER).bind(project.uuid()).bind(rule).bind(to_json(&digest)?)).await?;
            redacted += 1;
        }
    }
    Ok(redacted)
}

/// What notifications have told of them.
async fn told(tx: &mut Conn, project: ProjectId, leads: &HashSet<String>, now: Timestamp) -> Result<u64, Fail> {
    let mut redacted = 0;
    for row in tx.all(sqlx::query(TOLD).bind(project.uuid())).await? {
        let (id, text): (Uuid, &str) = (row.try_get(0)?, row.try_get(1)?);
        // Ids stand between quotes; most events name none of these.
        if !text.split('"').any(|part| leads.contains(part)) {
            continue;
        }
        let mut event: Event = json(text)?;
        if let Some(data) = redacted_notice(&event.data, leads) {
            event.data = data;
            let event = to_json(&event)?;
            tx.run(sqlx::query(RETELL_JOB).bind(id).bind(event.clone()).bind(now.as_millis())).await?;
            tx.run(sqlx::query(RETELL).bind(id).bind(event)).await?;
            tx.run(sqlx::query(FORGET_ATTEMPTS).bind(id)).await?;
            redacted += 1;
        }
    }
    Ok(redacted)
}

pub(super) async fn complete(tx: &mut Conn, id: ErasureId, now: Timestamp) -> Result<(), Fail> {
    tx.run(sqlx::query(COMPLETE).bind(id.uuid()).bind(now.as_millis())).await.map(drop)
}

/// Removed rows stay in their pages until they are vacuumed; then their room is free, and is written over by what comes. Tables that
/// someone else is vacuuming at the moment are left to them, tables of another owner to that one.
pub(super) const TIDY: &str = "vacuum (skip_locked, truncate false, index_cleanup true)
leads, batches, deliveries, attempts, jobs, timers, notices, dedup, tasks, lead_contacts, lead_words, lead_repeats, leads_unindexed";

const STANDING: &str = "select project_id, stage, counts, received from erasures where id = $1 and stage <> 'done' for update";
const STEP: &str = "update erasures set stage = $2, counts = $3, received = $4 where id = $1";
const COMPLETE: &str = "update erasures set stage = 'done', asked = null, finished_at = $2 where id = $1 and stage = 'tables'";
const OWN: &str = "select id from leads where id = $1 and project_id = $2";
const BY_CONTACT: &str = "
select k.lead_id from lead_contacts k cross join lateral (select project_id from leads where id = k.lead_id offset 0) l
 where k.key = $1 and l.project_id = $2 limit $3";
const TASKS: &str = "select id, asked from tasks where project_id = $1 or project_id is null order by id for update";
const REDACT_TASKS: &str = "
update tasks set asked = $2, finished_at = case when status = 'running' then $3 else finished_at end,
                 status = case when status = 'running' then 'cancelled' else status end
 where id = any($1)";
const GATHERED: &str = "select rule, data from notices where project_id = $1";
const GATHER: &str = "update notices set data = $3 where project_id = $1 and rule = $2";
const TOLD: &str = "select id, event from deliveries where project_id = $1 and kind = 'notification' and event is not null";
const RETELL: &str = "update deliveries set event = $2, last_error = null where id = $1";
/// One that is being told at this moment is told again: the answer to the first call would be written with what it said.
const RETELL_JOB: &str = "
update jobs set event = $2, fence = fence + sending::int, due_at = case when sending then $3 else due_at end, sending = false where id = $1";
const FORGET_ATTEMPTS: &str = "update attempts set exchanges = null, message = null where delivery_id = $1";
