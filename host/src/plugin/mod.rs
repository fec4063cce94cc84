//! Plugins: the manifest, the package file, the engine that runs components, and the registry of what is installed.
//! Never sees the store: what a call needs is handed in. Start at `registry` for what is installed, at `call` for what
//! happens during one call.

pub mod bindings;
pub mod cache;
pub mod call;
mod caps;
mod describe;
pub mod engine;
pub mod inspect;
pub mod manifest;
mod manifest_check;
pub mod package;
pub mod registry;
pub mod schema;
mod stdio;
pub mod template_ref;

pub use describe::describe;

use std::path::Path;

/// Why a plugin cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PluginError {
    /// The file breaks a rule; the text says which and what its author can do.
    #[error("{0}")]
    Refused(String),
    /// The engine failed: a defect or a machine without room.
    #[error("plugin engine: {0}")]
    Engine(String),
    /// A folder of the host cannot be used; the operator can mend it.
    #[error("{0}")]
    Folder(String),
}

/// Makes a folder that only this user can enter.
pub(crate) fn make_private_folder(folder: &Path) -> Result<(), PluginError> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let explain = |e: std::io::Error| PluginError::Folder(format!("cannot use the folder {}: {e}", folder.display()));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(explain)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).map_err(explain)
}

/// Writes a file so that a reader sees all of it or none.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    std::fs::File::open(folder)?.sync_all()
}
