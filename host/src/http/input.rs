//! Reading requests: bodies within their limit, JSON with a pointer to what is wrong in it, queries, `Prefer`.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use super::error::ApiError;
use super::frame::Correlation;
use crate::app::App;
use crate::policy::{FieldError, pointer_step};

/// Longest wait of `Prefer: wait=N`.
const MAX_WAIT_S: u64 = 60;

/// A request's body with what belongs to it.
pub struct Input {
    #[allow(missing_docs)]
    pub bytes: Bytes,
    #[allow(missing_docs)]
    pub path: String,
    #[allow(missing_docs)]
    pub headers: HeaderMap,
    #[allow(missing_docs)]
    pub correlation: String,
}

impl FromRequest<App> for Input {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = read(body, &parts.headers, app.config.body_limit).await?;
        let correlation = parts.extensions.get::<Correlation>().map(|id| id.0.clone()).unwrap_or_default();
        Ok(Self { bytes, path: parts.uri.path().to_owned(), headers: parts.headers, correlation })
    }
}

/// The whole body, or 413 that names the maximum.
pub async fn read(body: Body, headers: &HeaderMap, limit: usize) -> Result<Bytes, ApiError> {
    let too_large = || {
        let detail = format!("the body may have at most {limit} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    };
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut stream = body.into_data_stream();
    let broken = |_| ApiError::new(StatusCode::BAD_REQUEST, "body_incomplete", "the body broke off");
    let Some(first) = stream.next().await.transpose().map_err(broken)? else { return Ok(Bytes::new()) };
    if first.len() > limit {
        return Err(too_large());
    }
    let Some(second) = stream.next().await.transpose().map_err(broken)? else { return Ok(first) };
    // A body that came in several pieces is the rare case; only it is copied.
    let mut whole = BytesMut::from(first);
    let mut next = Some(second);
    while let Some(piece) = next {
        if whole.len() + piece.len() > limit {
            return Err(too_large());
        }
        whole.extend_from_slice(&piece);
        next = stream.next().await.transpose().map_err(broken)?;
    }
    Ok(whole.freeze())
}

impl Input {
    /// The body as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        self.check_content_type()?;
        // First without tracking where in the body it is, which costs; most bodies are right.
        serde_json::from_slice(&self.bytes).map_err(|_| self.explain::<T>())
    }

    /// The body as JSON; an empty one is the default.
    pub fn json_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, ApiError> {
        if self.bytes.is_empty() { Ok(T::default()) } else { self.json() }
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
        if self.bytes.is_empty() {
            return malformed("the body is empty".into());
        }
        // A wrong type before a syntax error is still malformed JSON.
        if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&self.bytes) {
            return malformed(error.to_string());
        }
        let mut reader = serde_json::Deserializer::from_slice(&self.bytes);
        match serde_path_to_error::deserialize::<_, T>(&mut reader) {
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

/// What serde says, as an error of one field.
fn field_error(mut pointer: String, message: &str) -> FieldError {
    // "… at line 1 column 7" says less than the pointer.
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    let named = message.split('`').nth(1).unwrap_or_default();
    let step = format!("/{}", pointer_step(named));
    let code = if message.starts_with("unknown field") {
        if !pointer.ends_with(&step) {
            pointer.push_str(&step);
        }
        "unknown_field"
    } else if message.starts_with("missing field") {
        pointer.push_str(&step);
        "required"
    } else if message.starts_with("invalid type") {
        "wrong_type"
    } else {
        "invalid_value"
    };
    FieldError::new(pointer, code, without_value(message))
}

/// Serde quotes the value that does not fit. A secret in the wrong place must not come back with the complaint.
fn without_value(message: &str) -> String {
    let expected = message.rsplit_once(", expected ").map_or("something else", |(_, expected)| expected);
    for start in ["invalid type: ", "invalid value: "] {
        if let Some(rest) = message.strip_prefix(start) {
            // Such as `string "…"`, `integer `5``, `null`, `sequence`.
            let kind = rest.split(['"', '`', ',']).next().unwrap_or_default().trim_end();
            return format!("{start}{kind}, expected {expected}");
        }
    }
    if message.starts_with("unknown variant") { format!("unknown value, expected {expected}") } else { message.to_owned() }
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
