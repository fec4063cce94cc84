//! What an intake may carry beside lead and deliveries: credentials for this send, deadlines, fallback rules, and callbacks
//! of a batch that has nothing to send.

use uuid::Uuid;

use super::ended::{self, Ended};
use super::error::Fail;
use super::pool::Conn;
use super::to_json;
use crate::model::{BatchCounts, BatchId, BatchOptions, Credential, Timestamp};
use crate::store::{IntakeExtras, NewDelivery, StoreError};

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
}

impl Prepared {
    pub(super) fn new(extras: IntakeExtras, options: &BatchOptions, deliveries: &[NewDelivery]) -> Result<Self, StoreError> {
        let IntakeExtras { credentials, deadline_at, watches } = extras;
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
        Ok(Self { credentials, deadline_at, timers, empty })
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
