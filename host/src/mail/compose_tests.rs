//! No text, wherever it stands, may add a header, a recipient or a second message, or stop the host.

use super::*;
use crate::mail::Tls;

fn account() -> Account {
    Account {
        host: "mail.test".to_owned(),
        port: 587,
        tls: Tls::Starttls,
        username: None,
        password: None,
        from: "Заявки <leads@acme.test>".to_owned(),
    }
}

fn draft(message: Message) -> Result<Draft, Failure> {
    Draft::new(&Operator::default(), &account(), message, "dlv_1")
}

fn written(message: Message) -> String {
    String::from_utf8(draft(message).unwrap().bytes(false).unwrap()).unwrap()
}

fn simple() -> Message {
    Message { to: vec!["a@acme.test".to_owned()], subject: "s".to_owned(), text: Some("t".to_owned()), ..Message::default() }
}

/// Unfolded headers of the top level, in order.
fn headers(mail: &str) -> Vec<(String, String)> {
    let head = mail.split("\r\n\r\n").next().unwrap();
    let unfolded = head.replace("\r\n ", " ").replace("\r\n\t", " ");
    unfolded
        .split("\r\n")
        .map(|line| line.split_once(": ").map(|(n, v)| (n.to_owned(), v.to_owned())).unwrap_or((line.to_owned(), String::new())))
        .collect()
}

fn header(mail: &str, name: &str) -> Option<String> {
    headers(mail).into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
}

/// Encoded words back to text.
fn decoded(value: &str) -> String {
    let mut out = String::new();
    for word in value.split(' ') {
        match word.strip_prefix("=?utf-8?B?").and_then(|rest| rest.strip_suffix("?=")) {
            Some(code) => out.push_str(&String::from_utf8(BASE64.decode(code).unwrap()).unwrap()),
            None => out.push_str(word),
        }
    }
    out
}

#[test]
fn the_usual_mail() {
    let message = Message {
        to: vec!["Анна <anna@пример.рф>".to_owned(), "b@acme.test".to_owned()],
        cc: vec!["\"Smith, C\" <c@acme.test>".to_owned()],
        bcc: vec!["hidden@acme.test".to_owned()],
        reply_to: Some("lead@example.com".to_owned()),
        subject: "Новая заявка: Иван".to_owned(),
        text: Some("Привет\r\nмир".to_owned()),
        html: Some("<p>Привет</p>".to_owned()),
        headers: vec![("x-entity-ref-id".to_owned(), "lead_1".to_owned())],
        ..Message::default()
    };
    let mail = written(message.clone());
    let names: Vec<String> = headers(&mail).into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "Message-ID",
            "From",
            "To",
            "Cc",
            "Reply-To",
            "Subject",
            "Auto-Submitted",
            "X-Entity-Ref-ID",
            "MIME-Version",
            "Date",
            "Content-Type"
        ]
    );
    assert_eq!(header(&mail, "Message-ID").unwrap(), "<dlv_1@acme.test>");
    assert_eq!(header(&mail, "To").unwrap(), "=?utf-8?B?0JDQvdC90LA=?= <anna@xn--e1afmkfd.xn--p1ai>, b@acme.test");
    assert_eq!(header(&mail, "Cc").unwrap(), "\"Smith, C\" <c@acme.test>");
    assert_eq!(decoded(&header(&mail, "Subject").unwrap()), "Новая заявка: Иван");
    assert!(!mail.contains("hidden"));
    let (text, html) = (mail.find("Content-Type: text/plain").unwrap(), mail.find("Content-Type: text/html").unwrap());
    assert!(text < html && header(&mail, "Content-Type").unwrap().starts_with("multipart/alternative"));
    let draft = draft(message).unwrap();
    let envelope: Vec<String> = draft.recipients.iter().map(|to| to.address.to_string()).collect();
    assert_eq!(envelope, ["anna@xn--e1afmkfd.xn--p1ai", "b@acme.test", "c@acme.test", "hidden@acme.test"]);
}

/// Texts a lead may hold. Each is put into each place.
fn hostile() -> Vec<String> {
    let mut texts: Vec<String> = [
        "x\r\nBcc: victim@evil.test",
        "x\nBcc: victim@evil.test",
        "x\rBcc: victim@evil.test",
        "x\r\n\r\nbody",
        "\r\n.\r\n",
        ".",
        "..",
        "\n.\n",
        "=?utf-8?B?DQpCY2M6IHZpY3RpbUBldmlsLnRlc3Q=?=",
        "=?utf-8?q?=0D=0ABcc:_x@y.test?=",
        "=?",
        "?=",
        "x\0y",
        "\0",
        "\u{b}\u{c}\u{85}\u{2028}\u{2029}z",
        "\u{202e}gnp.exe\u{202c}",
        "\u{feff}x",
        "😀😀😀",
        "👩‍👩‍👧‍👦",
        "Zoë \"quote\" <b>",
        "a@b.test, c@d.test",
        "\"",
        "\\",
        "\\\"",
        "\"\r\n",
        "<script>",
        "(comment)",
        "%0d%0aBcc: x@y.test",
        "\u{7f}",
        "\t",
        " ",
        "",
        "  x  ",
        "-- \n",
        "--boundary--",
        "From me",
        "\r",
        "\n",
        ";",
        "a; b=\"c\"",
        "../../etc/passwd",
        "C:\\x.txt",
    ]
    .map(str::to_owned)
    .to_vec();
    texts.extend([
        "x".repeat(2_000),
        "я".repeat(2_000),
        "😀".repeat(2_000),
        "x ".repeat(1_000),
        "я ".repeat(1_000),
        ".\r\n".repeat(500),
        "\r\n".repeat(500),
        "=?".repeat(500),
        " ".repeat(2_000),
    ]);
    texts
}

fn assert_harmless(mail: &str, what: &str) {
    check(mail.as_bytes(), false).unwrap_or_else(|why| panic!("{what}: {why}"));
    let allowed = [
        "Message-ID",
        "From",
        "To",
        "Cc",
        "Reply-To",
        "Subject",
        "Auto-Submitted",
        "X-Lead-ID",
        "References",
        "MIME-Version",
        "Date",
        "Content-Type",
        "Content-Transfer-Encoding",
    ];
    for (name, value) in headers(mail) {
        assert!(allowed.contains(&name.as_str()), "{what}: header {name}");
        if name == "Subject" || name == "X-Lead-ID" {
            assert!(!decoded(&value).chars().any(|c| c.is_control() || c == '\u{202e}'), "{what}: {value:?}");
        }
    }
    assert_eq!(header(mail, "Message-ID").unwrap(), "<dlv_1@acme.test>", "{what}");
    assert!(header(mail, "To").unwrap().contains("a@acme.test"), "{what}");
}

#[test]
fn hostile_text_is_harmless_in_every_place() {
    for text in hostile() {
        let places: [(&str, Message); 10] = [
            ("subject", Message { subject: text.clone(), ..simple() }),
            ("text", Message { text: Some(text.clone()), ..simple() }),
            ("html", Message { html: Some(text.clone()), ..simple() }),
            ("reply-to", Message { reply_to: Some(text.clone()), ..simple() }),
            ("reply-to name", Message { reply_to: Some(format!("{text} <r@acme.test>")), ..simple() }),
            ("to", Message { to: vec!["a@acme.test".to_owned(), text.clone()], ..simple() }),
            ("cc name", Message { cc: vec![format!("\"{text}\" <c@acme.test>")], ..simple() }),
            ("bcc", Message { bcc: vec![text.clone()], ..simple() }),
            (
                "header",
                Message { headers: vec![("X-Lead-ID".to_owned(), text.clone()), ("References".to_owned(), text.clone())], ..simple() },
            ),
            (
                "file",
                Message {
                    attachments: vec![Attachment { name: text.clone(), content_type: text.clone(), data: text.clone().into_bytes() }],
                    ..simple()
                },
            ),
        ];
        for (place, message) in places {
            let what = format!("{text:.60?} in {place}");
            let draft = draft(message).unwrap_or_else(|failure| panic!("{what}: {failure}"));
            let known = ["a@acme.test", "c@acme.test"];
            assert!(draft.recipients.iter().all(|to| known.contains(&to.address.to_string().as_str())), "{what}: {:?}", draft.recipients);
            let mail = String::from_utf8(draft.bytes(false).unwrap_or_else(|failure| panic!("{what}: {failure}"))).unwrap();
            assert_harmless(&mail, &what);
        }
    }
}

/// Pieces put together at random (with a fixed seed): what no list of cases thought of.
#[test]
fn random_mixtures_are_harmless_too() {
    let pieces = [
        "\r\n",
        "\n",
        "\r",
        "\0",
        "Bcc: x@evil.test",
        "=?utf-8?B?",
        "?=",
        ".",
        " ",
        "\t",
        "ж",
        "😀",
        "\u{202e}",
        "\"",
        "\\",
        "<",
        ">",
        "@",
        ",",
        ";",
        "a",
        "\u{2028}",
        "=",
        "longlonglonglonglonglonglonglonglong",
    ];
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    for _ in 0..400 {
        let mut text = || (0..next(40)).map(|_| pieces[next(pieces.len())]).collect::<String>();
        let message = Message {
            to: vec!["a@acme.test".to_owned(), text()],
            cc: vec![format!("{} <c@acme.test>", text())],
            reply_to: Some(format!("\"{}\" <r@acme.test>", text())),
            subject: text(),
            text: Some(text()),
            html: Some(text()),
            headers: vec![("X-Lead-ID".to_owned(), text())],
            attachments: vec![Attachment { name: text(), content_type: text(), data: text().into_bytes() }],
            ..Message::default()
        };
        let what = format!("{message:?}");
        assert_harmless(&written(message), &what);
    }
}

#[test]
fn bodies_come_out_as_they_went_in() {
    let mail = written(Message { text: Some(".\r\nline\rend\n".to_owned()), ..simple() });
    assert!(mail.contains("\r\n\r\n.\r\nline\r\nend\r\n"), "{mail}");
    let data: Vec<u8> = (0..=255).collect();
    let file =
        Attachment { name: "данные.bin".to_owned(), content_type: "Application/X-Data; name=x".to_owned(), data: data.clone() };
    let mail = written(Message { attachments: vec![file], ..simple() });
    assert!(mail.contains("Content-Type: application/x-data\r\n"), "{mail}");
    assert!(mail.replace("\r\n", "").contains(&BASE64.encode(&data)), "{mail}");
}

#[test]
fn the_host_s_headers_cannot_be_set() {
    for name in [
        "Bcc",
        "bcc",
        "From",
        "Sender",
        "Return-Path",
        "DKIM-Signature",
        "Received",
        "Message-ID",
        "Content-Type",
        "X-Evil",
        "X-Lead-ID\r\nBcc",
        "",
        "References: x",
    ] {
        let message = Message { headers: vec![(name.to_owned(), "x".to_owned())], ..simple() };
        assert_eq!(draft(message).unwrap_err().kind, FailureKind::Denied, "{name}");
    }
    let twice = Message { headers: vec![("x-lead-id".to_owned(), "1".to_owned()), ("X-LEAD-ID".to_owned(), "2".to_owned())], ..simple() };
    assert_eq!(header(&written(twice), "X-Lead-ID").unwrap(), "2");
}

#[test]
fn what_cannot_be_sent_is_refused_with_a_reason() {
    for (message, kind) in [
        (Message { to: vec![], ..simple() }, FailureKind::Invalid),
        (Message { to: vec!["nobody".to_owned()], ..simple() }, FailureKind::Invalid),
        (Message { text: None, ..simple() }, FailureKind::Invalid),
        (Message { only: Some(vec![]), ..simple() }, FailureKind::Invalid),
        (Message { only: Some(vec!["other@acme.test".to_owned()]), ..simple() }, FailureKind::Invalid),
        (Message { to: (0..101).map(|n| format!("a{n}@acme.test")).collect(), ..simple() }, FailureKind::OverLimit),
        (Message { text: Some("x".repeat(26 << 20)), ..simple() }, FailureKind::OverLimit),
    ] {
        assert_eq!(draft(message).unwrap_err().kind, kind);
    }
}

#[test]
fn a_retry_changes_the_envelope_and_not_the_headers() {
    let all = Message { to: vec!["a@acme.test".to_owned(), "Ben <B@Acme.test>".to_owned(), "bad one".to_owned()], ..simple() };
    let rest = Message { only: Some(vec!["Ben <B@Acme.test>".to_owned()]), ..all.clone() };
    let draft = draft(rest.clone()).unwrap();
    assert_eq!(draft.recipients.len(), 1);
    assert_eq!(draft.recipients[0].given, ["Ben <B@Acme.test>"]);
    assert!(draft.invalid.is_empty(), "what was refused before is not told again");
    assert_eq!(header(&written(rest), "To"), header(&written(all), "To"));
}

#[test]
fn one_person_in_two_lists_gets_one_mail() {
    let message = Message { to: vec!["A <a@acme.test>".to_owned()], cc: vec!["a@ACME.test".to_owned()], ..simple() };
    let draft = draft(message.clone()).unwrap();
    assert_eq!(draft.recipients.len(), 1);
    assert_eq!(draft.recipients[0].given, ["A <a@acme.test>", "a@ACME.test"]);
    assert!(header(&written(message), "Cc").is_none());
}

#[test]
fn only_hidden_recipients_stay_hidden() {
    let message = Message { to: vec![], bcc: vec!["h@acme.test".to_owned()], ..simple() };
    let mail = written(message);
    assert_eq!(header(&mail, "To").unwrap(), "undisclosed-recipients:;");
    assert!(!mail.contains("h@acme.test"));
}

#[test]
fn message_ids_are_stable_and_clean() {
    assert_eq!(message_id("dlv_01h455vb4pex5vsknk084sn02q", "acme.test"), "<dlv_01h455vb4pex5vsknk084sn02q@acme.test>");
    assert_eq!(message_id("a>\r\nBcc: b@c", "acme.test"), "<aBccbc@acme.test>");
    assert_ne!(message_id("", "acme.test"), message_id("", "acme.test"));
}

#[test]
fn a_lead_s_odd_address_does_not_narrow_the_way() {
    let message = Message { reply_to: Some("иван@пример.рф".to_owned()), ..simple() };
    let draft = draft(message.clone()).unwrap();
    assert!(!draft.needs_utf8());
    assert!(header(&written(message), "Reply-To").is_none());
}

#[test]
fn encoded_words_are_short_and_whole() {
    for text in ["я".repeat(300), "😀".repeat(100), format!("a{}", "я".repeat(77)), "=?x?=".to_owned()] {
        let value = encoded_words(&text);
        for word in value.split("\r\n ") {
            assert!(word.len() <= 75, "{word}");
            let code = word.strip_prefix("=?utf-8?B?").unwrap().strip_suffix("?=").unwrap();
            String::from_utf8(BASE64.decode(code).unwrap()).unwrap();
        }
        assert_eq!(decoded(&value.replace("\r\n ", " ")), text);
    }
}

#[test]
fn the_last_look_sees_what_must_not_be() {
    for (mail, fine) in [
        ("A: b\r\n\r\nbody\r\n", true),
        ("A: b\r\n\r\nbody", true),
        ("A: b\r\nA: c\r\n\r\n", false),
        ("A: b\nB: c\r\n\r\n", false),
        ("A: b\rB: c\r\n\r\n", false),
        ("A: b\r\n\r\nx\n.\r\n", false),
        ("A: b\0\r\n\r\n", false),
        ("A: я\r\n\r\n", false),
        ("A b\r\n\r\n", false),
        ("A: b\r\n \r\n\r\n", false),
    ] {
        assert_eq!(check(mail.as_bytes(), false).is_ok(), fine, "{mail:?}");
    }
    assert!(check(format!("A: b\r\n\r\n{}\r\n", "x".repeat(999)).as_bytes(), false).is_err());
    assert!(check("To: я@b.ru\r\n\r\n".as_bytes(), true).is_ok());
}
