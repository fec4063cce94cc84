//! Every row of the outcome table, the remedies, and what hostile fields come to.

use leadwire_sdk::{
    http::{FailureKind, Method, Request},
    testing::{Answer, Host, event, event_item, item, item_of, lead},
};
use serde_json::{Value, json};

use super::*;

fn host() -> Host {
    with(json!({ "chat_id": -1_001_234_567_890_i64, "silent": false, "on_doubt": "resend" }))
}

fn with(config: Value) -> Host {
    Host::new().config(config).locale("ru")
}

fn sent_ok() -> Answer {
    Answer::status(200).json(&json!({ "ok": true, "result": { "message_id": 77, "chat": { "id": -1_001_234_567_890_i64 } } }))
}

fn error(code: u16, description: &str, parameters: Value) -> Answer {
    Answer::status(code).json(&json!({ "ok": false, "error_code": code, "description": description, "parameters": parameters }))
}

fn body(request: &Request) -> Value {
    match &request.body {
        leadwire_sdk::Body::Text(text) => serde_json::from_str(text).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn text_of(item: leadwire_sdk::Item) -> String {
    let mut host = host().answer(sent_ok());
    assert_eq!(host.deliver::<Telegram>(&[item]).summary(), "delivered");
    body(&host.requests()[0])["text"].as_str().unwrap().to_owned()
}

#[test]
fn a_lead_becomes_a_message() {
    let mut host = host().answer(sent_ok());
    let run = host.deliver::<Telegram>(&[item()]);
    assert_eq!(run.verdict(), Some(&Verdict::delivered().with_ref("message", 77).with_ref("chat", -1_001_234_567_890_i64)));
    let request = &host.requests()[0];
    assert_eq!((request.method, request.url.as_str()), (Method::Post, "sendMessage"));
    let body = body(request);
    assert_eq!(body["chat_id"], json!(-1_001_234_567_890_i64));
    assert_eq!(body["parse_mode"], "HTML");
    assert_eq!(body["link_preview_options"], json!({ "is_disabled": true }));
    assert_eq!(body["disable_notification"], false);
    assert_eq!(body.get("message_thread_id"), None);
    assert_eq!(
        body["text"],
        "<b>Заявка с сайта</b>\nИмя: Иван Петров\nКомпания: Рога &amp; Копыта\nТелефон: +79161234567\nПочта: ivan@example.com\nСумма: 1500.00 RUB\n\
         Комментарий: Перезвонить\ncar: Lada Vesta\nСтраница: https:&#x2f;&#x2f;shop.example&#x2f;landing\nРеклама: yandex / cpc / spring\n<code>lead_1</code>"
            .replace("yandex / cpc / spring", "yandex &#x2f; cpc &#x2f; spring")
    );
}

#[test]
fn each_answer_has_its_outcome() {
    let none = || json!({});
    let table = [
        (error(429, "Too Many Requests: retry after 35", json!({ "retry_after": 35 })), "stop rate_limited 35000"),
        (error(429, "Too Many Requests", none()).header("Retry-After", "7"), "stop rate_limited 7000"),
        (Answer::status(429).text("<html>"), "stop rate_limited"),
        (error(400, "Bad Request: message is too long", none()), "rejected telegram_400"),
        (error(400, "Bad Request: message text is empty", none()), "rejected telegram_400"),
        (error(400, "Bad Request: not enough rights to send text messages to the chat", none()), "rejected telegram_400"),
        (error(400, "Bad Request: CHAT_WRITE_FORBIDDEN", none()), "rejected telegram_400"),
        (error(413, "Request Entity Too Large", none()), "rejected telegram_413"),
        (error(400, "Bad Request: chat not found", none()), "rejected chat_unreachable + stop credential_invalid"),
        (error(400, "Bad Request: chat_id is empty", none()), "rejected chat_unreachable + stop credential_invalid"),
        (error(403, "Forbidden: bot was blocked by the user", none()), "rejected chat_unreachable + stop credential_invalid"),
        (error(403, "Forbidden: bot was kicked from the supergroup chat", none()), "rejected chat_unreachable + stop credential_invalid"),
        (error(401, "Unauthorized", none()), "stop credential_invalid"),
        (error(404, "Not Found", none()), "stop misconfigured"),
        (error(400, "Bad Request: message thread not found", none()), "rejected telegram_400"),
        (error(500, "Internal Server Error: restart", none()), "retry telegram_500 maybe_sent"),
        (Answer::status(502).text("<html>Bad Gateway</html>"), "retry telegram_502 maybe_sent"),
        (Answer::status(503).header("retry-after", "5"), "retry telegram_503 after=5000 maybe_sent"),
        (Answer::status(504), "retry telegram_504 maybe_sent"),
        (Answer::status(302), "rejected telegram_302"),
        (Answer::status(200).text("{\"ok\":tr"), "retry answer_unreadable maybe_sent"),
        (Answer::status(200).text("<html>"), "retry answer_unreadable maybe_sent"),
        (Answer::status(200).json(&json!({ "ok": true })), "retry answer_unreadable maybe_sent"),
        (Answer::status(200).json(&json!({ "ok": false })), "retry answer_unreadable maybe_sent"),
        (Answer::status(200).json(&json!({ "ok": false, "error_code": 401 })), "stop credential_invalid"),
        (Answer::fails(FailureKind::Connect, false), "retry http_connect"),
        (Answer::fails(FailureKind::Dns, false), "retry http_dns"),
        (Answer::fails(FailureKind::Timeout, true), "retry http_timeout maybe_sent"),
        (Answer::fails(FailureKind::Other, true), "retry http_other maybe_sent"),
        (Answer::fails(FailureKind::NoCredential, false), "stop credential_invalid"),
        (Answer::fails(FailureKind::Denied, false), "rejected http_denied"),
    ];
    for (answer, outcome) in table {
        let mut host = host().answer(answer.clone());
        assert_eq!(host.deliver::<Telegram>(&[item()]).summary(), outcome, "{answer:?}");
    }
}

#[test]
fn a_group_that_moved_is_followed_and_remembered() {
    let moved =
        error(400, "Bad Request: group chat was upgraded to a supergroup chat", json!({ "migrate_to_chat_id": -1_009_999_999_999_i64 }));
    let mut host = with(json!({ "chat_id": "-42" })).answer(moved.clone()).answer(sent_ok()).answer(sent_ok());
    assert_eq!(host.deliver::<Telegram>(&[item()]).summary(), "delivered");
    assert_eq!(host.deliver::<Telegram>(&[item()]).summary(), "delivered");
    let chats: Vec<Value> = host.requests().iter().map(|request| body(request)["chat_id"].clone()).collect();
    assert_eq!(chats, [json!(-42), json!(-1_009_999_999_999_i64), json!(-1_009_999_999_999_i64)]);
    assert_eq!(host.stored("moved:-42").as_deref(), Some("-1009999999999"));
    assert!(host.logs()[0].contains("-1009999999999"), "{:?}", host.logs());

    let mut circling = self::host().answer(moved.clone()).answer(moved.clone());
    assert_eq!(circling.deliver::<Telegram>(&[item()]).summary(), "rejected telegram_400", "followed once only");
    let mut forgetful = self::host().kv_broken().answer(moved).answer(sent_ok());
    assert_eq!(forgetful.deliver::<Telegram>(&[item()]).summary(), "delivered", "a lost note loses no lead");
}

#[test]
fn markup_that_cannot_be_read_goes_out_as_plain_text_once() {
    let refused = || error(400, "Bad Request: can't parse entities: Unsupported start tag \"x\" at byte offset 0", json!({}));
    let config = json!({ "chat_id": 1, "text": "<x>{{ lead.name }}</x> &amp; {{ lead.company }}" });
    let mut host = with(config.clone()).answer(refused()).answer(sent_ok());
    assert_eq!(host.deliver::<Telegram>(&[item()]).summary(), "delivered");
    let second = body(&host.requests()[1]);
    assert_eq!(second["text"], "Иван Петров & Рога & Копыта");
    assert_eq!(second.get("parse_mode"), None);
    assert!(host.logs()[0].starts_with("warn"));
    let mut stubborn = with(config).answer(refused()).answer(refused());
    assert_eq!(stubborn.deliver::<Telegram>(&[item()]).summary(), "rejected telegram_400");
}

#[test]
fn a_topic_that_is_gone_is_left_once() {
    for gone in ["Bad Request: message thread not found", "Bad Request: TOPIC_CLOSED"] {
        let mut host =
            with(json!({ "chat_id": 1, "message_thread_id": 42, "silent": true })).answer(error(400, gone, json!({}))).answer(sent_ok());
        assert_eq!(host.deliver::<Telegram>(&[item()]).summary(), "delivered");
        let bodies: Vec<Value> = host.requests().iter().map(body).collect();
        assert_eq!(bodies[0]["message_thread_id"], 42);
        assert_eq!(bodies[0]["disable_notification"], true);
        assert_eq!(bodies[1].get("message_thread_id"), None);
    }
}

#[test]
fn all_three_remedies_in_one_call() {
    let mut host = with(json!({ "chat_id": -42, "message_thread_id": 1 }))
        .answer(error(400, "Bad Request: upgraded", json!({ "migrate_to_chat_id": -100 })))
        .answer(error(400, "Bad Request: message thread not found", json!({})))
        .answer(error(400, "Bad Request: can't parse entities", json!({})))
        .answer(sent_ok());
    assert_eq!(host.deliver::<Telegram>(&[item()]).summary(), "delivered");
    assert_eq!(host.requests().len(), 4);
}

#[test]
fn hostile_fields_are_text() {
    let mut lead = lead();
    lead.title = Some("</b><a href=\"https://evil.example\">click</a> & {{ 7 * 7 }}".into());
    lead.name = Some("a_b*c[d](e)`f\0\u{1b}g".into());
    let text = text_of(item_of(lead));
    assert!(!text.contains("<a") && text.contains("&lt;a href="), "{text}");
    assert!(text.contains("{{ 7 * 7 }}") && text.contains("a_b*c[d](e)`fg"), "{text}");
    assert!(!text.contains(['\0', '\u{1b}']));
}

#[test]
fn a_long_text_is_cut_to_the_limit() {
    let mut lead = lead();
    lead.comment = Some("<&😀".repeat(3000));
    let text = text_of(item_of(lead));
    let seen = html::to_plain(&text);
    assert!(seen.encode_utf16().count() <= 4096 && seen.encode_utf16().count() > 4090);
    assert!(seen.ends_with('…'));
}

#[test]
fn a_bare_lead_an_event_and_a_mapped_text() {
    let mut bare = lead();
    bare.title = None;
    bare.name = None;
    bare.company = None;
    bare.phones.clear();
    bare.emails.clear();
    bare.comment = None;
    bare.value = None;
    bare.origin = leadwire_sdk::Origin { utm_source: None, utm_medium: None, utm_campaign: None, page: None, ..bare.origin };
    bare.extra = "[]".into();
    assert_eq!(text_of(item_of(bare)), "<b>Новая заявка</b>\n<code>lead_1</code>");
    assert_eq!(text_of(event_item(event())), "<b>deal.updated</b> 77\nSTAGE_ID: C1:NEW");

    let mut mapped = item();
    mapped.fields = r#"{"text":"<b>Иван</b> & Co"}"#.into();
    let mut host = host().answer(sent_ok());
    host.deliver::<Telegram>(&[mapped]);
    let body = body(&host.requests()[0]);
    assert_eq!((body["text"].as_str(), body.get("parse_mode")), (Some("<b>Иван</b> & Co"), None));
}

#[test]
fn a_template_that_fails_for_one_lead_stops_no_other() {
    let mut host = with(json!({ "chat_id": 1, "text": "{% if %}" }));
    assert_eq!(host.deliver::<Telegram>(&[item()]).summary(), "rejected template");
}

#[test]
fn the_check_asks_for_bot_and_chat() {
    let me = || Answer::status(200).json(&json!({ "ok": true, "result": { "id": 1, "username": "acme_leads_bot" } }));
    let chat = Answer::status(200).json(&json!({ "ok": true, "result": { "id": -42, "type": "supergroup", "title": "Продажи" } }));
    let mut host = with(json!({ "chat_id": "@sales & co" })).answer(me()).answer(chat);
    let info = host.check::<Telegram>().unwrap();
    assert_eq!(info[0], ("bot".into(), "@acme_leads_bot".into()));
    assert_eq!(info[1], ("chat".into(), "Продажи".into()));
    assert_eq!(host.requests()[1].url, "getChat?chat_id=%40sales+%26+co");
    assert!(host.requests().iter().all(|request| request.method == Method::Get), "reads only");
    for (answer, stop) in [
        (error(400, "Bad Request: chat not found", json!({})), "CredentialInvalid"),
        (error(403, "Forbidden: bot was kicked", json!({})), "CredentialInvalid"),
        (error(429, "", json!({ "retry_after": 3 })), "RateLimited(Some(3000))"),
        (Answer::status(502).text("<html>"), "Unavailable"),
        (error(400, "Bad Request: upgraded", json!({ "migrate_to_chat_id": -100 })), "Misconfigured"),
        (Answer::fails(FailureKind::Dns, false), "Unavailable"),
    ] {
        let failed = self::host().answer(me()).answer(answer).check::<Telegram>().unwrap_err();
        assert!(format!("{failed:?}").contains(stop), "{failed:?}");
    }
    assert!(matches!(self::host().answer(error(401, "Unauthorized", json!({}))).check::<Telegram>(), Err(Stop::CredentialInvalid(_))));
}

#[test]
fn the_schema_takes_numbers_and_names() {
    let schema: Value = serde_json::from_str(include_str!("../config.schema.json")).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    for chat in [json!(-1_001_234_567_890_i64), json!("-1001234567890"), json!(5_512_345_678_i64), json!("@acme_leads")] {
        assert!(schema.is_valid(&json!({ "chat_id": chat })), "{chat}");
    }
    for chat in [json!(0), json!(""), json!("acme"), json!("@a b"), json!(1.5), json!(null), json!("12\n"), json!("99999999999999999999")] {
        assert!(!schema.is_valid(&json!({ "chat_id": chat })), "{chat}");
    }
    assert!(!schema.is_valid(&json!({ "chat_id": 1, "on_doubt": "look" })));
    assert!(!schema.is_valid(&json!({ "text": "no chat" })));
}
