//! Secrets: encrypted at rest, decrypted for one call, masked wherever text leaves.

/// A secret's text. Zeroed when dropped; `Debug` and `Display` show `***`.
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
        f.write_str("***")
    }
}
