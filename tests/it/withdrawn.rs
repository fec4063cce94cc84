//! What a person withdrew, or whose time is over, is not sent any more; what a person sends again is.

use std::time::Duration;

use leadwire_fakes::{Answer, Gate, HttpSink};
use leadwire_tests::TestHost;
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

async fn shop(name: &str) -> (HttpSink, TestHost, String) {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::start().await;
    host.project().await;
    let id = hook(&host, &sink, name).await;
    host.idle().await;
    (sink, host, id)
}

async fn hook(host: &TestHost, sink: &HttpSink, name: &str) -> String {
    let config = json!({"url": sink.url(&format!("/{name}"))});
    host.enable_with(json!({"channel": "webhook", "name": name, "config": config, "retry": {"schedule": ["10s", "10s", "10s"]}})).await
}

fn batch_of(sent: &Value) -> String {
    format!("/api/batches/{}", sent["batch_id"].as_str().unwrap())
}

fn at(sink: &HttpSink, path: &str) -> usize {
    sink.received().iter().filter(|request| request.path == path).count()
}

#[tokio::test]
async fn a_batch_that_is_cancelled_while_it_is_sent_is_not_tried_again() {
    let (sink, host, _) = shop("crm").await;
    let gate = Gate::closed();
    sink.script_for("/crm", [Answer::status(503).held(&gate)]);
    let callbacks = json!({"then": [{"url": sink.url("/told")}]});
    let sent = host.send(json!({"name": "Ann", "callbacks": callbacks})).await;
    sink.wait_for(1).await;
    let cancelled = host.act(&format!("{}/cancel", batch_of(&sent))).await;
    assert_eq!((&cancelled["cancelled_count"], &cancelled["status"]), (&json!(0), &json!("pending")), "it is being sent");
    gate.open();
    host.idle().await;
    host.advance(SECOND * 3_600).await;
    let batch = host.get(&batch_of(&sent)).await;
    assert_eq!((at(&sink, "/crm"), &batch["status"]), (1, &json!("cancelled")), "{batch}");
    assert_eq!(batch["deliveries"][0]["last_code"], "http_503");
    assert_eq!(at(&sink, "/told"), 1, "and who waits for its end hears of it");

    // What arrives all the same has arrived.
    let gate = Gate::closed();
    sink.script_for("/crm", [Answer::ok().held(&gate)]);
    let sent = host.send(json!({"name": "Bob"})).await;
    sink.wait_for(3).await;
    host.act(&format!("{}/cancel", batch_of(&sent))).await;
    gate.open();
    host.idle().await;
    assert_eq!(host.get(&batch_of(&sent)).await["status"], "completed");
}

#[tokio::test]
async fn the_first_failure_stops_a_sibling_that_is_being_sent() {
    let (sink, host, crm) = shop("crm").await;
    let chat = hook(&host, &sink, "chat").await;
    host.idle().await;
    let gate = Gate::closed();
    sink.script_for("/crm", [Answer::status(503).held(&gate)]);
    sink.always_for("/chat", Answer::redirect("/elsewhere"));
    let list = json!([{"type": "webhook", "credential_id": crm}, {"type": "webhook", "credential_id": chat}]);
    let sent = host.send(json!({"name": "Ann", "integrations": list, "allow_failures": false})).await;
    sink.wait_for(2).await;
    while host.get(&batch_of(&sent)).await["counts"]["failed"] == 0 {
        tokio::task::yield_now().await;
    }
    gate.open();
    host.idle().await;
    host.advance(SECOND * 3_600).await;
    let batch = host.get(&batch_of(&sent)).await;
    let statuses: Vec<_> = batch["deliveries"].as_array().unwrap().iter().map(|one| one["status"].as_str().unwrap()).collect();
    assert_eq!((statuses, at(&sink, "/crm"), &batch["status"]), (vec!["cancelled", "failed"], 1, &json!("failed")));
}

#[tokio::test]
async fn nothing_is_sent_again_after_its_deadline() {
    let (sink, host, _) = shop("crm").await;
    let gate = Gate::closed();
    sink.script_for("/crm", [Answer::status(503).held(&gate)]);
    let sent = host.send(json!({"name": "Ann", "deadline_sec": 5})).await;
    sink.wait_for(1).await;
    host.clock.advance(SECOND * 6);
    gate.open();
    host.idle().await;
    host.advance(SECOND * 60).await;
    let delivery = host.first_delivery(&sent).await;
    assert_eq!((at(&sink, "/crm"), &delivery["status"], &delivery["last_code"]), (1, &json!("failed"), &json!("deadline")), "{delivery}");
}

#[tokio::test]
async fn a_retry_by_hand_outlives_the_deadline() {
    let (sink, host, crm) = shop("crm").await;
    sink.script_for("/crm", [Answer::redirect("/elsewhere")]);
    let sent = host.send(json!({"name": "Ann", "deadline_sec": 60})).await;
    host.idle().await;
    assert_eq!(host.first_delivery(&sent).await["status"], "failed");
    host.act(&format!("/api/credentials/{crm}/pause")).await;
    host.act(&format!("/api/deliveries/{}/retry", sent["deliveries"][0]["id"].as_str().unwrap())).await;
    host.advance(SECOND * 120).await;
    assert_eq!(host.first_delivery(&sent).await["status"], "queued");
    host.act(&format!("/api/credentials/{crm}/resume")).await;
    host.idle().await;
    assert_eq!(host.first_delivery(&sent).await["status"], "delivered");
}

#[tokio::test]
async fn who_cancels_a_batch_cancels_the_fallbacks_that_wait() {
    let (sink, host, crm) = shop("crm").await;
    let body = json!({"channel": "webhook", "name": "people", "entity": "nobody", "config": {"url": sink.url("/people")}});
    let people = host.enable_with(body).await;
    let rule = json!({"name": "in time", "credential_id": crm, "within_sec": 10, "to": [{"credential_id": people}]});
    assert_eq!(host.patch("/api/projects/ext:shop", &json!({"fallbacks": [rule]})).await.0, 200);
    for id in [&crm, &people] {
        host.act(&format!("/api/credentials/{id}/pause")).await;
    }
    let sent = host.send(json!({"name": "Ann"})).await;
    host.advance(SECOND * 10).await;
    assert_eq!(host.get(&batch_of(&sent)).await["fallbacks"][0]["status"], "queued");
    host.act(&format!("{}/cancel", batch_of(&sent))).await;
    for id in [&crm, &people] {
        host.act(&format!("/api/credentials/{id}/resume")).await;
    }
    host.advance(SECOND * 60).await;
    assert_eq!(sink.received().len(), 0);
    assert_eq!(host.get(&batch_of(&sent)).await["fallbacks"][0]["status"], "cancelled");
}

#[tokio::test]
async fn a_credential_that_rules_name_is_not_deleted_before_them() {
    let (sink, host, crm) = shop("crm").await;
    let chat = hook(&host, &sink, "chat").await;
    let same = json!([{"name": "same", "credential_id": crm, "within_sec": 10, "to": [{"credential_id": crm}]}]);
    let (status, problem) = host.patch("/api/projects/ext:shop", &json!({"fallbacks": same})).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/fallbacks/0/to/0/credential_id")), "{problem}");
    let fallbacks = json!([{"name": "CRM in time", "credential_id": crm, "within_sec": 10, "to": [{"credential_id": chat}]}]);
    let notifications = json!([{"name": "Night watch", "on": ["failed"], "credential_id": chat}]);
    let (status, problem) = host.patch("/api/projects/ext:shop", &json!({"fallbacks": fallbacks, "notifications": notifications})).await;
    assert_eq!(status, 200, "{problem}");
    let delete = async |id: &str| host.answer(host.request("DELETE", &format!("/api/credentials/{id}"))).await;
    let (status, problem) = delete(&chat).await;
    assert_eq!((status, &problem["code"]), (409, &json!("credential_in_use")));
    assert!(problem["detail"].as_str().unwrap().contains("CRM in time, Night watch"), "{problem}");
    assert_eq!(delete(&crm).await.0, 409);
    assert_eq!(host.patch("/api/projects/ext:shop", &json!({"fallbacks": [], "notifications": []})).await.0, 200);
    assert_eq!((delete(&chat).await.0, delete(&crm).await.0), (204, 204));
}

#[tokio::test]
async fn a_task_says_which_failures_have_no_credential_any_more() {
    let (sink, host, crm) = shop("crm").await;
    sink.always_for("/crm", Answer::redirect("/elsewhere"));
    let id = host.lead(1).await;
    host.idle().await;
    host.answer(host.request("DELETE", &format!("/api/credentials/{crm}"))).await;
    let typo = json!({"filter": {"status": "failed"}, "integration_types": ["webhook", "emial"]});
    let (status, problem) = host.post("/api/leads/resend", &typo).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/integration_types/1")), "{problem}");
    let (status, started) = host.post("/api/deliveries/retry", &json!({"filter": {"status": "failed"}})).await;
    assert_eq!(status, 202, "{started}");
    let path = format!("/api/tasks/{}", started["task_id"].as_str().unwrap());
    let task = loop {
        let task = host.get(&path).await;
        if task["status"] != "running" {
            break task;
        }
        host.clock.advance(SECOND);
        tokio::task::yield_now().await;
    };
    assert_eq!((&task["dispatched_count"], &task["errors_count"]), (&json!(0), &json!(1)), "{task}");
    assert_eq!((&task["errors"][0]["id"], &task["errors"][0]["code"]), (&json!(id), &json!("credential_gone")));
    let delivery = host.delivery(&id).await;
    assert_eq!((&delivery["status"], &delivery["last_code"]), (&json!("failed"), &json!("http_302")), "what is known of it stays");
}

#[tokio::test]
async fn a_lead_does_not_go_elsewhere_because_the_given_credential_cannot_be_used() {
    let (_sink, host, _) = shop("crm").await;
    let stored =
        host.enable("telegram", json!({"chat_id": 1}), json!({"bot_token": "987654321:BBEabcdefghijklmnopqrstuvwxyzABCDEF"})).await;
    let file = leadwire_tests::plugin_file("telegram");
    std::fs::remove_file(host.folder().join("channels").join(file.file_name().unwrap())).unwrap();
    host.host().registry.scan().await;
    let given = json!({"telegram": {"config": {"chat_id": 2}, "secrets": {"bot_token": "123456789:AAEabcdefghijklmnopqrstuvwxyzABCDEF"}}});
    let send = async |list: Value| {
        let body = json!({"lead": {"name": format!("Ann {list}"), "project": "ext:shop"}, "integrations": list, "credentials": given});
        let (status, sent) = host.post("/api/integrations/send-batch", &body).await;
        assert_eq!((status, &sent["warnings"][0]["pointer"]), (202, &json!("/credentials/telegram")), "{sent}");
        sent["deliveries"].as_array().unwrap().iter().map(|one| one["channel"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(send(json!("auto")).await, ["webhook"]);
    assert_eq!(send(json!(["telegram"])).await, [""; 0]);
    let by_id = json!(["telegram", {"type": "telegram", "credential_id": stored}]);
    assert_eq!(send(by_id).await, ["telegram"], "one that is named by its id is that one");
}

#[tokio::test]
async fn a_key_that_only_sends_does_not_read_stored_leads_by_sending_them_to_itself() {
    let (sink, mut host, crm) = shop("crm").await;
    let sent = host.send(json!({"name": "Ann", "phone": "+79161234567"})).await;
    host.idle().await;
    let body = json!({"name": "form", "scopes": ["leads:write"], "project": "ext:shop"});
    let (_, key) = host.post("/api/keys", &body).await;
    host.key(key["key"].as_str().unwrap());
    let mine = json!({"webhook": {"config": {"url": sink.url("/mine")}}});
    for own in [
        json!({"credentials": mine.clone()}),
        json!({"integrations": [{"type": "webhook", "credential_id": crm, "settings": {"url": sink.url("/mine")}}]}),
        json!({"callbacks": {"then": [{"credential_id": crm, "template": "{{ lead.name }}"}]}}),
    ] {
        let mut body = own.clone();
        body["lead_id"] = sent["lead_id"].clone();
        let (status, problem) = host.post("/api/integrations/send-batch", &body).await;
        assert_eq!((status, &problem["code"]), (403, &json!("insufficient_scope")), "{own}: {problem}");
    }
    let (status, _) = host.post("/api/integrations/send-batch", &json!({"lead_id": sent["lead_id"]})).await;
    assert_eq!(status, 202, "where the project's leads go anyway");
    let (status, _) = host.post("/api/integrations/send-batch", &json!({"lead": {"name": "Bob"}, "credentials": mine})).await;
    assert_eq!(status, 202, "its own lead goes where it says");
    host.idle().await;
    assert_eq!((at(&sink, "/crm"), at(&sink, "/mine")), (2, 1));
}
