//! Installed plugins.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::{Answer, once};
use super::auth::Caller;
use super::error::ApiError;
use super::input::Input;
use super::views::List;
use crate::app::App;
use crate::model::{AuditAction, Scope};
use crate::plugin::manifest::Manifest;
use crate::plugin::registry::{RegistryError, VersionStatus};
use crate::policy::audit::changes;
use crate::store::Act;

/// Largest plugin file.
const MAX_PLUGIN_BYTES: usize = 32 * 1024 * 1024;

/// How long one may take to arrive.
const UPLOAD_TIME: Duration = Duration::from_secs(300);

/// A channel with its plugin's versions.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ChannelView {
    /// Absent for files that could not be read so far.
    pub channel: Option<String>,
    /// The version that serves; absent: none does, and deliveries wait.
    pub active_version: Option<String>,
    #[allow(missing_docs)]
    pub versions: Vec<VersionView>,
}

/// One plugin file.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct VersionView {
    #[allow(missing_docs)]
    pub channel: Option<String>,
    #[allow(missing_docs)]
    pub version: Option<String>,
    /// Name in the channels folder.
    pub file: String,
    /// SHA-256 in hex.
    pub digest: String,
    /// `active`, `standby`, `removed` or `refused`.
    #[schema(value_type = String)]
    pub state: &'static str,
    /// Why it was refused.
    pub reason: Option<String>,
    /// What the component really imports.
    pub imports: Vec<String>,
    /// What the plugin says of itself: settings, secrets, rights, limits.
    #[schema(value_type = Option<Object>)]
    pub manifest: Option<std::sync::Arc<Manifest>>,
}

impl From<VersionStatus> for VersionView {
    fn from(version: VersionStatus) -> Self {
        Self {
            channel: version.channel,
            version: version.version,
            file: version.file,
            digest: version.digest,
            state: version.state,
            reason: version.reason,
            imports: version.imports,
            manifest: version.manifest,
        }
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Refused(why) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "plugin_refused", why),
            RegistryError::Unknown { .. } => Self::new(StatusCode::NOT_FOUND, "not_found", error.to_string()),
            RegistryError::Folder(_) => Self::internal(&error),
        }
    }
}

/// List installed plugins
#[utoipa::path(get, path = "/api/channels", tag = "Administration", responses((status = 200, body = List<ChannelView>)))]
pub async fn list(State(app): State<App>, caller: Caller) -> Result<Answer, ApiError> {
    caller.require(Scope::ProjectAdmin)?;
    let mut channels: BTreeMap<Option<String>, Vec<VersionView>> = BTreeMap::new();
    for version in app.registry.list() {
        channels.entry(version.channel.clone()).or_default().push(version.into());
    }
    let view = |(channel, versions): (Option<String>, Vec<VersionView>)| {
        let active = versions.iter().find(|version| version.state == "active");
        ChannelView { channel, active_version: active.and_then(|version| version.version.clone()), versions }
    };
    Answer::ok(&List { data: channels.into_iter().map(view).collect(), next_cursor: None, has_more: false })
}

/// Upload a plugin
///
/// The body is the `.wasm` file itself, at most 32 MiB.
#[utoipa::path(post, path = "/api/channels", tag = "Administration",
    request_body(content = Vec<u8>, content_type = "application/wasm"), responses((status = 201, body = VersionView)))]
pub async fn upload(State(app): State<App>, caller: Caller, request: Request) -> Result<Answer, ApiError> {
    caller.require(Scope::PlatformAdmin)?;
    let (parts, body) = request.into_parts();
    let held = app.bodies.read_within(UPLOAD_TIME, body, &parts.headers, MAX_PLUGIN_BYTES).await?;
    let input = Input::new(parts, held);
    once(&app, &caller, &input, async {
        let installed = match app.registry.install(input.bytes().to_vec()).await {
            Ok(installed) => installed,
            Err(error) => {
                let after = json!({"reason": error.to_string(), "bytes": input.bytes().len()});
                note(&app, &caller, AuditAction::ChannelRefuse, String::new(), &Value::Null, &after).await?;
                return Err(error.into());
            }
        };
        let name = format!("{}@{}", installed.channel.as_deref().unwrap_or("-"), installed.version.as_deref().unwrap_or("-"));
        let after = json!({"file": installed.file, "digest": installed.digest, "state": installed.state});
        note(&app, &caller, AuditAction::ChannelUpload, name, &Value::Null, &after).await?;
        Answer::new(StatusCode::CREATED, &VersionView::from(installed))
    })
    .await
}

/// Which version serves, for the audit log.
fn in_service(app: &App, channel: &str) -> Value {
    let serves = |known: &VersionStatus| known.channel.as_deref() == Some(channel) && known.state == "active";
    json!({"active_version": app.registry.list().into_iter().find(serves).and_then(|known| known.version)})
}

/// Plugins are files, which no transaction holds: their lines are written right after what they tell of.
async fn note(app: &App, caller: &Caller, action: AuditAction, name: String, before: &Value, after: &Value) -> Result<(), ApiError> {
    let line = caller.line(app, action, None, name, changes(before, after));
    app.store.act(Act::Elsewhere, &line, None).await?;
    Ok(())
}

fn find(app: &App, channel: &str, version: &str) -> Result<VersionView, ApiError> {
    let mine = |known: &VersionStatus| known.channel.as_deref() == Some(channel) && known.version.as_deref() == Some(version);
    let found = app.registry.list().into_iter().find(mine).map(VersionView::from);
    found.ok_or_else(|| ApiError::not_found("version of the channel"))
}

/// Put a version into service
#[utoipa::path(post, path = "/api/channels/{channel}/versions/{version}/activate", tag = "Administration",
    params(("channel" = String, Path, description = "`/` written as `%2F`"), ("version" = String, Path)),
    responses((status = 200, body = VersionView)))]
pub async fn activate(
    State(app): State<App>,
    caller: Caller,
    Path((channel, version)): Path<(String, String)>,
    input: Input,
) -> Result<Answer, ApiError> {
    caller.require(Scope::PlatformAdmin)?;
    once(&app, &caller, &input, async {
        let before = in_service(&app, &channel);
        app.registry.activate(&channel, &version).await?;
        let (name, after) = (format!("{channel}@{version}"), in_service(&app, &channel));
        note(&app, &caller, AuditAction::ChannelActivate, name, &before, &after).await?;
        Answer::ok(&find(&app, &channel, &version)?)
    })
    .await
}

/// Take a version out of service
///
/// When it was the channel's last, its deliveries wait until another one is there.
#[utoipa::path(delete, path = "/api/channels/{channel}/versions/{version}", tag = "Administration",
    params(("channel" = String, Path, description = "`/` written as `%2F`"), ("version" = String, Path)),
    responses((status = 204, description = "Out of service")))]
pub async fn remove(
    State(app): State<App>,
    caller: Caller,
    Path((channel, version)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    caller.require(Scope::PlatformAdmin)?;
    let before = in_service(&app, &channel);
    app.registry.remove(&channel, &version).await?;
    let (name, after) = (format!("{channel}@{version}"), in_service(&app, &channel));
    note(&app, &caller, AuditAction::ChannelRemove, name, &before, &after).await?;
    Ok(StatusCode::NO_CONTENT)
}
