//! What is installed: every version of every channel, which one serves, and why a file was refused.
//!
//! The channels folder is what an operator drops files into. A file that passed is also kept by its digest in the data
//! folder, so that a later, broken file of the same name leaves the version in service where it is, over restarts too.

mod files;
mod watch;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use async_trait::async_trait;

use self::files::{FileState, Files};
use super::PluginError;
use super::cache::CodeCache;
use super::call::{CallEnv, Linkers, trial_store};
use super::engine::Engine;
use super::inspect::{Inspected, inspect};
use super::manifest::Manifest;
use super::package::{self, Package};
use super::schema::ConfigSchema;
use crate::clock::Clock;
use crate::model::{Pin, PinState};

pub use watch::watch;

/// A problem with one field of a credential, for problem+json.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldProblem {
    /// JSON pointer into the credential's body, such as `/config/chat_id`.
    pub pointer: String,
    /// Machine-readable, such as `required`.
    pub code: &'static str,
    /// For an admin.
    pub detail: String,
}

/// One version of a plugin, checked and compiled.
pub struct Plugin {
    #[allow(missing_docs)]
    pub manifest: Arc<Manifest>,
    /// SHA-256 of its file.
    pub digest: [u8; 32],
    /// `channel@version`, for attempts and logs.
    pub label: String,
    /// Ready to be called.
    pub inspected: Inspected,
    schema: ConfigSchema,
}

impl Plugin {
    /// The config with the schema's defaults filled in, or everything that is wrong with it.
    pub fn check_config(
        &self,
        config: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<serde_json::Map<String, serde_json::Value>, Vec<FieldProblem>> {
        self.schema.check(config)
    }

    /// The config schema.
    pub fn schema(&self) -> &ConfigSchema {
        &self.schema
    }
}

/// What `GET /api/channels` shows of one file.
#[derive(Debug, Clone)]
pub struct VersionStatus {
    #[allow(missing_docs)]
    pub channel: Option<String>,
    #[allow(missing_docs)]
    pub version: Option<String>,
    /// File name in the channels folder.
    pub file: String,
    /// SHA-256 in hex.
    pub digest: String,
    /// `active`, `standby`, `removed` or `refused`.
    pub state: &'static str,
    /// Why it was refused.
    pub reason: Option<String>,
    #[allow(missing_docs)]
    pub manifest: Option<Arc<Manifest>>,
    /// What the component really imports.
    pub imports: Vec<String>,
}

/// Why an install, activation or removal was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The file is not a plugin this host can run; the text says why and what to do.
    #[error("{0}")]
    Refused(String),
    /// No such channel or version.
    #[error("no version {version} of channel {channel} is installed")]
    Unknown {
        #[allow(missing_docs)]
        channel: String,
        #[allow(missing_docs)]
        version: String,
    },
    /// The folder could not be written.
    #[error("channels folder: {0}")]
    Folder(String),
}

impl From<PluginError> for RegistryError {
    fn from(error: PluginError) -> Self {
        match error {
            PluginError::Refused(reason) | PluginError::Engine(reason) => Self::Refused(reason),
            PluginError::Folder(reason) => Self::Folder(reason),
        }
    }
}

/// Keeps the admin's decisions about versions. The store does it in the host.
#[async_trait]
pub trait Pins: Send + Sync {
    /// Writes the pin of a version; an active one replaces the channel's other active pin.
    async fn set(&self, pin: Pin) -> Result<(), String>;
}

/// Where things are, and what was decided before.
pub struct RegistryOptions {
    /// The folder that operators drop files into.
    pub channels_dir: PathBuf,
    /// Private folder for kept files and compiled code.
    pub data_dir: PathBuf,
    /// Key of the compiled code's HMAC.
    pub code_key: [u8; 32],
    /// Decisions read from the store at the start.
    pub pins: Vec<Pin>,
    /// An environment for trial instances: no credential, no rights.
    pub trial: TrialEnv,
    /// Dates the admin's decisions.
    pub clock: Arc<dyn Clock>,
}

/// Makes the environment of a trial instance.
pub type TrialEnv = Arc<dyn Fn(Arc<Manifest>) -> Arc<CallEnv> + Send + Sync>;

/// The installed plugins. Cheap to ask: the serving version of a channel is one atomic load and a map look-up.
pub struct Registry {
    engine: Arc<Engine>,
    linkers: Linkers,
    cache: CodeCache,
    pins: Arc<dyn Pins>,
    trial: TrialEnv,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// One scan at a time; held over compilation, unlike `state`.
    scanning: tokio::sync::Mutex<()>,
    /// One compilation at a time, uploads included: it takes CPU and memory.
    compiling: tokio::sync::Semaphore,
    active: ArcSwap<HashMap<String, Arc<Plugin>>>,
    changes: tokio::sync::watch::Sender<u64>,
}

struct State {
    files: Files,
    plugins: HashMap<[u8; 32], Arc<Plugin>>,
    pins: BTreeMap<(String, String), Pin>,
}

impl Registry {
    /// Makes the folders and loads every plugin in them. Files that cannot serve are refused, never an error.
    pub async fn open(engine: Arc<Engine>, pins: Arc<dyn Pins>, options: RegistryOptions) -> Result<Arc<Self>, PluginError> {
        let RegistryOptions { channels_dir, data_dir, code_key, pins: known, trial, clock } = options;
        let registry = Arc::new(Self {
            linkers: Linkers::new(&engine)?,
            cache: CodeCache::new(&data_dir.join("compiled"), code_key)?,
            pins,
            trial,
            clock,
            state: Mutex::new(State {
                files: Files::open(channels_dir, data_dir.join("plugins"))?,
                plugins: HashMap::new(),
                pins: known.into_iter().map(|pin| ((pin.channel.clone(), pin.version.clone()), pin)).collect(),
            }),
            scanning: tokio::sync::Mutex::new(()),
            compiling: tokio::sync::Semaphore::new(1),
            active: ArcSwap::default(),
            changes: tokio::sync::watch::Sender::new(0),
            engine,
        });
        registry.scan().await;
        Ok(registry)
    }

    /// The version that serves `channel` now.
    pub fn get(&self, channel: &str) -> Option<Arc<Plugin>> {
        self.active.load().get(channel).cloned()
    }

    /// The engine that runs them.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Counts up whenever another version serves some channel, or a file was taken up or refused.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Every file seen, refused ones too.
    pub fn list(&self) -> Vec<VersionStatus> {
        let state = self.state();
        let active = self.active.load();
        let mut all: Vec<VersionStatus> = Vec::new();
        for (name, file) in state.files.iter() {
            if let FileState::Refused { digest, reason } = &file.state {
                all.push(VersionStatus {
                    channel: None,
                    version: None,
                    file: name.clone(),
                    digest: hex::encode(digest),
                    state: "refused",
                    reason: Some(reason.clone()),
                    manifest: None,
                    imports: Vec::new(),
                });
            }
            let Some(plugin) = file.serving().and_then(|digest| state.plugins.get(&digest)) else { continue };
            let manifest = &plugin.manifest;
            let serves = active.get(&manifest.channel).is_some_and(|serving| serving.digest == plugin.digest);
            all.push(VersionStatus {
                channel: Some(manifest.channel.clone()),
                version: Some(manifest.version.to_string()),
                file: name.clone(),
                digest: hex::encode(plugin.digest),
                state: match state.pin(manifest) {
                    _ if serves => "active",
                    Some(PinState::Removed) => "removed",
                    _ => "standby",
                },
                reason: None,
                manifest: Some(manifest.clone()),
                imports: plugin.inspected.imports.clone(),
            });
        }
        all
    }

    /// Checks, compiles and stores a plugin file; it serves when it is the channel's newest version and none is pinned.
    pub async fn install(&self, bytes: Vec<u8>) -> Result<VersionStatus, RegistryError> {
        let package =
            tokio::task::spawn_blocking(move || package::read(bytes)).await.map_err(|e| RegistryError::Refused(e.to_string()))??;
        let (channel, version) = (package.manifest.channel.clone(), package.manifest.version.to_string());
        let (bytes, digest) = (package.bytes.clone(), package.digest);
        let plugin = self.load(package).await?;
        {
            let state = self.state();
            if let Some(other) = state.plugins.values().find(|p| state.installed(p) && p.label == plugin.label && p.digest != digest) {
                return Err(RegistryError::Refused(format!("another file is installed as {}; raise the version", other.label)));
            }
            let path = state.files.path_for(&channel, &version);
            super::write_whole(&path, &bytes).map_err(|e| RegistryError::Folder(format!("{}: {e}", path.display())))?;
        }
        self.scan().await;
        let found = self.list().into_iter().find(|status| status.digest == hex::encode(digest));
        found.ok_or(RegistryError::Unknown { channel, version })
    }

    /// Makes this version serve, and keeps it so over restarts.
    pub async fn activate(&self, channel: &str, version: &str) -> Result<(), RegistryError> {
        self.decide(channel, version, PinState::Active).await
    }

    /// Takes this version out of service; the channel's lanes park when it was the last.
    pub async fn remove(&self, channel: &str, version: &str) -> Result<(), RegistryError> {
        self.decide(channel, version, PinState::Removed).await
    }

    async fn decide(&self, channel: &str, version: &str, decision: PinState) -> Result<(), RegistryError> {
        let unknown = || RegistryError::Unknown { channel: channel.to_owned(), version: version.to_owned() };
        let digest = {
            let state = self.state();
            let plugin = state.plugins.values().find(|p| p.manifest.channel == channel && p.manifest.version.to_string() == version);
            let plugin = plugin.filter(|p| state.installed(p)).ok_or_else(unknown)?;
            plugin.digest
        };
        let now = self.clock.now();
        let pin = Pin { channel: channel.to_owned(), version: version.to_owned(), digest, state: decision, updated_at: now };
        self.pins.set(pin.clone()).await.map_err(RegistryError::Folder)?;
        let mut state = self.state();
        if decision == PinState::Active {
            state.pins.retain(|(known, _), pin| known != channel || pin.state != PinState::Active);
        }
        state.pins.insert((pin.channel.clone(), pin.version.clone()), pin);
        self.choose(&state);
        Ok(())
    }

    /// Looks through the channels folder and takes up what changed. Compiles on a blocking thread.
    pub async fn scan(&self) {
        let _one_at_a_time = self.scanning.lock().await;
        let found = self.state().files.look();
        let news = !found.is_empty();
        for file in found {
            // One at a time: a folder full of files must not be in memory as a whole.
            let Ok(file) = tokio::task::spawn_blocking(move || file.read()).await else { continue };
            let loaded = match file.bytes {
                Ok(bytes) => match tokio::task::spawn_blocking(move || package::read(bytes)).await {
                    Ok(Ok(package)) => self.take(&file.name, package).await,
                    Ok(Err(error)) => Err(error),
                    Err(error) => Err(PluginError::Engine(error.to_string())),
                },
                Err(reason) => Err(PluginError::Refused(reason)),
            };
            let mut state = self.state();
            match loaded {
                Ok(plugin) => {
                    tracing::info!(file = %file.name, plugin = %plugin.label, "plugin loaded");
                    state.plugins.insert(plugin.digest, plugin.clone());
                    state.files.loaded(&file.name, file.stamp, plugin.digest);
                }
                Err(error) => {
                    tracing::error!(file = %file.name, reason = %error, "plugin file refused");
                    state.files.refused(&file.name, file.stamp, file.digest, error.to_string());
                }
            }
        }
        self.revive().await;
        let mut state = self.state();
        let installed: HashSet<[u8; 32]> = state.files.iter().filter_map(|(_, file)| file.serving()).collect();
        state.plugins.retain(|digest, _| installed.contains(digest));
        self.choose(&state);
        drop(state);
        if news {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// After a restart: the file in the folder is broken, but the one before it is kept.
    async fn revive(&self) {
        let missing: Vec<([u8; 32], PathBuf)> = {
            let state = self.state();
            let wanted = state.files.iter().filter_map(|(_, file)| file.serving());
            wanted.filter(|digest| !state.plugins.contains_key(digest)).map(|digest| (digest, state.files.kept(&digest))).collect()
        };
        for (digest, path) in missing {
            let Ok(bytes) = std::fs::read(&path) else { continue };
            let Ok(package) = package::read(bytes) else { continue };
            if package.digest == digest
                && let Ok(plugin) = self.load(package).await
            {
                tracing::warn!(plugin = %plugin.label, "the file in the channels folder is refused; the version before it serves on");
                self.state().plugins.insert(digest, plugin);
            }
        }
    }

    async fn take(&self, name: &str, package: Package) -> Result<Arc<Plugin>, PluginError> {
        let label = label(&package.manifest);
        {
            let state = self.state();
            let clash = state.files.iter().find(|(other, file)| {
                let plugin = file.serving().and_then(|digest| state.plugins.get(&digest));
                *other != name && plugin.is_some_and(|p| p.label == label && p.digest != package.digest)
            });
            if let Some((other, _)) = clash {
                return Err(PluginError::Refused(format!(
                    "{label} is installed from {other} already; raise the version or remove that file"
                )));
            }
            if let Some(plugin) = state.plugins.get(&package.digest) {
                return Ok(plugin.clone());
            }
            state.files.keep(&package)?;
        }
        self.load(package).await
    }

    /// Compiles and tries a package.
    async fn load(&self, package: Package) -> Result<Arc<Plugin>, PluginError> {
        let schema = ConfigSchema::new(&package.manifest.config.schema).map_err(PluginError::Refused)?;
        let (manifest, digest) = (Arc::new(package.manifest.clone()), package.digest);
        let component = self.compile(package).await?;
        let inspected = inspect(&self.linkers, &manifest, &component)?;
        let slot = self.engine.aside().await;
        inspected.trial(trial_store(&self.engine, (self.trial)(manifest.clone()))).await?;
        drop(slot);
        Ok(Arc::new(Plugin { label: label(&manifest), manifest, digest, inspected, schema }))
    }

    async fn compile(&self, package: Package) -> Result<wasmtime::component::Component, PluginError> {
        // The semaphore is never closed.
        let _alone = self.compiling.acquire().await.ok();
        let (engine, cache) = (self.engine.wasmtime().clone(), self.cache.clone());
        tokio::task::spawn_blocking(move || cache.load(&engine, &package)).await.map_err(|e| PluginError::Engine(e.to_string()))?
    }

    /// For every channel: the pinned version, else the newest that was not removed.
    fn choose(&self, state: &State) {
        let mut chosen: HashMap<String, Arc<Plugin>> = HashMap::new();
        for plugin in state.plugins.values().filter(|plugin| state.installed(plugin)) {
            let better = match (state.pin(&plugin.manifest), chosen.get(&plugin.manifest.channel)) {
                (Some(PinState::Removed), _) => false,
                (Some(PinState::Active), _) | (None, None) => true,
                (None, Some(other)) => {
                    state.pin(&other.manifest) != Some(PinState::Active) && other.manifest.version < plugin.manifest.version
                }
            };
            if better {
                chosen.insert(plugin.manifest.channel.clone(), plugin.clone());
            }
        }
        let before = self.active.swap(Arc::new(chosen));
        let now = self.active.load();
        let same = before.len() == now.len() && before.iter().all(|(channel, p)| now.get(channel).is_some_and(|q| q.digest == p.digest));
        if !same {
            for (channel, plugin) in now.iter().filter(|(channel, p)| before.get(*channel).is_none_or(|q| q.digest != p.digest)) {
                tracing::info!(%channel, version = %plugin.manifest.version, "plugin serves");
            }
            for channel in before.keys().filter(|channel| !now.contains_key(*channel)) {
                tracing::warn!(%channel, "no plugin serves this channel any more; its lanes are parked");
            }
            self.changes.send_modify(|count| *count += 1);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held leaves maps that are whole: each change is one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn pin(&self, manifest: &Manifest) -> Option<PinState> {
        self.pins.get(&(manifest.channel.clone(), manifest.version.to_string())).map(|pin| pin.state)
    }

    fn installed(&self, plugin: &Plugin) -> bool {
        self.files.iter().any(|(_, file)| file.serving() == Some(plugin.digest))
    }
}

fn label(manifest: &Manifest) -> String {
    format!("{}@{}", manifest.channel, manifest.version)
}
