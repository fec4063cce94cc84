//! Answers, and keeping them for requests that come twice (`Idempotency-Key`).

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::auth::Caller;
use super::error::ApiError;
use super::input::Input;
use crate::app::{App, Running};
use crate::secrets::Vault;
use crate::store::{Acted, Idempotency, StoredAnswer, Written};

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 3_600);
/// Longest `Idempotency-Key`.
const MAX_KEY: usize = 255;
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// A JSON answer.
#[derive(Debug, Clone)]
pub struct Answer {
    #[allow(missing_docs)]
    pub status: StatusCode,
    #[allow(missing_docs)]
    pub location: Option<String>,
    #[allow(missing_docs)]
    pub body: Vec<u8>,
    replayed: bool,
}

impl Answer {
    #[allow(missing_docs)]
    pub fn new(status: StatusCode, view: &impl Serialize) -> Result<Self, ApiError> {
        let body = serde_json::to_vec(view).map_err(|error| ApiError::internal(&error))?;
        Ok(Self { status, location: None, body, replayed: false })
    }

    #[allow(missing_docs)]
    pub fn ok(view: &impl Serialize) -> Result<Self, ApiError> {
        Self::new(StatusCode::OK, view)
    }

    /// With `Location`.
    #[must_use]
    pub fn at(mut self, location: String) -> Self {
        self.location = Some(location);
        self
    }

    fn seal(&self, vault: &Vault, scope: &[u8; 32]) -> StoredAnswer {
        let location = self.location.as_deref().unwrap_or_default();
        let mut plain = Vec::with_capacity(location.len() + 1 + self.body.len());
        plain.extend_from_slice(location.as_bytes());
        plain.push(b'\n');
        plain.extend_from_slice(&self.body);
        let mut body = Vec::new();
        // Sealing fails only without random bytes; then nothing is kept that could be opened.
        if let Ok(sealed) = vault.seal(scope, &plain) {
            body.reserve(sealed.key_id.len() + 1 + sealed.bytes.len());
            body.extend_from_slice(sealed.key_id.as_bytes());
            body.push(b'\n');
            body.extend_from_slice(&sealed.bytes);
        }
        StoredAnswer { status: self.status.as_u16(), body }
    }

    fn unseal(stored: &StoredAnswer, vault: &Vault, scope: &[u8; 32]) -> Option<Self> {
        let (key_id, sealed) = split(&stored.body)?;
        let plain = vault.open(std::str::from_utf8(key_id).ok()?, scope, sealed).ok()?;
        let (location, body) = split(&plain)?;
        let location = std::str::from_utf8(location).ok().filter(|text| !text.is_empty()).map(str::to_owned);
        Some(Self { status: StatusCode::from_u16(stored.status).ok()?, location, body: body.to_vec(), replayed: true })
    }
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if self.status != StatusCode::NO_CONTENT {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(location) = self.location.and_then(|location| HeaderValue::try_from(location).ok()) {
            headers.insert(header::LOCATION, location);
        }
        if self.replayed {
            headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

/// A request's `Idempotency-Key`, held until the request ends.
pub struct Once {
    #[allow(missing_docs)]
    pub key: Idempotency,
    _running: Running,
}

impl Once {
    /// `None` without the header; 409 while a request with the same key runs.
    pub fn begin(app: &App, caller: &Caller, input: &Input) -> Result<Option<Self>, ApiError> {
        let Some(value) = input.headers.get("idempotency-key") else { return Ok(None) };
        let text = value.to_str().ok().map(str::trim).filter(|text| (1..=MAX_KEY).contains(&text.len()));
        let Some(text) = text else {
            let detail = "`Idempotency-Key` must have 1 to 255 visible characters";
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "invalid_idempotency_key", detail));
        };
        let scope: [u8; 32] = Sha256::new()
            .chain_update(caller.key.id.uuid().as_bytes())
            .chain_update(input.path.as_bytes())
            .chain_update([0])
            .chain_update(text.as_bytes())
            .finalize()
            .into();
        let Some(running) = app.begin(scope) else {
            let detail = "a request with this `Idempotency-Key` is still running";
            return Err(ApiError { retry_after: Some(1), ..ApiError::conflict("idempotency_in_progress", detail) });
        };
        let key = Idempotency { scope, body_hash: Sha256::digest(input.bytes()).into(), expires_at: app.now().plus(KEPT) };
        Ok(Some(Self { key, _running: running }))
    }

    /// The answer to keep for this key.
    pub fn keep(&self, app: &App, answer: &Answer) -> (Idempotency, StoredAnswer) {
        (self.key.clone(), answer.seal(&app.vault, &self.key.scope))
    }

    /// The first answer again.
    pub fn replay(&self, app: &App, stored: &StoredAnswer) -> Result<Answer, ApiError> {
        Answer::unseal(stored, &app.vault, &self.key.scope)
            .ok_or_else(|| ApiError::internal(&"the kept answer of an Idempotency-Key cannot be opened"))
    }

    /// The first answer, if the same request was done before.
    pub async fn earlier(&self, app: &App) -> Result<Option<Answer>, ApiError> {
        match app.store.idempotent(&self.key, app.now()).await? {
            Some(Written::Replayed(stored)) => self.replay(app, &stored).map(Some),
            Some(Written::KeyReused) => Err(key_reused()),
            Some(Written::New(())) | None => Ok(None),
        }
    }
}

/// Seals answers inside the store's transaction.
pub fn sealer(app: &App, once: &Once) -> impl Fn(&Answer) -> StoredAnswer + Send + Sync + 'static {
    let (vault, scope) = (std::sync::Arc::clone(&app.vault), once.key.scope);
    move |answer| answer.seal(&vault, &scope)
}

/// 422: the key was used with another body.
pub fn key_reused() -> ApiError {
    let detail = "this `Idempotency-Key` was used with another body; use a new key for another request";
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", detail)
}

/// Turns what a creating write returned into the answer.
pub fn written<T>(app: &App, once: Option<&Once>, done: Written<T>, answer: Answer) -> Result<Answer, ApiError> {
    match (done, once) {
        (Written::New(_), _) => Ok(answer),
        (Written::Replayed(stored), Some(once)) => once.replay(app, &stored),
        (Written::Replayed(_), None) => Err(ApiError::internal(&"an answer was replayed without a key")),
        (Written::KeyReused, _) => Err(key_reused()),
    }
}

/// The same for what is made by an act: then there is always something to do.
pub fn made(app: &App, once: Option<&Once>, done: Option<Written<Acted>>, answer: Answer) -> Result<Answer, ApiError> {
    let done = done.ok_or_else(|| ApiError::internal(&"what was to be made was not written"))?;
    written(app, once, done, answer)
}

/// What an act did; `None`: there was nothing to do. For acts that keep no answer with what they write.
pub fn acted(done: Option<Written<Acted>>) -> Result<Option<Acted>, ApiError> {
    match done {
        None => Ok(None),
        Some(Written::New(acted)) => Ok(Some(acted)),
        Some(Written::Replayed(_) | Written::KeyReused) => Err(ApiError::internal(&"an answer was replayed without a key")),
    }
}

/// Runs an action whose effect is not written with its answer. It may be done again after a crash in between, so only
/// actions that may happen twice go through here.
pub async fn once(
    app: &App,
    caller: &Caller,
    input: &Input,
    action: impl Future<Output = Result<Answer, ApiError>>,
) -> Result<Answer, ApiError> {
    let Some(once) = Once::begin(app, caller, input)? else { return action.await };
    if let Some(answer) = once.earlier(app).await? {
        return Ok(answer);
    }
    let answer = action.await?;
    let (key, stored) = once.keep(app, &answer);
    app.store.keep_answer(&key, &stored, app.now()).await?;
    Ok(answer)
}
