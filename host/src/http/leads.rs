//! Leads: taking them in, showing them, sending them again.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use super::answer::{Answer, Once};
use super::auth::{Caller, find_project, project_of_body};
use super::callbacks::Callbacks;
use super::error::ApiError;
use super::inline::InlineCredential;
use super::input::{Input, Params};
use super::integrations::{Integrations, SendFields, SendOptions};
use super::list::{self, Filter};
use super::send::{Ready, Sent, earlier_or, send};
use super::views::{BatchDetail, LeadDetail, LeadRow, LeadView, List};
use crate::app::App;
use crate::model::{LeadId, LeadRecord, LeadStatus, Origin, Scope, Timestamp};
use crate::policy::fanout::Wanted;
use crate::policy::intake::{self, Amount, LeadContent, Made};
use crate::policy::normalise;

/// A lead and where it goes.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"external_id": "form-1", "title": "Call back", "name": "Ada Lovelace", "phone": "+44 20 7946 0958", "email": "ada@example.com"}))]
pub struct NewLead {
    /// `prj_…` or `ext:` and your own id of it; may be left out when the key belongs to one.
    pub project: Option<String>,
    /// The unit of the project (landing page, shop) by your own id, with or without `ext:`.
    #[schema(min_length = 1, max_length = 255, pattern = r"\S")]
    pub entity: Option<String>,
    /// Your own id of the lead: a second lead with it is a duplicate.
    #[schema(min_length = 1, max_length = 255, pattern = r"\S")]
    pub external_id: Option<String>,
    /// Up to 1,000 characters.
    #[schema(max_length = 1_000)]
    pub title: Option<String>,
    /// 1 to 255 characters. At least one of phone, email, name or a non-empty `fields` must be there.
    #[schema(min_length = 1, max_length = 255, pattern = r"\S")]
    pub name: Option<String>,
    /// Up to 255 characters.
    #[schema(max_length = 255)]
    pub company: Option<String>,
    /// One number beside `phones`.
    pub phone: Option<String>,
    /// One address beside `emails`.
    pub email: Option<String>,
    /// In any spelling, up to 255 characters each; kept raw with a warning when they cannot be understood.
    #[schema(max_items = 50)]
    pub phones: Option<Vec<String>>,
    /// One mailbox each.
    #[schema(max_items = 50)]
    pub emails: Option<Vec<String>>,
    /// Up to 65,536 characters.
    #[schema(max_length = 65_536)]
    pub comment: Option<String>,
    /// What the lead is worth.
    pub value: Option<Amount>,
    /// Where it came from; each text up to 2,048 characters.
    pub origin: Option<Origin>,
    /// Your own fields: up to 500, 262,144 bytes as JSON and 16 levels in all.
    #[schema(value_type = Option<Object>)]
    pub fields: Option<serde_json::Map<String, Value>>,
    #[allow(missing_docs)]
    pub integrations: Option<Integrations>,
    /// Seconds to wait before the first attempt, up to 30 days.
    #[schema(maximum = 2_592_000)]
    pub delay_sec: Option<u32>,
    /// When the first attempt is due, instead of `delay_sec`; at most 30 days ahead.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub due_at: Option<Timestamp>,
    /// Seconds from now after which what was not sent fails with the code `deadline`, up to 30 days.
    #[schema(minimum = 1, maximum = 2_592_000)]
    pub deadline_sec: Option<u32>,
    /// `false`: the first failure cancels what has not been sent. Default `true`.
    pub allow_failures: Option<bool>,
    #[allow(missing_docs)]
    pub callbacks: Option<Callbacks>,
}

impl NewLead {
    fn split(self, now: Timestamp) -> Result<(LeadContent, SendOptions), ApiError> {
        let fields = SendFields {
            integrations: self.integrations,
            delay_sec: self.delay_sec,
            due_at: self.due_at,
            deadline_sec: self.deadline_sec,
            allow_failures: self.allow_failures,
            callbacks: self.callbacks,
        };
        let options = SendOptions::new(fields, now)?;
        let content = LeadContent {
            project: self.project,
            entity: self.entity,
            external_id: self.external_id,
            title: self.title,
            name: self.name,
            company: self.company,
            phone: self.phone,
            email: self.email,
            phones: self.phones,
            emails: self.emails,
            comment: self.comment,
            value: self.value,
            origin: self.origin,
            fields: self.fields,
        };
        Ok((content, options))
    }
}

/// A lead (new or stored) and where it goes.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"lead": {"external_id": "form-2", "name": "Ada Lovelace", "phone": "+44 20 7946 0958"}, "integrations": "auto", "allow_failures": true}))]
pub struct SendBatch {
    /// Beside `lead` or inside it.
    pub project: Option<String>,
    /// A stored lead: its id, or `ext:` and your own id of it.
    pub lead_id: Option<String>,
    /// A new lead.
    pub lead: Option<LeadContent>,
    #[allow(missing_docs)]
    pub integrations: Option<Integrations>,
    /// Seconds to wait before the first attempt, up to 30 days.
    #[schema(maximum = 2_592_000)]
    pub delay_sec: Option<u32>,
    /// When the first attempt is due, instead of `delay_sec`; at most 30 days ahead.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub due_at: Option<Timestamp>,
    /// Seconds from now after which what was not sent fails with the code `deadline`, up to 30 days.
    #[schema(minimum = 1, maximum = 2_592_000)]
    pub deadline_sec: Option<u32>,
    /// `false`: the first failure cancels what has not been sent. Default `true`.
    pub allow_failures: Option<bool>,
    #[allow(missing_docs)]
    pub callbacks: Option<Callbacks>,
    /// Credentials for this send only, by channel: each stands in for all others of its channel. Sealed like all others, and
    /// erased when the batch ends; what they sent cannot be retried after that.
    pub credentials: Option<BTreeMap<String, InlineCredential>>,
}

/// Where a stored lead goes again.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Resend {
    /// Empty means auto.
    pub integration_types: Vec<String>,
}

/// Where the lead is looked for when it is named by `ext:`.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct InProject {
    /// For `ext:` ids, when the key belongs to no project.
    pub project: Option<String>,
}

/// Store a lead and send it
///
/// Everything is stored in one transaction before the answer; from then on the lead is neither lost nor silently doubled.
/// With `Prefer: wait=N` the answer waits for the batch to end (200) or comes after N seconds (202).
#[utoipa::path(post, path = "/api/leads", tag = "Sending", request_body = NewLead, responses(
    (status = 202, description = "Stored and queued", body = Sent),
    (status = 200, description = "A duplicate (nothing was made), or the batch ended within `Prefer: wait`", body = Sent),
))]
pub async fn create(State(app): State<App>, caller: Caller, input: Input) -> Result<Response, ApiError> {
    caller.require(Scope::LeadsWrite)?;
    let once = Once::begin(&app, &caller, &input)?;
    let body: Result<NewLead, _> = input.json();
    let ready = async { new_lead(&app, &caller, body?.split(app.now())?, "").await };
    match ready.await {
        Ok(ready) => send(&app, &caller, &input, once, ready).await,
        Err(error) => earlier_or(&app, once.as_ref(), error).await,
    }
}

async fn new_lead(app: &App, caller: &Caller, (content, options): (LeadContent, SendOptions), at: &str) -> Result<Ready, ApiError> {
    let project = project_of_body(app, caller, content.project.as_deref(), &format!("{at}/project")).await?;
    let now = app.now();
    let made = Made { id: LeadId::new(now), project: project.id, region: normalise::region(&project.default_region), now };
    let (lead, warnings) = intake::lead(content, made, at)?;
    Ok(Ready { lead, warnings, options, project, stored: false })
}

/// Send a new or stored lead to named integrations
#[utoipa::path(post, path = "/api/integrations/send-batch", tag = "Sending", request_body = SendBatch, responses(
    (status = 202, description = "Stored and queued", body = Sent),
    (status = 200, description = "A duplicate (nothing was made), or the batch ended within `Prefer: wait`", body = Sent),
))]
pub async fn send_batch(State(app): State<App>, caller: Caller, input: Input) -> Result<Response, ApiError> {
    caller.require(Scope::LeadsWrite)?;
    let once = Once::begin(&app, &caller, &input)?;
    let body: Result<SendBatch, _> = input.json();
    let ready = async { batch_lead(&app, &caller, body?).await };
    match ready.await {
        Ok(ready) => send(&app, &caller, &input, once, ready).await,
        Err(error) => earlier_or(&app, once.as_ref(), error).await,
    }
}

async fn batch_lead(app: &App, caller: &Caller, body: SendBatch) -> Result<Ready, ApiError> {
    let fields = SendFields {
        integrations: body.integrations,
        delay_sec: body.delay_sec,
        due_at: body.due_at,
        deadline_sec: body.deadline_sec,
        allow_failures: body.allow_failures,
        callbacks: body.callbacks,
    };
    let mut options = SendOptions::new(fields, app.now())?;
    options.credentials = body.credentials.unwrap_or_default();
    match (body.lead_id, body.lead) {
        (None, Some(mut lead)) => match (&lead.project, &body.project) {
            (Some(inside), Some(beside)) if inside != beside => {
                Err(ApiError::field("/lead/project", "invalid_value", "differs from `project`"))
            }
            (None, _) => {
                lead.project = body.project;
                // Whatever is wrong with the project was said beside the lead, or nowhere.
                let at_project = project_of_body(app, caller, lead.project.as_deref(), "/project").await?;
                lead.project = Some(at_project.id.to_string());
                new_lead(app, caller, (lead, options), "/lead").await
            }
            _ => new_lead(app, caller, (lead, options), "/lead").await,
        },
        (Some(id), None) => {
            // Whoever says where a stored lead goes, or in what words, reads it.
            let named = if let Wanted::Named(list) = &options.wanted { list.as_slice() } else { &[] };
            let shows = !options.credentials.is_empty() || named.iter().any(|entry| entry.settings.is_some());
            if shows || options.callbacks.show_the_lead() {
                caller.require(Scope::LeadsRead)?;
            }
            let found = find_lead(app, caller, &id, body.project.as_deref()).await?;
            let unknown = || ApiError { errors: vec![], ..ApiError::not_found("lead") };
            resend_of(app, found.ok_or_else(unknown)?, options).await
        }
        _ => Err(ApiError::field("", "one_of", "exactly one of `lead` and `lead_id` must be there")),
    }
}

async fn resend_of(app: &App, record: LeadRecord, options: SendOptions) -> Result<Ready, ApiError> {
    let project = app.project(record.lead.project).await?.ok_or_else(|| ApiError::not_found("lead"))?;
    Ok(Ready { lead: record.lead, warnings: Vec::new(), options, project, stored: true })
}

/// Send a stored lead again
///
/// Makes a new batch with new deliveries.
#[utoipa::path(post, path = "/api/leads/{id}/resend", tag = "Sending", request_body = Resend, params(
    ("id" = String, Path, description = "`lead_…`, or `ext:` and your own id"), InProject,
), responses(
    (status = 202, description = "Queued", body = Sent),
    (status = 200, description = "The batch ended within `Prefer: wait`", body = Sent),
))]
pub async fn resend(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Params(within): Params<InProject>,
    input: Input,
) -> Result<Response, ApiError> {
    caller.require(Scope::LeadsWrite)?;
    let body: Resend = input.json_or_default()?;
    let once = Once::begin(&app, &caller, &input)?;
    let list = body.integration_types.into_iter();
    let named: Vec<_> = list.map(|channel| crate::policy::fanout::Named { channel, credential: None, settings: None }).collect();
    let wanted = if named.is_empty() { crate::policy::fanout::Wanted::Auto } else { crate::policy::fanout::Wanted::Named(named) };
    let options = SendOptions { wanted, allow_failures: true, ..SendOptions::default() };
    let found = find_lead(&app, &caller, &id, within.project.as_deref()).await?;
    let ready = resend_of(&app, found.ok_or_else(|| ApiError::not_found("lead"))?, options).await?;
    send(&app, &caller, &input, once, ready).await.map_err(|mut error| {
        // The entries of this body stand in a list of another name.
        for field in &mut error.errors {
            field.pointer = field.pointer.replacen("/integrations/", "/integration_types/", 1);
        }
        error
    })
}

/// Search leads
#[utoipa::path(get, path = "/api/leads", tag = "Sending", params(Filter), responses((status = 200, body = List<LeadRow>)))]
pub async fn list(State(app): State<App>, caller: Caller, Params(filter): Params<Filter>) -> Result<Answer, ApiError> {
    caller.require(Scope::LeadsRead)?;
    let query = list::query::<LeadStatus>(&app, &caller, filter).await?;
    let found = app.store.leads(&query).await?;
    let ids: Vec<LeadId> = found.items.iter().map(|record| record.lead.id).collect();
    let repeats = app.store.repeats(&ids).await?;
    Answer::ok(&list::found(found, |record| {
        let repeats = repeats.get(&record.lead.id).copied();
        LeadRow { lead: LeadView::from(record), repeats }
    }))
}

/// One lead with its batches and deliveries
#[utoipa::path(get, path = "/api/leads/{id}", tag = "Sending", params(
    ("id" = String, Path, description = "`lead_…`, or `ext:` and your own id"), InProject,
), responses((status = 200, body = LeadDetail)))]
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Params(within): Params<InProject>,
) -> Result<Answer, ApiError> {
    caller.require(Scope::LeadsRead)?;
    let record = find_lead(&app, &caller, &id, within.project.as_deref()).await?.ok_or_else(|| ApiError::not_found("lead"))?;
    let mut batches = Vec::new();
    for batch in app.store.batches_of_lead(record.lead.id).await? {
        let deliveries = app.store.deliveries_of_batch(batch.id).await?;
        batches.push(BatchDetail::new(batch, deliveries));
    }
    let repeats = app.store.repeats(&[record.lead.id]).await?.into_values().next();
    Answer::new(StatusCode::OK, &LeadDetail { lead: record.into(), repeats, batches })
}

/// The lead by `lead_…` or `ext:…`, if the caller sees it.
pub(super) async fn find_lead(app: &App, caller: &Caller, text: &str, project: Option<&str>) -> Result<Option<LeadRecord>, ApiError> {
    let Some(external_id) = text.strip_prefix("ext:") else {
        let Ok(id) = text.parse() else { return Ok(None) };
        return Ok(app.store.lead(id).await?.filter(|record| caller.sees(record.lead.project)));
    };
    let project = match (project, caller.key.project) {
        (Some(text), _) => find_project(app, caller, text).await?.map(|project| project.id),
        (None, Some(own)) => Some(own),
        (None, None) => {
            let detail = "the key belongs to no project, so `project` must say where the lead is looked for";
            return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "project_required", detail));
        }
    };
    match project {
        Some(project) => Ok(app.store.lead_by_external_id(project, external_id).await?),
        None => Ok(None),
    }
}
