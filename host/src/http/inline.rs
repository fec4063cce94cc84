//! Credentials that are given with a send call: for its batch alone, sealed like all others, erased when that ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::credentials::{SecretInputs, seal_secrets};
use super::error::ApiError;
use crate::app::App;
use crate::model::{Credential, CredentialId, CredentialState, ProjectId, Purpose};
use crate::policy::fanout::{FIRST_PARTY, Wanted};
use crate::policy::{FieldError, Warning, pointer_step};

/// Most of one call.
const MAX_INLINE: usize = 20;

/// Settings and secrets for this send only.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InlineCredential {
    /// Valid against the schema in the plugin's manifest.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub config: Option<Map<String, Value>>,
    /// Name → text.
    #[serde(default)]
    #[schema(value_type = Option<BTreeMap<String, Option<String>>>, write_only)]
    pub secrets: Option<SecretInputs>,
}

/// By channel.
pub type InlineCredentials = BTreeMap<String, InlineCredential>;

/// The credentials to be stored with the batch, or everything wrong with them. A channel without a plugin is left out with
/// a warning: nobody could say whether its settings are right.
pub fn check(
    app: &App,
    project: ProjectId,
    wanted: &Wanted,
    asked: InlineCredentials,
) -> Result<(Vec<Arc<Credential>>, Vec<Warning>), ApiError> {
    if asked.len() > MAX_INLINE {
        return Err(ApiError::field("/credentials", "too_many", format!("at most {MAX_INLINE} credentials")));
    }
    let (mut made, mut warnings, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (channel, asked) in asked {
        let at = format!("/credentials/{}", pointer_step(&channel));
        let used = match wanted {
            Wanted::Auto => true,
            Wanted::Named(list) => list.iter().any(|entry| entry.channel == channel && entry.credential.is_none()),
        };
        if !used {
            errors.push(FieldError::new(at, "unused", "`integrations` does not name this channel without a credential of its own"));
            continue;
        }
        let Some(manifest) = app.registry.manifest(&channel) else {
            if FIRST_PARTY.contains(&channel.as_str()) {
                warnings.push(Warning { code: "channel_not_installed", channel: Some(channel), pointer: Some(at) });
            } else {
                errors.push(FieldError::new(at, "unknown_integration", format!("there is no integration `{channel}`")));
            }
            continue;
        };
        let mut credential = blank(app, project, channel, asked.config.unwrap_or_default());
        let problems = app.registry.check_config(&credential.channel, &credential.config).unwrap_or_default();
        errors
            .extend(problems.into_iter().map(|problem| FieldError::new(format!("{at}{}", problem.pointer), problem.code, problem.detail)));
        seal_secrets(app, &manifest, &mut credential, asked.secrets.unwrap_or_default(), &at, &mut errors)?;
        made.push(Arc::new(credential));
    }
    if errors.is_empty() { Ok((made, warnings)) } else { Err(errors.into()) }
}

fn blank(app: &App, project: ProjectId, channel: String, config: Map<String, Value>) -> Credential {
    let now = app.now();
    Credential {
        id: CredentialId::new(now),
        project,
        purpose: Purpose::Send,
        entity: None,
        name: channel.clone(),
        channel,
        enabled: true,
        config,
        secrets: BTreeMap::new(),
        mapping: Map::new(),
        filter: None,
        retry: None,
        state: CredentialState::Active,
        state_reason: None,
        state_since: now,
        version: 1,
        created_at: now,
        updated_at: now,
    }
}
