//! Small state of one credential: 64 KiB a value, 1 MiB in all.

use crate::sys;

pub use crate::bindings::leadwire::channel::kv::{Entry, Failure};

/// From [`crate::Context::kv`].
#[derive(Debug, Clone, Copy)]
pub struct Kv(());

impl Kv {
    pub(crate) fn new() -> Self {
        Self(())
    }

    /// The value and its version.
    pub fn get(&self, key: &str) -> Result<Option<Entry>, Failure> {
        sys::kv::get(key)
    }

    /// The value as text; `None` also when it is no UTF-8.
    pub fn get_text(&self, key: &str) -> Result<Option<String>, Failure> {
        Ok(self.get(key)?.and_then(|entry| String::from_utf8(entry.value).ok()))
    }

    /// Stores a value, for ever or for `ttl_s` seconds.
    pub fn set(&self, key: &str, value: &[u8], ttl_s: Option<u32>) -> Result<(), Failure> {
        sys::kv::set(key, value, ttl_s)
    }

    /// Stores only when the version is still `expected`; `None` means that the key must not exist.
    pub fn swap(&self, key: &str, expected: Option<u64>, value: &[u8], ttl_s: Option<u32>) -> Result<bool, Failure> {
        sys::kv::swap(key, expected, value, ttl_s)
    }

    /// Forgets a value.
    pub fn delete(&self, key: &str) -> Result<(), Failure> {
        sys::kv::delete(key)
    }
}
