//! Masks phones and e-mails in free text: log lines and stored exchanges. Rather masks a number too many than a phone too few.

use std::borrow::Cow;
use std::ops::Range;

/// Digits of a number in international form (E.164 allows 15).
const MAX_DIGITS: usize = 15;

/// The text with phones as `+7916*****67` and e-mails as `i***@e***.com`; also in URL-encoded text.
pub fn mask_personal(text: &str) -> Cow<'_, str> {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let mails = if text.contains('@') || text.contains("%40") { find_mails(text) } else { Vec::new() };
    if mails.is_empty() && digits < 7 {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for mail in mails {
        mask_phones(&text[from..mail.local.start], &mut out);
        push_mail(&mut out, text, &mail);
        from = mail.domain.end;
    }
    mask_phones(&text[from..], &mut out);
    if out == text { Cow::Borrowed(text) } else { Cow::Owned(out) }
}

struct Mail {
    local: Range<usize>,
    domain: Range<usize>,
}

fn find_mails(text: &str) -> Vec<Mail> {
    let mut mails: Vec<Mail> = Vec::new();
    let mut at = 0;
    while let Some(offset) = text[at..].find(['@', '%']) {
        let sign = at + offset;
        let sign_len = match &text[sign..] {
            rest if rest.starts_with('@') => 1,
            rest if rest.starts_with("%40") => 3,
            _ => {
                at = sign + 1;
                continue;
            }
        };
        let floor = mails.last().map_or(0, |mail| mail.domain.end);
        let local = &text[floor..sign];
        let start = floor + local.trim_end_matches(|c: char| c.is_alphanumeric() || "._%+-'!#$*/^`{|}~".contains(c)).len();
        let after = sign + sign_len;
        let rest = &text[after..];
        let end = after + rest.find(|c: char| !(c.is_alphanumeric() || c == '.' || c == '-')).unwrap_or(rest.len());
        let end = after + text[after..end].trim_end_matches(['.', '-']).len();
        let has_zone = text[after..end].rsplit_once('.').is_some_and(|(name, zone)| !name.is_empty() && zone.chars().count() >= 2);
        if start < sign && has_zone {
            mails.push(Mail { local: start..sign, domain: after..end });
        }
        at = end.max(after);
    }
    mails
}

fn push_mail(out: &mut String, text: &str, mail: &Mail) {
    let domain = &text[mail.domain.clone()];
    let (name, zone) = domain.rsplit_once('.').unwrap_or((domain, ""));
    out.extend(text[mail.local.clone()].chars().next());
    out.push_str("***");
    out.push_str(&text[mail.local.end..mail.domain.start]);
    out.extend(name.chars().next());
    out.push_str("***.");
    out.push_str(zone);
}

fn mask_phones(text: &str, out: &mut String) {
    let bytes = text.as_bytes();
    let (mut copied, mut at) = (0, 0);
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            // An escape such as `%2B` is one character, not the start of a word.
            at += if bytes[at] == b'%' && bytes.get(at + 1).is_some_and(u8::is_ascii_hexdigit) { 3 } else { 1 };
            continue;
        }
        let international = preceded_by_plus(bytes, at);
        if !international && glued_to_word(text, at) {
            at = end_of_word(text, at);
            continue;
        }
        match phone_at(text, at, international) {
            Ok(end) => {
                out.push_str(&text[copied..at]);
                push_phone(out, &text[at..end]);
                (copied, at) = (end, end);
            }
            Err(next) => at = next,
        }
    }
    out.push_str(&text[copied..]);
}

fn preceded_by_plus(bytes: &[u8], at: usize) -> bool {
    bytes[..at].ends_with(b"+") || bytes[..at].ends_with(b"%2B") || bytes[..at].ends_with(b"%2b")
}

/// A digit inside a word, such as in a hexadecimal id; the `2B` of `%2B` and the `n` of `\n` are no words.
fn glued_to_word(text: &str, at: usize) -> bool {
    let mut before = text[..at].chars().rev();
    let Some(last) = before.next() else { return false };
    if !last.is_alphanumeric() && last != '_' {
        return false;
    }
    let second = before.next();
    let escaped = matches!(last, 'n' | 't' | 'r') && second == Some('\\');
    let url_escape = last.is_ascii_hexdigit() && before.next() == Some('%');
    !escaped && !url_escape
}

fn end_of_word(text: &str, at: usize) -> usize {
    at + text[at..].find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len() - at)
}

/// Where the phone that starts at `at` ends, or where to look on when there is none.
fn phone_at(text: &str, at: usize, international: bool) -> Result<usize, usize> {
    let bytes = text.as_bytes();
    let group_end = |from: usize| from + bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let first = group_end(at);
    // A group that goes on with letters is a word, one before a colon is a time of day.
    let whole = |end: usize| {
        let mut rest = text[end..].chars();
        match rest.next() {
            Some(':') => !rest.next().is_some_and(|c| c.is_ascii_digit()),
            Some(c) => !c.is_alphabetic() && c != '_',
            None => true,
        }
    };
    if first - at > MAX_DIGITS || !whole(first) {
        return Err(end_of_word(text, first));
    }
    let (mut end, mut digits) = (first, first - at);
    while let Some(next) = after_separators(bytes, end) {
        let next_end = group_end(next);
        if digits + next_end - next > MAX_DIGITS || !whole(next_end) {
            break;
        }
        (end, digits) = (next_end, digits + next_end - next);
    }
    let fewest = if international { 7 } else { 10 };
    let is_address = text[at..end].parse::<std::net::Ipv4Addr>().is_ok();
    if digits < fewest || is_address { Err(if is_address { end } else { first }) } else { Ok(end) }
}

/// The next digit behind one to three separators, if there is one.
fn after_separators(bytes: &[u8], mut at: usize) -> Option<usize> {
    const SEPARATORS: [&[u8]; 12] =
        [b" ", b"-", b"(", b")", b".", b"+", b"/", b"%20", b"%28", b"%29", "\u{a0}".as_bytes(), "\u{2011}".as_bytes()];
    for _ in 0..4 {
        if bytes.get(at)?.is_ascii_digit() {
            return Some(at);
        }
        at += SEPARATORS.iter().find(|separator| bytes[at..].starts_with(separator))?.len();
    }
    None
}

/// Keeps the first four and the last two digits, and what separates them.
fn push_phone(out: &mut String, phone: &str) {
    // `%20` and the like are separators: their digits stay.
    let is_digit = |index: usize, c: char| {
        let escaped = phone[..index].ends_with('%') || (index >= 2 && phone.as_bytes()[index - 2] == b'%');
        c.is_ascii_digit() && !escaped
    };
    let digits = phone.char_indices().filter(|(index, c)| is_digit(*index, *c)).count();
    let mut seen = 0;
    for (index, c) in phone.char_indices() {
        if !is_digit(index, c) {
            out.push(c);
            continue;
        }
        seen += 1;
        out.push(if seen <= 4 || seen + 2 > digits { c } else { '*' });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_mails() {
        for (text, expected) in [
            ("to ivan@example.com!", "to i***@e***.com!"),
            ("ivan.petrov+x@mail.example.co", "i***@m***.co"),
            ("<иван@пример.рф>", "<и***@п***.рф>"),
            ("email=ivan%40example.com&a=1", "email=i***%40e***.com&a=1"),
            (r#"{"email":"a@b.cc","other":"x@yy.ru."}"#, r#"{"email":"a***@b***.cc","other":"x***@y***.ru."}"#),
            ("a@b @ user@localhost 100%40", "a@b @ user@localhost 100%40"),
        ] {
            assert_eq!(mask_personal(text), expected);
        }
    }

    #[test]
    fn masks_phones() {
        for (text, expected) in [
            ("+79161234567", "+7916*****67"),
            ("tel 89161234567.", "tel 8916*****67."),
            ("+7 (916) 123-45-67", "+7 (916) ***-**-67"),
            ("phone=%2B79161234567&x=1", "phone=%2B7916*****67&x=1"),
            ("phone=%2B7%20916%20123%2045%2067", "phone=%2B7%20916%20***%20**%2067"),
            ("9161234567, 9161234568", "9161****67, 9161****68"),
            ("79161234567 79161234568", "7916*****67 7916*****68"),
            (r"\n79161234567\n", r"\n7916*****67\n"),
            ("+4930123456", "+4930****56"),
            ("call +1-202-555-0143 now", "call +1-202-***-**43 now"),
        ] {
            assert_eq!(mask_personal(text), expected);
        }
    }

    #[test]
    fn leaves_other_numbers_alone() {
        for text in [
            "2026-01-01 10:00:00",
            "2026-01-01T10:00:00.250Z",
            "dlv_0192f3c0-5d1e-7c41-9a2b-3f4e5d6c7b8a",
            "192.168.100.200",
            "status 500 after 1234 ms",
            "12345678901234567890",
            "lead_01h455vb4pex5vsknk084sn02q",
            "",
        ] {
            assert_eq!(mask_personal(text), text);
        }
    }

    #[test]
    fn survives_any_text() {
        for text in ["@", "%", "%4", "+", "%2B", "1@", "@1.ru", "é1é", "++++7", "% 4 0", "1%", "1%2", "1234567890%", "\u{a0}1\u{2011}1"] {
            let _ = mask_personal(text);
        }
    }
}
