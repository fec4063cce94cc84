//! The one thread that writes. It takes whatever waits, does it in one transaction, commits once and then answers everyone.
//! Groups form by themselves while the transaction before them runs, and what comes before the commit comes along; there is
//! no timer. A thread of its own, because it
//! waits for the disk, and a task that does so would keep the tasks behind it waiting too.
//!
//! One requester's failing statement never harms another: the turn is rolled back and each request is done alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::accept::{self, Accepting};
use super::direct::Direct;
use super::error::is_refusal;
use super::events;
use super::failing::Failing;
use super::finish;
use super::lead_cache::LeadCache;
use super::tidy::Tidy;
use crate::fault::{self, Point};
use crate::metrics::StoreMetrics;
use crate::model::{Change, ProjectId, Timestamp};
use crate::store::{Changed, EventPack, Finish, StoreError};

/// Requests that may wait for the writer; beyond that, callers wait to be let in.
const WAITING: usize = 1_024;
/// The most of each kind in one turn.
const MAX_INTAKES: usize = 64;
const MAX_FINISHED: usize = 512;
const MAX_OTHERS: usize = 64;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;
/// Some other write: may be done again after a turn was rolled back.
pub(super) type Work<T> = Box<dyn for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T, StoreError>> + Send>;

/// What a finish changed, entry by entry.
type Outcomes = Vec<Option<Changed>>;

/// What the writer is asked.
enum Command {
    Accept(Box<Accepting>, Reply<accept::Answer>),
    Finish(Vec<Finish>, Reply<Outcomes>),
    Other(Box<dyn Queued>),
}

/// The writer's connection, with what the running transaction will have changed in memory once it is committed.
pub(super) struct Tx {
    /// For statements that are done here and now. Stands first, because it must be dropped first.
    pub(super) db: Direct,
    /// The same connection by way of sqlx, for what is done seldom.
    pub(super) conn: SqliteConnection,
    /// Jobs, this transaction's included.
    pub(super) backlog: u64,
    pub(super) max_backlog: u64,
    pub(super) leads: Arc<LeadCache>,
    /// What is to be done about the files once the transaction is committed.
    pub(super) tidy: Arc<Tidy>,
    /// What this transaction changed, for those who follow live.
    pub(super) events: EventPack,
}

impl Tx {
    pub(super) fn jobs_added(&mut self, count: u64) {
        self.backlog += count;
    }

    pub(super) fn jobs_removed(&mut self, count: u64) {
        self.backlog = self.backlog.saturating_sub(count);
    }

    /// Notes a change; it is told when it is committed.
    pub(super) fn tell(&mut self, at: Timestamp, project: ProjectId, change: &Change<'_>) {
        self.events.push(at, project, change);
    }
}

/// The way to the writer.
#[derive(Clone)]
pub(super) struct Handle {
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
}

impl Handle {
    /// Lets nothing more in; the writer ends when what was let in is done.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    pub(super) async fn accept(&self, accepting: Accepting) -> Result<accept::Answer, StoreError> {
        self.ask(|reply| Command::Accept(Box::new(accepting), reply)).await
    }

    pub(super) async fn finish(&self, finished: Vec<Finish>) -> Result<Outcomes, StoreError> {
        self.ask(|reply| Command::Finish(finished, reply)).await
    }

    /// Does `work` in the next turn.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.ask(|reply| Command::Other(Box::new(Other { work: Box::new(work), done: None, reply }))).await
    }

    pub(super) fn is_closed(&self) -> bool {
        self.commands.is_closed()
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, StoreError> {
        let stopped = || StoreError::Unavailable("the store is closed".to_owned());
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

/// What the writer says of each turn.
pub(super) struct Told {
    /// Jobs.
    pub(super) backlog: Arc<AtomicU64>,
    pub(super) failing: Arc<Failing>,
    /// Changes when events were committed.
    pub(super) events: watch::Sender<u64>,
    pub(super) metrics: StoreMetrics,
}

/// Starts the writer. It ends when every [`Handle`] is gone and what they asked is done; `keep` is dropped after that, and
/// the receiver hears of it.
pub(super) fn start(
    tx: Tx,
    options: SqliteConnectOptions,
    told: Told,
    keep: impl Send + 'static,
) -> Result<(Handle, oneshot::Receiver<()>), StoreError> {
    let (commands, inbox) = mpsc::channel(WAITING);
    let (ended, at_end) = oneshot::channel();
    let stop = CancellationToken::new();
    let writer = Writer { tx, options, told, stop: stop.clone() };
    let runtime = tokio::runtime::Handle::current();
    let work = move || {
        runtime.block_on(writer.run(inbox));
        drop(keep);
        // Nobody may be waiting for the end.
        let _ = ended.send(());
    };
    std::thread::Builder::new()
        .name("store-writer".into())
        .spawn(work)
        .map_err(|error| StoreError::Unavailable(format!("the writer's thread cannot be started: {error}")))?;
    Ok((Handle { commands, stop }, at_end))
}

struct Writer {
    tx: Tx,
    options: SqliteConnectOptions,
    told: Told,
    stop: CancellationToken,
}

impl Writer {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        while let Some(first) = self.next(&mut inbox).await {
            let mut turn = Turn::default();
            turn.add(first);
            turn.fill(&mut inbox);
            self.take(turn, &mut inbox).await;
        }
        let Tx { db, conn, .. } = self.tx;
        drop(db);
        if let Err(error) = sqlx::Connection::close(conn).await {
            tracing::warn!(error = %error, "the database did not close cleanly");
        }
    }

    async fn next(&self, inbox: &mut mpsc::Receiver<Command>) -> Option<Command> {
        if !inbox.is_closed() {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => inbox.close(),
                next = inbox.recv() => return next,
            }
        }
        inbox.recv().await
    }

    async fn take(&mut self, mut turn: Turn, inbox: &mut mpsc::Receiver<Command>) {
        let Err(error) = self.transaction(&mut turn, Some(inbox)).await else { return turn.answer() };
        // The surroundings failed: each one alone would fail the same way, only slower.
        if matches!(error, StoreError::Unavailable(_)) || turn.len() == 1 {
            return turn.fail(&error);
        }
        for mut alone in turn.split() {
            match self.transaction(&mut alone, None).await {
                Ok(()) => alone.answer(),
                Err(error) => alone.fail(&error),
            }
        }
    }

    /// Does the turn and commits it; `inbox` is where more may come from meanwhile.
    async fn transaction(&mut self, turn: &mut Turn, inbox: Option<&mut mpsc::Receiver<Command>>) -> Result<(), StoreError> {
        let (before, began) = (self.tx.backlog, Instant::now());
        let mut done = self.attempt(turn, inbox).await;
        if done.is_err() {
            self.tx.backlog = before;
            let rolled_back = self.tx.db.roll_back();
            if sqlx::Connection::ping(&mut self.tx.conn).await.is_err() {
                done = self.reconnect().await.and(done);
            } else {
                done = rolled_back.and(done);
            }
        }
        self.told.backlog.store(self.tx.backlog, Ordering::Relaxed);
        if done.is_ok() {
            self.tx.tidy.run(&self.tx.db);
        }
        self.told.failing.note(&done);
        let metrics = &self.told.metrics;
        metrics.durations.observe(began.elapsed().as_secs_f64());
        metrics.requests.observe(turn.len() as f64);
        if done.is_err() {
            metrics.failures.inc();
        }
        if done.is_ok() && !self.tx.events.is_empty() {
            self.told.events.send_modify(|turns| *turns = turns.wrapping_add(1));
        }
        done
    }

    async fn attempt(&mut self, turn: &mut Turn, mut inbox: Option<&mut mpsc::Receiver<Command>>) -> Result<(), StoreError> {
        self.tx.events.clear();
        self.tx.db.begin()?;
        loop {
            turn.run(&mut self.tx).await?;
            if !inbox.as_mut().is_some_and(|inbox| turn.fill(inbox)) {
                events::append(&mut self.tx)?;
                fault::pass(Point::CommitBefore);
                self.tx.db.commit()?;
                fault::pass(Point::CommitAfter);
                return Ok(());
            }
        }
    }

    /// The connection's own thread has died.
    async fn reconnect(&mut self) -> Result<(), StoreError> {
        let mut conn = self.options.connect().await?;
        self.tx.db = Direct::over(&mut conn).await?;
        self.tx.conn = conn;
        Ok(())
    }
}

/// What one transaction does.
#[derive(Default)]
struct Turn {
    accepting: Vec<Accepting>,
    accept_replies: Vec<Reply<accept::Answer>>,
    accepted: Vec<Result<accept::Answer, StoreError>>,
    finishing: Vec<(Vec<Finish>, Reply<Outcomes>)>,
    finish_count: usize,
    /// How many of `finishing` are done, and what they changed.
    finished: usize,
    changed: Outcomes,
    others: Vec<Box<dyn Queued>>,
    others_done: usize,
}

impl Turn {
    fn add(&mut self, command: Command) {
        match command {
            Command::Accept(accepting, reply) => {
                self.accepting.push(*accepting);
                self.accept_replies.push(reply);
            }
            Command::Finish(finished, reply) => {
                self.finish_count += finished.len();
                self.finishing.push((finished, reply));
            }
            Command::Other(other) => self.others.push(other),
        }
    }

    fn has_room(&self) -> bool {
        self.accepting.len() < MAX_INTAKES && self.finish_count < MAX_FINISHED && self.others.len() < MAX_OTHERS
    }

    /// Takes in what waits, as far as there is room. Whether anything came.
    fn fill(&mut self, inbox: &mut mpsc::Receiver<Command>) -> bool {
        let before = self.len();
        while self.has_room() {
            let Ok(next) = inbox.try_recv() else { break };
            self.add(next);
        }
        self.len() > before
    }

    fn len(&self) -> usize {
        self.accepting.len() + self.finishing.len() + self.others.len()
    }

    /// Does what has not been done yet.
    async fn run(&mut self, tx: &mut Tx) -> Result<(), StoreError> {
        self.accepted.extend(accept::run(tx, &self.accepting[self.accepted.len()..])?);
        if self.finished < self.finishing.len() {
            let new = self.finishing[self.finished..].iter().flat_map(|(finished, _)| finished);
            self.changed.extend(finish::run(tx, new)?);
            self.finished = self.finishing.len();
        }
        for other in &mut self.others[self.others_done..] {
            other.run(tx).await?;
        }
        self.others_done = self.others.len();
        Ok(())
    }

    /// Tells everyone what was committed. Who no longer waits is not missed.
    fn answer(self) {
        for (reply, accepted) in self.accept_replies.into_iter().zip(self.accepted) {
            let _ = reply.send(accepted);
        }
        let mut changed = self.changed.into_iter();
        for (finished, reply) in self.finishing {
            let _ = reply.send(Ok(changed.by_ref().take(finished.len()).collect()));
        }
        self.others.into_iter().for_each(|other| other.answer(None));
    }

    fn fail(self, error: &StoreError) {
        self.accept_replies.into_iter().for_each(|reply| drop(reply.send(Err(error.clone()))));
        self.finishing.into_iter().for_each(|(_, reply)| drop(reply.send(Err(error.clone()))));
        self.others.into_iter().for_each(|other| other.answer(Some(error)));
    }

    /// The same requests, each in a turn of its own.
    fn split(self) -> Vec<Turn> {
        let accepts = self.accepting.into_iter().zip(self.accept_replies).map(|(a, reply)| Command::Accept(Box::new(a), reply));
        let finishes = self.finishing.into_iter().map(|(finished, reply)| Command::Finish(finished, reply));
        let commands = accepts.chain(finishes).chain(self.others.into_iter().map(Command::Other));
        commands
            .map(|command| {
                let mut turn = Turn::default();
                turn.add(command);
                turn
            })
            .collect()
    }
}

/// Some other write with whoever waits for it.
#[async_trait]
trait Queued: Send {
    async fn run(&mut self, tx: &mut Tx) -> Result<(), StoreError>;
    fn answer(self: Box<Self>, failed: Option<&StoreError>);
}

struct Other<T> {
    work: Work<T>,
    done: Option<Result<T, StoreError>>,
    reply: Reply<T>,
}

#[async_trait]
impl<T: Send + 'static> Queued for Other<T> {
    async fn run(&mut self, tx: &mut Tx) -> Result<(), StoreError> {
        // Nobody waits any more. A lease that nobody takes would later look like a call that was lost.
        if self.reply.is_closed() {
            return Ok(());
        }
        // The work's own borrow of `self` must end before its answer is kept.
        let running = (self.work)(tx);
        let done = running.await;
        match done {
            Err(error) if !is_refusal(&error) => Err(error),
            done => {
                self.done = Some(done);
                Ok(())
            }
        }
    }

    fn answer(self: Box<Self>, failed: Option<&StoreError>) {
        let done = match (failed, self.done) {
            (Some(error), _) => Err(error.clone()),
            (None, Some(done)) => done,
            (None, None) => Err(StoreError::Defect("a turn was committed without one of its parts".to_owned())),
        };
        let _ = self.reply.send(done);
    }
}
