//! What makes two leads the same.

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::model::Lead;

/// SHA-256 over the project and the client's own id when there is one, else over the normalised content.
pub fn hash(lead: &Lead) -> [u8; 32] {
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
    let mut phones: Vec<String> =
        lead.phones.iter().map(|phone| phone.e164.clone().unwrap_or_else(|| phone.raw.trim().to_owned())).collect();
    phones.sort_unstable();
    phones.dedup();
    let mut emails: Vec<String> = lead.emails.iter().map(|email| email.to_lowercase()).collect();
    emails.sort_unstable();
    emails.dedup();
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
