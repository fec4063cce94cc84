//! Who calls: the key in `X-API-Key` or `Authorization: Bearer`, its scopes, and the projects it sees.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};

use super::error::ApiError;
use super::frame::Correlation;
use super::server::Peer;
use crate::app::App;
use crate::keys;
use crate::model::{ApiKey, Project, ProjectId, Scope};
use crate::policy::FieldError;

/// An authenticated caller.
#[derive(Debug, Clone)]
pub struct Caller {
    #[allow(missing_docs)]
    pub key: Arc<ApiKey>,
    /// `X-Request-Id`.
    pub request_id: String,
    /// Address at the other end of the connection.
    pub peer: Option<IpAddr>,
}

fn key_text(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get("x-api-key") {
        return value.to_str().ok().map(str::trim);
    }
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, text) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| text.trim())
}

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let refused = |code, detail: &str| ApiError::new(StatusCode::UNAUTHORIZED, code, detail);
        let Some(text) = key_text(&parts.headers).filter(|text| !text.is_empty()) else {
            return Err(refused("key_missing", "send an API key in `X-API-Key` or `Authorization: Bearer`"));
        };
        let now = app.now();
        // What is no key's text is not looked up. Guesses need no limit of their own: a key has 200 random bits, and one by
        // address would shut out everyone behind the same proxy.
        let found = if keys::is_strong(text) { app.key(&keys::hash(text)).await? } else { None };
        let Some(key) = found.filter(|key| key.revoked_at.is_none()) else {
            return Err(refused("key_invalid", "there is no such API key"));
        };
        if key.expires_at.is_some_and(|at| at <= now) {
            return Err(refused("key_expired", "the API key has expired"));
        }
        app.key_used(key.id, now);
        app.limits.check(&key, app.config.key_rate, now)?;
        let request_id = parts.extensions.get::<Correlation>().map(|id| id.0.clone()).unwrap_or_default();
        Ok(Self { key, request_id, peer: parts.extensions.get::<Peer>().map(|peer| peer.0) })
    }
}

impl Caller {
    /// Whether the key's scopes, or those that include it, allow `scope`.
    pub fn may(&self, scope: Scope) -> bool {
        self.key.scopes.iter().any(|held| match held {
            Scope::PlatformAdmin => true,
            Scope::ProjectAdmin => scope != Scope::PlatformAdmin,
            held => *held == scope,
        })
    }

    /// 403 without the scope.
    pub fn require(&self, scope: Scope) -> Result<(), ApiError> {
        if self.may(scope) {
            return Ok(());
        }
        let name = serde_json::to_value(scope).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
        Err(ApiError::new(StatusCode::FORBIDDEN, "insufficient_scope", format!("the key needs the scope `{name}`")))
    }

    /// Whether the key sees this project.
    pub fn sees(&self, project: ProjectId) -> bool {
        self.key.project.is_none_or(|own| own == project)
    }

    /// 404 for what belongs to another project.
    pub fn check(&self, project: ProjectId, what: &str) -> Result<(), ApiError> {
        if self.sees(project) { Ok(()) } else { Err(ApiError::not_found(what)) }
    }
}

/// The project by `prj_…` or `ext:…`, if there is one and the key sees it.
pub async fn find_project(app: &App, caller: &Caller, text: &str) -> Result<Option<Arc<Project>>, ApiError> {
    let found = match text.strip_prefix("ext:") {
        Some(external_id) => app.project_by_external_id(external_id).await?,
        None => match text.parse() {
            Ok(id) => app.project(id).await?,
            Err(_) => None,
        },
    };
    Ok(found.filter(|project| caller.sees(project.id)))
}

/// The project that a body names, else the key's own.
pub async fn project_of_body(app: &App, caller: &Caller, text: Option<&str>, pointer: &str) -> Result<Arc<Project>, ApiError> {
    let found = match (text, caller.key.project) {
        (Some(text), _) => find_project(app, caller, text).await?,
        (None, Some(own)) => app.project(own).await?,
        (None, None) => {
            return Err(ApiError::field(pointer, "project_required", "the key belongs to no project, so the body must name one"));
        }
    };
    found.ok_or_else(|| {
        let detail = "there is no such project; give its id, or `ext:` and your own id of it";
        let errors = vec![FieldError::new(pointer, "unknown_project", detail)];
        ApiError { errors, ..ApiError::new(StatusCode::NOT_FOUND, "unknown_project", detail) }
    })
}
