//! The base address of an egress rule for one credential: what the plugin's author wrote, with the admin's settings put in.
//! Where a setting lands decides what it may hold, so that it can never choose more than it was meant to.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use url::Url;

use super::template::{Part, Template, config_text};

/// What may stand in a path segment as it is.
pub(crate) const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

enum Zone<'a> {
    Start,
    Scheme,
    Authority(&'a str),
    Path,
    Query,
}

fn zone(before: &str) -> Zone<'_> {
    let Some((_, rest)) = before.split_once("://") else {
        return if before.is_empty() { Zone::Start } else { Zone::Scheme };
    };
    match rest.find(['/', '?', '#']) {
        None => Zone::Authority(rest),
        Some(_) if rest.contains('?') => Zone::Query,
        Some(_) => Zone::Path,
    }
}

/// Renders the base; `schema` is the manifest's config schema.
pub(super) fn render(template: &Template, config: &Map<String, Value>, schema: &Value) -> Result<Url, String> {
    let mut out = String::new();
    for (index, part) in template.parts().iter().enumerate() {
        let name = match part {
            Part::Text(text) => {
                out.push_str(text);
                continue;
            }
            Part::Ref(_, name) => name,
        };
        let value = config_text(config, name).filter(|value| !value.is_empty()).ok_or_else(|| format!("config `{name}` is not set"))?;
        let property = &schema["properties"][name.as_str()];
        let next = match template.parts().get(index + 1) {
            Some(Part::Text(text)) => Some(text.as_str()),
            Some(Part::Ref(..)) => Some("{"),
            None => None,
        };
        let put = match zone(&out) {
            Zone::Start => whole_address(&value, property, next),
            Zone::Scheme => Err("cannot be part of the scheme"),
            Zone::Authority(before) => in_host(&value, property, before.is_empty() && next.is_none_or(|next| next.starts_with(['/', ':']))),
            Zone::Path => in_path(&value),
            Zone::Query => Ok(url::form_urlencoded::byte_serialize(value.as_bytes()).collect()),
        };
        out.push_str(&put.map_err(|why| format!("config `{name}` {why}"))?);
    }
    parse_address(&out).map_err(str::to_owned)
}

/// An `http` or `https` URL without user, password and fragment.
fn parse_address(text: &str) -> Result<Url, &'static str> {
    if text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\') {
        return Err("holds white space, a backslash or a control character");
    }
    let url = Url::parse(text).map_err(|_| "is no URL such as https://example.com/path")?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("is no http or https URL");
    }
    let authority = text.split_once("://").map_or("", |(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(""));
    if authority.is_empty() || authority.contains('@') {
        return Err("must not hold a user name or a password");
    }
    if url.fragment().is_some() {
        return Err("must not hold a fragment (`#`)");
    }
    Ok(url)
}

fn is_address(property: &Value) -> bool {
    property["x-address"] == Value::Bool(true)
}

fn whole_address(value: &str, property: &Value, next: Option<&str>) -> Result<String, &'static str> {
    if !is_address(property) {
        return Err("is not marked `x-address` in the schema, so it cannot be the whole address");
    }
    let url = parse_address(value)?;
    match next {
        None => Ok(value.to_owned()),
        Some(next) if next.starts_with(['/', '?']) => {
            if url.query().is_some() {
                return Err("must not hold a query");
            }
            Ok(if next.starts_with('/') { value.trim_end_matches('/').to_owned() } else { value.to_owned() })
        }
        Some(_) => Err("must be followed by a path"),
    }
}

fn in_host(value: &str, property: &Value, alone: bool) -> Result<String, &'static str> {
    let label = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if value.chars().all(label) && !value.starts_with('-') && !value.ends_with('-') {
        return Ok(value.to_owned());
    }
    // The author's own closed list of values.
    let listed = property["enum"].as_array().is_some_and(|values| values.iter().any(|known| known.as_str() == Some(value)));
    if listed && value.chars().all(|c| label(c) || c == '.') {
        return Ok(value.to_owned());
    }
    if is_address(property) && alone {
        let bare = !value.contains(['/', '?', '#', '@', '\\', '%']) && parse_address(&format!("http://{value}/")).is_ok();
        return if bare { Ok(value.to_owned()) } else { Err("is no host name") };
    }
    Err("is part of a host name and may hold only letters, digits and inner hyphens")
}

fn in_path(value: &str) -> Result<String, &'static str> {
    if value.contains(['/', '\\', '?', '#', '%']) || value.chars().any(char::is_control) || matches!(value, "." | "..") {
        return Err("is part of a path and may not hold `/`, `\\`, `?`, `#`, `%` or be dots only");
    }
    Ok(utf8_percent_encode(value, SEGMENT).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::template::Space;
    use super::*;

    fn base(template: &str, config: Value) -> Result<String, String> {
        let schema = json!({ "properties": {
            "url": { "type": "string", "x-address": true },
            "host": { "type": "string", "x-address": true },
            "zone": { "enum": ["amocrm.ru", "kommo.com", "a/b"] },
            "plain": { "type": "string" },
        }});
        let template = Template::parse(template, &[Space::Config]).unwrap();
        render(&template, config.as_object().unwrap(), &schema).map(String::from)
    }

    #[test]
    fn settings_fill_the_places_they_were_meant_for() {
        for (template, config, expected) in [
            ("https://{config.sub}.{config.zone}/api/v4/", json!({"sub": "acme", "zone": "kommo.com"}), "https://acme.kommo.com/api/v4/"),
            ("{config.url}", json!({"url": "http://a.test:81/x?y=1"}), "http://a.test:81/x?y=1"),
            ("{config.url}/bot/", json!({"url": "https://a.test/"}), "https://a.test/bot/"),
            ("https://{config.host}/rest/{config.id}/", json!({"host": "b24.acme.ru:8443", "id": 7}), "https://b24.acme.ru:8443/rest/7/"),
            ("http://{config.sub}:{config.port}/", json!({"sub": "localhost", "port": 99}), "http://localhost:99/"),
            ("https://a.test/{config.p}/", json!({"p": "é x"}), "https://a.test/%C3%A9%20x/"),
            ("https://a.test/?k={config.p}", json!({"p": "a&b=c"}), "https://a.test/?k=a%26b%3Dc"),
        ] {
            assert_eq!(base(template, config).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn a_setting_cannot_choose_another_host_or_path() {
        for (template, config) in [
            ("https://{config.plain}.amocrm.ru/", json!({"plain": "evil.com/"})),
            ("https://{config.plain}.amocrm.ru/", json!({"plain": "evil.com#"})),
            ("https://{config.plain}.amocrm.ru/", json!({"plain": "a.b"})),
            ("https://{config.plain}.amocrm.ru/", json!({"plain": "a@b"})),
            ("https://{config.plain}.amocrm.ru/", json!({"plain": "-a"})),
            ("https://{config.plain}.amocrm.ru/", json!({"plain": ""})),
            ("https://{config.plain}.amocrm.ru/", json!({})),
            ("https://{config.plain}/", json!({"plain": "evil.com"})),
            ("https://a.{config.zone}/", json!({"zone": "a/b"})),
            ("https://a.{config.zone}/", json!({"zone": "evil.com"})),
            ("https://a.{config.host}/", json!({"host": "evil.com"})),
            ("https://{config.host}.a.test/", json!({"host": "evil.com"})),
            ("https://{config.host}/", json!({"host": "u:p@evil.com"})),
            ("https://{config.host}/", json!({"host": "evil.com/x"})),
            ("{config.plain}", json!({"plain": "https://evil.com"})),
            ("{config.url}.a.test/", json!({"url": "https://evil.com"})),
            ("{config.url}/x", json!({"url": "https://a.test?y"})),
            ("{config.url}", json!({"url": "ftp://a.test/"})),
            ("{config.url}", json!({"url": "https://u:p@a.test/"})),
            ("{config.url}", json!({"url": "https://@a.test/"})),
            ("{config.url}", json!({"url": "https://a.test/#x"})),
            ("{config.url}", json!({"url": "https:///a.test/"})),
            ("{config.url}", json!({"url": "https://a.test\\@evil.com/"})),
            ("{config.url}", json!({"url": "http://a.te\nst/"})),
            ("{config.url}", json!({"url": "http://[fe80::1%25eth0]/"})),
            ("{config.url}", json!({"url": "file:///etc/passwd"})),
            ("{config.plain}://a.test/", json!({"plain": "https"})),
            ("h{config.plain}://a.test/", json!({"plain": "ttps"})),
            ("https://a.test/{config.plain}/", json!({"plain": ".."})),
            ("https://a.test/{config.plain}/", json!({"plain": "x/y"})),
            ("https://a.test/{config.plain}/", json!({"plain": "%2e%2e"})),
        ] {
            assert!(base(template, config.clone()).is_err(), "{template} {config}");
        }
    }
}
