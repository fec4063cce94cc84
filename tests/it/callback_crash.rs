//! A promise: each callback is told exactly once for a batch, whenever the process dies.

use std::collections::HashMap;
use std::time::Duration;

use leadwire_fakes::HttpSink;
use leadwire_tests::process::{Place, Process, call};
use serde_json::{Value, json};

const LEADS: usize = 120;
const KILLS: usize = 12;

async fn prepare(host: &Process, client: &reqwest::Client, sink: &HttpSink) {
    let project = json!({"external_id": "shop", "dedup": {"enabled": false, "ttl_sec": 60}});
    assert_eq!(call(client, "POST", &host.url("/api/projects"), Some(&project)).await.0, 201);
    let credential =
        json!({"channel": "webhook", "config": {"url": sink.url("/lead")}, "retry": {"tries": 100, "base_ms": 10, "max_ms": 50}});
    assert_eq!(call(client, "POST", &host.url("/api/projects/ext:shop/credentials"), Some(&credential)).await.0, 201);
}

/// Kills the host in the midst of leads and callbacks; the restarted one.
async fn kill(place: &Place, host: Process) -> Process {
    host.kill().await;
    place.start().await
}

async fn all_ended(host: &Process, client: &reqwest::Client) {
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let waiting = async {
        while call(client, "GET", &host.url("/readyz"), None).await.1["backlog"] != 0 {
            ticks.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(90), waiting).await.expect("deliveries still wait");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_callback_is_told_once_for_a_batch_whenever_the_process_dies() {
    let (sink, client) = (HttpSink::start().await.unwrap(), leadwire_tests::client());
    let place = Place::new(&["webhook"]);
    let mut host = place.start().await;
    prepare(&host, &client, &sink).await;
    let callbacks =
        json!({"then": [{"url": sink.url("/then")}], "catch": [{"url": sink.url("/catch")}], "finally": [{"url": sink.url("/finally")}]});
    let lead = json!({"project": "ext:shop", "name": "Ann", "callbacks": callbacks});
    let mut batches = Vec::new();
    for number in 0..LEADS {
        let (status, sent) = call(&client, "POST", &host.url("/api/leads"), Some(&lead)).await;
        assert_eq!(status, 202, "{sent}");
        batches.push(sent["batch_id"].as_str().unwrap().to_owned());
        if number % (LEADS / KILLS) == LEADS / KILLS - 1 {
            // As the lead or one of its callbacks is under way.
            sink.wait_for(number * 2 + number % 3).await;
            host = kill(&place, host).await;
        }
    }
    all_ended(&host, &client).await;

    let mut arrived: HashMap<String, usize> = HashMap::new();
    for request in sink.received() {
        *arrived.entry(request.header("webhook-id").unwrap().to_owned()).or_default() += 1;
    }
    let mut lost = 0;
    for id in &batches {
        let (_, batch) = call(&client, "GET", &host.url(&format!("/api/batches/{id}")), None).await;
        assert_eq!((&batch["status"], &batch["total"]), (&json!("completed"), &json!(1)), "{batch}");
        let told = batch["callbacks"].as_array().unwrap();
        let moments: Vec<_> = told.iter().map(|one| one["event"]["data"]["callback"].as_str().unwrap()).collect();
        assert_eq!(moments, ["then", "finally"], "{batch}");
        for callback in told {
            assert_eq!(callback["status"], "delivered", "{callback}");
            let id = callback["id"].as_str().unwrap();
            let (_, delivery) = call(&client, "GET", &host.url(&format!("/api/deliveries/{id}")), None).await;
            let cut = delivery["attempts"].as_array().unwrap().iter().filter(|attempt| attempt["outcome"] == "lost").count();
            let times = arrived.get(id).copied().unwrap_or(0);
            assert!((1..=1 + cut).contains(&times), "{times} arrivals: {delivery:#}");
            lost += cut;
        }
    }
    // Nothing else was ever told: three ids for each lead, its own and two callbacks.
    assert_eq!(arrived.len(), 3 * LEADS);
    println!("{LEADS} batches, {KILLS} kills, {lost} callbacks cut off");
    let _: Vec<Value> = leadwire_tests::process::parsed(&host.stop().await);
}
