//! What leads are found by: contacts and words ([`crate::policy::search`]).
//!
//! Contacts are written with the lead: they are two or three short rows, and whoever asks for a person by telephone number,
//! to answer or to erase, must find the lead of a moment ago. Words come later ([`unindexed`], [`index`]), because their
//! index costs about as much as all else of a lead. With the lead goes only its number; the numbers above
//! `search_progress.done` are what is still to be done.
//!
//! Words go into FTS5, whose index is written as a log and merged later: rows of a plain table would be scattered over
//! as many pages as a lead has words. It keeps no text, only which lead has which word.

use rusqlite::params;
use sqlx::{Row, SqlitePool};
use uuid::Uuid;

use super::read::json;
use super::writer::Tx;
use crate::model::Lead;
use crate::policy::search;
use crate::store::StoreError;

/// To be called when the lead's own row is written. A lead that is sent again comes again: what is there already stays.
pub(super) fn write(tx: &Tx, lead: Uuid, contacts: &[String]) -> Result<(), StoreError> {
    for key in contacts {
        tx.db.run(INSERT_CONTACT, params![key, lead])?;
    }
    tx.db.run(INSERT_DOC, params![lead])?;
    Ok(())
}

const INSERT_CONTACT: &str = "insert or ignore into lead_contacts (key, lead_id) values (?1, ?2)";

/// Above every number that was given, also to leads that are gone since: one below `done` would never be looked at.
const INSERT_DOC: &str = "
insert or ignore into lead_docs (doc, lead_id)
values (1 + max((select coalesce(max(doc), 0) from lead_docs), (select done from search_progress where id = 1)), ?1)";

/// Leads whose words are to be written, made ready outside the writer.
pub(super) struct Slice {
    from: i64,
    to: i64,
    leads: Vec<Indexed>,
    /// More may wait behind them.
    pub(super) is_full: bool,
}

struct Indexed {
    doc: i64,
    payload: String,
    words: String,
}

/// The next leads whose words are not in the index. `None`: all are.
pub(super) async fn unindexed(pool: &SqlitePool, limit: u32) -> Result<Option<Slice>, StoreError> {
    let rows = sqlx::query(UNINDEXED).bind(limit).fetch_all(pool).await?;
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(None) };
    let mut slice = Slice { from: first.try_get(2)?, to: last.try_get(0)?, leads: Vec::new(), is_full: rows.len() >= limit as usize };
    for row in &rows {
        // Gone since its number was given.
        let Some(payload) = row.try_get::<Option<String>, _>(1)? else { continue };
        let lead: Lead = json(&payload)?;
        slice.leads.push(Indexed { doc: row.try_get(0)?, payload, words: search::words(&lead).join(" ") });
        tokio::task::yield_now().await;
    }
    Ok(Some(slice))
}

/// Writes the words, unless someone else did since they were read.
pub(super) fn index(tx: &Tx, slice: &Slice) -> Result<(), StoreError> {
    if tx.db.run(INDEXED, params![slice.from, slice.to])? == 0 {
        return Ok(());
    }
    for Indexed { doc, payload, words } in &slice.leads {
        tx.db.run(INSERT_WORDS, params![doc, payload, words])?;
    }
    Ok(())
}

const UNINDEXED: &str = "
select n.doc, l.payload, p.done
  from search_progress p cross join lead_docs n on n.doc > p.done left join leads l on l.id = n.lead_id
 where p.id = 1 order by n.doc limit $1";

const INDEXED: &str = "update search_progress set done = ?2 where id = 1 and done = ?1";

/// A lead that was erased since it was read does not come back by its words. Which leads are in the index already is
/// known by the sizes it keeps of each.
const INSERT_WORDS: &str = "
insert into lead_words (rowid, words)
select n.doc, ?3 from lead_docs n cross join leads l on l.id = n.lead_id
 where n.doc = ?1 and +l.payload = ?2 and not exists (select 1 from lead_words_docsize s where s.id = n.doc)";

/// The statements on the hot path, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[INSERT_CONTACT, INSERT_DOC, INSERT_WORDS, UNINDEXED, INDEXED];
