//! Credentials: settings and sealed secrets.

use std::borrow::Cow;

use rusqlite::types::Value;
use rusqlite::{params, params_from_iter};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqlitePool};

use super::admin::Keep;
use super::read::{json, json_column, time};
use super::words::{Word, word};
use super::writer::Tx;
use super::{answers, to_json};
use crate::model::{
    Change, Credential, CredentialChange, CredentialId, CredentialState, ProjectId, Purpose, StateReason, Timestamp, told_code,
};
use crate::store::{Pause, StoreError, Written};

pub(super) async fn create(tx: &mut Tx, credential: &Credential, keep: &Keep) -> Result<Written<()>, StoreError> {
    if let Some(written) = answers::before(tx, keep.as_ref(), credential.created_at).await? {
        return Ok(written);
    }
    insert(tx, credential)?;
    tell(tx, credential.id, CredentialChange::Created, credential.created_at)?;
    answers::after(tx, keep.as_ref()).await?;
    Ok(Written::New(()))
}

pub(super) fn insert(tx: &Tx, credential: &Credential) -> Result<(), StoreError> {
    let (purpose, origin) = match &credential.purpose {
        Purpose::Standing => ("standing", None),
        Purpose::Callback { origin } => ("callback", Some(origin.clone())),
        Purpose::Send => ("send", None),
    };
    let own: [Value; 4] =
        [credential.project.uuid().into(), credential.created_at.as_millis().into(), purpose.to_owned().into(), origin.into()];
    let values = values(credential)?.into_iter().chain(own);
    tx.db.run(INSERT, params_from_iter(values)).map(drop)
}

fn purpose(word: &str, origin: Option<String>) -> Result<Purpose, StoreError> {
    match (word, origin) {
        ("standing", None) => Ok(Purpose::Standing),
        ("callback", Some(origin)) => Ok(Purpose::Callback { origin }),
        ("send", None) => Ok(Purpose::Send),
        _ => Err(StoreError::Defect(format!("unknown purpose `{word}` of a credential"))),
    }
}

const INSERT: &str = "
insert into credentials (id, entity, channel, name, enabled, config, secrets, mapping, filter, retry, state, state_code, state_text,
                         state_since, version, updated_at, project_id, created_at, purpose, origin)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)";

pub(super) fn update(tx: &mut Tx, credential: &Credential) -> Result<(), StoreError> {
    let before = told(tx, credential.id)?.map(|told| told.state);
    let changed = tx.db.run(UPDATE, params_from_iter(values(credential)?))?;
    if changed == 0 {
        return Err(StoreError::Stale);
    }
    tell(tx, credential.id, CredentialChange::Updated, credential.updated_at)?;
    if before != Some(credential.state) {
        tell(tx, credential.id, CredentialChange::State, credential.updated_at)?;
    }
    Ok(())
}

/// What is told of an admin's credential.
struct Told {
    project: ProjectId,
    channel: String,
    enabled: bool,
    state: CredentialState,
    code: Option<String>,
}

fn told(tx: &Tx, id: CredentialId) -> Result<Option<Told>, StoreError> {
    tx.db.first(TOLD, params![id.uuid()], |row| {
        let (project, channel, enabled) = (ProjectId::from_uuid(row.get(0)?), row.get(1)?, row.get(2)?);
        Ok(Told { project, channel, enabled, state: word(row, 3)?, code: row.get(4)? })
    })
}

/// Notes what happened to it, for those who follow live. Those that the host made for itself are nobody's to follow.
pub(super) fn tell(tx: &mut Tx, id: CredentialId, what: CredentialChange, at: Timestamp) -> Result<(), StoreError> {
    let Some(told) = told(tx, id)? else { return Ok(()) };
    let change = Change::Credential {
        credential: id,
        channel: Cow::Borrowed(&told.channel),
        what,
        enabled: told.enabled,
        state: told.state,
        code: told.code.as_deref().and_then(told_code).map(Cow::Borrowed),
    };
    tx.tell(at, told.project, &change);
    Ok(())
}

const TOLD: &str = "select project_id, channel, enabled, state, state_code from credentials where id = ?1 and purpose = 'standing'";

const UPDATE: &str = "
update credentials
   set entity = ?2, channel = ?3, name = ?4, enabled = ?5, config = ?6, secrets = ?7, mapping = ?8, filter = ?9, retry = ?10,
       state = ?11, state_code = ?12, state_text = ?13, state_since = ?14, version = version + 1, updated_at = ?16
 where id = ?1 and version = ?15";

/// What both statements take, in their order.
fn values(credential: &Credential) -> Result<[Value; 16], StoreError> {
    let reason = credential.state_reason.as_ref();
    Ok([
        credential.id.uuid().into(),
        credential.entity.clone().into(),
        credential.channel.clone().into(),
        credential.name.clone().into(),
        credential.enabled.into(),
        to_json(&credential.config)?.into(),
        to_json(&credential.secrets)?.into(),
        to_json(&credential.mapping)?.into(),
        credential.filter.clone().into(),
        credential.retry.as_ref().map(to_json).transpose()?.into(),
        credential.state.word().to_owned().into(),
        reason.map(|reason| reason.code.clone()).into(),
        reason.map(|reason| reason.message.clone()).into(),
        credential.state_since.as_millis().into(),
        credential.version.into(),
        credential.updated_at.as_millis().into(),
    ])
}

pub(super) async fn exists(tx: &mut Tx, id: CredentialId) -> Result<bool, StoreError> {
    let query = sqlx::query("select 1 from credentials where id = $1").bind(id.uuid());
    Ok(query.fetch_optional(&mut tx.conn).await?.is_some())
}

pub(super) async fn sealing_keys(readers: &SqlitePool) -> Result<Vec<String>, StoreError> {
    let query = sqlx::query("select distinct s.value ->> 'key_id' from credentials c, json_each(c.secrets) s order by 1");
    query.fetch_all(readers).await?.into_iter().map(|row| Ok(row.try_get(0)?)).collect()
}

pub(super) async fn set_pause(tx: &mut Tx, id: CredentialId, pause: Option<(Timestamp, Pause)>) -> Result<(), StoreError> {
    let query = match pause {
        // What was given for one send is gone when its batch has ended, and a call's last word may come after that.
        Some((until, why)) => sqlx::query(SET_PAUSE).bind(id.uuid()).bind(until.as_millis()).bind(why.word()),
        None => sqlx::query("delete from lane_pauses where credential_id = $1").bind(id.uuid()),
    };
    query.execute(&mut tx.conn).await?;
    Ok(())
}

const SET_PAUSE: &str = "
insert or replace into lane_pauses (credential_id, until, why) select $1, $2, $3 where exists (select 1 from credentials where id = $1)";

pub(super) async fn pause(readers: &SqlitePool, id: CredentialId) -> Result<Option<(Timestamp, Pause)>, StoreError> {
    let row = sqlx::query("select until, why from lane_pauses where credential_id = $1").bind(id.uuid()).fetch_optional(readers).await?;
    row.map(|row| Ok((time(row.try_get(0)?), Pause::read(row.try_get(1)?)?))).transpose()
}

/// Deletes the credential and its small state.
pub(super) fn delete(tx: &Tx, id: CredentialId) -> Result<(), StoreError> {
    for sql in DELETE {
        tx.db.run(sql, params![id.uuid()])?;
    }
    Ok(())
}

const DELETE: [&str; 3] = [
    "delete from kv where credential_id = ?1",
    "delete from lane_pauses where credential_id = ?1",
    "delete from credentials where id = ?1",
];

pub(super) async fn set_state(
    tx: &mut Tx,
    id: CredentialId,
    state: CredentialState,
    reason: Option<&StateReason>,
    since: Timestamp,
) -> Result<bool, StoreError> {
    let done = sqlx::query("update credentials set state = $2, state_code = $3, state_text = $4, state_since = $5 where id = $1")
        .bind(id.uuid())
        .bind(state.word())
        .bind(reason.map(|reason| reason.code.clone()))
        .bind(reason.map(|reason| reason.message.clone()))
        .bind(since.as_millis())
        .execute(&mut tx.conn)
        .await?;
    tell(tx, id, CredentialChange::State, since)?;
    Ok(done.rows_affected() > 0)
}

macro_rules! credentials {
    ($rest:literal) => {
        concat!(
            "select id, project_id, entity, channel, name, enabled, config, secrets, mapping, filter, retry, state, state_code,
                    state_text, state_since, version, created_at, updated_at, purpose, origin from credentials ",
            $rest
        )
    };
}

fn credential_row(row: &SqliteRow) -> Result<Credential, StoreError> {
    let code: Option<String> = row.try_get(12)?;
    let text: Option<String> = row.try_get(13)?;
    Ok(Credential {
        id: CredentialId::from_uuid(row.try_get(0)?),
        project: ProjectId::from_uuid(row.try_get(1)?),
        purpose: purpose(row.try_get(18)?, row.try_get(19)?)?,
        entity: row.try_get(2)?,
        channel: row.try_get(3)?,
        name: row.try_get(4)?,
        enabled: row.try_get(5)?,
        config: json(row.try_get(6)?)?,
        secrets: json(row.try_get(7)?)?,
        mapping: json(row.try_get(8)?)?,
        filter: row.try_get(9)?,
        retry: json_column(row.try_get(10)?)?,
        state: CredentialState::read(row.try_get(11)?)?,
        state_reason: code.map(|code| StateReason { code, message: text.unwrap_or_default() }),
        state_since: time(row.try_get(14)?),
        version: row.try_get(15)?,
        created_at: time(row.try_get(16)?),
        updated_at: time(row.try_get(17)?),
    })
}

pub(super) async fn credential(pool: &SqlitePool, id: CredentialId) -> Result<Option<Credential>, StoreError> {
    let row = sqlx::query(CREDENTIAL).bind(id.uuid()).fetch_optional(pool).await?;
    row.as_ref().map(credential_row).transpose()
}
const CREDENTIAL: &str = credentials!("where id = $1");

pub(super) async fn credentials(pool: &SqlitePool, project: ProjectId) -> Result<Vec<Credential>, StoreError> {
    sqlx::query(CREDENTIALS).bind(project.uuid()).fetch_all(pool).await?.iter().map(credential_row).collect()
}
const CREDENTIALS: &str = credentials!("where project_id = $1 and purpose = 'standing' order by id");

/// The statements, for the check of their plans.
#[cfg(test)]
pub(super) const ALL: &[&str] = &[CREDENTIAL, CREDENTIALS, UPDATE, TOLD, DELETE[0], DELETE[1], DELETE[2]];
