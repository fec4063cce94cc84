//! The connection pools. Which addresses a pool may connect to is fixed when it is made, so a pooled connection can never
//! serve a request that would not have been allowed to open it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::time::Instant;

use super::guard::{Guard, GuardError};
use super::types::{Failure, FailureKind};

/// Time limits and sizes of the connection pools.
#[derive(Debug, Clone)]
pub struct EgressLimits {
    /// For name look-up, TCP and TLS together.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept. Below what servers commonly wait, so that they seldom close one that is being used.
    pub idle_timeout: Duration,
    /// Unused connections kept for one host.
    pub idle_per_host: usize,
}

impl Default for EgressLimits {
    fn default() -> Self {
        Self { connect_timeout: Duration::from_secs(10), idle_timeout: Duration::from_secs(30), idle_per_host: 64 }
    }
}

/// Why the host cannot send requests at all.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// TLS could not be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The client could not be made.
    #[error("HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// Which addresses a pool connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Public ones and the operator's allowed networks.
    Public,
    /// The operator's allowed networks only: for ports that are closed elsewhere.
    Inside,
    /// Any: the operator's own rewrite targets.
    Gateway,
}

pub(super) struct Clients {
    public: reqwest::Client,
    inside: reqwest::Client,
    gateway: reqwest::Client,
}

impl Clients {
    pub(super) fn new(guard: &Guard, limits: &EgressLimits) -> Result<Self, EgressError> {
        // One configuration for all pools: the root certificates are read and held once.
        let tls = tls_config()?;
        let client = |reach| client(GuardedDns { guard: guard.clone(), reach }, limits, &tls);
        Ok(Self { public: client(Reach::Public)?, inside: client(Reach::Inside)?, gateway: client(Reach::Gateway)? })
    }

    pub(super) fn of(&self, reach: Reach) -> &reqwest::Client {
        match reach {
            Reach::Public => &self.public,
            Reach::Inside => &self.inside,
            Reach::Gateway => &self.gateway,
        }
    }
}

fn client(dns: GuardedDns, limits: &EgressLimits, tls: &rustls::ClientConfig) -> Result<reqwest::Client, EgressError> {
    let client = reqwest::Client::builder()
        .user_agent(concat!("Leadwire/", env!("CARGO_PKG_VERSION")))
        .tls_backend_preconfigured(tls.clone())
        .dns_resolver(dns)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .no_proxy()
        // A send again is the retry policy's decision. (The pool itself still takes another connection when one that was
        // kept turns out to be closed before a byte of the request was written.)
        .retry(reqwest::retry::never())
        .http1_only()
        .connect_timeout(limits.connect_timeout)
        .pool_idle_timeout(limits.idle_timeout)
        .pool_max_idle_per_host(limits.idle_per_host)
        .build()?;
    Ok(client)
}

fn tls_config() -> Result<rustls::ClientConfig, EgressError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let mut config = match rustls_platform_verifier::Verifier::new(provider) {
        Ok(verifier) => builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth(),
        Err(error) => {
            tracing::error!(%error, "no root certificates on this machine, so no https request can work; install the package ca-certificates");
            builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The resolver that connections get their addresses from: looks a name up once and hands over what may be connected to.
/// Address literals never come here; they are judged before.
struct GuardedDns {
    guard: Guard,
    reach: Reach,
}

impl Resolve for GuardedDns {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, reach) = (self.guard.clone(), self.reach);
        Box::pin(async move {
            let found = match reach {
                // The request's own port has been judged; 80 is open always.
                Reach::Public => guard.resolve(name.as_str(), 80).await?,
                Reach::Inside => guard.with_ports([]).resolve(name.as_str(), 80).await?,
                Reach::Gateway => {
                    let found = guard.resolver().lookup(name.as_str()).await.map_err(|error| GuardError::Lookup(error.to_string()))?;
                    found.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect()
                }
            };
            // Port 0 stands for the URL's port.
            let addresses: Addrs = Box::new(found.into_iter().map(|address| SocketAddr::new(address.ip(), 0)));
            Ok(addresses)
        })
    }
}

/// What came back, before it is scanned.
pub(super) struct Raw {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Vec<u8>,
}

/// Sends and reads the answer up to `cap` bytes. Dropping the future closes the connection. With `body_until` the body is
/// left out when it cannot be had whole by then: half a body could end in half a secret.
pub(super) async fn fetch(
    client: &reqwest::Client,
    request: reqwest::Request,
    cap: usize,
    body_until: Option<Instant>,
) -> Result<Raw, Failure> {
    let mut response = client.execute(request).await.map_err(classify)?;
    let body = match body_until {
        None => body_of(&mut response, cap).await?,
        Some(until) => tokio::time::timeout_at(until, body_of(&mut response, cap)).await.ok().and_then(Result::ok).unwrap_or_default(),
    };
    Ok(Raw { status: response.status().as_u16(), headers: std::mem::take(response.headers_mut()), body })
}

async fn body_of(response: &mut reqwest::Response, cap: usize) -> Result<Vec<u8>, Failure> {
    let too_large = || Failure::sent(FailureKind::TooLarge, format!("the answer is larger than {cap} bytes"));
    let announced = usize::try_from(response.content_length().unwrap_or(0)).unwrap_or(usize::MAX);
    if announced > cap {
        return Err(too_large());
    }
    let mut body = Vec::with_capacity(announced);
    while let Some(chunk) = response.chunk().await.map_err(|error| Failure::sent(FailureKind::Other, text_of(error)))? {
        if body.len() + chunk.len() > cap {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Nothing of a request is written before its connection stands, so every failure to connect is a failure before sending.
fn classify(error: reqwest::Error) -> Failure {
    if let Some(refused) = find::<GuardError>(&error) {
        let kind = if matches!(refused, GuardError::Lookup(_)) { FailureKind::Dns } else { FailureKind::Denied };
        return Failure::unsent(kind, refused.to_string());
    }
    if error.is_connect() {
        let kind = if is_tls(&error) { FailureKind::Tls } else { FailureKind::Connect };
        return Failure::unsent(kind, text_of(error));
    }
    if error.is_builder() {
        return Failure::unsent(FailureKind::Invalid, text_of(error));
    }
    let kind = if error.is_timeout() { FailureKind::Timeout } else { FailureKind::Other };
    Failure::sent(kind, text_of(error))
}

fn chain(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source())
}

fn find<E: std::error::Error + 'static>(error: &reqwest::Error) -> Option<&E> {
    chain(error).find_map(|error| error.downcast_ref::<E>())
}

fn is_tls(error: &reqwest::Error) -> bool {
    chain(error).any(|error| {
        // The TLS error comes in one or more I/O errors, which name only its own cause as theirs.
        let mut inner = error;
        while let Some(wrapped) = inner.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            inner = wrapped;
        }
        inner.is::<rustls::Error>()
    })
}

/// The whole chain of causes, without the URL: it has the secrets put in.
fn text_of(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = String::new();
    for cause in chain(&error) {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text
}
