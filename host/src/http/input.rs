//! Reading requests: bodies within their limit, JSON with a pointer to what is wrong in it, queries, `Prefer`.

use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use super::bodies::Held;
use super::error::ApiError;
use super::frame::Correlation;
use super::strict::{self, Strict};
use super::wording::field_error;
use crate::app::App;
use crate::policy::pointer_step;

/// Longest wait of `Prefer: wait=N`.
const MAX_WAIT_S: u64 = 60;

/// A request's body with what belongs to it.
pub struct Input {
    #[allow(missing_docs)]
    pub path: String,
    #[allow(missing_docs)]
    pub headers: HeaderMap,
    #[allow(missing_docs)]
    pub correlation: String,
    /// Keeps the body's share of the room for bodies until the request has ended.
    held: Held,
}

impl FromRequest<App> for Input {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let held = app.bodies.read(body, &parts.headers, app.config.body_limit).await?;
        Ok(Self::new(parts, held))
    }
}

impl Input {
    /// A request with its body read.
    pub fn new(parts: Parts, held: Held) -> Self {
        let correlation = parts.extensions.get::<Correlation>().map(|id| id.0.clone()).unwrap_or_default();
        Self { path: parts.uri.path().to_owned(), headers: parts.headers, correlation, held }
    }

    /// The body.
    pub fn bytes(&self) -> &Bytes {
        &self.held.bytes
    }

    /// The body as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        self.check_content_type()?;
        // First without tracking where in the body it is, which costs; most bodies are right.
        strict::from_slice(self.bytes()).map_err(|_| self.explain::<T>())
    }

    /// The body as JSON; an empty one is the default.
    pub fn json_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, ApiError> {
        if self.bytes().is_empty() { Ok(T::default()) } else { self.json() }
    }

    fn check_content_type(&self) -> Result<(), ApiError> {
        let Some(kind) = self.headers.get(header::CONTENT_TYPE) else { return Ok(()) };
        let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json")) {
            return Ok(());
        }
        Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "the body must be application/json"))
    }

    #[cold]
    fn explain<T: DeserializeOwned>(&self) -> ApiError {
        let malformed = |detail: String| ApiError::new(StatusCode::BAD_REQUEST, "malformed_json", detail);
        if self.bytes().is_empty() {
            return malformed("the body is empty".into());
        }
        // A wrong type before a syntax error is still malformed JSON.
        if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(self.bytes()) {
            return malformed(error.to_string());
        }
        let mut reader = serde_json::Deserializer::from_slice(self.bytes());
        match serde_path_to_error::deserialize::<_, T>(Strict(&mut reader)) {
            Ok(_) => malformed("text follows the JSON value".into()),
            Err(error) => {
                let mut pointer = String::new();
                for segment in error.path() {
                    match segment {
                        Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
                        Segment::Map { key } => pointer.push_str(&format!("/{}", pointer_step(key))),
                        Segment::Enum { .. } | Segment::Unknown => {}
                    }
                }
                ApiError::fields(vec![field_error(pointer, &error.inner().to_string())])
            }
        }
    }
}

/// Query parameters; an unknown or unreadable one is 422.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Self(params)),
            Err(error) => Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_query", error.body_text())),
        }
    }
}

/// The seconds of `Prefer: wait=N`, at most 60.
pub fn wait(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']))
        .filter_map(|preference| {
            let (name, value) = preference.split_once('=')?;
            name.trim().eq_ignore_ascii_case("wait").then(|| value.trim().trim_matches('"').parse::<u64>().ok())?
        })
        .next()
        .map(|seconds| Duration::from_secs(seconds.min(MAX_WAIT_S)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefer_is_read_and_bounded() {
        for (text, seconds) in [
            ("wait=5", Some(5)),
            ("respond-async, Wait=10", Some(10)),
            ("wait=\"3\"", Some(3)),
            ("wait=900", Some(60)),
            ("wait=soon", None),
            ("respond-async", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", text.parse().unwrap());
            assert_eq!(wait(&headers), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
