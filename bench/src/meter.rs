//! What a process and its children use, from `/proc`.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Use of a process tree.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Of all its threads, ended ones and reaped children too.
    pub cpu: Duration,
    #[allow(missing_docs)]
    pub rss_mib: f64,
    /// Like RSS, with each shared page divided among its users.
    pub pss_mib: f64,
}

struct Process {
    parent: u32,
    own_ticks: u64,
    /// With those of children that have ended.
    ticks: u64,
}

/// What the tree under `root` uses now.
pub fn tree(root: u32) -> Result<Usage> {
    let all = processes()?;
    let mut members = vec![root];
    let mut at = 0;
    while let Some(&parent) = members.get(at) {
        members.extend(all.iter().filter(|(_, process)| process.parent == parent).map(|(id, _)| *id));
        at += 1;
    }
    let mut usage = Usage::default();
    let mut ticks = 0;
    for id in members {
        let process = all.get(&id).with_context(|| format!("process {id} has ended"))?;
        ticks += process.ticks;
        usage.rss_mib += kib(&format!("/proc/{id}/status"), "VmRSS:") / 1024.0;
        usage.pss_mib += kib(&format!("/proc/{id}/smaps_rollup"), "Pss:") / 1024.0;
    }
    usage.cpu = seconds(ticks);
    Ok(usage)
}

/// CPU time of this process alone: of driver and sink.
pub fn own_cpu() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    parse(&stat).map(|process| seconds(process.own_ticks)).context("read /proc/self/stat")
}

fn seconds(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn processes() -> Result<HashMap<u32, Process>> {
    let ids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    Ok(ids.filter_map(|id| Some((id, parse(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)?))).collect())
}

/// The command's name may hold spaces and brackets: the fields start after its last closing bracket.
fn parse(stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let parent = u32::try_from(number(1)?).ok()?;
    // utime and stime, then the same of reaped children
    let own_ticks = number(11)? + number(12)?;
    Some(Process { parent, own_ticks, ticks: own_ticks + number(13)? + number(14)? })
}

fn kib(path: &str, field: &str) -> f64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read() {
        let process = parse("12 (a) b (c)) S 7 12 12 0 -1 4194304 1 2 3 4 100 20 3 1 20 0 1 0 5 6 7").unwrap();
        assert_eq!((process.parent, process.own_ticks, process.ticks), (7, 120, 124));
    }

    #[test]
    fn this_process_uses_memory() {
        let usage = tree(std::process::id()).unwrap();
        assert!(usage.rss_mib > 0.5 && usage.pss_mib > 0.1, "{usage:?}");
    }
}
