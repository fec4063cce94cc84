//! A received message, read by an independent parser (crate `mail-parser`).

use mail_parser::{Address, Message, MessageParser};

/// The parts of a message that tests look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedMail {
    /// Decoded.
    pub subject: String,
    /// Addresses without names.
    pub from: Vec<String>,
    /// Addresses without names.
    pub to: Vec<String>,
    /// Addresses without names.
    pub cc: Vec<String>,
    /// Addresses without names.
    pub reply_to: Vec<String>,
    /// Without the angle brackets.
    pub message_id: Option<String>,
    /// The first plain-text part, decoded.
    pub text: Option<String>,
    /// The first HTML part, decoded.
    pub html: Option<String>,
    /// Every top-level header as it came, in order.
    pub headers: Vec<(String, String)>,
}

impl ParsedMail {
    /// Reads a message; rubbish gives an empty one.
    #[must_use]
    pub fn read(raw: &[u8]) -> Self {
        let Some(message) = MessageParser::default().parse(raw) else { return Self::default() };
        Self {
            subject: message.subject().unwrap_or_default().to_owned(),
            from: addresses(message.from()),
            to: addresses(message.to()),
            cc: addresses(message.cc()),
            reply_to: addresses(message.reply_to()),
            message_id: message.message_id().map(str::to_owned),
            text: body(&message, "plain"),
            html: body(&message, "html"),
            headers: message.headers_raw().map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect(),
        }
    }

    /// How often a header stands at the top level.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.headers.iter().filter(|(have, _)| have.eq_ignore_ascii_case(name)).count()
    }

    /// The first header of this name, raw.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

fn addresses(list: Option<&Address<'_>>) -> Vec<String> {
    let all = list.into_iter().flat_map(Address::iter);
    all.filter_map(|one| one.address().map(str::to_owned)).collect()
}

/// The first part that really is of this kind: the parser would otherwise convert one into the other.
fn body(message: &Message<'_>, subtype: &str) -> Option<String> {
    use mail_parser::MimeHeaders;
    let part = message.parts.iter().find(|part| match part.content_type() {
        Some(kind) => kind.ctype().eq_ignore_ascii_case("text") && kind.subtype().is_some_and(|have| have.eq_ignore_ascii_case(subtype)),
        None => subtype == "plain" && part.is_text(),
    })?;
    part.text_contents().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_words_and_alternatives_are_read() {
        let raw = "From: =?utf-8?B?0JvQuNC00Ys=?= <leads@shop.example>\r\nTo: a@x.example, B <b@x.example>\r\n\
            Subject: =?utf-8?B?0JfQsNGP0LLQutCw?=\r\nMessage-ID: <dlv_1.0@shop.example>\r\nMIME-Version: 1.0\r\n\
            Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\n\
            Content-Transfer-Encoding: base64\r\n\r\n0JjQstCw0L0=\r\n--b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<b>Иван</b>\r\n--b--\r\n";
        let mail = ParsedMail::read(raw.as_bytes());
        assert_eq!((mail.subject.as_str(), mail.message_id.as_deref()), ("Заявка", Some("dlv_1.0@shop.example")));
        assert_eq!(mail.to, ["a@x.example", "b@x.example"]);
        assert_eq!(mail.text.as_deref(), Some("Иван"));
        assert_eq!(mail.html.as_deref().map(str::trim), Some("<b>Иван</b>"));
        assert_eq!((mail.count("subject"), mail.count("bcc")), (1, 0));
    }

    #[test]
    fn a_plain_mail_has_no_html() {
        let mail = ParsedMail::read(b"Subject: x\r\n\r\nhello\r\n");
        assert_eq!((mail.text.as_deref().map(str::trim), mail.html), (Some("hello"), None));
    }
}
