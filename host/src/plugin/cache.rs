//! Compiled plugins on disk, so that a start does not compile again.
//!
//! Compiled code is machine code: a file that somebody else wrote would run with the host's rights, and wasmtime does
//! not notice a flipped byte. So each file carries an HMAC under a key of this host, over the code and over what it was
//! compiled from and for; anything that does not match is compiled again.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use hmac::{Hmac, Mac};
use sha2::Sha256;
use wasmtime::component::Component;

use super::PluginError;
use super::package::Package;

const TAG_BYTES: usize = 32;

/// The folder with compiled plugins.
#[derive(Clone)]
pub struct CodeCache {
    folder: PathBuf,
    key: [u8; 32],
}

impl CodeCache {
    /// Uses `folder`, which is made with mode 0700.
    pub fn new(folder: &Path, key: [u8; 32]) -> Result<Self, PluginError> {
        super::make_private_folder(folder)?;
        Ok(Self { folder: folder.to_path_buf(), key })
    }

    /// The component, from the cache or compiled now (up to seconds of CPU: call it on a blocking thread).
    pub fn load(&self, engine: &wasmtime::Engine, package: &Package) -> Result<Component, PluginError> {
        let path = self.path(engine, package);
        if let Some(code) = self.read(&path, package)
            && let Ok(component) = deserialize(engine, &code)
        {
            return Ok(component);
        }
        let code = engine.precompile_component(&package.bytes).map_err(|e| PluginError::Refused(format!("does not compile: {e:#}")))?;
        self.forget_older(&path, package);
        if let Err(error) = self.write(&path, package, &code) {
            tracing::warn!(%error, path = %path.display(), "compiled plugin not cached; the next start compiles it again");
        }
        deserialize(engine, &code)
    }

    fn path(&self, engine: &wasmtime::Engine, package: &Package) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        self.folder.join(format!("{}-{:016x}.cwasm", hex::encode(package.digest), hasher.finish()))
    }

    /// Removes what other versions of the host made of the same plugin.
    fn forget_older(&self, path: &Path, package: &Package) {
        let name = hex::encode(package.digest);
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.path() != path && entry.file_name().to_string_lossy().starts_with(&name) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    fn tag(&self, path: &Path, package: &Package, code: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        mac.update(path.file_name()?.as_encoded_bytes());
        mac.update(&package.digest);
        mac.update(code);
        Some(mac)
    }

    fn read(&self, path: &Path, package: &Package) -> Option<Vec<u8>> {
        let mut file = std::fs::read(path).ok()?;
        let code = file.split_off(TAG_BYTES.min(file.len()));
        match self.tag(path, package, &code)?.verify_slice(&file) {
            Ok(()) => Some(code),
            Err(_) => {
                tracing::warn!(path = %path.display(), "cached code was not written by this host; it is compiled again");
                None
            }
        }
    }

    fn write(&self, path: &Path, package: &Package, code: &[u8]) -> std::io::Result<()> {
        let Some(tag) = self.tag(path, package, code) else { return Ok(()) };
        let mut file = tag.finalize().into_bytes().to_vec();
        file.extend_from_slice(code);
        super::write_whole(path, &file)
    }
}

#[expect(unsafe_code, reason = "loads machine code that this host compiled: either just now, or read with a valid HMAC")]
fn deserialize(engine: &wasmtime::Engine, code: &[u8]) -> Result<Component, PluginError> {
    // SAFETY: `code` comes from `Engine::precompile_component` of this binary: it was made a moment ago, or its HMAC
    // under this host's key was checked in `read`.
    unsafe { Component::deserialize(engine, code) }.map_err(|e| PluginError::Engine(format!("{e:#}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::engine::Engine;

    /// The smallest component there is.
    fn package() -> Package {
        let bytes = b"\0asm\x0d\0\x01\0".to_vec();
        let manifest = serde_json::from_value(serde_json::json!({
            "manifest": 1, "contract": "1.0", "channel": "x", "version": "1.0.0", "title": {"en": "X"}, "provides": ["outbound"],
            "config": {"schema": {"type": "object"}}
        }));
        Package { manifest: manifest.unwrap(), digest: [7; 32], bytes }
    }

    /// Loads it; the cached file as it stands afterwards, with its inode, which changes whenever it is written.
    fn load(folder: &Path, key: [u8; 32], engine: &Engine) -> (PathBuf, Vec<u8>, u64) {
        use std::os::unix::fs::MetadataExt;
        let cache = CodeCache::new(folder, key).unwrap();
        cache.load(engine.wasmtime(), &package()).unwrap();
        let path = cache.path(engine.wasmtime(), &package());
        let inode = std::fs::metadata(&path).unwrap().ino();
        (path.clone(), std::fs::read(path).unwrap(), inode)
    }

    #[test]
    fn a_second_start_compiles_nothing() {
        let (folder, engine) = (tempfile::tempdir().unwrap(), Engine::new(1).unwrap());
        let (_, _, first) = load(folder.path(), [1; 32], &engine);
        let (_, _, second) = load(folder.path(), [1; 32], &engine);
        assert_eq!(first, second, "the file was not written again");
    }

    #[test]
    fn code_with_a_flipped_byte_is_compiled_again() {
        let (folder, engine) = (tempfile::tempdir().unwrap(), Engine::new(1).unwrap());
        let (path, whole, _) = load(folder.path(), [1; 32], &engine);
        for at in [0, TAG_BYTES, whole.len() / 2, whole.len() - 1] {
            let mut broken = whole.clone();
            broken[at] ^= 1;
            std::fs::write(&path, broken).unwrap();
            assert!(load(folder.path(), [1; 32], &engine).1 == whole, "byte {at}");
        }
        for short in [0, TAG_BYTES - 1, TAG_BYTES, whole.len() - 1] {
            std::fs::write(&path, &whole[..short]).unwrap();
            assert!(load(folder.path(), [1; 32], &engine).1 == whole, "{short} bytes");
        }
    }

    #[test]
    fn code_that_another_host_compiled_is_never_loaded() {
        let (folder, engine) = (tempfile::tempdir().unwrap(), Engine::new(1).unwrap());
        let (path, foreign, _) = load(folder.path(), [2; 32], &engine);
        assert!(CodeCache::new(folder.path(), [1; 32]).unwrap().read(&path, &package()).is_none());
        let (_, ours, _) = load(folder.path(), [1; 32], &engine);
        assert!(ours[..TAG_BYTES] != foreign[..TAG_BYTES]);
        // Its own file under the name of another plugin.
        let other = Package { digest: [8; 32], ..package() };
        let cache = CodeCache::new(folder.path(), [1; 32]).unwrap();
        let place = cache.path(engine.wasmtime(), &other);
        std::fs::write(&place, &ours).unwrap();
        assert!(cache.read(&place, &other).is_none());
    }

    #[test]
    fn what_another_version_of_the_host_compiled_is_cleared_away() {
        let (folder, engine) = (tempfile::tempdir().unwrap(), Engine::new(1).unwrap());
        let old = folder.path().join(format!("{}-0123456789abcdef.cwasm", hex::encode([7; 32])));
        CodeCache::new(folder.path(), [1; 32]).unwrap();
        std::fs::write(&old, b"old").unwrap();
        load(folder.path(), [1; 32], &engine);
        assert!(!old.exists());
    }
}
