//! The weeks of the history. Ids carry their time, so a table is cut by its own key, and an old week goes with one `drop`.

use sqlx::Row;
use uuid::Uuid;

use super::error::Fail;
use super::pool::Conn;
use crate::store::StoreError;

/// Each table with what its weeks are made with: room for the updates that their rows will see.
const TABLES: [(&str, &str); 4] = [
    ("leads", " with (fillfactor = 85)"),
    ("batches", " with (fillfactor = 70)"),
    ("deliveries", " with (fillfactor = 85)"),
    ("attempts", ""),
];

const DAY_MS: i64 = 86_400_000;
const WEEK_MS: i64 = 7 * DAY_MS;
/// Monday, 5 January 1970.
const FIRST_MONDAY_MS: i64 = 4 * DAY_MS;
/// Weeks made ahead of the running one.
const AHEAD: i64 = 2;

/// One week of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Week {
    from_ms: i64,
}

impl Week {
    /// The week that this time is in.
    fn of(ms: i64) -> Self {
        Self { from_ms: ms - (ms - FIRST_MONDAY_MS).rem_euclid(WEEK_MS) }
    }

    fn later(self, weeks: i64) -> Self {
        Self { from_ms: self.from_ms + weeks * WEEK_MS }
    }

    fn bounds(self) -> (Uuid, Uuid) {
        (super::walk::id_at(self.from_ms), super::walk::id_at(self.from_ms + WEEK_MS))
    }

    /// The day it begins with, as part of a table's name.
    fn name(self) -> String {
        match time::OffsetDateTime::from_unix_timestamp(self.from_ms / 1_000) {
            Ok(day) => format!("{:04}{:02}{:02}", day.year(), u8::from(day.month()), day.day()),
            Err(_) => self.from_ms.to_string(),
        }
    }
}

/// Makes the running week and those to come, where they are missing; how many tables were made.
pub(super) async fn make(conn: &mut Conn) -> Result<u32, Fail> {
    conn.begin_single().await?;
    let now: i64 = conn.one(sqlx::query(NOW)).await?.try_get(0)?;
    conn.end().await?;
    let mut made = 0;
    for week in (0..=AHEAD).map(|weeks| Week::of(now).later(weeks)) {
        for (table, with) in TABLES {
            made += u32::from(make_one(conn, table, with, week).await?);
        }
    }
    Ok(made)
}

/// In a transaction of its own, which holds others up for a moment only.
async fn make_one(conn: &mut Conn, table: &str, with: &str, week: Week) -> Result<bool, Fail> {
    let (from, to) = week.bounds();
    let name = format!("{table}_{}", week.name());
    conn.begin_single().await?;
    let there: bool = conn.one(sqlx::query(IS_THERE).bind(name.clone())).await?.try_get(0)?;
    conn.end().await?;
    if there {
        return Ok(false);
    }
    let done = attach(conn, table, with, &name, (from, to)).await;
    match done {
        Ok(made) => Ok(made),
        // Ids of that week are in the default partition already (the clock was wrong for a while), the tables are not ours, or
        // busy for too long. Nothing is refused for it, and there are two weeks' time to try again.
        Err(Fail::Store(StoreError::Defect(why))) => Ok(later(conn, &name, &why).await),
        Err(Fail::Store(StoreError::Unavailable(why)))
            if ["lacks rights", "holds what is needed"].iter().any(|known| why.contains(known)) =>
        {
            Ok(later(conn, &name, &why).await)
        }
        Err(error) => Err(error),
    }
}

async fn later(conn: &mut Conn, name: &str, why: &str) -> bool {
    conn.roll_back().await;
    tracing::warn!(%name, %why, "the table of a week cannot be made now; until it is, its rows go into the default one");
    false
}

/// Made beside and attached, which disturbs readers and writers of the other weeks less than making it in its place.
async fn attach(conn: &mut Conn, table: &str, with: &str, name: &str, (from, to): (Uuid, Uuid)) -> Result<bool, Fail> {
    conn.begin().await?;
    // One node at a time; the others find it done.
    conn.run(sqlx::query("select pg_advisory_xact_lock($1)").bind(LOCK)).await?;
    let there: bool = conn.one(sqlx::query(IS_THERE).bind(name.to_owned())).await?.try_get(0)?;
    if !there {
        conn.script(format!(
            "create table {name} (like {table} including all){with};
             alter table {table} attach partition {name} for values from ('{from}') to ('{to}')"
        ))
        .await?;
    }
    conn.commit().await?;
    Ok(!there)
}

/// Statistics of the whole tables, which the server gathers for each week but not for all of them together.
pub(super) async fn analyze(conn: &mut Conn) -> Result<(), Fail> {
    for (table, _) in TABLES {
        conn.begin().await?;
        conn.script(format!("set local statement_timeout = 0; analyze {table}")).await?;
        conn.commit().await?;
    }
    Ok(())
}

/// Some number that nothing else locks.
const LOCK: i64 = 0x6c65_6164_0000_0002;

const NOW: &str = "select (extract(epoch from now()) * 1000)::bigint";

const IS_THERE: &str = "select to_regclass($1) is not null";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weeks_begin_on_mondays_and_touch_each_other() {
        let sunday = Week::of(1_767_571_199_999); // 2026-01-04 23:59:59.999
        let monday = Week::of(1_767_571_200_000);
        assert_eq!((sunday.name().as_str(), monday.name().as_str()), ("20251229", "20260105"));
        assert_eq!(sunday.later(1), monday);
        assert_eq!(sunday.bounds().1, monday.bounds().0);
        assert_eq!(Week::of(0).name(), "19691229");
        let id = crate::model::LeadId::new(crate::model::Timestamp::from_millis(1_767_571_200_000)).uuid();
        assert!(id >= monday.bounds().0 && id < monday.bounds().1);
    }
}
