//! What the operator of this host decides about outgoing traffic; the same for every plugin and credential.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use url::Url;

/// The operator's settings. The default lets plugins reach public addresses on ports 80 and 443 and nothing else.
#[derive(Debug, Clone, Default)]
pub struct OperatorPolicy {
    /// Networks that may be reached although they are private, on any port.
    pub allow: Vec<IpNet>,
    /// Ports of public addresses beside 80 and 443.
    pub ports: BTreeSet<u16>,
    /// `host` or `host:port` → where its requests go instead: an origin, perhaps with a path put in front.
    pub rewrite: BTreeMap<String, Url>,
    /// Public addresses of this machine: refused like private ones.
    pub own: Vec<IpAddr>,
}

impl OperatorPolicy {
    /// Reads `LEADWIRE_EGRESS_ALLOW`: networks or single addresses, separated by commas.
    pub fn parse_allow(text: &str) -> Result<Vec<IpNet>, String> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        entries
            .map(|entry| {
                let single = || entry.parse::<IpAddr>().map(IpNet::from);
                entry.parse::<IpNet>().or_else(|_| single()).map_err(|_| format!("`{entry}` is no network such as 10.0.0.0/8"))
            })
            .collect()
    }

    /// Reads `LEADWIRE_EGRESS_REWRITE`: `host=http://127.0.0.1:9001`, separated by commas.
    pub fn parse_rewrite(text: &str) -> Result<BTreeMap<String, Url>, String> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        entries
            .map(|entry| {
                let wrong = || format!("`{entry}` is not of the form api.example.com=http://127.0.0.1:9001");
                let (host, target) = entry.split_once('=').ok_or_else(wrong)?;
                let target = Url::parse(target.trim()).map_err(|_| wrong())?;
                let plain = matches!(target.scheme(), "http" | "https")
                    && target.has_host()
                    && target.username().is_empty()
                    && target.password().is_none()
                    && target.query().is_none()
                    && target.fragment().is_none();
                let host = host.trim().to_ascii_lowercase();
                if plain && !host.is_empty() { Ok((host, target)) } else { Err(wrong()) }
            })
            .collect()
    }

    /// Where `url` really goes, when the operator redirects its host.
    pub(super) fn rewritten(&self, url: &Url) -> Option<Url> {
        if self.rewrite.is_empty() {
            return None;
        }
        let (host, port) = (url.host_str()?, url.port_or_known_default()?);
        let origin = self.rewrite.get(&format!("{host}:{port}")).or_else(|| self.rewrite.get(host))?;
        let mut target = origin.clone();
        target.set_path(&format!("{}{}", origin.path().trim_end_matches('/'), url.path()));
        target.set_query(url.query());
        Some(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_operators_lists() {
        let allow = OperatorPolicy::parse_allow("127.0.0.0/8, ::1,10.1.2.3 ,").unwrap();
        assert_eq!(allow.len(), 3);
        assert!(OperatorPolicy::parse_allow("localhost").is_err());
        let rewrite = OperatorPolicy::parse_rewrite("API.telegram.org=http://127.0.0.1:9001, a.b:8443=https://gw.local/x").unwrap();
        assert_eq!(rewrite.len(), 2);
        for wrong in ["a", "a=b", "=http://x", "a=ftp://x", "a=http://u:p@x", "a=http://x/?q"] {
            assert!(OperatorPolicy::parse_rewrite(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rewrite_keeps_path_and_query() {
        let policy = OperatorPolicy {
            rewrite: OperatorPolicy::parse_rewrite("a.test=http://127.0.0.1:9001,b.test:8443=http://gw/pre/").unwrap(),
            ..Default::default()
        };
        let to = |url: &str| policy.rewritten(&Url::parse(url).unwrap()).map(String::from);
        assert_eq!(to("https://a.test/x%20y?z=1").as_deref(), Some("http://127.0.0.1:9001/x%20y?z=1"));
        assert_eq!(to("https://b.test:8443/x").as_deref(), Some("http://gw/pre/x"));
        assert_eq!(to("https://b.test/x"), None);
        assert_eq!(to("https://c.test/x"), None);
    }
}
