//! Developer commands, each of which does its own set-up: `cargo xtask demo`, `cargo xtask test` and their parts.
//! No part of the product. Start at the command's module.
#![allow(clippy::print_stdout, reason = "talking to the developer is what these commands are for")]

mod ci;
mod demo;
mod paths;
mod plugins;
mod process;
mod readme;
mod setup;
mod steps;
mod test;
mod toolchain;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use paths::Paths;
use plugins::Profile;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer commands of Leadwire")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything, start the host and three receivers, and watch leads arrive
    Demo(demo::Options),
    /// Build the plugins and run every test, the README's commands included
    Test {
        /// Run only tests whose name contains this (and leave the README out)
        filter: Option<String>,
    },
    /// Build and pack the plugins into target/channels
    Plugins {
        /// Pack with a development build of the host instead of a release build
        #[arg(long)]
        dev: bool,
    },
    /// Make sure that plugins can be compiled, and say how
    Toolchain {
        /// Write what a shell must know to use it, for plugins outside this repository
        #[arg(long, value_name = "FILE")]
        exports: Option<PathBuf>,
    },
    /// Install what the tests need beside Rust
    Setup,
    /// Build the host as it is run and measure it; `--quick` takes a minute, `--json FILE` writes the figures; `bench lists`
    /// measures lists and searches over a million leads, `bench retry` live leads beside a retry of 100,000 failed deliveries
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run the receivers of the demo alone, until Ctrl-C
    Fakes {
        /// Port of the webhook receiver; the chat, the mailbox and the pages take the next three
        #[arg(long, default_value_t = 9000)]
        port: u16,
    },
    /// Formatting, lints and the dependency check
    Ci,
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let paths = Paths::find()?;
    match command {
        Command::Demo(options) => block_on(demo::run(&paths, options)),
        Command::Test { filter } => test::run(&paths, filter.as_deref()),
        Command::Plugins { dev } => {
            let profile = if dev { Profile::Dev } else { Profile::Release };
            plugins::build_all(&paths, &toolchain::ensure(&paths)?, profile).map(drop)
        }
        Command::Toolchain { exports } => toolchain(&paths, exports.as_deref()),
        Command::Setup => setup::run(&paths),
        Command::Bench { args } => bench(&paths, &args),
        Command::Fakes { port } => block_on(demo::fakes(port)),
        Command::Ci => ci::run(&paths),
    }
}

fn toolchain(paths: &Paths, exports: Option<&Path>) -> Result<()> {
    let found = toolchain::ensure(paths)?;
    let Some(file) = exports else { return Ok(()) };
    std::fs::write(file, found.exports()).with_context(|| format!("write {}", file.display()))
}

fn bench(paths: &Paths, args: &[String]) -> Result<()> {
    let own = args.first().map(String::as_str).filter(|first| ["lists", "retry"].contains(first));
    if own != Some("lists") {
        plugins::build_all(paths, &toolchain::ensure(paths)?, Profile::Release)?;
    }
    let mut build = paths.cargo();
    build.args(["build", "--release", "--package", "leadwire-bench", "--bins"]);
    steps::run(paths, "build the benchmark", &mut build)?;
    if let Some(own) = own {
        let program = paths.target.join(format!("release/leadwire-bench-{own}"));
        return steps::attached("benchmark", std::process::Command::new(program).args(&args[1..]));
    }
    // It finds the host and the program for plugin calls beside itself.
    steps::attached("benchmark", std::process::Command::new(paths.target.join("release/leadwire-bench")).args(args))
}

fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("start the runtime")?.block_on(work)
}

/// `path` as it is best shown: relative to where the command was started.
fn shown(path: &std::path::Path) -> String {
    let here: PathBuf = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}
