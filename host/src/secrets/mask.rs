//! Finds secrets again in text that leaves the host, in the forms a remote side or a library may give them, and masks them.

use std::borrow::Cow;
use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use zeroize::Zeroizing;

use super::{MASK, SecretSet, SecretText};

/// Shorter secrets would be found everywhere; they are masked only inside the whole text that was put into a request.
const MIN_BYTES: usize = 6;
/// Longer secrets (keys in PEM form) are searched in fewer forms, to keep the automaton small.
const LONG_BYTES: usize = 1024;

/// Masks a fixed set of secrets. Building costs some ten microseconds for each; scanning is one pass, and a second one over
/// text that holds escapes.
pub struct Masker {
    /// `None`: nothing to look for.
    automaton: Option<AhoCorasick>,
}

impl Masker {
    /// Looks for every secret of the set, and for `whole` texts that were made of them, such as `Basic dXNlcjpwdw==`.
    pub fn new<'a>(secrets: &'a SecretSet, whole: impl IntoIterator<Item = &'a SecretText>) -> Self {
        let mut forms = Forms::new();
        for text in secrets.iter().map(|(_, secret)| secret).chain(whole) {
            add_forms(&mut forms, text.expose());
            for part in credentials_of(text.expose()) {
                add_forms(&mut forms, &part);
            }
        }
        forms.retain(|form| form.len() >= MIN_BYTES);
        forms.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        forms.dedup_by(|a, b| a.as_str() == b.as_str());
        if forms.is_empty() {
            return Self { automaton: None };
        }
        // Building fails only past 2^31 states; secrets are at most 16 KiB each, so it cannot come to that.
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(forms.iter().map(|form| form.as_bytes()));
        Self { automaton: automaton.ok() }
    }

    /// The bytes with `***` in place of every secret, and how many there were.
    pub fn mask_bytes<'a>(&self, bytes: &'a [u8]) -> (Cow<'a, [u8]>, usize) {
        let Some(automaton) = &self.automaton else { return (Cow::Borrowed(bytes), 0) };
        let (plain, hits) = replace(bytes, automaton.find_iter(bytes).map(|found| found.range()));
        // URL and JSON writers differ in what they escape, so escaped text is read, not compared with a list of its forms.
        let Some(read) = Unescaped::of(&plain) else { return (plain, hits) };
        let (all, escaped) = replace(&plain, automaton.find_iter(&read.bytes).map(|found| read.origin(found.range())));
        match all {
            Cow::Owned(all) => (Cow::Owned(all), hits + escaped),
            Cow::Borrowed(_) => (plain, hits),
        }
    }

    /// The text with `***` in place of every secret, and how many there were.
    pub fn mask_text<'a>(&self, text: &'a str) -> (Cow<'a, str>, usize) {
        match self.mask_bytes(text.as_bytes()) {
            (Cow::Borrowed(_), hits) => (Cow::Borrowed(text), hits),
            // Every form is valid UTF-8, so what is left between two finds is valid too.
            (Cow::Owned(bytes), hits) => (Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()), hits),
        }
    }
}

impl std::fmt::Debug for Masker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Masker({} forms)", self.automaton.as_ref().map_or(0, AhoCorasick::patterns_len))
    }
}

fn replace(bytes: &[u8], found: impl Iterator<Item = Range<usize>>) -> (Cow<'_, [u8]>, usize) {
    let mut masked = Vec::new();
    let (mut hits, mut from) = (0, 0);
    for range in found {
        masked.extend_from_slice(&bytes[from..range.start]);
        masked.extend_from_slice(MASK.as_bytes());
        from = range.end;
        hits += 1;
    }
    if hits == 0 {
        return (Cow::Borrowed(bytes), 0);
    }
    masked.extend_from_slice(&bytes[from..]);
    (Cow::Owned(masked), hits)
}

/// Bytes with `%41` and the escapes of JSON strings read, and where each came from.
struct Unescaped {
    bytes: Vec<u8>,
    /// For each escape: where the byte after it stands here, and where in the original.
    after: Vec<(usize, usize)>,
    /// The same for the start of the escape's bytes.
    starts: Vec<(usize, usize)>,
}

impl Unescaped {
    /// `None` when there is no escape.
    fn of(original: &[u8]) -> Option<Self> {
        if !original.iter().any(|byte| matches!(byte, b'%' | b'\\')) {
            return None;
        }
        let mut read = Self { bytes: Vec::with_capacity(original.len()), after: Vec::new(), starts: Vec::new() };
        let mut at = 0;
        while at < original.len() {
            let mut char_bytes = [0; 4];
            match escape(&original[at..], &mut char_bytes) {
                Some((length, decoded)) => {
                    read.starts.push((read.bytes.len(), at));
                    read.bytes.extend_from_slice(&char_bytes[..decoded]);
                    at += length;
                    read.after.push((read.bytes.len(), at));
                }
                None => {
                    read.bytes.push(original[at]);
                    at += 1;
                }
            }
        }
        (!read.after.is_empty()).then_some(read)
    }

    /// Where a range came from.
    fn origin(&self, range: Range<usize>) -> Range<usize> {
        let mapped = |at: usize| match self.after.partition_point(|(here, _)| *here <= at).checked_sub(1) {
            Some(index) => self.after[index].1 + (at - self.after[index].0),
            None => at,
        };
        // A position at the very start of an escape maps to that start; the plain mapping gives the same. The end of a
        // range that ends with an escape is the position after it. Both may be inside a character of several bytes only
        // when a secret is cut there, which valid text rules out.
        let start = match self.starts.binary_search_by_key(&range.start, |(here, _)| *here) {
            Ok(index) => self.starts[index].1,
            Err(_) => mapped(range.start),
        };
        start..mapped(range.end)
    }
}

/// Length of the escape at the start of `text`, and how many bytes it stands for.
fn escape(text: &[u8], out: &mut [u8; 4]) -> Option<(usize, usize)> {
    let hex = |from: usize, to: usize| {
        let digits = text.get(from..to).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let single = match text {
        [b'%', ..] => {
            out[0] = u8::try_from(hex(1, 3)?).ok()?;
            return Some((3, 1));
        }
        [b'\\', b'u', ..] => {
            let unit = hex(2, 6)?;
            let second = if text.get(6..8) == Some(b"\\u") { hex(8, 12) } else { None };
            let pair = second.filter(|second| (0xd800..0xdc00).contains(&unit) && (0xdc00..0xe000).contains(second));
            let (code, length) = pair.map_or((unit, 6), |second| (0x1_0000 + ((unit - 0xd800) << 10) + (second - 0xdc00), 12));
            return Some((length, char::from_u32(code)?.encode_utf8(out).len()));
        }
        [b'\\', b'n', ..] => b'\n',
        [b'\\', b'r', ..] => b'\r',
        [b'\\', b't', ..] => b'\t',
        [b'\\', c @ (b'"' | b'\\' | b'/' | b'\''), ..] => *c,
        _ => return None,
    };
    out[0] = single;
    Some((2, 1))
}

type Forms = Vec<Zeroizing<String>>;

fn add_forms(forms: &mut Forms, secret: &str) {
    if secret.len() < MIN_BYTES {
        return;
    }
    let mut add = |form: String| forms.push(Zeroizing::new(form));
    add(secret.to_owned());
    // Form encoding; the escapes of the rest are read before the search.
    add(secret.replace(' ', "+"));
    // A secret that looks escaped itself is compared with what reading makes of it.
    if let Some(read) = Unescaped::of(secret.as_bytes()).and_then(|read| String::from_utf8(read.bytes).ok()) {
        add(read);
    }
    base64_forms(secret.as_bytes(), &mut add);
    if secret.len() > LONG_BYTES {
        return;
    }
    add(hex::encode(secret));
    add(hex::encode_upper(secret));
    if secret.contains(['&', '<', '>', '"', '\'']) {
        let html = secret.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
        add(html.replace('\'', "&#39;"));
        add(html.replace('\'', "&#039;"));
        add(html);
    }
}

/// What stands behind the scheme of an `Authorization` header, since a remote side that complains repeats that alone:
/// `Bearer TOKEN`, and for `Basic` also the login and the password in it.
fn credentials_of(header: &str) -> Forms {
    let Some((scheme, rest)) = header.split_once(' ') else { return Forms::new() };
    let rest = rest.trim();
    let known = ["bearer", "basic", "token"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let a_name = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    // A pass phrase is no scheme with its token.
    if !known && (!a_name || rest.contains(' ')) {
        return Forms::new();
    }
    let mut parts = vec![Zeroizing::new(rest.to_owned())];
    if scheme.eq_ignore_ascii_case("basic")
        && let Some(login) = STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok()).map(Zeroizing::new)
    {
        parts.extend(login.split_once(':').map(|(_, password)| Zeroizing::new(password.to_owned())));
        parts.push(login);
    }
    parts
}

/// Base64 of any text that holds the secret: its first byte can stand at three places of a group, and the characters at
/// both ends that also depend on the neighbours are left out.
fn base64_forms(secret: &[u8], add: &mut impl FnMut(String)) {
    for lead in 0..3 {
        let mut padded = vec![0; lead];
        padded.extend_from_slice(secret);
        let (from, to) = ((lead * 8).div_ceil(6), padded.len() * 8 / 6);
        for engine in [STANDARD, URL_SAFE] {
            let encoded = Zeroizing::new(engine.encode(&padded));
            add(encoded[from..to].to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

    use super::*;

    fn masker(secret: &str) -> Masker {
        let set: SecretSet = [("s".to_owned(), SecretText::new(secret.to_owned()))].into_iter().collect();
        Masker::new(&set, [])
    }

    #[test]
    fn finds_every_form_of_a_secret() {
        let secret = "123456789:AAE/h+w \"q\" é<&>";
        let masker = masker(secret);
        const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.');
        let upper = utf8_percent_encode(secret, UNRESERVED).to_string();
        let segment = utf8_percent_encode(secret, crate::egress::SEGMENT).to_string();
        let forms = [
            secret.to_owned(),
            upper.clone(),
            upper.replace("%20", "+"),
            segment,
            upper.replace("%3A", "%3a").replace("%2F", "%2f").replace("%C3%A9", "%c3%a9"),
            secret.bytes().map(|byte| format!("%{byte:02x}")).collect(),
            form_urlencoded(secret),
            hex::encode(secret),
            hex::encode_upper(secret),
            serde_json::to_string(secret).unwrap(),
            r#"123456789:AAE\/h+w \"q\" \u00e9<&>"#.to_owned(),
            r"123456789:AAE/h\u002Bw \u0022q\u0022 \u00E9\u003C\u0026\u003E".to_owned(),
            "123456789:AAE/h+w &quot;q&quot; é&lt;&amp;&gt;".to_owned(),
        ];
        for form in forms {
            let text = format!("before {form} after");
            let (masked, hits) = masker.mask_text(&text);
            assert_eq!(hits, 1, "{form}");
            assert!(masked.starts_with("before ") && masked.ends_with(" after") && !masked.contains("123456789"), "{masked}");
        }
    }

    fn form_urlencoded(text: &str) -> String {
        url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
    }

    #[test]
    fn finds_a_secret_inside_base64_at_every_alignment() {
        let secret = "s3cret~token?>>";
        let masker = masker(secret);
        for before in 0..7 {
            for after in 0..4 {
                let plain = format!("{}{secret}{}", "x".repeat(before), "y".repeat(after));
                for engine in [STANDARD, URL_SAFE, base64::engine::general_purpose::STANDARD_NO_PAD] {
                    let encoded = engine.encode(&plain);
                    let (masked, hits) = masker.mask_text(&encoded);
                    assert_eq!(hits, 1, "{plain}");
                    assert!(masked.contains("***"));
                }
            }
        }
    }

    #[test]
    fn masks_all_of_them_in_bytes_that_are_no_text() {
        let (masked, hits) = masker("hunter2-hunter2").mask_bytes(b"\xff\xfehunter2-hunter2\x00hunter2-hunter2\xff");
        assert_eq!((&masked[..], hits), (&b"\xff\xfe***\x00***\xff"[..], 2));
    }

    #[test]
    fn a_short_secret_is_masked_only_as_the_whole_text_that_was_put_in() {
        let set: SecretSet = [("s".to_owned(), SecretText::new("abc".into()))].into_iter().collect();
        let whole = SecretText::new("Bearer abc".into());
        let masker = Masker::new(&set, [&whole]);
        assert_eq!(masker.mask_text("abc abcdef, Bearer abc").0, "abc abcdef, ***");
        assert_eq!(Masker::new(&set, []).mask_text("abc abcdef").1, 0);
    }

    #[test]
    fn a_token_is_found_without_its_scheme() {
        let bearer = masker("Bearer sk-abcdef1234567890");
        for text in ["bad token sk-abcdef1234567890", "Bearer sk-abcdef1234567890", "c2stYWJjZGVmMTIzNDU2Nzg5MA=="] {
            assert!(bearer.mask_text(text).1 == 1, "{text}");
        }
        let basic = masker("Basic dXNlcjpodW50ZXIyLXBhc3M=");
        for text in ["dXNlcjpodW50ZXIyLXBhc3M=", "user:hunter2-pass", "the password hunter2-pass is wrong"] {
            assert!(basic.mask_text(text).1 == 1, "{text}");
        }
        assert_eq!(masker("an ordinary pass phrase").mask_text("pass phrase").1, 0);
    }

    #[test]
    fn a_clean_text_is_not_copied() {
        assert!(matches!(masker("hunter2-hunter2").mask_bytes(b"hello hunter2"), (Cow::Borrowed(_), 0)));
    }
}
