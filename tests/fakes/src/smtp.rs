//! A fake SMTP receiver: any reply at any stage by script, and a mailbox of what was taken.
//!
//! Speaks no TLS (it can offer STARTTLS and refuse it); that is tested against real servers.
//! Start at [`SmtpReceiver::start`]; the dialogue is in `session`.

mod script;
mod session;

use std::io::Result;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use script::{Act, Settings, Stage};

use crate::ParsedMail;
use crate::journal::{Journal, lock};
use script::Scripts;

/// A message that was taken.
#[derive(Clone, Debug)]
pub struct Mail {
    /// The envelope's sender.
    pub from: String,
    /// The recipients that were accepted.
    pub to: Vec<String>,
    /// As it came, dots unstuffed.
    pub raw: Vec<u8>,
    /// What the client called itself.
    pub helo: String,
    /// Who was logged in.
    pub user: Option<String>,
    /// What followed the address on MAIL.
    pub params: Vec<String>,
    /// Counts the connections from 1: tells whether one was used again.
    pub connection: u64,
    /// When the final dot came.
    pub at: Instant,
}

impl Mail {
    /// The message, parsed.
    #[must_use]
    pub fn parsed(&self) -> ParsedMail {
        ParsedMail::read(&self.raw)
    }
}

/// One command as it came, for tests that count them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Counts the connections from 1.
    pub connection: u64,
    /// Without the line end; what follows AUTH's mechanism is left out.
    pub line: String,
}

/// The fake server.
#[derive(Debug)]
pub struct SmtpReceiver {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _guard: DropGuard,
}

#[derive(Debug)]
struct Shared {
    mails: Journal<Mail>,
    commands: Journal<Command>,
    scripts: Mutex<Scripts>,
    settings: Mutex<Settings>,
}

impl SmtpReceiver {
    /// Starts on a free port, without login.
    pub async fn start() -> Result<Self> {
        Self::start_with(Settings::default()).await
    }

    /// Starts with these settings.
    pub async fn start_with(settings: Settings) -> Result<Self> {
        Self::start_on(0, settings).await
    }

    /// Starts on this port with these settings.
    pub async fn start_on(port: u16, settings: Settings) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let addr = listener.local_addr()?;
        let shared =
            Arc::new(Shared { mails: Journal::new(), commands: Journal::new(), scripts: Mutex::default(), settings: Mutex::new(settings) });
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        tokio::spawn(accept(listener, shared.clone(), stop));
        Ok(Self { addr, shared, _guard: guard })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What happens at this stage the next times, one after the other.
    pub fn script(&self, stage: Stage, acts: impl IntoIterator<Item = Act>) {
        lock(&self.shared.scripts).queue(stage, acts);
    }

    /// What happens at this stage whenever no script is left.
    pub fn always(&self, stage: Stage, act: Act) {
        lock(&self.shared.scripts).set(stage, act);
    }

    /// Changes the settings for connections to come.
    pub fn set(&self, settings: Settings) {
        *lock(&self.shared.settings) = settings;
    }

    /// The messages that were taken.
    #[must_use]
    pub fn received(&self) -> Vec<Mail> {
        self.shared.mails.all()
    }

    /// Waits until `count` messages have come and returns all.
    ///
    /// # Panics
    /// When they have not come after a minute.
    pub async fn wait_for(&self, count: usize) -> Vec<Mail> {
        self.shared.mails.wait_for(count).await
    }

    /// Every command so far.
    #[must_use]
    pub fn commands(&self) -> Vec<Command> {
        self.shared.commands.all()
    }

    /// Waits until `count` commands have come and returns all.
    ///
    /// # Panics
    /// When they have not come after a minute.
    pub async fn wait_for_commands(&self, count: usize) -> Vec<Command> {
        self.shared.commands.wait_for(count).await
    }

    /// Forgets messages and commands.
    pub fn forget(&self) {
        self.shared.mails.clear();
        self.shared.commands.clear();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let mut connection = 0;
    loop {
        let socket = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted { Ok((socket, _)) => socket, Err(_) => continue },
        };
        connection += 1;
        let (shared, stop) = (shared.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                // A connection that breaks is what many tests are about: nothing to report.
                _ = session::run(socket, connection, shared) => {}
            }
        });
    }
}

#[cfg(test)]
mod tests;
