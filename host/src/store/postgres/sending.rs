//! What callbacks to URLs go through: the host's own credentials, one for each origin, and the project's secrets.

use sqlx::Row;
use uuid::Uuid;

use super::error::Fail;
use super::pool::Conn;
use super::read::plain;
use super::to_json;
use crate::model::{CallbackSecrets, Credential, CredentialId, ProjectId, Purpose};

pub(super) async fn callback_credential(conn: &mut Conn, project: ProjectId, origin: &str) -> Result<Option<CredentialId>, Fail> {
    let row = conn.first(sqlx::query(BY_ORIGIN).bind(project.uuid()).bind(plain(origin))).await?;
    row.map(|row| Ok(CredentialId::from_uuid(row.try_get(0)?))).transpose()
}

pub(super) async fn ensure_callback_credential(tx: &mut Conn, credential: &Credential, most: u32) -> Result<Option<CredentialId>, Fail> {
    let Purpose::Callback { origin } = &credential.purpose else {
        return Err(Fail::defect("a callback's credential has an origin"));
    };
    // One at a time for each project: else two could find room for one.
    super::lock_on(tx, credential.project.uuid()).await?;
    if let Some(found) = callback_credential(tx, credential.project, origin).await? {
        return Ok(Some(found));
    }
    let count: i64 = tx.one(sqlx::query(COUNT).bind(credential.project.uuid())).await?.try_get(0)?;
    if count >= i64::from(most) {
        return Ok(None);
    }
    super::credentials::insert(tx, credential).await?;
    Ok(Some(credential.id))
}

pub(super) async fn callback_credentials(conn: &mut Conn, project: ProjectId) -> Result<Vec<CredentialId>, Fail> {
    let rows = conn.all(sqlx::query(ALL).bind(project.uuid())).await?;
    rows.iter().map(|row| Ok(CredentialId::from_uuid(row.try_get::<Uuid, _>(0)?))).collect()
}

pub(super) async fn set_callback_secrets(
    tx: &mut Conn,
    project: ProjectId,
    read: &CallbackSecrets,
    new: &CallbackSecrets,
) -> Result<bool, Fail> {
    Ok(tx.run(sqlx::query(SET_SECRETS).bind(project.uuid()).bind(to_json(read)?).bind(to_json(new)?)).await? > 0)
}

const BY_ORIGIN: &str = "select id from credentials where project_id = $1 and origin = $2";
const COUNT: &str = "select count(*) from credentials where project_id = $1 and origin is not null";
const ALL: &str = "select id from credentials where project_id = $1 and origin is not null";
/// JSON is compared as text: it was written by the same code. A project that has none yet has the text `{}`.
const SET_SECRETS: &str = "update projects set callback_secrets = $3 where id = $1 and callback_secrets = $2";
