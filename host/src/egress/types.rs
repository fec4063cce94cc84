//! What goes into a send and what comes out.

use std::time::Duration;

use crate::model::Exchange;
use crate::plugin::manifest::Method;

/// A guest's request.
#[derive(Debug, Clone)]
pub struct Request {
    #[allow(missing_docs)]
    pub method: Method,
    /// Absolute, or a path below the credential's base address.
    pub url: String,
    /// Name and value.
    pub headers: Vec<(String, String)>,
    /// Empty for none.
    pub body: Vec<u8>,
    /// The auth rule to apply; `None` means the default one.
    pub auth: Option<String>,
    /// For the whole exchange; the call's deadline stands over it.
    pub timeout: Option<Duration>,
}

/// What is left of the call that the request belongs to.
#[derive(Debug, Clone, Copy)]
pub struct CallLimits {
    /// When the call ends.
    pub deadline: tokio::time::Instant,
    /// Only `get` and `head` go out.
    pub dry_run: bool,
    /// Largest request and response body.
    pub body_bytes: u32,
    /// An answer whose body cannot be had whole is given without it.
    pub status_alone: bool,
}

/// A request that was made ready and not sent, with every secret masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rehearsed {
    /// An HTTP method, or `MAIL`.
    pub method: String,
    /// Before secrets were put in.
    pub url: String,
    /// In the order in which they would go out; what the host adds is among them.
    pub headers: Vec<(String, String)>,
    /// `None`: no body, or one that is no text.
    pub body: Option<String>,
}

/// The remote side's answer, with every secret masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    #[allow(missing_docs)]
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    #[allow(missing_docs)]
    pub body: Vec<u8>,
}

/// As in the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FailureKind {
    Denied,
    Invalid,
    Dns,
    Connect,
    Tls,
    Timeout,
    TooLarge,
    OverLimit,
    NoCredential,
    Other,
}

/// Why there is no answer. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    #[allow(missing_docs)]
    pub kind: FailureKind,
    /// For the plugin's author and the admin; a URL in it is the one before secrets were put in.
    pub message: String,
    /// False only when the remote side surely saw nothing.
    pub maybe_sent: bool,
}

impl Failure {
    /// Before anything was sent.
    pub fn unsent(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), maybe_sent: false }
    }

    pub(super) fn sent(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), maybe_sent: true }
    }

    pub(super) fn denied(message: impl Into<String>) -> Self {
        Self::unsent(FailureKind::Denied, message)
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::unsent(FailureKind::Invalid, message)
    }
}

/// Everything about one send.
#[derive(Debug, Clone)]
pub struct Sent {
    /// For the guest.
    pub result: Result<Response, Failure>,
    /// For the attempt's record, masked.
    pub exchange: Exchange,
    /// The answer held a secret of the credential; it has been masked.
    pub secret_echoed: bool,
}
