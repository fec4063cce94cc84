//! What is too old goes, every night at two where the project is, and what is undelivered stays.

use std::time::Duration;

use leadwire_fakes::{Answer, HttpSink};
use leadwire_tests::{Options, TestHost};
use serde_json::{Value, json};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

async fn shop(settings: Vec<(&'static str, String)>) -> (HttpSink, TestHost) {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::with(Options { plugins: vec!["webhook"], settings, ..Options::default() }).await;
    host.project().await;
    host.enable("webhook", json!({"url": sink.url("/hook")}), json!({})).await;
    (sink, host)
}

/// The project's clean-ups once the last one is as `holds` says. The chore runs beside the test, woken by its clock.
async fn until(host: &TestHost, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let look = async {
        loop {
            let seen = host.get(path).await;
            if holds(&seen) {
                return seen;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), look).await.expect("the clean-up comes")
}

async fn exists(host: &TestHost, lead: &Value) -> bool {
    let (status, _) = host.answer(host.request("GET", &format!("/api/leads/{}", lead["lead_id"].as_str().unwrap()))).await;
    status == 200
}

const PATH: &str = "/api/projects/ext:shop/retention";

#[tokio::test]
async fn old_leads_and_attempts_go_at_two_o_clock_of_the_project() {
    let (sink, host) = shop(vec![("retention_leads_days", "60".into())]).await;
    let (status, project) = host.patch("/api/projects/ext:shop", &json!({"retention": {"attempts_days": 10}})).await;
    assert_eq!((status, &project["retention"]), (200, &json!({"attempts_days": 10})), "{project}");
    let seen = host.get(PATH).await;
    assert_eq!((&seen["ages"]["leads_days"], &seen["ages"]["attempts_days"]), (&json!(60), &json!(10)));
    // 10:00 UTC is 13:00 in Moscow.
    assert_eq!((&seen["next_at"], &seen["last"]), (&json!("2026-11-22T23:00:00Z"), &Value::Null));

    let old = host.send(json!({"name": "Old", "phone": "+79160000001"})).await;
    host.idle().await;
    sink.always(Answer::status(503));
    let parked = host.send(json!({"name": "Parked", "phone": "+79160000002"})).await;
    host.idle().await;
    host.act(&format!("/api/credentials/{}/pause", parked["deliveries"][0]["credential_id"].as_str().unwrap())).await;

    host.clock.advance(11 * DAY);
    let seen = until(&host, PATH, |seen| !seen["last"].is_null()).await;
    assert_eq!((&seen["last"]["removed"]["attempts"], &seen["last"]["removed"]["leads"]), (&json!(1), &json!(0)), "{seen}");
    assert_eq!(seen["last"]["due_at"], "2026-12-02T23:00:00Z", "the last night, and not each that was missed");
    let delivery = host.first_delivery(&old).await;
    assert_eq!((&delivery["status"], &delivery["attempts"], &delivery["attempts_pruned"]), (&json!("delivered"), &json!([]), &json!(1)));
    let timeline = host.get(&format!("/api/leads/{}/timeline", old["lead_id"].as_str().unwrap())).await;
    assert!(timeline["data"].to_string().contains("removed for their age"), "{timeline}");
    let waiting = host.first_delivery(&parked).await;
    assert_eq!((waiting["attempts"].as_array().unwrap().len(), &waiting["attempts_pruned"]), (1, &json!(0)), "{waiting}");

    host.clock.advance(50 * DAY);
    let seen = until(&host, PATH, |seen| seen["last"]["removed"]["leads"] == 1).await;
    assert_eq!(seen["last"]["removed"]["deliveries"], 1, "{seen}");
    assert!(!exists(&host, &old).await && exists(&host, &parked).await, "undelivered work is never removed");
    assert_eq!(host.get("/api/leads?phone=%2B79160000001").await["data"], json!([]));
    let all = host.get("/api/retention").await;
    assert_eq!((&all["removed"]["leads"], &all["removed"]["attempts"], &all["failures"]), (&json!(1), &json!(1), &json!(0)), "{all}");

    // It goes out whatever its age.
    sink.always(Answer::ok());
    host.act(&format!("/api/credentials/{}/resume", parked["deliveries"][0]["credential_id"].as_str().unwrap())).await;
    host.advance(HOUR).await;
    assert_eq!(host.first_delivery(&parked).await["status"], "delivered");
}

#[tokio::test]
async fn a_night_that_was_missed_is_made_up_for_at_the_start_once() {
    let (_sink, host) = shop(vec![("retention_leads_days", "1".into())]).await;
    let old = host.send(json!({"name": "Old", "phone": "+79160000001"})).await;
    host.idle().await;
    host.clock.advance(HOUR);
    let clock = host.clock.clone();
    let restarting = host.restart();
    clock.advance(3 * DAY);
    let host = restarting.await;
    let seen = until(&host, PATH, |seen| !seen["last"].is_null()).await;
    assert_eq!((&seen["last"]["removed"]["leads"], &seen["last"]["due_at"]), (&json!(1), &json!("2026-11-24T23:00:00Z")));
    assert!(!exists(&host, &old).await);
    let runs = until(&host, "/api/retention", |seen| seen["runs"].as_u64() >= Some(2)).await["runs"].clone();
    for _ in 0..5 {
        host.clock.advance(HOUR);
        host.get("/api/retention").await;
    }
    assert_eq!(host.get("/api/retention").await["runs"], runs, "once for the project, once for the host");
}

#[tokio::test]
async fn ages_and_zones_that_cannot_be_are_refused() {
    let host = TestHost::with(Options::default()).await;
    host.project().await;
    for (change, pointer) in [
        (json!({"retention": {"leads_days": 36_501}}), "/retention/leads_days"),
        (json!({"retention": {"attempts_days": 99_999}}), "/retention/attempts_days"),
        (json!({"time_zone": "Europe/Moskau"}), "/time_zone"),
    ] {
        let (status, problem) = host.patch("/api/projects/ext:shop", &change).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!(pointer)), "{problem}");
    }
    let (status, _) = host.patch("/api/projects/ext:shop", &json!({"retention": {"leads": 3}})).await;
    assert_eq!(status, 422);
    let (status, project) = host.patch("/api/projects/ext:shop", &json!({"retention": {"leads_days": 0}})).await;
    assert_eq!((status, &project["retention"]), (200, &json!({"leads_days": 0})));
    assert_eq!(host.get(PATH).await["ages"]["leads_days"], 0);
}
