//! A secret as its manifest field describes it: checked when an admin enters it, decoded when it is used as a key.

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use crate::plugin::manifest::{SecretEncoding, SecretField, SecretUse};

/// Longest secret in bytes.
const MAX_BYTES: usize = 16 * 1024;

/// Standard alphabet only: url-safe text decoded leniently gives another key without an error.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// The bytes that the secret stands for: without the field's prefix, decoded. The error never holds the secret.
pub fn decode_secret(field: &SecretField, text: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let encoded = text.strip_prefix(field.prefix.as_str()).unwrap_or(text);
    let bytes = match field.encoding {
        SecretEncoding::Utf8 => encoded.as_bytes().to_vec(),
        SecretEncoding::Base64 => BASE64
            .decode(encoded)
            .map_err(|_| "is not base64 (letters, digits, `+` and `/`; the url-safe form is not accepted)".to_owned())?,
        SecretEncoding::Hex => hex::decode(encoded).map_err(|_| "is not hex (pairs of 0-9 and a-f)".to_owned())?,
    };
    let bytes = Zeroizing::new(bytes);
    if bytes.is_empty() || bytes.len() < field.min_bytes {
        return Err(format!("is too short: {} bytes, at least {} are needed", bytes.len(), field.min_bytes.max(1)));
    }
    Ok(bytes)
}

/// A field's pattern as texts are held against it. What is refused here would refuse every text.
pub fn secret_pattern(pattern: &str) -> Result<regex::Regex, regex::Error> {
    regex::RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(1 << 20).build()
}

/// Whether an admin's text can be this secret. The error is a predicate for the admin ("is too short") and never holds the text.
pub fn check_secret(field: &SecretField, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.len() > MAX_BYTES {
        return Err(format!("is longer than {MAX_BYTES} bytes"));
    }
    let travels = field.uses.iter().any(|usage| matches!(usage, SecretUse::Inject | SecretUse::Oauth | SecretUse::Mail));
    if travels && text.chars().any(char::is_control) {
        return Err("holds a line break or another control character".to_owned());
    }
    if travels && text.trim() != text {
        return Err("has white space at its start or end".to_owned());
    }
    decode_secret(field, text)?;
    if let Some(pattern) = &field.pattern {
        match secret_pattern(pattern) {
            Ok(whole) if whole.is_match(text) => {}
            Ok(_) => return Err("does not have the expected form".to_owned()),
            Err(_) => return Err("cannot be checked: the plugin's pattern for it is not a regular expression".to_owned()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn field(encoding: SecretEncoding, uses: SecretUse) -> SecretField {
        SecretField {
            name: "key".into(),
            title: Default::default(),
            uses: BTreeSet::from([uses]),
            required: true,
            encoding,
            prefix: String::new(),
            min_bytes: 0,
            pattern: None,
        }
    }

    #[test]
    fn a_webhook_secret_is_decoded_with_and_without_its_prefix() {
        let whsec = SecretField { prefix: "whsec_".into(), min_bytes: 24, ..field(SecretEncoding::Base64, SecretUse::Sign) };
        let text = "whsec_W2T7URdALJ/km5Hf5Kyvk2o/MqygU4SyZBpCXT+mAGc=";
        let bytes = decode_secret(&whsec, text).unwrap();
        assert_eq!(bytes.len(), 32);
        assert_eq!(decode_secret(&whsec, &text[6..]).unwrap(), bytes);
        assert_eq!(decode_secret(&whsec, text.trim_end_matches('=')).unwrap(), bytes);
        for wrong in ["whsec_", "whsec_AAAA", "whsec_W2T7URdALJ_km5Hf5Kyvk2o_MqygU4SyZBpCXT-mAGc=", "whsec_ not base64"] {
            let error = check_secret(&whsec, wrong).unwrap_err();
            assert!(!error.contains("W2T7"), "{error}");
        }
        assert!(check_secret(&whsec, text).is_ok());
    }

    #[test]
    fn a_secret_that_travels_holds_no_line_break() {
        let token = field(SecretEncoding::Utf8, SecretUse::Inject);
        assert!(check_secret(&token, "abc\r\nx: y").is_err());
        assert!(check_secret(&token, "abc\n").is_err());
        assert!(check_secret(&token, " abc").is_err());
        assert!(check_secret(&token, "").is_err());
        assert!(check_secret(&token, &"a".repeat(20_000)).is_err());
        assert!(check_secret(&field(SecretEncoding::Utf8, SecretUse::Sign), "-----BEGIN\nKEY-----").is_ok());
    }

    #[test]
    fn the_pattern_must_match_whole() {
        let token = SecretField { pattern: Some("[0-9]+:[A-Za-z]+|test".into()), ..field(SecretEncoding::Utf8, SecretUse::Inject) };
        assert!(check_secret(&token, "123:AbC").is_ok());
        assert!(check_secret(&token, "test").is_ok());
        assert!(check_secret(&token, "x123:AbC").is_err());
        assert!(check_secret(&token, "tester").is_err());
        let broken = SecretField { pattern: Some("(".into()), ..token };
        assert!(check_secret(&broken, "x").unwrap_err().contains("plugin"));
    }

    #[test]
    fn hex_is_decoded() {
        let key = field(SecretEncoding::Hex, SecretUse::Sign);
        assert_eq!(&decode_secret(&key, "00ffA0").unwrap()[..], [0, 255, 160]);
        assert!(decode_secret(&key, "0").is_err());
    }
}
