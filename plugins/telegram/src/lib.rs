//! The channel `telegram`: one message to a chat for each lead.
//!
//! Nothing that was sent can be looked up and there is no idempotency key, so a lost answer is in doubt and the
//! admin's `on_doubt` decides. The text ends with the lead's id, so that a person sees a duplicate.

mod html;
mod request;
mod response;

#[cfg(test)]
mod tests;

use leadwire_sdk::{Channel, Context, Item, Outcome, Stop, Verdict, http, log};
use serde::Deserialize;

use request::{Message, Text};
use response::{Meaning, Reply};

/// The settings; `config.schema.json` says what is allowed.
#[derive(Debug, Deserialize)]
pub struct Config {
    chat_id: request::ChatId,
    text: Option<String>,
    message_thread_id: Option<i64>,
    #[serde(default)]
    silent: bool,
}

/// The channel.
#[derive(Debug)]
pub struct Telegram;

impl Channel for Telegram {
    type Config = Config;

    fn deliver_one(ctx: &Context<Config>, item: &Item) -> Outcome {
        let text = match request::text(ctx, item) {
            Ok(text) => text,
            Err(rejected) => return Ok(rejected),
        };
        let mut message = Message::new(ctx, text);
        // Each of the three remedies helps once, so this ends after four requests at most.
        let mut moved = false;
        loop {
            let answer = match ctx.http().post("sendMessage").json(&message).timeout_ms(request::TIMEOUT_MS).send() {
                Ok(answer) => answer,
                Err(lost) => return http::outcome_from_failure(&lost),
            };
            let reply = Reply::read(&answer);
            match reply.meaning {
                Meaning::Sent { message, chat } => {
                    return Ok(Verdict::delivered().with_ref("message", message).with_ref("chat", chat));
                }
                Meaning::Moved(chat) if !moved => {
                    moved = true;
                    request::remember_move(ctx, chat);
                    message.move_to(chat);
                }
                Meaning::BadMarkup if message.is_html() => {
                    log::warn(&format!("Telegram cannot read the text's HTML, so it went out as plain text: {}", reply.text));
                    message.make_plain();
                }
                Meaning::NoThread if message.leave_thread() => {
                    log::warn(&format!("the topic is closed or gone, so the message went to the chat itself: {}", reply.text));
                }
                meaning => return response::outcome(item, meaning, &reply),
            }
        }
    }

    fn check(ctx: &Context<Config>) -> Result<Vec<(String, String)>, Stop> {
        let me = response::result(&ctx.http().get("getMe").send()?)?;
        let chat = response::result(&ctx.http().get("getChat").query("chat_id", &request::chat(ctx).to_string()).send()?)?;
        let text = |value: &serde_json::Value, name: &str| value.get(name).and_then(|text| text.as_str()).unwrap_or_default().to_owned();
        let title = [text(&chat, "title"), text(&chat, "username"), text(&chat, "first_name")];
        Ok(vec![
            ("bot".into(), format!("@{}", text(&me, "username"))),
            ("chat".into(), title.into_iter().find(|title| !title.is_empty()).unwrap_or_default()),
            ("chat type".into(), text(&chat, "type")),
        ])
    }
}

/// A text for `sendMessage`, with or without markup.
impl From<Text> for (String, Option<&'static str>) {
    fn from(text: Text) -> Self {
        match text {
            Text::Html(text) => (html::cut(&text, request::MAX_UNITS), Some("HTML")),
            Text::Plain(text) => (html::cut_plain(&text, request::MAX_UNITS), None),
        }
    }
}

leadwire_sdk::export!(Telegram);
