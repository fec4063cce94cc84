//! By what leads are found: contacts in one spelling, and words. The same for a lead that is stored and for a question
//! about it, and for every store: the database only compares what is made here.

use std::borrow::Cow;
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
/// Most numbers that are no telephone numbers, such as an order's, that are kept of one lead.
const MAX_NUMBERS: usize = 8;
/// Most words of a question.
const MAX_ASKED: usize = 12;

/// What a lead is found by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// See [`phone_keys`], [`email_key`] and [`number_key`].
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
    let mut contacts = contact_keys(phones, lead.emails.iter().map(String::as_str));
    contacts.extend(numbers(lead));
    contacts
}

fn numbers(lead: &Lead) -> Vec<String> {
    let fields: Vec<Cow<'_, str>> = lead.fields.values().filter_map(text).collect();
    let whole = lead.external_id.as_deref().into_iter().chain(fields.iter().map(AsRef::as_ref));
    let mut numbers: Vec<String> = whole.chain(texts(lead, &fields).flat_map(parts)).filter_map(number_key).collect();
    numbers.sort();
    numbers.dedup();
    numbers.truncate(MAX_NUMBERS);
    numbers
}

/// The words that `lead` is found by, the project's own first.
pub fn words(lead: &Lead) -> Vec<String> {
    let fields: Vec<Cow<'_, str>> = lead.fields.values().filter_map(text).collect();
    let mut words = vec![project_word(lead.project)];
    for text in texts(lead, &fields) {
        add_words(&mut words, text, MAX_WORDS);
    }
    words
}

/// All texts of a lead; `fields` are those of its own.
fn texts<'a>(lead: &'a Lead, fields: &'a [Cow<'_, str>]) -> impl Iterator<Item = &'a str> {
    let texts = [&lead.name, &lead.company, &lead.title, &lead.external_id, &lead.entity];
    let texts = texts.into_iter().flatten().chain(&lead.emails).map(String::as_str);
    texts.chain(fields.iter().map(AsRef::as_ref)).chain(lead.comment.as_deref())
}

/// The keys of these numbers (as stored) and addresses.
pub fn contact_keys<'a>(phones: impl Iterator<Item = &'a str>, emails: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut contacts: Vec<String> = phones.filter_map(digits_key).chain(emails.map(email_key)).collect();
    contacts.sort();
    contacts.dedup();
    contacts.truncate(MAX_CONTACTS);
    contacts
}

fn text(value: &serde_json::Value) -> Option<Cow<'_, str>> {
    match value {
        serde_json::Value::String(text) => Some(Cow::Borrowed(text)),
        serde_json::Value::Number(number) => Some(Cow::Owned(number.to_string())),
        _ => None,
    }
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
    for part in parts(text) {
        if words.len() >= most {
            return;
        }
        let word = word(part);
        if !words.contains(&word) {
            words.push(word);
        }
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    let end = text.char_indices().nth(MAX_TEXT).map_or(text.len(), |(at, _)| at);
    text[..end].split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty())
}

static RUSSIAN: LazyLock<Stemmer> = LazyLock::new(|| Stemmer::create(Algorithm::Russian));

/// One spelling for a word: small letters, `ё` as `е`, and for Russian ones without the endings, so that `заявка` is found
/// by `заявки`, and `Иванов` by `Иванова`. Other words must be the same.
fn word(part: &str) -> String {
    let small: String = part.chars().flat_map(char::to_lowercase).map(|c| if c == 'ё' { 'е' } else { c }).take(MAX_WORD).collect();
    if !small.chars().all(|c| matches!(c, 'а'..='я')) {
        return small;
    }
    // One ending may hide another: `иванова` loses its `а`, and `иванов` its `ов`.
    let mut stem = small;
    loop {
        let shorter = RUSSIAN.stem(&stem).into_owned();
        if shorter.len() >= stem.len() {
            return stem;
        }
        stem = shorter;
    }
}

/// The key of an e-mail address: all small letters, the domain as people write it and not as `xn--…`.
pub fn email_key(email: &str) -> String {
    let small: String = email.trim().chars().flat_map(char::to_lowercase).collect();
    match small.rsplit_once('@') {
        Some((local, domain)) => {
            let (readable, valid) = idna::domain_to_unicode(domain);
            format!("e{local}@{}", if valid.is_ok() { &readable } else { domain })
        }
        None => format!("e{small}"),
    }
}

/// The key of a number that looks like a telephone number and may be another one, such as an order's.
pub fn number_key(text: &str) -> Option<String> {
    is_number(text).then(|| format!("n{}", digits(text)))
}

/// The keys that a number in any spelling may be stored under: as understood in `region`, and its digits as they are.
pub fn phone_keys(raw: &str, region: Option<country::Id>) -> Vec<String> {
    let understood = normalise::phone(raw, region).e164;
    let mut keys: Vec<String> = understood.iter().map(String::as_str).chain([raw]).filter_map(digits_key).collect();
    keys.dedup();
    keys
}

fn digits_key(number: &str) -> Option<String> {
    let digits = digits(number);
    (!digits.is_empty()).then(|| format!("p{digits}"))
}

fn digits(text: &str) -> String {
    text.chars().filter(char::is_ascii_digit).take(32).collect()
}

/// Whether a question looks like a telephone number: seven digits at least, and nothing else but what stands between them,
/// perhaps an extension.
pub fn is_phone(text: &str) -> bool {
    is_number(text) || normalise::without_extension(text).is_some_and(is_number)
}

fn is_number(text: &str) -> bool {
    let digits = text.chars().filter(char::is_ascii_digit).count();
    // Texts for people have dashes of many lengths between the digits.
    let between = |c: char| c.is_whitespace() || "+-()./".contains(c) || matches!(c, '\u{2010}'..='\u{2015}' | '\u{2212}');
    (7..=20).contains(&digits) && text.chars().all(|c| c.is_ascii_digit() || between(c))
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
    fn numbers_that_look_like_telephone_numbers_are_found_as_what_they_are() {
        let found = of(&lead(serde_json::json!({
            "external_id": "2026-000123", "title": "Заказ 77001234", "fields": {"order": 55443322, "car": "ВАЗ 2107"}})));
        for asked in ["2026-000123", "77001234", "55443322"] {
            assert!(is_phone(asked) && found.contacts.contains(&number_key(asked).unwrap()), "{asked} in {found:?}");
        }
        assert!(found.words.contains(&"55443322".to_owned()), "numbers of own fields are words as well");
        let many: String = (0..1_000).map(|n| format!("{} ", 7_000_000 + n)).collect();
        let found = of(&lead(serde_json::json!({"comment": many, "phones": [{"raw": "x", "e164": "+79161234567"}]})));
        assert_eq!(found.contacts.len(), 1 + MAX_NUMBERS);
    }

    #[test]
    fn surnames_are_found_in_every_case() {
        let found = of(&lead(serde_json::json!({"name": "Анна Сидорова, Пётр Иванов"})));
        for asked in ["сидоров", "Сидоровой", "сидорову", "иванова", "Ивановым"] {
            assert!(found.words.contains(&asked_words(asked)[0]), "{asked} in {:?}", found.words);
        }
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
        assert_eq!(email_key("почта@xn--e1afmkfd.XN--P1AI"), email_key("Почта@Пример.рф"));
        for phone in ["+7 (916) 123-45-67", "8 916 123\u{2013}45\u{2011}67", "8 (495) 123-45-67 доб. 12"] {
            assert!(is_phone(phone), "{phone}");
        }
        assert!(!is_phone("12-34") && !is_phone("Lada 2107 2019"));
    }
}
