//! Between the host's words and the contract's. Pure.

use serde_json::{Map, Value, json};

use super::ready::Ready;
use crate::mail::Account;
use crate::model::{Event, Lead, Money, Purpose, Timestamp};
use crate::plugin::bindings::{wit, wit_outbound};
use crate::plugin::manifest::MailSection;
use crate::plugin::template_ref;
use crate::policy::callbacks;
use crate::policy::outcome::Refusal;
use crate::secrets::{SecretSet, SecretText};
use crate::store::Leased;

/// The credential's mail account, from the manifest's templates.
pub(super) fn account(mail: &MailSection, config: &Map<String, Value>, secrets: &SecretSet) -> Result<Account, String> {
    let render = |template: &str| template_ref::render(template, config, secrets, &|_| String::new()).map_err(|e| e.to_string());
    let password = render(&mail.password)?;
    let password = (!password.is_empty()).then(|| SecretText::new(password.to_string()));
    Account::parse(&render(&mail.server)?, &render(&mail.tls)?, &render(&mail.username)?, password, &render(&mail.from)?)
        .map_err(|e| e.to_string())
}

/// A lead that nobody has tried to send, as the plugin gets it.
pub(super) fn first_item(delivery: String, what: &Lead, fields: String) -> wit_outbound::Item {
    blank(delivery, wit_outbound::Payload::Lead(lead(what)), fields)
}

fn blank(delivery: String, payload: wit_outbound::Payload, fields: String) -> wit_outbound::Item {
    wit_outbound::Item {
        idempotency_key: delivery.clone(),
        id: delivery,
        attempt: 1,
        maybe_sent: false,
        memo: None,
        fields,
        refs: Vec::new(),
        payload,
    }
}

/// A leased job as the plugin gets it.
pub(super) fn item(leased: &Leased, fields: String) -> wit_outbound::Item {
    let payload = match &leased.event {
        Some(told) => wit_outbound::Payload::Event(event(told, leased)),
        None => wit_outbound::Payload::Lead(lead(&leased.lead)),
    };
    wit_outbound::Item {
        attempt: leased.attempts.saturating_add(1),
        maybe_sent: leased.maybe_sent,
        memo: leased.memo.clone(),
        ..blank(leased.job.delivery.to_string(), payload, fields)
    }
}

fn event(event: &Event, leased: &Leased) -> wit::types::Event {
    wit::types::Event {
        kind: event.kind.clone(),
        external_id: event.external_id.clone(),
        dedup_key: leased.job.delivery.to_string(),
        at_ms: u64::try_from(event.at.as_millis()).ok(),
        data: event.data.to_string(),
    }
}

/// What an event says where a channel sends text: the template it came with, or the usual words. The credential's own
/// templates and mapping are about leads.
pub(super) fn event_fields(event: &Event, lead: &Lead, ready: &Ready, now: Timestamp) -> Result<String, Refusal> {
    let text = match &event.template {
        // A URL is read by a program.
        None if ready.credential.purpose != Purpose::Standing => return Ok("{}".into()),
        None => callbacks::text(event, &ready.project.locale),
        Some(template) => {
            let mut data = template_data(lead, ready, now);
            data.insert("event".into(), json!({"kind": event.kind, "external_id": event.external_id, "at": event.at, "data": event.data}));
            crate::template::render(template, &crate::template::data(&data), crate::template::Escape::None)
                .map_err(|why| Refusal::new("template_invalid", format!("the template of this message: {why}")))?
        }
    };
    let subject = text.lines().find(|line| !line.trim().is_empty()).unwrap_or(&event.kind);
    Ok(json!({"text": text, "subject": subject}).to_string())
}

fn lead(lead: &Lead) -> wit::types::Lead {
    let origin = &lead.origin;
    wit::types::Lead {
        id: lead.id.to_string(),
        created_ms: u64::try_from(lead.created_at.as_millis()).unwrap_or(0),
        title: lead.title.clone(),
        name: lead.name.clone(),
        company: lead.company.clone(),
        phones: lead.phones.iter().map(|p| wit::types::Phone { raw: p.raw.clone(), e164: p.e164.clone() }).collect(),
        emails: lead.emails.clone(),
        comment: lead.comment.clone(),
        value: lead.value.as_ref().map(|m| wit::types::Money { minor: m.minor, exponent: m.exponent, currency: m.currency.clone() }),
        origin: wit::types::Origin {
            page: origin.page.clone(),
            referrer: origin.referrer.clone(),
            form: origin.form.clone(),
            ip: origin.ip.clone(),
            user_agent: origin.user_agent.clone(),
            utm_source: origin.utm_source.clone(),
            utm_medium: origin.utm_medium.clone(),
            utm_campaign: origin.utm_campaign.clone(),
            utm_term: origin.utm_term.clone(),
            utm_content: origin.utm_content.clone(),
            ids: origin.ids.iter().map(|(name, value)| wit::types::Attr { name: name.clone(), value: value.clone() }).collect(),
        },
        attrs: external_attrs(lead),
        extra: serde_json::to_string(&lead.fields).unwrap_or_else(|_| "{}".into()),
    }
}

/// Core fields that the record of contract 1.0 has no place for.
fn external_attrs(lead: &Lead) -> Vec<wit::types::Attr> {
    let mut attrs = Vec::new();
    if let Some(entity) = &lead.entity {
        attrs.push(wit::types::Attr { name: "entity".into(), value: entity.clone() });
    }
    if let Some(id) = &lead.external_id {
        attrs.push(wit::types::Attr { name: "external_id".into(), value: id.clone() });
    }
    attrs
}

/// An amount as decimal text, such as `1500.00`.
pub(crate) fn amount(money: &Money) -> String {
    let digits = money.minor.unsigned_abs().to_string();
    let sign = if money.minor < 0 { "-" } else { "" };
    let places = usize::from(money.exponent);
    if places == 0 {
        return format!("{sign}{digits}");
    }
    let digits = format!("{digits:0>width$}", width = places + 1);
    let (whole, part) = digits.split_at(digits.len() - places);
    format!("{sign}{whole}.{part}")
}

/// What templates and filters see.
pub(crate) fn template_data(lead: &Lead, ready: &Ready, now: Timestamp) -> Map<String, Value> {
    let value = lead.value.as_ref().map(|money| {
        let text = amount(money);
        json!({"number": text.parse::<f64>().unwrap_or(0.0), "amount": text, "currency": money.currency})
    });
    let phones: Vec<&str> = lead.phones.iter().map(|p| p.e164.as_deref().unwrap_or(&p.raw)).collect();
    let lead_data = json!({
        "id": lead.id, "created_at": lead.created_at, "external_id": lead.external_id, "title": lead.title, "name": lead.name,
        "company": lead.company, "phone": phones.first(), "phones": phones, "email": lead.emails.first(), "emails": lead.emails,
        "comment": lead.comment, "value": value, "origin": lead.origin, "fields": lead.fields,
    });
    let project = json!({"id": ready.project.id, "external_id": ready.project.external_id, "name": ready.project.name});
    Map::from_iter([
        ("lead".to_owned(), lead_data),
        ("event".to_owned(), Value::Null),
        ("config".to_owned(), Value::Object(ready.config.clone())),
        ("project".to_owned(), project),
        ("entity".to_owned(), json!(lead.entity)),
        ("now".to_owned(), json!(now)),
    ])
}

/// Why a lead that the filter keeps back is not sent.
pub(super) fn filtered(why: Option<String>) -> Refusal {
    let text = "the credential's filter does not let this lead through";
    Refusal::new("filtered", why.map_or_else(|| text.to_owned(), |why| format!("{text}: {why}")))
}

/// The credential's mapping over one lead, as the plugin gets it.
pub(super) fn map_fields(mapping: &Map<String, Value>, data: &Map<String, Value>) -> Result<String, Refusal> {
    if mapping.is_empty() {
        return Ok("{}".into());
    }
    let (fields, errors) = mapped(mapping, data);
    if let Some((name, why)) = errors.first() {
        return Err(Refusal::new("mapping_invalid", format!("mapping of `{name}`: {why}")));
    }
    serde_json::to_string(&fields).map_err(|e| Refusal::new("mapping_invalid", e.to_string()))
}

/// Each remote field with its value, and each that has none with the reason.
pub(super) fn mapped(mapping: &Map<String, Value>, data: &Map<String, Value>) -> (Map<String, Value>, Vec<(String, String)>) {
    let seen = crate::template::data(data);
    let (mut fields, mut errors) = (Map::new(), Vec::new());
    for (name, rule) in mapping {
        match field(rule, &seen, data) {
            Ok(value) => drop(fields.insert(name.clone(), value)),
            Err(why) => errors.push((name.clone(), why)),
        }
    }
    (fields, errors)
}

fn field(rule: &Value, seen: &minijinja::Value, data: &Map<String, Value>) -> Result<Value, String> {
    if let Value::String(template) = rule {
        return crate::template::render(template, seen, crate::template::Escape::None).map(Value::String);
    }
    if let Some(constant) = rule.get("const") {
        return Ok(constant.clone());
    }
    let from = rule.get("from").and_then(Value::as_str).ok_or("a rule is a template, {\"const\": …} or {\"from\": …}")?;
    let mut path = from.split('.');
    let found = path.next().and_then(|first| data.get(first));
    let found = path.fold(found, |value, name| value.and_then(|value| value.get(name)));
    let Some(map) = rule.get("map").and_then(Value::as_object) else { return Ok(found.cloned().unwrap_or(Value::Null)) };
    let key = match found {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    Ok(map.get(&key).or_else(|| rule.get("default")).cloned().unwrap_or(Value::Null))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        for (minor, exponent, text) in [(150_000, 2, "1500.00"), (5, 2, "0.05"), (-5, 1, "-0.5"), (7, 0, "7"), (0, 2, "0.00")] {
            assert_eq!(amount(&Money { minor, exponent, currency: "RUB".into() }), text);
        }
    }

    #[test]
    fn maps_by_template_constant_and_table() {
        let Value::Object(mapping) = json!({
            "NAME": "{{ lead.name | upper }}", "SOURCE": {"const": 5},
            "STAGE": {"from": "lead.fields.stage", "map": {"C1:NEW": "NEW"}, "default": "OTHER"}, "RAW": {"from": "lead.fields"}
        }) else {
            panic!()
        };
        let Value::Object(data) = json!({"lead": {"name": "ann", "fields": {"stage": "C1:NEW"}}}) else { panic!() };
        let fields: Value = serde_json::from_str(&map_fields(&mapping, &data).unwrap()).unwrap();
        assert_eq!(fields, json!({"NAME": "ANN", "SOURCE": 5, "STAGE": "NEW", "RAW": {"stage": "C1:NEW"}}));
        let Value::Object(broken) = json!({"X": "line one\n{{ lead.name | nope }}"}) else { panic!() };
        let why = map_fields(&broken, &data).unwrap_err();
        assert!(why.message.contains('X') && why.message.contains("line 2"), "{}", why.message);
    }
}
