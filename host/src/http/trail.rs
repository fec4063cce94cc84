//! What administrative acts leave in the audit log: who did it, and which fields it changed. Secrets are told as "set".

use serde_json::{Value, json};

use super::api_keys::KeyView;
use super::auth::Caller;
use super::projects::ProjectView;
use crate::app::App;
use crate::model::{ApiKey, AuditAction, AuditChange, AuditId, AuditLine, Credential, Erasure, Project, ProjectId, Task};
use crate::policy::audit::changes;
use crate::policy::pointer_step;

impl Caller {
    /// The line for what this request does. `project`: where it is done; `None` for the platform's own.
    pub fn line(
        &self,
        app: &App,
        action: AuditAction,
        project: Option<ProjectId>,
        object: impl ToString,
        changes: Vec<AuditChange>,
    ) -> AuditLine {
        let at = app.now();
        AuditLine {
            id: AuditId::new(at),
            at,
            project,
            actor: Some(self.key.id),
            actor_name: self.key.name.clone(),
            peer: self.peer.map(|peer| peer.to_string()),
            node: app.config.node.clone(),
            request_id: self.request_id.clone(),
            action,
            object: object.to_string(),
            changes,
        }
    }
}

fn told(view: Option<impl serde::Serialize>) -> Value {
    view.and_then(|view| serde_json::to_value(view).ok()).unwrap_or_default()
}

/// What differs between two states of a project.
pub fn project(before: Option<&Project>, after: Option<&Project>) -> Vec<AuditChange> {
    let view = |project: Option<&Project>| told(project.cloned().map(ProjectView::from));
    changes(&view(before), &view(after))
}

/// What differs between two states of a key.
pub fn key(before: Option<&ApiKey>, after: Option<&ApiKey>) -> Vec<AuditChange> {
    let view = |key: Option<&ApiKey>| told(key.cloned().map(KeyView::from));
    changes(&view(before), &view(after))
}

/// What differs between two states of a credential.
pub fn credential(before: Option<&Credential>, after: Option<&Credential>) -> Vec<AuditChange> {
    let mut found = changes(&before.map_or(Value::Null, settings), &after.map_or(Value::Null, settings));
    for (name, sealed) in after.into_iter().flat_map(|after| &after.secrets) {
        let known = before.and_then(|before| before.secrets.get(name));
        if known.is_some_and(|known| known.sealed != sealed.sealed) {
            let field = format!("/secrets/{}", pointer_step(name));
            found.push(AuditChange { field, before: Some("set".into()), after: Some("set anew".into()) });
        }
    }
    found
}

fn settings(credential: &Credential) -> Value {
    let secrets: serde_json::Map<String, Value> = credential.secrets.keys().map(|name| (name.clone(), "set".into())).collect();
    json!({
        "channel": credential.channel,
        "name": credential.name,
        "entity": credential.entity,
        "enabled": credential.enabled,
        "config": credential.config,
        "secrets": secrets,
        "mapping": credential.mapping,
        "filter": credential.filter,
        "retry": credential.retry,
        "state": credential.state,
        "state_reason": credential.state_reason,
    })
}

/// What an erasure is about, without the person.
pub fn erasure(erasure: &Erasure) -> Vec<AuditChange> {
    changes(&Value::Null, &json!({"by": erasure.kind, "fingerprint": erasure.fingerprint}))
}

/// What an action on many rows was asked. Whom it is about is told to nobody here: people are looked for by their contacts.
pub fn task(task: &Task, filter: &Value) -> Vec<AuditChange> {
    let mut filter = filter.clone();
    for (name, value) in filter.as_object_mut().into_iter().flatten() {
        if ["phone", "email", "q", "external_id"].contains(&name.as_str()) {
            *value = "***".into();
        }
    }
    let rows = task.progress.total;
    changes(&Value::Null, &json!({"task": task.id, "kind": task.kind, "filter": filter, "rows": rows, "rate_per_sec": task.rate}))
}
