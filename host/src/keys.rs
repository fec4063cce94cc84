//! The two keys a new installation starts with (the master key and the first admin key), and how API keys are made.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::config::Config;
use crate::model::{ApiKey, AuditAction, AuditId, AuditLine, KeyId, Scope, Timestamp};
use crate::policy;
use crate::secrets::{MasterKey, SecretText, Vault};
use crate::store::{Act, Store, StoreError};

/// What every key's text begins with.
pub const PREFIX: &str = "lw_";
/// Random characters after the prefix: 40 of 32 make 200 bits.
const RANDOM_CHARS: usize = 40;
/// Crockford's base 32: nothing that looks alike.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The text of a new API key.
pub fn new_text() -> anyhow::Result<SecretText> {
    let mut random = [0u8; RANDOM_CHARS];
    getrandom::fill(&mut random).context("the system gives no random bytes")?;
    let mut text = String::with_capacity(PREFIX.len() + RANDOM_CHARS);
    text.push_str(PREFIX);
    text.extend(random.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])));
    Ok(SecretText::new(text))
}

/// SHA-256 of a key's text: all that is stored of it.
pub fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// The first characters, to recognise a key by.
pub fn hint(text: &str) -> String {
    text.chars().take(PREFIX.len() + 6).collect()
}

/// A key of all projects with this text.
pub fn new_key(name: String, text: &SecretText, scopes: Vec<Scope>, now: Timestamp) -> ApiKey {
    ApiKey {
        id: KeyId::new(now),
        name,
        hash: hash(text.expose()),
        hint: hint(text.expose()),
        scopes,
        project: None,
        rate: None,
        rotated_from: None,
        replaced_by: None,
        created_at: now,
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
    }
}

/// Stores a key that the host made by itself or at its command line.
pub async fn store_own(store: &dyn Store, config: &Config, key: ApiKey) -> Result<(), StoreError> {
    let after = serde_json::json!({"name": key.name, "hint": key.hint, "scopes": key.scopes});
    let line = AuditLine {
        id: AuditId::new(key.created_at),
        at: key.created_at,
        project: None,
        actor: None,
        actor_name: "host".into(),
        peer: None,
        node: config.node.clone(),
        request_id: String::new(),
        action: AuditAction::KeyCreate,
        object: key.id.to_string(),
        changes: policy::audit::changes(&serde_json::Value::Null, &after),
    };
    store.act(Act::CreateKey(Box::new(key)), &line, None).await.map(drop)
}

/// Whether a key given by the operator is long enough to be one.
pub fn is_strong(text: &str) -> bool {
    text.strip_prefix(PREFIX).unwrap_or(text).chars().count() >= 32
}

/// The first admin key: from the settings, from its file, or made now (then it is written to the file and to `out`, once).
/// The store knows it afterwards.
pub async fn ensure_admin(store: &dyn Store, config: &Config, clock: &dyn Clock, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    let (text, made) = match &config.admin_key {
        Some(key) => (SecretText::new(key.expose().to_owned()), false),
        None => read_or_make(&config.admin_key_file, new_text)?,
    };
    anyhow::ensure!(is_strong(text.expose()), "the key in {} is too short", config.admin_key_file.display());
    let hash = hash(text.expose());
    match store.key_by_hash(&hash).await.context("cannot look up the admin key")? {
        Some(key) if key.revoked_at.is_some() => tracing::warn!(key.id = %key.id, "the admin key of the settings was revoked"),
        Some(key) if key.expires_at.is_some_and(|at| at <= clock.now()) => {
            tracing::warn!(key.id = %key.id, "the admin key of the settings was rotated or has expired");
        }
        Some(_) => {}
        None => {
            let key = new_key("first admin key".into(), &text, vec![Scope::PlatformAdmin], clock.now());
            store_own(store, config, key).await.context("cannot store the admin key")?;
        }
    }
    if made {
        tracing::info!("admin key made: it is in {}", config.admin_key_file.display());
        writeln!(out, "admin key (shown once; kept in {}): {}", config.admin_key_file.display(), text.expose())?;
    }
    Ok(())
}

/// The master key, from the settings, from its file, or made now; and whether it was made.
pub fn master_key(config: &Config) -> anyhow::Result<(MasterKey, bool)> {
    if let Some(key) = &config.master_key {
        return Ok((MasterKey::parse(key.expose()).context("LEADWIRE_MASTER_KEY")?, false));
    }
    let file = config.master_key_file.display();
    let (text, made) = read_or_make(&config.master_key_file, || Ok(MasterKey::generate()?.to_text()))?;
    if made {
        tracing::info!("master key made in {file}: keep a copy of it away from the data folder");
    }
    Ok((MasterKey::parse(text.expose()).with_context(|| file.to_string())?, made))
}

/// Refuses a master key that opens none of the secrets there are: the host would run, and no lead would leave it.
pub async fn check_master(store: &dyn Store, vault: &Vault, config: &Config, made: bool) -> anyhow::Result<()> {
    let known = store.sealing_keys().await.context("cannot look up which master key the secrets were sealed with")?;
    let unknown: Vec<&str> = known.iter().map(String::as_str).filter(|id| *id != vault.key_id()).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    if made {
        // A new key in its place would only hide that the right one is missing.
        let _ = std::fs::remove_file(&config.master_key_file);
        anyhow::bail!(
            "{} is missing, and the stored secrets were sealed with master key {}: put your copy of the file there",
            config.master_key_file.display(),
            unknown.join(", ")
        );
    }
    let from = if config.master_key.is_some() { "LEADWIRE_MASTER_KEY".into() } else { config.master_key_file.display().to_string() };
    anyhow::bail!(
        "the stored secrets were sealed with master key {}, and the one in {from} is {}: start with the master key they were \
         stored under, from your copy of it",
        unknown.join(", "),
        vault.key_id()
    )
}

/// The file's text without surrounding space; or what `make` gives, written to a new file that only the owner can read.
fn read_or_make(path: &Path, make: impl FnOnce() -> anyhow::Result<SecretText>) -> anyhow::Result<(SecretText, bool)> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let text = Zeroizing::new(text);
            return Ok((SecretText::new(text.trim().to_owned()), false));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let text = make()?;
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        writeln!(file, "{}", text.expose())?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    Ok((text, true))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Flags;

    fn config(folder: &Path, env: &[(&str, &str)]) -> Config {
        let flags = Flags { data_dir: Some(folder.join("data").to_str().unwrap().into()), ..Flags::default() };
        Config::load(&flags, &|name| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())).unwrap()
    }

    #[test]
    fn the_master_key_is_made_once_and_only_the_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), &[]);
        let first = master_key(&config).unwrap().0;
        assert_eq!(first.id(), master_key(&config).unwrap().0.id());
        let mode = std::fs::metadata(&config.master_key_file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_broken_master_key_is_said_without_showing_it() {
        let folder = tempfile::tempdir().unwrap();
        for bad in ["not base64 at all!", "c2hvcnQ="] {
            let error = format!("{:#}", master_key(&config(folder.path(), &[("LEADWIRE_MASTER_KEY", bad)])).unwrap_err());
            assert!(error.contains("LEADWIRE_MASTER_KEY") && !error.contains(bad), "{error}");
        }
    }

    #[test]
    fn keys_are_long_and_differ() {
        let (one, two) = (new_text().unwrap(), new_text().unwrap());
        assert!(one.expose().len() == 43 && is_strong(one.expose()) && one.expose() != two.expose());
        assert_eq!(hint(one.expose()).len(), 9);
    }
}
