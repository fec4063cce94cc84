//! What the audit log says of a change: the fields that differ, within bounds.

use serde_json::{Map, Value};

use super::pointer_step;
use crate::model::AuditChange;

/// Most fields of one act.
const MAX_CHANGES: usize = 64;
/// Longest text of a value, in characters.
const MAX_TEXT: usize = 400;
/// Most bytes of any other value.
const MAX_BYTES: usize = 2_000;
/// How deep fields are compared one by one; below, values are taken as a whole.
const MAX_DEPTH: usize = 3;
/// Fields that every act changes and that say nothing.
const NOISE: [&str; 6] = ["id", "created_at", "updated_at", "version", "state_since", "last_used_at"];

/// The fields that differ. `Null` stands for what is not there before or after.
pub fn changes(before: &Value, after: &Value) -> Vec<AuditChange> {
    let mut found = Vec::new();
    compare(String::new(), before, after, 0, &mut found);
    if found.len() > MAX_CHANGES {
        let more = found.len() - MAX_CHANGES;
        found.truncate(MAX_CHANGES);
        found.push(AuditChange { field: String::new(), before: None, after: Some(format!("and {more} fields more").into()) });
    }
    found
}

fn compare(field: String, before: &Value, after: &Value, depth: usize, found: &mut Vec<AuditChange>) {
    if before == after || (is_nothing(before) && is_nothing(after)) {
        return;
    }
    let empty = Map::new();
    let (old, new) = match (before, after) {
        (Value::Object(old), Value::Object(new)) => (old, new),
        (Value::Object(old), Value::Null) => (old, &empty),
        (Value::Null, Value::Object(new)) => (&empty, new),
        _ => return found.push(AuditChange { field, before: bounded(before), after: bounded(after) }),
    };
    if depth == MAX_DEPTH {
        return found.push(AuditChange { field, before: bounded(before), after: bounded(after) });
    }
    let added = new.keys().filter(|name| !old.contains_key(*name));
    for name in old.keys().chain(added).filter(|name| depth > 0 || !NOISE.contains(&name.as_str())) {
        let of = |side: &Map<String, Value>| side.get(name).cloned().unwrap_or_default();
        compare(format!("{field}/{}", pointer_step(name)), &of(old), &of(new), depth + 1, found);
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn bounded(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::String(text) => match text.char_indices().nth(MAX_TEXT) {
            Some((end, _)) => Some(format!("{}… ({} bytes)", &text[..end], text.len()).into()),
            None => Some(value.clone()),
        },
        Value::Array(_) | Value::Object(_) => {
            let bytes = value.to_string().len();
            Some(if bytes > MAX_BYTES { format!("({bytes} bytes of JSON)").into() } else { value.clone() })
        }
        Value::Bool(_) | Value::Number(_) => Some(value.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(before: Value, after: Value) -> Value {
        serde_json::to_value(changes(&before, &after)).unwrap()
    }

    #[test]
    fn only_what_differs_is_told_with_its_place() {
        let before = json!({"id": "x", "version": 1, "name": "a", "config": {"url": "u", "a/b": 1, "same": [1]}, "entity": null});
        let after = json!({"id": "x", "version": 2, "name": "b", "config": {"url": "u", "same": [1], "new": true}, "entity": {}});
        let expected = json!([
            {"field": "/name", "before": "a", "after": "b"},
            {"field": "/config/a~1b", "before": 1},
            {"field": "/config/new", "after": true},
        ]);
        assert_eq!(told(before, after), expected);
        assert_eq!(told(json!({"a": 1}), json!({"a": 1})), json!([]));
    }

    #[test]
    fn what_is_made_or_deleted_is_told_field_by_field() {
        assert_eq!(told(Value::Null, json!({"id": 1, "name": "a", "list": []})), json!([{"field": "/name", "after": "a"}]));
        assert_eq!(told(json!({"name": "a", "on": [1]}), Value::Null)[1], json!({"field": "/on", "before": [1]}));
        assert_eq!(told(json!({"on": [1]}), json!({"on": []})), json!([{"field": "/on", "before": [1], "after": []}]));
    }

    #[test]
    fn nothing_large_is_kept() {
        let long = "ж".repeat(5_000);
        let many: Map<String, Value> = (0..500).map(|n| (format!("f{n}"), json!(n))).collect();
        let deep = json!({"a": {"b": {"c": {"d": long}}}});
        for value in [json!({"text": long}), json!({"list": [long]}), Value::Object(many), deep] {
            let text = told(Value::Null, value.clone()).to_string();
            assert!(text.len() < 8_000, "{} bytes", text.len());
        }
        let text = told(Value::Null, json!({"text": "ж".repeat(401)}));
        assert!(text[0]["after"].as_str().unwrap().ends_with("… (802 bytes)"));
    }
}
