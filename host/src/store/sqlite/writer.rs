//! The one task that writes. It takes whatever waits, does it in one transaction, commits once and then answers everyone.
//! Groups form by themselves while the transaction before them runs; there is no timer.
//!
//! One requester's failing statement never harms another: the turn is rolled back and each request is done alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::accept::{self, Accepting};
use super::error::is_refusal;
use super::failing::Failing;
use super::finish;
use super::lead_cache::LeadCache;
use crate::store::{Changed, Finish, StoreError};

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
    pub(super) conn: SqliteConnection,
    /// Jobs, this transaction's included.
    pub(super) backlog: u64,
    pub(super) max_backlog: u64,
    pub(super) leads: Arc<LeadCache>,
}

impl Tx {
    pub(super) fn jobs_added(&mut self, count: u64) {
        self.backlog += count;
    }

    pub(super) fn jobs_removed(&mut self, count: u64) {
        self.backlog = self.backlog.saturating_sub(count);
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

/// Starts the writer. It ends when every [`Handle`] is gone and what they asked is done; `keep` is dropped after that.
pub(super) fn start(
    tx: Tx,
    options: SqliteConnectOptions,
    backlog: Arc<AtomicU64>,
    failing: Arc<Failing>,
    keep: impl Send + 'static,
) -> (Handle, tokio::task::JoinHandle<()>) {
    let (commands, inbox) = mpsc::channel(WAITING);
    let stop = CancellationToken::new();
    let writer = Writer { tx, options, backlog, failing, stop: stop.clone() };
    let task = tokio::spawn(async move {
        writer.run(inbox).await;
        drop(keep);
    });
    (Handle { commands, stop }, task)
}

struct Writer {
    tx: Tx,
    options: SqliteConnectOptions,
    backlog: Arc<AtomicU64>,
    failing: Arc<Failing>,
    stop: CancellationToken,
}

impl Writer {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        while let Some(first) = self.next(&mut inbox).await {
            let mut turn = Turn::default();
            turn.add(first);
            // Whoever is about to ask comes along: those woken by the same answer ask at the same moment.
            tokio::task::yield_now().await;
            while turn.has_room() {
                let Ok(next) = inbox.try_recv() else { break };
                turn.add(next);
            }
            self.take(turn).await;
        }
        if let Err(error) = sqlx::Connection::close(self.tx.conn).await {
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

    async fn take(&mut self, mut turn: Turn) {
        let Err(error) = self.transaction(&mut turn).await else { return turn.answer() };
        // The surroundings failed: each one alone would fail the same way, only slower.
        if matches!(error, StoreError::Unavailable(_)) || turn.len() == 1 {
            return turn.fail(&error);
        }
        for mut alone in turn.split() {
            match self.transaction(&mut alone).await {
                Ok(()) => alone.answer(),
                Err(error) => alone.fail(&error),
            }
        }
    }

    async fn transaction(&mut self, turn: &mut Turn) -> Result<(), StoreError> {
        let before = self.tx.backlog;
        let mut done = self.attempt(turn).await;
        if done.is_err() {
            // Some errors end the transaction by themselves; then there is nothing to roll back.
            let rolled_back = sqlx::query("rollback").execute(&mut self.tx.conn).await;
            self.tx.backlog = before;
            if let Err(sqlx::Error::WorkerCrashed) = rolled_back {
                done = self.reconnect().await.and(done);
            }
        }
        self.backlog.store(self.tx.backlog, Ordering::Relaxed);
        self.failing.note(&done);
        done
    }

    async fn attempt(&mut self, turn: &mut Turn) -> Result<(), StoreError> {
        let tx = &mut self.tx;
        sqlx::query("begin immediate").execute(&mut tx.conn).await?;
        turn.run(tx).await?;
        sqlx::query("commit").execute(&mut tx.conn).await?;
        Ok(())
    }

    async fn reconnect(&mut self) -> Result<(), StoreError> {
        self.tx.conn = self.options.connect().await?;
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
    changed: Outcomes,
    others: Vec<Box<dyn Queued>>,
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

    fn len(&self) -> usize {
        self.accepting.len() + self.finishing.len() + self.others.len()
    }

    async fn run(&mut self, tx: &mut Tx) -> Result<(), StoreError> {
        if !self.accepting.is_empty() {
            self.accepted = accept::run(tx, &self.accepting).await?;
        }
        if !self.finishing.is_empty() {
            let all: Vec<&Finish> = self.finishing.iter().flat_map(|(finished, _)| finished).collect();
            self.changed = finish::run(tx, &all).await?;
        }
        for other in &mut self.others {
            other.run(tx).await?;
        }
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
