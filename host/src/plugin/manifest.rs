//! The manifest: what a plugin says of itself, and the only thing the host believes before it runs a line of guest code.
//!
//! Authors write `plugin.toml`; `leadwire channel pack` stores it as JSON in the component's custom section
//! `leadwire:manifest`. The rights a plugin gets are a function of this text and of nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Name of the custom section.
pub const SECTION: &str = "leadwire:manifest";
/// Largest manifest in bytes.
pub const MAX_BYTES: usize = 256 * 1024;

/// Texts by language, such as `en` and `ru`.
pub type LocalText = BTreeMap<String, String>;

/// A plugin's manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format: 1.
    pub manifest: u32,
    /// Lowest contract it needs, such as `1.0`.
    pub contract: String,
    /// The channel it serves: `telegram`, or `acme/telegram` for third parties.
    pub channel: String,
    /// The plugin's own version.
    pub version: semver::Version,
    /// For people.
    pub title: LocalText,
    /// Interfaces it exports.
    pub provides: BTreeSet<Provides>,
    /// Interfaces it may import beside `log`, `clock`, `random`, `progress`, `types`.
    #[serde(default)]
    pub uses: BTreeSet<Uses>,
    /// Its settings.
    pub config: ConfigSection,
    /// Its secrets.
    #[serde(default, rename = "secret")]
    pub secrets: Vec<SecretField>,
    /// Where it may send requests.
    #[serde(default)]
    pub egress: Vec<EgressRule>,
    /// Where the host puts secrets.
    #[serde(default)]
    pub auth: Vec<AuthRule>,
    /// Limits it asks for; each within the host's maximum.
    #[serde(default)]
    pub limits: Limits,
    /// Credentials whose key renders to the same text share their rate limiters. Default: the credential's id.
    #[serde(default)]
    pub quota_key: Option<String>,
    /// Retry rules of the channel. Without any: 3 attempts, 1 s doubling to 30 s, up to 10 % jitter.
    #[serde(default)]
    pub retry: Option<crate::model::RetryOverride>,
    /// What to do when an attempt may have been sent and the remote side cannot be asked: a template that renders to
    /// `look` (default: the plugin looks before it creates), `resend` or `hold`.
    #[serde(default)]
    pub on_doubt: Option<String>,
    /// The credential's mail account.
    #[serde(default)]
    pub mail: Option<MailSection>,
    /// Events that it takes beside leads, callbacks and notifications: [`EVENTS`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub events: BTreeSet<String>,
    /// Answers that a preview gives in place of the remote side, which sees nothing of it.
    #[serde(default, rename = "recording", skip_serializing_if = "Vec::is_empty")]
    pub recordings: Vec<Recording>,
    /// OAuth2 description.
    #[serde(default)]
    pub oauth2: Option<serde_json::Value>,
    /// Webhooks from the remote side.
    #[serde(default)]
    pub inbound: Option<serde_json::Value>,
    /// Feeds to be read on a schedule.
    #[serde(default)]
    pub sync: Vec<serde_json::Value>,
}

/// Events that a plugin may declare to take.
pub const EVENTS: [&str; 1] = [crate::policy::dedup::DUPLICATE_EVENT];

/// What the remote side would answer to a request that changes something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    #[allow(missing_docs)]
    pub method: Method,
    /// The URL's path, whole; a `*` at its end stands for any rest.
    pub path: String,
    /// HTTP status. Default 200.
    #[serde(default = "ok")]
    pub status: u16,
    /// As the remote side would write it, with made-up ids.
    #[serde(default)]
    pub body: String,
}

fn ok() -> u16 {
    200
}

impl Recording {
    /// Whether it answers this request.
    pub fn answers(&self, method: Method, path: &str) -> bool {
        self.method == method && self.path.strip_suffix('*').map_or(self.path == path, |start| path.starts_with(start))
    }
}

/// An interface that a plugin can export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Provides {
    Outbound,
    Inbound,
    Sync,
    Lookup,
}

/// An interface that a plugin must declare to import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Uses {
    Http,
    Secrets,
    SecretsReveal,
    Kv,
    Mail,
    Template,
    /// `wasi:*`, linked with nothing granted.
    Wasi,
}

/// The settings an admin fills.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigSection {
    /// JSON Schema 2020-12 of an object. In `plugin.toml` a file name; `pack` puts the schema itself here.
    /// A property with `"x-address": true` holds a whole URL whose host the admin chooses, one with `"x-template": true` a
    /// template, which is checked when it is entered.
    pub schema: serde_json::Value,
}

/// A secret the admin fills.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretField {
    #[allow(missing_docs)]
    pub name: String,
    /// For the admin's form.
    #[serde(default)]
    pub title: LocalText,
    /// What the host may do with it.
    #[serde(rename = "use")]
    pub uses: BTreeSet<SecretUse>,
    /// The credential cannot be saved without it.
    #[serde(default)]
    pub required: bool,
    /// How the bytes that `secrets.sign` works with are written in the admin's text.
    #[serde(default)]
    pub encoding: SecretEncoding,
    /// Text before the encoded part that is not part of the key, such as `whsec_`. Optional in what the admin enters.
    #[serde(default)]
    pub prefix: String,
    /// Fewest bytes after decoding, so that a mistyped secret is refused when it is entered.
    #[serde(default)]
    pub min_bytes: usize,
    /// A regular expression that the admin's text must match whole.
    #[serde(default)]
    pub pattern: Option<String>,
}

/// What the host may do with a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretUse {
    /// In an OAuth2 exchange.
    Oauth,
    /// Put into requests by an auth rule.
    Inject,
    /// A key for `secrets.sign` and `secrets.matches`.
    Sign,
    /// The mail account's password.
    Mail,
    /// Given to the guest as text; needs the import `secrets-reveal`.
    Reveal,
}

/// How a secret's bytes are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum SecretEncoding {
    #[default]
    Utf8,
    Base64,
    Hex,
}

/// A set of addresses the plugin may send requests to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressRule {
    #[allow(missing_docs)]
    pub name: String,
    /// Template of an absolute URL; relative request URLs resolve below it, absolute ones must lie below it.
    pub base: String,
    /// Methods allowed there.
    pub methods: BTreeSet<Method>,
    /// Requests must go to `base` itself, not below it.
    #[serde(default)]
    pub exact: bool,
}

/// An HTTP method a guest can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    /// As on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    /// It can change something on the remote side.
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Get | Self::Head)
    }
}

/// Where the host puts a secret. Exactly one place is named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthRule {
    #[allow(missing_docs)]
    pub name: String,
    /// Egress rules it applies to; empty means all.
    #[serde(default)]
    pub egress: BTreeSet<String>,
    /// Applied when the request names none.
    #[serde(default)]
    pub default: bool,
    /// A request without its secrets is not sent. When false and a secret is not filled, nothing is put in.
    #[serde(default)]
    pub required: bool,
    /// Header name → template.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub header: BTreeMap<String, String>,
    /// HTTP Basic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<Basic>,
    /// Query parameter → template.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, String>,
    /// Template put between the base's path and the rest: `bot{secret.bot_token}/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<String>,
    /// Field of a form body → template.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub form: BTreeMap<String, String>,
    /// JSON pointer in a JSON body → template.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub json: BTreeMap<String, String>,
}

/// HTTP Basic authentication; both are templates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Basic {
    pub username: String,
    pub password: String,
}

/// What one call may use, and how fast the remote side may be called.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Items of one `deliver` call, 1 to 250. Default 1.
    pub batch: u32,
    /// How often `deliver` may be called; each must have a token. Default: no limit.
    pub rate: Vec<Rate>,
    /// Calls at once for one credential, 1 to 100. Default 4.
    pub concurrency: u32,
    /// Wall time of one call, 1 to 300,000 ms. Default 30,000.
    pub timeout_ms: u32,
    /// CPU time of one call, 1 to 10,000 ms. Default 1,000.
    pub cpu_ms: u32,
    /// Memory of one instance, 1 to 256 MiB. Default 64.
    pub memory_mb: u32,
    /// Requests of one call, 1 to 1,000. Default 100.
    pub requests_per_call: u32,
    /// Request and response bodies, up to 10 MiB. Default 1 MiB.
    pub body_bytes: u32,
    /// The status of an answer is all that matters: one whose body is too large, too slow or breaks off is handed over
    /// without its body, instead of a failure. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub status_alone: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch: 1,
            rate: Vec::new(),
            concurrency: 4,
            timeout_ms: 30_000,
            cpu_ms: 1_000,
            memory_mb: 64,
            requests_per_call: 100,
            body_bytes: 1 << 20,
            status_alone: false,
        }
    }
}

/// A token bucket: each `deliver` call takes one token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Tokens a second; may be below one, such as `0.333` for 20 a minute.
    pub per_second: f64,
    /// Tokens that can be saved up, at least 1.
    pub burst: u32,
    /// Credentials whose key renders to the same text share this bucket; default: the manifest's `quota_key`. May use
    /// `{fingerprint.NAME}`: a text that is equal for equal secrets and tells nothing of them.
    #[serde(default)]
    pub key: Option<String>,
    /// The bucket exists only for credentials where this holds.
    #[serde(default)]
    pub when: Option<When>,
}

/// A condition on a credential's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct When {
    /// Template, such as `{config.chat_id}`.
    pub value: String,
    /// Regular expression found in the rendered value.
    pub pattern: String,
}

/// The credential's SMTP account; all values are templates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailSection {
    /// `host:port`.
    pub server: String,
    /// Renders to `implicit`, `starttls` or `none`.
    pub tls: String,
    /// Renders to an empty text for a server without login.
    #[serde(default)]
    pub username: String,
    #[allow(missing_docs)]
    #[serde(default)]
    pub password: String,
    /// The address in `From` and in the envelope.
    pub from: String,
}

impl Provides {
    /// Every one there is.
    pub const ALL: [Self; 4] = [Self::Outbound, Self::Inbound, Self::Sync, Self::Lookup];

    /// The interface's name in the contract.
    pub const fn interface(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Sync => "sync",
            Self::Lookup => "lookup",
        }
    }
}

impl Uses {
    /// Every one there is.
    pub const ALL: [Self; 7] = [Self::Http, Self::Secrets, Self::SecretsReveal, Self::Kv, Self::Mail, Self::Template, Self::Wasi];

    /// The interface's name in the contract.
    pub const fn interface(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Secrets => "secrets",
            Self::SecretsReveal => "secrets-reveal",
            Self::Kv => "kv",
            Self::Mail => "mail",
            Self::Template => "template",
            Self::Wasi => "wasi",
        }
    }
}
