//! The mailer against a scripted server: what it reports, what it sends, and what it must not do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::fake::{Act, Fake, Setup, say};
use super::*;
use crate::secrets::SecretText;

const PASSWORD: &str = "s3cret-pass";

/// Every name leads to one address.
struct To(SocketAddr);

#[async_trait]
impl Resolve for To {
    async fn resolve(&self, _host: &str, _port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        Ok(vec![self.0])
    }
}

fn operator() -> Operator {
    Operator {
        ehlo_name: "host.test".to_owned(),
        allow_networks: vec!["127.0.0.0/8".parse().unwrap()],
        // Long enough for a busy machine; tests of silence set their own.
        timeouts: Timeouts { reserve: Duration::from_millis(100), ..Timeouts::default() },
        ..Operator::default()
    }
}

fn impatient() -> Operator {
    let short = Duration::from_millis(150);
    Operator { timeouts: Timeouts { connect: short, tls: short, command: short, dot: short, reserve: short }, ..operator() }
}

fn account(tls: Tls) -> Account {
    Account { host: "mail.test".to_owned(), port: 587, tls, username: None, password: None, from: "Leads <leads@acme.test>".to_owned() }
}

fn with_login(tls: Tls) -> Account {
    let password = Some(Arc::new(SecretText::new(PASSWORD.to_owned())));
    Account { username: Some("robot".to_owned()), password, ..account(tls) }
}

fn message(to: &[&str]) -> Message {
    Message {
        to: to.iter().map(|text| (*text).to_owned()).collect(),
        subject: "New lead".to_owned(),
        text: Some("Hello\n.\nend".to_owned()),
        ..Message::default()
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn mailer(fake: &Fake, operator: Operator) -> Mailer {
    Mailer::new(operator, Arc::new(To(fake.address)))
}

async fn send(mailer: &Mailer, account: &Account, to: &[&str]) -> Result<Sent, Failure> {
    mailer.send(account, message(to), "dlv_1", soon()).await.result
}

/// A polite server with one rude answer to commands that start so.
async fn rude(command: &'static str, act: Act) -> Fake {
    Fake::start(Setup::default(), move |_, line| line.starts_with(command).then(|| act.clone())).await
}

/// An authority (PEM) and a server with a certificate for `name` from it.
fn tls(name: &str) -> (String, TlsAcceptor) {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    (ca.pem(), TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test]
async fn a_mail_arrives_once_with_its_headers() {
    let fake = Fake::start(Setup::default(), |_, _| None).await;
    let mailer = mailer(&fake, operator());
    let mailed = mailer.send(&account(Tls::None), message(&["anna@acme.test", "Бен <ben@пример.рф>"]), "dlv_1", soon()).await;
    let sent = mailed.result.unwrap();
    assert_eq!(sent.message_id, "<dlv_1@acme.test>");
    assert_eq!(sent.accepted, ["anna@acme.test", "Бен <ben@пример.рф>"]);
    let mails = fake.mails();
    assert_eq!(mails.len(), 1);
    assert!(mails[0].from.starts_with("MAIL FROM:<leads@acme.test> SIZE="), "{}", mails[0].from);
    assert!(!mails[0].from.contains("SMTPUTF8"));
    assert_eq!(mails[0].to, ["RCPT TO:<anna@acme.test>", "RCPT TO:<ben@xn--e1afmkfd.xn--p1ai>"]);
    assert!(mails[0].data.contains("\r\n\r\nHello\r\n.\r\nend\r\n"), "{}", mails[0].data);
    assert_eq!(fake.commands(0)[0], "EHLO host.test");
    assert_eq!(mailed.exchange.status, Some(250));
    assert_eq!(mailed.exchange.response.as_deref(), Some("250 2.0.0 queued"));
    assert!(!mailed.exchange.request.contains("anna@"), "{}", mailed.exchange.request);
}

#[tokio::test]
async fn one_of_three_recipients_is_enough() {
    let fake = Fake::start(Setup::default(), |_, line| match line {
        "RCPT TO:<no@acme.test>" => say("550 5.1.1 unknown"),
        "RCPT TO:<later@acme.test>" => say("450 4.2.0 greylisted"),
        _ => None,
    })
    .await;
    let mailer = mailer(&fake, operator());
    let sent = send(&mailer, &account(Tls::None), &["no@acme.test", "yes@acme.test", "later@acme.test", "not an address"]).await.unwrap();
    assert_eq!(sent.accepted, ["yes@acme.test"]);
    let refused: Vec<_> = sent.refused.iter().map(|(address, why)| (address.as_str(), why.kind, why.code)).collect();
    assert_eq!(
        refused,
        [
            ("not an address", FailureKind::Invalid, None),
            ("no@acme.test", FailureKind::RefusedRecipient, Some(550)),
            ("later@acme.test", FailureKind::Deferred, Some(450)),
        ]
    );
    assert_eq!(fake.mails().len(), 1);
    assert_eq!(fake.mails()[0].to, ["RCPT TO:<yes@acme.test>"]);

    // The retry goes only to the one who is left, with the same headers.
    let retry =
        Message { only: Some(vec!["later@acme.test".to_owned()]), ..message(&["no@acme.test", "yes@acme.test", "later@acme.test"]) };
    let failure = mailer.send(&account(Tls::None), retry, "dlv_1", soon()).await.result.unwrap_err();
    assert_eq!((failure.kind, failure.code, failure.maybe_sent), (FailureKind::Deferred, Some(450), false));
    assert_eq!(fake.mails().len(), 1);
}

#[tokio::test]
async fn when_all_are_refused_the_one_that_may_pass_decides() {
    let fake = Fake::start(Setup::default(), |_, line| match line {
        "RCPT TO:<no@acme.test>" => say("550 5.1.1 unknown"),
        "RCPT TO:<later@acme.test>" => say("451 later"),
        _ => None,
    })
    .await;
    let mailer = mailer(&fake, operator());
    let failure = send(&mailer, &account(Tls::None), &["no@acme.test", "later@acme.test"]).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Deferred);
    assert!(!fake.commands(0).contains(&"DATA".to_owned()));
    let failure = send(&mailer, &account(Tls::None), &["no@acme.test"]).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::RefusedRecipient);
    // A refused recipient is no reason to give up the connection.
    assert_eq!(fake.connections(), 1);
}

#[tokio::test]
async fn recipients_beyond_the_server_s_limit_get_an_envelope_of_their_own() {
    let count = Arc::new(AtomicUsize::new(0));
    let fake = Fake::start(Setup::default(), move |_, line| {
        if line.starts_with("MAIL") {
            count.store(0, Ordering::SeqCst);
        }
        (line.starts_with("RCPT") && count.fetch_add(1, Ordering::SeqCst) >= 2)
            .then(|| Act::Say("452 4.5.3 too many recipients".to_owned()))
    })
    .await;
    let mailer = mailer(&fake, operator());
    let to = ["a@acme.test", "b@acme.test", "c@acme.test", "d@acme.test", "e@acme.test"];
    let sent = send(&mailer, &account(Tls::None), &to).await.unwrap();
    assert_eq!(sent.accepted, to);
    let envelopes: Vec<usize> = fake.mails().iter().map(|mail| mail.to.len()).collect();
    assert_eq!(envelopes, [2, 2, 1]);
}

#[tokio::test]
async fn what_the_server_says_is_what_is_reported() {
    use FailureKind::{Deferred, Login, Other, RateLimited, RefusedMessage, RefusedRecipient, RefusedSender, Unreachable};
    for (command, reply, kind) in [
        ("<greeting>", "554 go away", Unreachable),
        ("<greeting>", "421 busy", Deferred),
        ("EHLO", "500 what", Other),
        ("AUTH", "535 5.7.8 wrong", Login),
        ("AUTH", "454 4.7.0 down", Deferred),
        ("MAIL", "550 5.7.1 not you", RefusedSender),
        ("MAIL", "552 too big", RefusedMessage),
        ("MAIL", "421 closing", Deferred),
        ("RCPT", "550-5.1.1 no\r\n550 5.1.1 such user", RefusedRecipient),
        ("RCPT", "421 4.7.0 slow down", RateLimited),
        ("DATA", "451 no disk", Deferred),
        ("DATA", "250 odd", Other),
        ("<dot>", "552 5.3.4 too big", RefusedMessage),
        ("<dot>", "554 5.7.1 spam", RefusedMessage),
        ("<dot>", "451 4.3.0 later", Deferred),
    ] {
        let fake = rude(command, Act::Say(reply.to_owned())).await;
        let mailer = mailer(&fake, operator());
        let failure = send(&mailer, &with_login(Tls::None), &["a@acme.test"]).await.unwrap_err();
        assert_eq!((failure.kind, failure.maybe_sent), (kind, false), "{command} {reply}: {failure}");
        assert_eq!(failure.code, reply[..3].parse().ok(), "{command} {reply}");
        assert_eq!(fake.connections(), 1, "{command} {reply}");
    }
}

#[tokio::test]
async fn a_lost_connection_is_unsure_only_after_the_final_dot() {
    for (command, maybe_sent) in
        [("<greeting>", false), ("EHLO", false), ("AUTH", false), ("MAIL", false), ("RCPT", false), ("DATA", false), ("<dot>", true)]
    {
        for act in [Act::Close, Act::Silence, Act::Say("HTTP/1.1 200 OK".to_owned()), Act::SayAndClose("250-half".to_owned())] {
            let fake = rude(command, act.clone()).await;
            let mailer = mailer(&fake, impatient());
            let failure = send(&mailer, &with_login(Tls::None), &["a@acme.test"]).await.unwrap_err();
            assert_eq!((failure.kind, failure.maybe_sent), (FailureKind::Unreachable, maybe_sent), "{command} {act:?}: {failure}");
            assert_eq!((fake.connections(), mailer.kept()), (1, 0), "{command} {act:?}");
        }
    }
    // An answer that makes no sense after the dot says nothing about the message either.
    let fake = rude("<dot>", Act::Say("354 go on".to_owned())).await;
    let failure = send(&mailer(&fake, operator()), &account(Tls::None), &["a@acme.test"]).await.unwrap_err();
    assert!(failure.maybe_sent);
}

#[tokio::test]
async fn a_server_that_hangs_up_amid_a_large_body_has_nothing() {
    let fake = rude("DATA", Act::SayAndClose("354 go on".to_owned())).await;
    let file = Attachment { name: "a.bin".to_owned(), content_type: "application/x-odd".to_owned(), data: vec![7; 6 << 20] };
    let large = Message { attachments: vec![file], ..message(&["a@acme.test"]) };
    let mailed = mailer(&fake, operator()).send(&account(Tls::None), large, "dlv_1", soon()).await;
    let failure = mailed.result.unwrap_err();
    assert_eq!((failure.kind, failure.maybe_sent), (FailureKind::Unreachable, false), "{failure}");
}

#[tokio::test]
async fn slow_and_many_lined_answers_are_fine() {
    let fake = Fake::start(Setup::default(), |_, line| match line {
        "<greeting>" => Some(Act::Dribble("220-hello\r\n220-this is\r\n220 a long greeting".to_owned())),
        "EHLO host.test" => Some(Act::Dribble("250-fake\r\n250-SIZE 5000\r\n250 HELP".to_owned())),
        "<dot>" => Some(Act::Dribble("250-2.0.0 taken\r\n250 thank you".to_owned())),
        _ => None,
    })
    .await;
    assert!(send(&mailer(&fake, operator()), &account(Tls::None), &["a@acme.test"]).await.is_ok());
}

#[tokio::test]
async fn the_deadline_of_the_call_cuts_every_wait() {
    let fake = rude("RCPT", Act::Silence).await;
    let started = Instant::now();
    let deadline = started + Duration::from_millis(200);
    let mailed = mailer(&fake, operator()).send(&account(Tls::None), message(&["a@acme.test"]), "dlv_1", deadline).await;
    assert_eq!(mailed.result.unwrap_err().kind, FailureKind::Unreachable);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn no_message_is_begun_that_cannot_be_waited_for() {
    let fake = Fake::start(Setup::default(), |_, _| None).await;
    let operator = Operator { timeouts: Timeouts { reserve: Duration::from_secs(60), ..Timeouts::default() }, ..operator() };
    let failure = send(&mailer(&fake, operator), &account(Tls::None), &["a@acme.test"]).await.unwrap_err();
    assert_eq!((failure.kind, failure.maybe_sent), (FailureKind::Deferred, false));
    assert!(fake.mails().is_empty() && !fake.commands(0).contains(&"DATA".to_owned()));
}

#[tokio::test]
async fn the_server_s_size_limit_is_kept() {
    let fake = Fake::start(Setup { features: vec!["SIZE 100"], ..Setup::default() }, |_, _| None).await;
    let failure = send(&mailer(&fake, operator()), &account(Tls::None), &["a@acme.test"]).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::RefusedMessage);
    assert!(failure.message.contains("takes 100"), "{failure}");
    assert!(!fake.commands(0).iter().any(|line| line.starts_with("MAIL")));
}

#[tokio::test]
async fn addresses_beyond_ascii_need_a_server_that_takes_them() {
    let to = ["иван@пример.рф", "a@acme.test"];
    let fake = Fake::start(Setup { features: vec!["8BITMIME"], ..Setup::default() }, |_, _| None).await;
    let sent = send(&mailer(&fake, operator()), &account(Tls::None), &to).await.unwrap();
    assert_eq!(sent.accepted, ["a@acme.test"]);
    assert_eq!((sent.refused[0].0.as_str(), sent.refused[0].1.kind), ("иван@пример.рф", FailureKind::RefusedRecipient));
    assert!(fake.mails()[0].data.is_ascii());

    let fake = Fake::start(Setup::default(), |_, _| None).await;
    let sent = send(&mailer(&fake, operator()), &account(Tls::None), &to).await.unwrap();
    assert_eq!(sent.accepted, to);
    assert!(fake.mails()[0].from.ends_with(" SMTPUTF8 BODY=8BITMIME"));
    assert!(fake.mails()[0].data.contains("иван@xn--e1afmkfd.xn--p1ai"));
}

#[tokio::test]
async fn logins_are_plain_or_login_and_tried_once() {
    let fake = Fake::start(Setup::default(), |_, _| None).await;
    assert!(send(&mailer(&fake, operator()), &with_login(Tls::None), &["a@acme.test"]).await.is_ok());
    assert!(fake.commands(0).contains(&"AUTH PLAIN AHJvYm90AHMzY3JldC1wYXNz".to_owned()));

    let fake = Fake::start(Setup { features: vec!["AUTH XOAUTH2 LOGIN"], ..Setup::default() }, |_, _| None).await;
    assert!(send(&mailer(&fake, operator()), &with_login(Tls::None), &["a@acme.test"]).await.is_ok());
    assert_eq!(fake.commands(0)[1..4], ["AUTH LOGIN", "cm9ib3Q=", "czNjcmV0LXBhc3M="]);

    for features in [vec!["AUTH XOAUTH2 CRAM-MD5"], vec![]] {
        let fake = Fake::start(Setup { features, ..Setup::default() }, |_, _| None).await;
        let failure = send(&mailer(&fake, operator()), &with_login(Tls::None), &["a@acme.test"]).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Login);
        assert_eq!(fake.commands(0).len(), 1);
    }

    let fake = rude("AUTH", Act::Say("535 5.7.8 wrong: AHJvYm90AHMzY3JldC1wYXNz is s3cret-pass".to_owned())).await;
    let mailed = mailer(&fake, operator()).send(&with_login(Tls::None), message(&["a@acme.test"]), "dlv_1", soon()).await;
    let failure = mailed.result.clone().unwrap_err();
    assert_eq!((failure.kind, failure.code), (FailureKind::Login, Some(535)));
    assert_eq!(fake.commands(0).iter().filter(|line| line.starts_with("AUTH")).count(), 1);
    assert!(failure.message.ends_with("535 5.7.8 wrong: *** is ***"), "{failure}");
    assert!(!format!("{mailed:?}").contains(PASSWORD));

    let nobody = Account { password: None, ..with_login(Tls::None) };
    assert_eq!(send(&mailer(&fake, operator()), &nobody, &["a@acme.test"]).await.unwrap_err().kind, FailureKind::NoCredential);
}

#[tokio::test]
async fn plain_text_and_odd_ports_need_the_operator() {
    let fake = Fake::start(Setup::default(), |_, _| None).await;
    let strict = Operator { allow_networks: Vec::new(), ..operator() };
    let failure = send(&mailer(&fake, strict.clone()), &account(Tls::None), &["a@acme.test"]).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Denied);
    assert_eq!(fake.connections(), 0);
    let port = Operator { extra_ports: vec![fake.address.port()], ..strict };
    let failure = send(&mailer(&fake, port.clone()), &with_login(Tls::None), &["a@acme.test"]).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Denied);
    assert!(fake.commands(0).is_empty());
    let plain = Operator { allow_plain: true, ..port };
    assert!(send(&mailer(&fake, plain), &account(Tls::None), &["a@acme.test"]).await.is_ok());
}

#[tokio::test]
async fn what_the_guard_denies_is_denied() {
    struct Never;
    #[async_trait]
    impl Resolve for Never {
        async fn resolve(&self, _host: &str, _port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
            Err(ResolveError::Denied("all addresses of mail.test are private".to_owned()))
        }
    }
    let failure = send(&Mailer::new(operator(), Arc::new(Never)), &account(Tls::None), &["a@acme.test"]).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Denied);
    let closed = To("127.0.0.1:1".parse().unwrap());
    let failure = send(&Mailer::new(operator(), Arc::new(closed)), &account(Tls::None), &["a@acme.test"]).await.unwrap_err();
    assert_eq!((failure.kind, failure.maybe_sent), (FailureKind::Unreachable, false));
}

#[tokio::test]
async fn both_ways_of_tls_lead_to_a_mail() {
    let (roots, acceptor) = tls("mail.test");
    for (how, implicit) in [(Tls::Implicit, true), (Tls::Starttls, false)] {
        // Before TLS the server offers nothing that may be believed.
        let features = if implicit { vec!["AUTH PLAIN"] } else { vec!["STARTTLS", "AUTH PLAIN"] };
        let fake = Fake::start(Setup { features, tls: Some(acceptor.clone()), implicit }, |_, _| None).await;
        let mailer = mailer(
            &fake,
            Operator { extra_roots_pem: roots.clone(), allow_networks: Vec::new(), extra_ports: vec![fake.address.port()], ..operator() },
        );
        assert!(send(&mailer, &with_login(how), &["a@acme.test"]).await.is_ok(), "{how:?}");
        let hellos = fake.commands(0).iter().filter(|line| line.starts_with("EHLO")).count();
        assert_eq!(hellos, if implicit { 1 } else { 2 });
    }
}

#[tokio::test]
async fn bad_certificates_and_stripped_tls_are_set_up_faults() {
    let (roots, right) = tls("mail.test");
    let (other_roots, _) = tls("mail.test");
    let (wrong_name_roots, wrong_name) = tls("other.test");
    let nothing = |_: usize, _: &str| None;
    let start = async |acceptor: &TlsAcceptor, implicit: bool| {
        Fake::start(Setup { features: vec!["STARTTLS"], tls: Some(acceptor.clone()), implicit }, nothing).await
    };
    for (fake, roots, how, wanted) in [
        (start(&right, true).await, &other_roots, Tls::Implicit, "invalid peer certificate"),
        (start(&wrong_name, true).await, &wrong_name_roots, Tls::Implicit, "other.test"),
        (start(&wrong_name, false).await, &wrong_name_roots, Tls::Starttls, "other.test"),
        // A server that speaks plain text where TLS is expected.
        (start(&right, false).await, &roots, Tls::Implicit, "does not speak TLS"),
        (Fake::start(Setup::default(), nothing).await, &roots, Tls::Starttls, "does not offer STARTTLS"),
        (rude("EHLO", Act::Say("250-x\r\n250 STARTTLS".to_owned())).await, &roots, Tls::Starttls, ""),
    ] {
        let mailer = mailer(&fake, Operator { extra_roots_pem: roots.clone(), ..impatient_tls() });
        let failure = send(&mailer, &with_login(how), &["a@acme.test"]).await.unwrap_err();
        let kinds = if wanted.is_empty() { vec![FailureKind::Tls, FailureKind::Unreachable] } else { vec![FailureKind::Tls] };
        assert!(kinds.contains(&failure.kind), "{failure:?}");
        assert!(failure.message.contains(wanted), "{failure}");
        assert!(!fake.commands(0).iter().any(|line| line.starts_with("AUTH")), "the login must not go out");
    }
}

fn impatient_tls() -> Operator {
    Operator { timeouts: Timeouts { tls: Duration::from_secs(2), ..operator().timeouts }, ..operator() }
}

#[tokio::test]
async fn text_between_starttls_and_tls_ends_the_connection() {
    let (roots, acceptor) = tls("mail.test");
    let setup = Setup { features: vec!["STARTTLS"], tls: Some(acceptor), implicit: false };
    let fake =
        Fake::start(setup.clone(), |_, line| (line == "STARTTLS").then(|| Act::Say("220 go\r\n250-evil\r\n250 AUTH PLAIN".to_owned())))
            .await;
    let mailer_ = mailer(&fake, Operator { extra_roots_pem: roots.clone(), ..operator() });
    let failure = send(&mailer_, &with_login(Tls::Starttls), &["a@acme.test"]).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Tls);
    for (reply, kind) in [("454 4.7.0 not now", FailureKind::Deferred), ("502 no", FailureKind::Tls)] {
        let fake = Fake::start(setup.clone(), move |_, line| (line == "STARTTLS").then(|| Act::Say(reply.to_owned()))).await;
        let mailer = mailer(&fake, Operator { extra_roots_pem: roots.clone(), ..operator() });
        assert_eq!(send(&mailer, &with_login(Tls::Starttls), &["a@acme.test"]).await.unwrap_err().kind, kind);
    }
}

#[tokio::test]
async fn an_answer_nobody_asked_for_is_not_taken_for_success() {
    // The second line would be read as the answer to the final dot.
    let fake = rude("DATA", Act::Say("354 go on\r\n250 queued".to_owned())).await;
    let failure = send(&mailer(&fake, operator()), &account(Tls::None), &["a@acme.test"]).await.unwrap_err();
    assert_eq!((failure.kind, failure.maybe_sent), (FailureKind::Unreachable, false), "{failure}");
}

#[tokio::test]
async fn connections_are_used_again_and_by_their_owner_only() {
    let fake = Fake::start(Setup::default(), |_, _| None).await;
    let mailer = mailer(&fake, Operator { max_mails: 3, ..operator() });
    for _ in 0..3 {
        send(&mailer, &with_login(Tls::None), &["a@acme.test"]).await.unwrap();
    }
    assert_eq!((fake.connections(), mailer.kept()), (1, 0), "after three mails the connection has done its share");
    assert_eq!(fake.commands(0).last().unwrap(), "QUIT");
    send(&mailer, &with_login(Tls::None), &["a@acme.test"]).await.unwrap();
    send(&mailer, &account(Tls::None), &["a@acme.test"]).await.unwrap();
    let changed = Account { password: Some(Arc::new(SecretText::new("new".to_owned()))), ..with_login(Tls::None) };
    send(&mailer, &changed, &["a@acme.test"]).await.unwrap();
    assert_eq!((fake.connections(), mailer.kept()), (4, 3));
    mailer.close().await;
    assert_eq!(mailer.kept(), 0);
    assert_eq!(fake.commands(3).last().unwrap(), "QUIT");
}

#[tokio::test]
async fn no_more_than_the_allowed_connections_are_kept_and_not_for_ever() {
    let fake = Fake::start(Setup::default(), |_, _| None).await;
    let mailer = mailer(&fake, Operator { max_idle: 2, ..operator() });
    let account = account(Tls::None);
    let many = (0..5).map(|_| send(&mailer, &account, &["a@acme.test"]));
    for sent in futures_util::future::join_all(many).await {
        sent.unwrap();
    }
    assert_eq!((fake.mails().len(), mailer.kept()), (5, 2));
    let forgetful = self::mailer(&fake, Operator { idle: Duration::ZERO, ..operator() });
    send(&forgetful, &account, &["a@acme.test"]).await.unwrap();
    let before = fake.connections();
    send(&forgetful, &account, &["a@acme.test"]).await.unwrap();
    assert_eq!(fake.connections(), before + 1);
}

#[tokio::test]
async fn the_end_of_the_host_is_a_polite_one() {
    let fake = Fake::start(Setup::default(), |_, _| None).await;
    let mailer = mailer(&fake, operator());
    send(&mailer, &account(Tls::None), &["a@acme.test"]).await.unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    stop.cancel();
    mailer.tend(stop).await;
    assert_eq!(mailer.kept(), 0);
    assert_eq!(fake.commands(0).last().unwrap(), "QUIT");
}

#[tokio::test]
async fn a_server_that_closes_kept_connections_loses_and_doubles_nothing() {
    // The first connection takes one mail and then is rude at each possible moment.
    for command in ["RSET", "MAIL", "RCPT", "DATA"] {
        for act in [Act::Say("421 4.4.2 idle too long".to_owned()), Act::SayAndClose("421 closing".to_owned()), Act::Close] {
            let (seen, rudeness) = (Arc::new(AtomicUsize::new(0)), act.clone());
            let fake = Fake::start(Setup::default(), move |connection, line| {
                let hit =
                    connection == 0 && line.starts_with(command) && seen.fetch_add(1, Ordering::SeqCst) >= usize::from(command != "RSET");
                hit.then(|| rudeness.clone())
            })
            .await;
            let mailer = mailer(&fake, operator());
            send(&mailer, &account(Tls::None), &["a@acme.test"]).await.unwrap();
            send(&mailer, &account(Tls::None), &["b@acme.test"]).await.unwrap();
            let mails: Vec<_> = fake.mails().into_iter().map(|mail| (mail.connection, mail.to.concat())).collect();
            assert_eq!(mails, [(0, "RCPT TO:<a@acme.test>".to_owned()), (1, "RCPT TO:<b@acme.test>".to_owned())], "{command} {act:?}");
        }
    }
    // After the final dot nothing is tried again: the mail may be there.
    let seen = AtomicUsize::new(0);
    let fake =
        Fake::start(Setup::default(), move |_, line| (line == "<dot>" && seen.fetch_add(1, Ordering::SeqCst) == 1).then_some(Act::Close))
            .await;
    let mailer = mailer(&fake, operator());
    send(&mailer, &account(Tls::None), &["a@acme.test"]).await.unwrap();
    let failure = send(&mailer, &account(Tls::None), &["b@acme.test"]).await.unwrap_err();
    assert!(failure.maybe_sent);
    assert_eq!((fake.mails().len(), fake.connections()), (2, 1));
}

#[tokio::test]
async fn greylisting_ends_in_one_mail_with_the_same_id() {
    let tries = AtomicUsize::new(0);
    let fake = Fake::start(Setup::default(), move |_, line| {
        (line.starts_with("RCPT") && tries.fetch_add(1, Ordering::SeqCst) == 0).then(|| Act::Say("450 4.7.1 greylisted".to_owned()))
    })
    .await;
    let mailer = mailer(&fake, operator());
    assert_eq!(send(&mailer, &account(Tls::None), &["a@acme.test"]).await.unwrap_err().kind, FailureKind::Deferred);
    let sent = send(&mailer, &account(Tls::None), &["a@acme.test"]).await.unwrap();
    assert_eq!(fake.mails().len(), 1);
    assert!(fake.mails()[0].data.contains(&format!("Message-ID: {}\r\n", sent.message_id)));
}

#[tokio::test]
async fn a_probe_asks_and_sends_nothing() {
    let (roots, acceptor) = tls("mail.test");
    let setup = Setup { features: vec!["SIZE 1000", "AUTH PLAIN LOGIN"], tls: Some(acceptor), implicit: true };
    let fake = Fake::start(setup, |_, line| match line {
        "RCPT TO:<no@acme.test>" => say("550 5.1.1 unknown"),
        "RCPT TO:<later@acme.test>" => say("450 greylisted"),
        _ => None,
    })
    .await;
    let mailer = mailer(&fake, Operator { extra_roots_pem: roots, ..operator() });
    let to = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let report = mailer.probe(&with_login(Tls::Implicit), &to(&["a@acme.test", "later@acme.test"]), soon()).await.unwrap();
    let text: Vec<String> = report.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    for wanted in [
        "tls: implicit, version 1.3, certificate valid for mail.test",
        "login: accepted with PLAIN",
        "login.offered: PLAIN LOGIN",
        "size: 1000 bytes",
        "smtputf8: no",
        "recipient a@acme.test: accepted: 250 ok",
        "recipient later@acme.test: for now refused: 450 greylisted",
    ] {
        assert!(text.iter().any(|line| line == wanted), "{wanted} is not in {text:?}");
    }
    let commands = fake.commands(0);
    assert_eq!(commands[commands.len() - 2..], ["RSET", "QUIT"]);
    assert!(!commands.contains(&"DATA".to_owned()));
    let failure = mailer.probe(&with_login(Tls::Implicit), &to(&["no@acme.test"]), soon()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::RefusedRecipient);
    assert!(failure.message.contains("no@acme.test"), "{failure}");
}

#[tokio::test]
async fn nothing_of_a_hostile_lead_becomes_a_command() {
    let fake = Fake::start(Setup::default(), |_, _| None).await;
    let mailer = mailer(&fake, operator());
    let evil = "x\r\n.\r\nMAIL FROM:<evil@evil.test>\r\nRCPT TO:<victim@evil.test>\r\nDATA\r\nSubject: two\r\n\r\n.\r\n";
    let message = Message {
        to: vec!["a@acme.test".to_owned(), format!("a@acme.test>{evil}"), evil.to_owned()],
        cc: vec![format!("\"{evil}\" <b@acme.test>")],
        reply_to: Some(format!("c@acme.test{evil}")),
        subject: evil.to_owned(),
        text: Some(evil.to_owned()),
        html: Some(evil.replace("\r\n", "\n")),
        headers: vec![("X-Lead-ID".to_owned(), evil.to_owned())],
        attachments: vec![Attachment { name: evil.to_owned(), content_type: evil.to_owned(), data: evil.into() }],
        ..Message::default()
    };
    let sent = mailer.send(&account(Tls::None), message, evil, soon()).await.result.unwrap();
    assert_eq!(sent.accepted, ["a@acme.test"]);
    let words: Vec<String> = fake.commands(0).iter().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(words, ["EHLO", "MAIL", "RCPT", "DATA"]);
    assert_eq!(fake.mails().len(), 1);
}
