//! The host of the demo: started with a data folder of its own, never left behind.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::api::Api;
use super::receivers::Receivers;
use crate::process::Companion;

/// Starting takes well under a second; the first start also compiles the plugins.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running host.
pub struct Host {
    process: Companion,
    data: PathBuf,
    log: PathBuf,
    port: u16,
}

/// Fails with advice when the port is in use.
pub fn check_port(port: u16) -> Result<()> {
    match TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Ok(()),
        Err(error) => bail!("port {port} cannot be used ({error}); stop what uses it, or choose another with `--port N`"),
    }
}

impl Host {
    /// Starts the host and waits until it is ready.
    pub async fn start(binary: &Path, data: &Path, port: u16, receivers: &Receivers) -> Result<Self> {
        check_port(port)?;
        fs::create_dir_all(data)?;
        let log = data.join("host.log");
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut command = Command::new(binary);
        command
            .arg("serve")
            .env("LEADWIRE_LISTEN", format!("127.0.0.1:{port}"))
            .env("LEADWIRE_DATA_DIR", data)
            .env("LEADWIRE_CHANNELS_DIR", data.join("channels"))
            // The receivers are on this machine, where plugins may not go by default, and speak no TLS.
            .env("LEADWIRE_EGRESS_ALLOW", "127.0.0.0/8,::1/128")
            .env("LEADWIRE_EGRESS_REWRITE", format!("api.telegram.org={}", receivers.bot.base_url()))
            .env("LEADWIRE_SMTP_ALLOW_PLAIN", "true")
            // A key of the developer's own shell must not end up in the demo.
            .env_remove("LEADWIRE_ADMIN_KEY")
            .env_remove("LEADWIRE_ADMIN_KEY_FILE")
            .stdin(std::process::Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let mut host = Self { process: Companion::start(&mut command)?, data: data.to_path_buf(), log, port };
        host.ready().await?;
        Ok(host)
    }

    async fn ready(&mut self) -> Result<()> {
        let api = Api::new(self.url(), String::new())?;
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        let started = std::time::Instant::now();
        while !api.is_ready().await {
            ticks.tick().await;
            if let Some(status) = self.process.ended()? {
                bail!("the host ended with {status} while starting\n{}", self.log_tail());
            }
            if started.elapsed() > START_LIMIT {
                bail!("the host is not ready after {} s ({}/readyz)\n{}", START_LIMIT.as_secs(), self.url(), self.log_tail());
            }
        }
        Ok(())
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(20)..].join("\n    ");
        format!("the end of {}:\n    {tail}", crate::shown(&self.log))
    }

    /// The HTTP interface, with the admin key that the host made.
    pub fn api(&self) -> Result<Api> {
        let file = self.key_file();
        let key = fs::read_to_string(&file).with_context(|| format!("read the admin key from {}", file.display()))?;
        Api::new(self.url(), key.trim().to_owned())
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The file with the admin key.
    pub fn key_file(&self) -> PathBuf {
        self.data.join("admin.key")
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The file with its output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Waits for the host to end by itself.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        self.process.wait().await
    }

    /// Ends the host.
    pub async fn stop(self) -> Result<()> {
        self.process.stop().await
    }
}
