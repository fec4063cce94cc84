//! Answers kept for requests that carried an `Idempotency-Key`.

use rusqlite::params;
use sqlx::{Row, SqlitePool};

use super::direct::Direct;
use super::writer::Tx;
use crate::model::Timestamp;
use crate::store::{Idempotency, StoreError, StoredAnswer, Written};

/// An answer found for a key.
struct Kept {
    body_hash: [u8; 32],
    answer: StoredAnswer,
}

impl Kept {
    /// What a request with `key` gets.
    fn written<T>(self, key: &Idempotency) -> Written<T> {
        if self.body_hash == key.body_hash { Written::Replayed(self.answer) } else { Written::KeyReused }
    }
}

/// What a request with `key` gets, if it was done before: asked by the writer, so it stays so until the turn ends.
pub(super) fn find<T>(db: &Direct, key: &Idempotency, now: Timestamp) -> Result<Option<Written<T>>, StoreError> {
    let kept = db.first(FIND, params![key.scope, now.as_millis()], |row| {
        Ok(Kept { body_hash: row.get(0)?, answer: StoredAnswer { status: row.get(1)?, body: row.get(2)? } })
    })?;
    Ok(kept.map(|kept| kept.written(key)))
}

/// The same, asked beside the writer.
pub(super) async fn lookup<T>(pool: &SqlitePool, key: &Idempotency, now: Timestamp) -> Result<Option<Written<T>>, StoreError> {
    let query = sqlx::query(FIND).bind(key.scope.to_vec()).bind(now.as_millis());
    let Some(row) = query.fetch_optional(pool).await? else { return Ok(None) };
    let body_hash: Vec<u8> = row.try_get(0)?;
    let body_hash = body_hash.try_into().map_err(|_| StoreError::Defect("a hash in a row is not 32 bytes".to_owned()))?;
    let kept = Kept { body_hash, answer: StoredAnswer { status: row.try_get(1)?, body: row.try_get(2)? } };
    Ok(Some(kept.written(key)))
}

const FIND: &str = "select body_hash, status, body from idempotency where scope = ?1 and expires_at > ?2";

/// Keeps an answer. What stands under the same key is an expired one: a living one is looked for first.
pub(super) fn keep(db: &Direct, key: &Idempotency, answer: &StoredAnswer) -> Result<(), StoreError> {
    db.run(KEEP, params![key.scope, key.body_hash, answer.status, key.expires_at.as_millis(), answer.body]).map(drop)
}

const KEEP: &str = "insert or replace into idempotency (scope, body_hash, status, expires_at, body) values (?1, ?2, ?3, ?4, ?5)";

/// What a single write is answered without doing it: the request was done before.
pub(super) async fn before<T>(
    tx: &mut Tx,
    keep: Option<&(Idempotency, StoredAnswer)>,
    now: Timestamp,
) -> Result<Option<Written<T>>, StoreError> {
    match keep {
        Some((key, _)) => find(&tx.db, key, now),
        None => Ok(None),
    }
}

/// Keeps the answer of a single write.
pub(super) async fn after(tx: &mut Tx, kept: Option<&(Idempotency, StoredAnswer)>) -> Result<(), StoreError> {
    match kept {
        Some((key, answer)) => keep(&tx.db, key, answer),
        None => Ok(()),
    }
}

/// The statements on the hot path, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[FIND, KEEP];
