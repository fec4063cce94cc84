//! What became of leads. Reads run beside the writer, on connections that cannot write, and see what is committed.

use serde::de::DeserializeOwned;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, SqlitePool};

use super::words::Word;
use crate::model::{
    Attempt, AttemptId, AttemptOutcome, Batch, BatchCounts, BatchId, BatchStatus, CredentialId, Delivery, DeliveryId, DeliveryKind,
    DeliveryStatus, LeadId, LeadRecord, LeadStatus, ProjectId, Timestamp,
};
use crate::store::{Page, StoreError};

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

pub(super) fn lead_record(row: &SqliteRow) -> Result<LeadRecord, StoreError> {
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

pub(super) fn batch_row(row: &SqliteRow) -> Result<Batch, StoreError> {
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

macro_rules! batch_columns {
    () => {
        "b.id, b.lead_id, b.project_id, b.total, b.pending, b.delivered, b.skipped, b.failed, b.in_doubt, b.cancelled, b.status, b.options,
         b.created_at, b.finished_at"
    };
}
pub(super) const BATCH_COLUMNS: &str = batch_columns!();

macro_rules! batches {
    ($rest:literal) => {
        concat!("select ", batch_columns!(), " from batches b ", $rest)
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
pub(super) const DELIVERY: &str = "
       d.id, d.batch_id, d.lead_id, d.project_id, d.credential_id, d.channel,
       iif(j.sending, 'sending', d.status), coalesce(j.attempts, d.attempts), j.due_at, d.last_code, d.last_error,
       d.refs, d.url, d.settings, d.created_at, d.finished_at, d.kind, d.event, d.reason, d.deadline_at, d.overdue_at, d.attempts_pruned";

pub(super) fn delivery_row(row: &SqliteRow) -> Result<Delivery, StoreError> {
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
        attempts_pruned: row.try_get(21)?,
    })
}

pub(super) async fn delivery(pool: &SqlitePool, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
    let mut sql = QueryBuilder::new("select ");
    sql.push(DELIVERY).push(" from deliveries d left join jobs j on j.id = d.id where d.id = ").push_bind(id.uuid());
    let row = sql.build().fetch_optional(pool).await?;
    row.as_ref().map(delivery_row).transpose()
}

pub(super) async fn deliveries_of_batch(pool: &SqlitePool, batch: BatchId) -> Result<Vec<Delivery>, StoreError> {
    let mut sql = QueryBuilder::new("select ");
    sql.push(DELIVERY).push(" from deliveries d left join jobs j on j.id = d.id where d.batch_id = ").push_bind(batch.uuid());
    sql.push(" order by d.position");
    sql.build().fetch_all(pool).await?.iter().map(delivery_row).collect()
}

pub(super) async fn attempts(pool: &SqlitePool, delivery: DeliveryId) -> Result<Vec<Attempt>, StoreError> {
    sqlx::query(ATTEMPTS).bind(delivery.uuid()).fetch_all(pool).await?.iter().map(attempt_row).collect()
}
const ATTEMPTS: &str = "
select id, delivery_id, no, started_at, duration_ms, outcome, counted, code, message, exchanges, plugin, correlation, node,
       operation
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
        operation: row.try_get(13)?,
    })
}

/// The statements of readers with a constant text, for the check of their plans.
#[cfg(test)]
pub(super) const READS: &[&str] = &[LEAD, LEAD_BY_EXTERNAL_ID, BATCH, BATCHES_OF_LEAD, ATTEMPTS];
