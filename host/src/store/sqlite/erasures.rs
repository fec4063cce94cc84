//! Persons that are erased, step by step. The stage of each stands in its row and moves in the transaction of the step:
//! `leads`, `words` and `merging` (the index of words), `files`, `done`.

use std::collections::{BTreeSet, HashSet};

use rusqlite::params;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqlitePool};
use uuid::Uuid;

use super::gone::{self, Gone};
use super::read::{self, json, time};
use super::words::Word;
use super::writer::Tx;
use super::{search, to_json};
use crate::model::{Erasure, ErasureCounts, ErasureId, ErasureKind, Event, KeyId, LeadId, ProjectId, Received, Timestamp};
use crate::policy::erasure::{Named, redacted_notice, redacted_task};
use crate::policy::notices::Digest;
use crate::store::{EraseStep, Erased, Page, StoreError};

pub(super) fn create(tx: &Tx, erasure: &Erasure) -> Result<(), StoreError> {
    let Erasure { id, project, key, kind, fingerprint, asked, counts, received, correlation, created_at, finished_at } = erasure;
    let (counts, received, finished_at) = (to_json(counts)?, to_json(received)?, finished_at.map(Timestamp::as_millis));
    let stage = if finished_at.is_some() { "done" } else { "leads" };
    let (id, project, key, created_at) = (id.uuid(), project.uuid(), key.uuid(), created_at.as_millis());
    tx.db
        .run(
            INSERT,
            params![id, project, key, kind.word(), fingerprint, asked, stage, counts, received, correlation, created_at, finished_at],
        )
        .map(drop)
}

const INSERT: &str = "
insert into erasures (id, project_id, key_id, kind, fingerprint, asked, stage, counts, received, correlation, created_at, finished_at)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";

macro_rules! erasures {
    ($rest:literal) => {
        concat!(
            "select id, project_id, key_id, kind, fingerprint, asked, counts, received, correlation, created_at, finished_at from erasures ",
            $rest
        )
    };
}

fn row(row: &SqliteRow) -> Result<Erasure, StoreError> {
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
        finished_at: row.try_get::<Option<i64>, _>(10)?.map(time),
    })
}

const ONE: &str = erasures!("where id = $1");
const OF_PROJECT: &str = erasures!("where project_id = $1 and id < $2 order by id desc limit $3");
const OF_ALL: &str = erasures!("where id < $1 order by id desc limit $2");
const RUNNING: &str = erasures!("where stage <> 'done' and id > x'' order by id limit $1");

pub(super) async fn erasure(pool: &SqlitePool, id: ErasureId) -> Result<Option<Erasure>, StoreError> {
    sqlx::query(ONE).bind(id.uuid()).fetch_optional(pool).await?.as_ref().map(row).transpose()
}

pub(super) async fn erasures(
    pool: &SqlitePool,
    project: Option<ProjectId>,
    before: Option<ErasureId>,
    limit: u32,
) -> Result<Page<Erasure>, StoreError> {
    let before = before.map_or(Uuid::max(), ErasureId::uuid);
    let limit = read::bounded(limit);
    let query = match project {
        Some(project) => sqlx::query(OF_PROJECT).bind(project.uuid()).bind(before).bind(limit + 1),
        None => sqlx::query(OF_ALL).bind(before).bind(limit + 1),
    };
    read::page(query.fetch_all(pool).await?, limit, row)
}

pub(super) async fn running(pool: &SqlitePool, limit: u32) -> Result<Vec<Erasure>, StoreError> {
    sqlx::query(RUNNING).bind(limit).fetch_all(pool).await?.iter().map(row).collect()
}

/// A step that was taken.
pub(super) struct Taken {
    pub(super) erased: Erased,
    /// When the transaction is committed, the files are tidied; then the erasure is done.
    pub(super) tidies: bool,
}

impl Taken {
    fn more() -> Self {
        Self { erased: Erased::default(), tidies: false }
    }
}

/// Where an erasure stands.
struct Standing {
    project: ProjectId,
    stage: String,
    counts: ErasureCounts,
    received: Vec<Received>,
}

pub(super) fn step(tx: &mut Tx, step: &EraseStep) -> Result<Option<Taken>, StoreError> {
    let found = tx.db.first(STANDING, params![step.erasure.uuid()], |row| {
        let project = ProjectId::from_uuid(row.get(0)?);
        let (counts, received) = (json(&row.get::<_, String>(2)?)?, json(&row.get::<_, String>(3)?)?);
        Ok(Standing { project, stage: row.get(1)?, counts, received })
    })?;
    let Some(standing) = found else { return Ok(None) };
    let taken = match standing.stage.as_str() {
        "leads" => leads(tx, step, standing)?,
        "words" => {
            search::merge(tx, true)?;
            tx.db.run(STAGE, params![step.erasure.uuid(), "merging"])?;
            Taken::more()
        }
        "merging" => {
            if !search::merge(tx, false)? {
                tx.db.run(STAGE, params![step.erasure.uuid(), "files"])?;
            }
            Taken::more()
        }
        _ => {
            tx.tidy.ask();
            Taken { tidies: true, ..Taken::more() }
        }
    };
    Ok(Some(taken))
}

/// Removes the next leads, and what names their person elsewhere in the project.
fn leads(tx: &mut Tx, step: &EraseStep, standing: Standing) -> Result<Taken, StoreError> {
    let Standing { project, mut counts, received, .. } = standing;
    let mut gone = Gone { received, ..Gone::default() };
    let mut named = vec![Named::by_contacts(&step.person.contacts)];
    let mut removed = HashSet::new();
    let next = next(tx, project, step)?;
    for id in &next {
        if let Some(lead) = gone::remove(tx, *id, &mut gone)? {
            named.push(Named::of(&lead));
            removed.insert(id.to_string());
        }
    }
    for one in &mut gone.received {
        one.refs.retain(|given| !tells(&given.value, &named));
    }
    counts.add(&gone.counts);
    counts.redacted += tasks(tx, project, &named, step.now)? + notices(tx, project, &removed, step.now)?;
    let stage = if next.len() < step.limit as usize { "words" } else { "leads" };
    tx.db.run(STEP, params![step.erasure.uuid(), stage, to_json(&counts)?, to_json(&gone.received)?])?;
    Ok(Taken { erased: Erased { batches: gone.batches, ..Erased::default() }, tidies: false })
}

/// The person's leads in the project, without order.
fn next(tx: &Tx, project: ProjectId, step: &EraseStep) -> Result<BTreeSet<LeadId>, StoreError> {
    let mut found = BTreeSet::new();
    let id = |row: &rusqlite::Row<'_>| Ok(LeadId::from_uuid(row.get(0)?));
    if let Some(lead) = step.person.lead {
        found.extend(tx.db.first(OWN, params![lead.uuid(), project.uuid()], id)?);
    }
    for key in &step.person.contacts {
        let room = (step.limit as usize).saturating_sub(found.len());
        if room > 0 {
            found.extend(tx.db.all(BY_CONTACT, params![key, project.uuid(), step.limit], id)?.into_iter().take(room));
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
fn tasks(tx: &Tx, project: ProjectId, named: &[Named], now: Timestamp) -> Result<u64, StoreError> {
    let mut redacted = 0;
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, Uuid>(0)?, json::<serde_json::Value>(&row.get::<_, String>(1)?)?));
    for (sql, project) in [(TASKS_OF_PROJECT, Some(project.uuid())), (TASKS_OF_ALL, None)] {
        let rows = match project {
            Some(project) => tx.db.all(sql, params![project], read)?,
            None => tx.db.all(sql, [], read)?,
        };
        for (id, asked) in rows {
            if named.iter().any(|one| one.in_task(&asked)) {
                tx.db.run(REDACT_TASK, params![id, to_json(&redacted_task())?, now.as_millis()])?;
                redacted += 1;
            }
        }
    }
    Ok(redacted)
}

/// What notifications are about to tell of these leads, or have told.
fn notices(tx: &Tx, project: ProjectId, leads: &HashSet<String>, now: Timestamp) -> Result<u64, StoreError> {
    let mut redacted = 0;
    let rules = tx.db.all(GATHERED, params![project.uuid()], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    for (rule, data) in rules {
        let mut digest: Digest = json(&data)?;
        if digest.forget(leads) {
            tx.db.run(GATHER, params![project.uuid(), rule, to_json(&digest)?])?;
            redacted += 1;
        }
    }
    let told = tx.db.all(TOLD, params![project.uuid()], |row| Ok((row.get::<_, Uuid>(0)?, row.get::<_, String>(1)?)))?;
    for (id, text) in told {
        // Ids stand between quotes; most events name none of these.
        if !text.split('"').any(|part| leads.contains(part)) {
            continue;
        }
        let mut event: Event = json(&text)?;
        if let Some(data) = redacted_notice(&event.data, leads) {
            event.data = data;
            tx.db.run(RETELL, params![id, to_json(&event)?])?;
            tx.db.run(RETELL_JOB, params![id, to_json(&event)?, now.as_millis()])?;
            tx.db.run(FORGET_ATTEMPTS, params![id])?;
            redacted += 1;
        }
    }
    Ok(redacted)
}

pub(super) fn complete(tx: &Tx, id: ErasureId, now: Timestamp) -> Result<(), StoreError> {
    tx.db.run(COMPLETE, params![id.uuid(), now.as_millis()]).map(drop)
}

const STANDING: &str = "select project_id, stage, counts, received from erasures where id = ?1 and stage <> 'done'";
const STAGE: &str = "update erasures set stage = ?2 where id = ?1";
const STEP: &str = "update erasures set stage = ?2, counts = ?3, received = ?4 where id = ?1";
const COMPLETE: &str = "update erasures set stage = 'done', asked = null, finished_at = ?2 where id = ?1 and stage = 'files'";
const OWN: &str = "select id from leads where id = ?1 and project_id = ?2";
const BY_CONTACT: &str = "
select k.lead_id from lead_contacts k cross join leads l on l.id = k.lead_id where k.key = ?1 and +l.project_id = ?2 limit ?3";
const TASKS_OF_PROJECT: &str = "select id, asked from tasks where project_id = ?1";
const TASKS_OF_ALL: &str = "select id, asked from tasks where project_id is null";
const REDACT_TASK: &str = "
update tasks set asked = ?2, finished_at = iif(status = 'running', ?3, finished_at), status = iif(status = 'running', 'cancelled', status)
 where id = ?1";
const GATHERED: &str = "select rule, data from notices where project_id = ?1";
const GATHER: &str = "update notices set data = ?3 where project_id = ?1 and rule = ?2";
const TOLD: &str = "select id, event from deliveries where project_id = ?1 and kind = 'notification' and event is not null";
const RETELL: &str = "update deliveries set event = ?2, last_error = null where id = ?1";
/// One that is being told at this moment is told again: the answer to the first call would be written with what it said.
const RETELL_JOB: &str = "
update jobs set event = ?2, fence = fence + sending, due_at = iif(sending, ?3, due_at), sending = 0 where id = ?1";
const FORGET_ATTEMPTS: &str = "update attempts set exchanges = null, message = null where delivery_id = ?1";

/// The statements, for the check of their plans.
#[cfg(test)]
pub(super) const ALL: &[&str] = &[
    ONE,
    OF_PROJECT,
    OF_ALL,
    RUNNING,
    STANDING,
    STAGE,
    STEP,
    COMPLETE,
    OWN,
    BY_CONTACT,
    TASKS_OF_PROJECT,
    TASKS_OF_ALL,
    REDACT_TASK,
    GATHERED,
    GATHER,
    TOLD,
    RETELL,
    RETELL_JOB,
    FORGET_ATTEMPTS,
];
