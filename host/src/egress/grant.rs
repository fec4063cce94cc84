//! What one credential may do on the network: its manifest's rules with its settings and secrets put in.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use base64::Engine;
use http::header::{AUTHORIZATION, HeaderName};
use percent_encoding::utf8_percent_encode;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::base::{self, SEGMENT};
use super::headers::is_forbidden_name;
use super::target::Rule;
use super::template::{Part, Space, Template, TemplateError, config_text};
use super::types::{Failure, FailureKind};
use crate::plugin::manifest::{AuthRule, Manifest, SecretUse};
use crate::secrets::{Masker, SecretSet, SecretText};

/// Why a manifest's rules cannot be used, with these settings or at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {reason}")]
pub struct GrantError {
    /// Such as ``egress rule `api` ``.
    pub rule: String,
    /// For an admin or the plugin's author.
    pub reason: String,
}

/// Where an auth rule puts a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Header(HeaderName),
    Query(String),
    PathPrefix,
    Form(String),
    /// A JSON pointer, split and unescaped; never empty.
    Json(Vec<String>),
}

/// An auth rule with this credential's secrets.
pub(super) struct Auth {
    pub name: String,
    egress: BTreeSet<String>,
    default: bool,
    pub required: bool,
    /// The value is `None` when a setting or secret is not filled.
    pub slots: Vec<(Place, Option<SecretText>)>,
    /// What is not filled.
    pub missing: Option<String>,
}

impl Auth {
    pub(super) fn covers(&self, rule: &Rule) -> bool {
        self.egress.is_empty() || self.egress.contains(&rule.name)
    }
}

struct Inner {
    rules: Vec<Rule>,
    auth: Vec<Auth>,
    secrets: Arc<SecretSet>,
    masker: OnceLock<Masker>,
}

/// The rights of one credential, ready for use. Cheap to clone; may be kept for as long as the credential's version and
/// the plugin stay the same, which saves building the [`Masker`] again. Holds secrets in memory while it lives.
#[derive(Clone)]
pub struct Grant(Arc<Inner>);

impl Grant {
    /// Puts settings (valid against the schema, defaults filled in) and secrets into the manifest's rules.
    pub fn new(manifest: &Manifest, config: &Map<String, Value>, secrets: Arc<SecretSet>) -> Result<Self, GrantError> {
        let mut rules = Vec::with_capacity(manifest.egress.len());
        for rule in &manifest.egress {
            let wrong = |reason: String| GrantError { rule: format!("egress rule `{}`", rule.name), reason };
            let template = parse(&rule.base, &[Space::Config]).map_err(wrong)?;
            let base = base::render(&template, config, &manifest.config.schema).map_err(wrong)?;
            rules.push(Rule { name: rule.name.clone(), base, methods: rule.methods.clone(), exact: rule.exact });
        }
        let values = Values { manifest, config, secrets: &secrets };
        let auth = manifest.auth.iter().map(|rule| values.auth(rule).map_err(|reason| auth_error(rule, reason)));
        let auth = auth.collect::<Result<Vec<_>, _>>()?;
        Ok(Self(Arc::new(Inner { rules, auth, secrets, masker: OnceLock::new() })))
    }

    /// No rights at all.
    pub fn none() -> Self {
        Self(Arc::new(Inner { rules: Vec::new(), auth: Vec::new(), secrets: Arc::new(SecretSet::new()), masker: OnceLock::new() }))
    }

    /// Masks this credential's secrets, and what auth rules make of them. Also for log lines, memos and receipts of its calls.
    pub fn masker(&self) -> &Masker {
        self.0.masker.get_or_init(|| {
            let made = self.0.auth.iter().filter(|auth| auth.missing.is_none()).flat_map(|auth| &auth.slots);
            Masker::new(
                &self.0.secrets,
                made.filter(|(place, _)| matches!(place, Place::Header(_))).filter_map(|(_, value)| value.as_ref()),
            )
        })
    }

    pub(super) fn rules(&self) -> &[Rule] {
        &self.0.rules
    }

    /// The rule that relative URLs of a request belong to: the first one that the named auth rule is for.
    pub(super) fn relative_to(&self, auth: Option<&str>) -> Option<&Rule> {
        let named = auth.and_then(|name| self.0.auth.iter().find(|auth| auth.name == name));
        self.0.rules.iter().find(|rule| named.is_none_or(|auth| auth.covers(rule)))
    }

    /// All auth rules of an egress rule: what they control is the host's.
    pub(super) fn covering<'a>(&'a self, rule: &'a Rule) -> impl Iterator<Item = &'a Auth> {
        self.0.auth.iter().filter(move |auth| auth.covers(rule))
    }

    /// The auth rule to apply.
    pub(super) fn choose(&self, rule: &Rule, name: Option<&str>) -> Result<Option<&Auth>, Failure> {
        let Some(name) = name else {
            return Ok(self.0.auth.iter().find(|auth| auth.default && auth.covers(rule)));
        };
        match self.0.auth.iter().find(|auth| auth.name == name) {
            Some(auth) if auth.covers(rule) => Ok(Some(auth)),
            Some(_) => Err(Failure::denied(format!("auth rule `{name}` is not for egress rule `{}`", rule.name))),
            None => Err(Failure::unsent(FailureKind::Invalid, format!("the manifest has no auth rule `{}`", name.escape_default()))),
        }
    }
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let auth: Vec<_> = self.0.auth.iter().map(|auth| &auth.name).collect();
        f.debug_struct("Grant").field("rules", &self.0.rules).field("auth", &auth).finish_non_exhaustive()
    }
}

/// Checks egress and auth rules by themselves, before there is any credential: for the moment a plugin is installed.
pub fn check_rules(manifest: &Manifest) -> Result<(), GrantError> {
    let properties = &manifest.config.schema["properties"];
    let known = |space: Space, name: &str| match space {
        Space::Config => properties.get(name).map(|_| ()).ok_or_else(|| format!("the config schema has no property `{name}`")),
        _ => injectable(manifest, name),
    };
    let check = |source: &str, spaces: &[Space]| {
        let template = parse(source, spaces)?;
        template.refs().try_for_each(|(space, name)| known(space, name))
    };
    let mut names = BTreeSet::new();
    for rule in &manifest.egress {
        let wrong = |reason: String| GrantError { rule: format!("egress rule `{}`", rule.name), reason };
        check(&rule.base, &[Space::Config]).map_err(wrong)?;
        if rule.methods.is_empty() {
            return Err(wrong("`methods` is empty".to_owned()));
        }
        if !names.insert(rule.name.as_str()) {
            return Err(wrong("the name is used twice".to_owned()));
        }
    }
    let (mut auth_names, mut defaults) = (BTreeSet::new(), Vec::<&AuthRule>::new());
    for rule in &manifest.auth {
        let wrong = |reason: String| auth_error(rule, reason);
        if !auth_names.insert(rule.name.as_str()) {
            return Err(wrong("the name is used twice".to_owned()));
        }
        if let Some(unknown) = rule.egress.iter().find(|name| !names.contains(name.as_str())) {
            return Err(wrong(format!("there is no egress rule `{unknown}`")));
        }
        for (_, source) in places(rule).map_err(wrong)? {
            for source in source.texts() {
                check(source, &[Space::Config, Space::Secret]).map_err(wrong)?;
            }
        }
        if rule.default {
            let clash = |other: &AuthRule| rule.egress.is_empty() || other.egress.is_empty() || !rule.egress.is_disjoint(&other.egress);
            if let Some(other) = defaults.iter().find(|other| clash(other)) {
                return Err(wrong(format!("auth rule `{}` is the default there already", other.name)));
            }
            defaults.push(rule);
        }
    }
    Ok(())
}

fn auth_error(rule: &AuthRule, reason: String) -> GrantError {
    GrantError { rule: format!("auth rule `{}`", rule.name), reason }
}

fn parse(source: &str, spaces: &[Space]) -> Result<Template, String> {
    Template::parse(source, spaces).map_err(|error| match &error {
        TemplateError::NotHere { reference, .. } if reference.starts_with("oauth.") => {
            format!("`{{{reference}}}`: OAuth2 tokens are not supported by this version of the host")
        }
        _ => error.to_string(),
    })
}

/// Keys for signing never travel, so that no remote side can learn them or be used as an oracle.
fn injectable(manifest: &Manifest, name: &str) -> Result<(), String> {
    match manifest.secrets.iter().find(|secret| secret.name == name) {
        Some(secret) if secret.uses.contains(&SecretUse::Inject) => Ok(()),
        Some(_) => Err(format!("secret `{name}` is not declared with `use = [\"inject\"]`")),
        None => Err(format!("there is no secret `{name}`")),
    }
}

enum Source<'a> {
    One(&'a str),
    Basic(&'a str, &'a str),
}

impl Source<'_> {
    fn texts(&self) -> impl Iterator<Item = &str> {
        let (first, second) = match self {
            Self::One(text) => (*text, None),
            Self::Basic(username, password) => (*username, Some(*password)),
        };
        std::iter::once(first).chain(second)
    }
}

/// The places of a rule with their templates.
fn places(rule: &AuthRule) -> Result<Vec<(Place, Source<'_>)>, String> {
    let mut places = Vec::new();
    for (name, source) in &rule.header {
        if is_forbidden_name(name) {
            return Err(format!("the header `{name}` cannot be set"));
        }
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is no header name"))?;
        places.push((Place::Header(parsed), Source::One(source)));
    }
    if let Some(basic) = &rule.basic {
        places.push((Place::Header(AUTHORIZATION), Source::Basic(&basic.username, &basic.password)));
    }
    places.extend(rule.query.iter().map(|(name, source)| (Place::Query(name.clone()), Source::One(source))));
    places.extend(rule.path_prefix.iter().map(|source| (Place::PathPrefix, Source::One(source.as_str()))));
    places.extend(rule.form.iter().map(|(name, source)| (Place::Form(name.clone()), Source::One(source))));
    for (pointer, source) in &rule.json {
        let tokens = pointer.strip_prefix('/').ok_or_else(|| format!("`{pointer}` is no JSON pointer below the root"))?;
        let tokens = tokens.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect();
        places.push((Place::Json(tokens), Source::One(source)));
    }
    if places.is_empty() {
        return Err("it names no place".to_owned());
    }
    if !rule.form.is_empty() && !rule.json.is_empty() {
        return Err("a body cannot be both form and JSON".to_owned());
    }
    Ok(places)
}

struct Values<'a> {
    manifest: &'a Manifest,
    config: &'a Map<String, Value>,
    secrets: &'a SecretSet,
}

impl Values<'_> {
    fn auth(&self, rule: &AuthRule) -> Result<Auth, String> {
        let mut missing = None;
        let mut slots = Vec::new();
        for (place, source) in places(rule)? {
            let value = match source {
                Source::One(source) if place == Place::PathPrefix => self.path(source),
                Source::One(source) => self.text(source),
                Source::Basic(username, password) => self.basic(username, password),
            };
            let value = match value? {
                Ok(text) => Some(text),
                Err(name) => {
                    missing = Some(name);
                    None
                }
            };
            slots.push((place, value));
        }
        Ok(Auth { name: rule.name.clone(), egress: rule.egress.clone(), default: rule.default, required: rule.required, slots, missing })
    }

    /// Outer error: the rule is wrong. Inner error: this is not filled.
    fn text(&self, source: &str) -> Result<Result<SecretText, String>, String> {
        self.fill(source, |value| Ok(Zeroizing::new(value.to_owned())))
    }

    fn path(&self, source: &str) -> Result<Result<SecretText, String>, String> {
        self.fill(source, |value| match value {
            "." | ".." => Err("a value in the path is a dot segment".to_owned()),
            value => Ok(Zeroizing::new(utf8_percent_encode(value, SEGMENT).to_string())),
        })
    }

    fn basic(&self, username: &str, password: &str) -> Result<Result<SecretText, String>, String> {
        let (username, password) = match (self.text(username)?, self.text(password)?) {
            (Ok(username), Ok(password)) => (username, password),
            (Err(name), _) | (_, Err(name)) => return Ok(Err(name)),
        };
        let pair = Zeroizing::new(format!("{}:{}", username.expose(), password.expose()));
        Ok(Ok(SecretText::new(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair.as_bytes())))))
    }

    fn fill(&self, source: &str, encode: impl Fn(&str) -> Result<Zeroizing<String>, String>) -> Result<Result<SecretText, String>, String> {
        let template = parse(source, &[Space::Config, Space::Secret])?;
        let mut out = Zeroizing::new(String::new());
        for part in template.parts() {
            let (space, name) = match part {
                Part::Text(text) => {
                    out.push_str(text);
                    continue;
                }
                Part::Ref(space, name) => (*space, name),
            };
            let encoded = if space == Space::Secret {
                injectable(self.manifest, name)?;
                self.secrets.get(name).map(|secret| encode(secret.expose()))
            } else {
                config_text(self.config, name).map(|value| encode(&value))
            };
            match encoded {
                Some(encoded) => out.push_str(&encoded?),
                None => return Ok(Err(format!("{} `{name}`", space.name()))),
            }
        }
        Ok(Ok(SecretText::new(std::mem::take(&mut *out))))
    }
}
