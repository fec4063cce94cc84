//! What SQLite's errors mean to the rest of the host.

use sqlx::migrate::MigrateError;

use crate::store::StoreError;

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(inner) => from_code(inner.code().as_deref().and_then(|code| code.parse().ok()), inner.message()),
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
                Self::Unavailable(error.to_string())
            }
            _ => Self::Defect(error.to_string()),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match &error {
            rusqlite::Error::SqliteFailure(code, message) => {
                let message = message.clone().unwrap_or_else(|| code.to_string());
                from_code(u32::try_from(code.extended_code).ok(), &message)
            }
            _ => Self::Defect(error.to_string()),
        }
    }
}

impl From<MigrateError> for StoreError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) => error.into(),
            MigrateError::ExecuteMigration(error, version) => match error.into() {
                Self::Unavailable(why) => Self::Unavailable(why),
                other => Self::Defect(format!("migration {version} failed: {other}")),
            },
            MigrateError::VersionMissing(version) => Self::Defect(format!(
                "the database has migration {version}, which this binary does not know: it was written by a newer leadwire; start that one"
            )),
            other => Self::Defect(other.to_string()),
        }
    }
}

/// By SQLite's primary result code (the low byte): the surroundings' fault may pass, anything else is ours.
fn from_code(code: Option<u32>, message: &str) -> StoreError {
    let unavailable = |why: &str| StoreError::Unavailable(format!("{why} ({message})"));
    match code.map(|code| code & 0xff) {
        Some(3 | 8 | 23) => unavailable("the database file or its folder may not be written"),
        Some(5 | 6) => unavailable("the database is locked by another process"),
        Some(7) => unavailable("out of memory"),
        Some(10) => unavailable("the disk does not read or write"),
        Some(13) => unavailable("the disk is full"),
        Some(14) => unavailable("the database file cannot be opened"),
        Some(11 | 26) => StoreError::Defect(format!("the file is damaged or no database ({message})")),
        _ => StoreError::Defect(message.to_owned()),
    }
}

/// An answer to the one who asked, given before anything was written: the turn goes on.
pub(super) fn is_refusal(error: &StoreError) -> bool {
    matches!(error, StoreError::Taken { .. } | StoreError::Stale | StoreError::Overloaded { .. })
}
