//! What leads are found by, written with them: contacts and words ([`crate::policy::search`]).
//!
//! Words go into FTS5, whose index is written as a log and merged later: rows of a plain table would be scattered over
//! as many pages as a lead has words. It keeps no text, only which lead has which word.

use sqlx::{Row, SqlitePool};
use uuid::Uuid;

use super::pack::Rows;
use super::read::json;
use super::writer::Tx;
use crate::model::Lead;
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

/// Entries on their way into the tables. A lead that is sent again comes again: what is there already stays.
#[derive(Default)]
pub(super) struct Entries {
    docs: Rows,
    contacts: Rows,
}

impl Entries {
    pub(super) fn push(&mut self, lead: Uuid, entry: &Entry) -> Result<(), StoreError> {
        self.docs.push(&[lead], &entry.words)?;
        for key in &entry.contacts {
            self.contacts.push(&[lead], key)?;
        }
        Ok(())
    }

    /// To be called when the leads' own rows are written.
    pub(super) async fn write(mut self, tx: &mut Tx) -> Result<(), StoreError> {
        if !self.contacts.is_empty() {
            let (json, leads, _) = self.contacts.take();
            sqlx::query(INSERT_CONTACTS).bind(json).bind(leads).execute(&mut tx.conn).await?;
        }
        if !self.docs.is_empty() {
            let (json, leads, _) = self.docs.take();
            sqlx::query(INSERT_WORDS).bind(json).bind(leads).execute(&mut tx.conn).await?;
        }
        Ok(())
    }
}

const INSERT_CONTACTS: &str = "
insert or ignore into lead_contacts (key, lead_id)
select r.value, substr($2, 16 * r.key + 1, 16) from json_each($1) r";

/// Which leads are in the index of words already is known by the sizes it keeps of each.
const INSERT_WORDS: &str = "
insert or ignore into lead_docs (lead_id) select substr($2, 16 * r.key + 1, 16) from json_each($1) r;
insert into lead_words (rowid, words)
select n.doc, r.value from json_each($1) r cross join lead_docs n on n.lead_id = substr($2, 16 * r.key + 1, 16)
 where not exists (select 1 from lead_words_docsize s where s.id = n.doc)";

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
    let mut entries = Entries::default();
    for row in &rows {
        let lead: Lead = json(row.try_get(1)?)?;
        entries.push(lead.id.uuid(), &Entry::of(&lead))?;
    }
    entries.write(tx).await?;
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
pub(super) const HOT: &[&str] = &[INSERT_CONTACTS, INSERT_WORDS, UNINDEXED, INDEXED];
