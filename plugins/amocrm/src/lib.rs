//! The channel `amocrm`: each lead with its contact and company, in amoCRM and Kommo.
//!
//! A contact that is there already is found first (`contact`), then leads go in batches (`create`), then their notes and
//! tasks (`tail`). amoCRM has no idempotency keys: what may have been made is looked for before it is made again
//! (`doubt`), and each step is noted in the item's memo. Start at `batch::Batch::run`.

mod api;
mod batch;
mod check;
mod contact;
mod create;
mod date;
mod doubt;
mod draft;
mod fields;
mod mapped;
mod tail;

#[cfg(test)]
mod tests;

use std::fmt;

use leadwire_sdk::{Channel, Context, Item, Stop};
use serde::Deserialize;

/// The settings; `config.schema.json` says what is allowed.
#[derive(Debug, Deserialize)]
pub struct Config {
    subdomain: String,
    zone: String,
    pipeline_id: Option<u64>,
    status_id: Option<u64>,
    responsible_user_id: Option<u64>,
    #[serde(default)]
    tags: Vec<String>,
    marker_field: Option<FieldName>,
    #[serde(default)]
    unsorted: bool,
    note: Option<String>,
    task_text: Option<String>,
    task_type_id: u64,
    task_due_minutes: u64,
}

/// A field's id or code.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum FieldName {
    Id(u64),
    Code(String),
}

impl fmt::Display for FieldName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(out),
            Self::Code(code) => code.fmt(out),
        }
    }
}

/// The channel.
#[derive(Debug)]
pub struct AmoCrm;

impl Channel for AmoCrm {
    type Config = Config;

    fn deliver(ctx: &Context<Config>, items: &[Item]) -> Result<(), Stop> {
        batch::Batch::new(ctx, items).run()
    }

    fn check(ctx: &Context<Config>) -> Result<Vec<(String, String)>, Stop> {
        check::check(ctx)
    }
}

leadwire_sdk::export!(AmoCrm);
