//! Intake: everything that one 202 promises, for a group of leads in a few statements and one transaction.
//!
//! No two of a group may clash ([`Claims`]): a statement cannot write a row twice. What another group or node writes at the same
//! time is met at the unique keys: who comes second waits there, and finds the first one's answer.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use sqlx::Row;
use uuid::Uuid;

use super::answers::Kept;
use super::backlog::{Backlog, Reserved};
use super::error::Fail;
use super::extras;
use super::pool::Conn;
use super::read::{plain, plain_option};
use crate::model::{BatchCounts, BatchId, BatchOptions, Change, DeliveryKind, DeliveryStatus, Lead, LeadId, LeadStatus, Timestamp};
use crate::policy::batch_status::batch_status;
use crate::policy::search;
use crate::store::sqlite::words::Word;
use crate::store::{Accepted, AnswerOf, DedupKey, Idempotency, Intake, NewDelivery, StoreError, StoredAnswer, Written};

/// What an intake is answered.
pub(super) type Answer = Written<Accepted>;

/// An intake made ready outside the transaction: the lead is already JSON.
pub(super) struct Accepting {
    pub(super) lead: Arc<Lead>,
    pub(super) payload: String,
    /// Contacts that the lead is found by.
    contacts: Vec<String>,
    options: String,
    status: LeadStatus,
    dedup: Option<DedupKey>,
    batch: BatchId,
    deliveries: Vec<NewDelivery>,
    settings: Vec<Option<String>>,
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
        let payload = super::to_json(&lead)?;
        let extras = extras::Prepared::new(extras, &options, &deliveries)?;
        let options = options_json(&options)?;
        let contacts = search::contacts(&lead).iter().map(|key| plain(key)).collect();
        let settings = deliveries.iter().map(|one| one.settings.as_ref().map(super::to_json).transpose());
        let settings = settings.collect::<Result<_, _>>()?;
        let lead = Arc::new(lead);
        Ok(Self {
            lead,
            payload,
            contacts,
            options,
            status,
            dedup,
            batch,
            deliveries,
            settings,
            correlation,
            idempotency,
            extras,
            bulk: false,
        })
    }

    /// The time of the intake: that of the batch, since a lead that is sent again is older.
    fn now(&self) -> Timestamp {
        super::walk::time_of(self.batch.uuid())
    }

    fn jobs(&self) -> u64 {
        self.deliveries.len() as u64
    }
}

fn options_json(options: &BatchOptions) -> Result<String, StoreError> {
    serde_json::to_string(options).map_err(|error| StoreError::Defect(format!("options cannot be written: {error}")))
}

/// What the intakes of a group claim; no two may claim the same.
#[derive(Default)]
pub(super) struct Claims {
    leads: HashSet<LeadId>,
    dedup: HashSet<(Uuid, [u8; 32])>,
    scopes: HashSet<[u8; 32]>,
}

impl Claims {
    /// Whether this one may join; then it has.
    pub(super) fn admit(&mut self, one: &Accepting) -> bool {
        let dedup = one.dedup.map(|key| (one.lead.project.uuid(), key.hash));
        let scope = one.idempotency.as_ref().map(|(key, _)| key.scope);
        let clashes = self.leads.contains(&one.lead.id)
            || dedup.is_some_and(|key| self.dedup.contains(&key))
            || scope.is_some_and(|scope| self.scopes.contains(&scope));
        if !clashes {
            self.leads.insert(one.lead.id);
            self.dedup.extend(dedup);
            self.scopes.extend(scope);
        }
        !clashes
    }
}

/// One intake on its way through the group.
struct Place<'a> {
    one: &'a Accepting,
    now: Timestamp,
    /// Room in the queue. `None`: there is none, so it is refused unless it was there before.
    room: Option<Reserved<'a>>,
    answer: Option<Result<Answer, StoreError>>,
}

impl Place<'_> {
    fn is_open(&self) -> bool {
        self.answer.is_none()
    }
}

/// Takes them all; the inner results are refusals of single ones. The group's claims must not clash. The room it took in the
/// queue is given back when the second part of the answer is dropped, which is to be done after the commit.
pub(super) async fn run<'a>(
    tx: &mut Conn,
    backlog: &'a Backlog,
    group: &[&'a Accepting],
) -> Result<(Vec<Result<Answer, StoreError>>, Vec<Reserved<'a>>), Fail> {
    let mut places: Vec<Place<'a>> =
        group.iter().map(|one| Place { one, now: one.now(), room: backlog.reserve(one.jobs()), answer: None }).collect();
    find_answers(tx, &mut places).await?;
    find_gone(tx, &mut places).await?;
    claim(tx, &mut places).await?;
    for place in places.iter_mut().filter(|place| place.is_open() && place.room.is_none()) {
        place.answer = Some(Err(StoreError::Overloaded { backlog: backlog.now() }));
    }
    for place in &mut places {
        if let Some(Ok(Written::New(Accepted::Duplicate { .. }))) = place.answer {
            place.room = backlog.reserve(place.one.extras.notes());
            if place.room.is_none() {
                place.answer = Some(Err(StoreError::Overloaded { backlog: backlog.now() }));
            }
        }
    }
    let mut kept = Vec::new();
    for place in &mut places {
        let accepted = match &place.answer {
            None => Accepted::New,
            Some(Ok(Written::New(accepted @ Accepted::Duplicate { .. }))) => *accepted,
            Some(_) => continue,
        };
        if let Some((key, answer_of)) = &place.one.idempotency {
            // The caller's code runs inside the transaction: should it panic, only its own request fails.
            let answer = catch_unwind(AssertUnwindSafe(|| answer_of(&accepted)));
            kept.push((key, answer.map_err(|_| Fail::defect("the answer to keep could not be made"))?, place.now));
        }
    }
    let new: Vec<&Place<'_>> = places.iter().filter(|place| place.is_open()).collect();
    write(tx, &new, &kept).await?;
    note(tx, &places).await?;
    for place in &mut places {
        place.answer.get_or_insert(Ok(Written::New(Accepted::New)));
    }
    let (answers, rooms): (Vec<_>, Vec<_>) = places.into_iter().map(|place| (place.answer, place.room)).unzip();
    Ok((answers.into_iter().flatten().collect(), rooms.into_iter().flatten().collect()))
}

/// Answers kept for requests that were done before.
async fn find_answers(tx: &mut Conn, places: &mut [Place<'_>]) -> Result<(), Fail> {
    let scopes: Vec<Vec<u8>> =
        places.iter().filter_map(|place| place.one.idempotency.as_ref()).map(|(key, _)| key.scope.to_vec()).collect();
    if scopes.is_empty() {
        return Ok(());
    }
    let rows = tx.all(sqlx::query(FIND_ANSWERS).bind(scopes)).await?;
    let mut found = HashMap::new();
    for row in &rows {
        found.insert(row.try_get::<Vec<u8>, _>(0)?, (row.try_get::<i64, _>(1)?, row));
    }
    for place in places {
        if let Some((key, _)) = &place.one.idempotency
            && let Some((expires_at, row)) = found.get(key.scope.as_slice())
            && *expires_at > place.now.as_millis()
        {
            place.answer = Some(Ok(Kept::read(row, 2)?.written(key)));
        }
    }
    Ok(())
}

const FIND_ANSWERS: &str = "select scope, expires_at, body_hash, status, body from idempotency where scope = any($1)";

/// Leads that are sent again and were removed meanwhile. Those that are there stay until the transaction ends.
async fn find_gone(tx: &mut Conn, places: &mut [Place<'_>]) -> Result<(), Fail> {
    let asked = |place: &&mut Place<'_>| place.is_open() && place.one.extras.again;
    let ids: Vec<Uuid> = places.iter_mut().filter(asked).map(|place| place.one.lead.id.uuid()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let there = extras::hold(tx, ids).await?;
    for place in places.iter_mut().filter(asked).filter(|place| !there.contains(&place.one.lead.id)) {
        place.answer = Some(Ok(Written::New(Accepted::Gone)));
    }
    Ok(())
}

/// Notes the leads that came again, in the order of the first ones' ids.
async fn note(tx: &mut Conn, places: &[Place<'_>]) -> Result<(), Fail> {
    let mut again: Vec<(LeadId, &Place<'_>)> = Vec::new();
    for place in places {
        if let Some(Ok(Written::New(Accepted::Duplicate { of }))) = place.answer {
            again.push((of, place));
        }
    }
    if again.is_empty() {
        return Ok(());
    }
    again.sort_by_key(|(first, _)| *first);
    let there = extras::hold(tx, again.iter().map(|(first, _)| first.uuid()).collect()).await?;
    for (first, place) in again.into_iter().filter(|(first, _)| there.contains(first)) {
        let count = super::prune::note_repeat(tx, first, place.now).await?;
        extras::note(tx, first, &place.one.extras, &place.one.correlation, count, place.now).await?;
    }
    Ok(())
}

/// Which of the leads are the first of their kind; the others get the first one's id.
async fn claim(tx: &mut Conn, places: &mut [Place<'_>]) -> Result<(), Fail> {
    // Everybody claims in the same order: who waits for whom never goes round.
    let mut order: Vec<usize> = (0..places.len()).filter(|place| places[*place].is_open() && places[*place].one.dedup.is_some()).collect();
    order.sort_by_key(|place| dedup_key(&places[*place]));
    let claiming: Vec<&Place<'_>> = order.iter().map(|place| &places[*place]).filter(|place| place.room.is_some()).collect();
    let mut won = HashSet::new();
    if let Some(now) = claiming.iter().map(|place| place.now).min() {
        let keys: Vec<DedupKey> = claiming.iter().filter_map(|place| place.one.dedup).collect();
        let query = sqlx::query(CLAIM)
            .bind(claiming.iter().map(|place| place.one.lead.project.uuid()).collect::<Vec<_>>())
            .bind(keys.iter().map(|key| key.hash.to_vec()).collect::<Vec<_>>())
            .bind(claiming.iter().map(|place| place.one.lead.id.uuid()).collect::<Vec<_>>())
            .bind(keys.iter().map(|key| key.expires_at.as_millis()).collect::<Vec<_>>())
            .bind(now.as_millis());
        for row in tx.all(query).await? {
            won.insert((row.try_get::<Uuid, _>(0)?, row.try_get::<Vec<u8>, _>(1)?));
        }
    }
    let lost: Vec<usize> = order.into_iter().filter(|place| !dedup_key(&places[*place]).is_some_and(|key| won.contains(&key))).collect();
    if lost.is_empty() {
        return Ok(());
    }
    let keys: Vec<_> = lost.iter().filter_map(|place| dedup_key(&places[*place])).collect();
    let (projects, hashes): (Vec<Uuid>, Vec<Vec<u8>>) = keys.into_iter().unzip();
    let mut there = HashMap::new();
    for row in tx.all(sqlx::query(FIND_DUPLICATES).bind(projects).bind(hashes)).await? {
        there.insert((row.try_get::<Uuid, _>(0)?, row.try_get::<Vec<u8>, _>(1)?), (row.try_get::<Uuid, _>(2)?, row.try_get::<i64, _>(3)?));
    }
    for place in lost {
        let place = &mut places[place];
        match dedup_key(place).and_then(|key| there.get(&key)) {
            Some((first, expires_at)) if *expires_at > place.now.as_millis() => {
                place.answer = Some(Ok(Written::New(Accepted::Duplicate { of: LeadId::from_uuid(*first) })));
            }
            // It was forgotten between the statements, or is in this moment: the next try claims it. Alone its own time counts.
            _ if place.room.is_some() => return Err(Fail::Again("a lead's key was forgotten at this moment".to_owned())),
            _ => {}
        }
    }
    Ok(())
}

fn dedup_key(place: &Place<'_>) -> Option<(Uuid, Vec<u8>)> {
    place.one.dedup.map(|key| (place.one.lead.project.uuid(), key.hash.to_vec()))
}

const CLAIM: &str = "
insert into dedup as d (project_id, hash, lead_id, expires_at)
select u.project_id, u.hash, u.lead_id, u.expires_at
  from unnest($1::uuid[], $2::bytea[], $3::uuid[], $4::bigint[]) as u (project_id, hash, lead_id, expires_at)
 order by u.project_id, u.hash
on conflict (project_id, hash) do update set lead_id = excluded.lead_id, expires_at = excluded.expires_at where d.expires_at <= $5
returning d.project_id, d.hash";

const FIND_DUPLICATES: &str = "
select d.project_id, d.hash, d.lead_id, d.expires_at
  from dedup d join unnest($1::uuid[], $2::bytea[]) as u (project_id, hash) on d.project_id = u.project_id and d.hash = u.hash";

/// Writes what is new, and the answers to keep.
async fn write(tx: &mut Conn, new: &[&Place<'_>], kept: &[(&Idempotency, StoredAnswer, Timestamp)]) -> Result<(), Fail> {
    if new.is_empty() && kept.is_empty() {
        return Ok(());
    }
    let mut new = new.to_vec();
    new.sort_by_key(|place| place.one.lead.id);
    let kept_now = write_all(tx, &new, kept).await?;
    if kept_now != kept.len() as i64 {
        return Err(Fail::Again("the same request came twice at the same time".to_owned()));
    }
    // What follows an end locks the project: in their order.
    new.sort_by_key(|place| (place.one.lead.project, place.one.lead.id));
    for place in &new {
        tx.jobs += i64::try_from(place.one.jobs()).unwrap_or(i64::MAX);
        tell(tx, place.one, place.now);
        extras::write(tx, place.one.batch, &place.one.extras, place.now).await?;
    }
    Ok(())
}

fn tell(tx: &mut Conn, one: &Accepting, now: Timestamp) {
    let (lead, project, batch) = (one.lead.id, one.lead.project, one.batch);
    tx.tell(now, project, &Change::Lead { lead, batch, status: one.status });
    let total = u32::try_from(one.deliveries.len()).unwrap_or(u32::MAX);
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

fn lane(one: &Accepting, delivery: &NewDelivery) -> Uuid {
    if one.bulk { delivery.credential_id.bulk_lane().uuid() } else { delivery.credential_id.uuid() }
}

/// One statement for the whole group. How many answers are kept now.
async fn write_all(tx: &mut Conn, new: &[&Place<'_>], kept: &[(&Idempotency, StoredAnswer, Timestamp)]) -> Result<i64, Fail> {
    let each = || new.iter().map(|place| place.one);
    let total = |one: &Accepting| u32::try_from(one.deliveries.len()).unwrap_or(u32::MAX);
    // A batch without deliveries has ended as it begins.
    let status = |one: &Accepting| batch_status(&BatchCounts { total: total(one), pending: total(one), ..BatchCounts::default() }).word();
    let finished = |place: &&Place<'_>| place.one.deliveries.is_empty().then_some(place.now.as_millis());
    let deliveries: Vec<_> = (1_i64..)
        .zip(each())
        .flat_map(|(no, one)| {
            one.deliveries.iter().zip(&one.settings).enumerate().map(move |(position, (one_of, set))| (no, position, one_of, set, one))
        })
        .collect();
    let contacts: Vec<_> = each().flat_map(|one| one.contacts.iter().map(|key| (key.clone(), one.lead.id.uuid()))).collect();
    let forgotten = kept.iter().map(|(.., now)| now.as_millis()).min().unwrap_or(0);
    let query = sqlx::query(WRITE)
        .bind(each().map(|one| one.lead.id.uuid()).collect::<Vec<_>>())
        .bind(each().map(|one| one.lead.project.uuid()).collect::<Vec<_>>())
        .bind(each().map(|one| one.batch.uuid()).collect::<Vec<_>>())
        .bind(each().map(|one| plain_option(one.lead.entity.as_deref())).collect::<Vec<_>>())
        .bind(each().map(|one| plain_option(one.lead.external_id.as_deref())).collect::<Vec<_>>())
        .bind(each().map(|one| one.status.word()).collect::<Vec<_>>())
        .bind(new.iter().map(|place| place.now.as_millis()).collect::<Vec<_>>())
        .bind(each().map(|one| one.payload.as_str()).collect::<Vec<_>>())
        .bind(each().map(|one| i32::try_from(total(one)).unwrap_or(i32::MAX)).collect::<Vec<_>>())
        .bind(each().map(status).collect::<Vec<_>>())
        .bind(each().map(|one| one.options.as_str()).collect::<Vec<_>>())
        .bind(each().map(|one| plain(&one.correlation)).collect::<Vec<_>>())
        .bind(new.iter().map(finished).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|(no, ..)| *no).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|(_, position, ..)| i64::try_from(*position).unwrap_or(i64::MAX)).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|(_, _, one, ..)| one.id.uuid()).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|(_, _, one, ..)| one.credential_id.uuid()).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|(_, _, one, ..)| plain(&one.channel)).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|(_, _, one, ..)| one.due_at.as_millis()).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|(_, _, _, settings, _)| settings.as_deref()).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|(.., one)| one.extras.deadline_at.map(Timestamp::as_millis)).collect::<Vec<_>>())
        .bind(contacts.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>())
        .bind(contacts.iter().map(|(_, lead)| *lead).collect::<Vec<_>>())
        .bind(kept.iter().map(|(key, ..)| key.scope.to_vec()).collect::<Vec<_>>())
        .bind(kept.iter().map(|(key, ..)| key.body_hash.to_vec()).collect::<Vec<_>>())
        .bind(kept.iter().map(|(_, answer, _)| i32::from(answer.status)).collect::<Vec<_>>())
        .bind(kept.iter().map(|(_, answer, _)| answer.body.as_slice()).collect::<Vec<_>>())
        .bind(kept.iter().map(|(key, ..)| key.expires_at.as_millis()).collect::<Vec<_>>())
        .bind(forgotten)
        .bind(deliveries.iter().map(|(_, _, delivery, _, one)| lane(one, delivery)).collect::<Vec<_>>());
    Ok(tx.one(query).await?.try_get(0)?)
}

/// A lead that is there already is being sent again. Words are indexed later (`leads_unindexed`).
const WRITE: &str = "
with n as materialized (
    select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[], $9::int[],
                         $10::text[], $11::text[], $12::text[], $13::bigint[])
             with ordinality
             as u (lead_id, project_id, batch_id, entity, external_id, lead_status, created_at, payload, total, status, options, correlation,
                   finished_at, no)),
l as (
    insert into leads (id, project_id, batch_id, entity, external_id, status, created_at, payload)
    select lead_id, project_id, batch_id, entity, external_id, lead_status, created_at, payload from n order by lead_id
    on conflict (id) do update set status = excluded.status, batch_id = excluded.batch_id),
b as (
    insert into batches (id, lead_id, project_id, total, pending, status, options, correlation, created_at, finished_at)
    select batch_id, lead_id, project_id, total, total, status, options, correlation, created_at, finished_at from n),
v as materialized (
    select u.*, n.batch_id, n.lead_id, n.project_id, n.created_at, n.correlation
      from unnest($14::bigint[], $15::bigint[], $16::uuid[], $17::uuid[], $18::text[], $19::bigint[], $20::text[], $21::bigint[],
                  $30::uuid[])
           as u (no, position, id, credential_id, channel, due_at, settings, deadline_at, lane_id)
      join n on n.no = u.no),
d as (
    insert into deliveries (id, batch_id, lead_id, project_id, credential_id, position, channel, status, settings, created_at, deadline_at)
    select id, batch_id, lead_id, project_id, credential_id, position, channel, 'queued', settings, created_at, deadline_at from v),
j as (
    insert into jobs (id, lane_id, due_at, was_due, batch_id, lead_id, correlation, settings, channel, deadline_at)
    select id, lane_id, due_at, due_at, batch_id, lead_id, correlation, settings, channel, deadline_at from v order by id),
c as (
    insert into lead_contacts (key, lead_id) select key, lead_id from unnest($22::text[], $23::uuid[]) as u (key, lead_id) order by key, lead_id
    on conflict do nothing),
w as (
    insert into leads_unindexed (lead_id) select lead_id from n order by lead_id on conflict do nothing),
i as (
    insert into idempotency as i (scope, body_hash, status, body, expires_at)
    select u.scope, u.body_hash, u.status, u.body, u.expires_at
      from unnest($24::bytea[], $25::bytea[], $26::int[], $27::bytea[], $28::bigint[]) as u (scope, body_hash, status, body, expires_at)
     order by u.scope
    on conflict (scope) do update
       set body_hash = excluded.body_hash, status = excluded.status, body = excluded.body, expires_at = excluded.expires_at
     where i.expires_at <= $29
    returning 1)
select count(*) from i";
