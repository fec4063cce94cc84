//! Projects and the keys that may act on them.

use serde::{Deserialize, Serialize};

use super::{CallbackSecrets, KeyId, ProjectId, RetentionSettings, SendingSettings, Timestamp};

/// When a second lead with the same content is a duplicate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DedupSettings {
    #[allow(missing_docs)]
    pub enabled: bool,
    /// Seconds for which the first lead is remembered, 1 to 2,592,000 (30 days). Default 3,600.
    #[schema(minimum = 1, maximum = 2_592_000)]
    pub ttl_sec: u32,
    /// By which fields of leads without an `external_id` the same lead is known, 1 to 16 of: `entity`, `title`, `name`,
    /// `company`, `phones`, `emails`, `comment`, `value`, `fields` (all of your own), `fields.NAME`, `origin.NAME`. Absent or
    /// null: entity, title, comment, phones, emails and all own fields (and the name, where there is neither phone nor e-mail).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<Vec<String>>,
    /// Default `answer`.
    pub on_duplicate: OnDuplicate,
}

/// What becomes of a lead that is there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDuplicate {
    /// The answer says so.
    #[default]
    Answer,
    /// Beside that, the event `lead.duplicate` goes to where the lead would have gone, as far as the channels take it.
    Note,
}

impl Default for DedupSettings {
    fn default() -> Self {
        Self { enabled: true, ttl_sec: 3_600, fields: None, on_duplicate: OnDuplicate::default() }
    }
}

/// An owner of settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Project {
    #[allow(missing_docs)]
    pub id: ProjectId,
    /// The client's own id of it; unique.
    pub external_id: String,
    #[allow(missing_docs)]
    pub name: String,
    /// ISO 3166 region in which numbers without a country code are read. Default `RU`.
    pub default_region: String,
    /// IANA name. Default `Europe/Moscow`.
    pub time_zone: String,
    /// Language of texts made for people. Default `ru`.
    pub locale: String,
    #[allow(missing_docs)]
    pub dedup: DedupSettings,
    #[allow(missing_docs)]
    pub sending: SendingSettings,
    /// How long its leads are kept.
    pub retention: RetentionSettings,
    /// What callbacks to URLs are signed with.
    pub callback_secrets: CallbackSecrets,
    #[allow(missing_docs)]
    pub created_at: Timestamp,
    #[allow(missing_docs)]
    pub updated_at: Timestamp,
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub enum Scope {
    /// Send leads.
    #[serde(rename = "leads:write")]
    LeadsWrite,
    /// Read leads, batches and deliveries.
    #[serde(rename = "leads:read")]
    LeadsRead,
    /// Everything inside its project.
    #[serde(rename = "project:admin")]
    ProjectAdmin,
    /// Everything, plugins and keys included.
    #[serde(rename = "platform:admin")]
    PlatformAdmin,
}

/// How often a key may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Requests a second in the long run, 1 to 100,000.
    #[schema(minimum = 1, maximum = 100_000)]
    pub per_sec: u32,
    /// Requests at once after a rest, 1 to 100,000.
    #[schema(minimum = 1, maximum = 100_000)]
    pub burst: u32,
}

impl RateLimit {
    /// The most of either.
    pub const MAX: u32 = 100_000;
}

/// An API key as stored: only a hash of its text.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiKey {
    #[allow(missing_docs)]
    pub id: KeyId,
    #[allow(missing_docs)]
    pub name: String,
    /// SHA-256 of the key's text, which has at least 160 random bits.
    pub hash: [u8; 32],
    /// The first characters of the text, to recognise it by.
    pub hint: String,
    #[allow(missing_docs)]
    pub scopes: Vec<Scope>,
    /// The only project it sees; `None` sees all.
    pub project: Option<ProjectId>,
    /// `None`: the host's default.
    pub rate: Option<RateLimit>,
    /// The key that this one took over from.
    pub rotated_from: Option<KeyId>,
    /// The key that takes over from this one.
    pub replaced_by: Option<KeyId>,
    #[allow(missing_docs)]
    pub created_at: Timestamp,
    #[allow(missing_docs)]
    pub expires_at: Option<Timestamp>,
    #[allow(missing_docs)]
    pub revoked_at: Option<Timestamp>,
    #[allow(missing_docs)]
    pub last_used_at: Option<Timestamp>,
}
