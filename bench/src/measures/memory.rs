//! Memory of a host that has nothing to do, and of one with a thousand calls in flight.

use std::time::Duration;

use anyhow::{Result, bail};

use super::{Bench, PATIENCE, WARM_UP};
use crate::driver::{self, Until};
use crate::report::{Aim, Row};

const PEER_IDLE_MIB: f64 = 167.0;
const AIM_IDLE_MIB: f64 = 80.0;
/// 63 credentials with the webhook channel's 16 calls at once.
const LANES: usize = 63;
const CALLS_PER_LANE: u64 = 16;
const IN_FLIGHT: u64 = LANES as u64 * CALLS_PER_LANE;

impl Bench {
    pub(super) async fn memory(&mut self) -> Result<()> {
        let stage = self.stage(&[]).await?;
        tokio::time::sleep(self.seconds(1, 5)).await;
        let idle = stage.host.usage()?;
        stage.host.stop().await?;
        let method = "after the start with the three channels' plugins loaded, PSS of the process tree";
        self.rows
            .push(Row::new("memory_idle", "memory idle", idle.pss_mib, "MiB", method).peer(PEER_IDLE_MIB).aim(Aim::AtMost(AIM_IDLE_MIB)));
        self.rows.push(Row::new("memory_idle_rss", "memory idle: RSS", idle.rss_mib, "MiB", "same moment"));

        let mut stage = self.stage(&[("LEADWIRE_MAX_CALLS", "1400")]).await?;
        stage.webhooks(LANES).await?;
        let before = stage.host.usage()?;
        stage.sink.hold(true);
        driver::closed(&stage.load(WARM_UP), 4, Until::Count(CALLS_PER_LANE)).await?;
        if !stage.sink.wait_held(IN_FLIGHT, Duration::from_secs(20)).await {
            bail!("{} of {IN_FLIGHT} calls were in flight at once", stage.sink.held());
        }
        let busy = stage.host.usage()?;
        stage.sink.hold(false);
        stage.sink.wait(IN_FLIGHT, PATIENCE).await;
        self.check(&mut stage, "calls in flight", IN_FLIGHT).await?;
        let after = stage.host.usage()?;
        stage.host.stop().await?;
        let method = format!("{IN_FLIGHT} webhook calls wait for their answers ({LANES} credentials), PSS");
        self.rows.push(Row::new("memory_1000", "memory, 1,000 calls in flight", busy.pss_mib, "MiB", method));
        let per_call = (busy.pss_mib - before.pss_mib) * 1024.0 / IN_FLIGHT as f64;
        self.rows.push(Row::new("memory_per_call", "memory per call in flight", per_call, "KiB", "its connection included"));
        self.rows.push(Row::new("memory_after", "memory after those calls", after.pss_mib, "MiB", "all answered and recorded, PSS"));
        Ok(())
    }
}
