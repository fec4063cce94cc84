//! Telegram's HTML, as far as it must be known to cut a text: what is a tag, what is an escape, what is seen.

const MORE: char = '…';

/// One step through a text with markup.
#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    /// `<b>`, `</b>`: takes no room.
    Tag(&'a str),
    /// `&amp;`, `&#39;`: one character.
    Escape(&'a str),
    Char(char),
}

fn next(text: &str) -> Option<(Token<'_>, &str)> {
    let first = text.chars().next()?;
    let upto = |end: char, most: usize| text.char_indices().take(most).skip(1).find(|(_, c)| *c == end).map(|(at, _)| at + end.len_utf8());
    let (token, len) = match first {
        // A tag's name begins with a letter; anything else is a `<` that Telegram will complain of.
        '<' if text[1..].starts_with(|c: char| c == '/' || c.is_ascii_alphabetic()) => match upto('>', usize::MAX) {
            Some(len) => (Token::Tag(&text[..len]), len),
            None => (Token::Char('<'), 1),
        },
        '&' => match upto(';', 12).filter(|len| text[1..len - 1].chars().all(|c| c == '#' || c.is_ascii_alphanumeric())) {
            Some(len) => (Token::Escape(&text[..len]), len),
            None => (Token::Char('&'), 1),
        },
        other => (Token::Char(other), other.len_utf8()),
    };
    Some((token, &text[len..]))
}

/// Removes control characters (line breaks stay), and blank space around.
pub(crate) fn clean(text: &str) -> String {
    let kept: String = text.replace("\r\n", "\n").chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).collect();
    kept.trim().to_owned()
}

/// Cuts to `units` seen UTF-16 units, never inside a tag or an escape, and closes what is open.
pub(crate) fn cut(text: &str, units: usize) -> String {
    if seen_units(text) <= units {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut open: Vec<&str> = Vec::new();
    let mut left = units.saturating_sub(MORE.len_utf16());
    let mut rest = text;
    while let Some((token, after)) = next(rest) {
        let needs = seen(&token);
        if needs > left {
            break;
        }
        left -= needs;
        out.push_str(&rest[..rest.len() - after.len()]);
        if let Token::Tag(tag) = token {
            match tag.strip_prefix("</") {
                Some(_) => drop(open.pop()),
                None => open.push(name(tag)),
            }
        }
        rest = after;
    }
    out.push(MORE);
    for tag in open.into_iter().rev() {
        out.push_str(&format!("</{tag}>"));
    }
    out
}

/// Cuts a text without markup to `units` UTF-16 units.
pub(crate) fn cut_plain(text: &str, units: usize) -> String {
    if text.encode_utf16().count() <= units {
        return text.to_owned();
    }
    let mut left = units.saturating_sub(MORE.len_utf16());
    let fits = |c: &char| {
        let fits = c.len_utf16() <= left;
        left = left.saturating_sub(c.len_utf16());
        fits
    };
    text.chars().take_while(fits).chain([MORE]).collect()
}

/// The text as it is seen: without tags, escapes resolved.
pub(crate) fn to_plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((token, after)) = next(rest) {
        match token {
            Token::Tag(_) => {}
            Token::Escape(escape) => match resolve(escape) {
                Some(c) => out.push(c),
                None => out.push_str(escape),
            },
            Token::Char(c) => out.push(c),
        }
        rest = after;
    }
    out
}

fn seen_units(mut text: &str) -> usize {
    let mut units = 0;
    while let Some((token, after)) = next(text) {
        units += seen(&token);
        text = after;
    }
    units
}

fn seen(token: &Token<'_>) -> usize {
    match token {
        Token::Tag(_) => 0,
        Token::Escape(escape) => resolve(escape).map_or(escape.len(), char::len_utf16),
        Token::Char(c) => c.len_utf16(),
    }
}

fn name(tag: &str) -> &str {
    tag.trim_start_matches('<').split(|c: char| c.is_whitespace() || c == '>').next().unwrap_or_default()
}

fn resolve(escape: &str) -> Option<char> {
    let inner = escape.strip_prefix('&')?.strip_suffix(';')?;
    match inner {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        numeric => {
            let digits = numeric.strip_prefix('#')?;
            let code = match digits.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => digits.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_stay_as_they_are() {
        assert_eq!(cut("<b>Иван &amp; Co</b>", 9), "<b>Иван &amp; Co</b>");
        assert_eq!(cut("", 1), "");
        assert_eq!(cut_plain("a<b", 3), "a<b");
    }

    #[test]
    fn a_cut_never_splits_a_tag_an_escape_or_a_character() {
        let text = "<b>a&amp;b <i>c</i>😀</b> &lt;x&gt; <a href=\"https://e.x/?a=1&amp;b=2\">link</a>";
        let whole = to_plain(text);
        for units in 1..=whole.encode_utf16().count() {
            let part = cut(text, units);
            let seen = to_plain(&part);
            assert!(seen.encode_utf16().count() <= units, "{units}: {part}");
            assert!(whole.starts_with(seen.trim_end_matches(MORE)), "{units}: {part}");
            assert_eq!(part.matches("<b>").count(), part.matches("</b>").count(), "{part}");
            assert_eq!(part.matches("<a ").count(), part.matches("</a>").count(), "{part}");
        }
    }

    #[test]
    fn what_is_no_markup_is_text() {
        assert_eq!(to_plain("1 < 2 & 3 > 2 &nosuch; <"), "1 < 2 & 3 > 2 &nosuch; <");
        assert_eq!(to_plain("&#39;&#x27;&quot;&#x110000;"), "''\"&#x110000;");
        assert_eq!(clean(" a\0\r\nb\u{7}\tc\u{9b} "), "a\nb\tc");
    }
}
