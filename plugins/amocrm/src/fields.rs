//! The account's own fields: which there are, and how a value is written for each kind.
//!
//! amoCRM refuses a whole lead for one value it does not know, so what does not fit its field is left out here and goes
//! into the note.

use std::collections::BTreeSet;

use leadwire_sdk::log;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    api::{Api, Trouble, embedded, id_of},
    date,
};

/// How long what is known of the fields is used.
const KEPT_S: u32 = 600;
/// Pages of fields that are read.
const PAGES: u32 = 5;
/// Values of one entity that amoCRM takes.
pub(crate) const MOST: usize = 40;
/// Longest text of a field, in characters.
const TEXT: usize = 2_000;

/// What has fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entity {
    Lead,
    Contact,
    Company,
}

impl Entity {
    /// In addresses.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Lead => "leads",
            Self::Contact => "contacts",
            Self::Company => "companies",
        }
    }

    /// In words.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lead => "lead",
            Self::Contact => "contact",
            Self::Company => "company",
        }
    }
}

/// A field of the account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Field {
    pub(crate) id: u64,
    pub(crate) code: Option<String>,
    pub(crate) kind: String,
    /// Of a choice.
    pub(crate) options: Vec<(u64, String)>,
}

/// The fields of one entity that were asked for, and that they were: what is not among them is not there.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Fields {
    asked: BTreeSet<String>,
    fields: Vec<Field>,
}

impl Fields {
    /// The field of this id or code.
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        let name = fold(name);
        self.fields.iter().find(|field| field.answers(&name))
    }

    /// Whether nothing was asked for yet.
    pub(crate) fn is_unread(&self) -> bool {
        self.asked.is_empty()
    }

    /// From the last ten minutes, or from the account.
    pub(crate) fn load(api: &Api<'_>, entity: Entity, wanted: &BTreeSet<String>) -> Result<Self, Trouble> {
        let wanted: BTreeSet<String> = wanted.iter().map(|name| fold(name)).collect();
        if wanted.is_empty() {
            return Ok(Self::default());
        }
        let kept = api.ctx.kv().get_text(&key(entity)).ok().flatten().and_then(|kept| serde_json::from_str::<Self>(&kept).ok());
        if let Some(kept) = kept.filter(|kept| wanted.is_subset(&kept.asked)) {
            return Ok(kept);
        }
        let mut found = Self { asked: wanted, fields: Vec::new() };
        for page in 1..=PAGES {
            let path = format!("{}/custom_fields", entity.plural());
            let Some(answer) = api.get(&path, &[("limit", "250"), ("page", &page.to_string())])? else { break };
            let fields = embedded(&answer, "custom_fields").iter().filter_map(Field::read);
            found.fields.extend(fields.filter(|field| found.asked.iter().any(|name| field.answers(name))));
            if answer.pointer("/_links/next").is_none() {
                break;
            }
        }
        let kept = serde_json::to_string(&found).unwrap_or_default();
        if api.ctx.kv().set(&key(entity), kept.as_bytes(), Some(KEPT_S)).is_err() {
            log::debug("what is known of the account's fields could not be kept");
        }
        Ok(found)
    }

    /// Has the account asked again: something about its fields was not as we knew it.
    pub(crate) fn forget(api: &Api<'_>) {
        for entity in [Entity::Lead, Entity::Contact, Entity::Company] {
            let _ = api.ctx.kv().delete(&key(entity));
        }
    }
}

fn key(entity: Entity) -> String {
    format!("fields:{}", entity.plural())
}

/// Codes are written in any case, and some begin with a line: `_ym_uid`, `YM_UID`.
fn fold(name: &str) -> String {
    name.trim_start_matches('_').to_uppercase()
}

impl Field {
    fn read(value: &Value) -> Option<Self> {
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let options = value.get("enums").and_then(Value::as_array).into_iter().flatten();
        let options = options.filter_map(|option| Some((id_of(option, "id")?, text(option, "value")?))).collect();
        Some(Self { id: id_of(value, "id")?, code: text(value, "code"), kind: text(value, "type").unwrap_or_default(), options })
    }

    fn answers(&self, name: &str) -> bool {
        self.id.to_string() == name || self.code.as_deref().is_some_and(|code| fold(code) == name)
    }

    /// The field with this value, as amoCRM takes it. `None`: there is nothing to write. The error is for the admin.
    pub(crate) fn with(&self, value: &Value) -> Result<Option<Value>, String> {
        let values = self.values(value)?;
        Ok((!values.is_empty()).then(|| json!({ "field_id": self.id, "values": values })))
    }

    fn values(&self, value: &Value) -> Result<Vec<Value>, String> {
        match value {
            Value::Null => return Ok(Vec::new()),
            Value::String(text) if text.trim().is_empty() => return Ok(Vec::new()),
            // As amoCRM's own documentation writes them: for the kinds that are more than one plain value.
            Value::Object(_) => return Ok(vec![value.clone()]),
            Value::Array(list) if list.iter().all(Value::is_object) => return Ok(list.clone()),
            _ => {}
        }
        let one = |value: Value| vec![json!({ "value": value })];
        let text = shown(value);
        match self.kind.as_str() {
            "numeric" | "monetary" | "price" => number(value).map(one).ok_or_else(|| "no number".into()),
            "checkbox" => truth(value).map(|flag| one(json!(flag))).ok_or_else(|| "neither yes nor no".into()),
            "date" | "birthday" => date::seconds(value, true).map(|at| one(json!(at))).ok_or_else(|| "no date".into()),
            "date_time" => date::seconds(value, false).map(|at| one(json!(at))).ok_or_else(|| "no date".into()),
            "select" | "radiobutton" | "category" => Ok(vec![json!({ "enum_id": self.option(&text).ok_or("no option of this field")? })]),
            "multiselect" => self.options_of(value),
            "multitext" => Ok(parts(value).into_iter().map(|part| json!({ "value": cut(&part, TEXT), "enum_code": "WORK" })).collect()),
            "text" | "textarea" | "url" | "tracking_data" | "streetaddress" | "legal_name" | "" => Ok(one(json!(cut(&text, TEXT)))),
            kind => Err(format!("a value for a field of the kind `{kind}` is written as amoCRM's documentation does, as an object")),
        }
    }

    /// An option by its id or its text.
    fn option(&self, text: &str) -> Option<u64> {
        let wanted = text.trim().to_lowercase();
        let by_text = self.options.iter().find(|(_, option)| option.trim().to_lowercase() == wanted);
        by_text.or_else(|| self.options.iter().find(|(id, _)| id.to_string() == wanted)).map(|(id, _)| *id)
    }

    fn options_of(&self, value: &Value) -> Result<Vec<Value>, String> {
        // An option may hold a comma itself.
        let whole = value.as_str().and_then(|text| self.option(text)).map(|id| vec![id]);
        let ids = match whole {
            Some(ids) => ids,
            None => {
                let find = |part: String| self.option(&part).ok_or_else(|| format!("`{part}` is no option of this field"));
                parts(value).into_iter().map(find).collect::<Result<_, _>>()?
            }
        };
        Ok(ids.into_iter().map(|id| json!({ "enum_id": id })).collect())
    }
}

/// A value as people read it.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.trim().to_owned(),
        Value::Array(list) => list.iter().map(shown).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// The members of a list, or of a text with commas, semicolons or lines.
pub(crate) fn parts(value: &Value) -> Vec<String> {
    let list: Vec<String> = match value {
        Value::Array(list) => list.iter().map(shown).collect(),
        other => shown(other).split([',', ';', '\n']).map(|part| part.trim().to_owned()).collect(),
    };
    list.into_iter().filter(|part| !part.is_empty()).collect()
}

fn number(value: &Value) -> Option<Value> {
    if value.is_number() {
        return Some(value.clone());
    }
    let text: String = value.as_str()?.chars().filter(|c| !c.is_whitespace()).collect::<String>().replace(',', ".");
    let plain = text.strip_prefix('-').unwrap_or(&text).chars().all(|c| c.is_ascii_digit() || c == '.');
    let exact = text.parse::<i64>().ok().map(Value::from);
    exact.or_else(|| text.parse::<f64>().ok().filter(|_| plain).and_then(serde_json::Number::from_f64).map(Value::Number))
}

fn truth(value: &Value) -> Option<bool> {
    match shown(value).to_lowercase().as_str() {
        "true" | "1" | "yes" | "on" | "да" => Some(true),
        "false" | "0" | "no" | "off" | "нет" => Some(false),
        _ => None,
    }
}

/// The text without control characters, cut to so many characters.
pub(crate) fn cut(text: &str, most: usize) -> String {
    let clean = || text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t'));
    if clean().nth(most).is_none() { clean().collect() } else { clean().take(most.saturating_sub(1)).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(kind: &str) -> Field {
        let options = vec![(11, "Да, срочно".into()), (12, "Новый".into()), (13, "12".into())];
        Field { id: 7, code: Some("CODE".into()), kind: kind.into(), options }
    }

    fn value(kind: &str, value: Value) -> Result<Value, String> {
        field(kind).values(&value).map(Value::Array)
    }

    #[test]
    fn each_kind_has_its_form() {
        for (kind, given, written) in [
            ("text", json!("  a\u{0}b "), json!([{ "value": "ab" }])),
            ("text", json!(5), json!([{ "value": "5" }])),
            ("text", json!(["a", 2]), json!([{ "value": "a, 2" }])),
            ("tracking_data", json!("yandex"), json!([{ "value": "yandex" }])),
            ("numeric", json!(" 1 500,50"), json!([{ "value": 1500.5 }])),
            ("numeric", json!("12345678901234"), json!([{ "value": 12_345_678_901_234_i64 }])),
            ("monetary", json!(7), json!([{ "value": 7 }])),
            ("checkbox", json!("Да"), json!([{ "value": true }])),
            ("checkbox", json!(0), json!([{ "value": false }])),
            ("select", json!("новый "), json!([{ "enum_id": 12 }])),
            ("select", json!(11), json!([{ "enum_id": 11 }])),
            ("radiobutton", json!("12"), json!([{ "enum_id": 13 }])),
            ("multiselect", json!("Да, срочно"), json!([{ "enum_id": 11 }])),
            ("multiselect", json!("новый; 11"), json!([{ "enum_id": 12 }, { "enum_id": 11 }])),
            ("multiselect", json!(["Да, срочно", 12]), json!([{ "enum_id": 11 }, { "enum_id": 13 }])),
            (
                "multitext",
                json!("a@b.c, d@e.f"),
                json!([{ "value": "a@b.c", "enum_code": "WORK" }, { "value": "d@e.f", "enum_code": "WORK" }]),
            ),
            ("date", json!("2026-11-22"), json!([{ "value": 1_795_348_800 }])),
            ("date_time", json!("2026-11-22T10:00:00+03:00"), json!([{ "value": 1_795_330_800 }])),
            ("smart_address", json!([{ "value": "x", "enum_code": "city" }]), json!([{ "value": "x", "enum_code": "city" }])),
            ("select", json!(""), json!([])),
            ("numeric", json!(null), json!([])),
        ] {
            assert_eq!(value(kind, given.clone()), Ok(written), "{kind} {given}");
        }
    }

    #[test]
    fn what_does_not_fit_is_said_and_not_sent() {
        for (kind, given) in [
            ("numeric", json!("many")),
            ("numeric", json!("inf")),
            ("checkbox", json!("maybe")),
            ("select", json!("Old")),
            ("multiselect", json!("новый, Old")),
            ("date", json!("tomorrow")),
            ("smart_address", json!("Moscow")),
            ("file", json!("x")),
        ] {
            assert!(value(kind, given.clone()).is_err(), "{kind} {given}");
        }
        assert_eq!(field("select").with(&json!(" ")), Ok(None));
    }

    #[test]
    fn fields_are_found_by_id_and_by_code_in_any_spelling() {
        let fields = Fields { asked: BTreeSet::new(), fields: vec![Field { code: Some("_YM_UID".into()), ..field("text") }] };
        for name in ["7", "ym_uid", "_ym_uid", "YM_UID"] {
            assert!(fields.field(name).is_some(), "{name}");
        }
        assert!(fields.field("8").is_none());
    }

    #[test]
    fn texts_are_cut_by_characters() {
        assert_eq!(cut("абвг", 4), "абвг");
        assert_eq!(cut("абвгд", 4), "абв…");
    }
}
