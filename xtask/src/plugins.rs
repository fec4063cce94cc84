//! Builds the host and the plugins, and packs each plugin (core module + manifest) with the host's own packer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::paths::Paths;
use crate::toolchain::Toolchain;
use crate::{steps, toolchain};

/// How the host is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build; for tests.
    Dev,
    /// As it is run.
    Release,
}

/// A crate that becomes a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plugin {
    name: String,
    /// The core module's file name.
    file: String,
    manifest: PathBuf,
    /// Belongs to the tests, not to the product.
    for_tests: bool,
}

/// Builds host and plugins, packs. Returns the host's binary.
pub fn build_all(paths: &Paths, toolchain: &Toolchain, profile: Profile) -> Result<PathBuf> {
    let host = build_host(paths, profile)?;
    let workspaces = workspaces(paths);
    if workspaces.is_empty() {
        bail!("no plugins/Cargo.toml in {}", paths.root.display());
    }
    let (mut own, mut tests) = (Vec::new(), Vec::new());
    for manifest in workspaces {
        let plugins = list(paths, &manifest)?;
        let mut build = toolchain.build(paths, &manifest);
        for plugin in &plugins {
            build.args(["--package", &plugin.name]);
        }
        steps::run(paths, &format!("build {} plugins", plugins.len()), &mut build)?;
        let built = toolchain.target_dir(&manifest).join(toolchain::TARGET).join("release");
        for plugin in plugins {
            let core = built.join(&plugin.file);
            if plugin.for_tests { &mut tests } else { &mut own }.push((plugin.manifest, core));
        }
    }
    pack(paths, &host, &own, &paths.channels())?;
    pack(paths, &host, &tests, &paths.test_channels())?;
    println!("==> {} plugins in {}", own.len(), crate::shown(&paths.channels()));
    Ok(host)
}

/// Builds `leadwire` and returns its path.
pub fn build_host(paths: &Paths, profile: Profile) -> Result<PathBuf> {
    let mut cargo = paths.cargo();
    cargo.arg("build");
    let (label, folder) = match profile {
        Profile::Dev => {
            // The whole workspace, because `cargo test --workspace` then finds the same dependencies built.
            cargo.args(["--workspace", "--bins"]);
            ("build the host", "debug")
        }
        Profile::Release => {
            cargo.args(["--release", "--package", "leadwire"]);
            ("build the host (release)", "release")
        }
    };
    steps::run(paths, label, &mut cargo)?;
    Ok(paths.target.join(folder).join("leadwire"))
}

/// Cargo workspaces that hold plugins.
pub fn workspaces(paths: &Paths) -> Vec<PathBuf> {
    ["plugins", "tests/plugins"].map(|dir| paths.root.join(dir).join("Cargo.toml")).into_iter().filter(|file| is_workspace(file)).collect()
}

fn is_workspace(manifest: &Path) -> bool {
    fs::read_to_string(manifest).is_ok_and(|text| text.lines().any(|line| line.trim() == "[workspace]"))
}

fn list(paths: &Paths, manifest: &Path) -> Result<Vec<Plugin>> {
    let mut cargo = paths.cargo();
    cargo.args(["metadata", "--format-version", "1", "--no-deps", "--manifest-path"]).arg(manifest);
    let metadata: Value = serde_json::from_str(&steps::output(&mut cargo)?).context("read cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    Ok(packages.iter().filter_map(|package| plugin_of(package, &paths.root.join("tests"))).collect())
}

/// A package is a plugin when it builds a `cdylib` and has a manifest beside its Cargo.toml.
fn plugin_of(package: &Value, tests: &Path) -> Option<Plugin> {
    let targets = package["targets"].as_array()?;
    let is_cdylib = |target: &&Value| target["crate_types"].as_array().is_some_and(|types| types.iter().any(|kind| kind == "cdylib"));
    let target = targets.iter().find(is_cdylib)?;
    let manifest = Path::new(package["manifest_path"].as_str()?).with_file_name("plugin.toml");
    let file = format!("{}.wasm", target["name"].as_str()?.replace('-', "_"));
    let for_tests = manifest.starts_with(tests);
    manifest.exists().then(|| Plugin { name: package["name"].as_str().unwrap_or_default().to_owned(), file, manifest, for_tests })
}

/// Packs into `folder` what differs from what is there, and removes what is no longer made.
fn pack(paths: &Paths, host: &Path, plugins: &[(PathBuf, PathBuf)], folder: &Path) -> Result<()> {
    let scratch = folder.with_extension("packing");
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    fs::create_dir_all(&scratch)?;
    for (manifest, core) in plugins {
        let mut packer = Command::new(host);
        packer.args(["channel", "pack", "--manifest"]).arg(manifest).arg("--out").arg(&scratch).arg(core).current_dir(&paths.root);
        steps::output(&mut packer).with_context(|| format!("pack {}", crate::shown(manifest)))?;
    }
    let packed = wasm_files(&scratch)?.len();
    if packed != plugins.len() {
        bail!("{} plugins became {packed} files: two of the same channel and version?", plugins.len());
    }
    fs::create_dir_all(folder)?;
    mirror(&scratch, folder)?;
    Ok(fs::remove_dir_all(&scratch)?)
}

/// Makes `to` hold the `.wasm` files of `from`; equal ones are left alone, so that a host does not load them again.
fn mirror(from: &Path, to: &Path) -> Result<()> {
    copy_changed(from, to)?;
    for old in wasm_files(to)? {
        if old.file_name().is_some_and(|name| !from.join(name).exists()) {
            fs::remove_file(old)?;
        }
    }
    Ok(())
}

/// Copies the `.wasm` files that are new or differ.
pub fn copy_changed(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for file in wasm_files(from)? {
        let Some(name) = file.file_name() else { continue };
        let bytes = fs::read(&file)?;
        let place = to.join(name);
        if fs::read(&place).is_ok_and(|have| have == bytes) {
            continue;
        }
        // By rename, so that a host that watches the folder never reads half a file.
        let partial = to.join(format!(".{}.partial", name.to_string_lossy()));
        fs::write(&partial, bytes)?;
        fs::rename(partial, place)?;
    }
    Ok(())
}

fn wasm_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|kind| kind == "wasm")).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mirror_changes_only_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(&from).unwrap();
        fs::create_dir_all(&to).unwrap();
        for (folder, name, text) in
            [(&from, "a.wasm", "1"), (&from, "b.wasm", "2"), (&to, "a.wasm", "1"), (&to, "old.wasm", "0"), (&to, "x.txt", "")]
        {
            fs::write(folder.join(name), text).unwrap();
        }
        let before = fs::metadata(to.join("a.wasm")).unwrap().modified().unwrap();
        mirror(&from, &to).unwrap();
        let mut names: Vec<_> = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["a.wasm", "b.wasm", "x.txt"]);
        assert_eq!(fs::metadata(to.join("a.wasm")).unwrap().modified().unwrap(), before);
    }

    #[test]
    fn a_plugin_is_a_cdylib_with_a_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let cargo = dir.path().join("Cargo.toml");
        let package =
            |kind: &str| json!({"name": "leadwire-x", "manifest_path": cargo, "targets": [{"name": "leadwire-x", "crate_types": [kind]}]});
        assert_eq!(plugin_of(&package("cdylib"), Path::new("/t")), None, "no plugin.toml");
        fs::write(dir.path().join("plugin.toml"), "").unwrap();
        assert_eq!(plugin_of(&package("rlib"), Path::new("/t")), None);
        let plugin = plugin_of(&package("cdylib"), dir.path()).unwrap();
        assert_eq!((plugin.file.as_str(), plugin.for_tests), ("leadwire_x.wasm", true));
    }
}
