//! A scripted SMTP server for tests: polite by default, and at any point whatever a test wants.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::wire::Io;

/// What the server does instead of the polite answer.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    Say(String),
    SayAndClose(String),
    /// One byte at a time.
    Dribble(String),
    /// Reads on and answers nothing.
    Silence,
    Close,
}

pub(crate) fn say(text: &str) -> Option<Act> {
    Some(Act::Say(text.to_owned()))
}

#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) connection: usize,
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    pub(crate) data: String,
}

/// Number of the connection (from 0) and the command; also `<greeting>` and `<dot>`. None: be polite.
type Script = dyn Fn(usize, &str) -> Option<Act> + Send + Sync;

#[derive(Default)]
struct Seen {
    commands: Vec<(usize, String)>,
    mails: Vec<Received>,
    connections: usize,
}

pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) features: Vec<&'static str>,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) implicit: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self { features: vec!["SIZE 10000000", "8BITMIME", "SMTPUTF8", "AUTH PLAIN LOGIN"], tls: None, implicit: false }
    }
}

impl Fake {
    pub(crate) async fn start(setup: Setup, script: impl Fn(usize, &str) -> Option<Act> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        let script: Arc<Script> = Arc::new(script);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let number = {
                    let mut seen = shared.lock().unwrap();
                    seen.connections += 1;
                    seen.connections - 1
                };
                let talk = Talk { number, seen: Arc::clone(&shared), script: Arc::clone(&script), setup: setup.clone() };
                connections.spawn(talk.serve(socket));
            }
        });
        Self { address, seen, task }
    }

    pub(crate) fn mails(&self) -> Vec<Received> {
        self.seen.lock().unwrap().mails.clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    /// Commands of one connection.
    pub(crate) fn commands(&self, connection: usize) -> Vec<String> {
        self.seen.lock().unwrap().commands.iter().filter(|(number, _)| *number == connection).map(|(_, line)| line.clone()).collect()
    }
}

struct Talk {
    number: usize,
    seen: Arc<Mutex<Seen>>,
    script: Arc<Script>,
    setup: Setup,
}

/// How a part of the dialogue ended.
enum End {
    Closed,
    Upgrade,
}

impl Talk {
    async fn serve(self, socket: TcpStream) {
        if let (Some(tls), true) = (&self.setup.tls, self.setup.implicit) {
            if let Ok(stream) = tls.accept(socket).await {
                let mut io = BufReader::new(stream);
                let _ = self.talk(&mut io, true).await;
            }
            return;
        }
        let mut io = BufReader::new(socket);
        if let Ok(End::Upgrade) = self.talk(&mut io, true).await
            && let Some(tls) = &self.setup.tls
            && let Ok(stream) = tls.accept(io.into_inner()).await
        {
            let _ = self.talk(&mut BufReader::new(stream), false).await;
        }
    }

    async fn act<S: Io>(&self, io: &mut BufReader<S>, command: &str, polite: &str) -> std::io::Result<Option<String>> {
        match (self.script)(self.number, command).unwrap_or_else(|| Act::Say(polite.to_owned())) {
            Act::Say(text) => {
                io.write_all(format!("{text}\r\n").as_bytes()).await?;
                io.flush().await?;
                Ok(Some(text))
            }
            Act::SayAndClose(text) => {
                io.write_all(format!("{text}\r\n").as_bytes()).await?;
                io.flush().await?;
                Ok(None)
            }
            Act::Dribble(text) => {
                for byte in format!("{text}\r\n").bytes() {
                    io.write_all(&[byte]).await?;
                    io.flush().await?;
                    tokio::task::yield_now().await;
                }
                Ok(Some(text))
            }
            Act::Silence => {
                io.read_to_end(&mut Vec::new()).await?;
                Ok(None)
            }
            Act::Close => Ok(None),
        }
    }

    async fn talk<S: Io>(&self, io: &mut BufReader<S>, greet: bool) -> std::io::Result<End> {
        if greet && self.act(io, "<greeting>", "220 fake ready").await?.is_none() {
            return Ok(End::Closed);
        }
        let (mut from, mut to, mut login_steps) = (String::new(), Vec::new(), 0);
        loop {
            let mut line = String::new();
            if io.read_line(&mut line).await? == 0 {
                return Ok(End::Closed);
            }
            let line = line.trim_end().to_owned();
            self.seen.lock().unwrap().commands.push((self.number, line.clone()));
            let polite = self.polite(&line, &mut login_steps);
            let Some(said) = self.act(io, &line, &polite).await? else { return Ok(End::Closed) };
            let good = said.starts_with('2');
            match line.get(..4).unwrap_or_default() {
                "MAIL" if good => from = line.clone(),
                "RCPT" if good => to.push(line.clone()),
                "RSET" => to.clear(),
                "DATA" if said.starts_with('3') => {
                    let data = read_data(io).await?;
                    let mail = Received { connection: self.number, from: from.clone(), to: std::mem::take(&mut to), data };
                    self.seen.lock().unwrap().mails.push(mail);
                    if self.act(io, "<dot>", "250 2.0.0 queued").await?.is_none() {
                        return Ok(End::Closed);
                    }
                }
                "STAR" if said.starts_with("220") => return Ok(End::Upgrade),
                "QUIT" => return Ok(End::Closed),
                _ => {}
            }
        }
    }

    fn polite(&self, line: &str, login_steps: &mut u32) -> String {
        let word = line.split(' ').next().unwrap_or_default();
        match word {
            "EHLO" => {
                let mut lines: Vec<String> = vec!["250-fake".to_owned()];
                lines.extend(self.setup.features.iter().map(|feature| format!("250-{feature}")));
                lines.push("250 HELP".to_owned());
                lines.join("\r\n")
            }
            "STARTTLS" => "220 go".to_owned(),
            "AUTH" if line == "AUTH LOGIN" => {
                *login_steps = 1;
                "334 VXNlcm5hbWU6".to_owned()
            }
            "AUTH" => "235 2.7.0 welcome".to_owned(),
            "MAIL" | "RCPT" | "RSET" | "NOOP" => "250 ok".to_owned(),
            "DATA" => "354 go on".to_owned(),
            "QUIT" => "221 bye".to_owned(),
            _ if *login_steps == 1 => {
                *login_steps = 2;
                "334 UGFzc3dvcmQ6".to_owned()
            }
            _ if *login_steps == 2 => {
                *login_steps = 0;
                "235 2.7.0 welcome".to_owned()
            }
            _ => "500 what".to_owned(),
        }
    }
}

/// Up to the final dot, dot-stuffing undone.
async fn read_data<S: Io>(io: &mut BufReader<S>) -> std::io::Result<String> {
    let mut data = Vec::new();
    loop {
        let mut line = Vec::new();
        if io.read_until(b'\n', &mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if line == b".\r\n" {
            return Ok(String::from_utf8_lossy(&data).into_owned());
        }
        data.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
    }
}
