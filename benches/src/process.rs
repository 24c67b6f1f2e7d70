//! Figures of the kernel about processes and this machine, read from `/proc`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::BenchError;

/// The unit of times in `/proc/PID/stat`: fixed at 100 per second for user space on Linux.
const TICK: Duration = Duration::from_millis(10);

/// User and system time of a process with all its threads, dead ones included. To 10 ms.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration, BenchError> {
    times(pid, 11)
}

/// User and system time of all processes that this one has started and waited for. To 10 ms.
pub(crate) fn children_cpu_time() -> Result<Duration, BenchError> {
    times(std::process::id(), 13)
}

/// Two times that follow one another in `/proc/PID/stat`, summed up. `at` counts the fields behind the name.
fn times(pid: u32, at: usize) -> Result<Duration, BenchError> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold spaces; field 3 follows it, 14 and 15 are the process's times, 16 and 17
    // those of its children.
    let (_, fields) = stat.rsplit_once(')').ok_or("no name in /proc/PID/stat")?;
    let ticks = fields
        .split_whitespace()
        .skip(at)
        .take(2)
        .map(str::parse::<u32>)
        .sum::<Result<u32, _>>()?;
    Ok(TICK * ticks)
}

/// Returns the time that all cores of this machine have worked for all processes since its start, to 10 ms.
pub(crate) fn machine_time() -> Result<Duration, BenchError> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().ok_or("/proc/stat is empty")?;
    let mut ticks = Vec::new();
    for field in line.split_whitespace().skip(1) {
        ticks.push(field.parse::<u64>()?);
    }
    // user, nice, system, idle, iowait, irq, softirq: the fourth and the fifth are idle.
    let worked = ticks.iter().take(7).enumerate().filter(|(place, _)| !matches!(*place, 3 | 4));
    let worked: u64 = worked.map(|(_, ticks)| *ticks).sum();
    let tick_ms = u64::try_from(TICK.as_millis()).unwrap_or(u64::MAX);
    Ok(Duration::from_millis(worked.saturating_mul(tick_ms)))
}

/// Returns the bytes that a process has had written to disks, by the kernel's count.
pub(crate) fn written_bytes(pid: u32) -> Result<u64, BenchError> {
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(written.ok_or("no write_bytes in /proc/PID/io")?.trim().parse()?)
}

/// Returns the bytes of all files below a folder. A file that vanishes meanwhile is passed over.
pub(crate) fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => folder_bytes(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}

/// Returns the CPU time of the calling thread.
pub(crate) fn thread_cpu_time() -> Result<Duration, BenchError> {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat")?;
    let ns = schedstat.split_whitespace().next().ok_or("empty /proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(ns.parse()?))
}

/// Memory of a process, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// Everything that is resident.
    pub(crate) resident_kib: u64,
    /// The anonymous part: memory that no file backs.
    pub(crate) anonymous_kib: u64,
    /// The most that was ever resident.
    pub(crate) peak_kib: u64,
}

/// Resident memory of a process as it is now.
pub(crate) fn memory(pid: u32) -> Result<Memory, BenchError> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |name: &str| -> Result<u64, BenchError> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let value = line.and_then(|line| line.split_whitespace().next());
        Ok(value.ok_or_else(|| format!("no {name} in /proc/PID/status"))?.parse()?)
    };
    Ok(Memory {
        resident_kib: kib("VmRSS")?,
        anonymous_kib: kib("RssAnon")?,
        peak_kib: kib("VmHWM")?,
    })
}

/// The machine and the commit that figures belong to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    /// Cores this process may use.
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// The file system below the data, as the kernel calls it.
    pub(crate) filesystem: String,
}

/// Cores this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Describes this machine and the file system below `data_dir`. Unknown values are named as unknown.
pub(crate) fn machine(data_dir: &Path) -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim());
        value.unwrap_or("unknown").to_owned()
    };
    let memory = value(&read("/proc/meminfo"), "MemTotal");
    let memory_kib = memory.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok());
    Machine {
        cpu: value(&read("/proc/cpuinfo"), "model name"),
        cores: cores(),
        memory_mib: memory_kib.unwrap_or(0) / 1024,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        filesystem: filesystem(data_dir).unwrap_or_else(|| "unknown".to_owned()),
    }
}

/// The type of the mount that `path` lies on: the one with the longest matching mount point.
fn filesystem(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (_, point, kind) = (fields.next()?, PathBuf::from(fields.next()?), fields.next()?);
            path.starts_with(&point).then(|| (point.components().count(), kind.to_owned()))
        })
        .max_by_key(|(depth, _)| *depth)
        .map(|(_, kind)| kind)
}

/// The commit that is checked out where this runs, with `+` when files differ from it.
pub(crate) fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => commit + "+",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_about_this_process() {
        let pid = std::process::id();
        let before = (cpu_time(pid).unwrap(), thread_cpu_time().unwrap());
        let mut spent = before;
        while spent.0 == before.0 || spent.1 == before.1 {
            std::hint::black_box(blake3::hash(&[7; 4096]));
            spent = (cpu_time(pid).unwrap(), thread_cpu_time().unwrap());
        }
        assert!(spent.0 > before.0 && spent.1 > before.1);
        let memory = memory(pid).unwrap();
        assert!(memory.anonymous_kib <= memory.resident_kib);
        assert!(memory.resident_kib <= memory.peak_kib);
    }
}
