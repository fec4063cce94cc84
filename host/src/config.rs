//! The configuration: defaults, then the file, then the environment, then flags. Every value is checked here and nowhere else.

mod unknown;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use crate::model::RateLimit;
use crate::policy::cleanup::{Ages, MAX_DAYS, Schedule};
use crate::secrets::SecretText;

/// The commented defaults, as `leadwire config` prints them.
pub const DEFAULTS: &str = include_str!("../config.default.toml");

/// Bytes of a plugin file, which must fit into the memory for bodies whatever `body_limit` is.
const LARGEST_BODY: usize = 32 * 1024 * 1024;

/// How one value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Bool,
    List,
}

/// Every name, how it is written, and what is allowed.
const KEYS: [(&str, Kind, &str); 33] = [
    ("listen", Kind::Text, "an address and port such as 127.0.0.1:8080"),
    ("data_dir", Kind::Text, "a folder"),
    ("database_url", Kind::Text, "empty, sqlite:///path/to/file.db, or postgres://user:password@host:5432/database"),
    ("channels_dir", Kind::Text, "a folder"),
    ("admin_key", Kind::Text, "at least 32 characters after `lw_`"),
    ("admin_key_file", Kind::Text, "a file"),
    ("master_key", Kind::Text, "32 bytes in base64"),
    ("master_key_file", Kind::Text, "a file"),
    ("egress_allow", Kind::List, "networks such as 10.1.0.0/16 or 127.0.0.1"),
    ("egress_ports", Kind::List, "ports, 1 to 65535"),
    ("egress_rewrite", Kind::List, "entries such as api.telegram.org=http://127.0.0.1:9001"),
    ("smtp_allow_plain", Kind::Bool, "true or false"),
    ("smtp_ehlo_name", Kind::Text, "empty, or a host name such as leads.example.com"),
    ("smtp_roots_file", Kind::Text, "empty, or a file with certificates in PEM form"),
    ("max_calls", Kind::Number, "a number from 1 to 10000"),
    ("log", Kind::Text, "a level or filter such as info,leadwire::lane=debug"),
    ("log_format", Kind::Text, "json or pretty"),
    ("max_backlog", Kind::Number, "a number from 1"),
    ("body_limit", Kind::Number, "bytes, 1024 to 104857600"),
    ("body_memory", Kind::Number, "bytes, from body_limit and 33554432 on"),
    ("body_timeout", Kind::Number, "seconds, 1 to 3600"),
    ("header_timeout", Kind::Number, "seconds, 1 to 3600"),
    ("max_connections", Kind::Number, "a number from 1 to 100000"),
    ("key_rate", Kind::Number, "requests a second, 0 to 100000"),
    ("key_burst", Kind::Number, "requests, 0 to 100000"),
    ("retention_schedule", Kind::Text, "a cron expression with five fields such as 0 2 * * *"),
    ("retention_leads_days", Kind::Number, "days, 0 to 36500"),
    ("retention_attempts_days", Kind::Number, "days, 0 to 36500"),
    ("retention_events_days", Kind::Number, "days, 0 to 36500"),
    ("retention_audit_days", Kind::Number, "days, 0 to 36500"),
    ("event_streams", Kind::Number, "a number from 1 to 10000"),
    ("event_streams_per_key", Kind::Number, "a number from 1 to 10000"),
    ("node", Kind::Text, "1 to 64 of a-z, A-Z, 0-9, `.`, `_`, `-`"),
];

/// A value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_name}: {key}: {problem}; allowed: {allowed}")]
pub struct ConfigError {
    /// Where it stands, such as `environment LEADWIRE_LISTEN`.
    pub source_name: String,
    #[allow(missing_docs)]
    pub key: String,
    #[allow(missing_docs)]
    pub problem: String,
    #[allow(missing_docs)]
    pub allowed: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One object a line.
    Json,
    /// For a terminal.
    Pretty,
}

/// Where plugins may send requests beyond what their manifests say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressConfig {
    /// Private networks that may be reached, on any port.
    pub allow: Vec<IpNet>,
    /// Ports beside 80 and 443.
    pub ports: Vec<u16>,
    /// Host name → address that stands in for it.
    pub rewrite: BTreeMap<String, Url>,
}

/// What clients may take of the host's sockets, memory and patience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Connections at once.
    pub max_connections: usize,
    /// How long a request's header may take, the wait for it on an open connection included.
    pub header_timeout: Duration,
    /// How long a request's whole body may take.
    pub body_timeout: Duration,
    /// Bytes of all requests' bodies at once.
    pub body_memory: usize,
}

/// Where everything durable is.
#[derive(Debug, Clone)]
pub enum Database {
    /// This file.
    Sqlite(PathBuf),
    /// At this URL, which may hold a password.
    Postgres(SecretText),
}

/// How long things are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionConfig {
    /// When the clean-up comes, in each project's time zone.
    pub schedule: Schedule,
    /// Where a project says nothing else.
    pub ages: Ages,
}

/// Who may follow the live events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventLimits {
    /// Streams at once; no more than half of the connections.
    pub streams: usize,
    /// Streams at once of one API key.
    pub per_key: usize,
}

/// The checked configuration.
#[derive(Debug)]
pub struct Config {
    #[allow(missing_docs)]
    pub listen: SocketAddr,
    #[allow(missing_docs)]
    pub data_dir: PathBuf,
    #[allow(missing_docs)]
    pub database: Database,
    #[allow(missing_docs)]
    pub channels_dir: PathBuf,
    /// Given by the operator instead of in the file.
    pub admin_key: Option<SecretText>,
    #[allow(missing_docs)]
    pub admin_key_file: PathBuf,
    /// Given by the operator instead of in the file.
    pub master_key: Option<SecretText>,
    #[allow(missing_docs)]
    pub master_key_file: PathBuf,
    #[allow(missing_docs)]
    pub egress: EgressConfig,
    /// Mail without encryption is allowed.
    pub smtp_allow_plain: bool,
    /// What the host calls itself to mail servers; an address literal when empty.
    pub smtp_ehlo_name: String,
    /// Certificates (PEM) of authorities trusted for mail servers beside the system's.
    pub smtp_roots_file: Option<PathBuf>,
    /// Plugin calls at once.
    pub max_calls: u32,
    /// Filter of `tracing-subscriber`.
    pub log: String,
    #[allow(missing_docs)]
    pub log_format: LogFormat,
    /// Jobs that may wait before new leads get 429.
    pub max_backlog: u64,
    /// Bytes of a request's body.
    pub body_limit: usize,
    #[allow(missing_docs)]
    pub http: HttpLimits,
    /// How often a key without a rate of its own may be used; `None`: as often as it likes.
    pub key_rate: Option<RateLimit>,
    #[allow(missing_docs)]
    pub retention: RetentionConfig,
    #[allow(missing_docs)]
    pub events: EventLimits,
    /// Name of this node in attempts and logs.
    pub node: String,
}

/// Settings on the command line. Keys have none: other users of the machine could read them.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// Settings file (TOML); `leadwire config` prints one with all defaults.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port of the HTTP interface.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Folder for everything durable.
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<String>,
    /// Database, such as sqlite:///path/to/file.db or postgres://host/database; a password belongs into the settings file or the environment
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Folder of plugin files.
    #[arg(long, value_name = "FOLDER")]
    pub channels_dir: Option<String>,
    /// File with the first admin key.
    #[arg(long, value_name = "FILE")]
    pub admin_key_file: Option<String>,
    /// File with the key that encrypts secrets.
    #[arg(long, value_name = "FILE")]
    pub master_key_file: Option<String>,
    /// Private networks that plugins may reach.
    #[arg(long, value_name = "NETWORKS")]
    pub egress_allow: Option<String>,
    /// Ports that plugins may reach beside 80 and 443.
    #[arg(long, value_name = "PORTS")]
    pub egress_ports: Option<String>,
    /// Hosts whose requests go elsewhere.
    #[arg(long, value_name = "HOST=URL")]
    pub egress_rewrite: Option<String>,
    /// Whether mail may be sent without encryption.
    #[arg(long, value_name = "BOOL")]
    pub smtp_allow_plain: Option<String>,
    /// What is logged.
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// json or pretty.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Deliveries that may wait.
    #[arg(long, value_name = "COUNT")]
    pub max_backlog: Option<String>,
    /// Largest request body.
    #[arg(long, value_name = "BYTES")]
    pub body_limit: Option<String>,
    /// This node's name.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
}

impl Flags {
    fn values(&self) -> [(&'static str, &Option<String>); 15] {
        [
            ("listen", &self.listen),
            ("data_dir", &self.data_dir),
            ("database_url", &self.database_url),
            ("channels_dir", &self.channels_dir),
            ("admin_key_file", &self.admin_key_file),
            ("master_key_file", &self.master_key_file),
            ("egress_allow", &self.egress_allow),
            ("egress_ports", &self.egress_ports),
            ("egress_rewrite", &self.egress_rewrite),
            ("smtp_allow_plain", &self.smtp_allow_plain),
            ("log", &self.log),
            ("log_format", &self.log_format),
            ("max_backlog", &self.max_backlog),
            ("body_limit", &self.body_limit),
            ("node", &self.node),
        ]
    }
}

impl Config {
    /// Refuses variables that begin like a setting's and are none. The values are not shown.
    pub fn check_names(environment: impl Iterator<Item = (String, String)>) -> Result<(), ConfigError> {
        unknown::check(environment)
    }

    /// Reads all sources. `env` looks up one variable.
    pub fn load(flags: &Flags, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut layers = Layers::default();
        layers.file("defaults", DEFAULTS)?;
        let file = flags.config.clone().or_else(|| env("LEADWIRE_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from));
        if let Some(path) = file {
            let name = format!("file {}", path.display());
            let text = std::fs::read_to_string(&path).map_err(|error| ConfigError {
                source_name: name.clone(),
                key: "config".into(),
                problem: error.to_string(),
                allowed: "a readable TOML file".into(),
            })?;
            layers.file(&name, &text)?;
        }
        for (key, kind, allowed) in KEYS {
            let name = format!("LEADWIRE_{}", key.to_uppercase());
            if let Some(text) = env(&name) {
                layers.text(key, kind, allowed, format!("environment {name}"), &text)?;
            }
        }
        for (key, text) in flags.values() {
            if let (Some(text), Some((key, kind, allowed))) = (text, KEYS.iter().find(|known| known.0 == key)) {
                layers.text(key, *kind, allowed, format!("flag --{}", key.replace('_', "-")), text)?;
            }
        }
        layers.check()
    }
}

/// The last word on each key, and who said it.
#[derive(Default)]
struct Layers {
    values: BTreeMap<&'static str, (toml::Value, String)>,
}

impl Layers {
    fn file(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let error = |key: &str, problem: String, allowed: &str| ConfigError {
            source_name: name.to_owned(),
            key: key.to_owned(),
            problem,
            allowed: allowed.to_owned(),
        };
        let table: toml::Table =
            text.parse().map_err(|problem: toml::de::Error| error("syntax", problem.to_string().trim().to_owned(), "TOML"))?;
        for (key, value) in table {
            let Some((key, kind, allowed)) = KEYS.iter().find(|known| known.0 == key) else {
                let names = KEYS.map(|known| known.0).join(", ");
                return Err(error(&key, "there is no such setting".into(), &names));
            };
            let fits = matches!(
                (kind, &value),
                (Kind::Text, toml::Value::String(_))
                    | (Kind::Number, toml::Value::Integer(_))
                    | (Kind::Bool, toml::Value::Boolean(_))
                    | (Kind::List, toml::Value::Array(_))
            );
            if !fits {
                return Err(error(key, format!("a {} does not fit", value.type_str()), allowed));
            }
            self.values.insert(key, (value, name.to_owned()));
        }
        Ok(())
    }

    fn text(&mut self, key: &'static str, kind: Kind, allowed: &str, source: String, text: &str) -> Result<(), ConfigError> {
        let error = || ConfigError {
            source_name: source.clone(),
            key: key.into(),
            problem: format!("`{text}` does not fit"),
            allowed: allowed.into(),
        };
        let value = match kind {
            Kind::Text => toml::Value::String(text.to_owned()),
            Kind::Number => toml::Value::Integer(text.trim().parse().map_err(|_| error())?),
            Kind::Bool => toml::Value::Boolean(match text.trim() {
                "true" | "1" => true,
                "false" | "0" | "" => false,
                _ => return Err(error()),
            }),
            Kind::List => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                toml::Value::Array(items.map(|item| toml::Value::String(item.to_owned())).collect())
            }
        };
        self.values.insert(key, (value, source));
        Ok(())
    }

    fn error(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        let source_name = self.values.get(key).map(|(_, source)| source.clone()).unwrap_or_default();
        let allowed = KEYS.iter().find(|known| known.0 == key).map_or("", |known| known.2).to_owned();
        ConfigError { source_name, key: key.to_owned(), problem: problem.into(), allowed }
    }

    fn string(&self, key: &str) -> &str {
        self.values.get(key).and_then(|(value, _)| value.as_str()).unwrap_or_default()
    }

    fn parsed<T: FromStr>(&self, key: &str) -> Result<T, ConfigError> {
        let text = self.string(key);
        text.parse().map_err(|_| self.error(key, format!("`{text}` does not fit")))
    }

    fn number(&self, key: &str, min: u64, max: u64) -> Result<u64, ConfigError> {
        let value = self.values.get(key).and_then(|(value, _)| value.as_integer()).unwrap_or_default();
        let number = u64::try_from(value).ok().filter(|number| (min..=max).contains(number));
        number.ok_or_else(|| self.error(key, format!("{value} does not fit")))
    }

    fn list<T>(&self, key: &str, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, ConfigError> {
        let Some((toml::Value::Array(items), _)) = self.values.get(key) else { return Ok(Vec::new()) };
        let texts = items.iter().map(|item| match item {
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        texts.map(|text| read(&text).ok_or_else(|| self.error(key, format!("`{text}` does not fit")))).collect()
    }

    fn path(&self, key: &str, data_dir: &Path, default: &str) -> PathBuf {
        match self.string(key) {
            "" => data_dir.join(default),
            path => PathBuf::from(path),
        }
    }

    fn secret(&self, key: &str) -> Option<SecretText> {
        let text = self.string(key).trim();
        (!text.is_empty()).then(|| SecretText::new(text.to_owned()))
    }

    fn database(&self, data_dir: &Path) -> Result<Database, ConfigError> {
        let url = self.string("database_url");
        if url.is_empty() {
            return Ok(Database::Sqlite(data_dir.join("leadwire.db")));
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            // The URL is not repeated: it may hold a password.
            let parsed = Url::parse(url).map_err(|error| self.error("database_url", format!("the URL cannot be read: {error}")))?;
            let named = parsed.path().len() > 1 || parsed.query_pairs().any(|(name, _)| name == "dbname");
            return if named {
                Ok(Database::Postgres(SecretText::new(url.to_owned())))
            } else {
                Err(self.error("database_url", "the URL names no database"))
            };
        }
        let path = url.strip_prefix("sqlite:").map(|rest| rest.strip_prefix("//").unwrap_or(rest));
        match path {
            Some(path) if !path.is_empty() && !path.contains(['?', '#']) => Ok(Database::Sqlite(PathBuf::from(path))),
            _ => Err(self.error("database_url", "not a database this version knows")),
        }
    }

    fn retention(&self) -> Result<RetentionConfig, ConfigError> {
        let text = self.string("retention_schedule");
        let schedule = Schedule::parse(text).ok_or_else(|| self.error("retention_schedule", format!("`{text}` does not fit")))?;
        let days = |key: &str| self.number(key, 0, u64::from(MAX_DAYS)).map(|days| u32::try_from(days).unwrap_or(MAX_DAYS));
        let ages = Ages {
            leads_days: days("retention_leads_days")?,
            attempts_days: days("retention_attempts_days")?,
            events_days: days("retention_events_days")?,
            audit_days: days("retention_audit_days")?,
        };
        Ok(RetentionConfig { schedule, ages })
    }

    fn node(&self) -> Result<String, ConfigError> {
        let name = match self.string("node") {
            "" => machine_name(),
            name => name.to_owned(),
        };
        let fits = (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if fits { Ok(name) } else { Err(self.error("node", format!("`{name}` does not fit"))) }
    }

    /// Without a burst of its own, twice the rate.
    fn key_rate(&self) -> Result<Option<RateLimit>, ConfigError> {
        let number = |key| self.number(key, 0, RateLimit::MAX.into()).map(|number| number as u32);
        let (per_sec, burst) = (number("key_rate")?, number("key_burst")?);
        if per_sec == 0 && burst > 0 {
            return Err(self.error("key_burst", "there is no key_rate that it belongs to"));
        }
        let burst = if burst == 0 { per_sec.saturating_mul(2).min(RateLimit::MAX) } else { burst };
        Ok((per_sec > 0).then_some(RateLimit { per_sec, burst }))
    }

    fn check(&self) -> Result<Config, ConfigError> {
        let data_dir = match self.string("data_dir") {
            "" => return Err(self.error("data_dir", "it is empty")),
            path => PathBuf::from(path),
        };
        let network = |text: &str| text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
        let rewrite = |text: &str| {
            let (host, url) = text.split_once('=')?;
            let url: Url = url.trim().parse().ok()?;
            (matches!(url.scheme(), "http" | "https") && !host.trim().is_empty()).then(|| (host.trim().to_ascii_lowercase(), url))
        };
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        let log = self.string("log").to_owned();
        if tracing_subscriber::EnvFilter::try_new(&log).is_err() {
            return Err(self.error("log", format!("`{log}` does not fit")));
        }
        let log_format = match self.string("log_format") {
            "json" => LogFormat::Json,
            "pretty" => LogFormat::Pretty,
            other => return Err(self.error("log_format", format!("`{other}` does not fit"))),
        };
        let admin_key = self.secret("admin_key");
        if admin_key.as_ref().is_some_and(|key| !crate::keys::is_strong(key.expose())) {
            return Err(self.error("admin_key", "it is too short"));
        }
        let body_limit = self.number("body_limit", 1_024, 104_857_600)? as usize;
        let max_connections = self.number("max_connections", 1, 100_000)? as usize;
        Ok(Config {
            listen: self.parsed("listen")?,
            database: self.database(&data_dir)?,
            channels_dir: self.path("channels_dir", &data_dir, "channels"),
            admin_key,
            admin_key_file: self.path("admin_key_file", &data_dir, "admin.key"),
            master_key: self.secret("master_key"),
            master_key_file: self.path("master_key_file", &data_dir, "master.key"),
            egress: EgressConfig {
                allow: self.list("egress_allow", network)?,
                ports: self.list("egress_ports", port)?,
                rewrite: self.list("egress_rewrite", rewrite)?.into_iter().collect(),
            },
            smtp_allow_plain: self.values.get("smtp_allow_plain").and_then(|(value, _)| value.as_bool()).unwrap_or_default(),
            smtp_ehlo_name: self.string("smtp_ehlo_name").to_owned(),
            smtp_roots_file: Some(self.string("smtp_roots_file")).filter(|path| !path.is_empty()).map(PathBuf::from),
            max_calls: u32::try_from(self.number("max_calls", 1, 10_000)?).unwrap_or(10_000),
            log,
            log_format,
            max_backlog: self.number("max_backlog", 1, i64::MAX as u64)?,
            body_limit,
            http: HttpLimits {
                max_connections,
                header_timeout: Duration::from_secs(self.number("header_timeout", 1, 3_600)?),
                body_timeout: Duration::from_secs(self.number("body_timeout", 1, 3_600)?),
                body_memory: self.number("body_memory", body_limit.max(LARGEST_BODY) as u64, i64::MAX as u64)? as usize,
            },
            key_rate: self.key_rate()?,
            retention: self.retention()?,
            events: EventLimits {
                // Other requests must find a place whoever follows.
                streams: (self.number("event_streams", 1, 10_000)? as usize).min((max_connections / 2).max(1)),
                per_key: self.number("event_streams_per_key", 1, 10_000)? as usize,
            },
            node: self.node()?,
            data_dir,
        })
    }
}

/// The kernel's name of this machine, as far as it fits into a node's name.
fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).take(64).collect();
    if name.is_empty() { "node".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(flags: Flags, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::load(&flags, &|name| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_defaults_file_names_every_key_and_nothing_else() {
        let table: toml::Table = DEFAULTS.parse().unwrap();
        let mut names: Vec<&str> = table.keys().map(String::as_str).collect();
        let mut known = KEYS.map(|key| key.0).to_vec();
        names.sort_unstable();
        known.sort_unstable();
        assert_eq!(names, known);
        let config = load(Flags::default(), &[]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert!(matches!(&config.database, Database::Sqlite(path) if path == Path::new("./data/leadwire.db")));
        assert_eq!(config.master_key_file, Path::new("./data/master.key"));
        assert!(config.egress == EgressConfig::default() && config.admin_key.is_none() && !config.node.is_empty());
    }

    #[test]
    fn later_sources_win() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leadwire.toml");
        std::fs::write(&path, "listen = \"127.0.0.1:1\"\nnode = \"file\"\nlog = \"warn\"\n").unwrap();
        let path_text = path.to_str().unwrap();
        let env = [("LEADWIRE_CONFIG", path_text), ("LEADWIRE_LISTEN", "127.0.0.1:2"), ("LEADWIRE_NODE", "env")];
        let config = load(Flags { node: Some("flag".into()), ..Flags::default() }, &env).unwrap();
        assert_eq!((config.log.as_str(), config.listen.port(), config.node.as_str()), ("warn", 2, "flag"));
    }

    #[test]
    fn lists_and_secrets_come_from_the_environment() {
        let env = [
            ("LEADWIRE_EGRESS_ALLOW", "10.1.0.0/16, 127.0.0.1"),
            ("LEADWIRE_EGRESS_PORTS", "8443,9000"),
            ("LEADWIRE_EGRESS_REWRITE", "API.telegram.org=http://127.0.0.1:9001"),
            ("LEADWIRE_ADMIN_KEY", "lw_0123456789012345678901234567890123456789"),
            ("LEADWIRE_DATABASE_URL", "sqlite:///tmp/x.db"),
            ("LEADWIRE_SMTP_ALLOW_PLAIN", "true"),
        ];
        let config = load(Flags::default(), &env).unwrap();
        assert_eq!(config.egress.allow.len(), 2);
        assert_eq!(config.egress.ports, [8443, 9000]);
        assert_eq!(config.egress.rewrite["api.telegram.org"].as_str(), "http://127.0.0.1:9001/");
        assert!(matches!(&config.database, Database::Sqlite(path) if path == Path::new("/tmp/x.db")));
        let url = "postgres://u:0123456789@h/d?sslmode=require";
        let other = load(Flags::default(), &[("LEADWIRE_DATABASE_URL", url)]).unwrap();
        assert!(matches!(&other.database, Database::Postgres(given) if given.expose() == url));
        assert!(!format!("{other:?}").contains("0123456789"), "a password was printed");
        assert!(config.smtp_allow_plain);
        assert!(!format!("{config:?}").contains("0123456789"), "a secret was printed");
    }

    #[test]
    fn mistakes_name_the_source_and_what_is_allowed() {
        for (name, value, part) in [
            ("LEADWIRE_LISTEN", "8080", "an address and port"),
            ("LEADWIRE_EGRESS_ALLOW", "10.0.0.0/40", "networks such as"),
            ("LEADWIRE_EGRESS_PORTS", "0", "ports, 1 to"),
            ("LEADWIRE_EGRESS_REWRITE", "x", "entries such as"),
            ("LEADWIRE_LOG_FORMAT", "xml", "json or pretty"),
            ("LEADWIRE_BODY_LIMIT", "5", "bytes, 1024"),
            ("LEADWIRE_MAX_BACKLOG", "many", "a number"),
            ("LEADWIRE_DATABASE_URL", "postgres://u:hidden@h:port/d", "cannot be read"),
            ("LEADWIRE_DATABASE_URL", "postgres://u:hidden@h", "names no database"),
            ("LEADWIRE_DATABASE_URL", "mysql://u:hidden@h/d", "sqlite:///"),
            ("LEADWIRE_ADMIN_KEY", "short", "32 characters"),
            ("LEADWIRE_SMTP_ALLOW_PLAIN", "maybe", "true or false"),
            ("LEADWIRE_RETENTION_SCHEDULE", "0 0 31 2 *", "a cron expression"),
            ("LEADWIRE_RETENTION_LEADS_DAYS", "40000", "days, 0 to"),
        ] {
            let error = load(Flags::default(), &[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(&format!("environment {name}")) && error.contains(part), "{error}");
            assert!(!error.contains("hidden"), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.toml");
        std::fs::write(&path, "lissten = \"x\"").unwrap();
        let flags = Flags { config: Some(path.clone()), ..Flags::default() };
        let error = load(flags, &[]).unwrap_err().to_string();
        assert!(error.contains("bad.toml") && error.contains("lissten") && error.contains("data_dir"), "{error}");
        std::fs::write(&path, "max_backlog = \"x\"").unwrap();
        let error = load(Flags { config: Some(path), ..Flags::default() }, &[]).unwrap_err().to_string();
        assert!(error.contains("max_backlog") && error.contains("string does not fit"), "{error}");
    }
}
