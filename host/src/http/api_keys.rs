//! API keys: made, listed, revoked. A key's text is shown once.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::answer::{Answer, Once, acted, made};
use super::auth::{Caller, project_of_body};
use super::error::ApiError;
use super::input::{Input, Params};
use super::list::{self, Paging};
use super::trail;
use super::views::List;
use crate::app::App;
use crate::keys;
use crate::model::{ApiKey, AuditAction, KeyId, RateLimit, Scope, Timestamp};
use crate::policy::FieldError;
use crate::store::Act;

/// A new API key.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "site", "scopes": ["leads:write", "leads:read"], "rate": {"per_sec": 50, "burst": 100}}))]
pub struct NewKey {
    /// 1 to 255 characters.
    #[schema(min_length = 1, max_length = 255, pattern = r"\S")]
    pub name: String,
    /// At least one.
    #[schema(min_items = 1)]
    pub scopes: Vec<Scope>,
    /// The only project it sees; absent: all (or that of the key that makes it).
    #[serde(default)]
    pub project: Option<String>,
    /// Absent: it does not expire.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// How often it may be used; absent: as often as the host says for all (`key_rate` in its settings).
    #[serde(default)]
    pub rate: Option<RateLimit>,
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
    /// Of its own; absent: the host's for all.
    pub rate: Option<RateLimit>,
    /// The key that this one took over from.
    pub rotated_from: Option<String>,
    /// The key that takes over from this one, which ends at `expires_at`.
    pub replaced_by: Option<String>,
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
            rate: key.rate,
            rotated_from: key.rotated_from.map(|id| id.to_string()),
            replaced_by: key.replaced_by.map(|id| id.to_string()),
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
            last_used_at: key.last_used_at,
        }
    }
}

/// Who runs the host sets what is too much for it; an admin of a project only stays below that.
fn check_rate(app: &App, caller: &Caller, rate: RateLimit) -> Option<FieldError> {
    let wrong = |field: &str, detail: String| Some(FieldError::new(format!("/rate/{field}"), "invalid_value", detail));
    let most = app.config.key_rate.filter(|_| !caller.may(Scope::PlatformAdmin));
    for (field, value, most) in
        [("per_sec", rate.per_sec, most.map(|most| most.per_sec)), ("burst", rate.burst, most.map(|most| most.burst))]
    {
        if !(1..=RateLimit::MAX).contains(&value) {
            return wrong(field, format!("must be 1 to {}", RateLimit::MAX));
        }
        if let Some(most) = most.filter(|most| value > *most) {
            return wrong(field, format!("must be at most {most}, the host's own; more is for keys with `platform:admin` to give"));
        }
    }
    None
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
    errors.extend(body.rate.and_then(|rate| check_rate(&app, &caller, rate)));
    if !errors.is_empty() {
        return Err(errors.into());
    }
    if body.scopes.iter().any(|scope| !caller.may(*scope)) {
        caller.require(Scope::PlatformAdmin)?;
    }
    let once = Once::begin(&app, &caller, &input)?;
    let text = keys::new_text().map_err(|error| ApiError::internal(&error))?;
    let key = keys::new_key(body.name, &text, body.scopes, now);
    let key = ApiKey { project, rate: body.rate, expires_at: body.expires_at, ..key };
    let shown = MadeKey { view: key.clone().into(), key: text.expose() };
    let answer = Answer::new(StatusCode::CREATED, &shown)?.at(format!("/api/keys/{}", key.id));
    let keep = once.as_ref().map(|once| once.keep(&app, &answer));
    let line = caller.line(&app, AuditAction::KeyCreate, project, key.id, trail::key(None, Some(&key)));
    let done = app.store.act(Act::CreateKey(Box::new(key)), &line, keep).await?;
    made(&app, once.as_ref(), done, answer)
}

/// List API keys, oldest first
#[utoipa::path(get, path = "/api/keys", tag = "Administration", params(Paging), responses((status = 200, body = List<KeyView>)))]
pub async fn list(State(app): State<App>, caller: Caller, Params(paging): Params<Paging>) -> Result<Answer, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    let (after, limit) = (list::cursor(paging.cursor.as_deref())?, list::limit(paging.limit)?);
    let found = app.store.keys(caller.key.project, after.map(KeyId::from_uuid), limit).await?;
    Answer::ok(&list::page(found.items, found.has_more, |key| key.id.uuid(), |key| view(&app, key)))
}

/// With the last use that the store has not been told of yet.
fn view(app: &App, mut key: ApiKey) -> KeyView {
    key.last_used_at = key.last_used_at.max(app.last_use(key.id));
    key.into()
}

/// A key the caller may see, and change when `to_change`.
pub(super) async fn find(app: &App, caller: &Caller, id: &str, to_change: bool) -> Result<ApiKey, ApiError> {
    let missing = || ApiError::not_found("key");
    let id: KeyId = id.parse().map_err(|_| missing())?;
    let key = app.store.key(id).await?.ok_or_else(missing)?;
    if caller.key.project.is_some() && caller.key.project != key.project {
        return Err(missing());
    }
    if to_change && key.scopes.contains(&Scope::PlatformAdmin) {
        caller.require(Scope::PlatformAdmin)?;
    }
    Ok(key)
}

/// One API key
#[utoipa::path(get, path = "/api/keys/{id}", tag = "Administration", params(("id" = String, Path, description = "`key_…`")),
    responses((status = 200, body = KeyView)))]
pub async fn show(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Answer, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    Answer::ok(&view(&app, find(&app, &caller, &id, false).await?))
}

/// Revoke an API key
#[utoipa::path(delete, path = "/api/keys/{id}", tag = "Administration", params(("id" = String, Path, description = "`key_…`")),
    responses((status = 204, description = "Revoked, now or before")))]
pub async fn revoke(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    let key = find(&app, &caller, &id, true).await?;
    let now = app.now();
    let after = ApiKey { revoked_at: key.revoked_at.or(Some(now)), ..key.clone() };
    let line = caller.line(&app, AuditAction::KeyRevoke, key.project, key.id, trail::key(Some(&key), Some(&after)));
    acted(app.store.act(Act::RevokeKey { id: key.id, now }, &line, None).await?)?;
    app.keys_changed();
    Ok(StatusCode::NO_CONTENT)
}
