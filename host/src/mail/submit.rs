//! One mail over a session. Says for each recipient what became of it, and never guesses whether the message left.

use tokio::time::Instant;

use super::compose::Draft;
use super::reply::{Reply, Stage};
use super::session::Session;
use super::wire::Fault;
use super::{Failure, FailureKind, Operator};

/// What became of each recipient, by its number in the draft.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) accepted: Vec<usize>,
    pub(crate) refused: Vec<(usize, Failure)>,
    /// The session is of no more use.
    pub(crate) broken: bool,
    /// The answer to the last final dot.
    pub(crate) reply: Option<Reply>,
}

/// One envelope's result.
#[derive(Default)]
struct Round {
    accepted: Vec<usize>,
    refused: Vec<(usize, Failure)>,
    /// The server wants no more recipients in this envelope.
    later: Vec<usize>,
    reply: Option<Reply>,
}

/// Sends a draft. An error means that nobody got it, or that nobody can know (`maybe_sent`).
pub(crate) async fn submit(session: &mut Session, draft: &Draft, operator: &Operator) -> Result<Outcome, Fault> {
    let utf8 = draft.needs_utf8() && session.features.utf8;
    let bytes = draft.bytes(utf8).map_err(|failure| Fault { failure, broken: false, stale: false })?;
    session.check_size(bytes.len())?;
    let mut outcome = Outcome::default();
    let mut pending = Vec::new();
    for (index, recipient) in draft.recipients.iter().enumerate() {
        if recipient.address.needs_utf8() && !utf8 {
            let why = "the server does not take addresses with letters beyond ASCII before the @ (SMTPUTF8)";
            outcome.refused.push((index, Failure::new(FailureKind::RefusedRecipient, why)));
        } else {
            pending.push(index);
        }
    }
    while !pending.is_empty() {
        let mut mail = Transaction { session, draft, operator, utf8, bytes: &bytes };
        match mail.run(&pending).await {
            Ok(round) => {
                outcome.accepted.extend(round.accepted);
                outcome.refused.extend(round.refused);
                outcome.reply = round.reply.or(outcome.reply);
                pending = round.later;
            }
            Err(fault) if outcome.accepted.is_empty() => return Err(fault),
            // An earlier envelope went out: its recipients have the mail, these do not.
            Err(fault) => {
                outcome.broken |= fault.broken;
                outcome.refused.extend(pending.drain(..).map(|index| (index, fault.failure.clone())));
            }
        }
    }
    Ok(outcome)
}

struct Transaction<'a> {
    session: &'a mut Session,
    draft: &'a Draft,
    operator: &'a Operator,
    utf8: bool,
    bytes: &'a [u8],
}

impl Transaction<'_> {
    async fn run(&mut self, recipients: &[usize]) -> Result<Round, Fault> {
        self.mail().await?;
        let mut round = Round::default();
        for (position, index) in recipients.iter().enumerate() {
            let reply = rcpt(self.session, &self.draft.recipients[*index].address.to_string()).await?;
            if reply.is_good() {
                round.accepted.push(*index);
                continue;
            }
            let fault = Fault::refused(Stage::Rcpt, &reply);
            if fault.broken {
                return Err(fault);
            }
            if reply.code == 452 && !round.accepted.is_empty() {
                round.later.extend(&recipients[position..]);
                break;
            }
            round.refused.push((*index, fault.failure));
        }
        if !round.accepted.is_empty() {
            round.reply = Some(self.data().await?);
        }
        Ok(round)
    }

    async fn mail(&mut self) -> Result<(), Fault> {
        if self.draft.from.address.needs_utf8() && !self.utf8 {
            let failure = Failure::new(FailureKind::RefusedSender, "the server does not take the sender's address (SMTPUTF8)");
            return Err(Fault { failure, broken: false, stale: false });
        }
        let size = self.session.features.size.map(|_| self.bytes.len());
        mail_from(self.session, &self.draft.from.address.to_string(), size, self.utf8).await
    }

    async fn data(&mut self) -> Result<Reply, Fault> {
        let left = self.session.wire.deadline.saturating_duration_since(Instant::now());
        // An answer that comes after we gave up is a duplicate in the making, so better not to begin.
        if left < self.operator.timeouts.reserve {
            let failure = Failure::new(FailureKind::Deferred, "too little time left to send the message and wait for the answer");
            return Err(Fault { failure, broken: true, stale: false });
        }
        let wire = &mut self.session.wire;
        let reply = wire.command(Stage::Data, "DATA").await?;
        if reply.code != 354 {
            return Err(Fault::refused(Stage::Data, &reply));
        }
        wire.body(&stuffed(self.bytes)).await?;
        self.session.mails += 1;
        let reply = self.session.wire.dot(self.operator.timeouts.dot).await.map_err(unsure)?;
        if reply.is_good() {
            return Ok(reply);
        }
        let fault = Fault { stale: false, ..Fault::refused(Stage::Dot, &reply) };
        // 4xx and 5xx are a clear no; anything else is no answer to a final dot.
        Err(if matches!(reply.code, 400..=599) { fault } else { unsure(fault) })
    }
}

fn unsure(mut fault: Fault) -> Fault {
    fault.failure.maybe_sent = true;
    fault.broken = true;
    fault.stale = false;
    fault
}

pub(crate) async fn mail_from(session: &mut Session, from: &str, size: Option<usize>, utf8: bool) -> Result<(), Fault> {
    let mut line = format!("MAIL FROM:<{from}>");
    if let Some(size) = size {
        line.push_str(&format!(" SIZE={size}"));
    }
    if utf8 {
        line.push_str(" SMTPUTF8");
        if session.features.eight_bit {
            line.push_str(" BODY=8BITMIME");
        }
    }
    let reply = session.wire.command(Stage::Mail, &line).await?;
    if reply.is_good() { Ok(()) } else { Err(Fault::refused(Stage::Mail, &reply)) }
}

pub(crate) async fn rcpt(session: &mut Session, address: &str) -> Result<Reply, Fault> {
    session.wire.command(Stage::Rcpt, &format!("RCPT TO:<{address}>")).await
}

/// A line that begins with a dot gets a second one, so that no line of the message is the final dot.
fn stuffed(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 64);
    let mut at_start = true;
    for byte in bytes {
        if at_start && *byte == b'.' {
            out.push(b'.');
        }
        out.push(*byte);
        at_start = *byte == b'\n';
    }
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::stuffed;

    #[test]
    fn no_line_of_a_message_is_the_final_dot() {
        for (text, wanted) in [
            ("a\r\n", "a\r\n"),
            ("a", "a\r\n"),
            (".", "..\r\n"),
            (".\r\n", "..\r\n"),
            ("a\r\n.\r\nb", "a\r\n..\r\nb\r\n"),
            ("a\r\n..b\r\n", "a\r\n...b\r\n"),
            ("", "\r\n"),
        ] {
            assert_eq!(String::from_utf8(stuffed(text.as_bytes())).unwrap(), wanted, "{text:?}");
        }
    }
}
