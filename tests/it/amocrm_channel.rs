//! The channel `amocrm` against a fake account that misbehaves as the real one does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use leadwire::clock::{Clock as _, ManualClock};
use leadwire_fakes::AmoCrm;
use leadwire_fakes::amo::{Limits, Play};
use leadwire_tests::process::{Place, call};
use leadwire_tests::{Options, TestHost, client, codes, manual_clock, outcomes};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);
const TOKEN: &str = "eyJ0eXAiOiJKV1QifQ.long-lived-token-of_these.tests";
const OTHER: &str = "eyJ0eXAiOiJKV1QifQ.another-token-of_these.tests";

async fn account(limits: Limits) -> (AmoCrm, ManualClock) {
    let clock = manual_clock();
    let by = clock.clone();
    let amo = AmoCrm::start_with(limits, Arc::new(move || u64::try_from(by.now().as_millis()).unwrap())).await.unwrap();
    (amo, clock)
}

async fn shop_with(amo: &AmoCrm, clock: ManualClock, credential: Value) -> (TestHost, String) {
    let rewrite = vec![("acme.amocrm.ru".into(), amo.base_url())];
    let host = TestHost::with(Options { plugins: vec!["amocrm"], rewrite, clock: Some(clock), ..Options::default() }).await;
    host.project().await;
    let id = enable(&host, TOKEN, credential).await;
    (host, id)
}

/// `more` is laid over the credential, its `config` over the usual one.
async fn enable(host: &TestHost, token: &str, more: Value) -> String {
    let mut body = json!({"channel": "amocrm", "name": "Sales", "config": {"subdomain": "acme"}, "secrets": {"long_lived_token": token}});
    for (name, value) in more.as_object().unwrap() {
        match (name.as_str(), value) {
            ("config", Value::Object(config)) => body["config"].as_object_mut().unwrap().extend(config.clone()),
            _ => body[name] = value.clone(),
        }
    }
    host.enable_with(body).await
}

async fn shop(credential: Value) -> (AmoCrm, TestHost, String) {
    let (amo, clock) = account(Limits::none()).await;
    let (host, id) = shop_with(&amo, clock, credential).await;
    (amo, host, id)
}

fn contact_of(lead: &Value) -> u64 {
    lead["_embedded"]["contacts"][0]["id"].as_u64().unwrap_or_default()
}

fn field<'a>(entity: &'a Value, key: &str, name: &Value) -> Option<&'a Value> {
    let fields = entity["custom_fields_values"].as_array()?;
    fields.iter().find(|field| field[key] == *name).map(|field| &field["values"][0])
}

/// Collects leads while the credential is paused, so that they go out together; the ids of their deliveries.
async fn together(host: &TestHost, credential: &str, leads: Vec<Value>) -> Vec<String> {
    host.act(&format!("/api/credentials/{credential}/pause")).await;
    let mut ids = Vec::new();
    for lead in leads {
        ids.push(host.send(lead).await["deliveries"][0]["id"].as_str().unwrap().to_owned());
    }
    host.act(&format!("/api/credentials/{credential}/resume")).await;
    host.idle().await;
    ids
}

async fn statuses(host: &TestHost, ids: &[String]) -> Vec<String> {
    let mut all = Vec::new();
    for id in ids {
        all.push(host.status(id).await);
    }
    all
}

fn person(number: u32) -> Value {
    json!({"name": format!("Lead {number}"), "external_id": format!("lead-{number}"), "phone": format!("+7916{number:07}")})
}

#[tokio::test]
async fn a_new_lead_arrives_with_contact_company_note_and_task() {
    let config = json!({"config": {"pipeline_id": 3_200, "status_id": 3_202, "responsible_user_id": 502, "tags": ["Сайт"], "task_text": "Позвонить: {{ lead.name }}"}});
    let (amo, host, _) = shop(config).await;
    let sent = host
        .send(json!({"title": "Заявка", "name": "Иван Петров", "company": "Ромашка", "phones": ["8 (916) 123-45-67", "+44 20 7946 0958"], "email": "Ivan@Example.com",
            "comment": "Перезвонить", "value": {"amount": "1500.50", "currency": "RUB"}, "fields": {"car": "Lada"},
            "origin": {"page": "https://shop.example/", "utm_source": "yandex", "utm_campaign": "весна", "ids": {"ym_uid": "17", "yclid": "9"}}}))
        .await;
    host.idle().await;
    let delivery = host.first_delivery(&sent).await;
    assert_eq!(delivery["status"], "delivered", "{delivery:#}");
    let (leads, contacts, companies) = (amo.leads(), amo.contacts(), amo.companies());
    assert_eq!((leads.len(), contacts.len(), companies.len()), (1, 1, 1));
    let lead = &leads[0];
    assert!(lead["name"].as_str().unwrap().starts_with("Заявка #"), "{lead:#}");
    let [price, pipeline, status, user] =
        ["price", "pipeline_id", "status_id", "responsible_user_id"].map(|name| lead[name].as_u64().unwrap());
    assert_eq!([price, pipeline, status, user], [1501, 3_200, 3_202, 502]);
    assert_eq!((&lead["_embedded"]["tags"], contact_of(lead)), (&json!([{"name": "Сайт"}]), contacts[0]["id"].as_u64().unwrap()));
    assert_eq!(lead["custom_fields_values"].as_array().unwrap().len(), 4, "utm_source, utm_campaign, ym_uid, yclid: {lead:#}");
    let values = |code: &str| field(&contacts[0], "field_code", &json!(code)).map(|value| value["value"].clone());
    assert_eq!((values("PHONE"), values("EMAIL")), (Some(json!("+79161234567")), Some(json!("Ivan@example.com"))));
    assert_eq!(contacts[0]["custom_fields_values"][0]["values"][1]["value"], "+442079460958");
    assert_eq!((&companies[0]["name"], &contacts[0]["_embedded"]["companies"][0]["id"]), (&json!("Ромашка"), &companies[0]["id"]));
    let (notes, tasks) = (amo.notes(), amo.tasks());
    let note = notes[0]["params"]["text"].as_str().unwrap();
    for part in ["Перезвонить", "1500.50 RUB", "car: Lada", "https://shop.example/", sent["lead_id"].as_str().unwrap()] {
        assert!(note.contains(part), "{part}: {note}");
    }
    assert_eq!((notes.len(), &notes[0]["entity_id"]), (1, &lead["id"]));
    assert_eq!((tasks.len(), &tasks[0]["text"], &tasks[0]["responsible_user_id"]), (1, &json!("Позвонить: Иван Петров"), &json!(502)));
    assert_eq!(tasks[0]["complete_till"].as_u64().unwrap(), u64::try_from(host.clock.now().as_millis()).unwrap() / 1_000 + 3_600);
    let refs = [("lead", &lead["id"]), ("contact", &contacts[0]["id"]), ("company", &companies[0]["id"])]
        .map(|(name, id)| json!({"name": name, "value": id.to_string()}));
    assert_eq!(delivery["refs"], json!(refs));
    assert!(delivery.to_string().contains(&format!("https://acme.amocrm.ru/leads/detail/{}", lead["id"])), "{delivery:#}");
    assert!(amo.calls().iter().all(|call| call.header("authorization") == Some(&format!("Bearer {TOKEN}"))));
}

#[tokio::test]
async fn a_known_contact_is_found_in_another_spelling_and_a_stranger_is_left_alone() {
    for filters in [true, false] {
        let (amo, host, _) = shop(json!({})).await;
        amo.filters(filters);
        amo.add_contact("Stranger", "+79990000000", &[("POSITION", "asked for 9161234567")]);
        let known = amo.add_contact("Ivan", "8 (916) 123-45-67", &[]);
        let by_mail = amo.add_contact("Maria", "", &[("EMAIL", "Maria@Example.com")]);
        let first = host.send(json!({"name": "Ivan P.", "phone": "+7 916 123 45 67", "company": "Acme"})).await;
        host.advance(SECOND).await;
        let second = host.send(json!({"name": "Maria", "phone": "+7 916 000 00 00", "email": "maria@example.com"})).await;
        host.advance(SECOND).await;
        let third = host.send(json!({"name": "New", "phone": "+7 916 765 43 21"})).await;
        host.advance(SECOND).await;
        for sent in [&first, &second, &third] {
            let delivery = host.first_delivery(sent).await;
            assert_eq!(delivery["status"], "delivered", "{delivery:#}");
        }
        let belongs: Vec<u64> = amo.leads().iter().map(contact_of).collect();
        assert_eq!((belongs[0], belongs[1], amo.contacts().len()), (known, by_mail, 4));
        assert_eq!(amo.contacts()[1]["name"], "Ivan", "what the salespeople wrote stays");
        assert!(amo.calls().iter().all(|call| !call.query.as_deref().unwrap_or_default().contains("filter")), "{:?}", amo.asked());
    }
}

#[tokio::test]
async fn of_a_batch_exactly_the_bad_ones_fail() {
    for saves in [false, true] {
        let mapping = json!({"responsible_user_id": "{{ lead.fields.owner }}"});
        let (amo, host, id) = shop(json!({"mapping": mapping})).await;
        amo.saves_the_sound(saves);
        let lead = |number: u32, owner: u32| json!({"name": format!("Lead {number}"), "external_id": number.to_string(), "fields": {"owner": owner}});
        let ids = together(&host, &id, vec![lead(1, 501), lead(2, 999), lead(3, 502), lead(4, 998), lead(5, 501)]).await;
        assert_eq!(statuses(&host, &ids).await, ["delivered", "failed", "delivered", "failed", "delivered"], "{:?}", amo.asked());
        let failed = host.delivery(&ids[1]).await;
        assert_eq!(codes(&failed), ["field_refused"]);
        assert!(failed["last_error"].as_str().unwrap().contains("responsible_user_id: The value you selected"), "{failed:#}");
        assert_eq!((amo.leads().len(), amo.notes().len()), (3, 3));
        assert_eq!(amo.asked().iter().filter(|call| *call == "POST leads/complex").count(), if saves { 1 } else { 2 });
        assert_eq!(host.state(&id).await, "active");
    }
}

#[tokio::test]
async fn a_refusal_that_names_nobody_costs_only_who_it_was_about() {
    let (amo, host, id) = shop(json!({})).await;
    amo.script("leads/complex", [Play::Refuse("Something is wrong"), Play::Refuse("Something is wrong")]);
    let ids =
        together(&host, &id, (1..=2).map(|number| json!({"name": format!("Lead {number}"), "external_id": number.to_string()})).collect())
            .await;
    host.advance_by_seconds(3).await;
    let mut ended = statuses(&host, &ids).await;
    ended.sort_unstable();
    assert_eq!(ended, ["delivered", "failed"]);
    assert_eq!(amo.leads().len(), 1);
}

#[tokio::test]
async fn an_account_that_chokes_on_many_gets_them_one_by_one() {
    let (amo, host, id) = shop(json!({})).await;
    amo.chokes_on(1);
    let leads = (1..=4).map(|number| json!({"name": format!("Lead {number}"), "external_id": number.to_string()})).collect();
    let ids = together(&host, &id, leads).await;
    host.advance(SECOND * 12).await;
    host.advance_by_seconds(6).await;
    assert_eq!(statuses(&host, &ids).await, ["delivered"; 4], "{:?}", amo.asked());
    assert_eq!((amo.leads().len(), amo.notes().len()), (4, 4));
}

#[tokio::test]
async fn a_lost_answer_is_looked_up_and_nothing_is_made_twice() {
    for (play, code) in [
        (Play::CloseAfterDoing, "http_other"),
        (Play::BadGatewayAfterDoing, "amocrm_502"),
        (Play::TruncatedAfterDoing, "answer_unreadable"),
    ] {
        for restart in [false, true] {
            for config in [json!({}), json!({"unsorted": true}), json!({"marker_field": "LEADWIRE"})] {
                let (amo, clock) = account(Limits::none()).await;
                amo.add_field("leads", "text", Some("LEADWIRE"), &[]);
                let (mut host, _) = shop_with(&amo, clock, json!({"config": config})).await;
                amo.indexes(false);
                amo.script("leads/complex", [play.clone()]);
                let sent = host.send(person(1)).await;
                host.idle().await;
                let waits = host.first_delivery(&sent).await;
                assert_eq!((&waits["status"], outcomes(&waits)), (&json!("queued"), vec!["retry"]), "{waits:#}");
                assert!(code == "http_other" || codes(&waits) == [code], "{waits:#}");
                if restart {
                    host = host.restart().await;
                }
                host.advance(SECOND * 15).await;
                let delivery = host.first_delivery(&sent).await;
                assert_eq!(delivery["status"], "delivered", "{delivery:#} {:?}", amo.asked());
                assert_eq!((amo.leads().len(), amo.contacts().len(), amo.notes().len()), (1, 1, 1), "{:?}", amo.asked());
                assert_eq!(delivery["refs"][0], json!({"name": "lead", "value": amo.leads()[0]["id"].to_string()}));
            }
        }
    }
}

#[tokio::test]
async fn a_request_that_never_arrived_is_made_after_a_look() {
    let (amo, host, _) = shop(json!({})).await;
    amo.script("leads/complex", [Play::CloseBefore, Play::BadGateway, Play::GatewayTimeout]);
    let sent = host.send(person(1)).await;
    for pause in [0, 15, 70, 340] {
        host.advance(SECOND * pause).await;
    }
    let delivery = host.first_delivery(&sent).await;
    assert_eq!(
        (&delivery["status"], outcomes(&delivery)),
        (&json!("delivered"), vec!["retry", "retry", "retry", "delivered"]),
        "{delivery:#}"
    );
    assert_eq!((amo.leads().len(), amo.notes().len()), (1, 1));
}

#[tokio::test]
async fn a_lost_note_is_not_written_twice() {
    for play in [Play::CloseAfterDoing, Play::CloseBefore, Play::TooMany(Some(2))] {
        let (amo, host, _) = shop(json!({"config": {"task_text": "Call"}})).await;
        amo.script("notes", [play]);
        let sent = host.send(person(1)).await;
        host.idle().await;
        let host = host.restart().await;
        host.advance(SECOND * 15).await;
        assert_eq!(host.first_delivery(&sent).await["status"], "delivered");
        assert_eq!((amo.leads().len(), amo.notes().len(), amo.tasks().len()), (1, 1, 1), "{:?}", amo.asked());
    }
}

#[tokio::test]
async fn with_answers_lost_at_random_each_lead_and_each_contact_is_there_once() {
    let (amo, clock) = account(Limits::usual()).await;
    let (host, id) = shop_with(&amo, clock, json!({})).await;
    // A row without a pattern, the same in every run.
    let mut random = 20_261_122_u64;
    let plays = (0..60).map(|_| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match random >> 61 {
            0 | 1 => Play::CloseAfterDoing,
            2 => Play::TruncatedAfterDoing,
            3 => Play::CloseBefore,
            4 => Play::BadGatewayAfterDoing,
            _ => Play::Drip(Duration::from_micros(10)),
        }
    });
    amo.script("leads/complex", plays.take(30));
    // Two leads a person, in two spellings.
    let leads = (0..60_u32).map(|number| {
        let mut lead = person(number / 2);
        lead["external_id"] = json!(number.to_string());
        if number % 2 == 1 {
            lead["phone"] = json!(format!("8 (916) {:07}", number / 2));
        }
        lead
    });
    let ids = together(&host, &id, leads.collect()).await;
    for _ in 0..100 {
        host.advance(SECOND).await;
    }
    for _ in 0..100 {
        host.advance(SECOND * 30).await;
    }
    assert!(statuses(&host, &ids).await.iter().all(|status| status == "delivered"), "{:?}", statuses(&host, &ids).await);
    let names: BTreeSet<String> = amo.leads().iter().map(|lead| lead["name"].to_string()).collect();
    assert_eq!((amo.leads().len(), names.len(), amo.contacts().len(), amo.notes().len()), (60, 60, 30, 60));
    assert_eq!(amo.too_many(), 0);
}

#[tokio::test]
async fn two_credentials_for_one_account_stay_below_its_limit() {
    let (amo, clock) = account(Limits::usual()).await;
    let (host, _) = shop_with(&amo, clock, json!({"config": {"task_text": "Call"}})).await;
    enable(&host, OTHER, json!({"name": "Second"})).await;
    for number in 0..12 {
        let mut lead = person(number);
        lead["email"] = json!(format!("{number}@example.com"));
        host.send(lead).await;
    }
    host.idle().await;
    host.advance_by_seconds(40).await;
    assert_eq!((amo.leads().len(), amo.notes().len(), amo.tasks().len()), (24, 24, 12));
    assert_eq!(amo.too_many(), 0, "nothing was refused");
}

#[tokio::test]
async fn a_wish_to_wait_is_kept() {
    let (amo, host, id) = shop(json!({})).await;
    amo.script("contacts", [Play::TooMany(Some(30))]);
    let sent = host.send(person(1)).await;
    host.advance(SECOND * 29).await;
    assert_eq!((host.state(&id).await.as_str(), amo.leads().len()), ("throttled", 0));
    host.advance(SECOND * 2).await;
    let delivery = host.first_delivery(&sent).await;
    assert_eq!((&delivery["status"], &delivery["attempt_count"], amo.leads().len()), (&json!("delivered"), &json!(1), 1), "{delivery:#}");
}

#[tokio::test]
async fn a_block_pauses_the_account_for_an_hour_and_then_calls_a_person() {
    let (amo, host, id) = shop(json!({})).await;
    amo.block(true);
    let sent = host.send(person(1)).await;
    host.advance(SECOND * 3_000).await;
    host.send(person(2)).await;
    host.idle().await;
    assert_eq!((host.state(&id).await.as_str(), amo.calls().len()), ("throttled", 1), "nothing is asked of a blocked account");
    let host = host.restart().await;
    host.advance(SECOND * 601).await;
    let shown = host.credential(&id).await;
    assert_eq!((&shown["state"], amo.calls().len()), (&json!("invalid"), 2), "{shown:#}");
    assert!(shown["state_reason"]["message"].as_str().unwrap().contains("support"), "{shown:#}");
    amo.block(false);
    host.act(&format!("/api/credentials/{id}/resume")).await;
    host.idle().await;
    host.advance_by_seconds(2).await;
    let delivery = host.first_delivery(&sent).await;
    assert_eq!((&delivery["status"], &delivery["attempt_count"], amo.leads().len()), (&json!("delivered"), &json!(1), 2), "{delivery:#}");
}

#[tokio::test]
async fn what_an_admin_must_mend_parks_the_credential_and_costs_no_lead() {
    type Break = fn(&AmoCrm);
    let table: [(Break, Value, &str); 6] = [
        (|amo| amo.revoke(TOKEN), json!({}), "does not accept the token"),
        (|amo| amo.unpaid(true), json!({}), "not paid for"),
        (|amo| amo.script("leads/complex", [Play::Forbidden]), json!({}), "may not do this"),
        (|amo| amo.move_to("new.amocrm.ru"), json!({}), "leads to new.amocrm.ru"),
        (|_| (), json!({"pipeline_id": 3_100, "status_id": 3_202}), "status_id: amoCRM does not take 3202"),
        (|_| (), json!({"marker_field": "NOSUCH"}), "marker_field"),
    ];
    for (breaks, config, words) in table {
        let (amo, host, id) = shop(json!({"config": config})).await;
        breaks(&amo);
        let sent = host.send(person(1)).await;
        host.idle().await;
        host.send(person(2)).await;
        host.advance(SECOND * 600).await;
        let shown = host.credential(&id).await;
        assert_eq!(shown["state"], "invalid", "{words}: {shown:#}");
        let message = shown["state_reason"]["message"].as_str().unwrap();
        assert!(message.contains(words) && !message.contains(TOKEN), "{words}: {message}");
        let delivery = host.first_delivery(&sent).await;
        assert_eq!((&delivery["status"], &delivery["attempt_count"], amo.leads().len()), (&json!("queued"), &json!(0), 0), "{delivery:#}");
    }
}

#[tokio::test]
async fn a_new_token_sends_what_waited() {
    let (amo, host, id) = shop(json!({})).await;
    amo.revoke(TOKEN);
    let sent = host.send(person(1)).await;
    host.idle().await;
    assert_eq!(host.state(&id).await, "invalid");
    assert_eq!(host.patch(&format!("/api/credentials/{id}"), &json!({"secrets": {"long_lived_token": OTHER}})).await.0, 200);
    host.idle().await;
    host.advance(SECOND).await;
    assert_eq!((host.first_delivery(&sent).await["status"].as_str(), amo.leads().len()), (Some("delivered"), 1));
}

#[tokio::test]
async fn fields_of_each_kind_are_filled_by_the_mapping() {
    let (amo, clock) = account(Limits::none()).await;
    // More than one page of them.
    for number in 0..60 {
        amo.add_field("leads", "text", Some(&format!("F{number}")), &[]);
    }
    let select = amo.add_field("leads", "select", None, &["Новый", "Старый"]);
    let many = amo.add_field("leads", "multiselect", None, &["A", "B", "C"]);
    let number = amo.add_field("leads", "numeric", Some("AREA"), &[]);
    let flag = amo.add_field("leads", "checkbox", None, &[]);
    let day = amo.add_field("leads", "date", None, &[]);
    let at = amo.add_field("leads", "date_time", None, &[]);
    let mapping = json!({"F59": "{{ lead.fields.text }}", select.to_string(): "{{ lead.fields.choice }}", many.to_string(): "{{ lead.fields.many }}",
        "AREA": "{{ lead.fields.area }}", flag.to_string(): "{{ lead.fields.flag }}", day.to_string(): "{{ lead.fields.day }}",
        at.to_string(): {"from": "lead.created_at"}, "contact.POSITION": "{{ lead.fields.position }}", "NOSUCH": {"const": "lost?"}});
    let (host, _) = shop_with(&amo, clock, json!({"mapping": mapping})).await;
    let good = json!({"text": "Ж😀", "choice": "старый", "many": "A; C", "area": "12,5", "flag": "да", "day": "31.12.2026", "position": "Директор"});
    let sent = host.send(json!({"name": "Ivan", "fields": good})).await;
    host.advance(SECOND).await;
    let delivery = host.first_delivery(&sent).await;
    assert_eq!(delivery["status"], "delivered", "{delivery:#}");
    let lead = amo.leads()[0].clone();
    let value = |id: u64| field(&lead, "field_id", &json!(id)).unwrap_or_else(|| panic!("{id}: {lead:#}")).clone();
    assert_eq!((&value(number)["value"], &value(flag)["value"]), (&json!(12.5), &json!(true)));
    assert_eq!(value(day)["value"], 1_798_718_400, "noon of the day");
    assert_eq!(value(at)["value"], 1_795_341_600, "when it was made");
    assert!(value(select)["enum_id"].is_u64() && value(many)["enum_id"].is_u64());
    assert_eq!(field(&amo.contacts()[0], "field_code", &json!("POSITION")).unwrap()["value"], "Директор");
    let note = amo.notes()[0]["params"]["text"].as_str().unwrap().to_owned();
    assert!(note.contains("NOSUCH: lost? (there is no such field of a lead)"), "{note}");

    // What fits no field keeps no lead back.
    host.send(json!({"name": "Odd", "fields": {"choice": "Unknown", "area": "big", "day": "soon"}})).await;
    host.advance(SECOND).await;
    let note = amo.notes()[1]["params"]["text"].as_str().unwrap().to_owned();
    for part in ["Unknown (no option of this field)", "AREA: big (no number)", "soon (no date)"] {
        assert!(note.contains(part), "{part}: {note}");
    }
}

#[tokio::test]
async fn hostile_texts_arrive_as_texts() {
    let (amo, host, _) = shop(json!({"mapping": {"contact.POSITION": "{{ lead.comment }}"}})).await;
    let evil = "\"}],\"x\":[{\u{7}</script>'; DROP TABLE leads;-- %0d%0a {{ 7*7 }} Ж😀\u{202e}";
    let sent = host
        .send(json!({"name": evil, "title": evil.repeat(10), "company": evil, "comment": evil, "phone": evil, "email": "o'neil+x@example.com", "fields": {evil: evil},
            "origin": {"utm_source": evil, "ids": {"yclid": evil, "unknown": evil}}}))
        .await;
    host.advance(SECOND).await;
    let delivery = host.first_delivery(&sent).await;
    assert_eq!(delivery["status"], "delivered", "{delivery:#}");
    let (lead, contact) = (amo.leads()[0].clone(), amo.contacts()[0].clone());
    let shown = evil.replace('\u{7}', "");
    assert_eq!(contact["name"], shown);
    assert!(lead["name"].as_str().unwrap().chars().count() <= 255);
    assert_eq!(field(&contact, "field_code", &json!("POSITION")).unwrap()["value"], shown);
    assert!(amo.notes()[0]["params"]["text"].as_str().unwrap().contains(&shown));
    assert!(amo.calls().iter().all(|call| !call.path.contains("..") && call.path.starts_with("/api/v4/")));
}

#[tokio::test]
async fn a_preview_shows_the_requests_and_makes_nothing() {
    let (amo, host, id) = shop(json!({"config": {"task_text": "Call"}})).await;
    let known = amo.add_contact("Ivan", "8 916 123-45-67", &[]);
    let path = format!("/api/credentials/{id}/preview");
    let (status, found) = host.post(&path, &json!({"lead": {"title": "Call back", "name": "Ivan", "phone": "+7 916 123-45-67"}})).await;
    assert_eq!((status, &found["outcome"]["status"]), (200, &json!("delivered")), "{found:#}");
    assert!(!found.to_string().contains(TOKEN) && !found.to_string().contains("long-lived-token"), "{found:#}");
    let complex =
        found["requests"].as_array().unwrap().iter().find(|request| request["url"].as_str().unwrap().ends_with("/leads/complex")).unwrap();
    let body: Value = serde_json::from_str(complex["body"].as_str().unwrap()).unwrap();
    assert_eq!(body[0]["_embedded"]["contacts"], json!([{"id": known}]), "{body:#}");
    assert!(found["requests"].as_array().unwrap().iter().any(|request| request["body"].as_str().unwrap_or_default().contains("Call back")));
    assert!(amo.leads().is_empty() && amo.notes().is_empty() && amo.calls().iter().all(|call| call.method == "GET"));
}

#[tokio::test]
async fn the_check_says_what_works_and_what_does_not() {
    let (amo, host, id) = shop(json!({"config": {"pipeline_id": 3_200, "status_id": 3_201, "responsible_user_id": 502}})).await;
    let path = format!("/api/credentials/{id}/check");
    let shown = host.act(&path).await;
    assert_eq!(shown["ok"], true, "{shown:#}");
    for part in ["Acme", "Анна Кузнецова", "administrator", "Опт", "Bob"] {
        assert!(shown.to_string().contains(part), "{part}: {shown:#}");
    }
    amo.rights(Some(json!({"is_admin": false, "leads": {"add": "D"}, "contacts": {"add": "A"}})));
    let shown = host.act(&path).await;
    assert!(shown["ok"] == false && shown["message"].as_str().unwrap().contains("may not add leads"), "{shown:#}");
    amo.rights(None);
    assert_eq!(host.act(&path).await["ok"], true);
    let wrong = json!({"config": {"subdomain": "acme", "pipeline_id": 3_100, "status_id": 3_201}});
    assert_eq!(host.patch(&format!("/api/credentials/{id}"), &wrong).await.0, 200);
    let shown = host.act(&path).await;
    assert!(shown["message"].as_str().unwrap_or_default().contains("stage 3201 does not belong to pipeline 3100"), "{shown:#}");
    assert!(amo.calls().iter().all(|call| call.method == "GET"));
}

#[tokio::test]
async fn what_cannot_be_an_account_is_refused_when_it_is_entered() {
    let (_amo, host, _) = shop(json!({})).await;
    for (config, pointer) in [
        (json!({"subdomain": "acme.amocrm.ru"}), "/config/subdomain"),
        (json!({"subdomain": "acme@evil"}), "/config/subdomain"),
        (json!({"subdomain": "acme", "zone": "evil.example"}), "/config/zone"),
        (json!({"subdomain": "acme", "task_text": "{{ lead.name|shout }}"}), "/config/task_text"),
    ] {
        let body = json!({"channel": "amocrm", "name": "x", "config": config, "secrets": {"long_lived_token": TOKEN}});
        let (status, problem) = host.post("/api/projects/ext:shop/credentials", &body).await;
        assert_eq!((status, problem["errors"][0]["pointer"].as_str()), (422, Some(pointer)), "{problem}");
    }
    let without = json!({"channel": "amocrm", "name": "x", "config": {"subdomain": "acme"}, "secrets": {}});
    assert_eq!(host.post("/api/projects/ext:shop/credentials", &without).await.0, 422);
}

#[tokio::test]
async fn neither_the_token_nor_a_persons_data_stand_in_attempts_or_the_log() {
    let amo = AmoCrm::start().await.unwrap();
    let mut place = Place::new(&["amocrm"]);
    place.set("EGRESS_REWRITE", &format!("acme.amocrm.ru={}", amo.base_url()));
    place.set("LOG", "debug");
    let host = place.start().await;
    let client = client();
    let make = async |path: &str, body: Value| {
        let (status, made) = call(&client, "POST", &host.url(path), Some(&body)).await;
        assert!((200..300).contains(&status), "{made:#}");
        made
    };
    make("/api/projects", json!({"external_id": "shop", "name": "Shop"})).await;
    let credential = json!({"channel": "amocrm", "name": "Sales", "config": {"subdomain": "acme"}, "secrets": {"long_lived_token": TOKEN}});
    make("/api/projects/ext:shop/credentials", credential).await;
    let lead = |name: &str| json!({"project": "ext:shop", "external_id": name, "name": name, "phone": "+7 916 555-43-21", "email": "secret.person@lead-mail.example"});
    amo.script("notes", [Play::Refuse("about secret.person@lead-mail.example")]);
    let first = make("/api/leads", lead("First")).await;
    assert!(host.line_with("ended as delivered").await.is_some());
    amo.revoke(TOKEN);
    make("/api/leads", lead("Second")).await;
    assert!(host.line_with("ended as released").await.is_some());
    let id = first["deliveries"][0]["id"].as_str().unwrap();
    let (_, delivery) = call(&client, "GET", &host.url(&format!("/api/deliveries/{id}")), None).await;
    assert_eq!(delivery["status"], "delivered", "{delivery:#}");
    assert!(delivery["attempts"][0].to_string().contains("leads/complex"), "{delivery:#}");
    let log = host.stop().await.join("\n");
    assert!(log.contains("ended as delivered"), "{log}");
    for secret in [TOKEN, "long-lived-token", "9165554321", "555-43-21", "secret.person@"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
    assert!(!delivery.to_string().contains("long-lived-token"), "{delivery:#}");
}
