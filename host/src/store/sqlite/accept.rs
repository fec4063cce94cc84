//! Intake: everything that one 202 promises, for all leads that arrived together.
//!
//! The writer is alone, so what was read a moment ago in its transaction still holds: duplicates are decided here, in
//! Rust, and the rows then travel in one statement each.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use sqlx::Row;
use uuid::Uuid;

use super::answers::{self, Kept};
use super::extras;
use super::pack::Rows;
use super::words::Word;
use super::writer::Tx;
use crate::model::{BatchCounts, BatchId, BatchOptions, Lead, LeadId, LeadStatus, Timestamp};
use crate::policy::batch_status::batch_status;
use crate::store::{Accepted, AnswerOf, DedupKey, Idempotency, Intake, NewDelivery, StoreError, Written};

/// What an intake is answered.
pub(super) type Answer = Written<Accepted>;

/// An intake made ready outside the writer: the lead is already JSON.
pub(super) struct Accepting {
    lead: Arc<Lead>,
    payload: Vec<u8>,
    options: String,
    status: LeadStatus,
    dedup: Option<DedupKey>,
    batch: BatchId,
    deliveries: Vec<NewDelivery>,
    correlation: String,
    idempotency: Option<(Idempotency, AnswerOf)>,
    extras: extras::Prepared,
}

impl Accepting {
    pub(super) fn new(intake: Intake) -> Result<Self, StoreError> {
        let Intake { lead, status, dedup, batch, options, deliveries, correlation, idempotency, extras } = intake;
        let not_json = |error: serde_json::Error| StoreError::Defect(format!("a lead cannot be written: {error}"));
        let payload = serde_json::to_vec(&lead).map_err(not_json)?;
        let extras = extras::Prepared::new(extras, &options, &deliveries)?;
        let options = options_json(&options)?;
        Ok(Self { lead: Arc::new(lead), payload, options, status, dedup, batch, deliveries, correlation, idempotency, extras })
    }

    /// The time of the intake: that of the batch, since a lead that is sent again is older.
    fn now(&self) -> i64 {
        let (seconds, nanos) = self.batch.uuid().get_timestamp().map_or((0, 0), |at| at.to_unix());
        i64::try_from(seconds).unwrap_or(i64::MAX / 2_000) * 1_000 + i64::from(nanos / 1_000_000)
    }
}

fn options_json(options: &BatchOptions) -> Result<String, StoreError> {
    serde_json::to_string(options).map_err(|error| StoreError::Defect(format!("options cannot be written: {error}")))
}

/// Takes them all, in order. The inner results are refusals of single ones.
pub(super) async fn run(tx: &mut Tx, group: &[Accepting]) -> Result<Vec<Result<Answer, StoreError>>, StoreError> {
    let mut kept = answers::find(tx, group.iter().filter_map(|one| Some((&one.idempotency.as_ref()?.0, one.now())))).await?;
    let mut known = duplicates(tx, group).await?;
    let mut writes = Writes::default();
    let mut results = Vec::with_capacity(group.len());
    for one in group {
        let result = decide(tx, one, &mut kept, &mut known, &mut writes);
        match result {
            Err(error) if !super::error::is_refusal(&error) => return Err(error),
            result => results.push(result),
        }
    }
    writes.run(tx).await?;
    for (one, result) in group.iter().zip(&results) {
        if let (Ok(Written::New(Accepted::New)), false) = (result, one.extras.is_empty()) {
            extras::write(tx, one.batch, &one.extras, Timestamp::from_millis(one.now())).await?;
        }
    }
    Ok(results)
}

/// First leads by project and dedup key.
type Known = HashMap<(Uuid, [u8; 32]), LeadId>;

fn decide(
    tx: &mut Tx,
    one: &Accepting,
    kept: &mut HashMap<[u8; 32], Kept>,
    known: &mut Known,
    writes: &mut Writes,
) -> Result<Answer, StoreError> {
    if let Some((key, _)) = &one.idempotency
        && let Some(found) = kept.get(&key.scope)
    {
        return Ok(found.written(key));
    }
    let dedup = one.dedup.map(|key| (one.lead.project.uuid(), key.hash));
    let accepted = match dedup.and_then(|key| known.get(&key)) {
        Some(first) => Accepted::Duplicate { of: *first },
        None => {
            let jobs = one.deliveries.len() as u64;
            if jobs > 0 && tx.backlog + jobs > tx.max_backlog {
                return Err(StoreError::Overloaded { backlog: tx.backlog });
            }
            if let Some(key) = dedup {
                known.insert(key, one.lead.id);
            }
            writes.lead(one)?;
            tx.jobs_added(jobs);
            tx.leads.put(one.lead.clone(), one.payload.len());
            Accepted::New
        }
    };
    if let Some((key, answer_of)) = &one.idempotency {
        // The caller's code runs inside the writer: should it panic, only its own request fails.
        let answer = catch_unwind(AssertUnwindSafe(|| answer_of(&accepted)))
            .map_err(|_| StoreError::Defect("the answer to keep could not be made".to_owned()))?;
        answers::push(&mut writes.answers, key, &answer)?;
        kept.insert(key.scope, Kept { body_hash: key.body_hash, answer });
    }
    Ok(Written::New(accepted))
}

async fn duplicates(tx: &mut Tx, group: &[Accepting]) -> Result<Known, StoreError> {
    let mut rows = Rows::default();
    for one in group {
        if let Some(key) = &one.dedup {
            rows.push_bytes(&[one.lead.project.uuid().as_bytes().as_slice(), &key.hash].concat(), &one.now())?;
        }
    }
    let mut known = Known::new();
    if rows.is_empty() {
        return Ok(known);
    }
    let (json, keys, _) = rows.take();
    for row in sqlx::query(FIND_DUPLICATES).bind(json).bind(keys).fetch_all(&mut tx.conn).await? {
        let hash: Vec<u8> = row.try_get(1)?;
        let hash = hash.try_into().map_err(|_| StoreError::Defect("a dedup key is not 32 bytes".to_owned()))?;
        known.insert((row.try_get(0)?, hash), LeadId::from_uuid(row.try_get(2)?));
    }
    Ok(known)
}

const FIND_DUPLICATES: &str = "
select d.project_id, d.hash, d.lead_id
  from json_each($1) r
  cross join dedup d on d.project_id = substr($2, 48 * r.key + 1, 16) and d.hash = substr($2, 48 * r.key + 17, 32)
 where d.expires_at > r.value";

/// The rows of a group.
#[derive(Default)]
struct Writes {
    leads: Rows,
    deliveries: Rows,
    dedup: Rows,
    answers: Rows,
}

impl Writes {
    fn lead(&mut self, one: &Accepting) -> Result<(), StoreError> {
        let Accepting { lead, deliveries, correlation, .. } = one;
        let created_at = one.now();
        let (start, len) = self.leads.aside(&one.payload);
        let total = deliveries.len();
        // A batch without deliveries has ended as it begins.
        let counts = BatchCounts { total: total as u32, pending: total as u32, ..BatchCounts::default() };
        let status = batch_status(&counts).word();
        let finished_at = (total == 0).then_some(created_at);
        self.leads.push(
            &[lead.id.uuid(), lead.project.uuid(), one.batch.uuid()],
            &(
                (&lead.entity, &lead.external_id, one.status.word(), created_at, start, len),
                (total, status, &one.options, correlation, finished_at),
            ),
        )?;
        for (position, delivery) in deliveries.iter().enumerate() {
            let ids = [delivery.id.uuid(), one.batch.uuid(), lead.id.uuid(), lead.project.uuid(), delivery.credential_id.uuid()];
            let settings = delivery.settings.as_ref();
            let columns = (position, &delivery.channel, settings, created_at, delivery.due_at.as_millis(), correlation);
            self.deliveries.push(&ids, &columns)?;
        }
        if let Some(key) = &one.dedup {
            let packed = [lead.project.uuid().as_bytes().as_slice(), &key.hash, lead.id.uuid().as_bytes()].concat();
            self.dedup.push_bytes(&packed, &key.expires_at.as_millis())?;
        }
        Ok(())
    }

    async fn run(mut self, tx: &mut Tx) -> Result<(), StoreError> {
        if !self.leads.is_empty() {
            let (json, ids, payloads) = self.leads.take();
            sqlx::query(INSERT_LEADS).bind(json).bind(ids).bind(payloads).execute(&mut tx.conn).await?;
        }
        if !self.deliveries.is_empty() {
            let (json, ids, _) = self.deliveries.take();
            sqlx::query(INSERT_DELIVERIES).bind(json).bind(ids).execute(&mut tx.conn).await?;
        }
        if !self.dedup.is_empty() {
            let (json, keys, _) = self.dedup.take();
            sqlx::query(INSERT_DEDUP).bind(json).bind(keys).execute(&mut tx.conn).await?;
        }
        answers::keep(tx, self.answers).await
    }
}

/// `$2` holds lead, project and batch id of each row.
const INSERT_LEADS: &str = "
insert into leads (id, project_id, batch_id, entity, external_id, status, created_at, payload)
select substr($2, 48 * r.key + 1, 16), substr($2, 48 * r.key + 17, 16), substr($2, 48 * r.key + 33, 16),
       r.value ->> '$[0][0]', r.value ->> '$[0][1]', r.value ->> '$[0][2]', r.value ->> '$[0][3]',
       cast(substr($3, 1 + (r.value ->> '$[0][4]'), r.value ->> '$[0][5]') as text)
  from json_each($1) r
 where true
    on conflict (id) do update set status = excluded.status, batch_id = excluded.batch_id;
insert into batches (id, lead_id, project_id, total, pending, status, options, correlation, created_at, finished_at)
select substr($2, 48 * r.key + 33, 16), substr($2, 48 * r.key + 1, 16), substr($2, 48 * r.key + 17, 16),
       r.value ->> '$[1][0]', r.value ->> '$[1][0]', r.value ->> '$[1][1]', r.value ->> '$[1][2]', r.value ->> '$[1][3]',
       r.value ->> '$[0][3]', r.value ->> '$[1][4]'
  from json_each($1) r";

/// `$2` holds delivery, batch, lead, project and credential id of each row.
const INSERT_DELIVERIES: &str = "
insert into deliveries (id, batch_id, lead_id, project_id, credential_id, position, channel, status, settings, created_at)
select substr($2, 80 * r.key + 1, 16), substr($2, 80 * r.key + 17, 16), substr($2, 80 * r.key + 33, 16),
       substr($2, 80 * r.key + 49, 16), substr($2, 80 * r.key + 65, 16),
       r.value ->> 0, r.value ->> 1, 'queued', r.value ->> 2, r.value ->> 3
  from json_each($1) r;
insert into jobs (id, lane_id, due_at, was_due, batch_id, lead_id, correlation, settings)
select substr($2, 80 * r.key + 1, 16), substr($2, 80 * r.key + 65, 16), r.value ->> 4, r.value ->> 4,
       substr($2, 80 * r.key + 17, 16), substr($2, 80 * r.key + 33, 16), r.value ->> 5, r.value ->> 2
  from json_each($1) r";

/// What is replaced here has expired: a living one would have made the lead a duplicate.
const INSERT_DEDUP: &str = "
insert or replace into dedup (project_id, hash, lead_id, expires_at)
select substr($2, 64 * r.key + 1, 16), substr($2, 64 * r.key + 17, 32), substr($2, 64 * r.key + 49, 16), r.value
  from json_each($1) r";

/// The statements on the hot path, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[FIND_DUPLICATES, INSERT_LEADS, INSERT_DELIVERIES, INSERT_DEDUP];
