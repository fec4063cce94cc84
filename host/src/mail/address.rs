//! Which text is a mail address. Stricter than the standard on purpose: what is not plainly one mailbox is refused, so
//! that nothing in it can become a second recipient, a header or a command.

/// An address in the form that goes to servers: the domain in ASCII (punycode).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    local: String,
    domain: String,
}

impl Address {
    /// `local@domain` and nothing else.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("{} ({why})", shown(text)));
        let Some((local, domain)) = text.split_once('@') else { return wrong("no @ in it") };
        if domain.contains('@') {
            return wrong("more than one @");
        }
        if local.is_empty() || local.len() > 64 {
            return wrong("the part before @ has 1 to 64 bytes");
        }
        if !local.chars().all(is_local_char) || local.split('.').any(str::is_empty) {
            return wrong("a character that addresses do not have");
        }
        let Ok(ascii) = idna::domain_to_ascii_strict(domain) else { return wrong("the domain is not valid") };
        let mut labels = ascii.rsplit('.');
        let top = labels.next().unwrap_or_default();
        if labels.next().is_none() || top.is_empty() || top.bytes().all(|b| b.is_ascii_digit()) {
            return wrong("the domain is not complete");
        }
        if local.len() + 1 + ascii.len() > 254 {
            return wrong("longer than 254 bytes");
        }
        Ok(Self { local: local.to_owned(), domain: ascii })
    }

    /// Goes only to servers with SMTPUTF8.
    pub(crate) fn needs_utf8(&self) -> bool {
        !self.local.is_ascii()
    }

    pub(crate) fn domain(&self) -> &str {
        &self.domain
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

/// RFC 5322 `atext` and the dot; beyond ASCII letters and digits only, so no marks that turn or hide text.
fn is_local_char(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c) } else { c.is_alphanumeric() }
}

/// The text for a message to people: short and without control characters.
fn shown(text: &str) -> String {
    let clean: String = text.chars().filter(|c| !c.is_control()).take(80).collect();
    format!("`{clean}`")
}

/// An address with or without a name: `a@b.ru`, `Anna <a@b.ru>`, `"Smith, Anna" <a@b.ru>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mailbox {
    pub(crate) name: Option<String>,
    pub(crate) address: Address,
}

impl Mailbox {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > 1000 {
            return Err(format!("{} (too long)", shown(text)));
        }
        let text = text.trim_matches(' ');
        let Some(rest) = text.strip_suffix('>') else {
            return Ok(Self { name: None, address: Address::parse(text)? });
        };
        let Some((name, address)) = rest.rsplit_once('<') else { return Err(format!("{} (no <)", shown(text))) };
        let name = name.trim_matches(' ');
        let quoted = name.strip_prefix('"').and_then(|inner| inner.strip_suffix('"'));
        let forbidden: &[char] = if quoted.is_some() { &['"', '\\', '<', '>'] } else { &['"', '\\', '<', '>', '@', ',', ';', ':'] };
        let name = quoted.unwrap_or(name);
        // A name with control characters is not cleaned but refused: nobody types them.
        if name.contains(forbidden) || name.chars().any(char::is_control) {
            return Err(format!("{} (not one address)", shown(text)));
        }
        Ok(Self { name: (!name.is_empty()).then(|| name.to_owned()), address: Address::parse(address)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_addresses_pass() {
        for (text, wire) in [
            ("a@b.ru", "a@b.ru"),
            (" anna.k+tag@sub.example.com ", "anna.k+tag@sub.example.com"),
            ("Anna <a@B.ru>", "a@b.ru"),
            ("\"Smith, Anna\" <a@b.ru>", "a@b.ru"),
            ("Анна <anna@пример.рф>", "anna@xn--e1afmkfd.xn--p1ai"),
            ("<a@b.ru>", "a@b.ru"),
            ("иван@пример.рф", "иван@xn--e1afmkfd.xn--p1ai"),
            ("o'brien@b.ie", "o'brien@b.ie"),
        ] {
            assert_eq!(Mailbox::parse(text).unwrap().address.to_string(), wire, "{text}");
        }
        assert!(Mailbox::parse("иван@пример.рф").unwrap().address.needs_utf8());
        assert!(!Mailbox::parse("anna@пример.рф").unwrap().address.needs_utf8());
        assert_eq!(Mailbox::parse("\"Smith, Anna\" <a@b.ru>").unwrap().name.as_deref(), Some("Smith, Anna"));
    }

    #[test]
    fn everything_else_is_refused() {
        let long = format!("{}@b.ru", "a".repeat(65));
        let long_domain = format!("a@{}.ru", "a".repeat(64));
        let huge = format!("{}@b.ru", "я".repeat(2_000));
        for text in [
            "",
            "a",
            "@",
            "a@",
            "@b.ru",
            "a@b",
            "a@localhost",
            "a@[127.0.0.1]",
            "a@127.0.0.1",
            "\"a b\"@b.ru",
            "a b@b.ru",
            "a@b.ru,c@d.ru",
            "a@b.ru, c@d.ru",
            "a@b.ru; c@d.ru",
            "a@b.ru c@d.ru",
            "a@b@c.ru",
            "a@b.ru>",
            "<a@b.ru",
            "A <a@b.ru> <c@d.ru>",
            "A <a@b.ru>, c@d.ru",
            "x@y.ru, B <a@b.ru>",
            "a@b.ru\r\nBcc: c@d.ru",
            "a\r\n@b.ru",
            "a@b\r\n.ru",
            "a\n@b.ru",
            "a\0@b.ru",
            "a@b.ru\0",
            "A\r\nBcc: c@d.ru <a@b.ru>",
            "a\u{202e}@b.ru",
            "a@b\u{202e}.ru",
            "😀@b.ru",
            ".a@b.ru",
            "a.@b.ru",
            "a..b@c.ru",
            "a@.ru",
            "a@b..ru",
            "a@b.ru.",
            "a@-b.ru",
            "a@b_c.ru",
            "a@b .ru",
            "a@b.ru SIZE=1",
            "a@b.ru> NOTIFY=NEVER",
            "(c)a@b.ru",
            "a\t@b.ru",
            "\ta@b.ru",
            "a@b.ru\n",
            &long,
            &long_domain,
            &huge,
        ] {
            assert!(Mailbox::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_refusal_shows_no_control_characters() {
        let why = Mailbox::parse("a\r\n\u{1b}[31mb").unwrap_err();
        assert!(!why.chars().any(char::is_control), "{why}");
    }
}
