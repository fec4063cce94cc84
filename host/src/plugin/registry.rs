//! What is installed: every version of every channel, which one serves, and why a file was refused.

use std::sync::Arc;

use super::manifest::Manifest;

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
    pub manifest: Manifest,
    /// SHA-256 of its file.
    pub digest: [u8; 32],
}

impl Plugin {
    /// The config with the schema's defaults filled in, or everything that is wrong with it.
    pub fn check_config(
        &self,
        config: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<serde_json::Map<String, serde_json::Value>, Vec<FieldProblem>> {
        let _ = config;
        unimplemented!()
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

/// The installed plugins. Cheap to ask: the serving version of a channel is one atomic load and a map look-up.
pub struct Registry {}

impl Registry {
    /// The version that serves `channel` now.
    pub fn get(&self, channel: &str) -> Option<Arc<Plugin>> {
        let _ = channel;
        unimplemented!()
    }

    /// Every file seen, refused ones too.
    pub fn list(&self) -> Vec<VersionStatus> {
        unimplemented!()
    }

    /// Checks, compiles and stores a plugin file; it serves when it is the channel's newest version and none is pinned.
    pub async fn install(&self, bytes: Vec<u8>) -> Result<VersionStatus, RegistryError> {
        let _ = bytes;
        unimplemented!()
    }

    /// Makes this version serve, and keeps it so over restarts.
    pub async fn activate(&self, channel: &str, version: &str) -> Result<(), RegistryError> {
        let _ = (channel, version);
        unimplemented!()
    }

    /// Takes this version out of service; the channel's lanes park when it was the last.
    pub async fn remove(&self, channel: &str, version: &str) -> Result<(), RegistryError> {
        let _ = (channel, version);
        unimplemented!()
    }
}
