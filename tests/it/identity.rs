//! What makes two leads the same, as a project settles it, and what becomes of the second one.

use std::time::Duration;

use leadwire::model::{DedupSettings, Lead, LeadId, ProjectId, Timestamp};
use leadwire::policy::dedup;
use leadwire_fakes::{BotApi, HttpSink};
use leadwire_tests::{Options, TestHost};
use proptest::prelude::*;
use serde_json::{Value, json};

async fn shop(dedup: Value) -> (HttpSink, TestHost) {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::with(Options { plugins: vec!["webhook"], ..Options::default() }).await;
    host.project().await;
    host.enable("webhook", json!({"url": sink.url("/hook")}), json!({})).await;
    let (status, project) = host.patch("/api/projects/ext:shop", &json!({"dedup": dedup})).await;
    assert_eq!(status, 200, "{project}");
    (sink, host)
}

async fn post(host: &TestHost, mut lead: Value) -> (u16, Value) {
    lead["project"] = json!("ext:shop");
    host.post("/api/leads", &lead).await
}

#[tokio::test]
async fn the_answer_says_of_which_lead_it_is_a_duplicate_and_in_what() {
    let (_sink, host) = shop(json!({})).await;
    let lead = json!({"title": "Call", "phone": "8 916 123-45-67", "fields": {"car": "Lada"}});
    let first = host.send(lead.clone()).await;
    assert_eq!(first.get("matched"), None);
    let (status, second) = post(&host, json!({"title": "Call", "phone": "+7 (916) 1234567", "fields": {"car": "Lada"}})).await;
    assert_eq!((status, &second["duplicate_of"]), (200, &first["lead_id"]), "{second}");
    assert_eq!((&second["matched"], &second["warnings"]), (&json!(["title", "phones", "fields"]), &json!([])));
    host.send(json!({"external_id": "form-1", "name": "Ann"})).await;
    let (_, by_id) = post(&host, json!({"external_id": "form-1", "name": "Bob"})).await;
    assert_eq!(by_id["matched"], json!(["external_id"]), "{by_id}");

    host.clock.advance(Duration::from_secs(60));
    post(&host, lead).await;
    let path = format!("/api/leads/{}", first["lead_id"].as_str().unwrap());
    let repeats = json!({"count": 2, "last_at": "2026-11-22T10:01:00Z"});
    assert_eq!(host.get(&path).await["repeats"], repeats);
    let listed = host.get("/api/leads?phone=89161234567").await;
    assert_eq!(listed["data"][0]["repeats"], repeats, "{listed}");
    let timeline = host.get(&format!("{path}/timeline")).await;
    let told = timeline["data"].as_array().unwrap().iter().find(|event| event["event"] == "lead_repeated").unwrap();
    assert_eq!(told["text"], "The same lead came again, 2 times, for the last time now");
    assert_eq!(host.get("/api/leads?q=Bob").await["data"], json!([]), "nothing of a duplicate is stored");
}

#[tokio::test]
async fn a_project_names_the_fields_by_which_it_knows_its_leads() {
    let (_sink, host) = shop(json!({"fields": ["phones", "fields.car"], "ttl_sec": 600})).await;
    let first = host.send(json!({"title": "One", "phone": "+79161234567", "fields": {"car": "Lada", "colour": "red"}})).await;
    let (status, second) = post(&host, json!({"title": "Two", "phone": "89161234567", "fields": {"car": "Lada"}})).await;
    assert_eq!((status, &second["duplicate_of"]), (200, &first["lead_id"]), "{second}");
    assert_eq!(second["matched"], json!(["fields.car", "phones"]));
    for other in [
        json!({"title": "One", "phone": "+79161234567", "fields": {"car": "Volga"}}),
        json!({"title": "One", "phone": "+79161234567"}),
        json!({"title": "One", "name": "Somebody"}),
        json!({"title": "One", "name": "Somebody"}),
    ] {
        assert_eq!(post(&host, other.clone()).await.0, 202, "{other}");
    }
    host.clock.advance(Duration::from_secs(601));
    assert_eq!(post(&host, json!({"phone": "89161234567", "fields": {"car": "Lada"}})).await.0, 202, "the window is over");
    for (fields, pointer) in
        [(json!([]), "/dedup/fields"), (json!(["phones", "phone"]), "/dedup/fields/1"), (json!(["external_id"]), "/dedup/fields/0")]
    {
        let (status, problem) = host.patch("/api/projects/ext:shop", &json!({"dedup": {"fields": fields}})).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!(pointer)), "{problem}");
    }
    let (status, project) = host.patch("/api/projects/ext:shop", &json!({"dedup": {"enabled": false}})).await;
    assert_eq!((status, &project["dedup"]), (200, &json!({"enabled": false, "ttl_sec": 3600, "on_duplicate": "answer"})));
    let lead = json!({"phone": "89161234567"});
    assert_eq!((post(&host, lead.clone()).await.0, post(&host, lead).await.0), (202, 202));
}

#[tokio::test]
async fn a_webhook_gets_a_note_of_the_second_lead_and_channels_without_notes_are_named() {
    let (sink, bot) = (HttpSink::start().await.unwrap(), BotApi::start().await.unwrap());
    let rewrite = vec![("api.telegram.org".into(), bot.base_url())];
    let host = TestHost::with(Options { plugins: vec!["webhook", "telegram"], rewrite, ..Options::default() }).await;
    host.project().await;
    host.enable("webhook", json!({"url": sink.url("/hook")}), json!({})).await;
    host.enable("telegram", json!({"chat_id": 42}), json!({"bot_token": "123456789:AAEabcdefghijklmnopqrstuvwxyzABCDEF"})).await;
    host.patch("/api/projects/ext:shop", &json!({"dedup": {"fields": ["phones"], "on_duplicate": "note"}})).await;
    let first = host.send(json!({"phone": "+79161234567", "comment": "first"})).await;
    assert_eq!(first["warnings"], json!([]), "{first}");
    host.idle().await;
    assert_eq!((sink.received().len(), bot.received().len()), (1, 1));

    let again = json!({"phone": "+79161234567", "comment": "where are you?", "email": "ann@example.com", "project": "ext:shop"});
    let request = || host.request("POST", "/api/leads").header("idempotency-key", "k-1").json(&again);
    let (status, second) = host.answer(request()).await;
    assert_eq!((status, &second["matched"]), (200, &json!(["phones"])), "{second}");
    assert_eq!(second["warnings"], json!([{"code": "note_not_supported", "channel": "telegram"}]));
    assert_eq!(host.answer(request()).await, (200, second.clone()), "the same request gets the same answer");
    host.idle().await;
    let received = sink.received();
    assert_eq!((received.len(), bot.received().len()), (2, 1));
    let note = received[1].json();
    assert_eq!((&note["type"], &note["data"]["external_id"]), (&json!("lead.duplicate"), &first["lead_id"]), "{note}");
    let told = &note["data"]["data"];
    assert_eq!(
        (&told["count"], &told["lead"]["comment"], &told["lead_id"]),
        (&json!(1), &json!("where are you?"), &first["lead_id"]),
        "{note}"
    );
    let lead = host.get(&format!("/api/leads/{}", first["lead_id"].as_str().unwrap())).await;
    assert_eq!((&lead["status"], &lead["repeats"]["count"]), (&json!("completed"), &json!(1)));
    let noted = &lead["batches"][0]["callbacks"][0];
    assert_eq!(
        (&noted["status"], &noted["event"]["kind"], &lead["batches"][0]["total"]),
        (&json!("delivered"), &json!("lead.duplicate"), &json!(2))
    );
    let found = host.get("/api/leads?email=ann@example.com").await;
    assert_eq!(found["data"][0]["id"], first["lead_id"], "the first lead is found by what the second one brought");
}

/// A lead from a few values, so that many agree.
fn lead() -> impl Strategy<Value = Lead> {
    let text = || prop::option::of(prop::sample::select(vec!["", "a", "b", " a "]));
    let list = || prop::collection::vec(prop::sample::select(vec!["+79160000001", "+79160000002"]), 0..3);
    let car = || prop::option::of(prop::sample::select(vec![json!("Lada"), json!(null), json!({"x": [1]})]));
    (text(), text(), text(), list(), car(), text()).prop_map(|(title, name, comment, phones, car, form)| {
        let now = Timestamp::from_millis(0);
        let phones: Vec<_> = phones.iter().map(|phone| json!({"raw": phone, "e164": phone})).collect();
        let fields = car.map_or_else(|| json!({}), |car| json!({"car": car}));
        let project = ProjectId::from_uuid(uuid::Uuid::nil());
        serde_json::from_value(json!({"id": LeadId::new(now), "project": project, "title": title, "name": name, "comment": comment,
            "phones": phones, "emails": [], "origin": {"form": form}, "fields": fields, "created_at": now}))
        .unwrap()
    })
}

fn names() -> impl Strategy<Value = Vec<&'static str>> {
    let all = vec!["title", "name", "comment", "phones", "fields", "fields.car", "origin.form"];
    prop::sample::subsequence(all, 1..=7).prop_shuffle()
}

/// A field in plain words: what two leads must agree in. Written apart from the code under test.
fn plain(lead: &Lead, name: &str) -> Option<Value> {
    let text = |text: &Option<String>| text.as_ref().map(|text| text.trim()).filter(|text| !text.is_empty()).map(Value::from);
    match name {
        "title" => text(&lead.title),
        "name" => text(&lead.name),
        "comment" => text(&lead.comment),
        "origin.form" => text(&lead.origin.form),
        "fields" => Some(json!(lead.fields)).filter(|fields| fields != &json!({})),
        "fields.car" => lead.fields.get("car").filter(|car| !car.is_null()).cloned(),
        _ => {
            let set: std::collections::BTreeSet<_> = lead.phones.iter().map(|phone| phone.raw.clone()).collect();
            Some(json!(set)).filter(|set| set != &json!([]))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Two leads are the same exactly when they agree in every named field and have one at least; what is said to match does.
    #[test]
    fn leads_are_the_same_when_they_agree_in_every_named_field(one in lead(), two in lead(), names in names()) {
        let fields: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        prop_assert_eq!(dedup::check_fields(&fields), Ok(()));
        let settings = DedupSettings { fields: Some(fields), ..DedupSettings::default() };
        let (first, second) = (dedup::key(&one, &settings), dedup::key(&two, &settings));
        let there: Vec<&str> = names.iter().copied().filter(|name| plain(&two, name).is_some()).collect();
        prop_assert_eq!(second.is_none(), there.is_empty());
        let agree = !there.is_empty() && names.iter().all(|name| plain(&one, name) == plain(&two, name));
        let same = matches!((&first, &second), (Some(first), Some(second)) if first.hash == second.hash);
        prop_assert_eq!(same, agree);
        if let Some(key) = &second {
            let mut said: Vec<&str> = key.fields.iter().map(String::as_str).collect();
            let mut there = there;
            said.sort_unstable();
            there.sort_unstable();
            prop_assert_eq!(said, there);
        }
        let mut turned = settings.clone();
        turned.fields.as_mut().unwrap().reverse();
        prop_assert_eq!(dedup::key(&two, &turned), second);
    }
}
