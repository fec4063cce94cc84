//! Plugins that do what plugins should not do: each call ends within its limits, the attempt says why in words, and
//! nobody else notices.

use std::time::{Duration, Instant};

use leadwire_fakes::{Answer, Gate, HttpSink};
use leadwire_tests::{Options, TestHost};
use serde_json::{Value, json};

const TOKEN: &str = "tok-9f8e7d6c5b4a-SECRET";
const KEY: &str = "key-1a2b3c4d5e6f-SECRET";

async fn host() -> TestHost {
    let host = TestHost::with(Options { plugins: vec!["webhook", "test_hostile", "test_batch"], ..Options::default() }).await;
    host.project().await;
    host
}

/// A project of its own with one credential; its name.
async fn enable(host: &TestHost, name: &str, channel: &str, url: &str) -> String {
    enable_with(host, name, channel, json!({"url": url})).await
}

async fn enable_with(host: &TestHost, name: &str, channel: &str, config: Value) -> String {
    let project = format!("{name}-{}", channel.replace('/', "-"));
    let (status, body) = host.post("/api/projects", &json!({"external_id": project, "name": name})).await;
    assert_eq!(status, 201, "{body}");
    let secrets = if channel == "test/hostile" { json!({"token": TOKEN, "key": KEY}) } else { json!({}) };
    let credential = json!({"channel": channel, "name": name, "config": config, "secrets": secrets});
    let (status, body) = host.post(&format!("/api/projects/ext:{project}/credentials"), &credential).await;
    assert_eq!(status, 201, "{body}");
    project
}

async fn send(host: &TestHost, project: &str, title: &str, phone: u32) -> String {
    let mut lead = json!({"project": format!("ext:{project}"), "title": title, "name": "Ivan", "phone": format!("+7916{phone:07}")});
    if title == "later" {
        // All due at once, and so in one call.
        lead["delay_sec"] = json!(60);
    }
    let (status, body) = host.post("/api/leads", &lead).await;
    assert_eq!(status, 202, "{body}");
    body["deliveries"][0]["id"].as_str().expect("a delivery").to_owned()
}

/// What became of a lead with this title after the plugin was called once.
async fn behave(host: &TestHost, title: &str, url: &str) -> Value {
    let project = enable(host, title, "test/hostile", url).await;
    let id = send(host, &project, title, 1).await;
    host.idle().await;
    host.delivery(&id).await
}

fn first<'a>(delivery: &'a Value, field: &str) -> &'a str {
    delivery["attempts"][0][field].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_misbehaviour_ends_with_words_for_the_admin() {
    let (host, sink) = (host().await, HttpSink::start().await.unwrap());
    for (title, status, code, words) in [
        ("loop", "queued", "cpu_budget", "more than 200 ms of CPU time"),
        ("memory", "queued", "memory_limit", "more than 32 MiB of memory"),
        ("recurse", "queued", "memory_fault", "recursed too deep"),
        ("panic", "queued", "panic", "a panic with a reason"),
        ("logflood", "queued", "log_flood", "thousands of log lines"),
        ("huge", "failed", "huge", "xxx"),
        ("hugememo", "delivered", "", ""),
        ("denied", "failed", "http_denied", "no egress rule"),
        ("requests", "skipped", "requests", "100"),
        ("settle-not", "queued", "not_settled", "without saying what became of this lead"),
        ("settle-foreign", "delivered", "", ""),
        ("settle-twice", "failed", "first", "the first verdict holds"),
        ("settle-then-panic", "delivered", "", ""),
        ("internal", "queued", "plugin_internal", "an answer it does not understand"),
    ] {
        let began = Instant::now();
        let delivery = behave(&host, title, &sink.url("/peer")).await;
        assert_eq!(delivery["status"], status, "{title}: {delivery:#}");
        assert_eq!(first(&delivery, "code"), code, "{title}: {delivery:#}");
        assert!(first(&delivery, "message").contains(words), "{title}: {delivery:#}");
        assert!(first(&delivery, "message").len() <= 2_100, "{title}");
        assert!(began.elapsed() < Duration::from_secs(20), "{title} took {:?}", began.elapsed());
        assert!(delivery["attempts"][0]["exchanges"].as_array().is_none_or(|all| all.len() <= 20), "{title}");
    }
    assert_eq!(sink.received().len(), 100, "no more requests than one call may make");
    assert_eq!(behave(&host, "fine", &sink.url("/peer")).await["status"], "delivered", "the host goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_falls_over_after_a_request_leaves_its_trace() {
    let (host, sink) = (host().await, HttpSink::start().await.unwrap());
    let delivery = behave(&host, "send-then-panic", &sink.url("/peer")).await;
    assert_eq!(first(&delivery, "code"), "panic");
    assert!(first(&delivery, "message").contains("after a request that ended as Ok(200)"), "{delivery:#}");
    assert_eq!(delivery["attempts"][0]["exchanges"][0]["status"], 200, "the admin sees what was asked: {delivery:#}");
    assert_eq!(sink.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_waits_too_long_is_stopped_at_its_deadline() {
    let (host, sink) = (host().await, HttpSink::start().await.unwrap());
    let gate = Gate::closed();
    sink.always(Answer::ok().held(&gate));
    let began = Instant::now();
    let delivery = behave(&host, "slow", &sink.url("/peer")).await;
    gate.open();
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(delivery["status"], "queued");
    assert!(first(&delivery, "message").contains("no complete answer in time"), "{delivery:#}");
}

/// Waiting costs no CPU time: a hundred answers that take longer than a tick each are no endless loop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_waits_often_is_not_taken_for_one_that_loops() {
    use axum::routing::get;
    let host = host().await;
    // The host's clock of CPU time ticks every 5 ms, and the plugin's budget is 40 ticks.
    let slow = get(async || {
        tokio::time::timeout(Duration::from_millis(12), std::future::pending::<()>()).await.unwrap_err();
        "fine"
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/peer", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/peer", slow)).await });
    let delivery = behave(&host, "requests", &url).await;
    assert_eq!(delivery["status"], "skipped", "{delivery:#}");
    assert_eq!(first(&delivery, "message"), "100");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_are_not_delayed_by_plugins_that_loop_and_eat() {
    let (host, sink) = (host().await, HttpSink::start().await.unwrap());
    let good = enable(&host, "good", "webhook", &sink.url("/good")).await;
    let mut alone = Vec::new();
    for phone in 0..20 {
        alone.push(latency(&host, &good, phone).await);
    }
    let bad = enable(&host, "bad", "test/hostile", &sink.url("/bad")).await;
    let before = resident_mib();
    for phone in 0..4 {
        for title in ["loop", "memory", "recurse", "logflood"] {
            send(&host, &bad, title, 100 + phone).await;
        }
    }
    let mut beside = Vec::new();
    for phone in 100..120 {
        beside.push(latency(&host, &good, phone).await);
    }
    host.idle().await;
    assert_eq!(sink.received().iter().filter(|request| request.path == "/good").count(), 40);
    alone.sort();
    beside.sort();
    let (alone, beside) = (alone[10], beside[10]);
    assert!(beside < alone * 20 + Duration::from_millis(500), "the median went from {alone:?} to {beside:?}");
    let after = resident_mib();
    assert!(after < before + 200, "memory went from {before} MiB to {after} MiB");
}

/// From the request to the end of its only delivery.
async fn latency(host: &TestHost, project: &str, phone: u32) -> Duration {
    let began = Instant::now();
    let lead = json!({"project": format!("ext:{project}"), "name": "Ivan", "phone": format!("+7916{phone:07}")});
    let request = host.request("POST", "/api/leads").header("prefer", "wait=30").json(&lead);
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["batch"]["status"].as_str().or(answer["status"].as_str()).unwrap_or("completed"), "completed", "{answer}");
    began.elapsed()
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_a_guest_can_see_holds_a_secret() {
    use base64::Engine as _;
    let (host, sink) = (host().await, HttpSink::start().await.unwrap());
    // A remote side that sends back whatever it got, in every spelling.
    let base64 = base64::engine::general_purpose::STANDARD.encode(TOKEN);
    let spelled: String = TOKEN.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let escaped: String = TOKEN.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    let body = format!("plain {TOKEN} bearer Bearer {TOKEN} base64 {base64} url {spelled} json \"{escaped}\"");
    sink.always(Answer::ok().header("x-echo", TOKEN).header("x-echo-64", &base64).body(body));
    // The first is the lead's name, which is there: it shows that the search of its memory finds what there is.
    let wanted = ["Ivan", TOKEN, KEY, &base64, &spelled, &escaped, &TOKEN[..12], &KEY[..12], &base64[..16]];
    let turned_over = |text: &&str| hex::encode(text.bytes().map(|byte| !byte).collect::<Vec<u8>>());
    let config = json!({"url": sink.url("/peer"), "wanted": wanted.iter().map(turned_over).collect::<Vec<_>>().join(",")});
    let project = enable_with(&host, "probe", "test/hostile", config).await;
    let id = send(&host, &project, "probe", 1).await;
    host.idle().await;
    let delivery = host.delivery(&id).await;
    assert_eq!(first(&delivery, "code"), "probe", "{delivery:#}");
    assert!(first(&delivery, "message").contains("memory holds [0]"), "{delivery:#}");

    let sent = sink.received();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].header("authorization"), Some(format!("Bearer {TOKEN}").as_str()), "the host put it in, and nothing else");
    let guessed = sent[0].header("x-guess").unwrap_or_default();
    assert!(!guessed.contains(TOKEN) && !String::from_utf8_lossy(&sent[0].body).contains(TOKEN));

    let everything = delivery.to_string();
    for form in [TOKEN, KEY, &base64, &spelled, &escaped, &TOKEN[4..]] {
        assert!(!everything.contains(form), "the delivery holds {form}: {delivery:#}");
    }
    assert!(first(&delivery, "message").contains("***"), "{delivery:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_of_a_batch_end_each_for_itself() {
    let (host, sink) = (host().await, HttpSink::start().await.unwrap());
    let project = enable(&host, "batch", "test/batch", &sink.url("/peer")).await;
    let mut ids = Vec::new();
    for phone in 0..10 {
        ids.push(send(&host, &project, "later", phone).await);
    }
    let refused = host.delivery(&ids[3]).await["lead_id"].as_str().unwrap_or_default().to_owned();
    sink.always(Answer::ok().json(&json!({"refused": [refused]})));
    host.advance(Duration::from_secs(61)).await;
    assert_eq!(sink.received().len(), 1, "ten leads went in one request");
    for (no, id) in ids.iter().enumerate() {
        let delivery = host.delivery(id).await;
        let expected = if no == 3 { "failed" } else { "delivered" };
        assert_eq!(delivery["status"], expected, "{no}: {delivery:#}");
    }
}
