//! Leads all the way to the receiver: how many a second, at what cost, and after how long.

use std::time::Duration;

use anyhow::Result;

use super::{Bench, PATIENCE, Stage, WARM_UP};
use crate::driver::{self, Until};
use crate::meter;
use crate::report::{Aim, Row};
use crate::sink::Tally;

/// Of the peer, and what we want: one figure for a fan of 1, one for a fan of 5 (or 100/s, 500/s).
struct Bounds {
    peer: f64,
    aim: Option<f64>,
}

fn rate_bounds(fan: u64) -> Bounds {
    Bounds { peer: if fan == 1 { 836.0 } else { 1_878.0 }, aim: None }
}

fn cpu_bounds(fan: u64) -> Bounds {
    if fan == 1 { Bounds { peer: 2.10, aim: Some(0.5) } } else { Bounds { peer: 0.86, aim: Some(0.28) } }
}

fn p50_bounds(rate: u32) -> Bounds {
    Bounds { peer: if rate == 100 { 3.7 } else { 4.0 }, aim: None }
}

fn p99_bounds(rate: u32) -> Bounds {
    if rate == 100 { Bounds { peer: 8.1, aim: Some(8.0) } } else { Bounds { peer: 80.0, aim: Some(20.0) } }
}

fn bounded(row: Row, bounds: &Bounds) -> Row {
    row.peer(bounds.peer).aim(bounds.aim.map(Aim::AtMost))
}

impl Bench {
    /// As many leads as 16 clients get accepted, each to `fan` credentials, until the sink has them all.
    pub(super) async fn deliveries(&mut self, fan: u64) -> Result<()> {
        let mut stage = self.stage(&[]).await?;
        stage.webhooks(fan as usize).await?;
        stage.warm_up(fan).await?;
        let leads = match (self.quick, fan) {
            (true, 1) => 4_000,
            (true, _) => 1_500,
            (false, 1) => 20_000,
            (false, _) => 8_000,
        };
        let (before, own) = (stage.host.usage()?, meter::own_cpu()?);
        let run = driver::closed(&stage.load(WARM_UP), 16, Until::Count(leads)).await?;
        let tally = stage.sink.wait(leads * fan, Duration::from_secs(120)).await;
        let own = meter::own_cpu()? - own;
        self.check(&mut stage, &format!("deliveries ×{fan}"), leads * fan).await?;
        let after = stage.host.usage()?;
        stage.host.stop().await?;

        let deliveries = (leads * fan) as f64;
        let seconds = tally.last_us.saturating_sub(run.began_us) as f64 / 1e6;
        let cpu = (after.cpu - before.cpu).as_secs_f64() * 1_000.0 / deliveries;
        let name = format!("deliveries ×{fan}");
        let method = format!("{leads} leads by 16 clients, to the last arrival; each arrived once");
        self.rows.push(bounded(Row::new(format!("deliveries_{fan}"), &name, deliveries / seconds, "/s", method), &rate_bounds(fan)));
        let beside = own.as_secs_f64() * 1_000.0 / deliveries;
        let method = format!("host's process tree, intake included, until all is recorded; driver and sink took {beside:.2} beside it");
        self.rows
            .push(bounded(Row::new(format!("deliveries_{fan}_cpu"), format!("{name}: CPU"), cpu, "s/1,000", method), &cpu_bounds(fan)));
        let intake = "intake while delivering";
        self.rows.push(Row::new(format!("deliveries_{fan}_intake"), format!("{name}: intake"), run.rate(), "leads/s", intake));
        let grown = "PSS when all is recorded";
        self.rows.push(Row::new(format!("deliveries_{fan}_pss"), format!("{name}: memory after"), after.pss_mib, "MiB", grown));
        Ok(())
    }

    /// `rate` leads a second to one credential.
    pub(super) async fn latency(&mut self, rate: u32) -> Result<()> {
        let mut stage = self.stage(&[]).await?;
        stage.webhooks(1).await?;
        stage.warm_up(1).await?;
        let time = self.seconds(4, 20);
        let before = stage.host.usage()?;
        let run = driver::open(&stage.load(WARM_UP), rate, time).await?;
        let tally = stage.sink.wait(run.sent, PATIENCE).await;
        self.check(&mut stage, &format!("latency at {rate}/s"), run.sent).await?;
        let after = stage.host.usage()?;
        stage.host.stop().await?;

        let (name, late) = (format!("end to end at {rate}/s"), run.late.as_secs_f64() * 1_000.0);
        let method = format!("open loop, {} s, due time to arrival; driver late by {late:.1} ms at most", time.as_secs());
        let latency = |share| tally.latency.ms(share);
        self.rows
            .push(bounded(Row::new(format!("latency_{rate}_p50"), format!("{name}: p50"), latency(0.5), "ms", method), &p50_bounds(rate)));
        self.rows.push(bounded(
            Row::new(format!("latency_{rate}_p99"), format!("{name}: p99"), latency(0.99), "ms", "same run"),
            &p99_bounds(rate),
        ));
        self.rows.push(Row::new(format!("latency_{rate}_max"), format!("{name}: max"), latency(1.0), "ms", "same run"));
        let cpu = (after.cpu - before.cpu).as_secs_f64() * 1_000.0 / run.sent as f64;
        self.rows.push(Row::new(format!("latency_{rate}_cpu"), format!("{name}: CPU"), cpu, "s/1,000", "same run, host's process tree"));
        Ok(())
    }

    /// Every lead once, and the host says the same.
    pub(super) async fn check(&mut self, stage: &mut Stage, name: &str, wanted: u64) -> Result<()> {
        let left = stage.host.settled(PATIENCE).await?;
        let Tally { arrivals, distinct, .. } = stage.sink.tally();
        if distinct != wanted {
            self.problems.push(format!("{name}: {distinct} of {wanted} deliveries arrived"));
        }
        if arrivals != distinct {
            self.problems.push(format!("{name}: {} deliveries arrived again", arrivals - distinct));
        }
        if !left.is_empty() {
            self.problems.push(format!("{name}: some deliveries ended up {}", left.join(", ")));
        }
        Ok(())
    }
}
