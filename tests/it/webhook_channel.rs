//! The channel `webhook`: what a receiver gets, and what its answers lead to.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use leadwire_fakes::{Answer, Gate, HttpSink, Manner, Request};
use leadwire_tests::{Options, TestHost, codes, outcomes};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const SECOND: Duration = Duration::from_secs(1);
const NEW: &str = "whsec_W2T7URdALJ/km5Hf5Kyvk2o/MqygU4SyZBpCXT+mAGc=";
const OLD: &str = "whsec_oyEQ673IaXPW3Gjis5kfT+TRs06BqGVN";

async fn shop(credential: Value) -> (HttpSink, TestHost, String) {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::with(Options { plugins: vec!["webhook"], ..Options::default() }).await;
    host.project().await;
    let mut body = json!({"channel": "webhook", "name": "hook", "config": {}});
    body.as_object_mut().unwrap().extend(credential.as_object().unwrap().clone());
    if body["config"]["url"].is_null() {
        body["config"]["url"] = json!(sink.url("/hook"));
    }
    let id = host.enable_with(body).await;
    (sink, host, id)
}

/// HMAC-SHA256 by its definition, apart from the code that is tested.
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
async fn a_lead_comes_as_signed_json_with_the_admins_headers() {
    let (sink, host, _) = shop(json!({
        "config": {"method": "PUT", "headers": {"X-Shop": "7", "accept": "text/plain"}},
        "secrets": {"signing_secret": NEW, "authorization": "Bearer top-secret-token"}
    }))
    .await;
    let sent = host
        .send(json!({"entity": "landing", "name": "Иван «Vanya» 😀", "phone": "8 (916) 123-45-67", "email": "ivan@example.com",
            "comment": "a\nb\t\"c\"", "value": {"amount": "1500.00", "currency": "RUB"}, "fields": {"car": "Lada"}}))
        .await;
    host.idle().await;
    let request = &sink.received()[0];
    assert_eq!((request.method.as_str(), request.header("content-type")), ("PUT", Some("application/json")));
    assert_eq!((request.header("x-shop"), request.header("accept")), (Some("7"), Some("text/plain")));
    assert_eq!(request.header("authorization"), Some("Bearer top-secret-token"));
    assert_eq!(request.header("webhook-signature").unwrap(), signature(NEW, request));
    assert_eq!(request.header("webhook-timestamp"), Some("1795341600"));
    let body = request.json();
    assert_eq!((&body["type"], &body["timestamp"]), (&json!("lead.created"), &json!("2026-11-22T10:00:00Z")));
    let data = &body["data"];
    assert_eq!((&data["name"], &data["comment"]), (&json!("Иван «Vanya» 😀"), &json!("a\nb\t\"c\"")));
    assert_eq!((&data["delivery_id"], &data["fields"]["car"]), (&sent["deliveries"][0]["id"], &json!("Lada")));
    assert_eq!(data["emails"], json!(["ivan@example.com"]));

    let shown = host.first_delivery(&sent).await.to_string();
    for hidden in ["top-secret", "ivan@example.com", "9161234567", NEW] {
        assert!(!shown.contains(hidden), "{hidden} in {shown}");
    }
}

#[tokio::test]
async fn a_form_survives_every_kind_of_character() {
    let (sink, host, _) = shop(json!({"config": {"format": "form"}, "secrets": {"signing_secret": NEW}})).await;
    let hard = "Иван & co = 1+1 😀 \"x\" %41\nline";
    host.send(json!({"name": hard, "phones": ["+79161234567"], "fields": {"a&b=": hard}})).await;
    host.idle().await;
    let request = &sink.received()[0];
    assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
    let form = request.form();
    let value = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!((value("type"), value("data.name"), value("data.fields.a&b=")), (Some("lead.created"), Some(hard), Some(hard)));
    assert_eq!(value("data.phones.0.e164"), Some("+79161234567"));
    assert_eq!(request.header("webhook-signature").unwrap(), signature(NEW, request));
}

#[tokio::test]
async fn while_a_secret_rotates_both_signatures_are_sent() {
    let (sink, host, credential) = shop(json!({"secrets": {"signing_secret": NEW, "signing_secret_previous": OLD}})).await;
    host.lead(1).await;
    host.idle().await;
    let request = &sink.received()[0];
    let both = format!("{} {}", signature(NEW, request), signature(OLD, request));
    assert_eq!(request.header("webhook-signature").unwrap(), both);
    host.patch(&format!("/api/credentials/{credential}"), &json!({"secrets": {"signing_secret_previous": null}})).await;
    host.lead(2).await;
    host.idle().await;
    let request = &sink.received()[1];
    assert_eq!(request.header("webhook-signature").unwrap(), signature(NEW, request));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (sink, host, _) = shop(json!({"secrets": {"authorization": "Bearer top-secret-token"}})).await;
    let elsewhere = HttpSink::start().await.unwrap();
    sink.script([Answer::redirect(&elsewhere.url("/stolen"))]);
    let id = host.lead(1).await;
    host.advance(SECOND * 60).await;
    let delivery = host.delivery(&id).await;
    assert_eq!((&delivery["status"], codes(&delivery)), (&json!("failed"), vec!["http_302"]));
    assert_eq!((sink.received().len(), elsewhere.received().len()), (1, 0));
}

#[tokio::test]
async fn a_receiver_that_said_yes_and_never_stops_talking_has_the_lead() {
    let (sink, host, _) = shop(json!({})).await;
    for answer in [
        Answer::endless(),
        Answer::ok().body(vec![b'x'; 300_000]),
        Answer::ok().body("half of it").manner(Manner::CloseWithin),
        Answer::ok().body("short").manner(Manner::ClaimsMore(10)),
        Answer::status(204),
        Answer::status(299).body(vec![0xff, 0xfe]),
        Answer::ok().after_interim(103),
    ] {
        sink.forget();
        sink.script([answer.clone()]);
        let sent = host.send(json!({"name": format!("{answer:?}").chars().take(200).collect::<String>()})).await;
        host.advance_by_seconds(5).await;
        let delivery = host.first_delivery(&sent).await;
        assert_eq!((outcomes(&delivery), sink.received().len()), (vec!["delivered"], 1), "{delivery:#}");
    }
}

#[tokio::test]
async fn an_answer_that_is_no_answer_is_tried_again() {
    let (sink, host, _) = shop(json!({})).await;
    sink.script([Answer::ok().manner(Manner::Garbage(b"\x16\x03\x01 hello".to_vec())), Answer::big_header(2 << 20)]);
    let id = host.lead(1).await;
    host.advance_by_seconds(5).await;
    let delivery = host.delivery(&id).await;
    assert_eq!((&delivery["status"], outcomes(&delivery)), (&json!("delivered"), vec!["retry", "retry", "delivered"]), "{delivery:#}");
}

#[tokio::test]
async fn mapped_fields_stand_among_the_leads_own() {
    let (sink, host, _) = shop(json!({"mapping": {
        "TITLE": "{{ lead.name | upper }} of {{ project.name }}", "SOURCE": {"const": 7},
        "STAGE": {"from": "lead.fields.stage", "map": {"new": "NEW"}, "default": "OTHER"}
    }}))
    .await;
    host.send(json!({"name": "Ann", "fields": {"stage": "new", "car": "Lada"}})).await;
    host.idle().await;
    let fields = &sink.received()[0].json()["data"]["fields"];
    assert_eq!(fields, &json!({"stage": "new", "car": "Lada", "TITLE": "ANN of Shop", "SOURCE": 7, "STAGE": "NEW"}));
}

#[tokio::test]
async fn a_filter_skips_what_it_does_not_let_through() {
    let (sink, host, id) = shop(json!({"filter": "lead.value != null && lead.value.number >= 1000.0 && 'vip' in lead.fields.tags"})).await;
    let lead = |name: &str, amount: &str, tags: Value| json!({"name": name, "value": {"amount": amount, "currency": "RUB"}, "fields": {"tags": tags}});
    let rich = host.send(lead("Ann", "1500.00", json!(["vip"]))).await;
    let poor = host.send(lead("Bob", "10.00", json!(["vip"]))).await;
    host.idle().await;
    assert_eq!(host.first_delivery(&rich).await["status"], "delivered");
    let skipped = host.first_delivery(&poor).await;
    assert_eq!((&skipped["status"], codes(&skipped), sink.received().len()), (&json!("skipped"), vec!["filtered"], 1));
    assert_eq!(host.get(&format!("/api/batches/{}", poor["batch_id"].as_str().unwrap())).await["status"], "completed");
    assert_eq!(host.get(&format!("/api/leads/{}", poor["lead_id"].as_str().unwrap())).await["status"], "completed");
    // A lead without the field that the filter asks for is not let through either, and is told why.
    let odd = host.send(json!({"name": "Eve", "value": {"amount": "1500.00", "currency": "RUB"}})).await;
    host.idle().await;
    let kept = host.first_delivery(&odd).await;
    assert_eq!((&kept["status"], codes(&kept)), (&json!("skipped"), vec!["filtered"]));
    assert!(kept["attempts"][0]["message"].as_str().unwrap().contains("no `tags`"), "{kept:#}");
    // One that is too large for the filter fails, alone: it was not tried.
    let tags: Vec<u32> = (0..2_000).collect();
    let filter = json!({"filter": "lead.fields.tags.exists(t, t == 7)"});
    let (status, _) = host.patch(&format!("/api/credentials/{id}"), &filter).await;
    assert_eq!(status, 200);
    let large = host.send(json!({"name": "Large", "fields": {"tags": tags}})).await;
    host.idle().await;
    let failed = host.first_delivery(&large).await;
    assert_eq!((&failed["status"], codes(&failed)), (&json!("failed"), vec!["filter_invalid"]));
    assert!(failed["attempts"][0]["message"].as_str().unwrap().contains("2000 entries"), "{failed:#}");
}

#[tokio::test]
async fn an_address_inside_is_refused_unless_the_operator_allows_it() {
    let inside = HttpSink::start().await.unwrap();
    let host = TestHost::with(Options {
        plugins: vec!["webhook"],
        settings: vec![("egress_allow", String::new()), ("egress_ports", inside.addr().port().to_string())],
        ..Options::default()
    })
    .await;
    host.project().await;
    let port = inside.addr().port();
    for (number, name) in
        ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"].into_iter().enumerate()
    {
        let id = host.enable("webhook", json!({"url": format!("http://{name}:{port}/hook")}), json!({})).await;
        let sent = host.send(json!({"name": number.to_string(), "integrations": [{"type": "webhook", "credential_id": id}]})).await;
        host.idle().await;
        let delivery = host.first_delivery(&sent).await;
        assert_eq!((&delivery["status"], codes(&delivery)), (&json!("failed"), vec!["http_denied"]), "{name}: {delivery:#}");
        let (status, check) = host.post(&format!("/api/credentials/{id}/check"), &json!({})).await;
        assert_eq!((status, &check["ok"]), (200, &json!(false)), "{check}");
    }
    assert_eq!(inside.received().len(), 0);
}

#[tokio::test]
async fn settings_of_one_send_stand_over_the_credentials() {
    let (sink, host, _) = shop(json!({"config": {"headers": {"x-a": "1"}}})).await;
    let settings = json!({"url": sink.url("/special"), "method": "PATCH", "headers": {"x-b": "2"}});
    let sent = host.send(json!({"name": "Ann", "integrations": [{"type": "webhook", "settings": settings}]})).await;
    host.idle().await;
    assert_eq!(host.first_delivery(&sent).await["settings"], settings);
    host.lead(1).await;
    host.idle().await;
    let seen = sink.received();
    assert_eq!((seen[0].path.as_str(), seen[0].method.as_str(), seen[0].header("x-b")), ("/special", "PATCH", Some("2")));
    assert_eq!((seen[1].path.as_str(), seen[1].method.as_str(), seen[1].header("x-a")), ("/hook", "POST", Some("1")));
}

#[tokio::test]
async fn a_key_that_only_sends_leads_cannot_redirect_secrets() {
    let (sink, mut host, _) = shop(json!({"secrets": {"authorization": "Bearer top-secret-token"}})).await;
    let (_, key) = host.post("/api/keys", &json!({"name": "site", "scopes": ["leads:write", "leads:read"], "project": "ext:shop"})).await;
    host.key(key["key"].as_str().unwrap());
    let send = |settings: Value| json!({"name": "Ann", "integrations": ["webhook", {"type": "webhook", "settings": settings}]});
    let (status, problem) = host.post("/api/leads", &send(json!({"url": sink.url("/thief")}))).await;
    assert_eq!(
        (status, &problem["errors"][0]["pointer"], &problem["errors"][0]["code"]),
        (422, &json!("/integrations/1/settings/url"), &json!("setting_fixed"))
    );
    let (status, problem) = host.post("/api/leads", &send(json!({"metod": "PUT"}))).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/integrations/1/settings/metod")), "{problem:#}");
    let (status, _) = host.post("/api/leads", &send(json!({"method": "PUT"}))).await;
    assert_eq!(status, 202);
    host.idle().await;
    assert_eq!(
        sink.received().iter().map(|request| request.method.as_str()).collect::<std::collections::BTreeSet<_>>(),
        ["POST", "PUT"].into()
    );
}

#[tokio::test]
async fn a_slow_receiver_holds_up_nobody_else() {
    let (sink, host, _) = shop(json!({})).await;
    let gate = Gate::closed();
    sink.always_for("/hook", Answer::ok().held(&gate));
    let other = host.enable("webhook", json!({"url": sink.url("/other")}), json!({})).await;
    for number in 0..20 {
        host.send(json!({"name": number.to_string(), "integrations": ["webhook"]})).await;
    }
    // All twenty of the quick one, and as many of the slow one as may run at once.
    sink.wait_for(20 + 16).await;
    assert_eq!(sink.received().iter().filter(|request| request.path == "/other").count(), 20);
    gate.open();
    host.idle().await;
    assert_eq!(sink.received().len(), 40);
    assert_eq!(host.state(&other).await, "active");
}

#[tokio::test]
async fn settings_that_can_never_work_are_refused_when_they_are_entered() {
    let host = leadwire_tests::TestHost::start().await;
    host.project().await;
    let enter = async |channel: &str, config: Value, secrets: Value| {
        let credential = json!({"channel": channel, "name": "x", "config": config, "secrets": secrets});
        host.post("/api/projects/ext:shop/credentials", &credential).await
    };
    for url in ["http://example.com:99999/", "https://xn--/", "http://[fe80::1%25eth0]/"] {
        let (status, problem) = enter("webhook", json!({"url": url}), json!({})).await;
        let pointer = problem["errors"][0]["pointer"].as_str().unwrap_or_default();
        assert!(status == 422 && pointer.starts_with("/config"), "{url}: {status} {problem}");
    }
    for mail in [json!({"host": "127.1"}), json!({"host": "host;x"}), json!({"host": "mail.example.123"})] {
        let mut config = json!({"port": 465, "tls": "implicit", "from": "a@shop.example", "to": ["b@shop.example"]});
        config.as_object_mut().unwrap().extend(mail.as_object().unwrap().clone());
        let (status, problem) = enter("email", config, json!({})).await;
        let pointer = problem["errors"][0]["pointer"].as_str().unwrap_or_default();
        assert!(status == 422 && pointer.starts_with("/config"), "{mail}: {status} {problem}");
    }
    let (status, made) = enter("webhook", json!({"url": "https://crm.example/leads"}), json!({})).await;
    assert_eq!(status, 201, "{made}");
}
