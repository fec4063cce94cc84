//! Mail submission: what a plugin asks for with `mail.send`, brought to the credential's SMTP server.
//!
//! The plugin gives content and recipients. The host owns everything else: the connection and its login, the envelope,
//! the headers that must not be forged, and what a server's reply means. A plugin never sees the password.
//!
//! | file | what it does |
//! | --- | --- |
//! | `account` | the credential's account and what the operator allows |
//! | `address` | which text is an address, and in which form it goes to a server |
//! | `compose` | a plugin's message → the bytes of a mail (lettre writes the MIME parts) |
//! | `wire` | lines and replies on a socket, each wait with its limit |
//! | `reply` | a server's reply → a [`FailureKind`]; pure |
//! | `session` | connect, TLS, EHLO, login |
//! | `submit` | one mail over a session: MAIL, each RCPT, DATA |
//! | `pool` | sessions kept for the next mail |
//! | `mailer` | [`Mailer`]: the two functions the plugin engine calls; start here |
//!
//! The SMTP client is our own. A ready-made transport stops at the first refused recipient, cannot say whether the final
//! dot left the machine, has one time limit for all, and resolves names by itself, past the egress guard; each of these
//! decides about a lost or a doubled mail here.

mod account;
mod address;
mod compose;
mod mailer;
mod pool;
mod reply;
mod session;
mod submit;
mod wire;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use account::{Account, AccountError, Operator, Resolve, ResolveError, SystemResolve, Timeouts, Tls};
pub use mailer::{Mailed, Mailer};

/// An attached file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// File name shown to the reader; anything like a path is taken off.
    pub name: String,
    /// `type/subtype`; parameters are dropped, and anything else becomes `application/octet-stream`.
    pub content_type: String,
    #[allow(missing_docs)]
    pub data: Vec<u8>,
}

/// What a plugin wants to be sent. Every text in it may come from a lead, so none is trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    #[allow(missing_docs)]
    pub to: Vec<String>,
    #[allow(missing_docs)]
    pub cc: Vec<String>,
    /// In the envelope only.
    pub bcc: Vec<String>,
    /// Send to these of the addresses above only; `None` means to all. The headers stay the same.
    pub only: Option<Vec<String>>,
    /// Left out when it is not an address.
    pub reply_to: Option<String>,
    #[allow(missing_docs)]
    pub subject: String,
    #[allow(missing_docs)]
    pub text: Option<String>,
    #[allow(missing_docs)]
    pub html: Option<String>,
    #[allow(missing_docs)]
    pub attachments: Vec<Attachment>,
    /// Name and value; only names of a short list are let through.
    pub headers: Vec<(String, String)>,
}

/// What kind of failure, in the words of the contract. The comment says what the caller should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The operator's rules forbid it: port, network, login without TLS, a header. Set-up: an admin must act.
    Denied,
    /// The message cannot be built: no recipient, no text, an address that is none. Never works.
    Invalid,
    /// The server will never take mail for this recipient.
    RefusedRecipient,
    /// The server does not take mail from this sender. Set-up: an admin must act.
    RefusedSender,
    /// The server does not take this message: policy, spam, size. Never works.
    RefusedMessage,
    /// Later, the server says; greylisting is here.
    Deferred,
    /// Slow down, the server says: the whole account.
    RateLimited,
    /// No connection, or it was lost, or nothing sensible came. Later.
    Unreachable,
    /// The certificate is not good, or TLS is not to be had. Set-up: an admin must act.
    Tls,
    /// The login was refused. Set-up: an admin must act, and trying again may lock the account.
    Login,
    /// A user name without a password.
    NoCredential,
    /// Too many recipients or too many bytes for the host's limits. Never works.
    OverLimit,
    /// The server does not understand us; our fault. Never works.
    Other,
}

/// Why nobody, or one recipient, got the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    #[allow(missing_docs)]
    pub kind: FailureKind,
    /// The server's code, such as 450 or 550.
    pub code: Option<u16>,
    /// For an admin, with the server's own words and its enhanced code; holds no secret.
    pub message: String,
    /// The final dot may have reached the server.
    pub maybe_sent: bool,
}

impl Failure {
    /// A failure without a server's reply, before anything was sent.
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, code: None, message: message.into(), maybe_sent: false }
    }
}

/// The server took the message for at least one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// With its angle brackets.
    pub message_id: String,
    /// Recipients as the plugin wrote them.
    pub accepted: Vec<String>,
    /// The others, each with its reason.
    pub refused: Vec<(String, Failure)>,
}
