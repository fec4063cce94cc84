//! What happens by time alone: deliveries that were not sent by their deadline fail, those not delivered in time get their
//! fallbacks, and notification rules tell what they have gathered. A timer that has nothing to do any more is forgotten when it is due.

use std::collections::BTreeMap;

use rusqlite::{Row, params};
use serde_json::Value;
use sqlx::{Row as _, SqlitePool};
use uuid::Uuid;

use super::ended::{self, About, Made};
use super::read::{json, time};
use super::settle::{Ending, Job, Settling, job_columns};
use super::words::word;
use super::writer::Tx;
use super::{finish, notices};
use crate::fault::{self, Point};
use crate::model::{
    BatchId, CredentialId, DeliveryId, DeliveryKind, DeliveryStatus, FallbackRule, FallbackTarget, LeadId, ProjectId, Timestamp,
};
use crate::store::{Changed, StoreError};

pub(super) async fn next(pool: &SqlitePool) -> Result<Option<Timestamp>, StoreError> {
    let due_at: Option<i64> = sqlx::query(NEXT).fetch_one(pool).await?.try_get(0)?;
    Ok(due_at.map(time))
}

/// The rule of a timer that was set because a batch was cancelled, and not by a deadline.
const STOP: &str = "stop";

struct Timer {
    due_at: i64,
    /// The delivery, or for notifications the project.
    subject: Uuid,
    kind: String,
    rule: String,
    data: Option<String>,
}

impl Timer {
    fn read(row: &Row<'_>) -> Result<Self, StoreError> {
        Ok(Self { due_at: row.get(0)?, subject: row.get(1)?, kind: row.get(2)?, rule: row.get(3)?, data: row.get(4)? })
    }
}

/// One change for each batch, and whether more may be due.
pub(super) fn fire(tx: &mut Tx, now: Timestamp, limit: u32) -> Result<(Vec<Changed>, bool), StoreError> {
    let timers = tx.db.all(DUE, params![now.as_millis(), limit], Timer::read)?;
    let mut changes = BTreeMap::new();
    let mut note = |changed: Changed| {
        changes.entry(changed.batch).or_insert_with(|| Changed::only(changed.batch, changed.lead)).merge(changed);
    };
    for timer in &timers {
        tx.db.run(FORGET, params![timer.due_at, timer.subject, timer.kind, timer.rule])?;
        fault::pass(Point::TimerForgotten);
        let delivery = DeliveryId::from_uuid(timer.subject);
        let changed = match (timer.kind.as_str(), &timer.data) {
            ("notify", _) => notices::tell(tx, ProjectId::from_uuid(timer.subject), &timer.rule, now)?,
            ("fallback", Some(rule)) => fallback(tx, delivery, &json(rule)?, now)?,
            _ => deadline(tx, delivery, &timer.rule, now)?,
        };
        changed.into_iter().for_each(&mut note);
    }
    let more = timers.len() >= limit as usize;
    Ok((changes.into_values().collect(), more))
}

/// Fails a delivery that waits, or cancels one that was being sent when its batch was cancelled. What is being sent at this
/// moment is looked at again when its lease is over.
fn deadline(tx: &mut Tx, delivery: DeliveryId, rule: &str, now: Timestamp) -> Result<Option<Changed>, StoreError> {
    let found = tx.db.first(JOB, params![delivery.uuid()], |row| Ok((Job::read(row)?, row.get::<_, i64>(11)?, row.get::<_, bool>(12)?)))?;
    let Some((mut job, lease_ends, has_deadline)) = found else { return Ok(None) };
    // A retry by hand ends what was said before it.
    let stops = rule == STOP;
    if (stops && !job.stop) || (!stops && !has_deadline) {
        return Ok(None);
    }
    if job.sending && lease_ends > now.as_millis() {
        tx.db.run(AGAIN, params![lease_ends, delivery.uuid(), rule])?;
        return Ok(None);
    }
    // Nobody answered for that lease.
    job.maybe_sent |= job.sending;
    let mut settling = Settling::default();
    let mut why = "it was not sent by its deadline".to_owned();
    if job.maybe_sent {
        why.push_str("; an earlier attempt may have reached the remote side");
    }
    let last = ("deadline".to_owned(), why);
    let ending = if job.stop {
        Ending::cancelled(job.attempts, now)
    } else {
        Ending { status: DeliveryStatus::Failed, refs: &[], url: None, last: Some(&last), attempts: job.attempts, now }
    };
    let changed = finish::end(tx, &mut settling, &job, ending)?;
    settling.write(tx)?;
    Ok(Some(changed))
}

/// A delivery that a fallback rule looks at.
struct Watched {
    about: About,
    status: DeliveryStatus,
    channel: String,
    credential: CredentialId,
    settings: Option<Value>,
    last_code: Option<String>,
    /// The last position that is taken in its batch.
    position: i64,
}

/// Sends the lead elsewhere, unless the delivery is done or was withdrawn.
fn fallback(tx: &mut Tx, delivery: DeliveryId, rule: &FallbackRule, now: Timestamp) -> Result<Option<Changed>, StoreError> {
    let found = tx.db.first(WATCHED, params![delivery.uuid()], |row| {
        let about = About {
            batch: BatchId::from_uuid(row.get(1)?),
            lead: LeadId::from_uuid(row.get(2)?),
            project: ProjectId::from_uuid(row.get(3)?),
            correlation: row.get(4)?,
            at: now,
        };
        let credential = CredentialId::from_uuid(row.get(8)?);
        let settings = row.get::<_, Option<String>>(9)?.as_deref().map(json).transpose()?;
        let (status, channel, last_code, position) = (word(row, 0)?, row.get(5)?, row.get(6)?, row.get(7)?);
        Ok(Watched { about, status, channel, credential, settings, last_code, position })
    })?;
    let Some(Watched { about, status, channel, credential, settings, last_code, position }) = found else { return Ok(None) };
    if matches!(status, DeliveryStatus::Delivered | DeliveryStatus::Skipped | DeliveryStatus::Cancelled) {
        return Ok(None);
    }
    // A rule of a channel may name one of its own credentials: where the lead waits already, a second one would double it.
    let elsewhere = |target: &&FallbackTarget| target.credential != credential || target.settings != settings;
    let targets: Vec<_> = rule.to.iter().filter(elsewhere).collect();
    if targets.is_empty() {
        return Ok(None);
    }
    let last = last_code.map_or_else(String::new, |code| format!("; last: {code}"));
    let state = if status == DeliveryStatus::Queued { "not delivered" } else { status.name() };
    let reason = format!("rule `{}`: {delivery} to {channel} is {state} after {} s{last}", rule.name, rule.within_sec);
    let mut changed = Changed::only(about.batch, about.lead);
    for (n, target) in targets.into_iter().enumerate() {
        let made = Made {
            kind: DeliveryKind::Fallback,
            credential: target.credential,
            channel: &target.channel,
            settings: target.settings.as_ref(),
            event: None,
            reason: Some(&reason),
            position: usize::try_from(position).unwrap_or(0) + 1 + n,
        };
        ended::insert(tx, &about, made)?;
        changed.queued.push(target.credential);
    }
    fault::pass(Point::TimerFallback);
    tx.db.run(OVERDUE, params![delivery.uuid(), now.as_millis()])?;
    Ok(Some(changed))
}

const NEXT: &str = "select min(due_at) from timers";

const DUE: &str = "select due_at, subject, kind, rule, data from timers where due_at <= ?1 order by due_at limit ?2";

const FORGET: &str = "delete from timers where due_at = ?1 and subject = ?2 and kind = ?3 and rule = ?4";

const JOB: &str = concat!(
    "select ",
    job_columns!(),
    ", due_at, exists (select 1 from deliveries where id = ?1 and deadline_at is not null) from jobs where id = ?1"
);

const AGAIN: &str = "insert or ignore into timers (due_at, subject, kind, rule) values (?1, ?2, 'deadline', ?3)";

const WATCHED: &str = "
select d.status, d.batch_id, d.lead_id, d.project_id, b.correlation, d.channel, d.last_code,
       (select max(position) from deliveries where batch_id = d.batch_id), d.credential_id, d.settings
  from deliveries d cross join batches b on b.id = d.batch_id where d.id = ?1";

const OVERDUE: &str = "update deliveries set overdue_at = coalesce(overdue_at, ?2) where id = ?1";

/// The statements, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[NEXT, DUE, FORGET, JOB, AGAIN, WATCHED, OVERDUE];
