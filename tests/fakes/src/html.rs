//! The Bot API's message formatting, read strictly: text that was not escaped is refused.
//!
//! Stricter than the real server in one point: a bare `&` or `>` in HTML is refused here, as the
//! documentation asks, where the real one lets some of them pass. Start at [`parse`].

/// A message text after parsing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Without markup.
    pub text: String,
    /// In the order they opened.
    pub entities: Vec<Entity>,
}

/// One formatted stretch; offsets count UTF-16 units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entity {
    /// `bold`, `italic`, `text_link`, …
    pub kind: &'static str,
    /// Start in UTF-16 units.
    pub offset: usize,
    /// Length in UTF-16 units.
    pub length: usize,
    /// The address of a `text_link`.
    pub url: Option<String>,
}

/// Length as the Bot API counts it.
#[must_use]
pub fn utf16_len(text: &str) -> usize {
    text.encode_utf16().count()
}

/// Parses `text` by `mode` (any case; none = plain). The error is the description's part after "Bad Request: ".
pub fn parse(mode: Option<&str>, text: &str) -> Result<Parsed, String> {
    match mode.map(str::to_ascii_lowercase).as_deref() {
        None | Some("") => Ok(Parsed { text: text.to_owned(), entities: Vec::new() }),
        Some("html") => Reader::new(text).html(),
        Some("markdownv2") => Reader::new(text).markdown(),
        Some(_) => Err("unsupported parse_mode".to_owned()),
    }
}

/// Text that is being read and what came of it so far.
struct Reader<'a> {
    rest: &'a str,
    whole: usize,
    out: Parsed,
    units: usize,
    open: Vec<(String, usize)>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text, whole: text.len(), out: Parsed::default(), units: 0, open: Vec::new() }
    }

    fn offset(&self) -> usize {
        self.whole - self.rest.len()
    }

    fn push(&mut self, c: char) {
        self.out.text.push(c);
        self.units += c.len_utf16();
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn start(&mut self, name: &str, kind: &'static str, url: Option<String>) {
        self.open.push((name.to_owned(), self.out.entities.len()));
        self.out.entities.push(Entity { kind, offset: self.units, length: 0, url });
    }

    fn end(&mut self, name: &str) -> Result<(), String> {
        match self.open.pop() {
            Some((opened, index)) if opened == name => {
                let entity = &mut self.out.entities[index];
                entity.length = self.units - entity.offset;
                Ok(())
            }
            Some((opened, _)) => Err(parse_error(&format!(
                "Unmatched end tag at byte offset {}, expected \"</{opened}>\", found \"</{name}>\"",
                self.offset()
            ))),
            None => Err(parse_error(&format!("Unexpected end tag at byte offset {}", self.offset()))),
        }
    }

    fn finish(mut self) -> Result<Parsed, String> {
        if let Some((name, _)) = self.open.pop() {
            return Err(parse_error(&format!("Can't find end tag corresponding to start tag \"{name}\"")));
        }
        self.out.entities.retain(|entity| entity.length > 0);
        Ok(self.out)
    }

    fn html(mut self) -> Result<Parsed, String> {
        while let Some(c) = self.rest.chars().next() {
            match c {
                '<' => self.tag()?,
                '&' => self.entity()?,
                '>' => return Err(parse_error(&format!("Character '>' must be escaped at byte offset {}", self.offset()))),
                _ => {
                    self.skip(c.len_utf8());
                    self.push(c);
                }
            }
        }
        self.finish()
    }

    fn entity(&mut self) -> Result<(), String> {
        let bad = parse_error(&format!("Unknown entity at byte offset {}", self.offset()));
        let end = self.rest.bytes().take(12).position(|byte| byte == b';').ok_or_else(|| bad.clone())?;
        let name = &self.rest[1..end];
        let number = match name.strip_prefix('#') {
            Some(digits) => match digits.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok(),
                None => digits.parse().ok(),
            },
            None => None,
        };
        let c = match (name, number.and_then(char::from_u32)) {
            ("lt", _) => '<',
            ("gt", _) => '>',
            ("amp", _) => '&',
            ("quot", _) => '"',
            (_, Some(c)) if c != '\0' => c,
            _ => return Err(bad),
        };
        self.skip(end + 1);
        self.push(c);
        Ok(())
    }

    fn tag(&mut self) -> Result<(), String> {
        let offset = self.offset();
        let Some(end) = self.rest.find('>') else {
            return Err(parse_error(&format!("Unclosed start tag at byte offset {offset}")));
        };
        let inside = &self.rest[1..end];
        if let Some(name) = inside.strip_prefix('/') {
            self.end(&name.trim().to_ascii_lowercase())?;
            self.skip(end + 1);
            return Ok(());
        }
        let (name, attributes) = inside.split_once(char::is_whitespace).unwrap_or((inside, ""));
        let name = name.to_ascii_lowercase();
        let kind =
            kind_of(&name, attributes).ok_or_else(|| parse_error(&format!("Unsupported start tag \"{name}\" at byte offset {offset}")))?;
        let url = attribute(attributes, "href");
        self.skip(end + 1);
        self.start(&name, kind, url);
        Ok(())
    }

    fn markdown(mut self) -> Result<Parsed, String> {
        while let Some(c) = self.rest.chars().next() {
            let marker = ["||", "__", "*", "_", "~", "`"].into_iter().find(|marker| self.rest.starts_with(marker));
            let in_code = self.open.last().is_some_and(|(name, _)| name == "`");
            match (c, marker) {
                ('\\', _) if self.rest[1..].starts_with(|next: char| next.is_ascii_punctuation()) => {
                    let next = self.rest.as_bytes()[1];
                    self.skip(2);
                    self.push(char::from(next));
                }
                (_, Some(marker)) if !in_code || marker == "`" => {
                    if self.open.iter().any(|(name, _)| name == marker) {
                        self.end(marker)?;
                    } else {
                        self.start(marker, markdown_kind(marker), None);
                    }
                    self.skip(marker.len());
                }
                (c, _) if !in_code && "[]()>#+-=|{}.!".contains(c) => {
                    return Err(parse_error(&format!("Character '{c}' is reserved and must be escaped with the preceding '\\'")));
                }
                _ => {
                    self.skip(c.len_utf8());
                    self.push(c);
                }
            }
        }
        self.finish()
    }
}

fn parse_error(what: &str) -> String {
    format!("can't parse entities: {what}")
}

fn markdown_kind(marker: &str) -> &'static str {
    match marker {
        "||" => "spoiler",
        "__" => "underline",
        "*" => "bold",
        "_" => "italic",
        "~" => "strikethrough",
        _ => "code",
    }
}

fn kind_of(name: &str, attributes: &str) -> Option<&'static str> {
    Some(match name {
        "b" | "strong" => "bold",
        "i" | "em" => "italic",
        "u" | "ins" => "underline",
        "s" | "strike" | "del" => "strikethrough",
        "tg-spoiler" => "spoiler",
        "span" if attribute(attributes, "class").as_deref() == Some("tg-spoiler") => "spoiler",
        "a" => "text_link",
        "code" => "code",
        "pre" => "pre",
        "blockquote" => "blockquote",
        "tg-emoji" => "custom_emoji",
        _ => return None,
    })
}

/// The value of `name="value"`.
fn attribute(attributes: &str, name: &str) -> Option<String> {
    let (_, after) = attributes.split_once(&format!("{name}=\""))?;
    let (value, _) = after.split_once('"')?;
    Some(value.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn html(text: &str) -> Result<Parsed, String> {
        parse(Some("HTML"), text)
    }

    #[test]
    fn escaped_text_comes_out_as_written() {
        let parsed = html("<b>Заявка</b> &lt;Ivan &amp; Co&gt; &#33;&#x21;").unwrap();
        assert_eq!(parsed.text, "Заявка <Ivan & Co> !!");
        assert_eq!(parsed.entities, [Entity { kind: "bold", offset: 0, length: 6, url: None }]);
    }

    #[test]
    fn offsets_count_utf16_units() {
        let parsed = html("😀<i>x</i><a href=\"https://a.example/?b=1&amp;c=2\">link</a>").unwrap();
        assert_eq!((parsed.entities[0].offset, parsed.entities[0].length), (2, 1));
        assert_eq!(parsed.entities[1].url.as_deref(), Some("https://a.example/?b=1&c=2"));
    }

    #[test]
    fn what_was_not_escaped_is_refused() {
        for text in ["a & b", "a < b", "a > b", "<script>x</script>", "<b>open", "</b>", "<b><i>x</b></i>", "&nbsp;", "&#0;", "<b", "R&D;"]
        {
            let error = html(text).unwrap_err();
            assert!(error.starts_with("can't parse entities"), "{text}: {error}");
        }
    }

    #[test]
    fn markdown_needs_its_reserved_characters_escaped() {
        assert_eq!(parse(Some("MarkdownV2"), r"*Ivan* \(shop\-1\)").unwrap().text, "Ivan (shop-1)");
        assert!(parse(Some("MarkdownV2"), "shop-1").unwrap_err().contains("Character '-' is reserved"));
        assert!(parse(Some("Fancy"), "x").is_err());
    }
}
