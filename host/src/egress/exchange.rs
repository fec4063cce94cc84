//! What is kept of a request and its answer: masked, cut, readable.

use std::borrow::Cow;

use crate::model::Exchange;
use crate::plugin::manifest::Method;
use crate::secrets::{Masker, mask_personal};

/// Bytes kept of a body.
const KEPT: usize = 4 * 1024;
/// Bytes of a body that are looked at to keep those: more than any secret that could lie across the cut.
const SEEN: usize = 32 * 1024;
/// Bytes kept of a URL.
const URL: usize = 2 * 1024;

/// The record of a request that has not been answered yet; its address is not known yet either.
pub(super) fn begun(body: &[u8], masker: &Masker) -> Exchange {
    Exchange {
        kind: "http".to_owned(),
        request: String::new(),
        request_body: excerpt(body, masker),
        status: None,
        response: None,
        duration_ms: 0,
    }
}

/// Method and URL before secrets were put in.
pub(super) fn request_line(method: Method, url: &str, masker: &Masker) -> String {
    let url = masker.mask_text(cut(url, SEEN)).0;
    format!("{} {}", method.as_str(), mask_personal(cut(&url, URL)))
}

/// The first bytes of a body; `None` for an empty one.
pub(super) fn excerpt(body: &[u8], masker: &Masker) -> Option<String> {
    let seen = &body[..body.len().min(SEEN)];
    let mut excerpt = excerpt_of_masked(&masker.mask_bytes(seen).0)?;
    if seen.len() < body.len() && !excerpt.ends_with('…') {
        excerpt.push('…');
    }
    Some(excerpt)
}

/// The same of a body in which the secrets are masked already.
pub(super) fn excerpt_of_masked(body: &[u8]) -> Option<String> {
    if body.is_empty() {
        return None;
    }
    let masked = &body[..body.len().min(SEEN)];
    let text = match std::str::from_utf8(masked) {
        Ok(text) => Cow::Borrowed(text),
        // Cut inside a character, or a stray byte.
        Err(error) if error.valid_up_to() + 4 >= masked.len() || error.valid_up_to() >= KEPT => String::from_utf8_lossy(masked),
        Err(_) => return Some(format!("({} bytes that are no text)", body.len())),
    };
    let kept = cut(&text, KEPT);
    let mut excerpt = mask_personal(kept).into_owned();
    if kept.len() < text.len() || masked.len() < body.len() {
        excerpt.push('…');
    }
    Some(excerpt)
}

/// At most `most` bytes; ends between two words where it can, so that no phone or address is cut in two and left unmasked.
fn cut(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let head = &text[..text.floor_char_boundary(most)];
    let word = |c: char| c.is_alphanumeric() || "@.+-_%*".contains(c);
    let end = head.trim_end_matches(word).len();
    if head.len() - end > 256 { head } else { &head[..end] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::{SecretSet, SecretText};

    fn masker() -> Masker {
        let set: SecretSet = [("s".to_owned(), SecretText::new("hunter2-hunter2".into()))].into_iter().collect();
        Masker::new(&set, [])
    }

    #[test]
    fn nothing_half_masked_stays_at_the_cut() {
        for shift in 0..40 {
            let body = format!("{}hunter2-hunter2 ivan.petrov@example.com +79161234567 tail", " ".repeat(KEPT - shift));
            let text = excerpt(body.as_bytes(), &masker()).unwrap();
            assert!(!text.contains("hunter2") && !text.contains("ivan") && !text.contains("7916123"), "{shift}: {}", text.trim());
            assert!(text.ends_with('…') && text.len() <= KEPT + 3);
        }
    }

    #[test]
    fn bodies_that_are_no_text_are_named() {
        assert_eq!(excerpt(&[0xff; 100], &masker()).as_deref(), Some("(100 bytes that are no text)"));
        assert_eq!(excerpt(b"", &masker()), None);
        assert_eq!(excerpt("Привет".as_bytes(), &masker()).as_deref(), Some("Привет"));
    }
}
