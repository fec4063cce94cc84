//! The manifest's templates: text with `{config.x}`, `{secret.x}` and their like. No logic, no nesting; `{{` and `}}` are braces.

use std::borrow::Cow;
use std::fmt;

use zeroize::Zeroizing;

/// What a reference names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// A setting of the credential.
    Config,
    /// A secret of the credential.
    Secret,
    /// A token that the host fetched.
    Oauth,
    /// A text that is equal for equal secrets and tells nothing of them.
    Fingerprint,
}

impl Space {
    /// As written in a template.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Secret => "secret",
            Self::Oauth => "oauth",
            Self::Fingerprint => "fingerprint",
        }
    }
}

/// Why a template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Not of the form text and `{space.name}`.
    #[error("template `{0}`: expected `{{config.NAME}}` or the like, with `{{{{` for a brace")]
    Syntax(String),
    /// A space that has no meaning at this place.
    #[error("template `{template}`: `{{{reference}}}` has no meaning here")]
    NotHere {
        #[allow(missing_docs)]
        template: String,
        #[allow(missing_docs)]
        reference: String,
    },
    /// Rendered without a value for this reference.
    #[error("`{0}` is not set")]
    Missing(String),
}

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// As it stands.
    Text(String),
    /// Replaced by a value.
    Ref(Space, String),
}

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

impl Template {
    /// Reads a template whose references may name only `spaces`.
    pub fn parse(source: &str, spaces: &[Space]) -> Result<Self, TemplateError> {
        let syntax = || TemplateError::Syntax(source.to_owned());
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = source;
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            let tail = &rest[at..];
            if let Some(after) = tail.strip_prefix("{{").or_else(|| tail.strip_prefix("}}")) {
                text.push_str(&tail[..1]);
                rest = after;
                continue;
            }
            let (reference, after) = tail.strip_prefix('{').and_then(|tail| tail.split_once('}')).ok_or_else(syntax)?;
            let (space, name) = reference.split_once('.').ok_or_else(syntax)?;
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-') {
                return Err(syntax());
            }
            let space = spaces
                .iter()
                .find(|known| known.name() == space)
                .ok_or_else(|| TemplateError::NotHere { template: source.to_owned(), reference: reference.to_owned() })?;
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(Part::Ref(*space, name.to_owned()));
            rest = after;
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self { parts })
    }

    /// Its parts in order; two texts never follow each other.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Every reference.
    pub fn refs(&self) -> impl Iterator<Item = (Space, &str)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Ref(space, name) => Some((*space, name.as_str())),
        })
    }

    /// Puts values in; `None` from `value` is an error that names the reference.
    pub fn render<'a>(&self, value: impl Fn(Space, &str) -> Option<Cow<'a, str>>) -> Result<Zeroizing<String>, TemplateError> {
        let mut out = Zeroizing::new(String::new());
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Ref(space, name) => {
                    out.push_str(&value(*space, name).ok_or_else(|| TemplateError::Missing(format!("{}.{name}", space.name())))?);
                }
            }
        }
        Ok(out)
    }
}

/// A config value as a template shows it; `None` when it is absent, null or no plain value.
pub fn config_text<'a>(config: &'a serde_json::Map<String, serde_json::Value>, name: &str) -> Option<Cow<'a, str>> {
    match config.get(name)? {
        serde_json::Value::String(text) => Some(Cow::Borrowed(text)),
        serde_json::Value::Number(number) => Some(Cow::Owned(number.to_string())),
        serde_json::Value::Bool(flag) => Some(Cow::Borrowed(if *flag { "true" } else { "false" })),
        _ => None,
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}")),
            Part::Ref(space, name) => write!(f, "{{{}.{name}}}", space.name()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &[Space] = &[Space::Config, Space::Secret];

    #[test]
    fn renders_references_and_braces() {
        let template = Template::parse("{{a}} {config.host}:{secret.pw-1}!", BOTH).unwrap();
        let text = template.render(|space, name| Some(Cow::Owned(format!("<{} {name}>", space.name())))).unwrap();
        assert_eq!(*text, "{a} <config host>:<secret pw-1>!");
        assert_eq!(template.to_string(), "{{a}} {config.host}:{secret.pw-1}!");
        assert_eq!(template.refs().count(), 2);
        assert_eq!(template.render(|_, _| None).unwrap_err().to_string(), "`config.host` is not set");
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for wrong in ["{", "}", "a{config.x", "{config}", "{config.}", "{config.a b}", "{config.{x}}", "{}", "{ config.x }"] {
            assert!(Template::parse(wrong, BOTH).is_err(), "{wrong}");
        }
        for elsewhere in ["{oauth.access_token}", "{env.HOME}", "{Config.x}"] {
            assert!(matches!(Template::parse(elsewhere, BOTH), Err(TemplateError::NotHere { .. })), "{elsewhere}");
        }
    }

    #[test]
    fn shows_plain_config_values() {
        let config = serde_json::json!({ "s": "x", "n": 5, "b": true, "z": null, "o": {} });
        let config = config.as_object().unwrap();
        let text = |name: &str| config_text(config, name).map(Cow::into_owned);
        assert_eq!([text("s"), text("n"), text("b")], [Some("x".into()), Some("5".into()), Some("true".into())]);
        assert_eq!([text("z"), text("o"), text("missing")], [None, None, None]);
    }
}
