//! Projects and API keys.

use std::collections::BTreeMap;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqlitePool};
use uuid::Uuid;

use super::read::{bounded, json, page, time};
use super::writer::Tx;
use super::{answers, to_json};
use crate::model::{ApiKey, KeyId, Project, ProjectId, RateLimit, Timestamp};
use crate::store::{Idempotency, Page, StoreError, StoredAnswer, Written};

/// The answer to keep for the write.
pub(super) type Keep = Option<(Idempotency, StoredAnswer)>;

pub(super) async fn create_project(tx: &mut Tx, project: &Project, keep: &Keep) -> Result<Written<()>, StoreError> {
    if let Some(written) = answers::before(tx, keep.as_ref(), project.created_at).await? {
        return Ok(written);
    }
    let taken = sqlx::query("select 1 from projects where external_id = $1").bind(project.external_id.clone());
    if taken.fetch_optional(&mut tx.conn).await?.is_some() {
        return Err(StoreError::Taken { what: "external_id", value: project.external_id.clone() });
    }
    let Project {
        id,
        external_id,
        name,
        default_region,
        time_zone,
        locale,
        dedup,
        sending,
        retention,
        callback_secrets,
        created_at,
        updated_at,
    } = project.clone();
    sqlx::query("insert into projects (id, external_id, name, default_region, time_zone, locale, dedup, created_at, updated_at, sending, callback_secrets, retention) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)")
        .bind(id.uuid())
        .bind(external_id)
        .bind(name)
        .bind(default_region)
        .bind(time_zone)
        .bind(locale)
        .bind(to_json(&dedup)?)
        .bind(created_at.as_millis())
        .bind(updated_at.as_millis())
        .bind(to_json(&sending)?)
        .bind(to_json(&callback_secrets)?)
        .bind(to_json(&retention)?)
        .execute(&mut tx.conn)
        .await?;
    answers::after(tx, keep.as_ref()).await?;
    Ok(Written::New(()))
}

pub(super) async fn update_project(tx: &mut Tx, project: &Project) -> Result<bool, StoreError> {
    let Project { id, name, default_region, time_zone, locale, dedup, sending, retention, updated_at, .. } = project.clone();
    let done = sqlx::query(
        "update projects set name = $2, default_region = $3, time_zone = $4, locale = $5, dedup = $6, updated_at = $7, sending = $8, retention = $9
          where id = $1",
    )
    .bind(id.uuid())
    .bind(name)
    .bind(default_region)
    .bind(time_zone)
    .bind(locale)
    .bind(to_json(&dedup)?)
    .bind(updated_at.as_millis())
    .bind(to_json(&sending)?)
    .bind(to_json(&retention)?)
    .execute(&mut tx.conn)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Whether the stored project was written after `read_at`.
pub(super) async fn is_newer(tx: &mut Tx, id: ProjectId, read_at: Timestamp) -> Result<bool, StoreError> {
    let query = sqlx::query("select 1 from projects where id = $1 and updated_at <> $2").bind(id.uuid()).bind(read_at.as_millis());
    Ok(query.fetch_optional(&mut tx.conn).await?.is_some())
}

macro_rules! projects {
    ($rest:literal) => {
        concat!("select id, external_id, name, default_region, time_zone, locale, dedup, created_at, updated_at, sending, callback_secrets, retention from projects ", $rest)
    };
}

fn project_row(row: &SqliteRow) -> Result<Project, StoreError> {
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

pub(super) async fn project(pool: &SqlitePool, id: ProjectId) -> Result<Option<Project>, StoreError> {
    let row = sqlx::query(PROJECT).bind(id.uuid()).fetch_optional(pool).await?;
    row.as_ref().map(project_row).transpose()
}
const PROJECT: &str = projects!("where id = $1");

pub(super) async fn project_by_external_id(pool: &SqlitePool, external_id: &str) -> Result<Option<Project>, StoreError> {
    let row = sqlx::query(PROJECT_BY_EXTERNAL_ID).bind(external_id.to_owned()).fetch_optional(pool).await?;
    row.as_ref().map(project_row).transpose()
}
const PROJECT_BY_EXTERNAL_ID: &str = projects!("where external_id = $1");

pub(super) async fn projects(pool: &SqlitePool, after: Option<ProjectId>, limit: u32) -> Result<Page<Project>, StoreError> {
    let limit = bounded(limit);
    let after = after.map_or(Uuid::nil(), ProjectId::uuid);
    page(sqlx::query(PROJECTS).bind(after).bind(limit + 1).fetch_all(pool).await?, limit, project_row)
}
const PROJECTS: &str = projects!("where id > $1 order by id limit $2");

pub(super) async fn create_key(tx: &mut Tx, key: &ApiKey, keep: &Keep) -> Result<Written<()>, StoreError> {
    if let Some(written) = answers::before(tx, keep.as_ref(), key.created_at).await? {
        return Ok(written);
    }
    insert_key(tx, key).await?;
    answers::after(tx, keep.as_ref()).await?;
    Ok(Written::New(()))
}

async fn insert_key(tx: &mut Tx, key: &ApiKey) -> Result<(), StoreError> {
    sqlx::query("insert into api_keys (id, project_id, name, hash, hint, scopes, created_at, expires_at, revoked_at, last_used_at, rate_per_sec, rate_burst, rotated_from, replaced_by) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)")
        .bind(key.id.uuid())
        .bind(key.project.map(ProjectId::uuid))
        .bind(key.name.clone())
        .bind(key.hash.to_vec())
        .bind(key.hint.clone())
        .bind(to_json(&key.scopes)?)
        .bind(key.created_at.as_millis())
        .bind(key.expires_at.map(Timestamp::as_millis))
        .bind(key.revoked_at.map(Timestamp::as_millis))
        .bind(key.last_used_at.map(Timestamp::as_millis))
        .bind(key.rate.map(|rate| rate.per_sec))
        .bind(key.rate.map(|rate| rate.burst))
        .bind(key.rotated_from.map(KeyId::uuid))
        .bind(key.replaced_by.map(KeyId::uuid))
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}

/// `false`: the old key is gone, revoked, expired or replaced; nothing was written.
pub(super) async fn rotate_key(tx: &mut Tx, old: KeyId, until: Timestamp, now: Timestamp, new: &ApiKey) -> Result<bool, StoreError> {
    let query = sqlx::query(REPLACE).bind(old.uuid()).bind(until.as_millis()).bind(now.as_millis()).bind(new.id.uuid());
    if query.execute(&mut tx.conn).await?.rows_affected() == 0 {
        return Ok(false);
    }
    insert_key(tx, new).await?;
    Ok(true)
}
const REPLACE: &str = "
update api_keys set expires_at = min(coalesce(expires_at, $2), $2), replaced_by = $4
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

fn key_row(row: &SqliteRow) -> Result<ApiKey, StoreError> {
    let hash: Vec<u8> = row.try_get(3)?;
    let rate = (row.try_get::<Option<u32>, _>(10)?, row.try_get::<Option<u32>, _>(11)?);
    let other = |column: usize| Ok::<_, StoreError>(row.try_get::<Option<Uuid>, _>(column)?.map(KeyId::from_uuid));
    Ok(ApiKey {
        id: KeyId::from_uuid(row.try_get(0)?),
        project: row.try_get::<Option<Uuid>, _>(1)?.map(ProjectId::from_uuid),
        name: row.try_get(2)?,
        hash: hash.try_into().map_err(|_| StoreError::Defect("a key's hash is not 32 bytes".to_owned()))?,
        hint: row.try_get(4)?,
        scopes: json(row.try_get(5)?)?,
        rate: rate.0.zip(rate.1).map(|(per_sec, burst)| RateLimit { per_sec, burst }),
        rotated_from: other(12)?,
        replaced_by: other(13)?,
        created_at: time(row.try_get(6)?),
        expires_at: row.try_get::<Option<i64>, _>(7)?.map(time),
        revoked_at: row.try_get::<Option<i64>, _>(8)?.map(time),
        last_used_at: row.try_get::<Option<i64>, _>(9)?.map(time),
    })
}

pub(super) async fn key_by_hash(pool: &SqlitePool, hash: &[u8; 32]) -> Result<Option<ApiKey>, StoreError> {
    let row = sqlx::query(KEY_BY_HASH).bind(hash.to_vec()).fetch_optional(pool).await?;
    row.as_ref().map(key_row).transpose()
}
const KEY_BY_HASH: &str = keys!("where hash = $1");

pub(super) async fn key(pool: &SqlitePool, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
    let row = sqlx::query(KEY).bind(id.uuid()).fetch_optional(pool).await?;
    row.as_ref().map(key_row).transpose()
}
const KEY: &str = keys!("where id = $1");

pub(super) async fn keys(
    pool: &SqlitePool,
    project: Option<ProjectId>,
    after: Option<KeyId>,
    limit: u32,
) -> Result<Page<ApiKey>, StoreError> {
    let limit = bounded(limit);
    let after = after.map_or(Uuid::nil(), KeyId::uuid);
    let query = match project {
        Some(project) => sqlx::query(KEYS_OF_PROJECT).bind(after).bind(limit + 1).bind(project.uuid()),
        None => sqlx::query(KEYS).bind(after).bind(limit + 1),
    };
    page(query.fetch_all(pool).await?, limit, key_row)
}
const KEYS: &str = keys!("where id > $1 order by id limit $2");
const KEYS_OF_PROJECT: &str = keys!("where project_id = $3 and id > $1 order by id limit $2");

pub(super) async fn revoke_key(tx: &mut Tx, id: KeyId, now: Timestamp) -> Result<bool, StoreError> {
    let query = sqlx::query("update api_keys set revoked_at = $2 where id = $1 and revoked_at is null");
    Ok(query.bind(id.uuid()).bind(now.as_millis()).execute(&mut tx.conn).await?.rows_affected() > 0)
}

/// The latest use stands, whatever order the notes come in.
pub(super) async fn touch_keys(tx: &mut Tx, used: &BTreeMap<KeyId, Timestamp>) -> Result<(), StoreError> {
    for (id, at) in used {
        let query = sqlx::query("update api_keys set last_used_at = max(coalesce(last_used_at, 0), $2) where id = $1");
        query.bind(id.uuid()).bind(at.as_millis()).execute(&mut tx.conn).await?;
    }
    Ok(())
}

/// The statements of readers, for the check of their plans.
#[cfg(test)]
pub(super) const READS: &[&str] = &[PROJECT, PROJECT_BY_EXTERNAL_ID, PROJECTS, KEY_BY_HASH, KEY, KEYS, KEYS_OF_PROJECT, REPLACE];
