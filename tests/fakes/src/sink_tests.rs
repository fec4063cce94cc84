use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::{Gate, Manner};

/// Sends raw bytes and reads until the other side closes or `stop` is seen.
async fn talk(sink: &HttpSink, request: &str, stop: Option<&str>) -> String {
    let mut socket = TcpStream::connect(sink.addr()).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut socket, stop).await
}

async fn read_until(socket: &mut TcpStream, stop: Option<&str>) -> String {
    let mut got = Vec::new();
    let mut block = [0; 4096];
    loop {
        let read = socket.read(&mut block).await.unwrap_or(0);
        got.extend_from_slice(&block[..read]);
        let text = String::from_utf8_lossy(&got);
        if read == 0 || stop.is_some_and(|stop| text.contains(stop)) {
            return text.into_owned();
        }
    }
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nX-Try: 1\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_request_is_kept_as_it_came() {
    let sink = HttpSink::start().await.unwrap();
    let answer = talk(&sink, &post("/hook?a=1", "q=%D0%98+x"), None).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let request = sink.wait_for(1).await.remove(0);
    assert_eq!((request.method.as_str(), request.path.as_str(), request.query.as_deref()), ("POST", "/hook", Some("a=1")));
    assert_eq!((request.header("X-TRY"), request.form()), (Some("1"), vec![("q".to_owned(), "И x".to_owned())]));
}

#[tokio::test]
async fn chunks_and_reused_connections_are_understood() {
    let sink = HttpSink::start().await.unwrap();
    let mut socket = TcpStream::connect(sink.addr()).await.unwrap();
    let chunked = "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
    socket.write_all(chunked.as_bytes()).await.unwrap();
    read_until(&mut socket, Some("\r\n\r\n")).await;
    socket.write_all(post("/b", "").as_bytes()).await.unwrap();
    read_until(&mut socket, None).await;
    let received = sink.received();
    assert_eq!((received[0].text().as_str(), received[1].path.as_str()), ("abcde", "/b"));
    assert_eq!((received[0].connection, received[1].connection, received[1].id), (1, 1, 2));
}

#[tokio::test]
async fn scripts_are_used_up_by_path_then_in_general() {
    let sink = HttpSink::start().await.unwrap();
    sink.script_for("/a", [Answer::retry_after(503, "2")]);
    sink.script([Answer::status(500)]);
    sink.always(Answer::redirect("http://127.0.0.1/x"));
    let first = talk(&sink, &post("/a", ""), None).await;
    assert!(first.starts_with("HTTP/1.1 503") && first.contains("retry-after: 2\r\n"), "{first}");
    assert!(talk(&sink, &post("/a", ""), None).await.starts_with("HTTP/1.1 500"));
    assert!(talk(&sink, &post("/a", ""), None).await.contains("location: http://127.0.0.1/x\r\n"));
}

#[tokio::test]
async fn an_answer_can_break_off_anywhere() {
    let sink = HttpSink::start().await.unwrap();
    let whole = Answer::ok().body("0123456789");
    sink.script([
        Answer::close(),
        whole.clone().manner(Manner::CloseWithin),
        whole.clone().manner(Manner::ClaimsMore(5)),
        whole.clone().manner(Manner::Garbage(b"rubbish".to_vec())),
        whole.clone().after_interim(103),
    ]);
    assert_eq!(talk(&sink, &post("/", ""), None).await, "");
    let within = talk(&sink, &post("/", ""), None).await;
    assert!(within.contains("content-length: 10") && within.ends_with("\r\n\r\n01234"), "{within}");
    assert!(talk(&sink, &post("/", ""), None).await.contains("content-length: 15"));
    assert_eq!(talk(&sink, &post("/", ""), None).await, "rubbish");
    assert!(talk(&sink, &post("/", ""), None).await.starts_with("HTTP/1.1 103 Interim\r\n\r\nHTTP/1.1 200"));
    assert_eq!(sink.received().len(), 5, "every request is kept, however it was answered");
}

#[tokio::test]
async fn a_held_answer_waits_for_the_test() {
    let sink = HttpSink::start().await.unwrap();
    let gate = Gate::closed();
    sink.script([Answer::ok().held(&gate), Answer::status(204).manner(Manner::Steps(gate.clone()))]);
    let request = post("/", "");
    let waiting = talk(&sink, &request, None);
    tokio::pin!(waiting);
    tokio::select! {
        answer = &mut waiting => panic!("answered too early: {answer}"),
        _ = sink.wait_for(1) => {}
    }
    gate.step(1);
    assert!(waiting.await.starts_with("HTTP/1.1 200"));
    gate.open();
    let slow = talk(&sink, &post("/", ""), None).await;
    assert!(slow.starts_with("HTTP/1.1 204") && !slow.contains("content-length"), "{slow}");
}

#[tokio::test]
async fn endless_and_oversized_answers_flow() {
    let sink = HttpSink::start().await.unwrap();
    sink.script([Answer::endless(), Answer::big_header(100_000), Answer::ok().body("ab").manner(Manner::Drip(Duration::from_millis(1)))]);
    assert!(talk(&sink, &post("/", ""), Some("eeee")).await.contains("transfer-encoding: chunked"));
    assert!(talk(&sink, &post("/", ""), None).await.len() > 100_000);
    assert!(talk(&sink, &post("/", ""), None).await.ends_with("\r\n\r\nab"));
}

#[tokio::test]
async fn a_dropped_sink_leaves_its_port() {
    let sink = HttpSink::start().await.unwrap();
    let addr = sink.addr();
    let mut open = TcpStream::connect(addr).await.unwrap();
    drop(sink);
    assert_eq!(read_until(&mut open, None).await, "");
}
