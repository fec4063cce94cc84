//! Notifications: what happened is gathered for each rule that wants to hear of it, and a timer tells it, at once or when
//! the rule's quiet period is over.

use std::time::Duration;

use sqlx::Row;

use super::ended::{self, About, Made};
use super::read::{json, time};
use super::to_json;
use super::writer::Tx;
use crate::model::{BatchId, DeliveryKind, Event, LeadId, Notice, ProjectId, SendingSettings, Timestamp};
use crate::policy::notices::{self, Digest};
use crate::store::{Changed, StoreError};

/// Whether some rule wants it.
pub(super) async fn note(tx: &mut Tx, notice: &Notice) -> Result<bool, StoreError> {
    let Some(row) = sqlx::query(RULES).bind(notice.project.uuid()).fetch_optional(&mut tx.conn).await? else { return Ok(false) };
    let settings: SendingSettings = json(row.try_get(0)?)?;
    let mut wanted = false;
    for rule in settings.notifications.iter().filter(|rule| rule.on.contains(&notice.kind)) {
        let (quiet_until, mut digest) = read(tx, notice.project, &rule.name).await?;
        digest.add(notice);
        write(tx, notice.project, &rule.name, quiet_until.unwrap_or(notice.at), &digest).await?;
        let due_at = notices::due(quiet_until, notice.at);
        sqlx::query(TIMER).bind(due_at.as_millis()).bind(notice.project.uuid()).bind(rule.name.clone()).execute(&mut tx.conn).await?;
        wanted = true;
    }
    Ok(wanted)
}

/// Tells what a rule has gathered. `None`: nothing, or the rule is gone.
pub(super) async fn tell(tx: &mut Tx, project: ProjectId, name: &str, now: Timestamp) -> Result<Option<Changed>, StoreError> {
    let (quiet_until, digest) = read(tx, project, name).await?;
    let row = sqlx::query(RULES).bind(project.uuid()).fetch_optional(&mut tx.conn).await?;
    let settings: SendingSettings = row.as_ref().map(|row| json(row.try_get(0)?)).transpose()?.unwrap_or_default();
    let Some(rule) = settings.notifications.iter().find(|rule| rule.name == name) else {
        sqlx::query(FORGET).bind(project.uuid()).bind(name.to_owned()).execute(&mut tx.conn).await?;
        return Ok(None);
    };
    let Some(last) = digest.events.last() else { return Ok(None) };
    // A timer of before the quiet period; the right one stands.
    if quiet_until.is_some_and(|until| until > now) {
        return Ok(None);
    }
    let locale: String = row.as_ref().map(|row| row.try_get(1)).transpose()?.unwrap_or_default();
    let id = |name: &str| last.get(name).cloned().unwrap_or_default();
    let batch: BatchId = serde_json::from_value(id("batch_id")).map_err(|error| StoreError::Defect(format!("a notice: {error}")))?;
    let lead: LeadId = serde_json::from_value(id("lead_id")).map_err(|error| StoreError::Defect(format!("a notice: {error}")))?;
    let found = sqlx::query(PLACE).bind(batch.uuid()).fetch_optional(&mut tx.conn).await?;
    let Some(found) = found else { return Ok(None) };
    let (correlation, position): (String, i64) = (found.try_get(0)?, found.try_get(1)?);
    let about = About { batch, lead, project, correlation, at: now };
    let event = Event {
        kind: "notification".to_owned(),
        external_id: project.to_string(),
        at: now,
        data: digest.message(name, &locale),
        template: rule.template.clone(),
    };
    let made = Made {
        kind: DeliveryKind::Notification,
        credential: rule.credential,
        channel: &rule.channel,
        settings: rule.settings.as_ref(),
        event: Some(&event),
        reason: None,
        position: usize::try_from(position).unwrap_or(0) + 1,
    };
    ended::insert(tx, &about, made).await?;
    let quiet_until = now.plus(Duration::from_secs(u64::from(rule.quiet_sec)));
    write(tx, project, name, quiet_until, &Digest::default()).await?;
    Ok(Some(Changed { queued: vec![rule.credential], ..Changed::only(batch, lead) }))
}

async fn read(tx: &mut Tx, project: ProjectId, rule: &str) -> Result<(Option<Timestamp>, Digest), StoreError> {
    let row = sqlx::query(READ).bind(project.uuid()).bind(rule.to_owned()).fetch_optional(&mut tx.conn).await?;
    match row {
        Some(row) => Ok((Some(time(row.try_get(0)?)), json(row.try_get(1)?)?)),
        None => Ok((None, Digest::default())),
    }
}

async fn write(tx: &mut Tx, project: ProjectId, rule: &str, quiet_until: Timestamp, digest: &Digest) -> Result<(), StoreError> {
    sqlx::query(WRITE)
        .bind(project.uuid())
        .bind(rule.to_owned())
        .bind(quiet_until.as_millis())
        .bind(i64::try_from(digest.total()).unwrap_or(i64::MAX))
        .bind(to_json(digest)?)
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}

const RULES: &str = "select sending, locale from projects where id = $1";

const READ: &str = "select quiet_until, data from notices where project_id = $1 and rule = $2";

const WRITE: &str = "
insert or replace into notices (project_id, rule, quiet_until, total, data) values ($1, $2, $3, $4, $5)";

const TIMER: &str = "insert or ignore into timers (due_at, subject, kind, rule) values ($1, $2, 'notify', $3)";

const FORGET: &str = "delete from notices where project_id = $1 and rule = $2";

const PLACE: &str = "
select b.correlation, (select max(position) from deliveries where batch_id = b.id) from batches b where b.id = $1";

/// The statements, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[RULES, READ, WRITE, TIMER, FORGET, PLACE];
