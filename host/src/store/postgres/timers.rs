//! What happens by time alone: deliveries that were not sent by their deadline fail, those not delivered in time get their
//! fallbacks, and notification rules tell what they have gathered. A timer that has nothing to do any more is forgotten when it is due.
//!
//! Each timer is a transaction of its own: the batches of several would be locked in the order of time, and not of their ids.

use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::book::Book;
use super::ended::{self, About, Made};
use super::error::Fail;
use super::pool::Conn;
use super::read::{json, json_column, time};
use super::settle::{Ending, Settling};
use super::{finish, notices};
use crate::model::{
    BatchId, CredentialId, DeliveryId, DeliveryKind, DeliveryStatus, FallbackRule, FallbackTarget, LeadId, ProjectId, Timestamp,
};
use crate::store::Changed;
use crate::store::sqlite::words::Word;

pub(super) async fn next(conn: &mut Conn) -> Result<Option<Timestamp>, Fail> {
    let due_at: Option<i64> = conn.one(sqlx::query(NEXT)).await?.try_get(0)?;
    Ok(due_at.map(time))
}

/// The rule of a timer that was set because a batch was cancelled, and not by a deadline.
const STOP: &str = "stop";

/// A timer that is due.
#[derive(Debug, Clone)]
pub(super) struct Timer {
    due_at: i64,
    /// The delivery, or for notifications the project.
    subject: Uuid,
    kind: String,
    rule: String,
    data: Option<String>,
}

/// The first ones.
pub(super) async fn due(conn: &mut Conn, now: Timestamp, limit: u32) -> Result<Vec<Timer>, Fail> {
    let rows = conn.all(sqlx::query(DUE).bind(now.as_millis()).bind(i64::from(limit))).await?;
    let timer = |row: &PgRow| {
        let (due_at, subject, kind) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        Ok(Timer { due_at, subject, kind, rule: row.try_get(3)?, data: row.try_get(4)? })
    };
    rows.iter().map(timer).collect()
}

/// Does one. First what it is about is locked, then the timer is taken: in the order of those who set timers.
pub(super) async fn fire(tx: &mut Conn, timer: &Timer, now: Timestamp) -> Result<Option<Changed>, Fail> {
    let delivery = DeliveryId::from_uuid(timer.subject);
    match (timer.kind.as_str(), &timer.data) {
        ("notify", _) => {
            let project = ProjectId::from_uuid(timer.subject);
            let settings = notices::lock(tx, project).await?.unwrap_or_default();
            if !take(tx, timer).await? {
                return Ok(None);
            }
            notices::tell(tx, project, settings, &timer.rule, now).await
        }
        ("fallback", Some(rule)) => {
            let book = Book::lock_of_deliveries(tx, vec![timer.subject]).await?;
            if !take(tx, timer).await? {
                return Ok(None);
            }
            drop(book);
            fallback(tx, delivery, &json(rule)?, now).await
        }
        _ => {
            let settling = Settling::lock(tx, vec![timer.subject]).await?;
            if !take(tx, timer).await? {
                return Ok(None);
            }
            deadline(tx, settling, delivery, &timer.rule, now).await
        }
    }
}

/// `false`: another node was faster.
async fn take(tx: &mut Conn, timer: &Timer) -> Result<bool, Fail> {
    let query = sqlx::query(FORGET).bind(timer.due_at).bind(timer.subject).bind(timer.kind.clone()).bind(timer.rule.clone());
    Ok(tx.run(query).await? > 0)
}

/// Fails a delivery that waits, or cancels one that was being sent when its batch was cancelled. What is being sent at this
/// moment is looked at again when its lease is over.
async fn deadline(
    tx: &mut Conn,
    mut settling: Settling,
    delivery: DeliveryId,
    rule: &str,
    now: Timestamp,
) -> Result<Option<Changed>, Fail> {
    let Some(mut job) = settling.job(delivery) else { return Ok(None) };
    // A retry by hand ends what was said before it.
    let stops = rule == STOP;
    if (stops && !job.stop) || (!stops && job.deadline_at.is_none()) {
        return Ok(None);
    }
    if !job.waits(now) {
        tx.run(sqlx::query(AGAIN).bind(job.due_at.as_millis()).bind(delivery.uuid()).bind(rule.to_owned())).await?;
        return Ok(None);
    }
    // Nobody answered for that lease.
    job.maybe_sent |= job.sending;
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
    let changed = finish::end(tx, &mut settling, &job, ending).await?;
    settling.write(tx).await?;
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

async fn watched(tx: &mut Conn, delivery: DeliveryId, now: Timestamp) -> Result<Option<Watched>, Fail> {
    let Some(row) = tx.first(sqlx::query(WATCHED).bind(delivery.uuid())).await? else { return Ok(None) };
    let about = About {
        batch: BatchId::from_uuid(row.try_get(1)?),
        lead: LeadId::from_uuid(row.try_get(2)?),
        project: ProjectId::from_uuid(row.try_get(3)?),
        correlation: row.try_get(4)?,
        at: now,
    };
    let status = DeliveryStatus::read(row.try_get(0)?)?;
    let credential = CredentialId::from_uuid(row.try_get(8)?);
    let settings = json_column(row.try_get(9)?)?;
    let (channel, last_code, position) = (row.try_get(5)?, row.try_get(6)?, row.try_get(7)?);
    Ok(Some(Watched { about, status, channel, credential, settings, last_code, position }))
}

/// Sends the lead elsewhere, unless the delivery is done or was withdrawn.
async fn fallback(tx: &mut Conn, delivery: DeliveryId, rule: &FallbackRule, now: Timestamp) -> Result<Option<Changed>, Fail> {
    let Some(found) = watched(tx, delivery, now).await? else { return Ok(None) };
    let Watched { about, status, channel, credential, settings, last_code, position } = found;
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
        ended::insert(tx, &about, made).await?;
        changed.queued.push(target.credential);
    }
    tx.run(sqlx::query(OVERDUE).bind(delivery.uuid()).bind(now.as_millis())).await?;
    Ok(Some(changed))
}

const NEXT: &str = "select min(due_at) from timers";

const DUE: &str = "select due_at, subject, kind, rule, data from timers where due_at <= $1 order by due_at, subject, kind, rule limit $2";

const FORGET: &str = "delete from timers where due_at = $1 and subject = $2 and kind = $3 and rule = $4";

const AGAIN: &str = "insert into timers (due_at, subject, kind, rule) values ($1, $2, 'deadline', $3) on conflict do nothing";

const WATCHED: &str = "
select d.status, d.batch_id, d.lead_id, d.project_id, b.correlation, d.channel, d.last_code,
       (select max(position) from deliveries where batch_id = d.batch_id), d.credential_id, d.settings
  from deliveries d join batches b on b.id = d.batch_id where d.id = $1";

const OVERDUE: &str = "update deliveries set overdue_at = coalesce(overdue_at, $2) where id = $1";
