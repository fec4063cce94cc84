//! Persons that are erased from the store, and the receipts that stay.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::answer::{Answer, once};
use super::auth::{Caller, project_of_body};
use super::error::ApiError;
use super::input::{Input, Params};
use super::leads::find_lead;
use super::list::{self, Paging};
use super::trail;
use super::views::List;
use crate::app::App;
use crate::chore::erasures::{self, Came};
use crate::model::{
    AuditAction, Erasure, ErasureCounts, ErasureId, ErasureKind, LeadId, Person, Project, ProjectId, Received, Scope, Timestamp,
};
use crate::policy::{normalise, search};
use crate::secrets::SecretText;
use crate::store::{Act, ListQuery};

/// Leads that are counted with one question.
const COUNTED: u32 = 2_000;
/// Steps that a request takes itself; a larger erasure goes on after it.
const STEPS: usize = 50;
/// Longest phone or e-mail, in characters.
const MAX_VALUE: usize = 255;

/// Who is erased: exactly one of `phone`, `email` and `lead_id`.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewErasure {
    /// `prj_…` or `ext:` and your own id of it; may be left out when the key belongs to one.
    pub project: Option<String>,
    /// Every lead with this number, in any spelling.
    pub phone: Option<String>,
    /// Every lead with this address.
    pub email: Option<String>,
    /// This lead alone: `lead_…`, or `ext:` and your own id.
    pub lead_id: Option<String>,
    /// Count only.
    pub dry_run: bool,
}

/// The state of an erasure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErasureStatus {
    /// Under way; also over a restart of the host.
    Running,
    /// Nothing is left.
    Completed,
    /// Nothing was done: only counted.
    DryRun,
}

/// What was erased, and where it had gone before. It holds nothing of the person.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Receipt {
    /// `ers_…`; absent for a `dry_run`.
    pub id: Option<String>,
    /// `prj_…`
    pub project: String,
    #[allow(missing_docs)]
    pub status: ErasureStatus,
    /// By what the person was named.
    pub by: ErasureKind,
    /// A keyed hash of that: equal when the same was asked again, and of no use without the host's master key.
    pub fingerprint: String,
    /// The API key that asked: `key_…`
    pub key_id: String,
    /// What was removed. For a `dry_run`: leads that would be.
    pub counts: ErasureCounts,
    /// Credentials that had sent the person's data, or may have: there it has to be erased by hand. The first 500.
    pub received: Vec<Received>,
    /// `X-Request-Id` of the request that asked.
    pub correlation: String,
    #[schema(value_type = String, format = DateTime)]
    #[allow(missing_docs)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    #[allow(missing_docs)]
    pub finished_at: Option<Timestamp>,
}

impl From<Erasure> for Receipt {
    fn from(erasure: Erasure) -> Self {
        let status = if erasure.finished_at.is_some() { ErasureStatus::Completed } else { ErasureStatus::Running };
        Self {
            id: Some(erasure.id.to_string()),
            project: erasure.project.to_string(),
            status,
            by: erasure.kind,
            fingerprint: erasure.fingerprint,
            key_id: erasure.key.to_string(),
            counts: erasure.counts,
            received: erasure.received,
            correlation: erasure.correlation,
            created_at: erasure.created_at,
            finished_at: erasure.finished_at,
        }
    }
}

/// Who is meant, in the spelling of the store.
async fn person(app: &App, caller: &Caller, project: &Project, body: &NewErasure) -> Result<(ErasureKind, Person), ApiError> {
    let invalid = |name: &str, detail: &str| ApiError::field(format!("/{name}"), "invalid_value", detail);
    for (name, text) in [("phone", &body.phone), ("email", &body.email), ("lead_id", &body.lead_id)] {
        if text.as_ref().is_some_and(|text| text.trim().is_empty() || text.chars().count() > MAX_VALUE) {
            return Err(invalid(name, "must have 1 to 255 characters"));
        }
    }
    match (&body.phone, &body.email, &body.lead_id) {
        (Some(phone), None, None) => {
            let contacts = search::phone_keys(phone, normalise::region(&project.default_region));
            if contacts.is_empty() {
                return Err(invalid("phone", "has no digits"));
            }
            Ok((ErasureKind::Phone, Person { contacts, lead: None }))
        }
        (None, Some(email), None) if email.contains('@') => {
            Ok((ErasureKind::Email, Person { contacts: vec![search::email_key(email)], lead: None }))
        }
        (None, Some(_), None) => Err(invalid("email", "must be a whole address")),
        (None, None, Some(id)) => {
            Ok((ErasureKind::LeadId, Person { contacts: Vec::new(), lead: Some(lead(app, caller, project, id).await?) }))
        }
        _ => Err(ApiError::field("", "one_of", "exactly one of `phone`, `email` and `lead_id` must be there")),
    }
}

async fn lead(app: &App, caller: &Caller, project: &Project, id: &str) -> Result<LeadId, ApiError> {
    let found = find_lead(app, caller, id, Some(&project.id.to_string())).await?;
    let own = found.filter(|record| record.lead.project == project.id);
    own.map(|record| record.lead.id).ok_or_else(|| ApiError::not_found("lead"))
}

async fn count(app: &App, project: ProjectId, person: &Person) -> Result<u64, ApiError> {
    if person.lead.is_some() {
        return Ok(1);
    }
    let contacts = vec![person.contacts.clone()];
    let mut query = ListQuery { project: Some(project), contacts, limit: COUNTED, ..ListQuery::default() };
    let mut leads = 0;
    loop {
        let found = app.store.lead_ids(&query).await?;
        leads += found.items.len() as u64;
        query.before = found.next;
        if found.next.is_none() {
            return Ok(leads);
        }
    }
}

/// Erase a person
///
/// Removes the person's leads with all that became of them, whatever is still queued, and what names the person elsewhere
/// in the project. 200: nothing is left. 202: there is much, and it goes on; the receipt's address says how far it is. Safe
/// to ask again. Backups, and what was sent before, are out of reach: `received` says where it went.
#[utoipa::path(post, path = "/api/erasures", tag = "Administration", request_body = NewErasure, responses(
    (status = 200, description = "Nothing is left, or only counted", body = Receipt),
    (status = 202, description = "Under way", body = Receipt),
))]
pub async fn create(State(app): State<App>, caller: Caller, input: Input) -> Result<Answer, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    let body: NewErasure = input.json()?;
    once(&app, &caller, &input, async {
        let project = project_of_body(&app, &caller, body.project.as_deref(), "/project").await?;
        let (kind, person) = person(&app, &caller, &project, &body).await?;
        let erasure = new(&app, &caller, &input, project.id, kind, &person)?;
        if body.dry_run {
            let counts = ErasureCounts { leads: count(&app, project.id, &person).await?, ..ErasureCounts::default() };
            return Answer::ok(&Receipt { id: None, status: ErasureStatus::DryRun, counts, ..Receipt::from(erasure) });
        }
        let line = caller.line(&app, AuditAction::PersonErase, Some(project.id), erasure.id, trail::erasure(&erasure));
        app.store.act(Act::CreateErasure(Box::new(erasure.clone())), &line, None).await?;
        tracing::info!(erasure.id = %erasure.id, by = kind.name(), correlation = input.correlation, "erasure {} begins", erasure.id);
        begin(&app, erasure).await
    })
    .await
}

fn new(app: &App, caller: &Caller, input: &Input, project: ProjectId, kind: ErasureKind, person: &Person) -> Result<Erasure, ApiError> {
    let now = app.now();
    let id = ErasureId::new(now);
    let named = person.lead.map_or_else(|| person.contacts.first().cloned().unwrap_or_default(), |lead| lead.to_string());
    let fingerprint = app.vault.fingerprint(&SecretText::new(format!("erasure {project} {} {named}", kind.name())));
    let asked = erasures::seal(&app.vault, &id.to_string(), person).ok_or_else(|| ApiError::internal(&"an erasure cannot be sealed"))?;
    Ok(Erasure {
        id,
        project,
        key: caller.key.id,
        kind,
        fingerprint,
        asked: Some(asked),
        counts: ErasureCounts::default(),
        received: Vec::new(),
        correlation: input.correlation.clone(),
        created_at: now,
        finished_at: None,
    })
}

/// Takes the first steps at once, in a task of its own: a client that hangs up changes nothing.
async fn begin(app: &App, erasure: Erasure) -> Result<Answer, ApiError> {
    let (stepping, id) = (app.clone(), erasure.id);
    let steps = tokio::spawn(async move {
        for _ in 0..STEPS {
            match erasures::step(&stepping, &erasure).await {
                Ok(Came::More) => {}
                Ok(Came::Done) => return,
                // The row says where it stands, and the runner goes on.
                Ok(Came::Later) | Err(_) => break,
            }
        }
        stepping.erasures.notify_one();
    });
    steps.await.map_err(|error| ApiError::internal(&error))?;
    let erasure = app.store.erasure(id).await?.ok_or_else(|| ApiError::internal(&"an erasure vanished"))?;
    let status = if erasure.finished_at.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(Answer::new(status, &Receipt::from(erasure))?.at(format!("/api/erasures/{id}")))
}

/// List erasures, newest first
#[utoipa::path(get, path = "/api/erasures", tag = "Administration", params(Paging), responses((status = 200, body = List<Receipt>)))]
pub async fn list(State(app): State<App>, caller: Caller, Params(paging): Params<Paging>) -> Result<Answer, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    let before = list::cursor(paging.cursor.as_deref())?.map(ErasureId::from_uuid);
    let found = app.store.erasures(caller.key.project, before, list::limit(paging.limit)?).await?;
    Answer::ok(&list::page(found.items, found.has_more, |erasure| erasure.id.uuid(), Receipt::from))
}

/// The receipt of an erasure
#[utoipa::path(get, path = "/api/erasures/{id}", tag = "Administration", params(("id" = String, Path, description = "`ers_…`")),
    responses((status = 200, body = Receipt)))]
pub async fn show(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Answer, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    let missing = || ApiError::not_found("erasure");
    let id: ErasureId = id.parse().map_err(|_| missing())?;
    let erasure = app.store.erasure(id).await?.ok_or_else(missing)?;
    caller.check(erasure.project, "erasure")?;
    Answer::ok(&Receipt::from(erasure))
}
