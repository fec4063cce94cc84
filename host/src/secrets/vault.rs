//! Encryption at rest: AES-256-GCM, a random nonce in front, the place of the secret as associated data.

use std::fmt;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use super::SecretText;

const NONCE_BYTES: usize = 12;
const ANY_PADDING: GeneralPurposeConfig = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, ANY_PADDING);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, ANY_PADDING);

/// Why a secret could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The text is no key of 32 bytes.
    #[error("a master key is 32 bytes, written as base64 (44 characters) or hex (64 characters)")]
    BadKey,
    /// It was sealed with a master key that this host was not given.
    #[error("the secret is sealed with master key {0}, which this host does not have")]
    UnknownKey(String),
    /// Wrong key, other place, or changed bytes.
    #[error("the sealed secret cannot be opened: it was changed, or it belongs to another place")]
    Corrupt,
    /// The machine gives no random bytes.
    #[error("no random bytes from the operating system")]
    Random,
}

/// A master key. Zeroed when dropped.
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl MasterKey {
    /// Reads base64 or hex; white space around it does not matter.
    pub fn parse(text: &str) -> Result<Self, VaultError> {
        let text = text.trim();
        let mut key = Zeroizing::new([0; 32]);
        if text.len() == 64 && hex::decode_to_slice(text, &mut key[..]).is_ok() {
            return Ok(Self(key));
        }
        let bytes = Zeroizing::new(STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).map_err(|_| VaultError::BadKey)?);
        if bytes.len() != key.len() {
            return Err(VaultError::BadKey);
        }
        key.copy_from_slice(&bytes);
        Ok(Self(key))
    }

    /// A new random key.
    pub fn generate() -> Result<Self, VaultError> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(&mut key[..]).map_err(|_| VaultError::Random)?;
        Ok(Self(key))
    }

    /// As base64, to be written to the key file.
    pub fn to_text(&self) -> SecretText {
        SecretText::new(STANDARD.encode(&self.0[..]))
    }

    /// A short text that names the key and tells nothing of it.
    pub fn id(&self) -> String {
        hex::encode(&self.derive(b"leadwire: key id")[..6])
    }

    /// A key for another purpose.
    fn derive(&self, purpose: &[u8]) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(hmac_sha256(&self.0[..], purpose))
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.id())
    }
}

/// A sealed secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Which master key.
    pub key_id: String,
    /// Nonce, ciphertext and tag.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed(key {}, {} bytes)", self.key_id, self.bytes.len())
    }
}

/// Seals with the current master key, opens with any it was given.
pub struct Vault {
    /// The current one comes first.
    keys: Vec<(String, Aes256Gcm)>,
    fingerprint_key: Zeroizing<[u8; 32]>,
    code_key: [u8; 32],
}

impl Vault {
    /// `older` keys only open, so that secrets sealed before a rotation can still be read.
    pub fn new(current: MasterKey, older: Vec<MasterKey>) -> Self {
        let fingerprint_key = current.derive(b"leadwire: fingerprint");
        let code_key = *current.derive(b"leadwire: compiled code");
        let keys = std::iter::once(current).chain(older).map(|key| (key.id(), Aes256Gcm::new((&*key.0).into())));
        Self { keys: keys.collect(), fingerprint_key, code_key }
    }

    /// The id of the key that seals.
    pub fn key_id(&self) -> &str {
        self.keys.first().map_or("", |(id, _)| id)
    }

    /// The key under which compiled plugins are authenticated on disk.
    pub fn code_key(&self) -> [u8; 32] {
        self.code_key
    }

    /// Encrypts `plain` for the place that `aad` names, such as credential id and field.
    pub fn seal(&self, aad: &[u8], plain: &[u8]) -> Result<Sealed, VaultError> {
        let (key_id, cipher) = self.keys.first().ok_or(VaultError::Corrupt)?;
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|_| VaultError::Random)?;
        let sealed = cipher.encrypt(&Nonce::from(nonce), Payload { msg: plain, aad }).map_err(|_| VaultError::Corrupt)?;
        let mut bytes = Vec::with_capacity(NONCE_BYTES + sealed.len());
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&sealed);
        Ok(Sealed { key_id: key_id.clone(), bytes })
    }

    /// Decrypts; fails when `aad` is not the one it was sealed for.
    pub fn open(&self, key_id: &str, aad: &[u8], bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let (_, cipher) = self.keys.iter().find(|(id, _)| id == key_id).ok_or_else(|| VaultError::UnknownKey(key_id.to_owned()))?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_BYTES>().ok_or(VaultError::Corrupt)?;
        cipher.decrypt(&Nonce::from(*nonce), Payload { msg: sealed, aad }).map(Zeroizing::new).map_err(|_| VaultError::Corrupt)
    }

    /// Decrypts a text.
    pub fn open_text(&self, key_id: &str, aad: &[u8], bytes: &[u8]) -> Result<SecretText, VaultError> {
        let mut plain = self.open(key_id, aad, bytes)?;
        String::from_utf8(std::mem::take(&mut *plain)).map(SecretText::new).map_err(|wrong| {
            wrong.into_bytes().zeroize();
            VaultError::Corrupt
        })
    }

    /// A text that is equal for equal secrets and tells nothing of them.
    pub fn fingerprint(&self, secret: &SecretText) -> String {
        hex::encode(&hmac_sha256(&self.fingerprint_key[..], secret.expose().as_bytes())[..16])
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|(id, _)| id)).finish()
    }
}

#[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
fn hmac_sha256(key: &[u8], data: &[u8]) -> [u8; 32] {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("any key length");
    mac.update(data);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> MasterKey {
        MasterKey::parse(&hex::encode([byte; 32])).unwrap()
    }

    #[test]
    fn seals_and_opens_for_one_place_only() {
        let vault = Vault::new(key(1), vec![]);
        let sealed = vault.seal(b"crd_1/token", b"hunter2").unwrap();
        assert_eq!(sealed.bytes.len(), 12 + 7 + 16);
        assert_eq!(vault.open_text(&sealed.key_id, b"crd_1/token", &sealed.bytes).unwrap().expose(), "hunter2");
        assert_eq!(vault.open(&sealed.key_id, b"crd_2/token", &sealed.bytes).unwrap_err(), VaultError::Corrupt);
        let mut changed = sealed.bytes.clone();
        changed[20] ^= 1;
        assert_eq!(vault.open(&sealed.key_id, b"crd_1/token", &changed).unwrap_err(), VaultError::Corrupt);
        assert_eq!(vault.open(&sealed.key_id, b"crd_1/token", &sealed.bytes[..27]).unwrap_err(), VaultError::Corrupt);
        assert_ne!(vault.seal(b"x", b"same").unwrap().bytes, vault.seal(b"x", b"same").unwrap().bytes);
    }

    #[test]
    fn an_older_key_still_opens_after_a_rotation() {
        let sealed = Vault::new(key(1), vec![]).seal(b"a", b"old").unwrap();
        let rotated = Vault::new(key(2), vec![key(1)]);
        assert_eq!(&rotated.open(&sealed.key_id, b"a", &sealed.bytes).unwrap()[..], b"old");
        assert_ne!(rotated.seal(b"a", b"new").unwrap().key_id, sealed.key_id);
        let without = Vault::new(key(2), vec![]);
        assert_eq!(without.open(&sealed.key_id, b"a", &sealed.bytes).unwrap_err(), VaultError::UnknownKey(sealed.key_id));
    }

    #[test]
    fn a_key_is_read_from_base64_and_hex_and_never_shown() {
        let made = MasterKey::generate().unwrap();
        let text = made.to_text();
        assert_eq!(MasterKey::parse(&format!(" {}\n", text.expose())).unwrap().id(), made.id());
        assert_eq!(MasterKey::parse(text.expose().trim_end_matches('=')).unwrap().id(), made.id());
        for wrong in ["", "short", &"0".repeat(63), &"g".repeat(64)] {
            assert!(MasterKey::parse(wrong).is_err(), "{wrong}");
        }
        assert!(!format!("{:?} {:?}", key(7), Vault::new(key(7), vec![])).contains("0707"));
    }

    #[test]
    fn fingerprints_are_equal_for_equal_secrets_under_one_key() {
        let vault = Vault::new(key(1), vec![]);
        let a = vault.fingerprint(&SecretText::new("123:abc".into()));
        assert_eq!(a, vault.fingerprint(&SecretText::new("123:abc".into())));
        assert_ne!(a, vault.fingerprint(&SecretText::new("123:abd".into())));
        assert_ne!(a, Vault::new(key(2), vec![]).fingerprint(&SecretText::new("123:abc".into())));
        assert_eq!(a.len(), 32);
    }
}
