//! The two functions behind the contract's `mail` interface.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::account::{Account, Operator, Resolve};
use super::address::Mailbox;
use super::compose::Draft;
use super::pool::Pool;
use super::reply::Stage;
use super::session::{Connector, Session};
use super::submit::{Outcome, mail_from, rcpt, submit};
use super::wire::Fault;
use super::{Failure, FailureKind, Message, Sent};
use crate::model::Exchange;

/// How often idle connections are looked at.
const TEND_EVERY: Duration = Duration::from_secs(5);

/// What became of a message, and the line about it for the attempt's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailed {
    /// An error means that nobody was accepted; its `maybe_sent` says whether even that is sure.
    pub result: Result<Sent, Failure>,
    /// Addresses in it are masked, and the account's password can not be in it.
    pub exchange: Exchange,
}

/// Sends mail over accounts of any number of credentials. One per host; share it by `Arc`.
pub struct Mailer {
    operator: Operator,
    resolve: Arc<dyn Resolve>,
    pool: Pool,
    tls: OnceLock<Result<Arc<ClientConfig>, String>>,
}

impl Mailer {
    /// Connects nowhere yet; the system's certificates are read when TLS is needed for the first time.
    pub fn new(operator: Operator, resolve: Arc<dyn Resolve>) -> Self {
        let pool = Pool::new(operator.max_idle, operator.idle, operator.max_mails);
        Self { operator, resolve, pool, tls: OnceLock::new() }
    }

    /// Sends `message` for `item` (the delivery's id: the same item has the same Message-ID for ever) and is back by `deadline`.
    /// Dropping the future closes the connection; whether the message had left is then unknown.
    pub async fn send(&self, account: &Account, message: Message, item: &str, deadline: Instant) -> Mailed {
        let started = Instant::now();
        let from = account.from.clone();
        let mut request = format!("SMTP {} ({}) from {}", account.server(), account.tls.as_str(), masked(&from));
        let (result, status, response) = match Draft::new(&self.operator, account, message, item) {
            Err(failure) => (Err(failure), None, None),
            Ok(draft) => {
                let people: Vec<String> = draft.recipients.iter().map(|to| masked(&to.address.to_string())).collect();
                request.push_str(&format!(" to {}, Message-ID {}", people.join(", "), draft.message_id));
                match self.deliver(account, &draft, deadline).await {
                    Ok(outcome) => {
                        let reply = outcome.reply.clone();
                        (answer(&draft, outcome), reply.as_ref().map(|reply| reply.code), reply.map(|reply| reply.shown()))
                    }
                    Err(fault) => (Err(fault.failure), None, None),
                }
            }
        };
        let result = result.map(|sent| Sent { refused: hide_all(account, sent.refused), ..sent });
        let result = result.map_err(|failure| hide(account, failure));
        let status = status.or_else(|| result.as_ref().err().and_then(|failure| failure.code));
        let response = response.map(|text| hide_text(account, &text)).or_else(|| result.as_ref().err().map(|f| f.message.clone()));
        let exchange = Exchange {
            kind: "mail".to_owned(),
            request,
            request_body: None,
            status,
            response: response.map(|text| masked(&text)),
            duration_ms: u32::try_from(started.elapsed().as_millis()).unwrap_or(u32::MAX),
        };
        Mailed { result, exchange }
    }

    /// Logs in and asks for each recipient, sends nothing. The list is for the admin who checks the settings; a recipient
    /// who is refused for good makes the check fail.
    pub async fn probe(&self, account: &Account, recipients: &[String], deadline: Instant) -> Result<Vec<(String, String)>, Failure> {
        let probed = self.probe_session(account, recipients, deadline).await;
        let hidden = |(name, text): (String, String)| (name, hide_text(account, &text));
        probed.map(|list| list.into_iter().map(hidden).collect()).map_err(|fault| hide(account, fault.failure))
    }

    async fn probe_session(&self, account: &Account, recipients: &[String], deadline: Instant) -> Result<Vec<(String, String)>, Fault> {
        let invalid = |why: String| Fault::setup(FailureKind::Invalid, why);
        if recipients.len() > self.operator.max_recipients {
            return Err(Fault::setup(FailureKind::OverLimit, format!("more than {} recipients", self.operator.max_recipients)));
        }
        let from = Mailbox::parse(&account.from).map_err(|why| invalid(format!("from is not a mail address: {why}")))?.address;
        let parsed: Result<Vec<_>, _> = recipients.iter().map(|text| Mailbox::parse(text)).collect();
        let parsed = parsed.map_err(|why| invalid(format!("a recipient is not a mail address: {why}")))?;
        let mut session = self.connector(deadline).open(account).await?;
        let mut report = session.report();
        let utf8 = from.needs_utf8() || parsed.iter().any(|mailbox| mailbox.address.needs_utf8());
        if utf8 && !session.features.utf8 {
            return Err(Fault::setup(FailureKind::Invalid, "an address needs SMTPUTF8, which the server does not offer"));
        }
        mail_from(&mut session, &from.to_string(), None, utf8).await?;
        for mailbox in parsed {
            let address = mailbox.address.to_string();
            let reply = rcpt(&mut session, &address).await?;
            if !reply.is_good() {
                let mut fault = Fault::refused(Stage::Rcpt, &reply);
                if fault.broken || fault.failure.kind != FailureKind::Deferred {
                    fault.failure.message = format!("{address}: {}", fault.failure.message);
                    return Err(fault);
                }
            }
            let word = if reply.is_good() { "accepted" } else { "for now refused" };
            report.push((format!("recipient {address}"), format!("{word}: {}", reply.shown())));
        }
        session.reset(deadline).await?;
        session.wire.quit().await;
        Ok(report)
    }

    /// Closes idle connections in time, and all when `stop` is cancelled. Run it beside the host's other loops.
    pub async fn tend(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(TEND_EVERY);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.pool.drop_old(Instant::now());
        }
        self.close().await;
    }

    /// Says goodbye on all idle connections.
    pub async fn close(&self) {
        let mut goodbyes: tokio::task::JoinSet<()> = tokio::task::JoinSet::new();
        for session in self.pool.drain() {
            goodbyes.spawn(say_goodbye(session));
        }
        while goodbyes.join_next().await.is_some() {}
    }

    async fn deliver(&self, account: &Account, draft: &Draft, deadline: Instant) -> Result<Outcome, Fault> {
        let key = account.fingerprint();
        if let Some(mut session) = self.reusable(&key, deadline).await {
            let done = submit(&mut session, draft, &self.operator).await;
            let stale = matches!(&done, Err(fault) if fault.stale && !fault.failure.maybe_sent);
            self.give_back(key, session, &done).await;
            // An old connection may break at any time before the final dot: the mail starts anew, and only on a new one.
            if !stale {
                return done;
            }
        }
        let mut session = self.connector(deadline).open(account).await?;
        let done = submit(&mut session, draft, &self.operator).await;
        self.give_back(key, session, &done).await;
        done
    }

    async fn reusable(&self, key: &[u8; 32], deadline: Instant) -> Option<Session> {
        while let Some(mut session) = self.pool.take(key) {
            if session.reset(deadline).await.is_ok() {
                return Some(session);
            }
        }
        None
    }

    async fn give_back(&self, key: [u8; 32], session: Session, done: &Result<Outcome, Fault>) {
        let broken = match done {
            Ok(outcome) => outcome.broken,
            Err(fault) => fault.broken,
        };
        if broken {
            return;
        }
        if let Some(surplus) = self.pool.put(key, session) {
            say_goodbye(surplus).await;
        }
    }

    fn connector(&self, deadline: Instant) -> Connector<'_> {
        Connector { operator: &self.operator, resolve: &*self.resolve, tls: self, deadline }
    }

    /// Certificates are read once; the first mail waits for it.
    pub(crate) fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        self.tls.get_or_init(|| tls_config(&self.operator.extra_roots_pem)).clone()
    }

    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.pool.len()
    }
}

impl std::fmt::Debug for Mailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailer").field("operator", &self.operator).finish_non_exhaustive()
    }
}

async fn say_goodbye(mut session: Session) {
    // The deadline of its last mail is past by now.
    session.wire.deadline = Instant::now() + Duration::from_secs(2);
    session.wire.quit().await;
}

fn tls_config(extra_roots_pem: &str) -> Result<Arc<ClientConfig>, String> {
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(extra_roots_pem.as_bytes()).collect();
    let roots = roots.map_err(|error| format!("the operator's extra certificates cannot be read: {error}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trust = rustls_platform_verifier::Verifier::new_with_extra_roots(roots, Arc::clone(&provider));
    let trust = trust.map_err(|error| format!("the machine's trusted certificates cannot be read: {error}"))?;
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| format!("TLS cannot be set up: {error}"))?;
    Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(Arc::new(trust)).with_no_client_auth()))
}

/// Recipients by the names the plugin gave them; an error when nobody was accepted.
fn answer(draft: &Draft, outcome: Outcome) -> Result<Sent, Failure> {
    let mut refused = draft.invalid.clone();
    for (index, failure) in outcome.refused {
        refused.extend(draft.recipients[index].given.iter().map(|given| (given.clone(), failure.clone())));
    }
    if outcome.accepted.is_empty() {
        return Err(all_refused(refused));
    }
    let accepted = outcome.accepted.into_iter().flat_map(|index| draft.recipients[index].given.clone()).collect();
    Ok(Sent { message_id: draft.message_id.clone(), accepted, refused })
}

/// One reason for all: one that may pass comes first, so that nobody is given up who could still get the mail.
fn all_refused(refused: Vec<(String, Failure)>) -> Failure {
    let rank = |failure: &Failure| match failure.kind {
        FailureKind::Login => 0,
        FailureKind::RateLimited => 1,
        FailureKind::Deferred => 2,
        FailureKind::RefusedRecipient => 3,
        _ => 4,
    };
    let count = refused.len();
    let Some((address, mut failure)) = refused.into_iter().min_by_key(|(_, failure)| rank(failure)) else {
        return Failure::new(FailureKind::Invalid, "the message has no recipient");
    };
    let others = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
    failure.message = format!("{address}{others}: {}", failure.message);
    failure
}

fn hide_all(account: &Account, refused: Vec<(String, Failure)>) -> Vec<(String, Failure)> {
    refused.into_iter().map(|(address, failure)| (address, hide(account, failure))).collect()
}

fn hide(account: &Account, failure: Failure) -> Failure {
    Failure { message: hide_text(account, &failure.message), ..failure }
}

/// A server may repeat what it was told; the password must not get out that way.
fn hide_text(account: &Account, text: &str) -> String {
    let Some(password) = account.password.as_ref().map(|secret| secret.expose()) else { return text.to_owned() };
    let user = account.username.as_deref().unwrap_or_default();
    let forms = [password.to_owned(), BASE64.encode(password), BASE64.encode(format!("\0{user}\0{password}"))];
    let forms: Vec<zeroize::Zeroizing<String>> = forms.into_iter().map(zeroize::Zeroizing::new).collect();
    // Shorter ones would blot out harmless text and say more than they hide.
    forms.iter().filter(|form| form.len() >= 4).fold(text.to_owned(), |text, form| text.replace(form.trim_end_matches('='), "***"))
}

/// `anna@example.com` → `a***@example.com`, wherever it stands in a text.
fn masked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    for c in text.chars() {
        if c.is_whitespace() || "<>()[]\"',;:".contains(c) {
            out.push_str(&masked_word(&word));
            word.clear();
            out.push(c);
        } else {
            word.push(c);
        }
    }
    out + &masked_word(&word)
}

fn masked_word(word: &str) -> String {
    match (word.rsplit_once('@'), word.chars().next()) {
        (Some((local, domain)), Some(first)) if !local.is_empty() => format!("{first}***@{domain}"),
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn addresses_are_masked_in_records() {
        for (text, wanted) in [
            ("550 5.1.1 <anna@example.com>: unknown", "550 5.1.1 <a***@example.com>: unknown"),
            ("Anna <anna@b.ru>, ян@б.рф", "Anna <a***@b.ru>, я***@б.рф"),
            ("no address @ all", "no address @ all"),
        ] {
            assert_eq!(masked(text), wanted);
        }
    }
}
