//! Work on many rows: counted first, then a task with progress that survives whatever happens to the host.

use std::time::Duration;

use leadwire::clock::Clock;
use leadwire_fakes::{Answer, HttpSink};
use leadwire_tests::TestHost;
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

/// A shop whose webhook refuses everything for good, and so many leads that failed there.
async fn failed(leads: u32) -> (HttpSink, TestHost, String) {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::start().await;
    host.project().await;
    let retry = json!({"tries": 1, "base_ms": 1000, "max_ms": 1000});
    let config = json!({"url": sink.url("/hook")});
    let id = host.enable_with(json!({"channel": "webhook", "name": "Hook", "config": config, "retry": retry})).await;
    sink.always(Answer::status(400));
    fail(&host, 0..leads).await;
    sink.always(Answer::ok());
    sink.forget();
    host.act(&format!("/api/credentials/{id}/resume")).await;
    (sink, host, id)
}

/// Sends leads until all of them have failed.
async fn fail(host: &TestHost, numbers: std::ops::Range<u32>) {
    let list = "/api/deliveries?status=failed";
    let wanted = count(host, list).await + numbers.len();
    for number in numbers {
        host.lead(number).await;
    }
    // The breaker opens meanwhile, and lets one try after the other.
    for _ in 0..500 {
        if count(host, list).await == wanted {
            return;
        }
        host.advance(30 * SECOND).await;
    }
    panic!("{} of {wanted} have failed", count(host, list).await);
}

async fn count(host: &TestHost, list: &str) -> usize {
    let (mut count, mut cursor) = (0, String::new());
    loop {
        let page = host.get(&format!("{list}&limit=200{cursor}")).await;
        count += page["data"].as_array().unwrap().len();
        let Some(next) = page["next_cursor"].as_str() else { return count };
        cursor = format!("&cursor={next}");
    }
}

/// Moves the clock until the task is as `holds` says.
async fn until(host: &TestHost, id: &str, holds: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..2_000 {
        let task = host.get(&format!("/api/tasks/{id}")).await;
        if holds(&task) {
            return task;
        }
        host.clock.advance(Duration::from_millis(100));
        tokio::task::yield_now().await;
    }
    panic!("the task does not get there: {}", host.get(&format!("/api/tasks/{id}")).await);
}

fn ended(task: &Value) -> bool {
    task["status"] != "running"
}

/// Starts a task; its id.
async fn start(host: &TestHost, path: &str, body: Value) -> String {
    let (status, answer) = host.post(path, &body).await;
    assert_eq!(status, 202, "{answer}");
    assert_eq!(answer["dispatched_count"].as_u64(), answer["total_count"].as_u64().map(|n| n - answer["errors_count"].as_u64().unwrap()));
    answer["task_id"].as_str().unwrap().to_owned()
}

/// How many requests came for each delivery since the sink takes them.
fn arrived(sink: &HttpSink) -> std::collections::BTreeMap<String, usize> {
    let mut by_delivery = std::collections::BTreeMap::new();
    for request in sink.received() {
        *by_delivery.entry(request.header("webhook-id").unwrap_or_default().to_owned()).or_default() += 1;
    }
    by_delivery
}

#[tokio::test]
async fn failed_deliveries_are_counted_and_then_tried_again_once_each() {
    let (sink, host, _) = failed(30).await;
    let filter = json!({"project": "ext:shop", "status": "failed"});
    let (status, counted) = host.post("/api/deliveries/retry", &json!({"filter": filter, "dry_run": true})).await;
    assert_eq!((status, &counted["total_count"], &counted["dispatched_count"]), (200, &json!(30), &json!(0)), "{counted}");
    assert!(counted["task_id"].is_null());
    assert_eq!(host.get("/api/tasks").await["data"], json!([]), "a dry run starts nothing");

    let body = json!({"filter": filter, "rate_per_sec": 20});
    let id = start(&host, "/api/deliveries/retry", body.clone()).await;
    let second = start(&host, "/api/deliveries/retry", body.clone()).await;
    let (one, two) = (until(&host, &id, ended).await, until(&host, &second, ended).await);
    assert_eq!((&one["status"], &one["kind"], &one["filter"]), (&json!("completed"), &json!("deliveries_retry"), &filter));
    let changed = one["dispatched_count"].as_u64().unwrap() + two["dispatched_count"].as_u64().unwrap();
    assert_eq!(changed, 30, "two runs of the same change each row once: {one} {two}");
    host.advance(SECOND).await;
    assert_eq!(count(&host, "/api/deliveries?status=delivered").await, 30);
    let arrived = arrived(&sink);
    assert_eq!((arrived.len(), arrived.values().max()), (30, Some(&1)));
    let (status, nothing) = host.post("/api/deliveries/retry", &body).await;
    assert_eq!((status, &nothing["total_count"]), (200, &json!(0)), "{nothing}");
    assert_eq!(host.get("/api/tasks").await["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_task_that_is_cancelled_midway_leaves_the_rest_alone() {
    let (_sink, host, _) = failed(30).await;
    let id = start(&host, "/api/deliveries/retry", json!({"filter": {"status": "failed"}, "rate_per_sec": 8})).await;
    let midway = until(&host, &id, |task| task["done_count"].as_u64() >= Some(4)).await;
    assert_eq!(midway["status"], "running", "{midway}");
    let cancelled = host.act(&format!("/api/tasks/{id}/cancel")).await;
    assert_eq!(cancelled["status"], "cancelled");
    let done = cancelled["done_count"].as_u64().unwrap() as usize;
    assert!(done < 30, "{cancelled}");
    host.advance(60 * SECOND).await;
    assert_eq!(count(&host, "/api/deliveries?status=failed").await, 30 - done);
    assert_eq!(host.get(&format!("/api/tasks/{id}")).await["done_count"], json!(done));
    let (status, problem) = host.post(&format!("/api/tasks/{id}/cancel"), &json!({})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("not_cancellable")));
}

#[tokio::test]
async fn a_task_goes_on_after_a_restart_where_it_was() {
    let (sink, host, _) = failed(30).await;
    let id = start(&host, "/api/deliveries/retry", json!({"filter": {"status": "failed"}, "rate_per_sec": 8})).await;
    let midway = until(&host, &id, |task| task["done_count"].as_u64() >= Some(4)).await;
    assert_eq!(midway["status"], "running", "{midway}");
    let host = host.restart().await;
    let end = until(&host, &id, ended).await;
    assert_eq!((&end["status"], &end["done_count"], &end["dispatched_count"]), (&json!("completed"), &json!(30), &json!(30)), "{end}");
    host.advance(SECOND).await;
    let arrived = arrived(&sink);
    assert_eq!((arrived.len(), arrived.values().max()), (30, Some(&1)), "each once");
}

#[tokio::test]
async fn leads_are_sent_again_by_id_and_by_filter() {
    let (sink, host, _) = failed(5).await;
    let leads = host.get("/api/leads?status=failed").await;
    let ids: Vec<&str> = leads["data"].as_array().unwrap().iter().map(|lead| lead["id"].as_str().unwrap()).collect();
    let unknown = "lead_00000000000000000000000000";
    let body = json!({"project": "ext:shop", "lead_ids": [ids[0], ids[0], "ext:lead-1", unknown], "integration_types": ["webhook"]});
    let request = || host.request("POST", "/api/leads/resend").header("idempotency-key", "k-1").json(&body);
    let (status, first) = host.answer(request()).await;
    assert_eq!(status, 202, "{first}");
    assert_eq!((&first["dispatched_count"], &first["total_count"], &first["errors_count"]), (&json!(2), &json!(3), &json!(1)));
    assert_eq!((&first["errors"][0]["id"], &first["errors"][0]["code"]), (&json!(unknown), &json!("not_found")));
    assert_eq!(host.answer(request()).await, (202, first.clone()), "the same request gets the same answer and starts nothing");
    until(&host, first["task_id"].as_str().unwrap(), ended).await;
    host.advance(SECOND).await;
    assert_eq!(arrived(&sink).len(), 2);
    let detail = host.get(&format!("/api/leads/{}", ids[0])).await;
    assert_eq!((detail["batches"].as_array().unwrap().len(), &detail["status"]), (2, &json!("completed")));

    let body = json!({"filter": {"project": "ext:shop", "status": "failed"}});
    let id = start(&host, "/api/leads/resend", body).await;
    let end = until(&host, &id, ended).await;
    assert_eq!((&end["dispatched_count"], &end["kind"]), (&json!(3), &json!("leads_resend")), "{end}");
    host.advance(SECOND).await;
    assert_eq!(count(&host, "/api/leads?status=completed").await, 5);
    let (status, nowhere) = host.post("/api/leads/resend", &json!({"lead_ids": [ids[1]], "integration_types": ["email"]})).await;
    assert_eq!((status, &nowhere["errors_count"], &nowhere["task_id"]), (200, &json!(1), &Value::Null), "{nowhere}");
}

#[tokio::test]
async fn a_credential_recovers_since_a_time() {
    let (sink, host, credential) = failed(3).await;
    host.advance(3_600 * SECOND).await;
    let since = host.clock.now();
    sink.always(Answer::status(400));
    fail(&host, 10..14).await;
    sink.always(Answer::status(200));
    host.act(&format!("/api/credentials/{credential}/resume")).await;
    let path = format!("/api/credentials/{credential}/recover");
    let (_, counted) = host.post(&path, &json!({"since": since, "dry_run": true})).await;
    assert_eq!(counted["total_count"], json!(4), "{counted}");
    let id = start(&host, &path, json!({"since": since})).await;
    assert_eq!(until(&host, &id, ended).await["dispatched_count"], json!(4));
    host.advance(SECOND).await;
    assert_eq!(count(&host, "/api/deliveries?status=failed").await, 3, "those from before stay");
    let (status, problem) = host.post(&path, &json!({"since": since, "until": since})).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/until")));
}

#[tokio::test]
async fn what_is_queued_for_a_credential_is_cancelled() {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::start().await;
    host.project().await;
    let parked = host.enable("webhook", json!({"url": sink.url("/one")}), json!({})).await;
    let other = host.enable("webhook", json!({"url": sink.url("/two")}), json!({})).await;
    host.act(&format!("/api/credentials/{parked}/pause")).await;
    host.act(&format!("/api/credentials/{other}/pause")).await;
    for number in 0..60 {
        host.lead(number).await;
    }
    let path = format!("/api/credentials/{parked}/cancel");
    let (_, counted) = host.post(&path, &json!({"dry_run": true})).await;
    assert_eq!(counted["total_count"], json!(60));
    let id = start(&host, &path, json!({})).await;
    assert_eq!(until(&host, &id, ended).await["dispatched_count"], json!(60));
    assert_eq!(count(&host, &format!("/api/deliveries?status=cancelled&credential={parked}")).await, 60);
    assert_eq!(count(&host, &format!("/api/deliveries?status=queued&credential={other}")).await, 60);
    let batch = &host.get("/api/batches?limit=1").await["data"][0];
    assert_eq!((&batch["counts"]["pending"], &batch["counts"]["cancelled"], &batch["total"]), (&json!(1), &json!(1), &json!(2)));
}

#[tokio::test]
async fn a_bad_filter_is_refused_by_the_name_of_its_field() {
    let host = TestHost::start().await;
    host.project().await;
    for (path, body, code, pointer) in [
        ("/api/deliveries/retry", json!({"filter": {}}), 422, "/filter"),
        ("/api/deliveries/retry", json!({}), 422, "/filter"),
        ("/api/deliveries/retry", json!({"filter": {"status": "delivered"}}), 422, "/filter/status"),
        ("/api/deliveries/retry", json!({"filter": {"status": "gone"}}), 422, "/filter/status"),
        ("/api/deliveries/retry", json!({"filter": {"stauts": "failed"}}), 422, "/filter/stauts"),
        ("/api/deliveries/retry", json!({"filter": {"created_after": "yesterday"}}), 422, "/filter/created_after"),
        ("/api/deliveries/retry", json!({"filter": {"credential": "x"}}), 422, "/filter/credential"),
        ("/api/deliveries/retry", json!({"filter": {"external_id": "x"}}), 422, "/filter/external_id"),
        ("/api/deliveries/retry", json!({"filter": {"q": "!"}}), 422, "/filter/q"),
        ("/api/deliveries/retry", json!({"filter": {"project": "ext:none"}}), 404, "/filter/project"),
        ("/api/deliveries/retry", json!({"filter": {"status": "failed"}, "rate_per_sec": 0}), 422, "/rate_per_sec"),
        ("/api/leads/resend", json!({"filter": {"phone": "none"}}), 422, "/filter/phone"),
        ("/api/leads/resend", json!({"lead_ids": []}), 422, "/lead_ids"),
        ("/api/leads/resend", json!({"lead_ids": ["ext:1"]}), 422, "/lead_ids/0"),
        ("/api/leads/resend", json!({}), 422, ""),
    ] {
        let (status, problem) = host.post(path, &body).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (code, &json!(pointer)), "{path} {body}: {problem}");
    }
    assert_eq!(host.get("/api/tasks").await["data"], json!([]));
}

#[tokio::test]
async fn a_key_of_another_project_sees_and_touches_nothing() {
    let (sink, mut host, credential) = failed(4).await;
    let lead = host.get("/api/leads?limit=1").await["data"][0]["id"].clone();
    let before = sink.received().len();
    let id = start(&host, "/api/deliveries/retry", json!({"filter": {"project": "ext:shop", "status": "failed"}, "rate_per_sec": 1})).await;
    let (_, other) = host.post("/api/projects", &json!({"external_id": "other", "name": "Other"})).await;
    let body = json!({"name": "other", "scopes": ["leads:read", "leads:write"], "project": other["id"]});
    let (_, key) = host.post("/api/keys", &body).await;
    host.key(key["key"].as_str().unwrap());
    assert_eq!(host.get("/api/tasks").await["data"], json!([]));
    for (method, path) in [
        ("GET", format!("/api/tasks/{id}")),
        ("POST", format!("/api/tasks/{id}/cancel")),
        ("POST", format!("/api/credentials/{credential}/cancel")),
        ("POST", format!("/api/credentials/{credential}/recover")),
        ("GET", format!("/api/leads/{}/timeline", lead.as_str().unwrap())),
    ] {
        let (status, problem) = host.answer(host.request(method, &path)).await;
        assert_eq!(status, 404, "{method} {path}: {problem}");
    }
    for filter in [json!({"status": "failed"}), json!({"credential": credential}), json!({"created_after": "2020-01-01T00:00:00Z"})] {
        let (status, nothing) = host.post("/api/deliveries/retry", &json!({"filter": filter})).await;
        assert_eq!((status, &nothing["total_count"]), (200, &json!(0)), "{filter}: {nothing}");
    }
    let (_, nothing) = host.post("/api/leads/resend", &json!({"lead_ids": [lead]})).await;
    assert_eq!((&nothing["errors"][0]["code"], &nothing["task_id"]), (&json!("not_found"), &Value::Null), "{nothing}");
    assert!(sink.received().len() <= before + 4, "only what the owner asked for was sent");
}
