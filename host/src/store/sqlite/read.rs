//! What became of leads. Reads run beside the writer, on connections that cannot write, and see what is committed.

use serde::de::DeserializeOwned;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite, SqlitePool};
use uuid::Uuid;

use super::words::Word;
use crate::model::{
    Attempt, AttemptId, AttemptOutcome, Batch, BatchCounts, BatchId, BatchStatus, CredentialId, Delivery, DeliveryId, DeliveryKind,
    DeliveryStatus, LeadId, LeadRecord, LeadStatus, ProjectId, Timestamp,
};
use crate::store::{ListQuery, Page, StoreError};

pub(super) fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

pub(super) fn json<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Defect(format!("JSON in a row cannot be read: {error}")))
}

pub(super) fn json_column<T: DeserializeOwned>(text: Option<&str>) -> Result<Option<T>, StoreError> {
    text.map(json).transpose()
}

/// Seven columns from `first` on: total, then by state.
pub(super) fn counts(row: &SqliteRow, first: usize) -> Result<BatchCounts, StoreError> {
    Ok(BatchCounts {
        total: row.try_get(first)?,
        pending: row.try_get(first + 1)?,
        delivered: row.try_get(first + 2)?,
        skipped: row.try_get(first + 3)?,
        failed: row.try_get(first + 4)?,
        in_doubt: row.try_get(first + 5)?,
        cancelled: row.try_get(first + 6)?,
    })
}

/// Reads `limit + 1` rows as a page of `limit`.
pub(super) fn page<T>(rows: Vec<SqliteRow>, limit: u32, read: impl Fn(&SqliteRow) -> Result<T, StoreError>) -> Result<Page<T>, StoreError> {
    let has_more = rows.len() > limit as usize;
    let items = rows.iter().take(limit as usize).map(read).collect::<Result<_, _>>()?;
    Ok(Page { items, has_more })
}

/// The most rows of a page.
pub(super) fn bounded(limit: u32) -> u32 {
    limit.clamp(1, 200)
}

fn lead_record(row: &SqliteRow) -> Result<LeadRecord, StoreError> {
    Ok(LeadRecord { lead: json(row.try_get(0)?)?, status: LeadStatus::read(row.try_get(1)?)? })
}

pub(super) async fn lead(pool: &SqlitePool, id: LeadId) -> Result<Option<LeadRecord>, StoreError> {
    let row = sqlx::query(LEAD).bind(id.uuid()).fetch_optional(pool).await?;
    row.as_ref().map(lead_record).transpose()
}
const LEAD: &str = "select payload, status from leads where id = $1";

pub(super) async fn lead_by_external_id(
    pool: &SqlitePool,
    project: ProjectId,
    external_id: &str,
) -> Result<Option<LeadRecord>, StoreError> {
    let row = sqlx::query(LEAD_BY_EXTERNAL_ID).bind(project.uuid()).bind(external_id.to_owned()).fetch_optional(pool).await?;
    row.as_ref().map(lead_record).transpose()
}
const LEAD_BY_EXTERNAL_ID: &str = "select payload, status from leads where project_id = $1 and external_id = $2 order by id desc limit 1";

pub(super) async fn leads(pool: &SqlitePool, query: &ListQuery) -> Result<Page<LeadRecord>, StoreError> {
    let Some(mut sql) = leads_sql(query) else { return Ok(Page { items: Vec::new(), has_more: false }) };
    page(sql.build().fetch_all(pool).await?, bounded(query.limit), lead_record)
}

/// `None`: nothing can match.
pub(super) fn leads_sql(query: &ListQuery) -> Option<QueryBuilder<Sqlite>> {
    let mut sql = QueryBuilder::new("select l.payload, l.status from leads l where ");
    window(&mut sql, query, "l");
    if let Some(status) = &query.status {
        let status = LeadStatus::parse(status)?;
        // As a literal, so that the index of the open ones serves.
        sql.push(format_args!(" and l.status = '{}'", status.word()));
        if status != LeadStatus::Completed {
            sql.push(" and l.status <> 'completed'");
        }
    }
    newest_first(&mut sql, query, "l");
    Some(sql)
}

/// The conditions that every list has. Ids carry the time, so a time filter bounds them too; a day of slack covers
/// whatever lies between making an id and noting the time.
fn window(sql: &mut QueryBuilder<Sqlite>, query: &ListQuery, table: &str) {
    const SLACK_MS: i64 = 86_400_000;
    let mut below = query.before.unwrap_or(Uuid::max());
    if let Some(before) = query.created_before {
        below = below.min(id_at(before.as_millis().saturating_add(SLACK_MS)));
    }
    sql.push(format_args!("{table}.id < ")).push_bind(below);
    if let Some(after) = query.created_after {
        sql.push(format_args!(" and {table}.id >= ")).push_bind(id_at(after.as_millis().saturating_sub(SLACK_MS)));
        sql.push(format_args!(" and {table}.created_at >= ")).push_bind(after.as_millis());
    }
    if let Some(before) = query.created_before {
        sql.push(format_args!(" and {table}.created_at < ")).push_bind(before.as_millis());
    }
    if let Some(project) = query.project {
        sql.push(format_args!(" and {table}.project_id = ")).push_bind(project.uuid());
    }
}

fn newest_first(sql: &mut QueryBuilder<Sqlite>, query: &ListQuery, table: &str) {
    sql.push(format_args!(" order by {table}.id desc limit ")).push_bind(bounded(query.limit) + 1);
}

/// The smallest UUIDv7 of a time.
pub(super) fn id_at(millis: i64) -> Uuid {
    let millis = millis.clamp(0, (1 << 48) - 1) as u128;
    Uuid::from_u128(millis << 80)
}

fn batch_row(row: &SqliteRow) -> Result<Batch, StoreError> {
    Ok(Batch {
        id: BatchId::from_uuid(row.try_get(0)?),
        lead_id: LeadId::from_uuid(row.try_get(1)?),
        project: ProjectId::from_uuid(row.try_get(2)?),
        counts: counts(row, 3)?,
        status: BatchStatus::read(row.try_get(10)?)?,
        options: json(row.try_get(11)?)?,
        created_at: time(row.try_get(12)?),
        finished_at: row.try_get::<Option<i64>, _>(13)?.map(time),
    })
}

macro_rules! batches {
    ($rest:literal) => {
        concat!(
            "select id, lead_id, project_id, total, pending, delivered, skipped, failed, in_doubt, cancelled, status, options,
                    created_at, finished_at from batches ",
            $rest
        )
    };
}

pub(super) async fn batch(pool: &SqlitePool, id: BatchId) -> Result<Option<Batch>, StoreError> {
    let row = sqlx::query(BATCH).bind(id.uuid()).fetch_optional(pool).await?;
    row.as_ref().map(batch_row).transpose()
}
const BATCH: &str = batches!("where id = $1");

pub(super) async fn batches_of_lead(pool: &SqlitePool, lead: LeadId) -> Result<Vec<Batch>, StoreError> {
    sqlx::query(BATCHES_OF_LEAD).bind(lead.uuid()).fetch_all(pool).await?.iter().map(batch_row).collect()
}
const BATCHES_OF_LEAD: &str = batches!("where lead_id = $1 order by id desc");

/// What a delivery's columns are. A job that is `sending` shows as that: the reader needs no clock.
const DELIVERY: &str = "
select d.id, d.batch_id, d.lead_id, d.project_id, d.credential_id, d.channel,
       iif(j.sending, 'sending', d.status), coalesce(j.attempts, d.attempts), j.due_at, d.last_code, d.last_error,
       d.refs, d.url, d.settings, d.created_at, d.finished_at, d.kind, d.event, d.reason, d.deadline_at, d.overdue_at";

fn delivery_row(row: &SqliteRow) -> Result<Delivery, StoreError> {
    Ok(Delivery {
        id: DeliveryId::from_uuid(row.try_get(0)?),
        batch_id: BatchId::from_uuid(row.try_get(1)?),
        lead_id: LeadId::from_uuid(row.try_get(2)?),
        project: ProjectId::from_uuid(row.try_get(3)?),
        credential_id: CredentialId::from_uuid(row.try_get(4)?),
        channel: row.try_get(5)?,
        status: DeliveryStatus::read(row.try_get(6)?)?,
        attempts: row.try_get(7)?,
        due_at: row.try_get::<Option<i64>, _>(8)?.map(time),
        last_code: row.try_get(9)?,
        last_error: row.try_get(10)?,
        refs: json_column(row.try_get(11)?)?.unwrap_or_default(),
        url: row.try_get(12)?,
        settings: json_column(row.try_get(13)?)?,
        created_at: time(row.try_get(14)?),
        finished_at: row.try_get::<Option<i64>, _>(15)?.map(time),
        kind: DeliveryKind::read(row.try_get(16)?)?,
        event: json_column(row.try_get(17)?)?,
        reason: row.try_get(18)?,
        deadline_at: row.try_get::<Option<i64>, _>(19)?.map(time),
        overdue_at: row.try_get::<Option<i64>, _>(20)?.map(time),
    })
}

pub(super) async fn delivery(pool: &SqlitePool, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
    let mut sql = QueryBuilder::new(DELIVERY);
    sql.push(" from deliveries d left join jobs j on j.id = d.id where d.id = ").push_bind(id.uuid());
    let row = sql.build().fetch_optional(pool).await?;
    row.as_ref().map(delivery_row).transpose()
}

pub(super) async fn deliveries_of_batch(pool: &SqlitePool, batch: BatchId) -> Result<Vec<Delivery>, StoreError> {
    let mut sql = QueryBuilder::new(DELIVERY);
    sql.push(" from deliveries d left join jobs j on j.id = d.id where d.batch_id = ").push_bind(batch.uuid());
    sql.push(" order by d.position");
    sql.build().fetch_all(pool).await?.iter().map(delivery_row).collect()
}

pub(super) async fn deliveries(pool: &SqlitePool, query: &ListQuery) -> Result<Page<Delivery>, StoreError> {
    let Some(mut sql) = deliveries_sql(query) else { return Ok(Page { items: Vec::new(), has_more: false }) };
    page(sql.build().fetch_all(pool).await?, bounded(query.limit), delivery_row)
}

/// `None`: nothing can match.
pub(super) fn deliveries_sql(query: &ListQuery) -> Option<QueryBuilder<Sqlite>> {
    let status = match &query.status {
        Some(status) => Some(DeliveryStatus::parse(status)?),
        None => None,
    };
    let mut sql = QueryBuilder::new(DELIVERY);
    // Those under way are found among the jobs, however long the history is.
    let under_way = status.is_some_and(|status| !status.is_terminal());
    let table = if under_way { "j" } else { "d" };
    sql.push(if under_way {
        " from jobs j cross join deliveries d on d.id = j.id where j.id = d.id and "
    } else {
        " from deliveries d left join jobs j on j.id = d.id where "
    });
    window(&mut sql, query, "d");
    if under_way && let Some(before) = query.before {
        sql.push(" and j.id < ").push_bind(before);
    }
    match status {
        None => {}
        Some(DeliveryStatus::Queued) => drop(sql.push(" and j.sending = 0")),
        Some(DeliveryStatus::Sending) => drop(sql.push(" and j.sending = 1")),
        Some(ended) => {
            sql.push(format_args!(" and d.status = '{}'", ended.word()));
            if matches!(ended, DeliveryStatus::Failed | DeliveryStatus::InDoubt | DeliveryStatus::Cancelled) {
                // The condition of the index that holds them, word for word.
                sql.push(" and d.status in ('failed', 'in_doubt', 'cancelled')");
            }
        }
    }
    if let Some(channel) = &query.channel {
        sql.push(" and d.channel = ").push_bind(channel.clone());
    }
    newest_first(&mut sql, query, table);
    Some(sql)
}

pub(super) async fn attempts(pool: &SqlitePool, delivery: DeliveryId) -> Result<Vec<Attempt>, StoreError> {
    sqlx::query(ATTEMPTS).bind(delivery.uuid()).fetch_all(pool).await?.iter().map(attempt_row).collect()
}
const ATTEMPTS: &str = "
select id, delivery_id, no, started_at, duration_ms, outcome, counted, code, message, exchanges, plugin, correlation, node
  from attempts where delivery_id = $1 order by no";

fn attempt_row(row: &SqliteRow) -> Result<Attempt, StoreError> {
    Ok(Attempt {
        id: AttemptId::from_uuid(row.try_get(0)?),
        delivery_id: DeliveryId::from_uuid(row.try_get(1)?),
        no: row.try_get(2)?,
        started_at: time(row.try_get(3)?),
        duration_ms: row.try_get(4)?,
        outcome: AttemptOutcome::read(row.try_get(5)?)?,
        counted: row.try_get(6)?,
        code: row.try_get(7)?,
        message: row.try_get(8)?,
        exchanges: json_column(row.try_get(9)?)?.unwrap_or_default(),
        plugin: row.try_get(10)?,
        correlation: row.try_get(11)?,
        node: row.try_get(12)?,
    })
}

/// The statements of readers with a constant text, for the check of their plans.
#[cfg(test)]
pub(super) const READS: &[&str] = &[LEAD, LEAD_BY_EXTERNAL_ID, BATCH, BATCHES_OF_LEAD, ATTEMPTS];
