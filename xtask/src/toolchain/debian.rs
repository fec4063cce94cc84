//! Debian's `rustc-web` with its library source: installed by root, or unpacked beside the repository.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{DOWNLOAD_LIMIT, Toolchain, linker_dir};
use crate::paths::Paths;
use crate::steps;

/// The compiler and the source of its library: of one version, or nothing works.
const PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];

/// The compiler that root's `apt-get install` puts into /usr.
pub(super) fn installed(paths: &Paths) -> Result<Toolchain> {
    let linker_dir = linker_dir()?;
    let rustc = PathBuf::from("/usr/bin/rustc");
    if !is_complete(&rustc) {
        if steps::output(Command::new("id").arg("-u"))? != "0" {
            bail!("{} are not installed, and only root can install them", PACKAGES.join(" and "));
        }
        install(paths)?;
    }
    if !is_complete(&rustc) {
        bail!("{} has no library source although {} are installed", rustc.display(), PACKAGES.join(" and "));
    }
    Ok(Toolchain::Source { rustc, linker_dir })
}

fn install(paths: &Paths) -> Result<()> {
    let apt = Apt::system();
    let update = steps::run_within(paths, "apt-get update", apt.command("apt-get").arg("update"), DOWNLOAD_LIMIT);
    if let Err(error) = update {
        println!("    going on with the package lists that are there: {error:#}");
    }
    apt.candidate()?;
    let mut install = apt.command("apt-get");
    // Never at the price of another compiler that somebody installed on purpose.
    install.args(["install", "-y", "--no-install-recommends", "--no-remove"]).args(PACKAGES);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    steps::run(paths, "apt-get install rustc-web", &mut install)
}

/// The same packages, unpacked into a folder that git ignores. Needs no root.
pub(super) fn local(paths: &Paths) -> Result<Toolchain> {
    let linker_dir = linker_dir()?;
    let home = paths.local_toolchains();
    // The system's package lists may be missing or so old that what they name is gone: then own ones are fetched.
    let rustc = unpacked(paths, &Apt::system(), &home).or_else(|error| {
        println!("    going on with own package lists: {error:#}");
        let apt = Apt::private(&home)?;
        steps::run_within(paths, "apt-get update (own lists)", apt.command("apt-get").arg("update"), DOWNLOAD_LIMIT)?;
        unpacked(paths, &apt, &home)
    })?;
    if !is_complete(&rustc) {
        let why = steps::output(rustc_command(&rustc).arg("-vV")).err().map(|error| format!(": {error:#}"));
        bail!("{} does not work{}", rustc.display(), why.unwrap_or_default());
    }
    Ok(Toolchain::Source { rustc, linker_dir })
}

/// The wrapper of the newest version, which is fetched unless it is there.
fn unpacked(paths: &Paths, apt: &Apt, home: &Path) -> Result<PathBuf> {
    let version = apt.candidate()?;
    let folder: String = version.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' }).collect();
    let folder = home.join(format!("rustc-web-{folder}"));
    let rustc = folder.join("rustc");
    if !is_complete(&rustc) {
        unpack(paths, apt, home, &folder)?;
    }
    Ok(rustc)
}

fn unpack(paths: &Paths, apt: &Apt, home: &Path, folder: &Path) -> Result<()> {
    let scratch = home.join("unpacking");
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    let debs = scratch.join("debs");
    fs::create_dir_all(&debs)?;
    let packages = apt.needed()?;
    let mut download = apt.command("apt-get");
    download.arg("download").args(&packages).current_dir(&debs);
    steps::run_within(paths, &format!("download {} Debian packages", packages.len()), &mut download, DOWNLOAD_LIMIT * 4)?;
    let script = "for deb in debs/*.deb; do dpkg -x \"$deb\" . || exit 1; done; rm -r debs";
    steps::run(paths, "unpack rustc-web", Command::new("sh").args(["-c", script]).current_dir(&scratch))?;
    let wrapper = scratch.join("rustc");
    fs::write(&wrapper, WRAPPER)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    // Whole or not there: an interrupted unpacking leaves only the scratch folder.
    fs::rename(&scratch, folder).with_context(|| format!("rename to {}", folder.display()))
}

/// Finds its own place, so that the repository can be moved.
const WRAPPER: &str = r#"#!/bin/sh
D=$(dirname "$(readlink -f "$0")")
LD_LIBRARY_PATH=$(echo "$D"/usr/lib/*-linux-gnu):$D/usr/lib exec "$D/usr/bin/rustc" "$@"
"#;

fn rustc_command(rustc: &Path) -> Command {
    let mut command = Command::new(rustc);
    command.env_remove("LD_LIBRARY_PATH");
    command
}

/// Whether the compiler starts and has the source of its library.
fn is_complete(rustc: &Path) -> bool {
    let sysroot = steps::output(rustc_command(rustc).args(["--print", "sysroot"]));
    sysroot.is_ok_and(|sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library/std/Cargo.toml").exists())
}

/// apt with the system's package lists or with own ones, which need no root.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn system() -> Self {
        Self { options: Vec::new() }
    }

    fn private(home: &Path) -> Result<Self> {
        let (lists, cache) = (home.join("apt/lists"), home.join("apt/cache"));
        fs::create_dir_all(lists.join("partial"))?;
        fs::create_dir_all(cache.join("archives/partial"))?;
        let option = |name: &str, dir: &Path| [String::from("-o"), format!("{name}={}", dir.display())];
        Ok(Self { options: [option("Dir::State::Lists", &lists), option("Dir::Cache", &cache)].concat() })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options).env("LC_ALL", "C");
        command
    }

    /// The version of `rustc-web` that would be installed, if it is new enough.
    fn candidate(&self) -> Result<String> {
        let policy = steps::output(self.command("apt-cache").args(["policy", PACKAGES[0]]))?;
        let version = candidate_of(&policy).with_context(|| format!("no package {} in apt's lists", PACKAGES[0]))?;
        let needed = env!("CARGO_PKG_RUST_VERSION");
        if number(&version) < number(needed) {
            bail!("Debian has rustc-web {version}, plugins need {needed}: enable the archive bookworm-security");
        }
        Ok(version)
    }

    /// The packages to unpack: the compiler's own, and those that the system lacks.
    fn needed(&self) -> Result<Vec<String>> {
        let mut depends = self.command("apt-cache");
        depends.args(["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks"]);
        depends.args(["--no-replaces", "--no-enhances", "--no-pre-depends"]).args(PACKAGES);
        let tree = steps::output(&mut depends)?;
        let simulated = steps::output(self.command("apt-get").args(["install", "-s", "--no-install-recommends"]).args(PACKAGES));
        Ok(needed_of(&tree, &simulated.unwrap_or_default()))
    }
}

/// Reads `apt-cache policy`.
fn candidate_of(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// 1.96.0+dfsg1-1 as (1, 96).
fn number(version: &str) -> (u32, u32) {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// From the tree of dependencies take what belongs to the compiler (it may be installed and still be wanted
/// here), from the simulated installation what the system lacks.
fn needed_of(tree: &str, simulated: &str) -> Vec<String> {
    let own = tree.lines().filter(|line| !line.starts_with(' ')).map(str::trim);
    let own = own.filter(|name| name.contains("rust-web") || name.contains("rustc-web") || name.starts_with("libllvm"));
    let lacking = simulated.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
    let mut all: Vec<String> = own.chain(lacking).map(str::to_owned).collect();
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared_as_numbers() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n";
        assert_eq!(candidate_of(policy).as_deref(), Some("1.96.0+dfsg1-1~deb12u2"));
        assert_eq!(candidate_of("rustc-web:\n  Candidate: (none)\n"), None);
        assert!(number("1.100.0") > number("1.96.0+dfsg1-1~deb12u2") && number("1.85.0+dfsg3") < number("1.95"));
    }

    #[test]
    fn own_packages_and_lacking_ones_are_unpacked() {
        let tree = "rustc-web\n  Depends: libc6\nlibc6\nlibstd-rust-web-1.97\nlibllvm23\nlibstd-rust-web-dev\nrust-web-src\n";
        let simulated = "Inst libz3-4 (4.8 Debian)\nInst rustc-web (1.97 Debian)\nConf libz3-4 (4.8 Debian)\n";
        let expected = ["libllvm23", "libstd-rust-web-1.97", "libstd-rust-web-dev", "libz3-4", "rust-web-src", "rustc-web"];
        assert_eq!(needed_of(tree, simulated), expected);
    }
}
