//! `mail`: through the credential's own SMTP account.

use tokio::time::Instant;

use crate::egress::Rehearsed;
use crate::mail::{Account, Attachment, Failure, FailureKind, Message};
use crate::plugin::bindings::wit;
use crate::plugin::call::CallState;

fn no_account() -> wit::mail::Failure {
    wit::mail::Failure {
        kind: wit::mail::FailureKind::NoCredential,
        code: None,
        message: "the credential has no mail account".into(),
        maybe_sent: false,
    }
}

impl wit::mail::Host for CallState {
    async fn send(&mut self, message: wit::mail::Message) -> wasmtime::Result<Result<wit::mail::Sent, wit::mail::Failure>> {
        let Some(account) = self.env.account.clone() else { return Ok(Err(no_account())) };
        if self.requests >= self.env.manifest.limits.requests_per_call {
            self.note("it asked for more mails than one call may send (refused)");
            return Ok(Err(refused(wit::mail::FailureKind::OverLimit, "one call may not send so many mails")));
        }
        self.requests += 1;
        if self.env.context.dry_run {
            return Ok(Ok(self.rehearse_mail(&account, message)));
        }
        // One item may be named; a mail for none of them has an id of its own.
        let item = match message.item.clone() {
            Some(item) if self.items.contains(&item) => item,
            _ => format!("{}-{}", self.env.context.correlation, self.requests),
        };
        let since = Instant::now();
        let mailed = self.env.mailer.send(&account, into_message(message), &item, self.deadline).await;
        self.waited(since);
        match &mailed.result {
            Ok(_) => self.wrote = true,
            Err(failure) if failure.maybe_sent => {
                self.wrote = true;
                self.ambiguous = true;
            }
            Err(_) => {}
        }
        self.exchanges.push(mailed.exchange);
        Ok(match mailed.result {
            Ok(sent) => Ok(wit::mail::Sent {
                message_id: sent.message_id,
                accepted: sent.accepted,
                refused: sent.refused.into_iter().map(|(address, why)| wit::mail::Refused { address, why: into_failure(why) }).collect(),
            }),
            Err(failure) => Err(into_failure(failure)),
        })
    }

    async fn probe(&mut self, recipients: Vec<String>) -> wasmtime::Result<Result<Vec<wit::types::Attr>, wit::mail::Failure>> {
        let Some(account) = self.env.account.clone() else { return Ok(Err(no_account())) };
        if self.requests >= self.env.manifest.limits.requests_per_call {
            return Ok(Err(refused(wit::mail::FailureKind::OverLimit, "one call may not ask so often")));
        }
        self.requests += 1;
        let since = Instant::now();
        let found = self.env.mailer.probe(&account, &recipients, self.deadline).await;
        self.waited(since);
        let attrs = found.map(|list| list.into_iter().map(|(name, value)| wit::types::Attr { name, value }).collect());
        Ok(attrs.map_err(into_failure))
    }
}

impl CallState {
    /// Notes the mail that would be sent; everyone takes it.
    fn rehearse_mail(&mut self, account: &Account, message: wit::mail::Message) -> wit::mail::Sent {
        let accepted = message.only.clone().unwrap_or_else(|| [&message.to[..], &message.cc, &message.bcc].concat());
        let listed = [("From", vec![account.from.clone()]), ("To", message.to), ("Cc", message.cc), ("Bcc", message.bcc)];
        let mut headers: Vec<(String, String)> =
            listed.into_iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| (name.to_owned(), list.join(", "))).collect();
        headers.extend(message.reply_to.map(|address| ("Reply-To".to_owned(), address)));
        headers.push(("Subject".to_owned(), message.subject));
        let mask = |text: &str| self.mask(text);
        let rehearsed = Rehearsed {
            method: "MAIL".to_owned(),
            url: format!("smtp://{}:{}", account.host, account.port),
            headers: headers.into_iter().map(|(name, value)| (name, mask(&value))).collect(),
            body: message.text.or(message.html).map(|text| mask(&text)),
        };
        self.rehearsed.push(rehearsed);
        wit::mail::Sent { message_id: "<preview@localhost>".to_owned(), accepted, refused: Vec::new() }
    }
}

fn refused(kind: wit::mail::FailureKind, message: &str) -> wit::mail::Failure {
    wit::mail::Failure { kind, code: None, message: message.into(), maybe_sent: false }
}

fn into_message(message: wit::mail::Message) -> Message {
    Message {
        to: message.to,
        cc: message.cc,
        bcc: message.bcc,
        only: message.only,
        reply_to: message.reply_to,
        subject: message.subject,
        text: message.text,
        html: message.html,
        attachments: message
            .attachments
            .into_iter()
            .map(|file| Attachment { name: file.name, content_type: file.content_type, data: file.data })
            .collect(),
        headers: message.headers.into_iter().map(|header| (header.name, header.value)).collect(),
    }
}

fn into_failure(failure: Failure) -> wit::mail::Failure {
    use wit::mail::FailureKind as Wit;
    let kind = match failure.kind {
        FailureKind::Denied => Wit::Denied,
        FailureKind::Invalid => Wit::Invalid,
        FailureKind::RefusedRecipient => Wit::RefusedRecipient,
        FailureKind::RefusedSender => Wit::RefusedSender,
        FailureKind::RefusedMessage => Wit::RefusedMessage,
        FailureKind::Deferred => Wit::Deferred,
        FailureKind::RateLimited => Wit::RateLimited,
        FailureKind::Unreachable => Wit::Unreachable,
        FailureKind::Tls => Wit::Tls,
        FailureKind::Login => Wit::Login,
        FailureKind::NoCredential => Wit::NoCredential,
        FailureKind::OverLimit => Wit::OverLimit,
        FailureKind::Other => Wit::Other,
    };
    wit::mail::Failure { kind, code: failure.code, message: failure.message, maybe_sent: failure.maybe_sent }
}
