//! The same events over a WebSocket.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use leadwire_fakes::HttpSink;
use leadwire_tests::follow::{Sse, eventually};
use leadwire_tests::{ADMIN_KEY, Options, TestHost, client};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

const PATIENCE: Duration = Duration::from_secs(60);

async fn host(settings: Vec<(&'static str, String)>) -> (TestHost, HttpSink) {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::with(Options { plugins: vec!["webhook"], settings, ..Options::default() }).await;
    host.project().await;
    host.enable("webhook", json!({"url": sink.url("/hook")}), json!({})).await;
    (host, sink)
}

async fn connect(host: &TestHost, query: &str, key: &str, after: Option<&str>) -> Result<WebSocketStream<TcpStream>, Error> {
    let address = host.host().address;
    let mut request = format!("ws://{address}/api/events/ws{query}").into_client_request().unwrap();
    request.headers_mut().insert("x-api-key", key.parse().unwrap());
    if let Some(after) = after {
        request.headers_mut().insert("last-event-id", after.parse().unwrap());
    }
    client_async(request, TcpStream::connect(address).await.unwrap()).await.map(|(socket, _)| socket)
}

/// The next text message, or why the other side closed.
async fn next(socket: &mut WebSocketStream<TcpStream>) -> Result<Value, (u16, String)> {
    loop {
        match tokio::time::timeout(PATIENCE, socket.next()).await.expect("the stream goes on") {
            Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Close(Some(frame)))) => return Err((frame.code.into(), frame.reason.to_string())),
            Some(Ok(_)) => {}
            end => panic!("closed without a word: {end:?}"),
        }
    }
}

async fn events(socket: &mut WebSocketStream<TcpStream>, count: usize) -> Vec<Value> {
    let mut all = Vec::new();
    while all.len() < count {
        all.push(next(socket).await.unwrap());
    }
    all
}

#[tokio::test]
async fn a_socket_tells_what_the_stream_tells_and_resumes_like_it() {
    let (host, _sink) = host(Vec::new()).await;
    let mut socket = connect(&host, "", ADMIN_KEY, None).await.unwrap();
    host.lead(1).await;
    let told = events(&mut socket, 6).await;
    assert_eq!(told[5]["type"], "lead.completed");
    let mut stream = Sse::open(&client(), &host.url("/api/events"), Some("0.0")).await;
    let same: Vec<Value> = stream.events(7).await.into_iter().skip(1).map(|told| told.data).collect();
    assert_eq!(told, same);
    drop(socket); // cut off without a goodbye
    let id = told[2]["id"].as_str().unwrap();
    let mut by_header = connect(&host, "", ADMIN_KEY, Some(id)).await.unwrap();
    let mut by_query = connect(&host, &format!("?last_event_id={id}"), ADMIN_KEY, None).await.unwrap();
    for socket in [&mut by_header, &mut by_query] {
        assert_eq!(events(socket, 3).await, told[3..]);
    }
    by_header.close(None).await.unwrap();
    drop((by_query, stream));
    eventually("the places are given back", async || host.host().app.live.open() == 0).await;
}

#[tokio::test]
async fn signs_of_life_are_pings_with_a_position_and_who_answers_none_is_dropped() {
    let (host, _sink) = host(Vec::new()).await;
    let mut socket = connect(&host, "?types=credential", ADMIN_KEY, None).await.unwrap();
    host.lead(1).await;
    host.idle().await;
    host.advance(Duration::from_secs(15)).await;
    let heartbeat = next(&mut socket).await.unwrap();
    assert_eq!(heartbeat["type"], "heartbeat");
    assert!(heartbeat["id"].as_str().unwrap().contains('.'));
    let ping = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
    assert!(ping.is_ping());
    socket.flush().await.unwrap();
    // Words of the client's own are not heard, and do no harm.
    socket.send(Message::text("hello")).await.unwrap();

    // A client that reads and never answers: the frames are read as bytes.
    let mut mute = connect(&host, "", ADMIN_KEY, None).await.unwrap().into_inner();
    let (heard, mut hears) = tokio::sync::watch::channel(String::new());
    tokio::spawn(async move {
        let mut bytes = Vec::new();
        while tokio::io::AsyncReadExt::read_buf(&mut mute, &mut bytes).await.unwrap_or(0) > 0 {
            heard.send_replace(String::from_utf8_lossy(&bytes).into_owned());
        }
    });
    let mut until = async |wanted: &str, times: usize| {
        let there = hears.wait_for(|heard| heard.matches(wanted).count() >= times);
        tokio::time::timeout(PATIENCE, there).await.unwrap_or_else(|_| panic!("{wanted} {times} times")).unwrap().clone()
    };
    for pings in 1..=3 {
        host.advance(Duration::from_secs(15)).await;
        until("heartbeat", pings).await;
        // The other one answers, and stays.
        assert_eq!(next(&mut socket).await.unwrap()["type"], "heartbeat");
        tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
        socket.flush().await.unwrap();
    }
    host.advance(Duration::from_secs(15)).await;
    let heard = until("\"dropped\"", 1).await;
    assert_eq!(next(&mut socket).await.unwrap()["type"], "heartbeat");
    tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
    assert!(heard.contains("\"reason\":\"silent\"") && heard.matches("heartbeat").count() == 3, "{heard}");
    host.enable("webhook", json!({"url": "http://127.0.0.1:9/"}), json!({})).await;
    assert_eq!(next(&mut socket).await.unwrap()["type"], "credential.created");
}

#[tokio::test]
async fn a_socket_is_closed_with_a_reason() {
    let (host, _sink) = host(vec![("event_streams_per_key", "1".to_owned())]).await;
    let (_, made) = host.post("/api/keys", &json!({"name": "a", "scopes": ["leads:read"], "project": "ext:shop"})).await;
    let (key, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
    let mut revoked = connect(&host, "", key, None).await.unwrap();
    let Err(Error::Http(refused)) = connect(&host, "", key, None).await else { panic!("a second one") };
    assert_eq!(refused.status(), 429);
    host.answer(host.request("DELETE", &format!("/api/keys/{id}"))).await;
    assert_eq!(next(&mut revoked).await.unwrap()["reason"], "key_revoked");
    assert_eq!(next(&mut revoked).await.unwrap_err().0, 1008);

    let mut open = connect(&host, "", ADMIN_KEY, None).await.unwrap();
    let began = std::time::Instant::now();
    let (words, host) = tokio::join!(async { (next(&mut open).await, next(&mut open).await) }, host.restart());
    assert_eq!(words.0.unwrap()["reason"], "stopping");
    let (code, reason) = words.1.unwrap_err();
    assert_eq!(code, 1001);
    assert!(reason.contains("Last-Event-ID"), "{reason}");
    assert!(began.elapsed() < Duration::from_secs(20), "the stop waited for a client that was told");

    // Who is refused hears it before the connection is a socket's.
    for (query, key, after, status) in [
        ("", "lw_nobody", None, 401),
        ("?types=x", ADMIN_KEY, None, 422),
        ("", ADMIN_KEY, Some("x"), 400),
        ("?project=ext:nowhere", ADMIN_KEY, None, 404),
    ] {
        let Err(Error::Http(refused)) = connect(&host, query, key, after).await else { panic!("{query} was taken") };
        assert_eq!(refused.status(), status);
    }
    let (status, problem) = host.answer(host.request("GET", "/api/events/ws")).await;
    assert_eq!((status, &problem["code"]), (426, &json!("websocket_required")), "{problem}");
}
