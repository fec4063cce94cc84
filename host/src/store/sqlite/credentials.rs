//! Credentials: settings and sealed secrets.

use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Row, Sqlite, SqlitePool};

use super::admin::Keep;
use super::read::{json, json_column, time};
use super::words::Word;
use super::writer::Tx;
use super::{answers, to_json};
use crate::model::{Credential, CredentialId, CredentialState, ProjectId, Purpose, StateReason, Timestamp};
use crate::store::{StoreError, Written};

pub(super) async fn create(tx: &mut Tx, credential: &Credential, keep: &Keep) -> Result<Written<()>, StoreError> {
    if let Some(written) = answers::before(tx, keep.as_ref(), credential.created_at).await? {
        return Ok(written);
    }
    insert(tx, credential).await?;
    answers::after(tx, keep.as_ref()).await?;
    Ok(Written::New(()))
}

pub(super) async fn insert(tx: &mut Tx, credential: &Credential) -> Result<(), StoreError> {
    let (purpose, origin) = match &credential.purpose {
        Purpose::Standing => ("standing", None),
        Purpose::Callback { origin } => ("callback", Some(origin.clone())),
        Purpose::Send => ("send", None),
    };
    bind(sqlx::query(INSERT), credential)?
        .bind(credential.project.uuid())
        .bind(credential.created_at.as_millis())
        .bind(purpose)
        .bind(origin)
        .execute(&mut tx.conn)
        .await?;
    Ok(())
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
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)";

pub(super) async fn update(tx: &mut Tx, credential: &Credential) -> Result<(), StoreError> {
    let done = bind(sqlx::query(UPDATE), credential)?.execute(&mut tx.conn).await?;
    if done.rows_affected() == 0 { Err(StoreError::Stale) } else { Ok(()) }
}

const UPDATE: &str = "
update credentials
   set entity = $2, channel = $3, name = $4, enabled = $5, config = $6, secrets = $7, mapping = $8, filter = $9, retry = $10,
       state = $11, state_code = $12, state_text = $13, state_since = $14, version = version + 1, updated_at = $16
 where id = $1 and version = $15";

type SqliteQuery<'q> = Query<'q, Sqlite, SqliteArguments>;

/// Binds what both statements take, in their order.
fn bind<'q>(query: SqliteQuery<'q>, credential: &Credential) -> Result<SqliteQuery<'q>, StoreError> {
    let reason = credential.state_reason.as_ref();
    Ok(query
        .bind(credential.id.uuid())
        .bind(credential.entity.clone())
        .bind(credential.channel.clone())
        .bind(credential.name.clone())
        .bind(credential.enabled)
        .bind(to_json(&credential.config)?)
        .bind(to_json(&credential.secrets)?)
        .bind(to_json(&credential.mapping)?)
        .bind(credential.filter.clone())
        .bind(credential.retry.as_ref().map(to_json).transpose()?)
        .bind(credential.state.word())
        .bind(reason.map(|reason| reason.code.clone()))
        .bind(reason.map(|reason| reason.message.clone()))
        .bind(credential.state_since.as_millis())
        .bind(credential.version)
        .bind(credential.updated_at.as_millis()))
}

pub(super) async fn exists(tx: &mut Tx, id: CredentialId) -> Result<bool, StoreError> {
    let query = sqlx::query("select 1 from credentials where id = $1").bind(id.uuid());
    Ok(query.fetch_optional(&mut tx.conn).await?.is_some())
}

/// Deletes the credential and its small state.
pub(super) async fn delete(tx: &mut Tx, id: CredentialId) -> Result<(), StoreError> {
    let query = sqlx::query("delete from kv where credential_id = $1; delete from credentials where id = $1").bind(id.uuid());
    query.execute(&mut tx.conn).await?;
    Ok(())
}

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

/// The statements of readers, for the check of their plans.
#[cfg(test)]
pub(super) const READS: &[&str] = &[CREDENTIAL, CREDENTIALS];
