//! Actions on many rows: the conditions of a list, counted first with `dry_run`, else a task.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer::{Answer, Once, made};
use super::auth::Caller;
use super::error::ApiError;
use super::input::Input;
use super::leads::find_lead;
use super::list::Conditions;
use super::trail;
use crate::app::App;
use crate::chore::tasks::{Asked, again};
use crate::model::{
    AuditAction, Credential, CredentialId, DeliveryStatus, LeadStatus, ProjectId, Purpose, Scope, Task, TaskError, TaskId, TaskKind,
    TaskProgress, TaskStatus, Timestamp,
};
use crate::policy::FieldError;
use crate::policy::fanout::FIRST_PARTY;
use crate::store::{Act, KEPT_ERRORS, ListQuery};

/// Rows a second when nothing else is said.
const RATE: u32 = 100;
/// Most rows a second.
const MAX_RATE: u32 = 1_000;
/// Most leads by their ids in one request.
const MAX_LEADS: usize = 1_000;

/// Which leads go again, and where.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(example = json!({"filter": {"status": "failed"}, "rate_per_sec": 100}))]
pub struct ResendMany {
    /// Up to 1,000: `lead_…`, or `ext:` and your own id. Either these or `filter`.
    #[schema(min_items = 1, max_items = 1_000)]
    pub lead_ids: Option<Vec<String>>,
    /// Where `ext:` ids are looked for, when the key belongs to no project.
    pub project: Option<String>,
    /// The conditions of `GET /api/leads`.
    pub filter: Option<Conditions>,
    /// Empty means auto.
    pub integration_types: Vec<String>,
    /// Count only.
    pub dry_run: bool,
    /// Leads a second at most: 1 to 1000, 100 without.
    #[schema(minimum = 1, maximum = 1_000)]
    pub rate_per_sec: Option<u32>,
}

/// Which deliveries are tried again.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(example = json!({"filter": {"status": "failed"}, "rate_per_sec": 100}))]
pub struct RetryMany {
    /// The conditions of `GET /api/deliveries`. `status` may be `failed`, `in_doubt` or `cancelled`; without it the failed
    /// ones and those in doubt are meant.
    pub filter: Conditions,
    /// Count only.
    pub dry_run: bool,
    /// Deliveries a second at most: 1 to 1000, 100 without.
    #[schema(minimum = 1, maximum = 1_000)]
    pub rate_per_sec: Option<u32>,
}

/// From when on a credential's deliveries are tried again.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"since": "2026-11-22T10:00:00Z", "rate_per_sec": 100}))]
pub struct Recover {
    /// Deliveries made at this time or after it.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Only those made before this time.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
    /// Count only.
    #[serde(default)]
    pub dry_run: bool,
    /// Deliveries a second at most: 1 to 1000, 100 without.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1_000)]
    pub rate_per_sec: Option<u32>,
}

/// How a credential's queue is cancelled.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CancelQueued {
    /// Count only.
    pub dry_run: bool,
}

/// What an action on many rows is about to do.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Bulk {
    /// `tsk_…`, where its progress is seen; absent when nothing is done.
    pub task_id: Option<String>,
    /// Rows that the task is about to work on; 0 for a `dry_run`.
    pub dispatched_count: u64,
    /// Rows that match.
    pub total_count: u64,
    /// Rows that cannot be worked on.
    pub errors_count: u64,
    /// The first few of them.
    pub errors: Vec<TaskError>,
}

/// A checked action.
struct Action {
    kind: TaskKind,
    project: Option<ProjectId>,
    asked: Asked,
    rate: u32,
    dry_run: bool,
    errors: Vec<TaskError>,
    /// What the audit log calls it.
    audited: AuditAction,
    /// The credential it is done to, if it is one.
    credential: Option<CredentialId>,
}

fn rate(given: Option<u32>) -> Result<u32, ApiError> {
    let rate = given.unwrap_or(RATE);
    if (1..=MAX_RATE).contains(&rate) { Ok(rate) } else { Err(ApiError::field("/rate_per_sec", "invalid_value", "must be 1 to 1000")) }
}

/// Rows that are there now: a task has an end, however much arrives while it runs.
fn until_now(query: &mut ListQuery, now: Timestamp) {
    let end = Timestamp::from_millis(now.as_millis() + 1);
    query.created_before = Some(query.created_before.map_or(end, |before| before.min(end)));
}

/// Counts, and starts the task unless only the count was asked for. Task and answer are written together.
async fn start(app: &App, caller: &Caller, input: &Input, action: Action) -> Result<Answer, ApiError> {
    let Action { kind, project, asked, rate, dry_run, errors, audited, credential } = action;
    let once = Once::begin(app, caller, input)?;
    if let Some(once) = &once
        && let Some(answer) = once.earlier(app).await?
    {
        return Ok(answer);
    }
    let fit = asked.count(app, kind).await?;
    let errors_count = errors.len() as u64;
    let mut bulk = Bulk { task_id: None, dispatched_count: 0, total_count: fit + errors_count, errors_count, errors };
    bulk.errors.truncate(KEPT_ERRORS);
    if dry_run || fit == 0 {
        let answer = Answer::ok(&bulk)?;
        if let Some(once) = &once {
            let (key, stored) = once.keep(app, &answer);
            app.store.keep_answer(&key, &stored, app.now()).await?;
        }
        return Ok(answer);
    }
    let now = app.now();
    let task = Task {
        id: TaskId::new(now),
        project,
        kind,
        status: TaskStatus::Running,
        asked: serde_json::to_value(&asked).map_err(|error| ApiError::internal(&error))?,
        rate,
        progress: TaskProgress { total: fit, ..TaskProgress::default() },
        cursor: None,
        correlation: input.correlation.clone(),
        created_at: now,
        finished_at: None,
    };
    (bulk.task_id, bulk.dispatched_count) = (Some(task.id.to_string()), fit);
    let answer = Answer::new(StatusCode::ACCEPTED, &bulk)?.at(format!("/api/tasks/{}", task.id));
    let keep = once.as_ref().map(|once| once.keep(app, &answer));
    let object = credential.map_or_else(|| task.id.to_string(), |id| id.to_string());
    let line = caller.line(app, audited, project, object, trail::task(&task, &asked.filter));
    let done = app.store.act(Act::CreateTask(Box::new(task.clone())), &line, keep).await?;
    tracing::info!(task.id = %task.id, rows = fit, correlation = input.correlation, "task {} begins", task.id);
    app.tasks.notify_one();
    made(app, once.as_ref(), done, answer)
}

fn some(filter: &Conditions) -> Result<(), ApiError> {
    if !filter.is_empty() {
        return Ok(());
    }
    Err(ApiError::field("/filter", "required", "must have at least one condition, such as `project`, `status` or `created_after`"))
}

fn as_json(filter: &Conditions) -> Value {
    let mut value = serde_json::to_value(filter).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    value
}

/// Send many stored leads again
///
/// Makes a new batch for each, in a task. `dispatched_count` leads are going out when this answers; `errors` names those
/// that cannot.
#[utoipa::path(post, path = "/api/leads/resend", tag = "Sending", request_body = ResendMany, responses(
    (status = 202, description = "A task does it", body = Bulk), (status = 200, description = "Nothing to do, or counted only", body = Bulk),
))]
pub async fn resend_leads(State(app): State<App>, caller: Caller, input: Input) -> Result<Answer, ApiError> {
    caller.require(Scope::LeadsWrite)?;
    let body: ResendMany = input.json()?;
    let mut action = Action {
        kind: TaskKind::LeadsResend,
        project: caller.key.project,
        asked: Asked { channels: body.integration_types.clone(), ..Asked::default() },
        rate: rate(body.rate_per_sec)?,
        dry_run: body.dry_run,
        errors: Vec::new(),
        audited: AuditAction::LeadsResend,
        credential: None,
    };
    match (&body.lead_ids, &body.filter) {
        (Some(ids), None) => by_ids(&app, &caller, ids, body.project.as_deref(), &mut action).await?,
        (None, Some(filter)) => {
            if body.project.is_some() {
                return Err(ApiError::field("/project", "unexpected", "belongs to `lead_ids`; with a filter it stands in the filter"));
            }
            some(filter)?;
            let mut query = filter.query::<LeadStatus>(&app, &caller).await.map_err(|wrong| wrong.at("/filter"))?;
            until_now(&mut query, app.now());
            check_channels(&app, query.project, &body.integration_types).await?;
            action.project = query.project;
            action.asked.filter = as_json(filter);
            action.asked.queries = vec![query];
        }
        _ => return Err(ApiError::field("", "one_of", "exactly one of `lead_ids` and `filter` must be there")),
    }
    start(&app, &caller, &input, action).await
}

/// A channel that nobody knows is a typing error: said at once, and not by each lead of a task.
async fn check_channels(app: &App, project: Option<ProjectId>, channels: &[String]) -> Result<(), ApiError> {
    let stored = match project {
        Some(project) => app.credentials(project).await?.iter().map(|credential| credential.channel.clone()).collect(),
        None => Vec::new(),
    };
    let known = |channel: &String| app.registry.installed(channel) || FIRST_PARTY.contains(&channel.as_str()) || stored.contains(channel);
    let unknown = channels.iter().enumerate().filter(|(_, channel)| !known(channel)).map(|(index, channel)| {
        FieldError::new(format!("/integration_types/{index}"), "unknown_integration", format!("there is no integration `{channel}`"))
    });
    let errors: Vec<FieldError> = unknown.collect();
    if errors.is_empty() { Ok(()) } else { Err(errors.into()) }
}

/// Looks each lead up and plans where it would go, so that what cannot be done is said at once.
async fn by_ids(app: &App, caller: &Caller, ids: &[String], project: Option<&str>, action: &mut Action) -> Result<(), ApiError> {
    if ids.is_empty() || ids.len() > MAX_LEADS {
        return Err(ApiError::field("/lead_ids", "invalid_length", "must name 1 to 1000 leads"));
    }
    let wanted = action.asked.wanted();
    let mut projects = std::collections::BTreeSet::new();
    for (number, text) in ids.iter().enumerate() {
        let found = find_lead(app, caller, text, project).await.map_err(|error| {
            if error.code == "project_required" { ApiError::field(format!("/lead_ids/{number}"), error.code, error.detail) } else { error }
        })?;
        let Some(record) = found else {
            action.errors.push(TaskError { id: text.clone(), code: "not_found".into(), detail: "there is no such lead".into() });
            continue;
        };
        let (id, of) = (record.lead.id, record.lead.project);
        match again(app, &wanted, record, "", app.now()).await? {
            Ok(_) if action.asked.leads.contains(&id) => {}
            Ok(_) => {
                action.asked.leads.push(id);
                projects.insert(of);
            }
            Err(error) => action.errors.push(error),
        }
    }
    action.asked.filter = json!({"lead_ids": action.asked.leads});
    if projects.len() == 1 {
        action.project = projects.pop_first();
    }
    Ok(())
}

/// The queries of a retry: one for each state that is meant.
fn retryable(query: &ListQuery, now: Timestamp) -> Vec<ListQuery> {
    let statuses = match &query.status {
        Some(status) => vec![status.clone()],
        None => vec![DeliveryStatus::Failed.name().to_owned(), DeliveryStatus::InDoubt.name().to_owned()],
    };
    let of = |status| {
        let mut query = ListQuery { status: Some(status), ..query.clone() };
        until_now(&mut query, now);
        query
    };
    statuses.into_iter().map(of).collect()
}

/// Try many deliveries again
///
/// Each keeps its id, and so the key by which the remote side knows it. A task does it.
#[utoipa::path(post, path = "/api/deliveries/retry", tag = "Sending", request_body = RetryMany, responses(
    (status = 202, description = "A task does it", body = Bulk), (status = 200, description = "Nothing to do, or counted only", body = Bulk),
))]
pub async fn retry_deliveries(State(app): State<App>, caller: Caller, input: Input) -> Result<Answer, ApiError> {
    caller.require(Scope::LeadsWrite)?;
    let body: RetryMany = input.json()?;
    let rate = rate(body.rate_per_sec)?;
    some(&body.filter)?;
    let query = body.filter.query::<DeliveryStatus>(&app, &caller).await.map_err(|wrong| wrong.at("/filter"))?;
    if body.filter.status.as_deref().is_some_and(|status| !["failed", "in_doubt", "cancelled"].contains(&status)) {
        return Err(ApiError::field("/filter/status", "not_retryable", "only failed, in_doubt and cancelled deliveries are retried"));
    }
    let asked = Asked { queries: retryable(&query, app.now()), filter: as_json(&body.filter), ..Asked::default() };
    let (kind, project) = (TaskKind::DeliveriesRetry, query.project);
    let (audited, errors) = (AuditAction::DeliveriesRetry, Vec::new());
    start(&app, &caller, &input, Action { kind, project, asked, rate, dry_run: body.dry_run, errors, audited, credential: None }).await
}

async fn find_credential(app: &App, caller: &Caller, id: &str) -> Result<Credential, ApiError> {
    let missing = || ApiError::not_found("credential");
    let id: CredentialId = id.parse().map_err(|_| missing())?;
    let credential = app.store.credential(id).await?.ok_or_else(missing)?;
    caller.check(credential.project, "credential")?;
    // What was given for one send is nobody's to look at.
    if credential.purpose == Purpose::Send { Err(missing()) } else { Ok(credential) }
}

/// Try again what failed at a credential since a time
///
/// For after an outage: its deliveries made since then that failed or are in doubt. A task does it.
#[utoipa::path(post, path = "/api/credentials/{id}/recover", tag = "Sending", request_body = Recover,
    params(("id" = String, Path, description = "`crd_…`")), responses(
    (status = 202, description = "A task does it", body = Bulk), (status = 200, description = "Nothing to do, or counted only", body = Bulk),
))]
pub async fn recover(State(app): State<App>, caller: Caller, Path(id): Path<String>, input: Input) -> Result<Answer, ApiError> {
    caller.require(Scope::LeadsWrite)?;
    let credential = find_credential(&app, &caller, &id).await?;
    let body: Recover = input.json()?;
    let rate = rate(body.rate_per_sec)?;
    if body.until.is_some_and(|until| until <= body.since) {
        return Err(ApiError::field("/until", "invalid_value", "must be later than `since`"));
    }
    let project = Some(credential.project);
    let (created_after, created_before) = (Some(body.since), body.until);
    let query = ListQuery { project, credential: Some(credential.id), created_after, created_before, ..ListQuery::default() };
    let filter = json!({"credential": credential.id, "created_after": body.since, "created_before": body.until});
    let asked = Asked { queries: retryable(&query, app.now()), filter, ..Asked::default() };
    let (kind, audited, errors) = (TaskKind::DeliveriesRetry, AuditAction::CredentialRecover, Vec::new());
    let credential = Some(credential.id);
    start(&app, &caller, &input, Action { kind, project, asked, rate, dry_run: body.dry_run, errors, audited, credential }).await
}

/// Cancel what is queued for a credential
///
/// Deliveries that are being sent at this moment end as they end. A task does it.
#[utoipa::path(post, path = "/api/credentials/{id}/cancel", tag = "Sending", request_body = CancelQueued,
    params(("id" = String, Path, description = "`crd_…`")), responses(
    (status = 202, description = "A task does it", body = Bulk), (status = 200, description = "Nothing to do, or counted only", body = Bulk),
))]
pub async fn cancel_queued(State(app): State<App>, caller: Caller, Path(id): Path<String>, input: Input) -> Result<Answer, ApiError> {
    caller.require(Scope::LeadsWrite)?;
    let credential = find_credential(&app, &caller, &id).await?;
    let body: CancelQueued = input.json_or_default()?;
    let project = Some(credential.project);
    let status = Some(DeliveryStatus::Queued.name().to_owned());
    let mut query = ListQuery { project, credential: Some(credential.id), status, ..ListQuery::default() };
    until_now(&mut query, app.now());
    let filter = json!({"credential": credential.id, "status": "queued"});
    let asked = Asked { queries: vec![query], filter, ..Asked::default() };
    let (kind, audited, errors) = (TaskKind::CredentialCancel, AuditAction::CredentialCancel, Vec::new());
    let credential = Some(credential.id);
    start(&app, &caller, &input, Action { kind, project, asked, rate: MAX_RATE, dry_run: body.dry_run, errors, audited, credential }).await
}
