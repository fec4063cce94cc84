//! `http`: requests through the host's one outgoing function, counted.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt;
use tokio::time::Instant;

use crate::egress::{CallLimits, Failure, FailureKind, Request, Response, Sent};
use crate::plugin::bindings::wit;
use crate::plugin::call::CallState;
use crate::plugin::manifest::Method;

/// Requests of one `send-all` that are under way at once.
const AT_ONCE: usize = 8;

type Answer = Result<wit::http::Response, wit::http::Failure>;

impl wit::http::Host for CallState {
    async fn send(&mut self, request: wit::http::Request) -> wasmtime::Result<Answer> {
        if let Some(refused) = self.count_request() {
            return Ok(Err(refused));
        }
        let request = into_request(request);
        let (method, limits) = (request.method, self.limits());
        if limits.dry_run
            && let Some(answer) = self.rehearse(&request, &limits)
        {
            return Ok(answer);
        }
        let since = Instant::now();
        let sent = self.env.egress.send(&self.env.grant, request, &limits).await;
        self.waited(since);
        Ok(self.account_for(method, sent))
    }

    async fn send_all(&mut self, requests: Vec<wit::http::Request>) -> wasmtime::Result<Vec<Answer>> {
        let limits = self.limits();
        let mut allowed = Vec::new();
        let mut answers: Vec<Option<Answer>> = Vec::with_capacity(requests.len());
        for (index, request) in requests.into_iter().enumerate() {
            match self.count_request() {
                Some(refused) => answers.push(Some(Err(refused))),
                None => {
                    let request = into_request(request);
                    let rehearsed = if limits.dry_run { self.rehearse(&request, &limits) } else { None };
                    if rehearsed.is_none() {
                        allowed.push((index, request));
                    }
                    answers.push(rehearsed);
                }
            }
        }
        let env = self.env.clone();
        // The answers are all held until the last is there: together they may not be more than the guest could hold.
        let room = AtomicUsize::new((env.manifest.limits.memory_mb as usize) << 20);
        let sends = allowed.into_iter().map(|(index, request)| {
            let (env, room) = (&env, &room);
            async move {
                let method = request.method;
                if room.load(Ordering::Relaxed) == 0 {
                    return (index, method, None);
                }
                let sent = env.egress.send(&env.grant, request, &limits).await;
                let len = sent.result.as_ref().map_or(0, |response| response.body.len());
                let _ = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(len)));
                (index, method, Some(sent))
            }
        });
        let since = Instant::now();
        let mut done: Vec<_> = futures_util::stream::iter(sends).buffer_unordered(AT_ONCE).collect().await;
        done.sort_by_key(|(index, _, _)| *index);
        self.waited(since);
        for (index, method, sent) in done {
            answers[index] = Some(match sent {
                Some(sent) => self.account_for(method, sent),
                None => Err(over_limit("the answers before it fill the plugin's memory".into())),
            });
        }
        Ok(answers.into_iter().flatten().collect())
    }
}

impl CallState {
    fn limits(&self) -> CallLimits {
        let limits = &self.env.manifest.limits;
        CallLimits {
            deadline: self.deadline,
            dry_run: self.env.context.dry_run,
            body_bytes: limits.body_bytes,
            status_alone: limits.status_alone,
        }
    }

    /// Notes what would be sent, and answers what changes something from the manifest's recordings. `None`: it goes out, or is
    /// refused there.
    fn rehearse(&mut self, request: &Request, limits: &CallLimits) -> Option<Answer> {
        let rehearsed = self.env.egress.rehearse(&self.env.grant, request.clone(), limits).ok()?;
        let path = url::Url::parse(&rehearsed.url).map(|url| url.path().to_owned()).unwrap_or_default();
        self.rehearsed.push(rehearsed);
        let recordings = &self.env.manifest.recordings;
        let recording = recordings.iter().find(|recording| recording.answers(request.method, &path))?;
        let body = wit::types::Body::Text(recording.body.clone());
        Some(Ok(wit::http::Response { status: recording.status, headers: Vec::new(), body }))
    }

    fn count_request(&mut self) -> Option<wit::http::Failure> {
        let most = self.env.manifest.limits.requests_per_call;
        if self.requests < most {
            self.requests += 1;
            return None;
        }
        self.note("it asked for more requests than one call may make (refused)");
        Some(over_limit(format!("one call may make {most} requests")))
    }

    /// Notes what the request may have changed, and keeps its exchange for the attempt.
    fn account_for(&mut self, method: Method, sent: Sent) -> Answer {
        if method.writes() {
            match &sent.result {
                Ok(_) => self.wrote = true,
                Err(failure) if failure.maybe_sent => {
                    self.wrote = true;
                    self.ambiguous = true;
                }
                Err(_) => {}
            }
        }
        if sent.secret_echoed {
            self.note("the remote side's answer held the credential's secret (masked)");
            tracing::warn!(plugin = %self.env.plugin, credential.id = %self.env.context.credential, "an answer held the credential's secret; it was masked");
        }
        if let Err(failure) = &sent.result
            && failure.kind == FailureKind::Denied
        {
            tracing::warn!(plugin = %self.env.plugin, credential.id = %self.env.context.credential, reason = %failure.message, "a plugin's request was refused");
        }
        self.exchanges.push(sent.exchange);
        sent.result.map(into_response).map_err(into_failure)
    }
}

fn over_limit(message: String) -> wit::http::Failure {
    wit::http::Failure { kind: wit::http::FailureKind::OverLimit, message, maybe_sent: false }
}

fn into_request(request: wit::http::Request) -> Request {
    Request {
        method: match request.method {
            wit::http::Method::Get => Method::Get,
            wit::http::Method::Head => Method::Head,
            wit::http::Method::Post => Method::Post,
            wit::http::Method::Put => Method::Put,
            wit::http::Method::Patch => Method::Patch,
            wit::http::Method::Delete => Method::Delete,
        },
        url: request.url,
        headers: request.headers.into_iter().map(|header| (header.name, header.value)).collect(),
        body: match request.body {
            wit::types::Body::Empty => Vec::new(),
            wit::types::Body::Text(text) => text.into_bytes(),
            wit::types::Body::Bytes(bytes) => bytes,
        },
        auth: request.auth,
        timeout: request.timeout_ms.map(|ms| std::time::Duration::from_millis(ms.into())),
    }
}

fn into_response(response: Response) -> wit::http::Response {
    let body = if response.body.is_empty() {
        wit::types::Body::Empty
    } else {
        match String::from_utf8(response.body) {
            Ok(text) => wit::types::Body::Text(text),
            Err(error) => wit::types::Body::Bytes(error.into_bytes()),
        }
    };
    let headers = response.headers.into_iter().map(|(name, value)| wit::http::Header { name, value }).collect();
    wit::http::Response { status: response.status, headers, body }
}

fn into_failure(failure: Failure) -> wit::http::Failure {
    use wit::http::FailureKind as Wit;
    let kind = match failure.kind {
        FailureKind::Denied => Wit::Denied,
        FailureKind::Invalid => Wit::Invalid,
        FailureKind::Dns => Wit::Dns,
        FailureKind::Connect => Wit::Connect,
        FailureKind::Tls => Wit::Tls,
        FailureKind::Timeout => Wit::Timeout,
        FailureKind::TooLarge => Wit::TooLarge,
        FailureKind::OverLimit => Wit::OverLimit,
        FailureKind::NoCredential => Wit::NoCredential,
        FailureKind::Other => Wit::Other,
    };
    wit::http::Failure { kind, message: failure.message, maybe_sent: failure.maybe_sent }
}
