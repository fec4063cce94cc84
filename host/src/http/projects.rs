//! Projects.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::answer::{Answer, Once, acted, made};
use super::auth::{Caller, find_project};
use super::callback_secret::CallbackSecretView;
use super::error::ApiError;
use super::fallbacks::{self, Rule};
use super::input::{Input, Params};
use super::list::{self, Paging};
use super::notifications::{self, Notification};
use super::trail;
use super::views::List;
use crate::app::App;
use crate::model::{
    AuditAction, CallbackSecrets, DedupSettings, EntityCredentials, Project, ProjectId, RetentionSettings, Scope, SendingSettings,
    Timestamp,
};
use crate::policy::cleanup::{self, MAX_DAYS};
use crate::policy::{FieldError, dedup, normalise};
use crate::store::Act;

/// Longest time for which duplicates are remembered: 30 days.
const MAX_TTL_SEC: u32 = 2_592_000;

/// A new project.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"external_id": "shop-1", "name": "My shop", "default_region": "GB", "time_zone": "Europe/London", "locale": "en"}))]
pub struct NewProject {
    /// Your own id of it; unique, 1 to 255 characters.
    #[schema(min_length = 1, max_length = 255, pattern = r"\S")]
    pub external_id: String,
    /// 1 to 255 characters; the external id without one.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255, pattern = r"\S")]
    pub name: Option<String>,
    /// ISO 3166 region in which numbers without a country code are read. Default `RU`.
    #[serde(default)]
    #[schema(pattern = "^[A-Z]{2}$")]
    pub default_region: Option<String>,
    /// IANA name. Default `Europe/Moscow`.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9/_+-]+$")]
    pub time_zone: Option<String>,
    /// Language of texts made for people. Default `ru`.
    #[serde(default)]
    #[schema(min_length = 2, max_length = 35, pattern = "^[A-Za-z0-9-]+$")]
    pub locale: Option<String>,
    #[serde(default)]
    #[allow(missing_docs)]
    pub dedup: Option<DedupSettings>,
    /// What becomes of the project's credentials where the lead's entity has one of the same channel: `instead` (default) or
    /// `both`.
    #[serde(default)]
    pub entity_credentials: Option<EntityCredentials>,
    /// How long its leads are kept; the host's settings without it.
    #[serde(default)]
    pub retention: Option<RetentionSettings>,
}

/// Changes of a project; what is absent stays.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
#[schema(example = json!({"name": "My shop", "dedup": {"enabled": true, "ttl_sec": 600}}))]
pub struct ProjectChanges {
    #[schema(min_length = 1, max_length = 255, pattern = r"\S")]
    pub name: Option<String>,
    #[schema(pattern = "^[A-Z]{2}$")]
    pub default_region: Option<String>,
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9/_+-]+$")]
    pub time_zone: Option<String>,
    #[schema(min_length = 2, max_length = 35, pattern = "^[A-Za-z0-9-]+$")]
    pub locale: Option<String>,
    pub dedup: Option<DedupSettings>,
    pub entity_credentials: Option<EntityCredentials>,
    /// Replaces both ages.
    pub retention: Option<RetentionSettings>,
    /// Replaces all rules.
    #[schema(max_items = 50)]
    pub fallbacks: Option<Vec<Rule>>,
    /// Replaces all rules.
    #[schema(max_items = 50)]
    pub notifications: Option<Vec<Notification>>,
}

/// A project.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(missing_docs)]
pub struct ProjectView {
    /// `prj_…`
    pub id: String,
    pub external_id: String,
    pub name: String,
    pub default_region: String,
    pub time_zone: String,
    pub locale: String,
    pub dedup: DedupSettings,
    pub entity_credentials: EntityCredentials,
    /// What is absent follows the host's settings; `GET …/retention` shows what holds.
    pub retention: RetentionSettings,
    pub fallbacks: Vec<Rule>,
    pub notifications: Vec<Notification>,
    pub callback_secret: CallbackSecretView,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

impl From<Project> for ProjectView {
    fn from(project: Project) -> Self {
        Self {
            id: project.id.to_string(),
            external_id: project.external_id,
            name: project.name,
            default_region: project.default_region,
            time_zone: project.time_zone,
            locale: project.locale,
            dedup: project.dedup,
            entity_credentials: project.sending.entity_credentials,
            retention: project.retention,
            fallbacks: project.sending.fallbacks.iter().map(Rule::from).collect(),
            notifications: project.sending.notifications.iter().map(Notification::from).collect(),
            callback_secret: CallbackSecretView::from(&project.callback_secrets),
            created_at: project.created_at,
            updated_at: project.updated_at,
        }
    }
}

fn check(project: &Project) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    let mut wrong = |fine: bool, field: &str, code, detail: &str| {
        if !fine {
            errors.push(FieldError::new(format!("/{field}"), code, detail));
        }
    };
    let name = |text: &str| !text.trim().is_empty() && text.chars().count() <= 255;
    let plain = |text: &str, extra: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || extra.as_bytes().contains(&byte));
    wrong(name(&project.external_id), "external_id", "invalid_length", "must have 1 to 255 characters");
    wrong(name(&project.name), "name", "invalid_length", "must have 1 to 255 characters");
    let region = normalise::region(&project.default_region).is_some();
    wrong(region, "default_region", "invalid_region", "must be an ISO 3166 region such as RU");
    let zone = (1..=64).contains(&project.time_zone.len()) && cleanup::time_zone(&project.time_zone).is_some();
    wrong(zone, "time_zone", "invalid_time_zone", "must be an IANA name such as Europe/Moscow");
    let locale = (2..=35).contains(&project.locale.len()) && plain(&project.locale, "-");
    wrong(locale, "locale", "invalid_locale", "must be a language tag such as ru");
    for (field, days) in [("leads_days", project.retention.leads_days), ("attempts_days", project.retention.attempts_days)] {
        let fine = days.is_none_or(|days| days <= MAX_DAYS);
        wrong(fine, &format!("retention/{field}"), "invalid_value", "must be 0 to 36500");
    }
    wrong((1..=MAX_TTL_SEC).contains(&project.dedup.ttl_sec), "dedup/ttl_sec", "invalid_value", "must be 1 to 2592000");
    if let Some(Err((index, detail))) = project.dedup.fields.as_deref().map(dedup::check_fields) {
        let at = index.map_or_else(String::new, |index| format!("/{index}"));
        wrong(false, &format!("dedup/fields{at}"), "invalid_value", detail);
    }
    if errors.is_empty() { Ok(()) } else { Err(errors.into()) }
}

/// Create a project
#[utoipa::path(post, path = "/api/projects", tag = "Administration", request_body = NewProject,
    responses((status = 201, body = ProjectView)))]
pub async fn create(State(app): State<App>, caller: Caller, input: Input) -> Result<Answer, ApiError> {
    caller.require(Scope::PlatformAdmin)?;
    let body: NewProject = input.json()?;
    let now = app.now();
    let project = Project {
        id: ProjectId::new(now),
        name: body.name.unwrap_or_else(|| body.external_id.clone()),
        external_id: body.external_id,
        default_region: body.default_region.unwrap_or_else(|| "RU".into()),
        time_zone: body.time_zone.unwrap_or_else(|| "Europe/Moscow".into()),
        locale: body.locale.unwrap_or_else(|| "ru".into()),
        dedup: body.dedup.unwrap_or_default(),
        sending: SendingSettings { entity_credentials: body.entity_credentials.unwrap_or_default(), ..SendingSettings::default() },
        retention: body.retention.unwrap_or_default(),
        callback_secrets: CallbackSecrets::default(),
        created_at: now,
        updated_at: now,
    };
    check(&project)?;
    let once = Once::begin(&app, &caller, &input)?;
    let answer = Answer::new(StatusCode::CREATED, &ProjectView::from(project.clone()))?.at(format!("/api/projects/{}", project.id));
    let keep = once.as_ref().map(|once| once.keep(&app, &answer));
    let line = caller.line(&app, AuditAction::ProjectCreate, Some(project.id), project.id, trail::project(None, Some(&project)));
    let done = app.store.act(Act::CreateProject(Box::new(project)), &line, keep).await?;
    made(&app, once.as_ref(), done, answer)
}

/// List projects, oldest first
#[utoipa::path(get, path = "/api/projects", tag = "Administration", params(Paging), responses((status = 200, body = List<ProjectView>)))]
pub async fn list(State(app): State<App>, caller: Caller, Params(paging): Params<Paging>) -> Result<Answer, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    let (after, limit) = (list::cursor(paging.cursor.as_deref())?, list::limit(paging.limit)?);
    if let Some(own) = caller.key.project {
        let rows = app.store.project(own).await?.into_iter().collect();
        return Answer::ok(&list::page(rows, false, |project: &Project| project.id.uuid(), ProjectView::from));
    }
    let found = app.store.projects(after.map(ProjectId::from_uuid), limit).await?;
    Answer::ok(&list::page(found.items, found.has_more, |project| project.id.uuid(), ProjectView::from))
}

/// One project
#[utoipa::path(get, path = "/api/projects/{id}", tag = "Administration",
    params(("id" = String, Path, description = "`prj_…`, or `ext:` and your own id")), responses((status = 200, body = ProjectView)))]
pub async fn show(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Answer, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    let project = find_project(&app, &caller, &id).await?.ok_or_else(|| ApiError::not_found("project"))?;
    Answer::ok(&ProjectView::from(Project::clone(&project)))
}

/// Change a project
#[utoipa::path(patch, path = "/api/projects/{id}", tag = "Administration", request_body = ProjectChanges,
    params(("id" = String, Path, description = "`prj_…`, or `ext:` and your own id")), responses((status = 200, body = ProjectView)))]
pub async fn change(State(app): State<App>, caller: Caller, Path(id): Path<String>, input: Input) -> Result<Answer, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    let body: ProjectChanges = input.json()?;
    let seen = find_project(&app, &caller, &id).await?.ok_or_else(|| ApiError::not_found("project"))?;
    // What is changed is what the store has now, not what the cache had a moment ago.
    let mut project = app.store.project(seen.id).await?.ok_or_else(|| ApiError::not_found("project"))?;
    let before = project.clone();
    let fields = [
        (&mut project.name, body.name),
        (&mut project.default_region, body.default_region),
        (&mut project.time_zone, body.time_zone),
        (&mut project.locale, body.locale),
    ];
    for (field, change) in fields {
        if let Some(change) = change {
            *field = change;
        }
    }
    if let Some(dedup) = body.dedup {
        project.dedup = dedup;
    }
    if let Some(retention) = body.retention {
        project.retention = retention;
    }
    if let Some(rule) = body.entity_credentials {
        project.sending.entity_credentials = rule;
    }
    if let Some(rules) = body.fallbacks {
        project.sending.fallbacks = fallbacks::check(&app, &caller, project.id, rules).await?;
    }
    if let Some(rules) = body.notifications {
        project.sending.notifications = notifications::check(&app, &caller, project.id, rules).await?;
    }
    project.updated_at = app.now();
    check(&project)?;
    let line = caller.line(&app, AuditAction::ProjectUpdate, Some(project.id), project.id, trail::project(Some(&before), Some(&project)));
    let act = Act::UpdateProject { project: Box::new(project.clone()), read_at: before.updated_at };
    acted(app.store.act(act, &line, None).await?)?.ok_or_else(|| ApiError::not_found("project"))?;
    app.projects_changed();
    Answer::ok(&ProjectView::from(project))
}
