//! How `integrations` is written in a body, and everything else that a send call says beside the lead.

use std::fmt;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::callbacks::Callbacks;
use super::error::ApiError;
use super::inline::InlineCredentials;
use crate::model::{CredentialId, Timestamp};
use crate::policy::FieldError;
use crate::policy::fanout::{Named, Wanted};

/// Most entries of a list.
const MAX_ENTRIES: usize = 100;
/// Longest delay: 30 days.
const MAX_DELAY_SEC: u32 = 2_592_000;

/// `"auto"`, or a list of channels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Integrations(pub Wanted);

/// One entry with more than a name.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// The channel.
    r#type: String,
    /// This credential and no other.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = "^crd_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    credential_id: Option<CredentialId>,
    /// Settings of this send over the credential's.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    settings: Option<Map<String, Value>>,
}

struct EntryOrName(Named);

impl<'de> Deserialize<'de> for EntryOrName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = EntryOrName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a channel, or an object with `type`, `credential_id`, `settings`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<EntryOrName, E> {
                Ok(EntryOrName(Named { channel: text.to_owned(), credential: None, settings: None }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EntryOrName, A::Error> {
                let entry = Entry::deserialize(MapAccessDeserializer::new(map))?;
                let settings = entry.settings.filter(|settings| !settings.is_empty());
                Ok(EntryOrName(Named { channel: entry.r#type, credential: entry.credential_id, settings }))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl<'de> Deserialize<'de> for Integrations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Integrations;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\" or a list of integrations")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Integrations, E> {
                if text == "auto" { Ok(Integrations(Wanted::Auto)) } else { Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)) }
            }

            fn visit_unit<E: Error>(self) -> Result<Integrations, E> {
                Ok(Integrations(Wanted::Auto))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Integrations, A::Error> {
                let mut named = Vec::new();
                while let Some(EntryOrName(entry)) = list.next_element()? {
                    if named.len() == MAX_ENTRIES {
                        return Err(A::Error::invalid_length(MAX_ENTRIES + 1, &"at most 100 integrations"));
                    }
                    named.push(entry);
                }
                Ok(Integrations(if named.is_empty() { Wanted::Auto } else { Wanted::Named(named) }))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl utoipa::PartialSchema for Integrations {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Type};
        let name = || ObjectBuilder::new().schema_type(Type::String);
        let entry = OneOfBuilder::new().item(name().description(Some("The name of a channel"))).item(Entry::schema());
        OneOfBuilder::new()
            .item(name().enum_values(Some(["auto"])))
            .item(ArrayBuilder::new().items(entry).max_items(Some(MAX_ENTRIES)))
            .description(Some("`\"auto\"` (also an empty list): all enabled credentials; or a list of channels"))
            .into()
    }
}

impl utoipa::ToSchema for Integrations {}

/// How a send call says when and how, beside where to.
#[derive(Debug, Default)]
pub struct SendFields {
    #[allow(missing_docs)]
    pub integrations: Option<Integrations>,
    #[allow(missing_docs)]
    pub delay_sec: Option<u32>,
    #[allow(missing_docs)]
    pub due_at: Option<Timestamp>,
    #[allow(missing_docs)]
    pub deadline_sec: Option<u32>,
    #[allow(missing_docs)]
    pub allow_failures: Option<bool>,
    #[allow(missing_docs)]
    pub callbacks: Option<Callbacks>,
}

/// What a send call says beside the lead, checked by itself.
#[derive(Default)]
pub struct SendOptions {
    #[allow(missing_docs)]
    pub wanted: Wanted,
    /// `None`: at once.
    pub due_at: Option<Timestamp>,
    /// When what was not sent fails.
    pub deadline_at: Option<Timestamp>,
    #[allow(missing_docs)]
    pub allow_failures: bool,
    #[allow(missing_docs)]
    pub callbacks: Callbacks,
    /// By channel.
    pub credentials: InlineCredentials,
}

impl SendOptions {
    /// Checked.
    pub fn new(fields: SendFields, now: Timestamp) -> Result<Self, ApiError> {
        let mut errors = Vec::new();
        let mut wrong = |at: &str, detail: &str| errors.push(FieldError::new(at, "invalid_value", detail));
        let longest = Duration::from_secs(u64::from(MAX_DELAY_SEC));
        let due_at = match (fields.delay_sec, fields.due_at) {
            (Some(_), Some(_)) => {
                wrong("/due_at", "stands beside `delay_sec`; give one of them");
                None
            }
            (Some(0), None) | (None, None) => None,
            (Some(seconds), None) => {
                if seconds > MAX_DELAY_SEC {
                    wrong("/delay_sec", "must be at most 2592000 (30 days)");
                }
                Some(now.plus(Duration::from_secs(u64::from(seconds))))
            }
            (None, Some(due_at)) => {
                if due_at > now.plus(longest) {
                    wrong("/due_at", "must be at most 30 days ahead");
                }
                Some(due_at).filter(|due_at| *due_at > now)
            }
        };
        let deadline_at = fields.deadline_sec.map(|seconds| now.plus(Duration::from_secs(u64::from(seconds))));
        if fields.deadline_sec.is_some_and(|seconds| !(1..=MAX_DELAY_SEC).contains(&seconds)) {
            wrong("/deadline_sec", "must be 1 to 2592000 (30 days)");
        } else if deadline_at.is_some_and(|deadline| due_at.is_some_and(|due_at| deadline <= due_at)) {
            wrong("/deadline_sec", "must lie after the first attempt: it counts from now, not from `due_at` or `delay_sec`");
        }
        if !errors.is_empty() {
            return Err(errors.into());
        }
        let wanted = fields.integrations.unwrap_or_default().0;
        let (allow_failures, callbacks) = (fields.allow_failures.unwrap_or(true), fields.callbacks.unwrap_or_default());
        Ok(Self { wanted, due_at, deadline_at, allow_failures, callbacks, credentials: InlineCredentials::new() })
    }
}
