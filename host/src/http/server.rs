//! Connections: how many are open, how long a client may take for its part, and what is waited for at a stop.
//!
//! A connection is *busy* from the moment its request's header is complete until the answer is handed over; else it
//! *waits*: for a first header, for the rest of one, or for the next request. What waits costs nobody anything when it is
//! dropped, so it makes place for a new connection when all places are taken, and is dropped at once at a stop. An answer
//! that goes on for long ([`LongAnswer`]) keeps its connection's place, but for a stop; how many there may be is decided where
//! they are given.

mod drain;
mod io;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::serve::Listener;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::io::Watched;
use crate::app::App;

/// Most bytes that a connection reads ahead, and so of a request's header.
const READ_AHEAD: usize = 64 * 1_024;
/// How often connections are looked at during a stop, and how often one whose client still reads its answer is spared.
const STOP_TICK: Duration = Duration::from_millis(100);
const STOP_TICKS_FOR_AN_ANSWER: u32 = 20;

/// Serves requests until `stop`, and then those whose handler runs to their end.
pub async fn serve(mut listener: TcpListener, app: App, stop: CancellationToken) {
    let limits = app.config.http;
    let router = super::router(app.clone());
    let places = Arc::new(Places::default());
    let mut builder = Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout).max_buf_size(READ_AHEAD);
    let mut connections = JoinSet::new();
    // The newest connection, until there is a place for it; meanwhile the others wait in the system's queue.
    let mut newest: Option<TcpStream> = None;
    loop {
        let full = connections.len() >= limits.max_connections;
        // One more than the places, for the moment until the one that has waited longest is gone.
        let evict = newest.is_some() && connections.len() == limits.max_connections;
        let longest = if evict { places.longest_waiting() } else { None };
        if (!full || longest.is_some())
            && let Some(stream) = newest.take()
        {
            if let Some(longest) = longest {
                longest.make_place.cancel();
            }
            let (connection, router) = (places.enter(), router.clone());
            connections.spawn(converse(builder.clone(), stream, router, connection, app.bodies.stopping().clone()));
            continue;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            (stream, _) = Listener::accept(&mut listener), if newest.is_none() => newest = Some(stream),
            () = places.waits_now.notified(), if newest.is_some() => {}
        }
    }
    drop(newest);
    drop(listener);
    app.bodies.stop();
    while connections.join_next().await.is_some() {}
    app.live.tasks.close();
    app.live.tasks.wait().await;
}

/// The address at the other end of the connection: the client's, or that of the proxy before the host.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// One connection from its first byte to its last.
async fn converse(builder: Builder, stream: TcpStream, router: Router, connection: Entered, stop: CancellationToken) {
    // An answer is small and must not wait for the one before it to be acknowledged.
    let _ = stream.set_nodelay(true);
    let place = Arc::clone(&connection.place);
    let peer = stream.peer_addr().ok().map(|address| Peer(address.ip()));
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&place)));
    let (requests, stopping) = (Arc::clone(&connection.place), stop.clone());
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let (busy, place, router, stop) = (requests.busy(), Arc::clone(&requests), router.clone(), stopping.clone());
        async move {
            let mut response: Response = drain::answer(router, request, &stop).await;
            if response.extensions_mut().remove::<LongAnswer>().is_some() {
                let streams = place.streams();
                response = response.map(|body| {
                    Body::new(body.map_frame(move |frame| {
                        let _ = &streams;
                        frame
                    }))
                });
            }
            drop(busy);
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = std::pin::pin!(builder.serve_connection(io, service).with_upgrades());
    tokio::select! {
        biased;
        // An error is the client's: it hung up, was too slow, or spoke no HTTP.
        _ = http.as_mut() => return,
        () = place.make_place.cancelled() => {
            if place.rests() {
                return;
            }
        }
        () = stop.cancelled() => {}
    }
    // From here on there is no next request. What rests can go; an answer that is being read gets a moment.
    http.as_mut().graceful_shutdown();
    let mut ticks = 0;
    loop {
        tokio::select! {
            biased;
            _ = http.as_mut() => return,
            () = tokio::time::sleep(STOP_TICK) => {}
        }
        ticks += 1;
        // A long answer ends when the host stops, if its client takes its end.
        let spared = place.is_streaming() && !stop.is_cancelled();
        if place.rests() || (!place.is_busy() && !spared && ticks > STOP_TICKS_FOR_AN_ANSWER) {
            return;
        }
    }
}

/// In an answer's extensions: its body goes on for as long as the client likes.
#[derive(Clone, Copy)]
pub(super) struct LongAnswer;

/// The open connections.
#[derive(Default)]
struct Places {
    taken: Mutex<HashMap<u64, Arc<Place>>>,
    count: Arc<Turns>,
    /// A busy connection has begun to wait.
    waits_now: Arc<Notify>,
}

/// Numbers in the order of events.
#[derive(Default)]
struct Turns(AtomicU64);

impl Turns {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Places {
    fn enter(self: &Arc<Self>) -> Entered {
        let id = self.count.next();
        let place = Arc::new(Place {
            waits_since: AtomicU64::new(id),
            unwritten: AtomicBool::new(false),
            streams: AtomicBool::new(false),
            make_place: CancellationToken::new(),
            count: Arc::clone(&self.count),
            waits_now: Arc::clone(&self.waits_now),
        });
        self.taken().insert(id, Arc::clone(&place));
        Entered { id, place, places: Arc::clone(self) }
    }

    fn longest_waiting(&self) -> Option<Arc<Place>> {
        let waiting = |place: &&Arc<Place>| !place.is_busy() && !place.is_streaming() && !place.make_place.is_cancelled();
        self.taken().values().filter(waiting).min_by_key(|place| place.waits_since.load(Ordering::Relaxed)).cloned()
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<u64, Arc<Place>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place, given back when it ends.
struct Entered {
    id: u64,
    place: Arc<Place>,
    places: Arc<Places>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.places.taken().remove(&self.id);
    }
}

/// What is known of one connection.
struct Place {
    /// When it began to wait, as a turn; 0 while it is busy.
    waits_since: AtomicU64,
    /// The client has not taken all that was written.
    unwritten: AtomicBool,
    /// The answer is a long one.
    streams: AtomicBool,
    make_place: CancellationToken,
    count: Arc<Turns>,
    waits_now: Arc<Notify>,
}

impl Place {
    fn is_busy(&self) -> bool {
        self.waits_since.load(Ordering::Relaxed) == 0
    }

    /// It waits, and the client has all answers.
    fn rests(&self) -> bool {
        !self.is_busy() && !self.is_streaming() && !self.unwritten.load(Ordering::Relaxed)
    }

    fn is_streaming(&self) -> bool {
        self.streams.load(Ordering::Relaxed)
    }

    /// Streaming until the guard is dropped.
    fn streams(self: &Arc<Self>) -> Streams {
        self.streams.store(true, Ordering::Relaxed);
        Streams(Arc::clone(self))
    }

    /// Busy until the guard is dropped.
    fn busy(self: &Arc<Self>) -> Busy {
        self.waits_since.store(0, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }
}

struct Streams(Arc<Place>);

impl Drop for Streams {
    fn drop(&mut self) {
        self.0.streams.store(false, Ordering::Relaxed);
        self.0.waits_now.notify_one();
    }
}

struct Busy(Arc<Place>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.waits_since.store(self.0.count.next(), Ordering::Relaxed);
        self.0.waits_now.notify_one();
    }
}
