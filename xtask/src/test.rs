//! `cargo xtask test`: set-up, plugins, and every test. All parts run even if one fails.

use anyhow::{Result, bail};

use crate::paths::Paths;
use crate::plugins::{self, Profile};
use crate::{readme, setup, steps, toolchain};

/// Runs the tests whose name contains `filter`, or all of them and the README.
pub fn run(paths: &Paths, filter: Option<&str>) -> Result<()> {
    setup::run(paths)?;
    let toolchain = toolchain::ensure(paths)?;
    toolchain::ensure_wasi(paths, &toolchain);
    plugins::build_all(paths, &toolchain, Profile::Dev)?;
    let mut failures = Vec::new();
    let mut note = |part: &str, result: Result<()>| {
        if let Err(error) = result {
            println!("\nFAILED: {part}: {error:#}\n");
            failures.push(part.to_owned());
        }
    };
    for manifest in plugins::workspaces(paths) {
        let mut cargo = paths.cargo();
        cargo.args(["test", "--workspace", "--no-fail-fast", "--manifest-path"]).arg(&manifest).args(filter);
        note("plugins and SDK, natively", steps::attached("plugins and SDK, natively", &mut cargo));
    }
    if filter.is_none() {
        note("the README's commands", readme::run(paths));
    }
    let mut cargo = paths.cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]).args(filter).env("LEADWIRE_PLUGIN_EXPORTS", toolchain.exports());
    note("host and end to end", steps::attached("host and end to end", &mut cargo));
    if !failures.is_empty() {
        bail!("failed: {}", failures.join("; "));
    }
    Ok(())
}
