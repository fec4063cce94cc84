//! What follows when a batch ends, in the transaction that ends it: its callbacks are queued, once, and the credentials
//! that were given for it are erased.

use std::borrow::Cow;

use serde_json::{Value, json};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::error::Fail;
use super::pool::Conn;
use super::read::{plain, time};
use super::to_json;
use crate::model::{
    BatchCounts, BatchId, BatchOptions, Change, CredentialId, DeliveryId, DeliveryKind, DeliveryStatus, Event, LeadId, Notice, NoticeKind,
    ProjectId, Timestamp,
};
use crate::policy::batch_status::{batch_status, lead_status};
use crate::policy::callbacks;
use crate::store::Changed;
use crate::store::sqlite::words::Word;

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

pub(super) async fn write(tx: &mut Conn, ended: &Ended) -> Result<(), Fail> {
    if !ended.options.inline.is_empty() {
        super::credentials::delete(tx, &ended.options.inline).await?;
    }
    if !ended.told && !ended.options.callbacks.is_empty() {
        tell(tx, ended).await?;
    }
    if let Some(kind) = callbacks::ending(&ended.counts)
        && ended.options.notify.contains(&kind)
    {
        notify(tx, ended, kind).await?;
    }
    Ok(())
}

/// What is read of a batch that has ended.
struct Batch {
    about: About,
    created_at: Timestamp,
    external_id: Option<String>,
}

async fn batch(tx: &mut Conn, ended: &Ended) -> Result<Batch, Fail> {
    let row = tx.first(sqlx::query(BATCH).bind(ended.batch.uuid())).await?;
    let row = row.ok_or_else(|| Fail::defect(format!("there is no {}", ended.batch)))?;
    let about = About {
        batch: ended.batch,
        lead: LeadId::from_uuid(row.try_get(0)?),
        project: ProjectId::from_uuid(row.try_get(1)?),
        correlation: row.try_get(2)?,
        at: ended.at,
    };
    Ok(Batch { about, created_at: time(row.try_get(3)?), external_id: row.try_get(4)? })
}

async fn tell(tx: &mut Conn, ended: &Ended) -> Result<(), Fail> {
    let Batch { about, created_at, external_id } = batch(tx, ended).await?;
    let rows = tx.all(sqlx::query(OUTCOMES).bind(ended.batch.uuid())).await?;
    let deliveries = rows.iter().map(outcome).collect::<Result<Vec<_>, _>>()?;
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
    tx.run(sqlx::query(TOLD).bind(ended.batch.uuid())).await.map(drop)
}

/// Notes the end for the project's rules, with the first delivery that failed.
async fn notify(tx: &mut Conn, ended: &Ended, kind: NoticeKind) -> Result<(), Fail> {
    let About { project, lead, .. } = batch(tx, ended).await?.about;
    let failed = tx.first(sqlx::query(FAILED).bind(ended.batch.uuid())).await?;
    let failed = failed.as_ref().map(failure).transpose()?;
    let (credential, why) = failed.map_or((None, None), |(credential, why)| (Some(credential), why));
    super::notices::note(tx, &Notice { kind, project, batch: ended.batch, lead, credential, why, at: ended.at }).await?;
    Ok(())
}

/// Where a delivery should have gone, and why it did not.
type Failure = ((CredentialId, String), Option<String>);

fn failure(row: &PgRow) -> Result<Failure, Fail> {
    let (code, text): (Option<String>, Option<String>) = (row.try_get(2)?, row.try_get(3)?);
    let said: Vec<String> = code.into_iter().chain(text).collect();
    let why = (!said.is_empty()).then(|| said.join(": "));
    Ok(((CredentialId::from_uuid(row.try_get(0)?), row.try_get(1)?), why))
}

/// What became of a delivery that the batch counts.
fn outcome(row: &PgRow) -> Result<Value, Fail> {
    let (id, credential) = (DeliveryId::from_uuid(row.try_get(0)?), CredentialId::from_uuid(row.try_get(2)?));
    let (channel, code): (String, Option<String>) = (row.try_get(1)?, row.try_get(4)?);
    let status = DeliveryStatus::read(row.try_get(3)?)?;
    Ok(callbacks::delivery_json(&id.to_string(), &channel, &credential.to_string(), status, code.as_deref()))
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

pub(super) async fn insert(tx: &mut Conn, about: &About, made: Made<'_>) -> Result<DeliveryId, Fail> {
    let delivery = DeliveryId::new(about.at);
    let settings = made.settings.map(to_json).transpose()?;
    let event = made.event.map(to_json).transpose()?;
    let query = sqlx::query(INSERT)
        .bind(delivery.uuid())
        .bind(about.batch.uuid())
        .bind(about.lead.uuid())
        .bind(about.project.uuid())
        .bind(made.credential.uuid())
        .bind(i64::try_from(made.position).unwrap_or(i64::MAX))
        .bind(plain(made.channel))
        .bind(settings)
        .bind(about.at.as_millis())
        .bind(made.kind.word())
        .bind(event)
        .bind(made.reason.map(plain))
        .bind(about.correlation.clone());
    tx.run(query).await?;
    tx.jobs += 1;
    let change = Change::Delivery {
        delivery,
        batch: about.batch,
        lead: about.lead,
        credential: made.credential,
        channel: Cow::Borrowed(made.channel),
        kind: made.kind,
        status: DeliveryStatus::Queued,
        due_at: Some(about.at),
        retry: false,
        code: None,
    };
    tx.tell(about.at, about.project, &change);
    Ok(delivery)
}

const BATCH: &str = "
select b.lead_id, b.project_id, b.correlation, b.created_at, l.external_id
  from batches b join leads l on l.id = b.lead_id where b.id = $1";

const OUTCOMES: &str = "
select id, channel, credential_id, status, last_code from deliveries where batch_id = $1 and kind = 'lead' order by position";

const FAILED: &str = "
select credential_id, channel, last_code, last_error from deliveries
 where batch_id = $1 and kind = 'lead' and status in ('failed', 'in_doubt') order by position limit 1";

const TOLD: &str = "update batches set told = true where id = $1";

const INSERT: &str = "
with d as (
    insert into deliveries (id, batch_id, lead_id, project_id, credential_id, position, channel, status, settings, created_at, kind, event, reason)
    values ($1, $2, $3, $4, $5, $6, $7, 'queued', $8, $9, $10, $11, $12))
insert into jobs (id, lane_id, due_at, was_due, batch_id, lead_id, correlation, settings, channel, kind, event)
values ($1, $5, $9, $9, $2, $3, $13, $8, $7, $10, $11)";
