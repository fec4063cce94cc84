//! Mail against real servers: aiosmtpd, which reads each mail with Python's own parser, and Debian's Postfix in
//! front of it. `tests/setup/venv.sh` and `tests/setup/mail.sh` install them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test fails as the test itself does")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use leadwire::mail::{Account, Attachment, FailureKind, Mailer, Message, Operator, Resolve, ResolveError, Tls};
use leadwire::secrets::SecretText;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, timeout};

const PASSWORD: &str = "s3cret-pass";
const PATIENCE: Duration = Duration::from_secs(30);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A mail as aiosmtpd and Python's `email` saw it.
#[derive(Debug, Deserialize)]
struct Received {
    from: String,
    envelope: Vec<String>,
    utf8: bool,
    /// By STARTTLS.
    tls: bool,
    login: bool,
    mail: Parsed,
}

#[derive(Debug, Deserialize)]
struct Parsed {
    headers: Vec<(String, String)>,
    to: Vec<String>,
    reply_to: Vec<String>,
    #[serde(rename = "type")]
    kind: String,
    parts: Vec<Part>,
    defects: Vec<String>,
    bare_line_ends: u32,
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    charset: Option<String>,
    name: Option<String>,
    text: Option<String>,
    bytes: usize,
}

impl Parsed {
    fn header(&self, name: &str) -> &str {
        let found: Vec<&str> =
            self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect();
        assert_eq!(found.len(), 1, "{name} in {:?}", self.headers);
        found[0]
    }

    fn names(&self) -> BTreeMap<String, usize> {
        let mut names = BTreeMap::new();
        for (name, _) in &self.headers {
            *names.entry(name.to_ascii_lowercase()).or_default() += 1;
        }
        names
    }
}

/// aiosmtpd in a process of its own; ends when its standard input is closed.
struct Receiver {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl Receiver {
    async fn start(args: &[&str]) -> Self {
        let python = root().join(".venv/bin/python");
        assert!(python.exists(), "aiosmtpd is not installed: run tests/setup/venv.sh (cargo xtask test does)");
        let mut child = Command::new(python)
            .arg(root().join("tests/setup/mail/receiver.py"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.expect("aiosmtpd starts").unwrap().expect("aiosmtpd tells its port");
        let port = serde_json::from_str::<serde_json::Value>(&line).unwrap()["port"].as_u64().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
        Self { _child: child, lines, address }
    }

    async fn next(&mut self) -> Received {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("a mail arrives").unwrap().expect("aiosmtpd runs");
        serde_json::from_str(&line).unwrap()
    }
}

/// A certificate for `mail.test` in files, and the authority that signed it.
struct Certificate {
    dir: TempDir,
    roots: String,
}

impl Certificate {
    fn new() -> Self {
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["mail.test".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("cert.pem"), cert.pem()).unwrap();
        fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        fs::set_permissions(dir.path().join("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
        Self { dir, roots: ca.pem() }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }
}

struct To(SocketAddr);

#[async_trait::async_trait]
impl Resolve for To {
    async fn resolve(&self, _host: &str, _port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        Ok(vec![self.0])
    }
}

fn mailer(address: SocketAddr, roots: &str) -> Mailer {
    let operator = Operator {
        ehlo_name: "leadwire.test".to_owned(),
        allow_networks: vec!["127.0.0.0/8".parse().unwrap()],
        extra_roots_pem: roots.to_owned(),
        ..Operator::default()
    };
    Mailer::new(operator, Arc::new(To(address)))
}

fn account(tls: Tls, password: Option<&str>) -> Account {
    Account {
        host: "mail.test".to_owned(),
        port: 587,
        tls,
        username: password.map(|_| "robot".to_owned()),
        password: password.map(|text| Arc::new(SecretText::new(text.to_owned()))),
        from: "Заявки <leads@acme.test>".to_owned(),
    }
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

fn message(to: &[&str]) -> Message {
    Message {
        to: to.iter().map(|text| (*text).to_owned()).collect(),
        subject: "Новая заявка: Иван 😀".to_owned(),
        text: Some("Имя: Иван\n.\n..two\nend".to_owned()),
        html: Some("<p>Имя: <b>Иван</b></p>".to_owned()),
        reply_to: Some("lead@example.com".to_owned()),
        ..Message::default()
    }
}

/// What every mail of ours must look like to a reader.
fn assert_well_formed(received: &Received, more: &[&str]) {
    let mail = &received.mail;
    assert!(mail.defects.is_empty(), "{:?}", mail.defects);
    assert_eq!(mail.bare_line_ends, 0);
    let expected = ["message-id", "date", "from", "to", "subject", "auto-submitted", "mime-version", "content-type"];
    let mut names = mail.names();
    for name in expected.iter().chain(more) {
        assert_eq!(names.remove(*name), Some(1), "{name} in {:?}", mail.headers);
    }
    names.remove("content-transfer-encoding");
    names.remove("received");
    assert!(names.is_empty(), "{names:?}");
    assert_eq!(mail.header("Auto-Submitted"), "auto-generated");
    assert_eq!(received.from, "leads@acme.test");
}

#[tokio::test]
async fn a_reader_sees_the_mail_as_it_was_meant() {
    let mut receiver = Receiver::start(&["--refuse", "no@acme.test"]).await;
    let mailer = mailer(receiver.address, "");
    let message = Message {
        cc: vec!["\"Smith, Ann\" <ann@пример.рф>".to_owned(), "no@acme.test".to_owned()],
        bcc: vec!["hidden@acme.test".to_owned()],
        attachments: vec![Attachment {
            name: "данные.csv".to_owned(), content_type: "text/csv".to_owned(), data: b"a;b\n1;2\n".to_vec()
        }],
        headers: vec![("X-Entity-Ref-ID".to_owned(), "lead_1".to_owned())],
        ..message(&["Борис <boris@acme.test>"])
    };
    let sent = mailer.send(&account(Tls::None, None), message, "dlv_1", soon()).await.result.unwrap();
    assert_eq!(sent.accepted, ["Борис <boris@acme.test>", "\"Smith, Ann\" <ann@пример.рф>", "hidden@acme.test"]);
    assert_eq!(sent.refused.len(), 1);
    assert_eq!((sent.refused[0].0.as_str(), sent.refused[0].1.kind), ("no@acme.test", FailureKind::RefusedRecipient));

    let received = receiver.next().await;
    assert_well_formed(&received, &["cc", "reply-to", "x-entity-ref-id"]);
    assert_eq!(received.envelope, ["boris@acme.test", "ann@xn--e1afmkfd.xn--p1ai", "hidden@acme.test"]);
    let mail = &received.mail;
    assert_eq!(mail.header("Message-ID"), sent.message_id);
    assert_eq!(mail.header("Subject"), "Новая заявка: Иван 😀");
    assert_eq!(mail.header("From"), "Заявки <leads@acme.test>");
    assert_eq!(mail.header("To"), "Борис <boris@acme.test>");
    assert_eq!(mail.header("Cc"), "\"Smith, Ann\" <ann@xn--e1afmkfd.xn--p1ai>, no@acme.test");
    assert_eq!(mail.reply_to, ["lead@example.com"]);
    let parts: Vec<&str> = mail.parts.iter().map(|part| part.kind.as_str()).collect();
    assert_eq!(parts, ["text/plain", "text/html", "text/csv"]);
    assert_eq!(mail.parts[0].charset.as_deref(), Some("utf-8"));
    assert_eq!(mail.parts[0].text.as_deref().unwrap().trim_end(), "Имя: Иван\r\n.\r\n..two\r\nend");
    assert_eq!(mail.parts[1].text.as_deref().unwrap().trim_end(), "<p>Имя: <b>Иван</b></p>");
    assert_eq!((mail.parts[2].name.as_deref(), mail.parts[2].bytes), (Some("данные.csv"), 8));
}

#[tokio::test]
async fn hostile_leads_stay_text_for_a_reader_too() {
    let mut receiver = Receiver::start(&[]).await;
    let mailer = mailer(receiver.address, "");
    let account = account(Tls::None, None);
    let long = "слово".repeat(400);
    let texts = [
        "x\r\nBcc: victim@evil.test",
        "\r\n.\r\nMAIL FROM:<evil@evil.test>\r\n",
        "=?utf-8?B?DQpCY2M6IHZpY3RpbUBldmlsLnRlc3Q=?=",
        "=?utf-8?q?=0D=0ABcc:_x@evil.test?=",
        ".",
        "a\0b",
        "\u{202e}gnp.exe",
        "😀😀😀",
        "<script>alert(1)</script>",
        "\"quoted\" \\ <a@b.test>, c",
        &long,
        "",
    ];
    for text in texts {
        let hostile = Message {
            cc: vec![format!("{text} <cc@acme.test>"), text.to_owned()],
            reply_to: Some(text.to_owned()),
            subject: text.to_owned(),
            text: Some(text.to_owned()),
            html: Some(text.to_owned()),
            headers: vec![("X-Lead-ID".to_owned(), text.to_owned())],
            attachments: vec![Attachment { name: text.to_owned(), content_type: text.to_owned(), data: text.as_bytes().to_vec() }],
            ..message(&["anna@acme.test"])
        };
        let sent = mailer.send(&account, hostile, "dlv_1", soon()).await.result.unwrap();
        assert_eq!(sent.accepted[0], "anna@acme.test", "{text:?}");
        let received = receiver.next().await;
        assert!(received.envelope.iter().all(|to| to == "anna@acme.test" || to == "cc@acme.test"), "{text:?}: {:?}", received.envelope);
        let mail = &received.mail;
        assert_eq!(mail.to, ["anna@acme.test"], "{text:?}");
        let known = ["message-id", "date", "from", "to", "cc", "subject", "auto-submitted", "x-lead-id", "mime-version", "content-type"];
        for (name, count) in mail.names() {
            assert!(known.contains(&name.as_str()) && count == 1, "{text:?}: {name}");
        }
        assert!(!mail.header("Subject").contains(['\r', '\n', '\0', '\u{202e}']), "{text:?}");
        assert!(mail.defects.is_empty() && mail.bare_line_ends == 0, "{text:?}: {:?}", mail.defects);
        assert_eq!(mail.parts.len(), 3, "{text:?}");
        assert_eq!(mail.parts[2].bytes, text.len(), "{text:?}");
        assert_eq!(mail.kind, "multipart/mixed");
    }
    // What a reader sees of a subject that looks like an encoded word is that very text.
    mailer
        .send(&account, Message { subject: "=?utf-8?q?hi?=".to_owned(), ..message(&["a@acme.test"]) }, "dlv_2", soon())
        .await
        .result
        .unwrap();
    assert_eq!(receiver.next().await.mail.header("Subject"), "=?utf-8?q?hi?=");
}

#[tokio::test]
async fn aiosmtpd_with_tls_and_login() {
    let certificate = Certificate::new();
    let (cert, key) = (certificate.path("cert.pem"), certificate.path("key.pem"));
    let login = format!("robot:{PASSWORD}");
    for (tls, extra) in [(Tls::Starttls, None), (Tls::Implicit, Some("--implicit"))] {
        let mut args = vec!["--cert", &cert, "--key", &key, "--login", &login, "--size", "20000"];
        args.extend(extra);
        let mut receiver = Receiver::start(&args).await;
        let mailer_ = mailer(receiver.address, &certificate.roots);
        for _ in 0..2 {
            mailer_.send(&account(tls, Some(PASSWORD)), message(&["anna@acme.test"]), "dlv_1", soon()).await.result.unwrap();
            let received = receiver.next().await;
            assert_well_formed(&received, &["reply-to"]);
            assert!(received.login && received.tls == (tls == Tls::Starttls), "{tls:?}");
        }
        let report = mailer_.probe(&account(tls, Some(PASSWORD)), &["anna@acme.test".to_owned()], soon()).await.unwrap();
        assert!(report.iter().any(|(name, value)| name == "tls" && value.contains("version 1.3")), "{report:?}");
        assert!(report.iter().any(|(name, value)| name == "size" && value == "20000 bytes"), "{report:?}");

        let failure = mailer_.send(&account(tls, Some("wrong")), message(&["anna@acme.test"]), "dlv_1", soon()).await.result.unwrap_err();
        assert_eq!((failure.kind, failure.code), (FailureKind::Login, Some(535)));
        let large = Message { text: Some("word ".repeat(10_000)), ..message(&["anna@acme.test"]) };
        let failure = mailer_.send(&account(tls, Some(PASSWORD)), large, "dlv_1", soon()).await.result.unwrap_err();
        assert_eq!(failure.kind, FailureKind::RefusedMessage);
        let stranger = mailer(receiver.address, "");
        let failure = stranger.send(&account(tls, Some(PASSWORD)), message(&["anna@acme.test"]), "dlv_1", soon()).await.result.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Tls, "{failure}");
    }
}

#[tokio::test]
async fn cyrillic_mailboxes_go_only_where_they_are_taken() {
    let to = ["иван@пример.рф", "anna@acme.test"];
    let mut modern = Receiver::start(&["--utf8"]).await;
    let sent = mailer(modern.address, "").send(&account(Tls::None, None), message(&to), "dlv_1", soon()).await.result.unwrap();
    assert_eq!(sent.accepted, to);
    let received = modern.next().await;
    assert!(received.utf8);
    assert_eq!(received.envelope, ["иван@xn--e1afmkfd.xn--p1ai", "anna@acme.test"]);

    let mut old = Receiver::start(&[]).await;
    let sent = mailer(old.address, "").send(&account(Tls::None, None), message(&to), "dlv_1", soon()).await.result.unwrap();
    assert_eq!(sent.accepted, ["anna@acme.test"]);
    let received = old.next().await;
    assert!(!received.utf8);
    assert_well_formed(&received, &["reply-to"]);
}

/// Postfix with a configuration, a queue and a password file of its own. It hands each mail on to a [`Receiver`].
struct Postfix {
    _child: Child,
    _log: tokio::task::JoinHandle<()>,
    _dir: TempDir,
    implicit: SocketAddr,
    starttls: SocketAddr,
    plain: SocketAddr,
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn run(program: &str, args: &[&str], input: &str) {
    let mut child = Command::new(program).args(args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    assert!(child.wait().await.unwrap().success(), "{program} {args:?}");
}

impl Postfix {
    async fn start(certificate: &Certificate, onward: SocketAddr) -> Self {
        for needed in ["/usr/sbin/postfix", "/usr/sbin/saslpasswd2"] {
            assert!(Path::new(needed).exists(), "Postfix is not installed: run tests/setup/mail.sh as root (cargo xtask test does)");
        }
        let dir = TempDir::new().unwrap();
        let path = dir.path().to_str().unwrap().to_owned();
        // Postfix works under its own user.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["etc", "queue", "data", "etc/sasl"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let ports = [free_port(), free_port(), free_port()];
        let fill = |text: &str| {
            let text = text.replace("@DIR@", &path).replace("@ONWARD@", &onward.port().to_string());
            let text = text.replace("@CERT@", &certificate.path("cert.pem")).replace("@KEY@", &certificate.path("key.pem"));
            ["@IMPLICIT@", "@STARTTLS@", "@PLAIN@"].iter().zip(ports).fold(text, |text, (mark, port)| text.replace(mark, &port.to_string()))
        };
        let setup = root().join("tests/setup/mail/postfix");
        for (from, to) in [("main.cf", "etc/main.cf"), ("master.cf", "etc/master.cf"), ("sasl.conf", "etc/sasl/smtpd.conf")] {
            fs::write(dir.path().join(to), fill(&fs::read_to_string(setup.join(from)).unwrap())).unwrap();
        }
        run("/usr/sbin/saslpasswd2", &["-p", "-c", "-f", &format!("{path}/sasldb2"), "-u", "mail.test", "robot"], PASSWORD).await;
        run("chown", &["postfix", &format!("{path}/data"), &format!("{path}/sasldb2")], "").await;
        // The shell is told the server's process id and ends the server when this process is gone, whichever way it went.
        let script = "postfix -c \"$0/etc\" start-fg </dev/null & read -r pid; read -r _; kill \"${pid:-$!}\"; wait";
        let mut child = Command::new("sh")
            .args(["-c", script, &path])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = String::new();
        let ready = async {
            while let Ok(Some(line)) = log.next_line().await {
                if line.contains("daemon started") {
                    // `… postfix/master[123]: daemon started …`
                    return line.split(['[', ']']).nth(1).map(str::to_owned);
                }
                seen.push_str(&line);
                seen.push('\n');
            }
            None
        };
        let Ok(Some(pid)) = timeout(PATIENCE, ready).await else { panic!("Postfix did not start (it needs root):\n{seen}") };
        child.stdin.as_mut().unwrap().write_all(format!("{pid}\n").as_bytes()).await.unwrap();
        // The log must be read on, or the server would wait for a reader some day.
        let log = tokio::spawn(async move {
            while let Ok(Some(line)) = log.next_line().await {
                tracing::debug!("{line}");
            }
        });
        let [implicit, starttls, plain] = ports;
        Self { _child: child, _log: log, _dir: dir, implicit, starttls, plain }
    }
}

#[tokio::test]
async fn postfix_takes_our_mail_and_hands_it_on_unharmed() {
    let certificate = Certificate::new();
    let mut receiver = Receiver::start(&[]).await;
    let server = Postfix::start(&certificate, receiver.address).await;
    for (address, tls, password) in [
        (server.implicit, Tls::Implicit, Some(PASSWORD)),
        (server.starttls, Tls::Starttls, Some(PASSWORD)),
        (server.plain, Tls::None, None),
    ] {
        let mailer = mailer(address, &certificate.roots);
        let account = account(tls, password);
        for _ in 0..2 {
            let item = format!("dlv_{}", uuid::Uuid::now_v7().simple());
            let sent = mailer.send(&account, message(&["anna@acme.test", "not one"]), &item, soon()).await.result.unwrap();
            assert_eq!(sent.message_id, format!("<{item}@acme.test>"));
            let received = receiver.next().await;
            assert_eq!(received.mail.header("Message-ID"), sent.message_id);
            assert_well_formed(&received, &["reply-to"]);
            assert_eq!(received.envelope, ["anna@acme.test"]);
            assert_eq!(received.mail.parts[0].text.as_deref().unwrap().trim_end(), "Имя: Иван\r\n.\r\n..two\r\nend");
        }
        let report = mailer.probe(&account, &["anna@acme.test".to_owned()], soon()).await.unwrap();
        assert!(report.iter().any(|(name, value)| name.starts_with("recipient") && value.starts_with("accepted: 250")), "{report:?}");
    }

    // Without a login it relays to its own domain only, recipient by recipient.
    let open = mailer(server.plain, "");
    let sent =
        open.send(&account(Tls::None, None), message(&["anna@acme.test", "a@elsewhere.test"]), "dlv_x", soon()).await.result.unwrap();
    assert_eq!(sent.accepted, ["anna@acme.test"]);
    assert_eq!(sent.refused[0].1.kind, FailureKind::RefusedRecipient);
    let secure = mailer(server.implicit, &certificate.roots);
    let failure =
        secure.send(&account(Tls::Implicit, Some("wrong")), message(&["anna@acme.test"]), "dlv_x", soon()).await.result.unwrap_err();
    assert_eq!((failure.kind, failure.code), (FailureKind::Login, Some(535)));
}
