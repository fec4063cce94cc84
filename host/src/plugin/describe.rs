//! A plugin file in plain words, for `leadwire channel inspect`.

use std::fmt::Write;

use super::manifest::{Manifest, SecretUse};
use super::package::Package;

/// What it is, where it may send, and what happens to its secrets.
pub fn describe(package: &Package, size: usize) -> String {
    let manifest = &package.manifest;
    let mut out = String::new();
    let title = manifest.title.get("en").or_else(|| manifest.title.values().next()).map_or("", String::as_str);
    let limits = &manifest.limits;
    let lines = [
        format!("{} {} — {title}", manifest.channel, manifest.version),
        format!("contract    {}", manifest.contract),
        format!("file        {size} bytes, SHA-256 {}", hex::encode(package.digest)),
        format!("provides    {}", list(manifest.provides.iter().map(|p| p.interface()))),
        format!("uses        {}", list(manifest.uses.iter().map(|u| u.interface()))),
        format!(
            "limits      {} item(s) a call, {} call(s) at once, {} ms, {} ms CPU, {} MiB, {} requests",
            limits.batch, limits.concurrency, limits.timeout_ms, limits.cpu_ms, limits.memory_mb, limits.requests_per_call
        ),
    ];
    for line in lines {
        let _ = writeln!(out, "{line}");
    }
    rights(manifest, &mut out);
    out
}

fn rights(manifest: &Manifest, out: &mut String) {
    for rule in &manifest.egress {
        let methods = list(rule.methods.iter().map(|method| method.as_str()));
        let below = if rule.exact { "exactly" } else { "below" };
        let _ = writeln!(out, "may send    {methods} {below} {}", rule.base);
    }
    if let Some(mail) = &manifest.mail {
        let _ = writeln!(out, "may mail    as {} through {}", mail.from, mail.server);
    }
    for secret in &manifest.secrets {
        let uses = list(secret.uses.iter().map(|kind| match kind {
            SecretUse::Oauth => "used by the host for OAuth2",
            SecretUse::Inject => "put into requests by the host",
            SecretUse::Sign => "used by the host to sign",
            SecretUse::Mail => "used by the host to log in",
            SecretUse::Reveal => "SHOWN TO THE PLUGIN",
        }));
        let _ = writeln!(out, "secret      {}: {uses}", secret.name);
    }
}

fn list<'a>(items: impl Iterator<Item = &'a str>) -> String {
    let joined = items.collect::<Vec<_>>().join(", ");
    if joined.is_empty() { "nothing".into() } else { joined }
}
