//! Work with secrets without seeing them. Which secret may be used how is said in the manifest.

use crate::{Body, sys};

pub use crate::bindings::leadwire::channel::secrets::{Failure, Mac};

/// From [`crate::Context::secrets`].
#[derive(Debug, Clone, Copy)]
pub struct Secrets(());

impl Secrets {
    pub(crate) fn new() -> Self {
        Self(())
    }

    /// Has the admin filled this field?
    pub fn has(&self, name: &str) -> bool {
        sys::secrets::has(name)
    }

    /// The keyed digest of `text`, with the secret as the key.
    pub fn sign(&self, name: &str, mac: Mac, text: impl Into<String>) -> Result<Vec<u8>, Failure> {
        sys::secrets::sign(name, mac, &Body::Text(text.into()))
    }

    /// The keyed digest of `bytes`, with the secret as the key.
    pub fn sign_bytes(&self, name: &str, mac: Mac, bytes: Vec<u8>) -> Result<Vec<u8>, Failure> {
        sys::secrets::sign(name, mac, &Body::Bytes(bytes))
    }

    /// Compares in constant time.
    pub fn matches(&self, name: &str, candidate: &str) -> Result<bool, Failure> {
        sys::secrets::matches(name, candidate)
    }

    /// The secret's text. Needs `secrets-reveal` in the manifest's `uses`, `reveal` in the secret's `use`, and the
    /// operator's grant; most channels never need it.
    pub fn reveal(&self, name: &str) -> Result<String, Failure> {
        sys::secrets_reveal::reveal(name)
    }
}
