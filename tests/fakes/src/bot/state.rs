//! Chats, tokens and webhooks of the fake Bot API, and what a test may let happen.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use serde_json::{Value, json};

use super::{bad_request, integer, refusal, success};
use crate::{Answer, Gate};

/// What happens to one sendMessage instead of the ordinary.
#[derive(Clone, Debug)]
pub enum Play {
    /// 429; the chat stays closed for so many seconds.
    Flood {
        /// In seconds.
        retry_after: u64,
    },
    /// 502 with the front server's HTML page; nothing is stored.
    BadGateway,
    /// 500 in JSON; nothing is stored.
    Internal,
    /// A refusal of the test's own choice.
    Refuse {
        /// HTTP status and `error_code`.
        code: u16,
        /// With the status text in front, as the real one has it.
        description: String,
    },
    /// The connection closes before the message is stored.
    CloseBefore,
    /// The message is stored, then the connection closes without an answer: a repeat is a visible duplicate.
    CloseAfterStoring,
    /// The message is stored; the answer's JSON breaks off.
    Truncated,
    /// The message is stored; the answer waits for the gate.
    Held(Gate),
}

/// A place for messages.
#[derive(Clone, Debug, Default)]
pub struct Chat {
    /// Whether and how it refuses.
    pub state: ChatState,
    /// A forum's topics; with none, naming a topic is refused.
    pub topics: BTreeSet<i64>,
    /// Topics that are there and closed.
    pub closed_topics: BTreeSet<i64>,
}

/// Whether a chat takes messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChatState {
    /// It does.
    #[default]
    Open,
    /// The group became a supergroup with this id.
    MigratedTo(i64),
    /// The user has stopped the bot.
    Blocked,
    /// The bot was thrown out of the group.
    Kicked,
    /// The account is gone.
    Deactivated,
    /// The group is gone.
    Deleted,
    /// The user never pressed start.
    NotStarted,
    /// No such chat.
    NotFound,
    /// The bot may not write there.
    Muted,
}

impl Chat {
    /// A chat in this state, without topics.
    #[must_use]
    pub fn new(state: ChatState) -> Self {
        Self { state, ..Self::default() }
    }

    /// An open forum with these topics.
    #[must_use]
    pub fn forum(topics: impl IntoIterator<Item = i64>) -> Self {
        Self { topics: topics.into_iter().collect(), ..Self::default() }
    }

    pub(super) fn check_topic(&self, thread: Option<i64>) -> Result<(), &'static str> {
        match thread {
            Some(id) if self.closed_topics.contains(&id) => Err("TOPIC_CLOSED"),
            Some(id) if !self.topics.contains(&id) => Err("message thread not found"),
            _ => Ok(()),
        }
    }

    pub(super) fn describe(&self, id: i64) -> Value {
        match id {
            1.. => json!({"id": id, "type": "private", "first_name": "Ann"}),
            ..=-1_000_000_000_000 => json!({"id": id, "type": "supergroup", "title": "Leads", "is_forum": !self.topics.is_empty()}),
            _ => json!({"id": id, "type": "group", "title": "Leads"}),
        }
    }

    fn refusal(&self) -> Option<Answer> {
        let forbidden = |what: &str| Some(refusal(403, &format!("Forbidden: {what}"), json!({})));
        match self.state {
            ChatState::Open => None,
            ChatState::MigratedTo(id) => {
                let text = "Bad Request: group chat was upgraded to a supergroup chat";
                Some(refusal(400, text, json!({"migrate_to_chat_id": id})))
            }
            ChatState::Blocked => forbidden("bot was blocked by the user"),
            ChatState::Kicked => forbidden("bot was kicked from the supergroup chat"),
            ChatState::Deactivated => forbidden("user is deactivated"),
            ChatState::Deleted => forbidden("the group chat was deleted"),
            ChatState::NotStarted => forbidden("bot can't initiate conversation with a user"),
            ChatState::NotFound => Some(bad_request("chat not found")),
            ChatState::Muted => Some(bad_request("not enough rights to send text messages to the chat")),
        }
    }
}

/// Everything a fake Bot API remembers beside messages.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) chats: HashMap<i64, Chat>,
    pub(super) known_chats_only: bool,
    pub(super) revoked: HashSet<String>,
    pub(super) plays: VecDeque<Play>,
    webhooks: HashMap<String, String>,
    last_message_id: i64,
}

impl State {
    pub(super) fn next_message_id(&mut self) -> i64 {
        self.last_message_id += 1;
        self.last_message_id
    }

    /// The chat that the call names, or the refusal.
    pub(super) fn resolve(&self, params: &Value) -> Result<(i64, Chat), Answer> {
        let named = &params["chat_id"];
        if named.is_null() || named.as_str().is_some_and(|text| text.trim().is_empty()) {
            return Err(bad_request("chat_id is empty"));
        }
        // A public name always means the same chat here.
        let id = match named.as_str().and_then(|text| text.strip_prefix('@')) {
            Some(_) => -1_001_000_000_001,
            None => integer(named).ok_or_else(|| bad_request("chat not found"))?,
        };
        match self.chats.get(&id) {
            Some(chat) => chat.refusal().map_or_else(|| Ok((id, chat.clone())), Err),
            None if self.known_chats_only => Err(bad_request("chat not found")),
            None => Ok((id, Chat::default())),
        }
    }

    pub(super) fn set_webhook(&mut self, token: &str, params: &Value) -> Answer {
        let url = params["url"].as_str().unwrap_or_default();
        let secret = params["secret_token"].as_str().unwrap_or_default();
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if secret.len() > 256 || !secret.chars().all(allowed) {
            return bad_request("secret token contains unallowed characters");
        }
        if url.is_empty() {
            return self.delete_webhook(token);
        }
        let Some(rest) = url.strip_prefix("https://") else {
            return bad_request("bad webhook: an HTTPS URL must be provided for webhook");
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let port = authority.rsplit_once(':').map_or("443", |(_, port)| port);
        if !["443", "80", "88", "8443"].contains(&port) {
            return bad_request("bad webhook: webhook can be set up only on ports 80, 88, 443 or 8443");
        }
        self.webhooks.insert(token.to_owned(), url.to_owned());
        Answer::ok().json(&json!({"ok": true, "result": true, "description": "Webhook was set"}))
    }

    pub(super) fn delete_webhook(&mut self, token: &str) -> Answer {
        self.webhooks.remove(token);
        Answer::ok().json(&json!({"ok": true, "result": true, "description": "Webhook was deleted"}))
    }

    pub(super) fn webhook_info(&self, token: &str) -> Answer {
        let url = self.webhooks.get(token).map_or("", String::as_str);
        success(&json!({"url": url, "has_custom_certificate": false, "pending_update_count": 0}))
    }

    pub(super) fn get_updates(&self, token: &str) -> Answer {
        if self.webhooks.contains_key(token) {
            let text = "Conflict: can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first";
            return refusal(409, text, json!({}));
        }
        success(&json!([]))
    }
}
