//! How a person is looked for: every spelling of the phones that may stand in an old record, and which of the found contacts it is.

use std::collections::BTreeSet;

use leadwire_sdk::{Lead, Phone};

/// Values of one look-up.
const VALUES: usize = 20;

/// The phones to look for, likeliest first. The portal compares whole numbers, so each spelling is a value of its own.
pub(crate) fn phones(lead: &Lead) -> Vec<String> {
    let spellings: Vec<Vec<String>> = lead.phones.iter().map(spellings).collect();
    let longest = spellings.iter().map(Vec::len).max().unwrap_or_default();
    // The likeliest of each phone before the unlikely ones of any.
    let in_turn = (0..longest).flat_map(|at| spellings.iter().filter_map(move |of_one| of_one.get(at).cloned()));
    distinct(in_turn)
}

/// The e-mail addresses to look for.
pub(crate) fn emails(lead: &Lead) -> Vec<String> {
    distinct(lead.emails.iter().flat_map(|email| [email.trim().to_lowercase(), email.trim().to_owned()]))
}

fn distinct(values: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    values.filter(|value| !value.is_empty() && seen.insert(value.clone())).take(VALUES).collect()
}

fn spellings(phone: &Phone) -> Vec<String> {
    let raw = phone.raw.trim().chars().take(50).collect::<String>();
    let Some(e164) = &phone.e164 else { return vec![raw] };
    let digits = e164.trim_start_matches('+').to_owned();
    // Russia and Kazakhstan: eleven digits, and people dial 8 for +7.
    let national = digits.strip_prefix('7').filter(|rest| rest.len() == 10 && rest.is_ascii());
    let mut all = vec![e164.clone()];
    if let Some(rest) = national {
        let (code, a, b, c) = (&rest[..3], &rest[3..6], &rest[6..8], &rest[8..]);
        all.push(format!("8{rest}"));
        all.push(digits.clone());
        all.push(raw);
        all.extend([
            format!("+7 ({code}) {a}-{b}-{c}"),
            format!("8 ({code}) {a}-{b}-{c}"),
            format!("+7 {code} {a}-{b}-{c}"),
            format!("8 {code} {a}-{b}-{c}"),
            format!("8-{code}-{a}-{b}-{c}"),
            format!("+7({code}){a}-{b}-{c}"),
            format!("8({code}){a}-{b}-{c}"),
            rest.to_owned(),
        ]);
    } else {
        all.extend([digits.clone(), raw, format!("00{digits}")]);
    }
    all
}

/// Which of the found contacts the person is: one that both phone and e-mail name, else the phone's, else the e-mail's; of
/// several the oldest, so that every lead of the person goes to the same.
pub(crate) fn choose(by_phone: &[u64], by_email: &[u64]) -> Option<u64> {
    let both = by_phone.iter().filter(|id| by_email.contains(id)).min();
    both.or_else(|| by_phone.iter().min()).or_else(|| by_email.iter().min()).copied()
}

/// What two leads of one person have in common.
pub(crate) fn keys(lead: &Lead) -> Vec<String> {
    let phones = lead.phones.iter().map(|phone| format!("phone {}", phone.best().trim()));
    phones.chain(lead.emails.iter().map(|email| format!("email {}", email.trim().to_lowercase()))).collect()
}

/// An address that the portal takes: it refuses a whole contact for one that it does not.
pub(crate) fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !"<>()[],;:\\\"@".contains(c);
    (1..=64).contains(&local.len())
        && local.chars().all(plain)
        && domain.len() <= 190
        && domain.contains('.')
        && domain.split('.').all(|label| !label.is_empty() && label.chars().all(|c| c.is_alphanumeric() || c == '-'))
}

#[cfg(test)]
mod tests {
    use leadwire_sdk::testing::lead;

    use super::*;

    fn phone(raw: &str, e164: Option<&str>) -> Phone {
        Phone { raw: raw.into(), e164: e164.map(str::to_owned) }
    }

    #[test]
    fn a_russian_number_is_looked_for_in_every_usual_spelling() {
        let all = phones(&lead());
        for spelling in [
            "+79161234567",
            "89161234567",
            "79161234567",
            "8 (916) 123-45-67",
            "+7 (916) 123-45-67",
            "8-916-123-45-67",
            "+7 916 123-45-67",
            "9161234567",
        ] {
            assert!(all.iter().any(|value| value == spelling), "{spelling}: {all:?}");
        }
        assert_eq!((all[0].as_str(), all[1].as_str()), ("+79161234567", "89161234567"));
        assert!(all.len() <= VALUES);
    }

    #[test]
    fn other_numbers_are_looked_for_as_they_are() {
        assert_eq!(
            phones(&Lead { phones: vec![phone("020 7946 0958", Some("+442079460958"))], ..lead() }),
            ["+442079460958", "442079460958", "020 7946 0958", "00442079460958"]
        );
        assert_eq!(phones(&Lead { phones: vec![phone(" ask Ann ", None)], ..lead() }), ["ask Ann"]);
        assert!(phones(&Lead { phones: Vec::new(), ..lead() }).is_empty());
        let many = Lead { phones: (0..9).map(|no| phone("x", Some(&format!("+7916000000{no}")))).collect(), ..lead() };
        let all = phones(&many);
        assert_eq!(all.len(), VALUES);
        assert!((0..9).all(|no| all.contains(&format!("+7916000000{no}"))), "each phone's likeliest spelling: {all:?}");
    }

    #[test]
    fn the_contact_that_fits_best_is_chosen() {
        assert_eq!(choose(&[9, 5, 7], &[7, 8]), Some(7));
        assert_eq!(choose(&[9, 5], &[2]), Some(5));
        assert_eq!(choose(&[], &[8, 2]), Some(2));
        assert_eq!(choose(&[], &[]), None);
    }

    #[test]
    fn addresses_that_the_portal_refuses_are_known() {
        for good in ["ivan@example.com", "a.b+c@sub.example.co", "иван@почта.рф"] {
            assert!(is_email(good), "{good}");
        }
        for bad in ["", "ivan", "@x.y", "a@b", "a b@c.d", "a@c..d", "<a@b.c>", "a@b.c, d@e.f"] {
            assert!(!is_email(bad), "{bad}");
        }
    }
}
