//! An answer that is ready before its request's body was read, such as 401 and 413.
//!
//! Many clients read nothing before they have sent everything, and a connection that is closed on them takes the answer
//! along. So while the answer goes out, the rest of such a body is read and thrown away, up to a limit.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Most bytes that are thrown away, and how long that may take; past it, the connection is closed.
const DRAIN_BYTES: u64 = 64 * 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// The router's answer; what is left of the body is thrown away beside it.
pub(super) async fn answer(router: Router, request: hyper::Request<Incoming>, stop: &CancellationToken) -> Response {
    // Such a client waits for the answer before it sends; reading would ask it to.
    let waits = request.headers().contains_key(header::EXPECT);
    let left = Left::default();
    let request = request.map(|body| if body.is_end_stream() { Body::empty() } else { Body::new(Lent::new(body, &left)) });
    let Ok(mut response) = router.oneshot(request).await;
    let Some(body) = left.take() else { return response };
    let hopeless = waits || response.status() == StatusCode::REQUEST_TIMEOUT || body.size_hint().lower() > DRAIN_BYTES;
    if hopeless || stop.is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    } else {
        // Ends by itself, at the latest with its connection or after `DRAIN_TIME`.
        tokio::spawn(tokio::time::timeout(DRAIN_TIME, drain(body)));
    }
    response
}

/// Reads to the end, so that the connection serves on, or up to the limit, so that it is closed.
async fn drain(mut body: Incoming) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        if bytes > DRAIN_BYTES {
            return;
        }
    }
}

/// Where the rest of a body lies when its handler is done with it.
#[derive(Clone, Default)]
struct Left(Arc<Mutex<Option<Incoming>>>);

impl Left {
    fn take(&self) -> Option<Incoming> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A body that comes back unless it was read to its end.
struct Lent {
    body: Option<Incoming>,
    left: Left,
}

impl Lent {
    fn new(body: Incoming, left: &Left) -> Self {
        Self { body: Some(body), left: left.clone() }
    }
}

impl hyper::body::Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = Pin::new(body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let rest = self.body.take().filter(|body| !body.is_end_stream());
        *self.left.0.lock().unwrap_or_else(PoisonError::into_inner) = rest;
    }
}
