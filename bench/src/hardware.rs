//! What the figures were measured on.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::percentile::median;

/// A machine.
#[derive(Debug, Clone, Serialize)]
pub struct Hardware {
    /// The processor's name.
    pub cpu: String,
    #[allow(missing_docs)]
    pub cores: usize,
    #[allow(missing_docs)]
    pub memory_gib: f64,
    #[allow(missing_docs)]
    pub kernel: String,
    /// File system that the data folders are on.
    pub file_system: String,
    /// Time of one small write that is surely on disk (median); intake waits for one per group of leads.
    pub sync_ms: f64,
    /// Load of the machine over the minute before: above one or so, others disturb the figures.
    pub load: f64,
}

impl Hardware {
    /// Looks around. `data` is the folder that data folders are made in.
    pub fn read(data: &Path) -> Result<Self> {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (info, memory) = (text("/proc/cpuinfo"), text("/proc/meminfo"));
        let after = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim_start_matches([' ', '\t', ':']).to_owned()
        };
        let kib: f64 = after(&memory, "MemTotal").split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or_default();
        Ok(Self {
            cpu: after(&info, "model name"),
            cores: std::thread::available_parallelism()?.get(),
            memory_gib: (kib / 1024.0 / 1024.0).round(),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system(&text("/proc/mounts"), &fs::canonicalize(data)?),
            sync_ms: sync_ms(data)?,
            load: text("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default(),
        })
    }

    /// In one line.
    pub fn line(&self) -> String {
        format!(
            "{} · {} cores · {} GiB · Linux {} · {}, {:.2} ms per synced write · load {:.2}",
            self.cpu, self.cores, self.memory_gib, self.kernel, self.file_system, self.sync_ms, self.load
        )
    }
}

/// The mount with the longest path that the folder is below.
fn file_system(mounts: &str, folder: &Path) -> String {
    let mounts = mounts.lines().filter_map(|line| {
        let mut parts = line.split(' ');
        let (_device, path, kind) = (parts.next()?, parts.next()?, parts.next()?);
        folder.starts_with(path).then_some((path.len(), kind))
    });
    mounts.max_by_key(|(length, _)| *length).map_or_else(|| "?".into(), |(_, kind)| kind.to_owned())
}

fn sync_ms(folder: &Path) -> Result<f64> {
    let path = folder.join("sync.probe");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
    let mut times = Vec::new();
    // Over itself, as a database writes its journal once the file has its size.
    for _ in 0..100 {
        let began = Instant::now();
        file.write_all_at(&[0; 4096], 0)?;
        file.sync_data()?;
        times.push(began.elapsed().as_secs_f64() * 1_000.0);
    }
    fs::remove_file(&path)?;
    Ok(median(times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_counts() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n";
        assert_eq!(file_system(mounts, Path::new("/tmp/x")), "tmpfs");
        assert_eq!(file_system(mounts, Path::new("/tmpx")), "ext4");
    }
}
