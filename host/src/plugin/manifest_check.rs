//! Whether a manifest makes sense: every rule an author can break, each with a sentence that says how to mend it.

use std::collections::BTreeSet;

use super::inspect::CONTRACT;
use super::manifest::{AuthRule, Manifest, Provides, SecretUse, Uses};
use super::schema::ConfigSchema;
use crate::egress::{Space, Template};
use crate::policy::retry::RetryPolicy;

impl Manifest {
    /// Everything that is wrong with it, for its author.
    pub fn check(&self) -> Result<(), Vec<String>> {
        let mut check = Check { manifest: self, problems: Vec::new() };
        check.head();
        check.config();
        check.secrets();
        check.egress();
        check.auth();
        check.limits();
        check.mail();
        check.recordings();
        check.not_yet();
        if check.problems.is_empty() { Ok(()) } else { Err(check.problems) }
    }
}

struct Check<'a> {
    manifest: &'a Manifest,
    problems: Vec<String>,
}

impl Check<'_> {
    fn fail(&mut self, problem: impl Into<String>) {
        self.problems.push(problem.into());
    }

    fn recordings(&mut self) {
        for recording in &self.manifest.recordings {
            let (method, path) = (recording.method.as_str(), recording.path.as_str());
            if !recording.method.writes() {
                self.problems.push(format!("recording {method} {path}: requests that only read go out on a preview, too"));
            }
            if !path.starts_with('/') && path != "*" {
                self.problems.push(format!("recording {method} {path}: write the path from its first slash, or `*`"));
            }
            if !(100..=599).contains(&recording.status) {
                self.problems.push(format!("recording {method} {path}: status {} is none", recording.status));
            }
        }
    }

    fn head(&mut self) {
        let m = self.manifest;
        if m.manifest != 1 {
            self.fail(format!("manifest = {}: this host reads version 1", m.manifest));
        }
        let (major, minor) = m.contract.split_once('.').unwrap_or((&m.contract, ""));
        if major != "1" || minor != "0" {
            self.fail(format!("contract = \"{}\": this host speaks {CONTRACT}", m.contract));
        }
        let (publisher, name) = m.channel.split_once('/').unwrap_or(("leadwire", &m.channel));
        if ![publisher, name].into_iter().all(is_slug) {
            self.fail(format!(
                "channel = \"{}\": write lower-case letters, digits, - and _, such as \"telegram\" or \"acme/telegram\"",
                m.channel
            ));
        }
        if m.version.to_string().len() > 64 {
            self.fail("version: at most 64 characters");
        }
        if m.title.is_empty() {
            self.fail("title: give at least one language, such as title.en");
        }
        for event in m.events.iter().filter(|event| !super::manifest::EVENTS.contains(&event.as_str())) {
            self.fail(format!("events = [\"{event}\"]: there is no such event; known are {}", super::manifest::EVENTS.join(", ")));
        }
        if !m.provides.contains(&Provides::Outbound) {
            self.fail("provides: every channel has \"outbound\"");
        }
    }

    fn config(&mut self) {
        match ConfigSchema::new(&self.manifest.config.schema) {
            Err(problem) => self.fail(format!("config.schema: {problem}")),
            Ok(schema) => {
                let m = self.manifest;
                // A secret may stand only where the host alone reads the result, and only under the use it is declared for.
                let plain = m.egress.iter().map(|rule| &rule.base).chain(m.on_doubt.iter());
                let plain = plain.chain(m.limits.rate.iter().flat_map(|rate| rate.when.iter().map(|when| &when.value)));
                let plain = plain.chain(m.mail.iter().flat_map(|mail| [&mail.server, &mail.tls, &mail.from]));
                for template in plain {
                    self.references(template, &schema, &[Space::Config, Space::Oauth], None);
                }
                for template in m.quota_key.iter().chain(m.limits.rate.iter().flat_map(|rate| rate.key.iter())) {
                    self.references(template, &schema, &[Space::Config, Space::Fingerprint], None);
                }
                for template in m.mail.iter().flat_map(|mail| [&mail.username, &mail.password]) {
                    self.references(template, &schema, &[Space::Config, Space::Secret, Space::Oauth], Some(SecretUse::Mail));
                }
                for template in m.auth.iter().flat_map(auth_templates) {
                    self.references(template, &schema, &[Space::Config, Space::Secret, Space::Oauth], Some(SecretUse::Inject));
                }
            }
        }
    }

    /// Every `{config.x}` is in the schema, every `{secret.x}` is declared, and for this use.
    fn references(&mut self, template: &str, schema: &ConfigSchema, spaces: &[Space], wanted: Option<SecretUse>) {
        let parsed = match Template::parse(template, spaces) {
            Ok(parsed) => parsed,
            Err(error) => return self.fail(error.to_string()),
        };
        for (space, name) in parsed.refs() {
            match space {
                Space::Config if !schema.has(name) => self.fail(format!("{template}: the config schema has no property `{name}`")),
                Space::Secret | Space::Fingerprint => match (self.manifest.secrets.iter().find(|secret| secret.name == name), wanted) {
                    (None, _) => self.fail(format!("{template}: there is no [[secret]] named `{name}`")),
                    (Some(secret), Some(wanted)) if !secret.uses.contains(&wanted) => {
                        let word = if wanted == SecretUse::Mail { "mail" } else { "inject" };
                        self.fail(format!("{template}: the secret `{name}` is used here: add \"{word}\" to its `use`"));
                    }
                    _ => {}
                },
                Space::Oauth => self.fail(format!("{template}: OAuth2 is not supported by this version of the host")),
                _ => {}
            }
        }
    }

    fn secrets(&mut self) {
        let mut names = BTreeSet::new();
        for secret in &self.manifest.secrets {
            if !is_slug(&secret.name) || !names.insert(&secret.name) {
                self.fail(format!("secret `{}`: names are lower-case, and each is there once", secret.name));
            }
            if secret.uses.is_empty() {
                self.fail(format!("secret `{}`: say under `use` what the host does with it", secret.name));
            }
            if secret.uses.contains(&SecretUse::Reveal) != self.manifest.uses.contains(&Uses::SecretsReveal)
                && secret.uses.contains(&SecretUse::Reveal)
            {
                self.fail(format!("secret `{}`: use = [\"reveal\"] also needs uses = [\"secrets-reveal\"]", secret.name));
            }
            // An injected secret that could also sign would let a guest try guesses against it.
            if secret.uses.contains(&SecretUse::Sign) && secret.uses.contains(&SecretUse::Inject) {
                self.fail(format!("secret `{}`: one secret cannot be both injected and used to sign", secret.name));
            }
            if let Some(pattern) = &secret.pattern
                && let Err(error) = crate::secrets::secret_pattern(pattern)
            {
                self.fail(format!("secret `{}`: pattern: {error}", secret.name));
            }
        }
    }

    fn egress(&mut self) {
        let mut names = BTreeSet::new();
        for rule in &self.manifest.egress {
            if !names.insert(&rule.name) {
                self.fail(format!("egress `{}` is there twice", rule.name));
            }
            if rule.methods.is_empty() {
                self.fail(format!("egress `{}`: name the methods", rule.name));
            }
        }
        if let Err(error) = crate::egress::check_rules(self.manifest) {
            self.fail(error.to_string());
        }
        if self.manifest.egress.is_empty() == self.manifest.uses.contains(&Uses::Http) {
            self.fail("uses = [\"http\"] and [[egress]] go together: declare both or none");
        }
    }

    fn auth(&mut self) {
        let m = self.manifest;
        let mut names = BTreeSet::new();
        for rule in &m.auth {
            if !names.insert(&rule.name) {
                self.fail(format!("auth `{}` is there twice", rule.name));
            }
            if auth_templates(rule).next().is_none() {
                self.fail(format!("auth `{}`: say where it goes: header, basic, query, path_prefix, form or json", rule.name));
            }
            for egress in rule.egress.iter().filter(|name| !m.egress.iter().any(|rule| rule.name == **name)) {
                self.fail(format!("auth `{}`: there is no [[egress]] named `{egress}`", rule.name));
            }
        }
    }

    fn limits(&mut self) {
        let limits = &self.manifest.limits;
        let ranges = [
            ("batch", u64::from(limits.batch), 1, 250),
            ("concurrency", u64::from(limits.concurrency), 1, 100),
            ("timeout_ms", u64::from(limits.timeout_ms), 1, 300_000),
            ("cpu_ms", u64::from(limits.cpu_ms), 1, 10_000),
            ("memory_mb", u64::from(limits.memory_mb), 1, 256),
            ("requests_per_call", u64::from(limits.requests_per_call), 1, 1_000),
            ("body_bytes", u64::from(limits.body_bytes), 1, 10 << 20),
        ];
        for (name, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                self.fail(format!("limits.{name} = {value}: {least} to {most} are allowed"));
            }
        }
        if limits.rate.len() > 8 {
            self.fail("limits.rate: at most 8 buckets");
        }
        for rate in &limits.rate {
            // Once a day is the slowest.
            if !(0.000_01..=100_000.0).contains(&rate.per_second) || !(1..=100_000).contains(&rate.burst) {
                self.fail("limits.rate: per_second is 0.00001 to 100,000, burst 1 to 100,000");
            }
            if let Some(when) = &rate.when
                && let Err(error) = regex::Regex::new(&when.pattern)
            {
                self.fail(format!("limits.rate.when: {error}"));
            }
        }
        if let Some(rules) = &self.manifest.retry
            && let Err(problem) = RetryPolicy::parse(rules)
        {
            self.fail(format!("retry: {problem}"));
        }
    }

    fn mail(&mut self) {
        if self.manifest.mail.is_some() != self.manifest.uses.contains(&Uses::Mail) {
            self.fail("uses = [\"mail\"] and [mail] go together: declare both or none");
        }
    }

    /// Parts of the format that this version of the host does not run: refused, rather than silently left out.
    fn not_yet(&mut self) {
        let m = self.manifest;
        let parts = [("[oauth2]", m.oauth2.is_some()), ("[inbound]", m.inbound.is_some()), ("[[sync]]", !m.sync.is_empty())];
        for (part, _) in parts.into_iter().filter(|(_, there)| *there) {
            self.fail(format!("{part}: this version of the host does not support it"));
        }
        for interface in m.provides.iter().filter(|provides| **provides != Provides::Outbound) {
            self.fail(format!("provides = [\"{}\"]: this version of the host does not support it", interface.interface()));
        }
    }
}

fn auth_templates(rule: &AuthRule) -> impl Iterator<Item = &String> {
    let basic = rule.basic.iter().flat_map(|basic| [&basic.username, &basic.password]);
    let maps = [&rule.header, &rule.query, &rule.form, &rule.json];
    maps.into_iter().flat_map(|map| map.values()).chain(basic).chain(rule.path_prefix.iter())
}

fn is_slug(text: &str) -> bool {
    let first = text.bytes().next();
    first.is_some_and(|b| b.is_ascii_lowercase())
        && text.len() <= 64
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn problems(change: impl FnOnce(&mut Value)) -> String {
        let mut manifest = json!({
            "manifest": 1, "contract": "1.0", "channel": "acme/chat", "version": "1.0.0", "title": {"en": "Chat"}, "provides": ["outbound"],
            "uses": ["http", "mail"],
            "config": {"schema": {"type": "object", "properties": {"url": {"type": "string", "x-address": true}}}},
            "secret": [
                {"name": "token", "use": ["inject"]}, {"name": "key", "use": ["sign"]}, {"name": "password", "use": ["mail"]}
            ],
            "egress": [{"name": "peer", "base": "{config.url}", "methods": ["post"]}],
            "auth": [{"name": "token", "header": {"authorization": "Bearer {secret.token}"}}],
            "mail": {"server": "mail.acme.example:465", "tls": "implicit", "password": "{secret.password}", "from": "a@acme.example"}
        });
        change(&mut manifest);
        let manifest: Manifest = serde_json::from_value(manifest).unwrap();
        manifest.check().err().unwrap_or_default().join("; ")
    }

    #[test]
    fn a_whole_manifest_passes() {
        assert_eq!(problems(|_| {}), "");
    }

    #[test]
    fn each_broken_rule_is_named() {
        let change = |pointer: &'static str, value: Value| problems(move |m| *m.pointer_mut(pointer).unwrap() = value);
        for (found, words) in [
            (change("/manifest", json!(2)), "this host reads version 1"),
            (change("/contract", json!("1.1")), "this host speaks 1.0"),
            (change("/channel", json!("Acme")), "lower-case"),
            (change("/channel", json!("../../etc")), "lower-case"),
            (change("/version", json!(format!("1.0.0-{}", "x".repeat(300)))), "at most 64 characters"),
            (change("/title", json!({})), "at least one language"),
            (change("/uses", json!(["mail"])), "go together"),
            (change("/config/schema", json!({"type": "array"})), "must describe an object"),
            (change("/config/schema", json!({"type": "object", "properties": {"url": {"pattern": "("}}})), "not valid JSON Schema"),
            (change("/secret/0/use", json!([])), "say under `use`"),
            (change("/secret/0/use", json!(["inject", "sign"])), "both injected and used to sign"),
            (change("/secret/0/use", json!(["inject", "reveal"])), "secrets-reveal"),
            (change("/secret/0", json!({"name": "token", "use": ["inject"], "pattern": "("})), "secret `token`: pattern"),
            (change("/secret/0", json!({"name": "token", "use": ["inject"], "pattern": "[a-z.~]{20,60000}"})), "secret `token`: pattern"),
            (change("/egress/0/methods", json!([])), "name the methods"),
            (change("/auth/0/header", json!({"authorization": "{secret.key}"})), "add \"inject\""),
            (change("/auth/0/header", json!({"authorization": "{secret.nosuch}"})), "no [[secret]] named"),
            (change("/auth/0/header", json!({"authorization": "{oauth.access_token}"})), "OAuth2 is not supported"),
            (change("/mail/password", json!("{secret.token}")), "add \"mail\""),
        ] {
            assert!(found.contains(words), "{words}: {found}");
        }
    }

    /// A look-up of `SECRET.evil.example` would tell it, and so would a request's address in an attempt.
    #[test]
    fn a_secret_stands_nowhere_but_in_its_declared_place() {
        for found in [
            problems(|m| m["mail"]["server"] = json!("{secret.password}.evil.example:465")),
            problems(|m| m["mail"]["from"] = json!("{secret.password}@evil.example")),
            problems(|m| m["egress"][0]["base"] = json!("https://evil.example/{secret.token}/")),
            problems(|m| m["quota_key"] = json!("{secret.token}")),
            problems(|m| m["on_doubt"] = json!("{secret.token}")),
        ] {
            assert!(found.contains("has no meaning here"), "{found}");
        }
    }

    #[test]
    fn limits_have_limits() {
        for (name, value) in [
            ("batch", 251),
            ("batch", 0),
            ("concurrency", 101),
            ("timeout_ms", 300_001),
            ("cpu_ms", 10_001),
            ("memory_mb", 257),
            ("requests_per_call", 1_001),
            ("body_bytes", (10 << 20) + 1),
        ] {
            let found = problems(|m| m["limits"] = json!({name: value}));
            assert!(found.contains(&format!("limits.{name} = {value}")), "{found}");
        }
        for rate in [json!({"per_second": 1e-300, "burst": 1}), json!({"per_second": 0, "burst": 1}), json!({"per_second": 1, "burst": 0})]
        {
            let found = problems(|m| m["limits"] = json!({"rate": [rate]}));
            assert!(found.contains("limits.rate"), "{found}");
        }
    }
}
