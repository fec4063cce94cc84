//! Where else a person may be named who is erased: in the questions that tasks keep, and in what notifications told.

use std::collections::HashSet;

use serde_json::Value;

use super::search::{self, Found};
use crate::model::Lead;

/// By what a lead's person may be named elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// Contacts and words of the lead.
    pub found: Found,
    /// The client's own id of the lead.
    pub external_id: Option<String>,
}

impl Named {
    /// All names of a lead.
    pub fn of(lead: &Lead) -> Self {
        Self { found: search::of(lead), external_id: lead.external_id.clone() }
    }

    /// Contacts alone, for what names a person of whom no lead is there any more.
    pub fn by_contacts(contacts: &[String]) -> Self {
        Self { found: Found { contacts: contacts.to_vec(), words: Vec::new() }, external_id: None }
    }

    /// Whether what a task was asked names the person: by a contact, by the client's id of the lead, or by words that are
    /// all the lead's.
    pub fn in_task(&self, asked: &Value) -> bool {
        let queries = asked.get("queries").and_then(Value::as_array);
        queries.into_iter().flatten().any(|query| self.in_query(query))
    }

    fn in_query(&self, query: &Value) -> bool {
        let texts = |value: Option<&Value>| -> Vec<String> {
            value.and_then(Value::as_array).into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
        };
        let groups = query.get("contacts").and_then(Value::as_array);
        let mut keys = groups.into_iter().flatten().flat_map(|group| texts(Some(group)));
        let words = texts(query.get("words"));
        let own = query.get("external_id").and_then(Value::as_str);
        keys.any(|key| self.found.contacts.contains(&key))
            || (own.is_some() && own == self.external_id.as_deref())
            || (!words.is_empty() && words.iter().all(|word| self.found.words.contains(word)))
    }
}

/// What stands in place of what a task was asked: nothing that matches, and why.
pub fn redacted_task() -> Value {
    serde_json::json!({"filter": {"erased": true}})
}

/// What a notification told, without what it told of these leads. `None`: it told nothing of them.
pub fn redacted_notice(data: &Value, leads: &HashSet<String>) -> Option<Value> {
    let events = data.get("events")?.as_array()?;
    let about = |event: &Value| event.get("lead_id").and_then(Value::as_str).is_some_and(|id| leads.contains(id));
    if !events.iter().any(about) {
        return None;
    }
    let mut data = data.clone();
    let fields = data.as_object_mut()?;
    fields.insert("events".to_owned(), events.iter().filter(|event| !about(event)).cloned().collect());
    fields.insert("text".to_owned(), Value::from("(a person named here was erased)"));
    Some(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn named() -> Named {
        let found =
            Found { contacts: vec!["p79161234567".into(), "eivan@example.com".into()], words: vec!["иван".into(), "петр".into()] };
        Named { found, external_id: Some("form-1".into()) }
    }

    #[test]
    fn a_question_that_names_the_person_is_known() {
        let asks = |query: Value| named().in_task(&json!({"queries": [{"status": "failed"}, query]}));
        assert!(asks(json!({"contacts": [["p1"], ["p2", "p79161234567"]]})));
        assert!(asks(json!({"external_id": "form-1"})));
        assert!(asks(json!({"words": ["петр", "иван"]})));
        assert!(!asks(json!({"words": ["петр", "сидор"]})));
        assert!(!asks(json!({"words": [], "contacts": [], "external_id": null})));
        assert!(!named().in_task(&json!({"leads": []})) && !named().in_task(&redacted_task()));
        assert!(Named::by_contacts(&["p1".into()]).in_task(&json!({"queries": [{"contacts": [["p1"]]}]})));
    }

    #[test]
    fn a_notification_forgets_the_person_and_nobody_else() {
        let data =
            json!({"rule": "r", "total": 2, "text": "x: why a", "events": [{"lead_id": "lead_a", "why": "a"}, {"lead_id": "lead_b"}]});
        let leads = HashSet::from(["lead_a".to_owned()]);
        let redacted = redacted_notice(&data, &leads).unwrap();
        assert_eq!((&redacted["events"], &redacted["total"]), (&json!([{"lead_id": "lead_b"}]), &json!(2)));
        assert!(!redacted.to_string().contains("why"));
        assert_eq!(redacted_notice(&redacted, &leads), None);
    }
}
