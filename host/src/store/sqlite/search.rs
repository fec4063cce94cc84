//! What leads are found by, written with them: contacts and words ([`crate::policy::search`]).
//!
//! Words go into FTS5, whose index is written as a log and merged later: rows of a plain table would be scattered over
//! as many pages as a lead has words. It keeps no text, only which lead has which word.

use rusqlite::params;
use sqlx::{Row, SqlitePool};
use uuid::Uuid;

use super::read::json;
use super::writer::Tx;
use crate::model::{Lead, LeadId};
use crate::policy::search::{self, Found};
use crate::store::StoreError;

/// What a lead is found by, ready for its rows.
pub(super) struct Entry {
    contacts: Vec<String>,
    words: String,
}

impl Entry {
    pub(super) fn of(lead: &Lead) -> Self {
        let Found { contacts, words } = search::of(lead);
        Self { contacts, words: words.join(" ") }
    }
}

/// To be called when the lead's own row is written. A lead that is sent again comes again: what is there already stays.
pub(super) fn write(tx: &Tx, lead: Uuid, entry: &Entry) -> Result<(), StoreError> {
    for key in &entry.contacts {
        tx.db.run(INSERT_CONTACT, params![key, lead])?;
    }
    tx.db.run(INSERT_DOC, params![lead])?;
    tx.db.run(INSERT_WORDS, params![lead, entry.words])?;
    Ok(())
}

const INSERT_CONTACT: &str = "insert or ignore into lead_contacts (key, lead_id) values (?1, ?2)";

const INSERT_DOC: &str = "insert or ignore into lead_docs (lead_id) values (?1)";

/// Which leads are in the index of words already is known by the sizes it keeps of each.
const INSERT_WORDS: &str = "
insert into lead_words (rowid, words)
select n.doc, ?2 from lead_docs n where n.lead_id = ?1 and not exists (select 1 from lead_words_docsize s where s.id = n.doc)";

/// To be called before the lead's own row goes. How many contacts it was found by.
pub(super) fn remove(tx: &Tx, lead: &Lead) -> Result<u64, StoreError> {
    let contacts = remove_contacts(tx, lead.id, &Entry::of(lead).contacts)?;
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

/// Whether leads from before the search tables are still to be brought into them.
pub(super) async fn is_behind(pool: &SqlitePool) -> Result<bool, StoreError> {
    Ok(sqlx::query("select done < last from search_backfill where id = 1").fetch_one(pool).await?.try_get(0)?)
}

/// Brings the next of them in. `false`: all are.
pub(super) async fn index(tx: &mut Tx, limit: u32) -> Result<bool, StoreError> {
    let rows = sqlx::query(UNINDEXED).bind(limit).fetch_all(&mut tx.conn).await?;
    let Some(last) = rows.last() else {
        sqlx::query(ALL_INDEXED).execute(&mut tx.conn).await?;
        return Ok(false);
    };
    let done: i64 = last.try_get(0)?;
    for row in &rows {
        let lead: Lead = json(row.try_get(1)?)?;
        write(tx, lead.id.uuid(), &Entry::of(&lead))?;
    }
    sqlx::query(INDEXED).bind(done).execute(&mut tx.conn).await?;
    Ok(true)
}

const UNINDEXED: &str = "
select n.doc, l.payload from search_backfill f cross join lead_docs n on n.doc > f.done and n.doc <= f.last cross join leads l on l.id = n.lead_id
 where f.id = 1 order by n.doc limit $1";
const INDEXED: &str = "update search_backfill set done = $1 where id = 1";
const ALL_INDEXED: &str = "update search_backfill set done = last where id = 1";

/// The statements on the hot path, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[INSERT_CONTACT, INSERT_DOC, INSERT_WORDS, UNINDEXED, INDEXED, DELETE_CONTACT, DELETE_WORDS, DELETE_DOC];
