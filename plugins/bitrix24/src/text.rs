//! Texts that people read in the portal: cut to size, and without markup that a lead brought along.

use leadwire_sdk::{Context, Item, Lead, Verdict, template::Escape};
use serde_json::{Map, Value, json};

use crate::{Config, command::INVISIBLE};

/// Longest text of the timeline, in characters.
const NOTE: usize = 30_000;
const DEFAULT: &str = include_str!("note.txt");

/// The words of our own texts.
pub(crate) struct Words {
    pub(crate) lead: &'static str,
    left_out: &'static str,
    others: Value,
}

/// In the project's language.
pub(crate) fn words(ctx: &Context<Config>) -> Words {
    if ctx.speaks("ru") {
        let others = json!({ "lead": "Новая заявка", "name": "Имя", "company": "Компания", "phone": "Телефон", "email": "Почта",
            "value": "Сумма", "comment": "Комментарий", "page": "Страница", "form": "Форма", "utm": "Реклама" });
        Words { lead: "Новая заявка", left_out: "Не удалось записать в поле", others }
    } else {
        let others = json!({ "lead": "New lead", "name": "Name", "company": "Company", "phone": "Phone", "email": "E-mail",
            "value": "Amount", "comment": "Comment", "page": "Page", "form": "Form", "utm": "Campaign" });
        Words { lead: "New lead", left_out: "Could not be put into the field", others }
    }
}

/// The comment for the timeline: the admin's template or the usual one, then what no field could hold.
pub(crate) fn note(ctx: &Context<Config>, item: &Item, lead: &Lead, left_out: &[String]) -> Result<String, Verdict> {
    let mut shown = serde_json::to_value(lead).unwrap_or_default();
    disarm_all(&mut shown);
    let words = words(ctx);
    // The lead that the template sees is the one whose markup shows as it was written; the template's own is the admin's.
    let data = ctx.template_data(item).with("lead", &shown).with("words", &words.others);
    let source = ctx.config.note_text.as_deref().unwrap_or(DEFAULT);
    let text = ctx
        .render(source, &data, Escape::None)
        .map_err(|error| Verdict::rejected("template", format!("the template `note_text` does not work for this lead: {error}")))?;
    let text = [text.trim_end(), &lines(&words, left_out)].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n");
    Ok(clean(&text, NOTE))
}

/// The lead's own comment, and, where there is no timeline comment to say it, what no field could hold.
pub(crate) fn comments(ctx: &Context<Config>, lead: &Lead, left_out: &[String]) -> Option<String> {
    let own = lead.comment.as_deref().map(disarm).unwrap_or_default();
    let rest = if ctx.config.note { String::new() } else { lines(&words(ctx), left_out) };
    let text = [own, rest].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n");
    (!text.trim().is_empty()).then(|| clean(&text, NOTE))
}

fn lines(words: &Words, left_out: &[String]) -> String {
    left_out.iter().take(20).map(|line| format!("{} {}", words.left_out, disarm(line))).collect::<Vec<_>>().join("\n")
}

/// Without characters that nobody sees, and at most this many.
pub(crate) fn clean(text: &str, most: usize) -> String {
    let mut kept = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t'));
    let mut out: String = kept.by_ref().take(most).collect();
    if kept.next().is_some() {
        out.pop();
        out.push('…');
    }
    out
}

/// BB code in a lead's text would make links, mention employees or hide text: it is shown as it was written instead.
fn disarm(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        out.push(c);
        if c == '[' && chars.peek().is_some_and(|next| next.is_ascii_alphabetic() || matches!(next, '/' | '*')) {
            out.push(INVISIBLE);
        }
    }
    out
}

fn disarm_all(value: &mut Value) {
    match value {
        Value::String(text) => *text = disarm(text),
        Value::Array(values) => values.iter_mut().for_each(disarm_all),
        Value::Object(members) => {
            let all: Map<String, Value> = std::mem::take(members)
                .into_iter()
                .map(|(name, mut value)| {
                    disarm_all(&mut value);
                    (disarm(&name), value)
                })
                .collect();
            *members = all;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_of_a_lead_is_shown_and_not_obeyed() {
        let hostile = "[b]x[/b] [URL=http://evil.example]a[/URL] [USER=1]boss[/USER] [*] [1] [ok";
        let shown = disarm(hostile);
        assert_eq!(shown.replace(INVISIBLE, ""), hostile);
        for tag in ["[b]", "[/b]", "[URL", "[USER", "[*]"] {
            assert!(!shown.contains(tag), "{shown}");
        }
        assert!(shown.contains("[1]"), "what is no tag stays");
    }

    #[test]
    fn texts_are_cut_and_control_characters_go() {
        assert_eq!(clean("a\u{0}b\nc\u{7}", 10), "ab\nc");
        assert_eq!(clean("жжжжж", 3), "жж…");
        assert_eq!(clean("жжж", 3), "жжж");
    }
}
