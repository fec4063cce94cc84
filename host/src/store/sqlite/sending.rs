//! What callbacks to URLs go through: the host's own credentials, one for each origin, and the project's secrets.

use sqlx::{Row, SqlitePool};
use uuid::Uuid;

use super::to_json;
use super::writer::Tx;
use crate::model::{CallbackSecrets, Credential, CredentialId, ProjectId, Purpose};
use crate::store::StoreError;

pub(super) async fn callback_credential(pool: &SqlitePool, project: ProjectId, origin: &str) -> Result<Option<CredentialId>, StoreError> {
    let row = sqlx::query(BY_ORIGIN).bind(project.uuid()).bind(origin.to_owned()).fetch_optional(pool).await?;
    row.map(|row| Ok(CredentialId::from_uuid(row.try_get(0)?))).transpose()
}

pub(super) async fn ensure_callback_credential(
    tx: &mut Tx,
    credential: &Credential,
    most: u32,
) -> Result<Option<CredentialId>, StoreError> {
    let Purpose::Callback { origin } = &credential.purpose else {
        return Err(StoreError::Defect("a callback's credential has an origin".to_owned()));
    };
    let found = sqlx::query(BY_ORIGIN).bind(credential.project.uuid()).bind(origin.clone()).fetch_optional(&mut tx.conn).await?;
    if let Some(row) = found {
        return Ok(Some(CredentialId::from_uuid(row.try_get(0)?)));
    }
    let count: i64 = sqlx::query(COUNT).bind(credential.project.uuid()).fetch_one(&mut tx.conn).await?.try_get(0)?;
    if count >= i64::from(most) {
        return Ok(None);
    }
    super::credentials::insert(tx, credential)?;
    Ok(Some(credential.id))
}

pub(super) async fn callback_credentials(pool: &SqlitePool, project: ProjectId) -> Result<Vec<CredentialId>, StoreError> {
    let rows = sqlx::query(ALL).bind(project.uuid()).fetch_all(pool).await?;
    rows.iter().map(|row| Ok(CredentialId::from_uuid(row.try_get::<Uuid, _>(0)?))).collect()
}

pub(super) async fn set_callback_secrets(
    tx: &mut Tx,
    project: ProjectId,
    read: &CallbackSecrets,
    new: &CallbackSecrets,
) -> Result<bool, StoreError> {
    let query = sqlx::query(SET_SECRETS).bind(project.uuid()).bind(to_json(read)?).bind(to_json(new)?);
    Ok(query.execute(&mut tx.conn).await?.rows_affected() > 0)
}

const BY_ORIGIN: &str = "select id from credentials where project_id = $1 and origin = $2";
const COUNT: &str = "select count(*) from credentials where project_id = $1 and origin is not null";
const ALL: &str = "select id from credentials where project_id = $1 and origin is not null";
/// JSON is compared as text: it was written by the same code.
const SET_SECRETS: &str = "update projects set callback_secrets = $3 where id = $1 and callback_secrets = $2";

/// The statements, for the check of their plans.
#[cfg(test)]
pub(super) const READS: &[&str] = &[BY_ORIGIN, COUNT, ALL, SET_SECRETS];
