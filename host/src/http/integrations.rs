//! How `integrations` is written in a body, and everything else that a send call says beside the lead.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::error::ApiError;
use crate::model::CredentialId;
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
    #[schema(value_type = Option<String>)]
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

/// Who is told when a batch ends.
#[derive(Debug, Clone, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Callbacks {
    /// When all deliveries have ended. Not supported yet: must be empty.
    #[schema(value_type = Vec<Object>)]
    pub then: Vec<Value>,
    /// When the batch failed. Not supported yet: must be empty.
    #[schema(value_type = Vec<Object>)]
    pub catch: Vec<Value>,
    /// In any case. Not supported yet: must be empty.
    #[schema(value_type = Vec<Object>)]
    pub finally: Vec<Value>,
}

/// What a send call says beside the lead.
#[derive(Debug, Default)]
pub struct SendOptions {
    #[allow(missing_docs)]
    pub wanted: Wanted,
    #[allow(missing_docs)]
    pub delay_sec: u32,
    #[allow(missing_docs)]
    pub allow_failures: bool,
}

impl SendOptions {
    /// Checked.
    pub fn new(
        integrations: Option<Integrations>,
        delay_sec: Option<u32>,
        allow_failures: Option<bool>,
        callbacks: Option<Callbacks>,
    ) -> Result<Self, ApiError> {
        let mut errors = Vec::new();
        let callbacks = callbacks.unwrap_or_default();
        for (name, list) in [("then", &callbacks.then), ("catch", &callbacks.catch), ("finally", &callbacks.finally)] {
            if !list.is_empty() {
                errors.push(FieldError::new(format!("/callbacks/{name}"), "not_supported_yet", "callbacks are not supported yet"));
            }
        }
        let delay_sec = delay_sec.unwrap_or(0);
        if delay_sec > MAX_DELAY_SEC {
            errors.push(FieldError::new("/delay_sec", "invalid_value", "must be at most 2592000 (30 days)"));
        }
        if !errors.is_empty() {
            return Err(errors.into());
        }
        let wanted = integrations.unwrap_or_default().0;
        Ok(Self { wanted, delay_sec, allow_failures: allow_failures.unwrap_or(true) })
    }
}
