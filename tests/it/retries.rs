//! What follows a failed attempt: when it is tried again, how often, and what people can do about it.

use std::time::Duration;

use leadwire_fakes::{Answer, HttpSink};
use leadwire_tests::{TestHost, codes, outcomes};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

async fn shop(credential: Value) -> (HttpSink, TestHost, String) {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::start().await;
    host.project().await;
    let mut body = json!({"channel": "webhook", "name": "hook", "config": {"url": sink.url("/hook")}});
    body.as_object_mut().unwrap().extend(credential.as_object().unwrap().clone());
    let id = host.enable_with(body).await;
    (sink, host, id)
}

/// Milliseconds from `at` to the next attempt.
async fn pause(host: &TestHost, delivery: &str) -> i64 {
    use leadwire::clock::Clock as _;
    let due = host.delivery(delivery).await["due_at"].as_str().unwrap().to_owned();
    leadwire::model::Timestamp::parse(&due).unwrap().as_millis() - host.clock.now().as_millis()
}

#[tokio::test]
async fn three_tries_at_one_and_two_seconds_and_then_it_has_failed() {
    let (sink, host, _) = shop(json!({})).await;
    sink.always(Answer::status(500).body("boom"));
    let sent = host.send(json!({"name": "Ann"})).await;
    let id = sent["deliveries"][0]["id"].as_str().unwrap();
    host.idle().await;

    assert_eq!(host.status(id).await, "queued");
    assert!((1_000..=1_100).contains(&pause(&host, id).await));
    host.advance(Duration::from_millis(999)).await;
    assert_eq!(sink.received().len(), 1);
    host.advance(Duration::from_millis(101)).await;
    assert_eq!(sink.received().len(), 2);
    assert!((2_000..=2_200).contains(&pause(&host, id).await));
    host.advance(Duration::from_millis(2_200)).await;

    let delivery = host.delivery(id).await;
    assert_eq!(delivery["status"], "failed");
    assert_eq!(delivery["attempt_count"], 3);
    assert_eq!((outcomes(&delivery), codes(&delivery)), (vec!["retry"; 3], vec!["http_500"; 3]));
    assert!(delivery["last_error"].as_str().unwrap().contains("boom"), "{delivery:#}");
    let batch = host.get(&format!("/api/batches/{}", sent["batch_id"].as_str().unwrap())).await;
    assert_eq!((&batch["status"], &batch["counts"]["failed"], &batch["counts"]["pending"]), (&json!("failed"), &json!(1), &json!(0)));
    assert_eq!(host.get(&format!("/api/leads/{}", sent["lead_id"].as_str().unwrap())).await["status"], "failed");
    host.advance(SECOND * 3_600).await;
    assert_eq!(sink.received().len(), 3, "a failed delivery is not tried again by itself");
}

#[tokio::test]
async fn a_batch_of_which_one_half_failed_is_partial() {
    let (sink, host, _) = shop(json!({})).await;
    host.enable("webhook", json!({"url": sink.url("/other")}), json!({})).await;
    sink.always_for("/other", Answer::status(302));
    let sent = host.send(json!({"name": "Ann"})).await;
    let batch = host.run_until_ended(sent["batch_id"].as_str().unwrap(), SECOND * 60).await;
    assert_eq!(batch["status"], "partial");
    assert_eq!(host.get(&format!("/api/leads/{}", sent["lead_id"].as_str().unwrap())).await["status"], "partial");
}

#[tokio::test]
async fn a_credential_has_its_own_schedule() {
    let (sink, host, _) = shop(json!({"retry": {"schedule": ["5s", "1m"]}})).await;
    sink.always(Answer::status(503));
    let id = host.lead(1).await;
    host.idle().await;
    assert!((5_000..=5_500).contains(&pause(&host, &id).await));
    host.advance(SECOND * 6).await;
    assert!((60_000..=66_000).contains(&pause(&host, &id).await));
    host.advance(SECOND * 66).await;
    assert_eq!((host.status(&id).await.as_str(), sink.received().len()), ("failed", 3));
}

#[tokio::test]
async fn a_credential_has_its_own_doubling_pauses() {
    let (sink, host, _) = shop(json!({"retry": {"tries": 4, "base_ms": 2000, "max_ms": 5000}})).await;
    sink.always(Answer::status(503));
    let id = host.lead(1).await;
    host.idle().await;
    for wanted in [2_000, 4_000, 5_000] {
        let pause = pause(&host, &id).await;
        assert!((wanted..=wanted * 11 / 10).contains(&pause), "{wanted}: {pause}");
        host.advance(Duration::from_millis(pause as u64)).await;
    }
    assert_eq!((host.status(&id).await.as_str(), sink.received().len()), ("failed", 4));
}

#[tokio::test]
async fn the_remote_sides_pause_wins_when_it_is_longer() {
    let (sink, host, _) = shop(json!({})).await;
    for (retry_after, pause_ms) in [
        ("60", 60_000..=60_000),
        // The clock stands at ten sharp for each: nothing was moved.
        ("Sun, 22 Nov 2026 10:02:00 GMT", 120_000..=120_000),
        ("Sun, 22 Nov 2026 09:00:00 GMT", 1_000..=1_100),
        ("0", 1_000..=1_100),
        ("soon", 1_000..=1_100),
        ("999999", 86_400_000..=86_400_000),
    ] {
        sink.script([Answer::retry_after(503, retry_after)]);
        let sent = host.send(json!({"name": retry_after})).await;
        let id = sent["deliveries"][0]["id"].as_str().unwrap();
        host.idle().await;
        let pause = pause(&host, id).await;
        assert!(pause_ms.contains(&pause), "{retry_after}: {pause}");
    }
}

#[tokio::test]
async fn too_many_requests_pauses_the_whole_lane_and_costs_no_attempt() {
    let (sink, host, credential) = shop(json!({})).await;
    sink.script([Answer::retry_after(429, "30")]);
    let first = host.lead(1).await;
    host.idle().await;
    let second = host.lead(2).await;
    host.idle().await;

    assert_eq!(sink.received().len(), 1, "the second lead waits too");
    let shown = host.credential(&credential).await;
    assert_eq!((&shown["state"], &shown["state_reason"]["code"]), (&json!("throttled"), &json!("throttled")));
    assert!(shown["state_reason"]["message"].as_str().unwrap().contains("10:00:30"), "{shown:#}");
    let delivery = host.delivery(&first).await;
    assert_eq!((outcomes(&delivery), &delivery["attempt_count"]), (vec!["released"], &json!(0)));
    assert_eq!(delivery["attempts"][0]["counted"], false);
    assert!(host.delivery(&second).await["attempts"].as_array().unwrap().is_empty());

    host.advance(SECOND * 29).await;
    assert_eq!(sink.received().len(), 1);
    host.advance(SECOND).await;
    assert_eq!((host.status(&first).await, host.status(&second).await), ("delivered".into(), "delivered".into()));
    assert_eq!(sink.received().len(), 3);
    assert_eq!(host.state(&credential).await, "active");
}

#[tokio::test]
async fn a_lane_that_was_throttled_with_nothing_left_to_send_is_active_again() {
    let (sink, host, credential) = shop(json!({})).await;
    sink.script([Answer::retry_after(429, "30")]);
    let id = host.lead(1).await;
    host.idle().await;
    assert_eq!(host.state(&credential).await, "throttled");
    host.act(&format!("/api/deliveries/{id}/cancel")).await;
    host.advance(SECOND * 31).await;
    assert_eq!(host.state(&credential).await, "active");
}

#[tokio::test]
async fn a_receiver_that_is_down_gets_the_lead_when_it_is_back() {
    let (sink, host, _) = shop(json!({})).await;
    let port = sink.addr().port();
    drop(sink);
    let id = host.lead(1).await;
    host.idle().await;
    let delivery = host.delivery(&id).await;
    assert_eq!((outcomes(&delivery), codes(&delivery)), (vec!["retry"], vec!["http_connect"]));
    let sink = HttpSink::start_on(port).await.unwrap();
    host.advance(SECOND * 2).await;
    assert_eq!((host.status(&id).await.as_str(), sink.received().len()), ("delivered", 1));
}

#[tokio::test]
async fn a_failed_delivery_is_retried_by_hand_under_its_own_id() {
    let (sink, host, _) = shop(json!({})).await;
    sink.always(Answer::status(302));
    let sent = host.send(json!({"name": "Ann"})).await;
    let (batch, id) = (sent["batch_id"].as_str().unwrap(), sent["deliveries"][0]["id"].as_str().unwrap());
    assert_eq!(host.run_until_ended(batch, SECOND * 10).await["status"], "failed");

    sink.always(Answer::ok());
    let queued = host.act(&format!("/api/deliveries/{id}/retry")).await;
    assert_eq!((&queued["status"], &queued["attempt_count"]), (&json!("queued"), &json!(0)));
    assert_eq!(host.run_until_ended(batch, SECOND * 10).await["status"], "completed");
    let seen = sink.received();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].header("webhook-id"), seen[1].header("webhook-id"));
    let delivery = host.delivery(id).await;
    assert_eq!(outcomes(&delivery), ["rejected", "delivered"]);
    assert_eq!(host.get(&format!("/api/leads/{}", sent["lead_id"].as_str().unwrap())).await["status"], "completed");
    let (status, problem) = host.post(&format!("/api/deliveries/{id}/retry"), &json!({})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("not_retryable")));
}

#[tokio::test]
async fn a_retry_by_hand_has_all_its_tries_again() {
    let (sink, host, _) = shop(json!({})).await;
    sink.always(Answer::status(500));
    let id = host.lead(1).await;
    host.advance_by_seconds(5).await;
    assert_eq!(host.status(&id).await, "failed");
    host.act(&format!("/api/deliveries/{id}/retry")).await;
    host.advance_by_seconds(5).await;
    let delivery = host.delivery(&id).await;
    assert_eq!((&delivery["status"], outcomes(&delivery).len(), sink.received().len()), (&json!("failed"), 6, 6));
    assert_eq!(delivery["attempts"][5]["no"], 6);
}

#[tokio::test]
async fn what_is_delayed_can_be_withdrawn() {
    let (sink, host, _) = shop(json!({})).await;
    let sent = host.send(json!({"name": "Ann", "delay_sec": 60})).await;
    let id = sent["deliveries"][0]["id"].as_str().unwrap();
    assert_eq!(sent["deliveries"][0]["due_at"], "2026-11-22T10:01:00Z");
    host.advance(SECOND * 59).await;
    assert_eq!(sink.received().len(), 0);
    assert_eq!(host.act(&format!("/api/deliveries/{id}/cancel")).await["status"], "cancelled");
    assert_eq!(host.get(&format!("/api/batches/{}", sent["batch_id"].as_str().unwrap())).await["status"], "cancelled");

    let sent = host.send(json!({"name": "Bob", "delay_sec": 60})).await;
    let cancelled = host.act(&format!("/api/batches/{}/cancel", sent["batch_id"].as_str().unwrap())).await;
    assert_eq!((&cancelled["status"], &cancelled["cancelled_count"]), (&json!("cancelled"), &json!(1)));

    let sent = host.send(json!({"name": "Eve", "delay_sec": 60})).await;
    host.advance(SECOND * 120).await;
    assert_eq!(sink.received().len(), 1);
    assert_eq!(host.first_delivery(&sent).await["status"], "delivered");
    let (status, problem) = host.post(&format!("/api/deliveries/{id}/cancel"), &json!({})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("not_cancellable")));
}

#[tokio::test]
async fn without_allowed_failures_the_first_one_cancels_what_was_not_sent() {
    let (sink, host, _) = shop(json!({})).await;
    let waiting = host.enable("webhook", json!({"url": sink.url("/other")}), json!({})).await;
    host.act(&format!("/api/credentials/{waiting}/pause")).await;
    sink.always_for("/hook", Answer::status(302));
    let sent = host.send(json!({"name": "Ann", "allow_failures": false})).await;
    let batch = host.run_until_ended(sent["batch_id"].as_str().unwrap(), SECOND * 10).await;
    assert_eq!((&batch["status"], &batch["counts"]["failed"], &batch["counts"]["cancelled"]), (&json!("failed"), &json!(1), &json!(1)));
    host.act(&format!("/api/credentials/{waiting}/resume")).await;
    host.advance(SECOND * 60).await;
    assert_eq!(sink.received().len(), 1);
}

#[tokio::test]
async fn a_lead_sent_again_is_a_new_delivery_under_a_new_id() {
    let (sink, host, _) = shop(json!({})).await;
    let sent = host.send(json!({"name": "Ann"})).await;
    host.idle().await;
    let lead = sent["lead_id"].as_str().unwrap();
    let again = host.act(&format!("/api/leads/{lead}/resend")).await;
    assert_eq!((&again["lead_id"], &again["duplicate"]), (&sent["lead_id"], &json!(false)));
    assert_ne!(again["batch_id"], sent["batch_id"]);
    host.idle().await;
    let seen = sink.received();
    assert_eq!(seen.len(), 2);
    assert_ne!(seen[0].header("webhook-id"), seen[1].header("webhook-id"));
    assert_eq!(host.get(&format!("/api/leads/{lead}")).await["batches"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn queued_delayed_and_failed_once_all_survive_a_restart() {
    let (sink, host, credential) = shop(json!({})).await;
    sink.script([Answer::status(500)]);
    let retried = host.lead(1).await;
    host.idle().await;
    let sent = host.send(json!({"name": "Later", "delay_sec": 60})).await;
    host.act(&format!("/api/credentials/{credential}/pause")).await;
    let queued = host.lead(2).await;
    host.idle().await;

    let host = host.restart().await;
    assert_eq!(host.state(&credential).await, "paused");
    host.advance(SECOND * 5).await;
    assert_eq!(sink.received().len(), 1);
    host.act(&format!("/api/credentials/{credential}/resume")).await;
    host.idle().await;
    assert_eq!((host.status(&retried).await, host.status(&queued).await), ("delivered".into(), "delivered".into()));
    let host = host.restart().await;
    host.advance(SECOND * 60).await;
    assert_eq!(host.first_delivery(&sent).await["status"], "delivered");
    assert_eq!(sink.received().len(), 4);
}
