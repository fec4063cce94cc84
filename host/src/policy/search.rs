//! By what leads are found: contacts in one spelling, and words. The same for a lead that is stored and for a question
//! about it, and for every store: the database only compares what is made here.

use std::sync::LazyLock;

use phonenumber::country;
use rust_stemmers::{Algorithm, Stemmer};

use super::normalise;
use crate::model::{Lead, ProjectId};

/// Most different words that are kept of one lead.
const MAX_WORDS: usize = 128;
/// Most characters of a text that are looked at.
const MAX_TEXT: usize = 16_384;
/// Longest word, in characters; the rest of a longer one does not count.
const MAX_WORD: usize = 32;
/// Most contacts that are kept of one lead: all that it can have, so that whoever is to be erased is found.
const MAX_CONTACTS: usize = 100;
/// Most words of a question.
const MAX_ASKED: usize = 12;

/// What a lead is found by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// See [`phone_keys`] and [`email_key`].
    pub contacts: Vec<String>,
    /// The project's own word first, then the lead's.
    pub words: Vec<String>,
}

/// What `lead` is found by.
pub fn of(lead: &Lead) -> Found {
    Found { contacts: contacts(lead), words: words(lead) }
}

/// The contacts that `lead` is found by.
pub fn contacts(lead: &Lead) -> Vec<String> {
    let phones = lead.phones.iter().map(|phone| phone.e164.as_deref().unwrap_or(&phone.raw));
    contact_keys(phones, lead.emails.iter().map(String::as_str))
}

/// The words that `lead` is found by, the project's own first.
pub fn words(lead: &Lead) -> Vec<String> {
    let mut words = vec![project_word(lead.project)];
    let texts = [&lead.name, &lead.company, &lead.title, &lead.external_id, &lead.entity];
    let texts = texts.into_iter().flatten().chain(&lead.emails).chain(lead.fields.values().filter_map(text)).chain(&lead.comment);
    for text in texts {
        add_words(&mut words, text, MAX_WORDS);
    }
    words
}

/// The keys of these numbers (as stored) and addresses.
pub fn contact_keys<'a>(phones: impl Iterator<Item = &'a str>, emails: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut contacts: Vec<String> = phones.filter_map(digits_key).chain(emails.map(email_key)).collect();
    contacts.sort();
    contacts.dedup();
    contacts.truncate(MAX_CONTACTS);
    contacts
}

fn text(value: &serde_json::Value) -> Option<&String> {
    if let serde_json::Value::String(text) = value { Some(text) } else { None }
}

/// The word that every lead of a project has, so that a search within it steps over the others.
pub fn project_word(project: ProjectId) -> String {
    format!("prj{}", project.uuid().simple())
}

/// The words that a question asks for; all of them must be there. Empty when it has none.
pub fn asked_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    add_words(&mut words, text, MAX_ASKED);
    words
}

fn add_words(words: &mut Vec<String>, text: &str, most: usize) {
    let end = text.char_indices().nth(MAX_TEXT).map_or(text.len(), |(at, _)| at);
    for part in text[..end].split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty()) {
        if words.len() >= most {
            return;
        }
        let word = word(part);
        if !words.contains(&word) {
            words.push(word);
        }
    }
}

static RUSSIAN: LazyLock<Stemmer> = LazyLock::new(|| Stemmer::create(Algorithm::Russian));

/// One spelling for a word: small letters, `ё` as `е`, and for Russian ones without the ending, so that `заявка` is found
/// by `заявки`. Other words must be the same.
fn word(part: &str) -> String {
    let small: String = part.chars().flat_map(char::to_lowercase).map(|c| if c == 'ё' { 'е' } else { c }).take(MAX_WORD).collect();
    if small.chars().all(|c| matches!(c, 'а'..='я')) { RUSSIAN.stem(&small).into_owned() } else { small }
}

/// The key of an e-mail address: all small letters.
pub fn email_key(email: &str) -> String {
    let mut key = String::from("e");
    key.extend(email.trim().chars().flat_map(char::to_lowercase));
    key
}

/// The keys that a number in any spelling may be stored under: as understood in `region`, and its digits as they are.
pub fn phone_keys(raw: &str, region: Option<country::Id>) -> Vec<String> {
    let understood = normalise::phone(raw, region).e164;
    let mut keys: Vec<String> = understood.iter().map(String::as_str).chain([raw]).filter_map(digits_key).collect();
    keys.dedup();
    keys
}

fn digits_key(number: &str) -> Option<String> {
    let digits: String = number.chars().filter_map(|c| c.to_digit(10)).filter_map(|digit| char::from_digit(digit, 10)).take(32).collect();
    (!digits.is_empty()).then(|| format!("p{digits}"))
}

/// Whether a question looks like a telephone number: seven digits at least, and nothing else but what stands between them.
pub fn is_phone(text: &str) -> bool {
    let digits = text.chars().filter(char::is_ascii_digit).count();
    (7..=20).contains(&digits) && text.chars().all(|c| c.is_ascii_digit() || c.is_whitespace() || "+-().".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    fn lead(json: serde_json::Value) -> Lead {
        let now = Timestamp::from_millis(0);
        let mut whole = serde_json::json!({"id": crate::model::LeadId::new(now), "project": ProjectId::new(now), "phones": [],
            "emails": [], "origin": {}, "fields": {}, "created_at": now});
        whole.as_object_mut().unwrap().extend(json.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn russian_words_are_found_in_other_forms() {
        let found = of(&lead(serde_json::json!({"title": "Заявка с сайта", "name": "Пётр Иванов", "comment": "Перезвоните ЗАВТРА!"})));
        for question in ["заявки", "ЗАЯВКУ", "петр", "Пётр иванов", "сайт", "перезвоните завтра"]
        {
            for word in asked_words(question) {
                assert!(found.words.contains(&word), "{question}: {word} in {:?}", found.words);
            }
        }
        assert!(!found.words.contains(&asked_words("сидоров")[0]));
        assert!(asked_words(" !? ").is_empty());
    }

    #[test]
    fn words_are_bounded() {
        let many: Vec<String> = (0..100_000).map(|n| format!("word{n}")).collect();
        let found = of(&lead(serde_json::json!({"comment": many.join(" "), "name": "x".repeat(5_000)})));
        assert_eq!(found.words.len(), MAX_WORDS);
        assert!(found.words.iter().skip(1).all(|word| word.chars().count() <= MAX_WORD));
    }

    #[test]
    fn contacts_have_one_spelling() {
        let found = of(&lead(serde_json::json!({
            "phones": [{"raw": "8 (916) 123-45-67", "e164": "+79161234567"}, {"raw": "доб. 12-34", "e164": null}],
            "emails": ["Ivan@example.com", "ПОЧТА@пример.рф"]})));
        assert_eq!(found.contacts, ["eivan@example.com", "eпочта@пример.рф", "p1234", "p79161234567"]);
        let region = normalise::region("RU");
        for spelling in ["+7 916 123 45 67", "8 (916) 123-45-67", "79161234567", "9161234567"] {
            assert!(phone_keys(spelling, region).contains(&"p79161234567".to_owned()), "{spelling}");
        }
        assert_eq!(phone_keys("12-34", region), ["p1234"]);
        assert_eq!(email_key(" IVAN@Example.com "), "eivan@example.com");
        assert!(is_phone("+7 (916) 123-45-67") && !is_phone("12-34") && !is_phone("Lada 2107 2019"));
    }
}
