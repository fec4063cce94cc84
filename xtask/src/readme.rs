//! Runs the README's own commands, in order, as one shell would: every block marked `sh`.
//!
//! They run in a scratch folder that shows the repository's parts, so that the developer's `./data` is left
//! alone, and on free ports. Two commands are adapted: the demo ends by itself, and the test, which this is a
//! part of, is not started again. Nothing that they left running survives.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::paths::{Paths, hide_xtask};

/// A release build from nothing is in it.
const LIMIT: Duration = Duration::from_secs(60 * 60);
/// How long what was left running has to end.
const GRACE: Duration = Duration::from_secs(15);
/// Ports that the README names: the host's and the four receivers'.
const HOST_PORT: u16 = 8080;
const RECEIVER_PORTS: [u16; 4] = [9000, 9001, 9002, 9003];

/// Runs them.
pub fn run(paths: &Paths) -> Result<()> {
    println!("==> the README's commands");
    let readme = fs::read_to_string(paths.root.join("README.md")).context("read README.md")?;
    let blocks = blocks(&readme)?;
    let ports = Ports::find()?;
    let scratch = tempfile::tempdir()?;
    for shared in ["target", "examples", "plugins", "docs"] {
        symlink(paths.root.join(shared), scratch.path().join(shared))?;
    }
    let bin = scratch.path().join("bin");
    fs::create_dir(&bin)?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let shim = bin.join("cargo");
    fs::write(&shim, shim_text(&cargo, &paths.root, &scratch.path().join("demo"), ports.demo))?;
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755))?;
    let script = scratch.path().join("readme.sh");
    fs::write(&script, format!("set -euo pipefail\nset -v\n{}", ports.adapt(&blocks.join("\n"))))?;

    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("bash");
    shell.arg(&script).current_dir(scratch.path()).stdin(Stdio::null()).process_group(0);
    shell.env("PATH", format!("{}:{path}", bin.display())).env("LEADWIRE_LISTEN", format!("127.0.0.1:{}", ports.host));
    hide_xtask(&mut shell);
    let mut child = shell.spawn().context("start bash")?;
    let status = wait(&mut child);
    end_group(child.id());
    let status = status?;
    if !status.success() {
        bail!("a command of README.md ended with {status}: the last one shown above");
    }
    println!("    the README's commands: done");
    Ok(())
}

fn wait(child: &mut Child) -> Result<ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if started.elapsed() > LIMIT {
            bail!("the README's commands are not done after {} s", LIMIT.as_secs());
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Ends what the commands left running: the shell's process group.
fn end_group(leader: u32) {
    let group = format!("-{leader}");
    let signal =
        |name: &str| Command::new("kill").args([name, "--", &group]).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    signal("-TERM");
    let asked = Instant::now();
    while signal("-0") {
        if asked.elapsed() > GRACE {
            signal("-KILL");
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// The blocks marked `sh`. Another mark that begins with `sh` is refused, so that none is left out by a slip.
fn blocks(readme: &str) -> Result<Vec<String>> {
    let mut blocks = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in readme.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(mark)) => {
                let mark = mark.trim();
                let runs = mark == "sh";
                if !runs && ["sh", "bash", "shell", "console", ""].iter().any(|kind| mark.split(' ').next() == Some(kind)) {
                    bail!("README.md: a block marked `{mark}`: commands are marked `sh`, other text by its kind (`text`, `json`, …)");
                }
                open = Some((runs, String::new()));
            }
            (Some((runs, text)), Some(_)) => {
                if *runs {
                    blocks.push(std::mem::take(text));
                }
                open = None;
            }
            (Some((_, text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    if open.is_some() {
        bail!("README.md: a block is not closed");
    }
    if blocks.is_empty() {
        bail!("README.md holds no commands");
    }
    Ok(blocks)
}

/// Stands in for `cargo` in the scratch folder.
fn shim_text(cargo: &str, root: &Path, data: &Path, port: u16) -> String {
    format!(
        r#"#!/bin/sh
cd '{root}'
unset LEADWIRE_LISTEN
case "$1 ${{2-}}" in
  "xtask demo") case " $* " in *" --once "*) ;; *) set -- "$@" --once ;; esac; exec '{cargo}' "$@" --data '{data}' --port {port} ;;
  "xtask test") echo "(this is what is running)"; exit 0 ;;
esac
exec '{cargo}' "$@"
"#,
        root = root.display(),
        data = data.display(),
    )
}

/// Free ports in place of the README's.
struct Ports {
    host: u16,
    demo: u16,
    receivers: u16,
}

impl Ports {
    fn find() -> Result<Self> {
        let (host, demo) = (TcpListener::bind(("127.0.0.1", 0))?, TcpListener::bind(("127.0.0.1", 0))?);
        let row = |first: u16| (0..4).map(|step| TcpListener::bind(("127.0.0.1", first + step))).collect::<std::io::Result<Vec<_>>>();
        let receivers = (20_000..30_000).step_by(4).find(|first| row(*first).is_ok()).context("no four free ports in a row")?;
        Ok(Self { host: host.local_addr()?.port(), demo: demo.local_addr()?.port(), receivers })
    }

    fn adapt(&self, script: &str) -> String {
        let mut script = script.replace(&HOST_PORT.to_string(), &self.host.to_string());
        for (named, free) in RECEIVER_PORTS.iter().zip(self.receivers..) {
            script = script.replace(&named.to_string(), &free.to_string());
        }
        script
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_marked_sh_run() {
        let readme = "x\n```sh\ncargo xtask demo\n```\n```text\nlead …\n```\n```sh\na\nb\n```\n";
        assert_eq!(blocks(readme).unwrap(), ["cargo xtask demo\n", "a\nb\n"]);
    }

    #[test]
    fn a_block_cannot_be_left_out_by_a_slip() {
        for readme in ["```bash\nx\n```", "```sh no-run\nx\n```", "```\nx\n```", "```sh\nx\n", "no commands"] {
            assert!(blocks(readme).is_err(), "{readme}");
        }
    }

    #[test]
    fn the_readme_shows_the_two_commands_first() {
        let blocks = blocks(include_str!("../../README.md")).unwrap();
        assert_eq!(blocks[..2], ["cargo xtask demo\n", "cargo xtask test\n"]);
    }

    #[test]
    fn ports_are_replaced_everywhere() {
        let ports = Ports { host: 1, demo: 2, receivers: 30 };
        assert_eq!(ports.adapt("curl 127.0.0.1:8080 127.0.0.1:9003 --port 9000"), "curl 127.0.0.1:1 127.0.0.1:33 --port 30");
    }

    #[test]
    fn the_stand_in_for_cargo_ends_the_demo_and_skips_the_test() {
        let dir = tempfile::tempdir().unwrap();
        let shim = dir.path().join("cargo.sh");
        fs::write(&shim, shim_text("/bin/echo", Path::new("/"), Path::new("/d"), 7)).unwrap();
        let said = |args: &[&str]| crate::steps::output(Command::new("sh").arg(&shim).args(args)).unwrap();
        assert_eq!(said(&["xtask", "demo"]), "xtask demo --once --data /d --port 7");
        assert_eq!(said(&["xtask", "demo", "--once"]), "xtask demo --once --data /d --port 7");
        assert_eq!(said(&["xtask", "test"]), "(this is what is running)");
        assert_eq!(said(&["build"]), "build");
    }
}
