//! What an intake may carry beside lead and deliveries: credentials for this send, deadlines, fallback rules, and callbacks
//! of a batch that has nothing to send.

use std::collections::HashSet;

use serde_json::{Value, json};
use sqlx::Row;
use uuid::Uuid;

use super::ended::{self, About, Ended, Made};
use super::error::Fail;
use super::pool::Conn;
use super::read::{json_column, plain};
use super::to_json;
use crate::model::{BatchCounts, BatchId, BatchOptions, Credential, DeliveryKind, Event, LeadId, ProjectId, Timestamp};
use crate::policy::dedup;
use crate::store::{DuplicateNote, IntakeExtras, NewDelivery, StoreError};

/// A timer to be set.
struct Timer {
    due_at: i64,
    delivery: Uuid,
    kind: &'static str,
    rule: String,
    data: Option<String>,
}

/// Extras made ready outside the transaction.
pub(super) struct Prepared {
    credentials: Vec<Credential>,
    pub(super) deadline_at: Option<Timestamp>,
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
        if let Some(due_at) = deadline_at.map(Timestamp::as_millis) {
            let timer =
                |delivery: &NewDelivery| Timer { due_at, delivery: delivery.id.uuid(), kind: "deadline", rule: String::new(), data: None };
            timers.extend(deliveries.iter().map(timer));
        }
        for (rule, watch) in watches.iter().enumerate() {
            let data = Some(to_json(&watch.rule)?);
            let (due_at, delivery) = (watch.due_at.as_millis(), watch.delivery.uuid());
            timers.push(Timer { due_at, delivery, kind: "fallback", rule: rule.to_string(), data });
        }
        let empty = (deliveries.is_empty() && ended::matters(options)).then(|| options.clone());
        let contacts = note.as_ref().map(|note| dedup::contacts_of_note(&Value::Object(note.data.clone()))).unwrap_or_default();
        Ok(Self { credentials, deadline_at, timers, empty, again, note, contacts })
    }

    /// Deliveries that a duplicate makes.
    pub(super) fn notes(&self) -> u64 {
        self.note.as_ref().map_or(0, |note| note.to.len() as u64)
    }
}

/// Writes them, after the batch and its deliveries.
pub(super) async fn write(tx: &mut Conn, batch: BatchId, extras: &Prepared, now: Timestamp) -> Result<(), Fail> {
    for credential in &extras.credentials {
        super::credentials::insert(tx, credential).await?;
    }
    if !extras.timers.is_empty() {
        let timers = &extras.timers;
        let query = sqlx::query(TIMERS)
            .bind(timers.iter().map(|timer| timer.due_at).collect::<Vec<_>>())
            .bind(timers.iter().map(|timer| timer.delivery).collect::<Vec<_>>())
            .bind(timers.iter().map(|timer| timer.kind).collect::<Vec<_>>())
            .bind(timers.iter().map(|timer| timer.rule.clone()).collect::<Vec<_>>())
            .bind(timers.iter().map(|timer| timer.data.clone()).collect::<Vec<_>>());
        tx.run(query).await?;
    }
    match &extras.empty {
        Some(options) => {
            let ended = Ended { batch, options: options.clone(), counts: BatchCounts::default(), told: false, at: now };
            ended::write(tx, &ended).await
        }
        None => Ok(()),
    }
}

const TIMERS: &str = "
insert into timers (due_at, subject, kind, rule, data)
select * from unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::text[])";

/// Those of these leads that are there; they are not removed before the transaction ends.
pub(super) async fn hold(tx: &mut Conn, leads: Vec<Uuid>) -> Result<HashSet<LeadId>, Fail> {
    let rows = tx.all(sqlx::query(HOLD).bind(leads)).await?;
    rows.iter().map(|row| Ok(LeadId::from_uuid(row.try_get(0)?))).collect()
}

const HOLD: &str = "select id from leads where id = any($1) order by id for key share";

/// Tells that a lead, which is held, came again, for the `count`th time. Whoever counts one goes on alone until it is written.
pub(super) async fn note(
    tx: &mut Conn,
    first: LeadId,
    extras: &Prepared,
    correlation: &str,
    count: u32,
    now: Timestamp,
) -> Result<(), Fail> {
    let Some(note) = extras.note.as_ref().filter(|_| count <= dedup::MAX_NOTES) else { return Ok(()) };
    let row = tx.one(sqlx::query(FIRST).bind(first.uuid())).await?;
    let (batch, project) = (BatchId::from_uuid(row.try_get(0)?), ProjectId::from_uuid(row.try_get(1)?));
    let (external_id, created_at): (Option<String>, i64) = (row.try_get(2)?, row.try_get(3)?);
    let position = row.try_get::<Option<i64>, _>(4)?.unwrap_or(-1);
    let about = About { batch, lead: first, project, correlation: correlation.to_owned(), at: now };
    for (n, (credential, channel)) in note.to.iter().enumerate() {
        let sent = tx.first(sqlx::query(SENT).bind(first.uuid()).bind(credential.uuid())).await?;
        let sent = sent.map(|row| Ok::<_, Fail>((json_column::<Value>(row.try_get(0)?)?, row.try_get::<Option<String>, _>(1)?)));
        let (refs, url) = sent.transpose()?.unwrap_or_default();
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
        ended::insert(tx, &about, made).await?;
    }
    let contacts: Vec<String> = extras.contacts.iter().map(|key| plain(key)).collect();
    tx.run(sqlx::query(ADD_CONTACTS).bind(contacts).bind(first.uuid())).await.map(drop)
}

const FIRST: &str = "
select l.batch_id, l.project_id, l.external_id, l.created_at, (select max(d.position) from deliveries d where d.batch_id = l.batch_id)
  from leads l where l.id = $1";

/// What the remote side said of the first lead when it took it.
const SENT: &str = "
select d.refs, d.url
  from batches b cross join lateral (select * from deliveries where batch_id = b.id offset 0) d
 where b.lead_id = $1 and d.credential_id = $2 and d.kind in ('lead', 'fallback') and d.status = 'delivered' limit 1";

const ADD_CONTACTS: &str = "
insert into lead_contacts (key, lead_id) select key, $2 from unnest($1::text[]) as u (key) order by key on conflict do nothing";
