//! Who is told when a batch ends, and what is told instead of a lead.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{CredentialId, Timestamp};

/// One receiver of the news that a batch has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callback {
    /// Through which it goes; for a URL, the host's own credential for the URL's origin.
    pub credential: CredentialId,
    #[allow(missing_docs)]
    pub channel: String,
    /// Over the credential's config; a JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Value>,
    /// The text, in the host's template language; `None`: the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
}

/// Who is told of a batch's end, and when.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Callbacks {
    /// When all deliveries have ended, whatever the result.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub then: Vec<Callback>,
    /// When the batch could not run, or failed as a whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub catch: Vec<Callback>,
    /// Always.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub finally: Vec<Callback>,
}

impl Callbacks {
    /// Nobody is told.
    pub fn is_empty(&self) -> bool {
        self.then.is_empty() && self.catch.is_empty() && self.finally.is_empty()
    }

    /// Everyone who may be told.
    pub fn all(&self) -> impl Iterator<Item = &Callback> {
        self.then.iter().chain(&self.catch).chain(&self.finally)
    }
}

/// What a delivery tells instead of a lead.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Such as `batch.completed`.
    pub kind: String,
    /// The id of what it happened to.
    pub external_id: String,
    #[allow(missing_docs)]
    pub at: Timestamp,
    #[allow(missing_docs)]
    pub data: Value,
    /// The text to be sent where a channel sends text; `None`: the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
}
