//! A lead that is removed: whole, with everything that belongs to it.

use rusqlite::params;
use uuid::Uuid;

use super::read::{json, json_column};
use super::search;
use super::words::word;
use super::writer::Tx;
use crate::model::{
    BatchId, BatchOptions, BatchStatus, CredentialId, DeliveryStatus, ErasureCounts, Event, Lead, LeadId, Received, RemoteRef,
    note_received,
};
use crate::policy::dedup;
use crate::store::{Changed, StoreError};

/// What went with leads.
#[derive(Default)]
pub(super) struct Gone {
    pub(super) counts: ErasureCounts,
    /// Credentials that had sent something of them, or may have.
    pub(super) received: Vec<Received>,
    /// Batches of which something was under way.
    pub(super) batches: Vec<Changed>,
}

struct Batch {
    id: BatchId,
    options: BatchOptions,
    status: BatchStatus,
}

struct Delivery {
    id: Uuid,
    credential: CredentialId,
    channel: String,
    status: DeliveryStatus,
    refs: Vec<RemoteRef>,
    /// Queued, and whether it is being sent.
    job: Option<bool>,
    attempts: u64,
    /// An attempt was removed for its age, or holds a request.
    reached: bool,
}

/// Removes a lead. What it was; `None`: there is no such lead.
pub(super) fn remove(tx: &mut Tx, id: LeadId, gone: &mut Gone) -> Result<Option<Lead>, StoreError> {
    let lead: Option<Lead> = tx.db.first(LEAD, params![id.uuid()], |row| json(&row.get::<_, String>(0)?))?;
    let Some(lead) = lead else { return Ok(None) };
    let batches = tx.db.all(BATCHES, params![id.uuid()], |row| {
        Ok(Batch { id: BatchId::from_uuid(row.get(0)?), options: json(&row.get::<_, String>(1)?)?, status: word(row, 2)? })
    })?;
    for batch in batches {
        remove_batch(tx, id, batch, gone)?;
    }
    gone.counts.leads += 1;
    gone.counts.dedup_keys += tx.db.run(DELETE_DEDUP, params![id.uuid()])? as u64;
    gone.counts.contacts += search::remove(tx, &lead)?;
    tx.db.run(DELETE_REPEATS, params![id.uuid()])?;
    tx.db.run(DELETE_LEAD, params![id.uuid()])?;
    tx.leads.remove(id);
    Ok(Some(lead))
}

fn remove_batch(tx: &mut Tx, lead: LeadId, batch: Batch, gone: &mut Gone) -> Result<(), StoreError> {
    // What was told of a lead that came again, with contacts that the lead itself may not have.
    let notes = tx.db.all(NOTES, params![batch.id.uuid()], |row| json::<Event>(&row.get::<_, String>(0)?))?;
    for event in notes.iter().filter(|event| event.kind == dedup::DUPLICATE_EVENT) {
        gone.counts.contacts += search::remove_contacts(tx, lead, &dedup::contacts_of_note(&event.data))?;
    }
    let deliveries = tx.db.all(DELIVERIES, params![batch.id.uuid()], |row| {
        Ok(Delivery {
            id: row.get(0)?,
            credential: CredentialId::from_uuid(row.get(1)?),
            channel: row.get(2)?,
            status: word(row, 3)?,
            refs: json_column(row.get::<_, Option<String>>(4)?.as_deref())?.unwrap_or_default(),
            job: row.get(5)?,
            attempts: row.get::<_, i64>(6)?.max(0) as u64,
            reached: row.get(7)?,
        })
    })?;
    for delivery in deliveries {
        remove_delivery(tx, delivery, gone)?;
    }
    let mut changed = Changed::only(batch.id, lead);
    for credential in &batch.options.inline {
        // Those of a batch that has ended are gone already.
        if tx.db.first(INLINE, params![credential.uuid()], |row| Ok(row.get::<_, bool>(0)?))?.is_some() {
            super::credentials::delete(tx, *credential)?;
            changed.erased.push(*credential);
        }
    }
    if batch.status == BatchStatus::Pending {
        changed.ended = Some(BatchStatus::Cancelled);
    }
    if changed.ended.is_some() || !changed.erased.is_empty() {
        gone.batches.push(changed);
    }
    gone.counts.batches += 1;
    tx.db.run(DELETE_BATCH, params![batch.id.uuid()]).map(drop)
}

fn remove_delivery(tx: &mut Tx, delivery: Delivery, gone: &mut Gone) -> Result<(), StoreError> {
    let id = delivery.id;
    let sending = delivery.job == Some(true);
    if delivery.reached || sending || matches!(delivery.status, DeliveryStatus::Delivered | DeliveryStatus::InDoubt) {
        note_received(&mut gone.received, delivery.credential, &delivery.channel, delivery.refs);
    }
    if delivery.job.is_some() {
        tx.db.run(DELETE_JOB, params![id])?;
        tx.jobs_removed(1);
        *(if sending { &mut gone.counts.sending } else { &mut gone.counts.queued }) += 1;
    }
    gone.counts.deliveries += 1;
    gone.counts.attempts += delivery.attempts;
    for sql in [DELETE_ATTEMPTS, DELETE_TIMERS, DELETE_DELIVERY] {
        tx.db.run(sql, params![id])?;
    }
    Ok(())
}

const LEAD: &str = "select payload from leads where id = ?1";

const BATCHES: &str = "select id, options, status from batches where lead_id = ?1";

const DELIVERIES: &str = "
select d.id, d.credential_id, d.channel, d.status, d.refs, j.sending, (select count(*) from attempts where delivery_id = d.id),
       d.attempts_pruned > 0 or exists (select 1 from attempts where delivery_id = d.id and exchanges is not null)
  from deliveries d left join jobs j on j.id = d.id where d.batch_id = ?1";

const NOTES: &str = "select event from deliveries where batch_id = ?1 and +kind = 'callback' and event is not null";

const INLINE: &str = "select 1 from credentials where id = ?1 and purpose = 'send'";
const DELETE_JOB: &str = "delete from jobs where id = ?1";
const DELETE_ATTEMPTS: &str = "delete from attempts where delivery_id = ?1";
const DELETE_TIMERS: &str = "delete from timers where subject = ?1";
const DELETE_DELIVERY: &str = "delete from deliveries where id = ?1";
const DELETE_BATCH: &str = "delete from batches where id = ?1";
const DELETE_DEDUP: &str = "delete from dedup where lead_id = ?1";
const DELETE_REPEATS: &str = "delete from lead_repeats where lead_id = ?1";
const DELETE_LEAD: &str = "delete from leads where id = ?1";

/// The statements, for the check of their plans.
#[cfg(test)]
pub(super) const ALL: &[&str] = &[
    LEAD,
    BATCHES,
    DELIVERIES,
    NOTES,
    INLINE,
    DELETE_JOB,
    DELETE_ATTEMPTS,
    DELETE_TIMERS,
    DELETE_DELIVERY,
    DELETE_BATCH,
    DELETE_DEDUP,
    DELETE_REPEATS,
    DELETE_LEAD,
];
