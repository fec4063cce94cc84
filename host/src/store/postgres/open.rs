//! Opening the database: a server that can be used, the newest schema, and the weeks to come.

use std::str::FromStr;

use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Row};

use super::error::Fail;
use super::pool::{Conn, Pool, Way, connect};
use crate::store::StoreError;

/// The schema, built into the binary.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/postgres");

/// What the server allows our connections: a statement that takes longer, a transaction that does nothing for longer, and a
/// wait for a lock that takes longer end with an error.
const TIMEOUTS: [(&str, &str); 3] =
    [("statement_timeout", "10000"), ("idle_in_transaction_session_timeout", "10000"), ("lock_timeout", "2000")];

/// Without a pooler the connection has the timeouts from its beginning.
const BEGIN: &str = "begin";
const BEGIN_SNAPSHOT: &str = "begin isolation level repeatable read read only";
/// Behind one, only a transaction can have settings.
const BEGIN_POOLED: &str = "begin; set local statement_timeout = 10000; set local idle_in_transaction_session_timeout = 10000; \
                            set local lock_timeout = 2000";
const BEGIN_SNAPSHOT_POOLED: &str = "begin isolation level repeatable read read only; set local statement_timeout = 10000; \
                                     set local idle_in_transaction_session_timeout = 10000; set local lock_timeout = 2000";

/// The oldest server that has all that is used here.
const OLDEST: i32 = 130_000;

/// In the URL: there is a pooler (pgbouncer and the like) that hands each transaction another connection. It is found out
/// without this where the pooler refuses or forgets what a connection begins with.
const POOLER: &str = "pgbouncer";

/// Reads the URL and finds out how the server can be spoken to.
pub(super) async fn way(url: &str) -> Result<Way, StoreError> {
    let (options, pooler) = read_url(url)?;
    if !pooler && speaks_directly(&options).await? {
        let options = options.options(TIMEOUTS).statement_cache_capacity(256);
        return Ok(Way { options, direct: true, begin: BEGIN, begin_snapshot: BEGIN_SNAPSHOT });
    }
    tracing::info!("the database is behind a connection pooler: no statement is kept prepared");
    let options = options.statement_cache_capacity(0);
    Ok(Way { options, direct: false, begin: BEGIN_POOLED, begin_snapshot: BEGIN_SNAPSHOT_POOLED })
}

/// Errors never quote the URL, which may hold a password.
fn read_url(url: &str) -> Result<(PgConnectOptions, bool), StoreError> {
    let unusable = |why: String| StoreError::Unavailable(format!("the database URL cannot be used: {why}"));
    let mut parsed = url::Url::parse(url).map_err(|error| unusable(error.to_string()))?;
    let mut pooler = false;
    let mut kept = Vec::new();
    for (name, value) in parsed.query_pairs() {
        match &*name {
            POOLER => pooler = matches!(&*value, "" | "true" | "1" | "yes"),
            // What we choose ourselves.
            "statement-cache-capacity" => {}
            _ => kept.push((name.into_owned(), value.into_owned())),
        }
    }
    parsed.set_query(None);
    if !kept.is_empty() {
        parsed.query_pairs_mut().extend_pairs(kept);
    }
    let options = PgConnectOptions::from_str(parsed.as_str()).map_err(|error| unusable(error.to_string()))?;
    let options = if options.get_application_name().is_some() { options } else { options.application_name("leadwire") };
    Ok((options.extra_float_digits(None).disable_statement_logging(), pooler))
}

/// Whether a connection keeps what it began with.
async fn speaks_directly(options: &PgConnectOptions) -> Result<bool, StoreError> {
    match connect(&options.clone().options(TIMEOUTS)).await {
        Ok(mut conn) => {
            let row = sqlx::raw_sql("show statement_timeout").fetch_one(&mut conn).await.map_err(Fail::from)?;
            let kept = row.try_get::<String, _>(0).map_err(Fail::from)? == "10s";
            // The server ends it anyway.
            let _ = sqlx::Connection::close(conn).await;
            Ok(kept)
        }
        // pgbouncer's words: `unsupported startup parameter: options`, in newer versions `… in options: …`.
        Err(error) => {
            let error = StoreError::from(error);
            let pooler = matches!(&error, StoreError::Unavailable(why) if why.contains("unsupported startup parameter"));
            if pooler { Ok(false) } else { Err(error) }
        }
    }
}

/// Refuses servers that cannot be used, with what to do about it.
pub(super) async fn check_server(pool: &std::sync::Arc<Pool>) -> Result<(), StoreError> {
    let mut conn = pool.get().await?;
    conn.begin_snapshot().await?;
    let row = conn.one(sqlx::query(SERVER)).await?;
    conn.end().await?;
    let (version, encoding): (i32, String) = (row.try_get(0).map_err(Fail::from)?, row.try_get(1).map_err(Fail::from)?);
    if version < OLDEST {
        let major = version / 10_000;
        return Err(StoreError::Unavailable(format!("the database server is PostgreSQL {major}; version 13 or later is needed")));
    }
    if encoding != "UTF8" {
        let why = format!("the database's encoding is {encoding}; make one with `create database … encoding 'UTF8'`");
        return Err(StoreError::Unavailable(why));
    }
    Ok(())
}

const SERVER: &str = "select current_setting('server_version_num')::int, current_setting('server_encoding')";

/// The newest migration that this binary knows.
pub(super) fn known() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Brings the schema up to date. Nodes that start together do it one after the other; nothing of a migration that fails stays.
pub(super) async fn migrate(pool: &std::sync::Arc<Pool>) -> Result<(), StoreError> {
    let mut conn = pool.get().await?;
    conn.begin().await?;
    let done = check_applied(&mut conn).await;
    conn.roll_back().await;
    if done? {
        return Ok(());
    }
    conn.begin().await?;
    match apply_all(&mut conn).await {
        Ok(()) => Ok(conn.commit().await.map(drop)?),
        Err(fail) => {
            conn.roll_back().await;
            Err(explain(fail))
        }
    }
}

/// Whether every migration is there, which needs no rights and disturbs nobody.
async fn check_applied(conn: &mut Conn) -> Result<bool, StoreError> {
    let row = conn.one(sqlx::query("select to_regclass('_sqlx_migrations') is not null")).await?;
    if !row.try_get::<bool, _>(0).map_err(Fail::from)? {
        return Ok(false);
    }
    let applied = conn.all(sqlx::query("select version, checksum from _sqlx_migrations where success order by version")).await?;
    for row in &applied {
        let (version, checksum): (i64, Vec<u8>) = (row.try_get(0).map_err(Fail::from)?, row.try_get(1).map_err(Fail::from)?);
        match MIGRATIONS.iter().find(|migration| migration.version == version) {
            Some(migration) if *migration.checksum == *checksum => {}
            Some(_) => {
                return Err(StoreError::Defect(format!(
                    "the database's migration {version} is not this binary's: was a file of it changed?"
                )));
            }
            None => {
                return Err(StoreError::Defect(format!(
                    "the database has migration {version}, which this binary does not know: it was written by a newer leadwire; start that one"
                )));
            }
        }
    }
    Ok(applied.len() == MIGRATIONS.iter().count())
}

async fn apply_all(conn: &mut Conn) -> Result<(), Fail> {
    // Another node may be at it, and a change of a large table takes as long as it takes.
    conn.script(
        "set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0; set local lock_timeout = 60000".to_owned(),
    )
    .await?;
    conn.script(format!("select pg_advisory_xact_lock({LOCK})")).await?;
    if check_applied(conn).await? {
        return Ok(());
    }
    conn.script(TABLE.to_owned()).await?;
    let there = conn.all(sqlx::query("select version from _sqlx_migrations where success")).await?;
    let there: Vec<i64> = there.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    for migration in MIGRATIONS.iter().filter(|migration| !there.contains(&migration.version)) {
        tracing::info!(version = migration.version, "the database's schema is brought to version {}", migration.version);
        conn.script(migration.sql.as_str().to_owned()).await.map_err(|fail| name(fail, migration.version))?;
        let note = sqlx::query(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time) values ($1, $2, true, $3, 0)",
        )
        .bind(migration.version)
        .bind(migration.description.to_string())
        .bind(migration.checksum.to_vec());
        conn.run(note).await?;
    }
    Ok(())
}

/// Some number that nothing else locks.
const LOCK: i64 = 0x6c65_6164_0000_0001;

/// As sqlx's own command makes it.
const TABLE: &str = "create table if not exists _sqlx_migrations (
    version bigint primary key, description text not null, installed_on timestamptz not null default now(),
    success boolean not null, checksum bytea not null, execution_time bigint not null)";

fn name(fail: Fail, version: i64) -> Fail {
    match fail {
        Fail::Store(StoreError::Defect(why)) => Fail::defect(format!("migration {version} failed: {why}")),
        other => other,
    }
}

fn explain(fail: Fail) -> StoreError {
    match StoreError::from(fail) {
        StoreError::Unavailable(why) if why.contains("lacks rights") => StoreError::Unavailable(format!(
            "{why}: the schema must be made or changed, and this user may not; as the owner of the database: `grant create, usage on schema \
             public to …`, or run `leadwire migrate` once with a user who may"
        )),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_and_never_quoted() {
        let (options, pooler) = read_url("postgres://u:secret@h:6432/d?pgbouncer=true&sslmode=require&application_name=x").unwrap();
        assert!(pooler);
        assert_eq!((options.get_host(), options.get_port(), options.get_username()), ("h", 6432, "u"));
        assert_eq!((options.get_database(), options.get_application_name()), (Some("d"), Some("x")));
        assert!(!read_url("postgresql://h/d").unwrap().1);
        for bad in ["postgres://u:secret@h:port/d", "postgres://u:secret@h/d?sslmode=nonsense"] {
            let error = read_url(bad).unwrap_err().to_string();
            assert!(error.contains("URL cannot be used") && !error.contains("secret"), "{error}");
        }
    }
}
