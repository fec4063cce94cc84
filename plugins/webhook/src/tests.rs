//! Every row of the outcome table, the published signatures, and what hostile fields come to.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use leadwire_sdk::{
    http::{FailureKind, Method, Request},
    testing::{Answer, Host, event, event_item, item, item_of, lead},
};
use serde_json::{Value, json};

use super::*;

const URL: &str = "https://example.com/leads";

fn host() -> Host {
    Host::new().config(json!({ "url": URL, "method": "POST", "format": "json", "headers": {} }))
}

fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value.as_str())
}

fn body(request: &Request) -> &str {
    match &request.body {
        leadwire_sdk::Body::Text(text) => text,
        other => panic!("{other:?}"),
    }
}

fn sent(item: leadwire_sdk::Item) -> Value {
    let mut host = host().answer(Answer::status(204));
    assert_eq!(host.deliver::<Webhook>(&[item]).summary(), "delivered");
    serde_json::from_str(body(&host.requests()[0])).unwrap()
}

#[test]
fn each_status_has_its_outcome() {
    let table: [(u16, &str); 35] = [
        (200, "delivered"),
        (201, "delivered"),
        (204, "delivered"),
        (299, "delivered"),
        (300, "rejected http_300"),
        (301, "rejected http_301"),
        (302, "rejected http_302"),
        (304, "rejected http_304"),
        (307, "rejected http_307"),
        (308, "rejected http_308"),
        (400, "retry http_400"),
        (401, "stop credential_invalid"),
        (402, "retry http_402"),
        (403, "stop credential_invalid"),
        (404, "retry http_404"),
        (405, "retry http_405"),
        (407, "stop credential_invalid"),
        (408, "retry http_408"),
        (409, "retry http_409"),
        (410, "rejected http_410 + stop credential_invalid"),
        (413, "retry http_413"),
        (414, "retry http_414"),
        (415, "retry http_415"),
        (418, "retry http_418"),
        (422, "retry http_422"),
        (425, "retry http_425"),
        (429, "stop rate_limited"),
        (451, "retry http_451"),
        (500, "retry http_500 maybe_sent"),
        (501, "retry http_501 maybe_sent"),
        (502, "retry http_502 maybe_sent"),
        (503, "retry http_503 maybe_sent"),
        (504, "retry http_504 maybe_sent"),
        (520, "retry http_520 maybe_sent"),
        (599, "retry http_599 maybe_sent"),
    ];
    for (status, outcome) in table {
        let mut host = host().answer(Answer::status(status).text("an error text changes nothing"));
        assert_eq!(host.deliver::<Webhook>(&[item()]).summary(), outcome, "{status}");
        assert_eq!(host.requests().len(), 1, "{status}: one request, nothing followed");
    }
}

#[test]
fn retry_after_is_obeyed() {
    for (status, value, outcome) in [
        (429, "35", "stop rate_limited 35000"),
        (429, "never", "stop rate_limited"),
        (503, "2", "retry http_503 after=2000 maybe_sent"),
        (503, "Thu, 01 Jan 2026 00:01:00 GMT", "retry http_503 after=60000 maybe_sent"),
        (503, "Thu, 01 Jan 2099 00:00:00 GMT", "retry http_503 after=86400000 maybe_sent"),
    ] {
        let mut host = host().answer(Answer::status(status).header("retry-after", value));
        assert_eq!(host.deliver::<Webhook>(&[item()]).summary(), outcome, "{status} {value}");
    }
}

#[test]
fn no_answer_is_tried_again_and_a_forbidden_address_is_not() {
    for (kind, maybe, outcome) in [
        (FailureKind::Dns, false, "retry http_dns"),
        (FailureKind::Connect, false, "retry http_connect"),
        (FailureKind::Tls, false, "retry http_tls"),
        (FailureKind::Timeout, true, "retry http_timeout maybe_sent"),
        (FailureKind::Timeout, false, "retry http_timeout"),
        (FailureKind::TooLarge, true, "retry http_too_large maybe_sent"),
        (FailureKind::Other, true, "retry http_other maybe_sent"),
        (FailureKind::OverLimit, false, "retry http_over_limit"),
        (FailureKind::Denied, false, "rejected http_denied"),
        (FailureKind::Invalid, false, "rejected http_invalid"),
        (FailureKind::NoCredential, false, "stop credential_invalid"),
    ] {
        let mut host = host().answer(Answer::fails(kind, maybe));
        assert_eq!(host.deliver::<Webhook>(&[item()]).summary(), outcome, "{kind:?}");
    }
}

#[test]
fn the_signature_is_that_of_the_specification() {
    // From the Standard Webhooks reference libraries.
    let key = STANDARD.decode("C2FVsBQIhrscChlQIMV+b5sSYspob7oD").unwrap();
    let run = sign_with(
        &[("signing_secret", key)],
        "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
        1_649_367_553,
        r#"{"email":"test@example.com","username":"test_user"}"#,
    );
    assert_eq!(run, ["v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="]);
}

#[test]
fn while_a_secret_changes_both_sign() {
    let body = r#"{"type":"lead.created","timestamp":"2026-01-01T00:00:00Z","data":{"lead_id":"42","name":"Иван Петров","phone":"+79990000001","utm":{"source":"site"}}}"#;
    let new = STANDARD.decode("W2T7URdALJ/km5Hf5Kyvk2o/MqygU4SyZBpCXT+mAGc=").unwrap();
    let old = STANDARD.decode("oyEQ673IaXPW3Gjis5kfT+TRs06BqGVN").unwrap();
    let secrets = [("signing_secret", new), ("signing_secret_previous", old)];
    let run = sign_with(&secrets, "dlv_0192f3c0-5d1e-7c41-9a2b-3f4e5d6c7b8a", 1_767_225_600, body);
    assert_eq!(run, ["v1,IFZoRjeIrKyBhycNdoKk1VFDi3zPRGWKR0nqY7SaKB8=", "v1,M53+MGDiPUyH0Bz+4DA3TLiJmQ6HStb4YPRBvAj/55A="]);
}

/// Signs a given body the way `signed` does.
fn sign_with(secrets: &[(&str, Vec<u8>)], id: &str, timestamp: u64, body: &str) -> Vec<String> {
    struct Signer;
    impl Channel for Signer {
        type Config = Config;
        fn deliver_one(ctx: &Context<Config>, item: &Item) -> Outcome {
            let signatures = request::signatures(ctx, item.memo.as_deref().unwrap())?;
            Ok(Verdict::skipped("signed", signatures.join(" ")))
        }
        fn check(_: &Context<Config>) -> Result<Vec<(String, String)>, Stop> {
            Ok(Vec::new())
        }
    }
    let mut host = host();
    for (name, key) in secrets {
        host = host.secret(name, key);
    }
    let mut item = item();
    item.memo = Some(format!("{id}.{timestamp}.{body}"));
    match host.deliver::<Signer>(&[item]).verdict() {
        Some(Verdict::Skipped(why)) => why.message.split(' ').map(str::to_owned).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_signed_is_what_is_sent() {
    let key = [7; 24];
    let mut host = host().secret("signing_secret", key).answer(Answer::status(200));
    host.deliver::<Webhook>(&[item()]);
    let request = host.requests()[0].clone();
    assert_eq!(header(&request, "webhook-id"), Some("dlv_1"));
    assert_eq!(header(&request, "webhook-timestamp"), Some("1767225600"));
    assert_eq!(header(&request, "content-type"), Some("application/json"));
    let expected = sign_with(&[("signing_secret", key.to_vec())], "dlv_1", 1_767_225_600, body(&request));
    assert_eq!(header(&request, "webhook-signature"), Some(expected[0].as_str()));
}

#[test]
fn a_later_attempt_has_the_same_id_and_its_own_time() {
    let mut first = host().answer(Answer::status(500));
    first.deliver::<Webhook>(&[item()]);
    let mut second = host().at(leadwire_sdk::testing::NOW_MS + 600_999).answer(Answer::status(200));
    second.deliver::<Webhook>(&[item()]);
    let (first, second) = (&first.requests()[0], &second.requests()[0]);
    assert_eq!(header(first, "webhook-id"), header(second, "webhook-id"));
    assert_eq!(header(second, "webhook-timestamp"), Some("1767226200"));
    assert_eq!(first.body, second.body);
}

#[test]
fn without_a_secret_there_is_no_signature() {
    let mut host = host().answer(Answer::status(200));
    host.deliver::<Webhook>(&[item()]);
    assert_eq!(header(&host.requests()[0], "webhook-signature"), None);
    assert_eq!(header(&host.requests()[0], "webhook-id"), Some("dlv_1"));
}

#[test]
fn the_body_carries_the_lead() {
    let body = sent(item());
    assert_eq!(body["type"], "lead.created");
    assert_eq!(body["timestamp"], "2026-01-01T00:00:00Z");
    let data = &body["data"];
    assert_eq!(data["id"], "lead_1");
    assert_eq!(data["project"], "prj_1");
    assert_eq!(data["entity"], Value::Null);
    assert_eq!(data["delivery_id"], "dlv_1");
    assert_eq!(data["name"], "Иван Петров");
    assert_eq!(data["phone"], "+79161234567");
    assert_eq!(data["phones"][0]["raw"], "8 (916) 123-45-67");
    assert_eq!(data["emails"][0], "ivan@example.com");
    assert_eq!(data["value"]["amount"], "1500.00");
    assert_eq!(data["origin"]["utm_source"], "yandex");
    assert_eq!(data["fields"], json!({ "car": "Lada Vesta" }));
}

#[test]
fn mapped_fields_stand_over_the_leads_own() {
    let mut item = item();
    item.fields = r#"{"car":"mapped","CITY":"Москва"}"#.into();
    assert_eq!(sent(item)["data"]["fields"], json!({ "car": "mapped", "CITY": "Москва" }));
}

#[test]
fn an_event_keeps_its_kind() {
    let body = sent(event_item(event()));
    assert_eq!(body["type"], "deal.updated");
    assert_eq!(body["data"]["external_id"], "77");
    assert_eq!(body["data"]["data"]["STAGE_ID"], "C1:NEW");
}

#[test]
fn forms_have_flat_names_and_hostile_text_stays_text() {
    let nasty = "a=1&b=2+c;\"'\r\nX-Evil: 1\0 😀 Ж %00";
    let mut lead = lead();
    lead.name = Some(nasty.into());
    lead.comment = None;
    lead.extra = r#"{"list":[1,{"deep":true}],"none":null,"empty":[]}"#.into();
    let config = json!({ "url": URL, "format": "form", "method": "PUT", "headers": { "X-Shop": "7" } });
    let mut host = Host::new().config(config).answer(Answer::status(200));
    host.deliver::<Webhook>(&[item_of(lead)]);
    let request = &host.requests()[0];
    assert_eq!(request.method, Method::Put);
    assert_eq!(header(request, "content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(header(request, "x-shop"), Some("7"));
    assert!(request.headers.iter().all(|header| !header.value.contains(['\r', '\n', '\0'])));
    let encoded = body(request);
    assert!(encoded.is_ascii() && !encoded.contains(['\r', '\n', ' ']), "{encoded}");
    let pairs: BTreeMap<String, String> = decode(encoded);
    assert_eq!(pairs["data.name"], nasty);
    assert_eq!(pairs["data.phones.0.e164"], "+79161234567");
    assert_eq!(pairs["data.fields.list.1.deep"], "true");
    assert!(!pairs.contains_key("data.comment") && !pairs.contains_key("data.fields.none"));
}

fn decode(body: &str) -> BTreeMap<String, String> {
    let unescape = |text: &str| {
        let mut bytes = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'+' => b' ',
                b'%' => u8::from_str_radix(&format!("{}{}", rest.next().unwrap() as char, rest.next().unwrap() as char), 16).unwrap(),
                other => other,
            });
        }
        String::from_utf8(bytes).unwrap()
    };
    body.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (unescape(name), unescape(value))).collect()
}

#[test]
fn the_check_sends_a_signed_test_event() {
    let mut host = host().secret("signing_secret", [7; 24]).answer(Answer::status(200).text("ok"));
    let info = host.check::<Webhook>().unwrap();
    assert!(info.contains(&("status".into(), "200".into())) && info.contains(&("answer".into(), "ok".into())));
    let request = &host.requests()[0];
    assert!(header(request, "webhook-id").unwrap().starts_with("test_"));
    assert!(header(request, "webhook-signature").is_some());
    assert!(body(request).contains("leadwire.test"));
    for (status, stop) in [
        (401, Stop::credential_invalid("answered 401")),
        (404, Stop::misconfigured("answered 404")),
        (302, Stop::misconfigured("answered 302")),
        (429, Stop::rate_limited(None)),
        (503, Stop::unavailable(None)),
    ] {
        assert_eq!(self::host().answer(Answer::status(status)).check::<Webhook>(), Err(stop));
    }
    assert!(self::host().dry_run().check::<Webhook>().is_ok(), "a dry run sends nothing");
}

#[test]
fn the_schema_refuses_what_the_host_would_strip() {
    let schema: Value = serde_json::from_str(include_str!("../config.schema.json")).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let with = |name: &str, value: &str| schema.is_valid(&json!({ "url": URL, "headers": { name: value } }));
    assert!(with("X-Shop", "7") && with("User-Agent", "me") && with("x-tab", "a\tb"));
    for name in [
        "host",
        "Content-Length",
        "content-type",
        "Transfer-Encoding",
        "connection",
        "TE",
        "upgrade",
        "webhook-id",
        "Webhook-Signature",
        "Cookie",
        "authorization",
        "X-Forwarded-For",
        "proxy-authorization",
        "a b",
        "a:b",
        "a\r\nb",
        "",
    ] {
        assert!(!with(name, "x"), "{name}");
    }
    for value in ["a\rb", "a\nb", "a\0b"] {
        assert!(!with("x-shop", value));
    }
    for url in [
        "ftp://example.com",
        "https://user:pw@example.com/",
        "https://",
        "example.com",
        "https://example.com/#x",
        "https://example.com/a b",
    ] {
        assert!(!schema.is_valid(&json!({ "url": url })), "{url}");
    }
    for url in [URL, "http://127.0.0.1:9001", "https://example.com?a=b", "https://пример.рф/лиды", "http://[::1]:80/x"] {
        assert!(schema.is_valid(&json!({ "url": url })), "{url}");
    }
    assert!(!schema.is_valid(&json!({ "url": URL, "method": "GET" })));
    assert!(!schema.is_valid(&json!({ "url": URL, "colour": "red" })));
}
