//! What became of one lead, told in the order in which it happened.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use axum::extract::{Path, State};
use serde::Serialize;

use super::answer::Answer;
use super::auth::Caller;
use super::error::ApiError;
use super::input::Params;
use super::leads::{InProject, find_lead};
use crate::app::App;
use crate::model::{
    Attempt, AttemptOutcome, Batch, BatchStatus, CredentialId, Delivery, DeliveryKind, DeliveryStatus, Lead, Repeats, Scope, Timestamp,
};

/// Newest batches that are told of.
const BATCHES: usize = 20;
/// Newest events that are told.
const EVENTS: usize = 1_000;

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The lead was stored.
    LeadAccepted,
    /// The same lead came again, the last time.
    LeadRepeated,
    /// It was queued for credentials: at first, or sent again.
    BatchQueued,
    /// A plugin was called for a delivery.
    Attempt,
    /// A delivery ended.
    DeliveryEnded,
    /// All deliveries of a batch have ended.
    BatchEnded,
    /// Beside them: a callback, a notification, or a fallback for one that was not made in time.
    FollowUpQueued,
    /// Calls that were made for a delivery since then, of which nothing is kept any more but how it ended.
    AttemptsPruned,
    /// The next attempt of a delivery that waits is due then.
    AttemptDue,
}

/// One thing that happened to a lead, or is about to.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Event {
    #[schema(value_type = String, format = DateTime)]
    #[allow(missing_docs)]
    pub at: Timestamp,
    #[allow(missing_docs)]
    pub event: EventKind,
    /// In words.
    pub text: String,
    /// The batch it is about.
    pub batch_id: Option<String>,
    /// The delivery it is about.
    pub delivery_id: Option<String>,
    /// The attempt it is about; its requests and answers are shown with the delivery.
    pub attempt_id: Option<String>,
    #[allow(missing_docs)]
    pub channel: Option<String>,
    #[allow(missing_docs)]
    pub credential_id: Option<String>,
    /// Machine-readable, of an attempt or a delivery that ended without success.
    pub code: Option<String>,
    /// `X-Request-Id` of the request that made the batch, for whoever reads the logs.
    pub correlation: Option<String>,
}

/// The story of a lead.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Timeline {
    /// `lead_…`
    pub lead_id: String,
    /// Oldest first.
    pub data: Vec<Event>,
    /// Whether older events are left out.
    pub truncated: bool,
}

/// What became of a lead, step by step
#[utoipa::path(get, path = "/api/leads/{id}/timeline", tag = "Sending", params(
    ("id" = String, Path, description = "`lead_…`, or `ext:` and your own id"), InProject,
), responses((status = 200, body = Timeline)))]
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Params(within): Params<InProject>,
) -> Result<Answer, ApiError> {
    caller.require(Scope::LeadsRead)?;
    let record = find_lead(&app, &caller, &id, within.project.as_deref()).await?.ok_or_else(|| ApiError::not_found("lead"))?;
    let lead = record.lead;
    let mut batches = app.store.batches_of_lead(lead.id).await?;
    let mut truncated = batches.len() > BATCHES;
    batches.truncate(BATCHES);
    batches.reverse();
    let mut names = names(&app, &lead).await?;
    let mut events = Vec::new();
    if !truncated {
        events.push(accepted(&lead));
    }
    for (number, batch) in batches.iter().enumerate() {
        let deliveries = app.store.deliveries_of_batch(batch.id).await?;
        look_up(&app, &mut names, &deliveries).await?;
        let (own, beside): (Vec<_>, Vec<_>) = deliveries.iter().partition(|delivery| delivery.kind.counts());
        events.push(queued(batch, &own, &names, number > 0 || truncated));
        for delivery in own {
            let attempts = app.store.attempts(delivery.id).await?;
            tell(&mut events, delivery, &attempts, &name(&names, delivery));
        }
        events.extend(ended(batch));
        for delivery in beside {
            let attempts = app.store.attempts(delivery.id).await?;
            let name = name(&names, delivery);
            events.push(follow_up(delivery, &name));
            tell(&mut events, delivery, &attempts, &name);
        }
    }
    if let Some(repeats) = app.store.repeats(&[lead.id]).await?.get(&lead.id) {
        events.push(came_again(*repeats));
    }
    // A stable order: what happened in the same millisecond stays as it was told, batch by batch.
    events.sort_by_key(|event| event.at);
    if events.len() > EVENTS {
        truncated = true;
        events.drain(..events.len() - EVENTS);
    }
    Answer::ok(&Timeline { lead_id: lead.id.to_string(), data: events, truncated })
}

/// `None`: the credential was deleted.
type Names = HashMap<CredentialId, Option<String>>;

async fn names(app: &App, lead: &Lead) -> Result<Names, ApiError> {
    let credentials = app.credentials(lead.project).await?;
    Ok(credentials.iter().map(|credential| (credential.id, Some(credential.name.clone()))).collect())
}

/// Those that an admin does not see in lists: of callbacks to URLs, and given with one send.
async fn look_up(app: &App, names: &mut Names, deliveries: &[Delivery]) -> Result<(), ApiError> {
    for delivery in deliveries {
        if let Entry::Vacant(place) = names.entry(delivery.credential_id) {
            let found = app.store.credential(delivery.credential_id).await?;
            place.insert(found.map(|credential| credential.name));
        }
    }
    Ok(())
}

/// Such as `telegram “Sales chat”`.
fn name(names: &Names, delivery: &Delivery) -> String {
    let what = match delivery.kind {
        DeliveryKind::Lead => "",
        DeliveryKind::Callback => "callback to ",
        DeliveryKind::Notification => "notification to ",
        DeliveryKind::Fallback => "fallback to ",
    };
    match names.get(&delivery.credential_id) {
        Some(Some(name)) => format!("{what}{} “{name}”", delivery.channel),
        _ => format!("{what}{} (its credential was deleted)", delivery.channel),
    }
}

fn event(at: Timestamp, kind: EventKind, text: String) -> Event {
    Event {
        at,
        event: kind,
        text,
        batch_id: None,
        delivery_id: None,
        attempt_id: None,
        channel: None,
        credential_id: None,
        code: None,
        correlation: None,
    }
}

fn accepted(lead: &Lead) -> Event {
    let mut text = String::from("The lead came in");
    for (word, value) in [("from the form", &lead.origin.form), ("on", &lead.origin.page)] {
        if let Some(value) = value {
            text.push_str(&format!(" {word} {value}"));
        }
    }
    event(lead.created_at, EventKind::LeadAccepted, text)
}

fn came_again(repeats: Repeats) -> Event {
    let times = if repeats.count == 1 { "once".to_owned() } else { format!("{} times, for the last time now", repeats.count) };
    event(repeats.last_at, EventKind::LeadRepeated, format!("The same lead came again, {times}"))
}

fn queued(batch: &Batch, deliveries: &[&Delivery], names: &Names, again: bool) -> Event {
    let targets: Vec<String> = deliveries.iter().map(|delivery| name(names, delivery)).collect();
    let text = match (targets.is_empty(), again) {
        (true, _) => "No credential wanted it: it goes nowhere".to_owned(),
        (false, false) => format!("Queued for {}", targets.join(", ")),
        (false, true) => format!("Sent again, to {}", targets.join(", ")),
    };
    Event { batch_id: Some(batch.id.to_string()), ..event(batch.created_at, EventKind::BatchQueued, text) }
}

fn of_delivery(delivery: &Delivery, at: Timestamp, kind: EventKind, text: String) -> Event {
    Event {
        batch_id: Some(delivery.batch_id.to_string()),
        delivery_id: Some(delivery.id.to_string()),
        channel: Some(delivery.channel.clone()),
        credential_id: Some(delivery.credential_id.to_string()),
        ..event(at, kind, text)
    }
}

fn follow_up(delivery: &Delivery, name: &str) -> Event {
    let why = delivery.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    of_delivery(delivery, delivery.created_at, EventKind::FollowUpQueued, format!("Queued a {name}{why}"))
}

/// The attempts of a delivery, how it ended or when it is tried next.
fn tell(events: &mut Vec<Event>, delivery: &Delivery, attempts: &[Attempt], name: &str) {
    let about = |at, kind, text| of_delivery(delivery, at, kind, text);
    if delivery.attempts_pruned > 0 {
        let calls = if delivery.attempts_pruned == 1 { "call 1".to_owned() } else { format!("calls 1 to {}", delivery.attempts_pruned) };
        events.push(about(delivery.created_at, EventKind::AttemptsPruned, format!("{name}: {calls}, removed for their age")));
    }
    for attempt in attempts {
        // Told when its end was known.
        let at = attempt.started_at.plus(Duration::from_millis(u64::from(attempt.duration_ms)));
        events.push(Event {
            attempt_id: Some(attempt.id.to_string()),
            code: attempt.code.clone(),
            correlation: Some(attempt.correlation.clone()),
            ..about(at, EventKind::Attempt, attempt_text(attempt, name))
        });
    }
    if let Some(at) = delivery.finished_at {
        let code = delivery.last_code.clone().filter(|_| !matches!(delivery.status, DeliveryStatus::Delivered | DeliveryStatus::Skipped));
        events.push(Event { code, ..about(at, EventKind::DeliveryEnded, end_text(delivery, name)) });
    }
    if let (DeliveryStatus::Queued, Some(at)) = (delivery.status, delivery.due_at) {
        events.push(about(at, EventKind::AttemptDue, format!("{name}: waits, the next attempt is due")));
    }
}

fn attempt_text(attempt: &Attempt, name: &str) -> String {
    let Attempt { no, duration_ms, plugin, .. } = attempt;
    let what = match attempt.outcome {
        AttemptOutcome::Delivered => "the remote side took it",
        AttemptOutcome::Duplicate => "the remote side had it already",
        AttemptOutcome::Skipped => "a rule says not to send it",
        AttemptOutcome::Retry => "failed, to be tried again",
        AttemptOutcome::Rejected => "refused for good",
        AttemptOutcome::Released => "stopped, without counting as an attempt",
        AttemptOutcome::Lost => "nobody knows how it ended: the node was lost meanwhile",
    };
    let why = match (&attempt.code, &attempt.message) {
        (Some(code), Some(message)) => format!(" ({code}: {message})"),
        (Some(one), None) | (None, Some(one)) => format!(" ({one})"),
        (None, None) => String::new(),
    };
    format!("{name}: call {no} of {plugin}, {duration_ms} ms: {what}{why}")
}

fn end_text(delivery: &Delivery, name: &str) -> String {
    let refs: Vec<String> = delivery.refs.iter().map(|one| format!("{} {}", one.name, one.value)).collect();
    let mut text = match delivery.status {
        DeliveryStatus::Delivered if delivery.overdue_at.is_some() => {
            format!("{name}: delivered late, after a fallback had stood in for it")
        }
        DeliveryStatus::Delivered => format!("{name}: delivered"),
        DeliveryStatus::Skipped => format!("{name}: skipped"),
        DeliveryStatus::InDoubt => format!("{name}: in doubt, it may have been sent; a person decides"),
        DeliveryStatus::Cancelled => format!("{name}: cancelled"),
        _ => format!("{name}: given up"),
    };
    if !refs.is_empty() {
        text.push_str(&format!(" as {}", refs.join(", ")));
    }
    if delivery.status == DeliveryStatus::Failed
        && let Some(error) = &delivery.last_error
    {
        text.push_str(&format!(": {error}"));
    }
    text
}

fn ended(batch: &Batch) -> Option<Event> {
    let at = batch.finished_at.filter(|_| batch.counts.total > 0)?;
    let counts = batch.counts;
    let each = [
        (counts.delivered, "delivered"),
        (counts.skipped, "skipped"),
        (counts.failed, "failed"),
        (counts.in_doubt, "in doubt"),
        (counts.cancelled, "cancelled"),
    ];
    let each: Vec<String> = each.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    let status = match batch.status {
        BatchStatus::Completed => "completed",
        BatchStatus::Partial => "partly done",
        BatchStatus::Failed => "failed",
        BatchStatus::Cancelled => "cancelled",
        BatchStatus::Pending => return None,
    };
    let text = format!("All has ended: {status} ({})", each.join(", "));
    Some(Event { batch_id: Some(batch.id.to_string()), ..event(at, EventKind::BatchEnded, text) })
}
