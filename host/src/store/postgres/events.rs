//! The log of live events: one row a transaction, appended as the last thing before its commit.
//!
//! Whoever appends takes a lock that it holds until it is committed, and its number under it. So rows become visible in the order
//! of their numbers: who has seen one has seen all before it, and nothing has to be held back for a transaction that still runs.
//! The price is that those who tell something commit one after the other, each group of intakes or answers once; leases, which tell
//! nothing, do not wait. The other way, numbers by transaction ids and only what is behind no running one shown, would let a long
//! write in any other database of the server hold back all events. No lock is asked for after this one, so it closes no circle.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::error::Fail;
use super::pool::Conn;
use crate::model::{EventPosition, Timestamp};
use crate::store::{EventLog, EventPage, Unpack};

/// Most rows that one page reads. The largest is that of a group with many endings: some ten thousand bytes.
const ROWS: i64 = 64;

/// Appends what the transaction changed. Whether there was anything.
pub(super) async fn append(tx: &mut Conn) -> Result<bool, Fail> {
    if tx.events.is_empty() {
        return Ok(false);
    }
    let events = std::mem::take(&mut tx.events);
    let (at, body) = events.row();
    tx.run(sqlx::query(APPEND).bind(LOCK).bind(at.as_millis()).bind(body.to_vec())).await?;
    Ok(true)
}

/// Some number that nothing else locks.
const LOCK: i64 = 0x6c65_6164_0000_0004;

/// The number is drawn for the row that comes when the lock is there: a sequence gives its next one at that moment, whatever the
/// statement sees.
const APPEND: &str = "
with l as materialized (select pg_advisory_xact_lock($1))
insert into events (at, body) select $2, $3 from l";

pub(super) async fn after(conn: &mut Conn, after: EventPosition, limit: u32) -> Result<EventPage, Fail> {
    let limit = limit.max(1) as usize;
    let from = i64::try_from(after.turn).unwrap_or(i64::MAX);
    let rows = conn.all(sqlx::query(AFTER).bind(from).bind(ROWS)).await?;
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
    page.log = log(conn).await?;
    Ok(page)
}

const AFTER: &str = "select seq, body from events where seq >= $1 order by seq limit $2";

pub(super) async fn log(conn: &mut Conn) -> Result<EventLog, Fail> {
    let row = conn.one(sqlx::query(ENDS)).await?;
    let end = |row: &PgRow, column: usize| {
        let seq: Option<i64> = row.try_get(column)?;
        Ok::<_, Fail>(seq.filter(|seq| *seq > 0).map_or(EventPosition::START, |seq| EventPosition::end_of(turn(seq))))
    };
    Ok(EventLog { pruned_to: end(&row, 0)?, newest: end(&row, 1)? })
}

fn turn(seq: i64) -> u64 {
    u64::try_from(seq).unwrap_or_default()
}

const ENDS: &str = "select (select seq from events_pruned where id = 1), (select max(seq) from events)";

pub(super) async fn prune(tx: &mut Conn, before: Timestamp, limit: u32) -> Result<u64, Fail> {
    let rows = tx.all(sqlx::query(OLDEST).bind(i64::from(limit))).await?;
    let mut last = None;
    for row in &rows {
        if row.try_get::<i64, _>(1)? >= before.as_millis() {
            break;
        }
        last = Some(row.try_get::<i64, _>(0)?);
    }
    let Some(last) = last else { return Ok(0) };
    let removed: i64 = tx.one(sqlx::query(REMOVE).bind(last)).await?.try_get(0)?;
    Ok(removed.max(0) as u64)
}

const OLDEST: &str = "select seq, at from events order by seq limit $1";

/// The newest row stays, and says how far the log went.
const REMOVE: &str = "
with gone as (delete from events where seq <= $1 and seq < (select max(seq) from events) returning seq),
p as (update events_pruned set seq = greatest(seq, (select max(seq) from gone)) where id = 1)
select count(*) from gone";
