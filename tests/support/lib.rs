//! The harness of the behaviour tests: a whole host in this process, with a clock that tests move by hand, real plugin
//! files, a real database in a temporary folder, and fakes for the remote side.
//!
//! Start at [`TestHost::start`]. Plugin files come from `cargo xtask plugins`.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by failing")]

pub mod follow;
pub mod postgres;
pub mod process;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use leadwire::clock::{Clock, ManualClock};
use leadwire::config::{Config, Flags};
use leadwire::model::Timestamp;
use leadwire::serve::{self, Host};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The admin key of every test host.
pub const ADMIN_KEY: &str = "lw_test0admin0key0test0admin0key0test0admin0key";
/// One master key for all test hosts, so that they share compiled plugins.
const MASTER_KEY: &str = "0707070707070707070707070707070707070707070707070707070707070707";
/// Longest real time a test waits for something that should happen at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// A host in this process.
pub struct TestHost {
    host: Option<Host>,
    /// Its clock; `advance` on the host also waits for what follows.
    pub clock: ManualClock,
    folder: Arc<TempDir>,
    client: reqwest::Client,
    key: String,
    rewrite: Vec<(String, String)>,
    settings: Vec<(&'static str, String)>,
    /// Kept for as long as hosts are over it.
    database: Option<Arc<postgres::Database>>,
}

/// The folder that plugin files were built into: `kind` is `channels` or `test-channels`.
pub fn built_plugins(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").join(kind)
}

/// The built file of a channel, such as `webhook` or `test_hostile`.
pub fn plugin_file(name: &str) -> PathBuf {
    for kind in ["channels", "test-channels"] {
        let found = std::fs::read_dir(built_plugins(kind)).into_iter().flatten().filter_map(|entry| entry.ok().map(|e| e.path()));
        let mut found: Vec<PathBuf> = found.filter(|path| is_version_of(path, name)).collect();
        found.sort();
        if let Some(path) = found.pop() {
            return path;
        }
    }
    panic!("no built plugin {name}: run `cargo xtask plugins --dev` first");
}

fn is_version_of(path: &Path, name: &str) -> bool {
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    file.strip_prefix(name).and_then(|rest| rest.strip_prefix('-')).is_some_and(|rest| rest.ends_with(".wasm"))
}

/// What a test host is started with.
#[derive(Default)]
pub struct Options {
    /// Channels whose plugin files are in the folder at the start, such as `webhook` and `test_hostile`.
    pub plugins: Vec<&'static str>,
    /// Host name → address that stands in for it.
    pub rewrite: Vec<(String, String)>,
    /// Further settings, by their name in the settings file.
    pub settings: Vec<(&'static str, String)>,
    /// The clock to go by, for tests that share it with a fake; else one that stands at [`START`].
    pub clock: Option<ManualClock>,
}

/// Where the clocks of tests stand at first.
pub const START: &str = "2026-11-22T10:00:00Z";

/// A clock that stands at [`START`].
pub fn manual_clock() -> ManualClock {
    ManualClock::new(Timestamp::parse(START).expect("a time"))
}

impl TestHost {
    /// A host with the three first-party channels.
    pub async fn start() -> Self {
        Self::with(Options { plugins: vec!["webhook", "telegram", "email"], ..Options::default() }).await
    }

    /// A host with these options, in a folder of its own.
    pub async fn with(options: Options) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        let channels = folder.path().join("channels");
        std::fs::create_dir_all(&channels).expect("the channels folder");
        for name in &options.plugins {
            let file = plugin_file(name);
            std::fs::copy(&file, channels.join(file.file_name().unwrap_or_default())).expect("a plugin file");
        }
        share_compiled_code(folder.path());
        let clock = options.clock.unwrap_or_else(manual_clock);
        let mut settings = options.settings;
        let mut database = None;
        if postgres::is_asked_for() {
            let made = postgres::Database::new().await;
            settings.push(("database_url", made.url()));
            database = Some(Arc::new(made));
        }
        Self { database, ..Self::open(folder, clock, options.rewrite, settings).await }
    }

    async fn open(folder: Arc<TempDir>, clock: ManualClock, rewrite: Vec<(String, String)>, settings: Vec<(&'static str, String)>) -> Self {
        let rewrites: Vec<String> = rewrite.iter().map(|(host, to)| format!("{host}={to}")).collect();
        let data_dir = folder.path().to_string_lossy().into_owned();
        let env = |name: &str| {
            let key = name.strip_prefix("LEADWIRE_").unwrap_or(name).to_lowercase();
            if let Some((_, value)) = settings.iter().find(|(known, _)| *known == key) {
                return Some(value.clone());
            }
            match key.as_str() {
                "listen" => Some("127.0.0.1:0".into()),
                "data_dir" => Some(data_dir.clone()),
                "admin_key" => Some(ADMIN_KEY.into()),
                "master_key" => Some(MASTER_KEY.into()),
                "egress_allow" => Some("127.0.0.0/8,::1/128".into()),
                "egress_rewrite" => Some(rewrites.join(",")),
                "node" => Some("test".into()),
                _ => None,
            }
        };
        let config = Config::load(&Flags::default(), &env).expect("the test's settings are valid");
        let host = serve::start(config, Arc::new(clock.clone())).await.expect("the host starts");
        Self { host: Some(host), clock, folder, client: client(), key: ADMIN_KEY.into(), rewrite, settings, database: None }
    }

    /// Stops this host and starts another one over the same folder, with the clock where it stands.
    pub async fn restart(mut self) -> Self {
        if let Some(host) = self.host.take() {
            host.stop().await;
        }
        let again = Self::open(self.folder.clone(), self.clock.clone(), self.rewrite.clone(), self.settings.clone()).await;
        Self { database: self.database.clone(), ..again }
    }

    /// The running host.
    pub fn host(&self) -> &Host {
        self.host.as_ref().expect("the host runs")
    }

    /// Its data folder; plugin files go into `channels` in it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its address, such as `http://127.0.0.1:40123`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.host().address)
    }

    /// The same host seen with another key.
    pub fn key(&mut self, key: &str) -> &mut Self {
        self.key = key.to_owned();
        self
    }

    /// Any request with the host's key.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        self.client.request(method, self.url(path)).header("x-api-key", &self.key)
    }

    /// GET; panics unless it answers 200.
    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = answer(self.request("GET", path)).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// POST; status and body.
    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        answer(self.request("POST", path).json(body)).await
    }

    /// PATCH; status and body.
    pub async fn patch(&self, path: &str, body: &Value) -> (u16, Value) {
        answer(self.request("PATCH", path).json(body)).await
    }

    /// POST without a body of an action such as `…/retry`; panics unless it answers 2xx.
    pub async fn act(&self, path: &str) -> Value {
        let (status, body) = answer(self.request("POST", path)).await;
        assert!((200..300).contains(&status), "{path}: {status} {body}");
        body
    }

    /// Any request, sent; status and body.
    pub async fn answer(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        answer(request).await
    }

    /// Makes the project `ext:shop`.
    pub async fn project(&self) -> &Self {
        let (status, body) = self.post("/api/projects", &json!({"external_id": "shop", "name": "Shop"})).await;
        assert_eq!(status, 201, "{body}");
        self
    }

    /// Makes a credential of the project `ext:shop`; its id.
    pub async fn enable(&self, channel: &str, config: Value, secrets: Value) -> String {
        self.enable_with(json!({"channel": channel, "name": channel, "config": config, "secrets": secrets})).await
    }

    /// Makes a credential of the project `ext:shop` from a whole body; its id.
    pub async fn enable_with(&self, body: Value) -> String {
        let (status, body) = self.post("/api/projects/ext:shop/credentials", &body).await;
        assert_eq!(status, 201, "{body}");
        body["id"].as_str().expect("an id").to_owned()
    }

    /// Sends a lead of the project `ext:shop`; the 202 answer.
    pub async fn send(&self, mut lead: Value) -> Value {
        lead["project"] = json!("ext:shop");
        let (status, body) = self.post("/api/leads", &lead).await;
        assert_eq!(status, 202, "{body}");
        body
    }

    /// Sends a lead that is like no other, by its number; the id of its first delivery.
    pub async fn lead(&self, number: u32) -> String {
        let sent = self.send(json!({"name": format!("Lead {number}"), "external_id": format!("lead-{number}")})).await;
        sent["deliveries"][0]["id"].as_str().expect("a delivery").to_owned()
    }

    /// The credential as the API shows it.
    pub async fn credential(&self, id: &str) -> Value {
        self.get(&format!("/api/credentials/{id}")).await
    }

    /// The credential's state as the API shows it.
    pub async fn state(&self, id: &str) -> String {
        self.credential(id).await["state"].as_str().unwrap_or_default().to_owned()
    }

    /// The delivery's status.
    pub async fn status(&self, delivery: &str) -> String {
        self.delivery(delivery).await["status"].as_str().unwrap_or_default().to_owned()
    }

    /// The delivery with its attempts.
    pub async fn delivery(&self, id: &str) -> Value {
        self.get(&format!("/api/deliveries/{id}")).await
    }

    /// The first delivery of a 202 answer, as it stands now.
    pub async fn first_delivery(&self, sent: &Value) -> Value {
        self.delivery(sent["deliveries"][0]["id"].as_str().expect("a delivery")).await
    }

    /// Waits until `GET /api/channels` shows what `holds` looks for; wakes whenever the channels folder was looked through.
    pub async fn until_channels(&self, holds: impl Fn(&Value) -> bool) -> Value {
        let mut changes = self.host().registry.changes();
        let look = async {
            loop {
                let seen = self.get("/api/channels").await;
                if holds(&seen) {
                    return seen;
                }
                changes.changed().await.expect("the registry is there");
            }
        };
        tokio::time::timeout(PATIENCE, look).await.expect("the channels folder is taken up")
    }

    /// Waits until no call runs and nothing is due.
    pub async fn idle(&self) {
        tokio::time::timeout(PATIENCE, self.host().lanes.idle()).await.expect("the lanes come to rest");
    }

    /// Waits until leads are found by their words.
    pub async fn searchable(&self) {
        while self.host().store.index_leads(1_000).await.expect("the store works") {}
    }

    /// Moves the clock and waits for what follows.
    pub async fn advance(&self, by: Duration) {
        self.idle().await;
        self.clock.advance(by);
        self.host().lanes.poke();
        self.idle().await;
    }

    /// Moves the clock one second at a time and waits for what follows each.
    pub async fn advance_by_seconds(&self, seconds: u32) {
        for _ in 0..seconds {
            self.advance(Duration::from_secs(1)).await;
        }
    }

    /// Moves the clock in steps until the batch has ended, at most `most`.
    pub async fn run_until_ended(&self, batch: &str, most: Duration) -> Value {
        let until = self.clock.now().plus(most);
        loop {
            self.idle().await;
            let seen = self.get(&format!("/api/batches/{batch}")).await;
            if seen["status"] != "pending" {
                return seen;
            }
            assert!(self.clock.now() < until, "the batch has not ended: {seen}");
            self.advance(Duration::from_secs(5)).await;
        }
    }
}

/// The outcomes of a delivery's attempts, in order.
pub fn outcomes(delivery: &Value) -> Vec<&str> {
    delivery["attempts"].as_array().into_iter().flatten().map(|attempt| attempt["outcome"].as_str().unwrap_or_default()).collect()
}

/// The codes of a delivery's attempts, in order; empty for success.
pub fn codes(delivery: &Value) -> Vec<&str> {
    delivery["attempts"].as_array().into_iter().flatten().map(|attempt| attempt["code"].as_str().unwrap_or_default()).collect()
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.timeout(PATIENCE).send().await.expect("an answer");
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// A client for tests: no proxy, no system certificates.
pub fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().expect("a client")
}

/// Compiling a plugin takes a while in a development build: all test hosts use one folder of compiled code.
fn share_compiled_code(data_dir: &Path) {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-compiled");
    std::fs::create_dir_all(&shared).expect("the folder for compiled code");
    let shared = shared.canonicalize().expect("the folder for compiled code");
    std::os::unix::fs::symlink(shared, data_dir.join("compiled")).expect("a link to the compiled code");
}
