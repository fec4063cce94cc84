//! What an intake may carry beside lead and deliveries: credentials for this send, deadlines, fallback rules, and callbacks
//! of a batch that has nothing to send.

use rusqlite::params;

use super::ended::{self, Ended};
use super::to_json;
use super::writer::Tx;
use crate::model::{BatchCounts, BatchId, BatchOptions, Credential, DeliveryId, Timestamp};
use crate::store::{IntakeExtras, NewDelivery, StoreError};

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
}

impl Prepared {
    pub(super) fn new(extras: IntakeExtras, options: &BatchOptions, deliveries: &[NewDelivery]) -> Result<Self, StoreError> {
        let IntakeExtras { credentials, deadline_at, watches, again } = extras;
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
        Ok(Self { credentials, deadline_at, timers, empty, again })
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

const DEADLINES: &str = "update deliveries set deadline_at = ?2 where batch_id = ?1";
const TIMER: &str = "insert into timers (due_at, subject, kind, rule, data) values (?1, ?2, ?3, ?4, ?5)";

/// The statements, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[DEADLINES, TIMER];
