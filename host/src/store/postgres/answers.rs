//! Answers kept for requests that carried an `Idempotency-Key`.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::error::Fail;
use super::pool::Conn;
use crate::model::Timestamp;
use crate::store::{Idempotency, StoredAnswer, Written};

/// An answer found for a key.
pub(super) struct Kept {
    body_hash: Vec<u8>,
    answer: StoredAnswer,
}

impl Kept {
    /// Three columns from `first` on: the body's hash, the answer's status and body.
    pub(super) fn read(row: &PgRow, first: usize) -> Result<Self, Fail> {
        let status: i32 = row.try_get(first + 1)?;
        let status = u16::try_from(status).map_err(|_| Fail::defect(format!("{status} in a row is no HTTP status")))?;
        Ok(Self { body_hash: row.try_get(first)?, answer: StoredAnswer { status, body: row.try_get(first + 2)? } })
    }

    /// What a request with `key` gets.
    pub(super) fn written<T>(self, key: &Idempotency) -> Written<T> {
        if self.body_hash == key.body_hash { Written::Replayed(self.answer) } else { Written::KeyReused }
    }
}

/// What a request with `key` gets, if it was done before.
pub(super) async fn find<T>(conn: &mut Conn, key: &Idempotency, now: Timestamp) -> Result<Option<Written<T>>, Fail> {
    let query = sqlx::query(FIND).bind(key.scope.to_vec()).bind(now.as_millis());
    let Some(row) = conn.first(query).await? else { return Ok(None) };
    Ok(Some(Kept::read(&row, 0)?.written(key)))
}
const FIND: &str = "select body_hash, status, body from idempotency where scope = $1 and expires_at > $2";

/// What a single write is answered without doing it: the request was done before.
pub(super) async fn before<T>(
    conn: &mut Conn,
    keep: Option<&(Idempotency, StoredAnswer)>,
    now: Timestamp,
) -> Result<Option<Written<T>>, Fail> {
    match keep {
        Some((key, _)) => find(conn, key, now).await,
        None => Ok(None),
    }
}

/// Keeps the answer of a single write. Someone who did the same at the same time was faster: then all of this is undone, and
/// done again it finds that answer.
pub(super) async fn after(conn: &mut Conn, kept: Option<&(Idempotency, StoredAnswer)>, now: Timestamp) -> Result<(), Fail> {
    let Some((key, answer)) = kept else { return Ok(()) };
    let query = sqlx::query(KEEP)
        .bind(key.scope.to_vec())
        .bind(key.body_hash.to_vec())
        .bind(i32::from(answer.status))
        .bind(answer.body.clone())
        .bind(key.expires_at.as_millis())
        .bind(now.as_millis());
    if conn.run(query).await? == 0 { Err(Fail::Again("the same request came twice at the same time".to_owned())) } else { Ok(()) }
}

/// Only an expired answer is replaced.
const KEEP: &str = "
insert into idempotency as i (scope, body_hash, status, body, expires_at) values ($1, $2, $3, $4, $5)
on conflict (scope) do update
   set body_hash = excluded.body_hash, status = excluded.status, body = excluded.body, expires_at = excluded.expires_at
 where i.expires_at <= $6";

/// A living answer stays: the first one given is the one to repeat.
pub(super) async fn keep_answer(conn: &mut Conn, key: &Idempotency, answer: &StoredAnswer, now: Timestamp) -> Result<(), Fail> {
    match after(conn, Some(&(key.clone(), answer.clone())), now).await {
        Err(Fail::Again(_)) if find::<()>(conn, key, now).await?.is_some() => Ok(()),
        done => done,
    }
}
