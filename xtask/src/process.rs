//! A program that runs beside this one and never outlives it.

use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::{Child, Command};

/// How long a program has to end after it was asked.
const GRACE: Duration = Duration::from_secs(15);

/// A child that is asked to end by [`Companion::stop`] and killed when dropped.
pub struct Companion {
    child: Child,
}

impl Companion {
    /// Starts it.
    pub fn start(command: &mut Command) -> Result<Self> {
        let name = command.as_std().get_program().display().to_string();
        let child = command.kill_on_drop(true).spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { child })
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for it to end by itself.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait().await?)
    }

    /// Asks it to end and kills it when it does not.
    pub async fn stop(mut self) -> Result<()> {
        if let Some(id) = self.child.id() {
            // When the program `kill` is missing, the harder way below remains.
            let _asked = std::process::Command::new("kill").args(["-TERM", &id.to_string()]).status();
        }
        if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
            println!("the host did not end within {} s of being asked; it is killed", GRACE.as_secs());
            self.child.kill().await?;
        }
        Ok(())
    }
}

/// Ends on Ctrl-C or SIGTERM.
pub async fn interrupted() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed?,
        _ = term.recv() => {}
    }
    Ok(())
}
