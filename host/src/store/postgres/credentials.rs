//! Credentials: settings and sealed secrets.

use std::borrow::Cow;

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::admin::Keep;
use super::error::Fail;
use super::pool::{Ask, Conn};
use super::read::{json, json_column, plain, plain_option, time};
use super::{answers, to_json};
use crate::model::{
    Change, Credential, CredentialChange, CredentialId, CredentialState, ProjectId, Purpose, StateReason, Timestamp, told_code,
};
use crate::store::sqlite::words::Word;
use crate::store::{Changed, Pause, StoreError, Written};

/// Deliveries of a deleted credential that are cancelled in one transaction, so that others need not wait long.
const CANCEL_SLICE: u32 = 500;

pub(super) async fn create(tx: &mut Conn, credential: &Credential, keep: &Keep) -> Result<Written<()>, Fail> {
    if let Some(written) = answers::before(tx, keep.as_ref(), credential.created_at).await? {
        return Ok(written);
    }
    insert(tx, credential).await?;
    tell(tx, credential.id, CredentialChange::Created, credential.created_at).await?;
    answers::after(tx, keep.as_ref(), credential.created_at).await?;
    Ok(Written::New(()))
}

pub(super) async fn insert(tx: &mut Conn, credential: &Credential) -> Result<(), Fail> {
    let (purpose, origin) = match &credential.purpose {
        Purpose::Standing => ("standing", None),
        Purpose::Callback { origin } => ("callback", Some(plain(origin))),
        Purpose::Send => ("send", None),
    };
    let query = values(sqlx::query(INSERT), credential)?
        .bind(credential.project.uuid())
        .bind(credential.created_at.as_millis())
        .bind(purpose)
        .bind(origin);
    tx.run(query).await.map(drop)
}

fn purpose(word: &str, origin: Option<String>) -> Result<Purpose, Fail> {
    match (word, origin) {
        ("standing", None) => Ok(Purpose::Standing),
        ("callback", Some(origin)) => Ok(Purpose::Callback { origin }),
        ("send", None) => Ok(Purpose::Send),
        _ => Err(Fail::defect(format!("unknown purpose `{word}` of a credential"))),
    }
}

const INSERT: &str = "
insert into credentials (id, entity, channel, name, enabled, config, secrets, mapping, filter, retry, state, state_code, state_text,
                         state_since, version, updated_at, project_id, created_at, purpose, origin)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)";

pub(super) async fn update(tx: &mut Conn, credential: &Credential) -> Result<(), Fail> {
    // Locked, so that the state is what it was before.
    let before = tx.first(sqlx::query(STATE).bind(credential.id.uuid())).await?;
    let before = before.map(|row| Ok::<_, Fail>(CredentialState::read(row.try_get(0)?)?)).transpose()?;
    let changed = tx.run(values(sqlx::query(UPDATE), credential)?).await?;
    if changed == 0 {
        return Err(StoreError::Stale.into());
    }
    tell(tx, credential.id, CredentialChange::Updated, credential.updated_at).await?;
    if before != Some(credential.state) {
        tell(tx, credential.id, CredentialChange::State, credential.updated_at).await?;
    }
    Ok(())
}

const STATE: &str = "select state from credentials where id = $1 for no key update";

/// Notes what happened to it, for those who follow live. Those that the host made for itself are nobody's to follow.
async fn tell(tx: &mut Conn, id: CredentialId, what: CredentialChange, at: Timestamp) -> Result<(), Fail> {
    let Some(row) = tx.first(sqlx::query(TOLD).bind(id.uuid())).await? else { return Ok(()) };
    let code: Option<&str> = row.try_get(4)?;
    let change = Change::Credential {
        credential: id,
        channel: Cow::Borrowed(row.try_get(1)?),
        what,
        enabled: row.try_get(2)?,
        state: CredentialState::read(row.try_get(3)?)?,
        code: code.and_then(told_code).map(Cow::Borrowed),
    };
    tx.tell(at, ProjectId::from_uuid(row.try_get(0)?), &change);
    Ok(())
}

const TOLD: &str = "select project_id, channel, enabled, state, state_code from credentials where id = $1 and purpose = 'standing'";

const UPDATE: &str = "
update credentials
   set entity = $2, channel = $3, name = $4, enabled = $5, config = $6, secrets = $7, mapping = $8, filter = $9, retry = $10,
       state = $11, state_code = $12, state_text = $13, state_since = $14, version = version + 1, updated_at = $16
 where id = $1 and version = $15";

/// What both statements take, in their order.
fn values<'q>(query: Ask<'q>, credential: &Credential) -> Result<Ask<'q>, Fail> {
    let reason = credential.state_reason.as_ref();
    Ok(query
        .bind(credential.id.uuid())
        .bind(plain_option(credential.entity.as_deref()))
        .bind(plain(&credential.channel))
        .bind(plain(&credential.name))
        .bind(credential.enabled)
        .bind(to_json(&credential.config)?)
        .bind(to_json(&credential.secrets)?)
        .bind(to_json(&credential.mapping)?)
        .bind(plain_option(credential.filter.as_deref()))
        .bind(credential.retry.as_ref().map(to_json).transpose()?)
        .bind(credential.state.word())
        .bind(reason.map(|reason| plain(&reason.code)))
        .bind(reason.map(|reason| plain(&reason.message)))
        .bind(credential.state_since.as_millis())
        .bind(credential.version)
        .bind(credential.updated_at.as_millis()))
}

pub(super) async fn sealing_keys(conn: &mut Conn) -> Result<Vec<String>, Fail> {
    conn.all(sqlx::query(SEALING_KEYS)).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

const SEALING_KEYS: &str =
    r#"select distinct s.value ->> 'key_id' collate "C" from credentials c cross join json_each(c.secrets::json) s order by 1"#;

pub(super) async fn set_pause(tx: &mut Conn, id: CredentialId, pause: Option<(Timestamp, Pause)>) -> Result<(), Fail> {
    let query = match pause {
        // What was given for one send is gone when its batch has ended, and a call's last word may come after that.
        Some((until, why)) => sqlx::query(SET_PAUSE).bind(id.uuid()).bind(until.as_millis()).bind(why.word()),
        None => sqlx::query("delete from lane_pauses where credential_id = $1").bind(id.uuid()),
    };
    tx.run(query).await.map(drop)
}

/// The credential's row is held, so that it is not deleted between the look and the write.
const SET_PAUSE: &str = "
insert into lane_pauses (credential_id, until, why)
select c.id, $2, $3 from (select id from credentials where id = $1 for key share) c
on conflict (credential_id) do update set until = excluded.until, why = excluded.why";

pub(super) async fn pause(conn: &mut Conn, id: CredentialId) -> Result<Option<(Timestamp, Pause)>, Fail> {
    let row = conn.first(sqlx::query("select until, why from lane_pauses where credential_id = $1").bind(id.uuid())).await?;
    row.map(|row| Ok((time(row.try_get(0)?), Pause::read(row.try_get(1)?)?))).transpose()
}

/// Deletes credentials and their small state.
pub(super) async fn delete(tx: &mut Conn, ids: &[CredentialId]) -> Result<(), Fail> {
    for sql in DELETE {
        tx.run(sqlx::query(sql).bind(ids.iter().map(|id| id.uuid()).collect::<Vec<_>>())).await?;
    }
    Ok(())
}

/// The credentials first, in the order of their ids: who deletes the same ones waits there.
const DELETE: [&str; 3] = [
    "with c as materialized (select id from credentials where id = any($1) order by id for update)
     delete from credentials using c where credentials.id = c.id",
    "delete from lane_pauses where credential_id = any($1)",
    "delete from kv where credential_id = any($1)",
];

/// `None`: no such credential. Else whether it is gone, and what changed.
pub(super) async fn delete_slice(tx: &mut Conn, id: CredentialId, now: Timestamp) -> Result<Option<(bool, Vec<Changed>)>, Fail> {
    if tx.first(sqlx::query("select 1 from credentials where id = $1").bind(id.uuid())).await?.is_none() {
        return Ok(None);
    }
    let (count, changed) = super::finish::cancel_lanes(tx, id, now, CANCEL_SLICE).await?;
    let gone = count < CANCEL_SLICE;
    if gone {
        tell(tx, id, CredentialChange::Deleted, now).await?;
        delete(tx, &[id]).await?;
    }
    Ok(Some((gone, changed)))
}

pub(super) async fn set_state(
    tx: &mut Conn,
    id: CredentialId,
    state: CredentialState,
    reason: Option<&StateReason>,
    since: Timestamp,
) -> Result<bool, Fail> {
    let query = sqlx::query("update credentials set state = $2, state_code = $3, state_text = $4, state_since = $5 where id = $1")
        .bind(id.uuid())
        .bind(state.word())
        .bind(reason.map(|reason| plain(&reason.code)))
        .bind(reason.map(|reason| plain(&reason.message)))
        .bind(since.as_millis());
    let done = tx.run(query).await? > 0;
    tell(tx, id, CredentialChange::State, since).await?;
    Ok(done)
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

fn credential_row(row: &PgRow) -> Result<Credential, Fail> {
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

pub(super) async fn credential(conn: &mut Conn, id: CredentialId) -> Result<Option<Credential>, Fail> {
    conn.first(sqlx::query(CREDENTIAL).bind(id.uuid())).await?.as_ref().map(credential_row).transpose()
}
const CREDENTIAL: &str = credentials!("where id = $1");

pub(super) async fn credentials(conn: &mut Conn, project: ProjectId) -> Result<Vec<Credential>, Fail> {
    conn.all(sqlx::query(CREDENTIALS).bind(project.uuid())).await?.iter().map(credential_row).collect()
}
const CREDENTIALS: &str = credentials!("where project_id = $1 and purpose = 'standing' order by id");
