//! Rotation of API keys: a new text beside the old one, which goes on for a while.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::answer::{Answer, Once, written};
use super::api_keys::{MadeKey, find};
use super::auth::Caller;
use super::error::ApiError;
use super::input::Input;
use super::trail;
use crate::app::App;
use crate::keys;
use crate::model::{ApiKey, AuditAction, KeyId, Scope, Timestamp};
use crate::store::Act;

const DEFAULT_OVERLAP_SEC: u32 = 86_400;
/// 30 days.
const MAX_OVERLAP_SEC: u32 = 2_592_000;

/// How a key is rotated.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(example = json!({"overlap_sec": 86400}))]
pub struct KeyRotation {
    /// Seconds for which the old key goes on, up to 30 days; 0: it ends at once. Default a day.
    #[schema(maximum = 2_592_000)]
    pub overlap_sec: Option<u32>,
    /// End of the new key. Without it, a key that has an end lives as long again as the old one was made for.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

/// Why this key is not rotated.
fn refusal(key: &ApiKey, now: Timestamp) -> Option<ApiError> {
    let refused = |code, detail: String| Some(ApiError::conflict(code, detail));
    if key.revoked_at.is_some() {
        return refused("key_revoked", "the key is revoked; make a new one".into());
    }
    if let Some(next) = key.replaced_by {
        return refused("key_replaced", format!("the key was rotated already; {next} takes over from it"));
    }
    if key.expires_at.is_some_and(|at| at <= now) {
        return refused("key_expired", "the key has expired; make a new one".into());
    }
    None
}

fn successor(old: &ApiKey, expires_at: Option<Timestamp>, text: &str, now: Timestamp) -> ApiKey {
    let lifetime = |end: Timestamp| now.plus(end.since(old.created_at));
    ApiKey {
        id: KeyId::new(now),
        hash: keys::hash(text),
        hint: keys::hint(text),
        rotated_from: Some(old.id),
        created_at: now,
        expires_at: expires_at.or(old.expires_at.map(lifetime)),
        last_used_at: None,
        ..old.clone()
    }
}

/// Rotate an API key
///
/// Answers with a new key that may do what the old one may. Both work until the overlap's end, which becomes the old one's
/// `expires_at`; its `replaced_by` names the new one.
#[utoipa::path(post, path = "/api/keys/{id}/rotate", tag = "Administration", request_body = KeyRotation,
    params(("id" = String, Path, description = "`key_…`")), responses((status = 201, body = MadeKey)))]
pub async fn rotate(State(app): State<App>, caller: Caller, Path(id): Path<String>, input: Input) -> Result<Answer, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    let body: KeyRotation = input.json_or_default()?;
    let overlap = body.overlap_sec.unwrap_or(DEFAULT_OVERLAP_SEC);
    if overlap > MAX_OVERLAP_SEC {
        return Err(ApiError::field("/overlap_sec", "invalid_value", "must be at most 2592000 (30 days)"));
    }
    let now = app.now();
    if body.expires_at.is_some_and(|at| at <= now) {
        return Err(ApiError::field("/expires_at", "invalid_value", "must be in the future"));
    }
    let old = find(&app, &caller, &id, true).await?;
    let once = Once::begin(&app, &caller, &input)?;
    if let Some(once) = &once
        && let Some(answer) = once.earlier(&app).await?
    {
        return Ok(answer);
    }
    if let Some(refused) = refusal(&old, now) {
        return Err(refused);
    }
    let text = keys::new_text().map_err(|error| ApiError::internal(&error))?;
    let new = successor(&old, body.expires_at, text.expose(), now);
    let until = now.plus(Duration::from_secs(u64::from(overlap)));
    let answer = Answer::new(StatusCode::CREATED, &MadeKey { view: new.clone().into(), key: text.expose() })?;
    let answer = answer.at(format!("/api/keys/{}", new.id));
    let after = ApiKey { replaced_by: Some(new.id), expires_at: Some(old.expires_at.map_or(until, |end| end.min(until))), ..old.clone() };
    let line = caller.line(&app, AuditAction::KeyRotate, old.project, old.id, trail::key(Some(&old), Some(&after)));
    let keep = once.as_ref().map(|once| once.keep(&app, &answer));
    let done = app.store.act(Act::RotateKey { old: old.id, until, now, new: Box::new(new) }, &line, keep).await?;
    app.keys_changed();
    match done {
        Some(done) => written(&app, once.as_ref(), done, answer),
        // Someone else was first.
        None => {
            let old = find(&app, &caller, &id, true).await?;
            Err(refusal(&old, now).unwrap_or_else(|| ApiError::conflict("stale", "someone else changed it at the same moment")))
        }
    }
}
