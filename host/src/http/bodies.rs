//! Request bodies in memory: how long one may take to arrive, and how many bytes of all of them are held at once.
//!
//! A body is read only after the caller's key was checked, and counts until its request has ended.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use crate::config::HttpLimits;

/// Bytes that one permit stands for.
const UNIT: usize = 1_024;
/// Seconds after which a client may try again when there is no room for its body.
const RETRY_AFTER_S: u32 = 2;

/// The room for bodies; shared by all requests.
pub struct Bodies {
    room: Arc<Semaphore>,
    deadline: Duration,
    stop: CancellationToken,
}

/// A whole body, and its share of the room.
#[derive(Debug, Default)]
pub struct Held {
    #[allow(missing_docs)]
    pub bytes: Bytes,
    room: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    /// Room for `body_memory` bytes.
    pub fn new(limits: &HttpLimits) -> Self {
        Self { room: Arc::new(Semaphore::new(limits.body_memory / UNIT)), deadline: limits.body_timeout, stop: CancellationToken::new() }
    }

    /// The host stops: bodies that are still arriving are waited for no longer.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Cancelled when the host stops.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// The whole body within the usual time.
    pub async fn read(&self, body: Body, headers: &HeaderMap, limit: usize) -> Result<Held, ApiError> {
        self.read_within(self.deadline, body, headers, limit).await
    }

    /// The whole body, or 413 that names the maximum, 408 when it takes longer than `deadline`, 503 without room for it.
    pub async fn read_within(&self, deadline: Duration, body: Body, headers: &HeaderMap, limit: usize) -> Result<Held, ApiError> {
        let declared = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > limit as u64) {
            return Err(too_large(limit));
        }
        let expected = declared.and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(stopping()),
            read = tokio::time::timeout(deadline, self.collect(body, expected, limit)) => read.unwrap_or_else(|_| Err(too_slow(deadline))),
        }
    }

    async fn collect(&self, body: Body, expected: usize, limit: usize) -> Result<Held, ApiError> {
        let mut stream = body.into_data_stream();
        let mut held = Held::default();
        let mut whole: Option<BytesMut> = None;
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|_| ApiError::new(StatusCode::BAD_REQUEST, "body_incomplete", "the body broke off"))?;
            let before = whole.as_ref().map_or(held.bytes.len(), BytesMut::len);
            if before + piece.len() > limit {
                return Err(too_large(limit));
            }
            self.hold(&mut held.room, before + piece.len())?;
            match &mut whole {
                Some(whole) => whole.extend_from_slice(&piece),
                None if before == 0 => held.bytes = piece,
                // A body that came in several pieces is the rare case; only it is copied.
                None => {
                    let mut copy = BytesMut::with_capacity(expected.max(before + piece.len()));
                    copy.extend_from_slice(&std::mem::take(&mut held.bytes));
                    copy.extend_from_slice(&piece);
                    whole = Some(copy);
                }
            }
        }
        if let Some(whole) = whole {
            held.bytes = whole.freeze();
        }
        Ok(held)
    }

    /// Takes room for as many bytes as there are now.
    fn hold(&self, room: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), ApiError> {
        let more = bytes.div_ceil(UNIT) - room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = u32::try_from(more).map_err(|_| no_room())?;
        let more = Arc::clone(&self.room).try_acquire_many_owned(more).map_err(|_| no_room())?;
        match room {
            Some(room) => room.merge(more),
            None => *room = Some(more),
        }
        Ok(())
    }
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", format!("the body may have at most {limit} bytes"))
}

fn too_slow(deadline: Duration) -> ApiError {
    let detail = format!("the body must arrive within {} s; nothing of the request was done", deadline.as_secs());
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", detail)
}

fn no_room() -> ApiError {
    tracing::warn!("request refused: the bodies of other requests fill body_memory");
    let detail = "the host holds as many bytes of other requests' bodies as it may; nothing of the request was done, try again";
    ApiError { retry_after: Some(RETRY_AFTER_S), ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail) }
}

fn stopping() -> ApiError {
    let detail = "the host is stopping; nothing of the request was done, try again";
    ApiError { retry_after: Some(RETRY_AFTER_S), ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", detail) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(memory: usize) -> Bodies {
        let brief = Duration::from_millis(50);
        Bodies::new(&HttpLimits { max_connections: 1, header_timeout: brief, body_timeout: brief, body_memory: memory })
    }

    fn pieces(pieces: &[&'static str]) -> Body {
        Body::from_stream(futures_util::stream::iter(pieces.to_vec()).map(Ok::<_, std::io::Error>))
    }

    #[tokio::test]
    async fn pieces_are_one_body_and_their_room_comes_back() {
        let bodies = bodies(2 * UNIT);
        let headers = HeaderMap::new();
        let held = bodies.read(pieces(&["{\"a\"", ": ", "1}"]), &headers, 100).await.unwrap();
        assert_eq!(&held.bytes[..], b"{\"a\": 1}");
        assert_eq!(bodies.room.available_permits(), 1);
        let other = bodies.read(Body::from("x"), &headers, 100).await.unwrap();
        let refused = bodies.read(Body::from("y"), &headers, 100).await.unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.code, refused.retry_after), (503, "busy", Some(2)));
        drop((held, other));
        assert!(bodies.read(Body::from("y"), &headers, 100).await.is_ok());
        assert!(bodies.read(Body::empty(), &headers, 100).await.unwrap().bytes.is_empty());
        assert_eq!(bodies.room.available_permits(), 2);
    }

    #[tokio::test]
    async fn too_much_too_slow_and_a_stop_are_said() {
        let bodies = bodies(10 * UNIT);
        let mut headers = HeaderMap::new();
        let refused = bodies.read(pieces(&["1234", "5678"]), &headers, 7).await.unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.detail.as_str()), (413, "the body may have at most 7 bytes"));
        let never = || Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(bodies.read(never(), &headers, 7).await.unwrap_err().status.as_u16(), 408);
        headers.insert("content-length", "8".parse().unwrap());
        assert_eq!(bodies.read(never(), &headers, 7).await.unwrap_err().status.as_u16(), 413);
        bodies.stop();
        headers.clear();
        assert_eq!(bodies.read(never(), &headers, 7).await.unwrap_err().code, "stopping");
        assert_eq!(bodies.room.available_permits(), 10);
    }
}
