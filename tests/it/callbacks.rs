//! Who is told when a batch ends: each exactly once, signed, retried, listed.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use leadwire_fakes::{Answer, BotApi, Gate, HttpSink, Request, SmtpReceiver};
use leadwire_tests::{Options, TestHost, codes, outcomes};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const SECOND: Duration = Duration::from_secs(1);
const TOKEN: &str = "123456789:AAEabcdefghijklmnopqrstuvwxyzABCDEF";
const NEW: &str = "whsec_W2T7URdALJ/km5Hf5Kyvk2o/MqygU4SyZBpCXT+mAGc=";
const OLD: &str = "whsec_oyEQ673IaXPW3Gjis5kfT+TRs06BqGVN";

/// A host with a webhook for leads, and a receiver of the client's.
async fn shop() -> (HttpSink, HttpSink, TestHost) {
    let (sink, client) = (HttpSink::start().await.unwrap(), HttpSink::start().await.unwrap());
    let host = TestHost::start().await;
    host.project().await;
    let retry = json!({"schedule": ["1m", "1m"]});
    host.enable_with(json!({"channel": "webhook", "name": "CRM", "config": {"url": sink.url("/leads")}, "retry": retry})).await;
    (sink, client, host)
}

/// One URL for each list.
fn urls(client: &HttpSink) -> Value {
    json!({"then": [{"url": client.url("/then")}], "catch": [{"url": client.url("/catch")}], "finally": [{"url": client.url("/finally")}]})
}

fn paths(client: &HttpSink) -> Vec<String> {
    let mut paths: Vec<String> = client.received().into_iter().map(|request| request.path).collect();
    paths.sort();
    paths
}

fn batch_of(sent: &Value) -> String {
    format!("/api/batches/{}", sent["batch_id"].as_str().unwrap())
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let inner = Sha256::new().chain_update(block.map(|b| b ^ 0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(block.map(|b| b ^ 0x5c)).chain_update(inner).finalize().to_vec()
}

fn signature(secret: &str, request: &Request) -> String {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let head = |name: &str| request.header(name).unwrap().to_owned();
    let text = [format!("{}.{}.", head("webhook-id"), head("webhook-timestamp")).as_bytes(), &request.body].concat();
    format!("v1,{}", STANDARD.encode(hmac(&key, &text)))
}

#[tokio::test]
async fn a_url_is_told_once_what_became_of_the_batch() {
    let (_sink, client, host) = shop().await;
    let body = json!({"secret": NEW});
    assert_eq!(host.post("/api/projects/ext:shop/callback-secret", &body).await.0, 200);
    let sent = host.send(json!({"name": "Ann", "external_id": "form-1", "callbacks": urls(&client)})).await;
    host.idle().await;

    assert_eq!(paths(&client), ["/finally", "/then"]);
    let request = client.received().into_iter().find(|request| request.path == "/then").unwrap();
    assert_eq!((request.method.as_str(), request.header("webhook-signature").unwrap()), ("POST", signature(NEW, &request).as_str()));
    let told = request.json();
    assert_eq!((&told["type"], &told["timestamp"]), (&json!("batch.completed"), &json!("2026-11-22T10:00:00Z")));
    let data = &told["data"]["data"];
    assert_eq!((&data["callback"], &data["batch_id"], &data["lead_id"]), (&json!("then"), &sent["batch_id"], &sent["lead_id"]));
    assert_eq!((&data["external_id"], &data["status"], &data["total"]), (&json!("form-1"), &json!("completed"), &json!(1)));
    assert_eq!(data["deliveries"][0]["id"], sent["deliveries"][0]["id"]);
    assert_eq!(told["data"]["external_id"], sent["batch_id"]);

    let batch = host.get(&batch_of(&sent)).await;
    assert_eq!((&batch["total"], batch["deliveries"].as_array().unwrap().len()), (&json!(1), 1));
    let listed = batch["callbacks"].as_array().unwrap();
    assert_eq!(listed.iter().map(|one| one["kind"].as_str().unwrap()).collect::<Vec<_>>(), ["callback", "callback"]);
    let delivery = host.delivery(listed[0]["id"].as_str().unwrap()).await;
    assert_eq!((&delivery["status"], outcomes(&delivery)), (&json!("delivered"), vec!["delivered"]));
    assert_eq!(request.header("webhook-id"), delivery["id"].as_str());
    host.advance(SECOND * 86_400).await;
    assert_eq!(client.received().len(), 2);
}

#[tokio::test]
async fn a_batch_that_failed_tells_all_three_and_a_cancelled_one_two() {
    let (sink, client, host) = shop().await;
    sink.always(Answer::redirect("/elsewhere"));
    host.send(json!({"name": "Ann", "callbacks": urls(&client)})).await;
    host.idle().await;
    assert_eq!(paths(&client), ["/catch", "/finally", "/then"]);
    assert!(client.received().iter().all(|request| request.json()["type"] == "batch.failed"));

    client.forget();
    let sent = host.send(json!({"name": "Bob", "delay_sec": 60, "callbacks": urls(&client)})).await;
    host.act(&format!("{}/cancel", batch_of(&sent))).await;
    host.idle().await;
    assert_eq!(paths(&client), ["/finally", "/then"]);
    assert_eq!(client.received()[0].json()["type"], "batch.cancelled");
}

#[tokio::test]
async fn a_batch_that_could_not_run_says_so() {
    let (_sink, client, host) = shop().await;
    let lead = json!({"name": "Ann", "integrations": ["getresponse"], "callbacks": urls(&client)});
    let sent = host.send(lead).await;
    assert_eq!(sent["status"], "unrouted");
    host.idle().await;
    assert_eq!(paths(&client), ["/catch", "/finally"]);
    let told = client.received()[0].json();
    assert_eq!((&told["type"], &told["data"]["data"]["lead_status"]), (&json!("batch.unrouted"), &json!("unrouted")));
}

#[tokio::test]
async fn a_second_end_after_a_retry_by_hand_tells_nobody_again() {
    let (sink, client, host) = shop().await;
    sink.script([Answer::redirect("/elsewhere")]);
    let sent = host.send(json!({"name": "Ann", "callbacks": urls(&client)})).await;
    host.idle().await;
    assert_eq!(client.received().len(), 3);
    host.act(&format!("/api/deliveries/{}/retry", sent["deliveries"][0]["id"].as_str().unwrap())).await;
    host.idle().await;
    let batch = host.get(&batch_of(&sent)).await;
    assert_eq!((&batch["status"], batch["callbacks"].as_array().unwrap().len()), (&json!("completed"), 3));
    assert_eq!(client.received().len(), 3);
}

#[tokio::test]
async fn a_receiver_that_is_down_or_refuses_is_asked_again_under_the_same_id() {
    let (_sink, client, host) = shop().await;
    client.script([Answer::status(401), Answer::close(), Answer::status(503)]);
    let sent = host.send(json!({"name": "Ann", "callbacks": {"finally": [{"url": client.url("/hook?token=1")}]}})).await;
    host.advance(SECOND * 10).await;
    host.advance(SECOND * 400).await;
    host.advance(SECOND * 3_600).await;
    let seen = client.received();
    assert_eq!(seen.len(), 4, "{:#?}", host.get(&batch_of(&sent)).await["callbacks"]);
    assert!(seen.iter().all(|request| request.header("webhook-id") == seen[0].header("webhook-id") && request.body == seen[0].body));
    let callback = host.get(&batch_of(&sent)).await["callbacks"][0].clone();
    let delivery = host.delivery(callback["id"].as_str().unwrap()).await;
    assert_eq!((&delivery["status"], delivery["attempts"].as_array().unwrap().len()), (&json!("delivered"), 4), "{delivery:#}");
    assert_eq!(codes(&delivery)[0], "credential_invalid");
    // Nobody could mend it: the receiver's refusal parked nothing.
    assert_eq!(host.state(callback["credential_id"].as_str().unwrap()).await, "active");
}

#[tokio::test]
async fn a_node_that_stops_between_goes_on_where_it_was() {
    let (_sink, client, host) = shop().await;
    let gate = Gate::closed();
    client.script([Answer::ok().held(&gate)]);
    let sent = host.send(json!({"name": "Ann", "callbacks": {"then": [{"url": client.url("/then")}]}})).await;
    client.wait_for(1).await;
    gate.open();
    let host = host.restart().await;
    host.advance(SECOND * 120).await;
    let batch = host.get(&batch_of(&sent)).await;
    assert_eq!((&batch["callbacks"][0]["status"], batch["callbacks"].as_array().unwrap().len()), (&json!("delivered"), 1));
    let seen = client.received();
    assert!(seen.iter().all(|request| request.header("webhook-id") == batch["callbacks"][0]["id"].as_str()));
}

#[tokio::test]
async fn both_secrets_sign_while_receivers_change_over() {
    let (_sink, client, host) = shop().await;
    let path = "/api/projects/ext:shop/callback-secret";
    let tell = async |name: &str| {
        client.forget();
        host.send(json!({"name": name, "callbacks": {"finally": [{"url": client.url("/hook")}]}})).await;
        host.idle().await;
        client.received()[0].clone()
    };
    // Made by itself when it is first needed, so that nothing goes out unsigned.
    let request = tell("before").await;
    assert!(request.header("webhook-signature").unwrap().starts_with("v1,"));
    let (status, _) = host.post(path, &json!({"secret": OLD, "overlap_sec": 0})).await;
    assert_eq!(status, 200);
    let request = tell("old").await;
    assert_eq!(request.header("webhook-signature").unwrap(), signature(OLD, &request));
    let (_, rotated) = host.post(path, &json!({"overlap_sec": 3_600})).await;
    let new = rotated["secret"].as_str().unwrap().to_owned();
    let request = tell("both").await;
    assert_eq!(request.header("webhook-signature").unwrap(), format!("{} {}", signature(&new, &request), signature(OLD, &request)));
    host.advance(SECOND * 3_600).await;
    let request = tell("new").await;
    assert_eq!(request.header("webhook-signature").unwrap(), signature(&new, &request));
    let shown = host.get("/api/projects/ext:shop").await.to_string();
    assert!(!shown.contains(&new) && !shown.contains("whsec_"), "{shown}");
}

#[tokio::test]
async fn a_credential_of_any_channel_tells_in_its_own_way() {
    let (sink, bot, smtp) = (HttpSink::start().await.unwrap(), BotApi::start().await.unwrap(), SmtpReceiver::start().await.unwrap());
    let rewrite = vec![("api.telegram.org".into(), bot.base_url())];
    let host = TestHost::with(Options { plugins: vec!["webhook", "telegram", "email"], rewrite, ..Options::default() }).await;
    host.project().await;
    // Off, so that no lead goes there by itself; what names it is parked until it is on.
    let chat = json!({"channel": "telegram", "name": "chat", "config": {"chat_id": 42, "text": "LEAD {{ lead.name }}"},
        "secrets": {"bot_token": TOKEN}, "filter": "lead.name == 'nobody'", "mapping": {"text": "mapped {{ lead.name }}"}});
    let telegram = host.enable_with(chat).await;
    let mail = json!({"host": "127.0.0.1", "port": smtp.addr().port(), "tls": "none", "from": "a@shop.example", "to": ["b@shop.example"],
        "subject": "LEAD {{ lead.name }}", "html": "<b>LEAD {{ lead.name }}</b>"});
    let email = host.enable("email", mail, json!({})).await;
    let hook = host.enable("webhook", json!({"url": sink.url("/leads")}), json!({})).await;
    let template = "{{ lead.name }}: {{ event.data.status }}\n{{ event.data.counts.delivered }} of {{ event.data.total }}";
    let callbacks = json!({"then": [email], "finally": [{"credential_id": telegram, "template": template, "settings": {"chat_id": 43}}]});
    let sent =
        host.send(json!({"name": "Ann", "integrations": [{"type": "webhook", "credential_id": hook}], "callbacks": callbacks})).await;
    host.idle().await;
    let batch = host.get(&batch_of(&sent)).await;
    assert!(batch["callbacks"].as_array().unwrap().iter().all(|one| one["status"] == "delivered"), "{batch:#}");
    let (messages, mails) = (bot.received(), smtp.received());
    assert_eq!((messages.len(), messages[0].chat_id, messages[0].text.as_str()), (1, 43, "Ann: completed\n1 of 1"));
    let mail = mails[0].parsed();
    let text = mail.text.clone().unwrap_or_default();
    assert!(mails.len() == 1 && text.contains("webhook: delivered") && text.contains(sent["lead_id"].as_str().unwrap()), "{text}");
    let subject = mail.header("subject").unwrap_or_default();
    assert!(!subject.contains("LEAD") && !text.contains("LEAD") && mail.html.is_none(), "the words for leads stay with leads: {subject}");
}

#[tokio::test]
async fn a_template_that_fails_fails_the_callback_and_no_lane() {
    let (_sink, client, host) = shop().await;
    let hook = host.enable("webhook", json!({"url": client.url("/x")}), json!({})).await;
    let entry = json!({"credential_id": hook, "template": "line one\n{{ event.data.status | nope }}"});
    let (status, problem) = host.post("/api/leads", &json!({"project": "ext:shop", "name": "A", "callbacks": {"then": [entry]}})).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/callbacks/then/0/template")), "{problem}");
    let entry = json!({"credential_id": hook, "template": "{{ event.data.total + 'x' }}"});
    let lead = json!({"name": "A", "integrations": [{"type": "webhook", "credential_id": hook}], "callbacks": {"then": [entry]}});
    let sent = host.send(lead).await;
    host.idle().await;
    let callback = host.get(&batch_of(&sent)).await["callbacks"][0].clone();
    assert_eq!((&callback["status"], &callback["last_code"]), (&json!("failed"), &json!("template_invalid")), "{callback:#}");
    assert_eq!(host.state(&hook).await, "active");
}

#[tokio::test]
async fn the_hosts_own_credential_can_be_seen_and_paused_but_not_written() {
    let (_sink, client, host) = shop().await;
    let sent = host.send(json!({"name": "Ann", "callbacks": {"then": [{"url": client.url("/then")}, {"url": client.url("/more")}]}})).await;
    host.idle().await;
    let batch = host.get(&batch_of(&sent)).await;
    let id = batch["callbacks"][0]["credential_id"].as_str().unwrap().to_owned();
    assert_eq!(batch["callbacks"][1]["credential_id"], json!(id), "one for each host");
    assert_eq!(host.get("/api/projects/ext:shop/credentials").await["data"].as_array().unwrap().len(), 1);
    let path = format!("/api/credentials/{id}");
    assert_eq!(host.get(&path).await["channel"], "webhook");
    assert_eq!(host.patch(&path, &json!({"enabled": false})).await.0, 409);
    assert_eq!(host.answer(host.request("DELETE", &path)).await.0, 409);
    host.act(&format!("{path}/pause")).await;
    let parked = host.send(json!({"name": "Bob", "callbacks": {"then": [{"url": client.url("/then")}]}})).await;
    host.advance(SECOND * 60).await;
    assert_eq!((host.get(&batch_of(&parked)).await["callbacks"][0]["status"].as_str(), client.received().len()), (Some("queued"), 2));
    host.act(&format!("{path}/resume")).await;
    host.idle().await;
    assert_eq!(client.received().len(), 3);
    // Leads never go there by themselves, and nobody can send them there.
    let aimed = json!({"project": "ext:shop", "name": "C", "integrations": [{"type": "webhook", "credential_id": id}]});
    assert_eq!(host.post("/api/leads", &aimed).await.0, 422);
}
