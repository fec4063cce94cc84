//! Server-sent events: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;

use super::follow::{Follower, Told};
use super::view::{EventView, json};
use super::{Question, follower};
use crate::app::App;
use crate::http::auth::Caller;
use crate::http::error::ApiError;
use crate::http::input::Params;
use crate::http::server::LongAnswer;

/// Milliseconds after which a client connects again.
const RETRY_MS: u32 = 3_000;

/// What changes, live (server-sent events)
///
/// Leads, batches, deliveries and credentials of the key's project, from now on, or after `Last-Event-ID` without a gap. Each
/// event has `id`, `event` (its type) and `data` (JSON). Every 15 seconds without one there is a comment with the current
/// `id`. The stream ends with the event `dropped` when it ends from this side.
#[utoipa::path(get, path = "/api/events", tag = "Sending", params(
    Question, ("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last event that was seen"),
), responses((status = 200, description = "A stream that does not end by itself", body = EventView, content_type = "text/event-stream")))]
pub async fn stream(
    State(app): State<App>,
    caller: Caller,
    Params(question): Params<Question>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let follower = follower(&app, &caller, &headers, question).await?;
    let hello = Bytes::from(format!("retry: {RETRY_MS}\nid: {}\n\n", follower.at()));
    let frames = stream::unfold(Some((follower, Some(hello))), |state| async move {
        let (mut follower, hello) = state?;
        if let Some(hello) = hello {
            return Some((Ok::<_, std::convert::Infallible>(hello), Some((follower, None))));
        }
        let told = follower.next().await;
        let frame = frame(&follower, &told);
        let state = (!matches!(told, Told::Dropped(_))).then_some((follower, None));
        Some((Ok(frame), state))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies such as nginx hold an answer back until it ends, unless they are told.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response.extensions_mut().insert(LongAnswer);
    Ok(response)
}

fn frame(follower: &Follower, told: &Told) -> Bytes {
    let at = follower.at();
    let mut text = String::new();
    match told {
        Told::Events(events) => events.iter().for_each(|event| write(&mut text, &EventView::from(&**event))),
        // An id without data is kept by the client, and nobody else hears of it.
        Told::Heartbeat => text = format!(": heartbeat\nid: {at}\n\n"),
        Told::Reset(why) => write(&mut text, &EventView::reset(at, *why)),
        Told::Dropped(reason) => write(&mut text, &EventView::dropped(at, *reason)),
    }
    Bytes::from(text)
}

fn write(text: &mut String, view: &EventView<'_>) {
    for part in ["id: ", &view.id, "\nevent: ", view.r#type, "\ndata: ", &json(view), "\n\n"] {
        text.push_str(part);
    }
}
