//! Lists: limits, cursors and filters.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::auth::{Caller, find_project};
use super::error::ApiError;
use super::views::List;
use crate::app::App;
use crate::model::Timestamp;
use crate::store::ListQuery;

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 200;

/// Which rows of a list.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// Only of this project: its id, or `ext:` and your own id of it.
    pub project: Option<String>,
    /// Only in this state.
    pub status: Option<String>,
    /// Only of this channel (deliveries).
    pub channel: Option<String>,
    /// Full-text search; not supported yet.
    pub q: Option<String>,
    /// Only made after this time.
    #[param(value_type = Option<String>)]
    pub created_after: Option<Timestamp>,
    /// Only made before this time.
    #[param(value_type = Option<String>)]
    pub created_before: Option<Timestamp>,
    /// Rows of a page, 1 to 200; 50 without. A page of large rows has fewer, and `has_more`.
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// Which rows of a list without filters.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Paging {
    /// Rows of a page, 1 to 200; 50 without.
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

fn invalid(name: &str, detail: &str) -> ApiError {
    ApiError::new(axum::http::StatusCode::UNPROCESSABLE_ENTITY, "invalid_query", format!("`{name}` {detail}"))
}

/// Rows of a page.
pub fn limit(given: Option<u32>) -> Result<u32, ApiError> {
    let limit = given.unwrap_or(DEFAULT_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) { Ok(limit) } else { Err(invalid("limit", "must be 1 to 200")) }
}

/// The id that a cursor stands for.
pub fn cursor(given: Option<&str>) -> Result<Option<Uuid>, ApiError> {
    let Some(text) = given else { return Ok(None) };
    let id = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| Uuid::from_slice(&bytes).ok());
    id.map(Some).ok_or_else(|| invalid("cursor", "is not one that a page gave"))
}

/// The store's query for a filter; `S` is the kind of status.
pub async fn query<S: DeserializeOwned>(app: &App, caller: &Caller, filter: Filter) -> Result<ListQuery, ApiError> {
    let project = match (&filter.project, caller.key.project) {
        (Some(text), _) => Some(find_project(app, caller, text).await?.ok_or_else(|| ApiError::not_found("project"))?.id),
        (None, own) => own,
    };
    if let Some(status) = &filter.status {
        serde_json::from_value::<S>(serde_json::Value::String(status.clone())).map_err(|error| invalid("status", &error.to_string()))?;
    }
    if filter.q.is_some() {
        return Err(not_supported("q"));
    }
    Ok(ListQuery {
        project,
        status: filter.status,
        channel: filter.channel,
        created_after: filter.created_after,
        created_before: filter.created_before,
        before: cursor(filter.cursor.as_deref())?,
        limit: limit(filter.limit)?,
    })
}

/// 422 for a query parameter of the contract that this version does not know yet.
pub fn not_supported(name: &str) -> ApiError {
    let detail = format!("the query parameter `{name}` is not supported yet");
    ApiError::new(axum::http::StatusCode::UNPROCESSABLE_ENTITY, "not_supported_yet", detail)
}

/// A page; the cursor is the last row's id.
pub fn page<R, T>(rows: Vec<R>, has_more: bool, id: impl Fn(&R) -> Uuid, view: impl FnMut(R) -> T) -> List<T> {
    let next_cursor = rows.last().filter(|_| has_more).map(|row| URL_SAFE_NO_PAD.encode(id(row).as_bytes()));
    List { data: rows.into_iter().map(view).collect(), next_cursor, has_more }
}
