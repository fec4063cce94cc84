//! What live leads notice of a task that tries 100,000 failed deliveries again: `cargo xtask bench retry`.
//!
//! The failed ones are stored by this process, then a host is started over them. It gets live leads at an even rate, first
//! alone, then beside the task. Both go to the same credential: their ways part in its lane and nowhere else.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is what it is for")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use leadwire::clock::{Clock, SystemClock};
use leadwire::model::{
    BatchId, BatchOptions, CredentialId, DeliveryId, DeliveryStatus, Lead, LeadId, LeadStatus, Origin, ProjectId, Timestamp,
};
use leadwire::store::sqlite::{SqliteStore, StoreOptions};
use leadwire::store::{Finish, Intake, IntakeExtras, LaneQuota, NewDelivery, Next, Store};
use leadwire_bench::driver;
use leadwire_bench::epoch::Epoch;
use leadwire_bench::host::{Host, Setup};
use leadwire_bench::percentile::Samples;
use leadwire_bench::sink::Sink;

/// Leads that are stored together.
const TOGETHER: u64 = 256;
/// Numbers of stored leads begin here, those of live ones far below.
const STORED: u64 = 1_000_000_000;
/// Longest wait for what should arrive at once.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Parser)]
#[command(name = "leadwire-bench-retry", about = "Measures live leads beside a retry of many failed deliveries; see bench/README.md")]
struct Args {
    /// Deliveries that have failed
    #[arg(long, default_value_t = 100_000)]
    failed: u64,
    /// Live leads a second
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Deliveries a second that the task tries again: as many as when nothing is said, 1,000 at most
    #[arg(long, default_value_t = 100)]
    retry_rate: u32,
    /// How long live leads are measured without the task, and beside it
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    seconds: u64,
    /// Fail when the p99 beside the task is above so many times the one without
    #[arg(long, default_value_t = 1.25)]
    most: f64,
    /// Wait until the task has passed all rows, and count what arrived
    #[arg(long)]
    to_the_end: bool,
    /// The host's binary; the one beside this program if not given
    #[arg(long, value_name = "FILE")]
    host: Option<PathBuf>,
    /// The folder of packed plugins
    #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/channels"))]
    channels: PathBuf,
    /// The data folder is made (and removed) in here
    #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench"))]
    scratch: PathBuf,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime");
    match runtime.and_then(|runtime| runtime.block_on(run(&Args::parse()))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<bool> {
    std::fs::create_dir_all(&args.scratch).context("make the scratch folder")?;
    let binary = match &args.host {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("leadwire"),
    };
    let setup = Setup { binary, channels: args.channels.canonicalize()?, scratch: args.scratch.canonicalize()? };
    let (folder, epoch) = (setup.folder()?, Epoch::begin());
    let sink = Sink::start(epoch)?;
    let mut host = setup.start(&folder, &[]).await?;
    let project = host.project().await?;
    let credential = host.webhook(&sink.url(0)).await?;
    host.stop().await?;
    let begun = Instant::now();
    seed(folder.path().join("leadwire.db"), project.parse()?, credential.parse()?, args.failed).await?;
    println!("{} failed deliveries stored in {:.0} s", args.failed, begun.elapsed().as_secs_f64());

    let mut host = setup.start(&folder, &[]).await?;
    let live = Live { epoch, rate: args.rate, seconds: Duration::from_secs(args.seconds) };
    live.run(&host, &sink, 0, Duration::from_secs(3)).await?; // opens connections, fills caches
    let (alone, _) = live.run(&host, &sink, 100_000, live.seconds).await?;
    let task = host.retry_failed(args.retry_rate).await?;
    let (beside, retried) = live.run(&host, &sink, 200_000, live.seconds).await?;
    let (passed, ended) = host.task(&task).await?;
    println!("the task passed {passed} rows meanwhile{}; {retried} of them arrived", if ended { " and ended" } else { "" });
    let mut fine =
        report("answer", &alone.answer, &beside.answer, args.most) & report("arrival", &alone.arrival, &beside.arrival, args.most);
    let whole = if args.to_the_end { to_the_end(&mut host, &task, args.failed, args.retry_rate).await? } else { false };
    host.stop().await?;
    let tally = sink.tally();
    let (arrivals, distinct) = (tally.arrivals, tally.distinct);
    println!("{arrivals} arrivals of {distinct} deliveries since the task began");
    fine &= arrivals == distinct && !ended_early(ended, args);
    if whole && distinct != args.failed + beside.sent {
        println!("{} deliveries never arrived", (args.failed + beside.sent).saturating_sub(distinct));
        fine = false;
    }
    Ok(fine)
}

/// A figure taken beside a task that had nothing left to do would be about something else.
fn ended_early(ended: bool, args: &Args) -> bool {
    if ended {
        println!("the task ended before the measure did: store more than {} or retry more slowly", args.failed);
    }
    ended
}

async fn to_the_end(host: &mut Host, task: &str, failed: u64, rate: u32) -> Result<bool> {
    let most = PATIENCE + Duration::from_secs(2 * failed / u64::from(rate.max(1)));
    let begun = Instant::now();
    while !host.task(task).await?.1 {
        if begun.elapsed() > most {
            bail!("the task has not ended after {} s", most.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let left = host.settled(most).await?;
    if !left.is_empty() {
        bail!("some deliveries ended up {}", left.join(", "));
    }
    Ok(true)
}

/// Prints both, and whether the p99 is as good as it must be. Below a millisecond a difference is the machine's.
fn report(what: &str, alone: &Samples, beside: &Samples, most: f64) -> bool {
    let (before, after) = (alone.ms(0.99), beside.ms(0.99));
    let ratio = after / before.max(0.001);
    let fine = ratio <= most || after - before < 1.0;
    println!(
        "{what:<8} alone: p50 {:.1} p99 {before:.1} max {:.1} ms; beside the task: p50 {:.1} p99 {after:.1} max {:.1} ms; ratio of p99 {ratio:.2}{}",
        alone.ms(0.5),
        alone.ms(1.0),
        beside.ms(0.5),
        beside.ms(1.0),
        if fine { "" } else { ": too much" }
    );
    fine
}

/// Live leads at an even rate.
struct Live {
    epoch: Epoch,
    rate: u32,
    seconds: Duration,
}

struct Measured {
    sent: u64,
    /// From the due time to the 202.
    answer: Samples,
    /// From the due time to the arrival.
    arrival: Samples,
}

impl Live {
    /// The figures, and how many deliveries arrived that were none of these leads.
    async fn run(&self, host: &Host, sink: &Sink, first: u64, time: Duration) -> Result<(Measured, u64)> {
        sink.reset();
        let load = driver::Load { address: host.address(), key: host.key().to_owned(), epoch: self.epoch, first };
        let run = driver::open(&load, self.rate, time).await?;
        let begun = Instant::now();
        while (sink.tally().latency.count() as u64) < run.sent {
            if begun.elapsed() > PATIENCE {
                bail!("{} of {} live leads arrived", sink.tally().latency.count(), run.sent);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let tally = sink.tally();
        Ok((Measured { sent: run.sent, answer: run.latency, arrival: tally.latency }, tally.distinct - run.sent))
    }
}

async fn seed(file: PathBuf, project: ProjectId, lane: CredentialId, failed: u64) -> Result<()> {
    let store = SqliteStore::open(&file, StoreOptions { max_backlog: u64::MAX, ..StoreOptions::default() }).await?;
    let now = Timestamp::from_millis(SystemClock.now().as_millis() - 3_600_000);
    let mut stored = 0;
    while stored < failed {
        let until = (stored + TOGETHER).min(failed);
        let accepted = (stored..until).map(|n| store.accept(intake(STORED + n, project, lane, now)));
        for done in futures_util::future::join_all(accepted).await {
            done?;
        }
        let quota = LaneQuota { lane, limit: u32::try_from(TOGETHER)? };
        let leased = store.lease(&[quota], now, now.plus(Duration::from_secs(60))).await?;
        let next = Next::End { status: DeliveryStatus::Failed, refs: Vec::new(), url: None };
        let last = Some(("http_503".to_owned(), "the CRM was down".to_owned()));
        let finish = |job| Finish { job, attempts: Vec::new(), last: last.clone(), next: next.clone(), now };
        store.finish(leased.iter().map(|leased| finish(leased.job)).collect()).await?;
        stored = until;
    }
    while store.index_leads(1_000).await? {}
    store.close().await;
    Ok(())
}

fn intake(number: u64, project: ProjectId, lane: CredentialId, now: Timestamp) -> Intake {
    let mut fields = serde_json::Map::new();
    fields.insert("bench_lead".to_owned(), number.into());
    fields.insert("bench_due_us".to_owned(), 0.into());
    Intake {
        lead: Lead {
            id: LeadId::new(now),
            project,
            entity: None,
            external_id: Some(format!("stored-{number}")),
            title: Some("Заявка с сайта".to_owned()),
            name: Some(format!("Иван Петров {number}")),
            company: None,
            phones: Vec::new(),
            emails: vec![format!("ivan.{number}@example.com")],
            comment: Some("Перезвонить после обеда".to_owned()),
            value: None,
            origin: Origin::default(),
            fields,
            created_at: now,
        },
        status: LeadStatus::Accepted,
        dedup: None,
        batch: BatchId::new(now),
        options: BatchOptions::default(),
        deliveries: vec![NewDelivery {
            id: DeliveryId::new(now),
            credential_id: lane,
            channel: "webhook".to_owned(),
            due_at: now,
            settings: None,
        }],
        correlation: String::new(),
        idempotency: None,
        extras: IntakeExtras::default(),
    }
}
