//! What every request handler shares: one struct, cheap to clone, built in one place.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};

use crate::clock::Clock;
use crate::config::Config;
use crate::http::bodies::Bodies;
use crate::http::limits::KeyLimits;
use crate::lane::{CheckAnswer, LaneState, Lanes, Preview, Previewed};
use crate::live::Live;
use crate::metrics::Metrics;
use crate::model::{ApiKey, BatchId, BatchStatus, Credential, CredentialId, KeyId, Project, ProjectId, Timestamp};
use crate::plugin::manifest::Manifest;
use crate::plugin::registry::{FieldProblem, Registry, RegistryError, VersionStatus};
use crate::secrets::Vault;
use crate::store::{Changed, Store, StoreError};

/// How long a cached row is believed. Writes through this node are seen at once; those of other nodes after this.
const CACHE_TTL: Duration = Duration::from_secs(10);
/// Most rows of one cache; a full one is emptied.
const CACHE_ROWS: usize = 10_000;

/// What the HTTP interface asks of the installed plugins. A trait, so that its tests need no compiled component.
#[async_trait]
pub trait Channels: Send + Sync + 'static {
    /// Some plugin serves `channel` now.
    fn installed(&self, channel: &str) -> bool;
    /// The manifest of the version that serves `channel` now.
    fn manifest(&self, channel: &str) -> Option<Arc<Manifest>>;
    /// What is wrong with a config; empty when it is fine. `None`: no plugin serves the channel.
    fn check_config(&self, channel: &str, config: &Map<String, Value>) -> Option<Vec<FieldProblem>>;
    /// Every file seen, refused ones too.
    fn list(&self) -> Vec<VersionStatus>;
    #[allow(missing_docs)]
    async fn install(&self, bytes: Vec<u8>) -> Result<VersionStatus, RegistryError>;
    #[allow(missing_docs)]
    async fn activate(&self, channel: &str, version: &str) -> Result<(), RegistryError>;
    #[allow(missing_docs)]
    async fn remove(&self, channel: &str, version: &str) -> Result<(), RegistryError>;
}

#[async_trait]
impl Channels for Registry {
    fn installed(&self, channel: &str) -> bool {
        self.get(channel).is_some()
    }

    fn manifest(&self, channel: &str) -> Option<Arc<Manifest>> {
        self.get(channel).map(|plugin| plugin.manifest.clone())
    }

    fn check_config(&self, channel: &str, config: &Map<String, Value>) -> Option<Vec<FieldProblem>> {
        self.get(channel).map(|plugin| plugin.check_config(config).err().unwrap_or_default())
    }

    fn list(&self) -> Vec<VersionStatus> {
        Self::list(self)
    }

    async fn install(&self, bytes: Vec<u8>) -> Result<VersionStatus, RegistryError> {
        Self::install(self, bytes).await
    }

    async fn activate(&self, channel: &str, version: &str) -> Result<(), RegistryError> {
        Self::activate(self, channel, version).await
    }

    async fn remove(&self, channel: &str, version: &str) -> Result<(), RegistryError> {
        Self::remove(self, channel, version).await
    }
}

/// What the HTTP interface asks of the lanes. A trait for the same reason as [`Channels`].
#[async_trait]
pub trait Dispatch: Send + Sync + 'static {
    /// See [`Lanes::hint`].
    fn hint(&self, lanes: &[(CredentialId, Timestamp)]);
    /// See [`Lanes::timer`].
    fn timer(&self, due_at: Timestamp);
    /// See [`Lanes::credential_changed`].
    fn credential_changed(&self, id: CredentialId);
    /// See [`Lanes::credential_mended`].
    fn credential_mended(&self, id: CredentialId);
    /// See [`Lanes::state`].
    fn state(&self, id: CredentialId) -> Option<LaneState>;
    /// See [`Lanes::wait_for`].
    fn wait_for(&self, batch: BatchId) -> BoxFuture<'static, BatchStatus>;
    /// See [`Lanes::batch_ended`].
    fn batch_ended(&self, batch: BatchId, status: BatchStatus);
    /// See [`Lanes::check`].
    async fn check(&self, id: CredentialId) -> CheckAnswer;
    /// See [`Lanes::preview`].
    async fn preview(&self, id: CredentialId, preview: Preview) -> Result<Option<Previewed>, StoreError>;
}

#[async_trait]
impl Dispatch for Lanes {
    fn hint(&self, lanes: &[(CredentialId, Timestamp)]) {
        Self::hint(self, lanes);
    }

    fn timer(&self, due_at: Timestamp) {
        Self::timer(self, due_at);
    }

    fn credential_changed(&self, id: CredentialId) {
        Self::credential_changed(self, id);
    }

    fn credential_mended(&self, id: CredentialId) {
        Self::credential_mended(self, id);
    }

    fn state(&self, id: CredentialId) -> Option<LaneState> {
        Self::state(self, id)
    }

    fn wait_for(&self, batch: BatchId) -> BoxFuture<'static, BatchStatus> {
        Self::wait_for(self, batch).boxed()
    }

    fn batch_ended(&self, batch: BatchId, status: BatchStatus) {
        Self::batch_ended(self, batch, status);
    }

    async fn check(&self, id: CredentialId) -> CheckAnswer {
        Self::check(self, id).await
    }

    async fn preview(&self, id: CredentialId, preview: Preview) -> Result<Option<Previewed>, StoreError> {
        Self::preview(self, id, preview).await
    }
}

/// Shared state of the HTTP interface.
#[derive(Clone)]
pub struct App {
    #[allow(missing_docs)]
    pub store: Arc<dyn Store>,
    #[allow(missing_docs)]
    pub registry: Arc<dyn Channels>,
    #[allow(missing_docs)]
    pub lanes: Arc<dyn Dispatch>,
    #[allow(missing_docs)]
    pub vault: Arc<Vault>,
    #[allow(missing_docs)]
    pub clock: Arc<dyn Clock>,
    #[allow(missing_docs)]
    pub config: Arc<Config>,
    /// Wakes the runner of tasks.
    pub tasks: Arc<tokio::sync::Notify>,
    /// Wakes the runner of erasures.
    pub erasures: Arc<tokio::sync::Notify>,
    /// What clean-ups removed.
    pub retention: Arc<crate::chore::retention::Counts>,
    /// Bodies of requests.
    pub bodies: Arc<Bodies>,
    /// How often keys may be used.
    pub limits: Arc<KeyLimits>,
    /// What changes, for those who follow.
    pub live: Arc<Live>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// When what is looked up for them was.
    pub looked_at: Arc<tokio::sync::Mutex<Option<std::time::Instant>>>,
    caches: Arc<Caches>,
}

#[derive(Default)]
struct Caches {
    keys: Cache<[u8; 32], Arc<ApiKey>>,
    projects: Cache<ProjectId, Arc<Project>>,
    project_names: Cache<String, Arc<Project>>,
    credentials: Cache<ProjectId, Arc<[Arc<Credential>]>>,
    used: Mutex<BTreeMap<KeyId, Timestamp>>,
    running: Mutex<HashSet<[u8; 32]>>,
}

impl App {
    /// Puts the parts together.
    pub fn new(
        store: Arc<dyn Store>,
        registry: Arc<dyn Channels>,
        lanes: Arc<dyn Dispatch>,
        vault: Arc<Vault>,
        clock: Arc<dyn Clock>,
        config: Arc<Config>,
    ) -> Self {
        let bodies = Arc::new(Bodies::new(&config.http));
        let (tasks, erasures, retention, caches) = (Arc::default(), Arc::default(), Arc::default(), Arc::default());
        let (limits, looked_at) = (Arc::default(), Arc::default());
        let live = Arc::new(Live::new(store.clone(), &config.events));
        let metrics = Arc::new(Metrics::new(&*clock));
        Self { store, registry, lanes, vault, clock, config, tasks, erasures, retention, bodies, limits, live, metrics, looked_at, caches }
    }

    /// A person cancelled something: whoever waits for the batch hears of its end, and the lanes of what follows it.
    pub fn batch_changed(&self, changed: &Changed) {
        let now = self.now();
        let queued: Vec<_> = changed.queued.iter().map(|lane| (*lane, now)).collect();
        self.lanes.hint(&queued);
        changed.erased.iter().for_each(|lane| self.lanes.credential_changed(*lane));
        if changed.timer {
            self.lanes.timer(now);
        }
        if let Some(status) = changed.ended {
            self.lanes.batch_ended(changed.batch, status);
        }
    }

    #[allow(missing_docs)]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The key with this hash, revoked and expired ones too.
    pub async fn key(&self, hash: &[u8; 32]) -> Result<Option<Arc<ApiKey>>, StoreError> {
        self.caches.keys.get_or(hash, self.now(), async || Ok(self.store.key_by_hash(hash).await?.map(Arc::new))).await
    }

    /// A key was revoked or replaced.
    pub fn keys_changed(&self) {
        self.caches.keys.clear();
        self.live.keys_changed();
    }

    /// Notes that a key was used; written by [`App::flush_key_use`]. Only keys that the store has come here, so there are
    /// never more notes than keys.
    pub fn key_used(&self, id: KeyId, now: Timestamp) {
        lock(&self.caches.used).insert(id, now);
    }

    /// When this node last saw the key used, if the store has not been told yet.
    pub fn last_use(&self, id: KeyId) -> Option<Timestamp> {
        lock(&self.caches.used).get(&id).copied()
    }

    /// Writes the last use of keys to the store; to be called now and then. What could not be written is written next time.
    pub async fn flush_key_use(&self) -> Result<(), StoreError> {
        let used = lock(&self.caches.used).clone();
        if used.is_empty() {
            return Ok(());
        }
        self.store.touch_keys(&used).await?;
        lock(&self.caches.used).retain(|id, at| used.get(id) != Some(at));
        Ok(())
    }

    #[allow(missing_docs)]
    pub async fn project(&self, id: ProjectId) -> Result<Option<Arc<Project>>, StoreError> {
        self.caches.projects.get_or(&id, self.now(), async || Ok(self.store.project(id).await?.map(Arc::new))).await
    }

    #[allow(missing_docs)]
    pub async fn project_by_external_id(&self, external_id: &str) -> Result<Option<Arc<Project>>, StoreError> {
        let load = async || Ok(self.store.project_by_external_id(external_id).await?.map(Arc::new));
        self.caches.project_names.get_or(external_id, self.now(), load).await
    }

    /// A project was written.
    pub fn projects_changed(&self) {
        self.caches.projects.clear();
        self.caches.project_names.clear();
    }

    /// All credentials of a project.
    pub async fn credentials(&self, project: ProjectId) -> Result<Arc<[Arc<Credential>]>, StoreError> {
        let load = async || {
            let rows = self.store.credentials(project).await?;
            Ok(Some(rows.into_iter().map(Arc::new).collect::<Arc<[_]>>()))
        };
        let found = self.caches.credentials.get_or(&project, self.now(), load).await?;
        Ok(found.unwrap_or_default())
    }

    /// A credential was written or deleted: the next lead and the next call read it again.
    pub fn credential_changed(&self, project: ProjectId, id: CredentialId) {
        self.caches.credentials.remove(&project);
        self.lanes.credential_changed(id);
    }

    /// The same after an admin mended it: what the remote side asked for before counts no more.
    pub fn credential_mended(&self, project: ProjectId, id: CredentialId) {
        self.caches.credentials.remove(&project);
        self.lanes.credential_mended(id);
    }

    /// Marks an idempotency key as being worked on; `None` when it already is.
    pub fn begin(&self, scope: [u8; 32]) -> Option<Running> {
        let fresh = lock(&self.caches.running).insert(scope);
        fresh.then(|| Running { caches: Arc::clone(&self.caches), scope })
    }
}

/// An idempotency key that is being worked on until this is dropped.
pub struct Running {
    caches: Arc<Caches>,
    scope: [u8; 32],
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.caches.running).remove(&self.scope);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rows that were read a moment ago. What is absent is not remembered.
struct Cache<K, V> {
    rows: RwLock<HashMap<K, (V, Timestamp)>>,
    /// Grows with every write, so that a row read before a write is not kept after it.
    epoch: AtomicU64,
}

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self { rows: RwLock::default(), epoch: AtomicU64::new(0) }
    }
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    async fn get_or<Q>(
        &self,
        key: &Q,
        now: Timestamp,
        load: impl AsyncFnOnce() -> Result<Option<V>, StoreError>,
    ) -> Result<Option<V>, StoreError>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let hit = {
            let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
            rows.get(key).filter(|(_, at)| now.since(*at) < CACHE_TTL).map(|(row, _)| row.clone())
        };
        if hit.is_some() {
            return Ok(hit);
        }
        let epoch = self.epoch.load(Ordering::Acquire);
        let found = load().await?;
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        match &found {
            Some(row) if self.epoch.load(Ordering::Acquire) == epoch => {
                if rows.len() >= CACHE_ROWS {
                    rows.clear();
                }
                rows.insert(key.to_owned(), (row.clone(), now));
            }
            Some(_) => {}
            None => {
                rows.remove(key);
            }
        }
        Ok(found)
    }

    fn remove(&self, key: &K) {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        self.epoch.fetch_add(1, Ordering::AcqRel);
        rows.remove(key);
    }

    fn clear(&self) {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        self.epoch.fetch_add(1, Ordering::AcqRel);
        rows.clear();
    }
}
