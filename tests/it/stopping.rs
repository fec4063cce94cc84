//! Ctrl-C and SIGTERM on the real binary: what is waited for, and what a second signal does.

use std::time::{Duration, Instant};

use leadwire_fakes::{Answer, Gate, HttpSink};
use leadwire_tests::ADMIN_KEY;
use leadwire_tests::process::{Place, Process, call};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test]
async fn ctrl_c_with_half_open_requests_does_not_take_thirty_seconds() {
    let mut host = Place::new(&[]).start().await;
    let address = host.url("").strip_prefix("http://").unwrap().to_owned();
    let mut open = Vec::new();
    for text in [
        String::new(),
        "POST /api/leads HTTP/1.1\r\nhost: lead".to_owned(),
        format!("POST /api/leads HTTP/1.1\r\nhost: leadwire\r\nx-api-key: {ADMIN_KEY}\r\ncontent-length: 99\r\n\r\n{{"),
    ] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        open.push(stream);
    }
    let began = Instant::now();
    host.interrupt().await;
    let status = host.wait().await;
    assert_eq!(status.code(), Some(0), "{:#?}", host.log());
    assert!(began.elapsed() < Duration::from_secs(10), "the stop took {:?}", began.elapsed());
}

/// A host with a call in flight that does not end, and a client that waits for it.
async fn stuck(gate: &Gate) -> (Place, Process, HttpSink, tokio::task::JoinHandle<(u16, serde_json::Value)>) {
    let sink = HttpSink::start().await.unwrap();
    sink.always(Answer::ok().held(gate));
    let place = Place::new(&["webhook"]);
    let host = place.start().await;
    let client = leadwire_tests::client();
    let (status, body) = call(&client, "POST", &host.url("/api/projects"), Some(&json!({"external_id": "shop", "name": "Shop"}))).await;
    assert_eq!(status, 201, "{body}");
    let credential = json!({"channel": "webhook", "name": "Hook", "config": {"url": sink.url("/hook")},
        "secrets": {"signing_secret": "whsec_W2T7URdALJ/km5Hf5Kyvk2o/MqygU4SyZBpCXT+mAGc="}});
    let (status, body) = call(&client, "POST", &host.url("/api/projects/ext:shop/credentials"), Some(&credential)).await;
    assert_eq!(status, 201, "{body}");
    let url = host.url("/api/leads");
    let waiting = tokio::spawn(async move {
        let request = client.post(url).header("x-api-key", ADMIN_KEY).header("prefer", "wait=60");
        let answer = request.json(&json!({"project": "ext:shop", "name": "Ada"})).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    });
    sink.wait_for(1).await;
    (place, host, sink, waiting)
}

#[tokio::test]
async fn a_second_ctrl_c_ends_it_at_once() {
    let gate = Gate::closed();
    let (_place, mut host, _sink, waiting) = stuck(&gate).await;
    host.interrupt().await;
    assert!(host.line_with("stopping: no new leads").await.is_some());
    // Who waits for the end of a batch hears how far it came.
    let (status, body) = waiting.await.unwrap();
    assert_eq!((status, body["deliveries"][0]["status"].as_str()), (202, Some("sending")), "{body}");
    host.interrupt().await;
    let status = host.wait().await;
    assert_eq!(status.code(), Some(130), "{status}: {:#?}", host.log());
}

#[tokio::test]
async fn a_second_sigterm_ends_it_at_once() {
    let gate = Gate::closed();
    let (_place, mut host, _sink, _waiting) = stuck(&gate).await;
    host.interrupt().await;
    assert!(host.line_with("stopping: no new leads").await.is_some());
    host.terminate().await;
    assert_eq!(host.wait().await.code(), Some(143), "{:#?}", host.log());
}
