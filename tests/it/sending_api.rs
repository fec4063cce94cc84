//! What the calls that send leads answer, with everything real behind them.

use std::time::Duration;

use leadwire_fakes::bot::{Chat, ChatState};
use leadwire_fakes::{Answer, BotApi, Gate, HttpSink, SmtpReceiver};
use leadwire_tests::{Options, TestHost};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);
const TOKEN: &str = "123456789:AAEabcdefghijklmnopqrstuvwxyzABCDEF";

async fn shop() -> (HttpSink, TestHost, String) {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::start().await;
    host.project().await;
    let id = host.enable("webhook", json!({"url": sink.url("/hook")}), json!({})).await;
    (sink, host, id)
}

fn waiting(host: &TestHost, lead: Value, seconds: u32) -> reqwest::RequestBuilder {
    host.request("POST", "/api/leads").header("prefer", format!("wait={seconds}")).json(&lead)
}

#[tokio::test]
async fn a_client_that_waits_gets_the_end() {
    let (_sink, host, _) = shop().await;
    let response = waiting(&host, json!({"project": "ext:shop", "name": "Ann"}), 30).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["preference-applied"], "wait=30");
    let body: Value = response.json().await.unwrap();
    assert_eq!(
        (&body["status"], &body["deliveries"][0]["status"], &body["duplicate"]),
        (&json!("completed"), &json!("delivered"), &json!(false))
    );
}

#[tokio::test]
async fn a_client_that_waits_in_vain_hears_how_far_it_came() {
    let (sink, host, _) = shop().await;
    let gate = Gate::closed();
    sink.always(Answer::ok().held(&gate));
    let request = waiting(&host, json!({"project": "ext:shop", "name": "Ann"}), 5);
    let asked = tokio::spawn(async move { request.send().await.unwrap() });
    sink.wait_for(1).await;
    host.clock.advance(SECOND * 5);
    let response = asked.await.unwrap();
    assert_eq!(response.status(), 202);
    let body: Value = response.json().await.unwrap();
    assert_eq!((&body["deliveries"][0]["status"], &body["deliveries"][0]["due_at"]), (&json!("sending"), &Value::Null));
    gate.open();
    host.idle().await;
    assert_eq!(host.first_delivery(&body).await["status"], "delivered");
}

#[tokio::test]
async fn a_client_that_waits_hears_of_a_cancelled_batch_at_once() {
    let (_sink, host, credential) = shop().await;
    for end in ["cancel the batch", "cancel the delivery", "delete the credential"] {
        host.act(&format!("/api/credentials/{credential}/pause")).await;
        let request = waiting(&host, json!({"project": "ext:shop", "name": end, "external_id": end}), 60);
        let asked = tokio::spawn(async move { request.send().await.unwrap() });
        // Its delivery can be seen once it is stored.
        let delivery = loop {
            let list = host.get("/api/deliveries?status=queued").await;
            if let Some(found) = list["data"].as_array().unwrap().first() {
                break found.clone();
            }
            tokio::task::yield_now().await;
        };
        match end {
            "cancel the batch" => host.act(&format!("/api/batches/{}/cancel", delivery["batch_id"].as_str().unwrap())).await,
            "cancel the delivery" => host.act(&format!("/api/deliveries/{}/cancel", delivery["id"].as_str().unwrap())).await,
            _ => host.answer(host.request("DELETE", &format!("/api/credentials/{credential}"))).await.1,
        };
        let response = asked.await.unwrap();
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        assert_eq!((status.as_u16(), &body["deliveries"][0]["status"]), (200, &json!("cancelled")), "{end}");
    }
}

#[tokio::test]
async fn the_same_lead_twice_is_one_lead() {
    let (sink, host, _) = shop().await;
    let first = host.send(json!({"name": "Ann", "phone": "8 (916) 123-45-67", "comment": "call me"})).await;
    for again in [
        json!({"project": "ext:shop", "name": "Anna", "phones": ["+7 916 1234567"], "comment": "call me "}),
        json!({"project": "ext:shop", "name": "Ann", "phone": "79161234567", "comment": "call me"}),
    ] {
        let (status, body) = host.post("/api/leads", &again).await;
        assert_eq!((status, &body["duplicate"], &body["duplicate_of"]), (200, &json!(true), &first["lead_id"]), "{body}");
        assert_eq!((&body["status"], &body["deliveries"]), (&json!("duplicate"), &json!([])));
    }
    host.send(json!({"name": "Ann", "phone": "8 (916) 123-45-67", "comment": "something else"})).await;
    host.send(json!({"name": "Ann", "phone": "8 (916) 123-45-67", "comment": "call me", "external_id": "form-1"})).await;
    host.idle().await;
    assert_eq!(sink.received().len(), 3);
    host.advance(SECOND * 3_601).await;
    host.send(json!({"name": "Ann", "phone": "8 (916) 123-45-67", "comment": "call me"})).await;
    host.idle().await;
    assert_eq!(sink.received().len(), 4);
}

#[tokio::test]
async fn two_people_who_left_only_their_names_are_two_leads() {
    let (sink, host, _) = shop().await;
    for name in ["Ann", "Bob"] {
        host.send(json!({"name": name})).await;
    }
    let (status, _) = host.post("/api/leads", &json!({"project": "ext:shop", "name": "Ann"})).await;
    assert_eq!(status, 200);
    host.idle().await;
    assert_eq!(sink.received().len(), 2);
}

#[tokio::test]
async fn a_parked_credential_still_takes_leads() {
    let (_sink, host, credential) = shop().await;
    host.act(&format!("/api/credentials/{credential}/pause")).await;
    let sent = host.send(json!({"name": "Ann"})).await;
    assert_eq!((&sent["status"], &sent["deliveries"][0]["status"]), (&json!("accepted"), &json!("queued")));
    assert_eq!(sent["warnings"], json!([]));
}

#[tokio::test]
async fn the_same_key_sends_once() {
    let (sink, host, _) = shop().await;
    let ask = |body: Value| host.request("POST", "/api/leads").header("idempotency-key", "k1").json(&body).send();
    let lead = json!({"project": "ext:shop", "name": "Ann", "external_id": "1"});
    let first = ask(lead.clone()).await.unwrap();
    let second = ask(lead).await.unwrap();
    assert_eq!((first.status(), second.status()), (reqwest::StatusCode::ACCEPTED, reqwest::StatusCode::ACCEPTED));
    assert_eq!(second.headers()["idempotent-replayed"], "true");
    assert_eq!(first.json::<Value>().await.unwrap(), second.json::<Value>().await.unwrap());
    assert_eq!(ask(json!({"project": "ext:shop", "name": "Bob"})).await.unwrap().status(), 422);
    host.idle().await;
    assert_eq!(sink.received().len(), 1);
}

#[tokio::test]
async fn one_batch_to_named_integrations_of_a_stored_lead() {
    let (sink, host, _) = shop().await;
    let sent = host.send(json!({"name": "Ann", "external_id": "form-1", "delay_sec": 3600})).await;
    let body = json!({"lead_id": "ext:form-1", "project": "ext:shop", "integrations": ["webhook", "getresponse"]});
    let (status, again) = host.post("/api/integrations/send-batch", &body).await;
    assert_eq!((status, &again["lead_id"]), (202, &sent["lead_id"]), "{again}");
    assert_eq!(again["warnings"], json!([{"code": "channel_not_installed", "channel": "getresponse"}]));
    host.idle().await;
    assert_eq!((host.first_delivery(&again).await["status"].as_str(), sink.received().len()), (Some("delivered"), 1));
    let (status, problem) =
        host.post("/api/integrations/send-batch", &json!({"lead": {"name": "B"}, "project": "ext:shop", "integrations": ["webhok"]})).await;
    assert_eq!(
        (status, &problem["errors"][0]["pointer"], &problem["errors"][0]["code"]),
        (422, &json!("/integrations/0"), &json!("unknown_integration"))
    );
}

#[tokio::test]
async fn a_check_says_what_works_and_what_does_not() {
    let (sink, bot, smtp) = (HttpSink::start().await.unwrap(), BotApi::start().await.unwrap(), SmtpReceiver::start().await.unwrap());
    let rewrite = vec![("api.telegram.org".into(), bot.base_url())];
    let host = TestHost::with(Options { plugins: vec!["webhook", "telegram", "email"], rewrite, ..Options::default() }).await;
    host.project().await;
    let webhook = host.enable("webhook", json!({"url": sink.url("/hook")}), json!({"authorization": "Bearer top-secret"})).await;
    let telegram = host.enable("telegram", json!({"chat_id": 42}), json!({"bot_token": TOKEN})).await;
    let mail =
        json!({"host": "127.0.0.1", "port": smtp.addr().port(), "tls": "none", "from": "leads@shop.example", "to": ["sales@shop.example"]});
    let email = host.enable("email", mail, json!({})).await;
    let check = async |id: &str| host.act(&format!("/api/credentials/{id}/check")).await;
    let info = |check: &Value, name: &str| {
        let list = check["info"].as_array().unwrap();
        list.iter().find(|info| info["name"] == name).map(|info| info["value"].as_str().unwrap().to_owned())
    };

    let answer = check(&webhook).await;
    assert_eq!((&answer["ok"], info(&answer, "status").as_deref()), (&json!(true), Some("200")), "{answer}");
    assert_eq!((sink.received().len(), &sink.received()[0].json()["type"]), (1, &json!("leadwire.test")));
    let answer = check(&telegram).await;
    assert_eq!((info(&answer, "bot").as_deref(), info(&answer, "chat").as_deref()), (Some("@acme_leads_bot"), Some("Ann")), "{answer}");
    assert_eq!((check(&email).await["ok"].as_bool(), smtp.received().len()), (Some(true), 0));

    sink.script([Answer::status(401), Answer::status(500), Answer::redirect("/x"), Answer::close()]);
    for code in ["credential_invalid", "unavailable", "misconfigured"] {
        let answer = check(&webhook).await;
        assert_eq!((&answer["ok"], &answer["code"]), (&json!(false), &json!(code)), "{answer}");
    }
    assert_eq!(check(&webhook).await["ok"], false);
    bot.set_chat(42, Chat::new(ChatState::NotFound));
    let answer = check(&telegram).await;
    assert_eq!((&answer["ok"], &answer["code"]), (&json!(false), &json!("credential_invalid")));
    assert!(answer["message"].as_str().unwrap().contains("chat not found"), "{answer}");
    bot.revoke(TOKEN);
    let answer = check(&telegram).await;
    assert!(answer["message"].as_str().unwrap().contains("token"), "{answer}");
    drop(smtp);
    let answer = check(&email).await;
    assert_eq!((&answer["ok"], &answer["code"]), (&json!(false), &json!("unavailable")), "{answer}");
    assert_eq!(host.state(&telegram).await, "active", "a check alone parks nothing");
}
