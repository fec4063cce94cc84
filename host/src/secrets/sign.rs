//! Work with a secret that never leaves the host: message authentication codes and comparison.

use hmac::{Hmac, Mac};
use sha2::Digest;
use subtle::ConstantTimeEq;

use super::SecretText;

/// A keyed digest that a guest can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum MacAlg {
    HmacSha1,
    HmacSha256,
    HmacSha512,
    HmacMd5,
}

/// The authentication code of `data` under `key`.
pub fn sign(alg: MacAlg, key: &[u8], data: &[u8]) -> Vec<u8> {
    match alg {
        MacAlg::HmacSha1 => mac::<Hmac<sha1::Sha1>>(key, data),
        MacAlg::HmacSha256 => mac::<Hmac<sha2::Sha256>>(key, data),
        MacAlg::HmacSha512 => mac::<Hmac<sha2::Sha512>>(key, data),
        MacAlg::HmacMd5 => mac::<Hmac<md5::Md5>>(key, data),
    }
}

#[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
fn mac<M: Mac + hmac::digest::KeyInit>(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut mac = <M as Mac>::new_from_slice(key).expect("any key length");
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}

/// Whether `candidate` is the secret. Takes the same time whatever differs, the length included.
pub fn matches(secret: &SecretText, candidate: &str) -> bool {
    let digest = |text: &str| sha2::Sha256::digest(text.as_bytes());
    digest(secret.expose()).ct_eq(&digest(candidate)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_gives_the_published_values() {
        // RFC 2202 and RFC 4231, test case 2.
        let cases = [
            (MacAlg::HmacMd5, "750c783e6ab0b503eaa86e310a5db738"),
            (MacAlg::HmacSha1, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
            (MacAlg::HmacSha256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
            (
                MacAlg::HmacSha512,
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
            ),
        ];
        for (alg, expected) in cases {
            assert_eq!(hex::encode(sign(alg, b"Jefe", b"what do ya want for nothing?")), expected, "{alg:?}");
        }
    }

    #[test]
    fn compares_whole_texts() {
        let secret = SecretText::new("token-1".into());
        assert!(matches(&secret, "token-1"));
        for wrong in ["", "token-", "token-11", "token-2"] {
            assert!(!matches(&secret, wrong), "{wrong}");
        }
    }
}
