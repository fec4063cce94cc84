//! Limits, connections, and whether a failed request may have been sent.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::Instant;

use super::super::*;
use super::support::*;
use crate::plugin::manifest::Method;

async fn against(reply: Reply, request: Request) -> Sent {
    let server = Server::start(move |_| reply.clone()).await;
    send(&egress("127.0.0.0/8"), &grant(&server.url("/"), bearer()), request).await
}

fn soon() -> Request {
    Request { timeout: Some(Duration::from_millis(300)), ..post("x", "{}") }
}

#[tokio::test]
async fn connections_are_reused() {
    let server = Server::echo().await;
    let (egress, grant) = (egress("127.0.0.0/8"), grant(&server.url("/"), bearer()));
    for _ in 0..5 {
        assert!(send(&egress, &grant, post("x", "{}")).await.result.is_ok());
    }
    assert_eq!((server.connections(), server.requests().len()), (1, 5));
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closed_costs_nothing() {
    let server = Server::start(|_| Reply::ThenClose(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec())).await;
    let (egress, grant) = (egress("127.0.0.0/8"), grant(&server.url("/"), bearer()));
    for round in 1..=20 {
        let sent = send(&egress, &grant, post("x", "{}")).await;
        // The close may cross the request on its way: then nobody can know, and it must not be sent again.
        if let Err(failure) = &sent.result {
            assert!(failure.maybe_sent, "{failure:?}");
        }
        assert!(server.requests().len() <= round, "a request was sent twice");
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_refused_connection_was_surely_not_sent() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let sent = send(&egress("127.0.0.0/8"), &grant(&format!("http://{free}/"), bearer()), post("x", "{}")).await;
    assert_eq!(failure(&sent), (FailureKind::Connect, false), "{sent:?}");
    assert!(sent.result.unwrap_err().message.contains("refused"));
}

#[tokio::test]
async fn an_unknown_name_was_surely_not_sent() {
    let sent = send(&egress_with("", Arc::new(Names::default())), &grant("https://nowhere.test/", bearer()), post("x", "{}")).await;
    assert_eq!(failure(&sent), (FailureKind::Dns, false), "{sent:?}");
}

#[tokio::test]
async fn a_tls_failure_was_surely_not_sent() {
    let server = Server::start(|_| text("200 OK", "")).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let sent = send(&egress("127.0.0.0/8"), &grant(&format!("https://{plain}/"), bearer()), post("x", "{}")).await;
    assert_eq!(failure(&sent), (FailureKind::Tls, false), "{sent:?}");
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_in_time_was_surely_not_sent() {
    // Accepts and never speaks, so that TLS waits.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let limits = EgressLimits { connect_timeout: Duration::from_millis(100), ..limits() };
    let policy = OperatorPolicy { allow: OperatorPolicy::parse_allow("127.0.0.0/8").unwrap(), ..Default::default() };
    let egress = Egress::new(policy, &limits).unwrap();
    let sent = send(&egress, &grant(&format!("https://{}/", silent.local_addr().unwrap()), bearer()), post("x", "{}")).await;
    assert_eq!(failure(&sent), (FailureKind::Connect, false), "{sent:?}");
}

#[tokio::test]
async fn a_close_after_the_request_may_have_been_sent() {
    assert_eq!(failure(&against(Reply::Close, post("x", "{}")).await), (FailureKind::Other, true));
    let half = Reply::ThenClose(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc".to_vec());
    assert_eq!(failure(&against(half, post("x", "{}")).await), (FailureKind::Other, true));
    let nonsense = Reply::ThenClose(b"SMTP ready\r\n\r\n".to_vec());
    assert_eq!(failure(&against(nonsense, post("x", "{}")).await), (FailureKind::Other, true));
}

#[tokio::test]
async fn no_answer_in_time_may_have_been_sent() {
    assert_eq!(failure(&against(Reply::Hang(vec![]), soon()).await), (FailureKind::Timeout, true));
    let slow_body = Reply::Hang(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc".to_vec());
    assert_eq!(failure(&against(slow_body, soon()).await), (FailureKind::Timeout, true));
    let slow_head = Reply::Hang(b"HTTP/1.1 200 OK\r\nx-".to_vec());
    assert_eq!(failure(&against(slow_head, soon()).await), (FailureKind::Timeout, true));
}

#[tokio::test]
async fn a_call_without_time_sends_nothing() {
    let server = Server::echo().await;
    let over = CallLimits { deadline: Instant::now(), ..call() };
    let sent = send_in(&egress("127.0.0.0/8"), &grant(&server.url("/"), bearer()), post("x", "{}"), &over).await;
    assert_eq!(failure(&sent), (FailureKind::Timeout, false));
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn bodies_are_capped() {
    let announced = Reply::Hang(b"HTTP/1.1 200 OK\r\ncontent-length: 65537\r\n\r\n".to_vec());
    assert_eq!(failure(&against(announced, get("x")).await), (FailureKind::TooLarge, true));
    let unannounced = Reply::Endless(b"HTTP/1.1 200 OK\r\n\r\n".to_vec());
    assert_eq!(failure(&against(unannounced, get("x")).await), (FailureKind::TooLarge, true));
    let head = Reply::Endless(b"HTTP/1.1 200 OK\r\nx-a: ".to_vec());
    assert_eq!(failure(&against(head, get("x")).await), (FailureKind::Other, true));
    let fits = Reply::Bytes([b"HTTP/1.1 200 OK\r\ncontent-length: 65536\r\n\r\n".as_slice(), &[b'x'; 65536]].concat());
    assert_eq!(against(fits, get("x")).await.result.unwrap().body.len(), 65536);
    let sent = against(raw(""), post("x", &"x".repeat(65537))).await;
    assert_eq!(failure(&sent), (FailureKind::TooLarge, false));
}

#[tokio::test]
async fn answers_without_a_body_and_interim_answers() {
    let sent = against(raw("HTTP/1.1 204 No Content\r\n\r\n"), post("x", "{}")).await;
    assert_eq!(sent.result.map(|response| (response.status, response.body)), Ok((204, vec![])));
    let sent = against(
        raw("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        get("x"),
    )
    .await;
    assert_eq!(sent.result.map(|response| (response.status, response.body)), Ok((200, b"ok".to_vec())));
    let head = Request { method: Method::Head, ..get("x") };
    let sent = against(raw("HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n"), head).await;
    assert_eq!(sent.result.map(|response| (response.status, response.body)), Ok((200, vec![])));
}

#[tokio::test]
async fn an_empty_body_is_announced_as_such() {
    let server = Server::echo().await;
    let (egress, grant) = (egress("127.0.0.0/8"), grant(&server.url("/"), bearer()));
    assert!(send(&egress, &grant, post("x", "")).await.result.is_ok());
    assert!(server.only_request().to_lowercase().contains("content-length: 0"), "{}", server.only_request());
}
