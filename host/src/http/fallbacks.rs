//! Fallback rules of a project: "delivered there within this time, else here".

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::auth::Caller;
use super::error::ApiError;
use super::send::check_settings;
use crate::app::App;
use crate::model::{CredentialId, FallbackRule, FallbackTarget, ProjectId};
use crate::policy::FieldError;
use crate::policy::fanout::FIRST_PARTY;

const MAX_RULES: usize = 50;
const MAX_TARGETS: usize = 10;
/// 30 days.
const MAX_WITHIN_SEC: u32 = 2_592_000;

/// A lead that is not delivered in time goes elsewhere, once for each rule and delivery.
#[derive(Debug, Clone, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// 1 to 255 characters; it stands in the reason of each fallback.
    #[schema(min_length = 1, max_length = 255, pattern = r"\S")]
    pub name: String,
    /// Deliveries of this channel; this or `credential_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Deliveries to this credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, pattern = "^crd_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    pub credential_id: Option<CredentialId>,
    /// Seconds from when a delivery is first due, 1 to 2,592,000 (30 days).
    #[schema(minimum = 1, maximum = 2_592_000)]
    pub within_sec: u32,
    /// Where the lead goes then, 1 to 10.
    #[schema(min_items = 1, max_items = 10)]
    pub to: Vec<Target>,
}

/// A credential of the project.
#[derive(Debug, Clone, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Target {
    #[schema(value_type = String, pattern = "^crd_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    #[allow(missing_docs)]
    pub credential_id: CredentialId,
    /// Over the credential's config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub settings: Option<Map<String, Value>>,
}

impl From<&FallbackRule> for Rule {
    fn from(rule: &FallbackRule) -> Self {
        let target = |target: &FallbackTarget| Target {
            credential_id: target.credential,
            settings: target.settings.as_ref().and_then(Value::as_object).cloned(),
        };
        Self {
            name: rule.name.clone(),
            channel: rule.channel.clone(),
            credential_id: rule.credential,
            within_sec: rule.within_sec,
            to: rule.to.iter().map(target).collect(),
        }
    }
}

/// The rules as stored, or everything wrong with them.
pub async fn check(app: &App, caller: &Caller, project: ProjectId, rules: Vec<Rule>) -> Result<Vec<FallbackRule>, ApiError> {
    if rules.len() > MAX_RULES {
        return Err(ApiError::field("/fallbacks", "too_many", format!("at most {MAX_RULES} rules")));
    }
    let stored = app.store.credentials(project).await?;
    let (mut errors, mut checked) = (Vec::new(), Vec::new());
    for (index, mut rule) in rules.into_iter().enumerate() {
        let at = format!("/fallbacks/{index}");
        let mut wrong = |fine: bool, at: String, code, detail: String| {
            if !fine {
                errors.push(FieldError::new(at, code, detail));
            }
        };
        let unknown = |id: &CredentialId| format!("the project has no credential {id}");
        let of_project = |id: &CredentialId| stored.iter().any(|credential| credential.id == *id);
        let named = !rule.name.trim().is_empty() && rule.name.chars().count() <= 255;
        wrong(named, format!("{at}/name"), "invalid_length", "must have 1 to 255 characters".into());
        let within = (1..=MAX_WITHIN_SEC).contains(&rule.within_sec);
        wrong(within, format!("{at}/within_sec"), "invalid_value", "must be 1 to 2592000 (30 days)".into());
        let one = rule.channel.is_some() != rule.credential_id.is_some();
        wrong(one, at.clone(), "one_of", "exactly one of `channel` and `credential_id` must be there".into());
        if let Some(channel) = &rule.channel {
            let known = app.registry.installed(channel) || FIRST_PARTY.contains(&channel.as_str());
            wrong(known, format!("{at}/channel"), "unknown_integration", format!("there is no integration `{channel}`"));
        }
        if let Some(id) = &rule.credential_id {
            wrong(of_project(id), format!("{at}/credential_id"), "unknown_credential", unknown(id));
        }
        wrong((1..=MAX_TARGETS).contains(&rule.to.len()), format!("{at}/to"), "invalid_length", "must have 1 to 10 entries".into());
        let mut to = Vec::new();
        for (n, target) in std::mem::take(&mut rule.to).into_iter().enumerate() {
            let at = format!("{at}/to/{n}");
            let Some(credential) = stored.iter().find(|credential| credential.id == target.credential_id) else {
                errors.push(FieldError::new(format!("{at}/credential_id"), "unknown_credential", unknown(&target.credential_id)));
                continue;
            };
            let settings = target.settings.filter(|settings| !settings.is_empty());
            if settings.is_none() && rule.credential_id == Some(target.credential_id) {
                let detail = "is the credential that the rule waits for: the lead would go there twice";
                errors.push(FieldError::new(format!("{at}/credential_id"), "same_credential", detail));
                continue;
            }
            if let Some(settings) = &settings
                && let Err(error) = check_settings(app, caller, credential, settings, &format!("{at}/settings"))
            {
                errors.extend(error.errors);
            }
            let channel = credential.channel.clone();
            to.push(FallbackTarget { credential: credential.id, channel, settings: settings.map(Value::Object) });
        }
        let Rule { name, channel, credential_id: credential, within_sec, .. } = rule;
        checked.push(FallbackRule { name, channel, credential, within_sec, to });
    }
    if errors.is_empty() { Ok(checked) } else { Err(errors.into()) }
}
