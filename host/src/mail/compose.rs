//! A plugin's message → the bytes of a mail.
//!
//! All text is hostile: it comes from leads. Headers are written from cleaned text only, encoded here; lettre writes the
//! MIME parts. What comes out is looked at once more by [`check`] before it may go to a server.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment as FilePart, Body, MessageBuilder, MultiPart, SinglePart};

use super::address::{Address, Mailbox};
use super::{Account, Attachment, Failure, FailureKind, Message, Operator};

const MAX_SUBJECT_CHARS: usize = 250;
const MAX_HEADER_CHARS: usize = 400;
const MAX_NAME_CHARS: usize = 150;
const MAX_HEADERS: usize = 16;
const MAX_ATTACHMENTS: usize = 20;

/// Headers a plugin may set, in the spelling they get. The rest belongs to the host.
const ALLOWED_HEADERS: [&str; 7] = ["X-Entity-Ref-ID", "X-Lead-ID", "X-Delivery-ID", "References", "In-Reply-To", "List-Id", "Importance"];

/// One mailbox of the envelope.
#[derive(Debug, Clone)]
pub(crate) struct Recipient {
    pub(crate) address: Address,
    /// As the plugin wrote it, each spelling once.
    pub(crate) given: Vec<String>,
}

/// A checked message, ready to be written for a server.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) from: Mailbox,
    pub(crate) message_id: String,
    /// Who gets it now.
    pub(crate) recipients: Vec<Recipient>,
    /// Asked for, but not an address.
    pub(crate) invalid: Vec<(String, Failure)>,
    to: Vec<Mailbox>,
    cc: Vec<Mailbox>,
    reply_to: Option<Mailbox>,
    subject: String,
    text: Option<String>,
    html: Option<String>,
    attachments: Vec<Attachment>,
    headers: Vec<(&'static str, String)>,
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Invalid, message)
}

impl Draft {
    /// Checks everything that does not depend on the server.
    pub(crate) fn new(operator: &Operator, account: &Account, message: Message, item: &str) -> Result<Self, Failure> {
        check_size(operator, &message)?;
        let from = Mailbox::parse(&account.from).map_err(|why| invalid(format!("from is not a mail address: {why}")))?;
        let mut people = People::default();
        let to = people.add(&message.to);
        let cc = people.add(&message.cc);
        people.add(&message.bcc);
        if let Some(only) = &message.only {
            people.keep(only)?;
        }
        let People { recipients, invalid: wrong, .. } = people;
        if recipients.is_empty() {
            return Err(wrong.into_iter().next().map_or_else(|| invalid("the message has no recipient"), |(_, failure)| failure));
        }
        if message.text.is_none() && message.html.is_none() && message.attachments.is_empty() {
            return Err(invalid("the message has neither text nor html"));
        }
        Ok(Self {
            message_id: message_id(item, from.address.domain()),
            from,
            recipients,
            invalid: wrong,
            to,
            cc,
            reply_to: message.reply_to.and_then(|text| Mailbox::parse(&text).ok()),
            subject: clean_line(&message.subject, MAX_SUBJECT_CHARS),
            text: message.text.map(|text| clean_text(&text)),
            html: message.html.map(|text| clean_text(&text)),
            attachments: message.attachments,
            headers: allowed_headers(&message.headers)?,
        })
    }

    /// It can reach all of its recipients only by a server with SMTPUTF8. A lead's address in Reply-To is not worth it:
    /// such a mail may bounce at the next server.
    pub(crate) fn needs_utf8(&self) -> bool {
        self.from.address.needs_utf8() || self.recipients.iter().any(|recipient| recipient.address.needs_utf8())
    }

    /// Headers and body, CRLF at each line's end. Without `utf8` all of it is ASCII, and addresses that are not are left out.
    pub(crate) fn bytes(&self, utf8: bool) -> Result<Vec<u8>, Failure> {
        let fits = |mailbox: &&Mailbox| utf8 || !mailbox.address.needs_utf8();
        let mut mail = lettre::Message::builder();
        mail = raw(mail, "Message-ID", &self.message_id, self.message_id.clone());
        let from = self.from.address.to_string();
        mail = raw(mail, "From", &from, mailbox_list([&self.from].into_iter()));
        let to = mailbox_list(self.to.iter().filter(fits));
        let cc = mailbox_list(self.cc.iter().filter(fits));
        if !to.is_empty() {
            mail = raw(mail, "To", "", to);
        } else if cc.is_empty() {
            mail = raw(mail, "To", "", "undisclosed-recipients:;".to_owned());
        }
        if !cc.is_empty() {
            mail = raw(mail, "Cc", "", cc);
        }
        if let Some(reply_to) = self.reply_to.as_ref().filter(fits) {
            mail = raw(mail, "Reply-To", "", mailbox_list([reply_to].into_iter()));
        }
        let subject = if self.subject.is_empty() { "(no subject)" } else { &self.subject };
        mail = raw(mail, "Subject", "", unstructured("Subject", subject));
        mail = raw(mail, "Auto-Submitted", "", "auto-generated".to_owned());
        for (name, value) in &self.headers {
            mail = raw(mail, name, "", unstructured(name, value));
        }
        let bytes = self.finish(mail)?.formatted();
        check(&bytes, utf8).map_err(|why| invalid(format!("the message cannot be written as a mail: {why}")))?;
        Ok(bytes)
    }

    fn finish(&self, mail: MessageBuilder) -> Result<lettre::Message, Failure> {
        // The envelope is ours; lettre only wants to see one.
        let nobody = lettre::Address::new("nobody", "example.com").map_err(|error| invalid(error.to_string()))?;
        let envelope = lettre::address::Envelope::new(None, vec![nobody]).map_err(|error| invalid(error.to_string()))?;
        let mail = mail.envelope(envelope);
        let plain = self.text.clone().map(SinglePart::plain);
        let html = self.html.clone().map(SinglePart::html);
        if self.attachments.is_empty() {
            match (plain, html) {
                (Some(plain), Some(html)) => mail.multipart(MultiPart::alternative().singlepart(plain).singlepart(html)),
                (Some(part), None) | (None, Some(part)) => mail.singlepart(part),
                (None, None) => mail.singlepart(SinglePart::plain(String::new())),
            }
        } else {
            let mixed = match (plain, html) {
                (Some(plain), Some(html)) => MultiPart::mixed().multipart(MultiPart::alternative().singlepart(plain).singlepart(html)),
                (Some(part), None) | (None, Some(part)) => MultiPart::mixed().singlepart(part),
                (None, None) => MultiPart::mixed().build(),
            };
            mail.multipart(self.attachments.iter().fold(mixed, |mixed, file| mixed.singlepart(file_part(file))))
        }
        .map_err(|error| invalid(error.to_string()))
    }
}

fn check_size(operator: &Operator, message: &Message) -> Result<(), Failure> {
    let over = |what: String| Err(Failure::new(FailureKind::OverLimit, what));
    let recipients = message.to.len() + message.cc.len() + message.bcc.len();
    if recipients > operator.max_recipients {
        return over(format!("{recipients} recipients; the host allows {}", operator.max_recipients));
    }
    if message.attachments.len() > MAX_ATTACHMENTS {
        return over(format!("{} attachments; the host allows {MAX_ATTACHMENTS}", message.attachments.len()));
    }
    let files: usize = message.attachments.iter().map(|file| file.data.len()).sum();
    let texts = message.text.as_ref().map_or(0, String::len) + message.html.as_ref().map_or(0, String::len);
    if files + texts > operator.max_bytes {
        return over(format!("{} bytes; the host allows {}", files + texts, operator.max_bytes));
    }
    Ok(())
}

/// Collects recipients: each mailbox once, whatever lists and spellings it came in.
#[derive(Default)]
struct People {
    recipients: Vec<Recipient>,
    invalid: Vec<(String, Failure)>,
}

impl People {
    /// The mailboxes that were not there before, for this list's header.
    fn add(&mut self, given: &[String]) -> Vec<Mailbox> {
        let mut new = Vec::new();
        for text in given {
            match Mailbox::parse(text) {
                Ok(mailbox) => match self.recipients.iter_mut().find(|known| known.address == mailbox.address) {
                    Some(known) => {
                        if !known.given.contains(text) {
                            known.given.push(text.clone());
                        }
                    }
                    None => {
                        self.recipients.push(Recipient { address: mailbox.address.clone(), given: vec![text.clone()] });
                        new.push(mailbox);
                    }
                },
                Err(why) => {
                    if !self.invalid.iter().any(|(known, _)| known == text) {
                        self.invalid.push((text.clone(), invalid(format!("not a mail address: {why}"))));
                    }
                }
            }
        }
        new
    }

    /// Drops everyone who is not in `only`.
    fn keep(&mut self, only: &[String]) -> Result<(), Failure> {
        let mut wanted = Vec::new();
        for text in only {
            if self.invalid.iter().any(|(known, _)| known == text) {
                continue;
            }
            let address = Mailbox::parse(text).map_err(|why| invalid(format!("not a mail address: {why}")))?.address;
            if !self.recipients.iter().any(|known| known.address == address) {
                return Err(invalid("`only` names an address that is not a recipient"));
            }
            wanted.push(address);
        }
        self.recipients.retain(|recipient| wanted.contains(&recipient.address));
        self.invalid.retain(|(text, _)| only.contains(text));
        Ok(())
    }
}

/// The same for every attempt of an item.
fn message_id(item: &str, domain: &str) -> String {
    let id: String = item.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')).take(64).collect();
    let id = id.trim_matches('.').replace("..", ".");
    let id = if id.is_empty() { uuid::Uuid::now_v7().simple().to_string() } else { id };
    format!("<{id}@{domain}>")
}

fn allowed_headers(given: &[(String, String)]) -> Result<Vec<(&'static str, String)>, Failure> {
    if given.len() > MAX_HEADERS {
        return Err(Failure::new(FailureKind::OverLimit, format!("{} headers; the host allows {MAX_HEADERS}", given.len())));
    }
    let mut headers: Vec<(&'static str, String)> = Vec::new();
    for (name, value) in given {
        let Some(allowed) = ALLOWED_HEADERS.iter().find(|allowed| allowed.eq_ignore_ascii_case(name)) else {
            let name: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
            return Err(Failure::new(FailureKind::Denied, format!("a plugin may not set the mail header `{name}`")));
        };
        let value = clean_line(value, MAX_HEADER_CHARS);
        headers.retain(|(known, _)| known != allowed);
        if !value.is_empty() {
            headers.push((allowed, value));
        }
    }
    Ok(headers)
}

/// Puts in a header whose value is encoded and folded already. `raw` is what lettre reads back (only `From`).
fn raw(mail: MessageBuilder, name: &str, raw: &str, encoded: String) -> MessageBuilder {
    match HeaderName::new_from_ascii(name.to_owned()) {
        Ok(name) => mail.raw_header(HeaderValue::dangerous_new_pre_encoded(name, raw.to_owned(), encoded)),
        Err(_) => mail,
    }
}

/// One line of text: what breaks lines, hides text or turns its direction becomes a space.
fn clean_line(text: &str, max_chars: usize) -> String {
    let mut line = String::new();
    let mut count = 0;
    for word in text.split(|c: char| c.is_whitespace() || is_unwanted(c)).filter(|word| !word.is_empty()) {
        if count > 0 {
            line.push(' ');
            count += 1;
        }
        for c in word.chars() {
            if count >= max_chars {
                return line.trim_end().to_owned();
            }
            line.push(c);
            count += 1;
        }
    }
    line.trim_end().to_owned()
}

fn is_unwanted(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A body: line ends as LF (lettre makes them CRLF), no other control characters but tabs.
fn clean_text(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n").chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).collect()
}

/// Plain ASCII that no reader takes for an encoded word.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && !text.contains("=?")
}

/// A header's free text.
fn unstructured(name: &str, text: &str) -> String {
    if !is_plain(text) {
        return encoded_words(text);
    }
    let mut out = String::new();
    let mut column = name.len() + 2;
    for word in text.split(' ') {
        if !out.is_empty() {
            let fold = column + 1 + word.len() > 76;
            out.push_str(if fold { "\r\n " } else { " " });
            column = if fold { 1 } else { column + 1 };
        }
        out.push_str(word);
        column += word.len();
    }
    out
}

/// RFC 2047, base64; no encoded word splits a character or is longer than 75.
fn encoded_words(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    // The first one shares its line with the header's name.
    let mut room = 30;
    let mut put = |word: &str| {
        let lead = if out.is_empty() { "" } else { "\r\n " };
        out = format!("{out}{lead}=?utf-8?B?{}?=", BASE64.encode(word));
    };
    for c in text.chars() {
        if word.len() + c.len_utf8() > room {
            put(&word);
            word.clear();
            room = 45;
        }
        word.push(c);
    }
    put(&word);
    out
}

fn mailbox_list<'a>(mailboxes: impl Iterator<Item = &'a Mailbox>) -> String {
    let each: Vec<String> = mailboxes.map(mailbox_text).collect();
    each.join(",\r\n ")
}

fn mailbox_text(mailbox: &Mailbox) -> String {
    let name = clean_line(mailbox.name.as_deref().unwrap_or_default(), MAX_NAME_CHARS);
    if name.is_empty() {
        return mailbox.address.to_string();
    }
    let phrase = if is_plain(&name) { format!("\"{}\"", name.replace(['"', '\\'], "'")) } else { encoded_words(&name) };
    let gap = if phrase.len() > 40 { "\r\n " } else { " " };
    format!("{phrase}{gap}<{}>", mailbox.address)
}

fn file_part(file: &Attachment) -> SinglePart {
    let name = clean_line(&file.name, MAX_NAME_CHARS);
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default().replace(['"', '=', '?', ';'], "_");
    let name = if name.trim_matches(['.', ' ']).is_empty() { "attachment".to_owned() } else { name };
    let kind = content_type(&file.content_type).unwrap_or_else(octets);
    match Body::new_with_encoding(file.data.clone(), ContentTransferEncoding::Base64) {
        Ok(body) => FilePart::new(name).body(body, kind),
        // Base64 takes any bytes; lettre's type cannot say so.
        Err(data) => FilePart::new(name).body(data, kind),
    }
}

fn octets() -> ContentType {
    ContentType::parse("application/octet-stream").unwrap_or(ContentType::TEXT_PLAIN)
}

/// `type/subtype` of a single part.
fn content_type(text: &str) -> Option<ContentType> {
    let bare = text.split(';').next()?.trim().to_ascii_lowercase();
    let (top, sub) = bare.split_once('/')?;
    let token = |part: &str| {
        (1..=60).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'+' | b'_'))
    };
    if !token(top) || !token(sub) || matches!(top, "multipart" | "message") {
        return None;
    }
    ContentType::parse(&bare).ok()
}

/// The last look at a finished mail: nothing but CRLF ends a line, none is too long, each header is there once.
fn check(bytes: &[u8], utf8: bool) -> Result<(), String> {
    let mut names: Vec<String> = Vec::new();
    let mut in_headers = true;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\r\n").or_else(|| (!line.ends_with(b"\n")).then_some(line)) else {
            return Err("a bare line feed".to_owned());
        };
        if line.contains(&b'\r') || line.contains(&0) {
            return Err("a bare carriage return or a zero byte".to_owned());
        }
        if line.len() > 998 {
            return Err("a line of more than 998 bytes".to_owned());
        }
        let may_be_utf8 = utf8 && in_headers;
        if !may_be_utf8 && !line.is_ascii() {
            return Err("a byte beyond ASCII".to_owned());
        }
        if !in_headers {
            continue;
        }
        if line.is_empty() {
            in_headers = false;
        } else if !matches!(line[0], b' ' | b'\t') {
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            if names.contains(&name) || name.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
                return Err(format!("a second or odd header `{name}`"));
            }
            names.push(name);
        } else if line.iter().all(|byte| matches!(byte, b' ' | b'\t')) {
            return Err("an empty header line".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "compose_tests.rs"]
mod tests;
