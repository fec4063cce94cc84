//! What PostgreSQL's errors mean to the rest of the host.

use sqlx::postgres::PgDatabaseError;

use crate::store::StoreError;

/// Why a transaction did not come to its end.
#[derive(Debug)]
pub(super) enum Fail {
    /// For the one who asked.
    Store(StoreError),
    /// Nothing was written, and the same again may work at once: a deadlock, a connection that had died, someone who was
    /// faster.
    Again(String),
}

impl Fail {
    pub(super) fn defect(why: impl Into<String>) -> Self {
        Self::Store(StoreError::Defect(why.into()))
    }

    pub(super) fn unavailable(why: impl Into<String>) -> Self {
        Self::Store(StoreError::Unavailable(why.into()))
    }
}

impl From<StoreError> for Fail {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Fail> for StoreError {
    fn from(fail: Fail) -> Self {
        match fail {
            Fail::Store(error) => error,
            Fail::Again(why) => Self::Unavailable(why),
        }
    }
}

impl From<sqlx::Error> for Fail {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(inner) => match inner.try_downcast_ref::<PgDatabaseError>() {
                Some(inner) => from_code(inner),
                None => Self::defect(inner.message()),
            },
            sqlx::Error::Io(why) => Self::Again(format!("the connection to the database broke off: {why}")),
            sqlx::Error::Protocol(why) => Self::unavailable(format!("what the database says cannot be understood: {why}")),
            sqlx::Error::Tls(why) => Self::unavailable(format!("no encrypted connection to the database: {why}")),
            sqlx::Error::Configuration(why) => Self::unavailable(format!("the database URL cannot be used: {why}")),
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => Self::unavailable(error.to_string()),
            _ => Self::defect(error.to_string()),
        }
    }
}

/// By SQLSTATE: the surroundings' fault may pass, anything else is ours.
fn from_code(error: &PgDatabaseError) -> Fail {
    let (code, message) = (error.code(), error.message());
    let unavailable = |why: &str| Fail::unavailable(format!("{why} ({message})"));
    match (code.get(..2).unwrap_or_default(), code) {
        (_, "40001" | "40P01") => Fail::Again(format!("others wrote the same rows at the same time ({message})")),
        // The server went away, by itself or by an administrator's word; a transaction that was under way is rolled back.
        ("08", _) | (_, "57P01" | "57P02" | "25P03") => Fail::Again(format!("the database closed the connection ({message})")),
        (_, "57P03") => unavailable("the database is starting or stopping"),
        (_, "57014") => unavailable("the database took too long"),
        (_, "55P03") => unavailable("other work in the database holds what is needed"),
        (_, "25006") => unavailable("the database takes no writes: it is a standby or set to read only"),
        (_, "53100") => unavailable("the database's disk is full"),
        (_, "53300") => unavailable("the database has no connection left"),
        ("53" | "57" | "58", _) => unavailable("the database cannot do it now"),
        ("28", _) => unavailable("the database refuses the user or the password of the URL"),
        (_, "3D000") => unavailable("there is no such database: create it first"),
        (_, "42501") => unavailable("the database's user lacks rights"),
        _ => Fail::defect(format!("{message} ({code})")),
    }
}

/// Whether the connection goes on after this error.
pub(super) fn is_alive(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(inner) => {
            let code = inner.code().unwrap_or_default();
            !code.starts_with("08") && !code.starts_with("57P") && code != "25P03"
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::Encode(_) => true,
        _ => false,
    }
}

/// An answer to the one who asked, which says nothing about the database's health.
pub(super) fn is_refusal(error: &StoreError) -> bool {
    matches!(error, StoreError::Taken { .. } | StoreError::Stale | StoreError::Overloaded { .. })
}
