//! "Delivered to the CRM within five minutes, else to the duty manager": once, with the reason, and a late success stays one lead.

use std::time::Duration;

use leadwire_fakes::{Answer, HttpSink};
use leadwire_tests::TestHost;
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

/// A CRM, and two places for leads that do not reach it.
async fn shop() -> (HttpSink, TestHost, [String; 3]) {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::start().await;
    host.project().await;
    let mut ids = Vec::new();
    for (name, enabled) in [("crm", true), ("chat", true), ("mail", true)] {
        let body = json!({"channel": "webhook", "name": name, "enabled": enabled, "config": {"url": sink.url(&format!("/{name}"))},
            "entity": if name == "crm" { Value::Null } else { json!("nobody") }, "retry": {"schedule": ["2m", "2m", "10m"]}});
        ids.push(host.enable_with(body).await);
    }
    let [crm, chat, mail] = <[String; 3]>::try_from(ids).unwrap();
    let rule = json!({"name": "CRM in time", "credential_id": crm, "within_sec": 300,
        "to": [{"credential_id": chat}, {"credential_id": mail, "settings": {"method": "PUT"}}]});
    let (status, project) = host.patch("/api/projects/ext:shop", &json!({"fallbacks": [rule.clone()]})).await;
    assert_eq!((status, &project["fallbacks"][0]), (200, &rule), "{project}");
    host.idle().await;
    (sink, host, [crm, chat, mail])
}

fn at(sink: &HttpSink, path: &str) -> usize {
    sink.received().iter().filter(|request| request.path == path).count()
}

#[tokio::test]
async fn a_lead_that_the_crm_does_not_take_goes_to_people_once_at_its_deadline() {
    let (sink, host, [_, chat, mail]) = shop().await;
    sink.always_for("/crm", Answer::status(503));
    let sent = host.send(json!({"name": "Ann"})).await;
    host.advance(SECOND * 299).await;
    assert_eq!((at(&sink, "/chat"), at(&sink, "/mail")), (0, 0));
    host.advance(SECOND).await;
    assert_eq!((at(&sink, "/chat"), at(&sink, "/mail")), (1, 1));
    let told = sink.received().into_iter().find(|request| request.path == "/mail").unwrap();
    assert_eq!((told.method.as_str(), &told.json()["data"]["name"]), ("PUT", &json!("Ann")), "the lead itself");
    let path = format!("/api/batches/{}", sent["batch_id"].as_str().unwrap());
    let batch = host.get(&path).await;
    assert_eq!((&batch["status"], &batch["total"]), (&json!("pending"), &json!(1)), "the batch is about what was asked for");
    let fallbacks = batch["fallbacks"].as_array().unwrap();
    let seen: Vec<_> = fallbacks.iter().map(|one| (one["credential_id"].as_str().unwrap(), one["status"].as_str().unwrap())).collect();
    assert_eq!(seen, [(chat.as_str(), "delivered"), (mail.as_str(), "delivered")]);
    let reason = fallbacks[0]["reason"].as_str().unwrap();
    for part in ["CRM in time", "300 s", "http_503", sent["deliveries"][0]["id"].as_str().unwrap()] {
        assert!(reason.contains(part), "{part} in {reason}");
    }

    sink.always_for("/crm", Answer::ok());
    host.advance(SECOND * 1_200).await;
    let batch = host.get(&path).await;
    let late = &batch["deliveries"][0];
    assert_eq!((&late["status"], &late["late"], &batch["status"]), (&json!("delivered"), &json!(true), &json!("completed")));
    assert_eq!((at(&sink, "/chat"), at(&sink, "/mail"), batch["fallbacks"].as_array().unwrap().len()), (1, 1, 2));
    assert_eq!(host.get("/api/projects/ext:shop/speed").await["channels"][0]["late"], 1);
    assert_eq!(host.get("/api/leads?project=ext:shop").await["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_project_sees_how_fast_its_leads_arrive_and_what_waits_longest() {
    let (sink, host, [crm, ..]) = shop().await;
    let speed = async || host.get("/api/projects/ext:shop/speed").await;
    assert_eq!(speed().await, json!({"channels": [], "credentials": [], "sampled": false, "oldest_undelivered": null}));
    host.send(json!({"name": "at once"})).await;
    host.idle().await;
    sink.script_for("/crm", [Answer::status(503)]);
    let second = host.send(json!({"name": "after a retry"})).await;
    host.advance(SECOND * 60).await;
    let seen = speed().await;
    assert_eq!((&seen["oldest_undelivered"]["lead_id"], &seen["oldest_undelivered"]["age_sec"]), (&second["lead_id"], &json!(60)));
    host.advance(SECOND * 80).await;
    let seen = speed().await;
    let (channel, credential) = (&seen["channels"][0], &seen["credentials"][0]);
    assert_eq!((&channel["channel"], &channel["delivered"], &channel["p50_ms"]), (&json!("webhook"), &json!(2), &json!(0)), "{seen}");
    let slowest = channel["max_ms"].as_u64().unwrap();
    assert!((120_000..=140_000).contains(&slowest), "{seen}");
    assert_eq!((&credential["credential_id"], &credential["p95_ms"], &credential["late"]), (&json!(crm), &json!(slowest), &json!(0)));
    assert_eq!(seen["oldest_undelivered"], Value::Null);
    let before = host.get("/api/projects/ext:shop/speed?created_before=2026-11-22T09:00:00Z").await;
    assert_eq!(before["channels"], json!([]));
}

#[tokio::test]
async fn what_arrives_in_time_or_was_withdrawn_bothers_nobody() {
    let (sink, host, [crm, ..]) = shop().await;
    let sent = host.send(json!({"name": "Ann"})).await;
    host.idle().await;
    assert_eq!(host.first_delivery(&sent).await["late"], false);
    host.act(&format!("/api/credentials/{crm}/pause")).await;
    let withdrawn = host.send(json!({"name": "Bob"})).await;
    host.act(&format!("/api/batches/{}/cancel", withdrawn["batch_id"].as_str().unwrap())).await;
    host.advance(SECOND * 600).await;
    assert_eq!((at(&sink, "/crm"), at(&sink, "/chat"), at(&sink, "/mail")), (1, 0, 0));
}

#[tokio::test]
async fn a_rule_outlives_a_restart_and_sees_a_parked_lane() {
    let (sink, host, [crm, ..]) = shop().await;
    host.act(&format!("/api/credentials/{crm}/pause")).await;
    host.send(json!({"name": "Ann"})).await;
    let host = host.restart().await;
    host.advance(SECOND * 300).await;
    assert_eq!((at(&sink, "/crm"), at(&sink, "/chat"), at(&sink, "/mail")), (0, 1, 1));
    let host = host.restart().await;
    host.advance(SECOND * 600).await;
    assert_eq!((at(&sink, "/chat"), at(&sink, "/mail")), (1, 1));
}

#[tokio::test]
async fn rules_that_cannot_work_are_named() {
    let (_sink, host, [crm, chat, _]) = shop().await;
    host.post("/api/projects", &json!({"external_id": "other"})).await;
    let foreign = json!({"channel": "webhook", "config": {"url": "https://other.example/"}});
    let (_, foreign) = host.post("/api/projects/ext:other/credentials", &foreign).await;
    let rule = |change: Value| {
        let mut rule = json!({"name": "r", "credential_id": crm, "within_sec": 300, "to": [{"credential_id": chat}]});
        rule.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({"fallbacks": [rule]})
    };
    for (change, code, pointer) in [
        (json!({"to": [{"credential_id": foreign["id"]}]}), "unknown_credential", "/fallbacks/0/to/0/credential_id"),
        (json!({"credential_id": foreign["id"]}), "unknown_credential", "/fallbacks/0/credential_id"),
        (json!({"channel": "webhook"}), "one_of", "/fallbacks/0"),
        (json!({"within_sec": 0}), "invalid_value", "/fallbacks/0/within_sec"),
        (json!({"to": []}), "invalid_length", "/fallbacks/0/to"),
        (json!({"to": [{"credential_id": chat, "settings": {"method": "GET"}}]}), "invalid", "/fallbacks/0/to/0/settings/method"),
        (json!({"credential_id": null, "channel": "amocmr"}), "unknown_integration", "/fallbacks/0/channel"),
    ] {
        let (status, problem) = host.patch("/api/projects/ext:shop", &rule(change)).await;
        assert_eq!(
            (status, &problem["errors"][0]["code"], &problem["errors"][0]["pointer"]),
            (422, &json!(code), &json!(pointer)),
            "{problem}"
        );
    }
}
