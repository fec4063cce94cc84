//! How long things are kept, and what the clean-ups removed.

use axum::extract::{Path, State};
use jiff::tz::TimeZone;
use serde::Serialize;

use super::answer::Answer;
use super::auth::{Caller, find_project};
use super::error::ApiError;
use crate::app::App;
use crate::model::{Cleanup, ProjectId, Removed, Scope, Timestamp};
use crate::policy::cleanup::{self, Ages};

/// The last clean-up.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct LastCleanup {
    /// The time in the schedule that it was for.
    #[schema(value_type = String, format = DateTime)]
    pub due_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    #[allow(missing_docs)]
    pub ended_at: Timestamp,
    #[allow(missing_docs)]
    pub removed: Removed,
}

impl From<Cleanup> for LastCleanup {
    fn from(cleanup: Cleanup) -> Self {
        Self { due_at: cleanup.due_at, ended_at: cleanup.ended_at, removed: cleanup.removed }
    }
}

/// How long things are kept.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Retention {
    /// The times of the clean-up, as a cron expression.
    pub schedule: String,
    /// Where the schedule's time is read.
    pub time_zone: String,
    /// In days; 0: for ever.
    pub ages: Ages,
    #[allow(missing_docs)]
    pub last: Option<LastCleanup>,
    #[schema(value_type = Option<String>, format = DateTime)]
    #[allow(missing_docs)]
    pub next_at: Option<Timestamp>,
}

/// How long the host keeps things, and what it removed since it started.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct HostRetention {
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub retention: Retention,
    /// Of all projects, since the host started.
    pub removed: Removed,
    /// Clean-ups since the host started, one for each project and time.
    pub runs: u64,
    /// Clean-ups that broke off since the host started; each goes on within a minute.
    pub failures: u64,
    /// One is under way.
    pub running: bool,
}

async fn retention(app: &App, project: Option<ProjectId>, time_zone: &str, ages: Ages) -> Result<Retention, ApiError> {
    let schedule = &app.config.retention.schedule;
    let zone = cleanup::time_zone(time_zone).unwrap_or(TimeZone::UTC);
    Ok(Retention {
        schedule: schedule.text().to_owned(),
        time_zone: time_zone.to_owned(),
        ages,
        last: app.store.cleanup(project).await?.map(LastCleanup::from),
        next_at: schedule.next(&zone, app.now()),
    })
}

/// How long the host keeps things
///
/// The ages that hold where a project says nothing else, and what the clean-ups of all projects removed.
#[utoipa::path(get, path = "/api/retention", tag = "Operations", responses((status = 200, body = HostRetention)))]
pub async fn host(State(app): State<App>, caller: Caller) -> Result<Answer, ApiError> {
    caller.require(Scope::PlatformAdmin)?;
    let retention = retention(&app, None, "UTC", app.config.retention.ages).await?;
    let counted = app.retention.now();
    let (removed, runs, failures, running) = (counted.removed, counted.runs, counted.failures, counted.running);
    Answer::ok(&HostRetention { retention, removed, runs, failures, running })
}

/// How long a project's leads are kept
#[utoipa::path(get, path = "/api/projects/{id}/retention", tag = "Administration",
    params(("id" = String, Path, description = "`prj_…`, or `ext:` and your own id")), responses((status = 200, body = Retention)))]
pub async fn project(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Answer, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    let project = find_project(&app, &caller, &id).await?.ok_or_else(|| ApiError::not_found("project"))?;
    let ages = app.config.retention.ages.of(&project.retention);
    Answer::ok(&retention(&app, Some(project.id), &project.time_zone, ages).await?)
}
