//! Checks what a client sent as a lead and brings it to the form in which it is stored.

use phonenumber::country;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{FieldError, Warning, normalise, pointer_step};
use crate::model::{Lead, LeadId, Money, Origin, ProjectId, Timestamp};

/// Most phones, and most e-mails, of one lead.
const MAX_CONTACTS: usize = 50;
/// Most characters of names and ids.
const MAX_NAME: usize = 255;
/// Most characters of a title.
const MAX_TITLE: usize = 1_000;
/// Most characters of a comment.
const MAX_COMMENT: usize = 65_536;

/// Most characters of a telephone number, however it is written.
const MAX_PHONE: usize = 255;
/// Most characters of each text of `origin`.
const MAX_ORIGIN: usize = 2_048;
/// Most entries of `origin/ids`.
const MAX_IDS: usize = 50;
/// Most entries of `fields`.
const MAX_FIELDS: usize = 500;
/// Most bytes of `fields` as JSON.
const MAX_FIELDS_BYTES: usize = 262_144;
/// Most levels of `fields`, itself the first.
const MAX_FIELDS_DEPTH: usize = 16;

/// A lead as a client sends it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeadContent {
    /// `prj_…` or `ext:` and your own id of it; may be left out when the key belongs to one.
    pub project: Option<String>,
    /// The unit of the project (landing page, shop) by your own id, with or without `ext:`.
    #[schema(min_length = 1, max_length = 255, pattern = r"\S")]
    pub entity: Option<String>,
    /// Your own id of the lead: a second lead with it is a duplicate.
    #[schema(min_length = 1, max_length = 255, pattern = r"\S")]
    pub external_id: Option<String>,
    /// Up to 1,000 characters.
    #[schema(max_length = 1_000)]
    pub title: Option<String>,
    /// 1 to 255 characters.
    #[schema(min_length = 1, max_length = 255, pattern = r"\S")]
    pub name: Option<String>,
    /// Up to 255 characters.
    #[schema(max_length = 255)]
    pub company: Option<String>,
    /// One number beside `phones`.
    pub phone: Option<String>,
    /// One address beside `emails`.
    pub email: Option<String>,
    /// In any spelling, up to 255 characters each; kept raw with a warning when they cannot be understood.
    #[schema(max_items = 50)]
    pub phones: Option<Vec<String>>,
    /// One mailbox each.
    #[schema(max_items = 50)]
    pub emails: Option<Vec<String>>,
    /// Up to 65,536 characters.
    #[schema(max_length = 65_536)]
    pub comment: Option<String>,
    /// What the lead is worth.
    pub value: Option<Amount>,
    /// Where it came from; each text up to 2,048 characters.
    pub origin: Option<Origin>,
    /// Your own fields: up to 500, 262,144 bytes as JSON and 16 levels in all.
    #[schema(value_type = Option<Object>)]
    pub fields: Option<Map<String, Value>>,
}

/// An exact amount of money.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, serde::Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Amount {
    /// Decimal text, such as `1500.00`.
    #[schema(min_length = 1, max_length = 19, pattern = "^[0-9]+([.][0-9]{1,9})?$")]
    pub amount: String,
    /// ISO 4217 code, such as `RUB`.
    #[schema(pattern = "^[A-Za-z]{3}$")]
    pub currency: String,
}

impl Amount {
    /// As clients see it.
    pub fn of(money: &Money) -> Self {
        Self { amount: normalise::amount_text(money), currency: money.currency.clone() }
    }
}

/// What a lead is made with beside its content.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    #[allow(missing_docs)]
    pub id: LeadId,
    #[allow(missing_docs)]
    pub project: ProjectId,
    /// Where numbers without a country code are read.
    pub region: Option<country::Id>,
    #[allow(missing_docs)]
    pub now: Timestamp,
}

/// The caller's own id without the `ext:` that says so.
pub fn own_id(text: &str) -> &str {
    text.strip_prefix("ext:").unwrap_or(text)
}

/// The lead to be stored, or everything that is wrong with it. `at` is the JSON pointer of the content.
pub fn lead(content: LeadContent, made: Made, at: &str) -> Result<(Lead, Vec<Warning>), Vec<FieldError>> {
    let mut checks = Checks { at, errors: Vec::new(), warnings: Vec::new() };
    checks.length("entity", content.entity.as_deref(), 1, MAX_NAME);
    checks.length("external_id", content.external_id.as_deref(), 1, MAX_NAME);
    checks.length("title", content.title.as_deref(), 0, MAX_TITLE);
    checks.length("name", content.name.as_deref(), 1, MAX_NAME);
    checks.length("company", content.company.as_deref(), 0, MAX_NAME);
    checks.length("comment", content.comment.as_deref(), 0, MAX_COMMENT);
    let phones = checks.phones(content.phone, content.phones.unwrap_or_default(), made.region);
    let emails = checks.emails(content.email, content.emails.unwrap_or_default());
    let value = content.value.and_then(|value| checks.value(&value));
    let origin = content.origin.unwrap_or_default();
    checks.origin(&origin);
    let fields = content.fields.unwrap_or_default();
    checks.fields(&fields);
    if phones.is_empty() && emails.is_empty() && content.name.is_none() && fields.is_empty() && checks.errors.is_empty() {
        let detail = "at least one of phone, email, name or a non-empty `fields` must be there";
        checks.errors.push(FieldError::new(at, "no_contact", detail));
    }
    if !checks.errors.is_empty() {
        return Err(checks.errors);
    }
    let entity = content.entity.map(|entity| own_id(&entity).to_owned());
    let lead = Lead {
        id: made.id,
        project: made.project,
        entity,
        external_id: content.external_id,
        title: content.title,
        name: content.name,
        company: content.company,
        phones,
        emails,
        comment: content.comment,
        value,
        origin,
        fields,
        created_at: made.now,
    };
    Ok((lead, checks.warnings))
}

/// Whether the value has at most `levels` of lists and objects. Goes no deeper than that.
fn is_within(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(_) | Value::Object(_) if levels == 0 => false,
        Value::Array(items) => items.iter().all(|item| is_within(item, levels - 1)),
        Value::Object(entries) => entries.values().all(|entry| is_within(entry, levels - 1)),
        _ => true,
    }
}

/// Takes so many bytes and keeps none.
struct Room(usize);

impl std::io::Write for Room {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Checks<'a> {
    at: &'a str,
    errors: Vec<FieldError>,
    warnings: Vec<Warning>,
}

impl Checks<'_> {
    fn error(&mut self, field: &str, code: &'static str, detail: impl Into<String>) {
        self.errors.push(FieldError::new(format!("{}/{field}", self.at), code, detail));
    }

    fn length(&mut self, field: &str, text: Option<&str>, min: usize, max: usize) {
        let Some(text) = text else { return };
        // Bytes bound the characters from above, so most texts are never counted.
        let too_long = text.len() > max && text.chars().count() > max;
        if too_long || text.trim().chars().take(min).count() < min {
            self.error(field, "invalid_length", format!("must have {min} to {max} characters"));
        }
    }

    fn origin(&mut self, origin: &Origin) {
        let Origin { page, referrer, form, ip, user_agent, utm_source, utm_medium, utm_campaign, utm_term, utm_content, ids } = origin;
        for (name, text) in [
            ("page", page),
            ("referrer", referrer),
            ("form", form),
            ("ip", ip),
            ("user_agent", user_agent),
            ("utm_source", utm_source),
            ("utm_medium", utm_medium),
            ("utm_campaign", utm_campaign),
            ("utm_term", utm_term),
            ("utm_content", utm_content),
        ] {
            self.length(&format!("origin/{name}"), text.as_deref(), 0, MAX_ORIGIN);
        }
        if ids.len() > MAX_IDS {
            return self.error("origin/ids", "too_many", format!("at most {MAX_IDS}"));
        }
        for (name, text) in ids {
            if name.chars().count() > MAX_NAME {
                self.error("origin/ids", "invalid_length", format!("names must have at most {MAX_NAME} characters"));
            } else {
                self.length(&format!("origin/ids/{}", pointer_step(name)), Some(text), 0, MAX_ORIGIN);
            }
        }
    }

    fn fields(&mut self, fields: &Map<String, Value>) {
        if fields.len() > MAX_FIELDS {
            self.error("fields", "too_many", format!("at most {MAX_FIELDS}"));
        }
        if let Some((name, _)) = fields.iter().find(|(_, value)| !is_within(value, MAX_FIELDS_DEPTH - 1)) {
            let detail = format!("must not be nested deeper than {MAX_FIELDS_DEPTH} levels, `fields` itself included");
            // The name may be as long as the client likes.
            let shown = if name.len() <= MAX_NAME { format!("fields/{}", pointer_step(name)) } else { "fields".to_owned() };
            return self.error(&shown, "too_deep", detail);
        }
        let mut left = Room(MAX_FIELDS_BYTES);
        if serde_json::to_writer(&mut left, fields).is_err() {
            self.error("fields", "too_large", format!("must have at most {MAX_FIELDS_BYTES} bytes as JSON"));
        }
    }

    fn phones(&mut self, one: Option<String>, list: Vec<String>, region: Option<country::Id>) -> Vec<crate::model::Phone> {
        if list.len() > MAX_CONTACTS {
            self.error("phones", "too_many", format!("at most {MAX_CONTACTS}"));
            return Vec::new();
        }
        let mut phones: Vec<crate::model::Phone> = Vec::with_capacity(list.len() + 1);
        let single = one.iter().map(|raw| (None, raw));
        for (index, raw) in single.chain(list.iter().enumerate().map(|(index, raw)| (Some(index), raw))) {
            if raw.trim().is_empty() {
                continue; // an empty input of a form
            }
            if raw.len() > MAX_PHONE && raw.chars().count() > MAX_PHONE {
                let field = index.map_or_else(|| "phone".to_owned(), |index| format!("phones/{index}"));
                self.error(&field, "invalid_length", format!("must have at most {MAX_PHONE} characters"));
                continue;
            }
            let phone = normalise::phone(raw, region);
            if phones.iter().any(|other| other.e164.is_some() && other.e164 == phone.e164 || other.raw == phone.raw) {
                continue;
            }
            if phone.e164.is_none() {
                let pointer = match index {
                    Some(index) => format!("{}/phones/{index}", self.at),
                    None => format!("{}/phone", self.at),
                };
                self.warnings.push(Warning::field("phone_not_understood", pointer));
            }
            phones.push(phone);
        }
        phones
    }

    fn emails(&mut self, one: Option<String>, list: Vec<String>) -> Vec<String> {
        if list.len() > MAX_CONTACTS {
            self.error("emails", "too_many", format!("at most {MAX_CONTACTS}"));
            return Vec::new();
        }
        let mut emails: Vec<String> = Vec::with_capacity(list.len() + 1);
        let single = one.iter().map(|raw| (None, raw));
        for (index, raw) in single.chain(list.iter().enumerate().map(|(index, raw)| (Some(index), raw))) {
            if raw.trim().is_empty() {
                continue;
            }
            match normalise::email(raw) {
                Some(email) if emails.contains(&email) => {}
                Some(email) => emails.push(email),
                None => {
                    let field = index.map_or_else(|| "email".to_owned(), |index| format!("emails/{index}"));
                    self.error(&field, "invalid_email", "must be one mailbox such as name@example.com");
                }
            }
        }
        emails
    }

    fn value(&mut self, value: &Amount) -> Option<Money> {
        let amount = normalise::amount(&value.amount);
        if amount.is_none() {
            self.error("value/amount", "invalid_amount", "must be decimal text such as \"1500.00\", up to 18 digits, 9 after the point");
        }
        let currency = normalise::currency(&value.currency);
        if currency.is_none() {
            self.error("value/currency", "invalid_currency", "must be an ISO 4217 code such as RUB");
        }
        let (minor, exponent) = amount?;
        Some(Money { minor, exponent, currency: currency? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> Made {
        let now = Timestamp::from_millis(1_000);
        Made { id: LeadId::new(now), project: ProjectId::new(now), region: normalise::region("RU"), now }
    }

    type Wrong = Vec<(String, &'static str)>;

    fn run(json: serde_json::Value) -> Result<(Lead, Vec<Warning>), Wrong> {
        let content = serde_json::from_value(json).unwrap();
        lead(content, made(), "").map_err(|errors| errors.into_iter().map(|error| (error.pointer, error.code)).collect())
    }

    #[test]
    fn single_contacts_stand_beside_the_lists() {
        let (lead, warnings) = run(serde_json::json!({
            "entity": "ext:landing-7", "phone": "8 916 123-45-67", "phones": ["+7 (916) 123-45-67", "none"], "email": " A@B.RU ",
            "emails": ["A@b.ru", ""], "value": {"amount": "1500.00", "currency": "rub"}
        }))
        .unwrap();
        assert_eq!(lead.entity.as_deref(), Some("landing-7"));
        assert_eq!(lead.phones.len(), 2, "the same number in two spellings is one");
        assert_eq!(lead.emails, ["A@b.ru"]);
        assert_eq!(lead.value, Some(Money { minor: 150_000, exponent: 2, currency: "RUB".into() }));
        assert_eq!(warnings, [Warning::field("phone_not_understood", "/phones/1".into())]);
    }

    #[test]
    fn everything_wrong_is_said_at_once_with_its_place() {
        let errors = run(serde_json::json!({
            "name": "x".repeat(256), "email": "nobody", "emails": ["a@b.ru", "c@d"], "external_id": "", "entity": " ",
            "value": {"amount": "a lot", "currency": "roubles"}, "comment": "x".repeat(65_537)
        }))
        .unwrap_err();
        let wanted = [
            ("/entity", "invalid_length"),
            ("/external_id", "invalid_length"),
            ("/name", "invalid_length"),
            ("/comment", "invalid_length"),
            ("/email", "invalid_email"),
            ("/emails/1", "invalid_email"),
            ("/value/amount", "invalid_amount"),
            ("/value/currency", "invalid_currency"),
        ];
        assert_eq!(errors, wanted.map(|(pointer, code)| (pointer.to_owned(), code)));
    }

    #[test]
    fn a_lead_of_nine_megabytes_is_refused_where_it_is_large() {
        let long = "x".repeat(2_049);
        let mut deep = serde_json::json!(1);
        for _ in 0..15 {
            deep = serde_json::json!([deep]);
        }
        let one_deeper = serde_json::json!([deep]);
        let many: Map<String, Value> = (0..501).map(|n| (n.to_string(), Value::from(n))).collect();
        let ids: Map<String, Value> = (0..51).map(|n| (n.to_string(), Value::from("x"))).collect();
        for (lead, pointer, code) in [
            (serde_json::json!({"origin": {"page": "x".repeat(9_000_000)}}), "/origin/page", "invalid_length"),
            (serde_json::json!({"origin": {"utm_term": &long}}), "/origin/utm_term", "invalid_length"),
            (serde_json::json!({"origin": {"ids": {"a/b": &long}}}), "/origin/ids/a~1b", "invalid_length"),
            (serde_json::json!({"origin": {"ids": {long.clone(): "x"}}}), "/origin/ids", "invalid_length"),
            (serde_json::json!({"origin": {"ids": ids}}), "/origin/ids", "too_many"),
            (serde_json::json!({"fields": {"text": "x".repeat(262_144)}}), "/fields", "too_large"),
            (serde_json::json!({"fields": many}), "/fields", "too_many"),
            (serde_json::json!({"fields": {"fine": deep.clone(), "deep": one_deeper}}), "/fields/deep", "too_deep"),
            (serde_json::json!({"phone": "1".repeat(256)}), "/phone", "invalid_length"),
        ] {
            let mut lead = lead;
            lead["name"] = "x".into();
            assert_eq!(run(lead).unwrap_err(), [(pointer.to_owned(), code)]);
        }
        let fine = serde_json::json!({"fields": {"text": "x".repeat(262_144 - 11), "deep": 1}});
        assert_eq!(run(fine).unwrap_err()[0].1, "too_large", "the other entry does not fit beside it");
        assert!(run(serde_json::json!({"fields": {"text": "x".repeat(262_144 - 11)}})).is_ok());
        assert!(run(serde_json::json!({"name": "x", "fields": {"deep": deep}, "origin": {"page": "я".repeat(2_048)}})).is_ok());
    }

    #[test]
    fn some_contact_must_be_there() {
        for empty in [
            serde_json::json!({}),
            serde_json::json!({"title": "x", "comment": "y"}),
            serde_json::json!({"fields": {}, "phones": [], "emails": null, "phone": " "}),
        ] {
            assert_eq!(run(empty).unwrap_err(), [(String::new(), "no_contact")]);
        }
        for enough in [
            serde_json::json!({"name": "я".repeat(255)}),
            serde_json::json!({"phone": "unreadable"}),
            serde_json::json!({"email": "a@b.ru"}),
            serde_json::json!({"fields": {"car": "Lada"}}),
        ] {
            assert!(run(enough).is_ok());
        }
    }
}
