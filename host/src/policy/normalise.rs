//! How phones, e-mails and amounts are brought to one spelling.

use phonenumber::country;
use phonenumber::metadata::DATABASE;

use crate::model::{Money, Phone};

/// Longest text that is looked at as a telephone number.
const MAX_PHONE_CHARS: usize = 64;
/// Most digits of an amount: more do not fit into 64 bits for sure.
const MAX_AMOUNT_DIGITS: usize = 18;
/// Most digits after an amount's point.
const MAX_EXPONENT: usize = 9;

/// The region's code, if there is such a region.
pub fn region(code: &str) -> Option<country::Id> {
    code.parse().ok()
}

/// Reads the library's table of countries, which takes a good part of a second without optimisation: once, at the start,
/// so that the first lead does not wait for it.
pub fn warm_up() {
    let _ = any_number("+7 916 123-45-67", None);
}

/// A number as sent and, where it can be understood, in E.164. Numbers without a country code are read in `region`.
pub fn phone(raw: &str, region: Option<country::Id>) -> Phone {
    let trimmed = raw.trim();
    if trimmed.chars().count() > MAX_PHONE_CHARS {
        return Phone { raw: raw.to_owned(), e164: None };
    }
    let e164 = any_number(without_extension(trimmed).unwrap_or(trimmed), region);
    Phone { raw: raw.to_owned(), e164 }
}

/// What people write between a number and its extension.
const EXTENSION: [&str; 11] = ["", "доб", "добавочный", "доп", "вн", "внутр", "внутренний", "ext", "extension", "x", "х"];

/// The number before its extension, such as `доб. 12`, `ext 5` or `#7`.
pub fn without_extension(text: &str) -> Option<&str> {
    let mut before = 0;
    let begins = |c: char| c.is_alphabetic() || "#,;".contains(c);
    let (at, _) = text.char_indices().find(|(_, c)| {
        before += usize::from(c.is_ascii_digit());
        before >= 7 && begins(*c)
    })?;
    let (number, rest) = text.split_at_checked(at)?;
    let word: String = rest.chars().filter(|c| c.is_alphabetic()).flat_map(char::to_lowercase).collect();
    let digits = rest.chars().filter(char::is_ascii_digit).count();
    // The word comes before the digits, and nothing after them.
    let in_order = rest.trim_end_matches([')', '.', ' ']).ends_with(|c: char| c.is_ascii_digit());
    let is_extension = EXTENSION.contains(&word.as_str()) && (1..=6).contains(&digits) && in_order;
    is_extension.then(|| number.trim_end_matches(|c: char| !c.is_ascii_digit()))
}

fn any_number(text: &str, region: Option<country::Id>) -> Option<String> {
    let number = phonenumber::parse(region, text).ok()?;
    let code = number.code().value();
    let national = number.national().to_string();
    if code.to_string().len() + national.len() > 15 {
        return None;
    }
    // The parser takes any run of digits; a number of a length that does not exist in its country is not understood.
    let length = u16::try_from(national.len()).ok()?;
    let plausible = DATABASE.by_code(&code)?.iter().any(|meta| {
        let kinds = meta.descriptors();
        [kinds.fixed_line(), kinds.mobile(), kinds.toll_free(), kinds.premium_rate(), kinds.shared_cost(), kinds.voip(), kinds.uan()]
            .iter()
            .flatten()
            .any(|kind| kind.possible_length().contains(&length))
    });
    plausible.then(|| format!("+{code}{national}"))
}

/// One mailbox: trimmed, the domain in lower case. `None` when it is not one.
pub fn email(raw: &str) -> Option<String> {
    let text = raw.trim();
    let (local, domain) = text.rsplit_once('@')?;
    let fits = !local.is_empty() && local.len() <= 64 && !domain.is_empty() && text.len() <= 254;
    let local_fits = !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
        && local.chars().all(|c| !c.is_whitespace() && !c.is_control() && !"()<>[]:;@\\,\"".contains(c));
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_alphanumeric() || c == '-' || (!c.is_ascii() && !c.is_whitespace() && !c.is_control()))
    };
    let domain_fits = domain.contains('.') && domain.split('.').all(label);
    (fits && local_fits && domain_fits).then(|| {
        let mut whole = String::with_capacity(text.len());
        whole.push_str(local);
        whole.push('@');
        whole.extend(domain.chars().flat_map(char::to_lowercase));
        whole
    })
}

/// A decimal text such as `1500.00` as an exact amount; no sign, no exponent, no separators.
pub fn amount(text: &str) -> Option<(i64, u8)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits_only = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let pointless = text.contains('.') && fraction.is_empty();
    if whole.is_empty() || pointless || !digits_only(whole) || !digits_only(fraction) || fraction.len() > MAX_EXPONENT {
        return None;
    }
    if whole.len() + fraction.len() > MAX_AMOUNT_DIGITS {
        return None;
    }
    let minor = whole.bytes().chain(fraction.bytes()).fold(0i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    u8::try_from(fraction.len()).ok().map(|exponent| (minor, exponent))
}

/// The decimal text of an amount, with as many digits after the point as the client sent.
pub fn amount_text(money: &Money) -> String {
    let exponent = usize::from(money.exponent);
    let digits = format!("{:0width$}", money.minor, width = exponent + 1);
    match digits.split_at_checked(digits.len() - exponent) {
        Some((whole, fraction)) if !fraction.is_empty() => format!("{whole}.{fraction}"),
        _ => digits,
    }
}

/// An ISO 4217 code in upper case.
pub fn currency(text: &str) -> Option<String> {
    (text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_alphabetic())).then(|| text.to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phones_become_e164_or_stay_as_they_are() {
        for (raw, region, e164) in [
            ("+7 (916) 123-45-67", "RU", Some("+79161234567")),
            ("8 (916) 123-45-67", "RU", Some("+79161234567")),
            ("79161234567", "RU", Some("+79161234567")),
            ("9161234567", "RU", Some("+79161234567")),
            ("8 (495) 123-45-67", "RU", Some("+74951234567")),
            ("+7 727 250-00-00", "RU", Some("+77272500000")),
            ("+70000000000", "RU", None),
            ("030 901820", "DE", Some("+4930901820")),
            ("+49 30 901820", "RU", Some("+4930901820")),
            ("+1 (202) 456-1111", "RU", Some("+12024561111")),
            ("202 456 1111", "US", Some("+12024561111")),
            ("8 (916) 123-45-67", "DE", Some("+4989161234567")),
            ("12", "RU", None),
            ("+7 916", "RU", None),
            ("позвоните мне", "RU", None),
            ("+7 495 123-45-67 доб. 12", "RU", Some("+74951234567")),
            ("8 (495) 123-45-67 (доб.1234)", "RU", Some("+74951234567")),
            ("8 495 1234567 #5", "RU", Some("+74951234567")),
            ("8 495 1234567, внутр. 5", "RU", Some("+74951234567")),
            ("+44 20 7946 0958 ext. 7", "GB", Some("+442079460958")),
            ("8 916 123-45-67, 8 495 123-45-67", "RU", None),
            ("8 916 123-45-67 Иван", "RU", None),
            ("", "RU", None),
            ("+999999999999999999999", "RU", None),
        ] {
            let phone = phone(raw, super::region(region));
            assert_eq!(phone.raw, raw);
            assert_eq!(phone.e164.as_deref(), e164, "{raw} in {region}");
        }
        assert_eq!(phone(&"9".repeat(10_000), region("RU")).e164, None);
    }

    #[test]
    fn emails_are_one_mailbox() {
        for (raw, wanted) in [
            (" Ivan@Example.COM ", Some("Ivan@example.com")),
            ("ivan+tag@mail.example.com", Some("ivan+tag@mail.example.com")),
            ("почта@ПРИМЕР.рф", Some("почта@пример.рф")),
            ("a@b.c", Some("a@b.c")),
            ("ivan", None),
            ("@example.com", None),
            ("ivan@", None),
            ("ivan@example", None),
            ("ivan@@example.com", None),
            ("a@b.com, c@d.com", None),
            ("Ivan <ivan@example.com>", None),
            ("ivan@exa mple.com", None),
            ("ivan@example.com\r\nBcc: x@y.zz", None),
            ("iv\nan@example.com", None),
            ("ivan@-example.com", None),
            ("ivan@example..com", None),
        ] {
            assert_eq!(email(raw).as_deref(), wanted, "{raw:?}");
        }
        assert_eq!(email(&format!("{}@example.com", "a".repeat(65))), None);
    }

    #[test]
    fn amounts_are_exact() {
        for (text, wanted) in [
            ("1500.00", Some((150_000, 2))),
            ("0.1", Some((1, 1))),
            ("7", Some((7, 0))),
            ("0", Some((0, 0))),
            ("999999999999999999", Some((999_999_999_999_999_999, 0))),
            ("1e3", None),
            ("1 500", None),
            ("1,50", None),
            ("-1", None),
            ("1.", None),
            (".5", None),
            ("", None),
            ("9999999999999999999", None),
        ] {
            assert_eq!(amount(text), wanted, "{text}");
            if let Some((minor, exponent)) = wanted {
                assert_eq!(amount_text(&Money { minor, exponent, currency: "RUB".into() }), text);
            }
        }
    }
}
