//! What a malicious plugin, admin or remote side would try.

use std::sync::atomic::Ordering;

use base64::Engine;
use serde_json::json;

use super::super::*;
use super::support::*;
use crate::plugin::manifest::Method;

#[tokio::test]
async fn an_echo_of_the_secret_is_masked_in_every_form() {
    let base64 = base64::engine::general_purpose::STANDARD.encode(format!("x{TOKEN}y"));
    let body =
        format!(r#"{{"plain":"{TOKEN}","json":"{}","url":"123456%3aAAE-s3cret%2ft0ken","b64":"{base64}"}}"#, TOKEN.replace('/', "\\/"));
    let server = Server::start(move |_| {
        raw(&format!(
            "HTTP/1.1 200 OK\r\nx-echo: Bearer {TOKEN}\r\nlocation: /bot{TOKEN}/x\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
    })
    .await;
    let sent = send(&egress("127.0.0.0/8"), &grant(&server.url("/"), bearer()), get("x")).await;
    assert!(sent.secret_echoed);
    let response = sent.result.unwrap();
    let text = String::from_utf8(response.body).unwrap();
    assert!(text.starts_with(r#"{"plain":"***","json":"***","url":"***","b64":""#), "{text}");
    assert!(!text.contains(&base64[4..20]));
    assert!(response.headers.contains(&("x-echo".into(), "***".into())), "{:?}", response.headers);
    assert!(response.headers.contains(&("location".into(), "/bot***/x".into())));
}

#[tokio::test]
async fn an_answer_without_the_secret_is_handed_over_as_it_is() {
    let server = Server::start(|_| raw("HTTP/1.1 422 Nope\r\ncontent-length: 4\r\nx-bin: \u{7f}a\r\n\r\n\u{1}\u{2}\u{3}\u{4}")).await;
    let sent = send(&egress("127.0.0.0/8"), &grant(&server.url("/"), bearer()), get("x")).await;
    // The control character makes the answer malformed, which is no answer at all.
    assert_eq!(failure(&sent), (FailureKind::Other, true));
    let server = Server::start(|_| Reply::Bytes(b"HTTP/1.1 422 Nope\r\ncontent-length: 4\r\n\r\n\x00\xff\xfe\x01".to_vec())).await;
    let sent = send(&egress("127.0.0.0/8"), &grant(&server.url("/"), bearer()), get("x")).await;
    assert!(!sent.secret_echoed);
    assert_eq!(sent.result.unwrap().body, b"\x00\xff\xfe\x01");
}

#[tokio::test]
async fn a_compressed_answer_cannot_carry_the_secret_past_the_scan() {
    let server = Server::start(|_| raw("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nzzzz")).await;
    let sent = send(&egress("127.0.0.0/8"), &grant(&server.url("/"), bearer()), get("x").with("accept-encoding", "gzip")).await;
    assert_eq!(sent.result.unwrap().body, b"");
    assert!(!server.only_request().contains("gzip"));
}

#[tokio::test]
async fn a_redirect_is_returned_and_never_followed() {
    let second = Server::echo().await;
    let to = second.url("/stolen");
    let first = Server::start(move |_| raw(&format!("HTTP/1.1 307 Moved\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"))).await;
    let sent = send(&egress("127.0.0.0/8"), &grant(&first.url("/"), bearer()), post("x", "body")).await;
    assert_eq!(sent.result.unwrap().status, 307);
    assert_eq!((first.connections(), second.connections()), (1, 0));
}

#[tokio::test]
async fn every_spelling_of_an_inner_address_is_denied() {
    let egress = egress("");
    for host in [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "0x7f.1",
        "0x7f000001",
        "0177.0.0.1",
        "017700000001",
        "2130706433",
        "127.0.0.1.",
        "１２７.０.０.１",
        "127。0。0。1",
        "①②⑦.⓪.⓪.①",
        "%31%32%37.0.0.1",
        "0",
        "0.0.0.0",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[::FFFF:7F00:1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::7f00:1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
        "[fe80::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[ff02::1]",
        "169.254.169.254",
        "0xa9fea9fe",
        "2852039166",
        "0251.0376.0251.0376",
        "[::ffff:169.254.169.254]",
        "10.0.0.1",
        "172.16.1.1",
        "192.168.1.1",
        "100.64.0.1",
        "255.255.255.255",
    ] {
        // Some spellings the URL parser itself refuses; then there is no grant.
        let config = json!({ "url": format!("http://{host}/") });
        let Ok(grant) = Grant::new(&manifest(bearer()), config.as_object().unwrap(), Default::default()) else {
            assert!(host.starts_with('%'), "{host} should reach the guard");
            continue;
        };
        let sent = send(&egress, &grant, get("x")).await;
        assert_eq!(failure(&sent), (FailureKind::Denied, false), "{host}");
        assert!(sent.result.unwrap_err().message.contains("forbidden"), "{host}");
    }
}

#[tokio::test]
async fn names_of_inner_addresses_are_denied() {
    for (name, address) in
        [("inner.test", "10.1.2.3"), ("meta.test", "169.254.169.254"), ("six.test", "::ffff:127.0.0.1"), ("nat.test", "64:ff9b::a00:1")]
    {
        let egress = egress_with("", Names::of(name, &[&[address]]));
        let sent = send(&egress, &grant(&format!("http://{name}/"), bearer()), get("x")).await;
        assert_eq!(failure(&sent), (FailureKind::Denied, false), "{name}");
        assert!(!format!("{sent:?}").contains(address), "{sent:?}");
    }
    let sent = send(&egress(""), &grant("http://localhost/", bearer()), get("x")).await;
    assert_eq!(failure(&sent), (FailureKind::Denied, false));
}

#[tokio::test]
async fn only_the_allowed_ones_of_several_addresses_are_connected_to() {
    let server = Server::echo().await;
    let names = Names::of("mixed.test", &[&["127.0.0.2", "10.0.0.1", "127.0.0.1", "::1"]]);
    let egress = egress_with("127.0.0.1", names);
    let sent = send(&egress, &grant(&format!("http://mixed.test:{}/", server.address.port()), bearer()), get("x")).await;
    assert_eq!(sent.result.unwrap().status, 200);
    assert!(server.only_request().contains(&format!("host: mixed.test:{}\r\n", server.address.port())));
}

#[tokio::test]
async fn a_name_that_answers_another_address_later_is_judged_anew() {
    let server = Server::start(|_| raw("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")).await;
    let names = Names::of("rebind.test", &[&["127.0.0.1"], &["127.0.0.2"]]);
    let egress = egress_with("127.0.0.1", Arc::clone(&names) as Arc<dyn Resolver>);
    let grant = grant(&format!("http://rebind.test:{}/", server.address.port()), bearer());
    assert!(send(&egress, &grant, get("x")).await.result.is_ok());
    assert_eq!(names.lookups.load(Ordering::SeqCst), 1, "one look-up for a connection");
    assert_eq!(failure(&send(&egress, &grant, get("x")).await), (FailureKind::Denied, false));
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn odd_ports_are_closed_outside_the_allowed_networks() {
    for (base, names) in [("http://8.8.8.8:22/", Names::default()), ("http://public.test:22/", Names::default())] {
        let sent = send(&egress_with("", Arc::new(names)), &grant(base, bearer()), get("x")).await;
        assert_eq!(failure(&sent), (FailureKind::Denied, false), "{base}");
    }
    // With an allowed network the name may turn out to lie inside; this one does not.
    let egress = egress_with("127.0.0.0/8", Names::of("public.test", &[&["8.8.8.8"]]));
    let sent = send(&egress, &grant("http://public.test:22/", bearer()), get("x")).await;
    assert_eq!(failure(&sent), (FailureKind::Denied, false));
}

#[tokio::test]
async fn a_rewrite_leads_to_the_operators_gateway_and_opens_nothing_else() {
    let server = Server::echo().await;
    let gateway = format!("gw.test:{}", server.address.port());
    let policy = OperatorPolicy {
        rewrite: OperatorPolicy::parse_rewrite(&format!("api.telegram.test=http://{gateway}/pre")).unwrap(),
        ..Default::default()
    };
    let egress = Egress::with_resolver(policy, &limits(), Names::of("gw.test", &[&["127.0.0.1"]])).unwrap();
    let auth = json!([{ "name": "a", "default": true, "path_prefix": "bot{secret.token}/" }]);
    let sent = send(&egress, &grant("https://api.telegram.test/", auth.clone()), get("getMe")).await;
    assert!(sent.secret_echoed && sent.exchange.request == "GET https://api.telegram.test/getMe", "{sent:?}");
    assert!(server.only_request().starts_with("GET /pre/bot123456:AAE-s3cret%2Ft0ken/getMe "));
    // The same host asked for by a plugin: neither a fresh nor the pooled connection may serve it.
    let sent = send(&egress, &grant(&format!("http://{gateway}/"), auth), get("getMe")).await;
    assert_eq!(failure(&sent), (FailureKind::Denied, false));
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn guests_reach_only_what_their_rule_allows() {
    let server = Server::echo().await;
    let mut manifest = manifest(bearer());
    manifest.egress[0].methods = [Method::Get].into();
    let config = json!({ "url": server.url("/api/v4/") });
    let secrets = [("token".to_owned(), crate::secrets::SecretText::new(TOKEN.into()))].into_iter().collect();
    let grant = Grant::new(&manifest, config.as_object().unwrap(), Arc::new(secrets)).unwrap();
    let egress = egress("127.0.0.0/8");
    for request in [
        post("leads", "{}"),
        get("../admin"),
        get("%2e%2e/admin"),
        get("//evil.test/"),
        get("http://evil.test/api/v4/"),
        get(&server.url("/api/v5/")),
        get(&server.url("/api/v4/").replace("http://", "http://user@")),
        get("x").with("Host", "evil.test"),
        get("x").with("Transfer-Encoding", "chunked"),
        get("x").with("Cookie", "a=b"),
        get("x").with("X-Forwarded-For", "1.1.1.1"),
    ] {
        let shown = format!("{request:?}");
        assert_eq!(failure(&send(&egress, &grant, request).await), (FailureKind::Denied, false), "{shown}");
    }
    let smuggled = get("x").with("x-a", "b\r\nauthorization: mine");
    assert_eq!(failure(&send(&egress, &grant, smuggled).await), (FailureKind::Invalid, false));
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_dry_run_only_reads() {
    let server = Server::echo().await;
    let (egress, grant) = (egress("127.0.0.0/8"), grant(&server.url("/"), bearer()));
    let dry = CallLimits { dry_run: true, ..call() };
    for method in [Method::Post, Method::Put, Method::Patch, Method::Delete] {
        let sent = send_in(&egress, &grant, Request { method, ..get("x") }, &dry).await;
        assert_eq!(failure(&sent), (FailureKind::Denied, false));
    }
    assert!(send_in(&egress, &grant, get("x"), &dry).await.result.is_ok());
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn what_is_stored_of_an_exchange_is_masked() {
    let server = Server::echo().await;
    let body = r#"{"phone":"+79161234567","email":"ivan@example.com"}"#;
    let sent = send(&egress("127.0.0.0/8"), &grant(&server.url("/"), bearer()), post("x?p=%2B79161234567", body)).await;
    let exchange = sent.exchange;
    assert_eq!(exchange.kind, "http");
    assert!(exchange.request.ends_with("/x?p=%2B7916*****67"), "{}", exchange.request);
    assert_eq!(exchange.request_body.as_deref(), Some(r#"{"phone":"+7916*****67","email":"i***@e***.com"}"#));
    assert_eq!(exchange.status, Some(200));
    let response = exchange.response.unwrap();
    assert!(response.contains("authorization: ***") && response.contains("+7916*****67") && !response.contains("ivan"), "{response}");
}

/// The proxy variables must be set before the process starts, so the test starts itself again.
#[tokio::test]
async fn a_proxy_in_the_environment_is_ignored() {
    const CHILD: &str = "LEADWIRE_TEST_PROXY_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let server = Server::echo().await;
        let sent = send(&egress("127.0.0.0/8"), &grant(&server.url("/"), bearer()), get("x")).await;
        assert_eq!(sent.result.unwrap().status, 200);
        assert!(server.only_request().starts_with("GET /x "));
        return;
    }
    let proxy = Server::echo().await;
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "egress::tests::attacks::a_proxy_in_the_environment_is_ignored"]).env(CHILD, "1");
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        child.env(name, proxy.url(""));
    }
    let output = child.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    assert_eq!(proxy.connections(), 0);
}
