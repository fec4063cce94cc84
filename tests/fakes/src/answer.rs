//! What a fake says back, and how badly it says it.

use std::time::Duration;

use serde_json::Value;

use crate::Gate;

/// One scripted answer: what is said, when, and in which manner.
#[derive(Clone, Debug)]
pub struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) manner: Manner,
    pub(crate) gate: Option<Gate>,
    pub(crate) interim: Vec<u16>,
}

/// How an answer reaches the other side.
#[derive(Clone, Debug, Default)]
pub enum Manner {
    /// In one piece; the connection is kept.
    #[default]
    Whole,
    /// Closed after the request was read, before anything is said.
    CloseBefore,
    /// Closed when the head and half of the body are out.
    CloseWithin,
    /// Closed after a complete answer, without `Connection: close`: the next request on it is lost.
    CloseAfter,
    /// The head, then a body that never ends.
    Endless,
    /// One byte for each [`Gate::step`].
    Steps(Gate),
    /// One byte per interval: never idle long enough for an idle timeout, never done either.
    Drip(Duration),
    /// `Content-Length` is larger than the body by this much, then the connection closes.
    ClaimsMore(usize),
    /// These bytes instead of an HTTP answer, then the connection closes.
    Garbage(Vec<u8>),
}

impl Answer {
    /// An answer with this status and an empty body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), manner: Manner::Whole, gate: None, interim: Vec::new() }
    }

    /// 200 without a body.
    #[must_use]
    pub fn ok() -> Self {
        Self::status(200)
    }

    /// 302 to `location`.
    #[must_use]
    pub fn redirect(location: &str) -> Self {
        Self::status(302).header("location", location)
    }

    /// `status` with `Retry-After: value`, in seconds or as an HTTP date.
    #[must_use]
    pub fn retry_after(status: u16, value: &str) -> Self {
        Self::status(status).header("retry-after", value)
    }

    /// 200 with one header of `bytes` bytes.
    #[must_use]
    pub fn big_header(bytes: usize) -> Self {
        Self::ok().header("x-filler", &"f".repeat(bytes))
    }

    /// 200 and a body without end.
    #[must_use]
    pub fn endless() -> Self {
        Self::ok().manner(Manner::Endless)
    }

    /// The connection closes before anything is said.
    #[must_use]
    pub fn close() -> Self {
        Self::ok().manner(Manner::CloseBefore)
    }

    /// Adds a header; a name may come more than once.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets a JSON body with its content type.
    #[must_use]
    pub fn json(self, value: &Value) -> Self {
        self.header("content-type", "application/json").body(value.to_string())
    }

    /// Sets the manner.
    #[must_use]
    pub fn manner(mut self, manner: Manner) -> Self {
        self.manner = manner;
        self
    }

    /// Says nothing until the test lets it through the gate.
    #[must_use]
    pub fn held(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Sends an interim answer (100, 103) first.
    #[must_use]
    pub fn after_interim(mut self, status: u16) -> Self {
        self.interim.push(status);
        self
    }
}
