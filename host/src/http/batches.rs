//! Batches and deliveries: looking, cancelling, retrying.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::json;

use super::answer::{Answer, acted, once};
use super::auth::Caller;
use super::error::ApiError;
use super::input::{Input, Params};
use super::list::{self, Filter};
use super::views::{AttemptView, BatchCancelled, BatchDetail, BatchView, DeliveryDetail, DeliveryView, List};
use crate::app::App;
use crate::model::{AuditAction, AuditLine, Batch, BatchId, BatchStatus, Delivery, DeliveryId, DeliveryStatus, Scope};
use crate::policy::audit::changes;
use crate::store::Act;

async fn find_batch(app: &App, caller: &Caller, id: &str) -> Result<Batch, ApiError> {
    let missing = || ApiError::not_found("batch");
    let id: BatchId = id.parse().map_err(|_| missing())?;
    let batch = app.store.batch(id).await?.ok_or_else(missing)?;
    caller.check(batch.project, "batch")?;
    Ok(batch)
}

async fn find_delivery(app: &App, caller: &Caller, id: &str) -> Result<Delivery, ApiError> {
    let missing = || ApiError::not_found("delivery");
    let id: DeliveryId = id.parse().map_err(|_| missing())?;
    let delivery = app.store.delivery(id).await?.ok_or_else(missing)?;
    caller.check(delivery.project, "delivery")?;
    Ok(delivery)
}

/// One batch with its deliveries
#[utoipa::path(get, path = "/api/batches/{id}", tag = "Sending", params(("id" = String, Path, description = "`bat_…`")),
    responses((status = 200, body = BatchDetail)))]
pub async fn show_batch(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Answer, ApiError> {
    caller.require(Scope::LeadsRead)?;
    let batch = find_batch(&app, &caller, &id).await?;
    let deliveries = app.store.deliveries_of_batch(batch.id).await?;
    Answer::ok(&BatchDetail::new(batch, deliveries))
}

/// Cancel what has not been sent
///
/// Deliveries that are being sent at this moment end as they end.
#[utoipa::path(post, path = "/api/batches/{id}/cancel", tag = "Sending", params(("id" = String, Path, description = "`bat_…`")),
    responses((status = 200, body = BatchCancelled)))]
pub async fn cancel_batch(State(app): State<App>, caller: Caller, Path(id): Path<String>, input: Input) -> Result<Answer, ApiError> {
    caller.require(Scope::LeadsWrite)?;
    let batch = find_batch(&app, &caller, &id).await?;
    once(&app, &caller, &input, async {
        let line = caller.line(&app, AuditAction::BatchCancel, Some(batch.project), batch.id, Vec::new());
        let act = Act::CancelBatch { id: batch.id, now: app.now() };
        let done = acted(app.store.act(act, &line, None).await?)?.unwrap_or_default();
        let cancelled_count = done.cancelled;
        done.changed.iter().for_each(|changed| app.batch_changed(changed));
        let batch = find_batch(&app, &caller, &id).await?;
        Answer::ok(&BatchCancelled { batch: BatchView::from(batch), cancelled_count })
    })
    .await
}

/// Search batches
#[utoipa::path(get, path = "/api/batches", tag = "Sending", params(Filter), responses((status = 200, body = List<BatchView>)))]
pub async fn list_batches(State(app): State<App>, caller: Caller, Params(filter): Params<Filter>) -> Result<Answer, ApiError> {
    caller.require(Scope::LeadsRead)?;
    let query = list::query::<BatchStatus>(&app, &caller, filter).await?;
    let found = app.store.batches(&query).await?;
    Answer::ok(&list::found(found, BatchView::from))
}

/// Search deliveries
#[utoipa::path(get, path = "/api/deliveries", tag = "Sending", params(Filter), responses((status = 200, body = List<DeliveryView>)))]
pub async fn list_deliveries(State(app): State<App>, caller: Caller, Params(filter): Params<Filter>) -> Result<Answer, ApiError> {
    caller.require(Scope::LeadsRead)?;
    let query = list::query::<DeliveryStatus>(&app, &caller, filter).await?;
    let found = app.store.deliveries(&query).await?;
    Answer::ok(&list::found(found, DeliveryView::from))
}

/// One delivery with its attempts
#[utoipa::path(get, path = "/api/deliveries/{id}", tag = "Sending", params(("id" = String, Path, description = "`dlv_…`")),
    responses((status = 200, body = DeliveryDetail)))]
pub async fn show_delivery(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Answer, ApiError> {
    caller.require(Scope::LeadsRead)?;
    let delivery = find_delivery(&app, &caller, &id).await?;
    let attempts = app.store.attempts(delivery.id).await?;
    Answer::ok(&DeliveryDetail { delivery: delivery.into(), attempts: attempts.into_iter().map(AttemptView::from).collect() })
}

fn word(status: DeliveryStatus) -> String {
    serde_json::to_value(status).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The line for what a person does to one delivery.
fn moved(app: &App, caller: &Caller, action: AuditAction, delivery: &Delivery, to: DeliveryStatus) -> AuditLine {
    let changes = changes(&json!({"status": delivery.status}), &json!({"status": to}));
    caller.line(app, action, Some(delivery.project), delivery.id, changes)
}

/// Send a failed, in-doubt or cancelled delivery again
///
/// It keeps its id, and so the key by which the remote side knows it.
#[utoipa::path(post, path = "/api/deliveries/{id}/retry", tag = "Sending", params(("id" = String, Path, description = "`dlv_…`")),
    responses((status = 202, description = "Queued", body = DeliveryView)))]
pub async fn retry(State(app): State<App>, caller: Caller, Path(id): Path<String>, input: Input) -> Result<Answer, ApiError> {
    caller.require(Scope::LeadsWrite)?;
    let before = find_delivery(&app, &caller, &id).await?;
    let line = |to| moved(&app, &caller, AuditAction::DeliveryRetry, &before, to);
    once(&app, &caller, &input, async {
        let now = app.now();
        if app.store.credential(before.credential_id).await?.is_none() && before.status.is_terminal() {
            let detail = "its credential is gone: it was deleted, or given for that send alone and erased when the batch ended";
            return Err(ApiError::conflict("credential_gone", detail));
        }
        let act = Act::RetryDelivery { id: before.id, now };
        if acted(app.store.act(act, &line(DeliveryStatus::Queued), None).await?)?.is_none() {
            let status = find_delivery(&app, &caller, &id).await?.status;
            let detail = format!("only a failed, in_doubt or cancelled delivery is retried; this one is {}", word(status));
            return Err(ApiError::conflict("not_retryable", detail));
        }
        app.lanes.hint(&[(before.credential_id, now)]);
        let delivery = find_delivery(&app, &caller, &id).await?;
        Answer::new(StatusCode::ACCEPTED, &DeliveryView::from(delivery))
    })
    .await
}

/// Cancel a queued delivery
#[utoipa::path(post, path = "/api/deliveries/{id}/cancel", tag = "Sending", params(("id" = String, Path, description = "`dlv_…`")),
    responses((status = 200, body = DeliveryView)))]
pub async fn cancel(State(app): State<App>, caller: Caller, Path(id): Path<String>, input: Input) -> Result<Answer, ApiError> {
    caller.require(Scope::LeadsWrite)?;
    let before = find_delivery(&app, &caller, &id).await?;
    once(&app, &caller, &input, async {
        let line = moved(&app, &caller, AuditAction::DeliveryCancel, &before, DeliveryStatus::Cancelled);
        let act = Act::CancelDelivery { id: before.id, now: app.now() };
        let Some(done) = acted(app.store.act(act, &line, None).await?)? else {
            let status = find_delivery(&app, &caller, &id).await?.status;
            let detail = format!("only a queued delivery is cancelled; this one is {}", word(status));
            return Err(ApiError::conflict("not_cancellable", detail));
        };
        done.changed.iter().for_each(|changed| app.batch_changed(changed));
        let delivery = find_delivery(&app, &caller, &id).await?;
        Answer::ok(&DeliveryView::from(delivery))
    })
    .await
}
