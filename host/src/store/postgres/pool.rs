//! Connections, and what is done on them: statements, and transactions that count what they do to the queue.
//!
//! A pool of our own and not sqlx's, which asks the server for a sign of life whenever a connection comes back: a round trip
//! for each short transaction. Here a connection that a statement did not come back from is closed, one that the server had
//! closed is found out by the first statement on it, which is then done again on another ([`Tries`]).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgArguments, PgConnectOptions, PgRow};
use sqlx::query::Query;
use sqlx::{ConnectOptions, Connection, PgConnection, Postgres};
use tokio::sync::watch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::error::Elapsed;

use super::error::{Fail, is_alive};
use super::events;
use crate::model::{Change, ProjectId, Timestamp};
use crate::store::EventPack;

/// A statement with its parameters.
pub(super) type Ask<'q> = Query<'q, Postgres, PgArguments>;

/// How long a caller waits for a connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a statement may take, the way there and back included; a server that lives gives up before (see [`super::open`]).
const ANSWER: Duration = Duration::from_secs(15);
/// Connections that were not used for so long are closed.
const IDLE: Duration = Duration::from_secs(120);

/// How to connect, and what may be expected of a connection.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub(super) options: PgConnectOptions,
    /// Whether statements stay prepared on a connection. Not behind a pooler that hands each transaction another server
    /// connection: there, statements have no names, and even a single one stands in a transaction, since it takes two
    /// messages.
    pub(super) direct: bool,
    /// Opens a transaction.
    pub(super) begin: &'static str,
    /// Opens one that sees one picture of the database and writes nothing.
    pub(super) begin_snapshot: &'static str,
}

struct Idle {
    conn: PgConnection,
    since: Instant,
}

/// A bounded number of connections.
pub(super) struct Pool {
    way: Way,
    idle: Mutex<Vec<Idle>>,
    room: Arc<Semaphore>,
    closed: AtomicBool,
    /// Changes when events were committed.
    written: watch::Sender<u64>,
}

impl Pool {
    pub(super) fn new(way: Way, most: u32, written: watch::Sender<u64>) -> Arc<Self> {
        let room = Arc::new(Semaphore::new(most.max(1) as usize));
        Arc::new(Self { way, idle: Mutex::default(), room, closed: AtomicBool::new(false), written })
    }

    /// A connection for one piece of work.
    pub(super) async fn get(self: &Arc<Self>) -> Result<Conn, Fail> {
        let closed = || Fail::unavailable("the store is closed");
        let permit = tokio::time::timeout(PATIENCE, self.room.clone().acquire_owned());
        let permit = permit.await.map_err(|_| Fail::unavailable("all connections to the database are in use"))?;
        let permit = permit.map_err(|_| closed())?;
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        let kept = self.lock().pop();
        let conn = match kept {
            Some(idle) => idle.conn,
            None => connect(&self.way.options).await?,
        };
        Ok(Conn { conn: Some(conn), pool: self.clone(), _permit: permit, clean: true, open: false, jobs: 0, events: EventPack::default() })
    }

    /// Closes what was not used for a while.
    pub(super) fn reap(&self) {
        let old: Vec<Idle> = {
            let mut idle = self.lock();
            let fresh = idle.iter().position(|one| one.since.elapsed() < IDLE).unwrap_or(idle.len());
            idle.drain(..fresh).collect()
        };
        for one in old {
            tokio::spawn(one.conn.close());
        }
    }

    /// Ends every connection; those in use end when their work is done.
    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.room.close();
        let idle = std::mem::take(&mut *self.lock());
        for one in idle {
            // The server ends it anyway.
            let _ = one.conn.close().await;
        }
    }

    /// One has died: the others, of the same age, have most likely died with it.
    fn forget_idle(&self) {
        self.lock().clear();
    }

    fn put_back(&self, conn: PgConnection) {
        if !self.closed.load(Ordering::Acquire) {
            self.lock().push(Idle { conn, since: Instant::now() });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new connection; whatever keeps it from being made says that the database cannot be reached.
pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, Fail> {
    let conn = tokio::time::timeout(PATIENCE, options.connect()).await;
    let conn = conn.map_err(|_| Fail::unavailable(format!("the database did not answer within {PATIENCE:?}")))?;
    conn.map_err(|error| match error {
        sqlx::Error::Io(why) => Fail::unavailable(format!("it cannot be reached: {why}")),
        error => match error.into() {
            Fail::Again(why) => Fail::unavailable(why),
            other => other,
        },
    })
}

/// A connection in use. It goes back to its pool when its last statement was answered and no transaction is open, and is closed
/// otherwise, so that nothing of a caller who gave up midway is left behind.
pub(super) struct Conn {
    conn: Option<PgConnection>,
    pool: Arc<Pool>,
    _permit: OwnedSemaphorePermit,
    clean: bool,
    open: bool,
    /// Jobs that the open transaction added, less those it removed.
    pub(super) jobs: i64,
    /// What the open transaction changed, for those who follow live.
    pub(super) events: EventPack,
}

impl Conn {
    pub(super) async fn begin(&mut self) -> Result<(), Fail> {
        self.simple(self.pool.way.begin).await?;
        self.open = true;
        Ok(())
    }

    /// A transaction for reading: all of its statements see the same.
    pub(super) async fn begin_snapshot(&mut self) -> Result<(), Fail> {
        self.simple(self.pool.way.begin_snapshot).await?;
        self.open = true;
        Ok(())
    }

    /// What a single statement needs around it.
    pub(super) async fn begin_single(&mut self) -> Result<(), Fail> {
        if self.pool.way.direct { Ok(()) } else { self.begin().await }
    }

    /// Ends what [`Conn::begin_single`] or [`Conn::begin_snapshot`] began.
    pub(super) async fn end(&mut self) -> Result<(), Fail> {
        if self.open { self.commit().await.map(drop) } else { Ok(()) }
    }

    /// Makes it last; how many jobs there are more now. When the connection breaks off here, nobody knows whether it did.
    pub(super) async fn commit(&mut self) -> Result<i64, Fail> {
        let told = events::append(self).await?;
        let done = self.simple("commit").await;
        self.open = false;
        match done {
            Ok(()) => {
                if told {
                    self.pool.written.send_modify(|turns| *turns = turns.wrapping_add(1));
                }
                Ok(std::mem::take(&mut self.jobs))
            }
            Err(Fail::Again(why)) if !self.clean => Err(Fail::unavailable(why)),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn roll_back(&mut self) {
        if self.open && self.clean {
            self.open = self.simple("rollback").await.is_err();
        }
    }

    /// Notes a change; it is told when it is committed.
    pub(super) fn tell(&mut self, at: Timestamp, project: ProjectId, change: &Change<'_>) {
        self.events.push(at, project, change);
    }

    /// A statement that no transaction can hold, as long as it takes.
    pub(super) async fn alone(&mut self, sql: &'static str) -> Result<(), Fail> {
        // Behind a pooler nothing may be set that outlives a transaction, and nothing was.
        let (before, after): (&[&str], &[&str]) =
            if self.pool.way.direct { (&["set statement_timeout = 0"], &["reset statement_timeout"]) } else { (&[], &[]) };
        for sql in before.iter().chain(&[sql]).chain(after) {
            let done = self.script((*sql).to_owned()).await;
            if done.is_err() {
                // It does not go back with another timeout than it came with.
                self.clean = false;
                return done;
            }
        }
        Ok(())
    }

    async fn simple(&mut self, sql: &'static str) -> Result<(), Fail> {
        let answered = tokio::time::timeout(ANSWER, sqlx::raw_sql(sql).execute(self.using()?)).await;
        self.note(answered).map(drop)
    }

    /// Several statements without parameters, as long as they take.
    pub(super) async fn script(&mut self, sql: String) -> Result<(), Fail> {
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(self.using()?).await;
        self.note(Ok(done)).map(drop)
    }

    /// All rows.
    pub(super) async fn all(&mut self, ask: Ask<'_>) -> Result<Vec<PgRow>, Fail> {
        let ask = ask.persistent(self.pool.way.direct);
        let answered = tokio::time::timeout(ANSWER, ask.fetch_all(self.using()?)).await;
        self.note(answered)
    }

    /// The row of a statement that has at most one.
    pub(super) async fn first(&mut self, ask: Ask<'_>) -> Result<Option<PgRow>, Fail> {
        Ok(self.all(ask).await?.pop())
    }

    /// The row of a statement that has exactly one.
    pub(super) async fn one(&mut self, ask: Ask<'_>) -> Result<PgRow, Fail> {
        self.first(ask).await?.ok_or_else(|| Fail::defect("a statement gave no row"))
    }

    /// How many rows a statement changed.
    pub(super) async fn run(&mut self, ask: Ask<'_>) -> Result<u64, Fail> {
        let ask = ask.persistent(self.pool.way.direct);
        let answered = tokio::time::timeout(ANSWER, ask.execute(self.using()?)).await;
        Ok(self.note(answered)?.rows_affected())
    }

    /// Until the answer is there, nobody knows what state it is in.
    fn using(&mut self) -> Result<&mut PgConnection, Fail> {
        self.clean = false;
        self.conn.as_mut().ok_or_else(|| Fail::defect("a connection was used after its end"))
    }

    fn note<T>(&mut self, answered: Result<Result<T, sqlx::Error>, Elapsed>) -> Result<T, Fail> {
        match answered {
            Ok(Ok(done)) => {
                self.clean = true;
                Ok(done)
            }
            Ok(Err(error)) => {
                self.clean = is_alive(&error);
                if !self.clean {
                    self.pool.forget_idle();
                }
                Err(error.into())
            }
            Err(_) => Err(Fail::unavailable(format!("the database did not answer within {ANSWER:?}"))),
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take()
            && self.clean
            && !self.open
        {
            self.pool.put_back(conn);
        }
    }
}

/// How often a transaction is tried before its caller hears of it.
const TRIES: u32 = 6;

/// Counts the tries of one transaction.
#[derive(Default)]
pub(super) struct Tries(u32);

impl Tries {
    /// Whether it is to be tried again after this.
    pub(super) fn again<T>(&mut self, done: &Result<T, Fail>) -> bool {
        self.0 += 1;
        matches!(done, Err(Fail::Again(_))) && self.0 < TRIES
    }
}
