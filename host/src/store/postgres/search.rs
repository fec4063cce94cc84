//! What leads are found by. Contacts are written with the lead ([`super::accept`]); words are brought in slice by slice, from the
//! table of those that are not indexed yet, which a lead enters as it is accepted.

use sqlx::Row;
use uuid::Uuid;

use super::error::Fail;
use super::pool::Conn;
use super::read::json;
use crate::model::Lead;
use crate::policy::search;

/// Indexes the next of them. `false`: all are.
pub(super) async fn index(tx: &mut Conn, limit: u32) -> Result<bool, Fail> {
    let rows = tx.all(sqlx::query(UNINDEXED).bind(i64::from(limit))).await?;
    if rows.is_empty() {
        return Ok(false);
    }
    let ids = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<Uuid>, _>>()?;
    let (mut projects, mut words, mut leads) = (Vec::new(), Vec::new(), Vec::new());
    for row in tx.all(sqlx::query(LEADS).bind(ids.clone())).await? {
        let lead: Lead = json(row.try_get(0)?)?;
        // The first is the project's own, which is a column here.
        for word in search::words(&lead).into_iter().skip(1) {
            projects.push(lead.project.uuid());
            words.push(word);
            leads.push(lead.id.uuid());
        }
    }
    tx.run(sqlx::query(INSERT).bind(projects).bind(words).bind(leads)).await?;
    tx.run(sqlx::query(INDEXED).bind(ids)).await?;
    Ok(true)
}

/// Oldest first; what another node is at is left to it.
const UNINDEXED: &str = "select lead_id from leads_unindexed order by lead_id limit $1 for update skip locked";

const LEADS: &str = "select payload from leads where id = any($1)";

const INSERT: &str = "
insert into lead_words (project_id, word, lead_id)
select * from unnest($1::uuid[], $2::text[], $3::uuid[]) as u (project_id, word, lead_id) order by 1, 2, 3
on conflict do nothing";

const INDEXED: &str = "delete from leads_unindexed where lead_id = any($1)";
