//! The fields of a lead, a deal and a contact.

use leadwire_sdk::{Context, Item, Lead};
use serde_json::{Map, Value, json};

use crate::{
    Config, Entity, ORIGINATOR,
    dictionary::{CONTACT, Dictionary},
    person::is_email,
    place::Place,
    text,
    value::{Field, is_empty, multifield, plain},
};

/// Longest title and the like, in characters.
const LINE: usize = 255;
/// Longest description of the source.
const SOURCE: usize = 1_000;
/// Phones and addresses of one contact.
const MULTI: usize = 20;
/// By these we find a record again; no mapping may change them.
const OURS: [&str; 3] = ["id", "originatorid", "originid"];

/// The fields of one object, and what none could hold.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) fields: Map<String, Value>,
    pub(crate) left_out: Vec<String>,
}

impl Record {
    fn set(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        if !is_empty(&value) {
            self.fields.insert(name.into(), value);
        }
    }

    fn line(&mut self, name: &str, value: Option<&str>) {
        self.set(name, text::clean(value.unwrap_or_default().trim(), LINE));
    }

    /// A mapped value over whatever stands there; `known` is the portal's word on the field.
    fn mapped(&mut self, name: &str, value: &Value, known: Option<Option<&Field>>, lead: &Lead) {
        let plain_name: String = name.chars().filter(|c| *c != '_').collect::<String>().to_lowercase();
        if is_empty(value) {
            return;
        }
        let put = match known {
            _ if OURS.contains(&plain_name.as_str()) => Err("the field is needed to find the record again".to_owned()),
            Some(None) => Err("the portal has no such field".to_owned()),
            None => Ok((name.to_owned(), value.clone())),
            Some(Some(field)) => field.value(value, lead.value.as_ref()).map(|value| (field.key.clone(), value)),
        };
        match put {
            Ok((key, value)) => drop(self.fields.insert(key, value)),
            Err(why) => self.left_out.push(format!("{name}: {} ({why})", text::clean(&plain(value), LINE))),
        }
    }
}

/// Everything a new lead or deal has.
pub(crate) fn new(ctx: &Context<Config>, item: &Item, lead: &Lead, place: &Place, known: &Dictionary, contact: Option<u64>) -> Record {
    let config = &ctx.config;
    let mut record = Record::default();
    record.line("title", Some(&title(ctx, lead)));
    if config.entity == Entity::Lead {
        record.line("name", lead.name.as_deref());
        record.line("companyTitle", lead.company.as_deref());
        record.set("fm", multifields(lead));
    }
    record.set("categoryId", place.category);
    record.set("stageId", place.stage.clone());
    record.set("assignedById", config.assigned_by_id);
    record.set("sourceId", config.source_id.clone());
    if let Some(contact) = contact {
        record.set("contactIds", json!([contact]));
    }
    facts(&mut record, lead);
    mapping(&mut record, item, lead, known);
    if !record.fields.contains_key("comments") {
        let comments = text::comments(ctx, lead, &record.left_out);
        record.set("comments", comments);
    }
    record.set("originatorId", ORIGINATOR);
    record.set("originId", item.idempotency_key.clone());
    record
}

/// What a lead that comes again changes of the record that it made: never what people work with in the portal, such as stage,
/// responsible and title, unless the mapping says so.
pub(crate) fn update(item: &Item, lead: &Lead, known: &Dictionary) -> Record {
    let mut record = Record::default();
    facts(&mut record, lead);
    mapping(&mut record, item, lead, known);
    // So that there is always something to write.
    record.set("originatorId", ORIGINATOR);
    record
}

/// Everything a new contact has.
pub(crate) fn contact(ctx: &Context<Config>, item: &Item, lead: &Lead, known: &Dictionary) -> Record {
    let mut record = Record::default();
    let name = lead.name.as_deref().or(lead.phone()).or(lead.email());
    record.line("name", Some(name.unwrap_or_else(|| text::words(ctx).lead)));
    record.set("fm", multifields(lead));
    record.set("assignedById", ctx.config.assigned_by_id);
    record.set("sourceId", ctx.config.source_id.clone());
    for (name, value) in item.mapped().iter().filter_map(|(name, value)| Some((name.strip_prefix(CONTACT)?, value))) {
        record.mapped(name, value, known.contact(name), lead);
    }
    record.set("originatorId", ORIGINATOR);
    record.set("originId", item.idempotency_key.clone());
    record
}

fn title(ctx: &Context<Config>, lead: &Lead) -> String {
    let words = text::words(ctx);
    let who = || [lead.name.as_deref(), lead.phone(), lead.email()].into_iter().flatten().find(|text| !text.trim().is_empty());
    match lead.title.as_deref().filter(|title| !title.trim().is_empty()) {
        Some(title) => title.to_owned(),
        None => who().map_or_else(|| words.lead.to_owned(), |who| format!("{}: {who}", words.lead)),
    }
}

/// Amount and where the lead came from.
fn facts(record: &mut Record, lead: &Lead) {
    if let Some(money) = &lead.value {
        record.set("opportunity", money.amount());
        record.set("currencyId", money.currency.clone());
        // Otherwise the portal counts the sum of the products, which are none.
        record.set("isManualOpportunity", "Y");
    }
    let origin = &lead.origin;
    let from: Vec<&str> = [origin.form.as_deref(), origin.page.as_deref()].into_iter().flatten().collect();
    record.set("sourceDescription", text::clean(&from.join(" · "), SOURCE));
    let utm = [
        ("utmSource", &origin.utm_source),
        ("utmMedium", &origin.utm_medium),
        ("utmCampaign", &origin.utm_campaign),
        ("utmContent", &origin.utm_content),
        ("utmTerm", &origin.utm_term),
    ];
    for (name, value) in utm {
        record.line(name, value.as_deref());
    }
}

fn mapping(record: &mut Record, item: &Item, lead: &Lead, known: &Dictionary) {
    for (name, value) in item.mapped().iter().filter(|(name, _)| !name.starts_with(CONTACT)) {
        record.mapped(name, value, known.record(name), lead);
    }
}

fn multifields(lead: &Lead) -> Vec<Value> {
    let phones = lead.phones.iter().map(|phone| phone.best().trim()).filter(|phone| !phone.is_empty()).take(MULTI);
    let emails = lead.emails.iter().map(|email| email.trim()).filter(|email| is_email(email)).take(MULTI);
    let phones = phones.map(|phone| multifield("PHONE", &text::clean(phone, 50)));
    phones.chain(emails.map(|email| multifield("EMAIL", email))).collect()
}
