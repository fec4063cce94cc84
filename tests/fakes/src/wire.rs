//! HTTP/1.1 on a bare socket: reads requests properly, answers as told.
//! Knows nothing of what a fake stands for. Start at [`serve`].

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{Answer, Manner};

/// Longest head of a request that is read.
const HEAD_MAX: usize = 1 << 20;
/// Longest body of a request that is read.
const BODY_MAX: usize = 64 << 20;

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Counts the requests of this fake, from 1.
    pub id: u64,
    /// Counts the connections of this fake, from 1: tells whether a connection was used again.
    pub connection: u64,
    /// Upper-case.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// What followed the question mark, as it came.
    pub query: Option<String>,
    /// In the order they came, names in lower case.
    pub headers: Vec<(String, String)>,
    /// As it came, without chunk framing.
    pub body: Bytes,
    /// When the last byte had been read.
    pub at: Instant,
}

impl Request {
    /// The first header of this name, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text; bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, or null.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body as a form.
    #[must_use]
    pub fn form(&self) -> Vec<(String, String)> {
        decode_form(&self.text())
    }
}

/// Decodes `application/x-www-form-urlencoded`.
pub(crate) fn decode_form(text: &str) -> Vec<(String, String)> {
    let decode = |part: &str| percent_encoding::percent_decode_str(&part.replace('+', " ")).decode_utf8_lossy().into_owned();
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

/// What decides the answers.
pub(crate) trait Handler: Send + Sync + 'static {
    fn answer(&self, request: Request) -> Answer;
}

/// A listening fake; dropping it closes the port and every connection.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    _guard: DropGuard,
}

/// Listens on a port of 127.0.0.1; 0 takes a free one.
pub(crate) async fn serve(handler: Arc<dyn Handler>, port: u16) -> Result<Server> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let addr = listener.local_addr()?;
    let stop = CancellationToken::new();
    let guard = stop.clone().drop_guard();
    tokio::spawn(async move {
        let requests = Arc::new(AtomicU64::new(0));
        let mut connections = 0;
        loop {
            let socket = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => match accepted { Ok((socket, _)) => socket, Err(_) => continue },
            };
            connections += 1;
            let connection = Connection { socket, pending: BytesMut::new(), number: connections, requests: requests.clone() };
            let (handler, stop) = (handler.clone(), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    // How a connection ends is the other side's business to judge.
                    _ = connection.run(handler) => {}
                }
            });
        }
    });
    Ok(Server { addr, _guard: guard })
}

struct Connection {
    socket: TcpStream,
    pending: BytesMut,
    number: u64,
    requests: Arc<AtomicU64>,
}

/// The parts of a request's head that framing needs, and the rest.
struct Head {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
}

impl Head {
    fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }
}

impl Connection {
    async fn run(mut self, handler: Arc<dyn Handler>) -> Result<()> {
        self.socket.set_nodelay(true)?;
        while let Some(head) = self.read_head().await? {
            if head.get("expect").is_some_and(|expect| expect.eq_ignore_ascii_case("100-continue")) {
                self.socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            }
            let body = self.read_body(&head).await?;
            let last = head.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
            let is_head = head.method == "HEAD";
            let (path, query) = match head.target.split_once('?') {
                Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
                None => (head.target, None),
            };
            let id = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
            let (method, headers) = (head.method, head.headers);
            let request = Request { id, connection: self.number, method, path, query, headers, body, at: Instant::now() };
            let answer = handler.answer(request);
            if !self.write(answer, is_head).await? || last {
                break;
            }
        }
        self.socket.shutdown().await
    }

    /// The next head, or `None` when the other side has closed between requests.
    async fn read_head(&mut self) -> Result<Option<Head>> {
        loop {
            if let Some((head, used)) = parse_head(&self.pending)? {
                self.pending.advance(used);
                return Ok(Some(head));
            }
            if self.pending.len() > HEAD_MAX {
                return Err(ErrorKind::InvalidData.into());
            }
            if self.socket.read_buf(&mut self.pending).await? == 0 {
                return if self.pending.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    async fn read_body(&mut self, head: &Head) -> Result<Bytes> {
        if head.get("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked")) {
            return self.read_chunks().await;
        }
        let length = match head.get("content-length") {
            Some(text) => text.parse().map_err(|_| Error::from(ErrorKind::InvalidData))?,
            None => 0,
        };
        self.take(length).await
    }

    async fn read_chunks(&mut self) -> Result<Bytes> {
        let mut body = BytesMut::new();
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| Error::from(ErrorKind::InvalidData))?;
            if size == 0 {
                while !self.line().await?.is_empty() {}
                return Ok(body.freeze());
            }
            body.extend_from_slice(&self.take(size).await?);
            if body.len() > BODY_MAX {
                return Err(ErrorKind::InvalidData.into());
            }
            self.line().await?;
        }
    }

    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.pending.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.pending[..end]).into_owned();
                self.pending.advance(end + 2);
                return Ok(line);
            }
            self.more().await?;
        }
    }

    async fn take(&mut self, length: usize) -> Result<Bytes> {
        if length > BODY_MAX {
            return Err(ErrorKind::InvalidData.into());
        }
        while self.pending.len() < length {
            self.more().await?;
        }
        Ok(self.pending.split_to(length).freeze())
    }

    async fn more(&mut self) -> Result<()> {
        if self.socket.read_buf(&mut self.pending).await? == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Writes the answer in its manner; false when the connection is to be closed.
    async fn write(&mut self, answer: Answer, is_head: bool) -> Result<bool> {
        if let Some(gate) = &answer.gate {
            gate.pass().await;
        }
        for status in &answer.interim {
            self.socket.write_all(format!("HTTP/1.1 {status} Interim\r\n\r\n").as_bytes()).await?;
        }
        let body: &[u8] = if is_head { b"" } else { &answer.body };
        match &answer.manner {
            Manner::Whole | Manner::CloseAfter => {
                let mut all = head_of(&answer, Some(answer.body.len()));
                all.extend_from_slice(body);
                self.socket.write_all(&all).await?;
                Ok(matches!(answer.manner, Manner::Whole))
            }
            Manner::CloseBefore => Ok(false),
            Manner::CloseWithin => {
                // Without a body of its own it promises one, so that there is a middle to stop in.
                let promised = answer.body.len().max(2);
                self.socket.write_all(&head_of(&answer, Some(promised))).await?;
                self.socket.write_all(&answer.body[..answer.body.len() / 2]).await?;
                Ok(false)
            }
            Manner::ClaimsMore(extra) => {
                self.socket.write_all(&head_of(&answer, Some(answer.body.len() + extra))).await?;
                self.socket.write_all(body).await?;
                Ok(false)
            }
            Manner::Endless => self.write_endless(&answer).await,
            Manner::Steps(gate) => {
                let mut all = head_of(&answer, Some(answer.body.len()));
                all.extend_from_slice(body);
                for byte in all {
                    gate.pass().await;
                    self.socket.write_all(&[byte]).await?;
                }
                Ok(true)
            }
            Manner::Drip(pause) => self.write_drip(&answer, *pause).await,
            Manner::Garbage(bytes) => {
                self.socket.write_all(bytes).await?;
                Ok(false)
            }
        }
    }

    async fn write_endless(&mut self, answer: &Answer) -> Result<bool> {
        self.socket.write_all(&head_of(answer, None)).await?;
        let block = format!("{:x}\r\n{}\r\n", 8192, "e".repeat(8192));
        loop {
            self.socket.write_all(block.as_bytes()).await?;
        }
    }

    async fn write_drip(&mut self, answer: &Answer, pause: Duration) -> Result<bool> {
        let mut all = head_of(answer, Some(answer.body.len()));
        all.extend_from_slice(&answer.body);
        let mut ticks = tokio::time::interval(pause);
        for byte in all {
            ticks.tick().await;
            self.socket.write_all(&[byte]).await?;
        }
        Ok(true)
    }
}

/// The head of an answer; without a length the body is chunked.
fn head_of(answer: &Answer, length: Option<usize>) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, reason(answer.status));
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    match length {
        // These have no body by definition, and a length would contradict that.
        _ if answer.status == 204 || answer.status == 304 || answer.status < 200 => {}
        Some(length) => head.push_str(&format!("content-length: {length}\r\n")),
        None => head.push_str("transfer-encoding: chunked\r\n"),
    }
    head.push_str("\r\n");
    head.into_bytes()
}

fn reason(status: u16) -> &'static str {
    match status {
        200..300 => "OK",
        300..400 => "Elsewhere",
        400..500 => "Refused",
        500.. => "Failed",
        _ => "Interim",
    }
}

fn parse_head(pending: &[u8]) -> Result<Option<(Head, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(pending).map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
    let httparse::Status::Complete(used) = parsed else { return Ok(None) };
    let headers =
        request.headers.iter().map(|field| (field.name.to_ascii_lowercase(), String::from_utf8_lossy(field.value).into_owned())).collect();
    let method = request.method.unwrap_or_default().to_ascii_uppercase();
    Ok(Some((Head { method, target: request.path.unwrap_or("/").to_owned(), headers }, used)))
}
