//! Secrets: encrypted at rest, decrypted while calls that need them run, masked wherever text leaves.
//!
//! [`Vault`] seals and opens, [`SecretSet`] holds what a call may use, [`Masker`] finds a secret again in whatever
//! form it comes back, [`mask_personal`] hides phones and e-mails. Never stores anything and never sends anything.

mod field;
mod mask;
mod personal;
mod sign;
mod vault;

use std::collections::BTreeMap;

pub use field::{check_secret, decode_secret, secret_pattern};
pub use mask::Masker;
pub use personal::mask_personal;
pub use sign::{MacAlg, matches, sign};
pub use vault::{MasterKey, Sealed, Vault, VaultError};

/// What stands in the place of a secret.
pub const MASK: &str = "***";

/// A secret's text. Zeroed when dropped; `Debug` shows `***`.
#[derive(Clone)]
pub struct SecretText(zeroize::Zeroizing<String>);

impl SecretText {
    /// Takes the text over.
    pub fn new(text: String) -> Self {
        Self(zeroize::Zeroizing::new(text))
    }

    /// The text itself: for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(MASK)
    }
}

/// The secrets of one credential, opened for a call. Zeroed when dropped. An empty text counts as not filled.
#[derive(Default, Clone)]
pub struct SecretSet(BTreeMap<String, SecretText>);

impl SecretSet {
    /// Without any secret.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces one.
    pub fn insert(&mut self, name: impl Into<String>, text: SecretText) {
        self.0.insert(name.into(), text);
    }

    /// The secret, when it is filled.
    pub fn get(&self, name: &str) -> Option<&SecretText> {
        self.0.get(name).filter(|text| !text.expose().is_empty())
    }

    /// All that are filled.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &SecretText)> {
        self.0.iter().filter(|(_, text)| !text.expose().is_empty()).map(|(name, text)| (name.as_str(), text))
    }
}

impl FromIterator<(String, SecretText)> for SecretSet {
    fn from_iter<I: IntoIterator<Item = (String, SecretText)>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl std::fmt::Debug for SecretSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.0.keys().map(|name| (name, MASK))).finish()
    }
}

/// What a credential's secret is bound to when it is sealed: it opens as this field of this credential and no other.
pub fn secret_aad(credential: crate::model::CredentialId, name: &str) -> String {
    format!("{credential}/{name}")
}

/// What a project's callback secret is bound to: before and after a rotation it is the same place.
pub fn callback_secret_aad(project: crate::model::ProjectId) -> String {
    format!("{project}/callback_secret")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let set: SecretSet = [("token".to_owned(), SecretText::new("hunter2-hunter2".into()))].into_iter().collect();
        let text = format!("{set:?} {:?} {set:#?}", set.get("token"));
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("token"));
    }

    #[test]
    fn an_empty_secret_is_not_filled() {
        let mut set = SecretSet::new();
        set.insert("a", SecretText::new(String::new()));
        assert!(set.get("a").is_none());
        assert_eq!(set.iter().count(), 0);
    }
}
