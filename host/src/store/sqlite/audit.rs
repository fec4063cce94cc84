//! The audit log: written with what it tells of.

use rusqlite::params;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqlitePool};
use uuid::Uuid;

use super::admin::Keep;
use super::read::{bounded, json, time};
use super::walk::id_at;
use super::writer::Tx;
use super::{admin, answers, credentials, delete_credential_slice, erasures, finish, sending, tasks, to_json};
use crate::model::{AuditAction, AuditId, AuditLine, KeyId, ProjectId, Timestamp};
use crate::store::{Act, Acted, AuditQuery, Changed, Cursor, Found, StoreError, Written};

/// Lines that are looked at for one page, and read at once.
const LOOKED_AT: usize = 2_000;
const CHUNK: usize = 250;

/// See [`crate::store::Store::act`].
pub(super) async fn act(tx: &mut Tx, act: &Act, line: &AuditLine, keep: &Keep) -> Result<Option<Written<Acted>>, StoreError> {
    if let Some(before) = answers::before(tx, keep.as_ref(), line.at).await? {
        return Ok(Some(before));
    }
    let Some(acted) = effect(tx, act).await? else { return Ok(None) };
    insert(tx, line)?;
    answers::after(tx, keep.as_ref()).await?;
    Ok(Some(Written::New(acted)))
}

/// One slice of a delete, with the line when it is the last. `None`: no such credential.
pub(super) async fn delete_slice(tx: &mut Tx, act: &Act, line: &AuditLine) -> Result<Option<(bool, Vec<Changed>)>, StoreError> {
    let Act::DeleteCredential { id, now } = act else {
        return Err(StoreError::Defect("another act than a delete comes in slices".to_owned()));
    };
    let slice = delete_credential_slice(tx, *id, *now).await?;
    if slice.as_ref().is_some_and(|(gone, _)| *gone) {
        insert(tx, line)?;
    }
    Ok(slice)
}

async fn effect(tx: &mut Tx, act: &Act) -> Result<Option<Acted>, StoreError> {
    let done = |done: bool| done.then(Acted::default);
    let one = |changed: Option<Changed>| changed.map(|changed| Acted { changed: vec![changed], cancelled: 0 });
    Ok(match act {
        Act::CreateProject(project) => admin::create_project(tx, project, &None).await.map(|_| done(true))?,
        Act::UpdateProject { project, read_at } => {
            if admin::is_newer(tx, project.id, *read_at).await? {
                return Err(StoreError::Stale);
            }
            done(admin::update_project(tx, project).await?)
        }
        Act::SetCallbackSecrets { project, read, new } => done(sending::set_callback_secrets(tx, *project, read, new).await?),
        Act::CreateCredential(credential) => credentials::create(tx, credential, &None).await.map(|_| done(true))?,
        Act::UpdateCredential(credential) => credentials::update(tx, credential).map(|()| done(true))?,
        Act::DeleteCredential { .. } => return Err(StoreError::Defect("a delete comes in slices".to_owned())),
        Act::SetCredentialState { id, state, reason, since } => {
            done(credentials::set_state(tx, *id, *state, reason.as_ref(), *since).await?)
        }
        Act::CreateKey(key) => admin::create_key(tx, key, &None).await.map(|_| done(true))?,
        Act::RotateKey { old, until, now, new } => done(admin::rotate_key(tx, *old, *until, *now, new).await?),
        Act::RevokeKey { id, now } => done(admin::revoke_key(tx, *id, *now).await?),
        Act::CreateTask(task) => tasks::create(tx, task, &None).await.map(|_| done(true))?,
        Act::CancelTask { id, now } => done(tasks::cancel(tx, *id, *now).await?),
        Act::RetryDelivery { id, now } => one(finish::retry_delivery(tx, *id, *now)?),
        Act::CancelDelivery { id, now } => one(finish::cancel_delivery(tx, *id, *now)?),
        Act::CancelBatch { id, now } => {
            finish::cancel_batch(tx, *id, *now)?.map(|(cancelled, changed)| Acted { changed: vec![changed], cancelled })
        }
        Act::CreateErasure(erasure) => erasures::create(tx, erasure).map(|()| done(true))?,
        Act::Elsewhere => done(true),
    })
}

fn insert(tx: &Tx, line: &AuditLine) -> Result<(), StoreError> {
    let row = params![
        line.id.uuid(),
        line.at.as_millis(),
        line.project.map(ProjectId::uuid),
        line.actor.map(KeyId::uuid),
        line.actor_name,
        line.peer,
        line.node,
        line.request_id,
        line.action.word(),
        line.object,
        to_json(&line.changes)?,
    ];
    tx.db.run(INSERT, row).map(drop)
}

const INSERT: &str = "
insert into audit (id, at, project_id, actor, actor_name, peer, node, request_id, action, object, changes)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";

macro_rules! lines {
    ($where:literal) => {
        concat!(
            "select id, at, project_id, actor, actor_name, peer, node, request_id, action, object, changes from audit where ",
            $where,
            " id < $1 and id >= $2 order by id desc limit $3"
        )
    };
}

const ANY: &str = lines!("");
const BY_OBJECT: &str = lines!("object = $4 and");
const BY_ACTOR: &str = lines!("actor = $4 and");
const BY_PROJECT: &str = lines!("project_id = $4 and");
const BY_ACTION: &str = lines!("action = $4 and");

fn action(word: &str) -> Result<AuditAction, StoreError> {
    AuditAction::parse(word).ok_or_else(|| StoreError::Defect(format!("unknown word `{word}` in a row")))
}

fn line(row: &SqliteRow) -> Result<AuditLine, StoreError> {
    Ok(AuditLine {
        id: AuditId::from_uuid(row.try_get(0)?),
        at: time(row.try_get(1)?),
        project: row.try_get::<Option<Uuid>, _>(2)?.map(ProjectId::from_uuid),
        actor: row.try_get::<Option<Uuid>, _>(3)?.map(KeyId::from_uuid),
        actor_name: row.try_get(4)?,
        peer: row.try_get(5)?,
        node: row.try_get(6)?,
        request_id: row.try_get(7)?,
        action: action(row.try_get(8)?)?,
        object: row.try_get(9)?,
        changes: json(row.try_get(10)?)?,
    })
}

/// Lines below a place, by the condition that has the fewest.
async fn chunk(pool: &SqlitePool, query: &AuditQuery, below: Uuid) -> Result<Vec<AuditLine>, StoreError> {
    let floor = query.after.map_or(Uuid::nil(), |after| id_at(after.as_millis()));
    let over = |sql: &'static str| sqlx::query(sql).bind(below).bind(floor).bind(CHUNK as i64);
    let rows = match query {
        AuditQuery { object: Some(object), .. } => over(BY_OBJECT).bind(object.clone()),
        AuditQuery { actor: Some(actor), .. } => over(BY_ACTOR).bind(actor.uuid()),
        AuditQuery { project: Some(project), .. } => over(BY_PROJECT).bind(project.uuid()),
        AuditQuery { action: Some(action), .. } => over(BY_ACTION).bind(action.word()),
        _ => over(ANY),
    };
    rows.fetch_all(pool).await?.iter().map(line).collect()
}

fn fits(query: &AuditQuery, line: &AuditLine) -> bool {
    query.project.is_none_or(|project| line.project == Some(project))
        && query.actor.is_none_or(|actor| line.actor == Some(actor))
        && query.action.is_none_or(|action| line.action == action)
        && query.object.as_ref().is_none_or(|object| line.object == *object)
}

/// See [`crate::store::Store::audit_lines`].
pub(super) async fn list(pool: &SqlitePool, query: &AuditQuery) -> Result<Found<AuditLine>, StoreError> {
    let limit = bounded(query.limit) as usize;
    let end = query.before.map_or(Uuid::max(), |before| id_at(before.as_millis()));
    let mut below = query.below.map_or(end, |cursor| cursor.at.min(end));
    let (mut items, mut looked_at) = (Vec::new(), 0);
    loop {
        let lines = chunk(pool, query, below).await?;
        looked_at += lines.len();
        let is_last = lines.len() < CHUNK;
        for line in lines {
            if items.len() == limit && fits(query, &line) {
                return Ok(Found { items, next: Some(Cursor::below(below)) });
            }
            below = line.id.uuid();
            if fits(query, &line) {
                items.push(line);
            }
        }
        if is_last {
            return Ok(Found { items, next: None });
        }
        if looked_at >= LOOKED_AT {
            return Ok(Found { items, next: Some(Cursor::below(below)) });
        }
    }
}

pub(super) fn prune(tx: &Tx, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
    Ok(tx.db.run(PRUNE, params![id_at(before.as_millis()), limit])? as u64)
}

const PRUNE: &str = "delete from audit where id in (select id from audit where id < ?1 order by id limit ?2)";

/// The statements, for the check of their plans.
#[cfg(test)]
pub(super) const ALL: &[&str] = &[ANY, BY_OBJECT, BY_ACTOR, BY_PROJECT, BY_ACTION, PRUNE];
