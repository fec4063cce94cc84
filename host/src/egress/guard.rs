//! Which addresses outgoing connections may have. Judges parsed addresses, never the text of a host: a host has many spellings.
//!
//! Whoever connects calls [`Guard::resolve`] once and connects to just the addresses it gave: a second look-up could
//! answer with another address.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::IpNet;
use tokio::sync::Semaphore;

use super::policy::OperatorPolicy;

/// Look-ups at once; each holds a thread while the machine's resolver waits.
const LOOKUPS: usize = 64;

/// Why an address cannot be connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// All its addresses are forbidden. Says the kind only: the address itself would tell how an inner network looks.
    #[error("the address is forbidden ({0})")]
    Forbidden(&'static str),
    /// Not one of the ports that may be used.
    #[error("port {0} is not allowed")]
    Port(u16),
    /// The name could not be resolved.
    #[error("the name cannot be resolved: {0}")]
    Lookup(String),
}

/// Names to addresses.
#[async_trait]
pub trait Resolver: Send + Sync + 'static {
    /// All addresses of `host`.
    async fn lookup(&self, host: &str) -> std::io::Result<Vec<IpAddr>>;
}

/// The machine's resolver.
pub struct SystemResolver {
    slots: Semaphore,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self { slots: Semaphore::new(LOOKUPS) }
    }
}

#[async_trait]
impl Resolver for SystemResolver {
    async fn lookup(&self, host: &str) -> std::io::Result<Vec<IpAddr>> {
        // Closed never, so an error cannot happen; without the slot the look-up would only be unbounded.
        let _slot = self.slots.acquire().await;
        Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// The operator's address policy with a resolver.
#[derive(Clone)]
pub struct Guard {
    allow: Arc<[IpNet]>,
    own: Arc<[IpAddr]>,
    ports: Arc<BTreeSet<u16>>,
    resolver: Arc<dyn Resolver>,
}

impl Guard {
    /// With the machine's resolver.
    pub fn system(policy: &OperatorPolicy) -> Self {
        Self::new(policy, Arc::new(SystemResolver::default()))
    }

    /// With any resolver.
    pub fn new(policy: &OperatorPolicy, resolver: Arc<dyn Resolver>) -> Self {
        let ports = policy.ports.iter().copied().chain([80, 443]).collect();
        Self { allow: policy.allow.clone().into(), own: policy.own.clone().into(), ports: Arc::new(ports), resolver }
    }

    /// The same policy for another protocol: these ports of public addresses and no others.
    pub fn with_ports(&self, ports: impl IntoIterator<Item = u16>) -> Self {
        Self { ports: Arc::new(ports.into_iter().collect()), ..self.clone() }
    }

    /// Public addresses can be reached on this port.
    pub fn is_open_port(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }

    /// Whether one address may be connected to.
    pub fn check(&self, ip: IpAddr, port: u16) -> Result<(), GuardError> {
        if self.is_allowed(ip) {
            return Ok(());
        }
        if let Some(kind) = self.forbidden(ip) {
            return Err(GuardError::Forbidden(kind));
        }
        if self.is_open_port(port) { Ok(()) } else { Err(GuardError::Port(port)) }
    }

    /// Resolves once and keeps the addresses that may be connected to; at least one, or an error. `host` may be an
    /// address literal, with or without brackets.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, GuardError> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let all = match bare.parse::<IpAddr>() {
            Ok(ip) => vec![ip],
            Err(_) => self.resolver.lookup(host).await.map_err(|error| GuardError::Lookup(error.to_string()))?,
        };
        let mut refused = GuardError::Lookup("no address".to_owned());
        let mut kept = Vec::with_capacity(all.len());
        for ip in all {
            match self.check(ip, port) {
                Ok(()) => kept.push(SocketAddr::new(ip, port)),
                Err(why) => refused = why,
            }
        }
        if kept.is_empty() { Err(refused) } else { Ok(kept) }
    }

    pub(super) fn resolver(&self) -> &Arc<dyn Resolver> {
        &self.resolver
    }

    fn is_allowed(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.allow.iter().any(|network| network.contains(&ip))
    }

    fn forbidden(&self, ip: IpAddr) -> Option<&'static str> {
        if self.own.contains(&ip.to_canonical()) { Some("this machine") } else { is_forbidden(ip) }
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("allow", &self.allow).field("own", &self.own).field("ports", &self.ports).finish_non_exhaustive()
    }
}

/// The kind of address, when nobody outside should be able to make this host connect to it.
pub fn is_forbidden(ip: IpAddr) -> Option<&'static str> {
    match ip.to_canonical() {
        IpAddr::V4(v4) => forbidden_v4(v4),
        IpAddr::V6(v6) => forbidden_v6(v6),
    }
}

fn forbidden_v4(ip: Ipv4Addr) -> Option<&'static str> {
    let kind = match ip.octets() {
        [0, ..] => "unspecified",
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => "private",
        [100, 64..=127, ..] => "carrier-grade NAT",
        [127, ..] => "loopback",
        [169, 254, 169, 254] | [168, 63, 129, 16] => "cloud metadata",
        [169, 254, ..] => "link-local",
        [192, 0, 0, _] => "protocol assignments",
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => "documentation",
        [192, 88, 99, _] => "6to4 relay",
        [198, 18 | 19, ..] => "benchmarking",
        [224..=239, ..] => "multicast",
        [240..=255, ..] => "reserved",
        _ => return None,
    };
    Some(kind)
}

fn forbidden_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let segments = ip.segments();
    let kind = match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => "unspecified",
        [0, 0, 0, 0, 0, 0, 0, 1] => "loopback",
        [0, 0, 0, 0, 0, 0, ..] => "IPv4-compatible",
        [0x64, 0xff9b, 0 | 1, ..] => "NAT64",
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => "cloud metadata",
        [0xfc00..=0xfdff, ..] => "private",
        [0xfe80..=0xfebf, ..] => "link-local",
        [0xfec0..=0xfeff, ..] => "site-local",
        [0xff00..=0xffff, ..] => "multicast",
        [0x2001, 0, ..] => "Teredo",
        [0x2001, 1..=0x1ff, ..] => "protocol assignments",
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => "documentation",
        [0x2002, ..] => "6to4",
        [0x2000..=0x3fff, ..] => return None,
        _ => "not global unicast",
    };
    Some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbids_what_is_not_public() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:a9fe:a9fe",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::8.8.8.8",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:0:7f00:1::",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
            "8000::1",
        ] {
            assert!(is_forbidden(text.parse().unwrap()).is_some(), "{text}");
        }
    }

    #[test]
    fn lets_public_addresses_pass() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "149.154.167.220",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2a00:1450:4010::5",
            "2606:4700::1111",
        ] {
            assert_eq!(is_forbidden(text.parse().unwrap()), None, "{text}");
        }
    }

    struct Answers(Vec<IpAddr>);

    #[async_trait]
    impl Resolver for Answers {
        async fn lookup(&self, _host: &str) -> std::io::Result<Vec<IpAddr>> {
            Ok(self.0.clone())
        }
    }

    fn guard(allow: &str, answers: &[&str]) -> Guard {
        let policy = OperatorPolicy {
            allow: OperatorPolicy::parse_allow(allow).unwrap(),
            ports: BTreeSet::from([8443]),
            own: vec!["9.9.9.9".parse().unwrap()],
            ..Default::default()
        };
        Guard::new(&policy, Arc::new(Answers(answers.iter().map(|text| text.parse().unwrap()).collect())))
    }

    #[tokio::test]
    async fn keeps_only_the_addresses_that_may_be_reached() {
        let mixed = guard("", &["10.0.0.1", "8.8.8.8", "::1"]).resolve("a.test", 443).await.unwrap();
        assert_eq!(mixed, ["8.8.8.8:443".parse().unwrap()]);
        assert_eq!(guard("", &["10.0.0.1"]).resolve("a.test", 443).await, Err(GuardError::Forbidden("private")));
        assert_eq!(guard("", &["9.9.9.9"]).resolve("a.test", 443).await, Err(GuardError::Forbidden("this machine")));
        assert_eq!(guard("", &["8.8.8.8"]).resolve("a.test", 22).await, Err(GuardError::Port(22)));
        assert_eq!(guard("", &["8.8.8.8"]).resolve("a.test", 8443).await.unwrap().len(), 1);
        assert!(matches!(guard("", &[]).resolve("a.test", 443).await, Err(GuardError::Lookup(_))));
    }

    #[tokio::test]
    async fn an_allowed_network_is_reached_on_any_port() {
        let guard = guard("10.0.0.0/8", &["10.0.0.1", "8.8.8.8"]);
        assert_eq!(guard.resolve("a.test", 9001).await.unwrap(), ["10.0.0.1:9001".parse().unwrap()]);
        assert!(guard.resolve("::ffff:10.0.0.1", 1).await.is_ok());
        assert!(guard.resolve("[::1]", 80).await.is_err());
        assert!(guard.with_ports([25, 587]).resolve("8.8.8.8", 587).await.is_ok());
        assert!(guard.with_ports([25, 587]).resolve("8.8.8.8", 443).await.is_err());
    }
}
