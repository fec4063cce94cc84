//! What a credential would send for a lead. Nothing is sent.

use axum::extract::{Path, State};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::answer::{Answer, once};
use super::auth::Caller;
use super::credential_rules;
use super::credentials;
use super::error::ApiError;
use super::input::Input;
use super::leads::find_lead;
use crate::app::App;
use crate::egress::Rehearsed;
use crate::lane::{Preview, Previewed};
use crate::model::{Credential, Lead, LeadId};
use crate::policy::intake::{self, LeadContent, Made};
use crate::policy::{FieldError, normalise};

/// A lead, stored or made up, and what to try in place of the credential's own mapping, filter and settings.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewRequest {
    /// A stored lead: its id, or `ext:` and your own id of it.
    pub lead_id: Option<String>,
    /// A made-up lead; it is not stored.
    pub lead: Option<LeadContent>,
    /// In place of the credential's mapping.
    #[schema(value_type = Option<Object>)]
    pub mapping: Option<Map<String, Value>>,
    /// In place of the credential's filter; `null`: none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    pub filter: Option<Option<String>>,
    /// Over the credential's config.
    #[schema(value_type = Option<Object>)]
    pub settings: Option<Map<String, Value>>,
}

/// Tells `null` from a field that is not there.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// What would be sent.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct PreviewView {
    /// The mapped fields.
    #[schema(value_type = Object)]
    pub fields: Map<String, Value>,
    /// Exactly what would go out, in order, secrets masked. Requests that only read were made; what changes something on the
    /// remote side was answered by the plugin's own recordings, or refused, which ends most previews there.
    pub requests: Vec<RequestView>,
    /// What would keep the lead from being sent; `pointer` is into the credential.
    pub errors: Vec<FieldError>,
    /// What the plugin made of it; `null` when it was not called.
    pub outcome: Option<OutcomeView>,
}

/// One request.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct RequestView {
    /// An HTTP method, or `MAIL`.
    pub method: String,
    /// Before secrets were put in.
    pub url: String,
    /// Name and value, in order.
    pub headers: Vec<HeaderView>,
    /// `null`: none, or no text.
    pub body: Option<String>,
}

/// A header.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(missing_docs)]
pub struct HeaderView {
    pub name: String,
    pub value: String,
}

/// The plugin's word for the lead.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct OutcomeView {
    /// `delivered`, `duplicate`, `skipped`, `retry`, `rejected`, `stopped` or `failed`.
    pub status: &'static str,
    #[allow(missing_docs)]
    pub code: Option<String>,
    /// For the admin.
    pub message: Option<String>,
}

impl From<Rehearsed> for RequestView {
    fn from(request: Rehearsed) -> Self {
        let headers = request.headers.into_iter().map(|(name, value)| HeaderView { name, value }).collect();
        Self { method: request.method, url: request.url, headers, body: request.body }
    }
}

impl From<Previewed> for PreviewView {
    fn from(found: Previewed) -> Self {
        Self {
            fields: found.fields,
            requests: found.requests.into_iter().map(RequestView::from).collect(),
            errors: found.errors,
            outcome: found.outcome.map(|(status, code, message)| OutcomeView { status, code, message }),
        }
    }
}

/// Show what would be sent for a lead
///
/// The plugin runs, and nothing that changes anything is sent or stored.
#[utoipa::path(post, path = "/api/credentials/{id}/preview", tag = "Administration", request_body = PreviewRequest,
    params(("id" = String, Path, description = "`crd_…`")), responses((status = 200, body = PreviewView)))]
pub async fn preview(State(app): State<App>, caller: Caller, Path(id): Path<String>, input: Input) -> Result<Answer, ApiError> {
    let credential = credentials::find(&app, &caller, &id).await?;
    once(&app, &caller, &input, async {
        let mut body: PreviewRequest = input.json()?;
        check(&body)?;
        let lead = lead_of(&app, &caller, &credential, body.lead_id.take(), body.lead.take()).await?;
        let settings = body.settings.filter(|settings| !settings.is_empty()).map(Value::Object);
        let preview = Preview { lead, mapping: body.mapping, filter: body.filter, settings };
        let found = app.lanes.preview(credential.id, preview).await?.ok_or_else(|| ApiError::not_found("credential"))?;
        Answer::ok(&PreviewView::from(found))
    })
    .await
}

fn check(body: &PreviewRequest) -> Result<(), ApiError> {
    let mut errors = body.mapping.as_ref().map(credential_rules::mapping).unwrap_or_default();
    errors.extend(credential_rules::filter(body.filter.as_ref().and_then(Option::as_deref)));
    if errors.is_empty() { Ok(()) } else { Err(ApiError::fields(errors)) }
}

async fn lead_of(
    app: &App,
    caller: &Caller,
    credential: &Credential,
    id: Option<String>,
    content: Option<LeadContent>,
) -> Result<Lead, ApiError> {
    match (id, content) {
        (Some(id), None) => {
            let found = find_lead(app, caller, &id, Some(&credential.project.to_string())).await?;
            let unknown = || ApiError::field("/lead_id", "unknown_lead", "the credential's project has no such lead");
            Ok(found.filter(|record| record.lead.project == credential.project).ok_or_else(unknown)?.lead)
        }
        (None, Some(mut content)) => {
            let project = app.project(credential.project).await?.ok_or_else(|| ApiError::not_found("credential"))?;
            // A lead is previewed within the credential's project, whatever it says of one.
            content.project = None;
            let now = app.now();
            let made = Made { id: LeadId::new(now), project: project.id, region: normalise::region(&project.default_region), now };
            Ok(intake::lead(content, made, "/lead")?.0)
        }
        _ => Err(ApiError::field("", "one_of", "exactly one of `lead` and `lead_id` must be there")),
    }
}
