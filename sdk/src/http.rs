//! Requests to the hosts that the manifest names and the operator granted.
//!
//! The host resolves relative addresses below the credential's base, applies the manifest's auth rule, never follows a
//! redirect and caps bodies and time.

use std::borrow::Cow;

use serde::{Serialize, de::DeserializeOwned};

use crate::{Body, Outcome, Stop, Verdict, sys, time};

pub use crate::bindings::leadwire::channel::http::{Failure, FailureKind, Header, Method, Request, Response};

/// Longest part of an answer's body that goes into a message for the admin, in characters.
const EXCERPT: usize = 300;

/// Starts requests. From [`crate::Context::http`].
#[derive(Debug, Clone, Copy)]
pub struct Http(());

impl Http {
    pub(crate) fn new() -> Self {
        Self(())
    }

    /// A GET request.
    pub fn get(&self, url: impl Into<String>) -> RequestBuilder {
        self.request(Method::Get, url)
    }

    /// A POST request.
    pub fn post(&self, url: impl Into<String>) -> RequestBuilder {
        self.request(Method::Post, url)
    }

    /// A PUT request.
    pub fn put(&self, url: impl Into<String>) -> RequestBuilder {
        self.request(Method::Put, url)
    }

    /// A PATCH request.
    pub fn patch(&self, url: impl Into<String>) -> RequestBuilder {
        self.request(Method::Patch, url)
    }

    /// A DELETE request.
    pub fn delete(&self, url: impl Into<String>) -> RequestBuilder {
        self.request(Method::Delete, url)
    }

    /// A request with any method. `url` is absolute, or a path below the credential's base address.
    pub fn request(&self, method: Method, url: impl Into<String>) -> RequestBuilder {
        let request = Request { method, url: url.into(), headers: Vec::new(), body: Body::Empty, auth: None, timeout_ms: None };
        RequestBuilder { request, broken: None }
    }

    /// Sends all at once, as far as limits allow; the answers are in the order of the requests.
    pub fn send_all(&self, requests: Vec<RequestBuilder>) -> Vec<Result<Response, Failure>> {
        let broken: Vec<_> = requests.iter().map(|request| request.broken.clone()).collect();
        let sound: Vec<_> = requests.into_iter().filter(|request| request.broken.is_none()).map(|request| request.request).collect();
        let mut answers = sys::http::send_all(&sound).into_iter();
        broken
            .into_iter()
            .map(|broken| match broken {
                Some(message) => Err(invalid(message)),
                None => answers.next().unwrap_or_else(|| Err(invalid("the host gave fewer answers than requests".into()))),
            })
            .collect()
    }
}

/// A request being put together.
#[derive(Debug, Clone)]
#[must_use = "a request does nothing until it is sent"]
pub struct RequestBuilder {
    request: Request,
    /// Why the body could not be written.
    broken: Option<String>,
}

impl RequestBuilder {
    /// Adds a header. The host refuses those that are its own, such as `host` and `content-length`.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.request.headers.push(Header { name: name.into(), value: value.into() });
        self
    }

    /// Adds a query parameter.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.request.url.push(if self.request.url.contains('?') { '&' } else { '?' });
        let start = self.request.url.len();
        let url = std::mem::take(&mut self.request.url);
        self.request.url = form_urlencoded::Serializer::for_suffix(url, start).append_pair(name, value).finish();
        self
    }

    /// A JSON body, with its `content-type`.
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Self {
        match serde_json::to_string(value) {
            Ok(text) => self.text("application/json", text),
            Err(error) => Self { broken: Some(format!("the body cannot be written as JSON: {error}")), ..self },
        }
    }

    /// A form body, with its `content-type`.
    pub fn form<K: AsRef<str>, V: AsRef<str>>(self, pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        self.text("application/x-www-form-urlencoded", form_body(pairs))
    }

    /// A text body of this content type.
    pub fn text(mut self, content_type: &str, body: impl Into<String>) -> Self {
        self.request.body = Body::Text(body.into());
        self.header("content-type", content_type)
    }

    /// A binary body of this content type.
    pub fn bytes(mut self, content_type: &str, body: Vec<u8>) -> Self {
        self.request.body = Body::Bytes(body);
        self.header("content-type", content_type)
    }

    /// Applies this auth rule of the manifest instead of the default one.
    pub fn auth(mut self, rule: &str) -> Self {
        self.request.auth = Some(rule.into());
        self
    }

    /// Gives up after this time; the call's own limit holds all the same.
    pub fn timeout_ms(mut self, ms: u32) -> Self {
        self.request.timeout_ms = Some(ms);
        self
    }

    /// Sends it.
    pub fn send(self) -> Result<Response, Failure> {
        match self.broken {
            Some(message) => Err(invalid(message)),
            None => sys::http::send(&self.request),
        }
    }
}

impl Response {
    /// 200 to 299.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value.as_str())
    }

    /// The body as text; bytes that are no UTF-8 are replaced.
    pub fn text(&self) -> Cow<'_, str> {
        match &self.body {
            Body::Empty => Cow::Borrowed(""),
            Body::Text(text) => Cow::Borrowed(text),
            Body::Bytes(bytes) => String::from_utf8_lossy(bytes),
        }
    }

    /// The body as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.text())
    }

    /// `Retry-After` in milliseconds, at most a day; `None` when it is absent or cannot be read.
    pub fn retry_after(&self) -> Option<u32> {
        time::retry_after_ms(self.header("retry-after")?, sys::clock::now_ms())
    }

    /// The beginning of the body on one line, for a message to the admin.
    pub fn excerpt(&self) -> String {
        let text = self.text();
        let mut words = text.split_whitespace();
        let mut line: String = words.next().unwrap_or_default().chars().take(EXCERPT).collect();
        for word in words {
            if line.len() > EXCERPT {
                break;
            }
            line.push(' ');
            line.extend(word.chars().take(EXCERPT));
        }
        match line.char_indices().nth(EXCERPT) {
            Some((cut, _)) => format!("{}…", &line[..cut]),
            None => line,
        }
    }

    /// `answered 503: try later`, for a message to the admin.
    pub fn summary(&self) -> String {
        let excerpt = self.excerpt();
        if excerpt.is_empty() { format!("answered {}", self.status) } else { format!("answered {}: {excerpt}", self.status) }
    }
}

impl FailureKind {
    /// The kind in one word, as it stands in a refusal's code after `http_`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::TooLarge => "too_large",
            Self::OverLimit => "over_limit",
            Self::NoCredential => "no_credential",
            Self::Other => "other",
        }
    }
}

/// For calls that are about no item, such as `check`.
impl From<Failure> for Stop {
    fn from(lost: Failure) -> Self {
        match lost.kind {
            FailureKind::NoCredential => Self::credential_invalid(lost.message),
            FailureKind::Denied | FailureKind::Invalid => Self::misconfigured(lost.message),
            FailureKind::Dns | FailureKind::Connect | FailureKind::Tls | FailureKind::Timeout => Self::unavailable(None),
            FailureKind::TooLarge | FailureKind::OverLimit | FailureKind::Other => {
                Self::internal(format!("{}: {}", lost.kind.word(), lost.message))
            }
        }
    }
}

/// The usual outcome of a request: [`outcome_from_status`] or [`outcome_from_failure`].
pub fn outcome(answer: Result<Response, Failure>) -> Outcome {
    match answer {
        Ok(answer) => outcome_from_status(&answer),
        Err(lost) => outcome_from_failure(&lost),
    }
}

/// What an HTTP status means when the remote side says nothing more exact.
///
/// | status | outcome |
/// |---|---|
/// | 2xx | delivered |
/// | 3xx | rejected: redirects are never followed |
/// | 401, 403, 407 | the credential is invalid |
/// | 408, 425, other 4xx | retry: a refusal that survives the normal tries |
/// | 429 | rate limited, with `Retry-After` |
/// | 5xx | retry, with `Retry-After`; it may have been done all the same |
pub fn outcome_from_status(answer: &Response) -> Outcome {
    let code = format!("http_{}", answer.status);
    match answer.status {
        200..=299 => Ok(Verdict::delivered()),
        300..=399 => Ok(Verdict::rejected(&code, format!("{}; redirects are not followed, enter the final address", answer.summary()))),
        401 | 403 | 407 => Err(Stop::credential_invalid(answer.summary())),
        429 => Err(Stop::rate_limited(answer.retry_after())),
        400..=499 => Ok(Verdict::retry(&code, answer.summary()).after(answer.retry_after())),
        _ => Ok(Verdict::retry(&code, answer.summary()).after(answer.retry_after()).maybe_sent(true)),
    }
}

/// What it means that there was no answer.
///
/// | failure | outcome |
/// |---|---|
/// | denied, invalid, a request that is too large | rejected |
/// | no credential | the credential is invalid |
/// | all others | retry; `maybe_sent` as the host saw it |
pub fn outcome_from_failure(lost: &Failure) -> Outcome {
    let code = format!("http_{}", lost.kind.word());
    match lost.kind {
        FailureKind::NoCredential => Err(Stop::credential_invalid(lost.message.clone())),
        FailureKind::Denied | FailureKind::Invalid => Ok(Verdict::rejected(&code, lost.message.clone())),
        // Nothing was sent, and the next request would be as large.
        FailureKind::TooLarge if !lost.maybe_sent => Ok(Verdict::rejected(&code, lost.message.clone())),
        _ => Ok(Verdict::retry(&code, lost.message.clone()).maybe_sent(lost.maybe_sent)),
    }
}

/// Pairs as `application/x-www-form-urlencoded`, for when the exact bytes are needed, to sign them for example.
pub fn form_body<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

fn invalid(message: String) -> Failure {
    Failure { kind: FailureKind::Invalid, message, maybe_sent: false }
}
