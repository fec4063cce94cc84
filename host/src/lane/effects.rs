//! The only way from a plugin call to the store.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::model::{CredentialId, Exchange};
use crate::plugin::call::{Effects, KvFailure};
use crate::policy::outcome::Verdict;
use crate::store::{JobRef, KvWrite, KvWritten, Store};

/// Bytes of keys and values that one credential may hold.
const KV_QUOTA_BYTES: u64 = 1 << 20;

/// A verdict on its way to the store.
pub(super) struct Settled {
    pub(super) item: usize,
    pub(super) verdict: Verdict,
    pub(super) exchanges: Vec<Exchange>,
}

/// The effects of a `deliver` call.
pub(super) struct DeliverEffects {
    pub(super) kv: Kv,
    pub(super) jobs: Vec<JobRef>,
    /// Bounded by the number of items: each is settled once.
    pub(super) settled: mpsc::UnboundedSender<Settled>,
}

/// The effects of a `check` call: none but its small state.
pub(super) struct CheckEffects {
    kv: Kv,
}

impl CheckEffects {
    pub(super) fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, credential: CredentialId) -> Self {
        Self { kv: Kv { store, clock, credential } }
    }
}

/// One credential's small state.
pub(super) struct Kv {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) credential: CredentialId,
}

impl Kv {
    pub(super) async fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u64)>, KvFailure> {
        let entry = self.store.kv_get(self.credential, key, self.clock.now()).await.map_err(unavailable)?;
        Ok(entry.map(|entry| (entry.value, u64::try_from(entry.version).unwrap_or(0))))
    }

    async fn set(&self, key: &str, value: Vec<u8>, ttl: Option<Duration>, expected: Option<Option<u64>>) -> Result<bool, KvFailure> {
        let now = self.clock.now();
        let write = KvWrite {
            credential: self.credential,
            key: key.to_owned(),
            value,
            expires_at: ttl.map(|ttl| now.plus(ttl)),
            expected: expected.map(|version| version.map(|v| i64::try_from(v).unwrap_or(i64::MAX))),
            quota_bytes: KV_QUOTA_BYTES,
            now,
        };
        match self.store.kv_write(write).await.map_err(unavailable)? {
            KvWritten::Stored => Ok(true),
            KvWritten::Mismatch => Ok(false),
            KvWritten::Quota => Err(KvFailure::Quota),
        }
    }

    async fn delete(&self, key: &str) -> Result<(), KvFailure> {
        self.store.kv_delete(self.credential, key).await.map_err(unavailable)
    }
}

fn unavailable(error: crate::store::StoreError) -> KvFailure {
    tracing::error!(%error, "a plugin's state could not be used");
    KvFailure::Unavailable
}

#[async_trait]
impl Effects for DeliverEffects {
    fn settle(&self, item: usize, verdict: Verdict, exchanges: Vec<Exchange>) {
        // The receiver outlives the call.
        let _ = self.settled.send(Settled { item, verdict, exchanges });
    }

    async fn checkpoint(&self, item: usize, memo: String) -> bool {
        let Some(job) = self.jobs.get(item) else { return false };
        match self.kv.store.checkpoint(*job, &memo).await {
            Ok(stored) => stored,
            Err(error) => {
                tracing::error!(%error, delivery.id = %job.delivery, "a checkpoint could not be stored");
                false
            }
        }
    }

    async fn kv_get(&self, key: &str) -> Result<Option<(Vec<u8>, u64)>, KvFailure> {
        self.kv.get(key).await
    }

    async fn kv_set(&self, key: &str, value: Vec<u8>, ttl: Option<Duration>, expected: Option<Option<u64>>) -> Result<bool, KvFailure> {
        self.kv.set(key, value, ttl, expected).await
    }

    async fn kv_delete(&self, key: &str) -> Result<(), KvFailure> {
        self.kv.delete(key).await
    }
}

#[async_trait]
impl Effects for CheckEffects {
    fn settle(&self, _item: usize, _verdict: Verdict, _exchanges: Vec<Exchange>) {}

    async fn checkpoint(&self, _item: usize, _memo: String) -> bool {
        false
    }

    async fn kv_get(&self, key: &str) -> Result<Option<(Vec<u8>, u64)>, KvFailure> {
        self.kv.get(key).await
    }

    async fn kv_set(&self, key: &str, value: Vec<u8>, ttl: Option<Duration>, expected: Option<Option<u64>>) -> Result<bool, KvFailure> {
        self.kv.set(key, value, ttl, expected).await
    }

    async fn kv_delete(&self, key: &str) -> Result<(), KvFailure> {
        self.kv.delete(key).await
    }
}
