//! Answers kept for requests that carried an `Idempotency-Key`.

use std::collections::HashMap;

use sqlx::{Row, SqliteConnection};

use super::pack::Rows;
use super::writer::Tx;
use crate::model::Timestamp;
use crate::store::{Idempotency, StoreError, StoredAnswer, Written};

/// An answer found for a key.
pub(super) struct Kept {
    pub(super) body_hash: [u8; 32],
    pub(super) answer: StoredAnswer,
}

impl Kept {
    /// What a request with `key` gets.
    pub(super) fn written<T>(&self, key: &Idempotency) -> Written<T> {
        if self.body_hash == key.body_hash { Written::Replayed(self.answer.clone()) } else { Written::KeyReused }
    }
}

/// The living answers of these keys, each with the time of its request.
pub(super) async fn find(tx: &mut Tx, keys: impl Iterator<Item = (&Idempotency, i64)>) -> Result<HashMap<[u8; 32], Kept>, StoreError> {
    let mut rows = Rows::default();
    for (key, now) in keys {
        rows.push_bytes(&key.scope, &now)?;
    }
    if rows.is_empty() { Ok(HashMap::new()) } else { read(&mut tx.conn, rows).await }
}

async fn read(conn: &mut SqliteConnection, mut rows: Rows) -> Result<HashMap<[u8; 32], Kept>, StoreError> {
    let (json, scopes, _) = rows.take();
    let mut found = HashMap::new();
    for row in sqlx::query(FIND).bind(json).bind(scopes).fetch_all(conn).await? {
        let answer = StoredAnswer { status: row.try_get(2)?, body: row.try_get(3)? };
        found.insert(hash(row.try_get(0)?)?, Kept { body_hash: hash(row.try_get(1)?)?, answer });
    }
    Ok(found)
}

fn hash(bytes: Vec<u8>) -> Result<[u8; 32], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Defect("a hash in a row is not 32 bytes".to_owned()))
}

const FIND: &str = "
select i.scope, i.body_hash, i.status, i.body
  from json_each($1) r cross join idempotency i on i.scope = substr($2, 32 * r.key + 1, 32)
 where i.expires_at > r.value";

/// What a single request with `key` gets, if it was done before.
pub(super) async fn lookup<T>(conn: &mut SqliteConnection, key: &Idempotency, now: Timestamp) -> Result<Option<Written<T>>, StoreError> {
    let mut rows = Rows::default();
    rows.push_bytes(&key.scope, &now.as_millis())?;
    Ok(read(conn, rows).await?.get(&key.scope).map(|kept| kept.written(key)))
}

/// Adds an answer to those that [`keep`] writes.
pub(super) fn push(rows: &mut Rows, key: &Idempotency, answer: &StoredAnswer) -> Result<(), StoreError> {
    let (start, len) = rows.aside(&answer.body);
    rows.push_bytes(&[key.scope, key.body_hash].concat(), &(answer.status, key.expires_at.as_millis(), start, len))
}

/// Writes the answers. What stands under the same key is an expired one: living ones are looked for first.
pub(super) async fn keep(tx: &mut Tx, mut rows: Rows) -> Result<(), StoreError> {
    if !rows.is_empty() {
        let (json, keys, bodies) = rows.take();
        sqlx::query(KEEP).bind(json).bind(keys).bind(bodies).execute(&mut tx.conn).await?;
    }
    Ok(())
}

const KEEP: &str = "
insert or replace into idempotency (scope, body_hash, status, expires_at, body)
select substr($2, 64 * r.key + 1, 32), substr($2, 64 * r.key + 33, 32), r.value ->> 0, r.value ->> 1,
       coalesce(substr($3, 1 + (r.value ->> 2), r.value ->> 3), x'')
  from json_each($1) r";

/// What a single write is answered without doing it: the request was done before.
pub(super) async fn before<T>(
    tx: &mut Tx,
    keep: Option<&(Idempotency, StoredAnswer)>,
    now: Timestamp,
) -> Result<Option<Written<T>>, StoreError> {
    match keep {
        Some((key, _)) => lookup(&mut tx.conn, key, now).await,
        None => Ok(None),
    }
}

/// Keeps the answer of a single write.
pub(super) async fn after(tx: &mut Tx, kept: Option<&(Idempotency, StoredAnswer)>) -> Result<(), StoreError> {
    let mut rows = Rows::default();
    if let Some((key, answer)) = kept {
        push(&mut rows, key, answer)?;
    }
    keep(tx, rows).await
}

/// The statements on the hot path, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[FIND, KEEP];
