//! PostgreSQL for tests: one server for the whole test process, started by the first test that asks, and for each test a
//! database of its own, copied from one that has the schema. Debian's binaries, a temporary folder, a Unix socket; what is
//! written need not survive. When the test process ends, however it ends, so does the server, and its folder goes.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use leadwire::store::postgres::{PostgresOptions, PostgresStore};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::OnceCell;

/// Makes a cluster, starts it and says where; ends it when the other side of its standard input has gone. `$1` is the folder of
/// the binaries, `$2` the port, `$3` and `$4` certificate and key for TLS.
const SCRIPT: &str = r#"
set -eu
cd /
dir=$(mktemp -d /tmp/leadwire-postgres.XXXXXX)
trap '"$1/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1; rm -rf "$dir"' EXIT
umask 077
"$1/initdb" -D "$dir/data" -U leadwire -A trust -E UTF8 --locale=C --no-sync >"$dir/log" 2>&1 || { cat "$dir/log" >&2; exit 1; }
printf '%s' "$3" >"$dir/data/server.crt"
printf '%s' "$4" >"$dir/data/server.key"
"$1/pg_ctl" -D "$dir/data" -l "$dir/log" -w -o "-k $dir -p $2 -c listen_addresses=127.0.0.1 -c ssl=on -c fsync=off -c full_page_writes=off \
    -c max_connections=400 -c shared_buffers=64MB -c max_wal_size=256MB" start >/dev/null || { cat "$dir/log" >&2; exit 1; }
echo "$dir"
read -r _ || true
"#;

/// A running server.
#[derive(Debug)]
struct Server {
    /// Where its socket is.
    folder: String,
    port: u16,
}

static SERVER: OnceCell<Server> = OnceCell::const_new();
static NEXT: AtomicU32 = AtomicU32::new(0);
/// Databases of tests that have ended.
static LEFT: Mutex<Vec<String>> = Mutex::new(Vec::new());

const TEMPLATE: &str = "leadwire_template";

/// Whether hosts of tests keep everything in PostgreSQL: `LEADWIRE_TEST_STORE=postgres`.
pub fn is_asked_for() -> bool {
    std::env::var("LEADWIRE_TEST_STORE").is_ok_and(|store| store == "postgres")
}

/// A database for one test.
#[derive(Debug)]
pub struct Database {
    name: String,
    folder: String,
    port: u16,
}

impl Database {
    /// An empty one with the schema.
    pub async fn new() -> Self {
        Self::make(Some(TEMPLATE)).await
    }

    /// One without any table.
    pub async fn bare() -> Self {
        Self::make(None).await
    }

    async fn make(template: Option<&str>) -> Self {
        let server = SERVER.get_or_init(start).await;
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let left = std::mem::take(&mut *LEFT.lock().unwrap_or_else(PoisonError::into_inner));
        let mut admin = PgConnection::connect(&url(&server.folder, server.port, "postgres")).await.expect("the server answers");
        for old in left {
            execute(&mut admin, format!("drop database if exists {old} with (force)")).await;
        }
        let template = template.unwrap_or("template0");
        execute(&mut admin, format!("create database {name} template {template}")).await;
        admin.close().await.expect("a clean end");
        Self { name, folder: server.folder.clone(), port: server.port }
    }

    /// For [`PostgresStore::open`] and `LEADWIRE_DATABASE_URL`.
    pub fn url(&self) -> String {
        url(&self.folder, self.port, &self.name)
    }

    /// Over TCP, with encryption in this mode; the server's certificate is for `localhost` and its own authority.
    pub fn encrypted_url(&self, host: &str, mode: &str) -> String {
        let (port, name, folder) = (self.port, &self.name, &self.folder);
        format!("postgres://leadwire@{host}:{port}/{name}?sslmode={mode}&sslrootcert={folder}/data/server.crt")
    }

    /// The folder of the server's socket.
    pub fn socket_folder(&self) -> &str {
        &self.folder
    }

    /// Its name on the server.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A connection beside the store's.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url()).await.expect("the server answers")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.name));
    }
}

fn url(folder: &str, port: u16, database: &str) -> String {
    format!("postgres:///{database}?host={folder}&port={port}&user=leadwire")
}

/// Runs statements that must work.
pub async fn execute(conn: &mut PgConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(conn).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn start() -> Server {
    // Free a moment ago, and nobody asks for a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (cert, key) = (certificate.cert.pem(), certificate.signing_key.serialize_pem());
    let starting = move || keep(&["sh", "-c", SCRIPT, "sh", &binaries(), &port.to_string(), &cert, &key]);
    let folder = tokio::task::spawn_blocking(starting).await.expect("the server starts");
    let mut admin = PgConnection::connect(&url(&folder, port, "postgres")).await.expect("the server answers");
    execute(&mut admin, format!("create database {TEMPLATE} template template0")).await;
    admin.close().await.expect("a clean end");
    let store = PostgresStore::open(&url(&folder, port, TEMPLATE), PostgresOptions::default()).await.expect("the schema is made");
    store.close().await;
    Server { folder, port }
}

/// Starts what lives as long as this process and says first in which folder.
fn keep(script: &[&str]) -> String {
    let mut command = as_ordinary_user();
    command.args(script);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell can be started");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("the server's folder");
    let folder = line.trim().to_owned();
    assert!(!folder.is_empty(), "it did not start; what it said is above");
    // Its standard input stays open until this process ends: then the script reads the end of it.
    std::mem::forget(child);
    folder
}

/// The newest server's binaries.
fn binaries() -> String {
    let mut found: Vec<_> =
        std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin")).collect();
    found.retain(|folder| folder.join("initdb").exists());
    found.sort_by_key(|folder| folder.parent().and_then(|version| version.file_name()?.to_str()?.parse::<u32>().ok()));
    let newest = found.pop().expect("PostgreSQL is not installed: run tests/setup/postgres.sh as root (cargo xtask test does)");
    newest.to_string_lossy().into_owned()
}

/// PostgreSQL refuses to run as root: then as the user that Debian's package makes. In a session of its own: what ends the test
/// process (Ctrl-C, a time limit) must not end the script before it has tidied up.
fn as_ordinary_user() -> Command {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    let mut command = Command::new("setsid");
    if root {
        command.args(["runuser", "-u", "postgres", "--"]);
    }
    command
}

/// pgbouncer in transaction mode, before a test's database.
#[derive(Debug)]
pub struct Pooler {
    url: String,
}

/// `$1` is the folder of the server's socket, `$2` its port.
const POOLER: &str = r#"
set -eu
cd /
dir=$(mktemp -d /tmp/leadwire-pgbouncer.XXXXXX)
trap 'kill "$pid" 2>/dev/null; rm -rf "$dir"' EXIT
cat >"$dir/ini" <<END
[databases]
* = host=$1 port=$2 user=leadwire
[pgbouncer]
listen_addr =
unix_socket_dir = $dir
auth_type = any
pool_mode = transaction
default_pool_size = 4
max_client_conn = 200
END
mkfifo "$dir/log"
/usr/sbin/pgbouncer "$dir/ini" 2>"$dir/log" &
pid=$!
exec 3<"$dir/log"
seen=
while read -r line <&3; do
    seen="$seen$line
"
    case "$line" in *"process up"*) seen=up; break ;; esac
done
[ "$seen" = up ] || { echo "$seen" >&2; exit 1; }
cat <&3 >/dev/null &
echo "$dir"
read -r _ || true
"#;

impl Pooler {
    /// In front of `database`, until the test process ends.
    pub async fn of(database: &Database) -> Self {
        let program = std::path::Path::new("/usr/sbin/pgbouncer");
        assert!(program.exists(), "pgbouncer is not installed: run tests/setup/postgres.sh as root (cargo xtask test does)");
        let (server, port) = (database.folder.clone(), database.port.to_string());
        let folder = tokio::task::spawn_blocking(move || keep(&["sh", "-c", POOLER, "sh", &server, &port]));
        let folder = folder.await.expect("the pooler starts");
        Self { url: format!("postgres:///{}?host={folder}&port=6432&user=leadwire", database.name) }
    }

    /// The database's URL through it.
    pub fn url(&self) -> &str {
        &self.url
    }
}
