//! The story of one lead, and the log of what was sent for it.

use std::time::Duration;

use leadwire_fakes::{Answer, HttpSink};
use leadwire_tests::TestHost;
use serde_json::{Value, json};

fn story(timeline: &Value) -> Vec<(&str, &str)> {
    let events = timeline["data"].as_array().unwrap().iter();
    events.map(|event| (event["event"].as_str().unwrap(), event["text"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn a_timeline_reads_like_a_story() {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::start().await;
    host.project().await;
    let retry = json!({"tries": 2, "base_ms": 1000, "max_ms": 1000});
    let body = json!({"channel": "webhook", "name": "CRM", "config": {"url": sink.url("/hook")}, "retry": retry});
    let credential = host.enable_with(body).await;
    sink.script([Answer::status(500), Answer::status(400)]);
    let sent = host.send(json!({"name": "Иван", "external_id": "f-1", "origin": {"form": "callback"}})).await;
    host.idle().await;
    let path = "/api/leads/ext:f-1/timeline?project=ext:shop";
    let early = host.get(path).await;
    let kinds: Vec<&str> = story(&early).iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, ["lead_accepted", "batch_queued", "attempt", "attempt_due"], "{early}");

    host.advance(Duration::from_secs(60)).await;
    host.act("/api/leads/ext:f-1/resend?project=ext:shop").await;
    host.advance(Duration::from_secs(1)).await;
    let timeline = host.get(path).await;
    let story = story(&timeline);
    let kinds: Vec<&str> = story.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(
        kinds,
        [
            "lead_accepted",
            "batch_queued",
            "attempt",
            "attempt",
            "delivery_ended",
            "batch_ended",
            "batch_queued",
            "attempt",
            "delivery_ended",
            "batch_ended"
        ],
        "{timeline}"
    );
    assert_eq!(story[0].1, "The lead came in from the form callback");
    assert_eq!(story[1].1, "Queued for webhook “CRM”");
    assert!(story[2].1.starts_with("webhook “CRM”: call 1 of webhook@") && story[2].1.contains("http_500"), "{}", story[2].1);
    assert!(story[4].1.starts_with("webhook “CRM”: given up"), "{}", story[4].1);
    assert_eq!(story[5].1, "All has ended: failed (1 failed)");
    assert_eq!(story[6].1, "Sent again, to webhook “CRM”");
    assert_eq!(story[9].1, "All has ended: completed (1 delivered)");
    let attempt = &timeline["data"][2];
    assert_eq!((&attempt["credential_id"], &attempt["code"]), (&json!(credential), &json!("http_500")));
    assert_eq!(attempt["delivery_id"], sent["deliveries"][0]["id"]);
    assert_eq!(timeline["truncated"], false);
    assert_eq!(host.answer(host.request("GET", "/api/leads/lead_00000000000000000000000000/timeline")).await.0, 404);
}

#[tokio::test]
async fn an_attempt_is_the_whole_log_of_a_call_with_what_is_sensitive_masked_and_sizes_capped() {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::start().await;
    host.project().await;
    let secret = "Bearer very-secret-token-0123456789";
    host.enable("webhook", json!({"url": sink.url("/hook")}), json!({"authorization": secret})).await;
    sink.always(Answer::status(500).body("oops ".to_owned() + &"x".repeat(100_000)));
    let request = host.request("POST", "/api/leads").header("x-request-id", "01890a5d-ac96-774b-bcce-b302099a8057");
    let lead = json!({"project": "ext:shop", "name": "Иван", "phone": "+7 916 123-45-67", "comment": "y".repeat(60_000)});
    let (status, sent) = host.answer(request.json(&lead)).await;
    assert_eq!(status, 202, "{sent}");
    host.idle().await;
    let delivery = host.first_delivery(&sent).await;
    let attempt = &delivery["attempts"][0];
    let exchange = &attempt["exchanges"][0];
    assert_eq!((&attempt["operation"], &attempt["outcome"], &attempt["code"]), (&json!("deliver"), &json!("retry"), &json!("http_500")));
    assert_eq!((&attempt["correlation"], &attempt["node"]), (&json!("01890a5d-ac96-774b-bcce-b302099a8057"), &json!("test")));
    assert!(attempt["plugin"].as_str().unwrap().starts_with("webhook@"), "{attempt}");
    assert!(attempt["message"].is_string() && attempt["duration_ms"].is_u64() && attempt["started_at"].is_string());
    assert_eq!((&exchange["kind"], &exchange["status"]), (&json!("http"), &json!(500)));
    assert!(exchange["request"].as_str().unwrap().starts_with("POST http://"), "{exchange}");
    for part in ["request_body", "response"] {
        let bytes = exchange[part].as_str().unwrap_or_else(|| panic!("{part}: {exchange}")).len();
        assert!((1..20_000).contains(&bytes), "{part} has {bytes} bytes");
    }
    let text = attempt.to_string();
    assert!(!text.contains("very-secret-token") && !text.contains("9161234567"), "{}", &text[..2_000]);
}
