//! The credential's account, and what the operator of the host allows.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::address::Mailbox;
use crate::secrets::SecretText;

/// When the connection is encrypted. There is no "if offered": an attacker on the way could take the offer away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tls {
    /// From the first byte, usually on port 465.
    Implicit,
    /// By the command STARTTLS before anything else, usually on port 587.
    Starttls,
    /// Not at all; only where the operator allows it.
    None,
}

impl Tls {
    /// As written in settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Implicit => "implicit",
            Self::Starttls => "starttls",
            Self::None => "none",
        }
    }
}

/// A credential's SMTP account, ready for use.
#[derive(Debug, Clone)]
pub struct Account {
    /// Name (in its ASCII form) or IP literal without brackets.
    pub host: String,
    #[allow(missing_docs)]
    pub port: u16,
    #[allow(missing_docs)]
    pub tls: Tls,
    /// None: no login.
    pub username: Option<String>,
    #[allow(missing_docs)]
    pub password: Option<Arc<SecretText>>,
    /// For the `From` header and, without its name, the envelope.
    pub from: String,
}

/// Why the rendered settings are no account; the texts are for an admin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    #[allow(missing_docs)]
    #[error("mail server must be written as `host:port`")]
    Server,
    #[allow(missing_docs)]
    #[error("mail server `{0}` is neither a host name nor an IP address")]
    Host(String),
    #[allow(missing_docs)]
    #[error("tls must be `implicit`, `starttls` or `none`")]
    Tls,
    #[allow(missing_docs)]
    #[error("from is not a mail address: {0}")]
    From(String),
}

impl Account {
    /// Takes the texts of the manifest's `[mail]` section after their templates were rendered.
    pub fn parse(server: &str, tls: &str, username: &str, password: Option<SecretText>, from: &str) -> Result<Self, AccountError> {
        let (host, port) = server.trim().rsplit_once(':').ok_or(AccountError::Server)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(AccountError::Server)?;
        let tls = match tls.trim() {
            "implicit" => Tls::Implicit,
            "starttls" => Tls::Starttls,
            "none" => Tls::None,
            _ => return Err(AccountError::Tls),
        };
        Mailbox::parse(from).map_err(AccountError::From)?;
        let username = (!username.is_empty()).then(|| username.to_owned());
        let password = password.filter(|text| !text.expose().is_empty()).map(Arc::new);
        Ok(Self { host: host_name(host)?, port, tls, username, password, from: from.to_owned() })
    }

    /// Equal for accounts that may share a connection. A changed password gives another one.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let password = self.password.as_ref().map_or("", |secret| secret.expose());
        for part in [&self.host, self.tls.as_str(), self.username.as_deref().unwrap_or(""), password] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        hash.update(self.port.to_be_bytes());
        hash.finalize().into()
    }

    /// For people and logs; no secret in it.
    pub(crate) fn server(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{host}:{}", self.port)
    }
}

/// A host name in ASCII, or an IP literal without brackets.
fn host_name(text: &str) -> Result<String, AccountError> {
    let wrong = || AccountError::Host(text.chars().filter(|c| !c.is_control()).take(100).collect());
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if bare.parse::<std::net::IpAddr>().is_ok() {
        return Ok(bare.to_owned());
    }
    let ascii = idna::domain_to_ascii_strict(text).map_err(|_| wrong())?;
    // What looks like a number would be read as an IPv4 address by some resolvers.
    let numeric =
        ascii.rsplit('.').next().is_none_or(|last| last.is_empty() || last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x"));
    if numeric { Err(wrong()) } else { Ok(ascii) }
}

/// How long each step may take. The call's own deadline cuts all of them.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// One TCP connection.
    pub connect: Duration,
    /// A TLS handshake.
    pub tls: Duration,
    /// One command and its answer.
    pub command: Duration,
    /// The answer to the final dot; giving up here is what makes duplicates.
    pub dot: Duration,
    /// No message is begun when less than this is left until the call's deadline.
    pub reserve: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            tls: Duration::from_secs(15),
            command: Duration::from_secs(30),
            dot: Duration::from_secs(120),
            reserve: Duration::from_secs(5),
        }
    }
}

/// What the operator of the host says about mail.
#[derive(Debug, Clone)]
pub struct Operator {
    /// The name the host gives itself in EHLO; some servers refuse `localhost`.
    pub ehlo_name: String,
    /// Unencrypted connections, and logins over them, to any server. Within `allow_networks` they are always possible.
    pub allow_plain: bool,
    /// The operator's own networks: any port, encrypted or not.
    pub allow_networks: Vec<IpNet>,
    /// Ports beside 25, 465, 587 and 2525.
    pub extra_ports: Vec<u16>,
    /// Certificates (PEM) of authorities that are trusted beside those of the system.
    pub extra_roots_pem: String,
    #[allow(missing_docs)]
    pub timeouts: Timeouts,
    /// Kept connections of one account.
    pub max_idle: usize,
    /// How long a connection is kept.
    pub idle: Duration,
    /// Mails over one connection.
    pub max_mails: u32,
    /// Recipients of one message; every server must take 100.
    pub max_recipients: usize,
    /// Bytes of one finished message.
    pub max_bytes: usize,
}

impl Default for Operator {
    fn default() -> Self {
        Self {
            ehlo_name: "[127.0.0.1]".to_owned(),
            allow_plain: false,
            allow_networks: Vec::new(),
            extra_ports: Vec::new(),
            extra_roots_pem: String::new(),
            timeouts: Timeouts::default(),
            max_idle: 4,
            idle: Duration::from_secs(30),
            max_mails: 100,
            max_recipients: 100,
            max_bytes: 25 << 20,
        }
    }
}

/// Ports on which mail is submitted.
const PORTS: [u16; 4] = [25, 465, 587, 2525];

impl Operator {
    /// A connection to this address may be made.
    pub(crate) fn allows(&self, address: SocketAddr) -> bool {
        PORTS.contains(&address.port()) || self.extra_ports.contains(&address.port()) || self.is_own(address)
    }

    /// Mail and login may go there unencrypted.
    pub(crate) fn allows_plain(&self, address: SocketAddr) -> bool {
        self.allow_plain || self.is_own(address)
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.allow_networks.iter().any(|network| network.contains(&ip))
    }
}

/// Why a name gave no address to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolveError {
    /// The address policy forbids all of its addresses.
    Denied(String),
    /// It was not found.
    Failed(String),
}

/// Names to checked addresses: the egress guard's part. Connections are made to what it returns and to nothing else.
#[async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// `host` is a name or an IP literal without brackets.
    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError>;
}

/// The system's resolver without any check. For tests and for a host whose operator switched the guard off.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolve;

#[async_trait]
impl Resolve for SystemResolve {
    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        let found = tokio::net::lookup_host((host, port)).await.map_err(|error| ResolveError::Failed(error.to_string()))?;
        Ok(found.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(server: &str, tls: &str, from: &str) -> Result<Account, AccountError> {
        Account::parse(server, tls, "user", Some(SecretText::new("pass".to_owned())), from)
    }

    #[test]
    fn settings_become_an_account() {
        let account = parse("smtp.example.com:465", "implicit", "Leads <leads@example.com>").unwrap();
        assert_eq!((account.host.as_str(), account.port, account.tls), ("smtp.example.com", 465, Tls::Implicit));
        assert_eq!(parse("почта.рф:25", "none", "a@b.ru").unwrap().host, "xn--80a1acny.xn--p1ai");
        assert_eq!(parse("[::1]:25", "none", "a@b.ru").unwrap().host, "::1");
        assert_eq!(parse("[::1]:25", "none", "a@b.ru").unwrap().server(), "[::1]:25");
        let none = Account::parse("a.ru:25", "none", "", Some(SecretText::new(String::new())), "a@b.ru").unwrap();
        assert!(none.username.is_none() && none.password.is_none());
    }

    #[test]
    fn wrong_settings_say_what_is_wrong() {
        for server in ["smtp.example.com", "smtp.example.com:", "smtp.example.com:0", "smtp.example.com:70000", ""] {
            assert_eq!(parse(server, "none", "a@b.ru").unwrap_err(), AccountError::Server, "{server}");
        }
        for server in ["a b:25", "user@host:25", "host/path:25", "0x7f000001:25", "2130706433:25", "127.1:25", "a\r\nb:25", ":25"] {
            assert!(matches!(parse(server, "none", "a@b.ru").unwrap_err(), AccountError::Host(_)), "{server}");
        }
        assert_eq!(parse("a.ru:25", "maybe", "a@b.ru").unwrap_err(), AccountError::Tls);
        assert!(matches!(parse("a.ru:25", "none", "a@b.ru\r\nBcc: x@y.ru").unwrap_err(), AccountError::From(_)));
    }

    #[test]
    fn passwords_and_users_have_connections_of_their_own() {
        let account = parse("a.ru:25", "none", "a@b.ru").unwrap();
        let other = Account { password: Some(Arc::new(SecretText::new("pass2".to_owned()))), ..account.clone() };
        let shifted =
            Account { username: Some("userp".to_owned()), password: Some(Arc::new(SecretText::new("ass".to_owned()))), ..account.clone() };
        assert_ne!(account.fingerprint(), other.fingerprint());
        assert_ne!(account.fingerprint(), shifted.fingerprint());
        assert_eq!(account.fingerprint(), Account { from: "c@b.ru".to_owned(), ..account.clone() }.fingerprint());
        assert!(!format!("{account:?}").contains("pass\""));
    }

    #[test]
    fn ports_and_plain_text_follow_the_operator() {
        let operator = Operator { allow_networks: vec!["127.0.0.0/8".parse().unwrap()], extra_ports: vec![1025], ..Operator::default() };
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(operator.allows(at("192.0.2.1:587")) && operator.allows(at("192.0.2.1:1025")));
        assert!(!operator.allows(at("192.0.2.1:22")) && operator.allows(at("127.0.0.1:4000")));
        assert!(operator.allows_plain(at("[::ffff:127.0.0.1]:25")) && !operator.allows_plain(at("192.0.2.1:25")));
    }
}
