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
use crate::model::{Lead, LeadId};
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

/// To be called before the lead's own row goes. How many contacts it was found by.
pub(super) fn remove(tx: &Tx, lead: &Lead) -> Result<u64, StoreError> {
    let contacts = remove_contacts(tx, lead.id, &search::contacts(lead))?;
    tx.db.run(DELETE_WORDS, params![lead.id.uuid()])?;
    tx.db.run(DELETE_DOC, params![lead.id.uuid()])?;
    Ok(contacts)
}

/// Has the lead found by further contacts.
pub(super) fn add_contacts(tx: &Tx, lead: LeadId, keys: &[String]) -> Result<(), StoreError> {
    for key in keys {
        tx.db.run(INSERT_CONTACT, params![key, lead.uuid()])?;
    }
    Ok(())
}

/// How many there were.
pub(super) fn remove_contacts(tx: &Tx, lead: LeadId, keys: &[String]) -> Result<u64, StoreError> {
    let mut removed = 0;
    for key in keys {
        removed += tx.db.run(DELETE_CONTACT, params![key, lead.uuid()])? as u64;
    }
    Ok(removed)
}

const DELETE_CONTACT: &str = "delete from lead_contacts where key = ?1 and lead_id = ?2";

const DELETE_WORDS: &str = "delete from lead_words where rowid = (select doc from lead_docs where lead_id = ?1)";

const DELETE_DOC: &str = "delete from lead_docs where lead_id = ?1";

/// Some work at merging the index of words, which only marks what is removed until its parts are merged: `whole` begins to
/// merge all parts there are. Whether there may be more to do.
pub(super) fn merge(tx: &Tx, whole: bool) -> Result<bool, StoreError> {
    let before = tx.db.total_changes();
    tx.db.run(MERGE, params![if whole { -MERGED_PAGES } else { MERGED_PAGES }])?;
    // The statement itself counts as one.
    Ok(whole || tx.db.total_changes() - before >= 2)
}

/// Pages of the index that are written in one transaction.
const MERGED_PAGES: i64 = 128;

const MERGE: &str = "insert into lead_words (lead_words, rank) values ('merge', ?1)";

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
pub(super) const HOT: &[&str] = &[INSERT_CONTACT, INSERT_DOC, INSERT_WORDS, UNINDEXED, INDEXED, DELETE_CONTACT, DELETE_WORDS, DELETE_DOC];
