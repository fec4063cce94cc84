//! The host under test: a process of its own with a fresh data folder, and what an admin does with it before a measure.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::meter::{self, Usage};
use crate::wire::Connection;

/// Only ever used on the loopback interface.
const ADMIN_KEY: &str = "lw_bench0admin0key0bench0admin0key0bench0admin0";
const SIGNING_SECRET: &str = "whsec_W2T7URdALJ/km5Hf5Kyvk2o/MqygU4SyZBpCXT+mAGc=";
/// How long a start may take; the first one compiles the plugins.
const START: Duration = Duration::from_secs(60);
/// How long it has to end after it was asked.
const GRACE: Duration = Duration::from_secs(35);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What to start, and where.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The binary.
    pub binary: PathBuf,
    /// The folder of packed plugins.
    pub channels: PathBuf,
    /// Data folders are made in here.
    pub scratch: PathBuf,
}

/// A running host. Killed when dropped.
pub struct Host {
    child: Child,
    address: SocketAddr,
    admin: Connection,
    /// From the start of the process to its first 200.
    pub started_in: Duration,
}

impl Setup {
    /// A fresh data folder. It shares compiled plugins with the others, as a host does with its next start.
    pub fn folder(&self) -> Result<TempDir> {
        let compiled = self.scratch.join("compiled");
        std::fs::create_dir_all(&compiled)?;
        let folder = tempfile::Builder::new().prefix("data-").tempdir_in(&self.scratch)?;
        std::os::unix::fs::symlink(compiled.canonicalize()?, folder.path().join("compiled"))?;
        Ok(folder)
    }

    /// Starts the host over a data folder.
    pub async fn start(&self, folder: &TempDir, settings: &[(&str, &str)]) -> Result<Host> {
        // The port is free again when the host binds it, unless someone else is quicker: then the start fails.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LEADWIRE_")) {
            command.env_remove(name);
        }
        let master_key = "0b".repeat(32);
        command
            .arg("serve")
            .env("LEADWIRE_LISTEN", address.to_string())
            .env("LEADWIRE_DATA_DIR", folder.path())
            .env("LEADWIRE_CHANNELS_DIR", &self.channels)
            .env("LEADWIRE_ADMIN_KEY", ADMIN_KEY)
            .env("LEADWIRE_MASTER_KEY", master_key)
            .env("LEADWIRE_EGRESS_ALLOW", "127.0.0.0/8")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("host.log"))?);
        let began = Instant::now();
        let child = command.spawn().with_context(|| format!("start {}", self.binary.display()))?;
        let mut host = Host { child, address, admin: Connection::new(address, ADMIN_KEY), started_in: Duration::ZERO };
        loop {
            if let Ok(answer) = host.admin.send("GET", "/healthz", Bytes::new()).await
                && answer.status == 200
            {
                host.started_in = began.elapsed();
                return Ok(host);
            }
            if let Some(status) = host.child.try_wait()? {
                let log = std::fs::read_to_string(folder.path().join("host.log")).unwrap_or_default();
                bail!("the host ended with {status}: {}", log.lines().last().unwrap_or_default());
            }
            if began.elapsed() > START {
                bail!("the host was not up within {} s", START.as_secs());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Host {
    #[allow(missing_docs)]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The admin key.
    pub fn key(&self) -> &'static str {
        ADMIN_KEY
    }

    /// What its process tree uses.
    pub fn usage(&self) -> Result<Usage> {
        meter::tree(self.child.id())
    }

    /// Makes the project that leads go to; its id.
    pub async fn project(&mut self) -> Result<String> {
        let made = self.made("/api/projects", &json!({"external_id": "bench", "name": "Bench"})).await?;
        Ok(made["id"].as_str().context("a project has an id")?.to_owned())
    }

    /// Makes a signed webhook credential; its id.
    pub async fn webhook(&mut self, url: &str) -> Result<String> {
        let body = json!({"channel": "webhook", "name": "Bench", "config": {"url": url}, "secrets": {"signing_secret": SIGNING_SECRET}});
        let made = self.made("/api/projects/ext:bench/credentials", &body).await?;
        Ok(made["id"].as_str().context("a credential has an id")?.to_owned())
    }

    /// Parks a credential: what is sent to it waits.
    pub async fn pause(&mut self, credential: &str) -> Result<()> {
        let answer = self.admin.send("POST", &format!("/api/credentials/{credential}/pause"), Bytes::new()).await?;
        if answer.status != 200 {
            bail!("pause: {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        }
        Ok(())
    }

    /// Whether some delivery has this status.
    async fn any(&mut self, status: &str) -> Result<bool> {
        let answer = self.admin.send("GET", &format!("/api/deliveries?status={status}&limit=1"), Bytes::new()).await?;
        let list: Value = serde_json::from_slice(&answer.body).with_context(|| format!("list of deliveries: {}", answer.status))?;
        Ok(list["data"].as_array().is_none_or(|data| !data.is_empty()))
    }

    /// Waits until every delivery has ended, and says what else than `delivered` there is.
    pub async fn settled(&mut self, patience: Duration) -> Result<Vec<&'static str>> {
        let began = Instant::now();
        loop {
            let open = self.any("queued").await? || self.any("sending").await?;
            if !open || began.elapsed() > patience {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut found = Vec::new();
        for status in ["queued", "sending", "failed", "in_doubt", "skipped", "cancelled"] {
            if self.any(status).await? {
                found.push(status);
            }
        }
        Ok(found)
    }

    /// Starts a task that tries everything again that has failed, at most `rate` a second; its id.
    pub async fn retry_failed(&mut self, rate: u32) -> Result<String> {
        let body = json!({"filter": {"project": "ext:bench", "status": "failed"}, "rate_per_sec": rate});
        let answer = self.admin.send("POST", "/api/deliveries/retry", Bytes::from(body.to_string())).await?;
        if answer.status != 202 {
            bail!("retry: {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        }
        let started: Value = serde_json::from_slice(&answer.body)?;
        Ok(started["task_id"].as_str().context("a task has an id")?.to_owned())
    }

    /// How many rows a task has passed, and whether it has ended.
    pub async fn task(&mut self, id: &str) -> Result<(u64, bool)> {
        let answer = self.admin.send("GET", &format!("/api/tasks/{id}"), Bytes::new()).await?;
        let task: Value = serde_json::from_slice(&answer.body).with_context(|| format!("task: {}", answer.status))?;
        Ok((task["done_count"].as_u64().unwrap_or(0), task["status"] != "running"))
    }

    async fn made(&mut self, path: &str, body: &Value) -> Result<Value> {
        let answer = self.admin.send("POST", path, Bytes::from(body.to_string())).await?;
        if answer.status != 201 {
            bail!("POST {path}: {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        }
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// Asks it to end, and waits.
    pub async fn stop(mut self) -> Result<()> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process has an id")?;
        kill_process(id, Signal::TERM)?;
        let began = Instant::now();
        while began.elapsed() < GRACE {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        bail!("the host did not end within {} s of being asked", GRACE.as_secs())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // One that has ended needs no killing.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}
