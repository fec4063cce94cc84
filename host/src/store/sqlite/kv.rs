//! Plugins' small state, pins of plugin versions, and the removal of what has expired.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqlitePool};

use super::read::time;
use super::words::Word;
use super::writer::Tx;
use crate::model::{CredentialId, Pin, PinState, Timestamp};
use crate::store::{KvEntry, KvWrite, KvWritten, Pruned, StoreError};

pub(super) async fn get(pool: &SqlitePool, credential: CredentialId, key: &str, now: Timestamp) -> Result<Option<KvEntry>, StoreError> {
    let query = sqlx::query(GET).bind(credential.uuid()).bind(key.to_owned()).bind(now.as_millis());
    let Some(row) = query.fetch_optional(pool).await? else { return Ok(None) };
    Ok(Some(KvEntry { value: row.try_get(0)?, version: row.try_get(1)? }))
}
const GET: &str = "
select value, version from kv where credential_id = $1 and key = $2 and (expires_at is null or expires_at > $3)";

pub(super) async fn write(tx: &mut Tx, write: &KvWrite) -> Result<KvWritten, StoreError> {
    let query = sqlx::query(BEFORE_WRITE).bind(write.credential.uuid()).bind(write.key.clone()).bind(write.now.as_millis());
    let row = query.fetch_one(&mut tx.conn).await?;
    let living: Option<i64> = row.try_get(0)?;
    let others: i64 = row.try_get(1)?;
    if write.expected.is_some_and(|expected| expected != living) {
        return Ok(KvWritten::Mismatch);
    }
    let bytes = others.max(0) as u64 + write.key.len() as u64 + write.value.len() as u64;
    if bytes > write.quota_bytes {
        return Ok(KvWritten::Quota);
    }
    sqlx::query(WRITE)
        .bind(write.credential.uuid())
        .bind(write.key.clone())
        .bind(write.value.clone())
        .bind(write.expires_at.map(Timestamp::as_millis))
        .execute(&mut tx.conn)
        .await?;
    Ok(KvWritten::Stored)
}

/// The living version of the key, and the bytes of the credential's other living entries.
const BEFORE_WRITE: &str = "
select (select version from kv where credential_id = $1 and key = $2 and (expires_at is null or expires_at > $3)),
       (select coalesce(sum(octet_length(key) + octet_length(value)), 0) from kv
         where credential_id = $1 and key <> $2 and (expires_at is null or expires_at > $3))";

/// A version goes on growing over an expired value: who holds an old one never meets it again.
const WRITE: &str = "
insert into kv (credential_id, key, value, version, expires_at) values ($1, $2, $3, 1, $4)
on conflict (credential_id, key) do update
   set value = excluded.value, version = kv.version + 1, expires_at = excluded.expires_at";

pub(super) async fn delete(tx: &mut Tx, credential: CredentialId, key: &str) -> Result<(), StoreError> {
    let query = sqlx::query("delete from kv where credential_id = $1 and key = $2");
    query.bind(credential.uuid()).bind(key.to_owned()).execute(&mut tx.conn).await?;
    Ok(())
}

pub(super) async fn pins(pool: &SqlitePool) -> Result<Vec<Pin>, StoreError> {
    let query = sqlx::query("select channel, version, digest, state, updated_at from pins order by channel, version");
    query.fetch_all(pool).await?.iter().map(pin_row).collect()
}

fn pin_row(row: &SqliteRow) -> Result<Pin, StoreError> {
    let digest: Vec<u8> = row.try_get(2)?;
    Ok(Pin {
        channel: row.try_get(0)?,
        version: row.try_get(1)?,
        digest: digest.try_into().map_err(|_| StoreError::Defect("a pin's digest is not 32 bytes".to_owned()))?,
        state: PinState::read(row.try_get(3)?)?,
        updated_at: time(row.try_get(4)?),
    })
}

pub(super) async fn set_pin(tx: &mut Tx, pin: &Pin) -> Result<(), StoreError> {
    if pin.state == PinState::Active {
        let query = sqlx::query("delete from pins where channel = $1 and state = 'active'");
        query.bind(pin.channel.clone()).execute(&mut tx.conn).await?;
    }
    sqlx::query("insert or replace into pins (channel, version, digest, state, updated_at) values ($1, $2, $3, $4, $5)")
        .bind(pin.channel.clone())
        .bind(pin.version.clone())
        .bind(pin.digest.to_vec())
        .bind(pin.state.word())
        .bind(pin.updated_at.as_millis())
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}

pub(super) async fn clear_pin(tx: &mut Tx, channel: &str, version: &str) -> Result<(), StoreError> {
    let query = sqlx::query("delete from pins where channel = $1 and version = $2");
    query.bind(channel.to_owned()).bind(version.to_owned()).execute(&mut tx.conn).await?;
    Ok(())
}

pub(super) async fn prune(tx: &mut Tx, now: Timestamp, limit: u32) -> Result<Pruned, StoreError> {
    let mut removed = [0; 3];
    for (removed, sql) in removed.iter_mut().zip(PRUNE) {
        *removed = sqlx::query(sql).bind(now.as_millis()).bind(limit).execute(&mut tx.conn).await?.rows_affected();
    }
    let [dedup, idempotency, kv] = removed;
    Ok(Pruned { dedup, idempotency, kv })
}

pub(super) const PRUNE: [&str; 3] = [
    "delete from dedup where (project_id, hash) in (select project_id, hash from dedup where expires_at <= $1 limit $2)",
    "delete from idempotency where rowid in (select rowid from idempotency where expires_at <= $1 limit $2)",
    "delete from kv where rowid in (select rowid from kv where expires_at is not null and expires_at <= $1 limit $2)",
];

/// The statements on the hot path, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[GET, BEFORE_WRITE];
