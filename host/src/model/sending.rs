//! How a project's leads are sent.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{CredentialId, SealedSecret, Timestamp};

/// What becomes of a project's credential where the lead's entity has one of the same channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EntityCredentials {
    /// The entity's stands in for the project's.
    #[default]
    Instead,
    /// Both get the lead.
    Both,
}

/// Settings of a project that say how its leads are sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SendingSettings {
    #[allow(missing_docs)]
    pub entity_credentials: EntityCredentials,
    /// What is done about leads that are not delivered in time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<FallbackRule>,
}

/// "Delivered there within this time, else here."
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FallbackRule {
    /// For the admin.
    pub name: String,
    /// Deliveries of this channel …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// … or of this credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialId>,
    /// Seconds from when the delivery is due.
    pub within_sec: u32,
    /// Where the lead goes then.
    pub to: Vec<FallbackTarget>,
}

/// Where a lead goes that was not delivered in time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FallbackTarget {
    #[allow(missing_docs)]
    pub credential: CredentialId,
    #[allow(missing_docs)]
    pub channel: String,
    /// Over the credential's config; a JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Value>,
}

/// What callbacks to URLs are signed with (Standard Webhooks).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CallbackSecrets {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[allow(missing_docs)]
    pub current: Option<SealedSecret>,
    /// The one before it, which signs as well until the time beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<(SealedSecret, Timestamp)>,
}
