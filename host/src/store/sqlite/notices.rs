//! Notifications: what happened is gathered for each rule that wants to hear of it, and a timer tells it, at once or when
//! the rule's quiet period is over.

use std::borrow::Cow;
use std::time::Duration;

use rusqlite::params;

use super::ended::{self, About, Made};
use super::read::{json, time};
use super::to_json;
use super::writer::Tx;
use crate::fault::{self, Point};
use crate::model::{
    BatchId, Change, CredentialChange, CredentialState, DeliveryKind, Event, LeadId, Notice, NoticeKind, ProjectId, SendingSettings,
    Timestamp,
};
use crate::policy::notices::{self, Digest};
use crate::store::{Changed, StoreError};

/// The same as [`note`], for what the lanes saw of a credential: that is also told to those who follow live.
pub(super) fn heard(tx: &mut Tx, notice: &Notice) -> Result<bool, StoreError> {
    let seen = match notice.kind {
        NoticeKind::BreakerOpen => Some((CredentialChange::BreakerOpen, CredentialState::BreakerOpen)),
        NoticeKind::PluginFault => Some((CredentialChange::PluginFault, CredentialState::Active)),
        _ => None,
    };
    if let (Some((what, state)), Some((credential, channel))) = (seen, &notice.credential) {
        let (credential, channel) = (*credential, Cow::Borrowed(channel.as_str()));
        tx.tell(notice.at, notice.project, &Change::Credential { credential, channel, what, enabled: true, state, code: None });
    }
    note(tx, notice)
}

/// Whether some rule wants it.
pub(super) fn note(tx: &Tx, notice: &Notice) -> Result<bool, StoreError> {
    let Some((settings, _)) = rules(tx, notice.project)? else { return Ok(false) };
    let mut wanted = false;
    // A call that ends after its lead was erased must not bring anything of it back.
    if tx.db.first(THERE, params![notice.batch.uuid()], |_| Ok(()))?.is_none() {
        return Ok(false);
    }
    for rule in settings.notifications.iter().filter(|rule| rule.on.contains(&notice.kind)) {
        let (quiet_until, mut digest) = read(tx, notice.project, &rule.name)?;
        digest.add(notice);
        write(tx, notice.project, &rule.name, quiet_until.unwrap_or(notice.at), &digest)?;
        let due_at = notices::due(quiet_until, notice.at);
        tx.db.run(TIMER, params![due_at.as_millis(), notice.project.uuid(), rule.name])?;
        wanted = true;
    }
    Ok(wanted)
}

/// Tells what a rule has gathered. `None`: nothing, or the rule is gone.
pub(super) fn tell(tx: &mut Tx, project: ProjectId, name: &str, now: Timestamp) -> Result<Option<Changed>, StoreError> {
    let (quiet_until, digest) = read(tx, project, name)?;
    let (settings, locale) = rules(tx, project)?.unwrap_or_default();
    let Some(rule) = settings.notifications.iter().find(|rule| rule.name == name) else {
        tx.db.run(FORGET, params![project.uuid(), name])?;
        return Ok(None);
    };
    if digest.events.is_empty() {
        return Ok(None);
    }
    // A timer of before the quiet period; the right one stands.
    if quiet_until.is_some_and(|until| until > now) {
        return Ok(None);
    }
    let Some((about, position)) = about(tx, &digest, project, now)? else {
        // All that it would tell of is gone; what happens next is told at once.
        tx.db.run(FORGET, params![project.uuid(), name])?;
        return Ok(None);
    };
    let (batch, lead) = (about.batch, about.lead);
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
        position: usize::try_from(position.unwrap_or(0)).unwrap_or(0) + 1,
    };
    ended::insert(tx, &about, made)?;
    fault::pass(Point::NoticeMade);
    let quiet_until = now.plus(Duration::from_secs(u64::from(rule.quiet_sec)));
    write(tx, project, name, quiet_until, &Digest::default())?;
    Ok(Some(Changed { queued: vec![rule.credential], ..Changed::only(batch, lead) }))
}

/// What the message hangs on: the newest of the events whose batch is still there, and the last position taken in it.
fn about(tx: &Tx, digest: &Digest, project: ProjectId, now: Timestamp) -> Result<Option<(About, Option<i64>)>, StoreError> {
    for event in digest.events.iter().rev() {
        let id = |name: &str| event.get(name).cloned().unwrap_or_default();
        let defect = |error: serde_json::Error| StoreError::Defect(format!("a notice: {error}"));
        let batch: BatchId = serde_json::from_value(id("batch_id")).map_err(defect)?;
        let lead: LeadId = serde_json::from_value(id("lead_id")).map_err(defect)?;
        let place = tx.db.first(PLACE, params![batch.uuid()], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Option<i64>>(1)?)))?;
        if let Some((correlation, position)) = place {
            return Ok(Some((About { batch, lead, project, correlation, at: now }, position)));
        }
    }
    Ok(None)
}

/// The project's settings and its locale.
fn rules(tx: &Tx, project: ProjectId) -> Result<Option<(SendingSettings, String)>, StoreError> {
    tx.db.first(RULES, params![project.uuid()], |row| Ok((json(&row.get::<_, String>(0)?)?, row.get(1)?)))
}

fn read(tx: &Tx, project: ProjectId, rule: &str) -> Result<(Option<Timestamp>, Digest), StoreError> {
    let found = tx.db.first(READ, params![project.uuid(), rule], |row| Ok((Some(time(row.get(0)?)), json(&row.get::<_, String>(1)?)?)))?;
    Ok(found.unwrap_or_default())
}

fn write(tx: &Tx, project: ProjectId, rule: &str, quiet_until: Timestamp, digest: &Digest) -> Result<(), StoreError> {
    let total = i64::try_from(digest.total()).unwrap_or(i64::MAX);
    tx.db.run(WRITE, params![project.uuid(), rule, quiet_until.as_millis(), total, to_json(digest)?]).map(drop)
}

const RULES: &str = "select sending, locale from projects where id = ?1";

const READ: &str = "select quiet_until, data from notices where project_id = ?1 and rule = ?2";

const WRITE: &str = "
insert or replace into notices (project_id, rule, quiet_until, total, data) values (?1, ?2, ?3, ?4, ?5)";

const TIMER: &str = "insert or ignore into timers (due_at, subject, kind, rule) values (?1, ?2, 'notify', ?3)";

const FORGET: &str = "delete from notices where project_id = ?1 and rule = ?2";

const THERE: &str = "select 1 from batches where id = ?1";

const PLACE: &str = "
select b.correlation, (select max(position) from deliveries where batch_id = b.id) from batches b where b.id = ?1";

/// The statements, for the check of their plans.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[RULES, READ, WRITE, TIMER, FORGET, THERE, PLACE];
