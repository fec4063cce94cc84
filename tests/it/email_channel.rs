//! The channel `email` against a scripted mail server.

use std::time::Duration;

use leadwire_fakes::SmtpReceiver;
use leadwire_fakes::smtp::{Act, Settings, Stage};
use leadwire_tests::{Options, TestHost, codes, outcomes};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

async fn shop(smtp: &SmtpReceiver, config: Value, secrets: Value) -> (TestHost, String) {
    let host = TestHost::with(Options { plugins: vec!["email"], ..Options::default() }).await;
    host.project().await;
    let id = host.enable("email", account(smtp, config), secrets).await;
    (host, id)
}

fn account(smtp: &SmtpReceiver, more: Value) -> Value {
    let mut config =
        json!({"host": "127.0.0.1", "port": smtp.addr().port(), "tls": "none", "from": "leads@shop.example", "to": ["sales@shop.example"]});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

fn count(smtp: &SmtpReceiver, verb: &str) -> usize {
    smtp.commands().iter().filter(|command| command.line.to_ascii_uppercase().starts_with(verb)).count()
}

#[tokio::test]
async fn a_retry_goes_only_to_those_who_have_not_got_it() {
    let smtp = SmtpReceiver::start().await.unwrap();
    let everyone = json!({"to": ["a@shop.example", "b@shop.example"], "cc": ["c@shop.example"]});
    let (host, _) = shop(&smtp, everyone, json!({})).await;
    smtp.script(Stage::RcptOf("b@shop.example".into()), [Act::reply("450 4.2.1 mailbox busy")]);
    let id = host.lead(1).await;
    host.idle().await;
    assert_eq!(host.status(&id).await, "queued");
    assert_eq!(smtp.received()[0].to, ["a@shop.example", "c@shop.example"]);

    host.advance(SECOND * 67).await;
    let delivery = host.delivery(&id).await;
    assert_eq!((&delivery["status"], outcomes(&delivery)), (&json!("delivered"), vec!["retry", "delivered"]), "{delivery:#}");
    let mails = smtp.received();
    assert_eq!(mails.len(), 2);
    assert_eq!(mails[1].to, ["b@shop.example"]);
    let (first, second) = (mails[0].parsed(), mails[1].parsed());
    assert_eq!((&first.message_id, &first.to, &first.cc), (&second.message_id, &second.to, &second.cc));
    assert_eq!((first.to.len(), first.cc.len()), (2, 1), "everyone sees who else got it");
}

#[tokio::test]
async fn one_recipient_who_is_unknown_keeps_nobody_from_the_lead() {
    let smtp = SmtpReceiver::start().await.unwrap();
    let (host, credential) = shop(&smtp, json!({"to": ["gone@shop.example", "here@shop.example"]}), json!({})).await;
    smtp.always(Stage::RcptOf("gone@shop.example".into()), Act::reply("550 5.1.1 no such user"));
    let id = host.lead(1).await;
    host.idle().await;
    assert_eq!((host.status(&id).await.as_str(), smtp.received()[0].to.as_slice()), ("delivered", &["here@shop.example".to_owned()][..]));
    host.patch(&format!("/api/credentials/{credential}"), &json!({"config": {"to": ["gone@shop.example"]}})).await;
    let id = host.lead(2).await;
    host.advance(SECOND * 600).await;
    let delivery = host.delivery(&id).await;
    assert_eq!((&delivery["status"], codes(&delivery)), (&json!("failed"), vec!["smtp_550"]));

    // The mailbox was made: a retry by hand must ask the server again.
    smtp.always(Stage::RcptOf("gone@shop.example".into()), Act::Normal);
    host.act(&format!("/api/deliveries/{id}/retry")).await;
    host.idle().await;
    assert_eq!((host.status(&id).await.as_str(), smtp.received().len()), ("delivered", 2));
}

#[tokio::test]
async fn greylisting_passes_with_the_channels_own_schedule() {
    let smtp = SmtpReceiver::start().await.unwrap();
    let (host, credential) = shop(&smtp, json!({}), json!({})).await;
    smtp.always(Stage::Rcpt, Act::reply("451 4.7.1 Greylisting in action, come back later"));
    let id = host.lead(1).await;
    host.idle().await;
    host.advance(SECOND * 66).await;
    host.advance(SECOND * 234).await;
    assert_eq!((host.status(&id).await.as_str(), host.state(&credential).await.as_str()), ("queued", "active"));
    smtp.always(Stage::Rcpt, Act::Normal);
    host.advance(SECOND * 162).await;
    let delivery = host.delivery(&id).await;
    assert_eq!((&delivery["status"], smtp.received().len()), (&json!("delivered"), 1), "{delivery:#}");
    assert!(delivery["attempt_count"].as_u64().unwrap() <= 3);
    assert!(smtp.received()[0].parsed().message_id.unwrap().starts_with(&id));
}

#[tokio::test]
async fn a_wrong_password_is_tried_once_and_not_again() {
    let smtp = SmtpReceiver::start_with(Settings::with_login("leads", "right-password")).await.unwrap();
    let (host, credential) = shop(&smtp, json!({"username": "leads"}), json!({"password": "wrong-password"})).await;
    let first = host.lead(1).await;
    host.idle().await;
    let second = host.lead(2).await;
    host.advance(SECOND * 3_600).await;
    assert_eq!((count(&smtp, "AUTH"), host.state(&credential).await.as_str()), (1, "invalid"));
    for id in [&first, &second] {
        assert_eq!((host.status(id).await.as_str(), &host.delivery(id).await["attempt_count"]), ("queued", &json!(0)));
    }
    let (_, check) = host.post(&format!("/api/credentials/{credential}/check"), &json!({})).await;
    assert_eq!((&check["ok"], &check["code"]), (&json!(false), &json!("credential_invalid")), "{check}");
    assert!(!check.to_string().contains("wrong-password"));

    host.patch(&format!("/api/credentials/{credential}"), &json!({"secrets": {"password": "right-password"}})).await;
    host.idle().await;
    assert_eq!((host.status(&first).await.as_str(), host.status(&second).await.as_str()), ("delivered", "delivered"));
    assert!(smtp.received().iter().all(|mail| mail.user.as_deref() == Some("leads")));
}

#[tokio::test]
async fn no_field_of_a_lead_adds_a_header_a_recipient_or_a_second_mail() {
    let smtp = SmtpReceiver::start().await.unwrap();
    let (host, _) = shop(&smtp, json!({"reply_to": "office@shop.example"}), json!({})).await;
    let evil =
        "x\r\nBcc: evil@evil.example\r\nX-Evil: 1\r\n\r\nbody\r\n.\r\nMAIL FROM:<evil@evil.example>\r\nRCPT TO:<e@evil.example>\r\nDATA\0";
    let fields: [(&str, Value); 9] = [
        ("name", json!(evil)),
        ("title", json!(evil)),
        ("company", json!(evil)),
        ("comment", json!(evil)),
        ("phone", json!(evil)),
        ("entity", json!(evil)),
        ("external_id", json!(evil)),
        ("fields", json!({evil: evil})),
        ("origin", json!({"page": evil, "referrer": evil, "form": evil, "utm_source": evil, "user_agent": evil, "ids": {"yclid": evil}})),
    ];
    let mut plain = host.send(json!({"name": "Plain", "email": "lead@example.com"})).await;
    host.idle().await;
    let names = |mail: &leadwire_fakes::ParsedMail| mail.headers.iter().map(|(name, _)| name.to_lowercase()).collect::<Vec<_>>();
    let usual = names(&smtp.received()[0].parsed());
    for (name, value) in fields {
        smtp.forget();
        let mut lead = json!({"name": name, "email": "lead@example.com", "fields": {"n": name}, "project": "ext:shop"});
        lead[name] = value;
        let (status, body) = host.post("/api/leads", &lead).await;
        host.idle().await;
        if status == 422 {
            assert!(body["errors"][0]["pointer"].as_str().unwrap().starts_with(&format!("/{name}")), "{body}");
            continue;
        }
        plain = body;
        assert_eq!(host.first_delivery(&plain).await["status"], "delivered", "{name}");
        let mails = smtp.received();
        assert_eq!((mails.len(), count(&smtp, "MAIL"), count(&smtp, "RCPT")), (1, 1, 1), "{name}");
        assert_eq!((mails[0].from.as_str(), mails[0].to.as_slice()), ("leads@shop.example", &["sales@shop.example".to_owned()][..]));
        let mail = mails[0].parsed();
        assert_eq!(names(&mail), usual, "{name}");
        assert_eq!(
            (mail.to.as_slice(), mail.reply_to.as_slice()),
            (&["sales@shop.example".to_owned()][..], &["lead@example.com".to_owned()][..])
        );
        assert!(!mail.subject.contains(['\r', '\n', '\0']) && !mail.html.unwrap().contains("<script"));
    }
    drop(plain);
    let (status, _) = host.post("/api/leads", &json!({"project": "ext:shop", "email": "a@b.example\r\nBcc: evil@evil.example"})).await;
    assert_eq!(status, 422);
}

#[tokio::test]
async fn a_lead_in_cyrillic_is_readable_in_subject_text_and_html() {
    let smtp = SmtpReceiver::start().await.unwrap();
    let (host, _) = shop(&smtp, json!({"from": "leads@магазин.рф"}), json!({})).await;
    host.send(
        json!({"title": "Заявка с сайта", "name": "Иван <b>Петров</b> 😀", "email": "ivan@почта.рф", "comment": ".\nпервая\n.\n..вторая"}),
    )
    .await;
    host.idle().await;
    let mails = smtp.received();
    assert_eq!(mails.len(), 1);
    let mail = mails[0].parsed();
    assert_eq!(mail.subject, "Заявка с сайта: Иван <b>Петров</b> 😀");
    let (text, html) = (mail.text.unwrap(), mail.html.unwrap());
    assert!(text.contains("Иван <b>Петров</b> 😀") && text.replace("\r\n", "\n").contains(".\nпервая\n.\n..вторая"), "{text}");
    assert!(html.contains("Иван &lt;b&gt;Петров&lt;") && !html.contains("<b>Петров"), "{html}");
    assert!(mails[0].raw.is_ascii());
    assert!(mails[0].from.starts_with("leads@xn--") && !mails[0].params.iter().any(|param| param == "SMTPUTF8"), "{:?}", mails[0]);
    assert!(mail.reply_to[0].starts_with("ivan@"), "{:?}", mail.reply_to);
}

#[tokio::test]
async fn an_unencrypted_server_is_refused_unless_the_operator_allows_it() {
    let smtp = SmtpReceiver::start().await.unwrap();
    let settings = vec![("egress_allow", String::new()), ("egress_ports", smtp.addr().port().to_string())];
    let host = TestHost::with(Options { plugins: vec!["email"], settings, ..Options::default() }).await;
    host.project().await;
    let credential = host.enable("email", account(&smtp, json!({})), json!({})).await;
    let id = host.lead(1).await;
    host.advance(SECOND * 60).await;
    assert_eq!((host.status(&id).await.as_str(), host.state(&credential).await.as_str()), ("queued", "invalid"));
    let (_, check) = host.post(&format!("/api/credentials/{credential}/check"), &json!({})).await;
    assert_eq!((&check["ok"], &check["code"]), (&json!(false), &json!("misconfigured")), "{check}");
    assert!(smtp.commands().is_empty());
}

#[tokio::test]
async fn a_server_that_offers_no_starttls_gets_no_mail() {
    let smtp = SmtpReceiver::start().await.unwrap();
    let (host, _) = shop(&smtp, json!({"tls": "starttls"}), json!({})).await;
    let id = host.lead(1).await;
    host.advance(SECOND * 60).await;
    assert_ne!(host.status(&id).await, "delivered");
    assert_eq!((count(&smtp, "MAIL"), smtp.received().len()), (0, 0));
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closed_loses_and_doubles_nothing() {
    let smtp = SmtpReceiver::start().await.unwrap();
    let (host, _) = shop(&smtp, json!({}), json!({})).await;
    let first = host.lead(1).await;
    host.idle().await;
    smtp.script(Stage::Rset, [Act::ReplyAndClose("421 4.3.2 closing".into())]);
    let second = host.lead(2).await;
    host.idle().await;
    smtp.script(Stage::Mail, [Act::ReplyAndClose("421 4.3.2 closing".into())]);
    let third = host.lead(3).await;
    host.advance(SECOND * 70).await;
    for id in [first, second, third] {
        assert_eq!(host.status(&id).await, "delivered");
        let ours = |mail: &&leadwire_fakes::smtp::Mail| mail.parsed().message_id.unwrap_or_default().starts_with(&id);
        assert_eq!(smtp.received().iter().filter(ours).count(), 1);
    }
}

#[tokio::test]
async fn refusals_mean_what_they_say() {
    for (stage, reply, status, state) in [
        (Stage::Mail, "550 5.7.1 sender not allowed", "queued", "invalid"),
        (Stage::Dot, "554 5.7.1 looks like spam", "failed", "active"),
        (Stage::Dot, "552 5.3.4 too big", "failed", "active"),
        (Stage::Data, "451 4.3.0 try later", "queued", "active"),
        (Stage::Greeting, "554 go away", "queued", "active"),
        (Stage::Mail, "421 4.7.0 too many messages, rate limited", "queued", "throttled"),
    ] {
        let smtp = SmtpReceiver::start().await.unwrap();
        let (host, credential) = shop(&smtp, json!({}), json!({})).await;
        smtp.script(stage, [Act::reply(reply)]);
        let id = host.lead(1).await;
        host.idle().await;
        assert_eq!((host.status(&id).await.as_str(), host.state(&credential).await.as_str()), (status, state), "{reply}");
        let said = host.delivery(&id).await["attempts"][0].to_string();
        if state != "throttled" {
            assert!(said.contains(reply.split_once(' ').unwrap().1), "{reply}: {said}");
        }
        if status == "queued" && state != "invalid" {
            host.advance(SECOND * 70).await;
            assert_eq!((host.status(&id).await.as_str(), smtp.received().len()), ("delivered", 1), "{reply}");
        }
    }
}
