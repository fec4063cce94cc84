//! One SMTP dialogue.

use std::io::{ErrorKind, Result};
use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{Act, Command, Mail, Settings, Shared, Stage};
use crate::journal::lock;

/// Longest command line.
const LINE_MAX: u64 = 64 << 10;
/// Longest message that is read at all.
const MESSAGE_MAX: usize = 64 << 20;

pub(super) async fn run(socket: TcpStream, connection: u64, shared: Arc<Shared>) -> Result<()> {
    socket.set_nodelay(true)?;
    let settings = lock(&shared.settings).clone();
    let mut session = Session {
        io: BufReader::new(socket),
        connection,
        shared,
        settings,
        helo: String::new(),
        user: None,
        sender: None,
        params: Vec::new(),
        recipients: Vec::new(),
    };
    session.dialogue().await
}

struct Session {
    io: BufReader<TcpStream>,
    connection: u64,
    shared: Arc<Shared>,
    settings: Settings,
    helo: String,
    user: Option<String>,
    sender: Option<String>,
    params: Vec<String>,
    recipients: Vec<String>,
}

/// Whether the step was done as asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The reply was positive.
    Taken,
    /// The reply was negative.
    Refused,
    /// The connection is to be closed.
    Over,
}

impl Session {
    async fn dialogue(&mut self) -> Result<()> {
        if self.act(Stage::Greeting, "220 fake.example ESMTP").await? != Step::Taken {
            return Ok(());
        }
        loop {
            let Some(line) = self.line().await? else { return Ok(()) };
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            let verb = verb.to_ascii_uppercase();
            self.note(&verb, &line);
            let step = match verb.as_str() {
                "EHLO" | "HELO" => self.ehlo(&verb, rest).await?,
                "STARTTLS" => self.act(Stage::StartTls, "454 4.7.0 TLS not available").await?,
                "AUTH" => self.auth(rest).await?,
                "MAIL" => self.mail(rest).await?,
                "RCPT" => self.rcpt(rest).await?,
                "DATA" => self.data().await?,
                "NOOP" => self.act(Stage::Noop, "250 2.0.0 OK").await?,
                "RSET" => {
                    self.reset();
                    self.act(Stage::Rset, "250 2.0.0 OK").await?
                }
                "QUIT" => {
                    self.act(Stage::Quit, "221 2.0.0 Bye").await?;
                    Step::Over
                }
                _ => self.say("500 5.5.2 unknown command").await?,
            };
            if step == Step::Over {
                return self.io.get_mut().shutdown().await;
            }
        }
    }

    fn note(&self, verb: &str, line: &str) {
        let line = match verb {
            // A fake keeps no passwords.
            "AUTH" => line.split(' ').take(2).collect::<Vec<_>>().join(" "),
            _ => line.to_owned(),
        };
        self.shared.commands.push(Command { connection: self.connection, line });
    }

    fn reset(&mut self) {
        self.sender = None;
        self.params.clear();
        self.recipients.clear();
    }

    async fn ehlo(&mut self, verb: &str, name: &str) -> Result<Step> {
        name.clone_into(&mut self.helo);
        self.reset();
        let mut reply = vec!["250 fake.example".to_owned()];
        if verb == "EHLO" {
            reply.extend(self.settings.extensions.iter().cloned());
            reply.extend(self.settings.size.map(|size| format!("SIZE {size}")));
            if !self.settings.auth.is_empty() {
                reply.push(format!("AUTH {}", self.settings.auth.join(" ")));
            }
        }
        self.act(Stage::Ehlo, &reply.join("\n")).await
    }

    async fn auth(&mut self, rest: &str) -> Result<Step> {
        let (mechanism, initial) = rest.split_once(' ').unwrap_or((rest, ""));
        if self.settings.auth.is_empty() {
            return self.say("502 5.5.1 not offered").await;
        }
        let login = match mechanism.to_ascii_uppercase().as_str() {
            "PLAIN" => {
                let text = if initial.is_empty() { self.ask("334 ").await? } else { initial.to_owned() };
                let decoded = decode(&text);
                let mut parts = decoded.split('\0').skip(1).map(str::to_owned);
                (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
            }
            "LOGIN" => {
                let user = if initial.is_empty() { self.ask("334 VXNlcm5hbWU6").await? } else { initial.to_owned() };
                let password = self.ask("334 UGFzc3dvcmQ6").await?;
                (decode(&user), decode(&password))
            }
            _ => return self.say("504 5.5.4 unknown mechanism").await,
        };
        let good = self.settings.login.as_ref().is_none_or(|expected| *expected == login);
        let verdict = if good { "235 2.7.0 welcome" } else { "535 5.7.8 authentication failed" };
        let step = self.act(Stage::Auth, verdict).await?;
        if step == Step::Taken {
            self.user = Some(login.0);
        }
        Ok(step)
    }

    async fn mail(&mut self, rest: &str) -> Result<Step> {
        let Some((address, params)) = path(rest, "FROM:") else { return self.say("501 5.5.4 syntax").await };
        let declared = params.iter().find_map(|param| param.to_ascii_uppercase().strip_prefix("SIZE=")?.parse::<usize>().ok());
        let normal = if self.settings.login_required && self.user.is_none() {
            "530 5.7.0 authentication required"
        } else if self.sender.is_some() {
            "503 5.5.1 nested MAIL"
        } else if declared.zip(self.settings.size).is_some_and(|(size, max)| size > max) {
            "552 5.3.4 message too big"
        } else {
            "250 2.1.0 OK"
        };
        let step = self.act(Stage::Mail, normal).await?;
        if step == Step::Taken {
            self.sender = Some(address);
            self.params = params;
        }
        Ok(step)
    }

    async fn rcpt(&mut self, rest: &str) -> Result<Step> {
        let Some((address, _)) = path(rest, "TO:") else { return self.say("501 5.5.4 syntax").await };
        if self.sender.is_none() {
            return self.say("503 5.5.1 MAIL first").await;
        }
        let step = self.act(Stage::RcptOf(address.clone()), "250 2.1.5 OK").await?;
        if step == Step::Taken {
            self.recipients.push(address);
        }
        Ok(step)
    }

    async fn data(&mut self) -> Result<Step> {
        if self.recipients.is_empty() {
            return self.say("554 5.5.1 no valid recipients").await;
        }
        let step = self.act(Stage::Data, "354 go ahead").await?;
        if step != Step::Taken {
            return Ok(step);
        }
        let raw = self.message().await?;
        let act = lock(&self.shared.scripts).next(&Stage::Dot);
        let too_big = self.settings.size.is_some_and(|size| raw.len() > size);
        let keeps = match &act {
            Act::Reply(text) | Act::ReplyAndClose(text) => text.starts_with('2'),
            Act::Close | Act::Raw(_) => false,
            _ => !too_big,
        };
        let mail = Mail {
            from: self.sender.take().unwrap_or_default(),
            to: std::mem::take(&mut self.recipients),
            raw,
            helo: self.helo.clone(),
            user: self.user.clone(),
            params: std::mem::take(&mut self.params),
            connection: self.connection,
            at: Instant::now(),
        };
        if keeps {
            self.shared.mails.push(mail);
        }
        self.perform(act, if too_big { "552 5.3.4 message too big" } else { "250 2.0.0 queued" }).await
    }

    /// Reads up to the final dot. Only CRLF ends a line: a dot between bare line feeds is text.
    async fn message(&mut self) -> Result<Vec<u8>> {
        let mut message = Vec::new();
        loop {
            let mut line = Vec::new();
            // A line with bare line feeds in it comes in several pieces; the CR before the LF ends it.
            while !line.ends_with(b"\r\n") {
                if (&mut self.io).take(MESSAGE_MAX as u64).read_until(b'\n', &mut line).await? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                if message.len() + line.len() > MESSAGE_MAX {
                    return Err(ErrorKind::InvalidData.into());
                }
            }
            if line == b".\r\n" {
                return Ok(message);
            }
            message.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
    }

    /// One line, or `None` at the end.
    async fn line(&mut self) -> Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let read = (&mut self.io).take(LINE_MAX).read_until(b'\n', &mut line).await?;
        Ok((read > 0).then_some(line))
    }

    async fn ask(&mut self, prompt: &str) -> Result<String> {
        self.send(format!("{prompt}\r\n").as_bytes()).await?;
        let line = self.line().await?.ok_or(ErrorKind::UnexpectedEof)?;
        Ok(String::from_utf8_lossy(&line).trim().to_owned())
    }

    async fn act(&mut self, stage: Stage, normal: &str) -> Result<Step> {
        let act = lock(&self.shared.scripts).next(&stage);
        self.perform(act, normal).await
    }

    async fn perform(&mut self, act: Act, normal: &str) -> Result<Step> {
        match act {
            Act::Normal => self.say(normal).await,
            Act::Reply(text) => self.say(&text).await,
            Act::ReplyAndClose(text) => {
                self.say(&text).await?;
                Ok(Step::Over)
            }
            Act::NormalAndClose => {
                self.say(normal).await?;
                Ok(Step::Over)
            }
            Act::Close | Act::KeepAndClose => Ok(Step::Over),
            Act::Held(gate) => {
                gate.pass().await;
                self.say(normal).await
            }
            Act::Steps(gate) => {
                let (wire, step) = render(normal);
                for byte in wire.into_bytes() {
                    gate.pass().await;
                    self.send(&[byte]).await?;
                }
                Ok(step)
            }
            Act::Raw(bytes) => {
                self.send(&bytes).await?;
                Ok(Step::Refused)
            }
        }
    }

    async fn say(&mut self, reply: &str) -> Result<Step> {
        let (wire, step) = render(reply);
        self.send(wire.as_bytes()).await?;
        Ok(step)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.io.get_mut().write_all(bytes).await
    }
}

/// `250 a\nb` as `250-a`, `250 b`.
fn render(reply: &str) -> (String, Step) {
    let code = reply.get(..3).unwrap_or("250");
    let lines: Vec<_> = reply.get(4..).unwrap_or_default().split('\n').collect();
    let mut wire = String::new();
    for (index, line) in lines.iter().enumerate() {
        let separator = if index + 1 == lines.len() { ' ' } else { '-' };
        wire.push_str(&format!("{code}{separator}{line}\r\n"));
    }
    let step = if code.starts_with(['2', '3']) { Step::Taken } else { Step::Refused };
    (wire, step)
}

/// The address of `FROM:<a@b> PARAM…` and what follows it.
fn path(rest: &str, prefix: &str) -> Option<(String, Vec<String>)> {
    let head = rest.get(..prefix.len())?;
    if !head.eq_ignore_ascii_case(prefix) {
        return None;
    }
    let (address, after) = rest[prefix.len()..].trim_start().strip_prefix('<')?.split_once('>')?;
    Some((address.to_owned(), after.split_whitespace().map(str::to_owned).collect()))
}

fn decode(text: &str) -> String {
    let bytes = STANDARD.decode(text).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
