//! What follows when a batch ends, in the transaction that ends it: its callbacks are queued, once, and the credentials
//! that were given for it are erased.

use std::borrow::Cow;

use rusqlite::{Row, params};
use serde_json::{Value, json};

use super::read::time;
use super::to_json;
use super::words::{Word, word};
use super::writer::Tx;
use crate::fault::{self, Point};
use crate::model::{
    BatchCounts, BatchId, BatchOptions, Change, CredentialId, DeliveryId, DeliveryKind, DeliveryStatus, Event, LeadId, Notice, NoticeKind,
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

pub(super) fn write(tx: &mut Tx, ended: &Ended) -> Result<(), StoreError> {
    for id in &ended.options.inline {
        super::credentials::delete(tx, *id)?;
    }
    fault::pass(Point::EndedCredentials);
    if !ended.told && !ended.options.callbacks.is_empty() {
        tell(tx, ended)?;
    }
    if let Some(kind) = callbacks::ending(&ended.counts)
        && ended.options.notify.contains(&kind)
    {
        notify(tx, ended, kind)?;
        fault::pass(Point::EndedNotified);
    }
    Ok(())
}

/// What is read of a batch that has ended.
struct Batch {
    about: About,
    created_at: Timestamp,
    external_id: Option<String>,
}

fn batch(tx: &Tx, ended: &Ended) -> Result<Batch, StoreError> {
    let found = tx.db.first(BATCH, params![ended.batch.uuid()], |row| {
        let about = About {
            batch: ended.batch,
            lead: LeadId::from_uuid(row.get(0)?),
            project: ProjectId::from_uuid(row.get(1)?),
            correlation: row.get(2)?,
            at: ended.at,
        };
        Ok(Batch { about, created_at: time(row.get(3)?), external_id: row.get(4)? })
    })?;
    found.ok_or_else(|| StoreError::Defect(format!("there is no {}", ended.batch)))
}

fn tell(tx: &mut Tx, ended: &Ended) -> Result<(), StoreError> {
    let Batch { about, created_at, external_id } = batch(tx, ended)?;
    let deliveries = tx.db.all(OUTCOMES, params![ended.batch.uuid()], outcome)?;
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
        insert(tx, &about, made)?;
    }
    fault::pass(Point::EndedCallbacks);
    tx.db.run(TOLD, params![ended.batch.uuid()])?;
    fault::pass(Point::EndedTold);
    Ok(())
}

/// Notes the end for the project's rules, with the first delivery that failed.
fn notify(tx: &mut Tx, ended: &Ended, kind: NoticeKind) -> Result<(), StoreError> {
    let About { project, lead, .. } = batch(tx, ended)?.about;
    let failed = tx.db.first(FAILED, params![ended.batch.uuid()], |row| {
        let (code, text): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
        let said: Vec<String> = code.into_iter().chain(text).collect();
        let why = (!said.is_empty()).then(|| said.join(": "));
        Ok(((CredentialId::from_uuid(row.get(0)?), row.get::<_, String>(1)?), why))
    })?;
    let (credential, why) = failed.map_or((None, None), |(credential, why)| (Some(credential), why));
    super::notices::note(tx, &Notice { kind, project, batch: ended.batch, lead, credential, why, at: ended.at })?;
    Ok(())
}

/// What became of a delivery that the batch counts.
fn outcome(row: &Row<'_>) -> Result<Value, StoreError> {
    let (id, credential) = (DeliveryId::from_uuid(row.get(0)?), CredentialId::from_uuid(row.get(2)?));
    let (channel, code): (String, Option<String>) = (row.get(1)?, row.get(4)?);
    let status: DeliveryStatus = word(row, 3)?;
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

pub(super) fn insert(tx: &mut Tx, about: &About, made: Made<'_>) -> Result<DeliveryId, StoreError> {
    let delivery = DeliveryId::new(about.at);
    let (id, batch, lead, project) = (delivery.uuid(), about.batch.uuid(), about.lead.uuid(), about.project.uuid());
    let (credential, kind, at) = (made.credential.uuid(), made.kind.word(), about.at.as_millis());
    let settings = made.settings.map(to_json).transpose()?;
    let event = made.event.map(to_json).transpose()?;
    let position = i64::try_from(made.position).unwrap_or(i64::MAX);
    tx.db.run(
        INSERT_DELIVERY,
        params![id, batch, lead, project, credential, position, made.channel, settings, at, kind, event, made.reason],
    )?;
    fault::pass(Point::EndedDelivery);
    tx.db.run(INSERT_JOB, params![id, credential, at, batch, lead, about.correlation, settings, kind, event])?;
    tx.jobs_added(1);
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
  from batches b cross join leads l on l.id = b.lead_id where b.id = ?1";

const OUTCOMES: &str = "
select id, channel, credential_id, status, last_code from deliveries where batch_id = ?1 and kind = 'lead' order by position";

const FAILED: &str = "
select credential_id, channel, last_code, last_error from deliveries
 where batch_id = ?1 and kind = 'lead' and status in ('failed', 'in_doubt') order by position limit 1";

const TOLD: &str = "update batches set told = 1 where id = ?1";

const INSERT_DELIVERY: &str = "
insert into deliveries (id, batch_id, lead_id, project_id, credential_id, position, channel, status, settings, created_at, kind, event, reason)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'queued', ?8, ?9, ?10, ?11, ?12)";

const INSERT_JOB: &str = "
insert into jobs (id, lane_id, due_at, was_due, batch_id, lead_id, correlation, settings, kind, event)
values (?1, ?2, ?3, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

/// The statements that a batch's end may take, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[BATCH, OUTCOMES, FAILED, TOLD, INSERT_DELIVERY, INSERT_JOB];
