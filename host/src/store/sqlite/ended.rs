//! What follows when a batch ends, in the transaction that ends it: its callbacks are queued, once, and the credentials
//! that were given for it are erased.

use serde_json::{Value, json};
use sqlx::Row;

use super::read::time;
use super::to_json;
use super::words::Word;
use super::writer::Tx;
use crate::model::{
    BatchCounts, BatchId, BatchOptions, CredentialId, DeliveryId, DeliveryKind, DeliveryStatus, Event, LeadId, Notice, NoticeKind,
    ProjectId, Timestamp,
};
use crate::policy::batch_status::{batch_status, lead_status};
use crate::policy::callbacks;
use crate::store::{Changed, StoreError};

/// A batch that this transaction ended.
pub(super) struct Ended {
    pub(super) batch: BatchId,
    pub(super) options: BatchOptions,
    pub(super) counts: BatchCounts,
    /// Its callbacks were queued when it ended before.
    pub(super) told: bool,
    pub(super) at: Timestamp,
}

/// Whether anything follows the end of a batch with these options.
pub(super) fn matters(options: &BatchOptions) -> bool {
    !options.callbacks.is_empty() || !options.inline.is_empty() || !options.notify.is_empty()
}

/// Adds to `changed` what [`write`] will do.
pub(super) fn say(options: &BatchOptions, counts: &BatchCounts, told: bool, changed: &mut Changed) {
    changed.erased.clone_from(&options.inline);
    changed.timer = callbacks::ending(counts).is_some_and(|kind| options.notify.contains(&kind));
    if !told {
        changed.queued.extend(callbacks::due(&options.callbacks, counts).map(|(_, callback)| callback.credential));
    }
}

pub(super) async fn write(tx: &mut Tx, endings: &[Ended]) -> Result<(), StoreError> {
    for ended in endings {
        for id in &ended.options.inline {
            super::credentials::delete(tx, *id).await?;
        }
        if !ended.told && !ended.options.callbacks.is_empty() {
            tell(tx, ended).await?;
        }
        if let Some(kind) = callbacks::ending(&ended.counts)
            && ended.options.notify.contains(&kind)
        {
            notify(tx, ended, kind).await?;
        }
    }
    Ok(())
}

async fn tell(tx: &mut Tx, ended: &Ended) -> Result<(), StoreError> {
    let batch = sqlx::query(BATCH).bind(ended.batch.uuid()).fetch_one(&mut tx.conn).await?;
    let about = About {
        batch: ended.batch,
        lead: LeadId::from_uuid(batch.try_get(0)?),
        project: ProjectId::from_uuid(batch.try_get(1)?),
        correlation: batch.try_get(2)?,
        at: ended.at,
    };
    let created_at = time(batch.try_get(3)?);
    let external_id: Option<String> = batch.try_get(4)?;
    let deliveries = outcomes(tx, ended.batch).await?;
    let kind = format!("batch.{}", callbacks::ending(&ended.counts).map_or("pending", NoticeKind::name));
    let due = callbacks::due(&ended.options.callbacks, &ended.counts);
    for (position, (moment, callback)) in due.enumerate() {
        let data = json!({
            "callback": moment.name(), "batch_id": ended.batch, "lead_id": about.lead, "external_id": external_id,
            "status": batch_status(&ended.counts), "lead_status": lead_status(&ended.counts), "total": ended.counts.total,
            "counts": callbacks::counts_json(&ended.counts), "deliveries": deliveries,
            "created_at": created_at, "finished_at": ended.at,
        });
        let event =
            Event { kind: kind.clone(), external_id: ended.batch.to_string(), at: ended.at, data, template: callback.template.clone() };
        let made = Made {
            kind: DeliveryKind::Callback,
            credential: callback.credential,
            channel: &callback.channel,
            settings: callback.settings.as_ref(),
            event: Some(&event),
            reason: None,
            position: ended.counts.total as usize + position,
        };
        insert(tx, &about, made).await?;
    }
    sqlx::query(TOLD).bind(ended.batch.uuid()).execute(&mut tx.conn).await?;
    Ok(())
}

/// Notes the end for the project's rules, with the first delivery that failed.
async fn notify(tx: &mut Tx, ended: &Ended, kind: NoticeKind) -> Result<(), StoreError> {
    let batch = sqlx::query(BATCH).bind(ended.batch.uuid()).fetch_one(&mut tx.conn).await?;
    let lead = LeadId::from_uuid(batch.try_get(0)?);
    let failed = sqlx::query(FAILED).bind(ended.batch.uuid()).fetch_optional(&mut tx.conn).await?;
    let (mut credential, mut why) = (None, None);
    if let Some(row) = &failed {
        credential = Some((CredentialId::from_uuid(row.try_get(0)?), row.try_get(1)?));
        let (code, text): (Option<&str>, Option<&str>) = (row.try_get(2)?, row.try_get(3)?);
        let said: Vec<&str> = code.into_iter().chain(text).collect();
        why = (!said.is_empty()).then(|| said.join(": "));
    }
    let project = ProjectId::from_uuid(batch.try_get(1)?);
    super::notices::note(tx, &Notice { kind, project, batch: ended.batch, lead, credential, why, at: ended.at }).await?;
    Ok(())
}

/// What became of each delivery that the batch counts.
async fn outcomes(tx: &mut Tx, batch: BatchId) -> Result<Vec<Value>, StoreError> {
    let rows = sqlx::query(OUTCOMES).bind(batch.uuid()).fetch_all(&mut tx.conn).await?;
    let outcome = |row: &sqlx::sqlite::SqliteRow| {
        let (id, credential) = (DeliveryId::from_uuid(row.try_get(0)?), CredentialId::from_uuid(row.try_get(2)?));
        let (channel, code): (&str, Option<&str>) = (row.try_get(1)?, row.try_get(4)?);
        let status = DeliveryStatus::read(row.try_get(3)?)?;
        Ok(callbacks::delivery_json(&id.to_string(), channel, &credential.to_string(), status, code))
    };
    rows.iter().map(outcome).collect()
}

/// What deliveries made by the host belong to.
pub(super) struct About {
    pub(super) batch: BatchId,
    pub(super) lead: LeadId,
    pub(super) project: ProjectId,
    pub(super) correlation: String,
    pub(super) at: Timestamp,
}

/// A delivery made by the host, due at once.
pub(super) struct Made<'a> {
    pub(super) kind: DeliveryKind,
    pub(super) credential: CredentialId,
    pub(super) channel: &'a str,
    pub(super) settings: Option<&'a Value>,
    pub(super) event: Option<&'a Event>,
    pub(super) reason: Option<&'a str>,
    pub(super) position: usize,
}

pub(super) async fn insert(tx: &mut Tx, about: &About, made: Made<'_>) -> Result<DeliveryId, StoreError> {
    let id = DeliveryId::new(about.at);
    sqlx::query(INSERT)
        .bind(id.uuid())
        .bind(about.batch.uuid())
        .bind(about.lead.uuid())
        .bind(about.project.uuid())
        .bind(made.credential.uuid())
        .bind(i64::try_from(made.position).unwrap_or(i64::MAX))
        .bind(made.channel.to_owned())
        .bind(made.settings.map(to_json).transpose()?)
        .bind(about.at.as_millis())
        .bind(made.kind.word())
        .bind(made.event.map(to_json).transpose()?)
        .bind(made.reason.map(str::to_owned))
        .bind(about.correlation.clone())
        .execute(&mut tx.conn)
        .await?;
    tx.jobs_added(1);
    Ok(id)
}

const BATCH: &str = "
select b.lead_id, b.project_id, b.correlation, b.created_at, l.external_id
  from batches b cross join leads l on l.id = b.lead_id where b.id = $1";

const OUTCOMES: &str = "
select id, channel, credential_id, status, last_code from deliveries where batch_id = $1 and kind = 'lead' order by position";

const FAILED: &str = "
select credential_id, channel, last_code, last_error from deliveries
 where batch_id = $1 and kind = 'lead' and status in ('failed', 'in_doubt') order by position limit 1";

const TOLD: &str = "update batches set told = 1 where id = $1";

const INSERT: &str = "
insert into deliveries (id, batch_id, lead_id, project_id, credential_id, position, channel, status, settings, created_at, kind, event, reason)
values ($1, $2, $3, $4, $5, $6, $7, 'queued', $8, $9, $10, $11, $12);
insert into jobs (id, lane_id, due_at, was_due, batch_id, lead_id, correlation, settings, kind, event)
values ($1, $5, $9, $9, $2, $3, $13, $8, $10, $11)";

/// The statements that a batch's end may take, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[BATCH, OUTCOMES, FAILED, TOLD, INSERT];
