//! `kv`: small state of one credential.

use std::time::Duration;

use tokio::time::Instant;

use crate::plugin::bindings::wit;
use crate::plugin::call::{CallState, KvFailure};

/// Bytes of a key.
const KEY_BYTES: usize = 256;
/// Calls in one call of the plugin.
const CALLS: u32 = 1_000;
/// Bytes of a value.
const VALUE_BYTES: usize = 64 << 10;

fn failure(failure: KvFailure) -> wit::kv::Failure {
    match failure {
        KvFailure::Quota => wit::kv::Failure::Quota,
        KvFailure::TooLarge => wit::kv::Failure::TooLarge,
        KvFailure::Unavailable => wit::kv::Failure::Unavailable,
    }
}

impl CallState {
    fn kv_counted(&mut self, key: &str) -> Result<(), wit::kv::Failure> {
        self.kv_calls += 1;
        if self.kv_calls > CALLS {
            self.note("it used its small state more than 1,000 times in one call (refused)");
            return Err(wit::kv::Failure::Quota);
        }
        if key.len() > KEY_BYTES { Err(wit::kv::Failure::TooLarge) } else { Ok(()) }
    }

    async fn kv_write(
        &mut self,
        key: String,
        value: Vec<u8>,
        ttl_s: Option<u32>,
        expected: Option<Option<u64>>,
    ) -> Result<bool, wit::kv::Failure> {
        self.kv_counted(&key)?;
        if value.len() > VALUE_BYTES {
            return Err(wit::kv::Failure::TooLarge);
        }
        if self.holds_secret(key.as_bytes()) || self.holds_secret(&value) {
            self.note("it tried to keep a secret in its state (refused)");
            return Err(wit::kv::Failure::Unavailable);
        }
        let ttl = ttl_s.map(|s| Duration::from_secs(s.into()));
        let since = Instant::now();
        let set = self.env.effects.kv_set(&key, value, ttl, expected).await.map_err(failure);
        self.waited(since);
        set
    }
}

impl wit::kv::Host for CallState {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<wit::kv::Entry>, wit::kv::Failure>> {
        if let Err(refused) = self.kv_counted(&key) {
            return Ok(Err(refused));
        }
        let since = Instant::now();
        let entry = self.env.effects.kv_get(&key).await;
        self.waited(since);
        Ok(entry.map(|entry| entry.map(|(value, version)| wit::kv::Entry { value, version })).map_err(failure))
    }

    async fn set(&mut self, key: String, value: Vec<u8>, ttl_s: Option<u32>) -> wasmtime::Result<Result<(), wit::kv::Failure>> {
        Ok(self.kv_write(key, value, ttl_s, None).await.map(drop))
    }

    async fn swap(
        &mut self,
        key: String,
        expected: Option<u64>,
        value: Vec<u8>,
        ttl_s: Option<u32>,
    ) -> wasmtime::Result<Result<bool, wit::kv::Failure>> {
        Ok(self.kv_write(key, value, ttl_s, Some(expected)).await)
    }

    async fn delete(&mut self, key: String) -> wasmtime::Result<Result<(), wit::kv::Failure>> {
        if let Err(refused) = self.kv_counted(&key) {
            return Ok(Err(refused));
        }
        let since = Instant::now();
        let deleted = self.env.effects.kv_delete(&key).await.map_err(failure);
        self.waited(since);
        Ok(deleted)
    }
}
