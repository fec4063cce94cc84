//! Finds or gets a compiler for plugins (`wasm32-unknown-unknown`): rustup's target, or else Debian's `rustc-web`.
//! Every way that fails says why; the last error names them all. Start at [`ensure`].

mod debian;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::paths::Paths;
use crate::steps;

/// What plugins are compiled for.
pub const TARGET: &str = "wasm32-unknown-unknown";
/// Has cargo build the standard library, which is not a stable feature of it.
const BUILD_STD: [(&str, &str); 2] = [("RUSTC_BOOTSTRAP", "1"), ("CARGO_UNSTABLE_BUILD_STD", "std,panic_abort")];
/// What plugins that import WASI are compiled for.
const WASI_TARGET: &str = "wasm32-wasip2";
/// Forces one way: `rustup`, `debian` or `debian-local`.
const SWITCH: &str = "LEADWIRE_WASM_TOOLCHAIN";
/// Longer than any download takes that will succeed.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(180);

/// A compiler that can build plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// The rustup toolchain that runs this command has the target.
    Rustup,
    /// A compiler with its library source; the standard library is built with the plugins.
    Source {
        /// The compiler or a wrapper around it.
        rustc: PathBuf,
        /// Where the rustup toolchain keeps `rust-lld`.
        linker_dir: PathBuf,
    },
}

impl Toolchain {
    /// A `cargo build` for plugins of this workspace.
    pub fn build(&self, paths: &Paths, manifest: &Path) -> Command {
        let mut cargo = paths.cargo();
        cargo.args(["build", "--release", "--target", TARGET, "--manifest-path"]).arg(manifest);
        cargo.arg("--target-dir").arg(self.target_dir(manifest));
        if let Self::Source { rustc, linker_dir } = self {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let dirs = std::env::split_paths(&path).chain([linker_dir.clone()]);
            if let Ok(joined) = std::env::join_paths(dirs) {
                cargo.env("PATH", joined);
            }
            cargo.envs(BUILD_STD).env("RUSTC", rustc);
            // `cargo run` points this at rustup's libraries, which are of another compiler.
            cargo.env_remove("LD_LIBRARY_PATH");
        }
        cargo
    }

    /// What a shell must know for its `cargo` to use this compiler for plugins, and only for them: nothing when it does so
    /// anyway.
    pub fn exports(&self) -> String {
        let Self::Source { rustc, linker_dir } = self else { return String::new() };
        let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
        let build_std = BUILD_STD.map(|(name, value)| format!("{name}={value}")).join(" ");
        format!(
            "cargo() {{\n  case \" $* \" in\n    *' {TARGET} '*) env -u LD_LIBRARY_PATH PATH=\"$PATH\":{} RUSTC={} {build_std} cargo \"$@\" ;;\n    \
             *) command cargo \"$@\" ;;\n  esac\n}}\n",
            quoted(linker_dir),
            quoted(rustc),
        )
    }

    /// Two compilers never share a folder: each would throw the other's work away.
    pub fn target_dir(&self, manifest: &Path) -> PathBuf {
        let target = manifest.with_file_name("target");
        match self {
            Self::Rustup => target,
            Self::Source { .. } => target.join("rustc-web"),
        }
    }
}

/// One way to a compiler, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Rustup,
    Debian,
    DebianLocal,
}

impl Way {
    const ALL: [Self; 3] = [Self::Rustup, Self::Debian, Self::DebianLocal];

    fn name(self) -> &'static str {
        match self {
            Self::Rustup => "rustup",
            Self::Debian => "debian",
            Self::DebianLocal => "debian-local",
        }
    }

    fn mend(self) -> &'static str {
        match self {
            Self::Rustup => "run `rustup target add wasm32-unknown-unknown` where its server can be reached",
            Self::Debian => "as root: `apt-get update && apt-get install --no-install-recommends rustc-web rust-web-src`",
            Self::DebianLocal => {
                "check that apt's sources hold Debian's security archive, that it can be reached, and that 1.5 GB of disk are free"
            }
        }
    }

    fn take(self, paths: &Paths) -> Result<Toolchain> {
        match self {
            Self::Rustup => rustup(paths),
            Self::Debian => debian::installed(paths),
            Self::DebianLocal => debian::local(paths),
        }
    }
}

/// Finds a compiler for plugins, gets one if there is none, and says which it is.
pub fn ensure(paths: &Paths) -> Result<Toolchain> {
    let forced = std::env::var(SWITCH).ok().filter(|value| !value.is_empty());
    let ways = choose(forced.as_deref())?;
    let mut failures = Vec::new();
    for way in &ways {
        match way.take(paths) {
            Ok(toolchain) => {
                println!("==> wasm toolchain: {} ({})", way.name(), describe(&toolchain));
                return Ok(toolchain);
            }
            Err(error) => {
                println!("    wasm toolchain: not by {}: {error:#}", way.name());
                failures.push(format!("  {}: {error:#}\n    to mend: {}", way.name(), way.mend()));
            }
        }
    }
    bail!("no compiler for plugins ({TARGET}); tried\n{}", failures.join("\n"));
}

fn choose(forced: Option<&str>) -> Result<Vec<Way>> {
    let Some(name) = forced else { return Ok(Way::ALL.to_vec()) };
    match Way::ALL.into_iter().find(|way| way.name() == name) {
        Some(way) => Ok(vec![way]),
        None => bail!("{SWITCH}={name}: allowed are rustup, debian and debian-local"),
    }
}

fn describe(toolchain: &Toolchain) -> String {
    let mut rustc = match toolchain {
        Toolchain::Rustup => Command::new("rustc"),
        Toolchain::Source { rustc, .. } => Command::new(rustc),
    };
    if matches!(toolchain, Toolchain::Source { .. }) {
        rustc.env_remove("LD_LIBRARY_PATH");
    }
    steps::output(rustc.arg("--version")).unwrap_or_else(|error| error.to_string())
}

/// Gets the target of plugins that import WASI, for the test of them. Only rustup has it: elsewhere that test says that it did
/// not run.
pub fn ensure_wasi(paths: &Paths, toolchain: &Toolchain) {
    let added = match toolchain {
        Toolchain::Rustup => add_target(paths, WASI_TARGET),
        Toolchain::Source { .. } => Err(anyhow::anyhow!("this compiler cannot build for it; install rustup's {WASI_TARGET}")),
    };
    if let Err(error) = added {
        println!("\nSKIPPED: the test of a plugin built for {WASI_TARGET}: {error:#}\n");
    }
}

fn rustup(paths: &Paths) -> Result<Toolchain> {
    add_target(paths, TARGET)?;
    Ok(Toolchain::Rustup)
}

fn add_target(paths: &Paths, target: &str) -> Result<()> {
    if has_target(target)? {
        return Ok(());
    }
    let mut add = Command::new("rustup");
    add.args(["target", "add", target]).current_dir(&paths.root);
    steps::run_within(paths, &format!("rustup target add {target}"), &mut add, DOWNLOAD_LIMIT)?;
    if !has_target(target)? {
        bail!("rustup added the target, but the compiler in use is not rustup's");
    }
    Ok(())
}

fn has_target(target: &str) -> Result<bool> {
    let dir = steps::output(Command::new("rustc").args(["--print", "target-libdir", "--target", target]))?;
    let Ok(files) = std::fs::read_dir(dir) else { return Ok(false) };
    Ok(files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libcore-")))
}

/// Where the toolchain in use keeps `rust-lld`, which other compilers borrow.
fn linker_dir() -> Result<PathBuf> {
    let sysroot = steps::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let about = steps::output(Command::new("rustc").arg("-vV"))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    let dir = PathBuf::from(sysroot).join("lib/rustlib").join(host).join("bin");
    if !dir.join("rust-lld").exists() {
        bail!("no rust-lld in {}: this needs a toolchain that rustup installed", dir.display());
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_are_tried_in_order_unless_one_is_forced() {
        assert_eq!(choose(None).unwrap(), [Way::Rustup, Way::Debian, Way::DebianLocal]);
        assert_eq!(choose(Some("debian-local")).unwrap(), [Way::DebianLocal]);
        assert!(choose(Some("fedora")).unwrap_err().to_string().contains("allowed are"));
    }

    #[test]
    fn a_shell_is_told_of_another_compiler_only() {
        assert_eq!(Toolchain::Rustup.exports(), "");
        let source = Toolchain::Source { rustc: "/o'brien/rustc".into(), linker_dir: "/l".into() };
        let folder = tempfile::tempdir().unwrap();
        let cargo = folder.path().join("cargo");
        std::fs::write(&cargo, "#!/bin/sh\nprintf '%s %s %s;' \"$1\" \"${RUSTC-}\" \"${PATH##*:}\"\n").unwrap();
        std::fs::set_permissions(&cargo, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let script = format!("{}cargo build --target {TARGET} --release; cargo test", source.exports());
        let path = format!("{}:/usr/bin:/bin", folder.path().display());
        let said = steps::output(Command::new("sh").args(["-c", &script]).env("PATH", path).env_remove("RUSTC")).unwrap();
        assert_eq!(said, "build /o'brien/rustc /l;test  /bin;");
    }

    #[test]
    fn compilers_do_not_share_a_target_folder() {
        let manifest = Path::new("/r/plugins/Cargo.toml");
        let source = Toolchain::Source { rustc: "/usr/bin/rustc".into(), linker_dir: "/l".into() };
        assert_ne!(Toolchain::Rustup.target_dir(manifest), source.target_dir(manifest));
    }
}
