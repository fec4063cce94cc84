//! Installs what the tests need beside Rust: a few Debian packages here, servers and interpreters by `tests/setup/*.sh`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::paths::Paths;
use crate::steps;

/// Programs that the README's commands use, and the package of each.
const PROGRAMS: [(&str, &str); 1] = [("curl", "curl")];

/// Runs every script, each of which does nothing when its things are there.
pub fn run(paths: &Paths) -> Result<()> {
    install_missing(paths)?;
    for script in scripts(paths) {
        let name = script.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut shell = Command::new("bash");
        shell.arg(&script).current_dir(&paths.root).env("DEBIAN_FRONTEND", "noninteractive");
        steps::run(paths, &format!("set up {name}"), &mut shell).with_context(|| format!("set-up for tests: {}", crate::shown(&script)))?;
    }
    Ok(())
}

fn install_missing(paths: &Paths) -> Result<()> {
    let missing: Vec<_> = PROGRAMS.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let script = format!("apt-get update && apt-get install -y --no-install-recommends {}", missing.join(" "));
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).env("DEBIAN_FRONTEND", "noninteractive");
    let label = format!("install {}", missing.join(", "));
    steps::run(paths, &label, &mut shell).with_context(|| format!("{} missing: as root, `{script}`", missing.join(", ")))
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn scripts(paths: &Paths) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(paths.root.join("tests/setup")) else { return Vec::new() };
    let mut scripts: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|kind| kind == "sh")).collect();
    scripts.sort();
    scripts
}
