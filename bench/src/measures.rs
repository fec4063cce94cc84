//! The measures, each on a host of its own with a fresh data folder.

mod calls;
mod deliveries;
mod intake;
mod memory;
mod startup;

use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;

use crate::driver::{self, Load, Until};
use crate::epoch::Epoch;
use crate::host::{Host, Setup};
use crate::report::Row;
use crate::sink::Sink;

/// Leads sent before a measure: they open connections and fill caches.
const WARM_UP: u64 = 200;
/// Longest wait for what should arrive at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs them all.
pub struct Bench {
    #[allow(missing_docs)]
    pub setup: Setup,
    /// Short runs.
    pub quick: bool,
    /// Only measures whose name contains this.
    pub only: Option<String>,
    #[allow(missing_docs)]
    pub rows: Vec<Row>,
    /// Anything lost, doubled or failed.
    pub problems: Vec<String>,
    /// Told as it goes.
    pub tell: fn(&str),
}

/// A host with a project, a sink, and the folder they live in.
struct Stage {
    host: Host,
    sink: Sink,
    epoch: Epoch,
    _folder: TempDir,
}

impl Bench {
    /// Runs every measure; one that fails is a problem and does not keep the others from running.
    pub async fn run(&mut self) {
        for clients in [1, 16, 64] {
            if self.wanted("intake", &format!("intake, {clients} clients")) {
                let done = self.intake(clients, true).await;
                self.note("intake", done);
            }
        }
        if self.wanted("intake", "intake without credentials") {
            let done = self.intake(16, false).await;
            self.note("intake", done);
        }
        for fan in [1, 5] {
            if self.wanted("deliveries", &format!("deliveries ×{fan}")) {
                let done = self.deliveries(fan).await;
                self.note("deliveries", done);
            }
        }
        for rate in [100, 500] {
            if self.wanted("latency", &format!("latency at {rate}/s")) {
                let done = self.latency(rate).await;
                self.note("latency", done);
            }
        }
        if self.wanted("memory", "memory") {
            let done = self.memory().await;
            self.note("memory", done);
        }
        if self.wanted("start-up", "start-up") {
            let done = self.start_up().await;
            self.note("start-up", done);
        }
        if self.wanted("calls", "plugin calls") {
            let done = self.calls().await;
            self.note("calls", done);
        }
    }

    fn wanted(&self, name: &str, shown: &str) -> bool {
        let wanted = self.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
        if wanted {
            (self.tell)(shown);
        }
        wanted
    }

    fn note(&mut self, name: &str, done: Result<()>) {
        if let Err(error) = done {
            self.problems.push(format!("{name}: {error:#}"));
        }
    }

    /// `short` for `--quick`.
    fn seconds(&self, short: u64, full: u64) -> Duration {
        Duration::from_secs(if self.quick { short } else { full })
    }

    async fn stage(&self, settings: &[(&str, &str)]) -> Result<Stage> {
        let epoch = Epoch::begin();
        let folder = self.setup.folder()?;
        let sink = Sink::start(epoch)?;
        let mut host = self.setup.start(&folder, settings).await?;
        host.project().await?;
        Ok(Stage { host, sink, epoch, _folder: folder })
    }
}

impl Stage {
    fn load(&self, first: u64) -> Load {
        Load { address: self.host.address(), key: self.host.key().to_owned(), epoch: self.epoch, first }
    }

    /// Makes one credential for each path of the sink.
    async fn webhooks(&mut self, count: usize) -> Result<Vec<String>> {
        let mut made = Vec::new();
        for path in 0..count {
            let url = self.sink.url(path);
            made.push(self.host.webhook(&url).await?);
        }
        Ok(made)
    }

    /// Sends the first leads and waits for what they cause; then the sink is empty again.
    async fn warm_up(&mut self, fan: u64) -> Result<()> {
        driver::closed(&self.load(0), 4, Until::Count(WARM_UP)).await?;
        self.sink.wait(WARM_UP * fan, PATIENCE).await;
        if fan > 0 {
            self.host.settled(PATIENCE).await?;
        }
        self.sink.reset();
        Ok(())
    }
}
