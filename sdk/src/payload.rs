//! Leads and events as JSON, with the names of the HTTP interface: what templates see and what the webhook sends.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value, value::RawValue};

use crate::{Attr, Event, Item, Lead, Money, Origin, Payload, Phone, rfc3339};

/// The names that are the lead's own; an attribute of such a name does not hide them.
const LEAD: [&str; 13] =
    ["id", "created_at", "title", "name", "company", "phone", "phones", "email", "emails", "comment", "value", "origin", "fields"];

impl Lead {
    /// The first telephone number: in E.164 when the host could read it, else as entered.
    pub fn phone(&self) -> Option<&str> {
        self.phones.first().map(Phone::best)
    }

    /// The first e-mail address.
    pub fn email(&self) -> Option<&str> {
        self.emails.first().map(String::as_str)
    }

    /// A core field of a later host version.
    pub fn attr(&self, name: &str) -> Option<&str> {
        self.attrs.iter().find(|attr| attr.name == name).map(|attr| attr.value.as_str())
    }

    /// The client's own fields.
    pub fn fields(&self) -> Map<String, Value> {
        serde_json::from_str(&self.extra).unwrap_or_default()
    }
}

impl Phone {
    /// In E.164 when the host could read it, else as entered.
    pub fn best(&self) -> &str {
        self.e164.as_deref().unwrap_or(&self.raw)
    }
}

impl Money {
    /// The exact amount in decimal, such as `1500.00`.
    pub fn amount(&self) -> String {
        let digits = usize::from(self.exponent);
        let sign = if self.minor < 0 { "-" } else { "" };
        let text = format!("{:0>width$}", self.minor.unsigned_abs(), width = digits + 1);
        let (whole, part) = text.split_at(text.len() - digits);
        if part.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part}") }
    }
}

impl Item {
    /// The credential's field mapping, already applied: remote field name → value. Empty when the admin mapped nothing.
    pub fn mapped(&self) -> Map<String, Value> {
        serde_json::from_str(&self.fields).unwrap_or_default()
    }

    /// One mapped value as text; `None` also when it is null.
    pub fn mapped_text(&self, name: &str) -> Option<String> {
        match self.mapped().remove(name)? {
            Value::Null => None,
            Value::String(text) => Some(text),
            other => Some(other.to_string()),
        }
    }

    /// The id that an earlier delivery of this payload got from the remote side.
    pub fn reference(&self, name: &str) -> Option<&str> {
        self.refs.iter().find(|attr| attr.name == name).map(|attr| attr.value.as_str())
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Lead(lead) => lead.serialize(serializer),
            Self::Event(event) => event.serialize(serializer),
        }
    }
}

impl Serialize for Lead {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("created_at", &rfc3339(self.created_ms))?;
        for attr in self.attrs.iter().filter(|attr| !LEAD.contains(&attr.name.as_str())) {
            map.serialize_entry(&attr.name, &attr.value)?;
        }
        map.serialize_entry("title", &self.title)?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("company", &self.company)?;
        map.serialize_entry("phone", &self.phone())?;
        map.serialize_entry("phones", &self.phones)?;
        map.serialize_entry("email", &self.email())?;
        map.serialize_entry("emails", &self.emails)?;
        map.serialize_entry("comment", &self.comment)?;
        map.serialize_entry("value", &self.value)?;
        map.serialize_entry("origin", &self.origin)?;
        map.serialize_entry("fields", &raw(&self.extra))?;
        map.end()
    }
}

impl Serialize for Phone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("raw", &self.raw)?;
        map.serialize_entry("e164", &self.e164)?;
        map.end()
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("amount", &self.amount())?;
        map.serialize_entry("currency", &self.currency)?;
        map.end()
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ids: BTreeMap<&str, &str> = self.ids.iter().map(|Attr { name, value }| (name.as_str(), value.as_str())).collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("page", &self.page)?;
        map.serialize_entry("referrer", &self.referrer)?;
        map.serialize_entry("form", &self.form)?;
        map.serialize_entry("ip", &self.ip)?;
        map.serialize_entry("user_agent", &self.user_agent)?;
        map.serialize_entry("utm_source", &self.utm_source)?;
        map.serialize_entry("utm_medium", &self.utm_medium)?;
        map.serialize_entry("utm_campaign", &self.utm_campaign)?;
        map.serialize_entry("utm_term", &self.utm_term)?;
        map.serialize_entry("utm_content", &self.utm_content)?;
        map.serialize_entry("ids", &ids)?;
        map.end()
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("kind", &self.kind)?;
        map.serialize_entry("external_id", &self.external_id)?;
        map.serialize_entry("at", &self.at_ms.map(rfc3339))?;
        map.serialize_entry("data", &raw(&self.data))?;
        map.end()
    }
}

/// JSON text as it is, so that the order of a client's own fields stays; null when it is none.
fn raw(json: &str) -> Option<&RawValue> {
    serde_json::from_str(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn amounts_are_exact() {
        let amount = |minor, exponent| Money { minor, exponent, currency: "RUB".into() }.amount();
        assert_eq!(amount(150_000, 2), "1500.00");
        assert_eq!(amount(-5, 3), "-0.005");
        assert_eq!(amount(7, 0), "7");
        assert_eq!(amount(i64::MIN, 2), "-92233720368547758.08");
    }

    #[test]
    fn a_lead_has_the_names_of_the_http_interface() {
        let mut lead = testing::lead();
        lead.extra = r#"{"z":1,"a":"2"}"#.into();
        lead.attrs = vec![
            Attr { name: "external_id".into(), value: "form-991".into() },
            Attr { name: "name".into(), value: "must not hide the name".into() },
        ];
        let text = serde_json::to_string(&lead).unwrap();
        assert!(text.contains(r#""fields":{"z":1,"a":"2"}"#), "{text}");
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["external_id"], "form-991");
        assert_eq!(json["name"], "Иван Петров");
        assert_eq!(json["phone"], "+79161234567");
        assert_eq!(json["value"], serde_json::json!({ "amount": "1500.00", "currency": "RUB" }));
        assert_eq!(json["origin"]["ids"]["yclid"], "123");
        for name in LEAD {
            assert!(json.get(name).is_some(), "{name}");
        }
    }

    #[test]
    fn own_fields_that_are_no_json_become_null() {
        let mut lead = testing::lead();
        lead.extra = "{broken".into();
        assert_eq!(serde_json::to_value(&lead).unwrap()["fields"], Value::Null);
        assert!(lead.fields().is_empty());
    }
}
