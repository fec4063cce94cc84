//! The channel `bitrix24`: each lead as a lead or a deal in a portal, with the contact it belongs to.
//!
//! A call takes up to fifty leads: one batch looks for what is there (contacts, and records that an earlier attempt may have
//! made), one makes the missing contacts, the next the records with their comments. The portal has no idempotency key, so every
//! record carries the delivery's id as its origin, and what is in doubt is looked for by it. Start at [`deliver::Run`].

mod check;
mod command;
mod deliver;
mod dictionary;
mod fault;
mod person;
mod place;
mod portal;
mod record;
mod text;
mod value;
mod work;

#[cfg(test)]
mod tests;

use leadwire_sdk::{Channel, Context, Item, Stop};
use serde::{Deserialize, Serialize};

/// Of contacts in `crm.item.*`.
const CONTACT_TYPE: u32 = 3;
/// `originatorId` of everything we make.
const ORIGINATOR: &str = "leadwire";

/// The settings; `config.schema.json` says what is allowed.
#[derive(Debug, Deserialize)]
pub struct Config {
    portal: String,
    #[serde(default)]
    entity: Entity,
    category_id: Option<u64>,
    stage_id: Option<String>,
    assigned_by_id: Option<u64>,
    #[serde(default = "web")]
    source_id: String,
    contacts: Option<Contacts>,
    #[serde(default = "yes")]
    note: bool,
    note_text: Option<String>,
}

fn web() -> String {
    "WEB".into()
}

fn yes() -> bool {
    true
}

/// What is created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Entity {
    #[default]
    Lead,
    Deal,
}

impl Entity {
    /// In `crm.item.*`.
    const fn type_id(self) -> u32 {
        match self {
            Self::Lead => 1,
            Self::Deal => 2,
        }
    }

    /// In addresses, in the timeline and in the ids we keep.
    const fn word(self) -> &'static str {
        match self {
            Self::Lead => "lead",
            Self::Deal => "deal",
        }
    }

    /// The older list, whose filter by origin is documented.
    const fn old_list(self) -> &'static str {
        match self {
            Self::Lead => "crm.lead.list",
            Self::Deal => "crm.deal.list",
        }
    }
}

/// What is done about the person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Contacts {
    Create,
    Find,
    None,
}

impl Config {
    /// A deal without a contact is nobody's. A lead holds the person itself, and one that is tied to a contact counts as a
    /// returning customer, so it is tied to contacts that are there already only.
    fn contacts(&self) -> Contacts {
        self.contacts.unwrap_or(match self.entity {
            Entity::Deal => Contacts::Create,
            Entity::Lead => Contacts::Find,
        })
    }

    /// Where a person looks at the record.
    fn url(&self, id: u64) -> String {
        format!("https://{}/crm/{}/details/{id}/", self.portal, self.entity.word())
    }
}

/// The channel.
#[derive(Debug)]
pub struct Bitrix24;

impl Channel for Bitrix24 {
    type Config = Config;

    fn deliver(ctx: &Context<Config>, items: &[Item]) -> Result<(), Stop> {
        deliver::Run::open(ctx, items)?.go()
    }

    fn check(ctx: &Context<Config>) -> Result<Vec<(String, String)>, Stop> {
        check::check(ctx)
    }
}

leadwire_sdk::export!(Bitrix24);
