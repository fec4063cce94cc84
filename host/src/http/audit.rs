//! The audit log, read.

use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::answer::Answer;
use super::auth::{Caller, find_project};
use super::error::ApiError;
use super::input::Params;
use super::list;
use super::views::List;
use crate::app::App;
use crate::model::{AuditAction, AuditChange, AuditLine, Scope, Timestamp};
use crate::policy::FieldError;
use crate::store::AuditQuery;

/// Longest id of an object, in characters: a channel with its version.
const MAX_OBJECT: usize = 255;

/// Which lines: every condition that is there must hold.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// Only of this project: its id, or `ext:` and your own id of it.
    #[param(min_length = 1)]
    pub project: Option<String>,
    /// Only what was done with this key (`key_…`).
    #[param(pattern = "^key_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    pub key: Option<String>,
    /// Only this act, such as `credential.update`.
    pub action: Option<AuditAction>,
    /// Only what was done to this: the id of a project, credential, key, task, batch or delivery, or a channel's `name@version`.
    #[param(min_length = 1, max_length = 255)]
    pub object: Option<String>,
    /// Only done at this time or after it.
    #[param(value_type = Option<String>, format = DateTime)]
    pub created_after: Option<Timestamp>,
    /// Only done before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    pub created_before: Option<Timestamp>,
    /// Lines of a page at most, 1 to 200; 50 without. A page may have fewer, even none, and still not be the last.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before, with the same conditions.
    #[param(min_length = 1)]
    pub cursor: Option<String>,
}

/// One act.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct AuditView {
    /// `aud_…`
    pub id: String,
    #[schema(value_type = String, format = DateTime)]
    #[allow(missing_docs)]
    pub at: Timestamp,
    /// `prj_…`; absent for the platform's own.
    pub project: Option<String>,
    #[allow(missing_docs)]
    pub actor: ActorView,
    #[allow(missing_docs)]
    pub action: AuditAction,
    #[allow(missing_docs)]
    pub object: ObjectView,
    /// The fields that it changed; secrets as `set`, long values cut.
    pub changes: Vec<AuditChange>,
    /// `X-Request-Id` of the request; absent for what the host did by itself.
    pub request_id: Option<String>,
    /// The node that did it.
    pub node: String,
}

/// Who did it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ActorView {
    /// `key_…`; absent: the host itself, or its command line.
    pub key: Option<String>,
    /// The key's name at that time.
    pub name: String,
    /// Address that the request came from: the client's, or that of the proxy before the host.
    pub address: Option<String>,
}

/// What it was done to.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ObjectView {
    /// `project`, `credential`, `key`, `channel`, `task`, `batch` or `delivery`.
    #[schema(value_type = String)]
    pub kind: &'static str,
    #[allow(missing_docs)]
    pub id: String,
}

impl From<AuditLine> for AuditView {
    fn from(line: AuditLine) -> Self {
        Self {
            id: line.id.to_string(),
            at: line.at,
            project: line.project.map(|id| id.to_string()),
            actor: ActorView { key: line.actor.map(|id| id.to_string()), name: line.actor_name, address: line.peer },
            action: line.action,
            object: ObjectView { kind: line.action.object(), id: line.object },
            changes: line.changes,
            request_id: Some(line.request_id).filter(|id| !id.is_empty()),
            node: line.node,
        }
    }
}

/// Read the audit log, newest first
///
/// Every administrative act, written in the same transaction as what it did. A key of a project sees its project's.
#[utoipa::path(get, path = "/api/audit", tag = "Administration", params(Which), responses((status = 200, body = List<AuditView>)))]
pub async fn list(State(app): State<App>, caller: Caller, Params(which): Params<Which>) -> Result<Answer, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    let project = match (&which.project, caller.key.project) {
        (Some(text), _) => Some(find_project(&app, &caller, text).await?.ok_or_else(unknown_project)?.id),
        (None, own) => own,
    };
    let actor = which.key.as_deref().map(str::parse).transpose();
    let actor = actor.map_err(|error: crate::model::IdError| list::invalid("key", &error.to_string()))?;
    if which.object.as_ref().is_some_and(|id| id.is_empty() || id.chars().count() > MAX_OBJECT) {
        return Err(list::invalid("object", "must have 1 to 255 characters"));
    }
    let query = AuditQuery {
        project,
        actor,
        action: which.action,
        object: which.object,
        after: which.created_after,
        before: which.created_before,
        below: which.cursor.as_deref().map(list::place_of).transpose()?,
        limit: list::limit(which.limit)?,
    };
    Answer::ok(&list::found(app.store.audit_lines(&query).await?, AuditView::from))
}

fn unknown_project() -> ApiError {
    let errors = vec![FieldError::new("/project", "unknown_project", "there is no such project")];
    ApiError { errors, ..ApiError::not_found("project") }
}
