//! What is sent: the text, and where to.

use std::fmt;

use leadwire_sdk::{Context, Item, Verdict, log, template::Escape};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Config, html};

/// Longest text, counted after the markup is read. Telegram counts characters; UTF-16 units are never fewer.
pub(crate) const MAX_UNITS: usize = 4096;
/// Of one request.
pub(crate) const TIMEOUT_MS: u32 = 25_000;

const DEFAULT: &str = include_str!("default.html");

/// A chat's number, or the `@name` of a public one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum ChatId {
    Number(i64),
    Name(String),
}

impl fmt::Display for ChatId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(out),
            Self::Name(name) => name.fmt(out),
        }
    }
}

/// The text before it is cut to size.
#[derive(Debug, Clone)]
pub(crate) enum Text {
    Html(String),
    Plain(String),
}

/// The body of `sendMessage`.
#[derive(Debug, Serialize)]
pub(crate) struct Message {
    chat_id: ChatId,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parse_mode: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_thread_id: Option<i64>,
    disable_notification: bool,
    link_preview_options: Value,
}

impl Message {
    pub(crate) fn new(ctx: &Context<Config>, text: Text) -> Self {
        let (text, parse_mode) = text.into();
        Self {
            chat_id: chat(ctx),
            text,
            parse_mode,
            message_thread_id: ctx.config.message_thread_id,
            disable_notification: ctx.config.silent,
            link_preview_options: json!({ "is_disabled": true }),
        }
    }

    pub(crate) fn move_to(&mut self, chat: i64) {
        self.chat_id = ChatId::Number(chat);
    }

    pub(crate) fn is_html(&self) -> bool {
        self.parse_mode.is_some()
    }

    pub(crate) fn make_plain(&mut self) {
        self.parse_mode = None;
        self.text = html::cut_plain(&html::to_plain(&self.text), MAX_UNITS);
    }

    /// True when there was a thread to leave.
    pub(crate) fn leave_thread(&mut self) -> bool {
        self.message_thread_id.take().is_some()
    }
}

/// The text: mapped, the admin's template, or the default one. A template that was found sound when it was entered and
/// fails here fails for this lead alone, so that the others go out.
pub(crate) fn text(ctx: &Context<Config>, item: &Item) -> Result<Text, Verdict> {
    // The mapping knows nothing of Telegram's markup and escapes nothing.
    if let Some(text) = item.mapped_text("text") {
        return Ok(Text::Plain(html::clean(&text)));
    }
    let words = if ctx.speaks("ru") {
        json!({ "lead": "Новая заявка", "name": "Имя", "company": "Компания", "phone": "Телефон", "email": "Почта", "value": "Сумма",
                "comment": "Комментарий", "page": "Страница", "utm": "Реклама" })
    } else {
        json!({ "lead": "New lead", "name": "Name", "company": "Company", "phone": "Phone", "email": "E-mail", "value": "Amount",
                "comment": "Comment", "page": "Page", "utm": "Campaign" })
    };
    let data = ctx.template_data(item).with("words", &words);
    let source = ctx.config.text.as_deref().unwrap_or(DEFAULT);
    let text = ctx
        .render(source, &data, Escape::Html)
        .map_err(|error| Verdict::rejected("template", format!("the template `text` does not work for this lead: {error}")))?;
    Ok(Text::Html(html::clean(&text)))
}

/// The chat: the configured one, or where it has moved since.
pub(crate) fn chat(ctx: &Context<Config>) -> ChatId {
    let configured = configured(ctx);
    let moved = ctx.kv().get_text(&moved_key(&configured)).ok().flatten().and_then(|chat| chat.parse().ok());
    moved.map_or(configured, ChatId::Number)
}

/// A group that became a supergroup has a new number for ever; the admin is told to enter it.
pub(crate) fn remember_move(ctx: &Context<Config>, chat: i64) {
    let old = configured(ctx);
    log::warn(&format!("the group {old} became a supergroup; its number is now {chat}"));
    if ctx.kv().set(&moved_key(&old), chat.to_string().as_bytes(), None).is_err() {
        log::warn("the new number could not be stored and will be asked for again");
    }
}

/// The settings' chat, a number also when it was entered as text.
fn configured(ctx: &Context<Config>) -> ChatId {
    match &ctx.config.chat_id {
        ChatId::Name(name) => name.parse().map_or_else(|_| ChatId::Name(name.clone()), ChatId::Number),
        number => number.clone(),
    }
}

fn moved_key(chat: &ChatId) -> String {
    format!("moved:{chat}")
}
