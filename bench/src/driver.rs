//! The load driver. Closed loop: so many clients, each with its next request when the last was answered. Open loop: a
//! request whenever one is due, whatever the answers do.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::task::LocalSet;

use crate::epoch::Epoch;
use crate::lead;
use crate::percentile::Samples;
use crate::wire::Connection;

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where leads go, and from which number they count.
#[derive(Clone)]
pub struct Load {
    #[allow(missing_docs)]
    pub address: SocketAddr,
    #[allow(missing_docs)]
    pub key: String,
    #[allow(missing_docs)]
    pub epoch: Epoch,
    /// Number of the first lead.
    pub first: u64,
}

/// When a closed loop ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After so many leads.
    Count(u64),
    /// After so long.
    Time(Duration),
}

/// What a run showed.
#[derive(Debug, Default)]
pub struct Run {
    /// Leads that were sent.
    pub sent: u64,
    /// From the first send to the last answer.
    pub wall: Duration,
    /// When the first lead was sent, by the epoch.
    pub began_us: u64,
    /// From the due time to the answer.
    pub latency: Samples,
    /// How late the driver itself was at most (open loop).
    pub late: Duration,
}

impl Run {
    /// Leads answered in a second.
    pub fn rate(&self) -> f64 {
        self.sent as f64 / self.wall.as_secs_f64().max(1e-9)
    }
}

/// What the clients of a run write down.
struct Notes {
    load: Load,
    next: Cell<u64>,
    latencies: RefCell<Vec<u64>>,
    unwanted: RefCell<BTreeMap<String, u64>>,
}

impl Notes {
    fn new(load: &Load) -> Rc<Self> {
        Rc::new(Self { next: Cell::new(0), latencies: RefCell::default(), unwanted: RefCell::default(), load: load.clone() })
    }

    async fn send(&self, connection: &mut Connection, number: u64, due_us: u64) {
        let body = lead::body(number, due_us);
        let word = match tokio::time::timeout(PATIENCE, connection.send("POST", "/api/leads", body)).await {
            Ok(Ok(answer)) if answer.status == 202 => {
                self.latencies.borrow_mut().push(self.load.epoch.now_us().saturating_sub(due_us));
                return;
            }
            Ok(Ok(answer)) => format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body)),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        *self.unwanted.borrow_mut().entry(word).or_default() += 1;
    }

    /// A figure about leads that were refused would be about something else.
    fn finish(&self, began: Instant, late: Duration) -> Result<Run> {
        let wall = began.elapsed();
        let unwanted = self.unwanted.borrow();
        if let Some((word, _)) = unwanted.iter().next() {
            bail!("{} leads were not answered with 202, such as {word}", unwanted.values().sum::<u64>());
        }
        let latencies = self.latencies.take();
        let began_us = self.load.epoch.us_of(began);
        Ok(Run { sent: latencies.len() as u64, wall, began_us, latency: Samples::new(latencies), late })
    }
}

/// Runs `clients` clients. On a runtime of one thread.
pub async fn closed(load: &Load, clients: usize, until: Until) -> Result<Run> {
    let notes = Notes::new(load);
    let began = Instant::now();
    let local = LocalSet::new();
    for _ in 0..clients {
        let notes = notes.clone();
        local.spawn_local(async move {
            let mut connection = Connection::new(notes.load.address, &notes.load.key);
            loop {
                let index = notes.next.get();
                let over = match until {
                    Until::Count(count) => index >= count,
                    Until::Time(time) => began.elapsed() >= time,
                };
                if over {
                    break;
                }
                notes.next.set(index + 1);
                notes.send(&mut connection, notes.load.first + index, notes.load.epoch.now_us()).await;
            }
        });
    }
    local.await;
    notes.finish(began, Duration::ZERO)
}

/// Sends `rate` leads a second for `time`. Connections are reused, and as many as are needed at once.
pub async fn open(load: &Load, rate: u32, time: Duration) -> Result<Run> {
    let notes = Notes::new(load);
    let idle: Rc<RefCell<Vec<Connection>>> = Rc::default();
    let local = LocalSet::new();
    let began = Instant::now();
    let late = local
        .run_until(async {
            let mut late = Duration::ZERO;
            let mut tasks = Vec::new();
            for index in 0..(time.as_secs_f64() * f64::from(rate)) as u64 {
                let due = began + Duration::from_secs_f64(index as f64 / f64::from(rate));
                tokio::time::sleep_until(due.into()).await;
                late = late.max(due.elapsed());
                let (notes, idle) = (notes.clone(), idle.clone());
                tasks.push(tokio::task::spawn_local(async move {
                    let kept = idle.borrow_mut().pop();
                    let mut connection = kept.unwrap_or_else(|| Connection::new(notes.load.address, &notes.load.key));
                    notes.send(&mut connection, notes.load.first + index, notes.load.epoch.us_of(due)).await;
                    idle.borrow_mut().push(connection);
                }));
            }
            for task in tasks {
                // A panic of the driver shows in the count of leads.
                let _ended = task.await;
            }
            late
        })
        .await;
    notes.finish(began, late)
}
