//! Every row of the outcome table, every way a lead can go, and what hostile fields come to.

use leadwire_sdk::{
    Attr, Phone, Verdict,
    http::{FailureKind, Method, Request},
    testing::{Answer, Host, NOW_MS, event, event_item, item, item_of, lead},
};
use serde_json::{Value, json};

use super::*;

fn with(more: Value) -> Host {
    let mut config =
        json!({ "subdomain": "acme", "zone": "amocrm.ru", "tags": [], "unsorted": false, "task_type_id": 1, "task_due_minutes": 60 });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Host::new().config(config)
}

fn host() -> Host {
    with(json!({}))
}

fn none() -> Answer {
    Answer::status(204)
}

fn fields() -> Answer {
    let field = |id: u64, kind: &str, code: Option<&str>| json!({ "id": id, "type": kind, "code": code, "enums": null });
    let mut list: Vec<Value> = ["UTM_SOURCE", "UTM_MEDIUM", "UTM_CAMPAIGN", "YCLID"]
        .iter()
        .zip(1..)
        .map(|(code, id)| field(id, "tracking_data", Some(code)))
        .collect();
    list.push(field(50, "text", Some("LEADWIRE")));
    list.push(json!({ "id": 60, "type": "select", "code": null, "enums": [{ "id": 61, "value": "New" }, { "id": 62, "value": "Old" }] }));
    list.push(field(70, "numeric", None));
    Answer::status(200).json(&json!({ "_embedded": { "custom_fields": list } }))
}

fn contacts(list: Value) -> Answer {
    Answer::status(200).json(&json!({ "_embedded": { "contacts": list } }))
}

fn ivan() -> Value {
    json!({ "id": 15, "name": "Ivan", "custom_fields_values": [{ "field_code": "PHONE", "values": [{ "value": "8 (916) 123-45-67" }] }],
        "_embedded": { "companies": [{ "id": 16 }] } })
}

fn made(items: &[(u64, &str)]) -> Answer {
    let list: Vec<Value> = items
        .iter()
        .map(|(id, request)| json!({ "id": id, "contact_id": id + 1, "company_id": null, "request_id": [request], "merged": false }))
        .collect();
    Answer::status(200).json(&list)
}

fn noted() -> Answer {
    Answer::status(200).json(&json!({ "_embedded": { "notes": [{ "id": 1 }] } }))
}

/// A host for one new lead, up to the request that makes it.
fn before() -> Host {
    host().answer(fields()).answer(none()).answer(none())
}

fn refusal(errors: Value) -> Answer {
    Answer::status(400)
        .json(&json!({ "title": "Bad Request", "status": 400, "detail": "Request validation failed", "validation-errors": errors }))
}

fn body(request: &Request) -> Value {
    match &request.body {
        leadwire_sdk::Body::Text(text) => serde_json::from_str(text).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn asked(host: &Host) -> Vec<String> {
    let short = |request: &Request| format!("{:?} {}", request.method, request.url.split('?').next().unwrap_or_default());
    host.requests().iter().map(short).map(|line| line.replace("Method::", "")).collect()
}

/// A lead of its own with nothing but a name, which is looked for nowhere.
fn plain(number: u32) -> Item {
    let mut lead = lead();
    (lead.phones, lead.emails, lead.name) = (Vec::new(), Vec::new(), Some(format!("Lead {number}")));
    let mut item = item_of(lead);
    item.id = format!("dlv_{number}");
    item.idempotency_key = item.id.clone();
    item
}

#[test]
fn a_new_lead_goes_with_its_contact_and_company() {
    let mut host = with(json!({ "pipeline_id": 7, "status_id": 8, "responsible_user_id": 9, "tags": ["site", "Site "] }))
        .locale("ru")
        .answer(fields())
        .answer(none())
        .answer(contacts(json!([{ "id": 3, "name": "9161234567 in a name" }])))
        .answer(made(&[(100, "dlv_1")]))
        .answer(noted());
    let run = host.deliver::<AmoCrm>(&[item()]);
    let verdict = Verdict::delivered().with_ref("lead", 100).with_ref("contact", 101).with_url("https://acme.amocrm.ru/leads/detail/100");
    assert_eq!((run.verdict(), run.stop.as_ref()), (Some(&verdict), None));
    let requests = host.requests();
    assert_eq!(requests[1].url, "contacts?query=9161234567&limit=250");
    assert_eq!(requests[2].url, "contacts?query=ivan%40example.com&limit=250");
    assert_eq!((requests[3].method, requests[3].url.as_str()), (Method::Post, "leads/complex"));
    let field = |id: u64, value: &str| json!({ "field_id": id, "values": [{ "value": value }] });
    assert_eq!(
        body(&requests[3]),
        json!([{ "request_id": "dlv_1", "name": "Заявка с сайта #dlv1", "price": 1500, "pipeline_id": 7, "status_id": 8, "responsible_user_id": 9,
            "custom_fields_values": [field(1, "yandex"), field(2, "cpc"), field(3, "spring"), field(4, "123")],
            "_embedded": { "tags": [{ "name": "site" }],
                "contacts": [{ "name": "Иван Петров", "responsible_user_id": 9, "custom_fields_values": [
                    { "field_code": "PHONE", "values": [{ "value": "+79161234567", "enum_code": "WORK" }] },
                    { "field_code": "EMAIL", "values": [{ "value": "ivan@example.com", "enum_code": "WORK" }] }] }],
                "companies": [{ "name": "Рога & Копыта", "responsible_user_id": 9 }] } }])
    );
    let note = body(&requests[4]);
    assert_eq!((&note[0]["entity_id"], &note[0]["note_type"]), (&json!(100), &json!("common")));
    assert_eq!(
        note[0]["params"]["text"],
        "Заявка с сайта\nИмя: Иван Петров\nКомпания: Рога & Копыта\nТелефон: +79161234567\nПочта: ivan@example.com\nСумма: 1500.00 RUB\n\
         Комментарий: Перезвонить\ncar: Lada Vesta\nСтраница: https://shop.example/landing\nРеклама: yandex / cpc / spring\nНомер: lead_1"
    );
}

#[test]
fn a_contact_that_is_there_is_taken_and_its_company_left_alone() {
    let mut host = host().answer(fields()).answer(contacts(json!([ivan()]))).answer(made(&[(100, "dlv_1")])).answer(noted());
    assert_eq!(host.deliver::<AmoCrm>(&[item()]).summary(), "delivered");
    let lead = &body(&host.requests()[2])[0];
    assert_eq!(lead["_embedded"], json!({ "contacts": [{ "id": 15 }] }));
}

#[test]
fn each_answer_to_a_lead_has_its_outcome() {
    let table = [
        (Answer::status(401).json(&json!({ "hint": "Token has been revoked" })), "stop credential_invalid"),
        (Answer::status(402), "stop credential_invalid"),
        (Answer::status(403).json(&json!({ "title": "Forbidden" })), "stop credential_invalid"),
        (Answer::status(403).text("<html>403</html>"), "stop rate_limited 3600000"),
        (Answer::status(404).json(&json!({ "title": "Not Found" })), "stop misconfigured"),
        (Answer::status(301).header("Location", "https://new.amocrm.ru/"), "stop misconfigured"),
        (Answer::status(429).header("Retry-After", "2"), "stop rate_limited 2000"),
        (Answer::status(429).text("<html>"), "stop rate_limited"),
        (Answer::status(400).json(&json!({ "title": "Bad Request", "detail": "Код ошибки 244" })), "stop credential_invalid"),
        (Answer::status(400).json(&json!({ "title": "Bad Request" })), "rejected amocrm_400"),
        (Answer::status(422).json(&json!({ "title": "Unprocessable" })), "rejected amocrm_422"),
        (Answer::status(500), "retry amocrm_500 maybe_sent"),
        (Answer::status(502).text("<html>"), "retry amocrm_502 maybe_sent"),
        (Answer::status(503).header("Retry-After", "9"), "retry amocrm_503 after=9000 maybe_sent"),
        (Answer::status(504), "retry amocrm_504 maybe_sent"),
        (Answer::status(200).text("[{\"id\":1"), "retry answer_unreadable maybe_sent"),
        (Answer::status(200).json(&json!([])), "retry answer_incomplete maybe_sent"),
        (Answer::status(200).json(&json!([{ "request_id": ["dlv_1"] }])), "retry answer_incomplete maybe_sent"),
        (Answer::status(200).json(&json!([{ "id": 5, "request_id": ["another"] }])), "retry answer_incomplete maybe_sent"),
        (Answer::fails(FailureKind::Connect, false), "retry http_connect"),
        (Answer::fails(FailureKind::Timeout, true), "retry http_timeout maybe_sent"),
        (Answer::fails(FailureKind::NoCredential, false), "stop credential_invalid"),
    ];
    for (answer, expected) in table {
        let mut host = before().answer(answer.clone());
        assert_eq!(host.deliver::<AmoCrm>(&[item()]).summary(), expected, "{answer:?}");
    }
}

#[test]
fn trouble_with_a_search_leaves_no_doubt() {
    for (answer, expected) in [
        (Answer::status(502).text("<html>"), "retry amocrm_502"),
        (Answer::status(200).text("{"), "retry answer_unreadable"),
        (Answer::fails(FailureKind::Timeout, true), "retry http_timeout"),
        (Answer::status(401), "stop credential_invalid"),
        (Answer::status(429), "stop rate_limited"),
    ] {
        let mut host = host().answer(fields()).answer(answer.clone());
        assert_eq!(host.deliver::<AmoCrm>(&[item()]).summary(), expected, "{answer:?}");
    }
}

#[test]
fn a_merged_lead_is_delivered() {
    let merged = json!([{ "id": 7, "contact_id": 8, "company_id": 9, "request_id": ["other", "dlv_1"], "merged": true }]);
    let mut host = before().answer(Answer::status(200).json(&merged)).answer(noted());
    let refs = Verdict::delivered().with_ref("lead", 7).with_ref("contact", 8).with_ref("company", 9);
    assert_eq!(host.deliver::<AmoCrm>(&[item()]).verdict(), Some(&refs.with_url("https://acme.amocrm.ru/leads/detail/7")));
}

#[test]
fn only_the_refused_ones_of_a_batch_fail() {
    let items: Vec<Item> = (1..=4).map(plain).collect();
    let errors = json!([{ "request_id": "dlv_2", "errors": [{ "code": "NotSupportedChoice", "path": "custom_fields_values.0.field_id", "detail": "No such choice." }] },
        { "request_id": "3", "errors": [{ "code": "TooLong", "path": "name", "detail": "Too long." }] }]);
    let mut host =
        host().answer(fields()).answer(refusal(errors)).answer(none()).answer(made(&[(1, "dlv_1"), (3, "dlv_3")])).answer(noted());
    let run = host.deliver::<AmoCrm>(&items);
    assert_eq!(run.summary(), "rejected field_refused + rejected field_refused + delivered + delivered");
    let Some(Verdict::Rejected(why)) = run.verdict() else { panic!() };
    assert_eq!(why.message, "field 1: No such choice. (NotSupportedChoice)");
    assert_eq!(asked(&host)[2..], ["Get leads", "Post leads/complex", "Post leads/notes"]);
    assert_eq!(body(&host.requests()[3]).as_array().unwrap().len(), 2);
}

#[test]
fn sound_leads_of_a_refused_batch_that_were_saved_are_not_made_again() {
    let items: Vec<Item> = (1..=2).map(plain).collect();
    let errors = json!([{ "request_id": "dlv_2", "errors": [{ "code": "TooLong", "path": "name", "detail": "Too long." }] }]);
    let saved = Answer::status(200)
        .json(&json!({ "_embedded": { "leads": [{ "id": 8, "name": "x #dlv99" }, { "id": 9, "name": "Заявка #dlv1" }] } }));
    let mut host = host().answer(fields()).answer(refusal(errors)).answer(saved).answer(noted());
    assert_eq!(host.deliver::<AmoCrm>(&items).summary(), "rejected field_refused + delivered");
    assert_eq!(body(&host.requests()[3])[0]["entity_id"], 9);
}

#[test]
fn a_refusal_that_names_nobody_is_narrowed_down() {
    let items: Vec<Item> = (1..=2).map(plain).collect();
    let unnamed = || Answer::status(400).json(&json!({ "title": "Bad Request" }));
    let mut host = host().answer(fields()).answer(unnamed()).answer(none()).answer(unnamed()).answer(made(&[(5, "dlv_2")])).answer(noted());
    assert_eq!(host.deliver::<AmoCrm>(&items).summary(), "rejected amocrm_400 + delivered");
}

#[test]
fn settings_that_no_lead_can_have_stop_the_credential_and_cost_no_lead() {
    let errors = || json!([{ "request_id": "dlv_1", "errors": [{ "code": "NotSupportedChoice", "path": "status_id", "detail": "No such choice." }] }]);
    let items: Vec<Item> = (1..=2).map(plain).collect();
    let mut host = with(json!({ "pipeline_id": 7, "status_id": 8 })).answer(fields()).answer(refusal(errors()));
    let run = host.deliver::<AmoCrm>(&items);
    assert!(matches!(&run.stop, Some(Stop::Misconfigured(text)) if text.contains("status_id") && text.contains('8')), "{run:?}");
    assert_eq!((run.verdicts.len(), host.memo("dlv_2")), (0, Some(r#"{"doubt":true}"#)));

    // A stage of the mapping's own is this lead's fault.
    let mut own = plain(1);
    own.fields = r#"{"status_id":"99"}"#.into();
    let mut host = with(json!({ "pipeline_id": 7, "status_id": 8 })).answer(fields()).answer(refusal(errors()));
    assert_eq!(host.deliver::<AmoCrm>(&[own]).summary(), "rejected field_refused");
}

fn doubtful() -> Item {
    Item { maybe_sent: true, attempt: 2, ..item() }
}

#[test]
fn a_lead_in_doubt_is_looked_for_among_the_newest_and_then_by_its_number() {
    let there = |name: &str| Answer::status(200).json(&json!({ "_embedded": { "leads": [{ "id": 77, "name": name }] } }));
    let mut found = host().answer(fields()).answer(there("Заявка с сайта #dlv1")).answer(none()).answer(noted());
    assert_eq!(found.deliver::<AmoCrm>(&[doubtful()]).summary(), "delivered");
    assert_eq!(asked(&found)[1..], ["Get leads", "Get leads/77/notes", "Post leads/notes"]);

    let mut by_number = host().answer(fields()).answer(none()).answer(there("Заявка с сайта #dlv1")).answer(none()).answer(noted());
    assert_eq!(by_number.deliver::<AmoCrm>(&[doubtful()]).summary(), "delivered");
    assert_eq!(by_number.requests()[2].url, "leads?query=dlv1&limit=50&with=contacts");

    let mut absent = host().answer(fields()).answer(there("Other #dlv10")).answer(there("dlv1 in a name")).answer(none()).answer(none());
    absent = absent.answer(made(&[(5, "dlv_1")])).answer(noted());
    assert_eq!(absent.deliver::<AmoCrm>(&[doubtful()]).summary(), "delivered");
    assert_eq!(asked(&absent)[5..], ["Post leads/complex", "Post leads/notes"]);

    for answer in [Answer::status(502), Answer::fails(FailureKind::TooLarge, true)] {
        let mut unknown = host().answer(fields()).answer(answer);
        let run = unknown.deliver::<AmoCrm>(&[doubtful()]);
        assert!(matches!(run.verdict(), Some(Verdict::Retry(_))), "nothing is made while it cannot be looked for: {run:?}");
    }
}

#[test]
fn our_number_has_a_field_of_its_own_where_there_is_one() {
    for marker in [json!("LEADWIRE"), json!(50)] {
        let mut host = with(json!({ "marker_field": marker }))
            .answer(fields())
            .answer(none())
            .answer(none())
            .answer(made(&[(5, "dlv_1")]))
            .answer(noted());
        assert_eq!(host.deliver::<AmoCrm>(&[item()]).summary(), "delivered");
        let lead = &body(&host.requests()[3])[0];
        assert_eq!(lead["name"], "Заявка с сайта");
        assert_eq!(lead["custom_fields_values"][0], json!({ "field_id": 50, "values": [{ "value": "dlv_1" }] }));
    }
    let there = json!({ "_embedded": { "leads": [{ "id": 77, "name": "renamed", "custom_fields_values": [{ "field_id": 50, "values": [{ "value": "dlv_1" }] }] }] } });
    let mut host =
        with(json!({ "marker_field": 50 })).answer(fields()).answer(Answer::status(200).json(&there)).answer(none()).answer(noted());
    assert_eq!(host.deliver::<AmoCrm>(&[doubtful()]).summary(), "delivered");
    for missing in [json!("NOSUCH"), json!(70)] {
        let mut host = with(json!({ "marker_field": missing })).answer(fields());
        assert_eq!(host.deliver::<AmoCrm>(&[item()]).summary(), "stop misconfigured");
    }
}

#[test]
fn a_lead_that_was_made_gets_its_note_and_is_not_made_again() {
    let mut host = before().answer(made(&[(100, "dlv_1")])).answer(Answer::status(429)).answer(noted());
    assert_eq!(host.deliver::<AmoCrm>(&[item()]).summary(), "stop rate_limited");
    assert_eq!(host.memo("dlv_1"), Some(r#"{"lead":100,"contact":101}"#));
    assert_eq!(host.deliver::<AmoCrm>(&[item()]).summary(), "delivered");
    assert_eq!(asked(&host)[4..], ["Post leads/notes", "Post leads/notes"]);

    // Without its note it is delivered all the same, if amoCRM goes on refusing that.
    let mut host = before().answer(made(&[(100, "dlv_1")])).answer(Answer::status(500));
    assert_eq!(host.deliver::<AmoCrm>(&[item()]).summary(), "retry amocrm_500 maybe_sent");
    let mut host = host.answer(none()).answer(Answer::status(500));
    assert_eq!(host.deliver::<AmoCrm>(&[Item { maybe_sent: true, attempt: 3, ..item() }]).summary(), "delivered");
    let mut host = before().answer(made(&[(100, "dlv_1")])).answer(Answer::status(400));
    assert_eq!(host.deliver::<AmoCrm>(&[item()]).summary(), "delivered");
    assert!(host.logs().iter().any(|line| line.contains("leads/notes")), "{:?}", host.logs());
}

#[test]
fn a_note_that_may_be_there_is_looked_for() {
    let mut host = before().answer(made(&[(100, "dlv_1")])).answer(Answer::fails(FailureKind::Timeout, true));
    assert_eq!(host.deliver::<AmoCrm>(&[item()]).summary(), "retry http_timeout maybe_sent");
    let text = body(&host.requests()[4])[0]["params"]["text"].as_str().unwrap().replace('\n', "\r\n");
    let there = json!({ "_embedded": { "notes": [{ "note_type": "common", "params": { "text": text } }] } });
    let mut host = host.answer(Answer::status(200).json(&there));
    assert_eq!(host.deliver::<AmoCrm>(&[doubtful()]).summary(), "delivered");
    assert_eq!(asked(&host).len(), 6, "no second note");
}

#[test]
fn a_task_is_added_once() {
    let config = json!({ "task_text": "Call {{ lead.name }}", "task_type_id": 2, "task_due_minutes": 30, "responsible_user_id": 9 });
    let mut host = with(config)
        .answer(fields())
        .answer(none())
        .answer(none())
        .answer(made(&[(100, "dlv_1")]))
        .answer(noted())
        .answer(Answer::status(504));
    assert_eq!(host.deliver::<AmoCrm>(&[item()]).summary(), "retry amocrm_504 maybe_sent");
    let task = body(&host.requests()[5]);
    let till = NOW_MS / 1_000 + 1_800;
    let expected = json!([{ "text": "Call Иван Петров", "entity_type": "leads", "entity_id": 100, "task_type_id": 2, "complete_till": till,
        "responsible_user_id": 9, "request_id": "dlv_1" }]);
    assert_eq!(task, expected);
    let there = json!({ "_embedded": { "tasks": [{ "entity_id": 5, "text": "Call Иван Петров" }, { "entity_id": 100, "text": "Call Иван Петров" }] } });
    let mut host = host.answer(Answer::status(200).json(&there));
    assert_eq!(host.deliver::<AmoCrm>(&[doubtful()]).summary(), "delivered");
    assert_eq!(asked(&host)[6..], ["Get tasks"], "its note was noted down, and the task is there");
}

#[test]
fn an_incoming_lead_is_a_form_and_is_found_among_those() {
    let mut host =
        with(json!({ "unsorted": true })).answer(fields()).answer(none()).answer(none()).answer(made(&[(100, "dlv_1")])).answer(noted());
    assert_eq!(host.deliver::<AmoCrm>(&[item()]).summary(), "delivered");
    let form = &body(&host.requests()[3])[0]["_embedded"]["metadata"];
    let expected = json!({ "category": "forms", "form_id": "dlv_1", "form_name": "callback", "form_page": "https://shop.example/landing",
        "form_sent_at": NOW_MS / 1_000, "ip": "203.0.113.7", "referer": "" });
    assert_eq!(*form, expected);
    let waits = json!({ "_embedded": { "unsorted": [{ "uid": "f0", "metadata": { "form_id": "dlv_1" }, "_embedded": { "leads": [{ "id": 100 }] } }] } });
    let mut host =
        with(json!({ "unsorted": true })).answer(fields()).answer(Answer::status(200).json(&waits)).answer(none()).answer(noted());
    assert_eq!(host.deliver::<AmoCrm>(&[doubtful()]).summary(), "delivered");
    assert_eq!(asked(&host)[1], "Get leads/unsorted");
}

#[test]
fn mapped_fields_are_written_by_kind_and_the_rest_is_in_the_note() {
    let mut item = item();
    item.fields = json!({ "name": "Own name", "price": "2 500,50", "tags": "a, b", "60": "old", "70": "many", "YCLID": "own", "lead.999": "lost",
        "contact.POSITION": "Boss", "contact.first_name": "Ivan", "contact.last_name": "P.", "company.name": "Acme", "pipeline_id": "3", "empty": "" })
    .to_string();
    let position = json!({ "_embedded": { "custom_fields": [{ "id": 80, "type": "text", "code": "POSITION" }] } });
    let mut host = with(json!({ "pipeline_id": 7, "status_id": 8 })).answer(fields()).answer(Answer::status(200).json(&position));
    host = host.answer(none()).answer(none()).answer(made(&[(100, "dlv_1")])).answer(noted());
    assert_eq!(host.deliver::<AmoCrm>(&[item]).summary(), "delivered");
    let lead = &body(&host.requests()[4])[0];
    assert_eq!((&lead["name"], &lead["price"], &lead["pipeline_id"]), (&json!("Own name #dlv1"), &json!(2501), &json!(3)));
    assert_eq!(lead.get("status_id"), None, "the settings' stage is of another pipeline");
    assert_eq!(lead["_embedded"]["tags"], json!([{ "name": "a" }, { "name": "b" }]));
    let written = lead["custom_fields_values"].as_array().unwrap();
    assert!(written.contains(&json!({ "field_id": 60, "values": [{ "enum_id": 62 }] })), "{lead:#}");
    assert!(
        written.contains(&json!({ "field_id": 4, "values": [{ "value": "own" }] })),
        "the mapping comes before tracking data: {lead:#}"
    );
    assert_eq!(written.len(), 5);
    let contact = &lead["_embedded"]["contacts"][0];
    assert_eq!((&contact["first_name"], &contact["last_name"]), (&json!("Ivan"), &json!("P.")));
    assert_eq!(contact["custom_fields_values"][2], json!({ "field_id": 80, "values": [{ "value": "Boss" }] }));
    let note = body(&host.requests()[5])[0]["params"]["text"].as_str().unwrap().to_owned();
    assert!(note.ends_with("Did not fit its field:\n70: many (no number)\n999: lost (there is no such field of a lead)"), "{note}");
}

#[test]
fn what_is_known_of_the_fields_is_kept_until_something_new_is_asked() {
    let mut host = before().answer(made(&[(1, "dlv_1")])).answer(noted());
    assert_eq!(host.deliver::<AmoCrm>(&[item()]).summary(), "delivered");
    let mut host = host.answer(made(&[(2, "dlv_7")])).answer(noted());
    assert_eq!(host.deliver::<AmoCrm>(&[plain(7)]).summary(), "delivered");
    let mut mapped = plain(8);
    mapped.fields = r#"{"60":"New"}"#.into();
    let mut host = host.answer(fields()).answer(made(&[(3, "dlv_8")])).answer(noted());
    assert_eq!(host.deliver::<AmoCrm>(&[mapped]).summary(), "delivered");
    assert_eq!(asked(&host).iter().filter(|path| path.ends_with("custom_fields")).count(), 2);
}

#[test]
fn two_leads_of_a_new_contact_do_not_make_it_twice() {
    let mut second = item_of(lead());
    (second.id, second.idempotency_key) = ("dlv_2".into(), "dlv_2".into());
    if let leadwire_sdk::Payload::Lead(lead) = &mut second.payload {
        lead.phones = vec![Phone { raw: "8-916-123-45-67".into(), e164: None }];
        lead.emails.clear();
    }
    // Two searches, one, and two requests for leads.
    let mut host = before().answer(none()).answer(made(&[(100, "dlv_1")])).answer(made(&[(200, "dlv_2")])).answer(noted());
    assert_eq!(host.deliver::<AmoCrm>(&[item(), second.clone()]).summary(), "delivered + delivered");
    assert_eq!(body(&host.requests()[5])[0]["_embedded"]["contacts"], json!([{ "id": 101 }]));
    // A minute later the search still does not know it.
    second.id = "dlv_3".into();
    let mut host = host.answer(none()).answer(made(&[(300, "dlv_2")])).answer(noted());
    assert_eq!(host.deliver::<AmoCrm>(&[second]).summary(), "delivered");
    assert_eq!(body(&host.requests()[8])[0]["_embedded"]["contacts"], json!([{ "id": 101 }]));
}

#[test]
fn a_contact_that_is_gone_is_looked_for_anew() {
    let errors = json!([{ "request_id": "dlv_1", "errors": [{ "code": "NotSupportedChoice", "path": "_embedded.contacts.0.id", "detail": "No." }] }]);
    let mut host = host().answer(fields()).answer(contacts(json!([ivan()]))).answer(refusal(errors));
    assert_eq!(host.deliver::<AmoCrm>(&[item()]).summary(), "retry contact_gone");
}

#[test]
fn a_call_makes_no_more_requests_than_a_second_has() {
    let items: Vec<Item> = (1..=5)
        .map(|number| {
            let mut lead = lead();
            lead.phones = vec![Phone { raw: String::new(), e164: Some(format!("+7916000000{number}")) }];
            lead.emails = vec![format!("{number}@example.com")];
            let mut item = item_of(lead);
            item.id = format!("dlv_{number}");
            item.idempotency_key = item.id.clone();
            item
        })
        .collect();
    let mut host = host().answer(fields());
    for _ in 0..4 {
        host = host.answer(none());
    }
    let mut host = host.answer(made(&[(1, "dlv_1"), (2, "dlv_2")])).answer(noted());
    assert_eq!(host.deliver::<AmoCrm>(&items).summary(), "delivered + delivered + stop rate_limited 1000");
    assert_eq!(host.requests().len(), 7);

    let many: Vec<Item> = (1..=50).map(plain).collect();
    let names: Vec<String> = many.iter().map(|item| item.id.clone()).collect();
    let all: Vec<(u64, &str)> = (1..).zip(names.iter().map(String::as_str)).collect();
    let mut host = self::host().answer(fields()).answer(made(&all)).answer(noted());
    assert_eq!(host.deliver::<AmoCrm>(&many).verdicts.len(), 50);
    assert_eq!(host.requests().len(), 3);
}

#[test]
fn a_block_that_stays_is_for_a_person() {
    let page = || Answer::status(403).text("<html><h1>403 Forbidden</h1>");
    let mut host = host().answer(page()).answer(page());
    assert_eq!(host.deliver::<AmoCrm>(&[item()]).summary(), "stop rate_limited 3600000");
    let run = host.deliver::<AmoCrm>(&[item()]);
    assert!(matches!(&run.stop, Some(Stop::CredentialInvalid(text)) if text.contains("support")), "{run:?}");
}

#[test]
fn a_lead_that_an_earlier_delivery_made_is_updated() {
    let known = || Item { refs: vec![Attr { name: "lead".into(), value: "42".into() }], ..item() };
    let mut host =
        with(json!({ "tags": ["site"] })).answer(fields()).answer(Answer::status(200).json(&json!({ "id": 42 }))).answer(noted());
    assert_eq!(host.deliver::<AmoCrm>(&[known()]).summary(), "delivered");
    let request = &host.requests()[1];
    assert_eq!((request.method, request.url.as_str()), (Method::Patch, "leads/42"));
    let update = body(request);
    assert_eq!((update.get("name"), &update["price"], &update["tags_to_add"]), (None, &json!(1500), &json!([{ "name": "site" }])));
    // Deleted meanwhile.
    let mut host = self::host()
        .answer(fields())
        .answer(Answer::status(404))
        .answer(none())
        .answer(none())
        .answer(made(&[(5, "dlv_1")]))
        .answer(noted());
    assert_eq!(host.deliver::<AmoCrm>(&[known()]).summary(), "delivered");
}

#[test]
fn hostile_texts_are_cut_and_cleaned_and_events_are_refused() {
    let mut lead = lead();
    let evil = "\u{0}\u{202e}<script>'\"\\ 😀".repeat(2_000);
    (lead.title, lead.name, lead.company, lead.comment) = (Some(evil.clone()), Some(evil.clone()), Some(evil.clone()), Some(evil.clone()));
    lead.phones = vec![Phone { raw: evil, e164: None }];
    lead.emails = vec!["no address".into()];
    lead.extra = "{broken".into();
    let mut host = host().answer(fields()).answer(made(&[(1, "dlv_1")])).answer(noted());
    assert_eq!(host.deliver::<AmoCrm>(&[item_of(lead)]).summary(), "delivered");
    let sent = body(&host.requests()[1])[0].clone();
    assert!(!sent.to_string().contains("\\u0000"));
    for text in [&sent["name"], &sent["_embedded"]["contacts"][0]["name"], &sent["_embedded"]["companies"][0]["name"]] {
        assert!(text.as_str().unwrap().chars().count() <= 255);
    }
    assert!(body(&host.requests()[2])[0]["params"]["text"].as_str().unwrap().chars().count() <= 10_000);
    assert_eq!(self::host().deliver::<AmoCrm>(&[event_item(event())]).summary(), "rejected not_a_lead");
    let mut host = with(json!({ "note": "{{ 1 // (lead.phones|length) }}" }));
    assert_eq!(host.deliver::<AmoCrm>(&[plain(1)]).summary(), "rejected template");
}

#[test]
fn a_lead_of_nobody_has_no_contact() {
    let mut item = plain(1);
    if let leadwire_sdk::Payload::Lead(lead) = &mut item.payload {
        (lead.name, lead.company, lead.title, lead.value) = (None, None, None, None);
    }
    let mut host = host().answer(fields()).answer(made(&[(1, "dlv_1")])).answer(noted());
    assert_eq!(host.deliver::<AmoCrm>(&[item]).summary(), "delivered");
    let sent = &body(&host.requests()[1])[0];
    assert_eq!((&sent["name"], &sent["_embedded"]), (&json!("Lead #dlv1"), &json!({})));
}

fn account() -> Answer {
    Answer::status(200).json(&json!({ "id": 29, "name": "Acme", "subdomain": "acme", "current_user_id": 501 }))
}

fn user(rights: Value) -> Answer {
    Answer::status(200).json(&json!({ "id": 501, "name": "Anna", "rights": rights }))
}

#[test]
fn the_check_shows_the_account_and_the_rights() {
    let pipelines =
        json!({ "_embedded": { "pipelines": [{ "id": 7, "name": "Sales", "_embedded": { "statuses": [{ "id": 8, "name": "New" }] } }] } });
    let mut host = with(json!({ "pipeline_id": 7, "status_id": 8, "responsible_user_id": 9, "marker_field": "LEADWIRE" }))
        .answer(account())
        .answer(user(json!({ "is_admin": true })))
        .answer(Answer::status(200).json(&pipelines))
        .answer(Answer::status(200).json(&json!({ "id": 9, "name": "Bob", "rights": { "is_active": true } })))
        .answer(fields());
    let shown = host.check::<AmoCrm>().unwrap();
    let shown: Vec<(&str, &str)> = shown.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expected = [
        ("account", "Acme"),
        ("account id", "29"),
        ("user", "Anna"),
        ("rights", "administrator"),
        ("pipeline", "Sales"),
        ("stage", "New"),
        ("responsible", "Bob"),
        ("marker field", "50"),
    ];
    assert_eq!(shown, expected);

    let stage = with(json!({ "pipeline_id": 7, "status_id": 142 })).answer(account()).answer(user(json!({ "is_admin": true })));
    let why = stage.answer(Answer::status(200).json(&pipelines)).check::<AmoCrm>().unwrap_err();
    assert_eq!(why, Stop::misconfigured("status_id: stage 142 does not belong to pipeline 7"));
    let why = self::host()
        .answer(account())
        .answer(user(json!({ "leads": { "add": "D" }, "contacts": { "add": "A" } })))
        .check::<AmoCrm>()
        .unwrap_err();
    assert!(matches!(&why, Stop::CredentialInvalid(text) if text.contains("may not add leads")), "{why:?}");
    let limited =
        self::host().answer(account()).answer(Answer::status(403).json(&json!({ "title": "Forbidden" }))).check::<AmoCrm>().unwrap();
    assert!(limited.iter().any(|(name, value)| name == "rights" && value.contains("unknown")), "{limited:?}");
    assert!(matches!(self::host().answer(Answer::status(401)).check::<AmoCrm>(), Err(Stop::CredentialInvalid(_))));
    assert!(matches!(self::host().answer(Answer::status(404)).check::<AmoCrm>(), Err(Stop::Misconfigured(_))));
    assert!(matches!(self::host().answer(Answer::status(502)).check::<AmoCrm>(), Err(Stop::Unavailable(_))));
}

#[test]
fn the_schema_takes_what_works_and_refuses_what_cannot() {
    let schema: Value = serde_json::from_str(include_str!("../config.schema.json")).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    for good in [
        json!({ "subdomain": "acme" }),
        json!({ "subdomain": "a-1", "zone": "kommo.com", "client_id": "6b1f9c5e-0000-4000-8000-000000000000", "pipeline_id": 1, "status_id": 142, "tags": ["a"] }),
        json!({ "subdomain": "acme", "marker_field": 5 }),
        json!({ "subdomain": "acme", "marker_field": "LEADWIRE" }),
    ] {
        assert!(schema.is_valid(&good), "{good}");
    }
    for bad in [
        json!({}),
        json!({ "subdomain": "acme.amocrm.ru" }),
        json!({ "subdomain": "Acme" }),
        json!({ "subdomain": "acme", "zone": "evil.example" }),
        json!({ "subdomain": "acme", "status_id": 142 }),
        json!({ "subdomain": "acme", "tags": "site" }),
        json!({ "subdomain": "acme", "task_due_minutes": 0 }),
    ] {
        assert!(!schema.is_valid(&bad), "{bad}");
    }
}
