//! For monitoring: the process lives, and it can do its work.

use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;

use super::answer::Answer;
use super::error::ApiError;
use crate::app::App;

/// The process answers.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Health {
    /// `ok`
    #[schema(value_type = String)]
    pub status: &'static str,
}

/// Whether the host can take leads.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Readiness {
    /// `ok` or `not_ready`
    #[schema(value_type = String)]
    pub status: &'static str,
    /// `ok` or `unavailable`
    #[schema(value_type = String)]
    pub database: &'static str,
    /// Why it is not, such as a full disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Plugin files by state.
    pub plugins: Plugins,
    /// Deliveries that wait.
    pub backlog: u64,
    /// Past it, new leads are answered 429.
    pub max_backlog: u64,
}

/// Plugin files by state.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
#[allow(missing_docs)]
pub struct Plugins {
    pub active: usize,
    pub refused: usize,
}

/// The process lives
#[utoipa::path(get, path = "/healthz", tag = "Operations", security(()), responses((status = 200, body = Health)))]
pub async fn healthz() -> Result<Answer, ApiError> {
    Answer::ok(&Health { status: "ok" })
}

/// The database answers and takes writes, and the backlog is below its limit
#[utoipa::path(get, path = "/readyz", tag = "Operations", security(()), responses(
    (status = 200, body = Readiness), (status = 503, description = "Not now", body = Readiness),
))]
pub async fn readyz(State(app): State<App>) -> Result<Answer, ApiError> {
    let reason = app.store.ping().await.err().map(|error| error.to_string());
    let database = reason.is_none();
    let mut plugins = Plugins::default();
    for version in app.registry.list() {
        match version.state {
            "active" => plugins.active += 1,
            "refused" => plugins.refused += 1,
            _ => {}
        }
    }
    let (backlog, max_backlog) = (app.store.backlog(), app.config.max_backlog);
    let ready = database && backlog < max_backlog;
    let view = Readiness {
        status: if ready { "ok" } else { "not_ready" },
        database: if database { "ok" } else { "unavailable" },
        reason,
        plugins,
        backlog,
        max_backlog,
    };
    Answer::new(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &view)
}
