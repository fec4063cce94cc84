//! What one plugin call costs, in this process: a fresh instance of the webhook plugin, a batch, and a native twin that
//! does the same work without a sandbox. Prints rows as JSON; `leadwire-bench` runs it.
//!
//! All of it works through the host's own egress to a sink on the loopback interface. Figures are CPU time of the one
//! thread that makes the calls; the sink has another.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is what it is for")]

#[path = "calls/twin.rs"]
mod twin;
#[path = "calls/world.rs"]
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use leadwire_bench::report::Row;
use serde_json::Value;

use world::{BATCH, WEBHOOK, World};

/// Leads of one call of the batch plugin.
const LEADS: usize = 50;
const WARM_UP: usize = 50;

#[derive(Parser)]
struct Args {
    /// Short runs
    #[arg(long)]
    quick: bool,
    /// The folder of packed plugins; the tests' plugins lie beside it
    #[arg(long)]
    channels: PathBuf,
    /// For compiled plugins
    #[arg(long)]
    scratch: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime");
    match runtime.and_then(|runtime| runtime.block_on(run(&args))) {
        Ok(rows) => {
            println!("{rows}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Time of one call.
#[derive(Clone, Copy)]
struct Cost {
    cpu_us: f64,
    wall_us: f64,
}

async fn run(args: &Args) -> Result<String> {
    let world = World::open(&args.channels, &args.scratch).await?;
    let time = Duration::from_millis(if args.quick { 600 } else { 3_000 });
    same_bodies(&world).await?;

    let empty = measure(time, async || world.dry_check().await).await?;
    let fresh = measure(time, async || world.deliver(WEBHOOK, 1).await).await?;
    let native = measure(time, async || twin::webhook(&world).await).await?;
    let batch = measure(time, async || world.deliver(BATCH, LEADS).await).await?;
    let native_batch = measure(time, async || twin::batch(&world, LEADS).await).await?;
    let single = measure(time, async || world.deliver(BATCH, 1).await).await?;
    let rights = measure(time, async || world.rights()).await?;

    let row = |id: &str, name: &str, cost: Cost, what: &str| {
        let method = format!("CPU of the calling thread; {:.0} µs of wall time; {what}", cost.wall_us);
        Row::new(format!("call_{id}"), format!("call: {name}"), cost.cpu_us, "µs", method)
    };
    let ratio = |id: &str, name: &str, a: Cost, b: Cost| {
        Row::new(format!("call_{id}"), format!("call: {name}"), a.cpu_us / b.cpu_us, "×", "CPU time")
    };
    let per_lead = |cost: Cost| Cost { cpu_us: cost.cpu_us / LEADS as f64, wall_us: cost.wall_us / LEADS as f64 };
    let rows = [
        row("empty", "fresh instance, no request", empty, "webhook `check` of a dry run"),
        row("fresh", "fresh instance, one lead", fresh, "webhook: JSON, signature, one request over a kept connection"),
        row("native", "native twin, one lead", native, "the same body, signature and request without a sandbox"),
        ratio("fresh_ratio", "fresh instance ÷ native twin", fresh, native),
        row("batch", "fresh instance, batch of 50", batch, "one request with 50 leads"),
        row("batch_lead", "the same, per lead", per_lead(batch), "a 50th of it"),
        row("batch_single", "the same plugin, one lead", single, "one request with one lead"),
        row("native_batch", "native twin, batch of 50", native_batch, "the same body and request without a sandbox"),
        ratio("batch_ratio", "batch of 50 ÷ native twin", batch, native_batch),
        row("rights", "rights made anew", rights, "egress and auth rules and the secret masker of one credential"),
    ];
    Ok(serde_json::to_string(&rows)?)
}

/// Repeats a call for `time`.
async fn measure(time: Duration, call: impl AsyncFn() -> Result<()>) -> Result<Cost> {
    for _ in 0..WARM_UP {
        call().await?;
    }
    let (began, cpu) = (Instant::now(), cpu_ns()?);
    let mut calls = 0.0;
    while began.elapsed() < time {
        call().await?;
        calls += 1.0;
    }
    let wall_us = began.elapsed().as_secs_f64() * 1e6 / calls;
    Ok(Cost { cpu_us: (cpu_ns()? - cpu) as f64 / 1e3 / calls, wall_us })
}

/// CPU time of this thread.
fn cpu_ns() -> Result<u64> {
    let text = std::fs::read_to_string(Path::new("/proc/thread-self/schedstat"))?;
    text.split(' ').next().and_then(|first| first.parse().ok()).context("read this thread's CPU time")
}

/// A twin that sends something else would measure something else.
async fn same_bodies(world: &World) -> Result<()> {
    for (name, plugin, native) in [
        ("webhook", world.sent(world.deliver(WEBHOOK, 1)).await?, world.sent(twin::webhook(world)).await?),
        ("batch", world.sent(world.deliver(BATCH, LEADS)).await?, world.sent(twin::batch(world, LEADS)).await?),
    ] {
        let (plugin, native): (Value, Value) = (serde_json::from_slice(&plugin)?, serde_json::from_slice(&native)?);
        if plugin != native {
            bail!("the native twin of {name} sends another body:\n{plugin}\n{native}");
        }
    }
    Ok(())
}
