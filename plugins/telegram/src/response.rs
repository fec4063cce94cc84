//! What Telegram answers, and what follows from it.

use leadwire_sdk::{Item, Outcome, Stop, Verdict, http::Response};
use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Envelope {
    ok: bool,
    result: Value,
    error_code: Option<u16>,
    description: String,
    parameters: Parameters,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Parameters {
    retry_after: Option<u32>,
    migrate_to_chat_id: Option<i64>,
}

/// An answer, understood.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) meaning: Meaning,
    /// What Telegram said, for the admin.
    pub(crate) text: String,
    status: u16,
}

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    Sent {
        message: i64,
        chat: i64,
    },
    /// The group has this number now.
    Moved(i64),
    /// The text's markup cannot be read.
    BadMarkup,
    /// The topic is gone or closed.
    NoThread,
    /// Too many messages; milliseconds.
    Flood(Option<u32>),
    /// The token is wrong or revoked.
    BadToken,
    /// The bot cannot reach the chat.
    NoChat,
    /// Not an address of the Bot API.
    NoMethod,
    /// Something about this message.
    Refused,
    /// Telegram is in trouble; milliseconds.
    Trouble(Option<u32>),
    /// 200, but nothing that could be understood.
    Unreadable,
}

impl Reply {
    pub(crate) fn read(answer: &Response) -> Self {
        let Ok(envelope) = answer.json::<Envelope>() else {
            let meaning = match answer.status {
                200..=299 => Meaning::Unreadable,
                status => by_status(status, answer.retry_after()),
            };
            return Self { meaning, text: answer.summary(), status: answer.status };
        };
        let status = if answer.is_success() { envelope.error_code.unwrap_or(answer.status) } else { answer.status };
        let text = if envelope.description.is_empty() { answer.summary() } else { envelope.description.clone() };
        Self { meaning: meaning(&envelope, status, answer), text, status }
    }
}

fn meaning(envelope: &Envelope, status: u16, answer: &Response) -> Meaning {
    if envelope.ok && answer.is_success() {
        let message = envelope.result.get("message_id").and_then(Value::as_i64);
        let chat = envelope.result.pointer("/chat/id").and_then(Value::as_i64);
        return match message {
            Some(message) => Meaning::Sent { message, chat: chat.unwrap_or_default() },
            None => Meaning::Unreadable,
        };
    }
    if let Some(chat) = envelope.parameters.migrate_to_chat_id {
        return Meaning::Moved(chat);
    }
    let description = envelope.description.to_lowercase();
    let says = |part: &str| description.contains(part);
    match status {
        400 if says("can't parse entities") || says("can't find end of") || says("unsupported start tag") => Meaning::BadMarkup,
        400 if says("thread not found") || says("topic_closed") || says("topic_deleted") => Meaning::NoThread,
        400 if says("chat not found") || says("chat_id is empty") => Meaning::NoChat,
        429 => Meaning::Flood(envelope.parameters.retry_after.map(|s| s.saturating_mul(1000)).or_else(|| answer.retry_after())),
        // `ok: false` without a code of its own.
        200..=299 => Meaning::Unreadable,
        _ => by_status(status, answer.retry_after()),
    }
}

fn by_status(status: u16, retry_after: Option<u32>) -> Meaning {
    match status {
        401 => Meaning::BadToken,
        403 => Meaning::NoChat,
        404 => Meaning::NoMethod,
        429 => Meaning::Flood(retry_after),
        500.. => Meaning::Trouble(retry_after),
        _ => Meaning::Refused,
    }
}

/// The outcome of an answer that has no remedy (left).
pub(crate) fn outcome(item: &Item, meaning: Meaning, reply: &Reply) -> Outcome {
    let code = format!("telegram_{}", reply.status);
    let text = reply.text.clone();
    match meaning {
        Meaning::Sent { .. } => Ok(Verdict::delivered()),
        Meaning::Flood(after_ms) => Err(Stop::rate_limited(after_ms)),
        Meaning::BadToken => Err(Stop::credential_invalid(format!("the bot token is wrong or was revoked: {text}"))),
        Meaning::NoMethod => Err(Stop::misconfigured(format!("no such bot; check the form of the token: {text}"))),
        Meaning::NoChat => {
            item.settle(&Verdict::rejected("chat_unreachable", text.clone()));
            Err(Stop::credential_invalid(format!("the bot cannot write to the chat: {text}")))
        }
        Meaning::Trouble(after_ms) => Ok(Verdict::retry(&code, text).after(after_ms).maybe_sent(true)),
        Meaning::Unreadable => Ok(Verdict::retry("answer_unreadable", text).maybe_sent(true)),
        Meaning::Moved(_) | Meaning::BadMarkup | Meaning::NoThread | Meaning::Refused => Ok(Verdict::rejected(&code, text)),
    }
}

/// The result of a method that only reads.
pub(crate) fn result(answer: &Response) -> Result<Value, Stop> {
    if let Ok(Envelope { ok: true, result, .. }) = answer.json::<Envelope>() {
        return Ok(result);
    }
    let Reply { meaning, text, .. } = Reply::read(answer);
    Err(match meaning {
        Meaning::Flood(after_ms) => Stop::rate_limited(after_ms),
        Meaning::Trouble(after_ms) => Stop::unavailable(after_ms),
        Meaning::BadToken => Stop::credential_invalid(format!("the bot token is wrong or was revoked: {text}")),
        Meaning::NoChat => Stop::credential_invalid(format!("the bot cannot see the chat: {text}")),
        Meaning::NoMethod => Stop::misconfigured(format!("no such bot; check the form of the token: {text}")),
        Meaning::Moved(chat) => Stop::misconfigured(format!("the group became a supergroup; enter its new number {chat}")),
        Meaning::Unreadable => Stop::internal(text),
        _ => Stop::misconfigured(text),
    })
}
