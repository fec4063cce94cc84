//! Parameters as PHP reads them: brackets make arrays, and everything is text.

use serde_json::{Map, Value, json};

use crate::wire::decode_form;

/// A query or a form as nested values; lists are objects with numbers for names, as PHP has them.
pub(super) fn parse(text: &str) -> Value {
    let mut all = Map::new();
    for (name, value) in decode_form(text) {
        let steps = steps(&name);
        if let Some((first, rest)) = steps.split_first() {
            put(all.entry(first.clone()).or_insert(Value::Null), rest, value);
        }
    }
    Value::Object(all)
}

/// `fields[fm][0][value]` is `fields`, `fm`, `0`, `value`.
fn steps(name: &str) -> Vec<String> {
    let Some((first, rest)) = name.split_once('[') else { return vec![name.to_owned()] };
    let inner = rest.strip_suffix(']').unwrap_or(rest);
    std::iter::once(first).chain(inner.split("][")).map(str::to_owned).collect()
}

fn put(place: &mut Value, steps: &[String], value: String) {
    let Some((first, rest)) = steps.split_first() else {
        *place = Value::String(value);
        return;
    };
    if !place.is_object() {
        *place = json!({});
    }
    if let Value::Object(members) = place {
        let name = if first.is_empty() { members.len().to_string() } else { first.clone() };
        put(members.entry(name).or_insert(Value::Null), rest, value);
    }
}

/// The values of a list, however it came.
pub(super) fn list(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values.clone(),
        Value::Object(members) => members.values().cloned().collect(),
        Value::Null => Vec::new(),
        other => vec![other.clone()],
    }
}

/// As text.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// As a number.
pub(super) fn number(value: &Value) -> Option<u64> {
    text(value).trim().parse().ok()
}

/// Puts earlier results in the place of `$result[command][path]`, wherever it stands; what is not there becomes nothing.
pub(super) fn resolve(value: &mut Value, results: &Map<String, Value>) {
    match value {
        Value::String(text) => {
            while let Some((range, found)) = reference(text, results) {
                text.replace_range(range, &found);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| resolve(value, results)),
        Value::Object(members) => members.values_mut().for_each(|value| resolve(value, results)),
        _ => {}
    }
}

fn reference(source: &str, results: &Map<String, Value>) -> Option<(std::ops::Range<usize>, String)> {
    let start = source.to_ascii_lowercase().find("$result[")?;
    let (mut end, mut found) = (start + "$result".len(), Value::Object(results.clone()));
    while let Some(step) = source[end..].strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(step, _)| step) {
        found = match &found {
            Value::Array(values) => step.parse::<usize>().ok().and_then(|at| values.get(at)).cloned(),
            other => other.get(step).cloned(),
        }
        .unwrap_or_default();
        end += step.len() + 2;
    }
    // An open bracket without its end is no reference; it is taken away, so that the search ends.
    if end == start + "$result".len() {
        return Some((start..end + 1, String::new()));
    }
    Some((start..end, text(&found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_make_arrays() {
        let parsed = parse("a=1&fields%5Btitle%5D=x%26y+z&fields[fm][0][value]=%2B7&fields[l][]=p&fields[l][]=q");
        assert_eq!(parsed, json!({"a": "1", "fields": {"title": "x&y z", "fm": {"0": {"value": "+7"}}, "l": {"0": "p", "1": "q"}}}));
        assert_eq!(list(&parsed["fields"]["l"]), [json!("p"), json!("q")]);
    }

    #[test]
    fn results_are_put_in_wherever_they_are_named() {
        let results = json!({"c": {"item": {"id": 7}}, "l": {"items": [{"id": 9}]}});
        let results = results.as_object().unwrap();
        for (source, wanted) in [
            ("$result[c][item][id]", "7"),
            ("no. $result[l][items][0][id]!", "no. 9!"),
            ("$result[x][y]", ""),
            ("$result[", ""),
            ("$results", "$results"),
        ] {
            let mut value = json!({"v": source});
            resolve(&mut value, results);
            assert_eq!(value["v"], wanted, "{source}");
        }
    }
}
