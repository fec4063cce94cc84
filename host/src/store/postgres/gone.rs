//! Leads that are removed: whole, with everything that belongs to them.
//!
//! Several at once, in the order of locks that all follow: the keys of duplicates, batches, jobs, leads. Whoever adds something to a
//! lead that is there holds the lead, or one of its batches: once both are locked, nothing more comes to it.

use std::collections::{HashMap, HashSet};

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::error::Fail;
use super::pool::Conn;
use super::read::{json, json_column, plain};
use crate::model::{
    BatchId, BatchOptions, BatchStatus, CredentialId, DeliveryStatus, ErasureCounts, Event, Lead, LeadId, Received, RemoteRef,
    note_received,
};
use crate::policy::{dedup, search};
use crate::store::Changed;
use crate::store::sqlite::words::Word;

/// What went with leads.
#[derive(Default)]
pub(super) struct Gone {
    pub(super) counts: ErasureCounts,
    /// Credentials that had sent something of them, or may have.
    pub(super) received: Vec<Received>,
    /// Batches of which something was under way.
    pub(super) batches: Vec<Changed>,
    pub(super) leads: Vec<Lead>,
}

/// Which of the leads go.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which {
    All,
    /// Those whose newest batch has a smaller id, and of which nothing is under way.
    Idle(Uuid),
}

struct Batch {
    id: BatchId,
    lead: LeadId,
    options: BatchOptions,
    status: BatchStatus,
}

fn batch(row: &PgRow) -> Result<Batch, Fail> {
    let (id, lead) = (BatchId::from_uuid(row.try_get(0)?), LeadId::from_uuid(row.try_get(1)?));
    Ok(Batch { id, lead, options: json(row.try_get(2)?)?, status: BatchStatus::read(row.try_get(3)?)? })
}

struct Delivery {
    id: Uuid,
    lead: LeadId,
    credential: CredentialId,
    channel: String,
    status: DeliveryStatus,
    refs: Vec<RemoteRef>,
    /// Queued, and whether it is being sent.
    job: Option<bool>,
    attempts: u64,
    /// An attempt was removed for its age, or holds a request.
    reached: bool,
    /// What was told of a lead that came again, with contacts that the lead itself may not have.
    note: Option<Event>,
}

fn delivery(row: &PgRow) -> Result<Delivery, Fail> {
    Ok(Delivery {
        id: row.try_get(0)?,
        lead: LeadId::from_uuid(row.try_get(1)?),
        credential: CredentialId::from_uuid(row.try_get(2)?),
        channel: row.try_get(3)?,
        status: DeliveryStatus::read(row.try_get(4)?)?,
        refs: json_column(row.try_get(5)?)?.unwrap_or_default(),
        job: row.try_get(6)?,
        attempts: row.try_get::<i64, _>(7)?.max(0) as u64,
        reached: row.try_get(8)?,
        note: json_column(row.try_get(9)?)?,
    })
}

/// Removes those of these leads that are there and may go.
pub(super) async fn remove(tx: &mut Conn, ids: &[LeadId], which: Which, gone: &mut Gone) -> Result<(), Fail> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    tx.all(sqlx::query(LOCK_DEDUP).bind(ids.clone())).await?;
    let batches = tx.all(sqlx::query(LOCK_BATCHES).bind(ids.clone())).await?;
    let mut batches = batches.iter().map(batch).collect::<Result<Vec<_>, _>>()?;
    let of_batches: Vec<Uuid> = batches.iter().map(|batch| batch.id.uuid()).collect();
    tx.all(sqlx::query(LOCK_JOBS).bind(of_batches.clone())).await?;
    let rows = tx.all(sqlx::query(LOCK_LEADS).bind(ids.clone())).await?;
    let now: i64 = tx.one(sqlx::query(COUNT_BATCHES).bind(ids)).await?.try_get(0)?;
    if now != batches.len() as i64 {
        return Err(Fail::Again("a lead was sent again as it was to be removed".to_owned()));
    }
    let deliveries = tx.all(sqlx::query(DELIVERIES).bind(of_batches)).await?;
    let mut deliveries = deliveries.iter().map(delivery).collect::<Result<Vec<_>, _>>()?;

    let busy: HashSet<LeadId> = deliveries.iter().filter(|one| one.job.is_some()).map(|one| one.lead).collect();
    let mut leads: HashMap<LeadId, Lead> = HashMap::new();
    for row in &rows {
        let (id, newest) = (LeadId::from_uuid(row.try_get(0)?), row.try_get::<Uuid, _>(1)?);
        let goes = match which {
            Which::All => true,
            Which::Idle(before) => newest < before && !busy.contains(&id),
        };
        if goes {
            leads.insert(id, json(row.try_get(2)?)?);
        }
    }
    batches.retain(|batch| leads.contains_key(&batch.lead));
    deliveries.retain(|delivery| leads.contains_key(&delivery.lead));
    let deliveries = note(gone, deliveries);
    remove_deliveries(tx, &deliveries).await?;
    remove_batches(tx, batches, gone).await?;
    remove_leads(tx, leads, &deliveries, gone).await
}

/// Counts them, and who has received something of them.
fn note(gone: &mut Gone, mut deliveries: Vec<Delivery>) -> Vec<Delivery> {
    for one in &mut deliveries {
        let sending = one.job == Some(true);
        if one.reached || sending || matches!(one.status, DeliveryStatus::Delivered | DeliveryStatus::InDoubt) {
            note_received(&mut gone.received, one.credential, &one.channel, std::mem::take(&mut one.refs));
        }
        if one.job.is_some() {
            *(if sending { &mut gone.counts.sending } else { &mut gone.counts.queued }) += 1;
        }
        gone.counts.deliveries += 1;
        gone.counts.attempts += one.attempts;
    }
    deliveries
}

async fn remove_deliveries(tx: &mut Conn, deliveries: &[Delivery]) -> Result<(), Fail> {
    let ids: Vec<Uuid> = deliveries.iter().map(|one| one.id).collect();
    for sql in [DELETE_ATTEMPTS, DELETE_TIMERS, DELETE_DELIVERIES] {
        tx.run(sqlx::query(sql).bind(ids.clone())).await?;
    }
    let jobs = tx.run(sqlx::query(DELETE_JOBS).bind(ids)).await?;
    tx.jobs -= i64::try_from(jobs).unwrap_or(i64::MAX);
    Ok(())
}

async fn remove_batches(tx: &mut Conn, batches: Vec<Batch>, gone: &mut Gone) -> Result<(), Fail> {
    let inline: Vec<CredentialId> = batches.iter().flat_map(|batch| batch.options.inline.iter().copied()).collect();
    let mut there = Vec::new();
    if !inline.is_empty() {
        // Those of a batch that has ended are gone already.
        let rows = tx.all(sqlx::query(INLINE).bind(inline.iter().map(|id| id.uuid()).collect::<Vec<_>>())).await?;
        there = rows.iter().map(|row| Ok(CredentialId::from_uuid(row.try_get(0)?))).collect::<Result<_, Fail>>()?;
        super::credentials::delete(tx, &there).await?;
    }
    tx.run(sqlx::query(DELETE_BATCHES).bind(batches.iter().map(|batch| batch.id.uuid()).collect::<Vec<_>>())).await?;
    for batch in batches {
        let mut changed = Changed::only(batch.id, batch.lead);
        changed.erased = batch.options.inline.iter().copied().filter(|id| there.contains(id)).collect();
        changed.ended = (batch.status == BatchStatus::Pending).then_some(BatchStatus::Cancelled);
        if changed.ended.is_some() || !changed.erased.is_empty() {
            gone.batches.push(changed);
        }
        gone.counts.batches += 1;
    }
    Ok(())
}

async fn remove_leads(tx: &mut Conn, leads: HashMap<LeadId, Lead>, deliveries: &[Delivery], gone: &mut Gone) -> Result<(), Fail> {
    let ids: Vec<Uuid> = leads.keys().map(|id| id.uuid()).collect();
    let (mut keys, mut of) = (Vec::new(), Vec::new());
    let mut found_by = |lead: LeadId, contacts: Vec<String>| {
        of.extend(std::iter::repeat_n(lead.uuid(), contacts.len()));
        keys.extend(contacts.iter().map(|key| plain(key)));
    };
    for one in deliveries {
        if let Some(event) = one.note.as_ref().filter(|event| event.kind == dedup::DUPLICATE_EVENT) {
            found_by(one.lead, dedup::contacts_of_note(&event.data));
        }
    }
    let (mut projects, mut words, mut named) = (Vec::new(), Vec::new(), Vec::new());
    for (id, lead) in &leads {
        found_by(*id, search::contacts(lead));
        // The first is the project's own, which is a column here.
        for word in search::words(lead).into_iter().skip(1) {
            projects.push(lead.project.uuid());
            words.push(word);
            named.push(id.uuid());
        }
    }
    gone.counts.leads += leads.len() as u64;
    gone.counts.dedup_keys += tx.run(sqlx::query(DELETE_DEDUP).bind(ids.clone())).await?;
    gone.counts.contacts += tx.run(sqlx::query(DELETE_CONTACTS).bind(keys).bind(of)).await?;
    // Whoever is bringing their words in at this moment holds these: then the words are there for the next statement.
    tx.run(sqlx::query(DELETE_UNINDEXED).bind(ids.clone())).await?;
    tx.run(sqlx::query(DELETE_WORDS).bind(projects).bind(words).bind(named)).await?;
    tx.run(sqlx::query(DELETE_REPEATS).bind(ids.clone())).await?;
    tx.run(sqlx::query(DELETE_LEADS).bind(ids)).await?;
    gone.leads.extend(leads.into_values());
    Ok(())
}

const LOCK_DEDUP: &str = "select 1 from dedup where lead_id = any($1) order by project_id, hash for update";

const LOCK_BATCHES: &str = "select id, lead_id, options, status from batches where lead_id = any($1) order by id for update";

const LOCK_JOBS: &str =
    "select 1 from jobs where id = any(array(select id from deliveries where batch_id = any($1))) order by id for update";

const LOCK_LEADS: &str = "select id, batch_id, payload from leads where id = any($1) order by id for update";

const COUNT_BATCHES: &str = "select count(*) from batches where lead_id = any($1)";

const DELIVERIES: &str = "
select d.id, d.lead_id, d.credential_id, d.channel, d.status, d.refs, j.sending, (select count(*) from attempts where delivery_id = d.id),
       d.attempts_pruned > 0 or exists (select 1 from attempts where delivery_id = d.id and exchanges is not null),
       case when d.kind = 'callback' then d.event end
  from deliveries d left join jobs j on j.id = d.id where d.batch_id = any($1)";

const INLINE: &str = "select id from credentials where id = any($1) and purpose = 'send'";
const DELETE_JOBS: &str = "delete from jobs where id = any($1)";
const DELETE_ATTEMPTS: &str = "delete from attempts where delivery_id = any($1)";
const DELETE_TIMERS: &str = "delete from timers where subject = any($1)";
const DELETE_DELIVERIES: &str = "delete from deliveries where id = any($1)";
const DELETE_BATCHES: &str = "delete from batches where id = any($1)";
const DELETE_DEDUP: &str = "delete from dedup where lead_id = any($1)";
const DELETE_REPEATS: &str = "delete from lead_repeats where lead_id = any($1)";
const DELETE_UNINDEXED: &str = "delete from leads_unindexed where lead_id = any($1)";
const DELETE_LEADS: &str = "delete from leads where id = any($1)";

const DELETE_CONTACTS: &str = "
delete from lead_contacts c using (select distinct * from unnest($1::text[], $2::uuid[]) as u (key, lead_id)) u
 where c.key = u.key and c.lead_id = u.lead_id";

const DELETE_WORDS: &str = "
delete from lead_words w using unnest($1::uuid[], $2::text[], $3::uuid[]) as u (project_id, word, lead_id)
 where w.project_id = u.project_id and w.word = u.word and w.lead_id = u.lead_id";
