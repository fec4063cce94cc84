//! `GET /metrics`, for Prometheus and what reads its format.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use tokio::sync::MutexGuard;

use super::error::ApiError;
use crate::app::App;
use crate::metrics::OfChannel;
use crate::store::{Queues, StoreError};

/// What is counted in the database is counted anew after this: whoever may reach the address may not make it work for that.
const FRESH: Duration = Duration::from_secs(1);
/// Channels that have lines of their own; credentials may outlive the plugins they were made for.
const MOST_CHANNELS: usize = 100;
/// The others, and what is queued for a credential that is gone.
const OTHERS: &str = "other";

/// Counters for monitoring
///
/// In the OpenMetrics text format; `docs/metrics.md` says what each is. No key is asked for, as nothing of a project or person
/// is in it.
#[utoipa::path(get, path = "/metrics", tag = "Operations", security(()), responses(
    (status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"),
))]
pub async fn show(State(app): State<App>) -> Result<Response, ApiError> {
    // Until the answer is written, so that it shows all of what was looked up, or of what was before.
    let _looked = look(&app).await;
    let text = app.metrics.text().map_err(|error| ApiError::internal(&error))?;
    let mut response = Response::new(Body::from(text));
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// Looks up what is not counted as it happens.
async fn look(app: &App) -> MutexGuard<'_, Option<Instant>> {
    let seen = &app.metrics.seen;
    seen.streams.set(i64::try_from(app.live.open()).unwrap_or(i64::MAX));
    let mut looked_at = app.looked_at.lock().await;
    if looked_at.is_some_and(|at: Instant| at.elapsed() < FRESH) {
        return looked_at;
    }
    let looked: Result<Queues, StoreError> = async {
        app.store.ping().await?;
        app.store.queues().await
    }
    .await;
    *looked_at = Some(Instant::now());
    seen.store_up.set(i64::from(looked.is_ok()));
    // What cannot be read now is not known, and has no lines rather than old ones.
    let queues = looked.unwrap_or_default();
    let now = app.now();
    let mut lines = std::collections::BTreeMap::new();
    for queue in queues.channels {
        let known = lines.len() < MOST_CHANNELS || lines.contains_key(&queue.channel);
        let name = if known && !queue.channel.is_empty() { queue.channel } else { OTHERS.to_owned() };
        let line: &mut (u64, f64) = lines.entry(name).or_default();
        line.0 += queue.waiting;
        line.1 = line.1.max(now.since(queue.due_at).as_secs_f64());
    }
    seen.backlog.clear();
    seen.overdue.clear();
    for (channel, (waiting, overdue)) in lines {
        let label = OfChannel { channel };
        seen.backlog.get_or_create(&label).set(i64::try_from(waiting).unwrap_or(i64::MAX));
        seen.overdue.get_or_create(&label).set(overdue);
    }
    seen.oldest_lead.set(queues.oldest_lead.map_or(0.0, |at| now.since(at).as_secs_f64()));
    looked_at
}
