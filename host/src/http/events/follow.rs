//! What a stream says next, whatever carries it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::live::{Followed, Place};
use crate::metrics::OfReason;
use crate::model::{ApiKey, BatchId, EventPosition, LeadId, LiveEvent, ProjectId, Timestamp};
use crate::store::Missed;

/// How often a stream gives a sign of life.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a reader may take nothing of what was written for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The least time between two looks at the log when it was read to its end: under load, events come together.
const PACE: Duration = Duration::from_millis(20);

/// Which events a stream carries; every condition that is there must hold.
#[derive(Debug, Default)]
pub(super) struct Filter {
    pub(super) project: Option<ProjectId>,
    pub(super) types: Option<Vec<&'static str>>,
    pub(super) lead: Option<LeadId>,
    pub(super) batch: Option<BatchId>,
}

impl Filter {
    fn passes(&self, event: &LiveEvent) -> bool {
        self.project.is_none_or(|project| project == event.project)
            && self.lead.is_none_or(|lead| event.change.lead() == Some(lead))
            && self.batch.is_none_or(|batch| event.change.batch() == Some(batch))
            && self.types.as_ref().is_none_or(|types| types.contains(&event.change.name()))
    }
}

/// The next thing to say.
#[derive(Debug)]
pub(super) enum Told {
    /// One at least.
    Events(Vec<Arc<LiveEvent>>),
    /// Some were missed; the stream goes on from here.
    Reset(Missed),
    /// Nothing for a while.
    Heartbeat,
    /// The last word.
    Dropped(Reason),
}

/// Why a stream ends from this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    TooSlow,
    /// Of a WebSocket: pings were not answered.
    Silent,
    KeyRevoked,
    KeyExpired,
    Stopping,
    Unavailable,
}

impl Reason {
    /// Machine-readable.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::TooSlow => "too_slow",
            Self::Silent => "silent",
            Self::KeyRevoked => "key_revoked",
            Self::KeyExpired => "key_expired",
            Self::Stopping => "stopping",
            Self::Unavailable => "unavailable",
        }
    }

    /// For people; short enough for the frame that closes a WebSocket.
    pub(super) const fn detail(self) -> &'static str {
        match self {
            Self::TooSlow => "you took nothing for more than 10 s; connect again with Last-Event-ID to go on where you were",
            Self::Silent => "three pings were not answered; connect again with Last-Event-ID to go on where you were",
            Self::KeyRevoked => "the API key was revoked",
            Self::KeyExpired => "the API key has expired",
            Self::Stopping => "the host stops; connect again with Last-Event-ID to go on where you were",
            Self::Unavailable => "the database cannot be read now; connect again with Last-Event-ID to go on where you were",
        }
    }
}

/// One who follows.
pub(super) struct Follower {
    app: App,
    key: Arc<ApiKey>,
    filter: Filter,
    at: EventPosition,
    heartbeat_at: Timestamp,
    /// When the reader was last given something; it comes back when it has taken that.
    given_at: Option<Timestamp>,
    not_before: Option<Instant>,
    written: watch::Receiver<u64>,
    keys: watch::Receiver<u64>,
    stop: CancellationToken,
    _place: Place,
}

impl Follower {
    pub(super) fn new(app: App, key: Arc<ApiKey>, filter: Filter, after: EventPosition, place: Place) -> Self {
        let (written, keys, stop) = (app.live.written(), app.live.keys(), app.bodies.stopping().clone());
        let heartbeat_at = app.now().plus(HEARTBEAT);
        app.metrics.events.opened.inc();
        tracing::debug!(key.id = %key.id, %after, "a stream of events begins");
        Self { app, key, filter, at: after, heartbeat_at, given_at: None, not_before: None, written, keys, stop, _place: place }
    }

    /// Everything up to here was given to the reader, or was not for it.
    pub(super) fn at(&self) -> EventPosition {
        self.at
    }

    pub(super) fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Waits for the next thing to say. A call that is given up loses nothing.
    pub(super) async fn next(&mut self) -> Told {
        let now = self.app.now();
        if self.given_at.take().is_some_and(|given_at| now.since(given_at) > PATIENCE) {
            return self.dropped(Reason::TooSlow);
        }
        let told = self.wait().await;
        let now = self.app.now();
        self.given_at = Some(now);
        self.heartbeat_at = now.plus(HEARTBEAT);
        match told {
            Told::Dropped(reason) => self.dropped(reason),
            told => told,
        }
    }

    fn dropped(&self, reason: Reason) -> Told {
        self.app.metrics.events.dropped.get_or_create(&OfReason { reason: reason.name() }).inc();
        tracing::info!(key.id = %self.key.id, reason = reason.name(), at = %self.at, "a stream of events ends: {}", reason.name());
        Told::Dropped(reason)
    }

    async fn wait(&mut self) -> Told {
        let stop = self.stop.clone();
        loop {
            if let Some(not_before) = self.not_before.take() {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Told::Dropped(Reason::Stopping),
                    () = tokio::time::sleep_until(not_before) => {}
                }
            }
            if let Some(reason) = self.ended().await {
                return Told::Dropped(reason);
            }
            // Before reading: what is written from here on wakes again.
            self.written.mark_unchanged();
            match self.app.live.after(self.at).await {
                Ok(Followed::Missed { why, resume }) => {
                    self.at = resume;
                    return Told::Reset(why);
                }
                Ok(Followed::Events { mut events, next, more }) => {
                    self.at = next;
                    events.retain(|event| self.filter.passes(event));
                    if !more {
                        self.not_before = Some(Instant::now() + PACE);
                    }
                    if !events.is_empty() {
                        return Told::Events(events);
                    }
                    if more {
                        tokio::task::yield_now().await;
                        continue;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "events could not be read");
                    return Told::Dropped(Reason::Unavailable);
                }
            }
            if self.app.now() >= self.heartbeat_at {
                return Told::Heartbeat;
            }
            let look_at = self.key.expires_at.map_or(self.heartbeat_at, |expires_at| expires_at.min(self.heartbeat_at));
            tokio::select! {
                () = stop.cancelled() => return Told::Dropped(Reason::Stopping),
                // The senders live as long as the host.
                _ = self.written.changed() => {}
                _ = self.keys.changed() => {}
                () = self.app.clock.sleep_until(look_at) => {}
            }
        }
    }

    /// Whether the stream may go on.
    async fn ended(&mut self) -> Option<Reason> {
        if self.stop.is_cancelled() {
            return Some(Reason::Stopping);
        }
        self.keys.mark_unchanged();
        match self.app.key(&self.key.hash).await {
            Ok(Some(key)) if key.revoked_at.is_some() => Some(Reason::KeyRevoked),
            Ok(Some(key)) => {
                self.key = key;
                self.key.expires_at.filter(|expires_at| *expires_at <= self.app.now()).map(|_| Reason::KeyExpired)
            }
            Ok(None) => Some(Reason::KeyRevoked),
            Err(error) => {
                tracing::error!(%error, "a key could not be read");
                Some(Reason::Unavailable)
            }
        }
    }
}
