//! Notification rules of a project: "when this happens, say so there".

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::auth::Caller;
use super::error::ApiError;
use super::send::check_settings;
use crate::app::App;
use crate::model::{CredentialId, NoticeKind, NotificationRule, ProjectId};
use crate::policy::FieldError;
use crate::template;

const MAX_RULES: usize = 50;
/// A day.
const MAX_QUIET_SEC: u32 = 86_400;
const DEFAULT_QUIET_SEC: u32 = 300;

/// Who hears of what. After a message, what happens within the quiet period is told in one more.
#[derive(Debug, Clone, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Notification {
    /// 1 to 255 characters, unique within the project.
    #[schema(min_length = 1, max_length = 255, pattern = r"\S")]
    pub name: String,
    /// At least one. Endings of batches are told for batches that are sent from then on.
    #[schema(min_items = 1)]
    pub on: Vec<NoticeKind>,
    /// A credential of the project, of any channel.
    #[schema(value_type = String, pattern = "^crd_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    pub credential_id: CredentialId,
    /// Over the credential's config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub settings: Option<Map<String, Value>>,
    /// The text, over `event.data` (`rule`, `total`, `counts`, `events`, `text`), `project`, `now`; the usual words without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Seconds, up to a day; 300 without.
    #[serde(default)]
    #[schema(maximum = 86_400)]
    pub quiet_sec: Option<u32>,
}

impl From<&NotificationRule> for Notification {
    fn from(rule: &NotificationRule) -> Self {
        Self {
            name: rule.name.clone(),
            on: rule.on.clone(),
            credential_id: rule.credential,
            settings: rule.settings.as_ref().and_then(Value::as_object).cloned(),
            template: rule.template.clone(),
            quiet_sec: Some(rule.quiet_sec),
        }
    }
}

/// The rules as stored, or everything wrong with them.
pub async fn check(app: &App, caller: &Caller, project: ProjectId, rules: Vec<Notification>) -> Result<Vec<NotificationRule>, ApiError> {
    if rules.len() > MAX_RULES {
        return Err(ApiError::field("/notifications", "too_many", format!("at most {MAX_RULES} rules")));
    }
    let stored = app.store.credentials(project).await?;
    let (mut errors, mut checked) = (Vec::new(), Vec::<NotificationRule>::new());
    for (index, rule) in rules.into_iter().enumerate() {
        let at = format!("/notifications/{index}");
        let quiet_sec = rule.quiet_sec.unwrap_or(DEFAULT_QUIET_SEC);
        let mut wrong = |fine: bool, field: &str, code, detail: &str| {
            if !fine {
                errors.push(FieldError::new(format!("{at}/{field}"), code, detail));
            }
        };
        let named = !rule.name.trim().is_empty() && rule.name.chars().count() <= 255;
        wrong(named, "name", "invalid_length", "must have 1 to 255 characters");
        wrong(!checked.iter().any(|other| other.name == rule.name), "name", "taken", "another rule has this name");
        wrong(!rule.on.is_empty(), "on", "invalid_length", "must name at least one kind");
        wrong(quiet_sec <= MAX_QUIET_SEC, "quiet_sec", "invalid_value", "must be at most 86400 (a day)");
        if let Some(Err(problem)) = rule.template.as_deref().map(template::check) {
            wrong(false, "template", "invalid_template", &problem);
        }
        let settings = rule.settings.filter(|settings| !settings.is_empty());
        let Some(credential) = stored.iter().find(|credential| credential.id == rule.credential_id) else {
            wrong(false, "credential_id", "unknown_credential", &format!("the project has no credential {}", rule.credential_id));
            continue;
        };
        if let Some(settings) = &settings
            && let Err(error) = check_settings(app, caller, credential, settings, &format!("{at}/settings"))
        {
            errors.extend(error.errors);
        }
        checked.push(NotificationRule {
            name: rule.name,
            on: rule.on,
            credential: credential.id,
            channel: credential.channel.clone(),
            settings: settings.map(Value::Object),
            template: rule.template,
            quiet_sec,
        });
    }
    if errors.is_empty() { Ok(checked) } else { Err(errors.into()) }
}
