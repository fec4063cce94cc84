//! How soon a started host answers.

use anyhow::Result;

use super::Bench;
use crate::percentile::median;
use crate::report::{Aim, Row};

const PEER_S: f64 = 0.07;
const AIM_S: f64 = 0.25;

impl Bench {
    pub(super) async fn start_up(&mut self) -> Result<()> {
        let folder = self.setup.folder()?;
        // The first start over a folder makes the database; it is not counted.
        let first = self.setup.start(&folder, &[]).await?;
        let fresh = first.started_in.as_secs_f64();
        first.stop().await?;
        let mut times = Vec::new();
        for _ in 0..if self.quick { 3 } else { 9 } {
            let host = self.setup.start(&folder, &[]).await?;
            times.push(host.started_in.as_secs_f64());
            host.stop().await?;
        }
        let method = format!("process start to the first 200 of /healthz, plugins compiled before, median of {}", times.len());
        self.rows.push(Row::new("start_up", "start-up", median(times), "s", method).peer(PEER_S).aim(Aim::AtMost(AIM_S)));
        self.rows.push(Row::new("start_up_fresh", "start-up, new data folder", fresh, "s", "makes the database; plugins compiled before"));
        Ok(())
    }
}
