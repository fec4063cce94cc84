//! The receiver: answers 200 at once (or when it is told to) and keeps when each lead arrived on each path. It has a thread
//! of its own.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::epoch::Epoch;
use crate::lead;
use crate::percentile::Samples;

/// How often a waiting measure looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A running sink; ends when dropped.
pub struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    epoch: Epoch,
    record: Mutex<Record>,
    /// Different leads on different paths so far.
    distinct: AtomicU64,
    /// Requests whose answer is held back.
    held: AtomicU64,
    hold: watch::Sender<bool>,
    keep_body: AtomicBool,
}

#[derive(Default)]
struct Record {
    arrivals: u64,
    seen: HashSet<(String, u64)>,
    latencies_us: Vec<u64>,
    last_us: u64,
    body: Option<Bytes>,
}

/// What has arrived.
#[derive(Debug)]
pub struct Tally {
    /// All requests with a lead.
    pub arrivals: u64,
    /// Different leads on different paths.
    pub distinct: u64,
    /// From the due time to the first arrival.
    pub latency: Samples,
    /// When the last one came, by the epoch.
    pub last_us: u64,
}

impl Sink {
    /// Listens on a free port of the loopback interface.
    pub fn start(epoch: Epoch) -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("open the sink's port")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            epoch,
            record: Mutex::default(),
            distinct: AtomicU64::new(0),
            held: AtomicU64::new(0),
            hold: watch::Sender::new(false),
            keep_body: AtomicBool::new(false),
        });
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = shared.clone();
        let thread = std::thread::Builder::new().name("sink".into()).spawn(move || runtime.block_on(serve(listener, serving, stopped)))?;
        Ok(Self { address, shared, stop, thread: Some(thread) })
    }

    /// The address of a path, such as `http://127.0.0.1:40123/1`.
    pub fn url(&self, path: usize) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Forgets what has arrived.
    pub fn reset(&self) {
        let mut record = self.shared.record();
        *record = Record::default();
        self.shared.distinct.store(0, Ordering::Release);
    }

    /// Holds all answers back, or lets them go.
    pub fn hold(&self, hold: bool) {
        self.shared.hold.send_replace(hold);
    }

    /// Requests whose answer is held back now.
    pub fn held(&self) -> u64 {
        self.shared.held.load(Ordering::Acquire)
    }

    /// Keeps the body of the next request for [`Sink::body`].
    pub fn keep_body(&self) {
        self.shared.keep_body.store(true, Ordering::Release);
    }

    /// The body that was kept.
    pub fn body(&self) -> Option<Bytes> {
        self.shared.record().body.take()
    }

    /// What has arrived so far.
    pub fn tally(&self) -> Tally {
        let record = self.shared.record();
        Tally {
            arrivals: record.arrivals,
            distinct: record.seen.len() as u64,
            latency: Samples::new(record.latencies_us.clone()),
            last_us: record.last_us,
        }
    }

    /// Waits until `distinct` leads are here, or until `patience` ends.
    pub async fn wait(&self, distinct: u64, patience: Duration) -> Tally {
        wait_until(patience, || self.shared.distinct.load(Ordering::Acquire) >= distinct).await;
        self.tally()
    }

    /// Waits until so many answers are held back; whether they are.
    pub async fn wait_held(&self, count: u64, patience: Duration) -> bool {
        wait_until(patience, || self.held() >= count).await;
        self.held() >= count
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

async fn wait_until(patience: Duration, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() && began.elapsed() < patience {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, path: &str, body: &Bytes) {
        let at_us = self.epoch.now_us();
        let mut record = self.record();
        if self.keep_body.swap(false, Ordering::AcqRel) {
            record.body = Some(body.clone());
        }
        let Some((number, due_us)) = lead::read(body) else { return };
        record.arrivals += 1;
        record.last_us = at_us;
        if record.seen.insert((path.to_owned(), number)) {
            // A lead without a due time was stored before anyone measured.
            if due_us > 0 {
                record.latencies_us.push(at_us.saturating_sub(due_us));
            }
            self.distinct.store(record.seen.len() as u64, Ordering::Release);
        }
    }

    async fn held_back(&self) {
        let mut hold = self.hold.subscribe();
        if !*hold.borrow_and_update() {
            return;
        }
        self.held.fetch_add(1, Ordering::AcqRel);
        // The sender lives as long as this.
        let _released = hold.wait_for(|hold| !hold).await;
        self.held.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                tokio::spawn(connection(stream, shared.clone()));
            }
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    // Without it answers are merely slower.
    let _set = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(request, shared.clone()));
    // A client that goes away is none of our business.
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    if let Ok(body) = body.collect().await {
        shared.note(head.uri.path(), &body.to_bytes());
        shared.held_back().await;
    }
    Ok(Response::new(Full::new(Bytes::from_static(b"{\"ok\":true}"))))
}
