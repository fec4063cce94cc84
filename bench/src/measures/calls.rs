//! One plugin call. Needs the host as a library, so another program measures it and hands its rows over.

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::Bench;
use crate::report::Row;

impl Bench {
    pub(super) async fn calls(&mut self) -> Result<()> {
        let program = std::env::current_exe()?.with_file_name("leadwire-bench-calls");
        if !program.exists() {
            bail!("{} is not built; it comes with the feature `calls`", program.display());
        }
        let mut command = Command::new(&program);
        command.arg("--channels").arg(&self.setup.channels).arg("--scratch").arg(&self.setup.scratch).kill_on_drop(true);
        if self.quick {
            command.arg("--quick");
        }
        let output = command.output().await.with_context(|| format!("start {}", program.display()))?;
        if !output.status.success() {
            bail!("{} ended with {}: {}", program.display(), output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        self.rows.extend(serde_json::from_slice::<Vec<Row>>(&output.stdout).context("read what it measured")?);
        Ok(())
    }
}
