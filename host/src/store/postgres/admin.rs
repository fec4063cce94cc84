//! Projects and API keys.

use std::collections::BTreeMap;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::error::Fail;
use super::pool::Conn;
use super::read::{bounded, json, page, plain, time, time_column};
use super::{answers, to_json};
use crate::model::{ApiKey, KeyId, Project, ProjectId, RateLimit, Timestamp};
use crate::store::{Idempotency, Page, StoreError, StoredAnswer, Written};

/// The answer to keep for the write.
pub(super) type Keep = Option<(Idempotency, StoredAnswer)>;

pub(super) async fn create_project(tx: &mut Conn, project: &Project, keep: &Keep) -> Result<Written<()>, Fail> {
    if let Some(written) = answers::before(tx, keep.as_ref(), project.created_at).await? {
        return Ok(written);
    }
    let query = sqlx::query(INSERT_PROJECT)
        .bind(project.id.uuid())
        .bind(plain(&project.external_id))
        .bind(plain(&project.name))
        .bind(plain(&project.default_region))
        .bind(plain(&project.time_zone))
        .bind(plain(&project.locale))
        .bind(to_json(&project.dedup)?)
        .bind(project.created_at.as_millis())
        .bind(project.updated_at.as_millis())
        .bind(to_json(&project.sending)?)
        .bind(to_json(&project.callback_secrets)?)
        .bind(to_json(&project.retention)?);
    if tx.run(query).await? == 0 {
        return Err(StoreError::Taken { what: "external_id", value: project.external_id.clone() }.into());
    }
    answers::after(tx, keep.as_ref(), project.created_at).await?;
    Ok(Written::New(()))
}

const INSERT_PROJECT: &str = "
insert into projects (id, external_id, name, default_region, time_zone, locale, dedup, created_at, updated_at, sending, callback_secrets,
                      retention)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) on conflict (external_id) do nothing";

pub(super) async fn update_project(tx: &mut Conn, project: &Project) -> Result<bool, Fail> {
    let query = sqlx::query(UPDATE_PROJECT)
        .bind(project.id.uuid())
        .bind(plain(&project.name))
        .bind(plain(&project.default_region))
        .bind(plain(&project.time_zone))
        .bind(plain(&project.locale))
        .bind(to_json(&project.dedup)?)
        .bind(project.updated_at.as_millis())
        .bind(to_json(&project.sending)?)
        .bind(to_json(&project.retention)?);
    Ok(tx.run(query).await? > 0)
}

const UPDATE_PROJECT: &str = "
update projects set name = $2, default_region = $3, time_zone = $4, locale = $5, dedup = $6, updated_at = $7, sending = $8,
                    retention = $9
 where id = $1";

/// Whether the stored project was written after `read_at`; it stays as it is until the transaction ends.
pub(super) async fn is_newer(tx: &mut Conn, id: ProjectId, read_at: Timestamp) -> Result<bool, Fail> {
    let row = tx.first(sqlx::query(UPDATED).bind(id.uuid())).await?;
    Ok(row.map(|row| row.try_get::<i64, _>(0)).transpose()?.is_some_and(|at| at != read_at.as_millis()))
}

const UPDATED: &str = "select updated_at from projects where id = $1 for no key update";

macro_rules! projects {
    ($rest:literal) => {
        concat!(
            "select id, external_id, name, default_region, time_zone, locale, dedup, created_at, updated_at, sending, callback_secrets,
                    retention from projects ",
            $rest
        )
    };
}

fn project_row(row: &PgRow) -> Result<Project, Fail> {
    Ok(Project {
        id: ProjectId::from_uuid(row.try_get(0)?),
        external_id: row.try_get(1)?,
        name: row.try_get(2)?,
        default_region: row.try_get(3)?,
        time_zone: row.try_get(4)?,
        locale: row.try_get(5)?,
        dedup: json(row.try_get(6)?)?,
        created_at: time(row.try_get(7)?),
        updated_at: time(row.try_get(8)?),
        sending: json(row.try_get(9)?)?,
        callback_secrets: json(row.try_get(10)?)?,
        retention: json(row.try_get(11)?)?,
    })
}

pub(super) async fn project(conn: &mut Conn, id: ProjectId) -> Result<Option<Project>, Fail> {
    conn.first(sqlx::query(PROJECT).bind(id.uuid())).await?.as_ref().map(project_row).transpose()
}
const PROJECT: &str = projects!("where id = $1");

pub(super) async fn project_by_external_id(conn: &mut Conn, external_id: &str) -> Result<Option<Project>, Fail> {
    conn.first(sqlx::query(PROJECT_BY_EXTERNAL_ID).bind(plain(external_id))).await?.as_ref().map(project_row).transpose()
}
const PROJECT_BY_EXTERNAL_ID: &str = projects!("where external_id = $1");

pub(super) async fn projects(conn: &mut Conn, after: Option<ProjectId>, limit: u32) -> Result<Page<Project>, Fail> {
    let limit = bounded(limit);
    let after = after.map_or(Uuid::nil(), ProjectId::uuid);
    page(conn.all(sqlx::query(PROJECTS).bind(after).bind(i64::from(limit) + 1)).await?, limit, project_row)
}
const PROJECTS: &str = projects!("where id > $1 order by id limit $2");

pub(super) async fn create_key(tx: &mut Conn, key: &ApiKey, keep: &Keep) -> Result<Written<()>, Fail> {
    if let Some(written) = answers::before(tx, keep.as_ref(), key.created_at).await? {
        return Ok(written);
    }
    insert_key(tx, key).await?;
    answers::after(tx, keep.as_ref(), key.created_at).await?;
    Ok(Written::New(()))
}

async fn insert_key(tx: &mut Conn, key: &ApiKey) -> Result<(), Fail> {
    let query = sqlx::query(INSERT_KEY)
        .bind(key.id.uuid())
        .bind(key.project.map(ProjectId::uuid))
        .bind(plain(&key.name))
        .bind(key.hash.to_vec())
        .bind(plain(&key.hint))
        .bind(to_json(&key.scopes)?)
        .bind(key.created_at.as_millis())
        .bind(key.expires_at.map(Timestamp::as_millis))
        .bind(key.revoked_at.map(Timestamp::as_millis))
        .bind(key.last_used_at.map(Timestamp::as_millis))
        .bind(key.rate.map(|rate| i64::from(rate.per_sec)))
        .bind(key.rate.map(|rate| i64::from(rate.burst)))
        .bind(key.rotated_from.map(KeyId::uuid))
        .bind(key.replaced_by.map(KeyId::uuid));
    tx.run(query).await.map(drop)
}

const INSERT_KEY: &str = "
insert into api_keys (id, project_id, name, hash, hint, scopes, created_at, expires_at, revoked_at, last_used_at, rate_per_sec, rate_burst,
                      rotated_from, replaced_by)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";

/// `false`: the old key is gone, revoked, expired or replaced; nothing was written.
pub(super) async fn rotate_key(tx: &mut Conn, old: KeyId, until: Timestamp, now: Timestamp, new: &ApiKey) -> Result<bool, Fail> {
    let query = sqlx::query(REPLACE).bind(old.uuid()).bind(until.as_millis()).bind(now.as_millis()).bind(new.id.uuid());
    if tx.run(query).await? == 0 {
        return Ok(false);
    }
    insert_key(tx, new).await?;
    Ok(true)
}

const REPLACE: &str = "
update api_keys set expires_at = least(coalesce(expires_at, $2), $2), replaced_by = $4
 where id = $1 and revoked_at is null and replaced_by is null and (expires_at is null or expires_at > $3)";

macro_rules! keys {
    ($rest:literal) => {
        concat!(
            "select id, project_id, name, hash, hint, scopes, created_at, expires_at, revoked_at, last_used_at, rate_per_sec, rate_burst,
                    rotated_from, replaced_by from api_keys ",
            $rest
        )
    };
}

fn key_row(row: &PgRow) -> Result<ApiKey, Fail> {
    let hash: Vec<u8> = row.try_get(3)?;
    let small = |column: usize| {
        let number: Option<i64> = row.try_get(column)?;
        number.map(|number| u32::try_from(number).map_err(|_| Fail::defect("a key's rate is out of range"))).transpose()
    };
    let rate = (small(10)?, small(11)?);
    let other = |column: usize| Ok::<_, Fail>(row.try_get::<Option<Uuid>, _>(column)?.map(KeyId::from_uuid));
    Ok(ApiKey {
        id: KeyId::from_uuid(row.try_get(0)?),
        project: row.try_get::<Option<Uuid>, _>(1)?.map(ProjectId::from_uuid),
        name: row.try_get(2)?,
        hash: hash.try_into().map_err(|_| Fail::defect("a key's hash is not 32 bytes"))?,
        hint: row.try_get(4)?,
        scopes: json(row.try_get(5)?)?,
        created_at: time(row.try_get(6)?),
        expires_at: time_column(row, 7)?,
        revoked_at: time_column(row, 8)?,
        last_used_at: time_column(row, 9)?,
        rate: rate.0.zip(rate.1).map(|(per_sec, burst)| RateLimit { per_sec, burst }),
        rotated_from: other(12)?,
        replaced_by: other(13)?,
    })
}

pub(super) async fn key_by_hash(conn: &mut Conn, hash: &[u8; 32]) -> Result<Option<ApiKey>, Fail> {
    conn.first(sqlx::query(KEY_BY_HASH).bind(hash.to_vec())).await?.as_ref().map(key_row).transpose()
}
const KEY_BY_HASH: &str = keys!("where hash = $1");

pub(super) async fn key(conn: &mut Conn, id: KeyId) -> Result<Option<ApiKey>, Fail> {
    conn.first(sqlx::query(KEY).bind(id.uuid())).await?.as_ref().map(key_row).transpose()
}
const KEY: &str = keys!("where id = $1");

pub(super) async fn keys(conn: &mut Conn, project: Option<ProjectId>, after: Option<KeyId>, limit: u32) -> Result<Page<ApiKey>, Fail> {
    let limit = bounded(limit);
    let after = after.map_or(Uuid::nil(), KeyId::uuid);
    let query = match project {
        Some(project) => sqlx::query(KEYS_OF_PROJECT).bind(after).bind(i64::from(limit) + 1).bind(project.uuid()),
        None => sqlx::query(KEYS).bind(after).bind(i64::from(limit) + 1),
    };
    page(conn.all(query).await?, limit, key_row)
}
const KEYS: &str = keys!("where id > $1 order by id limit $2");
const KEYS_OF_PROJECT: &str = keys!("where project_id = $3 and id > $1 order by id limit $2");

pub(super) async fn revoke_key(tx: &mut Conn, id: KeyId, now: Timestamp) -> Result<bool, Fail> {
    let query = sqlx::query("update api_keys set revoked_at = $2 where id = $1 and revoked_at is null");
    Ok(tx.run(query.bind(id.uuid()).bind(now.as_millis())).await? > 0)
}

/// The latest use stands, whatever order the notes come in.
pub(super) async fn touch_keys(tx: &mut Conn, used: &BTreeMap<KeyId, Timestamp>) -> Result<(), Fail> {
    let (ids, times): (Vec<Uuid>, Vec<i64>) = used.iter().map(|(id, at)| (id.uuid(), at.as_millis())).unzip();
    tx.run(sqlx::query(TOUCH).bind(ids).bind(times)).await.map(drop)
}

const TOUCH: &str = "
with k as materialized (
    select k.id, u.at from api_keys k join unnest($1::uuid[], $2::bigint[]) as u (id, at) on k.id = u.id order by k.id for no key update of k)
update api_keys set last_used_at = greatest(coalesce(last_used_at, 0), k.at) from k where api_keys.id = k.id";
