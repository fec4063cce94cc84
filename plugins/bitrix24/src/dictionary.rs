//! What the portal's fields are: asked for once in ten minutes, and only for the fields that the mapping names.

use std::collections::{BTreeMap, BTreeSet};

use leadwire_sdk::{Context, Stop, log};
use serde::Deserialize;
use serde_json::Value;

use crate::{Config, command::Command, fault::Fault, portal::Replies, value::Field};

/// The mapping's names of a contact's fields begin so.
pub(crate) const CONTACT: &str = "contact.";
/// How long the portal's word on its fields holds.
const TTL_S: u32 = 600;

/// The fields of one kind of object, by the name that the mapping uses; `None` for those that the portal has not.
type Fields = BTreeMap<String, Option<Field>>;

/// The fields that the mapping names.
#[derive(Debug, Default)]
pub(crate) struct Dictionary {
    record: Kind,
    contact: Kind,
}

#[derive(Debug, Default)]
struct Kind {
    entity_type: u32,
    names: BTreeSet<String>,
    fields: Fields,
    asked: bool,
}

#[derive(Debug, Deserialize)]
struct Answer {
    fields: BTreeMap<String, RawField>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawField {
    r#type: String,
    is_multiple: bool,
    is_read_only: bool,
    upper_name: String,
    items: Value,
}

impl Dictionary {
    /// What is known already of the fields that these mappings name.
    pub(crate) fn open<'a>(ctx: &Context<Config>, names: impl Iterator<Item = &'a String>) -> Self {
        let (contact, record): (BTreeSet<&String>, BTreeSet<&String>) = names.partition(|name| name.starts_with(CONTACT));
        let contact = contact.into_iter().map(|name| name[CONTACT.len()..].to_owned()).collect();
        let record = record.into_iter().cloned().collect();
        Self { record: Kind::open(ctx, ctx.config.entity.type_id(), record), contact: Kind::open(ctx, crate::CONTACT_TYPE, contact) }
    }

    /// What is to be asked.
    pub(crate) fn commands(&self) -> Vec<Command> {
        [&self.record, &self.contact].into_iter().filter(|kind| kind.asked).map(Kind::command).collect()
    }

    /// Takes the answers in. Without the portal's word the values go as the mapping has them.
    pub(crate) fn take(&mut self, ctx: &Context<Config>, replies: &Replies) -> Result<(), Fault> {
        for kind in [&mut self.record, &mut self.contact].into_iter().filter(|kind| kind.asked) {
            match replies.get::<Answer>(&kind.command().name) {
                Ok(answer) => kind.learn(ctx, answer),
                Err(Fault::Refused { text, .. } | Fault::Missing(text)) => {
                    log::warn(&format!("the portal does not tell its fields, so mapped values go as they are: {text}"));
                }
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// The lead's or deal's field of this name: `None` when nothing is known, `Some(None)` when there is none.
    pub(crate) fn record(&self, name: &str) -> Option<Option<&Field>> {
        self.record.fields.get(name).map(Option::as_ref)
    }

    /// The contact's, by its name without the prefix.
    pub(crate) fn contact(&self, name: &str) -> Option<Option<&Field>> {
        self.contact.fields.get(name).map(Option::as_ref)
    }
}

impl Kind {
    fn open(ctx: &Context<Config>, entity_type: u32, names: BTreeSet<String>) -> Self {
        if names.is_empty() {
            return Self::default();
        }
        let mut kind = Self { entity_type, names, fields: Fields::new(), asked: false };
        let stored = ctx.kv().get_text(&kind.key(ctx)).ok().flatten();
        kind.fields = stored.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        kind.asked = kind.names.iter().any(|name| !kind.fields.contains_key(name));
        kind
    }

    /// An admin may enter another portal.
    fn key(&self, ctx: &Context<Config>) -> String {
        format!("fields:{}:{}", ctx.config.portal, self.entity_type)
    }

    fn command(&self) -> Command {
        Command::new(format!("f{}", self.entity_type), "crm.item.fields")
            .with("entityTypeId", self.entity_type)
            .with("useOriginalUfNames", "Y")
    }

    fn learn(&mut self, ctx: &Context<Config>, answer: Answer) {
        let by_plain: BTreeMap<String, (&String, &RawField)> =
            answer.fields.iter().map(|(key, field)| (canonical(key), (key, field))).collect();
        let by_upper = |name: &str| answer.fields.iter().find(|(_, field)| field.upper_name.eq_ignore_ascii_case(name));
        let find = |name: &String| {
            let (key, raw) = by_plain.get(&canonical(name)).copied().or_else(|| by_upper(name))?;
            // With `useOriginalUfNames` these are read by the name that people see in the portal.
            let own = name.to_ascii_uppercase();
            let key = if own.starts_with("UF_") { own } else { key.clone() };
            Some(Field {
                key,
                kind: raw.r#type.clone(),
                multiple: raw.is_multiple,
                read_only: raw.is_read_only,
                choices: choices(&raw.items),
            })
        };
        self.fields = self.names.iter().map(|name| (name.clone(), find(name))).collect();
        for (name, _) in self.fields.iter().filter(|(_, field)| field.is_none()) {
            log::warn(&format!("the mapping names the field {name}, which the portal does not have"));
        }
        let text = serde_json::to_string(&self.fields).unwrap_or_default();
        // Too large or no room: then it is asked for again, which costs one command of a batch that is sent anyway.
        if ctx.kv().set(&self.key(ctx), text.as_bytes(), Some(TTL_S)).is_err() {
            log::debug("the portal's fields could not be stored");
        }
    }
}

/// `SOURCE_ID` and `sourceId` are one field, `UF_CRM_17` and `ufCrm17` too.
fn canonical(name: &str) -> String {
    name.chars().filter(|c| *c != '_').collect::<String>().to_lowercase()
}

/// Id and text of a list's choices: `[{"ID": "44", "VALUE": "Red"}]`.
fn choices(items: &Value) -> Vec<(String, String)> {
    let text = |item: &Value, name: &str| item.get(name).map(crate::value::plain);
    items.as_array().into_iter().flatten().filter_map(|item| Some((text(item, "ID")?, text(item, "VALUE")?))).collect()
}

/// So that a call's settings problem names the field the admin filled.
pub(crate) fn setting(name: &str, problem: impl std::fmt::Display) -> Stop {
    Stop::misconfigured(format!("{name}: {problem}"))
}
