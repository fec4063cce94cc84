//! Lists: limits, cursors and filters.

use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::auth::{Caller, find_project};
use super::error::ApiError;
use super::views::List;
use crate::app::App;
use crate::model::Timestamp;
use crate::policy::{FieldError, normalise, search};
use crate::store::{Cursor, Found, ListQuery};

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 200;

/// Which rows of a list: every condition that is there must hold.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// Only of this project: its id, or `ext:` and your own id of it.
    #[param(min_length = 1, max_length = 255)]
    pub project: Option<String>,
    /// Only of leads of this unit of the project, by your own id of it.
    #[param(min_length = 1, max_length = 255)]
    pub entity: Option<String>,
    /// Only of this channel; leads and batches: with a delivery of it.
    #[param(min_length = 1, max_length = 255)]
    pub channel: Option<String>,
    /// Only of this credential; leads and batches: with a delivery of it.
    #[param(min_length = 1, max_length = 255, pattern = "^crd_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    pub credential: Option<String>,
    /// Only in this state.
    #[param(min_length = 1, max_length = 255)]
    pub status: Option<String>,
    /// Only of leads with your own id of the lead; needs a project.
    #[param(min_length = 1, max_length = 255)]
    pub external_id: Option<String>,
    /// Only of leads with this telephone number, in any spelling. National ones are read in the project's region.
    #[param(min_length = 1, max_length = 255)]
    pub phone: Option<String>,
    /// Only of leads with this e-mail address, in any spelling.
    #[param(min_length = 1, max_length = 255)]
    pub email: Option<String>,
    /// Only of leads with all of these words, in any order: name, company, title, comment, ids, addresses, own fields.
    /// Russian words are found whatever their ending; of a long lead, the first 128 different words count. A whole telephone number or e-mail address is looked for as such.
    /// A new lead is found by its words half a second after it was accepted, and later while there is much to do; by its contacts and ids, at once.
    #[param(min_length = 1, max_length = 255)]
    pub q: Option<String>,
    /// Only made at this time or after it.
    #[param(value_type = Option<String>, format = DateTime)]
    pub created_after: Option<Timestamp>,
    /// Only made before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    pub created_before: Option<Timestamp>,
    /// Rows of a page at most, 1 to 200; 50 without. A page may have fewer, even none, and still not be the last.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before, with the same conditions.
    #[param(min_length = 1)]
    pub cursor: Option<String>,
}

/// Which rows an action is about: the conditions of their list. At least one must be there.
#[derive(Debug, Clone, Default, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Conditions {
    /// As in the list.
    #[schema(min_length = 1, max_length = 255)]
    pub project: Option<String>,
    /// As in the list.
    #[schema(min_length = 1, max_length = 255)]
    pub entity: Option<String>,
    /// As in the list.
    #[schema(min_length = 1, max_length = 255)]
    pub channel: Option<String>,
    /// As in the list.
    #[schema(min_length = 1, max_length = 255, pattern = "^crd_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    pub credential: Option<String>,
    /// As in the list.
    #[schema(min_length = 1, max_length = 255)]
    pub status: Option<String>,
    /// As in the list.
    #[schema(min_length = 1, max_length = 255)]
    pub external_id: Option<String>,
    /// As in the list.
    #[schema(min_length = 1, max_length = 255)]
    pub phone: Option<String>,
    /// As in the list.
    #[schema(min_length = 1, max_length = 255)]
    pub email: Option<String>,
    /// As in the list.
    #[schema(min_length = 1, max_length = 255)]
    pub q: Option<String>,
    /// As in the list.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub created_after: Option<Timestamp>,
    /// As in the list.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub created_before: Option<Timestamp>,
}

impl Filter {
    fn split(self) -> (Conditions, Option<u32>, Option<String>) {
        let Self { project, entity, channel, credential, status, external_id, phone, email, q, created_after, created_before, .. } = self;
        let conditions =
            Conditions { project, entity, channel, credential, status, external_id, phone, email, q, created_after, created_before };
        (conditions, self.limit, self.cursor)
    }
}

/// Which rows of a list without filters.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Paging {
    /// Rows of a page, 1 to 200; 50 without.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[param(min_length = 1)]
    pub cursor: Option<String>,
}

/// 422 about a parameter.
pub fn invalid(name: &str, detail: &str) -> ApiError {
    let errors = vec![FieldError::new(format!("/{name}"), "invalid_value", detail)];
    ApiError { errors, ..ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_query", format!("`{name}` {detail}")) }
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
    let (conditions, rows, place) = filter.split();
    let mut query = conditions.query::<S>(app, caller).await.map_err(|wrong| match wrong {
        Wrong::Condition { name, code: "invalid_value", detail } => invalid(name, &detail),
        wrong => wrong.at(""),
    })?;
    query.before = place.as_deref().map(place_of).transpose()?;
    query.limit = limit(rows)?;
    Ok(query)
}

/// The place that a cursor stands for.
pub fn place_of(text: &str) -> Result<Cursor, ApiError> {
    let place = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| Cursor::from_bytes(&bytes));
    place.ok_or_else(|| invalid("cursor", "is not one that a page gave"))
}

/// What is wrong with conditions.
pub enum Wrong {
    /// One of them.
    Condition {
        #[allow(missing_docs)]
        name: &'static str,
        #[allow(missing_docs)]
        code: &'static str,
        #[allow(missing_docs)]
        detail: String,
    },
    /// There is no such project, or not for this key.
    NoProject,
    /// They could not be judged.
    Other(ApiError),
}

impl Wrong {
    fn value(name: &'static str, detail: &str) -> Self {
        Self::Condition { name, code: "invalid_value", detail: detail.to_owned() }
    }

    /// As an answer; `at` is the pointer of what the conditions stand in.
    pub fn at(self, at: &str) -> ApiError {
        match self {
            Self::Condition { name, code, detail } => ApiError::field(format!("{at}/{name}"), code, detail),
            Self::NoProject => {
                let errors = vec![FieldError::new(format!("{at}/project"), "unknown_project", "there is no such project")];
                ApiError { errors, ..ApiError::not_found("project") }
            }
            Self::Other(error) => error,
        }
    }
}

impl<E: Into<ApiError>> From<E> for Wrong {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Longest value of a condition, in characters.
const MAX_VALUE: usize = 255;
/// Where numbers without a country code are read when no project says so: where projects are by default.
const REGION: &str = "RU";

impl Conditions {
    /// Whether none is there.
    pub fn is_empty(&self) -> bool {
        self.texts().iter().all(|(_, text)| text.is_none()) && self.created_after.is_none() && self.created_before.is_none()
    }

    fn texts(&self) -> [(&'static str, Option<&String>); 9] {
        [
            ("project", self.project.as_ref()),
            ("entity", self.entity.as_ref()),
            ("channel", self.channel.as_ref()),
            ("credential", self.credential.as_ref()),
            ("status", self.status.as_ref()),
            ("external_id", self.external_id.as_ref()),
            ("phone", self.phone.as_ref()),
            ("email", self.email.as_ref()),
            ("q", self.q.as_ref()),
        ]
    }

    /// The store's query, all but its page, bound to what the caller may see; `S` is the kind of status.
    pub async fn query<S: DeserializeOwned>(&self, app: &App, caller: &Caller) -> Result<ListQuery, Wrong> {
        for (name, text) in self.texts() {
            if text.is_some_and(|text| text.trim().is_empty() || text.chars().count() > MAX_VALUE) {
                return Err(Wrong::value(name, "must have 1 to 255 characters"));
            }
        }
        if let Some(status) = &self.status {
            let known = serde_json::from_value::<S>(serde_json::Value::String(status.clone()));
            known.map_err(|error| Wrong::value("status", &error.to_string()))?;
        }
        let mut query = ListQuery {
            status: self.status.clone(),
            channel: self.channel.clone(),
            entity: self.entity.as_ref().map(|text| text.strip_prefix("ext:").unwrap_or(text).to_owned()),
            external_id: self.external_id.as_ref().map(|text| text.strip_prefix("ext:").unwrap_or(text).to_owned()),
            created_after: self.created_after,
            created_before: self.created_before,
            ..ListQuery::default()
        };
        let project = match (&self.project, caller.key.project) {
            (Some(text), _) => Some(find_project(app, caller, text).await?.ok_or(Wrong::NoProject)?),
            (None, Some(own)) => Some(app.project(own).await?.ok_or(Wrong::NoProject)?),
            (None, None) => None,
        };
        query.project = project.as_ref().map(|project| project.id);
        if let Some(text) = &self.credential {
            let id = text.parse().map_err(|error: crate::model::IdError| Wrong::value("credential", &error.to_string()))?;
            query.credential = Some(id);
            if query.project.is_none() {
                // One that is deleted is not there any more, but its deliveries are.
                query.project = app.store.credential(id).await?.map(|credential| credential.project);
            }
        }
        if query.external_id.is_some() && query.project.is_none() {
            let detail = "is your own id within a project, so `project` must be there".to_owned();
            return Err(Wrong::Condition { name: "external_id", code: "project_required", detail });
        }
        self.about_people(&mut query, project.as_ref().map_or(REGION, |project| &project.default_region))?;
        Ok(query)
    }

    fn about_people(&self, query: &mut ListQuery, region: &str) -> Result<(), Wrong> {
        let region = normalise::region(region);
        if let Some(phone) = &self.phone {
            let keys = search::phone_keys(phone, region);
            if keys.is_empty() {
                return Err(Wrong::value("phone", "has no digits"));
            }
            query.contacts.push(keys);
        }
        if let Some(email) = &self.email {
            if !email.contains('@') {
                return Err(Wrong::value("email", "must be a whole address"));
            }
            query.contacts.push(vec![search::email_key(email)]);
        }
        let Some(q) = &self.q else { return Ok(()) };
        if search::is_phone(q) {
            query.contacts.push(search::phone_keys(q, region).into_iter().chain(search::number_key(q)).collect());
        } else if normalise::email(q).is_some() {
            query.contacts.push(vec![search::email_key(q)]);
        } else {
            query.words = search::asked_words(q);
            if query.words.is_empty() {
                return Err(Wrong::value("q", "has no word to look for"));
            }
        }
        Ok(())
    }
}

/// A page of a list.
pub fn found<R, T>(found: Found<R>, view: impl FnMut(R) -> T) -> List<T> {
    let next_cursor = found.next.map(|place| URL_SAFE_NO_PAD.encode(place.to_bytes()));
    List { data: found.items.into_iter().map(view).collect(), has_more: next_cursor.is_some(), next_cursor }
}

/// A page; the cursor is the last row's id.
pub fn page<R, T>(rows: Vec<R>, has_more: bool, id: impl Fn(&R) -> Uuid, view: impl FnMut(R) -> T) -> List<T> {
    let next_cursor = rows.last().filter(|_| has_more).map(|row| URL_SAFE_NO_PAD.encode(id(row).as_bytes()));
    List { data: rows.into_iter().map(view).collect(), next_cursor, has_more }
}
