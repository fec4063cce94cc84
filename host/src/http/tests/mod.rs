//! The interface as clients meet it: requests against the whole router, with a real store and stand-ins for plugins and lanes.

mod admin;
mod contract;
mod sending;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use tower::ServiceExt;

use crate::app::{App, Channels, Dispatch};
use crate::clock::ManualClock;
use crate::config::{Config, Flags};
use crate::lane::{CheckAnswer, LaneState, Preview, Previewed};
use crate::model::{BatchId, BatchStatus, CredentialId, Timestamp};
use crate::plugin::manifest::Manifest;
use crate::plugin::registry::{FieldProblem, RegistryError, VersionStatus};
use crate::secrets::{MasterKey, Vault};
use crate::store::StoreError;
use crate::store::sqlite::{SqliteStore, StoreOptions};

const ADMIN: &str = "lw_0123456789012345678901234567890123456789";

/// Plugins that exist as manifests only.
struct Installed(BTreeMap<&'static str, Arc<Manifest>>);

fn manifest(channel: &str, schema: Value, secret: &str, required: bool, base: &str) -> Arc<Manifest> {
    let manifest = json!({
        "manifest": 1, "contract": "1.0", "channel": channel, "version": "1.0.0", "title": {"en": channel}, "provides": ["outbound"],
        "config": {"schema": schema}, "secret": [{"name": secret, "use": ["inject"], "required": required, "min_bytes": 8}],
        "egress": [{"name": "api", "base": base, "methods": ["post"]}]
    });
    Arc::new(serde_json::from_value(manifest).unwrap())
}

impl Installed {
    fn new() -> Self {
        let webhook = json!({"type": "object", "properties": {"url": {"type": "string", "x-address": true}, "method": {"enum": ["POST", "PUT"]}},
            "required": ["url"], "additionalProperties": false});
        let telegram = json!({"type": "object", "properties": {"chat_id": {"type": ["string", "integer"]}, "text": {"type": "string"}},
            "required": ["chat_id"], "additionalProperties": false});
        Self(BTreeMap::from([
            ("webhook", manifest("webhook", webhook, "authorization", false, "{config.url}")),
            ("telegram", manifest("telegram", telegram, "bot_token", true, "https://api.telegram.org/")),
        ]))
    }
}

#[async_trait]
impl Channels for Installed {
    fn installed(&self, channel: &str) -> bool {
        self.0.contains_key(channel)
    }

    fn manifest(&self, channel: &str) -> Option<Arc<Manifest>> {
        self.0.get(channel).cloned()
    }

    fn check_config(&self, channel: &str, config: &Map<String, Value>) -> Option<Vec<FieldProblem>> {
        let schema = &self.0.get(channel)?.config.schema;
        let validator = jsonschema::validator_for(schema).unwrap();
        let config = Value::Object(config.clone());
        let problem = |error: jsonschema::ValidationError<'_>| FieldProblem {
            pointer: format!("/config{}", error.instance_path()),
            code: "invalid_value",
            detail: error.to_string(),
        };
        Some(validator.iter_errors(&config).map(problem).collect())
    }

    fn list(&self) -> Vec<VersionStatus> {
        let status = |(channel, manifest): (&&'static str, &Arc<Manifest>)| VersionStatus {
            channel: Some((*channel).to_owned()),
            version: Some("1.0.0".into()),
            file: format!("{channel}.wasm"),
            digest: "00".into(),
            state: "active",
            reason: None,
            manifest: Some(manifest.clone()),
            imports: vec![],
        };
        self.0.iter().map(status).collect()
    }

    async fn install(&self, _: Vec<u8>) -> Result<VersionStatus, RegistryError> {
        Err(RegistryError::Refused("the file is not a WebAssembly component".into()))
    }

    async fn activate(&self, channel: &str, version: &str) -> Result<(), RegistryError> {
        if self.installed(channel) && version == "1.0.0" {
            return Ok(());
        }
        Err(RegistryError::Unknown { channel: channel.into(), version: version.into() })
    }

    async fn remove(&self, channel: &str, version: &str) -> Result<(), RegistryError> {
        self.activate(channel, version).await
    }
}

/// Lanes that never send; a test may say that batches end at once.
#[derive(Default)]
struct Quiet {
    hints: Mutex<Vec<CredentialId>>,
    ends_at_once: Mutex<bool>,
}

#[async_trait]
impl Dispatch for Quiet {
    fn hint(&self, lanes: &[(CredentialId, Timestamp)]) {
        self.hints.lock().unwrap().extend(lanes.iter().map(|(lane, _)| *lane));
    }

    fn timer(&self, _: Timestamp) {}

    fn credential_changed(&self, _: CredentialId) {}

    fn credential_mended(&self, _: CredentialId) {}

    fn state(&self, _: CredentialId) -> Option<LaneState> {
        None
    }

    fn wait_for(&self, _: BatchId) -> BoxFuture<'static, BatchStatus> {
        if *self.ends_at_once.lock().unwrap() { std::future::ready(BatchStatus::Completed).boxed() } else { std::future::pending().boxed() }
    }

    fn batch_ended(&self, _: BatchId, _: BatchStatus) {}

    async fn check(&self, _: CredentialId) -> CheckAnswer {
        CheckAnswer::Failed { code: "credential_invalid".into(), message: "Unauthorized".into() }
    }

    async fn preview(&self, _: CredentialId, _: Preview) -> Result<Option<Previewed>, StoreError> {
        Ok(Some(Previewed::default()))
    }
}

/// An answer with its body read.
struct Got {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
    json: Value,
}

impl Got {
    /// Fails the test unless the problem is complete.
    fn problem(&self, status: u16, code: &str) -> &Self {
        assert_eq!((self.status.as_u16(), self.json["code"].as_str()), (status, Some(code)), "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.json["request_id"].as_str(), self.headers["x-request-id"].to_str().ok());
        assert_eq!(self.json["status"], status);
        for name in ["type", "title", "detail"] {
            assert!(self.json[name].as_str().is_some_and(|text| !text.is_empty()), "{name}: {}", self.text);
        }
        self
    }

    fn at(&self, pointer: &str) -> &Self {
        assert_eq!(self.json["errors"][0]["pointer"], pointer, "{}", self.text);
        self
    }

    fn ok(&self, status: u16) -> &Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }

    fn str(&self, name: &str) -> String {
        self.json[name].as_str().unwrap_or_else(|| panic!("{name} in {}", self.text)).to_owned()
    }
}

struct Host {
    app: App,
    router: Router,
    lanes: Arc<Quiet>,
    clock: ManualClock,
    store: Arc<SqliteStore>,
    _folder: tempfile::TempDir,
}

impl Host {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    async fn with(env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let flags = Flags { data_dir: Some(folder.path().to_str().unwrap().into()), ..Flags::default() };
        let mut env = env.to_vec();
        env.push(("LEADWIRE_ADMIN_KEY", ADMIN));
        let config =
            Config::load(&flags, &|name| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())).unwrap();
        let options = StoreOptions { max_backlog: config.max_backlog, readers: 1, ..StoreOptions::default() };
        let store = Arc::new(SqliteStore::open(&folder.path().join("leadwire.db"), options).await.unwrap());
        let clock = ManualClock::new(Timestamp::parse("2026-01-31T12:00:00Z").unwrap());
        crate::keys::ensure_admin(store.as_ref(), &config, &clock, &mut Vec::new()).await.unwrap();
        let lanes = Arc::new(Quiet::default());
        let vault = Arc::new(Vault::new(MasterKey::generate().unwrap(), vec![]));
        let app = App::new(store.clone(), Arc::new(Installed::new()), lanes.clone(), vault, Arc::new(clock.clone()), Arc::new(config));
        let router = super::router(app.clone());
        Self { app, router, lanes, clock, store, _folder: folder }
    }

    async fn raw(&self, request: Request<Body>) -> Got {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(parts.headers.contains_key("x-request-id"), "{text}");
        Got { status: parts.status, headers: parts.headers, json: serde_json::from_str(&text).unwrap_or_default(), text }
    }

    async fn call(&self, method: &str, path: &str, key: &str, headers: &[(&str, &str)], body: Option<Value>) -> Got {
        let mut request = Request::builder().method(method).uri(path).header("x-api-key", key);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        self.raw(request.body(body).unwrap()).await
    }

    async fn get(&self, path: &str) -> Got {
        self.call("GET", path, ADMIN, &[], None).await
    }

    async fn post(&self, path: &str, body: Value) -> Got {
        self.call("POST", path, ADMIN, &[], Some(body)).await
    }

    /// A project with one webhook and one Telegram credential.
    async fn shop(&self) -> (String, String) {
        self.post("/api/projects", json!({"external_id": "shop-1", "name": "Shop"})).await.ok(201);
        let webhook = self
            .post(
                "/api/projects/ext:shop-1/credentials",
                json!({"channel": "webhook", "name": "Hook", "config": {"url": "https://hook.example/"}, "secrets": {"authorization": "Bearer hidden-1"}}),
            )
            .await;
        // Credentials stand in the order of their ids, and so of the milliseconds in which they were made.
        self.clock.advance(Duration::from_millis(1));
        let telegram = self
            .post(
                "/api/projects/ext:shop-1/credentials",
                json!({"channel": "telegram", "config": {"chat_id": 42}, "secrets": {"bot_token": "123456:hidden-2"}}),
            )
            .await;
        (webhook.ok(201).str("id"), telegram.ok(201).str("id"))
    }

    async fn key(&self, body: Value) -> String {
        self.post("/api/keys", body).await.ok(201).str("key")
    }
}

fn lead() -> Value {
    json!({"project": "ext:shop-1", "name": "Иван", "phones": ["8 916 123-45-67"]})
}
