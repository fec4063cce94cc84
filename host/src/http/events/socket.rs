//! The same over a WebSocket: one JSON text message an event.

use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures_util::SinkExt;

use super::follow::{Follower, Reason, Told};
use super::view::{EventView, json};
use super::{Question, follower};
use crate::app::App;
use crate::http::auth::Caller;
use crate::http::error::ApiError;
use crate::http::input::Params;

/// Nothing is expected from the client but answers to pings.
const LARGEST_MESSAGE: usize = 1_024;
/// Pings that may go unanswered.
const SILENT_PINGS: u32 = 3;
/// How long the client may take to hang up when it was told that this is the end.
const LAST_WORD: Duration = Duration::from_secs(2);

/// What changes, live (WebSocket)
///
/// The same events as `GET /api/events`, each a text message. Every 15 seconds without one there are a ping and a message of
/// the type `heartbeat`. The host closes with 1001 when it stops, with 1008 when the key has ended, and with 1013 when the
/// client is too slow; the message before that is of the type `dropped`.
#[utoipa::path(get, path = "/api/events/ws", tag = "Sending", params(
    Question, ("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last event that was seen"),
), responses(
    (status = 101, description = "The connection is a WebSocket now"),
    (status = 426, description = "This is no WebSocket handshake", body = crate::http::error::Problem, content_type = "application/problem+json"),
))]
pub async fn socket(
    State(app): State<App>,
    caller: Caller,
    Params(question): Params<Question>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|rejection| {
        let detail = format!("this address takes WebSocket handshakes only ({rejection}); GET /api/events is the same without");
        ApiError::new(StatusCode::UPGRADE_REQUIRED, "websocket_required", detail)
    })?;
    let follower = follower(&app, &caller, &headers, question).await?;
    let tasks = app.live.tasks.clone();
    let upgrade = upgrade.max_message_size(LARGEST_MESSAGE).max_frame_size(LARGEST_MESSAGE);
    Ok(upgrade.on_upgrade(move |socket| tasks.track_future(converse(socket, follower))))
}

/// Until one side ends it.
async fn converse(mut socket: WebSocket, mut follower: Follower) {
    let stop = follower.stopping().clone();
    let mut unanswered = 0;
    loop {
        let told = tokio::select! {
            told = follower.next() => told,
            heard = socket.recv() => match heard {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(Message::Pong(_))) => {
                    unanswered = 0;
                    continue;
                }
                // Whatever it says, nobody listens; pings are answered by themselves.
                Some(Ok(_)) => continue,
            },
        };
        let told = match told {
            Told::Heartbeat if unanswered >= SILENT_PINGS => Told::Dropped(Reason::Silent),
            told => told,
        };
        if matches!(told, Told::Heartbeat) {
            unanswered += 1;
        }
        let ended = match &told {
            Told::Dropped(reason) => Some(*reason),
            _ => None,
        };
        // Who takes nothing at a stop hears nothing of it.
        let said = tokio::select! {
            biased;
            said = say(&mut socket, &follower, &told) => said,
            () = async { stop.cancelled().await; tokio::time::sleep(LAST_WORD).await } => return,
        };
        if said.is_err() || ended.is_some() {
            return;
        }
    }
}

async fn say(socket: &mut WebSocket, follower: &Follower, told: &Told) -> Result<(), axum::Error> {
    let at = follower.at();
    let text = |view: &EventView<'_>| Message::Text(json(view).into());
    match told {
        Told::Events(events) => {
            for event in events {
                socket.feed(text(&EventView::from(&**event))).await?;
            }
            socket.flush().await
        }
        Told::Reset(why) => socket.send(text(&EventView::reset(at, *why))).await,
        Told::Heartbeat => {
            socket.feed(text(&EventView::heartbeat(at))).await?;
            socket.send(Message::Ping(Bytes::new())).await
        }
        Told::Dropped(reason) => {
            socket.feed(text(&EventView::dropped(at, *reason))).await?;
            let code = match reason {
                Reason::Stopping => close_code::AWAY,
                Reason::KeyRevoked | Reason::KeyExpired => close_code::POLICY,
                Reason::TooSlow | Reason::Silent | Reason::Unavailable => close_code::AGAIN,
            };
            socket.send(Message::Close(Some(CloseFrame { code, reason: reason.detail().into() }))).await?;
            // A connection that is closed with something unread takes the last message along.
            let hang_up = async { while let Some(Ok(_)) = socket.recv().await {} };
            let _ = tokio::time::timeout(LAST_WORD, hang_up).await;
            Ok(())
        }
    }
}
