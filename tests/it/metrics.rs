//! `GET /metrics`, read by Prometheus' own parser, says what was done.

use std::time::Duration;

use leadwire_fakes::{Answer, HttpSink};
use leadwire_tests::follow::Sse;
use leadwire_tests::process::judge;
use leadwire_tests::{Options, TestHost, client};
use serde_json::{Value, json};

/// The answer as the parser sees it, and as it is.
async fn scrape(host: &TestHost) -> (Vec<Value>, String) {
    let response = client().get(host.url("/metrics")).send().await.unwrap();
    assert_eq!(response.status(), 200, "no key is asked for");
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    let text = response.text().await.unwrap();
    (serde_json::from_str(&judge("python", "python/metrics.py", &text).await).unwrap(), text)
}

/// The sample's value; 0 is one too, so a missing one fails.
fn value(families: &[Value], name: &str, labels: &[(&str, &str)]) -> f64 {
    let samples = families.iter().flat_map(|family| family["samples"].as_array().unwrap());
    let fits = |sample: &&Value| sample["name"] == name && labels.iter().all(|(label, value)| sample["labels"][label] == *value);
    let found: Vec<_> = samples.filter(fits).collect();
    assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
    found[0]["value"].as_f64().unwrap()
}

#[tokio::test]
async fn what_was_done_is_counted_and_nothing_says_for_whom() {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::with(Options { plugins: vec!["webhook"], ..Options::default() }).await;
    host.project().await;
    let credential = host.enable("webhook", json!({"url": sink.url("/hook")}), json!({})).await;
    let _stream = Sse::open(&client(), &host.url("/api/events"), None).await;
    sink.script([Answer::status(500)]);
    let ann = json!({"project": "ext:shop", "name": "Ann Lee", "phone": "+44 20 7946 0958"});
    let (status, sent) = host.post("/api/leads", &ann).await;
    assert_eq!(status, 202, "{sent}");
    host.run_until_ended(sent["batch_id"].as_str().unwrap(), Duration::from_secs(600)).await;
    assert_eq!(host.post("/api/leads", &ann).await.0, 200, "a duplicate");
    host.post("/api/projects", &json!({"external_id": "empty", "name": "Empty"})).await;
    assert_eq!(host.post("/api/leads", &json!({"project": "ext:empty", "name": "Bo"})).await.0, 202);
    for _ in 0..2 {
        let once = host.request("POST", "/api/leads").header("idempotency-key", "k1").json(&json!({"project": "ext:empty", "name": "Cy"}));
        assert_eq!(host.answer(once).await.0, 202);
    }
    host.idle().await;
    host.act(&format!("/api/credentials/{credential}/pause")).await;
    host.send(json!({"name": "Waiting"})).await;
    host.advance(Duration::from_secs(30)).await;

    let (families, text) = scrape(&host).await;
    let get = |name: &str, labels: &[(&str, &str)]| value(&families, name, labels);
    for (result, count) in [("accepted", 2.0), ("duplicate", 1.0), ("unrouted", 2.0), ("replayed", 1.0), ("overloaded", 0.0)] {
        assert_eq!(get("leadwire_leads_total", &[("result", result)]), count, "{result}");
    }
    let webhook = ("channel", "webhook");
    assert_eq!(get("leadwire_attempts_total", &[webhook, ("outcome", "retry")]), 1.0);
    assert_eq!(get("leadwire_attempts_total", &[webhook, ("outcome", "delivered")]), 1.0);
    assert_eq!(get("leadwire_attempt_duration_seconds_count", &[webhook]), 2.0);
    assert_eq!(get("leadwire_deliveries_total", &[webhook, ("status", "delivered")]), 1.0);
    assert_eq!(get("leadwire_retries_total", &[webhook]), 1.0);
    assert_eq!(get("leadwire_batches_total", &[("status", "completed")]), 1.0);
    assert_eq!(get("leadwire_batches_total", &[("status", "failed")]), 0.0);
    let delivery = host.first_delivery(&sent).await;
    let time = |name: &str| leadwire::model::Timestamp::parse(delivery[name].as_str().unwrap()).unwrap();
    let took = time("finished_at").since(time("created_at")).as_secs_f64();
    assert!(took > 0.0);
    assert_eq!(get("leadwire_lead_delivery_duration_seconds_count", &[webhook]), 1.0);
    assert_eq!(get("leadwire_lead_delivery_duration_seconds_sum", &[webhook]), took);
    // What waits.
    assert_eq!(get("leadwire_backlog_deliveries", &[webhook]), 1.0);
    assert_eq!(get("leadwire_backlog_overdue_seconds", &[webhook]), 30.0);
    assert_eq!(get("leadwire_oldest_undelivered_lead_age_seconds", &[]), 30.0);
    assert_eq!((get("leadwire_lanes", &[("state", "paused")]), get("leadwire_lanes", &[("state", "active")])), (1.0, 0.0));
    assert_eq!((get("leadwire_plugin_calls", &[]), get("leadwire_store_up", &[])), (0.0, 1.0));
    let turns = get("leadwire_store_turn_duration_seconds_count", &[]);
    assert!(turns > 5.0 && get("leadwire_store_turn_requests_count", &[]) == turns);
    assert_eq!(get("leadwire_store_turn_failures_total", &[]), 0.0);
    // Requests, by the route's pattern.
    let leads = [("method", "POST"), ("route", "/api/leads")];
    assert_eq!(get("leadwire_http_requests_total", &[leads[0], leads[1], ("status", "202")]), 5.0);
    assert_eq!(get("leadwire_http_requests_total", &[leads[0], leads[1], ("status", "200")]), 1.0);
    assert_eq!(get("leadwire_http_request_duration_seconds_count", &[leads[1]]), 6.0);
    assert_eq!((get("leadwire_event_streams", &[]), get("leadwire_event_streams_opened_total", &[])), (1.0, 1.0));
    // The process.
    assert_eq!(get("leadwire_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    let began = leadwire::model::Timestamp::parse(leadwire_tests::START).unwrap();
    assert_eq!(get("process_start_time_seconds", &[]), began.as_millis() as f64 / 1_000.0);
    assert!(get("process_resident_memory_bytes", &[]) > 1_000_000.0);

    for word in ["shop", "Ann", "7946", "Empty", &credential, "prj_", "lead_0", "k1"] {
        assert!(!text.contains(word), "{word} is in the answer");
    }
    let page = include_str!("../../docs/metrics.md");
    for family in &families {
        let (name, kind) = (family["name"].as_str().unwrap(), family["type"].as_str().unwrap());
        let name = match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        };
        assert!(page.contains(&format!("| `{name}` | {kind} |")), "docs/metrics.md does not have {name}");
    }
}
