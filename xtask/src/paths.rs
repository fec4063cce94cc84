//! Where things lie in the repository.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The repository's root and what is derived from it.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The folder of the workspace's Cargo.toml.
    pub root: PathBuf,
    /// Where cargo builds the workspace.
    pub target: PathBuf,
}

impl Paths {
    /// Finds the repository by this crate's own place.
    pub fn find() -> Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = here.parent().context("the xtask folder has no parent")?.to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => std::env::current_dir()?.join(dir),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// Packed plugins of the product.
    pub fn channels(&self) -> PathBuf {
        self.root.join("target/channels")
    }

    /// Packed plugins of the tests.
    pub fn test_channels(&self) -> PathBuf {
        self.root.join("target/test-channels")
    }

    /// Logs of what the commands ran.
    pub fn logs(&self) -> PathBuf {
        self.root.join("target/xtask")
    }

    /// Compilers that were unpacked for this repository alone.
    pub fn local_toolchains(&self) -> PathBuf {
        self.root.join(".toolchain")
    }

    /// `cargo` at the root, the one that runs this command.
    pub fn cargo(&self) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.root);
        hide_xtask(&mut cargo);
        cargo
    }
}

/// Keeps from a command what `cargo run` tells xtask about itself. Handed on, it would make build scripts that look at
/// these names (ring's does) run again, and half of the host with them, at every change between here and a plain
/// `cargo build`.
pub fn hide_xtask(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_about_xtask(&name.to_string_lossy())) {
        command.env_remove(name);
    }
}

/// What cargo sets for the program it runs, as against what a person sets for cargo.
fn is_about_xtask(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO_CRATE_NAME" || name == "CARGO_BIN_NAME"
}
