//! One HTTP connection to the host under test, opened again when it is lost.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A status and what came with it.
#[derive(Debug)]
pub struct Answer {
    #[allow(missing_docs)]
    pub status: u16,
    #[allow(missing_docs)]
    pub body: Bytes,
}

/// A kept-alive connection.
pub struct Connection {
    address: SocketAddr,
    key: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    /// Connects at the first request; `key` goes with each.
    pub fn new(address: SocketAddr, key: &str) -> Self {
        Self { address, key: key.to_owned(), sender: None }
    }

    /// Sends one request. An empty body is none.
    pub async fn send(&mut self, method: &str, path: &str, body: Bytes) -> Result<Answer> {
        let mut sender = match self.sender.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.connect().await?,
        };
        let request = Request::builder().method(method).uri(path).header("host", "bench").header("x-api-key", &self.key);
        let request = request.header("content-type", "application/json").body(Full::new(body))?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        self.sender = Some(sender);
        Ok(Answer { status, body })
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await.with_context(|| format!("connect to {}", self.address))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with its sender; what it failed of, the sender's next request says.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}
