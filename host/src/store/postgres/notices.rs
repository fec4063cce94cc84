//! Notifications: what happened is gathered for each rule that wants to hear of it, and a timer tells it, at once or when
//! the rule's quiet period is over. Whoever gathers or tells holds the row of the project: one at a time.

use std::borrow::Cow;
use std::time::Duration;

use sqlx::Row;

use super::ended::{self, About, Made};
use super::error::Fail;
use super::pool::Conn;
use super::read::{json, plain, time};
use super::to_json;
use crate::model::{
    BatchId, Change, CredentialChange, CredentialState, DeliveryKind, Event, LeadId, Notice, NoticeKind, ProjectId, SendingSettings,
    Timestamp,
};
use crate::policy::notices::{self, Digest};
use crate::store::Changed;

/// The same as [`note`], for what the lanes saw of a credential: that is also told to those who follow live.
pub(super) async fn heard(tx: &mut Conn, notice: &Notice) -> Result<bool, Fail> {
    let seen = match notice.kind {
        NoticeKind::BreakerOpen => Some((CredentialChange::BreakerOpen, CredentialState::BreakerOpen)),
        NoticeKind::PluginFault => Some((CredentialChange::PluginFault, CredentialState::Active)),
        _ => None,
    };
    if let (Some((what, state)), Some((credential, channel))) = (seen, &notice.credential) {
        let (credential, channel) = (*credential, Cow::Borrowed(channel.as_str()));
        tx.tell(notice.at, notice.project, &Change::Credential { credential, channel, what, enabled: true, state, code: None });
    }
    // A call that ends after its lead was erased must not bring anything of it back.
    if tx.first(sqlx::query(THERE).bind(notice.batch.uuid())).await?.is_none() {
        return Ok(false);
    }
    note(tx, notice).await
}

/// Whether some rule wants it. The batch is there and stays.
pub(super) async fn note(tx: &mut Conn, notice: &Notice) -> Result<bool, Fail> {
    let Some((settings, _)) = lock(tx, notice.project).await? else { return Ok(false) };
    let mut wanted = false;
    for rule in settings.notifications.iter().filter(|rule| rule.on.contains(&notice.kind)) {
        let (quiet_until, mut digest) = read(tx, notice.project, &rule.name).await?;
        digest.add(notice);
        write(tx, notice.project, &rule.name, quiet_until.unwrap_or(notice.at), &digest).await?;
        let due_at = notices::due(quiet_until, notice.at);
        tx.run(sqlx::query(TIMER).bind(due_at.as_millis()).bind(notice.project.uuid()).bind(plain(&rule.name))).await?;
        wanted = true;
    }
    Ok(wanted)
}

/// Tells what a rule has gathered; the project is locked. `None`: nothing, or the rule is gone.
pub(super) async fn tell(
    tx: &mut Conn,
    project: ProjectId,
    (settings, locale): (SendingSettings, String),
    name: &str,
    now: Timestamp,
) -> Result<Option<Changed>, Fail> {
    let (quiet_until, digest) = read(tx, project, name).await?;
    let Some(rule) = settings.notifications.iter().find(|rule| plain(&rule.name) == name) else {
        tx.run(sqlx::query(FORGET).bind(project.uuid()).bind(name.to_owned())).await?;
        return Ok(None);
    };
    if digest.events.is_empty() {
        return Ok(None);
    }
    // A timer of before the quiet period; the right one stands.
    if quiet_until.is_some_and(|until| until > now) {
        return Ok(None);
    }
    let Some((about, position)) = about(tx, &digest, project, now).await? else {
        // All that it would tell of is gone; what happens next is told at once.
        tx.run(sqlx::query(FORGET).bind(project.uuid()).bind(name.to_owned())).await?;
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
    ended::insert(tx, &about, made).await?;
    let quiet_until = now.plus(Duration::from_secs(u64::from(rule.quiet_sec)));
    write(tx, project, name, quiet_until, &Digest::default()).await?;
    Ok(Some(Changed { queued: vec![rule.credential], ..Changed::only(batch, lead) }))
}

/// What the message hangs on: the newest of the events whose batch is still there, and the last position taken in it.
async fn about(tx: &mut Conn, digest: &Digest, project: ProjectId, now: Timestamp) -> Result<Option<(About, Option<i64>)>, Fail> {
    for event in digest.events.iter().rev() {
        let id = |name: &str| event.get(name).cloned().unwrap_or_default();
        let not_read = |error: serde_json::Error| Fail::defect(format!("a notice: {error}"));
        let batch: BatchId = serde_json::from_value(id("batch_id")).map_err(not_read)?;
        let lead: LeadId = serde_json::from_value(id("lead_id")).map_err(not_read)?;
        if let Some(row) = tx.first(sqlx::query(PLACE).bind(batch.uuid())).await? {
            let about = About { batch, lead, project, correlation: row.try_get(0)?, at: now };
            return Ok(Some((about, row.try_get(1)?)));
        }
    }
    Ok(None)
}

/// The project's settings and its locale, which stay as they are until the transaction ends.
pub(super) async fn lock(tx: &mut Conn, project: ProjectId) -> Result<Option<(SendingSettings, String)>, Fail> {
    let row = tx.first(sqlx::query(RULES).bind(project.uuid())).await?;
    row.map(|row| Ok((json(row.try_get(0)?)?, row.try_get(1)?))).transpose()
}

async fn read(tx: &mut Conn, project: ProjectId, rule: &str) -> Result<(Option<Timestamp>, Digest), Fail> {
    let found = tx.first(sqlx::query(READ).bind(project.uuid()).bind(plain(rule))).await?;
    let found = found.map(|row| Ok::<_, Fail>((Some(time(row.try_get(0)?)), json(row.try_get(1)?)?))).transpose()?;
    Ok(found.unwrap_or_default())
}

async fn write(tx: &mut Conn, project: ProjectId, rule: &str, quiet_until: Timestamp, digest: &Digest) -> Result<(), Fail> {
    let query = sqlx::query(WRITE)
        .bind(project.uuid())
        .bind(plain(rule))
        .bind(quiet_until.as_millis())
        .bind(i64::try_from(digest.total()).unwrap_or(i64::MAX))
        .bind(to_json(digest)?);
    tx.run(query).await.map(drop)
}

const RULES: &str = "select sending, locale from projects where id = $1 for no key update";

const READ: &str = "select quiet_until, data from notices where project_id = $1 and rule = $2";

const WRITE: &str = "
insert into notices (project_id, rule, quiet_until, total, data) values ($1, $2, $3, $4, $5)
on conflict (project_id, rule) do update set quiet_until = excluded.quiet_until, total = excluded.total, data = excluded.data";

const TIMER: &str = "insert into timers (due_at, subject, kind, rule) values ($1, $2, 'notify', $3) on conflict do nothing";

const FORGET: &str = "delete from notices where project_id = $1 and rule = $2";

const PLACE: &str = "
select b.correlation, (select max(position) from deliveries where batch_id = b.id) from batches b where b.id = $1
   for key share of b";

/// It is not removed before this transaction ends.
const THERE: &str = "select 1 from batches where id = $1 for key share";
