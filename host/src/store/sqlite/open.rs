//! Opening the database file: one process, the newest schema, one connection that writes and a few that read.

use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Row};
use tokio::sync::watch;

use super::direct::Direct;
use super::failing::Failing;
use super::lead_cache::LeadCache;
use super::tidy::Tidy;
use super::writer::{self, Told, Tx};
use super::{SqliteStore, StoreOptions, page};
use crate::private;
use crate::store::{EventPack, StoreError};

/// The schema, built into the binary.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/sqlite");

/// How long a store that was closed a moment ago may still hold its lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// How long a statement waits for another program that looks into the file.
const BUSY: Duration = Duration::from_secs(5);

pub(super) async fn open(path: &Path, options: StoreOptions) -> Result<SqliteStore, StoreError> {
    let lock = lock(path).await?;
    keep_private(path)?;
    let writing = connect_options(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("wal_autocheckpoint", "1000")
        // What is written is mostly at the ends of the trees; the operating system keeps the rest.
        .pragma("cache_size", "-16384")
        .pragma("temp_store", "memory")
        // What is removed is overwritten, pages that fall free too: a person who was erased must not be found in the file.
        .pragma("secure_delete", "on")
        // See `Direct`: two threads use it, one after the other.
        .serialized(true);
    let mut conn = writing.connect().await.map_err(|error| not_opened(path, error.into()))?;
    // `Migrator::run` does the same, but its future is not `Send` for every lifetime.
    MIGRATIONS.run_direct(None, &mut conn, false).await.map_err(|error| not_opened(path, error.into()))?;
    sqlx::query(FREE_TIMERS).execute(&mut conn).await?;
    sqlx::query(FREE_LEASES).execute(&mut conn).await?;
    let backlog: i64 = sqlx::query("select count(*) from jobs").fetch_one(&mut conn).await?.try_get(0)?;
    let backlog = backlog.max(0) as u64;

    // Connected only now: a connection that may not write cannot make the file.
    let readers = SqlitePoolOptions::new()
        .max_connections(options.readers.max(1))
        .acquire_timeout(BUSY)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(connect_options(path).read_only(true).pragma("cache_size", "-2048").row_buffer_size(page::READ_AHEAD));
    let shared = Arc::new(AtomicU64::new(backlog));
    let db = Direct::over(&mut conn).await?;
    let (tidy, leads) = (Arc::new(Tidy::default()), Arc::new(LeadCache::default()));
    let tx = Tx { db, conn, backlog, max_backlog: options.max_backlog, leads, tidy: tidy.clone(), events: EventPack::default() };
    let failing = Arc::new(Failing::default());
    let events = watch::Sender::new(0);
    let told = Told { backlog: shared.clone(), failing: failing.clone(), events: events.clone(), metrics: options.metrics };
    let (writer, ended) = writer::start(tx, writing.create_if_missing(false), told, lock)?;
    Ok(SqliteStore { writer, ended: tokio::sync::Mutex::new(Some(ended)), readers, backlog: shared, failing, tidy, events })
}

/// Whoever sent was a process that has ended: this one holds the lock. Its leases need not run out, so the jobs are due as
/// they were before. They stay `sending`: the next lease finds the one before it lost, and says that it may have been sent.
const FREE_LEASES: &str = "update jobs set due_at = was_due where sending = 1 and due_at > was_due";

/// Timers that wait for the end of such a lease need not either: what must not be sent any more would be sent before.
const FREE_TIMERS: &str = "
update or replace timers set due_at = (select was_due from jobs where id = subject)
 where kind = 'deadline' and (due_at, subject) in (select due_at, id from jobs where sending = 1 and due_at > was_due)";

fn connect_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY)
        .foreign_keys(false)
        .statement_cache_capacity(256)
        .disable_statement_logging()
}

/// The database and what SQLite keeps beside it, which gets the rights of the database when it is made.
fn keep_private(path: &Path) -> Result<(), StoreError> {
    private::file(path).map_err(|why| StoreError::Unavailable(format!("{} cannot be opened for writing: {why}", path.display())))?;
    for beside in ["-wal", "-shm", "-journal", ".lock"] {
        private::tighten(Path::new(&format!("{}{beside}", path.display())));
    }
    Ok(())
}

fn not_opened(path: &Path, error: StoreError) -> StoreError {
    let path = path.display();
    match error {
        StoreError::Unavailable(why) => StoreError::Unavailable(format!("{path}: {why}")),
        StoreError::Defect(why) => StoreError::Defect(format!("{path}: {why}")),
        other => other,
    }
}

/// Holds `<path>.lock` for this process: a second writer would not break the file, but it would send every lead twice.
async fn lock(path: &Path) -> Result<File, StoreError> {
    let lock_path = PathBuf::from(format!("{}.lock", path.display()));
    let failed = |why: std::io::Error| StoreError::Unavailable(format!("{} cannot be opened for writing: {why}", lock_path.display()));
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&lock_path).map_err(failed)?;
    let mut waited = Duration::ZERO;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(why)) => return Err(failed(why)),
            Err(TryLockError::WouldBlock) if waited >= LOCK_PATIENCE => {
                return Err(StoreError::Unavailable(format!(
                    "{} is in use by another leadwire process (it holds {}); stop that one first",
                    path.display(),
                    lock_path.display()
                )));
            }
            Err(TryLockError::WouldBlock) => {
                tokio::time::sleep(LOCK_PAUSE).await;
                waited += LOCK_PAUSE;
            }
        }
    }
}
