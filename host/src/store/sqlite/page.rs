//! Pages of rows that may be large: bounded in rows and in bytes, while they are read and not after.

use futures_util::TryStreamExt;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite, SqlitePool};

use crate::store::{Page, StoreError};

/// Most bytes of a page's large columns; a page has one row at least.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Rows that a connection reads ahead of whoever takes them.
pub(super) const READ_AHEAD: usize = 4;

/// A page of at most `limit` rows, for a query of `limit + 1`. It ends early when its `large` columns (of text) fill it.
pub(super) async fn bounded<T>(
    pool: &SqlitePool,
    mut sql: QueryBuilder<Sqlite>,
    limit: u32,
    large: &[usize],
    read: impl Fn(&SqliteRow) -> Result<T, StoreError>,
) -> Result<Page<T>, StoreError> {
    let mut rows = sql.build().fetch(pool);
    let (mut items, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.try_next().await? {
        for column in large {
            bytes += row.try_get::<Option<&str>, _>(*column)?.map_or(0, str::len);
        }
        if items.len() >= limit as usize || (bytes > PAGE_BYTES && !items.is_empty()) {
            return Ok(Page { items, has_more: true });
        }
        items.push(read(&row)?);
    }
    Ok(Page { items, has_more: false })
}
