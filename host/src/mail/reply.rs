//! A server's reply and what it means. Pure: the whole table of outcomes is [`classify`].

use super::{Failure, FailureKind};

/// Where in the dialogue a reply came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Connect,
    Greeting,
    Ehlo,
    StartTls,
    Auth,
    Reset,
    Mail,
    Rcpt,
    /// The command DATA.
    Data,
    /// The final dot.
    Dot,
}

impl Stage {
    /// For messages: "the server answered … to `MAIL`".
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Connect => "the connection",
            Self::Greeting => "the connection (greeting)",
            Self::Ehlo => "EHLO",
            Self::StartTls => "STARTTLS",
            Self::Auth => "the login",
            Self::Reset => "RSET",
            Self::Mail => "the sender",
            Self::Rcpt => "the recipient",
            Self::Data => "DATA",
            Self::Dot => "the message",
        }
    }
}

/// One reply: its code and its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) lines: Vec<String>,
}

impl Reply {
    pub(crate) const fn is_good(&self) -> bool {
        self.code / 100 == 2
    }

    /// One line for people: code and text, control characters out, capped.
    pub(crate) fn shown(&self) -> String {
        let text = self.lines.join(" ");
        let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500);
        format!("{} {}", self.code, clean.collect::<String>()).trim_end().to_owned()
    }

    /// The enhanced code's class and subject: `4.7` of `4.7.1`.
    fn enhanced(&self) -> Option<(u8, u16)> {
        let word = self.lines.first()?.split_whitespace().next()?;
        let mut parts = word.split('.');
        let (class, subject, _detail) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse::<u16>().ok()?);
        (parts.next().is_none() && matches!(class, 2 | 4 | 5)).then_some((class, subject))
    }

    pub(crate) fn failure(&self, stage: Stage) -> Failure {
        let message = format!("the server answered to {}: {}", stage.words(), self.shown());
        Failure { kind: classify(stage, self), code: Some(self.code), message, maybe_sent: false }
    }
}

/// What a reply that is not the wanted one means. The first digit decides, then the code and the place.
pub(crate) fn classify(stage: Stage, reply: &Reply) -> FailureKind {
    let text = reply.lines.join(" ").to_ascii_lowercase();
    match reply.code {
        400..=499 => transient(stage, reply, &text),
        500..=599 => permanent(stage, reply.code, &text),
        // A good code where another was due, such as 250 for DATA: we and the server do not understand each other.
        _ => FailureKind::Other,
    }
}

fn transient(stage: Stage, reply: &Reply, text: &str) -> FailureKind {
    let too_many_recipients = text.contains("too many") && (text.contains("recipient") || text.contains("rcpt"));
    let slow_down = says_slow_down(text) && !too_many_recipients;
    // Greylisting often carries 4.7.1, and 454 4.7.0 is how a server says that its login or TLS is down.
    let other_reason =
        too_many_recipients || is_greylisting(text) || (matches!(stage, Stage::Auth | Stage::StartTls) && matches!(reply.code, 432 | 454));
    let policy = reply.enhanced().is_some_and(|(class, subject)| class == 4 && subject == 7);
    if slow_down || (policy && !other_reason) { FailureKind::RateLimited } else { FailureKind::Deferred }
}

fn says_slow_down(text: &str) -> bool {
    let word = |wanted: &str| text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == wanted);
    word("rate") || text.contains("ratelimit") || text.contains("too many") || text.contains("throttl")
}

fn is_greylisting(text: &str) -> bool {
    ["greylist", "graylist", "grey list", "gray list", "grey-list", "gray-list"].iter().any(|word| text.contains(word))
}

fn permanent(stage: Stage, code: u16, text: &str) -> FailureKind {
    match (stage, code) {
        // The server does not want us at all; that may change, and an admin reads why.
        (Stage::Greeting, _) => FailureKind::Unreachable,
        (Stage::StartTls, _) => FailureKind::Tls,
        (Stage::Auth, _) | (Stage::Mail | Stage::Rcpt | Stage::Data, 530 | 534 | 535 | 538) => FailureKind::Login,
        (_, 500..=504) | (Stage::Connect | Stage::Ehlo | Stage::Reset, _) => FailureKind::Other,
        (Stage::Mail, 552) => FailureKind::RefusedMessage,
        (Stage::Mail, 555) => FailureKind::Other,
        (Stage::Mail, _) => FailureKind::RefusedSender,
        // RFC 5321, 4.5.3.1.10: an old way to say 452.
        (Stage::Rcpt, 552) if text.contains("too many") => FailureKind::Deferred,
        (Stage::Rcpt, 555) => FailureKind::Other,
        (Stage::Rcpt, _) => FailureKind::RefusedRecipient,
        (Stage::Data | Stage::Dot, _) => FailureKind::RefusedMessage,
    }
}

#[cfg(test)]
mod tests {
    use super::FailureKind::*;
    use super::*;

    fn kind(stage: Stage, reply: &str) -> FailureKind {
        let (code, text) = reply.split_once(' ').unwrap_or((reply, ""));
        classify(stage, &Reply { code: code.parse().unwrap(), lines: vec![text.to_owned()] })
    }

    #[test]
    fn each_reply_has_its_meaning() {
        let everywhere =
            [Stage::Greeting, Stage::Ehlo, Stage::StartTls, Stage::Auth, Stage::Reset, Stage::Mail, Stage::Rcpt, Stage::Data, Stage::Dot];
        for stage in everywhere {
            assert_eq!(kind(stage, "421 closing"), Deferred, "{stage:?}");
            assert_eq!(kind(stage, "421 4.7.0 try again later"), RateLimited, "{stage:?}");
            assert_eq!(kind(stage, "450 rate limit exceeded"), RateLimited, "{stage:?}");
            assert_eq!(kind(stage, "451 Too many connections"), RateLimited, "{stage:?}");
        }
        for (stage, reply, wanted) in [
            (Stage::Auth, "432 4.7.12 password transition needed", Deferred),
            (Stage::Auth, "454 4.7.0 temporary authentication failure", Deferred),
            (Stage::Auth, "454 4.7.0 Too many login attempts", RateLimited),
            (Stage::StartTls, "454 4.7.0 TLS not available", Deferred),
            (Stage::Rcpt, "450 4.2.0 greylisted, try later", Deferred),
            (Stage::Rcpt, "450 4.7.1 Greylisting in action", Deferred),
            (Stage::Rcpt, "451 4.7.1 Gray listed", Deferred),
            (Stage::Rcpt, "450 mailbox busy", Deferred),
            (Stage::Rcpt, "450 4.7.1 slow down", RateLimited),
            (Stage::Mail, "451 local error", Deferred),
            (Stage::Dot, "451 4.3.0 generated an error", Deferred),
            (Stage::Data, "452 4.3.1 no space", Deferred),
            (Stage::Rcpt, "452 4.5.3 too many recipients", Deferred),
            (Stage::Rcpt, "452 4.5.3 Too many RCPTs", Deferred),
            (Stage::Ehlo, "500 what", Other),
            (Stage::Mail, "501 syntax", Other),
            (Stage::Rcpt, "503 bad sequence", Other),
            (Stage::Dot, "502 not implemented", Other),
            (Stage::Ehlo, "550 no", Other),
            (Stage::Auth, "535 5.7.8 wrong", Login),
            (Stage::Auth, "534 5.7.9 too weak", Login),
            (Stage::Auth, "538 encryption needed", Login),
            (Stage::Auth, "504 no such mechanism", Login),
            (Stage::Mail, "530 5.7.0 authentication required", Login),
            (Stage::Mail, "550 no", RefusedSender),
            (Stage::Mail, "551 no", RefusedSender),
            (Stage::Mail, "553 5.7.1 not owned by user", RefusedSender),
            (Stage::Mail, "554 no", RefusedSender),
            (Stage::Mail, "552 5.3.4 too big", RefusedMessage),
            (Stage::Rcpt, "550 5.1.1 unknown", RefusedRecipient),
            (Stage::Rcpt, "551 not local", RefusedRecipient),
            (Stage::Rcpt, "553 no", RefusedRecipient),
            (Stage::Rcpt, "556 no mail there", RefusedRecipient),
            (Stage::Rcpt, "554 relay denied", RefusedRecipient),
            (Stage::Rcpt, "552 too many recipients", Deferred),
            (Stage::Rcpt, "552 mailbox full", RefusedRecipient),
            (Stage::Rcpt, "550 rate limit", RefusedRecipient),
            (Stage::Dot, "552 too big", RefusedMessage),
            (Stage::Dot, "554 5.7.1 spam", RefusedMessage),
            (Stage::Dot, "550 5.7.1 policy", RefusedMessage),
            (Stage::Data, "554 no valid recipients", RefusedMessage),
            (Stage::Greeting, "554 no SMTP service here", Unreachable),
            (Stage::StartTls, "502 no", Tls),
            (Stage::Data, "250 ok", Other),
            (Stage::Auth, "334 go on", Other),
        ] {
            assert_eq!(kind(stage, reply), wanted, "{stage:?} {reply}");
        }
    }

    #[test]
    fn the_message_is_one_clean_line() {
        let reply = Reply { code: 550, lines: vec!["5.1.1 no\u{1b}[31m".to_owned(), "x".repeat(2_000)] };
        let failure = reply.failure(Stage::Rcpt);
        assert_eq!(failure.code, Some(550));
        assert!(failure.message.starts_with("the server answered to the recipient: 550 5.1.1 no"), "{}", failure.message);
        assert!(failure.message.len() < 600 && !failure.message.chars().any(char::is_control));
    }
}
