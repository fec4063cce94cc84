//! `cargo xtask bench`: measures a release build of the host and prints the figures beside those of a peer.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "talking to the developer is what this program is for")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use leadwire_bench::hardware::Hardware;
use leadwire_bench::host::Setup;
use leadwire_bench::measures::Bench;
use leadwire_bench::report::Report;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The whole thing never takes longer, whatever hangs.
const LIMIT: Duration = Duration::from_secs(15 * 60);

#[derive(Parser)]
#[command(name = "leadwire-bench", about = "Measures a built host; see bench/README.md")]
struct Args {
    /// Short runs: about a minute instead of five
    #[arg(long)]
    quick: bool,
    /// Write the report as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only measures whose name contains this: intake, deliveries, latency, memory, start-up, calls
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// The host's binary; the one beside this program if not given
    #[arg(long, value_name = "FILE")]
    host: Option<PathBuf>,
    /// The folder of packed plugins
    #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/channels"))]
    channels: PathBuf,
    /// Data folders are made (and removed) in here; it should be on the kind of disk you ask about
    #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench"))]
    scratch: PathBuf,
}

fn main() -> ExitCode {
    let done = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime").and_then(|runtime| {
        runtime.block_on(async {
            // Ending early drops the measures, and with them the host they run.
            tokio::select! {
                done = run(Args::parse()) => done,
                () = interrupted() => bail!("interrupted"),
                () = tokio::time::sleep(LIMIT) => bail!("not done after {} s", LIMIT.as_secs()),
            }
        })
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<()> {
    raise_file_limit()?;
    std::fs::create_dir_all(&args.scratch).with_context(|| format!("make {}", args.scratch.display()))?;
    let binary = match args.host {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("leadwire"),
    };
    for needed in [&binary, &args.channels] {
        if !needed.exists() {
            bail!("{} is missing; `cargo xtask bench` builds everything first", needed.display());
        }
    }
    let hardware = Hardware::read(&args.scratch)?;
    println!("{}", hardware.line());
    let setup = Setup { binary: binary.clone(), channels: args.channels.canonicalize()?, scratch: args.scratch.canonicalize()? };
    let tell = |step: &str| println!("==> {step}");
    let mut bench = Bench { setup, quick: args.quick, only: args.only, rows: Vec::new(), problems: Vec::new(), tell };
    bench.run().await;
    let Bench { rows, problems, .. } = bench;
    let report = Report { hardware, host: version(&binary), quick: args.quick, rows, problems };
    println!("\n{}", report.table());
    if let Some(path) = args.json {
        std::fs::write(&path, format!("{:#}\n", report.json())).with_context(|| format!("write {}", path.display()))?;
    }
    if !report.problems.is_empty() {
        bail!("{} problems, see above", report.problems.len());
    }
    Ok(())
}

fn version(binary: &Path) -> String {
    let output = std::process::Command::new(binary).arg("--version").output();
    let version = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    format!("{version} ({})", binary.display())
}

/// A thousand calls in flight are a thousand connections, here and in the host, which inherits this.
fn raise_file_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).context("raise the limit of open files")
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
}
