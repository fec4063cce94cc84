//! A connection that is ready for mail: connected to a checked address, encrypted as the account says, logged in.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use super::account::{Account, Operator, Resolve, ResolveError, Tls};
use super::mailer::Mailer;
use super::reply::{Reply, Stage};
use super::wire::{Fault, Io, Wire};
use super::{Failure, FailureKind};

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;
/// A kept connection that is slower than this to answer is given up for a new one.
const RESET: Duration = Duration::from_secs(5);

/// What the server offers; learnt after TLS, never before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// SIZE with its number; 0 and no number mean no limit was told.
    pub(crate) size: Option<u64>,
    pub(crate) utf8: bool,
    pub(crate) eight_bit: bool,
    pub(crate) starttls: bool,
    pub(crate) login: Vec<String>,
}

impl Features {
    fn read(reply: &Reply) -> Self {
        let mut features = Self::default();
        for line in reply.lines.iter().skip(1) {
            // `AUTH=LOGIN PLAIN` is an old spelling.
            let line = line.to_ascii_uppercase().replacen("AUTH=", "AUTH ", 1);
            let mut words = line.split_whitespace();
            match words.next() {
                Some("SIZE") => features.size = Some(words.next().and_then(|word| word.parse().ok()).unwrap_or(0)),
                Some("SMTPUTF8") => features.utf8 = true,
                Some("8BITMIME") => features.eight_bit = true,
                Some("STARTTLS") => features.starttls = true,
                Some("AUTH") => features.login.extend(words.take(32).map(str::to_owned)),
                _ => {}
            }
        }
        features
    }
}

/// A logged-in connection.
pub(crate) struct Session {
    pub(crate) wire: Wire<Box<dyn Io>>,
    pub(crate) features: Features,
    /// Mails sent over it.
    pub(crate) mails: u32,
    /// For the admin: what was found while connecting.
    pub(crate) facts: Vec<(String, String)>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("features", &self.features).field("mails", &self.mails).finish_non_exhaustive()
    }
}

/// All that connecting needs beside the account.
pub(crate) struct Connector<'a> {
    pub(crate) operator: &'a Operator,
    pub(crate) resolve: &'a dyn Resolve,
    pub(crate) tls: &'a Mailer,
    pub(crate) deadline: Instant,
}

impl Connector<'_> {
    /// Connects and logs in.
    pub(crate) async fn open(&self, account: &Account) -> Result<Session, Fault> {
        if account.username.is_some() && account.password.is_none() {
            return Err(Fault::setup(FailureKind::NoCredential, "the mail account has a user name but no password"));
        }
        let (socket, address) = self.connect(account).await?;
        let mut facts = vec![("server".to_owned(), format!("{} at {address}", account.server()))];
        let mut wire = match account.tls {
            Tls::Implicit => {
                let stream = self.handshake(account, socket).await?;
                facts.push(tls_fact(&stream, account));
                let mut wire = self.wire(Box::new(stream) as Box<dyn Io>);
                greeted(&mut wire).await?;
                wire
            }
            Tls::Starttls => {
                let mut wire = self.wire(socket);
                greeted(&mut wire).await?;
                let socket = self.starttls(wire).await?;
                let stream = self.handshake(account, socket).await?;
                facts.push(tls_fact(&stream, account));
                self.wire(Box::new(stream) as Box<dyn Io>)
            }
            Tls::None => {
                if !self.operator.allows_plain(address) {
                    let why = "the operator of this host does not allow mail without TLS to this server";
                    return Err(Fault::setup(FailureKind::Denied, why));
                }
                facts.push(("tls".to_owned(), "none".to_owned()));
                let mut wire = self.wire(Box::new(socket) as Box<dyn Io>);
                greeted(&mut wire).await?;
                wire
            }
        };
        let features = self.hello(&mut wire).await?;
        let mut session = Session { wire, features, mails: 0, facts };
        session.login(account).await?;
        Ok(session)
    }

    fn wire<S: Io>(&self, io: S) -> Wire<S> {
        Wire::new(io, self.deadline, self.operator.timeouts.command)
    }

    async fn connect(&self, account: &Account) -> Result<(TcpStream, SocketAddr), Fault> {
        let until = self.deadline.min(Instant::now() + self.operator.timeouts.connect);
        let found = match timeout_at(until, self.resolve.resolve(&account.host, account.port)).await {
            Ok(Ok(found)) => found,
            Ok(Err(ResolveError::Denied(why))) => return Err(Fault::setup(FailureKind::Denied, why)),
            Ok(Err(ResolveError::Failed(why))) => {
                return Err(Fault::lost(Stage::Connect, &format!("{} was not found: {why}", account.host)));
            }
            Err(_) => return Err(Fault::lost(Stage::Connect, &format!("{} was not found in time", account.host))),
        };
        if found.is_empty() {
            return Err(Fault::lost(Stage::Connect, &format!("{} has no address", account.host)));
        }
        let allowed: Vec<SocketAddr> = found.into_iter().filter(|address| self.operator.allows(*address)).take(MAX_ADDRESSES).collect();
        let mut last = Fault::setup(FailureKind::Denied, format!("mail may not be sent to port {}", account.port));
        for address in allowed {
            let until = self.deadline.min(Instant::now() + self.operator.timeouts.connect);
            match timeout_at(until, TcpStream::connect(address)).await {
                Ok(Ok(socket)) => {
                    // Commands are small and each waits for its answer.
                    let _ = socket.set_nodelay(true);
                    return Ok((socket, address));
                }
                Ok(Err(error)) => last = Fault::lost(Stage::Connect, &format!("{address}: {error}")),
                Err(_) => last = Fault::lost(Stage::Connect, &format!("{address}: no connection in time")),
            }
        }
        Err(last)
    }

    async fn hello<S: Io>(&self, wire: &mut Wire<S>) -> Result<Features, Fault> {
        let reply = wire.command(Stage::Ehlo, &format!("EHLO {}", self.operator.ehlo_name)).await?;
        if reply.code == 250 { Ok(Features::read(&reply)) } else { Err(Fault::refused(Stage::Ehlo, &reply)) }
    }

    /// What was learnt before TLS ends with this function.
    async fn starttls(&self, mut wire: Wire<TcpStream>) -> Result<TcpStream, Fault> {
        if !self.hello(&mut wire).await?.starttls {
            return Err(Fault::setup(FailureKind::Tls, "the server does not offer STARTTLS, which the settings demand"));
        }
        let reply = wire.command(Stage::StartTls, "STARTTLS").await?;
        if reply.code != 220 {
            return Err(Fault { broken: true, ..Fault::refused(Stage::StartTls, &reply) });
        }
        wire.into_bare()
    }

    async fn handshake(&self, account: &Account, socket: TcpStream) -> Result<TlsStream<TcpStream>, Fault> {
        let config = self.tls.tls().map_err(|why| Fault::setup(FailureKind::Tls, why))?;
        let Ok(name) = ServerName::try_from(account.host.clone()) else {
            return Err(Fault::setup(FailureKind::Tls, format!("`{}` cannot stand in a certificate", account.host)));
        };
        let until = self.deadline.min(Instant::now() + self.operator.timeouts.tls);
        match timeout_at(until, TlsConnector::from(config).connect(name, socket)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(tls_fault(&error)),
            Err(_) => Err(Fault::lost(Stage::Connect, "the TLS handshake took too long")),
        }
    }
}

/// A broken line may mend itself; a bad certificate or a server that does not speak TLS needs an admin.
fn tls_fault(error: &std::io::Error) -> Fault {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => {
            Fault::setup(FailureKind::Tls, "the server does not speak TLS here; check the port and the tls setting")
        }
        Some(inner) => Fault::setup(FailureKind::Tls, format!("TLS with the mail server failed: {inner}")),
        None => Fault::lost(Stage::Connect, &format!("TLS handshake: {error}")),
    }
}

fn tls_fact(stream: &TlsStream<TcpStream>, account: &Account) -> (String, String) {
    let session = stream.get_ref().1;
    let version = match session.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "1.2",
        _ => "unknown",
    };
    ("tls".to_owned(), format!("{}, version {version}, certificate valid for {}", account.tls.as_str(), account.host))
}

async fn greeted<S: Io>(wire: &mut Wire<S>) -> Result<(), Fault> {
    let reply = wire.greeting().await?;
    if reply.code == 220 { Ok(()) } else { Err(Fault { broken: true, ..Fault::refused(Stage::Greeting, &reply) }) }
}

impl Session {
    /// Makes a kept connection ready: the server may have closed it, or may be about to.
    pub(crate) async fn reset(&mut self, deadline: Instant) -> Result<(), Fault> {
        self.wire.deadline = deadline;
        let reply = self.wire.command_within(Stage::Reset, "RSET", RESET).await?;
        if reply.is_good() { Ok(()) } else { Err(Fault::refused(Stage::Reset, &reply)) }
    }

    async fn login(&mut self, account: &Account) -> Result<(), Fault> {
        let (Some(user), Some(password)) = (&account.username, &account.password) else { return Ok(()) };
        let password = password.expose();
        if user.contains('\0') || password.contains('\0') {
            return Err(Fault::setup(FailureKind::Login, "user name or password holds a zero byte"));
        }
        let offered = |name: &str| self.features.login.iter().any(|known| known == name);
        let (name, reply) = if offered("PLAIN") {
            ("PLAIN", self.login_plain(user, password).await?)
        } else if offered("LOGIN") {
            ("LOGIN", self.login_login(user, password).await?)
        } else {
            let offers = if self.features.login.is_empty() { "none".to_owned() } else { self.features.login.join(", ") };
            let why = format!("the server offers no login that the host knows (PLAIN, LOGIN); it offers: {offers}");
            return Err(Fault::setup(FailureKind::Login, why));
        };
        // After a refusal no second mechanism is tried: servers count failures and lock accounts.
        if reply.code != 235 {
            return Err(Fault { broken: true, stale: false, ..Fault::refused(Stage::Auth, &reply) });
        }
        self.facts.push(("login".to_owned(), format!("accepted with {name}")));
        Ok(())
    }

    async fn login_plain(&mut self, user: &str, password: &str) -> Result<Reply, Fault> {
        let text = Zeroizing::new(format!("\0{user}\0{password}"));
        let encoded = Zeroizing::new(BASE64.encode(text.as_bytes()));
        let line = Zeroizing::new(format!("AUTH PLAIN {}", *encoded));
        self.wire.command(Stage::Auth, &line).await
    }

    async fn login_login(&mut self, user: &str, password: &str) -> Result<Reply, Fault> {
        let mut reply = self.wire.command(Stage::Auth, "AUTH LOGIN").await?;
        for text in [user, password] {
            if reply.code != 334 {
                return Ok(reply);
            }
            let line = Zeroizing::new(BASE64.encode(text));
            reply = self.wire.command(Stage::Auth, &line).await?;
        }
        Ok(reply)
    }

    /// The list an admin reads after a check.
    pub(crate) fn report(&self) -> Vec<(String, String)> {
        let mut report = self.facts.clone();
        let login = if self.features.login.is_empty() { "none".to_owned() } else { self.features.login.join(" ") };
        let size = match self.features.size {
            Some(0) | None => "not told".to_owned(),
            Some(bytes) => format!("{bytes} bytes"),
        };
        report.push(("login.offered".to_owned(), login));
        report.push(("size".to_owned(), size));
        report.push(("smtputf8".to_owned(), if self.features.utf8 { "yes" } else { "no" }.to_owned()));
        report
    }

    /// Refused by our own look at what the server offers.
    pub(crate) fn check_size(&self, bytes: usize) -> Result<(), Fault> {
        match self.features.size {
            Some(limit) if limit > 0 && bytes as u64 > limit => {
                let why = format!("the message has {bytes} bytes, the server takes {limit}");
                Err(Fault { failure: Failure::new(FailureKind::RefusedMessage, why), broken: false, stale: false })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_s_offers_are_read() {
        let lines = ["mx greets you", "size 1000", "8BITMIME", "SMTPUTF8", "AUTH plain LOGIN", "AUTH=CRAM-MD5", "STARTTLS", "X-ODD"];
        let reply = Reply { code: 250, lines: lines.map(str::to_owned).to_vec() };
        let features = Features::read(&reply);
        assert_eq!(features.size, Some(1000));
        assert!(features.utf8 && features.eight_bit && features.starttls);
        assert_eq!(features.login, ["PLAIN", "LOGIN", "CRAM-MD5"]);
        let bare = Reply { code: 250, lines: vec!["SMTPUTF8 is my host name".to_owned(), "SIZE".to_owned()] };
        assert_eq!(Features::read(&bare), Features { size: Some(0), ..Features::default() });
    }
}
