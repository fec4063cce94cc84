//! Errors as `application/problem+json` (RFC 9457). Handlers return [`ApiError`]; the frame around every request writes it out.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::plugin::registry::FieldProblem;
use crate::policy::FieldError;
use crate::store::StoreError;

/// Seconds after which a client may try again when the host has too much to do or its database is away.
const RETRY_AFTER_S: u32 = 2;

/// What a client gets instead of an answer.
#[derive(Debug, Clone)]
pub struct ApiError {
    #[allow(missing_docs)]
    pub status: StatusCode,
    /// Stable and machine-readable.
    pub code: &'static str,
    /// For people.
    pub detail: String,
    #[allow(missing_docs)]
    pub errors: Vec<FieldError>,
    /// Seconds.
    pub retry_after: Option<u32>,
}

/// The body of every error.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Problem<'a> {
    /// A name for the kind of problem, as a URN that ends in `code`.
    #[schema(value_type = String)]
    pub r#type: std::fmt::Arguments<'a>,
    /// The status in words.
    pub title: &'a str,
    #[allow(missing_docs)]
    pub status: u16,
    /// Stable and machine-readable, such as `unknown_project`.
    pub code: &'a str,
    /// For people.
    pub detail: &'a str,
    /// The fields it is about.
    pub errors: &'a [FieldError],
    /// The `X-Request-Id` of the request, for whoever reads the logs.
    pub request_id: &'a str,
}

impl ApiError {
    #[allow(missing_docs)]
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), errors: Vec::new(), retry_after: None }
    }

    /// 422 about these fields. The problem's code is theirs when they agree.
    pub fn fields(errors: Vec<FieldError>) -> Self {
        let code = match errors.as_slice() {
            [first, rest @ ..] if rest.iter().all(|error| error.code == first.code) => first.code,
            _ => "validation_failed",
        };
        let detail = match errors.as_slice() {
            [only] if only.pointer.is_empty() => only.detail.clone(),
            [only] => format!("{}: {}", only.pointer, only.detail),
            _ => format!("{} fields cannot be used as they are", errors.len()),
        };
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail) }
    }

    /// 422 about one field.
    pub fn field(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        Self::fields(vec![FieldError::new(pointer, code, detail)])
    }

    /// 404; the same for what does not exist and for what the key may not see.
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
    }

    /// 409.
    pub fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// 500 without a detail; the cause goes into the log, here and once.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(error = %cause, "request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request failed for a reason of the host's own; its log has the cause")
    }

    /// As sent.
    pub fn render(&self, request_id: &str) -> Response {
        let problem = Problem {
            r#type: format_args!("urn:leadwire:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            errors: &self.errors,
            request_id,
        };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"leadwire\""));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Vec<FieldError>> for ApiError {
    fn from(errors: Vec<FieldError>) -> Self {
        Self::fields(errors)
    }
}

impl From<FieldProblem> for FieldError {
    fn from(problem: FieldProblem) -> Self {
        Self { pointer: problem.pointer, code: problem.code, detail: problem.detail }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Unavailable(_) => {
                tracing::error!(%error, "request failed");
                let detail = "the host's database cannot be used at the moment: it does not answer, or has no room; the operator's log \
                              says why. Send the same request again later, with the same `Idempotency-Key` if it has one";
                Self { retry_after: Some(RETRY_AFTER_S), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail) }
            }
            StoreError::Overloaded { backlog } => {
                tracing::warn!(backlog, "request refused: the backlog is at its limit");
                let detail = "too many deliveries wait already; try again later";
                Self { retry_after: Some(RETRY_AFTER_S), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", detail) }
            }
            StoreError::Taken { what, value } => {
                let detail = format!("{what} `{value}` exists already");
                let errors = vec![FieldError::new(format!("/{what}"), "taken", detail.clone())];
                Self { errors, ..Self::conflict("taken", detail) }
            }
            StoreError::Stale => Self::conflict("stale", "someone else changed it at the same moment; read it again"),
            StoreError::Defect(_) => Self::internal(&error),
        }
    }
}
