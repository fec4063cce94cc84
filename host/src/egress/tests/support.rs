//! A scripted HTTP server, a scripted resolver and short forms for manifests and requests.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::super::*;
use crate::plugin::manifest::{Manifest, Method};
use crate::secrets::{SecretSet, SecretText};

pub const TOKEN: &str = "123456:AAE-s3cret/t0ken";

/// What the server does with a request.
#[derive(Clone)]
pub enum Reply {
    /// Answers and keeps the connection.
    Bytes(Vec<u8>),
    /// Answers and closes without having said so.
    ThenClose(Vec<u8>),
    /// Closes without an answer.
    Close,
    /// Sends this and never another byte.
    Hang(Vec<u8>),
    /// Sends this and then bytes without end.
    Endless(Vec<u8>),
}

pub fn text(status: &str, body: &str) -> Reply {
    Reply::Bytes(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

pub fn raw(bytes: &str) -> Reply {
    Reply::Bytes(bytes.as_bytes().to_vec())
}

pub struct Server {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    pub async fn start(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let reply = Arc::new(reply);
        let (seen, count) = (Arc::clone(&requests), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(converse(stream, Arc::clone(&seen), Arc::clone(&reply)));
            }
        });
        Self { address, requests, connections }
    }

    /// Answers each request with 200 and the request itself as the body.
    pub async fn echo() -> Self {
        Self::start(|request| text("200 OK", request)).await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Head and body of every request, as they came over the wire.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    pub fn only_request(&self) -> String {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests[0].clone()
    }
}

async fn converse(mut stream: TcpStream, seen: Arc<Mutex<Vec<String>>>, reply: Arc<impl Fn(&str) -> Reply>) {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        let answer = reply(&request);
        seen.lock().unwrap().push(request);
        match answer {
            Reply::Bytes(bytes) => stream.write_all(&bytes).await.unwrap(),
            Reply::ThenClose(bytes) => return stream.write_all(&bytes).await.unwrap(),
            Reply::Close => return,
            Reply::Hang(bytes) => {
                stream.write_all(&bytes).await.unwrap();
                return std::future::pending().await;
            }
            Reply::Endless(bytes) => {
                stream.write_all(&bytes).await.unwrap();
                while stream.write_all(&[b'x'; 8192]).await.is_ok() {}
                return;
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).map_or(0, |n| n.trim().parse().unwrap());
            if buffer.len() >= end + 4 + length {
                let request = buffer.drain(..end + 4 + length).collect::<Vec<_>>();
                return Some(String::from_utf8_lossy(&request).into_owned());
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// Answers with one list of addresses after the other; the last one stays.
#[derive(Default)]
pub struct Names {
    pub answers: Mutex<BTreeMap<String, Vec<Vec<IpAddr>>>>,
    pub lookups: AtomicUsize,
}

impl Names {
    pub fn of(name: &str, answers: &[&[&str]]) -> Arc<Self> {
        let answers = answers.iter().map(|list| list.iter().map(|ip| ip.parse().unwrap()).collect()).collect();
        Arc::new(Self { answers: Mutex::new([(name.to_owned(), answers)].into()), lookups: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl Resolver for Names {
    async fn lookup(&self, host: &str) -> std::io::Result<Vec<IpAddr>> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let list = answers.get_mut(host).ok_or_else(|| std::io::Error::other("no such host"))?;
        Ok(if list.len() > 1 { list.remove(0) } else { list[0].clone() })
    }
}

pub fn limits() -> EgressLimits {
    EgressLimits { connect_timeout: Duration::from_secs(5), ..EgressLimits::default() }
}

pub fn egress(allow: &str) -> Egress {
    egress_with(allow, Arc::new(SystemResolver::default()))
}

pub fn egress_with(allow: &str, resolver: Arc<dyn Resolver>) -> Egress {
    let policy = OperatorPolicy { allow: OperatorPolicy::parse_allow(allow).unwrap(), ..Default::default() };
    Egress::with_resolver(policy, &limits(), resolver).unwrap()
}

/// A manifest with one egress rule `api` for all methods, a config property `url` for its base, two secrets, and these auth rules.
pub fn manifest(auth: Value) -> Manifest {
    serde_json::from_value(json!({
        "manifest": 1, "contract": "1.0", "channel": "test", "version": "1.0.0", "title": {}, "provides": ["outbound"],
        "config": { "schema": { "properties": { "url": { "x-address": true }, "user": {} } } },
        "secret": [
            { "name": "token", "use": ["inject"] },
            { "name": "key", "use": ["sign"] },
        ],
        "egress": [{ "name": "api", "base": "{config.url}", "methods": ["get", "head", "post", "put", "patch", "delete"] }],
        "auth": auth,
    }))
    .unwrap()
}

/// With the secret `token` filled.
pub fn grant(url: &str, auth: Value) -> Grant {
    grant_with(url, auth, &[("token", TOKEN)])
}

pub fn grant_with(url: &str, auth: Value, secrets: &[(&str, &str)]) -> Grant {
    let config = json!({ "url": url, "user": "bob" });
    let secrets: SecretSet = secrets.iter().map(|(name, text)| ((*name).to_owned(), SecretText::new((*text).to_owned()))).collect();
    Grant::new(&manifest(auth), config.as_object().unwrap(), Arc::new(secrets)).unwrap()
}

pub fn bearer() -> Value {
    json!([{ "name": "bearer", "default": true, "required": true, "header": { "authorization": "Bearer {secret.token}" } }])
}

pub fn get(url: &str) -> Request {
    Request { method: Method::Get, url: url.to_owned(), headers: vec![], body: vec![], auth: None, timeout: None }
}

pub fn post(url: &str, body: &str) -> Request {
    Request { method: Method::Post, body: body.as_bytes().to_vec(), ..get(url) }
}

impl Request {
    /// With one more header.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

pub fn call() -> CallLimits {
    CallLimits { deadline: Instant::now() + Duration::from_secs(20), dry_run: false, body_bytes: 64 * 1024, status_alone: false }
}

/// Sends, and checks what must hold for every send: no secret in anything that is handed on.
pub async fn send(egress: &Egress, grant: &Grant, request: Request) -> Sent {
    send_in(egress, grant, request, &call()).await
}

pub async fn send_in(egress: &Egress, grant: &Grant, request: Request, call: &CallLimits) -> Sent {
    let sent = egress.send(grant, request, call).await;
    let shown = format!("{sent:?} {grant:?} {egress:?}");
    assert!(!shown.contains("s3cret"), "{shown}");
    sent
}

pub fn failure(sent: &Sent) -> (FailureKind, bool) {
    let failure = sent.result.as_ref().unwrap_err();
    (failure.kind, failure.maybe_sent)
}
