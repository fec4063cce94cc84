//! How many leads are taken in.

use anyhow::Result;

use super::{Bench, WARM_UP};
use crate::driver::{self, Until};
use crate::report::{Aim, Row};

/// The peer's, at 16 clients.
const PEER_RATE: f64 = 1_781.0;
const PEER_P99_MS: f64 = 18.0;
/// Two and a half times the peer's.
const AIM_RATE: f64 = 4_452.0;

impl Bench {
    /// Leads to one credential that is paused, so that all of what a 202 promises is written and nothing is sent; or
    /// leads that no credential wants.
    pub(super) async fn intake(&mut self, clients: usize, routed: bool) -> Result<()> {
        let mut stage = self.stage(&[]).await?;
        if routed {
            for credential in stage.webhooks(1).await? {
                stage.host.pause(&credential).await?;
            }
        }
        stage.warm_up(0).await?;
        let time = self.seconds(3, 10);
        let before = stage.host.usage()?;
        let run = driver::closed(&stage.load(WARM_UP), clients, Until::Time(time)).await?;
        let after = stage.host.usage()?;
        stage.host.stop().await?;

        let id = format!("intake_{clients}{}", if routed { "" } else { "_unrouted" });
        let name = format!("intake, {clients} client{}{}", if clients == 1 { "" } else { "s" }, if routed { "" } else { ", unrouted" });
        let compared = clients == 16 && routed;
        let kind = if routed { "1 paused webhook credential" } else { "no credential" };
        let method = format!("closed loop, {} s, {kind}, 202 after the synced commit", time.as_secs());
        let peer = |figure| compared.then_some(figure);
        self.rows.push(
            Row::new(&id, &name, run.rate(), "leads/s", method).peer(peer(PEER_RATE)).aim(compared.then_some(Aim::AtLeast(AIM_RATE))),
        );
        self.rows.push(Row::new(format!("{id}_p50"), format!("{name}: p50"), run.latency.ms(0.5), "ms", "request to answer"));
        self.rows.push(
            Row::new(format!("{id}_p99"), format!("{name}: p99"), run.latency.ms(0.99), "ms", "request to answer").peer(peer(PEER_P99_MS)),
        );
        let cpu = (after.cpu - before.cpu).as_secs_f64() * 1_000.0 / run.sent as f64;
        self.rows.push(Row::new(format!("{id}_cpu"), format!("{name}: CPU"), cpu, "s/1,000", "host's process tree, per 1,000 leads"));
        let grown = format!("PSS grown over {} leads", run.sent);
        self.rows.push(Row::new(format!("{id}_grown"), format!("{name}: growth"), after.pss_mib - before.pss_mib, "MiB", grown));
        Ok(())
    }
}
