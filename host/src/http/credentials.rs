//! Credentials: an admin's settings and secrets for one channel. Secrets go in and never come out.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::answer::{Answer, Once, acted, made, once};
use super::auth::{Caller, find_project, project_of_body};
pub use super::credential_rules::addresses;
use super::credential_rules::{MappingRule, filter, mapping, retry};
use super::error::ApiError;
use super::input::{Input, Params};
use super::leads::InProject;
use super::trail;
use super::views::List;
use crate::app::App;
use crate::lane::{CheckAnswer, check_settings};
use crate::model::{
    AuditAction, Credential, CredentialId, CredentialState, Project, Purpose, RetryOverride, Scope, SealedSecret, StateReason, Timestamp,
};
use crate::plugin::manifest::Manifest;
use crate::policy::fanout::FIRST_PARTY;
use crate::policy::intake::own_id;
use crate::policy::{FieldError, pointer_step};
use crate::secrets::{SecretText, check_secret};
use crate::store::Act;

/// A secret on its way in.
pub struct SecretInput(SecretText);

impl<'de> Deserialize<'de> for SecretInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(SecretText::new(text)))
    }
}

/// Secrets by name; null removes one.
pub type SecretInputs = BTreeMap<String, Option<SecretInput>>;

/// Tells an absent field (`None`) from one that is null (`Some(None)`).
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

/// A credential as an admin writes it.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"channel": "webhook", "name": "My CRM", "config": {"url": "https://crm.example/leads"}, "secrets": {"signing_secret": "whsec_bGVhZHdpcmUtcmVhZG1lLXNpZ25pbmctc2VjcmV0"}}))]
pub struct CredentialBody {
    /// Which plugin; cannot be changed later.
    pub channel: String,
    /// 1 to 255 characters; the channel's name without one.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255, pattern = r"\S")]
    pub name: Option<String>,
    /// Where the path names none; cannot be changed later.
    #[serde(default)]
    pub project: Option<String>,
    /// Only for this unit of the project; absent: for the whole project.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255, pattern = r"\S")]
    pub entity: Option<String>,
    /// Auto mode leaves disabled ones out; what is queued waits.
    #[serde(default)]
    pub enabled: Option<bool>,
    /// Valid against the schema in the plugin's manifest.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub config: Option<Map<String, Value>>,
    /// Name → text. In a later write: absent ones stay, null removes.
    #[serde(default)]
    #[schema(value_type = Option<BTreeMap<String, Option<String>>>, write_only)]
    pub secrets: Option<SecretInputs>,
    /// Remote field → template, `{"const": …}` or `{"from": …, "map": {…}, "default": …}`.
    #[serde(default)]
    #[schema(value_type = Option<BTreeMap<String, MappingRule>>)]
    pub mapping: Option<Map<String, Value>>,
    /// CEL expression over the lead.
    #[serde(default)]
    pub filter: Option<String>,
    #[serde(default)]
    #[allow(missing_docs)]
    pub retry: Option<RetryOverride>,
}

/// Changes of a credential; what is absent stays. `config` and `secrets` are merged by name, null removes.
#[derive(Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
#[schema(example = json!({"name": "My CRM", "config": {"url": "https://crm.example/new"}}))]
pub struct CredentialChanges {
    #[schema(min_length = 1, max_length = 255, pattern = r"\S")]
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255, pattern = r"\S")]
    pub entity: Option<Option<String>>,
    #[serde(default)]
    pub enabled: Option<bool>,
    #[schema(value_type = Option<Object>)]
    #[serde(default)]
    pub config: Option<Map<String, Value>>,
    #[schema(value_type = Option<BTreeMap<String, Option<String>>>, write_only)]
    #[serde(default)]
    pub secrets: Option<SecretInputs>,
    /// Replaces the whole mapping.
    #[schema(value_type = Option<BTreeMap<String, MappingRule>>)]
    #[serde(default)]
    pub mapping: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub filter: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<RetryOverride>)]
    pub retry: Option<Option<RetryOverride>>,
}

/// All that is ever shown of a secret.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SecretView {
    #[allow(missing_docs)]
    pub set: bool,
    #[schema(value_type = Option<String>, format = DateTime)]
    #[allow(missing_docs)]
    pub updated_at: Option<Timestamp>,
}

/// A credential.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(missing_docs)]
pub struct CredentialView {
    /// `crd_…`
    pub id: String,
    pub channel: String,
    pub name: String,
    pub project: String,
    pub entity: Option<String>,
    pub enabled: bool,
    #[schema(value_type = Object)]
    pub config: Map<String, Value>,
    pub secrets: BTreeMap<String, SecretView>,
    #[schema(value_type = Object)]
    pub mapping: Map<String, Value>,
    pub filter: Option<String>,
    pub retry: Option<RetryOverride>,
    /// The host's word on it; anything but `active` lets its deliveries wait.
    pub state: CredentialState,
    pub state_reason: Option<StateReason>,
    #[schema(value_type = String, format = DateTime)]
    pub state_since: Timestamp,
    pub version: i64,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// What a connection test said.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct CheckView {
    #[allow(missing_docs)]
    pub ok: bool,
    /// About the account, when it works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<Vec<InfoView>>,
    /// Machine-readable, when it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// For the admin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A name and a value.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(missing_docs)]
pub struct InfoView {
    pub name: String,
    pub value: String,
}

fn view(app: &App, credential: Credential) -> CredentialView {
    let manifest = app.registry.manifest(&credential.channel);
    let mut secrets: BTreeMap<String, SecretView> = BTreeMap::new();
    for field in manifest.iter().flat_map(|manifest| &manifest.secrets) {
        secrets.insert(field.name.clone(), SecretView { set: false, updated_at: None });
    }
    for (name, sealed) in credential.secrets {
        secrets.insert(name, SecretView { set: true, updated_at: Some(sealed.updated_at) });
    }
    // What an admin or the remote side decided stands over the lane's passing state.
    let stored = (credential.state, credential.state_reason, credential.state_since);
    let (state, state_reason, state_since) = match (app.lanes.state(credential.id), &stored.0) {
        (Some(lane), CredentialState::Active) => (lane.state, lane.reason, lane.since),
        // A lane without work has not noticed.
        (None, CredentialState::Active) if manifest.is_none() => {
            let message = format!("no plugin for the channel {} is installed; what is queued waits for it", credential.channel);
            (CredentialState::PluginMissing, Some(StateReason { code: "plugin_missing".into(), message }), stored.2)
        }
        _ => stored,
    };
    CredentialView {
        id: credential.id.to_string(),
        channel: credential.channel,
        name: credential.name,
        project: credential.project.to_string(),
        entity: credential.entity,
        enabled: credential.enabled,
        config: credential.config,
        secrets,
        mapping: credential.mapping,
        filter: credential.filter,
        retry: credential.retry,
        state,
        state_reason,
        state_since,
        version: credential.version,
        created_at: credential.created_at,
        updated_at: credential.updated_at,
    }
}

/// The credential, if the caller may administer it.
pub(super) async fn find(app: &App, caller: &Caller, id: &str) -> Result<Credential, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    let missing = || ApiError::not_found("credential");
    let id: CredentialId = id.parse().map_err(|_| missing())?;
    let credential = app.store.credential(id).await?.ok_or_else(missing)?;
    caller.check(credential.project, "credential")?;
    // What was given for one send is nobody's to look at.
    if credential.purpose == Purpose::Send { Err(missing()) } else { Ok(credential) }
}

/// The credential, if it is an admin's to change.
async fn find_own(app: &App, caller: &Caller, id: &str) -> Result<Credential, ApiError> {
    let credential = find(app, caller, id).await?;
    if credential.purpose == Purpose::Standing {
        return Ok(credential);
    }
    Err(ApiError::conflict("managed", "the host made this credential for callbacks; it can be looked at, paused and resumed"))
}

/// The plugin's manifest, or why there is none.
fn manifest_of(app: &App, channel: &str) -> Result<std::sync::Arc<Manifest>, ApiError> {
    app.registry.manifest(channel).ok_or_else(|| {
        if FIRST_PARTY.contains(&channel) {
            ApiError::field("/channel", "channel_not_installed", format!("no plugin for `{channel}` is installed"))
        } else {
            ApiError::field("/channel", "unknown_integration", format!("there is no integration `{channel}`"))
        }
    })
}

/// Checks everything, and seals the new secrets into the credential.
fn settle(app: &App, manifest: Option<&Manifest>, credential: &mut Credential, secrets: SecretInputs) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    if credential.name.trim().is_empty() || credential.name.chars().count() > 255 {
        errors.push(FieldError::new("/name", "invalid_length", "must have 1 to 255 characters"));
    }
    if credential.entity.as_ref().is_some_and(|entity| entity.trim().is_empty() || entity.chars().count() > 255) {
        errors.push(FieldError::new("/entity", "invalid_length", "must have 1 to 255 characters"));
    }
    errors.extend(mapping(&credential.mapping));
    errors.extend(filter(credential.filter.as_deref()));
    errors.extend(retry(credential.retry.as_ref()));
    if let Some(manifest) = manifest {
        let problems = app.registry.check_config(&credential.channel, &credential.config).unwrap_or_default();
        errors.extend(problems.into_iter().map(FieldError::from));
        seal_secrets(app, manifest, credential, secrets, "", &mut errors)?;
        if errors.is_empty()
            && let Err(problem) = check_settings(&app.vault, manifest, credential)
        {
            errors.push(FieldError::new("/config", "invalid_config", problem));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors.into()) }
}

/// Checks the secrets and seals them into the credential. `at` is the JSON pointer of the credential.
pub fn seal_secrets(
    app: &App,
    manifest: &Manifest,
    credential: &mut Credential,
    secrets: SecretInputs,
    at: &str,
    errors: &mut Vec<FieldError>,
) -> Result<(), ApiError> {
    for (name, text) in secrets {
        match text {
            Some(SecretInput(text)) => put_secret(app, manifest, credential, name, &text, (at, errors))?,
            None => {
                credential.secrets.remove(&name);
            }
        }
    }
    let filled = &credential.secrets;
    for field in manifest.secrets.iter().filter(|field| field.required && !filled.contains_key(&field.name)) {
        let at = format!("{at}/secrets/{}", pointer_step(&field.name));
        if !errors.iter().any(|error| error.pointer == at) {
            errors.push(FieldError::new(at, "required", "the plugin cannot work without it"));
        }
    }
    Ok(())
}

fn put_secret(
    app: &App,
    manifest: &Manifest,
    credential: &mut Credential,
    name: String,
    text: &SecretText,
    (at, errors): (&str, &mut Vec<FieldError>),
) -> Result<(), ApiError> {
    let at = format!("{at}/secrets/{}", pointer_step(&name));
    let Some(field) = manifest.secrets.iter().find(|field| field.name == name) else {
        let known: Vec<&str> = manifest.secrets.iter().map(|field| field.name.as_str()).collect();
        let detail = format!("the plugin has no such secret; it has: {}", if known.is_empty() { "none".into() } else { known.join(", ") });
        errors.push(FieldError::new(at, "unknown_secret", detail));
        return Ok(());
    };
    if let Err(problem) = check_secret(field, text.expose()) {
        errors.push(FieldError::new(at, "invalid_secret", problem));
        return Ok(());
    }
    // The place is part of what is sealed: the bytes of one secret open nowhere else.
    let place = crate::secrets::secret_aad(credential.id, &name);
    let sealed = app.vault.seal(place.as_bytes(), text.expose().as_bytes()).map_err(|error| ApiError::internal(&error))?;
    credential.secrets.insert(name, SealedSecret { key_id: sealed.key_id, sealed: sealed.bytes, updated_at: app.now() });
    Ok(())
}

async fn create(app: &App, caller: &Caller, input: &Input, project: Option<&Project>, entity: Option<&str>) -> Result<Answer, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    let body: CredentialBody = input.json()?;
    let project = match (project, &body.project) {
        (Some(project), None) => project.id,
        (fixed, text) => {
            let named = project_of_body(app, caller, text.as_deref(), "/project").await?.id;
            if fixed.is_some_and(|fixed| fixed.id != named) {
                return Err(ApiError::field("/project", "invalid_value", "differs from the project in the path"));
            }
            named
        }
    };
    let own_entity = body.entity.as_deref().map(own_id);
    if let (Some(fixed), Some(own)) = (entity, own_entity)
        && fixed != own
    {
        return Err(ApiError::field("/entity", "invalid_value", "differs from the entity in the path"));
    }
    let manifest = manifest_of(app, &body.channel)?;
    let once = Once::begin(app, caller, input)?;
    let now = app.now();
    let mut credential = Credential {
        id: CredentialId::new(now),
        project,
        purpose: Purpose::Standing,
        entity: entity.or(own_entity).map(str::to_owned),
        name: body.name.unwrap_or_else(|| body.channel.clone()),
        channel: body.channel,
        enabled: body.enabled.unwrap_or(true),
        config: body.config.unwrap_or_default(),
        secrets: BTreeMap::new(),
        mapping: body.mapping.unwrap_or_default(),
        filter: body.filter,
        retry: body.retry,
        state: CredentialState::Active,
        state_reason: None,
        state_since: now,
        version: 1,
        created_at: now,
        updated_at: now,
    };
    settle(app, Some(&manifest), &mut credential, body.secrets.unwrap_or_default())?;
    let at = format!("/api/credentials/{}", credential.id);
    let answer = Answer::new(StatusCode::CREATED, &view(app, credential.clone()))?.at(at);
    let keep = once.as_ref().map(|once| once.keep(app, &answer));
    let id = credential.id;
    let line = caller.line(app, AuditAction::CredentialCreate, Some(project), id, trail::credential(None, Some(&credential)));
    let done = app.store.act(Act::CreateCredential(Box::new(credential)), &line, keep).await?;
    app.credential_changed(project, id);
    made(app, once.as_ref(), done, answer)
}

/// Create a credential of a project
#[utoipa::path(post, path = "/api/projects/{id}/credentials", tag = "Administration", request_body = CredentialBody,
    params(("id" = String, Path, description = "`prj_…`, or `ext:` and your own id")), responses((status = 201, body = CredentialView)))]
pub async fn create_in_project(State(app): State<App>, caller: Caller, Path(id): Path<String>, input: Input) -> Result<Answer, ApiError> {
    let project = find_project(&app, &caller, &id).await?.ok_or_else(|| ApiError::not_found("project"))?;
    create(&app, &caller, &input, Some(&project), None).await
}

/// List the credentials of a project
#[utoipa::path(get, path = "/api/projects/{id}/credentials", tag = "Administration",
    params(("id" = String, Path, description = "`prj_…`, or `ext:` and your own id")),
    responses((status = 200, body = List<CredentialView>)))]
pub async fn list_of_project(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Answer, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    let project = find_project(&app, &caller, &id).await?.ok_or_else(|| ApiError::not_found("project"))?;
    let rows = app.store.credentials(project.id).await?;
    let data = rows.into_iter().map(|credential| view(&app, credential)).collect();
    Answer::ok(&List { data, next_cursor: None, has_more: false })
}

/// Create a credential of an entity
#[utoipa::path(post, path = "/api/entities/{external_id}/credentials", tag = "Administration", request_body = CredentialBody,
    params(("external_id" = String, Path, description = "Your own id of the entity"), InProject),
    responses((status = 201, body = CredentialView)))]
pub async fn create_in_entity(
    State(app): State<App>,
    caller: Caller,
    Path(entity): Path<String>,
    Params(within): Params<InProject>,
    input: Input,
) -> Result<Answer, ApiError> {
    let project = match &within.project {
        Some(text) => Some(find_project(&app, &caller, text).await?.ok_or_else(|| ApiError::not_found("project"))?),
        None => None,
    };
    create(&app, &caller, &input, project.as_deref(), Some(own_id(&entity))).await
}

/// List the credentials of an entity
#[utoipa::path(get, path = "/api/entities/{external_id}/credentials", tag = "Administration",
    params(("external_id" = String, Path, description = "Your own id of the entity"), InProject),
    responses((status = 200, body = List<CredentialView>)))]
pub async fn list_of_entity(
    State(app): State<App>,
    caller: Caller,
    Path(entity): Path<String>,
    Params(within): Params<InProject>,
) -> Result<Answer, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    let project = project_of_body(&app, &caller, within.project.as_deref(), "?project").await?;
    let rows = app.store.credentials(project.id).await?.into_iter();
    let own = rows.filter(|credential| credential.entity.as_deref() == Some(own_id(&entity)));
    let data = own.map(|credential| view(&app, credential)).collect();
    Answer::ok(&List { data, next_cursor: None, has_more: false })
}

/// One credential
#[utoipa::path(get, path = "/api/credentials/{id}", tag = "Administration", params(("id" = String, Path, description = "`crd_…`")),
    responses((status = 200, body = CredentialView)))]
pub async fn show(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<Answer, ApiError> {
    let credential = find(&app, &caller, &id).await?;
    Answer::ok(&view(&app, credential))
}

/// Writes a changed credential. An admin who repaired a refused one wants it tried again.
async fn update(app: &App, caller: &Caller, before: &Credential, mut credential: Credential, repaired: bool) -> Result<Answer, ApiError> {
    let now = app.now();
    if repaired && credential.state == CredentialState::Invalid {
        (credential.state, credential.state_reason, credential.state_since) = (CredentialState::Active, None, now);
    }
    credential.updated_at = now;
    let changes = trail::credential(Some(before), Some(&credential));
    let line = caller.line(app, AuditAction::CredentialUpdate, Some(credential.project), credential.id, changes);
    acted(app.store.act(Act::UpdateCredential(Box::new(credential.clone())), &line, None).await?)?;
    credential.version += 1;
    if repaired {
        app.credential_mended(credential.project, credential.id);
    } else {
        app.credential_changed(credential.project, credential.id);
    }
    Answer::ok(&view(app, credential))
}

/// Replace a credential
///
/// Secrets that are not named stay.
#[utoipa::path(put, path = "/api/credentials/{id}", tag = "Administration", request_body = CredentialBody,
    params(("id" = String, Path, description = "`crd_…`")), responses((status = 200, body = CredentialView)))]
pub async fn replace(State(app): State<App>, caller: Caller, Path(id): Path<String>, input: Input) -> Result<Answer, ApiError> {
    let mut credential = find_own(&app, &caller, &id).await?;
    let body: CredentialBody = input.json()?;
    if body.channel != credential.channel {
        return Err(ApiError::field("/channel", "immutable", "cannot be changed; create another credential"));
    }
    if body.project.is_some() && project_of_body(&app, &caller, body.project.as_deref(), "/project").await?.id != credential.project {
        return Err(ApiError::field("/project", "immutable", "cannot be changed; create another credential"));
    }
    let manifest = manifest_of(&app, &body.channel)?;
    let before = credential.clone();
    credential.name = body.name.unwrap_or_else(|| credential.channel.clone());
    credential.entity = body.entity.as_deref().map(own_id).map(str::to_owned);
    credential.enabled = body.enabled.unwrap_or(true);
    credential.config = body.config.unwrap_or_default();
    credential.mapping = body.mapping.unwrap_or_default();
    credential.filter = body.filter;
    credential.retry = body.retry;
    settle(&app, Some(&manifest), &mut credential, body.secrets.unwrap_or_default())?;
    update(&app, &caller, &before, credential, true).await
}

/// Change a credential
#[utoipa::path(patch, path = "/api/credentials/{id}", tag = "Administration", request_body = CredentialChanges,
    params(("id" = String, Path, description = "`crd_…`")), responses((status = 200, body = CredentialView)))]
pub async fn change(State(app): State<App>, caller: Caller, Path(id): Path<String>, input: Input) -> Result<Answer, ApiError> {
    let mut credential = find_own(&app, &caller, &id).await?;
    let before = credential.clone();
    let body: CredentialChanges = input.json()?;
    // Without its plugin a credential can still be renamed, moved or disabled.
    let repaired = body.config.is_some() || body.secrets.is_some();
    let manifest = if repaired { Some(manifest_of(&app, &credential.channel)?) } else { None };
    if let Some(name) = body.name {
        credential.name = name;
    }
    if let Some(entity) = body.entity {
        credential.entity = entity.as_deref().map(own_id).map(str::to_owned);
    }
    credential.enabled = body.enabled.unwrap_or(credential.enabled);
    for (name, value) in body.config.unwrap_or_default() {
        if value.is_null() {
            credential.config.shift_remove(&name);
        } else {
            credential.config.insert(name, value);
        }
    }
    if let Some(mapping) = body.mapping {
        credential.mapping = mapping;
    }
    if let Some(filter) = body.filter {
        credential.filter = filter;
    }
    if let Some(retry) = body.retry {
        credential.retry = retry;
    }
    settle(&app, manifest.as_deref(), &mut credential, body.secrets.unwrap_or_default())?;
    update(&app, &caller, &before, credential, repaired).await
}

/// Delete a credential
///
/// What is queued for it is cancelled. One that fallback or notification rules name is not deleted before them.
#[utoipa::path(delete, path = "/api/credentials/{id}", tag = "Administration", params(("id" = String, Path, description = "`crd_…`")),
    responses((status = 204, description = "Deleted"),
        (status = 409, description = "Rules of its project name it, or the host made it", body = super::error::Problem,
            content_type = "application/problem+json")))]
pub async fn delete(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    let credential = find_own(&app, &caller, &id).await?;
    let project = app.store.project(credential.project).await?;
    let rules = project.as_ref().map(|project| project.sending.rules_with(credential.id)).unwrap_or_default();
    if !rules.is_empty() {
        let detail = format!("these rules of the project name it, and would tell nobody without it: {}", rules.join(", "));
        return Err(ApiError::conflict("credential_in_use", detail));
    }
    let changes = trail::credential(Some(&credential), None);
    let line = caller.line(&app, AuditAction::CredentialDelete, Some(credential.project), credential.id, changes);
    let act = Act::DeleteCredential { id: credential.id, now: app.now() };
    let done = acted(app.store.act(act, &line, None).await?)?.unwrap_or_default();
    done.changed.iter().for_each(|changed| app.batch_changed(changed));
    app.credential_changed(credential.project, credential.id);
    Ok(StatusCode::NO_CONTENT)
}

/// Test a credential
///
/// The plugin asks the remote side, with reads only.
#[utoipa::path(post, path = "/api/credentials/{id}/check", tag = "Administration", params(("id" = String, Path, description = "`crd_…`")),
    responses((status = 200, body = CheckView)))]
pub async fn check(State(app): State<App>, caller: Caller, Path(id): Path<String>, input: Input) -> Result<Answer, ApiError> {
    let credential = find(&app, &caller, &id).await?;
    once(&app, &caller, &input, async {
        let view = match app.lanes.check(credential.id).await {
            CheckAnswer::Ok(info) => {
                let info = info.into_iter().map(|(name, value)| InfoView { name, value }).collect();
                CheckView { ok: true, info: Some(info), code: None, message: None }
            }
            CheckAnswer::Failed { code, message } => CheckView { ok: false, info: None, code: Some(code), message: Some(message) },
        };
        Answer::ok(&view)
    })
    .await
}

async fn set_state(app: &App, caller: &Caller, id: &str, state: CredentialState, reason: Option<StateReason>) -> Result<Answer, ApiError> {
    let credential = find(app, caller, id).await?;
    let action = if state == CredentialState::Active { AuditAction::CredentialResume } else { AuditAction::CredentialPause };
    let after = Credential { state, state_reason: reason.clone(), ..credential.clone() };
    let changes = trail::credential(Some(&credential), Some(&after));
    let line = caller.line(app, action, Some(credential.project), credential.id, changes);
    let act = Act::SetCredentialState { id: credential.id, state, reason, since: app.now() };
    acted(app.store.act(act, &line, None).await?)?;
    if state == CredentialState::Active {
        app.credential_mended(credential.project, credential.id);
    } else {
        app.credential_changed(credential.project, credential.id);
    }
    let credential = find(app, caller, id).await?;
    Answer::ok(&view(app, credential))
}

/// Pause a credential: its deliveries wait
#[utoipa::path(post, path = "/api/credentials/{id}/pause", tag = "Administration", params(("id" = String, Path, description = "`crd_…`")),
    responses((status = 200, body = CredentialView)))]
pub async fn pause(State(app): State<App>, caller: Caller, Path(id): Path<String>, input: Input) -> Result<Answer, ApiError> {
    find(&app, &caller, &id).await?;
    let reason = StateReason { code: "paused_by_admin".into(), message: "paused by an admin".into() };
    once(&app, &caller, &input, set_state(&app, &caller, &id, CredentialState::Paused, Some(reason))).await
}

/// Resume a credential that is paused or was refused
#[utoipa::path(post, path = "/api/credentials/{id}/resume", tag = "Administration", params(("id" = String, Path, description = "`crd_…`")),
    responses((status = 200, body = CredentialView)))]
pub async fn resume(State(app): State<App>, caller: Caller, Path(id): Path<String>, input: Input) -> Result<Answer, ApiError> {
    find(&app, &caller, &id).await?;
    once(&app, &caller, &input, set_state(&app, &caller, &id, CredentialState::Active, None)).await
}
