//! Channels that take many leads in one call.

use std::time::Duration;

use leadwire_fakes::{Answer, Gate, HttpSink};
use leadwire_tests::{Options, TestHost};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

async fn shop() -> (HttpSink, TestHost, String) {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::with(Options { plugins: vec!["test_batch"], ..Options::default() }).await;
    host.project().await;
    let id = host.enable("test/batch", json!({"url": sink.url("/bulk")}), json!({})).await;
    (sink, host, id)
}

async fn leads(host: &TestHost, count: u32, settings: Option<Value>) {
    for number in 0..count {
        let mut lead = json!({"external_id": number.to_string(), "name": format!("Lead {number}")});
        if let Some(settings) = &settings {
            lead["integrations"] = json!([{"type": "test/batch", "settings": settings}]);
        }
        host.send(lead).await;
    }
}

#[tokio::test]
async fn what_has_collected_goes_out_in_full_batches() {
    let (sink, host, credential) = shop().await;
    host.act(&format!("/api/credentials/{credential}/pause")).await;
    leads(&host, 120, None).await;
    host.act(&format!("/api/credentials/{credential}/resume")).await;
    host.idle().await;
    let mut sizes: Vec<_> = sink.received().iter().map(|request| request.json().as_array().unwrap().len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [20, 50, 50]);
    assert_eq!(host.get("/api/deliveries?status=delivered&limit=200").await["data"].as_array().unwrap().len(), 120);
}

#[tokio::test]
async fn leads_with_settings_of_their_own_do_not_break_the_limit_of_calls_at_once() {
    let (sink, host, credential) = shop().await;
    let gate = Gate::closed();
    sink.always(Answer::ok().held(&gate));
    host.act(&format!("/api/credentials/{credential}/pause")).await;
    leads(&host, 30, Some(json!({"url": sink.url("/own")}))).await;
    host.act(&format!("/api/credentials/{credential}/resume")).await;
    // The manifest says nothing, so four calls run at once; each that ends makes room for one.
    sink.wait_for(4).await;
    gate.step(1);
    sink.wait_for(5).await;
    assert_eq!(host.get("/api/deliveries?status=sending").await["data"].as_array().unwrap().len(), 4);
    gate.open();
    host.idle().await;
    host.advance(SECOND).await;
    assert_eq!(sink.received().len(), 30);
    let list = host.get("/api/deliveries?status=delivered").await;
    assert!(list["data"].as_array().unwrap().iter().all(|delivery| delivery["attempt_count"] == 1));
    assert_eq!(list["data"].as_array().unwrap().len(), 30);
}
