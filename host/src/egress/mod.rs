//! Outgoing HTTP of plugins: the one function every request passes, [`Egress::send`].
//!
//! Its order is the security argument: guest headers cleaned → egress rule of this credential → address guard → auth rule
//! applied → sent, without redirects and without a proxy → answer scanned and masked → handed over. What a plugin or an
//! admin sees of a URL is the one before secrets were put in. Mail uses [`Guard`] only. Start at `send`.

mod base;
mod client;
mod exchange;
mod grant;
mod guard;
mod headers;
mod inject;
mod policy;
mod target;
mod template;
#[cfg(test)]
mod tests;
mod types;

use std::sync::Arc;

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue};
use tokio::time::Instant;
use url::{Host, Url};

#[cfg(test)]
pub(crate) use base::SEGMENT;
pub use client::{EgressError, EgressLimits};
pub use grant::{Grant, GrantError, check_rules};
pub use guard::{Guard, GuardError, Resolver, SystemResolver, is_forbidden};
pub use policy::OperatorPolicy;
pub use template::{Part, Space, Template, TemplateError, config_text};
pub use types::{CallLimits, Failure, FailureKind, Rehearsed, Request, Response, Sent};

use client::{Clients, Raw, Reach};
use inject::Outgoing;

use crate::model::Exchange;
use crate::plugin::manifest::Method;
use crate::secrets::Masker;

/// Sends the requests of all plugins. One for the whole host: connections are shared and reused.
pub struct Egress {
    policy: OperatorPolicy,
    guard: Guard,
    clients: Clients,
}

/// A request that has passed every check, secrets included.
struct Prepared {
    request: reqwest::Request,
    reach: Reach,
    /// For error texts.
    shown: String,
}

impl Egress {
    /// With the machine's resolver.
    pub fn new(policy: OperatorPolicy, limits: &EgressLimits) -> Result<Self, EgressError> {
        Self::with_resolver(policy, limits, Arc::new(SystemResolver::default()))
    }

    /// With any resolver.
    pub fn with_resolver(policy: OperatorPolicy, limits: &EgressLimits, resolver: Arc<dyn Resolver>) -> Result<Self, EgressError> {
        let guard = Guard::new(&policy, resolver);
        let clients = Clients::new(&guard, limits)?;
        Ok(Self { policy, guard, clients })
    }

    /// The address policy, for other protocols.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Sends one request of a guest with the rights of one credential.
    pub async fn send(&self, grant: &Grant, request: Request, call: &CallLimits) -> Sent {
        let started = Instant::now();
        let (masker, method) = (grant.masker(), request.method);
        let mut exchange = exchange::begun(&request.body, masker);
        let deadline = request.timeout.map_or(call.deadline, |timeout| call.deadline.min(started + timeout));
        let cap = usize::try_from(call.body_bytes).unwrap_or(usize::MAX);
        let reply = match self.prepare(grant, request, call, &mut exchange) {
            Ok(prepared) if call.dry_run && method.writes() => {
                Err(Failure::denied(format!("dry run: {} is not sent", prepared.request.method())))
            }
            Ok(prepared) => self.transmit(prepared, deadline, cap, call.status_alone).await,
            Err(failure) => Err(failure),
        };
        let (result, secret_echoed) = match reply {
            Ok(raw) => {
                let (response, echoed) = scan(raw, masker);
                exchange.status = Some(response.status);
                exchange.response = exchange::excerpt_of_masked(&response.body);
                (Ok(response), echoed)
            }
            Err(mut failure) => {
                failure.message = masker.mask_text(&failure.message).0.into_owned();
                exchange.response = exchange::excerpt_of_masked(failure.message.as_bytes());
                (Err(failure), false)
            }
        };
        exchange.duration_ms = u32::try_from(started.elapsed().as_millis()).unwrap_or(u32::MAX);
        Sent { result, exchange, secret_echoed }
    }

    /// The request as it would leave, checked like one that does; nothing is sent.
    pub fn rehearse(&self, grant: &Grant, request: Request, call: &CallLimits) -> Result<Rehearsed, Failure> {
        let mut exchange = exchange::begun(&[], grant.masker());
        let prepared = self.prepare(grant, request, call, &mut exchange)?;
        let masked = |bytes: &[u8]| String::from_utf8(grant.masker().mask_bytes(bytes).0.into_owned());
        let (method, url) = prepared.shown.split_once(' ').unwrap_or(("", &prepared.shown));
        let headers = prepared.request.headers().iter();
        let shown = |value: &HeaderValue| masked(value.as_bytes()).unwrap_or_else(|_| "(no text)".to_owned());
        Ok(Rehearsed {
            method: method.to_owned(),
            url: url.to_owned(),
            headers: headers.map(|(name, value)| (name.as_str().to_owned(), shown(value))).collect(),
            body: prepared.request.body().and_then(reqwest::Body::as_bytes).and_then(|body| masked(body).ok()),
        })
    }

    /// Everything that is decided before a byte leaves.
    fn prepare(&self, grant: &Grant, guest: Request, call: &CallLimits, exchange: &mut Exchange) -> Result<Prepared, Failure> {
        let relative_to = grant.relative_to(guest.auth.as_deref());
        let checked = headers::clean(&guest.headers)
            .and_then(|headers| Ok((headers, target::resolve(grant.rules(), relative_to, guest.method, &guest.url)?)));
        // A refused URL is shown as the guest wrote it.
        let shown = checked.as_ref().map_or(guest.url.as_str(), |(_, target)| target.url.as_str());
        exchange.request = exchange::request_line(guest.method, shown, grant.masker());
        let (headers, target) = checked?;
        let reach = self.reach(&target.url)?;
        if guest.body.len() > usize::try_from(call.body_bytes).unwrap_or(usize::MAX) {
            return Err(Failure::unsent(FailureKind::TooLarge, format!("the request's body is larger than {} bytes", call.body_bytes)));
        }
        let mut out = Outgoing { url: target.url, headers, body: guest.body, writes: guest.method.writes() };
        for auth in grant.covering(target.rule) {
            inject::strip(&mut out, auth);
        }
        if let Some(auth) = grant.choose(target.rule, guest.auth.as_deref())? {
            inject::apply(&mut out, auth, target.rule)?;
        }
        if let Some(rewritten) = self.policy.rewritten(&out.url) {
            out.url = rewritten;
        }
        let method = http::Method::from_bytes(guest.method.as_str().as_bytes()).map_err(|_| Failure::invalid("no such method"))?;
        let mut request = reqwest::Request::new(method, out.url);
        *request.headers_mut() = out.headers;
        if !out.body.is_empty() {
            *request.body_mut() = Some(out.body.into());
        } else if matches!(guest.method, Method::Post | Method::Put | Method::Patch) {
            // Some servers answer 411 without it.
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Ok(Prepared { request, reach, shown: exchange.request.clone() })
    }

    /// Judges the host and the port, and chooses the pool whose resolver judges the rest.
    fn reach(&self, url: &Url) -> Result<Reach, Failure> {
        if self.policy.rewritten(url).is_some() {
            return Ok(Reach::Gateway);
        }
        let port = url.port_or_known_default().unwrap_or_default();
        let ip = match url.host() {
            Some(Host::Ipv4(ip)) => ip.into(),
            Some(Host::Ipv6(ip)) => ip.into(),
            Some(Host::Domain(_)) if self.guard.is_open_port(port) => return Ok(Reach::Public),
            Some(Host::Domain(_)) if !self.policy.allow.is_empty() => return Ok(Reach::Inside),
            Some(Host::Domain(_)) => return Err(Failure::denied(GuardError::Port(port).to_string())),
            None => return Err(Failure::invalid("the URL has no host")),
        };
        // Connecting to a literal asks no resolver, so this is its only check.
        self.guard.check(ip, port).map_err(|refused| Failure::denied(refused.to_string()))?;
        Ok(Reach::Public)
    }

    async fn transmit(&self, prepared: Prepared, deadline: Instant, cap: usize, status_alone: bool) -> Result<Raw, Failure> {
        let Prepared { request, reach, shown } = prepared;
        if deadline <= Instant::now() {
            return Err(Failure::unsent(FailureKind::Timeout, format!("{shown}: no time is left")));
        }
        let body_until = status_alone.then_some(deadline);
        match tokio::time::timeout_at(deadline, client::fetch(self.clients.of(reach), request, cap, body_until)).await {
            Ok(reply) => reply.map_err(|failure| Failure { message: format!("{shown}: {}", failure.message), ..failure }),
            // The connection may not even stand yet, but that cannot be told from here.
            Err(_) => Err(Failure::sent(FailureKind::Timeout, format!("{shown}: no complete answer in time"))),
        }
    }
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Egress").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// The answer for the guest, and whether it held a secret.
fn scan(raw: Raw, masker: &Masker) -> (Response, bool) {
    let mut hits = 0;
    let mut compressed = false;
    let mut headers = Vec::with_capacity(raw.headers.len());
    for (name, value) in &raw.headers {
        let (value, found) = masker.mask_bytes(value.as_bytes());
        hits += found;
        compressed |= name == CONTENT_ENCODING && !value.is_empty() && !value.eq_ignore_ascii_case(b"identity");
        headers.push((masker.mask_text(name.as_str()).0.into_owned(), String::from_utf8_lossy(&value).into_owned()));
    }
    // Compression was not asked for, and what cannot be scanned is not handed over.
    let body = if compressed { Vec::new() } else { raw.body };
    let (masked, found) = masker.mask_bytes(&body);
    hits += found;
    let masked = if found == 0 { None } else { Some(masked.into_owned()) };
    (Response { status: raw.status, headers, body: masked.unwrap_or(body) }, hits > 0)
}
