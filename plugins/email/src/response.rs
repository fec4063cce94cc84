//! What the mail server said, to whom, and what follows from it.

use std::collections::BTreeSet;

use leadwire_sdk::{
    Item, Outcome, Stop, Verdict, log,
    mail::{Failure, FailureKind, Sent},
};
use serde::{Deserialize, Serialize};

/// Who needs no further attempt. Kept as the item's memo, so addresses are shortened to a checksum: a hundred fit into
/// its 4 KiB, and the store holds no further copy of them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Have the mail.
    #[serde(default)]
    accepted: BTreeSet<String>,
    /// Will never take it.
    #[serde(default)]
    refused: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    /// What the server said to those who may take it later, in this attempt.
    #[serde(skip)]
    deferred: Vec<Failure>,
    /// What it said to those it refused, in this attempt.
    #[serde(skip)]
    refusals: Vec<String>,
}

impl Progress {
    pub(crate) fn read(item: &Item) -> Self {
        item.memo.as_deref().and_then(|memo| serde_json::from_str(memo).ok()).unwrap_or_default()
    }

    pub(crate) fn memo(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Those who still need the mail.
    pub(crate) fn open<'a>(&self, everyone: impl Iterator<Item = &'a String>) -> Vec<String> {
        let mut seen = BTreeSet::new();
        everyone
            .filter(|address| {
                let short = short(address);
                !self.accepted.contains(&short) && !self.refused.contains(&short) && seen.insert(short)
            })
            .cloned()
            .collect()
    }

    pub(crate) fn note(&mut self, sent: &Sent) {
        self.message_id = Some(sent.message_id.clone());
        self.accepted.extend(sent.accepted.iter().map(|address| short(address)));
        for refused in &sent.refused {
            if is_final(refused.why.kind) {
                self.refused.insert(short(&refused.address));
                self.refusals.push(format!("{}: {}", refused.address, said(&refused.why)));
            } else {
                self.deferred.push(refused.why.clone());
            }
        }
        if !self.refusals.is_empty() {
            log::warn(&format!("refused for good: {}", self.refusals.join("; ")));
        }
    }

    /// What the attempt came to when the server took the mail for someone.
    pub(crate) fn outcome(&self) -> Outcome {
        if let Some(first) = self.deferred.first() {
            if self.deferred.iter().any(|why| why.kind == FailureKind::RateLimited) {
                return Err(Stop::rate_limited(None));
            }
            let text = format!("{} of the recipients must be asked again: {}", self.deferred.len(), said(first));
            return Ok(Verdict::retry(&code(first), text).maybe_sent(self.deferred.iter().any(|why| why.maybe_sent)));
        }
        if self.accepted.is_empty() {
            return Ok(Verdict::rejected("mail_refused_recipient", format!("no recipient was accepted: {}", self.refusals.join("; "))));
        }
        let verdict = Verdict::delivered();
        Ok(match &self.message_id {
            Some(id) => verdict.with_ref("message", id),
            None => verdict,
        })
    }

    /// What the attempt came to when the server took the mail for nobody.
    pub(crate) fn failed(&self, lost: &Failure) -> Outcome {
        if lost.kind == FailureKind::RefusedRecipient && !self.accepted.is_empty() {
            // The others have it since an earlier attempt.
            log::warn(&format!("the remaining recipients were refused for good: {}", said(lost)));
            return self.outcome();
        }
        match lost.kind {
            FailureKind::Denied
            | FailureKind::RefusedSender
            | FailureKind::Login
            | FailureKind::NoCredential
            | FailureKind::RateLimited => Err(stop(lost)),
            kind if is_final(kind) => Ok(Verdict::rejected(&code(lost), said(lost))),
            _ => Ok(Verdict::retry(&code(lost), said(lost)).maybe_sent(lost.maybe_sent)),
        }
    }
}

/// What a failure says of the credential as a whole.
pub(crate) fn stop(lost: &Failure) -> Stop {
    match lost.kind {
        FailureKind::Login | FailureKind::NoCredential => Stop::credential_invalid(said(lost)),
        FailureKind::RateLimited => Stop::rate_limited(None),
        FailureKind::Deferred | FailureKind::Unreachable => Stop::unavailable(None),
        FailureKind::Other => Stop::internal(said(lost)),
        FailureKind::Denied
        | FailureKind::Invalid
        | FailureKind::RefusedRecipient
        | FailureKind::RefusedSender
        | FailureKind::RefusedMessage
        | FailureKind::Tls
        | FailureKind::OverLimit => Stop::misconfigured(said(lost)),
    }
}

/// Trying again would end the same way.
fn is_final(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::RefusedRecipient | FailureKind::RefusedMessage | FailureKind::Invalid | FailureKind::OverLimit)
}

fn code(lost: &Failure) -> String {
    match lost.code {
        Some(code) => format!("smtp_{code}"),
        None => format!("mail_{}", lost.kind.word()),
    }
}

fn said(lost: &Failure) -> String {
    match lost.code {
        // The server's words mostly begin with the code.
        Some(code) if !lost.message.starts_with(&code.to_string()) => format!("{code} {}", lost.message),
        _ => lost.message.clone(),
    }
}

/// FNV-1a of the address in lower case: enough to tell a hundred addresses apart.
fn short(address: &str) -> String {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", address.to_lowercase().bytes().fold(0xcbf2_9ce4_8422_2325, fold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_recipients_fit_into_a_memo() {
        let mut progress = Progress { message_id: Some("x".repeat(300)), ..Progress::default() };
        progress.accepted.extend((0..50).map(|no| short(&format!("{no}@example.com"))));
        progress.refused.extend((50..100).map(|no| short(&format!("{no}@example.com"))));
        assert_eq!(progress.accepted.len() + progress.refused.len(), 100);
        assert!(progress.memo().len() <= 4096);
    }

    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(short(""), "cbf29ce484222325");
        assert_eq!(short("A"), "af63dc4c8601ec8c");
    }
}
