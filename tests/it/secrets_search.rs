//! A promise: after a full run, good and bad, no secret stands anywhere in clear: not in the data folder, not in a log line,
//! not in an answer of the API; and no phone or e-mail of a lead stands in a log line.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use aho_corasick::AhoCorasick;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use leadwire_fakes::bot::Play;
use leadwire_fakes::smtp::{Act, Settings, Stage};
use leadwire_fakes::{Answer, BotApi, HttpSink, SmtpReceiver};
use leadwire_tests::client;
use leadwire_tests::process::{Place, Process};
use serde_json::{Value, json};

const SIGNING: &str = "whsec_c2lnbmluZy1zZWNyZXQ/b2Z+dGhpcy1ydW4+MDAwMDE=";
const SIGNING_OLD: &str = "whsec_b2xkLXNpZ25pbmctc2VjcmV0P29mfnRoaXMtcnVuMDI=";
const AUTHORIZATION: &str = "Bearer Zx9 Authorization+of/this=run&\"quoted\"";
const BOT_TOKEN: &str = "7301946528:AAGxq0Uu-bot_token_of_this_run_0001";
const BOT_TOKEN_BAD: &str = "7301946528:AAGxq0Uu-bot_token_revoked_0002";
const SMTP_PASSWORD: &str = "Smtp?Password/of this+run=Ж03";
const SMTP_PASSWORD_BAD: &str = "Smtp?Wrong/Password+of=run04";
const CALLBACK: &str = "whsec_Y2FsbGJhY2stc2VjcmV0P29mfnRoaXMtcnVuMDc=";
const CALLBACK_OLD: &str = "whsec_b2xkLWNhbGxiYWNrLXNlY3JldH5ydW4tMDg5OTk=";
const INLINE_TOKEN: &str = "7301946528:AAGxq0Uu-bot_token_of_one_send_09";
/// Sent where it does not belong.
const MISPLACED: &str = "misplaced-secret-of-this-run-0005";
const PHONE: &str = "+7 916 555-43-21";
const EMAIL: &str = "ivan.petrov.0006@lead-mail.example";

/// Secrets in every form in which they could lie about, searched for in one pass.
struct Wanted {
    automaton: AhoCorasick,
    /// The name of each form.
    names: Vec<&'static str>,
}

impl Wanted {
    fn new(secrets: &[(&'static str, &str)]) -> Self {
        let (mut all, mut names) = (Vec::new(), Vec::new());
        for (name, text) in secrets {
            let mut forms = Vec::new();
            spell(text.as_bytes(), &mut forms);
            // What the signature is made with, and the part of a header that matters.
            if let Some(key) = text.strip_prefix("whsec_") {
                spell(key.as_bytes(), &mut forms);
                spell(&STANDARD.decode(key).unwrap(), &mut forms);
            }
            if let Some(rest) = text.strip_prefix("Bearer ") {
                spell(rest.as_bytes(), &mut forms);
            }
            // The master key's own bytes.
            if *name == "master.key" {
                let raw = STANDARD.decode(text).or_else(|_| hex::decode(text).map_err(|_| ())).unwrap();
                spell(&raw, &mut forms);
            }
            names.extend(vec![*name; forms.len()]);
            all.extend(forms);
        }
        Self { automaton: AhoCorasick::new(all).unwrap(), names }
    }

    /// The first find of a secret other than `own`.
    fn found_in(&self, bytes: &[u8], own: &str) -> Option<String> {
        let found = self.automaton.find_overlapping_iter(bytes).find(|found| self.names[found.pattern()] != own)?;
        Some(format!("{} as {:?}", self.names[found.pattern()], String::from_utf8_lossy(&bytes[found.range()])))
    }
}

/// Plain, base64 at each of the three places it may have in other text, hex, URL-encoded, and escaped as JSON.
fn spell(plain: &[u8], forms: &mut Vec<Vec<u8>>) {
    forms.push(plain.to_vec());
    for engine in [STANDARD, URL_SAFE] {
        for offset in 0..3 {
            let padded = [vec![0; offset], plain.to_vec()].concat();
            let text = engine.encode(&padded);
            // The first and last characters depend on the neighbours.
            let from = [0, 2, 3][offset];
            let to = text.trim_end_matches('=').len() - 1;
            forms.push(text.as_bytes()[from..to].to_vec());
        }
    }
    let hex = hex::encode(plain);
    forms.extend([hex.to_uppercase().into_bytes(), hex.into_bytes()]);
    let percent: String =
        plain
            .iter()
            .map(|byte| {
                if byte.is_ascii_alphanumeric() || b"-_.~".contains(byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }
            })
            .collect();
    forms.extend([percent.to_lowercase().into_bytes(), percent.replace("%20", "+").into_bytes(), percent.into_bytes()]);
    if let Ok(text) = std::str::from_utf8(plain) {
        let json = json!(text).to_string();
        forms.push(json.as_bytes()[1..json.len() - 1].to_vec());
    }
}

/// The API, with every answer kept.
struct Api<'a> {
    host: &'a Process,
    client: reqwest::Client,
    key: String,
    answers: &'a Mutex<Vec<(String, String)>>,
}

impl Api<'_> {
    async fn send(&self, request: reqwest::RequestBuilder, keep: bool) -> (u16, Value) {
        let request = request.build().unwrap();
        let label = format!("{} {}", request.method(), request.url().path());
        let response = self.client.execute(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), format!("{:?}", response.headers()));
        let text = response.text().await.unwrap();
        if keep {
            self.answers.lock().unwrap().push((format!("{label} → {status}"), format!("{headers}\n{text}")));
        }
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method.parse().unwrap(), self.host.url(path)).header("x-api-key", &self.key)
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.send(self.request("GET", path), true).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.send(self.request(method, path).json(&body), true).await
    }

    async fn text(&self, method: &str, path: &str, body: &str) -> u16 {
        self.send(self.request(method, path).header("content-type", "application/json").body(body.to_owned()), true).await.0
    }

    async fn enable(&self, channel: &str, config: Value, secrets: Value) -> String {
        let body = json!({"channel": channel, "name": channel, "config": config, "secrets": secrets, "retry": {"tries": 1, "base_ms": 1, "max_ms": 1}});
        let (status, body) = self.ask("POST", "/api/projects/ext:shop/credentials", body).await;
        assert_eq!(status, 201, "{body}");
        body["id"].as_str().unwrap().to_owned()
    }

    /// Sends a lead to these credentials and waits until all is over, or for a while when a lane is held up.
    async fn lead(&self, name: &str, to: &[(&str, &str)]) -> Value {
        let integrations: Vec<_> = to.iter().map(|(channel, id)| json!({"type": channel, "credential_id": id})).collect();
        let lead = json!({"project": "ext:shop", "name": name, "phone": PHONE, "email": EMAIL, "integrations": integrations});
        let (status, body) = self.send(self.request("POST", "/api/leads").header("prefer", "wait=5").json(&lead), true).await;
        assert!(matches!(status, 200 | 202), "{body}");
        body
    }
}

struct Peers {
    sink: HttpSink,
    bot: BotApi,
    smtp: SmtpReceiver,
}

impl Peers {
    async fn start() -> Self {
        let login = Settings::with_login("leads@shop.example", SMTP_PASSWORD);
        let smtp = SmtpReceiver::start_with(login).await.unwrap();
        Self { sink: HttpSink::start().await.unwrap(), bot: BotApi::start().await.unwrap(), smtp }
    }

    fn mail_config(&self) -> Value {
        json!({"host": "127.0.0.1", "port": self.smtp.addr().port(), "tls": "none", "username": "leads@shop.example", "from": "leads@shop.example", "to": ["sales@shop.example"]})
    }
}

/// An answer that gives everything back that the receiver has of this credential, spelt in its own ways.
fn echo(status: u16) -> Answer {
    let token = AUTHORIZATION.strip_prefix("Bearer ").unwrap();
    let all = [SIGNING, SIGNING_OLD, AUTHORIZATION, token];
    let coded: Vec<_> = all.iter().flat_map(|text| [STANDARD.encode(text), hex::encode(text)]).collect();
    Answer::status(status)
        .header("x-echo", AUTHORIZATION)
        .header("x-echo-token", token)
        .json(&json!({"error": "these do not fit", "got": all, "coded": coded}))
}

/// Deliveries that end well and badly on all three channels.
async fn deliveries(api: &Api<'_>, peers: &Peers) -> Vec<String> {
    let hook = api
        .enable(
            "webhook",
            json!({"url": peers.sink.url("/hook")}),
            json!({"signing_secret": SIGNING, "signing_secret_previous": SIGNING_OLD, "authorization": AUTHORIZATION}),
        )
        .await;
    let chat = api.enable("telegram", json!({"chat_id": 42}), json!({"bot_token": BOT_TOKEN})).await;
    let mail = api.enable("email", peers.mail_config(), json!({"password": SMTP_PASSWORD})).await;
    let all = [("webhook", hook.as_str()), ("telegram", chat.as_str()), ("email", mail.as_str())];

    let sent = api.lead("All goes well", &all).await;
    assert_eq!(sent["status"], "completed", "{sent}");
    assert_eq!(peers.sink.received()[0].header("authorization"), Some(AUTHORIZATION));
    assert_eq!(peers.smtp.received()[0].user.as_deref(), Some("leads@shop.example"));

    peers.sink.script([echo(200), echo(422), echo(500), Answer::redirect(&peers.sink.url(&format!("/{MISPLACED}")))]);
    peers.bot.script([Play::Refuse { code: 400, description: format!("no: bot{BOT_TOKEN}") }]);
    peers.smtp.script(Stage::Rcpt, [Act::reply(&format!("550 5.1.1 nobody here; {SMTP_PASSWORD}"))]);
    for name in ["Echo of 200", "Echo of 422", "Echo of 500", "Redirect"] {
        api.lead(name, &all).await;
    }
    // A receiver that is not there.
    let gone = api.enable("webhook", json!({"url": "http://127.0.0.1:9/x"}), json!({"authorization": AUTHORIZATION})).await;
    let refused = api.lead("Nobody there", &[("webhook", &gone)]).await;
    assert_eq!(refused["status"], "failed", "{refused}");

    // Secrets that the remote side does not take.
    peers.bot.revoke(BOT_TOKEN_BAD);
    let bad_chat = api.enable("telegram", json!({"chat_id": 43}), json!({"bot_token": BOT_TOKEN_BAD})).await;
    let bad_mail = api.enable("email", peers.mail_config(), json!({"password": SMTP_PASSWORD_BAD})).await;
    peers.smtp.script(Stage::Auth, [Act::reply(&format!("535 5.7.8 wrong password {SMTP_PASSWORD_BAD}"))]);
    for id in [&bad_mail, &bad_chat, &hook, &chat, &mail, &gone] {
        api.ask("POST", &format!("/api/credentials/{id}/check"), json!({})).await;
    }
    vec![hook, chat, mail, gone, bad_chat, bad_mail]
}

/// Secrets of single sends, and of the project's callbacks.
async fn sends(api: &Api<'_>, peers: &Peers) {
    for secret in [CALLBACK_OLD, CALLBACK] {
        let (status, answer) = api.ask("POST", "/api/projects/ext:shop/callback-secret", json!({"secret": secret})).await;
        assert_eq!(status, 200, "{answer}");
    }
    let told = peers.sink.received().len();
    peers.bot.script([Play::Refuse { code: 400, description: format!("no: bot{INLINE_TOKEN}") }]);
    peers.sink.always_for("/told", Answer::ok().body(format!("{CALLBACK} {CALLBACK_OLD}")));
    for name in ["Refused", "Taken"] {
        let body = json!({"project": "ext:shop", "lead": {"name": name, "phone": PHONE}, "integrations": ["telegram"],
            "credentials": {"telegram": {"config": {"chat_id": 44}, "secrets": {"bot_token": INLINE_TOKEN}}},
            "callbacks": {"finally": [{"url": peers.sink.url("/told")}]}});
        let request = api.request("POST", "/api/integrations/send-batch").header("prefer", "wait=5").header("idempotency-key", name);
        let (status, sent) = api.send(request.json(&body), true).await;
        assert!(matches!(status, 200 | 202), "{sent}");
    }
    peers.sink.wait_for(told + 2).await;
    for wrong in [json!({"bot_token": MISPLACED}), json!({"bot_tokken": INLINE_TOKEN}), json!(INLINE_TOKEN), json!([INLINE_TOKEN])] {
        let body = json!({"project": "ext:shop", "lead": {"name": "x"}, "credentials": {"telegram": {"config": {"chat_id": 1}, "secrets": wrong}}});
        let (status, answer) = api.ask("POST", "/api/integrations/send-batch", body).await;
        assert_eq!(status, 422, "{answer}");
    }
    for wrong in [json!({"secret": MISPLACED}), json!({"secret": [CALLBACK]}), json!({"secrets": CALLBACK})] {
        let (status, answer) = api.ask("POST", "/api/projects/ext:shop/callback-secret", wrong).await;
        assert_eq!(status, 422, "{answer}");
    }
}

/// Secrets where they do not belong, and requests that are wrong in other ways.
async fn mistakes(api: &Api<'_>, hook: &str, chat: &str) {
    let path = "/api/projects/ext:shop/credentials";
    let credential = |config: Value, secrets: Value| json!({"channel": "telegram", "name": "x", "config": config, "secrets": secrets});
    for body in [
        credential(json!({"chat_id": 1, "bot_token": MISPLACED}), json!({"bot_token": BOT_TOKEN})),
        credential(json!({"chat_id": {"a": MISPLACED}}), json!({"bot_token": BOT_TOKEN})),
        credential(json!({"chat_id": 1, "on_doubt": MISPLACED}), json!({"bot_token": BOT_TOKEN})),
        credential(json!({"chat_id": 1}), json!({"bot_token": MISPLACED})),
        credential(json!({"chat_id": 1}), json!({"bot_tokken": BOT_TOKEN})),
        credential(json!({"chat_id": 1}), json!(BOT_TOKEN)),
        credential(json!({"chat_id": 1}), json!([BOT_TOKEN])),
        credential(json!({"chat_id": 1}), json!({"bot_token": {"value": BOT_TOKEN}})),
        credential(json!(BOT_TOKEN), json!({})),
        json!({"channel": "webhook", "config": {"url": format!("https://user:{MISPLACED}@example.com/")}}),
        json!({"channel": "webhook", "config": {"url": "https://example.com/"}, "secrets": {"signing_secret": MISPLACED}}),
        json!({"channel": "webhook", "config": {"url": "https://example.com/", "method": MISPLACED}}),
        json!({"channel": "webhook", "enabled": MISPLACED}),
        json!(BOT_TOKEN),
    ] {
        let (status, answer) = api.ask("POST", path, body).await;
        assert!((400..500).contains(&status), "{status} {answer}");
    }
    // (An unknown channel's name and a filter's text are quoted: they are no place for a value.)
    // Cut off, and not even JSON.
    for body in
        [format!("{{\"secrets\": {{\"bot_token\": \"{BOT_TOKEN}\""), format!("bot_token={BOT_TOKEN}"), format!("{{\"a\": {BOT_TOKEN}}}")]
    {
        assert_eq!(api.text("POST", path, &body).await, 400);
    }
    for (method, id, body) in [
        ("PATCH", hook, json!({"secrets": {"signing_secret": format!("whsec_{MISPLACED}")}})),
        ("PATCH", chat, json!({"secrets": {"bot_token": MISPLACED}})),
        ("PATCH", chat, json!({"secrets": MISPLACED})),
    ] {
        let (status, answer) = api.ask(method, &format!("/api/credentials/{id}"), body).await;
        assert_eq!(status, 422, "{answer}");
    }
    // A key that nobody knows, in each place where a key may stand.
    for (name, value) in [("x-api-key", format!("lw_{MISPLACED}")), ("authorization", format!("Bearer lw_{MISPLACED}"))] {
        let request = client().get(api.host.url(&format!("/api/leads?q={MISPLACED}"))).header(name, value);
        assert_eq!(api.send(request, true).await.0, 401);
    }
}

/// Everything that can be read, by the OpenAPI document; ids from the lists.
async fn read_everything(api: &Api<'_>) {
    let document = api.get("/openapi.json").await;
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        if item.get("get").is_none() {
            continue;
        }
        if path.starts_with("/api/events") {
            // Without an end; the WebSocket tells the same.
            continue;
        }
        let list = path.split("/{").next().unwrap();
        let ids = match path.as_str() {
            _ if !path.contains('{') => vec![String::new()],
            path if path.contains("/entities/") => vec!["landing-7".to_owned()],
            "/api/batches/{id}" => ids(&api.get("/api/leads?limit=200").await, "/batch_id"),
            "/api/credentials/{id}" => ids(&api.get("/api/projects/ext:shop/credentials").await, "/id"),
            _ => ids(&api.get(&format!("{list}?limit=200")).await, "/id"),
        };
        for id in ids {
            let real = path.split('/').map(|step| if step.starts_with('{') { id.as_str() } else { step }).collect::<Vec<_>>().join("/");
            let real = if path.contains("/entities/") { format!("{real}?project=ext:shop") } else { real };
            api.get(&real).await;
            asked += 1;
        }
    }
    assert!(asked >= 40, "only {asked} things were read");
    let events = api.request("GET", "/api/events").header("last-event-id", "0.0").send().await.unwrap();
    let (mut events, mut text) = (events, String::new());
    while text.matches("\ndata:").count() < 60 {
        text.push_str(&String::from_utf8_lossy(&events.chunk().await.unwrap().expect("the stream goes on")));
    }
    assert!(!text.contains("ivan.petrov") && !text.contains("5554321"), "{text}");
    api.answers.lock().unwrap().push(("GET /api/events".to_owned(), text));
}

fn ids(list: &Value, at: &str) -> Vec<String> {
    list["data"].as_array().unwrap().iter().filter_map(|row| row.pointer(at)?.as_str().map(str::to_owned)).collect()
}

/// A key made, and made again by the same request: its text is in these two answers only.
async fn make_key(api: &Api<'_>) -> String {
    let make = || {
        let request = api.request("POST", "/api/keys").header("idempotency-key", "make-a-key");
        request.json(&json!({"name": "reader", "scopes": ["leads:read"]}))
    };
    let (status, first) = api.send(make(), false).await;
    assert_eq!(status, 201, "{first}");
    let (status, again) = api.send(make(), false).await;
    assert_eq!((status, &again), (201, &first), "the same request gives the same key");
    let key = first["key"].as_str().unwrap().to_owned();
    let reading = api.request("GET", "/api/leads").header("x-api-key", &key);
    api.send(reading, true).await;
    key
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// Looks through the data folder; each of the two key files may hold its own key.
fn search_folder(data: &Path, wanted: &Wanted) {
    let files = files(data);
    for part in ["leadwire.db", "compiled", "admin.key", "master.key"] {
        assert!(files.iter().any(|file| file.to_string_lossy().contains(part)), "there is no {part}");
    }
    for file in files {
        let (bytes, own) = (std::fs::read(&file).unwrap(), file.file_name().unwrap().to_string_lossy());
        assert_eq!(wanted.found_in(&bytes, &own), None, "in {}", file.display());
    }
}

fn search_log(log: &[String], wanted: &Wanted) {
    assert!(log.len() > 50, "only {} lines were logged", log.len());
    for line in log {
        assert_eq!(wanted.found_in(line.as_bytes(), ""), None, "in the log line {line}");
        let digits: String = line.chars().filter(char::is_ascii_digit).collect();
        assert!(!digits.contains("9165554321") && !line.contains("555-43-21"), "a phone is in the log line {line}");
        assert!(!line.contains(EMAIL) && !line.contains("ivan.petrov.0006"), "an e-mail is in the log line {line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_found_in_clear_after_a_full_run() {
    let peers = Peers::start().await;
    let mut place = Place::bare(&["webhook", "telegram", "email"]);
    place.set("EGRESS_REWRITE", &format!("api.telegram.org={}", peers.bot.base_url()));
    place.set("LOG", "debug");
    let answers = Mutex::new(Vec::new());

    let host = place.start().await;
    let own = |name: &str| std::fs::read_to_string(place.data().join(name)).unwrap().trim().to_owned();
    let (admin, master) = (own("admin.key"), own("master.key"));
    let api = Api { host: &host, client: client(), key: admin.clone(), answers: &answers };
    api.ask("POST", "/api/projects", json!({"external_id": "shop", "name": "Shop", "dedup": {"enabled": false}})).await;
    let credentials = deliveries(&api, &peers).await;
    sends(&api, &peers).await;
    mistakes(&api, &credentials[0], &credentials[1]).await;
    let key = make_key(&api).await;
    read_everything(&api).await;

    let wanted = Wanted::new(&[
        ("signing secret", SIGNING),
        ("previous signing secret", SIGNING_OLD),
        ("authorization", AUTHORIZATION),
        ("bot token", BOT_TOKEN),
        ("revoked bot token", BOT_TOKEN_BAD),
        ("mail password", SMTP_PASSWORD),
        ("wrong mail password", SMTP_PASSWORD_BAD),
        ("callback secret", CALLBACK),
        ("previous callback secret", CALLBACK_OLD),
        ("bot token of one send", INLINE_TOKEN),
        ("misplaced secret", MISPLACED),
        ("admin.key", &admin),
        ("master.key", &master),
        ("made key", &key),
    ]);

    // While it runs: the write-ahead log is there.
    search_folder(&place.data(), &wanted);
    search_log(&host.stop().await, &wanted);

    place.set("LOG_FORMAT", "pretty");
    let host = place.start().await;
    let api = Api { host: &host, client: client(), key: admin.clone(), answers: &answers };
    for (channel, id) in ["webhook", "telegram", "email"].into_iter().zip(&credentials) {
        api.lead("After the restart", &[(channel, id)]).await;
    }
    mistakes(&api, &credentials[0], &credentials[1]).await;
    read_everything(&api).await;
    search_log(&host.stop().await, &wanted);
    search_folder(&place.data(), &wanted);

    let answers = answers.into_inner().unwrap();
    assert!(answers.len() > 100);
    let found = answers
        .iter()
        .filter_map(|(label, answer)| Some(format!("{} in the answer to {label}: {answer}", wanted.found_in(answer.as_bytes(), "")?)));
    let found: Vec<String> = found.collect();
    assert!(found.is_empty(), "{found:#?}");
    for name in ["admin.key", "master.key"] {
        assert_eq!(std::fs::metadata(place.data().join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
}
