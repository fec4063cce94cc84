//! Guest headers, cleaned: what frames the message or names a hop belongs to the host.

use http::header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::types::Failure;

/// Headers of one request, and their bytes in all.
const MAX_HEADERS: usize = 64;
const MAX_BYTES: usize = 32 * 1024;

const FORBIDDEN: [&str; 12] = [
    "connection",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// Servers behind CGI and its heirs read `x_token` as `x-token`, so both are one name here.
pub(super) fn folded(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// A guest and an auth rule must not set it.
pub(super) fn is_forbidden_name(name: &str) -> bool {
    let name = folded(name);
    FORBIDDEN.contains(&name.as_str()) || name.starts_with("proxy-") || name.starts_with("x-forwarded-")
}

/// The guest's headers, or why they are refused.
pub(super) fn clean(guest: &[(String, String)]) -> Result<HeaderMap, Failure> {
    let bytes: usize = guest.iter().map(|(name, value)| name.len() + value.len()).sum();
    if guest.len() > MAX_HEADERS || bytes > MAX_BYTES {
        return Err(Failure::invalid(format!("more than {MAX_HEADERS} headers or {MAX_BYTES} bytes of them")));
    }
    let mut headers = HeaderMap::with_capacity(guest.len() + 3);
    for (name, value) in guest {
        if is_forbidden_name(name) {
            return Err(Failure::denied(format!("a plugin may not set the header `{}`", name.escape_default())));
        }
        let parsed = HeaderName::from_bytes(name.as_bytes());
        let parsed = parsed.map_err(|_| Failure::invalid(format!("`{}` is no header name", name.escape_default())))?;
        let value = HeaderValue::from_str(value)
            .or_else(|_| HeaderValue::from_bytes(value.as_bytes()))
            .map_err(|_| Failure::invalid(format!("the value of header `{parsed}` holds a line break or another control character")))?;
        if parsed == ACCEPT_ENCODING {
            // A compressed answer could not be scanned.
            continue;
        }
        if headers.append(&parsed, value) && parsed == CONTENT_TYPE {
            return Err(Failure::invalid("the header `content-type` is set twice"));
        }
    }
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::super::types::FailureKind;
    use super::*;

    fn one(name: &str, value: &str) -> Result<HeaderMap, Failure> {
        clean(&[(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn framing_and_hop_headers_are_denied_in_every_spelling() {
        for name in [
            "Host",
            "content-length",
            "Content_Length",
            "TRANSFER-ENCODING",
            "transfer_encoding",
            "Connection",
            "TE",
            "Upgrade",
            "Proxy-Authorization",
            "proxy-connection",
            "Forwarded",
            "X-Forwarded-For",
            "x_forwarded_host",
            "Cookie",
            "Expect",
        ] {
            assert_eq!(one(name, "x").unwrap_err().kind, FailureKind::Denied, "{name}");
        }
    }

    #[test]
    fn control_characters_are_invalid() {
        for value in ["a\r\nx: y", "a\nb", "a\rb", "a\0b", "\u{7f}"] {
            assert_eq!(one("x-a", value).unwrap_err().kind, FailureKind::Invalid, "{value:?}");
        }
        for name in ["", "a b", "a:b", "a\r\nb", "имя"] {
            assert_eq!(one(name, "x").unwrap_err().kind, FailureKind::Invalid, "{name:?}");
        }
        let twice = [("content-type".to_owned(), "a/b".to_owned()), ("Content-Type".to_owned(), "c/d".to_owned())];
        assert_eq!(clean(&twice).unwrap_err().kind, FailureKind::Invalid);
        let many: Vec<_> = (0..65).map(|n| (format!("x-{n}"), String::new())).collect();
        assert_eq!(clean(&many).unwrap_err().kind, FailureKind::Invalid);
    }

    #[test]
    fn ordinary_headers_pass_and_compression_is_never_asked_for() {
        let headers =
            clean(&[("X-A".into(), "Привет".into()), ("x-a".into(), "2".into()), ("Accept-Encoding".into(), "gzip".into())]).unwrap();
        assert_eq!(headers.get_all("x-a").iter().count(), 2);
        assert_eq!(headers.get_all("accept-encoding").iter().collect::<Vec<_>>(), ["identity"]);
    }
}
