//! The channels folder, and the copies of what passed.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::plugin::package::{MAX_FILE_BYTES, Package};
use crate::plugin::{PluginError, make_private_folder, write_whole};

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    len: u64,
    mtime: (i64, i64),
    inode: u64,
    /// Not a file, or not one whose name can be used.
    unusable: Option<Unusable>,
}

/// Why something that is called `….wasm` is not even opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unusable {
    Name,
    DeadLink,
    Folder,
    Special,
}

impl Unusable {
    fn reason(self) -> &'static str {
        match self {
            Self::Name => "the file's name is not UTF-8; rename it",
            Self::DeadLink => "it is a link to a file that is not there, or that may not be reached",
            Self::Folder => "it is a folder and not a file",
            Self::Special => "it is a pipe, socket or device and not a file",
        }
    }
}

impl Stamp {
    /// `None`: it vanished meanwhile.
    fn of(path: &Path, unusable_name: bool) -> Option<Self> {
        // Follows links.
        let (meta, unusable) = match std::fs::metadata(path) {
            _ if unusable_name => (std::fs::symlink_metadata(path).ok()?, Some(Unusable::Name)),
            Ok(meta) if meta.is_file() => (meta, None),
            Ok(meta) if meta.is_dir() => (meta, Some(Unusable::Folder)),
            Ok(meta) => (meta, Some(Unusable::Special)),
            Err(_) => (std::fs::symlink_metadata(path).ok()?, Some(Unusable::DeadLink)),
        };
        Some(Self { len: meta.len(), mtime: (meta.mtime(), meta.mtime_nsec()), inode: meta.ino(), unusable })
    }
}

/// What was made of a file.
#[derive(Debug)]
pub(super) enum FileState {
    /// It passed.
    Loaded,
    /// It did not.
    Refused { digest: [u8; 32], reason: String },
}

/// A file of the channels folder.
#[derive(Debug)]
pub(super) struct File {
    stamp: Stamp,
    pub(super) state: FileState,
    /// The last content under this name that passed.
    good: Option<[u8; 32]>,
}

impl File {
    /// The content that may serve for this name.
    pub(super) fn serving(&self) -> Option<[u8; 32]> {
        self.good
    }
}

/// A file that is new or differs from when it was last read.
pub(super) struct Found {
    name: String,
    path: PathBuf,
    stamp: Stamp,
}

impl Found {
    pub(super) fn read(self) -> Changed {
        let bytes = match self.stamp.unusable {
            Some(unusable) => Err(unusable.reason().to_owned()),
            None => read_bounded(&self.path),
        };
        let digest = bytes.as_ref().map(|bytes| Sha256::digest(bytes).into()).unwrap_or_default();
        Changed { name: self.name, stamp: self.stamp, digest, bytes }
    }
}

/// What stands in such a file.
pub(super) struct Changed {
    pub(super) name: String,
    pub(super) stamp: Stamp,
    pub(super) digest: [u8; 32],
    pub(super) bytes: Result<Vec<u8>, String>,
}

/// The two folders.
pub(super) struct Files {
    channels: PathBuf,
    kept: PathBuf,
    files: BTreeMap<String, File>,
    /// Name → digest of the content that last passed, over restarts.
    index: BTreeMap<String, String>,
}

impl Files {
    pub(super) fn open(channels: PathBuf, kept: PathBuf) -> Result<Self, PluginError> {
        std::fs::create_dir_all(&channels)
            .map_err(|e| PluginError::Folder(format!("cannot make the channels folder {}: {e}", channels.display())))?;
        make_private_folder(&kept)?;
        let index = std::fs::read(kept.join("index.json")).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
        Ok(Self { channels, kept, files: BTreeMap::new(), index })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &File)> {
        self.files.iter()
    }

    pub(super) fn folder(&self) -> &Path {
        &self.channels
    }

    /// Where an uploaded plugin goes.
    pub(super) fn path_for(&self, channel: &str, version: &str) -> PathBuf {
        self.channels.join(format!("{}-{version}.wasm", channel.replace('/', "_")))
    }

    /// The kept copy of a content.
    pub(super) fn kept(&self, digest: &[u8; 32]) -> PathBuf {
        self.kept.join(format!("{}.wasm", hex::encode(digest)))
    }

    /// Keeps a copy of a file that passed its first checks.
    pub(super) fn keep(&self, package: &Package) -> Result<(), PluginError> {
        let path = self.kept(&package.digest);
        if path.exists() {
            return Ok(());
        }
        write_whole(&path, &package.bytes).map_err(|e| PluginError::Folder(format!("cannot keep a copy in {}: {e}", path.display())))
    }

    /// Forgets files that are gone, and names those that are new or changed.
    pub(super) fn look(&mut self) -> Vec<Found> {
        let found = match self.read_folder() {
            Ok(found) => found,
            Err(error) => {
                // A folder that cannot be read is not an empty one: what serves goes on serving.
                tracing::error!(folder = %self.channels.display(), %error, "the channels folder cannot be read");
                return Vec::new();
            }
        };
        self.files.retain(|name, _| found.contains_key(name));
        // What was taken out of the folder stays out, even when a broken file of its name appears later.
        self.index.retain(|name, _| found.contains_key(name));
        let new = |(name, stamp): &(String, Stamp)| self.files.get(name).is_none_or(|file| file.stamp != *stamp);
        // The name of what is opened is UTF-8, and so the one in the folder.
        found.into_iter().filter(new).map(|(name, stamp)| Found { path: self.channels.join(&name), name, stamp }).collect()
    }

    fn read_folder(&self) -> std::io::Result<BTreeMap<String, Stamp>> {
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(&self.channels)? {
            let entry = entry?;
            let (name, unusable_name) = match entry.file_name().into_string() {
                Ok(name) => (name, false),
                Err(name) => (name.to_string_lossy().into_owned(), true),
            };
            if !name.ends_with(".wasm") || name.starts_with('.') {
                continue;
            }
            if let Some(stamp) = Stamp::of(&entry.path(), unusable_name) {
                found.insert(name, stamp);
            }
        }
        Ok(found)
    }

    pub(super) fn loaded(&mut self, name: &str, stamp: Stamp, digest: [u8; 32]) {
        self.files.insert(name.to_owned(), File { stamp, state: FileState::Loaded, good: Some(digest) });
        self.index.insert(name.to_owned(), hex::encode(digest));
        let json = serde_json::to_vec_pretty(&self.index).unwrap_or_default();
        if let Err(error) = write_whole(&self.kept.join("index.json"), &json) {
            tracing::warn!(%error, "which plugin files passed could not be noted");
        }
    }

    pub(super) fn refused(&mut self, name: &str, stamp: Stamp, digest: [u8; 32], reason: String) {
        let before = self.files.get(name).and_then(|file| file.good);
        let noted = || {
            let mut good = [0; 32];
            hex::decode_to_slice(self.index.get(name)?, &mut good).ok()?;
            Some(good)
        };
        let good = before.or_else(noted);
        self.files.insert(name.to_owned(), File { stamp, state: FileState::Refused { digest, reason }, good });
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |e: std::io::Error| format!("cannot be read: {e}");
    let file = std::fs::File::open(path).map_err(cannot)?;
    let len = file.metadata().map_err(cannot)?.len();
    let mut bytes = Vec::new();
    // A file that grows meanwhile is not read without end.
    file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() > MAX_FILE_BYTES {
        return Err(format!("the file has {len} bytes; a plugin has at most {MAX_FILE_BYTES}"));
    }
    Ok(bytes)
}
