//! What goes out for a lead, what each answer comes to, and what hostile fields can do.

use leadwire_sdk::{
    Attr, Item, Lead, Verdict,
    http::{FailureKind, Method, Request},
    testing::{Answer, Host, event, event_item, item, item_of, lead},
};
use serde_json::{Map, Value, json};

use super::*;

fn with(config: Value) -> Host {
    let mut whole = json!({ "portal": "acme.bitrix24.ru", "user_id": 1, "entity": "deal", "source_id": "WEB", "note": true });
    whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    Host::new().config(whole).locale("ru")
}

fn deals() -> Host {
    with(json!({}))
}

/// A batch's answer.
fn batch(results: Value, errors: Value) -> Answer {
    let empty = |value: Value| if value.as_object().is_some_and(Map::is_empty) { json!([]) } else { value };
    let body = json!({ "result": { "result": empty(results), "result_error": empty(errors), "result_time": [] }, "time": {} });
    Answer::status(200).json(&body)
}

fn nobody() -> Answer {
    batch(json!({ "p0": [], "e0": [] }), json!({}))
}

fn made(name: &str, id: u64) -> Value {
    json!({ name: { "item": { "id": id } }, "n0": 5 })
}

fn error(code: &str, text: &str) -> Value {
    json!({ "error": code, "error_description": text })
}

/// A command's name, its method, and its parameters as the portal reads them.
type Sent = (String, String, Vec<(String, String)>);

fn commands(request: &Request) -> Vec<Sent> {
    let leadwire_sdk::Body::Text(body) = &request.body else { panic!("{request:?}") };
    let body: Value = serde_json::from_str(body).unwrap();
    let parse = |(name, line): (&String, &Value)| {
        let (method, query) = line.as_str().unwrap().split_once('?').unwrap();
        let pairs = query.split('&').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (decode(key), decode(value)));
        (name.clone(), method.to_owned(), pairs.collect())
    };
    body["cmd"].as_object().unwrap().iter().map(parse).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => u8::from_str_radix(&String::from_utf8(vec![rest.next().unwrap(), rest.next().unwrap()]).unwrap(), 16).unwrap(),
            other => other,
        });
    }
    String::from_utf8(bytes).unwrap()
}

/// One parameter of the command `name` of any request.
fn param(host: &Host, name: &str, key: &str) -> Option<String> {
    let all = host.requests().iter().filter(|request| request.method == Method::Post).flat_map(commands);
    let (_, _, pairs) = all.into_iter().find(|(found, _, _)| found == name)?;
    pairs.into_iter().find(|(found, _)| found == key).map(|(_, value)| value)
}

fn field(host: &Host, name: &str) -> Option<String> {
    param(host, "d0", &format!("fields[{name}]"))
}

#[test]
fn a_deal_is_made_with_its_contact_and_its_comment() {
    let mut host = deals()
        .answer(nobody())
        .answer(batch(json!({ "c0": { "item": { "id": 7 } } }), json!({})))
        .answer(batch(made("d0", 42), json!({})));
    let run = host.deliver::<Bitrix24>(&[item()]);
    let delivered =
        Verdict::delivered().with_ref("deal", 42).with_url("https://acme.bitrix24.ru/crm/deal/details/42/").with_ref("contact", 7);
    assert_eq!((run.verdict(), &run.stop), (Some(&delivered), &None));
    assert_eq!(
        host.requests().iter().map(|request| (request.method, request.url.as_str())).collect::<Vec<_>>(),
        [(Method::Post, "batch"); 3]
    );
    assert_eq!(host.memo("dlv_1"), Some("{\"contact\":7}"));
    for (name, value) in [
        ("title", "Заявка с сайта"),
        ("opportunity", "1500.00"),
        ("currencyId", "RUB"),
        ("isManualOpportunity", "Y"),
        ("sourceId", "WEB"),
        ("sourceDescription", "callback · https://shop.example/landing"),
        ("comments", "Перезвонить"),
        ("utmSource", "yandex"),
        ("utmMedium", "cpc"),
        ("utmCampaign", "spring"),
        ("originatorId", "leadwire"),
        ("originId", "dlv_1"),
        ("contactIds][0", "7"),
    ] {
        assert_eq!(field(&host, name).as_deref(), Some(value), "{name}");
    }
    for absent in ["stageId", "categoryId", "assignedById", "utmTerm", "fm][0][value", "name"] {
        assert_eq!(field(&host, absent), None, "{absent}");
    }
    assert_eq!(param(&host, "c0", "fields[name]").as_deref(), Some("Иван Петров"));
    assert_eq!(param(&host, "c0", "fields[fm][0][value]").as_deref(), Some("+79161234567"));
    assert_eq!(param(&host, "c0", "fields[fm][1][value]").as_deref(), Some("ivan@example.com"));
    assert_eq!(param(&host, "p0", "entity_type").as_deref(), Some("CONTACT"));
    assert_eq!(param(&host, "n0", "fields[ENTITY_ID]").as_deref(), Some("$result[d0][item][id]"));
    let note = param(&host, "n0", "fields[COMMENT]").unwrap();
    assert_eq!(
        note,
        "[B]Заявка с сайта[/B]\nИмя: Иван Петров\nКомпания: Рога & Копыта\nТелефон: +79161234567\nПочта: ivan@example.com\n\
         Сумма: 1500.00 RUB\nКомментарий: Перезвонить\ncar: Lada Vesta\nСтраница: https://shop.example/landing\nФорма: callback\n\
         Реклама: yandex / cpc / spring\nlead_1"
    );
}

#[test]
fn a_lead_holds_the_person_and_is_tied_to_a_known_contact_only() {
    let leads = || with(json!({ "entity": "lead", "stage_id": null, "assigned_by_id": 6 }));
    let mut host = leads().answer(nobody()).answer(batch(made("d0", 3), json!({})));
    let run = host.deliver::<Bitrix24>(&[item()]);
    assert_eq!(run.verdict(), Some(&Verdict::delivered().with_ref("lead", 3).with_url("https://acme.bitrix24.ru/crm/lead/details/3/")));
    for (name, value) in [
        ("name", "Иван Петров"),
        ("companyTitle", "Рога & Копыта"),
        ("fm][0][typeId", "PHONE"),
        ("fm][1][value", "ivan@example.com"),
        ("assignedById", "6"),
    ] {
        assert_eq!(field(&host, name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(field(&host, "contactIds][0"), None);
    let found = batch(json!({ "p0": { "CONTACT": [9, 4] }, "e0": { "CONTACT": ["9"] } }), json!({}));
    let mut host = leads().answer(found).answer(batch(made("d0", 3), json!({})));
    assert_eq!(host.deliver::<Bitrix24>(&[item()]).summary(), "delivered");
    assert_eq!(field(&host, "contactIds][0").as_deref(), Some("9"), "the one that both name");
}

#[test]
fn each_answer_of_the_last_batch_has_its_outcome() {
    let table = [
        (batch(json!({}), json!({ "d0": error("CRM_FIELD_ERROR_REQUIRED", "x") })), "rejected crm_field_error_required"),
        (batch(json!({}), json!({ "d0": error("", "Wrong thing") })), "rejected bitrix24_refused"),
        (batch(json!({}), json!({ "d0": error("QUERY_LIMIT_EXCEEDED", "") })), "stop rate_limited"),
        (batch(json!({}), json!({ "d0": error("OPERATION_TIME_LIMIT", "") })), "stop rate_limited 60000"),
        (batch(json!({}), json!({ "d0": error("", "Access denied.") })), "stop credential_invalid"),
        (batch(json!({}), json!({ "d0": error("INTERNAL_SERVER_ERROR", "") })), "retry internal_server_error maybe_sent"),
        (batch(json!({}), json!({ "d0": error("NOT_FOUND", "Smart process") })), "stop misconfigured"),
        (batch(json!({}), json!({ "d0": error("X", "Invalid value of the field \"sourceId\"") })), "stop misconfigured"),
        (batch(json!({}), json!({})), "retry answer_unreadable maybe_sent"),
        (batch(made("d0", 1), json!({ "n0": error("", "no") })), "delivered"),
        (Answer::status(503).json(&error("QUERY_LIMIT_EXCEEDED", "Too many requests")), "stop rate_limited"),
        (Answer::status(429).json(&error("OPERATION_TIME_LIMIT", "")), "stop rate_limited 60000"),
        (Answer::status(503).json(&error("OVERLOAD_LIMIT", "")), "stop credential_invalid"),
        (Answer::status(401).json(&error("expired_token", "")), "stop credential_invalid"),
        (Answer::status(401).json(&error("INVALID_CREDENTIALS", "")), "stop credential_invalid"),
        (Answer::status(404).json(&error("ERROR_METHOD_NOT_FOUND", "Method not found!")), "stop misconfigured"),
        (Answer::status(400).json(&error("ERROR_BATCH", "odd")), "retry error_batch"),
        (Answer::status(500).json(&error("INTERNAL_SERVER_ERROR", "")), "retry internal_server_error maybe_sent"),
        (Answer::status(502).text("<html>502</html>"), "retry http_502 maybe_sent"),
        (Answer::status(403).text("<html>403</html>"), "retry http_403 maybe_sent"),
        (Answer::status(302).header("Location", "https://new.bitrix24.ru/rest/1/x/batch"), "stop misconfigured"),
        (Answer::status(200).text("{\"result\":{\"result\":{\"d0\""), "retry answer_unreadable maybe_sent"),
        (Answer::status(200).text("<html>"), "retry answer_unreadable maybe_sent"),
        (Answer::status(200).text(""), "retry answer_unreadable maybe_sent"),
        (Answer::fails(FailureKind::Timeout, true), "retry http_timeout maybe_sent"),
        (Answer::fails(FailureKind::Connect, false), "retry http_connect"),
        (Answer::fails(FailureKind::NoCredential, false), "stop credential_invalid"),
        (Answer::fails(FailureKind::Denied, false), "rejected http_denied"),
    ];
    for (answer, outcome) in table {
        let found = batch(json!({ "p0": { "CONTACT": [9] }, "e0": [] }), json!({}));
        let mut host = deals().answer(found).answer(answer.clone());
        assert_eq!(host.deliver::<Bitrix24>(&[item()]).summary(), outcome, "{answer:?}");
    }
}

#[test]
fn nothing_is_written_when_the_look_fails() {
    for (answer, outcome) in [
        (Answer::status(502).text("<html>"), "retry http_502"),
        (Answer::status(200).text("<html>"), "retry answer_unreadable"),
        (Answer::fails(FailureKind::Timeout, true), "retry http_timeout"),
        (Answer::status(503).json(&error("QUERY_LIMIT_EXCEEDED", "")), "stop rate_limited"),
        (batch(json!({ "e0": [] }), json!({ "p0": error("INTERNAL_SERVER_ERROR", "") })), "retry internal_server_error"),
        (batch(json!({ "e0": [] }), json!({ "p0": error("query_limit_exceeded", "") })), "stop rate_limited"),
        (batch(json!({ "e0": [] }), json!({ "p0": error("insufficient_scope", "") })), "stop credential_invalid"),
    ] {
        let mut host = deals().answer(answer);
        assert_eq!(host.deliver::<Bitrix24>(&[item()]).summary(), outcome);
        assert_eq!(host.requests().len(), 1);
    }
}

#[test]
fn the_redirect_of_a_renamed_portal_names_the_host_and_not_the_code() {
    let mut host = deals().answer(Answer::status(302).header("location", "https://new.bitrix24.ru/rest/1/s3cretc0de/batch"));
    let Some(leadwire_sdk::Stop::Misconfigured(text)) = host.deliver::<Bitrix24>(&[item()]).stop else { panic!() };
    assert!(text.contains("new.bitrix24.ru") && !text.contains("s3cret"), "{text}");
}

#[test]
fn what_is_in_doubt_is_looked_for_in_both_lists() {
    let doubtful = || Item { maybe_sent: true, attempt: 2, ..item() };
    let own = json!({ "id": 42, "originatorId": "leadwire", "originId": "dlv_1" });
    let other = json!({ "id": 1, "originatorId": "leadwire", "originId": "dlv_9" });
    let old = json!({ "ID": "42", "ORIGINATOR_ID": "leadwire", "ORIGIN_ID": "dlv_1" });
    let look =
        |new: Value, old: Value| batch(json!({ "l0": { "items": new }, "k0": old, "p0": [], "e0": [], "o0": { "items": [] } }), json!({}));
    // Found by either, with its comment.
    for answer in [look(json!([own]), json!([])), look(json!([other]), json!([old])), look(json!([other, own]), json!([]))] {
        let mut host = deals().answer(answer).answer(batch(json!({ "t0": [{ "ID": "1" }] }), json!({})));
        let run = host.deliver::<Bitrix24>(&[doubtful()]);
        assert_eq!((run.summary().as_str(), host.requests().len()), ("duplicate", 2));
        assert_eq!(
            run.verdict(),
            Some(&Verdict::duplicate().with_ref("deal", 42).with_url("https://acme.bitrix24.ru/crm/deal/details/42/"))
        );
    }
    // Found without its comment, which is made.
    let mut host = deals()
        .answer(look(json!([own]), json!([])))
        .answer(batch(json!({ "t0": [] }), json!({})))
        .answer(batch(json!({ "n0": 9 }), json!({})));
    assert_eq!(host.deliver::<Bitrix24>(&[doubtful()]).summary(), "duplicate");
    assert_eq!((param(&host, "n0", "fields[ENTITY_ID]").as_deref(), param(&host, "d0", "entityTypeId")), (Some("42"), None));
    // Not there; the contact is.
    let there = batch(
        json!({ "l0": { "items": [] }, "k0": [], "p0": [], "e0": [], "o0": { "items": [{ "id": 7, "originatorId": "leadwire", "originId": "dlv_1" }] } }),
        json!({}),
    );
    let mut host = deals().answer(there).answer(batch(made("d0", 43), json!({})));
    assert_eq!(host.deliver::<Bitrix24>(&[doubtful()]).summary(), "delivered");
    assert_eq!(field(&host, "contactIds][0").as_deref(), Some("7"));
    // Neither list can tell: nothing is made.
    let mut host =
        deals().answer(batch(json!({ "l0": { "items": [other] }, "p0": [], "e0": [] }), json!({ "k0": error("", "Bad filter") })));
    assert_eq!((host.deliver::<Bitrix24>(&[doubtful()]).summary().as_str(), host.requests().len()), ("retry origin_unreadable", 1));
}

#[test]
fn leads_of_one_person_in_one_call_share_a_contact() {
    let second = Item { id: "dlv_2".into(), idempotency_key: "dlv_2".into(), ..item_of(Lead { emails: Vec::new(), ..lead() }) };
    let other = Lead { phones: Vec::new(), emails: vec!["ann@example.com".into()], ..lead() };
    let third = Item { id: "dlv_3".into(), idempotency_key: "dlv_3".into(), ..item_of(other) };
    let nobody = batch(json!({ "p0": [], "e0": [], "p1": [], "e2": [] }), json!({}));
    let contacts = batch(json!({ "c0": { "item": { "id": 7 } }, "c2": { "item": { "id": 8 } } }), json!({}));
    let records = [40, 41, 42].iter().enumerate().map(|(at, id)| (format!("d{at}"), json!({ "item": { "id": id } })));
    let mut host = deals().answer(nobody).answer(contacts).answer(batch(Value::Object(records.collect()), json!({})));
    let run = host.deliver::<Bitrix24>(&[item(), second, third]);
    assert_eq!(run.summary(), "delivered + delivered + delivered");
    let contact = |at: usize| param(&host, &format!("d{at}"), "fields[contactIds][0]");
    assert_eq!([contact(0), contact(1), contact(2)].map(Option::unwrap), ["7", "7", "8"]);
}

#[test]
fn a_contact_that_the_portal_refuses_costs_no_lead() {
    let mut host = deals()
        .answer(nobody())
        .answer(batch(json!({}), json!({ "c0": error("ERROR_CORE", "Wrong e-mail") })))
        .answer(batch(made("d0", 4), json!({})));
    assert_eq!(host.deliver::<Bitrix24>(&[item()]).summary(), "delivered");
    assert!(host.logs()[0].contains("refuses the contact"), "{:?}", host.logs());
    // One that may have been made is looked for in the next attempt.
    let mut host = deals().answer(nobody()).answer(Answer::fails(FailureKind::Timeout, true));
    assert_eq!(host.deliver::<Bitrix24>(&[item()]).summary(), "retry http_timeout maybe_sent");
    assert_eq!(host.requests().len(), 2);
}

#[test]
fn contacts_that_were_made_are_noted_before_a_limit_stops_the_call() {
    let other = |no: u8| Lead { phones: Vec::new(), emails: vec![format!("a{no}@example.com")], ..lead() };
    let items = [0, 1].map(|no| Item { id: format!("dlv_{no}"), idempotency_key: format!("dlv_{no}"), ..item_of(other(no)) });
    let looked = batch(json!({ "e0": [], "e1": [] }), json!({}));
    let limited = batch(json!({ "c1": { "item": { "id": 8 } } }), json!({ "c0": error("QUERY_LIMIT_EXCEEDED", "") }));
    let mut host = deals().answer(looked).answer(limited);
    assert_eq!(host.deliver::<Bitrix24>(&items).summary(), "stop rate_limited");
    assert_eq!((host.memo("dlv_0"), host.memo("dlv_1")), (None, Some("{\"contact\":8}")));
}

#[test]
fn a_contact_made_before_is_not_looked_for_again() {
    let memo = Item { memo: Some("{\"contact\":7}".into()), ..item() };
    let mut host = deals().answer(batch(made("d0", 4), json!({})));
    assert_eq!(host.deliver::<Bitrix24>(&[memo]).summary(), "delivered");
    assert_eq!((host.requests().len(), field(&host, "contactIds][0").as_deref()), (1, Some("7")));
}

#[test]
fn a_record_of_an_earlier_delivery_is_updated_where_people_do_not_work() {
    let earlier = || Item { refs: vec![Attr { name: "deal".into(), value: "42".into() }], ..item() };
    let mut host = with(json!({ "stage_id": "NEW", "assigned_by_id": 5 }))
        .answer(batch(json!({ "gc": { "categories": [] }, "gs": [{ "STATUS_ID": "NEW" }] }), json!({})))
        .answer(batch(made("d0", 42), json!({})));
    assert_eq!(host.deliver::<Bitrix24>(&[earlier()]).summary(), "delivered");
    assert_eq!((param(&host, "d0", "id").as_deref(), field(&host, "opportunity").as_deref()), (Some("42"), Some("1500.00")));
    for kept in ["title", "stageId", "assignedById", "comments", "contactIds][0", "originId"] {
        assert_eq!(field(&host, kept), None, "{kept}");
    }
    // Deleted in the portal since: made anew.
    let mut host = deals().answer(batch(json!({}), json!({ "d0": error("", "Not found") }))).answer(batch(made("d0", 50), json!({})));
    let run = host.deliver::<Bitrix24>(&[earlier()]);
    assert_eq!(run.verdict(), Some(&Verdict::delivered().with_ref("deal", 50).with_url("https://acme.bitrix24.ru/crm/deal/details/50/")));
}

#[test]
fn mapped_fields_go_by_the_portals_types() {
    let fields = json!({
        "UF_CRM_COLOR": "красный", "UF_CRM_TAGS": "[\"a\",\"b\"]", "UF_CRM_DAY": "22.11.2026", "UF_CRM_SUM": "1500,5", "SOURCE_ID": "CALL",
        "UF_CRM_GONE": "x", "UF_CRM_NUMBER": "many", "originId": "stolen", "TITLE": "Mapped", "empty": "", "contact.UF_CRM_VIP": "yes"
    });
    let known = json!({ "fields": {
        "UF_CRM_COLOR": { "type": "enumeration", "items": [{ "ID": "44", "VALUE": "Красный" }] },
        "ufCrmTags": { "type": "string", "isMultiple": true, "upperName": "UF_CRM_TAGS" },
        "UF_CRM_DAY": { "type": "date" }, "UF_CRM_SUM": { "type": "money" }, "UF_CRM_NUMBER": { "type": "integer" },
        "sourceId": { "type": "crm_status" }, "title": { "type": "string" }, "originId": { "type": "string" }
    } });
    let contact = json!({ "fields": { "UF_CRM_VIP": { "type": "boolean" } } });
    let mut host = deals()
        .answer(batch(json!({ "f2": known, "f3": contact, "p0": [], "e0": [] }), json!({})))
        .answer(batch(json!({ "c0": { "item": { "id": 7 } } }), json!({})))
        .answer(batch(made("d0", 1), json!({})));
    let mapped = Item { fields: fields.to_string(), ..item() };
    assert_eq!(host.deliver::<Bitrix24>(std::slice::from_ref(&mapped)).summary(), "delivered");
    for (name, value) in [
        ("UF_CRM_COLOR", "44"),
        ("UF_CRM_TAGS][0", "a"),
        ("UF_CRM_TAGS][1", "b"),
        ("UF_CRM_DAY", "2026-11-22"),
        ("UF_CRM_SUM", "1500.5|RUB"),
        ("sourceId", "CALL"),
        ("title", "Mapped"),
        ("originId", "dlv_1"),
    ] {
        assert_eq!(field(&host, name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(param(&host, "c0", "fields[UF_CRM_VIP]").as_deref(), Some("1"));
    assert_eq!((field(&host, "UF_CRM_GONE"), field(&host, "UF_CRM_NUMBER"), field(&host, "empty")), (None, None, None));
    let note = param(&host, "n0", "fields[COMMENT]").unwrap();
    for line in [
        "Не удалось записать в поле UF_CRM_GONE: x (the portal has no such field)",
        "UF_CRM_NUMBER: many (it is not a whole number)",
        "originId: stolen",
    ] {
        assert!(note.contains(line), "{note}");
    }
    // The portal's word is kept for a while.
    let mut again =
        host.answer(nobody()).answer(batch(json!({ "c0": { "item": { "id": 8 } } }), json!({}))).answer(batch(made("d0", 2), json!({})));
    assert_eq!(again.deliver::<Bitrix24>(&[Item { memo: Some(String::new()), ..mapped }]).summary(), "delivered");
    let asked = again.requests().iter().flat_map(commands).filter(|(_, method, _)| method == "crm.item.fields").count();
    assert_eq!(asked, 2, "once for each kind");
}

#[test]
fn without_a_place_to_keep_things_everything_is_asked_anew_and_works() {
    let config = json!({ "stage_id": "NEW", "contacts": "none" });
    let looked = || {
        batch(
            json!({ "f2": { "fields": { "title": { "type": "string" } } }, "gc": { "categories": [] }, "gs": [{ "STATUS_ID": "NEW" }] }),
            json!({}),
        )
    };
    let mut host = with(config)
        .kv_broken()
        .answer(looked())
        .answer(batch(made("d0", 1), json!({})))
        .answer(looked())
        .answer(batch(made("d0", 2), json!({})));
    for _ in 0..2 {
        let mapped = Item { fields: json!({ "TITLE": "Mapped" }).to_string(), ..item() };
        assert_eq!(host.deliver::<Bitrix24>(&[mapped]).summary(), "delivered");
    }
    assert_eq!((host.requests().len(), field(&host, "title").as_deref()), (4, Some("Mapped")));
    // A portal that does not tell its fields gets the values as they are.
    let mut host = with(json!({ "contacts": "none" }))
        .answer(batch(json!({}), json!({ "f2": error("", "Odd") })))
        .answer(batch(made("d0", 1), json!({})));
    let mapped = Item { fields: json!({ "UF_CRM_1": ["a", "b"] }).to_string(), ..item() };
    assert_eq!(host.deliver::<Bitrix24>(&[mapped]).summary(), "delivered");
    assert_eq!(field(&host, "UF_CRM_1][1").as_deref(), Some("b"));
}

#[test]
fn a_stage_that_is_not_there_is_told_before_anything_is_written() {
    let config = json!({ "category_id": 9, "stage_id": "C9:GONE" });
    let answer = batch(
        json!({ "gc": { "categories": [{ "id": 9, "name": "Retail" }] }, "gs": [{ "STATUS_ID": "C9:NEW", "NAME": "New" }], "p0": [], "e0": [] }),
        json!({}),
    );
    let mut host = with(config).answer(answer);
    let Some(leadwire_sdk::Stop::Misconfigured(text)) = host.deliver::<Bitrix24>(&[item()]).stop else { panic!() };
    assert_eq!((text.as_str(), host.requests().len()), ("stage_id: pipeline 9 has no stage C9:GONE; it has C9:NEW New", 1));
}

#[test]
fn the_portals_running_time_is_minded() {
    let now_s = leadwire_sdk::testing::NOW_MS / 1000;
    let times = json!({ "d0": { "operating": 450.0, "operating_reset_at": now_s + 90 } });
    let tired = json!({ "result": { "result": made("d0", 1), "result_error": [], "result_time": times }, "time": {} });
    let found = || batch(json!({ "p0": { "CONTACT": [9] }, "e0": [] }), json!({}));
    let mut host = deals().answer(found()).answer(Answer::status(200).json(&tired));
    assert_eq!(host.deliver::<Bitrix24>(&[item()]).summary(), "delivered + stop rate_limited 90000");
    // A refusal that does not tell when finds what was told last.
    let mut host = host.answer(found()).answer(Answer::status(429).json(&error("OPERATION_TIME_LIMIT", "")));
    assert_eq!(host.deliver::<Bitrix24>(&[item()]).summary(), "stop rate_limited 90000");
}

#[test]
fn fifty_leads_take_five_requests() {
    let items: Vec<Item> = (0..50)
        .map(|at| {
            let phone = leadwire_sdk::Phone { raw: String::new(), e164: Some(format!("+791600000{at:02}")) };
            let lead = Lead { phones: vec![phone], emails: vec![format!("a{at}@example.com")], ..lead() };
            Item { id: format!("dlv_{at}"), idempotency_key: format!("dlv_{at}"), ..item_of(lead) }
        })
        .collect();
    let each = |letter: char, range: std::ops::Range<usize>, value: Value| {
        Value::Object(range.map(|at| (format!("{letter}{at}"), value.clone())).collect::<Map<_, _>>())
    };
    let both = |range: std::ops::Range<usize>| {
        let (mut p, e) = (each('p', range.clone(), json!([])), each('e', range, json!([])));
        p.as_object_mut().unwrap().extend(e.as_object().unwrap().clone());
        batch(p, json!({}))
    };
    let one = json!({ "item": { "id": 7 } });
    let mut host = deals()
        .answer(both(0..25))
        .answer(both(25..50))
        .answer(batch(each('c', 0..50, one.clone()), json!({})))
        .answer(batch(each('d', 0..25, one.clone()), json!({})))
        .answer(batch(each('d', 25..50, one), json!({ "d30": error("X", "bad") })));
    let run = host.deliver::<Bitrix24>(&items);
    let failed: Vec<_> =
        run.verdicts.iter().filter(|(_, verdict)| !matches!(verdict, Verdict::Delivered(_))).map(|(id, _)| id.as_str()).collect();
    assert_eq!((run.verdicts.len(), failed, host.requests().len()), (50, vec!["dlv_30"], 5));
    assert!(host.requests().iter().all(|request| commands(request).len() <= 50));
}

#[test]
fn a_lost_batch_puts_its_own_leads_in_doubt_and_no_others() {
    let items: Vec<Item> = (0..30).map(|at| Item { id: format!("dlv_{at}"), idempotency_key: format!("dlv_{at}"), ..item() }).collect();
    let mut host = with(json!({ "contacts": "none" })).answer(Answer::fails(FailureKind::Timeout, true));
    let run = host.deliver::<Bitrix24>(&items);
    let doubtful = run.verdicts.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Retry(later) if later.maybe_sent)).count();
    assert_eq!((run.verdicts.len(), doubtful, host.requests().len()), (30, 25, 1));
}

#[test]
fn hostile_texts_stay_texts() {
    let evil = "$result[d1][item][title] [url=http://evil]x[/url] & a=b <script> %26 \u{0}😀";
    let extra = json!({ evil: evil }).to_string();
    let hostile = Lead {
        title: Some(evil.into()),
        name: Some(evil.into()),
        comment: Some(evil.into()),
        extra,
        emails: vec!["a b@c".into()],
        ..lead()
    };
    let mut host =
        deals().answer(nobody()).answer(batch(json!({ "c0": { "item": { "id": 7 } } }), json!({}))).answer(batch(made("d0", 1), json!({})));
    assert_eq!(host.deliver::<Bitrix24>(&[item_of(hostile)]).summary(), "delivered");
    for text in [field(&host, "title"), field(&host, "comments"), param(&host, "c0", "fields[name]"), param(&host, "n0", "fields[COMMENT]")]
    {
        let text = text.unwrap();
        assert!(
            !text.contains("$result[") && !text.contains('\u{0}') && text.contains("& a=b <script> %26") && text.contains('😀'),
            "{text}"
        );
    }
    let note = param(&host, "n0", "fields[COMMENT]").unwrap();
    assert!(!note.contains("[url") && !field(&host, "comments").unwrap().contains("[url"), "{note}");
    assert_eq!(param(&host, "c0", "fields[fm][1][value]"), None, "an address that the portal would refuse");
}

#[test]
fn titles_are_found_and_cut() {
    let title_of = |lead: Lead| {
        let mut host = with(json!({ "contacts": "none", "note": false })).answer(batch(made("d0", 1), json!({})));
        assert_eq!(host.deliver::<Bitrix24>(&[item_of(lead)]).summary(), "delivered");
        field(&host, "title").unwrap()
    };
    assert_eq!(title_of(Lead { title: None, ..lead() }), "Новая заявка: Иван Петров");
    assert_eq!(title_of(Lead { title: Some(" ".into()), name: None, ..lead() }), "Новая заявка: +79161234567");
    assert_eq!(title_of(Lead { title: None, name: None, phones: Vec::new(), emails: Vec::new(), ..lead() }), "Новая заявка");
    assert_eq!(title_of(Lead { title: Some("я".repeat(1000)), ..lead() }).chars().count(), 255);
}

#[test]
fn a_template_that_does_not_fit_costs_its_lead_alone() {
    let items = [item(), Item { id: "dlv_2".into(), idempotency_key: "dlv_2".into(), ..item_of(Lead { phones: Vec::new(), ..lead() }) }];
    let mut host = with(json!({ "contacts": "none", "note_text": "[b]{{ lead.name }}[/b] {{ 10 // (lead.phones|length) }}" }))
        .answer(batch(made("d0", 1), json!({})));
    assert_eq!(host.deliver::<Bitrix24>(&items).summary(), "rejected template + delivered");
    assert_eq!(param(&host, "n0", "fields[COMMENT]").as_deref(), Some("[b]Иван Петров[/b] 10"));
    let mut host = deals();
    assert_eq!(host.deliver::<Bitrix24>(&[event_item(event())]).summary(), "rejected not_a_lead");
}

#[test]
fn a_preview_looks_by_get_and_shows_what_would_be_written() {
    let mut host =
        deals().dry_run().answer(batch(json!({ "p0": { "CONTACT": [9] }, "e0": [] }), json!({}))).answer(batch(made("d0", 1), json!({})));
    assert_eq!(host.deliver::<Bitrix24>(&[item()]).summary(), "delivered");
    let look = &host.requests()[0];
    assert_eq!((look.method, &look.body), (Method::Get, &leadwire_sdk::Body::Empty));
    assert!(look.url.starts_with("batch?halt=0&cmd%5Bp0%5D=crm.duplicate.findbycomm%3Ftype%3DPHONE"), "{}", look.url);
    assert_eq!(field(&host, "contactIds][0").as_deref(), Some("9"));
}

#[test]
fn a_check_tells_who_and_what() {
    let config = || json!({ "category_id": 9, "stage_id": "C9:NEW" });
    let profile = json!({ "ID": "1", "ADMIN": true, "NAME": "Ann", "LAST_NAME": "Lee" });
    let sound = |profile: Value, scopes: Value| {
        json!({ "p": profile, "s": scopes, "m": 1, "i": { "fields": {} }, "gc": { "categories": [{ "id": 9, "name": "Retail" }] },
            "gs": [{ "STATUS_ID": "C9:NEW", "NAME": "New" }] })
    };
    let mut host = with(config()).answer(batch(sound(profile.clone(), json!(["crm", "user"])), json!({})));
    let found = host.check::<Bitrix24>().unwrap();
    let told = [
        ("portal", "acme.bitrix24.ru"),
        ("user", "1 Ann Lee"),
        ("administrator", "yes"),
        ("rights", "crm, user"),
        ("CRM mode", "classic: with leads"),
        ("pipeline", "Retail"),
        ("stage", "New"),
    ];
    assert_eq!(found, told.map(|(name, value)| (name.to_owned(), value.to_owned())));
    for (answer, word) in [
        (batch(sound(json!([]), json!(["crm"])), json!({})), "does not work in the portal any more"),
        (batch(sound(profile.clone(), json!(["user"])), json!({})), "right `crm`"),
        (Answer::status(401).json(&error("INVALID_CREDENTIALS", "x")), "does not know this webhook"),
        (Answer::status(404).json(&error("ERROR_METHOD_NOT_FOUND", "Method not found!")), "user_id"),
        (batch(json!({ "p": profile }), json!({ "i": error("ACCESS_DENIED", "Access denied.") })), "rights in the CRM"),
    ] {
        let stop = with(config()).answer(answer).check::<Bitrix24>().unwrap_err();
        assert!(format!("{stop:?}").contains(word), "{stop:?}");
    }
}

#[test]
fn the_schema_takes_portals_of_bitrix24_only() {
    let schema: Value = serde_json::from_str(include_str!("../config.schema.json")).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    for portal in ["acme.bitrix24.ru", "b24-x1y2z3.bitrix24.com.br", "a.bitrix24.kz"] {
        assert!(schema.is_valid(&json!({ "portal": portal, "user_id": 1 })), "{portal}");
    }
    for portal in [
        "bitrix24.ru",
        "evil.example",
        "acme.bitrix24.ru.evil.example",
        "a.b.bitrix24.ru",
        "acme.bitrix24.ru:8443",
        "acme.bitrix24.evil",
        "https://acme.bitrix24.ru",
        "acme.bitrix24.ru/",
        "ACME.bitrix24.ru",
        "-a.bitrix24.ru",
        "acmebitrix24.ru",
        "",
    ] {
        assert!(!schema.is_valid(&json!({ "portal": portal, "user_id": 1 })), "{portal}");
    }
    for (user, valid) in [(json!(1), true), (json!("67"), true), (json!(0), false), (json!("1/x"), false), (json!("01"), false)] {
        assert_eq!(schema.is_valid(&json!({ "portal": "a.bitrix24.ru", "user_id": user })), valid, "{user}");
    }
    assert!(!schema.is_valid(&json!({ "portal": "a.bitrix24.ru" })));
}
