//! A credential made ready for calls: its plugin, settings, limits and rules, read once and kept until something changes.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Deps;
use crate::egress::Grant;
use crate::mail::Account;
use crate::model::{CallbackSecrets, Credential, CredentialId, CredentialState, Project, Purpose, SealedSecret, StateReason};
use crate::plugin::bindings::wit;
use crate::plugin::call::{CallEnv, Effects};
use crate::plugin::manifest::Manifest;
use crate::plugin::registry::Plugin;
use crate::plugin::schema::with_defaults;
use crate::policy::outcome::Refusal;
use crate::policy::retry::{OnDoubt, RetryPolicy};
use crate::secrets::{SecretSet, Vault, callback_secret_aad, secret_aad};
use crate::store::StoreError;
use crate::template::Filter;

/// A credential that may deliver.
pub(super) struct Ready {
    pub(super) credential: Credential,
    pub(super) project: Project,
    pub(super) plugin: Arc<Plugin>,
    /// With the schema's defaults.
    pub(super) config: serde_json::Map<String, serde_json::Value>,
    pub(super) config_text: String,
    pub(super) policy: RetryPolicy,
    pub(super) on_doubt: OnDoubt,
    pub(super) rates: Vec<RateLimit>,
    pub(super) filter: Option<Filter>,
    /// What the calls that run now work with.
    shared: Mutex<Shared>,
}

/// The rights of a credential as long as some call of it runs: a busy lane need not open its secrets for each call, and
/// they are gone when its last call is.
#[derive(Default)]
struct Shared {
    secrets: Weak<SecretSet>,
    grant: Weak<Grant>,
    account: Option<Weak<Account>>,
}

/// The secrets of a credential, opened, and what is made of them and its settings.
struct Rights {
    secrets: Arc<SecretSet>,
    grant: Arc<Grant>,
    account: Option<Arc<Account>>,
}

impl Shared {
    fn of(rights: &Rights) -> Self {
        let Rights { secrets, grant, account } = rights;
        Self { secrets: Arc::downgrade(secrets), grant: Arc::downgrade(grant), account: account.as_ref().map(Arc::downgrade) }
    }

    /// `None`: no call runs.
    fn rights(&self) -> Option<Rights> {
        let account = match &self.account {
            Some(account) => Some(account.upgrade()?),
            None => None,
        };
        Some(Rights { secrets: self.secrets.upgrade()?, grant: self.grant.upgrade()?, account })
    }
}

/// One bucket the lane takes its tokens from.
pub(super) struct RateLimit {
    pub(super) key: String,
    pub(super) per_second: f64,
    pub(super) burst: u32,
}

/// Why a lane does not deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parked {
    pub(super) state: CredentialState,
    pub(super) reason: StateReason,
    /// It is not in the store: show it from here.
    pub(super) passing: bool,
}

/// What was found of a credential.
pub(super) enum Prepared {
    Ready(Box<Ready>),
    Parked { parked: CredentialState, state: StateReason, passing: bool },
    Gone,
}

fn parked(parked: CredentialState, code: &str, message: impl Into<String>, passing: bool) -> Prepared {
    Prepared::Parked { parked, state: StateReason { code: code.into(), message: message.into() }, passing }
}

/// Reads a credential and everything its calls need.
pub(super) async fn prepare(deps: &Deps, id: CredentialId) -> Result<Prepared, StoreError> {
    let Some(credential) = deps.store.credential(id).await? else { return Ok(Prepared::Gone) };
    let Some(project) = deps.store.project(credential.project).await? else { return Ok(Prepared::Gone) };
    let Some(plugin) = deps.registry.get(&credential.channel) else {
        let message = format!("no plugin for the channel {} is installed; what is queued waits for it", credential.channel);
        return Ok(parked(CredentialState::PluginMissing, "plugin_missing", message, true));
    };
    let config = match plugin.check_config(&credential.config) {
        Ok(config) => config,
        Err(problems) => {
            let list: Vec<String> = problems.iter().map(|p| format!("{}: {}", p.pointer, p.detail)).collect();
            let message = format!("the settings do not fit {}: {}", plugin.label, list.join("; "));
            return Ok(parked(CredentialState::Invalid, "config_invalid", message, true));
        }
    };
    match rules(deps, &credential, &project, &plugin, &config) {
        Ok((policy, on_doubt, rates, filter)) => {
            let config_text = serde_json::to_string(&config).unwrap_or_default();
            let shared = Mutex::default();
            let ready = Ready { credential, project, plugin, config, config_text, policy, on_doubt, rates, filter, shared };
            Ok(Prepared::Ready(Box::new(ready)))
        }
        Err(message) => Ok(parked(CredentialState::Invalid, "config_invalid", message, true)),
    }
}

type Rules = (RetryPolicy, OnDoubt, Vec<RateLimit>, Option<Filter>);

/// The credential's rules, rendered from the manifest's templates and its own overrides.
fn rules(
    deps: &Deps,
    credential: &Credential,
    project: &Project,
    plugin: &Plugin,
    config: &serde_json::Map<String, serde_json::Value>,
) -> Result<Rules, String> {
    let manifest = &plugin.manifest;
    let secrets = Arc::new(open_secrets(deps, credential, project)?);
    // What every call will need: if it cannot be made, the settings are at fault and no lead.
    Grant::new(manifest, config, secrets.clone()).map_err(|e| e.to_string())?;
    if let Some(mail) = &manifest.mail {
        super::convert::account(mail, config, &secrets)?;
    }
    let render = |template: &str| {
        crate::plugin::template_ref::render(template, config, &secrets, &|secret| deps.vault.fingerprint(secret))
            .map(|text| text.to_string())
            .map_err(|e| e.to_string())
    };
    let policy = match credential.retry.as_ref().or(manifest.retry.as_ref()) {
        Some(rules) => RetryPolicy::parse(rules)?,
        None => RetryPolicy::default(),
    };
    let on_doubt = match manifest.on_doubt.as_deref().map(render).transpose()?.as_deref() {
        Some("hold") => OnDoubt::Hold,
        Some("resend") => OnDoubt::Resend,
        _ => OnDoubt::Look,
    };
    let default_key = match &manifest.quota_key {
        Some(key) => render(key)?,
        None => credential.id.to_string(),
    };
    let mut rates = Vec::new();
    for rate in &manifest.limits.rate {
        if let Some(when) = &rate.when {
            // The pattern was compiled when the manifest was checked.
            let holds = regex::Regex::new(&when.pattern).map_err(|e| e.to_string())?.is_match(&render(&when.value)?);
            if !holds {
                continue;
            }
        }
        let key = rate.key.as_deref().map(render).transpose()?.unwrap_or_else(|| default_key.clone());
        // The rate is part of the bucket's name: two rates under one key are two buckets.
        rates.push(RateLimit { key: format!("{key}|{}/{}", rate.per_second, rate.burst), per_second: rate.per_second, burst: rate.burst });
    }
    let filter = credential.filter.as_deref().map(Filter::new).transpose().map_err(|e| format!("filter: {e}"))?;
    Ok((policy, on_doubt, rates, filter))
}

/// Whether a credential's settings can work at all, before it is stored: what every call needs is made of them. The error is
/// for the admin who enters them.
pub(crate) fn check_settings(vault: &Vault, manifest: &Manifest, credential: &Credential) -> Result<(), String> {
    let config = with_defaults(&manifest.config.schema, &credential.config);
    let mut secrets = SecretSet::new();
    for (name, sealed) in &credential.secrets {
        // One that cannot be opened was stored under another key; that is said where it is used.
        if let Ok(text) = vault.open_text(&sealed.key_id, secret_aad(credential.id, name).as_bytes(), &sealed.sealed) {
            secrets.insert(name.clone(), text);
        }
    }
    let secrets = Arc::new(secrets);
    Grant::new(manifest, &config, secrets.clone()).map_err(|e| e.to_string())?;
    manifest.mail.as_ref().map_or(Ok(()), |mail| super::convert::account(mail, &config, &secrets).map(drop))
}

/// Decrypts all secrets of a credential, and for a callback those of the project; they are zeroed when the set is dropped.
fn open_secrets(deps: &Deps, credential: &Credential, project: &Project) -> Result<SecretSet, String> {
    let mut secrets = SecretSet::new();
    let mut open = |name: &str, sealed: &SealedSecret, aad: &str| {
        let text = deps.vault.open_text(&sealed.key_id, aad.as_bytes(), &sealed.sealed).map_err(|e| {
            format!("the secret `{name}` cannot be opened: {e}; enter it again, or start with the master key it was stored under")
        })?;
        secrets.insert(name.to_owned(), text);
        Ok::<_, String>(())
    };
    for (name, sealed) in &credential.secrets {
        open(name, sealed, &secret_aad(credential.id, name))?;
    }
    if let Purpose::Callback { .. } = credential.purpose {
        let CallbackSecrets { current, previous } = &project.callback_secrets;
        let now = deps.clock.now();
        let previous = previous.as_ref().filter(|(_, until)| *until > now).map(|(sealed, _)| sealed);
        // The names under which the webhook channel signs.
        for (name, sealed) in [("signing_secret", current.as_ref()), ("signing_secret_previous", previous)] {
            if let Some(sealed) = sealed {
                open(name, sealed, &callback_secret_aad(project.id))?;
            }
        }
    }
    Ok(secrets)
}

impl Ready {
    /// Why the stored credential does not let its lane deliver, if it does not.
    pub(super) fn stored_parking(&self) -> Option<Parked> {
        let credential = &self.credential;
        if !credential.enabled {
            let reason = StateReason { code: "disabled".into(), message: "an admin switched it off; what is queued waits".into() };
            return Some(Parked { state: CredentialState::Paused, reason, passing: false });
        }
        (credential.state != CredentialState::Active).then(|| {
            let unsaid = || StateReason { code: "parked".into(), message: String::new() };
            Parked { state: credential.state, reason: credential.state_reason.clone().unwrap_or_else(unsaid), passing: false }
        })
    }

    /// Calls at once.
    pub(super) fn concurrency(&self) -> u32 {
        self.plugin.manifest.limits.concurrency
    }

    /// Items of one call.
    pub(super) fn batch(&self) -> u32 {
        self.plugin.manifest.limits.batch
    }

    /// What one call works with: secrets opened for it and those that run beside it.
    pub(super) fn env(
        &self,
        deps: &Deps,
        effects: Arc<dyn Effects>,
        correlation: String,
        settings: Option<&serde_json::Value>,
        dry_run: bool,
    ) -> Result<Arc<CallEnv>, Refusal> {
        let invalid = |message: String| Refusal::new("config_invalid", message);
        let manifest = self.plugin.manifest.clone();
        let with_settings = settings.map(|settings| self.with_settings(settings)).transpose().map_err(invalid)?;
        let (Rights { secrets, grant, account }, config_text) = match with_settings {
            Some((config, text)) => (self.rights(deps, &config).map_err(invalid)?, text),
            None => (self.shared_rights(deps).map_err(invalid)?, self.config_text.clone()),
        };
        let context = wit::types::Context {
            project: self.project.id.to_string(),
            entity: self.credential.entity.clone(),
            credential: self.credential.id.to_string(),
            correlation,
            config: config_text,
            locale: self.project.locale.clone(),
            time_zone: self.project.time_zone.clone(),
            budget_ms: manifest.limits.timeout_ms,
            dry_run,
        };
        Ok(Arc::new(CallEnv {
            plugin: self.plugin.label.clone(),
            context,
            grant,
            secrets,
            egress: deps.egress.clone(),
            mailer: deps.mailer.clone(),
            account,
            manifest,
            clock: deps.clock.clone(),
            effects,
        }))
    }

    /// Those of the calls that run now, unless one of their secrets ends by itself: a lane may be busy for longer than that.
    fn shared_rights(&self, deps: &Deps) -> Result<Rights, String> {
        if self.credential.purpose != Purpose::Standing && self.project.callback_secrets.previous.is_some() {
            return self.rights(deps, &self.config);
        }
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rights) = shared.rights() {
            return Ok(rights);
        }
        let rights = self.rights(deps, &self.config)?;
        *shared = Shared::of(&rights);
        Ok(rights)
    }

    fn rights(&self, deps: &Deps, config: &serde_json::Map<String, serde_json::Value>) -> Result<Rights, String> {
        let manifest = &self.plugin.manifest;
        let secrets = Arc::new(open_secrets(deps, &self.credential, &self.project)?);
        let grant = Grant::new(manifest, config, secrets.clone()).map_err(|e| e.to_string())?;
        let account = manifest.mail.as_ref().map(|mail| super::convert::account(mail, config, &secrets)).transpose()?;
        Ok(Rights { secrets, grant: Arc::new(grant), account: account.map(Arc::new) })
    }

    /// The config with the settings of one send over it.
    fn with_settings(&self, settings: &serde_json::Value) -> Result<(serde_json::Map<String, serde_json::Value>, String), String> {
        let mut config = self.credential.config.clone();
        if let serde_json::Value::Object(settings) = settings {
            config.extend(settings.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        let config = self.plugin.check_config(&config).map_err(|problems| {
            let list: Vec<String> = problems.iter().map(|p| format!("{}: {}", p.pointer, p.detail)).collect();
            format!("the settings of this send do not fit {}: {}", self.plugin.label, list.join("; "))
        })?;
        let text = serde_json::to_string(&config).unwrap_or_default();
        Ok((config, text))
    }
}
