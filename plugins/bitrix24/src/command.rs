//! Commands of a batch: `method?query`, written as PHP reads it.

use leadwire_sdk::http::form_body;
use serde_json::Value;

/// Stands between two characters and is not seen: breaks up what the portal would take for a sign of its own.
pub(crate) const INVISIBLE: char = '\u{200B}';

/// One command of a batch.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    /// The key of its answer; only letters and digits, never a lead's text.
    pub(crate) name: String,
    pub(crate) method: &'static str,
    pairs: Vec<(String, String)>,
}

impl Command {
    pub(crate) fn new(name: String, method: &'static str) -> Self {
        Self { name, method, pairs: Vec::new() }
    }

    /// A parameter: a plain value, an array or an object. Null and empty ones are left out, as no query can say them.
    pub(crate) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.put(key.to_owned(), &value.into());
        self
    }

    /// A parameter that is a result of an earlier command of the same batch, such as `d0`, `item`, `id`.
    pub(crate) fn with_result(mut self, key: &str, path: &[&str]) -> Self {
        let steps: String = path.iter().map(|step| format!("[{step}]")).collect();
        self.pairs.push((key.to_owned(), format!("$result{steps}")));
        self
    }

    fn put(&mut self, key: String, value: &Value) {
        match value {
            Value::Null => {}
            Value::Bool(flag) => self.pairs.push((key, if *flag { "Y" } else { "N" }.into())),
            Value::Number(number) => self.pairs.push((key, number.to_string())),
            Value::String(text) => self.pairs.push((key, without_references(text))),
            Value::Array(values) => {
                for (index, value) in values.iter().enumerate() {
                    self.put(format!("{key}[{index}]"), value);
                }
            }
            Value::Object(members) => {
                for (name, value) in members {
                    self.put(format!("{key}[{name}]"), value);
                }
            }
        }
    }

    /// As it stands in `cmd`.
    pub(crate) fn line(&self) -> String {
        format!("{}?{}", self.method, form_body(self.pairs.iter().map(|(key, value)| (key, value))))
    }
}

/// `$result[…]` in a lead's text would be replaced by another lead's data.
fn without_references(text: &str) -> String {
    const SIGN: &str = "$result";
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        out.push(c);
        if c == '$' && text.as_bytes()[at..].get(..SIGN.len()).is_some_and(|start| start.eq_ignore_ascii_case(SIGN.as_bytes())) {
            out.push(INVISIBLE);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_written_with_brackets_and_escaped_once() {
        let command = Command::new("d0".into(), "crm.item.add")
            .with("entityTypeId", 2)
            .with("fields", json!({ "title": "A&B=C + 100%" }))
            .with("fields", json!({ "contactIds": [7], "none": null }))
            .with("fields", json!({ "fm": [{ "typeId": "PHONE" }, { "value": "+7" }] }))
            .with_result("x", &["c0", "item", "id"]);
        assert_eq!(
            command.line(),
            "crm.item.add?entityTypeId=2&fields%5Btitle%5D=A%26B%3DC+%2B+100%25&fields%5BcontactIds%5D%5B0%5D=7\
             &fields%5Bfm%5D%5B0%5D%5BtypeId%5D=PHONE&fields%5Bfm%5D%5B1%5D%5Bvalue%5D=%2B7&x=%24result%5Bc0%5D%5Bitem%5D%5Bid%5D"
        );
    }

    #[test]
    fn a_text_cannot_refer_to_another_commands_result() {
        for hostile in ["$result[d1][item][title]", "a $RESULT[c0] b", "$$result[x]"] {
            let safe = without_references(hostile);
            assert!(!safe.to_lowercase().contains("$result["), "{safe}");
            assert_eq!(safe.replace(INVISIBLE, ""), hostile);
        }
        for plain in ["$results are 5", "$ result", "", "я$", "цена $res"] {
            assert_eq!(without_references(plain).replace(INVISIBLE, ""), plain);
        }
    }
}
