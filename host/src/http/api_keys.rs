//! API keys: made, listed, revoked. A key's text is shown once.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::answer::{Answer, Once, written};
use super::auth::{Caller, project_of_body};
use super::error::ApiError;
use super::input::{Input, Params};
use super::list::{self, Paging};
use super::views::List;
use crate::app::App;
use crate::keys;
use crate::model::{ApiKey, KeyId, Scope, Timestamp};
use crate::policy::FieldError;

/// A new API key.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// 1 to 255 characters.
    pub name: String,
    /// At least one.
    pub scopes: Vec<Scope>,
    /// The only project it sees; absent: all (or that of the key that makes it).
    #[serde(default)]
    pub project: Option<String>,
    /// Absent: it does not expire.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

/// An API key.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(missing_docs)]
pub struct KeyView {
    /// `key_…`
    pub id: String,
    pub name: String,
    /// The first characters of its text.
    pub hint: String,
    pub scopes: Vec<Scope>,
    pub project: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
}

/// A new API key with its text.
#[derive(Serialize, utoipa::ToSchema)]
pub struct MadeKey<'a> {
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub view: KeyView,
    /// `lw_…`; shown here and never again.
    pub key: &'a str,
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id.to_string(),
            name: key.name,
            hint: key.hint,
            scopes: key.scopes,
            project: key.project.map(|project| project.to_string()),
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
            last_used_at: key.last_used_at,
        }
    }
}

/// Create an API key
#[utoipa::path(post, path = "/api/keys", tag = "Administration", request_body = NewKey, responses((status = 201, body = MadeKey)))]
pub async fn create(State(app): State<App>, caller: Caller, input: Input) -> Result<Answer, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    let mut body: NewKey = input.json()?;
    let project = match (&body.project, caller.key.project) {
        (None, own) => own,
        (text, _) => Some(project_of_body(&app, &caller, text.as_deref(), "/project").await?.id),
    };
    body.scopes.sort_unstable();
    body.scopes.dedup();
    let now = app.now();
    let mut errors = Vec::new();
    if body.name.trim().is_empty() || body.name.chars().count() > 255 {
        errors.push(FieldError::new("/name", "invalid_length", "must have 1 to 255 characters"));
    }
    if body.scopes.is_empty() {
        errors.push(FieldError::new("/scopes", "required", "must name at least one scope"));
    }
    if body.scopes.contains(&Scope::PlatformAdmin) && project.is_some() {
        errors.push(FieldError::new("/scopes", "invalid_value", "a key with `platform:admin` belongs to no project"));
    }
    if body.expires_at.is_some_and(|at| at <= now) {
        errors.push(FieldError::new("/expires_at", "invalid_value", "must be in the future"));
    }
    if !errors.is_empty() {
        return Err(errors.into());
    }
    if body.scopes.iter().any(|scope| !caller.may(*scope)) {
        caller.require(Scope::PlatformAdmin)?;
    }
    let once = Once::begin(&app, &caller, &input)?;
    let text = keys::new_text().map_err(|error| ApiError::internal(&error))?;
    let key = ApiKey {
        id: KeyId::new(now),
        name: body.name,
        hash: keys::hash(text.expose()),
        hint: keys::hint(text.expose()),
        scopes: body.scopes,
        project,
        created_at: now,
        expires_at: body.expires_at,
        revoked_at: None,
        last_used_at: None,
    };
    let made = MadeKey { view: key.clone().into(), key: text.expose() };
    let answer = Answer::new(StatusCode::CREATED, &made)?.at(format!("/api/keys/{}", key.id));
    let keep = once.as_ref().map(|once| once.keep(&app, &answer));
    let done = app.store.create_key(&key, keep).await?;
    written(&app, once.as_ref(), done, answer)
}

/// List API keys, oldest first
#[utoipa::path(get, path = "/api/keys", tag = "Administration", params(Paging), responses((status = 200, body = List<KeyView>)))]
pub async fn list(State(app): State<App>, caller: Caller, Params(paging): Params<Paging>) -> Result<Answer, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    let (after, limit) = (list::cursor(paging.cursor.as_deref())?, list::limit(paging.limit)?);
    let found = app.store.keys(caller.key.project, after.map(KeyId::from_uuid), limit).await?;
    Answer::ok(&list::page(found.items, found.has_more, |key| key.id.uuid(), KeyView::from))
}

/// A key the caller may see, and change when `to_revoke`.
async fn find(app: &App, caller: &Caller, id: &str, to_revoke: bool) -> Result<ApiKey, ApiError> {
    let missing = || ApiError::not_found("key");
    let id: KeyId = id.parse().map_err(|_| missing())?;
    let key = app.store.key(id).await?.ok_or_else(missing)?;
    if caller.key.project.is_some() && caller.key.project != key.project {
        return Err(missing());
    }
    if to_revoke && key.scopes.contains(&Scope::PlatformAdmin) {
        caller.require(Scope::PlatformAdmin)?;
    }
    Ok(key)
}

/// One API key
#[utoipa::path(get, path = "/api/keys/{id}", tag = "Administration", params(("id" = String, Path, description = "`key_…`")),
    responses((status = 200, body = KeyView)))]
pub async fn show(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Answer, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    Answer::ok(&KeyView::from(find(&app, &caller, &id, false).await?))
}

/// Revoke an API key
#[utoipa::path(delete, path = "/api/keys/{id}", tag = "Administration", params(("id" = String, Path, description = "`key_…`")),
    responses((status = 204, description = "Revoked, now or before")))]
pub async fn revoke(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    let key = find(&app, &caller, &id, true).await?;
    app.store.revoke_key(key.id, app.now()).await?;
    app.keys_changed();
    Ok(StatusCode::NO_CONTENT)
}
