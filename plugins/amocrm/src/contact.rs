//! Who a lead is from: telephone numbers in any spelling, e-mail addresses, and the contact that has them already.

use std::hash::{DefaultHasher, Hash, Hasher};

use leadwire_sdk::Lead;
use serde_json::Value;

use crate::api::{Api, Trouble, embedded, id_of, plain};

/// Numbers that are looked for; a lead with more of them is looked for by the first.
const PHONES: usize = 2;
/// Digits that a number needs to be told from others.
const FEWEST: usize = 8;
/// How long amoCRM's search may take to know a contact that was just made.
const FRESH_S: u32 = 600;

/// A telephone number without its spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Number {
    digits: String,
    /// With the code of its country.
    whole: bool,
}

impl Number {
    /// Reads any spelling; `None` for what has too few digits to be one.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        let mut digits: String = text.chars().filter(char::is_ascii_digit).collect();
        let mut whole = text.trim_start_matches(['(', ' ']).starts_with('+');
        if !whole && let Some(rest) = digits.strip_prefix("00") {
            digits = rest.to_owned();
            whole = true;
        }
        if !whole && digits.len() == 11 {
            if digits.starts_with("80") {
                // Belarus dials 80 before a number of its own.
                digits.replace_range(..2, "");
            } else if digits.starts_with(['7', '8']) {
                // Russia and Kazakhstan dial 8 in place of their own code, and write the code without its plus.
                digits.replace_range(..1, "7");
                whole = true;
            }
        }
        (digits.len() >= FEWEST).then_some(Self { digits, whole })
    }

    /// Whether two spellings mean one number.
    pub(crate) fn same(&self, other: &Self) -> bool {
        if self.whole && other.whole {
            return self.digits == other.digits;
        }
        let (long, short) = if self.digits.len() >= other.digits.len() { (self, other) } else { (other, self) };
        let short = short.digits.trim_start_matches('0');
        short.len() >= FEWEST && long.digits.ends_with(short)
    }

    /// What every spelling of it ends with.
    pub(crate) fn tail(&self) -> &str {
        self.digits.get(self.digits.len().saturating_sub(10)..).unwrap_or(&self.digits)
    }
}

/// What a lead says of its sender.
#[derive(Debug, Clone, Default)]
pub(crate) struct Person {
    phones: Vec<Number>,
    emails: Vec<String>,
}

/// A contact of the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) id: u64,
    /// It has a company, so that none is made for it.
    pub(crate) has_company: bool,
}

impl Person {
    pub(crate) fn of(lead: &Lead) -> Self {
        let phones = lead.phones.iter().filter_map(|phone| Number::read(phone.best())).collect();
        let emails = lead.emails.iter().map(|email| fold(email)).filter(|email| email.contains('@')).collect();
        Self { phones, emails }
    }

    /// What is asked for, one request each.
    pub(crate) fn searches(&self) -> Vec<&str> {
        self.phones.iter().take(PHONES).map(Number::tail).chain(self.emails.first().map(String::as_str)).collect()
    }

    /// Names that are equal for the same number or address, and tell neither.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.phones.iter().map(Number::tail).chain(self.emails.iter().map(String::as_str)).map(key).collect()
    }

    /// How many of its numbers and addresses the contact has: none means that it is someone else, wherever the search
    /// found the digits.
    fn score(&self, contact: &Value) -> usize {
        let held = |code: &str| -> Vec<String> {
            let fields = contact.get("custom_fields_values").and_then(Value::as_array).into_iter().flatten();
            let fields = fields.filter(|field| field.get("field_code").and_then(Value::as_str) == Some(code));
            let values = fields.filter_map(|field| field.get("values").and_then(Value::as_array)).flatten();
            values.filter_map(|value| value.get("value")).map(plain).collect()
        };
        let numbers: Vec<Number> = held("PHONE").iter().filter_map(|phone| Number::read(phone)).collect();
        let addresses: Vec<String> = held("EMAIL").iter().map(|email| fold(email)).collect();
        let phones = self.phones.iter().filter(|phone| numbers.iter().any(|number| number.same(phone))).count();
        phones + self.emails.iter().filter(|email| addresses.contains(email)).count()
    }

    /// The one of these contacts that has most of it; of equals the oldest.
    fn best(&self, contacts: &[Value]) -> Option<Known> {
        let scored = contacts.iter().filter_map(|contact| Some((self.score(contact), id_of(contact, "id")?, contact)));
        let (_, id, contact) = scored.filter(|(score, ..)| *score > 0).max_by_key(|(score, id, _)| (*score, std::cmp::Reverse(*id)))?;
        Some(Known { id, has_company: !embedded(contact, "companies").is_empty() })
    }
}

/// The account's contact for a person. Filters are left alone: an account without them answers with every contact it has.
pub(crate) fn find(api: &Api<'_>, person: &Person) -> Result<Option<Known>, Trouble> {
    for search in person.searches() {
        let found = api.get("contacts", &[("query", search), ("limit", "250")])?;
        if let Some(known) = found.and_then(|found| person.best(embedded(&found, "contacts"))) {
            return Ok(Some(known));
        }
    }
    Ok(person.keys().iter().find_map(|key| fresh(api, key)))
}

/// Notes a contact that was just made: a search does not know it yet.
pub(crate) fn remember(api: &Api<'_>, person: &Person, id: u64) {
    for key in person.keys() {
        // A place that is full costs a second contact at worst.
        let _ = api.ctx.kv().set(&key, id.to_string().as_bytes(), Some(FRESH_S));
    }
}

/// Forgets a contact that is not there any more.
pub(crate) fn forget(api: &Api<'_>, person: &Person) {
    for key in person.keys() {
        let _ = api.ctx.kv().delete(&key);
    }
}

fn fresh(api: &Api<'_>, key: &str) -> Option<Known> {
    let id = api.ctx.kv().get_text(key).ok()??.parse().ok()?;
    Some(Known { id, has_company: true })
}

fn fold(email: &str) -> String {
    email.trim().to_lowercase()
}

fn key(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("contact:{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use leadwire_sdk::testing;
    use serde_json::json;

    use super::*;

    fn same(one: &str, other: &str) -> bool {
        Number::read(one).zip(Number::read(other)).is_some_and(|(one, other)| one.same(&other) && other.same(&one))
    }

    #[test]
    fn a_number_is_the_same_in_every_spelling() {
        for other in [
            "8 (916) 123-45-67",
            "79161234567",
            "9161234567",
            "916 123 45 67",
            "+7-916-123-45-67",
            "007 916 1234567",
            "(+7) 9161234567",
            "٨٩١٦١٢٣٤٥٦٧",
        ] {
            let expected = !other.starts_with('٨');
            assert_eq!(same("+79161234567", other), expected, "{other}");
        }
        for (one, other) in [("+442079460958", "020 7946 0958"), ("+37251234567", "51234567"), ("+375291234567", "80291234567")] {
            assert!(same(one, other), "{one} {other}");
        }
    }

    #[test]
    fn numbers_of_two_people_are_not_the_same() {
        for (one, other) in [
            ("+79161234567", "+19161234567"),
            ("+79161234567", "+79161234568"),
            ("+79161234567", "1234567"),
            ("+74951234567", "+78121234567"),
            ("+79161234567", ""),
        ] {
            assert!(!same(one, other), "{one} {other}");
        }
    }

    fn contact(id: u64, phone: &str, email: &str, position: &str) -> Value {
        let field = |code: &str, value: &str| json!({ "field_code": code, "values": [{ "value": value }] });
        json!({ "id": id, "custom_fields_values": [field("PHONE", phone), field("EMAIL", email), field("POSITION", position)] })
    }

    #[test]
    fn only_the_right_field_counts_and_more_agreement_wins() {
        let person = Person::of(&testing::lead());
        assert_eq!(person.searches(), ["9161234567", "ivan@example.com"]);
        let stranger = contact(1, "+79990000000", "", "called from 9161234567");
        assert_eq!(person.best(&[stranger.clone(), json!({ "id": 2 }), json!("x")]), None);
        let by_phone = contact(9, "8 916 123 45 67", "other@example.com", "");
        let newer = contact(12, "79161234567", "", "");
        let both = contact(40, "916-123-45-67", "IVAN@example.com", "");
        assert_eq!(person.best(&[stranger.clone(), newer.clone(), by_phone.clone()]).map(|known| known.id), Some(9));
        assert_eq!(person.best(&[stranger, by_phone, newer, both]).map(|known| known.id), Some(40));
    }
}
