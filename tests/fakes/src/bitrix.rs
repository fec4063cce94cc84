//! A fake Bitrix24 portal: the REST calls that bring leads in, through an incoming webhook, with the real one's refusals, limits
//! and odd shapes.
//!
//! Start at [`BitrixPortal::start`]. Single sign-on of applications, events and the offline queue are not played.

mod limits;
mod methods;
mod php;
mod state;

use std::collections::VecDeque;
use std::io::Result;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

pub use limits::Limits;
pub use state::{CONTACT, DEAL, LEAD, Setup};

use crate::bot::ClockFn;
use crate::journal::{Journal, lock};
use crate::wire::{self, Handler, Server, decode_form};
use crate::{Answer, Gate, Manner, Request};
use limits::{Limiter, Operating};
use state::State;

/// Commands of one batch.
const BATCH: usize = 50;

/// What happens to one request instead of the ordinary.
#[derive(Clone, Debug)]
pub enum Play {
    /// The connection closes before anything is done.
    CloseBefore,
    /// All is done, then the connection closes without an answer: a blind repeat is a visible duplicate.
    CloseAfterDoing,
    /// All is done; the answer's JSON breaks off.
    Truncated,
    /// All is done; the answer comes one byte per interval.
    Drip(Duration),
    /// All is done; the answer waits for the gate.
    Held(Gate),
    /// 502 with the front server's HTML page; nothing is done.
    BadGateway,
    /// 403 with an HTML page; nothing is done.
    HtmlForbidden,
    /// A refusal of the test's own choice; nothing is done.
    Refuse {
        /// HTTP status.
        status: u16,
        /// May be empty, as some real ones are.
        code: String,
        /// In words.
        description: String,
    },
}

/// A refusal of a method.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    status: u16,
    code: String,
    description: String,
}

impl Refusal {
    fn new(code: &str, description: impl Into<String>) -> Self {
        Self { status: 400, code: code.into(), description: description.into() }
    }

    fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    fn body(&self) -> Value {
        json!({"error": self.code, "error_description": self.description})
    }

    fn answer(&self) -> Answer {
        Answer::status(self.status).json(&self.body())
    }
}

/// The fake server.
#[derive(Debug)]
pub struct BitrixPortal {
    server: Server,
    core: Arc<Core>,
}

struct Core {
    calls: Journal<Request>,
    setup: Mutex<Setup>,
    limits: Mutex<Limits>,
    state: Mutex<State>,
    limiter: Mutex<Limiter>,
    plays: Mutex<VecDeque<(String, Play)>>,
    broken: Mutex<Vec<Broken>>,
    clock: ClockFn,
}

/// Commands that fail although their batch is run.
#[derive(Debug)]
struct Broken {
    part: String,
    times: usize,
    refusal: Refusal,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}

impl BitrixPortal {
    /// Starts on a free port, without limits.
    pub async fn start() -> Result<Self> {
        let started = Instant::now();
        Self::start_with(Limits::none(), Arc::new(move || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX))).await
    }

    /// Starts on a free port, with limits that go by `clock` (milliseconds since 1970, where `operating_reset_at` matters).
    pub async fn start_with(limits: Limits, clock: ClockFn) -> Result<Self> {
        let core = Arc::new(Core {
            calls: Journal::new(),
            setup: Mutex::default(),
            limits: Mutex::new(limits),
            state: Mutex::default(),
            limiter: Mutex::default(),
            plays: Mutex::default(),
            broken: Mutex::default(),
            clock,
        });
        Ok(Self { server: wire::serve(core.clone(), 0).await?, core })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.server.addr
    }

    /// `http://127.0.0.1:PORT`: what stands for `https://acme.bitrix24.ru`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.server.addr)
    }

    /// The webhook's code.
    #[must_use]
    pub fn code(&self) -> String {
        lock(&self.core.setup).code.clone()
    }

    /// Changes how the portal is set up.
    pub fn setup(&self, change: impl FnOnce(&mut Setup)) {
        change(&mut lock(&self.core.setup));
    }

    /// Changes the limits.
    pub fn limits(&self, change: impl FnOnce(&mut Limits)) {
        change(&mut lock(&self.core.limits));
    }

    /// What happens to the next requests whose commands hold `part`, such as `crm.item.add?entityTypeId=2`; an empty one is any.
    pub fn script(&self, part: &str, plays: impl IntoIterator<Item = Play>) {
        lock(&self.core.plays).extend(plays.into_iter().map(|play| (part.to_owned(), play)));
    }

    /// The next `times` commands of any batch that hold `part` (in their decoded form) are refused, the others are done.
    pub fn break_commands(&self, part: &str, times: usize, code: &str, description: &str) {
        lock(&self.core.broken).push(Broken { part: part.into(), times, refusal: Refusal::new(code, description) });
    }

    /// Puts an object there as if an employee had made it; its id.
    pub fn put(&self, kind: u64, mut object: Value) -> u64 {
        let mut state = lock(&self.core.state);
        let id = state.next_id();
        object["id"] = id.into();
        if let Value::Object(object) = object {
            state.objects.entry(kind).or_default().insert(id, object);
        }
        id
    }

    /// Takes an object away.
    pub fn delete(&self, kind: u64, id: u64) {
        if let Some(objects) = lock(&self.core.state).objects.get_mut(&kind) {
            objects.remove(&id);
        }
    }

    /// All objects of a kind, in the order they were made.
    #[must_use]
    pub fn all(&self, kind: u64) -> Vec<Value> {
        lock(&self.core.state).of(kind)
    }

    /// All timeline comments.
    #[must_use]
    pub fn comments(&self) -> Vec<Value> {
        lock(&self.core.state).comments.clone()
    }

    /// Every request, refused ones too.
    #[must_use]
    pub fn calls(&self) -> Vec<Request> {
        self.core.calls.all()
    }

    /// Waits until `count` requests have come and returns all.
    ///
    /// # Panics
    /// When they have not come after a minute.
    pub async fn wait_for_calls(&self, count: usize) -> Vec<Request> {
        self.core.calls.wait_for(count).await
    }

    /// Forgets the requests; what was made stays.
    pub fn forget_calls(&self) {
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
        let setup = lock(&self.setup).clone();
        if let Some(host) = &setup.renamed_to {
            return Answer::redirect(&format!("https://{host}{}", request.path));
        }
        let method = match method_of(&request.path, &setup) {
            Ok(method) => method,
            Err(refusal) => return refusal.answer(),
        };
        let limits = *lock(&self.limits);
        if !lock(&self.limiter).take(&limits, (self.clock)()) {
            return Refusal::new("QUERY_LIMIT_EXCEEDED", "Too many requests").status(503).answer();
        }
        let params = params_of(request);
        let done = || self.done(&setup, &limits, &method, &params);
        match self.next_play(&params) {
            None => done(),
            Some(Play::CloseBefore) => Answer::close(),
            Some(Play::CloseAfterDoing) => done().manner(Manner::CloseBefore),
            Some(Play::Truncated) => {
                let mut answer = done();
                answer.body.truncate(answer.body.len() / 2);
                answer
            }
            Some(Play::Drip(pause)) => done().manner(Manner::Drip(pause)),
            Some(Play::Held(gate)) => done().held(&gate),
            Some(Play::BadGateway) => html(502, "502 Bad Gateway"),
            Some(Play::HtmlForbidden) => html(403, "403 Forbidden"),
            Some(Play::Refuse { status, code, description }) => Refusal::new(&code, description).status(status).answer(),
        }
    }

    fn next_play(&self, params: &Value) -> Option<Play> {
        let lines = params["cmd"].as_object().map(|commands| commands.values().map(php::text).collect::<Vec<_>>().join("\n"));
        let (lines, mut plays) = (lines.unwrap_or_default(), lock(&self.plays));
        let at = plays.iter().position(|(part, _)| lines.contains(part.as_str()))?;
        plays.remove(at).map(|(_, play)| play)
    }

    fn done(&self, setup: &Setup, limits: &Limits, method: &str, params: &Value) -> Answer {
        if method == "batch" {
            return match self.batch(setup, limits, params) {
                Ok(result) => Answer::ok().json(&json!({"result": result, "time": time(&Operating::default())})),
                Err(refusal) => refusal.answer(),
            };
        }
        match self.run(setup, limits, method, params) {
            Ok((answered, operating)) => {
                let mut body = json!({"result": answered.result, "time": time(&operating)});
                for (name, value) in [("next", answered.next), ("total", answered.total)] {
                    if let Some(value) = value {
                        body[name] = json!(value);
                    }
                }
                Answer::ok().json(&body)
            }
            Err(refusal) => refusal.answer(),
        }
    }

    /// Counts a method's running time and runs it.
    fn run(
        &self,
        setup: &Setup,
        limits: &Limits,
        method: &str,
        params: &Value,
    ) -> std::result::Result<(methods::Answered, Operating), Refusal> {
        let blocked = |_| Refusal::new("OPERATION_TIME_LIMIT", "Method is blocked due to operation time limit.").status(429);
        let operating = lock(&self.limiter).run(method, limits, (self.clock)()).map_err(blocked)?;
        Ok((methods::run(setup, &mut lock(&self.state), method, params)?, operating))
    }

    /// Commands one after the other; each can refer to the results before it.
    fn batch(&self, setup: &Setup, limits: &Limits, params: &Value) -> std::result::Result<Value, Refusal> {
        let Some(commands) = params["cmd"].as_object() else { return Err(Refusal::new("", "Parameter 'cmd' must be array.")) };
        if commands.len() > BATCH {
            return Err(Refusal::new("ERROR_BATCH_LENGTH_EXCEEDED", "Max batch length exceeded"));
        }
        let halt = ["1", "true"].contains(&php::text(&params["halt"]).as_str());
        let (mut results, mut errors, mut times) = (Map::new(), Map::new(), Map::new());
        let (mut nexts, mut totals) = (Map::new(), Map::new());
        for (name, line) in commands {
            let line = php::text(line);
            let (method, query) = line.split_once('?').unwrap_or((&line, ""));
            let mut inner = php::parse(query);
            php::resolve(&mut inner, &results);
            let outcome = if method.eq_ignore_ascii_case("batch") {
                Err(Refusal::new("ERROR_BATCH_METHOD_NOT_ALLOWED", "Method is not allowed for batch usage"))
            } else {
                self.breaks(method, &inner).map_or_else(|| self.run(setup, limits, method, &inner), Err)
            };
            match outcome {
                Ok((answered, operating)) => {
                    results.insert(name.clone(), answered.result);
                    times.insert(name.clone(), time(&operating));
                    nexts.extend(answered.next.map(|next| (name.clone(), json!(next))));
                    totals.extend(answered.total.map(|total| (name.clone(), json!(total))));
                }
                Err(refusal) => {
                    errors.insert(name.clone(), refusal.body());
                    if halt {
                        break;
                    }
                }
            }
        }
        let shown = |map: Map<String, Value>| if map.is_empty() { json!([]) } else { Value::Object(map) };
        Ok(json!({"result": shown(results), "result_error": shown(errors), "result_total": shown(totals), "result_next": shown(nexts),
            "result_time": shown(times)}))
    }

    fn breaks(&self, method: &str, params: &Value) -> Option<Refusal> {
        let line = format!("{method} {params}");
        let mut broken = lock(&self.broken);
        let found = broken.iter_mut().find(|broken| broken.times > 0 && line.contains(&broken.part))?;
        found.times -= 1;
        Some(found.refusal.clone())
    }
}

/// `/rest/{user}/{code}/{method}`, with or without the format after it.
fn method_of(path: &str, setup: &Setup) -> std::result::Result<String, Refusal> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["rest", user, code, method] => {
            let known = !setup.code.is_empty() && *code == setup.code && *user == setup.user_id.to_string();
            let method = method.strip_suffix(".json").unwrap_or(method);
            known
                .then(|| method.to_lowercase())
                .ok_or_else(|| Refusal::new("INVALID_CREDENTIALS", "Invalid request credentials").status(401))
        }
        _ => Err(Refusal::new("ERROR_METHOD_NOT_FOUND", "Method not found!").status(404)),
    }
}

/// JSON, a form, or the query: text in a query is encoded once more, which its decoding has undone.
fn params_of(request: &Request) -> Value {
    if let Value::Object(body) = request.json() {
        return Value::Object(body);
    }
    let query = request.query.clone().unwrap_or_default();
    let form = if decode_form(&request.text()).is_empty() { query } else { format!("{query}&{}", request.text()) };
    php::parse(&form)
}

fn time(operating: &Operating) -> Value {
    json!({"start": 0.0, "finish": 0.0, "duration": 0.1, "processing": 0.1, "date_start": "2026-11-22T10:00:00+03:00",
        "date_finish": "2026-11-22T10:00:00+03:00", "operating_reset_at": operating.reset_at_ms / 1000, "operating": operating.used_s})
}

fn html(status: u16, title: &str) -> Answer {
    let page = format!("<html>\r\n<head><title>{title}</title></head>\r\n<body><center><h1>{title}</h1></center></body>\r\n</html>");
    Answer::status(status).header("content-type", "text/html").body(page)
}

#[cfg(test)]
mod tests;
