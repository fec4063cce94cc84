//! A credential: one project's or entity's settings and secrets for one channel.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{CredentialId, ProjectId, Timestamp};

/// A secret as stored: encrypted, with the id of the master key that opens it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSecret {
    /// Which master key.
    pub key_id: String,
    /// Nonce, ciphertext and tag; base64 in JSON.
    #[serde(with = "base64_bytes")]
    pub sealed: Vec<u8>,
    #[allow(missing_docs)]
    pub updated_at: Timestamp,
}

impl std::fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&base64::display::Base64Display::new(bytes, &STANDARD))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map_err(serde::de::Error::custom)
    }
}

/// The host's word on a credential. Anything but `Active` parks its lane; deliveries stay queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CredentialState {
    /// Delivering.
    Active,
    /// Paused by an admin.
    Paused,
    /// The remote side refuses it, or its settings cannot work; an admin must act.
    Invalid,
    /// Too many failures in a row; tried again by itself.
    BreakerOpen,
    /// The remote side asked to wait.
    Throttled,
    /// No plugin serves its channel now.
    PluginMissing,
}

/// Why a credential is not active.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StateReason {
    /// Machine-readable, such as `unauthorized`.
    pub code: String,
    /// For an admin.
    pub message: String,
}

/// A credential's own retry rules; they stand over the channel's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, try_from = "RetryFields")]
pub enum RetryOverride {
    /// A pause before each further attempt, such as `["5s", "1m", "10m"]`: as many retries as entries.
    Schedule {
        #[allow(missing_docs)]
        schedule: Vec<String>,
    },
    /// Exponential: `min(base_ms · 2^n, max_ms)` and up to 10 % more.
    Exponential {
        /// Attempts in all, 1 to 100.
        tries: u32,
        /// Milliseconds.
        base_ms: u64,
        /// Milliseconds.
        max_ms: u64,
    },
}

impl RetryOverride {
    /// Longest pause between two attempts, in milliseconds: 30 days.
    pub const MAX_PAUSE_MS: u64 = 30 * 86_400_000;
}

// Derived, it would not say that either has no other fields.
impl utoipa::PartialSchema for RetryOverride {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, ObjectBuilder, OneOfBuilder, Type};
        let object = || ObjectBuilder::new().additional_properties(Some(AdditionalProperties::FreeForm(false)));
        let number = |min: u32| ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(min));
        let pause = || number(1).maximum(Some(Self::MAX_PAUSE_MS));
        let pauses = ArrayBuilder::new().items(ObjectBuilder::new().schema_type(Type::String));
        let schedule = object()
            .property("schedule", pauses.description(Some("A pause before each further attempt, such as `[\"5s\", \"1m\", \"10m\"]`")))
            .required("schedule");
        let exponential = object()
            .description(Some("`min(base_ms · 2^n, max_ms)` and up to 10 % more"))
            .property("tries", number(1).maximum(Some(100)).description(Some("Attempts in all, 1 to 100")))
            .property("base_ms", pause().description(Some("Milliseconds")))
            .property("max_ms", pause().description(Some("Milliseconds")))
            .required("tries")
            .required("base_ms")
            .required("max_ms");
        OneOfBuilder::new().item(schedule).item(exponential).description(Some("An own retry rule; it stands over the channel's.")).into()
    }
}

impl utoipa::ToSchema for RetryOverride {}

/// As written. Without it, the reader could not say which field is wrong.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryFields {
    schedule: Option<Vec<String>>,
    tries: Option<u32>,
    base_ms: Option<u64>,
    max_ms: Option<u64>,
}

impl TryFrom<RetryFields> for RetryOverride {
    type Error = &'static str;

    fn try_from(fields: RetryFields) -> Result<Self, Self::Error> {
        match fields {
            RetryFields { schedule: Some(schedule), tries: None, base_ms: None, max_ms: None } => Ok(Self::Schedule { schedule }),
            RetryFields { schedule: None, tries: Some(tries), base_ms: Some(base_ms), max_ms: Some(max_ms) } => {
                Ok(Self::Exponential { tries, base_ms, max_ms })
            }
            _ => Err("must have either `schedule`, or `tries`, `base_ms` and `max_ms`"),
        }
    }
}

/// What a credential is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Purpose {
    /// An admin's: for leads, and for whatever names it.
    #[default]
    Standing,
    /// Made by the host for callbacks to URLs of this origin; signed with the project's secret.
    Callback {
        /// Such as `https://client.example`.
        origin: String,
    },
    /// Given with one send, and erased when its batch ends.
    Send,
}

/// A credential as stored. `Debug` shows no secret: they are sealed.
#[derive(Debug, Clone, PartialEq)]
pub struct Credential {
    /// Also the id of its lane.
    pub id: CredentialId,
    #[allow(missing_docs)]
    pub project: ProjectId,
    #[allow(missing_docs)]
    pub purpose: Purpose,
    /// `None`: for the whole project.
    pub entity: Option<String>,
    #[allow(missing_docs)]
    pub channel: String,
    #[allow(missing_docs)]
    pub name: String,
    /// The admin's switch: disabled ones are left out by auto mode and what is queued stays parked.
    pub enabled: bool,
    /// Valid against the plugin's schema when it was written.
    pub config: serde_json::Map<String, serde_json::Value>,
    #[allow(missing_docs)]
    pub secrets: BTreeMap<String, SealedSecret>,
    /// Remote field → template, constant or value map.
    pub mapping: serde_json::Map<String, serde_json::Value>,
    /// A CEL expression over the lead; `None` lets every lead through.
    pub filter: Option<String>,
    #[allow(missing_docs)]
    pub retry: Option<RetryOverride>,
    /// What the host stores about it: `Active`, `Paused` or `Invalid`. The passing states are the lane's, in memory.
    pub state: CredentialState,
    #[allow(missing_docs)]
    pub state_reason: Option<StateReason>,
    #[allow(missing_docs)]
    pub state_since: Timestamp,
    /// Grows by one with every write; a write names the version it read.
    pub version: i64,
    #[allow(missing_docs)]
    pub created_at: Timestamp,
    #[allow(missing_docs)]
    pub updated_at: Timestamp,
}
