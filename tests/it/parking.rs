//! Lanes that wait: parked deliveries stay queued and lose no attempt.

use std::time::Duration;

use leadwire_fakes::{Answer, Gate, HttpSink};
use leadwire_tests::{Options, TestHost, outcomes, plugin_file};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

async fn shop() -> (HttpSink, TestHost, String) {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::start().await;
    host.project().await;
    let id = host.enable("webhook", json!({"url": sink.url("/hook")}), json!({})).await;
    (sink, host, id)
}

fn attempts(delivery: &Value) -> usize {
    outcomes(delivery).len()
}

#[tokio::test]
async fn a_refused_login_parks_the_lane_until_an_admin_mends_it() {
    let (sink, host, credential) = shop().await;
    sink.script([Answer::status(401).body("who are you")]);
    let first = host.lead(1).await;
    host.idle().await;
    let (second, third) = (host.lead(2).await, host.lead(3).await);
    host.advance(SECOND * 3_600).await;

    assert_eq!(sink.received().len(), 1);
    let shown = host.credential(&credential).await;
    assert_eq!((&shown["state"], &shown["state_reason"]["code"]), (&json!("invalid"), &json!("credential_invalid")));
    assert!(shown["state_reason"]["message"].as_str().unwrap().contains("who are you"), "{shown:#}");
    let delivery = host.delivery(&first).await;
    assert_eq!((&delivery["status"], outcomes(&delivery), &delivery["attempt_count"]), (&json!("queued"), vec!["released"], &json!(0)));
    for id in [&second, &third] {
        let delivery = host.delivery(id).await;
        assert_eq!((&delivery["status"], attempts(&delivery)), (&json!("queued"), 0));
    }

    let (status, shown) =
        host.patch(&format!("/api/credentials/{credential}"), &json!({"secrets": {"authorization": "Bearer right"}})).await;
    assert_eq!((status, &shown["state"]), (200, &json!("active")));
    host.idle().await;
    for id in [&first, &second, &third] {
        assert_eq!(host.status(id).await, "delivered");
    }
    let seen = sink.received();
    assert_eq!(seen.len(), 4);
    assert!(seen[1..].iter().all(|request| request.header("authorization") == Some("Bearer right")));
}

#[tokio::test]
async fn a_receiver_that_is_gone_for_good_gets_nothing_more() {
    let (sink, host, credential) = shop().await;
    sink.always(Answer::status(410));
    let first = host.lead(1).await;
    host.idle().await;
    let second = host.lead(2).await;
    host.advance(SECOND * 60).await;
    assert_eq!((host.status(&first).await.as_str(), host.state(&credential).await.as_str()), ("failed", "invalid"));
    assert_eq!((host.status(&second).await.as_str(), sink.received().len()), ("queued", 1));
    sink.always(Answer::ok());
    host.act(&format!("/api/credentials/{credential}/resume")).await;
    host.idle().await;
    assert_eq!((host.status(&second).await.as_str(), sink.received().len()), ("delivered", 2));
}

#[tokio::test]
async fn a_paused_credential_collects_and_sends_after_resume() {
    let (sink, host, credential) = shop().await;
    let shown = host.act(&format!("/api/credentials/{credential}/pause")).await;
    assert_eq!((&shown["state"], &shown["enabled"]), (&json!("paused"), &json!(true)));
    let ids = [host.lead(1).await, host.lead(2).await];
    host.advance(SECOND * 600).await;
    assert_eq!(sink.received().len(), 0);
    assert_eq!(host.act(&format!("/api/credentials/{credential}/resume")).await["state"], "active");
    host.idle().await;
    for id in &ids {
        let delivery = host.delivery(id).await;
        assert_eq!((&delivery["status"], attempts(&delivery)), (&json!("delivered"), 1));
    }
    assert_eq!(sink.received().len(), 2);
}

#[tokio::test]
async fn a_disabled_credential_keeps_what_is_queued_and_gets_nothing_new() {
    let (sink, host, credential) = shop().await;
    let path = format!("/api/credentials/{credential}");
    host.act(&format!("{path}/pause")).await;
    let parked = host.lead(1).await;
    assert_eq!(host.patch(&path, &json!({"enabled": false})).await.0, 200);
    host.act(&format!("{path}/resume")).await;
    host.advance(SECOND * 60).await;
    assert_eq!((host.status(&parked).await.as_str(), sink.received().len()), ("queued", 0));
    let sent = host.send(json!({"name": "Bob"})).await;
    assert_eq!((sent["deliveries"].as_array().unwrap().len(), &sent["status"]), (0, &json!("unrouted")));
    assert_eq!(sent["warnings"][0]["code"], "no_credentials");
    host.patch(&path, &json!({"enabled": true})).await;
    host.idle().await;
    assert_eq!((host.status(&parked).await.as_str(), sink.received().len()), ("delivered", 1));
}

#[tokio::test]
async fn twenty_failures_in_a_row_open_the_breaker_which_probes_with_one_call() {
    let (sink, host, credential) = shop().await;
    host.patch(&format!("/api/credentials/{credential}"), &json!({"retry": {"schedule": ["1m", "1m", "1m"]}})).await;
    sink.always(Answer::status(500));
    for number in 0..20 {
        host.lead(number).await;
        host.idle().await;
    }
    assert_eq!(sink.received().len(), 20);
    let shown = host.credential(&credential).await;
    assert_eq!((&shown["state"], &shown["state_reason"]["code"]), (&json!("breaker_open"), &json!("breaker_open")));
    let mut waiting = Vec::new();
    for number in 20..26 {
        waiting.push(host.lead(number).await);
    }
    host.advance(Duration::from_millis(4_999)).await;
    assert_eq!(sink.received().len(), 20);

    host.advance(Duration::from_millis(1)).await;
    assert_eq!(sink.received().len(), 21, "one probe, and it failed");
    assert_eq!(host.state(&credential).await, "breaker_open");
    host.advance(SECOND * 9).await;
    assert_eq!(sink.received().len(), 21, "the pause has doubled");

    // The next probe is held: while it runs nothing else goes out, and then the lane ramps up.
    let gate = Gate::closed();
    sink.always(Answer::ok().held(&gate));
    host.clock.advance(SECOND);
    host.host().lanes.poke();
    sink.wait_for(22).await;
    gate.step(1);
    sink.wait_for(24).await;
    gate.open();
    host.idle().await;
    assert_eq!(host.state(&credential).await, "active");
    host.advance(SECOND * 70).await;
    for id in &waiting {
        assert_eq!(host.status(id).await, "delivered");
    }
    assert_eq!(sink.received().len(), 21 + 26);
}

#[tokio::test]
async fn one_short_outage_under_load_does_not_park_the_lane_for_minutes() {
    let (sink, host, credential) = shop().await;
    host.patch(&format!("/api/credentials/{credential}"), &json!({"retry": {"schedule": ["1s", "1m"]}})).await;
    let gate = Gate::closed();
    sink.always(Answer::status(500).held(&gate));
    for number in 0..40 {
        host.lead(number).await;
    }
    // Sixteen calls are in flight when the breaker opens; their failures are the same outage.
    sink.wait_for(16).await;
    gate.open();
    host.idle().await;
    assert_eq!(host.state(&credential).await, "breaker_open");
    sink.always(Answer::ok());
    host.advance(SECOND * 5).await;
    assert_eq!(host.state(&credential).await, "active");
    assert_eq!(host.get("/api/deliveries?status=delivered").await["data"].as_array().unwrap().len(), 40);
}

#[tokio::test]
async fn leads_wait_for_a_plugin_that_was_removed_and_go_out_when_it_is_back() {
    let (sink, host, credential) = shop().await;
    let file = plugin_file("webhook");
    let installed = host.folder().join("channels").join(file.file_name().unwrap());
    std::fs::remove_file(&installed).unwrap();
    host.host().registry.scan().await;
    let id = host.lead(1).await;
    host.advance(SECOND * 60).await;
    let shown = host.credential(&credential).await;
    assert_eq!((&shown["state"], &shown["state_reason"]["code"]), (&json!("plugin_missing"), &json!("plugin_missing")));
    let delivery = host.delivery(&id).await;
    assert_eq!((&delivery["status"], attempts(&delivery)), (&json!("queued"), 0));

    std::fs::copy(&file, &installed).unwrap();
    host.host().registry.scan().await;
    host.advance(SECOND).await;
    assert_eq!((host.status(&id).await.as_str(), sink.received().len()), ("delivered", 1));
    assert_eq!(host.state(&credential).await, "active");
}

#[tokio::test]
async fn a_credential_without_its_plugin_says_so_before_anything_is_sent() {
    let (_sink, host, credential) = shop().await;
    let file = plugin_file("webhook");
    std::fs::remove_file(host.folder().join("channels").join(file.file_name().unwrap())).unwrap();
    host.host().registry.scan().await;
    assert_eq!(host.state(&credential).await, "plugin_missing");
}

#[tokio::test]
async fn settings_that_cannot_work_park_the_lane_and_cost_no_lead() {
    let host = TestHost::start().await;
    host.project().await;
    let config = json!({"host": "mail.example", "from": "leads@shop.example", "to": ["sales@shop.example"]});
    let credential = host.enable("email", config, json!({})).await;
    // Stored by an older host, say: it passes the schema, but no server has such a name.
    let store = &host.host().store;
    let mut stored = store.credential(credential.parse().unwrap()).await.unwrap().unwrap();
    stored.config.insert("host".into(), json!("mail.example.123"));
    store.update_credential(&stored).await.unwrap();
    host.host().lanes.credential_changed(stored.id);
    let id = host.lead(1).await;
    host.advance(SECOND).await;
    let delivery = host.delivery(&id).await;
    assert_eq!((&delivery["status"], attempts(&delivery)), (&json!("queued"), 0), "{delivery:#}");
    let shown = host.credential(&credential).await;
    assert_eq!((&shown["state"], &shown["state_reason"]["code"]), (&json!("invalid"), &json!("config_invalid")));
}

#[tokio::test]
async fn deleting_a_credential_cancels_what_waits_for_it() {
    let (sink, host, credential) = shop().await;
    host.act(&format!("/api/credentials/{credential}/pause")).await;
    let id = host.lead(1).await;
    let (status, _) = host.answer(host.request("DELETE", &format!("/api/credentials/{credential}"))).await;
    assert_eq!(status, 204);
    host.advance(SECOND * 60).await;
    assert_eq!((host.status(&id).await.as_str(), sink.received().len()), ("cancelled", 0));
}

#[tokio::test]
async fn what_a_receiver_asked_for_holds_over_a_restart_and_a_change_of_the_name() {
    let (sink, host, credential) = shop().await;
    sink.always(Answer::status(429).header("retry-after", "3600"));
    let first = host.lead(1).await;
    host.idle().await;
    let second = host.lead(2).await;
    let mut host = host;
    for _ in 0..3 {
        host = host.restart().await;
        host.advance(SECOND * 60).await;
        assert_eq!(host.state(&credential).await, "throttled");
        let (status, _) = host.patch(&format!("/api/credentials/{credential}"), &json!({"name": "Another name"})).await;
        assert_eq!(status, 200);
        host.idle().await;
    }
    assert_eq!(sink.received().len(), 1, "asked once, and told to wait for an hour");

    // When the hour is over, or an admin says so, it goes on.
    sink.always(Answer::ok());
    host.act(&format!("/api/credentials/{credential}/resume")).await;
    host.idle().await;
    for id in [&first, &second] {
        assert_eq!(host.status(id).await, "delivered");
    }
    let host = host.restart().await;
    let third = host.lead(3).await;
    host.idle().await;
    assert_eq!(host.status(&third).await, "delivered");
}

#[tokio::test]
async fn a_project_with_slow_receivers_holds_up_no_other() {
    let (slow, quick) = (HttpSink::start().await.unwrap(), HttpSink::start().await.unwrap());
    let host = TestHost::with(Options { plugins: vec!["webhook"], settings: vec![("max_calls", "16".into())], ..Options::default() }).await;
    let gate = Gate::closed();
    slow.always(Answer::ok().held(&gate));
    for (project, sink) in [("slow", &slow), ("quick", &quick)] {
        assert_eq!(host.post("/api/projects", &json!({"external_id": project, "name": project})).await.0, 201);
        for number in 0..3 {
            let credential = json!({"channel": "webhook", "name": number.to_string(), "config": {"url": sink.url(&format!("/{number}"))}});
            assert_eq!(host.post(&format!("/api/projects/ext:{project}/credentials"), &credential).await.0, 201);
        }
    }
    let send = async |project: &str, number: u32, wait: &str| {
        let lead = json!({"project": format!("ext:{project}"), "name": "Ivan", "phone": format!("+7916{number:07}")});
        let answer = host.request("POST", "/api/leads").header("prefer", wait).json(&lead).send().await.unwrap();
        answer.json::<Value>().await.unwrap()
    };
    for number in 0..20 {
        send("slow", number, "wait=0").await;
    }
    slow.wait_for(12).await;
    // Twelve of the sixteen calls hang in one project; the other project's leads go out all the same.
    for number in 100..105 {
        let sent = send("quick", number, "wait=30").await;
        assert_eq!(sent["status"], "completed", "{sent:#}");
    }
    assert_eq!((slow.received().len(), quick.received().len()), (12, 15));
    gate.open();
    host.idle().await;
    assert_eq!(slow.received().len(), 60);
}
