//! Where a guest's request goes: resolved below the base of an egress rule, or refused. Pure.

use std::collections::BTreeSet;

use url::Url;

use super::types::Failure;
use crate::plugin::manifest::Method;

/// Longest URL of a guest.
const MAX_URL: usize = 16 * 1024;

/// An egress rule with this credential's base.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub name: String,
    pub base: Url,
    pub methods: BTreeSet<Method>,
    pub exact: bool,
}

impl Rule {
    /// The base's path with a slash at its end.
    pub(super) fn directory(&self) -> String {
        let path = self.base.path();
        if path.ends_with('/') { path.to_owned() } else { format!("{path}/") }
    }

    fn holds(&self, url: &Url) -> bool {
        let same_origin = url.scheme() == self.base.scheme()
            && url.host() == self.base.host()
            && url.port_or_known_default() == self.base.port_or_known_default();
        same_origin && if self.exact { self.is_base(url) } else { self.is_below(url.path()) }
    }

    fn is_below(&self, path: &str) -> bool {
        let directory = self.directory();
        path == self.base.path() || path.starts_with(&directory) || directory.strip_suffix('/') == Some(path)
    }

    /// The base itself; a query may be added, but what the base has of one stays in front.
    fn is_base(&self, url: &Url) -> bool {
        let query_kept = match (self.base.query(), url.query()) {
            (None, _) => true,
            (Some(base), Some(query)) => query.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('&')),
            (Some(_), None) => false,
        };
        url.path() == self.base.path() && query_kept
    }
}

/// A request's URL before secrets are put in, and the rule that allows it.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub url: Url,
    pub rule: &'a Rule,
}

/// Finds the rule. A relative URL belongs to the first of `rules`; among rules that hold an absolute one the most specific counts.
pub(super) fn resolve<'a>(rules: &'a [Rule], relative_to: Option<&'a Rule>, method: Method, raw: &str) -> Result<Target<'a>, Failure> {
    check_text(raw)?;
    let target = if let Some(authority) = authority_of(raw) {
        absolute(rules, method, raw, authority)?
    } else {
        let rule = relative_to.ok_or_else(|| Failure::denied("the plugin's manifest allows no address"))?;
        Target { url: relative(rule, raw)?, rule }
    };
    if target.rule.methods.contains(&method) {
        Ok(target)
    } else {
        Err(Failure::denied(format!("egress rule `{}` does not allow {}", target.rule.name, method.as_str())))
    }
}

fn check_text(raw: &str) -> Result<(), Failure> {
    if raw.len() > MAX_URL {
        return Err(Failure::invalid(format!("the URL is longer than {MAX_URL} bytes")));
    }
    // The URL parser would silently drop tabs and line breaks and turn a backslash into a slash.
    if raw.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\') {
        return Err(Failure::denied("the URL holds white space, a backslash or a control character"));
    }
    if raw.contains('#') {
        return Err(Failure::invalid("the URL holds a fragment; encode `#` as %23"));
    }
    Ok(())
}

/// The authority of an absolute URL; `None` for a relative one.
fn authority_of(raw: &str) -> Option<&str> {
    let (scheme, rest) = raw.split_once("://")?;
    let is_scheme = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    is_scheme.then(|| rest.split(['/', '?']).next().unwrap_or(rest))
}

/// Refuses what the URL parser, a proxy or a server could read as another path.
fn check_path(path: &str) -> Result<(), Failure> {
    let lower = path.to_ascii_lowercase();
    let encoded = ["%2e", "%2f", "%5c", "%00", "%252e", "%252f", "%255c"];
    if encoded.iter().any(|code| lower.contains(code)) {
        return Err(Failure::denied("the URL's path holds an encoded dot, slash, backslash or NUL"));
    }
    let dots = lower.split('/').any(|segment| matches!(segment.split(';').next(), Some("." | "..")));
    if dots { Err(Failure::denied("the URL's path holds a dot segment")) } else { Ok(()) }
}

fn absolute<'a>(rules: &'a [Rule], method: Method, raw: &str, authority: &str) -> Result<Target<'a>, Failure> {
    if authority.is_empty() || authority.contains('@') {
        return Err(Failure::denied("the URL holds a user name or no host"));
    }
    let url = Url::parse(raw).map_err(|error| Failure::invalid(format!("the URL cannot be read: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Failure::denied("only http and https"));
    }
    let holding = || rules.iter().filter(|rule| rule.holds(&url));
    let most_specific = |rule: &&Rule| rule.base.path().len();
    // The base as the admin wrote it may hold what a guest may not add.
    if !holding().any(|rule| rule.base == url) {
        let path = raw.split_once("://").map_or(raw, |(_, rest)| rest).split('?').next().unwrap_or_default();
        check_path(path)?;
    }
    let rule = holding().filter(|rule| rule.methods.contains(&method)).max_by_key(most_specific).or_else(|| holding().next());
    match rule {
        Some(rule) => Ok(Target { url, rule }),
        None => Err(Failure::denied("no egress rule of this credential holds the address")),
    }
}

fn relative(rule: &Rule, raw: &str) -> Result<Url, Failure> {
    if raw.starts_with("//") {
        return Err(Failure::denied("a relative URL must not start with two slashes"));
    }
    let (path, query) = raw.split_once('?').map_or((raw, None), |(path, query)| (path, Some(query)));
    let path = path.strip_prefix('/').unwrap_or(path);
    check_path(path)?;
    let mut url = rule.base.clone();
    if !path.is_empty() {
        url.set_path(&format!("{}{path}", rule.directory()));
    }
    if let Some(query) = query {
        match rule.base.query() {
            Some(base) if !base.is_empty() => url.set_query(Some(&format!("{base}&{query}"))),
            _ => url.set_query(Some(query)),
        }
    }
    if rule.holds(&url) { Ok(url) } else { Err(Failure::denied(format!("the address does not belong to egress rule `{}`", rule.name))) }
}

#[cfg(test)]
mod tests {
    use super::super::types::FailureKind;
    use super::*;

    fn rule(name: &str, base: &str, methods: &[Method], exact: bool) -> Rule {
        Rule { name: name.into(), base: Url::parse(base).unwrap(), methods: methods.iter().copied().collect(), exact }
    }

    fn rules() -> Vec<Rule> {
        vec![
            rule("api", "https://a.test/api/v4/", &[Method::Get, Method::Post], false),
            rule("files", "https://a.test/api/v4/files", &[Method::Get], false),
            rule("hook", "https://h.test/in%2Fx?key=1", &[Method::Post], true),
        ]
    }

    fn go(raw: &str, method: Method) -> Result<(String, String), FailureKind> {
        let rules = rules();
        resolve(&rules, rules.first(), method, raw)
            .map(|target| (target.url.into(), target.rule.name.clone()))
            .map_err(|failure| failure.kind)
    }

    fn hook(raw: &str) -> Option<String> {
        let rules = rules();
        resolve(&rules, rules.last(), Method::Post, raw).ok().map(|target| target.url.into())
    }

    #[test]
    fn relative_and_absolute_urls_below_the_base() {
        for (raw, expected, name) in [
            ("leads", "https://a.test/api/v4/leads", "api"),
            ("/leads?with=a/../b", "https://a.test/api/v4/leads?with=a/../b", "api"),
            ("", "https://a.test/api/v4/", "api"),
            ("?x=1", "https://a.test/api/v4/?x=1", "api"),
            ("v1/x:search", "https://a.test/api/v4/v1/x:search", "api"),
            ("http:evil.test/x", "https://a.test/api/v4/http:evil.test/x", "api"),
            ("?to=http://evil.test/", "https://a.test/api/v4/?to=http://evil.test/", "api"),
            ("https://a.test/api/v4/leads", "https://a.test/api/v4/leads", "api"),
            ("HTTPS://A.TEST:443/api/v4", "https://a.test/api/v4", "api"),
            ("https://a.test/api/v4/files/1", "https://a.test/api/v4/files/1", "files"),
            ("пример", "https://a.test/api/v4/%D0%BF%D1%80%D0%B8%D0%BC%D0%B5%D1%80", "api"),
        ] {
            assert_eq!(go(raw, Method::Get), Ok((expected.to_owned(), name.to_owned())), "{raw}");
        }
    }

    #[test]
    fn nothing_leaves_the_base() {
        for raw in [
            "../admin",
            "x/../../admin",
            "..",
            "x/./y",
            "%2e%2e/admin",
            ".%2E/admin",
            "%252e%252e/admin",
            "x%2f..%2fadmin",
            "x%5c..%5cadmin",
            "..;/admin",
            "x%00",
            "..\\admin",
            "x\\y",
            "//evil.test/x",
            "x y",
            "x\ty",
            "x\r\nHost: evil",
            "https://evil.test/api/v4/leads",
            "https://a.test.evil.test/api/v4/",
            "https://a.test@evil.test/api/v4/",
            "https://evil.test@a.test/api/v4/",
            "https://@a.test/api/v4/",
            "https://a.test:8443/api/v4/",
            "http://a.test/api/v4/",
            "https://a.test./api/v4/",
            "https://a.test/api/v44/leads",
            "https://a.test/api/",
            "https://a.test/api/v4/../v3/",
            "https://a.test/api/v4/%2e%2e/v3/",
            "https://a.test/api%2fv4/",
            "https:///a.test/api/v4/",
            "ftp://a.test/api/v4/",
            "file:///etc/passwd",
            "https://a.test\\@evil.test/api/v4/",
        ] {
            assert!(matches!(go(raw, Method::Get), Err(FailureKind::Denied | FailureKind::Invalid)), "{raw}");
        }
        assert_eq!(go("https://[::1/", Method::Get), Err(FailureKind::Invalid));
        assert_eq!(go("x#y", Method::Get), Err(FailureKind::Invalid));
        assert_eq!(go(&"x".repeat(20_000), Method::Get), Err(FailureKind::Invalid));
    }

    #[test]
    fn the_method_must_be_allowed() {
        assert!(go("x", Method::Post).is_ok());
        assert_eq!(go("x", Method::Delete), Err(FailureKind::Denied));
        assert_eq!(go("https://h.test/in%2Fx?key=1", Method::Get), Err(FailureKind::Denied));
        // The most specific rule that allows the method.
        assert_eq!(go("https://a.test/api/v4/files/1", Method::Post).map(|found| found.1), Ok("api".to_owned()));
    }

    #[test]
    fn an_exact_rule_holds_its_base_only() {
        for raw in ["", "https://h.test/in%2Fx?key=1"] {
            assert_eq!(hook(raw).as_deref(), Some("https://h.test/in%2Fx?key=1"), "{raw}");
        }
        assert_eq!(hook("?a=2").as_deref(), Some("https://h.test/in%2Fx?key=1&a=2"));
        for raw in [
            "more",
            "/",
            "https://h.test/in%2Fx",
            "https://h.test/in%2Fx?key=2",
            "https://h.test/in%2Fx?key=12",
            "https://h.test/in%2Fx/y?key=1",
        ] {
            let allowed = hook(raw);
            assert!(allowed.is_none() || raw == "/", "{raw} {allowed:?}");
        }
    }
}
