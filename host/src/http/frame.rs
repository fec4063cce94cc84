//! What surrounds every request: its id, its span in the log, panics, and errors as problem+json.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tracing::Instrument;
use uuid::Uuid;

use super::error::ApiError;
use crate::app::App;
use crate::metrics::{OfRequest, OfRoute};
use crate::model::RequestId;

/// The header of the correlation id.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The correlation id of a request, as text.
#[derive(Debug, Clone)]
pub struct Correlation(pub String);

/// The caller's id when it is a UUIDv7.
fn given(headers: &HeaderMap) -> Option<Uuid> {
    let id = Uuid::try_parse(headers.get(X_REQUEST_ID)?.to_str().ok()?).ok()?;
    (id.get_version_num() == 7).then_some(id)
}

/// The middleware.
pub async fn frame(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let id = given(request.headers()).unwrap_or_else(|| RequestId::new(app.now()).uuid()).to_string();
    request.extensions_mut().insert(Correlation(id.clone()));
    // The route's pattern and not the path: an external id in a path may be anybody's data.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("-", MatchedPath::as_str);
    let span = tracing::info_span!("request", request_id = %id, method = %request.method(), route);
    let (method, began) = (method(request.method()), Instant::now());
    let finished = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone()).await;
    let _entered = span.entered();
    let response = finished.unwrap_or_else(|_| {
        // The panic's own message went to the log through the panic hook.
        ApiError::internal(&"a handler panicked").into_response()
    });
    let mut response = as_problem(response, &id);
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    let status = response.status().as_u16();
    tracing::debug!(status, "answered");
    let http = &app.metrics.http;
    http.durations.get_or_create(&OfRoute { route: route.to_owned() }).observe(began.elapsed().as_secs_f64());
    http.requests.get_or_create(&OfRequest { method, route: route.to_owned(), status }).inc();
    response
}

/// A label: methods that nobody knows are one.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Errors get their body here, those of the router itself included.
fn as_problem(mut response: Response, id: &str) -> Response {
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let mut rendered = error.render(id);
        merge(rendered.headers_mut(), response.headers());
        return rendered;
    }
    let status = response.status();
    let has_own_body = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| !kind.as_bytes().starts_with(b"text/plain"));
    if !(status.is_client_error() || status.is_server_error()) || has_own_body {
        return response;
    }
    let (code, detail) = match status {
        StatusCode::NOT_FOUND => ("not_found", "there is no such address; /docs lists them"),
        StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", "the address does not take this method; `Allow` lists those it takes"),
        StatusCode::PAYLOAD_TOO_LARGE => ("body_too_large", "the body is too large"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ("unsupported_media_type", "the body must be application/json"),
        status if status.is_client_error() => ("bad_request", "the request cannot be understood"),
        _ => ("internal", "the request failed for a reason of the host's own"),
    };
    let mut rendered = ApiError::new(status, code, detail).render(id);
    merge(rendered.headers_mut(), response.headers());
    rendered
}

/// Keeps headers such as `Allow`, but not those about the body that is replaced.
fn merge(into: &mut HeaderMap, from: &HeaderMap) {
    for (name, value) in from {
        if ![header::CONTENT_TYPE, header::CONTENT_LENGTH].contains(name) && !into.contains_key(name) {
            into.insert(name, value.clone());
        }
    }
}
