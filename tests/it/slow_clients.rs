//! Clients that are slow, large or many: each costs the host a bounded time and memory, and learns why it was refused.

use std::time::{Duration, Instant};

use leadwire_tests::{ADMIN_KEY, Options, TestHost};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest real time that something which takes a second may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

async fn host(settings: &[(&'static str, &str)]) -> TestHost {
    let settings = settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    TestHost::with(Options { settings, ..Options::default() }).await
}

async fn connect(host: &TestHost) -> TcpStream {
    TcpStream::connect(host.host().address).await.unwrap()
}

/// Sends this much of a request; the connection stays open.
async fn half(host: &TestHost, text: &str) -> TcpStream {
    let mut stream = connect(host).await;
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// Everything until the host closes the connection.
async fn until_closed(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("the host closes the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The next answer, whose body has a known length; the connection stays open.
async fn next_answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = async {
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
                if body.len() >= length.unwrap_or(0) {
                    return text;
                }
            }
            let more = stream.read_buf(&mut bytes).await.expect("the host answers");
            assert!(more > 0, "closed after {text:?}");
        }
    };
    tokio::time::timeout(SOON, read).await.expect("the host answers in time")
}

fn post(path: &str, key: &str, rest: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: leadwire\r\nx-api-key: {key}\r\ncontent-type: application/json\r\n{rest}")
}

#[tokio::test]
async fn a_header_that_never_ends_is_dropped() {
    let host = host(&[("header_timeout", "1")]).await;
    assert_eq!(until_closed(half(&host, "GET /healthz HTTP/1.1\r\nhost: lead").await).await, "");
    assert_eq!(until_closed(connect(&host).await).await, "", "nothing was sent at all");
    // Between two requests too.
    let idle = until_closed(half(&host, "GET /healthz HTTP/1.1\r\nhost: leadwire\r\n\r\n").await).await;
    assert!(idle.starts_with("HTTP/1.1 200") && idle.ends_with("{\"status\":\"ok\"}"), "{idle}");
}

#[tokio::test]
async fn a_body_that_never_ends_is_answered_408() {
    let host = host(&[("body_timeout", "1")]).await;
    let slow = half(&host, &post("/api/leads", ADMIN_KEY, "content-length: 100\r\n\r\n{\"name\":")).await;
    let chunked = half(&host, &post("/api/leads", ADMIN_KEY, "transfer-encoding: chunked\r\n\r\n8\r\n{\"name\":\r\n")).await;
    for stream in [slow, chunked] {
        let answer = until_closed(stream).await;
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("application/problem+json"), "{answer}");
        assert!(answer.contains("body_too_slow") && answer.contains("within 1 s") && answer.contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn no_body_is_waited_for_without_a_key() {
    let host = host(&[("body_timeout", "3600")]).await;
    let mut stream = half(&host, &post("/api/leads", "lw_unknown", "content-length: 9000000\r\n\r\n{\"name\":")).await;
    let answer = next_answer(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

#[tokio::test]
async fn sixty_half_sent_bodies_do_not_fill_the_memory() {
    let host = host(&[("body_memory", "33554432"), ("body_timeout", "3600")]).await;
    let size = 9_800_000;
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..8 {
        let mut stream = half(&host, &post("/api/leads", ADMIN_KEY, &format!("content-length: {size}\r\n\r\n"))).await;
        // All but the last byte; a host that refuses reads the rest too, or closes the connection.
        let sent = stream.write_all(&vec![b' '; size - 1]).await;
        // Who is told something was refused: whoever fits is waited for.
        let mut first = [0; 64];
        let answered = tokio::time::timeout(Duration::from_millis(700), stream.read(&mut first)).await;
        match answered {
            Ok(Ok(read)) => {
                let text = String::from_utf8_lossy(&first[..read]).into_owned();
                assert!(text.starts_with("HTTP/1.1 503"), "{text}");
                refused += 1;
            }
            Ok(Err(error)) => panic!("no answer: {error}, {sent:?}"),
            Err(_) => held.push(stream),
        }
    }
    assert_eq!((held.len(), refused), (3, 5), "33.5 MB hold three bodies of 9.8 MB");
    // The room comes back with the end of each.
    drop(held);
    let mut last = half(&host, &post("/api/leads", ADMIN_KEY, "content-length: 2\r\n\r\n{}")).await;
    let answer = next_answer(&mut last).await;
    assert!(answer.starts_with("HTTP/1.1 422"), "{answer}");
}

#[tokio::test]
async fn half_open_connections_lock_nobody_out() {
    let host = host(&[("max_connections", "4"), ("header_timeout", "3600")]).await;
    let mut idle = Vec::new();
    for _ in 0..12 {
        idle.push(half(&host, "GET /healthz HT").await);
    }
    let mut mine = half(&host, "GET /healthz HTTP/1.1\r\nhost: leadwire\r\n\r\n").await;
    assert!(next_answer(&mut mine).await.starts_with("HTTP/1.1 200"));
    // The first ones made place; the last ones are open.
    let newest = idle.pop().unwrap();
    for stream in idle.drain(..8) {
        assert_eq!(until_closed(stream).await, "");
    }
    let mut newest = newest;
    newest.write_all(b"TP/1.1\r\nhost: leadwire\r\n\r\n").await.unwrap();
    assert!(next_answer(&mut newest).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_connection_at_work_is_not_given_away() {
    let host = host(&[("max_connections", "1"), ("body_timeout", "3600")]).await;
    let mut working = half(&host, &post("/api/leads", ADMIN_KEY, "content-length: 2\r\nexpect: 100-continue\r\n\r\n")).await;
    assert!(next_answer(&mut working).await.starts_with("HTTP/1.1 100"), "the body is asked for");
    let mut next = half(&host, "GET /healthz HTTP/1.1\r\nhost: leadwire\r\n\r\n").await;
    let mut first = [0; 16];
    let early = tokio::time::timeout(Duration::from_millis(300), next.read(&mut first)).await;
    assert!(early.is_err(), "the only place was taken: {early:?}");
    working.write_all(b"{}").await.unwrap();
    assert!(next_answer(&mut working).await.starts_with("HTTP/1.1 422"));
    assert!(next_answer(&mut next).await.starts_with("HTTP/1.1 200"), "the one that waits makes place");
}

/// As Python's urllib and many others: everything is sent before anything is read.
#[tokio::test]
async fn a_client_that_sends_first_learns_the_maximum() {
    let host = host(&[]).await;
    let size = 24_000_000;
    for length in [format!("content-length: {size}\r\n\r\n"), String::from("transfer-encoding: chunked\r\n\r\n16e3600\r\n")] {
        let mut stream = half(&host, &post("/api/leads", ADMIN_KEY, &length)).await;
        stream.write_all(&vec![b' '; size]).await.expect("the host takes it all");
        if length.contains("chunked") {
            stream.write_all(b"\r\n0\r\n\r\n").await.expect("the host takes it all");
        }
        let answer = next_answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("at most 10000000 bytes"), "{answer}");
        // The connection serves on.
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: leadwire\r\n\r\n").await.unwrap();
        assert!(next_answer(&mut stream).await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn a_client_that_asks_first_need_not_send() {
    let host = host(&[]).await;
    let stream = half(&host, &post("/api/leads", ADMIN_KEY, "content-length: 24000000\r\nexpect: 100-continue\r\n\r\n")).await;
    let answer = until_closed(stream).await;
    assert!(answer.starts_with("HTTP/1.1 413") && !answer.contains("100 Continue"), "{answer}");
}

#[tokio::test]
async fn a_stop_waits_for_no_half_open_request() {
    let host = host(&[("header_timeout", "3600"), ("body_timeout", "3600")]).await;
    let silent = connect(&host).await;
    let header = half(&host, "GET /healthz HTTP/1.1\r\nhost: lead").await;
    let body = half(&host, &post("/api/leads", ADMIN_KEY, "content-length: 100\r\n\r\n{\"name\":")).await;
    let mut served = half(&host, "GET /healthz HTTP/1.1\r\nhost: leadwire\r\n\r\n").await;
    next_answer(&mut served).await;
    let began = Instant::now();
    let host = host.restart().await;
    assert!(began.elapsed() < Duration::from_secs(10), "stop and start took {:?}", began.elapsed());
    assert_eq!(until_closed(silent).await, "");
    assert_eq!(until_closed(header).await, "");
    let answer = until_closed(body).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("the host is stopping"), "{answer}");
    drop(host);
}
