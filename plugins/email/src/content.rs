//! What the mail says.

use leadwire_sdk::{
    Context, Item, Payload, Verdict,
    template::{Data, Escape},
};
use serde_json::json;

use crate::Config;

/// Longest subject in characters; mail programs show less.
const SUBJECT_CHARS: usize = 150;

const SUBJECT: &str = "{% if event %}{{ event.kind }} {{ event.external_id }}{% else %}{{ lead.title or words.lead }}\
                       {% set who = lead.name or lead.phone or lead.email %}{% if who %}: {{ who }}{% endif %}{% endif %}";
const TEXT: &str = include_str!("default.txt");
const HTML: &str = include_str!("default.html");

pub(crate) struct Content {
    pub(crate) subject: String,
    pub(crate) text: Option<String>,
    pub(crate) html: Option<String>,
}

/// Each part: mapped, else the admin's template, else the default. An admin who writes one of text and HTML gets that
/// one alone: the default of the other would say something else. A template that was found sound when it was entered and
/// fails here fails for this lead alone, so that the others go out.
pub(crate) fn render(ctx: &Context<Config>, item: &Item) -> Result<Content, Verdict> {
    let words = if ctx.speaks("ru") {
        json!({ "lead": "Новая заявка", "name": "Имя", "company": "Компания", "phone": "Телефон", "email": "Почта", "value": "Сумма",
                "comment": "Комментарий", "page": "Страница", "utm": "Реклама" })
    } else {
        json!({ "lead": "New lead", "name": "Name", "company": "Company", "phone": "Phone", "email": "E-mail", "value": "Amount",
                "comment": "Comment", "page": "Page", "utm": "Campaign" })
    };
    let data = ctx.template_data(item).with("words", &words);
    let part = |name: &str, template: Option<&str>, escape: Escape| match (item.mapped_text(name), template) {
        (Some(mapped), _) => Ok(Some(mapped)),
        (None, Some(template)) => rendered(ctx, name, template, &data, escape).map(Some),
        (None, None) => Ok(None),
    };
    let config = &ctx.config;
    let subject = part("subject", Some(config.subject.as_deref().unwrap_or(SUBJECT)), Escape::None)?;
    let mut text = part("text", config.text.as_deref(), Escape::None)?;
    // An event that brings its own text is not told in the words that were written for leads.
    let told = matches!(item.payload, Payload::Event(_)) && item.mapped_text("text").is_some();
    let mut html = part("html", config.html.as_deref().filter(|_| !told), Escape::Html)?;
    if text.is_none() && html.is_none() {
        text = part("text", Some(TEXT), Escape::None)?;
        html = part("html", Some(HTML), Escape::Html)?;
    }
    Ok(Content {
        subject: one_line(&subject.unwrap_or_default()),
        text: text.map(|text| clean(&text)),
        html: html.map(|html| clean(&html)),
    })
}

fn rendered(ctx: &Context<Config>, name: &str, template: &str, data: &Data, escape: Escape) -> Result<String, Verdict> {
    ctx.render(template, data, escape)
        .map_err(|error| Verdict::rejected("template", format!("the template `{name}` does not work for this lead: {error}")))
}

/// The lead's first address that a mail program could answer to.
pub(crate) fn reply_to(item: &Item) -> Option<String> {
    let Payload::Lead(lead) = &item.payload else { return None };
    lead.emails.iter().find(|address| is_address(address)).cloned()
}

/// Strict on purpose: an odd address is left out, and the mail goes out all the same.
fn is_address(address: &str) -> bool {
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !"@<>,;:\"()[]\\".contains(c);
    let dots = |part: &str| !part.starts_with('.') && !part.ends_with('.') && !part.contains("..");
    address.len() <= 254
        && (1..=64).contains(&local.len())
        && local.chars().all(plain)
        && dots(local)
        && domain.contains('.')
        && dots(domain)
        && domain.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '.')
}

/// One line without control characters, cut to the longest subject.
fn one_line(text: &str) -> String {
    let printable: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = printable.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SUBJECT_CHARS) {
        Some(_) => line.chars().take(SUBJECT_CHARS - 1).chain(['…']).collect(),
        None => line,
    }
}

/// Without control characters; line breaks and tabs stay.
fn clean(text: &str) -> String {
    text.replace("\r\n", "\n").chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["ivan@example.com", "i.p+tag@почта.рф", "иван@example.com"] {
            assert!(is_address(good), "{good}");
        }
        for bad in [
            "",
            "@",
            "a@",
            "@b.c",
            "a b@c.de",
            "a@localhost",
            "a@[127.0.0.1]",
            "a@b.de, c@d.ef",
            "<a@b.de>",
            "\"a b\"@c.de",
            "a@b.de\r\nBcc: x@y.zz",
            "a@b..de",
            ".a@b.de",
            "a@b.de.",
            "a@@b.de",
        ] {
            assert!(!is_address(bad), "{bad}");
        }
    }

    #[test]
    fn a_subject_is_one_short_line() {
        assert_eq!(one_line(" a\r\nBcc: x@y.zz\0\tb "), "a Bcc: x@y.zz b");
        assert_eq!(one_line(&"ж".repeat(151)).chars().count(), 150);
        assert_eq!(one_line(&"ж".repeat(150)), "ж".repeat(150));
    }
}
