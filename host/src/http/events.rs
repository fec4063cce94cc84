//! Live events: `GET /api/events` (server-sent events) and `GET /api/events/ws` (WebSocket), two ways to carry the same.
//!
//! [`follow`] decides what comes next; [`sse`] and [`socket`] write it. Nothing is queued for a reader: what it has not
//! taken stays in the log, so one that is slow costs a position and some buffered bytes, and is dropped after a while.

mod follow;
mod socket;
mod sse;
mod view;

pub use socket::{__path_socket, socket};
pub use sse::{__path_stream, stream};

use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;

use self::follow::{Filter, Follower};
use super::auth::{Caller, find_project};
use super::error::ApiError;
use super::leads::find_lead;
use crate::app::App;
use crate::live::NoPlace;
use crate::model::{BatchId, EVENT_TYPES, EventPosition, Scope};
use crate::policy::FieldError;

/// Seconds after which a client that found no place may try again.
const RETRY_AFTER_S: u32 = 5;

/// Which events, and from where on.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Question {
    /// `prj_…`, or `ext:` and your own id; for keys that belong to no project, which get the events of all without it.
    pub project: Option<String>,
    /// Types (`delivery.failed`) or what they are about (`delivery`), separated by commas.
    pub types: Option<String>,
    /// Only about this lead: `lead_…`, or `ext:` and your own id.
    pub lead: Option<String>,
    /// Only about this batch: `bat_…`.
    pub batch: Option<String>,
    /// The same as the header `Last-Event-ID`, for clients that cannot set it.
    pub last_event_id: Option<String>,
}

/// Someone who follows, or why not.
async fn follower(app: &App, caller: &Caller, headers: &HeaderMap, question: Question) -> Result<Follower, ApiError> {
    caller.require(Scope::LeadsRead)?;
    let filter = filter(app, caller, &question).await?;
    let after = match last_event_id(headers, question.last_event_id.as_deref())? {
        Some(after) => after,
        None => app.live.end().await?,
    };
    let place = app.live.enter(caller.key.id).map_err(no_place)?;
    Ok(Follower::new(app.clone(), caller.key.clone(), filter, after, place))
}

fn no_place(why: NoPlace) -> ApiError {
    let (status, code, detail) = match why {
        NoPlace::OfKey(most) => {
            let detail = format!("this key has {most} streams open, which is the most; close one");
            (StatusCode::TOO_MANY_REQUESTS, "too_many_streams", detail)
        }
        NoPlace::Full(most) => {
            let detail = format!("{most} streams are open, which is the most; try again later, or ask the operator for more");
            (StatusCode::SERVICE_UNAVAILABLE, "streams_full", detail)
        }
    };
    ApiError { retry_after: Some(RETRY_AFTER_S), ..ApiError::new(status, code, detail) }
}

/// The place that the client has seen everything up to. An empty one is none: browsers send it so.
fn last_event_id(headers: &HeaderMap, query: Option<&str>) -> Result<Option<EventPosition>, ApiError> {
    let refused = || {
        let detail = "`Last-Event-ID` must be an id that an event had; leave it out to begin with what happens from now on";
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_last_event_id", detail)
    };
    let text = match headers.get("last-event-id") {
        Some(value) => Some(value.to_str().map_err(|_| refused())?),
        None => query,
    };
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| refused())
}

async fn filter(app: &App, caller: &Caller, question: &Question) -> Result<Filter, ApiError> {
    let project = match (&question.project, caller.key.project) {
        (Some(text), _) => match find_project(app, caller, text).await? {
            Some(project) => Some(project.id),
            None => {
                let errors = vec![FieldError::new("/project", "unknown_project", "there is no such project")];
                return Err(ApiError { errors, ..ApiError::not_found("project") });
            }
        },
        (None, own) => own,
    };
    let lead = match &question.lead {
        Some(text) => {
            let found = find_lead(app, caller, text, question.project.as_deref()).await?;
            Some(found.ok_or_else(|| ApiError::not_found("lead"))?.lead.id)
        }
        None => None,
    };
    let batch = match &question.batch {
        Some(text) => Some(batch(app, caller, text).await?),
        None => None,
    };
    Ok(Filter { project, types: question.types.as_deref().map(types).transpose()?, lead, batch })
}

async fn batch(app: &App, caller: &Caller, text: &str) -> Result<BatchId, ApiError> {
    let missing = || ApiError::not_found("batch");
    let id: BatchId = text.parse().map_err(|_| missing())?;
    let batch = app.store.batch(id).await?.ok_or_else(missing)?;
    caller.check(batch.project, "batch")?;
    Ok(id)
}

/// The types that are meant.
fn types(text: &str) -> Result<Vec<&'static str>, ApiError> {
    let mut meant = Vec::new();
    for word in text.split(',').map(str::trim) {
        let before = meant.len();
        let about = |name: &str| name == word || name.split_once('.').is_some_and(|(about, _)| about == word);
        meant.extend(EVENT_TYPES.iter().filter(|name| about(name)));
        if meant.len() == before {
            let known = EVENT_TYPES.join(", ");
            let detail = format!("there is no type `{}`; known: lead, batch, delivery, credential, {known}", word.escape_debug());
            return Err(ApiError::field("/types", "invalid_query", detail));
        }
    }
    meant.sort_unstable();
    meant.dedup();
    Ok(meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_named_alone_or_by_what_they_are_about() {
        assert_eq!(types("delivery.failed").unwrap(), ["delivery.failed"]);
        assert_eq!(types("delivery.failed, batch,batch.failed").unwrap().len(), 6);
        assert_eq!(types("lead,batch,delivery,credential").unwrap().len(), EVENT_TYPES.len());
        for text in ["", "deliveries", "delivery.", "delivery.lost", "delivery,,lead", "delivery.*"] {
            assert_eq!(types(text).unwrap_err().code, "invalid_query", "{text}");
        }
    }

    #[test]
    fn the_header_stands_over_the_query() {
        let mut headers = HeaderMap::new();
        assert_eq!(last_event_id(&headers, None).unwrap(), None);
        assert_eq!(last_event_id(&headers, Some("7.1")).unwrap(), Some(EventPosition { turn: 7, index: 1 }));
        headers.insert("last-event-id", "8.2".parse().unwrap());
        assert_eq!(last_event_id(&headers, Some("7.1")).unwrap(), Some(EventPosition { turn: 8, index: 2 }));
        headers.insert("last-event-id", "".parse().unwrap());
        assert_eq!(last_event_id(&headers, Some("7.1")).unwrap(), None);
        headers.insert("last-event-id", "yesterday".parse().unwrap());
        assert_eq!(last_event_id(&headers, None).unwrap_err().code, "invalid_last_event_id");
    }
}
