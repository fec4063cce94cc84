//! What makes two leads the same.
//!
//! A lead has one key, and two leads are the same when their keys are: so looking for the first one is one look-up. The
//! client's own id decides alone where there is one. Else the fields that the project names decide: all of them must be
//! equal, where one that both leave out is equal too, and one that only one of them has is not. (Were it otherwise, a lead
//! could be the same as two that differ.) A lead with none of the fields is like no other.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::intake::Amount;
use crate::model::{DedupSettings, Lead, Money};

/// Most key fields of a project.
pub const MAX_FIELDS: usize = 16;
/// Most times that a lead which comes again is noted at the remote sides; further times are only counted.
pub const MAX_NOTES: u32 = 20;
/// The event of a lead that came again.
pub const DUPLICATE_EVENT: &str = "lead.duplicate";

/// The fields of a lead that a project may name, beside its own fields and those of `origin`.
const NAMES: [&str; 9] = ["entity", "title", "name", "company", "phones", "emails", "comment", "value", "fields"];
/// The texts of `origin`.
const ORIGIN: [&str; 10] =
    ["page", "referrer", "form", "ip", "user_agent", "utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content"];

/// What a lead is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// SHA-256 over the project and what decides.
    pub hash: [u8; 32],
    /// The fields that decide, as far as the lead has them: what a second one with this key agrees in.
    pub fields: Vec<String>,
}

/// The key of a lead. `None`: it is like no other.
pub fn key(lead: &Lead, settings: &DedupSettings) -> Option<Key> {
    if !settings.enabled {
        return None;
    }
    let named = match (&lead.external_id, &settings.fields) {
        (None, Some(names)) => names,
        (Some(_), _) => return Some(Key { hash: hash(lead), fields: vec!["external_id".to_owned()] }),
        (None, None) => return Some(Key { hash: hash(lead), fields: content_fields(lead) }),
    };
    let names: BTreeSet<&String> = named.iter().collect();
    let mut text = Vec::with_capacity(256);
    text.extend_from_slice(b"fields\0");
    text.extend_from_slice(lead.project.uuid().as_bytes());
    let mut fields = Vec::new();
    for name in names {
        string(name, &mut text);
        text.push(b':');
        match value(lead, name) {
            Some(value) => {
                canonical(&value, &mut text);
                fields.push(name.clone());
            }
            None => text.extend_from_slice(b"absent"),
        }
        text.push(b',');
    }
    (!fields.is_empty()).then(|| Key { hash: Sha256::digest(&text).into(), fields })
}

/// What is wrong with a project's key fields, and with which.
pub fn check_fields(names: &[String]) -> Result<(), (Option<usize>, &'static str)> {
    if names.is_empty() || names.len() > MAX_FIELDS {
        return Err((None, "must have 1 to 16 entries"));
    }
    for (index, name) in names.iter().enumerate() {
        let own = name.strip_prefix("fields.").is_some_and(|own| (1..=255).contains(&own.chars().count()));
        let origin = name.strip_prefix("origin.").is_some_and(|text| ORIGIN.contains(&text));
        if name == "external_id" {
            return Err((Some(index), "decides by itself, where there is one"));
        }
        if !(NAMES.contains(&name.as_str()) || own || origin) {
            let detail = "must be entity, title, name, company, phones, emails, comment, value, fields, fields.NAME or origin.NAME";
            return Err((Some(index), detail));
        }
        if names[..index].contains(name) {
            return Err((Some(index), "is there twice"));
        }
    }
    Ok(())
}

/// A field in one spelling. `None`: the lead does not have it.
fn value(lead: &Lead, name: &str) -> Option<Value> {
    let text = |text: Option<&str>| text.map(str::trim).filter(|text| !text.is_empty()).map(Value::from);
    match name {
        "entity" => text(lead.entity.as_deref()),
        "title" => text(lead.title.as_deref()),
        "name" => text(lead.name.as_deref()),
        "company" => text(lead.company.as_deref()),
        "comment" => text(lead.comment.as_deref()),
        "phones" => Some(phones(lead)).filter(|list| !list.is_empty()).map(Value::from),
        "emails" => Some(emails(lead)).filter(|list| !list.is_empty()).map(Value::from),
        "value" => lead.value.as_ref().map(|money| json!([reduced(money), money.currency])),
        "fields" => (!lead.fields.is_empty()).then(|| Value::Object(lead.fields.clone())),
        _ => match name.split_once('.') {
            Some(("fields", own)) => lead.fields.get(own).filter(|value| !value.is_null()).cloned(),
            Some(("origin", own)) => {
                let origin = serde_json::to_value(&lead.origin).ok()?;
                text(origin.get(own).and_then(Value::as_str))
            }
            _ => None,
        },
    }
}

/// `1500.00` and `1500` are one amount.
fn reduced(money: &Money) -> (i64, u8) {
    let (mut minor, mut exponent) = (money.minor, money.exponent);
    while exponent > 0 && minor % 10 == 0 {
        (minor, exponent) = (minor / 10, exponent - 1);
    }
    (minor, exponent)
}

fn phones(lead: &Lead) -> Vec<String> {
    let mut phones: Vec<String> =
        lead.phones.iter().map(|phone| phone.e164.clone().unwrap_or_else(|| phone.raw.trim().to_owned())).collect();
    phones.sort_unstable();
    phones.dedup();
    phones
}

fn emails(lead: &Lead) -> Vec<String> {
    let mut emails: Vec<String> = lead.emails.iter().map(|email| email.to_lowercase()).collect();
    emails.sort_unstable();
    emails.dedup();
    emails
}

/// What a lead without an id and a project without key fields go by, as far as the lead has it.
fn content_fields(lead: &Lead) -> Vec<String> {
    let mut names: Vec<&str> = ["entity", "title", "comment", "phones", "emails", "fields"].to_vec();
    names.retain(|name| value(lead, name).is_some());
    if lead.phones.is_empty() && lead.emails.is_empty() && lead.name.is_some() {
        names.push("name");
    }
    names.into_iter().map(str::to_owned).collect()
}

/// What the event of a lead that came again tells of it: the content of the second one. Ids of the first are added where
/// they are known.
pub fn note(lead: &Lead, fields: &[String]) -> Map<String, Value> {
    let mut content = match serde_json::to_value(lead) {
        Ok(Value::Object(content)) => content,
        _ => Map::new(),
    };
    for own in ["id", "project", "created_at"] {
        content.remove(own);
    }
    if let Some(money) = &lead.value {
        let Amount { amount, currency } = Amount::of(money);
        content.insert("value".to_owned(), json!({"amount": amount, "currency": currency}));
    }
    content.retain(|_, value| !value.is_null());
    Map::from_iter([("matched".to_owned(), json!(fields)), ("lead".to_owned(), Value::Object(content))])
}

/// The contacts that such an event tells of: [`crate::policy::search`].
pub fn contacts_of_note(data: &Value) -> Vec<String> {
    let lead = data.get("lead");
    let list = |name: &str| lead.and_then(|lead| lead.get(name)).and_then(Value::as_array).into_iter().flatten();
    let phone = |phone: &Value| phone.get("e164").and_then(Value::as_str).or(phone.get("raw").and_then(Value::as_str)).map(str::to_owned);
    let phones: Vec<String> = list("phones").filter_map(phone).collect();
    let emails: Vec<String> = list("emails").filter_map(|email| email.as_str().map(str::to_owned)).collect();
    super::search::contact_keys(phones.iter().map(String::as_str), emails.iter().map(String::as_str))
}

/// SHA-256 over the project and the client's own id when there is one, else over the normalised content.
fn hash(lead: &Lead) -> [u8; 32] {
    let mut text = Vec::with_capacity(256);
    match &lead.external_id {
        Some(external_id) => {
            text.extend_from_slice(b"external\0");
            text.extend_from_slice(lead.project.uuid().as_bytes());
            text.extend_from_slice(external_id.as_bytes());
        }
        None => {
            text.extend_from_slice(b"content\0");
            text.extend_from_slice(lead.project.uuid().as_bytes());
            content(lead, &mut text);
        }
    }
    Sha256::digest(&text).into()
}

/// Canonical: every part is JSON in a fixed place, lists sorted, names of objects sorted.
fn content(lead: &Lead, out: &mut Vec<u8>) {
    let (phones, emails) = (phones(lead), emails(lead));
    for part in [&lead.entity, &lead.title, &lead.comment] {
        match part {
            Some(part) => string(part.trim(), out),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b',');
    }
    for list in [&phones, &emails] {
        out.push(b'[');
        for item in list {
            string(item, out);
            out.push(b',');
        }
        out.push(b']');
    }
    object(&lead.fields, out);
    // Two people may say the same, but without a phone and an address only the name tells them apart.
    if phones.is_empty() && emails.is_empty() {
        string(lead.name.as_deref().unwrap_or_default().trim(), out);
    }
}

fn string(text: &str, out: &mut Vec<u8>) {
    // Writing text into a vector cannot fail.
    let _ = serde_json::to_writer(out, text);
}

fn object(map: &serde_json::Map<String, Value>, out: &mut Vec<u8>) {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by_key(|(name, _)| *name);
    out.push(b'{');
    for (name, value) in entries {
        string(name, out);
        out.push(b':');
        canonical(value, out);
        out.push(b',');
    }
    out.push(b'}');
}

fn canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => object(map, out),
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                canonical(item, out);
                out.push(b',');
            }
            out.push(b']');
        }
        other => {
            let _ = serde_json::to_writer(out, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LeadId, Origin, Phone, ProjectId, Timestamp};

    fn lead() -> Lead {
        let now = Timestamp::from_millis(0);
        Lead {
            id: LeadId::new(now),
            project: ProjectId::from_uuid(uuid::Uuid::nil()),
            entity: Some("landing".into()),
            external_id: None,
            title: Some("Request".into()),
            name: Some("Ivan".into()),
            company: None,
            phones: vec![Phone { raw: "8 916 123-45-67".into(), e164: Some("+79161234567".into()) }],
            emails: vec!["ivan@example.com".into(), "b@example.com".into()],
            comment: None,
            value: None,
            origin: Origin::default(),
            fields: serde_json::from_str(r#"{"a":1,"b":{"x":[1,2],"y":null}}"#).unwrap(),
            created_at: now,
        }
    }

    fn with(change: impl FnOnce(&mut Lead)) -> [u8; 32] {
        let mut lead = lead();
        change(&mut lead);
        hash(&lead)
    }

    #[test]
    fn spelling_and_order_do_not_matter() {
        let first = hash(&lead());
        assert_eq!(first, with(|lead| lead.phones[0].raw = "+7 (916) 1234567".into()));
        assert_eq!(first, with(|lead| lead.emails.reverse()));
        assert_eq!(first, with(|lead| lead.emails[0] = "IVAN@example.com".into()));
        assert_eq!(first, with(|lead| lead.fields = serde_json::from_str(r#"{"b":{"y":null,"x":[1,2]},"a":1}"#).unwrap()));
        assert_eq!(first, with(|lead| lead.name = Some("Another spelling".into())), "the name is no part of the key");
        assert_eq!(first, with(|lead| lead.origin.page = Some("https://shop.example/".into())));
    }

    #[test]
    fn content_matters() {
        let first = hash(&lead());
        assert_ne!(first, with(|lead| lead.entity = None));
        assert_ne!(first, with(|lead| lead.title = None));
        assert_ne!(first, with(|lead| lead.comment = Some("x".into())));
        assert_ne!(first, with(|lead| lead.phones.clear()));
        assert_ne!(first, with(|lead| lead.emails.truncate(1)));
        assert_ne!(first, with(|lead| lead.fields["b"]["x"] = serde_json::json!([2, 1])));
        assert_ne!(first, with(|lead| lead.project = ProjectId::from_uuid(uuid::Uuid::max())));
        let moved = with(|lead| {
            lead.comment = lead.title.take();
        });
        assert_ne!(first, moved);
    }

    fn by(names: &[&str]) -> DedupSettings {
        DedupSettings { fields: Some(names.iter().map(|name| (*name).to_owned()).collect()), ..DedupSettings::default() }
    }

    #[test]
    fn a_project_names_the_fields_that_decide() {
        let settings = by(&["title", "phones", "fields.b"]);
        let of = |change: fn(&mut Lead)| {
            let mut lead = lead();
            change(&mut lead);
            key(&lead, &settings)
        };
        let first = of(|_| {}).unwrap();
        assert_eq!(first.fields, ["fields.b", "phones", "title"]);
        assert_eq!(first, of(|lead| lead.comment = Some("another".into())).unwrap());
        assert_eq!(first, of(|lead| lead.title = Some(" Request ".into())).unwrap());
        assert_eq!(first, of(|lead| lead.fields["a"] = json!(2)).unwrap());
        assert_ne!(first, of(|lead| lead.fields["b"]["x"] = json!([2])).unwrap());
        let without = of(|lead| lead.title = None).unwrap();
        assert_ne!(first.hash, without.hash, "one has a title, the other not");
        assert_eq!(without, of(|lead| lead.title = Some("  ".into())).unwrap(), "an empty title is none");
        assert_eq!(without.fields, ["fields.b", "phones"]);
        let none = of(|lead| {
            lead.title = None;
            lead.phones.clear();
            lead.fields.clear();
        });
        assert_eq!(none, None, "a lead with none of them is like no other");
        assert_eq!(key(&lead(), &by(&["phones", "title"])), key(&lead(), &by(&["title", "phones"])));
        assert_ne!(key(&lead(), &by(&["phones"])).unwrap().hash, key(&lead(), &by(&["phones", "title"])).unwrap().hash);
        let off = DedupSettings { enabled: false, ..DedupSettings::default() };
        assert_eq!(key(&lead(), &off), None);
    }

    #[test]
    fn what_decided_is_said() {
        let fields = |change: fn(&mut Lead)| {
            let mut lead = lead();
            change(&mut lead);
            key(&lead, &DedupSettings::default()).unwrap().fields
        };
        assert_eq!(fields(|_| {}), ["entity", "title", "phones", "emails", "fields"]);
        assert_eq!(fields(|lead| lead.external_id = Some("x".into())), ["external_id"]);
        let nobody = fields(|lead| {
            lead.phones.clear();
            lead.emails.clear();
        });
        assert_eq!(nobody, ["entity", "title", "fields", "name"]);
    }

    #[test]
    fn amounts_are_compared_by_their_worth() {
        let of = |minor, exponent| {
            let mut lead = lead();
            lead.value = Some(Money { minor, exponent, currency: "RUB".into() });
            key(&lead, &by(&["value"])).unwrap().hash
        };
        assert_eq!(of(150_000, 2), of(1_500, 0));
        assert_ne!(of(150_000, 2), of(150_001, 2));
    }

    #[test]
    fn key_fields_are_checked() {
        let check = |names: &[&str]| check_fields(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(check(&["phones", "fields.car", "origin.utm_source", "fields"]), Ok(()));
        for (names, at) in [
            (vec![], None),
            (vec!["phones"; 17], None),
            (vec!["phones", "phone"], Some(1)),
            (vec!["fields."], Some(0)),
            (vec!["origin.ids"], Some(0)),
            (vec!["title", "title"], Some(1)),
            (vec!["external_id"], Some(0)),
        ] {
            assert_eq!(check(&names).unwrap_err().0, at, "{names:?}");
        }
    }

    #[test]
    fn a_note_tells_of_the_second_lead_and_is_found_by_its_contacts() {
        let note = Value::Object(note(&lead(), &["phones".to_owned()]));
        assert_eq!((&note["matched"], &note["lead"]["title"]), (&json!(["phones"]), &json!("Request")));
        assert!(note["lead"].get("id").is_none() && note["lead"].get("comment").is_none());
        assert_eq!(contacts_of_note(&note), ["eb@example.com", "eivan@example.com", "p79161234567"]);
    }

    #[test]
    fn the_clients_own_id_decides_alone() {
        let first = with(|lead| lead.external_id = Some("form-991".into()));
        assert_eq!(
            first,
            with(|lead| {
                lead.external_id = Some("form-991".into());
                lead.title = Some("Another".into());
            })
        );
        assert_ne!(first, with(|lead| lead.external_id = Some("form-992".into())));
        assert_ne!(first, hash(&lead()));
    }
}
