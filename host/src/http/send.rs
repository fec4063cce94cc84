//! The way of a lead from a checked body to its answer: credentials chosen, one transaction, lanes told, perhaps a wait.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};

use super::answer::{Answer, Once, key_reused, sealer};
use super::auth::Caller;
use super::error::ApiError;
use super::input::{self, Input};
use super::integrations::SendOptions;
use super::{callbacks, inline};
use crate::app::App;
use crate::metrics::OfResult;
use crate::model::{
    BatchCounts, BatchId, BatchOptions, BatchStatus, Callbacks, Credential, CredentialId, DeliveryId, DeliveryStatus, Lead, LeadId,
    LeadStatus, NoticeKind, OnDuplicate, Project, Purpose, Scope, Timestamp,
};
use crate::policy::fanout::{Candidates, Plan, fan_out};
use crate::policy::{FieldError, Warning, callbacks as policy_callbacks, dedup};
use crate::store::{Accepted, AnswerOf, DedupKey, DuplicateNote, Intake, IntakeExtras, NewDelivery, StoreError, Watch, Written};

/// Most bytes of one entry's settings, which are kept with its delivery.
const MAX_SETTINGS_BYTES: usize = 65_536;
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// What became of a send call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SendStatus {
    /// Stored and queued.
    Accepted,
    /// Some deliveries have ended.
    Processing,
    /// All delivered or skipped.
    Completed,
    /// Some delivered, some not.
    Partial,
    /// None delivered.
    Failed,
    /// Stored; no credential wanted it.
    Unrouted,
    /// There already; nothing was made.
    Duplicate,
}

impl From<LeadStatus> for SendStatus {
    fn from(status: LeadStatus) -> Self {
        match status {
            LeadStatus::Accepted => Self::Accepted,
            LeadStatus::Processing => Self::Processing,
            LeadStatus::Completed => Self::Completed,
            LeadStatus::Partial => Self::Partial,
            LeadStatus::Failed => Self::Failed,
            LeadStatus::Unrouted => Self::Unrouted,
        }
    }
}

/// The answer to a send call.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Sent<'a> {
    /// `lead_…`
    #[schema(value_type = String)]
    pub lead_id: LeadId,
    /// `bat_…`; absent for a duplicate.
    #[schema(value_type = Option<String>)]
    pub batch_id: Option<BatchId>,
    #[allow(missing_docs)]
    pub duplicate: bool,
    /// The first lead.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub duplicate_of: Option<LeadId>,
    /// In which fields a duplicate and the first lead agree: `external_id`, or those by which the project knows its leads.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub matched: &'a [String],
    #[allow(missing_docs)]
    pub status: SendStatus,
    #[allow(missing_docs)]
    pub deliveries: Vec<SentDelivery<'a>>,
    #[allow(missing_docs)]
    pub warnings: &'a [Warning],
}

/// A delivery in the answer to a send call.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SentDelivery<'a> {
    /// `dlv_…`
    #[schema(value_type = String)]
    pub id: DeliveryId,
    #[allow(missing_docs)]
    pub channel: &'a str,
    #[schema(value_type = String)]
    #[allow(missing_docs)]
    pub credential_id: CredentialId,
    #[allow(missing_docs)]
    pub status: DeliveryStatus,
    #[schema(value_type = Option<String>, format = DateTime)]
    #[allow(missing_docs)]
    pub due_at: Option<Timestamp>,
}

/// A lead that is ready to be stored and sent.
pub struct Ready {
    #[allow(missing_docs)]
    pub lead: Lead,
    #[allow(missing_docs)]
    pub warnings: Vec<Warning>,
    #[allow(missing_docs)]
    pub options: SendOptions,
    #[allow(missing_docs)]
    pub project: Arc<Project>,
    /// It is in the store already: this is a resend.
    pub stored: bool,
}

/// Chooses the credentials, stores everything, tells the lanes, and waits as long as the client prefers.
pub async fn send(app: &App, caller: &Caller, input: &Input, once: Option<Once>, mut ready: Ready) -> Result<Response, ApiError> {
    match plan(app, caller, &mut ready).await {
        Ok(planned) => commit(app, input, once, ready, planned).await,
        Err(error) => earlier_or(app, once.as_ref(), error).await,
    }
}

/// The answer kept for the same request when it was once fine but is not any more; else the error.
pub async fn earlier_or(app: &App, once: Option<&Once>, error: ApiError) -> Result<Response, ApiError> {
    if let Some(once) = once
        && let Some(answer) = once.earlier(app).await?
    {
        return Ok(answer.into_response());
    }
    Err(error)
}

/// Where everything goes.
struct Planned {
    plan: Plan,
    callbacks: Callbacks,
    /// Given with this send, and used by it.
    inline: Vec<Credential>,
}

async fn plan(app: &App, caller: &Caller, ready: &mut Ready) -> Result<Planned, ApiError> {
    let Ready { lead, warnings, options, project, .. } = ready;
    let credentials = app.credentials(project.id).await?;
    let (inline, unusable) = inline::check(app, project.id, &options.wanted, std::mem::take(&mut options.credentials))?;
    let barred: Vec<String> = unusable.iter().filter_map(|warning| warning.channel.clone()).collect();
    let (entity, rule) = (lead.entity.as_deref(), project.sending.entity_credentials);
    let from = Candidates { entity, credentials: &credentials, inline: &inline, barred: &barred, rule };
    let installed = |channel: &str| app.registry.installed(channel);
    let plan = fan_out(&options.wanted, from, installed, "/integrations")?;
    for target in &plan.targets {
        if let (Some(settings), Some(entry)) = (&target.settings, target.entry) {
            check_settings(app, caller, &target.credential, settings, &format!("/integrations/{entry}/settings"))?;
        }
    }
    let checked = callbacks::check(app, caller, project, &credentials, std::mem::take(&mut options.callbacks))?;
    warnings.extend(unusable.into_iter().chain(checked.warnings.iter().cloned()));
    let callbacks = checked.complete(app, project).await?;
    let used = |credential: &&Arc<Credential>| plan.targets.iter().any(|target| target.credential.id == credential.id);
    let inline = inline.iter().filter(used).map(|credential| Credential::clone(credential)).collect();
    Ok(Planned { plan, callbacks, inline })
}

/// Settings of one send must leave the credential's config valid, and must not move its secrets elsewhere. `at` is their
/// JSON pointer.
pub(super) fn check_settings(
    app: &App,
    caller: &Caller,
    credential: &Credential,
    settings: &Map<String, Value>,
    at: &str,
) -> Result<(), ApiError> {
    if serde_json::to_vec(settings).map_or(0, |json| json.len()) > MAX_SETTINGS_BYTES {
        return Err(ApiError::field(at, "too_large", format!("must have at most {MAX_SETTINGS_BYTES} bytes as JSON")));
    }
    // Whoever gave the secrets with this very send may say where they go.
    let others = credential.purpose != Purpose::Send && !credential.secrets.is_empty();
    if others && !caller.may(Scope::ProjectAdmin) {
        let manifest = app.registry.manifest(&credential.channel);
        let fixed = manifest.map(|manifest| super::credentials::addresses(&manifest)).unwrap_or_default();
        if let Some(name) = settings.keys().find(|name| fixed.contains(*name)) {
            let detail = format!("`{name}` decides where the credential's secrets go; only a key with `project:admin` may override it");
            return Err(ApiError::field(format!("{at}/{name}"), "setting_fixed", detail));
        }
    }
    let mut config: Map<String, Value> = credential.config.clone();
    config.extend(settings.iter().map(|(name, value)| (name.clone(), value.clone())));
    let problems = app.registry.check_config(&credential.channel, &config).unwrap_or_default();
    if problems.is_empty() {
        return Ok(());
    }
    let errors = problems.into_iter().map(|problem| {
        let below = problem.pointer.strip_prefix("/config").unwrap_or(&problem.pointer);
        FieldError::new(format!("{at}{below}"), problem.code, problem.detail)
    });
    Err(ApiError::fields(errors.collect()))
}

async fn commit(app: &App, input: &Input, once: Option<Once>, ready: Ready, planned: Planned) -> Result<Response, ApiError> {
    let now = app.now();
    let Ready { lead, mut warnings, options, project, stored } = ready;
    let Planned { plan, callbacks, inline } = planned;
    warnings.extend(plan.warnings);
    let (lead_id, batch) = (lead.id, BatchId::new(now));
    let due_at = options.due_at.unwrap_or(now);
    let deliveries: Vec<NewDelivery> = plan
        .targets
        .into_iter()
        .map(|target| NewDelivery {
            id: DeliveryId::new(now),
            credential_id: target.credential.id,
            channel: target.credential.channel.clone(),
            due_at,
            settings: target.settings.map(Value::Object),
        })
        .collect();
    let key = if stored { None } else { dedup::key(&lead, &project.dedup) };
    let repeat = key.as_ref().map(|key| Repeat::of(app, &project, &lead, key, &deliveries, &inline)).unwrap_or_default();
    let note = repeat.note.clone();
    let noted: Vec<_> = note.iter().flat_map(|note| &note.to).map(|(credential, _)| (*credential, now)).collect();
    let watches = Watch::all(&project.sending.fallbacks, &deliveries);
    let status = if deliveries.is_empty() { LeadStatus::Unrouted } else { LeadStatus::Accepted };
    let expires_at = now.plus(Duration::from_secs(u64::from(project.dedup.ttl_sec)));
    let dedup = key.map(|key| DedupKey { hash: key.hash, expires_at });
    let fresh = Answer::new(
        StatusCode::ACCEPTED,
        &Sent {
            lead_id,
            batch_id: Some(batch),
            duplicate: false,
            duplicate_of: None,
            matched: &[],
            status: status.into(),
            deliveries: deliveries.iter().map(|delivery| sent_delivery(delivery)).collect(),
            warnings: &warnings,
        },
    )?
    .at(format!("/api/leads/{lead_id}"));
    let idempotency = once.as_ref().map(|once| {
        let (seal, fresh, repeat) = (sealer(app, once), fresh.clone(), repeat.clone());
        let answer_of: AnswerOf = Arc::new(move |accepted: &Accepted| match accepted {
            Accepted::New => seal(&fresh),
            Accepted::Gone => seal(&fresh),
            Accepted::Duplicate { of } => duplicate(*of, &repeat).map_or_else(|_| seal(&fresh), |answer| seal(&answer)),
        });
        (once.key.clone(), answer_of)
    });
    let mut hints: Vec<(CredentialId, Timestamp)> = deliveries.iter().map(|delivery| (delivery.credential_id, due_at)).collect();
    let wait = input::wait(&input.headers).filter(|_| !hints.is_empty());
    if deliveries.is_empty() {
        // Such a batch ends as it begins.
        hints.extend(policy_callbacks::due(&callbacks, &BatchCounts::default()).map(|(_, callback)| (callback.credential, now)));
    }
    let ended = wait.map(|wait| (wait, app.lanes.wait_for(batch)));
    let intake = Intake {
        lead,
        status,
        dedup,
        batch,
        options: BatchOptions {
            allow_failures: options.allow_failures,
            callbacks,
            inline: inline.iter().map(|credential| credential.id).collect(),
            notify: project.sending.endings(),
        },
        extras: IntakeExtras { credentials: inline, deadline_at: options.deadline_at, watches, again: stored, note },
        deliveries,
        correlation: input.correlation.clone(),
        idempotency,
    };
    let at_once = (intake.deliveries.is_empty() && intake.options.notify.contains(&NoticeKind::Unrouted)).then_some(now);
    let timer = intake.extras.watches.iter().map(|watch| watch.due_at).chain(options.deadline_at).chain(at_once).min();
    let correlation = input.correlation.clone();
    // In a task of its own: a client that hangs up must not keep the lanes from hearing of what was stored.
    let (store, lanes) = (Arc::clone(&app.store), Arc::clone(&app.lanes));
    let task = tokio::spawn(async move {
        let done = store.accept(intake).await;
        if matches!(done, Ok(Written::New(Accepted::New))) {
            lanes.hint(&hints);
            if let Some(due_at) = timer {
                lanes.timer(due_at);
            }
            tracing::info!(lead.id = %lead_id, batch.id = %batch, deliveries = hints.len(), correlation, "lead {lead_id} accepted");
        }
        if matches!(done, Ok(Written::New(Accepted::Duplicate { .. }))) && !noted.is_empty() {
            lanes.hint(&noted);
        }
        (done, once)
    });
    let (done, once) = task.await.map_err(|error| ApiError::internal(&error))?;
    count(app, &done, status);
    match (done?, once) {
        (Written::New(Accepted::New), _) => match ended {
            Some((wait, ended)) => waited(app, wait, ended, lead_id, batch, &warnings).await,
            None => Ok(fresh.into_response()),
        },
        // It was removed between two moments of this request.
        (Written::New(Accepted::Gone), _) => Err(ApiError::not_found("lead")),
        (Written::New(Accepted::Duplicate { of }), _) => Ok(duplicate(of, &repeat)?.into_response()),
        (Written::Replayed(kept), Some(once)) => Ok(once.replay(app, &kept)?.into_response()),
        (Written::Replayed(_), None) => Err(ApiError::internal(&"an answer was replayed without a key")),
        (Written::KeyReused, _) => Err(key_reused()),
    }
}

/// Counts what became of a lead.
fn count(app: &App, done: &Result<Written<Accepted>, StoreError>, status: LeadStatus) {
    let result = match done {
        Ok(Written::New(Accepted::New)) if status == LeadStatus::Unrouted => "unrouted",
        Ok(Written::New(Accepted::New)) => "accepted",
        Ok(Written::New(Accepted::Duplicate { .. })) => "duplicate",
        Ok(Written::Replayed(_)) => "replayed",
        Err(StoreError::Overloaded { .. }) => "overloaded",
        // The count of requests by status has these.
        Ok(Written::New(Accepted::Gone) | Written::KeyReused) | Err(_) => return,
    };
    app.metrics.http.leads.get_or_create(&OfResult { result }).inc();
}

fn sent_delivery(delivery: &NewDelivery) -> SentDelivery<'_> {
    SentDelivery {
        id: delivery.id,
        channel: &delivery.channel,
        credential_id: delivery.credential_id,
        status: DeliveryStatus::Queued,
        due_at: Some(delivery.due_at),
    }
}

/// What follows when the lead is there already.
#[derive(Debug, Clone, Default)]
struct Repeat {
    /// The fields in which the two agree.
    matched: Vec<String>,
    note: Option<DuplicateNote>,
    /// Channels that are not told, though the project wants it.
    warnings: Vec<Warning>,
}

impl Repeat {
    fn of(app: &App, project: &Project, lead: &Lead, key: &dedup::Key, deliveries: &[NewDelivery], inline: &[Credential]) -> Self {
        let mut repeat = Self { matched: key.fields.clone(), ..Self::default() };
        if project.dedup.on_duplicate != OnDuplicate::Note {
            return repeat;
        }
        let mut to = Vec::new();
        // Credentials for one send alone are not there for a second one.
        for delivery in deliveries.iter().filter(|delivery| !inline.iter().any(|given| given.id == delivery.credential_id)) {
            let manifest = app.registry.manifest(&delivery.channel);
            if manifest.is_some_and(|manifest| manifest.events.contains(dedup::DUPLICATE_EVENT)) {
                to.push((delivery.credential_id, delivery.channel.clone()));
            } else {
                let warning = Warning::channel("note_not_supported", &delivery.channel);
                if !repeat.warnings.contains(&warning) {
                    repeat.warnings.push(warning);
                }
            }
        }
        repeat.note = (!to.is_empty()).then(|| DuplicateNote { to, data: dedup::note(lead, &key.fields) });
        repeat
    }
}

fn duplicate(of: LeadId, repeat: &Repeat) -> Result<Answer, ApiError> {
    let sent = Sent {
        lead_id: of,
        batch_id: None,
        duplicate: true,
        duplicate_of: Some(of),
        matched: &repeat.matched,
        status: SendStatus::Duplicate,
        deliveries: Vec::new(),
        warnings: &repeat.warnings,
    };
    Ok(Answer::ok(&sent)?.at(format!("/api/leads/{of}")))
}

/// 200 with how it ended, or 202 with how far it came.
async fn waited(
    app: &App,
    wait: Duration,
    ended: impl Future<Output = BatchStatus> + Send,
    lead_id: LeadId,
    batch: BatchId,
    warnings: &[Warning],
) -> Result<Response, ApiError> {
    let until = app.now().plus(wait);
    let in_time = tokio::select! {
        _ = ended => true,
        () = app.clock.sleep_until(until) => false,
        () = app.bodies.stopping().cancelled() => false,
    };
    let deliveries = app.store.deliveries_of_batch(batch).await?;
    // Whoever it was of may have been erased meanwhile.
    let record = app.store.lead(lead_id).await?.ok_or_else(|| ApiError::not_found("lead"))?;
    let sent = Sent {
        lead_id,
        batch_id: Some(batch),
        duplicate: false,
        duplicate_of: None,
        matched: &[],
        status: record.status.into(),
        deliveries: deliveries
            .iter()
            .filter(|delivery| delivery.kind.counts())
            .map(|delivery| SentDelivery {
                id: delivery.id,
                channel: &delivery.channel,
                credential_id: delivery.credential_id,
                status: delivery.status,
                due_at: delivery.due_at.filter(|_| delivery.status == DeliveryStatus::Queued),
            })
            .collect(),
        warnings,
    };
    let status = if in_time { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut response = Answer::new(status, &sent)?.at(format!("/api/leads/{lead_id}")).into_response();
    if let Ok(value) = HeaderValue::try_from(format!("wait={}", wait.as_secs())) {
        response.headers_mut().insert(PREFERENCE_APPLIED, value);
    }
    Ok(response)
}
