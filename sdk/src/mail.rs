//! Mail through the credential's own SMTP account. The host owns the connection, the envelope and the headers
//! `From`, `Date` and `Message-ID`.

use crate::{Item, sys};

pub use crate::bindings::leadwire::channel::mail::{Attachment, Failure, FailureKind, Message, Refused, Sent};

/// From [`crate::Context::mail`].
#[derive(Debug, Clone, Copy)]
pub struct Mail(());

impl Mail {
    pub(crate) fn new() -> Self {
        Self(())
    }

    /// Sends. An error means that nobody was accepted.
    pub fn send(&self, message: &Message) -> Result<Sent, Failure> {
        sys::mail::send(message)
    }

    /// Logs in and asks for each recipient, sends nothing.
    pub fn probe(&self, recipients: &[String]) -> Result<Vec<(String, String)>, Failure> {
        Ok(sys::mail::probe(recipients)?.into_iter().map(|attr| (attr.name, attr.value)).collect())
    }
}

impl Message {
    /// An empty message for this item: every attempt of the item gets the same Message-ID.
    pub fn for_item(item: &Item) -> Self {
        Self {
            to: Vec::new(),
            cc: Vec::new(),
            bcc: Vec::new(),
            only: None,
            item: Some(item.id.clone()),
            reply_to: None,
            subject: String::new(),
            text: None,
            html: None,
            attachments: Vec::new(),
            headers: Vec::new(),
        }
    }
}

impl FailureKind {
    /// The kind in one word, as it stands in a refusal's code after `mail_`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::RefusedRecipient => "refused_recipient",
            Self::RefusedSender => "refused_sender",
            Self::RefusedMessage => "refused_message",
            Self::Deferred => "deferred",
            Self::RateLimited => "rate_limited",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Login => "login",
            Self::NoCredential => "no_credential",
            Self::OverLimit => "over_limit",
            Self::Other => "other",
        }
    }
}
