//! Files and folders that only the host's own user may read: they hold the names and telephone numbers of people.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// The rights of others, and of the group.
const OTHERS: u32 = 0o077;
/// Everyone may write here, but remove only what is theirs: a shared folder such as `/tmp`.
const STICKY: u32 = 0o1000;
/// What the host makes in its data folder, and so knows it by.
const OWN: [&str; 6] = ["leadwire.db", "master.key", "admin.key", "channels", "plugins", "compiled"];
/// Folders of the system, which would break if they were closed to others.
const SYSTEM: [&str; 16] =
    ["/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/mnt", "/opt", "/proc", "/run", "/srv", "/sys", "/usr", "/var", "/var/lib"];

/// Makes the folder where it is missing; takes it from others where they have it and it is the host's own.
pub fn folder(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    if is_own(path)? {
        tighten(path);
    } else {
        tracing::warn!(folder = %path.display(), "the data folder holds other things too, and is left open to other users as it is");
    }
    Ok(())
}

fn is_own(path: &Path) -> Result<bool> {
    let real = path.canonicalize()?;
    if SYSTEM.iter().any(|system| real == Path::new(system)) || std::fs::metadata(path)?.permissions().mode() & STICKY != 0 {
        return Ok(false);
    }
    let mut names = std::fs::read_dir(path)?.filter_map(|entry| entry.ok().map(|entry| entry.file_name())).peekable();
    Ok(names.peek().is_none() || names.any(|name| OWN.iter().any(|own| name == *own)))
}

/// Makes the file where it is missing; takes it from others where they have it.
pub fn file(path: &Path) -> Result<()> {
    match File::options().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            tighten(path);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Takes what exists from others; logged, since someone may have relied on it.
pub fn tighten(path: &Path) {
    let narrowed = std::fs::metadata(path).and_then(|found| {
        let mode = found.permissions().mode();
        if mode & OTHERS == 0 {
            return Ok(None);
        }
        std::fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS))?;
        Ok(Some(mode & 0o777))
    });
    let shown = path.display();
    match narrowed {
        Ok(None) => {}
        Ok(Some(mode)) => tracing::warn!(path = %shown, "other users could reach {shown} (mode {mode:o}); now only this one can"),
        Err(error) if is_missing(&error) => {}
        // On some mounted volumes rights cannot be changed; that is no reason not to take leads.
        Err(error) => tracing::error!(path = %shown, %error, "other users may reach {shown}, and its rights cannot be changed"),
    }
}

fn is_missing(error: &Error) -> bool {
    error.kind() == ErrorKind::NotFound
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn what_is_there_is_taken_from_others_but_a_shared_folder_stays_shared() {
        let dir = tempfile::tempdir().unwrap();
        let (folder_path, file_path, shared) = (dir.path().join("a/b"), dir.path().join("f"), dir.path().join("shared"));
        folder(&folder_path).unwrap();
        file(&file_path).unwrap();
        assert_eq!((mode(&folder_path), mode(&file_path)), (0o700, 0o600));
        for (path, wide) in [(&folder_path, 0o775), (&file_path, 0o644)] {
            std::fs::set_permissions(path, Permissions::from_mode(wide)).unwrap();
        }
        folder(&folder_path).unwrap();
        file(&file_path).unwrap();
        assert_eq!((mode(&folder_path), mode(&file_path)), (0o700, 0o600));
        std::fs::create_dir(&shared).unwrap();
        std::fs::set_permissions(&shared, Permissions::from_mode(0o1777)).unwrap();
        folder(&shared).unwrap();
        assert_eq!(mode(&shared), 0o1777);
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        folder(dir.path()).unwrap();
        assert_eq!(mode(dir.path()), 0o755, "it holds other things");
        assert!(!is_own(Path::new("/etc")).unwrap() && !is_own(Path::new("/proc")).unwrap());
        tighten(&dir.path().join("missing"));
    }
}
