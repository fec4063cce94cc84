//! Tasks: work on many rows that goes on after its request.

use axum::extract::{Path, State};
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::{Answer, acted, once};
use super::auth::Caller;
use super::error::ApiError;
use super::input::{Input, Params};
use super::list::{self, Paging};
use super::views::List;
use crate::app::App;
use crate::model::{AuditAction, Scope, Task, TaskError, TaskId, TaskKind, TaskStatus, Timestamp};
use crate::policy::audit::changes;
use crate::store::Act;

/// Work on many rows.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct TaskView {
    /// `tsk_…`
    pub id: String,
    #[allow(missing_docs)]
    pub kind: TaskKind,
    /// `prj_…`; absent: of every project.
    pub project: Option<String>,
    #[allow(missing_docs)]
    pub status: TaskStatus,
    /// The conditions it was started with.
    #[schema(value_type = Object)]
    pub filter: Value,
    /// Rows that matched when it began.
    pub total_count: u64,
    /// Rows looked at so far. It may differ from `total_count` at the end: rows change meanwhile.
    pub done_count: u64,
    /// Rows something was done for.
    pub dispatched_count: u64,
    /// Rows that could not be worked on.
    pub errors_count: u64,
    /// The first few of them.
    pub errors: Vec<TaskError>,
    /// Rows a second at most.
    pub rate_per_sec: u32,
    #[schema(value_type = String, format = DateTime)]
    #[allow(missing_docs)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    #[allow(missing_docs)]
    pub finished_at: Option<Timestamp>,
}

impl From<Task> for TaskView {
    fn from(mut task: Task) -> Self {
        Self {
            id: task.id.to_string(),
            kind: task.kind,
            project: task.project.map(|id| id.to_string()),
            status: task.status,
            filter: task.asked.get_mut("filter").map(Value::take).unwrap_or_default(),
            total_count: task.progress.total,
            done_count: task.progress.done,
            dispatched_count: task.progress.changed,
            errors_count: task.progress.errors,
            errors: task.progress.first_errors,
            rate_per_sec: task.rate,
            created_at: task.created_at,
            finished_at: task.finished_at,
        }
    }
}

async fn find(app: &App, caller: &Caller, id: &str) -> Result<Task, ApiError> {
    let missing = || ApiError::not_found("task");
    let id: TaskId = id.parse().map_err(|_| missing())?;
    let task = app.store.task(id).await?.ok_or_else(missing)?;
    // A task of every project is the platform's own.
    let sees = task.project.map_or(caller.key.project.is_none(), |project| caller.sees(project));
    if sees { Ok(task) } else { Err(missing()) }
}

/// List tasks
#[utoipa::path(get, path = "/api/tasks", tag = "Sending", params(Paging), responses((status = 200, body = List<TaskView>)))]
pub async fn list(State(app): State<App>, caller: Caller, Params(paging): Params<Paging>) -> Result<Answer, ApiError> {
    caller.require(Scope::LeadsRead)?;
    let before = list::cursor(paging.cursor.as_deref())?.map(TaskId::from_uuid);
    let found = app.store.tasks(caller.key.project, before, list::limit(paging.limit)?).await?;
    Answer::ok(&list::page(found.items, found.has_more, |task| task.id.uuid(), TaskView::from))
}

/// One task with its progress
#[utoipa::path(get, path = "/api/tasks/{id}", tag = "Sending", params(("id" = String, Path, description = "`tsk_…`")),
    responses((status = 200, body = TaskView)))]
pub async fn show(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Answer, ApiError> {
    caller.require(Scope::LeadsRead)?;
    Answer::ok(&TaskView::from(find(&app, &caller, &id).await?))
}

/// Stop a task
///
/// What it has done stays done.
#[utoipa::path(post, path = "/api/tasks/{id}/cancel", tag = "Sending", params(("id" = String, Path, description = "`tsk_…`")),
    responses((status = 200, body = TaskView)))]
pub async fn cancel(State(app): State<App>, caller: Caller, Path(id): Path<String>, input: Input) -> Result<Answer, ApiError> {
    caller.require(Scope::LeadsWrite)?;
    let task = find(&app, &caller, &id).await?;
    once(&app, &caller, &input, async {
        let running = json!({"status": task.status});
        let changes = changes(&running, &json!({"status": TaskStatus::Cancelled}));
        let line = caller.line(&app, AuditAction::TaskCancel, task.project, task.id, changes);
        let act = Act::CancelTask { id: task.id, now: app.now() };
        if acted(app.store.act(act, &line, None).await?)?.is_none() {
            return Err(ApiError::conflict("not_cancellable", "only a running task is cancelled; this one has ended"));
        }
        Answer::ok(&TaskView::from(find(&app, &caller, &id).await?))
    })
    .await
}
