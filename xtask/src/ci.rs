//! `cargo xtask ci`: formatting, lints and the dependency check. The tests are `cargo xtask test`.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::paths::Paths;
use crate::{plugins, steps};

/// The cargo-deny whose command line is spoken here.
const DENY_VERSION: &str = "0.20.2";
/// Building cargo-deny takes two to four minutes on two cores.
const INSTALL_LIMIT: Duration = Duration::from_secs(15 * 60);
/// The advisory database is small; longer means that it cannot be had.
const FETCH_LIMIT: Duration = Duration::from_secs(120);

/// Runs every check, all of them even if one fails.
pub fn run(paths: &Paths) -> Result<()> {
    let mut failures = Vec::new();
    let mut note = |part: &str, result: Result<()>| {
        if let Err(error) = result {
            println!("\nFAILED: {part}: {error:#}\n");
            failures.push(part.to_owned());
        }
    };
    let manifests: Vec<_> = [paths.root.join("Cargo.toml")].into_iter().chain(plugins::workspaces(paths)).collect();
    for manifest in &manifests {
        let name = crate::shown(manifest);
        let mut fmt = paths.cargo();
        fmt.args(["fmt", "--all", "--check", "--manifest-path"]).arg(manifest);
        note(&format!("fmt {name}"), steps::attached(&format!("fmt {name}"), &mut fmt));
        let mut clippy = paths.cargo();
        clippy.args(["clippy", "--workspace", "--all-targets", "--manifest-path"]).arg(manifest).args(["--", "-D", "warnings"]);
        note(&format!("clippy {name}"), steps::attached(&format!("clippy {name}"), &mut clippy));
    }
    note("deny", deny(paths, &manifests));
    if !failures.is_empty() {
        bail!("failed: {}", failures.join("; "));
    }
    Ok(())
}

/// Licences, bans and sources always; advisories when their database can be had.
fn deny(paths: &Paths, manifests: &[PathBuf]) -> Result<()> {
    let Some(program) = deny_program(paths) else {
        println!(
            "\nSKIPPED: the dependency check: cargo-deny is not here and could not be installed (`cargo install cargo-deny --locked --version {DENY_VERSION}`)\n"
        );
        return Ok(());
    };
    let command = |manifest: &PathBuf, args: &[&str]| {
        let mut deny = Command::new(&program);
        deny.current_dir(&paths.root).arg("--config").arg(paths.root.join("deny.toml"));
        deny.arg("--manifest-path").arg(manifest).args(args);
        deny
    };
    for manifest in manifests {
        let mut check = command(manifest, &["check", "--hide-inclusion-graph", "licenses", "bans", "sources"]);
        steps::run(paths, &format!("deny {}", crate::shown(manifest)), &mut check)?;
    }
    if let Err(error) = steps::run_within(paths, "fetch advisories", &mut command(&manifests[0], &["fetch", "db"]), FETCH_LIMIT) {
        println!("\nSKIPPED: security advisories: their database cannot be had here ({error:#})\n");
        return Ok(());
    }
    for manifest in manifests {
        let mut check = command(manifest, &["--offline", "check", "--hide-inclusion-graph", "advisories"]);
        steps::run(paths, &format!("advisories {}", crate::shown(manifest)), &mut check)?;
    }
    Ok(())
}

/// cargo-deny in the pinned version, of this machine or built for this repository. Its options moved between versions, so that
/// another version is no use.
fn deny_program(paths: &Paths) -> Option<PathBuf> {
    let here = PathBuf::from("cargo-deny");
    let own = paths.root.join("target/tools/bin/cargo-deny");
    for program in [here, own.clone()] {
        let version = steps::output(Command::new(&program).arg("--version"));
        if version.is_ok_and(|printed| printed.split_whitespace().any(|word| word == DENY_VERSION)) {
            return Some(program);
        }
    }
    let mut install = paths.cargo();
    install.args(["install", "cargo-deny", "--locked", "--version", DENY_VERSION, "--root"]).arg(paths.root.join("target/tools"));
    install.env("CARGO_TARGET_DIR", paths.root.join("target/tools/build"));
    steps::run_within(paths, "install cargo-deny", &mut install, INSTALL_LIMIT).ok()?;
    Some(own)
}
