//! Every row of the outcome table, recipients one by one, and what hostile fields come to.

use leadwire_sdk::{
    mail::{Failure, FailureKind as Kind, Refused, Sent},
    testing::{Host, event, event_item, item, item_of, lead},
};
use serde_json::{Value, json};

use super::*;

fn host() -> Host {
    with(json!({}))
}

fn with(extra: Value) -> Host {
    let mut config = json!({ "host": "smtp.example.com", "port": 465, "tls": "implicit", "username": "crm", "from": "crm@example.com",
                             "to": ["a@example.com", "b@example.com"], "cc": ["c@example.com"], "on_doubt": "resend" });
    config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    Host::new().config(config).locale("ru")
}

fn failure(kind: Kind, code: u16, maybe_sent: bool) -> Failure {
    Failure { kind, code: (code > 0).then_some(code), message: "so said the server".into(), maybe_sent }
}

fn sent(accepted: &[&str], refused: &[(&str, Kind, u16)]) -> Result<Sent, Failure> {
    Ok(Sent {
        message_id: "<dlv_1@example.com>".into(),
        accepted: accepted.iter().map(|&address| address.into()).collect(),
        refused: refused
            .iter()
            .map(|&(address, kind, code)| Refused { address: address.into(), why: failure(kind, code, false) })
            .collect(),
    })
}

#[test]
fn a_lead_becomes_one_mail_to_everyone() {
    let mut host = host();
    assert_eq!(host.deliver::<Email>(&[item()]).summary(), "delivered");
    let mail = &host.mails()[0];
    assert_eq!(mail.to, ["a@example.com", "b@example.com"]);
    assert_eq!(mail.cc, ["c@example.com"]);
    assert_eq!(mail.only.as_ref().unwrap().len(), 3);
    assert_eq!(mail.item.as_deref(), Some("dlv_1"));
    assert_eq!(mail.reply_to.as_deref(), Some("ivan@example.com"));
    assert_eq!(mail.subject, "Заявка с сайта: Иван Петров");
    let text = mail.text.as_deref().unwrap();
    assert_eq!(
        text.trim_end(),
        "Заявка с сайта\n\nИмя: Иван Петров\nКомпания: Рога & Копыта\nТелефон: +79161234567\nПочта: ivan@example.com\nСумма: 1500.00 RUB\n\
         Комментарий: Перезвонить\ncar: Lada Vesta\nСтраница: https://shop.example/landing\nРеклама: yandex / cpc / spring\n\n-- \nlead_1"
    );
    let html = mail.html.as_deref().unwrap();
    assert!(html.contains("Рога &amp; Копыта") && html.contains("Lada Vesta") && html.contains("<table"), "{html}");
    assert!(!html.contains("<img") && !html.contains("href"), "{html}");
}

#[test]
fn each_failure_has_its_outcome() {
    for (kind, code, maybe, outcome) in [
        (Kind::Login, 535, false, "stop credential_invalid"),
        (Kind::NoCredential, 0, false, "stop credential_invalid"),
        (Kind::RefusedSender, 553, false, "stop misconfigured"),
        (Kind::Denied, 0, false, "stop misconfigured"),
        (Kind::RateLimited, 421, false, "stop rate_limited"),
        (Kind::Deferred, 450, false, "retry smtp_450"),
        (Kind::Deferred, 451, false, "retry smtp_451"),
        (Kind::Deferred, 0, false, "retry mail_deferred"),
        (Kind::Unreachable, 0, false, "retry mail_unreachable"),
        (Kind::Unreachable, 0, true, "retry mail_unreachable maybe_sent"),
        (Kind::Tls, 0, false, "retry mail_tls"),
        (Kind::Other, 0, true, "retry mail_other maybe_sent"),
        (Kind::RefusedRecipient, 550, false, "rejected smtp_550"),
        (Kind::RefusedMessage, 554, false, "rejected smtp_554"),
        (Kind::RefusedMessage, 552, false, "rejected smtp_552"),
        (Kind::OverLimit, 0, false, "rejected mail_over_limit"),
    ] {
        let mut host = host().mail_answer(Err(failure(kind, code, maybe)));
        assert_eq!(host.deliver::<Email>(&[item()]).summary(), outcome, "{kind:?} {code}");
        assert_eq!(host.mails().len(), 1);
    }
}

#[test]
fn a_retry_goes_only_to_those_not_yet_accepted() {
    let mut host = host()
        .mail_answer(sent(&["a@example.com"], &[("b@example.com", Kind::Deferred, 450), ("c@example.com", Kind::RefusedRecipient, 550)]))
        .mail_answer(sent(&["b@example.com"], &[]));
    assert_eq!(host.deliver::<Email>(&[item()]).summary(), "retry smtp_450");
    assert!(host.logs()[0].contains("c@example.com"), "{:?}", host.logs());
    assert_eq!(host.deliver::<Email>(&[item()]).summary(), "delivered");
    let second = &host.mails()[1];
    assert_eq!(second.only.as_deref(), Some(&["b@example.com".to_owned()][..]));
    assert_eq!(second.to, ["a@example.com", "b@example.com"], "the headers stay the same");
    assert!(!host.memo("dlv_1").unwrap().contains("a@example.com"), "no further copy of addresses");
    // The node died after the note: nobody is written to again.
    assert_eq!(host.deliver::<Email>(&[item()]).summary(), "delivered");
    assert_eq!(host.mails().len(), 2);
}

#[test]
fn some_refused_for_good_and_some_accepted_is_delivered() {
    let mut host = host().mail_answer(sent(&["a@example.com", "c@example.com"], &[("b@example.com", Kind::RefusedRecipient, 550)]));
    assert_eq!(host.deliver::<Email>(&[item()]).summary(), "delivered");
    assert!(host.logs()[0].starts_with("warn: refused for good: b@example.com: 550"));
}

#[test]
fn the_rest_refused_later_is_delivered_too() {
    let mut host = host()
        .mail_answer(sent(&["a@example.com", "c@example.com"], &[("b@example.com", Kind::Deferred, 450)]))
        .mail_answer(Err(failure(Kind::RefusedRecipient, 550, false)));
    assert_eq!(host.deliver::<Email>(&[item()]).summary(), "retry smtp_450");
    assert_eq!(host.deliver::<Email>(&[item()]).summary(), "delivered");
}

#[test]
fn a_limit_for_some_slows_the_account() {
    let mut host = host().mail_answer(sent(&["a@example.com"], &[("b@example.com", Kind::RateLimited, 452)]));
    assert_eq!(host.deliver::<Email>(&[item()]).summary(), "stop rate_limited");
    assert!(host.memo("dlv_1").is_some(), "who has it is known all the same");
}

#[test]
fn an_address_the_host_refuses_costs_the_reply_to_only() {
    let mut host = with(json!({ "reply_to": "office@example.com" })).mail_answer(Err(failure(Kind::Invalid, 0, false)));
    assert_eq!(host.deliver::<Email>(&[item()]).summary(), "delivered");
    assert_eq!(host.mails()[1].reply_to.as_deref(), Some("office@example.com"));
    let mut broken = self::host().mail_answer(Err(failure(Kind::Invalid, 0, false))).mail_answer(Err(failure(Kind::Invalid, 0, false)));
    assert_eq!(broken.deliver::<Email>(&[item()]).summary(), "rejected mail_invalid");
}

#[test]
fn hostile_fields_reach_no_header() {
    let mut lead = lead();
    lead.title = Some("x\r\nBcc: evil@example.com\0".into());
    lead.name = Some("<script>alert(1)</script>\u{7}".into());
    lead.emails = vec!["a@b.de\r\nBcc: evil@example.com".into(), "\"a b\"@c.de".into(), "good@example.org".into()];
    lead.comment = Some("first\r\n.\r\nMAIL FROM:<x>\r\n".into());
    let mut host = host();
    assert_eq!(host.deliver::<Email>(&[item_of(lead)]).summary(), "delivered");
    let mail = &host.mails()[0];
    assert_eq!(mail.reply_to.as_deref(), Some("good@example.org"));
    assert!(mail.subject.starts_with("x Bcc: evil@example.com : <script>"), "{}", mail.subject);
    let (text, html) = (mail.text.as_deref().unwrap(), mail.html.as_deref().unwrap());
    for part in [&mail.subject[..], text, html] {
        assert!(!part.contains(['\r', '\0', '\u{7}']), "{part:?}");
    }
    assert!(!mail.subject.contains('\n') && !html.contains("<script>"), "{html}");
    assert_eq!(mail.to.len() + mail.cc.len() + mail.bcc.len() + mail.headers.len(), 3);
}

#[test]
fn without_an_address_answers_go_where_the_admin_said() {
    let mut lead = lead();
    lead.emails = vec!["not an address".into()];
    let mut host = with(json!({ "reply_to": "office@example.com" }));
    host.deliver::<Email>(&[item_of(lead)]);
    assert_eq!(host.mails()[0].reply_to.as_deref(), Some("office@example.com"));
}

#[test]
fn own_templates_and_mapped_parts_stand_over_the_defaults() {
    let mut own = with(json!({ "subject": "{{ lead.name }}!", "text": "{{ lead.company }}" }));
    own.deliver::<Email>(&[item()]);
    let mail = &own.mails()[0];
    assert_eq!((mail.subject.as_str(), mail.text.as_deref(), mail.html.as_deref()), ("Иван Петров!", Some("Рога & Копыта"), None));

    let mut item = item();
    item.fields = r#"{"subject":"S","html":"<p>H</p>"}"#.into();
    let mut mapped = host();
    mapped.deliver::<Email>(&[item]);
    let mail = &mapped.mails()[0];
    assert_eq!((mail.subject.as_str(), mail.text.as_deref(), mail.html.as_deref()), ("S", None, Some("<p>H</p>")));

    let mut broken = with(json!({ "text": "{{ lead.name" }));
    assert_eq!(broken.deliver::<Email>(&[self::item()]).summary(), "rejected template");
}

#[test]
fn an_event_and_a_bare_lead_have_a_mail_too() {
    let mut host = host().locale("en");
    host.deliver::<Email>(&[event_item(event())]);
    assert_eq!(host.mails()[0].subject, "deal.updated 77");
    assert!(host.mails()[0].text.as_deref().unwrap().contains("STAGE_ID: C1:NEW"));
    let mut bare = lead();
    bare.title = None;
    bare.name = None;
    bare.phones.clear();
    bare.emails.clear();
    bare.extra = "{}".into();
    let mut host = self::host().locale("en");
    host.deliver::<Email>(&[item_of(bare)]);
    assert_eq!(host.mails()[0].subject, "New lead");
}

#[test]
fn the_check_asks_for_each_recipient() {
    let mut host = host();
    assert_eq!(host.check::<Email>(), Ok(vec![("tls".into(), "TLSv1.3".into())]));
    assert_eq!(host.probes()[0], ["a@example.com", "b@example.com", "c@example.com"]);
    assert!(host.mails().is_empty());
    for (kind, stop) in [
        (Kind::Login, "CredentialInvalid"),
        (Kind::RefusedSender, "Misconfigured"),
        (Kind::RefusedRecipient, "Misconfigured"),
        (Kind::Tls, "Misconfigured"),
        (Kind::Unreachable, "Unavailable"),
        (Kind::RateLimited, "RateLimited"),
    ] {
        let failed = self::host().probe_answer(Err(failure(kind, 0, false))).check::<Email>().unwrap_err();
        assert!(format!("{failed:?}").contains(stop), "{failed:?}");
    }
}

#[test]
fn the_schema_refuses_broken_settings() {
    let schema: Value = serde_json::from_str(include_str!("../config.schema.json")).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let with = |extra: Value| {
        let mut config = json!({ "host": "smtp.example.com", "from": "crm@example.com", "to": ["a@example.com"] });
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        schema.is_valid(&config)
    };
    assert!(with(json!({})) && with(json!({ "port": 587, "tls": "starttls", "cc": [], "to": ["иван@почта.рф"] })));
    for bad in [
        json!({ "port": "465" }),
        json!({ "port": 0 }),
        json!({ "tls": "maybe" }),
        json!({ "to": [] }),
        json!({ "to": "a@example.com" }),
        json!({ "to": ["a@b.de\r\nBcc: c@d.ef"] }),
        json!({ "from": "CRM <crm@example.com>" }),
        json!({ "host": "a:25" }),
        json!({ "host": "" }),
        json!({ "password": "in the settings" }),
        json!({ "on_doubt": "look" }),
    ] {
        assert!(!with(bad.clone()), "{bad}");
    }
}

#[test]
fn an_event_with_words_of_its_own_is_not_told_in_those_for_leads() {
    let mut host = with(json!({ "subject": "LEAD {{ lead.name }}", "html": "<b>LEAD</b>" }));
    let mut item = event_item(event());
    item.fields = r#"{"subject":"Done","text":"All is done"}"#.into();
    host.deliver::<Email>(&[item]);
    let mail = &host.mails()[0];
    assert_eq!((mail.subject.as_str(), mail.text.as_deref(), mail.html.as_deref()), ("Done", Some("All is done"), None));
}
