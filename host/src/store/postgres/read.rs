//! What became of leads, and how rows are read.

use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::error::Fail;
use super::pool::Conn;
use crate::model::{
    Attempt, AttemptId, AttemptOutcome, Batch, BatchCounts, BatchId, BatchStatus, CredentialId, Delivery, DeliveryId, DeliveryKind,
    DeliveryStatus, LeadId, LeadRecord, LeadStatus, ProjectId, Timestamp,
};
use crate::store::Page;
use crate::store::sqlite::words::Word;

pub(super) fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

pub(super) fn time_column(row: &PgRow, column: usize) -> Result<Option<Timestamp>, Fail> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(time))
}

pub(super) fn json<T: DeserializeOwned>(text: &str) -> Result<T, Fail> {
    serde_json::from_str(text).map_err(|error| Fail::defect(format!("JSON in a row cannot be read: {error}")))
}

pub(super) fn json_column<T: DeserializeOwned>(text: Option<&str>) -> Result<Option<T>, Fail> {
    text.map(json).transpose()
}

/// A number that is never negative and never large.
pub(super) fn number(row: &PgRow, column: usize) -> Result<u32, Fail> {
    let number: i64 = row.try_get(column)?;
    u32::try_from(number).map_err(|_| Fail::defect(format!("{number} in a row is out of range")))
}

/// The same of a narrow column.
pub(super) fn count(row: &PgRow, column: usize) -> Result<u32, Fail> {
    let number: i32 = row.try_get(column)?;
    u32::try_from(number).map_err(|_| Fail::defect(format!("{number} in a row is out of range")))
}

/// What a plugin noted, whatever it put into it.
pub(super) fn memo(row: &PgRow, column: usize) -> Result<Option<String>, Fail> {
    let bytes: Option<Vec<u8>> = row.try_get(column)?;
    bytes.map(|bytes| String::from_utf8(bytes).map_err(|_| Fail::defect("a memo in a row is no text"))).transpose()
}

/// PostgreSQL's texts cannot hold the character NUL; SQLite's can, and remote sides send what they like.
pub(super) fn plain(text: &str) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text.to_owned() }
}

pub(super) fn plain_option(text: Option<&str>) -> Option<String> {
    text.map(plain)
}

/// Seven columns from `first` on: total, then by state.
pub(super) fn counts(row: &PgRow, first: usize) -> Result<BatchCounts, Fail> {
    Ok(BatchCounts {
        total: count(row, first)?,
        pending: count(row, first + 1)?,
        delivered: count(row, first + 2)?,
        skipped: count(row, first + 3)?,
        failed: count(row, first + 4)?,
        in_doubt: count(row, first + 5)?,
        cancelled: count(row, first + 6)?,
    })
}

/// Reads `limit + 1` rows as a page of `limit`.
pub(super) fn page<T>(rows: Vec<PgRow>, limit: u32, read: impl Fn(&PgRow) -> Result<T, Fail>) -> Result<Page<T>, Fail> {
    let has_more = rows.len() > limit as usize;
    let items = rows.iter().take(limit as usize).map(read).collect::<Result<_, _>>()?;
    Ok(Page { items, has_more })
}

/// The most rows of a page.
pub(super) fn bounded(limit: u32) -> u32 {
    limit.clamp(1, 200)
}

pub(super) fn lead_record(row: &PgRow) -> Result<LeadRecord, Fail> {
    Ok(LeadRecord { lead: json(row.try_get(0)?)?, status: LeadStatus::read(row.try_get(1)?)? })
}

pub(super) async fn lead(conn: &mut Conn, id: LeadId) -> Result<Option<LeadRecord>, Fail> {
    conn.first(sqlx::query(LEAD).bind(id.uuid())).await?.as_ref().map(lead_record).transpose()
}
const LEAD: &str = "select payload, status from leads where id = $1";

pub(super) async fn lead_by_external_id(conn: &mut Conn, project: ProjectId, external_id: &str) -> Result<Option<LeadRecord>, Fail> {
    let query = sqlx::query(LEAD_BY_EXTERNAL_ID).bind(project.uuid()).bind(plain(external_id));
    conn.first(query).await?.as_ref().map(lead_record).transpose()
}
const LEAD_BY_EXTERNAL_ID: &str = "select payload, status from leads where project_id = $1 and external_id = $2 order by id desc limit 1";

pub(super) fn batch_row(row: &PgRow) -> Result<Batch, Fail> {
    Ok(Batch {
        id: BatchId::from_uuid(row.try_get(0)?),
        lead_id: LeadId::from_uuid(row.try_get(1)?),
        project: ProjectId::from_uuid(row.try_get(2)?),
        counts: counts(row, 3)?,
        status: BatchStatus::read(row.try_get(10)?)?,
        options: json(row.try_get(11)?)?,
        created_at: time(row.try_get(12)?),
        finished_at: time_column(row, 13)?,
    })
}

macro_rules! batch_columns {
    () => {
        "b.id, b.lead_id, b.project_id, b.total, b.pending, b.delivered, b.skipped, b.failed, b.in_doubt, b.cancelled, b.status, b.options,
         b.created_at, b.finished_at"
    };
}

macro_rules! batches {
    ($rest:literal) => {
        concat!("select ", batch_columns!(), " from batches b ", $rest)
    };
}
pub(super) const BATCHES: &str = batches!("where b.id = any($1)");

pub(super) async fn batch(conn: &mut Conn, id: BatchId) -> Result<Option<Batch>, Fail> {
    conn.first(sqlx::query(BATCH).bind(id.uuid())).await?.as_ref().map(batch_row).transpose()
}
const BATCH: &str = batches!("where b.id = $1");

pub(super) async fn batches_of_lead(conn: &mut Conn, lead: LeadId) -> Result<Vec<Batch>, Fail> {
    conn.all(sqlx::query(BATCHES_OF_LEAD).bind(lead.uuid())).await?.iter().map(batch_row).collect()
}
const BATCHES_OF_LEAD: &str = batches!("where b.lead_id = $1 order by b.id desc");

/// A job that is `sending` shows as that: the reader needs no clock.
macro_rules! deliveries {
    ($rest:literal) => {
        concat!(
            "select d.id, d.batch_id, d.lead_id, d.project_id, d.credential_id, d.channel,
                    case when j.sending then 'sending' else d.status end, coalesce(j.attempts, d.attempts), j.due_at, d.last_code, d.last_error,
                    d.refs, d.url, d.settings, d.created_at, d.finished_at, d.kind, d.event, d.reason, d.deadline_at, d.overdue_at,
                    d.attempts_pruned
               from deliveries d left join jobs j on j.id = d.id ",
            $rest
        )
    };
}
pub(super) const DELIVERIES: &str = deliveries!("where d.id = any($1)");

pub(super) fn delivery_row(row: &PgRow) -> Result<Delivery, Fail> {
    Ok(Delivery {
        id: DeliveryId::from_uuid(row.try_get(0)?),
        batch_id: BatchId::from_uuid(row.try_get(1)?),
        lead_id: LeadId::from_uuid(row.try_get(2)?),
        project: ProjectId::from_uuid(row.try_get(3)?),
        credential_id: CredentialId::from_uuid(row.try_get(4)?),
        channel: row.try_get(5)?,
        status: DeliveryStatus::read(row.try_get(6)?)?,
        attempts: number(row, 7)?,
        due_at: time_column(row, 8)?,
        last_code: row.try_get(9)?,
        last_error: row.try_get(10)?,
        refs: json_column(row.try_get(11)?)?.unwrap_or_default(),
        url: row.try_get(12)?,
        settings: json_column(row.try_get(13)?)?,
        created_at: time(row.try_get(14)?),
        finished_at: time_column(row, 15)?,
        kind: DeliveryKind::read(row.try_get(16)?)?,
        event: json_column(row.try_get(17)?)?,
        reason: row.try_get(18)?,
        deadline_at: time_column(row, 19)?,
        overdue_at: time_column(row, 20)?,
        attempts_pruned: number(row, 21)?,
    })
}

pub(super) async fn delivery(conn: &mut Conn, id: DeliveryId) -> Result<Option<Delivery>, Fail> {
    conn.first(sqlx::query(DELIVERY).bind(id.uuid())).await?.as_ref().map(delivery_row).transpose()
}
const DELIVERY: &str = deliveries!("where d.id = $1");

pub(super) async fn deliveries_of_batch(conn: &mut Conn, batch: BatchId) -> Result<Vec<Delivery>, Fail> {
    conn.all(sqlx::query(DELIVERIES_OF_BATCH).bind(batch.uuid())).await?.iter().map(delivery_row).collect()
}
const DELIVERIES_OF_BATCH: &str = deliveries!("where d.batch_id = $1 order by d.position");

pub(super) async fn attempts(conn: &mut Conn, delivery: DeliveryId) -> Result<Vec<Attempt>, Fail> {
    conn.all(sqlx::query(ATTEMPTS).bind(delivery.uuid())).await?.iter().map(attempt_row).collect()
}
const ATTEMPTS: &str = "
select id, delivery_id, no, started_at, duration_ms, outcome, counted, code, message, exchanges, plugin, correlation, node,
       operation
  from attempts where delivery_id = $1 order by no";

fn attempt_row(row: &PgRow) -> Result<Attempt, Fail> {
    Ok(Attempt {
        id: AttemptId::from_uuid(row.try_get(0)?),
        delivery_id: DeliveryId::from_uuid(row.try_get(1)?),
        no: number(row, 2)?,
        started_at: time(row.try_get(3)?),
        duration_ms: number(row, 4)?,
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
