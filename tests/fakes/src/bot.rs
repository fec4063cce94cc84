//! A fake Bot API: the calls that a notification bot makes, with the real one's refusals.
//!
//! Delivers no updates. Start at [`BotApi::start`]; what a message needs to be accepted is in `send_message`.

mod limiter;
mod state;

use std::io::Result;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Value, json};

pub use limiter::Limits;
pub use state::{Chat, ChatState, Play};

use crate::html::{Entity, utf16_len};
use crate::journal::{Journal, lock};
use crate::wire::{self, Handler, Server, decode_form};
use crate::{Answer, Manner, Request};
use limiter::Limiter;
use state::State;

/// Milliseconds since some moment: what the limiter and `retry_after` go by.
pub type ClockFn = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A message that a chat has got.
#[derive(Clone, Debug)]
pub struct Message {
    /// Counts from 1.
    pub message_id: i64,
    /// The bot's token.
    pub token: String,
    /// Where it arrived.
    pub chat_id: i64,
    /// The topic, if one was named.
    pub message_thread_id: Option<i64>,
    /// As sent, with markup.
    pub raw: String,
    /// As people see it.
    pub text: String,
    /// The formatting.
    pub entities: Vec<Entity>,
    /// `disable_notification`.
    pub silent: bool,
    /// Every parameter of the call.
    pub params: Value,
    /// By the fake's clock.
    pub at_ms: u64,
}

/// The fake server. Takes any well-formed token and (unless [`BotApi::known_chats_only`]) any chat id.
#[derive(Debug)]
pub struct BotApi {
    server: Server,
    core: Arc<Core>,
}

struct Core {
    calls: Journal<Request>,
    messages: Journal<Message>,
    state: Mutex<State>,
    limiter: Mutex<Limiter>,
    clock: ClockFn,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}

impl BotApi {
    /// Starts on a free port, without rate limits.
    pub async fn start() -> Result<Self> {
        Self::start_on(0).await
    }

    /// Starts on this port, without rate limits.
    pub async fn start_on(port: u16) -> Result<Self> {
        let started = Instant::now();
        let clock = Arc::new(move || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
        Self::open(port, Limits::none(), clock).await
    }

    /// Starts with limits that go by `clock`.
    pub async fn start_with(limits: Limits, clock: ClockFn) -> Result<Self> {
        Self::open(0, limits, clock).await
    }

    async fn open(port: u16, limits: Limits, clock: ClockFn) -> Result<Self> {
        let core = Arc::new(Core {
            calls: Journal::new(),
            messages: Journal::new(),
            state: Mutex::default(),
            limiter: Mutex::new(Limiter::new(limits)),
            clock,
        });
        Ok(Self { server: wire::serve(core.clone(), port).await?, core })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.server.addr
    }

    /// `http://127.0.0.1:PORT`: what stands for `https://api.telegram.org`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.server.addr)
    }

    /// Sets or replaces a chat.
    pub fn set_chat(&self, id: i64, chat: Chat) {
        lock(&self.core.state).chats.insert(id, chat);
    }

    /// Refuses chats that were not set.
    pub fn known_chats_only(&self) {
        lock(&self.core.state).known_chats_only = true;
    }

    /// From now on this token is unauthorized.
    pub fn revoke(&self, token: &str) {
        lock(&self.core.state).revoked.insert(token.to_owned());
    }

    /// What happens to the next sends, one after the other.
    pub fn script(&self, plays: impl IntoIterator<Item = Play>) {
        lock(&self.core.state).plays.extend(plays);
    }

    /// The messages that arrived.
    #[must_use]
    pub fn received(&self) -> Vec<Message> {
        self.core.messages.all()
    }

    /// Waits until `count` messages have arrived and returns all.
    ///
    /// # Panics
    /// When they have not come after a minute.
    pub async fn wait_for(&self, count: usize) -> Vec<Message> {
        self.core.messages.wait_for(count).await
    }

    /// Every call, refused ones too.
    #[must_use]
    pub fn calls(&self) -> Vec<Request> {
        self.core.calls.all()
    }

    /// Waits until `count` calls of any kind have come and returns all.
    ///
    /// # Panics
    /// When they have not come after a minute.
    pub async fn wait_for_calls(&self, count: usize) -> Vec<Request> {
        self.core.calls.wait_for(count).await
    }

    /// Forgets messages and calls; chats stay.
    pub fn forget(&self) {
        self.core.messages.clear();
        self.core.calls.clear();
    }
}

impl Handler for Core {
    fn answer(&self, request: Request) -> Answer {
        let answer = self.call(&request);
        self.calls.push(request);
        answer
    }
}

impl Core {
    fn call(&self, request: &Request) -> Answer {
        let Some((token, method)) = split_path(&request.path) else { return refusal(404, "Not Found", json!({})) };
        if !well_formed(token) {
            return refusal(404, "Not Found", json!({}));
        }
        if lock(&self.state).revoked.contains(token) {
            return refusal(401, "Unauthorized", json!({}));
        }
        let params = params_of(request);
        match method.to_ascii_lowercase().as_str() {
            "getme" => success(&json!({"id": bot_id(token), "is_bot": true, "first_name": "Leads", "username": "acme_leads_bot",
                "can_join_groups": true, "can_read_all_group_messages": false, "supports_inline_queries": false})),
            "getchat" => match lock(&self.state).resolve(&params) {
                Ok((id, chat)) => success(&chat.describe(id)),
                Err(refused) => refused,
            },
            "sendmessage" => self.send_message(token, &params),
            "setwebhook" => lock(&self.state).set_webhook(token, &params),
            "deletewebhook" => lock(&self.state).delete_webhook(token),
            "getwebhookinfo" => lock(&self.state).webhook_info(token),
            "getupdates" => lock(&self.state).get_updates(token),
            _ => refusal(404, "Not Found: method not found", json!({})),
        }
    }

    fn send_message(&self, token: &str, params: &Value) -> Answer {
        let play = lock(&self.state).plays.pop_front();
        match play {
            None => self.accept(token, params),
            Some(Play::Flood { retry_after }) => {
                let chat_id = integer(&params["chat_id"]).unwrap_or_default();
                lock(&self.limiter).flood(chat_id, (self.clock)(), retry_after);
                flood(retry_after)
            }
            Some(Play::BadGateway) => bad_gateway(),
            Some(Play::Internal) => refusal(500, "Internal Server Error: restart", json!({})),
            Some(Play::Refuse { code, description }) => refusal(code, &description, json!({})),
            Some(Play::CloseBefore) => Answer::close(),
            Some(Play::CloseAfterStoring) => self.accept(token, params).manner(Manner::CloseBefore),
            Some(Play::Truncated) => {
                let mut answer = self.accept(token, params);
                answer.body.truncate(answer.body.len() / 2);
                answer
            }
            Some(Play::Held(gate)) => self.accept(token, params).held(&gate),
        }
    }

    /// What the real server checks, in its order: chat, text, topic, flood.
    fn accept(&self, token: &str, params: &Value) -> Answer {
        let (chat_id, chat) = match lock(&self.state).resolve(params) {
            Ok(found) => found,
            Err(refused) => return refused,
        };
        let raw = params["text"].as_str().unwrap_or_default();
        let parsed = match crate::html::parse(params["parse_mode"].as_str(), raw) {
            Ok(parsed) => parsed,
            Err(description) => return bad_request(&description),
        };
        if parsed.text.trim().is_empty() {
            return bad_request("message text is empty");
        }
        if utf16_len(&parsed.text) > 4096 {
            return bad_request("message is too long");
        }
        let thread = integer(&params["message_thread_id"]);
        if let Err(description) = chat.check_topic(thread) {
            return bad_request(description);
        }
        let now = (self.clock)();
        if let Err(retry_after) = lock(&self.limiter).take(token, chat_id, now) {
            return flood(retry_after);
        }
        let message_id = lock(&self.state).next_message_id();
        let result = json!({"message_id": message_id, "date": 1_763_780_000 + now / 1000, "chat": chat.describe(chat_id),
            "from": {"id": bot_id(token), "is_bot": true, "first_name": "Leads"}, "text": parsed.text,
            "entities": parsed.entities.iter().map(describe_entity).collect::<Vec<_>>()});
        self.messages.push(Message {
            message_id,
            token: token.to_owned(),
            chat_id,
            message_thread_id: thread,
            raw: raw.to_owned(),
            text: parsed.text,
            entities: parsed.entities,
            silent: truthy(&params["disable_notification"]),
            params: params.clone(),
            at_ms: now,
        });
        success(&result)
    }
}

/// `/bot{token}/{method}`, with any prefix before it, as a custom server may have.
fn split_path(path: &str) -> Option<(&str, &str)> {
    let (_, after) = path.rsplit_once("/bot")?;
    let (token, method) = after.split_once('/')?;
    Some((token, method.strip_prefix("test/").unwrap_or(method)))
}

fn well_formed(token: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    token.len() <= 80
        && token.split_once(':').is_some_and(|(id, secret)| id.parse::<u64>().is_ok() && !secret.is_empty() && secret.chars().all(allowed))
}

fn bot_id(token: &str) -> u64 {
    token.split(':').next().and_then(|id| id.parse().ok()).unwrap_or_default()
}

/// Parameters come in the query, as a form or as JSON.
fn params_of(request: &Request) -> Value {
    let mut params = serde_json::Map::new();
    let pairs = request.query.as_deref().map(decode_form).unwrap_or_default();
    let is_form = request.header("content-type").is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    let form = if is_form { request.form() } else { Vec::new() };
    for (name, value) in pairs.into_iter().chain(form) {
        params.insert(name, Value::String(value));
    }
    if let Value::Object(body) = request.json() {
        params.extend(body);
    }
    Value::Object(params)
}

pub(crate) fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

fn truthy(value: &Value) -> bool {
    value.as_bool().unwrap_or_else(|| value.as_str().is_some_and(|text| text.eq_ignore_ascii_case("true") || text == "1"))
}

fn describe_entity(entity: &Entity) -> Value {
    let mut value = json!({"type": entity.kind, "offset": entity.offset, "length": entity.length});
    if let Some(url) = &entity.url {
        value["url"] = json!(url);
    }
    value
}

pub(crate) fn success(result: &Value) -> Answer {
    Answer::ok().json(&json!({"ok": true, "result": result}))
}

pub(crate) fn bad_request(description: &str) -> Answer {
    refusal(400, &format!("Bad Request: {description}"), json!({}))
}

pub(crate) fn refusal(code: u16, description: &str, parameters: Value) -> Answer {
    let mut body = json!({"ok": false, "error_code": code, "description": description});
    if parameters.as_object().is_some_and(|parameters| !parameters.is_empty()) {
        body["parameters"] = parameters;
    }
    Answer::status(code).json(&body)
}

fn flood(retry_after: u64) -> Answer {
    refusal(429, &format!("Too Many Requests: retry after {retry_after}"), json!({"retry_after": retry_after}))
        .header("retry-after", &retry_after.to_string())
}

fn bad_gateway() -> Answer {
    let page = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><center><h1>502 Bad Gateway</h1></center></body>\r\n</html>";
    Answer::status(502).header("content-type", "text/html").body(page)
}

#[cfg(test)]
mod tests;
