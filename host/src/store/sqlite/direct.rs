//! Statements done by the thread that asks, on the writer's own connection.
//!
//! sqlx does each statement in a thread of the connection and hands every row over by a channel. That is right for reads,
//! of which many wait at once, but the writer has a thread of its own, and on the hot path the way there and back costs
//! more than most statements. Both ways lead to one SQLite handle: what they do within a turn is one transaction.

use rusqlite::{Connection, Params, Row};
use sqlx::SqliteConnection;

use crate::store::StoreError;

/// Prepared statements kept; there are fewer.
const STATEMENTS: usize = 128;

/// The writer's connection without the way through sqlx. To be dropped before the connection it was made of.
pub(super) struct Direct {
    conn: Connection,
}

impl Direct {
    /// `conn` must have been opened as `serialized` and must outlive this.
    pub(super) async fn over(conn: &mut SqliteConnection) -> Result<Self, StoreError> {
        let handle = conn.lock_handle().await?.as_raw_handle();
        #[expect(unsafe_code, reason = "rusqlite has no safe way to share a handle")]
        // SAFETY: The handle is valid: `Tx` owns both, and drops this first. Calls from here and from sqlx's thread may not
        // disturb each other: the connection was opened as `serialized`, so SQLite itself lets one in at a time. Should
        // sqlx's thread die, it closes the handle in vain, for SQLite keeps one that has statements, and those of `KEPT`
        // live as long as this.
        let conn = unsafe { Connection::from_handle(handle.as_ptr()) }?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS);
        let direct = Self { conn };
        for sql in KEPT {
            drop(direct.conn.prepare_cached(sql)?);
        }
        Ok(direct)
    }

    pub(super) fn begin(&self) -> Result<(), StoreError> {
        self.run(BEGIN, []).map(drop)
    }

    pub(super) fn commit(&self) -> Result<(), StoreError> {
        self.run(COMMIT, []).map(drop)
    }

    /// Some errors end the transaction by themselves; then there is nothing to roll back.
    pub(super) fn roll_back(&self) -> Result<(), StoreError> {
        if self.conn.is_autocommit() { Ok(()) } else { self.run(ROLLBACK, []).map(drop) }
    }

    /// Does a statement without rows; how many it changed. Parameters are spelt `?1`.
    pub(super) fn run(&self, sql: &'static str, params: impl Params) -> Result<usize, StoreError> {
        Ok(self.conn.prepare_cached(sql)?.execute(params)?)
    }

    /// How many rows this connection has changed.
    pub(super) fn total_changes(&self) -> u64 {
        self.conn.total_changes()
    }

    /// Brings the write-ahead log home and empties its file, having rewritten the database file when it is of at most
    /// `rewritten` bytes. To be called between transactions. `false`: some reader is in the way.
    pub(super) fn tidy(&self, rewritten: i64) -> Result<bool, StoreError> {
        let number = |sql: &str| self.conn.query_row(sql, [], |row| row.get::<_, i64>(0));
        let bytes = number("pragma page_count")?.saturating_mul(number("pragma page_size")?);
        if bytes <= rewritten {
            self.conn.execute_batch("vacuum")?;
        }
        // Leads wait meanwhile: better to come again than to wait for a reader.
        self.conn.execute_batch("pragma busy_timeout = 100")?;
        let in_the_way = number("pragma wal_checkpoint(truncate)");
        self.conn.execute_batch(RESTORE_BUSY)?;
        Ok(in_the_way? == 0)
    }

    /// All rows of a statement.
    pub(super) fn all<T>(
        &self,
        sql: &'static str,
        params: impl Params,
        mut read: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query(params)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(read(row)?);
        }
        Ok(found)
    }

    /// The row of a statement that has at most one.
    pub(super) fn first<T>(
        &self,
        sql: &'static str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.all(sql, params, read)?.pop())
    }
}

/// As at opening.
const RESTORE_BUSY: &str = "pragma busy_timeout = 5000";

const BEGIN: &str = "begin immediate";
const COMMIT: &str = "commit";
const ROLLBACK: &str = "rollback";
const KEPT: [&str; 3] = [BEGIN, COMMIT, ROLLBACK];
