//! Intake: everything that one 202 promises.
//!
//! The writer is alone, so what was read a moment ago in its transaction still holds: duplicates are decided here.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rusqlite::params;

use super::answers;
use super::extras;
use super::search;
use super::words::Word;
use super::writer::Tx;
use crate::fault::{self, Point};
use crate::model::{BatchCounts, BatchId, BatchOptions, Change, DeliveryKind, DeliveryStatus, Lead, LeadId, LeadStatus, Timestamp};
use crate::policy::batch_status::batch_status;
use crate::store::{Accepted, AnswerOf, DedupKey, Idempotency, Intake, NewDelivery, StoreError, Written};

/// What an intake is answered.
pub(super) type Answer = Written<Accepted>;

/// An intake made ready outside the writer: the lead is already JSON.
pub(super) struct Accepting {
    lead: Arc<Lead>,
    payload: String,
    /// What the lead is found by at once.
    contacts: Vec<String>,
    options: String,
    status: LeadStatus,
    dedup: Option<DedupKey>,
    batch: BatchId,
    deliveries: Vec<NewDelivery>,
    correlation: String,
    idempotency: Option<(Idempotency, AnswerOf)>,
    extras: extras::Prepared,
    /// Its jobs wait in the bulk lanes.
    bulk: bool,
}

impl Accepting {
    /// A lead that a task sends again.
    pub(super) fn in_bulk(intake: Intake) -> Result<Self, StoreError> {
        Ok(Self { bulk: true, ..Self::new(intake)? })
    }

    pub(super) fn new(intake: Intake) -> Result<Self, StoreError> {
        let Intake { lead, status, dedup, batch, options, deliveries, correlation, idempotency, extras } = intake;
        let not_json = |error: serde_json::Error| StoreError::Defect(format!("a lead cannot be written: {error}"));
        let payload = serde_json::to_string(&lead).map_err(not_json)?;
        let extras = extras::Prepared::new(extras, &options, &deliveries)?;
        let options = options_json(&options)?;
        let contacts = crate::policy::search::contacts(&lead);
        let lead = Arc::new(lead);
        Ok(Self { lead, payload, contacts, options, status, dedup, batch, deliveries, correlation, idempotency, extras, bulk: false })
    }

    /// The time of the intake: that of the batch, since a lead that is sent again is older.
    fn now(&self) -> Timestamp {
        super::walk::time_of(self.batch.uuid())
    }
}

fn options_json(options: &BatchOptions) -> Result<String, StoreError> {
    serde_json::to_string(options).map_err(|error| StoreError::Defect(format!("options cannot be written: {error}")))
}

/// Takes them all, in order. The inner results are refusals of single ones.
pub(super) fn run(tx: &mut Tx, group: &[Accepting]) -> Result<Vec<Result<Answer, StoreError>>, StoreError> {
    let mut results = Vec::with_capacity(group.len());
    for accepting in group {
        match one(tx, accepting) {
            Err(error) if !super::error::is_refusal(&error) => return Err(error),
            result => results.push(result),
        }
    }
    Ok(results)
}

/// A refusal comes before the first write.
fn one(tx: &mut Tx, one: &Accepting) -> Result<Answer, StoreError> {
    let now = one.now();
    if let Some((key, _)) = &one.idempotency
        && let Some(written) = answers::find(&tx.db, key, now)?
    {
        return Ok(written);
    }
    if one.extras.again && tx.db.first(IS_THERE, params![one.lead.id.uuid()], |_| Ok(()))?.is_none() {
        return Ok(Written::New(Accepted::Gone));
    }
    let accepted = match duplicate(tx, one, now)? {
        Some(first) => {
            let notes = one.extras.notes();
            if notes > 0 && tx.backlog + notes > tx.max_backlog {
                return Err(StoreError::Overloaded { backlog: tx.backlog });
            }
            let count = super::prune::note_repeat(tx, first, now)?;
            extras::note(tx, first, &one.extras, &one.correlation, count, now)?;
            Accepted::Duplicate { of: first }
        }
        None => {
            let jobs = one.deliveries.len() as u64;
            if jobs > 0 && tx.backlog + jobs > tx.max_backlog {
                return Err(StoreError::Overloaded { backlog: tx.backlog });
            }
            write(tx, one, now)?;
            tell(tx, one, now);
            tx.jobs_added(jobs);
            extras::write(tx, one.batch, &one.extras, now)?;
            fault::pass(Point::AcceptJobs);
            tx.leads.put(one.lead.clone(), one.payload.len());
            Accepted::New
        }
    };
    if let Some((key, answer_of)) = &one.idempotency {
        // The caller's code runs inside the writer: should it panic, only its own request fails.
        let answer = catch_unwind(AssertUnwindSafe(|| answer_of(&accepted)))
            .map_err(|_| StoreError::Defect("the answer to keep could not be made".to_owned()))?;
        answers::keep(&tx.db, key, &answer)?;
    }
    Ok(Written::New(accepted))
}

fn duplicate(tx: &Tx, one: &Accepting, now: Timestamp) -> Result<Option<LeadId>, StoreError> {
    let Some(key) = &one.dedup else { return Ok(None) };
    let params = params![one.lead.project.uuid(), key.hash, now.as_millis()];
    tx.db.first(FIND_DUPLICATE, params, |row| Ok(LeadId::from_uuid(row.get(0)?)))
}

const IS_THERE: &str = "select 1 from leads where id = ?1";

const FIND_DUPLICATE: &str = "select lead_id from dedup where project_id = ?1 and hash = ?2 and expires_at > ?3";

fn write(tx: &Tx, one: &Accepting, now: Timestamp) -> Result<(), StoreError> {
    let Accepting { lead, deliveries, correlation, .. } = one;
    let (lead_id, project, batch, created_at) = (lead.id.uuid(), lead.project.uuid(), one.batch.uuid(), now.as_millis());
    tx.db.run(INSERT_LEAD, params![lead_id, project, batch, lead.entity, lead.external_id, one.status.word(), created_at, one.payload])?;
    fault::pass(Point::AcceptLead);
    search::write(tx, lead_id, &one.contacts)?;
    // A batch without deliveries has ended as it begins.
    let total = deliveries.len() as u32;
    let status = batch_status(&BatchCounts { total, pending: total, ..BatchCounts::default() }).word();
    let finished_at = (total == 0).then_some(created_at);
    tx.db.run(INSERT_BATCH, params![batch, lead_id, project, total, status, one.options, correlation, created_at, finished_at])?;
    for (position, delivery) in deliveries.iter().enumerate() {
        let (id, credential) = (delivery.id.uuid(), delivery.credential_id.uuid());
        let settings = delivery.settings.as_ref().map(super::to_json).transpose()?;
        tx.db.run(
            INSERT_DELIVERY,
            params![id, batch, lead_id, project, credential, position as i64, delivery.channel, settings, created_at],
        )?;
        let lane = if one.bulk { delivery.credential_id.bulk_lane() } else { delivery.credential_id };
        tx.db.run(INSERT_JOB, params![id, lane.uuid(), delivery.due_at.as_millis(), batch, lead_id, correlation, settings])?;
    }
    if let Some(key) = &one.dedup {
        tx.db.run(INSERT_DEDUP, params![project, key.hash, lead_id, key.expires_at.as_millis()])?;
    }
    Ok(())
}

fn tell(tx: &mut Tx, one: &Accepting, now: Timestamp) {
    let (lead, project, batch) = (one.lead.id, one.lead.project, one.batch);
    tx.tell(now, project, &Change::Lead { lead, batch, status: one.status });
    let total = one.deliveries.len() as u32;
    let counts = BatchCounts { total, pending: total, ..BatchCounts::default() };
    tx.tell(now, project, &Change::Batch { batch, lead, status: batch_status(&counts), counts });
    for delivery in &one.deliveries {
        let change = Change::Delivery {
            delivery: delivery.id,
            batch,
            lead,
            credential: delivery.credential_id,
            channel: Cow::Borrowed(&delivery.channel),
            kind: DeliveryKind::Lead,
            status: DeliveryStatus::Queued,
            due_at: Some(delivery.due_at),
            retry: false,
            code: None,
        };
        tx.tell(now, project, &change);
    }
}

/// A lead that is there already is being sent again.
const INSERT_LEAD: &str = "
insert into leads (id, project_id, batch_id, entity, external_id, status, created_at, payload) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
    on conflict (id) do update set status = excluded.status, batch_id = excluded.batch_id";

const INSERT_BATCH: &str = "
insert into batches (id, lead_id, project_id, total, pending, status, options, correlation, created_at, finished_at)
values (?1, ?2, ?3, ?4, ?4, ?5, ?6, ?7, ?8, ?9)";

const INSERT_DELIVERY: &str = "
insert into deliveries (id, batch_id, lead_id, project_id, credential_id, position, channel, status, settings, created_at)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'queued', ?8, ?9)";

const INSERT_JOB: &str = "
insert into jobs (id, lane_id, due_at, was_due, batch_id, lead_id, correlation, settings) values (?1, ?2, ?3, ?3, ?4, ?5, ?6, ?7)";

/// What is replaced here has expired: a living one would have made the lead a duplicate.
const INSERT_DEDUP: &str = "insert or replace into dedup (project_id, hash, lead_id, expires_at) values (?1, ?2, ?3, ?4)";

/// The statements on the hot path, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[IS_THERE, FIND_DUPLICATE, INSERT_LEAD, INSERT_BATCH, INSERT_DELIVERY, INSERT_JOB, INSERT_DEDUP];
