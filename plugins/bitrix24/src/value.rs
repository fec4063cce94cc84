//! Mapped values as the portal's fields want them, by the field's type.

use leadwire_sdk::Money;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A field of the portal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Field {
    /// Its name in `crm.item.*`.
    pub(crate) key: String,
    pub(crate) kind: String,
    pub(crate) multiple: bool,
    pub(crate) read_only: bool,
    /// Id and text of the choices of a list.
    pub(crate) choices: Vec<(String, String)>,
}

impl Field {
    fn is_own(&self) -> bool {
        self.key.starts_with("UF_")
    }

    /// The value for this field, or why it cannot hold it. `money` is the lead's: its currency stands for one that is not said.
    pub(crate) fn value(&self, value: &Value, money: Option<&Money>) -> Result<Value, String> {
        if self.read_only {
            return Err("the field is read-only".into());
        }
        let parts = parts(value);
        if self.multiple {
            return parts.iter().map(|part| self.single(part, money)).collect::<Result<Vec<_>, _>>().map(Value::Array);
        }
        match parts.as_slice() {
            [part] => self.single(part, money),
            _ if self.is_text() => Ok(parts.iter().map(plain).collect::<Vec<_>>().join(", ").into()),
            _ => Err("the field takes one value".into()),
        }
    }

    fn is_text(&self) -> bool {
        matches!(self.kind.as_str(), "string" | "text" | "char")
    }

    fn single(&self, value: &Value, money: Option<&Money>) -> Result<Value, String> {
        let text = plain(value);
        let text = text.trim();
        let wrong = |wanted: &str| Err(format!("it is not {wanted}"));
        match self.kind.as_str() {
            "integer" | "user" | "employee" => whole(text).map_or_else(|| wrong("a whole number"), |number| Ok(number.into())),
            "double" => decimal(text).map_or_else(|| wrong("a number"), |number| Ok(number.into())),
            "boolean" => match (truth(text), self.is_own()) {
                (None, _) => wrong("yes or no"),
                (Some(true), true) => Ok("1".into()),
                (Some(false), true) => Ok("0".into()),
                (Some(flag), false) => Ok(flag.into()),
            },
            "date" => date(text).map_or_else(|| wrong("a date such as 2026-11-22"), |(day, _)| Ok(day.into())),
            "datetime" => match date(text) {
                Some((day, time)) => Ok(format!("{day}T{time}").into()),
                None => wrong("a time such as 2026-11-22T10:00:00+03:00"),
            },
            "money" => amount(value, money).map_or_else(|| wrong("an amount such as 1500.00 RUB"), |money| Ok(money.into())),
            "enumeration" => self.choice(text),
            "file" | "crm_multifield" => Err("fields of this type cannot be filled".into()),
            _ => Ok(text.into()),
        }
    }

    /// By the choice's text, as people write it, or by its id.
    fn choice(&self, text: &str) -> Result<Value, String> {
        let same = |a: &str, b: &str| a.trim().to_lowercase() == b.to_lowercase();
        let by_text = self.choices.iter().find(|(_, shown)| same(shown, text));
        match by_text.or_else(|| self.choices.iter().find(|(id, _)| id == text)) {
            Some((id, _)) => Ok(id.as_str().into()),
            None => {
                let known: Vec<&str> = self.choices.iter().take(10).map(|(_, shown)| shown.as_str()).collect();
                Err(format!("the list has no such choice; it has {}", if known.is_empty() { "none".into() } else { known.join(", ") }))
            }
        }
    }
}

/// One value or many: an array, or the text of one, as a template can write it.
fn parts(value: &Value) -> Vec<Value> {
    let kept = |values: &[Value]| values.iter().filter(|value| !is_empty(value)).cloned().collect();
    match value {
        Value::Array(values) => kept(values),
        Value::String(text) if text.trim_start().starts_with('[') => match serde_json::from_str::<Vec<Value>>(text) {
            Ok(values) => kept(&values),
            Err(_) => vec![value.clone()],
        },
        other => vec![other.clone()],
    }
}

/// Nothing to write.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(values) => values.iter().all(is_empty),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

/// As text.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn whole(text: &str) -> Option<i64> {
    let number = decimal(text)?;
    let (whole, part) = number.split_once('.').unwrap_or((&number, "0"));
    part.bytes().all(|b| b == b'0').then(|| whole.parse().ok()).flatten()
}

/// `1 500,50` and `1,500.50` are 1500.50; nothing is rounded.
fn decimal(text: &str) -> Option<String> {
    let text: String = text.chars().filter(|c| !c.is_whitespace() && !matches!(c, '\u{2009}' | '\'' | '_')).collect();
    let text = match (text.matches(',').count(), text.contains('.')) {
        (0, _) => text,
        (1, false) => text.replace(',', "."),
        _ => text.replace(',', ""),
    };
    let digits = text.strip_prefix(['-', '+']).unwrap_or(&text);
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let sound = |part: &str| !part.is_empty() && part.len() <= 18 && part.bytes().all(|b| b.is_ascii_digit());
    (sound(whole) && sound(part)).then(|| text.trim_start_matches('+').to_owned())
}

fn truth(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "1" | "y" | "yes" | "true" | "on" | "да" => Some(true),
        "0" | "n" | "no" | "false" | "off" | "нет" => Some(false),
        _ => None,
    }
}

/// `2026-11-22`, `22.11.2026`, each with or without a time: the day, and the time with what was said of its zone.
fn date(text: &str) -> Option<(String, String)> {
    let (day, time) = text.split_once(['T', 't', ' ']).unwrap_or((text, ""));
    let parts: Vec<&str> = day.split(['-', '.']).collect();
    let [first, month, last] = parts.as_slice() else { return None };
    let (year, number) = if day.contains('-') { (*first, *last) } else { (*last, *first) };
    let digits =
        |part: &str, most: usize| (!part.is_empty() && part.len() <= most && part.bytes().all(|b| b.is_ascii_digit())).then_some(());
    digits(year, 4).filter(|()| year.len() == 4)?;
    digits(month, 2)?;
    digits(number, 2)?;
    let (y, m, d): (u32, u32, u32) = (year.parse().ok()?, month.parse().ok()?, number.parse().ok()?);
    let leap = y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let days = match m {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    ((1..=days).contains(&d) && y > 0).then_some(())?;
    Some((format!("{y:04}-{m:02}-{d:02}"), clock(time.trim())?))
}

/// `10:05`, `10:05:30.123Z`, `10:05:30+03:00` as the portal reads it: with seconds, without parts of one.
fn clock(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("00:00:00".into());
    }
    let zone_at = text.find(['Z', 'z', '+', '-']).unwrap_or(text.len());
    let (time, zone) = text.split_at(zone_at);
    let time = time.split('.').next().unwrap_or_default();
    let parts =
        time.split(':').map(|part| part.trim().parse::<u32>().ok().filter(|_| part.trim().len() <= 2)).collect::<Option<Vec<_>>>()?;
    let (hour, minute, second) = match parts.as_slice() {
        [hour, minute] => (*hour, *minute, 0),
        [hour, minute, second] => (*hour, *minute, *second),
        _ => return None,
    };
    let zone = match zone {
        "" => String::new(),
        "Z" | "z" => "+00:00".into(),
        zone => {
            let plain: String = zone[1..].chars().filter(|c| *c != ':').collect();
            (plain.len() == 4 && plain.bytes().all(|b| b.is_ascii_digit())).then_some(())?;
            format!("{}{}:{}", &zone[..1], &plain[..2], &plain[2..])
        }
    };
    (hour < 24 && minute < 60 && second < 60).then(|| format!("{hour:02}:{minute:02}:{second:02}{zone}"))
}

/// `1500.00|RUB`, from text with or without a currency or from an object as a lead's value is.
fn amount(value: &Value, money: Option<&Money>) -> Option<String> {
    let known = || money.map(|money| money.currency.clone());
    if let Some(amount) = value.get("amount") {
        let number = decimal(&plain(amount))?;
        let currency = value.get("currency").and_then(Value::as_str).map(str::to_owned).or_else(known);
        return Some(currency.map_or_else(|| number.clone(), |currency| format!("{number}|{currency}")));
    }
    let text = plain(value);
    let text = text.trim();
    let is_currency = |text: &str| text.len() == 3 && text.bytes().all(|b| b.is_ascii_alphabetic());
    let (number, currency) = match text.rsplit_once(['|', ' ']) {
        Some((number, currency)) if is_currency(currency) => (number, Some(currency.to_uppercase())),
        _ => (text, known()),
    };
    let number = decimal(number)?;
    Some(currency.map_or_else(|| number.clone(), |currency| format!("{number}|{currency}")))
}

/// A multifield of a contact or a lead.
pub(crate) fn multifield(kind: &str, value: &str) -> Value {
    json!({ "typeId": kind, "valueType": "WORK", "value": value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(kind: &str, multiple: bool) -> Field {
        let choices = vec![("44".into(), "Красный".into()), ("45".into(), "Blue".into()), ("7".into(), "44".into())];
        Field { key: "UF_CRM_1".into(), kind: kind.into(), multiple, read_only: false, choices }
    }

    fn one(kind: &str, value: Value) -> Result<Value, String> {
        let rub = Money { minor: 1, exponent: 2, currency: "RUB".into() };
        field(kind, false).value(&value, Some(&rub))
    }

    #[test]
    fn each_type_gets_its_form() {
        for (kind, value, wanted) in [
            ("string", json!(" Lada "), json!("Lada")),
            ("string", json!(["a", "b"]), json!("a, b")),
            ("string", json!({"a": 1}), json!("{\"a\":1}")),
            ("integer", json!("1 500"), json!(1500)),
            ("integer", json!("7.00"), json!(7)),
            ("double", json!("1 500,50"), json!("1500.50")),
            ("double", json!("1,500.50"), json!("1500.50")),
            ("double", json!(-2.5), json!("-2.5")),
            ("boolean", json!("Да"), json!("1")),
            ("boolean", json!(false), json!("0")),
            ("date", json!("22.11.2026"), json!("2026-11-22")),
            ("date", json!("2026-11-22T10:00:00Z"), json!("2026-11-22")),
            ("date", json!("29.02.2028"), json!("2028-02-29")),
            ("datetime", json!("2026-11-22T10:00:00.123Z"), json!("2026-11-22T10:00:00+00:00")),
            ("datetime", json!("22.11.2026 9:05"), json!("2026-11-22T09:05:00")),
            ("datetime", json!("2026-11-22 10:00:00+0300"), json!("2026-11-22T10:00:00+03:00")),
            ("money", json!("1500.00"), json!("1500.00|RUB")),
            ("money", json!("1 500,5 usd"), json!("1500.5|USD")),
            ("money", json!("99|EUR"), json!("99|EUR")),
            ("money", json!({"amount": "10.00", "currency": "KZT"}), json!("10.00|KZT")),
            ("enumeration", json!("красный"), json!("44")),
            ("enumeration", json!("45"), json!("45")),
            ("enumeration", json!(44), json!("7")),
            ("crm_status", json!("WEB"), json!("WEB")),
            ("url", json!("https://x.example/?a=1"), json!("https://x.example/?a=1")),
        ] {
            assert_eq!(one(kind, value.clone()), Ok(wanted), "{kind} {value}");
        }
        let standard = Field { key: "opened".into(), ..field("boolean", false) };
        assert_eq!(standard.value(&json!("yes"), None), Ok(json!(true)));
        assert_eq!(field("money", false).value(&json!("5"), None), Ok(json!("5")), "the portal's own currency");
    }

    #[test]
    fn what_a_type_cannot_hold_is_refused_in_words() {
        for (kind, value) in [
            ("integer", json!("1.5")),
            ("integer", json!("many")),
            ("integer", json!([1, 2])),
            ("double", json!("1.2.3")),
            ("double", json!("")),
            ("boolean", json!("maybe")),
            ("date", json!("31.02.2026")),
            ("date", json!("tomorrow")),
            ("date", json!("2026-13-01")),
            ("date", json!("22/11/2026")),
            ("datetime", json!("2026-11-22T25:00")),
            ("datetime", json!("2026-11-22T10:00:00+3")),
            ("money", json!("a lot")),
            ("enumeration", json!("Purple")),
            ("file", json!("x")),
        ] {
            assert!(one(kind, value.clone()).is_err(), "{kind} {value}");
        }
        assert!(one("enumeration", json!("Purple")).unwrap_err().contains("Красный, Blue"));
        let fixed = Field { read_only: true, ..field("string", false) };
        assert!(fixed.value(&json!("x"), None).is_err());
    }

    #[test]
    fn a_multiple_field_takes_one_value_or_many() {
        let tags = field("enumeration", true);
        assert_eq!(tags.value(&json!(["Blue", "Красный", ""]), None), Ok(json!(["45", "44"])));
        assert_eq!(tags.value(&json!("Blue"), None), Ok(json!(["45"])));
        assert_eq!(tags.value(&json!("[\"Blue\", \"красный\"]"), None), Ok(json!(["45", "44"])));
        assert!(tags.value(&json!(["Blue", "Purple"]), None).is_err());
        assert_eq!(field("string", true).value(&json!("[draft] offer"), None), Ok(json!(["[draft] offer"])));
    }
}
