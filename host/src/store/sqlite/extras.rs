//! What an intake may carry beside lead and deliveries: credentials for this send, deadlines, fallback rules, and callbacks
//! of a batch that has nothing to send.

use rusqlite::params;
use serde_json::{Value, json};

use super::ended::{self, About, Ended, Made};
use super::read::json_column;
use super::to_json;
use super::writer::Tx;
use crate::model::{BatchCounts, BatchId, BatchOptions, Credential, DeliveryId, DeliveryKind, Event, LeadId, ProjectId, Timestamp};
use crate::policy::dedup;
use crate::store::{DuplicateNote, IntakeExtras, NewDelivery, StoreError};

/// A timer to be set.
struct Timer {
    due_at: Timestamp,
    delivery: DeliveryId,
    kind: &'static str,
    rule: String,
    data: Option<String>,
}

/// Extras made ready outside the writer.
pub(super) struct Prepared {
    credentials: Vec<Credential>,
    deadline_at: Option<Timestamp>,
    timers: Vec<Timer>,
    /// The options of a batch that ends as it begins, when something follows that.
    empty: Option<BatchOptions>,
    /// The lead is sent again.
    pub(super) again: bool,
    note: Option<DuplicateNote>,
    /// The contacts in the note, by which the first lead is found from then on: it holds them.
    contacts: Vec<String>,
}

impl Prepared {
    pub(super) fn new(extras: IntakeExtras, options: &BatchOptions, deliveries: &[NewDelivery]) -> Result<Self, StoreError> {
        let IntakeExtras { credentials, deadline_at, watches, again, note } = extras;
        let mut timers = Vec::new();
        if let Some(due_at) = deadline_at {
            let timer = |delivery: &NewDelivery| Timer { due_at, delivery: delivery.id, kind: "deadline", rule: String::new(), data: None };
            timers.extend(deliveries.iter().map(timer));
        }
        for (rule, watch) in watches.iter().enumerate() {
            let data = Some(to_json(&watch.rule)?);
            timers.push(Timer { due_at: watch.due_at, delivery: watch.delivery, kind: "fallback", rule: rule.to_string(), data });
        }
        let empty = (deliveries.is_empty() && ended::matters(options)).then(|| options.clone());
        let contacts = note.as_ref().map(|note| dedup::contacts_of_note(&Value::Object(note.data.clone()))).unwrap_or_default();
        Ok(Self { credentials, deadline_at, timers, empty, again, note, contacts })
    }
}

/// Writes them, after the batch and its deliveries.
pub(super) fn write(tx: &mut Tx, batch: BatchId, extras: &Prepared, now: Timestamp) -> Result<(), StoreError> {
    for credential in &extras.credentials {
        super::credentials::insert(tx, credential)?;
    }
    if let Some(deadline_at) = extras.deadline_at {
        tx.db.run(DEADLINES, params![batch.uuid(), deadline_at.as_millis()])?;
    }
    for Timer { due_at, delivery, kind, rule, data } in &extras.timers {
        tx.db.run(TIMER, params![due_at.as_millis(), delivery.uuid(), kind, rule, data])?;
    }
    match &extras.empty {
        Some(options) => ended::write(tx, &Ended { batch, options: options.clone(), counts: BatchCounts::default(), told: false, at: now }),
        None => Ok(()),
    }
}

impl Prepared {
    /// Deliveries that a duplicate makes.
    pub(super) fn notes(&self) -> u64 {
        self.note.as_ref().map_or(0, |note| note.to.len() as u64)
    }
}

/// What is read of a lead that came again.
struct First {
    batch: BatchId,
    project: ProjectId,
    external_id: Option<String>,
    created_at: i64,
    /// The last position that is taken in its newest batch.
    position: i64,
}

/// Tells that the lead came again, for the `count`th time.
pub(super) fn note(tx: &mut Tx, first: LeadId, extras: &Prepared, correlation: &str, count: u32, now: Timestamp) -> Result<(), StoreError> {
    let Some(note) = extras.note.as_ref().filter(|_| count <= dedup::MAX_NOTES) else { return Ok(()) };
    let found = tx.db.first(FIRST, params![first.uuid()], |row| {
        let (batch, project) = (BatchId::from_uuid(row.get(0)?), ProjectId::from_uuid(row.get(1)?));
        let position = row.get::<_, Option<i64>>(4)?.unwrap_or(-1);
        Ok(First { batch, project, external_id: row.get(2)?, created_at: row.get(3)?, position })
    })?;
    let Some(First { batch, project, external_id, created_at, position }) = found else { return Ok(()) };
    let about = About { batch, lead: first, project, correlation: correlation.to_owned(), at: now };
    for (n, (credential, channel)) in note.to.iter().enumerate() {
        let sent = tx.db.first(SENT, params![first.uuid(), credential.uuid()], |row| {
            Ok((json_column::<Value>(row.get::<_, Option<String>>(0)?.as_deref())?, row.get::<_, Option<String>>(1)?))
        })?;
        let (refs, url) = sent.unwrap_or_default();
        let mut data = note.data.clone();
        data.extend([
            ("lead_id".to_owned(), json!(first)),
            ("external_id".to_owned(), json!(external_id)),
            ("first_at".to_owned(), json!(Timestamp::from_millis(created_at))),
            ("count".to_owned(), json!(count)),
            ("refs".to_owned(), refs.unwrap_or_else(|| json!([]))),
            ("url".to_owned(), json!(url)),
        ]);
        let kind = dedup::DUPLICATE_EVENT.to_owned();
        let event = Event { kind, external_id: first.to_string(), at: now, data: Value::Object(data), template: None };
        let made = Made {
            kind: DeliveryKind::Callback,
            credential: *credential,
            channel,
            settings: None,
            event: Some(&event),
            reason: Some("the same lead came again"),
            position: usize::try_from(position + 1).unwrap_or(0) + n,
        };
        ended::insert(tx, &about, made)?;
    }
    super::search::add_contacts(tx, first, &extras.contacts)
}

const FIRST: &str = "
select batch_id, project_id, external_id, created_at, (select max(position) from deliveries where batch_id = leads.batch_id)
  from leads where id = ?1";

/// What the remote side said of the first lead when it took it.
const SENT: &str = "
select d.refs, d.url from batches b cross join deliveries d on d.batch_id = b.id
 where b.lead_id = ?1 and +d.credential_id = ?2 and +d.kind in ('lead', 'fallback') and +d.status = 'delivered' limit 1";

const DEADLINES: &str = "update deliveries set deadline_at = ?2 where batch_id = ?1";
const TIMER: &str = "insert into timers (due_at, subject, kind, rule, data) values (?1, ?2, ?3, ?4, ?5)";

/// The statements, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[DEADLINES, TIMER, FIRST, SENT];
