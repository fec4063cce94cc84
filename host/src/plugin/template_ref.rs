//! Rendering of the manifest's templates for one credential.

use std::borrow::Cow;

use zeroize::Zeroizing;

use crate::egress::{Space, Template, TemplateError, config_text};
use crate::secrets::{SecretSet, SecretText};

/// Renders a template over a credential's settings and secrets. A setting or secret that is not filled is an empty text.
pub fn render(
    template: &str,
    config: &serde_json::Map<String, serde_json::Value>,
    secrets: &SecretSet,
    fingerprint: &dyn Fn(&SecretText) -> String,
) -> Result<Zeroizing<String>, TemplateError> {
    let parsed = Template::parse(template, &[Space::Config, Space::Secret, Space::Fingerprint])?;
    parsed.render(|space, name| {
        let text: Option<Cow<'_, str>> = match space {
            Space::Config => config_text(config, name),
            Space::Secret => secrets.get(name).map(|secret| Cow::Borrowed(secret.expose())),
            Space::Fingerprint => secrets.get(name).map(|secret| Cow::Owned(fingerprint(secret))),
            Space::Oauth => None,
        };
        Some(text.unwrap_or_default())
    })
}
