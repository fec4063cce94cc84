//! A fake amoCRM account: contacts, companies, leads with their notes and tasks, and the real one's moods.
//!
//! Plays what a plugin with a long-lived token meets: searches that find too much or not yet, batches of which some are
//! refused, limits and the block behind them, answers that are lost after the work. No OAuth and no webhooks.
//! Start at [`AmoCrm::start`]; how a lead is made is in `write`.

mod read;
mod state;
mod write;

use std::io::Result;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use state::Limits;

use crate::bot::ClockFn;
use crate::journal::{Journal, lock};
use crate::wire::{self, Handler, Server};
use crate::{Answer, Gate, Manner, Request};
use state::State;

/// What happens to one request.
#[derive(Clone, Debug)]
pub enum Play {
    /// 429, with `Retry-After` in seconds or without.
    TooMany(Option<u32>),
    /// 502 as an HTML page; nothing was done.
    BadGateway,
    /// 504; nothing was done.
    GatewayTimeout,
    /// 400 that names no item.
    Refuse(&'static str),
    /// 403 as JSON.
    Forbidden,
    /// Closed before anything was done.
    CloseBefore,
    /// Done, then closed without an answer.
    CloseAfterDoing,
    /// Done, then 502.
    BadGatewayAfterDoing,
    /// Done, then half of the answer with status 200.
    TruncatedAfterDoing,
    /// Done; the answer comes byte by byte, one per so much time.
    Drip(Duration),
    /// Done; the answer waits for the test.
    Held(Gate),
}

/// The fake account. Takes any token that was not revoked.
#[derive(Debug)]
pub struct AmoCrm {
    server: Server,
    core: Arc<Core>,
}

struct Core {
    calls: Journal<Request>,
    state: Mutex<State>,
    clock: ClockFn,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}

impl AmoCrm {
    /// Starts on a free port, without limits.
    pub async fn start() -> Result<Self> {
        Self::start_on(0).await
    }

    /// Starts on this port, without limits.
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
        let core = Arc::new(Core { calls: Journal::new(), state: Mutex::new(State::new(limits)), clock });
        Ok(Self { server: wire::serve(core.clone(), port).await?, core })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.server.addr
    }

    /// `http://127.0.0.1:PORT`: what stands for `https://SUBDOMAIN.amocrm.ru`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.server.addr)
    }

    /// What happens to the next requests whose path ends with `path`, one after the other.
    pub fn script(&self, path: &str, plays: impl IntoIterator<Item = Play>) {
        lock(&self.core.state).plays.entry(path.to_owned()).or_default().extend(plays);
    }

    /// A contact with this name, telephone number and further fields by code; its id.
    pub fn add_contact(&self, name: &str, phone: &str, more: &[(&str, &str)]) -> u64 {
        lock(&self.core.state).add_contact(name, phone, more)
    }

    /// Deletes a contact.
    pub fn delete_contact(&self, id: u64) {
        lock(&self.core.state).contacts.remove(&id);
    }

    /// A field of `leads`, `contacts` or `companies`; a choice has options. Its id.
    pub fn add_field(&self, entity: &str, kind: &str, code: Option<&str>, options: &[&str]) -> u64 {
        lock(&self.core.state).add_field(entity, kind, code, options)
    }

    /// Removes a field by its code.
    pub fn remove_field(&self, entity: &str, code: &str) {
        if let Some(fields) = lock(&self.core.state).fields.get_mut(entity) {
            fields.retain(|field| field["code"] != code);
        }
    }

    /// From now on this token is not accepted.
    pub fn revoke(&self, token: &str) {
        lock(&self.core.state).revoked.insert(token.to_owned());
    }

    /// Whether the account is not paid for.
    pub fn unpaid(&self, unpaid: bool) {
        lock(&self.core.state).unpaid = unpaid;
    }

    /// Whether every request is answered with an HTML page and 403.
    pub fn block(&self, blocked: bool) {
        lock(&self.core.state).blocked = blocked;
    }

    /// The account was renamed: every request is redirected to this host.
    pub fn move_to(&self, host: &str) {
        lock(&self.core.state).moved_to = Some(host.to_owned());
    }

    /// Whether filters work; without them the lists come whole. They do at first.
    pub fn filters(&self, on: bool) {
        lock(&self.core.state).filters = on;
    }

    /// Whether the search finds what is made from now on. It does at first.
    pub fn indexes(&self, on: bool) {
        lock(&self.core.state).index(on);
    }

    /// Whether the sound leads of a refused request are saved all the same. They are not at first.
    pub fn saves_the_sound(&self, saves: bool) {
        lock(&self.core.state).saves_the_sound = saves;
    }

    /// More leads than this in one request are answered 504.
    pub fn chokes_on(&self, more_than: usize) {
        lock(&self.core.state).chokes_on = Some(more_than);
    }

    /// Whether a new lead of a contact that has one is merged into that.
    pub fn merges(&self, merges: bool) {
        lock(&self.core.state).merges = merges;
    }

    /// The rights of the token's owner, as `GET /users/{id}` shows them; `None`: only administrators may read them.
    pub fn rights(&self, rights: Option<Value>) {
        lock(&self.core.state).rights = rights;
    }

    /// The leads, oldest first, those that wait among the incoming ones too.
    #[must_use]
    pub fn leads(&self) -> Vec<Value> {
        lock(&self.core.state).leads.values().cloned().collect()
    }

    /// The contacts, oldest first.
    #[must_use]
    pub fn contacts(&self) -> Vec<Value> {
        lock(&self.core.state).contacts.values().cloned().collect()
    }

    /// The companies, oldest first.
    #[must_use]
    pub fn companies(&self) -> Vec<Value> {
        lock(&self.core.state).companies.values().cloned().collect()
    }

    /// The notes, oldest first.
    #[must_use]
    pub fn notes(&self) -> Vec<Value> {
        lock(&self.core.state).notes.clone()
    }

    /// The tasks, oldest first.
    #[must_use]
    pub fn tasks(&self) -> Vec<Value> {
        lock(&self.core.state).tasks.clone()
    }

    /// Requests that were too many for a second, so far.
    #[must_use]
    pub fn too_many(&self) -> u32 {
        lock(&self.core.state).limiter.refused
    }

    /// Every request, refused ones too.
    #[must_use]
    pub fn calls(&self) -> Vec<Request> {
        self.core.calls.all()
    }

    /// The requests so far, as `POST leads/complex`.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.calls().iter().map(|call| format!("{} {}", call.method, short(&call.path))).collect()
    }

    /// Waits until `count` requests have come and returns all.
    ///
    /// # Panics
    /// When they have not come after a minute.
    pub async fn wait_for_calls(&self, count: usize) -> Vec<Request> {
        self.core.calls.wait_for(count).await
    }

    /// Forgets the requests; what they made stays.
    pub fn forget(&self) {
        self.core.calls.clear();
    }
}

/// The path below the API's version.
fn short(path: &str) -> &str {
    path.strip_prefix("/api/v4/").unwrap_or(path)
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
        let now = (self.clock)();
        let mut state = lock(&self.state);
        if state.blocked || !state.limiter.passes(now) && state.limiter.exhausted() {
            state.blocked = true;
            return page(403, "403 Forbidden");
        }
        if let Some(host) = &state.moved_to {
            return Answer::status(301).header("location", &format!("https://{host}{}", request.path));
        }
        if state.limiter.over {
            return too_many(None);
        }
        let token = request.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        if token.is_empty() || state.revoked.contains(token) {
            return problem(401, "Unauthorized", "Token has been revoked", &[]);
        }
        if state.unpaid {
            return problem(402, "Payment Required", "Account is not paid", &[]);
        }
        let path = short(&request.path);
        let play = state.plays.iter_mut().find(|(suffix, plays)| path.ends_with(suffix.as_str()) && !plays.is_empty());
        match play.and_then(|(_, plays)| plays.pop_front()) {
            None => state.handle(request, path, now),
            Some(Play::TooMany(after)) => too_many(after),
            Some(Play::BadGateway) => page(502, "502 Bad Gateway"),
            Some(Play::GatewayTimeout) => page(504, "504 Gateway Time-out"),
            Some(Play::Refuse(detail)) => problem(400, "Bad Request", detail, &[]),
            Some(Play::Forbidden) => problem(403, "Forbidden", "Доступ запрещен", &[]),
            Some(Play::CloseBefore) => Answer::close(),
            Some(Play::CloseAfterDoing) => state.handle(request, path, now).manner(Manner::CloseBefore),
            Some(Play::BadGatewayAfterDoing) => {
                state.handle(request, path, now);
                page(502, "502 Bad Gateway")
            }
            Some(Play::TruncatedAfterDoing) => {
                let mut answer = state.handle(request, path, now);
                answer.body.truncate(answer.body.len() / 2);
                answer
            }
            Some(Play::Drip(pause)) => state.handle(request, path, now).manner(Manner::Drip(pause)),
            Some(Play::Held(gate)) => state.handle(request, path, now).held(&gate),
        }
    }
}

fn too_many(after: Option<u32>) -> Answer {
    let answer = problem(429, "Too Many Requests", "", &[]);
    after.map_or_else(|| answer.clone(), |seconds| answer.clone().header("retry-after", &seconds.to_string()))
}

/// As the server in front of the API answers.
fn page(status: u16, words: &str) -> Answer {
    let page = format!(
        "<html>\r\n<head><title>{words}</title></head>\r\n<body><center><h1>{words}</h1></center><hr><center>nginx</center></body>\r\n</html>"
    );
    Answer::status(status).header("content-type", "text/html").body(page)
}

/// One refused field: the item's number, code, path, words.
type Refusal = (String, &'static str, String, String);

fn problem(status: u16, title: &str, detail: &str, errors: &[Refusal]) -> Answer {
    let mut body = json!({"title": title, "type": format!("https://httpstatus.es/{status}"), "status": status, "detail": detail});
    let mut items: Vec<Value> = Vec::new();
    for (request, code, path, words) in errors {
        let error = json!({"code": code, "path": path, "detail": words});
        match items.iter_mut().find(|item| item["request_id"] == request.as_str()) {
            Some(item) => item["errors"].as_array_mut().into_iter().for_each(|list| list.push(error.clone())),
            None => items.push(json!({"request_id": request, "errors": [error]})),
        }
    }
    if !items.is_empty() {
        body["validation-errors"] = json!(items);
    }
    Answer::status(status).header("content-type", "application/problem+json").body(body.to_string())
}

/// A list as amoCRM writes it; an empty one is 204 without a body.
fn list(name: &str, entities: &[Value], more: bool) -> Answer {
    if entities.is_empty() {
        return Answer::status(204);
    }
    let mut links = json!({"self": {"href": "https://acme.amocrm.ru/api/v4/"}});
    if more {
        links["next"] = json!({"href": "https://acme.amocrm.ru/api/v4/?page=2"});
    }
    hal(200, &json!({"_page": 1, "_links": links, "_embedded": {name: entities}}))
}

fn hal(status: u16, body: &Value) -> Answer {
    Answer::status(status).header("content-type", "application/hal+json").body(body.to_string())
}

#[cfg(test)]
mod tests;
