//! One call, many channels: credentials for one send, deadlines, times, and what becomes of failures.

use std::path::Path;
use std::time::Duration;

use leadwire_fakes::{Answer, BotApi, Gate, HttpSink};
use leadwire_tests::{Options, TestHost, outcomes};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);
const TOKEN: &str = "123456789:AAEabcdefghijklmnopqrstuvwxyzABCDEF";
const SEND: &str = "/api/integrations/send-batch";

async fn shop() -> (HttpSink, TestHost, String) {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::start().await;
    host.project().await;
    let id = host.enable("webhook", json!({"url": sink.url("/hook")}), json!({})).await;
    // The lane has looked at its new credential: a pause that comes now is the next thing it sees.
    host.idle().await;
    (sink, host, id)
}

async fn with_bot() -> (BotApi, TestHost) {
    let bot = BotApi::start().await.unwrap();
    let rewrite = vec![("api.telegram.org".into(), bot.base_url())];
    let host = TestHost::with(Options { plugins: vec!["webhook", "telegram", "email"], rewrite, ..Options::default() }).await;
    host.project().await;
    (bot, host)
}

fn inline(sends: Value) -> Value {
    let mut body = json!({"lead": {"name": "Ann", "project": "ext:shop"}, "integrations": ["telegram"],
        "credentials": {"telegram": {"config": {"chat_id": 424_242}, "secrets": {"bot_token": TOKEN}}}});
    body.as_object_mut().unwrap().extend(sends.as_object().unwrap().clone());
    body
}

/// Whether these bytes stand in any file of the data folder.
fn found_in(folder: &Path, text: &str) -> bool {
    std::fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return path.file_name().is_some_and(|name| name != "compiled" && name != "channels") && found_in(&path, text);
        }
        std::fs::read(&path).is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
    })
}

fn batch_of(sent: &Value) -> String {
    format!("/api/batches/{}", sent["batch_id"].as_str().unwrap())
}

#[tokio::test]
async fn credentials_of_one_send_are_used_once_and_leave_nothing() {
    let (bot, host) = with_bot().await;
    let gate = Gate::closed();
    host.enable("telegram", json!({"chat_id": 1}), json!({"bot_token": "987654321:BBEabcdefghijklmnopqrstuvwxyzABCDEF"})).await;
    let (status, sent) = host.post(SEND, &inline(json!({"delay_sec": 60}))).await;
    assert_eq!(status, 202, "{sent}");
    let id = sent["deliveries"][0]["credential_id"].as_str().unwrap().to_owned();
    assert!(host.host().store.credential(id.parse().unwrap()).await.unwrap().is_some(), "kept until then");
    assert!(!found_in(host.folder(), TOKEN), "and never in clear");
    assert_eq!(host.answer(host.request("GET", &format!("/api/credentials/{id}"))).await.0, 404);
    assert_eq!(host.get("/api/projects/ext:shop/credentials").await["data"].as_array().unwrap().len(), 1);
    // Also over a restart.
    let host = host.restart().await;
    gate.open();
    host.advance(SECOND * 60).await;
    let messages = bot.received();
    assert_eq!((messages.len(), messages[0].chat_id, messages[0].token.as_str()), (1, 424_242, TOKEN));
    let delivery = host.first_delivery(&sent).await;
    assert_eq!((&delivery["status"], &delivery["credential_id"]), (&json!("delivered"), &json!(id)));
    assert!(!delivery.to_string().contains(TOKEN), "{delivery}");
    assert!(host.host().store.credential(id.parse().unwrap()).await.unwrap().is_none());
    host.send(json!({"name": "Bob", "integrations": ["telegram"]})).await;
    host.idle().await;
    assert_eq!(bot.received()[1].chat_id, 1, "others go where they always go");
    let (status, problem) =
        host.post(&format!("/api/deliveries/{}/retry", sent["deliveries"][0]["id"].as_str().unwrap()), &json!({})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("credential_gone")), "{problem}");
}

#[tokio::test]
async fn a_refused_credential_of_one_send_fails_at_once_and_is_erased() {
    let (bot, host) = with_bot().await;
    bot.revoke(TOKEN);
    let (_, sent) = host.post(SEND, &inline(json!({}))).await;
    host.idle().await;
    let delivery = host.first_delivery(&sent).await;
    assert_eq!((&delivery["status"], outcomes(&delivery)), (&json!("failed"), vec!["rejected"]), "{delivery:#}");
    let id = sent["deliveries"][0]["credential_id"].as_str().unwrap();
    assert!(host.host().store.credential(id.parse().unwrap()).await.unwrap().is_none());
    assert_eq!(host.get(&batch_of(&sent)).await["status"], "failed");
}

#[tokio::test]
async fn the_same_request_twice_stores_one_credential() {
    let (bot, host) = with_bot().await;
    let ask = || host.request("POST", SEND).header("idempotency-key", "k1").json(&inline(json!({}))).send();
    let (first, second) = (ask().await.unwrap(), ask().await.unwrap());
    assert_eq!((first.status().as_u16(), second.headers()["idempotent-replayed"].to_str().unwrap()), (202, "true"));
    let first: Value = first.json().await.unwrap();
    assert_eq!(first, second.json::<Value>().await.unwrap());
    let (status, again) = host.post(SEND, &inline(json!({}))).await;
    assert_eq!((status, &again["duplicate"]), (200, &json!(true)));
    host.idle().await;
    assert_eq!(bot.received().len(), 1);
}

#[tokio::test]
async fn an_existing_lead_goes_to_the_named_ones_with_settings_of_this_send() {
    let (sink, host, credential) = shop().await;
    let first = host.send(json!({"name": "Ann", "external_id": "form-1"})).await;
    host.idle().await;
    let entry = json!({"type": "webhook", "credential_id": credential, "settings": {"method": "PUT", "headers": {"X-Send": "2"}}});
    let body = json!({"lead_id": first["lead_id"], "integrations": [entry], "due_at": "2026-11-22T11:00:00Z"});
    let (status, sent) = host.post(SEND, &body).await;
    assert_eq!((status, &sent["lead_id"], &sent["deliveries"][0]["due_at"]), (202, &first["lead_id"], &json!("2026-11-22T11:00:00Z")));
    host.advance(SECOND * 3_599).await;
    assert_eq!(sink.received().len(), 1);
    host.advance(SECOND).await;
    let request = sink.received().pop().unwrap();
    assert_eq!(
        (request.method.as_str(), request.header("x-send"), request.json()["data"]["name"].as_str()),
        ("PUT", Some("2"), Some("Ann"))
    );
    assert_eq!(host.get(&format!("/api/leads/{}", first["lead_id"].as_str().unwrap())).await["batches"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn what_could_not_be_sent_by_its_deadline_fails_whatever_it_waited_for() {
    let (sink, host, credential) = shop().await;
    host.act(&format!("/api/credentials/{credential}/pause")).await;
    let parked = host.send(json!({"name": "parked", "deadline_sec": 90})).await;
    host.advance(SECOND * 89).await;
    assert_eq!(host.first_delivery(&parked).await["status"], "queued");
    host.advance(SECOND).await;
    let delivery = host.first_delivery(&parked).await;
    assert_eq!((&delivery["status"], &delivery["last_code"]), (&json!("failed"), &json!("deadline")), "{delivery:#}");
    assert_eq!((&delivery["finished_at"], &delivery["deadline_at"]), (&json!("2026-11-22T10:01:30Z"), &json!("2026-11-22T10:01:30Z")));
    host.act(&format!("/api/credentials/{credential}/resume")).await;
    host.idle().await;
    assert_eq!(sink.received().len(), 0, "it is not sent after all");

    // One that waits for its next attempt; the deadline is known over a restart.
    host.patch(&format!("/api/credentials/{credential}"), &json!({"retry": {"schedule": ["1h"]}})).await;
    sink.always(Answer::status(500));
    let retried = host.send(json!({"name": "retried", "deadline_sec": 600})).await;
    host.idle().await;
    let host = host.restart().await;
    host.advance(SECOND * 600).await;
    let delivery = host.first_delivery(&retried).await;
    assert_eq!((&delivery["status"], &delivery["last_code"], outcomes(&delivery)), (&json!("failed"), &json!("deadline"), vec!["retry"]));
    assert!(delivery["last_error"].as_str().unwrap().contains("may have reached"), "{delivery:#}");
    // A person may send it again: then without a deadline.
    sink.always(Answer::ok());
    host.act(&format!("/api/deliveries/{}/retry", delivery["id"].as_str().unwrap())).await;
    host.idle().await;
    assert_eq!(host.first_delivery(&retried).await["status"], "delivered");
}

#[tokio::test]
async fn the_first_failure_withdraws_the_rest_when_failures_are_not_allowed() {
    let (sink, host, _) = shop().await;
    let slow = host.enable("webhook", json!({"url": sink.url("/slow")}), json!({})).await;
    host.idle().await;
    host.act(&format!("/api/credentials/{slow}/pause")).await;
    sink.always_for("/hook", Answer::redirect("/x"));
    let body = json!({"lead": {"name": "Ann"}, "project": "ext:shop", "allow_failures": false});
    let (_, sent) = host.post(SEND, &body).await;
    host.idle().await;
    let batch = host.get(&batch_of(&sent)).await;
    let mut states: Vec<_> = batch["deliveries"].as_array().unwrap().iter().map(|one| one["status"].as_str().unwrap()).collect();
    states.sort_unstable();
    assert_eq!((states, batch["status"].as_str()), (vec!["cancelled", "failed"], Some("failed")));
    assert_eq!((&batch["counts"]["failed"], &batch["counts"]["cancelled"], &batch["total"]), (&json!(1), &json!(1), &json!(2)));
}

#[tokio::test]
async fn a_project_may_send_to_its_own_and_its_entitys_credential() {
    let (sink, host, _) = shop().await;
    host.enable_with(json!({"channel": "webhook", "name": "own", "entity": "landing-7", "config": {"url": sink.url("/own")}})).await;
    let paths = async |name: &str| {
        sink.forget();
        host.send(json!({"name": name, "entity": "ext:landing-7"})).await;
        host.idle().await;
        let mut paths: Vec<String> = sink.received().into_iter().map(|request| request.path).collect();
        paths.sort();
        paths
    };
    assert_eq!(paths("instead").await, ["/own"]);
    let (status, project) = host.patch("/api/projects/ext:shop", &json!({"entity_credentials": "both"})).await;
    assert_eq!((status, &project["entity_credentials"]), (200, &json!("both")));
    assert_eq!(paths("both").await, ["/hook", "/own"]);
}
