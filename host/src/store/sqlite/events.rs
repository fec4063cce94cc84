//! The log of live events: one row a turn, appended by the writer before it commits.

use rusqlite::params;
use sqlx::{Row, SqlitePool};

use super::writer::Tx;
use crate::model::{EventPosition, Timestamp};
use crate::store::{EventLog, EventPage, StoreError, Unpack};

/// Most rows that one page reads. The largest is that of a turn with many endings: some ten thousand bytes.
const ROWS: i64 = 64;

/// Appends what the transaction changed. Whether there was anything.
pub(super) fn append(tx: &mut Tx) -> Result<bool, StoreError> {
    if tx.events.is_empty() {
        return Ok(false);
    }
    let (at, body) = tx.events.row();
    tx.db.run(APPEND, params![at.as_millis(), body])?;
    Ok(true)
}

/// The newest row stays when others are removed, so a number is never given twice.
const APPEND: &str = "insert into events (at, body) values (?1, ?2)";

pub(super) async fn after(pool: &SqlitePool, after: EventPosition, limit: u32) -> Result<EventPage, StoreError> {
    let limit = limit.max(1) as usize;
    let from = i64::try_from(after.turn).unwrap_or(i64::MAX);
    let rows = sqlx::query(AFTER).bind(from).bind(ROWS).fetch_all(pool).await?;
    let mut page = EventPage { events: Vec::new(), next: after, more: rows.len() as i64 == ROWS, log: EventLog::default() };
    'rows: for row in &rows {
        let (turn, body) = (turn(row.try_get(0)?), row.try_get::<&[u8], _>(1)?);
        for event in Unpack::new(turn, body)? {
            let event = event?;
            if event.position <= after {
                continue;
            }
            if page.events.len() == limit {
                page.more = true;
                break 'rows;
            }
            page.next = event.position;
            page.events.push(event);
        }
        page.next = page.next.max(EventPosition::end_of(turn));
    }
    // After the rows: what is removed meanwhile is said to be gone, though it was read; never the other way round.
    page.log = log(pool).await?;
    Ok(page)
}

const AFTER: &str = "select seq, body from events where seq >= $1 order by seq limit $2";

pub(super) async fn log(pool: &SqlitePool) -> Result<EventLog, StoreError> {
    let row = sqlx::query(ENDS).fetch_one(pool).await?;
    let (oldest, newest): (Option<i64>, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
    let pruned_to = oldest.map(turn).filter(|oldest| *oldest > 1).map_or(EventPosition::START, |oldest| EventPosition::end_of(oldest - 1));
    Ok(EventLog { pruned_to, newest: newest.map_or(EventPosition::START, |newest| EventPosition::end_of(turn(newest))) })
}

fn turn(seq: i64) -> u64 {
    u64::try_from(seq).unwrap_or_default()
}

const ENDS: &str = "select (select min(seq) from events), (select max(seq) from events)";

pub(super) fn prune(tx: &Tx, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
    let oldest = tx.db.all(OLDEST, params![limit], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
    let old = oldest.into_iter().take_while(|(_, at)| *at < before.as_millis());
    match old.last() {
        Some((last, _)) => Ok(tx.db.run(REMOVE, params![last])? as u64),
        None => Ok(0),
    }
}

const OLDEST: &str = "select seq, at from events where seq > 0 order by seq limit ?1";
const REMOVE: &str = "delete from events where seq <= ?1 and seq < (select max(seq) from events)";

/// The statements, for the check of their plans.
#[cfg(test)]
pub(super) const ALL: &[&str] = &[APPEND, AFTER, ENDS, OLDEST, REMOVE];
