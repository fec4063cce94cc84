//! Lines and replies on a socket. Everything is bounded: line length, lines of a reply, and the time of each wait.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::reply::{Reply, Stage};
use super::{Failure, FailureKind};

/// RFC 5321 allows 512 bytes; some servers write more.
const MAX_LINE: usize = 4 * 1024;
const MAX_LINES: usize = 128;
/// Bytes written to the socket with one time limit.
const CHUNK: usize = 64 * 1024;

/// A socket, encrypted or not.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Something went wrong in the dialogue.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) failure: Failure,
    /// The connection is of no more use.
    pub(crate) broken: bool,
    /// The server, not the message, is the reason: worth one more try when the connection was an old one.
    pub(crate) stale: bool,
}

impl Fault {
    /// No answer, or no sensible one.
    pub(crate) fn lost(stage: Stage, what: &str) -> Self {
        let message = format!("connection to the mail server failed at {}: {what}", stage.words());
        Self { failure: Failure::new(FailureKind::Unreachable, message), broken: true, stale: true }
    }

    /// The server said no.
    pub(crate) fn refused(stage: Stage, reply: &Reply) -> Self {
        let closing = reply.code == 421;
        // A reply of the wrong class means that both sides count differently; nothing after it can be trusted.
        let confused = !matches!(reply.code, 400..=599);
        Self { failure: reply.failure(stage), broken: closing || confused, stale: closing }
    }

    /// A fault of the set-up: the same on every connection.
    pub(crate) fn setup(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { failure: Failure::new(kind, message), broken: true, stale: false }
    }
}

/// A connection with its read buffer and the call's deadline.
pub(crate) struct Wire<S> {
    io: S,
    buffer: Vec<u8>,
    /// No wait is longer than this point in time.
    pub(crate) deadline: Instant,
    command: Duration,
}

impl<S: Io> Wire<S> {
    pub(crate) fn new(io: S, deadline: Instant, command: Duration) -> Self {
        Self { io, buffer: Vec::new(), deadline, command }
    }

    /// The socket, for TLS to take over. Refused when the server has said more than it was asked: text that came before
    /// TLS must never be read as if it had come through it.
    pub(crate) fn into_bare(self) -> Result<S, Fault> {
        if self.buffer.is_empty() {
            return Ok(self.io);
        }
        Err(Fault::setup(FailureKind::Tls, "the server, or someone on the way, sent text between the answer to STARTTLS and TLS"))
    }

    /// The server speaks first.
    pub(crate) async fn greeting(&mut self) -> Result<Reply, Fault> {
        self.reply(Stage::Greeting, self.command).await
    }

    /// One command and its reply.
    pub(crate) async fn command(&mut self, stage: Stage, line: &str) -> Result<Reply, Fault> {
        self.command_within(stage, line, self.command).await
    }

    /// The same with another limit for the answer.
    pub(crate) async fn command_within(&mut self, stage: Stage, line: &str, patience: Duration) -> Result<Reply, Fault> {
        self.nothing_unread(stage)?;
        // The line may be a login.
        let line = Zeroizing::new([line.as_bytes(), b"\r\n"].concat());
        self.write(stage, &line).await?;
        self.reply(stage, patience).await
    }

    /// A reply that nobody waited for is an answer to something else: taken as the next one it could turn a refusal
    /// into a success.
    fn nothing_unread(&self, stage: Stage) -> Result<(), Fault> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&self.buffer);
        let line: String = text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect();
        Err(Fault::lost(stage, &format!("the server spoke out of turn: {line}")))
    }

    /// The body of a message, without the final dot. When the server hangs up meanwhile, its last words are the reason.
    pub(crate) async fn body(&mut self, body: &[u8]) -> Result<(), Fault> {
        self.nothing_unread(Stage::Data)?;
        for chunk in body.chunks(CHUNK) {
            if let Err(fault) = self.write(Stage::Data, chunk).await {
                let last_words = self.reply(Stage::Data, Duration::from_secs(1)).await;
                return Err(last_words.map_or(fault, |reply| Fault { broken: true, ..Fault::refused(Stage::Dot, &reply) }));
            }
        }
        Ok(())
    }

    /// The final dot and the answer to it. The server may have the message whatever comes after this was called.
    pub(crate) async fn dot(&mut self, patience: Duration) -> Result<Reply, Fault> {
        self.write(Stage::Dot, b".\r\n").await?;
        self.reply(Stage::Dot, patience).await
    }

    pub(crate) async fn write(&mut self, stage: Stage, bytes: &[u8]) -> Result<(), Fault> {
        let until = self.until(self.command);
        let work = async {
            self.io.write_all(bytes).await?;
            self.io.flush().await
        };
        match timeout_at(until, work).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Fault::lost(stage, &error.to_string())),
            Err(_) => Err(Fault::lost(stage, "the server took nothing more in time")),
        }
    }

    fn until(&self, patience: Duration) -> Instant {
        self.deadline.min(Instant::now() + patience)
    }

    /// The next reply, all of its lines.
    pub(crate) async fn reply(&mut self, stage: Stage, patience: Duration) -> Result<Reply, Fault> {
        let until = self.until(patience);
        match timeout_at(until, self.read_reply(stage)).await {
            Ok(reply) => reply,
            Err(_) => Err(Fault::lost(stage, "no answer in time")),
        }
    }

    async fn read_reply(&mut self, stage: Stage) -> Result<Reply, Fault> {
        let mut reply = Reply { code: 0, lines: Vec::new() };
        loop {
            let line = self.read_line(stage).await?;
            let Some((code, last, text)) = parse_line(&line) else {
                let shown: String = line.chars().filter(|c| !c.is_control()).take(100).collect();
                return Err(Fault::lost(stage, &format!("an answer that is not SMTP: {shown}")));
            };
            if !reply.lines.is_empty() && code != reply.code {
                return Err(Fault::lost(stage, "an answer whose lines have different codes"));
            }
            reply.code = code;
            reply.lines.push(text.to_owned());
            if last {
                return Ok(reply);
            }
            if reply.lines.len() >= MAX_LINES {
                return Err(Fault::lost(stage, "an answer with too many lines"));
            }
        }
    }

    async fn read_line(&mut self, stage: Stage) -> Result<String, Fault> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned());
            }
            if self.buffer.len() > MAX_LINE {
                return Err(Fault::lost(stage, "an answer with too long a line"));
            }
            let mut piece = [0; 2 * 1024];
            match self.io.read(&mut piece).await {
                Ok(0) => return Err(Fault::lost(stage, "the server closed the connection")),
                Ok(count) => self.buffer.extend_from_slice(&piece[..count]),
                Err(error) => return Err(Fault::lost(stage, &error.to_string())),
            }
        }
    }

    /// Says goodbye and closes; nothing depends on the answer.
    pub(crate) async fn quit(mut self) {
        let until = self.until(Duration::from_secs(2));
        let farewell = async {
            if self.io.write_all(b"QUIT\r\n").await.is_ok() && self.io.flush().await.is_ok() {
                let _ = self.read_line(Stage::Reset).await;
            }
            let _ = self.io.shutdown().await;
        };
        let _ = timeout_at(until, farewell).await;
    }
}

/// Code, whether it is the last line, text.
fn parse_line(line: &str) -> Option<(u16, bool, &str)> {
    let (code, rest) = line.split_at_checked(3)?;
    if !code.bytes().all(|byte| byte.is_ascii_digit()) || !(b'2'..=b'5').contains(&code.as_bytes()[0]) {
        return None;
    }
    let last = match rest.as_bytes().first() {
        None | Some(b' ') => true,
        Some(b'-') => false,
        Some(_) => return None,
    };
    Some((code.parse().ok()?, last, rest.get(1..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Result<Reply, String> {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        far.write_all(bytes).await.unwrap();
        drop(far);
        let mut wire = Wire::new(near, Instant::now() + Duration::from_secs(5), Duration::from_secs(5));
        wire.reply(Stage::Mail, Duration::from_secs(5)).await.map_err(|fault| fault.failure.message)
    }

    #[tokio::test]
    async fn replies_are_read_whole() {
        for (bytes, code, lines) in [
            ("250 ok\r\n", 250, 1),
            ("250\r\n", 250, 1),
            ("250 ok\n", 250, 1),
            ("250-a\r\n250-b\r\n250 c\r\n", 250, 3),
            ("550-5.1.1 no\r\n550\r\n", 550, 2),
        ] {
            let reply = read(bytes.as_bytes()).await.unwrap();
            assert_eq!((reply.code, reply.lines.len()), (code, lines), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn rubbish_and_floods_end_the_dialogue() {
        let long = [b"250 ".as_slice(), &[b'x'; 10_000]].concat();
        let many = "250-x\r\n".repeat(1_000);
        for bytes in [
            b"".as_slice(),
            b"25",
            b"250 ok",
            b"hello\r\n",
            b"2x0 ok\r\n",
            b"999 ok\r\n",
            b"100 ok\r\n",
            b"\r\n",
            b"250_ok\r\n",
            b"250-a\r\n550 b\r\n",
            b"\xff\xfe\xfd\r\n",
            "п25 ok\r\n".as_bytes(),
            b"HTTP/1.1 400 Bad Request\r\n",
            &long,
            many.as_bytes(),
        ] {
            let why = read(bytes).await.unwrap_err();
            assert!(why.starts_with("connection to the mail server failed at the sender: ") && why.len() < 300, "{why}");
        }
    }
}
