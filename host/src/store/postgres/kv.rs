//! Plugins' small state, pins of plugin versions, and the removal of what has expired.

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::error::Fail;
use super::pool::Conn;
use super::read::{plain, time};
use crate::model::{CredentialId, Pin, PinState, Timestamp};
use crate::store::sqlite::words::Word;
use crate::store::{KvEntry, KvWrite, KvWritten, Pruned};

pub(super) async fn get(conn: &mut Conn, credential: CredentialId, key: &str, now: Timestamp) -> Result<Option<KvEntry>, Fail> {
    let query = sqlx::query(GET).bind(credential.uuid()).bind(bytes(key)).bind(now.as_millis());
    let Some(row) = conn.first(query).await? else { return Ok(None) };
    Ok(Some(KvEntry { value: row.try_get(0)?, version: row.try_get(1)? }))
}
const GET: &str = "
select value, version from kv where credential_id = $1 and key = $2 and (expires_at is null or expires_at > $3)";

fn bytes(key: &str) -> Vec<u8> {
    key.as_bytes().to_vec()
}

pub(super) async fn write(tx: &mut Conn, write: &KvWrite) -> Result<KvWritten, Fail> {
    // One at a time for each credential: versions and the quota are read and then written.
    super::lock_on(tx, write.credential.uuid()).await?;
    let query = sqlx::query(BEFORE_WRITE).bind(write.credential.uuid()).bind(bytes(&write.key)).bind(write.now.as_millis());
    let row = tx.one(query).await?;
    let living: Option<i64> = row.try_get(0)?;
    let others: i64 = row.try_get(1)?;
    if write.expected.is_some_and(|expected| expected != living) {
        return Ok(KvWritten::Mismatch);
    }
    let size = others.max(0) as u64 + write.key.len() as u64 + write.value.len() as u64;
    if size > write.quota_bytes {
        return Ok(KvWritten::Quota);
    }
    let query = sqlx::query(WRITE)
        .bind(write.credential.uuid())
        .bind(bytes(&write.key))
        .bind(write.value.clone())
        .bind(write.expires_at.map(Timestamp::as_millis));
    tx.run(query).await?;
    Ok(KvWritten::Stored)
}

/// The living version of the key, and the bytes of the credential's other living entries.
const BEFORE_WRITE: &str = "
select (select version from kv where credential_id = $1 and key = $2 and (expires_at is null or expires_at > $3)),
       (select coalesce(sum(octet_length(key) + octet_length(value)), 0)::bigint from kv
         where credential_id = $1 and key <> $2 and (expires_at is null or expires_at > $3))";

/// A version goes on growing over an expired value: who holds an old one never meets it again.
const WRITE: &str = "
insert into kv (credential_id, key, value, version, expires_at) values ($1, $2, $3, 1, $4)
on conflict (credential_id, key) do update
   set value = excluded.value, version = kv.version + 1, expires_at = excluded.expires_at";

pub(super) async fn delete(tx: &mut Conn, credential: CredentialId, key: &str) -> Result<(), Fail> {
    let query = sqlx::query("delete from kv where credential_id = $1 and key = $2");
    tx.run(query.bind(credential.uuid()).bind(bytes(key))).await.map(drop)
}

pub(super) async fn pins(conn: &mut Conn) -> Result<Vec<Pin>, Fail> {
    conn.all(sqlx::query(PINS)).await?.iter().map(pin_row).collect()
}

const PINS: &str = r#"select channel, version, digest, state, updated_at from pins order by channel collate "C", version collate "C""#;

fn pin_row(row: &PgRow) -> Result<Pin, Fail> {
    let digest: Vec<u8> = row.try_get(2)?;
    Ok(Pin {
        channel: row.try_get(0)?,
        version: row.try_get(1)?,
        digest: digest.try_into().map_err(|_| Fail::defect("a pin's digest is not 32 bytes"))?,
        state: PinState::read(row.try_get(3)?)?,
        updated_at: time(row.try_get(4)?),
    })
}

pub(super) async fn set_pin(tx: &mut Conn, pin: &Pin) -> Result<(), Fail> {
    super::lock_on(tx, PIN_LOCK).await?;
    if pin.state == PinState::Active {
        tx.run(sqlx::query("delete from pins where channel = $1 and state = 'active'").bind(plain(&pin.channel))).await?;
    }
    let query = sqlx::query(SET_PIN)
        .bind(plain(&pin.channel))
        .bind(plain(&pin.version))
        .bind(pin.digest.to_vec())
        .bind(pin.state.word())
        .bind(pin.updated_at.as_millis());
    tx.run(query).await.map(drop)
}

/// Pins are set seldom: one at a time, whatever the channel.
const PIN_LOCK: Uuid = Uuid::from_u128(0x6c65_6164_7769_7265_0000_0000_0000_0003);

const SET_PIN: &str = "
insert into pins (channel, version, digest, state, updated_at) values ($1, $2, $3, $4, $5)
on conflict (channel, version) do update set digest = excluded.digest, state = excluded.state, updated_at = excluded.updated_at";

pub(super) async fn clear_pin(tx: &mut Conn, channel: &str, version: &str) -> Result<(), Fail> {
    let query = sqlx::query("delete from pins where channel = $1 and version = $2");
    tx.run(query.bind(plain(channel)).bind(plain(version))).await.map(drop)
}

pub(super) async fn prune(tx: &mut Conn, now: Timestamp, limit: u32) -> Result<Pruned, Fail> {
    let mut removed = [0; 3];
    for (removed, sql) in removed.iter_mut().zip(PRUNE) {
        *removed = tx.run(sqlx::query(sql).bind(now.as_millis()).bind(i64::from(limit))).await?;
    }
    let [dedup, idempotency, kv] = removed;
    Ok(Pruned { dedup, idempotency, kv })
}

/// What someone else holds at the moment is left for the next time.
const PRUNE: [&str; 3] = [
    "delete from dedup where ctid = any(array(select ctid from dedup where expires_at <= $1 limit $2 for update skip locked))",
    "delete from idempotency where ctid = any(array(select ctid from idempotency where expires_at <= $1 limit $2 for update skip locked))",
    "delete from kv where ctid = any(array(
         select ctid from kv where expires_at is not null and expires_at <= $1 limit $2 for update skip locked))",
];
