//! What a project's callbacks to URLs are signed with. Made by itself when the first one is needed; rotated with an overlap,
//! in which requests carry both signatures.

use std::time::Duration;

use axum::extract::{Path, State};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize};

use super::answer::{Answer, acted, once};
use super::auth::{Caller, find_project};
use super::error::ApiError;
use super::input::Input;
use super::trail;
use crate::app::App;
use crate::model::{AuditAction, CallbackSecrets, Project, ProjectId, Scope, SealedSecret, Timestamp};
use crate::secrets::{SecretText, callback_secret_aad};
use crate::store::Act;

const PREFIX: &str = "whsec_";
/// Bytes of a key, as Standard Webhooks has them.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
const NEW_KEY_BYTES: usize = 32;
const DEFAULT_OVERLAP_SEC: u32 = 86_400;
const MAX_OVERLAP_SEC: u32 = 2_592_000;

/// All that is shown of a project's callback secret.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct CallbackSecretView {
    #[allow(missing_docs)]
    pub set: bool,
    #[schema(value_type = Option<String>, format = DateTime)]
    #[allow(missing_docs)]
    pub updated_at: Option<Timestamp>,
    /// Until then the secret before it signs as well.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub previous_until: Option<Timestamp>,
}

impl From<&CallbackSecrets> for CallbackSecretView {
    fn from(secrets: &CallbackSecrets) -> Self {
        Self {
            set: secrets.current.is_some(),
            updated_at: secrets.current.as_ref().map(|sealed| sealed.updated_at),
            previous_until: secrets.previous.as_ref().map(|(_, until)| *until),
        }
    }
}

/// A new callback secret.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// `whsec_` and 24 to 64 bytes in base64; one is made without it.
    #[serde(default, deserialize_with = "secret")]
    #[schema(value_type = Option<String>, write_only)]
    pub secret: Option<SecretText>,
    /// Seconds for which the secret before it signs as well, up to 30 days. Default a day.
    #[serde(default)]
    #[schema(maximum = 2_592_000)]
    pub overlap_sec: Option<u32>,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretText>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(SecretText::new))
}

/// The new secret; its text is shown here and nowhere else.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Rotated {
    /// Only when the host made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Until then the secret before it signs as well.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub previous_until: Option<Timestamp>,
}

/// Change the secret that callbacks are signed with
///
/// Until `previous_until`, requests carry the signatures of both, so that receivers can change over.
#[utoipa::path(post, path = "/api/projects/{id}/callback-secret", tag = "Administration", request_body = Rotation,
    params(("id" = String, Path, description = "`prj_…`, or `ext:` and your own id")), responses((status = 200, body = Rotated)))]
pub async fn rotate(State(app): State<App>, caller: Caller, Path(id): Path<String>, input: Input) -> Result<Answer, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    let body: Rotation = input.json_or_default()?;
    let project = find_project(&app, &caller, &id).await?.ok_or_else(|| ApiError::not_found("project"))?;
    let overlap = body.overlap_sec.unwrap_or(DEFAULT_OVERLAP_SEC);
    if overlap > MAX_OVERLAP_SEC {
        return Err(ApiError::field("/overlap_sec", "invalid_value", "must be at most 2592000 (30 days)"));
    }
    if body.secret.as_ref().is_some_and(|secret| !is_key(secret.expose())) {
        let detail = "must be `whsec_` followed by 24 to 64 bytes in base64";
        return Err(ApiError::field("/secret", "invalid_secret", detail));
    }
    let made = body.secret.is_none();
    once(&app, &caller, &input, async {
        let secret = body.secret.map_or_else(generate, Ok)?;
        let project = stored(&app, project.id).await?;
        let now = app.now();
        let read = project.callback_secrets.clone();
        let until = now.plus(Duration::from_secs(u64::from(overlap)));
        let previous = read.current.clone().filter(|_| overlap > 0).map(|sealed| (sealed, until));
        let previous_until = previous.as_ref().map(|(_, until)| *until);
        let new = CallbackSecrets { current: Some(seal(&app, project.id, &secret)?), previous };
        let after = Project { callback_secrets: new.clone(), ..project.clone() };
        let line = caller.line(
            &app,
            AuditAction::CallbackSecretRotate,
            Some(project.id),
            project.id,
            trail::project(Some(&project), Some(&after)),
        );
        let act = Act::SetCallbackSecrets { project: project.id, read: Box::new(read), new: Box::new(new) };
        if acted(app.store.act(act, &line, None).await?)?.is_none() {
            return Err(ApiError::conflict("stale", "someone else changed it at the same moment; read it again"));
        }
        changed(&app, project.id).await?;
        Answer::ok(&Rotated { secret: made.then(|| secret.expose().to_owned()), previous_until })
    })
    .await
}

/// What the store has now, not what the cache had a moment ago.
async fn stored(app: &App, id: ProjectId) -> Result<Project, ApiError> {
    app.store.project(id).await?.ok_or_else(|| ApiError::not_found("project"))
}

async fn changed(app: &App, project: ProjectId) -> Result<(), ApiError> {
    app.projects_changed();
    for id in app.store.callback_credentials(project).await? {
        app.lanes.credential_changed(id);
    }
    Ok(())
}

/// Makes a secret for a project that has none, so that no callback goes out unsigned.
pub async fn ensure(app: &App, project: ProjectId) -> Result<(), ApiError> {
    let cached = app.project(project).await?;
    if cached.is_some_and(|project| project.callback_secrets.current.is_some()) {
        return Ok(());
    }
    let read = stored(app, project).await?.callback_secrets;
    if read.current.is_none() {
        let new = CallbackSecrets { current: Some(seal(app, project, &generate()?)?), previous: None };
        // Should another request have made one at this moment, that one stands.
        app.store.set_callback_secrets(project, &read, &new).await?;
    }
    changed(app, project).await
}

fn generate() -> Result<SecretText, ApiError> {
    let mut key = zeroize::Zeroizing::new([0_u8; NEW_KEY_BYTES]);
    getrandom::fill(&mut key[..]).map_err(|error| ApiError::internal(&error))?;
    Ok(SecretText::new(format!("{PREFIX}{}", STANDARD.encode(&key[..]))))
}

fn is_key(text: &str) -> bool {
    let key = text.strip_prefix(PREFIX).and_then(|key| STANDARD.decode(key).ok()).map(zeroize::Zeroizing::new);
    key.is_some_and(|key| KEY_BYTES.contains(&key.len()))
}

fn seal(app: &App, project: ProjectId, secret: &SecretText) -> Result<SealedSecret, ApiError> {
    let aad = callback_secret_aad(project);
    let sealed = app.vault.seal(aad.as_bytes(), secret.expose().as_bytes()).map_err(|error| ApiError::internal(&error))?;
    Ok(SealedSecret { key_id: sealed.key_id, sealed: sealed.bytes, updated_at: app.now() })
}
